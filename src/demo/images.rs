//! The images of the demo's upstream. Names and sizes resemble real ones; the content is made up.

use super::MemoryRegistry;
use super::image::FileContent::{Binary, Text};
use super::image::{Chart, DemoImage, DemoLayer, ImageBuilder, MediaFamily};

const KB: usize = 1000;
const MB: usize = 1000 * KB;

const ALPINE_3_20: DemoLayer = DemoLayer {
    made_by: "ADD alpine-minirootfs-3.20.tar.gz /",
    files: &[
        ("etc/alpine-release", Text("3.20.8\n")),
        ("etc/os-release", Text("NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.20.8\n")),
        ("bin/busybox", Binary(800 * KB)),
        ("lib/libcrypto.so.3", Binary(2200 * KB)),
    ],
};

const ALPINE_3_21: DemoLayer = DemoLayer {
    made_by: "ADD alpine-minirootfs-3.21.tar.gz /",
    files: &[
        ("etc/alpine-release", Text("3.21.5\n")),
        ("etc/os-release", Text("NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.21.5\n")),
        ("bin/busybox", Binary(800 * KB)),
        ("lib/libcrypto.so.3", Binary(2400 * KB)),
    ],
};

const NGINX: DemoLayer = DemoLayer {
    made_by: "RUN apk add --no-cache nginx=1.27.5",
    files: &[("usr/sbin/nginx", Binary(6 * MB)), ("var/www/index.html", Text("<h1>It is stocked.</h1>\n"))],
};

const NGINX_CONF: DemoLayer = DemoLayer {
    made_by: "COPY nginx.conf /etc/nginx/nginx.conf",
    files: &[("etc/nginx/nginx.conf", Text("events {}\nhttp { server { listen 80; root /var/www; } }\n"))],
};

const REDIS: DemoLayer = DemoLayer {
    made_by: "RUN make -C /usr/src/redis install",
    files: &[("usr/local/bin/redis-server", Binary(4 * MB)), ("usr/local/bin/redis-cli", Binary(MB))],
};

/// The layers that the services of acme share.
const ACME_RUNTIME: DemoLayer = DemoLayer {
    made_by: "RUN install-runtime 21",
    files: &[("opt/runtime/bin/runtime", Binary(500 * KB)), ("opt/runtime/lib/modules", Binary(5500 * KB))],
};

const ACME_API_1_4_0: DemoLayer =
    DemoLayer { made_by: "COPY api-1.4.0 /srv/api", files: &[("srv/api", Binary(1500 * KB)), ("srv/version", Text("1.4.0\n"))] };

const ACME_API_1_4_1: DemoLayer =
    DemoLayer { made_by: "COPY api-1.4.1 /srv/api", files: &[("srv/api", Binary(1500 * KB)), ("srv/version", Text("1.4.1\n"))] };

const ACME_WORKER_1_4_1: DemoLayer =
    DemoLayer { made_by: "COPY worker-1.4.1 /srv/worker", files: &[("srv/worker", Binary(1200 * KB)), ("srv/version", Text("1.4.1\n"))] };

/// The images. One of them has Docker's media types, as many on Docker Hub still do.
const IMAGES: [DemoImage; 7] = [
    DemoImage { repository: "library/alpine", tags: &["3.20"], family: MediaFamily::Oci, command: "/bin/sh", layers: &[ALPINE_3_20] },
    DemoImage {
        repository: "library/alpine",
        tags: &["3.21", "latest"],
        family: MediaFamily::Oci,
        command: "/bin/sh",
        layers: &[ALPINE_3_21],
    },
    DemoImage {
        repository: "library/nginx",
        tags: &["1.27"],
        family: MediaFamily::Oci,
        command: "/usr/sbin/nginx",
        layers: &[ALPINE_3_21, NGINX, NGINX_CONF],
    },
    DemoImage {
        repository: "library/redis",
        tags: &["7"],
        family: MediaFamily::Docker,
        command: "/usr/local/bin/redis-server",
        layers: &[ALPINE_3_20, REDIS],
    },
    DemoImage {
        repository: "acme/api",
        tags: &["1.4.0"],
        family: MediaFamily::Oci,
        command: "/srv/api",
        layers: &[ALPINE_3_21, ACME_RUNTIME, ACME_API_1_4_0],
    },
    DemoImage {
        repository: "acme/api",
        tags: &["1.4.1"],
        family: MediaFamily::Oci,
        command: "/srv/api",
        layers: &[ALPINE_3_21, ACME_RUNTIME, ACME_API_1_4_1],
    },
    DemoImage {
        repository: "acme/worker",
        tags: &["1.4.1"],
        family: MediaFamily::Oci,
        command: "/srv/worker",
        layers: &[ALPINE_3_21, ACME_RUNTIME, ACME_WORKER_1_4_1],
    },
];

