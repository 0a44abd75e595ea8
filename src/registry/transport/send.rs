//! The loop that sends a request until it is answered for good.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderValue};
use reqwest::{Response, StatusCode};
use tokio::time::Instant;
use url::Url;

use super::account::TransportAccount;
use super::body::{BodyError, EMPTY, OpenResponse, UploadBody, UploadProgress, error_body};
use super::cause::{self, Cause};
use super::classify::{ResponseClass, RetryableError, classify};
use super::host::Host;
use super::min_rate::RateMeter;
use super::outcome::{AttemptOutcome, RedirectReply, SendError, SendOutcome, SentRequest};
use super::retry_budget::RetryBudget;
use crate::content::{Repository, RequestContext};
use crate::limits::{AnswerGroup, Permit, Quota};
use crate::registry::address::{self, host_and_port};
use crate::registry::counters::RequestKind;
use crate::registry::error;
use crate::registry::error_answer::ErrorAnswer;
use crate::registry::pull_meter::{MeteredPull, PullMeter};
use crate::registry::request::{ConnectionKind, RegistryRequest, RequestIdentity, RequestTopic};
use crate::{Kind, Operation, Result, Side};

/// How many times in a row one request may be answered 401 and be given another login: the token that was missing or had
/// expired, and the secret that was renewed (`command` runs again).
const LOGINS: u32 = 2;

/// A pause of this length is logged: an operator who watches the run would wonder about it.
const WORTH_SAYING: Duration = Duration::from_secs(5);

/// A way to send requests to one host, as one account, on one side of the copy.
#[derive(Clone)]
pub(crate) struct Transport {
    pub(crate) side: Side,
    pub(crate) host: Arc<Host>,
    pub(crate) account: Arc<TransportAccount>,
    /// The pulls of this account, at an upstream.
    pub(crate) pull_meter: Option<PullMeter>,
}

impl Transport {
    /// The subject of `call`, as errors name it.
    pub(crate) fn topic<'a>(&'a self, call: &RegistryRequest<'a>) -> RequestTopic<'a> {
        self.topic_of(call.operation, call.repository, call.context)
    }

