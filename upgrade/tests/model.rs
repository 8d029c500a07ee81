//! Every way in which a hand-over can go: each order of events, with either side killed, hung or giving up at
//! each step, and with a message lost, repeated or overtaken. In all of them no connection has two owners,
//! none is lost but by the death of its owner, and somebody accepts as long as somebody lives.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::hash_map::{DefaultHasher, Entry};
use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};

use outrigger_upgrade::message::{Hello, ListenerRecord, Message, Offer, StatePart};
use outrigger_upgrade::{Predecessor, Successor, predecessor, successor};

/// Connections that the old process has at the begin.
const CONNECTIONS: usize = 2;

/// How often a connection is offered at most, so that there is an end.
const OFFERS_MAX: u8 = 2;

#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
enum Hold {
    #[default]
    None,
    /// It has the descriptor, and does nothing with it.
    Keeps,
    /// It reads and writes.
    Serves,
}

#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
struct Connection {
    old: Hold,
    new: Hold,
    /// Its owner was killed.
    killed: bool,
    offers: u8,
}

/// A channel's direction: what is under way, numbered, and whether its writer has ended it.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
struct Wire {
    packets: VecDeque<(u64, Message)>,
    sent: u64,
    received: u64,
    ended: bool,
    end_was_seen: bool,
}

impl Wire {
    fn send(&mut self, message: Message) {
        if !self.ended {
            self.packets.push_back((self.sent, message));
            self.sent += 1;
        }
    }

    /// The next message, or nothing for one that has the wrong number.
    fn receive(&mut self) -> Option<Message> {
        let (number, message) = self.packets.pop_front().unwrap();
        let is_next = number == self.received;
        self.received = number + 1;
        is_next.then_some(message)
    }
}

/// What may still happen that is not the protocol's own doing.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Budget {
    kills: u8,
    silences: u8,
    aborts: u8,
    wire_faults: u8,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct World {
    old: Option<Predecessor>,
    new: Option<Successor>,
    to_new: Wire,
    to_old: Wire,
    old_accepts: bool,
    new_accepts: bool,
    new_has_accepted: bool,
    new_stood_down: bool,
    prepare_due: bool,
    yield_due: bool,
    warm_due: bool,
    to_adopt: Vec<u64>,
    connections: [Connection; CONNECTIONS],
    budget: Budget,
    wire_was_faulty: bool,
    old_was_killed: bool,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    ToNew,
    ToOld,
    NewSeesEnd,
    OldSeesEnd,
    Prepare,
    Yield,
    WarmUp {
        fails: bool,
    },
    Offer(usize),
    Answer {
        declines: bool,
    },
    /// The old one has nothing left.
    Finish,
    KillOld,
    KillNew,
    OldIsImpatient,
    NewIsImpatient,
    Abort,
    Lose {
        to_new: bool,
    },
    Repeat {
        to_new: bool,
    },
    Overtake {
        to_new: bool,
    },
}

impl World {
    fn new(budget: Budget) -> Self {
        let hello = |generation| Hello { major: 1, generation, ..Hello::default() };
        let (new, actions) = Successor::new(hello(2));
        let served = Connection { old: Hold::Serves, ..Connection::default() };
        let mut world = Self {
            old: Some(Predecessor::new(hello(1))),
            new: Some(new),
            to_new: Wire::default(),
            to_old: Wire::default(),
            old_accepts: true,
            new_accepts: false,
            new_has_accepted: false,
            new_stood_down: false,
            prepare_due: false,
            yield_due: false,
            warm_due: false,
            to_adopt: Vec::new(),
            connections: [served; CONNECTIONS],
            budget,
            wire_was_faulty: false,
            old_was_killed: false,
        };
        world.do_new(actions);
        world
    }

    fn do_old(&mut self, actions: Vec<predecessor::Action>) {
        use predecessor::Action;
        for action in actions {
            match action {
                Action::Send(message) => self.to_new.send(message),
                Action::Prepare => self.prepare_due = true,
                Action::Yield => self.yield_due = true,
                Action::StopAccepting => self.old_accepts = false,
                Action::ResumeAccepting => self.old_accepts = true,
                Action::Give(id) if self.new.is_none() || self.to_new.ended => {
                    self.connections[id as usize].old = Hold::Serves;
                }
                Action::Give(id) => {
                    self.to_new.send(Message::Take(id));
                    self.connections[id as usize].old = Hold::None;
                }
                Action::Resume(id, _) => {
                    let connection = &mut self.connections[id as usize];
                    assert_eq!(connection.old, Hold::Keeps, "resumed though it was let go");
                    connection.old = Hold::Serves;
                }
                Action::Release(_) | Action::Settled(_) => {}
                Action::End(_) => {
                    self.to_new.ended = true;
                    self.prepare_due = false;
                    self.yield_due = false;
                }
            }
        }
    }

