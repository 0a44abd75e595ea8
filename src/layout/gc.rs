//! Removing what no name reaches.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::files::{Files, found, list};
use super::graph::{self, Read, Role};
use super::index::{Index, IndexFile};
use super::{damaged, lock};
use crate::content::{Digest, Links};
use crate::{Error, Result};

const OP: &str = "clean layout";

/// Partial files older than this are removed. A run that was interrupted is gone on with the next night, or the next
/// week where runs are weekly; what is older has been given up.
const PARTIAL_KEPT: Duration = Duration::from_secs(8 * 24 * 60 * 60);

/// What a [`gc`] removed, or would remove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Manifests and blobs, in the order of their digests.
    pub removed: Vec<Digest>,
    /// Bytes freed, partial files included.
    pub bytes: u64,
    /// Partial files that nobody went on with for eight days.
    pub partials: usize,
}

/// Removes the blobs of the layout at `path` that no entry of `index.json` reaches, and partial files that were given
/// up. With `dry_run` it only says which. Blocks. Blobs that only a missing manifest led to are reached by no name.
///
/// # Errors
/// If anyone (this process included) has the layout open for writing: then blobs may be there whose name is still to
/// come. `Kind::Damaged`, with nothing removed, if `index.json` or a manifest in it cannot be read, because what it
/// refers to is then unknown.
pub fn gc(path: &Path, dry_run: bool) -> Result<GcReport> {
    let files = Files::new(path);
    files.check()?;
    let _alone = lock::alone(&files)?;
    not_shared(&files)?;
    let index = IndexFile::new(files.clone()).read()?;
    let reached = reach(&files, &index)?;
    let mut report = GcReport::default();
    for stored in files.stored()?.0 {
        if reached.contains(&stored.digest) {
            continue;
        }
        if !dry_run {
            remove(&files.blob(&stored.digest))?;
        }
        report.bytes += stored.len;
        report.removed.push(stored.digest);
    }
    partials(&files, dry_run, &mut report)?;
    Ok(report)
}

/// Everything that an entry leads to.
fn reach(files: &Files, index: &Index) -> Result<HashSet<Digest>> {
    if let Some(why) = index.malformed().next() {
        return Err(damaged(OP, format!("{why}, so what it needs is unknown")));
    }
    let mut reached = HashSet::new();
    for entry in index.entries() {
        graph::walk(&entry.descriptor, |node, role| {
            let fresh = reached.insert((node.digest.clone(), role));
            if role == Role::Blob || !fresh {
                return Ok(Some(Links::default()));
            }
            match graph::read(files, node)? {
                Read::Found(links) => Ok(Some(links)),
                Read::Missing => Ok(Some(Links::default())),
                Read::Damaged(why) => Err(damaged(
                    OP,
                    format!("manifest {} of {} is damaged, so what it needs is unknown: {why}", node.digest, entry.display_name()),
                )
                .remedy("sync the image again; see `larder verify`")),
            }
        })?;
    }
    Ok(reached.into_iter().map(|(digest, _)| digest).collect())
}

/// `blobs/` may be a link to a store that several layouts share (containers/image's shared blob directory): whose names
/// reach what is in there cannot be seen from here.
fn not_shared(files: &Files) -> Result<()> {
    let blobs = files.blobs();
    for folder in list(&blobs)?.into_iter().chain([blobs]) {
        let meta = found(fs::symlink_metadata(&folder)).map_err(|error| Error::io(OP, &folder, &error))?;
        if meta.is_some_and(|meta| meta.is_symlink()) {
            return Err(Error::local(OP, format!("{} is a link: other layouts may need what is in it", folder.display())));
        }
    }
    Ok(())
}

fn partials(files: &Files, dry_run: bool, report: &mut GcReport) -> Result<()> {
    let now = SystemTime::now();
    for path in list(&files.partials())? {
        let io = |error| Error::io(OP, &path, &error);
        let Some(meta) = found(fs::symlink_metadata(&path)).map_err(io)? else { continue };
        // A time in the future is no age.
        let age = meta.modified().ok().and_then(|changed| now.duration_since(changed).ok()).unwrap_or_default();
        if !meta.is_file() || age < PARTIAL_KEPT {
            continue;
        }
        if !dry_run {
            remove(&path)?;
        }
        report.bytes += meta.len();
        report.partials += 1;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    found(fs::remove_file(path)).map(|_| ()).map_err(|error| Error::io(OP, path, &error))
}
