//! The rule: which addresses one registry may make us connect to.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::sync::OnceCell;
use url::{Host, Url};

use super::proxy::Proxies;
use super::ranges::{AddressReach, reach};
use super::resolver::{Blocked, NameResolver, SystemResolver};
use super::url_text::{is_loopback_name, shown, trim_dot};

/// Names under which clouds serve a machine's credentials, for the case that no lookup shows the address (a proxy resolves).
/// Google, AWS, Azure, Tencent, in their documentation of instance metadata.
const METADATA_NAMES: &[&str] = &[
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
    "metadata.azure.internal",
    "metadata.tencentyun.com",
];

/// What one registry may make us connect to.
#[derive(Debug)]
pub(crate) struct AddressPolicy {
    /// The registry's API, as configured: the user chose this address.
    pub(super) endpoint: Url,
    allow_private: bool,
    proxies: Proxies,
    names: Box<dyn NameResolver>,
    /// What the registry's own name meant at first.
    first: OnceCell<Vec<IpAddr>>,
}

impl AddressPolicy {
    /// The policy for the registry at `endpoint`; `allow_private` is its setting of that name.
    pub(crate) fn new(endpoint: &Url, allow_private: bool) -> Self {
        Self::with(endpoint, allow_private, Proxies::from_environment(), Box::new(SystemResolver))
    }

    pub(super) fn with(endpoint: &Url, allow_private: bool, proxies: Proxies, names: Box<dyn NameResolver>) -> Self {
        AddressPolicy { endpoint: endpoint.clone(), allow_private, proxies, names, first: OnceCell::new() }
    }

    /// Whether this registry may send us to `url`; the error says why not, without the URL's query (which may be a secret).
    ///
    /// A name that does not resolve is let through: connecting to it fails by itself, and says so better.
    pub(crate) async fn check(&self, url: &Url) -> Result<(), String> {
        let shown = shown(url);
        match url.scheme() {
            "https" => {}
            "http" if self.endpoint.scheme() == "https" => {
                return Err(format!("`{shown}` is not encrypted, while the registry itself is reached by https"));
            }
            "http" => {}
            _ => return Err(format!("`{shown}` is neither http nor https")),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(format!("`{shown}` comes with a user name or password in it"));
        }
        let addresses = match url.host() {
            None => return Err(format!("`{shown}` names no host")),
            Some(Host::Ipv4(ip)) => vec![IpAddr::V4(ip)],
            Some(Host::Ipv6(ip)) => vec![IpAddr::V6(ip)],
            Some(Host::Domain(name)) => {
                let name = trim_dot(name);
                if METADATA_NAMES.contains(&name) {
                    return Err(format!("`{shown}` is a cloud's metadata service"));
                }
                self.addresses(name, url).await
            }
        };
        for ip in addresses {
            match reach(ip) {
                AddressReach::Public => {}
                AddressReach::Never(what) => return Err(format!("`{shown}` is at {ip} ({what}), where no registry may send us")),
                AddressReach::Private(_) if self.private_allowed().await => {}
                AddressReach::Private(what) => {
                    return Err(format!(
                        "`{shown}` is at {ip} ({what}), where a public registry may not send us; `allow_private = true` for this registry permits it"
                    ));
                }
            }
        }
        Ok(())
    }

    /// The addresses of a name that are to be judged; none for a name that needs no judging.
    async fn addresses(&self, name: &str, url: &Url) -> Vec<IpAddr> {
        if is_loopback_name(name) {
            return vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
        }
        if self.proxies.carry(url) && !self.proxies.named(name) {
            // Resolved elsewhere.
            return Vec::new();
        }
        self.names.lookup(name).await.unwrap_or_default()
    }

    /// Host and port of the proxy that requests to `url` go through, if they do.
    pub(crate) fn proxy_of(&self, url: &Url) -> Option<String> {
        self.proxies.of(url)
    }

    /// Whether the registry itself is on this machine or its own network. One whose name does not resolve, or is resolved by a
    /// proxy, counts as public.
    pub(crate) async fn registry_is_private(&self) -> bool {
        let first = self.first_addresses().await;
        !first.is_empty() && first.iter().all(|ip| matches!(reach(*ip), AddressReach::Private(_)))
    }

    /// What the registry's own name, or address, meant at first; nothing where a proxy resolves it, or nobody could so far.
    async fn first_addresses(&self) -> &[IpAddr] {
        // Only an answer is kept: a resolver that failed once may not make a private registry public for the whole run.
        let found = self.first.get_or_try_init(|| async {
            match self.endpoint.host() {
                None => Ok(vec![]),
                Some(Host::Ipv4(ip)) => Ok(vec![ip.into()]),
                Some(Host::Ipv6(ip)) => Ok(vec![ip.into()]),
                Some(Host::Domain(name)) if is_loopback_name(trim_dot(name)) => Ok(vec![Ipv4Addr::LOCALHOST.into()]),
                Some(Host::Domain(_)) if self.proxies.carry(&self.endpoint) => Ok(vec![]),
                Some(Host::Domain(name)) => match self.names.lookup(trim_dot(name)).await {
                    Ok(addresses) if !addresses.is_empty() => Ok(addresses),
                    _ => Err(()),
                },
            }
        });
        found.await.map_or(&[], Vec::as_slice)
    }

    /// Where `url` would be connected to directly; nothing where a proxy carries it, or it may not be connected to.
    pub(crate) async fn direct_addresses(&self, url: &Url) -> Vec<SocketAddr> {
        let Some(port) = url.port_or_known_default().filter(|_| !self.proxies.carry(url)) else { return vec![] };
        let ips = match url.host() {
            None => vec![],
            Some(Host::Ipv4(ip)) => vec![ip.into()],
            Some(Host::Ipv6(ip)) => vec![ip.into()],
            Some(Host::Domain(name)) => self.permitted(name).await.unwrap_or_default(),
        };
        ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()
    }

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

    async fn private_allowed(&self) -> bool {
        self.allow_private || self.registry_is_private().await
    }

    fn is_own_name(&self, name: &str) -> bool {
        matches!(self.endpoint.host(), Some(Host::Domain(own)) if trim_dot(own) == name)
    }
}
