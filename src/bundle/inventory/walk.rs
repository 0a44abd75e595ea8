//! Walking a store: repositories, their names, the manifests these lead to, and what those refer to.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use tokio::sync::OnceCell;

use super::Inventory;
use crate::content::{
    Descriptor, Digest, GraphNode, GraphWalk, Links, NodeRole, Repository, RequestContext, Source, check_depth, walk_concurrently,
};
use crate::mutex::Mutex;
use crate::name::Reference;
use crate::{Error, Kind, Result, Side};

/// Repositories, names of one repository, and children of one index that are worked on at once. Requests are limited by the
/// registry's own concurrency (16); this only has to keep it busy.
const AT_ONCE: usize = 16;

/// Where a walk begins.
#[derive(Debug, Clone)]
pub enum Roots {
    /// All tags of this repository.
    Tags(Repository),
    /// This image of this repository.
    Name(Repository, Reference),
}

/// What `roots` of `source` lead to: every manifest, config and layer, by repository. Each manifest is read once, in whichever
/// repositories it is. Repositories are noted as `shown` names them.
///
/// Beside the inventory, what could not be asked: content that is not listed is carried again, so that the rest is of use.
pub async fn walk(
    source: Arc<dyn Source>,
    roots: Vec<Roots>,
    shown: impl Fn(&Repository) -> Repository + Send + Sync,
) -> (Inventory, Vec<Error>) {
    let walk = InventoryWalk { source, found: Mutex::default(), manifests: Mutex::default(), shown: &shown };
    let results = stream::iter(roots).map(|root| walk.root(root)).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
    let errors = results.into_iter().flatten().collect();
    (walk.found.into_inner(), errors)
}

type Read = Arc<OnceCell<Arc<Links>>>;

struct InventoryWalk<'a> {
    source: Arc<dyn Source>,
    found: Mutex<Inventory>,
    /// What each manifest refers to, so that it is read once.
    manifests: Mutex<HashMap<Digest, Read>>,
    shown: &'a (dyn Fn(&Repository) -> Repository + Send + Sync),
}

impl InventoryWalk<'_> {
    async fn root(&self, root: Roots) -> Vec<Error> {
        match root {
            Roots::Name(repository, reference) => self.name(&repository, reference).await.err().into_iter().collect(),
            Roots::Tags(repository) => match self.source.tags(&repository, &RequestContext::new(repository.as_str())).await {
                Ok(tags) => {
                    let names = stream::iter(tags).map(|tag| self.name(&repository, Reference::Tag(tag))).buffer_unordered(AT_ONCE);
                    names.filter_map(|done| async { done.err() }).collect().await
                }
                // A catalogue also lists repositories whose last tag is gone.
                Err(error) if error.kind() == Kind::NotFound => vec![],
                Err(error) => vec![error],
            },
        }
    }

    async fn name(&self, repository: &Repository, reference: Reference) -> Result<()> {
        let context = RequestContext::new(format!("{repository}{}", reference.suffix()));
        let descriptor = match &reference {
            Reference::Digest(digest) => Some(Descriptor::new("", digest.clone(), 0)),
            Reference::Tag(_) => self.source.resolve(repository, &reference, &context).await?,
        };
        // A tag that went since it was listed is no error.
        let Some(descriptor) = descriptor else { return Ok(()) };
        self.image(repository, descriptor, &context).await.map_err(|error| error.subject(&*context.image))
    }

    /// Notes a manifest and everything it leads to, as far as that is there; the first error, after the rest is noted.
    async fn image(&self, repository: &Repository, root: Descriptor, context: &RequestContext) -> Result<()> {
        let first: Mutex<Option<Error>> = Mutex::default();
        let visit = |node: GraphNode| async {
            let links = self.visit(repository, node, context).await;
            Ok::<_, Infallible>(links.unwrap_or_else(|error| {
                first.lock().get_or_insert(error);
                Arc::default()
            }))
        };
        let Ok(()) = walk_concurrently(GraphWalk::new(&root, NodeRole::Manifest), AT_ONCE, visit).await;
        first.into_inner().map_or(Ok(()), Err)
    }

    /// Notes one node, if it is there; what it refers to, unless that was noted already.
    async fn visit(&self, repository: &Repository, node: GraphNode, context: &RequestContext) -> Result<Arc<Links>> {
        let digest = &node.descriptor.digest;
        if node.role != NodeRole::Blob && !self.noted(repository, digest) {
            let Some(links) = self.read(repository, digest, context).await? else { return Ok(Arc::default()) };
            self.note(repository, digest);
            check_depth(node.depth, &links, Side::Target)?;
            return Ok(links);
        }
        self.note(repository, digest);
        Ok(Arc::default())
    }

    /// What the manifest refers to. The first caller reads it from its `repository`, others wait.
    async fn read(&self, repository: &Repository, digest: &Digest, context: &RequestContext) -> Result<Option<Arc<Links>>> {
        let cell = Arc::clone(self.manifests.lock().entry(digest.clone()).or_default());
        // Another repository may have what this one lacks: only what was read is kept.
        let read = async || match self.source.manifest(repository, digest, context).await {
            Ok(Some(manifest)) => Ok(Arc::clone(manifest.links())),
            Ok(None) => Err(None),
            Err(error) => Err(Some(error)),
        };
        match cell.get_or_try_init(read).await {
            Ok(links) => Ok(Some(Arc::clone(links))),
            Err(None) => Ok(None),
            Err(Some(error)) => Err(error),
        }
    }

    fn noted(&self, repository: &Repository, digest: &Digest) -> bool {
        let repository = (self.shown)(repository);
        self.found.lock().digests.get(digest).is_some_and(|places| places.contains(&repository))
    }

    fn note(&self, repository: &Repository, digest: &Digest) {
        let repository = (self.shown)(repository);
        self.found.lock().add(digest.clone(), repository);
    }
}
