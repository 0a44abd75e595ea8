//! Certificates and keys from files, checked one by one so that an error names the file and what is wrong with it.

use std::path::{Path, PathBuf};

use reqwest::{Certificate, ClientBuilder, Identity};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

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

/// What was read from those files.
pub(super) struct Material {
    authorities: Vec<Certificate>,
    identity: Option<Identity>,
    insecure: bool,
}

impl Material {
    /// Reads and checks the files.
    pub(super) fn read(settings: &HttpSettings) -> Result<Self> {
        let authorities = settings.ca.as_deref().map_or(Ok(Vec::new()), authorities)?;
        let identity = match (&settings.client_cert, &settings.client_key) {
            (Some(cert), key) => Some(identity(cert, key.as_deref().unwrap_or(cert))?),
            (None, Some(key)) => return Err(bad("read client_key", key, "there is no client_cert to go with it")),
            (None, None) => None,
        };
        Ok(Material { authorities, identity, insecure: settings.insecure_skip_verify })
    }

    /// The system's authorities and the configured ones.
    pub(super) fn with_system_roots(&self, builder: ClientBuilder) -> ClientBuilder {
        self.rest(builder.tls_certs_merge(self.authorities.iter().cloned()))
    }

    /// The configured authorities, and no others.
    pub(super) fn with_own_roots_only(&self, builder: ClientBuilder) -> ClientBuilder {
        self.rest(builder.tls_certs_only(self.authorities.iter().cloned()))
    }

    fn rest(&self, builder: ClientBuilder) -> ClientBuilder {
        let builder = builder.tls_danger_accept_invalid_certs(self.insecure);
        match &self.identity {
            Some(identity) => builder.identity(identity.clone()),
            None => builder,
        }
    }
}

fn authorities(path: &Path) -> Result<Vec<Certificate>> {
    const OPERATION: &str = "read ca";
    let ders = certificates(OPERATION, path, &load(OPERATION, path)?)?;
    let mut store = RootCertStore::empty();
    ders.into_iter()
        .enumerate()
        .map(|(at, der)| {
            let unusable =
                |error: &dyn std::fmt::Display| bad(OPERATION, path, &format!("its certificate {} cannot be used: {error}", at + 1));
            store.add(der.clone()).map_err(|error| unusable(&error))?;
            Certificate::from_der(&der).map_err(|error| unusable(&error))
        })
        .collect()
}

fn identity(cert: &Path, key: &Path) -> Result<Identity> {
    let cert_pem = load("read client_cert", cert)?;
    let key_pem = load("read client_key", key)?;
    let chain = certificates("read client_cert", cert, &cert_pem)?;
    let private = PrivateKeyDer::from_pem_slice(&key_pem)
        .map_err(|_| bad("read client_key", key, "it holds no unencrypted private key in PEM (`-----BEGIN PRIVATE KEY-----`)"))?;
    // reqwest would find a key of another certificate too, but could not say which files do not fit.
    CertifiedKey::from_der(chain, private, &rustls::crypto::ring::default_provider())
        .map_err(|error| bad("read client_cert", cert, &format!("it does not go with the key in {}: {error}", key.display())))?;
    let mut both = cert_pem;
    if key != cert {
        both.push(b'\n');
        both.extend_from_slice(&key_pem);
    }
    Identity::from_pem(&both).map_err(|error| bad("read client_cert", cert, &super::causes(&error)))
}

fn certificates(operation: &'static str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let ders = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad(operation, path, &format!("it is not valid PEM: {error}")))?;
    if ders.is_empty() {
        return Err(bad(operation, path, "it holds no certificate in PEM (`-----BEGIN CERTIFICATE-----`)"));
    }
    Ok(ders)
}

fn load(operation: &'static str, path: &Path) -> Result<Vec<u8>> {
    crate::input::read(path, crate::input::MAX_PEM).map_err(|error| Error::io(operation, path, &error))
}

fn bad(operation: &'static str, path: &Path, what: &str) -> Error {
    Error::local(operation, format!("{}: {what}", path.display()))
}
