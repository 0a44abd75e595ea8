use std::collections::HashMap;

use async_trait::async_trait;
use hyper_util::client::proxy::matcher::Matcher;

use std::net::IpAddr;
use std::sync::Arc;

use url::Url;

use super::proxy::Proxies;
use super::resolver::NameResolver;
use super::*;

/// A name service that knows what it is told; everything else does not resolve.
#[derive(Debug, Default)]
struct Zone(HashMap<&'static str, Vec<&'static str>>);

#[async_trait]
impl NameResolver for Zone {
    async fn lookup(&self, host: &str) -> std::io::Result<Vec<IpAddr>> {
        let known = self.0.get(trim_dot(host)).ok_or(std::io::ErrorKind::NotFound)?;
        Ok(known.iter().map(|ip| ip.parse().unwrap()).collect())
    }
}

fn zone() -> Zone {
    Zone(HashMap::from([
        ("registry.example", vec!["198.51.100.7"]),
        ("cdn.example", vec!["198.51.100.8", "2606:4700::1"]),
        ("inside.example", vec!["10.1.2.3"]),
        ("mixed.example", vec!["198.51.100.9", "127.0.0.1"]),
        ("imds.example", vec!["169.254.169.254"]),
        ("harbor.corp", vec!["10.9.9.9", "fd12::9"]),
        ("dual.corp", vec!["10.9.9.9", "2606:4700::9"]),
        ("proxy.corp", vec!["10.0.0.80"]),
        ("self.imds", vec!["169.254.1.1", "198.51.100.1"]),
    ]))
}

impl AddressPolicy {
    /// For the tests of neighbours: no proxy, and no name resolves.
    pub(crate) fn offline(endpoint: &Url) -> Self {
        Self::with(endpoint, false, no_proxy(), Box::new(Zone::default()))
    }
}

fn no_proxy() -> Proxies {
    Proxies::new(Matcher::builder().build())
}

fn policy(endpoint: &str, allow_private: bool, proxies: Proxies) -> Arc<AddressPolicy> {
    Arc::new(AddressPolicy::with(&Url::parse(endpoint).unwrap(), allow_private, proxies, Box::new(zone())))
}

async fn verdict(policy: &AddressPolicy, url: &str) -> Result<(), String> {
    policy.check(&Url::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))).await
}

/// Spellings of addresses in the machine's own network.
const PRIVATE: &[&str] = &[
    "https://127.0.0.1/",
    "https://127.1/",
    "https://127.0.1/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.0.0.1/",
    "https://0177.0.0.1/",
    "https://017700000001/",
    "https://0/",
    "https://0.0.0.0/",
    "https://127.0.0.1./",
    "https://１２７.0.0.1/",
    "https://127。0。0。1/",
    "https://%31%32%37.0.0.1/",
    "https://127.0.0.1:5000/v2/",
    "https://10.0.0.1/",
    "https://0xa.1/",
    "https://192.168.0.1/",
    "https://172.16.5.4/",
    "https://100.64.1.1/",
    "https://192.0.0.8/",
    "https://255.255.255.255/",
    "https://224.0.0.251/",
    "https://[::]/",
    "https://[::1]/",
    "https://[0:0:0:0:0:0:0:1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[::127.0.0.1]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[2002:7f00:1::]/",
    "https://[fd12:3456::1]/",
    "https://localhost/",
    "https://LOCALHOST./",
    "https://localhost:8443/",
    "https://registry.localhost/",
    "https://ip6-localhost/",
    "https://inside.example/",
    "https://INSIDE.example./",
    "https://mixed.example/",
];

/// Addresses that are never contacted, whatever the settings.
const NEVER: &[&str] = &[
    "https://169.254.169.254/latest/meta-data/",
    "https://0xa9fea9fe/",
    "https://2852039166/",
    "https://169.254.170.2/",
    "https://[fe80::1]/",
    "https://[::ffff:169.254.169.254]/",
    "https://[fd00:ec2::254]/",
    "https://100.100.100.200/",
    "https://metadata.google.internal/",
    "https://Metadata.Google.Internal./",
    "https://metadata/",
    "https://imds.example/",
];

const PUBLIC: &[&str] =
    &["https://cdn.example/blob?sig=s3cret", "https://198.51.100.7:8443/", "https://[2606:4700::1]/", "https://unknown.example/"];

#[tokio::test]
async fn a_public_registry_sends_us_nowhere_private_in_any_spelling() {
    let policy = policy("https://registry.example", false, no_proxy());
    for url in PRIVATE.iter().chain(NEVER) {
        assert!(verdict(&policy, url).await.is_err(), "{url}");
    }
    for url in PUBLIC {
        assert_eq!(verdict(&policy, url).await, Ok(()), "{url}");
    }
}

