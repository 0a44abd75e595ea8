//! What selectors choose, refuse and count.

use super::*;
use proptest::prelude::*;

fn strings(tags: &[&str]) -> Vec<String> {
    tags.iter().map(|tag| (*tag).to_owned()).collect()
}

/// What is chosen where no date is known.
fn choose(selector: &Selector, listed: &[String]) -> Selected {
    selector.select(listed, &Dates::new(), Timestamp::UNIX_EPOCH)
}

const LISTED: [&str; 10] =
    ["3.20", "3.20.1", "3.21", "3.21.0-alpine", "3.22_rc1", "latest", "edge", "V3", "sha256-abc.sig", "sha256-0123456789abcdef"];

#[test]
fn globs_are_a_union_minus_exclude_and_exact_tags_are_never_cut() {
    for (tags, exclude, expected, missing) in [
        ("3.20", "", &["3.20"][..], &[][..]),
        ("3.20;3.99;3.20", "", &["3.20", "3.99"], &["3.99"]),
        ("*", "", &["3.20", "3.20.1", "3.21", "3.21.0-alpine", "3.22_rc1", "V3", "edge", "latest"], &[]),
        ("3.2?", "", &["3.20", "3.21"], &[]),
        ("3.2[12]*", "*rc*", &["3.21", "3.21.0-alpine"], &[]),
        ("3.2[!12]*", "", &["3.20", "3.20.1"], &[]),
        ("{3.21{,.0-alpine},e*}", "", &["3.21", "3.21.0-alpine", "edge"], &[]),
        ("*.1;*alpine", "", &["3.20.1", "3.21.0-alpine"], &[]),
        ("v*", "", &[], &[]),
        ("*;3.20", "*", &["3.20"], &[]),
        ("3.20", "3.20", &["3.20"], &[]),
        ("3.2*", "3.20;*.*.*", &["3.21", "3.22_rc1"], &[]),
        ("*.sig", "", &[], &[]),
        ("sha256-*", "", &[], &[]),
        ("sha256-abc.sig", "", &["sha256-abc.sig"], &[]),
    ] {
        let selected = choose(&Selector::parse(tags, exclude).unwrap(), &strings(&LISTED));
        assert_eq!(selected.tags, expected, "{tags} - {exclude}");
        assert_eq!(selected.missing, missing, "{tags} - {exclude}");
    }
}

#[test]
fn every_stage_is_counted() {
    let mut listed = strings(&LISTED);
    listed.push("3.20".into());
    listed.push("../etc/passwd".into());
    listed.push("\x1b[2J".into());
    let selected = choose(&Selector::parse("3.2*;nightly", "*rc*;3.20").unwrap(), &listed);
    assert_eq!(selected.counts.to_string(), "12 tags listed, 8 candidates, 5 matched, 2 excluded, 1 exact added: 4 selected");
    assert_eq!(selected.tags, ["3.20.1", "3.21", "3.21.0-alpine", "nightly"]);
    assert_eq!(selected.missing, ["nightly"]);
}

#[test]
fn a_listing_is_needed_for_globs_only() {
    let exact = Selector::parse("b;a;b", "x*").unwrap();
    assert!(!exact.needs_listing());
    assert_eq!(exact.exact_tags(), ["b", "a"]);
    assert_eq!(exact.sole_tag(), None);
    assert_eq!(choose(&exact, &[]).tags, ["a", "b"]);
    assert_eq!(Selector::parse(" a ;", "").unwrap().sole_tag(), Some("a"));
    let globs = Selector::parse("a;b*", "").unwrap();
    assert!(globs.needs_listing());
    assert_eq!(globs.sole_tag(), None);
}

#[test]
fn the_columns_can_be_written_back() {
    let selector = Selector::parse(" 3.2* ;; latest ", " *rc* ; ").unwrap();
    assert_eq!((selector.tags_column(), selector.exclude_column()), ("3.2*;latest", "*rc*"));
    assert_eq!(Selector::parse(selector.tags_column(), selector.exclude_column()).unwrap(), selector);
}

