//! Which requests go through an HTTP proxy. Behind one, names are resolved by the proxy, and looking them up here would
//! answer a question nobody asked (or none: such machines often resolve no outside name).

use std::ffi::OsString;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{ClientBuilder, NoProxy, Proxy};
use url::Url;

use crate::{Error, Operation, Result};

/// This machine: no proxy can lead there, and a proxy that was asked would lead to its own.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

/// The proxies that the environment names, as they stand there.
#[derive(Default)]
pub(crate) struct Variables {
    /// The variable's name and its value: of `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`.
    http: Option<(&'static str, String)>,
    https: Option<(&'static str, String)>,
    all: Option<(&'static str, String)>,
    /// What is reached without: `NO_PROXY`, and this machine.
    no: String,
}

impl Variables {
    /// This process's own.
    ///
    /// # Errors
    /// If one of them is no address: a request must not go around a proxy because its name is misspelt.
    pub(crate) fn of_process() -> Result<Self> {
        Self::read(|name| std::env::var_os(name))
    }

    fn read(get: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let proxy = |names: [&'static str; 2]| -> Result<Option<(&'static str, String)>> {
            let set = names.into_iter().find_map(|name| Some((name, get(name).filter(|value| !value.is_empty())?)));
            let Some((name, value)) = set else { return Ok(None) };
            // The value is not repeated: it may hold a password.
            let malformed = || {
                let error = Error::local(Operation::ReadProxyAddress, format!("environment variable {name} is not an address"));
                error.remedy("write it as http://HOST:PORT")
            };
            let value = value.into_string().map_err(|_| malformed())?;
            let matcher = Matcher::builder().http(value.as_str()).build();
            let proxy = "http://larder.invalid/".parse().ok().and_then(|probe| matcher.intercept(&probe));
            // A port that is no number stays part of the authority, and is no port.
            let sound = proxy.is_some_and(|proxy| {
                let uri = proxy.uri();
                uri.port_u16().is_some() || uri.authority().is_some_and(|all| Some(all.as_str()) == uri.host())
            });
            if !sound {
                return Err(malformed());
            }
            Ok(Some((name, value)))
        };
        let no = ["NO_PROXY", "no_proxy"].into_iter().find_map(|name| get(name)?.into_string().ok()).unwrap_or_default();
        // In a CGI program, HTTP_PROXY is a header of its client (CVE-2016-5385).
        let http = if get("REQUEST_METHOD").is_some() { None } else { proxy(["HTTP_PROXY", "http_proxy"])? };
        let (https, all) = (proxy(["HTTPS_PROXY", "https_proxy"])?, proxy(["ALL_PROXY", "all_proxy"])?);
        Ok(Variables { http, https, all, no: format!("{no},{LOOPBACK}") })
    }

    fn matcher(&self) -> Matcher {
        let value = |proxy: &Option<(&'static str, String)>| proxy.as_ref().map_or(String::new(), |(_, value)| value.clone());
        let builder = Matcher::builder().all(value(&self.all)).http(value(&self.http)).https(value(&self.https));
        builder.no(self.no.as_str()).build()
    }

    /// Lets a client use them.
    pub(crate) fn apply(&self, mut builder: ClientBuilder) -> ClientBuilder {
        let proxies = [
            self.http.as_ref().map(|(_, value)| Proxy::http(value.as_str())),
            self.https.as_ref().map(|(_, value)| Proxy::https(value.as_str())),
            self.all.as_ref().map(|(_, value)| Proxy::all(value.as_str())),
        ];
        // Not the ones that reqwest reads by itself: it would ask a proxy for this machine's own addresses.
        builder = builder.no_proxy();
        for proxy in proxies.into_iter().flatten().flatten() {
            builder = builder.proxy(proxy.no_proxy(NoProxy::from_string(&self.no)));
        }
        builder
    }
}

/// Host and port of the proxy that `matcher` chooses for `url`.
fn parts(matcher: &Matcher, url: &str) -> Option<String> {
    let proxy = matcher.intercept(&url.parse().ok()?)?;
    let port = proxy.uri().port().map(|port| format!(":{port}")).unwrap_or_default();
    Some(format!("{}{port}", proxy.uri().host()?))
}

/// The proxies of the environment: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in either case.
///
/// This is the matcher that reqwest itself decides with, from the same variables, so that the two never disagree about a URL. Loopback
/// addresses are never reached through a proxy.
#[derive(Debug)]
pub(super) struct Proxies {
    matcher: Matcher,
    /// The proxies' own host names, which must be connected to wherever they are.
    hosts: Vec<String>,
}

impl Proxies {
    /// As the environment has them now.
    pub(super) fn from_environment() -> Self {
        // A malformed variable has ended the command before, with an error.
        Self::new(Variables::of_process().unwrap_or_default().matcher())
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

    /// Host and port of the proxy that requests to `url` go through.
    pub(super) fn of(&self, url: &Url) -> Option<String> {
        parts(&self.matcher, url.as_str())
    }

    /// Whether `host` is a proxy's own name.
    pub(super) fn named(&self, host: &str) -> bool {
        self.hosts.iter().any(|proxy| proxy == host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Variables> {
        Variables::read(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value)))
    }

    #[test]
    fn loopback_addresses_never_go_through_a_proxy() {
        for no in ["", "direct.example"] {
            let variables = read(&[("HTTP_PROXY", "http://proxy.corp:3128"), ("ALL_PROXY", "proxy.corp:1080"), ("NO_PROXY", no)]).unwrap();
            let proxies = Proxies::new(variables.matcher());
            for url in ["http://127.0.0.1:5000/", "http://127.8.9.1/", "https://localhost/", "http://x.localhost:1/", "http://[::1]:5000/"]
            {
                assert_eq!(proxies.of(&Url::parse(url).unwrap()), None, "{url}");
            }
            let of = |url| proxies.of(&Url::parse(url).unwrap());
            assert_eq!(of("http://registry.example/v2/").as_deref(), Some("proxy.corp:3128"));
            assert_eq!(of("https://registry.example/v2/").as_deref(), Some("proxy.corp:1080"));
            assert_eq!(of("https://direct.example/v2/").is_none(), !no.is_empty());
        }
    }

    #[test]
    fn a_malformed_proxy_is_an_error_that_names_the_variable_and_not_its_value() {
        for value in ["http://", "gopher://proxy:70", "http://user:se cret@proxy:3128", "http://proxy:port"] {
            for name in ["HTTP_PROXY", "https_proxy", "ALL_PROXY"] {
                let Err(error) = read(&[(name, value)]) else { panic!("{name}={value}") };
                assert!(error.message().contains(name) && !error.message().contains("se cret"), "{error}");
            }
        }
        assert!(read(&[("HTTP_PROXY", ""), ("HTTPS_PROXY", "proxy:3128"), ("ALL_PROXY", "socks5://proxy:1080")]).is_ok());
        // In a CGI program a client sets it.
        assert!(read(&[("HTTP_PROXY", "http://"), ("REQUEST_METHOD", "GET")]).is_ok());
    }
}
