//! A TLS connection that is opened to learn why another one broke. Nothing is sent over it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

/// A server that has something to say about a handshake says it within a few round trips.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a handshake showed.
#[derive(Debug)]
pub(crate) enum Handshake {
    /// It went well, and the server did not end it.
    Done,
    /// It failed.
    Failed(io::Error),
    /// Nothing can be said.
    Unknown,
}

/// Shakes hands with the server at `url`, reached at one of `addresses`. A server that wants a client certificate may say so only after
/// the handshake (TLS 1.3), and the request that is on its way by then hides it: what it says is waited for here.
pub(crate) async fn shake_hands(url: &Url, addresses: &[SocketAddr], tls: &Arc<ClientConfig>) -> Handshake {
    tokio::time::timeout(PATIENCE, shaken(url, addresses, tls)).await.unwrap_or(Handshake::Unknown)
}

async fn shaken(url: &Url, addresses: &[SocketAddr], tls: &Arc<ClientConfig>) -> Handshake {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let (Ok(name), Ok(socket)) = (ServerName::try_from(host), TcpStream::connect(addresses).await) else { return Handshake::Unknown };
    let mut stream = match TlsConnector::from(Arc::clone(tls)).connect(name, socket).await {
        Ok(stream) => stream,
        Err(error) => return Handshake::Failed(error),
    };
    match tokio::time::timeout(PATIENCE / 2, stream.read(&mut [0])).await {
        Ok(Err(error)) => Handshake::Failed(error),
        Ok(Ok(_)) | Err(_) => Handshake::Done,
    }
}
