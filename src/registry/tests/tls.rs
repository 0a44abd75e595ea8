//! Connections that TLS ends: said once, with what to set, and not tried again.

use std::sync::Arc;

use crate::content::Source;
use crate::name::Reference;
use crate::registry::http::tests::{data, served_with, server};
use crate::registry::testing::{Nobody, Server, answer, context, limits, repository};
use crate::registry::{HostSettings, HttpSettings, Registries, RetryPolicy};
use crate::{Kind, Side};

/// What a request to `host` comes to, with the host's name replaced.
async fn failed(host: &str, settings: HostSettings) -> String {
    let registries = Registries::new(move |_| settings.clone(), RetryPolicy::default(), limits());
    let store = registries.store(Side::Target, host, Arc::new(Nobody)).unwrap();
    let error = store.resolve(&repository(), &Reference::Tag("1".to_owned()), &context()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert_eq!(registries.rows()[0].retries, 0, "{error}");
    error.message().replace(host, "HOST")
}

fn tls(ca: &str) -> HostSettings {
    let http = HttpSettings { ca: Some(data(ca)), ..HttpSettings::default() };
    HostSettings { plain_http: Some(false), http, ..HostSettings::default() }
}

#[tokio::test]
async fn a_missing_client_certificate_is_said_at_once() {
    // The request, and the handshake that finds out why it broke, if it does not say so itself.
    let port = server(true, 2);
    let said = failed(&format!("127.0.0.1:{port}"), tls("ca.pem")).await;
    insta::assert_snapshot!(said, @r#"HOST refuses the TLS connection: it wants a client certificate (if it wants a client certificate, set `client_cert` and `client_key` in [registry."HOST"])"#);
}

#[tokio::test]
async fn https_to_a_plain_port_names_plain_http() {
    let plain = Server::start(|_| answer(200, &[], "")).await;
    let said = failed(&plain.host, HostSettings { plain_http: Some(false), ..HostSettings::default() }).await;
    insta::assert_snapshot!(said, @r#"HOST does not speak TLS (if it is meant to be plain HTTP, set `plain_http = true` in [registry."HOST"])"#);
}

#[tokio::test]
async fn plain_http_to_a_tls_port_names_plain_http() {
    let port = server(false, 2);
    let said = failed(&format!("127.0.0.1:{port}"), HostSettings::default()).await;
    insta::assert_snapshot!(said, @r#"HOST speaks TLS, not plain HTTP (set `plain_http = false` in [registry."HOST"])"#);
}

#[tokio::test]
async fn a_plain_answer_of_a_tls_port_names_plain_http() {
    let says = "Client sent an HTTP request to an HTTPS server.\n";
    let server = Server::start(move |_| answer(400, &[], says)).await;
    let registries = Registries::new(|_| HostSettings::default(), RetryPolicy::default(), limits());
    let store = registries.store(Side::Upstream, &server.host, Arc::new(Nobody)).unwrap();
    let error = store.manifest(&repository(), &crate::content::Digest::sha256(b"x"), &context()).await.unwrap_err();
    assert!(error.message().contains("it speaks TLS: set `plain_http = false` in [registry."), "{error}");
}

#[tokio::test]
async fn certificates_that_are_not_trusted_say_why_and_what_to_set() {
    let expired = served_with("expired", false, 1);
    let said = failed(&format!("127.0.0.1:{expired}"), tls("expired.pem")).await;
    insta::assert_snapshot!(said, @"the certificate of HOST is not trusted: it expired on 2021-01-01 00:00 UTC (it must be renewed there; or is this machine's clock wrong?)");
    let unknown = served_with("own", false, 1);
    let said = failed(&format!("127.0.0.1:{unknown}"), tls("ca.pem")).await;
    assert!(said.contains("as `ca` in [registry.") && !said.contains("Other"), "{said}");
}
