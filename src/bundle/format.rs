//! The two records of a bundle: `NAME.bundle.json` beside the volumes, and `larder/volume.json` inside each of them.
//!
//! Both are JSON without times, hosts or versions of programs: the same content gives the same bytes. What is read here comes
//! from media that anybody may have touched, so that nothing is used before [`Bundle::parse`] or [`VolumeRecord::parse`] has checked it:
//! names hold no path tricks, sizes add up, parts join.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::content::{Descriptor, Digest};
use crate::{Error, Kind, Result, Side};

/// The version of both records that this program writes and reads.
pub const VERSION: u32 = 1;

/// What `oci-layout` holds in every volume (image-spec image-layout.md "oci-layout file").
pub const MARKER: &[u8] = b"{\"imageLayoutVersion\":\"1.0.0\"}";
/// The path of the layout's marker in a volume: its first member.
pub const MARKER_PATH: &str = "oci-layout";
/// The path of the layout's index in a volume: its second member.
pub const INDEX_PATH: &str = "index.json";
/// The path of the volume's own record in a volume: its third member.
pub const RECORD_PATH: &str = "larder/volume.json";
/// How the name of a bundle's record ends.
pub const BUNDLE_SUFFIX: &str = ".bundle.json";

/// The largest record or index that is read into memory. A million members are about 250 MB; what is larger is no record.
pub const MAX_RECORD: u64 = 512 * 1024 * 1024;

/// The longest name of a bundle: with `-0001.tar.partial` it stays within the 255 bytes that file systems allow.
const MAX_NAME: usize = 200;

/// The longest repository name that is believed: a registry's 255 (docs/registries.md, "Names"), and a host before it.
const MAX_REPOSITORY: usize = 512;

/// The largest size that is believed: 2^53, beyond which JSON readers round; 9 PB.
const MAX_SIZE: u64 = 1 << 53;

/// What a bundle's record, `NAME.bundle.json`, says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// The format's version: 1.
    pub version: u32,
    /// The bundle's identity: the digest of what it carries and how that is cut into volumes.
    pub id: Digest,
    /// What its files are called.
    pub name: String,
    /// What `index.json` holds, in every volume: serialised without white space it is the file.
    pub index: IndexMember,
    /// The images, in the order of their names.
    pub images: Vec<BundleImage>,
    /// Which digest each name stands for.
    pub lock: BTreeMap<String, Digest>,
    /// What it builds on, and what was left out because of that.
    pub base: BundleBase,
    /// The volumes, in order; never empty.
    pub volumes: Vec<BundleVolume>,
}

/// An `index.json` (image-spec image-index.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexMember {
    /// 2
    pub schema_version: u32,
    /// `application/vnd.oci.image.index.v1+json`
    pub media_type: String,
    /// One entry per name (annotations `org.opencontainers.image.ref.name` and `io.containerd.image.name`), and referrers without.
    pub manifests: Vec<Descriptor>,
}

/// An image of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleImage {
    /// Its name at the target, without prefix (`library/alpine:3.20`, `repo@sha256:…`).
    pub name: String,
    /// The canonical name of what it was copied from (`docker.io/library/alpine:3.20`).
    pub source: String,
    /// The digest of its top manifest.
    pub digest: Digest,
    /// What it runs on, as far as it says so.
    pub platforms: Vec<String>,
    /// The manifests that are about it (signatures, SBOMs) and travel with it.
    pub referrers: Vec<Digest>,
}

/// What a bundle builds on: content that is at the far side already, or comes with another bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleBase {
    /// The bundles that are assumed to arrive.
    pub bundles: Vec<BaseBundle>,
    /// The sha256 digests of the inventories, as text.
    pub inventories: Vec<Digest>,
    /// What images of this bundle need and its volumes do not hold, in the order of digests.
    pub content: Vec<ReliedBlob>,
}

/// A bundle that another one builds on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BaseBundle {
    /// Its identity.
    pub id: Digest,
    /// Its name.
    pub name: String,
}

