//! A fake registry that is a real one: it keeps what is pushed and serves it, as distribution-spec 1.1 says, on a port of
//! its own, in a runtime of its own (so that tests without one, which run the binary, can use it).
//!
//! [`Options`] choose the registry it resembles, [`Fault`]s let single requests go wrong, the log counts everything.

mod acr;
mod auth;
mod blobs;
mod cdn;
mod content;
mod faults;
mod limits;
mod lists;
mod log;
mod manifests;
mod options;
mod reply;
mod route;
mod service;
mod state;
mod uploads;
mod wire;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use larder::content::Digest;
use tokio::sync::oneshot;

pub use acr::{Acr, PROXY_PROJECT};
pub use auth::{Auth, BASIC_AND_BEARER, EMPTY_SCOPE, LOWER_CASE, NO_SCOPE, NO_SERVICE, QUOTED, Tokens, UNQUOTED};
pub use faults::{Chance, FOREVER, Fault, Gate, Match};
pub use log::{Kind, Request};
pub use options::{Link, Options, Pulls, Rate, Redirect};
pub use reply::{Reply, error, reply, with};

use content::Content;
use service::Registry;
use state::Stored;

/// The account of who sends no credentials.
pub const ANONYMOUS: &str = "anonymous";

/// A running fake registry; it stops when it is dropped, and breaks the connections it has.
pub struct Fake {
    registry: Arc<Registry>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// After its end: its port, bound and not listened on, so that it refuses and no other test gets it.
    tombstone: Option<tokio::net::TcpSocket>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Fake {
    /// A registry as the specification has it, open to everybody.
    pub fn start() -> Self {
        Fake::with(Options::default())
    }

    /// A registry that behaves as `options` say.
    pub fn with(options: Options) -> Self {
        let bind = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            let address = listener.local_addr().unwrap();
            (listener, address)
        };
        let ((front, address), (back, cdn_address)) = (bind(), bind());
        let registry = Arc::new(Registry {
            options: Mutex::new(Arc::new(options)),
            state: state::State::default(),
            log: Arc::default(),
            faults: faults::Faults::default(),
            issued: auth::Issued::default(),
            limits: limits::Limits::default(),
            uploads: uploads::Uploads::default(),
            links: cdn::Links::default(),
            pending: acr::Pending::default(),
            address,
            cdn_address,
        });
        let (stop, stopped) = oneshot::channel();
        let shared = registry.clone();
        let thread = std::thread::Builder::new().name(format!("fake-{}", address.port())).spawn(move || run(shared, front, back, stopped));
        Fake { registry, stop: Some(stop), thread: Some(thread.unwrap()), tombstone: None }
    }

    /// Stops it now: connections break, the port refuses. What was asked can still be read.
    pub fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            let kept = socket.set_reuseaddr(true).and_then(|()| socket.bind(self.registry.address));
            self.tombstone = kept.is_ok().then_some(socket);
        }
    }

    /// `127.0.0.1:PORT`
    pub fn addr(&self) -> String {
        self.registry.address.to_string()
    }
    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        self.registry.origin()
    }
    /// The second host that blob GETs are redirected to.
    pub fn cdn_addr(&self) -> SocketAddr {
        self.registry.cdn_address
    }
    /// `127.0.0.1:PORT/name`, as lists and rules write it.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.addr())
    }

    /// Changes how it behaves from the next request on.
    pub fn configure(&self, change: impl FnOnce(&mut Options)) {
        let mut options = self.registry.options.lock().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut options));
    }

    /// Lets the next `times` requests that `matching` fits go wrong ([`FOREVER`]: all). Faults are taken in the order in which they
    /// were given; they meet requests that have passed rate limits and credentials.
    pub fn fault(&self, matching: Match, times: usize, fault: Fault) {
        self.registry.faults.add(matching, times, fault);
    }
    /// Lets requests that `matching` fits go wrong now and then, if no ordered fault fits them.
    pub fn sporadic_fault(&self, matching: Match, chance: Chance, fault: Fault) {
        self.registry.faults.add_sporadic(matching, chance, fault);
    }
    pub fn clear_faults(&self) {
        self.registry.faults.clear();
    }
    /// Faults on order that have not (fully) happened; those that are to happen forever do not count.
    pub fn faults_left(&self) -> usize {
        self.registry.faults.pending()
    }

    /// Makes all tokens handed out so far worthless.
    pub fn revoke_tokens(&self) {
        self.registry.issued.revoke();
    }
}

