//! What is kept of a volume while images wait for other volumes, and removed once they are complete.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};

use super::wanted::{ImportImage, place_at};
use crate::bundle::format::{MemberKind, VolumeMember};
use crate::bundle::read::{ArrivedBundle, Availability, BundleSource, Damage, StagingArea};
use crate::config::TargetConfig;
use crate::content::{Descriptor, Digest, Presence, Repository, RequestContext, Sink, TransferStats};
use crate::copy::{CopyImage, Engine};
use crate::internal::blocking;
use crate::name::Reference;
use crate::report::{ImageOutcome, Status};
use crate::{Error, Kind, Operation};

/// Blobs that are copied at once ahead of their manifests. Requests are limited by the target's own concurrency.
const LOOSE_AT_ONCE: usize = 16;

/// A part that is available of a blob that is not complete.
pub(super) struct StagedPart<'a> {
    digest: &'a Digest,
    /// Its number, where it begins, the blob's size.
    place: (u32, u64, u64),
    pub(super) piece: &'a crate::bundle::read::Piece,
    bundle: &'a ArrivedBundle,
    volume: u32,
}

impl StagedPart<'_> {
    pub(super) fn is_kept(&self, stage: &StagingArea) -> bool {
        stage.has_part(&self.bundle.id, self.digest, self.place, self.piece.len)
    }
}

/// The parts that are available, in volumes or kept, of blobs that are not complete.
pub(super) fn parts<'a>(shelf: &'a BundleSource, bundles: &'a [ArrivedBundle]) -> impl Iterator<Item = StagedPart<'a>> {
    shelf.incomplete().flat_map(move |(digest, parts)| {
        parts.parts.iter().filter_map(move |(number, (offset, piece))| {
            let (bundle, volume) = shelf.file(piece.origin)?.volume?;
            Some(StagedPart { digest, place: (*number, *offset, parts.whole), piece, bundle: bundles.get(bundle)?, volume })
        })
    })
}

/// Keeps what later volumes will need, and removes what none will.
pub(super) struct VolumeKeeper {
    pub(super) engine: Arc<Engine>,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) shelf: Arc<BundleSource>,
    pub(super) bundles: Arc<Vec<ArrivedBundle>>,
    pub(super) target: TargetConfig,
    /// Where it is kept; `None`: nothing is kept.
    pub(super) stage: Option<StagingArea>,
}

impl VolumeKeeper {
    /// Copies the blobs of `blind` bundles, whose manifests have not arrived, into the repositories that their volumes name: the volumes
    /// may be gone when the manifests arrive. Returns what was read and written.
    pub(super) async fn copy_loose(&self, blind: &BTreeSet<usize>) -> Arc<TransferStats> {
        let context = RequestContext::new("blobs whose manifests have not arrived");
        let bundles = blind.iter().filter_map(|bundle| self.bundles.get(*bundle));
        let members = bundles.flat_map(|bundle| &bundle.members).filter(|member| member.kind == MemberKind::Blob);
        let wanted: BTreeMap<&Digest, &VolumeMember> = members.map(|member| (&member.digest, member)).collect();
        let blobs: Vec<(Descriptor, Vec<Repository>)> =
            wanted.into_values().map(|member| (whole_of(member), self.places(member))).collect();
        let available = blobs.into_iter().filter(|(blob, _)| self.shelf.availability(blob) == Availability::Here);
        let carried = stream::iter(available).map(async |(blob, places)| {
            for place in places {
                self.engine.copy_blob(&self.loose(&place, &context), &blob).await?;
            }
            Ok::<(), Error>(())
        });
        let failed = carried.buffer_unordered(LOOSE_AT_ONCE).filter_map(async |carried| carried.err()).collect::<Vec<_>>().await;
        if let Some(error) = failed.iter().find(|error| !matches!(error.kind(), Kind::Damaged | Kind::Cancelled)) {
            tracing::warn!(%error, "{} blobs could not be copied ahead of their manifests: their volumes are needed again", failed.len());
        }
        context.tally
    }

    /// An image without a name, which stands for blobs whose manifests are not known, in `place`.
    fn loose(&self, place: &Repository, context: &RequestContext) -> CopyImage {
        CopyImage {
            name: Arc::clone(&context.image),
            upstream: Arc::clone(&self.shelf) as _,
            from: place.clone(),
            wanted: Reference::Tag(String::new()),
            to: place.clone(),
            publish: Reference::Tag(String::new()),
            context: context.clone(),
            immutable: false,
            policy: Arc::default(),
            resolved: None,
        }
    }

    /// Where a member belongs, as the target knows its repositories.
    fn places(&self, member: &VolumeMember) -> Vec<Repository> {
        member.repositories.iter().filter_map(|repository| place_at(&self.target, repository).ok()).collect()
    }

