//! What a process hands on beside sockets: what it has counted, and the keys of its tickets.
//!
//! Counters are sent once when everything else is, and from then on what came since, until the process ends.
//! Invariant: what was sent is not sent again, whoever it is sent to next.

use std::sync::Arc;

use outrigger_upgrade::message::StatePart;
use outrigger_upgrade::state::State;

use crate::stats::{Carried, Registry};
use crate::tls::TicketKeyring;

/// Where it is found, and where it goes.
#[derive(Clone)]
pub struct Heritage {
    /// Statistics.
    pub registry: Arc<Registry>,
    /// Keys of session tickets.
    pub tickets: Arc<TicketKeyring>,
}

/// What one successor was told.
#[derive(Default)]
pub(super) struct Told(Carried);

impl Heritage {
    /// Takes over a piece from a predecessor. Of what is not known nothing is taken over.
    pub fn take(&self, part: &StatePart) {
        match State::from_part(part) {
            Some(State::Stats(stats)) => self.registry.inherit(stats),
            Some(State::Tickets(tickets)) => {
                if self.tickets.inherit(&tickets).is_err() {
                    log::warn!(target: "upgrade", "the predecessor's ticket keys are of no use");
                }
            }
            None => {
                log::info!(target: "upgrade", "{} of version {} is not known", part.kind, part.version);
            }
        }
    }

    /// All that a successor begins with.
    pub(super) fn all(&self, told: &mut Told) -> Vec<StatePart> {
        let mut parts = vec![State::Tickets(self.tickets.bequest()).into_part()];
        parts.append(&mut self.news(told));
        parts
    }

    /// What has come since.
    pub(super) fn news(&self, told: &mut Told) -> Vec<StatePart> {
        let now = self.registry.carried();
        let before = std::mem::replace(&mut told.0, now);
        told.0.since(&before).pieces().map(State::into_part).collect()
    }
}
