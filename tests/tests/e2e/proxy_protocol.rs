//! A proxy in front that says who the client is (contract section 2, `proxy_protocol`).

use outrigger_tests::config::{PROXY_PROTOCOL, access_log};
use outrigger_tests::process::Scratch;
use outrigger_tests::{Config, Origin, Proxy};
use serde_json::{Value, json};

/// A proxy that is told who its clients are, and writes down who that was.
fn start(origin: &Origin, log: &Scratch, filter: Value) -> Proxy {
    let mut typed = filter;
    typed["@type"] = PROXY_PROTOCOL.into();
    let format = "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT% \
                  %DOWNSTREAM_LOCAL_ADDRESS%\n";
    let config = Config::to(origin.address())
        .listener(json!({"listener_filters": [{"name": "proxy", "typed_config": typed}]}))
        .http(json!({"access_log": access_log(&log.file("log"), format)}));
    Proxy::start(&config)
}

/// A request behind a header, and what came of it.
fn ask(proxy: &Proxy, header: &[u8], bytewise: bool) -> u16 {
    let mut client = proxy.client();
    let bytes = [header, b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"].concat();
    if bytewise {
        client.send_bytewise(bytes)
    } else {
        client.send(bytes)
    };
    client.response().status
}

/// A header of version 2 for TCP over IPv4, with an extension.
fn version_2(command: u8) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([command, 0x11, 0, 17]);
    header.extend([192, 0, 2, 7, 192, 0, 2, 8, 0x30, 0x39, 0x01, 0xbb]);
    header.extend([0x04, 0, 2, 0, 0]);
    header
}

#[test]
fn section_2_the_header_says_who_the_client_is() {
    let origin = Origin::ok();
    let log = Scratch::new();
    let proxy = start(&origin, &log, json!({}));
    for bytewise in [false, true] {
        let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 12345 443\r\n";
        assert_eq!(ask(&proxy, line, bytewise), 200);
        assert_eq!(ask(&proxy, b"PROXY TCP6 fd00::1 fd00::2 1 2\r\n", bytewise), 200);
        assert_eq!(ask(&proxy, &version_2(0x21), bytewise), 200);
    }
    let own = proxy.address().clone();
    // These speak for the proxy in front itself.
    assert_eq!(ask(&proxy, b"PROXY UNKNOWN\r\n", false), 200);
    assert_eq!(ask(&proxy, &version_2(0x20), false), 200);
    proxy.stop();
    let text = std::fs::read_to_string(log.file("log")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let expected = [
        "192.0.2.1:12345 127.0.0.1 192.0.2.2:443",
        "[fd00::1]:1 127.0.0.1 [fd00::2]:2",
        "192.0.2.7:12345 127.0.0.1 192.0.2.8:443",
    ];
    assert_eq!(lines[..3], expected);
    assert_eq!(lines[3..6], expected);
    for line in &lines[6..] {
        let here = format!(" 127.0.0.1 {own}");
        assert!(line.starts_with("127.0.0.1:") && line.ends_with(&here), "{line}");
    }
}

#[test]
fn section_2_without_a_header_that_is_allowed_there_is_no_service() {
    let origin = Origin::ok();
    let log = Scratch::new();
    let proxy = start(&origin, &log, json!({"disallowed_versions": ["V1"]}));
    for header in [
        &b""[..],
        b"PROXY TCP4 192.0.2.1 192.0.2.2 12345 443\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0",
    ] {
        let mut client = proxy.client();
        let _ = client.try_send([header, b"GET / HTTP/1.1\r\nhost: test\r\n\r\n"].concat());
        client.expect_close();
    }
    assert_eq!(ask(&proxy, &version_2(0x21), false), 200);
    assert_eq!(origin.log().requests.len(), 1);
    proxy.stop();

    let proxy = start(&origin, &log, json!({"allow_requests_without_proxy_protocol": true}));
    assert_eq!(ask(&proxy, b"", true), 200);
    assert_eq!(ask(&proxy, &version_2(0x21), true), 200);
    // What begins as a header has to be one.
    let mut client = proxy.client();
    let _ = client.try_send("PROXY nonsense\r\nGET / HTTP/1.1\r\nhost: test\r\n\r\n");
    client.expect_close();
    proxy.stop();
}
