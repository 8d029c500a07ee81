//! Bodies flow as they come, both ways at once, and no faster than they are taken.

use std::io::Write;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use outrigger_tests::http::Framing;
use outrigger_tests::{Config, Origin, PATIENCE, Proxy};
use serde_json::json;

use crate::basics::{chunked, pattern};

#[test]
fn a_response_may_start_before_the_request_ends() {
    // Each chunk of the request is answered with one of the response, before the next is sent.
    let origin = Origin::start(|peer| {
        peer.request_head()?;
        peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
        while let Some(chunk) = peer.wire().chunk()? {
            peer.send(chunked(&chunk))?;
        }
        peer.wire().trailers()?;
        peer.send("0\r\n\r\n")?;
        peer.stall()
    });
    let proxy = Proxy::start(&Config::to(origin.address()));
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
    let head = client.response_head();
    assert_eq!((head.status, head.framing("POST")), (200, Ok(Framing::Chunked)));
    for n in 0..50 {
        let chunk = format!("chunk {n}");
        client.send(chunked(chunk.as_bytes()));
        let answer = client.wire().exactly(chunked(chunk.as_bytes()).len()).unwrap();
        assert_eq!(answer, chunked(chunk.as_bytes()));
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.wire().chunk(), Ok(None));
    assert!(client.wire().trailers().is_ok());
    proxy.expect_no_active_requests();
    drop(client);
    proxy.stop();
}

#[test]
fn large_bodies_pass_unchanged() {
    const LENGTH: usize = 64 << 20;
    let origin = Origin::start(|peer| {
        loop {
            let request = peer.request_head()?;
            let mut digest = Digest::default();
            match request.framing()? {
                Framing::Length(length) => {
                    let mut left = length;
                    while left > 0 {
                        let piece = peer.wire().exactly(left.min(1 << 20) as usize)?;
                        left -= piece.len() as u64;
                        digest.add(&piece);
                    }
                }
                _ => {
                    while let Some(chunk) = peer.wire().chunk()? {
                        digest.add(&chunk);
                    }
                    peer.wire().trailers()?;
                }
            }
            peer.send(format!("HTTP/1.1 200 OK\r\nx-sum: {}\r\n", digest.0))?;
            peer.send(format!("content-length: {LENGTH}\r\n\r\n"))?;
            for piece in pattern(LENGTH).chunks(1 << 20) {
                peer.send(piece)?;
            }
        }
    });
    let proxy = Proxy::start(&Config::to(origin.address()));
    let body = pattern(LENGTH);
    let mut sum = Digest::default();
    sum.add(&body);
    let mut client = proxy.client();
    client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {LENGTH}\r\n\r\n"));
    let response = client.send(&body).response();
    assert_eq!(response.header("x-sum"), Some(sum.0.to_string().as_str()));
    assert!(response.body == body, "the response changed");

    client.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
    for piece in body.chunks(1 << 20) {
        client.send(chunked(piece));
    }
    let response = client.send("0\r\n\r\n").response();
    assert_eq!(response.header("x-sum"), Some(sum.0.to_string().as_str()));
    drop(client);
    proxy.stop();
}

#[test]
fn a_client_that_does_not_read_holds_the_origin_back() {
    let (stuck, until_stuck) = mpsc::channel();
    let origin = Origin::start(move |peer| {
        peer.request()?;
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n")?;
        // The origin is held back when nothing of it goes out for a while.
        peer.wire().stream().set_timeout(STUCK)?;
        let mut sent = 0_u64;
        let piece = [b'x'; 1 << 16];
        while let Ok(count) = peer.wire().stream().write(&piece) {
            sent += count as u64;
        }
        let _ = stuck.send(sent);
        peer.wire().stream().set_timeout(PATIENCE)?;
        peer.stall()
    });
    let mut proxy = Proxy::start(&Config::to(origin.address()));
    let before = proxy.process().rss();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.response_head().status, 200);
    let sent = until_stuck.recv_timeout(PATIENCE).unwrap();
    let grown = proxy.process().rss().saturating_sub(before);
    // What was sent fills the kernel's buffers of two connections; ours are bounded.
    assert!(sent < TAKEN_MAX, "{sent} bytes were taken from the origin");
    assert!(grown < GROWN_MAX, "{grown} bytes more of memory");
    client.reset();
    origin.wait_released();
    proxy.expect_no_active_requests();
    proxy.stop();
}

#[test]
fn an_origin_that_does_not_read_holds_the_client_back() {
    let (over, until_over) = mpsc::channel::<()>();
    let until_over = Mutex::new(until_over);
    let origin = Origin::start(move |peer| {
        peer.request_head()?;
        // Reads nothing until the test is over.
        let _ = until_over.lock().unwrap().recv();
        Ok(())
    });
    let mut proxy = Proxy::start(&Config::to(origin.address()));
    let before = proxy.process().rss();
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1073741824\r\n\r\n");
    origin.nth_request(1);
    client.stream().set_timeout(STUCK).unwrap();
    let mut sent = 0_u64;
    let piece = [b'x'; 1 << 16];
    while let Ok(count) = client.stream().write(&piece) {
        sent += count as u64;
    }
    let grown = proxy.process().rss().saturating_sub(before);
    assert!(sent < TAKEN_MAX, "{sent} bytes were taken from the client");
    assert!(grown < GROWN_MAX, "{grown} bytes more of memory");
    // While nothing is read from it, its end goes unseen; with the origin's end, all of it ends.
    client.reset();
    drop(over);
    origin.wait_released();
    proxy.expect_no_active_requests();
    proxy.stop();
}

#[test]
fn a_held_back_connection_goes_on_when_it_is_read() {
    const LENGTH: usize = 32 << 20;
    let origin = Origin::start(|peer| {
        loop {
            peer.request()?;
            peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n"))?;
            peer.send(pattern(LENGTH))?;
        }
    });
    // A small limit, so that it is reached often.
    let config = Config::to(origin.address())
        .listener(json!({"per_connection_buffer_limit_bytes": 32768}))
        .tune_cluster(json!({"per_connection_buffer_limit_bytes": 32768}));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    proxy.await_stat("cluster.origin.upstream_flow_control_paused_reading_total", |n| n > 0);
    let response = client.response();
    assert!(response.body == pattern(LENGTH), "the response changed");
    assert_eq!(client.get("/").body.len(), LENGTH);
    drop(client);
    proxy.stop();
}

/// Of the kind of FNV-1a: order and content matter.
#[derive(Default)]
struct Digest(u64);

impl Digest {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Without progress for so long, a sender counts as held back.
const STUCK: Duration = Duration::from_millis(500);

/// More than the kernel's buffers of two connections hold, far less than what is announced.
const TAKEN_MAX: u64 = 64 << 20;

/// More than the proxy's buffers of one exchange, far less than what is announced.
const GROWN_MAX: u64 = 12 << 20;
