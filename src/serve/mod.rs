//! A read-only registry over any [`Source`]: the pull part of the distribution API (distribution-spec, "Pull" and
//! "Content Discovery") over HTTP.
//!
//! `accept` takes connections, up to a limit, and `stall` ends those that do not read; `tls` encrypts them. `route`
//! parses a method and a path, and nothing else reads a path; `names` finds the repositories that a name can mean.
//! `answer` asks the source and builds the response, with `referrers`, `range` and `page`; `error` is the API's error
//! envelope; `traffic` counts, and `metrics` prints the counters. Code for a particular kind of source, and code that
//! writes, does not belong here.
//!
//! Rejected: axum's own path matching. A repository name has any number of slashes, and may contain `manifests` or
//! `blobs`, so a path has to be parsed from its right end. Rejected too: `axum::serve`, which limits neither
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
use crate::{Error, Operation, Result};
pub use tls::Tls;
pub use traffic::{ByteMeter, Traffic};

/// Options of a [`Server`].
#[derive(Debug, Clone, Default)]
pub struct ServeOptions {
    /// Waits this long before each 64 KiB of a blob, so that a transfer can be watched on a fast machine.
    pub chunk_delay: Option<Duration>,
    /// Registries, in normal form, whose names it serves as its own.
    pub known_as: Vec<String>,
    /// Speak TLS with this certificate.
    pub tls: Option<Tls>,
    /// Limits for clients.
    pub bounds: ServeBounds,
}

/// Limits that keep a client from using up the server.
#[derive(Debug, Clone, Copy)]
pub struct ServeBounds {
    /// Connections at once. Others are told to retry after a second.
    pub connections: usize,
    /// The time for the head of a request, and the time that a connection may be idle between two requests.
    pub head: Duration,
    /// The time that a client may leave a response unread.
    pub stall: Duration,
    /// The time for running responses to end after the server is told to stop.
    pub grace: Duration,
}

impl Default for ServeBounds {
    fn default() -> Self {
        ServeBounds {
            // With one file each they stay below the 1,024 open files that a process has by default.
            connections: 400,
            // hyper's default. Go clients keep idle connections for 90 s, and open a new one if that is closed.
            head: Duration::from_secs(30),
            // Twice as long: aborting a response costs more, and the client's disk may be slow.
            stall: Duration::from_secs(60),
            // As long as an interrupted run takes to drain: Kubernetes kills 30 s after SIGTERM.
            grace: Duration::from_secs(10),
        }
    }
}

/// A read-only registry that is listening.
pub struct Server {
    listener: TcpListener,
    addr: SocketAddr,
    shop: ServeContext,
}

/// State for every request: the source, the options, and the meter.
#[derive(Clone)]
struct ServeContext {
    source: Arc<dyn Source>,
    options: Arc<ServeOptions>,
    meter: Arc<ByteMeter>,
}

impl Server {
    /// Listens on `addr` (port 0: a free port). Serves `source` once [`Server::run_until`] is awaited; earlier
    /// connections wait.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn bind(addr: SocketAddr, source: Arc<dyn Source>, options: ServeOptions) -> Result<Server> {
        let refused = |error: std::io::Error| {
            let made = Error::local(Operation::Listen, format!("{addr}: {error}"));
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

    /// The address it listens on, with the actual port.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its counters; readable also after it has stopped.
    pub fn meter(&self) -> Arc<ByteMeter> {
        self.shop.meter.clone()
    }

    /// Answers requests until `shutdown` is ready. Running responses may then end within the grace period.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) {
        accept::run(self.listener, self.shop, shutdown).await;
    }
}
