//! The side that takes over: first everything that the predecessor has, before anything of this process's own
//! is made; then, when all is ready, its place.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use outrigger_upgrade::message::{Offer, Progress, Relay, StatePart};
use outrigger_upgrade::record::{self, ConnectionRecord};
use outrigger_upgrade::successor::{Action, Ending};
use outrigger_upgrade::{Channel, Found, Rendezvous, Successor, payload};
use tokio::runtime::Builder;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::line::{Happening, Line};
use super::{
    Duty, HandOverError, Inherited, Lent, Order, SERVICES_KIND, SERVICES_VERSION, Services, Undo,
    end_of_process, hello, listen_again, post, reception, shard_of,
};
use crate::connection::moving::Adoption;
use crate::control::services::state::STATE_BYTES_MAX;
use crate::shard::Message;

/// How a process begins.
pub enum Begun {
    /// There is none before it.
    First(Rendezvous),
    /// It has what its predecessor has.
    Successor(TakeOver),
}

/// A hand-over in which everything has come.
pub struct TakeOver {
    channel: Channel,
    machine: Successor,
    /// The predecessor's listening sockets.
    pub sockets: Arc<Inherited>,
    /// Its directory of services, as a state file has it.
    pub services: Option<Vec<u8>>,
    /// Pieces of its other state.
    pub state: Vec<StatePart>,
}

impl TakeOver {
    /// How many processes served before.
    pub fn generation(&self) -> u32 {
        self.machine.predecessor_generation() + 1
    }
}

/// Finds the running process, and takes what it has; or is the first. Blocks.
///
/// One that dies before it has given everything is looked for again: if it is gone, this process is worth
/// more than none (HU-27).
///
/// # Errors
/// When there is one that does not hand over: then nothing has changed.
pub fn begin(path: &Path) -> Result<Begun, HandOverError> {
    let mut looks = 0;
    loop {
        let (channel, peer) = match Rendezvous::find(path)? {
            Found::Nobody(rendezvous) => return Ok(Begun::First(rendezvous)),
            Found::Living(channel, peer) => (channel, peer),
        };
        log::info!(target: "upgrade", "taking over from process {}", peer.pid);
        let runtime = Builder::new_current_thread().enable_all().build()?;
        looks += 1;
        match runtime.block_on(take(channel)) {
            Err(HandOverError::Lost) if looks < LOOKS_MAX => {
                log::warn!(target: "upgrade", "the running process died: looking again");
            }
            taken => return taken.map(Begun::Successor),
        }
    }
}

/// Takes everything.
async fn take(channel: Channel) -> Result<TakeOver, HandOverError> {
    let mut line = Line::new(channel)?;
    let (mut machine, mut actions) = Successor::new(hello(1));
    let mut sockets = Vec::new();
    let mut services = Pieces::default();
    let mut state = Vec::new();
    loop {
        let mut descriptors = Vec::new();
        if actions.is_empty() {
            let happening = line.next(machine.patience()).await;
            (actions, descriptors) = react(&mut machine, happening);
        }
        for action in std::mem::take(&mut actions) {
            match action {
                Action::Send(message) => drop(line.send(message, Vec::new())),
                Action::TakeListeners(records) => {
                    let named = records.into_iter().zip(descriptors.drain(..));
                    sockets.extend(
                        named.map(|(record, socket)| Lent { listener: record.name.into(), socket }),
                    );
                }
                Action::TakeState(part) => state.extend(services.take(part)),
                Action::WarmUp => {
                    return Ok(TakeOver {
                        channel: line.into_channel(),
                        machine,
                        sockets: Arc::new(Inherited::new(sockets)),
                        services: services.whole(),
                        state,
                    });
                }
                Action::End(Ending::StandDown(reason)) => {
                    line.finish().await;
                    return Err(HandOverError::Refused(reason));
                }
                Action::End(Ending::Lost | Ending::Alone) => {
                    return Err(HandOverError::Lost);
                }
                // None of them comes before everything has.
                _ => {}
            }
        }
    }
}

/// What is to be done now, and the descriptors that came for it.
fn react(machine: &mut Successor, happening: Happening) -> (Vec<Action>, Vec<OwnedFd>) {
    let actions = match happening {
        Happening::Message(message, descriptors) => {
            return (machine.received(message, descriptors.len()), descriptors);
        }
        Happening::Violation(what) => machine.violated(&what),
        Happening::End => machine.closed(),
        Happening::Sent => Vec::new(),
        Happening::Silence => machine.expired(),
    };
    (actions, Vec::new())
}

/// A directory of services that comes in pieces.
#[derive(Default)]
struct Pieces {
    bytes: Vec<u8>,
    whole: Option<Vec<u8>>,
}

impl Pieces {
    /// Gives back what is of something else.
    fn take(&mut self, part: StatePart) -> Option<StatePart> {
        if part.kind != SERVICES_KIND || part.version != SERVICES_VERSION {
            return Some(part);
        }
        self.bytes.extend_from_slice(&part.bytes);
        if self.bytes.len() > STATE_BYTES_MAX {
            log::error!(target: "upgrade", "the predecessor has too many services");
            self.bytes.clear();
        } else if part.is_last {
            self.whole = Some(std::mem::take(&mut self.bytes));
        }
        None
    }