    /// Whether the target has the blob that `member` is a part of.
    async fn has(&self, member: &VolumeMember) -> bool {
        let (blob, context) = (whole_of(member), RequestContext::new("parts of blobs"));
        for place in self.places(member) {
            if matches!(self.sink.holds_blob(&place, &blob, &context).await, Ok(Presence::Here | Presence::At(_))) {
                return true;
            }
        }
        false
    }

    /// Blobs in parts that images may need.
    async fn needed(&self, missing: &BTreeSet<Digest>, blind: &BTreeSet<usize>) -> BTreeSet<Digest> {
        let mut needed = missing.clone();
        let bundles = blind.iter().filter_map(|bundle| self.bundles.get(*bundle));
        for member in bundles.flat_map(|bundle| &bundle.members).filter(|member| member.part.is_some()) {
            if !needed.contains(&member.digest) && !self.has(member).await {
                needed.insert(member.digest.clone());
            }
        }
        needed
    }

    /// Keeps the available parts of blobs that images lack. Parts have no hash of their own, so the volume is compared with its bundle's record.
    pub(super) async fn keep_parts(&self, missing: &BTreeSet<Digest>, blind: &BTreeSet<usize>) -> Vec<Damage> {
        let Some(stage) = self.stage.clone() else { return vec![] };
        let needed = self.needed(missing, blind).await;
        let (shelf, bundles) = (Arc::clone(&self.shelf), Arc::clone(&self.bundles));
        let kept = blocking(Operation::KeepParts, move || {
            let (mut damage, mut sound) = (vec![], BTreeMap::new());
            for part in parts(&shelf, &bundles).filter(|part| needed.contains(part.digest) && !part.is_kept(&stage)) {
                let Some(origin) = shelf.file(part.piece.origin) else { continue };
                let sound = *sound
                    .entry(part.piece.origin)
                    .or_insert_with(|| part.bundle.record.is_none() || part.bundle.has_recorded_hash(part.volume, &origin.path));
                if sound {
                    stage.keep_part(&part.bundle.id, part.digest, part.place, part.piece)?;
                } else {
                    let why = "the volume's sha256 is not the one that the bundle's record says".to_owned();
                    damage.push(Damage { digest: part.digest.clone(), origins: vec![part.piece.origin], why });
                }
            }
            Ok(damage)
        });
        kept.await.unwrap_or_else(|error| {
            tracing::warn!(%error, "parts could not be kept: their volumes are needed again");
            vec![]
        })
    }

    /// Bundles with images that are not delivered, and the bundles that these are based on.
    fn open(&self, wanted: &[Arc<ImportImage>], rows: &[ImageOutcome]) -> BTreeSet<usize> {
        let is_open = |order: usize| !rows.get(order).is_some_and(|row| matches!(row.status, Status::Copied | Status::Current));
        let waiting = wanted.iter().enumerate().filter(|(order, _)| is_open(*order));
        let mut open: BTreeSet<usize> = waiting.flat_map(|(_, wanted)| wanted.bundle.iter().chain(&wanted.also)).copied().collect();
        let mut newly: Vec<usize> = open.iter().copied().collect();
        while let Some(bundle) = newly.pop() {
            let record = self.bundles.get(bundle).and_then(|bundle| bundle.record.as_ref());
            for base in record.iter().flat_map(|record| &record.base.bundles) {
                let before = self.bundles.iter().position(|other| other.id == base.id);
                newly.extend(before.filter(|before| open.insert(*before)));
            }
        }
        open
    }

    /// Keeps manifests and records of bundles whose images are not all delivered, and removes everything of the others.
    pub(super) async fn drop_finished(&self, wanted: &[Arc<ImportImage>], rows: &[ImageOutcome]) {
        let Some(stage) = self.stage.clone() else { return };
        let open = self.open(wanted, rows);
        let (bundles, engine, shelf) = (Arc::clone(&self.bundles), Arc::clone(&self.engine), Arc::clone(&self.shelf));
        let done = blocking(Operation::RemoveStagedContent, move || {
            for (number, bundle) in bundles.iter().enumerate() {
                if !open.contains(&number) {
                    stage.drop_bundle(&bundle.id);
                    continue;
                }
                if let Some(record) = &bundle.record {
                    stage.keep_record(record)?;
                }
                for member in bundle.members.iter().filter(|member| member.kind == MemberKind::Manifest) {
                    stage.keep_manifest(&bundle.id, &member.digest, || shelf.verified_bytes(&member.digest))?;
                }
                // Joined, and at the target by now.
                shelf.joined().filter(|digest| engine.knows_blob(digest)).for_each(|digest| stage.drop_parts(&bundle.id, digest));
            }
            Ok(())
        });
        if let Err(error) = done.await {
            tracing::warn!(%error, "manifests could not be kept: their volume is needed again");
        }
    }
}

/// The blob that `member` is, or is a part of.
fn whole_of(member: &VolumeMember) -> Descriptor {
    Descriptor::new("", member.digest.clone(), member.whole_size())
}
