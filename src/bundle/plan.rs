//! Divides content into volumes. Pure: all lengths are known before the first byte is written.
//!
//! Manifests come first, then blobs, each sorted by digest. A blob goes into the current volume if it fits, else into a new
//! one; only a blob that fits into no volume is split. *Rejected:* filling the gaps of earlier volumes. It saves less than
//! the size of a layer in a volume of gigabytes, and loses the order.

use serde::Serialize;

use super::format::{Bundle, BundleBase, BundleImage, BundleVolume, IndexMember, MemberKind, VERSION, VolumeMember, VolumeRecord};
use super::format::{INDEX_PATH, MARKER, MARKER_PATH, RECORD_PATH, to_json, volume_file};
use super::tar;
use crate::content::Digest;
use crate::{Error, Operation, Result};

/// The rest of a volume is filled with a part of a blob only if that is at least this fraction (1/16) of what a volume can
/// hold: small parts cost members and seeks.
const LEAST_SHARE: u64 = 16;

/// A blob that goes into a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedBlob {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Whether images use it as a manifest or as a blob.
    pub kind: MemberKind,
    /// The repositories that need it, sorted.
    pub repositories: Vec<String>,
}

/// A bundle before it is written: everything but the hashes of its volumes.
#[derive(Debug, Clone)]
pub struct BundlePlan {
    /// The content of `index.json`.
    pub index: IndexMember,
    /// The images, in the order of their names.
    pub images: Vec<BundleImage>,
    /// What it builds on.
    pub base: BundleBase,
    /// The members of each volume; never empty.
    pub volumes: Vec<Vec<VolumeMember>>,
}

/// A volume before it is written.
#[derive(Debug, Clone)]
pub struct PlannedVolume {
    /// The tar entries before the members: `oci-layout`, `index.json`, the record.
    pub head: Vec<u8>,
    /// The members, in order.
    pub members: Vec<VolumeMember>,
}

impl PlannedVolume {
    /// The volume of this record, of a bundle with this index.
    pub fn new(index: &IndexMember, record: VolumeRecord) -> Self {
        let mut head = tar::entry(MARKER_PATH, MARKER);
        head.extend(tar::entry(INDEX_PATH, &index.to_bytes()));
        head.extend(tar::entry(RECORD_PATH, &record.to_bytes()));
        PlannedVolume { head, members: record.members }
    }

    /// The length of its file in bytes.
    pub fn size(&self) -> u64 {
        self.head.len() as u64 + self.members.iter().map(taken).sum::<u64>() + tar::END.len() as u64
    }
}

/// The length of a member in a volume: header, bytes, padding.
pub(super) fn taken(member: &VolumeMember) -> u64 {
    tar::header(&member.path(), member.size).len() as u64 + tar::padded(member.size)
}

/// The members of a volume whose head has `head` bytes, each with the offset of its first byte.
pub(super) fn member_offsets(head: u64, members: &[VolumeMember]) -> impl Iterator<Item = (&VolumeMember, u64)> {
    members.iter().scan(head, |end, member| {
        let start = end.saturating_add(tar::header(&member.path(), member.size).len() as u64);
        *end = start.saturating_add(tar::padded(member.size));
        Some((member, start))
    })
}

impl BundlePlan {
    /// Divides `blobs` into volumes of at most `max_size` bytes.
    ///
    /// # Errors
    /// If a volume of that size has no room for anything but the index.
    pub fn new(
        index: IndexMember,
        images: Vec<BundleImage>,
        base: BundleBase,
        mut blobs: Vec<PlannedBlob>,
        max_size: Option<u64>,
    ) -> Result<Self> {
        blobs.sort_by(|a, b| (a.kind, &a.digest).cmp(&(b.kind, &b.digest)));
        let volumes = VolumeDivider::new(&index, max_size).divide(blobs)?;
        Ok(BundlePlan { index, images, base, volumes })
    }

