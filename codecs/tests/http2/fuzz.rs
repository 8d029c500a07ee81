//! HTTP/2 connections under mutated conversations: a part of the `fuzz_smoke` program.
//!
//! Beside "never panics", the oracles are: what is told, answered and refused doesn't depend on how
//! the bytes arrive nor on a hand-over in their midst; what is told as a message is one; and neither
//! the state nor the output grows beyond the limits.

use outrigger_codecs::http::{FieldKind, FieldStorage, Method};
use outrigger_codecs::http2::{
    Config, Connection, ConnectionError, Event, ListLimits, Reason, Role, Step, StreamId,
    request_head, response_head, trailers,
};

use crate::support::mutate::fuzz;

const PREFACE_LEN: usize = 24;
const STREAMS_MAX: u32 = 4;
const LIST: ListLimits = ListLimits::new(2048, 16);

const WORDS: &[&[u8]] = &[
    b"\0\0\0\x04\0\0\0\0\0",
    b"\0\0\0\x04\x01\0\0\0\0",
    b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0",
    b"\0\0\x06\x04\0\0\0\0\0\0\x04\x7f\xff\xff\xff",
    b"\0\0\x06\x04\0\0\0\0\0\0\x01\0\0\0\0",
    b"\0\0\x08\x06\0\0\0\0\0........",
    b"\0\0\x08\x06\x01\0\0\0\0........",
    b"\0\0\x04\x08\0\0\0\0\0\0\0\x10\0",
    b"\0\0\x04\x08\0\0\0\0\x01\x7f\xff\xff\xff",
    b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08",
    b"\0\0\x04\x03\0\0\0\0\x03\0\0\0\0",
    b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x01\0\0\0\0",
    b"\0\0\x05\x02\0\0\0\0\x01\0\0\0\x03\x10",
    b"\0\0\x05\0\x08\0\0\0\x01\x02ab\0\0",
    b"\0\0\x02\0\x01\0\0\0\x03ab",
    b"\0\0\0\0\x01\0\0\0\x03",
    b"\0\0\x05\x01\x05\0\0\0\x09\x82\x86\x84\x41\x01a",
    b"\0\0\x05\x01\x04\0\0\0\x0b\x83\x86\x84\x41\x01a",
    b"\0\0\x01\x01\x04\0\0\0\x01\x88",
    b"\0\0\x01\x01\0\0\0\0\x03\x88",
    b"\0\0\x01\x09\x04\0\0\0\x03\x88",
    b"\0\0\x03\x99\0\0\0\0\0abc",
    b"\x82",
    b"\x88",
    b"\x3f\xe1\x1f",
    b"\x20",
];

#[test]
fn http2_connections() {
    let (to_server, to_client) = conversation();
    let mut events = 0;
    for (name, role, seed) in [
        ("http/2 to a server", Role::Server, to_server),
        ("http/2 to a client", Role::Client, to_client),
    ] {
        let preface_len = if role == Role::Server { PREFACE_LEN } else { 0 };
        let (preface, frames) = seed.split_at(preface_len);
        fuzz(name, &[frames], WORDS, |input, random| {
            // The preface is left out now and then only, to reach what is behind it.
            let preface = if random.below(50) > 0 { preface } else { b"" };
            let input = [preface, input].concat();
            let whole = listen(role, &input, None, || usize::MAX / 2);
            let cut = random.below(input.len() + 1);
            let pieces = listen(role, &input, Some(cut), || 1 + random.below(40));
            assert_eq!(pieces, whole, "in pieces, and moved at {cut}");
            events += whole.told.len();
        });
    }
    assert!(events > 100_000, "mutations too wild: only {events} events");
}

/// What a client and a server say to each other in a conversation with a bit of everything.
fn conversation() -> (Vec<u8>, Vec<u8>) {
    let mut client = Connection::new(Role::Client, Config::default());
    let mut server = Connection::new(Role::Server, Config::default());
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    for (path, length) in [("/", "5"), ("/a?b=c", "7"), ("/orders.Orders/Place", "7")] {
        let id = client.open_stream(Method::Post).expect("below the limit");
        let request = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "a.example:8080"),
            ("content-length", length),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("te", "trailers"),
        ];
        send(&mut client, id, false, &request);
        if path == "/" {
            client.send_data(id, 5, true);
            client.output().extend(b"hello");
        } else {
            client.send_data(id, 7, false);
            client.output().extend(b"good\nby");
            send(&mut client, id, true, &[("x-checksum", "1")]);
        }
        client.ping(*b"are you?");
        deliver(&mut client, &mut server, &mut to_server);
        send(&mut server, id, false, &[(":status", "103"), ("link", "</x>")]);
        send(&mut server, id, false, &[(":status", "200"), ("server", "x")]);
        server.send_data(id, 3, false);
        server.output().extend(b"abc");
        send(&mut server, id, true, &[("grpc-status", "0")]);
        deliver(&mut server, &mut client, &mut to_client);
    }
    let id = client.open_stream(Method::Get).expect("below the limit");
    let request = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
    send(&mut client, id, false, &request);
    client.reset(id, Reason::CANCEL);
    deliver(&mut client, &mut server, &mut to_server);
    server.announce_shutdown();
    server.shutdown();
    deliver(&mut server, &mut client, &mut to_client);
    (to_server, to_client)
}