#[tokio::test]
async fn a_private_registry_and_allow_private_may_send_us_to_their_network_but_never_to_metadata() {
    for policy in [
        policy("https://harbor.corp", false, no_proxy()),
        policy("https://127.0.0.1:5000", false, no_proxy()),
        policy("https://[::1]:5000", false, no_proxy()),
        policy("https://localhost:5000", false, no_proxy()),
        policy("https://registry.example", true, no_proxy()),
    ] {
        for url in PRIVATE.iter().chain(PUBLIC) {
            assert_eq!(verdict(&policy, url).await, Ok(()), "{url} from {}", policy.endpoint);
        }
        for url in NEVER {
            assert!(verdict(&policy, url).await.is_err(), "{url} from {}", policy.endpoint);
        }
    }
}

#[tokio::test]
async fn a_registry_is_private_only_if_all_its_addresses_are() {
    for (endpoint, expected) in [
        ("https://registry.example", false),
        ("https://unknown.example", false),
        ("https://dual.corp", false),
        ("https://harbor.corp", true),
        ("https://192.168.1.5", true),
        ("https://169.254.1.5", false),
        ("https://a.localhost:1", true),
    ] {
        assert_eq!(policy(endpoint, false, no_proxy()).registry_is_private().await, expected, "{endpoint}");
    }
}

#[tokio::test]
async fn another_port_of_its_own_name_is_judged_as_any_other_address() {
    let dual = policy("https://dual.corp", false, no_proxy());
    for url in ["https://dual.corp:8443/token", "https://DUAL.corp./token"] {
        assert!(verdict(&dual, url).await.unwrap_err().contains("a public registry may not send us"), "{url}");
    }
    assert_eq!(verdict(&policy("https://dual.corp", true, no_proxy()), "https://dual.corp:8443/token").await, Ok(()));
    assert_eq!(verdict(&policy("https://harbor.corp", false, no_proxy()), "https://harbor.corp:8443/token").await, Ok(()));
    assert_eq!(verdict(&policy("https://registry.example", false, no_proxy()), "https://registry.example:8443/t").await, Ok(()));
}

/// A name that is public at first, and on our own network from the second lookup on.
#[derive(Debug, Default)]
struct Rebinding(std::sync::atomic::AtomicUsize);

#[async_trait]
impl NameResolver for Rebinding {
    async fn lookup(&self, _: &str) -> std::io::Result<Vec<IpAddr>> {
        let before = self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Ok(vec![if before == 0 { "198.51.100.7" } else { "10.0.0.5" }.parse().unwrap()])
    }
}

#[tokio::test]
async fn a_registrys_own_name_that_turns_private_is_refused() {
    for endpoint in ["https://rebinds.example", "http://rebinds.example"] {
        let rebinding = |allow_private| {
            let url = Url::parse(endpoint).unwrap();
            Arc::new(AddressPolicy::with(&url, allow_private, no_proxy(), Box::new(Rebinding::default())))
        };
        let strict = rebinding(false);
        let blocked = "blocked: `rebinds.example` is at 10.0.0.5 (private)";
        assert_eq!(resolved(&strict, "rebinds.example").await, Err(blocked.to_owned()), "{endpoint}");
        assert!(!strict.registry_is_private().await);
        assert!(verdict(&strict, &format!("{endpoint}:8443/")).await.is_err());
        let lenient = rebinding(true);
        for expected in ["198.51.100.7", "10.0.0.5"] {
            assert_eq!(resolved(&lenient, "rebinds.example").await.unwrap(), [expected]);
        }
    }
}

#[tokio::test]
async fn a_registrys_own_name_that_turns_private_is_refused_at_another_port_too() {
    for endpoint in ["https://rebinds.example", "http://rebinds.example", "http://rebinds.example:5000"] {
        let url = Url::parse(endpoint).unwrap();
        let rebinding = Arc::new(AddressPolicy::with(&url, false, no_proxy(), Box::new(Rebinding::default())));
        // The first lookup is public.
        assert!(!rebinding.registry_is_private().await);
        for other in ["https://rebinds.example:8443/token", "https://rebinds.example/token"] {
            let refused = verdict(&rebinding, other).await.unwrap_err();
            assert!(refused.contains("is at 10.0.0.5 (private), where a public registry may not send us"), "{endpoint}: {refused}");
            assert_eq!(rebinding.direct_addresses(&Url::parse(other).unwrap()).await, [], "{endpoint}");
        }
    }
}

#[tokio::test]
async fn schemes_users_and_downgrades_are_refused() {
    let secure = policy("https://registry.example", false, no_proxy());
    let plain = policy("http://registry.example", false, no_proxy());
    for (policy, url, expected) in [
        (&secure, "http://cdn.example/", "not encrypted"),
        (&secure, "http://registry.example/", "not encrypted"),
        (&secure, "ftp://cdn.example/", "neither http nor https"),
        (&secure, "file:///etc/passwd", "neither http nor https"),
        (&secure, "https://user:hunter2@cdn.example/", "user name"),
        (&secure, "https://user@cdn.example/", "user name"),
        (&plain, "gopher://cdn.example/", "neither http nor https"),
    ] {
        let why = verdict(policy, url).await.unwrap_err();
        assert!(why.contains(expected) && !why.contains("hunter2"), "{url}: {why}");
    }
    assert_eq!(verdict(&plain, "http://cdn.example/").await, Ok(()));
    assert_eq!(verdict(&plain, "https://cdn.example/").await, Ok(()));
}

