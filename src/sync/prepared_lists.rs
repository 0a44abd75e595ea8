//! Lists that have met the rules: what is wanted of each upstream, and what failed before anybody was asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::name_claims::{Merged, NameClaims};
use super::warm_delivery::refuse_push_into_cache;
use super::{ImageRequest, RuledEntry, SyncOptions, TargetStore};
use crate::list::ParsedList;
use crate::report::ImageOutcome;
use crate::rules::{Delivery, RuleSet};

/// Something that a run works on.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    /// An image.
    Image(ImageRequest),
    /// A line whose tags must be listed.
    Tags(Arc<RuledEntry>),
}

impl Wanted {
    fn priority(&self) -> i64 {
        match self {
            Wanted::Image(request) => request.priority,
            Wanted::Tags(line) => line.entry.priority,
        }
    }
}

/// Lists that have met the rules.
#[derive(Default)]
pub(super) struct PreparedLists {
    /// What is wanted of each upstream host, highest priority first.
    pub(super) groups: BTreeMap<String, Vec<Wanted>>,
    /// Rows that have failed before anybody was asked, with their place among all lines.
    pub(super) failed: Vec<(usize, ImageOutcome)>,
    /// Images that wait until an earlier line's tags are known.
    pub(super) waiting: Vec<ImageRequest>,
    pub(super) claims: NameClaims,
}

impl PreparedLists {
    /// Resolves every line of `lists` through `rules`.
    pub(super) fn new(lists: Vec<ParsedList>, rules: &RuleSet, options: &SyncOptions, target: &TargetStore) -> Self {
        let mut prepared = PreparedLists::default();
        let mut lines = vec![];
        let mut order = 0;
        for list in lists {
            for error in list.errors {
                let row = ImageOutcome::new(error.text.clone(), "", error.origin.file.to_string(), error.origin.line);
                prepared.failed.push((order + error.origin.line, row.failed(error.to_error())));
            }
            let mut last = 0;
            for entry in list.entries {
                last = last.max(entry.origin.line);
                let at = order + entry.origin.line;
                match RuledEntry::resolve(entry, at, rules, options, &target.target) {
                    Ok(line) if pushes_into_cache(&line, options, target) => {
                        prepared.failed.push((at, line.row(&target.target).failed(refuse_push_into_cache(target))));
                    }
                    Ok(line) => lines.push(Arc::new(line)),
                    Err(row) => prepared.failed.push((at, *row)),
                }
            }
            // Lines are counted from 1; the next list's begin after the last one of this list, failed lines included.
            order = prepared.failed.iter().map(|(at, _)| *at).max().unwrap_or(0).max(order + last);
        }
        prepared.claim_names(lines, target);
        prepared
    }

    fn claim_names(&mut self, lines: Vec<Arc<RuledEntry>>, target: &TargetStore) {
        self.claims = NameClaims::new(&lines);
        let Merged { kept, refused, waiting } = self.claims.merge(lines.iter().flat_map(RuledEntry::requests).collect());
        let refused = refused.into_iter().map(|(request, error)| (request.line.order, request.row(&target.target).failed(error)));
        self.failed.extend(refused);
        for request in kept {
            self.groups.entry(request.line.entry.source.host.clone()).or_default().push(Wanted::Image(request));
        }
        for request in &waiting {
            self.groups.entry(request.line.entry.source.host.clone()).or_default();
        }
        self.waiting = waiting;
        for line in lines.into_iter().filter(|line| line.selector().is_some()) {
            self.groups.entry(line.entry.source.host.clone()).or_default().push(Wanted::Tags(line));
        }
        for wanted in self.groups.values_mut() {
            wanted.sort_by_key(|wanted| std::cmp::Reverse(wanted.priority()));
        }
    }
}

/// Whether `line` would be pushed into a target whose profile is that of a pull-through cache.
fn pushes_into_cache(line: &RuledEntry, options: &SyncOptions, target: &TargetStore) -> bool {
    let is_warm = options.warm && line.rule.as_ref().is_some_and(|rule| rule.delivery == Delivery::Warm);
    target.cache.is_some() && !is_warm
}
