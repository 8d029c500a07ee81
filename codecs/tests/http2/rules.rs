//! Every rule of HTTP/2 whose breach has a consequence, each by frames written by hand.

#[path = "support/http2.rs"]
mod http2;

use http2::*;
use outrigger_codecs::http::Method;
use outrigger_codecs::http2::hpack::HpackError;
use outrigger_codecs::http2::{
    Config, Connection, ConnectionCause as Cause, Event, FloodLimits, ListLimits, MessageError,
    Reason, ResetBy, Role, StreamCause, UpgradeSettings,
};

/// What a peer's mistake leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    /// The connection ends.
    Connection(Cause),
    /// RST_STREAM for the stream, which its owner is told of if it knew of it.
    Stream(u32, StreamCause),
    /// Nothing is told and nothing is sent.
    Ignored,
}
use Fate::{Connection as Ends, Ignored, Stream as Resets};

/// Feeds `input` to `connection` in three ways and finds the one fate that it has.
fn fate(name: &str, make: &dyn Fn() -> Connection, input: &[u8]) -> (Fate, Vec<Told>) {
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
                Ends(error.cause)
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
                    let code = u32::from_be_bytes(reset.payload[..].try_into().unwrap());
                    let untold = || match Reason(code) {
                        Reason::STREAM_CLOSED => StreamCause::FrameOnClosedStream,
                        Reason::REFUSED_STREAM => StreamCause::Refused,
                        Reason::FRAME_SIZE_ERROR => StreamCause::PriorityLength,
                        Reason::PROTOCOL_ERROR => StreamCause::SelfDependency,
                        other => panic!("{name}: {other} without an event"),
                    };
                    let cause = by_us.unwrap_or_else(untold);
                    assert_eq!(cause.reason(), Reason(code), "{name}");
                    Resets(reset.stream, cause)
                }
                None => Ignored,
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

fn resilient() -> Config {
    Config { stream_error_on_invalid: true, ..Config::default() }
}

/// A server with stream 1 open, 3 ended by the client, 5 ended by both, 7 reset by the client, 9
/// skipped, 11 ended by both; nothing in the output.
fn server_with_streams() -> Connection {
    let mut server = server(resilient());
    let opened = [
        headers(1, 0, POST),
        headers(3, END, GET),
        headers(5, END, GET),
        headers(7, 0, POST),
        rst_stream(7, Reason::CANCEL),
        headers(11, END, GET),
    ];
    let told = feed(&mut server, &opened.concat()).unwrap();
    for told in &told {
        if let Told::Headers { id: 5 | 11, .. } = told {
            let id = server.stream_ids().find(|id| [5, 11].contains(&id.get())).unwrap();
            send_headers(&mut server, id, true, OK);
        }
    }
    assert_eq!((told.len(), server.open_streams()), (6, 2));
    server.output().clear();
    server
}