const WEB_CHART: Chart = Chart {
    repository: "charts/web",
    tag: "0.3.0",
    name: "web",
    files: &[
        ("web/Chart.yaml", Text("apiVersion: v2\nname: web\nversion: 0.3.0\ntype: application\n")),
        ("web/values.yaml", Text("image: acme/api:1.4.1\nreplicas: 2\n")),
        (
            "web/templates/deployment.yaml",
            Text(concat!(
                "apiVersion: apps/v1\nkind: Deployment\nmetadata: { name: web }\nspec:\n  replicas: {{ .Values.replicas }}\n",
                "  selector: { matchLabels: { app: web } }\n  template:\n    metadata: { labels: { app: web } }\n",
                "    spec: { containers: [{ name: web, image: \"{{ .Values.image }}\" }] }\n",
            )),
        ),
    ],
};

impl MemoryRegistry {
    /// The demo's upstream: multi-architecture images that share layers within and across repositories, and a Helm
    /// chart; about 50 MB in all.
    pub fn demo_upstream() -> MemoryRegistry {
        let mut builder = ImageBuilder::default();
        for image in &IMAGES {
            image.put(&mut builder);
        }
        WEB_CHART.put(&mut builder.registry);
        builder.registry
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::LazyLock;

    use futures_util::TryStreamExt;

    use super::*;
    use crate::Side;
    use crate::content::{Descriptor, Digest, Links, ManifestKind, Repository, RequestContext, Source, Verified};
    use crate::name::Reference;

    static REGISTRY: LazyLock<MemoryRegistry> = LazyLock::new(MemoryRegistry::demo_upstream);

    fn context() -> RequestContext {
        RequestContext::new("test")
    }

    async fn tagged(repository: &str, tag: &str) -> Descriptor {
        REGISTRY.resolve(&Repository::new(repository), &Reference::Tag(tag.to_owned()), &context()).await.unwrap().unwrap()
    }

    /// The manifest's links, read as a client does: checked by digest and media type.
    async fn links(repository: &str, manifest: &Descriptor) -> Links {
        let found = REGISTRY.manifest(&Repository::new(repository), &manifest.digest, &context()).await.unwrap().unwrap();
        assert_eq!((found.media_type(), found.size()), (manifest.media_type.as_str(), manifest.size));
        assert_ne!(found.kind(), ManifestKind::Opaque);
        Links::clone(found.links())
    }

    async fn read(repository: &str, blob: &Descriptor) -> Vec<u8> {
        let stream = REGISTRY.blob(&Repository::new(repository), blob, 0, &context()).await.unwrap().unwrap();
        let chunks: Vec<_> = Verified::whole(stream, blob, Side::Upstream).unwrap().try_collect().await.unwrap();
        chunks.concat()
    }

    /// The layers of a tag, by platform.
    async fn layers(repository: &str, tag: &str) -> BTreeMap<String, Vec<Digest>> {
        let mut found = BTreeMap::new();
        for child in links(repository, &tagged(repository, tag).await).await.manifests {
            let blobs = links(repository, &child).await.blobs;
            found.insert(child.platform.unwrap().to_string(), blobs.into_iter().skip(1).map(|layer| layer.digest).collect());
        }
        found
    }

    #[tokio::test]
    async fn every_graph_is_complete_and_every_digest_and_size_is_right() {
        let mut platforms = 0;
        for (repository, tag) in REGISTRY.images() {
            let top = tagged(&repository, &tag).await;
            let children = links(&repository, &top).await.manifests;
            for manifest in if children.is_empty() { vec![top] } else { children } {
                for blob in links(&repository, &manifest).await.blobs {
                    let bytes = read(&repository, &blob).await;
                    assert_eq!(
                        REGISTRY.blob_size(&Repository::new(&*repository), &blob.digest, &context()).await.unwrap(),
                        Some(bytes.len() as u64)
                    );
                }
                platforms += usize::from(manifest.platform.is_some());
            }
        }
        assert_eq!((REGISTRY.images().len(), platforms), (9, 16));
    }

    #[tokio::test]
    async fn configs_describe_their_platform_and_their_layers() {
        for (repository, tag) in REGISTRY.images().into_iter().filter(|(repository, _)| repository != "charts/web") {
            for child in links(&repository, &tagged(&repository, &tag).await).await.manifests {
                let blobs = links(&repository, &child).await.blobs;
                let config: serde_json::Value = serde_json::from_slice(&read(&repository, &blobs[0]).await).unwrap();
                let platform = child.platform.unwrap();
                assert_eq!((config["os"].as_str(), config["architecture"].as_str()), (Some(&*platform.os), Some(&*platform.architecture)));
                let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap();
                assert_eq!(diff_ids.len(), blobs.len() - 1);
                assert_eq!(config["history"].as_array().unwrap().len(), diff_ids.len());
            }
        }
    }

    #[tokio::test]
    async fn images_share_layers_within_and_across_repositories() {
        let base = layers("library/alpine", "3.21").await;
        let (api_0, api_1) = (layers("acme/api", "1.4.0").await, layers("acme/api", "1.4.1").await);
        let worker = layers("acme/worker", "1.4.1").await;
        for platform in ["linux/amd64", "linux/arm64/v8"] {
            assert_eq!(api_0[platform][0], base[platform][0], "{platform}");
            assert_eq!(api_0[platform][..2], api_1[platform][..2], "{platform}");
            assert_eq!(api_0[platform][..2], worker[platform][..2], "{platform}");
            assert_ne!(api_0[platform][2], api_1[platform][2], "{platform}");
        }
        assert_ne!(base["linux/amd64"], base["linux/arm64/v8"]);
        assert_eq!(layers("library/redis", "7").await["linux/amd64"][0], layers("library/alpine", "3.20").await["linux/amd64"][0]);
        assert_eq!(tagged("library/alpine", "latest").await, tagged("library/alpine", "3.21").await);
        let sharing = REGISTRY.layers_shared();
        assert_eq!((sharing.named, sharing.distinct), (35, 18));
        assert!(sharing.named_bytes > sharing.distinct_bytes + 40_000_000, "{sharing:?}");
    }

    #[tokio::test]
    async fn both_families_of_media_types_and_a_chart_are_there() {
        assert_eq!(tagged("library/redis", "7").await.media_type, "application/vnd.docker.distribution.manifest.list.v2+json");
        assert_eq!(tagged("library/nginx", "1.27").await.media_type, "application/vnd.oci.image.index.v1+json");
        let chart = links("charts/web", &tagged("charts/web", "0.3.0").await).await;
        assert_eq!(chart.blobs[0].media_type, "application/vnd.cncf.helm.config.v1+json");
    }

    #[test]
    fn a_demo_is_worth_watching_and_soon_over() {
        assert!((40_000_000..60_000_000).contains(&REGISTRY.bytes()), "{}", REGISTRY.bytes());
    }

    #[tokio::test]
    async fn the_same_shelf_comes_out_every_time() {
        let again = MemoryRegistry::demo_upstream();
        for (repository, tag) in REGISTRY.images() {
            let found = again.resolve(&Repository::new(&*repository), &Reference::Tag(tag.clone()), &context()).await.unwrap();
            assert_eq!(found, Some(tagged(&repository, &tag).await), "{repository}:{tag}");
        }
        assert_eq!(again.bytes(), REGISTRY.bytes());
        // Pinned, so that changes of the demo's content are deliberate.
        insta::assert_snapshot!(tagged("library/alpine", "3.21").await.digest, @"sha256:e5120ae1b9d17fe85dcb46c6839727f51e8a106337fa019143c17afc52cce143");
    }

    #[tokio::test]
    async fn a_repository_has_what_was_put_into_it_and_no_more() {
        let nginx = tagged("library/nginx", "1.27").await;
        let elsewhere = Repository::new("library/alpine");
        assert!(REGISTRY.manifest(&elsewhere, &nginx.digest, &context()).await.unwrap().is_none());
        let layer = Descriptor::new("", layers("library/nginx", "1.27").await["linux/amd64"][1].clone(), 0);
        assert!(REGISTRY.blob(&elsewhere, &layer, 0, &context()).await.unwrap().is_none());
        assert!(REGISTRY.tags(&Repository::new("library/none"), &context()).await.unwrap().is_empty());
    }
}