/// Terms over what a registry really lists, and what they choose.
#[test]
fn terms_choose_as_people_mean_them() {
    let nginx = "latest stable mainline alpine perl 1 1.27 1.27.3 1.27.2 1.26.2 1.26.1 1.25.5 1.9.15 stable-alpine 1-alpine 1.27-alpine \
                 1.27.3-alpine 1.27.3-alpine3.20 1.26.2-alpine 1.27.3-alpine-slim 1.27.3-bookworm-perl sha256-0123.sig";
    let postgres =
        "latest bookworm 17 17.2 17.1 17.0 17rc1 17beta3-bookworm 16 16.6 16.5 16.6-bookworm 17.2-bookworm 17.2-alpine3.21 9.6 9.6.24";
    let python =
        "latest 3 3.13 3.13.1 3.13.0 3.12.8 3.12.7 3.9.21 3.14-rc 3.14.0a3 3.14.0a3-slim 3.13.0rc1-slim 3.13.1-slim 3.12.8-slim slim";
    let kubernetes = "v1.32.0 v1.32.0-rc.2 v1.32.0-beta.0 v1.31.4 v1.31.3 v1.31.10 v1.30.8 v1.9.0 v1.33.0-alpha.0";
    for (listed, tags, exclude, expected) in [
        (nginx, r"/^1\.2[67]\.\d+$/", "", "1.26.1 1.26.2 1.27.2 1.27.3"),
        (nginx, "semver:>=1.26 <2", "1.27", "1.26.1 1.26.2 1.27.2 1.27.3"),
        (nginx, "semver:>=1.26.0 <2-alpine", "", "1.26.2-alpine 1.27-alpine 1.27.3-alpine"),
        (nginx, "*.*.*;latest:2", "*-*", "1.27.2 1.27.3"),
        (nginx, "latest:2", "", "1.27.2 1.27.3"),
        (nginx, "latest:1;stable", "", "1.27.3 stable"),
        (nginx, "latest;semver:~1.27.0", "", "1.27 1.27.2 1.27.3 latest"),
        (nginx, "/alpine$/;latest:1", "", "1.27.3-alpine"),
        (nginx, "/ALPINE$/;/(?i)^STABLE/", "", "stable stable-alpine"),
        (nginx, "semver:1.9;*perl", "/^1.*-/", "1.25.5 1.26.1 1.26.2 1.27 1.27.2 1.27.3 1.9.15 perl"),
        (postgres, "semver:>=16 <18", "", "16 16.5 16.6 17 17.0 17.1 17.2"),
        (postgres, "semver:17-bookworm", "", "17.2-bookworm"),
        (postgres, "latest:3", r"/^\d+$/", "17.0 17.1 17.2"),
        (postgres, "semver:>=17-beta", "", "17 17.0 17.1 17.2 17rc1"),
        (python, "semver:>=3.12.0,<3.14;latest:2", "", "3.13.0 3.13.1"),
        (python, "semver:>=3.13.0-rc1-slim", "", "3.13.0rc1-slim 3.13.1-slim"),
        (python, "semver:>=3.14.0a1", "", "3.14-rc 3.14.0a3"),
        (kubernetes, "latest:2", "", "v1.31.10 v1.32.0"),
        (kubernetes, "semver:>=1.31,<1.33", "", "v1.31.10 v1.31.3 v1.31.4 v1.32.0"),
        (kubernetes, "semver:>=1.32.0-rc.0", "", "v1.32.0 v1.32.0-rc.2"),
        (kubernetes, "v1.3?.*;latest:1", "/-(rc|beta|alpha)/", "v1.32.0"),
        ("2023.12.1 2024.01.15 2024.1.2 2024.01 20240115 3.1", "semver:>=2024 <3000", "", "2024.01 2024.01.15 2024.1.2"),
        ("a b", "latest:3", "", ""),
    ] {
        let listed: Vec<String> = listed.split_whitespace().map(str::to_owned).collect();
        let selected = choose(&Selector::parse(tags, exclude).unwrap(), &listed);
        assert_eq!(selected.tags.join(" "), expected, "{tags} - {exclude}");
    }
}

