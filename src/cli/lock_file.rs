//! `--lock` and `--frozen`: the lock file of a command.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::exit::UsageError;
use crate::config::TargetConfig;
use crate::content::{Digest, Source};
use crate::list::ParsedList;
use crate::lock::{self, Drift, Lock};
use crate::report::{ImageOutcome, Status};
use crate::sync::{KnownDates, Planned, Upstreams};
use crate::{Error, Kind, Operation, Result, Side};

/// A lock file, as the command found it.
pub(super) struct LockFile {
    path: PathBuf,
    lock: Lock,
}

/// Reads the lock at `path`. Unless it `must_exist`, a missing file is an empty lock.
pub(super) fn open(path: &Path, must_exist: bool) -> Result<LockFile, UsageError> {
    let lock = if must_exist { Lock::need(path) } else { Lock::read(path).map(Option::unwrap_or_default) };
    Ok(LockFile { path: path.to_owned(), lock: lock.map_err(UsageError::usage)? })
}

impl LockFile {
    /// Creation dates of its images, which need not be asked for again.
    pub(super) fn dates(&self) -> KnownDates {
        let dates = self.lock.dates();
        KnownDates::new(move |digest| dates.get(&Digest::parse(digest).ok()?).copied())
    }

    /// Its images by digest, as a list.
    pub(super) fn frozen(&self) -> ParsedList {
        self.lock.frozen(&self.path)
    }

    /// Fails the rows of a frozen run whose digest is not the locked one.
    pub(super) fn check(&self, rows: &mut [ImageOutcome], target: &TargetConfig) {
        for row in rows.iter_mut().filter(|row| matches!(row.status, Status::Copied | Status::Current | Status::Warmed)) {
            let locked = name(row, target).and_then(|name| self.lock.get(&name));
            if let (Some(locked), Some(digest)) = (locked, &row.digest)
                && locked.digest != *digest
            {
                let message = format!("{}: the lock says {}, but {digest} was delivered", self.path.display(), locked.digest);
                let error = Error::new(Side::Target, Operation::CompareWithLock, Kind::Local, message).subject(&row.source);
                *row = row
                    .clone()
                    .failed(error.remedy("the lock was edited, or written by another version of larder: write it again with --lock"));
            }
        }
    }

    /// Updates the file after a run.
    pub(super) async fn update(
        &self,
        rows: &[ImageOutcome],
        source: &Arc<dyn Source>,
        target: &TargetConfig,
        supply: &Upstreams,
    ) -> Result<()> {
        let mut new = lock::update(&self.lock, rows, source, prefix(target)).await?;
        new.date(|digest| supply.created(digest));
        if new == self.lock && self.path.exists() { Ok(()) } else { new.write(&self.path) }
    }

    /// The differences between it and a plan.
    pub(super) fn drift(&self, planned: &[Planned], target: &TargetConfig) -> Vec<Drift> {
        let named = |image: &Planned| name(&image.row, target);
        let known: Vec<(String, &ImageOutcome)> =
            planned.iter().filter(|image| image.row.error.is_none()).filter_map(|image| Some((named(image)?, &image.row))).collect();
        let now: Vec<lock::CurrentDigest<'_>> = known
            .iter()
            .map(|(target, row)| lock::CurrentDigest {
                target,
                source: &row.source,
                upstream: row.source_digest.as_ref(),
                held: row.digest.as_ref(),
            })
            .collect();
        let failed: Vec<String> = planned.iter().filter(|image| image.row.error.is_some()).filter_map(named).collect();
        // Lines whose tags are not chosen yet may mean any tag of their repository.
        let undecided: Vec<String> = planned.iter().filter_map(|image| repository(&image.row, target)).collect();
        let is_undecided = |name: &str| {
            undecided.iter().any(|repository| name.strip_prefix(repository.as_str()).is_some_and(|rest| rest.starts_with([':', '@'])))
        };
        // An image that could not be compared is an error of its own, not drift.
        let compared = |drift: &Drift| !(drift.what == "not listed" && (failed.contains(&drift.target) || is_undecided(&drift.target)));
        lock::drift(&self.lock, &now).into_iter().filter(compared).collect()
    }

    /// Its images by tag, as a list for a plan without lists.
    pub(super) fn listed(&self) -> ParsedList {
        let mut parsed = self.frozen();
        for entry in &mut parsed.entries {
            if let crate::list::ImageSelection::One { tag: Some(_), digest } = &mut entry.selection {
                *digest = None;
            }
        }
        parsed
    }
}

fn prefix(target: &TargetConfig) -> &str {
    match target {
        TargetConfig::Registry { prefix, .. } => prefix,
        TargetConfig::Layout { .. } => "",
    }
}

/// The repository (below the prefix) of a row without a reference: a line whose tags are not chosen yet.
fn repository(row: &ImageOutcome, target: &TargetConfig) -> Option<String> {
    let held = row.held.as_ref().filter(|held| held.reference.is_none())?;
    Some(lock::below(held.repository.as_str(), prefix(target)).to_owned())
}

/// The name of a row's image at the target, below the prefix.
fn name(row: &ImageOutcome, target: &TargetConfig) -> Option<String> {
    let held = row.held.as_ref()?;
    Some(format!("{}{}", lock::below(held.repository.as_str(), prefix(target)), held.reference.as_ref()?.suffix()))
}