    /// As [`Transport::topic`], for more than one request.
    pub(crate) fn topic_of<'a>(
        &'a self,
        operation: Operation,
        repository: Option<&'a Repository>,
        context: &'a RequestContext,
    ) -> RequestTopic<'a> {
        RequestTopic {
            side: self.side,
            operation,
            host: &self.host.name,
            profile: self.host.profile,
            account: &self.account.name,
            repository,
            image: &context.image,
        }
    }

    /// Sends `call` until it is answered for good; a refusal is an error.
    pub(crate) async fn send(&self, call: &RegistryRequest<'_>, patience: &mut RetryBudget) -> Result<OpenResponse> {
        match self.deliver(call, patience).await? {
            SendOutcome::Answer(answer) => Ok(*answer),
            SendOutcome::Refused(refusal, _) => Err(error::refused(&self.topic(call), &refusal)),
        }
    }

    /// Sends `call` and reads the whole answer, of at most `most` bytes. A body that breaks off is requested again.
    pub(crate) async fn fetch(&self, call: &RegistryRequest<'_>, most: usize, patience: &mut RetryBudget) -> Result<(OpenResponse, Bytes)> {
        loop {
            let mut answer = self.send(call, patience).await?;
            let sent = answer.sent;
            match answer.whole(most).await {
                // A manifest or a list of tags is never empty. (An empty list of referrers means that there are none.)
                Ok(body) if body.is_empty() && matches!(call.kind, RequestKind::ManifestGet | RequestKind::Tags) => {
                    let trouble = answer.broken(EMPTY);
                    drop(answer);
                    self.retry_after_failure(&self.topic(call), patience, trouble, sent).await?;
                }
                Ok(body) => return Ok((answer, body)),
                Err(BodyError::TooLong) => {
                    return Err(self.topic(call).error(Kind::Untrusted, format!("the answer is longer than the {most} bytes it may have")));
                }
                Err(BodyError::Unreadable(why)) => return Err(self.topic(call).error(Kind::Damaged, why)),
                Err(BodyError::Slow(why)) => return Err(self.topic(call).error(Kind::Unavailable, why)),
                Err(BodyError::Trouble(trouble)) => {
                    drop(answer);
                    self.retry_after_failure(&self.topic(call), patience, trouble, sent).await?;
                }
            }
        }
    }

    /// Sends `call` until it is answered for good.
    pub(crate) async fn deliver(&self, call: &RegistryRequest<'_>, patience: &mut RetryBudget) -> Result<SendOutcome> {
        let mut logins = 0;
        let mut renewed = None;
        let mut pull = None;
        let mut spent = 0;
        loop {
            self.reachable(call, self.host.endpoint.elsewhere(&call.url).as_deref(), false)?;
            if pull.is_none() {
                pull = self.pull(call).await?;
            }
            // The login comes before the permit: a token is a request of its own, which needs a permit too.
            let authorization = match renewed.take() {
                Some(header) => Some(header),
                None => self.authorization(call).await?,
            };
            match self.attempt(call, authorization.as_ref(), logins < LOGINS, pull.as_mut()).await? {
                AttemptOutcome::Answer(answer) => {
                    self.learn(call, &answer, pull);
                    return Ok(SendOutcome::Answer(answer));
                }
                AttemptOutcome::Refused(refusal, body) => return Ok(SendOutcome::Refused(refusal, body)),
                AttemptOutcome::Retryable(RetryableError::Answer(refusal), sent) if refusal.pulls_spent && self.pays(call) => {
                    spent += 1;
                    self.turned_away(call, &refusal, pull.take(), sent, spent)?;
                }
                AttemptOutcome::Retryable(trouble, sent) => {
                    // A request that was refused for its pace spent no pull.
                    pull = pull.filter(|_| trouble.is_throttled());
                    self.retry_after_failure(&self.topic(call), patience, trouble, sent).await?;
                }
                // The pull goes back; another one is waited for, or the image is deferred.
                AttemptOutcome::NotSent => pull = None,
                // The pull was not spent.
                AttemptOutcome::LoggedIn(header) => {
                    logins += 1;
                    renewed = Some(header);
                }
            }
        }
    }

    /// One attempt at `call`, redirects included.
    async fn attempt(
        &self,
        call: &RegistryRequest<'_>,
        authorization: Option<&HeaderValue>,
        may_log_in: bool,
        pull: Option<&mut MeteredPull>,
    ) -> Result<AttemptOutcome> {
        self.host.bandwidth.take(call.body.len() as u64).await;
        let mut permit = self.admit(call).await?;
        let mut asked_for = None;
        if authorization.is_none() && self.is_login_asked_for(call) {
            // The registry asked for a login while this request waited for its permit: without one it would be answered 401.
            drop(permit);
            asked_for = self.authorization(call).await?;
            permit = self.admit(call).await?;
        }
        let authorization = authorization.or(asked_for.as_ref());
        if pull.is_some_and(|pull| !pull.leaves()) {
            return Ok(AttemptOutcome::NotSent);
        }
        let sent = Instant::now();
        match self.follow(call, authorization).await {
            Ok(reply) => {
                self.judge(call, reply, authorization, may_log_in, SentRequest { permit, sent, size: call.body.len() as u64 }).await
            }
            Err(SendError::Retryable(trouble)) => {
                note_broken(call, &permit, &trouble);
                Ok(AttemptOutcome::Retryable(if call.external_url { trouble.of_external_url() } else { trouble }, sent))
            }
            Err(SendError::Fatal(error)) => Err(error),
        }
    }

    /// Whether the registry has asked for logins of requests like `call`.
    fn is_login_asked_for(&self, call: &RegistryRequest<'_>) -> bool {
        matches!(call.credentials, RequestIdentity::Of(_))
            && self.host.endpoint.is_origin_of(&call.url)
            && self.account.authenticator.is_asked_for()
    }

    /// Sends `call` once, with `feed` as its body of `size` bytes. An answer that comes before all of it was sent ends it. The body is gone
    /// then: another attempt needs a new one.
    ///
    /// # Errors
    /// An error that no further attempt can fix: the host asks for too long a pause, or the login fails.
    pub(crate) async fn stream(
        &self,
        call: &RegistryRequest<'_>,
        feed: UploadBody,
        progress: &UploadProgress,
        size: u64,
    ) -> Result<AttemptOutcome> {
        let elsewhere = self.host.endpoint.elsewhere(&call.url);
        self.reachable(call, elsewhere.as_deref(), false)?;
        let authorization = self.authorization(call).await?;
        let permit = self.admit(call).await?;
        let sent = Instant::now();
        let mut request = self.request(call, call.url.clone(), authorization.as_ref());
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(size));
        *request.body_mut() = Some(reqwest::Body::wrap_stream(feed));
        progress.begin();
        let answered = tokio::select! {
            answered = self.leave(Some(call.kind), call, request) => answered,
            cause = progress.silence(self.host.retry.idle) => Err(SendError::Retryable(RetryableError::broken(elsewhere.as_deref(), cause))),
        };
        match answered {
            Ok(response) => {
                let reply = RedirectReply { response, url: call.url.clone(), quota: Quota::default(), foreign: None, elsewhere };
                self.judge(call, reply, authorization.as_ref(), true, SentRequest { permit, sent, size }).await
            }
            Err(SendError::Retryable(trouble)) => {
                note_broken(call, &permit, &trouble);
                Ok(AttemptOutcome::Retryable(trouble, sent))
            }
            Err(SendError::Fatal(error)) => Err(error),
        }
    }

    /// Waits for a permit, at a time when requests may be sent to the host.
    async fn admit(&self, call: &RegistryRequest<'_>) -> Result<Permit> {
        self.host
            .admit(call.claim, call.lane, self.account.pace.as_deref())
            .await
            .map_err(|pause| error::told_to_wait(&self.topic(call), pause))
            .and_then(|permit| self.reachable(call, self.host.endpoint.elsewhere(&call.url).as_deref(), true).map(|()| permit))
    }

    /// What an answer means for `call`. Reads a refusal's body, and logs in after a 401 if `may_log_in`.
    async fn judge(
        &self,
        call: &RegistryRequest<'_>,
        reply: RedirectReply,
        authorization: Option<&HeaderValue>,
        may_log_in: bool,
        SentRequest { permit, sent, size }: SentRequest,
    ) -> Result<AttemptOutcome> {
        let RedirectReply { mut response, url, quota, foreign, elsewhere } = reply;
        let (status, headers) = (response.status(), response.headers().clone());
        if let (RequestIdentity::Of(scopes), Some(header), None) = (call.credentials, authorization, &elsewhere)
            && status != StatusCode::UNAUTHORIZED
        {
            self.account.authenticator.served(scopes, header);
        }
        if status.is_success() {
            let measured_at_end = call.kind == RequestKind::BlobGet;
            if !measured_at_end {
                permit.answered(AnswerGroup::new(call.kind as u8, size), sent.elapsed());
            }
            let (idle, meter, bandwidth) = (self.host.retry.idle, RateMeter::new(self.host.min_rate), self.host.bandwidth.clone());
            let answer = OpenResponse {
                status,
                headers,
                url,
                sent,
                elsewhere,
                quota,
                response,
                idle,
                meter,
                bandwidth,
                permit,
                measured_at_end,
                received: 0,
            };
            return Ok(AttemptOutcome::Answer(Box::new(answer)));
        }
        let body = error_body(&mut response, self.host.retry.idle).await;
        drop(response);
        let refusal = ErrorAnswer { elsewhere, ..ErrorAnswer::read(status.as_u16(), &headers, &body, foreign, Timestamp::now()) };
        match classify(refusal.status, refusal.code.as_deref(), false) {
            // A spent window says nothing about concurrency, and another host's refusal nothing about this host.
            ResponseClass::Retry { throttled: true } if refusal.pulls_spent || refusal.elsewhere.is_some() => {}
            ResponseClass::Retry { throttled: true } if refusal.retry_after.is_some() => permit.asked_to_wait(),
            ResponseClass::Retry { throttled: true } => permit.refused(),
            ResponseClass::Retry { .. } => {}
            ResponseClass::Done | ResponseClass::Fail => permit.answered(AnswerGroup::new(call.kind as u8, size), sent.elapsed()),
        }
        self.window_is_spent(call, &refusal, sent);
        drop(permit);
        if status.is_redirection() {
            let error = error::misdirected(&self.topic(call), &self.host.endpoint, &headers);
            return Err(if call.follow_cross_host { error } else { error.status(refusal.status) });
        }
        if status == StatusCode::UNAUTHORIZED
            && may_log_in
            && refusal.foreign.is_none()
            && self.host.endpoint.is_origin_of(&call.url)
            && let RequestIdentity::Of(scopes) = call.credentials
        {
            if refusal.challenges.is_empty()
                && let Some(header) = self.log_in_unasked(call, scopes, authorization).await?
            {
                return Ok(AttemptOutcome::LoggedIn(header));
            }
            return self.log_in(call, scopes, authorization, &refusal).await.map(AttemptOutcome::LoggedIn);
        }
        if matches!(refusal.status, 403 | 404)
            && may_log_in
            && refusal.foreign.is_none()
            && self.host.endpoint.is_origin_of(&call.url)
            && let RequestIdentity::Of(scopes) = call.credentials
            && let Some(header) = self.log_in_unasked(call, scopes, authorization).await?
        {
            return Ok(AttemptOutcome::LoggedIn(header));
        }
        if matches!(refusal.status, 401 | 403) && self.host.endpoint.is_upgrade(&url) {
            return Err(error::upgraded(&self.topic(call), &url).status(refusal.status));
        }
        // A HEAD of a blob is not worth another redirect: see `head_blob`.
        // An address that asks for a login has not expired. It was requested with a token of its own, if it gives any.
        let expires =
            refusal.foreign.is_some() && refusal.challenges.is_empty() && call.kind != RequestKind::BlobHead && !call.external_url;
        Ok(match classify(refusal.status, refusal.code.as_deref(), expires) {
            // The referrers API of some registries is broken while all else works: the caller decides on another attempt. A cache answers
            // 424 for upstreams that have no such list (Azure/acr#891).
            ResponseClass::Retry { .. } if call.kind == RequestKind::Referrers && matches!(refusal.status, 424 | 500) => {
                AttemptOutcome::Refused(refusal, body)
            }
            ResponseClass::Retry { .. } if call.external_url => {
                AttemptOutcome::Retryable(RetryableError::Answer(refusal).of_external_url(), sent)
            }
            ResponseClass::Retry { .. } => AttemptOutcome::Retryable(RetryableError::Answer(refusal), sent),
            ResponseClass::Done | ResponseClass::Fail => AttemptOutcome::Refused(refusal, body),
        })
    }

    /// An attempt failed: counts it, pauses the host if that is due, and waits before the next attempt.
    ///
    /// # Errors
    /// The final error, if `patience` has no attempt left or the host asks for a longer pause than `retry_after_max`.
    pub(crate) async fn retry_after_failure(
        &self,
        topic: &RequestTopic<'_>,
        patience: &mut RetryBudget,
        trouble: RetryableError,
        sent: Instant,
    ) -> Result<()> {
        let (throttled, hosts, elsewhere) = (trouble.is_throttled(), trouble.is_the_hosts(), trouble.elsewhere());
        if throttled {
            self.account.counters.throttled();
        }
        tracing::debug!(
            host = topic.host,
            operation = topic.operation.as_str(),
            image = topic.image,
            trouble = trouble.plain_words(),
            "attempt failed"
        );
        let answers_others = patience.sees_alive(self.host.last_answer(elsewhere));
        let (mut asked, mut longer) = (None, Duration::ZERO);
        if let Some(host) = elsewhere {
            self.host.troubled_elsewhere(host, sent, throttled);
            asked = trouble.retry_after();
        } else if hosts {
            longer = self.host.troubled(sent, throttled, trouble.retry_after());
            if longer >= WORTH_SAYING {
                tracing::info!(host = topic.host, seconds = longer.as_secs(), "the registry is rate limiting us; waiting");
            }
        }
        if let Some(pause) = trouble.retry_after().filter(|pause| *pause > self.host.retry.longest_pause) {
            return Err(error::told_to_wait_by(topic, pause, &trouble));
        }
        let delay = if throttled { patience.throttled(answers_others) } else { patience.failed() };
        let hopeless = hosts && (self.host.is_failing(elsewhere) || matches!(trouble, RetryableError::Hopeless(_)));
        let Some(delay) = delay.filter(|_| !hopeless) else {
            let error = error::exhausted(topic, patience, &trouble);
            let outage = if hosts { self.host.gave_up(elsewhere, patience.spent_since(), &error) } else { None };
            return Err(match outage {
                Some(outage) => error.in_outage(outage),
                None => error,
            });
        };
        // The pause after the last attempt is not waited for.
        self.account.counters.waited(longer);
        tokio::time::sleep(delay.max(asked.unwrap_or_default())).await;
        self.account.counters.retried();
        Ok(())
    }

    /// Checks that the registry, or the host `elsewhere` that it sent us to, is not known to be down. `leaves`: `call` is sent now.
    ///
    /// # Errors
    /// The error of all requests to a host that is down.
    pub(super) fn reachable(&self, call: &RegistryRequest<'_>, elsewhere: Option<&str>, leaves: bool) -> Result<()> {
        match self.host.refuses(elsewhere, leaves).filter(|_| !call.external_url) {
            Some((cause, outage)) => Err(cause.repeated_for(call.operation, &call.context.image).on_side(self.side).in_outage(outage)),
            None => Ok(()),
        }
    }

    /// Sends one request. Nothing else in larder does.
    pub(super) async fn leave(
        &self,
        counted: Option<RequestKind>,
        call: &RegistryRequest<'_>,
        request: reqwest::Request,
    ) -> Result<Response, SendError> {
        if let Some(kind) = counted {
            self.account.counters.sent(kind);
            // The request is counted, whatever its answer: upstreams count like that.
            if kind == RequestKind::ManifestGet && self.side == Side::Upstream {
                call.context.tally.add_pull();
            }
        }
        let (method, url) = (request.method().clone(), request.url().clone());
        let client = match call.lane {
            _ if call.fresh => self.host.clients.fresh(),
            ConnectionKind::Small => &self.host.clients.api,
            ConnectionKind::Bulk => &self.host.clients.bulk,
        };
        let elsewhere = self.host.endpoint.elsewhere(&url);
        let sent = Instant::now();
        let answered = match client.execute(request).await {
            Ok(response) => Ok(response),
            Err(error) => Err(self.unanswered(call, &url, error).await),
        };
        if !call.external_url
            && let Ok(response) = &answered
        {
            self.observe(response.status(), elsewhere.as_deref(), sent);
            if self.host.endpoint.is_origin_of(&url) {
                self.host.compare_clocks(response.headers());
            }
        }
        let status = answered.as_ref().map_or(0, |response| response.status().as_u16());
        let path = url.path();
        tracing::debug!(%method, host = host_and_port(&url), path, status, account = self.payer(call.context), image = &*call.context.image, "request");
        answered
    }

    /// Why there is no answer from `url`.
    async fn unanswered(&self, call: &RegistryRequest<'_>, url: &Url, error: reqwest::Error) -> SendError {
        let topic = self.topic(call);
        if let Some(why) = address::blocked(&error) {
            return SendError::Fatal(topic.error(Kind::Untrusted, format!("the registry may not send us there: {why}")));
        }
        let at_registry = self.host.endpoint.is_origin_of(url);
        let fault = match cause::tls(&error, &host_and_port(url), &self.host.name) {
            None if at_registry && !error.is_connect() => self.host.handshake_fault().await,
            fault => fault,
        };
        if let Some(fault) = fault {
            let source = Cause::from(error).source();
            return SendError::Fatal(topic.error(Kind::Unavailable, fault.what).remedy(fault.remedy).with_source(source));
        }
        if cause::is_too_large(&error) {
            return RetryableError::Hopeless("the answer's headers are larger than any registry's".into()).into();
        }
        let through = self.host.policy.proxy_of(url).map(|proxy| format!(" (through the proxy {proxy})")).unwrap_or_default();
        RetryableError::broken(self.host.endpoint.elsewhere(url).as_deref(), Cause::from(error).and(&through)).into()
    }

    /// Records that there was an answer, of the registry itself or of the host `elsewhere` that it sent us to.
    fn observe(&self, status: StatusCode, elsewhere: Option<&str>, sent: Instant) {
        if elsewhere.is_none() {
            self.host.has_answered();
        }
        if !matches!(classify(status.as_u16(), None, false), ResponseClass::Retry { .. }) {
            self.host.answered(elsewhere, sent);
        }
    }

    /// The account whose pulls a request spends.
    fn payer<'a>(&'a self, context: &'a RequestContext) -> &'a str {
        self.through(context).map_or(&self.account.name, |gate| &gate.account().name)
    }

    pub(super) fn request(&self, call: &RegistryRequest<'_>, url: Url, authorization: Option<&HeaderValue>) -> reqwest::Request {
        let mut request = reqwest::Request::new(call.method.clone(), url);
        *request.headers_mut() = call.headers.clone();
        if let Some(header) = authorization {
            let mut header = header.clone();
            header.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, header);
        }
        request
    }
}

/// A broken connection to the registry itself may be a sign that it has too many.
fn note_broken(call: &RegistryRequest<'_>, permit: &Permit, trouble: &RetryableError) {
    if matches!(trouble, RetryableError::Broken(_)) && !call.external_url {
        permit.broken();
    }
}
