//! Things to copy: images, indexes, artifacts, and one of every kind that is found in registries.

use bytes::Bytes;
use larder::content::{Descriptor, Digest, Platform};
use serde_json::{Map, Value, json};

use super::fake::Fake;
use super::layer::{diff_id, empty_layer, layer, noise};

pub const OCI_IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const OCI_FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
pub const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
pub const DOCKER_IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
pub const COSIGN: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// Where content can be put: a [`Fake`], or any registry through [`super::push::Push`].
pub trait Put {
    fn store_blob(&self, repository: &str, digest: &Digest, bytes: Bytes);
    /// Stores a manifest by digest, and by tag if one is given.
    fn store_manifest(&self, repository: &str, tag: Option<&str>, digest: &Digest, media_type: &str, bytes: Bytes);
}

impl Put for Fake {
    fn store_blob(&self, repository: &str, digest: &Digest, bytes: Bytes) {
        self.put_blob_as(repository, digest, bytes);
    }
    fn store_manifest(&self, repository: &str, tag: Option<&str>, digest: &Digest, media_type: &str, bytes: Bytes) {
        self.put_manifest_as(repository, digest, media_type, bytes);
        if let Some(tag) = tag {
            self.tag(repository, tag, digest);
        }
    }
}

/// The digest of `bytes`, by sha256 or sha512.
pub fn digest_of(algorithm: &str, bytes: &[u8]) -> Digest {
    let length = if algorithm == "sha512" { 128 } else { 64 };
    let mut hasher = Digest::parse(&format!("{algorithm}:{}", "0".repeat(length))).unwrap().hasher().unwrap();
    hasher.update(bytes);
    hasher.finish()
}

/// Puts a blob and describes it.
pub fn blob(put: &dyn Put, repository: &str, media_type: &str, bytes: impl Into<Bytes>) -> Descriptor {
    let bytes = bytes.into();
    let descriptor = Descriptor::new(media_type, Digest::sha256(&bytes), bytes.len() as u64);
    put.store_blob(repository, &descriptor.digest, bytes);
    descriptor
}

/// Puts a manifest and describes it.
pub fn manifest(put: &dyn Put, repository: &str, tag: Option<&str>, media_type: &str, bytes: impl Into<Bytes>) -> Descriptor {
    let bytes = bytes.into();
    let descriptor = Descriptor::new(media_type, Digest::sha256(&bytes), bytes.len() as u64);
    put.store_manifest(repository, tag, &descriptor.digest, media_type, bytes);
    descriptor
}

/// `os/architecture[/variant]`
pub fn platform(text: &str) -> Platform {
    let mut parts = text.split('/').map(str::to_owned);
    let mut next = || parts.next();
    Platform { os: next().unwrap(), architecture: next().unwrap(), variant: next(), os_version: None }
}

/// An image to be made.
#[derive(Debug, Clone)]
pub struct ImageSpec {
    /// Real layers: see [`layer`]. What is no gzip file of that module's gets its own digest as diff id.
    pub layers: Vec<Bytes>,
    /// `linux/amd64`, `linux/arm/v7`
    pub platform: &'static str,
    /// When it says it was created.
    pub created: String,
    /// Docker schema 2 instead of OCI.
    pub docker: bool,
    /// What this image is about.
    pub subject: Option<Descriptor>,
    pub annotations: Vec<(&'static str, String)>,
    /// Whether the config stands in the manifest too (`data`).
    pub inline_config: bool,
}

impl ImageSpec {
    /// An OCI image for linux/amd64.
    pub fn new(layers: impl IntoIterator<Item = Bytes>) -> Self {
        ImageSpec {
            layers: layers.into_iter().collect(),
            platform: "linux/amd64",
            created: "2026-01-01T00:00:00Z".to_owned(),
            docker: false,
            subject: None,
            annotations: vec![],
            inline_config: false,
        }
    }
    pub fn platform(self, platform: &'static str) -> Self {
        ImageSpec { platform, ..self }
    }
    pub fn created(self, created: impl Into<String>) -> Self {
        ImageSpec { created: created.into(), ..self }
    }
    pub fn docker(self) -> Self {
        ImageSpec { docker: true, ..self }
    }
    pub fn annotation(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.annotations.push((key, value.into()));
        self
    }