/// A config or layer that a bundle relies on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReliedBlob {
    /// Which.
    pub digest: Digest,
    /// How many bytes it has.
    pub size: u64,
    /// The repositories that need it.
    pub repositories: Vec<String>,
    /// Where the base says that it is: some repositories that it can be mounted from.
    pub held: Vec<String>,
    /// The bundle that brings it; null: an inventory says that it is there.
    pub bundle: Option<Digest>,
}

/// A volume, as the bundle's record has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleVolume {
    /// Its number, from 1.
    pub number: u32,
    /// The name of its file.
    pub file: String,
    /// The length of its file.
    pub size: u64,
    /// The sha256 of its file, as 64 hex digits.
    pub sha256: String,
    /// What it carries after its head, in that order.
    pub members: Vec<VolumeMember>,
}

/// What `larder/volume.json` says in a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// The format's version: 1.
    pub version: u32,
    /// The identity of the bundle it belongs to.
    pub bundle: Digest,
    /// Its number, from 1.
    pub volume: u32,
    /// How many volumes the bundle has.
    pub volumes: u32,
    /// What it carries after this record, in that order.
    pub members: Vec<VolumeMember>,
}

/// A blob in a volume, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMember {
    /// Which blob.
    pub digest: Digest,
    /// What it is to the images.
    pub kind: MemberKind,
    /// The number of the part, from 1; absent if this is all of the blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<u32>,
    /// The blob's size; absent if this is all of the blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob_size: Option<u64>,
    /// Where in the blob it begins.
    pub offset: u64,
    /// How many bytes are here.
    pub size: u64,
    /// The repositories that need it, sorted.
    pub repositories: Vec<String>,
}

/// What a blob is to the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberKind {
    /// An index or manifest.
    Manifest,
    /// A config, a layer, or whatever else a manifest refers to.
    Blob,
}

impl VolumeMember {
    /// Its path in the volume: `blobs/sha256/…`, or `larder/parts/sha256/…/0001`.
    pub fn path(&self) -> String {
        let (algorithm, encoded) = (self.digest.algorithm(), self.digest.encoded());
        match self.part {
            None => format!("blobs/{algorithm}/{encoded}"),
            Some(part) => format!("larder/parts/{algorithm}/{encoded}/{part:04}"),
        }
    }

    /// The size of the whole blob.
    pub fn whole_size(&self) -> u64 {
        self.blob_size.unwrap_or(self.size)
    }

    fn check(&self) -> Result<(), String> {
        let sizes = match (self.part, self.blob_size) {
            (None, None) => self.offset == 0 && self.size <= MAX_SIZE,
            (Some(part), Some(whole)) => {
                let end = self.offset.checked_add(self.size);
                part > 0 && self.size > 0 && whole <= MAX_SIZE && end.is_some_and(|end| end <= whole) && self.size < whole
            }
            _ => false,
        };
        if !sizes {
            return Err(format!("part, offset and sizes of {} do not fit together", self.digest));
        }
        self.repositories.iter().try_for_each(|repository| check_repository(repository))
    }
}

impl IndexMember {
    /// An index of these entries.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        IndexMember { schema_version: 2, media_type: "application/vnd.oci.image.index.v1+json".to_owned(), manifests }
    }

    /// The bytes of the file.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_json(self)
    }
}

