//! Cache rules map the name of an image upstream to a name at the target, and back.
//!
//! The semantics are those of Azure Container Registry's artifact cache (docs/registries.md, "Azure's artifact cache"),
//! made exact. Everything here is pure: HTTP, files and configuration syntax do not belong here.

mod acr;
mod check;
mod explain;
pub mod export;
pub mod import;
mod pattern;
mod set;
#[cfg(test)]
mod tests;
mod upstreams;

use crate::Operation;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use check::{MAX_RULES, check_name};
pub use explain::{ExplainContext, Explanation};
pub use pattern::{Pattern, SourcePattern};
pub use set::RuleSet;
pub use upstreams::{Authentication, authentication};

use crate::content::{Policy, Repository};
use crate::name::RegistryRepository;
use crate::select::TagPatterns;

/// One cache rule: images whose name matches `source` go to `target`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheRule {
    /// 1 to 50 of `[a-zA-Z0-9-]`, unique in a set.
    pub name: String,
    /// The repositories upstream: `docker.io/library/*`.
    pub source: SourcePattern,
    /// The repositories below the target's prefix: `library/*`.
    pub target: Pattern,
    /// The credential set for the source; `None`: by the lookup order.
    pub credentials: Option<String>,
    /// How the target is filled.
    pub delivery: Delivery,
    /// Which content of its images is delivered.
    pub policy: Policy,
    /// An entry with fewer selected tags than this fails.
    pub min_tags: u64,
    /// How a cache is warmed, with `delivery = "warm"`.
    pub warm: WarmSettings,
    /// Tags that never move: once at the target, such a tag costs no request upstream.
    pub immutable_tags: TagPatterns,
    /// The line of the rule's name in `larder.toml`.
    pub line: usize,
}

/// How a rule fills the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Delivery {
    /// The image is copied into the target.
    #[default]
    Push,
    /// The image is pulled through the target, which is a cache in front of the upstream.
    Warm,
}

/// How a cache is warmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WarmSettings {
    /// The request to the cache for each blob.
    pub blobs: WarmBlobs,
    /// Whether the upstream is asked if the cache is stale.
    pub upstream_check: bool,
    /// How long a completed pull proves that the cache has an image; `None`: as in the cache's profile.
    pub ttl: Option<Duration>,
}

impl Default for WarmSettings {
    fn default() -> Self {
        WarmSettings { blobs: WarmBlobs::Get, upstream_check: true, ttl: None }
    }
}

/// The request to a cache for each blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WarmBlobs {
    /// GET: the whole blob is read, checked and discarded.
    #[default]
    Get,
    /// HEAD.
    Head,
    /// None: the cache fetches blobs by itself.
    None,
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Delivery::Push => f.write_str("push"),
            Delivery::Warm => f.write_str("warm"),
        }
    }
}

/// The meaning of wildcard targets inside one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overlap {
    /// An error, as at Azure Container Registry.
    #[default]
    Error,
    /// The longest one that matches owns the name, as at ECR and in podman.
    Longest,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Overlap::Error => "error",
            Overlap::Longest => "longest",
        })
    }
}

/// What happens to an image without a rule (`--unmatched`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unmatched {
    /// It fails.
    #[default]
    Fail,
    /// It goes to `<upstream host>/<path>`.
    Mirror,
}

/// The source and the target of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// Its rule; `None` for an image mirrored or placed without one.
    pub rule: Option<Arc<CacheRule>>,
    /// The repository upstream.
    pub source: RegistryRepository,
    /// The repository at the target, below its prefix.
    pub target: Repository,
}

/// Why a name has no name at the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unresolved {
    /// No rule matches it.
    NoRule {
        /// The name.
        name: String,
        /// The rule with the longest common prefix, as `name (source)`.
        nearest: Option<String>,
    },
    /// The target name belongs to another rule or another source: a cache would serve another image under it.
    Shadowed {
        /// The repository upstream.
        source: String,
        /// The name it would have at the target.
        target: String,
        /// The rule that owns this name.
        owner: String,
        /// The source that this rule serves under it.
        serves: String,
    },
    /// The name at the target would be invalid (too long, or a host that cannot be a path component).
    IllegalTarget {
        /// The repository upstream.
        source: String,
        /// The name it would have at the target.
        target: String,
        /// The problem with it.
        why: String,
    },
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unresolved::NoRule { name, nearest: Some(nearest) } => write!(f, "no cache rule covers {name}; the nearest is {nearest}"),
            Unresolved::NoRule { name, nearest: None } => write!(f, "no cache rule covers {name}: there are no rules"),
            Unresolved::Shadowed { source, target, owner, serves } => {
                write!(f, "{source} would become {target}, which rule \"{owner}\" owns and fills from {serves}")
            }
            Unresolved::IllegalTarget { source, target, why } => write!(f, "{source} would become {target}: {why}"),
        }
    }
}

impl std::error::Error for Unresolved {}

impl From<Unresolved> for crate::Error {
    fn from(unresolved: Unresolved) -> Self {
        let error = crate::Error::local(Operation::Resolve, unresolved.to_string());
        match unresolved {
            Unresolved::NoRule { .. } => error.remedy("add a rule to larder.toml, or use --unmatched mirror"),
            Unresolved::Shadowed { .. } => error.remedy("give one of the two another target"),
            Unresolved::IllegalTarget { .. } => error.remedy("give it another target"),
        }
    }
}

/// The severity of a [`RuleFinding`]; the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing runs with this configuration.
    Error,
    /// It works, but is probably not intended.
    Warning,
    /// It is correct, but may surprise.
    Note,
}

/// A finding in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleFinding {
    /// How bad it is.
    pub severity: Severity,
    /// The line of the configuration file.
    pub line: Option<usize>,
    /// The problem, in one line.
    pub message: String,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        })
    }
}

impl RuleFinding {
    /// An error at `line`.
    pub fn error(line: usize, message: impl Into<String>) -> Self {
        RuleFinding { severity: Severity::Error, line: Some(line), message: message.into() }
    }
    /// A warning at `line`.
    pub fn warning(line: usize, message: impl Into<String>) -> Self {
        RuleFinding { severity: Severity::Warning, line: Some(line), message: message.into() }
    }
    /// A note at `line`.
    pub fn note(line: usize, message: impl Into<String>) -> Self {
        RuleFinding { severity: Severity::Note, line: Some(line), message: message.into() }
    }
    /// `larder.toml:7: message`, for a finding in the file `path`.
    pub fn located(&self, path: &Path) -> String {
        match self.line {
            Some(line) => format!("{}:{line}: {}", path.display(), self.message),
            None => format!("{}: {}", path.display(), self.message),
        }
    }
}