#[test]
fn dates_cut_by_age_first_then_by_count_and_versions_last() {
    let now: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
    let dated = |tag: &str, date: &str| (tag.to_owned(), format!("{date}T00:00:00Z").parse().unwrap());
    let dates = Dates::from([
        dated("1.9", "2025-01-01"),
        dated("1.10", "2026-01-20"),
        dated("2.0", "2026-02-10"),
        dated("1.9.1", "2026-02-20"),
        dated("edge", "2026-02-28"),
        dated("1.11", "2026-02-20"),
    ]);
    let mut listed: Vec<String> = dates.keys().cloned().collect();
    listed.push("undated".to_owned());
    for (tags, expected, told) in [
        ("newest:2", "1.11 edge", "7 tags listed, 7 candidates, 7 matched, 0 excluded, 5 cut by newest: 2 selected"),
        ("newest:3", "1.11 1.9.1 edge", "7 tags listed, 7 candidates, 7 matched, 0 excluded, 4 cut by newest: 3 selected"),
        (
            "max-age:30d",
            "1.11 1.9.1 2.0 edge",
            "7 tags listed, 7 candidates, 7 matched, 0 excluded, 3 too old (1 without a date): 4 selected",
        ),
        (
            "latest:1;newest:3",
            "1.11",
            "7 tags listed, 7 candidates, 7 matched, 0 excluded, 4 cut by newest, 2 cut by latest (1 not in its order): 1 selected",
        ),
        (
            "1.*;max-age:45d;newest:2;latest:1;1.9",
            "1.11 1.9",
            "7 tags listed, 7 candidates, 4 matched, 0 excluded, 1 too old, 1 cut by newest, 1 cut by latest, 1 exact added: 2 selected",
        ),
        (
            "newest:7",
            "1.10 1.11 1.9 1.9.1 2.0 edge undated",
            "7 tags listed, 7 candidates, 7 matched, 0 excluded, 0 cut by newest: 7 selected",
        ),
        (
            "1.1?;/^1/;semver:<3;newest:9",
            "1.10 1.11 1.9 1.9.1 2.0",
            "7 tags listed, 7 candidates, 5 matched (2 by glob, 2 by regex, 1 by semver), 0 excluded, 0 cut by newest: 5 selected",
        ),
    ] {
        let selected = Selector::parse(tags, "").unwrap().select(&listed, &dates, now);
        assert_eq!((selected.tags.join(" ").as_str(), selected.counts.to_string().as_str()), (expected, told), "{tags}");
    }
    let needs = |tags: &str| {
        let selector = Selector::parse(tags, "").unwrap();
        selector.needs_dates(&selector.matched(&listed))
    };
    assert!(needs("newest:6") && needs("max-age:1d;1.9") && needs("1.*;newest:3"));
    assert!(!needs("newest:7") && !needs("latest:1") && !needs("1.9*;newest:2") && !needs("none*;max-age:1d"));
}

#[test]
fn what_cannot_be_meant_is_refused_with_a_reason() {
    for (tags, exclude, reason) in [
        ("semver:>=x.y", "", "`semver:>=x.y`: `x.y` goes on behind a wildcard"),
        ("3.20;latest:0", "", "`latest:0`: how many? A number of 1 or more belongs behind the colon"),
        ("newest:", "", "`newest:`: how many? A number of 1 or more belongs behind the colon"),
        ("*;max-age:30", "", "`max-age:30`: `30` is not an age: write it like 12h, 30d or 8w"),
        ("latest:3;*;latest:5", "", "`latest:5`: `latest` is there twice"),
        ("/(v1;2$/", "", "`/(v1;2$/` is not a regex: unclosed group"),
        ("*", "3.20;/rc;(/", "`/rc;(/` is not a regex: unclosed group"),
        ("*", "newest:3", "`newest:3`: `exclude` takes tags, globs and regexes, not newest"),
        ("*", "semver:<1", "`semver:<1`: `exclude` takes tags, globs and regexes, not semver"),
        ("/rc", "", "`/rc`: a regex stands between two slashes"),
        ("/", "", "`/`: a regex stands between two slashes"),
        ("", "*rc*", "`exclude` without `tags` (write `*` in `tags` to choose from all tags)"),
        (" ; ", "", "`tags` holds no term (write `*` for all tags)"),
        ("alpine:3.20", "", "`alpine:3.20` is not a tag (letters, digits, `.`, `_`, `-`; at most 128)"),
        ("3.20, 3.21", "", "`3.20, 3.21` is not a tag (letters, digits, `.`, `_`, `-`; at most 128); several tags are separated by `;`"),
        ("a/*", "", "`a/*`: `/` stands in no tag"),
        ("[a", "", "`[a` is not a glob: unclosed character class; missing ']'"),
        ("[z-a]", "", "`[z-a]` is not a glob: invalid range; 'z' > 'a'"),
    ] {
        assert_eq!(Selector::parse(tags, exclude).unwrap_err(), reason, "{tags} - {exclude}");
    }
}

#[test]
fn monstrous_globs_are_refused_or_compiled_but_never_break_the_program() {
    for monster in ["{".repeat(500) + &"}".repeat(500), "{a,b}".repeat(200), "*".repeat(1000), "[".repeat(1000), "{".repeat(1_000_000)] {
        if let Ok(selector) = Selector::parse(&monster, "") {
            choose(&selector, &strings(&LISTED));
        }
    }
    assert!(Selector::parse(&"*".repeat(1025), "").unwrap_err().contains("1024"));
}

/// `*` and `?` the slow and obvious way, as an oracle.
fn naive(glob: &[u8], tag: &[u8]) -> bool {
    match (glob.split_first(), tag.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) if naive(rest, tag) => true,
        (Some((b'*', _)), Some((_, tail))) => naive(glob, tail),
        (Some((b'?', rest)), Some((_, tail))) => naive(rest, tail),
        (Some((a, rest)), Some((b, tail))) => a == b && naive(rest, tail),
        _ => false,
    }
}

