//! The same demands on every implementation.

use std::sync::Arc;

use bytes::Bytes;
use object_store::memory::InMemory;

use super::memory::MemoryStore;
use super::*;

/// Each kind of store, empty.
fn stores() -> Vec<Arc<dyn Store>> {
    let Ok(Location::Objects(url)) = "s3://bucket/some/prefix".parse() else { panic!("an object URL") };
    let Ok(Location::Objects(bucket)) = "s3://bucket".parse() else { panic!("an object URL") };
    vec![
        Arc::new(ObjectStore::with(&url, Arc::new(InMemory::new()))),
        Arc::new(ObjectStore::with(&bucket, Arc::new(InMemory::new()))),
        Arc::new(MemoryStore::default()),
    ]
}

fn text(object: Option<StoredObject>) -> Option<String> {
    object.map(|object| String::from_utf8(object.bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn objects_are_made_once_replaced_by_version_listed_and_removed() {
    for store in stores() {
        assert_eq!(text(store.get("a/b").await.unwrap()), None);
        assert!(store.list("a").await.unwrap().is_empty(), "{store:?}");
        let Put::Done(first) = store.put_new("a/b", Bytes::from_static(b"one")).await.unwrap() else { panic!("{store:?}") };
        assert_eq!(store.put_new("a/b", Bytes::from_static(b"two")).await.unwrap(), Put::Conflict);
        assert_eq!(text(store.get("a/b").await.unwrap()).as_deref(), Some("one"));
        let Put::Done(second) = store.put_if("a/b", &first, Bytes::from_static(b"three")).await.unwrap() else { panic!("{store:?}") };
        assert_eq!(store.put_if("a/b", &first, Bytes::from_static(b"four")).await.unwrap(), Put::Conflict);
        let read = store.get("a/b").await.unwrap().unwrap();
        assert_eq!((&read.bytes[..], &read.version), (&b"three"[..], &second));
        store.put("a/b", Bytes::from_static(b"five")).await.unwrap();
        store.put("a/c/d", Bytes::from_static(b"d")).await.unwrap();
        store.put("ab", Bytes::from_static(b"x")).await.unwrap();
        let listed = store.list("a").await.unwrap();
        let names: Vec<_> = listed.iter().map(|object| (object.key.as_str(), object.size)).collect();
        assert_eq!(names, [("a/b", 4), ("a/c/d", 1)], "{store:?}");
        store.delete("a/b").await.unwrap();
        store.delete("a/b").await.unwrap();
        assert_eq!(store.put_if("a/b", &second, Bytes::from_static(b"six")).await.unwrap(), Put::Conflict);
        assert_eq!(store.list("a").await.unwrap().len(), 1);
        assert_eq!(store.list("").await.unwrap().len(), 2, "{store:?}");
    }
}

#[tokio::test]
async fn every_store_passes_the_probe_and_keeps_nothing_of_it() {
    for store in stores() {
        probe(store.as_ref(), "worker").await.unwrap();
        assert!(store.list("").await.unwrap().is_empty(), "{store:?}");
    }
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_refused_by_name() {
    let store = MemoryStore::unconditional();
    let error = probe(&store, "worker").await.unwrap_err();
    assert!(error.is_permanent());
    assert_eq!(
        error.to_string(),
        "could not use memory: it replaces an object where it is told to make a new one \
         (larder needs a store with conditional writes (If-Match and If-None-Match, or generations))"
    );
}

fn add(found: Option<&StoredObject>, by: u64) -> Change<u64> {
    let before = found.map_or(0, |found| std::str::from_utf8(&found.bytes).unwrap().split(' ').next().unwrap().parse::<u64>().unwrap());
    // The length tells writers apart, as the ledger's leases do.
    Change::Write(Bytes::from(format!("{} {by}", before + 1)), before)
}

#[tokio::test(start_paused = true)]
async fn changes_of_many_writers_are_all_kept() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::with_latency(std::time::Duration::from_millis(30)));
    let writers: Vec<_> = (0..20)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for _ in 0..10 {
                    transact(store.as_ref(), "count", |found| add(found, writer)).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(text(store.get("count").await.unwrap()).unwrap().starts_with("200 "));
}
