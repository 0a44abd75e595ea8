//! Globs over tags: `*`, `?`, `[a-z]`, `[!a-z]`, `{a,b}`, matched against the whole tag.

use globset::{Glob, GlobBuilder, GlobSet};

/// The longest glob in characters. A tag has at most 128, so a longer glob is a mistake. The limit also bounds nested
/// braces, which the glob compiler handles recursively.
const MAX_GLOB: usize = 1024;

/// The globs of one column, matched together. An empty set matches nothing.
#[derive(Debug, Clone, Default)]
pub(super) struct Globs(GlobSet);

impl Globs {
    /// The errors are messages.
    pub(super) fn compile(globs: Vec<Glob>) -> Result<Self, String> {
        GlobSet::new(globs).map(Globs).map_err(|error| format!("the globs cannot be compiled: {}", error.kind()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn is_match(&self, tag: &str) -> bool {
        self.0.is_match(tag)
    }
}

/// Parses one glob. Refuses characters that no tag has: such a glob could never match.
pub(super) fn parse(term: &str) -> Result<Glob, String> {
    if term.len() > MAX_GLOB {
        return Err(format!("a glob may have {MAX_GLOB} characters, this one has {}", term.len()));
    }
    let legal = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '*' | '?' | '[' | ']' | '{' | '}' | ',' | '!' | '^');
    if let Some(bad) = term.chars().find(|c| !legal(c)) {
        return Err(format!("`{term}`: `{bad}` stands in no tag"));
    }
    GlobBuilder::new(term)
        .literal_separator(false)
        .backslash_escape(false)
        // `1.2{,-alpine}`: with or without the suffix.
        .empty_alternates(true)
        .build()
        .map_err(|error| format!("`{term}` is not a glob: {}", error.kind()))
}
