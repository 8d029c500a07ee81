//! What is asked of certificates, on both sides.

use std::io::{Read, Write};
use std::rc::Rc;
use std::sync::Arc;

use outrigger_xds::snapshot::{SanKind, SanMatcher, StringMatcher, Validation};
use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};

use super::support::*;
use crate::stats::TlsStats;
use crate::tls::{CertificateFault, HandshakeError, ServerContext, TlsSession, x509};

/// Connects with a client certificate; what the server makes of it.
fn connect(
    shard: &Shard,
    context: &Arc<ServerContext>,
    authority: &Authority,
    identity: Option<&Issued>,
) -> Result<Rc<TlsSession>, HandshakeError> {
    let (handshake, peer) = shard.server(context);
    let config = rustls_client(authority, &[], identity);
    let peer = spawn_client(peer, config, "a.test", |peer| {
        drop(peer.write_all(b"ping").and_then(|()| peer.flush()));
        let mut pong = [0; 4];
        peer.read_exact(&mut pong).map_err(|error| error.to_string())
    });
    let established = shard.finish(handshake);
    if let Ok(established) = &established {
        shard.pong(&established.transport);
    }
    let told = shard.join(peer);
    if established.is_err() {
        let told = told.unwrap_err();
        assert!(told.contains("alert"), "the client was told by an alert: {told}");
    }
    established.map(|established| established.session)
}

