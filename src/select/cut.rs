//! `max-age:30d`, `newest:N`, `latest:N`: cut the chosen tags, in this order.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{Span, SpanRelativeTo, Timestamp};

use super::version::{Version, natural};

/// A century, in days: the largest age, so that subtracting it from a date cannot fail.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

/// When the images of tags were created. Tags that are missing here have no date.
pub type Dates = BTreeMap<String, Timestamp>;

/// A term that cuts.
#[derive(Debug, Clone, Copy)]
pub(super) enum CutTerm {
    MaxAge(Duration),
    Newest(usize),
    Latest(usize),
}

/// The terms that cut, each at most once.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CutTerms {
    pub(super) max_age: Option<Duration>,
    pub(super) newest: Option<usize>,
    pub(super) latest: Option<usize>,
}

impl CutTerms {
    /// Adds a term; the error is a message.
    pub(super) fn add(&mut self, term: &str, cut: CutTerm) -> Result<(), String> {
        let was_there = match cut {
            CutTerm::MaxAge(age) => self.max_age.replace(age).is_some(),
            CutTerm::Newest(count) => self.newest.replace(count).is_some(),
            CutTerm::Latest(count) => self.latest.replace(count).is_some(),
        };
        match (was_there, term.split_once(':')) {
            (true, Some((kind, _))) => Err(format!("`{term}`: `{kind}` is there twice")),
            _ => Ok(()),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.max_age.is_none() && self.newest.is_none() && self.latest.is_none()
    }
}

/// Parses the N of `term`.
pub(super) fn count(term: &str, text: &str) -> Result<usize, String> {
    let number = Some(text.trim()).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())).and_then(|text| text.parse().ok());
    number.filter(|count| *count > 0).ok_or_else(|| format!("`{term}`: how many? A number of 1 or more belongs behind the colon"))
}

