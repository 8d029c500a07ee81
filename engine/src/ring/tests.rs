//! The ring against the real kernel, over socket pairs and loopback, with each fallback forced.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use super::*;
use crate::buffers::Arena;

const MARKS: Watermarks = Watermarks { high: 16 * 1024 };

fn config(features: Features) -> RingConfig {
    RingConfig {
        entries: 64,
        receive: ReceiveConfig { buffer_bytes: 4096, buffers: 4, buffers_max: 16 },
        features,
    }
}

/// Every combination of features that this kernel has.
fn rings() -> Vec<Ring> {
    let have = probe().unwrap();
    let mut rings = Vec::new();
    for multishot in [false, true] {
        for defer_taskrun in [false, true] {
            if (have.multishot || !multishot) && (have.defer_taskrun || !defer_taskrun) {
                rings.push(Ring::new(config(Features { multishot, defer_taskrun })).unwrap());
            }
        }
    }
    rings
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn pair(ring: &Ring) -> (Socket, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    (ring.adopt(OwnedFd::from(ours), MARKS), theirs)
}

fn tcp_pair(ring: &Ring) -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let ours = listener.accept().unwrap().0;
    ours.set_nonblocking(true).unwrap();
    (ring.adopt(OwnedFd::from(ours), MARKS), theirs)
}

/// Turns the ring until `done`, at most five seconds.
fn turn_until(ring: &Ring, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !done() {
        assert!(Instant::now() < deadline, "nothing happened in five seconds");
        wait(ring, Duration::from_millis(50));
    }
}

fn wait(ring: &Ring, limit: Duration) {
    ring.wake_after(limit);
    ring.turn(Wait::ForOne).unwrap();
}

fn receive_all(ring: &Ring, socket: &Socket, bytes: usize) -> Vec<u8> {
    let mut all = Vec::new();
    turn_until(ring, || {
        while let Received::Chunk(chunk) = socket.receive() {
            all.extend_from_slice(&chunk);
        }
        all.len() >= bytes
    });
    all
}

/// Takes a socket back from the kernel.
fn hold(ring: &Ring, socket: &Socket) {
    socket.hold();
    turn_until(ring, || socket.is_still());
}

#[test]
fn a_held_socket_leaves_everything_to_who_has_its_copy() {
    for ring in rings() {
        let (socket, mut peer) = pair(&ring);
        socket.start();
        peer.write_all(b"seen").unwrap();
        turn_until(&ring, || !socket.copy_unread().is_empty());
        hold(&ring, &socket);
        // What comes now is for nobody here, and what is sent stays.
        peer.write_all(b"unseen").unwrap();
        let arena = Arena::new();
        socket.send(arena.copy(b"kept"));
        wait(&ring, Duration::from_millis(1));
        assert_eq!(
            (socket.copy_unread(), socket.copy_unsent()),
            (b"seen".to_vec(), b"kept".to_vec())
        );
        let mut copy = UnixStream::from(socket.duplicate().unwrap());
        copy.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        copy.set_nonblocking(false).unwrap();
        let mut came = [0; 6];
        copy.read_exact(&mut came).unwrap();
        assert_eq!(&came, b"unseen");
        copy.write_all(b"by another").unwrap();
        let mut heard = [0; 10];
        peer.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"by another");
        // Letting go of it ends nothing.
        drop(socket);
        wait(&ring, Duration::from_millis(1));
        copy.write_all(b"and still").unwrap();
        peer.read_exact(&mut heard[..9]).unwrap();
        assert_eq!(&heard[..9], b"and still");
    }
}

#[test]
fn a_socket_that_was_held_goes_on_as_if_nothing_had_been() {
    for ring in rings() {
        let (socket, mut peer) = pair(&ring);
        let count = Arc::new(Count(AtomicUsize::new(0)));
        socket.register(&Waker::from(Arc::clone(&count)));
        socket.start();
        // More than the peer's buffer takes: a send waits in the kernel for room.
        let arena = Arena::new();
        let all: Vec<u8> = (0..1_000_000_u32).map(|at| (at % 251) as u8).collect();
        socket.send(arena.copy(&all));
        turn_until(&ring, || socket.sent_bytes() > 0);
        hold(&ring, &socket);
        assert!(count.0.load(Ordering::Relaxed) > 0, "whoever holds it hears of it");
        let taken = socket.sent_bytes() as usize;
        assert!(socket.copy_unsent() == all[taken..]);
        socket.send(arena.copy(b"more"));
        peer.write_all(b"meanwhile").unwrap();
        socket.go_on();
        let reader = std::thread::spawn(move || {
            let mut came = vec![0; 1_000_004];
            peer.read_exact(&mut came).map(|()| came)
        });
        assert_eq!(receive_all(&ring, &socket, 9), b"meanwhile");
        turn_until(&ring, || socket.unsent() == 0);
        assert!(reader.join().unwrap().unwrap() == [&all[..], b"more"].concat());
    }
}

