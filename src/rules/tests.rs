use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::content::{IndexMode, Policy, Referrers};
use crate::name::ImageName;

fn rule(name: &str, source: &str, target: &str, line: usize) -> CacheRule {
    CacheRule {
        name: name.to_owned(),
        source: SourcePattern::parse(source).unwrap(),
        target: Pattern::target(target).unwrap(),
        credentials: None,
        delivery: Delivery::Push,
        policy: crate::content::Policy::default(),
        min_tags: 1,
        warm: super::WarmSettings::default(),
        immutable_tags: TagPatterns::default(),
        line,
    }
}

/// Rules named `r0`, `r1`, ... from `(source, target)`, at lines 10, 20, ...
fn rules(pairs: &[(&str, &str)]) -> Vec<CacheRule> {
    pairs.iter().enumerate().map(|(at, (source, target))| rule(&format!("r{at}"), source, target, 10 * (at + 1))).collect()
}

fn set(pairs: &[(&str, &str)]) -> RuleSet {
    RuleSet::new(rules(pairs), Overlap::Error).unwrap()
}

fn repository(text: &str) -> RegistryRepository {
    RegistryRepository::parse(text).unwrap()
}

fn forward(set: &RuleSet, source: &str) -> String {
    match set.forward(&repository(source)) {
        Ok(resolution) => format!("{} by {}", resolution.target, resolution.rule.unwrap().name),
        Err(unresolved) => unresolved.to_string(),
    }
}

#[test]
fn overlaps_are_allowed_and_blocked_as_by_the_artifact_cache() {
    // docs/registries.md, "Azure: wildcards", every pair of it.
    for (pairs, allowed_by_error, allowed_by_longest) in [
        ([("mcr.microsoft.com/*", "*"), ("docker.io/library/*", "library/*")], false, true),
        ([("docker.io/library/*", "library/*"), ("mcr.microsoft.com/dotnet/*", "library/dotnet/*")], false, true),
        ([("mcr.microsoft.com/dotnet/*", "library/dotnet/*"), ("docker.io/library/*", "library/*")], false, true),
        ([("mcr.microsoft.com/*", "*"), ("docker.io/library/*", "*")], false, false),
        ([("mcr.microsoft.com/dotnet/*", "library/dotnet/*"), ("docker.io/library/python/*", "library/python/*")], true, true),
        ([("mcr.microsoft.com/*", "*"), ("docker.io/library/dotnet", "library/dotnet")], true, true),
        ([("docker.io/library/a", "x"), ("docker.io/library/b", "x")], false, false),
        ([("docker.io/library/*", "lib/*"), ("quay.io/library/*", "lib2/*")], true, true),
        ([("docker.io/library/*", "a/*"), ("docker.io/library/*", "b/*")], true, true),
    ] {
        assert_eq!(RuleSet::new(rules(&pairs), Overlap::Error).is_ok(), allowed_by_error, "{pairs:?}");
        assert_eq!(RuleSet::new(rules(&pairs), Overlap::Longest).is_ok(), allowed_by_longest, "{pairs:?}");
    }
}

#[test]
fn an_overlap_names_both_rules_and_their_lines() {
    let findings = RuleSet::new(rules(&[("mcr.microsoft.com/*", "*"), ("docker.io/library/*", "library/*")]), Overlap::Error).unwrap_err();
    assert_eq!(
        findings[0].located(Path::new("larder.toml")),
        "larder.toml:20: rule \"r1\": its target library/* lies inside the target * of rule \"r0\" (line 10) (give one of the two another target)"
    );
}

#[test]
fn all_errors_are_found_at_once() {
    let mut given = rules(&[("docker.io/a/*", "a"), ("docker.io/b", "b"), ("docker.io/c", "c"), ("docker.io/d", "c")]);
    given[1].name = "not a name".to_owned();
    given[2].name = "r0".to_owned();
    let messages: Vec<_> = RuleSet::new(given, Overlap::Error).unwrap_err().into_iter().map(|f| (f.line.unwrap(), f.message)).collect();
    assert_eq!(
        messages,
        [
            (10, "rule \"r0\": `*` must stand on both sides or on neither: docker.io/a/* to a".to_owned()),
            (20, "rule \"not a name\": a name is 1 to 50 letters, digits and hyphens".to_owned()),
            (30, "rule \"r0\": this name is taken by the rule at line 10".to_owned()),
            (40, "rule \"r3\": its target c is also the target c of rule \"r0\" (line 30) (give one of the two another target)".to_owned()),
        ]
    );
}

