//! Envoy: epochs find each other by a base id.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::{Value, json};

use super::{Setup, Subject, free_address, generations::Generations, wait_until_serving};
use crate::{
    target::{Target, config::Launch},
    upgrade::{UpgradeError, config},
};

pub(super) struct Envoy {
    setup: Setup,
    admin: SocketAddr,
    base_id: u32,
    processes: Generations,
}

impl Envoy {
    pub(super) fn start(setup: Setup) -> Result<Self, UpgradeError> {
        // It names what epochs share on this host: not that of another Envoy here.
        let base_id = rand::random_range(1000..30_000);
        let admin = free_address()?;
        let mut envoy = Self { setup, admin, base_id, processes: Generations::default() };
        envoy.begin()?;
        wait_until_serving(Target::Envoy, &mut envoy)?;
        Ok(envoy)
    }

    fn server_info(&self) -> Option<Value> {
        let mut stream = TcpStream::connect_timeout(&self.admin, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream
            .write_all(b"GET /server_info HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        // The body may be in chunks; the text in braces is one whatever there is.
        let begin = answer.find('{')?;
        let end = answer.rfind('}')?;
        serde_json::from_str(answer.get(begin..=end)?).ok()
    }
}

impl Subject for Envoy {
    fn begin(&mut self) -> Result<(), UpgradeError> {
        let path = self.setup.scratch.path().join("envoy.json");
        let mut bootstrap = config::envoy(&self.setup);
        bootstrap["admin"] = json!({"address": config::address(self.admin)});
        let drain_s = self.setup.drain.as_secs();
        let numbers = [
            ("--concurrency", u64::from(self.setup.shards)),
            ("--base-id", self.base_id.into()),
            ("--restart-epoch", self.processes.started() as u64),
            ("--drain-time-s", drain_s),
            // It must be the longer one.
            ("--parent-shutdown-time-s", drain_s + 1),
        ];
        let mut arguments = Vec::new();
        for (name, number) in numbers {
            arguments.extend([name.into(), number.to_string().into()]);
        }
        arguments.extend(["--log-level", "error", "-c"].map(Into::into));
        arguments.push(path.clone().into());
        let launch = Launch { arguments, files: vec![(path, bootstrap.to_string())] };
        self.processes.spawn("envoy", &self.setup.program, &launch)
    }

    fn serves(&mut self) -> Result<bool, UpgradeError> {
        self.processes.check_newest()?;
        let epoch = self.processes.started() as u64 - 1;
        Ok(self.server_info().is_some_and(|info| {
            // A number that is 0 is left out.
            let found = info["command_line_options"]["restart_epoch"].as_u64().unwrap_or(0);
            info["state"] == "LIVE" && found == epoch
        }))
    }

    fn left(&mut self) -> usize {
        self.processes.left()
    }

    fn pids(&self) -> Vec<u32> {
        self.processes.pids()
    }

    fn words(&self) -> String {
        self.processes.words()
    }

    fn longest_drain(&self, told: Duration) -> Duration {
        told + Duration::from_secs(1)
    }
}

/// For an admin interface.
const PATIENCE: Duration = Duration::from_secs(1);
