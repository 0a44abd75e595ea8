//! How to speak to one host: `[registry."host"]` in the registry client's terms.

use std::sync::Arc;
use std::time::Duration;

use super::http::HttpSettings;
use crate::config::profiles::Profile;
use crate::limits::{PullLimit, Rate};

/// How to speak to one host: what `[registry."host"]` says.
#[derive(Debug, Clone, Default)]
pub(crate) struct HostSettings {
    /// Where its API is really reached.
    pub(crate) endpoint: Option<String>,
    /// Whether it speaks plain HTTP; `None`: if it is a loopback address.
    pub(crate) plain_http: Option<bool>,
    /// TLS.
    pub(crate) http: HttpSettings,
    /// Requests in flight at most; `None`: as many as the profile allows.
    pub(crate) concurrency: Option<usize>,
    /// Whether it may send larder to private addresses.
    pub(crate) allow_private: bool,
    /// The kind of registry it is taken for; `None`: as its name tells.
    pub(crate) profile: Option<&'static Profile>,
    /// What is known of its pull budget beforehand.
    pub(crate) pulls: Option<PullLimit>,
    /// Requests a second; `None`: the profile's default.
    pub(crate) requests_per_second: Option<f64>,
    /// Bytes a second, read and written together.
    pub(crate) bandwidth: Option<Rate>,
    /// The slowest that a blob may come; `None`: the default.
    pub(crate) min_rate: Option<Rate>,
    /// Hosts and ports that the configuration names: a registry's password may go to those of its own host.
    pub(crate) named: Arc<[(String, u16)]>,
    /// The longest `Retry-After` that is waited for; `None`: the retry policy's.
    pub(crate) retry_after_max: Option<Duration>,
}
