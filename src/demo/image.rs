//! Builds images and charts as registries hold them: OCI image-spec v1.1 (config.md, manifest.md, image-index.md),
//! Docker image manifest version 2 schema 2, and Helm's "Charts in OCI registries".

use std::collections::HashMap;

use bytes::Bytes;
use oci_client::manifest as media;
use serde_json::{Value, json};

use super::MemoryRegistry;
use super::archive::{DemoTar, gzip, noise};
use crate::content::{Descriptor, Digest, Platform};

/// The creation time of everything in the demo; the same as the times in the layers.
const CREATED: &str = "2026-01-01T00:00:00Z";

/// The architectures of every image, with the variant in its index.
const ARCHITECTURES: [(&str, Option<&str>); 2] = [("amd64", None), ("arm64", Some("v8"))];

/// The content of a file in a layer.
#[derive(Clone, Copy)]
pub(super) enum FileContent {
    /// This text.
    Text(&'static str),
    /// This many bytes that do not compress, different for each architecture.
    Binary(usize),
}

/// A layer. Its bytes depend only on it and on the architecture, so the same layer in two images is one blob.
#[derive(Clone, Copy)]
pub(super) struct DemoLayer {
    /// The command in the image's history; different for different layers.
    pub(super) made_by: &'static str,
    /// Its files.
    pub(super) files: &'static [(&'static str, FileContent)],
}

/// The family of media types of an image.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum MediaFamily {
    /// An OCI image index of OCI manifests.
    Oci,
    /// A Docker manifest list of schema 2 manifests.
    Docker,
}

/// A multi-architecture image.
pub(super) struct DemoImage {
    pub(super) repository: &'static str,
    pub(super) tags: &'static [&'static str],
    pub(super) family: MediaFamily,
    /// The program that it runs.
    pub(super) command: &'static str,
    /// From the lowest to the highest.
    pub(super) layers: &'static [DemoLayer],
}

struct MediaTypes {
    index: &'static str,
    manifest: &'static str,
    config: &'static str,
    layer: &'static str,
}

impl MediaFamily {
    fn media_types(self) -> MediaTypes {
        match self {
            MediaFamily::Oci => MediaTypes {
                index: media::OCI_IMAGE_INDEX_MEDIA_TYPE,
                manifest: media::OCI_IMAGE_MEDIA_TYPE,
                config: media::IMAGE_CONFIG_MEDIA_TYPE,
                layer: media::IMAGE_LAYER_GZIP_MEDIA_TYPE,
            },
            MediaFamily::Docker => MediaTypes {
                index: media::IMAGE_MANIFEST_LIST_MEDIA_TYPE,
                manifest: media::IMAGE_MANIFEST_MEDIA_TYPE,
                config: media::IMAGE_DOCKER_CONFIG_MEDIA_TYPE,
                layer: media::IMAGE_DOCKER_LAYER_GZIP_MEDIA_TYPE,
            },
        }
    }
}

/// Fills a registry. Remembers its layers, because several images share them.
#[derive(Default)]
pub(super) struct ImageBuilder {
    pub(super) registry: MemoryRegistry,
    made: HashMap<(&'static str, &'static str), BuiltLayer>,
}

/// A layer as a blob, and the digest of the archive in it, which the image's config lists.
#[derive(Clone)]
struct BuiltLayer {
    blob: Bytes,
    diff_id: Digest,
}

impl ImageBuilder {
    fn make(&mut self, layer: &DemoLayer, architecture: &'static str) -> BuiltLayer {
        let make = || {
            let archive = layer.archive(architecture);
            BuiltLayer { diff_id: Digest::sha256(&archive), blob: gzip(&archive).into() }
        };
        self.made.entry((layer.made_by, architecture)).or_insert_with(make).clone()
    }
}

impl DemoLayer {
    /// The layer's tar archive for one architecture.
    fn archive(&self, architecture: &str) -> Vec<u8> {
        let mut tar = DemoTar::default();
        let mut directories: Vec<&str> = vec![];
        for (path, content) in self.files {
            for (slash, _) in path.match_indices('/') {
                let directory = &path[..=slash];
                if !directories.contains(&directory) {
                    tar.directory(directory);
                    directories.push(directory);
                }
            }
            match content {
                FileContent::Text(text) => tar.file(path, 0o644, text.as_bytes()),
                FileContent::Binary(size) => tar.file(path, 0o755, &noise(&format!("{architecture} {} {path}", self.made_by), *size)),
            }
        }
        tar.finish()
    }
}