/// Parses the age of `term`.
pub(super) fn age(term: &str, text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{term}`: `{}` is not an age: write it like 12h, 30d or 8w", text.trim());
    let span: Span = text.trim().parse().map_err(|_| wrong())?;
    let length = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    Duration::try_from(length).ok().filter(|age| !age.is_zero() && *age <= LONGEST).ok_or_else(wrong)
}

/// Whether the image was created at most `age` before `now`.
pub(super) fn is_young(created: Option<&Timestamp>, age: Duration, now: Timestamp) -> bool {
    // Nothing was created before the earliest representable time.
    let oldest = now.checked_sub(age).unwrap_or(Timestamp::MIN);
    created.is_some_and(|created| *created >= oldest)
}

/// The `count` newest of `tags`, by creation date; those of the same date by version. Tags without a date come last.
pub(super) fn newest(tags: Vec<String>, count: usize, dates: &Dates) -> Vec<String> {
    let mut ranked: Vec<(Option<Timestamp>, Rank, String)> =
        tags.into_iter().map(|tag| (dates.get(&tag).copied(), Rank::of(&tag), tag)).collect();
    ranked.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| b.1.compare(&a.1)).then_with(|| b.2.cmp(&a.2)));
    ranked.into_iter().take(count).map(|(.., tag)| tag).collect()
}

/// The result of `latest:N`.
pub(super) struct Latest {
    pub(super) tags: Vec<String>,
    /// How many tags have no place in the order: those without a version and, if only plain versions count, the others.
    pub(super) unranked: usize,
    /// Of these, the releases that look newer than everything that is kept; the newest first.
    pub(super) newer: Vec<String>,
}

/// The `count` latest of `tags`, by version. `chosen`: whether globs, regexes or ranges chose the tags; otherwise only
/// releases count, and of them the plain ones, if there are any.
pub(super) fn latest(tags: Vec<String>, count: usize, chosen: bool) -> Latest {
    let all = tags.len();
    let mut ranked: Vec<(Rank, String)> = tags.into_iter().map(|tag| (Rank::of(&tag), tag)).filter(|(rank, _)| rank.is_some()).collect();
    let mut variants = vec![];
    if !chosen {
        ranked.retain(|(rank, _)| rank.is(|version| !version.is_prerelease()));
        if ranked.iter().any(|(rank, _)| rank.is(Version::is_plain)) {
            (ranked, variants) = ranked.into_iter().partition(|(rank, _)| rank.is(Version::is_plain));
        }
    }
    let unranked = all - ranked.len();
    let latest_first = |(a, a_tag): &(Rank, String), (b, b_tag): &(Rank, String)| b.compare(a).then_with(|| b_tag.cmp(a_tag));
    ranked.sort_by(latest_first);
    if let Some((Rank::Version(latest), _)) = ranked.first() {
        variants.retain(|(rank, _)| rank.is(|version| version.is_newer_than(latest)));
    }
    variants.sort_by(latest_first);
    let newer = variants.into_iter().map(|(_, tag)| tag).collect();
    Latest { tags: ranked.into_iter().take(count).map(|(_, tag)| tag).collect(), unranked, newer }
}

/// The rank of a tag among versions: higher is later.
enum Rank {
    /// It has no version.
    None,
    /// Its version follows a word (`bookworm-20240110`): before all tags that begin with a version.
    Worded(Version),
    Version(Version),
}

impl Rank {
    fn of(tag: &str) -> Self {
        match (Version::parse(tag), Version::behind_a_word(tag)) {
            (Some(version), _) => Rank::Version(version),
            (None, Some(version)) => Rank::Worded(version),
            (None, None) => Rank::None,
        }
    }

    fn is_some(&self) -> bool {
        !matches!(self, Rank::None)
    }

    /// Whether the tag begins with a version for which `what` is true.
    fn is(&self, what: impl Fn(&Version) -> bool) -> bool {
        matches!(self, Rank::Version(version) if what(version))
    }

    /// By version; of one version, the plain image after its variants, and the longer tag after the shorter one
    /// (`1.27.0` after `1.27`, which will move).
    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Rank::Version(a), Rank::Version(b)) | (Rank::Worded(a), Rank::Worded(b)) => a
                .precedence(b)
                .then_with(|| a.variant().is_empty().cmp(&b.variant().is_empty()))
                .then_with(|| natural(a.variant(), b.variant()))
                .then_with(|| natural(a.build(), b.build()))
                .then_with(|| a.precision().cmp(&b.precision())),
            _ => self.class().cmp(&other.class()),
        }
    }

    fn class(&self) -> u8 {
        match self {
            Rank::None => 0,
            Rank::Worded(_) => 1,
            Rank::Version(_) => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kept(tags: &str, count: usize, chosen: bool) -> String {
        latest(tags.split(' ').map(str::to_owned).collect(), count, chosen).tags.join(" ")
    }

    #[test]
    fn the_latest_of_real_histories() {
        let nginx =
            "latest stable mainline 1 1.27 1.27.3 1.27.2 1.26.2 1.9.15 1.27.3-alpine 1.27.3-alpine3.20 1.27-alpine perl 1.27.3-perl";
        assert_eq!(kept(nginx, 3, false), "1.27.3 1.27.2 1.27");
        assert_eq!(kept("1.28.0 1.28 1.27.5 1", 2, false), "1.28.0 1.28");
        assert_eq!(
            kept("1.27.3-alpine 1.27.3-alpine3.20 1.27.2-alpine 1.27-alpine mainline-alpine", 3, true),
            "1.27.3-alpine3.20 1.27.3-alpine 1.27.2-alpine"
        );
        let kubernetes = "v1.31.0-rc.1 v1.31.0-rc.0 v1.31.0-alpha.3 v1.30.4 v1.30.10 v1.30.9";
        assert_eq!(kept(kubernetes, 2, false), "v1.30.10 v1.30.9", "pre-releases only when asked for");
        assert_eq!(kept(kubernetes, 2, true), "v1.31.0-rc.1 v1.31.0-rc.0");
        // If every tag has a suffix, there is no plain version to prefer.
        assert_eq!(kept("v1.31.1-k3s1 v1.31.1-rc1-k3s1 v1.30.5-k3s1 v1.31.1-k3s2", 2, false), "v1.31.1-k3s2 v1.31.1-k3s1");
        assert_eq!(kept("3.5.15-0 3.5.16-0 3.5.9-0", 2, false), "3.5.16-0 3.5.15-0");
        // A bare number after the version is a revision: etcd's plain tags ended in 2017.
        assert_eq!(kept("2.2.1 3.0.17 3.5.3-0 3.5.4-0 3.5.4-1 3.5.4-0-arm64", 2, false), "3.5.4-1 3.5.4-0");
        assert_eq!(kept("2024-01-15 2024-02-01 2023-12-31", 1, false), "2024-02-01");
        assert_eq!(kept("109.0.0_up1.0.0 109.0.1_up1.0.2 109.0.1_up1.0.10 108.0.0_up0.25.0", 2, false), "109.0.1_up1.0.10 109.0.1_up1.0.2");
        assert_eq!(kept("1.2.3-rc1_abcdefgh 1.2.2_deadbeef 1.2.1", 1, false), "1.2.2_deadbeef");
        assert_eq!(kept("9.6 10 9.6.24 17beta1 16.4 17rc1", 2, false), "16.4 10");
        assert_eq!(kept("2024.01.15 2024.1.9 2023.12.31", 2, false), "2024.01.15 2024.1.9");
        assert_eq!(kept("99999999999999999999999 2 18446744073709551616", 2, false), "99999999999999999999999 18446744073709551616");
        // A version after a word counts as a version if the list chose such tags.
        let debian = "bookworm-20240110 bookworm-20231218 bookworm";
        assert_eq!((kept(debian, 1, true), kept(debian, 1, false)), ("bookworm-20240110".to_owned(), String::new()));
        assert_eq!(kept("edge-2 1.0", 1, true), "1.0");
        let minio = "RELEASE.2024-01-05T22-17-24Z RELEASE.2023-12-23T07-19-11Z RELEASE.2024-01-16T16-07-38Z";
        assert_eq!(kept(minio, 2, true), "RELEASE.2024-01-16T16-07-38Z RELEASE.2024-01-05T22-17-24Z");
    }

    #[test]
    fn newer_looking_tags_outside_of_the_order_are_told() {
        let newer = |tags: &str, chosen| latest(tags.split(' ').map(str::to_owned).collect(), 1, chosen).newer.join(" ");
        assert_eq!(newer("1.0.0 1.0.0-alpine 2.0.0-alpine 2.1.0-slim 3.0.0-rc1", false), "2.1.0-slim 2.0.0-alpine");
        assert_eq!(newer("1.0.0 1.0.0-alpine latest edge-7", false), "");
        assert_eq!(newer("1.0.0 2.0.0-alpine", true), "", "chosen by name: then it is in the order");
    }

    #[test]
    fn counts_and_ages_are_read() {
        assert_eq!(count("latest:3", "3"), Ok(3));
        for text in ["", "0", "-1", "+1", "three", "1.5", "99999999999999999999999"] {
            assert!(count("latest:", text).unwrap_err().contains("1 or more"), "{text}");
        }
        for (text, hours) in [("12h", 12), ("30d", 720), ("8w", 1344), ("1d12h", 36), (" 2 days ", 48)] {
            assert_eq!(age("max-age:", text), Ok(Duration::from_secs(hours * 3600)), "{text}");
        }
        for text in ["", "30", "0d", "-3d", "1y", "1mo", "999999d", "999999999999999999d", "soon"] {
            assert!(age("max-age:", text).unwrap_err().contains("12h, 30d or 8w"), "{text}");
        }
    }

    #[test]
    fn an_age_is_measured_from_now() {
        let now: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
        let day = Duration::from_secs(24 * 3600);
        let at = |text: &str| Some(text.parse::<Timestamp>().unwrap());
        assert!(is_young(at("2026-02-28T00:00:00Z").as_ref(), day, now));
        assert!(is_young(at("2026-03-02T00:00:00Z").as_ref(), day, now), "clocks differ");
        assert!(!is_young(at("2026-02-27T23:59:59Z").as_ref(), day, now));
        assert!(!is_young(None, day, now));
        assert!(is_young(Some(&Timestamp::MIN), LONGEST, Timestamp::MIN));
    }

    proptest! {
        #[test]
        fn latest_keeps_the_highest_whatever_the_order(
            tags in proptest::collection::btree_set("v?[0-9]{1,3}(\\.[0-9]{1,2}){0,3}(rc1|-rc\\.2|-alpine)?|[a-z]{1,4}|[a-z]-[0-9]", 0..12),
            count in 1usize..5,
            chosen: bool,
        ) {
            let tags: Vec<String> = tags.into_iter().collect();
            let all = latest(tags.clone(), usize::MAX, chosen);
            prop_assert_eq!(all.tags.len() + all.unranked, tags.len());
            let mut reversed = tags.clone();
            reversed.reverse();
            let some = latest(reversed, count, chosen).tags;
            prop_assert_eq!(&some[..], &all.tags[..count.min(all.tags.len())]);
        }
    }
}
