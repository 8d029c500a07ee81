//! From configuration text to bytes in a file, by the way a process takes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use outrigger_xds::bootstrap::{LoadOptions, Source, load};
use outrigger_xds::snapshot::access_log::{AccessLog, Sink as Target};
use outrigger_xds::snapshot::{Terminal, TlsVersion};
use outrigger_xds::source::Format as TextFormat;
use rustls::{CipherSuite, NamedGroup};
use serde_json::{Value, json};

use super::logger::{AccessLogs, BATCH_BYTES, ShardLogger};
use super::record::{
    Address, ByteCounts, CloseType, GrpcStatus, Protocol, Record, StreamId, Times,
};
use super::writer::{Batch, LogWriter};
use super::{Capture, LogType, ResponseFlags};
use crate::stats::{Registry, Value as Stat};
use crate::tls::{CertificateFacts, Identity, RecordError, StapleUse, TlsSession};

/// A directory of its own for one test, removed with it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("outrigger-al-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The access logs that a connection manager with this `access_log` list has.
fn configured(list: &Value) -> Vec<Arc<AccessLog>> {
    let bootstrap = json!({"static_resources": {"listeners": [{
        "name": "l",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}},
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "p",
                "access_log": list,
                "route_config": {"virtual_hosts": [{
                    "name": "v", "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                }]},
                "http_filters": [{
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
                }],
            },
        }]}],
    }]}});
    let source = Source::text("test", bootstrap.to_string(), TextFormat::Json);
    let loaded = load(&source, &LoadOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    let chain = loaded.snapshot.listeners[0].filter_chains.iter().next().unwrap();
    match &chain.terminal {
        Terminal::Http(http) => http.access_log.clone(),
        _ => unreachable!(),
    }
}

fn file_log(path: &Path, format: Option<Value>) -> Value {
    let mut config = json!({
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": path.to_str().unwrap(),
    });
    if let Some(format) = format {
        config["log_format"] = format;
    }
    json!({"name": "f", "typed_config": config})
}

fn text_log(path: &Path, format: &str) -> Value {
    file_log(path, Some(json!({"text_format_source": {"inline_string": format}})))
}

const SECOND: u64 = 1_000_000_000;
const START: u64 = 500 * SECOND;

/// The request that the reference lines below were recorded from.
fn record() -> Record<'static> {
    Record {
        start_wall_ns: 1_795_223_819_134_481_000,
        emit_wall_ns: 1_795_223_819_137_458_000,
        times: Times {
            downstream_rx_begin: START,
            downstream_rx_end: START + 100_000,
            upstream_connect_begin: START + 150_000,
            upstream_connect_end: START + 300_000,
            upstream_tx_begin: START + 310_000,
            upstream_tx_end: START + 1_320_000,
            upstream_rx_begin: START + 2_600_000,
            upstream_rx_end: START + 2_700_000,
            downstream_tx_begin: START + 2_650_000,
            downstream_tx_end: START + 2_977_000,
            end: START + 2_980_000,
        },
        protocol: Some(Protocol::Http11),
        upstream_protocol: Some(Protocol::Http11),
        response_code: 200,
        response_code_details: Some("via_upstream"),
        bytes: ByteCounts {
            sent: 478,
            request_headers: 186,
            upstream_wire_sent: 195,
            ..ByteCounts::default()
        },
        downstream_remote: Some(Address::Ip("127.0.0.1:44404".parse().unwrap())),
        downstream_direct_remote: Some(Address::Ip("[2001:db8::1:2]:9".parse().unwrap())),
        downstream_local: Some(Address::Pipe("/run/in.sock")),
        upstream_remote: Some(Address::Ip("127.0.0.1:19002".parse().unwrap())),
        upstream_host_name: Some("app.internal:19002"),
        upstream_cluster: Some("stat_app"),
        upstream_cluster_raw: Some("app"),
        upstream_attempts: 1,
        upstream_close: Some(CloseType::RemoteReset),
        upstream_transport_failure: Some("TLS error: bad record"),
        connection_id: 1,
        stream_id: Some(StreamId(0x0123_4567_89ab_4def_8123_4567_89ab_cdef)),
        grpc_status: Some(GrpcStatus::Code(5)),
        ..Record::default()
    }
}

