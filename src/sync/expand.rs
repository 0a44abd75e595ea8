//! Items whose tags must be listed first: what their terms choose, and whether creation dates must be read for that.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use super::item::Resolved;
use super::undecided::PendingSelection;
use super::warm::CopyEngines;
use super::{ImageRequest, RuledEntry, Upstreams};
use crate::content::{Descriptor, Digest, Repository, RequestContext, Source, TransferStats};
use crate::select::{Dates, Matched, Selector};
use crate::{Error, Kind, Result, Side};

/// An item whose tags have been chosen.
pub(super) struct Expanded {
    /// One for each tag that was chosen; some may be wanted by other lines already.
    pub(super) wants: Vec<ImageRequest>,
    /// How many tags each step left, for people.
    pub(super) explanation: String,
}

/// What became of an item's terms.
pub(super) enum Expansion {
    /// The tags are chosen.
    Chosen(Expanded),
    /// Dates must be read first, which costs pulls.
    Undecided(Box<PendingSelection>),
}

/// Creation dates that are known beforehand, by digest: what a lock says.
#[derive(Clone, Default)]
pub struct KnownDates(Option<Arc<Lookup>>);

type Lookup = dyn Fn(&str) -> Option<Timestamp> + Send + Sync;

impl KnownDates {
    /// Dates as `lookup` knows them; it is asked with digests (`sha256:…`).
    pub fn new(lookup: impl Fn(&str) -> Option<Timestamp> + Send + Sync + 'static) -> Self {
        KnownDates(Some(Arc::new(lookup)))
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<Timestamp> {
        self.0.as_ref().and_then(|lookup| lookup(digest.as_str()))
    }
}

impl fmt::Debug for KnownDates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "KnownDates(some)" } else { "KnownDates(none)" })
    }
}

/// What is known of the tags that matched.
#[derive(Default)]
pub(super) struct MatchedTags {
    pub(super) dates: Dates,
    /// What the upstream says they are.
    pub(super) resolved: HashMap<String, Descriptor>,
    /// What it has cost to know.
    pub(super) tally: Arc<TransferStats>,
}

/// Who chooses tags.
#[derive(Clone, Copy)]
pub(super) struct Chooser<'a> {
    pub(super) supply: &'a Upstreams,
    pub(super) engines: &'a CopyEngines,
    pub(super) dates: &'a KnownDates,
    /// Tags of one item that are asked about at once.
    pub(super) limit: usize,
}

impl Chooser<'_> {
    /// Lists the item's repository and selects its tags; spends no pull.
    ///
    /// # Errors
    /// If the upstream cannot be asked, or too few tags are selected.
    pub(super) async fn expand(&self, item: &Arc<RuledEntry>) -> Result<Expansion> {
        let Some(selector) = item.selector() else {
            return Ok(Expansion::Chosen(Expanded { wants: item.wants(), explanation: String::new() }));
        };
        let source = &item.entry.source;
        let context = RequestContext::new(source.to_string());
        let listed = match self.engines.lists_at_cache(item) {
            Some(cache) => cache.tags(&item.to, &context).await?,
            None => self.supply.upstream(item).await?.tags(&Repository::new(source.path.as_str()), &context).await?,
        };
        let matched = selector.matched(&listed);
        if !selector.needs_dates(&matched) {
            return self.choose(item, matched, MatchedTags::default()).map(Expansion::Chosen);
        }
        // Too few, whatever the dates say: nothing need be spent to know that.
        let most = selector.most(&matched) + selector.exact_tags().len();
        check_count(item, selector, most, matched.counts().listed)?;
        let undecided = PendingSelection::look(self, Arc::clone(item), matched).await?;
        if undecided.pulls() > 0 {
            return Ok(Expansion::Undecided(Box::new(undecided)));
        }
        let (matched, known) = undecided.known();
        self.choose(item, matched, known).map(Expansion::Chosen)
    }

    /// Chooses, all being known that is needed.
    ///
    /// # Errors
    /// If too few tags are selected.
    pub(super) fn choose(&self, item: &Arc<RuledEntry>, matched: Matched, mut known: MatchedTags) -> Result<Expanded> {
        let Some(selector) = item.selector() else { return Ok(Expanded { wants: item.wants(), explanation: String::new() }) };
        let selected = selector.cut(matched, &known.dates, Timestamp::now());
        check_count(item, selector, selected.tags.len(), selected.counts.listed)?;
        let mut wants = item.tagged(&selected.tags);
        for (want, tag) in wants.iter_mut().zip(&selected.tags) {
            want.resolved =
                known.resolved.remove(tag).map(|descriptor| Box::new(Resolved { descriptor: Some(descriptor), tally: Arc::default() }));
        }
        let note = selected.note();
        let explanation = format!("{}{}", selected.counts, note.as_ref().map(|note| format!("; {note}")).unwrap_or_default());
        // What choosing has cost is paid by the first image, which also says what is to be said of the choice.
        if let Some(first) = wants.first_mut() {
            let descriptor = first.resolved.take().and_then(|resolved| resolved.descriptor);
            first.resolved = Some(Box::new(Resolved { descriptor, tally: known.tally }));
            first.note = note;
        }
        Ok(Expanded { wants, explanation })
    }
}

/// Whether so many tags are as many as the item's rule asks for.
fn check_count(item: &RuledEntry, selector: &Selector, selected: usize, listed: usize) -> Result<()> {
    let least = item.rule.as_ref().map_or(1, |rule| rule.min_tags);
    if selected as u64 >= least {
        return Ok(());
    }
    let terms = selector.tags_column();
    let mut message = match selected {
        0 => format!("none of the {listed} tags listed is selected by `{terms}`"),
        1 => format!("only 1 of the {listed} tags listed is selected by `{terms}`"),
        n => format!("only {n} of the {listed} tags listed are selected by `{terms}`"),
    };
    let mut remedy = "check `tags` and `exclude`";
    if let Some(rule) = item.rule.as_ref().filter(|_| least > 1) {
        message += &format!(", and rule \"{}\" asks for {least} (min_tags)", rule.name);
        remedy = "check `tags` and `exclude`, and whether the upstream has lost tags; nothing was changed";
    }
    Err(Error::new(Side::Upstream, "select tags", Kind::NotFound, message).subject(item.entry.source.to_string()).remedy(remedy))
}
