use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use super::*;

pub(in crate::registry) fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/registry/http/testdata").join(name)
}

fn settings() -> HttpSettings {
    HttpSettings::default()
}

fn clients(settings: &HttpSettings) -> Result<Clients> {
    let policy = AddressPolicy::new(&Url::parse("https://localhost").unwrap(), false);
    build(settings, &Arc::new(policy))
}

/// A TLS server on loopback that answers each of `count` connections with 204; with `mutual` it wants our certificate.
pub(in crate::registry) fn server(mutual: bool, count: usize) -> u16 {
    served_with("server", mutual, count)
}

/// As [`server`], with the certificate `<name>.pem` and its key.
pub(in crate::registry) fn served_with(name: &str, mutual: bool, count: usize) -> u16 {
    install_crypto();
    let certs = |name: &str| CertificateDer::pem_file_iter(data(name)).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    let builder = ServerConfig::builder();
    let builder = if mutual {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certs("ca.pem"));
        builder.with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::from_pem_file(data(&format!("{name}-key.pem"))).unwrap();
    let config = Arc::new(builder.with_single_cert(certs(&format!("{name}.pem")), key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming().take(count) {
            let mut session = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut socket = socket.unwrap();
            let mut stream = rustls::Stream::new(&mut session, &mut socket);
            // A handshake that fails is the client's to report.
            if stream.read(&mut [0; 4096]).is_ok() {
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
            }
        }
    });
    port
}

async fn status(client: &Client, port: u16) -> Result<u16, String> {
    match client.get(format!("https://127.0.0.1:{port}/")).send().await {
        Ok(response) => Ok(response.status().as_u16()),
        Err(error) => Err(causes(&error)),
    }
}

#[tokio::test]
async fn a_private_authority_is_trusted_only_where_configured() {
    let port = server(false, 5);
    let plain = clients(&settings()).unwrap();
    assert!(status(&plain.api, port).await.unwrap_err().contains("certificate"));
    let with_ca = clients(&HttpSettings { ca: Some(data("ca.pem")), ..settings() }).unwrap();
    for client in [&with_ca.api, &with_ca.bulk] {
        assert_eq!(status(client, port).await, Ok(204));
    }
    let insecure = clients(&HttpSettings { insecure_skip_verify: true, ..settings() }).unwrap();
    assert_eq!(status(&insecure.api, port).await, Ok(204));
}

/// `openssl req -x509` makes a certificate that says to be an authority; curl and skopeo trust it where it is named.
#[tokio::test]
async fn a_registrys_own_self_signed_certificate_is_trusted_where_it_is_named() {
    let port = served_with("own", false, 4);
    let with = |ca: &str| clients(&HttpSettings { ca: Some(data(ca)), ..settings() }).unwrap();
    for client in [&with("own.pem").api, &with("own.pem").bulk] {
        assert_eq!(status(client, port).await, Ok(204));
    }
    assert!(status(&with("ca.pem").api, port).await.is_err(), "another one is not");
    // Not for another name.
    let elsewhere = reqwest::Url::parse(&format!("https://localhost.localdomain:{port}/")).unwrap();
    let pinned = reqwest::Client::builder().no_proxy().tls_backend_preconfigured((*with("own.pem").tls).clone());
    let pinned = pinned.resolve("localhost.localdomain", std::net::SocketAddr::from(([127, 0, 0, 1], port))).build().unwrap();
    assert!(causes(&pinned.get(elsewhere).send().await.unwrap_err()).contains("not valid for name"));
    // Nor for ever.
    let expired = served_with("expired", false, 1);
    assert!(status(&with("expired.pem").api, expired).await.unwrap_err().contains("xpired"));
}

#[tokio::test]
async fn a_client_certificate_is_shown_from_two_files_or_one() {
    let port = server(true, 3);
    let with_ca = HttpSettings { ca: Some(data("ca.pem")), ..settings() };
    assert!(status(&clients(&with_ca).unwrap().api, port).await.is_err());
    let two = HttpSettings { client_cert: Some(data("client.pem")), client_key: Some(data("client-key.pem")), ..with_ca.clone() };
    assert_eq!(status(&clients(&two).unwrap().api, port).await, Ok(204));
    let folder = tempfile::tempdir().unwrap();
    let both = folder.path().join("both.pem");
    let pem = [std::fs::read(data("client-key.pem")).unwrap(), std::fs::read(data("client.pem")).unwrap()].concat();
    std::fs::write(&both, pem).unwrap();
    let one = HttpSettings { client_cert: Some(both), ..with_ca };
    assert_eq!(status(&clients(&one).unwrap().api, port).await, Ok(204));
}