const REQUEST: [(&str, &[u8]); 6] = [
    (":method", b"GET"),
    (":path", b"/a%22b?q=\"x\"&k=v"),
    (":authority", b"localhost:19000"),
    ("user-agent", b"a\"b\\c\t\xc3\xa9"),
    ("x-request-id", b"567d16f4-e9b7-46b1-be5c-37ef2d5326fd"),
    ("x-raw", b"\xff\x01ok"),
];
const RESPONSE: [(&str, &[u8]); 1] = [("x-envoy-upstream-service-time", b"2")];
const TRAILERS: [(&str, &[u8]); 1] = [("grpc-status", b"5")];

fn capture(logs: &AccessLogs) -> Capture {
    let mut capture = Capture::default();
    let set = logs.captures();
    let sources = [
        (set.request_headers().collect::<Vec<_>>(), &REQUEST[..]),
        (set.response_headers().collect(), &RESPONSE[..]),
        (set.response_trailers().collect(), &TRAILERS[..]),
    ];
    for (slots, values) in sources {
        for (slot, name) in slots {
            if let Some((_, value)) = values.iter().find(|(known, _)| *known == name) {
                capture.put(slot, value);
            }
        }
    }
    capture
}

/// A writer thread, its registry, and shard 0's logger with a flush interval of 10 s.
struct Rig {
    registry: Registry,
    writer: LogWriter,
}

impl Rig {
    fn new(queue_batches: usize) -> Rig {
        let registry = Registry::new(2);
        let slot = registry.control();
        let writer = LogWriter::start(
            "test-log",
            queue_batches,
            registry.access_log(slot),
            registry.filesystem(slot),
        )
        .unwrap();
        Rig { registry, writer }
    }

    fn logger(&self, shard: usize) -> ShardLogger {
        ShardLogger::new(self.writer.queue(), &self.registry, shard, 10 * SECOND)
    }

    fn open(&self, list: &Value) -> AccessLogs {
        AccessLogs::open(&self.writer.queue(), &configured(list)).unwrap()
    }

    fn count(&self, name: &str) -> u64 {
        let samples = self.registry.collect();
        let sample = samples.iter().find(|sample| sample.to_string() == name);
        match sample.unwrap_or_else(|| panic!("no {name}")).value {
            Stat::Counter(n) | Stat::Gauge(n) => n,
            Stat::Histogram(_) => unreachable!(),
        }
    }

    /// Ends the writer after everything was written, and gives the registry back.
    fn finish(self) -> Registry {
        assert!(self.writer.shutdown(Duration::from_secs(10)));
        self.registry
    }
}

/// One line of `format`, a text format.
fn line(format: &str) -> String {
    line_of(&record(), format)
}

fn line_of(record: &Record<'_>, format: &str) -> String {
    let directory = Directory::new();
    let path = directory.file("log");
    let rig = Rig::new(4);
    let logs = rig.open(&json!([text_log(&path, format)]));
    rig.logger(0).log(&logs, record, &capture(&logs));
    rig.finish();
    String::from_utf8(fs::read(&path).unwrap()).unwrap()
}

fn json_line(format: &Value) -> String {
    let directory = Directory::new();
    let path = directory.file("log");
    let rig = Rig::new(4);
    let logs = rig.open(&json!([file_log(&path, Some(format.clone()))]));
    rig.logger(0).log(&logs, &record(), &capture(&logs));
    rig.finish();
    fs::read_to_string(&path).unwrap()
}

#[test]
fn grpc_statuses_have_names_where_grpc_knows_them() {
    let format = "%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS(NUMBER)%";
    for (status, expected) in [
        (Some(&b"0"[..]), "OK OK 0"),
        (Some(b"14"), "Unavailable UNAVAILABLE 14"),
        (Some(b"77"), "77 77 77"),
        (Some(b"abc"), "-1 -1 -1"),
        (None, "- - -"),
    ] {
        let record = Record { grpc_status: status.map(GrpcStatus::read), ..record() };
        assert_eq!(line_of(&record, format), expected);
    }
}