/// What was asked.
impl Fake {
    /// All requests since the start, or the last [`Fake::reset_log`], in order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.registry.log.requests()
    }
    pub fn count(&self, kind: Kind) -> usize {
        self.count_matching(|request| request.kind == kind)
    }
    pub fn count_matching(&self, matching: impl Fn(&Request) -> bool) -> usize {
        self.requests().iter().filter(|request| matching(request)).count()
    }
    pub fn reset_log(&self) {
        self.registry.log.reset();
    }
    /// The most requests that were being answered at one time, both hosts together.
    pub fn max_in_flight(&self) -> usize {
        self.registry.log.max_in_flight()
    }
    /// Body bytes sent, both hosts together.
    pub fn bytes_sent(&self) -> u64 {
        self.registry.log.sent.load(SeqCst)
    }
    /// Body bytes received.
    pub fn bytes_received(&self) -> u64 {
        self.registry.log.received.load(SeqCst)
    }
    /// Waits until `condition` holds of the requests so far; `false` if it does not come to that within `timeout`. It
    /// blocks: in an async test, [`Fake::reached`] lets the test's own requests go on meanwhile.
    pub fn wait_until(&self, timeout: Duration, condition: impl Fn(&[Request]) -> bool) -> bool {
        self.registry.log.wait_until(timeout, condition)
    }
    /// [`Fake::wait_until`] for async tests.
    pub async fn reached(&self, timeout: Duration, condition: impl Fn(&[Request]) -> bool + Send + 'static) -> bool {
        let log = self.registry.log.clone();
        tokio::task::spawn_blocking(move || log.wait_until(timeout, condition)).await.unwrap()
    }

    /// Manifest GETs that the pull limit has let pass for `account` ([`ANONYMOUS`], or a user), over all windows.
    pub fn pulls(&self, account: &str) -> u64 {
        self.registry.limits.pulled(account)
    }
    /// Windows in which `account` has pulled.
    pub fn windows(&self, account: &str) -> u64 {
        self.registry.limits.opened(account)
    }
    /// Ends the window of every account now; the next pull opens another.
    pub fn end_windows(&self) {
        self.registry.limits.end();
    }
    /// Manifest GETs that the pull limit has refused.
    pub fn pull_refusals(&self) -> u64 {
        self.registry.limits.refused()
    }
    /// Spends `n` pulls of `account` as another client of it would; `false` if the window does not hold them.
    pub fn spend_pulls(&self, account: &str, n: u32) -> bool {
        let pulls = self.registry.options().pulls.clone().expect("a registry with a pull limit");
        self.registry.limits.spend(&pulls, account, n)
    }
    /// Requests that the limit per second has refused.
    pub fn throttled(&self) -> u64 {
        self.registry.limits.throttled()
    }
    /// Uploads that were opened, and neither completed nor cancelled.
    pub fn open_uploads(&self) -> usize {
        self.registry.uploads.open()
    }
    /// Forgets open uploads, as a registry that restarts may.
    pub fn forget_uploads(&self) {
        self.registry.uploads.forget();
    }
}

