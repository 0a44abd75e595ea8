//! `semver:` terms: a range of versions, and a variant of them.
//!
//! The comparators are those of the `semver` crate (a bare `1.25` is `^1.25`; pre-releases match only if a comparator
//! names one of the same version). A variant is written after a version: `semver:>=1.25-alpine <2`; without one, only
//! plain versions match.

use globset::GlobMatcher;
use semver::{Comparator, Op, VersionReq};

use super::globs;
use super::version::{Bound, Number, Version};

/// The largest number of comparators (the limit of the `semver` crate's own parser).
const MOST_COMPARATORS: usize = 32;

/// Operators by their text. Longer ones come first: `>=` begins with `>`.
const OPERATORS: [(&str, Op); 8] = [
    (">=", Op::GreaterEq),
    ("<=", Op::LessEq),
    ("==", Op::Exact),
    (">", Op::Greater),
    ("<", Op::Less),
    ("=", Op::Exact),
    ("~", Op::Tilde),
    ("^", Op::Caret),
];

/// A compiled `semver:` term.
#[derive(Debug, Clone)]
pub(super) struct Range {
    versions: VersionReq,
    variant: Variant,
    /// The revision, if the term names an exact version or a wildcard with one.
    revision: Vec<Number>,
}

#[derive(Debug, Clone)]
enum Variant {
    /// This variant, or the plain image if it is empty.
    Exact(String),
    /// Any variant that the glob matches.
    Glob(GlobMatcher),
}

impl Range {
    /// Parses `term`, of which `text` is the part after `semver:`. Errors are messages.
    pub(super) fn parse(term: &str, text: &str) -> Result<Self, String> {
        let wrong = |why: String| format!("`{term}`: {why}");
        let mut comparators = vec![];
        let mut variant: Option<String> = None;
        let mut revision = vec![];
        for written in comparators_of(text) {
            let (op, bound) = comparator(&written).map_err(wrong)?;
            if let Some(other) = variant.as_ref().filter(|other| !bound.variant.is_empty() && **other != bound.variant) {
                return Err(wrong(format!("asks for two variants, `{other}` and `{}`: write two terms", bound.variant)));
            }
            variant = variant.or_else(|| Some(bound.variant.clone()).filter(|variant| !variant.is_empty()));
            comparators.extend(compiled(op, &bound));
            if op == Some(Op::Exact) || bound.wildcard {
                revision = bound.revision;
            }
            if comparators.len() > MOST_COMPARATORS {
                return Err(wrong(format!("more than {MOST_COMPARATORS} comparators")));
            }
        }
        if text.trim_matches([' ', '\t', '\r', '\n', ',']).is_empty() {
            return Err(wrong("a semver range is missing: write it like semver:>=1.25 <2".to_owned()));
        }
        let variant = variant.unwrap_or_default();
        let variant = match variant.contains(['*', '?', '[', ']', '{', '}']) {
            true => Variant::Glob(globs::parse(&variant).map_err(wrong)?.compile_matcher()),
            false => Variant::Exact(variant),
        };
        Ok(Range { versions: VersionReq { comparators }, variant, revision })
    }

    /// Whether `version` is in the range and of the variant.
    pub(super) fn matches(&self, version: &Version) -> bool {
        let variant = match &self.variant {
            Variant::Exact(variant) => variant == version.variant(),
            Variant::Glob(glob) => !version.variant().is_empty() && glob.is_match(version.variant()),
        };
        let revision = self.revision.is_empty() || version.is_revision(&self.revision);
        variant && revision && version.to_semver().is_some_and(|version| self.versions.matches(&version))
    }
}

/// The comparators of a term, separated by white space or commas; an operator may be separate from its version.
fn comparators_of(text: &str) -> Vec<String> {
    let mut found: Vec<String> = vec![];
    let mut open = false;
    for word in text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty()) {
        match found.last_mut().filter(|_| open) {
            Some(last) => last.push_str(word),
            None => found.push(word.to_owned()),
        }
        open = found.last().is_some_and(|last| OPERATORS.iter().any(|(operator, _)| operator == last));
    }
    found
}

