//! The process that takes over: what it does next, whatever happens.
//!
//! It knows no sockets: it is told what came, and answers with what is to be done. Invariant: it accepts only
//! when it was told to, or when its predecessor is dead; and it begins with a connection only when its
//! predecessor has let it go, or is dead. A channel that ends without [`Abort`] is a predecessor's death.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::message::{
    Abort, Alive, Committed, Declined, Hello, ListenerRecord, Listeners, Message, Offer, Prepared,
    Progress, Ready, Relay, Settled, StatePart,
};
use crate::version::agree;

/// The side that takes over.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Successor {
    own: Hello,
    state: State,
    /// What both sides can do.
    features: u64,
    taken: Prepared,
    predecessor_generation: u32,
    /// The predecessor is dead, though not everything was done by then.
    orphaned: bool,
    /// Connections that were offered, and not answered.
    offered: BTreeSet<u64>,
    /// Connections that were answered for, and not given yet.
    adopted: BTreeSet<u64>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum State {
    /// Waits for the predecessor's name.
    Greeting,
    /// Listeners and state come.
    Receiving,
    /// All is there; it gets ready to serve.
    Warming,
    /// Waits until it is told to accept.
    Waiting,
    /// Accepts; connections come.
    Serving,
    Over,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Send this, before anything that comes later.
    Send(Message),
    /// Keep the listening sockets that came with the message. Their number was checked.
    TakeListeners(Vec<ListenerRecord>),
    /// Keep this piece of state.
    TakeState(StatePart),
    /// All has come: get ready to serve, then say [`Successor::ready`] or [`Successor::failed`].
    WarmUp,
    /// Accept.
    Accept,
    /// See whether this connection can be gone on with, without touching it, and say
    /// [`Successor::adopted`] or [`Successor::declined`].
    Adopt(Offer),
    /// Go on with the connection of this number.
    Serve(u64),
    /// The connection of this number goes on elsewhere: close its descriptor without touching it.
    Drop(u64),
    /// Send these bytes to the connection's client.
    Relay(Relay),
    /// Nothing more comes for the connection of this number.
    RelayEnd(u64),
    /// How far the predecessor is.
    Show(Progress),
    /// The hand-over is over.
    End(Ending),
}

/// How a hand-over ended for the successor.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ending {
    /// The predecessor has gone, and everything is this process's: serve on.
    Alone,
    /// The predecessor died before it had sent everything: nothing can be taken over.
    Lost,
    /// The predecessor serves on, for this reason: accept no more, and end with what was taken.
    StandDown(String),
}

impl Successor {
    /// As it has just connected, and what it says first.
    #[must_use]
    pub fn new(own: Hello) -> (Self, Vec<Action>) {
        let hello = Action::Send(Message::Hello(own.clone()));
        let new = Self {
            own,
            state: State::Greeting,
            features: 0,
            taken: Prepared { listeners: 0, parts: 0 },
            predecessor_generation: 0,
            orphaned: false,
            offered: BTreeSet::new(),
            adopted: BTreeSet::new(),
        };
        (new, vec![hello])
    }

