//! Faults on order: what goes wrong, for which requests, how often.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::watch;

use super::log::{Kind, Request};
use super::reply::{Reply, error, reply, with};
use super::wire::Connection;

/// A fault that never ends.
pub const FOREVER: usize = usize::MAX;

/// Which requests a fault meets: all that is set must be equal.
#[derive(Debug, Clone, Default)]
pub struct Match {
    pub kind: Option<Kind>,
    pub method: Option<String>,
    pub repository: Option<String>,
    /// As [`Request::reference`] has it.
    pub reference: Option<String>,
}

impl Match {
    /// Every request.
    pub fn any() -> Self {
        Match::default()
    }
    pub fn kind(kind: Kind) -> Self {
        Match { kind: Some(kind), ..Match::default() }
    }
    pub fn repository(self, repository: &str) -> Self {
        Match { repository: Some(repository.to_owned()), ..self }
    }
    pub fn reference(self, reference: &(impl ToString + ?Sized)) -> Self {
        Match { reference: Some(reference.to_string()), ..self }
    }
    pub fn method(self, method: &str) -> Self {
        Match { method: Some(method.to_owned()), ..self }
    }

    fn fits(&self, request: &Request) -> bool {
        self.kind.is_none_or(|kind| kind == request.kind)
            && self.method.as_ref().is_none_or(|method| *method == request.method)
            && (self.repository.is_none() || self.repository == request.repository)
            && (self.reference.is_none() || self.reference == request.reference)
    }
}

