//! Hostile HTTP/2: each attack meets its limit, has its counter, costs no memory worth the name, and
//! is nobody else's business.

use std::time::{Duration, Instant};

use outrigger_tests::frames::{block, code, flag, get, kind, literal, post, setting};
use outrigger_tests::http::{Fault, Wire};
use outrigger_tests::{Config, Frame, Frames, Http2Client, Origin, Proxy, eventually};
use serde_json::json;

use crate::versions::{Version, config};

/// One attacked proxy, and somebody who uses it at the same time.
struct Scene {
    proxy: Proxy,
    origin: Origin,
    bystander: Http2Client,
    memory: u64,
}

impl Scene {
    fn new(http: serde_json::Value) -> Scene {
        let origin = Origin::ok();
        let mut proxy = Proxy::start(&Config::to(origin.address()).http(http));
        let bystander = proxy.http2();
        assert_eq!(bystander.get("/").text(), "ok");
        let memory = proxy.process().rss();
        Scene { proxy, origin, bystander, memory }
    }

    fn attacker(&self) -> Frames<Wire> {
        let mut frames = self.proxy.frames(&[]);
        frames.round_trip().unwrap();
        frames
    }

    /// Sends without reading, until the proxy takes no more or `limit` frames are sent. The
    /// bystander is served all the while.
    fn flood(&self, frames: &mut Frames<Wire>, limit: usize, batch: &[Frame]) {
        let bytes: Vec<u8> = batch.iter().flat_map(Frame::bytes).collect();
        for round in 0..limit / batch.len() {
            if frames.send_bytes(&bytes).is_err() {
                return;
            }
            if round % 100 == 0 {
                self.serves_others();
            }
        }
    }

    fn serves_others(&self) {
        let start = Instant::now();
        assert_eq!(self.bystander.get("/").text(), "ok");
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }

    /// The attacker's connection is over; with this code, where one arrived.
    #[track_caller]
    fn expect_end(&self, frames: &mut Frames<Wire>, code: u32) {
        frames.acknowledges = false;
        let end = frames.until_close().unwrap();
        assert!(end.is_none_or(|(found, _)| found == code), "{end:?}, not {code}");
    }

    /// The same, and GOAWAY must have arrived.
    #[track_caller]
    fn expect_goaway(&self, frames: &mut Frames<Wire>, code: u32) {
        frames.acknowledges = false;
        let end = frames.until_close().unwrap();
        assert_eq!(end.map(|(code, _)| code), Some(code));
    }

    /// Nothing is left of the attack.
    #[track_caller]
    fn end(mut self) {
        self.serves_others();
        assert_eq!(self.proxy.client().get("/").status, 200);
        let grown = self.proxy.process().rss().saturating_sub(self.memory);
        assert!(grown < MEMORY_BYTES, "{grown} bytes more of memory");
        self.proxy.expect_stat("http.main.downstream_cx_http2_active", 1);
        self.proxy.expect_no_active_requests();
        drop(self.bystander);
        self.proxy.expect_stat("http.main.downstream_cx_active", 0);
        self.proxy.stop();
    }

    /// One of these counters has counted.
    #[track_caller]
    fn expect_counted(&self, names: &[&str]) {
        expect_counted(&self.proxy, "http2", names);
    }
}

/// One of these counters of a codec has counted: several limits may stop the same attack.
#[track_caller]
fn expect_counted(proxy: &Proxy, root: &str, names: &[&str]) {
    eventually(&format!("one of {names:?}"), || {
        let stats = proxy.stats();
        let count = |name: &&str| stats.get(&format!("{root}.{name}")).copied().unwrap_or(0);
        (names.iter().map(count).sum::<u64>() > 0).then_some(())
    });
}

const SETTINGS_FLOOD: &[&str] = &["inbound_settings_frames_flood", "outbound_control_flood"];
const PING_FLOOD: &[&str] = &["inbound_ping_frames_flood", "outbound_control_flood"];
const EMPTY_FLOOD: &[&str] = &["inbound_empty_frames_flood"];
const PRIORITY_FLOOD: &[&str] = &["inbound_priority_frames_flood"];
const WINDOW_FLOOD: &[&str] = &["inbound_window_update_frames_flood"];
const HEADER_FLOOD: &[&str] =
    &["inbound_continuation_frames_flood", "inbound_empty_frames_flood", "header_overflow"];

/// What an attack may cost, with some room for the allocator.
const MEMORY_BYTES: u64 = 16 << 20;

#[test]
fn rapid_resets_are_stopped() {
    let scene = Scene::new(json!({"http2_protocol_options": {
        "stream_reset_burst": 100, "stream_reset_rate": 1,
    }}));
    let mut frames = scene.attacker();
    for stream in (1..20_001).step_by(2) {
        let request = Frame::headers(stream, &get("/"), true);
        if frames.send_all(&[request, Frame::reset(stream, code::CANCEL)]).is_err() {
            break;
        }
    }
    scene.expect_end(&mut frames, code::ENHANCE_YOUR_CALM);
    scene.expect_counted(&["rapid_reset"]);
    // Most of them were never the origin's business.
    let requests = scene.origin.log().requests.len();
    assert!(requests < 1000, "{requests} requests reached the origin");
    scene.proxy.await_stat("http2.rx_reset", |count| (100..1000).contains(&count));
    scene.end();
}

