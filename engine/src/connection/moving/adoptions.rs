//! Connections that a predecessor offers, and what a shard makes of them.
//!
//! Invariant: a connection's socket is not touched before it is this process's; whatever would keep it from
//! being gone on with is found out before.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};

use outrigger_codecs::rpc::Tag;
use outrigger_upgrade::record::{BoundRecord, ConnectionRecord, ProtocolRecord, UpstreamRecord};
use outrigger_xds::snapshot::Codec;

use crate::cluster::{ClusterRuntime, Host, RestoredRpc};
use crate::connection::arrival::Arrival;
use crate::connection::{
    Admitted, ChainRuntime, ConnectionGuard, ConnectionInfo, Drain, Ends, ListenerRuntime,
    TerminalRuntime, WithinDrain,
};
use crate::http::{ConnectionMeter, Http1Connection, Http2Connection, Restored};
use crate::rpc::RpcRuntime;
use crate::shard::{Shard, spawn_guarded};
use crate::tcp::TcpConnection;
use crate::transport::Transport;

use super::outline::{restore, tag_of};
use super::warm::{Warm, WarmRecord};

/// What a shard is asked to do with connections of a predecessor.
#[derive(Debug)]
pub enum Adoption {
    /// Say whether this one could be gone on with.
    Consider {
        /// Its number, given by the predecessor.
        connection: u64,
        /// What is known of it.
        record: Box<ConnectionRecord>,
        /// Its descriptors.
        sockets: Vec<OwnedFd>,
        /// Whom to tell, with the reason if it can't.
        answer: tokio::sync::mpsc::UnboundedSender<(u64, Result<(), String>)>,
    },
    /// Go on with it.
    Serve(u64),
    /// It goes on elsewhere.
    Forget(u64),
    /// Send this to its client.
    Relay(u64, Vec<u8>),
    /// Nothing more is to be relayed to it.
    RelayEnd(u64),
}

/// A connection for which a predecessor may still have answers.
pub trait Relayed {
    /// Sends whole frames to the client.
    fn relay(&self, bytes: &[u8]);
    /// That was all.
    fn relay_ends(&self);
}

/// Those of one shard.
#[derive(Default)]
pub struct Adoptions {
    /// Found to be fit, and not this process's yet.
    fit: RefCell<HashMap<u64, Fit>>,
    relayed: RefCell<HashMap<u64, Weak<dyn Relayed>>>,
}

/// A connection that could be gone on with.
enum Fit {
    Downstream(Box<Downstream>),
    Upstream(Warm),
}

/// One from a client.
struct Downstream {
    listener: Rc<ListenerRuntime>,
    chain: Rc<ChainRuntime>,
    ends: Ends,
    record: Box<ConnectionRecord>,
    sockets: Vec<OwnedFd>,
    /// Where it leads, if it leads anywhere.
    destination: Option<(Rc<ClusterRuntime>, Option<Rc<Host>>)>,
    /// Where its own connections lead, if it is RPC.
    bound: Vec<BoundPlace>,
    /// Its codec, if it is HTTP/2.
    http2: Option<Restored>,
}

impl Adoptions {
    /// Does what is asked; `listeners` are those that the shard serves.
    pub fn take(&self, shard: &Rc<Shard>, listeners: &[Rc<ListenerRuntime>], adoption: Adoption) {
        match adoption {
            Adoption::Consider { connection, record, sockets, answer } => {
                let fit = Fit::find(shard, listeners, record, sockets);
                let result = fit.map(|fit| drop(self.fit.borrow_mut().insert(connection, fit)));
                // Whoever asked may have gone; then nobody says that it is ours.
                let _gone = answer.send((connection, result));
            }
            Adoption::Serve(connection) => {
                let fit = self.fit.borrow_mut().remove(&connection);
                if let Some(relayed) = fit.and_then(|fit| fit.serve(shard)) {
                    self.relayed.borrow_mut().insert(connection, relayed);
                }
            }
            Adoption::Forget(connection) => drop(self.fit.borrow_mut().remove(&connection)),
            Adoption::Relay(connection, bytes) => {
                if let Some(target) = self.target(connection) {
                    target.relay(&bytes);
                }
            }
            Adoption::RelayEnd(connection) => {
                if let Some(target) = self.target(connection) {
                    target.relay_ends();
                }
                self.relayed.borrow_mut().remove(&connection);
            }
        }
    }

    /// The predecessor is gone: nothing is to be relayed any more.
    pub fn end(&self) {
        let all = std::mem::take(&mut *self.relayed.borrow_mut());
        all.values().filter_map(Weak::upgrade).for_each(|target| target.relay_ends());
    }

    fn target(&self, connection: u64) -> Option<Rc<dyn Relayed>> {
        self.relayed.borrow().get(&connection)?.upgrade()
    }
}

