//! Which token servers may see a registry's password.
//!
//! A registry names its token server itself (`realm`), and other clients send the password wherever it says. Here a
//! password goes to the registry's own host or domain, and nowhere else. Two hosts belong together if they share a registered
//! domain (`registry.gitlab.com` and `gitlab.com`). Where a registered domain begins is said by publicsuffix.org's list.

use std::net::IpAddr;

use url::Url;

/// Domains that many customers share and that publicsuffix.org does not list as a whole: what `a.azurecr.io` is told is not for
/// `b.azurecr.io`. Clouds of registries, other clouds, and services that give a host name to anyone.
const SHARED: &[&str] = &[
    // registries
    "azurecr.io",
    "azurecr.cn",
    "azurecr.us",
    "pkg.dev",
    "jfrog.io",
    "cloudsmith.io",
    "cloudsmith.com",
    "tencentcloudcr.com",
    "myhuaweicloud.com",
    "aliyuncs.com",
    "ocir.io",
    "vultrcr.com",
    "scw.cloud",
    "container-registry.ovh.net",
    // clouds
    "amazonaws.com",
    "amazonaws.com.cn",
    "on.aws",
    "awsapprunner.com",
    "windows.net",
    "azure.com",
    "azurecontainerapps.io",
    "googleusercontent.com",
    "run.app",
    "oraclecloud.com",
    "digitaloceanspaces.com",
    "github.dev",
    "gitpod.io",
    "glitch.me",
    "backblazeb2.com",
    "linodeobjects.com",
    "wasabisys.com",
    // tunnels and names for addresses
    "loca.lt",
    "nip.io",
    "sslip.io",
    "xip.io",
];

/// Token servers of known registries whose domain is another.
const FAMILIES: &[(&str, &[&str])] = &[
    ("docker.io", &["auth.docker.io", "auth.ipv6.docker.com"]),
    ("registry-1.docker.io", &["auth.docker.io", "auth.ipv6.docker.com"]),
    ("registry.ipv6.docker.com", &["auth.docker.io", "auth.ipv6.docker.com"]),
    // Docker Hardened Images: Docker Hub's accounts.
    ("dhi.io", &["auth.docker.io"]),
    // LinuxServer's name for its part of GHCR.
    ("lscr.io", &["ghcr.io"]),
    ("nvcr.io", &["authn.nvidia.com"]),
];

/// The address of a token server as a challenge writes it: whole, or relative to the registry at `base`. A word without a slash is a
/// name for people.
pub(super) fn url(realm: &str, base: &Url) -> Option<Url> {
    let relative = || if realm.contains('/') && !realm.contains(char::is_whitespace) { base.join(realm).ok() } else { None };
    match Url::parse(realm) {
        Ok(url) => Some(url),
        Err(url::ParseError::RelativeUrlWithoutBase) => relative(),
        Err(_) => None,
    }
}

/// Whether the token server at `realm` belongs to the registry at `registry`: both host names, without port.
pub(super) fn belongs(registry: &str, realm: &str) -> bool {
    let (registry, realm) = (normal(registry), normal(realm));
    realm == registry
        || (!is_address(&registry) && !is_address(&realm) && is_below(&realm, &registry))
        || FAMILIES.iter().any(|(name, servers)| *name == registry && servers.contains(&realm.as_str()))
        || is_alibaba(&registry, &realm)
        || matches!((registered(&registry), registered(&realm)), (Some(one), Some(other)) if one == other)
}

