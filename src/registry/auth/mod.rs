//! Authentication: what a registry asks for, the tokens that satisfy it, and who may see a password.
//!
//! An [`Authenticator`] serves one registry and account. It sends nothing itself: the transport asks it for a header before each
//! request, tells it of each 401, and lends it a [`TokenSender`] to reach token servers with.

mod account;
mod basic;
pub(crate) mod challenge;
mod errors;
mod exchange;
mod foreign;
mod group;
mod login;
mod realm;
mod scope;
mod state;
#[cfg(test)]
mod tests;
mod token;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::header::HeaderValue;
use tokio::sync::OnceCell;
use tokio::time::Instant;
use url::Url;

pub(crate) use exchange::{TokenAnswer, TokenRequest, TokenSender};
pub(crate) use foreign::{ForeignTokens, anonymous_request, anonymous_token};
pub(crate) use login::{Login, Logins};
pub(crate) use scope::{Purpose, Scopes};

use super::address::{AddressPolicy, shown};
use account::{CurrentLogin, RegistryAccount};
use challenge::{Challenge, Scheme};
use exchange::{Bearer, TokenVerdict, at};
use group::{TokenGroups, WaitingScopes};
use state::{AuthState, AuthWay};
use token::{AfterRefusal, Token};

use crate::error::{Error, Kind, Result, Side};
use crate::mutex::{Mutex, MutexGuard};

/// Longest scope that is taken over from a challenge, and how many of them: real registries have one, a word (`aws`).
const LONGEST_EXTRA: usize = 256;
const MOST_EXTRA: usize = 4;

/// Gets requests to one registry, in one account's name, past its 401s.
pub(crate) struct Authenticator {
    /// The registry's name, as users write it.
    host: String,
    endpoint: Url,
    side: Side,
    account: RegistryAccount,
    policy: Arc<AddressPolicy>,
    /// Hosts and ports that the configuration names: where one of them is this registry's host, its password may go there.
    named: Arc<[(String, u16)]>,
    /// Whether the API's root was seen to ask for a login, where nothing else did.
    root_asked: OnceCell<bool>,
    /// Whether the token server takes no POST.
    no_post: AtomicBool,
    /// Held by who tries a login that nobody has seen accepted: were it wrong, it should be sent once, not once an image.
    /// Inside: when the last trial failed for another reason, and how.
    trial: tokio::sync::Mutex<Option<(Instant, Error)>>,
    groups: TokenGroups,
    state: Mutex<AuthState>,
}

impl Authenticator {
    /// For the registry called `host`, whose API is at `endpoint`. `named`: all hosts and ports of the configuration.
    pub(crate) fn new(
        host: &str,
        endpoint: Url,
        side: Side,
        logins: Arc<dyn Logins>,
        policy: Arc<AddressPolicy>,
        named: Arc<[(String, u16)]>,
    ) -> Self {
        Authenticator {
            host: host.to_owned(),
            endpoint,
            side,
            account: RegistryAccount::new(logins),
            policy,
            named,
            root_asked: OnceCell::new(),
            no_post: AtomicBool::new(false),
            trial: tokio::sync::Mutex::default(),
            groups: TokenGroups::default(),
            state: Mutex::default(),
        }
    }

    /// The Authorization header to send with a request that needs `scopes`, marked as sensitive.
    ///
    /// None until the registry has asked for one: those that need none cost no extra request. Once it has, later scopes get their
    /// token before the request, not after its 401. For the registry's endpoint only: it must not go anywhere a redirect leads.
    pub(crate) async fn authorization(&self, scopes: &Scopes, sender: &dyn TokenSender) -> Result<Option<HeaderValue>> {
        let (way, needed) = {
            let state = self.state();
            let needed = state.needed(scopes);
            state.check(&needed)?;
            (state.way.clone(), needed)
        };
        match way {
            None => Ok(None),
            Some(AuthWay::Basic) => self.basic(&needed, sender).await,
            Some(AuthWay::Bearer(bearer)) => self.token(&bearer, &needed, None, false, sender).await.map(Some),
        }
    }