fn send(connection: &mut Connection, id: StreamId, end: bool, fields: &[(&str, &str)]) {
    let mut writer = connection.encode_headers();
    for (name, value) in fields {
        writer.field(name, value.as_bytes(), FieldKind::of(name.as_bytes()), false);
    }
    connection.send_headers(id, end);
}

fn deliver(from: &mut Connection, to: &mut Connection, wire: &mut Vec<u8>) {
    let sent = std::mem::take(from.output());
    wire.extend_from_slice(&sent);
    let mut rest = &sent[..];
    loop {
        let step = to.receive(rest, 0).expect("well-formed");
        rest = &rest[step.consumed..];
        match step.event {
            Some(Event::Data { id, range, .. }) => to.release(id, range.len()),
            Some(_) => {}
            None => break,
        }
    }
}

/// What a connection told of an input and did about it.
#[derive(Debug, PartialEq)]
struct Heard {
    told: Vec<String>,
    content: Vec<u8>,
    sent: Vec<u8>,
    error: Option<ConnectionError>,
}

/// Feeds `input` in pieces of the given lengths, moves the connection to another one before the byte at
/// `moved_at`, and checks what must hold in the end.
fn listen(
    role: Role,
    input: &[u8],
    moved_at: Option<usize>,
    mut piece_len: impl FnMut() -> usize,
) -> Heard {
    let config = Config {
        max_concurrent_streams: STREAMS_MAX,
        list: LIST,
        stream_error_on_invalid: true,
        ..Config::default()
    };
    let mut connection = Connection::new(role, config);
    if role == Role::Client {
        for _ in 0..STREAMS_MAX {
            let id = connection.open_stream(Method::Post).expect("below the limit");
            send(&mut connection, id, id.get() % 4 == 1, &[(":method", "POST")]);
        }
    }
    connection.output().clear();
    let mut heard = Heard { told: Vec::new(), content: Vec::new(), sent: Vec::new(), error: None };
    let (mut at, mut end) = (0, 0);
    loop {
        if at == end {
            if moved_at == Some(at) {
                let state = connection.export();
                connection = Connection::import(state).expect("a state of a connection");
            }
            end = input.len().min(at + piece_len());
            end = moved_at.filter(|&moved_at| moved_at > at).map_or(end, |at| end.min(at));
        }
        let piece = &input[at..end];
        let step = match connection.receive(piece, 0) {
            Ok(step) => step,
            Err(error) => {
                assert_eq!(connection.receive(&[], 0), Err(error), "an error lasts");
                heard.error = Some(error);
                break;
            }
        };
        assert!(step.consumed <= piece.len());
        at += step.consumed;
        match step.event {
            Some(event) => hear(&mut connection, event, piece, &mut heard),
            None if at == input.len() => break,
            None => assert_eq!(at, end, "bytes were left alone"),
        }
    }
    assert_eq!(connection.receive(&[], 0).ok(), heard.error.is_none().then_some(NOTHING));
    let state = connection.export();
    assert!(state.streams.len() <= STREAMS_MAX as usize);
    assert!(state.partial.len() <= 16_384 && state.fragments.len() <= 2 * LIST.bytes_max + 16_384);
    heard.sent.append(connection.output());
    assert!(heard.sent.len() <= 4 * input.len() + 64, "answers multiply");
    heard
}

const NOTHING: Step = Step { consumed: 0, event: None };

/// Logs an event, checks what it promises, and answers every other request.
fn hear(connection: &mut Connection, event: Event, input: &[u8], heard: &mut Heard) {
    let mut storage = FieldStorage::new();
    match event {
        Event::Headers { id, end_stream, .. } if connection.role() == Role::Server => {
            let head = request_head(connection.block(), end_stream, &mut storage);
            heard.told.push(format!("{id} {:?}", head.expect("a section that is told is a head")));
            drop(storage);
            if id.get() % 4 == 1 {
                send(connection, id, true, &[(":status", "200")]);
            }
        }
        Event::Headers { id, end_stream, .. } => {
            let head = response_head(connection.block(), end_stream, &mut storage);
            heard.told.push(format!("{id} {:?}", head.expect("a section that is told is a head")));
        }
        Event::Trailers { id, .. } => {
            let fields = trailers(connection.block(), &mut storage);
            heard.told.push(format!("{id} {:?}", fields.expect("checked")));
        }
        Event::Data { id, range, end_stream, .. } => {
            heard.content.extend_from_slice(&input[range]);
            if end_stream {
                heard.told.push(format!("{id} ends after {}", heard.content.len()));
            }
        }
        other => heard.told.push(format!("{other:?}")),
    }
}
