//! Tag terms: what the `tags` and `exclude` columns of a list choose among a repository's tags. Pure: takes text, tag
//! names and dates, and gives tag names. Requests and clocks do not belong here.
//!
//! Globs, regexes and semver ranges are a union (without any: all tags); `exclude` removes from these; `max-age`,
//! `newest:N` and `latest:N` cut the rest, in this order; exact tags are then added in any case. Exact tags alone need
//! no listing.

mod cut;
mod globs;
mod patterns;
mod range;
mod regexes;
mod tag_counts;
mod term;
mod version;

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::name::check_tag;
use cut::CutTerms;
pub use cut::Dates;
use globs::Globs;
pub use patterns::TagPatterns;
use range::Range;
use regexes::Regexes;
pub use tag_counts::TagCounts;
use term::{Name, Term};
use version::Version;

/// The compiled `tags` and `exclude` of one list line.
#[derive(Debug, Clone)]
pub struct Selector {
    exact: Vec<String>,
    choice: UnionTerms,
    cuts: CutTerms,
    exclude: TagPatterns,
    tags_text: String,
    exclude_text: String,
}

/// The terms that form a union.
#[derive(Debug, Clone, Default)]
struct UnionTerms {
    globs: Globs,
    regexes: Regexes,
    ranges: Vec<Range>,
}

/// Why a tag is among those matched.
enum MatchReason {
    Glob,
    Regex,
    Semver,
    Default,
}

/// The tags that globs, regexes and ranges matched, without those of `exclude`: the input of [`Selector::cut`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matched {
    /// The tags, sorted, each once.
    pub tags: Vec<String>,
    /// The distinct tags of the listing, sorted.
    listed: BTreeSet<String>,
    counts: TagCounts,
}

/// The result of a [`Selector`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// The chosen tags, sorted, each once. Includes exact tags that are [`missing`](Self::missing): a listing may lag
    /// behind, so the registry decides about a single tag.
    pub tags: Vec<String>,
    /// Exact tags that are not in the listing, in the order of the line. Without a listing these are all of them.
    pub missing: Vec<String>,
    /// How many tags each stage kept.
    pub counts: TagCounts,
    /// Releases that `latest:N` does not order, and whose versions look newer than those it keeps; the newest first.
    pub newer: Vec<String>,
}

impl Selected {
    /// A note on tags that look newer than the chosen ones.
    pub fn note(&self) -> Option<String> {
        /// The number of tags named; a repository may have thousands.
        const NAMED: usize = 3;
        let named: Vec<String> = self.newer.iter().take(NAMED).map(|tag| format!("`{tag}`")).collect();
        let more = match self.newer.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let words = format!("latest:N chooses among plain versions, and leaves out tags that look newer: {}{more}", named.join(", "));
        (!named.is_empty()).then_some(words)
    }
}

impl Matched {
    /// How many tags each stage kept so far.
    pub fn counts(&self) -> &TagCounts {
        &self.counts
    }
}

impl UnionTerms {
    fn is_empty(&self) -> bool {
        self.globs.is_empty() && self.regexes.is_empty() && self.ranges.is_empty()
    }

    /// The first kind of term that matches.
    fn of(&self, tag: &str) -> Option<MatchReason> {
        if self.is_empty() {
            return Some(MatchReason::Default);
        }
        if self.globs.is_match(tag) {
            return Some(MatchReason::Glob);
        }
        if self.regexes.is_match(tag) {
            return Some(MatchReason::Regex);
        }
        let version = Version::parse(tag).filter(|_| !self.ranges.is_empty())?;
        self.ranges.iter().any(|range| range.matches(&version)).then_some(MatchReason::Semver)
    }
}

impl Selector {
    /// Parses the two columns: terms separated by `;`, with white space around them ignored and empty terms skipped.
    ///
    /// Errors are messages that name the term: an invalid term, `exclude` without `tags`, and no term at all (all tags
    /// are written `*`).
    pub fn parse(tags: &str, exclude: &str) -> Result<Self, String> {
        let (tag_terms, exclude_terms) = (term::split(tags), term::split(exclude));
        if tag_terms.is_empty() {
            return Err(match exclude_terms.is_empty() {
                true => "`tags` holds no term (write `*` for all tags)".to_owned(),
                false => "`exclude` without `tags` (write `*` in `tags` to choose from all tags)".to_owned(),
            });
        }
        let (mut exact, mut globs, mut regexes, mut ranges, mut cuts) = (vec![], vec![], vec![], vec![], CutTerms::default());
        for term in &tag_terms {
            match term::parse(term)? {
                Term::Name(Name::Exact(tag)) => exact.push(tag),
                Term::Name(Name::Glob(glob)) => globs.push(glob),
                Term::Name(Name::Regex(regex)) => regexes.push(regex),
                Term::Semver(range) => ranges.push(range),
                Term::Cut(cut) => cuts.add(term, cut)?,
            }
        }
        Ok(Selector {
            exact: in_order_once(exact),
            choice: UnionTerms { globs: Globs::compile(globs)?, regexes: Regexes::compile(&regexes)?, ranges },
            cuts,
            exclude: TagPatterns::read(exclude_terms.iter().copied(), term::parse_exclude)?,
            tags_text: tag_terms.join(";"),
            exclude_text: exclude_terms.join(";"),
        })
    }

