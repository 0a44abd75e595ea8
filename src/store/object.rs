//! A store in object storage: Amazon S3 and what speaks its protocol, Azure Blob Storage, Google Cloud Storage.
//!
//! Credentials, region and endpoint come from the environment, as the crate `object_store` reads it (`AWS_*`, `AZURE_STORAGE_*`,
//! `GOOGLE_*`); so do web identity, pod identity and metadata services.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use jiff::Timestamp;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{ClientOptions, Error, ObjectStoreExt as _, PutMode, PutOptions, RetryConfig, UpdateVersion};

use super::error::StoreError;
use super::interface::{ListedObject, MAX_OBJECT, ObjectVersion, Put, Store, StoredObject};
use super::location::{ObjectKind, ObjectUrl};

/// How long one request is repeated that fails for a passing reason: a store that restarts or is moved is back within a minute.
const RETRY_FOR: Duration = Duration::from_secs(90);
/// Attempts in that time, with the crate's back-off of 100 ms to 15 s.
const RETRIES: usize = 12;
/// At the start of a run, when somebody may be watching: some 300 ms.
const RETRIES_AT_START: usize = 2;

/// Objects below a prefix of one bucket.
#[derive(Clone)]
pub struct ObjectStore {
    url: ObjectUrl,
    inner: Arc<dyn object_store::ObjectStore>,
}

impl fmt::Debug for ObjectStore {
    // The client inside knows secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectStore({})", self.url)
    }
}

impl ObjectStore {
    /// The store at `url`, with what the environment says. No request is sent. A request that fails for a passing reason is repeated for a
    /// minute and a half.
    ///
    /// # Errors
    /// If the environment's settings do not fit together, or a file that they name cannot be read.
    pub fn open(url: &ObjectUrl) -> Result<Self, StoreError> {
        Self::with_retries(url, RETRIES)
    }

    /// As [`ObjectStore::open`], for the start of a run: what does not answer now is told at once.
    ///
    /// # Errors
    /// As [`ObjectStore::open`].
    pub fn open_once(url: &ObjectUrl) -> Result<Self, StoreError> {
        Self::with_retries(url, RETRIES_AT_START)
    }

    fn with_retries(url: &ObjectUrl, retries: usize) -> Result<Self, StoreError> {
        check_endpoints(url)?;
        // Plain HTTP only if the environment names an `http://` endpoint: an emulator, or a store in the same network.
        let client = ClientOptions::new().with_allow_http(true).with_user_agent(user_agent());
        let retry = RetryConfig { max_retries: retries, retry_timeout: RETRY_FOR, ..RetryConfig::default() };
        let inner: object_store::Result<Arc<dyn object_store::ObjectStore>> = match url.kind() {
            ObjectKind::S3 => AmazonS3Builder::from_env()
                .with_bucket_name(url.bucket())
                .with_client_options(client)
                .with_retry(retry)
                .build()
                .map(|store| Arc::new(store) as _),
            ObjectKind::Azure => MicrosoftAzureBuilder::from_env()
                .with_container_name(url.bucket())
                .with_client_options(client)
                .with_retry(retry)
                .build()
                .map(|store| Arc::new(store) as _),
            ObjectKind::Google => GoogleCloudStorageBuilder::from_env()
                .with_bucket_name(url.bucket())
                .with_client_options(client)
                .with_retry(retry)
                .build()
                .map(|store| Arc::new(store) as _),
        };
        let inner = inner.map_err(|error| failure("open", url, url.prefix(), &error))?;
        Ok(ObjectStore { url: url.clone(), inner })
    }

    /// The same store with another client, for tests.
    #[cfg(test)]
    pub(crate) fn with(url: &ObjectUrl, inner: Arc<dyn object_store::ObjectStore>) -> Self {
        ObjectStore { url: url.clone(), inner }
    }

    fn path(&self, key: &str) -> Path {
        Path::from(if self.url.prefix().is_empty() { key.to_owned() } else { format!("{}/{key}", self.url.prefix()) })
    }

