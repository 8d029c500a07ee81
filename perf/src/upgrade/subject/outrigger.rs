//! Outrigger: generations find each other by a socket.

use std::{path::PathBuf, time::Duration};

use super::{Setup, Subject};
use crate::{
    target::{
        Target,
        config::Launch,
        server::{Scratch, Server, ServerError},
    },
    upgrade::{SERVE_TIME, UpgradeError, config, io_error},
};

pub(super) struct Outrigger {
    setup: Setup,
    /// The newest last.
    processes: Vec<Server>,
    started: usize,
}

impl Outrigger {
    pub(super) fn start(setup: Setup) -> Result<Self, UpgradeError> {
        let mut started = Self { setup, processes: Vec::new(), started: 0 };
        started.begin()?;
        let begun = std::time::Instant::now();
        while !started.serves()? {
            if begun.elapsed() > SERVE_TIME {
                let words = started.words();
                let target = Target::Outrigger;
                return Err(UpgradeError::Hangs { target, number: 0, waited: SERVE_TIME, words });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(started)
    }

    /// Programs take turns.
    fn program(&self) -> &PathBuf {
        let next = self.setup.next.as_ref().filter(|_| self.started % 2 == 1);
        next.unwrap_or(&self.setup.program)
    }
}

impl Subject for Outrigger {
    fn begin(&mut self) -> Result<(), UpgradeError> {
        let directory = self.setup.scratch.path();
        let path = directory.join("outrigger.yaml");
        let socket = directory.join("upgrade");
        let drain = self.setup.drain.as_secs().to_string();
        let arguments = ["-c".into(), path.clone().into(), "--drain-time-s".into(), drain.into()];
        let text = config::outrigger(&self.setup, &socket).to_string();
        let launch = Launch { arguments: arguments.into(), files: vec![(path, text)] };
        let own = Scratch::new().map_err(io_error("making a temporary directory"))?;
        let server = Server::spawn("outrigger", self.program(), &launch, own, None)?;
        self.started += 1;
        self.processes.push(server);
        Ok(())
    }

    fn serves(&mut self) -> Result<bool, UpgradeError> {
        let Some(newest) = self.processes.last_mut() else { return Ok(false) };
        newest.check()?;
        Ok(newest.said("stderr").contains("[main] serving"))
    }

    fn left(&mut self) -> usize {
        let newest = self.processes.pop();
        self.processes.retain_mut(|process| match process.check() {
            Ok(()) => true,
            Err(ServerError::Ended { status, words, .. }) if status != "exit status: 0" => {
                eprintln!("outrigger: an old process ended with {status}: {words}");
                false
            }
            Err(_) => false,
        });
        let left = self.processes.len();
        self.processes.extend(newest);
        left
    }

    fn pids(&self) -> Vec<u32> {
        self.processes.iter().filter_map(|process| process.pids().ok()).flatten().collect()
    }

    fn words(&self) -> String {
        self.processes.last().map(|newest| newest.said("stderr")).unwrap_or_default()
    }
}
