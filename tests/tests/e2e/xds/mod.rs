//! Configuration from management servers: real ones that are not ours, over real connections.
//!
//! Each needs a program that `.ci/run` installs. `OUTRIGGER_TEST_PROXY=envoy` runs them against Envoy,
//! except where a test says that we differ on purpose.

mod differential;

use outrigger_tests::origin::OK;
use outrigger_tests::{Address, Client, Origin, Proxy, eventually};

/// An origin that says its name.
fn named_origin(name: &'static str) -> Origin {
    Origin::start(move |peer| {
        loop {
            let request = peer.request()?;
            let host = request.headers.get("host").unwrap_or_default().to_owned();
            let mut body = format!("{name} {} {} {host}", request.method, request.target);
            for (field, value) in request.headers.iter() {
                if field.starts_with("x-added") {
                    body += &format!(" {field}={value}");
                }
            }
            if !request.body.is_empty() {
                body += &format!(" [{}]", request.body.escape_ascii());
            }
            let length = format!("x-origin: {name}\r\ncontent-length: {}", body.len());
            let head = OK.replace("content-length: 2", &length);
            let head = head.strip_suffix("ok").unwrap_or_default();
            peer.send(if request.method == "HEAD" {
                head.to_owned()
            } else {
                format!("{head}{body}")
            })?;
        }
    })
}

/// The address of a listener, once there is one of that name.
#[track_caller]
fn await_listener(proxy: &Proxy, name: &str) -> Address {
    eventually(&format!("listener {name}"), || proxy.current_listener(name))
}

/// Waits until GET of a target is answered by that origin.
#[track_caller]
fn await_origin(proxy: &Proxy, listener: &str, target: &str, origin: &str) {
    eventually(&format!("{target} from {origin}"), || {
        let address = proxy.current_listener(listener)?;
        let mut client = Client::try_connect(&address).ok()?;
        client.try_send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")).ok()?;
        let response = client.try_response().ok()?;
        (response.header("x-origin") == Some(origin)).then_some(())
    });
}
