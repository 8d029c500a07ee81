//! The side that hands over.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use outrigger_upgrade::message::{Abort, Message, StatePart};
use outrigger_upgrade::predecessor::{Action, Ending};
use outrigger_upgrade::{DESCRIPTORS_MAX, Peer, Predecessor, Rendezvous, version};
use tokio::sync::{mpsc, oneshot};
use tokio::time::interval;

use crate::connection::moving::{Answer, Departure};

use super::heritage::Told;
use super::line::{Happening, Line};
use super::moves::Moves;
use super::{
    ADMIN, Duty, Lent, Order, SERVICES_KIND, SERVICES_VERSION, Tenure, end_of_process, record,
};

/// How a hand-over ended for the side that hands over.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Another process serves, and this one goes on draining, or has.
    pub(super) is_left: bool,
    /// Why.
    pub(super) why: String,
}

/// One hand-over, from its first word to its end.
pub(super) async fn run(
    mut line: Line,
    first: Message,
    successor: Peer,
    duty: &Duty,
    mut aborts: mpsc::Receiver<String>,
    committed: oneshot::Sender<()>,
) -> Outcome {
    let mut machine = Predecessor::new(duty.hello.clone());
    let mut committed = Some(committed);
    let mut outcome = Outcome { is_left: false, why: String::new() };
    // Whether the successor had begun to accept.
    let mut had_moved = false;
    let mut successor_lives = true;
    let mut moves = Moves::new(Arc::clone(&duty.shards));
    let mut actions = machine.received(first);
    let mut told = Told::default();
    let mut news_due = interval(NEWS_INTERVAL);
    let mut ticks = interval(PROGRESS_INTERVAL);
    // Of this process's shards. There is no progress before.
    let (stopped, mut have_stopped) = oneshot::channel();
    let mut stopped = Some(stopped);
    loop {
        let mut due = VecDeque::from(actions);
        while let Some(action) = due.pop_front() {
            match action {
                Action::Send(Message::Abort(Abort { reason }))
                    if had_moved && !duty.ties.recall() =>
                {
                    // The successor must not hear of it: it would end as well.
                    log::warn!(target: "upgrade", "{reason}: this process ends all the same");
                    due.clear();
                }
                Action::Send(message) => {
                    if let Message::Abort(_) = message {
                        line.take_back();
                    }
                    line.send(message, Vec::new());
                }
                Action::Prepare => {
                    let lent = lend(duty).await;
                    send_listeners(&mut line, &mut machine, lent);
                    for part in duty.heritage.all(&mut told) {
                        due.extend(machine.state(part));
                    }
                    send_services(&mut line, &mut machine, duty);
                    due.extend(machine.prepared());
                }
                Action::Yield => {
                    duty.tenure.send_replace(Tenure::Yielding);
                    if let Some(services) = &duty.services {
                        services.quiesce().await;
                    }
                    send_services(&mut line, &mut machine, duty);
                    due.extend(machine.yielded());
                }
                Action::StopAccepting => {
                    had_moved = true;
                    let can_move = machine.features() & version::MOVES_CONNECTIONS != 0;
                    stop_accepting(duty, moves.outbox.take().filter(|_| can_move), stopped.take());
                    if let Some(committed) = committed.take() {
                        // Nobody may want to know.
                        let _gone = committed.send(());
                    }
                }
                Action::Settled(pending) => {
                    if let Some(services) = &duty.services {
                        services.release_but(pending);
                    }
                    look_at_registrations(duty);
                }
                Action::ResumeAccepting => {
                    outcome.is_left = another_serves(&duty.path, successor);
                    if outcome.is_left {
                        log::info!(target: "upgrade", "the successor's own successor serves");
                        duty.ties.needs_registration.store(false, Ordering::Release);
                        duty.ties.open();
                        duty.order(Order::DrainAlone);
                    } else if duty.ties.recall() {
                        resume_accepting(duty, successor_lives).await;
                    } else {
                        log::error!(target: "upgrade", "this process has left everything to a successor that has died");
                        outcome.is_left = true;
                    }
                }
                Action::Give(connection) => {
                    duty.view.count_moved();
                    moves.give(connection, &mut line);
                }
                Action::Resume(connection, reason) => {
                    if reason.is_some() {
                        duty.view.count_declined();
                    }
                    moves.answer(connection, Answer::Stays(reason)).await;
                }
                Action::Release(name) if name == ADMIN => {
                    // Whoever watches this process's end is answered.
                    duty.is_ours.send_replace(true);
                }
                Action::Release(name) => duty.order(Order::Release(name)),
                Action::End(ending) => {
                    outcome.why = report(ending, outcome.is_left);
                    duty.view.set_successor(None);
                    if !had_moved {
                        duty.take_interfaces();
                        duty.order(Order::KeepAccepting);
                    }
                    if !outcome.is_left {
                        duty.view.stats().failed.inc();
                    }
                    moves.end(&line).await;
                    line.finish().await;
                    return outcome;
                }
            }
        }
        moves.settle(&line).await;
        actions = tokio::select! {
            happening = line.next(machine.patience()) => match happening {
                Happening::Message(message, _) => machine.received(message),
                Happening::Violation(what) => machine.violated(&what),
                Happening::End => {
                    successor_lives = false;
                    machine.closed()
                }
                Happening::Sent => Vec::new(),
                Happening::Silence => machine.expired(),
            },
            Some(departure) = moves.departures.recv(), if machine.is_moving() => {
                moves.depart(departure, &mut machine, &mut line).await
            }
            _ = news_due.tick(), if machine.is_moving() => {
                let news = duty.heritage.news(&mut told);
                news.into_iter().flat_map(|part| machine.state(part)).collect()
            }
            () = end_of_process(&duty.farewell) => {
                for part in duty.heritage.news(&mut told) {
                    send_state(&mut line, &mut machine, part);
                }
                line.finish().await;
                outcome.is_left = true;
                return outcome;
            }
            Some(reason) = aborts.recv() => machine.abort(reason),
            _ = &mut have_stopped, if !have_stopped.is_terminated() => Vec::new(),
            _ = ticks.tick(), if machine.is_moving() && have_stopped.is_terminated() => {
                look_at_registrations(duty);
                machine.progress(duty.view.progress())
            }
        };
    }
}

