//! Who comes to the control socket of the process that serves: successors, and operators' tools.
//!
//! Invariant: there is one hand-over at a time, and never more processes than the operator allows; who is
//! turned away is told why, and everybody else serves on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use outrigger_upgrade::message::{Abort, Answer, Ask, Message, Wish};
use outrigger_upgrade::predecessor::GREETING_PATIENCE;
use outrigger_upgrade::{Channel, Peer, Rendezvous};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, sleep_until};

use super::line::{Happening, Line};
use super::predecessor::{self, Outcome};
use super::start::Handle;
use super::{Duty, Tenure, Undo, end_of_process, listen_again};

/// Answers whoever comes, until the process ends.
pub(super) async fn run(rendezvous: Rendezvous, duty: Arc<Duty>, mut hang_ups: mpsc::Receiver<()>) {
    let (events, mut happened) = mpsc::channel(EVENTS_MAX);
    let mut reception =
        Reception { duty, events, running: None, attempt: None, has_left: false, next: None };
    let guests = Arc::new(Semaphore::new(GUESTS_MAX));
    let mut listening = register(rendezvous);
    let mut ticks = interval(LOOK_INTERVAL);
    loop {
        let deadline = reception.attempt.as_ref().and_then(|attempt| attempt.deadline);
        tokio::select! {
            come = next(listening.as_ref()) => {
                if let Ok(place) = Arc::clone(&guests).try_acquire_owned() {
                    let (channel, peer) = come;
                    let events = reception.events.clone();
                    tokio::spawn(async move {
                        greet(channel, peer, &events).await;
                        drop(place);
                    });
                }
            }
            Some(event) = happened.recv() => {
                let is_over = matches!(event, Event::Ended(_));
                reception.happens(event);
                if is_over && reception.is_lost(listening.as_ref()) {
                    // First the new one, then the end of the old: whoever looks knows that we live.
                    listening = listen_again(&reception.duty.path).and_then(register);
                }
            }
            // One that stood still may take the path when all is over, and leave it to nobody.
            _ = ticks.tick(), if reception.running.is_none() => {
                let path = &reception.duty.path;
                if reception.is_lost(listening.as_ref()) && !Rendezvous::is_taken(path) {
                    listening = listen_again(path).and_then(register);
                }
            }
            Some(()) = hang_ups.recv() => {
                log::info!(target: "upgrade", "SIGHUP: starting a successor");
                reception.start(None, None);
            }
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                reception.give_up("the new process does not connect");
            }
            () = end_of_process(&reception.duty.farewell) => break,
        }
    }
    if let Some(Running { task, .. }) = reception.running {
        // It has something to say to the end. A panic in it was told.
        let _panicked = task.await;
    }
}

/// What is under way.
struct Reception {
    duty: Arc<Duty>,
    events: mpsc::Sender<Event>,
    running: Option<Running>,
    attempt: Option<Attempt>,
    /// A successor serves.
    has_left: bool,
    /// Who takes over when what is left of a hand-over that has failed is put away.
    next: Option<Guest>,
}

/// Who has come, and the first word.
type Guest = (Line, Peer, Message);

/// A hand-over.
struct Running {
    pid: i32,
    aborts: mpsc::Sender<String>,
    task: JoinHandle<()>,
    /// Who wanted it to end.
    tools: Vec<Line>,
}

/// A successor that this process has started, and that does not serve yet.
struct Attempt {
    pid: u32,
    handle: Handle,
    /// Who wanted it, if it was no signal.
    tool: Option<Line>,
    /// When it is to have connected; nothing once it has.
    deadline: Option<Instant>,
}

enum Event {
    /// Somebody has said what for.
    Come(Box<Guest>),
    /// The successor accepts.
    Committed,
    /// A hand-over is over.
    Ended(Outcome),
    /// A process that this one has started is gone.
    ChildEnded(u32, String),
}

