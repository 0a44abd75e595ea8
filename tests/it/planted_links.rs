//! Layouts and bundles from a stranger's medium, with symbolic links where larder writes and reads: nothing outside is written, and nothing
//! outside is taken for content.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::corpus;
use crate::support::fake::Fake;
use crate::support::room::{Ran, Room};
use larder::bundle::format::Bundle;
use larder::content::Digest;

fn room(fake: &Fake) -> Room {
    let room = Room::new();
    room.configure("layout = \"store\"", &[(fake.addr(), "m")]);
    corpus::simple(fake, "app", "v1", 1);
    corpus::simple(fake, "app", "v2", 2);
    room
}

/// Everything outside of the layout that a link may lead to, and what it held.
struct Outside(std::path::PathBuf);

impl Outside {
    fn new(room: &Room) -> Self {
        let folder = room.path("outside");
        std::fs::create_dir_all(folder.join("folder/partial")).unwrap();
        std::fs::write(folder.join("file"), "precious").unwrap();
        std::fs::write(folder.join("folder/inside"), "precious too").unwrap();
        Outside(folder)
    }
    fn tree(&self) -> BTreeMap<String, Option<Vec<u8>>> {
        fn walk(folder: &Path, tree: &mut BTreeMap<String, Option<Vec<u8>>>) {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                let is_folder = entry.file_type().unwrap().is_dir();
                tree.insert(entry.path().display().to_string(), (!is_folder).then(|| std::fs::read(entry.path()).unwrap()));
                if is_folder {
                    walk(&entry.path(), tree);
                }
            }
        }
        let mut tree = BTreeMap::new();
        walk(&self.0, &mut tree);
        tree
    }
}

fn remove(path: &Path) {
    if path.is_dir() && !path.is_symlink() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap_or_default();
}

#[test]
fn links_planted_in_a_layout_are_not_written_through() {
    let fake = Fake::start();
    let room = room(&fake);
    let outside = Outside::new(&room);
    room.list([fake.image("app:v1")]);
    room.larder(["sync"]).ended(0);
    std::fs::rename(room.path("store"), room.path("clean")).unwrap();
    room.list([fake.image("app:v2")]);
    let before = outside.tree();
    let next = layer_of_v2(&fake);
    let partial = format!(".larder/partial/sha256-{}", next.encoded());
    // The name, what the link leads to, and whether the run can do without it.
    for (name, to, harmless) in [
        (".larder", "folder", false),
        (".larder/partial", "folder", false),
        (".larder/partial", "nowhere", false),
        (".larder/new", "file", true),
        (".larder/new", "nowhere", true),
        (".larder/lock", "file", false),
        (".larder/lock", "nowhere", false),
        (".larder/users", "file", false),
        (&partial, "file", false),
        (&partial, "nowhere", false),
        ("blobs", "folder", false),
        ("blobs/sha256", "folder", false),
        ("index.json", "file", false),
        ("oci-layout", "file", false),
    ] {
        remove(&room.path("store"));
        let copied = std::process::Command::new("cp").args(["-a", "clean", "store"]).current_dir(room.path("")).status().unwrap();
        assert!(copied.success());
        remove(&room.path("store").join(name));
        symlink(outside.0.join(to), room.path("store").join(name)).unwrap();
        let ran = room.larder(["sync"]);
        assert_eq!(outside.tree(), before, "{name} to {to}: {}", ran.stderr);
        if harmless {
            ran.ended(0);
            room.larder(["verify", "store"]).ended(0);
        } else {
            assert_ne!(ran.code, 0, "{name} to {to}");
            assert!(ran.stderr.contains("it is a symbolic link"), "{name} to {to}: {}", ran.stderr);
        }
        room.larder(["gc", "store"]);
        room.larder(["verify", "store"]);
        assert_eq!(outside.tree(), before, "{name} to {to}");
    }
}

/// The first layer of `app:v2`.
fn layer_of_v2(fake: &Fake) -> Digest {
    let (_, manifest) = fake.manifest("app", "v2").unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    Digest::parse(manifest["layers"][0]["digest"].as_str().unwrap()).unwrap()
}

