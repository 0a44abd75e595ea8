//! Lists that come page by page, each naming the next in a `Link` (distribution-spec "Listing tags"; docs/registries.md, "Tag lists").

use std::collections::HashSet;

use reqwest::Method;
use reqwest::header::LINK;
use serde::de::DeserializeOwned;
use url::Url;

use super::auth::Scopes;
use super::counters::RequestKind;
use super::link;
use super::request::RegistryRequest;
use super::request::RequestTopic;
use super::store::RegistryStore;
use crate::content::{Repository, RequestContext};
use crate::{Error, Kind, Operation, Result};

/// A page of 1,000 tags of 128 characters has 131 KiB, one of 1,000 repositories up to 260; some registries ignore the page
/// size and send all at once.
const MAX_PAGE: usize = 16 * 1024 * 1024;
/// The largest public repositories have some 50,000 tags. Twenty times that is a registry that invents them; so are as many
/// repositories.
const MOST_NAMES: usize = 1_000_000;
/// Quay's pages have 50 tags, so 10,000 pages are half of [`MOST_NAMES`]; more are a registry that leads us on.
const MOST_PAGES: usize = 10_000;

/// A list to be asked for.
pub(super) struct Listing<'a> {
    /// The verb phrase that errors name it by.
    pub(super) operation: Operation,
    /// What it lists.
    pub(super) things: &'static str,
    /// What it is called.
    pub(super) called: &'static str,
    /// Its address, without a query.
    pub(super) url: Url,
    /// How many to ask for at once.
    pub(super) page: usize,
    /// The repository it is about.
    pub(super) repository: Option<&'a Repository>,
    /// The rights it needs.
    pub(super) scopes: Scopes,
    /// On whose behalf it is asked for.
    pub(super) context: &'a RequestContext,
}

impl RegistryStore {
    /// What all pages of `listing` name, in the registry's order, each once. `names` reads a page; what it leaves out is left out.
    pub(super) async fn listed<P: DeserializeOwned>(&self, listing: &Listing<'_>, names: impl Fn(P) -> Vec<String>) -> Result<Vec<String>> {
        let mut url = listing.url.clone();
        let page_size = format!("n={}", listing.page);
        url.set_query(Some(&page_size));
        let mut seen = HashSet::from([url.clone()]);
        let (mut all, mut known) = (vec![], HashSet::new());
        for _ in 0..MOST_PAGES {
            let (page, next) = match self.page(listing, url.clone()).await {
                // A registry with a smaller maximum may refuse the number instead of lowering it.
                Err(error) if error.http_status() == Some(400) && url.query() == Some(&page_size) => {
                    self.page(listing, listing.url.clone()).await?
                }
                page => page?,
            };
            all.extend(names(page).into_iter().filter(|name| known.insert(name.clone())));
            if all.len() > MOST_NAMES {
                return Err(self.endless(listing, &format!("more than {MOST_NAMES} {}", listing.things)));
            }
            let Some(next) = next else { return Ok(all) };
            if !seen.insert(next.clone()) {
                return Err(self.endless(listing, "a next page that was there before"));
            }
            url = next;
        }
        Err(self.endless(listing, &format!("more than {MOST_PAGES} pages")))
    }

    async fn page<P: DeserializeOwned>(&self, listing: &Listing<'_>, url: Url) -> Result<(P, Option<Url>)> {
        let Listing { operation, things, called, url: list, repository, scopes, context, .. } = listing;
        let none = Repository::new("");
        let call = RegistryRequest::new((RequestKind::Tags, *operation, Method::GET), url, repository.unwrap_or(&none), scopes, context);
        let call = RegistryRequest { repository: *repository, ..call };
        let (answer, body) = self.transport.fetch(&call, MAX_PAGE, &mut self.transport.host.patience()).await?;
        let topic = self.transport.topic(&call);
        let page = serde_json::from_slice(&body).map_err(|error| {
            let what = if body.trim_ascii_start().starts_with(b"<") { "a web page (HTML)".to_owned() } else { error.to_string() };
            topic.error(Kind::Damaged, format!("what was served as a {called} is none: {what}"))
        })?;
        let links = link::text(&answer.headers, LINK);
        let next = link::next(&links).map(|target| self.transport.host.endpoint.resolve_next_page(&answer.url, list, target)).transpose();
        let refuse = |topic: &RequestTopic<'_>, why: String| {
            topic.error(Kind::Untrusted, format!("the next page of {things} is not asked for: {why}"))
        };
        let next = next.map_err(|why| refuse(&topic, why))?;
        if let Some(next) = &next {
            self.transport.allowed(next).await.map_err(|why| refuse(&topic, why))?;
        }
        Ok((page, next))
    }

    fn endless(&self, listing: &Listing<'_>, what: &str) -> Error {
        let topic = self.transport.topic_of(listing.operation, listing.repository, listing.context);
        topic.error(Kind::Untrusted, format!("the registry lists {what}"))
    }
}
