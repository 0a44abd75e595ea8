//! Failures below HTTP, in words for a person.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription as Alert, CertificateError, Error as TlsError};

use crate::error::ErrorSource;

/// Why an attempt brought no answer: in words for a person, and the library's error that they were made from.
#[derive(Debug, Clone)]
pub(crate) struct Cause {
    words: String,
    source: Option<ErrorSource>,
}

impl Cause {
    /// With more words after those it has.
    pub(super) fn and(mut self, more: &str) -> Self {
        self.words.push_str(more);
        self
    }

    /// The library's error, for [`crate::Error::with_source`].
    pub(crate) fn source(&self) -> Option<ErrorSource> {
        self.source.clone()
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl From<String> for Cause {
    fn from(words: String) -> Self {
        Cause { words, source: None }
    }
}

impl From<&str> for Cause {
    fn from(words: &str) -> Self {
        words.to_owned().into()
    }
}

impl From<reqwest::Error> for Cause {
    fn from(error: reqwest::Error) -> Self {
        // The address may hold a signature.
        Cause { words: words(&error), source: Some(Arc::new(error.without_url())) }
    }
}

/// The cause of a failed request, without its address (which may hold a signature): the innermost error's words.
fn words(error: &reqwest::Error) -> String {
    let root = root(error);
    if error.is_dns() {
        format!("the host's address cannot be found: {root}")
    } else if error.is_connect() && error.is_timeout() {
        "no connection in 10 s".to_owned()
    } else if error.is_connect() {
        format!("no connection: {root}")
    } else {
        format!("the connection broke: {root}")
    }
}

fn root(error: &reqwest::Error) -> String {
    if tls_error(error).is_some() {
        // The library's own words are names of its types.
        return "the TLS connection failed".to_owned();
    }
    // reqwest's own words would show the address.
    let Some(mut inner) = error.source() else { return "the request could not be sent".to_owned() };
    while let Some(next) = inner.source() {
        inner = next;
    }
    inner.to_string()
}

/// Whether the answer's head is larger than any registry's.
pub(super) fn is_too_large(error: &reqwest::Error) -> bool {
    let mut next = error.source();
    while let Some(error) = next {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse_too_large) {
            return true;
        }
        next = error.source();
    }
    false
}

/// What is wrong with a TLS connection, where trying again is of no use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TlsFault {
    /// What is wrong, naming the host.
    pub(super) what: String,
    /// What the user can set.
    pub(super) remedy: String,
}

/// The fault of a connection to `host` (with its port), the registry called `name`, if that is why `error` came.
pub(super) fn tls(error: &(dyn Error + 'static), host: &str, name: &str) -> Option<TlsFault> {
    let table = format!("[registry.\"{name}\"]");
    let (what, remedy) = match tls_error(error)? {
        TlsError::InvalidCertificate(why) => {
            (format!("the certificate of {host} is not trusted: {}", certificate(why)), certificate_remedy(why, &table))
        }
        TlsError::AlertReceived(alert) => {
            (format!("{host} refuses the TLS connection: {}", alert_words(*alert)), alert_remedy(*alert, &table))
        }
        TlsError::InvalidMessage(_) => {
            (format!("{host} does not speak TLS"), format!("if it is meant to be plain HTTP, set `plain_http = true` in {table}"))
        }
        TlsError::PeerIncompatible(_) => (
            format!("{host} has no TLS version or cipher in common with larder, which speaks TLS 1.2 and 1.3"),
            format!("if a proxy in front of it does, name that as `endpoint` in {table}"),
        ),
        _ => return None,
    };
    Some(TlsFault { what, remedy })
}

/// Whether a failed handshake shows that the server speaks TLS.
pub(super) fn is_of_tls(error: &io::Error) -> bool {
    matches!(tls_error(error), Some(TlsError::InvalidCertificate(_) | TlsError::AlertReceived(_) | TlsError::PeerIncompatible(_)))
}

/// The innermost TLS error.
fn tls_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e TlsError> {
    let mut next = Some(error);
    while let Some(error) = next {
        // An I/O error hides what it is made of from `source`.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let tls = inner.and_then(|inner| inner.downcast_ref::<TlsError>()).or_else(|| error.downcast_ref());
        match (tls, inner) {
            (Some(tls), _) => return Some(tls),
            (None, Some(inner)) => next = Some(inner),
            (None, None) => next = error.source(),
        }
    }
    None
}

fn certificate(why: &CertificateError) -> String {
    match why {
        CertificateError::UnknownIssuer => "its authority is unknown here".to_owned(),
        CertificateError::Expired => "it has expired".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => format!("it expired on {}", date(*not_after)),
        CertificateError::NotValidYet => "it is not valid yet".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => format!("it is not valid before {}", date(*not_before)),
        CertificateError::NotValidForName => "it is for another name".to_owned(),
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => "it names no host".to_owned(),
        CertificateError::NotValidForNameContext { presented, .. } => {
            // As rustls has them: `DnsName("a.example")`, `IpAddress(10.0.0.1)`.
            let bare = |name: &String| {
                let inner = name.split_once('(').map_or(name.as_str(), |(_, inner)| inner.trim_end_matches(')'));
                inner.trim_matches('"').to_owned()
            };
            format!("it is for {}", presented.iter().map(bare).collect::<Vec<_>>().join(", "))
        }
        CertificateError::Revoked => "it was revoked".to_owned(),
        CertificateError::BadSignature => "its signature is wrong".to_owned(),
        CertificateError::BadEncoding => "it cannot be read".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => "it is not for servers".to_owned(),
        // The library names these by its types; the common one is a certificate authority's own, shown as the server's.
        CertificateError::Other(_) => "it is a certificate authority's own certificate, or breaks another rule".to_owned(),
        _ => "it breaks a rule for certificates".to_owned(),
    }
}

fn certificate_remedy(why: &CertificateError, table: &str) -> String {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it must be renewed there; or is this machine's clock wrong?".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "is this machine's clock right?".to_owned(),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("name a host that it is for as `endpoint` in {table}")
        }
        _ => format!("name the authority that signed it, or the certificate itself, as `ca` in {table}"),
    }
}

