//! Which children of an index are delivered: a pure function of its children and the platforms asked for
//! (docs/registries.md, "Platforms").

use std::collections::HashSet;

use super::{Descriptor, ManifestKind, Platform, PlatformFilter, kind_of};

/// BuildKit's annotation of an attestation: the digest of the child that it is about (attestation-storage.md).
const ATTESTS: &str = "vnd.docker.reference.digest";

/// Which children of an index are delivered.
#[derive(Debug, Clone)]
pub struct ChildChoice {
    /// Those that are, in the index's order.
    pub kept: Vec<Descriptor>,
    /// Their positions among all children.
    pub(super) positions: Vec<usize>,
    /// How many are not.
    pub left_out: usize,
    /// What was asked for and no child is for.
    pub missing: Vec<PlatformFilter>,
    /// What the index is for, chosen or not, in its order.
    pub offered: Vec<Platform>,
    /// What the kept children are for.
    pub delivered: Vec<Platform>,
    filters: Vec<PlatformFilter>,
}

/// Why a choice is no image to deliver, or what is to be said about one that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChoiceVerdict {
    /// All that was asked for is there, or nothing in it is for any platform.
    Good,
    /// Some of it is not there.
    Lacking(String),
    /// None of it is there.
    Nothing(String),
}

impl ChildChoice {
    /// Chooses among `children`. Kept are:
    ///
    /// - children for a platform that one of `filters` matches;
    /// - children that say no platform (an artifact; an index within the index): nothing says that they are for another one;
    /// - attestations of a kept child. They are for `unknown/unknown`, which is never a platform to run on; others of it go.
    ///
    /// Without `filters`, and of an index that names no platform at all, everything is kept.
    pub fn of(children: &[Descriptor], filters: &[PlatformFilter]) -> Self {
        let bare = PlatformFilter::without_attestations();
        let without_attestations = filters.contains(&bare);
        let filters: Vec<PlatformFilter> = filters.iter().filter(|filter| **filter != bare).cloned().collect();
        let whole = filters.is_empty() || children.iter().all(|child| platform(child).is_none());
        let runs = |child: &Descriptor| match platform(child) {
            Some(platform) => filters.iter().any(|filter| filter.matches(platform)),
            None => child.platform.as_ref().is_none_or(is_blank),
        };
        let kept: HashSet<&str> =
            children.iter().filter(|child| attests(child).is_none() && runs(child)).map(|child| child.digest.as_str()).collect();
        let is_kept = |child: &Descriptor| match attests(child) {
            _ if whole => true,
            Some(_) if without_attestations => false,
            Some(about) => kept.contains(about),
            None => runs(child),
        };
        let positions: Vec<usize> = children.iter().enumerate().filter(|(_, child)| is_kept(child)).map(|(at, _)| at).collect();
        let mut choice = ChildChoice {
            left_out: children.len() - positions.len(),
            kept: positions.iter().filter_map(|at| children.get(*at).cloned()).collect(),
            positions,
            missing: filters.clone(),
            offered: vec![],
            delivered: vec![],
            filters,
        };
        let named = |child: &Descriptor| platform(child).cloned();
        choice.offer(children.iter().filter_map(named));
        choice.delivered = distinct(choice.kept.iter().filter_map(named));
        choice
    }

    /// The kept children that are indexes without a platform of their own: what was asked for may be inside them.
    pub fn nested(&self) -> impl Iterator<Item = &Descriptor> {
        self.kept.iter().filter(|child| child.platform.as_ref().is_none_or(is_blank) && kind_of(&child.media_type) == ManifestKind::Index)
    }

    /// Takes in what a nested index, which is kept whole, is for.
    pub fn look_inside(&mut self, children: &[Descriptor]) {
        let inside: Vec<Platform> = children.iter().filter_map(|child| platform(child).cloned()).collect();
        self.delivered = distinct(self.delivered.drain(..).chain(inside.iter().cloned()));
        self.offer(inside);
    }

    /// Takes in what an image is for that is no index's child: its config says so.
    pub fn of_one(platform: Option<Platform>, filters: &[PlatformFilter]) -> Self {
        let mut choice = ChildChoice::of(&[], filters);
        choice.delivered.extend(platform.clone().filter(is_known));
        choice.offer(platform.into_iter().filter(is_known));
        choice
    }

    fn offer(&mut self, platforms: impl IntoIterator<Item = Platform>) {
        self.offered = distinct(self.offered.drain(..).chain(platforms));
        self.missing.retain(|filter| !self.offered.iter().any(|platform| filter.matches(platform)));
    }

    /// Whether this can be delivered.
    pub fn verdict(&self) -> ChoiceVerdict {
        if self.missing.is_empty() || self.offered.is_empty() {
            return ChoiceVerdict::Good;
        }
        let (lacks, has) = (listed(&self.missing), listed(&self.offered));
        if self.missing.len() == self.filters.len() {
            ChoiceVerdict::Nothing(format!("it is for none of the platforms asked for ({lacks}): it has {has}"))
        } else {
            ChoiceVerdict::Lacking(format!("it has no {lacks}, only {has}"))
        }
    }

