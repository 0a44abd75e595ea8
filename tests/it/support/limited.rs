//! Upstreams that count pulls, and what the tests of limits ask of them.

use std::collections::HashMap;
use std::time::Duration;

use super::corpus::{multi, simple};
use super::fake::{Fake, Kind, Options, Pulls};

/// A window that no test outlives: it ends by [`Fake::end_windows`].
pub const LONG: Duration = Duration::from_secs(3600);

/// An upstream with `limit` pulls per window, and Docker Hub's headers.
pub fn limited(limit: u32, window: Duration) -> Fake {
    Fake::with(Options { pulls: Some(Pulls::new(limit, window)), ..Options::default() })
}

/// `n` images of one pull each, as lists name them: `app:v0`, `app:v1`, … in 3 digits.
pub fn singles(upstream: &Fake, n: u64) -> Vec<String> {
    (0..n)
        .map(|number| {
            let tag = format!("v{number:03}");
            simple(upstream, "app", &tag, 1 + number);
            upstream.image(&format!("app:{tag}"))
        })
        .collect()
}

/// Images of several platforms: four pulls each.
pub fn multis(upstream: &Fake, n: u64) -> Vec<String> {
    (0..n)
        .map(|number| {
            let repository = format!("multi{number}");
            multi(upstream, &repository, "v1", 500 + number, &["linux/amd64", "linux/arm64", "linux/s390x"]);
            upstream.image(&format!("{repository}:v1"))
        })
        .collect()
}

/// Manifests that were given more than once: pulls spent twice.
pub fn pulled_twice(upstream: &Fake) -> Vec<String> {
    let mut given: HashMap<String, usize> = HashMap::new();
    for request in upstream.requests() {
        if request.kind == Kind::ManifestGet && request.status == Some(200) {
            *given.entry(request.reference.unwrap()).or_default() += 1;
        }
    }
    given.into_iter().filter(|(_, times)| *times > 1).map(|(digest, _)| digest).collect()
}

/// How many requests of each kind were made.
pub fn by_kind(registry: &Fake) -> HashMap<Kind, usize> {
    let mut counts = HashMap::new();
    registry.requests().iter().for_each(|request| *counts.entry(request.kind).or_default() += 1);
    counts
}
