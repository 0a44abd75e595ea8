//! Values that are requested once a run.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::Result;
use crate::mutex::Mutex;

type Cells<K, V> = Mutex<HashMap<K, Arc<OnceCell<Arc<V>>>>>;

/// Values by key. Tasks that need the same one at the same time wait for one request.
#[derive(Debug)]
pub(super) struct OnceMap<K, V>(Cells<K, V>);

impl<K, V> Default for OnceMap<K, V> {
    fn default() -> Self {
        OnceMap(Mutex::default())
    }
}

impl<K: Eq + Hash, V> OnceMap<K, V> {
    /// The value of `key`; the first task to need it runs `request`.
    ///
    /// # Errors
    /// As `request`. An error is not remembered.
    pub(super) async fn get_or_try_init(&self, key: K, request: impl Future<Output = Result<V>> + Send) -> Result<Arc<V>> {
        let cell = Arc::clone(self.0.lock().entry(key).or_default());
        cell.get_or_try_init(|| async { request.await.map(Arc::new) }).await.cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, Operation};

    #[tokio::test]
    async fn a_value_is_requested_once_and_an_error_is_not_remembered() {
        let map: OnceMap<u8, u8> = OnceMap::default();
        assert!(map.get_or_try_init(1, async { Err(Error::cancelled(Operation::CopyImage)) }).await.is_err());
        assert_eq!(*map.get_or_try_init(1, async { Ok(7) }).await.unwrap(), 7);
        assert_eq!(*map.get_or_try_init(1, async { Ok(8) }).await.unwrap(), 7);
    }
}
