//! Finds out at the start of a run whether a store does what larder rests on, and what its clock says.

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

use super::error::StoreError;
use super::interface::{ObjectVersion, Put, Store};

/// Where probes write. Each has a name of its own, so that probes do not meet.
const FOLDER: &str = "probe";

/// The store's clock beside this machine's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreClock {
    ahead: SignedDuration,
}

impl StoreClock {
    /// The store wrote an object at `modified`, between `before` and `after` of this machine's clock. Stores tell whole seconds: a
    /// difference that this explains is none.
    pub fn measured(before: Timestamp, after: Timestamp, modified: Timestamp) -> Self {
        let second = SignedDuration::from_secs(1);
        let ahead = if modified > after {
            modified.duration_since(after)
        } else if modified + second < before {
            -before.duration_since(modified + second)
        } else {
            SignedDuration::ZERO
        };
        StoreClock { ahead }
    }

    /// What the store's clock shows when this machine's shows `local`.
    pub fn at(self, local: Timestamp) -> Timestamp {
        local.saturating_add(self.ahead).unwrap_or(local)
    }
}

/// Writes an object, tries to write it in the two ways that must fail, and removes it. `unique` is a name that no other probe has.
///
/// # Errors
/// If the store cannot be used, or writes without looking at the condition.
pub async fn probe(store: &dyn Store, unique: &str) -> Result<StoreClock, StoreError> {
    let key = format!("{FOLDER}/{unique}");
    let clock = conditions(store, &key).await;
    // Also after a failure: a store that takes writes may still refuse others.
    let removed = store.delete(&key).await;
    clock.and_then(|clock| removed.map(|()| clock))
}

async fn conditions(store: &dyn Store, key: &str) -> Result<StoreClock, StoreError> {
    let before = Timestamp::now();
    let Put::Done(version) = store.put_new(key, Bytes::from_static(b"probe")).await? else {
        return Err(unconditional(store, "it holds an object that nobody has written"));
    };
    let after = Timestamp::now();
    if store.put_new(key, Bytes::from_static(b"again")).await? != Put::Conflict {
        return Err(unconditional(store, "it replaces an object where it is told to make a new one"));
    }
    let other = ObjectVersion {
        etag: version.etag.as_ref().map(|_| "\"0123456789abcdef\"".to_owned()),
        generation: version.generation.as_ref().map(|_| "1".to_owned()),
    };
    if store.put_if(key, &other, Bytes::from_static(b"again")).await? != Put::Conflict {
        return Err(unconditional(store, "it replaces an object of another version than the one it is told"));
    }
    let read = store.get(key).await?.ok_or_else(|| unconditional(store, "an object that was just written is not there"))?;
    if store.put_if(key, &read.version, Bytes::from_static(b"probe 2")).await? == Put::Conflict {
        return Err(unconditional(store, "it does not replace an object of the version that it has just told"));
    }
    Ok(StoreClock::measured(before, after, read.modified))
}

fn unconditional(store: &dyn Store, reason: &str) -> StoreError {
    let remedy = "larder needs a store with conditional writes (If-Match and If-None-Match, or generations)";
    StoreError::new("use", &store.name(), reason, remedy, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_seconds_are_no_difference_of_clocks() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let measured =
            |modified: &str| StoreClock::measured(at("2026-01-01T00:00:10.2Z"), at("2026-01-01T00:00:10.4Z"), at(modified)).ahead;
        assert_eq!(measured("2026-01-01T00:00:10Z"), SignedDuration::ZERO);
        assert_eq!(measured("2026-01-01T00:00:10.3Z"), SignedDuration::ZERO);
        assert_eq!(measured("2026-01-01T01:00:10.4Z"), SignedDuration::from_hours(1));
        assert_eq!(measured("2026-01-01T00:00:00Z"), SignedDuration::from_millis(-9_200));
        let clock = StoreClock { ahead: SignedDuration::from_secs(60) };
        assert_eq!(clock.at(at("2026-01-01T00:00:00Z")), at("2026-01-01T00:01:00Z"));
    }
}
