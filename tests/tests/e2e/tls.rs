//! TLS on either side: what is agreed on, who is let in, and what becomes of the others.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use outrigger_tests::config::{
    HTTP_CONNECTION_MANAGER, HTTP_INSPECTOR, ROUTER, TCP_PROXY, TLS_INSPECTOR, access_log,
    http2_upstream, transport_socket,
};
use outrigger_tests::http::Fault;
use outrigger_tests::origin::OK;
use outrigger_tests::process::Scratch;
use outrigger_tests::tls::{self, Authority, ClientOptions, DOWNSTREAM, Identity, Subject};
use outrigger_tests::{Client, Config, Http2, Http2Client, Launch, Origin, Proxy, eventually};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ProtocolVersion, ServerConfig};
use serde_json::{Value, json};

use crate::basics::pattern;

/// A proxy's certificate, and an authority that both sides trust.
struct Names {
    authority: Authority,
    server: Identity,
    client: Identity,
    stranger: Identity,
}

impl Names {
    fn new() -> Names {
        let authority = Authority::new("ours");
        let subject = || Subject::dns(&["client.test"]).uri("spiffe://test/ns/a/sa/client");
        let server = Subject::dns(&["proxy.test", "*.wild.test"]).uri("spiffe://test/proxy");
        Names {
            server: authority.issue(server),
            client: authority.issue(subject().organisation("Example, Inc.")),
            stranger: Authority::new("theirs").issue(subject()),
            authority,
        }
    }

    fn trust(&self) -> Value {
        json!({"trusted_ca": {"inline_string": self.authority.pem()}})
    }

    /// A context with the certificate and this in addition.
    fn context(&self, more: Value) -> Value {
        let mut context =
            json!({"common_tls_context": {"tls_certificates": [self.server.to_json()]}});
        merge(&mut context, more);
        context
    }

    /// A context that asks for a certificate, with these rules about it.
    fn mutual(&self, rules: Value) -> Value {
        let mut validation = self.trust();
        merge(&mut validation, rules);
        self.context(json!({
            "require_client_certificate": true,
            "common_tls_context": {"validation_context": validation},
        }))
    }

    /// A client that shows who it is.
    fn known(&self) -> Arc<ClientConfig> {
        self.shows(&self.client)
    }

    fn shows(&self, identity: &Identity) -> Arc<ClientConfig> {
        let roots = Some(&self.authority);
        ClientOptions { roots, identity: Some(identity), ..ClientOptions::default() }.build()
    }

    /// A client that shows nothing.
    fn unknown(&self) -> Arc<ClientConfig> {
        ClientOptions { roots: Some(&self.authority), ..ClientOptions::default() }.build()
    }
}

fn merge(target: &mut Value, more: Value) {
    match (target, more) {
        (Value::Object(target), Value::Object(more)) => {
            for (key, value) in more {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, more) => *target = more,
    }
}

/// Whether the proxy serves such a client. In TLS 1.3 a refusal comes after the client's handshake.
#[track_caller]
fn is_served(proxy: &Proxy, config: &Arc<ClientConfig>, name: &str) -> bool {
    let Ok(mut client) = Client::try_secure(proxy.address(), config, name) else { return false };
    if client.try_send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").is_err() {
        return false;
    }
    match client.try_response() {
        Ok(response) => {
            assert_eq!(response.status, 200);
            true
        }
        Err(fault) => {
            assert_ne!(fault, Fault::Silent);
            false
        }
    }
}

/// The sum of all counters whose name ends like that: the listener's own part of it has its port.
fn ssl_stat(proxy: &Proxy, tail: &str) -> u64 {
    let stats = proxy.stats();
    let ours =
        stats.iter().filter(|(name, _)| name.starts_with("listener.") && name.ends_with(tail));
    ours.map(|(_, value)| value).sum()
}

#[track_caller]
fn expect_ssl_stat(proxy: &Proxy, tail: &str, value: u64) {
    eventually(&format!("{tail} is {value}"), || (ssl_stat(proxy, tail) == value).then_some(()));
}

#[test]
fn both_versions_and_both_protocols_are_agreed_on() {
    let names = Names::new();
    let origin = Origin::echo();
    let context = names.context(json!({"common_tls_context": {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
    }}));
    let proxy = Proxy::start(&Config::to(origin.address()).downstream_tls(context));
    for (version, expected) in
        [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)]
    {
        let client = |alpn: &'static [&'static str]| {
            let roots = Some(&names.authority);
            ClientOptions { roots, alpn, version: Some(version), identity: None }.build()
        };
        let mut old = proxy.secure(&client(&["http/1.1"]), "proxy.test");
        let agreed = old.stream().agreed();
        assert_eq!((agreed.version, agreed.alpn.as_deref()), (expected, Some("http/1.1")));
        for length in [5, 300_000] {
            assert!(old.post("/", pattern(length)).body == pattern(length), "the body changed");
        }
        let mut none = proxy.secure(&client(&[]), "proxy.test");
        assert_eq!(none.stream().agreed().alpn, None);
        assert_eq!(none.post("/", "none").text(), "none");
        let new = Http2Client::secure(proxy.address(), &client(&["http/1.1", "h2"]), "proxy.test");
        assert!(new.post("/", pattern(300_000)).body == pattern(300_000), "the body changed");
        // The host name of a wildcard.
        let any = proxy.secure(&client(&[]), "any.wild.test").get("/").status;
        assert_eq!(any, 200);
    }
    assert_eq!(proxy.stat("http.main.downstream_cx_ssl_total"), 8);
    assert_eq!(proxy.stat("http.main.downstream_cx_http2_total"), 2);
    expect_ssl_stat(&proxy, ".ssl.handshake", 8);
    expect_ssl_stat(&proxy, ".ssl.versions.TLSv1.2", 4);
    expect_ssl_stat(&proxy, ".ssl.versions.TLSv1.3", 4);
    expect_ssl_stat(&proxy, ".ssl.connection_error", 0);
    let request = origin.log().requests.pop().unwrap().request;
    assert_eq!(request.headers.get("x-forwarded-proto"), Some("https"));
    proxy.stop();
}

#[test]
fn versions_suites_and_curves_are_those_configured() {
    let names = Names::new();
    let origin = Origin::ok();
    let old = ClientOptions { version: Some(&TLS12), ..ClientOptions::default() }.build();
    let new = ClientOptions { version: Some(&TLS13), ..ClientOptions::default() }.build();
    let start = |params: Value| {
        let context = names.context(json!({"common_tls_context": {"tls_params": params}}));
        Proxy::start(&Config::to(origin.address()).downstream_tls(context))
    };
    let proxy = start(json!({
        "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3",
    }));
    assert!(is_served(&proxy, &new, "proxy.test") && !is_served(&proxy, &old, "proxy.test"));
    expect_ssl_stat(&proxy, ".ssl.connection_error", 1);
    proxy.stop();
    let proxy = start(json!({"tls_maximum_protocol_version": "TLSv1_2"}));
    assert!(!is_served(&proxy, &new, "proxy.test") && is_served(&proxy, &old, "proxy.test"));
    proxy.stop();
    let proxy = start(json!({
        "tls_maximum_protocol_version": "TLSv1_2",
        "cipher_suites": ["ECDHE-ECDSA-CHACHA20-POLY1305"],
        "ecdh_curves": ["P-256"],
    }));
    let mut client = proxy.secure(&old, "proxy.test");
    let suite = client.stream().agreed().suite;
    assert_eq!(suite, rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256);
    assert_eq!(client.get("/").status, 200);
    drop(client);
    proxy.stop();
}

