//! The check at the moment of connecting. It protects against DNS rebinding: [`AddressPolicy::check`] may have seen a public
//! address a second ago.

use std::net::SocketAddr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::policy::AddressPolicy;

/// The DNS resolver of one registry's clients. It leaves out the addresses that the registry may not send us to.
#[derive(Debug)]
pub(crate) struct AddressGuard(Arc<AddressPolicy>);

impl AddressGuard {
    /// The resolver that applies `policy`.
    pub(crate) fn new(policy: Arc<AddressPolicy>) -> Arc<Self> {
        Arc::new(AddressGuard(policy))
    }
}

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
