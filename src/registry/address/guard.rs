//! The check at the moment of connecting, against names that change their mind (DNS rebinding): [`AddressPolicy::check`] may
//! have seen a public address a second ago.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::ranges::{AddressReach, reach};
use super::{AddressPolicy, trim_dot};

/// Looks names up. The system does it; tests have their own.
#[async_trait]
pub(super) trait NameResolver: fmt::Debug + Send + Sync {
    /// All addresses of `host`.
    async fn lookup(&self, host: &str) -> std::io::Result<Vec<IpAddr>>;
}

/// The system's resolver.
#[derive(Debug)]
pub(super) struct SystemResolver;

#[async_trait]
impl NameResolver for SystemResolver {
    async fn lookup(&self, host: &str) -> std::io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect())
    }
}

/// The resolver of one registry's clients: it leaves out the addresses that registry may not send us to.
#[derive(Debug)]
pub(crate) struct AddressGuard(pub(super) Arc<AddressPolicy>);

impl Resolve for AddressGuard {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = Arc::clone(&self.0);
        Box::pin(async move {
            let permitted = policy.permitted(name.as_str()).await?;
            // Port 0: the connector puts the URL's port, or the scheme's, in its place.
            Ok(Box::new(permitted.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs)
        })
    }
}

impl AddressPolicy {
    /// The addresses of `name` that may be connected to; none left is [`Blocked`].
    pub(super) async fn permitted(&self, name: &str) -> Result<Vec<IpAddr>, Box<dyn std::error::Error + Send + Sync>> {
        // What the registry's own name means is settled by the first lookup of the run, before any other is made.
        let private = self.private_allowed().await;
        let all = self.names.lookup(name).await?;
        let name = trim_dot(name).to_ascii_lowercase();
        if self.proxies.named(&name) {
            return Ok(all);
        }
        // A registry may be at a public and a private address. One that was not there at first is where somebody else's DNS
        // answer leads us (rebinding).
        let known = if self.is_own_name(&name) { self.first_addresses().await } else { &[] };
        let mut permitted = Vec::with_capacity(all.len());
        let mut worst = None;
        for ip in all {
            match reach(ip) {
                AddressReach::Private(what) if !private && !known.contains(&ip) => worst = Some((ip, what)),
                AddressReach::Never(what) => worst = Some((ip, what)),
                AddressReach::Private(_) | AddressReach::Public => permitted.push(ip),
            }
        }
        match worst {
            Some((ip, what)) if permitted.is_empty() => Err(Box::new(Blocked(format!("`{name}` is at {ip} ({what})")))),
            _ => Ok(permitted),
        }
    }
}

/// The error of a connection that was not made because of where it would have led.
#[derive(Debug)]
pub(crate) struct Blocked(String);

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Blocked {}

/// Why a request failed, if the guard stopped it: then the registry is not to be trusted, and trying again is no use.
pub(crate) fn blocked(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(blocked) = error.downcast_ref::<Blocked>() {
            return Some(blocked.to_string());
        }
        next = error.source();
    }
    None
}