    /// What has come as a whole last.
    fn whole(&mut self) -> Option<Vec<u8>> {
        self.whole.take()
    }
}

/// Takes the predecessor's place as soon as all is ready, and waits for a successor then.
pub(super) async fn run(
    take_over: TakeOver,
    ready: watch::Receiver<bool>,
    duty: Arc<Duty>,
    undone: mpsc::UnboundedReceiver<Undo>,
    hang_ups: mpsc::Receiver<()>,
) {
    let TakeOver { channel, machine, sockets, .. } = take_over;
    let Ok(line) = Line::new(channel) else { return };
    let (answer, answers) = mpsc::unbounded_channel();
    let mut side = Side {
        line,
        machine,
        sockets,
        duty,
        hang_ups: Some(hang_ups),
        newest_services: Pieces::default(),
        without_place: Vec::new(),
        moved: 0,
        is_alone: false,
        answer,
        reception: None,
    };
    side.duty.ties.has_predecessor.store(true, Ordering::Release);
    side.run(ready, undone, answers).await;
    side.duty.view.set_predecessor(None);
    side.duty.ties.has_predecessor.store(false, Ordering::Release);
    side.line.finish().await;
    for shard in &*side.duty.shards {
        post(shard, Message::PredecessorEnded).await;
    }
    if let Some(reception) = side.reception {
        // A panic in it was told.
        let _panicked = reception.await;
    }
}

/// The side that takes over, once everything has come.
struct Side {
    line: Line,
    machine: Successor,
    sockets: Arc<Inherited>,
    duty: Arc<Duty>,
    /// For this process's own reception.
    hang_ups: Option<mpsc::Receiver<()>>,
    newest_services: Pieces,
    /// Listeners of the predecessor that this process does not have.
    without_place: Vec<String>,
    /// Connections that have come.
    moved: u64,
    /// The predecessor accepts no more.
    is_alone: bool,
    /// For shards that have considered one.
    answer: UnboundedSender<Considered>,
    /// Where this process's own successors come.
    reception: Option<JoinHandle<()>>,
}

/// Whether the connection of this number can be gone on with.
type Considered = (u64, Result<(), String>);

impl Side {
    async fn run(
        &mut self,
        mut ready: watch::Receiver<bool>,
        mut undone: mpsc::UnboundedReceiver<Undo>,
        mut answers: mpsc::UnboundedReceiver<Considered>,
    ) {
        let mut is_ready = false;
        // As the predecessor was told last.
        let mut pending = None;
        let services = self.duty.services.clone();
        loop {
            let accepts = self.hang_ups.is_none();
            let mut descriptors = Vec::new();
            let actions = tokio::select! {
                changed = ready.wait_for(|ready| *ready), if !is_ready => {
                    is_ready = true;
                    if changed.is_err() {
                        return;
                    }
                    self.close_rest();
                    self.machine.ready()
                }
                now = settled(services.as_deref(), pending.as_ref()), if accepts => {
                    let actions = self.machine.settled(now.clone());
                    pending = Some(now);
                    actions
                }
                () = end_of_process(&self.duty.farewell) => return,
                Some(Undo { tool }) = undone.recv() => self.undo(tool),
                Some((connection, fit)) = answers.recv() => match fit {
                    Ok(()) => self.machine.adopted(connection),
                    Err(reason) => self.machine.declined(connection, reason),
                },
                happening = next(&mut self.line, &self.machine) => {
                    let actions;
                    (actions, descriptors) = react(&mut self.machine, happening);
                    actions
                }
            };
            if self.perform(actions, descriptors).await {
                return;
            }
        }
    }

    /// Whether it is over.
    async fn perform(&mut self, actions: Vec<Action>, mut descriptors: Vec<OwnedFd>) -> bool {
        let mut accepts = false;
        for action in actions {
            match action {
                Action::Send(message) => drop(self.line.send(message, Vec::new())),
                Action::TakeState(part) => {
                    if let Some(part) = self.newest_services.take(part) {
                        self.duty.heritage.take(&part);
                    }
                }
                Action::Accept => {
                    self.accept().await;
                    accepts = true;
                }
                Action::Show(progress) => {
                    if !std::mem::replace(&mut self.is_alone, true) {
                        log::info!(target: "upgrade", "the predecessor accepts no more");
                    }
                    self.duty.view.set_predecessor(Some(progress));
                }
                Action::Adopt(offer) => {
                    let connection = offer.connection;
                    match consider(offer, std::mem::take(&mut descriptors), &self.answer) {
                        Ok(adoption) => self.adopt(connection, adoption).await,
                        Err(reason) => drop(self.answer.send((connection, Err(reason)))),
                    }
                }
                Action::Serve(connection) => {
                    self.moved += 1;
                    self.adopt(connection, Adoption::Serve(connection)).await;
                }
                Action::Drop(connection) => {
                    self.adopt(connection, Adoption::Forget(connection)).await;
                }
                Action::Relay(Relay { connection, mut bytes, spilled }) => {
                    if let Err(reason) = whole(&mut bytes, spilled, &mut descriptors) {
                        log::error!(target: "upgrade", "an answer is lost: {reason}");
                    }
                    self.adopt(connection, Adoption::Relay(connection, bytes)).await;
                }
                Action::RelayEnd(connection) => {
                    self.adopt(connection, Adoption::RelayEnd(connection)).await;
                }
                Action::End(Ending::StandDown(reason)) => {
                    self.duty.leave_interfaces();
                    if let Some(services) = &self.duty.services {
                        services.hold();
                    }
                    self.duty.order(Order::StandDown(reason));
                    return true;
                }
                Action::End(Ending::Alone | Ending::Lost) => {
                    log::info!(target: "upgrade", "the predecessor has ended");
                    self.duty.order(Order::KeepAccepting);
                    return true;
                }
                // Listeners have come before.
                Action::TakeListeners(_) | Action::WarmUp => {}
            }
        }
        if accepts {
            self.release();
        }
        false
    }

