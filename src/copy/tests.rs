//! The engine and its parts between real stores: the demo's registry in memory as the upstream (its calls counted), a
//! layout as the target.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::blob::BlobCopy;
use super::graph::GraphCopy;
use super::job::CopyJob;
use super::target::TargetState;
use super::{CopyImage, CopyOptions, Cost, Engine, ImageState, TargetEnds};
use crate::content::{BlobStream, Descriptor, Digest, Manifest, Repository, RequestContext, Source};
use crate::demo::MemoryRegistry;
use crate::layout::Layout;
use crate::mutex::Mutex;
use crate::name::Reference;
use crate::report::{SilentReporter, Status};
use crate::{Error, Kind, Operation, Result, Side};

/// A registry in memory that counts its reads by what was read, and can refuse a digest.
#[derive(Default)]
struct Counted {
    registry: MemoryRegistry,
    reads: Mutex<HashMap<String, usize>>,
    refused: Mutex<Option<Digest>>,
}

impl Counted {
    fn count(&self, what: String) {
        *self.reads.lock().entry(what).or_default() += 1;
    }
    fn reads(&self, kind: &str) -> Vec<usize> {
        self.reads.lock().iter().filter(|(key, _)| key.starts_with(kind)).map(|(_, n)| *n).collect()
    }
}

#[async_trait]
impl Source for Counted {
    async fn resolve(&self, repository: &Repository, reference: &Reference, context: &RequestContext) -> Result<Option<Descriptor>> {
        self.count(format!("resolve {repository}{}", reference.suffix()));
        self.registry.resolve(repository, reference, context).await
    }
    async fn tags(&self, repository: &Repository, context: &RequestContext) -> Result<Vec<String>> {
        self.registry.tags(repository, context).await
    }
    async fn manifest(&self, repository: &Repository, digest: &Digest, context: &RequestContext) -> Result<Option<Manifest>> {
        self.count(format!("manifest {digest}"));
        self.registry.manifest(repository, digest, context).await
    }
    async fn blob(&self, repository: &Repository, blob: &Descriptor, offset: u64, context: &RequestContext) -> Result<Option<BlobStream>> {
        if self.refused.lock().as_ref() == Some(&blob.digest) {
            return Err(Error::new(Side::Upstream, Operation::GetBlob, Kind::Unavailable, "out of order"));
        }
        self.count(format!("blob {}", blob.digest));
        self.registry.blob(repository, blob, offset, context).await
    }
}

struct Stores {
    upstream: Arc<Counted>,
    layout: Arc<Layout>,
    folder: tempfile::TempDir,
}