/// One HTTP chain that answers with its name.
fn chain(name: &str, matching: &Value, identity: Option<&Identity>, alpn: &[&str]) -> Value {
    let mut chain = json!({
        "name": name,
        "filters": [{
            "name": "http",
            "typed_config": {
                "@type": HTTP_CONNECTION_MANAGER,
                "stat_prefix": "main",
                "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{
                    "match": {"prefix": "/"},
                    "direct_response": {"status": 200, "body": {"inline_string": name}},
                }]}]},
                "http_filters": [{"name": "router", "typed_config": {"@type": ROUTER}}],
            },
        }],
    });
    if !matching.is_null() {
        chain["filter_chain_match"] = matching.clone();
    }
    if let Some(identity) = identity {
        chain["transport_socket"] = transport_socket(
            DOWNSTREAM,
            json!({"common_tls_context": {
                "tls_certificates": [identity.to_json()],
                "alpn_protocols": alpn,
            }}),
        );
    }
    chain
}

fn inspectors() -> Value {
    json!([
        {"name": "tls", "typed_config": {"@type": TLS_INSPECTOR}},
        {"name": "http", "typed_config": {"@type": HTTP_INSPECTOR}},
    ])
}

#[test]
fn server_names_choose_the_chain_and_its_certificate() {
    let authority = Authority::new("ours");
    let identity = |name: &str| authority.issue(Subject::dns(&[name]));
    let (exact, wild, deep) = (identity("exact.test"), identity("*.test"), identity("*.deep.test"));
    let listener = |default: Value| {
        Config::new().listener(json!({
            "listener_filters": inspectors(),
            "filter_chains": [
                chain("exact", &json!({"server_names": ["exact.test"]}), Some(&exact), &[]),
                chain("wild", &json!({"server_names": ["*.test"]}), Some(&wild), &[]),
                chain("deep", &json!({"server_names": ["*.deep.test"]}), Some(&deep), &[]),
            ],
            "default_filter_chain": default,
        }))
    };
    let other = identity("other.example");
    let proxy = Proxy::start(&listener(chain("default", &Value::Null, Some(&other), &[])));
    let client = tls::client(&[]);
    for (name, expected, certificate) in [
        ("exact.test", "exact", &exact),
        ("EXACT.test", "exact", &exact),
        ("a.test", "wild", &wild),
        ("a.b.test", "wild", &wild),
        ("a.deep.test", "deep", &deep),
        ("a.b.deep.test", "deep", &deep),
        ("deep.test", "wild", &wild),
        ("exact.test.example", "default", &other),
        ("test", "default", &other),
        ("", "default", &other),
    ] {
        let mut connection = proxy.secure(&client, name);
        let shown = connection.stream().agreed().certificate;
        assert!(shown.as_ref() == Some(&certificate.leaf), "{name}: another certificate");
        assert_eq!(connection.get("/").text(), expected, "{name}");
    }
    proxy.stop();
    // Nobody's name, and no default.
    let proxy = Proxy::start(&listener(Value::Null));
    assert!(is_served(&proxy, &client, "exact.test"));
    assert!(!is_served(&proxy, &client, "other.example"));
    let mut plain = proxy.client();
    let _ = plain.try_send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(plain.wire().closed().is_ok());
    let unmatched = || {
        let stats = proxy.stats();
        stats.iter().find(|(name, _)| name.ends_with("no_filter_chain_match")).map(|(_, n)| *n)
    };
    assert_eq!(unmatched(), Some(2));
    proxy.stop();
}

#[test]
fn a_server_picks_the_certificate_of_the_name() {
    let authority = Authority::new("ours");
    let (first, second) = (
        authority.issue(Subject::dns(&["first.test"])),
        authority.issue(Subject::dns(&["second.test", "*.second.test"])),
    );
    let origin = Origin::ok();
    let proxy = Proxy::start(&Config::to(origin.address()).downstream_tls(json!({
        "common_tls_context": {"tls_certificates": [first.to_json(), second.to_json()]},
    })));
    let client = tls::client(&[]);
    for (name, expected) in [
        ("first.test", &first),
        ("second.test", &second),
        ("a.second.test", &second),
        ("unknown.test", &first),
        ("", &first),
    ] {
        let shown = proxy.secure(&client, name).stream().agreed().certificate;
        assert!(shown.as_ref() == Some(&expected.leaf), "{name}: another certificate");
    }
    proxy.stop();
}