#[test]
fn a_thousand_rules_are_enough() {
    let many = |count: usize| (0..count).map(|at| rule(&format!("r{at}"), &format!("quay.io/a{at}"), &format!("a{at}"), at)).collect();
    assert!(RuleSet::new(many(1000), Overlap::Error).is_ok());
    assert!(RuleSet::new(many(1001), Overlap::Error).unwrap_err()[0].message.contains("there are 1001 rules; 1000 is the limit"));
}

#[test]
fn names_have_1_to_50_characters() {
    for (name, good) in [("a", true), ("A-9", true), ("", false), ("a_b", false), ("ä", false)] {
        assert_eq!(check_name(name).is_ok(), good, "{name}");
    }
    assert!(check_name(&"x".repeat(50)).is_ok());
    assert!(check_name(&"x".repeat(51)).is_err());
}

#[test]
fn by_source_fixed_goes_before_wildcard_then_the_longest_then_file_order() {
    let set = set(&[
        ("docker.io/*", "hub/*"),
        ("docker.io/library/*", "library/*"),
        ("docker.io/alpine", "special/alpine"),
        ("docker.io/library/*", "again/*"),
    ]);
    for (source, expected) in
        [("alpine", "special/alpine by r2"), ("docker.io/library/nginx", "library/nginx by r1"), ("grafana/loki", "hub/grafana/loki by r0")]
    {
        assert_eq!(forward(&set, source), expected, "{source}");
    }
    assert_eq!(set.by_target("again/nginx").unwrap().rule.unwrap().name, "r3");
}

#[test]
fn by_target_fixed_goes_before_wildcard_then_the_longest() {
    let pairs = [("mcr.microsoft.com/*", "*"), ("docker.io/library/*", "library/*"), ("quay.io/x/dotnet", "library/dotnet")];
    let set = RuleSet::new(rules(&pairs), Overlap::Longest).unwrap();
    for (target, expected) in [
        ("library/dotnet", "quay.io/x/dotnet"),
        ("library/alpine", "docker.io/library/alpine"),
        ("library", "mcr.microsoft.com/library"),
        ("dotnet/sdk", "mcr.microsoft.com/dotnet/sdk"),
    ] {
        assert_eq!(set.reverse(target).unwrap().1.to_string(), expected, "{target}");
    }
}

#[test]
fn a_name_that_another_rule_owns_at_the_target_fails_and_names_the_owner() {
    let with_fixed = set(&[("mcr.microsoft.com/*", "*"), ("docker.io/library/dotnet", "library/dotnet")]);
    assert_eq!(
        forward(&with_fixed, "mcr.microsoft.com/library/dotnet"),
        "mcr.microsoft.com/library/dotnet would become library/dotnet, which rule \"r1\" owns and fills from docker.io/library/dotnet"
    );
    let longest = RuleSet::new(rules(&[("mcr.microsoft.com/*", "*"), ("docker.io/library/*", "library/*")]), Overlap::Longest).unwrap();
    assert!(
        matches!(longest.forward(&repository("mcr.microsoft.com/library/x")), Err(Unresolved::Shadowed { owner, .. }) if owner == "r1")
    );
    assert_eq!(forward(&longest, "mcr.microsoft.com/other/x"), "other/x by r0");
}

#[test]
fn a_given_target_may_not_be_a_name_that_means_another_image() {
    let set = set(&[("docker.io/library/*", "library/*")]);
    let alpine = repository("alpine");
    assert_eq!(set.with_target(&alpine, "library/alpine").unwrap().rule.unwrap().name, "r0");
    assert_eq!(set.with_target(&alpine, "mine/alpine").unwrap().rule, None);
    assert!(matches!(set.with_target(&alpine, "library/nginx"), Err(Unresolved::Shadowed { .. })));
}

#[test]
fn what_no_rule_covers_names_the_nearest() {
    let set = set(&[("quay.io/prom/*", "prom/*"), ("docker.io/library/*", "library/*"), ("docker.io/bitnami/*", "bitnami/*")]);
    for (source, nearest) in
        [("bitnamicharts/redis", "\"r2\" (docker.io/bitnami/* to bitnami/*)"), ("quay.io/x/y", "\"r0\""), ("quux.io/prom/y", "\"r0\"")]
    {
        assert!(forward(&set, source).contains(&format!("the nearest is {nearest}")), "{}", forward(&set, source));
    }
    let error = crate::Error::from(RuleSet::default().forward(&repository("alpine")).unwrap_err());
    assert_eq!(
        error.message(),
        "no cache rule covers docker.io/library/alpine: there are no rules (add a rule to larder.toml, or use --unmatched mirror)"
    );
}

