//! `[registry."…"]`: how to speak to one registry.

use std::path::PathBuf;

use std::time::Duration;

use url::Url;

use super::profiles::{self, Profile};
pub use crate::limits::{PullLimit, Rate};
use crate::name::normal_host;

/// How to speak to a registry, upstream or target. Everything is optional.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RegistrySettings {
    /// Where its API is really reached: scheme and host, no path.
    pub endpoint: Option<Url>,
    /// HTTP instead of HTTPS; see [`is_plain`](Self::is_plain) for what it means when absent.
    pub plain_http: Option<bool>,
    /// More certificate authorities to trust (PEM).
    pub ca: Option<PathBuf>,
    /// The client's certificate (PEM); with `client_key`.
    pub client_cert: Option<PathBuf>,
    /// The client's key (PEM); with `client_cert`.
    pub client_key: Option<PathBuf>,
    /// Accept any certificate.
    pub insecure_skip_verify: bool,
    /// Requests in flight at most, at least 1; `None`: as many as its profile allows.
    pub concurrency: Option<usize>,
    /// Lift the rule that a public registry may not send larder to private addresses.
    pub allow_private: bool,
    /// The kind of registry it is to be taken for; see [`profile`](Self::profile) for what it means when absent.
    pub profile: Option<&'static Profile>,
    /// What is known of its pull budget beforehand.
    pub pulls: Option<PullLimit>,
    /// Requests a second, more than 0.
    pub requests_per_second: Option<f64>,
    /// Bytes a second, read and written together.
    pub bandwidth: Option<Rate>,
    /// A blob that comes slower than this over a minute is broken off and continued.
    pub min_rate: Option<Rate>,
    /// The longest `Retry-After` that is waited for.
    pub retry_after_max: Option<Duration>,
}

impl RegistrySettings {
    /// Whether `host` is spoken to without TLS: what the endpoint says, else `plain_http`, else only a loopback address.
    pub fn is_plain(&self, host: &str) -> bool {
        match (&self.endpoint, self.plain_http) {
            (Some(endpoint), _) => endpoint.scheme() == "http",
            (None, Some(plain)) => plain,
            (None, None) => is_loopback(host),
        }
    }

    /// What kind of registry `host` is taken for: as configured, else as its name tells.
    pub fn profile(&self, host: &str) -> Option<&'static Profile> {
        self.profile.or_else(|| profiles::recognised(host))
    }

    /// The endpoint's host and port, written as hosts are.
    pub fn endpoint_host(&self) -> Option<String> {
        let endpoint = self.endpoint.as_ref()?;
        let host = endpoint.host_str()?;
        let text = match endpoint.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        normal_host(&text).ok()
    }
}

/// `localhost`, a name below it (RFC 6761 section 6.3), or a literal loopback address.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name == "localhost" || name.ends_with(".localhost") || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_the_default_for_loopback_only() {
        let settings = RegistrySettings::default();
        for (host, plain) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.1.2.3", true),
            ("[::1]:5000", true),
            ("docker.io", false),
            ("10.0.0.1:5000", false),
            ("localhost.example.com", false),
        ] {
            assert_eq!(settings.is_plain(host), plain, "{host}");
        }
        let with = |endpoint: Option<&str>, plain_http| RegistrySettings {
            endpoint: endpoint.map(|text| Url::parse(text).unwrap()),
            plain_http,
            ..RegistrySettings::default()
        };
        assert!(!with(None, Some(false)).is_plain("localhost"));
        assert!(with(None, Some(true)).is_plain("quay.io"));
        assert!(with(Some("http://mirror:5000"), None).is_plain("quay.io"));
        assert!(!with(Some("https://127.0.0.1:5000"), None).is_plain("localhost"));
        assert_eq!(with(Some("http://Mirror:5000"), None).endpoint_host().as_deref(), Some("mirror:5000"));
        assert_eq!(with(Some("https://registry-1.docker.io"), None).endpoint_host().as_deref(), Some("docker.io"));
    }
}
