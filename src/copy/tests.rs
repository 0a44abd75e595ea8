//! The engine between real ends: the demo's shelf as the upstream (its calls counted), a layout as the target.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{CopyImage, CopyOptions, Engine, ImageState, TargetEnds};
use crate::content::{BlobStream, Descriptor, Digest, Manifest, Repository, RequestContext, Source};
use crate::demo::MemoryRegistry;
use crate::layout::Layout;
use crate::mutex::Mutex;
use crate::name::Reference;
use crate::report::{SilentReporter, Status};
use crate::{Error, Kind, Result, Side};

/// A shelf whose reads are counted by what was read, and that can refuse a digest.
#[derive(Default)]
struct Counted {
    shelf: MemoryRegistry,
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
        self.shelf.resolve(repository, reference, context).await
    }
    async fn tags(&self, repository: &Repository, context: &RequestContext) -> Result<Vec<String>> {
        self.shelf.tags(repository, context).await
    }
    async fn manifest(&self, repository: &Repository, digest: &Digest, context: &RequestContext) -> Result<Option<Manifest>> {
        self.count(format!("manifest {digest}"));
        self.shelf.manifest(repository, digest, context).await
    }
    async fn blob(&self, repository: &Repository, blob: &Descriptor, offset: u64, context: &RequestContext) -> Result<Option<BlobStream>> {
        if self.refused.lock().as_ref() == Some(&blob.digest) {
            return Err(Error::new(Side::Upstream, "get blob", Kind::Unavailable, "out of order"));
        }
        self.count(format!("blob {}", blob.digest));
        self.shelf.blob(repository, blob, offset, context).await
    }
}

struct House {
    upstream: Arc<Counted>,
    layout: Arc<Layout>,
    folder: tempfile::TempDir,
}

impl House {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let upstream = Arc::new(Counted { shelf: MemoryRegistry::demo_upstream(), ..Counted::default() });
        House { upstream, layout: Arc::new(Layout::open_or_create(folder.path()).await.unwrap()), folder }
    }

    fn engine(&self, recheck: bool) -> Arc<Engine> {
        let target = TargetEnds { sink: Arc::clone(&self.layout) as _, source: Arc::clone(&self.layout) as _ };
        Engine::new(target, Arc::new(SilentReporter), CopyOptions { recheck, ..CopyOptions::default() }, CancellationToken::new())
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
        self.upstream.shelf.images().iter().map(|(repository, tag)| self.image(repository, tag)).collect()
    }

    async fn deliver_all(&self, engine: &Arc<Engine>) -> Vec<Status> {
        let images = self.images();
        let all = images.iter().map(|image| async { engine.deliver(image).await.unwrap().status });
        futures_util::future::join_all(all).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_piece_is_read_once_and_a_second_run_reads_nothing() {
    let house = House::new().await;
    let first = house.deliver_all(&house.engine(false)).await;
    assert!(first.iter().all(|status| *status == Status::Copied));
    assert!(house.upstream.reads("blob").iter().all(|n| *n == 1), "{:?}", house.upstream.reads("blob"));
    assert!(house.upstream.reads("manifest").iter().all(|n| *n == 1));
    let blobs = house.upstream.shelf.layers_shared().distinct;
    assert!(house.upstream.reads("blob").len() >= blobs);

    house.upstream.reads.lock().clear();
    let second = house.deliver_all(&house.engine(false)).await;
    assert!(second.iter().all(|status| *status == Status::Current));
    assert_eq!(
        (house.upstream.reads("resolve").len(), house.upstream.reads("manifest").len(), house.upstream.reads("blob").len()),
        (first.len(), 0, 0)
    );
    assert!(crate::layout::verify(house.folder.path(), &|_| {}).unwrap().ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_layout_lost_is_fetched_and_nothing_else() {
    let house = House::new().await;
    house.deliver_all(&house.engine(false)).await;
    let report = crate::layout::verify(house.folder.path(), &|_| {}).unwrap();
    assert!(report.unreferenced.is_empty());
    let largest = std::fs::read_dir(house.folder.path().join("blobs/sha256"))
        .unwrap()
        .flatten()
        .max_by_key(|entry| entry.metadata().unwrap().len())
        .unwrap();
    std::fs::remove_file(largest.path()).unwrap();
    house.upstream.reads.lock().clear();
    let again = house.deliver_all(&house.engine(false)).await;
    assert!(again.contains(&Status::Copied) && again.contains(&Status::Current));
    let lost = format!("blob sha256:{}", largest.file_name().to_str().unwrap());
    assert_eq!((house.upstream.reads("blob"), house.upstream.reads(&lost)), (vec![1], vec![1]));
    assert!(house.upstream.reads("manifest").is_empty(), "manifests are read from the layout, not pulled again");
}

#[tokio::test]
async fn one_failing_blob_fails_its_image_alone_and_names_nothing() {
    let house = House::new().await;
    let engine = house.engine(false);
    let image = house.image("acme/api", "1.4.0");
    let root = house.upstream.resolve(&image.from, &image.wanted, &image.context).await.unwrap().unwrap();
    let index = house.upstream.manifest(&image.from, &root.digest, &image.context).await.unwrap().unwrap();
    let child = &index.links().manifests[0];
    let manifest = house.upstream.manifest(&image.from, &child.digest, &image.context).await.unwrap().unwrap();
    *house.upstream.refused.lock() = manifest.links().blobs.last().map(|blob| blob.digest.clone());

    let error = engine.deliver(&image).await.unwrap_err();
    assert_eq!(error.to_string(), "upstream: get blob demo.example/acme/api:1.4.0: out of order");
    assert!(house.layout.names().await.unwrap().is_empty());
    assert_eq!(engine.deliver(&house.image("charts/web", "0.3.0")).await.unwrap().status, Status::Copied);

    *house.upstream.refused.lock() = None;
    assert_eq!(engine.deliver(&image).await.unwrap().status, Status::Copied);
}

#[tokio::test]
async fn compare_tells_missing_current_and_moved_apart() {
    let house = House::new().await;
    let engine = house.engine(false);
    let old = house.image("library/alpine", "3.20");
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
    let house = House::new().await;
    let image = house.image("library/nginx", "1.27");
    house.engine(false).deliver(&image).await.unwrap();
    house.upstream.reads.lock().clear();
    let delivered = house.engine(true).deliver(&image).await.unwrap();
    assert_eq!(delivered.status, Status::Current);
    assert!(house.upstream.reads("blob").is_empty() && house.upstream.reads("manifest").is_empty());
    assert_eq!(delivered.platforms, ["linux/amd64", "linux/arm64/v8"]);
}

#[tokio::test]
async fn a_stopped_engine_begins_nothing() {
    let house = House::new().await;
    let stop = CancellationToken::new();
    stop.cancel();
    let target = TargetEnds { sink: Arc::clone(&house.layout) as _, source: Arc::clone(&house.layout) as _ };
    let engine = Engine::new(target, Arc::new(SilentReporter), CopyOptions::default(), stop);
    assert_eq!(engine.deliver(&house.image("library/redis", "7")).await.unwrap_err().kind(), Kind::Cancelled);
    assert!(house.upstream.reads("").is_empty());
}
