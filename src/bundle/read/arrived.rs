//! What [`BundleReader`](super::BundleReader) finds: bundles, images, and the content they are made of.

use std::collections::BTreeSet;
use std::path::Path;

use sha2::Digest as _;

use super::bundle_source::BundleSource;
use super::pieces::each_chunk;
use crate::Error;
use crate::bundle::format::{BUNDLE_SUFFIX, Bundle, VolumeMember};
use crate::bundle::interchange::AvailablePlatforms;
use crate::content::{Digest, Repository};
use crate::folder;
use crate::layout::IndexEntry;
use crate::name::Reference;

/// A bundle of which something has arrived, now or earlier.
#[derive(Debug)]
pub struct ArrivedBundle {
    /// Its identity.
    pub id: Digest,
    /// Its name.
    pub name: String,
    /// Its record, if that has arrived.
    pub record: Option<Bundle>,
    /// How many volumes it has.
    pub volumes: u32,
    /// The numbers of the volumes that can be read now.
    pub available: BTreeSet<u32>,
    /// The members of those.
    pub members: Vec<VolumeMember>,
    /// Parts of blobs that were staged from earlier volumes: digest of the blob, and number of the part.
    pub staged_parts: BTreeSet<(Digest, u32)>,
}

impl ArrivedBundle {
    /// Whether the file at `path` has the hash that the record gives to volume `number`. Blocks: reads all of it.
    pub(in crate::bundle) fn has_recorded_hash(&self, number: u32, path: &Path) -> bool {
        let Some(volume) = self.record.iter().flat_map(|record| &record.volumes).find(|volume| volume.number == number) else {
            return false;
        };
        let mut hasher = sha2::Sha256::new();
        let read = folder::read_found(path).and_then(|mut file| each_chunk(&mut file, volume.size, &mut |bytes| hasher.update(bytes)));
        read.is_ok() && hex::encode(hasher.finalize()) == volume.sha256
    }
}

/// An image that a bundle, layout or archive names.
#[derive(Debug, Clone)]
pub struct NamedImage {
    /// Its entry in the index.
    pub entry: IndexEntry,
    /// Its repository at a target, without prefix.
    pub repository: Repository,
    /// Its tag or digest there.
    pub reference: Reference,
    /// The index of its bundle; none for an image of a layout or archive.
    pub bundle: Option<usize>,
    /// The indexes of other bundles that have the same image.
    pub also_in: Vec<usize>,
    /// The file that names it.
    pub file: String,
    /// Its position among the images of that file, from 1.
    pub line: usize,
    /// A remark on its name.
    pub note: Option<String>,
    /// The platforms of its index that are in the layout or archive, unless all are.
    pub available_platforms: Option<AvailablePlatforms>,
}

impl NamedImage {
    /// The name of its source, else its own name, else its digest.
    pub fn source(&self) -> String {
        self.entry.source.clone().or_else(|| self.entry.name.clone()).unwrap_or_else(|| self.entry.descriptor.digest.to_string())
    }
}

/// Everything that was found.
pub struct GatheredContent {
    /// The content.
    pub source: BundleSource,
    /// The bundles, those that others build on first.
    pub bundles: Vec<ArrivedBundle>,
    /// The images, each name once: of several bundles, from the one that builds on the others or was named last.
    pub images: Vec<NamedImage>,
    /// Volumes that cannot be read, and other problems that do not stop the import.
    pub problems: Vec<Error>,
    /// Remarks, a sentence each.
    pub notes: Vec<String>,
}

/// The remedy for a damaged or lost volume.
pub(in crate::bundle) fn repair_command(name: &str, number: u32) -> String {
    format!("write it again where the bundle was made: larder export --repair {name}{BUNDLE_SUFFIX} --volume {number} --to DIR")
}

/// Whether a tag leads to referrers: `sha256-<hex>` (distribution-spec "Referrers Tag Schema"), or cosign's
/// `sha256-<hex>.sig`. Referrers travel with their subject.
pub(super) fn is_referrer_tag(tag: &str) -> bool {
    let stem = tag.split_once('.').map_or(tag, |(stem, _)| stem);
    stem.split_once('-')
        .is_some_and(|(algorithm, hex)| Digest::parse(&format!("{algorithm}:{hex}")).is_ok_and(|digest| digest.hasher().is_some()))
}
