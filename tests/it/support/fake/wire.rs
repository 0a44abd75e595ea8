//! Connections that can be broken on order: accepted sockets with a switch that the answering code can reach.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// A listener whose connections are [`Wire`]s.
pub(super) struct Door {
    pub(super) listener: TcpListener,
    pub(super) counter: Arc<AtomicU64>,
}

impl Listener for Door {
    type Io = Wire;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Wire, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        // Small answers must not wait for the client's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        let switch = Switch { id: self.counter.fetch_add(1, SeqCst), ..Switch::default() };
        (Wire { stream, connection: Connection(Arc::new(switch)) }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// What the answering code knows of the connection a request came over.
#[derive(Clone)]
pub(super) struct Connection(Arc<Switch>);

#[derive(Default)]
struct Switch {
    id: u64,
    reset: AtomicBool,
    raw: Mutex<Option<Bytes>>,
    flushes: AtomicU64,
    waiting: Mutex<Option<Waker>>,
}

impl Connected<IncomingStream<'_, Door>> for Connection {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        stream.io().connection.clone()
    }
}

impl Connection {
    pub(super) fn id(&self) -> u64 {
        self.0.id
    }

    /// The next write fails, and the peer gets a TCP reset.
    pub(super) fn reset(&self) {
        self.0.reset.store(true, SeqCst);
    }

    /// The next write sends `bytes` instead, and closes the connection.
    pub(super) fn take_over(&self, bytes: Bytes) {
        *self.0.raw.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
    }

    /// Ready when all that was written before is with the operating system.
    pub(super) async fn flushed(&self) {
        let mut start = None;
        std::future::poll_fn(|context| {
            let flushes = self.0.flushes.load(SeqCst);
            if flushes > *start.get_or_insert(flushes) {
                return Poll::Ready(());
            }
            *self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// An accepted socket.
pub(super) struct Wire {
    stream: TcpStream,
    connection: Connection,
}

impl Wire {
    /// Does what the switch asks for; `Ready(Ok)` if it asks for nothing.
    fn poll_switch(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let switch = &self.connection.0;
        if switch.reset.load(SeqCst) {
            let _ = self.stream.set_zero_linger();
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let mut raw = switch.raw.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bytes) = raw.as_mut() else { return Poll::Ready(Ok(())) };
        while bytes.has_remaining() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
            bytes.advance(written);
        }
        Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_switch(context))?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffers: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        ready!(self.poll_switch(context))?;
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        let switch = &self.connection.0;
        switch.flushes.fetch_add(1, SeqCst);
        if let Some(waker) = switch.waiting.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
