//! Addresses and socket settings.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use crate::compile::invalid;
use crate::fault::Found;
use crate::snapshot::{
    Address, SocketOption, SocketOptionState, SocketOptionValue, TcpKeepalive, network,
};
use crate::view::View;

/// An address whose host need not be resolved.
pub(crate) fn resolved(view: &View<'_>) -> Result<Address, Found> {
    match named(view)? {
        Named::Address(address) => Ok(address),
        Named::Host { host, .. } => {
            let socket = view.message("socket_address");
            let at = socket.map_or_else(|| view.at("address"), |socket| socket.at("address"));
            Err(invalid(at, format!("{host:?} is not an IP address")))
        }
    }
}

/// An address, or a name that DNS must turn into one.
pub(crate) enum Named {
    Address(Address),
    Host { host: Box<str>, port: u16 },
}

/// envoy.config.core.v3.Address.
pub(crate) fn named(view: &View<'_>) -> Result<Named, Found> {
    view.required_which("address", &["socket_address", "pipe"])?;
    if let Some(pipe) = view.message("pipe") {
        return unix(&pipe).map(Named::Address);
    }
    let Some(socket) = view.message("socket_address") else {
        return Err(view.required("address"));
    };
    let (host, port) = host_and_port(&socket)?;
    Ok(match host.parse::<IpAddr>() {
        Ok(ip) => Named::Address(Address::Ip(SocketAddr::new(ip, port))),
        Err(_) => Named::Host { host: host.into(), port },
    })
}

/// SocketAddress, which has to be an IP address.
pub(crate) fn socket(view: &View<'_>) -> Result<SocketAddr, Found> {
    let (host, port) = host_and_port(view)?;
    match host.parse() {
        Ok(ip) => Ok(SocketAddr::new(ip, port)),
        Err(_) => Err(view.invalid("address", format!("{host:?} is not an IP address"))),
    }
}

fn host_and_port<'a>(socket: &View<'a>) -> Result<(&'a str, u16), Found> {
    match socket.choice("protocol")?.as_str() {
        "TCP" => {}
        other => return Err(socket.unsupported("protocol", other)),
    }
    let host = socket.required_text("address")?;
    let port = u16::try_from(socket.u32("port_value"))
        .map_err(|_| socket.invalid("port_value", "must be at most 65535"))?;
    Ok((host, port))
}

fn unix(pipe: &View<'_>) -> Result<Address, Found> {
    let path = pipe.required_text("path")?;
    let name = path.strip_prefix('@');
    if path.len() > UNIX_PATH_BYTES_MAX {
        return Err(pipe.invalid("path", format!("is longer than {UNIX_PATH_BYTES_MAX} bytes")));
    }
    if path.contains('\0') || name == Some("") {
        return Err(pipe.invalid("path", "is not the name of a socket"));
    }
    Ok(match name {
        Some(name) => Address::UnixAbstract(name.as_bytes().into()),
        None => Address::Unix(Path::new(path).into()),
    })
}

/// Permission bits of a Unix socket's path, when they are set.
pub(crate) fn mode(view: &View<'_>) -> Result<Option<u32>, Found> {
    let Some(pipe) = view.message("pipe") else { return Ok(None) };
    match pipe.u32("mode") {
        0 => Ok(None),
        mode if mode > 0o777 => Err(pipe.invalid("mode", "must be at most 0777")),
        mode => Ok(Some(mode)),
    }
}

/// CidrRange, host bits cleared.
pub(crate) fn cidr(view: &View<'_>) -> Result<(IpAddr, u8), Found> {
    let text = view.required_text("address_prefix")?;
    let address: IpAddr = text
        .parse()
        .map_err(|_| view.invalid("address_prefix", format!("{text:?} is not an IP address")))?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let length = view.wrapped_u32("prefix_len").unwrap_or(0);
    let length = u8::try_from(length)
        .ok()
        .filter(|length| *length <= bits)
        .ok_or_else(|| view.invalid("prefix_len", format!("must be at most {bits}")))?;
    Ok((network(address, length), length))
}

/// TcpKeepalive.
pub(crate) fn keepalive(view: &View<'_>) -> TcpKeepalive {
    TcpKeepalive {
        probes: view.wrapped_u32("keepalive_probes"),
        time_s: view.wrapped_u32("keepalive_time"),
        interval_s: view.wrapped_u32("keepalive_interval"),
    }
}

/// SocketOption.
pub(crate) fn socket_option(view: &View<'_>) -> Result<SocketOption, Found> {
    let int = |field: &str| {
        i32::try_from(view.i64(field)).map_err(|_| view.invalid(field, "does not fit a C int"))
    };
    let value = match view.which(&["int_value", "buf_value"]) {
        Some("buf_value") => SocketOptionValue::Bytes(view.bytes("buf_value").into()),
        Some(_) => SocketOptionValue::Int(int("int_value")?),
        None => return Err(view.required("value")),
    };
    let state = match view.choice("state")?.as_str() {
        "STATE_PREBIND" => SocketOptionState::PreBind,
        "STATE_BOUND" => SocketOptionState::Bound,
        "STATE_LISTENING" => SocketOptionState::Listening,
        other => return Err(view.unsupported("state", other)),
    };
    let description = view.text("description").into();
    Ok(SocketOption { description, level: int("level")?, name: int("name")?, value, state })
}

/// `sun_path` less the NUL at its end.
pub(crate) const UNIX_PATH_BYTES_MAX: usize = 107;
