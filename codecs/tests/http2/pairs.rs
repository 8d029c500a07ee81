//! Two connections that talk to each other while everything that may happen happens in any order.
//!
//! A run is decided by a list of numbers, so that a failure shrinks to a short one. Both sides check
//! each other by the protocol's own rules: whoever oversteps a window, a limit or a state gets a
//! connection error from the other, which fails the run.

use std::collections::BTreeMap;

use outrigger_codecs::http::{FieldKind, Method};
use outrigger_codecs::http2::{Config, Connection, Event, Reason, ResetBy, Role, StreamId};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::frames::{CONTINUATION, HEADERS, Told, feed_pieces, frames};

/// The most streams that a server of these runs allows.
const STREAMS_MAX: u32 = 5;
const REQUESTS_MAX: u32 = 40;

fn config(role: Role) -> Config {
    Config {
        max_concurrent_streams: if role == Role::Server { STREAMS_MAX } else { 1000 },
        initial_connection_window: 100_000,
        ..Config::default()
    }
}

/// The numbers that decide a run; zeros once they have run out, which let it come to its end.
struct Choices {
    numbers: std::vec::IntoIter<u16>,
    over: bool,
}

impl Choices {
    fn new(numbers: Vec<u16>) -> Self {
        Self { numbers: numbers.into_iter(), over: false }
    }

    fn below(&mut self, bound: usize) -> usize {
        let number = self.numbers.next();
        self.over |= number.is_none();
        usize::from(number.unwrap_or(0)) % bound.max(1)
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == bound - 1
    }
}

/// The messages of one stream, as one side sees them.
#[derive(Debug, Default)]
struct Exchange {
    /// Content that is still to be sent, `None` if the message has no more or has not begun.
    unsent: Option<usize>,
    sent: usize,
    with_trailers: bool,
    /// Content that was received, and how much of it was not released.
    received: usize,
    held: usize,
    head_seen: bool,
    ended: bool,
    answered: bool,
    /// By Content-Length.
    expected: Option<usize>,
}

/// One side: a connection and an owner that does as it likes.
struct Side {
    role: Role,
    connection: Connection,
    exchanges: BTreeMap<u32, Exchange>,
    /// Everything that was sent, and the part of it that was delivered.
    wire: Vec<u8>,
    delivered: usize,
    /// Credit for streams that are gone.
    debts: Vec<(StreamId, usize)>,
    completed: u32,
    resets_received: u32,
    resets_sent: u32,
}

impl Side {
    fn new(role: Role) -> Self {
        Self {
            role,
            connection: Connection::new(role, config(role)),
            exchanges: BTreeMap::new(),
            wire: Vec::new(),
            delivered: 0,
            debts: Vec::new(),
            completed: 0,
            resets_received: 0,
            resets_sent: 0,
        }
    }

    /// Content whose every byte says where it belongs.
    fn content(role: Role, id: u32, at: usize) -> u8 {
        let side = if role == Role::Client { 7 } else { 101 };
        (id as usize * 31 + at * 13 + side) as u8
    }

    fn put_output_on_wire(&mut self) {
        self.wire.append(self.connection.output());
    }

    /// Does one thing, or nothing if it can't be done.
    fn act(&mut self, choices: &mut Choices) {
        match choices.below(8) {
            0 | 1 => self.send_some(choices),
            2 | 3 => self.release_some(choices),
            4 | 5 if self.role == Role::Client => self.open(choices),
            4 | 5 => self.answer(choices),
            6 if choices.one_in(4) => self.reset_one(choices),
            7 if choices.one_in(4) => self.connection.ping(*b"pingpong"),
            _ => {}
        }
        self.put_output_on_wire();
    }