#[test]
fn frames_that_break_a_rule_towards_a_server() {
    let weighed = |stream: u32, on: u32| {
        let fields = [&on.to_be_bytes()[..], &[15], &block(GET)].concat();
        frame(HEADERS, WHOLE | WEIGHED | END, stream, &fields)
    };
    let cut = |flags| frame(HEADERS, flags, 13, &block(GET)[..3]);
    let rest = |stream| frame(CONTINUATION, WHOLE, stream, &block(GET)[3..]);
    let big = vec![0; 16_385];
    let cases: Vec<(&str, Vec<Vec<u8>>, Fate)> = vec![
        // RFC 9113 section 4.1 and 5.5: what is unknown is ignored.
        ("unknown type", vec![frame(0x16, 0xff, 0, b"12345678")], Ignored),
        ("unknown type on a stream", vec![frame(0xff, 0xff, 1, b"x")], Ignored),
        ("unknown type without payload", vec![frame(0xff, 0, 99, b"")], Ignored),
        ("unknown setting", vec![frame(SETTINGS, 0, 0, &setting(0xff, 1))], Ignored),
        // Section 4.2.
        ("data too large", vec![data(1, 0, &big)], Ends(Cause::FrameTooLarge)),
        ("unknown too large", vec![frame(0xff, 0, 0, &big)], Ends(Cause::FrameTooLarge)),
        ("headers too large", vec![frame(HEADERS, 0, 13, &big)], Ends(Cause::FrameTooLarge)),
        // Section 4.3.
        (
            "not hpack",
            vec![frame(HEADERS, WHOLE | END, 13, &[0x80])],
            Ends(Cause::Compression(HpackError::IndexInvalid)),
        ),
        ("priority within a block", vec![cut(0), frame(PRIORITY, 0, 13, &[0; 5])], NO_CONTINUATION),
        ("headers within a block", vec![cut(0), headers(15, END, GET)], NO_CONTINUATION),
        ("data within a block", vec![cut(0), data(13, 0, b"x")], NO_CONTINUATION),
        ("unknown within a block", vec![cut(0), frame(0xff, 0, 0, b"x")], NO_CONTINUATION),
        ("other continuation within a block", vec![cut(0), rest(15)], NO_CONTINUATION),
        // Section 5.1: idle, half-closed and closed streams.
        ("data on idle", vec![data(13, 0, b"x")], Ends(Cause::StreamIdle)),
        ("data on an even id", vec![data(2, 0, b"x")], Ends(Cause::StreamIdle)),
        ("reset on idle", vec![rst_stream(13, Reason::CANCEL)], Ends(Cause::StreamIdle)),
        ("window update on idle", vec![window_update(13, 1)], Ends(Cause::StreamIdle)),
        ("priority on idle", vec![frame(PRIORITY, 0, 99, &[0; 5])], Ignored),
        ("data after the end", vec![data(3, 0, b"x")], CLOSED(3)),
        ("headers after the end", vec![headers(3, END, GET)], CLOSED(3)),
        ("window update after the end", vec![window_update(3, 1)], Ignored),
        ("priority after the end", vec![frame(PRIORITY, 0, 3, &[0; 5])], Ignored),
        ("data on closed", vec![data(5, END, b"x")], CLOSED(5)),
        ("headers on closed", vec![headers(5, END, GET)], Ends(Cause::StreamIdInvalid)),
        (
            "headers on the last closed",
            vec![headers(11, END, GET)],
            Ends(Cause::HeadersOnClosedStream),
        ),
        ("window update on closed", vec![window_update(5, 1)], Ignored),
        ("reset on closed", vec![rst_stream(5, Reason::CANCEL)], Ignored),
        ("priority on closed", vec![frame(PRIORITY, 0, 5, &[0; 5])], Ignored),
        ("data after a reset", vec![data(7, 0, b"x")], CLOSED(7)),
        ("headers after a reset", vec![headers(7, END, GET)], Ends(Cause::StreamIdInvalid)),
        ("reset after a reset", vec![rst_stream(7, Reason::CANCEL)], Ignored),
        ("data on skipped", vec![data(9, 0, b"x")], CLOSED(9)),
        // Section 5.1.1.
        ("even id", vec![headers(14, END, GET)], Ends(Cause::StreamIdInvalid)),
        ("skipped id", vec![headers(9, END, GET)], Ends(Cause::StreamIdInvalid)),
        ("continuation of nothing", vec![rest(11)], Ends(Cause::ContinuationUnexpected)),
        (
            "continuation of a whole block",
            vec![headers(13, 0, GET), rest(13)],
            Ends(Cause::ContinuationUnexpected),
        ),
        // RFC 7540 section 5.3.1.
        ("headers on itself", vec![weighed(13, 13)], Resets(13, StreamCause::SelfDependency)),
        (
            "headers exclusively on itself",
            vec![weighed(13, 1 << 31 | 13)],
            Resets(13, StreamCause::SelfDependency),
        ),
        (
            "priority on itself, open",
            vec![frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 9])],
            Resets(1, StreamCause::SelfDependency),
        ),
        (
            "priority on itself, idle",
            vec![frame(PRIORITY, 0, 13, &[0, 0, 0, 13, 9])],
            Ends(Cause::PriorityInvalid),
        ),
        // Section 6.1.
        ("data on 0", vec![data(0, 0, b"x")], Ends(Cause::StreamIdMisplaced)),
        ("padding too long", vec![data(1, PADDED, &[6, 1, 2, 3, 4])], Ends(Cause::PaddingTooLong)),
        (
            "padding as long as the rest",
            vec![data(1, PADDED, &[4, 1, 2, 3])],
            Ends(Cause::PaddingTooLong),
        ),
        ("padded without length", vec![data(1, PADDED, b"")], Ends(Cause::FrameTooShort)),
        // Section 6.2.
        ("headers on 0", vec![headers(0, END, GET)], Ends(Cause::StreamIdMisplaced)),
        (
            "headers padding too long",
            vec![frame(HEADERS, WHOLE | END | PADDED, 13, &[9, 1, 2])],
            Ends(Cause::PaddingTooLong),
        ),
        (
            "headers padded without length",
            vec![frame(HEADERS, WHOLE | END | PADDED, 13, b"")],
            Ends(Cause::FrameTooShort),
        ),
        (
            "headers without room for priority",
            vec![frame(HEADERS, WHOLE | END | WEIGHED, 13, &[0; 4])],
            Ends(Cause::FrameTooShort),
        ),
        // Section 6.3.
        ("priority on 0", vec![frame(PRIORITY, 0, 0, &[0; 5])], Ends(Cause::StreamIdMisplaced)),
        (
            "priority of 4, open",
            vec![frame(PRIORITY, 0, 1, &[0; 4])],
            Resets(1, StreamCause::PriorityLength),
        ),
        (
            "priority of 6, closed",
            vec![frame(PRIORITY, 0, 5, &[0; 6])],
            Resets(5, StreamCause::PriorityLength),
        ),
        ("priority of 0, idle", vec![frame(PRIORITY, 0, 13, b"")], Ends(Cause::PriorityLength)),
        // Section 6.4.
        ("reset on 0", vec![rst_stream(0, Reason::CANCEL)], Ends(Cause::StreamIdMisplaced)),
        ("reset of 3", vec![frame(RST_STREAM, 0, 1, &[0; 3])], Ends(Cause::ResetLength)),
        // Section 6.5.
        ("settings on a stream", vec![frame(SETTINGS, 0, 1, b"")], Ends(Cause::StreamIdMisplaced)),
        ("settings of 3", vec![frame(SETTINGS, 0, 0, &[0; 3])], Ends(Cause::SettingsLength)),
        ("ack with payload", vec![frame(SETTINGS, END, 0, &[0; 6])], Ends(Cause::SettingsLength)),
        ("ack of nothing", vec![frame(SETTINGS, END, 0, b"")], Ends(Cause::SettingsAckUnexpected)),
        ("enable_push of 2", vec![settings(2, 2)], Ends(Cause::SettingEnablePush)),
        ("initial window too large", vec![settings(4, 1 << 31)], Ends(Cause::SettingInitialWindow)),
        ("frame size too small", vec![settings(5, 16_383)], Ends(Cause::SettingMaxFrameSize)),
        ("frame size too large", vec![settings(5, 1 << 24)], Ends(Cause::SettingMaxFrameSize)),
        ("connect protocol of 2", vec![settings(8, 2)], Ends(Cause::SettingConnectProtocol)),
        // Section 6.6.
        ("push promise", vec![frame(PUSH_PROMISE, WHOLE, 1, &[0; 9])], Ends(Cause::PushPromise)),
        // Section 6.7.
        ("ping on a stream", vec![frame(PING, 0, 1, &[0; 8])], Ends(Cause::StreamIdMisplaced)),
        ("ping of 6", vec![frame(PING, 0, 0, &[0; 6])], Ends(Cause::PingLength)),
        ("pong of 9", vec![frame(PING, END, 0, &[0; 9])], Ends(Cause::PingLength)),
        // Section 6.8.
        ("goaway on a stream", vec![frame(GOAWAY, 0, 1, &[0; 8])], Ends(Cause::StreamIdMisplaced)),
        ("goaway of 7", vec![frame(GOAWAY, 0, 0, &[0; 7])], Ends(Cause::GoAwayLength)),
        // Section 6.9.
        (
            "window update of 3",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0; 3])],
            Ends(Cause::WindowUpdateLength),
        ),
        ("window update of zero", vec![window_update(0, 0)], Ends(Cause::WindowIncrementZero)),
        (
            "window update of zero, open",
            vec![window_update(1, 0)],
            Resets(1, StreamCause::WindowIncrementZero),
        ),
        (
            "window overflow",
            vec![window_update(0, 0x7fff_ffff), window_update(0, 0x7fff_ffff)],
            Ends(Cause::WindowOverflow),
        ),
        (
            "window overflow, open",
            vec![window_update(1, 0x7fff_ffff)],
            Resets(1, StreamCause::WindowOverflow),
        ),
        (
            "initial window overflows a stream",
            vec![window_update(1, 0x7fff_0000), settings(4, 65_536)],
            Ends(Cause::WindowOverflow),
        ),
        // Section 6.10.
        ("continuation on 0", vec![cut(0), rest(0)], NO_CONTINUATION),
    ];
    for (name, input, expected) in cases {
        let (found, _) = fate(name, &server_with_streams, &input.concat());
        assert_eq!(found, expected, "{name}");
    }
}

const NO_CONTINUATION: Fate = Ends(Cause::ContinuationExpected);

#[expect(non_snake_case, reason = "reads like the constants beside it")]
fn CLOSED(id: u32) -> Fate {
    Resets(id, StreamCause::FrameOnClosedStream)
}

fn settings(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &setting(id, value))
}

#[test]
fn frames_that_break_a_rule_towards_a_client() {
    // Stream 1 awaits its response, 3 has one that goes on, 5 one that ended, 7 is gone.
    let make = || {
        let mut client = client(resilient());
        for id in [1, 3, 5, 7] {
            assert_eq!(client.open_stream(Method::Get).unwrap().get(), id);
            let id = client.stream_ids().find(|open| open.get() == id).unwrap();
            send_headers(&mut client, id, id.get() == 7, GET);
        }
        let answers = [headers(3, 0, OK), headers(5, END, OK), headers(7, END, OK)];
        assert_eq!(feed(&mut client, &answers.concat()).unwrap().len(), 3);
        assert_eq!(client.open_streams(), 3);
        client.output().clear();
        client
    };
    let message = |id, error| Resets(id, StreamCause::MessageInvalid(error));
    let raised = [goaway(7, Reason::NO_ERROR), goaway(9, Reason::NO_ERROR)];
    let cases: Vec<(&str, Vec<Vec<u8>>, Fate)> = vec![
        ("server opens a stream", vec![headers(2, END, GET)], Ends(Cause::StreamIdInvalid)),
        ("headers on idle", vec![headers(9, END, OK)], Ends(Cause::StreamIdle)),
        ("data on idle", vec![data(9, 0, b"x")], Ends(Cause::StreamIdle)),
        ("reset on idle", vec![rst_stream(9, Reason::CANCEL)], Ends(Cause::StreamIdle)),
        ("window update on idle", vec![window_update(9, 1)], Ends(Cause::StreamIdle)),
        ("push promise", vec![frame(PUSH_PROMISE, WHOLE, 1, &[0; 9])], Ends(Cause::PushPromise)),
        ("push may be enabled", vec![settings(2, 1)], Ends(Cause::SettingEnablePush)),
        ("goaway raised", raised.to_vec(), Ends(Cause::GoAwayRaised)),
        ("data before the head", vec![data(1, 0, b"x")], message(1, MessageError::ContentTooEarly)),
        (
            "empty data before the head",
            vec![data(1, END, b"")],
            message(1, MessageError::ContentTooEarly),
        ),
        (
            "interim ends",
            vec![headers(1, END, &[(":status", "103")])],
            message(1, MessageError::InterimEnds),
        ),
        (
            "switching protocols",
            vec![headers(1, 0, &[(":status", "101")])],
            message(1, MessageError::StatusInvalid),
        ),
        ("a second head", vec![headers(3, 0, OK)], message(3, MessageError::EndMissing)),
        (
            "a head as trailers",
            vec![headers(3, END, OK)],
            message(3, MessageError::PseudoMisplaced),
        ),
        ("data after the end", vec![data(5, 0, b"x")], CLOSED(5)),
        ("headers after the end", vec![headers(5, END, OK)], CLOSED(5)),
        ("data on closed", vec![data(7, 0, b"x")], CLOSED(7)),
        ("headers on closed", vec![headers(7, END, OK)], Ends(Cause::HeadersOnClosedStream)),
        (
            "connect protocol taken back",
            vec![settings(8, 1), settings(8, 0)],
            Ends(Cause::SettingConnectProtocol),
        ),
    ];
    for (name, input, expected) in cases {
        assert_eq!(fate(name, &make, &input.concat()).0, expected, "{name}");
    }
}

