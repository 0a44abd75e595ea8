//! The fuzz targets: every parser of bytes that come from outside. Built for tests and for the crate `fuzz/` only.
//!
//! A target takes any bytes. It must neither panic nor run for long, and what it asserts must hold for whatever was accepted.
//! The inputs in `fuzz/corpus` run with the unit tests; `fuzz/run` looks for new ones.

use std::collections::HashSet;
use std::path::Path;

use bytes::Bytes;
use reqwest::header::HeaderValue;

use crate::Side;
use crate::bundle::format::{Bundle, VolumeRecord};
use crate::bundle::inventory::Inventory;
use crate::config::Config;
use crate::content::{Descriptor, Digest, Manifest, PlatformFilter, rewrite};
use crate::lock::Lock;
use crate::name::ImageName;
use crate::select::{Selector, TagPatterns};

/// A parser, fed with any bytes.
pub type Target = fn(&[u8]);

/// The targets by name; each has a folder of inputs in `fuzz/corpus`.
pub const TARGETS: &[(&str, Target)] = &[
    ("bundle_record", bundle_record),
    ("challenge", challenge),
    ("config", config),
    ("image_name", image_name),
    ("index", index),
    ("inventory", inventory),
    ("limit_headers", limit_headers),
    ("link", link),
    ("list", list),
    ("lock", lock),
    ("manifest", manifest),
    ("referrers", referrers),
    ("rules_json", rules_json),
    ("scan", scan),
    ("tag_terms", tag_terms),
];

/// The bytes as text; what is no UTF-8 is replaced, so that the fuzzer loses no input.
fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// `NAME.bundle.json` beside volumes, and `larder/volume.json` within them.
fn bundle_record(bytes: &[u8]) {
    if let Ok(bundle) = Bundle::parse(bytes) {
        let again = Bundle::parse(&bundle.to_bytes()).map(|bundle| bundle.to_bytes());
        assert_eq!(again.ok(), Some(bundle.to_bytes()), "a record reads back as it was written");
    }
    if let Ok(volume) = VolumeRecord::parse(bytes) {
        assert!(VolumeRecord::parse(&volume.to_bytes()).is_ok(), "a volume's record reads back");
    }
}

/// `WWW-Authenticate`, a header a line.
fn challenge(bytes: &[u8]) {
    let headers: Vec<HeaderValue> = bytes.split(|byte| *byte == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok()).collect();
    let challenges = crate::registry::fuzzed::challenges(&headers);
    assert!(challenges.len() <= bytes.len(), "each challenge takes at least one byte");
}

/// `larder.toml`: what is accepted is shown as a file that reads back.
fn config(bytes: &[u8]) {
    if let Ok(config) = Config::parse(&text(bytes), Path::new("larder.toml")) {
        let shown = config.show();
        let again = Config::parse(&shown, Path::new("shown.toml"));
        assert!(again.is_ok(), "what is shown does not read back: {:?}\n{shown}", again.err());
    }
}

/// A reference as users write it: its normal form is its own normal form.
fn image_name(bytes: &[u8]) {
    if let Ok(name) = ImageName::parse(&text(bytes)) {
        assert_eq!(ImageName::parse(&name.to_string()).as_ref(), Ok(&name));
    }
}

/// An index, cut to one platform: the cut is a manifest too.
fn index(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let digest = Digest::sha256(&bytes);
    let Ok(source) = Manifest::known(bytes, None, digest, Side::Upstream) else { return };
    let Ok(filter) = PlatformFilter::parse("linux/amd64") else { return };
    if let Ok(cut) = rewrite(&source, &[filter]) {
        assert_eq!(*cut.digest(), Digest::sha256(cut.bytes()));
    }
}

/// What `--base` reads: digests and repositories, plain.
fn inventory(bytes: &[u8]) {
    if let Ok(inventory) = Inventory::parse("inventory", bytes) {
        let written = inventory.to_text();
        assert_eq!(Inventory::parse("inventory", written.as_bytes()).map(|read| read.to_text()).ok(), Some(written));
    }
}

/// What registries say of their limits: `Retry-After`, Go durations, bodies of refusals.
fn limit_headers(bytes: &[u8]) {
    let text = text(bytes);
    let _ = crate::limits::retry_after(&text, jiff::Timestamp::UNIX_EPOCH);
    let _ = crate::limits::retry_after_in_message(&text);
    let _ = crate::limits::go_duration(&text);
    let _ = crate::limits::classify(&text);
    let _ = crate::limits::Quota::read(|_| Some(&*text));
}

/// The `Link` header: the next page stands in the header itself.
fn link(bytes: &[u8]) {
    let text = text(bytes);
    if let Some(next) = crate::registry::fuzzed::next_link(&text) {
        assert!(text.contains(next));
    }
}

/// Image lists, as text and as CSV.
fn list(bytes: &[u8]) {
    let _ = crate::list::parse_bytes("list.txt", bytes);
    let _ = crate::list::parse_bytes("list.csv", bytes);
}

/// Lock files.
fn lock(bytes: &[u8]) {
    if let Ok(lock) = Lock::parse(bytes, Path::new("larder.lock")) {
        let written = lock.to_text();
        let again = Lock::parse(written.as_bytes(), Path::new("larder.lock")).map(|lock| lock.to_text());
        assert_eq!(again.ok(), Some(written), "a lock reads back as it was written");
    }
}

/// Manifests as a registry serves them: a media type on the first line, or none, then the body.
fn manifest(bytes: &[u8]) {
    let (media_type, body) = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => (Some(text(&bytes[..end])), &bytes[end + 1..]),
        None => (None, bytes),
    };
    let body = Bytes::copy_from_slice(body);
    let digest = Digest::sha256(&body);
    if let Ok(manifest) = Manifest::known(body, media_type.as_deref(), digest, Side::Upstream) {
        let _ = crate::content::created(&manifest);
    }
}

/// The index of referrers under a fallback tag, which others may have written.
fn referrers(bytes: &[u8]) {
    let ours = Descriptor::new("application/vnd.oci.image.manifest.v1+json", Digest::sha256(b"ours"), 4);
    if let Ok(Some(changed)) = crate::content::with_referrers(Some(bytes), std::slice::from_ref(&ours), &HashSet::new()) {
        let again = crate::content::with_referrers(Some(&changed), &[ours], &HashSet::new());
        assert_eq!(again, Ok(None), "an entry that is there is not added again");
    }
}

/// The rules of other caches.
fn rules_json(bytes: &[u8]) {
    let _ = crate::rules::import::import(&[("rules.json".to_owned(), text(bytes).into_owned())], None);
}

/// Files that `list scan` reads: the first byte chooses the kind by its name.
fn scan(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let name = ["values.yaml", "Dockerfile", "regsync.yml", "compose.yaml"][usize::from(*kind) % 4];
    let _ = crate::list::scan::scan(name, &text(rest));
}

/// Tag terms of a list line, and the patterns of `immutable_tags`.
fn tag_terms(bytes: &[u8]) {
    let text = text(bytes);
    let (tags, exclude) = text.split_once('\n').unwrap_or((&text, ""));
    let _ = Selector::parse(tags, exclude);
    let _ = TagPatterns::parse(&[tags]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every target has inputs, every input runs: those that once failed stay in the folder.
    #[test]
    fn the_corpus_of_every_parser_runs() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for (name, target) in TARGETS {
            let inputs = std::fs::read_dir(corpus.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            let mut count = 0;
            for input in inputs {
                target(&std::fs::read(input.unwrap().path()).unwrap());
                count += 1;
            }
            assert!(count > 0, "{name} has no inputs");
        }
    }
}