fn asking(server_identity: &Issued, require: bool, validation: Validation) -> Arc<ServerContext> {
    let mut config = downstream(&[server_identity]);
    config.require_client_certificate = require;
    config.common.validation = Some(Arc::new(validation));
    server(&config)
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn exact(kind: SanKind, text: &str) -> SanMatcher {
    let text = text.as_bytes().into();
    SanMatcher { kind, matcher: StringMatcher::Exact { text, ignore_case: false } }
}

#[test]
fn client_certificates_are_verified() {
    let (authority, stranger) = (Authority::new("ca"), Authority::new("stranger"));
    let own = authority.issue(&["a.test"]);
    let good = authority.issue_with(&["client.test"], |params| {
        params.subject_alt_names.push(uri("spiffe://bank/ns/pay/sa/front"));
        params.subject_alt_names.push(SanType::IpAddress([10, 0, 0, 1].into()));
        params.subject_alt_names.push(SanType::Rfc822Name("ops@bank.test".try_into().unwrap()));
        params.serial_number = Some(SerialNumber::from(0xabcdef_u64));
    });
    let bad = stranger.issue(&["client.test"]);
    let shard = Shard::new();
    let context = asking(&own, true, validation(Some(&authority)));
    let session = connect(&shard, &context, &authority, Some(&good)).unwrap();
    let peer = session.peer.as_ref().unwrap();
    assert!(peer.verified);
    let facts = peer.facts().unwrap();
    assert_eq!(&*facts.subject, r"CN=leaf,O=Outrigger\, Inc");
    assert_eq!(&*facts.issuer, "CN=ca");
    assert_eq!(&*facts.serial, "abcdef");
    assert_eq!(&*facts.uri_sans[0], "spiffe://bank/ns/pay/sa/front");
    assert_eq!(&*facts.dns_sans[0], "client.test");
    assert_eq!(facts.ip_sans[0].to_string(), "10.0.0.1");
    assert_eq!(&*facts.email_sans[0], "ops@bank.test");
    assert_eq!(&*facts.sha256, x509::hex(&x509::sha256(&good.leaf)));
    assert_eq!(facts.sha1.len(), 40);
    assert!(facts.not_before_unix_s < facts.not_after_unix_s);
    assert_eq!(peer.leaf_pem().replace("\r\n", "\n"), good.chain.replace("\r\n", "\n"));
    let error = connect(&shard, &context, &authority, None).err();
    assert_eq!(error, Some(HandshakeError::Certificate(CertificateFault::Missing)));
    let error = connect(&shard, &context, &authority, Some(&bad)).err().unwrap();
    let unknown = CertificateFault::Chain(webpki::Error::UnknownIssuer);
    assert_eq!(error, HandshakeError::Certificate(unknown));
    // Optional: none is fine, a bad one is not.
    let context = asking(&own, false, validation(Some(&authority)));
    assert!(connect(&shard, &context, &authority, None).unwrap().peer.is_none());
    assert!(connect(&shard, &context, &authority, Some(&bad)).is_err());
    // Not asked for: not shown.
    let context = server(&downstream(&[&own]));
    assert!(connect(&shard, &context, &authority, Some(&good)).unwrap().peer.is_none());
}

#[test]
fn every_outcome_is_counted_by_its_reason() {
    let (authority, stranger) = (Authority::new("ca"), Authority::new("stranger"));
    let own = authority.issue(&["a.test"]);
    let (good, bad) = (authority.issue(&["c.test"]), stranger.issue(&["c.test"]));
    let shard = Shard::new();
    let stats = TlsStats::default();
    let count = |validation: Validation, identity: Option<&Issued>| {
        let context = asking(&own, true, validation);
        match connect(&shard, &context, &authority, identity) {
            Ok(session) => stats.handshake(&session),
            Err(error) => stats.failed(&error),
        }
    };
    let names = vec![exact(SanKind::Dns, "d.test")];
    let plain = || validation(Some(&authority));
    count(plain(), Some(&good));
    count(plain(), None);
    count(plain(), Some(&bad));
    count(Validation { subject_alt_names: names, ..plain() }, Some(&good));
    count(Validation { certificate_hashes: vec![[0; 32]], ..plain() }, Some(&good));
    stats.failed(&HandshakeError::Closed);
    stats.failed(&HandshakeError::Alert(48));
    for (counter, wanted) in [
        (&stats.handshake, 1),
        (&stats.no_certificate, 0),
        (&stats.tls13, 1),
        (&stats.x25519, 1),
        (&stats.tls13_aes128, 1),
        (&stats.fail_verify_no_cert, 1),
        (&stats.fail_verify_error, 1),
        (&stats.fail_verify_san, 1),
        (&stats.fail_verify_cert_hash, 1),
        (&stats.fail_closed, 1),
        (&stats.fail_alert, 1),
        (&stats.connection_error, 1),
    ] {
        assert_eq!(counter.value(), wanted);
    }
}

#[test]
fn names_and_hashes_are_asked_for() {
    let authority = Authority::new("ca");
    let own = authority.issue(&["a.test"]);
    let identity = authority.issue_with(&["*.client.test"], |params| {
        params.subject_alt_names.push(uri("spiffe://bank/ns/pay/sa/front"));
    });
    let shard = Shard::new();
    let matchers = |list: Vec<SanMatcher>| {
        let validation = Validation { subject_alt_names: list, ..validation(Some(&authority)) };
        connect(&shard, &asking(&own, true, validation), &authority, Some(&identity)).err()
    };
    let name = HandshakeError::Certificate(CertificateFault::Name);
    assert_eq!(matchers(vec![exact(SanKind::Uri, "spiffe://bank/ns/pay/sa/front")]), None);
    assert_eq!(matchers(vec![exact(SanKind::Uri, "spiffe://bank/x")]), Some(name.clone()));
    assert_eq!(matchers(vec![exact(SanKind::Dns, "x.client.test")]), None, "by wildcard");
    assert_eq!(matchers(vec![exact(SanKind::Dns, "client.test")]), Some(name.clone()));
    assert_eq!(matchers(vec![exact(SanKind::Dns, "x.y.client.test")]), Some(name.clone()));
    let wrong_kind = exact(SanKind::Email, "spiffe://bank/ns/pay/sa/front");
    assert_eq!(matchers(vec![wrong_kind]), Some(name.clone()));
    let any = exact(SanKind::Any, "spiffe://bank/ns/pay/sa/front");
    assert_eq!(matchers(vec![exact(SanKind::Uri, "no"), any]), None, "one is enough");

    let hashes = |spki: Vec<[u8; 32]>, certificate: Vec<[u8; 32]>, ca: Option<&Authority>| {
        let validation =
            Validation { spki_hashes: spki, certificate_hashes: certificate, ..validation(ca) };
        connect(&shard, &asking(&own, true, validation), &authority, Some(&identity)).err()
    };
    let digest = x509::sha256(&identity.leaf);
    let key = x509::spki_sha256(&x509::parse(&identity.leaf).unwrap());
    let hash = HandshakeError::Certificate(CertificateFault::Hash);
    assert_eq!(hashes(vec![], vec![digest], Some(&authority)), None);
    assert_eq!(hashes(vec![key], vec![[0; 32]], Some(&authority)), None, "either is enough");
    assert_eq!(hashes(vec![[0; 32]], vec![], Some(&authority)), Some(hash.clone()));
    // A hash is enough without an authority, as Envoy has it.
    assert_eq!(hashes(vec![], vec![digest], None), None);
    assert_eq!(hashes(vec![], vec![[1; 32]], None), Some(hash));
}

#[test]
fn untrusted_ones_are_accepted_only_where_that_is_said() {
    let (authority, stranger) = (Authority::new("ca"), Authority::new("stranger"));
    let own = authority.issue(&["a.test"]);
    let (good, bad) = (authority.issue(&["c.test"]), stranger.issue(&["c.test"]));
    let shard = Shard::new();
    let lenient = Validation { accept_untrusted: true, ..validation(Some(&authority)) };
    let context = asking(&own, true, lenient);
    for (identity, verified) in [(&good, true), (&bad, false)] {
        let session = connect(&shard, &context, &authority, Some(identity)).unwrap();
        assert_eq!(session.peer.as_ref().unwrap().verified, verified);
    }
    assert!(connect(&shard, &context, &authority, None).is_err(), "one must be shown");
    // Where nothing is asked, nothing is verified.
    let anything = Validation { accept_untrusted: true, ..validation(None) };
    let context = asking(&own, false, anything);
    let session = connect(&shard, &context, &authority, Some(&bad)).unwrap();
    assert!(!session.peer.as_ref().unwrap().verified);
}

#[test]
fn time_counts_unless_it_is_said_not_to() {
    let authority = Authority::new("ca");
    let own = authority.issue(&["a.test"]);
    let expired = authority.issue_with(&["c.test"], |params| {
        params.not_after = date_time_ymd(2001, 1, 1);
    });
    let future = authority.issue_with(&["c.test"], |params| {
        params.not_before = date_time_ymd(2900, 1, 1);
    });
    let shard = Shard::new();
    let strict = asking(&own, true, validation(Some(&authority)));
    let lenient = Validation { allow_expired_certificate: true, ..validation(Some(&authority)) };
    let lenient = asking(&own, true, lenient);
    for identity in [&expired, &future] {
        let error = connect(&shard, &strict, &authority, Some(identity)).err().unwrap();
        assert!(
            matches!(
                error,
                HandshakeError::Certificate(CertificateFault::Chain(
                    webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. }
                ))
            ),
            "{error:?}"
        );
        assert!(connect(&shard, &lenient, &authority, Some(identity)).is_ok());
    }
    // The chain still counts.
    let stranger = Authority::new("stranger").issue(&["c.test"]);
    assert!(connect(&shard, &lenient, &authority, Some(&stranger)).is_err());
}

