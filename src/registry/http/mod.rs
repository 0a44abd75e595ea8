//! The HTTP clients of one registry: timeouts, TLS, proxies, and where its API is.
//!
//! Redirects and retries are not done here: the transport does both itself, because each is a request that upstreams count.

mod handshake;
#[cfg(test)]
pub(in crate::registry) mod tests;
mod tls;
mod validity;
mod verify;

use crate::Operation;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::Client;
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};
use rustls::ClientConfig;
use url::{Host, Url};

pub(crate) use handshake::{Handshake, shake_hands};
pub(crate) use tls::HttpSettings;

use super::address::{AddressGuard, AddressPolicy, ProxyVariables, is_loopback_name, trim_dot};
use crate::config::profiles;
use crate::error::{Error, Result};

/// A registry that takes longer than this to accept a connection is down, or behind a firewall that drops: retrying helps
/// sooner than waiting. The measure that curl's and containerd's users have arrived at lies between 5 and 30 s.
const CONNECT: Duration = Duration::from_secs(10);

/// Idle connections are kept for less time than servers keep theirs (nginx 75 s, AWS load balancers 60 s), so that a request is
/// seldom written into a connection that the other side is closing.
const IDLE: Duration = Duration::from_secs(30);

/// A silent connection is probed after this time, and again each time it passes. 15 s: the mappings of NATs and load balancers outlive it (the
/// shortest commonly met is 60 s), so that an upload is not cut off while the registry hashes what it got. Three probes without an answer
/// end the connection after 60 s, as the transport's own silence does.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(15);

/// An HTTP/2 connection with requests under way is asked for a PING after this time of silence. All small requests share it, and new ones
/// join it: without the PING, a connection that the network dropped fails each of them after 60 s; with it, they get a new one after 30 s.
/// Unused ones are not asked: they are closed after [`IDLE`].
const HTTP2_PING: Duration = Duration::from_secs(20);

/// An HTTP/2 PING is answered within this time by every server that is still there.
const HTTP2_PING_ANSWER: Duration = Duration::from_secs(10);

/// Idle connections kept to one host by each client: as many as requests may be in flight by default. With HTTP/1.1 each needs its own; fewer
/// would be closed and opened again whenever the number in flight varies.
const IDLE_CONNECTIONS: usize = profiles::CONCURRENCY;

/// The clients of one registry. Cloning shares their connections. None has reqwest's `read_timeout`: it takes a slow reader for
/// a silent server, and the time that sending a body takes too; the transport watches silence itself.
#[derive(Clone)]
pub(crate) struct Clients {
    /// Manifests, tags, HEADs, tokens: small bodies, HTTP/2 where offered.
    pub(crate) api: Client,
    /// Blobs, down and up. HTTP/1.1 only, a connection for each transfer: HTTP/2 puts all transfers to a host on one connection, whose window
    /// then limits them together (reqwest#2777, zot#4333).
    pub(crate) bulk: Client,
    /// What their TLS connections begin with.
    pub(crate) tls: Arc<ClientConfig>,
    /// Keeps no connection, so that each request has one of its own. Made when it is first needed: when bytes came damaged.
    fresh: Arc<OnceLock<Client>>,
    make_fresh: Arc<dyn Fn() -> Result<Client> + Send + Sync>,
}

impl Clients {
    /// For a request that needs a connection of its own.
    pub(crate) fn fresh(&self) -> &Client {
        if self.fresh.get().is_none()
            && let Ok(client) = (self.make_fresh)()
        {
            let _ = self.fresh.set(client);
        }
        self.fresh.get().unwrap_or(&self.bulk)
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").finish_non_exhaustive()
    }
}

