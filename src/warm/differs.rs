//! The cache answers another digest than the upstream: because the tag has just moved, because it trims lists, or because it is stale.

use std::collections::HashSet;

use jiff::Timestamp;

use crate::config::profiles::CacheRefresh;
use crate::content::{Digest, Manifest, ManifestKind};
use crate::{Error, Kind, Operation, Side};

/// What is said of a trimmed list, whenever one is met.
pub(super) fn trimmed(host: &str, digest: &Digest, source: &Digest) -> String {
    format!(
        "{host} keeps the list of platforms without those that nobody pulled: its digest is {}, the upstream's {}",
        digest.short(),
        source.short()
    )
}

/// Whether `list` is `whole` without some of its children.
pub(super) fn is_trimmed(list: &Manifest, whole: &Manifest) -> bool {
    let children =
        |manifest: &Manifest| -> HashSet<Digest> { manifest.links().manifests.iter().map(|child| child.digest.clone()).collect() };
    if list.kind() != ManifestKind::Index || whole.kind() != ManifestKind::Index {
        return false;
    }
    let (some, all) = (children(list), children(whole));
    !some.is_empty() && some.is_subset(&all)
}

/// The cache at `host` answers `cache` where the upstream has `upstream`.
pub(super) fn stale(host: &str, refresh: &CacheRefresh, upstream: &Digest, cache: &Digest) -> Error {
    let what = format!("{host} still answers {} where the upstream has {}", cache.short(), upstream.short());
    let error = |kind, why: &str| Error::new(Side::Target, Operation::GetManifest, kind, format!("{what}: {why}"));
    match *refresh {
        CacheRefresh::Within(time) => {
            let until = Timestamp::now().checked_add(time).ok();
            error(Kind::Deferred, &format!("it asks again within {}", in_words(time))).waiting_until(until)
        }
        CacheRefresh::Unknown => error(Kind::Deferred, "when it asks again is not known"),
        CacheRefresh::Always => {
            error(Kind::Unavailable, "it seems that it cannot ask its upstream").remedy("see what the cache's own log says of its upstream")
        }
    }
}

fn in_words(time: std::time::Duration) -> String {
    match time.as_secs() / 60 {
        minutes if minutes >= 60 => format!("{} h", minutes / 60),
        minutes => format!("{minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn list(children: &[u8]) -> Manifest {
        let children: Vec<_> =
            children.iter().map(|n| serde_json::json!({"mediaType": "m", "digest": Digest::sha256(&[*n]), "size": 1})).collect();
        let body = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": children});
        let bytes = Bytes::from(body.to_string());
        let digest = Digest::sha256(&bytes);
        Manifest::verify(bytes, None, &digest, Side::Target).unwrap()
    }

    #[test]
    fn a_list_is_trimmed_if_it_has_some_of_the_children_and_no_others() {
        let whole = list(&[1, 2, 3]);
        for (children, expected) in [(&[1u8, 3] as &[u8], true), (&[3, 2, 1], true), (&[1, 4], false), (&[], false)] {
            assert_eq!(is_trimmed(&list(children), &whole), expected, "{children:?}");
        }
    }
}
