//! Failures below HTTP, in words for a person.

use std::error::Error;
use std::io;

use rustls::Error as TlsError;

/// The cause of a failed request, without its address (which may hold a signature): the innermost error's words.
pub(super) fn words(error: &reqwest::Error) -> String {
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
    // reqwest's own words would show the address.
    let Some(mut inner) = error.source() else { return "the request could not be sent".to_owned() };
    while let Some(next) = inner.source() {
        inner = next;
    }
    inner.to_string()
}

/// What is wrong with the registry's certificate, if that is why there is no connection: trying again is no use then.
pub(super) fn certificate(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        // An I/O error hides what it is made of from `source`.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let tls = inner.and_then(|inner| inner.downcast_ref::<TlsError>()).or_else(|| error.downcast_ref());
        match (tls, inner) {
            (Some(TlsError::InvalidCertificate(what)), _) => return Some(what.to_string()),
            (_, Some(inner)) => next = Some(inner),
            (_, None) => next = error.source(),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::CertificateError;

    #[test]
    fn a_certificate_is_found_however_deep_it_lies() {
        let tls = || TlsError::InvalidCertificate(CertificateError::UnknownIssuer);
        let wrapped = io::Error::other(io::Error::other(tls()));
        assert!(certificate(&wrapped).is_some());
        assert!(certificate(&tls()).is_some());
        assert!(certificate(&io::Error::other(TlsError::DecryptError)).is_none());
        assert!(certificate(&io::Error::from(io::ErrorKind::ConnectionReset)).is_none());
    }
}
