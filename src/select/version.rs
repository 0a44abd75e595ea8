//! Versions as tags write them: `1.27.3-alpine3.20`, `v1.31.0-rc.1`, `3.13.0rc1-slim`, `17`, `2024.01.15`.
//!
//! A version has numbers, and optionally a revision, a pre-release, a variant and build metadata. Semver would take the
//! revision (`-0`) and the variant (`-alpine3.20`) for pre-releases, so the words after the numbers decide. A tag
//! cannot have semver's `+`: Helm writes `_` for it.

use std::cmp::Ordering;

/// Words that mark a pre-release (Kubernetes, PostgreSQL, Go, .NET, Maven, Java's early access). `dev` and `devel` are
/// not here: in tags they mostly name a variant with tools for developers (Chainguard, NVIDIA).
const PRERELEASES: [&str; 10] = ["alpha", "beta", "rc", "cr", "pre", "preview", "snapshot", "nightly", "canary", "ea"];

/// Short forms that mark a pre-release only with a number after them: Maven's (`5.0.0-M1`), and directly after the
/// version PEP 440's (`3.13.0a1`; `8u402-b06` is a build).
const MILESTONE: [(&str, &str); 2] = [("m", "milestone"), ("milestone", "milestone")];
const ATTACHED: [(&str, &str); 3] = [("a", "alpha"), ("b", "beta"), ("c", "rc")];

/// The version in a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    numbers: Vec<Number>,
    /// The revision of the version (`3.5.15-0`, `11.0.25_9`, `2024-01-15`); empty for most.
    revision: Vec<Number>,
    /// Empty for a release.
    pre: Vec<Identifier>,
    variant: String,
    /// Build metadata, which does not affect the order of versions.
    build: String,
}

/// A number of any length, without leading zeros; compared by value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Number(String);

/// A piece of a pre-release: numbers come before words (semver 2.0.0, 11.4).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Identifier {
    Number(Number),
    Word(String),
}

impl Number {
    fn new(digits: &str) -> Self {
        let digits = digits.trim_start_matches('0');
        Number(if digits.is_empty() { "0" } else { digits }.to_owned())
    }