impl Stores {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let upstream = Arc::new(Counted { registry: MemoryRegistry::demo_upstream(), ..Counted::default() });
        Stores { upstream, layout: Arc::new(Layout::open_or_create(folder.path()).await.unwrap()), folder }
    }

    fn ends(&self) -> TargetEnds {
        TargetEnds { sink: Arc::clone(&self.layout) as _, source: Arc::clone(&self.layout) as _ }
    }

    fn target(&self, options: CopyOptions) -> Arc<TargetState> {
        Arc::new(TargetState::new(self.ends(), options, CancellationToken::new()))
    }

    fn engine(&self, recheck: bool) -> Arc<Engine> {
        Engine::new(self.ends(), Arc::new(SilentReporter), CopyOptions { recheck, ..CopyOptions::default() }, CancellationToken::new())
    }

    fn image(&self, repository: &str, tag: &str) -> CopyImage {
        let name = format!("demo.example/{repository}:{tag}");
        CopyImage {
            name: name.as_str().into(),
            upstream: Arc::clone(&self.upstream) as _,
            from: Repository::new(repository),
            wanted: Reference::Tag(tag.to_owned()),
            resolved: None,
            to: Repository::new(repository),
            publish: Reference::Tag(tag.to_owned()),
            context: RequestContext::new(name.as_str()),
            immutable: false,
            policy: Arc::default(),
        }
    }

    fn images(&self) -> Vec<CopyImage> {
        self.upstream.registry.images().iter().map(|(repository, tag)| self.image(repository, tag)).collect()
    }

    async fn deliver_all(&self, engine: &Arc<Engine>) -> Vec<Status> {
        let images = self.images();
        let all = images.iter().map(|image| async { engine.deliver(image).await.unwrap().status });
        futures_util::future::join_all(all).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifests_and_blobs_are_read_once_and_a_second_run_reads_nothing() {
    let stores = Stores::new().await;
    let first = stores.deliver_all(&stores.engine(false)).await;
    assert!(first.iter().all(|status| *status == Status::Copied));
    assert!(stores.upstream.reads("blob").iter().all(|n| *n == 1), "{:?}", stores.upstream.reads("blob"));
    assert!(stores.upstream.reads("manifest").iter().all(|n| *n == 1));
    let blobs = stores.upstream.registry.layers_shared().distinct;
    assert!(stores.upstream.reads("blob").len() >= blobs);

    stores.upstream.reads.lock().clear();
    let second = stores.deliver_all(&stores.engine(false)).await;
    assert!(second.iter().all(|status| *status == Status::Current));
    assert_eq!(
        (stores.upstream.reads("resolve").len(), stores.upstream.reads("manifest").len(), stores.upstream.reads("blob").len()),
        (first.len(), 0, 0)
    );
    assert!(crate::layout::verify(stores.folder.path(), &|_| {}).unwrap().ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_layout_lost_is_fetched_and_nothing_else() {
    let stores = Stores::new().await;
    stores.deliver_all(&stores.engine(false)).await;
    let report = crate::layout::verify(stores.folder.path(), &|_| {}).unwrap();
    assert!(report.unreferenced.is_empty());
    let largest = std::fs::read_dir(stores.folder.path().join("blobs/sha256"))
        .unwrap()
        .flatten()
        .max_by_key(|entry| entry.metadata().unwrap().len())
        .unwrap();
    std::fs::remove_file(largest.path()).unwrap();
    stores.upstream.reads.lock().clear();
    let again = stores.deliver_all(&stores.engine(false)).await;
    assert!(again.contains(&Status::Copied) && again.contains(&Status::Current));
    let lost = format!("blob sha256:{}", largest.file_name().to_str().unwrap());
    assert_eq!((stores.upstream.reads("blob"), stores.upstream.reads(&lost)), (vec![1], vec![1]));
    assert!(stores.upstream.reads("manifest").is_empty(), "manifests are read from the layout, not pulled again");
}

#[tokio::test]
async fn one_failing_blob_fails_its_image_alone_and_names_nothing() {
    let stores = Stores::new().await;
    let engine = stores.engine(false);
    let image = stores.image("acme/api", "1.4.0");
    let root = stores.upstream.resolve(&image.from, &image.wanted, &image.context).await.unwrap().unwrap();
    let index = stores.upstream.manifest(&image.from, &root.digest, &image.context).await.unwrap().unwrap();
    let child = &index.links().manifests[0];
    let manifest = stores.upstream.manifest(&image.from, &child.digest, &image.context).await.unwrap().unwrap();
    *stores.upstream.refused.lock() = manifest.links().blobs.last().map(|blob| blob.digest.clone());

    let error = engine.deliver(&image).await.unwrap_err();
    assert_eq!(error.to_string(), "upstream: get blob demo.example/acme/api:1.4.0: out of order");
    assert!(stores.layout.names().await.unwrap().is_empty());
    assert_eq!(engine.deliver(&stores.image("charts/web", "0.3.0")).await.unwrap().status, Status::Copied);

    *stores.upstream.refused.lock() = None;
    assert_eq!(engine.deliver(&image).await.unwrap().status, Status::Copied);
}

#[tokio::test]
async fn compare_tells_missing_current_and_moved_apart() {
    let stores = Stores::new().await;
    let engine = stores.engine(false);
    let old = stores.image("library/alpine", "3.20");
    let new = CopyImage { wanted: Reference::Tag("3.21".to_owned()), ..old.clone() };
    assert!(matches!(engine.compare(&old).await.unwrap().0, ImageState::Missing(_)));
    engine.deliver(&old).await.unwrap();
    assert!(matches!(engine.compare(&old).await.unwrap().0, ImageState::Current(_)));
    assert!(matches!(engine.compare(&new).await.unwrap().0, ImageState::Moved { from, to } if from != to));
    let absent = CopyImage { wanted: Reference::Tag("9".to_owned()), ..old };
    assert_eq!(engine.compare(&absent).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn recheck_finds_an_image_current_without_moving_anything() {
    let stores = Stores::new().await;
    let image = stores.image("library/nginx", "1.27");
    stores.engine(false).deliver(&image).await.unwrap();
    stores.upstream.reads.lock().clear();
    let delivered = stores.engine(true).deliver(&image).await.unwrap();
    assert_eq!(delivered.status, Status::Current);
    assert!(stores.upstream.reads("blob").is_empty() && stores.upstream.reads("manifest").is_empty());
    assert_eq!(delivered.platforms, ["linux/amd64", "linux/arm64/v8"]);
}

#[tokio::test]
async fn a_stopped_engine_starts_nothing() {
    let stores = Stores::new().await;
    let stop = CancellationToken::new();
    stop.cancel();
    let engine = Engine::new(stores.ends(), Arc::new(SilentReporter), CopyOptions::default(), stop);
    assert_eq!(engine.deliver(&stores.image("library/redis", "7")).await.unwrap_err().kind(), Kind::Cancelled);
    assert!(stores.upstream.reads("").is_empty());
}

#[tokio::test]
async fn a_cache_gets_content_only_from_its_own_repository() {
    let stores = Stores::new().await;
    let (a, b, digest) = (Repository::new("a"), Repository::new("b"), Digest::sha256(b"layer"));
    for (warm, expected) in [(false, Some(a.clone())), (true, None)] {
        let target = stores.target(CopyOptions { warm, ..CopyOptions::default() });
        target.presence().add(&a, &digest);
        assert_eq!((target.repository_with(&b, &digest), target.repository_with(&a, &digest)), (expected, Some(a.clone())));
    }
}

#[tokio::test]
async fn a_stopped_target_lets_no_work_begin() {
    let target = Stores::new().await.target(CopyOptions::default());
    assert!(target.check_running(Operation::CopyBlob).is_ok());
    target.stop();
    assert_eq!(target.check_running(Operation::CopyBlob).unwrap_err().kind(), Kind::Cancelled);
}

#[tokio::test]
async fn a_blob_is_transferred_once_for_all_repositories() {
    let stores = Stores::new().await;
    let target = stores.target(CopyOptions::default());
    let blobs = BlobCopy::new(Arc::clone(&target), Arc::new(SilentReporter));
    let image = stores.image("library/redis", "7");
    let other = CopyImage { to: Repository::new("other"), ..image.clone() };
    let top = stores.upstream.resolve(&image.from, &image.wanted, &image.context).await.unwrap().unwrap();
    let mut manifest = stores.upstream.manifest(&image.from, &top.digest, &image.context).await.unwrap().unwrap();
    if let Some(child) = manifest.links().manifests.first() {
        manifest = stores.upstream.manifest(&image.from, &child.digest, &image.context).await.unwrap().unwrap();
    }
    let layer = manifest.links().blobs.last().unwrap();
    assert!(blobs.copy(&image, layer).await.unwrap());
    assert!(!blobs.copy(&image, layer).await.unwrap());
    assert!(!blobs.copy(&other, layer).await.unwrap(), "a layout shares blobs between repositories");
    assert_eq!(stores.upstream.reads("blob"), [1]);
    assert_eq!((target.counts().copied(), target.counts().present(), target.counts().mounted()), (1, 2, 0));
}

#[tokio::test]
async fn a_copied_graph_is_complete_and_has_no_name() {
    let stores = Stores::new().await;
    let target = stores.target(CopyOptions::default());
    let graph = GraphCopy::new(Arc::clone(&target), Arc::new(SilentReporter));
    let image = stores.image("acme/api", "1.4.0");
    let top = stores.upstream.resolve(&image.from, &image.wanted, &image.context).await.unwrap().unwrap();
    let job = CopyJob::new(&image, 0);
    let (selected, wrote) = graph.copy_selected(&job, &top).await.unwrap();
    assert!(wrote && stores.layout.names().await.unwrap().is_empty());
    assert!(selected.links.manifests.iter().all(|child| target.presence().has(&image.to, &child.digest)));
    graph.publish(&job, &selected).await.unwrap();
    assert_eq!(stores.layout.names().await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_cost_is_an_estimate_until_the_index_is_known_and_nothing_when_it_is_delivered() {
    let stores = Stores::new().await;
    let engine = stores.engine(false);
    let image = stores.image("acme/api", "1.4.0");
    let (_, comparison) = engine.compare(&image).await.unwrap();
    let cost = engine.costs().of(&image, &comparison).await.unwrap();
    assert!(!cost.exact && cost.pulls > 1 && cost.at_most >= cost.pulls, "{cost:?}");
    assert!(stores.upstream.reads("manifest").is_empty(), "an estimate spends no pull");
    engine.deliver(&image).await.unwrap();
    assert_eq!(engine.costs().of(&image, &comparison).await.unwrap(), Cost::NOTHING);
}
