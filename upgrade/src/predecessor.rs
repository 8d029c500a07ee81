//! The process that serves, as it hands over: what it does next, whatever happens.
//!
//! It knows no sockets: it is told what came, and answers with what is to be done. Invariant: until the
//! successor has said that it accepts, nothing that the predecessor serves has changed; and a connection is
//! let go only when the successor has it, and taken back only when the successor can't have begun with it.
//! So that an end without a word means death, it never closes the channel before it said [`Abort`].

use std::collections::BTreeSet;
use std::time::Duration;

use crate::message::{
    Abort, Commit, Declined, Hello, ListenerRecord, Listeners, Message, Offer, Prepared, Progress,
    Relay, Settled, StatePart,
};
use crate::version::agree;

/// The side that hands over, from the moment a successor has connected.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Predecessor {
    own: Hello,
    state: State,
    /// What both sides can do.
    features: u64,
    /// Connections whose offers are not answered.
    offered: BTreeSet<u64>,
    sent: Sent,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum State {
    /// Waits for the successor's name.
    Greeting,
    /// Sends what it has.
    Preparing,
    /// Waits until the successor could serve.
    Waiting,
    /// The successor could: what may be changed by one process only is being given to it.
    Yielding,
    /// Both accept as soon as the successor hears of it.
    Committing,
    /// The successor accepts; connections move.
    Moving,
    Over,
}

/// What was sent while preparing.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
struct Sent {
    listeners: u32,
    listeners_taken: u32,
    parts: u32,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Send this, before anything that comes later.
    Send(Message),
    /// Send listeners and state, with [`Predecessor::listeners`] and [`Predecessor::state`], then say
    /// [`Predecessor::prepared`].
    Prepare,
    /// Have nobody change what one process only may change: send it with [`Predecessor::state`], then say
    /// [`Predecessor::yielded`]. It is this process's again if the end comes before
    /// [`Action::StopAccepting`].
    Yield,
    /// The successor has registered elsewhere what this process has, but for these registries.
    Settled(Vec<String>),
    /// Accept no more, but keep the listening sockets. Offer the connections, or drain them.
    StopAccepting,
    /// Accept again, on every listening socket that was not released.
    ResumeAccepting,
    /// Send [`Message::Take`] for the connection of this number. It is the successor's once that is sent:
    /// close its descriptor, and touch it no more. When it can't be sent, nobody has it but we: go on with it.
    Give(u64),
    /// The connection of this number stays: go on with it. The reason why it was declined, if it was.
    Resume(u64, Option<String>),
    /// Close the listening sockets of this name: they are gone.
    Release(String),
    /// The hand-over is over: close the channel once all is sent.
    End(Ending),
}

/// How a hand-over ended for the predecessor, which serves on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ending {
    /// The successor has died.
    Lost,
    /// The successor gave up, for this reason.
    GivenUp(String),
    /// The predecessor did.
    Aborted(String),
}

impl Predecessor {
    /// For a successor that has just connected.
    #[must_use]
    pub fn new(own: Hello) -> Self {
        Self {
            own,
            state: State::Greeting,
            features: 0,
            offered: BTreeSet::new(),
            sent: Sent::default(),
        }
    }

