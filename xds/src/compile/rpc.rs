//! RpcProxy: everything but its routes.

use std::sync::Arc;
use std::time::Duration;

use crate::compile::{Context, access_log, rpc_route};
use crate::fault::Found;
use crate::snapshot::{
    RpcKeepalive, RpcProtocol, RpcProxy, RpcRouteTable, Sharing, UpstreamConnections,
};
use crate::view::View;

pub(crate) fn compile(view: &View<'_>, context: &Context<'_>) -> Result<RpcProxy, Found> {
    let stat_prefix = view.required_text("stat_prefix")?;
    let protocol = protocol(view)?;
    let Some(routes) = view.message("route_config") else {
        return Err(view.required("route_config"));
    };
    let routes = rpc_route::compile(&routes, &protocol, context)?;
    let default = with_defaults(stat_prefix, protocol, routes);
    let sharing = match view.choice("sharing")?.as_str() {
        "MULTIPLEX" => Sharing::Multiplex,
        "PING_PONG" => Sharing::PingPong,
        "BOUND" => Sharing::Bound,
        other => return Err(view.unsupported("sharing", other)),
    };
    let beat = heartbeat(&protocol);
    Ok(RpcProxy {
        sharing,
        max_frame_bytes: max_frame_bytes(view)?.unwrap_or(default.max_frame_bytes),
        max_requests_per_connection: view
            .positive("max_requests_per_connection")?
            .unwrap_or(default.max_requests_per_connection),
        frame_timeout: view.positive_duration("frame_timeout")?.unwrap_or(default.frame_timeout),
        idle_timeout: view.timeout("idle_timeout", default.idle_timeout)?,
        downstream_keepalive: match view.message("downstream_keepalive") {
            Some(keepalive) => self::keepalive(&keepalive, beat)?,
            None => default.downstream_keepalive,
        },
        upstream_keepalive: match view.message("upstream_keepalive") {
            Some(keepalive) => self::keepalive(&keepalive, beat)?,
            None => default.upstream_keepalive,
        },
        upstream_connections: upstream_connections(view, sharing)?,
        allow_reverse_requests: allow_reverse_requests(view, sharing)?,
        access_log: access_log::compile(view, context.runtime)?,
        ..default
    })
}

/// A proxy of which nothing else is said.
pub(crate) fn with_defaults(
    stat_prefix: &str,
    protocol: RpcProtocol,
    routes: RpcRouteTable,
) -> RpcProxy {
    RpcProxy {
        stat_prefix: stat_prefix.into(),
        protocol,
        sharing: Sharing::Multiplex,
        routes: Arc::new(routes),
        max_frame_bytes: frame_bytes(&protocol),
        max_requests_per_connection: REQUESTS_PER_CONNECTION,
        frame_timeout: FRAME_TIMEOUT,
        idle_timeout: Some(idle_timeout(&protocol)),
        downstream_keepalive: None,
        upstream_keepalive: Some(heartbeat(&protocol)),
        upstream_connections: MULTIPLEXED,
        allow_reverse_requests: false,
        access_log: Vec::new(),
    }
}

fn protocol(view: &View<'_>) -> Result<RpcProtocol, Found> {
    let field = view.required_which("protocol", &["bolt", "dubbo", "hsf"])?;
    let Some(options) = view.message(field) else { return Err(view.required(field)) };
    Ok(match field {
        "bolt" => RpcProtocol::Bolt {
            crc_by_switch_only: options.flag("crc_by_switch_only"),
            goaway: options.flag("goaway"),
        },
        "dubbo" => RpcProtocol::Dubbo,
        _ => RpcProtocol::Hsf {
            rpc_type_first: options.flag("rpc_type_first"),
            response_codec_first: options.flag("response_codec_first"),
            heartbeat_version_first: options.flag("heartbeat_version_first"),
            rpc_protocol_byte: rpc_protocol_byte(&options)?,
            announce_closing: options.flag("announce_closing"),
            tb_local_errors: options.flag("tb_local_errors"),
        },
    })
}

fn rpc_protocol_byte(view: &View<'_>) -> Result<u8, Found> {
    let Some(number) = view.wrapped_u32("rpc_protocol_byte") else { return Ok(HSF_RPC) };
    match u8::try_from(number) {
        Ok(byte) if byte != 0 && byte != HSF_HEARTBEAT => Ok(byte),
        _ => {
            let text =
                format!("must be from 1 to 255 and not {HSF_HEARTBEAT}, which is heartbeats'");
            Err(view.invalid("rpc_protocol_byte", text))
        }
    }
}

fn max_frame_bytes(view: &View<'_>) -> Result<Option<u32>, Found> {
    match view.wrapped_u32("max_frame_bytes") {
        Some(bytes) if !(FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&bytes) => {
            let text = format!("must be from {FRAME_BYTES_MIN} to {FRAME_BYTES_MAX}");
            Err(view.invalid("max_frame_bytes", text))
        }
        bytes => Ok(bytes),
    }
}