#[test]
fn resets_in_moderation_are_all_right() {
    let scene = Scene::new(json!({}));
    let mut frames = scene.attacker();
    for stream in (1..201).step_by(2) {
        let request = Frame::headers(stream, &get("/"), true);
        frames.send_all(&[request, Frame::reset(stream, code::CANCEL)]).unwrap();
    }
    assert_eq!(frames.get(201, "/").unwrap().text(), "ok");
    drop(frames);
    scene.end();
}

#[test]
fn resets_that_we_are_made_to_send_are_counted_as_well() {
    // "Made you reset": requests that are answered by RST_STREAM, without one of the client's own.
    let scene = Scene::new(json!({"http2_protocol_options": {
        "stream_reset_burst": 100, "stream_reset_rate": 1,
        "override_stream_error_on_invalid_http_message": true,
    }}));
    let mut frames = scene.attacker();
    for stream in (1..40_001).step_by(2) {
        let request = Frame::headers(stream, &post("/"), false);
        // A window must not overflow: a stream error.
        let overflow = Frame::window_update(stream, 0x7fff_ffff);
        if frames.send_all(&[request, overflow]).is_err() {
            break;
        }
    }
    frames.until_close().unwrap();
    scene.expect_counted(&["rapid_reset"]);
    let requests = scene.origin.log().requests.len();
    assert!(requests < 1000, "{requests} requests reached the origin");
    scene.end();
}

#[test]
fn continuation_floods_are_stopped() {
    for (name, piece) in [("full", &[0_u8; 16_000][..]), ("small", &[0; 1]), ("empty", &[])] {
        let scene = Scene::new(json!({}));
        let mut frames = scene.attacker();
        // Fields that are well-formed, over and over.
        let piece = match piece.len() {
            16_000 => literal(0x00, b"x", &[b'a'; 90]).repeat(160),
            1 => block(&[("x", "")]),
            _ => Vec::new(),
        };
        frames.send(&Frame::new(kind::HEADERS, 0, 1, block(&get("/attack")))).unwrap();
        let more = vec![Frame::new(kind::CONTINUATION, 0, 1, piece); 10];
        scene.flood(&mut frames, 200_000, &more);
        frames.until_close().unwrap_or_else(|fault| panic!("{name}: {fault:?}"));
        scene.expect_counted(HEADER_FLOOD);
        let log = scene.origin.log();
        assert!(log.requests.iter().all(|seen| seen.request.target != "/attack"), "{name}");
        scene.end();
    }
}

#[test]
fn settings_floods_are_stopped() {
    let scene = Scene::new(json!({}));
    let mut frames = scene.attacker();
    let settings = vec![Frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 65_535)]); 500];
    scene.flood(&mut frames, FLOOD_FRAMES, &settings);
    scene.expect_end(&mut frames, code::ENHANCE_YOUR_CALM);
    scene.expect_counted(SETTINGS_FLOOD);
    scene.end();
}

#[test]
fn ping_floods_are_stopped() {
    let scene = Scene::new(json!({}));
    let mut frames = scene.attacker();
    scene.flood(&mut frames, FLOOD_FRAMES, &vec![Frame::ping(1); 500]);
    scene.expect_end(&mut frames, code::ENHANCE_YOUR_CALM);
    scene.expect_counted(PING_FLOOD);
    scene.end();
}

/// Enough that the answers fill every socket buffer on the way.
const FLOOD_FRAMES: usize = 2_000_000;

#[test]
fn floods_of_empty_frames_are_stopped() {
    let scene = Scene::new(json!({}));
    let mut frames = scene.attacker();
    frames.send(&Frame::headers(1, &post("/"), false)).unwrap();
    scene.flood(&mut frames, 100_000, &vec![Frame::data(1, [], false); 10]);
    scene.expect_end(&mut frames, code::ENHANCE_YOUR_CALM);
    scene.expect_counted(EMPTY_FLOOD);
    scene.end();
}

#[test]
fn floods_of_priorities_are_stopped() {
    let scene = Scene::new(json!({}));
    let mut frames = scene.attacker();
    let priority = Frame::new(kind::PRIORITY, 0, 1, [0, 0, 0, 0, 16]);
    scene.flood(&mut frames, 100_000, &vec![priority; 10]);
    scene.expect_end(&mut frames, code::ENHANCE_YOUR_CALM);
    scene.expect_counted(PRIORITY_FLOOD);
    scene.end();
}

#[test]
fn floods_of_window_updates_are_stopped() {
    let scene = Scene::new(json!({}));
    let mut frames = scene.attacker();
    scene.flood(&mut frames, 100_000, &vec![Frame::window_update(0, 1); 10]);
    scene.expect_end(&mut frames, code::ENHANCE_YOUR_CALM);
    scene.expect_counted(WINDOW_FLOOD);
    scene.end();
}

#[test]
fn floods_of_unknown_frames_cost_nothing() {
    let scene = Scene::new(json!({}));
    let mut frames = scene.attacker();
    let unknown = vec![Frame::new(0xaa, 0xff, 7, vec![7; 100]); 10];
    scene.flood(&mut frames, 20_000, &unknown);
    // Ignored (RFC 9113 section 5.5), or held for an attack.
    let _ = frames.round_trip();
    drop(frames);
    scene.end();
}

