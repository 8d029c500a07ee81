//! What generator, proxy and origin speak in a comparison: the protocol variants.
//!
//! The origin's side is always plaintext, as a sidecar's application is. A request's path names the
//! version in which the origin must see it (see [`crate::origin`]), so that every single answer
//! proves the version upstream; the version downstream is proved by the generator's own session and,
//! with TLS, by ALPN. The RPC protocols are the same on both sides: nobody turns one into another.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::{
    http2::wire::MESSAGE_PREFIX_BYTES,
    protocol::{
        AnyProtocol,
        http1::{Http1, Http1Options},
        http2::{Call, Http2, Http2Options},
        rpc::{RpcLoad, RpcOptions},
    },
    rpc::Rpc,
    tls::{Alpn, TlsClient},
};

/// The variants. Names are those of the results, except that `http1` may be given as `h1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum ProtocolName {
    /// HTTP/1.1 with keep-alive on both sides.
    #[value(alias = "h1")]
    Http1,
    /// HTTP/2 with prior knowledge on both sides.
    H2,
    /// HTTP/2 with prior knowledge downstream, HTTP/1.1 upstream.
    #[value(name = "h2-h1")]
    H2H1,
    /// Unary gRPC calls, HTTP/2 with prior knowledge on both sides.
    Grpc,
    /// HTTP/1.1 with keep-alive over TLS 1.3 downstream, HTTP/1.1 upstream.
    Https,
    /// As `https`, with a new connection and a full handshake for each request.
    HttpsHandshake,
    /// HTTP/2 by ALPN over TLS 1.3 downstream, HTTP/1.1 upstream.
    H2Tls,
    /// As `h2-tls`, with a new connection and a full handshake for each request.
    H2TlsHandshake,
    /// SOFABolt v1 on both sides.
    Bolt,
    /// Dubbo 2 with hessian2 on both sides.
    Dubbo,
}

/// What is spoken: a version of HTTP, or an RPC protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Bolt or Dubbo.
    Rpc(Rpc),
}

/// What a variant consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sides {
    /// Between generator and proxy.
    pub downstream: Version,
    /// Between proxy and origin.
    pub upstream: Version,
    /// TLS downstream.
    pub tls: bool,
    /// Requests are gRPC calls.
    pub grpc: bool,
    /// Every request has a connection of its own.
    pub fresh: bool,
}

/// What a first request found in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Negotiated {
    /// Version between generator and proxy.
    pub downstream: String,
    /// Version in which the origin saw the request.
    pub upstream: String,
    /// TLS downstream: version, suite, group, ALPN.
    pub tls: Option<String>,
}

/// A request of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Response body, message of a gRPC response, or result of an RPC call.
    pub body_bytes: usize,
    /// Request body; none when `None`, except that calls of gRPC and RPC then have one as long as
    /// the response's.
    pub post_bytes: Option<usize>,
    /// Streams, or calls in flight, per connection, where the protocol has them.
    pub streams: usize,
}

/// A load, and how its connections are encrypted.
#[derive(Debug, Clone)]
pub struct Traffic {
    /// What is sent and expected.
    pub protocol: AnyProtocol,
    /// TLS, if any.
    pub tls: Option<TlsClient>,
}

impl ProtocolName {
    /// Name in options and results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::H2 => "h2",
            Self::H2H1 => "h2-h1",
            Self::Grpc => "grpc",
            Self::Https => "https",
            Self::HttpsHandshake => "https-handshake",
            Self::H2Tls => "h2-tls",
            Self::H2TlsHandshake => "h2-tls-handshake",
            Self::Bolt => "bolt",
            Self::Dubbo => "dubbo",
        }
    }

    /// The variant of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::value_variants().iter().copied().find(|variant| variant.name() == name)
    }

    /// What it consists of.
    #[must_use]
    pub fn sides(self) -> Sides {
        use Version::{Http1, Http2};
        let sides = |downstream, upstream| Sides {
            downstream,
            upstream,
            tls: false,
            grpc: false,
            fresh: false,
        };
        match self {
            Self::Http1 => sides(Http1, Http1),
            Self::H2 => sides(Http2, Http2),
            Self::H2H1 => sides(Http2, Http1),
            Self::Grpc => Sides { grpc: true, ..sides(Http2, Http2) },
            Self::Https => Sides { tls: true, ..sides(Http1, Http1) },
            Self::HttpsHandshake => Sides { tls: true, fresh: true, ..sides(Http1, Http1) },
            Self::H2Tls => Sides { tls: true, ..sides(Http2, Http1) },
            Self::H2TlsHandshake => Sides { tls: true, fresh: true, ..sides(Http2, Http1) },
            Self::Bolt => sides(Version::Rpc(Rpc::Bolt), Version::Rpc(Rpc::Bolt)),
            Self::Dubbo => sides(Version::Rpc(Rpc::Dubbo), Version::Rpc(Rpc::Dubbo)),
        }
    }
}

