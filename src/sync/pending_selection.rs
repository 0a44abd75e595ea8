//! A line whose choice of tags waits for creation dates that are not known yet: reading one costs a pull or two.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use super::missing_image::deferred;
use super::tag_context::{MatchedTags, TagContext};
use super::{ImageRequest, RuledEntry};
use crate::content::{Descriptor, Digest, RequestContext, TransferStats, is_schema1};
use crate::copy::{CopyImage, Cost, Engine, unread_pulls};
use crate::limits::{AccountId, Gate, Lease, PullRequest, WaitMode};
use crate::select::Matched;
use crate::state::CreatedDates;
use crate::{Error, Kind, Operation, Result};

/// A line whose tags match, some of them images whose creation date is not known.
pub(super) struct PendingSelection {
    pub(super) line: Arc<RuledEntry>,
    matched: Matched,
    known: MatchedTags,
    unknown: Vec<Undated>,
    /// Where its upstream counts pulls.
    gate: Option<Arc<Gate>>,
    /// The pulls that were reserved.
    lease: Option<Lease>,
}

/// An image whose date must be read.
struct Undated {
    /// The tags that name it.
    tags: Vec<String>,
    image: CopyImage,
    wanted: Descriptor,
    /// What its date costs at most.
    pulls: u64,
}

/// The tags of one image, and its date or what reading it takes.
type Dated = (Vec<String>, Result<Option<Timestamp>, Undated>);

/// A matched tag, as the upstream resolves it.
struct ResolvedTag {
    tag: String,
    image: CopyImage,
    gate: Option<Arc<Gate>>,
    descriptor: Option<Descriptor>,
}

impl PendingSelection {
    /// Resolves the matched tags at the upstream by HEAD, and looks for their dates wherever that costs no pull.
    ///
    /// # Errors
    /// If one side cannot be asked.
    pub(super) async fn new(from: &TagContext<'_>, line: Arc<RuledEntry>, matched: Matched) -> Result<Self> {
        let requests = line.requests_for(&matched.tags).into_iter().zip(matched.tags.clone());
        let resolving = stream::iter(requests).map(|(request, tag)| resolve(from, request, tag));
        let resolved: Vec<ResolvedTag> = resolving.buffer_unordered(from.limit).try_collect().await?;
        let gate = resolved.iter().find_map(|resolved| resolved.gate.clone());
        let mut known = MatchedTags::default();
        let mut groups: BTreeMap<Digest, (Descriptor, Vec<(String, CopyImage)>)> = BTreeMap::new();
        for ResolvedTag { tag, image, descriptor, .. } in resolved {
            // A tag that is listed and not there has no date.
            let Some(descriptor) = descriptor else { continue };
            known.resolved.insert(tag.clone(), descriptor.clone());
            groups.entry(descriptor.digest.clone()).or_insert_with(|| (descriptor, vec![])).1.push((tag, image));
        }
        let tally = Arc::clone(&known.tally);
        let dated: Vec<Dated> = stream::iter(groups.into_values())
            .map(|(wanted, images)| date(from, wanted, images, &tally))
            .buffer_unordered(from.limit)
            .try_collect()
            .await?;
        let mut unknown = vec![];
        for (tags, date) in dated {
            match date {
                Ok(date) => known.dates.extend(tags.into_iter().zip(std::iter::repeat(date)).filter_map(|(tag, date)| Some((tag, date?)))),
                Err(undated) => unknown.push(undated),
            }
        }
        Ok(PendingSelection { line, matched, known, unknown, gate, lease: None })
    }

    /// Pulls that choosing costs at most; 0: all dates are known.
    pub(super) fn pulls(&self) -> u64 {
        self.unknown.iter().map(|undated| undated.pulls).sum()
    }