#[test]
fn an_hpack_bomb_is_defused() {
    let scene = Scene::new(json!({"max_request_headers_kb": 60}));
    let mut frames = scene.attacker();
    // One entry of nearly the whole table, named sixteen thousand times: 64 MiB in 20 KiB.
    let mut fields = block(&get("/"));
    fields.extend(literal(0x40, b"x", &[b'a'; 4000]));
    fields.extend([0x80 | 62; 16_000]);
    let (first, rest) = fields.split_at(16_000);
    let end = flag::END_STREAM;
    frames
        .send_all(&[
            Frame::new(kind::HEADERS, end, 1, first),
            Frame::new(kind::CONTINUATION, flag::END_HEADERS, 1, rest),
        ])
        .unwrap();
    match frames.response(1) {
        Ok(response) => assert_eq!(response.status, 431),
        Err(fault) => assert_ne!(fault, Fault::Silent),
    }
    assert_eq!(scene.origin.log().requests.len(), 1);
    scene.expect_counted(&["header_overflow"]);
    drop(frames);
    scene.end();
}

#[test]
fn ten_megabytes_of_fields_are_refused() {
    let scene = Scene::new(json!({}));
    let mut frames = scene.attacker();
    let piece = literal(0x00, b"x", &[b'a'; 90]).repeat(160);
    frames.send(&Frame::new(kind::HEADERS, flag::END_STREAM, 1, block(&get("/")))).unwrap();
    let more = vec![Frame::new(kind::CONTINUATION, 0, 1, piece); 8];
    scene.flood(&mut frames, 640, &more);
    let _ = frames.send(&Frame::new(kind::CONTINUATION, flag::END_HEADERS, 1, []));
    match frames.response(1) {
        Ok(response) => assert_eq!(response.status, 431),
        Err(fault) => assert_ne!(fault, Fault::Silent),
    }
    assert!(scene.origin.log().requests.len() <= 2);
    drop(frames);
    scene.end();
}

#[test]
fn a_bad_hpack_block_ends_the_connection() {
    let scene = Scene::new(json!({}));
    for fields in [
        // An index that nobody has.
        vec![0x80 | 100],
        // Index 0.
        vec![0x80],
        // A length beyond the end.
        vec![0x00, 0x7f, 0xff, 0xff, 0xff, 0x7f],
        // An integer without end.
        [&[0x00, 0x7f][..], &[0xff; 40]].concat(),
        // Huffman padding that is not ones.
        vec![0x00, 0x81, 0x00, 0x00],
        // A table larger than allowed.
        vec![0x3f, 0xff, 0xff, 0xff, 0x07],
    ] {
        let mut frames = scene.attacker();
        frames
            .send(&Frame::new(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, fields))
            .unwrap();
        scene.expect_goaway(&mut frames, code::COMPRESSION_ERROR);
    }
    assert_eq!(scene.origin.log().requests.len(), 1);
    scene.end();
}

#[test]
fn windows_do_not_overflow() {
    let scene = Scene::new(json!({}));
    // Of a stream.
    let mut frames = scene.attacker();
    frames
        .send_all(&[Frame::headers(1, &post("/"), false), Frame::window_update(1, 0x7fff_ffff)])
        .unwrap();
    let reset = frames.next_of(kind::RST_STREAM).unwrap();
    assert_eq!((reset.stream, reset.number(0)), (1, code::FLOW_CONTROL_ERROR));
    assert_eq!(frames.get(3, "/").unwrap().text(), "ok");
    drop(frames);
    // Of the connection.
    let mut frames = scene.attacker();
    frames.send(&Frame::window_update(0, 0x7fff_ffff)).unwrap();
    scene.expect_goaway(&mut frames, code::FLOW_CONTROL_ERROR);
    // Of all streams, by a setting.
    let mut frames = scene.attacker();
    frames.send(&Frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 0x8000_0000)])).unwrap();
    scene.expect_goaway(&mut frames, code::FLOW_CONTROL_ERROR);
    // By nothing at all.
    let mut frames = scene.attacker();
    frames.send(&Frame::window_update(0, 0)).unwrap();
    scene.expect_goaway(&mut frames, code::PROTOCOL_ERROR);
    scene.end();
}

#[test]
fn data_beyond_the_windows_is_an_error() {
    let origin = Origin::start(|peer| {
        peer.request_head()?;
        peer.stall()
    });
    let windows = json!({
        "initial_stream_window_size": 65_535, "initial_connection_window_size": 65_535,
    });
    let config = Config::to(origin.address()).http(json!({"http2_protocol_options": windows}));
    let mut proxy = Proxy::start(&config);
    let before = proxy.process().rss();
    let mut frames = proxy.frames(&[]);
    frames.send(&Frame::headers(1, &post("/"), false)).unwrap();
    origin.nth_request(1);
    for _ in 0..1000 {
        if frames.send(&Frame::data(1, vec![b'x'; 16_384], false)).is_err() {
            break;
        }
    }
    let end = frames.until_close().unwrap();
    assert!(end.is_none_or(|(reason, _)| reason == code::FLOW_CONTROL_ERROR), "{end:?}");
    let grown = proxy.process().rss().saturating_sub(before);
    assert!(grown < MEMORY_BYTES, "{grown} bytes more of memory");
    proxy.expect_stat("http.main.downstream_cx_active", 0);
    proxy.expect_no_active_requests();
    proxy.stop();
}