    /// Whether the kept children alone tell that they are what `filters` keep of their source: each filter matches one platform,
    /// and found it. Otherwise another one may have been left out by narrower filters.
    pub(super) fn speaks_for_itself(&self) -> bool {
        self.left_out == 0 && self.missing.is_empty() && self.filters.iter().all(PlatformFilter::is_narrow)
    }
}

/// The platform that a child is to be run on, if it says one. An attestation is for none.
fn platform(child: &Descriptor) -> Option<&Platform> {
    child.platform.as_ref().filter(|platform| attests(child).is_none() && is_known(platform))
}

fn attests(child: &Descriptor) -> Option<&str> {
    child.annotations.get(ATTESTS).map(String::as_str)
}

fn is_known(platform: &Platform) -> bool {
    let said = |word: &str| !word.is_empty() && word != "unknown";
    said(&platform.os) && said(&platform.architecture)
}

/// As Go writes a platform that nobody has set.
fn is_blank(platform: &Platform) -> bool {
    platform.os.is_empty() && platform.architecture.is_empty()
}

fn distinct(platforms: impl IntoIterator<Item = Platform>) -> Vec<Platform> {
    let mut seen = HashSet::new();
    platforms.into_iter().filter(|platform| seen.insert(platform.clone())).collect()
}

