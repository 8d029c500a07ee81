//! Handshakes: versions, suites, names, application protocols and resumption.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use outrigger_xds::snapshot::{DataSource, OcspStaplePolicy, TlsVersion};
use rustls::HandshakeKind;
use rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;

use super::support::*;
use crate::tls::ocsp;
use crate::tls::session::cipher_name;
use crate::tls::{Handshake, HandshakeError, ServerContext, TicketKeyring};

#[test]
fn every_suite_serves_a_client_of_rustls() {
    let authority = Authority::new("ca");
    let (ecdsa, rsa) = (authority.issue(&["a.test"]), authority.issue_rsa(&["a.test"]));
    let context = server(&downstream(&[&rsa, &ecdsa]));
    let shard = Shard::new();
    for suite in ALL_CIPHER_SUITES {
        let (handshake, peer) = shard.server(&context);
        let config = rustls_client(&authority, &[*suite], None);
        let peer = spawn_client(peer, config, "a.test", |peer| {
            ping(peer);
            peer.conn.negotiated_cipher_suite().unwrap().suite()
        });
        let established = shard.finish(handshake).unwrap();
        shard.pong(&established.transport);
        let session = &established.session;
        assert_eq!(session.cipher, suite.suite());
        assert_eq!(session.server_name.as_deref(), Some("a.test"));
        assert_eq!(session.version == TlsVersion::Tls13, suite.tls13().is_some());
        assert_ne!(session.cipher_name(), "unknown");
        assert!(session.peer.is_none() && !session.resumed);
        assert_eq!(shard.join(peer), suite.suite());
    }
}

#[test]
fn every_suite_is_served_by_rustls() {
    let authority = Authority::new("ca");
    let (ecdsa, rsa) = (authority.issue(&["a.test"]), authority.issue_rsa(&["a.test"]));
    let context = client(&upstream(&authority));
    let shard = Shard::new();
    for suite in ALL_CIPHER_SUITES {
        let identity = if cipher_name(suite.suite()).contains("RSA") { &rsa } else { &ecdsa };
        let (handshake, peer) = shard.client(&context, Some("a.test"));
        let config = rustls_server(identity, &[*suite], None);
        let peer = spawn_server(peer, config, ping);
        let established = shard.finish(handshake).unwrap();
        shard.pong(&established.transport);
        let session = &established.session;
        assert_eq!(session.cipher, suite.suite());
        let certificate = session.peer.as_ref().unwrap();
        assert!(certificate.verified);
        assert_eq!(&*certificate.facts().unwrap().dns_sans[0], "a.test");
        shard.join(peer);
    }
}

#[test]
fn a_handshake_in_the_smallest_pieces_and_buffers_succeeds() {
    let authority = Authority::new("ca");
    let context = server(&downstream(&[&authority.issue(&["a.test"])]));
    let shard = Shard::with_buffers(64);
    for dribble in [false, true] {
        let (handshake, peer) = shard.server(&context);
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut config = rustls_client(&authority, &[], None);
        // Messages go over many records.
        config.max_fragment_size = dribble.then_some(48);
        let client = spawn_client(far, config, "a.test", |peer| {
            ping(peer);
            ping(peer);
        });
        // A relay that passes on what the client says byte by byte.
        let mut up = peer.try_clone().unwrap();
        let (mut down, mut near_down) = (peer, near.try_clone().unwrap());
        let relay_up = std::thread::spawn(move || {
            let mut bytes = [0; 1];
            let mut block = [0; 512];
            let room: &mut [u8] = if dribble { &mut bytes } else { &mut block };
            while let Ok(count @ 1..) = near.read(room) {
                up.write_all(&room[..count]).unwrap();
            }
        });
        let relay_down = std::thread::spawn(move || {
            drop(std::io::copy(&mut down, &mut near_down));
        });
        let established = shard.finish(handshake).unwrap();
        shard.pong(&established.transport);
        shard.pong(&established.transport);
        shard.join(client);
        drop(established);
        shard.join(relay_up);
        shard.join(relay_down);
    }
}

