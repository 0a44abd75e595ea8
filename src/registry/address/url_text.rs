//! URLs and host names as text.

use url::Url;

/// A URL as messages show it: without query, fragment and user, where secrets stand.
pub(crate) fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{host}{port}{}", url.scheme(), url.path())
}

/// Whether a host name means this machine without asking anyone (RFC 6761 section 6.3, and what Linux puts in `/etc/hosts`).
pub(crate) fn is_loopback_name(name: &str) -> bool {
    matches!(name, "localhost" | "localhost.localdomain" | "ip6-localhost" | "ip6-loopback") || name.ends_with(".localhost")
}

/// `example.com.` is `example.com`.
pub(crate) fn trim_dot(name: &str) -> &str {
    name.trim_end_matches('.')
}

/// Host and port, as messages name a server.
pub(crate) fn host_and_port(url: &Url) -> String {
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{}:{port}", url.host_str().unwrap_or_default())
}