/// What it holds.
impl Fake {
    /// Makes an empty repository.
    pub fn create(&self, repository: &str) {
        self.registry.state.lock().repo(repository);
    }
    pub fn put_blob(&self, repository: &str, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::sha256(&bytes);
        self.put_blob_as(repository, &digest, bytes);
        digest
    }
    /// Puts bytes under a digest of any algorithm; it is not checked.
    pub fn put_blob_as(&self, repository: &str, digest: &Digest, bytes: impl Into<Bytes>) {
        self.registry.state.lock().put_blob(repository, digest, Content::Kept(bytes.into()));
    }
    /// Puts `len` bytes of noise that take no memory.
    pub fn put_fill(&self, repository: &str, seed: u64, len: u64) -> Digest {
        let (digest, content) = Content::fill(seed, len);
        self.registry.state.lock().put_blob(repository, &digest, content);
        digest
    }
    /// Puts a manifest by digest, and by tag if one is given; its blobs are not checked.
    pub fn put_manifest(&self, repository: &str, tag: Option<&str>, media_type: &str, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::sha256(&bytes);
        self.put_manifest_as(repository, &digest, media_type, bytes);
        if let Some(tag) = tag {
            self.tag(repository, tag, &digest);
        }
        digest
    }
    /// Puts a manifest under a digest of any algorithm; it is not checked.
    pub fn put_manifest_as(&self, repository: &str, digest: &Digest, media_type: &str, bytes: impl Into<Bytes>) {
        let stored = Stored { media_type: media_type.to_owned(), bytes: bytes.into() };
        self.registry.state.lock().repo(repository).manifests.insert(digest.clone(), stored);
    }
    /// Lets a tag name a digest, whether or not there is such a manifest.
    pub fn tag(&self, repository: &str, tag: &str, digest: &Digest) {
        self.registry.state.lock().repo(repository).tags.insert(tag.to_owned(), digest.clone());
    }
    pub fn untag(&self, repository: &str, tag: &str) {
        self.registry.state.lock().repo(repository).tags.remove(tag);
    }
    pub fn has_blob(&self, repository: &str, digest: &Digest) -> bool {
        self.registry.state.lock().blob(repository, digest).is_some()
    }
    /// A blob's bytes, if they are kept.
    pub fn blob(&self, repository: &str, digest: &Digest) -> Option<Bytes> {
        match self.registry.state.lock().blob(repository, digest)? {
            Content::Kept(bytes) => Some(bytes),
            Content::Fill { .. } | Content::Forgotten { .. } => None,
        }
    }
    /// Removes a blob from one repository.
    pub fn delete_blob(&self, repository: &str, digest: &Digest) {
        self.registry.state.lock().repo(repository).blobs.remove(digest);
    }
    /// Media type and bytes of what a tag or digest names.
    pub fn manifest(&self, repository: &str, reference: impl AsRef<str>) -> Option<(String, Bytes)> {
        let (_, stored) = self.registry.state.lock().manifest(repository, reference.as_ref())?;
        Some((stored.media_type, stored.bytes))
    }
    /// The digest that a tag names.
    pub fn digest(&self, repository: &str, tag: &str) -> Option<Digest> {
        self.registry.state.lock().repos.get(repository)?.tags.get(tag).cloned()
    }
    pub fn delete_manifest(&self, repository: &str, digest: &Digest) {
        self.registry.state.lock().repo(repository).manifests.remove(digest);
    }
    /// The tags of a repository, sorted.
    pub fn tags(&self, repository: &str) -> Vec<String> {
        self.registry.state.lock().repos.get(repository).map(|repo| repo.tags.keys().cloned().collect()).unwrap_or_default()
    }
    /// All repositories, sorted.
    pub fn repositories(&self) -> Vec<String> {
        self.registry.state.lock().repos.keys().cloned().collect()
    }
}

/// Serves both hosts until `stopped`.
fn run(registry: Arc<Registry>, front: std::net::TcpListener, back: std::net::TcpListener, stopped: oneshot::Receiver<()>) {
    // Two workers: hashing what one upload brings must not hold back all others.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async move {
        let counter = Arc::new(AtomicU64::new(0));
        let door = |listener| wire::Door { listener: tokio::net::TcpListener::from_std(listener).unwrap(), counter: counter.clone() };
        let first = Router::new().fallback(service::registry).with_state(registry.clone());
        let second = Router::new().fallback(service::second).with_state(registry);
        tokio::select! {
            _ = axum::serve(door(front), first.into_make_service_with_connect_info::<wire::Connection>()) => {}
            _ = axum::serve(door(back), second.into_make_service_with_connect_info::<wire::Connection>()) => {}
            _ = stopped => {}
        }
    });
    runtime.shutdown_background();
}
