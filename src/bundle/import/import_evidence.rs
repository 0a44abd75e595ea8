//! The evidence of an import.

use std::sync::Arc;

use super::need::NeedsQuery;
use super::wanted::ImportImage;
use super::witness::{Arrival, ArrivalWay, Earlier, RecordingSink};
use crate::bundle::evidence::{Evidence, EvidenceKind, EvidenceRow};
use crate::config::TargetConfig;
use crate::report::{ImageOutcome, Status};

/// What put it there.
const BY: &str = concat!("larder ", env!("CARGO_PKG_VERSION"));

/// A row for each manifest and blob of the images that the target holds now. `recorded` is what was hashed in this import, `earlier` what
/// the journal says of earlier ones.
pub(super) async fn evidence(
    query: &NeedsQuery,
    target: &TargetConfig,
    (wanted, rows): (&[Arc<ImportImage>], &[ImageOutcome]),
    (recorded, earlier): (&RecordingSink, &Earlier),
) -> Evidence {
    let mut told = vec![];
    for (order, wanted) in wanted.iter().enumerate() {
        let there = rows.get(order).is_some_and(|row| matches!(row.status, Status::Copied | Status::Current));
        if !there {
            continue;
        }
        // The image is at the target, but if its manifest cannot be read here, its parts are not known.
        let Ok(need) = query.need(&wanted.image, &wanted.root).await else { continue };
        for (descriptor, is_manifest) in need.all {
            let image = descriptor.digest == wanted.root.digest;
            let repository = &wanted.image.to;
            let put = recorded.arrival(repository, &descriptor.digest);
            let before = earlier.get(&(repository.to_string(), descriptor.digest.clone())).cloned();
            let put = match put {
                Some(put) if put.how == ArrivalWay::Written => Some(put),
                put => before.or(put),
            };
            let put = put.unwrap_or(Arrival {
                digest: descriptor.digest.clone(),
                repository: repository.to_string(),
                how: ArrivalWay::Present,
                hashed: None,
                from: None,
            });
            told.push(EvidenceRow {
                target: target.to_string(),
                repository: below(target, repository.as_str()).to_owned(),
                kind: if image {
                    EvidenceKind::Image
                } else if is_manifest {
                    EvidenceKind::Manifest
                } else {
                    EvidenceKind::Blob
                },
                reference: if image { wanted.image.publish.as_str().to_owned() } else { String::new() },
                digest: descriptor.digest.to_string(),
                size: descriptor.size,
                source: if image { wanted.image.name.to_string() } else { String::new() },
                how: match put.how {
                    ArrivalWay::Written => "written",
                    ArrivalWay::Mounted => "mounted",
                    ArrivalWay::Present => "present",
                }
                .to_owned(),
                hashed: put.hashed.unwrap_or_default(),
                from: put.from.unwrap_or_default(),
                by: BY.to_owned(),
            });
        }
    }
    Evidence::new(told)
}

/// A repository below the target's prefix.
fn below<'p>(target: &TargetConfig, repository: &'p str) -> &'p str {
    match target {
        TargetConfig::Registry { prefix, .. } if !prefix.is_empty() => {
            repository.strip_prefix(prefix.as_str()).and_then(|rest| rest.strip_prefix('/')).unwrap_or(repository)
        }
        _ => repository,
    }
}
