//! Chooses between several images of one name.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::arrived::{ArrivedBundle, NamedImage};
use crate::content::{Digest, Repository};
use crate::name::Reference;

/// The images of one bundle (its index), or of one layout or archive.
pub(super) struct ImageGroup {
    pub(super) bundle: Option<usize>,
    pub(super) images: Vec<NamedImage>,
}

/// Each name once, and the number of images that others of the same name replace. An image of a bundle replaces those of
/// the bundles it builds on.
pub(super) fn latest_by_name(bundles: &[ArrivedBundle], mut groups: Vec<ImageGroup>) -> (Vec<NamedImage>, usize) {
    let order = GroupOrder::of(bundles, &groups);
    let mut chosen: BTreeMap<(Repository, Reference), (usize, NamedImage)> = BTreeMap::new();
    let mut superseded = 0;
    for group in &order {
        let images = groups.get_mut(*group).map(|group| std::mem::take(&mut group.images)).unwrap_or_default();
        for mut image in images {
            let name = (image.repository.clone(), image.reference.clone());
            match chosen.remove(&name) {
                // Of two entries of one name in one index, tools take the first.
                Some((of, first)) if of == *group => image = first,
                Some((_, before)) if before.entry.descriptor.digest == image.entry.descriptor.digest => {
                    image.also_in = before.also_in.into_iter().chain(before.bundle).collect();
                }
                Some(_) => superseded += 1,
                None => {}
            }
            chosen.insert(name, (*group, image));
        }
    }
    let mut chosen: Vec<(usize, NamedImage)> = chosen.into_values().collect();
    let rank = |group: &usize| order.iter().position(|other| other == group);
    chosen.sort_by_key(|(group, image)| (rank(group), image.line));
    (chosen.into_iter().map(|(_, image)| image).collect(), superseded)
}

/// Sorts groups so that a bundle comes after those it builds on.
struct GroupOrder<'a> {
    bundles: &'a [ArrivedBundle],
    groups: &'a [ImageGroup],
    group_of: HashMap<&'a Digest, usize>,
    visited: BTreeSet<usize>,
    order: Vec<usize>,
}

impl<'a> GroupOrder<'a> {
    fn of(bundles: &'a [ArrivedBundle], groups: &'a [ImageGroup]) -> Vec<usize> {
        let mut sort = GroupOrder { bundles, groups, group_of: HashMap::new(), visited: BTreeSet::new(), order: vec![] };
        sort.group_of = (0..groups.len()).filter_map(|group| Some((&sort.bundle(group)?.id, group))).collect();
        // A bundle without its record does not say what it builds on. It comes first, so that a volume of last month
        // does not replace this month's images.
        let has_record = |group: &usize| sort.bundle(*group).is_none_or(|bundle| bundle.record.is_some());
        let (known, unknown): (Vec<usize>, Vec<usize>) = (0..groups.len()).partition(has_record);
        unknown.into_iter().chain(known).for_each(|group| sort.visit(group));
        sort.order
    }

    fn bundle(&self, group: usize) -> Option<&'a ArrivedBundle> {
        self.bundles.get(self.groups.get(group)?.bundle?)
    }

    fn visit(&mut self, group: usize) {
        if !self.visited.insert(group) {
            return;
        }
        let record = self.bundle(group).and_then(|bundle| bundle.record.as_ref());
        for base in record.iter().flat_map(|record| &record.base.bundles) {
            if let Some(before) = self.group_of.get(&base.id) {
                self.visit(*before);
            }
        }
        self.order.push(group);
    }
}
