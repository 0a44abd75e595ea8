//! What is listed, and under which names things are found.

use super::*;
use crate::report::openmetrics::strict;

/// A source that knows its repositories and what refers to its manifest.
struct Known {
    shelf: MemoryRegistry,
    subject: Digest,
    referrers: Vec<Descriptor>,
}

#[async_trait]
impl Source for Known {
    async fn resolve(&self, repository: &Repository, reference: &Reference, context: &RequestContext) -> Result<Option<Descriptor>> {
        self.shelf.resolve(repository, reference, context).await
    }
    async fn tags(&self, repository: &Repository, context: &RequestContext) -> Result<Vec<String>> {
        self.shelf.tags(repository, context).await
    }
    async fn manifest(&self, repository: &Repository, digest: &Digest, context: &RequestContext) -> Result<Option<Manifest>> {
        self.shelf.manifest(repository, digest, context).await
    }
    async fn blob(&self, repository: &Repository, blob: &Descriptor, offset: u64, context: &RequestContext) -> Result<Option<BlobStream>> {
        self.shelf.blob(repository, blob, offset, context).await
    }
    async fn referrers(&self, repository: &Repository, subject: &Digest, _: &RequestContext) -> Result<Vec<Descriptor>> {
        let here = *repository == Repository::new(REPOSITORY) && *subject == self.subject;
        Ok(if here { self.referrers.clone() } else { vec![] })
    }
    async fn repositories(&self, _: &RequestContext) -> Result<Option<Vec<Repository>>> {
        let mut all: Vec<Repository> = self.shelf.repositories().into_iter().map(Repository::new).collect();
        all.extend(["localhost:5001/b", "../no", "b c"].map(Repository::new));
        Ok(Some(all))
    }
}

async fn known(options: ServeOptions) -> (Running, Digest) {
    let (mut shelf, _, manifest) = shelf();
    for repository in ["docker.io/library/app", "library/app", "b/c"] {
        let members = "\"schemaVersion\": 2, \"manifests\": []";
        let other = shelf.put_manifest(
            repository,
            "application/vnd.oci.image.index.v1+json",
            format!("{{{members}, \"annotations\": {{\"of\": \"{repository}\"}}}}").into(),
        );
        shelf.tag(repository, "1", &other);
    }
    let referrer = |n: u8, kind: &str| {
        let mut descriptor = Descriptor::new(MANIFEST_TYPE, Digest::sha256(&[n]), 7);
        descriptor.artifact_type = Some(kind.to_owned());
        descriptor
    };
    let referrers = vec![referrer(1, "a/signature"), referrer(2, "a/sbom"), referrer(3, "a/signature")];
    let subject = manifest.digest.clone();
    (Running::start(Known { shelf, subject: subject.clone(), referrers }, options).await, subject)
}

async fn json(response: Response) -> serde_json::Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

fn next(response: &Response) -> Option<String> {
    header(response, "link").strip_prefix('<')?.strip_suffix(">; rel=\"next\"").map(str::to_owned)
}

#[tokio::test]
async fn referrers_are_an_index_and_never_unknown() {
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    let (server, subject) = known(ServeOptions::default()).await;
    let nothing = Digest::sha256(b"nothing");
    for (path, count, filtered) in [
        (format!("{REPOSITORY}/referrers/{subject}"), 3, ""),
        (format!("{REPOSITORY}/referrers/{}", subject.as_str().replace(':', "%3A")), 3, ""),
        (format!("{REPOSITORY}/referrers/{subject}?artifactType=a%2Fsignature"), 2, "artifactType"),
        (format!("{REPOSITORY}/referrers/{subject}?artifactType=a/none"), 0, "artifactType"),
        (format!("{REPOSITORY}/referrers/{nothing}"), 0, ""),
        (format!("none/referrers/{subject}"), 0, ""),
    ] {
        let response = server.get(&format!("/v2/{path}")).await;
        assert_eq!((response.status().as_u16(), header(&response, "content-type")), (200, INDEX), "{path}");
        assert_eq!(header(&response, "oci-filters-applied"), filtered, "{path}");
        let index = json(response).await;
        assert_eq!((index["mediaType"].as_str(), index["schemaVersion"].as_u64()), (Some(INDEX), Some(2)));
        assert_eq!(index["manifests"].as_array().unwrap().len(), count, "{path}");
    }
    let first = server.get(&format!("/v2/{REPOSITORY}/referrers/{subject}?artifactType=a/signature&n=1")).await;
    let second = server.get(&next(&first).unwrap()).await;
    assert_eq!(next(&second), None);
    let digests = [json(first).await, json(second).await].map(|page| page["manifests"][0]["digest"].as_str().unwrap().to_owned());
    let mut expected = [Digest::sha256(&[1]).to_string(), Digest::sha256(&[3]).to_string()];
    expected.sort();
    assert_eq!(digests, expected);
}