#[test]
fn one_port_takes_everything() {
    let names = Names::new();
    let server = Some(&names.server);
    let config = Config::new().listener(json!({
        "listener_filters": inspectors(),
        "filter_chains": [
            chain(
                "tls h2",
                &json!({"transport_protocol": "tls", "application_protocols": ["h2"]}),
                server,
                &["h2"],
            ),
            chain("tls", &json!({"transport_protocol": "tls"}), server, &["http/1.1"]),
            chain(
                "plain h2",
                &json!({"transport_protocol": "raw_buffer", "application_protocols": ["h2c"]}),
                None,
                &[],
            ),
            chain(
                "plain",
                &json!({
                    "transport_protocol": "raw_buffer",
                    "application_protocols": ["http/1.1", "http/1.0"],
                }),
                None,
                &[],
            ),
        ],
    }));
    let proxy = Proxy::start(&config);
    let client = |alpn| ClientOptions { alpn, ..ClientOptions::default() }.build();
    for _ in 0..3 {
        assert_eq!(proxy.client().get("/").text(), "plain");
        assert_eq!(proxy.http2().get("/").text(), "plain h2");
        assert_eq!(proxy.secure(&client(&["http/1.1"]), "proxy.test").get("/").text(), "tls");
        assert_eq!(proxy.secure(&client(&[]), "").get("/").text(), "tls");
        let new = Http2Client::secure(proxy.address(), &client(&["h2", "http/1.1"]), "proxy.test");
        assert_eq!(new.get("/").text(), "tls h2");
    }
    // A byte at a time, which an inspector sees in parts.
    let mut slow = proxy.client();
    slow.send_bytewise("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(slow.response().text(), "plain");
    proxy.stop();
}

#[test]
fn who_says_nothing_to_an_inspector_is_closed() {
    let names = Names::new();
    let config = Config::new().listener(json!({
        "listener_filters": inspectors(),
        "listener_filters_timeout": "0.3s",
        "filter_chains": [chain(
            "tls", &json!({"transport_protocol": "tls"}), Some(&names.server), &[],
        )],
    }));
    let proxy = Proxy::start(&config);
    let mut silent = proxy.client();
    let mut half = proxy.client();
    half.send([0x16, 0x03, 0x01, 0x02, 0x00, 0x01]);
    assert_eq!(silent.wire().closed(), Ok(0));
    assert_eq!(half.wire().closed(), Ok(0));
    assert!(proxy.secure(&tls::client(&[]), "proxy.test").get("/").status == 200);
    let timeouts = || {
        let stats = proxy.stats();
        stats.iter().find(|(name, _)| name.ends_with("downstream_pre_cx_timeout")).map(|(_, n)| *n)
    };
    assert_eq!(timeouts(), Some(2));
    proxy.stop();
}

#[test]
fn client_certificates_are_asked_for_and_checked() {
    let names = Names::new();
    let origin = Origin::ok();
    let config = Config::to(origin.address()).downstream_tls(names.mutual(json!({
        "match_typed_subject_alt_names": [
            {"san_type": "URI", "matcher": {"prefix": "spiffe://test/ns/a/"}},
        ],
    })));
    let proxy = Proxy::start(&config);
    let other_uri = Subject::dns(&["client.test"]).uri("spiffe://test/ns/b/sa/client");
    let other_uri = names.authority.issue(other_uri);
    let no_uri = names.authority.issue(Subject::dns(&["spiffe.test"]));
    let expired = Subject::dns(&["client.test"]).uri("spiffe://test/ns/a/sa/client").expired();
    let expired = names.authority.issue(expired);
    assert!(is_served(&proxy, &names.known(), "proxy.test"));
    assert!(!is_served(&proxy, &names.unknown(), "proxy.test"));
    expect_ssl_stat(&proxy, ".ssl.fail_verify_no_cert", 1);
    for (client, failures) in [(&names.stranger, 1), (&expired, 2)] {
        assert!(!is_served(&proxy, &names.shows(client), "proxy.test"));
        expect_ssl_stat(&proxy, ".ssl.fail_verify_error", failures);
    }
    for (client, failures) in [(&other_uri, 1), (&no_uri, 2)] {
        assert!(!is_served(&proxy, &names.shows(client), "proxy.test"));
        expect_ssl_stat(&proxy, ".ssl.fail_verify_san", failures);
    }
    assert!(is_served(&proxy, &names.known(), "proxy.test"));
    expect_ssl_stat(&proxy, ".ssl.handshake", 2);
    expect_ssl_stat(&proxy, ".ssl.no_certificate", 0);
    assert_eq!(origin.log().requests.len(), 2);
    proxy.stop();
}

#[test]
fn a_client_certificate_may_be_optional() {
    let names = Names::new();
    let origin = Origin::ok();
    let mut context = names.mutual(json!({}));
    context["require_client_certificate"] = json!(false);
    let proxy = Proxy::start(&Config::to(origin.address()).downstream_tls(context));
    assert!(is_served(&proxy, &names.known(), "proxy.test"));
    assert!(is_served(&proxy, &names.unknown(), "proxy.test"));
    // But what is shown must be right.
    assert!(!is_served(&proxy, &names.shows(&names.stranger), "proxy.test"));
    expect_ssl_stat(&proxy, ".ssl.no_certificate", 1);
    proxy.stop();
}

#[test]
fn san_matchers_of_every_kind() {
    let names = Names::new();
    let origin = Origin::ok();
    #[rustfmt::skip]
    let cases = [
        (json!({"san_type": "URI", "matcher": {"exact": "spiffe://test/ns/a/sa/client"}}), true),
        (json!({"san_type": "URI", "matcher": {"exact": "spiffe://test/ns/a/sa/clien"}}), false),
        (json!({"san_type": "URI", "matcher": {"safe_regex": {"regex": "spiffe://test/.*/client"}}}), true),
        (json!({"san_type": "URI", "matcher": {"suffix": "/sa/client"}}), true),
        (json!({"san_type": "URI", "matcher": {"contains": "/ns/b/"}}), false),
        (json!({"san_type": "DNS", "matcher": {"exact": "client.test"}}), true),
        (json!({"san_type": "DNS", "matcher": {"exact": "spiffe://test/ns/a/sa/client"}}), false),
        (json!({"san_type": "EMAIL", "matcher": {"prefix": "client"}}), false),
    ];
    for (matcher, accepted) in cases {
        let context = names.mutual(json!({"match_typed_subject_alt_names": [matcher]}));
        let proxy = Proxy::start(&Config::to(origin.address()).downstream_tls(context));
        assert_eq!(is_served(&proxy, &names.known(), "proxy.test"), accepted, "{matcher}");
        proxy.stop();
    }
}

#[test]
fn certificates_and_keys_are_pinned() {
    let names = Names::new();
    let origin = Origin::ok();
    let hash = hex(&sha256(&names.client.leaf));
    let colons: Vec<&str> =
        hash.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect();
    let colons = colons.join(":").to_uppercase();
    let key = base64(&sha256(&names.client.public_key));
    let wrong_key = base64(&sha256(&names.server.public_key));
    for (rules, accepted) in [
        (json!({"verify_certificate_hash": [hash]}), true),
        (json!({"verify_certificate_hash": ["00".repeat(32), colons]}), true),
        (json!({"verify_certificate_hash": ["00".repeat(32)]}), false),
        (json!({"verify_certificate_spki": [key]}), true),
        (json!({"verify_certificate_spki": [wrong_key]}), false),
        (
            json!({"verify_certificate_spki": [key], "verify_certificate_hash": ["00".repeat(32)]}),
            true,
        ),
    ] {
        let context = names.mutual(rules.clone());
        let proxy = Proxy::start(&Config::to(origin.address()).downstream_tls(context));
        assert_eq!(is_served(&proxy, &names.known(), "proxy.test"), accepted, "{rules}");
        expect_ssl_stat(&proxy, ".ssl.fail_verify_cert_hash", u64::from(!accepted));
        proxy.stop();
    }
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    let hash = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let hash = hash.tls13().unwrap().common.hash_provider;
    hash.hash(bytes).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = bits >> (18 - 6 * place) & 63;
            let known = place <= three.len();
            text.push(if known { char::from(DIGITS[digit as usize]) } else { '=' });
        }
    }
    text
}

#[test]
fn revoked_certificates_are_refused() {
    let names = Names::new();
    let origin = Origin::ok();
    let revoked = Subject::dns(&["client.test"]).uri("spiffe://test/ns/a/sa/client");
    let revoked = names.authority.issue(revoked);
    let crl = names.authority.revoke(&[&revoked]);
    let context = names.mutual(json!({"crl": {"inline_string": crl}}));
    let proxy = Proxy::start(&Config::to(origin.address()).downstream_tls(context));
    assert!(is_served(&proxy, &names.known(), "proxy.test"));
    assert!(!is_served(&proxy, &names.shows(&revoked), "proxy.test"));
    expect_ssl_stat(&proxy, ".ssl.fail_verify_error", 1);
    proxy.stop();
}