    /// The bundle's identity: the digest of its content and its division into volumes.
    pub fn id(&self) -> Digest {
        #[derive(Serialize)]
        struct Identity<'a> {
            version: u32,
            index: &'a IndexMember,
            base: &'a BundleBase,
            volumes: &'a [Vec<VolumeMember>],
        }
        Digest::sha256(&to_json(&Identity { version: VERSION, index: &self.index, base: &self.base, volumes: &self.volumes }))
    }

    /// Every volume, in order. Each has the whole index in its head, so they are built one at a time.
    pub fn planned_volumes(&self) -> impl Iterator<Item = PlannedVolume> {
        let (id, volumes) = (self.id(), number(self.volumes.len()));
        let record = move |at: usize, members: &Vec<VolumeMember>| VolumeRecord {
            version: VERSION,
            bundle: id.clone(),
            volume: number(at + 1),
            volumes,
            members: members.clone(),
        };
        self.volumes.iter().enumerate().map(move |(at, members)| PlannedVolume::new(&self.index, record(at, members)))
    }

    /// The bundle's record, given length and sha256 of each written volume.
    pub fn bundle(&self, name: &str, written: &[(u64, String)]) -> Bundle {
        let volume = |(at, (members, (size, sha256))): (usize, (&Vec<VolumeMember>, &(u64, String)))| {
            let number = number(at + 1);
            BundleVolume { number, file: volume_file(name, number), size: *size, sha256: sha256.clone(), members: members.clone() }
        };
        Bundle {
            version: VERSION,
            id: self.id(),
            name: name.to_owned(),
            index: self.index.clone(),
            images: self.images.clone(),
            lock: self.images.iter().map(|image| (image.name.clone(), image.digest.clone())).collect(),
            base: self.base.clone(),
            volumes: self.volumes.iter().zip(written).enumerate().map(volume).collect(),
        }
    }
}

/// A volume's number. No bundle has 2^32 volumes.
fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// Fills one volume after the other. All lengths are in bytes.
struct VolumeDivider {
    max_size: u64,
    /// The length of a volume without members and without the content of its record.
    fixed: u64,
    /// The largest length of a record without members.
    empty_record: u64,
    full: Vec<Vec<VolumeMember>>,
    current: Vec<VolumeMember>,
    /// The length of the current members in the record.
    in_record: u64,
    /// The length of the current members in the volume.
    in_volume: u64,
}

impl VolumeDivider {
    fn new(index: &IndexMember, max_size: Option<u64>) -> Self {
        // The number of volumes is not known yet: reserve space for the longest.
        let longest = VolumeRecord { version: VERSION, bundle: Digest::sha256(b""), volume: u32::MAX, volumes: u32::MAX, members: vec![] };
        let empty_record = longest.to_bytes().len() as u64;
        let head = PlannedVolume::new(index, longest).size();
        VolumeDivider {
            max_size: max_size.unwrap_or(u64::MAX),
            fixed: head - tar::padded(empty_record),
            empty_record,
            full: vec![],
            current: vec![],
            in_record: 0,
            in_volume: 0,
        }
    }

    fn divide(mut self, blobs: Vec<PlannedBlob>) -> Result<Vec<Vec<VolumeMember>>> {
        for blob in blobs {
            let whole = VolumeMember {
                digest: blob.digest,
                kind: blob.kind,
                part: None,
                blob_size: None,
                offset: 0,
                size: blob.size,
                repositories: blob.repositories,
            };
            if self.fits(&whole) {
                self.add(whole);
            } else if self.fits_alone(&whole) {
                self.close();
                self.add(whole);
            } else {
                self.split(&whole)?;
            }
        }
        if !self.current.is_empty() || self.full.is_empty() {
            if self.length(0, 0) > self.max_size {
                return Err(self.too_small());
            }
            self.close();
        }
        Ok(self.full)
    }

