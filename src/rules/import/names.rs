//! Names that are free, and legal in `larder.toml`.

use std::collections::HashSet;

/// The longest name of a rule or credential set (docs/rules.md).
const LONGEST: usize = 50;

/// Names given so far.
#[derive(Debug, Default)]
pub(super) struct UsedNames(HashSet<String>);

impl UsedNames {
    /// `wanted` with every other character as `-`, cut to what fits, and numbered if it is taken. Names that differ in case only
    /// count as one: variables of the environment are named after them.
    pub(super) fn give(&mut self, wanted: &str) -> String {
        let legal: String = wanted.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let legal = match legal.trim_matches('-') {
            "" => "rule",
            legal => legal,
        };
        let numbered = |number: usize| {
            let suffix = if number == 1 { String::new() } else { format!("-{number}") };
            let kept: String = legal.chars().take(LONGEST - suffix.len()).collect();
            format!("{}{suffix}", kept.trim_end_matches('-'))
        };
        let free = (1..).map(numbered).find(|name| !self.0.contains(&name.to_ascii_lowercase())).unwrap_or_default();
        self.0.insert(free.to_ascii_lowercase());
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_made_legal_and_free() {
        let mut names = UsedNames::default();
        for (wanted, given) in [
            ("hub", "hub"),
            ("hub", "hub-2"),
            ("Hub", "Hub-3"),
            ("team/a_b", "team-a-b"),
            ("team.a/b", "team-a-b-2"),
            ("ÄÖ", "rule"),
            ("", "rule-2"),
        ] {
            assert_eq!(names.give(wanted), given, "{wanted}");
        }
        assert_eq!(names.give(&"x".repeat(60)), "x".repeat(50));
        assert_eq!(names.give(&"x".repeat(70)), format!("{}-2", "x".repeat(48)));
    }

    proptest! {
        #[test]
        fn every_name_is_legal_and_its_own(wanted in prop::collection::vec("[a-bA-B_.é-]{0,60}", 0..40)) {
            let mut names = UsedNames::default();
            let given: Vec<String> = wanted.iter().map(|wanted| names.give(wanted)).collect();
            let distinct: HashSet<String> = given.iter().map(|name| name.to_ascii_lowercase()).collect();
            prop_assert_eq!(distinct.len(), given.len());
            for name in given {
                prop_assert!(crate::rules::check_name(&name).is_ok(), "{}", name);
            }
        }
    }
}
