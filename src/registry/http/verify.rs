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

/// The verifier of one registry. Whatever it trusts, the server must prove that it has the certificate's key.
#[derive(Debug)]
pub(super) struct CertificateVerifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Trust {
    /// Every certificate (`insecure_skip_verify`).
    All,
    /// What the authorities signed, if this machine has any, and the very certificates of a `ca` file. `openssl req -x509`
    /// makes a certificate that says to be an authority and serves as the registry's own. A chain may not end in such a one,
    /// but the user named it.
    Some { authorities: Option<Arc<dyn ServerCertVerifier>>, own: Vec<CertificateDer<'static>> },
}

impl CertificateVerifier {
    /// Trusts every certificate.
    pub(super) fn trusting_all(provider: Arc<CryptoProvider>) -> Self {
        CertificateVerifier { trust: Trust::All, provider }
    }

    /// Trusts the system's authorities and `own`, which is what the registry's `ca` holds.
    pub(super) fn new(own: &[CertificateDer<'static>], provider: Arc<CryptoProvider>) -> Self {
        CertificateVerifier { trust: Trust::Some { authorities: authorities(own, &provider), own: own.to_vec() }, provider }
    }
}

/// The system's authorities and `own`. Where the system has none (a bare container), `own` alone, so that plain http and
/// registries with their own `ca` still work, and others fail by an error about their certificate.
fn authorities(own: &[CertificateDer<'static>], provider: &Arc<CryptoProvider>) -> Option<Arc<dyn ServerCertVerifier>> {
    let missing = match Verifier::new_with_extra_roots(own.iter().cloned(), Arc::clone(provider)) {
        Ok(verifier) => return Some(Arc::new(verifier)),
        Err(error) => error,
    };
    tracing::warn!(reason = %missing, "this machine's certificate authorities could not be read; only a configured `ca` is trusted");
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(own.iter().cloned());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
    Some(verifier.ok()?)
}

impl ServerCertVerifier for CertificateVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let Trust::Some { authorities, own } = &self.trust else { return Ok(ServerCertVerified::assertion()) };
        let judged = match authorities {
            Some(authorities) => authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now),
            None => Err(CertificateError::UnknownIssuer.into()),
        };
        if judged.is_ok() || !own.iter().any(|own| own == end_entity) {
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
