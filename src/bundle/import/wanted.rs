//! An image to be imported: where it goes, and its row.

use std::sync::Arc;

use crate::Result;
use crate::bundle::read::{BundleSource, NamedImage};
use crate::config::TargetConfig;
use crate::content::{
    ABSENT, Descriptor, Digest, IndexMode, PlatformFilter, Policy, Recheck, Referrers, Repository, RequestContext, SPARSE,
};
use crate::copy::{Comparison, CopyImage, CopyOutcome, Engine, NextStep};
use crate::name::{Reference, check_path, check_repository};
use crate::report::{ImageOutcome, Status};
use crate::{Error, Operation};

/// An image to be imported.
pub(super) struct ImportImage {
    pub(super) image: CopyImage,
    pub(super) root: Descriptor,
    pub(super) bundle: Option<usize>,
    /// Other bundles that have the same image.
    pub(super) also: Vec<usize>,
    /// Its name at the target.
    pub(super) title: String,
    pub(super) row: ImageOutcome,
    /// What is delivered instead if the target does not have all of it: what is there, with a note.
    part: Option<(Policy, String)>,
    /// What the target said, unless nothing is to be done.
    pub(super) survey: Option<Comparison>,
}

/// A bundle's repository at the target: below its prefix, and with a host's port as registries can have it.
pub(super) fn place_at(target: &TargetConfig, repository: &str) -> Result<Repository, String> {
    match target {
        TargetConfig::Layout { .. } => {
            check_repository(repository).map_err(|why| format!("`{repository}`: {why}"))?;
            Ok(Repository::new(repository))
        }
        TargetConfig::Registry { prefix, .. } => {
            let path = repository.replace(':', "_");
            let path = if prefix.is_empty() { path } else { format!("{prefix}/{path}") };
            check_path(&path).map_err(|why| format!("`{path}`: {why}"))?;
            Ok(Repository::new(path))
        }
    }
}

/// A name with a digest is a name of that content only.
fn is_of(reference: &Reference, content: &Digest) -> Result<(), String> {
    match reference {
        Reference::Digest(digest) if digest != content => Err(format!("its name says {digest}, and it is {content}")),
        _ => Ok(()),
    }
}

impl ImportImage {
    /// `asked` are the platforms to bring; none: all.
    pub(super) fn new(entry: NamedImage, shelf: &Arc<BundleSource>, target: &TargetConfig, asked: &[PlatformFilter]) -> Self {
        let source = entry.source();
        let repository = place_at(target, entry.repository.as_str());
        let suffix = entry.reference.suffix();
        let to = repository.as_ref().map_or_else(|_| entry.repository.clone(), Clone::clone);
        let title = match target {
            TargetConfig::Registry { host, .. } => format!("{host}/{to}{suffix}"),
            TargetConfig::Layout { .. } => format!("{to}{suffix}"),
        };
        let mut row = ImageOutcome::new(&source, &title, &entry.file, entry.line);
        row.notes.extend(entry.note.clone());
        let named = repository.and_then(|_| is_of(&entry.reference, &entry.entry.descriptor.digest));
        if let Err(why) = named {
            row = row.failed(Error::local(Operation::NameImage, why).subject(&source));
        }
        let mut root = entry.entry.descriptor;
        root.annotations.retain(|key, _| [SPARSE, ABSENT].contains(&key.as_str()));
        root.free_empty_annotations();
        // Of an index that was carried in part, that part is brought.
        // A registry gets an index of what is brought, a layout may leave children out.
        let cut = if target.is_registry() { IndexMode::Rewrite } else { IndexMode::Sparse };
        let (platforms, index) = match asked {
            [] => (PlatformFilter::of_sparse(&root), IndexMode::Sparse),
            asked => (asked.to_vec(), cut),
        };
        // Signatures come after their images; where none has come, nobody is asked about any.
        let referrers = if shelf.has_referrers() { Referrers::All } else { Referrers::No };
        let policy = Policy { platforms, index, referrers, referrers_recheck: Recheck::Always, ..Policy::default() };
        let part = entry.available_platforms.map(|present| {
            let policy = Policy { platforms: present.platforms, index: cut, ..policy.clone() };
            (policy, format!("{}: {}", entry.file, present.note))
        });
        let image = CopyImage {
            name: source.as_str().into(),
            upstream: Arc::clone(shelf) as _,
            from: entry.repository,
            wanted: Reference::Digest(root.digest.clone()),
            to,
            publish: entry.reference,
            context: RequestContext::new(source),
            immutable: false,
            policy: Arc::new(policy),
            resolved: None,
        };
        ImportImage { image, root, bundle: entry.bundle, also: entry.also_in, title, row, part, survey: None }
    }

    /// Asks the target whether it has the image.
    pub(super) async fn survey(&mut self, engine: &Engine) -> Result<()> {
        if self.row.status == Status::Failed {
            return Ok(());
        }
        match engine.next_step(&self.image).await? {
            NextStep::Nothing(delivered) => self.row = delivered_row(&self.row, delivered),
            NextStep::Copy(survey) => match self.part.take() {
                None => self.survey = Some(*survey),
                Some((policy, note)) => {
                    self.image.policy = Arc::new(policy);
                    self.row.notes.push(note);
                    return Box::pin(self.survey(engine)).await;
                }
            },
        }
        Ok(())
    }
}

/// The row of an image that the target has.
pub(super) fn delivered_row(row: &ImageOutcome, delivered: CopyOutcome) -> ImageOutcome {
    ImageOutcome {
        status: delivered.status,
        digest: Some(delivered.digest),
        source_digest: delivered.source_digest,
        platforms: delivered.platforms,
        referrers: delivered.referrers.len() as u64,
        notes: row.notes.iter().cloned().chain(delivered.notes).collect(),
        ..row.clone()
    }
}
