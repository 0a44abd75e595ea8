//! The one error type: which side failed, at what, for which image, and what to do about it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

/// `Result` with larder's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Where a failure happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The registry images come from.
    Upstream,
    /// The registry or layout they go to.
    Target,
    /// This machine: files, configuration, the program itself.
    Local,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Upstream => "upstream",
            Side::Target => "target",
            Side::Local => "local",
        })
    }
}

/// What a failure means to the code that decides what to do next. Users read the message instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The thing asked for does not exist (404, `MANIFEST_UNKNOWN`, a missing file).
    NotFound,
    /// No or wrong credentials (401).
    Unauthorized,
    /// The registry refuses this request for good (other 4xx).
    Refused,
    /// A manifest was put whose blobs or children the target misses (`MANIFEST_BLOB_UNKNOWN`).
    ContentMissing,
    /// The upload session is gone or out of step (`BLOB_UPLOAD_INVALID`, `BLOB_UPLOAD_UNKNOWN`, 416): a new one may work.
    UploadLost,
    /// Bytes are not what their digest or length says.
    Damaged,
    /// A registry tried what an untrusted registry may not do: private addresses, credentials for strangers, endless bodies.
    Untrusted,
    /// The registry limits us (429) and patience is at an end.
    Limited,
    /// Unreachable, or failing (5xx, timeouts) after all retries.
    Unavailable,
    /// Content that larder does not carry (Docker schema 1).
    Unsupported,
    /// The local disk is full.
    DiskFull,
    /// Any other local input or output failure, or an entry that cannot be acted on (list, rules, configuration).
    Local,
    /// The run was interrupted.
    Cancelled,
    /// Nothing is wrong, but it must wait longer than this run does: a spent pull window, a long `Retry-After`. See [`Error::until`].
    Deferred,
}

/// The time in which a host answers nobody. All errors that it causes share it.
#[derive(Debug, Clone, Default)]
pub struct Outage(Arc<AtomicBool>);

