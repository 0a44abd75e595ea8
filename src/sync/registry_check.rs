//! Asks a registry what a run would need of it: that it answers, that the login is good, that images may be read or put there.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{RuledEntry, Upstreams};
use crate::config::LoginAccount;
use crate::content::{Repository, RequestContext, Sink, Source};
use crate::limits::AccountStatus;
use crate::name::Reference;
use crate::registry::RegistryStore;
use crate::rules::Delivery;
use crate::{Error, Kind, Operation, Result, Side};

/// A difference of this many seconds between the clocks is a finding: signed links and tokens are refused for less than 15 minutes, and the
/// `Date` of an answer is exact to a second.
const CLOCK_SKEW: i64 = 120;

const OP: Operation = Operation::Examine;

/// What was found out about one registry as one account.
#[derive(Debug)]
pub struct Examined {
    /// The registry.
    pub host: String,
    /// The account, if it could be found out.
    pub account: Option<String>,
    /// What is in order, in words.
    pub good: Vec<String>,
    /// What is not.
    pub findings: Vec<Error>,
}

impl Examined {
    fn new(host: &str) -> Self {
        Examined { host: host.to_owned(), account: None, good: vec![], findings: vec![] }
    }

    fn check<T>(&mut self, good: &str, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => {
                self.good.push(good.to_owned());
                Some(value)
            }
            Err(error) => {
                self.findings.push(error);
                None
            }
        }
    }

    fn clock(&mut self, store: &RegistryStore, side: Side) {
        let Some(skew) = store.clock_skew() else { return };
        let seconds = skew.as_secs();
        if seconds.abs() < CLOCK_SKEW {
            return;
        }
        let (length, way) = (jiff::SignedDuration::from_secs(seconds.abs()), if seconds < 0 { "behind" } else { "ahead of" });
        let message = format!("this machine's clock is {length:#} {way} the clock of {}", self.host);
        let error = Error::new(side, Operation::CompareClocks, Kind::Refused, message).subject(&self.host);
        self.findings.push(error.remedy("set the clock (NTP): tokens and signed links are refused otherwise"));
    }

    fn limits(&mut self, standing: &AccountStatus) {
        let (Some(limit), Some(remaining)) = (standing.limit, standing.remaining) else { return };
        self.good.push(format!("{remaining} of {limit} pulls left"));
        if remaining == 0 {
            let until = standing.closes.map(|at| format!(" until {at} at the latest")).unwrap_or_default();
            let error = Error::new(Side::Upstream, Operation::AskForLimits, Kind::Limited, format!("the pull window is spent{until}"));
            self.findings.push(error.subject(&self.host).remedy("wait, or let sync wait: --max-wait 6h"));
        }
    }
}

/// Asks an upstream about one of its images, by HEAD: it answers, the login is good, the image may be pulled, and how many pulls are left.
/// Without an image, only the login is tried.
pub async fn examine_upstream(upstreams: &Upstreams, host: &str, about: Option<&RuledEntry>) -> Examined {
    let mut seen = Examined::new(host);
    let account = match about {
        Some(line) => {
            let set = line.rule.as_ref().and_then(|rule| rule.credentials.as_deref());
            upstreams.credentials.account_for(&line.entry.source, set).await
        }
        None => upstreams.credentials.account_for_host(host, "").await,
    };
    let Some((store, account)) = opened(upstreams, &mut seen, Side::Upstream, account).await else { return seen };
    match about.and_then(|line| Some((line, line.probe()?))) {
        Some((line, reference)) => {
            let path = line.entry.source.path.as_str();
            let name = format!("{host}/{path}{}", reference.suffix());
            let found = store.resolve(&Repository::new(path), &reference, &RequestContext::new(name.as_str())).await;
            let found = found.and_then(|found| found.ok_or_else(|| no_such_image(&name)));
            seen.check("may pull", found);
        }
        None => {
            let anonymous = account.name() == LoginAccount::anonymous().name();
            let asked = store.knock(anonymous, &RequestContext::new(host)).await;
            seen.check(if anonymous { "answers" } else { "login accepted" }, asked);
        }
    }
    if let Some(gate) = store.gate() {
        if about.is_none() && seen.findings.is_empty() {
            gate.look().await;
        }
        seen.limits(&gate.standing());
    }
    seen.clock(&store, Side::Upstream);
    seen
}

/// Asks a target registry: it answers, the login is good, and of each of these lines' repositories whether it may be read and, where larder
/// pushes, written to (an upload is opened and given back).
pub async fn examine_target(upstreams: &Upstreams, host: &str, prefix: &str, lines: &[Arc<RuledEntry>]) -> Examined {
    let mut seen = Examined::new(host);
    let account = upstreams.credentials.account_for_host(host, prefix).await;
    let Some((store, account)) = opened(upstreams, &mut seen, Side::Target, account).await else { return seen };
    if lines.is_empty() {
        let anonymous = account.name() == LoginAccount::anonymous().name();
        seen.check(if anonymous { "answers" } else { "login accepted" }, store.knock(anonymous, &RequestContext::new(host)).await);
    }
    let mut known = BTreeSet::new();
    for line in lines.iter().filter(|line| known.insert(line.to.clone())) {
        let context = RequestContext::new(format!("{host}/{}", line.to));
        let reference = line.probe().unwrap_or_else(|| Reference::Tag("latest".to_owned()));
        let read = store.published(&line.to, &reference, &context).await;
        if seen.check("may pull", read).is_none() {
            break;
        }
        let pushes = line.rule.as_ref().is_none_or(|rule| rule.delivery == Delivery::Push);
        // Of a target that is known to be a cache, the configuration's own check has told.
        if !pushes || upstreams.config.cache_profile(&upstreams.config.target).is_some() {
            continue;
        }
        // A pull-through cache that nobody has named as one gives itself away.
        if !upstreams.config.writable_cache
            && let Err(error) = store.vouches(&line.to, &context).await
        {
            seen.findings.push(error);
            break;
        }
        if seen.check("may push", store.admits(&line.to, &context).await).is_none() {
            break;
        }
    }
    seen.good.dedup();
    seen.clock(&store, Side::Target);
    seen
}

async fn opened(
    upstreams: &Upstreams,
    seen: &mut Examined,
    side: Side,
    account: Result<LoginAccount>,
) -> Option<(Arc<RegistryStore>, LoginAccount)> {
    let account = match account {
        Ok(account) => account,
        Err(error) => {
            seen.findings.push(error);
            return None;
        }
    };
    seen.account = Some(account.name().to_owned());
    // The secret is read before anybody is asked, so that its failure is told as what it is.
    if let Err(error) = account.login().await {
        seen.findings.push(error);
        return None;
    }
    match upstreams.registries.store(side, &seen.host, Arc::new(account.clone())) {
        Ok(store) => Some((store, account)),
        Err(error) => {
            seen.findings.push(error);
            None
        }
    }
}

fn no_such_image(name: &str) -> Error {
    let error =
        Error::new(Side::Upstream, OP, Kind::NotFound, "the upstream has no such tag or repository, or does not show it to this account");
    error.subject(name).status(404).remedy("check the name and tag in the list")
}
