//! A read-only registry over any [`Source`]: the distribution API's pulling half (distribution-spec, "Pull" and "Content
//! Discovery"), for whoever asks over HTTP.
//!
//! `accept` takes connections, as many as may be, and lets none hold its place without using it (`stall`); `tls` is their
//! encryption. `route` turns a method and a path into what is asked for, and nothing else reads a path; `names` says where
//! an image of that name may be. `answer` asks the source and puts the reply into HTTP; `referrers`, `range` and `page` are what
//! it needs for that; `error` is the API's error envelope; `traffic` counts, and `metrics` tells. Nothing here knows what kind of
//! source it serves, and nothing here writes.
//!
//! Rejected: axum's own path matching. A repository name has any number of slashes, and may itself contain `manifests`
//! or `blobs`, so a path can only be told apart from its right end. Rejected too: `axum::serve`, which bounds neither
//! connections nor the time a client may take.

mod accept;
mod answer;
mod error;
mod metrics;
mod names;
mod page;
mod range;
mod referrers;
mod route;
mod stall;
#[cfg(test)]
mod tests;
mod tls;
mod traffic;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::content::Source;
use crate::{Error, Result};
pub use tls::Tls;
pub use traffic::{ByteMeter, Traffic};

/// How a [`Server`] behaves.
#[derive(Debug, Clone, Default)]
pub struct ServeOptions {
    /// Waits this long before each 64 KiB of a blob, so that a transfer can be watched on a fast machine.
    pub chunk_delay: Option<Duration>,
    /// Registries, in normal form, for whose names it answers as if they were its own.
    pub known_as: Vec<String>,
    /// Speak TLS with this certificate.
    pub tls: Option<Tls>,
    /// What clients may take.
    pub bounds: ServeBounds,
}

/// What clients may take of a server, so that none of them takes it from the others.
#[derive(Debug, Clone, Copy)]
pub struct ServeBounds {
    /// Connections at once. More are told to come back in a second.
    pub connections: usize,
    /// How long a client may take for the head of a request, and leave a connection unused between two of them.
    pub head: Duration,
    /// How long a client may leave an answer unread.
    pub stall: Duration,
    /// How long running answers may take to end after the server was told to stop.
    pub grace: Duration,
}

impl Default for ServeBounds {
    fn default() -> Self {
        ServeBounds {
            // With a file each they stay below the 1,024 open files that a process has by default.
            connections: 400,
            // hyper's own; clients of Go keep unused connections for 90 s, and open another where one has gone.
            head: Duration::from_secs(30),
            // Twice as long: an answer under way has more to lose, and a disk at the other end may be slow.
            stall: Duration::from_secs(60),
            // As long as an interrupted run drains: Kubernetes kills 30 s after SIGTERM.
            grace: Duration::from_secs(10),
        }
    }
}

/// A read-only registry, listening.
pub struct Server {
    listener: TcpListener,
    addr: SocketAddr,
    shop: ServeContext,
}

/// What every request needs: the source, how to hand it out, and where to count.
#[derive(Clone)]
struct ServeContext {
    source: Arc<dyn Source>,
    options: Arc<ServeOptions>,
    meter: Arc<ByteMeter>,
}

impl Server {
    /// Listens on `addr` (port 0: a free one) and will serve `source` from the moment [`Server::run_until`] is awaited;
    /// connections made before that wait.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn bind(addr: SocketAddr, source: Arc<dyn Source>, options: ServeOptions) -> Result<Server> {
        let refused = |error: std::io::Error| {
            let made = Error::local("listen", format!("{addr}: {error}"));
            if error.kind() == std::io::ErrorKind::AddrInUse {
                made.remedy("another program listens there: choose another port")
            } else {
                made
            }
        };
        let listener = TcpListener::bind(addr).await.map_err(refused)?;
        let addr = listener.local_addr().map_err(refused)?;
        Ok(Server { listener, addr, shop: ServeContext { source, options: Arc::new(options), meter: Arc::default() } })
    }

    /// Where it listens, with the port it was given.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it counts while it runs; stays readable after it has stopped.
    pub fn meter(&self) -> Arc<ByteMeter> {
        self.shop.meter.clone()
    }

    /// Answers requests until `shutdown` is ready. Answers that are under way may end, but not longer than the grace period.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) {
        accept::run(self.listener, self.shop, shutdown).await;
    }
}