#[test]
fn messages_may_go_over_many_records() {
    let authority = Authority::new("ca");
    let identity = authority.issue(&["a.test"]);
    let mut ours = upstream(&authority);
    ours.common.certificates = vec![identity.source()];
    let context = client(&ours);
    let shard = Shard::new();
    for suite in ["TLS_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"] {
        let suite = ALL_CIPHER_SUITES.iter().find(|s| cipher_name(s.suite()) == suite).unwrap();
        let mut theirs = rustls_server(&identity, &[*suite], Some(&authority));
        theirs.max_fragment_size = Some(32);
        let (handshake, peer) = shard.client(&context, Some("a.test"));
        let peer = spawn_server(peer, theirs, ping);
        let established = shard.finish(handshake).unwrap();
        shard.pong(&established.transport);
        shard.join(peer);
    }
}

/// A small generator of numbers, the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) as usize).checked_rem(bound).unwrap_or(0)
    }

    /// Changes, drops or adds a few bytes.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(4) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.below(256) as u8,
                2 => bytes.insert(at, self.below(256) as u8),
                _ => drop(bytes.drain(at..(at + self.below(40)).min(bytes.len()))),
            }
        }
    }
}

#[test]
fn nothing_that_a_peer_says_does_harm() {
    let authority = Authority::new("ca");
    let identity = authority.issue(&["a.test"]);
    let (server, client) = (server(&downstream(&[&identity])), client(&upstream(&authority)));
    let shard = Shard::new();
    let mut random = Random(0x9e37_79b9);
    let theirs = Arc::new(rustls_server(&identity, &[], None));
    for _ in 0..400 {
        // What our own client says, changed, to our server.
        let (greeting, mut greeted) = shard.client(&client, Some("a.test"));
        shard.until(|| Some(shard.ring.turn(crate::ring::Wait::No).unwrap()));
        let mut hello = vec![0; 4096];
        let count = greeted.read(&mut hello).unwrap();
        hello.truncate(count);
        let mut changed = hello.clone();
        random.mutate(&mut changed);
        let (handshake, mut peer) = shard.server(&server);
        peer.write_all(&changed).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        assert!(shard.finish(handshake).is_err(), "nobody can finish this");
        // What a server answers to it, changed, to our client.
        let mut connection = rustls::ServerConnection::new(Arc::clone(&theirs)).unwrap();
        connection.read_tls(&mut &hello[..]).unwrap();
        connection.process_new_packets().unwrap();
        let mut flight = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut flight).unwrap();
        }
        let whole = flight.clone();
        random.mutate(&mut flight);
        greeted.write_all(&flight).unwrap();
        greeted.shutdown(Shutdown::Write).unwrap();
        // What was added behind the whole is not looked at yet.
        let done = shard.finish(greeting).is_ok();
        assert!(done || !flight.starts_with(&whole));
    }
}

/// Goes on until the handshake is done or `peer` has something to say, which it keeps.
fn listen<D>(connection: &mut rustls::ConnectionCommon<D>, socket: &mut UnixStream) {
    while connection.is_handshaking() {
        if connection.wants_write() {
            connection.write_tls(socket).unwrap();
        } else {
            connection.read_tls(socket).unwrap();
            connection.process_new_packets().unwrap();
        }
    }
}

/// Says `first` and the end together with what is left of the handshake, in one piece.
fn say_all<D>(connection: &mut rustls::ConnectionCommon<D>, socket: &mut UnixStream) {
    connection.writer().write_all(b"first").unwrap();
    connection.send_close_notify();
    let mut flight = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut flight).unwrap();
    }
    socket.write_all(&flight).unwrap();
    // The socket stays open until the end was seen.
    let _ = socket.read(&mut [0; 1024]);
}

#[test]
fn what_comes_with_the_last_flight_is_not_lost() {
    let authority = Authority::new("ca");
    let identity = authority.issue(&["a.test"]);
    let (server, client) = (server(&downstream(&[&identity])), client(&upstream(&authority)));
    let shard = Shard::new();
    let heard = |handshake| {
        let established = shard.finish(handshake).unwrap();
        assert_eq!(shard.receive(&established.transport, 5), b"first");
        assert!(shard.end(&established.transport));
        assert!(!established.transport.is_truncated());
    };
    for suite in ALL_CIPHER_SUITES {
        let name = cipher_name(suite.suite());
        if name.contains("RSA") && !name.contains("ECDSA") {
            continue;
        }
        // In TLS 1.2 it is the server who speaks last in the handshake.
        if suite.tls13().is_some() {
            let (handshake, peer) = shard.server(&server);
            let config = rustls_client(&authority, &[*suite], None);
            let peer = spawn_client(peer, config, "a.test", |peer| {
                listen(&mut peer.conn, &mut peer.sock);
                say_all(&mut peer.conn, &mut peer.sock);
            });
            heard(handshake);
            shard.join(peer);
        }
        let (handshake, peer) = shard.client(&client, Some("a.test"));
        let peer = spawn_server(peer, rustls_server(&identity, &[*suite], None), |peer| {
            listen(&mut peer.conn, &mut peer.sock);
            say_all(&mut peer.conn, &mut peer.sock);
        });
        heard(handshake);
        shard.join(peer);
    }
}