impl Fit {
    fn find(
        shard: &Shard,
        listeners: &[Rc<ListenerRuntime>],
        record: Box<ConnectionRecord>,
        sockets: Vec<OwnedFd>,
    ) -> Result<Self, String> {
        if let Some(warm) = WarmRecord::of(record.protocol.as_ref()) {
            return Warm::find(shard, listeners, warm, &record.stream, sockets).map(Self::Upstream);
        }
        let downstream = Downstream::find(shard, listeners, record, sockets)?;
        Ok(Self::Downstream(Box::new(downstream)))
    }

    /// Goes on with it. What has answers relayed to it is returned.
    fn serve(self, shard: &Rc<Shard>) -> Option<Weak<dyn Relayed>> {
        match self {
            Self::Downstream(downstream) => downstream.serve(shard),
            Self::Upstream(warm) => {
                warm.rest(shard);
                None
            }
        }
    }
}

impl Downstream {
    fn find(
        shard: &Shard,
        listeners: &[Rc<ListenerRuntime>],
        record: Box<ConnectionRecord>,
        sockets: Vec<OwnedFd>,
    ) -> Result<Self, String> {
        let listener = listeners.iter().find(|known| *known.config.name == *record.listener);
        let listener = listener.ok_or_else(|| format!("no listener {}", record.listener))?;
        let chain = listener.chains.iter().find(|known| *known.config.name == *record.chain);
        let chain = chain.ok_or_else(|| format!("no filter chain {:?}", record.chain))?;
        let protocol = record.protocol.as_ref().ok_or("an unknown protocol")?;
        let terminal = terminal(&chain.terminal, protocol);
        let terminal = terminal.ok_or("another protocol is configured")?;
        let http2 = match (terminal, protocol) {
            (TerminalRuntime::Http(http), ProtocolRecord::Http2(record)) => {
                Some(Restored::of_record(http, record)?)
            }
            _ => None,
        };
        let proxied = match protocol {
            ProtocolRecord::Tcp(tcp) => Some(tcp),
            ProtocolRecord::Tunnel(tunnel) => Some(&tunnel.proxied),
            _ => None,
        };
        let destination = proxied
            .map(|proxied| destination(shard, &proxied.cluster, &proxied.host))
            .transpose()?;
        if let (ProtocolRecord::Tunnel(tunnel), Some((_, None))) = (protocol, &destination) {
            return Err(format!("no endpoint {}", tunnel.proxied.host));
        }
        let bound = match protocol {
            ProtocolRecord::Rpc(rpc) => {
                let places = rpc.bound.iter().map(|bound| bound_place(shard, bound));
                places.collect::<Result<_, _>>()?
            }
            _ => Vec::new(),
        };
        let expected = 1 + usize::from(destination.is_some()) + bound.len();
        if sockets.len() != expected {
            return Err(format!("{} descriptors where {expected} are due", sockets.len()));
        }
        let ends = Ends::of_record(&record.ends)?;
        let (listener, chain) = (Rc::clone(listener), Rc::clone(chain));
        Ok(Self { listener, chain, ends, record, sockets, destination, bound, http2 })
    }

    /// Goes on with it. What has answers relayed to it is returned.
    fn serve(self, shard: &Rc<Shard>) -> Option<Weak<dyn Relayed>> {
        let Self { listener, chain, ends, record, sockets, destination, bound, http2 } = self;
        let ConnectionRecord { age_ns, stream, protocol, server_name, .. } = *record;
        let mut sockets = sockets.into_iter();
        let (socket, protocol) = (sockets.next()?, protocol?);
        let terminal = terminal(&chain.terminal, &protocol)?;
        shard.connection_is_taken_over();
        let mut guard = ConnectionGuard::adopted(shard, &listener, age_ns);
        guard.join(&chain.drain);
        let marks = shard.watermarks(listener.config.per_connection_buffer_limit_bytes);
        let socket = shard.ring.adopt(socket, marks);
        restore(&socket, &shard.arena, &stream);
        let info = ConnectionInfo::new(shard, &chain, ends, None, server_name.map(Into::into));
        let admitted = Admitted { transport: Transport::Plain(socket), info, marks, guard };
        match (terminal, protocol) {
            (terminal, ProtocolRecord::Unknown(_)) => {
                Arrival::resume(shard, &listener, terminal, admitted);
                None
            }
            (TerminalRuntime::Http(http), ProtocolRecord::Http1(record)) => {
                let meter = ConnectionMeter::new(shard, http, false, &admitted.guard);
                let connection = Http1Connection::adopt(shard, http, admitted, meter, record);
                run(shard, &chain.drain, connection);
                None
            }
            (TerminalRuntime::Http(http), ProtocolRecord::Http2(_)) => {
                let meter = ConnectionMeter::new(shard, http, false, &admitted.guard);
                let connection = Http2Connection::adopt(shard, http, admitted, meter, http2?);
                run(shard, &chain.drain, connection);
                None
            }
            (TerminalRuntime::Tcp(tcp), ProtocolRecord::Tcp(record)) => {
                let upstream = shard.ring.adopt(sockets.next()?, marks);
                restore(&upstream, &shard.arena, &record.upstream);
                let connection =
                    TcpConnection::adopt(shard, tcp, admitted, &record, upstream, destination?);
                run(shard, &chain.drain, connection);
                None
            }
            (TerminalRuntime::Http(http), ProtocolRecord::Tunnel(record)) => {
                let (cluster, host) = destination?;
                let upstream = shard.ring.adopt(sockets.next()?, cluster.watermarks(shard));
                restore(&upstream, &shard.arena, &record.proxied.upstream);
                let upstream = Transport::Plain(upstream);
                let meter = ConnectionMeter::new(shard, http, false, &admitted.guard);
                let to = (cluster, host?);
                let connection = Http1Connection::adopt_tunnel(
                    shard, http, admitted, meter, &record, to, upstream,
                );
                run(shard, &chain.drain, connection);
                None
            }
            (TerminalRuntime::Rpc(rpc), ProtocolRecord::Rpc(record)) => {
                let parts = bound.into_iter().zip(&record.bound).zip(sockets);
                let restore =
                    |((place, bound), socket)| restore_bound(shard, rpc, place, bound, socket);
                let bound = parts.map(restore).collect();
                Some(rpc.adopt(shard, admitted, &record, bound))
            }
            _ => None,
        }
    }
}

