//! The server over real sockets, asked by reqwest, by raw bytes, and by oci-client as somebody else's idea of the API.

mod bounds;
mod lists;

use crate::Operation;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use reqwest::{Client, Method, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::content::{BlobStream, Descriptor, Digest, Manifest, Repository, RequestContext};
use crate::demo::MemoryRegistry;
use crate::name::Reference;
use crate::{Kind, Side};

const REPOSITORY: &str = "acme/tools/cli";
const BLOB: &[u8] = b"0123456789";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// One repository with one blob, one manifest (white space included) and five tags.
fn shelf() -> (MemoryRegistry, Descriptor, Descriptor) {
    let mut shelf = MemoryRegistry::default();
    let blob = shelf.put_blob(REPOSITORY, "application/octet-stream", Bytes::from_static(BLOB));
    let config = format!("{{\"digest\": \"{}\", \"size\": {}}}", blob.digest, BLOB.len());
    let text = format!("{{ \"schemaVersion\": 2,\n \"mediaType\": \"{MANIFEST_TYPE}\", \"config\": {config}, \"layers\": [ ] }}\n");
    let manifest = shelf.put_manifest(REPOSITORY, MANIFEST_TYPE, text.into());
    for tag in ["v3", "v1", "latest", "v2", "v10"] {
        shelf.tag(REPOSITORY, tag, &manifest);
    }
    (shelf, blob, manifest)
}

/// A running server and a client of it.
struct Running {
    base: String,
    client: Client,
    meter: Arc<ByteMeter>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    async fn start(source: impl Source + 'static, options: ServeOptions) -> Running {
        // Another test may have installed it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let server = Server::bind(SocketAddr::from(([127, 0, 0, 1], 0)), Arc::new(source), options).await.unwrap();
        let (base, meter) = (format!("http://{}", server.addr()), server.meter());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(server.run_until(async move {
            let _ = stopped.await;
        }));
        let client = Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        Running { base, client, meter, stop, task }
    }

    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    async fn get(&self, path: &str) -> Response {
        self.ask(Method::GET, path, &[]).await
    }

    /// Sends bytes as they are and gives back the status line and what follows.
    async fn raw(&self, request: &str) -> String {
        let mut connection = TcpStream::connect(self.base.trim_start_matches("http://")).await.unwrap();
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![];
        connection.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

/// Status and error code of a refusal; its body must be an envelope with exactly one error that has a message.
async fn refusal(response: Response) -> (u16, String) {
    assert_eq!(header(&response, "content-type"), "application/json");
    let status = response.status().as_u16();
    let envelope: serde_json::Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    let errors = envelope["errors"].as_array().unwrap();
    assert!(errors.len() == 1 && !errors[0]["message"].as_str().unwrap().is_empty(), "{envelope}");
    (status, errors[0]["code"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn it_says_that_it_is_a_registry() {
    let server = Running::start(shelf().0, ServeOptions::default()).await;
    for path in ["/v2/", "/v2"] {
        let response = server.get(path).await;
        assert_eq!((response.status(), header(&response, "docker-distribution-api-version")), (StatusCode::OK, "registry/2.0"));
        assert_eq!(response.text().await.unwrap(), "{}");
    }
}

#[tokio::test]
async fn a_manifest_comes_byte_by_byte_by_tag_and_by_digest() {
    let (shelf, _, manifest) = shelf();
    let server = Running::start(shelf, ServeOptions::default()).await;
    for reference in ["v1", manifest.digest.as_str(), &manifest.digest.as_str().replace(':', "%3A")] {
        let path = format!("/v2/{REPOSITORY}/manifests/{reference}");
        for method in [Method::GET, Method::HEAD] {
            let response = server.ask(method.clone(), &path, &[("accept", "application/json")]).await;
            assert_eq!(response.status(), StatusCode::OK, "{method} {path}");
            assert_eq!(header(&response, "content-type"), MANIFEST_TYPE);
            assert_eq!(header(&response, "docker-content-digest"), manifest.digest.as_str());
            assert_eq!(header(&response, "etag"), format!("\"{}\"", manifest.digest));
            assert_eq!(header(&response, "content-length"), manifest.size.to_string());
            let body = response.bytes().await.unwrap();
            assert!(if method == Method::HEAD { body.is_empty() } else { manifest.digest.matches(&body) }, "{method}");
        }
    }
    let etag = format!("\"{}\"", manifest.digest);
    for (tag, status) in [(etag.as_str(), 304), ("\"sha256:other\"", 200)] {
        for method in [Method::GET, Method::HEAD] {
            let response = server.ask(method, &format!("/v2/{REPOSITORY}/manifests/v1"), &[("if-none-match", tag)]).await;
            assert_eq!((response.status().as_u16(), header(&response, "docker-content-digest")), (status, manifest.digest.as_str()));
        }
    }
}

#[tokio::test]
async fn a_blob_comes_whole_or_in_part() {
    let (shelf, blob, _) = shelf();
    let server = Running::start(shelf, ServeOptions::default()).await;
    let path = format!("/v2/{REPOSITORY}/blobs/{}", blob.digest);
    let etag = format!("\"{}\"", blob.digest);
    for (headers, status, range, body) in [
        (vec![], 200, "", "0123456789"),
        (vec![("range", "bytes=0-")], 206, "bytes 0-9/10", "0123456789"),
        (vec![("range", "bytes=4-")], 206, "bytes 4-9/10", "456789"),
        (vec![("range", "bytes=2-4")], 206, "bytes 2-4/10", "234"),
        (vec![("range", "bytes=8-100")], 206, "bytes 8-9/10", "89"),
        (vec![("range", "bytes=-3")], 206, "bytes 7-9/10", "789"),
        (vec![("range", "bytes=0-1,3-4")], 200, "", "0123456789"),
        (vec![("range", "bytes=4-"), ("if-range", &etag)], 206, "bytes 4-9/10", "456789"),
        (vec![("range", "bytes=4-"), ("if-range", "\"other\"")], 200, "", "0123456789"),
    ] {
        let response = server.ask(Method::GET, &path, &headers).await;
        assert_eq!((response.status().as_u16(), header(&response, "content-range")), (status, range), "{headers:?}");
        assert_eq!(header(&response, "content-length"), body.len().to_string(), "{headers:?}");
        assert_eq!((header(&response, "accept-ranges"), header(&response, "docker-content-digest")), ("bytes", blob.digest.as_str()));
        assert_eq!(response.text().await.unwrap(), body, "{headers:?}");
    }
    let response = server.ask(Method::GET, &path, &[("range", "bytes=10-")]).await;
    assert_eq!(header(&response, "content-range"), "bytes */10");
    assert_eq!(refusal(response).await, (416, "RANGE_INVALID".to_owned()));

    let response = server.ask(Method::HEAD, &path, &[("range", "bytes=4-")]).await;
    assert_eq!((response.status().as_u16(), header(&response, "content-length"), header(&response, "accept-ranges")), (200, "10", "bytes"));
    assert_eq!(server.ask(Method::GET, &path, &[("if-none-match", &etag)]).await.status().as_u16(), 304);
}

#[tokio::test]
async fn an_empty_blob_is_a_blob() {
    let (mut shelf, ..) = shelf();
    let blob = shelf.put_blob(REPOSITORY, "x", Bytes::new());
    let server = Running::start(shelf, ServeOptions::default()).await;
    let response = server.get(&format!("/v2/{REPOSITORY}/blobs/{}", blob.digest)).await;
    assert_eq!((response.status().as_u16(), header(&response, "content-length")), (200, "0"));
}

#[tokio::test]
async fn tags_come_in_order_and_in_pages() {
    let server = Running::start(shelf().0, ServeOptions::default()).await;
    let path = format!("/v2/{REPOSITORY}/tags/list");
    assert_eq!(
        server.get(&path).await.text().await.unwrap(),
        "{\"name\":\"acme/tools/cli\",\"tags\":[\"latest\",\"v1\",\"v10\",\"v2\",\"v3\"]}"
    );

    let mut next = Some(format!("{path}?n=2"));
    let mut pages = vec![];
    while let Some(this) = next {
        let response = server.get(&this).await;
        next = header(&response, "link").strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\"")).map(str::to_owned);
        let page: serde_json::Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        pages.push(page["tags"].to_string());
    }
    assert_eq!(pages, ["[\"latest\",\"v1\"]", "[\"v10\",\"v2\"]", "[\"v3\"]"]);
    assert_eq!(server.meter.read().tag_lists, 4);
}

#[tokio::test]
async fn refusals_carry_the_codes_that_clients_know() {
    let server = Running::start(shelf().0, ServeOptions::default()).await;
    let nothing = Digest::sha256(b"nothing");
    for (method, path, status, code) in [
        (Method::GET, format!("/v2/{REPOSITORY}/manifests/none"), 404, "MANIFEST_UNKNOWN"),
        (Method::GET, format!("/v2/{REPOSITORY}/manifests/{nothing}"), 404, "MANIFEST_UNKNOWN"),
        (Method::GET, "/v2/none/manifests/v1".to_owned(), 404, "MANIFEST_UNKNOWN"),
        (Method::GET, format!("/v2/{REPOSITORY}/blobs/{nothing}"), 404, "BLOB_UNKNOWN"),
        (Method::GET, format!("/v2/acme/other/blobs/{}", Digest::sha256(BLOB)), 404, "BLOB_UNKNOWN"),
        (Method::GET, "/v2/none/tags/list".to_owned(), 404, "NAME_UNKNOWN"),
        (Method::GET, format!("/v2/{REPOSITORY}/tags/list?n=x"), 400, "PAGINATION_NUMBER_INVALID"),
        (Method::GET, "/v2/Acme/manifests/v1".to_owned(), 400, "NAME_INVALID"),
        (Method::GET, format!("/v2/{REPOSITORY}/manifests/-v1"), 400, "TAG_INVALID"),
        (Method::GET, format!("/v2/{REPOSITORY}/blobs/sha256:1"), 400, "DIGEST_INVALID"),
        (Method::GET, format!("/v2/{REPOSITORY}/referrers/sha256:1"), 400, "DIGEST_INVALID"),
        (Method::GET, format!("/v2/{REPOSITORY}/manifests/v1?ns=a/b"), 400, "NAME_INVALID"),
        (Method::GET, format!("/v2/{REPOSITORY}/manifests/v1?ns=quay.io"), 404, "MANIFEST_UNKNOWN"),
        (Method::GET, "/v2/_catalog".to_owned(), 404, "UNSUPPORTED"),
        (Method::GET, "/".to_owned(), 404, "UNSUPPORTED"),
        (Method::POST, format!("/v2/{REPOSITORY}/blobs/uploads/"), 405, "UNSUPPORTED"),
        (Method::PUT, format!("/v2/{REPOSITORY}/manifests/v1"), 405, "UNSUPPORTED"),
        (Method::DELETE, format!("/v2/{REPOSITORY}/manifests/v1"), 405, "UNSUPPORTED"),
    ] {
        let response = server.ask(method.clone(), &path, &[]).await;
        let allow = header(&response, "allow").to_owned();
        assert_eq!(refusal(response).await, (status, code.to_owned()), "{method} {path}");
        assert_eq!(allow == "GET, HEAD", status == 405, "{method} {path}");
        // The same question by HEAD has the same status and no body.
        if method == Method::GET {
            let response = server.ask(Method::HEAD, &path, &[]).await;
            assert_eq!((response.status().as_u16(), response.bytes().await.unwrap().len()), (status, 0), "HEAD {path}");
        }
    }
}

#[tokio::test]
async fn paths_that_a_browser_would_tidy_up_are_refused_as_they_are() {
    let server = Running::start(shelf().0, ServeOptions::default()).await;
    for (path, status) in [
        ("/v2/../../../etc/passwd/manifests/v1", "400"),
        ("/v2/acme/tools/x/../cli/manifests/v1", "400"),
        ("/v2/acme//tools/cli/manifests/v1", "400"),
        ("/v2/acme/tools/cli/manifests/../../../../etc/passwd", "404"),
        ("/v2/acme%2ftools%2fcli/manifests/v1", "400"),
        ("/v2/acme/tools/cli/blobs/sha256:%2e%2e%2f%2e%2e%2fetc", "400"),
    ] {
        let answer = server.raw(&format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
    }
}

/// A source that knows no more than it must: digests without sizes or types, and blobs that may break off.
struct Sparse {
    shelf: MemoryRegistry,
    blob_ends_after: usize,
}

#[async_trait]
impl Source for Sparse {
    async fn resolve(&self, repository: &Repository, reference: &Reference, context: &RequestContext) -> Result<Option<Descriptor>> {
        let found = self.shelf.resolve(repository, reference, context).await?;
        Ok(found.map(|found| Descriptor::new("", found.digest, 0)))
    }
    async fn tags(&self, _: &Repository, _: &RequestContext) -> Result<Vec<String>> {
        Err(Error::new(Side::Local, Operation::ListTags, Kind::Unavailable, "gone"))
    }
    async fn manifest(&self, repository: &Repository, digest: &Digest, context: &RequestContext) -> Result<Option<Manifest>> {
        self.shelf.manifest(repository, digest, context).await
    }
    async fn blob(&self, repository: &Repository, blob: &Descriptor, offset: u64, context: &RequestContext) -> Result<Option<BlobStream>> {
        // Whole when it is counted (its size is not known then), cut when it is sent.
        let ends_after = if blob.size == 0 { usize::MAX } else { self.blob_ends_after };
        let stream = self.shelf.blob(repository, blob, offset, context).await?;
        Ok(stream.map(|stream| stream.map(move |chunk| chunk.map(|chunk| chunk.slice(..chunk.len().min(ends_after)))).boxed()))
    }
}

#[tokio::test]
async fn a_source_that_knows_only_digests_is_asked_for_the_rest() {
    let (shelf, blob, manifest) = shelf();
    let server = Running::start(Sparse { shelf, blob_ends_after: usize::MAX }, ServeOptions::default()).await;
    let response = server.ask(Method::HEAD, &format!("/v2/{REPOSITORY}/manifests/v1"), &[]).await;
    assert_eq!(
        (header(&response, "content-type"), header(&response, "content-length")),
        (MANIFEST_TYPE, manifest.size.to_string().as_str())
    );
    let path = format!("/v2/{REPOSITORY}/blobs/{}", blob.digest);
    assert_eq!(header(&server.ask(Method::HEAD, &path, &[]).await, "content-length"), "10");
    assert_eq!(server.get(&path).await.bytes().await.unwrap(), BLOB);
    assert_eq!(refusal(server.get(&format!("/v2/{REPOSITORY}/tags/list")).await).await, (503, "UNAVAILABLE".to_owned()));
}

#[tokio::test]
async fn a_blob_that_ends_early_is_a_broken_body_and_no_short_one() {
    let (shelf, blob, _) = shelf();
    let server = Running::start(Sparse { shelf, blob_ends_after: 4 }, ServeOptions::default()).await;
    // The connection may break before the head of the answer has left, or within its body.
    let answer = server.client.get(format!("{}/v2/{REPOSITORY}/blobs/{}", server.base, blob.digest)).send().await;
    let body = match answer {
        Ok(response) => response.bytes().await,
        Err(error) => Err(error),
    };
    assert!(body.is_err(), "{body:?}");
}

#[tokio::test]
async fn it_counts_what_it_was_asked() {
    let (shelf, blob, _) = shelf();
    let server = Running::start(shelf, ServeOptions::default()).await;
    let (manifest, blob) = (format!("/v2/{REPOSITORY}/manifests/v1"), format!("/v2/{REPOSITORY}/blobs/{}", blob.digest));
    server.ask(Method::HEAD, &manifest, &[]).await;
    let earlier = server.meter.read();
    server.get(&manifest).await;
    server.ask(Method::HEAD, &blob, &[]).await;
    server.get(&blob).await.bytes().await.unwrap();
    server.ask(Method::GET, &blob, &[("range", "bytes=7-")]).await.bytes().await.unwrap();
    server.get("/v2/Bad/manifests/x").await;
    let all = Traffic { manifest_heads: 1, manifest_gets: 1, blob_heads: 1, blob_gets: 2, tag_lists: 0, blob_bytes: 13 };
    assert_eq!(server.meter.read(), all);
    assert_eq!(server.meter.read().since(earlier), Traffic { manifest_heads: 0, ..all });
}

#[tokio::test]
async fn oci_client_pulls_the_demo_from_it() {
    use oci_client::client::{ClientConfig, ClientProtocol};

    let server = Running::start(MemoryRegistry::demo_upstream(), ServeOptions::default()).await;
    let host = server.base.trim_start_matches("http://");
    let config = ClientConfig { protocol: ClientProtocol::Http, tls_certs_only: vec![], ..ClientConfig::default() };
    let client = oci_client::Client::try_from(config).unwrap();
    for (image, layers) in [("library/nginx:1.27", 3), ("library/redis:7", 2), ("acme/api:1.4.0", 3)] {
        let reference = format!("{host}/{image}").parse().unwrap();
        let (manifest, digest) = client.pull_image_manifest(&reference, &oci_client::secrets::RegistryAuth::Anonymous).await.unwrap();
        assert_eq!(manifest.layers.len(), layers, "{image} {digest}");
        // oci-client checks the digest itself.
        let mut bytes = vec![];
        client.pull_blob(&reference, &manifest.layers[layers - 1], &mut bytes).await.unwrap();
        assert_eq!(bytes.len() as i64, manifest.layers[layers - 1].size);
    }
}

#[tokio::test]
async fn it_stops_when_told_and_an_occupied_port_is_named() {
    let server = Running::start(shelf().0, ServeOptions::default()).await;
    let addr: SocketAddr = server.base.trim_start_matches("http://").parse().unwrap();
    let error = Server::bind(addr, Arc::new(MemoryRegistry::default()), ServeOptions::default()).await.err().unwrap();
    assert!(error.message().contains(&addr.to_string()) && error.message().contains("choose another port"), "{error}");

    // A client that keeps its connection open does not keep the server.
    assert_eq!(server.get("/v2/").await.status(), StatusCode::OK);
    server.stop.send(()).unwrap();
    server.task.await.unwrap();
    assert!(TcpStream::connect(addr).await.is_err());
}

/// The clock is paused: it moves to the end of the grace period once nothing else can happen.
#[tokio::test(start_paused = true)]
async fn a_client_that_has_stopped_reading_does_not_keep_it_running() {
    let (mut shelf, ..) = shelf();
    // More than the two sockets' buffers take (Linux: at most 4 + 6 MiB by default, tcp_wmem and tcp_rmem).
    let blob = shelf.put_blob(REPOSITORY, "x", vec![0; 32 << 20].into());
    // With no stall to wait for: the paused clock would jump there.
    let bounds = ServeBounds { stall: Duration::MAX, ..ServeBounds::default() };
    let server = Running::start(shelf, ServeOptions { bounds, ..ServeOptions::default() }).await;
    let mut connection = TcpStream::connect(server.base.trim_start_matches("http://")).await.unwrap();
    connection.write_all(format!("GET /v2/{REPOSITORY}/blobs/{} HTTP/1.1\r\nhost: x\r\n\r\n", blob.digest).as_bytes()).await.unwrap();
    assert_eq!(connection.read_u8().await.unwrap(), b'H');
    let told = tokio::time::Instant::now();
    server.stop.send(()).unwrap();
    server.task.await.unwrap();
    assert_eq!(told.elapsed().as_secs(), bounds.grace.as_secs());
    assert!(server.meter.read().blob_bytes < 32 << 20);
}