#[test]
fn expired_certificates_are_accepted_where_configured() {
    let names = Names::new();
    let origin = Origin::ok();
    let expired = names.authority.issue(Subject::dns(&["client.test"]).expired());
    let context = names.mutual(json!({"allow_expired_certificate": true}));
    let proxy = Proxy::start(&Config::to(origin.address()).downstream_tls(context));
    assert!(is_served(&proxy, &names.shows(&expired), "proxy.test"));
    assert!(!is_served(&proxy, &names.shows(&names.stranger), "proxy.test"));
    proxy.stop();
}

#[test]
fn certificate_files_are_read_again_when_they_are_replaced() {
    let names = Names::new();
    let scratch = Scratch::new();
    let first = names.server.write(scratch.path(), "server");
    let bundle = scratch.file("trust.pem");
    fs::write(&bundle, names.authority.pem()).unwrap();
    let origin = Origin::ok();
    // The directory is watched, as for certificates that a mount replaces.
    let mut certificate = first;
    certificate["watched_directory"] = json!({"path": scratch.path()});
    let config = Config::to(origin.address()).downstream_tls(json!({
        "require_client_certificate": true,
        "common_tls_context": {
            "tls_certificates": [certificate],
            "validation_context": {
                "trusted_ca": {"filename": bundle},
                "watched_directory": {"path": scratch.path()},
            },
        },
    }));
    let proxy = Proxy::start(&config);
    let mut old = proxy.secure(&names.known(), "proxy.test");
    assert_eq!(old.get("/").status, 200);

    let renewed = names.authority.issue(Subject::dns(&["proxy.test"]));
    let _ = renewed.write(scratch.path(), "server");
    let shown = |proxy: &Proxy| {
        let client = ClientOptions { identity: Some(&names.client), ..ClientOptions::default() };
        proxy.secure(&client.build(), "proxy.test").stream().agreed().certificate
    };
    eventually("the new certificate", || {
        (shown(&proxy).as_ref() == Some(&renewed.leaf)).then_some(())
    });
    // Who was there before goes on.
    assert_eq!(old.get("/").status, 200);

    // Another authority is trusted after this, and the first no more.
    let theirs = Authority::new("next");
    let next = theirs.issue(Subject::dns(&["client.test"]));
    fs::write(scratch.file("trust.new"), theirs.pem()).unwrap();
    fs::rename(scratch.file("trust.new"), &bundle).unwrap();
    let next = ClientOptions { identity: Some(&next), ..ClientOptions::default() }.build();
    eventually("the new authority", || is_served(&proxy, &next, "proxy.test").then_some(()));
    let stale = ClientOptions { identity: Some(&names.client), ..ClientOptions::default() };
    assert!(!is_served(&proxy, &stale.build(), "proxy.test"));
    let mut connection = proxy.secure(&next, "proxy.test");
    assert!(connection.stream().agreed().certificate.as_ref() == Some(&renewed.leaf));
    drop(connection);

    // Half a change is none: a key that does not fit leaves everything as it was.
    fs::write(scratch.file("other.key"), &names.server.key).unwrap();
    fs::rename(scratch.file("other.key"), scratch.file("server.key")).unwrap();
    for _ in 0..20 {
        let mut connection = proxy.secure(&next, "proxy.test");
        assert!(connection.stream().agreed().certificate.as_ref() == Some(&renewed.leaf));
        assert_eq!(connection.get("/").status, 200);
    }
    assert_eq!(old.get("/").status, 200);
    drop(old);
    proxy.stop();
}

#[test]
fn secrets_of_a_file_are_read_again_when_it_is_replaced() {
    let names = Names::new();
    let scratch = Scratch::new();
    // One secret a file, as Envoy has it.
    let replace = |name: &str, secret: Value| {
        let kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
        let mut resource = json!({"@type": kind, "name": name});
        merge(&mut resource, secret);
        let path = scratch.file(name);
        fs::write(path.with_extension("new"), json!({"resources": [resource]}).to_string())
            .unwrap();
        fs::rename(path.with_extension("new"), path.with_extension("json")).unwrap();
    };
    let write = |identity: &Identity, authority: &Authority| {
        replace("server", json!({"tls_certificate": identity.to_json()}));
        replace(
            "trust",
            json!({"validation_context": {
                "trusted_ca": {"inline_string": authority.pem()},
            }}),
        );
    };
    write(&names.server, &names.authority);
    let secret = |name: &str| {
        let path = scratch.file(name).with_extension("json");
        json!({"name": name, "sds_config": {
            "resource_api_version": "V3", "path_config_source": {"path": path},
        }})
    };
    let origin = Origin::ok();
    let config = Config::to(origin.address()).downstream_tls(json!({
        "require_client_certificate": true,
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [secret("server")],
            "validation_context_sds_secret_config": secret("trust"),
        },
    }));
    let config = config.with(json!({"node": {"id": "node-1", "cluster": "service-1"}}));
    let proxy = Proxy::start(&config);
    let mut old = eventually("the secrets", || {
        let mut client = Client::try_secure(proxy.address(), &names.known(), "proxy.test").ok()?;
        client.try_send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").ok()?;
        client.try_response().ok().map(|_| client)
    });
    let theirs = Authority::new("next");
    let renewed = theirs.issue(Subject::dns(&["proxy.test"]));
    let next = theirs.issue(Subject::dns(&["client.test"]));
    write(&renewed, &theirs);
    let next = ClientOptions { identity: Some(&next), ..ClientOptions::default() }.build();
    eventually("the new secrets", || is_served(&proxy, &next, "proxy.test").then_some(()));
    let shown = proxy.secure(&next, "proxy.test").stream().agreed().certificate;
    assert!(shown.as_ref() == Some(&renewed.leaf), "another certificate");
    let stale = ClientOptions { identity: Some(&names.client), ..ClientOptions::default() };
    assert!(!is_served(&proxy, &stale.build(), "proxy.test"));
    assert_eq!(old.get("/").status, 200);
    drop(old);
    proxy.stop();
}

#[test]
fn sessions_are_resumed_on_every_shard() {
    let names = Names::new();
    let origin = Origin::ok();
    let context = names.context(json!({"common_tls_context": {
        "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
    }}));
    let config = Config::to(origin.address()).downstream_tls(context);
    let proxy = Launch::outrigger(&config).shards(2).start();
    for version in [&TLS12, &TLS13] {
        let roots = Some(&names.authority);
        let client =
            ClientOptions { roots, version: Some(version), ..ClientOptions::default() }.build();
        let mut held = Vec::new();
        for count in 0..12 {
            // Held open, so that the shards take turns.
            let mut connection = proxy.secure(&client, "proxy.test");
            assert_eq!(connection.get("/").status, 200);
            assert_eq!(connection.stream().agreed().resumed, count > 0, "{version:?}, {count}");
            held.push(connection);
        }
    }
    expect_ssl_stat(&proxy, ".ssl.session_reused", 22);
    proxy.stop();
}