#[test]
fn both_sides_are_ours() {
    let authority = Authority::new("ca");
    let mut config = downstream(&[&authority.issue(&["a.test"])]);
    config.common.alpn = names(&["h2", "http/1.1"]);
    let shard = Shard::new();
    let (server, client) = (server(&config), client(&upstream(&authority)));
    let (ours, theirs) = UnixStream::pair().unwrap();
    let adopt = |socket: UnixStream| {
        socket.set_nonblocking(true).unwrap();
        shard.ring.adopt(socket.into(), MARKS)
    };
    let alpn = names(&["http/1.1"]);
    let mut down = Some(Handshake::server(adopt(ours), &shard.buffers, &server));
    let mut up = Some(Handshake::client(
        adopt(theirs),
        &shard.buffers,
        &client,
        Some("a.test"),
        Some(&alpn),
    ));
    let (mut served, mut greeted) = (None, None);
    shard.until(|| {
        for (state, done) in [(&mut down, &mut served), (&mut up, &mut greeted)] {
            let Some(handshake) = state.take() else { continue };
            match handshake.ready().unwrap() {
                Ok(established) => *done = Some(established),
                Err(still) => *state = Some(still),
            }
        }
        (served.is_some() && greeted.is_some()).then_some(())
    });
    let (served, greeted) = (served.unwrap(), greeted.unwrap());
    assert_eq!(served.session.alpn.as_deref(), Some(&b"http/1.1"[..]));
    assert_eq!(greeted.session.alpn.as_deref(), Some(&b"http/1.1"[..]));
    shard.send(&greeted.transport, b"ping");
    shard.pong(&served.transport);
    assert_eq!(shard.receive(&greeted.transport, 4), b"pong");
    // The tickets were taken in on the way, and count as nothing unread.
    assert!(greeted.transport.is_quiet());
    drop(served);
    assert!(shard.end(&greeted.transport));
    assert!(!greeted.transport.is_truncated());
}

#[test]
fn versions_are_those_of_the_configuration() {
    let authority = Authority::new("ca");
    let shard = Shard::new();
    let tls13 = ALL_CIPHER_SUITES.iter().copied().filter(|suite| suite.tls13().is_some());
    let tls13: Vec<_> = tls13.collect();
    let tls12 = ALL_CIPHER_SUITES.iter().copied().filter(|suite| suite.tls13().is_none());
    let tls12: Vec<_> = tls12.collect();
    for (only, suites) in [(TlsVersion::Tls12, &tls13), (TlsVersion::Tls13, &tls12)] {
        let mut config = downstream(&[&authority.issue(&["a.test"])]);
        (config.common.min_version, config.common.max_version) = (only, only);
        let context = server(&config);
        let (handshake, peer) = shard.server(&context);
        let peer = spawn_client(peer, rustls_client(&authority, suites, None), "a.test", |peer| {
            peer.write_all(b"x").and_then(|()| peer.flush()).unwrap_err().to_string()
        });
        let error = shard.finish(handshake).err().unwrap();
        assert!(matches!(error, HandshakeError::Incompatible(_)), "{error:?}");
        let told = shard.join(peer);
        assert!(told.contains("ProtocolVersion"), "{told}");
        let (handshake, peer) = shard.server(&context);
        let config = rustls_client(&authority, &[], None);
        let peer = spawn_client(peer, config, "a.test", ping);
        let established = shard.finish(handshake).unwrap();
        assert_eq!(established.session.version, only);
        shard.pong(&established.transport);
        shard.join(peer);
    }
}

