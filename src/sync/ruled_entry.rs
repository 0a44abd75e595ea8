//! A list line with the rule that covers it, and the images it asks for. Pure.

use std::sync::Arc;

use super::SyncOptions;
use crate::Error;
use crate::config::TargetConfig;
use crate::content::{Descriptor, Digest, Policy, Repository, TransferStats};
use crate::list::{ImageSelection, ListEntry};
use crate::name::Reference;
use crate::report::{ImageOutcome, RepeatEntry, TargetContent};
use crate::rules::{CacheRule, RuleSet, Unresolved};
use crate::select::Selector;

/// One source repository and selection, one target repository, one rule.
#[derive(Debug)]
pub struct RuledEntry {
    /// The line it came from.
    pub entry: ListEntry,
    /// Its place among all lines, for reports in list order.
    pub order: usize,
    /// The rule that covers it, unless the line names its target or it is mirrored.
    pub rule: Option<Arc<CacheRule>>,
    /// The repository at the target, prefix included.
    pub to: Repository,
    /// Which parts of its images are delivered.
    pub policy: Arc<Policy>,
}

/// One image that is wanted: what selection ends with.
#[derive(Debug, Clone)]
pub struct ImageRequest {
    /// The line that asks for it.
    pub line: Arc<RuledEntry>,
    /// What the upstream is asked for.
    pub wanted: Reference,
    /// The name it gets at the target.
    pub publish: Reference,
    /// Higher ones go first.
    pub priority: i64,
    /// What is known from choosing it.
    pub resolved: Option<Box<Resolved>>,
    /// A remark on how it was chosen.
    pub note: Option<String>,
}

/// What is known of a tag from choosing it, so that its image need not ask again.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The manifest that the tag names at the upstream, if it was asked.
    pub descriptor: Option<Descriptor>,
    /// What choosing has cost, to be shown in this image's row.
    pub tally: Arc<TransferStats>,
}

impl RuledEntry {
    /// Resolves `entry` through the rules.
    ///
    /// # Errors
    /// The failed row for the report: no rule covers the line, or another rule owns its target.
    pub fn resolve(
        entry: ListEntry,
        order: usize,
        rules: &RuleSet,
        options: &SyncOptions,
        target: &TargetConfig,
    ) -> Result<Self, Box<ImageOutcome>> {
        let resolved = match &entry.target {
            Some(named) => rules.with_target(&entry.source, &named.repository),
            None => rules.resolve(&entry.source, options.unmatched, matches!(target, TargetConfig::Registry { .. })),
        };
        let resolution = resolved.map_err(|unresolved| Box::new(failed_row(&entry, unresolved)))?;
        let path = resolution.target.as_str();
        let to = Repository::new(match target {
            TargetConfig::Registry { prefix, .. } if !prefix.is_empty() => format!("{prefix}/{path}"),
            _ => path.to_owned(),
        });
        let mut policy = resolution.rule.as_ref().map(|rule| rule.policy.clone()).unwrap_or_default();
        // The line comes first, then the command line, then the rule.
        if let Some(platforms) = [&entry.platforms, &options.platforms].into_iter().find(|platforms| !platforms.is_empty()) {
            policy.platforms = platforms.clone();
        }
        if let Some(decided) = &entry.decided {
            policy.platforms.clone_from(&decided.platforms);
            policy.index = decided.index;
            policy.referrers.clone_from(&decided.referrers);
        }
        Ok(RuledEntry { entry, order, rule: resolution.rule, to, policy: Arc::new(policy) })
    }

    /// The images that are known without listing tags.
    pub fn requests(self: &Arc<Self>) -> Vec<ImageRequest> {
        match &self.entry.selection {
            ImageSelection::One { tag, digest } => {
                let wanted = match (digest, tag) {
                    (Some(digest), _) => Reference::Digest(digest.clone()),
                    (None, tag) => Reference::Tag(tag.clone().unwrap_or_else(|| "latest".to_owned())),
                };
                let renamed = self.entry.target.as_ref().and_then(|target| target.tag.clone());
                let publish = renamed.or_else(|| tag.clone()).map_or_else(|| wanted.clone(), Reference::Tag);
                vec![self.request(wanted, publish)]
            }
            ImageSelection::Terms(selector) if selector.needs_listing() => vec![],
            ImageSelection::Terms(selector) => self.requests_for(selector.exact_tags()),
        }
    }

    /// The selector, if tags must be listed before it is known what is wanted.
    pub fn selector(&self) -> Option<&Selector> {
        match &self.entry.selection {
            ImageSelection::Terms(selector) if selector.needs_listing() => Some(selector),
            _ => None,
        }
    }

    /// Whether its terms could choose an image that gets this name at the target.
    pub(super) fn may_publish(&self, name: &Reference) -> bool {
        let (Some(selector), Reference::Tag(tag)) = (self.selector(), name) else { return false };
        match self.entry.target.as_ref().and_then(|target| target.tag.as_ref()) {
            Some(renamed) => renamed == tag,
            None => selector.may_select(tag),
        }
    }

    /// A reference to ask the upstream about without listing tags.
    pub fn probe(&self) -> Option<Reference> {
        match &self.entry.selection {
            ImageSelection::One { tag, digest } => match (tag, digest) {
                (Some(tag), _) => Some(Reference::Tag(tag.clone())),
                (None, digest) => digest.clone().map(Reference::Digest),
            },
            ImageSelection::Terms(selector) => selector.exact_tags().first().cloned().map(Reference::Tag),
        }
    }