#[test]
fn a_connection_starts_with_preface_and_settings() {
    let fresh = |role| move || Connection::new(role, Config::default());
    let settings = frame(SETTINGS, 0, 0, b"");
    let ack = frame(SETTINGS, END, 0, b"");
    for (name, role, input, expected) in [
        ("http/1", Role::Server, b"GET / HTTP/1.1\r\n\r\n".to_vec(), Ends(Cause::PrefaceInvalid)),
        (
            "a late fault",
            Role::Server,
            [&PREFACE[..23], b"x"].concat(),
            Ends(Cause::PrefaceInvalid),
        ),
        (
            "no settings",
            Role::Server,
            [PREFACE, &headers(1, END, GET)].concat(),
            Ends(Cause::SettingsMissing),
        ),
        (
            "unknown first",
            Role::Server,
            [PREFACE, &frame(99, 0, 0, b"")].concat(),
            Ends(Cause::SettingsMissing),
        ),
        ("an ack first", Role::Server, [PREFACE, &ack].concat(), Ends(Cause::SettingsMissing)),
        ("well", Role::Server, [PREFACE, &settings, &ack].concat(), Ignored),
        ("http/1 server", Role::Client, b"HTTP/1.1 400 Bad".to_vec(), Ends(Cause::FrameTooLarge)),
        ("ping first", Role::Client, frame(PING, 0, 0, &[0; 8]), Ends(Cause::SettingsMissing)),
        ("well", Role::Client, [settings.clone(), ack.clone()].concat(), Ignored),
    ] {
        assert_eq!(fate(name, &fresh(role), &input).0, expected, "{role:?}: {name}");
    }
}

#[test]
fn what_we_announce_comes_first() {
    let config = Config {
        initial_connection_window: 1 << 20,
        max_concurrent_streams: 7,
        enable_connect_protocol: true,
        ..Config::default()
    };
    let sent = sent(&mut Connection::new(Role::Server, config));
    assert_eq!((sent[0].kind, sent[0].flags, sent[0].stream), (SETTINGS, 0, 0));
    let expected = [setting(3, 7), setting(6, 60 * 1024), setting(8, 1)];
    assert_eq!(sent[0].payload, expected.concat());
    assert_eq!(frame(WINDOW_UPDATE, 0, 0, &((1_u32 << 20) - 65_535).to_be_bytes()), {
        let update = &sent[1];
        frame(update.kind, update.flags, update.stream, &update.payload)
    });
    assert_eq!(sent.len(), 2);

    let mut client = Connection::new(Role::Client, config);
    assert!(client.output().starts_with(PREFACE));
    let expected = [setting(2, 0), setting(6, 60 * 1024)];
    assert_eq!(http2::sent(&mut client)[0].payload, expected.concat());
}

#[test]
fn requests_that_break_a_rule() {
    use MessageError as E;
    let get = |more: &[(&str, &str)]| -> Vec<u8> {
        let fields = GET.iter().chain(more);
        fields.flat_map(|(name, value)| literal(name, value.as_bytes())).collect()
    };
    let only = |fields: &[(&str, &str)]| -> Vec<u8> {
        fields.iter().flat_map(|(name, value)| literal(name, value.as_bytes())).collect()
    };
    let with = |name: &str, value: &str| -> Vec<u8> {
        let fields = GET.iter().map(|field| if field.0 == name { (name, value) } else { *field });
        only(&fields.collect::<Vec<_>>())
    };
    let without =
        |name: &str| only(&GET.iter().copied().filter(|f| f.0 != name).collect::<Vec<_>>());
    let cases: Vec<(Vec<u8>, Option<MessageError>)> = vec![
        (get(&[]), None),
        (get(&[("x", "a\tb")]), None),
        (get(&[("te", "trailers")]), None),
        (get(&[("te", "Trailers")]), None),
        (get(&[("host", "A.example")]), None),
        (get(&[("content-length", "0")]), None),
        (get(&[("expect", "the-unexpected")]), None),
        (get(&[("X", "a")]), Some(E::FieldInvalid)),
        (get(&[("x y", "a")]), Some(E::FieldInvalid)),
        (get(&[("", "a")]), Some(E::FieldInvalid)),
        (get(&[("x", " a")]), Some(E::FieldInvalid)),
        (get(&[("x", "a\t")]), Some(E::FieldInvalid)),
        (get(&[("x", "a\r\nb: c")]), Some(E::FieldInvalid)),
        (get(&[("x", "a\0b")]), Some(E::FieldInvalid)),
        (get(&[(":unknown", "x")]), Some(E::PseudoUnknown)),
        (get(&[(":status", "200")]), Some(E::PseudoUnknown)),
        (get(&[("x", "y"), (":path", "/")]), Some(E::PseudoMisplaced)),
        (get(&[(":path", "/")]), Some(E::PseudoRepeated)),
        (get(&[(":method", "GET")]), Some(E::PseudoRepeated)),
        (get(&[(":scheme", "http")]), Some(E::PseudoRepeated)),
        (get(&[(":authority", "a.example")]), Some(E::PseudoRepeated)),
        (without(":method"), Some(E::PseudoSet)),
        (without(":scheme"), Some(E::PseudoSet)),
        (without(":path"), Some(E::PseudoSet)),
        (without(":authority"), Some(E::AuthorityMissing)),
        (only(&[]), Some(E::PseudoSet)),
        (with(":method", ""), Some(E::MethodInvalid)),
        (with(":method", "GE T"), Some(E::MethodInvalid)),
        (with(":scheme", "ftp"), Some(E::SchemeInvalid)),
        (with(":scheme", ""), Some(E::SchemeInvalid)),
        (with(":scheme", "HTTPS"), None),
        (with(":path", ""), Some(E::PathInvalid)),
        (with(":path", "x"), Some(E::PathInvalid)),
        (with(":path", "*"), Some(E::PathInvalid)),
        (with(":path", "/a b"), Some(E::PathInvalid)),
        (with(":path", "/a#b"), Some(E::PathInvalid)),
        (with(":path", "/\u{e9}"), Some(E::PathInvalid)),
        (with(":path", "http://a/"), Some(E::PathInvalid)),
        (with(":authority", ""), Some(E::AuthorityInvalid)),
        (with(":authority", "user@a.example"), Some(E::AuthorityInvalid)),
        (with(":authority", "a.example:0"), Some(E::AuthorityInvalid)),
        (get(&[("host", "b.example")]), Some(E::AuthorityTwofold)),
        (get(&[("host", "a.example"), ("host", "a.example")]), Some(E::HostRepeated)),
        (get(&[("connection", "close")]), Some(E::ConnectionSpecific)),
        (get(&[("proxy-connection", "close")]), Some(E::ConnectionSpecific)),
        (get(&[("keep-alive", "1")]), Some(E::ConnectionSpecific)),
        (get(&[("transfer-encoding", "chunked")]), Some(E::ConnectionSpecific)),
        (get(&[("upgrade", "h2c")]), Some(E::ConnectionSpecific)),
        (get(&[("te", "trailers, deflate")]), Some(E::TeInvalid)),
        (get(&[("te", "")]), Some(E::TeInvalid)),
        (get(&[("content-length", "1")]), Some(E::ContentLengthWrong)),
        (get(&[("content-length", "+0")]), Some(E::ContentLengthInvalid)),
        (get(&[("content-length", "0, 0")]), Some(E::ContentLengthInvalid)),
        (get(&[("content-length", "0"), ("content-length", "0")]), Some(E::ContentLengthRepeated)),
        // OPTIONS may be for the server as a whole.
        (
            only(&[
                (":method", "OPTIONS"),
                (":scheme", "http"),
                (":path", "*"),
                (":authority", "a"),
            ]),
            None,
        ),
        // CONNECT, plain and extended.
        (only(&[(":method", "CONNECT"), (":authority", "a:443")]), None),
        (only(&[(":method", "CONNECT"), (":authority", "a:443"), ("content-length", "0")]), None),
        (only(&[(":method", "CONNECT"), (":authority", "a")]), Some(E::AuthorityInvalid)),
        (only(&[(":method", "CONNECT"), ("host", "a:443")]), Some(E::PseudoSet)),
        (
            only(&[(":method", "CONNECT"), (":path", "/"), (":authority", "a:443")]),
            Some(E::PseudoSet),
        ),
        (
            only(&[(":method", "CONNECT"), (":scheme", "http"), (":authority", "a:443")]),
            Some(E::PseudoSet),
        ),
        (
            only(&[(":method", "CONNECT"), (":authority", "a:443"), ("content-length", "1")]),
            Some(E::ConnectWithContent),
        ),
        (with_protocol("CONNECT", "websocket"), None),
        (with_protocol("CONNECT", ""), Some(E::ProtocolInvalid)),
        (with_protocol("CONNECT", "a/b"), Some(E::ProtocolInvalid)),
        (with_protocol("GET", "websocket"), Some(E::ProtocolInvalid)),
        (get(&[(":protocol", "x"), (":protocol", "x")]), Some(E::PseudoRepeated)),
    ];
    let strict = Config { enable_connect_protocol: true, ..Config::default() };
    let lenient = Config { enable_connect_protocol: true, ..resilient() };
    for (block, expected) in cases {
        let name = block.escape_ascii().to_string();
        let request = frame(HEADERS, WHOLE | END, 1, &block);
        let mut strict = server(strict);
        match (feed(&mut strict, &request), expected) {
            (Ok(told), None) => assert!(matches!(told[..], [Told::Headers { .. }]), "{name}"),
            (Err(error), Some(expected)) => {
                assert_eq!(error.cause, Cause::MessageInvalid(expected), "{name}");
            }
            (other, _) => panic!("{name}: {other:?}, not {expected:?}"),
        }
        let Some(_) = expected else { continue };
        let mut lenient = server(lenient);
        // The next stream is served, whatever became of this one.
        let told = feed(&mut lenient, &[request, headers(3, END, GET)].concat()).unwrap();
        assert_eq!(told, [http2::request(3, true, GET)], "{name}");
        assert_eq!(lenient.counters().rx_messaging_error, 1);
        let resets: Vec<_> =
            sent(&mut lenient).into_iter().filter(|f| f.kind == RST_STREAM).collect();
        assert_eq!(resets.len(), 1, "{name}");
        assert_eq!(resets[0].payload, Reason::PROTOCOL_ERROR.0.to_be_bytes(), "{name}");
    }
}