fn comparator(written: &str) -> Result<(Option<Op>, Bound), String> {
    if written.contains('|') {
        return Err("alternatives are terms of their own, separated by `;`".to_owned());
    }
    if written.starts_with("!=") {
        return Err("what is not wanted goes into `exclude`".to_owned());
    }
    let operator = OPERATORS.iter().find(|(operator, _)| written.starts_with(operator));
    let version = operator.map_or(written, |(operator, _)| &written[operator.len()..]);
    if version.is_empty() {
        return Err(format!("`{written}` lacks a version"));
    }
    let bound = Bound::parse(version).map_err(|why| format!("`{version}` {why}"))?;
    Ok((operator.map(|(_, op)| *op), bound))
}

/// `None` for `*`, which every version satisfies.
fn compiled(op: Option<Op>, bound: &Bound) -> Option<Comparator> {
    let mut numbers = bound.numbers.iter().copied();
    let major = numbers.next()?;
    // A pre-release needs a full version: `1.31-rc.1` is `1.31.0-rc.1`.
    let rest = if bound.pre.is_empty() { None } else { Some(0) };
    let (minor, patch) = (numbers.next().or(rest), numbers.next().or(rest));
    let usual = if bound.wildcard { Op::Wildcard } else { Op::Caret };
    let op = match op.unwrap_or(usual) {
        // All three are there: without this, the crate takes `1.2.3` with the wildcard operator for no comparator.
        Op::Wildcard if patch.is_some() => Op::Exact,
        op => op,
    };
    Some(Comparator { op, major, minor, patch, pre: bound.pre.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(text: &str) -> Result<Range, String> {
        Range::parse(&format!("semver:{text}"), text)
    }

    const TAGS: [&str; 24] = [
        "1",
        "1.24",
        "1.24.9",
        "1.25",
        "v1.25.0",
        "1.25.3",
        "1.25.3.1",
        "1.26.0-rc1",
        "1.26.0-rc.2",
        "v1.26.0-alpha.1",
        "1.26.0rc1-alpine",
        "1.26.0",
        "1.26.0-alpine",
        "1.25.3-alpine",
        "1.25.3-alpine3.20",
        "1.25.3-alpine-slim",
        "1.27.0-beta.1",
        "2.0.0-rc.1",
        "2.0.0",
        "2024.01.15",
        "99999999999999999999.1",
        "latest",
        "alpine",
        "1.25.3-0",
    ];

    #[test]
    fn ranges_choose_as_people_mean_them() {
        for (text, expected) in [
            (">=1.25 <2", "1.25 v1.25.0 1.25.3 1.25.3.1 1.26.0 1.25.3-0"),
            (">=1.25,<2", "1.25 v1.25.0 1.25.3 1.25.3.1 1.26.0 1.25.3-0"),
            (" >= 1.25 , < 2 ", "1.25 v1.25.0 1.25.3 1.25.3.1 1.26.0 1.25.3-0"),
            (">=v1.25.0 <v2.0.0", "1.25 v1.25.0 1.25.3 1.25.3.1 1.26.0 1.25.3-0"),
            ("1.25", "1.25 v1.25.0 1.25.3 1.25.3.1 1.26.0 1.25.3-0"),
            ("^1.25.1", "1.25.3 1.25.3.1 1.26.0 1.25.3-0"),
            ("~1.25", "1.25 v1.25.0 1.25.3 1.25.3.1 1.25.3-0"),
            ("1.25.*", "1.25 v1.25.0 1.25.3 1.25.3.1 1.25.3-0"),
            ("1.x <1.25", "1 1.24 1.24.9"),
            ("=1.25", "1.25 v1.25.0 1.25.3 1.25.3.1 1.25.3-0"),
            ("==1.25.0", "1.25 v1.25.0"),
            ("=1.25.3", "1.25.3 1.25.3.1 1.25.3-0"),
            (">1.26 <2000", "2.0.0"),
            ("<=1.24", "1 1.24 1.24.9"),
            ("*", "1 1.24 1.24.9 1.25 v1.25.0 1.25.3 1.25.3.1 1.26.0 2.0.0 2024.01.15 99999999999999999999.1 1.25.3-0"),
            (">=2024.01.01", "2024.01.15 99999999999999999999.1"),
            // Pre-releases of the version that is named, and of no other.
            (">=1.26.0-rc.0 <2", "1.26.0-rc1 1.26.0-rc.2 1.26.0"),
            (">=1.26-alpha <2", "1.26.0-rc1 1.26.0-rc.2 v1.26.0-alpha.1 1.26.0"),
            (">=1.26.0rc2", "1.26.0-rc.2 1.26.0 2.0.0 2024.01.15 99999999999999999999.1"),
            // Variants.
            (">=1.25-alpine <2", "1.26.0-alpine 1.25.3-alpine"),
            (">=1.25 <2-alpine", "1.26.0-alpine 1.25.3-alpine"),
            (">=1.25-alpine* <2", "1.26.0-alpine 1.25.3-alpine 1.25.3-alpine3.20 1.25.3-alpine-slim"),
            ("1.25-alpine3.*", "1.25.3-alpine3.20"),
            (">=1.26.0-rc.0-alpine <2", "1.26.0rc1-alpine 1.26.0-alpine"),
            ("*-alpine", "1.26.0-alpine 1.25.3-alpine"),
            // A bare number is a revision: one is meant where a version is.
            ("1.25.*-0", "1.25.3-0"),
            ("=1.25.3-0", "1.25.3-0"),
            ("=1.25.3-1", ""),
        ] {
            let range = range(text).unwrap();
            let chosen: Vec<&str> =
                TAGS.into_iter().filter(|tag| Version::parse(tag).is_some_and(|version| range.matches(&version))).collect();
            assert_eq!(chosen.join(" "), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_range_is_told_why() {
        for (text, why) in [
            ("", "`semver:`: a semver range is missing: write it like semver:>=1.25 <2"),
            (" , ", "`semver: , `: a semver range is missing: write it like semver:>=1.25 <2"),
            (">=", "`semver:>=`: `>=` lacks a version"),
            ("<2 >", "`semver:<2 >`: `>` lacks a version"),
            (">=1.25 || <1", "`semver:>=1.25 || <1`: alternatives are terms of their own, separated by `;`"),
            ("!=1.25", "`semver:!=1.25`: what is not wanted goes into `exclude`"),
            ("latest", "`semver:latest`: `latest` is no version: it begins with a number"),
            ("1.2 - 1.4", "`semver:1.2 - 1.4`: `-` is no version: it begins with a number"),
            ("=>1.2", "`semver:=>1.2`: `>1.2` is no version: it begins with a number"),
            (">=1.2.3.4", "`semver:>=1.2.3.4`: `1.2.3.4` has more than three numbers"),
            (
                ">=99999999999999999999",
                "`semver:>=99999999999999999999`: `99999999999999999999` 99999999999999999999 is too large a number",
            ),
            (">=1.2-", "`semver:>=1.2-`: `1.2-` ends with a separator"),
            ("1.*.2", "`semver:1.*.2`: `1.*.2` goes on behind a wildcard"),
            ("1.*-rc.1", "`semver:1.*-rc.1`: `1.*-rc.1` has both a wildcard and a pre-release"),
            (">=1.2-rc.é", "`semver:>=1.2-rc.é`: `1.2-rc.é` has a pre-release that cannot be compared"),
            (">=1.2-alpine <2-slim", "`semver:>=1.2-alpine <2-slim`: asks for two variants, `alpine` and `slim`: write two terms"),
            ("1.2-[a", "`semver:1.2-[a`: `[a` is not a glob: unclosed character class; missing ']'"),
        ] {
            assert_eq!(range(text).unwrap_err(), why);
        }
        assert!(range(&">1 ".repeat(33)).unwrap_err().contains("more than 32"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,30}|[<>=~^!|* .,v0-9xXa-z-]{0,30}", tag in "v?[0-9]{1,22}(\\.[0-9]{1,3}){0,4}(-[a-z0-9.]{1,6})?") {
            if let (Ok(range), Some(version)) = (range(&text), Version::parse(&tag)) {
                range.matches(&version);
            }
        }

        /// Where the crate reads a range by itself, it means what we mean.
        #[test]
        fn ranges_mean_what_semver_means(
            comparators in proptest::collection::vec("(>=|<=|>|<|=|~|\\^|)[0-3](\\.[0-3](\\.[0-3](-rc\\.[0-3])?)?)?", 1..3),
            tag in "[0-3]\\.[0-3]\\.[0-3](-rc\\.[0-3])?",
        ) {
            let expected = VersionReq::parse(&comparators.join(", ")).unwrap().matches(&semver::Version::parse(&tag).unwrap());
            prop_assert_eq!(range(&comparators.join(" ")).unwrap().matches(&Version::parse(&tag).unwrap()), expected);
        }
    }
}
