//! `larder demo`: the whole story on loopback, with a real upstream that the program itself serves.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::args::{ImageArgs, SyncArgs};
use super::inputs::Inputs;
use super::printer::{Paint, Printer};
use super::progress::size;
use super::sync;
use super::{Exit, UsageError};
use crate::Error;
use crate::demo::{self, MemoryRegistry};
use crate::report::RunReport;
use crate::serve::{ByteMeter, ServeOptions, Server, Traffic};

/// The first line of the demo's larder.toml, by which a folder is known to be the demo's own.
const MARK: &str = "# Written by `larder demo`; the next demo replaces it.\n";

/// Between chunks of a blob, so that the bars can be watched on a machine that would be done at once.
const CHUNK_DELAY: Duration = Duration::from_millis(2);

pub(super) async fn run(dir: &Path, printer: &Printer) -> Result<Exit, UsageError> {
    let shelf = Arc::new(MemoryRegistry::stock());
    let any_port = (Ipv4Addr::LOCALHOST, 0).into();
    let server =
        Server::bind(any_port, Arc::clone(&shelf) as _, ServeOptions { chunk_delay: Some(CHUNK_DELAY), ..ServeOptions::default() })
            .await
            .map_err(UsageError::failed)?;
    let (upstream, meter) = (server.addr().to_string(), server.meter());
    let serving = tokio::spawn(server.run_until(std::future::pending()));
    let config = prepare(dir, &upstream).map_err(UsageError::usage)?;

    let sharing = shelf.layers_shared();
    let step = |n: u8, text: String| printer.say(&format!("\n{} {text}", printer.paint(Paint::Good, &format!("[{n}]"))));
    step(
        1,
        format!(
            "An upstream is open at {upstream}: {} images in {} repositories, {}.",
            shelf.images().len(),
            shelf.repositories().len(),
            size(shelf.bytes())
        ),
    );
    step(2, format!("A cold run: larder sync -c {}", config.display()));
    let (cold, cold_traffic) = measured(&config, dir, &meter, printer).await?;
    if cold.exit != 0 {
        // Interrupted, or the disk is full: there is no story to tell.
        return Ok(Exit::of(cold.exit));
    }
    step(3, "The same command again, with nothing new upstream:".to_owned());
    let (warm, warm_traffic) = measured(&config, dir, &meter, printer).await?;
    serving.abort();

    printer.data(&story(dir, &sharing, (&cold, cold_traffic), (&warm, warm_traffic)));
    let as_expected = cold.exit == 0 && warm.exit == 0 && warm.totals.current == warm.totals.images && warm_traffic.manifest_gets == 0;
    Ok(if as_expected { Exit::Done } else { Exit::Failed })
}

/// One run, and what the upstream saw of it.
async fn measured(config: &Path, dir: &Path, meter: &Arc<ByteMeter>, printer: &Printer) -> Result<(RunReport, Traffic), UsageError> {
    let before = meter.read();
    let selection = ImageArgs::default();
    let args = SyncArgs {
        selection,
        report: vec![],
        failed: None,
        metrics: None,
        lock: None,
        frozen: false,
        verify_warm: false,
        recheck: false,
        state: Some(dir.join("state")),
        until: None,
        max_wait: None,
        bandwidth: None,
    };
    let inputs = Inputs::read(Some(config), &args.selection)?;
    let report = sync::sync(inputs, &args, None, printer).await?;
    Ok((report, meter.read().since(before)))
}

/// Writes list and configuration into `dir`, and clears away what an earlier demo left there.
fn prepare(dir: &Path, upstream: &str) -> Result<std::path::PathBuf, Error> {
    let config = dir.join("larder.toml");
    let io = |path: &Path| {
        let path = path.to_owned();
        move |error: std::io::Error| Error::io("prepare demo", &path, &error)
    };
    if dir.exists() {
        let known = std::fs::read_to_string(&config).is_ok_and(|text| text.starts_with(MARK));
        let empty = std::fs::read_dir(dir).map_err(io(dir))?.next().is_none();
        if !known && !empty {
            let error = Error::local("prepare demo", format!("{} exists and is no demo's folder", dir.display()));
            return Err(error.remedy("give another folder with --dir"));
        }
        for left in ["store", "state"].map(|name| dir.join(name)).iter().filter(|left| left.exists()) {
            std::fs::remove_dir_all(left).map_err(io(left))?;
        }
    }
    std::fs::create_dir_all(dir).map_err(io(dir))?;
    std::fs::write(&config, format!("{MARK}{}", demo::config(upstream, "images.csv", "store"))).map_err(io(&config))?;
    let list = dir.join("images.csv");
    std::fs::write(&list, demo::list(upstream)).map_err(io(&list))?;
    Ok(config)
}

fn story(dir: &Path, sharing: &demo::Sharing, cold: (&RunReport, Traffic), warm: (&RunReport, Traffic)) -> String {
    let dir = dir.display();
    let (cold, cold_traffic) = cold;
    let (warm, warm_traffic) = warm;
    format!(
        "\nWhat was seen\n\
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