fn listed<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Digest;
    use proptest::prelude::*;

    fn filters(text: &str) -> Vec<PlatformFilter> {
        text.split(' ').filter(|text| !text.is_empty()).map(|text| PlatformFilter::parse(text).unwrap()).collect()
    }

    /// `linux/arm/v7`, `-` for no platform, `nested` for an index without one, `about:NAME` for the attestation of a child.
    fn child(name: &str) -> Descriptor {
        let digest = Digest::sha256(name.as_bytes());
        let media_type =
            if name == "nested" { "application/vnd.oci.image.index.v1+json" } else { "application/vnd.oci.image.manifest.v1+json" };
        let mut child = Descriptor::new(media_type, digest, 2);
        let text = if let Some(about) = name.strip_prefix("about:") {
            child.annotations.insert(ATTESTS.to_owned(), Digest::sha256(about.as_bytes()).to_string());
            "unknown/unknown"
        } else {
            name
        };
        let (text, os_version) = text.split_once(':').map_or((text, None), |(text, version)| (text, Some(version.to_owned())));
        let mut parts = text.split('/').map(str::to_owned);
        if let (Some(os), Some(architecture), variant) = (parts.next(), parts.next(), parts.next()) {
            child.platform = Some(Platform { os, architecture, variant, os_version });
        }
        child
    }

    fn choose(children: &str, asked: &str) -> (Vec<usize>, ChoiceVerdict) {
        let children: Vec<Descriptor> = children.split(' ').map(child).collect();
        let choice = ChildChoice::of(&children, &filters(asked));
        assert_eq!(choice.left_out, children.len() - choice.kept.len());
        (choice.positions.clone(), choice.verdict())
    }

    #[test]
    fn what_is_asked_for_and_its_attestations_are_kept_in_order() {
        let official = "linux/amd64 about:linux/amd64 linux/arm/v5 about:linux/arm/v5 linux/arm/v7 linux/arm64/v8 about:linux/arm64/v8";
        for (asked, kept) in [
            ("linux/amd64", vec![0, 1]),
            ("linux/arm64 linux/amd64", vec![0, 1, 5, 6]),
            ("linux/arm", vec![2, 3, 4]),
            ("linux/arm/v7", vec![4]),
            ("", vec![0, 1, 2, 3, 4, 5, 6]),
        ] {
            assert_eq!(choose(official, asked), (kept, ChoiceVerdict::Good), "{asked}");
        }
        let windows = "windows/amd64:10.0.17763.1 windows/amd64:10.0.20348.2 linux/amd64";
        assert_eq!(choose(windows, "windows/amd64:10.0.20348").0, [1]);
        assert_eq!(choose(windows, "windows/amd64").0, [0, 1]);
    }

    #[test]
    fn attestations_can_be_left_out() {
        let children = "linux/amd64 about:linux/amd64 linux/arm64 about:linux/arm64 -";
        assert_eq!(choose(children, "linux/amd64 no/attestations"), (vec![0, 4], ChoiceVerdict::Good));
        assert_eq!(choose(children, "no/attestations linux/amd64 linux/arm64"), (vec![0, 2, 4], ChoiceVerdict::Good));
        let (kept, verdict) = choose(children, "linux/s390x no/attestations");
        assert_eq!((kept, matches!(verdict, ChoiceVerdict::Nothing(words) if words.contains("(linux/s390x)"))), (vec![4], true));
    }

    #[test]
    fn what_is_missing_is_named_with_what_is_there() {
        let (kept, verdict) = choose("linux/amd64 linux/s390x", "linux/amd64 linux/arm64 linux/riscv64");
        assert_eq!(kept, [0]);
        assert_eq!(verdict, ChoiceVerdict::Lacking("it has no linux/arm64, linux/riscv64, only linux/amd64, linux/s390x".to_owned()));
        let (kept, verdict) = choose("linux/amd64 about:linux/amd64 linux/s390x", "linux/arm64");
        assert_eq!(kept, [] as [usize; 0]);
        let words = "it is for none of the platforms asked for (linux/arm64): it has linux/amd64, linux/s390x";
        assert_eq!(verdict, ChoiceVerdict::Nothing(words.to_owned()));
    }

    #[test]
    fn what_says_no_platform_stays_and_what_is_for_unknown_goes() {
        assert_eq!(choose("linux/amd64 - nested unknown/unknown linux/arm64", "linux/amd64").0, [0, 1, 2]);
        // Attestations of children that are not there, or not kept.
        assert_eq!(choose("linux/amd64 about:linux/arm64 about:nothing linux/arm64", "linux/amd64").0, [0]);
        // An index that is about no platform is none to choose from.
        for children in ["- -", "unknown/unknown about:nothing", "-", "nested"] {
            let all: Vec<usize> = (0..children.split(' ').count()).collect();
            assert_eq!(choose(children, "linux/amd64"), (all, ChoiceVerdict::Good), "{children}");
        }
    }

    #[test]
    fn a_nested_index_may_hold_what_is_asked_for() {
        let outer = [child("nested"), child("linux/riscv64")];
        let mut choice = ChildChoice::of(&outer, &filters("linux/amd64 linux/arm64"));
        assert_eq!(choice.nested().count(), 1);
        assert!(matches!(choice.verdict(), ChoiceVerdict::Nothing(_)));
        choice.look_inside(&[child("linux/amd64"), child("linux/s390x"), child("about:linux/amd64")]);
        assert_eq!(
            choice.verdict(),
            ChoiceVerdict::Lacking("it has no linux/arm64, only linux/riscv64, linux/amd64, linux/s390x".to_owned())
        );
        assert_eq!(listed(&choice.delivered), "linux/amd64, linux/s390x");
    }

    #[test]
    fn a_single_image_is_for_what_its_config_says_or_for_everything() {
        let amd64 = child("linux/amd64").platform;
        assert_eq!(ChildChoice::of_one(amd64.clone(), &filters("linux/amd64")).verdict(), ChoiceVerdict::Good);
        assert!(matches!(ChildChoice::of_one(amd64.clone(), &filters("linux/amd64 linux/arm64")).verdict(), ChoiceVerdict::Lacking(_)));
        assert!(matches!(ChildChoice::of_one(amd64, &filters("linux/arm64")).verdict(), ChoiceVerdict::Nothing(_)));
        for nothing in [None, child("unknown/unknown").platform, child("/").platform] {
            assert_eq!(ChildChoice::of_one(nothing, &filters("linux/arm64")).verdict(), ChoiceVerdict::Good);
        }
    }

    fn any_children() -> impl Strategy<Value = Vec<Descriptor>> {
        let names =
            ["linux/amd64", "linux/arm/v6", "linux/arm/v7", "linux/arm64", "windows/amd64:10.0.1.2", "-", "nested", "unknown/unknown"];
        let about = names.map(|name| format!("about:{name}"));
        let all: Vec<String> = names.iter().map(|name| (*name).to_owned()).chain(about).collect();
        proptest::collection::vec(proptest::sample::select(all), 0..12).prop_map(|names| names.iter().map(|name| child(name)).collect())
    }

    fn any_filters() -> impl Strategy<Value = Vec<PlatformFilter>> {
        let all = ["linux/amd64", "linux/arm", "linux/arm/v7", "linux/arm64", "windows/amd64:10.0", "linux/s390x"];
        proptest::sample::subsequence(all.to_vec(), 0..=3).prop_map(|some| filters(&some.join(" ")))
    }

    proptest! {
        #[test]
        fn choosing_again_changes_nothing_and_the_order_stays(children in any_children(), filters in any_filters()) {
            let choice = ChildChoice::of(&children, &filters);
            prop_assert!(choice.positions.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert_eq!(choice.kept.len() + choice.left_out, children.len());
            let again = ChildChoice::of(&choice.kept, &filters);
            // Where nothing that says a platform was kept, what is left looks like an index that is about none.
            prop_assert_eq!(again.left_out, 0);
            prop_assert_eq!(again.kept, choice.kept);
        }
        #[test]
        fn every_attestation_kept_is_about_a_child_that_is_kept(children in any_children(), filters in any_filters()) {
            let choice = ChildChoice::of(&children, &filters);
            prop_assume!(choice.left_out > 0);
            let kept: HashSet<&str> = choice.kept.iter().map(|child| child.digest.as_str()).collect();
            for child in &choice.kept {
                prop_assert!(attests(child).is_none_or(|about| kept.contains(about)));
            }
        }
    }
}