#[test]
fn unmatched_images_are_mirrored_below_their_host() {
    for (source, registry, layout) in [
        ("quay.io/a/b", "quay.io/a/b", "quay.io/a/b"),
        ("127.0.0.1:5000/a", "127.0.0.1_5000/a", "127.0.0.1:5000/a"),
        ("[::1]:5000/a", "0_0_0_0_0_0_0_1_5000/a", "[::1]:5000/a"),
        ("[2001:db8::a]/x", "2001_db8_0_0_0_0_0_a/x", "[2001:db8::a]/x"),
    ] {
        let source = repository(source);
        let set = RuleSet::default();
        assert_eq!(set.resolve(&source, Unmatched::Mirror, true).unwrap().target.as_str(), registry);
        assert_eq!(set.resolve(&source, Unmatched::Mirror, false).unwrap().target.as_str(), layout);
        crate::name::check_path(registry).unwrap();
        assert!(matches!(set.resolve(&source, Unmatched::Fail, true), Err(Unresolved::NoRule { .. })));
    }
    let owned = set(&[("mcr.microsoft.com/*", "*")]);
    assert!(matches!(owned.resolve(&repository("quay.io/a"), Unmatched::Mirror, true), Err(Unresolved::Shadowed { .. })));
    let odd = repository("a___b.io/x");
    assert!(matches!(RuleSet::default().resolve(&odd, Unmatched::Mirror, true), Err(Unresolved::IllegalTarget { .. })));
}

#[test]
fn a_target_name_that_would_be_too_long_is_an_error() {
    let set = set(&[("quay.io/*", "averyveryverylongprefix/*")]);
    let error = set.forward(&repository(&format!("quay.io/{}", "x".repeat(240)))).unwrap_err();
    assert!(error.to_string().ends_with("a repository may have 255 characters"), "{error}");
}

#[test]
fn warnings_tell_of_equal_sources_and_of_the_upstreams_policy() {
    let mut given = rules(&[
        ("docker.io/library/*", "a/*"),
        ("docker.io/library/*", "b/*"),
        ("mcr.microsoft.com/*", "mcr/*"),
        ("quay.io/*", "quay/*"),
        ("dhi.io/*", "dhi/*"),
    ]);
    given[0].credentials = Some("hub".to_owned());
    given[2].credentials = Some("ms".to_owned());
    let set = RuleSet::new(given, Overlap::Error).unwrap();
    let found: Vec<_> = set
        .warnings(false, &|host| (host == "dhi.io").then(|| "hub".to_owned()))
        .into_iter()
        .map(|f| (f.line.unwrap(), f.message))
        .collect();
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].0 == 20 && found[0].1.contains("of rule \"r0\" (line 10)"));
    assert!(found[1].0 == 20 && found[1].1.contains("docker.io wants credentials"));
    assert!(found[2].0 == 30 && found[2].1.contains("credential set \"ms\""));
}

#[test]
fn signatures_that_a_cut_index_loses_are_warned_about() {
    let platforms = vec![crate::content::PlatformFilter::parse("linux/amd64").unwrap()];
    let cut = Policy { platforms, ..Policy::default() };
    for (policy, warned) in [
        (cut.clone(), true),
        (Policy { index: IndexMode::Sparse, ..cut.clone() }, false),
        (Policy { referrers: Referrers::No, ..cut }, false),
        (Policy::default(), false),
    ] {
        let mut given = rules(&[("quay.io/*", "quay/*")]);
        given[0].policy = policy.clone();
        let found = RuleSet::new(given, Overlap::Error).unwrap().warnings(false, &|_| None);
        assert_eq!(found.iter().any(|finding| finding.message.contains("signatures of an index")), warned, "{policy:?}");
    }
}

fn explain(set: &RuleSet, image: &str) -> String {
    let image = ImageName::parse(image).unwrap();
    let view = ExplainContext { target: &|repository| format!("contoso.azurecr.io/{repository}"), credentials: &|_| None };
    set.explain(&image, set.forward(&image.repository), &view).to_string()
}