fn alert_words(alert: Alert) -> String {
    let words = match alert {
        Alert::CertificateRequired => "it wants a client certificate",
        Alert::BadCertificate | Alert::UnsupportedCertificate | Alert::CertificateUnknown => "it does not accept the client certificate",
        Alert::CertificateExpired => "the client certificate has expired",
        Alert::CertificateRevoked => "the client certificate was revoked",
        Alert::UnknownCA => "it does not know the authority of the client certificate",
        Alert::AccessDenied => "access denied",
        Alert::HandshakeFailure => "handshake failure",
        Alert::ProtocolVersion => "it does not speak TLS 1.2 or 1.3",
        Alert::InsufficientSecurity => "insufficient security",
        Alert::UnrecognisedName => "it does not know this host name",
        Alert::InternalError => "an internal error",
        other => return format!("TLS alert {}", u8::from(other)),
    };
    words.to_owned()
}

fn alert_remedy(alert: Alert, table: &str) -> String {
    match alert {
        Alert::ProtocolVersion | Alert::InsufficientSecurity | Alert::UnrecognisedName => {
            format!("name the right host as `endpoint` in {table}")
        }
        _ => format!("if it wants a client certificate, set `client_cert` and `client_key` in {table}"),
    }
}

fn date(time: UnixTime) -> String {
    let time = i64::try_from(time.as_secs()).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(|| "an unknown date".to_owned(), |time| time.strftime("%Y-%m-%d %H:%M UTC").to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn fault(error: TlsError) -> String {
        let TlsFault { what, remedy } = tls(&io::Error::other(error), "r.example:443", "r.example").unwrap();
        format!("{what} ({remedy})")
    }

    #[test]
    fn a_tls_error_is_found_however_deep_it_lies() {
        let error = || TlsError::InvalidCertificate(CertificateError::UnknownIssuer);
        let wrapped = io::Error::other(io::Error::other(error()));
        assert!(tls(&wrapped, "h", "h").is_some());
        assert!(tls(&error(), "h", "h").is_some());
        assert!(tls(&io::Error::other(TlsError::DecryptError), "h", "h").is_none());
        assert!(tls(&io::Error::from(io::ErrorKind::ConnectionReset), "h", "h").is_none());
    }

    #[test]
    fn an_expired_certificate_says_its_date() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let expired = CertificateError::ExpiredContext { time: at(1_800_000_000), not_after: at(1_772_366_400) };
        insta::assert_snapshot!(fault(expired.into()), @"the certificate of r.example:443 is not trusted: it expired on 2026-03-01 12:00 UTC (it must be renewed there; or is this machine's clock wrong?)");
    }

    #[test]
    fn faults_say_what_to_set() {
        insta::assert_snapshot!(fault(TlsError::AlertReceived(Alert::CertificateRequired)), @r#"r.example:443 refuses the TLS connection: it wants a client certificate (if it wants a client certificate, set `client_cert` and `client_key` in [registry."r.example"])"#);
        insta::assert_snapshot!(fault(TlsError::AlertReceived(Alert::Unknown(200))), @r#"r.example:443 refuses the TLS connection: TLS alert 200 (if it wants a client certificate, set `client_cert` and `client_key` in [registry."r.example"])"#);
        insta::assert_snapshot!(fault(TlsError::InvalidMessage(rustls::InvalidMessage::InvalidContentType)), @r#"r.example:443 does not speak TLS (if it is meant to be plain HTTP, set `plain_http = true` in [registry."r.example"])"#);
        insta::assert_snapshot!(fault(CertificateError::UnknownIssuer.into()), @r#"the certificate of r.example:443 is not trusted: its authority is unknown here (name the authority that signed it, or the certificate itself, as `ca` in [registry."r.example"])"#);
    }

    #[test]
    fn another_name_is_said_without_the_librarys_types() {
        let presented = vec!["DnsName(\"a.example\")".to_owned(), "IpAddress(10.0.0.1)".to_owned()];
        let expected = rustls::pki_types::ServerName::try_from("r.example").unwrap();
        let words = certificate(&CertificateError::NotValidForNameContext { expected, presented });
        assert_eq!(words, "it is for a.example, 10.0.0.1");
    }
}
