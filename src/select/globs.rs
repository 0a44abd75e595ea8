//! Globs over tags: `*`, `?`, `[a-z]`, `[!a-z]`, `{a,b}`, matched against the whole tag.

use globset::{Glob, GlobBuilder, GlobSet};

/// A tag has 128 characters at most; a glob of eight times that is a mistake. The bound also keeps nested braces, which the glob
/// compiler follows recursively, far from the end of the stack.
const MAX_GLOB: usize = 1024;

/// The globs of one column, matched together. Of none, none matches.
#[derive(Debug, Clone, Default)]
pub(super) struct Globs(GlobSet);

impl Globs {
    /// The errors are for a person.
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

/// Reads one glob. Characters that stand in no tag are refused: such a glob could never match, which is a mistake worth a word.
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