    /// Splits a blob over volumes, beginning with the rest of the current one.
    fn split(&mut self, whole: &VolumeMember) -> Result<()> {
        let (mut offset, mut number) = (0, 0);
        while offset < whole.size {
            number += 1;
            let rest = whole.size - offset;
            let mut part = VolumeMember { part: Some(number), blob_size: Some(whole.size), offset, size: rest, ..whole.clone() };
            let mut room = self.room(&part);
            if room < rest.min((self.room_alone(&part) / LEAST_SHARE).max(tar::BLOCK)) {
                self.close();
                room = self.room(&part);
            }
            if room < rest.min(tar::BLOCK) {
                return Err(self.too_small());
            }
            part.size = rest.min(room);
            offset += part.size;
            self.add(part);
        }
        Ok(())
    }

    /// How many bytes of a part fit into the current volume: whole blocks, so that no space is lost to padding.
    fn room(&self, part: &VolumeMember) -> u64 {
        self.room_after(part, self.length(record_length(part), 0))
    }

    fn room_alone(&self, part: &VolumeMember) -> u64 {
        self.room_after(part, self.length_alone(part))
    }

    fn room_after(&self, part: &VolumeMember, length: u64) -> u64 {
        // `part` has the whole rest of the blob, so its header is the longest that is needed.
        let header = tar::header(&part.path(), part.size).len() as u64;
        self.max_size.saturating_sub(length.saturating_add(header)) / tar::BLOCK * tar::BLOCK
    }

    /// The length of the current volume with these additions to its record and its members.
    fn length(&self, in_record: u64, in_volume: u64) -> u64 {
        (self.fixed + tar::padded(self.empty_record + self.in_record + in_record)).saturating_add(self.in_volume.saturating_add(in_volume))
    }

    /// The length of a volume whose record lists this member only, without the member itself.
    fn length_alone(&self, member: &VolumeMember) -> u64 {
        self.fixed + tar::padded(self.empty_record + record_length(member))
    }

    fn fits(&self, member: &VolumeMember) -> bool {
        self.length(record_length(member), taken(member)) <= self.max_size
    }

    fn fits_alone(&self, member: &VolumeMember) -> bool {
        self.length_alone(member).saturating_add(taken(member)) <= self.max_size
    }

    fn add(&mut self, member: VolumeMember) {
        self.in_record += record_length(&member);
        self.in_volume += taken(&member);
        self.current.push(member);
    }

    fn close(&mut self) {
        if !self.current.is_empty() || self.full.is_empty() {
            self.full.push(std::mem::take(&mut self.current));
        }
        (self.in_record, self.in_volume) = (0, 0);
    }

    fn too_small(&self) -> Error {
        let message = format!("volumes of {} bytes have no room for content: the head of each takes {}", self.max_size, self.fixed);
        Error::local(Operation::PlanVolumes, message).remedy("give a larger --volume-size")
    }
}

