//! The catalogue: which repositories a registry has (`_catalog`; no part of the specification, but most registries that people
//! run themselves have it: distribution, Harbor, zot, ACR, ECR and GitLab; Docker Hub, GHCR and Quay do not).

use serde::Deserialize;

use super::auth::Scopes;
use super::pages::Listing;
use super::store::RegistryStore;
use crate::content::{Repository, RequestContext};
use crate::name::check_path;
use crate::{Kind, Operation, Result};

/// The most that distribution gives in a page (its `catalog.maxentries`).
const PAGE: usize = 1000;

#[derive(Deserialize)]
struct CatalogPage {
    /// Go writes no repositories as `null`.
    repositories: Option<Vec<String>>,
}

impl RegistryStore {
    /// All repositories that the account may see, sorted; `None`: the registry does not tell, or not this account. What cannot
    /// be a repository is left out.
    ///
    /// No scope is asked for: a registry whose tokens need one (`registry:catalog:*`) says so in its challenge, and it is taken
    /// from there.
    pub(super) async fn catalog(&self, context: &RequestContext) -> Result<Option<Vec<Repository>>> {
        let listing = Listing {
            operation: Operation::ListRepositories,
            things: "repositories",
            called: "catalogue",
            url: self.transport.host.endpoint.url("_catalog"),
            page: PAGE,
            repository: None,
            scopes: Scopes::none(),
            context,
        };
        let repositories =
            |page: CatalogPage| page.repositories.unwrap_or_default().into_iter().filter(|path| check_path(path).is_ok()).collect();
        match self.listed(&listing, repositories).await {
            Ok(mut paths) => {
                paths.sort_unstable();
                Ok(Some(paths.into_iter().map(Repository::new).collect()))
            }
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Unauthorized | Kind::Refused) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