    /// What choosing and then delivering costs: what a choice costs on average, and the most that any choice costs. `settled` is the cost of
    /// the images that the known dates would choose.
    pub(super) fn cost(&self, settled: &[Cost]) -> Cost {
        let most = self.line.selector().map_or(0, |selector| selector.most(&self.matched));
        let images = self.unknown.iter().flat_map(|undated| undated.tags.iter().map(|_| unread_pulls(&undated.wanted)));
        let costs: Vec<(u64, u64)> = images.chain(settled.iter().map(|cost| (cost.pulls, cost.at_most))).collect();
        let (chosen, of) = (most.min(costs.len()) as u64, costs.len().max(1) as u64);
        let expected = (costs.iter().map(|(expected, _)| expected).sum::<u64>() * chosen).div_ceil(of);
        let mut largest: Vec<u64> = costs.into_iter().map(|(_, at_most)| at_most).collect();
        largest.sort_unstable_by(|a, b| b.cmp(a));
        let at_most: u64 = largest.into_iter().take(most).sum();
        Cost { pulls: self.pulls() + expected, at_most: self.pulls() + at_most, exact: false }
    }

    /// What the known dates would choose, if all others were older.
    pub(super) fn settled(&self) -> Vec<ImageRequest> {
        let Some(selector) = self.line.selector() else { return vec![] };
        let mut matched = self.matched.clone();
        matched.tags.retain(|tag| !self.unknown.iter().any(|undated| undated.tags.contains(tag)));
        let chosen = selector.cut(matched, &self.known.dates, Timestamp::now()).tags;
        self.line.requests_for(&chosen.into_iter().filter(|tag| self.known.resolved.contains_key(tag)).collect::<Vec<_>>())
    }

    /// The account that would pay.
    pub(super) fn account(&self) -> Option<AccountId> {
        self.gate.as_ref().map(|gate| gate.account().clone())
    }

    /// What is known, and what the rest costs, for people.
    pub(super) fn explanation(&self) -> String {
        let (tags, pulls) = (self.unknown.iter().map(|undated| undated.tags.len()).sum::<usize>(), self.pulls());
        let dates = if tags == 1 { "1 creation date is".to_owned() } else { format!("{tags} creation dates are") };
        format!("{}; {dates} not known: choosing costs at most {pulls} pulls", self.matched.counts())
    }

    /// Whether the account's remaining pulls may not suffice for this choice and images that need `others`.
    pub(super) fn is_scarce(&self, others: u64) -> bool {
        let left = self.gate.as_ref().and_then(|gate| gate.standing().remaining);
        left.is_some_and(|left| left <= others.saturating_add(self.pulls()))
    }

    /// The context of what is read before it is known which image is chosen.
    pub(super) fn context(&self) -> RequestContext {
        RequestContext { tally: Arc::clone(&self.known.tally), ..RequestContext::new(self.line.entry.source.to_string()) }
    }

    /// Reserves the pulls, or in the present window as many as are left: what is read is kept, even if it does not yet suffice for a choice.
    ///
    /// # Errors
    /// Of kind [`Kind::Deferred`] if they are not available, and `mode` does not wait for them.
    pub(super) async fn reserve(&mut self, mode: WaitMode) -> Result<()> {
        let Some(gate) = self.gate.as_ref().filter(|gate| self.lease.is_none() && !gate.standing().unlimited) else { return Ok(()) };
        let claim = |pulls| PullRequest { pulls, priority: self.line.entry.priority };
        let all = self.pulls();
        let lease = match Lease::acquire(gate, claim(all), mode).await {
            Ok(lease) => lease,
            Err(refused) => {
                let left = gate.standing().remaining.unwrap_or(0).min(all);
                let part = if left > 0 { Lease::acquire(gate, claim(left), mode).await } else { Err(refused) };
                part.map_err(deferred)?
            }
        };
        self.lease = Some(lease);
        Ok(())
    }

