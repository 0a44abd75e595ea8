//! How what is to be carried is cut into volumes. Pure, and before the first byte is written: all lengths are known.
//!
//! Manifests come first, then blobs, each in the order of their digests. A blob goes into the current volume if it fits, else into a new
//! one; only what fits into no volume is cut. *Rejected:* going back to fill the gaps of earlier volumes, which saves a part of the size
//! of a layer in a volume of gigabytes, and loses the order.

use serde::Serialize;

use super::format::{Bundle, BundleBase, BundleImage, BundleVolume, IndexMember, MemberKind, VERSION, VolumeMember, VolumeRecord};
use super::format::{INDEX_PATH, MARKER, MARKER_PATH, RECORD_PATH, to_json, volume_file};
use super::tar;
use crate::content::Digest;
use crate::{Error, Result};

/// A part is worth a volume's rest if it takes at least this share of what a volume can hold: slivers cost members and seeks.
const LEAST_SHARE: u64 = 16;

/// A blob to be carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedBlob {
    /// Which.
    pub digest: Digest,
    /// How many bytes it has.
    pub size: u64,
    /// What it is to the images.
    pub kind: MemberKind,
    /// The repositories that need it, sorted.
    pub repositories: Vec<String>,
}

/// A bundle before it is written: everything but the hashes of its volumes.
#[derive(Debug, Clone)]
pub struct BundlePlan {
    /// What `index.json` will hold.
    pub index: IndexMember,
    /// The images, in the order of their names.
    pub images: Vec<BundleImage>,
    /// What it builds on.
    pub base: BundleBase,
    /// What each volume will carry; never empty.
    pub volumes: Vec<Vec<VolumeMember>>,
}

/// A volume before it is written.
#[derive(Debug, Clone)]
pub struct PlannedVolume {
    /// What stands before the members: `oci-layout`, `index.json`, the record.
    pub head: Vec<u8>,
    /// The members, in order.
    pub members: Vec<VolumeMember>,
}

impl PlannedVolume {
    /// The volume that `record` describes, of a bundle with this index.
    pub fn new(index: &IndexMember, record: VolumeRecord) -> Self {
        let mut head = tar::entry(MARKER_PATH, MARKER);
        head.extend(tar::entry(INDEX_PATH, &index.to_bytes()));
        head.extend(tar::entry(RECORD_PATH, &record.to_bytes()));
        PlannedVolume { head, members: record.members }
    }

    /// The length of its file.
    pub fn size(&self) -> u64 {
        self.head.len() as u64 + self.members.iter().map(taken).sum::<u64>() + tar::END.len() as u64
    }
}

/// What a member takes in a volume: header, bytes, padding.
pub(super) fn taken(member: &VolumeMember) -> u64 {
    tar::header(&member.path(), member.size).len() as u64 + tar::padded(member.size)
}

impl BundlePlan {
    /// Cuts `pieces` into volumes of at most `cap` bytes.
    ///
    /// # Errors
    /// If a volume of that size has no room for anything beside the index.
    pub fn new(
        index: IndexMember,
        images: Vec<BundleImage>,
        base: BundleBase,
        mut pieces: Vec<PlannedBlob>,
        cap: Option<u64>,
    ) -> Result<Self> {
        pieces.sort_by(|a, b| (a.kind, &a.digest).cmp(&(b.kind, &b.digest)));
        let volumes = VolumeCutter::new(&index, cap).cut(pieces)?;
        Ok(BundlePlan { index, images, base, volumes })
    }

    /// The bundle's identity: what it carries, and how that is cut.
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