proptest! {
    #[test]
    fn parsing_never_panics(tags in "\\PC{0,40}|(semver:|latest:|newest:|max-age:|/)[0-9a-z.<>=/;* -]{0,30}", exclude in "[a-c*?;/{}\\[\\],!: -]{0,30}", swap: bool) {
        let (tags, exclude) = if swap { (exclude, tags) } else { (tags, exclude) };
        if let Ok(selector) = Selector::parse(&tags, &exclude) {
            let again = Selector::parse(selector.tags_column(), selector.exclude_column());
            prop_assert_eq!(again.as_ref(), Ok(&selector));
            choose(&selector, &strings(&LISTED));
        }
    }

    #[test]
    fn globs_choose_what_they_say(
        listed in proptest::collection::vec("[ab1.]{0,4}|sha256-[ab]|[a-z./]{1,3}", 0..20),
        tags in proptest::collection::vec("[ab1][ab1.*?]{0,3}|\\*|\\?", 1..4),
        exclude in proptest::collection::vec("[ab1][ab1.*?]{0,3}", 0..3),
    ) {
        let selector = Selector::parse(&tags.join(";"), &exclude.join(";")).unwrap();
        let selected = choose(&selector, &listed);
        let chosen = |tag: &String| {
            is_candidate(tag)
                && tags.iter().any(|glob| glob.contains(['*', '?']) && naive(glob.as_bytes(), tag.as_bytes()))
                && !exclude.iter().any(|term| naive(term.as_bytes(), tag.as_bytes()))
        };
        let mut expected: BTreeSet<String> = listed.iter().filter(|tag| chosen(tag)).cloned().collect();
        prop_assert_eq!(expected.len(), selected.counts.chosen());
        expected.extend(selector.exact_tags().iter().cloned());
        prop_assert_eq!(selected.tags, expected.into_iter().collect::<Vec<_>>());
        for tag in selector.exact_tags() {
            prop_assert_eq!(selected.missing.contains(tag), !listed.contains(tag));
        }
    }

    #[test]
    fn selection_is_order_free_and_its_counts_add_up(
        listed in proptest::collection::vec(
            "v?[0-9]{1,2}(\\.[0-9]{1,2}){0,2}(-alpine|-rc[0-9]|rc[0-9]-slim)?|[a-z]{1,3}|sha256-[ab]|[a-z./]{1,3}", 0..24),
        shuffle in any::<u64>(),
        chosen in proptest::collection::vec("[0-9]\\*|\\*|/[0-9]\\.[0-9]/|semver:>=[0-9]|semver:<[0-9]-alpine|/rc/|[0-9]\\.[0-9]|edge", 0..4),
        cuts in "(max-age:[1-9]d;)?(newest:[1-9];)?(latest:[1-9];)?",
        exclude in "(/rc/)?;(1\\*)?",
        ages in proptest::collection::vec(proptest::option::of(0i64..20), 24),
    ) {
        let tags = format!("{cuts}{}", chosen.join(";"));
        let Ok(selector) = Selector::parse(&tags, &exclude) else { return Ok(()) };
        let now: Timestamp = "2026-01-21T00:00:00Z".parse().unwrap();
        let dates: Dates = listed
            .iter()
            .zip(&ages)
            .filter_map(|(tag, age)| Some((tag.clone(), now.checked_sub(std::time::Duration::from_secs(86_400 * u64::try_from((*age)?).ok()?)).ok()?)))
            .collect();
        let selected = selector.select(&listed, &dates, now);
        let mut shuffled = listed.clone();
        shuffled.rotate_left(usize::try_from(shuffle % 24).unwrap().min(listed.len()));
        shuffled.reverse();
        shuffled.extend(listed.first().cloned());
        prop_assert_eq!(&selector.select(&shuffled, &dates, now), &selected);

        let counted = selected.counts;
        prop_assert!(counted.listed >= counted.candidates && counted.candidates >= counted.matched);
        prop_assert_eq!(counted.matched, counted.by_glob + counted.by_regex + counted.by_semver + counted.by_default);
        let dropped = counted.excluded + counted.too_old + counted.cut_by_newest + counted.cut_by_latest;
        prop_assert_eq!(counted.matched - dropped, counted.chosen());
        prop_assert!(counted.undated <= counted.too_old && counted.unranked <= counted.cut_by_latest);
        prop_assert_eq!(counted.selected(), selected.tags.len());
        prop_assert!(selected.tags.windows(2).all(|pair| pair[0] < pair[1]), "sorted, each once");
        let matched = selector.matched(&listed);
        prop_assert!(counted.chosen() <= selector.most(&matched));
        if !selector.needs_dates(&matched) {
            prop_assert_eq!(&selector.select(&listed, &Dates::new(), now), &selected, "dates do not matter");
        }
    }
}