impl Reception {
    /// Whether this process is to be found, and is not: a successor that was to accept has put its own
    /// socket in the place of this one's.
    fn is_lost(&self, listening: Option<&AsyncFd<Rendezvous>>) -> bool {
        let serves = *self.duty.tenure.borrow() == Tenure::Ours;
        serves && !listening.is_some_and(|listening| listening.get_ref().is_in_place())
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Come(guest) => match *guest {
                (line, peer, Message::Ask(ask)) => self.asked(line, peer, &ask),
                (line, peer, first @ Message::Hello(_)) => self.succeed(line, peer, first),
                (line, peer, _) => {
                    log::warn!(target: "upgrade", "process {} does not say who it is", peer.pid);
                    refuse(line, "the first word is to be who speaks".to_owned());
                }
            },
            Event::Committed => self.committed(),
            Event::Ended(outcome) => self.ended(outcome),
            Event::ChildEnded(pid, how) => self.child_ended(pid, &how),
        }
    }

    fn succeed(&mut self, line: Line, peer: Peer, first: Message) {
        if let Some(reason) = self.has_no_place() {
            log::warn!(target: "upgrade", "process {} may not take over: {reason}", peer.pid);
            self.duty.view.stats().refused.inc();
            return refuse(line, reason);
        }
        if self.comes_back() {
            self.next = Some((line, peer, first));
            return;
        }
        log::info!(target: "upgrade", "process {} takes over", peer.pid);
        self.duty.view.set_successor(Some(u32::try_from(peer.pid).unwrap_or(0)));
        if let Some(attempt) = &mut self.attempt
            && (peer.pid == 0 || u32::try_from(peer.pid) == Ok(attempt.pid))
        {
            attempt.deadline = None;
        }
        let (aborts, aborted) = mpsc::channel(1);
        let (committed, is_committed) = oneshot::channel();
        let (duty, events) = (Arc::clone(&self.duty), self.events.clone());
        let task = tokio::spawn(async move {
            let outcome = predecessor::run(line, first, peer, &duty, aborted, committed).await;
            // Nobody listens at the end of the process.
            let _ended = events.send(Event::Ended(outcome)).await;
        });
        self.running = Some(Running { pid: peer.pid, aborts, task, tools: Vec::new() });
        let events = self.events.clone();
        tokio::spawn(async move {
            if is_committed.await.is_ok() {
                let _ended = events.send(Event::Committed).await;
            }
        });
    }

    /// Why there can be no successor now, if there can't.
    fn has_no_place(&self) -> Option<String> {
        if self.comes_back() {
            let next = self.next.as_ref();
            return next.map(|(_, peer, _)| format!("process {} is about to take over", peer.pid));
        }
        if self.has_left {
            return Some("another process has taken over already".to_owned());
        }
        if let Some(running) = &self.running {
            return Some(format!("process {} is taking over already", running.pid));
        }
        let (processes, max) = (self.duty.view.processes(), self.duty.view.processes_max());
        (processes >= max).then(|| {
            format!(
                "{processes} processes run, and engine.upgrade.max_processes is {max}: wait until one has \
                 ended"
            )
        })
    }

    /// Whether this process serves again after its successor's death, which is not over yet. Whoever sees that
    /// it serves may start the next one.
    fn comes_back(&self) -> bool {
        self.has_left && self.duty.ties.is_recalled()
    }

    fn asked(&mut self, tool: Line, peer: Peer, ask: &Ask) {
        match ask.wish() {
            Wish::Status => {
                let status = Some(Box::new(self.duty.view.status()));
                answer(tool, Answer { is_done: true, text: String::new(), status });
            }
            Wish::Upgrade => {
                log::info!(target: "upgrade", "process {} wants a successor to be started", peer.pid);
                let binary = (!ask.binary.is_empty()).then(|| PathBuf::from(&ask.binary));
                self.start(binary.as_deref(), Some(tool));
            }
            Wish::Abort => {
                log::info!(target: "upgrade", "process {} wants the hand-over to end", peer.pid);
                self.abort(tool);
            }
            Wish::Unknown => say(tool, false, "this process does not know that wish"),
        }
    }

    fn start(&mut self, binary: Option<&Path>, tool: Option<Line>) {
        let place = match &self.attempt {
            Some(attempt) => Some(format!("process {} is being started already", attempt.pid)),
            None => self.has_no_place(),
        };
        let started = match place {
            Some(reason) => Err(reason),
            None => self.duty.launch.start(binary).map_err(|error| error.to_string()),
        };
        let started = match started {
            Ok(started) => started,
            Err(reason) => {
                log::error!(target: "upgrade", "no successor is started: {reason}");
                return tool.into_iter().for_each(|tool| say(tool, false, &reason));
            }
        };
        let pid = started.pid();
        log::info!(target: "upgrade", "process {pid} is started");
        let deadline = Some(Instant::now() + START_PATIENCE);
        self.attempt = Some(Attempt { pid, handle: started.handle(), tool, deadline });
        let events = self.events.clone();
        tokio::spawn(async move {
            let how = match started.ended().await {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            };
            let _ended = events.send(Event::ChildEnded(pid, how)).await;
        });
    }

    fn abort(&mut self, tool: Line) {
        match &mut self.running {
            Some(running) if !self.has_left => {
                running.tools.push(tool);
                // One wish is as good as two.
                let _told = running.aborts.try_send(BY_OPERATOR.to_owned());
            }
            _ if self.attempt.is_some() => {
                self.give_up(BY_OPERATOR);
                say(tool, true, "the new process was ended before it had connected");
            }
            _ => {
                if let Err(mpsc::error::SendError(Undo { tool })) =
                    self.duty.undo.send(Undo { tool })
                {
                    say(tool, false, "no hand-over is under way");
                }
            }
        }
    }

    /// Ends a process that was started and has not connected.
    fn give_up(&mut self, why: &str) {
        if let Some(Attempt { pid, handle, tool, .. }) = self.attempt.take() {
            handle.kill();
            let what = format!("process {pid} is ended: {why}");
            log::error!(target: "upgrade", "{what}");
            tool.into_iter().for_each(|tool| say(tool, false, &what));
        }
    }

    fn committed(&mut self) {
        self.has_left = true;
        if let Some(Attempt { pid, tool: Some(tool), .. }) = self.attempt.take() {
            let own = std::process::id();
            let left = self.duty.view.status().connections;
            let what = format!("process {pid} serves; {own} drains, with {left} connections left");
            say(tool, true, &what);
        }
    }

    fn ended(&mut self, outcome: Outcome) {
        let Outcome { is_left, why, .. } = outcome;
        // Once a successor serves, an attempt is one at the next.
        let attempt = if self.has_left { None } else { self.attempt.take() };
        self.has_left = is_left;
        let tools = self.running.take().map(|running| running.tools).unwrap_or_default();
        let what = format!("process {} serves on", std::process::id());
        tools.into_iter().for_each(|tool| say(tool, true, &what));
        let starter = attempt.and_then(|attempt| attempt.tool);
        starter.into_iter().for_each(|tool| say(tool, false, &format!("{why}; {what}")));
        if let Some((line, peer, first)) = self.next.take() {
            self.succeed(line, peer, first);
        }
    }

    fn child_ended(&mut self, pid: u32, how: &str) {
        let is_attempt = self.attempt.as_ref().is_some_and(|attempt| attempt.pid == pid);
        if !is_attempt {
            return log::info!(target: "upgrade", "process {pid}, started by this one: {how}");
        }
        let what = format!("process {pid} did not take over: {how}; its log says why");
        log::error!(target: "upgrade", "{what}");
        let tool = self.attempt.take().and_then(|attempt| attempt.tool);
        tool.into_iter().for_each(|tool| say(tool, false, &what));
    }
}

