//! MOSN: generations find each other by sockets beside their configuration.

use std::time::Duration;

use super::{Setup, Subject, generations::Generations, listens, wait_until_serving};
use crate::{
    target::{Target, config::Launch},
    upgrade::{UpgradeError, config},
};

pub(super) struct Mosn {
    setup: Setup,
    processes: Generations,
}

impl Mosn {
    pub(super) fn start(setup: Setup) -> Result<Self, UpgradeError> {
        let mut mosn = Self { setup, processes: Generations::default() };
        mosn.begin()?;
        wait_until_serving(Target::Mosn, &mut mosn)?;
        Ok(mosn)
    }
}

impl Subject for Mosn {
    fn begin(&mut self) -> Result<(), UpgradeError> {
        // Its logs go into `../logs`.
        let path = self.setup.scratch.path().join("conf/mosn.json");
        let text = config::mosn(&self.setup).to_string();
        let drain = self.setup.drain.as_secs().to_string();
        let arguments = [
            "start".into(),
            "--drain-time-s".into(),
            drain.into(),
            "-c".into(),
            path.clone().into(),
        ];
        let launch = Launch { arguments: arguments.into(), files: vec![(path, text)] };
        self.processes.spawn("mosn", &self.setup.program, &launch)
    }

    fn serves(&mut self) -> Result<bool, UpgradeError> {
        self.processes.check_newest()?;
        let ports = self.setup.sides.values().map(|side| side.listen.port()).collect();
        Ok(self.processes.newest().iter().any(|pid| listens(*pid, &ports)))
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

    /// Until streams end, then twice its own time and twice the longest read, and what it pauses in
    /// between.
    fn longest_drain(&self, told: Duration) -> Duration {
        3 * told + Duration::from_secs(40)
    }
}