impl Bundle {
    /// Reads and checks a bundle's record.
    ///
    /// # Errors
    /// `Kind::Damaged` if it is none, or says what cannot be; `Kind::Unsupported` for a version that this program does not know.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        const OP: &str = "read bundle";
        check_version(bytes, OP)?;
        let bundle: Bundle = serde_json::from_slice(bytes).map_err(|error| damaged(OP, &error.to_string()))?;
        bundle.check().map_err(|why| damaged(OP, &why))?;
        Ok(bundle)
    }

    /// The bytes of the file: indented, for people, with a line break at the end.
    pub fn to_bytes(&self) -> Vec<u8> {
        // A value of ours, whose keys are all strings, always serialises.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// The record that is inside volume `number`.
    pub fn record(&self, number: u32) -> Option<VolumeRecord> {
        let volume = self.volumes.iter().find(|volume| volume.number == number)?;
        let volumes = u32::try_from(self.volumes.len()).ok()?;
        Some(VolumeRecord { version: VERSION, bundle: self.id.clone(), volume: number, volumes, members: volume.members.clone() })
    }

    /// Every blob and part in the volumes, with the number of its volume, in order.
    pub fn members(&self) -> impl Iterator<Item = (u32, &VolumeMember)> {
        self.volumes.iter().flat_map(|volume| volume.members.iter().map(|member| (volume.number, member)))
    }

    fn check(&self) -> Result<(), String> {
        check_name(&self.name)?;
        if self.volumes.is_empty() {
            return Err("it has no volumes".to_owned());
        }
        for (at, volume) in self.volumes.iter().enumerate() {
            let expected = u32::try_from(at + 1).map_err(|_| "it has too many volumes".to_owned())?;
            if volume.number != expected || volume.file != volume_file(&self.name, volume.number) {
                return Err(format!("volume {expected} is said to be number {} in the file `{}`", volume.number, volume.file));
            }
            let hex = volume.sha256.len() == 64 && volume.sha256.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
            if volume.size > MAX_SIZE || !hex {
                return Err(format!("size or sha256 of volume {expected} is none"));
            }
            volume.members.iter().try_for_each(VolumeMember::check)?;
        }
        check_parts(self.members().map(|(_, member)| member))?;
        self.images.iter().try_for_each(|image| check_image_name(&image.name))?;
        self.lock.keys().try_for_each(|name| check_image_name(name))?;
        self.base.bundles.iter().try_for_each(|base| check_name(&base.name))?;
        for relied in &self.base.content {
            if relied.size > MAX_SIZE {
                return Err(format!("{} is said to have {} bytes", relied.digest, relied.size));
            }
            relied.repositories.iter().chain(&relied.held).try_for_each(|repository| check_repository(repository))?;
        }
        Ok(())
    }
}

impl VolumeRecord {
    /// Reads and checks a volume's record.
    ///
    /// # Errors
    /// As [`Bundle::parse`].
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        const OP: &str = "read volume";
        check_version(bytes, OP)?;
        let record: VolumeRecord = serde_json::from_slice(bytes).map_err(|error| damaged(OP, &error.to_string()))?;
        if record.volume == 0 || record.volume > record.volumes {
            return Err(damaged(OP, &format!("it says to be volume {} of {}", record.volume, record.volumes)));
        }
        record.members.iter().try_for_each(VolumeMember::check).map_err(|why| damaged(OP, &why))?;
        Ok(record)
    }

    /// The bytes of the file, without white space.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_json(self)
    }
}

/// `NAME-0001.tar`
pub fn volume_file(name: &str, number: u32) -> String {
    format!("{name}-{number:04}.tar")
}

/// `NAME.bundle.json`
pub fn bundle_file(name: &str) -> String {
    format!("{name}{BUNDLE_SUFFIX}")
}

/// What a bundle of identity `id` is called if nobody names it.
pub fn default_name(id: &Digest) -> String {
    format!("bundle-{}", id.short())
}

/// Whether `name` may be a bundle's: it becomes part of file names. The error is for a person.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(plain) || name.starts_with(['.', '-']) {
        return Err(format!(
            "`{name}` is no name for a bundle (letters, digits, `.`, `_`, `-`; at most {MAX_NAME}; begins with neither `.` nor `-`)"
        ));
    }
    Ok(())
}

/// Whether `name` may be an image's at a target. The error is for a person.
fn check_image_name(name: &str) -> Result<(), String> {
    let wrong = || format!("`{name}` is no image name");
    match name.split_once('@') {
        Some((repository, digest)) => check_repository(repository).and_then(|()| Digest::parse(digest).map(drop)).map_err(|_| wrong()),
        None => {
            let (repository, tag) = name.rsplit_once(':').ok_or_else(wrong)?;
            check_repository(repository).and_then(|()| crate::name::check_tag(tag)).map_err(|_| wrong())
        }
    }
}

/// Whether `text` may be a repository of a target: a registry's, or a layout's, which may begin with a host and its port.
/// What matters is that it can be no path to elsewhere.
fn check_repository(text: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '[' | ']');
    let component = |part: &str| part.chars().all(plain) && part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[');
    if text.len() <= MAX_REPOSITORY && text.split('/').all(component) { Ok(()) } else { Err(format!("`{text}` is no repository")) }
}