    fn open(&mut self, choices: &mut Choices) {
        if choices.over || self.completed + self.exchanges.len() as u32 >= REQUESTS_MAX {
            return;
        }
        let Some(id) = self.connection.open_stream(Method::Post) else { return };
        let exchange = Exchange { answered: true, ..Exchange::default() };
        self.exchanges.insert(id.get(), exchange);
        let path = format!("/{}", choices.below(4));
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", &path[..]),
            (":authority", "a.example"),
            ("user-agent", "pairs"),
        ];
        self.begin(id, choices, &fields);
    }

    fn answer(&mut self, choices: &mut Choices) {
        let mut waiting = self.exchanges.iter().filter(|(_, exchange)| !exchange.answered);
        let count = waiting.clone().count();
        let Some((&id, _)) = waiting.nth(choices.below(count)) else { return };
        let id = self.stream_id(id);
        if choices.one_in(4) {
            self.send_section(id, &[(":status", "103"), ("link", "</x>")], false);
            return;
        }
        self.exchanges.get_mut(&id.get()).expect("chosen above").answered = true;
        self.begin(id, choices, &[(":status", "200"), ("server", "pairs")]);
    }

    /// Sends a head, and decides what content and trailers follow it.
    fn begin(&mut self, id: StreamId, choices: &mut Choices, fields: &[(&str, &str)]) {
        let len = match choices.below(6) {
            0 => None,
            1 => Some(0),
            2 | 3 => Some(choices.below(2000)),
            _ => Some(choices.below(65_536) * 2),
        };
        let length = len.unwrap_or(0).to_string();
        let mut fields = fields.to_vec();
        if choices.one_in(2) {
            fields.push(("content-length", &length));
        }
        self.send_section(id, &fields, len.is_none());
        let exchange = self.exchanges.get_mut(&id.get()).expect("just begun");
        exchange.unsent = len;
        exchange.with_trailers = choices.one_in(3);
        self.settle(id);
    }

    fn send_section(&mut self, id: StreamId, fields: &[(&str, &str)], end: bool) {
        assert!(self.connection.is_open(id));
        let mut writer = self.connection.encode_headers();
        for (name, value) in fields {
            writer.field(name, value.as_bytes(), FieldKind::of(name.as_bytes()), false);
        }
        self.connection.send_headers(id, end);
    }

    fn send_some(&mut self, choices: &mut Choices) {
        let mut sending = self.exchanges.iter().filter(|(_, exchange)| exchange.unsent.is_some());
        let count = sending.clone().count();
        let Some((&id, _)) = sending.nth(choices.below(count)) else { return };
        let id = self.stream_id(id);
        let capacity = self.connection.send_capacity(id);
        let exchange = self.exchanges.get_mut(&id.get()).expect("chosen above");
        let unsent = exchange.unsent.expect("chosen above");
        let wanted = if choices.one_in(3) { 1 + choices.below(3000) } else { usize::MAX };
        let len = unsent.min(capacity).min(wanted);
        let last = len == unsent;
        if len == 0 && !last {
            return;
        }
        let (start, trailers) = (exchange.sent, exchange.with_trailers);
        exchange.sent += len;
        exchange.unsent = (!last).then_some(unsent - len);
        if len > 0 || !trailers {
            self.connection.send_data(id, len, last && !trailers);
            let role = self.role;
            let content = (start..start + len).map(|at| Self::content(role, id.get(), at));
            self.connection.output().extend(content);
        }
        if last && trailers {
            self.send_section(id, &[("grpc-status", "0"), ("x-trace", "a")], true);
        }
        self.settle(id);
    }

    fn release_some(&mut self, choices: &mut Choices) {
        if let Some((id, len)) = self.debts.pop() {
            self.connection.release(id, len);
            return;
        }
        let mut holding = self.exchanges.iter().filter(|(_, exchange)| exchange.held > 0);
        let count = holding.clone().count();
        let Some((&id, _)) = holding.nth(choices.below(count)) else { return };
        let exchange = self.exchanges.get_mut(&id).expect("chosen above");
        let len = if !choices.one_in(2) { exchange.held } else { 1 + choices.below(exchange.held) };
        exchange.held -= len;
        let id = self.stream_id(id);
        self.connection.release(id, len);
    }

    fn reset_one(&mut self, choices: &mut Choices) {
        let count = self.exchanges.len();
        let Some((&id, _)) = self.exchanges.iter().nth(choices.below(count)) else { return };
        let id = self.stream_id(id);
        self.resets_sent += u32::from(self.connection.is_open(id));
        self.connection.reset(id, Reason::CANCEL);
        self.forget(id);
    }

    /// Takes `piece` of what the other side has sent.
    fn take(&mut self, piece: &[u8]) {
        let mut rest = piece;
        loop {
            let step = self.connection.receive(rest, 0).expect("the other side keeps the rules");
            let Some(event) = step.event else {
                assert_eq!(step.consumed, rest.len());
                break;
            };
            self.on_event(event, rest);
            rest = &rest[step.consumed..];
        }
        self.put_output_on_wire();
    }

    fn on_event(&mut self, event: Event, input: &[u8]) {
        match event {
            Event::Headers { id, slot, end_stream } => {
                let known = self.exchanges.contains_key(&id.get());
                assert_eq!(known, self.role == Role::Client);
                assert_eq!(slot == id.get(), known, "slots come with the events");
                self.connection.set_slot(id, id.get());
                let interim = self.connection.block().get(":status") == Some(b"103");
                let length = self.connection.block().get("content-length");
                let expected = length.map(|text| {
                    let text = str::from_utf8(text).expect("digits");
                    text.parse().expect("a number")
                });
                let exchange = self.exchanges.entry(id.get()).or_default();
                assert!(!exchange.head_seen);
                exchange.head_seen = !interim;
                exchange.expected = expected;
                exchange.ended = end_stream;
                self.settle(id);
            }
            Event::Data { id, slot, range, end_stream } => {
                assert_eq!(slot, id.get());
                let other = if self.role == Role::Client { Role::Server } else { Role::Client };
                let exchange = self.exchanges.get_mut(&id.get()).expect("an open stream");
                assert!(exchange.head_seen && !exchange.ended);
                for &byte in &input[range.clone()] {
                    assert_eq!(byte, Self::content(other, id.get(), exchange.received));
                    exchange.received += 1;
                }
                exchange.held += range.len();
                exchange.ended = end_stream;
                if end_stream {
                    let received = exchange.received;
                    assert_eq!(exchange.expected.unwrap_or(received), received);
                }
                self.settle(id);
            }
            Event::Trailers { id, .. } => {
                assert_eq!(self.connection.block().get("grpc-status"), Some(&b"0"[..]));
                let exchange = self.exchanges.get_mut(&id.get()).expect("an open stream");
                exchange.ended = true;
                self.settle(id);
            }
            Event::Reset { id, reason, by, slot } => {
                assert_eq!((reason, by, slot), (Reason::CANCEL, ResetBy::Peer, id.get()));
                self.resets_received += 1;
                self.forget(id);
            }
            Event::Pong(payload) => assert_eq!(&payload, b"pingpong"),
            Event::Writable | Event::StreamWritable { .. } => {}
            Event::Malformed { .. } | Event::GoAway { .. } => panic!("unexpected {event:?}"),
        }
    }

    /// Forgets an exchange that both sides have ended.
    fn settle(&mut self, id: StreamId) {
        let Some(exchange) = self.exchanges.get(&id.get()) else { return };
        self.connection.set_slot(id, id.get());
        let done = exchange.answered && exchange.unsent.is_none() && exchange.ended;
        assert_eq!(done, !self.connection.is_open(id), "{id}: {exchange:?}");
        assert_eq!(exchange.ended, self.connection.is_ended(id));
        if done {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: StreamId) {
        if let Some(exchange) = self.exchanges.remove(&id.get()) {
            self.debts.push((id, exchange.held));
            self.completed += 1;
        }
    }

    fn stream_id(&self, id: u32) -> StreamId {
        let found = self.connection.stream_ids().find(|open| open.get() == id);
        found.expect("exchanges are of open streams")
    }

    /// Moves the connection into another one, as a hand-over does.
    fn hand_over(&mut self) {
        let state = self.connection.export();
        let slots: Vec<_> = self
            .connection
            .stream_ids()
            .map(|id| (id, self.connection.slot(id).expect("open")))
            .collect();
        self.connection = Connection::import(state.clone()).expect("a state of a connection");
        assert_eq!(self.connection.export(), state);
        slots.into_iter().for_each(|(id, slot)| self.connection.set_slot(id, slot));
    }
}