#[test]
fn links_planted_among_blobs_are_not_read() {
    let fake = Fake::start();
    let room = room(&fake);
    room.list([fake.image("app:v1"), fake.image("app:v2")]);
    room.larder(["sync"]).ended(0);
    // The largest blob of one image is elsewhere, with the right bytes: following the link would find them.
    let layer = layer_of_v2(&fake);
    let (path, secret) = (room.path("store/blobs/sha256").join(layer.encoded()), room.path("secret"));
    std::fs::rename(&path, &secret).unwrap();
    symlink(&secret, &path).unwrap();
    let line = |ran: &Ran| ran.stdout.clone() + &ran.stderr;
    let verified = room.larder(["verify", "store"]).ended(1);
    assert!(line(&verified).contains(layer.as_str()) && line(&verified).contains("links are not followed"), "{}", line(&verified));
    let imported = room.larder(["import", "store", "--to", "oci:copy"]);
    assert_ne!(imported.code, 0);
    assert!(!room.path("copy/blobs/sha256").join(layer.encoded()).exists());
    assert!(line(&imported).contains("app:v2"), "{}", line(&imported));
    let inventory = room.larder(["inventory", "--of", "oci:store"]);
    assert!(!inventory.stdout.contains(layer.encoded()), "{}", inventory.stdout);
    // A sync puts the blob where the link was.
    room.larder(["sync"]).ended(0);
    assert!(!path.is_symlink());
    room.larder(["verify", "store"]).ended(0);
    assert!(secret.exists());
}

#[test]
fn links_planted_in_a_bundles_folder_are_not_written_through_or_read() {
    let fake = Fake::start();
    let room = room(&fake);
    let outside = Outside::new(&room);
    room.list([fake.image("app:v1")]);
    let export = || room.larder(["export", "--cache", "cache", "--to", "out", "--name", "b"]);
    export().ended(0);
    let (volume, record) = (std::fs::read(room.path("out/b-0001.tar")).unwrap(), std::fs::read(room.path("out/b.bundle.json")).unwrap());
    Bundle::parse(&record).unwrap();
    std::fs::write(outside.0.join("volume"), &volume).unwrap();
    std::fs::write(outside.0.join("record"), &record).unwrap();
    let before = outside.tree();
    for (name, to, harmless) in [
        ("b-0001.tar.partial", "file", false),
        ("b-0001.tar.partial", "volume", false),
        ("b-0001.tar.partial", "nowhere", false),
        ("b.bundle.json.partial", "file", true),
        ("b-0001.tar", "file", false),
        ("b-0001.tar", "volume", false),
        ("b.bundle.json", "file", false),
        ("b.bundle.json", "record", false),
    ] {
        remove(&room.path("out"));
        std::fs::create_dir(room.path("out")).unwrap();
        symlink(outside.0.join(to), room.path("out").join(name)).unwrap();
        let ran = export();
        assert_eq!(outside.tree(), before, "{name} to {to}: {}", ran.stderr);
        if harmless {
            ran.ended(0);
        } else {
            assert!(ran.ended(1).stderr.contains("it is a symbolic link"), "{name} to {to}");
        }
    }
    // A volume that is a link is ignored; one that the user names is the user's choice.
    remove(&room.path("out"));
    std::fs::create_dir(room.path("out")).unwrap();
    std::fs::write(room.path("out/b.bundle.json"), &record).unwrap();
    symlink(outside.0.join("volume"), room.path("out/b-0001.tar")).unwrap();
    assert!(room.larder(["verify", "out"]).ended(1).stdout.contains("it is missing"));
    assert_ne!(room.larder(["import", "out", "--to", "oci:copy"]).code, 0);
    assert!(!room.path("copy/blobs/sha256").join(Bundle::parse(&record).unwrap().images[0].digest.encoded()).exists());
    symlink(outside.0.join("volume"), room.path("chosen.tar")).unwrap();
    room.larder(["import", "chosen.tar", "--to", "oci:copy"]).ended(0);
}