#[test]
fn unsent_bytes_of_a_held_socket_can_be_left_to_another() {
    let ring = rings().pop().unwrap();
    let (socket, mut peer) = pair(&ring);
    let arena = Arena::new();
    hold(&ring, &socket);
    socket.send(arena.copy(b"theirs"));
    socket.send(arena.copy(b"ours"));
    socket.drop_unsent(6);
    socket.go_on();
    turn_until(&ring, || socket.unsent() == 0);
    let mut came = [0; 4];
    peer.read_exact(&mut came).unwrap();
    assert_eq!(&came, b"ours");
}

#[test]
fn bytes_go_both_ways() {
    for ring in rings() {
        let (socket, mut peer) = pair(&ring);
        socket.start();
        peer.write_all(b"ping").unwrap();
        assert_eq!(receive_all(&ring, &socket, 4), b"ping");
        let arena = Arena::new();
        socket.send(arena.copy(b"po"));
        socket.send(arena.copy(b"ng"));
        turn_until(&ring, || socket.unsent() == 0);
        let mut answer = [0; 4];
        peer.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"pong");
    }
}

#[test]
fn a_full_socket_takes_the_rest_later() {
    for ring in rings() {
        let (socket, mut peer) = pair(&ring);
        let arena = Arena::new();
        let block = [42u8; 8192];
        for _ in 0..256 {
            socket.send(arena.copy(&block));
        }
        ring.turn(Wait::No).unwrap();
        ring.turn(Wait::No).unwrap();
        assert!(socket.unsent() > 0, "two MiB fit no socket buffer");
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).unwrap();
            all.len()
        });
        socket.finish();
        turn_until(&ring, || socket.is_finished());
        drop(socket);
        ring.turn(Wait::No).unwrap();
        assert_eq!(reader.join().unwrap(), 256 * 8192);
    }
}

#[test]
fn a_socket_that_is_not_read_stops_receiving() {
    for ring in rings() {
        let (socket, mut peer) = pair(&ring);
        socket.start();
        peer.set_nonblocking(true).unwrap();
        let mut written = 0;
        for _ in 0..200 {
            if let Ok(count) = peer.write(&[7; 4096]) {
                written += count;
            }
            ring.turn(Wait::No).unwrap();
        }
        let (held, _) = ring.buffers();
        assert!(usize::from(held) * 4096 <= MARKS.high + 4 * 4096, "{held} buffers held");
        assert_eq!(receive_all(&ring, &socket, written).len(), written);
    }
}

#[test]
fn a_peer_that_sends_bytes_one_by_one_takes_few_buffers() {
    for ring in rings() {
        let (socket, mut peer) = pair(&ring);
        socket.start();
        for byte in 0..200u8 {
            peer.write_all(&[byte]).unwrap();
            ring.turn(Wait::No).unwrap();
        }
        // Two chunks are a load of 16 KiB; a third passes the watermark, and one more may come
        // before the cancel.
        assert!(ring.buffers().0 <= 4, "{} buffers held", ring.buffers().0);
        assert_eq!(receive_all(&ring, &socket, 200), (0..200).collect::<Vec<u8>>());
    }
}

#[test]
fn a_dry_ring_waits_and_recovers() {
    for ring in rings() {
        let mut pairs: Vec<_> = (0..32).map(|_| pair(&ring)).collect();
        for (socket, peer) in &mut pairs {
            socket.start();
            peer.write_all(b"x").unwrap();
        }
        let mut held = Vec::new();
        let mut waits = 0;
        turn_until(&ring, || {
            waits += ring.take_counters().buffer_waits;
            for (socket, _) in &pairs {
                if let Received::Chunk(chunk) = socket.receive() {
                    held.push(chunk);
                }
            }
            held.len() == 16 && waits > 0
        });
        held.clear();
        let mut late = 0;
        turn_until(&ring, || {
            for (socket, _) in &pairs {
                if let Received::Chunk(_) = socket.receive() {
                    late += 1;
                }
            }
            late == 16
        });
    }
}