/// What a run left behind.
struct Outcome {
    client: Side,
    server: Side,
}

/// Lets two connections talk until both have nothing more to say. With `hand_over`, connections are
/// moved now and then.
fn run(numbers: Vec<u16>, hand_over: bool) -> Outcome {
    let mut choices = Choices::new(numbers);
    let (mut client, mut server) = (Side::new(Role::Client), Side::new(Role::Server));
    client.put_output_on_wire();
    server.put_output_on_wire();
    let mut turns_after = 0;
    loop {
        let turn = choices.below(4);
        if choices.over {
            turns_after += 1;
            // The rest in turns, each as far as it can go.
            for side in [&mut client, &mut server] {
                finish(side, &mut choices);
            }
        } else {
            let side = if choices.one_in(2) { &mut client } else { &mut server };
            side.act(&mut choices);
        }
        let (from, to) = match turn {
            _ if choices.over && turns_after % 2 == 0 => (&mut server, &mut client),
            0 | 1 => (&mut client, &mut server),
            _ => (&mut server, &mut client),
        };
        let waiting = from.wire.len() - from.delivered;
        let len = if choices.over { waiting } else { choices.below(waiting.min(20_000) + 1) };
        let piece = from.wire[from.delivered..from.delivered + len].to_vec();
        from.delivered += len;
        to.take(&piece);
        assert!(server.connection.open_streams() <= STREAMS_MAX as usize);
        if hand_over && choices.one_in(5) {
            client.hand_over();
        } else if hand_over && choices.one_in(5) {
            server.hand_over();
        }
        let quiet = |side: &Side| {
            side.delivered == side.wire.len() && side.exchanges.is_empty() && side.debts.is_empty()
        };
        if choices.over && quiet(&client) && quiet(&server) {
            return Outcome { client, server };
        }
        assert!(turns_after < 1000, "no progress");
    }
}