    /// Closes what this configuration has no place for: what waits there is the predecessor's.
    fn close_rest(&mut self) {
        for name in self.sockets.close_rest() {
            log::warn!(target: "upgrade", "{name}: has no place in this configuration, and closes");
            self.without_place.push(name.into());
        }
        self.without_place.sort();
        self.without_place.dedup();
    }

    async fn accept(&mut self) {
        if let Some(services) = &self.duty.services {
            match self.newest_services.whole() {
                Some(state) => services.adopt(&state).await,
                None => services.reread().await,
            }
        }
        let (told, is_told) = oneshot::channel();
        self.duty.order(Order::Accept(told));
        // Connections that are offered from now on find their listeners.
        let _ended = is_told.await;
        self.duty.take_interfaces();
        // Nothing is known of it but that it lives.
        let generation = self.machine.predecessor_generation();
        self.duty.view.set_predecessor(Some(Progress { generation, ..Progress::default() }));
        if let Some(hang_ups) = self.hang_ups.take()
            && let Some(rendezvous) = listen_again(&self.duty.path)
        {
            let receiving = reception::run(rendezvous, Arc::clone(&self.duty), hang_ups);
            self.reception = Some(tokio::spawn(receiving));
        }
    }

    async fn adopt(&self, connection: u64, adoption: Adoption) {
        post(shard_of(&self.duty.shards, connection), Message::Adoption(adoption)).await;
    }

    fn release(&mut self) {
        for name in std::mem::take(&mut self.without_place) {
            for action in self.machine.released(name) {
                if let Action::Send(message) = action {
                    self.line.send(message, Vec::new());
                }
            }
        }
    }

    /// An operator wants the predecessor back, which is possible until connections have moved (HU-07).
    fn undo(&mut self, tool: Line) -> Vec<Action> {
        if self.moved > 0 {
            let what = format!(
                "{} connections have moved to this process, which can't be taken back",
                self.moved
            );
            reception::say(tool, false, &what);
            return Vec::new();
        }
        reception::say(tool, true, "the predecessor serves again, and this process ends");
        self.machine.failed("an operator wants the predecessor back".to_owned())
    }
}

/// One that serves is to be heard; else it is the predecessor who is.
async fn next(line: &mut Line, machine: &Successor) -> Happening {
    let patience = machine.patience();
    if machine.is_serving() {
        let until = patience.map(|patience| line.said_at() + patience);
        line.next_until(until).await
    } else {
        line.next(patience).await
    }
}

/// Registries in which something is to be registered, once these are others than `told`.
async fn settled(services: Option<&Services>, told: Option<&Vec<String>>) -> Vec<String> {
    match services {
        Some(services) => services.pending_but(told).await,
        None if told.is_none() => Vec::new(),
        None => std::future::pending().await,
    }
}

/// What a shard is to consider. The reason, where there is nothing to be considered.
fn consider(
    offer: Offer,
    mut sockets: Vec<OwnedFd>,
    answer: &UnboundedSender<Considered>,
) -> Result<Adoption, String> {
    let Offer { connection, version, mut record, spilled, .. } = offer;
    if version != record::VERSION {
        return Err(format!("a record of version {version} where {} is known", record::VERSION));
    }
    whole(&mut record, spilled, &mut sockets)?;
    let record = ConnectionRecord::from_bytes(&record).map_err(|error| error.to_string())?;
    Ok(Adoption::Consider { connection, record: Box::new(record), sockets, answer: answer.clone() })
}

/// Fetches bytes from the file that came along as the last descriptor, if they are there.
fn whole(bytes: &mut Vec<u8>, spilled: u64, descriptors: &mut Vec<OwnedFd>) -> Result<(), String> {
    if spilled == 0 {
        return Ok(());
    }
    let file = descriptors.pop().ok_or("a file is missing")?;
    *bytes = payload::unspill(file, spilled).map_err(|error| error.to_string())?;
    Ok(())
}

/// Processes that die while they hand over, one after the other.
const LOOKS_MAX: u32 = 3;
