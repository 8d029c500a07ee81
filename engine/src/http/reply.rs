//! Answers that are ours: errors, redirects and direct responses (contract section 15.1).
//!
//! This is the one place where internal errors become HTTP.

use bytes::Bytes;
use outrigger_codecs::grpc::percent_encode;
use outrigger_codecs::http::{BodyFraming, FieldKind, Put, decimal};
use outrigger_codecs::http1::{reason_phrase, render};
use outrigger_codecs::soap::{FaultSide, SoapVersion, put_fault};
use outrigger_xds::snapshot::{HeaderCase, HeaderOp};

use crate::access_log::ResponseFlags;
use crate::buffers::{Arena, Chunk};

use super::edits::EditOutcome;
use super::filters::Filtered;
use super::head::{FieldWriter, HeadSink, Text};

/// An answer that no upstream gave.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Body,
    /// For 3xx.
    pub(super) location: Option<String>,
    /// The path of the request after a redirect's rewrite, which is what logs show.
    pub(super) rewritten_path: Option<String>,
    pub(super) flags: ResponseFlags,
    pub(super) details: &'static str,
    /// The connection can't be used any more.
    pub(super) close: bool,
    /// The route has no say in its headers.
    pub(super) unedited: bool,
    /// What a gRPC client is told, where that is not what stands for the status.
    pub(super) grpc_status: Option<u64>,
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
        Self {
            status,
            body: Body::Static(text),
            location: None,
            rewritten_path: None,
            flags,
            details,
            close: false,
            unedited: false,
            grpc_status: None,
        }
    }

    /// The same, and the connection closes after it.
    pub(super) fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// The same, without the header edits of its route.
    pub(super) fn unedited(mut self) -> Self {
        self.unedited = true;
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
            UpstreamFailure::Reset => (
                ResponseFlags::UPSTREAM_REMOTE_RESET,
                "upstream_reset_before_response_started{remote_reset}",
                "upstream connect error or disconnect/reset before headers. reset reason: remote \
                 reset",
            ),
            UpstreamFailure::Refused => (
                ResponseFlags::UPSTREAM_REMOTE_RESET,
                "upstream_reset_before_response_started{remote_refused_stream_reset}",
                "upstream connect error or disconnect/reset before headers. reset reason: remote \
                 refused stream reset",
            ),
            UpstreamFailure::TryTimeout => (
                ResponseFlags::UPSTREAM_REQUEST_TIMEOUT,
                "upstream_per_try_timeout",
                "upstream request timeout",
            ),
            UpstreamFailure::TryIdle => (
                ResponseFlags::UPSTREAM_REQUEST_TIMEOUT,
                "upstream_per_try_idle_timeout",
                "upstream request timeout",
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
        let status = match failure {
            UpstreamFailure::Protocol => 502,
            UpstreamFailure::TryTimeout | UpstreamFailure::TryIdle => 504,
            _ => 503,
        };
        Self::text(status, text, flag, details)
    }

    /// Whether a SOAP client is told the same in a fault. What the configuration says in its own words
    /// goes out in these.
    pub(super) fn can_be_fault(&self) -> bool {
        let is_configured = self.details == DIRECT_RESPONSE && !self.body_bytes().is_empty();
        self.status >= 400 && !is_configured
    }

    /// The same reply with its text in a fault.
    pub(super) fn to_fault(&self, version: SoapVersion) -> Self {
        let side = match self.status {
            // These may go well another time, as they are.
            408 | 429 => FaultSide::Receiver,
            400..500 => FaultSide::Sender,
            _ => FaultSide::Receiver,
        };
        let reason = match self.body_bytes() {
            b"" => reason_phrase(self.status).as_bytes(),
            text => text,
        };
        let mut document = Vec::new();
        put_fault(version, side, reason, &mut document);
        Self {
            status: self.status,
            body: Body::Configured(document.into()),
            location: self.location.clone(),
            rewritten_path: None,
            flags: self.flags,
            details: self.details,
            close: self.close,
            unedited: self.unedited,
            grpc_status: None,
        }
    }

    /// Whether the reply has a header of its own called `name`.
    pub(super) fn has(&self, name: &str, frame: &ReplyFrame<'_>) -> bool {
        match name {
            "content-type" => frame.form != ReplyForm::Http || !self.body_bytes().is_empty(),
            "grpc-status" => self.grpc_status_sent(frame.form).is_some(),
            "date" => true,
            "location" => self.location.is_some(),
            "server" => frame.server.is_some(),
            "x-request-id" => frame.request_id.is_some(),
            _ => false,
        }
    }

    /// The status that the client gets: gRPC has its own inside a 200.
    pub(super) fn status_for(&self, form: ReplyForm) -> u16 {
        if form == ReplyForm::Grpc { 200 } else { self.status }
    }

    /// The gRPC status that the client gets.
    pub(super) fn grpc_status_sent(&self, form: ReplyForm) -> Option<u64> {
        let told = match form {
            ReplyForm::Http | ReplyForm::Soap(_) => false,
            ReplyForm::Grpc => true,
            // As Envoy's filter, which has nothing to make one of where there is no body.
            ReplyForm::GrpcWeb(_) => !self.body_bytes().is_empty(),
        };
        told.then(|| self.grpc_status.unwrap_or_else(|| grpc_status(self.status)))
    }

    /// Writes head and body for HTTP/1, with `edits` worked out for it. Returns them and the head's
    /// length.
    pub(super) fn render(
        &self,
        arena: &Arena,
        case: HeaderCase,
        frame: &ReplyFrame<'_>,
        ops: &[HeaderOp],
        edits: &EditOutcome,
    ) -> (Chunk, usize) {
        let mut head_len = 0;
        let chunk = arena.write(|out| {
            render::status_line(out, self.status_for(frame.form), "");
            let mut sink = Text { out: &mut *out, case };
            self.write_fields(&mut sink, frame, ops, edits);
            if let Some(length) = self.length(frame) {
                sink.put_framing(BodyFraming::Length(length));
            }
            if frame.close {
                sink.put_field("connection", b"close", FieldKind::Connection, false);
            } else if frame.http10 {
                sink.put_field("connection", b"keep-alive", FieldKind::Connection, false);
            }
            out.put(b"\r\n");
            head_len = out.len();
            out.put(self.body_sent(frame));
        });
        (chunk, head_len)
    }

    /// Writes the fields but for the framing's.
    pub(super) fn write_fields<S: HeadSink>(
        &self,
        sink: &mut S,
        frame: &ReplyFrame<'_>,
        ops: &[HeaderOp],
        edits: &EditOutcome,
    ) {
        let mut writer = FieldWriter { sink, ops, edits };
        if let Some(location) = &self.location {
            writer.field("location", location.as_bytes());
        }
        match frame.form {
            ReplyForm::Http if self.body_bytes().is_empty() => {}
            ReplyForm::Http => writer.field("content-type", b"text/plain"),
            ReplyForm::Soap(version) => {
                writer.field("content-type", version.content_type().as_bytes());
            }
            // Decided by the protocol, after all edits.
            ReplyForm::Grpc => writer.verbatim("content-type", b"application/grpc"),
            ReplyForm::GrpcWeb(content_type) => {
                writer.verbatim("content-type", content_type.as_bytes());
            }
        }
        if let Some(status) = self.grpc_status_sent(frame.form) {
            self.write_grpc_status(status, &mut writer);
        }
        writer.field("date", &frame.date);
        if let Some(server) = frame.server {
            writer.field("server", server.as_bytes());
        }
        if let Some(id) = frame.request_id {
            writer.field("x-request-id", id);
        }
        if self.flags == ResponseFlags::UPSTREAM_OVERFLOW {
            writer.field("x-envoy-overloaded", b"true");
        }
        let is_grpc = matches!(frame.form, ReplyForm::Grpc | ReplyForm::GrpcWeb(_));
        writer.additions_but(|name| {
            (is_grpc && name == "content-type") || frame.filtered.overwrites(name)
        });
        frame.filtered.write_response(&mut writer);
    }

    /// The status of a trailers-only gRPC response, which stands in its header.
    fn write_grpc_status<S: HeadSink>(&self, status: u64, writer: &mut FieldWriter<'_, S>) {
        let mut digits = [0; 20];
        writer.field("grpc-status", decimal(status, &mut digits));
        let mut message = Vec::new();
        percent_encode(self.body_bytes(), &mut message);
        if !message.is_empty() {
            writer.field("grpc-message", &message);
        }
    }

    /// The length to announce. RFC 9110 section 8.6: a 204 has none.
    pub(super) fn length(&self, frame: &ReplyFrame<'_>) -> Option<u64> {
        match frame.form {
            ReplyForm::Grpc => Some(0),
            _ if self.status == 204 => None,
            ReplyForm::GrpcWeb(_) => Some(0),
            ReplyForm::Http | ReplyForm::Soap(_) => Some(self.body_bytes().len() as u64),
        }
    }

    /// The body that goes out.
    pub(super) fn body_sent(&self, frame: &ReplyFrame<'_>) -> &[u8] {
        let has_body = matches!(frame.form, ReplyForm::Http | ReplyForm::Soap(_));
        if !has_body || frame.head_only || self.status == 204 {
            return &[];
        }
        self.body_bytes()
    }

    /// Adds why no TLS with upstream could be had to the text.
    pub(super) fn add_transport_failure(&mut self, reason: &str) {
        let text = String::from_utf8_lossy(self.body_bytes());
        let text = format!("{text}, transport failure reason: {reason}");
        self.body = Body::Configured(text.into());
    }

    /// The text, whichever form the body goes out in.
    pub(super) fn body_bytes(&self) -> &[u8] {
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
    pub(super) form: ReplyForm,
    /// What filters add.
    pub(super) filtered: &'a Filtered,
}

/// In whose terms a reply says what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplyForm {
    /// HTTP's.
    Http,
    /// gRPC's: a head with a status of its own inside a 200.
    Grpc,
    /// gRPC-Web's: HTTP's status, and gRPC's in the head. With the content type.
    GrpcWeb(&'static str),
    /// SOAP's: HTTP's status, and a fault as the body.
    Soap(SoapVersion),
}

/// Details of replies that a route has configured.
pub(super) const DIRECT_RESPONSE: &str = "direct_response";

/// The gRPC status that stands for an HTTP status (contract section 15.1, last row). Success of HTTP is
/// none of gRPC's.
pub(super) fn grpc_status(http: u16) -> u64 {
    match http {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
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
    /// It did nothing, and said so.
    Refused,
    Reset,
    /// One try took too long, as a whole or without a sign of life.
    TryIdle,
    TryTimeout,
}