    /// The image's config, as tools expect one.
    fn config(&self) -> Bytes {
        let platform = platform(self.platform);
        let mut config = json!({
            "architecture": platform.architecture,
            "os": platform.os,
            "created": self.created,
            "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": self.layers.iter().map(|layer| diff_id(layer)).collect::<Vec<_>>()},
            "history": self.layers.iter().map(|_| json!({"created": "2026-01-01T00:00:00Z", "created_by": "test"})).collect::<Vec<_>>(),
        });
        if let Some(variant) = platform.variant {
            config["variant"] = variant.into();
        }
        config.to_string().into()
    }

    /// Puts config and layers, and gives the manifest that refers to them.
    fn build(&self, put: &dyn Put, repository: &str) -> Value {
        let (image_type, config_type, layer_type) =
            if self.docker { (DOCKER_IMAGE, DOCKER_CONFIG, DOCKER_LAYER) } else { (OCI_IMAGE, OCI_CONFIG, OCI_LAYER) };
        let bytes = self.config();
        let mut config = json!(blob(put, repository, config_type, bytes.clone()));
        if self.inline_config {
            config["data"] = base64(&bytes).into();
        }
        let layers: Vec<Descriptor> = self.layers.iter().map(|layer| blob(put, repository, layer_type, layer.clone())).collect();
        let mut manifest = json!({"schemaVersion": 2, "mediaType": image_type, "config": config, "layers": layers});
        if let Some(subject) = &self.subject {
            manifest["subject"] = json!(subject);
        }
        if !self.annotations.is_empty() {
            let annotations = self.annotations.iter().map(|(key, value)| ((*key).to_owned(), json!(value)));
            manifest["annotations"] = annotations.collect::<Map<_, _>>().into();
        }
        manifest
    }
}

/// Puts an image. Its descriptor has the platform, ready for [`index`].
pub fn image(put: &dyn Put, repository: &str, tag: Option<&str>, spec: &ImageSpec) -> Descriptor {
    let value = spec.build(put, repository);
    let media_type = if spec.docker { DOCKER_IMAGE } else { OCI_IMAGE };
    let made = manifest(put, repository, tag, media_type, value.to_string());
    Descriptor { platform: Some(platform(spec.platform)), ..made }
}

/// Puts an OCI image for linux/amd64 of two small layers that `seed` tells apart from all others.
pub fn simple(put: &dyn Put, repository: &str, tag: &str, seed: u64) -> Descriptor {
    image(put, repository, Some(tag), &ImageSpec::new([layer(seed * 1000 + 1, 700), layer(seed * 1000 + 2, 2000)]))
}

/// Puts an OCI index over images for `platforms` that share their first layer; `seed` tells it apart from all others.
pub fn multi(put: &dyn Put, repository: &str, tag: &str, seed: u64, platforms: &[&'static str]) -> Descriptor {
    let shared = layer(seed * 1000, 1500);
    let child = |(number, platform): (usize, &&'static str)| {
        let own = layer(seed * 1000 + 1 + number as u64, 900);
        image(put, repository, None, &ImageSpec::new([shared.clone(), own]).platform(platform))
    };
    let children: Vec<Descriptor> = platforms.iter().enumerate().map(child).collect();
    index(put, repository, Some(tag), &children)
}

/// Puts an OCI index over manifests that are there.
pub fn index(put: &dyn Put, repository: &str, tag: Option<&str>, children: &[Descriptor]) -> Descriptor {
    let value = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children});
    manifest(put, repository, tag, OCI_INDEX, value.to_string())
}

/// Puts a Docker manifest list over manifests that are there.
pub fn docker_list(put: &dyn Put, repository: &str, tag: Option<&str>, children: &[Descriptor]) -> Descriptor {
    let value = json!({"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": children});
    manifest(put, repository, tag, DOCKER_LIST, value.to_string())
}

/// The empty descriptor (image-spec manifest.md "Guidance for an Empty Descriptor"), with its `data`; its blob is put.
fn empty(put: &dyn Put, repository: &str) -> Value {
    let mut descriptor = json!(blob(put, repository, OCI_EMPTY, "{}"));
    descriptor["data"] = "e30=".into();
    descriptor
}

