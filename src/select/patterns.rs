//! Patterns over tags outside of lists, as in `immutable_tags`: exact tags, globs and `/regex/`.

use std::collections::BTreeSet;

use super::globs::Globs;
use super::regexes::Regexes;
use super::term::{self, Name};

/// Patterns, of which one has to match. An empty set matches nothing.
#[derive(Debug, Clone, Default)]
pub struct TagPatterns {
    texts: Vec<String>,
    exact: BTreeSet<String>,
    globs: Globs,
    regexes: Regexes,
}

impl TagPatterns {
    /// Parses patterns: a tag, a glob over whole tags, or a regex between slashes, which may match anywhere in a tag,
    /// as in lists.
    ///
    /// Errors are messages that name the pattern.
    pub fn parse<S: AsRef<str>>(patterns: &[S]) -> Result<Self, String> {
        Self::read(patterns.iter().map(|pattern| pattern.as_ref().trim()), |text| match text {
            "" => Err("a pattern is empty".to_owned()),
            text => term::parse_name(text),
        })
    }

    pub(super) fn read<'t>(texts: impl Iterator<Item = &'t str>, parse: impl Fn(&str) -> Result<Name, String>) -> Result<Self, String> {
        let (mut exact, mut globs, mut regexes) = (BTreeSet::new(), vec![], vec![]);
        let texts: Vec<String> = texts.map(str::to_owned).collect();
        for text in &texts {
            match parse(text)? {
                Name::Exact(tag) => drop(exact.insert(tag)),
                Name::Glob(glob) => globs.push(glob),
                Name::Regex(regex) => regexes.push(regex),
            }
        }
        Ok(TagPatterns { texts, exact, globs: Globs::compile(globs)?, regexes: Regexes::compile(&regexes)? })
    }

    /// Whether one of them matches.
    pub fn matches(&self, tag: &str) -> bool {
        self.exact.contains(tag) || self.globs.is_match(tag) || self.regexes.is_match(tag)
    }

    /// Whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// The patterns as they were written.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }
}

/// Equal if they have the same patterns in the same order.
impl PartialEq for TagPatterns {
    fn eq(&self, other: &Self) -> bool {
        self.texts == other.texts
    }
}
impl Eq for TagPatterns {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_kind_matches_as_in_lists() {
        let patterns = TagPatterns::parse(&["latest", "v1.*", r"/^[0-9]{8}(-rc\d)?$/", "/final/"]).unwrap();
        for (tag, expected) in [
            ("latest", true),
            ("latest2", false),
            ("v1.2", true),
            ("v2.1", false),
            ("xv1.2", false),
            ("20240131", true),
            ("20240131-rc1", true),
            ("120240131", false),
            ("2.0-final1", true),
        ] {
            assert_eq!(patterns.matches(tag), expected, "{tag}");
        }
        assert!(!TagPatterns::default().matches("latest") && TagPatterns::default().is_empty());
        assert_eq!(TagPatterns::parse::<&str>(&[]).unwrap(), TagPatterns::default());
    }

    #[test]
    fn what_is_no_pattern_is_named() {
        for (pattern, word) in [
            ("", "empty"),
            ("/", "between two slashes"),
            ("//", "between two slashes"),
            ("/a", "between two slashes"),
            ("/(/", "`/(/` is not a regex: unclosed group"),
            ("/(?:a{1000}){1000}/", "is not a regex"),
            ("[a", "is not a glob"),
            ("a b", "a b"),
        ] {
            let message = TagPatterns::parse(&[pattern]).unwrap_err();
            assert!(message.contains(word) && !message.contains('\n'), "{pattern}: {message}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}|/\\PC{0,40}/", tag in "[a-zA-Z0-9._-]{1,20}") {
            if let Ok(patterns) = TagPatterns::parse(&[text]) {
                let _ = patterns.matches(&tag);
            }
        }
        #[test]
        fn a_tag_matches_itself(tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}") {
            prop_assert!(TagPatterns::parse(&[&tag]).unwrap().matches(&tag));
        }
    }
}