impl Outage {
    /// The host has answered.
    pub fn end(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
    /// Whether the host has answered since.
    pub fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A failure: one line a person can act on.
///
/// Everything that came from a registry has passed [`printable`] on its way in, so that printing it is safe.
#[derive(Clone)]
pub struct Error(Box<ErrorInner>);

#[derive(Clone)]
struct ErrorInner {
    side: Side,
    operation: Cow<'static, str>,
    kind: Kind,
    message: String,
    subject: Option<String>,
    status: Option<u16>,
    code: Option<String>,
    remedy: Option<String>,
    until: Option<jiff::Timestamp>,
    host: Option<String>,
    outage: Option<Outage>,
    /// What failures of several images have in common, where their words differ.
    cause: Option<String>,
}

impl Error {
    /// A failure of `operation` (a short verb phrase: "get manifest") on `side`.
    pub fn new(side: Side, operation: impl Into<Cow<'static, str>>, kind: Kind, message: impl AsRef<str>) -> Self {
        Error(Box::new(ErrorInner {
            side,
            operation: operation.into(),
            kind,
            message: printable(message.as_ref()),
            subject: None,
            status: None,
            code: None,
            remedy: None,
            until: None,
            host: None,
            outage: None,
            cause: None,
        }))
    }

    /// A local failure: list, configuration, file.
    pub fn local(operation: impl Into<Cow<'static, str>>, message: impl AsRef<str>) -> Self {
        Self::new(Side::Local, operation, Kind::Local, message)
    }

    /// A local input or output failure; a full disk is told apart.
    pub fn io(operation: impl Into<Cow<'static, str>>, path: &std::path::Path, error: &std::io::Error) -> Self {
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
    pub fn cancelled(operation: impl Into<Cow<'static, str>>) -> Self {
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

    /// It happened because the host answers nobody.
    #[must_use]
    pub fn in_outage(mut self, outage: Outage) -> Self {
        self.0.outage = Some(outage);
        self
    }

    /// It has the same cause as all failures with this `cause`.
    #[must_use]
    pub(crate) fn with_cause(mut self, cause: Option<String>) -> Self {
        self.0.cause = cause;
        self
    }

    /// What [`Error::with_cause`] has set.
    pub(crate) fn cause(&self) -> Option<String> {
        self.0.cause.clone()
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

    /// The same failure, met at `operation` for `subject`.
    #[must_use]
    pub fn met_again(mut self, operation: &'static str, subject: &str) -> Self {
        self.0.operation = Cow::Borrowed(operation);
        self.0.subject = Some(printable(subject));
        self
    }

    /// The same failure, with `what` it is about in front of its message: a blob.
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

    /// As [`Error::remedy`], in the place of any other: for who knows better why it was asked.
    #[must_use]
    pub(crate) fn rather(mut self, remedy: impl Into<String>) -> Self {
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

    /// The same failure, to be decided upon as `kind`.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// The same failure, on `side`: for what two sides share (a token asked for once by both ends of a copy).
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
    pub fn operation(&self) -> &str {
        &self.0.operation
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
    /// What two failures with one cause have in common, whichever image met them. A host that is down is one cause, whatever was asked.
    pub(crate) fn cause_key(&self) -> String {
        let ErrorInner { side, operation, host, status, code, message, .. } = &*self.0;
        match (&self.0.outage, &self.0.cause) {
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

impl std::error::Error for Error {}

/// Text with every control and format character as a visible escape, line breaks and tabs apart: safe for a terminal.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    escaped(text, |c, out| out.extend(c.escape_unicode()))
}

/// The same for a line of JSON, with JSON's own escapes: it means what it meant.
pub(crate) fn visible_json(text: &str) -> Cow<'_, str> {
    escaped(text, |c, out| c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}"))))
}

fn escaped(text: &str, escape: impl Fn(char, &mut String)) -> Cow<'_, str> {
    let is_plain = |c: char| matches!(c, '\n' | '\t') || !is_unprintable(c);
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    text.chars().for_each(|c| if is_plain(c) { out.push(c) } else { escape(c, &mut out) });
    Cow::Owned(out)
}

/// Text from a registry or a list, made safe for a terminal and a log: control and format characters become visible
/// escapes, line breaks become spaces, user names and passwords of URLs are left out, and it ends after 1,000 characters (an error is
/// one line, not a web page).
pub fn printable(text: &str) -> String {
    const MOST: usize = 1000;
    let text = &*without_userinfo(text);
    let mut out = String::with_capacity(text.len().min(MOST));
    for (count, c) in text.chars().enumerate() {
        if count == MOST {
            out.push('…');
            break;
        }
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            c if is_unprintable(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// What stands in the place of a user name and password.
const REDACTED: &str = "[redacted]";

/// `text` without the user names and passwords of URLs in it: `https://user:password@host` and `user:password@host`.
///
/// A reference (`name:tag@sha256:…`) has the same shape as the second; a digest after the `@` tells.
pub(crate) fn without_userinfo(text: &str) -> Cow<'_, str> {
    if !text.contains('@') {
        return Cow::Borrowed(text);
    }
    let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | ',' | ';' | '<' | '>' | '(' | ')' | '[' | ']');
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let (word, after) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
        out.push_str(&redacted_word(word));
        let separator = after.chars().next().map_or(0, char::len_utf8);
        out.push_str(&after[..separator]);
        rest = &after[separator..];
    }
    Cow::Owned(out)
}

fn redacted_word(word: &str) -> Cow<'_, str> {
    let (scheme, rest) = word.find("//").map_or(("", word), |at| word.split_at(at + 2));
    let Some(end) = rest.rfind('@') else { return Cow::Borrowed(word) };
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    // A password may hold a slash that should have been written as %2F. What stands before it is no host and port then.
    let torn = || authority.split_once(':').is_some_and(|(_, port)| port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()));
    let secret = match authority.rfind('@') {
        Some(at) if !scheme.is_empty() || (rest[..at].contains(':') && !is_digest(&rest[at + 1..])) => at,
        None if torn() && !is_digest(&rest[end + 1..]) => end,
        _ => return Cow::Borrowed(word),
    };
    Cow::Owned(format!("{scheme}{REDACTED}{}", &rest[secret..]))
}

/// Whether text begins as a digest does: an algorithm, and hex digits.
fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    // Messages show the first digits only.
    algorithm.starts_with("sha") && hex.bytes().take(8).all(|byte| byte.is_ascii_hexdigit())
}

/// Control characters, and the invisible ones that reorder or hide text (Unicode's Cf class in the ranges that terminals
/// act on: bidirectional marks and overrides, zero-width characters, tags).
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{AD}' | '\u{61C}' | '\u{180E}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_side_operation_subject_status_code_and_remedy() {
        let error = Error::new(Side::Upstream, "get manifest", Kind::NotFound, "manifest unknown")
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
        let error = Error::new(Side::Upstream, "get manifest", Kind::Refused, "\x1b[2Jgone\r\nnext\u{202e}");
        assert_eq!(error.message(), "\\u{1b}[2Jgone  next\\u{202e}");
    }

    #[test]
    fn what_is_shown_has_no_character_that_a_terminal_acts_on() {
        let hostile = "a\u{202e}b\x1b[31m\u{9b}c\u{61c}\n\td\u{e0041}";
        assert_eq!(visible(hostile), "a\\u{202e}b\\u{1b}[31m\\u{9b}c\\u{61c}\n\td\\u{e0041}");
        let line = serde_json::json!({ "name": hostile }).to_string();
        let shown = visible_json(&line);
        assert!(!shown.chars().any(is_unprintable), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap()["name"], hostile);
    }

    #[test]
    fn user_names_and_passwords_of_urls_are_left_out() {
        for (text, expected) in [
            ("read https://ann:hunter2@quay.io/a failed", "read https://[redacted]@quay.io/a failed"),
            ("`https://ann:hun@ter2@quay.io:5000/a`", "`https://[redacted]@quay.io:5000/a`"),
            ("https://ann:hun/ter2@quay.io/a", "https://[redacted]@quay.io/a"),
            ("https://hunter2@quay.io/a", "https://[redacted]@quay.io/a"),
            ("`//ann:hunter2@quay.io`", "`//[redacted]@quay.io`"),
            ("http://ann:hunter2@proxy.corp:3128", "http://[redacted]@proxy.corp:3128"),
            ("socks5h://ann:hunter2@[::1]:1080,x", "socks5h://[redacted]@[::1]:1080,x"),
            ("\"ann:hunter2@quay.io/a:1\"", "\"[redacted]@quay.io/a:1\""),
            ("ann:hunter2@quay.io/a@sha256:0011223344", "[redacted]@quay.io/a@sha256:0011223344"),
            // What is none stays.
            ("quay.io/a:1@sha256:0011223344556677", "quay.io/a:1@sha256:0011223344556677"),
            ("a:1@sha256:00112233…", "a:1@sha256:00112233…"),
            ("localhost:5000/a/b:1@sha512:0011223344", "localhost:5000/a/b:1@sha512:0011223344"),
            ("https://quay.io/v2/a/manifests/x@y", "https://quay.io/v2/a/manifests/x@y"),
            ("https://quay.io:443/v2/a@b", "https://quay.io:443/v2/a@b"),
            ("ann@example.com", "ann@example.com"),
            ("a@b: c", "a@b: c"),
        ] {
            assert_eq!(without_userinfo(text), expected);
        }
        let error = Error::local("read list", "`https://ann:hunter2@quay.io` is no name").subject("ann:hunter2@quay.io");
        assert_eq!(error.to_string(), "local: read list [redacted]@quay.io: `https://[redacted]@quay.io` is no name");
    }

    proptest::proptest! {
        #[test]
        fn no_password_survives_in_a_url(password in "[a-zA-Z0-9!$&*+=~._-]{6,20}", before in "[a-z ]{0,10}", after in "[a-z/:.]{0,20}") {
            let text = format!("{before} https://ann:{password}@quay.io/{after}");
            let shown = printable(&text);
            let secret = format!(":{password}");
            proptest::prop_assert!(!shown.contains(&secret), "{}", shown);
        }
        #[test]
        fn any_text_is_survived(text in "\\PC{0,80}|[a-z:@/\"` é]{0,40}") {
            let _ = without_userinfo(&text);
        }
    }

    #[test]
    fn a_long_message_is_cut() {
        assert_eq!(printable(&"x".repeat(5000)).chars().count(), 1001);
    }
}
