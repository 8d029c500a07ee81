//! Established connections: bulk, key updates, alerts, ends and errors.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;

use super::support::*;
use crate::ring::Received;
use crate::tls::RecordError;
use crate::tls::session::cipher_name;
use crate::transport::Transport;

/// A connection that we serve to a client of rustls.
fn established(
    shard: &Shard,
    suite: &str,
    work: impl FnOnce(&mut RustlsClient) + Send + 'static,
) -> (Transport, std::thread::JoinHandle<()>) {
    let authority = Authority::new("ca");
    let context = server(&downstream(&[&authority.issue(&["a.test"])]));
    let (handshake, peer) = shard.server(&context);
    let suite = ALL_CIPHER_SUITES.iter().find(|s| cipher_name(s.suite()) == suite).unwrap();
    let peer = spawn_client(peer, rustls_client(&authority, &[*suite], None), "a.test", work);
    (shard.finish(handshake).unwrap().transport, peer)
}

const SUITES: [&str; 3] =
    ["TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"];
const TLS13: &str = SUITES[0];
const TLS12: &str = SUITES[2];

#[test]
fn bulk_goes_both_ways_at_once() {
    const BYTES: usize = 10 * 1024 * 1024;
    // Buffers smaller than a record, and of its size: then every record is cut.
    for (suite, buffer_bytes) in [(SUITES[0], 16384), (SUITES[1], 4096), (SUITES[2], 16384)] {
        let shard = Shard::with_buffers(buffer_bytes);
        let (transport, peer) = established(&shard, suite, |peer| {
            let block: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8).collect();
            let mut received = Vec::with_capacity(BYTES);
            let mut buffer = vec![0; 64 * 1024];
            for piece in block.chunks(10_000) {
                peer.write_all(piece).unwrap();
                while received.len() < BYTES {
                    let count = peer.read(&mut buffer).unwrap();
                    received.extend_from_slice(&buffer[..count]);
                    if received.len() >= piece.as_ptr() as usize - block.as_ptr() as usize {
                        break;
                    }
                }
            }
            while received.len() < BYTES {
                let count = peer.read(&mut buffer).unwrap();
                received.extend_from_slice(&buffer[..count]);
            }
            assert!(received.iter().enumerate().all(|(at, byte)| *byte == (at % 253) as u8));
        });
        let (mut sent, mut received) = (0, 0);
        let block: Vec<u8> = (0..253 * 40).map(|at| (at % 253) as u8).collect();
        shard.until(|| {
            while sent < BYTES && transport.unsent() < MARKS.high {
                let count = block.len().min(BYTES - sent);
                transport.send(shard.chunk(&block[..count]));
                sent += count;
            }
            transport.flush();
            loop {
                match transport.receive() {
                    Received::Chunk(chunk) => {
                        assert!(
                            chunk
                                .iter()
                                .zip(received..)
                                .all(|(byte, at)| *byte == (at % 251) as u8)
                        );
                        received += chunk.len();
                    }
                    Received::None => break,
                    other => panic!("{other:?} {:?}", transport.failure()),
                }
            }
            (sent == BYTES && received == BYTES && transport.unsent() == 0).then_some(())
        });
        assert_eq!(transport.sent_bytes(), BYTES as u64);
        shard.join(peer);
    }
}

#[test]
fn small_writes_share_a_record_and_large_ones_fill_records() {
    let shard = Shard::new();
    let (transport, peer) = established(&shard, TLS13, |peer| {
        ping(peer);
        peer.write_all(b"ready").unwrap();
        // Read straight from the socket: one record with the three writes.
        let mut header = [0; 5];
        peer.sock.read_exact(&mut header).unwrap();
        assert_eq!(header, [23, 3, 3, 0, 9 + 1 + 16]);
        let mut body = [0; 26];
        peer.sock.read_exact(&mut body).unwrap();
        let mut lens = Vec::new();
        for _ in 0..3 {
            peer.sock.read_exact(&mut header).unwrap();
            let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
            peer.sock.read_exact(&mut vec![0; len]).unwrap();
            lens.push(len - 17);
        }
        assert_eq!(lens, [16384, 16384, 7232]);
    });
    shard.pong(&transport);
    assert_eq!(shard.receive(&transport, 5), b"ready");
    for piece in [&b"one"[..], b"two", b"six"] {
        transport.send(shard.chunk(piece));
    }
    assert_eq!(transport.unsent(), 9);
    transport.flush();
    for _ in 0..4 {
        transport.send(shard.chunk(&[7; 10_000]));
    }
    transport.flush();
    shard.join(peer);
}