fn with_protocol(method: &str, protocol: &str) -> Vec<u8> {
    let fields = [
        (":method", method),
        (":protocol", protocol),
        (":scheme", "https"),
        (":path", "/chat"),
        (":authority", "a.example"),
    ];
    fields.iter().flat_map(|(name, value)| literal(name, value.as_bytes())).collect()
}

#[test]
fn extended_connect_must_be_announced() {
    let request = frame(HEADERS, WHOLE, 1, &with_protocol("CONNECT", "websocket"));
    let refused = feed(&mut server(Config::default()), &request).unwrap_err();
    assert_eq!(refused.cause, Cause::MessageInvalid(MessageError::ProtocolInvalid));

    let mut client = client(Config::default());
    assert!(!client.peer_enables_connect_protocol());
    assert_eq!(feed(&mut client, &settings(8, 1)).unwrap(), []);
    assert!(client.peer_enables_connect_protocol());
}

#[test]
fn content_agrees_with_its_length() {
    let post =
        |length: &'static str| headers(1, 0, &[&POST[..], &[("content-length", length)]].concat());
    let trailers = headers(1, END, &[("x", "y")]);
    let wrong = Resets(1, StreamCause::MessageInvalid(MessageError::ContentLengthWrong));
    for (name, input, expected) in [
        ("exact", vec![post("4"), data(1, END, b"abcd")], Ignored),
        ("exact, in two", vec![post("4"), data(1, 0, b"ab"), data(1, END, b"cd")], Ignored),
        ("exact, end apart", vec![post("4"), data(1, 0, b"abcd"), data(1, END, b"")], Ignored),
        ("exact, padded", vec![post("4"), data(1, END | PADDED, b"\x02abcd\0\0")], Ignored),
        ("exact, trailers", vec![post("4"), data(1, 0, b"abcd"), trailers.clone()], Ignored),
        ("none", vec![post("0"), data(1, END, b"")], Ignored),
        ("too long", vec![post("4"), data(1, 0, b"abcde")], wrong),
        ("too long by padding", vec![post("2"), data(1, PADDED, b"\x01abcd\0")], wrong),
        ("too long in two", vec![post("4"), data(1, 0, b"abcd"), data(1, 0, b"e")], wrong),
        ("too short", vec![post("4"), data(1, END, b"abc")], wrong),
        ("too short, padded", vec![post("4"), data(1, END | PADDED, b"\x01abc\0")], wrong),
        ("too short, end apart", vec![post("4"), data(1, 0, b"abc"), data(1, END, b"")], wrong),
        ("too short, trailers", vec![post("4"), data(1, 0, b"abc"), trailers], wrong),
        ("some for none", vec![post("0"), data(1, END, b"x")], wrong),
    ] {
        let (found, told) = fate(name, &|| server(resilient()), &input.concat());
        assert_eq!(found, expected, "{name}");
        let ended = told
            .iter()
            .any(|told| matches!(told, Told::Data { end: true, .. } | Told::Trailers { .. }));
        assert_eq!(ended, expected == Ignored, "{name}");
    }
}

#[test]
fn content_of_responses_depends_on_method_and_status() {
    let answer = |fields: &Fields| headers(1, 0, fields);
    let ok_4 = &[(":status", "200"), ("content-length", "4")][..];
    let wrong = Some(MessageError::ContentLengthWrong);
    for (name, method, input, expected) in [
        ("get", Method::Get, vec![answer(ok_4), data(1, END, b"abcd")], None),
        ("get, short", Method::Get, vec![answer(ok_4), data(1, END, b"abc")], wrong),
        ("get, none", Method::Get, vec![headers(1, END, ok_4)], wrong),
        ("head", Method::Head, vec![headers(1, END, ok_4)], None),
        ("head, end apart", Method::Head, vec![answer(ok_4), data(1, END, b"")], None),
        ("head with content", Method::Head, vec![answer(ok_4), data(1, END, b"abcd")], wrong),
        (
            "not modified",
            Method::Get,
            vec![headers(1, END, &[(":status", "304"), ("content-length", "4")])],
            None,
        ),
        ("no content", Method::Get, vec![answer(&[(":status", "204")]), data(1, END, b"")], None),
        (
            "no content but some",
            Method::Get,
            vec![answer(&[(":status", "204")]), data(1, 0, b"x")],
            wrong,
        ),
        ("tunnel", Method::Connect, vec![answer(ok_4), data(1, END, b"abcdefgh")], None),
        (
            "no tunnel",
            Method::Connect,
            vec![answer(&[(":status", "400"), ("content-length", "4")]), data(1, END, b"abc")],
            wrong,
        ),
        (
            "interim heads",
            Method::Post,
            vec![
                answer(&[(":status", "100")]),
                answer(&[(":status", "103"), ("link", "x")]),
                answer(ok_4),
                data(1, 0, b"abcd"),
                headers(1, END, &[("grpc-status", "0")]),
            ],
            None,
        ),
    ] {
        let make = || {
            let mut client = client(resilient());
            let id = client.open_stream(method).unwrap();
            send_headers(&mut client, id, true, GET);
            client.output().clear();
            client
        };
        let expected = match expected {
            Some(error) => Resets(1, StreamCause::MessageInvalid(error)),
            None => Ignored,
        };
        assert_eq!(fate(name, &make, &input.concat()).0, expected, "{name}");
    }
}

