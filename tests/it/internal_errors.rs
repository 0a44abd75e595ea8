//! A panic in the program is a failure of the image that it happened to, and of nothing else; it is never "interrupted".

use std::path::Path;
use std::sync::Arc;

use crate::support::corpus::{ImageSpec, image, simple};
use crate::support::fake::Fake;
use crate::support::layer::layer;
use crate::support::program::configuration;
use larder::config::Config;
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
