//! The answer to `/v2/<name>/referrers/<digest>` (distribution-spec, "Listing Referrers").

use serde_json::json;
use url::form_urlencoded;

use super::error::ApiError;
use super::page::PageQuery;
use crate::content::Descriptor;

/// The media type of the response. Without it, clients conclude that the registry does not support referrers.
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The header that tells that a filter was applied.
pub(super) const FILTERS_APPLIED: &str = "oci-filters-applied";

/// Referrers in a page. Go clients read at most 4 MiB (oras-go, `defaultMaxMetadataBytes`), and descriptors with the
/// annotations of a cosign bundle have some 600 bytes.
const PAGE: usize = 1000;

/// The requested referrers.
#[derive(Debug)]
pub(super) struct ReferrersQuery {
    artifact_type: Option<String>,
    page: PageQuery,
}

impl ReferrersQuery {
    pub(super) fn parse(query: Option<&str>) -> Result<ReferrersQuery, ApiError> {
        let mut parameters = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        let artifact_type = parameters.find(|(key, value)| key == "artifactType" && !value.is_empty()).map(|(_, value)| value.into_owned());
        Ok(ReferrersQuery { artifact_type, page: PageQuery::parse(query)?.or(PAGE) })
    }

    /// Whether they are filtered by type.
    pub(super) fn is_filtered(&self) -> bool {
        self.artifact_type.is_some()
    }

    /// The index of this page, and the query of the next one if there is more. Sorted by digest, so that pages neither
    /// overlap nor leave gaps.
    pub(super) fn answer(&self, mut all: Vec<Descriptor>) -> (String, Option<String>) {
        all.retain(|found| self.artifact_type.is_none() || found.artifact_type == self.artifact_type);
        all.sort_by(|a, b| a.digest.as_str().cmp(b.digest.as_str()));
        all.dedup_by(|a, b| a.digest == b.digest);
        let (page, next) = self.page.cut(all.iter().map(|found| found.digest.to_string()).collect());
        all.retain(|found| page.binary_search_by(|digest| digest.as_str().cmp(found.digest.as_str())).is_ok());
        let next = next.map(|next| match &self.artifact_type {
            Some(kind) => format!("{next}&artifactType={}", form_urlencoded::byte_serialize(kind.as_bytes()).collect::<String>()),
            None => next,
        });
        (json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": all }).to_string(), next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Digest;

    fn referrer(n: u8, artifact_type: Option<&str>) -> Descriptor {
        let mut descriptor = Descriptor::new("application/vnd.oci.image.manifest.v1+json", Digest::sha256(&[n]), 7);
        descriptor.artifact_type = artifact_type.map(str::to_owned);
        descriptor.annotations.insert("n".to_owned(), n.to_string());
        descriptor
    }

    #[test]
    fn pages_of_one_type_hold_each_referrer_once() {
        let mut all: Vec<Descriptor> = (0..20).map(|n| referrer(n, Some(if n % 2 == 0 { "a/sig+json" } else { "a/sbom" }))).collect();
        all.push(referrer(0, Some("a/sig+json")));
        all.push(referrer(50, None));
        let mut query = Some("artifactType=a%2Fsig%2Bjson&n=3&ns=docker.io".to_owned());
        let (mut found, mut pages) = (vec![], 0);
        while let Some(this) = query {
            let wanted = ReferrersQuery::parse(Some(&this)).unwrap();
            assert!(wanted.is_filtered());
            let (body, next) = wanted.answer(all.clone());
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!((body["mediaType"].as_str(), body["schemaVersion"].as_u64()), (Some(INDEX), Some(2)));
            for manifest in body["manifests"].as_array().unwrap() {
                assert_eq!(manifest["artifactType"], "a/sig+json");
                found.push(manifest["annotations"]["n"].as_str().unwrap().parse::<u8>().unwrap());
            }
            pages += 1;
            query = next;
        }
        found.sort_unstable();
        assert_eq!((pages, found), (4, (0..20).step_by(2).collect()));
    }

    #[test]
    fn nothing_is_an_index_too() {
        let wanted = ReferrersQuery::parse(None).unwrap();
        assert!(!wanted.is_filtered());
        let empty = r#"{"manifests":[],"mediaType":"application/vnd.oci.image.index.v1+json","schemaVersion":2}"#;
        assert_eq!(wanted.answer(vec![]), (empty.to_owned(), None));
        assert_eq!(wanted.answer((0..3).map(|n| referrer(n, None)).collect()).1, None);
    }
}
