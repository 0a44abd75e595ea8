//! Whose certificates are trusted: the system's authorities and the configured ones, and a configured certificate itself.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme};
use rustls_platform_verifier::Verifier;

use super::validity::Validity;

/// The verifier of one registry; `own` is what its `ca` holds.
pub(super) fn verifier(own: &[CertificateDer<'static>], provider: &Arc<CryptoProvider>) -> Arc<dyn ServerCertVerifier> {
    let authorities = authorities(own, provider);
    if own.is_empty() {
        return authorities;
    }
    Arc::new(OrOwn { authorities, own: own.to_vec() })
}

/// The system's authorities and `own`. Where the system has none (a bare container), `own` alone, so that plain http and registries
/// with their own `ca` still work, and others fail by an error about their certificate.
fn authorities(own: &[CertificateDer<'static>], provider: &Arc<CryptoProvider>) -> Arc<dyn ServerCertVerifier> {
    let missing = match Verifier::new_with_extra_roots(own.iter().cloned(), Arc::clone(provider)) {
        Ok(verifier) => return Arc::new(verifier),
        Err(error) => error,
    };
    tracing::warn!(reason = %missing, "this machine's certificate authorities could not be read; only a configured `ca` is trusted");
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(own.iter().cloned());
    match WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build() {
        Ok(verifier) => verifier,
        Err(_) => Arc::new(Always { trusted: false, provider: Arc::clone(provider) }),
    }
}

/// As `authorities`, and beside them the very certificates of a `ca` file. `openssl req -x509` makes a certificate that says to be an
/// authority and serves as the registry's own; a chain may not end in such a one, but whoever holds it has been named by the user.
#[derive(Debug)]
struct OrOwn {
    authorities: Arc<dyn ServerCertVerifier>,
    own: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for OrOwn {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let judged = self.authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        if judged.is_ok() || !self.own.iter().any(|own| own == end_entity) {
            return judged;
        }
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        let validity = Validity::of(end_entity).ok_or(CertificateError::BadEncoding)?;
        validity.check(now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.authorities.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.authorities.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

/// One answer for every certificate. What is signed with its key is checked all the same.
#[derive(Debug)]
pub(super) struct Always {
    /// The answer: `insecure_skip_verify` trusts all, a machine without authorities none.
    pub(super) trusted: bool,
    pub(super) provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Always {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        if self.trusted { Ok(ServerCertVerified::assertion()) } else { Err(CertificateError::UnknownIssuer.into()) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