/// A session with a client that showed no certificate.
fn session() -> TlsSession {
    let facts = CertificateFacts {
        subject: "O=Srv,CN=server.example".into(),
        issuer: "CN=ca".into(),
        serial: "1f".into(),
        sha256: "ab".into(),
        sha1: "cd".into(),
        uri_sans: vec!["spiffe://td/a".into(), "spiffe://td/\r\nb".into()],
        dns_sans: vec!["server.example".into(), "*.server.example".into()],
        ip_sans: vec!["127.0.0.1".parse().unwrap(), "fe80::1".parse().unwrap()],
        email_sans: Vec::new(),
        not_before_unix_s: 0,
        not_after_unix_s: 1,
    };
    TlsSession {
        version: TlsVersion::Tls13,
        cipher: CipherSuite::TLS13_AES_128_GCM_SHA256,
        group: Some(NamedGroup::X25519),
        alpn: None,
        server_name: None,
        resumed: false,
        peer: None,
        local: Some(Arc::new(Identity { facts })),
        staple: StapleUse::default(),
    }
}

#[test]
fn tls_is_told_of_the_side_that_is_asked_for() {
    let session = session();
    let record = Record {
        downstream_tls: Some(&session),
        downstream_transport_failure: Some(RecordError::BadMac),
        ..record()
    };
    for (format, expected) in [
        ("%DOWNSTREAM_TLS_VERSION% %UPSTREAM_TLS_VERSION%", "TLSv1.3 -"),
        ("%DOWNSTREAM_TLS_CIPHER% %DOWNSTREAM_TLS_GROUP%", "TLS_AES_128_GCM_SHA256 X25519"),
        ("%DOWNSTREAM_LOCAL_SUBJECT%", "O=Srv,CN=server.example"),
        ("%DOWNSTREAM_LOCAL_DNS_SAN%", "server.example,*.server.example"),
        ("%DOWNSTREAM_LOCAL_IP_SAN%", "127.0.0.1,fe80::1"),
        // A name must not end a line.
        ("%DOWNSTREAM_LOCAL_URI_SAN%", "spiffe://td/a,spiffe://td/??b"),
        ("%DOWNSTREAM_LOCAL_EMAIL_SAN% %UPSTREAM_LOCAL_DNS_SAN%", "- -"),
        ("%DOWNSTREAM_PEER_SUBJECT% %DOWNSTREAM_PEER_CERT%", "- -"),
        ("%DOWNSTREAM_PEER_CERT_V_START% %DOWNSTREAM_PEER_CHAIN_SERIALS%", "- -"),
        ("%DOWNSTREAM_TRANSPORT_FAILURE_REASON%", "TLS_error:_a_record_failed_its_authentication"),
    ] {
        assert_eq!(line_of(&record, format), expected, "{format}");
    }
}

#[test]
fn the_default_line_is_envoys() {
    let directory = Directory::new();
    let path = directory.file("log");
    let rig = Rig::new(4);
    let logs = rig.open(&json!([file_log(&path, None)]));
    rig.logger(0).log(&logs, &record(), &capture(&logs));
    rig.finish();
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        "[2026-11-21T01:16:59.134Z] \"GET /a%22b?q=\"x\"&k=v HTTP/1.1\" 200 - 0 478 2 2 \"-\" \
         \"a\"b\\c\té\" \"567d16f4-e9b7-46b1-be5c-37ef2d5326fd\" \"localhost:19000\" \
         \"127.0.0.1:19002\"\n"
    );
}

#[test]
fn the_default_line_of_a_tcp_connection_is_envoys() {
    let directory = Directory::new();
    let path = directory.file("log");
    let rig = Rig::new(4);
    let logs = rig.open(&json!([file_log(&path, None)]));
    let record = Record {
        start_wall_ns: 1_795_223_819_166_000_000,
        times: Times { downstream_rx_begin: 5, end: 1_500_005, ..Times::default() },
        bytes: ByteCounts { received: 79, sent: 633, ..ByteCounts::default() },
        upstream_remote: Some(Address::Ip("127.0.0.1:19002".parse().unwrap())),
        log_type: LogType::TcpConnectionEnd,
        ..Record::default()
    };
    rig.logger(0).log(&logs, &record, &Capture::default());
    rig.finish();
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        "[2026-11-21T01:16:59.166Z] \"- - -\" 0 - 79 633 1 - \"-\" \"-\" \"-\" \"-\" \
         \"127.0.0.1:19002\"\n"
    );
}

