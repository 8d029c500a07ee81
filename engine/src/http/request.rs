//! A request as it is routed: what its head says, after the rules of the connection manager.
//!
//! Invariant: what is matched is what is forwarded, unless the route rewrites it.

use std::borrow::Cow;
use std::net::SocketAddr;

use outrigger_codecs::http::{Field, FieldKind, RequestHead, Target};
use outrigger_xds::snapshot::{DestinationRules, RequestView, SchemeRule, StripPort, Template};

use crate::access_log::{Headers, Record};
use crate::cluster::ClusterRuntime;

use super::begin::Arrival;
use super::exchange::Exchange;
use super::filters::{Wish, decide};
use super::head::uuid;
use super::origin::{Origin, is_believed};
use super::path::{Normalized, normalize};
use super::reply::Reply;
use super::soap::SoapHeaders;

/// A request as it is routed.
pub(super) struct Request<'a> {
    pub(super) arrival: &'a Arrival<'a>,
    pub(super) head: &'a RequestHead<'a, 'a>,
    pub(super) authority: &'a str,
    pub(super) path: Cow<'a, str>,
    pub(super) scheme: &'a str,
    pub(super) forwarded_proto: &'a [u8],
    pub(super) origin: Origin,
    soap: Option<SoapHeaders<'a>>,
}

impl<'a> Request<'a> {
    pub(super) fn new(
        arrival: &'a Arrival<'a>,
        head: &'a RequestHead<'a, 'a>,
        soap: Option<SoapHeaders<'a>>,
    ) -> Result<Self, Reply> {
        let http = arrival.http;
        let origin = Origin::of(&http.config.origin, arrival.info.ends.peer, head.fields);
        let raw_path = match &head.target {
            Target::Origin(path) | Target::Absolute { path, .. } => path,
            Target::Asterisk => "*",
            Target::Authority(_) => "",
        };
        let path = match normalize(&http.config.path, raw_path) {
            Normalized::Path(path) => path,
            Normalized::Rejected => {
                http.stats.downstream_rq_failed_path_normalization.inc();
                return Err(Reply::empty(400, "path_normalization_failed").closing());
            }
            Normalized::Redirect(path) => {
                http.stats.downstream_rq_redirected_with_normalized_path.inc();
                let mut reply = Reply::empty(307, "redirected_with_normalized_path");
                reply.location = Some(path);
                return Err(reply);
            }
        };
        let trusted =
            !http.config.origin.use_remote_address || http.config.origin.xff_num_trusted_hops > 0;
        let sent = head.fields.iter().find(|field| field.kind == FieldKind::XForwardedProto);
        let forwarded_proto = match sent {
            Some(field) if trusted && !field.value.is_empty() => field.value,
            _ => arrival.info.scheme().as_bytes(),
        };
        let scheme = match (&http.config.scheme, head.scheme) {
            (SchemeRule::Overwrite(scheme), _) => scheme,
            (_, Some(scheme)) => scheme,
            (_, None) if forwarded_proto.eq_ignore_ascii_case(b"https") => "https",
            (_, None) => "http",
        };
        let authority = match (head.authority, &http.config.http1.default_host_for_http_10) {
            ("", Some(host)) => host,
            (authority, _) => authority,
        };
        let authority = strip_authority(arrival, authority);
        Ok(Self { arrival, head, authority, path, scheme, forwarded_proto, origin, soap })
    }

    /// Its header fields, as they came.
    pub(super) fn fields(&self) -> &[Field<'a>] {
        self.head.fields
    }