/// Sees that every blob is there once, and that the parts of those that are cut follow one another and join. A volume by itself
/// has only some of them; this is for all members of a bundle.
fn check_parts<'a>(members: impl Iterator<Item = &'a VolumeMember>) -> Result<(), String> {
    /// How far a blob has been met: its size, the number of its last part, where that ends.
    struct Met {
        whole: u64,
        part: u32,
        end: u64,
    }
    let mut met: HashMap<&Digest, Met> = HashMap::new();
    for member in members {
        let before = met.get(&member.digest);
        let (part, end) = before.map_or((0, 0), |met| (met.part, met.end));
        let follows = match member.part {
            None => before.is_none(),
            Some(number) => number == part + 1 && member.offset == end && before.is_none_or(|met| met.whole == member.whole_size()),
        };
        if !follows {
            return Err(format!("{} is there twice, or its parts do not follow one another", member.digest));
        }
        let met_now = Met { whole: member.whole_size(), part: part + 1, end: member.offset + member.size };
        met.insert(&member.digest, met_now);
    }
    match met.iter().find(|(_, met)| met.end != met.whole) {
        Some((digest, met)) => Err(format!("the parts of {digest} have {} of its {} bytes", met.end, met.whole)),
        None => Ok(()),
    }
}

/// Tells an unknown version from a record that is damaged.
fn check_version(bytes: &[u8], operation: &'static str) -> Result<()> {
    #[derive(Deserialize)]
    struct FormatHead {
        version: u32,
    }
    let head: FormatHead =
        serde_json::from_slice(bytes).map_err(|error| damaged(operation, &format!("it is no record of a bundle: {error}")))?;
    if head.version == VERSION {
        return Ok(());
    }
    let message = format!("the record has version {}; this larder knows {VERSION}", head.version);
    Err(Error::new(Side::Local, operation, Kind::Unsupported, message))
}

fn damaged(operation: &'static str, message: &str) -> Error {
    Error::new(Side::Local, operation, Kind::Damaged, message)
}

