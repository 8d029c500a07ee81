//! From the first answer to the last: starting, draining, ending, and being stopped in between.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant};

use outrigger_tests::load::{FastOrigin, Load};
use outrigger_tests::origin::OK;
use outrigger_tests::process::{Limits, Process, Scratch};
use outrigger_tests::{Address, Client, Config, Launch, Origin, PATIENCE, Proxy, eventually};
use serde_json::json;

/// A server that is not ours, in a process of its own.
pub(crate) struct Program {
    process: Process,
    /// Where it listens.
    pub(crate) address: Address,
    _scratch: Scratch,
}

impl Program {
    /// nginx that answers every request with 200, in one process.
    pub(crate) fn nginx() -> Program {
        let scratch = Scratch::new();
        let directory = scratch.path().display().to_string();
        // nginx can't choose a port, but it listens on a Unix socket as well.
        let socket = scratch.file("origin");
        let text = format!(
            "daemon off; master_process off; pid {directory}/pid; error_log {directory}/error.log;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; keepalive_requests 1000000;\n\
             client_body_temp_path {directory}/a; proxy_temp_path {directory}/b;\n\
             fastcgi_temp_path {directory}/c; uwsgi_temp_path {directory}/d;\n\
             scgi_temp_path {directory}/e;\n\
             server {{ listen unix:{}; location / {{ return 200 ok; }} }} }}\n",
            socket.display()
        );
        let file = scratch.file("nginx.conf");
        fs::write(&file, text).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-c").arg(&file).arg("-p").arg(scratch.path());
        let mut process = Process::spawn(command, Limits::default())
            .expect("nginx is not installed: apt-get install nginx");
        let address = Address::Unix(socket);
        eventually("nginx", || {
            assert!(process.ended().is_none(), "{}", process.stderr());
            Client::try_connect(&address).ok()
        });
        Program { process, address, _scratch: scratch }
    }

    /// SIGKILL, and its end.
    pub(crate) fn kill(&mut self) {
        self.process.signal(libc::SIGKILL);
        self.process.wait(PATIENCE).unwrap();
    }
}

