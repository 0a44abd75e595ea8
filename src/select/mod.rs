//! Tag terms: what the `tags` and `exclude` columns of a list choose among a repository's tags. Pure: text and tag names in,
//! tag names out; nothing here asks a registry.
//!
//! `tags` is a union: the globs choose among the listed tags, `exclude` takes away from what they chose, and exact tags are then
//! added whatever `exclude` says. Exact tags alone need no listing.

mod globs;
mod patterns;
mod term;

use std::collections::BTreeSet;

use crate::name::check_tag;
use globs::Globs;
pub use patterns::TagPatterns;
use term::Term;

/// The compiled `tags` and `exclude` of one list line.
#[derive(Debug, Clone)]
pub struct Selector {
    exact: Vec<String>,
    globs: Globs,
    exclude_exact: BTreeSet<String>,
    exclude_globs: Globs,
    tags_text: String,
    exclude_text: String,
}

/// What a [`Selector`] chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// The chosen tags, sorted, each once. The exact ones are here even when they are [`missing`](Self::missing): the registry
    /// has the last word about a single tag, a listing may lag behind it.
    pub tags: Vec<String>,
    /// Exact tags that the listing lacks, as the line orders them. Without a listing it means nothing: then it is all of them.
    pub missing: Vec<String>,
    /// How many tags each stage left.
    pub attrition: Attrition,
}

/// How many tags each stage of a selection left. `matched - excluded` is what the globs gave in the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attrition {
    /// Distinct tags in the listing.
    pub listed: usize,
    /// Of these, the ones globs may choose: no `sha256-*` (signatures and referrers of other images), no illegal names.
    pub candidates: usize,
    /// Of these, the ones a glob matched.
    pub matched: usize,
    /// Of these, the ones `exclude` removed.
    pub excluded: usize,
}

impl std::fmt::Display for Attrition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Attrition { listed, candidates, matched, excluded } = self;
        write!(f, "{listed} tags listed, {candidates} candidates, {matched} matched, {excluded} excluded")
    }
}

impl Selector {
    /// Reads the two columns: terms separated by `;`, white space around them ignored, empty terms skipped.
    ///
    /// Errors are for a person and name the term: what is no tag or glob, term kinds that this version lacks, `exclude` without
    /// `tags`, and no term at all (which is not "everything": that is written `*`).
    pub fn parse(tags: &str, exclude: &str) -> Result<Self, String> {
        let (tag_terms, exclude_terms) = (term::split(tags), term::split(exclude));
        if tag_terms.is_empty() {
            return Err(match exclude_terms.is_empty() {
                true => "`tags` holds no term (write `*` for all tags)".to_owned(),
                false => "`exclude` without `tags` (write `*` in `tags` to choose from all tags)".to_owned(),
            });
        }
        let (exact, globs) = compile(&tag_terms, term::parse)?;
        let (exclude_exact, exclude_globs) = compile(&exclude_terms, term::parse_exclude)?;
        Ok(Selector {
            exact: in_order_once(exact),
            globs,
            exclude_exact: exclude_exact.into_iter().collect(),
            exclude_globs,
            tags_text: tag_terms.join(";"),
            exclude_text: exclude_terms.join(";"),
        })
    }

    /// Whether the repository's tags must be listed to [`select`](Self::select). Exact tags alone do not need it.
    pub fn needs_listing(&self) -> bool {
        !self.globs.is_empty()
    }

    /// The exact tags, as the line orders them, each once.
    pub fn exact_tags(&self) -> &[String] {
        &self.exact
    }

    /// The tag, if the terms can mean no other than this one.
    pub fn sole_tag(&self) -> Option<&str> {
        match self.exact.as_slice() {
            [tag] if !self.needs_listing() => Some(tag),
            _ => None,
        }
    }

    /// The `tags` column that means this selector.
    pub fn tags_column(&self) -> &str {
        &self.tags_text
    }

    /// The `exclude` column that means this selector; empty if nothing is excluded.
    pub fn exclude_column(&self) -> &str {
        &self.exclude_text
    }

    /// Chooses among the tags a registry listed. Neither their order nor repetitions matter.
    pub fn select(&self, listed: &[String]) -> Selected {
        let listed: BTreeSet<&str> = listed.iter().map(String::as_str).collect();
        let mut attrition = Attrition { listed: listed.len(), ..Attrition::default() };
        let mut tags = BTreeSet::new();
        for tag in listed.iter().copied().filter(|tag| is_candidate(tag)) {
            attrition.candidates += 1;
            if !self.globs.is_match(tag) {
                continue;
            }
            attrition.matched += 1;
            if self.excludes(tag) {
                attrition.excluded += 1;
            } else {
                tags.insert(tag);
            }
        }
        tags.extend(self.exact.iter().map(String::as_str));
        let missing = self.exact.iter().filter(|tag| !listed.contains(tag.as_str())).cloned().collect();
        Selected { tags: tags.into_iter().map(str::to_owned).collect(), missing, attrition }
    }

    fn excludes(&self, tag: &str) -> bool {
        self.exclude_exact.contains(tag) || self.exclude_globs.is_match(tag)
    }
}

/// Two selectors are equal when the same terms were written in the same order.
impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        (&self.tags_text, &self.exclude_text) == (&other.tags_text, &other.exclude_text)
    }
}
impl Eq for Selector {}

/// Whether globs may choose this tag. `sha256-*` belong to other images (cosign's `.sig`, `.att` and `.sbom`, the referrers
/// fallback of distribution-spec "Referrers Tag Schema"). A name that is no legal tag cannot be asked for; listing it is a
/// registry's trick or fault.
fn is_candidate(tag: &str) -> bool {
    !tag.starts_with("sha256-") && check_tag(tag).is_ok()
}

/// Sorts a column's terms into exact tags and compiled globs.
fn compile(terms: &[&str], parse: fn(&str) -> Result<Term, String>) -> Result<(Vec<String>, Globs), String> {
    let (mut exact, mut globs) = (Vec::new(), Vec::new());
    for term in terms {
        match parse(term)? {
            Term::Exact(tag) => exact.push(tag),
            Term::Glob(glob) => globs.push(glob),
        }
    }
    Ok((exact, Globs::compile(globs)?))
}

fn in_order_once(tags: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    tags.into_iter().filter(|tag| seen.insert(tag.clone())).collect()
}

#[cfg(test)]
mod tests;
