//! Of several images of one name, which one counts.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::gather::{BundleReader, NamedImage};
use crate::content::{Digest, Repository};
use crate::name::Reference;

impl BundleReader<'_> {
    /// Groups in the order in which their names count: who builds on another comes after it.
    pub(super) fn order(&self) -> Vec<usize> {
        let group_of: HashMap<&Digest, usize> =
            self.groups.iter().enumerate().filter_map(|(group, (bundle, _))| Some((&self.bundles.get((*bundle)?)?.id, group))).collect();
        let mut order = vec![];
        let mut begun = BTreeSet::new();
        // Of a bundle without its record nobody knows what it builds on: a volume of last month must not win over this month's bundle.
        let has_record = |group: &usize| {
            let bundle = self.groups.get(*group).and_then(|(bundle, _)| self.bundles.get((*bundle)?));
            bundle.is_none_or(|bundle| bundle.record.is_some())
        };
        let (known, unknown): (Vec<usize>, Vec<usize>) = (0..self.groups.len()).partition(has_record);
        for group in unknown.into_iter().chain(known) {
            self.visit(group, &group_of, &mut begun, &mut order);
        }
        order
    }

    fn visit(&self, group: usize, group_of: &HashMap<&Digest, usize>, begun: &mut BTreeSet<usize>, order: &mut Vec<usize>) {
        if !begun.insert(group) {
            return;
        }
        let bundle = self.groups.get(group).and_then(|(bundle, _)| self.bundles.get((*bundle)?));
        if let Some(record) = bundle.and_then(|bundle| bundle.record.as_ref()) {
            for base in &record.base.bundles {
                if let Some(before) = group_of.get(&base.id) {
                    self.visit(*before, group_of, begun, order);
                }
            }
        }
        order.push(group);
    }

    /// Each name once, and how many images were left out for others.
    pub(super) fn settle(&mut self, order: &[usize]) -> (Vec<NamedImage>, usize) {
        let mut kept: BTreeMap<(Repository, Reference), (usize, NamedImage)> = BTreeMap::new();
        let mut superseded = 0;
        for group in order {
            let entries = self.groups.get_mut(*group).map(|(_, entries)| std::mem::take(entries)).unwrap_or_default();
            for mut entry in entries {
                let name = (entry.repository.clone(), entry.reference.clone());
                match kept.remove(&name) {
                    // Of two entries of one name in one index, tools take the first.
                    Some((of, first)) if of == *group => entry = first,
                    Some((_, before)) if before.entry.descriptor.digest == entry.entry.descriptor.digest => {
                        entry.also = before.also.into_iter().chain(before.bundle).collect();
                    }
                    Some(_) => superseded += 1,
                    None => {}
                }
                kept.insert(name, (*group, entry));
            }
        }
        let mut kept: Vec<(usize, NamedImage)> = kept.into_values().collect();
        let rank = |group: &usize| order.iter().position(|other| other == group);
        kept.sort_by_key(|(group, entry)| (rank(group), entry.line));
        (kept.into_iter().map(|(_, entry)| entry).collect(), superseded)
    }
}
