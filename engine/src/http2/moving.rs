//! A connection without streams that goes on in another process: its codec's state, said and heard again.
//!
//! Invariant: what a peer was told holds for as long as its connection does; a process that would tell it
//! something else does not go on with it.

use outrigger_codecs::http2::hpack::{DecoderState, EncoderState, Resize, TableEntry, TableState};
use outrigger_codecs::http2::state::{PeerSettings, ReadingState, ReceiveWindow, SendWindow};
use outrigger_codecs::http2::{Config, Connection, ConnectionState, Role};
use outrigger_upgrade::record::{AnnouncedRecord, HeaderRecord, Http2Record, TableRecord};

/// True between frames and without a stream, unless the connection is about to end.
pub fn is_at_rest(codec: &Connection) -> bool {
    codec.is_idle() && !codec.is_draining() && !codec.has_output() && codec.is_between_frames()
}

/// What another process must know of a connection at rest.
pub fn record(codec: &Connection, requests: u32) -> Http2Record {
    let state = codec.export();
    let peer = state.peer;
    Http2Record {
        requests,
        announced: announced(&state.config),
        decoder: table(state.decoder.table),
        table_acknowledged: state.decoder.acknowledged,
        encoder: table(state.encoder.table),
        resize: state
            .encoder
            .resize
            .map(|resize| vec![resize.lowest, resize.last])
            .unwrap_or_default(),
        peer: vec![
            peer.header_table_size,
            peer.max_concurrent_streams,
            peer.initial_window,
            peer.max_frame_size,
            peer.max_header_list_size,
            u32::from(peer.enable_connect_protocol),
        ],
        peer_settled: state.peer_settled,
        settings_unacknowledged: state.settings_unacknowledged,
        resets: state.resets,
        resets_forgotten_max: state.resets_forgotten_max,
        send_balance: state.send_window.balance,
        receive_available: state.receive_window.available,
        receive_consumed: state.receive_window.consumed,
        peer_last: state.peer_last,
        peer_unbroken_from: state.peer_unbroken_from,
        local_next: state.local_next,
    }
}

/// A codec that goes on as `config` has it.
///
/// # Errors
/// Why it can't.
pub fn restore(record: Http2Record, role: Role, config: Config) -> Result<Connection, String> {
    let fresh = Connection::new(role, config).export();
    if announced(&fresh.config) != record.announced {
        return Err("the peer was told other settings than are configured".to_owned());
    }
    let [table_bytes, streams, window, frame_bytes, list_bytes, connect] = record.peer[..] else {
        return Err(format!("{} settings where 6 are due", record.peer.len()));
    };
    let resize = match record.resize[..] {
        [lowest, last] => Some(Resize { lowest, last }),
        _ => None,
    };
    let state = ConnectionState {
        decoder: DecoderState {
            table: entries(record.decoder),
            acknowledged: record.table_acknowledged,
            ..fresh.decoder
        },
        encoder: EncoderState { table: entries(record.encoder), resize, ..fresh.encoder },
        peer: PeerSettings {
            header_table_size: table_bytes,
            max_concurrent_streams: streams,
            initial_window: window,
            max_frame_size: frame_bytes,
            max_header_list_size: list_bytes,
            enable_connect_protocol: connect != 0,
        },
        peer_settled: record.peer_settled,
        settings_unacknowledged: record.settings_unacknowledged,
        reading: ReadingState::START,
        output: Vec::new(),
        resets: record.resets,
        resets_forgotten_max: record.resets_forgotten_max,
        send_window: SendWindow { balance: record.send_balance },
        receive_window: ReceiveWindow {
            available: record.receive_available,
            consumed: record.receive_consumed,
        },
        peer_last: record.peer_last,
        peer_unbroken_from: record.peer_unbroken_from,
        local_next: match role {
            Role::Client => record.local_next,
            Role::Server => fresh.local_next,
        },
        ..fresh
    };
    Connection::import(state).map_err(|error| error.to_string())
}

fn announced(config: &Config) -> AnnouncedRecord {
    AnnouncedRecord {
        table_bytes: config.hpack_table_size,
        streams: config.max_concurrent_streams,
        stream_window: config.initial_stream_window,
        connection_window: config.initial_connection_window,
        frame_bytes: config.max_frame_size,
        list_bytes: config.list.bytes_max as u64,
        connect_protocol: config.enable_connect_protocol,
    }
}

