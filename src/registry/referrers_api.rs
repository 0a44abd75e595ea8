//! The referrers API (distribution-spec "Listing Referrers"): its lists, page by page, and where there is none.
//!
//! Registries answer anything where they have no such list: 404, but also 401, 403, 424, 500, an empty 200 or a login page. So whatever
//! is not an index of descriptors means that there is no list. A cache has one for some of its upstreams and not for others, which is
//! why that is remembered by repository prefix there.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use oci_client::manifest::OCI_IMAGE_INDEX_MEDIA_TYPE as OCI_INDEX;
use reqwest::Method;
use reqwest::header::LINK;
use url::Url;

use super::auth::{Purpose, Scopes};
use super::counters::RequestKind;
use super::headers::media_type;
use super::link;
use super::referrers::{MOST_REFERRERS, ReferrersPage, remedied};
use super::referrers_support::Api;
use super::request::RegistryRequest;
use super::store::RegistryStore;
use crate::config::profiles::Support;
use crate::content::{Descriptor, Digest, MAX_MANIFEST, ReferrerList, Repository, RequestContext};
use crate::{Error, Kind, Operation, Result};

/// Registries give 100 and more in a page; where each page has one, this still is [`MOST_REFERRERS`].
const MOST_PAGES: usize = MOST_REFERRERS;

/// So often a list that is answered with 500 is asked for again: enough to tell a broken API from a registry that fails now and then, and
/// little where it is broken.
const MORE_ATTEMPTS: u32 = 3;

/// Why there is no list.
#[derive(Debug, Clone)]
struct NoList {
    /// The whole registry has none. Otherwise it may have one for other repositories.
    everywhere: bool,
    why: Option<String>,
}

