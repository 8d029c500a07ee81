//! The side that takes over: first everything that the predecessor has, before anything of this process's own
//! is made; then, when all is ready, its place.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use outrigger_upgrade::message::{Offer, Relay, StatePart};
use outrigger_upgrade::record::{self, ConnectionRecord};
use outrigger_upgrade::successor::{Action, Ending};
use outrigger_upgrade::{Channel, Found, Rendezvous, Successor, payload};
use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};

use crate::connection::moving::Adoption;
use crate::shard::{Mail, Message};

use super::line::{Happening, Line};
use super::predecessor::{self, Duty};
use super::{
    HandOverError, Inherited, Lent, Order, end_of_process, hello, listen_again, post, shard_of,
};

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
    /// Pieces of its state.
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
                Action::TakeState(part) => state.push(part),
                Action::WarmUp => {
                    return Ok(TakeOver {
                        channel: line.into_channel(),
                        machine,
                        sockets: Arc::new(Inherited::new(sockets)),
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

/// Takes the predecessor's place as soon as all is ready, and waits for a successor then.
pub(super) async fn run(take_over: TakeOver, mut ready: watch::Receiver<bool>, duty: Duty) {
    let TakeOver { channel, mut machine, sockets, state: _ } = take_over;
    let Ok(mut line) = Line::new(channel) else { return };
    let orders = duty.orders.clone();
    let shards = Arc::clone(&duty.shards);
    let heritage = duty.heritage.clone();
    let mut farewell = duty.farewell.clone();
    let mut next_hand_over = None;
    let (answer, mut answers) = unbounded_channel();
    let mut duty = Some(duty);
    let mut is_ready = false;
    'line: loop {
        // One that serves is to be heard; else it is the predecessor who is.
        let since = if machine.is_serving() { line.said_at() } else { line.heard_at() };
        let until = machine.patience().map(|patience| since + patience);
        let mut descriptors = Vec::new();
        let actions = tokio::select! {
            changed = ready.wait_for(|ready| *ready), if !is_ready => {
                is_ready = true;
                if changed.is_err() {
                    break 'line;
                }
                for name in sockets.close_rest() {
                    log::warn!(target: "upgrade", "{name}: has no place in this configuration, and closes");
                }
                machine.ready()
            }
            () = end_of_process(&mut farewell) => break 'line,
            Some((connection, fit)) = answers.recv() => match fit {
                Ok(()) => machine.adopted(connection),
                Err(reason) => machine.declined(connection, reason),
            },
            happening = line.next_until(until) => {
                let actions;
                (actions, descriptors) = react(&mut machine, happening);
                actions
            }
        };
        for action in actions {
            match action {
                Action::Send(message) => drop(line.send(message, Vec::new())),
                Action::Accept => {
                    let (told, is_told) = oneshot::channel();
                    // Nobody takes orders at the end of the process.
                    let _ended = orders.send(Order::Accept(told));
                    // Connections that are offered from now on find their listeners.
                    let _ended = is_told.await;
                    if let Some(duty) = duty.take() {
                        duty.admin.is_ours.send_replace(true);
                        if let Some(rendezvous) = listen_again(&duty.path) {
                            next_hand_over = Some(tokio::spawn(predecessor::run(rendezvous, duty)));
                        }
                    }
                }
                Action::End(Ending::StandDown(reason)) => {
                    line.finish().await;
                    let _ended = orders.send(Order::StandDown(reason));
                    predecessor_ended(&shards).await;
                    break 'line;
                }
                Action::End(Ending::Alone | Ending::Lost) => {
                    log::info!(target: "upgrade", "the predecessor has ended");
                    let _ended = orders.send(Order::KeepAccepting);
                    predecessor_ended(&shards).await;
                    break 'line;
                }
                Action::Adopt(offer) => {
                    let connection = offer.connection;
                    match consider(offer, std::mem::take(&mut descriptors), &answer) {
                        Ok(adoption) => adopt(&shards, connection, adoption).await,
                        Err(reason) => drop(answer.send((connection, Err(reason)))),
                    }
                }
                Action::Serve(connection) => {
                    adopt(&shards, connection, Adoption::Serve(connection)).await;
                }
                Action::Drop(connection) => {
                    adopt(&shards, connection, Adoption::Forget(connection)).await;
                }
                Action::Relay(Relay { connection, mut bytes, spilled }) => {
                    if let Err(reason) = whole(&mut bytes, spilled, &mut descriptors) {
                        log::error!(target: "upgrade", "an answer is lost: {reason}");
                    }
                    adopt(&shards, connection, Adoption::Relay(connection, bytes)).await;
                }
                Action::RelayEnd(connection) => {
                    adopt(&shards, connection, Adoption::RelayEnd(connection)).await;
                }
                Action::TakeState(part) => heritage.take(&part),
                // Listeners have come before; how far the predecessor is, it says itself.
                Action::TakeListeners(_) | Action::WarmUp | Action::Show(_) => {}
            }
        }
    }
    if let Some(next) = next_hand_over {
        // A panic in it was told.
        let _panicked = next.await;
    }
}

async fn adopt(shards: &[Mail], connection: u64, adoption: Adoption) {
    post(shard_of(shards, connection), Message::Adoption(adoption)).await;
}

async fn predecessor_ended(shards: &[Mail]) {
    for shard in shards {
        post(shard, Message::PredecessorEnded).await;
    }
}

/// What a shard is to consider. The reason, where there is nothing to be considered.
fn consider(
    offer: Offer,
    mut sockets: Vec<OwnedFd>,
    answer: &UnboundedSender<(u64, Result<(), String>)>,
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
