//! The one error type: which side failed, in which operation, for which image, and what to do about it.
//!
//! Every room may use this one; it imports none. Texts that come from outside are made safe here ([`printable`]).

mod kind;
mod operation;
mod text;

use std::fmt;
use std::sync::Arc;

pub use kind::{Kind, Outage, Side};
pub use operation::Operation;
pub use text::printable;
pub(crate) use text::{visible, visible_json, without_userinfo};

/// `Result` with larder's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a library, kept for those who ask what led to one of ours. It must not hold a secret, such as a signed URL.
pub(crate) type ErrorSource = Arc<dyn std::error::Error + Send + Sync>;

/// A failure: one line a person can act on.
///
/// Everything that came from a registry has passed [`printable`] on its way in, so that printing it is safe.
#[derive(Clone)]
pub struct Error(Box<ErrorInner>);

#[derive(Clone)]
struct ErrorInner {
    side: Side,
    operation: Operation,
    kind: Kind,
    message: String,
    subject: Option<String>,
    status: Option<u16>,
    code: Option<String>,
    remedy: Option<String>,
    until: Option<jiff::Timestamp>,
    host: Option<String>,
    outage: Option<Outage>,
    /// What failures of several images have in common, where their messages differ.
    shared_cause: Option<String>,
    /// The error of a library that is below this one.
    source: Option<ErrorSource>,
}

impl Error {
    /// A failure of `operation` on `side`.
    pub fn new(side: Side, operation: Operation, kind: Kind, message: impl AsRef<str>) -> Self {
        Error(Box::new(ErrorInner {
            side,
            operation,
            kind,
            message: printable(message.as_ref()),
            subject: None,
            status: None,
            code: None,
            remedy: None,
            until: None,
            host: None,
            outage: None,
            shared_cause: None,
            source: None,
        }))
    }

    /// A local failure: list, configuration, file.
    pub fn local(operation: Operation, message: impl AsRef<str>) -> Self {
        Self::new(Side::Local, operation, Kind::Local, message)
    }

    /// A local input or output failure; a full disk is told apart.
    pub fn io(operation: Operation, path: &std::path::Path, error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::FileTooLarge && error.raw_os_error().is_some() {
            let message = format!("{}: the file system or a limit of the process takes no file that large", path.display());
            return Self::new(Side::Local, operation, Kind::Local, message)
                .remedy("write to another file system (FAT takes 4 GiB a file), or in smaller volumes");
        }
        let full = matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        let (kind, message) = if full {
            (Kind::DiskFull, format!("no space left on the disk of {}", path.display()))
        } else {
            (Kind::Local, format!("{}: {error}", path.display()))
        };
        let made = Self::new(Side::Local, operation, kind, message);
        if full { made.remedy("free space there and run the same command again: it goes on where it stopped") } else { made }
    }

    /// The run was interrupted before this was done.
    pub fn cancelled(operation: Operation) -> Self {
        Self::new(Side::Local, operation, Kind::Cancelled, "interrupted")
    }

    /// Names the image, repository or file this is about. The innermost name stays.
    #[must_use]
    pub fn subject(mut self, subject: impl AsRef<str>) -> Self {
        self.0.subject.get_or_insert_with(|| printable(subject.as_ref()));
        self
    }

    /// The registry it happened at.
    #[must_use]
    pub fn host(mut self, host: impl AsRef<str>) -> Self {
        self.0.host.get_or_insert_with(|| printable(host.as_ref()));
        self
    }

    /// It happened because the host answers no request.
    #[must_use]
    pub fn in_outage(mut self, outage: Outage) -> Self {
        self.0.outage = Some(outage);
        self
    }

    /// It has the same cause as all failures with this `cause`, whatever their messages say.
    #[must_use]
    pub(crate) fn with_shared_cause(mut self, cause: Option<String>) -> Self {
        self.0.shared_cause = cause;
        self
    }

    /// What [`Error::with_shared_cause`] has set.
    pub(crate) fn shared_cause(&self) -> Option<String> {
        self.0.shared_cause.clone()
    }

    /// The error of a library that led to this one, if there is one: `-v` shows it and what is below it.
    #[must_use]
    pub(crate) fn with_source(mut self, source: Option<ErrorSource>) -> Self {
        self.0.source = source;
        self
    }