#[tokio::test]
async fn the_reason_names_address_and_way_out_but_no_query() {
    let policy = policy("https://registry.example", false, no_proxy());
    insta::assert_snapshot!(
        verdict(&policy, "https://inside.example:8443/x?sig=s3cret#f").await.unwrap_err(),
        @"`https://inside.example:8443/x` is at 10.1.2.3 (private), where a public registry may not send us; `allow_private = true` for this registry permits it"
    );
    insta::assert_snapshot!(
        verdict(&policy, "https://169.254.169.254/latest").await.unwrap_err(),
        @"`https://169.254.169.254/latest` is at 169.254.169.254 (link-local), where no registry may send us"
    );
}

#[tokio::test]
async fn behind_a_proxy_names_are_the_proxys_business_but_literals_are_not() {
    let proxies = || Proxies::new(Matcher::builder().all("http://user:pw@proxy.corp:3128").no("direct.example,inside.example").build());
    let policy = policy("https://registry.example", false, proxies());
    for url in ["https://cdn.example/", "https://mixed.example/", "https://unknown.example/"] {
        assert_eq!(verdict(&policy, url).await, Ok(()), "{url}");
    }
    for url in [
        "https://inside.example/", // by NO_PROXY: resolved here
        "https://10.0.0.1/",
        "https://localhost/",
        "https://metadata.google.internal/",
        "https://proxy.corp/", // the proxy itself: a name we do know
    ] {
        assert!(verdict(&policy, url).await.is_err(), "{url}");
    }
    assert!(!format!("{policy:?}").contains("pw"));
}

#[tokio::test]
async fn only_the_proxied_scheme_goes_unresolved() {
    let proxies = Proxies::new(Matcher::builder().http("http://proxy.corp:3128").build());
    let policy = policy("http://registry.example", false, proxies);
    assert_eq!(verdict(&policy, "http://inside.example/").await, Ok(()));
    assert!(verdict(&policy, "https://inside.example/").await.is_err());
}

async fn resolved(policy: &Arc<AddressPolicy>, name: &str) -> Result<Vec<String>, String> {
    use reqwest::dns::Resolve as _;
    match AddressGuard::new(Arc::clone(policy)).resolve(name.parse().unwrap()).await {
        Ok(addresses) => Ok(addresses.map(|address| address.ip().to_string()).collect()),
        Err(error) => Err(blocked(&*error).map_or_else(|| "not found".to_owned(), |why| format!("blocked: {why}"))),
    }
}

#[tokio::test]
async fn the_guard_leaves_out_what_may_not_be_reached() {
    let public = policy("https://registry.example", false, Proxies::new(Matcher::builder().all("http://proxy.corp:3128").build()));
    for (name, expected) in [
        ("registry.example", Ok(vec!["198.51.100.7"])),
        ("cdn.example", Ok(vec!["198.51.100.8", "2606:4700::1"])),
        ("mixed.example", Ok(vec!["198.51.100.9"])),
        ("inside.example", Err("blocked: `inside.example` is at 10.1.2.3 (private)")),
        ("imds.example", Err("blocked: `imds.example` is at 169.254.169.254 (link-local)")),
        ("proxy.corp", Ok(vec!["10.0.0.80"])),
        ("unknown.example", Err("not found")),
    ] {
        let expected = expected.map(|ips| ips.into_iter().map(str::to_owned).collect()).map_err(str::to_owned);
        assert_eq!(resolved(&public, name).await, expected, "{name}");
    }
    // The registry's own name keeps the private addresses that it had at first, and loses link-local ones.
    assert_eq!(resolved(&policy("https://dual.corp", false, no_proxy()), "dual.corp").await.unwrap().len(), 2);
    assert_eq!(resolved(&policy("https://self.imds", true, no_proxy()), "self.imds").await.unwrap(), ["198.51.100.1"]);
    assert_eq!(resolved(&policy("https://harbor.corp", false, no_proxy()), "inside.example").await.unwrap(), ["10.1.2.3"]);
}

#[tokio::test]
async fn a_client_with_the_guard_does_not_connect_and_says_why() {
    crate::registry::http::install_crypto();
    let public = policy("http://registry.example", false, no_proxy());
    let client = reqwest::Client::builder().no_proxy().dns_resolver(AddressGuard::new(Arc::clone(&public))).build().unwrap();
    let error = client.get("http://inside.example:9/").send().await.unwrap_err();
    assert_eq!(blocked(&error).as_deref(), Some("`inside.example` is at 10.1.2.3 (private)"));
}
