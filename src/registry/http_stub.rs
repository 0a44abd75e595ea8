//! Stand-in for `http/`.

use std::sync::Arc;

use url::Url;

use super::address::AddressPolicy;
use crate::{Error, Result};

#[derive(Debug, Clone, Default)]
pub(crate) struct HttpSettings {}

pub(crate) struct Clients {
    pub(crate) api: reqwest::Client,
    pub(crate) bulk: reqwest::Client,
    pub(crate) upload: reqwest::Client,
}

pub(crate) fn build(_settings: &HttpSettings, _policy: &Arc<AddressPolicy>) -> Result<Clients> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = || {
        reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(std::time::Duration::from_secs(10))
            .no_proxy()
            .build()
            .map_err(|error| Error::local("set up HTTP", error.to_string()))
    };
    Ok(Clients { api: client()?, bulk: client()?, upload: client()? })
}

pub(crate) fn endpoint(host: &str, configured: Option<&str>, plain_http: Option<bool>) -> Result<Url> {
    let plain = plain_http.unwrap_or_else(|| host.starts_with("127.") || host.starts_with("localhost"));
    let text = configured.map_or_else(|| format!("{}://{host}", if plain { "http" } else { "https" }), str::to_owned);
    Url::parse(&text).map_err(|error| Error::local("set up HTTP", format!("{text}: {error}")))
}
