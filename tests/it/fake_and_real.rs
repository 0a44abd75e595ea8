//! The fake registry beside real programs: oci-client, skopeo, umoci and Debian's docker-registry take it for one, and the
//! corpus is what it says.

use crate::support::corpus::{self, ImageSpec, OCI_IMAGE, corpus, corpus_for_docker_registry};
use crate::support::fake::{Auth, Fake, Kind, Options, Redirect};
use crate::support::layer::{layer, noise};
use crate::support::push::{Push, client};
use crate::support::real::{DockerRegistry, require, skopeo_ok};
use larder::content::Digest;
use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::secrets::RegistryAuth;
use serde_json::Value;

fn oci_client(monolithic: bool) -> oci_client::Client {
    let _ = client();
    let config = ClientConfig { protocol: ClientProtocol::Http, use_monolithic_push: monolithic, ..ClientConfig::default() };
    oci_client::Client::try_from(config).unwrap()
}

#[tokio::test]
async fn oci_client_pushes_and_pulls_whatever_the_options() {
    let user = RegistryAuth::Basic("me".to_owned(), "secret".to_owned());
    let table = [
        (Options::default(), RegistryAuth::Anonymous, true),
        (Options { location_absolute: true, location_query: true, ..Options::default() }, RegistryAuth::Anonymous, false),
        (Options { auth: Auth::basic("me", "secret"), digest_header: false, ..Options::default() }, user.clone(), true),
        (Options { auth: Auth::tokens("me", "secret"), redirect: Some(Redirect::default()), ..Options::default() }, user, false),
    ];
    for (options, auth, monolithic) in table {
        let registry = Fake::with(options);
        let client = oci_client(monolithic);
        let name: oci_client::Reference = registry.image("some/app:v1").parse().unwrap();
        let layers = [ImageLayer::oci_v1_gzip(layer(1, 300_000), None), ImageLayer::oci_v1_gzip(layer(2, 10), None)];
        client.push(&name, &layers, Config::oci_v1(&b"{}"[..], None), &auth, None).await.unwrap();
        assert_eq!(registry.tags("some/app"), ["v1"]);
        let pulled = client.pull(&name, &auth, vec![corpus::OCI_LAYER]).await.unwrap();
        // They come in the order in which they arrived.
        let mut sizes: Vec<usize> = pulled.layers.iter().map(|layer| layer.data.len()).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [layer(2, 10).len(), layer(1, 300_000).len()]);
        assert_eq!(registry.open_uploads(), 0);
    }
}

#[tokio::test]
async fn oci_client_reads_the_corpus() {
    let registry = Fake::start();
    let client = oci_client(true);
    for case in corpus(&registry) {
        let name: oci_client::Reference = registry.image(&case.image()).parse().unwrap();
        let (bytes, digest) = client.pull_manifest_raw(&name, &RegistryAuth::Anonymous, &[&case.media_type]).await.unwrap();
        assert_eq!((digest.as_str(), case.digest.matches(&bytes)), (case.digest.as_str(), true), "{}", case.name);
    }
}

#[test]
fn the_real_registry_takes_and_returns_what_the_corpus_says() {
    let Some(real) = DockerRegistry::start() else { return };
    let (fake, push) = (Fake::start(), Push::to(real.addr()));
    for case in corpus(&fake).iter().filter(|case| !case.docker_registry) {
        let (media_type, bytes) = fake.manifest(&case.repository, case.reference()).unwrap();
        let manifest: Value = serde_json::from_slice(&bytes).unwrap();
        let listed = ["layers", "blobs"].iter().flat_map(|list| manifest[list].as_array().cloned().unwrap_or_default());
        let digests = listed.chain([manifest["config"].clone()]).filter_map(|blob| Digest::parse(blob["digest"].as_str()?).ok());
        let refused_blobs =
            digests.filter(|digest| push.blob(&case.repository, digest, fake.blob(&case.repository, digest).unwrap()).is_err());
        let refused = refused_blobs.count() > 0 || push.manifest(&case.repository, case.reference(), &media_type, bytes).is_err();
        assert!(refused, "{}", case.name);
    }
    let cases = corpus_for_docker_registry(&push);
    assert_eq!(cases.len(), 26);
    for case in &cases {
        let bytes = push.read(&format!("/v2/{}/manifests/{}", case.repository, case.reference()), &case.media_type);
        assert_eq!(bytes, fake.manifest(&case.repository, case.reference()).map(|(_, bytes)| bytes), "{}", case.name);
        let manifest: Value = serde_json::from_slice(&bytes.unwrap()).unwrap();
        for blob in manifest["layers"].as_array().into_iter().flatten().filter(|blob| blob.get("urls").is_none()) {
            let path = format!("/v2/{}/blobs/{}", case.repository, blob["digest"].as_str().unwrap());
            assert_eq!(push.read(&path, "*/*").map(|bytes| bytes.len() as u64), blob["size"].as_u64(), "{}", case.name);
        }
    }
}