impl Version {
    /// Name in results, as ALPN has it where it has one.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "h2",
            Self::Rpc(rpc) => rpc.name(),
        }
    }

    /// First segment of the paths that the origin answers only in this version; RPC has no paths.
    #[must_use]
    pub fn segment(self) -> &'static str {
        match self {
            Self::Http1 => "h1",
            Self::Http2 => "h2",
            Self::Rpc(rpc) => rpc.name(),
        }
    }
}

impl Sides {
    /// Whether requests of one connection can overlap.
    #[must_use]
    pub fn has_streams(self) -> bool {
        self.downstream != Version::Http1 && !self.fresh
    }

    /// The RPC protocol, if it is one.
    #[must_use]
    pub fn rpc(self) -> Option<Rpc> {
        match self.downstream {
            Version::Rpc(rpc) => Some(rpc),
            Version::Http1 | Version::Http2 => None,
        }
    }

    /// The same, but straight to the origin: what is downstream is all there is.
    #[must_use]
    pub fn direct(self) -> Self {
        Self { upstream: self.downstream, ..self }
    }

    /// What a first request must find.
    #[must_use]
    pub fn negotiated(self, tls: Option<String>) -> Negotiated {
        Negotiated {
            downstream: self.downstream.name().to_owned(),
            upstream: self.upstream.name().to_owned(),
            tls,
        }
    }

    /// The load on a server at `authority`.
    ///
    /// # Errors
    ///
    /// When the TLS library refuses the settings, which are constant.
    pub fn traffic(self, authority: &str, request: Request) -> Result<Traffic, rustls::Error> {
        let Request { body_bytes, post_bytes, streams } = request;
        let path = format!("/{}/{body_bytes}", self.upstream.segment());
        let tls = match (self.tls, self.downstream) {
            (false, _) | (_, Version::Rpc(_)) => None,
            (true, Version::Http1) => Some(TlsClient::new(Alpn::Http1)?),
            (true, Version::Http2) => Some(TlsClient::new(Alpn::Http2)?),
        };
        let protocol = match self.downstream {
            Version::Http1 => AnyProtocol::Http1(Http1::new(&Http1Options {
                host: authority.to_owned(),
                path,
                post_bytes,
                expected_body: Some(body_bytes as u64),
                close: self.fresh,
            })),
            Version::Http2 => {
                let call = match post_bytes {
                    _ if self.grpc => Call::Grpc(post_bytes.unwrap_or(body_bytes)),
                    None => Call::Get,
                    Some(bytes) => Call::Post(bytes),
                };
                let prefix = if self.grpc { MESSAGE_PREFIX_BYTES } else { 0 };
                AnyProtocol::Http2(Http2::new(Http2Options {
                    secure: self.tls,
                    authority: authority.to_owned(),
                    path,
                    streams: if self.fresh { 1 } else { streams },
                    call,
                    expected_body: Some((body_bytes + prefix) as u64),
                    close: self.fresh,
                }))
            }
            Version::Rpc(rpc) => AnyProtocol::Rpc(RpcLoad::new(RpcOptions {
                rpc,
                request_bytes: post_bytes.unwrap_or(body_bytes),
                response_bytes: body_bytes,
                exact: true,
                in_flight: if self.fresh { 1 } else { streams },
                close: self.fresh,
            })),
        };
        Ok(Traffic { protocol, tls })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Protocol;

    #[test]
    fn names_are_those_of_the_options() {
        for variant in ProtocolName::value_variants() {
            let option = variant.to_possible_value().unwrap();
            assert_eq!(option.get_name(), variant.name());
            assert_eq!(ProtocolName::named(variant.name()), Some(*variant));
        }
        assert_eq!(ProtocolName::from_str("h1", false), Ok(ProtocolName::Http1));
        assert_eq!(ProtocolName::named("h3"), None);
    }

    #[test]
    fn traffic_is_what_the_name_says() {
        let request = Request { body_bytes: 128, post_bytes: None, streams: 16 };
        for variant in ProtocolName::value_variants() {
            let sides = variant.sides();
            let traffic = sides.traffic("a", request).unwrap();
            let http2 = matches!(traffic.protocol, AnyProtocol::Http2(_));
            assert_eq!(http2, sides.downstream == Version::Http2, "{variant:?}");
            let rpc = matches!(traffic.protocol, AnyProtocol::Rpc(_));
            assert_eq!(rpc, sides.rpc().is_some(), "{variant:?}");
            assert_eq!(traffic.protocol.slots(), if sides.has_streams() { 16 } else { 1 });
            assert_eq!(
                traffic.tls.is_some(),
                variant.name().contains("tls") || variant.name().contains("https")
            );
            assert_eq!(sides.direct().upstream, sides.downstream);
        }
    }
}
