//! `GET /v2/`: whether a registry answers, and takes a login.

use reqwest::Method;

use super::auth::Scopes;
use super::counters::RequestKind;
use super::request::{RegistryRequest, RequestIdentity};
use super::store::RegistryStore;
use super::transport::{RetryBudget, SendOutcome};
use crate::content::{Repository, RequestContext};
use crate::{Operation, Result};

/// How often it is tried. A person waits for the answer.
const ATTEMPTS: u32 = 2;

impl RegistryStore {
    /// Asks for the root of the API. `anonymous`: any answer will do, since a registry may well want a login there.
    pub(crate) async fn knock(&self, anonymous: bool, context: &RequestContext) -> Result<()> {
        let (root, scopes) = (Repository::new(""), Scopes::none());
        let url = self.transport.host.endpoint.url("");
        let mut call = RegistryRequest::new((RequestKind::Token, Operation::CheckApi, Method::GET), url, &root, &scopes, context);
        call.repository = None;
        if anonymous {
            call.credentials = RequestIdentity::Given(None);
        }
        let mut attempts = RetryBudget::new(self.transport.host.retry, ATTEMPTS);
        match self.transport.deliver(&call, &mut attempts).await? {
            SendOutcome::Answer(_) => Ok(()),
            SendOutcome::Refused(refusal, _) if anonymous && matches!(refusal.status, 401 | 403) => Ok(()),
            SendOutcome::Refused(refusal, _) => Err(super::error::refused(&self.transport.topic(&call), &refusal)),
        }
    }

    /// How far this machine's clock is ahead of the registry's (behind it: negative), as its first answer said.
    pub(crate) fn clock_skew(&self) -> Option<jiff::SignedDuration> {
        self.transport.host.clock_skew()
    }
}
