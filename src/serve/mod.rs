//! A read-only registry over any [`Source`]: the distribution API's pulling half (distribution-spec, "Pull" and "Content
//! Discovery"), for whoever asks over HTTP.
//!
//! `route` turns a method and a path into what is asked for, and nothing else reads a path. `answer` asks the source and
//! puts the reply into HTTP; `range` and `tags` are the two small grammars it needs; `error` is the API's error envelope;
//! `traffic` counts. Nothing here knows what kind of source it serves, and nothing here writes.
//!
//! Rejected: axum's own path matching. A repository name has any number of slashes, and may itself contain `manifests`
//! or `blobs`, so a path can only be told apart from its right end.

mod answer;
mod error;
mod range;
mod route;
mod tags;
#[cfg(test)]
mod tests;
mod traffic;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::content::Source;
use crate::{Error, Result};
pub use traffic::{Meter, Traffic};

/// How long running answers may take to end after the server was told to stop. Long enough for a manifest, short enough
/// that a client that has stopped reading does not keep the program alive.
const GRACE: Duration = Duration::from_secs(5);

/// How a [`Server`] behaves.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Waits this long before each 64 KiB of a blob, so that a transfer can be watched on a fast machine.
    pub chunk_delay: Option<Duration>,
}

/// A read-only registry, listening.
pub struct Server {
    listener: TcpListener,
    addr: SocketAddr,
    shop: Shop,
}

/// What every request needs: the source, how to hand it out, and where to count.
#[derive(Clone)]
struct Shop {
    source: Arc<dyn Source>,
    options: Options,
    meter: Arc<Meter>,
}

impl Server {
    /// Listens on `addr` (port 0: a free one) and will serve `source` from the moment [`Server::run_until`] is awaited;
    /// connections made before that wait.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn bind(addr: SocketAddr, source: Arc<dyn Source>, options: Options) -> Result<Server> {
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
        Ok(Server { listener, addr, shop: Shop { source, options, meter: Arc::default() } })
    }

    /// Where it listens, with the port it was given.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it counts while it runs; stays readable after it has stopped.
    pub fn meter(&self) -> Arc<Meter> {
        self.shop.meter.clone()
    }

    /// Answers requests until `shutdown` is ready. Answers that are under way may end, but not longer than five seconds.
    ///
    /// # Errors
    /// The listening socket fails.
    pub async fn run_until(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        let (stop, stopped) = oneshot::channel();
        let told = async move {
            shutdown.await;
            // Nobody listens only if serving has already ended.
            let _ = stop.send(());
        };
        // Answers are often one small packet: waiting to fill it (Nagle) would cost a client's delayed acknowledgement each.
        let listener = self.listener.tap_io(|connection| {
            let _ = connection.set_nodelay(true);
        });
        let router = Router::new().fallback(answer::request).with_state(self.shop);
        let grace = async {
            let _ = stopped.await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            served = axum::serve(listener, router).with_graceful_shutdown(told) => {
                served.map_err(|error| Error::local("serve", format!("{}: {error}", self.addr)))
            }
            () = grace => Ok(()),
        }
    }
}
