//! Name lookups, and the error of a lookup whose addresses may not be connected to.

use std::fmt;
use std::net::IpAddr;

use async_trait::async_trait;

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

/// The error of a connection that was not made because of where it would have led.
#[derive(Debug)]
pub(crate) struct Blocked(pub(super) String);

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