#[test]
fn sessions_are_resumed_by_another_proxy_with_the_same_keys() {
    let names = Names::new();
    let origin = Origin::ok();
    let keys = |first: u8, second: u8| {
        let key = |byte: u8| json!({"inline_bytes": base64(&[byte; 80])});
        json!({"session_ticket_keys": {"keys": [key(first), key(second)]}})
    };
    let start = |keys: Value| {
        Proxy::start(&Config::to(origin.address()).downstream_tls(names.context(keys)))
    };
    let version = Some(&TLS12);
    let client = ClientOptions { version, roots: Some(&names.authority), ..Default::default() };
    let resumed = |proxy: &Proxy, client: &Arc<ClientConfig>| {
        let mut connection = proxy.secure(client, "proxy.test");
        assert_eq!(connection.get("/").status, 200);
        connection.stream().agreed().resumed
    };
    // The first key encrypts, all decrypt.
    let (one, two, other) = (start(keys(1, 2)), start(keys(2, 1)), start(keys(3, 4)));
    let client_config = client.build();
    assert!(!resumed(&one, &client_config));
    assert!(resumed(&two, &client_config));
    assert!(resumed(&one, &client_config));
    assert!(!resumed(&other, &client_config));
    for proxy in [one, two, other] {
        proxy.stop();
    }
    // None where that is forbidden.
    let proxy = start(json!({
        "disable_stateless_session_resumption": true, "disable_stateful_session_resumption": true,
    }));
    let client_config = client.build();
    assert!(!resumed(&proxy, &client_config) && !resumed(&proxy, &client_config));
    proxy.stop();
}

#[test]
fn the_clients_certificate_is_forwarded_in_five_ways() {
    let names = Names::new();
    let origin = Origin::ok();
    let hash = hex(&sha256(&names.client.leaf));
    let uri = "URI=spiffe://test/ns/a/sa/client";
    let ours = format!("By=spiffe://test/proxy;Hash={hash}");
    let details = json!({"subject": true, "uri": true, "dns": true});
    let subject = "Subject=\"O=Example\\, Inc.,CN=client.test\"";
    let full = format!("{ours};{subject};{uri};DNS=client.test");
    let sent = "By=x;URI=y";
    let cases = [
        ("SANITIZE", json!({}), None),
        ("FORWARD_ONLY", json!({}), Some(sent.to_owned())),
        ("ALWAYS_FORWARD_ONLY", json!({}), Some(sent.to_owned())),
        ("SANITIZE_SET", details.clone(), Some(full.clone())),
        ("APPEND_FORWARD", details, Some(format!("{sent},{full}"))),
        ("SANITIZE_SET", json!({"uri": true}), Some(format!("{ours};{uri}"))),
    ];
    for (mode, details, expected) in cases {
        let config =
            Config::to(origin.address()).downstream_tls(names.mutual(json!({}))).http(json!({
                "forward_client_cert_details": mode,
                "set_current_client_cert_details": details,
            }));
        let proxy = Proxy::start(&config);
        let mut client = proxy.secure(&names.known(), "proxy.test");
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: test\r\nx-forwarded-client-cert: {sent}\r\n\r\n"
        ));
        assert_eq!(client.response().status, 200);
        let request = origin.log().requests.pop().unwrap().request;
        let found = request.headers.get("x-forwarded-client-cert");
        assert_eq!(found, expected.as_deref(), "{mode}, {details}");
        origin.forget();
        drop(client);
        proxy.stop();
    }
    // Without a certificate there is nothing to say, and nobody is believed.
    for (mode, expected) in
        [("SANITIZE_SET", None), ("FORWARD_ONLY", None), ("ALWAYS_FORWARD_ONLY", Some(sent))]
    {
        let config =
            Config::to(origin.address()).http(json!({"forward_client_cert_details": mode}));
        let proxy = Proxy::start(&config);
        let ask =
            format!("GET / HTTP/1.1\r\nHost: test\r\nx-forwarded-client-cert: {sent}\r\n\r\n");
        assert_eq!(proxy.client().send(ask).response().status, 200);
        let request = origin.log().requests.pop().unwrap().request;
        assert_eq!(request.headers.get("x-forwarded-client-cert"), expected, "{mode}");
        origin.forget();
        proxy.stop();
    }
}

#[test]
fn failed_handshakes_are_counted_and_disturb_nobody() {
    let names = Names::new();
    let origin = Origin::ok();
    let config = Config::to(origin.address())
        .downstream_tls(names.context(json!({})))
        .chain(json!({"transport_socket_connect_timeout": "0.5s"}));
    let mut proxy = Proxy::start(&config);
    let mut bystander = proxy.secure(&names.unknown(), "proxy.test");
    assert_eq!(bystander.get("/").status, 200);
    let before = proxy.process().rss();
    let failures = || ssl_stat(&proxy, ".ssl.connection_error");
    // Not TLS at all: told so by an alert, or simply closed.
    let mut plain = proxy.client();
    let _ = plain.try_send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    plain.wire().closed().unwrap();
    eventually("garbage is counted", || (failures() == 1).then_some(()));
    // Random bytes that begin like TLS.
    let mut garbage = proxy.client();
    let _ = garbage.try_send([&[0x16, 0x03, 0x01, 0x00, 0x30][..], &[0xa5; 0x30]].concat());
    garbage.wire().closed().unwrap();
    eventually("garbage is counted", || (failures() == 2).then_some(()));
    // A client that does not like us says so by an alert.
    let roots = Authority::new("theirs");
    let distrust = ClientOptions { roots: Some(&roots), ..ClientOptions::default() }.build();
    assert!(Client::try_secure(proxy.address(), &distrust, "proxy.test").is_err());
    eventually("an alert is counted", || (failures() == 3).then_some(()));
    // Half a ClientHello, then silence.
    let mut half = proxy.client();
    half.send([0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03]);
    let mut silent = proxy.client();
    half.wire().closed().unwrap();
    silent.wire().closed().unwrap();
    assert_eq!(bystander.get("/").status, 200);
    // Many at once.
    for _ in 0..500 {
        let mut client = proxy.client();
        let _ = client.try_send([0x16, 0x03, 0x01, 0xff, 0xff, 0x01, 0xff]);
        client.reset();
    }
    assert_eq!(bystander.get("/").status, 200);
    assert!(is_served(&proxy, &names.unknown(), "proxy.test"));
    proxy.expect_stat("http.main.downstream_cx_active", 1);
    let grown = proxy.process().rss().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more of memory");
    assert_eq!(origin.log().accepted, 1);
    drop(bystander);
    proxy.stop();
}

