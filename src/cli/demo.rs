//! `larder demo`: a cold run and a run with nothing to do, against an upstream that larder itself serves on loopback.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::exit::{Exit, UsageError};
use super::inputs::Inputs;
use super::printer::{Paint, Printer};
use super::sync::{self, SyncArgs};
use super::text::size;
use crate::demo::{self, MemoryRegistry};
use crate::report::RunReport;
use crate::serve::{ByteMeter, ServeOptions, Server, Traffic};
use crate::{Error, Operation};

/// The first line of the demo's larder.toml. Only a folder with it is cleaned up.
const HEADER: &str = "# Written by `larder demo`; the next demo replaces it.\n";

/// Delay between chunks of a blob: without it a fast machine is done before the bars can be seen.
const CHUNK_DELAY: Duration = Duration::from_millis(2);

pub(super) async fn run(dir: &Path, printer: &Printer) -> Result<Exit, UsageError> {
    let images = Arc::new(MemoryRegistry::demo_upstream());
    let any_port = (Ipv4Addr::LOCALHOST, 0).into();
    let server =
        Server::bind(any_port, Arc::clone(&images) as _, ServeOptions { chunk_delay: Some(CHUNK_DELAY), ..ServeOptions::default() })
            .await
            .map_err(UsageError::failed)?;
    let (upstream, meter) = (server.addr().to_string(), server.meter());
    let serving = tokio::spawn(server.run_until(std::future::pending()));
    let config = prepare(dir, &upstream).map_err(UsageError::usage)?;

    let sharing = images.layers_shared();
    let step = |n: u8, text: String| printer.say(&format!("\n{} {text}", printer.paint(Paint::Good, &format!("[{n}]"))));
    step(
        1,
        format!(
            "An upstream is open at {upstream}: {} images in {} repositories, {}.",
            images.images().len(),
            images.repositories().len(),
            size(images.bytes())
        ),
    );
    step(2, format!("A cold run: larder sync -c {}", config.display()));
    let (cold, cold_traffic) = measured(&config, dir, &meter, printer).await?;
    if cold.exit != 0 {
        // Interrupted, or the disk is full: there is nothing to compare.
        return Ok(Exit::of(cold.exit));
    }
    step(3, "The same command again, with nothing new upstream:".to_owned());
    let (warm, warm_traffic) = measured(&config, dir, &meter, printer).await?;
    serving.abort();

    printer.data(&summary(dir, &sharing, (&cold, cold_traffic), (&warm, warm_traffic)));
    let as_expected = cold.exit == 0 && warm.exit == 0 && warm.totals.current == warm.totals.images && warm_traffic.manifest_gets == 0;
    Ok(if as_expected { Exit::Done } else { Exit::Failed })
}

/// One run, and the traffic that the upstream counted during it.
async fn measured(config: &Path, dir: &Path, meter: &Arc<ByteMeter>, printer: &Printer) -> Result<(RunReport, Traffic), UsageError> {
    let before = meter.read();
    let args = SyncArgs { state: Some(dir.join("state")), ..SyncArgs::default() };
    let inputs = Inputs::read(Some(config), &args.selection)?;
    let report = sync::sync(inputs, &args, None, printer).await?;
    Ok((report, meter.read().since(before)))
}

/// Writes list and configuration into `dir`, and removes the files of an earlier demo.
fn prepare(dir: &Path, upstream: &str) -> Result<std::path::PathBuf, Error> {
    let config = dir.join("larder.toml");
    let io = |path: &Path| {
        let path = path.to_owned();
        move |error: std::io::Error| Error::io(Operation::PrepareDemo, &path, &error)
    };
    if dir.exists() {
        let known = std::fs::read_to_string(&config).is_ok_and(|text| text.starts_with(HEADER));
        let empty = std::fs::read_dir(dir).map_err(io(dir))?.next().is_none();
        if !known && !empty {
            let error = Error::local(Operation::PrepareDemo, format!("{} exists and was not made by larder demo", dir.display()));
            return Err(error.remedy("give another folder with --dir"));
        }
        for left in ["store", "state"].map(|name| dir.join(name)).iter().filter(|left| left.exists()) {
            std::fs::remove_dir_all(left).map_err(io(left))?;
        }
    }
    std::fs::create_dir_all(dir).map_err(io(dir))?;
    std::fs::write(&config, format!("{HEADER}{}", demo::config(upstream, "images.csv", "store"))).map_err(io(&config))?;
    let list = dir.join("images.csv");
    std::fs::write(&list, demo::list(upstream)).map_err(io(&list))?;
    Ok(config)
}

fn summary(dir: &Path, sharing: &demo::Sharing, cold: (&RunReport, Traffic), warm: (&RunReport, Traffic)) -> String {
    let dir = dir.display();
    let (cold, cold_traffic) = cold;
    let (warm, warm_traffic) = warm;
    format!(
        "\nWhat happened\n\
         \x20 cold run   {} images delivered: {} manifests and {} blobs were read, {} in all. Layers that\n\
         \x20            several images share were read once: {} transfers and {} saved.\n\
         \x20 second run {} of {} images were current: {} HEAD requests, {} manifest GETs (pulls), {} bytes of blobs.\n\
         \x20 {dir}/larder.toml  the cache rules and the target\n\
         \x20 {dir}/images.csv   the image list\n\
         \x20 {dir}/store        the layout that was filled\n\
         Look around:\n\
         \x20 larder verify {dir}/store\n\
         \x20 larder rules explain -c {dir}/larder.toml {}\n\
         \x20 skopeo inspect oci:{dir}/store:library/alpine:3.20\n",
        cold.totals.copied,
        cold_traffic.manifest_gets,
        cold_traffic.blob_gets,
        size(cold_traffic.blob_bytes),
        sharing.named - sharing.distinct,
        size(sharing.named_bytes - sharing.distinct_bytes),
        warm.totals.current,
        warm.totals.images,
        warm_traffic.manifest_heads,
        warm_traffic.manifest_gets,
        warm_traffic.blob_bytes,
        cold.images.first().map_or("library/alpine", |image| image.source.as_str()),
    )
}
