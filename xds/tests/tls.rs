//! Listener filters (contract section 2) and transport sockets (sections 16 and 21).

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]
#![allow(clippy::needless_pass_by_value, reason = "arguments are written where they are used")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::*;
use outrigger_xds::bootstrap::Loaded;
use outrigger_xds::secrets::{complete_downstream, reread_downstream, reread_upstream};
use outrigger_xds::snapshot::*;
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);
const DOWNSTREAM: &str = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const UPSTREAM: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const DOWNSTREAM_PATH: &str =
    "filter_chains[0].transport_socket.typed_config(DownstreamTlsContext)";
const UPSTREAM_PATH: &str = "transport_socket.typed_config(UpstreamTlsContext)";

/// A certificate from two files.
fn certificate() -> Value {
    json!({ "certificate_chain": { "filename": "/c.pem" }, "private_key": { "filename": "/k.pem" } })
}

fn file(path: &str) -> DataSource {
    DataSource::File(Path::new(path).into())
}

fn inline(bytes: &[u8]) -> DataSource {
    DataSource::Inline(bytes.into())
}

fn socket(kind: &str, context: Value) -> Value {
    json!({ "name": "tls", "typed_config": any_with(kind, context) })
}

/// A listener with this DownstreamTlsContext, to which a certificate is added where it says nothing of
/// any.
fn downstream(mut context: Value) -> Value {
    let common = context.as_object_mut().unwrap().entry("common_tls_context");
    let common = common.or_insert_with(|| json!({})).as_object_mut().unwrap();
    if !common.keys().any(|key| key.starts_with("tls_certificate")) {
        common.insert("tls_certificates".to_owned(), json!([certificate()]));
    }
    set(&http(), &format!("{CHAIN}/transport_socket"), socket(DOWNSTREAM, context))
}

fn upstream(context: Value) -> Value {
    set(&http(), &format!("{CLUSTER}/transport_socket"), socket(UPSTREAM, context))
}

#[track_caller]
fn downstream_of(loaded: &Loaded) -> DownstreamTls {
    let chain = listener(loaded).filter_chains.iter().next().unwrap();
    (**chain.tls.as_ref().unwrap()).clone()
}

#[track_caller]
fn upstream_of(loaded: &Loaded) -> UpstreamTls {
    (**first_cluster(loaded).tls.as_ref().unwrap()).clone()
}

#[track_caller]
fn with_downstream(context: Value) -> DownstreamTls {
    downstream_of(&loaded(&downstream(context)))
}

#[track_caller]
fn with_upstream(context: Value) -> UpstreamTls {
    upstream_of(&loaded(&upstream(context)))
}

#[track_caller]
fn with_common(common: Value) -> TlsParameters {
    with_downstream(json!({ "common_tls_context": common })).common
}

#[track_caller]
fn with_validation(validation: Value) -> Validation {
    let common = with_common(json!({ "validation_context": validation }));
    (*common.validation.unwrap()).clone()
}

fn warnings(loaded: &Loaded) -> Vec<String> {
    loaded.warnings.iter().map(ToString::to_string).collect()
}

/// Refused in a listener, with this complaint about its TLS context.
#[track_caller]
fn downstream_refused(context: Value, expected: &str) {
    let expected = format!("Listener web: {DOWNSTREAM_PATH}{expected}");
    assert_eq!(refusal(&downstream(context)), expected);
}

#[track_caller]
fn common_refused(common: Value, expected: &str) {
    downstream_refused(
        json!({ "common_tls_context": common }),
        &format!(".common_tls_context.{expected}"),
    );
}

#[track_caller]
fn validation_refused(validation: Value, expected: &str) {
    let common = json!({ "validation_context": validation });
    common_refused(common, &format!("validation_context{expected}"));
}

fn inspector(kind: &str, fields: Value) -> Value {
    let kind = format!("envoy.extensions.filters.listener.{kind}");
    json!({ "name": "f", "typed_config": any_with(&kind, fields) })
}

fn tls_inspector(fields: Value) -> Value {
    inspector("tls_inspector.v3.TlsInspector", fields)
}

fn http_inspector() -> Value {
    inspector("http_inspector.v3.HttpInspector", json!({}))
}

fn inspecting(filters: Value) -> Value {
    set(&http(), &format!("{LISTENER}/listener_filters"), filters)
}

fn inspection(bootstrap: &Value) -> Inspection {
    listener(&loaded(bootstrap)).inspection.clone()
}

#[test]
fn section_2_listener_filters() {
    let none = inspection(&http());
    let expected = Inspection { timeout: Some(15 * SECOND), ..Inspection::default() };
    assert_eq!(none, expected);
    let both = inspection(&inspecting(json!([http_inspector(), tls_inspector(json!({}))])));
    assert_eq!(
        both,
        Inspection {
            tls: Some(TlsInspector {
                max_client_hello_bytes: 16 * 1024,
                close_on_parse_error: false,
                disabled: None,
            }),
            http: Some(HttpInspector { disabled: None }),
            ..expected
        }
    );
    let fields = json!({
        "max_client_hello_size": 256, "initial_read_buffer_size": 65536,
        "close_connection_on_client_hello_parsing_errors": true,
        "enable_ja3_fingerprinting": false,
    });
    assert_eq!(
        inspection(&inspecting(json!([tls_inspector(fields)]))).tls,
        Some(TlsInspector {
            max_client_hello_bytes: 256,
            close_on_parse_error: true,
            disabled: None,
        })
    );
    let timeout =
        |value: &str| set(&http(), &format!("{LISTENER}/listener_filters_timeout"), json!(value));
    assert_eq!(inspection(&timeout("3s")).timeout, Some(3 * SECOND));
    assert_eq!(inspection(&timeout("0s")).timeout, None);
    let pointer = format!("{LISTENER}/continue_on_listener_filters_timeout");
    assert!(inspection(&set(&http(), &pointer, json!(true))).continue_on_timeout);
}

#[test]
fn section_2_bad_listener_filters() {
    let at = "typed_config(TlsInspector)";
    for (filters, expected) in [
        (json!([{ "typed_config": http_inspector()["typed_config"] }]), "[0].name: is required"),
        (json!([{ "name": "f" }]), "[0].typed_config: is required"),
        (
            json!([{ "name": "f", "typed_config": any("a.b.C") }]),
            "[0].typed_config: extension type \"type.googleapis.com/a.b.C\" is not supported",
        ),
        (json!([http_inspector(), http_inspector()]), "[1]: is there twice"),
        (
            json!([tls_inspector(json!({ "enable_ja3_fingerprinting": true }))]),
            &format!("[0].{at}.enable_ja3_fingerprinting: not supported"),
        ),
        (
            json!([tls_inspector(json!({ "enable_ja4_fingerprinting": true }))]),
            &format!("[0].{at}.enable_ja4_fingerprinting: not supported"),
        ),
        (
            json!([tls_inspector(json!({ "max_client_hello_size": 16385 }))]),
            &format!("[0].{at}.max_client_hello_size: must be from 256 to 16384"),
        ),
        (
            json!([tls_inspector(json!({ "initial_read_buffer_size": 255 }))]),
            &format!("[0].{at}.initial_read_buffer_size: must be from 256 to 65536"),
        ),
    ] {
        let expected = format!("Listener web: listener_filters{expected}");
        assert_eq!(refusal(&inspecting(filters)), expected);
    }
}