#[test]
fn operators() {
    for (format, expected) in [
        ("%RESPONSE_CODE% %RESPONSE_CODE_DETAILS%", "200 via_upstream"),
        ("%REQ(NOPE?X-REQUEST-ID):8%|%REQ(NOPE)%|%RESP(NOPE)%", "567d16f4|-|-"),
        ("%REQ(USER-AGENT):3%", "a\"b"),
        ("%DURATION% %REQUEST_DURATION% %REQUEST_TX_DURATION%", "2 0 1"),
        ("%RESPONSE_DURATION% %RESPONSE_TX_DURATION%", "2 0"),
        ("%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%", "2977"),
        ("%COMMON_DURATION(US_CX_BEG:US_CX_END:ns)%", "150000"),
        ("%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_PORT%", "127.0.0.1:44404 44404"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "127.0.0.1"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(16)%", "127.0.0.0/16"),
        ("%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%", "[2001:db8::1:2]:9"),
        ("%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT(32)%", "2001:db8::/32"),
        ("%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_PORT%", "/run/in.sock -"),
        ("%UPSTREAM_HOST% %UPSTREAM_LOCAL_ADDRESS%", "127.0.0.1:19002 -"),
        (
            "%UPSTREAM_HOST_NAME% %UPSTREAM_HOST_NAME_WITHOUT_PORT%",
            "app.internal:19002 app.internal",
        ),
        ("%UPSTREAM_CLUSTER% %UPSTREAM_CLUSTER_RAW%", "stat_app app"),
        ("%UPSTREAM_TRANSPORT_FAILURE_REASON%", "TLS_error:_bad_record"),
        ("%UPSTREAM_DETECTED_CLOSE_TYPE% %DOWNSTREAM_DETECTED_CLOSE_TYPE%", "RemoteReset -"),
        ("%UPSTREAM_REQUEST_ATTEMPT_COUNT% %UPSTREAM_CONNECTION_ID%", "1 0"),
        ("%REQUEST_HEADERS_BYTES% %UPSTREAM_WIRE_BYTES_SENT%", "186 195"),
        ("%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)%", "NotFound NOT_FOUND"),
        ("%GRPC_STATUS_NUMBER% %TRAILER(GRPC-STATUS)%", "5 5"),
        ("%STREAM_ID%", "01234567-89ab-4def-8123-456789abcdef"),
        ("%CONNECTION_ID% %ROUTE_NAME% %ACCESS_LOG_TYPE%", "1 - DownstreamEnd"),
        ("%PATH(NQ)% %QUERY_PARAM(k)% %QUERY_PARAM(none)%", "/a%22b v -"),
        (
            "%START_TIME(%Y/%m/%dT%H:%M:%S%z %s %3f %6f)%",
            "2026/11/21T01:16:59+0000 1795223819 134 134481",
        ),
        ("%EMIT_TIME%", "2026-11-21T01:16:59.137Z"),
        ("100%% %PROTOCOL% %UPSTREAM_PROTOCOL%", "100% HTTP/1.1 HTTP/1.1"),
    ] {
        assert_eq!(line(format), expected, "{format}");
    }
}

#[test]
fn unique_ids_are_version_4_and_differ() {
    let ids = line("%UNIQUE_ID% %UNIQUE_ID%");
    let expected =
        regex::Regex::new("^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$");
    let (one, two) = ids.split_once(' ').unwrap();
    assert!(expected.unwrap().is_match(one), "{one}");
    assert_ne!(one, two);
}

#[test]
fn json_keeps_types_and_escapes() {
    let line = json_line(&json!({"json_format": {
        "code": "%RESPONSE_CODE%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "flags": "%RESPONSE_FLAGS%",
        "miss": "%REQ(NOPE)%",
        "mix": "x %RESPONSE_CODE% y %REQ(NOPE)%",
        "nested": {"a": "%BYTES_SENT%", "b": ["%PROTOCOL%", "%CONNECTION_ID%", 3, true]},
        "raw": "%REQ(X-RAW)%",
        "trunc": "%REQ(USER-AGENT):3%",
        "ua": "%REQ(USER-AGENT)%",
    }}));
    let parsed: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        parsed,
        json!({
            "code": 200,
            "details": "via_upstream",
            "flags": "-",
            "miss": null,
            "mix": "x 200 y -",
            "nested": {"a": 478, "b": ["HTTP/1.1", 1, 3, true]},
            "raw": "\u{fffd}\u{1}ok",
            "trunc": "a\"b",
            "ua": "a\"b\\c\té",
        })
    );
    assert_eq!(line.matches('\n').count(), 1);
    assert!(line.ends_with("}\n"));
}