    fn do_new(&mut self, actions: Vec<successor::Action>) {
        use successor::{Action, Ending};
        for action in actions {
            match action {
                Action::Send(message) => self.to_old.send(message),
                Action::TakeListeners(_) | Action::TakeState(_) | Action::Show(_) => {}
                Action::WarmUp => self.warm_due = true,
                Action::Accept => {
                    self.new_accepts = true;
                    self.new_has_accepted = true;
                }
                Action::Adopt(offer) => {
                    self.connections[offer.connection as usize].new = Hold::Keeps;
                    self.to_adopt.push(offer.connection);
                }
                Action::Serve(id) => {
                    let connection = &mut self.connections[id as usize];
                    assert_eq!(connection.new, Hold::Keeps, "served without its descriptor");
                    connection.new = Hold::Serves;
                }
                Action::Drop(id) => {
                    let connection = &mut self.connections[id as usize];
                    connection.new = Hold::None;
                    connection.killed |= self.old_was_killed;
                }
                Action::Relay(_) | Action::RelayEnd(_) => {}
                Action::End(Ending::Alone) => {}
                Action::End(Ending::Lost | Ending::StandDown(_)) => {
                    self.new_stood_down = true;
                    self.new_accepts = false;
                    self.to_old.ended = true;
                    self.warm_due = false;
                    self.to_adopt.clear();
                }
            }
        }
    }