    /// Reads the dates with the pulls that were reserved; gives all that is known of the tags. Dates that were read are kept even if others
    /// cannot be read.
    ///
    /// # Errors
    /// The first failure.
    pub(super) async fn read(&mut self, from: &TagContext<'_>) -> Result<(Matched, MatchedTags)> {
        let (lease, unread, failed) = (self.lease.take(), &AtomicU64::new(self.pulls()), &AtomicBool::new(false));
        let lease = lease.as_ref();
        let mut reading = stream::iter(std::mem::take(&mut self.unknown))
            .map(|mut undated| async move {
                if failed.load(Ordering::Relaxed) {
                    return (undated.tags, Err(Error::cancelled(Operation::ReadCreationDate)));
                }
                undated.image.context.lease = lease.cloned();
                let read = read(from.target.engine(), &from.upstreams.created, &undated).await;
                let left = unread.fetch_sub(undated.pulls, Ordering::Relaxed).saturating_sub(undated.pulls);
                if let Some(lease) = lease {
                    // A date may have cost less than it could.
                    lease.trim(left);
                }
                (undated.tags, read.inspect_err(|_| failed.store(true, Ordering::Relaxed)))
            })
            .buffer_unordered(from.limit);
        let mut first = Ok(());
        while let Some((tags, read)) = reading.next().await {
            match read {
                Ok(Some(date)) => self.known.dates.extend(tags.into_iter().map(|tag| (tag, date))),
                Ok(None) => {}
                Err(error) => first = first.and(Err(error)),
            }
        }
        first.map(|()| (self.matched.clone(), std::mem::take(&mut self.known)))
    }

    /// What is known, where no date needs reading.
    pub(super) fn into_known(self) -> (Matched, MatchedTags) {
        (self.matched, self.known)
    }
}

async fn resolve(from: &TagContext<'_>, request: ImageRequest, tag: String) -> Result<ResolvedTag> {
    if from.target.stop_requested() {
        return Err(Error::cancelled(Operation::ResolveTag));
    }
    let (image, gate) = from.upstreams.image(&request).await?;
    let descriptor = from.target.engine().resolve(&image).await?;
    Ok(ResolvedTag { tag, image, gate, descriptor })
}

/// The date of the image that these tags name, if it is known or can be read without a pull.
async fn date(from: &TagContext<'_>, wanted: Descriptor, images: Vec<(String, CopyImage)>, tally: &Arc<TransferStats>) -> Result<Dated> {
    let (tags, images): (Vec<String>, Vec<CopyImage>) = images.into_iter().unzip();
    let created = &from.upstreams.created;
    if let Some(date) = from.dates.get(&wanted.digest).map(Some).or_else(|| created.get(&wanted.digest)) {
        return Ok((tags, Ok(date)));
    }
    for image in &images {
        if let Some(date) = from.target.engine().dates().at_target(image, &wanted).await? {
            created.add(&wanted.digest, date);
            return Ok((tags, Ok(date)));
        }
    }
    let Some(mut image) = images.into_iter().next().filter(|_| !is_schema1(&wanted.media_type)) else { return Ok((tags, Ok(None))) };
    image.context.tally = Arc::clone(tally);
    let pulls = from.target.engine().dates().pulls(&image, &wanted);
    let undated = Undated { tags: tags.clone(), image, wanted, pulls };
    Ok(match pulls {
        0 => (tags, Ok(read(from.target.engine(), created, &undated).await?)),
        _ => (tags, Err(undated)),
    })
}

/// Reads one date upstream. A manifest that is damaged or no image has none, which must not fail all others.
async fn read(engine: &Engine, dates: &CreatedDates, undated: &Undated) -> Result<Option<Timestamp>> {
    match engine.dates().at_upstream(&undated.image, &undated.wanted).await {
        Ok(date) => {
            dates.add(&undated.wanted.digest, date);
            Ok(date)
        }
        Err(error) if error.kind() == Kind::Unsupported => {
            dates.add(&undated.wanted.digest, None);
            Ok(None)
        }
        Err(error) if matches!(error.kind(), Kind::Damaged | Kind::NotFound) => {
            tracing::debug!(%error, "an image has no creation date");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