#[test]
fn suites_and_groups_are_those_of_the_configuration() {
    let authority = Authority::new("ca");
    let shard = Shard::new();
    let mut config = downstream(&[&authority.issue(&["a.test"])]);
    config.common.max_version = TlsVersion::Tls12;
    config.common.cipher_suites = vec!["ECDHE-ECDSA-CHACHA20-POLY1305".into()];
    config.common.ecdh_curves = vec!["P-384".into()];
    let context = server(&config);
    let (handshake, peer) = shard.server(&context);
    let peer = spawn_client(peer, rustls_client(&authority, &[], None), "a.test", ping);
    let established = shard.finish(handshake).unwrap();
    assert_eq!(established.session.cipher_name(), "ECDHE-ECDSA-CHACHA20-POLY1305");
    assert_eq!(established.session.group, Some(rustls::NamedGroup::secp384r1));
    shard.pong(&established.transport);
    shard.join(peer);

    config.common.max_version = TlsVersion::Tls13;
    config.common.ecdh_curves = vec!["X25519MLKEM768".into()];
    let context = server(&config);
    let (handshake, peer) = shard.server(&context);
    let peer = spawn_client(peer, rustls_client(&authority, &[], None), "a.test", ping);
    let established = shard.finish(handshake).unwrap();
    assert_eq!(established.session.group, Some(rustls::NamedGroup::X25519MLKEM768));
    shard.pong(&established.transport);
    shard.join(peer);
}

#[test]
fn signature_algorithms_are_those_of_the_configuration() {
    let authority = Authority::new("ca");
    let shard = Shard::new();
    // The server has a key for which its own list has no scheme that the client takes.
    let mut config = downstream(&[&authority.issue(&["a.test"])]);
    config.common.signature_algorithms = vec!["rsa_pss_rsae_sha256".into()];
    let (handshake, peer) = shard.server(&server(&config));
    let peer = spawn_client(peer, rustls_client(&authority, &[], None), "a.test", |peer| {
        peer.write_all(b"x").and_then(|()| peer.flush()).is_err()
    });
    assert!(matches!(shard.finish(handshake).err(), Some(HandshakeError::Incompatible(_))));
    assert!(shard.join(peer));
    config.common.signature_algorithms.push("ecdsa_secp256r1_sha256".into());
    let (handshake, peer) = shard.server(&server(&config));
    let peer = spawn_client(peer, rustls_client(&authority, &[], None), "a.test", ping);
    let established = shard.finish(handshake).unwrap();
    shard.pong(&established.transport);
    shard.join(peer);
}

#[test]
fn the_server_chooses_the_application_protocol_or_goes_without() {
    let authority = Authority::new("ca");
    let mut config = downstream(&[&authority.issue(&["a.test"])]);
    config.common.alpn = names(&["h2", "http/1.1"]);
    let context = server(&config);
    let shard = Shard::new();
    for (offered, agreed) in [
        (&["http/1.1", "h2"][..], Some(&b"h2"[..])),
        (&["http/1.1"], Some(b"http/1.1")),
        (&["spdy/3"], None),
        (&[], None),
    ] {
        let (handshake, peer) = shard.server(&context);
        let mut config = rustls_client(&authority, &[], None);
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let peer = spawn_client(peer, config, "a.test", |peer| {
            ping(peer);
            peer.conn.alpn_protocol().map(<[u8]>::to_vec)
        });
        let established = shard.finish(handshake).unwrap();
        shard.pong(&established.transport);
        assert_eq!(established.session.alpn.as_deref(), agreed);
        assert_eq!(shard.join(peer).as_deref(), agreed);
    }
}

