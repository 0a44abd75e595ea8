//! Uploads: in one request, in two, in chunks, and by mount.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use larder::content::{Digest, Hasher};
use tokio::sync::Mutex as AsyncMutex;

use super::content::Content;
use super::reply::{Reply, error, name_unknown, reply, with};
use super::service::{Exchange, Registry};
use super::state::Store;

/// What has arrived of one blob.
struct Session {
    repository: String,
    /// `None` where bytes are not kept.
    bytes: Option<BytesMut>,
    len: u64,
    hasher: Hasher,
    /// Counts the steps: part of the `Location` where that has a query.
    step: u64,
    /// A chunk shorter than the least has come: it was the last.
    last_seen: bool,
    /// A body has broken off.
    broken: bool,
}

type Shared = Arc<AsyncMutex<Session>>;

/// The uploads that are open.
#[derive(Default)]
pub(super) struct Uploads {
    sessions: Mutex<HashMap<String, Shared>>,
    counter: AtomicU64,
}

impl Uploads {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Shared>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, exchange: &Exchange) -> Result<Shared, Reply> {
        self.lock().get(&exchange.route.reference).cloned().ok_or_else(unknown)
    }

    /// Forgets an upload that broke off, unless the registry keeps such ones.
    fn drop_broken(&self, exchange: &Exchange, session: &Session) {
        if session.broken && !exchange.options.keep_broken_uploads {
            self.lock().remove(&exchange.route.reference);
        }
    }

    /// How many uploads were opened and neither completed nor cancelled.
    pub(super) fn open(&self) -> usize {
        self.lock().len()
    }

    /// Forgets all uploads, as a registry that restarts may.
    pub(super) fn forget(&self) {
        self.lock().clear();
    }
}

fn unknown() -> Reply {
    error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
}

impl Session {
    fn new(exchange: &Exchange) -> Self {
        Session {
            repository: exchange.route.repository.clone(),
            bytes: exchange.options.keep_uploads.then(BytesMut::new),
            len: 0,
            // All but sha512 uploads need this one; those are hashed again at the end.
            hasher: Digest::sha256(b"").hasher().unwrap(),
            step: 0,
            last_seen: false,
            broken: false,
        }
    }

    /// Takes in the request's body. Over `most` bytes, the rest is read and dropped, and the answer is 413.
    async fn append(&mut self, exchange: &mut Exchange, most: Option<u64>) -> Result<u64, Reply> {
        let most = most.unwrap_or(u64::MAX);
        let announced: Option<u64> = exchange.header("content-length").and_then(|length| length.parse().ok());
        if announced.is_some_and(|length| length > most) {
            return Err(too_large());
        }
        if let (Some(bytes), Some(announced)) = (&mut self.bytes, announced) {
            bytes.reserve(usize::try_from(announced).unwrap_or(0));
        }
        let mut taken = 0;
        while let Some(piece) = exchange.piece().await {
            let Ok(piece) = piece else {
                self.broken = true;
                return Err(error(400, "BLOB_UPLOAD_INVALID", "the body broke off"));
            };
            taken += piece.len() as u64;
            if taken > most {
                return Err(too_large());
            }
            self.len += piece.len() as u64;
            self.hasher.update(&piece);
            if let Some(bytes) = &mut self.bytes {
                bytes.extend_from_slice(&piece);
            }
        }
        Ok(taken)
    }

    /// The blob, if its digest is the one that was said.
    fn complete(self, digest: &Digest) -> Result<Content, Reply> {
        let bytes = self.bytes.map(BytesMut::freeze);
        let right = match (digest.algorithm(), &bytes) {
            ("sha256", _) => self.hasher.finish() == *digest,
            (_, Some(bytes)) => digest.matches(bytes),
            (_, None) => false,
        };
        if !right {
            return Err(error(400, "DIGEST_INVALID", "provided digest did not match uploaded content"));
        }
        Ok(bytes.map_or(Content::Forgotten { len: self.len }, Content::Kept))
    }
}

fn too_large() -> Reply {
    with(reply(413, "<html><body>413 Request Entity Too Large</body></html>"), "content-type", "text/html")
}

/// The refusal of a repository that cannot be pushed to.
pub(super) fn refuse_name(state: &Store, exchange: &Exchange) -> Option<Reply> {
    let repository = &exchange.route.repository;
    if larder::name::RegistryRepository::parse(&format!("registry.example/{repository}")).is_err() {
        return Some(error(400, "NAME_INVALID", format!("invalid repository name: {repository}")));
    }
    (!exchange.options.auto_create && !state.repos.contains_key(repository)).then(|| name_unknown(repository))
}

/// Opens an upload, mounts, or takes a blob at once.
pub(super) async fn post(registry: &Registry, exchange: &mut Exchange) -> Reply {
    if let Some(refusal) = refuse_name(&registry.state.lock(), exchange) {
        return refusal;
    }
    let digest = |key: &str| exchange.route.value(key).and_then(|digest| Digest::parse(digest).ok());
    let repository = exchange.route.repository.clone();
    if let Some(digest) = digest("mount").filter(|_| exchange.options.mount)
        && registry.state.lock().mount(exchange.route.value("from"), &repository, &digest)
    {
        return created(&repository, &digest);
    }
    if let Some(digest) = digest("digest").filter(|_| exchange.options.single_post) {
        let mut session = Session::new(exchange);
        return match session.append(exchange, exchange.options.max_put).await {
            Ok(_) => store(registry, session, &digest),
            Err(refusal) => refusal,
        };
    }
    let id = format!("upload-{}", registry.uploads.counter.fetch_add(1, SeqCst));
    let session = Session::new(exchange);
    let answer = accepted(registry, exchange, &id, &session, 202);
    registry.uploads.lock().insert(id, Arc::new(AsyncMutex::new(session)));
    match exchange.options.chunk_min_length {
        Some(least) => with(answer, "oci-chunk-min-length", least.to_string()),
        None => answer,
    }
}

