//! What selectors choose, refuse and count.

use super::*;
use proptest::prelude::*;

fn strings(tags: &[&str]) -> Vec<String> {
    tags.iter().map(|tag| (*tag).to_owned()).collect()
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
        let selected = Selector::parse(tags, exclude).unwrap().select(&strings(&LISTED));
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
    let selected = Selector::parse("3.2*;nightly", "*rc*;3.20").unwrap().select(&listed);
    assert_eq!(selected.attrition, Attrition { listed: 12, candidates: 8, matched: 5, excluded: 2 });
    assert_eq!(selected.tags, ["3.20.1", "3.21", "3.21.0-alpine", "nightly"]);
    assert_eq!(selected.missing, ["nightly"]);
}

#[test]
fn a_listing_is_needed_for_globs_only() {
    let exact = Selector::parse("b;a;b", "x*").unwrap();
    assert!(!exact.needs_listing());
    assert_eq!(exact.exact_tags(), ["b", "a"]);
    assert_eq!(exact.sole_tag(), None);
    assert_eq!(exact.select(&[]).tags, ["a", "b"]);
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

#[test]
fn what_cannot_be_meant_is_refused_with_a_reason() {
    for (tags, exclude, reason) in [
        ("semver:>=1.2", "", "`semver:>=1.2`: semver terms are not in this version of larder"),
        ("3.20;latest:5", "", "`latest:5`: latest:N terms are not in this version of larder"),
        ("newest:3", "", "`newest:3`: newest:N terms are not in this version of larder"),
        ("*;max-age:30d", "", "`max-age:30d`: max-age terms are not in this version of larder"),
        ("/^v1;2$/", "", "`/^v1;2$/`: regex terms are not in this version of larder"),
        ("*", "3.20;/rc;x/", "`/rc;x/`: regex terms are not in this version of larder"),
        ("*", "semver:<1", "`semver:<1`: `exclude` takes tags, globs and regexes, not semver"),
        ("/rc", "", "`/rc`: a regex ends with `/`"),
        ("/", "", "`/`: a regex ends with `/`"),
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
            selector.select(&strings(&LISTED));
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
    fn parsing_never_panics(tags in "\\PC{0,40}", exclude in "[a-c*?;/{}\\[\\],!: -]{0,30}", swap: bool) {
        let (tags, exclude) = if swap { (exclude, tags) } else { (tags, exclude) };
        if let Ok(selector) = Selector::parse(&tags, &exclude) {
            let again = Selector::parse(selector.tags_column(), selector.exclude_column());
            prop_assert_eq!(again.as_ref(), Ok(&selector));
            selector.select(&strings(&LISTED));
        }
    }

    #[test]
    fn selection_is_order_free_and_its_counts_add_up(
        listed in proptest::collection::vec("[ab1.]{0,4}|sha256-[ab]|[a-z./]{1,3}", 0..20).prop_shuffle(),
        seed in any::<u64>(),
        tags in proptest::collection::vec("[ab1][ab1.*?]{0,3}|\\*|\\?", 1..4),
        exclude in proptest::collection::vec("[ab1][ab1.*?]{0,3}", 0..3),
    ) {
        let selector = Selector::parse(&tags.join(";"), &exclude.join(";")).unwrap();
        let selected = selector.select(&listed);
        let mut shuffled = listed.clone();
        shuffled.rotate_left(usize::try_from(seed % 20).unwrap().min(listed.len()));
        shuffled.reverse();
        shuffled.extend(listed.first().cloned());
        prop_assert_eq!(&selector.select(&shuffled), &selected);

        let Attrition { listed: all, candidates, matched, excluded } = selected.attrition;
        prop_assert!(all >= candidates && candidates >= matched && matched >= excluded);
        prop_assert!(selected.tags.windows(2).all(|pair| pair[0] < pair[1]), "sorted, each once");
        let chosen = |tag: &String| {
            is_candidate(tag)
                && tags.iter().any(|glob| glob.contains(['*', '?']) && naive(glob.as_bytes(), tag.as_bytes()))
                && !exclude.iter().any(|term| naive(term.as_bytes(), tag.as_bytes()))
        };
        let mut expected: BTreeSet<String> = listed.iter().filter(|tag| chosen(tag)).cloned().collect();
        prop_assert_eq!(expected.len(), matched - excluded);
        expected.extend(selector.exact_tags().iter().cloned());
        prop_assert_eq!(selected.tags, expected.into_iter().collect::<Vec<_>>());
        for tag in selector.exact_tags() {
            prop_assert_eq!(selected.missing.contains(tag), !listed.contains(tag));
        }
    }
}
