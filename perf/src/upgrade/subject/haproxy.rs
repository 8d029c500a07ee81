//! HAProxy: a master that loads itself again, and workers that pass their listeners on.

use super::{Setup, Subject, lives, signal, wait_until_serving};
use crate::{
    sys,
    target::{
        Target,
        config::Launch,
        server::{Scratch, Server},
    },
    upgrade::{UpgradeError, config, io_error},
};

pub(super) struct Haproxy {
    _setup: Setup,
    master: Server,
    /// Workers that were there before the last upgrade began.
    old: Vec<u32>,
}

impl Haproxy {
    pub(super) fn start(setup: Setup) -> Result<Self, UpgradeError> {
        let path = setup.scratch.path().join("haproxy.cfg");
        let launch = Launch {
            arguments: ["-W".into(), "-f".into(), path.clone().into()].into(),
            files: vec![(path, config::haproxy(&setup))],
        };
        let own = Scratch::new().map_err(io_error("making a temporary directory"))?;
        let master = Server::spawn("haproxy", &setup.program, &launch, own, None)?;
        let mut haproxy = Self { _setup: setup, master, old: Vec::new() };
        wait_until_serving(Target::Haproxy, &mut haproxy)?;
        Ok(haproxy)
    }

    fn workers(&self) -> Vec<u32> {
        let Ok(pids) = self.master.pids() else { return Vec::new() };
        pids.into_iter().skip(1).filter(|pid| lives(*pid)).collect()
    }
}

impl Subject for Haproxy {
    fn begin(&mut self) -> Result<(), UpgradeError> {
        self.master.check()?;
        self.old = self.workers();
        signal(self.master.leader(), libc::SIGUSR2);
        Ok(())
    }

    fn serves(&mut self) -> Result<bool, UpgradeError> {
        self.master.check()?;
        // While it looks at its configuration it has no child of that name yet.
        Ok(self.workers().iter().any(|worker| !self.old.contains(worker)))
    }

    fn left(&mut self) -> usize {
        self.old.retain(|worker| lives(*worker));
        self.old.len()
    }

    fn pids(&self) -> Vec<u32> {
        sys::process_tree(self.master.leader()).unwrap_or_default()
    }

    fn words(&self) -> String {
        self.master.said("stderr")
    }
}
