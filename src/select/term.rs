//! One term of a `tags` or `exclude` column: where it ends, and what kind it is.

use crate::name::check_tag;

/// A term of a kind this version knows.
pub(super) enum Term {
    /// A tag.
    Exact(String),
    /// A pattern over tags.
    Glob(globset::Glob),
}

/// Splits a column at its `;`. White space around terms goes, empty terms are skipped. A term that starts with `/` ends at the
/// next `/` before `;` or the end, so that a regex may contain `;`; if there is none, it is all that is left.
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

/// Where the regex that `text` starts with ends: behind the first `/` that is followed by `;` or by nothing.
fn regex_end(text: &str) -> usize {
    text.match_indices('/')
        .skip(1)
        .map(|(slash, _)| slash + 1)
        .find(|end| matches!(text[*end..].trim_start().chars().next(), None | Some(';')))
        .unwrap_or(text.len())
}

/// The kinds of terms that only `tags` takes: how one begins, and what it is called.
const CHOOSING: [(&str, &str); 4] = [("semver:", "semver"), ("latest:", "latest:N"), ("newest:", "newest:N"), ("max-age:", "max-age")];

fn choosing(term: &str) -> Option<&'static str> {
    CHOOSING.iter().find(|(prefix, _)| term.starts_with(prefix)).map(|(_, name)| *name)
}

/// Reads a term of `tags`.
pub(super) fn parse(term: &str) -> Result<Term, String> {
    match choosing(term) {
        Some(name) => Err(not_yet(term, name)),
        None => parse_common(term),
    }
}

/// Reads a term of `exclude`.
pub(super) fn parse_exclude(term: &str) -> Result<Term, String> {
    match choosing(term) {
        Some(name) => Err(format!("`{term}`: `exclude` takes tags, globs and regexes, not {name}")),
        None => parse_common(term),
    }
}

fn parse_common(term: &str) -> Result<Term, String> {
    if let Some(body) = term.strip_prefix('/') {
        return Err(match body.ends_with('/') {
            true => not_yet(term, "regex"),
            false => format!("`{term}`: a regex ends with `/`"),
        });
    }
    if term.contains(['*', '?', '[', ']', '{', '}']) {
        return super::globs::parse(term).map(Term::Glob);
    }
    match check_tag(term) {
        Ok(()) => Ok(Term::Exact(term.to_owned())),
        Err(why) if term.contains([',', ' ']) => Err(format!("{why}; several tags are separated by `;`")),
        Err(why) => Err(why),
    }
}

fn not_yet(term: &str, kind: &str) -> String {
    format!("`{term}`: {kind} terms are not in this version of larder")
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