#[test]
fn the_certificate_fits_the_name_and_what_the_client_can_verify() {
    let authority = Authority::new("ca");
    let first = authority.issue(&["first.test"]);
    let rsa = authority.issue_rsa(&["a.test", "*.wild.test"]);
    let ecdsa = authority.issue(&["a.test"]);
    let mut config = downstream(&[&first, &rsa, &ecdsa]);
    let shard = Shard::new();
    let shown = |context: &Arc<ServerContext>, name: &'static str, rsa_only: bool, sni: bool| {
        let (handshake, peer) = shard.server(context);
        let rsa_suites = ALL_CIPHER_SUITES.iter().copied().filter(|suite| {
            cipher_name(suite.suite()).contains("RSA")
                && !cipher_name(suite.suite()).contains("ECDSA")
        });
        let suites: Vec<_> = if rsa_only { rsa_suites.collect() } else { Vec::new() };
        let mut config = rustls_client(&authority, &suites, None);
        config.enable_sni = sni;
        // Whether the name fits is not the question here.
        let peer = spawn_client(peer, config, name, |peer| {
            drop(peer.write_all(b"ping").and_then(|()| peer.flush()));
            let mut pong = [0; 4];
            drop(peer.read_exact(&mut pong));
            peer.conn.peer_certificates().map(|chain| chain[0].clone())
        });
        let established = shard.finish(handshake);
        if let Ok(established) = &established {
            shard.pong(&established.transport);
            let facts = &established.session.local.as_ref().unwrap().facts;
            assert!(!facts.dns_sans.is_empty());
        }
        drop(established);
        shard.join(peer)
    };
    let context = server(&config);
    assert_eq!(shown(&context, "a.test", false, true), Some(ecdsa.leaf.clone()));
    assert_eq!(shown(&context, "A.Test", false, true), Some(ecdsa.leaf.clone()));
    assert_eq!(shown(&context, "a.test", true, true), Some(rsa.leaf.clone()));
    assert_eq!(shown(&context, "x.wild.test", false, true), Some(rsa.leaf.clone()));
    assert_eq!(shown(&context, "first.test", false, true), Some(first.leaf.clone()));
    // Nothing fits: the first, which the client then refuses.
    assert_eq!(shown(&context, "other.test", false, true), None);
    // With a scan of all: for a client without ECDSA, the one it can verify.
    assert_eq!(shown(&context, "a.test", true, false), Some(rsa.leaf.clone()));
    config.full_scan_certs_on_sni_mismatch = true;
    let context = server(&config);
    assert_eq!(shown(&context, "first.test", true, true), None);
}

#[test]
fn sessions_are_resumed_by_ticket_across_contexts_with_the_same_terms() {
    let authority = Authority::new("ca");
    let identity = authority.issue(&["a.test"]);
    let keyring = TicketKeyring::new().unwrap();
    let build = |config: &_, keyring: &_| ServerContext::build(config, "l", keyring).unwrap();
    let mut config = downstream(&[&identity]);
    config.session_timeout = Some(Duration::from_secs(600));
    let same = build(&config, &keyring);
    let twin = build(&config, &keyring);
    let strict = {
        let mut config = config.clone();
        config.common.validation = Some(Arc::new(validation(Some(&authority))));
        build(&config, &keyring)
    };
    let elsewhere = build(&config, &TicketKeyring::new().unwrap());
    let off = {
        let mut config = config.clone();
        config.disable_stateless_resumption = true;
        config.disable_stateful_resumption = true;
        build(&config, &keyring)
    };
    let shard = Shard::new();
    for suite in ["TLS_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"] {
        let suite = ALL_CIPHER_SUITES.iter().find(|s| cipher_name(s.suite()) == suite).unwrap();
        // Clones share what the client remembers.
        let client = rustls_client(&authority, &[*suite], Some(&identity));
        let connect = |context: &Arc<ServerContext>, client: &rustls::ClientConfig| {
            let (handshake, peer) = shard.server(context);
            let peer = spawn_client(peer, client.clone(), "a.test", |peer| {
                ping(peer);
                peer.conn.handshake_kind().unwrap()
            });
            let established = shard.finish(handshake).unwrap();
            shard.pong(&established.transport);
            let kind = shard.join(peer);
            assert_eq!(kind == HandshakeKind::Resumed, established.session.resumed);
            established.session.resumed
        };
        assert!(!connect(&same, &client));
        assert!(connect(&same, &client));
        assert!(connect(&twin, &client));
        assert!(!connect(&strict, &client), "other terms");
        assert!(connect(&strict, &client));
        assert!(!connect(&elsewhere, &client), "other keys");
        let fresh = rustls_client(&authority, &[*suite], None);
        assert!(!connect(&off, &fresh));
        assert!(!connect(&off, &fresh), "nothing is kept");
    }
}

#[test]
fn sessions_of_tls12_are_resumed_by_their_id() {
    let authority = Authority::new("ca");
    let mut config = downstream(&[&authority.issue(&["a.test"])]);
    config.disable_stateless_resumption = true;
    let context = server(&config);
    let shard = Shard::new();
    let name = "ECDHE-ECDSA-AES128-GCM-SHA256";
    let suite = ALL_CIPHER_SUITES.iter().find(|s| cipher_name(s.suite()) == name).unwrap();
    let client = rustls_client(&authority, &[*suite], None);
    for resumed in [false, true, true] {
        let (handshake, peer) = shard.server(&context);
        let peer = spawn_client(peer, client.clone(), "a.test", ping);
        let established = shard.finish(handshake).unwrap();
        shard.pong(&established.transport);
        shard.join(peer);
        assert_eq!(established.session.resumed, resumed);
    }
}