#[test]
fn section_2_filter_disabled() {
    let disabled = |predicate: Value| {
        let mut filter = http_inspector();
        filter["filter_disabled"] = predicate;
        inspecting(json!([filter]))
    };
    let range =
        |start: i32, end: i32| json!({ "destination_port_range": { "start": start, "end": end } });
    let predicate = inspection(&disabled(json!({ "or_match": { "rules": [
        { "and_match": { "rules": [range(80, 100), { "not_match": range(90, 91) }] } },
        range(443, 444),
    ]}})));
    let predicate = predicate.http.unwrap().disabled.unwrap();
    for (port, holds) in
        [(79, false), (80, true), (90, false), (91, true), (100, false), (443, true), (444, false)]
    {
        assert_eq!(predicate.holds(Some(port)), holds, "{port}");
    }
    // A Unix socket is in every range, as in Envoy.
    assert!(PortPredicate::Range(1, 2).holds(None));
    let any = inspection(&disabled(json!({ "any_match": true }))).http.unwrap().disabled;
    assert_eq!(any, Some(PortPredicate::Any));
    for (predicate, expected) in [
        (json!({}), ".rule: is required"),
        (json!({ "any_match": false }), ".any_match: must be true"),
        (range(5, 5), ".destination_port_range: must be ports, start below end"),
        (range(-1, 5), ".destination_port_range: must be ports, start below end"),
        (
            json!({ "or_match": { "rules": [range(1, 2)] } }),
            ".or_match.rules: must be at least two",
        ),
    ] {
        assert_eq!(
            refusal(&disabled(predicate)),
            format!("Listener web: listener_filters[0].filter_disabled{expected}")
        );
    }
}

#[test]
fn section_2_the_tls_inspector_is_added_where_only_it_can_make_a_chain_match() {
    let matching = |criteria: Value| set(&http(), &format!("{CHAIN}/filter_chain_match"), criteria);
    for criteria in [
        json!({ "server_names": ["a.b"] }),
        json!({ "application_protocols": ["h2"] }),
        json!({ "transport_protocol": "tls" }),
    ] {
        let bootstrap = matching(criteria);
        let added = loaded(&bootstrap);
        assert_eq!(listener(&added).inspection.tls.as_ref().unwrap().max_client_hello_bytes, 16384);
        assert_eq!(
            warnings(&added),
            [
                "Listener web: filter_chains[0].filter_chain_match: needs the TLS inspector, which is \
              therefore added to listener_filters"
            ]
        );
        let filters = json!([tls_inspector(json!({ "max_client_hello_size": 300 }))]);
        let own = loaded(&set(&bootstrap, &format!("{LISTENER}/listener_filters"), filters));
        assert_eq!(listener(&own).inspection.tls.as_ref().unwrap().max_client_hello_bytes, 300);
        assert_eq!(own.warnings, []);
    }
    let plain = json!({ "transport_protocol": "raw_buffer", "application_protocols": ["h2c"] });
    assert_eq!(inspection(&matching(plain)).tls, None);
}

#[test]
fn section_16_transport_sockets() {
    let plain = loaded(&http());
    assert!(listener(&plain).filter_chains.iter().all(|chain| chain.tls.is_none()));
    assert!(first_cluster(&plain).tls.is_none());
    let raw = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
    for pointer in [format!("{CHAIN}/transport_socket"), format!("{CLUSTER}/transport_socket")] {
        loaded(&set(&http(), &pointer, socket(raw, json!({}))));
    }
    // Each side has its own context.
    let swapped = set(&http(), &format!("{CHAIN}/transport_socket"), socket(UPSTREAM, json!({})));
    assert_eq!(
        refusal(&swapped),
        format!(
            "Listener web: filter_chains[0].transport_socket.typed_config(UpstreamTlsContext): \
             extension type \"{UPSTREAM}\" is not supported"
        )
    );
    let swapped =
        set(&http(), &format!("{CLUSTER}/transport_socket"), socket(DOWNSTREAM, json!({})));
    assert!(refusal(&swapped).starts_with("Cluster app: transport_socket.typed_config(Downstream"));
    let quic = "envoy.extensions.transport_sockets.quic.v3.QuicDownstreamTransport";
    let quic = set(&http(), &format!("{CHAIN}/transport_socket"), socket(quic, json!({})));
    assert!(refusal(&quic).ends_with("QuicDownstreamTransport\" is not supported"));
}

#[test]
fn section_16_downstream_defaults_and_fields() {
    let plain = with_downstream(json!({}));
    let common = &plain.common;
    assert_eq!((common.min_version, common.max_version), (TlsVersion::Tls12, TlsVersion::Tls13));
    assert!(common.cipher_suites.is_empty() && common.ecdh_curves.is_empty());
    assert!(common.signature_algorithms.is_empty() && common.alpn.is_empty());
    assert!(common.validation.is_none());
    assert_eq!(
        common.certificates,
        [CertificateSource {
            chain: file("/c.pem"),
            key: file("/k.pem"),
            ocsp_staple: None,
            watched_directory: None,
            file: None,
            at: format!("{DOWNSTREAM_PATH}.common_tls_context.tls_certificates[0]").into(),
        }]
    );
    assert!(!plain.require_client_certificate && plain.session_ticket_keys.is_empty());
    assert!(!plain.disable_stateless_resumption && !plain.disable_stateful_resumption);
    assert_eq!((plain.session_timeout, plain.handshake_timeout), (None, None));
    assert_eq!(plain.ocsp_staple_policy, OcspStaplePolicy::Lenient);
    assert!(!plain.full_scan_certs_on_sni_mismatch);

    let full = with_downstream(json!({
        "require_client_certificate": true, "disable_stateless_session_resumption": true,
        "disable_stateful_session_resumption": true, "session_timeout": "60s",
        "ocsp_staple_policy": "STRICT_STAPLING", "full_scan_certs_on_sni_mismatch": true,
        "require_sni": false,
    }));
    assert!(full.require_client_certificate && full.disable_stateless_resumption);
    assert!(full.disable_stateful_resumption && full.full_scan_certs_on_sni_mismatch);
    assert_eq!(full.session_timeout, Some(60 * SECOND));
    assert_eq!(full.ocsp_staple_policy, OcspStaplePolicy::Strict);
    assert_eq!(with_downstream(json!({ "session_timeout": "0s" })).session_timeout, None);
    let timeout = |value: &str| {
        let pointer = format!("{CHAIN}/transport_socket_connect_timeout");
        downstream_of(&loaded(&set(&downstream(json!({})), &pointer, json!(value))))
    };
    assert_eq!(timeout("4s").handshake_timeout, Some(4 * SECOND));
    assert_eq!(timeout("0s").handshake_timeout, None);

    let bare = set(&http(), &format!("{CHAIN}/transport_socket"), socket(DOWNSTREAM, json!({})));
    assert_eq!(
        refusal(&bare),
        format!("Listener web: {DOWNSTREAM_PATH}.common_tls_context.tls_certificates: is required")
    );
    downstream_refused(json!({ "require_sni": true }), ".require_sni: not supported");
    downstream_refused(
        json!({ "session_timeout": "4294967296s" }),
        ".session_timeout: must be at most 4294967295 seconds",
    );
    downstream_refused(
        json!({ "ocsp_staple_policy": "MUST_STAPLE" }),
        &format!(
            ".ocsp_staple_policy: {DOWNSTREAM_PATH}.common_tls_context.tls_certificates[0] has no \
             ocsp_staple"
        ),
    );
}