#[test]
fn responses_and_trailers_that_break_a_rule() {
    use MessageError as E;
    let head = |fields: &[(&str, &str)]| {
        let block: Vec<u8> =
            fields.iter().flat_map(|(name, value)| literal(name, value.as_bytes())).collect();
        vec![frame(HEADERS, WHOLE, 1, &block)]
    };
    let trailers = |fields: &[(&str, &str)]| {
        let block: Vec<u8> =
            fields.iter().flat_map(|(name, value)| literal(name, value.as_bytes())).collect();
        vec![headers(1, 0, OK), frame(HEADERS, WHOLE | END, 1, &block)]
    };
    for (input, expected) in [
        (head(&[]), E::PseudoSet),
        (head(&[("x", "y")]), E::PseudoSet),
        (head(&[(":status", "")]), E::StatusInvalid),
        (head(&[(":status", "20")]), E::StatusInvalid),
        (head(&[(":status", "0200")]), E::StatusInvalid),
        (head(&[(":status", "099")]), E::StatusInvalid),
        (head(&[(":status", "+20")]), E::StatusInvalid),
        (head(&[(":status", "200"), (":status", "200")]), E::PseudoRepeated),
        (head(&[("x", "y"), (":status", "200")]), E::PseudoMisplaced),
        (head(&[(":status", "200"), (":path", "/")]), E::PseudoUnknown),
        (head(&[(":status", "200"), ("connection", "close")]), E::ConnectionSpecific),
        (head(&[(":status", "200"), ("X", "y")]), E::FieldInvalid),
        (head(&[(":status", "200"), ("content-length", "-1")]), E::ContentLengthInvalid),
        (trailers(&[(":path", "/")]), E::PseudoMisplaced),
        (trailers(&[("x", "y"), (":status", "200")]), E::PseudoMisplaced),
        (trailers(&[("transfer-encoding", "chunked")]), E::ConnectionSpecific),
        (trailers(&[("content-length", "0")]), E::TrailerForbidden),
        (trailers(&[("host", "a")]), E::TrailerForbidden),
        (trailers(&[("te", "trailers")]), E::TrailerForbidden),
        (trailers(&[("X", "y")]), E::FieldInvalid),
    ] {
        let make = || {
            let mut client = client(resilient());
            let id = client.open_stream(Method::Get).unwrap();
            send_headers(&mut client, id, true, GET);
            client.output().clear();
            client
        };
        let name = input.concat().escape_ascii().to_string();
        let expected = Resets(1, StreamCause::MessageInvalid(expected));
        assert_eq!(fate(&name, &make, &input.concat()).0, expected, "{name}");
    }
}

#[test]
fn windows_that_are_overrun() {
    let chunk = vec![0; 16_384];
    let fill = |id: u32| {
        [data(id, 0, &chunk), data(id, 0, &chunk), data(id, 0, &chunk), data(id, 0, &chunk[1..])]
    };
    let make = |connection_window| {
        move || {
            let config = Config { initial_connection_window: connection_window, ..resilient() };
            let mut server = server(config);
            feed(&mut server, &[headers(1, 0, POST), headers(3, 0, POST)].concat()).unwrap();
            server
        }
    };
    let full = fill(1).concat();
    assert_eq!(fate("full", &make(65_535), &full).0, Ignored);
    let over = [&full[..], &data(3, 0, b"x")].concat();
    assert_eq!(fate("connection", &make(65_535), &over).0, Ends(Cause::DataBeyondWindow));
    let over = [&full[..], &data(1, 0, b"x")].concat();
    let expected = Resets(1, StreamCause::DataBeyondWindow);
    assert_eq!(fate("stream", &make(65_536), &over).0, expected);
    let padding = [&full[..], &data(1, PADDED, b"\0")].concat();
    assert_eq!(fate("padding counts", &make(65_536), &padding).0, expected);
    let empty = [&full[..], &data(1, END, b"")].concat();
    assert_eq!(fate("nothing fits", &make(65_535), &empty).0, Ignored);
}

#[test]
fn credit_is_given_back_at_half_of_the_window_and_only_once() {
    let mut server = server(Config { initial_connection_window: 100_000, ..Config::default() });
    feed(&mut server, &[headers(1, 0, POST), headers(3, 0, POST)].concat()).unwrap();
    let id = |server: &Connection, id| server.stream_ids().find(|open| open.get() == id).unwrap();
    let (one, three) = (id(&server, 1), id(&server, 3));
    let chunk = vec![0; 16_000];
    for stream in [1, 1, 1, 3, 3, 3] {
        feed(&mut server, &data(stream, 0, &chunk)).unwrap();
    }
    server.release(one, 32_766);
    assert!(!server.has_output());
    server.release(one, 1);
    assert_eq!(sent(&mut server), frames(&window_update(1, 32_767)));
    // 50,000 bytes in all: the connection's turn, while stream 3 has not reached its half.
    server.release(three, 17_233);
    assert_eq!(sent(&mut server), frames(&window_update(0, 50_000)));
    // The bytes of a stream that is gone count for the connection alone.
    server.reset(one, Reason::CANCEL);
    server.output().clear();
    server.release(one, 15_233);
    server.release(three, 30_767);
    assert_eq!(sent(&mut server), frames(&window_update(3, 48_000)));
    server.release(three, 4_000_000);
    assert_eq!(sent(&mut server), [], "nobody sent so much");
}

#[test]
fn padding_is_credited_without_being_told() {
    let mut server = server(Config::default());
    feed(&mut server, &headers(1, 0, POST)).unwrap();
    let padded = data(1, PADDED, &[&[255][..], b"x", &[0; 255]].concat());
    let mut updates = 0;
    for _ in 0..1000 {
        // Were it not credited, 256 frames would overrun the window.
        assert_eq!(
            feed(&mut server, &padded).unwrap(),
            [Told::Data { id: 1, end: false, bytes: b"x".to_vec() }]
        );
        let id = server.stream_ids().next().unwrap();
        server.release(id, 1);
        updates += sent(&mut server).iter().filter(|frame| frame.kind == WINDOW_UPDATE).count();
    }
    assert_eq!(updates, 2 * (1000 * 257 / 32_896));
}

#[test]
fn late_frames_on_streams_that_we_reset_are_ignored_but_credited() {
    let mut server = server(Config::default());
    feed(&mut server, &headers(1, 0, POST)).unwrap();
    // The reset happens while a frame is coming in.
    let chunk = data(1, 0, &[0; 10_000]);
    assert_eq!(feed(&mut server, &chunk[..5_000]).unwrap().len(), 1);
    let id = server.stream_ids().next().unwrap();
    server.reset(id, Reason::NO_ERROR);
    server.release(id, 5_000 - 9);
    let late = [
        &chunk[5_000..],
        &data(1, PADDED, &[0; 10_000]),
        &data(1, 0, &[0; 15_000]),
        &window_update(1, 1),
        &headers(1, END, &[("x", "y")]),
    ];
    assert_eq!(feed(&mut server, &late.concat()).unwrap(), []);
    let sent = sent(&mut server);
    assert_eq!(sent[0], frames(&rst_stream(1, Reason::NO_ERROR))[0]);
    assert_eq!(sent[1..], frames(&window_update(0, 35_000)), "and nothing else");
    // Its last frame has come: from now on it is an error again.
    let error = feed(&mut server, &headers(1, END, &[("x", "y")])).unwrap_err();
    assert_eq!(error.cause, Cause::HeadersOnClosedStream);
}