/// Puts an artifact with an empty config and one blob, which may be about another manifest (a signature, an SBOM).
pub fn artifact(
    put: &dyn Put,
    repository: &str,
    tag: Option<&str>,
    artifact_type: &str,
    content: impl Into<Bytes>,
    subject: Option<&Descriptor>,
) -> Descriptor {
    let mut value = json!({
        "schemaVersion": 2,
        "mediaType": OCI_IMAGE,
        "artifactType": artifact_type,
        "config": empty(put, repository),
        "layers": [blob(put, repository, "application/octet-stream", content)],
        "annotations": {"org.opencontainers.image.created": "2026-01-01T00:00:00Z"},
    });
    if let Some(subject) = subject {
        value["subject"] = json!(Descriptor::new(subject.media_type.clone(), subject.digest.clone(), subject.size));
    }
    let made = manifest(put, repository, tag, OCI_IMAGE, value.to_string());
    Descriptor { artifact_type: Some(artifact_type.to_owned()), ..made }
}

/// Puts a signature as cosign does without the referrers API: an image under the tag `sha256-<hex>.sig`.
pub fn cosign_signature(put: &dyn Put, repository: &str, signed: &Descriptor) -> Descriptor {
    let payload = json!({"critical": {"image": {"docker-manifest-digest": signed.digest}, "type": "cosign container image signature"}});
    let mut layer = json!(blob(put, repository, COSIGN, payload.to_string()));
    layer["annotations"] = json!({"dev.cosignproject.cosign/signature": "MEUCIQ=="});
    let config = blob(put, repository, OCI_CONFIG, ImageSpec::new([]).config());
    let value = json!({"schemaVersion": 2, "mediaType": OCI_IMAGE, "config": config, "layers": [layer]});
    manifest(put, repository, Some(&format!("sha256-{}.sig", signed.digest.encoded())), OCI_IMAGE, value.to_string())
}

/// Puts an image with one layer that is not at the registry but at `url`; `content` is what is to be had there.
pub fn foreign(put: &dyn Put, repository: &str, tag: &str, url: &str, content: &Bytes) -> Descriptor {
    let spec = ImageSpec::new([layer(31, 500), content.clone()]).platform("windows/amd64");
    let config = blob(put, repository, OCI_CONFIG, spec.config());
    let mut layer_there = Descriptor::new(OCI_FOREIGN, Digest::sha256(content), content.len() as u64);
    layer_there.urls.push(url.to_owned());
    let own = blob(put, repository, OCI_LAYER, spec.layers[0].clone());
    let value = json!({"schemaVersion": 2, "mediaType": OCI_IMAGE, "config": config, "layers": [own, layer_there]});
    manifest(put, repository, Some(tag), OCI_IMAGE, value.to_string())
}

/// Encodes base64 (RFC 4648 section 4).
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| (bits << 8) | u32::from(*byte)) << (8 * (3 - group.len()));
        for position in 0..4 {
            let letter = ALPHABET[(bits >> (18 - 6 * position)) as usize & 63] as char;
            out.push(if position <= group.len() { letter } else { '=' });
        }
    }
    out
}

/// One of the corpus: something a registry may hold.
#[derive(Debug, Clone)]
pub struct Case {
    /// What is odd about it.
    pub name: &'static str,
    pub repository: String,
    /// `None`: it is known by digest only.
    pub tag: Option<String>,
    pub digest: Digest,
    pub media_type: String,
    /// Whether Debian's docker-registry (2.8) takes it.
    pub docker_registry: bool,
    /// Whether larder carries it; otherwise it is refused by name.
    pub carried: bool,
}

impl Case {
    /// `repository:tag`, or `repository@digest`.
    pub fn image(&self) -> String {
        match &self.tag {
            Some(tag) => format!("{}:{tag}", self.repository),
            None => format!("{}@{}", self.repository, self.digest),
        }
    }
    /// Tag or digest.
    pub fn reference(&self) -> &str {
        self.tag.as_deref().unwrap_or(self.digest.as_str())
    }
}