/// Answers, sends and releases whatever there is, without choices.
fn finish(side: &mut Side, choices: &mut Choices) {
    for _ in 0..200 {
        side.send_some(choices);
        side.release_some(choices);
    }
    side.answer(choices);
    side.put_output_on_wire();
}

/// Both sides agree on every window once nothing is under way.
fn check_windows(outcome: &Outcome) {
    let (client, server) = (outcome.client.connection.export(), outcome.server.connection.export());
    for (sender, receiver) in [(&client, &server), (&server, &client)] {
        let window = receiver.receive_window;
        assert_eq!(window.available + window.consumed, 100_000, "all content was released");
        assert_eq!(
            i64::from(sender.send_window.balance) + 65_535,
            i64::from(window.available),
            "what one may send is what the other expects"
        );
        assert!(receiver.streams.is_empty());
    }
    let used = if server.peer_last == 0 { 1 } else { server.peer_last + 2 };
    assert_eq!(client.local_next, used);
}

fn numbers() -> impl Strategy<Value = Vec<u16>> {
    vec(any::<u16>(), 0..4000)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn whatever_two_sides_do_they_understand_each_other(numbers in numbers()) {
        let mut outcome = run(numbers, false);
        check_windows(&outcome);
        for side in [&mut outcome.client, &mut outcome.server] {
            let counters = side.connection.counters();
            prop_assert_eq!(counters.stream_refused, 0);
            prop_assert_eq!(counters.tx_reset, side.resets_sent);
            prop_assert!(counters.rx_reset >= side.resets_received);
        }
    }

    #[test]
    fn a_connection_goes_on_after_any_number_of_hand_overs(numbers in numbers()) {
        check_windows(&run(numbers, true));
    }

    /// The same bytes in any pieces tell the same, and are answered with the same bytes.
    #[test]
    fn pieces_do_not_matter(numbers in numbers(), pieces in vec(1_usize..3000, 1..50)) {
        let outcome = run(numbers, false);
        for (role, wire) in [(Role::Server, &outcome.client.wire), (Role::Client, &outcome.server.wire)] {
            let whole = listen(role, wire, || usize::MAX / 2);
            let mut lens = pieces.iter().copied().cycle();
            prop_assert_eq!(&listen(role, wire, || lens.next().expect("endless")), &whole);
            prop_assert_eq!(&listen(role, wire, || 1), &whole);
        }
    }

    /// A hand-over in the middle of anything changes nothing of what is told or sent.
    #[test]
    fn a_hand_over_does_not_show(numbers in numbers(), at in any::<prop::sample::Index>()) {
        let wire = run(numbers, false).client.wire;
        let at = at.index(wire.len());
        let mut told = Vec::new();
        let mut moved = listener(Role::Server);
        feed_pieces(&mut moved, &wire[..at], 0, || usize::MAX / 2, &mut told).expect("well-formed");
        let mut moved = Connection::import(moved.export()).expect("a state of a connection");
        let mut after = Vec::new();
        feed_pieces(&mut moved, &wire[at..], 0, || usize::MAX / 2, &mut after).expect("well-formed");
        told.extend(after);

        let mut stayed = listener(Role::Server);
        let mut told_whole = Vec::new();
        let pieces = [at, usize::MAX / 2];
        let mut lens = pieces.iter().copied().cycle();
        if at > 0 {
            feed_pieces(&mut stayed, &wire, 0, || lens.next().expect("endless"), &mut told_whole).expect("well-formed");
        } else {
            feed_pieces(&mut stayed, &wire, 0, || usize::MAX / 2, &mut told_whole).expect("well-formed");
        }
        prop_assert_eq!(merged(told), merged(told_whole));
        prop_assert_eq!(&moved.output()[..], &stayed.output()[..]);
        prop_assert_eq!(moved.export(), stayed.export());
    }
}