    /// Whether [`select`](Self::select) needs the repository's tags. Exact tags alone do not.
    pub fn needs_listing(&self) -> bool {
        !self.choice.is_empty() || !self.cuts.is_empty()
    }

    /// Whether creation dates decide which of `matched` are kept.
    pub fn needs_dates(&self, matched: &Matched) -> bool {
        let many = |count: usize| matched.tags.len() > count;
        !matched.tags.is_empty() && (self.cuts.max_age.is_some() || self.cuts.newest.is_some_and(many))
    }

    /// The largest number of `matched` that can be kept, without the exact tags.
    pub fn most(&self, matched: &Matched) -> usize {
        let counts = [self.cuts.newest, self.cuts.latest];
        counts.into_iter().flatten().fold(matched.tags.len(), usize::min)
    }

    /// The exact tags, in the order of the line, each once.
    pub fn exact_tags(&self) -> &[String] {
        &self.exact
    }

    /// Whether the terms can choose `tag` if it is listed. A cut may still drop it.
    pub fn may_select(&self, tag: &str) -> bool {
        let by_name = || self.needs_listing() && is_candidate(tag) && self.choice.of(tag).is_some() && !self.exclude.matches(tag);
        self.exact.iter().any(|exact| exact == tag) || by_name()
    }

    /// The tag, if the terms can choose no other one.
    pub fn sole_tag(&self) -> Option<&str> {
        match self.exact.as_slice() {
            [tag] if !self.needs_listing() => Some(tag),
            _ => None,
        }
    }

    /// The `tags` column of this selector.
    pub fn tags_column(&self) -> &str {
        &self.tags_text
    }

    /// The `exclude` column of this selector; empty without exclusions.
    pub fn exclude_column(&self) -> &str {
        &self.exclude_text
    }

    /// Chooses by name among the listed tags. Their order and repetitions do not matter.
    pub fn matched(&self, listed: &[String]) -> Matched {
        let listed: BTreeSet<String> = listed.iter().cloned().collect();
        let mut counts = TagCounts { listed: listed.len(), ..TagCounts::default() };
        let mut tags = vec![];
        // With exact tags only, nothing else is chosen, not even "all".
        let candidates = listed.iter().filter(|tag| self.needs_listing() && is_candidate(tag));
        for tag in candidates {
            counts.candidates += 1;
            let Some(why) = self.choice.of(tag) else { continue };
            counts.matched += 1;
            *match why {
                MatchReason::Glob => &mut counts.by_glob,
                MatchReason::Regex => &mut counts.by_regex,
                MatchReason::Semver => &mut counts.by_semver,
                MatchReason::Default => &mut counts.by_default,
            } += 1;
            if self.exclude.matches(tag) {
                counts.excluded += 1;
            } else {
                tags.push(tag.clone());
            }
        }
        Matched { tags, listed, counts }
    }

    /// Cuts what matched, and adds the exact tags. `dates` is used only if [`Selector::needs_dates`] is true.
    pub fn cut(&self, matched: Matched, dates: &Dates, now: Timestamp) -> Selected {
        let Matched { mut tags, listed, mut counts } = matched;
        counts.asked = [self.cuts.max_age.is_some(), self.cuts.newest.is_some(), self.cuts.latest.is_some()];
        if let Some(age) = self.cuts.max_age {
            let before = tags.len();
            counts.undated = tags.iter().filter(|tag| !dates.contains_key(*tag)).count();
            tags.retain(|tag| cut::is_young(dates.get(tag), age, now));
            counts.too_old = before - tags.len();
        }
        if let Some(count) = self.cuts.newest {
            let before = tags.len();
            tags = cut::newest(tags, count, dates);
            counts.cut_by_newest = before - tags.len();
        }
        let mut newer = vec![];
        if let Some(count) = self.cuts.latest {
            let before = tags.len();
            let latest = cut::latest(tags, count, !self.choice.is_empty());
            (tags, counts.unranked, newer) = (latest.tags, latest.unranked, latest.newer);
            counts.cut_by_latest = before - tags.len();
        }
        let mut tags: BTreeSet<String> = tags.into_iter().collect();
        counts.exact = self.exact.iter().filter(|tag| tags.insert((*tag).clone())).count();
        let missing = self.exact.iter().filter(|tag| !listed.contains(*tag)).cloned().collect();
        Selected { tags: tags.into_iter().collect(), missing, counts, newer }
    }

    /// [`Selector::matched`] and [`Selector::cut`] in one.
    pub fn select(&self, listed: &[String], dates: &Dates, now: Timestamp) -> Selected {
        self.cut(self.matched(listed), dates, now)
    }
}

/// Two selectors are equal if they have the same terms in the same order.
impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        (&self.tags_text, &self.exclude_text) == (&other.tags_text, &other.exclude_text)
    }
}
impl Eq for Selector {}

/// Whether terms other than its exact name can choose this tag. `sha256-*` belong to other images (cosign's `.sig`,
/// `.att` and `.sbom`, the referrers fallback of distribution-spec "Referrers Tag Schema"). A tag with an invalid name
/// cannot be requested; only a broken or hostile registry lists one.
fn is_candidate(tag: &str) -> bool {
    !tag.starts_with("sha256-") && check_tag(tag).is_ok()
}

fn in_order_once(tags: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    tags.into_iter().filter(|tag| seen.insert(tag.clone())).collect()
}

#[cfg(test)]
mod tests;
