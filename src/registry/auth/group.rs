//! One token request for several repositories (distribution's `spec/auth/scope.md`: a request may have several scopes).
//!
//! While one token request is under way, the others wait, and the next one asks for all of them. No list of future repositories is
//! needed for that. Whether a server grants several scopes is read from the token: JWTs list what they are good for in `access`. A
//! server whose token does not show a second scope, or that refuses the request, gets one request for each repository from then on. That
//! costs nothing: the token is used for the first scope, which is the one that the request was about. Only logins that the server has
//! accepted before are used, so that a refused group is never a failed login.

use std::collections::{BTreeSet, HashSet};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;
use url::Url;

use super::scope::Scopes;
use crate::mutex::Mutex;

/// Scopes of one token request. Each adds about 100 bytes to the token, which every request carries; many servers take 8 KiB of headers.
const MAX_GROUP: usize = 10;

/// What tokens of one registry and account are needed now, and which servers grant only one scope.
#[derive(Default)]
pub(super) struct TokenGroups {
    /// Held by the task that sends a token request.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<GroupState>,
}

#[derive(Default)]
struct GroupState {
    /// Scopes of the tasks that need a token, in the order in which they asked.
    waiting: Vec<Scopes>,
    /// Token servers that do not grant several scopes.
    single: HashSet<Url>,
}

impl TokenGroups {
    /// Whether a token for `scopes` may be requested from `realm` together with others.
    pub(super) fn allow(&self, realm: &Url, scopes: &Scopes) -> bool {
        scopes.is_one_repository() && !self.state.lock().single.contains(realm)
    }

    /// From now on, `realm` gets one request for each repository.
    pub(super) fn stop(&self, realm: &Url) {
        self.state.lock().single.insert(realm.clone());
    }

    /// Notes that a task needs a token for `scopes`, until the returned value is dropped.
    pub(super) fn wait(&self, scopes: &Scopes) -> WaitingScopes<'_> {
        self.state.lock().waiting.push(scopes.clone());
        WaitingScopes { groups: self, scopes: scopes.clone() }
    }
}

/// An entry of [`GroupState::waiting`], removed when the task is done or cancelled.
pub(super) struct WaitingScopes<'a> {
    groups: &'a TokenGroups,
    scopes: Scopes,
}

impl WaitingScopes<'_> {
    /// Waits for the turn to send a token request. The others wait until it is dropped.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.groups.turn.lock().await
    }

    /// The scopes to request now: ours first, then those of others with the same purpose and rights that `need` a token.
    pub(super) fn group(&self, need: impl Fn(&Scopes) -> bool) -> Vec<Scopes> {
        let mut group = vec![self.scopes.clone()];
        for scopes in &self.groups.state.lock().waiting {
            if group.len() < MAX_GROUP
                && scopes.is_one_repository()
                && scopes.kind() == self.scopes.kind()
                && !group.contains(scopes)
                && need(scopes)
            {
                group.push(scopes.clone());
            }
        }
        group
    }
}

impl Drop for WaitingScopes<'_> {
    fn drop(&mut self) {
        let waiting = &mut self.groups.state.lock().waiting;
        if let Some(at) = waiting.iter().position(|scopes| *scopes == self.scopes) {
            waiting.remove(at);
        }
    }
}

/// The claims of a registry's token (distribution's `spec/auth/jwt.md`).
#[derive(Deserialize)]
struct Claims {
    access: Vec<Access>,
}

#[derive(Deserialize)]
struct Access {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    #[serde(default)]
    actions: BTreeSet<String>,
}

/// Which of `group` a token says that it is good for. None if it does not say.
///
/// The signature is not verified: the registry does that, and a token that promises too much is refused there.
pub(super) fn granted(token: &str, group: &[Scopes]) -> Vec<Scopes> {
    let claims = token.split('.').nth(1).and_then(|part| BASE64_URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok());
    let Some(claims) = claims.and_then(|json| serde_json::from_slice::<Claims>(&json).ok()) else { return vec![] };
    let grants = |scopes: &&Scopes| {
        scopes.repositories().all(|(repository, actions)| {
            let mut of_it = claims.access.iter().filter(|access| access.kind == "repository" && access.name == repository);
            of_it.any(|access| access.actions.contains("*") || access.actions.is_superset(&actions))
        })
    };
    group.iter().filter(grants).cloned().collect()
}