#[tokio::test]
async fn the_catalogue_lists_what_can_be_asked_for() {
    let (server, _) = known(ServeOptions::default()).await;
    let all = ["acme/tools/cli", "b/c", "docker.io/library/app", "library/app", "localhost_5001/b"];
    assert_eq!(json(server.get("/v2/_catalog").await).await["repositories"], serde_json::json!(all));
    let (mut page, mut found) = (Some("/v2/_catalog?n=2".to_owned()), vec![]);
    while let Some(this) = page {
        let response = server.get(&this).await;
        page = next(&response);
        found.extend(json(response).await["repositories"].as_array().unwrap().clone());
    }
    assert_eq!(found, all);
    assert_eq!(refusal(server.get("/v2/_catalog?n=-1").await).await, (400, "PAGINATION_NUMBER_INVALID".to_owned()));
}

#[tokio::test]
async fn a_namespace_means_that_registry_and_no_other() {
    let known_as = vec!["contoso.azurecr.io".to_owned()];
    let (server, _) = known(ServeOptions { known_as, ..ServeOptions::default() }).await;
    let of = async |path: &str| {
        let response = server.get(&format!("/v2/{path}")).await;
        let (status, ns) = (response.status().as_u16(), header(&response, "oci-namespace").to_owned());
        let of = if status == 200 { json(response).await["annotations"]["of"].as_str().unwrap().to_owned() } else { String::new() };
        (status, ns, of)
    };
    for (path, status, ns, expected) in [
        ("library/app/manifests/1", 200, "", "library/app"),
        ("app/manifests/1", 200, "", "docker.io/library/app"),
        ("docker.io/app/manifests/1", 200, "", "docker.io/library/app"),
        ("library/app/manifests/1?ns=docker.io", 200, "docker.io", "docker.io/library/app"),
        ("library/app/manifests/1?ns=index.docker.io", 200, "docker.io", "docker.io/library/app"),
        ("library/app/manifests/1?ns=quay.io", 404, "", ""),
        ("library/app/manifests/1?ns=contoso.azurecr.io", 200, "contoso.azurecr.io", "library/app"),
        ("contoso.azurecr.io/library/app/manifests/1", 200, "", "library/app"),
        ("library/app/manifests/1?ns=", 200, "", "library/app"),
    ] {
        assert_eq!(of(path).await, (status, ns.to_owned(), expected.to_owned()), "{path}");
    }
    // The next page means the same registry.
    let response = server.get("/v2/library/app/tags/list?n=0&ns=quay.io").await;
    assert_eq!(refusal(response).await, (404, "NAME_UNKNOWN".to_owned()));
    let response = server.get(&format!("/v2/{REPOSITORY}/tags/list?n=2&ns=contoso.azurecr.io")).await;
    assert_eq!(next(&response).unwrap(), format!("/v2/{REPOSITORY}/tags/list?n=2&last=v1&ns=contoso.azurecr.io"));
}

#[tokio::test]
async fn what_was_answered_is_told_as_metrics() {
    let (server, _) = known(ServeOptions::default()).await;
    server.get("/v2/library/app/manifests/1").await;
    server.get("/v2/library/app/manifests/2").await;
    server.get("/nowhere").await;
    server.ask(Method::POST, "/v2/library/app/blobs/uploads/", &[]).await;
    let response = server.get("/metrics").await;
    assert_eq!(header(&response, "content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let samples = strict::parse(&response.text().await.unwrap()).unwrap();
    for (sample, value) in [
        ("larder_serve_requests_total{route=\"manifest\",status=\"200\"}", 1.0),
        ("larder_serve_requests_total{route=\"manifest\",status=\"404\"}", 1.0),
        ("larder_serve_requests_total{route=\"none\",status=\"404\"}", 1.0),
        ("larder_serve_requests_total{route=\"none\",status=\"405\"}", 1.0),
        ("larder_serve_refused_connections_total", 0.0),
    ] {
        assert_eq!(samples.get(sample), Some(&value), "{sample}: {samples:?}");
    }
    assert!(samples["larder_serve_connections"] >= 1.0);
}