fn table(state: TableState) -> TableRecord {
    let fields = state.entries.into_iter();
    let fields = fields.map(|TableEntry { name, value }| HeaderRecord { name, value }).collect();
    TableRecord { bytes_max: state.bytes_max, fields }
}

fn entries(record: TableRecord) -> TableState {
    let fields = record.fields.into_iter();
    let entries = fields.map(|HeaderRecord { name, value }| TableEntry { name, value }).collect();
    TableState { entries, bytes_max: record.bytes_max }
}

#[cfg(test)]
mod tests {
    use outrigger_codecs::http::{FieldKind, Method};

    use super::*;

    /// Has `client` send its output and a request to `server`, which answers it.
    fn exchange(client: &mut Connection, server: &mut Connection) {
        let id = client.open_stream(Method::Get).unwrap();
        let mut headers = client.encode_headers();
        for (name, value) in [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "a"),
            ("x-some", "thing that repeats"),
        ] {
            headers.field(name, value.as_bytes(), FieldKind::Other, false);
        }
        client.send_headers(id, true);
        pass(client, server);
        let mut headers = server.encode_headers();
        headers.field(":status", b"200", FieldKind::Other, false);
        headers.field("x-answer", b"that repeats", FieldKind::Other, false);
        server.send_headers(id, true);
        pass(server, client);
    }

    fn pass(from: &mut Connection, to: &mut Connection) {
        let bytes = std::mem::take(from.output());
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            rest = &rest[to.receive(rest, 0).unwrap().consumed..];
        }
    }

    fn pair(config: Config) -> (Connection, Connection) {
        let mut client = Connection::new(Role::Client, Config::default());
        let mut server = Connection::new(Role::Server, config);
        pass(&mut server, &mut client);
        exchange(&mut client, &mut server);
        (client, server)
    }

    #[test]
    fn a_connection_at_rest_comes_back_as_it_was() {
        let config = Config { hpack_table_size: 2048, ..Config::default() };
        let (mut client, mut server) = pair(config);
        for _ in 0..3 {
            assert!(is_at_rest(&server));
            let state = server.export();
            let restored = restore(record(&server, 1), Role::Server, config).unwrap();
            let back = restored.export();
            assert_eq!(ConnectionState { flood: back.flood, ..state }, back);
            server = restored;
            exchange(&mut client, &mut server);
        }
    }

    #[test]
    fn a_client_at_rest_comes_back_as_it_was() {
        let (mut client, mut server) = pair(Config::default());
        for _ in 0..3 {
            assert!(is_at_rest(&client));
            let state = client.export();
            let restored = restore(record(&client, 1), Role::Client, state.config).unwrap();
            let back = restored.export();
            assert_eq!(ConnectionState { flood: back.flood, ..state }, back);
            client = restored;
            exchange(&mut client, &mut server);
        }
        // A stream of an even number is no client's.
        let even = Http2Record { local_next: 4, ..record(&client, 1) };
        assert!(restore(even, Role::Client, Config::default()).is_err());
    }

    #[test]
    fn other_settings_than_were_announced_are_noticed() {
        let (_client, server) = pair(Config::default());
        let record = record(&server, 1);
        for other in [
            Config { max_concurrent_streams: 7, ..Config::default() },
            Config { initial_stream_window: 100_000, ..Config::default() },
            Config { hpack_table_size: 0, ..Config::default() },
        ] {
            assert!(restore(record.clone(), Role::Server, other).is_err());
        }
        let short = Http2Record { peer: vec![1], ..record.clone() };
        assert!(restore(short, Role::Server, Config::default()).is_err());
        let impossible = Http2Record { peer_last: u32::MAX, ..record };
        assert!(restore(impossible, Role::Server, Config::default()).is_err());
    }

    #[test]
    fn a_connection_in_the_middle_of_something_is_not_at_rest() {
        let (mut client, mut server) = pair(Config::default());
        client.ping([1; 8]);
        let bytes = std::mem::take(client.output());
        server.receive(&bytes[..4], 0).unwrap();
        assert!(!is_at_rest(&server));
        server.receive(&bytes[4..], 0).unwrap();
        // The answer to it is to be sent first.
        assert!(!is_at_rest(&server));
        pass(&mut server, &mut client);
        assert!(is_at_rest(&server));
        server.announce_shutdown();
        assert!(!is_at_rest(&server));
    }
}
