//! Upstream connections of a predecessor, which are in this process's pools from now on.
//!
//! Invariant: what comes to rest here could have been made here: the same endpoint, the same protocol, and
//! nothing under way on it.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use outrigger_codecs::http2::Connection;
use outrigger_codecs::rpc::Tag;
use outrigger_upgrade::record::{
    Http2Record, ProtocolRecord, StreamRecord, UpstreamRecord, UpstreamRpcRecord,
};
use outrigger_xds::snapshot::{Sharing, UpstreamProtocol};

use crate::cluster::{
    ClusterRuntime, Host, Http2Client, RestoredRpc, RpcClient, UpstreamConnection,
};
use crate::connection::{ListenerRuntime, TerminalRuntime};
use crate::rpc::RpcRuntime;
use crate::shard::Shard;
use crate::transport::Transport;

use super::adoptions::destination;
use super::outline::tag_of;

/// One that could be taken over.
pub(super) struct Warm {
    cluster: Rc<ClusterRuntime>,
    host: Rc<Host>,
    requests: u32,
    socket: OwnedFd,
    spoken: Spoken,
}

enum Spoken {
    Http1,
    Http2(Box<Connection>),
    Rpc { rpc: Rc<RpcRuntime>, tag: Tag, last_id: u64 },
}

impl Warm {
    /// Looks for the pool of a predecessor's connection.
    ///
    /// # Errors
    /// Why it has none here.
    pub(super) fn find(
        shard: &Shard,
        listeners: &[Rc<ListenerRuntime>],
        protocol: WarmRecord<'_>,
        stream: &StreamRecord,
        sockets: Vec<OwnedFd>,
    ) -> Result<Self, String> {
        let upstream = protocol.upstream();
        let (cluster, host) = destination(shard, &upstream.cluster, &upstream.host)?;
        let host = host.ok_or_else(|| format!("no endpoint {}", upstream.host))?;
        let has_bytes = !stream.unread.is_empty() || !stream.unsent.is_empty();
        if host.tls.is_some() || has_bytes || !protocol.is_spoken_to(&cluster) {
            return Err("of no use".to_owned());
        }
        let spoken = match protocol {
            WarmRecord::Http1(_) => Spoken::Http1,
            WarmRecord::Http2(_, record) => {
                Spoken::Http2(Box::new(Http2Client::restore(&cluster, record)?))
            }
            WarmRecord::Rpc(record) => {
                let mut terminals = listeners
                    .iter()
                    .flat_map(|listener| &listener.chains)
                    .filter_map(|chain| rpc(&chain.terminal, record));
                let rpc = terminals.next().ok_or_else(|| format!("no {}", record.protocol))?;
                let tag = tag_of(&record.tag)?;
                Spoken::Rpc { rpc: Rc::clone(rpc), tag, last_id: record.last_id }
            }
        };
        let requests = upstream.requests;
        let socket = sockets.into_iter().next().ok_or("no descriptor")?;
        Ok(Self { cluster, host, requests, socket, spoken })
    }

    /// It is this process's: it is used from now on.
    pub(super) fn rest(self, shard: &Rc<Shard>) {
        let Self { cluster, host, requests, socket, spoken } = self;
        let transport = Transport::Plain(shard.ring.adopt(socket, cluster.watermarks(shard)));
        match spoken {
            Spoken::Http1 => {
                let connection =
                    UpstreamConnection::adopt(shard, &cluster, &host, transport, requests);
                host.give_back(shard, connection);
            }
            Spoken::Http2(codec) => {
                Http2Client::adopt(shard, &cluster, &host, *codec, transport, requests);
            }
            Spoken::Rpc { rpc, tag, last_id } => {
                let restored =
                    RestoredRpc { cluster, host, rpc, tag, last_id, requests, transport };
                RpcClient::adopt(shard, restored);
            }
        }
    }
}

/// What is said of a connection to an endpoint.
#[derive(Clone, Copy)]
pub(super) enum WarmRecord<'a> {
    Http1(&'a UpstreamRecord),
    Http2(&'a UpstreamRecord, &'a Http2Record),
    Rpc(&'a UpstreamRpcRecord),
}

impl<'a> WarmRecord<'a> {
    /// Nothing for a connection from a client.
    pub(super) fn of(protocol: Option<&'a ProtocolRecord>) -> Option<Self> {
        match protocol? {
            ProtocolRecord::Upstream(upstream) => Some(Self::Http1(upstream)),
            ProtocolRecord::UpstreamHttp2(record) => {
                Some(Self::Http2(&record.upstream, &record.connection))
            }
            ProtocolRecord::UpstreamRpc(record) => Some(Self::Rpc(record)),
            _ => None,
        }
    }

    fn upstream(self) -> &'a UpstreamRecord {
        match self {
            Self::Http1(upstream) | Self::Http2(upstream, _) => upstream,
            Self::Rpc(record) => &record.upstream,
        }
    }

    /// Whether requests to the cluster may go this way. RPC is said by who asks, not by the cluster.
    fn is_spoken_to(self, cluster: &ClusterRuntime) -> bool {
        match (self, cluster.config.http.protocol) {
            (Self::Http1(_), UpstreamProtocol::Http1 | UpstreamProtocol::Downstream)
            | (Self::Http2(..), UpstreamProtocol::Http2 | UpstreamProtocol::Downstream)
            | (Self::Rpc(_), _) => true,
            (Self::Http1(_) | Self::Http2(..), _) => false,
        }
    }
}

/// The proxy that would have made a connection.
fn rpc<'a>(
    terminal: &'a TerminalRuntime,
    record: &UpstreamRpcRecord,
) -> Option<&'a Rc<RpcRuntime>> {
    match terminal {
        TerminalRuntime::Rpc(rpc) => {
            let config = &rpc.config;
            let is_it = config.protocol.name() == record.protocol
                && *config.stat_prefix == *record.stat_prefix
                && config.sharing != Sharing::Bound;
            is_it.then_some(rpc)
        }
        TerminalRuntime::Detect(detection) => {
            let choices = detection.choices.iter().map(|(_, terminal)| terminal);
            choices.chain(&detection.fallback).find_map(|choice| self::rpc(choice, record))
        }
        TerminalRuntime::Http(_) | TerminalRuntime::Tcp(_) | TerminalRuntime::Missing => None,
    }
}
