//! The two records of a bundle: `NAME.bundle.json` beside the volumes, and `larder/volume.json` inside each of them.
//!
//! Both are JSON without times, hosts or program versions: the same content gives the same bytes. Records come from
//! media that anybody can write to, so [`Bundle::parse`] and [`VolumeRecord::parse`] check them before use: no name
//! leads to another folder, sizes add up, parts join.
//!
//! Only types and their checks belong here; reading and writing files does not.

mod names;

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::content::{Descriptor, Digest};
use crate::{Error, Kind, Operation, Result, Side};
pub use names::{BUNDLE_SUFFIX, bundle_file, check_name, default_name, volume_file};
use names::{check_image_name, check_repository};
pub(super) use names::{is_bundle_file, parse_volume_file};

/// The version of both records that this program writes and reads.
pub const VERSION: u32 = 1;

/// The content of `oci-layout` in every volume (image-spec image-layout.md "oci-layout file").
pub const MARKER: &[u8] = b"{\"imageLayoutVersion\":\"1.0.0\"}";
/// The path of the layout's marker in a volume: its first member.
pub const MARKER_PATH: &str = "oci-layout";
/// The path of the layout's index in a volume: its second member.
pub const INDEX_PATH: &str = "index.json";
/// The path of the volume's own record in a volume: its third member.
pub const RECORD_PATH: &str = "larder/volume.json";

/// The largest record that is read into memory, in bytes. A million members are about 250 MB.
pub const MAX_RECORD: u64 = 512 * 1024 * 1024;

/// The largest size that is accepted, in bytes: 2^53, beyond which JSON readers round; 9 PB.
const MAX_SIZE: u64 = 1 << 53;

/// A bundle's record: `NAME.bundle.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// The format's version: 1.
    pub version: u32,
    /// The bundle's identity: the digest of its content and of how that is cut into volumes.
    pub id: Digest,
    /// Its name, from which its files get theirs.
    pub name: String,
    /// The content of `index.json` in every volume: serialised without white space it is the file.
    pub index: IndexMember,
    /// The images, in the order of their names.
    pub images: Vec<BundleImage>,
    /// The digest of each name.
    pub lock: BTreeMap<String, Digest>,
    /// What it builds on, and the content that was left out because of that.
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
    /// The platforms that its index or config names.
    pub platforms: Vec<String>,
    /// Its referrers (signatures, SBOMs), which travel with it.
    pub referrers: Vec<Digest>,
}

/// What a bundle builds on: content that is at the target already, or comes with another bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleBase {
    /// The bundles that are assumed to arrive.
    pub bundles: Vec<BaseBundle>,
    /// The sha256 digests of the inventories, as text.
    pub inventories: Vec<Digest>,
    /// Content that images of this bundle need and its volumes do not hold, sorted by digest.
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
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// The repositories that need it.
    pub repositories: Vec<String>,
    /// Some repositories that hold it according to the base: it can be mounted from them.
    pub held: Vec<String>,
    /// The bundle that brings it; null: an inventory lists it.
    pub bundle: Option<Digest>,
}

/// A volume, as the bundle's record lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleVolume {
    /// Its number, from 1.
    pub number: u32,
    /// The name of its file.
    pub file: String,
    /// The length of its file in bytes.
    pub size: u64,
    /// The sha256 of its file, as 64 hex digits.
    pub sha256: String,
    /// Its members after the head, in that order.
    pub members: Vec<VolumeMember>,
}

/// A volume's own record: `larder/volume.json`.
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
    /// Its members after this record, in that order.
    pub members: Vec<VolumeMember>,
}

/// A blob in a volume, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMember {
    /// The digest of the blob.
    pub digest: Digest,
    /// Whether images use it as a manifest or as a blob.
    pub kind: MemberKind,
    /// The number of the part, from 1; absent if this is all of the blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<u32>,
    /// The blob's size; absent if this is all of the blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob_size: Option<u64>,
    /// Its offset in the blob, in bytes.
    pub offset: u64,
    /// Its size in bytes.
    pub size: u64,
    /// The repositories that need it, sorted.
    pub repositories: Vec<String>,
}

