//! Tag lists (distribution-spec "Listing tags"; registries.md 4.4).

use serde::Deserialize;

use super::auth::Scopes;
use super::pages::Listing;
use super::store::RegistryStore;
use crate::Result;
use crate::content::{Charge, Place};
use crate::name::check_tag;

#[derive(Deserialize)]
struct Page {
    /// Go writes no tags as `null`.
    tags: Option<Vec<String>>,
}

impl RegistryStore {
    /// All tags of `place`, in the registry's order. What cannot be a tag is left out: it could only be a trick.
    pub(super) async fn list_tags(&self, place: &Place, charge: &Charge) -> Result<Vec<String>> {
        let listing = Listing {
            operation: "list tags",
            things: "tags",
            called: "tag list",
            url: self.transport.host.url(&format!("{place}/tags/list")),
            page: self.transport.host.profile.tag_page,
            place: Some(place),
            scopes: Scopes::pull(place.as_str()),
            charge,
        };
        let tags = |page: Page| page.tags.unwrap_or_default().into_iter().filter(|tag| check_tag(tag).is_ok()).collect();
        self.listed(&listing, tags).await
    }
}
