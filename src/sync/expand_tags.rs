//! Lines whose tags must be listed first: which tags their terms choose, and whether creation dates must be read for that.

use std::sync::Arc;

use jiff::Timestamp;

use super::pending_selection::PendingSelection;
use super::tag_context::{MatchedTags, TagContext};
use super::{ImageRequest, Resolved, RuledEntry};
use crate::content::{Repository, RequestContext, Source};
use crate::select::{Matched, Selector};
use crate::{Error, Kind, Operation, Result, Side};

/// A line's images.
pub(super) struct ChosenImages {
    /// One for each tag that was chosen; other lines may have requested some already.
    pub(super) requests: Vec<ImageRequest>,
    /// How many tags each step left, for people.
    pub(super) explanation: String,
}

/// What a line's terms have led to.
pub(super) enum Expansion {
    /// The tags are chosen.
    Chosen(ChosenImages),
    /// Dates must be read first, which costs pulls.
    Pending(Box<PendingSelection>),
}

/// Lists the tags of the line's repository and selects among them; spends no pull. `again`: the list is asked for even if that has failed
/// before in this run.
///
/// # Errors
/// If the upstream cannot be asked, or too few tags are selected.
pub(super) async fn expand(context: &TagContext<'_>, line: &Arc<RuledEntry>, again: bool) -> Result<Expansion> {
    let Some(selector) = line.selector() else {
        return Ok(Expansion::Chosen(ChosenImages { requests: line.requests(), explanation: String::new() }));
    };
    let source = &line.entry.source;
    let request = RequestContext { fresh: again, ..RequestContext::new(source.to_string()) };
    let listed = match context.target.lists_at_cache(line) {
        Some(cache) => cache.tags(&line.to, &request).await?,
        None => context.upstreams.upstream(line).await?.tags(&Repository::new(source.path.as_str()), &request).await?,
    };
    let matched = selector.matched(&listed);
    if !selector.needs_dates(&matched) {
        return choose(line, matched, MatchedTags::default()).map(Expansion::Chosen);
    }
    // Too few, whatever the dates say: no pull need be spent to know that.
    let most = selector.most(&matched) + selector.exact_tags().len();
    check_count(line, selector, most, matched.counts().listed)?;
    let selection = PendingSelection::new(context, Arc::clone(line), matched).await?;
    if selection.pulls() > 0 {
        return Ok(Expansion::Pending(Box::new(selection)));
    }
    let (matched, known) = selection.into_known();
    choose(line, matched, known).map(Expansion::Chosen)
}

/// Chooses among the tags that matched, once everything is known that the choice depends on.
///
/// # Errors
/// If too few tags are selected.
pub(super) fn choose(line: &Arc<RuledEntry>, matched: Matched, mut known: MatchedTags) -> Result<ChosenImages> {
    let Some(selector) = line.selector() else { return Ok(ChosenImages { requests: line.requests(), explanation: String::new() }) };
    let selected = selector.cut(matched, &known.dates, Timestamp::now());
    check_count(line, selector, selected.tags.len(), selected.counts.listed)?;
    let mut requests = line.requests_for(&selected.tags);
    for (request, tag) in requests.iter_mut().zip(&selected.tags) {
        request.resolved =
            known.resolved.remove(tag).map(|descriptor| Box::new(Resolved { descriptor: Some(descriptor), tally: Arc::default() }));
    }
    let note = selected.note();
    let explanation = format!("{}{}", selected.counts, note.as_ref().map(|note| format!("; {note}")).unwrap_or_default());
    // The first image's row shows what choosing has cost, and the remark on it.
    if let Some(first) = requests.first_mut() {
        let descriptor = first.resolved.take().and_then(|resolved| resolved.descriptor);
        first.resolved = Some(Box::new(Resolved { descriptor, tally: known.tally }));
        first.note = note;
    }
    Ok(ChosenImages { requests, explanation })
}

/// Refuses a selection of fewer tags than the line's rule asks for.
fn check_count(line: &RuledEntry, selector: &Selector, selected: usize, listed: usize) -> Result<()> {
    let least = line.rule.as_ref().map_or(1, |rule| rule.min_tags);
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
    if let Some(rule) = line.rule.as_ref().filter(|_| least > 1) {
        message += &format!(", and rule \"{}\" asks for {least} (min_tags)", rule.name);
        remedy = "check `tags` and `exclude`, and whether the upstream has lost tags; nothing was changed";
    }
    Err(Error::new(Side::Upstream, Operation::SelectTags, Kind::NotFound, message).subject(line.entry.source.to_string()).remedy(remedy))
}
