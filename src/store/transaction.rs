//! Changes an object that others change too: read, decide, write if nobody has written since, else once more.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use bytes::Bytes;

use super::error::StoreError;
use super::interface::{Put, Store, StoredObject};

/// The first wait after a conflict, on average: one round trip to object storage is some 30 ms.
const FIRST_WAIT: Duration = Duration::from_millis(20);
/// The longest wait after a conflict.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// So many conflicts in a row are some two minutes: the object is written without a pause, and larder does not wait for its end.
const ATTEMPTS: usize = 80;

/// What a transaction makes of the object that it reads.
#[derive(Debug)]
pub enum Change<T> {
    /// It stays as it is.
    Keep(T),
    /// It is replaced.
    Write(Bytes, T),
}

/// Changes the object `key`. `change` is called with what is there (`None`: nothing), once more for every conflict; the last answer counts.
///
/// A write whose answer was lost, and which is found done, is not done again.
///
/// # Errors
/// If the store fails, or others write without a pause; what `change` returned last has not come about then.
pub async fn transact<T>(
    store: &dyn Store,
    key: &str,
    mut change: impl FnMut(Option<&StoredObject>) -> Change<T>,
) -> Result<T, StoreError> {
    let mut waits =
        ExponentialBuilder::new().with_min_delay(FIRST_WAIT).with_max_delay(LONGEST_WAIT).with_max_times(ATTEMPTS).with_jitter().build();
    let mut found = store.get(key).await?;
    loop {
        let (bytes, answer) = match change(found.as_ref()) {
            Change::Keep(answer) => return Ok(answer),
            Change::Write(bytes, answer) => (bytes, answer),
        };
        let put = match &found {
            Some(found) => store.put_if(key, &found.version, bytes.clone()).await?,
            None => store.put_new(key, bytes.clone()).await?,
        };
        if let Put::Done(_) = put {
            return Ok(answer);
        }
        found = store.get(key).await?;
        if found.as_ref().is_some_and(|found| found.bytes == bytes) {
            return Ok(answer);
        }
        let Some(wait) = waits.next() else {
            let store = format!("{}: {key}", store.name());
            return Err(StoreError::new(
                "write",
                &store,
                format!("others wrote it {ATTEMPTS} times meanwhile"),
                "start fewer workers",
                false,
            ));
        };
        tokio::time::sleep(wait).await;
    }
}