/// Where a client's own connection leads, and the tag of its first request.
type BoundPlace = (Rc<ClusterRuntime>, Rc<Host>, Tag);

/// Finds that, if it could lead there from here.
fn bound_place(shard: &Shard, record: &BoundRecord) -> Result<BoundPlace, String> {
    let UpstreamRecord { cluster, host, .. } = &record.upstream;
    let (cluster, known) = destination(shard, cluster, host)?;
    let known = known.filter(|known| known.tls.is_none());
    let known = known.ok_or_else(|| format!("no endpoint {host} in plain text"))?;
    Ok((cluster, known, tag_of(&record.tag)?))
}

fn restore_bound(
    shard: &Rc<Shard>,
    rpc: &Rc<RpcRuntime>,
    (cluster, host, tag): BoundPlace,
    record: &BoundRecord,
    socket: OwnedFd,
) -> RestoredRpc {
    let socket = shard.ring.adopt(socket, cluster.watermarks(shard));
    restore(&socket, &shard.arena, &record.stream);
    RestoredRpc {
        cluster,
        host,
        rpc: Rc::clone(rpc),
        tag,
        last_id: record.last_id,
        requests: record.upstream.requests,
        transport: Transport::Plain(socket),
    }
}

/// Where a connection leads, by names.
pub(super) fn destination(
    shard: &Shard,
    cluster: &str,
    host: &str,
) -> Result<(Rc<ClusterRuntime>, Option<Rc<Host>>), String> {
    let known = shard.serving.cluster_by_name(cluster);
    let known = known.ok_or_else(|| format!("no cluster {cluster}"))?;
    let host = known.host_at(host);
    Ok((known, host))
}

fn run(
    shard: &Rc<Shard>,
    drain: &Rc<Drain>,
    connection: impl Future<Output = ()> + Unpin + 'static,
) {
    spawn_guarded(shard, WithinDrain::new(connection, drain));
    shard.ring.note_wake();
}

/// The filter of a chain that goes on with a protocol.
fn terminal<'a>(
    terminal: &'a TerminalRuntime,
    protocol: &ProtocolRecord,
) -> Option<&'a TerminalRuntime> {
    let speaks = match (terminal, protocol) {
        (TerminalRuntime::Missing, _) => false,
        (_, ProtocolRecord::Unknown(_)) | (TerminalRuntime::Tcp(_), ProtocolRecord::Tcp(_)) => true,
        (TerminalRuntime::Http(http), ProtocolRecord::Http1(_) | ProtocolRecord::Tunnel(_)) => {
            http.config.codec != Codec::Http2
        }
        (TerminalRuntime::Http(http), ProtocolRecord::Http2(_)) => {
            http.config.codec != Codec::Http1
        }
        (TerminalRuntime::Rpc(rpc), ProtocolRecord::Rpc(record)) => {
            rpc.config.protocol.name() == record.protocol
        }
        (TerminalRuntime::Detect(detection), protocol) => {
            let choices = detection.choices.iter().map(|(_, terminal)| terminal);
            let mut all = choices.chain(&detection.fallback);
            return all.find_map(|choice| self::terminal(choice, protocol));
        }
        _ => false,
    };
    speaks.then_some(terminal)
}