/// How one case is made: puts it into a repository under the tag `v1`, and describes it.
type Make = fn(&dyn Put, &str) -> Descriptor;

const TAG: Option<&str> = Some("v1");

/// What docker-registry 2.8 takes.
const PLAIN: [(&str, Make); 22] = [
    ("oci-image", |put, repo| image(put, repo, TAG, &ImageSpec::new([layer(1, 3000), layer(2, 70_000)]))),
    ("docker-image", |put, repo| image(put, repo, TAG, &ImageSpec::new([layer(1, 3000), layer(3, 10)]).docker())),
    ("oci-index", |put, repo| multi(put, repo, "v1", 4, &["linux/amd64", "linux/arm64", "linux/arm/v7"])),
    ("docker-list", |put, repo| {
        let child = |seed, platform| image(put, repo, None, &ImageSpec::new([layer(1, 3000), layer(seed, 5)]).platform(platform).docker());
        docker_list(put, repo, TAG, &[child(5, "linux/amd64"), child(6, "linux/s390x")])
    }),
    ("nested-index", |put, repo| {
        let inner = multi(put, repo, "inner", 7, &["linux/amd64", "linux/arm64"]);
        index(put, repo, TAG, &[inner, image(put, repo, None, &ImageSpec::new([layer(8, 80)]).platform("linux/riscv64"))])
    }),
    ("attested-index", attested),
    ("windows-index", |put, repo| {
        let child = |(seed, version): (u64, &str)| {
            let mut child = image(put, repo, None, &ImageSpec::new([layer(seed, 80)]).platform("windows/amd64"));
            child.platform.as_mut().unwrap().os_version = Some(version.to_owned());
            child
        };
        index(put, repo, TAG, &[(26, "10.0.17763.5820"), (27, "10.0.20348.2527"), (28, "10.0.26100.1742")].map(child))
    }),
    ("child-listed-twice", |put, repo| {
        let child = image(put, repo, None, &ImageSpec::new([layer(29, 80)]));
        let again = Descriptor { platform: Some(platform("linux/arm64")), ..child.clone() };
        index(put, repo, TAG, &[child, again])
    }),
    ("inline-child", |put, repo| {
        let child = ImageSpec::new([layer(30, 80)]).build(put, repo).to_string();
        let mut descriptor = json!(manifest(put, repo, None, OCI_IMAGE, child.clone()));
        descriptor["data"] = base64(child.as_bytes()).into();
        let value = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor]});
        manifest(put, repo, TAG, OCI_INDEX, value.to_string())
    }),
    ("artifact", |put, repo| artifact(put, repo, TAG, "application/vnd.example.model", noise(9, 4000), None)),
    ("helm-chart", |put, repo| {
        let config = blob(put, repo, "application/vnd.cncf.helm.config.v1+json", r#"{"name":"c","version":"0.1.0","apiVersion":"v2"}"#);
        let chart = blob(put, repo, "application/vnd.cncf.helm.chart.content.v1.tar+gzip", layer(10, 600));
        let value = json!({"schemaVersion": 2, "mediaType": OCI_IMAGE, "config": config, "layers": [chart]});
        manifest(put, repo, TAG, OCI_IMAGE, value.to_string())
    }),
    ("white-space", |put, repo| {
        let value = ImageSpec::new([layer(11, 100)]).build(put, repo);
        let text = serde_json::to_string_pretty(&value).unwrap().replace("  ", "\t").replace(": ", "  :\r\n ");
        manifest(put, repo, TAG, OCI_IMAGE, format!("\n {text}\n\n"))
    }),
    ("no-media-type", |put, repo| {
        let mut value = ImageSpec::new([layer(12, 100)]).build(put, repo);
        value.as_object_mut().unwrap().remove("mediaType");
        manifest(put, repo, TAG, OCI_IMAGE, value.to_string())
    }),
    ("same-layer-twice", |put, repo| image(put, repo, TAG, &ImageSpec::new([layer(13, 900), layer(14, 40), layer(13, 900)]))),
    ("empty-layer", |put, repo| image(put, repo, TAG, &ImageSpec::new([layer(15, 900), empty_layer(), empty_layer()]))),
    ("zero-byte-layer", |put, repo| image(put, repo, TAG, &ImageSpec::new([layer(16, 900), Bytes::new()]))),
    ("no-layers", |put, repo| image(put, repo, TAG, &ImageSpec::new([]))),
    ("inline-data", |put, repo| image(put, repo, TAG, &ImageSpec { inline_config: true, ..ImageSpec::new([layer(17, 20)]) })),
    ("foreign-layer", |put, repo| foreign(put, repo, "v1", "https://layers.example.com/base.tar.gz", &layer(18, 1000))),
    ("cosign-signed", |put, repo| {
        let signed = simple(put, repo, "v1", 19);
        cosign_signature(put, repo, &signed);
        signed
    }),
    ("sha512-layer", |put, repo| {
        let bytes = layer(21, 5000);
        let there = Descriptor::new(OCI_LAYER, digest_of("sha512", &bytes), bytes.len() as u64);
        put.store_blob(repo, &there.digest, bytes.clone());
        let mut value = ImageSpec::new([bytes]).build(put, repo);
        value["layers"] = json!([there]);
        manifest(put, repo, TAG, OCI_IMAGE, value.to_string())
    }),
    ("large-manifest", |put, repo| {
        let spec = |padding: usize| ImageSpec::new([layer(20, 100)]).annotation("padding", "x".repeat(padding));
        // As many bytes as every registry must take (distribution-spec "Pushing Manifests"): 4 MiB.
        let padding = (4 << 20) - spec(0).build(put, repo).to_string().len();
        image(put, repo, TAG, &spec(padding))
    }),
];