    /// As in semver, where a number larger than 64 bits counts as the largest one. Only ranges use this, and no range
    /// can name such a number.
    fn to_u64(&self) -> u64 {
        self.0.parse().unwrap_or(u64::MAX)
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.0.len(), &self.0).cmp(&(other.0.len(), &other.0))
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Version {
    /// The version that `tag` begins with, after an optional `v` or `V`.
    pub(super) fn parse(tag: &str) -> Option<Self> {
        let bare = tag.strip_prefix(['v', 'V']).unwrap_or(tag);
        Self::begin(bare)
    }

    /// The version after a word: `bookworm-20240110`, `RELEASE.2024-01-15T00-00-00Z`.
    pub(super) fn behind_a_word(tag: &str) -> Option<Self> {
        tag.find(|c: char| c.is_ascii_digit()).and_then(|at| Self::begin(&tag[at..]))
    }

    fn begin(text: &str) -> Option<Self> {
        let (numbers, rest) = numbers(text);
        if numbers.is_empty() {
            return None;
        }
        let Suffix { revision, pre, variant, build } = suffix(rest)?;
        Some(Version { numbers, revision, pre, variant, build })
    }

    /// The variant of the image (`alpine3.20`); empty for the plain one.
    pub(super) fn variant(&self) -> &str {
        &self.variant
    }

    /// Its build metadata; empty for most.
    pub(super) fn build(&self) -> &str {
        &self.build
    }

    /// Whether it is this revision of its version.
    pub(super) fn is_revision(&self, revision: &[Number]) -> bool {
        self.revision == revision
    }

    /// Whether it is a pre-release.
    pub(super) fn is_prerelease(&self) -> bool {
        !self.pre.is_empty()
    }

    /// Whether it is a release without a variant.
    pub(super) fn is_plain(&self) -> bool {
        !self.is_prerelease() && self.variant.is_empty()
    }

    /// Whether its numbers are higher.
    pub(super) fn is_newer_than(&self, other: &Self) -> bool {
        self.compare_numbers(other).is_gt()
    }

    /// How many numbers the tag has: `1.27.3` is more exact than `1.27`, which moves.
    pub(super) fn precision(&self) -> usize {
        self.numbers.len()
    }

    /// The version in semver: the first three numbers, and the pre-release.
    pub(super) fn to_semver(&self) -> Option<semver::Version> {
        let number = |at: usize| self.numbers.get(at).map_or(0, Number::to_u64);
        Some(semver::Version {
            major: number(0),
            minor: number(1),
            patch: number(2),
            pre: self.semver_pre()?,
            build: semver::BuildMetadata::EMPTY,
        })
    }

    fn semver_pre(&self) -> Option<semver::Prerelease> {
        let pieces: Vec<&str> = self
            .pre
            .iter()
            .map(|piece| match piece {
                Identifier::Number(number) => number.0.as_str(),
                Identifier::Word(word) => word.as_str(),
            })
            .collect();
        semver::Prerelease::new(&pieces.join(".")).ok()
    }

    fn compare_numbers(&self, other: &Self) -> Ordering {
        let most = self.numbers.len().max(other.numbers.len());
        let zero = Number::new("0");
        let at = |version: &Self, place: usize| version.numbers.get(place).cloned().unwrap_or_else(|| zero.clone());
        (0..most).map(|place| at(self, place).cmp(&at(other, place))).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    }

    /// By numbers, where missing ones are 0; a pre-release comes before its release, a later revision after an earlier
    /// one.
    pub(super) fn precedence(&self, other: &Self) -> Ordering {
        self.compare_numbers(other)
            .then_with(|| (!self.is_prerelease()).cmp(&!other.is_prerelease()))
            .then_with(|| self.pre.cmp(&other.pre))
            .then_with(|| self.revision.cmp(&other.revision))
    }
}

/// The numbers at the start of `text`, and the rest.
fn numbers(text: &str) -> (Vec<Number>, &str) {
    let (mut numbers, mut rest) = (vec![], text);
    loop {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        if end == 0 {
            return (numbers, rest);
        }
        numbers.push(Number::new(&rest[..end]));
        rest = &rest[end..];
        match rest.strip_prefix('.') {
            Some(next) if next.starts_with(|c: char| c.is_ascii_digit()) => rest = next,
            _ => return (numbers, rest),
        }
    }
}

/// The parts after a version's numbers.
#[derive(Default)]
struct Suffix {
    revision: Vec<Number>,
    pre: Vec<Identifier>,
    variant: String,
    build: String,
}

/// Classifies the pieces between `-` and `_` after the numbers: bare numbers at the start are a revision, pre-release
/// words (with the numbers after them) a pre-release, other text after `_` is build metadata to the end, the rest is
/// the variant. `None` if a separator has nothing after it.
fn suffix(rest: &str) -> Option<Suffix> {
    let mut found = Suffix::default();
    if rest.is_empty() {
        return Some(found);
    }
    let separated = rest.strip_prefix(['-', '_', '.']);
    let (mut variant, mut in_pre) = (vec![], false);
    let (mut text, mut first) = (separated.unwrap_or(rest), true);
    let mut separator = if separated.is_some() { rest.chars().next() } else { None };
    loop {
        let end = text.find(['-', '_']).unwrap_or(text.len());
        let piece = &text[..end];
        let is_number = !piece.is_empty() && piece.bytes().all(|byte| byte.is_ascii_digit());
        match prerelease(piece, first && separated.is_none()) {
            Some(identifiers) if found.pre.is_empty() => {
                found.pre = identifiers;
                in_pre = true;
            }
            // `rc-1`, `ea-31`
            _ if in_pre && piece.starts_with(|c: char| c.is_ascii_digit()) => found.pre.extend(identifiers(piece)),
            _ if is_number && found.pre.is_empty() && variant.is_empty() && separator != Some('.') => {
                found.revision.push(Number::new(piece));
            }
            _ if separator == Some('_') && variant.is_empty() && !piece.is_empty() => {
                text.clone_into(&mut found.build);
                break;
            }
            _ => {
                variant.push(piece);
                in_pre = false;
            }
        }
        let Some(next) = text[end..].chars().next() else { break };
        (separator, text, first) = (Some(next), &text[end + 1..], false);
    }
    found.variant = variant.join("-");
    let says = !(found.pre.is_empty() && found.variant.is_empty() && found.revision.is_empty() && found.build.is_empty());
    says.then_some(found)
}

/// `rc1`, `rc.1`, `beta`, `preview.3.24172.13`; also `a1` if it is `attached` to the numbers.
fn prerelease(piece: &str, attached: bool) -> Option<Vec<Identifier>> {
    let end = piece.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(piece.len());
    let (word, rest) = (piece[..end].to_ascii_lowercase(), &piece[end..]);
    let numbered = rest.starts_with(|c: char| c.is_ascii_digit());
    let mut short = MILESTONE.iter().chain(ATTACHED.iter().filter(|_| attached)).filter(|_| numbered);
    let word = match short.find(|(short, _)| *short == word) {
        Some((_, long)) => (*long).to_owned(),
        None => PRERELEASES.contains(&word.as_str()).then_some(word)?,
    };
    let mut pieces = vec![Identifier::Word(word)];
    pieces.extend(identifiers(rest.strip_prefix('.').unwrap_or(rest)));
    Some(pieces)
}

/// The pieces between dots, with digits separate from letters: semver would put `rc10` before `rc2`.
fn identifiers(text: &str) -> Vec<Identifier> {
    let mut found = vec![];
    for piece in text.split('.') {
        let mut rest = piece;
        while let Some(first) = rest.chars().next() {
            let digits = first.is_ascii_digit();
            let end = rest.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(rest.len());
            let (run, after) = rest.split_at(end);
            found.push(if digits { Identifier::Number(Number::new(run)) } else { Identifier::Word(run.to_ascii_lowercase()) });
            rest = after;
        }
    }
    found
}

/// Compares texts in natural order: runs of digits by value (`alpine3.9` before `alpine3.20`).
pub(super) fn natural(a: &str, b: &str) -> Ordering {
    identifiers(a).cmp(&identifiers(b)).then_with(|| a.cmp(b))
}

/// One side of a comparator: `1.25`, `v1.31.0-rc.1`, `1.25-alpine`, `1.*`.
pub(super) struct Bound {
    pub(super) numbers: Vec<u64>,
    /// Whether `*` or `x` replaces the next number.
    pub(super) wildcard: bool,
    pub(super) pre: semver::Prerelease,
    pub(super) variant: String,
    /// The revision; empty for most.
    pub(super) revision: Vec<Number>,
}

impl Bound {
    /// Parses one. The error is the rest of a sentence that begins with its text.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix(['v', 'V']).unwrap_or(text);
        let (numbers, mut rest) = numbers(bare);
        let mut wildcard = false;
        // `*`, `1.x`, `1.2.*`; only wildcards may follow.
        loop {
            let next = if numbers.is_empty() && !wildcard { Some(rest) } else { rest.strip_prefix('.') };
            let Some(after) = next.and_then(|next| next.strip_prefix(['*', 'x', 'X'])) else { break };
            if after.starts_with(|c: char| c.is_ascii_alphanumeric()) {
                break;
            }
            (wildcard, rest) = (true, after);
        }
        if numbers.is_empty() && !wildcard {
            return Err("is no version: it begins with a number".to_owned());
        }
        if wildcard && rest.starts_with(|c: char| c != '-' && c != '_') {
            return Err("goes on behind a wildcard".to_owned());
        }
        if numbers.len() > 3 {
            return Err("has more than three numbers".to_owned());
        }
        let large = |number: &Number| number.0.parse().map_err(|_| format!("{} is too large a number", number.0));
        let Suffix { revision, pre, variant, build } = suffix(rest).ok_or("ends with a separator")?;
        let version = Version { numbers, revision, pre, variant, build };
        let pre = version.semver_pre().ok_or("has a pre-release that cannot be compared")?;
        if wildcard && version.is_prerelease() {
            return Err("has both a wildcard and a pre-release".to_owned());
        }
        let numbers = version.numbers.iter().map(large).collect::<Result<_, _>>()?;
        Ok(Bound { numbers, wildcard, pre, variant: version.variant, revision: version.revision })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `numbers pre variant`, as the tag's parts are understood.
    fn parts(tag: &str) -> String {
        let Some(version) = Version::parse(tag) else { return "none".to_owned() };
        let numbers: Vec<&str> = version.numbers.iter().map(|number| number.0.as_str()).collect();
        let pre = version.semver_pre().unwrap();
        let revision: String = version.revision.iter().map(|number| format!("|r{}", number.0)).collect();
        let build = if version.build.is_empty() { String::new() } else { format!("|+{}", version.build) };
        format!("{}|{pre}|{}{revision}{build}", numbers.join("."), version.variant)
    }

