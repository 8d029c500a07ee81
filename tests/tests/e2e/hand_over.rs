//! One process takes over from another, under load and with faults.

mod chain;
mod listeners;
mod namespaces;
mod operator;
mod services;

use std::sync::Mutex;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use outrigger_tests::load::{FastOrigin, Load};
use outrigger_tests::origin::OK;
use outrigger_tests::process::Scratch;
use outrigger_tests::tls::{Authority, ClientOptions, Subject};
use outrigger_tests::{Address, Client, Config, Launch, Origin, PATIENCE, Proxy, eventually};
use serde_json::{Value, json};

pub(crate) fn config(origin: &Address, scratch: &Scratch) -> Config {
    upgradable(Config::to(origin), scratch)
}

/// Whose processes take over from each other.
pub(crate) fn upgradable(config: Config, scratch: &Scratch) -> Config {
    config.engine(json!({"upgrade": {"socket": scratch.file("control")}}))
}

/// Starts a process that takes over, and waits until nobody but it accepts.
#[track_caller]
pub(crate) fn succeed(config: &Config, shards: u32) -> Proxy {
    let mut next = Launch::outrigger(config).shards(shards).begin();
    eventually("a successor that serves alone", || {
        let said = next.process().stderr();
        assert!(next.process().ended().is_none(), "{said}");
        let is_alone = said.contains("the predecessor accepts no more")
            || said.contains("the predecessor has ended");
        is_alone.then_some(())
    });
    next
}

#[track_caller]
pub(crate) fn expect_end(mut proxy: Proxy) {
    assert_eq!(proxy.wait_exit().code(), Some(0));
    let said = proxy.process().stderr();
    assert!(said.contains("handed over"), "{said}");
}

fn state(proxy: &Proxy) -> Value {
    let info: Value = serde_json::from_str(&proxy.admin_get("/server_info").text()).unwrap();
    info["state"].clone()
}

/// Answers `/slow` once it is told to, and everything else at once.
pub(crate) fn slow_origin() -> (Origin, Sender<()>) {
    let (release, released) = mpsc::channel();
    let released = Mutex::new(released);
    let origin = Origin::start(move |exchange| {
        loop {
            let request = exchange.request()?;
            if request.target == "/slow" {
                let _ = released.lock().unwrap().recv_timeout(PATIENCE);
            }
            exchange.send(OK)?;
        }
    });
    (origin, release)
}

/// A request for `/slow` that has come to its origin.
pub(crate) fn begin_slow(proxy: &Proxy, origin: &Origin) -> Client {
    begin_slow_behind(proxy, origin, 0)
}

/// The same behind so many other requests.
fn begin_slow_behind(proxy: &Proxy, origin: &Origin, others: usize) -> Client {
    let mut slow = proxy.client();
    slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    origin.wait_for("the slow request", |log| log.requests.len() == others + 1);
    slow
}

#[test]
fn successors_take_over_under_load_and_no_request_is_lost() {
    let scratch = Scratch::new();
    let origin = FastOrigin::start();
    let config = config(origin.address(), &scratch);
    let mut serving = Launch::outrigger(&config).shards(2).start();
    let address = serving.address().clone();
    let load = Load { connections: 32, requests: None }.start(&address);
    // With as many shards as before, with fewer, and with more.
    for shards in [2, 1, 2, 1, 2] {
        load.wait_for_more(1_000);
        let next = succeed(&config, shards);
        expect_end(std::mem::replace(&mut serving, next));
        load.wait_for_more(1_000);
        assert_eq!(state(&serving), "LIVE");
    }
    let outcome = load.stop();
    assert!(outcome.faults.is_empty(), "{outcome:?}");
    assert_eq!((outcome.refused, outcome.connected), (0, 32), "every client kept its connection");
    assert_eq!(outcome.statuses.keys().collect::<Vec<_>>(), [&200], "{outcome:?}");
    assert_eq!(outcome.statuses[&200], origin.requests());
    serving.stop();
}

#[test]
fn what_cannot_move_ends_where_it_began() {
    let scratch = Scratch::new();
    let (origin, release) = slow_origin();
    let identity = Authority::new("ours").issue(Subject::dns(&["proxy.test"]));
    let certificates = json!({"tls_certificates": [identity.to_json()]});
    let config = config(origin.address(), &scratch)
        .downstream_tls(json!({"common_tls_context": certificates}));
    let first = Launch::outrigger(&config).start();
    let address = first.address().clone();
    let tls = ClientOptions::default().build();
    let connect = || Client::secure(&address, &tls, "proxy.test");
    let mut idle = connect();
    assert_eq!(idle.get("/fast").status, 200);
    let mut slow = connect();
    slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    origin.wait_for("the slow request", |log| log.requests.len() == 2);
    let second = succeed(&config, 1);
    idle.expect_close();
    assert_eq!(connect().get("/fast").status, 200);
    release.send(()).unwrap();
    let response = slow.response();
    assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    expect_end(first);
    second.stop();
}

