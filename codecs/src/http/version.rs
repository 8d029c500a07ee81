//! The version of a message, and what it asks of its connection.

/// The version of a message.
///
/// RFC 9110 section 2.5 lets a recipient treat a higher minor version as 1.1. No such version exists,
/// Envoy refuses it, and what sends it is probing, so it is refused here too.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

impl Version {
    /// From httparse's minor version, which is 0 or 1.
    pub(crate) fn from_minor(minor: u8) -> Self {
        if minor == 0 { Self::Http10 } else { Self::Http11 }
    }
}

/// What the Connection fields of a message ask for (RFC 9110 section 7.6.1).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ConnectionOptions {
    /// `close`: the sender closes the connection after this exchange.
    pub close: bool,
    /// `keep-alive`: an HTTP/1.0 sender asks to keep the connection.
    pub keep_alive: bool,
    /// `upgrade`: the Upgrade field is meant.
    pub upgrade: bool,
    /// Other fields are named, which must be dropped too. Those present are marked
    /// [`FieldKind::Nominated`](super::FieldKind::Nominated).
    pub names_others: bool,
}

impl ConnectionOptions {
    /// Whether the connection persists after this message (RFC 9112 section 9.3).
    pub(super) fn keep_alive(self, version: Version) -> bool {
        !self.close && (version != Version::Http10 || self.keep_alive)
    }
}