    #[test]
    fn tags_of_real_histories_are_understood() {
        for (tag, expected) in [
            // nginx
            ("1.27.3", "1.27.3||"),
            ("1.27", "1.27||"),
            ("1", "1||"),
            ("1.27.3-alpine3.20", "1.27.3||alpine3.20"),
            ("1.27-alpine-slim", "1.27||alpine-slim"),
            ("1.27.3-bookworm-perl", "1.27.3||bookworm-perl"),
            ("mainline-alpine", "none"),
            ("latest", "none"),
            // postgres
            ("17.2-bookworm", "17.2||bookworm"),
            ("17beta1", "17|beta.1|"),
            ("17rc1-bookworm", "17|rc.1|bookworm"),
            ("9.6.24-alpine3.15", "9.6.24||alpine3.15"),
            ("bookworm", "none"),
            // python
            ("3.13.0rc1-slim", "3.13.0|rc.1|slim"),
            ("3.13.0a4-slim-bookworm", "3.13.0|alpha.4|slim-bookworm"),
            ("3.13.0b2-windowsservercore-ltsc2022", "3.13.0|beta.2|windowsservercore-ltsc2022"),
            ("3.14-rc-alpine", "3.14|rc|alpine"),
            ("3.12.7-slim-bookworm", "3.12.7||slim-bookworm"),
            // Kubernetes and its relatives
            ("v1.31.0-rc.1", "1.31.0|rc.1|"),
            ("v1.31.0-alpha.0", "1.31.0|alpha.0|"),
            ("v1.31.0", "1.31.0||"),
            ("v1.31.1-rc1-k3s1", "1.31.1|rc.1|k3s1"),
            ("v1.30.4-eksbuild.1", "1.30.4||eksbuild.1"),
            ("3.5.15-0", "3.5.15|||r0"),
            ("3.5.15-0-arm64", "3.5.15||arm64|r0"),
            ("v1.2.3-4.5", "1.2.3||4.5"),
            ("2024-01-15", "2024|||r1|r15"),
            ("11.0.25_9-jdk-alpine", "11.0.25||jdk-alpine|r9"),
            // Helm writes `_` for `+`.
            ("109.0.1_up1.0.2", "109.0.1|||+up1.0.2"),
            ("109.0.1_up1.0.2-rc.1", "109.0.1|||+up1.0.2-rc.1"),
            ("0.20250616.4188_ref.2dec694", "0.20250616.4188|||+ref.2dec694"),
            ("1.2.3-rc1_abcdefgh", "1.2.3|rc.1||+abcdefgh"),
            ("1.2.2_3eadbeef", "1.2.2|||+3eadbeef"),
            ("1.2-alpine_slim", "1.2||alpine-slim"),
            ("v3.22_rc1", "3.22|rc.1|"),
            // others
            ("9.0.0-preview.3.24172.13-alpine3.19", "9.0.0|preview.3.24172.13|alpine3.19"),
            ("24-ea-31-jdk-slim", "24|ea.31|jdk-slim"),
            ("8u402-jdk", "8||u402-jdk"),
            ("8u402-b06", "8||u402-b06"),
            ("5.0.0.Final", "5.0.0||Final"),
            ("5.0.0.Beta2", "5.0.0|beta.2|"),
            ("2.0.0-M3", "2.0.0|milestone.3|"),
            ("8.11.1-SNAPSHOT", "8.11.1|snapshot|"),
            ("10.0.20348.2527", "10.0.20348.2527||"),
            ("1.2.3-dev", "1.2.3||dev"),
            ("12.3.1-devel-ubuntu22.04", "12.3.1||devel-ubuntu22.04"),
            ("2024.01.15", "2024.1.15||"),
            ("20240115", "20240115||"),
            ("99999999999999999999999999.1", "99999999999999999999999999.1||"),
            ("007", "7||"),
            ("3f2a1bc", "3||f2a1bc"),
            ("v", "none"),
            ("vv1", "none"),
            ("1.", "none"),
            ("1-", "none"),
            ("1..2", "1||.2"),
            ("V2", "2||"),
            ("_1", "none"),
        ] {
            assert_eq!(parts(tag), expected, "{tag}");
        }
    }

