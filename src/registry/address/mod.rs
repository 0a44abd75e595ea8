//! Where a registry may send us: by a token realm, a redirect, an upload Location, a foreign layer's URL.
//!
//! An upstream is not trusted. A public registry that sends larder to `127.0.0.1` or `10.0.0.7` wants something that larder can
//! reach and it cannot; one that sends it to `169.254.169.254` wants the machine's cloud credentials. [`AddressPolicy::check`]
//! judges a URL before anything is sent; [`AddressGuard`] judges again when the connection is made, because a name may resolve
//! to another address by then. Logins are not decided here, nor is any request sent.

mod guard;
mod policy;
mod proxy;
mod ranges;
mod resolver;
#[cfg(test)]
mod tests;
mod url_text;

pub(crate) use guard::AddressGuard;
pub(crate) use policy::AddressPolicy;
pub(crate) use proxy::Variables as ProxyVariables;
pub(crate) use resolver::blocked;
pub(crate) use url_text::{host_and_port, is_loopback_name, shown, trim_dot};
