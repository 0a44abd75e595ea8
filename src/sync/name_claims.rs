//! Who may fill which name at the target: the first line in file order that asks for it, whichever tag list arrives first; the same
//! source again is no conflict.
//!
//! Most names need no waiting: two lines can only meet in one repository of the target. There, a name waits for those earlier lines whose
//! terms could choose it, until their tags are known.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{ImageRequest, RuledEntry};
use crate::content::Repository;
use crate::mutex::{Mutex, MutexGuard};
use crate::name::Reference;
use crate::{Error, Kind, Operation, Side};

/// A name at the target.
type Name = (Repository, Reference);

/// The names claimed so far, and the lines that may still claim some.
#[derive(Debug, Default)]
pub(super) struct NameClaims(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    names: HashMap<Name, NameClaim>,
    /// Lines whose tags must be listed, in repositories that other lines fill, too; in file order.
    listings: HashMap<Repository, Vec<Listing>>,
    /// What waits for an earlier line, in file order.
    waiting: Vec<ImageRequest>,
    /// The names of lines without a listing that wait.
    held: HashSet<Name>,
}

#[derive(Debug, Clone)]
struct NameClaim {
    source: String,
    origin: String,
}

/// A line whose tags must be listed.
#[derive(Debug)]
struct Listing {
    line: Arc<RuledEntry>,
    known: Known,
}

/// Whether it is known what a line has chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    NotYet,
    Chosen,
    /// It could not be found out; `true`: nothing is wrong, it only was not done in this run.
    Never(bool),
}

/// What came of claiming names.
#[derive(Debug, Default)]
pub(super) struct Merged {
    /// They have their names.
    pub(super) kept: Vec<ImageRequest>,
    /// Another line has the name, and why that is so.
    pub(super) refused: Vec<(ImageRequest, Error)>,
    /// They wait for an earlier line; [`NameClaims::settle`] releases them.
    pub(super) waiting: Vec<ImageRequest>,
}

/// What follows when a line's tags are known.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// The line's own.
    pub(super) own: Merged,
    /// Those of other lines that have waited for it, and wait no more.
    pub(super) released: Merged,
    /// Of those, the ones that an earlier line asks for in the same way.
    pub(super) same: Vec<ImageRequest>,
}

/// What came of claiming a name.
enum Claimed {
    /// It is this request's now.
    New,
    /// The same source has it already.
    Again,
}

impl NameClaims {
    /// Claims of a run over these lines.
    pub(super) fn new(lines: &[Arc<RuledEntry>]) -> Self {
        let mut counts: HashMap<&Repository, usize> = HashMap::new();
        lines.iter().for_each(|line| *counts.entry(&line.to).or_default() += 1);
        let mut state = State::default();
        for line in lines.iter().filter(|line| line.selector().is_some() && counts.get(&line.to).is_some_and(|count| *count > 1)) {
            state.listings.entry(line.to.clone()).or_default().push(Listing { line: Arc::clone(line), known: Known::NotYet });
        }
        state.listings.values_mut().for_each(|listings| listings.sort_by_key(|listing| listing.line.order));
        NameClaims(Mutex::new(state))
    }

    /// Claims a name for each of `requests`, in order: duplicates become one request with the highest priority.
    pub(super) fn merge(&self, requests: Vec<ImageRequest>) -> Merged {
        self.state().merge(requests, false).0
    }

    /// It is known what the line of `line` has chosen, or that this will not be known.
    pub(super) fn settle(&self, line: &RuledEntry, chosen: Result<Vec<ImageRequest>, &Error>) -> Settled {
        let mut state = self.state();
        let known = match &chosen {
            Ok(_) => Known::Chosen,
            Err(error) => Known::Never(matches!(error.kind(), Kind::Cancelled | Kind::Deferred)),
        };
        for listing in state.listings.get_mut(&line.to).into_iter().flatten().filter(|listing| listing.line.order == line.order) {
            listing.known = known;
        }
        let (own, _) = state.merge(chosen.unwrap_or_default(), true);
        let (free, waiting): (Vec<ImageRequest>, Vec<ImageRequest>) =
            std::mem::take(&mut state.waiting).into_iter().partition(|request| !state.blocked(request));
        state.waiting = waiting;
        let (released, same) = state.claim_all(free);
        Settled { own, released, same }
    }

    /// Whether others may wait for what `line` chooses.
    pub(super) fn is_awaited(&self, line: &RuledEntry) -> bool {
        let state = self.state();
        state.listings.get(&line.to).is_some_and(|all| all.iter().any(|one| one.line.order == line.order && one.known == Known::NotYet))
    }