#[test]
fn a_successor_that_dies_leaves_its_predecessor_serving() {
    let scratch = Scratch::new();
    let (origin, release) = slow_origin();
    let config = config(origin.address(), &scratch);
    let first = Launch::outrigger(&config).start();
    let address = first.address().clone();
    let mut slow = begin_slow(&first, &origin);
    let mut second = succeed(&config, 1);
    second.process().signal(libc::SIGKILL);
    second.process().wait(PATIENCE).unwrap();
    // Whoever comes now is accepted by the first again, which lives as before.
    assert_eq!(Client::connect(&address).get("/fast").status, 200);
    release.send(()).unwrap();
    assert_eq!(slow.response().status, 200);
    first.expect_stat("server.state", 0);
    // And another one can take over.
    let third = succeed(&config, 1);
    expect_end(first);
    assert_eq!(Client::connect(&address).get("/fast").status, 200);
    third.stop();
}

#[test]
fn a_successor_that_cannot_start_changes_nothing() {
    let scratch = Scratch::new();
    let origin = Origin::ok();
    let first = Launch::outrigger(&config(origin.address(), &scratch)).start();
    let mut client = first.client();
    assert_eq!(client.get("/").status, 200);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut bad = config(origin.address(), &scratch).json().clone();
    let address = &mut bad["static_resources"]["listeners"][0]["address"]["socket_address"];
    address["port_value"] = json!(port);
    let mut started = Launch::outrigger_text(&bad.to_string()).spawn();
    let status = started.process.wait(PATIENCE).unwrap();
    assert_eq!(status.code(), Some(1), "{}", started.process.stderr());
    assert!(started.process.stderr().contains("cannot bind"), "{}", started.process.stderr());
    // Not even a connection was closed.
    assert_eq!(client.get("/").status, 200);
    first.stop();
}

#[test]
fn processes_that_stand_still_together_do_not_give_each_other_up() {
    let scratch = Scratch::new();
    let (origin, release) = slow_origin();
    let config = config(origin.address(), &scratch);
    let first = Launch::outrigger(&config).start();
    let mut slow = begin_slow(&first, &origin);
    let second = succeed(&config, 1);
    let mut both = [first, second];
    for signal in [libc::SIGSTOP, libc::SIGCONT] {
        for process in &mut both {
            process.process().signal(signal);
        }
        // As on a machine that is paused: longer than either waits for a word.
        std::thread::sleep(LONGER_THAN_PATIENCE);
    }
    release.send(()).unwrap();
    assert_eq!(slow.response().status, 200);
    let [first, second] = both;
    expect_end(first);
    assert_eq!(slow.get("/fast").status, 200);
    second.stop();
}

/// Than a process is of the other's silence.
pub(crate) const LONGER_THAN_PATIENCE: Duration = Duration::from_millis(2_300);

#[test]
fn a_successor_that_hangs_gives_the_place_back() {
    let scratch = Scratch::new();
    let origin = Origin::ok();
    let config = config(origin.address(), &scratch);
    let mut first = Launch::outrigger(&config).arguments(&["--drain-time-s", "60"]).start();
    let address = first.address().clone();
    // Keeps the first one alive: an idle connection would be asked to go.
    let mut held = first.client();
    held.send("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n");
    origin.wait_for("the head", |log| log.accepted > 0);
    let mut second = succeed(&config, 1);
    second.process().signal(libc::SIGSTOP);
    let stat = format!("/proc/{}/stat", second.process().pid());
    eventually("a successor that stands still", || {
        std::fs::read_to_string(&stat).unwrap().contains(") T ").then_some(())
    });
    eventually("a predecessor that has given it up", || {
        first.process().stderr().contains("this process serves on").then_some(())
    });
    first.expect_stat("server.state", 0);
    assert_eq!(Client::connect(&address).get("/").status, 200);
    second.process().signal(libc::SIGCONT);
    // It reads that it was given up, and ends.
    assert!(second.process().wait(PATIENCE + Duration::from_secs(5)).is_some());
    held.send("x");
    assert_eq!(held.response().status, 200);
    first.stop();
}