/// The successor accepts, and answers for everything that is not a connection.
fn stop_accepting(
    duty: &Duty,
    outbox: Option<mpsc::UnboundedSender<Departure>>,
    stopped: Option<oneshot::Sender<()>>,
) {
    if let Some(services) = &duty.services {
        services.hold();
    }
    look_at_registrations(duty);
    duty.ties.open();
    duty.leave_interfaces();
    duty.view.stats().handed_over.inc();
    duty.view.set_successor(None);
    duty.view.set_end(Some(Instant::now() + duty.drain_time));
    duty.order(Order::StopAccepting { outbox, stopped });
}

async fn resume_accepting(duty: &Duty, successor_lives: bool) {
    duty.ties.needs_registration.store(false, Ordering::Release);
    duty.view.set_end(None);
    duty.order(Order::ResumeAccepting { successor_lives });
    if let Some(services) = &duty.services {
        services.resume().await;
    }
    duty.take_interfaces();
}

/// Whether a process other than a successor that is dead or hangs has the path.
fn another_serves(path: &Path, successor: Peer) -> bool {
    let Ok(Some((_, peer))) = Rendezvous::call(path) else { return false };
    let own = std::process::id() as i32;
    // One in another namespace can't be told from the successor.
    peer.pid != 0 && peer.pid != own && peer.pid != successor.pid
}

/// Whether what is registered would be gone with this process.
fn look_at_registrations(duty: &Duty) {
    let is_needed = duty.services.as_ref().is_some_and(|services| services.is_needed());
    duty.ties.needs_registration.store(is_needed, Ordering::Release);
}

/// The directory of services, in pieces.
fn send_services(line: &mut Line, machine: &mut Predecessor, duty: &Duty) {
    let Some(services) = &duty.services else { return };
    let Some(encoded) = services.encoded() else { return };
    let count = encoded.len().div_ceil(PART_BYTES);
    for (at, bytes) in encoded.chunks(PART_BYTES).enumerate() {
        let part = StatePart {
            kind: SERVICES_KIND.to_owned(),
            version: SERVICES_VERSION,
            bytes: bytes.to_vec(),
            is_last: at + 1 == count,
        };
        send_state(line, machine, part);
    }
}

fn send_state(line: &mut Line, machine: &mut Predecessor, part: StatePart) {
    for action in machine.state(part) {
        if let Action::Send(message) = action {
            line.send(message, Vec::new());
        }
    }
}

/// The listening sockets of all shards, and the control thread's.
async fn lend(duty: &Duty) -> Vec<Lent> {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let share = |Lent { listener, socket }: &Lent| {
        Some(Lent { listener: listener.clone(), socket: socket.try_clone().ok()? })
    };
    let mut all: Vec<_> = duty.sockets.iter().filter_map(share).collect();
    if duty.orders.send(Order::Lend(sender)).is_ok() {
        // Ends when the last shard has told.
        while let Some(lent) = receiver.recv().await {
            all.push(lent);
        }
    }
    all
}

fn send_listeners(line: &mut Line, machine: &mut Predecessor, mut lent: Vec<Lent>) {
    while !lent.is_empty() {
        let rest = lent.split_off(lent.len().min(DESCRIPTORS_MAX));
        let records = lent.iter().map(record).collect();
        let mut sockets = Some(lent.into_iter().map(|lent| lent.socket).collect());
        for action in machine.listeners(records) {
            if let Action::Send(message @ Message::Listeners(_)) = action {
                line.send(message, sockets.take().unwrap_or_default());
            }
        }
        lent = rest;
    }
}

/// For the log, and in words.
fn report(ending: Ending, is_left: bool) -> String {
    let what = match ending {
        Ending::Lost => "the successor has died".to_owned(),
        Ending::GivenUp(reason) => format!("the successor gave up: {reason}"),
        Ending::Aborted(reason) => format!("hand-over aborted: {reason}"),
    };
    let then = if is_left { "this process ends" } else { "this process serves on" };
    log::warn!(target: "upgrade", "{what}: {then}");
    what
}

/// How often a successor hears how far this process is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// How often a successor hears what was counted since.
const NEWS_INTERVAL: Duration = Duration::from_millis(500);

/// Of a state, in one message.
const PART_BYTES: usize = 64 * 1024;
