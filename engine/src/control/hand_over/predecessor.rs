//! The side that hands over.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use outrigger_upgrade::message::{Hello, Message};
use outrigger_upgrade::predecessor::{Action, Ending};
use outrigger_upgrade::{Channel, DESCRIPTORS_MAX, Peer, Predecessor, Rendezvous, version};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::time::interval;

use crate::connection::moving::Answer;
use crate::shard::Mail;

use super::heritage::{Heritage, Told};
use super::line::{Happening, Line};
use super::moves::Moves;
use super::{ADMIN, AdminSocket, Lent, Order, end_of_process, listen_again, record};

/// What this side needs to do its part.
pub(super) struct Duty {
    pub(super) path: PathBuf,
    pub(super) orders: Sender<Order>,
    pub(super) admin: AdminSocket,
    pub(super) hello: Hello,
    pub(super) shards: Arc<[Mail]>,
    pub(super) heritage: Heritage,
    pub(super) farewell: watch::Receiver<bool>,
}

/// Waits for successors, until the process ends.
pub(super) async fn run(rendezvous: Rendezvous, mut duty: Duty) {
    let mut rendezvous = Some(rendezvous);
    while let Some(listening) = rendezvous.take() {
        // SAFETY: a rendezvous owns its descriptor, and always shows the same.
        let Ok(listening) = (unsafe { AsyncFd::register(listening) }) else { return };
        let next = tokio::select! {
            next = next(&listening) => next,
            () = end_of_process(&mut duty.farewell) => None,
        };
        let Some((channel, peer)) = next else { return };
        if !may_take_over(peer) {
            log::warn!(target: "upgrade", "process {} of user {} may not take over", peer.pid, peer.uid);
            rendezvous = Some(listening.into_inner());
            continue;
        }
        log::info!(target: "upgrade", "process {} takes over", peer.pid);
        let had_moved = hand_over(channel, &mut duty).await;
        if *duty.farewell.borrow() {
            return;
        }
        // A successor that was to accept has put its own socket in this one's place.
        rendezvous =
            if had_moved { listen_again(&duty.path) } else { Some(listening.into_inner()) };
    }
}

async fn next(rendezvous: &AsyncFd<Rendezvous>) -> Option<(Channel, Peer)> {
    loop {
        let mut ready = rendezvous.readable().await.ok()?;
        match rendezvous.get_ref().accept() {
            Ok(Some(next)) => return Some(next),
            Ok(None) => ready.clear_ready(),
            Err(error) => {
                log::warn!(target: "upgrade", "cannot accept a successor: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Only who could have started this process (HU-04).
fn may_take_over(peer: Peer) -> bool {
    // SAFETY: geteuid has no preconditions.
    peer.uid == unsafe { libc::geteuid() } || peer.uid == 0
}

/// One hand-over, from its first word to its end. Whether the successor had begun to accept.
async fn hand_over(channel: Channel, duty: &mut Duty) -> bool {
    let Ok(mut line) = Line::new(channel) else { return false };
    let mut machine = Predecessor::new(duty.hello.clone());
    let mut had_moved = false;
    let mut moves = Moves::new(Arc::clone(&duty.shards));
    let mut told = Told::default();
    let mut news_due = interval(NEWS_INTERVAL);
    loop {
        let mut successor_lives = true;
        let actions = tokio::select! {
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
            () = end_of_process(&mut duty.farewell) => {
                for part in duty.heritage.news(&mut told) {
                    for action in machine.state(part) {
                        if let Action::Send(message) = action {
                            line.send(message, Vec::new());
                        }
                    }
                }
                line.finish().await;
                return true;
            }
        };
        let mut due = VecDeque::from(actions);
        while let Some(action) = due.pop_front() {
            match action {
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
                    due.extend(machine.prepared());
                }
                Action::StopAccepting => {
                    had_moved = true;
                    duty.admin.is_ours.send_replace(false);
                    let outbox = moves.outbox.take();
                    let can_move = machine.features() & version::MOVES_CONNECTIONS != 0;
                    order(duty, Order::StopAccepting(outbox.filter(|_| can_move)));
                }
                Action::ResumeAccepting => {
                    duty.admin.is_ours.send_replace(true);
                    order(duty, Order::ResumeAccepting { successor_lives });
                }
                Action::Give(connection) => moves.give(connection, &mut line),
                Action::Resume(connection, reason) => {
                    moves.answer(connection, Answer::Stays(reason)).await;
                }
                // What is not accepted on needs no closing.
                Action::Release(_) => {}
                Action::End(ending) => {
                    report(&ending);
                    if !had_moved {
                        order(duty, Order::KeepAccepting);
                    }
                    moves.end(&line).await;
                    line.finish().await;
                    return had_moved;
                }
            }
        }
        moves.settle(&line).await;
    }
}

/// The listening sockets of all shards, and the admin interface's.
async fn lend(duty: &Duty) -> Vec<Lent> {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let admin = duty.admin.socket.as_ref().and_then(|socket| socket.try_clone().ok());
    let admin = admin.map(|socket| Lent { listener: ADMIN.into(), socket });
    let mut all = Vec::from_iter(admin);
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

fn order(duty: &Duty, order: Order) {
    // Nobody takes orders at the end of the process.
    let _ended = duty.orders.send(order);
}

fn report(ending: &Ending) {
    match ending {
        Ending::Lost => {
            log::warn!(target: "upgrade", "the successor has died: this process serves on");
        }
        Ending::GivenUp(reason) => {
            log::warn!(target: "upgrade", "the successor gave up: this process serves on: {reason}");
        }
        Ending::Aborted(reason) => {
            log::warn!(target: "upgrade", "hand-over aborted: this process serves on: {reason}");
        }
    }
}

/// How often a successor hears what was counted since.
const NEWS_INTERVAL: Duration = Duration::from_millis(500);

/// Out of descriptors, most likely: it takes someone else to close one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
