//! Tag lists, page by page (distribution-spec "Listing tags"; registries.md 4.4).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::Method;
use reqwest::header::LINK;
use serde::Deserialize;
use tokio::sync::OnceCell;
use url::Url;

use super::auth::Scopes;
use super::counters::RequestKind;
use super::link;
use super::store::RegistryStore;
use super::transport::Call;
use crate::content::{Charge, Place};
use crate::name::check_tag;
use crate::{Error, Kind, Result, Side};

/// A page of 1,000 tags of 128 characters has 131 KiB; some registries ignore the page size and send all at once.
const MAX_PAGE: usize = 16 * 1024 * 1024;
/// The largest public repositories have some 50,000 tags. Twenty times that is a registry that invents them.
const MOST_TAGS: usize = 1_000_000;
/// Quay's pages have 50 tags, so 10,000 pages are half of [`MOST_TAGS`]; more are a registry that leads us on.
const MOST_PAGES: usize = 10_000;

const OPERATION: &str = "list tags";

#[derive(Deserialize)]
struct Page {
    /// Go writes no tags as `null`.
    tags: Option<Vec<String>>,
}

/// What an upstream has listed, by repository: asked for once a run, however many want to know. Failures are remembered too.
#[derive(Default)]
pub(super) struct Listed(Mutex<HashMap<Place, Listing>>);

type Listing = Arc<OnceCell<Result<Arc<[String]>>>>;

impl Listed {
    fn of(&self, place: &Place) -> Listing {
        Arc::clone(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(place.clone()).or_default())
    }
}

impl RegistryStore {
    /// All tags of `place`, in the registry's order. An upstream is asked once a run; a target, which changes meanwhile, each time.
    pub(super) async fn tag_list(&self, place: &Place, charge: &Charge) -> Result<Arc<[String]>> {
        if self.transport.side != Side::Upstream {
            return self.list_tags(place, charge).await.map(Into::into);
        }
        // Several images may be told of a failure: it is about the repository.
        let charge = Charge { image: format!("{}/{place}", self.transport.host.name).into(), ..charge.clone() };
        let listing = self.listed.of(place);
        let listed = listing.get_or_try_init(|| async {
            match self.list_tags(place, &charge).await {
                // A pause that was too long for one may be over for the next.
                Err(error) if error.kind() == Kind::Deferred => Err(error),
                listed => Ok(listed.map(Into::into)),
            }
        });
        listed.await?.clone()
    }

    /// All tags of `place`, in the registry's order. What cannot be a tag is left out: it could only be a trick.
    async fn list_tags(&self, place: &Place, charge: &Charge) -> Result<Vec<String>> {
        let list = self.transport.host.url(&format!("{place}/tags/list"));
        let mut url = list.clone();
        let page_size = format!("n={}", self.transport.host.profile.tag_page);
        url.set_query(Some(&page_size));
        let mut seen = HashSet::from([url.clone()]);
        let (mut tags, mut known) = (vec![], HashSet::new());
        for _ in 0..MOST_PAGES {
            let (page, next) = match self.page(place, url.clone(), charge).await {
                // A registry with a smaller maximum may refuse the number instead of lowering it.
                Err(error) if error.http_status() == Some(400) && url.query() == Some(&page_size) => {
                    self.page(place, list.clone(), charge).await?
                }
                page => page?,
            };
            for tag in page.tags.unwrap_or_default() {
                if check_tag(&tag).is_ok() && known.insert(tag.clone()) {
                    tags.push(tag);
                }
            }
            if tags.len() > MOST_TAGS {
                return Err(self.endless(place, charge, &format!("more than {MOST_TAGS} tags")));
            }
            let Some(next) = next else { return Ok(tags) };
            if !seen.insert(next.clone()) {
                return Err(self.endless(place, charge, "a next page that was there before"));
            }
            url = next;
        }
        Err(self.endless(place, charge, &format!("more than {MOST_PAGES} pages")))
    }

    async fn page(&self, place: &Place, url: Url, charge: &Charge) -> Result<(Page, Option<Url>)> {
        let scopes = Scopes::pull(place.as_str());
        let call = Call::new((RequestKind::Tags, OPERATION, Method::GET), url, place, &scopes, charge);
        let (answer, body) = self.transport.fetch(&call, MAX_PAGE, &mut self.transport.host.patience()).await?;
        let topic = self.transport.topic(&call);
        let page = serde_json::from_slice(&body).map_err(|error| {
            let what = if body.trim_ascii_start().starts_with(b"<") { "a web page (HTML)".to_owned() } else { error.to_string() };
            topic.error(Kind::Damaged, format!("what was served as a tag list is none: {what}"))
        })?;
        let links = answer.headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(", ");
        let next = link::next(&links).map(|target| self.transport.host.resolve(&answer.url, target)).transpose();
        let next = next.map_err(|why| topic.error(Kind::Untrusted, format!("the next page of tags is not asked for: {why}")))?;
        if let Some(next) = &next {
            // The next page is asked for with our login: only the registry itself may be named, or who it redirected this page to.
            let same = self.transport.host.is_home(next) || next.origin() == answer.url.origin();
            if !same {
                let host = next.host_str().unwrap_or("another host");
                return Err(topic.error(Kind::Untrusted, format!("the next page of tags is at {host}, another host")));
            }
            let allowed = self.transport.allowed(next).await;
            allowed.map_err(|why| topic.error(Kind::Untrusted, format!("the next page of tags is not asked for: {why}")))?;
        }
        Ok((page, next))
    }

    fn endless(&self, place: &Place, charge: &Charge, what: &str) -> Error {
        self.transport.topic_of(OPERATION, Some(place), charge).error(Kind::Untrusted, format!("the registry lists {what}"))
    }
}
