//! Answers that are ours: errors, redirects and direct responses (contract section 15.1).
//!
//! This is the one place where internal errors become HTTP.

use bytes::Bytes;
use outrigger_codecs::http1::render::{self, Put};

use crate::access_log::ResponseFlags;
use crate::buffers::{Arena, Chunk};

/// An answer that no upstream gave.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Body,
    /// For 3xx.
    pub(super) location: Option<String>,
    pub(super) flags: ResponseFlags,
    pub(super) details: &'static str,
    /// The connection can't be used any more.
    pub(super) close: bool,
}

/// Its body.
#[derive(Debug)]
pub(super) enum Body {
    Static(&'static str),
    Configured(Bytes),
}

impl Reply {
    /// A reply without body.
    pub(super) fn empty(status: u16, details: &'static str) -> Self {
        Self::text(status, "", ResponseFlags::default(), details)
    }

    /// A reply with a text.
    pub(super) fn text(
        status: u16,
        text: &'static str,
        flags: ResponseFlags,
        details: &'static str,
    ) -> Self {
        Self { status, body: Body::Static(text), location: None, flags, details, close: false }
    }

    /// The same, and the connection closes after it.
    pub(super) fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// The answer to a failed attempt at reaching upstream before it answered.
    pub(super) fn upstream_failure(failure: UpstreamFailure) -> Self {
        let (flag, details, text) = match failure {
            UpstreamFailure::Connect => (
                ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
                "upstream_reset_before_response_started{remote_connection_failure}",
                "upstream connect error or disconnect/reset before headers. reset reason: \
                 remote connection failure",
            ),
            UpstreamFailure::ConnectTimeout => (
                ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
                "upstream_reset_before_response_started{connection_timeout}",
                "upstream connect error or disconnect/reset before headers. reset reason: \
                 connection timeout",
            ),
            UpstreamFailure::Local => (
                ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
                "upstream_reset_before_response_started{local_connection_failure}",
                "upstream connect error or disconnect/reset before headers. reset reason: \
                 local connection failure",
            ),
            UpstreamFailure::Closed => (
                ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
                "upstream_reset_before_response_started{connection_termination}",
                "upstream connect error or disconnect/reset before headers. reset reason: \
                 connection termination",
            ),
            UpstreamFailure::Overflow => (
                ResponseFlags::UPSTREAM_OVERFLOW,
                "upstream_reset_before_response_started{overflow}",
                "upstream connect error or disconnect/reset before headers. reset reason: overflow",
            ),
            UpstreamFailure::Protocol => (
                ResponseFlags::UPSTREAM_PROTOCOL_ERROR,
                "upstream_reset_before_response_started{protocol_error}",
                "upstream connect error or disconnect/reset before headers. reset reason: \
                 protocol error",
            ),
        };
        let status = if failure == UpstreamFailure::Protocol { 502 } else { 503 };
        Self::text(status, text, flag, details)
    }

    /// Length of the body in bytes.
    pub(super) fn body_len(&self) -> usize {
        self.body_bytes().len()
    }

    /// Writes head and body.
    pub(super) fn render(&self, arena: &Arena, frame: &ReplyFrame<'_>) -> (Chunk, usize) {
        let mut head_len = 0;
        let chunk = arena.write(|out| {
            render::status_line(out, self.status, "");
            if let Some(location) = &self.location {
                render::field(out, "location", location.as_bytes());
            }
            if !self.body_bytes().is_empty() {
                render::field(out, "content-type", b"text/plain");
            }
            render::content_length(out, self.body_len() as u64);
            render::field(out, "date", &frame.date);
            if let Some(server) = frame.server {
                render::field(out, "server", server.as_bytes());
            }
            if let Some(id) = frame.request_id {
                render::field(out, "x-request-id", id);
            }
            if self.flags == ResponseFlags::UPSTREAM_OVERFLOW {
                render::field(out, "x-envoy-overloaded", b"true");
            }
            if frame.close {
                render::field(out, "connection", b"close");
            } else if frame.http10 {
                render::field(out, "connection", b"keep-alive");
            }
            out.put(b"\r\n");
            head_len = out.len();
            if !frame.head_only {
                out.put(self.body_bytes());
            }
        });
        (chunk, head_len)
    }

    fn body_bytes(&self) -> &[u8] {
        match &self.body {
            Body::Static(text) => text.as_bytes(),
            Body::Configured(bytes) => bytes,
        }
    }
}

/// What a reply needs to know of the connection it goes to.
pub(super) struct ReplyFrame<'a> {
    pub(super) date: [u8; 29],
    pub(super) server: Option<&'a str>,
    pub(super) request_id: Option<&'a [u8]>,
    pub(super) close: bool,
    /// The client speaks HTTP/1.0 and asked to keep the connection.
    pub(super) http10: bool,
    /// HEAD: no body.
    pub(super) head_only: bool,
}

/// How upstream failed before it answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UpstreamFailure {
    Closed,
    Connect,
    ConnectTimeout,
    /// No socket could be made here.
    Local,
    Overflow,
    Protocol,
}