    /// Whether the registry has asked for a login.
    pub(crate) fn is_asked_for(&self) -> bool {
        self.state().way.is_some()
    }

    /// After a 401 to a request sent with `refused`: the header to try once more with.
    ///
    /// # Errors
    /// `Unauthorized` when nothing better can be had; `Untrusted` when the registry wants us, or our password, in a place where
    /// they do not belong.
    pub(crate) async fn challenged(
        &self,
        www_authenticate: &[HeaderValue],
        scopes: &Scopes,
        refused: Option<&HeaderValue>,
        sender: &dyn TokenSender,
    ) -> Result<HeaderValue> {
        let offers = challenge::parse(www_authenticate);
        let insufficient = offers.iter().any(|offer| offer.error.as_deref() == Some("insufficient_scope"));
        let way = self.learn(&offers)?;
        let needed = self.state().asked_for(&offers, scopes);
        match way {
            AuthWay::Basic => self.after_basic(&needed, refused, sender).await,
            AuthWay::Bearer(bearer) => self.token(&bearer, &needed, refused, insufficient, sender).await,
        }
    }

    /// After a refusal that asked for no login: what to try once more with, if there is a login and the API's root asks for one. Some
    /// registries hide what only others may see (404), or answer as if nobody could be let in.
    pub(crate) async fn unasked(&self, scopes: &Scopes, sender: &dyn TokenSender) -> Result<Option<HeaderValue>> {
        if self.state().way.is_some() || matches!(self.account.login().await?.login, Login::Anonymous) {
            return Ok(None);
        }
        let asked = self.root_asked.get_or_try_init(|| async {
            let answer = self.root(&Login::Anonymous, sender).await?;
            Ok::<_, Error>(answer.status == 401 && self.learn(&challenge::parse(&answer.challenges)).is_ok())
        });
        if *asked.await? { self.authorization(scopes, sender).await } else { Ok(None) }
    }

    /// A request that was sent with `header` for `scopes` was not answered 401.
    pub(crate) fn served(&self, scopes: &Scopes, header: &HeaderValue) {
        self.state().tokens.served(scopes, header);
    }

    /// Chooses among what the registry offers: a token before the password itself.
    fn learn(&self, offers: &[Challenge]) -> Result<AuthWay> {
        let mut state = self.state();
        let bearer = offers.iter().find(|offer| offer.scheme == Scheme::Bearer);
        let way = match bearer.and_then(|offer| Some((offer, realm::url(offer.realm.as_deref()?, &self.endpoint)?))) {
            Some((offer, realm)) => AuthWay::Bearer(merged(state.way.as_ref(), offer, realm)),
            None if offers.iter().any(|offer| offer.scheme == Scheme::Basic) => AuthWay::Basic,
            None => match state.way.clone() {
                // A 401 that asks for nothing, from a registry that has asked before.
                Some(known) if offers.is_empty() => known,
                _ => return Err(self.nothing_offered(offers)),
            },
        };
        state.way = Some(way.clone());
        Ok(way)
    }

    /// A token for `scopes` from the cache, from a request under way, or from a new one.
    async fn token(
        &self,
        bearer: &Arc<Bearer>,
        scopes: &Scopes,
        refused: Option<&HeaderValue>,
        insufficient: bool,
        sender: &dyn TokenSender,
    ) -> Result<HeaderValue> {
        let flight = {
            let mut state = self.state();
            state.check(scopes)?;
            if refused.is_some_and(|refused| state.tokens.is_grouped(scopes, refused)) {
                self.groups.stop(&bearer.realm);
            }
            if let Some(refused) = refused
                && state.tokens.refuse(scopes, refused, bearer, insufficient) == AfterRefusal::Hopeless
            {
                return Err(self.denied("the registry refuses the token it was given for", scopes, "").status(401));
            }
            if let Some(token) = state.tokens.find(scopes, refused) {
                return Ok(token.header.clone());
            }
            Arc::clone(state.flights.entry(scopes.clone()).or_default())
        };
        // If the task that asks is cancelled, the next waiting one asks instead.
        let outcome = flight.get_or_init(|| self.fetch(bearer, scopes, refused.is_some(), sender)).await.clone();
        let mut state = self.state();
        if state.flights.get(scopes).is_some_and(|current| Arc::ptr_eq(current, &flight)) {
            state.flights.remove(scopes);
        }
        outcome.map(|token| token.header)
    }

