//! Both versions of HTTP behind one face, for what must hold in every combination of them.

use outrigger_tests::config::http2_upstream;
use outrigger_tests::http::{Fault, Request, Response};
use outrigger_tests::http2::Exchange;
use outrigger_tests::origin::Peer;
use outrigger_tests::{Client, Config, Http2, Http2Client, Origin, Proxy};
use serde_json::json;

use crate::basics::chunked;

/// A version of HTTP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Version {
    /// 1.1
    Http1,
    /// 2
    Http2,
}

/// What the client speaks, and what the origin speaks.
pub(crate) const COMBINATIONS: [(Version, Version); 4] = [
    (Version::Http2, Version::Http2),
    (Version::Http2, Version::Http1),
    (Version::Http1, Version::Http2),
    (Version::Http1, Version::Http1),
];

/// How a body is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Body<'a> {
    /// There is none.
    None,
    /// With its length.
    Length(&'a [u8]),
    /// Without its length, and with these trailers.
    Unknown(&'a [u8], &'a [(&'a str, &'a str)]),
}

/// A proxy to an origin of that version, which passes trailers on.
pub(crate) fn config(origin: &Origin, version: Version) -> Config {
    let config = Config::to(origin.address())
        .http(json!({"http_protocol_options": {"enable_trailers": true}}));
    match version {
        Version::Http1 => {
            config.tune_cluster(json!({"http_protocol_options": {"enable_trailers": true}}))
        }
        Version::Http2 => config.tune_cluster(http2_upstream(&json!({}))),
    }
}

/// A client of either version.
#[derive(Debug)]
pub(crate) enum AnyClient {
    Http1(Client),
    Http2(Http2Client),
}

impl AnyClient {
    pub(crate) fn connect(proxy: &Proxy, version: Version) -> AnyClient {
        match version {
            Version::Http1 => AnyClient::Http1(proxy.client()),
            Version::Http2 => AnyClient::Http2(proxy.http2()),
        }
    }

    /// A request, and its final response.
    #[track_caller]
    pub(crate) fn ask(
        &mut self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: Body<'_>,
    ) -> Response {
        match self.try_ask(method, path, fields, body) {
            Ok(response) => response,
            Err(fault) => panic!("no response to {method} {path}: {fault:?}"),
        }
    }

    pub(crate) fn try_ask(
        &mut self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: Body<'_>,
    ) -> Result<Response, Fault> {
        match self {
            AnyClient::Http1(client) => {
                client.send(message(&format!("{method} {path} HTTP/1.1"), fields, body, true));
                loop {
                    let response = client.wire().response(method)?;
                    if response.status >= 200 {
                        return Ok(response);
                    }
                }
            }
            AnyClient::Http2(client) => {
                let mut fields = fields.to_vec();
                let length;
                if let Body::Length(bytes) = body {
                    length = bytes.len().to_string();
                    fields.push(("content-length", &length));
                }
                let mut call =
                    client.try_open(method, path, &fields, matches!(body, Body::None))?;
                match body {
                    Body::None => {}
                    Body::Length(bytes) => {
                        call.try_send(bytes)?;
                        call.finish();
                    }
                    Body::Unknown(bytes, trailers) => {
                        call.try_send(bytes)?;
                        match trailers {
                            [] => call.finish(),
                            _ => call.finish_with(trailers),
                        }
                    }
                }
                call.response()
            }
        }
    }
}

/// An HTTP/1.1 message.
fn message(start: &str, fields: &[(&str, &str)], body: Body<'_>, host: bool) -> Vec<u8> {
    let mut head = format!("{start}\r\n");
    if host {
        head.push_str("host: test\r\n");
    }
    for (name, value) in fields {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    match body {
        Body::None => format!("{head}\r\n").into_bytes(),
        Body::Length(bytes) => {
            [format!("{head}content-length: {}\r\n\r\n", bytes.len()).as_bytes(), bytes].concat()
        }
        Body::Unknown(bytes, trailers) => {
            let mut all = format!("{head}transfer-encoding: chunked\r\n\r\n").into_bytes();
            for piece in bytes.chunks(10_000) {
                all.extend(chunked(piece));
            }
            all.extend(b"0\r\n");
            for (name, value) in trailers {
                all.extend(format!("{name}: {value}\r\n").as_bytes());
            }
            all.extend(b"\r\n");
            all
        }
    }
}

/// An origin that answers as the path asks for:
/// `/echo` with what came, its length if that came, and its trailers; `/204` and `/304` with that
/// status; `/hints` with 103 and then 200; `/length` and `/unknown` with a body of known and of
/// unknown length.
pub(crate) fn origin(version: Version) -> Origin {
    match version {
        Version::Http1 => Origin::start(|peer| {
            loop {
                let request = peer.request()?;
                answer_http1(peer, &request)?;
            }
        }),
        Version::Http2 => Origin::http2(Http2::default(), |mut exchange| async move {
            let request = exchange.request().await?;
            answer_http2(&mut exchange, &request).await
        }),
    }
}

fn answer_http1(peer: &mut Peer, request: &Request) -> Result<(), Fault> {
    let ok = "HTTP/1.1 200 OK";
    let has_length = request.headers.has("content-length");
    let trailers: Vec<(&str, &str)> = request.trailers.iter().collect();
    match request.target.as_str() {
        _ if request.method == "HEAD" => peer.send(format!("{ok}\r\ncontent-length: 7\r\n\r\n")),
        "/204" => peer.send("HTTP/1.1 204 No Content\r\nx-status: 204\r\n\r\n"),
        "/304" => peer.send("HTTP/1.1 304 Not Modified\r\netag: \"e\"\r\n\r\n"),
        "/hints" => {
            peer.send("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")?;
            peer.send(message(ok, &[], Body::Length(b"ok"), false))
        }
        "/unknown" => peer.send(message(ok, &[], Body::Unknown(b"unknown", &[]), false)),
        "/length" => peer.send(message(ok, &[], Body::Length(b"length"), false)),
        _ if has_length => peer.send(message(ok, &[], Body::Length(&request.body), false)),
        _ => peer.send(message(ok, &[], Body::Unknown(&request.body, &trailers), false)),
    }
}

async fn answer_http2(exchange: &mut Exchange, request: &Request) -> Result<(), Fault> {
    let length = request.body.len().to_string();
    let length = [("content-length", length.as_str())];
    let has_length = request.headers.has("content-length");
    match request.target.as_str() {
        _ if request.method == "HEAD" => exchange.head(200, &[("content-length", "7")], true),
        "/204" => exchange.head(204, &[("x-status", "204")], true),
        "/304" => exchange.head(304, &[("etag", "\"e\"")], true),
        "/hints" => {
            exchange.interim(103, &[("link", "</a>")])?;
            exchange.answer(200, &[("content-length", "2")], b"ok").await
        }
        "/unknown" => exchange.answer(200, &[], b"unknown").await,
        "/length" => exchange.answer(200, &[("content-length", "6")], b"length").await,
        _ => {
            exchange.head(200, if has_length { &length } else { &[] }, false)?;
            exchange.send(&request.body).await?;
            let trailers: Vec<(&str, &str)> = request.trailers.iter().collect();
            match trailers[..] {
                [] => exchange.finish(),
                _ => exchange.finish_with(&trailers),
            }
        }
    }
}