/// A connection that takes everything and does nothing.
fn listener(role: Role) -> Connection {
    let window = 0x7fff_ffff;
    let config = Config {
        initial_stream_window: window,
        initial_connection_window: window,
        max_concurrent_streams: 1000,
        ..Config::default()
    };
    let mut listener = Connection::new(role, config);
    if role == Role::Client {
        for _ in 0..100 {
            let _ = listener.open_stream(Method::Post);
        }
    }
    listener
}

fn listen(role: Role, wire: &[u8], piece_len: impl FnMut() -> usize) -> (Vec<Told>, Vec<u8>) {
    let mut listener = listener(role);
    let mut told = Vec::new();
    feed_pieces(&mut listener, wire, 0, piece_len, &mut told).expect("well-formed");
    (told, std::mem::take(listener.output()))
}

/// Puts content together that a cut has parted.
fn merged(told: Vec<Told>) -> Vec<Told> {
    let mut merged: Vec<Told> = Vec::new();
    for told in told {
        if let Told::Data { id, end, bytes } = &told
            && let Some(Told::Data { id: before, end: ended @ false, bytes: collected }) =
                merged.last_mut()
            && before == id
        {
            collected.extend(bytes);
            *ended = *end;
            continue;
        }
        merged.push(told);
    }
    merged
}

/// Header blocks of a conversation repeat, and so become small.
#[test]
fn repeated_heads_are_compressed() {
    let mut choices = Choices::new(Vec::new());
    let mut client = Side::new(Role::Client);
    let mut sizes = Vec::new();
    for _ in 0..4 {
        client.connection.output().clear();
        let id = client.connection.open_stream(Method::Post).expect("below the limit");
        client.exchanges.insert(id.get(), Exchange { answered: true, ..Exchange::default() });
        let fields = [(":method", "POST"), (":path", "/long/enough"), ("x-tenant", "some-tenant")];
        client.begin(id, &mut choices, &fields);
        let sent = frames(client.connection.output());
        assert!(sent.iter().all(|frame| [HEADERS, CONTINUATION].contains(&frame.kind)));
        sizes.push(sent.iter().map(|frame| frame.payload.len()).sum::<usize>());
    }
    assert!(sizes[3] < sizes[0] / 3, "{sizes:?}");
}
