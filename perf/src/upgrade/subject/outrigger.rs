//! Outrigger: generations find each other by a socket.

use std::path::PathBuf;

use super::{Setup, Subject, generations::Generations, wait_until_serving};
use crate::{
    target::{Target, config::Launch},
    upgrade::{UpgradeError, config},
};

pub(super) struct Outrigger {
    setup: Setup,
    processes: Generations,
}

impl Outrigger {
    pub(super) fn start(setup: Setup) -> Result<Self, UpgradeError> {
        let mut outrigger = Self { setup, processes: Generations::default() };
        outrigger.begin()?;
        wait_until_serving(Target::Outrigger, &mut outrigger)?;
        Ok(outrigger)
    }

    /// Programs take turns.
    fn program(&self) -> &PathBuf {
        let next = self.setup.next.as_ref().filter(|_| self.processes.started() % 2 == 1);
        next.unwrap_or(&self.setup.program)
    }
}

impl Subject for Outrigger {
    fn begin(&mut self) -> Result<(), UpgradeError> {
        let directory = self.setup.scratch.path();
        let path = directory.join("outrigger.json");
        let socket = directory.join("upgrade");
        let drain = self.setup.drain.as_secs().to_string();
        let arguments = ["-c".into(), path.clone().into(), "--drain-time-s".into(), drain.into()];
        let text = config::outrigger(&self.setup, &socket).to_string();
        let launch = Launch { arguments: arguments.into(), files: vec![(path, text)] };
        let program = self.program().clone();
        self.processes.spawn("outrigger", &program, &launch)
    }

    fn serves(&mut self) -> Result<bool, UpgradeError> {
        self.processes.check_newest()?;
        Ok(self.processes.words().contains("[main] serving"))
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
}