#[test]
fn floods_end_the_connection_one_past_their_limit() {
    let flood = FloodLimits {
        empty_frames_in_a_row: 3,
        priority_frames_per_stream: 2,
        window_updates_per_data_frame: 10,
        reset_burst: 4,
        reset_rate_per_s: 1,
        settings_burst: 5,
        settings_rate_per_s: 1,
        ping_burst: 6,
        ping_rate_per_s: 1,
        control_frames_queued: 1000,
    };
    let config = Config { flood, ..resilient() };
    let open_and_reset = |n: u32| {
        let id = 3 + 2 * n;
        [headers(id, END, GET), rst_stream(id, Reason::CANCEL)].concat()
    };
    let empty_continuations = |n: u32| match n {
        0 => frame(HEADERS, 0, 3, b""),
        _ => frame(CONTINUATION, 0, 3, b""),
    };
    let invalid = |n: u32| frame(HEADERS, WHOLE | END, 3 + 2 * n, &literal("X", b"y"));
    type Nth<'a> = &'a dyn Fn(u32) -> Vec<u8>;
    // Stream 1 is open.
    let cases: Vec<(Cause, usize, Nth<'_>)> = vec![
        (Cause::EmptyFrameFlood, 3, &|_| data(1, 0, b"")),
        (Cause::EmptyFrameFlood, 3, &|_| data(1, PADDED, b"\x02\0\0")),
        (Cause::EmptyFrameFlood, 3, &empty_continuations),
        (Cause::PriorityFlood, 2 * (1 + 1), &|n| frame(PRIORITY, 0, 101 + 2 * n, &[0; 5])),
        (Cause::WindowUpdateFlood, 5 + 2, &|_| window_update(0, 1)),
        (Cause::WindowUpdateFlood, 5 + 2, &|_| window_update(1, 1)),
        (Cause::SettingsFlood, 5, &|_| settings(4, 1)),
        (Cause::PingFlood, 6, &|_| frame(PING, 0, 0, &[0; 8])),
        // Rapid reset, and its sister that makes us do it.
        (Cause::RapidReset, 4, &|_| rst_stream(1, Reason::CANCEL)),
        (Cause::RapidReset, 4, &invalid),
        (Cause::StreamLimitAbuse, 4, &|n| headers(3 + 2 * n, END, GET)),
    ];
    for (cause, allowed, nth) in cases {
        let max_concurrent_streams = if cause == Cause::StreamLimitAbuse { 1 } else { 10 };
        let mut server = server(Config { max_concurrent_streams, ..config });
        let now_ns = 1_000_000_000;
        let mut feed = |input: &[u8], now_ns| {
            feed_pieces(&mut server, input, now_ns, || usize::MAX / 2, &mut Vec::new())
        };
        feed(&headers(1, 0, POST), now_ns).unwrap();
        for n in 0..allowed {
            assert_eq!(feed(&nth(n as u32), now_ns), Ok(()), "{cause:?}, {n}");
        }
        let error = feed(&nth(allowed as u32), now_ns).unwrap_err();
        assert_eq!((error.cause, error.reason), (cause, Reason::ENHANCE_YOUR_CALM));
    }
    // Time heals: one more a second.
    let mut server = server(config);
    for n in 0..100 {
        let now_ns = u64::from(n) * 1_000_000_000;
        let told = &mut Vec::new();
        feed_pieces(&mut server, &open_and_reset(n), now_ns, || usize::MAX / 2, told).unwrap();
        assert_eq!(told.len(), 2);
    }
    assert_eq!(server.counters().rx_reset, 100);
}

#[test]
fn servers_may_reset_what_they_like() {
    let flood = FloodLimits { reset_burst: 2, reset_rate_per_s: 0, ..FloodLimits::default() };
    let mut client = client(Config { flood, ..Config::default() });
    for n in 0..10 {
        let id = client.open_stream(Method::Get).unwrap();
        send_headers(&mut client, id, true, GET);
        let told = feed(&mut client, &rst_stream(1 + 2 * n, Reason::REFUSED_STREAM)).unwrap();
        let by = ResetBy::Peer;
        assert_eq!(told, [Told::Reset { id: 1 + 2 * n, reason: Reason::REFUSED_STREAM, by }]);
    }
    assert!(client.is_idle());
}

#[test]
fn header_blocks_are_bounded_in_bytes_and_in_frames() {
    let list = ListLimits { bytes_max: 16_384, ..Config::default().list };
    let config = Config { list, ..Config::default() };
    let start = frame(HEADERS, END, 1, b"");
    let bound = 2 * 16_384 + 16_384;
    let many = [&[0; 16_384][..]; 3].map(|piece| frame(CONTINUATION, 0, 1, piece)).concat();
    let make = || server(config);
    assert_eq!(fate("at the bound", &make, &[&start[..], &many].concat()).0, Ignored);
    let over = [&start[..], &many, &frame(CONTINUATION, 0, 1, b"x")].concat();
    assert_eq!(fate("over it", &make, &over).0, Ends(Cause::HeaderBlockTooLarge));
    let drops = vec![frame(CONTINUATION, 0, 1, b"x"); bound / 4096 + 8].concat();
    assert_eq!(fate("in drops", &make, &[&start[..], &drops].concat()).0, Ignored);
    let over = [&start[..], &drops, &frame(CONTINUATION, 0, 1, b"x")].concat();
    assert_eq!(fate("a drop more", &make, &over).0, Ends(Cause::ContinuationFlood));
    let large = Config { max_frame_size: 1 << 20, ..config };
    let single = frame(HEADERS, WHOLE, 1, &vec![0; bound + 1]);
    let head_alone = &single[..9];
    let fate = fate("by its head", &|| server(large), head_alone).0;
    assert_eq!(fate, Ends(Cause::HeaderBlockTooLarge));
}

#[test]
fn a_request_with_too_large_a_head_may_be_answered() {
    let list = ListLimits { bytes_max: 450, fields_max: 6, ..Config::default().list };
    let config = Config { list, ..Config::default() };
    let long = [&POST[..], &[("x", "0123456789"); 3]].concat();
    let wide: Vec<u8> =
        [block(POST), literal("x", &[b'y'; 126]), literal("x", &[b'y'; 126])].concat();
    for request in [headers(1, 0, &long), frame(HEADERS, WHOLE, 1, &wide)] {
        let mut server = server(config);
        let told = feed(&mut server, &request).unwrap();
        assert_eq!(told, [Told::Malformed { id: 1, status: 431 }]);
        assert_eq!(server.counters().header_overflow, 1);
        // Its content is dropped, and credited.
        let content = data(1, 0, &[0; 16_384]);
        for _ in 0..8 {
            assert_eq!(feed(&mut server, &content).unwrap(), []);
        }
        let id = server.stream_ids().next().unwrap();
        assert!(!server.is_ended(id));
        send_headers(&mut server, id, true, &[(":status", "431")]);
        assert!(server.is_open(id));
        server.reset(id, Reason::NO_ERROR);
        let kinds: Vec<u8> = sent(&mut server).iter().map(|frame| frame.kind).collect();
        let updates = kinds.iter().filter(|&&kind| kind == WINDOW_UPDATE).count();
        assert_eq!((updates, &kinds[kinds.len() - 2..]), (8, &[HEADERS, RST_STREAM][..]));
        // The tables are in step: what comes next is understood.
        let told = feed(&mut server, &headers(3, END, GET)).unwrap();
        assert_eq!(told, [request_of(3)]);
    }
    // Answered after its end, it is simply over.
    let mut server = server(config);
    feed(&mut server, &[headers(1, 0, &long), headers(1, END, &[("x", "y")])].concat()).unwrap();
    let id = server.stream_ids().next().unwrap();
    assert!(server.is_ended(id));
    send_headers(&mut server, id, true, &[(":status", "431")]);
    assert!(server.is_idle());
}

fn request_of(id: u32) -> Told {
    request(id, true, GET)
}