impl DemoImage {
    /// Adds an image: layers, configs, a manifest for each architecture, their index, and its tags.
    pub(super) fn put(&self, builder: &mut ImageBuilder) {
        let types = self.family.media_types();
        let children: Vec<Descriptor> =
            ARCHITECTURES.iter().map(|(architecture, variant)| self.put_platform(builder, &types, architecture, *variant)).collect();
        let index = json!({ "schemaVersion": 2, "mediaType": types.index, "manifests": children });
        let index = builder.registry.put_manifest(self.repository, types.index, text(&index));
        for tag in self.tags {
            builder.registry.tag(self.repository, tag, &index);
        }
    }

    fn put_platform(
        &self,
        builder: &mut ImageBuilder,
        types: &MediaTypes,
        architecture: &'static str,
        variant: Option<&str>,
    ) -> Descriptor {
        let mut layers = vec![];
        let mut diff_ids = vec![];
        for layer in self.layers {
            let made = builder.make(layer, architecture);
            layers.push(builder.registry.put_blob(self.repository, types.layer, made.blob));
            diff_ids.push(made.diff_id);
        }
        let config = text(&self.config(architecture, variant, &diff_ids));
        let config = builder.registry.put_blob(self.repository, types.config, config);
        let manifest = json!({ "schemaVersion": 2, "mediaType": types.manifest, "config": config, "layers": layers });
        let manifest = builder.registry.put_manifest(self.repository, types.manifest, text(&manifest));
        let platform = Platform {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
            os_version: None,
        };
        Descriptor { platform: Some(platform), ..manifest }
    }

    fn config(&self, architecture: &str, variant: Option<&str>, diff_ids: &[Digest]) -> Value {
        let history: Vec<Value> = self.layers.iter().map(|layer| json!({ "created": CREATED, "created_by": layer.made_by })).collect();
        let mut config = json!({
            "architecture": architecture,
            "os": "linux",
            "created": CREATED,
            "config": {
                "Cmd": [self.command],
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Labels": { "org.opencontainers.image.title": self.repository },
            },
            "history": history,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        if let Some(variant) = variant {
            config["variant"] = variant.into();
        }
        config
    }
}

/// A Helm chart: one manifest without an index, with a config of Helm's own type.
pub(super) struct Chart {
    pub(super) repository: &'static str,
    pub(super) tag: &'static str,
    pub(super) name: &'static str,
    pub(super) files: &'static [(&'static str, FileContent)],
}

/// The media types of Helm's registry support (helm, `pkg/registry/constants.go`).
const CHART_CONFIG: &str = "application/vnd.cncf.helm.config.v1+json";
const CHART_CONTENT: &str = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";

impl Chart {
    /// Adds the chart.
    pub(super) fn put(&self, registry: &mut MemoryRegistry) {
        let archive = DemoLayer { made_by: self.name, files: self.files }.archive("noarch");
        let content = registry.put_blob(self.repository, CHART_CONTENT, gzip(&archive).into());
        let config = json!({ "apiVersion": "v2", "name": self.name, "version": self.tag, "type": "application" });
        let config = registry.put_blob(self.repository, CHART_CONFIG, text(&config));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media::OCI_IMAGE_MEDIA_TYPE,
            "config": config,
            "layers": [content],
            "annotations": {
                "org.opencontainers.image.created": CREATED,
                "org.opencontainers.image.title": self.name,
                "org.opencontainers.image.version": self.tag,
            },
        });
        let manifest = registry.put_manifest(self.repository, media::OCI_IMAGE_MEDIA_TYPE, text(&manifest));
        registry.tag(self.repository, self.tag, &manifest);
    }
}

/// JSON as bytes. Keys are always in the same order (serde_json's map is sorted), so the digest does not depend on the
/// build.
fn text(value: &Value) -> Bytes {
    value.to_string().into()
}