/// What docker-registry 2.8 refuses, and a registry that keeps to the specification takes.
const SPECIAL: [(&str, Make); 5] = [
    ("unknown-media-type", |put, repo| {
        let made = r#"{"mediaType":"application/vnd.example.thing.v3+json","layers":[{"digest":"none"}],"made":"of nothing"}"#;
        manifest(put, repo, TAG, "application/vnd.example.thing.v3+json", made)
    }),
    ("artifact-manifest", |put, repo| {
        let blobs = [blob(put, repo, "text/plain", "an sbom")];
        let value = json!({"mediaType": OCI_ARTIFACT, "artifactType": "text/x-sbom", "blobs": blobs});
        manifest(put, repo, TAG, OCI_ARTIFACT, value.to_string())
    }),
    ("odd-index", |put, repo| {
        // Children of an unknown type, a blob, and one that says nothing of itself but its digest.
        let thing = "application/vnd.example.thing.v3+json";
        let unknown = manifest(put, repo, None, thing, r#"{"mediaType":"application/vnd.example.thing.v3+json"}"#);
        let cache = blob(put, repo, OCI_LAYER, layer(32, 60));
        let bare = image(put, repo, None, &ImageSpec::new([layer(33, 60)]));
        let bare = json!({"digest": bare.digest, "size": bare.size, "platform": null, "annotations": null});
        let value = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [unknown, cache, bare], "annotations": null});
        manifest(put, repo, TAG, OCI_INDEX, format!("\t{value}\n"))
    }),
    ("sha512-child", |put, repo| {
        let bytes = Bytes::from(ImageSpec::new([layer(34, 60)]).build(put, repo).to_string());
        let child = Descriptor::new(OCI_IMAGE, digest_of("sha512", &bytes), bytes.len() as u64);
        put.store_manifest(repo, None, &child.digest, OCI_IMAGE, bytes);
        index(put, repo, TAG, &[child])
    }),
    ("docker-schema1", |put, repo| {
        let value = json!({"schemaVersion": 1, "name": repo, "tag": "v1", "architecture": "amd64",
            "fsLayers": [{"blobSum": blob(put, repo, DOCKER_LAYER, layer(22, 50)).digest}], "history": [{"v1Compatibility": "{}"}]});
        manifest(put, repo, TAG, DOCKER_SCHEMA1, value.to_string())
    }),
];

