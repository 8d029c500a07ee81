//! A tunnel that goes on in another process: what it is, said and heard again.
//!
//! Invariant: a tunnel is counted and logged once, by the process that sees its end.

use std::rc::Rc;
use std::time::Duration;

use outrigger_codecs::http::{Method, Version};
use outrigger_codecs::http1::BodyDecoder;
use outrigger_upgrade::record::{HeaderRecord, TcpRecord, TunnelRecord};

use crate::access_log::Capture;
use crate::cluster::{ClusterRuntime, Host, UpstreamConnection};
use crate::connection::moving::proxied;
use crate::ring::Socket;
use crate::shard::Shard;
use crate::timer::{NANOS_PER_MS, Nanos, after};
use crate::transport::Transport;

use super::super::HttpRuntime;
use super::super::upgrade::Tunnel;
use super::{Client, Exchange, RequestSide, ResponsePhase, ResponseSide, Upstream};

impl Exchange {
    /// The upstream socket of a tunnel that can go on elsewhere.
    pub(in crate::http) fn tunnel_socket(&self) -> Option<&Socket> {
        match &self.upstream {
            Upstream::Http1(connection) if self.is_tunnelling() => match &connection.transport {
                Transport::Plain(socket) => Some(socket),
                Transport::Tls(_) => None,
            },
            _ => None,
        }
    }

    /// What another process must know of a tunnel.
    pub(in crate::http) fn tunnel_record(
        &self,
        shard: &Shard,
        http: &HttpRuntime,
        upstream: &Socket,
        requests: u32,
    ) -> TunnelRecord {
        let captures = http.logs.captures();
        let destination = self.destination.as_ref();
        let (cluster, host) = destination.map(|(cluster, host)| (&**cluster, &**host)).unzip();
        let left = self.deadlines.stream.map(|at| at.saturating_sub(shard.clock.now()));
        TunnelRecord {
            proxied: TcpRecord {
                downstream_ended: self.request.complete,
                upstream_ended: self.response.phase == ResponsePhase::Complete,
                received_bytes: self.facts.bytes.received,
                sent_bytes: self.facts.bytes.sent,
                attempts: self.facts.attempts,
                ..proxied(cluster, host, upstream)
            },
            kind: match self.tunnel {
                Tunnel::None => 0,
                Tunnel::Upgrade => 1,
                Tunnel::Connect => 2,
                Tunnel::ConnectTerminated => 3,
            },
            code: self.facts.code.into(),
            requests,
            idle_timeout_ms: self.deadlines.idle_timeout.map(|limit| limit.as_millis() as u64),
            left_ms: left.map(|left| left / NANOS_PER_MS),
            request_headers: headers(captures.request_headers(), &self.facts.capture),
            response_headers: headers(captures.response_headers(), &self.facts.capture),
            stream_id_high: (self.facts.stream_id >> 64) as u64,
            stream_id_low: self.facts.stream_id as u64,
        }
    }

    /// The tunnel is another process's: nothing of it is counted or logged here any more.
    pub(in crate::http) fn leave_tunnel(mut self: Box<Self>, shard: &Shard, http: &HttpRuntime) {
        http.stats.downstream_cx_upgrades_active.dec();
        http.stats.downstream_rq_active.dec();
        if let Some((cluster, host)) = &self.destination {
            cluster.stats.upstream_rq_active.dec();
            host.request_ends(0);
            if self.counted {
                cluster.breakers.requests.release(shard.index);
            }
        }
        if let Upstream::Http1(connection) = &mut self.upstream {
            connection.meter.leaves();
        }
        self.filtered.metrics.telemetry = None;
    }

    /// Goes on with a tunnel of another process.
    pub(in crate::http) fn adopt_tunnel(
        shard: &Rc<Shard>,
        http: &HttpRuntime,
        record: &TunnelRecord,
        (cluster, host): (Rc<ClusterRuntime>, Rc<Host>),
        upstream: Transport,
        age: Nanos,
    ) -> Box<Self> {
        let mut exchange = Self::take(shard);
        let now = shard.clock.now();
        exchange.tunnel = match record.kind {
            2 => Tunnel::Connect,
            3 => Tunnel::ConnectTerminated,
            _ => Tunnel::Upgrade,
        };
        let method = if record.kind == 1 { Method::Get } else { Method::Connect };
        exchange.client =
            Client { method, version: Version::Http11, keep_alive: true, expects_continue: false };
        let TcpRecord { downstream_ended, upstream_ended, .. } = record.proxied;
        exchange.request = RequestSide {
            body: BodyDecoder::UntilClose,
            complete: downstream_ended,
            ..RequestSide::default()
        };
        exchange.response = ResponseSide {
            phase: if upstream_ended { ResponsePhase::Complete } else { ResponsePhase::Body },
            body: BodyDecoder::UntilClose,
            closes: true,
            ..ResponseSide::default()
        };
        exchange.deadlines.idle_timeout = record.idle_timeout_ms.map(Duration::from_millis);
        exchange.deadlines.stream = after(now, record.left_ms.map(Duration::from_millis));
        exchange.touch(shard);
        let facts = &mut exchange.facts;
        facts.times.downstream_rx_begin = now.saturating_sub(age);
        facts.code = u16::try_from(record.code).unwrap_or_default();
        facts.details = "via_upstream";
        facts.attempts = record.proxied.attempts;
        facts.bytes.received = record.proxied.received_bytes;
        facts.bytes.sent = record.proxied.sent_bytes;
        facts.stream_id =
            u128::from(record.stream_id_high) << 64 | u128::from(record.stream_id_low);
        let captures = http.logs.captures();
        capture(captures.request_headers(), &record.request_headers, &mut facts.capture);
        capture(captures.response_headers(), &record.response_headers, &mut facts.capture);
        if downstream_ended {
            upstream.finish();
        }
        let connection = UpstreamConnection::adopt(shard, &cluster, &host, upstream, 1);
        facts.upstream_connection_id = connection.meter.id;
        http.stats.downstream_cx_upgrades_active.inc();
        http.stats.downstream_rq_active.inc();
        cluster.stats.upstream_rq_active.inc();
        host.request_begins();
        exchange.destination = Some((cluster, host));
        exchange.upstream = Upstream::Http1(connection);
        exchange
    }

    /// Has its upstream connection wake the task.
    pub(in crate::http) fn watch_tunnel(&self, waker: &std::task::Waker) {
        if let Upstream::Http1(connection) = &self.upstream {
            connection.transport.register(waker);
        }
    }
}

fn headers<'n>(
    names: impl Iterator<Item = (u16, &'n str)>,
    capture: &Capture,
) -> Vec<HeaderRecord> {
    let known = names.filter_map(|(slot, name)| Some((name, capture.get(slot)?)));
    known
        .map(|(name, value)| HeaderRecord { name: name.to_owned(), value: value.to_vec() })
        .collect()
}

fn capture<'n>(
    names: impl Iterator<Item = (u16, &'n str)>,
    headers: &[HeaderRecord],
    capture: &mut Capture,
) {
    for (slot, name) in names {
        if let Some(header) = headers.iter().find(|header| header.name == name) {
            capture.put(slot, &header.value);
        }
    }
}
