//! A proxy process, from its start to its end.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use serde_json::{Value, json};

use crate::client::Client;
use crate::config::Config;
use crate::frames::Frames;
use crate::http::{Response, Wire};
use crate::http2::Http2Client;
use crate::net::Address;
use crate::process::{Limits, Process, Scratch};
use crate::{PATIENCE, binary, eventually};

/// How a proxy is to be started.
#[derive(Debug)]
pub struct Launch {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    limits: Limits,
    directory: Scratch,
}

impl Launch {
    /// Outrigger with a bootstrap, on one shard; Envoy where that is what is tested.
    #[must_use]
    pub fn outrigger(config: &Config) -> Launch {
        if binary::is_envoy_tested() {
            let config = config.clone().with(json!({"engine": null}));
            return Launch::envoy_text(&config.json().to_string());
        }
        Launch::outrigger_text(&serde_json::to_string_pretty(config.json()).unwrap())
    }

    /// Outrigger with the text of a bootstrap, on one shard.
    #[must_use]
    pub fn outrigger_text(bootstrap: &str) -> Launch {
        Launch::with_text("outrigger", binary::outrigger(), bootstrap).shards(1)
    }

    /// Envoy with the text of a bootstrap, on one worker.
    #[must_use]
    pub fn envoy_text(bootstrap: &str) -> Launch {
        Launch::with_text("envoy", binary::envoy(), bootstrap).shards(1).arguments(&[
            "--disable-hot-restart",
            "--log-level",
            "warning",
        ])
    }

    /// Outrigger with nothing but what is added.
    #[must_use]
    pub fn bare() -> Launch {
        Launch {
            name: "outrigger",
            program: binary::outrigger().to_owned(),
            arguments: Vec::new(),
            limits: Limits::default(),
            directory: Scratch::new(),
        }
    }

    /// More arguments.
    #[must_use]
    pub fn arguments(mut self, more: &[&str]) -> Launch {
        self.arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// So many shards.
    #[must_use]
    pub fn shards(mut self, count: u32) -> Launch {
        if let Some(at) = self.arguments.iter().position(|argument| argument == "--concurrency") {
            self.arguments.drain(at..at + 2);
        }
        self.arguments(&["--concurrency", &count.to_string()])
    }

    /// So many file descriptors at most.
    #[must_use]
    pub fn files(mut self, count: u64) -> Launch {
        self.limits.files = Some(count);
        self
    }

    /// Started by another program, which gets it as its last arguments.
    #[must_use]
    pub fn under(mut self, program: &str, arguments: &[&str]) -> Launch {
        let own = std::mem::replace(&mut self.program, program.into());
        let mut all: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        all.push(own.display().to_string());
        all.append(&mut self.arguments);
        self.arguments = all;
        self
    }

    /// Where its files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts it, and waits until it is ready.
    ///
    /// # Panics
    /// If it does not become ready; with what it said.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> Proxy {
        let mut proxy = self.begin();
        eventually("/ready", || {
            proxy.assert_runs();
            proxy.is_ready().then_some(())
        });
        proxy.listeners = proxy.current_listeners();
        proxy
    }

    /// Starts it, and waits for its admin interface only.
    ///
    /// # Panics
    /// If that does not come; with what it said.
    #[must_use]
    #[track_caller]
    pub fn begin(self) -> Proxy {
        let admin_file = self.directory.file("admin-address");
        let mut launch = self;
        launch = launch.arguments(&["--admin-address-path", &admin_file.display().to_string()]);
        let name = launch.name;
        let process = launch.spawn();
        let mut proxy = Proxy {
            name,
            process: process.process,
            _directory: process.directory,
            admin: Address::any(),
            listeners: Vec::new(),
        };
        proxy.admin = eventually("the admin interface's address", || {
            proxy.assert_runs();
            let text = fs::read_to_string(&admin_file).ok()?;
            text.trim().parse().ok().map(Address::Tcp)
        });
        proxy
    }

    /// Starts it, and leaves the rest to the caller.
    ///
    /// # Panics
    /// If the program is not there.
    #[must_use]
    #[track_caller]
    pub fn spawn(self) -> Started {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).current_dir(self.directory.path());
        match Process::spawn(command, self.limits) {
            Ok(process) => Started { process, directory: self.directory },
            Err(error) => panic!("{}: {error}", self.program.display()),
        }
    }

    fn with_text(name: &'static str, program: &Path, bootstrap: &str) -> Launch {
        let directory = Scratch::new();
        let file = directory.file("bootstrap.yaml");
        fs::write(&file, bootstrap).unwrap();
        let arguments = vec!["-c".to_owned(), file.display().to_string()];
        let limits = Limits::default();
        Launch { name, program: program.to_owned(), arguments, limits, directory }
    }
}

/// A process of which nothing is known but that it was started.
#[derive(Debug)]
pub struct Started {
    /// The process.
    pub process: Process,
    /// Where its files are.
    pub directory: Scratch,
}

/// A proxy that serves.
#[derive(Debug)]
pub struct Proxy {
    name: &'static str,
    process: Process,
    _directory: Scratch,
    admin: Address,
    listeners: Vec<(String, Address)>,
}

impl Proxy {
    /// Outrigger with a bootstrap, on one shard.
    #[must_use]
    #[track_caller]
    pub fn start(config: &Config) -> Proxy {
        Launch::outrigger(config).start()
    }

