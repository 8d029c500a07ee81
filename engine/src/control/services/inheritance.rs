//! What becomes of the directory when one process takes over from another.
//!
//! At every moment one process answers applications and writes the state file: the one that has the
//! [`Tenure`]. While it yields, nothing changes; what it has by then is sent, and is the successor's when that
//! begins to accept. What is registered never disappears: the predecessor's registrations stay as they are
//! until the successor has made the same, and the end of a predecessor that does not know it takes nothing
//! back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::timeout;

use super::directory::Directory;
use super::{PATIENCE, Services, Source, state};
use crate::control::hand_over::{Inherited, Tenure};

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

    /// The successor accepts: what is registered is to stay until [`Services::release`].
    pub(in crate::control) fn hold(&self) {
        self.is_needed.store(true, Ordering::Relaxed);
    }

    /// The successor has registered what this process has.
    pub(in crate::control) fn release(&self) {
        self.is_needed.store(false, Ordering::Relaxed);
    }

    /// This process serves again: the successor may have changed the file, and have registered in its own
    /// name what its end will take away.
    pub(in crate::control) async fn resume(self: &Arc<Self>) {
        self.release();
        self.reread().await;
        let before: Vec<_> = self.sources().all.drain().collect();
        self.told.send_modify(|_| {});
        let services = Arc::clone(self);
        tokio::spawn(async move {
            // Elsewhere they have the same name, so that theirs are no loss once there are new ones.
            let _ = timeout(SETTLE_PATIENCE, services.settled()).await;
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

    /// Waits until everything that is offered has been registered, or could not be.
    pub(in crate::control) async fn settled(&self) {
        loop {
            let is_done = |source: &Source| *source.done.borrow() == *source.want.borrow();
            // A registry that is to be told of more gets it before anything is awaited.
            if self.offers.load(Ordering::Relaxed) && self.sources().all.values().all(is_done) {
                return;
            }
            tokio::time::sleep(SETTLE_LOOK).await;
        }
    }

    /// Whether applications are answered here.
    pub(super) fn is_ours(&self) -> bool {
        *self.tenure.borrow() == Tenure::Ours
    }

    /// Whether what is registered is to outlive this process.
    pub(super) fn is_left_to_another(&self) -> bool {
        self.is_needed.load(Ordering::Relaxed)
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
