//! What outlives a volume: kept while images wait for the rest, let go when they are complete.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::wanted::Wanted;
use super::worker::Worker;
use crate::bundle::read::{Arrived, Damage, Shelf, Stage, blocking, whole};
use crate::content::Digest;
use crate::report::{Outcome, Status};

/// A part at hand of a blob that is not complete.
pub(super) struct Part<'a> {
    digest: &'a Digest,
    /// Its number, where it begins, the blob's size.
    place: (u32, u64, u64),
    pub(super) piece: &'a crate::bundle::read::Piece,
    bundle: &'a Arrived,
    volume: u32,
}

impl Part<'_> {
    pub(super) fn is_kept(&self, stage: &Stage) -> bool {
        stage.has_part(&self.bundle.id, self.digest, self.place, self.piece.len)
    }
}

/// Parts at hand, in volumes or kept, of blobs that are not complete.
pub(super) fn parts<'a>(shelf: &'a Shelf, bundles: &'a [Arrived]) -> impl Iterator<Item = Part<'a>> {
    shelf.incomplete().flat_map(move |(digest, parts)| {
        parts.parts.iter().filter_map(move |(number, (offset, piece))| {
            let (bundle, volume) = shelf.origin_of(piece.origin)?.volume?;
            Some(Part { digest, place: (*number, *offset, parts.whole), piece, bundle: bundles.get(bundle)?, volume })
        })
    })
}

impl Worker {
    /// Keeps the parts at hand of blobs that images lack, and the records of bundles that images wait in. Parts have no hash of their own: a volume
    /// that is not what its bundle's record says is found out here.
    pub(super) async fn keep_parts(&self, lacking: &BTreeSet<Digest>) -> Vec<Damage> {
        let Some(stage) = self.stage.clone() else { return vec![] };
        let (shelf, bundles, lacking) = (Arc::clone(&self.shelf), Arc::clone(&self.bundles), lacking.clone());
        let kept = blocking("keep parts", move || {
            let (mut damage, mut sound) = (vec![], BTreeMap::new());
            for part in parts(&shelf, &bundles).filter(|part| lacking.contains(part.digest) && !part.is_kept(&stage)) {
                let Some(origin) = shelf.origin_of(part.piece.origin) else { continue };
                let sound = *sound
                    .entry(part.piece.origin)
                    .or_insert_with(|| part.bundle.record.is_none() || whole(part.bundle, part.volume, &origin.path));
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

    /// Keeps the records of bundles whose images are not all there, and lets go of everything of those that are done.
    pub(super) async fn let_go(&self, wanted: &[Arc<Wanted>], rows: &BTreeMap<usize, Outcome>) {
        let Some(stage) = self.stage.clone() else { return };
        let is_open = |(order, wanted): (usize, &Arc<Wanted>)| {
            let settled = rows.get(&order).is_some_and(|row| matches!(row.status, Status::Copied | Status::Current));
            wanted.bundle.filter(|_| !settled)
        };
        let open: BTreeSet<usize> = wanted.iter().enumerate().filter_map(is_open).collect();
        let (bundles, engine, shelf) = (Arc::clone(&self.bundles), Arc::clone(&self.engine), Arc::clone(&self.shelf));
        let done = blocking("let go of volumes", move || {
            for (number, bundle) in bundles.iter().enumerate() {
                if !open.contains(&number) {
                    stage.drop_bundle(&bundle.id);
                    continue;
                }
                if let Some(record) = &bundle.record {
                    stage.keep_record(record)?;
                }
                // Joined, and at the target by now.
                shelf.in_parts().filter(|digest| engine.knows(digest)).for_each(|digest| stage.drop_parts(&bundle.id, digest));
            }
            Ok(())
        });
        if let Err(error) = done.await {
            tracing::warn!(%error, "the bundle's record could not be kept: what parked images wait for may not be known the next time");
        }
    }
}
