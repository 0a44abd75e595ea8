//! The whole chain: `sync` into a layout, `serve` it, configure clients with what `rules export` writes, pull while the upstream is gone.

use larder::content::Digest;

use crate::support::clients::{Containerd, podman};
use crate::support::corpus::{multi, simple};
use crate::support::fake::Fake;
use crate::support::real::as_root;
use crate::support::room::Room;
use crate::support::served::Served;

/// A layout that is served where `larder.toml` says that the target is, and whose upstream does not answer any more.
struct Chain {
    room: Room,
    served: Served,
    /// `127.0.0.1:PORT`, where nobody listens any more.
    upstream: String,
    image: Digest,
    index: Digest,
}

/// `target` is what the rule makes of the upstream's paths.
fn chain(target: &str) -> Chain {
    let upstream = Fake::start();
    let image = simple(&upstream, "prometheus/busybox", "latest", 3).digest;
    let index = multi(&upstream, "prometheus/busybox", "multi", 1, &["linux/amd64", "linux/arm64"]).digest;
    let room = Room::new();
    // The layout is filled before the server's port is known.
    let rule = format!("[[rule]]\nname = \"quay\"\nsource = \"{}/*\"\ntarget = \"{target}\"\n", upstream.addr());
    room.write("larder.toml", format!("version = 1\n[target]\nlayout = \"store\"\n{rule}"));
    let images = ["latest", "multi"].map(|tag| upstream.image(&format!("prometheus/busybox:{tag}")));
    room.larder(["sync", "--image", &images[0], "--image", &images[1]]).ended(0);
    let served = Served::start(&room, &[]);
    room.write("larder.toml", format!("version = 1\n[target]\nregistry = \"{}\"\n{rule}", served.addr()));
    let addr = upstream.addr();
    drop(upstream);
    Chain { room, served, upstream: addr, image, index }
}

#[test]
fn containerd_pulls_from_serve_as_the_exported_hosts_toml_says() {
    if !as_root("containerd") || !as_root("ctr") {
        return;
    }
    for target in ["q/*", "prometheus-mirror/x/*", "*"] {
        let chain = chain(target);
        chain.room.larder(["rules", "export", "--format", "containerd", "--dir", "hosts"]).ended(0);
        let containerd = Containerd::start(&chain.room);
        for (tag, digest) in [("latest", &chain.image), ("multi", &chain.index)] {
            let name = format!("{}/prometheus/busybox:{tag}", chain.upstream);
            containerd.ctr(&["content", "fetch", "--all-platforms", "--hosts-dir", "hosts", &name]);
            let listed = containerd.ctr(&["images", "ls", &format!("name=={name}")]);
            assert!(listed.contains(digest.as_str()), "{target}: {listed}");
        }
        let absent =
            containerd.try_ctr(&["content", "fetch", "--hosts-dir", "hosts", &format!("{}/prometheus/busybox:none", chain.upstream)]);
        assert!(!absent.status.success());
        containerd.stop();
        assert_eq!(chain.served.stop(), 0);
    }
}

#[test]
fn podman_pulls_from_serve_as_the_exported_registries_conf_says() {
    if !as_root("podman") {
        return;
    }
    let chain = chain("q/*");
    chain.room.larder(["rules", "export", "--format", "podman", "--dir", "conf"]).ended(0);
    let files: Vec<_> = std::fs::read_dir(chain.room.path("conf")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [conf] = files.as_slice() else { panic!("{files:?}") };
    let name = format!("{}/prometheus/busybox:latest", chain.upstream);
    let pulled = podman(&chain.room, &[("CONTAINERS_REGISTRIES_CONF", conf)], &["pull", "--quiet", &name]);
    assert!(pulled.status.success(), "{}", String::from_utf8_lossy(&pulled.stderr));
    let inspected = podman(&chain.room, &[], &["image", "inspect", "--format", "{{.Digest}}", &name]);
    assert_eq!(String::from_utf8_lossy(&inspected.stdout).trim(), chain.image.as_str());
    // Its storage holds files that only podman's own rules let be removed.
    podman(&chain.room, &[], &["rmi", "--all", "--force"]);
}

/// k3s rewrites the path with the exported regular expression, and asks with `?ns=` as containerd does.
#[tokio::test]
async fn the_paths_of_the_exported_registries_yaml_are_served() {
    let chain = chain("q/*");
    let yaml = chain.room.larder(["rules", "export", "--format", "k3s"]).ended(0).stdout;
    let rewrite = yaml.lines().find_map(|line| line.trim().strip_prefix('\'')?.strip_suffix('\'')?.split_once("': '")).unwrap();
    let path = regex::Regex::new(rewrite.0).unwrap().replace("prometheus/busybox", rewrite.1).into_owned();
    assert_eq!(path, "q/prometheus/busybox");
    let ns = chain.upstream.replace(':', "%3A");
    let asked = format!("/v2/{path}/manifests/latest?ns={ns}");
    assert_eq!(chain.served.digest(&asked).await, chain.image.as_str());
    let other = chain.served.digest(&format!("/v2/{path}/manifests/latest?ns=quay.io")).await;
    assert_eq!(other, "", "another registry's image is another image");
}
