//! Parses a `tags` or `exclude` column into terms.

use std::time::Duration;

use super::cut::{self, CutTerm};
use super::range::Range;
use super::{globs, regexes};
use crate::name::check_tag;

/// A term of `tags`.
pub(super) enum Term {
    /// A term that chooses by name.
    Name(Name),
    /// `semver:`
    Semver(Range),
    /// `latest:N`, `newest:N`, `max-age:30d`
    Cut(CutTerm),
}

/// A term that both `tags` and `exclude` accept.
pub(super) enum Name {
    /// A tag.
    Exact(String),
    /// A glob over whole tags.
    Glob(globset::Glob),
    /// A regex, without its slashes.
    Regex(String),
}

/// Splits a column at its `;`. Ignores white space around terms, and empty terms. A term that starts with `/` ends at
/// the next `/` before `;` or the end, so that a regex may contain `;`; without one it takes the rest.
pub(super) fn split(column: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let mut rest = column.trim_start();
    while !rest.is_empty() {
        let end = if rest.starts_with('/') { regex_end(rest) } else { rest.find(';').unwrap_or(rest.len()) };
        let (term, after) = rest.split_at(end);
        let term = term.trim_end();
        if !term.is_empty() {
            terms.push(term);
        }
        let after = after.trim_start();
        rest = after.strip_prefix(';').unwrap_or(after).trim_start();
    }
    terms
}

/// The end of the regex at the start of `text`: after the first `/` that is followed by `;` or by nothing.
fn regex_end(text: &str) -> usize {
    text.match_indices('/')
        .skip(1)
        .map(|(slash, _)| slash + 1)
        .find(|end| matches!(text[*end..].trim_start().chars().next(), None | Some(';')))
        .unwrap_or(text.len())
}

/// The kinds of terms that only `tags` accepts, by their beginning.
const CHOOSING: [&str; 4] = ["semver:", "latest:", "newest:", "max-age:"];

/// Parses a term of `tags`.
pub(super) fn parse(term: &str) -> Result<Term, String> {
    if term.starts_with("min-age:") {
        return Err(format!("`{term}`: min-age is not in this version"));
    }
    let Some((kind, text)) = choosing(term) else { return parse_name(term).map(Term::Name) };
    match kind {
        "semver:" => Range::parse(term, text).map(Term::Semver),
        "latest:" => cut::count(term, text).map(|count| Term::Cut(CutTerm::Latest(count))),
        "newest:" => cut::count(term, text).map(|count| Term::Cut(CutTerm::Newest(count))),
        _ => cut::age(term, text).map(|age: Duration| Term::Cut(CutTerm::MaxAge(age))),
    }
}

fn choosing(term: &str) -> Option<(&'static str, &str)> {
    CHOOSING.into_iter().find_map(|kind| term.strip_prefix(kind).map(|text| (kind, text)))
}

/// Parses a term of `exclude`.
pub(super) fn parse_exclude(term: &str) -> Result<Name, String> {
    match choosing(term) {
        Some((kind, _)) => Err(format!("`{term}`: `exclude` takes tags, globs and regexes, not {}", kind.trim_end_matches(':'))),
        None => parse_name(term),
    }
}

/// Parses a tag, a glob or a regex.
pub(super) fn parse_name(term: &str) -> Result<Name, String> {
    if term.starts_with('/') {
        return regexes::parse(term).map(Name::Regex);
    }
    if term.contains(['*', '?', '[', ']', '{', '}']) {
        return globs::parse(term).map(Name::Glob);
    }
    match check_tag(term) {
        Ok(()) => Ok(Name::Exact(term.to_owned())),
        Err(why) if term.contains([',', ' ']) => Err(format!("{why}; several tags are separated by `;`")),
        Err(why) => Err(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_split_at_semicolons_but_not_within_a_regex() {
        for (column, expected) in [
            ("", vec![]),
            (" ; ;", vec![]),
            ("3.20", vec!["3.20"]),
            (" 3.20 ;3.21;; 3.* ;", vec!["3.20", "3.21", "3.*"]),
            ("3.20;\n3.21", vec!["3.20", "3.21"]),
            ("/a;b/;c", vec!["/a;b/", "c"]),
            ("/a/b/ ; c", vec!["/a/b/", "c"]),
            ("x;/a;b", vec!["x", "/a;b"]),
            ("//;x", vec!["//", "x"]),
            ("/", vec!["/"]),
            ("/;/", vec!["/;/"]),
            ("a/b;c", vec!["a/b", "c"]),
            ("semver:>=1.25, <2;1.2*", vec!["semver:>=1.25, <2", "1.2*"]),
        ] {
            assert_eq!(split(column), expected, "{column:?}");
        }
    }

    #[test]
    fn an_endless_row_of_open_regexes_is_split_in_one_pass() {
        let column = "/x;".repeat(200_000);
        assert_eq!(split(&column), [column.as_str()]);
    }
}
