//! What differs between a lock and the world.

use std::collections::HashSet;

use serde::Serialize;

use super::Lock;
use crate::content::Digest;

/// How an image stands now.
#[derive(Debug, Clone)]
pub struct CurrentDigest<'a> {
    /// Its name at the target, below the prefix.
    pub target: &'a str,
    /// Its source, as lists name it.
    pub source: &'a str,
    /// What the upstream names; `None` if it was not asked or gave no answer.
    pub upstream: Option<&'a Digest>,
    /// What the target holds under the name.
    pub held: Option<&'a Digest>,
}

/// A difference between the lock and what is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// The image's name at the target, below the prefix.
    pub target: String,
    /// Its source.
    pub source: String,
    /// `upstream moved`, `target differs`, `not locked`, or `not listed`.
    pub what: &'static str,
    /// The digest in the lock.
    pub locked: Option<Digest>,
    /// The digest found.
    pub found: Option<Digest>,
}

impl std::fmt::Display for Drift {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", crate::error::printable(&self.source), crate::error::printable(&self.target), self.what)?;
        match (&self.locked, &self.found) {
            (Some(locked), Some(found)) => write!(f, ", locked {locked}, now {found}"),
            (Some(locked), None) => write!(f, ", locked {locked}"),
            (None, Some(found)) => write!(f, ", now {found}"),
            (None, None) => Ok(()),
        }
    }
}

/// Every difference, in the order of `now`; then what the lock has and `now` lacks.
pub fn drift(lock: &Lock, now: &[CurrentDigest<'_>]) -> Vec<Drift> {
    let mut found = vec![];
    let listed: HashSet<&str> = now.iter().map(|image| image.target).collect();
    for image in now {
        let mut differs = |what, locked: Option<&Digest>, is: Option<&Digest>| {
            let (locked, is) = (locked.cloned(), is.cloned());
            found.push(Drift { target: image.target.to_owned(), source: image.source.to_owned(), what, locked, found: is });
        };
        let Some(record) = lock.get(image.target) else {
            differs("not locked", None, image.upstream);
            continue;
        };
        // Of an immutable tag, which is not asked for upstream, the target's digest stands for both.
        let asked = image.upstream.filter(|upstream| !(image.held == Some(*upstream) && **upstream == record.digest));
        if let Some(upstream) = asked.filter(|upstream| **upstream != record.source_digest) {
            differs("upstream moved", Some(&record.source_digest), Some(upstream));
        }
        if image.held != Some(&record.digest) {
            differs("target differs", Some(&record.digest), image.held);
        }
    }
    let unlisted = lock.records().filter(|record| !listed.contains(record.target.as_str()));
    found.extend(unlisted.map(|record| Drift {
        target: record.target.clone(),
        source: record.source.clone(),
        what: "not listed",
        locked: Some(record.digest.clone()),
        found: None,
    }));
    found
}