fn register(rendezvous: Rendezvous) -> Option<AsyncFd<Rendezvous>> {
    // SAFETY: a rendezvous owns its descriptor, and always shows the same.
    unsafe { AsyncFd::register(rendezvous) }.ok()
}

/// The next who comes; nobody where it is not listened.
async fn next(listening: Option<&AsyncFd<Rendezvous>>) -> (Channel, Peer) {
    let Some(rendezvous) = listening else { return std::future::pending().await };
    loop {
        let Ok(mut ready) = rendezvous.readable().await else {
            return std::future::pending().await;
        };
        match rendezvous.get_ref().accept() {
            Ok(Some((channel, peer))) if may_come(peer) => return (channel, peer),
            Ok(Some((_, peer))) => {
                log::warn!(target: "upgrade", "process {} of user {} is not let in", peer.pid, peer.uid);
            }
            Ok(None) => ready.clear_ready(),
            Err(error) => {
                log::warn!(target: "upgrade", "cannot accept a successor: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Only who could have started this process (HU-04).
fn may_come(peer: Peer) -> bool {
    // SAFETY: geteuid has no preconditions.
    peer.uid == unsafe { libc::geteuid() } || peer.uid == 0
}

/// Hears what somebody has come for. Those who say nothing are forgotten.
async fn greet(channel: Channel, peer: Peer, events: &mpsc::Sender<Event>) {
    let Ok(mut line) = Line::new(channel) else { return };
    match line.next(Some(GREETING_PATIENCE)).await {
        Happening::Message(message, _) => {
            let _ended = events.send(Event::Come(Box::new((line, peer, message)))).await;
        }
        Happening::Violation(what) => refuse(line, format!("broken protocol: {what}")),
        Happening::End | Happening::Sent | Happening::Silence => {}
    }
}

fn refuse(mut line: Line, reason: String) {
    line.send(Message::Abort(Abort { reason }), Vec::new());
    tokio::spawn(line.finish());
}

/// Tells an operator's tool how it went.
pub(super) fn say(tool: Line, is_done: bool, text: &str) {
    answer(tool, Answer { is_done, text: text.to_owned(), status: None });
}

fn answer(mut tool: Line, answer: Answer) {
    tool.send(Message::Answer(answer), Vec::new());
    tokio::spawn(tool.finish());
}

/// Why a hand-over ends that nothing is wrong with.
const BY_OPERATOR: &str = "an operator wants it";

/// From its start until it connects, a successor reads its configuration.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// How often a process sees whether it can be found.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Who may be listened to at once.
const GUESTS_MAX: usize = 32;

/// What may wait to be dealt with.
const EVENTS_MAX: usize = 64;

/// Out of descriptors, most likely: it takes someone else to close one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