#[test]
fn an_explanation_tells_the_whole_way() {
    let mut given = rules(&[("docker.io/*", "hub/*"), ("docker.io/library/*", "library/*")]);
    given[1].credentials = Some("hub".to_owned());
    let set = RuleSet::new(given, Overlap::Error).unwrap();
    insta::assert_snapshot!(explain(&set, "alpine:3.20"), @r"
    image: docker.io/library/alpine:3.20
    considered: r1 (docker.io/library/* to library/*), r0 (docker.io/* to hub/*); r1 wins: the longest source goes first
    rule: r1
    source: docker.io/library/alpine:3.20
    target: contoso.azurecr.io/library/alpine:3.20
    credentials: hub
    delivery: push
    pulls: 0 if the target is current; else 1 for a single image, or 1 for an index and 1 for each of its platforms
    ");
    insta::assert_snapshot!(explain(&set, "quay.io/a/b"), @r#"
    image: quay.io/a/b
    considered: none
    rule: none
    source: quay.io/a/b:latest
    target: none
    credentials: none (a docker or podman login if there is one, else anonymous)
    delivery: none
    pulls: none
    "#);
}

#[test]
fn an_explanation_by_target_says_so() {
    let set = set(&[("docker.io/library/*", "library/*"), ("docker.io/library/*", "again/*")]);
    let image = ImageName::parse("contoso.azurecr.io/again/alpine@sha256:0000000000000000000000000000000000000000000000000000000000000000")
        .unwrap();
    let view = ExplainContext { target: &|repository| format!("contoso.azurecr.io/{repository}"), credentials: &|_| None };
    let text = set.explain(&image, set.by_target("again/alpine"), &view).to_string();
    assert!(text.contains("r1 wins: it owns the name at the target"), "{text}");
    assert!(text.contains("\nsource: docker.io/library/alpine@sha256:0000"), "{text}");
    assert!(text.contains("\ntarget: contoso.azurecr.io/again/alpine@sha256:0000"), "{text}");
}

/// Few letters, so that prefixes meet often.
fn path(least: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "library"]), least..4).prop_map(|parts| parts.join("/"))
}

fn any_rule() -> impl Strategy<Value = CacheRule> {
    let host = prop::sample::select(vec!["docker.io", "quay.io", "localhost:5000"]);
    (host, path(0), path(0), any::<bool>()).prop_map(|(host, source, target, wildcard)| {
        let side = |path: String| match (path.is_empty(), wildcard) {
            (true, true) => "*".to_owned(),
            (true, false) => "a".to_owned(),
            (false, true) => format!("{path}/*"),
            (false, false) => path,
        };
        rule("r", &format!("{host}/{}", side(source)), &side(target), 0)
    })
}

/// As many of `given` as fit together.
fn fitting(given: Vec<CacheRule>, overlap: Overlap) -> RuleSet {
    let mut kept: Vec<CacheRule> = Vec::new();
    for (at, mut rule) in given.into_iter().enumerate() {
        rule.name = format!("r{at}");
        kept.push(rule);
        if RuleSet::new(kept.clone(), overlap).is_err() {
            kept.pop();
        }
    }
    RuleSet::new(kept, overlap).unwrap()
}

proptest! {
    #[test]
    fn both_ways_or_not_at_all(
        given in prop::collection::vec(any_rule(), 0..8),
        longest in any::<bool>(),
        host in prop::sample::select(vec!["docker.io", "quay.io", "localhost:5000"]),
        path in path(1),
    ) {
        let set = fitting(given, if longest { Overlap::Longest } else { Overlap::Error });
        let source = repository(&format!("{host}/{path}"));
        let matching = set.matching(&source);
        match set.forward(&source) {
            Ok(resolution) => {
                let (owner, serves) = set.reverse(resolution.target.as_str()).unwrap();
                prop_assert_eq!(&serves, &source);
                prop_assert!(Arc::ptr_eq(owner, resolution.rule.as_ref().unwrap()));
                // The index and the plain definition of precedence agree.
                prop_assert!(Arc::ptr_eq(owner, matching[0]));
            }
            Err(Unresolved::NoRule { .. }) => prop_assert!(matching.is_empty()),
            Err(Unresolved::Shadowed { target, owner, serves, .. }) => {
                let (by_target, really) = set.reverse(&target).unwrap();
                prop_assert_eq!(&by_target.name, &owner);
                prop_assert_eq!(really.to_string(), serves.clone());
                prop_assert!(owner != matching[0].name || serves != source.to_string());
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn reading_a_rule_side_never_panics(text in "\\PC{0,40}") {
        if let Ok(source) = SourcePattern::parse(&text) {
            prop_assert_eq!(SourcePattern::parse(&source.to_string()), Ok(source));
        }
        if let Ok(target) = Pattern::target(&text) {
            prop_assert_eq!(Pattern::target(&target.to_string()), Ok(target));
        }
    }
}
