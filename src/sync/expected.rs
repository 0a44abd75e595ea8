//! What a target should hold, from lists and rules or from a lock, without asking an upstream.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::{StreamExt, stream};

use super::name_claims::NameClaims;
use super::{ImageRequest, RuledEntry, SyncOptions, TargetStore};
use crate::config::TargetConfig;
use crate::content::{ChildChoice, Descriptor, Digest, ForeignLayers, IndexMode, PlatformFilter, Policy, Repository, RequestContext};
use crate::list::{ImageSelection, ListEntry, ParsedList, TargetName};
use crate::lock::{IndexCut, Lock, LockRecord};
use crate::name::Reference;
use crate::report::ImageOutcome;
use crate::rules::RuleSet;
use crate::select::Dates;
use crate::{Error, Kind, Operation, Result, Side};

/// Repositories whose tags are listed at once; requests are limited by the registry's own concurrency.
const LISTINGS: usize = 16;

/// An image that a target should hold.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Its name at the target, for people.
    pub name: String,
    /// The repository at the target.
    pub repository: Repository,
    /// The name there.
    pub reference: Reference,
    /// What that name must mean, and who says so.
    pub digest: Option<(Digest, &'static str)>,
    /// Which of an index's children must be there.
    pub children: Children,
    /// Whether layers that their vendor alone may distribute must be there.
    pub foreign: bool,
}

/// Which of an index's children must be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Children {
    /// All.
    All,
    /// Those for these platforms: an index that was delivered unchanged, with some children left out.
    Platforms(Vec<PlatformFilter>),
    /// These.
    These(BTreeSet<Digest>),
}

impl Children {
    /// Those of an image's top index that must be there. What they refer to must be there whole.
    pub(super) fn among(&self, children: &[Descriptor]) -> Vec<Descriptor> {
        match self {
            Children::All => children.to_vec(),
            Children::Platforms(filters) => ChildChoice::of(children, filters).kept,
            Children::These(digests) => children.iter().filter(|child| digests.contains(&child.digest)).cloned().collect(),
        }
    }
}

impl Expected {
    fn of(request: &ImageRequest, target: &TargetConfig) -> Self {
        let policy: &Policy = &request.line.policy;
        let cut = !policy.platforms.is_empty();
        // A cut index has another digest than the one the list asks for.
        let digest = match (&request.line.entry.selection, &request.wanted) {
            (ImageSelection::One { digest: Some(digest), .. }, _) if !cut || policy.index == IndexMode::Sparse => {
                Some((digest.clone(), "the list"))
            }
            _ => None,
        };
        Expected {
            name: request.row(target).target,
            repository: request.line.to.clone(),
            reference: request.publish.clone(),
            digest,
            children: match policy.index {
                IndexMode::Sparse if cut => Children::Platforms(policy.platforms.clone()),
                IndexMode::Sparse | IndexMode::Rewrite => Children::All,
            },
            foreign: policy.foreign_layers == ForeignLayers::Fetch,
        }
    }
}

/// What `lists` say that `target` should hold: selections are made among the tags that it has. Beside it, the rows of what cannot be
/// said, as a report has them.
pub async fn listed(
    lists: Vec<ParsedList>,
    rules: &RuleSet,
    options: &SyncOptions,
    target: &TargetStore,
) -> (Vec<Expected>, Vec<ImageOutcome>) {
    let (mut lines, mut failed) = (vec![], vec![]);
    for list in lists {
        failed.extend(list.errors.iter().map(|error| {
            let row = ImageOutcome::new(error.text.clone(), "", error.origin.file.to_string(), error.origin.line);
            row.failed(error.to_error())
        }));
        for entry in list.entries {
            match RuledEntry::resolve(from_target(entry, rules, &target.target), 0, rules, options, &target.target) {
                Ok(line) => lines.push(Arc::new(line)),
                Err(row) => failed.push(*row),
            }
        }
    }
    let found = stream::iter(&lines).map(async |line| (line, requests(line, target).await)).buffered(LISTINGS).collect::<Vec<_>>().await;
    let mut all = vec![];
    for (line, found) in found {
        match found {
            Ok(requests) => all.extend(requests),
            Err(error) => failed.push(line.row(&target.target).failed(error)),
        }
    }
    let merged = NameClaims::default().merge(all);
    failed.extend(merged.refused.into_iter().map(|(request, error)| request.row(&target.target).failed(error)));
    (merged.kept.iter().map(|request| Expected::of(request, &target.target)).collect(), failed)
}