/// What goes wrong with a request that was allowed.
#[derive(Clone)]
pub enum Fault {
    /// This answer instead; the registry does nothing.
    Status { code: u16, headers: Vec<(&'static str, String)>, body: Bytes },
    /// The right answer, whose connection closes after so many bytes of the body have left.
    CutBody { after: u64 },
    /// The right answer, of which nothing comes after so many bytes; the connection stays open.
    Stall { after: u64 },
    /// No answer; the connection is reset.
    Reset,
    /// The registry takes so many bytes of the request's body, then resets the connection. Requests with shorter bodies do not meet it.
    CutUpload { after: u64 },
    /// The right answer's status and headers, but for the length, with these bytes.
    WrongBody(Bytes),
    /// The right answer, with so many bytes more than its Content-Length says; then the connection closes.
    ExtraBody { more: usize },
    /// The right answer's headers without a length, and a body that never ends.
    Endless,
    /// These bytes instead of any HTTP the server would write; then the connection closes.
    Raw(Bytes),
    /// A redirect.
    Redirect { code: u16, location: String },
    /// The right answer, later.
    Delay(Duration),
    /// The right answer, when the gate opens.
    Hold(Gate),
    /// The right answer with one header replaced, or removed.
    Header { name: &'static str, value: Option<String> },
    /// Whatever the test makes of the request; the registry does nothing.
    Custom(Arc<dyn Fn(&Request) -> Reply + Send + Sync>),
}

impl Fault {
    /// A bare status, with the error body that registries send.
    pub fn status(code: u16) -> Self {
        Fault::Status {
            code,
            headers: vec![("content-type", "application/json".to_owned())],
            body: r#"{"errors":[{"code":"UNAVAILABLE","message":"ordered by the test"}]}"#.into(),
        }
    }
    /// A status with a registry's error code and message.
    pub fn error(code: u16, name: &str, message: &str) -> Self {
        let (name, message) = (name.to_owned(), message.to_owned());
        Fault::custom(move |_| error(code, &name, &message))
    }
    fn fits(&self, request: &Request) -> bool {
        let length = || request.headers.get("content-length").and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        self.cuts_upload().is_none_or(|after| length().is_some_and(|length| length > after))
    }
    /// Where the request's body is cut.
    pub(super) fn cuts_upload(&self) -> Option<u64> {
        match self {
            Fault::CutUpload { after } => Some(*after),
            _ => None,
        }
    }
    /// 429 with `Retry-After`.
    pub fn limited(retry_after: &str) -> Self {
        let headers = vec![("retry-after", retry_after.to_owned()), ("content-type", "text/plain".to_owned())];
        Fault::Status { code: 429, headers, body: "Too Many Requests\n".into() }
    }
    /// The answer that `make` gives.
    pub fn custom(make: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Fault::Custom(Arc::new(make))
    }
}

/// Holds requests back until the test opens it.
#[derive(Clone)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    /// A closed gate.
    pub fn closed() -> Self {
        Gate(Arc::new(watch::channel(false).0))
    }
    /// Lets all pass, now and later.
    pub fn open(&self) {
        self.0.send_replace(true);
    }
    async fn passed(&self) {
        // The sender lives as long as `self`: waiting cannot fail.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

/// How the body of an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Whole,
    CutAfter(u64),
    StallAfter(u64),
    /// The connection has been given another fate: the answer will not be seen.
    Unseen,
}

/// Which of the requests that it fits a sporadic fault meets.
#[derive(Debug, Clone, Copy)]
pub enum Chance {
    /// Every so many.
    Every(u64),
    /// So many of 100, at random; the same ones in every run that sends the same requests.
    Percent(u64),
}

/// A fault that happens now and then.
struct Sporadic {
    matching: Match,
    chance: Chance,
    fault: Fault,
    /// Requests that fitted, or the state of the random numbers.
    state: u64,
}

impl Sporadic {
    fn meets(&mut self, request: &Request) -> bool {
        if !self.matching.fits(request) {
            return false;
        }
        match self.chance {
            Chance::Every(n) => {
                self.state += 1;
                self.state.is_multiple_of(n)
            }
            Chance::Percent(percent) => {
                // Knuth's linear congruential generator; its high bits are good enough.
                self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (self.state >> 33) % 100 < percent
            }
        }
    }
}

/// The faults on order, and those that happen now and then.
#[derive(Default)]
pub(super) struct Faults(Mutex<Vec<(Match, usize, Fault)>>, Mutex<Vec<Sporadic>>);

impl Faults {
    pub(super) fn add(&self, matching: Match, times: usize, fault: Fault) {
        if times > 0 {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push((matching, times, fault));
        }
    }

    pub(super) fn add_sporadic(&self, matching: Match, chance: Chance, fault: Fault) {
        let mut sporadic = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        let state = match chance {
            Chance::Every(_) => 0,
            Chance::Percent(_) => sporadic.len() as u64 + 1,
        };
        sporadic.push(Sporadic { matching, chance, fault, state });
    }

    pub(super) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.1.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(super) fn pending(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().filter(|(_, times, _)| *times != FOREVER).count()
    }

    /// The first fault that fits, used once more.
    pub(super) fn take(&self, request: &Request) -> Option<Fault> {
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = faults.iter().position(|(matching, _, fault)| matching.fits(request) && fault.fits(request)) else {
            let mut sporadic = self.1.lock().unwrap_or_else(PoisonError::into_inner);
            return sporadic.iter_mut().find_map(|sporadic| sporadic.meets(request).then(|| sporadic.fault.clone()));
        };
        let (_, times, fault) = &mut faults[index];
        let fault = fault.clone();
        if *times != FOREVER {
            *times -= 1;
            if *times == 0 {
                faults.remove(index);
            }
        }
        Some(fault)
    }
}

/// Lets `fault` happen to a request whose right answer `answer` would give.
pub(super) async fn happen(
    fault: Fault,
    request: &Request,
    connection: &Connection,
    answer: impl Future<Output = Reply>,
) -> (Reply, Ending) {
    let reply = match fault {
        Fault::Status { code, headers, body } => {
            headers.into_iter().fold(reply(code, body), |reply, (name, value)| with(reply, name, value))
        }
        Fault::Redirect { code, location } => with(reply(code, ""), "location", location),
        Fault::Custom(make) => make(request),
        Fault::CutBody { after } => return (answer.await, Ending::CutAfter(after)),
        Fault::Stall { after } => return (answer.await, Ending::StallAfter(after)),
        Fault::Reset => {
            connection.reset();
            return (reply(500, ""), Ending::Unseen);
        }
        // The body ends there ([`Fault::cuts_upload`]).
        Fault::CutUpload { .. } => {
            answer.await;
            connection.reset();
            return (reply(500, ""), Ending::Unseen);
        }
        Fault::Raw(bytes) => {
            connection.take_over(bytes);
            return (reply(500, ""), Ending::Unseen);
        }
        Fault::ExtraBody { more } => {
            connection.take_over(overlong(answer.await, more).await);
            return (reply(500, ""), Ending::Unseen);
        }
        Fault::WrongBody(bytes) => with_body(answer.await, Body::from(bytes)),
        Fault::Endless => {
            let piece = Bytes::from_static(&[b' '; 1 << 16]);
            with_body(answer.await, Body::from_stream(stream::repeat_with(move || Ok::<_, std::io::Error>(piece.clone()))))
        }
        Fault::Delay(time) => {
            tokio::time::sleep(time).await;
            answer.await
        }
        Fault::Hold(gate) => {
            gate.passed().await;
            answer.await
        }
        Fault::Header { name, value } => {
            let mut reply = answer.await;
            reply.headers_mut().remove(name);
            value.into_iter().fold(reply, |reply, value| with(reply, name, value))
        }
    };
    (reply, Ending::Whole)
}

fn with_body(reply: Reply, body: Body) -> Reply {
    let (mut parts, _) = reply.into_parts();
    parts.headers.remove("content-length");
    Reply::from_parts(parts, body)
}

/// An answer as it stands on the wire, with `more` bytes after its end.
async fn overlong(reply: Reply, more: usize) -> Bytes {
    let (mut parts, body) = reply.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    parts.headers.remove("content-length");
    let mut wire = format!("HTTP/1.1 {}\r\ncontent-length: {}\r\n", parts.status, body.len()).into_bytes();
    for (name, value) in &parts.headers {
        wire.extend_from_slice(name.as_str().as_bytes());
        wire.extend_from_slice(b": ");
        wire.extend_from_slice(value.as_bytes());
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"\r\n");
    wire.extend_from_slice(&body);
    wire.resize(wire.len() + more, b'X');
    wire.into()
}
