//! What `config show` prints.

use super::*;

#[test]
fn show_prints_what_is_in_effect_without_secrets() {
    insta::assert_snapshot!(parse_text(FULL).unwrap().show(), @r#"
    # in effect from conf/larder.toml
    version = 1
    lists = ["conf/lists/base.csv", "/etc/more.txt"]

    [target]
    registry = "contoso.azurecr.io"
    repository_prefix = "mirror"
    overlap = "longest"

    [[rule]]
    name = "docker-library"
    source = "docker.io/library/*"
    target = "library/*"
    credentials = "hub"
    delivery = "push"
    referrers = true
    referrers_recheck = "168h"
    foreign_layers = "skip"
    min_tags = 1
    immutable_tags = ["v*", "/^[0-9]{8}$/"]

    [[rule]]
    name = "hello"
    source = "docker.io/library/hello-world"
    target = "hello"
    delivery = "push"
    referrers = true
    referrers_recheck = "168h"
    foreign_layers = "skip"
    min_tags = 1

    [[credentials]]
    name = "hub"
    login_server = "docker.io"
    username = "alice"
    password = { command = ["conf/./token", "<redacted>"] }

    [[credentials]]
    name = "ghcr"
    login_server = "ghcr.io"
    username = { env = "GH_USER" }
    password = { file = "conf/secret" }

    [registry."contoso.azurecr.io"]
    plain_http = false
    insecure_skip_verify = false
    concurrency = 16
    allow_private = false
    profile = "acr"
    retry_after_max = "5m"

    [registry."docker.io"]
    endpoint = "http://mirror:5000"
    plain_http = true
    ca = "conf/corp-ca.pem"
    client_cert = "conf/c.pem"
    client_key = "/k.pem"
    insecure_skip_verify = true
    concurrency = 3
    allow_private = true
    profile = "docker-hub"
    pulls = { limit = 200, reserve = 20, window = "6h" }
    requests_per_second = 10.0
    bandwidth = "20MB/s"
    min_rate = "2KiB/s"
    retry_after_max = "10m"

    [registry."mirror.corp"]
    plain_http = false
    insecure_skip_verify = false
    concurrency = 64
    allow_private = false
    profile = "harbor"
    retry_after_max = "5m"
    "#);
}

#[test]
fn what_show_prints_is_a_configuration() {
    for config in [Config::default(), parse_text(FULL).unwrap()] {
        let again = parse(&config.show(), Path::new("larder.toml")).unwrap();
        let (hub, hub_again) = (config.registry("docker.io"), again.registry("docker.io"));
        assert_eq!(
            (hub.pulls, hub.bandwidth, hub.requests_per_second),
            (hub_again.pulls, hub_again.bandwidth, hub_again.requests_per_second)
        );
        let immutable = |config: &Config| config.rules.rules().iter().map(|rule| rule.immutable_tags.clone()).collect::<Vec<_>>();
        assert_eq!(immutable(&config), immutable(&again));
        assert_eq!((again.target, again.lists, again.rules.rules().len()), (config.target, config.lists, config.rules.rules().len()));
    }
}
