//! Which requests go through an HTTP proxy. Behind one, names are resolved by the proxy, and looking them up here would
//! answer a question nobody asked (or none: such machines often resolve no outside name).

use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

/// The proxies of the environment: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in either case.
///
/// This is the matcher that reqwest itself decides with, so that the two never disagree about a URL.
#[derive(Debug)]
pub(super) struct Proxies {
    matcher: Matcher,
    /// The proxies' own host names, which must be connected to wherever they are.
    hosts: Vec<String>,
}

impl Proxies {
    /// As the environment (and, on macOS and Windows, the system) has them now.
    pub(super) fn from_system() -> Self {
        Self::new(Matcher::from_system())
    }

    pub(super) fn new(matcher: Matcher) -> Self {
        // Any host shows the proxy of its scheme, unless NO_PROXY excepts it; `.invalid` is nobody's (RFC 2606).
        let hosts = ["http://larder.invalid/", "https://larder.invalid/"]
            .iter()
            .filter_map(|probe| Some(matcher.intercept(&probe.parse().ok()?)?.uri().host()?.to_ascii_lowercase()))
            .collect();
        Proxies { matcher, hosts }
    }

    /// Whether a proxy will resolve the host of `url`.
    pub(super) fn carry(&self, url: &Url) -> bool {
        url.as_str().parse().is_ok_and(|uri| self.matcher.intercept(&uri).is_some())
    }

    /// Whether `host` is a proxy's own name.
    pub(super) fn named(&self, host: &str) -> bool {
        self.hosts.iter().any(|proxy| proxy == host)
    }
}