fn normal(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

fn is_address(host: &str) -> bool {
    host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

fn is_below(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

/// Alibaba Cloud's registries have one token server a region, named by Alibaba and below its own domain.
fn is_alibaba(registry: &str, realm: &str) -> bool {
    let first = realm.split('.').next().unwrap_or_default();
    is_below(registry, "aliyuncs.com")
        && is_below(realm, "aliyuncs.com")
        && matches!(first, "dockerauth" | "dockerauth-vpc" | "dockerauth-ee" | "dockerauth-ee-vpc")
}

/// The domain that the owner of `host` registered; `None` where it is not known, or many owners share it.
fn registered(host: &str) -> Option<&str> {
    if is_address(host) || SHARED.iter().any(|shared| host == *shared || is_below(host, shared)) {
        return None;
    }
    psl::domain_str(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_server_of_the_same_owner_belongs() {
        for (registry, realm) in [
            ("quay.io", "quay.io"),
            ("Quay.io", "QUAY.IO."),
            ("registry-1.docker.io", "auth.docker.io"),
            ("docker.io", "auth.docker.io"),
            ("dhi.io", "auth.docker.io"),
            ("registry.gitlab.com", "gitlab.com"),
            ("foo.example.com", "auth.example.com"),
            ("docker.elastic.co", "docker-auth.elastic.co"),
            ("registry.connect.redhat.com", "sso.redhat.com"),
            ("registry.digitalocean.com", "api.digitalocean.com"),
            ("quay.io", "auth.quay.io"),
            ("contoso.azurecr.io", "contoso.azurecr.io"),
            ("registry.corp.local", "auth.corp.local"),
            ("registry.firm.co.uk", "login.firm.co.uk"),
            ("registry.cn-hangzhou.aliyuncs.com", "dockerauth.cn-hangzhou.aliyuncs.com"),
            ("nvcr.io", "authn.nvidia.com"),
            ("203.0.113.5", "203.0.113.5"),
            ("[2001:db8::1]", "[2001:db8::1]"),
        ] {
            assert!(belongs(registry, realm), "{registry} {realm}");
        }
    }

    #[test]
    fn a_relative_realm_is_resolved_against_the_registry() {
        let base = Url::parse("https://r.example:5000/hub/").unwrap();
        for (realm, expected) in [
            ("https://auth.example/token", Some("https://auth.example/token")),
            ("/token?x=1", Some("https://r.example:5000/token?x=1")),
            ("v2/token", Some("https://r.example:5000/hub/v2/token")),
            ("//auth.example/token", Some("https://auth.example/token")),
            ("nonsense", None),
            ("Artifactory / Realm", None),
            ("https://", None),
        ] {
            assert_eq!(url(realm, &base).as_ref().map(Url::as_str), expected, "{realm}");
        }
    }

    #[test]
    fn a_token_server_of_another_owner_does_not_belong() {
        for (registry, realm) in [
            ("registry.example.com", "auth.attacker.net"),
            ("example.com", "notexample.com"),
            ("example.com", "example.com.attacker.net"),
            ("foo.com", "bar.com"),
            ("registry.firm.co.uk", "evil.co.uk"),
            ("firm.com.au", "evil.com.au"),
            ("co.uk", "evil.co.uk.evil.net"),
            ("contoso.azurecr.io", "evil.azurecr.io"),
            ("contoso.azurecr.io", "azurecr.io"),
            ("1.dkr.ecr.us-east-1.amazonaws.com", "evil.s3.us-east-1.amazonaws.com"),
            ("us-docker.pkg.dev", "evil.pkg.dev"),
            ("me.github.io", "evil.github.io"),
            ("me.streamlit.app", "evil.streamlit.app"),
            ("me.webflow.io", "evil.webflow.io"),
            ("me.cloudapp.net", "evil.cloudapp.net"),
            ("firm.kiev.ua", "evil.kiev.ua"),
            ("firm.chiyoda.tokyo.jp", "evil.chiyoda.tokyo.jp"),
            ("attacker.io", "auth.docker.io"),
            ("registry.cn-hangzhou.aliyuncs.com", "evil.oss-cn-hangzhou.aliyuncs.com"),
            ("registry.attacker.cn", "dockerauth.cn-hangzhou.aliyuncs.com"),
            ("registry", "auth"),
            ("registry.local", "auth.local"),
            ("203.0.113.5", "1.203.0.113.5"),
            ("203.0.113.5", "9.9.113.5"),
            ("[2001:db8::1]", "[2001:db8::2]"),
            ("", "x"),
        ] {
            assert!(!belongs(registry, realm), "{registry} {realm}");
        }
    }
}
