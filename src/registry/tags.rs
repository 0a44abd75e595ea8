//! Tag lists (distribution-spec "Listing tags"; docs/registries.md, "Tag lists").

use std::sync::Arc;

use serde::Deserialize;

use super::auth::{Purpose, Scopes};
use super::pages::Listing;
use super::store::RegistryStore;
use crate::content::{Repository, RequestContext};
use crate::name::check_tag;
use crate::{Kind, Operation, Result, Side};

#[derive(Deserialize)]
struct TagPage {
    /// Go writes no tags as `null`.
    tags: Option<Vec<Option<String>>>,
}

impl RegistryStore {
    /// All tags of `repository`, in the registry's order. An upstream is asked once a run; a target, which changes meanwhile, each time.
    pub(super) async fn tag_list(&self, repository: &Repository, context: &RequestContext) -> Result<Arc<[String]>> {
        if self.transport.side != Side::Upstream {
            return self.list_tags(repository, context).await.map(Into::into);
        }
        // Several images may be told of a failure: it is about the repository.
        let context = RequestContext { image: format!("{}/{repository}", self.transport.host.name).into(), ..context.clone() };
        let listing = self.listed.of(repository, context.fresh);
        let listed = listing.get_or_try_init(|| async {
            match self.list_tags(repository, &context).await {
                // A pause that was too long for one may be over for the next.
                Err(error) if error.kind() == Kind::Deferred => Err(error),
                listed => Ok(listed.map(Into::into)),
            }
        });
        listed.await?.clone()
    }

    /// All tags of `repository`, in the registry's order. What cannot be a tag is left out: it could only be a trick.
    async fn list_tags(&self, repository: &Repository, context: &RequestContext) -> Result<Vec<String>> {
        let listing = Listing {
            operation: Operation::ListTags,
            things: "tags",
            called: "tag list",
            url: self.transport.host.endpoint.url(&format!("{repository}/tags/list")),
            page: self.transport.host.profile.tag_page,
            repository: Some(repository),
            scopes: Scopes::pull(repository.as_str()).to(Purpose::Tags),
            context,
        };
        let tags = |page: TagPage| page.tags.unwrap_or_default().into_iter().flatten().filter(|tag| check_tag(tag).is_ok()).collect();
        self.listed(&listing, tags).await
    }
}