#[test]
fn keys_are_replaced_in_both_directions() {
    for suite in &SUITES[..2] {
        let shard = Shard::new();
        let (transport, peer) = established(&shard, suite, |peer| {
            for _ in 0..5 {
                ping(peer);
                peer.conn.refresh_traffic_keys().unwrap();
            }
            ping(peer);
            ping(peer);
        });
        for _ in 0..6 {
            shard.pong(&transport);
        }
        // Our own key is worn out: the next record is behind a KeyUpdate.
        let Transport::Tls(stream) = &transport else { panic!("no TLS") };
        stream.wear_out();
        shard.pong(&transport);
        shard.join(peer);
    }
}

#[test]
fn an_update_is_answered_though_nothing_else_is_sent() {
    let shard = Shard::new();
    let (transport, peer) = established(&shard, TLS13, |peer| {
        ping(peer);
        peer.conn.refresh_traffic_keys().unwrap();
        while peer.conn.wants_write() {
            peer.conn.write_tls(&mut peer.sock).unwrap();
        }
        let mut answer = [0; 5 + 5 + 1 + 16];
        peer.sock.read_exact(&mut answer).unwrap();
        // A KeyUpdate, its type and its tag.
        assert_eq!(answer[..5], [23, 3, 3, 0, 5 + 1 + 16]);
        peer.conn.writer().write_all(b"seen").unwrap();
        peer.conn.write_tls(&mut peer.sock).unwrap();
    });
    shard.pong(&transport);
    // The update itself is nothing to read.
    assert_eq!(shard.receive(&transport, 4), b"seen");
    shard.join(peer);
}

#[test]
fn a_worn_key_of_tls12_ends_the_connection() {
    let shard = Shard::new();
    let (transport, peer) = established(&shard, TLS12, |peer| {
        ping(peer);
        assert_eq!(peer.read(&mut [0; 10]).unwrap(), 0, "an end by close_notify");
    });
    shard.pong(&transport);
    let Transport::Tls(stream) = &transport else { panic!("no TLS") };
    stream.wear_out();
    shard.send(&transport, b"too much");
    shard.until(|| transport.is_finished().then_some(()));
    shard.join(peer);
}

#[test]
fn the_end_is_told_apart_from_a_cut() {
    for suite in SUITES {
        for notified in [true, false] {
            let shard = Shard::new();
            let (transport, peer) = established(&shard, suite, move |peer| {
                ping(peer);
                if notified {
                    peer.conn.send_close_notify();
                    while peer.conn.wants_write() {
                        peer.conn.write_tls(&mut peer.sock).unwrap();
                    }
                }
                peer.sock.shutdown(std::net::Shutdown::Write).unwrap();
                // The other direction is still good.
                expect(peer, b"pong");
                let end = peer.read(&mut [0; 10]);
                assert_eq!(end.unwrap(), 0, "ours ends with a close_notify");
            });
            shard.pong(&transport);
            assert!(shard.end(&transport));
            assert_eq!(transport.is_truncated(), !notified);
            assert!(transport.is_over() && !transport.is_quiet());
            shard.send(&transport, b"pong");
            transport.finish();
            shard.until(|| transport.is_finished().then_some(()));
            shard.join(peer);
        }
    }
}

#[test]
fn dropping_ends_with_a_notice_unless_bytes_are_lost() {
    let shard = Shard::new();
    for clean in [true, false] {
        let (transport, peer) = established(&shard, TLS13, move |peer| {
            ping(peer);
            let end = peer.read(&mut [0; 10]);
            assert_eq!(end.is_ok(), clean, "{end:?}");
        });
        shard.pong(&transport);
        if !clean {
            transport.send(shard.chunk(b"never flushed"));
        }
        drop(transport);
        shard.join(peer);
    }
}