    /// A new token. A login that no server has accepted yet is tried by one request at a time, and whoever waited meanwhile shares
    /// its failure.
    async fn fetch(&self, bearer: &Arc<Bearer>, scopes: &Scopes, replacement: bool, sender: &dyn TokenSender) -> Result<Token> {
        let waiting = (!replacement).then(|| self.groups.wait(scopes));
        let held = self.account.login().await?;
        self.check_realm(bearer, &held.login).await?;
        if login::secret(&held.login).is_none() || held.proven() {
            return self.obtain_in_group(bearer, scopes, waiting, held, sender).await;
        }
        let queued = Instant::now();
        let mut trial = self.trial.lock().await;
        self.state().check(scopes)?;
        let held = self.account.login().await?;
        if held.proven() {
            drop(trial);
            return self.obtain_in_group(bearer, scopes, waiting, held, sender).await;
        }
        if let Some((at, error)) = &*trial
            && *at > queued
        {
            return Err(error.clone());
        }
        let outcome = self.obtain(bearer, scopes, Arc::clone(&held), replacement, sender).await;
        *trial = outcome.as_ref().err().filter(|_| !held.proven()).map(|error| (Instant::now(), error.clone()));
        outcome
    }

    /// As [`Self::obtain`], with a login that was accepted before, or none: a token for `scopes` and for what other tasks wait for.
    /// `waiting` is `None` for a token that replaces a refused one.
    async fn obtain_in_group(
        &self,
        bearer: &Arc<Bearer>,
        scopes: &Scopes,
        waiting: Option<WaitingScopes<'_>>,
        held: Arc<CurrentLogin>,
        sender: &dyn TokenSender,
    ) -> Result<Token> {
        let replacement = waiting.is_none();
        let Some(waiting) = waiting.filter(|_| self.groups.allow(&bearer.realm, scopes)) else {
            return self.obtain(bearer, scopes, held, replacement, sender).await;
        };
        let turn = waiting.turn().await;
        let group = {
            let state = self.state();
            if let Some(token) = state.tokens.find(scopes, None) {
                return Ok(token.clone());
            }
            waiting.group(|other| state.tokens.find(other, None).is_none())
        };
        if !self.groups.allow(&bearer.realm, scopes) {
            drop(turn);
        } else if group.len() > 1
            && let Some(token) = self.obtain_group(bearer, &group, &held, sender).await?
        {
            return Ok(token);
        }
        let outcome = self.obtain(bearer, scopes, held, replacement, sender).await;
        if outcome.as_ref().is_err_and(|error| error.kind() != Kind::Unauthorized) {
            // The server fails: the others must not find that out one after the other.
            self.groups.stop(&bearer.realm);
        }
        outcome
    }

    /// One token for all of `group`, kept for those that it is good for. Returns the first one's token; `None` if it got none.
    async fn obtain_group(
        &self,
        bearer: &Arc<Bearer>,
        group: &[Scopes],
        held: &CurrentLogin,
        sender: &dyn TokenSender,
    ) -> Result<Option<Token>> {
        let asked = Instant::now();
        let answer = self.ask(bearer, &Scopes::joined(group), &held.login, sender).await;
        let token = match &answer {
            Ok((TokenVerdict::Granted, answer)) => Token::read(&answer.body, asked, bearer, false).ok(),
            Ok(_) | Err(_) => None,
        };
        let granted = token.as_ref().map(|token| group::granted(token.text(), group)).unwrap_or_default();
        if granted.len() < 2 {
            self.groups.stop(&bearer.realm);
        }
        answer?;
        let Some(token) = token else { return Ok(None) };
        // A server that does not say what it grants has looked at the first scope at least.
        let first = group.first().filter(|first| granted.contains(first) || granted.len() < 2);
        let mut state = self.state();
        for scopes in granted.iter().chain(first) {
            state.tokens.keep(scopes.clone(), token.clone().grouped());
        }
        Ok(first.map(|_| token.grouped()))
    }

