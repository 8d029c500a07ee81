//! Responses as every version of HTTP says them (RFC 9110).

use super::field::Field;
use super::framing::BodyFraming;
use super::request::Method;
use super::version::{ConnectionOptions, Version};

/// A complete response head, as views into the received bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct ResponseHead<'s, 'b> {
    /// The status code, 100 to 999.
    pub status: u16,
    /// The reason phrase; empty if there is none or if it is not ASCII.
    pub reason: &'b str,
    /// The version of the message.
    pub version: Version,
    /// The fields in the order received.
    pub fields: &'s [Field<'b>],
    /// The bytes of the head, from the status line to the empty line, both included.
    pub len: usize,
    /// The Connection options.
    pub connection: ConnectionOptions,
    /// The protocol of the Upgrade field, if this is an HTTP/1.1 response whose Connection field lists
    /// `upgrade`: the one switched to with 101, the ones on offer with another status.
    pub upgrade: Option<&'b [u8]>,
    /// The message ends with its head, which only HTTP/2 can tell.
    pub ended: bool,
    /// The length of the body that the Content-Length field announces.
    pub content_length: Option<u64>,
    pub(crate) chunked: bool,
}

impl<'s, 'b> ResponseHead<'s, 'b> {
    /// How the body of this response to a `request_method` request is framed (RFC 9112 section 6.3).
    ///
    /// [`BodyFraming::None`] for HEAD, 1xx, 204 and 304, and also for 101 and a 2xx to CONNECT, after
    /// which the connection is a tunnel. Content-Length and Transfer-Encoding of a 2xx to CONNECT must
    /// be dropped, and so must the `Content-Length: 0` that is tolerated with 1xx and 204.
    ///
    /// # Errors
    ///
    /// [`BodyForbidden`] if a 1xx or 204 response announces a body, as Envoy does.
    pub fn framing(&self, request_method: Method) -> Result<BodyFraming, BodyForbidden> {
        Ok(match (self.status, request_method) {
            (100..200 | 204, _) => {
                // RFC 9112 section 6.1 and RFC 9110 section 8.6: neither field may be there. An origin
                // that counts on the body being read would have it taken for the next response.
                if self.chunked || self.content_length.is_some_and(|length| length > 0) {
                    return Err(BodyForbidden);
                }
                BodyFraming::None
            }
            (304, _) | (_, Method::Head) | (200..300, Method::Connect) => BodyFraming::None,
            _ if self.ended => BodyFraming::Length(0),
            _ if self.chunked => BodyFraming::Chunked,
            _ => self.content_length.map_or(BodyFraming::UntilClose, BodyFraming::Length),
        })
    }

    /// Whether the server keeps the connection after this response (RFC 9112 section 9.3). A response
    /// whose body is framed by the close can't, whatever this says.
    #[must_use]
    pub fn keep_alive(&self) -> bool {
        self.connection.keep_alive(self.version)
    }

    /// The first field with this name, compared without case.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'s Field<'b>> {
        self.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name))
    }

    /// Whether `field`, one of this head, must not be forwarded as it is; see
    /// [`FieldKind::is_hop_by_hop`](super::FieldKind::is_hop_by_hop).
    #[must_use]
    pub fn is_hop_by_hop(&self, field: &Field<'_>) -> bool {
        field.kind.is_hop_by_hop()
    }
}

/// A 1xx or 204 response announces a body (RFC 9112 section 6.1, RFC 9110 section 8.6).
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a body is announced where none is allowed")]
pub struct BodyForbidden;