#[test]
fn intermediates_lead_to_the_authority_as_deep_as_is_said() {
    let authority = Authority::new("ca");
    let middle = authority.intermediate("middle");
    let own = authority.issue(&["a.test"]);
    let mut identity = middle.issue(&["c.test"]);
    identity.chain.push_str(&middle.pem());
    let shard = Shard::new();
    for (depth, fits) in [(None, true), (Some(1), true), (Some(0), false)] {
        let validation = Validation { max_verify_depth: depth, ..validation(Some(&authority)) };
        let context = asking(&own, true, validation);
        let session = connect(&shard, &context, &authority, Some(&identity));
        assert_eq!(session.is_ok(), fits, "{depth:?}");
        if let Ok(session) = session {
            assert_eq!(session.peer.as_ref().unwrap().chain().len(), 2);
        }
    }
    // An intermediate that is trusted is enough.
    let context = asking(&own, true, validation(Some(&middle)));
    assert!(connect(&shard, &context, &authority, Some(&identity)).is_ok());
}

#[test]
fn a_certificate_that_is_itself_trusted_needs_no_chain() {
    let authority = Authority::new("ca");
    let own = authority.issue(&["a.test"]);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["c.test".to_owned()]).unwrap();
    // As `openssl req -x509` makes them.
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    let identity = Issued {
        chain: certificate.pem(),
        key: key.serialize_pem(),
        leaf: certificate.der().clone(),
    };
    let shard = Shard::new();
    let trusting = Validation { trusted_ca: Some(inline(&identity.chain)), ..validation(None) };
    let context = asking(&own, true, trusting);
    let session = connect(&shard, &context, &authority, Some(&identity)).unwrap();
    assert!(session.peer.as_ref().unwrap().verified);
    assert!(connect(&shard, &context, &authority, Some(&own)).is_err());
}