#[test]
fn an_idle_proxy_ends_at_once() {
    let origin = Origin::ok();
    let proxy = Proxy::start(&Config::to(origin.address()));
    let start = Instant::now();
    proxy.stop();
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[test]
fn an_idle_proxy_sleeps() {
    let origin = Origin::ok();
    let proxy = Proxy::start(&Config::to(origin.address()));
    // There are neither connections nor deadlines: nothing makes a shard turn.
    eventually("shards that rest", || {
        let turns = proxy.stat("shard.0.turns");
        (0..LOOKS_AT_REST).all(|_| proxy.stat("shard.0.turns") == turns).then_some(())
    });
    proxy.stop();
}

#[test]
fn sigint_is_as_good_as_sigterm() {
    let origin = Origin::ok();
    let mut proxy = Proxy::start(&Config::to(origin.address()));
    proxy.process().signal(libc::SIGINT);
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

/// An origin that answers when it is told to.
fn gated() -> (Origin, std::sync::mpsc::Sender<()>) {
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let origin = Origin::start(move |peer| {
        loop {
            peer.request()?;
            let _ = gate.lock().unwrap().recv();
            peer.send(OK)?;
        }
    });
    (origin, go)
}

#[test]
fn a_request_in_flight_is_answered_while_draining() {
    let (origin, go) = gated();
    let mut proxy = Launch::outrigger(&Config::to(origin.address()))
        .arguments(&["--drain-time-s", "20", "--drain-strategy", "immediate"])
        .start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    origin.nth_request(1);
    proxy.process().signal(libc::SIGTERM);
    // It no longer says that it is ready; it still says so.
    eventually("not ready", || (proxy.admin_get("/ready").status == 503).then_some(()));
    go.send(()).unwrap();
    let response = client.response();
    assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    client.expect_close();
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

#[test]
fn draining_ends_when_its_time_is_over() {
    let (origin, _go) = gated();
    let mut proxy = Launch::outrigger(&Config::to(origin.address()))
        .arguments(&["--drain-time-s", "1"])
        .start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    origin.nth_request(1);
    let start = Instant::now();
    proxy.process().signal(libc::SIGTERM);
    assert_eq!(proxy.wait_exit().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(client.wire().closed().is_ok());
}

#[test]
fn a_second_sigterm_ends_at_once() {
    let (origin, _go) = gated();
    let mut proxy = Launch::outrigger(&Config::to(origin.address()))
        .arguments(&["--drain-time-s", "600"])
        .start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    origin.nth_request(1);
    proxy.process().signal(libc::SIGTERM);
    eventually("draining", || (proxy.admin_get("/ready").status == 503).then_some(()));
    let start = Instant::now();
    proxy.process().signal(libc::SIGTERM);
    let status = proxy.wait_exit();
    assert!(status.code().is_some(), "by signal {:?}", status.signal());
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[test]
fn draining_under_load_loses_no_request() {
    let origin = FastOrigin::start();
    let mut proxy = Launch::outrigger(&Config::to(origin.address()))
        .shards(2)
        .arguments(&["--drain-time-s", "5"])
        .start();
    let load = Load { connections: 32, requests: None }.start(proxy.address());
    load.wait_for_more(2000);
    let start = Instant::now();
    proxy.process().signal(libc::SIGTERM);
    // Ends by itself, when nobody accepts any more.
    let outcome = load.finish();
    assert_eq!(proxy.wait_exit().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
    assert!(outcome.faults.is_empty(), "{outcome:?}");
    assert_eq!(outcome.statuses.keys().collect::<Vec<_>>(), [&200], "{outcome:?}");
    assert_eq!(outcome.statuses[&200], origin.requests());
}

#[test]
fn draining_ends_however_many_clients_rest() {
    let origin = Origin::ok();
    let mut proxy = Launch::outrigger(&Config::to(origin.address())).start();
    let mut resting: Vec<_> = (0..400).map(|_| proxy.client()).collect();
    for client in &mut resting {
        assert_eq!(client.get("/").status, 200);
    }
    proxy.process().signal(libc::SIGTERM);
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

#[test]
fn drain_listeners_drains_and_keeps_the_process() {
    let origin = Origin::ok();
    let proxy = Proxy::start(&Config::to(origin.address()));
    assert_eq!(proxy.admin_post("/drain_listeners").status, 200);
    eventually("the listener is closed", || Client::try_connect(proxy.address()).err().map(drop));
    assert_eq!(proxy.admin_get("/server_info").status, 200);
    proxy.stop();
}

/// `main` is for inbound traffic, `out` for outbound.
fn two_directions(origin: &Origin) -> Config {
    let config = Config::to(origin.address());
    let mut out = config.json()["static_resources"]["listeners"][0].clone();
    out["name"] = "out".into();
    out["traffic_direction"] = "OUTBOUND".into();
    config.listener(json!({"traffic_direction": "INBOUND"})).raw_listener(out)
}

fn draining(arguments: &[&str], path: &str) -> (Proxy, Origin) {
    let origin = Origin::ok();
    let proxy = Launch::outrigger(&two_directions(&origin)).arguments(arguments).start();
    assert_eq!(proxy.client().get("/").header("connection"), None);
    assert_eq!(proxy.admin_post(path).status, 200);
    (proxy, origin)
}

#[test]
fn sh_01_a_graceful_drain_accepts_until_its_time_is_over() {
    let (proxy, _origin) = draining(&["--drain-time-s", "2"], "/drain_listeners?graceful");
    let asked = Instant::now();
    // Asking again changes nothing (SH-03).
    assert_eq!(proxy.admin_post("/drain_listeners?graceful&skip_exit").status, 200);
    let response = eventually("the drain has begun", || {
        Some(proxy.client().get("/")).filter(|response| response.header("connection").is_some())
    });
    assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    assert_eq!(proxy.admin_get("/ready").text(), "DRAINING\n");
    for name in ["main", "out"] {
        let address = proxy.listener(name);
        eventually("the listener is closed", || Client::try_connect(address).err().map(drop));
    }
    assert!(asked.elapsed() > Duration::from_millis(1500), "{:?}", asked.elapsed());
    assert_eq!(proxy.admin_get("/server_info").status, 200);
    proxy.stop();
}

#[test]
fn sh_01_with_skip_exit_a_drain_goes_on() {
    let arguments = ["--drain-time-s", "1", "--drain-strategy", "immediate"];
    let (proxy, _origin) = draining(&arguments, "/drain_listeners?graceful&skip_exit");
    std::thread::sleep(Duration::from_millis(1500));
    for name in ["main", "out"] {
        let mut client = Client::connect(proxy.listener(name));
        assert_eq!(client.get("/").header("connection"), Some("close"), "{name}");
    }
    proxy.expect_stat("server.state", 1);
    proxy.stop();
}

#[test]
fn sh_01_a_connection_may_outlive_the_drain() {
    let (origin, release) = gated();
    let proxy = Launch::outrigger(&two_directions(&origin))
        .arguments(&["--drain-time-s", "1", "--drain-strategy", "immediate"])
        .start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    origin.nth_request(1);
    assert_eq!(proxy.admin_post("/drain_listeners?graceful").status, 200);
    eventually("the listener is closed", || Client::try_connect(proxy.address()).err().map(drop));
    std::thread::sleep(Duration::from_millis(300));
    release.send(()).unwrap();
    let response = client.response();
    assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    client.expect_close();
    proxy.stop();
}

#[test]
fn sh_02_a_drain_may_be_for_inbound_listeners_only() {
    let arguments = ["--drain-time-s", "1", "--drain-strategy", "immediate"];
    let (proxy, _origin) = draining(&arguments, "/drain_listeners?inboundonly&graceful");
    let closing = eventually("the drain has begun", || {
        Some(proxy.client().get("/")).filter(|response| response.header("connection").is_some())
    });
    assert_eq!(closing.header("connection"), Some("close"));
    let mut outbound = Client::connect(proxy.listener("out"));
    assert_eq!(outbound.get("/").header("connection"), None);
    eventually("the listener is closed", || Client::try_connect(proxy.address()).err().map(drop));
    assert_eq!(outbound.get("/").header("connection"), None);
    assert_eq!(Client::connect(proxy.listener("out")).get("/").status, 200);
    proxy.stop();
}

#[test]
fn sh_02_without_graceful_listeners_stop_at_once() {
    let (proxy, _origin) = draining(&[], "/drain_listeners?inboundonly");
    eventually("the listener is closed", || Client::try_connect(proxy.address()).err().map(drop));
    assert_eq!(Client::connect(proxy.listener("out")).get("/").header("connection"), None);
    assert_eq!(proxy.admin_post("/drain_listeners?skip_exit").status, 400);
    proxy.stop();
}

#[test]
fn quitquitquit_ends_the_process() {
    let origin = Origin::ok();
    let mut proxy = Proxy::start(&Config::to(origin.address()));
    assert_eq!(proxy.admin_post("/quitquitquit").status, 200);
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

#[test]
fn a_stopped_process_goes_on_where_it_was() {
    let origin = FastOrigin::start();
    let config = Config::to(origin.address()).engine(json!({"stall_ms": 50}));
    let mut proxy = Launch::outrigger(&config).shards(2).start();
    let load = Load { connections: 16, requests: None }.start(proxy.address());
    load.wait_for_more(1000);
    for _ in 0..3 {
        proxy.process().signal(libc::SIGSTOP);
        // The time of the stop is what is tested, so it is waited for.
        std::thread::sleep(Duration::from_millis(400));
        proxy.process().signal(libc::SIGCONT);
        load.wait_for_more(1000);
    }
    let outcome = load.stop();
    let total = outcome.statuses.values().sum();
    assert!(outcome.is_only(200, total), "{outcome:?}");
    proxy.stop();
}

#[test]
fn a_stalled_shard_is_seen_counted_and_recovers() {
    let origin = FastOrigin::start();
    let config = Config::to(origin.address()).engine(json!({"stall_ms": 50}));
    let mut proxy = Launch::outrigger(&config).shards(2).start();
    let load = Load { connections: 16, requests: None }.start(proxy.address());
    load.wait_for_more(1000);
    // One thread alone can be stopped by a tracer only: a debugger, for a moment. One that is parked
    // just then has nothing to do, and does not stall.
    let thread = shard_thread(proxy.process().pid());
    let stalls = || proxy.stat("shard.0.stalls") + proxy.stat("shard.1.stalls");
    eventually("a stall is counted", || {
        let _stopped = Stopped::attach(thread);
        let since = Instant::now();
        while since.elapsed() < ENOUGH_FOR_A_STALL {
            if stalls() > 0 {
                return Some(());
            }
        }
        None
    });
    load.wait_for_more(1000);
    let outcome = load.stop();
    let total = outcome.statuses.values().sum();
    assert!(outcome.is_only(200, total), "{outcome:?}");
    proxy.stop();
}

/// Ten times what counts as one here.
const ENOUGH_FOR_A_STALL: Duration = Duration::from_millis(500);

/// A thread of the process that runs a shard.
fn shard_thread(pid: u32) -> i32 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut names = Vec::new();
    for task in tasks.map(Result::unwrap) {
        let name = fs::read_to_string(task.path().join("comm")).unwrap();
        if name.starts_with("shard") {
            return task.file_name().to_str().unwrap().parse().unwrap();
        }
        names.push(name);
    }
    panic!("no thread of a shard among {names:?}");
}

/// A thread of another process that is held by ptrace until this is dropped.
struct Stopped(i32);

impl Stopped {
    fn attach(thread: i32) -> Stopped {
        // SAFETY: no memory of ours is passed; `waitpid` writes to no pointer.
        unsafe {
            let none = std::ptr::null_mut::<libc::c_void>();
            let seized = libc::ptrace(libc::PTRACE_SEIZE, thread, none, none);
            assert_eq!(seized, 0, "ptrace: {}", std::io::Error::last_os_error());
            assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, thread, none, none), 0);
            assert_eq!(libc::waitpid(thread, std::ptr::null_mut(), libc::__WALL), thread);
        }
        Stopped(thread)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: as above; the thread is stopped and traced by this one.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, none, none) };
    }
}

/// A shard that does not rest turns some thousand times meanwhile.
const LOOKS_AT_REST: usize = 20;