#[test]
fn streams_above_the_limit_never_reach_the_origin() {
    let origin = Origin::start(|peer| {
        peer.request()?;
        peer.stall()
    });
    let config = Config::to(origin.address())
        .http(json!({"http2_protocol_options": {"max_concurrent_streams": 10}}));
    let mut proxy = Proxy::start(&config);
    let before = proxy.process().rss();
    let mut frames = proxy.frames(&[]);
    frames.round_trip().unwrap();
    for stream in (1..40_001).step_by(2) {
        if frames.send(&Frame::headers(stream, &get("/"), true)).is_err() {
            break;
        }
    }
    // Refused one by one, or held for an attack.
    let _ = frames.round_trip();
    let requests = origin.log().requests.len();
    assert!(requests <= 10, "{requests} requests reached the origin");
    let grown = proxy.process().rss().saturating_sub(before);
    assert!(grown < MEMORY_BYTES, "{grown} bytes more of memory");
    drop(frames);
    proxy.expect_stat("http.main.downstream_cx_active", 0);
    proxy.expect_no_active_requests();
    proxy.stop();
}

#[test]
fn who_opens_no_window_is_reset() {
    let body = "x".repeat(100_000);
    let origin = Origin::answering(format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ));
    let config = Config::to(origin.address()).http(json!({"stream_idle_timeout": "0.5s"}));
    let mut proxy = Proxy::start(&config);
    let before = proxy.process().rss();
    let mut frames = proxy.frames(&[(setting::INITIAL_WINDOW_SIZE, 0)]);
    for stream in [1, 3, 5, 7, 9] {
        frames.send(&Frame::headers(stream, &get("/"), true)).unwrap();
    }
    let mut reset = Vec::new();
    while reset.len() < 5 {
        reset.push(frames.next_of(kind::RST_STREAM).unwrap().stream);
    }
    reset.sort_unstable();
    assert_eq!(reset, [1, 3, 5, 7, 9]);
    // The connection itself is as good as before.
    frames.send(&Frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 20)])).unwrap();
    assert_eq!(frames.get(11, "/").unwrap().body.len(), body.len());
    let grown = proxy.process().rss().saturating_sub(before);
    assert!(grown < MEMORY_BYTES, "{grown} bytes more of memory");
    proxy.expect_no_active_requests();
    proxy.stop();
}

#[test]
fn a_window_that_opens_byte_by_byte_does_not_keep_a_stream_for_ever() {
    let origin = Origin::answering(format!(
        "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n{}",
        "x".repeat(100_000)
    ));
    let config = Config::to(origin.address()).http(json!({
        "common_http_protocol_options": {"max_stream_duration": "0.5s"},
    }));
    let proxy = Proxy::start(&config);
    let mut frames = proxy.frames(&[(setting::INITIAL_WINDOW_SIZE, 1)]);
    frames.send(&Frame::headers(1, &get("/"), true)).unwrap();
    let mut bytes = 0;
    loop {
        let frame = frames.next().unwrap();
        match frame.kind {
            kind::DATA => {
                bytes += frame.payload.len();
                frames.send(&Frame::window_update(1, 1)).unwrap();
            }
            kind::RST_STREAM => break,
            _ => {}
        }
    }
    assert!(bytes < 100_000);
    proxy.expect_no_active_requests();
    proxy.stop();
}

#[test]
fn a_short_response_that_nobody_reads_ends_in_time() {
    // It is whole, and waits for the client alone: no exchange is under way any more.
    let origin = Origin::answering("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello");
    let config = Config::to(origin.address()).http(json!({"stream_flush_timeout": "0.3s"}));
    let proxy = Proxy::start(&config);
    let mut frames = proxy.frames(&[(setting::INITIAL_WINDOW_SIZE, 0)]);
    frames.send(&Frame::headers(1, &get("/"), true)).unwrap();
    let reset = loop {
        let frame = frames.next().unwrap();
        assert_ne!(frame.kind, kind::DATA);
        if frame.kind == kind::RST_STREAM {
            break frame;
        }
    };
    assert_eq!(reset.stream, 1);
    proxy.expect_stat("http2.tx_flush_timeout", 1);
    proxy.stop();
}

#[test]
fn half_a_connection_does_no_harm() {
    let scene = Scene::new(json!({}));
    let preface = outrigger_tests::frames::PREFACE;
    let headers = Frame::headers(1, &get("/"), true).bytes();
    for bytes in [
        preface[..10].to_vec(),
        preface.to_vec(),
        [preface, &[0, 0, 0]].concat(),
        [preface, &Frame::settings(&[]).bytes(), &headers[..20]].concat(),
    ] {
        let mut client = scene.proxy.client();
        client.send(&bytes);
        client.reset();
        let mut client = scene.proxy.client();
        client.send(&bytes).finish();
        let _ = client.wire().closed();
    }
    scene.end();
}