#[test]
fn a_handshake_may_come_in_any_pieces() {
    let names = Names::new();
    let origin = Origin::ok();
    let proxy =
        Proxy::start(&Config::to(origin.address()).downstream_tls(names.context(json!({}))));
    for piece in [1, 7, 100] {
        let mut socket = proxy.address().connect(outrigger_tests::PATIENCE).unwrap();
        let name = "proxy.test".try_into().unwrap();
        let mut connection = rustls::ClientConnection::new(names.unknown(), name).unwrap();
        while connection.is_handshaking() || connection.wants_write() {
            let mut flight = Vec::new();
            while connection.wants_write() {
                connection.write_tls(&mut flight).unwrap();
            }
            for bytes in flight.chunks(piece) {
                socket.write_all(bytes).unwrap();
            }
            if connection.is_handshaking() {
                connection.read_tls(&mut socket).unwrap();
                connection.process_new_packets().unwrap();
            }
        }
        connection.writer().write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
        let mut request = Vec::new();
        connection.write_tls(&mut request).unwrap();
        for bytes in request.chunks(piece) {
            socket.write_all(bytes).unwrap();
        }
        let mut response = Vec::new();
        while !response.ends_with(b"ok") {
            assert!(connection.read_tls(&mut socket).unwrap() > 0);
            connection.process_new_packets().unwrap();
            let _ = std::io::Read::read_to_end(&mut connection.reader(), &mut response);
        }
        assert!(response.starts_with(b"HTTP/1.1 200"));
    }
    proxy.stop();
}

#[test]
fn connections_end_with_a_close_notify() {
    let names = Names::new();
    let origin = Origin::ok();
    let config = Config::to(origin.address()).downstream_tls(names.context(json!({})));
    let proxy = Proxy::start(&config);
    let mut client = proxy.secure(&names.unknown(), "proxy.test");
    client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    assert_eq!(client.response().header("connection"), Some("close"));
    // Anything but a close_notify would be a truncation.
    client.expect_close();
    // Theirs is understood as well.
    let mut client = proxy.secure(&names.unknown(), "proxy.test");
    assert_eq!(client.get("/").status, 200);
    client.stream().close_notify().unwrap();
    client.expect_close();
    proxy.expect_stat("http.main.downstream_cx_active", 0);
    proxy.stop();
}

/// A server with that certificate for every kind of origin.
fn origin_tls(
    names: &Names,
    identity: &Identity,
    mutual: bool,
    alpn: &[&str],
) -> Arc<ServerConfig> {
    tls::server(identity, mutual.then_some(&names.authority), alpn)
}

/// What an origin has learned of a connection.
type Learned = Arc<Mutex<Vec<outrigger_tests::net::Agreed>>>;

fn secure_origin(config: Arc<ServerConfig>) -> (Origin, Learned) {
    let learned = Learned::default();
    let notes = Arc::clone(&learned);
    let origin = Origin::start(move |peer| {
        peer.secure(&config)?;
        notes.lock().unwrap().push(peer.wire().stream().agreed());
        peer.answer_all(OK.as_bytes())
    });
    (origin, learned)
}

#[test]
fn upstream_connections_show_and_check_certificates() {
    let names = Names::new();
    let origin_identity = Subject::dns(&["origin.test"]).uri("spiffe://test/ns/a/sa/origin");
    let origin_identity = names.authority.issue(origin_identity);
    let (origin, learned) = secure_origin(origin_tls(&names, &origin_identity, true, &[]));
    let mut validation = names.trust();
    merge(
        &mut validation,
        json!({"match_typed_subject_alt_names": [
            {"san_type": "URI", "matcher": {"exact": "spiffe://test/ns/a/sa/origin"}},
        ]}),
    );
    let config = Config::to(origin.address()).upstream_tls(json!({
        "sni": "origin.test",
        "common_tls_context": {
            "tls_certificates": [names.client.to_json()],
            "validation_context": validation,
            "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
        },
    }));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "ok");
    }
    assert_eq!(origin.log().accepted, 1);
    let agreed = learned.lock().unwrap()[0].clone();
    assert_eq!(agreed.server_name.as_deref(), Some("origin.test"));
    assert!(agreed.certificate.as_ref() == Some(&names.client.leaf), "another certificate");
    assert_eq!(agreed.version, ProtocolVersion::TLSv1_3);
    proxy.expect_stat("cluster.origin.ssl.handshake", 1);
    proxy.stop();
}

#[test]
fn upstream_connections_that_do_not_verify_fail_with_a_reason() {
    let names = Names::new();
    let scratch = Scratch::new();
    let stranger = Authority::new("theirs").issue(Subject::dns(&["origin.test"]));
    let expired = names.authority.issue(Subject::dns(&["origin.test"]).expired());
    let ours = names.authority.issue(Subject::dns(&["origin.test"]));
    let other_san = json!({"match_typed_subject_alt_names": [
        {"san_type": "DNS", "matcher": {"exact": "else.test"}},
    ]});
    let wrong_hash = json!({"verify_certificate_hash": ["00".repeat(32)]});
    for (name, identity, rules, counter) in [
        ("a stranger", &stranger, json!({}), "fail_verify_error"),
        ("expired", &expired, json!({}), "fail_verify_error"),
        ("another name", &ours, other_san, "fail_verify_san"),
        ("another hash", &ours, wrong_hash, "fail_verify_cert_hash"),
    ] {
        let (origin, learned) = secure_origin(origin_tls(&names, identity, false, &[]));
        let path = scratch.file(&format!("{counter}-{name}.log"));
        let mut validation = names.trust();
        merge(&mut validation, rules);
        let format = "%RESPONSE_CODE% %RESPONSE_FLAGS% %UPSTREAM_TRANSPORT_FAILURE_REASON%\n";
        let config = Config::to(origin.address())
            .upstream_tls(json!({
                "sni": "origin.test",
                "common_tls_context": {"validation_context": validation},
            }))
            .http(json!({"access_log": access_log(&path, format)}));
        let proxy =
            Launch::outrigger(&config).arguments(&["--file-flush-interval-msec", "20"]).start();
        assert_eq!(proxy.client().get("/").status, 503, "{name}");
        assert_eq!(origin.log().requests.len(), 0, "{name}");
        let line = first_line(&path);
        let reason = line.strip_prefix("503 UF ").unwrap_or_else(|| panic!("{name}: {line}"));
        assert!(reason.len() > 3, "{name}: {line}");
        proxy.expect_stat(&format!("cluster.origin.ssl.{counter}"), 1);
        proxy.expect_stat("cluster.origin.upstream_cx_connect_fail", 1);
        drop(learned);
        proxy.stop();
    }
}

fn first_line(path: &Path) -> String {
    eventually("a line of the log", || {
        let text = fs::read_to_string(path).ok()?;
        text.split_once('\n').map(|(line, _)| line.to_owned())
    })
}