#[test]
fn revoked_certificates_are_refused() {
    let authority = Authority::new("ca");
    let middle = authority.intermediate("middle");
    let own = authority.issue(&["a.test"]);
    let serial = |number: u64| {
        move |params: &mut rcgen::CertificateParams| {
            params.serial_number = Some(SerialNumber::from(number));
        }
    };
    let good = authority.issue_with(&["c.test"], serial(7));
    let revoked = authority.issue_with(&["c.test"], serial(8));
    let mut deep = middle.issue_with(&["c.test"], serial(9));
    deep.chain.push_str(&middle.pem());
    let list = |issuer: &Authority, numbers: &[u64], until: i32| {
        let revoked_certs = numbers.iter().map(|number| RevokedCertParams {
            serial_number: SerialNumber::from(*number),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(issuer.issuer()).unwrap().pem().unwrap()
    };
    let shard = Shard::new();
    let refused = |crl: &str, leaf_only: bool, identity: &Issued| {
        let validation = Validation {
            crl: Some(inline(crl)),
            only_verify_leaf_cert_crl: leaf_only,
            ..validation(Some(&authority))
        };
        connect(&shard, &asking(&own, true, validation), &authority, Some(identity)).err()
    };
    let fault = |error| Some(HandshakeError::Certificate(CertificateFault::Chain(error)));
    let crl = list(&authority, &[8], 3000);
    assert_eq!(refused(&crl, false, &good), None);
    assert_eq!(refused(&crl, false, &revoked), fault(webpki::Error::CertRevoked));
    // The list of the authority says nothing of what the intermediate issued.
    let unknown = fault(webpki::Error::UnknownRevocationStatus);
    assert_eq!(refused(&crl, false, &deep), unknown);
    let of_middle = list(&middle, &[], 3000);
    assert_eq!(refused(&of_middle, true, &deep), None, "only the leaf is looked up");
    assert_eq!(refused(&of_middle, false, &deep), unknown);
    assert_eq!(refused(&format!("{crl}{of_middle}"), false, &deep), None);
    let over = list(&authority, &[], 2025);
    assert!(refused(&over, false, &good).is_some(), "a list that is over");
}

#[test]
fn servers_are_verified_as_far_as_is_said() {
    let (authority, stranger) = (Authority::new("ca"), Authority::new("stranger"));
    let identity = authority.issue(&["a.test"]);
    let shard = Shard::new();
    let connect = |config: &outrigger_xds::snapshot::UpstreamTls, sni: Option<&str>| {
        let (handshake, peer) = shard.client(&client(config), sni);
        let theirs = rustls_server(&identity, &[], None);
        let peer = spawn_server(peer, theirs, |peer| {
            drop(peer.write_all(b"ping").and_then(|()| peer.flush()));
            drop(peer.read(&mut [0; 4]));
        });
        let established = shard.finish(handshake);
        if let Ok(established) = &established {
            shard.pong(&established.transport);
        }
        shard.join(peer);
        established.map(|established| established.session.peer.as_ref().unwrap().verified)
    };
    let mut config = upstream(&authority);
    assert_eq!(connect(&config, Some("a.test")), Ok(true));
    let name = HandshakeError::Certificate(CertificateFault::Name);
    assert_eq!(connect(&config, Some("b.test")), Err(name.clone()));
    config.auto_san_validation = false;
    assert_eq!(connect(&config, Some("b.test")), Ok(true), "no name is asked for");
    assert_eq!(connect(&config, None), Ok(true));
    let pinned = |text: &str| {
        let list = vec![exact(SanKind::Dns, text)];
        Some(Arc::new(Validation { subject_alt_names: list, ..validation(Some(&authority)) }))
    };
    config.common.validation = pinned("a.test");
    assert_eq!(connect(&config, Some("b.test")), Ok(true));
    config.common.validation = pinned("c.test");
    assert_eq!(connect(&config, Some("a.test")), Err(name));
    config.common.validation = Some(Arc::new(validation(Some(&stranger))));
    let unknown = CertificateFault::Chain(webpki::Error::UnknownIssuer);
    assert_eq!(connect(&config, None), Err(HandshakeError::Certificate(unknown)));
    config.common.validation = None;
    assert_eq!(connect(&config, None), Ok(false), "nothing is asked");
}

#[test]
fn a_client_shows_its_certificate_when_it_is_asked() {
    let authority = Authority::new("ca");
    let (own, theirs) = (authority.issue(&["c.test"]), authority.issue(&["a.test"]));
    let shard = Shard::new();
    let mut config = upstream(&authority);
    for (certificates, accepted) in [(vec![own.source()], true), (vec![], false)] {
        config.common.certificates = certificates;
        let (handshake, peer) = shard.client(&client(&config), Some("a.test"));
        let config = rustls_server(&theirs, &[], Some(&authority));
        let peer = spawn_server(peer, config, |peer| {
            drop(peer.write_all(b"ping").and_then(|()| peer.flush()));
            drop(peer.read(&mut [0; 4]));
            peer.conn.peer_certificates().map(|chain| chain[0].clone())
        });
        // In TLS 1.3 a client is done before the server has judged it.
        let established = shard.finish(handshake).unwrap();
        if accepted {
            shard.pong(&established.transport);
            assert_eq!(&*established.session.local.as_ref().unwrap().facts.dns_sans[0], "c.test");
        } else {
            assert!(!shard.end(&established.transport));
            let failure = established.transport.failure().unwrap();
            assert_eq!(failure.to_string(), "the peer sent the alert certificate_required");
        }
        drop(established);
        assert_eq!(shard.join(peer).is_some(), accepted);
    }
}