    /// What can happen without anybody's fault.
    fn own_events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        if let Some(new) = &self.new {
            if !self.to_new.packets.is_empty() {
                events.push(Event::ToNew);
            } else if self.to_new.ended && !self.to_new.end_was_seen {
                events.push(Event::NewSeesEnd);
            }
            if self.warm_due {
                events.push(Event::WarmUp { fails: false });
            }
            if !self.to_adopt.is_empty() {
                events.push(Event::Answer { declines: false });
                events.push(Event::Answer { declines: true });
            }
            let _ = new;
        }
        if let Some(old) = &self.old {
            if !self.to_old.packets.is_empty() {
                events.push(Event::ToOld);
            } else if self.to_old.ended && !self.to_old.end_was_seen {
                events.push(Event::OldSeesEnd);
            }
            if self.prepare_due {
                events.push(Event::Prepare);
            }
            if self.yield_due {
                events.push(Event::Yield);
            }
            if old.is_moving() {
                let served = |at: &usize| {
                    let connection = &self.connections[*at];
                    connection.old == Hold::Serves && connection.offers < OFFERS_MAX
                };
                events.extend((0..CONNECTIONS).filter(served).map(Event::Offer));
                if self.connections.iter().all(|connection| connection.old == Hold::None) {
                    events.push(Event::Finish);
                }
            }
        }
        events
    }

    fn faults(&self) -> Vec<Event> {
        let mut events = Vec::new();
        if self.budget.kills > 0 {
            events.extend(self.old.is_some().then_some(Event::KillOld));
            events.extend(self.new.is_some().then_some(Event::KillNew));
        }
        if self.budget.silences > 0 {
            let old = self.old.as_ref().and_then(Predecessor::patience);
            let new = self.new.as_ref().and_then(Successor::patience);
            events.extend(old.map(|_| Event::OldIsImpatient));
            events.extend(new.map(|_| Event::NewIsImpatient));
        }
        if self.budget.aborts > 0 && self.old.is_some() {
            events.push(Event::Abort);
        }
        if self.budget.aborts > 0 && self.new.is_some() && self.warm_due {
            events.push(Event::WarmUp { fails: true });
        }
        if self.budget.wire_faults > 0 {
            for (wire, to_new) in [(&self.to_new, true), (&self.to_old, false)] {
                if !wire.packets.is_empty() {
                    events.push(Event::Lose { to_new });
                    events.push(Event::Repeat { to_new });
                }
                if wire.packets.len() > 1 {
                    events.push(Event::Overtake { to_new });
                }
            }
        }
        events
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::ToNew => {
                let received = self.to_new.receive();
                let new = self.new.as_mut().unwrap();
                let actions = match received {
                    Some(message) => {
                        let descriptors = match &message {
                            Message::Listeners(listeners) => listeners.records.len(),
                            Message::Offer(_) => 1,
                            _ => 0,
                        };
                        new.received(message, descriptors)
                    }
                    None => new.violated("a message with a wrong number"),
                };
                self.do_new(actions);
            }
            Event::ToOld => {
                let received = self.to_old.receive();
                let old = self.old.as_mut().unwrap();
                let actions = match received {
                    Some(message) => old.received(message),
                    None => old.violated("a message with a wrong number"),
                };
                self.do_old(actions);
            }
            Event::NewSeesEnd => {
                self.to_new.end_was_seen = true;
                let actions = self.new.as_mut().unwrap().closed();
                self.do_new(actions);
            }
            Event::OldSeesEnd => {
                self.to_old.end_was_seen = true;
                let actions = self.old.as_mut().unwrap().closed();
                self.do_old(actions);
            }
            Event::Prepare => {
                self.prepare_due = false;
                let old = self.old.as_mut().unwrap();
                let mut actions = old.listeners(vec![ListenerRecord::default()]);
                actions.append(&mut old.state(StatePart::default()));
                actions.append(&mut old.prepared());
                self.do_old(actions);
            }
            Event::Yield => {
                self.yield_due = false;
                let old = self.old.as_mut().unwrap();
                let mut actions = old.state(StatePart::default());
                actions.append(&mut old.yielded());
                self.do_old(actions);
            }
            Event::WarmUp { fails } => {
                self.warm_due = false;
                let new = self.new.as_mut().unwrap();
                let actions = if fails {
                    self.budget.aborts -= 1;
                    new.failed("a bad configuration".to_owned())
                } else {
                    new.ready()
                };
                self.do_new(actions);
            }
            Event::Offer(at) => {
                self.connections[at].old = Hold::Keeps;
                self.connections[at].offers += 1;
                let offer = Offer { connection: at as u64, ..Offer::default() };
                let actions = self.old.as_mut().unwrap().offer(offer);
                self.do_old(actions);
            }
            Event::Answer { declines } => {
                let connection = self.to_adopt.remove(0);
                let new = self.new.as_mut().unwrap();
                let actions = if declines {
                    new.declined(connection, "no such chain".to_owned())
                } else {
                    new.adopted(connection)
                };
                self.do_new(actions);
            }
            Event::Finish => {
                self.old = None;
                self.old_accepts = false;
                self.to_new.ended = true;
            }
            Event::KillOld => {
                self.budget.kills -= 1;
                self.old = None;
                self.old_was_killed = true;
                self.old_accepts = false;
                self.prepare_due = false;
                self.yield_due = false;
                self.to_new.ended = true;
                let offered = if self.new.is_some() { self.offered() } else { Vec::new() };
                for (at, connection) in self.connections.iter_mut().enumerate() {
                    let has_other = connection.new != Hold::None || offered.contains(&(at as u64));
                    connection.killed |= !has_other;
                    connection.old = Hold::None;
                }
            }
            Event::KillNew => {
                self.budget.kills -= 1;
                self.new = None;
                self.new_accepts = false;
                self.warm_due = false;
                self.to_adopt.clear();
                self.to_old.ended = true;
                self.to_new.packets.clear();
                for connection in &mut self.connections {
                    connection.killed |= connection.old == Hold::None;
                    connection.new = Hold::None;
                }
            }
            Event::OldIsImpatient => {
                self.budget.silences -= 1;
                let actions = self.old.as_mut().unwrap().expired();
                self.do_old(actions);
            }
            Event::NewIsImpatient => {
                self.budget.silences -= 1;
                let actions = self.new.as_mut().unwrap().expired();
                self.do_new(actions);
            }
            Event::Abort => {
                self.budget.aborts -= 1;
                let actions = self.old.as_mut().unwrap().abort("told to".to_owned());
                self.do_old(actions);
            }
            Event::Lose { to_new } => {
                self.fault();
                self.wire(to_new).packets.pop_front();
            }
            Event::Repeat { to_new } => {
                self.fault();
                let wire = self.wire(to_new);
                let again = wire.packets[0].clone();
                wire.packets.push_front(again);
            }
            Event::Overtake { to_new } => {
                self.fault();
                self.wire(to_new).packets.swap(0, 1);
            }
        }
    }

    /// Connections whose descriptors are under way.
    fn offered(&self) -> Vec<u64> {
        let packets = self.to_new.packets.iter();
        let offer = |(_, message): &(u64, Message)| match message {
            Message::Offer(offer) => Some(offer.connection),
            _ => None,
        };
        packets.filter_map(offer).collect()
    }

    fn fault(&mut self) {
        self.budget.wire_faults -= 1;
        self.wire_was_faulty = true;
    }

    fn wire(&mut self, to_new: bool) -> &mut Wire {
        if to_new { &mut self.to_new } else { &mut self.to_old }
    }

    /// Holds at every moment.
    fn check(&self) -> Result<(), &'static str> {
        for connection in &self.connections {
            if connection.old == Hold::Serves && connection.new == Hold::Serves {
                return Err("a connection has two owners");
            }
        }
        if self.old.is_some() && !self.old_accepts && !self.new_has_accepted {
            return Err("the old one stopped before the new one began");
        }
        Ok(())
    }

    /// Holds when nothing happens any more.
    fn check_end(&self) -> Result<(), &'static str> {
        if self.old.is_some() && !self.old_accepts && !self.new_accepts {
            return Err("nobody accepts though the old one lives");
        }
        let faulty = self.old_was_killed || self.wire_was_faulty;
        if self.old.is_none() && self.new.is_some() && !self.new_accepts && !faulty {
            return Err("nobody accepts though nobody was killed");
        }
        for connection in &self.connections {
            let owned = connection.old == Hold::Serves || connection.new == Hold::Serves;
            // A connection whose last word was lost is rather ended than owned twice.
            if !owned && !connection.killed && !self.wire_was_faulty {
                return Err("a connection is lost");
            }
        }
        Ok(())
    }
}

