//! Certificates and keys from files, checked one by one so that an error names the file and what is wrong with it.

use crate::Operation;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore};

use super::verify::CertificateVerifier;
use crate::error::{Error, Result};

/// The part of a registry's settings that shapes its connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HttpSettings {
    /// PEM file with certificate authorities trusted for this registry beside the system's.
    pub(crate) ca: Option<PathBuf>,
    /// PEM file with the certificate (and its chain) that we show.
    pub(crate) client_cert: Option<PathBuf>,
    /// PEM file with its key; none: the key is in `client_cert`.
    pub(crate) client_key: Option<PathBuf>,
    /// Do not check the registry's certificate at all.
    pub(crate) insecure_skip_verify: bool,
}

/// Reads and checks the files; gives what all connections to the registry begin with.
pub(super) fn config(settings: &HttpSettings) -> Result<ClientConfig> {
    let authorities = settings.ca.as_deref().map_or(Ok(Vec::new()), authorities)?;
    let identity = match (&settings.client_cert, &settings.client_key) {
        (Some(cert), key) => Some(identity(cert, key.as_deref().unwrap_or(cert))?),
        (None, Some(key)) => return Err(bad(Operation::ReadClientKey, key, "there is no client_cert to go with it")),
        (None, None) => None,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(match settings.insecure_skip_verify {
        true => CertificateVerifier::trusting_all(Arc::clone(&provider)),
        false => CertificateVerifier::new(&authorities, Arc::clone(&provider)),
    });
    let unusable = |error: rustls::Error| Error::local(Operation::SetUpHttp, error.to_string());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(unusable)?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(unusable),
        None => Ok(builder.with_no_client_auth()),
    }
}

fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    const OPERATION: Operation = Operation::ReadCa;
    let ders = certificates(OPERATION, path, &load(OPERATION, path)?)?;
    let mut store = RootCertStore::empty();
    ders.into_iter()
        .enumerate()
        .map(|(at, der)| {
            // The library says why by the names of its types.
            store.add(der.clone()).map_err(|_| bad(OPERATION, path, &format!("its certificate {} cannot be used", at + 1)))?;
            Ok(der)
        })
        .collect()
}

fn identity(cert: &Path, key: &Path) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let cert_pem = load(Operation::ReadClientCert, cert)?;
    let key_pem = load(Operation::ReadClientKey, key)?;
    let chain = certificates(Operation::ReadClientCert, cert, &cert_pem)?;
    let private = PrivateKeyDer::from_pem_slice(&key_pem)
        .map_err(|_| bad(Operation::ReadClientKey, key, "it holds no unencrypted private key in PEM (`-----BEGIN PRIVATE KEY-----`)"))?;
    CertifiedKey::from_der(chain.clone(), private.clone_key(), &rustls::crypto::ring::default_provider())
        .map_err(|_| bad(Operation::ReadClientCert, cert, &format!("it does not go with the key in {}", key.display())))?;
    Ok((chain, private))
}

fn certificates(operation: Operation, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let ders = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad(operation, path, &format!("it is not valid PEM: {error}")))?;
    if ders.is_empty() {
        return Err(bad(operation, path, "it holds no certificate in PEM (`-----BEGIN CERTIFICATE-----`)"));
    }
    Ok(ders)
}

fn load(operation: Operation, path: &Path) -> Result<Vec<u8>> {
    crate::input::read(path, crate::input::MAX_PEM).map_err(|error| Error::io(operation, path, &error))
}

fn bad(operation: Operation, path: &Path, what: &str) -> Error {
    Error::local(operation, format!("{}: {what}", path.display()))
}