#[test]
fn the_end_and_the_reset_are_told_apart() {
    for ring in rings() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket2::SockAddr::from(listener.local_addr().unwrap());
        for reset in [false, true] {
            let mut connecting = Some(ring.connect(&address, &|_| Ok(()), MARKS).unwrap());
            let mut connected = None;
            turn_until(&ring, || {
                match connecting.take().unwrap().ready().unwrap() {
                    Ok(socket) => connected = Some(socket),
                    Err(still) => connecting = Some(still),
                }
                connected.is_some()
            });
            let socket = connected.unwrap();
            socket.start();
            let (peer, _) = listener.accept().unwrap();
            if reset {
                socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
            }
            drop(peer);
            turn_until(&ring, || socket.is_over());
            match socket.receive() {
                Received::End => assert!(!reset),
                Received::Failed(code) => assert!(reset && code == libc::ECONNRESET),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_refused_connect_says_so() {
    for ring in rings() {
        let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut connecting = Some(ring.connect(&unused.into(), &|_| Ok(()), MARKS).unwrap());
        let mut refused = None;
        turn_until(&ring, || {
            match connecting.take().unwrap().ready() {
                Ok(Ok(_)) => panic!("nobody listens there"),
                Ok(Err(still)) => connecting = Some(still),
                Err(code) => refused = Some(code),
            }
            refused.is_some()
        });
        assert_eq!(refused, Some(libc::ECONNREFUSED));
    }
}

#[test]
fn a_pause_takes_the_connection_that_only_it_was_told_of() {
    // The kernel wakes one of those who wait for a connection: the first.
    for (first, second) in rings().into_iter().zip(rings()) {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        tcp.set_nonblocking(true).unwrap();
        let address = tcp.local_addr().unwrap();
        let listeners = [&first, &second].map(|ring| {
            let listener = ring.listen(OwnedFd::from(tcp.try_clone().unwrap()));
            listener.resume();
            ring.turn(Wait::No).unwrap();
            listener
        });
        let count = Arc::new(Count(AtomicUsize::new(0)));
        listeners[0].register(&Waker::from(Arc::clone(&count)));
        let _client = TcpStream::connect(address).unwrap();
        listeners[0].pause();
        turn_until(&first, || !listeners[0].is_armed());
        assert!(matches!(listeners[0].take(), Accepted::Connection(_)));
        assert!(count.0.load(Ordering::Relaxed) > 0);
        // Whoever comes now is the other's.
        let _client = TcpStream::connect(address).unwrap();
        turn_until(&second, || matches!(listeners[1].take(), Accepted::Connection(_)));
        assert!(matches!(listeners[0].take(), Accepted::None));
    }
}

#[test]
fn connections_are_accepted_and_a_pause_leaves_them_waiting() {
    for ring in rings() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        tcp.set_nonblocking(true).unwrap();
        let address = tcp.local_addr().unwrap();
        let listener = ring.listen(OwnedFd::from(tcp));
        let count = Arc::new(Count(AtomicUsize::new(0)));
        listener.register(&Waker::from(Arc::clone(&count)));
        listener.resume();
        ring.turn(Wait::No).unwrap();
        let _clients: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut accepted = Vec::new();
        turn_until(&ring, || {
            while let Accepted::Connection(fd) = listener.take() {
                accepted.push(fd);
            }
            accepted.len() == 3
        });
        assert!(count.0.load(Ordering::Relaxed) > 0);
        listener.pause();
        ring.turn(Wait::No).unwrap();
        ring.turn(Wait::No).unwrap();
        let _waiting = TcpStream::connect(address).unwrap();
        wait(&ring, Duration::from_millis(20));
        assert!(matches!(listener.take(), Accepted::None));
        listener.resume();
        turn_until(&ring, || matches!(listener.take(), Accepted::Connection(_)));
    }
}

#[test]
fn dropping_a_socket_mid_send_closes_it_once_the_kernel_lets_go() {
    for ring in rings() {
        let (socket, mut peer) = pair(&ring);
        let arena = Arena::new();
        for _ in 0..256 {
            socket.send(arena.copy(&[1; 8192]));
        }
        socket.start();
        ring.turn(Wait::No).unwrap();
        ring.turn(Wait::No).unwrap();
        drop(socket);
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).map(|_| all.len())
        });
        turn_until(&ring, || reader.is_finished());
        assert!(reader.join().unwrap().unwrap() < 256 * 8192);
        turn_until(&ring, || ring.buffers().0 == 0);
    }
}

