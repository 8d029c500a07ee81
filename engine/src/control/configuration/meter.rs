//! What connections to management servers, and the calls on them, count in the statistics of their cluster:
//! what Envoy's own connections to such a cluster do.
//!
//! Invariant: what begins ends, whatever task is dropped.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::body::Body;
use tonic::transport::{Channel, Error};
use tower_service::Service;

use crate::stats::{ClusterStats, Registry, TlsStats};
use crate::tls::{HandshakeError, TlsSession};

use super::dial::Bytes;

/// The statistics of a cluster, as the control thread writes them.
#[derive(Clone)]
pub(super) struct Counters {
    cluster: Arc<ClusterStats>,
    /// Listed only for clusters that have TLS.
    tls: Option<Arc<TlsStats>>,
    /// A call is under way.
    is_called: Arc<AtomicBool>,
}

impl Counters {
    /// Those of the cluster of this name in statistics.
    pub(super) fn new(registry: &Registry, cluster: &str, has_tls: bool) -> Counters {
        let slot = registry.control();
        Counters {
            cluster: registry.cluster(slot, cluster),
            tls: has_tls.then(|| registry.cluster_tls(slot, cluster)),
            is_called: Arc::default(),
        }
    }

    /// There is no endpoint to connect to.
    pub(super) fn has_no_endpoint(&self) {
        self.cluster.upstream_cx_none_healthy.inc();
    }

    /// The keys and certificates to connect with are not there.
    pub(super) fn has_no_context(&self) {
        self.tls.iter().for_each(|tls| tls.no_context.inc());
    }

    /// A TLS handshake has ended.
    pub(super) fn shook_hands(&self, outcome: Result<&TlsSession, &HandshakeError>) {
        let Some(tls) = &self.tls else { return };
        match outcome {
            Ok(session) => tls.handshake(session),
            Err(error) => tls.failed(error),
        }
    }

    /// A connect begins.
    pub(super) fn connect(&self) -> Connecting {
        self.cluster.upstream_cx_total.inc();
        self.cluster.upstream_cx_http2_total.inc();
        self.cluster.upstream_cx_active.inc();
        Connecting(Connection { counters: self.clone(), began_at: Instant::now() })
    }

    /// A call begins; it waits until [`Waiting::begin`].
    pub(super) fn call(&self) -> Waiting {
        self.cluster.upstream_rq_pending_total.inc();
        self.cluster.upstream_rq_pending_active.inc();
        Waiting(self.clone())
    }
}

/// A connection, from the first try to its end.
struct Connection {
    counters: Counters,
    began_at: Instant,
}

impl Connection {
    fn age_ms(&self) -> u64 {
        u64::try_from(self.began_at.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let stats = &self.counters.cluster;
        stats.upstream_cx_active.dec();
        stats.upstream_cx_destroy.inc();
        stats.upstream_cx_length_ms.record(self.age_ms());
    }
}

/// A connect under way.
pub(super) struct Connecting(Connection);

impl Connecting {
    /// There is a connection, by these bytes.
    pub(super) fn connected(self, bytes: Box<dyn Bytes>) -> Counted {
        let connection = self.0;
        connection.counters.cluster.upstream_cx_connect_ms.record(connection.age_ms());
        Counted { bytes, is_ended: false, connection }
    }

    /// There is none.
    pub(super) fn failed(self, error: &io::Error) {
        let stats = &self.0.counters.cluster;
        stats.upstream_cx_connect_fail.inc();
        if error.kind() == io::ErrorKind::TimedOut {
            stats.upstream_cx_connect_timeout.inc();
        }
    }
}

/// The bytes of a connection.
pub(super) struct Counted {
    bytes: Box<dyn Bytes>,
    /// By the server, or by the network.
    is_ended: bool,
    connection: Connection,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Counters { cluster: stats, is_called, .. } = &self.connection.counters;
        let is_called = is_called.load(Ordering::Relaxed);
        let (ended, with_call) = match self.is_ended {
            true => (
                &stats.upstream_cx_destroy_remote,
                &stats.upstream_cx_destroy_remote_with_active_rq,
            ),
            false => {
                (&stats.upstream_cx_destroy_local, &stats.upstream_cx_destroy_local_with_active_rq)
            }
        };
        ended.inc();
        if is_called {
            with_call.inc();
            stats.upstream_cx_destroy_with_active_rq.inc();
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        let outcome = ready!(Pin::new(&mut this.bytes).poll_read(context, into));
        let count = into.filled().len() - before;
        this.connection.counters.cluster.upstream_cx_rx_bytes_total.add(count as u64);
        this.is_ended |= outcome.is_err() || count == 0;
        Poll::Ready(outcome)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = ready!(Pin::new(&mut this.bytes).poll_write(context, bytes));
        match &outcome {
            Ok(count) => {
                this.connection.counters.cluster.upstream_cx_tx_bytes_total.add(*count as u64);
            }
            Err(_) => this.is_ended = true,
        }
        Poll::Ready(outcome)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().bytes).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().bytes).poll_shutdown(context)
    }
}

/// A call that waits for its connection.
pub(super) struct Waiting(Counters);

impl Waiting {
    /// It is sent.
    pub(super) fn begin(self) -> Call {
        let counters = self.0.clone();
        counters.cluster.upstream_rq_total.inc();
        counters.cluster.upstream_rq_active.inc();
        counters.is_called.store(true, Ordering::Relaxed);
        Call { counters, is_over: false }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.cluster.upstream_rq_pending_active.dec();
    }
}

/// A call under way. One that is dropped before its end is reset from here.
pub(super) struct Call {
    counters: Counters,
    is_over: bool,
}

impl Call {
    /// The server has ended it: in good order, or by a reset.
    pub(super) fn ended(mut self, is_reset: bool) {
        self.is_over = true;
        if is_reset {
            self.counters.cluster.upstream_rq_rx_reset.inc();
        }
    }

    /// It has not been answered in time.
    pub(super) fn timed_out(&self) {
        self.counters.cluster.upstream_rq_timeout.inc();
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.counters.is_called.store(false, Ordering::Relaxed);
        let stats = &self.counters.cluster;
        stats.upstream_rq_active.dec();
        if !self.is_over {
            stats.upstream_rq_tx_reset.inc();
        }
    }
}

/// A channel whose answers are counted by their status.
pub(super) struct Answering {
    pub(super) channel: Channel,
    pub(super) counters: Counters,
}

impl Service<http::Request<Body>> for Answering {
    type Response = http::Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.channel.call(request);
        let stats = Arc::clone(&self.counters.cluster);
        Box::pin(async move {
            let answer = answer.await?;
            stats.response(answer.status().as_u16());
            Ok(answer)
        })
    }
}