#[test]
fn a_client_resumes_as_many_sessions_as_it_may_keep() {
    let authority = Authority::new("ca");
    let identity = authority.issue(&["a.test"]);
    let shard = Shard::new();
    for version in ["TLS_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"] {
        let suite = ALL_CIPHER_SUITES.iter().find(|s| cipher_name(s.suite()) == version).unwrap();
        let mut theirs = rustls_server(&identity, &[*suite], None);
        theirs.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
        for (keys, resumes) in [(0, false), (1, true), (8, true)] {
            let mut config = upstream(&authority);
            config.max_session_keys = keys;
            let context = client(&config);
            for round in 0..3 {
                let (handshake, peer) = shard.client(&context, Some("a.test"));
                let peer = spawn_server(peer, theirs.clone(), ping);
                let established = shard.finish(handshake).unwrap();
                shard.pong(&established.transport);
                assert_eq!(established.session.resumed, resumes && round > 0, "{version} {keys}");
                assert!(established.session.peer.as_ref().unwrap().verified);
                shard.join(peer);
            }
        }
    }
}

#[test]
fn no_tls_gets_an_alert_and_an_error() {
    let authority = Authority::new("ca");
    let context = server(&downstream(&[&authority.issue(&["a.test"])]));
    let shard = Shard::new();
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\x00\x02\x01\x00\x16\x03\x01\x00"] {
        let (handshake, mut peer) = shard.server(&context);
        peer.write_all(bytes).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        if bytes[0] == 0x16 {
            assert_eq!(shard.finish(handshake).err(), Some(HandshakeError::Closed));
            continue;
        }
        assert!(matches!(shard.finish(handshake).err(), Some(HandshakeError::Protocol(_))));
        let mut alert = [0; 7];
        peer.read_exact(&mut alert).unwrap();
        assert_eq!(alert, [21, 3, 3, 0, 2, 2, 50]);
    }
}

#[test]
fn a_refused_client_is_heard_out_but_not_for_ever() {
    let authority = Authority::new("ca");
    let context = server(&downstream(&[&authority.issue(&["a.test"])]));
    let shard = Shard::new();
    let (mut handshake, mut peer) = shard.server(&context);
    peer.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    while handshake.failure().is_none() {
        shard.until(|| Some(shard.ring.turn(crate::ring::Wait::No).unwrap()));
        handshake = handshake.ready().unwrap().err().unwrap();
    }
    assert!(matches!(handshake.failure(), Some(HandshakeError::Protocol(_))));
    let talker = std::thread::spawn(move || {
        let mut sent = 0;
        while let Ok(count) = peer.write(&[7; 4096]) {
            sent += count;
        }
        sent
    });
    assert!(matches!(shard.finish(handshake).err(), Some(HandshakeError::Protocol(_))));
    assert!(shard.join(talker) >= 256 * 1024);
}

#[test]
fn what_the_peer_says_about_a_failure_is_known() {
    let authority = Authority::new("ca");
    let context = server(&downstream(&[&authority.issue(&["a.test"])]));
    let shard = Shard::new();
    let stranger = Authority::new("stranger");
    let (handshake, peer) = shard.server(&context);
    let peer = spawn_client(peer, rustls_client(&stranger, &[], None), "a.test", |peer| {
        peer.write_all(b"x").and_then(|()| peer.flush()).is_err()
    });
    let error = shard.finish(handshake).err().unwrap();
    assert_eq!(error, HandshakeError::Alert(48));
    assert_eq!(error.to_string(), "the peer sent the alert unknown_ca");
    assert!(shard.join(peer));
    let (handshake, _peer) = shard.client(&client(&upstream(&authority)), Some("no host"));
    assert_eq!(shard.finish(handshake).err(), Some(HandshakeError::ServerName));
}