#[test]
fn frames_that_nobody_may_send_end_the_connection() {
    let scene = Scene::new(json!({}));
    let cases: &[(&str, &[Frame])] = &[
        ("DATA on stream 0", &[Frame::data(0, *b"x", false)]),
        ("HEADERS on stream 0", &[Frame::headers(0, &get("/"), true)]),
        ("an even stream", &[Frame::headers(2, &get("/"), true)]),
        (
            "a stream that goes back",
            &[Frame::headers(5, &get("/"), true), Frame::headers(3, &get("/"), true)],
        ),
        ("DATA of no stream", &[Frame::data(9, *b"x", false)]),
        ("RST_STREAM of no stream", &[Frame::reset(9, code::CANCEL)]),
        ("WINDOW_UPDATE of no stream", &[Frame::window_update(9, 1)]),
        ("SETTINGS on a stream", &[Frame::new(kind::SETTINGS, 0, 1, [])]),
        ("SETTINGS of five bytes", &[Frame::new(kind::SETTINGS, 0, 0, [0; 5])]),
        ("ACK with settings", &[Frame::new(kind::SETTINGS, flag::ACK, 0, [0; 6])]),
        ("PING on a stream", &[Frame::new(kind::PING, 0, 1, [0; 8])]),
        ("PING of seven bytes", &[Frame::new(kind::PING, 0, 0, [0; 7])]),
        ("PUSH_PROMISE", &[Frame::new(kind::PUSH_PROMISE, flag::END_HEADERS, 1, [0, 0, 0, 2])]),
        ("CONTINUATION of nothing", &[Frame::new(kind::CONTINUATION, flag::END_HEADERS, 1, [])]),
        (
            "PING within a field section",
            &[Frame::new(kind::HEADERS, 0, 1, block(&get("/"))), Frame::ping(1)],
        ),
        (
            "padding longer than the frame",
            &[
                Frame::headers(1, &post("/"), false),
                Frame::new(kind::DATA, flag::PADDED, 1, [200, b'x']),
            ],
        ),
        (
            "a frame above the size",
            &[Frame::headers(1, &post("/"), false), Frame::data(1, vec![0; 16_385], true)],
        ),
        ("a push", &[Frame::settings(&[(setting::ENABLE_PUSH, 2)])]),
        ("a frame size too small", &[Frame::settings(&[(setting::MAX_FRAME_SIZE, 16_383)])]),
    ];
    for (name, attack) in cases {
        let mut frames = scene.attacker();
        let _ = frames.send_all(attack);
        let end = frames.until_close();
        assert!(matches!(end, Ok(Some((1.., _)))), "{name}: {end:?}");
    }
    scene.end();
}

#[test]
fn random_frames_do_no_harm() {
    const CONNECTIONS: usize = 2000;
    let scene = Scene::new(json!({}));
    let mut random = Random(0x1234_5678_9abc_def0);
    for _ in 0..CONNECTIONS {
        let mut bytes = outrigger_tests::frames::PREFACE.to_vec();
        bytes.extend(Frame::settings(&[]).bytes());
        for _ in 0..random.below(12) {
            let payload: Vec<u8> = match random.below(3) {
                0 => block(&get("/")),
                _ => (0..random.below(40)).map(|_| random.byte()).collect(),
            };
            let stream = u32::from(random.byte() % 8);
            let frame = Frame::new(random.byte() % 11, random.byte(), stream, payload);
            bytes.extend(frame.bytes());
        }
        let mut client = scene.proxy.client();
        let _ = client.try_send(&bytes);
        client.reset();
    }
    scene.end();
}

/// xorshift64: the same bytes in every run.
struct Random(u64);

impl Random {
    fn byte(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.to_le_bytes()[3]
    }

    fn below(&mut self, limit: u8) -> u8 {
        self.byte() % limit
    }
}

/// A name, pseudo-header fields instead of those of `GET /`, and other fields. The body is the
/// smuggled request, for whoever finds the end of the head too early.
type Smuggling = (&'static str, &'static [(&'static str, &'static str)]);

const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", "/")];

const INJECTED: &str = "a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n";