/// Explores everything; the number of different worlds.
fn explore(budget: Budget) -> usize {
    let first = World::new(budget);
    let mut seen = HashMap::from([(fingerprint(&first), None)]);
    let mut todo = vec![first];
    while let Some(world) = todo.pop() {
        let own = world.own_events();
        let checked =
            world.check().and_then(|()| if own.is_empty() { world.check_end() } else { Ok(()) });
        if let Err(what) = checked {
            panic!("{what}: {:#?}\n{world:#?}", path_to(&world, &seen));
        }
        let from = fingerprint(&world);
        for event in own.into_iter().chain(world.faults()) {
            let mut next = world.clone();
            next.happens(event);
            if let Entry::Vacant(vacant) = seen.entry(fingerprint(&next)) {
                vacant.insert(Some((from, event)));
                todo.push(next);
            }
        }
        assert!(seen.len() < WORLDS_MAX, "the protocol has no end");
    }
    seen.len()
}

/// How each world was first come to: from where, and by what.
type Seen = HashMap<u64, Option<(u64, Event)>>;

fn path_to(world: &World, seen: &Seen) -> Vec<Event> {
    let mut path = Vec::new();
    let mut at = fingerprint(world);
    while let Some((from, event)) = seen[&at] {
        path.push(event);
        at = from;
    }
    path.reverse();
    path
}

/// 64 bits of a world: among a million of them two that are taken for one are most unlikely.
fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// Far more than there are.
const WORLDS_MAX: usize = 4_000_000;

const QUIET: Budget = Budget { kills: 0, silences: 0, aborts: 0, wire_faults: 0 };

#[test]
fn nothing_goes_wrong_when_nothing_goes_wrong() {
    assert!(explore(QUIET) > 50);
}

#[test]
fn either_side_or_both_are_killed_at_every_step() {
    assert!(explore(Budget { kills: 2, ..QUIET }) > 500);
}

#[test]
fn either_side_hangs_gives_up_or_is_told_to_at_every_step_and_one_is_killed() {
    assert!(explore(Budget { kills: 1, silences: 1, aborts: 1, ..QUIET }) > 2_000);
}

#[test]
fn a_message_is_lost_repeated_or_overtaken_at_every_step_and_one_is_killed() {
    assert!(explore(Budget { kills: 1, wire_faults: 1, ..QUIET }) > 1_000);
}
