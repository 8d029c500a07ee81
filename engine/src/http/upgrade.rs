//! Requests that turn a connection into a tunnel: Upgrade (RFC 9110 section 7.8) and CONNECT
//! (section 9.3.6).

use outrigger_codecs::http::{Method, RequestHead, tokens};
use outrigger_xds::snapshot::Upgrades;

/// What a request wants its connection to become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tunnel {
    /// Nothing: an ordinary request.
    #[default]
    None,
    /// Another protocol, once upstream answered 101.
    Upgrade,
    /// A tunnel through an upstream proxy, once it answered 2xx.
    Connect,
    /// A tunnel to the endpoint itself: we answer 200 when it is connected.
    ConnectTerminated,
}

/// Whether the upgrade that a request asks for is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// It asks for none, or only for one that is ignored.
    Nothing,
    /// It may have it.
    Allowed,
    /// 403.
    Refused,
}

/// Looks at the Upgrade field or the CONNECT method. What the route says wins over the connection
/// manager; what nobody names is refused.
pub(super) fn asked(head: &RequestHead<'_, '_>, manager: &Upgrades, route: &Upgrades) -> Asked {
    let kind: &[u8] = if head.method == Method::Connect {
        b"connect"
    } else {
        match head.upgrade.and_then(|value| tokens(value).next()) {
            None => return Asked::Nothing,
            // RFC 9113 no longer knows it; ignoring an upgrade is always correct.
            Some(kind) if kind.eq_ignore_ascii_case(b"h2c") => return Asked::Nothing,
            Some(kind) => kind,
        }
    };
    match route.allows(kind).or_else(|| manager.allows(kind)) {
        Some(true) => Asked::Allowed,
        Some(false) | None => Asked::Refused,
    }
}
