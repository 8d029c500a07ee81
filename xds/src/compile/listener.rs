//! Listeners (contract section 2).

use crate::compile::filter_chain::{self, KnownChains};
use crate::compile::{Context, access_log, address, inspection};
use crate::fault::Found;
use crate::snapshot::{Address, Bind, ListenAddress, Listener, TrafficDirection};
use crate::view::View;

/// `known` has the filter chains of the version before, which are kept where they say the same.
pub(crate) fn compile(
    view: &View<'_>,
    context: &Context<'_>,
    known: &KnownChains<'_>,
) -> Result<Listener, Found> {
    let addresses = addresses(view)?;
    let printed = addresses[0].address.to_string();
    // Names matter to updates only; a static listener may go without.
    let name = view.optional_text("name").unwrap_or(&printed);
    let (filter_chains, matches) = filter_chain::compile(view, context, known)?;
    Ok(Listener {
        name: name.into(),
        stat_prefix: view
            .optional_text("stat_prefix")
            .map_or_else(|| printed.replace(':', "_").into(), Box::from),
        addresses,
        inspection: inspection::compile(view, &matches, context)?,
        use_original_dst: inspection::hands_over(view),
        filter_chains,
        access_log: access_log::compile(view, context.runtime)?,
        ignores_connections_max: view.flag("ignore_global_conn_limit"),
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

/// Envoy's default.
const BUFFER_LIMIT_BYTES: u32 = 1 << 20;