    /// The upstreams of which something waits, or may have to.
    pub(super) fn open(&self) -> HashSet<String> {
        let state = self.state();
        let listings = state.listings.values().flatten().filter(|listing| listing.known == Known::NotYet).map(|listing| &listing.line);
        listings.chain(state.waiting.iter().map(|request| &request.line)).map(|line| line.entry.source.host.clone()).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

impl State {
    /// Claims names, or lets requests wait. Beside it, duplicates.
    fn merge(&mut self, requests: Vec<ImageRequest>, listed: bool) -> (Merged, Vec<ImageRequest>) {
        let (mut free, mut waiting) = (Vec::with_capacity(requests.len()), vec![]);
        for request in requests {
            if self.waits(&request, listed) {
                waiting.push(request.clone());
                self.waiting.push(request);
            } else {
                free.push(request);
            }
        }
        // The order among those of one line is theirs.
        self.waiting.sort_by_key(|request| request.line.order);
        let (merged, same) = self.claim_all(free);
        (Merged { waiting, ..merged }, same)
    }

    /// Whether a request must wait for an earlier line. A line that needs no listing does not wait for one that could only choose the same
    /// image, unless it might lose its name to a third.
    fn waits(&mut self, request: &ImageRequest, listed: bool) -> bool {
        let name = (request.line.to.clone(), request.publish.clone());
        if listed {
            return self.blocked(request);
        }
        let contested = self.held.contains(&name) || self.rivals(request).any(|rival| !is_same(&rival.line, request));
        if contested && self.blocked(request) {
            self.held.insert(name);
            return true;
        }
        false
    }

    /// Earlier lines whose terms could choose the request's name.
    fn rivals<'a>(&'a self, request: &'a ImageRequest) -> impl Iterator<Item = &'a Listing> {
        let listings = self.listings.get(&request.line.to).into_iter().flatten();
        listings.take_while(|listing| listing.line.order < request.line.order).filter(|listing| listing.line.may_publish(&request.publish))
    }

    fn blocked(&self, request: &ImageRequest) -> bool {
        self.rivals(request).any(|rival| rival.known == Known::NotYet)
    }

    fn claim_all(&mut self, requests: Vec<ImageRequest>) -> (Merged, Vec<ImageRequest>) {
        let (mut merged, mut same) = (Merged::default(), vec![]);
        let mut index: HashMap<Name, usize> = HashMap::new();
        for request in requests {
            let key = (request.line.to.clone(), request.publish.clone());
            match self.claim(&request) {
                Ok(Claimed::New) => {
                    index.insert(key, merged.kept.len());
                    merged.kept.push(request);
                }
                Ok(Claimed::Again) => {
                    if let Some(first) = index.get(&key).and_then(|at| merged.kept.get_mut(*at)) {
                        first.priority = first.priority.max(request.priority);
                    }
                    same.push(request);
                }
                Err(error) => merged.refused.push((request, error)),
            }
        }
        (merged, same)
    }

    /// Claims the request's target name; the error names both lines.
    fn claim(&mut self, request: &ImageRequest) -> Result<Claimed, Error> {
        let claim = NameClaim { source: request.source(), origin: request.line.entry.origin.to_string() };
        let key = (request.line.to.clone(), request.publish.clone());
        let name = format!("{}{}", request.line.to, request.publish.suffix());
        match self.names.get(&key) {
            None => {}
            Some(first) if first.source == claim.source => return Ok(Claimed::Again),
            Some(first) => {
                let message = format!("{}: target name {name} is already filled from {} ({})", claim.origin, first.source, first.origin);
                let error = Error::new(Side::Local, Operation::MergeLists, Kind::Local, message).subject(claim.source);
                return Err(error.remedy("remove one of the two lines, or give one of them another `target`"));
            }
        }
        let lost = self.rivals(request).find_map(|rival| match rival.known {
            Known::Never(passing) if !is_same(&rival.line, request) => Some((Arc::clone(&rival.line), passing)),
            _ => None,
        });
        if let Some((line, passing)) = lost {
            // Taking the name now would give it to one line tonight, and to the other tomorrow.
            let first = format!("{} ({})", line.entry.source, line.entry.origin);
            let message = format!("{}: target name {name} may belong to {first}, whose tags are not known", claim.origin);
            let kind = if passing { Kind::Deferred } else { Kind::Local };
            let error = Error::new(Side::Local, Operation::MergeLists, kind, message).subject(claim.source);
            return Err(error.remedy("give one of the two lines another `target`, so that neither needs the other"));
        }
        self.names.insert(key, claim);
        Ok(Claimed::New)
    }
}

/// Whether a line could choose under the request's name only what the request asks for.
fn is_same(line: &RuledEntry, request: &ImageRequest) -> bool {
    let renamed = line.entry.target.as_ref().is_some_and(|target| target.tag.is_some());
    !renamed && line.entry.source == request.line.entry.source && request.wanted == request.publish
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, TargetConfig};
    use crate::sync::SyncOptions;

    /// Lines `source tags`, all into the repository `app`.
    fn lines(text: &[(&str, &str)]) -> Vec<Arc<RuledEntry>> {
        let list: String = text.iter().map(|(image, tags)| format!("{image},{tags},app\n")).collect();
        let parsed = crate::list::parse_bytes("list.csv", format!("image,tags,target\n{list}").as_bytes()).unwrap();
        let (rules, options) = (Config::default().rules, SyncOptions::default());
        let target = TargetConfig::Layout { path: "store".into() };
        let lines = parsed.entries.into_iter().map(|entry| {
            let order = entry.origin.line;
            Arc::new(RuledEntry::resolve(entry, order, &rules, &options, &target).unwrap())
        });
        lines.collect()
    }

    fn chosen(line: &Arc<RuledEntry>, tags: &[&str]) -> Vec<ImageRequest> {
        line.requests_for(&tags.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    fn names(requests: &[ImageRequest]) -> Vec<String> {
        requests.iter().map(ImageRequest::source).collect()
    }

    #[test]
    fn the_first_line_wins_whichever_list_arrives_first() {
        for arrival in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let lines = lines(&[("a.test/x", "v*"), ("b.test/x", "v1*;w1"), ("c.test/x", "*")]);
            let claims = NameClaims::new(&lines);
            let (mut kept, mut refused) = (vec![], vec![]);
            let tags = [vec!["v1", "v2"], vec!["v1", "v10", "w1"], vec!["v1", "v3", "w1"]];
            for at in arrival {
                let Settled { own, released, same } = claims.settle(&lines[at], Ok(chosen(&lines[at], &tags[at])));
                assert!(same.is_empty());
                kept.extend([names(&own.kept), names(&released.kept)].concat());
                refused.extend(own.refused.into_iter().chain(released.refused).map(|(_, error)| error.message()));
            }
            kept.sort();
            refused.sort();
            assert_eq!(kept, ["a.test/x:v1", "a.test/x:v2", "b.test/x:v10", "b.test/x:w1", "c.test/x:v3"], "{arrival:?}");
            let starts = [
                "list.csv:3: target name app:v1 is already filled from a.test/x:v1 (list.csv:2)",
                "list.csv:4: target name app:v1 is already filled from a.test/x:v1 (list.csv:2)",
                "list.csv:4: target name app:w1 is already filled from b.test/x:w1 (list.csv:3)",
            ];
            assert_eq!(refused.len(), 3, "{arrival:?}");
            refused.iter().zip(starts).for_each(|(message, start)| assert!(message.starts_with(start), "{message}"));
            assert!(claims.open().is_empty());
        }
    }

    #[test]
    fn only_names_that_an_earlier_line_could_choose_wait() {
        let lines = lines(&[("a.test/x", "v1*"), ("b.test/x", "*"), ("c.test/x", "v1"), ("c.test/x", "w"), ("a.test/x", "v12")]);
        let claims = NameClaims::new(&lines);
        let exact = lines.iter().flat_map(RuledEntry::requests).collect();
        let merged = claims.merge(exact);
        // `a.test/x:v12` would lose its name to line 3 if line 2 did not choose it: it waits for both.
        assert_eq!(
            (names(&merged.kept).len(), names(&merged.waiting)),
            (0, vec!["c.test/x:v1".to_owned(), "c.test/x:w".to_owned(), "a.test/x:v12".to_owned()])
        );
        // What line 2 cannot choose does not wait for it.
        let settled = claims.settle(&lines[1], Ok(chosen(&lines[1], &["v1", "w"])));
        assert_eq!(
            (names(&settled.own.kept), names(&settled.own.waiting)),
            (vec!["b.test/x:w".to_owned()], vec!["b.test/x:v1".to_owned()])
        );
        assert_eq!(settled.released.refused.len(), 1);
        let settled = claims.settle(&lines[0], Ok(chosen(&lines[0], &["v12"])));
        assert_eq!(names(&settled.own.kept), ["a.test/x:v12"]);
        assert_eq!(
            (names(&settled.released.kept), names(&settled.same)),
            (vec!["b.test/x:v1".to_owned()], vec!["a.test/x:v12".to_owned()])
        );
        assert_eq!(settled.released.refused.len(), 1);
        assert!(claims.open().is_empty());
    }

    #[test]
    fn a_line_whose_tags_are_not_known_keeps_its_names_from_others() {
        for (error, kind) in
            [(Error::local(Operation::ListTags, "gone"), Kind::Local), (Error::cancelled(Operation::ListTags), Kind::Deferred)]
        {
            let lines = lines(&[("a.test/x", "v1*"), ("b.test/x", "*")]);
            let claims = NameClaims::new(&lines);
            let settled = claims.settle(&lines[1], Ok(chosen(&lines[1], &["v1", "w"])));
            assert_eq!(names(&settled.own.kept), ["b.test/x:w"]);
            let settled = claims.settle(&lines[0], Err(&error));
            let (request, refused) = &settled.released.refused[0];
            assert_eq!((request.source().as_str(), refused.kind()), ("b.test/x:v1", kind));
            assert!(refused.message().starts_with("list.csv:3: target name app:v1 may belong to a.test/x (list.csv:2)"), "{refused}");
        }
    }

    #[test]
    fn where_lines_do_not_meet_nothing_is_remembered() {
        let lines = lines(&[("a.test/x", "v1*")]);
        let claims = NameClaims::new(&lines);
        assert!(claims.open().is_empty() && !claims.is_awaited(&lines[0]));
        assert_eq!(claims.settle(&lines[0], Ok(chosen(&lines[0], &["v1"]))).own.kept.len(), 1);
    }
}
