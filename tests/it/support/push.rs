//! Putting content into any registry over plain HTTP, and a bare HTTP client; independent of larder's own wire path.

use std::sync::{Once, mpsc};

use bytes::Bytes;
use larder::content::Digest;
use reqwest::{Client, Response, StatusCode};
use tokio::runtime::Runtime;

use super::corpus::Put;

/// An HTTP client that follows no redirect and knows no proxy.
pub fn client() -> Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    // Only plain HTTP is spoken here: no certificates, so that machines without any will do.
    let builder = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).tls_certs_only([]);
    builder.build().unwrap()
}

/// Pushes into the registry at an address. Its calls block, also within a test's own runtime: they run on threads of
/// their own.
pub struct Push {
    address: String,
    client: Client,
    runtime: Option<Runtime>,
}

impl Drop for Push {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Push {
    /// A pusher into `host:port`.
    pub fn to(address: impl Into<String>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Push { address: address.into(), client: client(), runtime: Some(runtime) }
    }

    fn wait<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        self.runtime.as_ref().unwrap().spawn(async move { done.send(work.await) });
        result.recv().expect("the pushing task ended without a result")
    }

    /// Uploads a blob by POST and PUT. The error is the registry's answer.
    pub fn blob(&self, repository: &str, digest: &Digest, bytes: Bytes) -> Result<(), String> {
        let (client, base, digest) = (self.client.clone(), format!("http://{}", self.address), digest.clone());
        let start = format!("{base}/v2/{repository}/blobs/uploads/");
        self.wait(async move {
            let opened = expect(client.post(start).header("content-length", 0).send().await, StatusCode::ACCEPTED).await?;
            let location = opened.headers().get("location").and_then(|value| value.to_str().ok()).ok_or("no Location")?;
            let mut url = url::Url::parse(&base).and_then(|base| base.join(location)).map_err(|error| error.to_string())?;
            url.query_pairs_mut().append_pair("digest", digest.as_str());
            let put = client.put(url).header("content-type", "application/octet-stream").body(bytes);
            expect(put.send().await, StatusCode::CREATED).await.map(drop)
        })
    }

    /// What a GET of `path` answers with 200; `None` for any other status.
    pub fn read(&self, path: &str, accept: &str) -> Option<Bytes> {
        let get = self.client.get(format!("http://{}{path}", self.address)).header("accept", accept);
        self.wait(async move {
            let answer = get.send().await.unwrap();
            if answer.status() == StatusCode::OK { Some(answer.bytes().await.unwrap()) } else { None }
        })
    }

    /// Puts a manifest. The error is the registry's answer.
    pub fn manifest(&self, repository: &str, reference: &str, media_type: &str, bytes: Bytes) -> Result<(), String> {
        let url = format!("http://{}/v2/{repository}/manifests/{reference}", self.address);
        let put = self.client.put(url).header("content-type", media_type).body(bytes);
        self.wait(async move { expect(put.send().await, StatusCode::CREATED).await.map(drop) })
    }
}

async fn expect(answer: reqwest::Result<Response>, status: StatusCode) -> Result<Response, String> {
    let answer = answer.map_err(|error| error.to_string())?;
    if answer.status() == status {
        return Ok(answer);
    }
    let (url, status) = (answer.url().clone(), answer.status());
    Err(format!("{url}: {status}: {}", answer.text().await.unwrap_or_default()))
}

impl Put for Push {
    fn store_blob(&self, repository: &str, digest: &Digest, bytes: Bytes) {
        self.blob(repository, digest, bytes).unwrap();
    }

    fn store_manifest(&self, repository: &str, tag: Option<&str>, digest: &Digest, media_type: &str, bytes: Bytes) {
        self.manifest(repository, digest.as_str(), media_type, bytes.clone()).unwrap();
        if let Some(tag) = tag {
            self.manifest(repository, tag, media_type, bytes).unwrap();
        }
    }
}
