//! Not yet.

use super::{Setup, Subject};
use crate::{target::Target, upgrade::UpgradeError};

pub(super) struct Nginx;

impl Nginx {
    pub(super) fn start(_setup: Setup) -> Result<Box<Self>, UpgradeError> {
        Err(UpgradeError::Never(Target::Nginx))
    }
}

impl Subject for Box<Nginx> {
    fn begin(&mut self) -> Result<(), UpgradeError> {
        Ok(())
    }
    fn serves(&mut self) -> Result<bool, UpgradeError> {
        Ok(true)
    }
    fn left(&mut self) -> usize {
        0
    }
    fn pids(&self) -> Vec<u32> {
        Vec::new()
    }
    fn words(&self) -> String {
        String::new()
    }
}