    /// The errors below this one, the outermost first, each safe to print. What repeats the line above it is left out.
    pub(crate) fn source_chain(&self) -> Vec<String> {
        let mut chain: Vec<String> = vec![];
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            let text = printable(&error.to_string());
            if chain.last() != Some(&text) {
                chain.push(text);
            }
            next = error.source();
        }
        chain
    }

    /// The outage that caused it, if one did.
    pub fn outage(&self) -> Option<&Outage> {
        self.0.outage.as_ref()
    }

    /// Whether it was caused by an outage that is not over: the same work would fail again.
    pub(crate) fn in_ongoing_outage(&self) -> bool {
        self.outage().is_some_and(|outage| !outage.is_over())
    }

    /// The registry it happened at, where that is known.
    pub fn at_host(&self) -> Option<&str> {
        self.0.host.as_deref()
    }

    /// The same failure, which another request met: `operation`, for `subject`.
    #[must_use]
    pub fn repeated_for(mut self, operation: Operation, subject: &str) -> Self {
        self.0.operation = operation;
        self.0.subject = Some(printable(subject));
        self
    }

    /// The same failure, with what it is about (a blob) in front of its message.
    #[must_use]
    pub fn about(mut self, what: impl AsRef<str>) -> Self {
        self.0.message = format!("{}: {}", printable(what.as_ref()), self.0.message);
        self
    }

    /// The HTTP status that was answered.
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        self.0.status = Some(status);
        self
    }

    /// The registry's error code (`MANIFEST_UNKNOWN`).
    #[must_use]
    pub fn code(mut self, code: impl AsRef<str>) -> Self {
        self.0.code = Some(printable(code.as_ref()));
        self
    }

    /// What the reader can do about it; the first remedy stays.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.0.remedy.get_or_insert_with(|| without_userinfo(&remedy.into()).into_owned());
        self
    }

    /// As [`Error::remedy`], but replaces any other: for a caller that knows better why the request was sent.
    #[must_use]
    pub(crate) fn replace_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.0.remedy = Some(without_userinfo(&remedy.into()).into_owned());
        self
    }

    /// When it can go on, at the latest.
    #[must_use]
    pub fn waiting_until(mut self, until: Option<jiff::Timestamp>) -> Self {
        self.0.until = until;
        self
    }

    /// When it can go on, at the latest, if that is known.
    pub fn until(&self) -> Option<jiff::Timestamp> {
        self.0.until
    }

    /// The same failure, which code is to treat as `kind`.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// The same failure, on `side`: for what two sides share (one token server for both ends of a copy).
    #[must_use]
    pub fn on_side(mut self, side: Side) -> Self {
        self.0.side = side;
        self
    }

    /// Where it failed.
    pub fn side(&self) -> Side {
        self.0.side
    }
    /// What was being done.
    pub fn operation(&self) -> Operation {
        self.0.operation
    }
    /// What it means to the code.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }
    /// The HTTP status, where there was one.
    pub fn http_status(&self) -> Option<u16> {
        self.0.status
    }
    /// The registry's error code, where there was one.
    pub fn registry_code(&self) -> Option<&str> {
        self.0.code.as_deref()
    }
    /// The message alone, without the remedy.
    pub(crate) fn bare_message(&self) -> &str {
        &self.0.message
    }
    /// The remedy alone.
    pub(crate) fn remedy_text(&self) -> Option<&str> {
        self.0.remedy.as_deref()
    }
    /// A key that failures with one cause share, whichever image met them. A host that is down is one cause, whatever was asked.
    pub(crate) fn cause_key(&self) -> String {
        let ErrorInner { side, operation, host, status, code, message, .. } = &*self.0;
        match (&self.0.outage, &self.0.shared_cause) {
            (Some(_), _) => format!("{side} {host:?} is down"),
            (None, Some(cause)) => format!("{side} {cause}"),
            (None, None) => format!("{side} {host:?} {operation} {status:?} {code:?} {message}"),
        }
    }

    /// The failure in one line for several images: without the image.
    pub(crate) fn without_subject(&self) -> String {
        let mut line = self.clone();
        // A login is about the registry, not about an image.
        let about_host = self.0.subject.as_ref().is_some_and(|subject| !subject.contains('/'));
        if !about_host {
            line.0.subject = None;
        }
        if self.0.outage.is_none() {
            return line.to_string();
        }
        let host = self.0.host.as_ref().map(|host| format!(" {host}")).unwrap_or_default();
        let status = self.0.status.map(|status| format!("{status} ")).unwrap_or_default();
        format!("{}{host}: {status}{}", self.0.side, self.message())
    }

    /// Whether the image that it is about is an image of `host`.
    fn names(&self, host: &str) -> bool {
        self.0.subject.as_ref().and_then(|subject| subject.strip_prefix(host)).is_some_and(|rest| rest.starts_with('/'))
    }

    /// Message and remedy without side, operation and image: what a report's `message` holds.
    pub fn message(&self) -> String {
        match &self.0.remedy {
            Some(remedy) => format!("{} ({remedy})", self.0.message),
            None => self.0.message.clone(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.side)?;
        if let Some(host) = self.0.host.as_ref().filter(|host| !self.names(host)) {
            write!(f, " {host}")?;
        }
        write!(f, ": {}", self.0.operation)?;
        if let Some(subject) = &self.0.subject {
            write!(f, " {subject}")?;
        }
        f.write_str(": ")?;
        if let Some(status) = self.0.status {
            write!(f, "{status} ")?;
        }
        if let Some(code) = &self.0.code {
            write!(f, "{code} ")?;
        }
        f.write_str(&self.message())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} [{:?}]", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_side_operation_subject_status_code_and_remedy() {
        let error = Error::new(Side::Upstream, Operation::GetManifest, Kind::NotFound, "manifest unknown")
            .subject("docker.io/library/alpine:3.99")
            .status(404)
            .code("MANIFEST_UNKNOWN")
            .remedy("check the tag");
        assert_eq!(
            error.to_string(),
            "upstream: get manifest docker.io/library/alpine:3.99: 404 MANIFEST_UNKNOWN manifest unknown (check the tag)"
        );
    }

    #[test]
    fn escapes_of_a_hostile_registry_do_not_reach_the_terminal() {
        let error = Error::new(Side::Upstream, Operation::GetManifest, Kind::Refused, "\x1b[2Jgone\r\nnext\u{202e}");
        assert_eq!(error.message(), "\\u{1b}[2Jgone  next\\u{202e}");
    }

    #[test]
    fn user_names_and_passwords_of_urls_are_not_shown() {
        let error = Error::local(Operation::ReadList, "`https://ann:hunter2@quay.io` is no name").subject("ann:hunter2@quay.io");
        assert_eq!(error.to_string(), "local: read list [redacted]@quay.io: `https://[redacted]@quay.io` is no name");
    }
}
