//! Requests as every version of HTTP says them (RFC 9110): what is parsed, routed and forwarded.

use super::field::Field;
use super::framing::BodyFraming;
use super::version::{ConnectionOptions, Version};

/// A complete request head, as views into the received bytes.
///
/// A value of this type is unambiguous: its target has the form that its method allows, its authority
/// is well-formed, and its body has exactly one length.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestHead<'s, 'b> {
    /// The method, if it is one that a proxy may treat in a way of its own.
    pub method: Method,
    /// The method as received; methods are case-sensitive.
    pub method_text: &'b str,
    /// What the request is for.
    pub target: Target<'b>,
    /// The version of the message.
    pub version: Version,
    /// What `:scheme` says, in lower case; HTTP/1 says none in the forms that servers get.
    pub scheme: Option<&'b str>,
    /// The fields in the order received.
    pub fields: &'s [Field<'b>],
    /// The bytes of the head: an empty line before it, the final empty line, and all between. In
    /// HTTP/2, the bytes of its names and values.
    pub len: usize,
    /// The authority of an absolute-form or authority-form target, else Host; empty for an HTTP/1.0
    /// request without Host. When it comes from the target, the Host field must not be forwarded but
    /// replaced by it (RFC 9112 section 3.2.2).
    pub authority: &'b str,
    /// How the body is framed; [`BodyFraming::UntilClose`] never occurs in a request.
    ///
    /// GET and HEAD may carry a body if they frame it, and so may a request that asks for an upgrade:
    /// the body ends where its framing says, and the new protocol starts after it, once the server
    /// has sent 101 (RFC 9110 section 7.8). CONNECT may not.
    pub framing: BodyFraming,
    /// The Connection options.
    pub connection: ConnectionOptions,
    /// The client waits for 100 (Continue) before it sends the body. True only for an HTTP/1.1
    /// request with a body; elsewhere the expectation means nothing (RFC 9110 section 10.1.1).
    pub expect_continue: bool,
    /// The protocols of the Upgrade field, if this is an HTTP/1.1 request whose Connection field lists
    /// `upgrade`; the `:protocol` of an extended CONNECT (RFC 8441), whose target has a path. Who forwards it decides which protocols to let through; h2c, for one, would let the
    /// client speak past this proxy's policies.
    pub upgrade: Option<&'b [u8]>,
    /// TE lists `trailers`: the client accepts trailers in the response (RFC 9110 section 6.5.1).
    pub te_trailers: bool,
}

impl<'s, 'b> RequestHead<'s, 'b> {
    /// Whether the client keeps the connection after this request (RFC 9112 section 9.3): HTTP/1.1
    /// unless it says `close`, HTTP/1.0 only if it says `keep-alive`.
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

/// A method that a proxy may have to treat in a way of its own (RFC 9110 section 9, RFC 5789).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Method {
    /// CONNECT.
    Connect,
    /// DELETE.
    Delete,
    /// GET.
    Get,
    /// HEAD.
    Head,
    /// OPTIONS.
    Options,
    /// Any other token; the exact text is kept beside it.
    Other,
    /// PATCH.
    Patch,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// TRACE.
    Trace,
}

impl Method {
    /// Recognises a method, with regard to case.
    #[must_use]
    pub fn of(text: &str) -> Self {
        match text {
            "CONNECT" => Self::Connect,
            "DELETE" => Self::Delete,
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "OPTIONS" => Self::Options,
            "PATCH" => Self::Patch,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "TRACE" => Self::Trace,
            _ => Self::Other,
        }
    }
}

/// The request target in one of its four forms (RFC 9112 section 3.2).
///
/// It holds visible ASCII only, and no fragment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target<'b> {
    /// An absolute URI, as sent to a proxy.
    Absolute {
        /// `http` or `https`, in the case received. Other schemes are refused.
        scheme: &'b str,
        /// A valid, non-empty `host [":" port]`.
        authority: &'b str,
        /// Path and query, which start with `/`. If the URI has neither, `/`, and `*` for OPTIONS
        /// (RFC 9112 section 3.2.4). A URI with a query but no path is refused: its origin-form can't
        /// be had by cutting, and normalised http URIs have a path (RFC 9110 section 4.2.3).
        path: &'b str,
    },
    /// `*`, with OPTIONS only.
    Asterisk,
    /// `host ":" port`, with CONNECT only.
    Authority(&'b str),
    /// Path and query, which start with `/`.
    Origin(&'b str),
}