#[test]
fn what_was_touched_is_an_error_and_an_alert() {
    for suite in SUITES {
        let shard = Shard::new();
        let (transport, peer) = established(&shard, suite, |peer| {
            ping(peer);
            peer.conn.writer().write_all(b"good").unwrap();
            let mut record = Vec::new();
            peer.conn.write_tls(&mut record).unwrap();
            peer.conn.writer().write_all(b"evil").unwrap();
            peer.conn.write_tls(&mut record).unwrap();
            *record.last_mut().unwrap() ^= 1;
            peer.sock.write_all(&record).unwrap();
            let error = peer.read(&mut [0; 10]).unwrap_err().to_string();
            assert!(error.contains("BadRecordMac"), "{error}");
        });
        shard.pong(&transport);
        assert_eq!(shard.receive(&transport, 4), b"good");
        assert!(!shard.end(&transport));
        assert_eq!(transport.failure(), Some(RecordError::BadMac));
        assert_eq!(transport.send_error(), Some(libc::EPROTO));
        shard.send(&transport, b"nothing leaves any more");
        shard.join(peer);
    }
}

#[test]
fn what_is_no_record_is_an_error_and_an_alert() {
    let plain_alert = [21, 3, 3, 0, 2, 1, 0];
    let cases: [(&str, &[u8], RecordError, &str); 4] = [
        (TLS13, b"GET / HTTP/1.1\r\n", RecordError::Decode, "DecodeError"),
        (TLS13, &[23, 3, 3, 0x41, 0x01], RecordError::Overflow, "RecordOverflow"),
        (TLS12, &[23, 3, 3, 0x48, 0x01], RecordError::Overflow, "RecordOverflow"),
        (TLS12, &plain_alert, RecordError::BadMac, "BadRecordMac"),
    ];
    for (suite, bytes, error, told) in cases {
        let shard = Shard::new();
        let bytes = bytes.to_vec();
        let (transport, peer) = established(&shard, suite, move |peer| {
            ping(peer);
            peer.sock.write_all(&bytes).unwrap();
            let error = peer.read(&mut [0; 10]).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        });
        shard.pong(&transport);
        assert!(!shard.end(&transport));
        assert_eq!(transport.failure(), Some(error));
        drop(transport);
        shard.join(peer);
    }
}

#[test]
fn bytes_put_back_come_first() {
    let shard = Shard::new();
    let (transport, peer) = established(&shard, TLS13, ping);
    let first = shard.until(|| match transport.receive() {
        Received::Chunk(chunk) => Some(chunk),
        _ => None,
    });
    transport.put_back([first.slice(0..2), first.slice(2..4)].into_iter());
    assert!(!transport.is_quiet());
    shard.pong(&transport);
    shard.join(peer);
}

#[test]
fn a_handshake_begins_with_bytes_that_were_inspected() {
    let shard = Shard::new();
    let authority = Authority::new("ca");
    let context = server(&downstream(&[&authority.issue(&["a.test"])]));
    let (socket, peer) = shard.pair();
    let peer = spawn_client(peer, rustls_client(&authority, &[], None), "a.test", ping);
    socket.start();
    let seen = shard.until(|| match socket.receive() {
        Received::Chunk(chunk) => Some(chunk),
        _ => None,
    });
    socket.put_back(seen);
    let handshake = crate::tls::Handshake::server(socket, &shard.buffers, &context);
    let established = shard.finish(handshake).unwrap();
    shard.pong(&established.transport);
    shard.join(peer);
}

#[test]
fn an_idle_connection_holds_no_buffer() {
    let shard = Shard::new();
    let (transport, peer) = established(&shard, TLS13, |peer| {
        ping(peer);
        ping(peer);
        let _ = peer.sock.read(&mut [0; 100]);
    });
    shard.pong(&transport);
    shard.pong(&transport);
    assert!(transport.is_quiet());
    assert_eq!(shard.ring.buffers().0, 0);
    drop(transport);
    shard.join(peer);
}

#[test]
fn a_socket_that_fails_is_a_failure() {
    let shard = Shard::new();
    let (transport, peer) = established(&shard, TLS13, |peer| {
        ping(peer);
        let socket: &UnixStream = &peer.sock;
        socket.shutdown(std::net::Shutdown::Both).unwrap();
    });
    shard.pong(&transport);
    shard.join(peer);
    assert!(shard.end(&transport));
    assert!(transport.is_truncated());
    transport.send(shard.chunk(b"into the void"));
    transport.flush();
    shard.until(|| transport.send_error());
    assert_eq!(transport.failure(), None);
}