    /// One request for each of `tags`.
    pub fn requests_for(self: &Arc<Self>, tags: &[String]) -> Vec<ImageRequest> {
        let renamed = self.entry.target.as_ref().and_then(|target| target.tag.clone());
        let publish = |tag: &String| Reference::Tag(renamed.clone().unwrap_or_else(|| tag.clone()));
        tags.iter().map(|tag| self.request(Reference::Tag(tag.clone()), publish(tag))).collect()
    }

    fn request(self: &Arc<Self>, wanted: Reference, publish: Reference) -> ImageRequest {
        ImageRequest { line: Arc::clone(self), wanted, publish, priority: self.entry.priority, resolved: None, note: None }
    }

    /// A row for the line as a whole, while it is not known which images it asks for.
    pub fn row(&self, target: &TargetConfig) -> ImageOutcome {
        let selector = self.selector().map(|selector| format!(":{}", selector.tags_column())).unwrap_or_default();
        let mut row = ImageOutcome::new(
            format!("{}{selector}", self.entry.source),
            title(target, &self.to, None),
            self.entry.origin.file.to_string(),
            self.entry.origin.line,
        );
        row.rule = self.rule.as_ref().map(|rule| rule.name.clone());
        row.again = again(&self.entry);
        row.held = Some(TargetContent { repository: self.to.clone(), reference: None, referrers: vec![] });
        row
    }
}

impl ImageRequest {
    /// The normalised name of what is wanted (`docker.io/library/alpine:3.20@sha256:…`).
    pub fn source(&self) -> String {
        let entry = &self.line.entry;
        match (&entry.selection, &self.wanted) {
            (ImageSelection::One { tag: Some(tag), .. }, Reference::Digest(digest)) => format!("{}:{tag}@{digest}", entry.source),
            (_, wanted) => format!("{}{}", entry.source, wanted.suffix()),
        }
    }

    /// The name it has at the upstream for container runtimes: with its tag if it has one, else with its digest.
    pub fn canonical(&self) -> String {
        let entry = &self.line.entry;
        match (&entry.selection, &self.wanted) {
            (ImageSelection::One { tag: Some(tag), .. }, _) => format!("{}:{tag}", entry.source),
            (_, wanted) => format!("{}{}", entry.source, wanted.suffix()),
        }
    }

    /// Whether the rule says that its tag never moves.
    pub(super) fn is_immutable(&self) -> bool {
        let rule = self.line.rule.as_ref();
        matches!(&self.publish, Reference::Tag(tag) if rule.is_some_and(|rule| rule.immutable_tags.matches(tag)))
    }

    /// An unfinished row for the report.
    pub fn row(&self, target: &TargetConfig) -> ImageOutcome {
        let origin = &self.line.entry.origin;
        let mut row =
            ImageOutcome::new(self.source(), title(target, &self.line.to, Some(&self.publish)), origin.file.to_string(), origin.line);
        row.rule = self.line.rule.as_ref().map(|rule| rule.name.clone());
        row.held = Some(TargetContent { repository: self.line.to.clone(), reference: Some(self.publish.clone()), referrers: vec![] });
        row.again = RepeatEntry { image: self.source(), tags: String::new(), exclude: String::new(), ..again(&self.line.entry) };
        row
    }
}

/// The list line that asks for `entry` again.
fn again(entry: &ListEntry) -> RepeatEntry {
    let (reference, tags, exclude) = match &entry.selection {
        ImageSelection::One { tag, digest } => (one(tag.as_deref(), digest.as_ref()), String::new(), String::new()),
        ImageSelection::Terms(selector) => (String::new(), selector.tags_column().to_owned(), selector.exclude_column().to_owned()),
    };
    let target = entry.target.as_ref().map(|target| match &target.tag {
        Some(tag) => format!("{}:{tag}", target.repository),
        None => target.repository.clone(),
    });
    let platforms = entry.platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(";");
    let image = format!("{}{reference}", entry.source);
    RepeatEntry { image, tags, exclude, platforms, target: target.unwrap_or_default(), priority: entry.priority }
}

/// `:tag@digest`, as far as they are given.
fn one(tag: Option<&str>, digest: Option<&Digest>) -> String {
    let tag = tag.map(|tag| format!(":{tag}")).unwrap_or_default();
    format!("{tag}{}", digest.map(|digest| format!("@{digest}")).unwrap_or_default())
}

/// A name at the target, as its users write it.
fn title(target: &TargetConfig, repository: &Repository, reference: Option<&Reference>) -> String {
    let suffix = reference.map(Reference::suffix).unwrap_or_default();
    match target {
        TargetConfig::Registry { host, .. } => format!("{host}/{repository}{suffix}"),
        TargetConfig::Layout { .. } => format!("{repository}{suffix}"),
    }
}

fn failed_row(entry: &ListEntry, unresolved: Unresolved) -> ImageOutcome {
    let again = again(entry);
    let tags = if again.tags.is_empty() { String::new() } else { format!(":{}", again.tags) };
    let source = format!("{}{tags}", again.image);
    let error = Error::from(unresolved).subject(&source);
    let mut row = ImageOutcome::new(source, "", entry.origin.file.to_string(), entry.origin.line).failed(error);
    row.again = again;
    row
}