#[test]
fn upstream_handshakes_that_come_to_nothing_are_failures_to_connect() {
    let names = Names::new();
    let ours = names.authority.issue(Subject::dns(&["origin.test"]));
    // Silent, plain, and gone.
    for kind in 0..3 {
        let origin = Origin::start(move |peer| match kind {
            0 => peer.stall(),
            1 => {
                peer.send("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")?;
                peer.stall()
            }
            _ => peer.reset(),
        });
        let config = Config::to(origin.address())
            .upstream_tls(json!({"common_tls_context": {"validation_context": names.trust()}}))
            .tune_cluster(json!({"connect_timeout": "0.5s"}));
        let proxy = Proxy::start(&config);
        assert_eq!(proxy.client().get("/").status, 503, "kind {kind}");
        proxy.expect_stat("cluster.origin.upstream_cx_connect_fail", 1);
        proxy.expect_no_active_requests();
        proxy.stop();
    }
    // An origin that wants a certificate of us, which we have not.
    let (origin, _) = secure_origin(origin_tls(&names, &ours, true, &[]));
    let config = Config::to(origin.address())
        .upstream_tls(json!({"common_tls_context": {"validation_context": names.trust()}}));
    let proxy = Proxy::start(&config);
    assert_eq!(proxy.client().get("/").status, 503);
    proxy.stop();
}

#[test]
fn http2_runs_over_tls_on_both_sides() {
    let names = Names::new();
    let ours = names.authority.issue(Subject::dns(&["origin.test"]));
    let tls = Some(origin_tls(&names, &ours, false, &["h2"]));
    let origin = Origin::http2(Http2 { tls, ..Http2::default() }, |mut exchange| async move {
        let body = exchange.request().await?.body;
        exchange.answer(200, &[], &body).await
    });
    let config = Config::to(origin.address())
        .downstream_tls(names.context(json!({"common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"],
        }})))
        .tune_cluster(http2_upstream(&json!({})))
        .upstream_tls(json!({
            "sni": "origin.test",
            "common_tls_context": {"validation_context": names.trust(), "alpn_protocols": ["h2"]},
        }));
    let proxy = Proxy::start(&config);
    let roots = Some(&names.authority);
    let client = ClientOptions { roots, alpn: &["h2"], ..ClientOptions::default() }.build();
    let client = Http2Client::secure(proxy.address(), &client, "proxy.test");
    let mut calls: Vec<_> = (0..50)
        .map(|n| {
            let mut call = client.open("POST", "/", &[], false);
            call.send(format!("call {n}"));
            call.finish();
            call
        })
        .collect();
    for (n, call) in calls.iter_mut().enumerate() {
        assert_eq!(call.response().unwrap().text(), format!("call {n}"));
    }
    let body = pattern(2_000_000);
    assert!(client.post("/", &body).body == body, "the body changed");
    assert_eq!(origin.log().accepted, 1);
    proxy.expect_stat("cluster.origin.ssl.handshake", 1);
    proxy.stop();
}

#[test]
fn the_version_upstream_may_be_chosen_by_alpn() {
    let names = Names::new();
    let ours = names.authority.issue(Subject::dns(&["origin.test"]));
    let config = |origin: &Origin| {
        Config::to(origin.address())
            .tune_cluster(json!({"typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "auto_config": {"http2_protocol_options": {}},
                },
            }}))
            .upstream_tls(json!({
                "sni": "origin.test",
                "common_tls_context": {"validation_context": names.trust()},
            }))
    };
    let tls = Some(origin_tls(&names, &ours, false, &["h2", "http/1.1"]));
    let new = Origin::http2(Http2 { tls, ..Http2::default() }, |mut exchange| async move {
        exchange.request().await?;
        exchange.answer(200, &[], b"new").await
    });
    let proxy = Proxy::start(&config(&new));
    assert_eq!(proxy.client().get("/").text(), "new");
    assert_eq!(proxy.client().get("/").text(), "new");
    proxy.expect_stat("cluster.origin.upstream_cx_http2_total", 1);
    proxy.stop();
    let (old, learned) = secure_origin(origin_tls(&names, &ours, false, &["http/1.1"]));
    let proxy = Proxy::start(&config(&old));
    assert_eq!(proxy.http2().get("/").text(), "ok");
    assert_eq!(learned.lock().unwrap()[0].alpn.as_deref(), Some("http/1.1"));
    proxy.expect_stat("cluster.origin.upstream_cx_http1_total", 1);
    proxy.stop();
}

#[test]
fn the_name_upstream_may_be_the_requests_host() {
    let names = Names::new();
    let ours = names.authority.issue(Subject::dns(&["a.test", "b.test"]));
    let (origin, learned) = secure_origin(origin_tls(&names, &ours, false, &[]));
    let config = Config::to(origin.address())
        .tune_cluster(json!({"typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http_protocol_options": {}},
                "upstream_http_protocol_options": {"auto_sni": true, "auto_san_validation": true},
            },
        }}))
        .upstream_tls(json!({"common_tls_context": {"validation_context": names.trust()}}));
    let proxy = Proxy::start(&config);
    let get = |host: &str| {
        proxy.client().send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).response().status
    };
    assert_eq!((get("a.test"), get("b.test")), (200, 200));
    let asked: Vec<_> =
        learned.lock().unwrap().iter().map(|agreed| agreed.server_name.clone().unwrap()).collect();
    assert_eq!(asked, ["a.test", "b.test"]);
    // A name that the origin has no certificate for.
    assert_eq!(get("c.test"), 503);
    assert_eq!(origin.log().requests.len(), 2);
    proxy.stop();
}

#[test]
fn upstream_sessions_are_resumed() {
    let names = Names::new();
    let ours = names.authority.issue(Subject::dns(&["origin.test"]));
    let config = origin_tls(&names, &ours, false, &[]);
    let learned = Learned::default();
    let notes = Arc::clone(&learned);
    let origin = Origin::start(move |peer| {
        peer.secure(&config)?;
        notes.lock().unwrap().push(peer.wire().stream().agreed());
        peer.request()?;
        peer.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok")
    });
    let config = Config::to(origin.address()).upstream_tls(json!({
        "sni": "origin.test",
        "common_tls_context": {"validation_context": names.trust()},
    }));
    let proxy = Proxy::start(&config);
    for _ in 0..5 {
        assert_eq!(proxy.client().get("/").status, 200);
    }
    let resumed: Vec<_> = learned.lock().unwrap().iter().map(|agreed| agreed.resumed).collect();
    assert_eq!(resumed, [false, true, true, true, true]);
    proxy.stop();
}

#[test]
fn tcp_passes_through_tls_on_either_side() {
    let names = Names::new();
    let ours = names.authority.issue(Subject::dns(&["origin.test"]));
    let echo = |tls: Option<Arc<ServerConfig>>| {
        Origin::start(move |peer| {
            if let Some(config) = &tls {
                peer.secure(config)?;
            }
            loop {
                let bytes = peer.wire().some()?;
                if bytes.is_empty() {
                    peer.send("goodbye")?;
                    return Ok(peer.wire().stream().close_notify()?);
                }
                peer.send(bytes)?;
            }
        })
    };
    for (down, up) in [(true, false), (false, true), (true, true)] {
        let origin = echo(up.then(|| origin_tls(&names, &ours, false, &[])));
        let mut config = Config::to(origin.address()).filters(json!([{
            "name": "tcp",
            "typed_config": {"@type": TCP_PROXY, "stat_prefix": "tcp", "cluster": "origin"},
        }]));
        if down {
            config = config.downstream_tls(names.context(json!({})));
        }
        if up {
            config = config.upstream_tls(json!({
                "sni": "origin.test",
                "common_tls_context": {"validation_context": names.trust()},
            }));
        }
        let proxy = Proxy::start(&config);
        let mut client = match down {
            true => proxy.secure(&names.unknown(), "proxy.test"),
            false => proxy.client(),
        };
        let bytes = pattern(1_000_000);
        for piece in bytes.chunks(100_000) {
            client.send(piece);
            assert!(client.wire().exactly(piece.len()).unwrap() == piece, "the bytes changed");
        }
        client.stream().close_notify().unwrap();
        if !down {
            client.finish();
        }
        let rest = client.wire().until_close();
        assert!(matches!(rest.as_deref(), Ok(b"goodbye" | b"")), "{down} {up}: {rest:?}");
        proxy.stop();
    }
}

