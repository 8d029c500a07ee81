//! The floor passes bytes unchanged, whatever their rhythm, and cleans up after broken peers.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(20);

struct Relay {
    child: Child,
    address: SocketAddr,
}

impl Relay {
    fn start(upstream: SocketAddr) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_outrigger-perf"))
            .args(["relay", "--lifetime-s", "60", "--listen", "127.0.0.1:0"])
            .args(["--upstream", &upstream.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap().parse().unwrap();
        Self { child, address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a head and as much body as it says.
fn message(stream: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let text = String::from_utf8(head).unwrap();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    stream.read_exact(&mut body)?;
    Ok(body)
}

/// Answers every request with its own body.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                while let Ok(body) = message(&mut stream) {
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                    if stream.write_all(&[head.as_bytes(), &body].concat()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Bytes without a short period, different for each seed.
fn noise(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn request(body: &[u8]) -> Vec<u8> {
    let head = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

#[test]
fn bodies_of_many_clients_arrive_unchanged() {
    let relay = Relay::start(echo());
    thread::scope(|scope| {
        for client in 0..16_u32 {
            let mut stream = relay.connect();
            scope.spawn(move || {
                for (turn, length) in [0, 1, 100, 40_000, 1 << 20, 7].into_iter().enumerate() {
                    let body = noise(client * 100 + u32::try_from(turn).unwrap(), length);
                    stream.write_all(&request(&body)).unwrap();
                    assert!(
                        message(&mut stream).unwrap() == body,
                        "client {client}, {length} bytes"
                    );
                }
            });
        }
    });
}

#[test]
fn split_and_pipelined_requests() {
    let relay = Relay::start(echo());
    let mut stream = relay.connect();
    let bodies = [noise(1, 10), noise(2, 5000), noise(3, 1)];
    let all = bodies.iter().flat_map(|body| request(body)).collect::<Vec<u8>>();
    stream.set_nodelay(true).unwrap();
    for piece in all.chunks(7) {
        stream.write_all(piece).unwrap();
    }
    stream.write_all(&all).unwrap();
    for body in bodies.iter().chain(&bodies) {
        assert!(message(&mut stream).unwrap() == *body);
    }
}

#[test]
fn broken_peers_do_not_disturb_others() {
    let relay = Relay::start(echo());
    let mut steady = relay.connect();
    let large = request(&noise(1, 1 << 20));
    for turn in 0..50_u32 {
        // One that leaves amid its request, one that never reads its response, one that talks rubbish.
        relay.connect().write_all(&large[..large.len() / 2]).unwrap();
        relay.connect().write_all(&large).unwrap();
        let mut rubbish = relay.connect();
        rubbish.write_all(b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n").unwrap();
        assert_eq!(rubbish.read(&mut [0]).unwrap_or(0), 0);
        let body = noise(turn, 3000);
        steady.write_all(&request(&body)).unwrap();
        assert!(message(&mut steady).unwrap() == body, "turn {turn}");
    }
}

#[test]
fn an_absent_upstream_ends_the_connection() {
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let relay = Relay::start(nobody);
    for _ in 0..3 {
        let mut stream = relay.connect();
        stream.write_all(&request(b"")).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    }
}
