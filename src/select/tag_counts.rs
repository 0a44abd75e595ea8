//! How many tags each stage of a selection removed.

use std::fmt;

/// How many tags each stage of a selection kept or removed. `matched` is the sum of `by_glob`, `by_regex`, `by_semver`
/// and `by_default`. Minus `excluded`, `too_old`, `cut_by_newest` and `cut_by_latest` it is what the terms chose; plus
/// `exact` it is what was selected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TagCounts {
    /// Distinct tags in the listing.
    pub listed: usize,
    /// Of these, the ones that terms can choose: no `sha256-*` (signatures and referrers of other images), no invalid
    /// names.
    pub candidates: usize,
    /// Of these, the ones that a term matched; all of them if there is no such term.
    pub matched: usize,
    /// Of the matched, the ones that a glob chose.
    pub by_glob: usize,
    /// The ones that a regex chose, and no glob.
    pub by_regex: usize,
    /// The ones that only a semver range chose.
    pub by_semver: usize,
    /// The ones that are chosen because no term matches by name, so that all tags are selected.
    pub by_default: usize,
    /// Of the matched, the ones `exclude` removed.
    pub excluded: usize,
    /// Of the rest, the ones older than `max-age`, including those without a date.
    pub too_old: usize,
    /// Of the ones older than `max-age`, those without a date.
    pub undated: usize,
    /// Of the rest, the ones that `newest:N` cut.
    pub cut_by_newest: usize,
    /// Of the rest, the ones that `latest:N` cut, including those without a version.
    pub cut_by_latest: usize,
    /// Of the ones that `latest:N` cut, those without a version.
    pub unranked: usize,
    /// Exact tags that no other term chose.
    pub exact: usize,
    /// The cuts that the terms have: `max-age`, `newest:N`, `latest:N`.
    pub(super) asked: [bool; 3],
}

impl TagCounts {
    /// The number of matched tags that remain.
    pub fn chosen(&self) -> usize {
        let dropped = self.excluded + self.too_old + self.cut_by_newest + self.cut_by_latest;
        self.matched.saturating_sub(dropped)
    }

    /// The number of selected tags.
    pub fn selected(&self) -> usize {
        self.chosen() + self.exact
    }
}

impl fmt::Display for TagCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TagCounts { listed, candidates, matched, excluded, .. } = self;
        write!(f, "{listed} tags listed, {candidates} candidates, {matched} matched")?;
        let kinds = [(self.by_glob, "glob"), (self.by_regex, "regex"), (self.by_semver, "semver")];
        let kinds: Vec<String> = kinds.iter().filter(|(n, _)| *n > 0).map(|(n, kind)| format!("{n} by {kind}")).collect();
        if kinds.len() > 1 {
            write!(f, " ({})", kinds.join(", "))?;
        }
        write!(f, ", {excluded} excluded")?;
        let [aged, newest, latest] = self.asked;
        let of_these = |n: usize, what: &str| if n > 0 { format!(" ({n} {what})") } else { String::new() };
        if aged {
            write!(f, ", {} too old{}", self.too_old, of_these(self.undated, "without a date"))?;
        }
        if newest {
            write!(f, ", {} cut by newest", self.cut_by_newest)?;
        }
        if latest {
            write!(f, ", {} cut by latest{}", self.cut_by_latest, of_these(self.unranked, "not in its order"))?;
        }
        if self.exact > 0 {
            write!(f, ", {} exact added", self.exact)?;
        }
        if aged || newest || latest || self.exact > 0 {
            write!(f, ": {} selected", self.selected())?;
        }
        Ok(())
    }
}