#[test]
fn errors_name_the_file_and_what_is_wrong_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (settings, parts) in [
        (HttpSettings { ca: Some("/nowhere/ca.pem".into()), ..settings() }, ["read ca", "/nowhere/ca.pem"]),
        (HttpSettings { ca: file("empty.pem", ""), ..settings() }, ["empty.pem", "holds no certificate"]),
        (HttpSettings { ca: file("garbage.pem", garbage), ..settings() }, ["garbage.pem", "certificate 1 cannot be used"]),
        (HttpSettings { ca: file("torn.pem", "-----BEGIN CERTIFICATE-----\nMII"), ..settings() }, ["torn.pem", "not valid PEM"]),
        (HttpSettings { client_key: Some(data("client-key.pem")), ..settings() }, ["client-key.pem", "no client_cert"]),
        (HttpSettings { client_cert: Some(data("client.pem")), ..settings() }, ["client.pem", "holds no unencrypted private key"]),
        (
            HttpSettings { client_cert: Some(data("client.pem")), client_key: Some(data("server-key.pem")), ..settings() },
            ["client.pem", "does not go with the key in"],
        ),
    ] {
        let error = clients(&settings).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?}: {error}");
    }
}

/// Certificate authorities are found by environment variables, which only a child process can have otherwise.
#[test]
fn a_machine_without_certificate_authorities_still_gets_clients() {
    const CHILD: &str = "LARDER_TEST_WITHOUT_AUTHORITIES";
    if std::env::var_os(CHILD).is_some() {
        assert!(rustls_finds_none(), "the child was to have no authorities");
        clients(&settings()).unwrap();
        clients(&HttpSettings { ca: Some(data("ca.pem")), ..settings() }).unwrap();
        return;
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "registry::http::tests::a_machine_without_certificate_authorities_still_gets_clients"])
        .envs([(CHILD, "1"), ("SSL_CERT_FILE", "/nowhere/ca.pem"), ("SSL_CERT_DIR", "/nowhere")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
}

fn rustls_finds_none() -> bool {
    install_crypto();
    Client::builder().build().is_err()
}

#[test]
fn the_endpoint_follows_host_and_settings() {
    for (host, configured, plain, expected) in [
        ("quay.io", None, None, "https://quay.io/"),
        ("docker.io", None, None, "https://registry-1.docker.io/"),
        ("docker.io", Some("https://mirror.corp"), None, "https://mirror.corp/"),
        ("registry.corp:5000", None, None, "https://registry.corp:5000/"),
        ("registry.corp:5000", None, Some(true), "http://registry.corp:5000/"),
        ("127.0.0.1:5000", None, None, "http://127.0.0.1:5000/"),
        ("127.9.9.9", None, None, "http://127.9.9.9/"),
        ("[::1]:5000", None, None, "http://[::1]:5000/"),
        ("localhost:443", None, None, "http://localhost:443/"),
        ("localhost:5000", None, Some(false), "https://localhost:5000/"),
        ("localhost.corp", None, None, "https://localhost.corp/"),
        ("10.0.0.1:5000", None, None, "https://10.0.0.1:5000/"),
        ("quay.io", Some("http://10.0.0.1:5000/quay"), None, "http://10.0.0.1:5000/quay/"),
        ("quay.io", Some("https://10.0.0.1:5000/quay/"), Some(true), "http://10.0.0.1:5000/quay/"),
        ("quay.io", Some("http://mirror.corp"), Some(false), "http://mirror.corp/"),
        ("quay.io", Some("https://localhost:5000"), None, "https://localhost:5000/"),
        ("quay.io", Some("mirror.corp:5000"), None, "https://mirror.corp:5000/"),
        ("quay.io", Some("localhost:5000"), None, "http://localhost:5000/"),
    ] {
        assert_eq!(endpoint(host, configured, plain).unwrap().as_str(), expected, "{host} {configured:?} {plain:?}");
    }
    for (configured, part) in [
        ("ftp://mirror.corp", "neither http nor https"),
        ("https://user:hunter2@mirror.corp", "user name or password"),
        ("user:hunter2@bad host", "user name or password"),
        ("https://mirror.corp/?a=b", "query"),
        ("https://", "no URL"),
    ] {
        let error = endpoint("quay.io", Some(configured), None).unwrap_err().to_string();
        assert!(error.contains(part) && !error.contains("hunter2"), "{configured}: {error}");
    }
}

#[tokio::test]
async fn requests_say_who_we_are_follow_no_redirect_and_refuse_compression() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = std::thread::spawn(move || {
        let mut socket = listener.accept().unwrap().0;
        let mut bytes = [0; 4096];
        let length = socket.read(&mut bytes).unwrap();
        socket.write_all(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n").unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap().to_ascii_lowercase()
    });
    let client = clients(&settings()).unwrap().api;
    let response = client.get(format!("http://127.0.0.1:{port}/v2/")).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 307);
    let seen = seen.join().unwrap();
    assert!(
        seen.contains(concat!("user-agent: larder/", env!("CARGO_PKG_VERSION"))) && seen.contains("accept-encoding: identity"),
        "{seen}"
    );
}