/// Makes the clients of one registry. Errors name the file of the configuration that is at fault.
pub(crate) fn build(settings: &HttpSettings, policy: &Arc<AddressPolicy>) -> Result<Clients> {
    install_crypto();
    let tls = tls::config(settings)?;
    let shared = Arc::new(tls.clone());
    let policy = Arc::clone(policy);
    let proxies = ProxyVariables::of_process()?;
    let common = move |protocols: &[&[u8]]| {
        let mut tls = tls.clone();
        tls.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        proxies
            .apply(Client::builder())
            .tls_backend_preconfigured(tls)
            .user_agent(concat!("larder/", env!("CARGO_PKG_VERSION")))
            // Digests are of the bytes as they were pushed: proxies may not compress them on the way.
            .default_headers(HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("identity"))]))
            .redirect(reqwest::redirect::Policy::none())
            // reqwest would replay requests that HTTP/2 refused; none may leave uncounted.
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
            .tcp_keepalive(TCP_KEEP_ALIVE)
            .tcp_keepalive_interval(TCP_KEEP_ALIVE)
            .tcp_keepalive_retries(3)
            .http2_keep_alive_interval(HTTP2_PING)
            .http2_keep_alive_timeout(HTTP2_PING_ANSWER)
            .dns_resolver(AddressGuard::new(Arc::clone(&policy)))
    };
    let unusable = |error: reqwest::Error| Error::local(Operation::SetUpHttp, causes(&error));
    Ok(Clients {
        api: common(&[b"h2", b"http/1.1"]).pool_max_idle_per_host(IDLE_CONNECTIONS).build().map_err(unusable)?,
        bulk: common(&[b"http/1.1"]).http1_only().pool_max_idle_per_host(IDLE_CONNECTIONS).build().map_err(unusable)?,
        fresh: Arc::default(),
        make_fresh: Arc::new(move || common(&[b"http/1.1"]).http1_only().pool_max_idle_per_host(0).build().map_err(unusable)),
        tls: shared,
    })
}

/// Reads the files that `settings` names, as [`build`] will.
///
/// # Errors
/// Which of them is at fault, and why.
pub(crate) fn check_files(settings: &HttpSettings) -> Result<()> {
    install_crypto();
    tls::config(settings).map(drop)
}

/// Makes ring the process's TLS provider. Calling it again, or after a provider was installed, changes nothing.
pub(crate) fn install_crypto() {
    // The error says that a provider is installed already, which is what is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// An error with what caused it, in one line: reqwest's own text ends at "builder error".
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Some errors repeat their cause in their own text.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// Where the API of the registry called `host` is: the root below which `v2/` lies. The path always ends in `/`.
///
/// `configured` is its `endpoint`, which wins, with or without a scheme; `plain_http` its setting of that name. Without them
/// loopback addresses are spoken to in plain http, everything else by https. Docker Hub's API is not at its name.
pub(crate) fn endpoint(host: &str, configured: Option<&str>, plain_http: Option<bool>) -> Result<Url> {
    let given = configured.or_else(|| profiles::recognised(host)?.endpoint).unwrap_or(host);
    if given.contains('@') {
        // Not repeated: it holds a secret.
        let error = Error::local(Operation::ReadEndpoint, "it holds a user name or password");
        return Err(error.subject(host).remedy("put them under [[credentials]]"));
    }
    let wrong = |what: &str| Error::local(Operation::ReadEndpoint, format!("`{given}` {what}")).subject(host);
    let parse = |scheme: &str, rest: &str| Url::parse(&format!("{scheme}://{rest}")).map_err(|error| wrong(&format!("is no URL: {error}")));
    // The scheme is settled before the URL is read, so that `localhost:443` in plain http keeps its port.
    let mut url = match (given.split_once("://"), plain_http) {
        (Some((scheme, _)), _) if !matches!(scheme, "http" | "https") => return Err(wrong("is neither http nor https")),
        (Some((_, rest)), Some(true)) => parse("http", rest)?,
        (Some((scheme, rest)), _) => parse(scheme, rest)?,
        (None, Some(true)) => parse("http", given)?,
        (None, Some(false)) => parse("https", given)?,
        (None, None) => {
            let url = parse("https", given)?;
            if is_loopback(&url) { parse("http", given)? } else { url }
        }
    };
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("has a query or fragment; give scheme, host and path"));
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => is_loopback_name(trim_dot(name)),
        None => false,
    }
}