/// The JSON of a value of ours, whose keys are all strings, so that it always serialises.
pub(super) fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn hex(byte: u8) -> String {
        hex::encode([byte; 32])
    }

    /// A bundle of two volumes: a manifest, and a blob in two parts.
    fn sample() -> Value {
        let part = |number: u32, offset: u64, size: u64| {
            json!({"digest": format!("sha256:{}", hex(2)), "kind": "blob", "part": number, "blob_size": 30, "offset": offset, "size": size,
                "repositories": ["library/alpine", "127.0.0.1:5000/a/b"]})
        };
        let manifest =
            json!({"digest": format!("sha256:{}", hex(1)), "kind": "manifest", "offset": 0, "size": 7, "repositories": ["library/alpine"]});
        let volume = |number: u32, members: Value| json!({"number": number, "file": format!("b-000{number}.tar"), "size": 9000, "sha256": hex(7), "members": members});
        json!({
            "version": 1, "id": format!("sha256:{}", hex(9)), "name": "b",
            "index": {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []},
            "images": [{"name": "library/alpine:3.20", "source": "docker.io/library/alpine:3.20", "digest": format!("sha256:{}", hex(1)),
                "platforms": [], "referrers": []}],
            "lock": {"library/alpine:3.20": format!("sha256:{}", hex(1))},
            "base": {"bundles": [], "inventories": [], "content": [{"digest": format!("sha256:{}", hex(3)), "size": 5,
                "repositories": ["library/alpine"], "held": ["x"], "bundle": null}]},
            "volumes": [volume(1, json!([manifest, part(1, 0, 10)])), volume(2, json!([part(2, 10, 20)]))],
        })
    }

    fn parse(value: &Value) -> Result<Bundle> {
        Bundle::parse(value.to_string().as_bytes())
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let bundle = parse(&sample()).unwrap();
        assert_eq!(Bundle::parse(&bundle.to_bytes()).unwrap(), bundle);
        assert!(bundle.to_bytes().ends_with(b"}\n"));
        let record = bundle.record(2).unwrap();
        assert_eq!((record.volume, record.volumes, record.members.len()), (2, 2, 1));
        assert_eq!(VolumeRecord::parse(&record.to_bytes()).unwrap(), record);
        assert!(!record.to_bytes().contains(&b' '));
        assert!(bundle.record(3).is_none());
        let paths: Vec<String> = bundle.members().map(|(_, member)| member.path()).collect();
        assert_eq!(paths[0], format!("blobs/sha256/{}", hex(1)));
        assert_eq!(paths[2], format!("larder/parts/sha256/{}/0002", hex(2)));
    }

    #[test]
    fn what_a_later_version_writes_beside_is_passed_over_and_its_version_is_not() {
        let mut value = sample();
        value["more"] = json!({"of": "it"});
        parse(&value).unwrap();
        value["version"] = 2.into();
        let error = parse(&value).unwrap_err();
        assert_eq!((error.kind(), error.message().contains("version 2")), (Kind::Unsupported, true));
    }

    /// Replaces what is at a JSON pointer.
    fn with(pointer: &str, new: Value) -> Value {
        let mut value = sample();
        *value.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = new;
        value
    }

    #[test]
    fn tricks_are_refused() {
        let part = "/volumes/1/members/0";
        let mut values = vec![
            with("/name", json!("../b")),
            with("/name", json!("")),
            with("/name", json!(".b")),
            with("/name", json!("x".repeat(201))),
            with("/id", json!("sha256:../../etc")),
            with("/volumes", json!([])),
            with("/volumes/0/file", json!("/etc/passwd")),
            with("/volumes/0/file", json!("b-0002.tar")),
            with("/volumes/1/number", json!(3)),
            with("/volumes/0/size", json!(u64::MAX)),
            with("/volumes/0/size", json!(-1)),
            with("/volumes/0/sha256", json!("A".repeat(64))),
            with("/volumes/0/members/0/digest", json!(format!("sha256/../{}", hex(1)))),
            with("/volumes/0/members/0/digest", json!(format!("sha256:{}", hex(2)))),
            with("/volumes/0/members/0/size", json!(u64::MAX)),
            with("/volumes/0/members/0/offset", json!(1)),
            with("/volumes/0/members/0/kind", json!("device")),
            with("/images/0/name", json!("library/alpine")),
            with("/images/0/name", json!("../../alpine:3")),
            with("/images/0/name", json!("library/alpine@sha256:short")),
            with("/base/content/0/size", json!(u64::MAX)),
            with("/base/content/0/held/0", json!("../x")),
            with("/lock", json!({"a\u{1b}[2J:1": format!("sha256:{}", hex(1))})),
        ];
        for (key, wrong) in [
            ("part", 1),
            ("part", 3),
            ("part", 0),
            ("offset", 9),
            ("offset", u64::MAX),
            ("size", 19),
            ("size", 21),
            ("size", 0),
            ("blob_size", 31),
        ] {
            values.push(with(&format!("{part}/{key}"), json!(wrong)));
        }
        for repository in ["", "/", "/etc", "a//b", "..", "a/../b", "a/.", "-x", "a\\b", "a b", "a\u{202e}b", &"x".repeat(600)] {
            values.push(with(&format!("{part}/repositories/0"), json!(repository)));
        }
        let mut alone = sample();
        alone["volumes"][1]["members"][0].as_object_mut().unwrap().remove("part");
        values.push(alone);
        for value in values {
            assert_eq!(parse(&value).map(|_| value.to_string()).unwrap_err().kind(), Kind::Damaged);
        }
        for text in ["", "{}", "[]", "null", "{\"version\":1}", "\u{0}"] {
            assert!(Bundle::parse(text.as_bytes()).is_err() && VolumeRecord::parse(text.as_bytes()).is_err());
        }
        let record = json!({"version": 1, "bundle": format!("sha256:{}", hex(9)), "volume": 3, "volumes": 2, "members": []});
        assert!(VolumeRecord::parse(record.to_string().as_bytes()).is_err());
    }
}