#[test]
fn sections_that_nobody_can_answer_reset_their_stream_when_too_large() {
    let list = ListLimits { bytes_max: 450, fields_max: 6, ..Config::default().list };
    let many = [("x", "y"); 7];
    let cause = StreamCause::HeaderListTooLarge;
    let mut server = server(Config { list, ..Config::default() });
    let told = feed(&mut server, &[headers(1, 0, POST), headers(1, END, &many)].concat()).unwrap();
    let reset = Told::Reset { id: 1, reason: Reason::ENHANCE_YOUR_CALM, by: ResetBy::Us(cause) };
    assert_eq!(told[1], reset);

    let mut client = client(Config { list, ..Config::default() });
    let id = client.open_stream(Method::Get).unwrap();
    send_headers(&mut client, id, true, GET);
    let told = feed(&mut client, &headers(1, END, &[OK, &many].concat())).unwrap();
    assert_eq!(told, [reset]);
}

#[test]
fn answers_that_nobody_takes_are_bounded() {
    let flood = FloodLimits { control_frames_queued: 10, ..FloodLimits::default() };
    let config = Config { flood, ..Config::default() };
    let ping = frame(PING, 0, 0, b"12345678");
    let mut server = server(config);
    for _ in 0..10 {
        feed(&mut server, &ping).unwrap();
    }
    assert_eq!(sent(&mut server), vec![frames(&frame(PING, END, 0, b"12345678"))[0].clone(); 10]);
    for _ in 0..10 {
        feed(&mut server, &ping).unwrap();
    }
    assert_eq!(feed(&mut server, &ping).unwrap_err().cause, Cause::ControlFrameFlood);
    assert_eq!(server.counters().control_frames_queued, 10 + 1 + 10 + 1, "and one for SETTINGS");
}

#[test]
fn streams_above_the_limit_are_refused() {
    let config = Config { max_concurrent_streams: 2, ..Config::default() };
    let mut server = server(config);
    let told = feed(
        &mut server,
        &[headers(1, END, GET), headers(3, END, GET), headers(5, 0, POST), data(5, END, b"late")]
            .concat(),
    );
    assert_eq!(told.unwrap(), [request_of(1), request_of(3)]);
    assert_eq!(sent(&mut server), frames(&rst_stream(5, Reason::REFUSED_STREAM)));
    assert_eq!(server.counters().stream_refused, 1);
    let id = server.stream_ids().next().unwrap();
    send_headers(&mut server, id, true, OK);
    assert_eq!(feed(&mut server, &headers(7, END, GET)).unwrap(), [request_of(7)]);
}

#[test]
fn a_client_keeps_to_the_limits_of_both_sides() {
    let mut client =
        Connection::new(Role::Client, Config { max_concurrent_streams: 1000, ..Config::default() });
    let open = |client: &mut Connection| {
        let id = client.open_stream(Method::Get)?;
        send_headers(client, id, true, GET);
        Some(id)
    };
    let opened = std::iter::from_fn(|| open(&mut client)).count();
    assert_eq!(opened, 100, "what is safe to assume before SETTINGS");
    assert_eq!(feed(&mut client, &frame(SETTINGS, 0, 0, b"")).unwrap(), [Told::Writable]);
    assert_eq!(std::iter::from_fn(|| open(&mut client)).count(), 900, "no limit but ours");
    assert_eq!(feed(&mut client, &settings(3, 2)).unwrap(), []);
    assert_eq!((client.can_open(), client.peer_max_concurrent()), (false, 2));
    for n in 0..998 {
        feed(&mut client, &headers(1 + 2 * n, END, OK)).unwrap();
        assert!(!client.can_open());
    }
    feed(&mut client, &headers(1 + 2 * 998, END, OK)).unwrap();
    assert!(client.can_open());
    assert_eq!(feed(&mut client, &settings(3, 3)).unwrap(), [Told::Writable]);
}

#[test]
fn content_keeps_to_the_windows() {
    let mut server = server(Config::default());
    feed(&mut server, &settings(4, 3)).unwrap();
    feed(&mut server, &[headers(1, END, GET), headers(3, END, GET)].concat()).unwrap();
    let one = server.stream_ids().find(|id| id.get() == 1).unwrap();
    let three = server.stream_ids().find(|id| id.get() == 3).unwrap();
    send_headers(&mut server, one, false, OK);
    server.output().clear();
    assert_eq!(server.send_capacity(one), 3);
    server.send_data(one, 3, false);
    assert_eq!(std::mem::take(server.output()), data(1, 0, b"abc")[..9]);
    assert_eq!((server.send_capacity(one), server.send_capacity(three)), (0, 3));
    // Lowered below what is sent, raised by as much, and then by one (RFC 9113 section 6.9.2).
    assert_eq!(feed(&mut server, &settings(4, 2)).unwrap(), []);
    assert_eq!(feed(&mut server, &window_update(1, 1)).unwrap(), []);
    assert_eq!(feed(&mut server, &window_update(1, 1)).unwrap(), [Told::StreamWritable { id: 1 }]);
    assert_eq!(server.send_capacity(one), 1);
    assert_eq!(feed(&mut server, &settings(4, 0)).unwrap(), []);
    assert_eq!(feed(&mut server, &settings(4, 70_000)).unwrap(), [Told::Writable]);
    assert_eq!(server.send_capacity(one), 16_384, "the frame size");
    feed(&mut server, &settings(5, 1 << 20)).unwrap();
    assert_eq!(server.send_capacity(one), 65_532, "the connection's window");
    server.send_data(one, 65_532, false);
    assert_eq!((server.send_capacity(one), server.send_capacity(three)), (0, 0));
    assert_eq!(feed(&mut server, &window_update(3, 1)).unwrap(), [], "it wasn't shut");
    assert_eq!(feed(&mut server, &window_update(0, 10)).unwrap(), [Told::Writable]);
    assert_eq!(feed(&mut server, &window_update(0, 10)).unwrap(), [], "told already");
    assert_eq!((server.send_capacity(one), server.send_capacity(three)), (20, 20));
    server.send_data(one, 0, true);
    assert!(!server.is_open(one));
    assert_eq!(server.send_capacity(one), 0);
}

#[test]
fn header_blocks_go_out_in_frames_of_the_peers_size() {
    let mut client = client(Config { huffman: false, ..Config::default() });
    let id = client.open_stream(Method::Get).unwrap();
    let long = "v".repeat(40_000);
    send_headers(&mut client, id, true, &[&GET[..], &[("x", &long)]].concat());
    let frames = sent(&mut client);
    let shape: Vec<_> =
        frames.iter().map(|f| (f.kind, f.flags, f.stream, f.payload.len())).collect();
    assert_eq!(shape[..2], [(HEADERS, END, 1, 16_384), (CONTINUATION, 0, 1, 16_384)]);
    assert_eq!((shape.len(), shape[2].0, shape[2].1), (3, CONTINUATION, WHOLE));

    let mut server = server(Config::default());
    let input: Vec<u8> =
        frames.iter().flat_map(|f| frame(f.kind, f.flags, f.stream, &f.payload)).collect();
    let told = feed(&mut server, &input).unwrap();
    assert!(matches!(&told[..], [Told::Headers { id: 1, end: true, fields }]
        if fields[4] == ("x".to_owned(), long)));
}

