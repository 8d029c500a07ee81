//! The life of connections and streams: upgrade, resets, the graceful end, and ids that run out.

use outrigger_codecs::http::Method;
use outrigger_codecs::http2::state::{FrameHead, HeadingState, ReadingState, Receiving};
use outrigger_codecs::http2::{
    Config, Connection, ConnectionCause as Cause, ConnectionState, Event, ImportError, Reason,
    ResetBy, Role, UpgradeSettings,
};

use crate::frames::*;

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
fn header_blocks_go_out_in_frames_of_the_peers_size() {
    let mut client = client(Config { huffman: false, ..Config::default() });
    let id = client.open_stream(Method::Get).unwrap();
    let long = "v".repeat(40_000);
    send_headers(&mut client, id, true, &[GET, &[("x", &long)]].concat());
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
fn a_smaller_table_is_in_force_once_it_is_acknowledged() {
    let config = Config { hpack_table_size: 0, ..Config::default() };
    let mut server = Connection::new(Role::Server, config);
    assert!(sent(&mut server)[0].payload.starts_with(&setting(1, 0)));
    // Before it knows better, the client uses a table: an insertion, and a use of it.
    let indexed = [&block(GET)[..], b"\x40\x01x\x01y\xbe"].concat();
    let input = [PREFACE, &frame(SETTINGS, 0, 0, b""), &frame(HEADERS, WHOLE | END, 1, &indexed)];
    let fields = [GET, &[("x", "y"), ("x", "y")]].concat();
    assert_eq!(feed(&mut server, &input.concat()).unwrap(), [request(1, true, &fields)]);
    let told = [
        frame(SETTINGS, END, 0, b""),
        // The update to zero, and no use of the table.
        frame(HEADERS, WHOLE | END, 3, &[&b"\x20"[..], &literal_block(GET)].concat()),
    ];
    assert_eq!(feed(&mut server, &told.concat()).unwrap(), [request_of(3)]);
    let state = server.export();
    assert!(state.decoder.table.entries.is_empty());

    let mut stubborn = Connection::import(state).unwrap();
    let error = feed(&mut stubborn, &frame(HEADERS, WHOLE | END, 5, b"\xbe")).unwrap_err();
    assert_eq!(error.reason, Reason::COMPRESSION_ERROR);
}

fn literal_block(fields: &Fields) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(name, value.as_bytes())).collect()
}

#[test]
fn settings_are_brought_inside_of_the_protocol() {
    let config = Config {
        initial_stream_window: 1,
        initial_connection_window: u32::MAX,
        max_frame_size: u32::MAX,
        ..Config::default()
    };
    let state = Connection::new(Role::Server, config).export();
    assert_eq!(state.config.initial_stream_window, 65_535);
    assert_eq!(state.config.initial_connection_window, 0x7fff_ffff);
    assert_eq!(state.config.max_frame_size, 0xff_ffff);
}

#[test]
fn states_that_no_connection_was_in_are_refused() {
    let mut server = server(Config::default());
    let input = [headers(1, 0, POST), headers(3, 0, POST), data(1, 0, b"abc")[..11].to_vec()];
    feed(&mut server, &input.concat()).unwrap();
    let state = server.export();
    assert!(Connection::import(state.clone()).is_ok());
    type Damage = fn(&mut ConnectionState);
    let damages: &[(&str, Damage)] = &[
        ("config outside of the protocol", |state| state.config.max_frame_size = 1),
        ("peer's window", |state| state.peer.initial_window = 1 << 31),
        ("peer's frame size", |state| state.peer.max_frame_size = 0),
        ("content left", |state| state.reading = ReadingState::Skip { left: 0 }),
        ("frame too large", |state| state.reading = ReadingState::Skip { left: 1 << 20 }),
        ("preface read", |state| state.reading = ReadingState::Preface { matched: 24 }),
        ("head read", |state| state.reading = ReadingState::Head { have: 9, bytes: [0; 9] }),
        ("payload of nothing", |state| state.partial = vec![0]),
        ("payload read", |state| {
            let head = FrameHead { len: 4, kind: 8, flags: 0, stream: 0 };
            state.reading = ReadingState::Payload { head, needed: 4 };
            state.partial = vec![0; 4];
        }),
        ("more needed than there is", |state| {
            let head = FrameHead { len: 4, kind: 8, flags: 0, stream: 0 };
            state.reading = ReadingState::Payload { head, needed: 5 };
        }),
        ("padding of nothing", |state| {
            let head = FrameHead { len: 0, kind: 0, flags: 8, stream: 1 };
            state.reading = ReadingState::PadLength { head };
        }),
        ("fragments of nothing", |state| state.fragments = vec![0]),
        ("heading of the connection", |state| {
            state.heading = Some(HeadingState {
                stream: 0,
                end_stream: true,
                self_dependent: false,
                continuations: 0,
            });
        }),
        ("stream never opened", |state| state.peer_last = 1),
        ("stream twice", |state| state.streams.push(state.streams[1])),
        ("streams unsorted", |state| state.streams.swap(0, 1)),
        ("even stream", |state| state.streams[0].id = 2),
        ("stream over", |state| {
            state.streams[0].receiving = Receiving::Ended;
            state.streams[0].sending_ended = true;
        }),
        ("stream of a client", |state| state.streams[0].receiving = Receiving::Head),
        ("stream window", |state| state.streams[0].receive.consumed = 65_535),
        ("connection window", |state| state.receive_window.available = u32::MAX),
        ("send window", |state| state.send_window.balance = i32::MAX),
        ("stream send window", |state| state.streams[0].send.balance = i32::MAX),
        ("length", |state| state.streams[0].content_left = u64::MAX - 1),
        ("next id", |state| state.local_next = 2),
        ("goaway", |state| state.goaway_sent = Some(u32::MAX)),
        ("too many resets", |state| state.resets = (0..200).collect()),
        ("table", |state| state.decoder.table.bytes_max = u32::MAX),
    ];
    for (name, damage) in damages {
        let mut state = state.clone();
        damage(&mut state);
        assert_eq!(Connection::import(state).err(), Some(ImportError), "{name}");
    }
}

#[test]
fn a_connection_that_failed_stays_so_after_a_hand_over() {
    let mut server = server(Config::default());
    let error = feed(&mut server, &window_update(0, 0)).unwrap_err();
    let mut moved = Connection::import(server.export()).unwrap();
    assert_eq!(moved.receive(b"", 0).unwrap_err().reason, error.reason);
    assert_eq!(moved.output(), server.output());
}

#[test]
fn forgotten_resets_get_the_benefit_of_the_doubt() {
    let mut server = server(Config::default());
    for n in 0..200 {
        feed(&mut server, &headers(1 + 2 * n, 0, POST)).unwrap();
        let id = server.stream_ids().next().unwrap();
        server.reset(id, Reason::NO_ERROR);
    }
    server.output().clear();
    for n in 0..200 {
        assert_eq!(feed(&mut server, &data(1 + 2 * n, END, b"late")).unwrap(), []);
        let trailers = headers(1 + 2 * n, END, &[("x", "y")]);
        if n < 72 {
            assert_eq!(feed(&mut server, &trailers).unwrap(), []);
        }
    }
    assert_eq!(sent(&mut server), []);
}
