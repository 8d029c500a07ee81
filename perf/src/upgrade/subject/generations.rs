//! Processes that are all started here, each to take over from the one before.

use std::path::Path;

use crate::{
    target::{
        config::Launch,
        server::{Scratch, Server, ServerError},
    },
    upgrade::{UpgradeError, io_error},
};

/// Those that are still there, the newest last.
#[derive(Default)]
pub(super) struct Generations {
    processes: Vec<Server>,
    started: usize,
}

impl Generations {
    pub(super) fn spawn(
        &mut self,
        name: &str,
        program: &Path,
        launch: &Launch,
    ) -> Result<(), UpgradeError> {
        let own = Scratch::new().map_err(io_error("making a temporary directory"))?;
        self.processes.push(Server::spawn(name, program, launch, own, None)?);
        self.started += 1;
        Ok(())
    }

    /// How many were started so far.
    pub(super) fn started(&self) -> usize {
        self.started
    }

    /// That the newest lives.
    pub(super) fn check_newest(&mut self) -> Result<(), UpgradeError> {
        Ok(self.processes.last_mut().map_or(Ok(()), Server::check)?)
    }

    /// How many there are besides the newest.
    pub(super) fn left(&mut self) -> usize {
        let newest = self.processes.pop();
        self.processes.retain_mut(|process| match process.check() {
            Ok(()) => true,
            Err(ServerError::Ended { name, status, words }) if status != "exit status: 0" => {
                let last = words.lines().last().unwrap_or_default();
                eprintln!("{name}: an old process ended with {status}: {last}");
                false
            }
            Err(_) => false,
        });
        let left = self.processes.len();
        self.processes.extend(newest);
        left
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        self.processes.iter().filter_map(|process| process.pids().ok()).flatten().collect()
    }

    /// Of the newest one.
    pub(super) fn newest(&self) -> Vec<u32> {
        self.processes.last().and_then(|process| process.pids().ok()).unwrap_or_default()
    }

    /// What the newest said.
    pub(super) fn words(&self) -> String {
        let said = |process: &Server| process.said("stdout") + &process.said("stderr");
        self.processes.last().map(said).unwrap_or_default()
    }
}