    /// What both sides can do.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Whether the successor accepts, so that connections may be offered.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.state == State::Moving
    }

    /// Descriptors of listeners that the successor has not confirmed.
    #[must_use]
    pub fn listeners_under_way(&self) -> u32 {
        self.sent.listeners - self.sent.listeners_taken
    }

    /// How long the other side may be silent from now on before [`Predecessor::expired`].
    #[must_use]
    pub fn patience(&self) -> Option<Duration> {
        match self.state {
            State::Greeting => Some(GREETING_PATIENCE),
            State::Preparing | State::Waiting | State::Yielding => Some(READY_PATIENCE),
            State::Committing | State::Moving => Some(ALIVE_PATIENCE),
            State::Over => None,
        }
    }

    /// A message came.
    #[must_use]
    pub fn received(&mut self, message: Message) -> Vec<Action> {
        match (self.state, message) {
            (State::Over, _) => Vec::new(),
            (_, Message::Abort(Abort { reason })) => self.end(Ending::GivenUp(reason)),
            (State::Greeting, Message::Hello(other)) => self.greeted(&other),
            (State::Preparing | State::Waiting, Message::ListenersTaken(taken))
                if taken > self.sent.listeners_taken && taken <= self.sent.listeners =>
            {
                self.sent.listeners_taken = taken;
                Vec::new()
            }
            (State::Waiting, Message::Ready(_)) if self.listeners_under_way() == 0 => {
                self.state = State::Yielding;
                vec![Action::Yield]
            }
            (State::Committing, Message::Committed(_)) => {
                self.state = State::Moving;
                vec![Action::StopAccepting]
            }
            (State::Moving, Message::Adopted(connection)) if self.offered.remove(&connection) => {
                vec![Action::Give(connection)]
            }
            (State::Moving, Message::Declined(Declined { connection, reason }))
                if self.offered.remove(&connection) =>
            {
                vec![Action::Resume(connection, Some(reason))]
            }
            (State::Moving, Message::Released(name)) => vec![Action::Release(name)],
            (State::Moving, Message::Settled(Settled { pending })) => {
                vec![Action::Settled(pending)]
            }
            (_, Message::Alive(_)) => Vec::new(),
            (state, message) => self.violated(&format!("{} came while {state:?}", message.name())),
        }
    }

    /// What came was no message, or not the next one.
    #[must_use]
    pub fn violated(&mut self, what: &str) -> Vec<Action> {
        self.abort(format!("broken protocol: {what}"))
    }

    /// The channel has ended: the successor is gone.
    #[must_use]
    pub fn closed(&mut self) -> Vec<Action> {
        self.end(Ending::Lost)
    }

    /// The other side was silent for too long.
    #[must_use]
    pub fn expired(&mut self) -> Vec<Action> {
        self.abort("the successor says nothing".to_owned())
    }

    /// Ends the hand-over, and serves on alone. A successor that accepts stops that, and ends when the
    /// connections that it took do.
    #[must_use]
    pub fn abort(&mut self, reason: String) -> Vec<Action> {
        if self.state == State::Over {
            return Vec::new();
        }
        let mut actions = vec![Action::Send(Message::Abort(Abort { reason: reason.clone() }))];
        actions.append(&mut self.end(Ending::Aborted(reason)));
        actions
    }

    /// Listening sockets to be sent with their descriptors, while preparing.
    #[must_use]
    pub fn listeners(&mut self, records: Vec<ListenerRecord>) -> Vec<Action> {
        if self.state != State::Preparing {
            return Vec::new();
        }
        self.sent.listeners += records.len() as u32;
        vec![Action::Send(Message::Listeners(Listeners { records }))]
    }

    /// State to be sent, while preparing; again, while yielding; and what came since, while connections
    /// move.
    #[must_use]
    pub fn state(&mut self, part: StatePart) -> Vec<Action> {
        match self.state {
            State::Preparing => self.sent.parts += 1,
            State::Yielding | State::Moving => {}
            _ => return Vec::new(),
        }
        vec![Action::Send(Message::State(part))]
    }

    /// All listeners and state are sent.
    #[must_use]
    pub fn prepared(&mut self) -> Vec<Action> {
        if self.state != State::Preparing {
            return Vec::new();
        }
        self.state = State::Waiting;
        let Sent { listeners, parts, .. } = self.sent;
        vec![Action::Send(Message::Prepared(Prepared { listeners, parts }))]
    }

    /// Nobody changes what was sent last.
    #[must_use]
    pub fn yielded(&mut self) -> Vec<Action> {
        if self.state != State::Yielding {
            return Vec::new();
        }
        self.state = State::Committing;
        vec![Action::Send(Message::Commit(Commit {}))]
    }

    /// Offers a connection that nobody touches: no operation of ours is under way on it. It stays that
    /// way until [`Action::Give`] or [`Action::Resume`], which come at once when it can't be offered.
    #[must_use]
    pub fn offer(&mut self, offer: Offer) -> Vec<Action> {
        if self.state != State::Moving || !self.offered.insert(offer.connection) {
            return vec![Action::Resume(offer.connection, None)];
        }
        vec![Action::Send(Message::Offer(offer))]
    }

    /// Bytes for a connection that was given away.
    #[must_use]
    pub fn relay(&self, relay: Relay) -> Vec<Action> {
        self.while_moving(Message::Relay(relay))
    }

    /// Nothing more comes for a connection that was given away.
    #[must_use]
    pub fn relay_end(&self, connection: u64) -> Vec<Action> {
        self.while_moving(Message::RelayEnd(connection))
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self, progress: Progress) -> Vec<Action> {
        self.while_moving(Message::Progress(progress))
    }

    fn while_moving(&self, message: Message) -> Vec<Action> {
        if self.state == State::Moving { vec![Action::Send(message)] } else { Vec::new() }
    }

    fn greeted(&mut self, other: &Hello) -> Vec<Action> {
        match agree(&self.own, other) {
            Ok(features) => {
                self.features = features;
                self.state = State::Preparing;
                vec![Action::Send(Message::Hello(self.own.clone())), Action::Prepare]
            }
            Err(mismatch) => self.abort(mismatch.to_string()),
        }
    }

    /// From here on all is as if there had been no successor, but for what it took.
    fn end(&mut self, ending: Ending) -> Vec<Action> {
        let before = std::mem::replace(&mut self.state, State::Over);
        let mut actions = Vec::new();
        if before == State::Over {
            return actions;
        }
        if before == State::Moving {
            actions.push(Action::ResumeAccepting);
        }
        let offered = std::mem::take(&mut self.offered);
        actions.extend(offered.into_iter().map(|connection| Action::Resume(connection, None)));
        actions.push(Action::End(ending));
        actions
    }
}

/// A process that has just connected says who it is at once.
pub const GREETING_PATIENCE: Duration = Duration::from_secs(5);

/// Loading a configuration and warming it may take as long as its servers take.
pub const READY_PATIENCE: Duration = Duration::from_secs(60);

/// Twice what a successor's silence lasts at most; a hung one is noticed within that time.
pub const ALIVE_PATIENCE: Duration = Duration::from_secs(2);