    /// The first listener's address.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.listeners[0].1
    }

    /// Whether it says that it is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let Ok(mut client) = Client::try_connect(&self.admin) else { return false };
        let asked = client.try_send(ADMIN_REQUEST_READY);
        asked.is_ok() && client.try_response().is_ok_and(|response| response.status == 200)
    }

    /// The address that a listener has now, if there is one of that name.
    #[must_use]
    #[track_caller]
    pub fn current_listener(&self, name: &str) -> Option<Address> {
        let found = self.current_listeners().into_iter().find(|(known, _)| known == name);
        found.map(|(_, address)| address)
    }

    /// Every listener that there is now: its name and address.
    #[must_use]
    #[track_caller]
    pub fn current_listeners(&self) -> Vec<(String, Address)> {
        let json: Value =
            serde_json::from_str(&self.admin_get("/listeners?format=json").text()).unwrap();
        // Without any, Envoy leaves out the list.
        let statuses = json["listener_statuses"].as_array().into_iter().flatten();
        statuses
            .map(|status| {
                let name = status["name"].as_str().unwrap().to_owned();
                (name, Address::from_json(&status["local_address"]).unwrap())
            })
            .collect()
    }

    /// The address that a listener had when all was ready.
    ///
    /// # Panics
    /// If there is none of that name.
    #[must_use]
    #[track_caller]
    pub fn listener(&self, name: &str) -> &Address {
        let found = self.listeners.iter().find(|(known, _)| known == name);
        &found.unwrap_or_else(|| panic!("no listener {name}: {:?}", self.listeners)).1
    }

    /// The admin interface's address.
    #[must_use]
    pub fn admin(&self) -> &Address {
        &self.admin
    }

    /// Connects to the first listener.
    #[must_use]
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect(self.address())
    }

    /// Connects to the first listener with HTTP/2.
    #[must_use]
    #[track_caller]
    pub fn http2(&self) -> Http2Client {
        Http2Client::connect(self.address())
    }

    /// Connects to the first listener with HTTP/2 frame by frame, and these settings.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    #[track_caller]
    pub fn frames(&self, settings: &[(u16, u32)]) -> Frames<Wire> {
        Frames::connect(self.client().into_wire(), settings).unwrap()
    }

    /// Connects to the first listener with TLS, asking for that server name.
    #[must_use]
    #[track_caller]
    pub fn secure(&self, config: &Arc<ClientConfig>, server_name: &str) -> Client {
        Client::secure(self.address(), config, server_name)
    }

    /// The URL of a path at the first listener.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    /// The process.
    #[must_use]
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// GET at the admin interface.
    #[must_use]
    #[track_caller]
    pub fn admin_get(&self, path: &str) -> Response {
        Client::connect(&self.admin).get(path)
    }

    /// POST at the admin interface.
    #[track_caller]
    pub fn admin_post(&self, path: &str) -> Response {
        Client::connect(&self.admin).post(path, "")
    }

    /// Every counter and gauge.
    #[must_use]
    #[track_caller]
    pub fn stats(&self) -> BTreeMap<String, u64> {
        let json: Value =
            serde_json::from_str(&self.admin_get("/stats?format=json").text()).unwrap();
        let entries = json["stats"].as_array().unwrap().iter();
        entries
            .filter_map(|stat| Some((stat["name"].as_str()?.to_owned(), stat["value"].as_u64()?)))
            .collect()
    }

    /// A counter or gauge.
    ///
    /// # Panics
    /// If there is none of that name.
    #[must_use]
    #[track_caller]
    pub fn stat(&self, name: &str) -> u64 {
        let stats = self.stats();
        *stats.get(name).unwrap_or_else(|| panic!("no statistic {name} in {:?}", stats.keys()))
    }

    /// Waits until a counter or gauge has that value.
    ///
    /// # Panics
    /// If it does not get it in time; with the value that it has.
    #[track_caller]
    pub fn expect_stat(&self, name: &str, value: u64) {
        self.await_stat(name, |now| now == value);
    }

    /// Waits until a counter or gauge is as `condition` wants it, and returns it.
    ///
    /// # Panics
    /// If it does not get so in time; with the value that it has.
    #[track_caller]
    pub fn await_stat(&self, name: &str, condition: impl Fn(u64) -> bool) -> u64 {
        let start = std::time::Instant::now();
        loop {
            // Some appear with the first event that they count.
            let now = self.stats().get(name).copied();
            if let Some(now) = now.filter(|now| condition(*now)) {
                return now;
            }
            assert!(start.elapsed() < PATIENCE, "{name} stays at {now:?}");
            std::thread::sleep(STATS_GLANCE);
        }
    }

    /// Waits until nothing is going on: no request and no downstream connection but idle ones.
    #[track_caller]
    pub fn expect_no_active_requests(&self) {
        self.expect_stat("http.main.downstream_rq_active", 0);
        self.expect_stat("cluster.origin.upstream_rq_active", 0);
    }

    /// SIGTERM; it must exit with 0, and have said nothing of a panic.
    ///
    /// # Panics
    /// If it does otherwise.
    #[track_caller]
    pub fn stop(mut self) {
        self.process.signal(libc::SIGTERM);
        let status = self.wait_exit();
        assert_eq!((status.code(), status.signal()), (Some(0), None), "{status}");
        let words = self.process.stderr();
        assert!(!words.contains("panicked"), "{words}");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        self.process.wait(PATIENCE).unwrap_or_else(|| panic!("{} does not end", self.name))
    }

    #[track_caller]
    fn assert_runs(&mut self) {
        if let Some(status) = self.process.wait(Duration::ZERO) {
            panic!("{} ended: {status}", self.name);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {} said:\n{}---", self.name, self.process.stderr());
        }
    }
}

const ADMIN_REQUEST_READY: &str = "GET /ready HTTP/1.1\r\nHost: admin\r\n\r\n";

/// Pause between two looks at statistics.
const STATS_GLANCE: Duration = Duration::from_millis(5);