/// A line may name an image as the target knows it: that means the one which the rules put there.
fn from_target(mut entry: ListEntry, rules: &RuleSet, target: &TargetConfig) -> ListEntry {
    let Some(repository) = target.place_of(&entry.source).map(str::to_owned) else { return entry };
    // A rule that reads from the target's own registry is the more particular statement.
    if entry.target.is_none() && rules.matching(&entry.source).is_empty() {
        match rules.by_target(&repository) {
            Ok(resolution) => entry.source = resolution.source,
            Err(_) => entry.target = Some(TargetName { repository, tag: None }),
        }
    }
    entry
}

/// The images of one line.
async fn requests(line: &Arc<RuledEntry>, target: &TargetStore) -> Result<Vec<ImageRequest>> {
    let Some(selector) = line.selector() else { return Ok(line.requests()) };
    let context = RequestContext::new(target.target.name_of(&line.to));
    let listed = match target.ends.source.tags(&line.to, &context).await {
        Err(error) if error.kind() == Kind::NotFound => vec![],
        listed => listed?,
    };
    let matched = selector.matched(&listed);
    // What is older than it may be, or not among the newest, is at the target from nights before: all that the target has of the names
    // is looked at, rather than reading every image's date.
    let tags = match selector.needs_dates(&matched) {
        true => matched.tags.into_iter().chain(selector.exact_tags().iter().cloned()).collect::<BTreeSet<String>>().into_iter().collect(),
        false => selector.cut(matched, &Dates::default(), jiff::Timestamp::now()).tags,
    };
    if tags.is_empty() {
        let message = format!("of the {} tags that {} has, none is selected by `{}`", listed.len(), context.image, selector.tags_column());
        return Err(Error::new(Side::Target, Operation::SelectTags, Kind::NotFound, message).subject(line.entry.source.to_string()));
    }
    Ok(line.requests_for(&tags))
}

/// What `lock` says that `target` should hold: each image with the children and referrers that were delivered.
pub fn locked(lock: &Lock, target: &TargetConfig) -> Vec<Expected> {
    lock.records().flat_map(|record| of_record(record, target)).collect()
}

fn of_record(record: &LockRecord, target: &TargetConfig) -> Vec<Expected> {
    let (repository, reference) = match record.target.split_once('@') {
        Some((repository, _)) => (repository, Reference::Digest(record.digest.clone())),
        None => match record.target.rsplit_once(':') {
            Some((repository, tag)) => (repository, Reference::Tag(tag.to_owned())),
            None => (record.target.as_str(), Reference::Digest(record.digest.clone())),
        },
    };
    let repository = Repository::new(match target {
        TargetConfig::Registry { prefix, .. } if !prefix.is_empty() => format!("{prefix}/{repository}"),
        _ => repository.to_owned(),
    });
    let name = format!("{}{}", target.name_of(&repository), reference.suffix());
    let image = Expected {
        name: name.clone(),
        repository: repository.clone(),
        reference,
        digest: Some((record.digest.clone(), "the lock")),
        children: match record.index {
            IndexCut::Sparse => Children::These(record.children.iter().map(|child| child.digest.clone()).collect()),
            IndexCut::Whole | IndexCut::Rewrite => Children::All,
        },
        foreign: false,
    };
    let referrers = record.referrers.iter().map(|referrer| Expected {
        name: format!("{name} (referrer)"),
        reference: Reference::Digest(referrer.digest.clone()),
        digest: None,
        children: Children::All,
        ..image.clone()
    });
    let referrers: Vec<Expected> = referrers.collect();
    std::iter::once(image).chain(referrers).collect()
}
