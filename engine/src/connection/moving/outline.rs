//! A connection's facts as a record says them, and back.
//!
//! Invariant: what is read from a record is what was written to it.

use std::net::SocketAddr;

use outrigger_codecs::rpc::Tag;
use outrigger_upgrade::record::{
    ConnectionRecord, EndsRecord, ProtocolRecord, StreamRecord, TcpRecord, UpstreamRecord,
};

use crate::buffers::{Arena, Chunk};
use crate::cluster::{ClusterRuntime, Host, Source};
use crate::connection::{ConnectionGuard, ConnectionInfo, Ends};
use crate::http::Peer;
use crate::ring::Socket;

impl ConnectionInfo {
    /// What a successor must know of this connection. `seen` was received and taken, and belongs to no
    /// message that was read.
    pub fn outline(
        &self,
        guard: &ConnectionGuard,
        socket: &Socket,
        seen: &[&[u8]],
        protocol: ProtocolRecord,
    ) -> ConnectionRecord {
        ConnectionRecord {
            listener: guard.listener_name().to_owned(),
            chain: self.chain.name.to_string(),
            ends: written(&self.ends),
            server_name: self.server_name.as_deref().map(str::to_owned),
            age_ns: guard.age(),
            stream: stream(socket, seen),
            protocol: Some(protocol),
        }
    }
}

/// What is on its way on a socket that is still.
pub fn stream(socket: &Socket, seen: &[&[u8]]) -> StreamRecord {
    let mut unread = seen.concat();
    unread.append(&mut socket.copy_unread());
    StreamRecord { unread, unsent: socket.copy_unsent() }
}

/// Where a proxied connection leads, and what is on its way there.
pub fn proxied(
    cluster: Option<&ClusterRuntime>,
    host: Option<&Host>,
    upstream: &Socket,
) -> TcpRecord {
    TcpRecord {
        cluster: cluster.map(|cluster| cluster.config.name.to_string()).unwrap_or_default(),
        host: host.map(|host| host.address_text.to_string()).unwrap_or_default(),
        upstream: stream(upstream, &[]),
        ..TcpRecord::default()
    }
}

/// What a successor must know of a connection to an endpoint that rests.
pub fn resting(socket: &Socket, protocol: ProtocolRecord) -> ConnectionRecord {
    ConnectionRecord {
        listener: String::new(),
        chain: String::new(),
        ends: EndsRecord::default(),
        server_name: None,
        age_ns: 0,
        stream: stream(socket, &[]),
        protocol: Some(protocol),
    }
}

/// Where a connection to an endpoint leads.
/// Nobody takes one whose endpoint has gone.
pub fn upstream(cluster: &ClusterRuntime, host: Option<&Host>, requests: u32) -> UpstreamRecord {
    UpstreamRecord {
        cluster: cluster.config.name.to_string(),
        host: host.map(|host| host.address_text.to_string()).unwrap_or_default(),
        requests,
    }
}

/// What a record says of a frame.
///
/// # Errors
/// When that is nothing.
pub fn tag_of(bytes: &[u8]) -> Result<Tag, String> {
    bytes.try_into().map(Tag).map_err(|_| "no tag of a frame".to_owned())
}

/// Puts a socket in the state of a record.
pub(super) fn restore(socket: &Socket, arena: &Arena, stream: &StreamRecord) {
    let chunk = |bytes: &[u8]| -> Chunk { arena.copy(bytes) };
    if !stream.unread.is_empty() {
        socket.put_back(chunk(&stream.unread));
    }
    if !stream.unsent.is_empty() {
        socket.send(chunk(&stream.unsent));
    }
}

fn written(ends: &Ends) -> EndsRecord {
    let peer = |peer: Peer| peer.socket().map(|address| address.to_string()).unwrap_or_default();
    let address =
        |known: Option<SocketAddr>| known.map(|address| address.to_string()).unwrap_or_default();
    EndsRecord {
        peer: peer(ends.peer),
        direct: peer(ends.direct()),
        accepted: address(ends.accepted),
        original: address(ends.original),
        source: ends.source().map(|source| source.ip.to_string()).unwrap_or_default(),
        source_mark: ends.source().map_or(0, |source| source.mark),
    }
}

impl Ends {
    /// The ends of a record.
    ///
    /// # Errors
    /// What is no address.
    pub(super) fn of_record(record: &EndsRecord) -> Result<Self, String> {
        let peer = |text: &str| address(text).map(|known| known.map_or(Peer::Unix, Peer::Ip));
        let (client, direct) = (peer(&record.peer)?, peer(&record.direct)?);
        let mut ends = Self::new(direct, address(&record.accepted)?, address(&record.original)?);
        if client != direct {
            ends.speak_for(client);
        }
        if !record.source.is_empty() {
            let none = |_| format!("no address: {}", record.source);
            ends.show(Source {
                ip: record.source.parse().map_err(none)?,
                mark: record.source_mark,
            });
        }
        Ok(ends)
    }
}

fn address(text: &str) -> Result<Option<SocketAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| format!("no address: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_come_back_as_they_were() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let direct = Peer::Ip(at("[fe80::1]:80"));
        let (accepted, original) = (at("127.0.0.1:15001"), at("10.1.2.3:80"));
        let mut ends = Ends::new(direct, Some(accepted), Some(original));
        ends.speak_for(Peer::Ip(at("10.0.0.1:4711")));
        ends.show(Source { ip: [10, 0, 0, 1].into(), mark: 7 });
        for ends in [ends, Ends::new(Peer::Unix, None, None)] {
            let back = Ends::of_record(&written(&ends)).unwrap();
            assert_eq!(format!("{back:?}"), format!("{ends:?}"));
            assert_eq!(back.direct(), ends.direct());
        }
        let strange = EndsRecord { original: "nowhere".to_owned(), ..EndsRecord::default() };
        assert_eq!(Ends::of_record(&strange).unwrap_err(), "no address: nowhere");
    }
}
