//! From an accepted socket to the task that serves it.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use outrigger_xds::snapshot::{Listener, Terminal};

use crate::access_log::AccessLogs;
use crate::http::{HttpConnection, HttpRuntime, Peer};
use crate::shard::{Shard, spawn_guarded};
use crate::stats::ListenerStats;
use crate::tcp::{TcpConnection, TcpRuntime};
use crate::timer::{NANOS_PER_MS, Nanos};

/// One listener on one shard.
pub struct ListenerRuntime {
    /// Its configuration.
    pub config: Arc<Listener>,
    /// Its counters.
    pub stats: Arc<ListenerStats>,
    chain: Option<Chain>,
}

/// What its filter chain does.
enum Chain {
    Http(Rc<HttpRuntime>),
    Tcp(Rc<TcpRuntime>),
}

impl ListenerRuntime {
    /// Makes the runtime of `config`; `logs` are those of its filter chain.
    pub fn new(shard: &Shard, config: Arc<Listener>, logs: Arc<AccessLogs>) -> Self {
        let chain = config.filter_chain().map(|chain| match &chain.terminal {
            Terminal::Http(http) => {
                Chain::Http(Rc::new(HttpRuntime::new(shard, Arc::clone(http), logs)))
            }
            Terminal::Tcp(tcp) => {
                Chain::Tcp(Rc::new(TcpRuntime::new(shard, Arc::clone(tcp), logs)))
            }
        });
        let stats = shard.registry.listener(shard.index, &config.stat_prefix);
        Self { config, stats, chain }
    }
}

/// Counts a connection as this shard's for as long as it lives.
pub struct ConnectionGuard {
    shard: Rc<Shard>,
    listener: Rc<ListenerRuntime>,
    began_at: Nanos,
    drain_waker: Option<u32>,
}

impl ConnectionGuard {
    fn new(shard: &Rc<Shard>, listener: &Rc<ListenerRuntime>) -> Self {
        listener.stats.downstream_cx_total.inc();
        listener.stats.downstream_cx_active.inc();
        shard.stats.connections.inc();
        Self {
            shard: Rc::clone(shard),
            listener: Rc::clone(listener),
            began_at: shard.clock.now(),
            drain_waker: None,
        }
    }

    /// Wakes `waker` when the shard begins to drain.
    pub fn wake_at_drain(&mut self, waker: &Waker) {
        if self.drain_waker.is_none() {
            self.drain_waker = Some(self.shard.drain_wakers.insert(waker));
        }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        if let Some(waker) = self.drain_waker {
            self.shard.drain_wakers.remove(waker);
        }
        let stats = &self.listener.stats;
        stats.downstream_cx_active.dec();
        stats.downstream_cx_destroy.inc();
        let age = self.shard.clock.now() - self.began_at;
        stats.downstream_cx_length_ms.record(age / NANOS_PER_MS);
        self.shard.stats.connections.dec();
        self.shard.connection_ends();
    }
}

/// Serves an accepted connection on this shard, which has counted it.
pub fn serve(shard: &Rc<Shard>, listener: &Rc<ListenerRuntime>, socket: OwnedFd) {
    let guard = ConnectionGuard::new(shard, listener);
    let Some(chain) = &listener.chain else {
        listener.stats.no_filter_chain_match.inc();
        return;
    };
    let peer = peer_address(socket.as_raw_fd()).map_or(Peer::Unix, Peer::Ip);
    let address = listener.config.addresses.first();
    if let Some(keepalive) = address.and_then(|address| address.tcp_keepalive) {
        // SAFETY: the descriptor is open for as long as `socket` lives, which outlives this use.
        let fd = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
        if let Err(error) = crate::cluster::set_keepalive(&socket2::SockRef::from(&fd), keepalive) {
            log::debug!(target: "listener", "{}: keepalive: {error}", listener.config.name);
        }
    }
    let marks = shard.watermarks(listener.config.per_connection_buffer_limit_bytes);
    let socket = shard.ring.adopt(socket, marks);
    match chain {
        Chain::Http(http) => {
            let connection = HttpConnection::new(shard, http, socket, peer, marks, guard);
            spawn_guarded(shard, connection);
        }
        Chain::Tcp(tcp) => {
            let connection = TcpConnection::new(shard, tcp, socket, peer, marks, guard);
            spawn_guarded(shard, connection);
        }
    }
}

/// The local address of a TCP socket.
pub fn local_address(fd: RawFd) -> Option<SocketAddr> {
    // SAFETY: the caller holds the descriptor open.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    socket2::SockRef::from(&fd).local_addr().ok()?.as_socket()
}

fn peer_address(fd: RawFd) -> Option<SocketAddr> {
    // SAFETY: the caller holds the descriptor open.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    socket2::SockRef::from(&fd).peer_addr().ok()?.as_socket()
}