#[test]
fn a_timeout_and_a_bell_end_a_wait() {
    for ring in rings() {
        let start = Instant::now();
        ring.wake_after(Duration::from_secs(60));
        ring.wake_after(Duration::from_millis(5));
        while ring.is_timeout_armed() {
            ring.turn(Wait::ForOne).unwrap();
        }
        assert!(start.elapsed() >= Duration::from_millis(5));
        assert!(start.elapsed() < Duration::from_secs(5));
        let (mut bell, heard) = UnixStream::pair().unwrap();
        ring.listen_to(heard.into());
        for _ in 0..3 {
            bell.write_all(b"x").unwrap();
            turn_until(&ring, || ring.take_rung());
        }
    }
}

#[test]
fn a_ring_tells_that_the_kernel_has_put_work_off() {
    const SOCKETS: usize = 200;
    for ring in rings() {
        // The kernel looks again at TCP sockets that were shut down, and completes nothing.
        let pairs: Vec<_> = (0..SOCKETS).map(|_| tcp_pair(&ring)).collect();
        pairs.iter().for_each(|(socket, _)| socket.start());
        wait(&ring, Duration::from_millis(1));
        pairs.iter().for_each(|(socket, _)| socket.finish());
        ring.wake_after(Duration::from_millis(1));
        ring.turn(Wait::No).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        // The timeout is behind all that, and whoever went to sleep now would not be woken for it.
        ring.turn(Wait::No).unwrap();
        while ring.is_behind() {
            ring.turn(Wait::No).unwrap();
        }
        assert!(!ring.is_timeout_armed());
    }
}

#[test]
fn a_fin_wakes_its_task_and_ends_the_wait() {
    for ring in rings() {
        let (socket, _peer) = pair(&ring);
        let count = Arc::new(Count(AtomicUsize::new(0)));
        socket.register(&Waker::from(Arc::clone(&count)));
        socket.finish();
        ring.take_woken();
        // Nothing completes: it would wait for good.
        assert!(ring.turn(Wait::ForOne).unwrap());
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }
}

#[test]
fn ends_right_behind_bytes_are_told_whatever_the_kernel_forgets() {
    for ring in rings() {
        for reset in [false, true] {
            let (socket, mut peer) = tcp_pair(&ring);
            socket.start();
            wait(&ring, Duration::from_millis(1));
            peer.write_all(b"last words").unwrap();
            if reset {
                socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
            }
            drop(peer);
            assert_eq!(receive_all(&ring, &socket, 10), b"last words");
            let mut now = 0;
            turn_until(&ring, || {
                now += 100_000_000;
                ring.recheck(now);
                socket.is_over()
            });
        }
    }
}

#[test]
fn a_socket_that_goes_quiet_is_looked_at_once() {
    const TICK: Nanos = 100_000_000;
    for ring in rings() {
        let (socket, mut peer) = pair(&ring);
        socket.start();
        peer.write_all(b"bytes").unwrap();
        receive_all(&ring, &socket, 5);
        // As if the kernel had lost this: it is told in the next turn only.
        drop(peer);
        let mut due = 0;
        for now in (0..20).map(|tick| tick * TICK) {
            ring.recheck(now);
            due = due.max(ring.recheck_at().unwrap_or(0));
        }
        assert_eq!(ring.recheck_at(), None);
        let is_multishot = ring.core.borrow().features.multishot;
        let rechecks = ring.take_counters().rechecks;
        // Without multishot a receive looks for itself.
        if !is_multishot {
            assert_eq!((rechecks, due), (0, 0));
            continue;
        }
        assert_eq!(rechecks, 1);
        assert!((2 * TICK..=8 * TICK).contains(&due), "{due}");
        turn_until(&ring, || socket.is_over());
        assert!(matches!(socket.receive(), Received::End));
    }
}