/// Fields after the pseudo-header fields of a GET.
#[rustfmt::skip]
const FIELDS: &[Smuggling] = &[
    ("CR LF in a value", &[("x", INJECTED)]),
    ("CR LF at the end of a value", &[("x", "a\r\n")]),
    ("LF in a value", &[("x", "a\nb: c")]),
    ("CR in a value", &[("x", "a\rb: c")]),
    ("NUL in a value", &[("x", "a\0b")]),
    ("CR LF in a name", &[("x\r\ntransfer-encoding", "chunked")]),
    ("LF in a name", &[("x\ny", "a")]),
    ("NUL in a name", &[("x\0", "a")]),
    ("colon in a name", &[("x:y", "a")]),
    ("transfer-encoding hidden by a colon", &[("transfer-encoding: chunked\r\nx", "a")]),
    ("space in a name", &[("x y", "a")]),
    ("space after a name", &[("transfer-encoding ", "chunked")]),
    ("tab in a name", &[("transfer-encoding\t", "chunked")]),
    ("upper case in a name", &[("X-Upper", "a")]),
    ("Transfer-Encoding in upper case", &[("Transfer-Encoding", "chunked")]),
    ("empty name", &[("", "a")]),
    ("non-ASCII name", &[("x\u{e9}", "a")]),
    ("transfer-encoding", &[("transfer-encoding", "chunked")]),
    ("transfer-encoding identity", &[("transfer-encoding", "identity")]),
    ("connection", &[("connection", "close")]),
    ("connection that names a field", &[("connection", "x-forwarded-for")]),
    ("keep-alive", &[("keep-alive", "timeout=5")]),
    ("proxy-connection", &[("proxy-connection", "keep-alive")]),
    ("upgrade", &[("upgrade", "websocket")]),
    ("te other than trailers", &[("te", "chunked")]),
    ("te with trailers among others", &[("te", "gzip, trailers")]),
    ("host that is not the authority", &[("host", "other")]),
    ("two hosts", &[("host", "test"), ("host", "other")]),
    ("host with CR LF", &[("host", "test\r\nx: y")]),
    ("content-length twice", &[("content-length", "0"), ("content-length", "5")]),
    ("content-length list", &[("content-length", "0, 5")]),
    ("content-length plus", &[("content-length", "+0")]),
    ("content-length minus", &[("content-length", "-1")]),
    ("content-length hex", &[("content-length", "0x0")]),
    ("content-length space", &[("content-length", "0 0")]),
    ("content-length 2^64", &[("content-length", "18446744073709551616")]),
    ("content-length without a body", &[("content-length", "5")]),
    ("a pseudo-header after a field", &[("x", "a"), (":path", "/smuggled")]),
    ("an unknown pseudo-header", &[(":foo", "a")]),
    (":status in a request", &[(":status", "200")]),
    (":method twice", &[(":method", "POST")]),
    (":path twice", &[(":path", "/smuggled")]),
    (":scheme twice", &[(":scheme", "https")]),
    (":authority twice", &[(":authority", "other")]),
    (":protocol without CONNECT", &[(":protocol", "websocket")]),
];

