//! Checks bundles and archives without changing them: hashes every byte of the available volumes, on all cores, then walks
//! the graph of every image. Works with some of the volumes, and without the bundle's record.

mod archive;
mod bundle_files;
mod digest_states;
mod graph;
mod report;
mod volume;

use std::collections::BTreeMap;
use std::path::PathBuf;

use rayon::prelude::*;

use crate::Result;
pub use archive::verify_archives;
pub use bundle_files::contains_bundle;
use bundle_files::{BundleFiles, find_bundles};
use digest_states::DigestStates;
pub use report::{BundleReport, VolumeFinding};
use volume::CheckedVolume;

/// Checks the bundles at `paths`: folders, records, volumes; a report for each bundle. Blocks. `progress` is called from
/// many threads with the number of bytes hashed since its last call.
///
/// # Errors
/// If there is no bundle, or it cannot be read at all. Damage is in the reports.
pub fn verify(paths: &[PathBuf], progress: &(dyn Fn(u64) + Sync)) -> Result<Vec<BundleReport>> {
    find_bundles(paths)?.iter().map(|bundle| verify_bundle(bundle, progress)).collect()
}

fn verify_bundle(bundle: &BundleFiles, progress: &(dyn Fn(u64) + Sync)) -> Result<BundleReport> {
    let mut report = BundleReport {
        name: bundle.name.clone(),
        volumes: bundle.volumes as usize,
        present: bundle.files.len(),
        relied: bundle.relied.len(),
        problems: bundle.problems.clone(),
        ..BundleReport::default()
    };
    let checked: Vec<(u32, CheckedVolume)> = bundle
        .files
        .par_iter()
        .map(|(number, file)| Ok((*number, volume::check(&bundle.planned(file), &file.path, bundle.sha256(*number), progress)?)))
        .collect::<Result<_>>()?;
    let mut checked: BTreeMap<u32, CheckedVolume> = checked.into_iter().collect();
    report.bytes = checked.values().map(|checked| checked.bytes).sum();
    let links = checked.values_mut().flat_map(|checked| std::mem::take(&mut checked.links)).collect();
    let content = DigestStates::new(bundle, &checked, links);
    content.count(&mut report);
    let affected = graph::walk(bundle, &content, &mut report);
    let images = |number: u32| affected.get(&number).cloned().unwrap_or_default();
    for (number, checked) in &checked {
        if let Some(why) = &checked.damage {
            let file = bundle.file_name(*number);
            let remedy = if checked.is_well_formed && content.is_undamaged(*number) {
                "every byte of it is correct, so the bundle's record is wrong: run the export again, it keeps the volumes".to_owned()
            } else {
                format!("to repair it: larder export --repair {}.bundle.json --volume {number} --to DIR", bundle.name)
            };
            let finding = VolumeFinding { number: *number, file, images: images(*number), why: format!("{why} ({remedy})") };
            report.damaged_volumes.push(finding);
        }
    }
    for number in (1..=bundle.volumes).filter(|number| !checked.contains_key(number)) {
        let why = "it is missing".to_owned();
        report.absent_volumes.push(VolumeFinding { number, file: bundle.file_name(number), images: images(number), why });
    }
    Ok(report)
}
