//! Regexes over tags, written between slashes: Rust's syntax, which may match anywhere in a tag.

use regex::{RegexBuilder, RegexSet, RegexSetBuilder};

/// The largest size of a compiled regex in bytes, a tenth of `regex`'s default. A tag has 128 characters; a larger
/// regex does not describe tags.
const MAX_REGEX: usize = 1024 * 1024;

/// The regexes of one column, matched together. An empty set matches nothing.
#[derive(Debug, Clone)]
pub(super) struct Regexes(RegexSet);

impl Default for Regexes {
    fn default() -> Self {
        Regexes(RegexSet::empty())
    }
}

impl Regexes {
    /// Compiles regexes that [`parse`] accepted. The errors are messages.
    pub(super) fn compile(regexes: &[String]) -> Result<Self, String> {
        let regexes = RegexSetBuilder::new(regexes).size_limit(MAX_REGEX).build();
        regexes.map(Regexes).map_err(|error| format!("the regexes cannot be compiled together: {}", in_a_line(&error)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn is_match(&self, tag: &str) -> bool {
        self.0.is_match(tag)
    }
}

/// Parses `/regex/`. Compiles it alone first, so that an error names this regex.
pub(super) fn parse(term: &str) -> Result<String, String> {
    let inner = term.strip_prefix('/').and_then(|inner| inner.strip_suffix('/')).filter(|inner| !inner.is_empty());
    let inner = inner.ok_or_else(|| format!("`{term}`: a regex stands between two slashes"))?;
    match RegexBuilder::new(inner).size_limit(MAX_REGEX).build() {
        Ok(_) => Ok(inner.to_owned()),
        Err(error) => Err(format!("`{term}` is not a regex: {}", in_a_line(&error))),
    }
}

/// The last line of the error is the reason; the lines before it draw the position.
fn in_a_line(error: &regex::Error) -> String {
    let why = error.to_string();
    why.lines().last().unwrap_or("").trim().trim_start_matches("error: ").to_owned()
}