#[test]
fn a_server_speaks_first_through_tls() {
    let names = Names::new();
    let origin = Origin::start(|peer| {
        peer.send("hello")?;
        peer.stall()
    });
    let config = Config::to(origin.address())
        .filters(json!([{
            "name": "tcp",
            "typed_config": {"@type": TCP_PROXY, "stat_prefix": "tcp", "cluster": "origin"},
        }]))
        .downstream_tls(names.context(json!({})));
    let proxy = Proxy::start(&config);
    let mut client = proxy.secure(&names.unknown(), "proxy.test");
    assert_eq!(client.wire().exactly(5).unwrap(), b"hello");
    drop(client);
    origin.wait_released();
    proxy.stop();
}

#[test]
fn access_logs_tell_of_tls() {
    let names = Names::new();
    let scratch = Scratch::new();
    let path = scratch.file("access.log");
    let origin = Origin::ok();
    let format = "%DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_TLS_CIPHER% %DOWNSTREAM_PEER_URI_SAN% \
                  %DOWNSTREAM_PEER_DNS_SAN% %DOWNSTREAM_PEER_SUBJECT% %DOWNSTREAM_PEER_FINGERPRINT_256% \
                  %DOWNSTREAM_LOCAL_URI_SAN% %REQUESTED_SERVER_NAME% \
                  %DOWNSTREAM_TRANSPORT_FAILURE_REASON%\n";
    let mut context = names.mutual(json!({}));
    context["common_tls_context"]["tls_params"] =
        json!({"tls_maximum_protocol_version": "TLSv1_3"});
    let config = Config::to(origin.address())
        .downstream_tls(context)
        .http(json!({"access_log": access_log(&path, format)}))
        .listener(json!({"listener_filters": inspectors()}));
    let proxy = Launch::outrigger(&config).arguments(&["--file-flush-interval-msec", "20"]).start();
    let version = Some(&TLS13);
    let roots = Some(&names.authority);
    let client = ClientOptions { roots, version, identity: Some(&names.client), alpn: &[] }.build();
    let mut client = proxy.secure(&client, "proxy.test");
    let suite = match client.stream().agreed().suite {
        rustls::CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        rustls::CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        _ => "TLS_CHACHA20_POLY1305_SHA256",
    };
    assert_eq!(client.get("/").status, 200);
    let hash = hex(&sha256(&names.client.leaf));
    assert_eq!(
        first_line(&path),
        format!(
            "TLSv1.3 {suite} spiffe://test/ns/a/sa/client client.test \
             O=Example\\, Inc.,CN=client.test {hash} spiffe://test/proxy proxy.test -"
        )
    );
    proxy.stop();
}

#[test]
fn many_handshakes_at_once_all_succeed() {
    let names = Names::new();
    let origin = Origin::ok();
    let config = Config::to(origin.address()).downstream_tls(names.context(json!({})));
    let proxy = Launch::outrigger(&config).shards(2).start();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                // Without sessions: full handshakes.
                for _ in 0..25 {
                    let client = names.unknown();
                    assert_eq!(proxy.secure(&client, "proxy.test").get("/").status, 200);
                }
            });
        }
    });
    expect_ssl_stat(&proxy, ".ssl.handshake", 200);
    expect_ssl_stat(&proxy, ".ssl.connection_error", 0);
    proxy.expect_stat("http.main.downstream_cx_active", 0);
    proxy.stop();
}

#[test]
fn contexts_that_cannot_be_are_refused_at_the_start() {
    let names = Names::new();
    let origin = Origin::ok();
    let mismatch = json!({"common_tls_context": {"tls_certificates": [{
        "certificate_chain": {"inline_string": names.server.chain},
        "private_key": {"inline_string": names.client.key},
    }]}});
    let garbage = json!({"common_tls_context": {"tls_certificates": [{
        "certificate_chain": {"inline_string": "no certificate"},
        "private_key": {"inline_string": names.server.key},
    }]}});
    let missing = json!({"common_tls_context": {"tls_certificates": [{
        "certificate_chain": {"filename": "/nonexistent/chain.pem"},
        "private_key": {"filename": "/nonexistent/chain.key"},
    }]}});
    let old = names.context(json!({"common_tls_context": {"tls_params": {
        "tls_minimum_protocol_version": "TLSv1_0",
    }}}));
    let keys =
        names.context(json!({"session_ticket_keys": {"keys": [{"inline_string": "short"}]}}));
    let is_ours = !outrigger_tests::binary::is_envoy_tested();
    for (name, context) in [
        ("mismatch", mismatch),
        ("garbage", garbage),
        ("missing", missing),
        ("old", old),
        ("keys", keys),
    ] {
        // Envoy allows old versions (contract section 21).
        if name == "old" && !is_ours {
            continue;
        }
        let config = Config::to(origin.address()).downstream_tls(context);
        let mut started = Launch::outrigger(&config).spawn();
        let status = started.process.wait(Duration::from_secs(20));
        let words = started.process.stderr();
        assert!(status.is_some_and(|status| !status.success()), "{name}: {status:?} {words}");
        assert!(!words.contains("panicked"), "{name}: {words}");
    }
}

#[test]
fn plain_clients_of_other_addresses_are_told_apart() {
    // The chain is chosen before a byte of TLS is read where no inspector is needed.
    let names = Names::new();
    let config = Config::new().listener(json!({
        "filter_chains": [
            chain(
                "tls",
                &json!({"source_prefix_ranges": [{"address_prefix": "127.0.0.7", "prefix_len": 32}]}),
                Some(&names.server),
                &[],
            ),
            chain("plain", &json!({}), None, &[]),
        ],
    }));
    let proxy = Proxy::start(&config);
    assert_eq!(proxy.client().get("/").text(), "plain");
    let from = SocketAddr::from((IpAddr::V4(Ipv4Addr::new(127, 0, 0, 7)), 0));
    let socket = proxy.address().connect_from(from, outrigger_tests::PATIENCE).unwrap();
    let mut client = Client::over_tls(&socket, &names.unknown(), "proxy.test").unwrap();
    assert_eq!(client.get("/").text(), "tls");
    drop(client);
    proxy.stop();
}
