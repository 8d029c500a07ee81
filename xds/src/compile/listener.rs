//! Listeners and filter chains (contract sections 2 and 3).

use std::sync::Arc;

use crate::compile::{Context, address, cluster, http, invalid, tcp};
use crate::fault::{Found, Problem};
use crate::snapshot::{
    Address, Bind, FilterChain, ListenAddress, Listener, Terminal, TrafficDirection,
};
use crate::view::View;

pub(crate) fn compile(view: &View<'_>, context: &Context<'_>) -> Result<Listener, Found> {
    let addresses = addresses(view)?;
    let printed = addresses[0].address.to_string();
    // Names matter to updates only; a static listener may go without.
    let name = view.optional_text("name").unwrap_or(&printed);
    let filter_chains = view
        .messages("filter_chains")
        .iter()
        .map(|chain| filter_chain(chain, context).map(Arc::new))
        .collect::<Result<Vec<_>, Found>>()?;
    if filter_chains.len() > 1 {
        let at = view.at("filter_chains").index(1);
        return Err(invalid(at, "matches the same connections as filter_chains[0]"));
    }
    let default_filter_chain = view
        .message("default_filter_chain")
        .map(|chain| filter_chain(&chain, context).map(Arc::new))
        .transpose()?;
    if filter_chains.is_empty() && default_filter_chain.is_none() {
        return Err(view.required("filter_chains"));
    }
    view.duration("listener_filters_timeout")?;
    Ok(Listener {
        name: name.into(),
        stat_prefix: view
            .optional_text("stat_prefix")
            .map_or_else(|| printed.replace(':', "_").into(), Box::from),
        addresses,
        filter_chains,
        default_filter_chain,
        per_connection_buffer_limit_bytes: view
            .positive("per_connection_buffer_limit_bytes")?
            .unwrap_or(BUFFER_LIMIT_BYTES),
        bind: bind(view)?,
        traffic_direction: match view.choice("traffic_direction")?.as_str() {
            "UNSPECIFIED" => TrafficDirection::Unspecified,
            "INBOUND" => TrafficDirection::Inbound,
            "OUTBOUND" => TrafficDirection::Outbound,
            other => return Err(view.unsupported("traffic_direction", other)),
        },
        max_connections_to_accept_per_socket_event: view
            .positive("max_connections_to_accept_per_socket_event")?,
    })
}

/// At least one.
fn addresses(view: &View<'_>) -> Result<Vec<ListenAddress>, Found> {
    let Some(first) = view.message("address") else { return Err(view.required("address")) };
    let options = view.messages("socket_options");
    let keepalive = view.message("tcp_keepalive").map(|view| address::keepalive(&view));
    let mut addresses = vec![ListenAddress {
        address: address::resolved(&first)?,
        mode: address::mode(&first)?,
        ipv4_compat: first.message("socket_address").is_some_and(|view| view.flag("ipv4_compat")),
        socket_options: options.iter().map(address::socket_option).collect::<Result<_, _>>()?,
        tcp_keepalive: keepalive,
    }];
    for additional in view.messages("additional_addresses") {
        let Some(location) = additional.message("address") else {
            return Err(additional.required("address"));
        };
        // Options given here replace the listener's, even by an empty list.
        let options = match additional.message("socket_options") {
            Some(own) => own
                .messages("socket_options")
                .iter()
                .map(address::socket_option)
                .collect::<Result<_, _>>()?,
            None => addresses[0].socket_options.clone(),
        };
        let own = additional.message("tcp_keepalive").map(|view| address::keepalive(&view));
        let socket = location.message("socket_address");
        addresses.push(ListenAddress {
            address: address::resolved(&location)?,
            mode: address::mode(&location)?,
            ipv4_compat: socket.is_some_and(|view| view.flag("ipv4_compat")),
            socket_options: options,
            tcp_keepalive: own.or(keepalive),
        });
    }
    let is_ip = |listen: &ListenAddress| matches!(listen.address, Address::Ip(_));
    if addresses.iter().any(|listen| is_ip(listen) != is_ip(&addresses[0])) {
        let text = "must be of the same kind as address";
        return Err(view.invalid("additional_addresses", text));
    }
    Ok(addresses)
}

fn bind(view: &View<'_>) -> Result<Bind, Found> {
    let deprecated = view.message("deprecated_v1").and_then(|old| old.wrapped_flag("bind_to_port"));
    let balance = view.message("connection_balance_config");
    if let Some(balance) = &balance {
        balance.required_which("balance_type", &["exact_balance", "cpu_locality_balance"])?;
    }
    Ok(Bind {
        bind_to_port: view.wrapped_flag("bind_to_port").or(deprecated).unwrap_or(true),
        reuse_port: view
            .wrapped_flag("enable_reuse_port")
            // The older field could only ever switch it on, which is the default today.
            .unwrap_or(true),
        backlog: view.positive("tcp_backlog_size")?,
        transparent: view.wrapped_flag("transparent").unwrap_or(false),
        freebind: view.wrapped_flag("freebind").unwrap_or(false),
        tcp_fast_open_queue_length: view
            .wrapped_u32("tcp_fast_open_queue_length")
            .filter(|length| *length > 0),
        exact_balance: balance.is_some_and(|balance| balance.has("exact_balance")),
    })
}

fn filter_chain(view: &View<'_>, context: &Context<'_>) -> Result<FilterChain, Found> {
    cluster::transport_socket(view)?;
    let filters = view.messages("filters");
    let Some(terminal) = filters.last() else {
        return Err(invalid(view.at("filters"), "must end in a terminal filter"));
    };
    if let Some(first) = filters.iter().rev().nth(1) {
        let text = "is a terminal filter and must be the last";
        return Err(first.fault(Problem::Invalid(text.to_owned())));
    }
    terminal.required_text("name")?;
    let Some(unpacked) = terminal.unpack("typed_config")? else {
        return Err(terminal.required("typed_config"));
    };
    let config = unpacked.view(view.schema());
    let terminal = match unpacked.kind().as_str() {
        HTTP_CONNECTION_MANAGER => Terminal::Http(Arc::new(http::compile(&config, context)?)),
        TCP_PROXY => Terminal::Tcp(Arc::new(tcp::compile(&config, context)?)),
        _ => return Err(unpacked.refuse()),
    };
    Ok(FilterChain { name: view.text("name").into(), terminal })
}

const HTTP_CONNECTION_MANAGER: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";

/// Envoy's default.
const BUFFER_LIMIT_BYTES: u32 = 1 << 20;