/// Whole heads.
#[rustfmt::skip]
const HEADS: &[Smuggling] = &[
    ("CR LF in :path", &[(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", "/ HTTP/1.1\r\nHost: test\r\n\r\nGET /smuggled")]),
    ("CR LF in :method", &[(":method", "GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\nGET"), (":scheme", "http"), (":authority", "test"), (":path", "/")]),
    ("CR LF in :authority", &[(":method", "GET"), (":scheme", "http"), (":authority", "test\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: test"), (":path", "/")]),
    ("CR LF in :scheme", &[(":method", "GET"), (":scheme", "http://test/smuggled HTTP/1.1\r\nHost: test\r\n\r\nGET http"), (":authority", "test"), (":path", "/")]),
    ("space in :path", &[(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", "/ HTTP/1.1 /smuggled")]),
    ("tab in :path", &[(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", "/\tHTTP/1.1")]),
    ("NUL in :path", &[(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", "/\0")]),
    ("DEL in :path", &[(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", "/\u{7f}")]),
    ("fragment in :path", &[(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", "/a#/smuggled")]),
    ("empty :path", &[(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", "")]),
    (":path without slash", &[(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", "smuggled")]),
    ("absolute :path", &[(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", "http://other/smuggled")]),
    ("* as the :path of a GET", &[(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", "*")]),
    ("space in :method", &[(":method", "GET /smuggled"), (":scheme", "http"), (":authority", "test"), (":path", "/")]),
    ("empty :method", &[(":method", ""), (":scheme", "http"), (":authority", "test"), (":path", "/")]),
    ("separator in :method", &[(":method", "GET:"), (":scheme", "http"), (":authority", "test"), (":path", "/")]),
    ("user in :authority", &[(":method", "GET"), (":scheme", "http"), (":authority", "user@test"), (":path", "/")]),
    ("path in :authority", &[(":method", "GET"), (":scheme", "http"), (":authority", "test/smuggled"), (":path", "/")]),
    ("space in :authority", &[(":method", "GET"), (":scheme", "http"), (":authority", "test other"), (":path", "/")]),
    ("empty :authority", &[(":method", "GET"), (":scheme", "http"), (":authority", ""), (":path", "/")]),
    ("no :authority and no host", &[(":method", "GET"), (":scheme", "http"), (":path", "/")]),
    ("no :method", &[(":scheme", "http"), (":authority", "test"), (":path", "/")]),
    ("no :path", &[(":method", "GET"), (":scheme", "http"), (":authority", "test")]),
    ("no :scheme", &[(":method", "GET"), (":authority", "test"), (":path", "/")]),
    ("CONNECT with :path", &[(":method", "CONNECT"), (":scheme", "http"), (":authority", "test:80"), (":path", "/")]),
    ("CONNECT without :authority", &[(":method", "CONNECT")]),
    ("nothing", &[]),
];

/// How a message with a body is wrong: its fields, the body, and its trailers.
type Body = (&'static str, &'static [(&'static str, &'static str)], &'static str, Smuggled);
type Smuggled = &'static [(&'static str, &'static str)];

const REQUEST: &str = "GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n";

#[rustfmt::skip]
const BODIES: &[Body] = &[
    ("a body longer than its length", &[("content-length", "0")], REQUEST, &[]),
    ("a body much longer than its length", &[("content-length", "3")], REQUEST, &[]),
    ("a body shorter than its length", &[("content-length", "500")], REQUEST, &[]),
    ("a body with transfer-encoding", &[("transfer-encoding", "chunked")], "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n", &[]),
    ("a pseudo-header among trailers", &[], "0\r\n\r\n", &[(":path", "/smuggled")]),
    ("CR LF in a trailer", &[], "hello", &[("x", INJECTED)]),
    ("CR LF in a trailer's name", &[], "hello", &[("x: y\r\n\r\nGET /smuggled HTTP/1.1\r\nhost", "test")]),
    ("upper case in a trailer", &[], "hello", &[("X", "y")]),
    ("transfer-encoding among trailers", &[], "hello", &[("transfer-encoding", "chunked")]),
    ("connection among trailers", &[], "hello", &[("connection", "close")]),
];

/// The one response that there may be: a refusal.
#[track_caller]
fn refused(name: &str, frames: &mut Frames<Wire>) {
    match frames.response(1) {
        Ok(response) => {
            assert!(matches!(response.status, 400 | 404 | 501), "{name}: {}", response.status);
        }
        Err(Fault::Stream(_) | Fault::GoAway(_) | Fault::Closed | Fault::Reset) => {}
        Err(fault) => panic!("{name}: {fault:?}"),
    }
}

#[test]
fn ambiguous_heads_are_refused_and_the_origin_gets_nothing() {
    for per_stream in [false, true] {
        let origin = Origin::ok();
        let config = Config::to(origin.address()).http(json!({
            "delayed_close_timeout": "0.05s",
            "http2_protocol_options": {
                "override_stream_error_on_invalid_http_message": per_stream,
            },
        }));
        let proxy = Proxy::start(&config);
        let fields = FIELDS.iter().map(|(name, fields)| (*name, [&GET, *fields].concat()));
        let heads = HEADS.iter().map(|(name, fields)| (*name, fields.to_vec()));
        let mut passed = Vec::new();
        for (name, fields) in fields.chain(heads) {
            let mut frames = proxy.frames(&[]);
            frames.send(&Frame::headers(1, &fields, true)).unwrap();
            refused(name, &mut frames);
            if origin.log().requests.len() > passed.len() {
                passed.push(name);
            }
        }
        assert!(passed.is_empty(), "reached the origin: {passed:?}");
        proxy.expect_no_active_requests();
        proxy.stop();
    }
}

#[test]
fn ambiguous_bodies_are_refused_and_nothing_is_smuggled() {
    for up in [Version::Http1, Version::Http2] {
        // Whole requests only are in the log.
        let origin = crate::versions::origin(up);
        let config = config(&origin, up).http(json!({"delayed_close_timeout": "0.05s"}));
        let proxy = Proxy::start(&config);
        for (name, fields, body, trailers) in BODIES {
            let mut frames = proxy.frames(&[]);
            let head = [&post("/length")[..], fields].concat();
            let mut message = vec![Frame::headers(1, &head, false)];
            message.push(Frame::data(1, *body, trailers.is_empty()));
            if !trailers.is_empty() {
                message.push(Frame::headers(1, trailers, true));
            }
            frames.send_all(&message).unwrap();
            refused(name, &mut frames);
            drop(frames);
            proxy.expect_no_active_requests();
            assert_eq!(origin.log().requests.len(), 0, "{up:?}: {name}: reached the origin");
        }
        // Connections of which a part was used are not used again.
        assert_eq!(proxy.http2().get("/length").text(), "length");
        let targets: Vec<_> =
            origin.log().requests.iter().map(|seen| seen.request.target.clone()).collect();
        assert_eq!(targets, ["/length"]);
        proxy.stop();
    }
}

#[test]
fn a_body_is_never_read_as_a_request() {
    let origin = crate::versions::origin(Version::Http1);
    let proxy = Proxy::start(&config(&origin, Version::Http1));
    let client = proxy.http2();
    for method in ["GET", "POST", "DELETE", "OPTIONS", "HEAD"] {
        let length = REQUEST.len().to_string();
        client.ask(method, "/length", &[("content-length", &length)], REQUEST.as_bytes());
        client.ask(method, "/length", &[], REQUEST.as_bytes());
        client.ask(method, "/length", &[], b"");
    }
    let log = origin.log();
    assert!(log.requests.iter().all(|seen| seen.request.target == "/length"), "{log:?}");
    assert_eq!(log.requests.len(), 15);
    assert_eq!(log.accepted, 1);
    proxy.stop();
}

#[test]
fn a_response_of_http2_is_never_read_as_two() {
    // What an origin may try on a client of HTTP/1.1.
    #[rustfmt::skip]
    let responses: &[(&str, &[(&str, &str)])] = &[
        ("CR LF in a value", &[(":status", "200"), ("x", "a\r\n\r\nHTTP/1.1 200 OK")]),
        ("NUL in a value", &[(":status", "200"), ("x", "a\0")]),
        ("upper case", &[(":status", "200"), ("X", "a")]),
        ("CR LF in a name", &[(":status", "200"), ("x\r\ny", "a")]),
        ("transfer-encoding", &[(":status", "200"), ("transfer-encoding", "chunked")]),
        ("connection", &[(":status", "200"), ("connection", "close")]),
        ("no status", &[("x", "a")]),
        ("two statuses", &[(":status", "200"), (":status", "204")]),
        ("a status that is none", &[(":status", "20x")]),
        ("101", &[(":status", "101")]),
        ("a request's pseudo-header", &[(":status", "200"), (":path", "/")]),
        ("lengths that differ", &[(":status", "200"), ("content-length", "1"), ("content-length", "2")]),
        ("a body shorter than its length", &[(":status", "200"), ("content-length", "5")]),
    ];
    let served = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let origin = Origin::start(move |peer| {
        let (mut frames, _) = peer.frames(&[])?;
        loop {
            let (stream, request) = frames.request()?;
            let number: usize = request.target.trim_start_matches('/').parse().unwrap();
            served.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            frames.send(&Frame::headers(stream, responses[number].1, true))?;
        }
    });
    let proxy = Proxy::start(&Config::to_http2(origin.address()));
    for (number, (name, _)) in responses.iter().enumerate() {
        let mut client = proxy.client();
        client.send(format!("GET /{number} HTTP/1.1\r\nHost: test\r\n\r\n"));
        match client.try_response() {
            Ok(response) => assert!(matches!(response.status, 502 | 503), "{name}: {response:?}"),
            Err(fault) => {
                assert!(matches!(fault, Fault::Truncated | Fault::Reset), "{name}: {fault:?}");
            }
        }
    }
    proxy.expect_no_active_requests();
    proxy.stop();
}

#[test]
fn hostile_origins_are_survived() {
    let cases: &[(&str, &[Frame])] = &[
        ("a promise", &[Frame::new(kind::PUSH_PROMISE, flag::END_HEADERS, 1, [0, 0, 0, 2, 0x88])]),
        ("an answer that was not asked for", &[Frame::headers(99, &[(":status", "200")], true)]),
        ("a stream of its own", &[Frame::headers(2, &[(":status", "200")], true)]),
        ("a bad block", &[Frame::new(kind::HEADERS, flag::END_HEADERS, 1, [0x80])]),
        ("an overflow", &[Frame::window_update(0, 0x7fff_ffff)]),
        ("an empty update", &[Frame::window_update(0, 0)]),
        ("a frame too large", &[Frame::new(kind::DATA, 0, 1, vec![0; 20_000])]),
        ("DATA before HEADERS", &[Frame::data(1, *b"hello", true)]),
        ("settings that are none", &[Frame::settings(&[(setting::MAX_FRAME_SIZE, 1)])]),
        ("GOAWAY with an error", &[Frame::goaway(0, code::INTERNAL_ERROR)]),
    ];
    for (name, frames_of_origin) in cases {
        let frames_of_origin = frames_of_origin.to_vec();
        let origin = Origin::start(move |peer| {
            let number = peer.number();
            let (mut frames, notes) = peer.frames(&[])?;
            let (stream, request) = frames.request()?;
            notes.note(&request);
            if number == 0 {
                frames.send_all(&frames_of_origin)?;
            } else {
                frames.send(&Frame::headers(stream, &[(":status", "200")], true))?;
            }
            // Where only the stream was at fault, the connection goes on.
            loop {
                let (stream, request) = frames.request()?;
                notes.note(&request);
                frames.send(&Frame::headers(stream, &[(":status", "200")], true))?;
            }
        });
        let proxy = Proxy::start(&Config::to_http2(origin.address()));
        let client = proxy.http2();
        let status = client.get("/").status;
        // A request that GOAWAY says was not processed may have gone to another connection.
        assert!(matches!(status, 200 | 502 | 503), "{name}: {status}");
        assert_eq!(client.get("/").status, 200, "{name}");
        assert_eq!(proxy.stat("http.main.downstream_cx_total"), 1, "{name}");
        proxy.stop();
    }
}

#[test]
fn floods_of_origins_are_stopped() {
    let priority = Frame::new(kind::PRIORITY, 0, 1, [0, 0, 0, 0, 1]);
    for (name, frame, counters) in [
        ("SETTINGS", Frame::settings(&[]), SETTINGS_FLOOD),
        ("PING", Frame::ping(1), PING_FLOOD),
        ("empty DATA", Frame::data(1, [], false), EMPTY_FLOOD),
        ("PRIORITY", priority, PRIORITY_FLOOD),
        ("WINDOW_UPDATE", Frame::window_update(0, 1), WINDOW_FLOOD),
    ] {
        let origin = Origin::start(move |peer| {
            let (mut frames, _) = peer.frames(&[])?;
            frames.request()?;
            frames.send(&Frame::headers(1, &[(":status", "200")], false))?;
            let bytes = vec![frame.clone(); 500].iter().flat_map(Frame::bytes).collect::<Vec<u8>>();
            for _ in 0..FLOOD_FRAMES / 500 {
                frames.send_bytes(&bytes)?;
            }
            Ok(())
        });
        let mut proxy = Proxy::start(&Config::to_http2(origin.address()));
        let before = proxy.process().rss();
        let client = proxy.http2();
        let mut call = client.open("GET", "/", &[], true);
        let ended = call.response();
        assert!(
            matches!(ended, Err(Fault::Stream(_))) || ended.is_ok_and(|r| r.status == 503),
            "{name}"
        );
        let grown = proxy.process().rss().saturating_sub(before);
        assert!(grown < MEMORY_BYTES, "{name}: {grown} bytes more of memory");
        expect_counted(&proxy, "cluster.origin.http2", counters);
        origin.wait_released();
        proxy.stop();
    }
}