fn keepalive(view: &View<'_>, default: RpcKeepalive) -> Result<Option<RpcKeepalive>, Found> {
    let interval = view.duration("interval")?.unwrap_or(default.interval);
    let timeout = view.positive_duration("timeout")?.unwrap_or(default.timeout);
    let misses_max = view.positive("max_misses")?.unwrap_or(default.misses_max);
    if interval.is_zero() {
        return Ok(None);
    }
    if interval < KEEPALIVE_INTERVAL_MIN {
        return Err(view.invalid("interval", "must be at least 1 s, or 0 for no heartbeats"));
    }
    Ok(Some(RpcKeepalive { interval, timeout, misses_max }))
}

fn upstream_connections(view: &View<'_>, sharing: Sharing) -> Result<UpstreamConnections, Found> {
    let options = view.message("upstream_connections");
    let of = |field: &str| match &options {
        Some(options) => options.positive(field),
        None => Ok(None),
    };
    let (max, requests_each) = (of("max")?, of("requests_each")?);
    match (sharing, options) {
        (Sharing::Bound, Some(_)) => {
            Err(view.invalid("upstream_connections", "has no meaning with sharing BOUND"))
        }
        (Sharing::Bound, None) => Ok(MULTIPLEXED),
        (Sharing::PingPong, Some(options)) if requests_each.is_some() => {
            Err(options.invalid("requests_each", "is always 1 with sharing PING_PONG"))
        }
        (Sharing::PingPong, _) => {
            Ok(UpstreamConnections { max: max.unwrap_or(PING_PONG_CONNECTIONS), requests_each: 1 })
        }
        (Sharing::Multiplex, _) => Ok(UpstreamConnections {
            max: max.unwrap_or(MULTIPLEXED.max),
            requests_each: requests_each.unwrap_or(MULTIPLEXED.requests_each),
        }),
    }
}

fn allow_reverse_requests(view: &View<'_>, sharing: Sharing) -> Result<bool, Found> {
    let allow = view.flag("allow_reverse_requests");
    if allow && sharing != Sharing::Bound {
        return Err(view.invalid("allow_reverse_requests", "needs sharing BOUND"));
    }
    Ok(allow)
}

/// The heartbeats that the clients of a protocol send (bolt.md section 6, dubbo.md section 8, hsf.md
/// section 5). Where a client has no time for an answer apart from the interval, it is the protocol's
/// time for a call.
fn heartbeat(protocol: &RpcProtocol) -> RpcKeepalive {
    let (interval, timeout) = match protocol {
        RpcProtocol::Bolt { .. } => (15, 1),
        RpcProtocol::Dubbo => (60, 3),
        RpcProtocol::Hsf { .. } => (27, 3),
    };
    RpcKeepalive {
        interval: Duration::from_secs(interval),
        timeout: Duration::from_secs(timeout),
        misses_max: 3,
    }
}

/// When the servers of a protocol close a connection that says nothing: clients count on no less. HSF's
/// is not known; it has Bolt's, more than three of its heartbeats.
fn idle_timeout(protocol: &RpcProtocol) -> Duration {
    Duration::from_secs(match protocol {
        RpcProtocol::Bolt { .. } | RpcProtocol::Hsf { .. } => 90,
        RpcProtocol::Dubbo => 180,
    })
}

/// Dubbo's is its own `payload`; the others have none (bolt.md section 7, hsf.md section 10).
fn frame_bytes(protocol: &RpcProtocol) -> u32 {
    match protocol {
        RpcProtocol::Bolt { .. } => 64 << 20,
        RpcProtocol::Dubbo => 8 << 20,
        RpcProtocol::Hsf { .. } => 16 << 20,
    }
}

/// The longest fixed part of a frame fits; the top is where MOSN begins to complain.
const FRAME_BYTES_MIN: u32 = 64;
const FRAME_BYTES_MAX: u32 = 1 << 30;
/// As many as Envoy's circuit breaker lets through to a whole cluster.
const REQUESTS_PER_CONNECTION: u32 = 1024;
/// A frame of the greatest default length over a link of 20 Mbit/s.
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// One connection is what clients of these protocols make, and carries most in one write; a second one
/// is made before so many requests wait behind a large one.
const MULTIPLEXED: UpstreamConnections = UpstreamConnections { max: 2, requests_each: 512 };
/// As many as Envoy's circuit breaker lets a cluster have.
const PING_PONG_CONNECTIONS: u32 = 1024;
/// hsf.md sections 2 and 6.
const HSF_RPC: u8 = 0x0e;
const HSF_HEARTBEAT: u8 = 0x0c;
