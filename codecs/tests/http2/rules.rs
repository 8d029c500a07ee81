//! Frames that break a rule of RFC 9113 sections 3 to 6, each written by hand.

use outrigger_codecs::http::Method;
use outrigger_codecs::http2::hpack::HpackError;
use outrigger_codecs::http2::{
    Config, Connection, ConnectionCause as Cause, MessageError, Reason, Role, StreamCause,
};

use crate::fate::Fate::{self, Connection as Ends, Ignored, Stream as Resets};
use crate::fate::{NO_CONTINUATION, closed, fate, resilient};
use crate::frames::*;

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
    let told = feed(&mut server, &opened.concat()).expect("well-formed");
    for told in &told {
        if let Told::Headers { id: 5 | 11, .. } = told {
            let id =
                server.stream_ids().find(|id| [5, 11].contains(&id.get())).expect("it is open");
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
        ("data after the end", vec![data(3, 0, b"x")], closed(3)),
        ("headers after the end", vec![headers(3, END, GET)], closed(3)),
        ("window update after the end", vec![window_update(3, 1)], Ignored),
        ("priority after the end", vec![frame(PRIORITY, 0, 3, &[0; 5])], Ignored),
        ("data on closed", vec![data(5, END, b"x")], closed(5)),
        ("headers on closed", vec![headers(5, END, GET)], Ends(Cause::StreamIdInvalid)),
        (
            "headers on the last closed",
            vec![headers(11, END, GET)],
            Ends(Cause::HeadersOnClosedStream),
        ),
        ("window update on closed", vec![window_update(5, 1)], Ignored),
        ("reset on closed", vec![rst_stream(5, Reason::CANCEL)], Ignored),
        ("priority on closed", vec![frame(PRIORITY, 0, 5, &[0; 5])], Ignored),
        ("data after a reset", vec![data(7, 0, b"x")], closed(7)),
        ("headers after a reset", vec![headers(7, END, GET)], Ends(Cause::StreamIdInvalid)),
        ("reset after a reset", vec![rst_stream(7, Reason::CANCEL)], Ignored),
        ("data on skipped", vec![data(9, 0, b"x")], closed(9)),
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
        ("data after the end", vec![data(5, 0, b"x")], closed(5)),
        ("headers after the end", vec![headers(5, END, OK)], closed(5)),
        ("data on closed", vec![data(7, 0, b"x")], closed(7)),
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
    let sent_by_server = sent(&mut Connection::new(Role::Server, config));
    assert_eq!(
        (sent_by_server[0].kind, sent_by_server[0].flags, sent_by_server[0].stream),
        (SETTINGS, 0, 0)
    );
    let expected = [setting(3, 7), setting(6, 60 * 1024), setting(8, 1)];
    assert_eq!(sent_by_server[0].payload, expected.concat());
    assert_eq!(sent_by_server[1..], frames(&window_update(0, (1 << 20) - 65_535)));

    let mut client = Connection::new(Role::Client, config);
    assert!(client.output().starts_with(PREFACE));
    let expected = [setting(2, 0), setting(6, 60 * 1024)];
    assert_eq!(sent(&mut client)[0].payload, expected.concat());
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