    /// A header field, as it came.
    pub(super) fn field(&self, name: &str) -> Option<&Field<'a>> {
        self.head.field(name)
    }

    /// Where the client means to go: what it says, where that is believed, else where it connected to.
    pub(super) fn destination(
        &self,
        rules: &DestinationRules,
        cluster: &ClusterRuntime,
    ) -> Option<SocketAddr> {
        let said = rules.header.as_ref().and_then(|name| self.header_values(name).next());
        let Some(said) = said else { return self.arrival.info.ends.original };
        let address = std::str::from_utf8(said).ok().and_then(|text| text.trim().parse().ok());
        let address = address.filter(|address: &SocketAddr| address.port() != 0);
        if address.is_none() {
            cluster.stats.original_dst_host_invalid.inc();
        }
        address.or(self.arrival.info.ends.original)
    }

    /// The request id that goes upstream, with whether the request is to be traced.
    pub(super) fn request_id(&self, exchange: &mut Exchange) -> Option<RequestId<'a>> {
        let id = self.own_or_sent_id(exchange)?;
        let config = &self.arrival.http.config;
        let Some(tracing) = &config.tracing else { return Some(id) };
        let has = |name| self.head.field(name).is_some_and(|it| is_believed(self.origin, it));
        let wish = Wish {
            client: has("x-client-trace-id"),
            force: has("x-envoy-force-trace"),
            is_trusted: !self.origin.edge,
        };
        let random = self.arrival.shard.random();
        let decided = decide(tracing, config.request_id, wish, random, id.as_bytes());
        let Some((is_traced, text)) = decided else { return Some(id) };
        exchange.facts.is_traced = is_traced;
        exchange.request_id = exchange.request_id.map(|_| text);
        Some(RequestId::Made(text))
    }

    /// The request id, and whether it is the client's.
    fn own_or_sent_id(&self, exchange: &mut Exchange) -> Option<RequestId<'a>> {
        let rules = &self.arrival.http.config.request_id;
        let sent = self.head.fields.iter().find(|field| field.kind == FieldKind::XRequestId);
        let replace = self.origin.edge && !rules.preserve_external;
        if let Some(sent) = sent
            && !(rules.generate && replace)
        {
            return Some(RequestId::Sent(sent.value));
        }
        if !rules.generate {
            return None;
        }
        let shard = self.arrival.shard;
        let (bits, text) = uuid(shard.random(), shard.random());
        exchange.facts.stream_id = bits;
        exchange.request_id = Some(text);
        Some(RequestId::Made(text))
    }

    /// A template filled in from the request.
    pub(super) fn template(&self, template: &Template) -> Vec<u8> {
        let mut out = Vec::new();
        let record = Record::default();
        let mut logger = self.arrival.shard.logger.borrow_mut();
        logger.renderer().template(template, &record, &InboundHeaders(self), b"", &mut out);
        out
    }
}

/// A request's id.
#[derive(Clone, Copy)]
pub(super) enum RequestId<'a> {
    /// By this proxy.
    Made([u8; 36]),
    /// By the client.
    Sent(&'a [u8]),
}

impl RequestId<'_> {
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Made(text) => text,
            Self::Sent(value) => value,
        }
    }
}

impl RequestView for Request<'_> {
    fn method(&self) -> &[u8] {
        self.head.method_text.as_bytes()
    }

    fn scheme(&self) -> &[u8] {
        self.scheme.as_bytes()
    }

    fn authority(&self) -> &[u8] {
        self.authority.as_bytes()
    }

    fn path_and_query(&self) -> &[u8] {
        self.path.as_bytes()
    }

    fn is_internal(&self) -> bool {
        self.origin.internal
    }

    fn client_certificate_presented(&self) -> bool {
        self.arrival.info.client_certificate().is_some()
    }

    fn client_certificate_validated(&self) -> bool {
        self.arrival.info.client_certificate().is_some_and(|certificate| certificate.verified)
    }

    fn header_values<'v>(&'v self, name: &str) -> impl Iterator<Item = &'v [u8]> {
        let own = match &self.soap {
            _ if name == "x-forwarded-proto" => Some(Some(self.forwarded_proto)),
            Some(soap) => soap.value(name),
            None => None,
        };
        let sent = self
            .head
            .fields
            .iter()
            .filter(move |field| own.is_none() && field.name.eq_ignore_ascii_case(name));
        own.flatten().into_iter().chain(sent.map(|field| field.value))
    }
}

/// Cuts the port or the last dot off, as configured.
fn strip_authority<'a>(arrival: &Arrival<'_>, authority: &'a str) -> &'a str {
    let config = &arrival.http.config;
    let authority = match config.strip_port {
        StripPort::Never => authority,
        rule => match split_port(authority) {
            (host, Some(port))
                if rule == StripPort::Any || arrival.info.ends.port() == port.parse().ok() =>
            {
                host
            }
            _ => authority,
        },
    };
    match authority.strip_suffix('.') {
        Some(stripped) if config.strip_trailing_host_dot => stripped,
        _ => authority,
    }
}

/// Host and port of an authority. Brackets keep the colons of IPv6 together.
pub(super) fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// The headers of a request as it came.
struct InboundHeaders<'a>(&'a Request<'a>);

impl Headers for InboundHeaders<'_> {
    fn request(&self, name: &str) -> Option<&[u8]> {
        match name {
            ":method" => Some(self.0.method()),
            ":path" => Some(self.0.path_and_query()),
            ":authority" | "host" => Some(self.0.authority()),
            ":scheme" => Some(self.0.scheme()),
            _ => self.0.head.field(name).map(|field| field.value),
        }
    }

    fn response(&self, _name: &str) -> Option<&[u8]> {
        None
    }

    fn trailer(&self, _name: &str) -> Option<&[u8]> {
        None
    }
}