    /// Asks the token server, with another login if the first is refused, and remembers what came of it.
    async fn obtain(
        &self,
        bearer: &Arc<Bearer>,
        scopes: &Scopes,
        mut held: Arc<CurrentLogin>,
        replacement: bool,
        sender: &dyn TokenSender,
    ) -> Result<Token> {
        loop {
            let asked = Instant::now();
            let (verdict, answer) = self.ask(bearer, scopes, &held.login, sender).await?;
            if verdict == TokenVerdict::Granted {
                let token = Token::read(&answer.body, asked, bearer, replacement);
                let token = token.map_err(|what| self.error(Kind::Unavailable, format!("{}: {what}", at(bearer))))?;
                held.prove();
                self.state().tokens.keep(scopes.clone(), token.clone());
                return Ok(token);
            }
            match self.after_refusal(verdict, &answer, bearer, scopes, &held, sender).await? {
                Some(other) => held = other,
                None => {
                    let said = exchange::said(&answer.body, &held.login);
                    return Err(self.login_error(&format!("{} does not accept", at(bearer)), &said, answer.status));
                }
            }
        }
    }

    /// One exchange; an identity token goes by POST where that is spoken.
    async fn ask(&self, bearer: &Bearer, scopes: &Scopes, login: &Login, sender: &dyn TokenSender) -> Result<(TokenVerdict, TokenAnswer)> {
        if !self.no_post.load(Ordering::Relaxed)
            && let Some(request) = exchange::post(bearer, scopes, login)
        {
            let answer = sender.send(request.clone()).await?;
            let verdict = exchange::judge(&request, &answer);
            if verdict != TokenVerdict::NotSpoken {
                return Ok((verdict, answer));
            }
            self.no_post.store(true, Ordering::Relaxed);
        }
        let request = exchange::get(bearer, scopes, login);
        let answer = sender.send(request.clone()).await?;
        Ok((exchange::judge(&request, &answer), answer))
    }

    /// The login to go on with after `held` was refused; `None` if it is at fault and there is no other. An error if the fault is
    /// elsewhere.
    ///
    /// A 401 speaks of the login, and a 403 of the login (GHCR) or of the repository (GHCR, GitLab). One repository must not condemn
    /// the account, so that is found out: a server that gives this login a token without scope means the repository.
    async fn after_refusal(
        &self,
        verdict: TokenVerdict,
        answer: &TokenAnswer,
        bearer: &Arc<Bearer>,
        scopes: &Scopes,
        held: &Arc<CurrentLogin>,
        sender: &dyn TokenSender,
    ) -> Result<Option<Arc<CurrentLogin>>> {
        let said = exchange::said(&answer.body, &held.login);
        let forbidden = match verdict {
            TokenVerdict::Unknown => false,
            TokenVerdict::Forbidden => true,
            TokenVerdict::Granted | TokenVerdict::NotSpoken | TokenVerdict::Limited | TokenVerdict::Broken | TokenVerdict::Refused => {
                return Err(self.unexpected(verdict, answer.status, bearer, &said));
            }
        };
        let what = format!("{} gives no token for", at(bearer));
        if matches!(held.login, Login::Anonymous) {
            return Err(self.deny(&what, scopes, &said, answer.status));
        }
        if !forbidden && let Some(other) = self.account.renew(held).await? {
            return Ok(Some(other));
        }
        if (forbidden || held.proven()) && !scopes.is_none() {
            // Only a 401 can speak ill of a login that was good before.
            let known_good = forbidden && held.proven();
            if !known_good && !self.works(bearer, held, sender).await? {
                return if forbidden { self.account.renew(held).await } else { Ok(None) };
            }
            return Err(self.deny(&what, scopes, &said, answer.status));
        }
        if forbidden { self.account.renew(held).await } else { Ok(None) }
    }

