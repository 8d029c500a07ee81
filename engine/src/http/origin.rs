//! Who a request is from, and what of it is believed (contract section 5, header handling).

use std::net::{IpAddr, SocketAddr};

use outrigger_codecs::http::{Field, FieldKind, tokens};
use outrigger_xds::snapshot::OriginRules;

/// The other end of a downstream connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// TCP.
    Ip(SocketAddr),
    /// A Unix socket, which names nobody.
    Unix,
}

impl Peer {
    /// Its IP address.
    pub fn ip(self) -> Option<IpAddr> {
        self.socket().map(|address| address.ip())
    }

    /// Its IP address and port.
    pub fn socket(self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(address),
            Self::Unix => None,
        }
    }
}

/// What was found out about a request's origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// The client, as far as the configuration trusts what it was told.
    pub(super) client: Option<IpAddr>,
    /// It may set `x-envoy-*` control headers.
    pub(super) internal: bool,
    /// This proxy is the first that the request met.
    pub(super) edge: bool,
}

impl Origin {
    /// Decides from the peer and the `x-forwarded-for` that came.
    pub(super) fn of(rules: &OriginRules, peer: Peer, fields: &[Field<'_>]) -> Self {
        let forwarded = || fields.iter().filter(|field| field.kind == FieldKind::XForwardedFor);
        let hops = rules.xff_num_trusted_hops as usize;
        let (client, alone) = if rules.use_remote_address {
            let trusted = (hops > 0).then(|| address_from_end(forwarded(), hops - 1)).flatten();
            (trusted.or(peer.ip()), forwarded().next().is_none())
        } else {
            let listed = forwarded().flat_map(|field| tokens(field.value)).count();
            (address_from_end(forwarded(), hops).or(peer.ip()), listed <= 1)
        };
        let known = match (client, peer) {
            (Some(client), _) => rules.internal.contains(client),
            (None, Peer::Unix) => rules.internal.unix_sockets,
            (None, Peer::Ip(_)) => false,
        };
        let internal = alone && known;
        Self { client, internal, edge: rules.use_remote_address && !internal }
    }
}

/// The address `skip` places before the last of the list, over all lines of the header.
fn address_from_end<'f, 'b: 'f>(
    fields: impl Iterator<Item = &'f Field<'b>>,
    skip: usize,
) -> Option<IpAddr> {
    let mut last: [Option<&[u8]>; HOPS_MAX] = [None; HOPS_MAX];
    let mut count = 0;
    for token in fields.flat_map(|field| tokens(field.value)) {
        last[count % HOPS_MAX] = Some(token);
        count += 1;
    }
    if skip >= count || skip >= HOPS_MAX {
        return None;
    }
    let token = std::str::from_utf8(last[(count - 1 - skip) % HOPS_MAX]?).ok()?;
    token.parse().ok()
}

/// Whether a request field may go on, given who sent it: control headers of strangers may not.
pub(super) fn is_believed(origin: Origin, field: &Field<'_>) -> bool {
    match field.kind {
        // Ours to say, from what we found out.
        FieldKind::XEnvoyInternal => false,
        FieldKind::XEnvoyOriginalPath
        | FieldKind::XEnvoyUpstreamRqTimeoutMs
        | FieldKind::XEnvoyExpectedRqTimeoutMs => origin.internal,
        FieldKind::XEnvoyExternalAddress => !origin.edge,
        FieldKind::XEnvoy => {
            let suffix = &field.name["x-envoy-".len()..];
            let is_in = |names: &[&str]| names.iter().any(|name| name.eq_ignore_ascii_case(suffix));
            (origin.internal || !is_in(&CONTROL)) && (!origin.edge || !is_in(&EDGE_ONLY))
        }
        _ => true,
    }
}

/// `x-envoy-` headers that steer the proxy: only internal callers may send them.
const CONTROL: [&str; 11] = [
    "retriable-status-codes",
    "retriable-header-names",
    "retry-on",
    "retry-grpc-on",
    "max-retries",
    "upstream-alt-stat-name",
    "upstream-rq-per-try-timeout-ms",
    "upstream-rq-timeout-alt-response",
    "force-trace",
    "ip-tags",
    "hedge-on-per-try-timeout",
];

/// `x-envoy-` headers that only proxies behind this one may have set.
const EDGE_ONLY: [&str; 3] =
    ["decorator-operation", "downstream-service-cluster", "downstream-service-node"];

/// More trusted proxies in a row than any deployment has; further back nothing is looked for.
const HOPS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use outrigger_xds::snapshot::InternalAddresses;

    use super::*;

    fn rules(use_remote_address: bool, hops: u32) -> OriginRules {
        OriginRules {
            use_remote_address,
            xff_num_trusted_hops: hops,
            skip_xff_append: false,
            append_x_forwarded_port: false,
            ipv4_as_mapped_ipv6: false,
            internal: InternalAddresses {
                unix_sockets: false,
                ranges: Box::new([([10, 0, 0, 0].into(), 8)]),
            },
        }
    }

    fn origin(rules: &OriginRules, peer: &str, forwarded: Option<&str>) -> (String, bool, bool) {
        let fields: Vec<_> = forwarded
            .into_iter()
            .map(|value| Field::new("x-forwarded-for", value.as_bytes()))
            .collect();
        let peer = Peer::Ip(format!("{peer}:1").parse().unwrap());
        let origin = Origin::of(rules, peer, &fields);
        (origin.client.unwrap().to_string(), origin.internal, origin.edge)
    }

    #[test]
    fn the_client_is_found_as_configured() {
        let expect = |ip: &str, internal, edge| (ip.to_owned(), internal, edge);
        let edge = rules(true, 0);
        assert_eq!(origin(&edge, "1.2.3.4", Some("9.9.9.9")), expect("1.2.3.4", false, true));
        assert_eq!(origin(&edge, "10.1.1.1", None), expect("10.1.1.1", true, false));
        assert_eq!(origin(&edge, "10.1.1.1", Some("10.2.2.2")), expect("10.1.1.1", false, true));
        let hops = rules(true, 1);
        assert_eq!(
            origin(&hops, "1.2.3.4", Some("5.5.5.5, 6.6.6.6")),
            expect("6.6.6.6", false, true)
        );
        let inner = rules(false, 0);
        assert_eq!(origin(&inner, "1.2.3.4", Some("10.9.9.9")), expect("10.9.9.9", true, false));
        assert_eq!(
            origin(&inner, "1.2.3.4", Some("8.8.8.8,10.9.9.9")),
            expect("10.9.9.9", false, false)
        );
        assert_eq!(origin(&inner, "1.2.3.4", Some("nonsense")), expect("1.2.3.4", false, false));
        let inner_hop = rules(false, 1);
        assert_eq!(origin(&inner_hop, "1.2.3.4", Some("7.7.7.7,6.6.6.6")).0, "7.7.7.7");
    }

    #[test]
    fn strangers_lose_control_headers() {
        let field = |name: &'static str| Field::new(name, b"1");
        let stranger = Origin { client: None, internal: false, edge: false };
        let internal = Origin { client: None, internal: true, edge: false };
        for name in ["x-envoy-max-retries", "X-Envoy-Upstream-Rq-Timeout-Ms", "x-envoy-retry-on"] {
            assert!(!is_believed(stranger, &field(name)), "{name}");
            assert!(is_believed(internal, &field(name)), "{name}");
        }
        assert!(is_believed(stranger, &field("x-envoy-something-new")));
        assert!(is_believed(stranger, &field("x-custom")));
    }
}