#[test]
fn json_leaves_missing_members_out_when_told_to() {
    let line = json_line(&json!({
        "omit_empty_values": true,
        "json_format": {"a": "%REQ(NOPE)%", "b": "%RESPONSE_CODE%", "c": "%ROUTE_NAME%"},
    }));
    assert_eq!(line, "{\"b\":200}\n");
}

#[test]
fn flags_are_printed_both_ways() {
    let directory = Directory::new();
    let path = directory.file("log");
    let rig = Rig::new(4);
    let logs = rig.open(&json!([text_log(&path, "%RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG%")]));
    let flags =
        ResponseFlags::UPSTREAM_CONNECTION_FAILURE | ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED;
    rig.logger(0).log(&logs, &Record { flags, ..record() }, &Capture::default());
    rig.finish();
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        "UF,URX UpstreamConnectionFailure,UpstreamRetryLimitExceeded"
    );
}

#[test]
fn a_line_waits_for_the_interval_or_a_full_batch() {
    let directory = Directory::new();
    let path = directory.file("log");
    let rig = Rig::new(4);
    let logs = rig.open(&json!([text_log(&path, "%RESPONSE_CODE%\n")]));
    let mut logger = rig.logger(0);
    assert_eq!(logger.flush_at(), None);
    logger.log(&logs, &record(), &Capture::default());
    let end = record().times.end;
    assert_eq!(logger.flush_at(), Some(end + 10 * SECOND));
    logger.flush(end + 10 * SECOND - 1);
    assert_eq!(rig.count("filesystem.write_total_buffered"), 4);
    logger.flush(end + 10 * SECOND);
    assert_eq!(logger.flush_at(), None);
    for _ in 0..BATCH_BYTES / 4 {
        logger.log(&logs, &record(), &Capture::default());
    }
    assert_eq!(logger.flush_at(), None, "a full batch goes at once");
    assert_eq!(rig.count("filesystem.write_total_buffered"), 0);
    let registry = rig.finish();
    drop(logger);
    let lines = 1 + BATCH_BYTES as u64 / 4;
    assert_eq!(fs::metadata(&path).unwrap().len(), lines * 4);
    let samples = registry.collect();
    let count = |name: &str| &samples.iter().find(|s| s.to_string() == name).unwrap().value;
    assert_eq!(*count("access_log.lines"), Stat::Counter(lines));
    assert_eq!(*count("access_log.bytes"), Stat::Counter(lines * 4));
    assert_eq!(*count("access_log.dropped"), Stat::Counter(0));
    assert_eq!(*count("filesystem.write_completed"), Stat::Counter(2));
    assert_eq!(*count("filesystem.flushed_by_timer"), Stat::Counter(1));
}

#[test]
fn several_logs_and_shards_share_a_file_without_mixing_lines() {
    const LINES: usize = 20_000;
    let directory = Directory::new();
    let path = directory.file("log");
    let rig = Rig::new(64);
    let logs = rig.open(&json!([
        text_log(&path, "one %REQ(X-REQUEST-ID)%\n"),
        text_log(&path, "two %REQ(X-REQUEST-ID)%\n"),
    ]));
    std::thread::scope(|scope| {
        for shard in 0..2 {
            let (rig, logs) = (&rig, &logs);
            scope.spawn(move || {
                let mut logger = rig.logger(shard);
                let capture = capture(logs);
                for _ in 0..LINES {
                    logger.log(logs, &record(), &capture);
                }
            });
        }
    });
    let dropped = rig.count("access_log.dropped");
    rig.finish();
    let written = fs::read_to_string(&path).unwrap();
    let id = "567d16f4-e9b7-46b1-be5c-37ef2d5326fd";
    let whole = |line: &str| line == format!("one {id}") || line == format!("two {id}");
    assert!(written.lines().all(whole));
    assert_eq!(written.lines().count() as u64 + dropped, 4 * LINES as u64);
    assert_eq!(dropped, 0, "the queue has room for all of it");
}

#[test]
fn a_full_disk_loses_lines_and_nothing_else() {
    let rig = Rig::new(4);
    let logs = rig.open(&json!([text_log(Path::new("/dev/full"), "%RESPONSE_CODE%\n")]));
    let mut logger = rig.logger(0);
    for _ in 0..10 {
        logger.log(&logs, &record(), &Capture::default());
    }
    logger.flush_all();
    let registry = rig.finish();
    let samples = registry.collect();
    let count = |name: &str| &samples.iter().find(|s| s.to_string() == name).unwrap().value;
    assert_eq!(*count("access_log.lines"), Stat::Counter(10));
    assert_eq!(*count("access_log.dropped"), Stat::Counter(10));
    assert_eq!(*count("filesystem.write_failed"), Stat::Counter(1));
}