#[test]
fn a_policy_on_staples_is_kept() {
    let authority = Authority::new("ca");
    let identity = authority.issue_with(&["a.test"], |params| {
        params.serial_number = Some(rcgen::SerialNumber::from(0x1234_u64));
    });
    let shard = Shard::new();
    let fresh = ocsp::samples::response(&[0x12, 0x34], Some("30000101000000Z"));
    let over = ocsp::samples::response(&[0x12, 0x34], Some("20250101000000Z"));
    let connect = |policy, staple: Option<&[u8]>| {
        let mut config = downstream(&[&identity]);
        config.ocsp_staple_policy = policy;
        config.common.certificates[0].ocsp_staple =
            staple.map(|staple| DataSource::Inline(staple.into()));
        let context = ServerContext::build(&config, "l", &TicketKeyring::new().unwrap());
        let context = context.map_err(|error| error.to_string())?;
        let (handshake, peer) = shard.server(&context);
        let peer = spawn_client(peer, rustls_client(&authority, &[], None), "a.test", |peer| {
            drop(peer.write_all(b"ping").and_then(|()| peer.flush()));
            drop(peer.read(&mut [0; 4]));
        });
        let established = shard.finish(handshake);
        if let Ok(established) = &established {
            shard.pong(&established.transport);
        }
        shard.join(peer);
        let established = established.map_err(|error| error.to_string())?;
        Ok((established.session.staple.stapled, established.session.staple.omitted))
    };
    let (lenient, strict, must) =
        (OcspStaplePolicy::Lenient, OcspStaplePolicy::Strict, OcspStaplePolicy::Must);
    let refused = Err("no usable OCSP staple".to_owned());
    for (policy, staple, wanted) in [
        (lenient, None, Ok((false, false))),
        (lenient, Some(&fresh), Ok((true, false))),
        (lenient, Some(&over), Ok((false, true))),
        (strict, None, Ok((false, false))),
        (strict, Some(&fresh), Ok((true, false))),
        (strict, Some(&over), refused.clone()),
        (must, Some(&fresh), Ok((true, false))),
        (must, Some(&over), refused),
    ] {
        assert_eq!(connect(policy, staple.map(|bytes| &bytes[..])), wanted);
    }
    let missing = connect(must, None).unwrap_err();
    assert!(missing.contains("MUST_STAPLE"), "{missing}");
    let broken = connect(lenient, Some(b"no response")).unwrap_err();
    assert!(broken.contains("ocsp_staple: the OCSP staple is no OCSP response"), "{broken}");
}

/// OpenSSL as the client, where it is installed.
#[test]
fn openssl_is_served() {
    let Ok(version) = Command::new("openssl").arg("version").output() else {
        return;
    };
    assert!(version.status.success());
    let authority = Authority::new("ca");
    let mut config = downstream(&[&authority.issue(&["a.test"])]);
    config.common.alpn = names(&["h2"]);
    let context = server(&config);
    let shard = Shard::new();
    for (flag, expected) in [("-tls1_2", TlsVersion::Tls12), ("-tls1_3", TlsVersion::Tls13)] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut openssl = Command::new("openssl")
            .args(["s_client", "-quiet", "-servername", "a.test", "-alpn", "h2", flag])
            .args(["-connect", &address.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (socket, _) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = shard.ring.adopt(socket.into(), MARKS);
        let handshake = Handshake::server(socket, &shard.buffers, &context);
        let established = shard.finish(handshake).unwrap();
        assert_eq!(established.session.version, expected);
        assert_eq!(established.session.alpn.as_deref(), Some(&b"h2"[..]));
        let mut input = openssl.stdin.take().unwrap();
        input.write_all(b"ping").unwrap();
        input.flush().unwrap();
        shard.pong(&established.transport);
        expect(openssl.stdout.as_mut().unwrap(), b"pong");
        established.transport.finish();
        let done = shard.until(|| openssl.try_wait().unwrap());
        assert!(done.success());
    }
}

#[test]
fn a_version_before_12_is_refused() {
    let authority = Authority::new("ca");
    let context = server(&downstream(&[&authority.issue(&["a.test"])]));
    let shard = Shard::new();
    let (handshake, mut peer) = shard.server(&context);
    // A ClientHello of TLS 1.1 without extensions.
    let mut body = vec![3, 2];
    body.extend_from_slice(&[7; 32]);
    body.extend_from_slice(&[0, 0, 4, 0xc0, 0x2b, 0xc0, 0x09, 1, 0]);
    let mut message = vec![1, 0, 0, body.len() as u8];
    message.extend_from_slice(&body);
    peer.write_all(&[22, 3, 1, 0, message.len() as u8]).unwrap();
    peer.write_all(&message).unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    let error = shard.finish(handshake).err().unwrap();
    assert!(matches!(error, HandshakeError::Incompatible(_)), "{error:?}");
}