    async fn put_with(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<Put, StoreError> {
        let options = PutOptions { mode, ..PutOptions::default() };
        match self.inner.put_opts(&self.path(key), bytes.into(), options).await {
            Ok(done) => Ok(Put::Done(ObjectVersion { etag: done.e_tag, generation: done.version })),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(Put::Conflict),
            Err(error) => Err(failure("write", &self.url, key, &error)),
        }
    }
}

/// Variables that name an endpoint. The crate takes any text, and panics when it sends the first request.
const ENDPOINTS: [&str; 7] = [
    "AWS_ENDPOINT",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AZURE_ENDPOINT",
    "AZURE_STORAGE_ENDPOINT",
    "AZURITE_BLOB_STORAGE_URL",
    "GOOGLE_BASE_URL",
];

fn check_endpoints(url: &ObjectUrl) -> Result<(), StoreError> {
    for name in ENDPOINTS {
        let Ok(value) = std::env::var(name) else { continue };
        let is_http = url::Url::parse(&value).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        if !is_http {
            return Err(StoreError::new("open", &url.to_string(), format!("{name} is not a URL"), "write https://HOST:PORT", true));
        }
    }
    Ok(())
}

fn user_agent() -> object_store::HeaderValue {
    object_store::HeaderValue::from_static(concat!("larder/", env!("CARGO_PKG_VERSION")))
}

#[async_trait]
impl Store for ObjectStore {
    fn name(&self) -> String {
        self.url.to_string()
    }

    async fn get(&self, key: &str) -> Result<Option<StoredObject>, StoreError> {
        let failed = |error: &Error| failure("read", &self.url, key, error);
        let found = match self.inner.get(&self.path(key)).await {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(failed(&error)),
        };
        let meta = found.meta.clone();
        if meta.size > MAX_OBJECT {
            let reason = format!("it has {} bytes, and at most {MAX_OBJECT} are read", meta.size);
            return Err(StoreError::new("read", &self.url.join(key).to_string(), reason, "larder did not write it: remove it", true));
        }
        let bytes = found.bytes().await.map_err(|error| failed(&error))?;
        let version = ObjectVersion { etag: meta.e_tag, generation: meta.version };
        Ok(Some(StoredObject { bytes, version, modified: time(meta.last_modified.timestamp_millis()) }))
    }

    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<Put, StoreError> {
        self.put_with(key, bytes, PutMode::Create).await
    }

    async fn put_if(&self, key: &str, version: &ObjectVersion, bytes: Bytes) -> Result<Put, StoreError> {
        let version = UpdateVersion { e_tag: version.etag.clone(), version: version.generation.clone() };
        match self.put_with(key, bytes, PutMode::Update(version)).await {
            // Amazon S3 answers 404 to `If-Match` for an object that is gone.
            Err(_) if self.get(key).await?.is_none() => Ok(Put::Conflict),
            put => put,
        }
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.put_with(key, bytes, PutMode::Overwrite).await.map(drop)
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        match self.inner.delete(&self.path(key)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failure("remove", &self.url, key, &error)),
        }
    }

    async fn list(&self, folder: &str) -> Result<Vec<ListedObject>, StoreError> {
        let prefix = self.path(folder);
        let root = self.path("");
        let entries: Vec<_> =
            self.inner.list(Some(&prefix)).try_collect().await.map_err(|error| failure("list", &self.url, folder, &error))?;
        let mut found: Vec<ListedObject> = entries
            .into_iter()
            .filter_map(|meta| {
                let parts: Vec<_> = meta.location.prefix_match(&root)?.collect();
                let key = parts.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join("/");
                Some(ListedObject { key, size: meta.size, modified: time(meta.last_modified.timestamp_millis()) })
            })
            .collect();
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }
}

fn time(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The crate's errors have several lines, the last of which are the store's XML: the first says what happened.
fn failure(operation: &str, url: &ObjectUrl, key: &str, error: &Error) -> StoreError {
    let place = if key.is_empty() { url.to_string() } else { format!("{url}: {key}") };
    let environment = match url.kind() {
        ObjectKind::S3 => "AWS_*",
        ObjectKind::Azure => "AZURE_STORAGE_*",
        ObjectKind::Google => "GOOGLE_*",
    };
    let (reason, remedy, permanent) = match error {
        Error::NotFound { .. } => ("there is no such bucket".to_owned(), "create it, or correct the name".to_owned(), true),
        Error::PermissionDenied { .. } => {
            let remedy = format!("allow reading, writing, listing and deleting below this prefix, or correct {environment}");
            ("access denied".to_owned(), remedy, true)
        }
        Error::Unauthenticated { .. } => {
            ("the credentials were rejected".to_owned(), format!("set {environment} in the environment"), true)
        }
        Error::InvalidPath { .. } | Error::NotImplemented { .. } | Error::NotSupported { .. } | Error::UnknownConfigurationKey { .. } => {
            (first_line(error), format!("see {environment} in the environment"), true)
        }
        _ => (first_line(error), format!("see whether the store is reachable, and {environment} in the environment"), false),
    };
    StoreError::new(operation, &place, reason, &remedy, permanent)
}

/// The innermost cause has the reason; the outer ones repeat the request.
fn first_line(error: &Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string().lines().next().unwrap_or_default().to_owned()
}