    /// True while it accepts, and connections come.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.state == State::Serving
    }

    /// What both sides can do.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features
    }

    /// How many processes served before the predecessor.
    #[must_use]
    pub fn predecessor_generation(&self) -> u32 {
        self.predecessor_generation
    }

    /// When to call [`Successor::expired`], counted from now, and from whatever came or was sent since.
    #[must_use]
    pub fn patience(&self) -> Option<Duration> {
        match self.state {
            State::Greeting | State::Receiving | State::Waiting => Some(ANSWER_PATIENCE),
            State::Warming => None,
            State::Serving => Some(ALIVE_INTERVAL),
            State::Over => None,
        }
    }

    /// A message came, with so many descriptors.
    #[must_use]
    pub fn received(&mut self, message: Message, descriptors: usize) -> Vec<Action> {
        match (self.state, message) {
            (State::Over, _) => Vec::new(),
            (_, Message::Abort(Abort { reason })) => self.stand_down(reason),
            (State::Greeting, Message::Hello(other)) => self.greeted(&other),
            (State::Receiving, Message::Listeners(Listeners { records }))
                if records.len() == descriptors =>
            {
                self.taken.listeners += records.len() as u32;
                let taken = Message::ListenersTaken(self.taken.listeners);
                vec![Action::TakeListeners(records), Action::Send(taken)]
            }
            (State::Receiving, Message::State(part)) => {
                self.taken.parts += 1;
                vec![Action::TakeState(part)]
            }
            (State::Receiving, Message::Prepared(all)) if all == self.taken => {
                self.state = State::Warming;
                vec![Action::WarmUp]
            }
            // What only one process may change, and this one from now on; then what came since.
            (State::Waiting | State::Serving, Message::State(part)) => {
                vec![Action::TakeState(part)]
            }
            (State::Waiting, Message::Commit(_)) => {
                self.state = State::Serving;
                vec![Action::Accept, Action::Send(Message::Committed(Committed {}))]
            }
            (State::Serving, Message::Offer(offer)) if self.offered.insert(offer.connection) => {
                vec![Action::Adopt(offer)]
            }
            (State::Serving, Message::Take(connection)) if self.adopted.remove(&connection) => {
                vec![Action::Serve(connection)]
            }
            (State::Serving, Message::Relay(relay)) => vec![Action::Relay(relay)],
            (State::Serving, Message::RelayEnd(connection)) => vec![Action::RelayEnd(connection)],
            (State::Serving, Message::Progress(progress)) => vec![Action::Show(progress)],
            (state, message) => self.violated(&format!(
                "{} with {descriptors} descriptors came while {state:?}",
                message.name()
            )),
        }
    }

    /// What came was no message, or not the next one.
    #[must_use]
    pub fn violated(&mut self, what: &str) -> Vec<Action> {
        self.failed(format!("broken protocol: {what}"))
    }

    /// It can't take over. The predecessor serves on.
    #[must_use]
    pub fn failed(&mut self, reason: String) -> Vec<Action> {
        if self.state == State::Over {
            return Vec::new();
        }
        let mut actions = vec![Action::Send(Message::Abort(Abort { reason: reason.clone() }))];
        actions.append(&mut self.stand_down(reason));
        actions
    }

    /// The channel has ended: the predecessor is dead, or was done.
    #[must_use]
    pub fn closed(&mut self) -> Vec<Action> {
        match self.state {
            State::Over => Vec::new(),
            State::Greeting | State::Receiving => self.end(Ending::Lost),
            State::Warming => {
                self.orphaned = true;
                Vec::new()
            }
            State::Waiting => self.inherit(),
            State::Serving => {
                let adopted = std::mem::take(&mut self.adopted);
                let mut actions: Vec<_> = adopted.into_iter().map(Action::Serve).collect();
                // Those that are still to be answered for are served as soon as they are.
                self.orphaned = true;
                if self.offered.is_empty() {
                    actions.append(&mut self.end(Ending::Alone));
                }
                actions
            }
        }
    }

    /// It was time: the other side is silent, or wants to hear of this one.
    #[must_use]
    pub fn expired(&mut self) -> Vec<Action> {
        match self.state {
            State::Serving if !self.orphaned => vec![Action::Send(Message::Alive(Alive {}))],
            State::Greeting | State::Receiving | State::Waiting => {
                self.failed("the predecessor says nothing".to_owned())
            }
            State::Serving | State::Warming | State::Over => Vec::new(),
        }
    }

    /// It could serve at once.
    #[must_use]
    pub fn ready(&mut self) -> Vec<Action> {
        if self.state != State::Warming {
            return Vec::new();
        }
        self.state = State::Waiting;
        if self.orphaned { self.inherit() } else { vec![Action::Send(Message::Ready(Ready {}))] }
    }

    /// It could go on with this connection.
    #[must_use]
    pub fn adopted(&mut self, connection: u64) -> Vec<Action> {
        if !self.offered.remove(&connection) {
            return Vec::new();
        }
        if self.orphaned {
            let mut actions = vec![Action::Serve(connection)];
            if self.offered.is_empty() {
                actions.append(&mut self.end(Ending::Alone));
            }
            return actions;
        }
        self.adopted.insert(connection);
        vec![Action::Send(Message::Adopted(connection))]
    }

    /// It can't go on with this connection.
    #[must_use]
    pub fn declined(&mut self, connection: u64, reason: String) -> Vec<Action> {
        if !self.offered.remove(&connection) {
            return Vec::new();
        }
        let mut actions = Vec::new();
        if !self.orphaned {
            let declined = Declined { connection, reason };
            actions.push(Action::Send(Message::Declined(declined)));
        }
        actions.push(Action::Drop(connection));
        if self.orphaned && self.offered.is_empty() {
            actions.append(&mut self.end(Ending::Alone));
        }
        actions
    }

    /// It closed the listening sockets of this name, so that the predecessor must not keep them.
    #[must_use]
    pub fn released(&self, name: String) -> Vec<Action> {
        if self.state == State::Serving && !self.orphaned {
            return vec![Action::Send(Message::Released(name))];
        }
        Vec::new()
    }

    /// What is registered elsewhere is so by this process, but for these registries.
    #[must_use]
    pub fn settled(&self, pending: Vec<String>) -> Vec<Action> {
        if self.state == State::Serving && !self.orphaned {
            return vec![Action::Send(Message::Settled(Settled { pending }))];
        }
        Vec::new()
    }

    fn greeted(&mut self, other: &Hello) -> Vec<Action> {
        match agree(&self.own, other) {
            Ok(features) => {
                self.features = features;
                self.predecessor_generation = other.generation;
                self.state = State::Receiving;
                Vec::new()
            }
            Err(mismatch) => self.failed(mismatch.to_string()),
        }
    }

    /// The predecessor died when everything was here.
    fn inherit(&mut self) -> Vec<Action> {
        let mut actions = vec![Action::Accept];
        actions.append(&mut self.end(Ending::Alone));
        actions
    }

    /// What was not given stays with the predecessor, which may have gone on with it.
    fn stand_down(&mut self, reason: String) -> Vec<Action> {
        let mut back = std::mem::take(&mut self.offered);
        back.append(&mut self.adopted);
        let mut actions: Vec<_> = back.into_iter().map(Action::Drop).collect();
        actions.append(&mut self.end(Ending::StandDown(reason)));
        actions
    }

    fn end(&mut self, ending: Ending) -> Vec<Action> {
        self.state = State::Over;
        vec![Action::End(ending)]
    }
}

/// A predecessor answers at once, whatever load it has.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// How often a successor says that it lives.
pub const ALIVE_INTERVAL: Duration = Duration::from_millis(500);
