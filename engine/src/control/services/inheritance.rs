//! What becomes of the directory when one process takes over from another.
//!
//! At every moment one process answers applications and writes the state file: the one that has the
//! [`Tenure`]. While it yields, nothing changes; what it has by then is sent, and is the successor's when that
//! begins to accept. What is registered never disappears: the predecessor's registrations stay as they are
//! until the successor has made the same, and the end of a predecessor that does not know it takes nothing
//! back.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::timeout;

use super::directory::Directory;
use super::{PATIENCE, Services, Source, state};
use crate::control::hand_over::{Inherited, Tenure};

/// Where registrations outlive the process, since another one accepts.
#[derive(Debug, Default)]
pub(super) enum Held {
    /// Nowhere: this one does.
    #[default]
    No,
    /// Everywhere.
    InAll,
    /// In these registries.
    In(Vec<String>),
}

/// What a predecessor left to the directory.
#[derive(Debug, Default)]
pub struct Legacy {
    /// Its listening sockets.
    pub sockets: Arc<Inherited>,
    /// The directory as it was, as the state file has it.
    pub state: Option<Vec<u8>>,
}

impl Services {
    /// The directory as the state file has it; nothing when it is too large.
    pub(in crate::control) fn encoded(&self) -> Option<Vec<u8>> {
        let encoded = state::encode(&self.directory().save());
        encoded.inspect_err(|error| log::error!("services can't be handed over: {error}")).ok()
    }

    /// Has the state file left alone, once the tenure has been given up.
    pub(in crate::control) async fn quiesce(&self) {
        drop(self.writing.lock().await);
    }

    /// Another process accepts: what is registered stays as it is, where that one has not done the same.
    pub(in crate::control) fn hold(&self) {
        *self.held() = Held::InAll;
    }

    /// The successor has registered what this process has, but for these registries.
    pub(in crate::control) fn release_but(&self, pending: Vec<String>) {
        *self.held() = Held::In(pending);
        self.told.send_modify(|_| {});
    }

    /// Whether something would be unregistered by the end of this process.
    pub(in crate::control) fn is_needed(&self) -> bool {
        self.sources().all.iter().any(|(name, source)| {
            self.is_held_in(name)
                && !source.want.borrow().offers.is_empty()
                && self.registry_stats(name).connected.value() == 1
        })
    }

    /// This process serves again: the successor may have changed the file, and have registered in its own
    /// name what its end will take away.
    pub(in crate::control) async fn resume(self: &Arc<Self>) {
        *self.held() = Held::No;
        self.reread().await;
        let before: Vec<_> = self.sources().all.drain().collect();
        self.told.send_modify(|_| {});
        let services = Arc::clone(self);
        tokio::spawn(async move {
            // Elsewhere they have the same name, so that theirs are no loss once there are new ones.
            let settled = async {
                while !services.pending().is_empty() {
                    tokio::time::sleep(SETTLE_LOOK).await;
                }
            };
            let _ = timeout(SETTLE_PATIENCE, settled).await;
            before.into_iter().for_each(|(_, Source { task, .. })| task.abort());
        });
    }

    /// Goes on with a predecessor's directory, and waits until it is in effect.
    pub(in crate::control) async fn adopt(&self, state: &[u8]) {
        if self.take_state(state) {
            self.take_effect().await;
        }
    }

    /// Goes on with the state file of a process that could not say what it had, if there is one.
    pub(in crate::control) async fn reread(&self) {
        let Some(path) = &self.config.state_file else { return };
        match state::read(path) {
            Ok(Some(saved)) => {
                self.directory().replace(saved);
                self.take_effect().await;
            }
            Ok(None) => {}
            Err(error) => log::error!("{}: {error}; services stay as they are", path.display()),
        }
    }

    /// Registries in which something is still to be registered, once these are others than `told`.
    pub(in crate::control) async fn pending_but(&self, told: Option<&Vec<String>>) -> Vec<String> {
        loop {
            let pending = self.pending();
            if told != Some(&pending) {
                return pending;
            }
            tokio::time::sleep(SETTLE_LOOK).await;
        }
    }

    /// In their order.
    fn pending(&self) -> Vec<String> {
        let mut pending = Vec::new();
        if self.offers.load(Ordering::Relaxed) {
            let is_done = |source: &Source| *source.done.borrow() == *source.want.borrow();
            let sources = self.sources();
            let waiting = sources.all.iter().filter(|(_, source)| !is_done(source));
            pending.extend(waiting.map(|(name, _)| name.to_string()));
        } else {
            pending.extend(self.config.registries.iter().map(|one| one.name.to_string()));
            pending.extend(self.directory().places().keys().map(ToString::to_string));
        }
        pending.sort();
        pending
    }

    /// Whether applications are answered here.
    pub(super) fn is_ours(&self) -> bool {
        *self.tenure.borrow() == Tenure::Ours
    }

    /// Whether what is in this registry is to outlive this process.
    pub(super) fn is_held_in(&self, registry: &str) -> bool {
        match &*self.held() {
            Held::No => false,
            Held::InAll => true,
            Held::In(pending) => pending.iter().any(|one| one == registry),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Replaced whole.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it could be read.
    pub(super) fn take_state(&self, bytes: &[u8]) -> bool {
        match state::decode(bytes) {
            Ok(saved) => {
                self.directory().replace(saved);
                true
            }
            Err(error) => {
                log::error!("the predecessor's services can't be read: {error}");
                false
            }
        }
    }

    async fn take_effect(&self) {
        let serial = self.directory().serial();
        self.changed.send_replace(serial);
        self.told.send_replace(serial);
        let mut in_effect = self.in_effect.subscribe();
        // Whoever waits for this must not wait for ever.
        let _ = timeout(PATIENCE, in_effect.wait_for(|now| *now >= serial)).await;
    }
}

impl Directory {
    /// Goes on with what was kept, and with nothing else.
    fn replace(&mut self, saved: super::directory::Saved) {
        self.clear();
        self.restore(saved);
    }
}

/// Between two looks at what registries have done.
const SETTLE_LOOK: Duration = Duration::from_millis(10);

/// How long old registrations stay beside new ones.
const SETTLE_PATIENCE: Duration = Duration::from_secs(10);
