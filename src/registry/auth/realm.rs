//! Which token servers may see a registry's password.
//!
//! A registry names its token server itself (`realm`), and other clients send the password wherever it says. Here a
//! password goes to the registry's own host or domain, and nowhere else. Two hosts belong together if they share the domain that
//! somebody registered (`registry.gitlab.com` and `gitlab.com`), unless tenants of a cloud share that domain.

use std::net::IpAddr;

use url::Url;

/// Domains below which strangers live side by side: what `a.azurecr.io` is told is not for `b.azurecr.io`. Registries'
/// clouds, and the places where anybody gets a host name in a minute. Mostly from the private part of publicsuffix.org's list;
/// the whole of it (over 10,000 lines) would be a dependency to update for a rule whose error costs a clear message.
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
    "gitlab.io",
    // clouds
    "amazonaws.com",
    "amazonaws.com.cn",
    "on.aws",
    "awsapprunner.com",
    "elasticbeanstalk.com",
    "cloudfront.net",
    "amplifyapp.com",
    "windows.net",
    "azure.com",
    "azurewebsites.net",
    "azure-api.net",
    "azurefd.net",
    "azureedge.net",
    "azurecontainerapps.io",
    "googleapis.com",
    "googleusercontent.com",
    "run.app",
    "appspot.com",
    "cloudfunctions.net",
    "web.app",
    "firebaseapp.com",
    "oraclecloud.com",
    "digitaloceanspaces.com",
    "ondigitalocean.app",
    "herokuapp.com",
    "fly.dev",
    "onrender.com",
    "up.railway.app",
    "netlify.app",
    "vercel.app",
    "pages.dev",
    "workers.dev",
    "r2.dev",
    "deno.dev",
    "github.io",
    "githubusercontent.com",
    "github.dev",
    "gitpod.io",
    "repl.co",
    "replit.app",
    "hf.space",
    "glitch.me",
    "surge.sh",
    "backblazeb2.com",
    "linodeobjects.com",
    "wasabisys.com",
    // tunnels and names for addresses
    "ngrok.io",
    "ngrok.app",
    "ngrok.dev",
    "ngrok-free.app",
    "ngrok-free.dev",
    "trycloudflare.com",
    "loca.lt",
    "ts.net",
    "nip.io",
    "sslip.io",
    "xip.io",
    "duckdns.org",
    "dyndns.org",
    "ddns.net",
    "no-ip.org",
    "hopto.org",
    "zapto.org",
    "dynv6.net",
    "freeddns.org",
    "myftp.org",
];

/// Second-level labels under which countries sell names (`co.uk`, `com.au`), as publicsuffix.org lists them most often.
const COUNTRY_SECOND_LEVEL: &[&str] = &[
    "ac", "asn", "biz", "co", "com", "edu", "firm", "gen", "go", "gob", "gouv", "gov", "govt", "id", "ind", "info", "ltd", "me", "mil",
    "ne", "net", "nhs", "nic", "nom", "or", "org", "plc", "sch", "school", "web",
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

/// The domain that the owner of `host` registered; `None` where it cannot be told or is shared with strangers.
fn registered(host: &str) -> Option<&str> {
    if is_address(host) || SHARED.iter().any(|shared| host == *shared || is_below(host, shared)) {
        return None;
    }
    let labels: Vec<&str> = host.rsplitn(4, '.').collect();
    let count = match labels[..] {
        [country, second, _, ..] if country.len() == 2 && COUNTRY_SECOND_LEVEL.contains(&second) => 3,
        [country, second] if country.len() == 2 && COUNTRY_SECOND_LEVEL.contains(&second) => return None,
        [_, _, ..] => 2,
        _ => return None,
    };
    let length = labels[..count].iter().map(|label| label.len() + 1).sum::<usize>() - 1;
    host.get(host.len() - length..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_server_of_the_same_house_belongs() {
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
    fn strangers_do_not() {
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