    /// Whether the token server accepts this login at all: whether it gives it a token for nothing.
    async fn works(&self, bearer: &Bearer, held: &CurrentLogin, sender: &dyn TokenSender) -> Result<bool> {
        let (verdict, answer) = self.ask(bearer, &Scopes::none(), &held.login, sender).await?;
        match verdict {
            TokenVerdict::Granted => {
                held.prove();
                Ok(true)
            }
            TokenVerdict::Unknown | TokenVerdict::Forbidden => Ok(false),
            other => Err(self.unexpected(other, answer.status, bearer, &exchange::said(&answer.body, &held.login))),
        }
    }

    /// Whether we may ask this realm, and show it this login.
    async fn check_realm(&self, bearer: &Bearer, login: &Login) -> Result<()> {
        self.policy
            .check(&bearer.realm)
            .await
            .map_err(|why| self.error(Kind::Untrusted, format!("the registry names a token server where it may not send us: {why}")))?;
        let realm = bearer.realm.host_str().unwrap_or_default();
        let own = [host_of(&self.host), self.endpoint.host_str().unwrap_or_default()];
        if login::secret(login).is_none() {
            return Ok(());
        }
        if own.contains(&realm) {
            return self.check_port(bearer, realm);
        }
        if own.iter().any(|own| realm::belongs(own, realm)) || self.policy.registry_is_private().await {
            return Ok(());
        }
        let message =
            format!("the registry asks for the password of {} at {}, which is not part of it; not sent", self.host, shown(&bearer.realm));
        let remedy = format!(
            "if the images come from `{realm}`, name that host in the list; without credentials for {} it is asked anonymously",
            self.host
        );
        Err(self.error(Kind::Untrusted, message).remedy(remedy))
    }

    /// A token server on the registry's own host: another port may be another program, of somebody else.
    fn check_port(&self, bearer: &Bearer, realm: &str) -> Result<()> {
        let port = bearer.realm.port_or_known_default().unwrap_or_default();
        let named = self.named.iter().any(|(host, named)| host == realm && *named == port);
        if self.endpoint.port_or_known_default() == Some(port) || self.own_port() == Some(port) || named {
            return Ok(());
        }
        let message =
            format!("the registry asks for the password of {} at {}, another port of its host; not sent", self.host, shown(&bearer.realm));
        let remedy = format!("if its token server is there, name it in the configuration: [registry.\"{realm}:{port}\"]");
        Err(self.error(Kind::Untrusted, message).remedy(remedy))
    }

    /// The port that is part of the registry's name, if the name has one.
    fn own_port(&self) -> Option<u16> {
        let (host, port) = self.host.rsplit_once(':')?;
        if host.is_empty() { None } else { port.parse().ok() }
    }

    fn state(&self) -> MutexGuard<'_, AuthState> {
        self.state.lock()
    }
}

/// The challenge's bearer, with the extra scopes that this token server was known to want.
fn merged(known: Option<&AuthWay>, offer: &Challenge, realm: Url) -> Arc<Bearer> {
    let mut bearer = Bearer { realm, service: offer.service.clone(), extra: Vec::new() };
    if let Some(AuthWay::Bearer(known)) = known
        && known.realm == bearer.realm
        && known.service == bearer.service
    {
        bearer.extra.clone_from(&known.extra);
    }
    for scope in scope::beyond_repositories(offer.scope.as_deref().unwrap_or_default()) {
        if scope.len() <= LONGEST_EXTRA && bearer.extra.len() < MOST_EXTRA && !bearer.extra.iter().any(|known| known == scope) {
            bearer.extra.push(scope.to_owned());
        }
    }
    Arc::new(bearer)
}

/// A registry's name without its port.
fn host_of(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !port.is_empty() => host,
        _ => name,
    }
}