/// As BuildKit writes them: an attestation beside the image it is about.
fn attested(put: &dyn Put, repo: &str) -> Descriptor {
    let child = image(put, repo, None, &ImageSpec::new([layer(23, 700)]));
    let attestation = attestation(put, repo, &child);
    index(put, repo, TAG, &[child, attestation])
}

/// Puts what BuildKit attests of an image, for the platform `unknown/unknown`.
pub fn attestation(put: &dyn Put, repo: &str, child: &Descriptor) -> Descriptor {
    let statement = format!("{{\"_type\":\"https://in-toto.io/Statement/v0.1\",\"about\":\"{}\"}}", child.digest);
    let statement = blob(put, repo, "application/vnd.in-toto+json", statement);
    let config = blob(put, repo, OCI_CONFIG, ImageSpec::new([]).platform("unknown/unknown").config());
    let value = json!({"schemaVersion": 2, "mediaType": OCI_IMAGE, "config": config, "layers": [statement]});
    let mut attestation = manifest(put, repo, None, OCI_IMAGE, value.to_string());
    attestation.platform = Some(platform("unknown/unknown"));
    attestation.annotations = [
        ("vnd.docker.reference.digest".to_owned(), child.digest.to_string()),
        ("vnd.docker.reference.type".to_owned(), "attestation-manifest".to_owned()),
    ]
    .into();
    attestation
}

/// Puts an index as Docker's official images have it: images for `platforms`, each with its attestation behind it.
pub fn official(put: &dyn Put, repository: &str, tag: &str, seed: u64, platforms: &[&'static str]) -> Descriptor {
    let child = |(number, platform): (usize, &&'static str)| {
        let image = image(put, repository, None, &ImageSpec::new([layer(seed * 1000 + number as u64, 900)]).platform(platform));
        let attestation = attestation(put, repository, &image);
        [image, attestation]
    };
    let children: Vec<Descriptor> = platforms.iter().enumerate().flat_map(child).collect();
    index(put, repository, Some(tag), &children)
}

/// Puts one of every kind into a registry that keeps to the specification.
pub fn corpus(put: &dyn Put) -> Vec<Case> {
    let mut cases = corpus_for_docker_registry(put);
    for (name, make) in SPECIAL {
        let made = make(put, &repository(name));
        cases.push(Case { docker_registry: false, carried: name != "docker-schema1", ..case(name, TAG, &made) });
    }
    cases.push(sha512_manifest(put));
    cases
}

/// Puts all that Debian's docker-registry takes.
pub fn corpus_for_docker_registry(put: &dyn Put) -> Vec<Case> {
    let mut cases: Vec<Case> = PLAIN.iter().map(|(name, make)| case(name, TAG, &make(put, &repository(name)))).collect();
    let name = "referrers";
    let subject = simple(put, &repository(name), "v1", 24);
    let signature = artifact(put, &repository(name), None, "application/vnd.example.signature", "signed", Some(&subject));
    let sbom = artifact(put, &repository(name), None, "application/vnd.example.sbom", "contains nothing", Some(&subject));
    let countersignature = artifact(put, &repository(name), None, "application/vnd.example.signature", "countersigned", Some(&sbom));
    cases.push(case(name, TAG, &subject));
    cases.extend([signature, sbom, countersignature].iter().map(|referrer| case(name, None, referrer)));
    cases
}

/// A manifest that is known by its sha512 digest only.
fn sha512_manifest(put: &dyn Put) -> Case {
    let name = "sha512-manifest";
    let bytes = Bytes::from(ImageSpec::new([layer(25, 300)]).build(put, &repository(name)).to_string());
    let made = Descriptor::new(OCI_IMAGE, digest_of("sha512", &bytes), bytes.len() as u64);
    put.store_manifest(&repository(name), None, &made.digest, OCI_IMAGE, bytes);
    Case { docker_registry: false, ..case(name, None, &made) }
}

fn repository(name: &str) -> String {
    format!("corpus/{name}")
}

fn case(name: &'static str, tag: Option<&str>, made: &Descriptor) -> Case {
    Case {
        name,
        repository: repository(name),
        tag: tag.map(str::to_owned),
        digest: made.digest.clone(),
        media_type: made.media_type.clone(),
        docker_registry: true,
        carried: true,
    }
}