    #[test]
    fn versions_are_ordered_by_value() {
        let ascending = [
            "0.9",
            "1.2.9",
            "v1.2.10",
            "1.25.0-alpha.1",
            "1.25.0-alpha.2",
            "1.25.0a10",
            "1.25-beta1",
            "1.25rc2",
            "1.25.0-rc10",
            "1.25",
            "1.25.0.1",
            "1.26-alpine",
            "2024.01.15",
            "2024.1.16",
            "2024.12.1",
            "20240115",
            "20240116.1",
            "18446744073709551616",
            "99999999999999999999999999.1",
            "99999999999999999999999999.2",
        ];
        for (at, low) in ascending.iter().enumerate() {
            for high in &ascending[at + 1..] {
                let order = Version::parse(low).unwrap().precedence(&Version::parse(high).unwrap());
                assert_eq!(order, Ordering::Less, "{low} {high}");
            }
        }
        assert_eq!(Version::parse("1.25").unwrap().precedence(&Version::parse("v1.25.0-alpine").unwrap()), Ordering::Equal);
        assert_eq!(natural("alpine3.9", "alpine3.20"), Ordering::Less);
        assert!(Version::behind_a_word("RELEASE.2024-01-15T00-00-00Z").is_some() && Version::behind_a_word("edge").is_none());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,30}|v?[0-9]{1,40}(\\.[0-9]{1,3}){0,5}[._-]{0,2}[a-z0-9._-]{0,12}") {
            if let Some(version) = Version::parse(&text) {
                let _ = (version.to_semver(), version.is_plain(), version.precision());
            }
            let _ = (Version::behind_a_word(&text), Bound::parse(&text));
        }