#[test]
fn a_server_shuts_down_in_two_steps() {
    let mut server = server(Config::default());
    feed(&mut server, &headers(1, END, GET)).unwrap();
    server.announce_shutdown();
    server.announce_shutdown();
    assert_eq!(sent(&mut server), frames(&goaway(0x7fff_ffff, Reason::NO_ERROR)));
    assert!(server.is_draining());
    server.ping(*b"knowing?");
    assert_eq!(sent(&mut server), frames(&frame(PING, 0, 0, b"knowing?")));
    // What was under way is still served.
    let told = feed(&mut server, &[headers(3, 0, POST), frame(PING, END, 0, b"knowing?")].concat());
    assert_eq!(told.unwrap(), [request(3, false, POST), Told::Pong(*b"knowing?")]);
    server.shutdown();
    server.shutdown();
    assert_eq!(sent(&mut server), frames(&goaway(3, Reason::NO_ERROR)));
    // What comes later is not, without a word, but in step.
    let late = [
        headers(5, 0, POST),
        data(5, 0, b"x"),
        headers(5, END, &[("x", "y")]),
        rst_stream(5, Reason::CANCEL),
    ];
    assert_eq!(feed(&mut server, &late.concat()).unwrap(), []);
    assert_eq!(sent(&mut server), []);
    let told = feed(&mut server, &data(3, END, b"x")).unwrap();
    assert_eq!(told, [Told::Data { id: 3, end: true, bytes: b"x".to_vec() }]);
    for id in server.stream_ids().collect::<Vec<_>>() {
        send_headers(&mut server, id, true, OK);
    }
    assert!(server.is_idle());
    server.output().clear();
    server.fail(Reason::INTERNAL_ERROR);
    assert_eq!(sent(&mut server), frames(&goaway(3, Reason::INTERNAL_ERROR)));
    let error = server.receive(b"", 0).unwrap_err();
    assert_eq!(error.cause, Cause::Failed(Reason::INTERNAL_ERROR));
    assert_eq!(server.counters().goaway_sent, 3);
}

#[test]
fn a_client_learns_which_requests_were_not_processed() {
    let mut client = client(Config::default());
    for slot in 0..5 {
        let id = client.open_stream(Method::Get).unwrap();
        client.set_slot(id, slot);
        send_headers(&mut client, id, true, GET);
    }
    let told = feed(&mut client, &goaway(0x7fff_ffff, Reason::NO_ERROR)).unwrap();
    assert_eq!(told, [Told::GoAway { last: 0x7fff_ffff, reason: Reason::NO_ERROR }]);
    assert!(client.is_draining() && client.is_spent() && !client.can_open());
    assert_eq!(client.open_stream(Method::Get), None);

    let unprocessed = |id| Told::Reset { id, reason: Reason::REFUSED_STREAM, by: ResetBy::Peer };
    let input = [goaway(3, Reason::NO_ERROR), headers(3, END, OK)].concat();
    let told = feed(&mut client, &input).unwrap();
    let first = Told::GoAway { last: 3, reason: Reason::NO_ERROR };
    let answer = Told::Headers { id: 3, end: true, fields: owned(OK) };
    assert_eq!(told, [first, unprocessed(5), unprocessed(7), unprocessed(9), answer]);
    let left = client.stream_ids().next().unwrap();
    assert_eq!((client.open_streams(), client.slot(left)), (1, Some(0)));
}

#[test]
fn unprocessed_requests_are_told_without_more_input() {
    let mut client = client(Config::default());
    let id = client.open_stream(Method::Get).unwrap();
    client.set_slot(id, 42);
    send_headers(&mut client, id, false, GET);
    let input = goaway(0, Reason::ENHANCE_YOUR_CALM);
    let step = client.receive(&input, 0).unwrap();
    assert_eq!(step.consumed, input.len());
    assert!(matches!(step.event, Some(Event::GoAway { .. })));
    let step = client.receive(&[], 0).unwrap();
    assert!(matches!(step.event, Some(Event::Reset { slot: 42, .. })));
    assert_eq!(client.receive(&[], 0).unwrap().event, None);
}

#[test]
fn ids_run_out() {
    let mut state = client(Config::default()).export();
    state.local_next = 0x7fff_ffff;
    let mut client = Connection::import(state).unwrap();
    let last = client.open_stream(Method::Get).unwrap();
    assert_eq!(last.get(), 0x7fff_ffff);
    send_headers(&mut client, last, true, GET);
    assert!(!client.can_open() && client.is_spent() && !client.is_draining());
    assert_eq!(client.open_stream(Method::Get), None);
    let told = feed(&mut client, &headers(0x7fff_ffff, END, OK)).unwrap();
    assert_eq!(told, [Told::Headers { id: 0x7fff_ffff, end: true, fields: owned(OK) }]);
}

#[test]
fn an_upgraded_request_is_stream_one() {
    let mut server = Connection::new(Role::Server, Config::default());
    let settings = UpgradeSettings::parse(b"AAMAAABkAAQAAAAK").unwrap();
    let id = server.accept_upgrade(&settings);
    assert_eq!((id.get(), server.is_ended(id), server.open_streams()), (1, true, 1));
    assert_eq!(server.send_capacity(id), 10);
    send_headers(&mut server, id, false, OK);
    server.send_data(id, 10, false);
    let input = [PREFACE, &frame(SETTINGS, 0, 0, &setting(4, 15)), &headers(3, END, GET)].concat();
    let told = feed(&mut server, &input).unwrap();
    assert_eq!(told, [Told::Writable, request_of(3)]);
    assert_eq!(server.send_capacity(id), 5);
    server.output().clear();
    server.send_data(id, 5, true);
    assert!(!server.is_open(id));
    server.output().clear();
    assert_eq!(feed(&mut server, &data(1, 0, b"x")).unwrap(), []);
    assert_eq!(sent(&mut server), frames(&rst_stream(1, Reason::STREAM_CLOSED)));
}

#[test]
fn cookies_in_crumbs_become_one() {
    let mut server = server(Config::default());
    let request = [
        block(GET),
        literal("cookie", b"a=1"),
        literal("x", b"y"),
        // A never-indexed literal (RFC 7541 section 6.2.3).
        [&[0x10][..], &literal("cookie", b"b=2")[1..]].concat(),
        literal("cookie", b"c=3"),
    ];
    for id in [1, 3] {
        let told = feed(&mut server, &frame(HEADERS, WHOLE | END, id, &request.concat())).unwrap();
        let expected = [GET, &[("cookie", "a=1; b=2; c=3"), ("x", "y")]].concat();
        assert_eq!(told, [http2::request(id, true, &expected)]);
        let never_indexed: Vec<bool> = server.block().iter().map(|f| f.never_indexed).collect();
        assert_eq!(never_indexed, [false, false, false, false, true, false]);
    }
}

#[test]
fn a_reset_by_the_peer_is_told_with_its_reason() {
    let mut server = server(Config::default());
    feed(&mut server, &headers(1, 0, POST)).unwrap();
    let told = feed(&mut server, &rst_stream(1, Reason(0xdead))).unwrap();
    assert_eq!(told, [Told::Reset { id: 1, reason: Reason(0xdead), by: ResetBy::Peer }]);
    assert!(server.is_idle());
    assert_eq!(
        (format!("{}", Reason(0xdead)), Reason(8).name()),
        ("0xdead".into(), Some("CANCEL"))
    );
}

#[test]
fn trailers_are_told_and_counted() {
    let mut server = server(Config::default());
    let input = [headers(1, 0, POST), data(1, 0, b"x"), headers(1, END, &[("grpc-status", "0")])];
    let told = feed(&mut server, &input.concat()).unwrap();
    assert_eq!(told[2], Told::Trailers { id: 1, fields: owned(&[("grpc-status", "0")]) });
    assert_eq!(server.counters().trailers, 1);
    assert_eq!(server.counters(), Default::default(), "counters are taken");
}

#[test]
fn priority_and_padding_of_headers_are_taken_off() {
    let block = block(GET);
    let weighed = [&[0x80, 0, 0, 77, 200][..], &block].concat();
    let padded = [&[3][..], &block, &[0; 3]].concat();
    let both = [&[2][..], &weighed, &[0; 2]].concat();
    let input = [
        frame(HEADERS, WHOLE | END | WEIGHED, 1, &weighed),
        frame(HEADERS, WHOLE | END | PADDED, 3, &padded),
        frame(HEADERS, WHOLE | END | PADDED | WEIGHED, 5, &both),
        frame(HEADERS, END | PADDED | WEIGHED, 7, &[&[0, 0, 0, 0, 0, 9][..], &block[..5]].concat()),
        frame(CONTINUATION, 0, 7, &block[5..9]),
        frame(CONTINUATION, WHOLE, 7, &block[9..]),
    ];
    let (fate, told) = fate("all forms", &|| server(Config::default()), &input.concat());
    assert_eq!(fate, Ignored);
    assert_eq!(told, [1, 3, 5, 7].map(request_of));
}
