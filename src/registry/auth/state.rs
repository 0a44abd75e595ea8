//! What is known of a registry's authentication: its way, tokens, refusals, and scopes beyond ours.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio::sync::OnceCell;

use super::challenge::Challenge;
use super::exchange::Bearer;
use super::scope::{Purpose, Scopes};
use super::token::{Token, Tokens};
use crate::error::{Error, Result};

/// What is known of a registry's authentication.
#[derive(Default)]
pub(super) struct AuthState {
    /// How this registry wants us to authenticate, since its first challenge.
    pub(super) way: Option<AuthWay>,
    pub(super) tokens: Tokens,
    /// Token requests under way: requests that need the same token wait for the same answer.
    pub(super) flights: HashMap<Scopes, Arc<OnceCell<Result<Token>>>>,
    /// What this account may not do: asked once.
    pub(super) denied: HashMap<Scopes, Error>,
    /// The login is wrong: nothing more is sent.
    pub(super) refused: Option<Error>,
    /// Actions that the registry asked for beyond ours, by kind of request.
    pub(super) actions: HashMap<(Purpose, bool), BTreeSet<String>>,
    /// Scopes of other repositories that it asked for, by what we asked.
    pub(super) given: HashMap<Scopes, BTreeSet<String>>,
}

/// How a registry wants us to authenticate.
#[derive(Debug, Clone)]
pub(super) enum AuthWay {
    Basic,
    Bearer(Arc<Bearer>),
}

impl AuthState {
    /// `scopes`, and what the registry is known to want beyond them.
    pub(super) fn needed(&self, scopes: &Scopes) -> Scopes {
        let wider = self.actions.get(&scopes.kind()).map_or_else(|| scopes.clone(), |actions| scopes.with_actions(actions));
        wider.with_given(self.given.get(scopes).into_iter().flatten())
    }

    /// As [`AuthState::needed`], after a challenge that may want more.
    pub(super) fn asked_for(&mut self, offers: &[Challenge], scopes: &Scopes) -> Scopes {
        for scope in offers.iter().filter_map(|offer| offer.scope.as_deref()) {
            let (actions, given) = scopes.missing(scope);
            if !actions.is_empty() {
                self.actions.entry(scopes.kind()).or_default().extend(actions);
            }
            if !given.is_empty() {
                self.given.entry(scopes.clone()).or_default().extend(given);
            }
        }
        self.needed(scopes)
    }

    /// Fails at once with what was found out before.
    pub(super) fn check(&self, scopes: &Scopes) -> Result<()> {
        match self.refused.as_ref().or_else(|| self.denied.get(scopes)) {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }
}