/// The length of a member in the record, with its comma.
fn record_length(member: &VolumeMember) -> u64 {
    to_json(member).len() as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece(number: u64, size: u64) -> PlannedBlob {
        let kind = if number.is_multiple_of(4) { MemberKind::Manifest } else { MemberKind::Blob };
        let digest = match number % 3 {
            0 => Digest::parse(&format!("sha512:{number:0128x}")).unwrap(),
            _ => Digest::sha256(&number.to_le_bytes()),
        };
        PlannedBlob { digest, size, kind, repositories: (0..number % 5).map(|n| format!("library/app-{n}")).collect() }
    }

    fn plan(sizes: &[u64], cap: Option<u64>) -> Result<BundlePlan> {
        let pieces = sizes.iter().enumerate().map(|(number, size)| piece(number as u64, *size)).collect();
        BundlePlan::new(IndexMember::new(vec![]), vec![], BundleBase::default(), pieces, cap)
    }

    fn bundle(plan: &BundlePlan) -> Bundle {
        let written: Vec<(u64, String)> = plan.planned_volumes().map(|volume| (volume.size(), "0".repeat(64))).collect();
        plan.bundle("b", &written)
    }

    #[test]
    fn without_a_limit_everything_is_in_one_volume() {
        let plan = plan(&[5, 1 << 40, 0], None).unwrap();
        assert_eq!(plan.volumes.len(), 1);
        assert_eq!(plan.volumes[0].iter().map(|member| member.size).collect::<Vec<_>>(), [5, 1 << 40, 0]);
        // A long name and a large size take a header of three blocks, the others one; a block of bytes, and the end.
        let expected = plan.planned_volumes().next().unwrap().head.len() as u64 + (3 * 512 + 512) + (3 * 512 + (1 << 40)) + 512 + 1024;
        assert_eq!(plan.planned_volumes().next().unwrap().size(), expected);
    }

    #[test]
    fn the_identity_depends_on_content_and_volumes_only() {
        let sizes = [50_000, 50_000, 50_000];
        let whole = plan(&sizes, None).unwrap();
        assert_eq!(whole.id(), plan(&sizes, Some(1 << 30)).unwrap().id());
        assert_ne!(whole.id(), plan(&sizes, Some(100_000)).unwrap().id());
        assert_ne!(whole.id(), plan(&sizes[..2], None).unwrap().id());
        let mut other = plan(&sizes, None).unwrap();
        other.base.inventories.push(Digest::sha256(b"inventory"));
        assert_ne!(whole.id(), other.id());
    }

    #[test]
    fn volumes_that_are_too_small_are_refused() {
        let least = plan(&[], None).unwrap().planned_volumes().next().unwrap().size();
        assert!(plan(&[], Some(least - 1)).unwrap_err().message().contains("no room"));
        assert!(plan(&[100], Some(least)).unwrap_err().message().contains("--volume-size"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn volumes_keep_to_their_size_and_hold_every_blob_once_in_order(
            sizes in prop::collection::vec(prop_oneof![0u64..3000, 0u64..60_000, 9_000_000_000u64..9_000_100_000], 0..40),
            cap in prop_oneof![8_000u64..12_000, 12_000u64..120_000, 4_000_000_000u64..20_000_000_000],
        ) {
            // A blob of gigabytes in volumes of kilobytes has a million parts, and shows no more than three do.
            let sizes: Vec<u64> = sizes.into_iter().map(|size| if cap < 1 << 30 { size % 100_000 } else { size }).collect();
            let plan = plan(&sizes, Some(cap)).unwrap();
            for volume in plan.planned_volumes() {
                prop_assert!(volume.size() <= cap, "{} of {cap}", volume.size());
            }
            prop_assert!(plan.volumes.len() == 1 || plan.volumes.iter().all(|members| !members.is_empty()));
            // Reading it back checks that every blob is there once, and that parts join.
            let bundle = bundle(&plan);
            prop_assert_eq!(&Bundle::parse(&bundle.to_bytes()).unwrap(), &bundle);
            let mut pieces: Vec<PlannedBlob> = sizes.iter().enumerate().map(|(number, size)| piece(number as u64, *size)).collect();
            pieces.sort_by(|a, b| (a.kind, &a.digest).cmp(&(b.kind, &b.digest)));
            let mut met: Vec<(&Digest, u64)> = bundle.members().map(|(_, member)| (&member.digest, member.whole_size())).collect();
            met.dedup();
            prop_assert_eq!(met, pieces.iter().map(|piece| (&piece.digest, piece.size)).collect::<Vec<_>>());
            // Nothing is split that fits into a volume by itself.
            let empty = self::plan(&[], None).unwrap().planned_volumes().next().unwrap().size();
            for (_, part) in bundle.members().filter(|(_, member)| member.part.is_some()) {
                prop_assert!(empty + 2048 + part.whole_size() + 1024 > cap, "{part:?}");
            }
        }
    }
}