/// The connections that a server took, by protocol.
#[derive(Default)]
struct Connections {
    http1: AtomicUsize,
    http2: AtomicUsize,
}

/// A TLS server that speaks HTTP/2 and HTTP/1.1, as the client chooses. It holds its answers back until so many requests are under way.
async fn server_of_both(at_once: usize) -> (u16, Arc<Connections>) {
    install_crypto();
    let certs = CertificateDer::pem_file_iter(data("server.pem")).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(data("server-key.pem")).unwrap();
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(certs, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (connections, together) = (Arc::new(Connections::default()), Arc::new(tokio::sync::Barrier::new(at_once)));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let (acceptor, counted, together) = (acceptor.clone(), Arc::clone(&counted), Arc::clone(&together));
            tokio::spawn(async move {
                let stream = acceptor.accept(socket).await.unwrap();
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let count = if is_http2 { &counted.http2 } else { &counted.http1 };
                count.fetch_add(1, Ordering::SeqCst);
                let answer = hyper::service::service_fn(move |_| {
                    let together = Arc::clone(&together);
                    async move {
                        together.wait().await;
                        Ok::<_, std::convert::Infallible>(axum::http::Response::new(axum::body::Body::empty()))
                    }
                });
                let io = hyper_util::rt::TokioIo::new(stream);
                // The client closes the connection at its end, which may be an error here.
                let _ = match is_http2 {
                    true => {
                        hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new()).serve_connection(io, answer).await
                    }
                    false => hyper::server::conn::http1::Builder::new().serve_connection(io, answer).await,
                };
            });
        }
    });
    (port, connections)
}

#[tokio::test]
async fn small_requests_share_one_http2_connection_and_each_blob_has_its_own() {
    let with_ca = clients(&HttpSettings { ca: Some(data("ca.pem")), ..settings() }).unwrap();
    // One request opens the connection that all others join.
    let (port, connections) = server_of_both(1).await;
    for client in [&with_ca.api, &with_ca.bulk] {
        assert_eq!(status(client, port).await, Ok(200));
    }
    let both = futures_util::future::join_all((0..16).map(|_| status(&with_ca.api, port))).await;
    assert_eq!(both, vec![Ok(200); 16]);
    assert_eq!((connections.http2.load(Ordering::SeqCst), connections.http1.load(Ordering::SeqCst)), (1, 1));
    // Sixteen blobs at once.
    let (port, connections) = server_of_both(16).await;
    let blobs = futures_util::future::join_all((0..16).map(|_| status(&with_ca.bulk, port))).await;
    assert_eq!(blobs, vec![Ok(200); 16]);
    assert_eq!((connections.http2.load(Ordering::SeqCst), connections.http1.load(Ordering::SeqCst)), (0, 16));
}
