//! A panic fails the image in which it happens, and nothing else. It is never reported as "interrupted".

use std::path::Path;
use std::sync::Arc;

use crate::support::corpus::{ImageSpec, image, simple};
use crate::support::fake::Fake;
use crate::support::layer::layer;
use crate::support::program::{Program, configuration};
use larder::bundle::import::{Import, ImportOptions};
use larder::bundle::interchange::NameMapping;
use larder::bundle::read::BundleReader;
use larder::config::{Config, TargetConfig};
use larder::list::parse_bytes;
use larder::report::{Event, ImageOutcome, Reporter, Status, Totals};
use larder::sync::{Depth, KnownDates, Sync, SyncOptions, UpstreamOptions, Upstreams, WrongContent, listed, prove};
use tokio_util::sync::CancellationToken;

/// Panics when a blob of so many bytes is about to be moved.
struct PanicsAt(u64);

impl Reporter for PanicsAt {
    fn event(&self, event: &Event<'_>) {
        if let Event::Expected { bytes } = event {
            assert!(*bytes != self.0, "a blob of {bytes} bytes");
        }
    }
}

struct Ends {
    config: Config,
    supply: Arc<Upstreams>,
    target: larder::sync::TargetStore,
}

async fn ends(upstream: &Fake, target: &Fake) -> Ends {
    let config = Config::parse(&configuration(&target.addr(), &[upstream]), Path::new("larder.toml")).unwrap();
    let supply = Arc::new(Upstreams::new(&config, &UpstreamOptions::default()).unwrap());
    let target = supply.target(&config.target, true).await.unwrap();
    Ends { config, supply, target }
}

async fn sync(ends: Ends, list: &str, options: SyncOptions, reporter: Arc<dyn Reporter>) -> (Vec<ImageOutcome>, Totals) {
    let lists = vec![parse_bytes("list.csv", list.as_bytes()).unwrap()];
    let run = Sync::new(ends.supply, ends.target, options);
    run.run(lists, &ends.config.rules, reporter, CancellationToken::new()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_while_a_blob_is_copied_fails_that_image_alone() {
    let (upstream, target) = (Fake::start(), Fake::start());
    let large = layer(7, 4321);
    image(&upstream, "app", Some("bad"), &ImageSpec::new([large.clone()]));
    simple(&upstream, "app", "good", 1);
    let list = format!("image\n{}\n{}\n", upstream.image("app:bad"), upstream.image("app:good"));
    let (rows, totals) = sync(ends(&upstream, &target).await, &list, SyncOptions::default(), Arc::new(PanicsAt(large.len() as u64))).await;
    assert_eq!((totals.copied, totals.failed, totals.deferred, totals.exit()), (1, 1, 0, 1));
    let error = rows[0].error.as_ref().unwrap();
    assert_eq!(rows[0].status, Status::Failed);
    assert!(error.message().starts_with("internal error") && error.message().contains("a blob of"), "{error}");
    assert_eq!(target.tags("m/app"), ["good"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_while_tags_are_chosen_fails_that_line() {
    let (upstream, target) = (Fake::start(), Fake::start());
    simple(&upstream, "app", "v1", 1);
    simple(&upstream, "app", "v2", 2);
    simple(&upstream, "other", "v1", 3);
    let dates = KnownDates::new(|digest| panic!("no date of {digest}"));
    let list = format!("image,tags\n{},v*;newest:1\n{},v1\n", upstream.image("app"), upstream.image("other"));
    let options = SyncOptions { dates, ..SyncOptions::default() };
    let (rows, totals) = sync(ends(&upstream, &target).await, &list, options, Arc::new(larder::report::SilentReporter)).await;
    assert_eq!((totals.copied, totals.failed, totals.deferred), (1, 1, 0));
    assert!(rows[0].error.as_ref().unwrap().message().contains("internal error: no date of sha256:"), "{:?}", rows[0].error);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_whose_check_panicked_is_not_proven() {
    let (upstream, target) = (Fake::start(), Fake::start());
    simple(&upstream, "app", "v1", 1);
    let list = format!("image\n{}\n", upstream.image("app:v1"));
    let (_, totals) = sync(ends(&upstream, &target).await, &list, SyncOptions::default(), Arc::new(larder::report::SilentReporter)).await;
    assert_eq!(totals.copied, 1);
    let Ends { config, target, .. } = ends(&upstream, &target).await;
    let lists = vec![parse_bytes("list.csv", list.as_bytes()).unwrap()];
    let (expected, failed) = listed(lists, &config.rules, &SyncOptions::default(), &target).await;
    assert!(failed.is_empty() && expected.len() == 1);
    let proof = prove(Arc::clone(&target.ends.source), expected, Depth::Asked, Arc::new(|_| panic!("the bar is gone"))).await;
    assert_eq!(proof.count(WrongContent::Unchecked), 1);
    assert!(proof.findings[0].why.contains("internal error"), "{}", proof.findings[0].why);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_during_an_import_fails_that_image_alone() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    let large = layer(7, 4321);
    image(&upstream, "app", Some("bad"), &ImageSpec::new([large.clone()]));
    simple(&upstream, "app", "good", 1);
    let images = [upstream.image("app:bad"), upstream.image("app:good")];
    program.run(&["sync", "--image", &images[0], "--image", &images[1], "--to", "oci:store"]).exits(0);
    let Ends { config, target: store, .. } = ends(&upstream, &target).await;
    let naming = NameMapping { rules: &config.rules, registry: true, given: None };
    let names = |entry: &larder::layout::IndexEntry, stem: &str| naming.name(entry, stem);
    let mut reader = BundleReader::new(None, &names);
    reader.add_all(&[program.path("store")]).unwrap();
    let options = ImportOptions { recheck: false, at_once: 2, evidence: false, platforms: vec![] };
    let reporter = Arc::new(PanicsAt(large.len() as u64));
    let mut import = Import::new(reader.finish(), config.target.clone(), None, options, reporter, CancellationToken::new());
    assert!(import.preflight(&store.ends).await.is_empty());
    let imported = import.run(store.ends.clone(), None).await;
    assert_eq!((imported.totals.copied, imported.totals.failed, imported.totals.deferred), (1, 1, 0));
    let failed = imported.rows.iter().find(|row| row.status == Status::Failed).unwrap();
    assert!(failed.error.as_ref().unwrap().message().starts_with("internal error"), "{:?}", failed.error);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_while_an_export_fills_its_cache_fails_that_image_alone() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    let large = layer(7, 4321);
    image(&upstream, "app", Some("bad"), &ImageSpec::new([large.clone()]));
    simple(&upstream, "app", "good", 1);
    let Ends { config, supply, .. } = ends(&upstream, &target).await;
    let cache = TargetConfig::Layout { path: program.path("cache") };
    let target = supply.target(&cache, true).await.unwrap();
    let list = format!("image\n{}\n{}\n", upstream.image("app:bad"), upstream.image("app:good"));
    let reporter = Arc::new(PanicsAt(large.len() as u64));
    let (rows, totals) = sync(Ends { config, supply, target }, &list, SyncOptions::default(), reporter).await;
    assert_eq!((totals.copied, totals.failed, totals.deferred), (1, 1, 0));
    assert!(rows[0].error.as_ref().unwrap().message().starts_with("internal error"), "{:?}", rows[0].error);
}
