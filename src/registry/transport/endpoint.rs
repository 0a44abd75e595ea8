//! The root of a registry's API, and the addresses that it sends us to.

use url::Url;

/// The root below which a registry's `v2/` lies.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint(Url);

impl Endpoint {
    pub(super) fn new(root: Url) -> Self {
        Endpoint(root)
    }

    /// The root.
    pub(crate) fn root(&self) -> &Url {
        &self.0
    }

    /// The host and port of `url`, if it does not lead to the registry itself.
    pub(crate) fn elsewhere(&self, url: &Url) -> Option<String> {
        if self.is_origin_of(url) {
            return None;
        }
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        Some(format!("{}{port}", url.host_str().unwrap_or("another host")))
    }

    /// An address below `/v2/` of the registry. `path` is joined from checked names, tags and digests, none of which can hold a `/..`, a `?`
    /// or a `#`.
    pub(crate) fn url(&self, path: &str) -> Url {
        let mut url = self.0.clone();
        url.set_path(&format!("{}/v2/{path}", self.0.path().trim_end_matches('/')));
        url
    }

    /// Whether `url` is the registry itself: scheme, host and port are the root's. Its credentials go nowhere else.
    pub(crate) fn is_origin_of(&self, url: &Url) -> bool {
        url.origin() == self.0.origin()
    }

    /// Whether `url` is this host by https, while the root is plain HTTP.
    pub(crate) fn is_upgrade(&self, url: &Url) -> bool {
        self.0.scheme() == "http" && url.scheme() == "https" && url.host() == self.0.host()
    }

    /// Reads the address of a list's next page, relative to `base`, the address of this page. Behind a proxy some registries name a host that
    /// only they know: such a page of the same list is requested at `list`, the address of the first page.
    pub(crate) fn resolve_next_page(&self, base: &Url, list: &Url, text: &str) -> Result<Url, String> {
        let next = self.resolve(base, text)?;
        if self.is_origin_of(&next) || next.origin() == base.origin() {
            return Ok(next);
        }
        if !list.path().ends_with(next.path()) || next.path().len() < "/v2/".len() {
            return Err(format!("it is at {}, another host", next.host_str().unwrap_or_default()));
        }
        let mut here = list.clone();
        here.set_query(next.query());
        Ok(here)
    }

    /// Reads an address that the registry sent (`Location`, `Link`), relative to `base`. A registry behind a TLS proxy often believes that it
    /// is reached by plain HTTP, and says so: https is used all the same.
    pub(crate) fn resolve(&self, base: &Url, text: &str) -> Result<Url, String> {
        let mut url = base.join(text).map_err(|_| "it leads to an address that is none".to_owned())?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("it leads to an address of scheme `{}`", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("it leads to an address with a user name or password in it".to_owned());
        }
        let same_port = url.port().is_none() || url.port() == self.0.port();
        if self.0.scheme() == "https" && url.scheme() == "http" && url.host() == self.0.host() && same_port {
            let changed = url.set_scheme("https").and_then(|()| url.set_port(self.0.port()));
            changed.map_err(|()| "it leads to an address that is none".to_owned())?;
        }
        Ok(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn endpoint(root: &str) -> Endpoint {
        Endpoint::new(Url::parse(root).unwrap())
    }

    #[test]
    fn addresses_are_read_relative_to_the_request_and_kept_out_of_the_clear() {
        let endpoint = endpoint("https://registry.example");
        let base = endpoint.url("a/b/blobs/uploads/");
        for (text, expected) in [
            ("/v2/a/b/blobs/uploads/1?_state=x%3D", "https://registry.example/v2/a/b/blobs/uploads/1?_state=x%3D"),
            ("uuid", "https://registry.example/v2/a/b/blobs/uploads/uuid"),
            ("https://upload.example/u?x=1", "https://upload.example/u?x=1"),
            ("//upload.example/u", "https://upload.example/u"),
            ("http://registry.example/v2/u?y", "https://registry.example/v2/u?y"),
            ("http://registry.example//evil.example/u", "https://registry.example//evil.example/u"),
            ("http://registry.example:8080/u", "http://registry.example:8080/u"),
            ("http://other.example/u", "http://other.example/u"),
            ("?n=5", "https://registry.example/v2/a/b/blobs/uploads/?n=5"),
        ] {
            assert_eq!(endpoint.resolve(&base, text).unwrap().as_str(), expected, "{text}");
        }
        for bad in ["file:///etc/passwd", "ftp://x/y", "http://[::1", "data:text/plain,x", "https://", "https://user:pw@registry.example/u"]
        {
            assert!(endpoint.resolve(&base, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_endpoint_may_have_a_path_and_its_origin_is_scheme_host_and_port() {
        let endpoint = endpoint("https://proxy.example:8443/hub/");
        assert_eq!(endpoint.url("a/tags/list").as_str(), "https://proxy.example:8443/hub/v2/a/tags/list");
        for (url, same) in [
            ("https://proxy.example:8443/x", true),
            ("https://proxy.example/x", false),
            ("http://proxy.example:8443/x", false),
            ("https://proxy.example.evil:8443/x", false),
        ] {
            assert_eq!(endpoint.is_origin_of(&Url::parse(url).unwrap()), same, "{url}");
        }
    }

    proptest! {
        #[test]
        fn no_location_makes_resolving_panic_or_leave_http(text in "\\PC{0,60}") {
            let endpoint = endpoint("https://registry.example");
            if let Ok(url) = endpoint.resolve(&endpoint.url("a/blobs/uploads/"), &text) {
                prop_assert!(matches!(url.scheme(), "http" | "https"));
            }
        }
    }
}
