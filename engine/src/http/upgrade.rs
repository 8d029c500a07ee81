//! Requests that turn a connection into a tunnel: Upgrade (RFC 9110 section 7.8) and CONNECT
//! (section 9.3.6); on HTTP/2, CONNECT and extended CONNECT (RFC 8441).

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use outrigger_codecs::http::{Method, RequestHead, tokens};
use outrigger_xds::snapshot::Upgrades;

/// What a request wants its connection to become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tunnel {
    /// Nothing: an ordinary request.
    #[default]
    None,
    /// Another protocol, once upstream answered 101, or 2xx on HTTP/2.
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
        // With a protocol it is an extended CONNECT (RFC 8441), HTTP/2's upgrade.
        head.upgrade.unwrap_or(b"connect")
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

/// The answer to a WebSocket key (RFC 6455 section 4.2.2): ours to give where upstream speaks HTTP/2,
/// which has no such key (RFC 8441 section 5).
pub(super) fn websocket_accept(key: &[u8]) -> [u8; 28] {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64(context.finish().as_ref())
}

/// A key for a handshake that we make on behalf of a client on HTTP/2.
pub(super) fn websocket_key(random: [u64; 2]) -> [u8; 24] {
    let [high, low] = random.map(u64::to_be_bytes);
    base64(&[high, low].concat())
}

/// Base64 of bytes whose encoding has exactly `N` characters.
fn base64<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut text = [0; N];
    let written = STANDARD.encode_slice(bytes, &mut text);
    debug_assert_eq!(written, Ok(N));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn websocket_keys_are_answered() {
        // The example of RFC 6455 section 1.3.
        let accept = websocket_accept(b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(&accept, b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(&websocket_key([0, 1]), b"AAAAAAAAAAAAAAAAAAAAAQ==");
    }
}