/// Whether images use a blob as a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberKind {
    /// An index or manifest.
    Manifest,
    /// A config, a layer, or anything else that a manifest refers to.
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
            return Err(format!("part, offset and sizes of {} contradict each other", self.digest));
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
    /// Parses and checks a bundle's record.
    ///
    /// # Errors
    /// `Kind::Damaged` if it is invalid; `Kind::Unsupported` for a version that this program does not know.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        const OP: Operation = Operation::ReadBundle;
        check_version(bytes, OP)?;
        let bundle: Bundle = serde_json::from_slice(bytes).map_err(|error| damaged(OP, &error.to_string()))?;
        bundle.check().map_err(|why| damaged(OP, &why))?;
        Ok(bundle)
    }

    /// The bytes of the file: indented, for people, with a line break at the end.
    pub fn to_bytes(&self) -> Vec<u8> {
        // All keys are strings, so this cannot fail.
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

    /// Every blob and part, with the number of its volume, in order.
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
                return Err(format!("volume {expected} has the number {} and the file name `{}`", volume.number, volume.file));
            }
            let hex = volume.sha256.len() == 64 && volume.sha256.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
            if volume.size > MAX_SIZE || !hex {
                return Err(format!("invalid size or sha256 of volume {expected}"));
            }
            volume.members.iter().try_for_each(VolumeMember::check)?;
        }
        check_parts(self.members().map(|(_, member)| member))?;
        self.images.iter().try_for_each(|image| check_image_name(&image.name))?;
        self.lock.keys().try_for_each(|name| check_image_name(name))?;
        self.base.bundles.iter().try_for_each(|base| check_name(&base.name))?;
        for relied in &self.base.content {
            if relied.size > MAX_SIZE {
                return Err(format!("invalid size {} of {}", relied.size, relied.digest));
            }
            relied.repositories.iter().chain(&relied.held).try_for_each(|repository| check_repository(repository))?;
        }
        Ok(())
    }
}

impl VolumeRecord {
    /// Parses and checks a volume's record.
    ///
    /// # Errors
    /// As [`Bundle::parse`].
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        const OP: Operation = Operation::ReadVolume;
        check_version(bytes, OP)?;
        let record: VolumeRecord = serde_json::from_slice(bytes).map_err(|error| damaged(OP, &error.to_string()))?;
        if record.volume == 0 || record.volume > record.volumes {
            return Err(damaged(OP, &format!("it has the number {} of {} volumes", record.volume, record.volumes)));
        }
        record.members.iter().try_for_each(VolumeMember::check).map_err(|why| damaged(OP, &why))?;
        Ok(record)
    }

    /// The bytes of the file, without white space.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_json(self)
    }
}

/// Checks that all members of a bundle contain every blob once, and that parts follow one another and join.
fn check_parts<'a>(members: impl Iterator<Item = &'a VolumeMember>) -> Result<(), String> {
    /// The parts of a blob so far: the blob's size, the number of the last part, and where that ends.
    struct Seen {
        whole: u64,
        part: u32,
        end: u64,
    }
    let mut seen: HashMap<&Digest, Seen> = HashMap::new();
    for member in members {
        let before = seen.get(&member.digest);
        let (part, end) = before.map_or((0, 0), |seen| (seen.part, seen.end));
        let follows = match member.part {
            None => before.is_none(),
            Some(number) => number == part + 1 && member.offset == end && before.is_none_or(|seen| seen.whole == member.whole_size()),
        };
        if !follows {
            return Err(format!("{} is listed twice, or its parts do not follow one another", member.digest));
        }
        seen.insert(&member.digest, Seen { whole: member.whole_size(), part: part + 1, end: member.offset + member.size });
    }
    match seen.iter().find(|(_, seen)| seen.end != seen.whole) {
        Some((digest, seen)) => Err(format!("the parts of {digest} have {} of its {} bytes", seen.end, seen.whole)),
        None => Ok(()),
    }
}

/// Tells an unknown version from a damaged record.
fn check_version(bytes: &[u8], operation: Operation) -> Result<()> {
    #[derive(Deserialize)]
    struct FormatHead {
        version: u32,
    }
    let head: FormatHead =
        serde_json::from_slice(bytes).map_err(|error| damaged(operation, &format!("invalid record of a bundle: {error}")))?;
    if head.version == VERSION {
        return Ok(());
    }
    let message = format!("the record has version {}; this larder knows {VERSION}", head.version);
    Err(Error::new(Side::Local, operation, Kind::Unsupported, message))
}

fn damaged(operation: Operation, message: &str) -> Error {
    Error::new(Side::Local, operation, Kind::Damaged, message)
}

/// The value as JSON without white space. All keys are strings, so this cannot fail.
pub(super) fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests;
