//! One way to judge what a peer's mistake leads to, however its bytes arrive.

use outrigger_codecs::http2::{Config, Connection, ConnectionCause, Reason, ResetBy, StreamCause};

use crate::frames::{GOAWAY, RST_STREAM, Told, feed_pieces, sent};

/// What a peer's mistake leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fate {
    /// The connection ends.
    Connection(ConnectionCause),
    /// RST_STREAM for the stream, which its owner is told of if it knew of it.
    Stream(u32, StreamCause),
    /// Nothing is told and nothing is sent.
    Ignored,
}

/// Feeds `input` to `connection` in three ways and finds the one fate that it has.
pub(crate) fn fate(name: &str, make: &dyn Fn() -> Connection, input: &[u8]) -> (Fate, Vec<Told>) {
    let mut fates = [usize::MAX / 2, 1, 7].into_iter().map(|piece_len| {
        let mut connection = make();
        let mut told = Vec::new();
        let result = feed_pieces(&mut connection, input, 0, || piece_len, &mut told);
        let sent = sent(&mut connection);
        let fate = match result {
            Err(error) => {
                assert_eq!(error.reason, error.cause.reason());
                let last = sent.last().expect("a goaway");
                assert_eq!(last.kind, GOAWAY, "{name}");
                assert_eq!(last.payload[4..], error.reason.0.to_be_bytes(), "{name}");
                assert_eq!(connection.receive(b"", 0), Err(error), "{name}: the error lasts");
                assert!(!connection.has_output(), "{name}: one goaway is enough");
                Fate::Connection(error.cause)
            }
            Ok(()) => match sent.iter().find(|frame| frame.kind == RST_STREAM) {
                Some(reset) => {
                    let by_us = told.iter().find_map(|told| match told {
                        Told::Reset { id, reason, by: ResetBy::Us(cause) } => {
                            assert_eq!((*id, *reason), (reset.stream, cause.reason()), "{name}");
                            Some(*cause)
                        }
                        _ => None,
                    });
                    let code =
                        u32::from_be_bytes(reset.payload[..].try_into().expect("four bytes"));
                    let untold = || match Reason(code) {
                        Reason::STREAM_CLOSED => StreamCause::FrameOnClosedStream,
                        Reason::REFUSED_STREAM => StreamCause::Refused,
                        Reason::FRAME_SIZE_ERROR => StreamCause::PriorityLength,
                        Reason::PROTOCOL_ERROR => StreamCause::SelfDependency,
                        other => panic!("{name}: {other} without an event"),
                    };
                    let cause = by_us.unwrap_or_else(untold);
                    assert_eq!(cause.reason(), Reason(code), "{name}");
                    Fate::Stream(reset.stream, cause)
                }
                None => Fate::Ignored,
            },
        };
        (fate, told)
    });
    let first = fates.next().expect("three ways");
    for other in fates {
        assert_eq!(other, first, "{name}: depends on how the bytes arrive");
    }
    first
}

/// Malformed messages reset their stream and leave the connection alone.
pub(crate) fn resilient() -> Config {
    Config { stream_error_on_invalid: true, ..Config::default() }
}

/// A header block was interrupted.
pub(crate) const NO_CONTINUATION: Fate = Fate::Connection(ConnectionCause::ContinuationExpected);

/// A frame came for a stream that is closed.
pub(crate) fn closed(id: u32) -> Fate {
    Fate::Stream(id, StreamCause::FrameOnClosedStream)
}