fn created(repository: &str, digest: &Digest) -> Reply {
    let answer = with(reply(201, ""), "location", format!("/v2/{repository}/blobs/{digest}"));
    with(answer, "docker-content-digest", digest.as_str())
}

fn store(registry: &Registry, session: Session, digest: &Digest) -> Reply {
    let repository = session.repository.clone();
    match session.complete(digest) {
        Ok(content) => {
            registry.state.lock().put_blob(&repository, digest, content);
            created(&repository, digest)
        }
        Err(refusal) => refusal,
    }
}

/// An answer that says where the upload goes on.
fn accepted(registry: &Registry, exchange: &Exchange, id: &str, session: &Session, status: u16) -> Reply {
    let origin = if exchange.options.location_absolute { registry.origin() } else { String::new() };
    let query = if exchange.options.location_query { format!("?_state=step-{}", session.step) } else { String::new() };
    let location = format!("{origin}/v2/{}/blobs/uploads/{id}{query}", session.repository);
    let answer = with(with(reply(status, ""), "location", location), "docker-upload-uuid", id);
    // distribution says `0-0` of an upload that holds nothing.
    with(answer, "range", format!("0-{}", session.len.saturating_sub(1)))
}

/// Whether the request belongs to this upload, and came by its latest `Location`.
fn check_step(exchange: &Exchange, session: &Session) -> Result<(), Reply> {
    if session.repository != exchange.route.repository {
        return Err(unknown());
    }
    let state = format!("step-{}", session.step);
    if exchange.options.location_query && exchange.route.value("_state") != Some(state.as_str()) {
        return Err(error(400, "BLOB_UPLOAD_INVALID", "this is not the upload's latest Location"));
    }
    Ok(())
}

/// Where a chunk says it begins (`Content-Range: a-b`).
fn chunk_start(exchange: &Exchange) -> Option<u64> {
    exchange.header("content-range")?.split_once('-')?.0.parse().ok()
}

pub(super) async fn patch(registry: &Registry, exchange: &mut Exchange) -> Reply {
    if !exchange.options.chunked {
        return error(405, "UNSUPPORTED", "chunked uploads are not supported");
    }
    let id = exchange.route.reference.clone();
    let shared = match registry.uploads.find(exchange) {
        Ok(shared) => shared,
        Err(refusal) => return refusal,
    };
    let mut session = shared.lock().await;
    if let Err(refusal) = check_step(exchange, &session) {
        return refusal;
    }
    let out_of_order = chunk_start(exchange).is_some_and(|start| start != session.len);
    if out_of_order || session.last_seen {
        return accepted(registry, exchange, &id, &session, 416);
    }
    match session.append(exchange, None).await {
        Ok(taken) => {
            session.step += 1;
            session.last_seen = exchange.options.chunk_min_length.is_some_and(|least| taken < least);
            accepted(registry, exchange, &id, &session, 202)
        }
        Err(refusal) => {
            registry.uploads.drop_broken(exchange, &session);
            refusal
        }
    }
}

pub(super) async fn put(registry: &Registry, exchange: &mut Exchange) -> Reply {
    let Some(digest) = exchange.route.value("digest").and_then(|digest| Digest::parse(digest).ok()) else {
        return error(400, "DIGEST_INVALID", "the digest is missing or is none");
    };
    let shared = match registry.uploads.find(exchange) {
        Ok(shared) => shared,
        Err(refusal) => return refusal,
    };
    let mut session = shared.lock().await;
    if let Err(refusal) = check_step(exchange, &session) {
        return refusal;
    }
    // Some registries do not look at the range of a last chunk; one that is wrong would make another blob.
    if chunk_start(exchange).is_some_and(|start| start != session.len) {
        return accepted(registry, exchange, &exchange.route.reference, &session, 416);
    }
    if let Err(refusal) = session.append(exchange, exchange.options.max_put).await {
        registry.uploads.drop_broken(exchange, &session);
        return refusal;
    }
    registry.uploads.lock().remove(&exchange.route.reference);
    let session = std::mem::replace(&mut *session, Session::new(exchange));
    store(registry, session, &digest)
}

pub(super) async fn get(registry: &Registry, exchange: &mut Exchange) -> Reply {
    let shared = match registry.uploads.find(exchange) {
        Ok(shared) => shared,
        Err(refusal) => return refusal,
    };
    let session = shared.lock().await;
    accepted(registry, exchange, &exchange.route.reference, &session, 204)
}

pub(super) fn delete(registry: &Registry, exchange: &Exchange) -> Reply {
    match registry.uploads.lock().remove(&exchange.route.reference) {
        Some(_) => reply(204, Bytes::new()),
        None => unknown(),
    }
}
