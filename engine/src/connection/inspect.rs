//! The listener filters: what a connection's first bytes say of it (contract section 2).
//!
//! Bytes that were looked at are put back, so that whoever serves the connection sees all of them.

use outrigger_codecs::http2::PREFACE;
use outrigger_codecs::tls::{HelloInspector, Inspected};
use outrigger_xds::snapshot::{Inspection, PortPredicate};

use crate::buffers::Chunk;

/// What was found out.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// TLS, as its ClientHello shows.
    pub(super) is_tls: bool,
    /// The server name that the client asks for.
    pub(super) server_name: Option<Box<str>>,
    /// What ALPN offers, or the version of HTTP that was detected.
    pub(super) protocols: Vec<Box<[u8]>>,
}

impl Findings {
    /// These, or where nothing was found the `others`.
    pub(super) fn or(self, others: Self) -> Self {
        if self.is_tls || !self.protocols.is_empty() { self } else { others }
    }
}

/// Looks at the beginning of one connection.
pub(super) struct Inspector {
    tls: Option<HelloInspector>,
    close_on_error: bool,
    http: bool,
    seen: Vec<u8>,
}

/// How far the inspection is.
#[derive(Debug)]
pub(super) enum Progress {
    /// More bytes are needed.
    NeedMore,
    /// All that can be found out.
    Done(Findings),
    /// The connection is to be closed.
    Refused,
}

impl Inspector {
    /// An inspector for a connection to `port`; nothing when no filter looks at it.
    pub(super) fn new(inspection: &Inspection, port: Option<u16>) -> Option<Self> {
        let tls = inspection.tls.as_ref().filter(|tls| looks(&tls.disabled, port));
        let close_on_error = tls.is_some_and(|tls| tls.close_on_parse_error);
        let tls = tls.map(|tls| HelloInspector::new(tls.max_client_hello_bytes as usize));
        let http = inspection.http.as_ref().is_some_and(|http| looks(&http.disabled, port));
        (tls.is_some() || http).then(|| Self { tls, close_on_error, http, seen: Vec::new() })
    }

    /// Looks at more bytes.
    pub(super) fn look_at(&mut self, chunk: &Chunk) -> Progress {
        if self.http {
            self.seen.extend_from_slice(chunk);
        }
        if let Some(inspector) = &mut self.tls {
            match inspector.push(chunk) {
                Inspected::NeedMore => return Progress::NeedMore,
                Inspected::Hello(hello) => {
                    return Progress::Done(Findings {
                        is_tls: true,
                        server_name: hello.server_name().map(Box::from),
                        protocols: hello.alpn().map(Box::from).collect(),
                    });
                }
                Inspected::Malformed(_) if self.close_on_error => return Progress::Refused,
                Inspected::Malformed(_) | Inspected::NotTls => {}
            }
        }
        if !self.http {
            return Progress::Done(Findings::default());
        }
        match http_version(&self.seen) {
            Detected::NeedMore => Progress::NeedMore,
            Detected::NotHttp => Progress::Done(Findings::default()),
            Detected::Version(version) => {
                Progress::Done(Findings { protocols: vec![version.into()], ..Findings::default() })
            }
        }
    }
}

/// Whether a filter looks at connections to `port`, by its `filter_disabled`.
pub(super) fn looks(disabled: &Option<PortPredicate>, port: Option<u16>) -> bool {
    !disabled.as_ref().is_some_and(|predicate| predicate.holds(port))
}

enum Detected {
    NeedMore,
    NotHttp,
    Version(&'static [u8]),
}

/// The version of HTTP that a client in plain text speaks.
fn http_version(seen: &[u8]) -> Detected {
    if seen.len() < PREFACE.len() {
        if PREFACE.starts_with(seen) {
            return Detected::NeedMore;
        }
    } else if seen.starts_with(PREFACE) {
        return Detected::Version(b"h2c");
    }
    let Some(end) = memchr::memchr(b'\n', seen) else {
        let plausible = seen.len() < REQUEST_LINE_MAX && seen[0].is_ascii_graphic();
        return if plausible { Detected::NeedMore } else { Detected::NotHttp };
    };
    let line = seen[..end].strip_suffix(b"\r").unwrap_or(&seen[..end]);
    if line.ends_with(b" HTTP/1.1") {
        Detected::Version(b"http/1.1")
    } else if line.ends_with(b" HTTP/1.0") {
        Detected::Version(b"http/1.0")
    } else {
        Detected::NotHttp
    }
}

/// A longer first line is no reason to go on looking.
const REQUEST_LINE_MAX: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use outrigger_xds::snapshot::{HttpInspector, TlsInspector};

    use super::*;
    use crate::buffers::Arena;

    fn inspect(pieces: &[&[u8]]) -> String {
        let inspection = Inspection {
            tls: Some(TlsInspector {
                max_client_hello_bytes: 16384,
                close_on_parse_error: true,
                disabled: None,
            }),
            http: Some(HttpInspector { disabled: None }),
            ..Inspection::default()
        };
        let arena = Arena::new();
        let mut inspector = Inspector::new(&inspection, Some(80)).unwrap();
        for piece in pieces {
            match inspector.look_at(&arena.copy(piece)) {
                Progress::NeedMore => {}
                Progress::Refused => return "refused".into(),
                Progress::Done(findings) => {
                    let protocol = findings.protocols.first().cloned().unwrap_or_default();
                    return String::from_utf8_lossy(&protocol).into_owned();
                }
            }
        }
        "need more".into()
    }

    #[test]
    fn plain_text_versions_are_told_apart_however_they_arrive() {
        for (text, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], "http/1.1"),
            (b"GET / HTTP/1.0\n", "http/1.0"),
            (PREFACE, "h2c"),
            (b"PRI * HTTP/1.1\r\n", "http/1.1"),
            (b"nonsense\n", ""),
            (b"\x00\x01\x02", ""),
            (b"GET /", "need more"),
        ] {
            assert_eq!(inspect(&[text]), expected, "{text:?}");
            let bytes: Vec<&[u8]> = text.chunks(1).collect();
            assert_eq!(inspect(&bytes), expected, "{text:?} byte by byte");
        }
    }

    #[test]
    fn a_filter_can_be_disabled_by_port() {
        let disabled = PortPredicate::Or(vec![
            PortPredicate::Range(1, 80),
            PortPredicate::Not(Box::new(PortPredicate::Any)),
        ]);
        let inspection = Inspection {
            http: Some(HttpInspector { disabled: Some(disabled) }),
            ..Inspection::default()
        };
        assert!(Inspector::new(&inspection, Some(79)).is_none());
        assert!(Inspector::new(&inspection, Some(80)).is_some());
        // A Unix socket is in every range, as in Envoy.
        assert!(Inspector::new(&inspection, None).is_none());
    }
}