#[test]
fn a_slow_pipe_loses_lines_within_bounds_and_never_blocks() {
    const QUEUE: usize = 2;
    let directory = Directory::new();
    let path = directory.file("pipe");
    let c_path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    assert_eq!(unsafe { libc::mkfifo(c_path.as_ptr(), 0o600) }, 0);
    let rig = Rig::new(QUEUE);
    let error =
        AccessLogs::open(&rig.writer.queue(), &configured(&json!([text_log(&path, "x\n")])));
    assert!(error.is_err(), "nobody reads the pipe");

    let mut reader =
        fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
    let logs = rig.open(&json!([text_log(&path, "%REQ(X-REQUEST-ID)%\n")]));
    let capture = capture(&logs);
    let mut logger = rig.logger(0);
    // Far more than the pipe (64 KiB), the queue and the batch can hold.
    const LINES: u64 = 40_000;
    for _ in 0..LINES {
        logger.log(&logs, &record(), &capture);
    }
    let dropped = rig.count("access_log.dropped");
    assert!(dropped > 0);
    let buffered = rig.count("filesystem.write_total_buffered");
    assert!(buffered < 2 * BATCH_BYTES as u64, "{buffered} bytes are held");
    // Once someone reads, what was kept comes out whole. The end is when all of it is there.
    let expected = (LINES - dropped) * 37;
    let mut read = Vec::new();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while (read.len() as u64) < expected {
        assert!(std::time::Instant::now() < deadline, "{} of {expected}", read.len());
        // The batch that waited in the shard goes as soon as the queue has room.
        logger.flush(u64::MAX);
        let mut buffer = [0; 4096];
        match reader.read(&mut buffer) {
            Ok(n) => read.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::yield_now();
            }
            Err(error) => panic!("{error}"),
        }
    }
    let text = String::from_utf8(read).unwrap();
    assert!(text.lines().all(|line| line == "567d16f4-e9b7-46b1-be5c-37ef2d5326fd"));
    assert_eq!(rig.count("access_log.dropped"), dropped);
    drop(logger);
    rig.finish();
}

#[test]
fn a_moved_file_is_reopened_and_unreopened_one_is_followed() {
    let directory = Directory::new();
    let (path, moved) = (directory.file("log"), directory.file("log.1"));
    let rig = Rig::new(4);
    let logs = rig.open(&json!([text_log(&path, "%RESPONSE_CODE%\n")]));
    let mut logger = rig.logger(0);
    let mut write = |code: u16| {
        logger.log(&logs, &Record { response_code: code, ..record() }, &Capture::default());
        logger.flush_all();
    };
    write(201);
    fs::rename(&path, &moved).unwrap();
    write(202);
    wait_for(|| fs::read_to_string(&moved).is_ok_and(|text| text == "201\n202\n"));
    rig.writer.queue().reopen();
    write(203);
    wait_for(|| fs::read_to_string(&path).is_ok_and(|text| text == "203\n"));
    assert_eq!(rig.count("access_log.reopened"), 1);
    // A path that cannot be opened leaves the old file in use.
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    rig.writer.queue().reopen();
    write(204);
    wait_for(|| rig.count("filesystem.reopen_failed") == 1);
    rig.finish();
    assert_eq!(fs::read_to_string(&moved).unwrap(), "201\n202\n");
}

#[test]
fn a_log_that_cannot_be_opened_is_an_error_with_its_path() {
    let rig = Rig::new(4);
    let configured = configured(&json!([text_log(Path::new("/nonexistent/dir/log"), "x")]));
    let error = AccessLogs::open(&rig.writer.queue(), &configured).unwrap_err();
    assert!(error.to_string().starts_with("cannot open log file /nonexistent/dir/log: "));
}

#[test]
fn files_are_closed_with_their_last_user() {
    let directory = Directory::new();
    let path = directory.file("log");
    let rig = Rig::new(4);
    let queue = rig.writer.queue();
    let open = || queue.open(&Target::File(path.as_path().into()));
    let (one, two) = (open().unwrap(), open().unwrap());
    assert!(one.is(&two), "one path is one open file");
    let descriptors = || {
        let links = fs::read_dir("/proc/self/fd").unwrap();
        links
            .filter(|link| fs::read_link(link.as_ref().unwrap().path()).is_ok_and(|to| to == path))
            .count()
    };
    assert_eq!(descriptors(), 1);
    drop((one, two));
    assert_eq!(descriptors(), 0);
    rig.finish();
}

