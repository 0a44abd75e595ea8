//! Reads the server's certificate from PEM files, and checks it before the server starts.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::{Error, Operation, Result};

/// A certificate with its chain and key.
#[derive(Clone)]
pub struct Tls(Arc<ServerConfig>);

impl Tls {
    /// Reads the certificate and its chain from `cert` and its key from `key`, both PEM.
    ///
    /// # Errors
    /// A local error that names the file and the problem.
    pub fn read(cert: &Path, key: &Path) -> Result<Self> {
        let load = |path: &Path| {
            crate::input::read(path, crate::input::MAX_PEM).map_err(|error| Error::io(Operation::ReadCertificate, path, &error))
        };
        let bad = |path: &Path, what: &str| Error::local(Operation::ReadCertificate, format!("{}: {what}", path.display()));
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&load(cert)?)
            .collect::<Result<_, _>>()
            .map_err(|error| bad(cert, &format!("it is not valid PEM: {error}")))?;
        if chain.is_empty() {
            return Err(bad(cert, "it holds no certificate in PEM (`-----BEGIN CERTIFICATE-----`)"));
        }
        let private = PrivateKeyDer::from_pem_slice(&load(key)?)
            .map_err(|_| bad(key, "it holds no unencrypted private key in PEM (`-----BEGIN PRIVATE KEY-----`)"))?;
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map(rustls::ConfigBuilder::<ServerConfig, _>::with_no_client_auth)
            .and_then(|builder| builder.with_single_cert(chain, private))
            .map_err(|error| bad(cert, &format!("it does not go with the key in {}: {error}", key.display())))?;
        Ok(Tls(Arc::new(config)))
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.0))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let empty = path("empty.pem", "");
        let broken = path("broken.pem", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n");
        let words = path("words.pem", "-----BEGIN CERTIFICATE-----\nd29yZHM=\n-----END CERTIFICATE-----\n");
        let absent = folder.path().join("absent.pem");
        for (cert, key, name, why) in [
            (&absent, &empty, "absent.pem", "No such file"),
            (&empty, &empty, "empty.pem", "no certificate in PEM"),
            (&broken, &empty, "broken.pem", "not valid PEM"),
            (&words, &absent, "absent.pem", "No such file"),
            (&words, &words, "words.pem", "no unencrypted private key"),
        ] {
            let error = Tls::read(cert, key).unwrap_err().to_string();
            assert!(error.starts_with("local: read certificate: ") && error.contains(name) && error.contains(why), "{error}");
        }
    }
}