#[test]
fn a_real_cache_in_front_of_the_fake_pulls_through_it() {
    let fake = Fake::start();
    let made = corpus::simple(&fake, "some/app", "v1", 3);
    let Some(cache) = DockerRegistry::start_proxy(&fake.url()) else { return };
    let bytes = Push::to(cache.addr()).read("/v2/some/app/manifests/v1", OCI_IMAGE);
    assert_eq!(bytes.map(|bytes| Digest::sha256(&bytes)), Some(made.digest));
    assert_eq!(fake.count(Kind::ManifestGet), 1);
}

#[test]
fn skopeo_copies_from_the_fake_into_a_folder_and_back() {
    let (from, to) = (Fake::start(), Fake::with(Options { auth: Auth::tokens("me", "secret"), ..Options::default() }));
    let folder = tempfile::TempDir::new().unwrap();
    // skopeo 1.9 knows only images and lists of them, and loses `data` of a list.
    let odd = [
        "unknown-media-type",
        "artifact-manifest",
        "docker-schema1",
        "nested-index",
        "inline-child",
        "odd-index",
        "sha512-child",
        "sha512-layer",
        "foreign-layer",
    ];
    for case in corpus(&from).iter().filter(|case| case.tag.is_some() && !odd.contains(&case.name)) {
        let dir = format!("dir:{}", folder.path().join(case.name).display());
        let source = format!("docker://{}", from.image(&case.image()));
        if skopeo_ok(["copy", "--all", "--preserve-digests", "--src-tls-verify=false", &source, &dir]).is_none() {
            return;
        }
        let target = format!("docker://{}", to.image(&case.image()));
        let back = ["copy", "--all", "--preserve-digests", "--dest-tls-verify=false", "--dest-creds=me:secret", &dir, &target];
        skopeo_ok(back).unwrap();
        assert_eq!(to.digest(&case.repository, "v1").as_ref(), Some(&case.digest), "{}", case.name);
    }
    let layout = format!("oci:{}:v1", folder.path().join("layout").display());
    let source = format!("docker://{}", from.image("corpus/oci-image:v1"));
    skopeo_ok(["copy", "--src-tls-verify=false", &source, &layout]).unwrap();
    let unpacked = folder.path().join("unpacked");
    let mut umoci = std::process::Command::new("umoci");
    umoci.args(["unpack", "--rootless", "--image", layout.strip_prefix("oci:").unwrap()]).arg(&unpacked);
    if require("umoci") {
        assert!(umoci.output().unwrap().status.success());
        assert_eq!(std::fs::read(unpacked.join("rootfs/data-1")).unwrap(), noise(1, 3000));
    }

    let image = corpus::image(&from, "x", Some("arm"), &ImageSpec::new([layer(1, 5)]).platform("linux/arm/v7"));
    let source = format!("docker://{}@{}", from.image("x"), image.digest);
    let inspected = skopeo_ok(["inspect", "--tls-verify=false", &source]).unwrap();
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!((&inspected["Architecture"], &inspected["Layers"][0]), (&"arm".into(), &Digest::sha256(&layer(1, 5)).as_str().into()));
}