#[test]
fn section_16_versions() {
    let versions = |min: &str, max: &str| {
        let params =
            json!({ "tls_minimum_protocol_version": min, "tls_maximum_protocol_version": max });
        json!({ "tls_params": params })
    };
    let range = |common: Value| {
        let common = with_common(common);
        (common.min_version, common.max_version)
    };
    use TlsVersion::{Tls12, Tls13};
    assert_eq!(range(versions("TLS_AUTO", "TLS_AUTO")), (Tls12, Tls13));
    assert_eq!(range(versions("TLSv1_3", "TLSv1_3")), (Tls13, Tls13));
    assert_eq!(range(versions("TLSv1_2", "TLSv1_2")), (Tls12, Tls12));
    for version in ["TLSv1_0", "TLSv1_1"] {
        let expected = format!("tls_minimum_protocol_version: {version} is not supported");
        common_refused(versions(version, "TLSv1_3"), &format!("tls_params.{expected}"));
    }
    common_refused(
        versions("TLSv1_3", "TLSv1_2"),
        "tls_params.tls_maximum_protocol_version: must not be below tls_minimum_protocol_version",
    );
    // Upstream the default is lower.
    let upstream = |common: Value| {
        let common = with_upstream(json!({ "common_tls_context": common })).common;
        (common.min_version, common.max_version)
    };
    assert_eq!(upstream(json!({})), (Tls12, Tls12));
    assert_eq!(upstream(versions("TLS_AUTO", "TLSv1_3")), (Tls12, Tls13));
    assert_eq!(upstream(versions("TLSv1_3", "TLS_AUTO")), (Tls13, Tls13));
}