impl RegistryStore {
    /// The referrers of `subject` as the API lists them, those of `artifact_type` if one is named and the registry filters.
    pub(super) async fn ask_referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        artifact_type: Option<&str>,
        context: &RequestContext,
    ) -> Result<ReferrerList> {
        let api = &self.transport.host.referrers;
        let beside = api.beside(repository);
        let known = || beside.answer.get().or(api.everywhere.answer.get()).cloned();
        // A cache has another answer for each of its upstreams.
        let asked = if self.transport.host.behaviour.is_cache() { &beside } else { &api.everywhere };
        let mut first = None;
        if known().is_none() {
            first = Some(asked.asking.lock().await);
        }
        let is_known = match known() {
            Some(Api::Missing(why)) => return Ok(ReferrerList::Missing(why)),
            Some(Api::Here) => true,
            None => false,
        };
        match self.referrer_pages(repository, subject, artifact_type, is_known, context).await? {
            Ok(listed) => {
                let _ = asked.answer.set(Api::Here);
                Ok(ReferrerList::Listed(listed))
            }
            Err(no_list) => {
                let why: Option<Arc<str>> = no_list.why.map(|why| self.without_list(&why).into());
                if !is_known {
                    let part = if no_list.everywhere { asked } else { &beside };
                    let _ = part.answer.set(Api::Missing(why.clone()));
                }
                drop(first);
                Ok(ReferrerList::Missing(why))
            }
        }
    }

    /// Whether the API is there, for a registry that acts as if it were.
    pub(super) async fn has_referrers_api(&self, repository: &Repository, subject: &Digest, context: &RequestContext) -> Result<bool> {
        let host = &self.transport.host;
        let beside = host.referrers.beside(repository);
        match beside.answer.get().or(host.referrers.everywhere.answer.get()) {
            Some(known) => Ok(matches!(known, Api::Here)),
            None if host.profile.referrers == Support::Yes => Ok(true),
            None => Ok(matches!(self.ask_referrers(repository, subject, None, context).await?, ReferrerList::Listed(_))),
        }
    }

    fn without_list(&self, why: &str) -> String {
        format!("{} has no list of referrers ({why}): signatures were looked for by tag", self.transport.host.name)
    }

    async fn referrer_pages(
        &self,
        repository: &Repository,
        subject: &Digest,
        artifact_type: Option<&str>,
        is_known: bool,
        context: &RequestContext,
    ) -> Result<Result<Vec<Descriptor>, NoList>> {
        let mut url = self.transport.host.endpoint.url(&format!("{repository}/referrers/{subject}"));
        if let Some(wanted) = artifact_type {
            url.query_pairs_mut().append_pair("artifactType", wanted);
        }
        let mut seen = HashSet::from([url.clone()]);
        let mut all: Vec<Descriptor> = vec![];
        for number in 0..MOST_PAGES {
            let (page, next) = match self.referrer_page(repository, url, is_known || number > 0, context).await? {
                Ok(page) => page,
                Err(no_list) if number == 0 => return Ok(Err(no_list)),
                Err(_) => {
                    return Err(self.about(repository, context, Kind::Damaged, "the registry does not give the next page of referrers"));
                }
            };
            all.extend(page.manifests.unwrap_or_default());
            if all.len() > MOST_REFERRERS {
                return Err(self.invented(repository, context, &format!("more than {MOST_REFERRERS} referrers of {subject}")));
            }
            let Some(next) = next else { return Ok(Ok(all)) };
            if !seen.insert(next.clone()) {
                return Err(self.invented(repository, context, "a next page of referrers that was there before"));
            }
            url = next;
        }
        Err(self.invented(repository, context, &format!("more than {MOST_PAGES} pages of referrers")))
    }

    /// One page, and where the next one is. `is_known`: the registry has given such a list before.
    async fn referrer_page(
        &self,
        repository: &Repository,
        url: Url,
        is_known: bool,
        context: &RequestContext,
    ) -> Result<Result<(ReferrersPage, Option<Url>), NoList>> {
        let scopes = Scopes::pull(repository.as_str()).to(Purpose::Referrers);
        let list = url.clone();
        let mut call =
            RegistryRequest::new((RequestKind::Referrers, Operation::ListReferrers, Method::GET), url, repository, &scopes, context);
        // GHCR redirects to a web page elsewhere (docs/registries.md, "GitHub").
        call.follow_cross_host = false;
        let mut failures = 0;
        let (answer, body) = loop {
            match self.transport.fetch(&call, MAX_MANIFEST, &mut self.transport.host.patience()).await {
                Ok(fetched) => break fetched,
                Err(error) if error.http_status() == Some(500) && failures < MORE_ATTEMPTS => {
                    failures += 1;
                    tokio::time::sleep(self.transport.host.retry.base * failures).await;
                }
                Err(error) => return no_list(&error, is_known).map(Err).ok_or_else(|| remedied(error)),
            }
        };
        let topic = self.transport.topic(&call);
        let Some(page) = read(&media_type(&answer), &body) else {
            return Ok(Err(NoList { everywhere: true, why: Some(described(&body).to_owned()) }));
        };
        let links = link::text(&answer.headers, LINK);
        let astray = |why: String| remedied(topic.error(Kind::Untrusted, format!("the next page of referrers is not asked for: {why}")));
        let next = link::next(&links).map(|target| self.transport.host.endpoint.resolve_next_page(&answer.url, &list, target));
        Ok(Ok((page, next.transpose().map_err(astray)?)))
    }
}

/// The index of descriptors, if it is one.
fn read(media_type: &str, body: &Bytes) -> Option<ReferrersPage> {
    if media_type != OCI_INDEX {
        return None;
    }
    serde_json::from_slice(body).ok()
}

/// What came in its place.
fn described(body: &[u8]) -> &'static str {
    match body.trim_ascii_start() {
        [] => "an empty answer",
        [b'<', ..] => "a web page",
        _ => "an answer that is no index",
    }
}

/// What a refusal says of the API; `None`: it is an error. Of a registry that has given lists, a failure is one.
fn no_list(error: &Error, is_known: bool) -> Option<NoList> {
    let status = error.http_status()?;
    let everywhere = match (status, error.kind()) {
        (_, Kind::Limited | Kind::Deferred | Kind::Untrusted | Kind::Cancelled) => return None,
        (300..=399 | 400 | 404 | 405 | 406 | 501, _) => true,
        (500, _) if is_known => return None,
        (401 | 403 | 424 | 500, _) => false,
        _ => return None,
    };
    // The specification's answer of a registry without it.
    let why = (status != 404).then(|| format!("{status}"));
    Some(NoList { everywhere, why })
}