    /// Every volume, in order. Each has all of the index in its head: they are made one by one.
    pub fn sheets(&self) -> impl Iterator<Item = PlannedVolume> {
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

    /// The bundle's record, once the volumes are written; `written`: length and sha256 of each.
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

/// A volume's number. No bundle has four thousand million volumes.
fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// Fills one volume after the other.
struct VolumeCutter {
    cap: u64,
    /// What a volume takes without members, but for the bytes of its record.
    fixed: u64,
    /// The longest that a record without members can be.
    empty_record: u64,
    full: Vec<Vec<VolumeMember>>,
    current: Vec<VolumeMember>,
    /// What the current members take in the record.
    described: u64,
    /// What the current members take in the volume.
    carried: u64,
}

impl VolumeCutter {
    fn new(index: &IndexMember, cap: Option<u64>) -> Self {
        // The numbers of volumes are not known yet: room is left for the longest.
        let longest = VolumeRecord { version: VERSION, bundle: Digest::sha256(b""), volume: u32::MAX, volumes: u32::MAX, members: vec![] };
        let empty_record = longest.to_bytes().len() as u64;
        let head = PlannedVolume::new(index, longest).size();
        VolumeCutter {
            cap: cap.unwrap_or(u64::MAX),
            fixed: head - tar::padded(empty_record),
            empty_record,
            full: vec![],
            current: vec![],
            described: 0,
            carried: 0,
        }
    }

    fn cut(mut self, pieces: Vec<PlannedBlob>) -> Result<Vec<Vec<VolumeMember>>> {
        for piece in pieces {
            let whole = VolumeMember {
                digest: piece.digest,
                kind: piece.kind,
                part: None,
                blob_size: None,
                offset: 0,
                size: piece.size,
                repositories: piece.repositories,
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
            if self.length(0, 0) > self.cap {
                return Err(self.too_small());
            }
            self.close();
        }
        Ok(self.full)
    }

    /// Puts a blob into as many volumes as it takes, beginning with what is left of the current one.
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

    /// How many bytes of a part fit into the current volume: whole blocks, so that nothing is lost to padding.
    fn room(&self, part: &VolumeMember) -> u64 {
        Self::room_after(part, self.cap, self.length(described(part), 0))
    }

    fn room_alone(&self, part: &VolumeMember) -> u64 {
        Self::room_after(part, self.cap, self.fixed + tar::padded(self.empty_record + described(part)))
    }

    fn room_after(part: &VolumeMember, cap: u64, length: u64) -> u64 {
        // The header of what is left of the blob is the longest that its part may need.
        let header = tar::header(&part.path(), part.size).len() as u64;
        cap.saturating_sub(length.saturating_add(header)) / tar::BLOCK * tar::BLOCK
    }

    /// The length of the current volume with so much more in its record and among its members.
    fn length(&self, described: u64, carried: u64) -> u64 {
        (self.fixed + tar::padded(self.empty_record + self.described + described)).saturating_add(self.carried.saturating_add(carried))
    }

    fn fits(&self, member: &VolumeMember) -> bool {
        self.length(described(member), taken(member)) <= self.cap
    }

    fn fits_alone(&self, member: &VolumeMember) -> bool {
        (self.fixed + tar::padded(self.empty_record + described(member))).saturating_add(taken(member)) <= self.cap
    }

    fn add(&mut self, member: VolumeMember) {
        self.described += described(&member);
        self.carried += taken(&member);
        self.current.push(member);
    }

    fn close(&mut self) {
        if !self.current.is_empty() || self.full.is_empty() {
            self.full.push(std::mem::take(&mut self.current));
        }
        (self.described, self.carried) = (0, 0);
    }

    fn too_small(&self) -> Error {
        let message = format!("volumes of {} bytes have no room for content: what each of them begins with takes {}", self.cap, self.fixed);
        Error::local("cut volumes", message).remedy("give a larger --volume-size")
    }
}

/// What a member takes in the record, with its comma.
fn described(member: &VolumeMember) -> u64 {
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
        let written: Vec<(u64, String)> = plan.sheets().map(|sheet| (sheet.size(), "0".repeat(64))).collect();
        plan.bundle("b", &written)
    }

    #[test]
    fn without_a_cap_everything_is_in_one_volume() {
        let plan = plan(&[5, 1 << 40, 0], None).unwrap();
        assert_eq!(plan.volumes.len(), 1);
        assert_eq!(plan.volumes[0].iter().map(|member| member.size).collect::<Vec<_>>(), [5, 1 << 40, 0]);
        // A long name and a large size take three blocks, the others' header is one; a block of bytes, and the end.
        let expected = plan.sheets().next().unwrap().head.len() as u64 + (3 * 512 + 512) + (3 * 512 + (1 << 40)) + 512 + 1024;
        assert_eq!(plan.sheets().next().unwrap().size(), expected);
    }

    #[test]
    fn the_identity_follows_content_and_cut_and_nothing_else() {
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
    fn what_has_no_room_at_all_is_refused() {
        let least = plan(&[], None).unwrap().sheets().next().unwrap().size();
        assert!(plan(&[], Some(least - 1)).unwrap_err().message().contains("no room"));
        assert!(plan(&[100], Some(least)).unwrap_err().message().contains("--volume-size"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn volumes_keep_to_the_cap_and_hold_every_blob_once_in_order(
            sizes in prop::collection::vec(prop_oneof![0u64..3000, 0u64..60_000, 9_000_000_000u64..9_000_100_000], 0..40),
            cap in prop_oneof![8_000u64..12_000, 12_000u64..120_000, 4_000_000_000u64..20_000_000_000],
        ) {
            // A blob of gigabytes in volumes of kilobytes is a million parts, and shows nothing that three do not.
            let sizes: Vec<u64> = sizes.into_iter().map(|size| if cap < 1 << 30 { size % 100_000 } else { size }).collect();
            let plan = plan(&sizes, Some(cap)).unwrap();
            for sheet in plan.sheets() {
                prop_assert!(sheet.size() <= cap, "{} of {cap}", sheet.size());
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
            // Nothing is cut that fits into a volume by itself.
            let empty = self::plan(&[], None).unwrap().sheets().next().unwrap().size();
            for (_, part) in bundle.members().filter(|(_, member)| member.part.is_some()) {
                prop_assert!(empty + 2048 + part.whole_size() + 1024 > cap, "{part:?}");
            }
        }
    }
}