#[test]
fn section_16_names_that_the_library_lacks_are_ignored_as_long_as_one_remains() {
    let names = |names: &[Box<str>]| names.join(" ");
    let params = |field: &str, list: Value| json!({ "tls_params": { field: list } });
    let cipher_suites = json!([
        "[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]",
        "AES128-SHA",
        "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    ]);
    let context = json!({ "common_tls_context": params("cipher_suites", cipher_suites) });
    let loaded = loaded(&downstream(context));
    assert_eq!(
        names(&downstream_of(&loaded).common.cipher_suites),
        "ECDHE-ECDSA-AES128-GCM-SHA256 ECDHE-ECDSA-CHACHA20-POLY1305 ECDHE-RSA-AES256-GCM-SHA384 \
         ECDHE-RSA-AES128-GCM-SHA256"
    );
    assert_eq!(
        warnings(&loaded),
        [format!(
            "Listener web: {DOWNSTREAM_PATH}.common_tls_context.tls_params.cipher_suites[1]: \
             ignored: the TLS library does not have it"
        )]
    );
    let curves = json!(["X25519MLKEM768", "P-521", "prime256v1", "X25519:P-384"]);
    let curves = with_common(params("ecdh_curves", curves)).ecdh_curves;
    assert_eq!(names(&curves), "X25519MLKEM768 P-256 X25519 P-384");
    let algorithms = json!(["ecdsa_secp256r1_sha256", "rsa_pkcs1_sha1", "rsa_pss_rsae_sha256"]);
    let algorithms = with_common(params("signature_algorithms", algorithms)).signature_algorithms;
    assert_eq!(names(&algorithms), "ecdsa_secp256r1_sha256 rsa_pss_rsae_sha256");
    common_refused(
        params("ecdh_curves", json!(["P-521"])),
        "tls_params.ecdh_curves: the TLS library has none of them; it has X25519, P-256, P-384, \
         X25519MLKEM768",
    );
    for field in ["cipher_suites", "signature_algorithms"] {
        let text =
            refusal(&downstream(json!({ "common_tls_context": params(field, json!(["x"])) })));
        assert!(text.contains(&format!("{field}: the TLS library has none of them")), "{text}");
    }
    common_refused(
        params("compliance_policies", json!(["FIPS_202205"])),
        "tls_params.compliance_policies: not supported",
    );
}

#[test]
fn section_16_alpn_protocols() {
    let alpn = |list: Value| {
        let alpn = with_common(json!({ "alpn_protocols": list })).alpn;
        alpn.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(alpn(json!(["h2", "http/1.1"])), ["h2", "http/1.1"]);
    assert_eq!(alpn(json!(["h2,http/1.1"])), ["h2", "http/1.1"]);
    let long = "a".repeat(256);
    for bad in ["", "h2,", &long] {
        common_refused(
            json!({ "alpn_protocols": ["x", bad] }),
            "alpn_protocols[1]: a protocol is 1 to 255 bytes long",
        );
    }
}

#[test]
fn section_16_data_sources() {
    let source = |field: &str, value: &str| {
        let certificate = json!({
            "certificate_chain": { field: value }, "private_key": { "filename": "/k" },
            "watched_directory": { "path": "/d" },
        });
        json!({ "tls_certificates": [certificate] })
    };
    let read = |field: &str, value: &str| with_common(source(field, value)).certificates[0].clone();
    assert_eq!(read("inline_string", "pem").chain, inline(b"pem"));
    assert_eq!(read("inline_bytes", "AQI=").chain, inline(&[1, 2]));
    assert_eq!(read("environment_variable", "CARGO_PKG_NAME").chain, inline(b"outrigger-xds"));
    assert_eq!(read("filename", "/a").chain, file("/a"));
    assert_eq!(read("filename", "/a").watched_directory.as_deref(), Some(Path::new("/d")));
    let at = "tls_certificates[0].certificate_chain";
    common_refused(source("inline_string", ""), &format!("{at}.inline_string: is empty"));
    common_refused(source("filename", ""), &format!("{at}.filename: is required"));
    common_refused(
        source("environment_variable", "OUTRIGGER_NO_SUCH"),
        &format!("{at}.environment_variable: OUTRIGGER_NO_SUCH: environment variable not found"),
    );
    // A key is not shown to whoever prints the snapshot.
    assert_eq!(format!("{:?}", inline(b"secret")), "Inline(6 bytes)");
    let staple = |staple: Value| {
        let mut certificate = certificate();
        certificate["ocsp_staple"] = staple;
        json!({ "tls_certificates": [certificate] })
    };
    let stapled = with_common(staple(json!({ "filename": "/o" }))).certificates[0].clone();
    assert_eq!(stapled.ocsp_staple, Some(file("/o")));
    common_refused(
        staple(json!({ "inline_string": "x" })),
        "tls_certificates[0].ocsp_staple.inline_string: must be inline_bytes: a response is DER",
    );
    for (field, value) in [
        ("password", json!({ "inline_string": "x" })),
        ("pkcs12", json!({ "filename": "/p" })),
        ("private_key_provider", json!({ "provider_name": "x" })),
        ("signed_certificate_timestamp", json!([{ "filename": "/s" }])),
    ] {
        let mut certificate = certificate();
        certificate[field] = value;
        let expected = format!("tls_certificates[0].{field}: not supported");
        common_refused(json!({ "tls_certificates": [certificate] }), &expected);
    }
    for missing in ["certificate_chain", "private_key"] {
        let mut certificate = certificate();
        certificate.as_object_mut().unwrap().remove(missing);
        let expected = format!("tls_certificates[0].{missing}: is required");
        common_refused(json!({ "tls_certificates": [certificate] }), &expected);
    }
}

#[test]
fn section_16_validation_contexts() {
    let plain = with_validation(json!({}));
    assert!(plain.trusted_ca.is_none() && plain.crl.is_none() && !plain.system_root_certs);
    assert!(plain.spki_hashes.is_empty() && plain.certificate_hashes.is_empty());
    assert!(plain.subject_alt_names.is_empty() && plain.max_verify_depth.is_none());
    assert!(!plain.allow_expired_certificate && !plain.accept_untrusted);
    assert!(!plain.only_verify_leaf_cert_crl && !plain.suppress_client_ca_list);

    let hex = "00112233445566778899aabbccddeeffFFEEDDCCBBAA99887766554433221100";
    let pairs: Vec<&str> = (0..32).map(|at| &hex[2 * at..2 * at + 2]).collect();
    let full = with_validation(json!({
        "trusted_ca": { "filename": "/ca" }, "crl": { "filename": "/crl" },
        "watched_directory": { "path": "/d" },
        "verify_certificate_spki": ["NvqYIYSbgK2vCJpQhObf77vv+bQWtc5ek5RIOwPiC9A="],
        "verify_certificate_hash": [hex, pairs.join(":")],
        "match_typed_subject_alt_names": [
            { "san_type": "URI", "matcher": { "prefix": "spiffe://a/" } },
            { "san_type": "DNS", "matcher": { "exact": "a.b" } },
            { "san_type": "EMAIL", "matcher": { "suffix": "@b" } },
            { "san_type": "IP_ADDRESS", "matcher": { "exact": "10.0.0.1" } },
        ],
        "only_verify_leaf_cert_crl": true, "allow_expired_certificate": true,
        "trust_chain_verification": "ACCEPT_UNTRUSTED", "max_verify_depth": 100,
        "suppress_client_ca_list": true,
    }));
    assert_eq!((full.trusted_ca, full.crl), (Some(file("/ca")), Some(file("/crl"))));
    assert_eq!(full.watched_directory.as_deref(), Some(Path::new("/d")));
    assert_eq!(full.spki_hashes[0][..4], [0x36, 0xfa, 0x98, 0x21]);
    let mut hash = [0; 32];
    for (index, byte) in hash.iter_mut().enumerate() {
        let low = if index < 16 { index } else { 31 - index };
        *byte = u8::try_from(low * 0x11).unwrap();
    }
    assert_eq!(full.certificate_hashes, [hash, hash]);
    let kinds: Vec<SanKind> = full.subject_alt_names.iter().map(|san| san.kind).collect();
    assert_eq!(kinds, [SanKind::Uri, SanKind::Dns, SanKind::Email, SanKind::Ip]);
    assert!(full.subject_alt_names[0].matcher.matches(b"spiffe://a/b"));
    assert!(full.only_verify_leaf_cert_crl && full.allow_expired_certificate);
    assert!(full.accept_untrusted && full.suppress_client_ca_list);
    assert_eq!(full.max_verify_depth, Some(100));
    assert!(with_validation(json!({ "system_root_certs": {} })).system_root_certs);

    let old = json!({ "trusted_ca": { "filename": "/ca" }, "match_subject_alt_names": [{ "exact": "a" }] });
    assert_eq!(with_validation(old.clone()).subject_alt_names[0].kind, SanKind::Any);
    let both = set(
        &old,
        "/match_typed_subject_alt_names",
        json!([{ "san_type": "DNS", "matcher": { "exact": "b" } }]),
    );
    let both = loaded(&downstream(json!({ "common_tls_context": { "validation_context": both } })));
    let sans = downstream_of(&both).common.validation.unwrap().subject_alt_names.clone();
    assert_eq!((sans.len(), sans[0].kind), (1, SanKind::Dns));
    assert!(
        warnings(&both)[0].ends_with(
            "match_subject_alt_names: has no effect beside match_typed_subject_alt_names"
        )
    );
}

#[test]
fn section_16_bad_validation_contexts() {
    let ca = json!({ "trusted_ca": { "filename": "/ca" } });
    let with_ca = |field: &str, value: Value| set(&ca, &format!("/{field}"), value);
    for spki in ["", "NvqYIYSbgK2vCJpQhObf77vv", "NvqYIYSbgK2vCJpQhObf77vv+bQWtc5ek5RIOwPiC9A", "*"]
    {
        validation_refused(
            with_ca("verify_certificate_spki", json!([spki])),
            ".verify_certificate_spki[0]: is not the base64 of a SHA-256 hash",
        );
    }
    let long = "0".repeat(66);
    let colons = ["00"; 32].join(":");
    let shifted = format!("0:0{}", &colons[3..]);
    let tail = format!("{colons}:");
    for hash in ["", "00", &long, &shifted, &tail, &"g".repeat(64), &"é".repeat(32)] {
        validation_refused(
            with_ca("verify_certificate_hash", json!([hash])),
            ".verify_certificate_hash[0]: is not a SHA-256 hash in hexadecimal",
        );
    }
    let san = |kind: Value, more: Value| {
        let mut san = json!({ "san_type": kind, "matcher": { "exact": "a" } });
        san.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        with_ca("match_typed_subject_alt_names", json!([san]))
    };
    let at = ".match_typed_subject_alt_names[0]";
    for (validation, expected) in [
        (
            san(json!("OTHER_NAME"), json!({})),
            format!("{at}.san_type: OTHER_NAME is not supported"),
        ),
        (san(json!("OTHER_NAME"), json!({ "oid": "1.2" })), format!("{at}.oid: not supported")),
        (san(json!(0), json!({})), format!("{at}.san_type: is required")),
        (san(json!("DNS"), json!({ "matcher": null })), format!("{at}.matcher: is required")),
        (with_ca("max_verify_depth", json!(101)), ".max_verify_depth: must be at most 100".into()),
        (
            with_ca("require_signed_certificate_timestamp", json!(true)),
            ".require_signed_certificate_timestamp: not supported".into(),
        ),
        (
            with_ca("ca_certificate_provider_instance", json!({ "instance_name": "i" })),
            ".ca_certificate_provider_instance: not supported".into(),
        ),
        (
            with_ca("custom_validator_config", json!({ "name": "spiffe" })),
            ".custom_validator_config: not supported".into(),
        ),
        (
            json!({ "match_subject_alt_names": [{ "exact": "a" }] }),
            ": matchers of subject alternative names are worth nothing without a trusted_ca".into(),
        ),
        (
            json!({ "crl": { "filename": "/crl" } }),
            ": a crl is worth nothing without a trusted_ca".into(),
        ),
        (
            json!({ "allow_expired_certificate": true }),
            ": allow_expired_certificate means nothing without a trusted_ca".into(),
        ),
    ] {
        validation_refused(validation, &expected);
    }
}

#[test]
fn section_16_pins_demand_a_client_certificate() {
    let demanded = |validation: Value| {
        with_downstream(json!({ "common_tls_context": { "validation_context": validation } }))
            .require_client_certificate
    };
    let ca = json!({ "filename": "/ca" });
    assert!(!demanded(json!({ "trusted_ca": ca })));
    assert!(demanded(json!({ "verify_certificate_hash": ["0".repeat(64)] })));
    assert!(demanded(json!({ "trusted_ca": ca, "match_typed_subject_alt_names": [
        { "san_type": "DNS", "matcher": { "exact": "a" } } ] })));
    let anybody = loaded(&downstream(json!({ "require_client_certificate": true })));
    assert_eq!(
        warnings(&anybody),
        [format!(
            "Listener web: {DOWNSTREAM_PATH}.require_client_certificate: clients must show a \
             certificate, but any will do: there is no trusted_ca"
        )]
    );
}

#[test]
fn section_16_session_ticket_keys() {
    let keys = |keys: Value| json!({ "session_ticket_keys": { "keys": keys } });
    let key = |length: usize| json!({ "inline_string": "k".repeat(length) });
    let both = with_downstream(keys(json!([key(80), { "filename": "/k" }])));
    assert_eq!(both.session_ticket_keys, [inline(&[b'k'; 80]), file("/k")]);
    downstream_refused(keys(json!([])), ".session_ticket_keys.keys: is required");
    for length in [79, 81] {
        downstream_refused(
            keys(json!([key(80), key(length)])),
            &format!(".session_ticket_keys.keys[1]: is {length} bytes long, not 80"),
        );
    }
}

#[test]
fn section_16_upstream() {
    let plain = with_upstream(json!({}));
    assert_eq!((plain.sni, plain.max_session_keys), (UpstreamSni::None, 1));
    assert!(!plain.auto_san_validation && plain.common.certificates.is_empty());
    let sni = |fields: Value| with_upstream(fields).sni;
    assert_eq!(sni(json!({ "sni": "a.b" })), UpstreamSni::Literal("a.b".into()));
    assert_eq!(sni(json!({ "auto_host_sni": true })), UpstreamSni::EndpointHostname(None));
    assert_eq!(
        sni(json!({ "auto_host_sni": true, "sni": "a_b.c" })),
        UpstreamSni::EndpointHostname(Some("a_b.c".into()))
    );
    assert_eq!(with_upstream(json!({ "max_session_keys": 0 })).max_session_keys, 0);
    let ca = json!({ "validation_context": { "trusted_ca": { "filename": "/ca" } } });
    let checked = json!({ "auto_sni_san_validation": true, "common_tls_context": ca });
    assert!(with_upstream(checked).auto_san_validation);
    let client = json!({ "common_tls_context": { "tls_certificates": [certificate()] } });
    assert_eq!(with_upstream(client).common.certificates[0].key, file("/k.pem"));

    let long = format!("{}.b", "a".repeat(64));
    for bad in ["10.0.0.1", "::1", "a..b", ".a", "a.", "a b", "*.a", "-a", &long, &"a.".repeat(130)]
    {
        let text = refusal(&upstream(json!({ "sni": bad })));
        let expected = format!("Cluster app: {UPSTREAM_PATH}.sni: {bad:?} is not a DNS name");
        assert_eq!(text, expected);
    }
    let two = json!({ "tls_certificates": [certificate(), certificate()] });
    for (context, expected) in [
        (json!({ "allow_renegotiation": true }), ".allow_renegotiation: not supported"),
        (
            json!({ "common_tls_context": two }),
            ".common_tls_context.tls_certificates: a client has one certificate",
        ),
        (
            json!({ "auto_sni_san_validation": true }),
            ".auto_sni_san_validation: names are worth nothing without a trusted_ca",
        ),
        (
            json!({ "common_tls_context": { "custom_handshaker": { "name": "h" } } }),
            ".common_tls_context.custom_handshaker: not supported",
        ),
        (
            json!({ "common_tls_context": { "tls_certificate_provider_instance": { "instance_name": "i" } } }),
            ".common_tls_context.tls_certificate_provider_instance: not supported",
        ),
    ] {
        assert_eq!(refusal(&upstream(context)), format!("Cluster app: {UPSTREAM_PATH}{expected}"));
    }
}

#[test]
fn section_21_a_cluster_that_verifies_nobody_is_named() {
    let unverified = loaded(&upstream(json!({ "enforce_rsa_key_usage": true })));
    assert_eq!(
        warnings(&unverified),
        [
            format!("Cluster app: {UPSTREAM_PATH}.enforce_rsa_key_usage: ignored: always enforced"),
            format!(
                "Cluster app: {UPSTREAM_PATH}.common_tls_context: servers are not verified: there \
                 is no trusted_ca"
            ),
        ]
    );
    for validation in [
        json!({ "trusted_ca": { "filename": "/ca" } }),
        json!({ "system_root_certs": {} }),
        json!({ "verify_certificate_hash": ["0".repeat(64)] }),
    ] {
        let context = json!({ "common_tls_context": { "validation_context": validation } });
        assert_eq!(loaded(&upstream(context)).warnings, []);
    }
}

#[test]
fn section_10_server_names_from_requests() {
    const KEY: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let ca = json!({ "validation_context": { "trusted_ca": { "filename": "/ca" } } });
    let typed = |context: Value, options: Value| {
        let options = any_with(
            KEY,
            json!({ "explicit_http_config": { "http_protocol_options": {} },
                "upstream_http_protocol_options": options }),
        );
        let pointer = format!("{CLUSTER}/typed_extension_protocol_options");
        set(&upstream(context), &pointer, json!({ KEY: options }))
    };
    let both = json!({ "auto_sni": true, "auto_san_validation": true });
    let tls = upstream_of(&loaded(&typed(json!({ "common_tls_context": ca }), both.clone())));
    assert_eq!((tls.sni, tls.auto_san_validation), (UpstreamSni::RequestAuthority, true));
    let old = upstream(json!({ "common_tls_context": ca }));
    let old = set(&old, &format!("{CLUSTER}/upstream_http_protocol_options"), both.clone());
    assert_eq!(upstream_of(&loaded(&old)).sni, UpstreamSni::RequestAuthority);
    let literal = loaded(&typed(json!({ "common_tls_context": ca, "sni": "a" }), both.clone()));
    assert_eq!(
        warnings(&literal),
        [format!(
            "Cluster app: {UPSTREAM_PATH}.sni: has no effect beside auto_sni of the HTTP options"
        )]
    );
    assert_eq!(
        refusal(&typed(json!({}), both)),
        format!(
            "Cluster app: {UPSTREAM_PATH}.common_tls_context.validation_context: names are worth \
             nothing without a trusted_ca"
        )
    );
    let only = json!({ "auto_san_validation": true });
    assert_eq!(
        refusal(&typed(json!({ "common_tls_context": ca }), only)),
        format!(
            "Cluster app: {UPSTREAM_PATH}: auto_san_validation needs auto_sni, whose name it looks \
             for"
        )
    );
    let header = json!({ "auto_sni": true, "override_auto_sni_header": "x" });
    assert!(
        refusal(&typed(json!({ "common_tls_context": ca }), header))
            .ends_with("upstream_http_protocol_options.override_auto_sni_header: not supported")
    );
    let auto = any_with(KEY, json!({ "auto_config": { "http2_protocol_options": {} } }));
    let auto = set(
        &upstream(json!({ "common_tls_context": ca })),
        &format!("{CLUSTER}/typed_extension_protocol_options"),
        json!({ KEY: auto }),
    );
    assert_eq!(first_cluster(&loaded(&auto)).http.protocol, UpstreamProtocol::Alpn);
}

/// Secrets of all kinds.
fn secrets() -> Value {
    json!([
        { "name": "cert", "tls_certificate": certificate() },
        { "name": "ca", "validation_context": { "trusted_ca": { "filename": "/ca" } } },
        { "name": "keys", "session_ticket_keys": { "keys": [{ "filename": "/t" }] } },
        { "name": "any", "generic_secret": { "secret": { "inline_string": "hush" },
            "secrets": { "a": { "filename": "/g" } } } },
    ])
}

#[test]
fn section_16_static_secrets() {
    let with_secrets =
        |context: Value| set(&downstream(context), "/static_resources/secrets", secrets());
    let tls = downstream_of(&loaded(&with_secrets(json!({
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [{ "name": "cert" }],
            "validation_context_sds_secret_config": { "name": "ca" },
        },
        "session_ticket_keys_sds_secret_config": { "name": "keys" },
    }))));
    let certificate = &tls.common.certificates[0];
    assert_eq!((&*certificate.at, &certificate.file), ("secret \"cert\"", &None));
    assert_eq!(certificate.chain, file("/c.pem"));
    let validation = tls.common.validation.unwrap();
    assert_eq!((&*validation.at, &validation.trusted_ca), ("secret \"ca\"", &Some(file("/ca"))));
    assert_eq!((tls.session_ticket_keys, tls.session_ticket_keys_file), (vec![file("/t")], None));

    let own = loaded(&with_secrets(json!({ "common_tls_context": {
        "tls_certificates": [self::certificate()],
        "tls_certificate_sds_secret_configs": [{ "name": "nowhere" }],
    }})));
    assert_eq!(
        warnings(&own),
        [format!(
            "Listener web: {DOWNSTREAM_PATH}.common_tls_context\
             .tls_certificate_sds_secret_configs: has no effect beside tls_certificates"
        )]
    );
    let at = format!(
        "Listener web: {DOWNSTREAM_PATH}.common_tls_context.tls_certificate_sds_secret_configs[0]"
    );
    for (name, expected) in [
        ("nowhere", "name: there is no \"nowhere\" in static_resources.secrets"),
        ("ca", "name: \"ca\" is a validation context, not a certificate"),
        ("any", "name: \"any\" is a generic secret, not a certificate"),
        ("", "name: is required"),
    ] {
        let configs = json!({ "tls_certificate_sds_secret_configs": [{ "name": name }] });
        let text = refusal(&with_secrets(json!({ "common_tls_context": configs })));
        assert_eq!(text, format!("{at}.{expected}"));
    }
}

#[test]
fn section_16_combined_validation_contexts() {
    let san = |text: &str| json!({ "san_type": "DNS", "matcher": { "exact": text } });
    let combined = |base: Value, dynamic: Value| {
        let context = json!({ "common_tls_context": { "combined_validation_context": {
            "default_validation_context": base,
            "validation_context_sds_secret_config": { "name": "v" },
        }}});
        let secrets = json!([{ "name": "v", "validation_context": dynamic }]);
        set(&downstream(context), "/static_resources/secrets", secrets)
    };
    let merged = downstream_of(&loaded(&combined(
        json!({
            "trusted_ca": { "filename": "/base" }, "crl": { "filename": "/crl" },
            "match_typed_subject_alt_names": [san("base")], "max_verify_depth": 3,
            "trust_chain_verification": "ACCEPT_UNTRUSTED",
        }),
        json!({
            "trusted_ca": { "filename": "/dynamic" },
            "match_typed_subject_alt_names": [san("dynamic")], "only_verify_leaf_cert_crl": true,
        }),
    )));
    let merged = merged.common.validation.unwrap();
    assert_eq!((&merged.trusted_ca, &merged.crl), (&Some(file("/dynamic")), &Some(file("/crl"))));
    assert!(merged.accept_untrusted && merged.only_verify_leaf_cert_crl);
    assert_eq!(merged.max_verify_depth, Some(3));
    let names =
        |name: &[u8]| merged.subject_alt_names.iter().position(|san| san.matcher.matches(name));
    assert_eq!((names(b"base"), names(b"dynamic")), (Some(0), Some(1)));

    // Typed names in one make untyped ones in the other unread: "any match is enough", so that they
    // would widen what is accepted.
    let typed = downstream_of(&loaded(&combined(
        json!({ "match_subject_alt_names": [{ "prefix": "a" }] }),
        json!({ "trusted_ca": { "filename": "/ca" }, "match_typed_subject_alt_names": [san("b")] }),
    )));
    let sans = &typed.common.validation.as_ref().unwrap().subject_alt_names;
    assert_eq!((sans.len(), sans[0].kind), (1, SanKind::Dns));
    assert!(typed.require_client_certificate);

    // The whole has to make sense, not each part.
    let sans = json!({ "match_typed_subject_alt_names": [san("b")] });
    let at =
        format!("Listener web: {DOWNSTREAM_PATH}.common_tls_context.combined_validation_context");
    assert_eq!(
        refusal(&combined(sans.clone(), json!({}))),
        format!(
            "{at}: matchers of subject alternative names are worth nothing without a trusted_ca"
        )
    );
    loaded(&combined(sans, json!({ "trusted_ca": { "filename": "/ca" } })));
    for missing in ["default_validation_context", "validation_context_sds_secret_config"] {
        let mut bootstrap = combined(json!({}), json!({}));
        let pointer = format!(
            "{CHAIN}/transport_socket/typed_config/common_tls_context/combined_validation_context"
        );
        bootstrap.pointer_mut(&pointer).unwrap().as_object_mut().unwrap().remove(missing);
        assert_eq!(refusal(&bootstrap), format!("{at}.{missing}: is required"));
    }
}

#[test]
fn section_16_bad_secrets() {
    let with = |secrets: Value| refusal(&set(&http(), "/static_resources/secrets", secrets));
    assert_eq!(with(json!([{ "name": "s" }])), "Secret s: type: is required");
    assert_eq!(with(json!([{ "generic_secret": {} }])), "Secret: name: is required");
    let twice =
        json!([{ "name": "s", "generic_secret": {} }, { "name": "s", "generic_secret": {} }]);
    assert_eq!(with(twice), "Secret s: name: \"s\" is used twice");
    assert_eq!(
        with(json!([{ "name": "s", "tls_certificate": { "password": { "filename": "/p" } } }])),
        "Secret s: tls_certificate.password: not supported"
    );
    assert_eq!(
        with(json!([{ "name": "s", "tls_certificate": { "private_key": { "filename": "/p" } } }])),
        "Secret s: tls_certificate.certificate_chain: is required"
    );
}

/// A directory of this test's own, gone with the value.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path =
            std::env::temp_dir().join(format!("outrigger-tls-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What is left behind is in the way of nobody.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn sds(name: &str, path: &str) -> Value {
    json!({ "name": name, "sds_config": {
        "path_config_source": { "path": path, "watched_directory": { "path": "/watched" } },
        "initial_fetch_timeout": "0s", "resource_api_version": "V3",
    }})
}

#[test]
fn section_16_secrets_in_files_of_their_own() {
    let directory = Directory::new("files");
    let list = "\
version_info: '7'
resources:
- '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
  name: other
  tls_certificate: { certificate_chain: { filename: /o }, private_key: { filename: /o } }
- '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
  name: cert
  tls_certificate: { certificate_chain: { filename: /c1 }, private_key: { filename: /k1 } }
";
    let list_path = directory.write("list.yaml", list);
    let ca = r#"{ "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": "ca", "validation_context": { "trusted_ca": { "filename": "/ca1" } } }"#;
    let ca_path = directory.write("ca.json", ca);
    let keys = "name: keys\nsession_ticket_keys: { keys: [{ filename: /t1 }] }\n";
    let keys_path = directory.write("keys.yaml", keys);
    let bootstrap = downstream(json!({
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [sds("cert", &list_path)],
            "combined_validation_context": {
                "default_validation_context": { "max_verify_depth": 2,
                    "match_typed_subject_alt_names": [
                        { "san_type": "URI", "matcher": { "exact": "spiffe://a/b" } } ] },
                "validation_context_sds_secret_config": sds("ca", &ca_path),
            },
        },
        "session_ticket_keys_sds_secret_config":
            { "name": "keys", "sds_config": { "path": keys_path } },
    }));
    let tls = downstream_of(&loaded(&bootstrap));
    let watched = |path: &str, name: &str| SecretFile {
        path: Path::new(path).into(),
        watched_directory: Some(Path::new("/watched").into()),
        name: name.into(),
    };
    let certificate = &tls.common.certificates[0];
    assert_eq!((&certificate.chain, &certificate.key), (&file("/c1"), &file("/k1")));
    assert_eq!(certificate.file, Some(Arc::new(watched(&list_path, "cert"))));
    let validation = tls.common.validation.clone().unwrap();
    assert_eq!(validation.trusted_ca, Some(file("/ca1")));
    assert_eq!((validation.max_verify_depth, validation.subject_alt_names.len()), (Some(2), 1));
    assert_eq!(validation.file, Some(Arc::new(watched(&ca_path, "ca"))));
    assert_eq!(tls.session_ticket_keys, [file("/t1")]);
    let keys_file = tls.session_ticket_keys_file.clone().unwrap();
    assert_eq!((&*keys_file.path, &keys_file.watched_directory), (Path::new(&keys_path), &None));

    // They are replaced, and read again: everything from such files, and nothing else.
    directory.write("list.yaml", &list.replace("/c1", "/c2"));
    directory.write("ca.json", &ca.replace("/ca1", "/ca2"));
    directory.write("keys.yaml", &keys.replace("/t1", "/t2"));
    let fresh = reread_downstream(&tls).unwrap();
    assert_eq!(fresh.common.certificates[0].chain, file("/c2"));
    assert_eq!(fresh.common.certificates[0].file, certificate.file);
    let validation = fresh.common.validation.clone().unwrap();
    assert_eq!(validation.trusted_ca, Some(file("/ca2")));
    assert_eq!((validation.max_verify_depth, validation.subject_alt_names.len()), (Some(2), 1));
    assert_eq!(fresh.session_ticket_keys, [file("/t2")]);
    // And once more, from what was reread.
    directory.write("ca.json", ca);
    let again = reread_downstream(&fresh).unwrap().common.validation.unwrap();
    assert_eq!((&again.trusted_ca, again.subject_alt_names.len()), (&Some(file("/ca1")), 1));

    // What has become unusable is refused, and says where.
    let reread = |name: &str, text: &str| {
        directory.write(name, text);
        reread_downstream(&tls).unwrap_err().to_string()
    };
    assert_eq!(
        reread("keys.yaml", "name: keys\nsession_ticket_keys: { keys: [] }\n"),
        format!("{keys_path}:2:24: Secret keys: session_ticket_keys.keys: is required")
    );
    assert_eq!(
        reread("keys.yaml", "name: keys\ngeneric_secret: {}\n"),
        format!(
            "Secret keys: is a generic secret in {keys_path}, not a list of session ticket keys"
        )
    );
    assert_eq!(
        reread("ca.json", r#"{ "name": "ca", "validation_context": { "trusted_ca": {} } }"#),
        format!("{ca_path}:1:41: Secret ca: validation_context.trusted_ca.specifier: is required")
    );
    assert_eq!(
        reread("ca.json", r#"{ "name": "ca", "validation_context": {} }"#),
        "Secret ca: matchers of subject alternative names are worth nothing without a trusted_ca"
    );
    assert_eq!(
        reread("list.yaml", "resources: []\n"),
        format!("Secret cert: is not in {list_path}")
    );
}

#[test]
fn section_16_bad_files_of_secrets() {
    let directory = Directory::new("bad");
    let context = |path: &str| {
        let source = sds("ca", path);
        json!({ "common_tls_context": { "validation_context_sds_secret_config": source } })
    };
    let at = format!(
        "Listener web: {DOWNSTREAM_PATH}.common_tls_context.validation_context_sds_secret_config\
         .sds_config"
    );
    for (text, expected) in [
        ("name: cb\nvalidation_context: {}\n", "Secret ca: is not in PATH"),
        ("nam: ca\n", "PATH:1:1: Secret ca: nam: no such field; did you mean \"name\"?"),
        (
            "name: ca\nvalidation_context: { custom_validator_config: { name: x } }\n",
            "PATH:2:23: Secret ca: validation_context.custom_validator_config: not supported",
        ),
        (
            "'@type': type.googleapis.com/a.B\nname: ca\n",
            "PATH:1:1: Secret ca: extension type \"type.googleapis.com/a.B\" is not supported",
        ),
        (
            "resources:\n- '@type': type.googleapis.com/envoy.config.cluster.v3.Cluster\n",
            "PATH:2:3: Secret ca: resources[0](Cluster): extension type \
             \"envoy.config.cluster.v3.Cluster\" is not supported",
        ),
        ("[", "PATH:1:1: unclosed bracket '['"),
        ("", "PATH:1:1: Secret ca: expected an object, found nothing"),
    ] {
        let path = directory.write("s.yaml", text);
        let expected = format!("{at}.path_config_source.path: {}", expected.replace("PATH", &path));
        assert_eq!(refusal(&downstream(context(&path))), expected, "{text}");
    }
    assert_eq!(
        refusal(&downstream(context("/no/such/file"))),
        format!(
            "{at}.path_config_source.path: /no/such/file: No such file or directory (os error 2)"
        )
    );
    for (source, expected) in [
        (json!({ "ads": {} }), ".ads: needs dynamic_resources.ads_config".to_owned()),
        (
            json!({ "api_config_source": {
                "api_type": "GRPC", "transport_api_version": "V3",
                "grpc_services": [{ "envoy_grpc": { "cluster_name": "agent" } }],
            } }),
            ".api_config_source.grpc_services[0].envoy_grpc.cluster_name: there is no static \
             cluster \"agent\""
                .to_owned(),
        ),
        (json!({}), ".config_source_specifier: is required".to_owned()),
        (
            json!({ "path": "/s", "resource_api_version": "V2" }),
            ".resource_api_version: V2 is not supported".to_owned(),
        ),
        (
            json!({ "path_config_source": { "path": "/s", "poll_interval": "1s" } }),
            ".path_config_source.poll_interval: not supported".to_owned(),
        ),
        (
            json!({ "path_config_source": { "path": "/s",
                "watched_directory": { "path": "/s", "watch_modify": true } } }),
            ".path_config_source.watched_directory.watch_modify: not supported".to_owned(),
        ),
    ] {
        let config = json!({ "name": "ca", "sds_config": source });
        let context =
            json!({ "common_tls_context": { "validation_context_sds_secret_config": config } });
        assert_eq!(refusal(&downstream(context)), format!("{at}{expected}"));
    }
}

/// An SdsSecretConfig whose secret the cluster of the other tests is asked for.
fn served(name: &str) -> Value {
    json!({ "name": name, "sds_config": { "resource_api_version": "V3", "api_config_source": {
        "api_type": "GRPC", "transport_api_version": "V3",
        "grpc_services": [{ "envoy_grpc": { "cluster_name": "app" } }],
    } } })
}

#[test]
fn section_16_secrets_of_servers_are_awaited() {
    let tls = with_downstream(json!({
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [served("cert")],
            "combined_validation_context": {
                "default_validation_context": { "match_typed_subject_alt_names": [
                    { "san_type": "URI", "matcher": { "prefix": "spiffe://a/" } },
                ] },
                "validation_context_sds_secret_config": served("ca"),
            },
        },
        "session_ticket_keys_sds_secret_config": served("keys"),
    }));
    let names: Vec<&str> = tls.common.served.iter().map(|sds| &*sds.name).collect();
    assert_eq!(names, ["cert", "ca", "keys"]);
    assert!(tls.common.certificates.is_empty());
    // What pins somebody down asks for a certificate, before and after.
    assert!(tls.require_client_certificate);
    assert!(complete_downstream(&tls, &|_| None).unwrap().is_none());
}

#[test]
fn section_16_one_certificate_of_a_client_is_served_at_most() {
    let both = json!({ "common_tls_context": {
        "tls_certificate_sds_secret_configs": [served("one"), served("other")],
    } });
    assert!(refusal(&upstream(both)).ends_with("a client has one certificate"));
}

#[test]
fn section_16_upstream_secrets_are_reread_too() {
    let directory = Directory::new("upstream");
    let text = "name: ca\nvalidation_context: { trusted_ca: { filename: /a } }\n";
    let path = directory.write("ca.yaml", text);
    let common = json!({ "validation_context_sds_secret_config": sds("ca", &path) });
    let tls = with_upstream(json!({ "common_tls_context": common, "sni": "a" }));
    directory.write("ca.yaml", &text.replace("/a", "/b"));
    let fresh = reread_upstream(&tls).unwrap();
    assert_eq!(fresh.common.validation.unwrap().trusted_ca, Some(file("/b")));
    assert_eq!(fresh.sni, UpstreamSni::Literal("a".into()));
}

#[test]
fn private_keys_are_not_in_the_config_dump() {
    let hush = || json!({ "inline_string": "hush" });
    let keyed =
        || json!({ "certificate_chain": { "inline_string": "public" }, "private_key": hush() });
    let context = json!({
        "common_tls_context": { "tls_certificates": [keyed()] },
        "session_ticket_keys": { "keys": [{ "inline_bytes": "aHVz".repeat(26) + "aHU=" }] },
    });
    let bootstrap = set(&downstream(context), "/static_resources/secrets", secrets());
    let secret = json!({ "name": "inline", "tls_certificate": keyed() });
    let bootstrap = set(&bootstrap, "/static_resources/secrets/-", secret);
    let wrapped = json!({ "name": "tls", "typed_config": any_with("xds.type.v3.TypedStruct", json!({
        "type_url": format!("type.googleapis.com/{UPSTREAM}"),
        "value": { "commonTlsContext": { "tlsCertificates": [
            { "certificateChain": { "inlineString": "public" }, "privateKey": { "inlineString": "hush" } },
        ]}},
    }))});
    let bootstrap = set(&bootstrap, &format!("{CLUSTER}/transport_socket"), wrapped);
    let dump = loaded(&bootstrap).config_dump;
    assert!(!dump.contains("hush") && !dump.contains("aHVz"), "{dump}");
    assert_eq!(dump.matches("[redacted]").count(), 5, "{dump}");
    assert_eq!(dump.matches("public").count(), 3);
    assert!(dump.contains("/k.pem"));
}

#[test]
fn private_keys_are_not_in_complaints() {
    let broken = json!({ "certificate_chain": { "filename": "/c" },
        "private_key": { "inline_bytes": "hush hush!" } });
    let text =
        refusal(&downstream(json!({ "common_tls_context": { "tls_certificates": [broken] } })));
    assert!(!text.contains("hush"), "{text}");
    assert!(text.contains("private_key.inline_bytes: "), "{text}");
}

#[test]
fn section_20_what_is_ignored_is_reported() {
    let context = json!({
        "prefer_client_ciphers": true,
        "common_tls_context": { "key_log": { "path": "/l" } },
    });
    assert_eq!(
        warnings(&loaded(&downstream(context))),
        [
            format!(
                "Listener web: {DOWNSTREAM_PATH}.common_tls_context.key_log: ignored: keys are \
                 never logged"
            ),
            format!(
                "Listener web: {DOWNSTREAM_PATH}.prefer_client_ciphers: ignored: the order is the \
                 TLS library's"
            ),
        ]
    );
}