#[test]
fn a_write_that_fails_inside_a_line_is_mended_by_the_next() {
    let directory = Directory::new();
    let path = directory.file("log");
    let rig = Rig::new(4);
    let queue = rig.writer.queue();
    let sink = queue.open(&Target::File(path.as_path().into())).unwrap();
    sink.pretend_mid_line();
    let batch = Batch { sink, bytes: b"whole\n".to_vec(), lines: 1, by_timer: false };
    queue.send(batch).unwrap();
    rig.finish();
    assert_eq!(fs::read_to_string(&path).unwrap(), "\nwhole\n");
}

#[test]
fn the_end_of_a_stuck_writer_is_not_waited_for() {
    let directory = Directory::new();
    let path = directory.file("pipe");
    let c_path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    assert_eq!(unsafe { libc::mkfifo(c_path.as_ptr(), 0o600) }, 0);
    let _reader =
        fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
    let rig = Rig::new(4);
    let queue = rig.writer.queue();
    let sink = queue.open(&Target::File(path.as_path().into())).unwrap();
    // More than a pipe holds.
    let bytes = vec![b'\n'; 1 << 20];
    queue.send(Batch { sink, bytes, lines: 1 << 20, by_timer: false }).unwrap();
    assert!(!rig.writer.shutdown(Duration::from_millis(50)));
}

/// Counts what each thread allocates.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is ending has no counter any more.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller of this function promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller of this function promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn the_steady_state_allocates_nothing() {
    let directory = Directory::new();
    let rig = Rig::new(16);
    let json = json!({"json_format": {
        "time": "%START_TIME%", "raw": "%REQ(X-RAW)%", "mix": "%PROTOCOL% %RESPONSE_CODE%",
        "id": "%UNIQUE_ID%", "remote": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
    }});
    let logs = rig.open(&json!([
        file_log(&directory.file("text"), None),
        file_log(&directory.file("json"), Some(json)),
    ]));
    let mut logger = rig.logger(0);
    let mut keep = Capture::default();
    let mut record = record();
    let mut request = || {
        keep.clear();
        for (slot, name) in logs.captures().request_headers() {
            if let Some((_, value)) = REQUEST.iter().find(|(known, _)| *known == name) {
                keep.put(slot, value);
            }
        }
        record.start_wall_ns += 777_777;
        logger.log(&logs, &record, &keep);
    };
    // As many buffers as two logs ever have in use, and one request to size the rest.
    let seed = Target::File(directory.file("seed").into());
    let sink = rig.writer.queue().open(&seed).unwrap();
    for _ in 0..4 {
        let bytes = Vec::with_capacity(BATCH_BYTES + 4096);
        rig.writer
            .queue()
            .send(Batch { sink: sink.clone(), bytes, lines: 0, by_timer: false })
            .unwrap();
    }
    wait_for(|| rig.writer.queue().spare_count() == 4);
    request();
    let before = ALLOCATIONS.get();
    for _ in 0..1000 {
        // Two are with the logger; the writer gives back what was sent.
        while rig.writer.queue().spare_count() < 2 {
            std::thread::yield_now();
        }
        request();
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    rig.finish();
}

#[test]
fn a_warm_logger_keeps_using_the_same_buffers() {
    let directory = Directory::new();
    let rig = Rig::new(4);
    let logs = rig.open(&json!([file_log(&directory.file("log"), None)]));
    let mut logger = rig.logger(0);
    let mut keep = capture(&logs);
    for round in 0..3 {
        keep.clear();
        for (slot, _) in logs.captures().request_headers() {
            keep.put(slot, b"value");
        }
        logger.log(&logs, &record(), &keep);
        logger.flush_all();
        // The writer gives the one buffer back, and the logger takes it again.
        wait_for(|| rig.writer.queue().spare_count() == 1);
        assert_eq!(rig.count("access_log.lines"), round + 1);
    }
    rig.finish();
}

/// Waits until `done`, for things that another thread does soon.
fn wait_for(done: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(std::time::Instant::now() < deadline, "it never happened");
        std::thread::yield_now();
    }
}
