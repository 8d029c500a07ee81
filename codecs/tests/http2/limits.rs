//! Windows, limits and defences, at the limit and one past it.

use outrigger_codecs::http::Method;
use outrigger_codecs::http2::{
    Config, Connection, ConnectionCause as Cause, FloodLimits, ListLimits, Reason, ResetBy, Role,
    StreamCause,
};

use crate::fate::Fate::{Connection as Ends, Ignored, Stream as Resets};
use crate::fate::{fate, resilient};
use crate::frames::*;

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
    let long = [POST, &[("x", "0123456789"); 3]].concat();
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
