//! The demonstration that runs when there are no arguments: its origin and what it prints.
//!
//! The proxy in front is an ordinary bootstrap ([`outrigger_xds::bootstrap::demo`]). The origin is a
//! small HTTP/1.1 server on the control thread, with pages to try a proxy on.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use outrigger_xds::bootstrap::{DEMO_ADMIN, DEMO_LISTEN};
use tokio::sync::Semaphore;

/// What the demonstration prints when it serves.
pub fn banner() -> String {
    format!(
        "Outrigger demonstration: a proxy on {DEMO_LISTEN} in front of a built-in origin.\n\
         \n\
         Try:\n\
         \x20 curl -i http://{DEMO_LISTEN}/            a page through the proxy\n\
         \x20 curl -i http://{DEMO_LISTEN}/headers     what the origin gets to see\n\
         \x20 curl -i http://{DEMO_LISTEN}/status/503  an answer with that status\n\
         \x20 curl -i http://{DEMO_LISTEN}/delay/250   an answer after so many milliseconds\n\
         \x20 curl http://{DEMO_ADMIN}/stats?usedonly  what was counted\n\
         \x20 curl http://{DEMO_ADMIN}/help            the admin interface\n\
         \n\
         `outrigger --help` tells how to serve your own configuration. Stop with Ctrl-C.\n"
    )
}

/// Binds the demonstration's origin to a free port of the loopback interface.
pub fn bind_origin() -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
}

/// The demonstration's origin.
#[derive(Debug)]
pub struct Origin {
    listener: tokio::net::TcpListener,
}

impl Origin {
    /// An origin behind `listener`. Needs a tokio runtime.
    pub fn new(listener: TcpListener) -> io::Result<Origin> {
        listener.set_nonblocking(true)?;
        Ok(Origin { listener: tokio::net::TcpListener::from_std(listener)? })
    }

    /// Serves for ever.
    pub async fn run(self) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            // The semaphore is never closed.
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let Ok((stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            tokio::spawn(async move {
                let served = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), service_fn(respond))
                    .await;
                if let Err(error) = served {
                    log::debug!("origin connection ended: {error}");
                }
                drop(slot);
            });
        }
    }
}

async fn respond(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path();
    let (status, body) = match path.trim_matches('/').split_once('/') {
        Some(("status", code)) => match code.parse().ok().and_then(status_of) {
            Some(status) => (status, format!("{status}\n")),
            None => (StatusCode::BAD_REQUEST, "use /status/200 to /status/599\n".to_owned()),
        },
        Some(("delay", ms)) => match ms.parse().map(Duration::from_millis) {
            Ok(delay) if delay <= DELAY_MAX => {
                tokio::time::sleep(delay).await;
                (StatusCode::OK, format!("waited {} ms\n", delay.as_millis()))
            }
            _ => (StatusCode::BAD_REQUEST, "use /delay/0 to /delay/10000\n".to_owned()),
        },
        _ if path == "/headers" => (StatusCode::OK, seen(&request)),
        _ if path == "/" => (StatusCode::OK, "Hello from behind Outrigger.\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, format!("no {path} here\n")),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    Ok(response)
}

/// Statuses below 200 are not final answers.
fn status_of(code: u16) -> Option<StatusCode> {
    StatusCode::from_u16(code).ok().filter(|_| (200..600).contains(&code))
}

fn seen(request: &Request<Incoming>) -> String {
    let mut text = format!("{} {} {:?}\n", request.method(), request.uri(), request.version());
    for (name, value) in request.headers() {
        text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    text
}

/// Connections served at once: far more than trying out needs.
const CONNECTIONS_MAX: usize = 1024;

/// The longest delay that can be asked for.
const DELAY_MAX: Duration = Duration::from_secs(10);

/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn the_banner_names_the_demonstrations_addresses() {
        let banner = banner();
        assert!(banner.contains("http://127.0.0.1:10000/ "));
        assert!(banner.contains("http://127.0.0.1:9901/stats"));
    }

    #[test]
    fn the_origin_has_pages_to_try() {
        let listener = bind_origin().unwrap();
        let address = listener.local_addr().unwrap();
        // As on the control thread; it ends with the process of the tests.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async { Origin::new(listener).unwrap().run().await });
        });
        let get = |path: &str| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nhost: h\r\nx-a: b\r\nconnection: close\r\n\r\n")
                .unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            (head.split(' ').nth(1).unwrap().parse::<u16>().unwrap(), body.to_owned())
        };
        assert_eq!(get("/"), (200, "Hello from behind Outrigger.\n".to_owned()));
        let (status, seen) = get("/headers");
        assert_eq!(status, 200);
        assert!(seen.starts_with("GET /headers HTTP/1.1\n") && seen.contains("x-a: b\n"), "{seen}");
        assert_eq!(get("/status/503").0, 503);
        assert_eq!(get("/status/101").0, 400);
        assert_eq!(get("/status/x").0, 400);
        assert_eq!(get("/delay/1"), (200, "waited 1 ms\n".to_owned()));
        assert_eq!(get("/delay/10001").0, 400);
        assert_eq!(get("/elsewhere").0, 404);
    }
}