        #[test]
        fn precedence_is_an_order(
            tags in proptest::collection::vec("v?[0-9]{1,2}(\\.[0-9]{1,2}){0,3}(-?(rc|alpha|b)[0-9]{0,2})?(-alpine)?", 3),
        ) {
            let versions: Vec<Version> = tags.iter().filter_map(|tag| Version::parse(tag)).collect();
            if let [a, b, c] = versions.as_slice() {
                prop_assert_eq!(a.precedence(b), b.precedence(a).reverse());
                if a.precedence(b).is_le() && b.precedence(c).is_le() {
                    prop_assert!(a.precedence(c).is_le(), "{:?}", tags);
                }
            }
        }

        #[test]
        fn where_semver_knows_a_version_we_agree_with_it(
            numbers in proptest::collection::vec((0u64..50, 0u64..50, 0u64..50, proptest::option::of(0u64..30)), 2),
        ) {
            let of = |(major, minor, patch, pre): (u64, u64, u64, Option<u64>)| {
                format!("{major}.{minor}.{patch}{}", pre.map(|pre| format!("-rc.{pre}")).unwrap_or_default())
            };
            let (a, b) = (of(numbers[0]), of(numbers[1]));
            let expected = semver::Version::parse(&a).unwrap().cmp(&semver::Version::parse(&b).unwrap());
            prop_assert_eq!(Version::parse(&a).unwrap().precedence(&Version::parse(&b).unwrap()), expected);
            prop_assert_eq!(Version::parse(&a).unwrap().to_semver().unwrap().to_string(), a);
        }
    }
}
