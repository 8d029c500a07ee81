//! The thread that writes log files, and the bounded queue that leads to it.
//!
//! The invariant: nobody who hands bytes over ever waits. [`Queue::send`] either takes a batch at
//! once or gives it back, and then its owner drops lines and counts them. All blocking (a full
//! disk, a slow pipe, a hung file system) happens on this one thread, for as long as it likes.
//!
//! A batch holds whole lines and is written by one thread, so lines never interleave. When a write
//! fails in the middle of a line, the next batch begins with a line feed.
//!
//! Memory: the batches that may wait, and at most as many empty buffers kept for use again.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use crossbeam_queue::ArrayQueue;
use outrigger_xds::snapshot::access_log::Sink as Target;
use thiserror::Error;

use crate::background::{self, Share};
use crate::stats::{AccessLogStats, FilesystemStats};

/// Why a log could not be opened.
#[derive(Debug, Error)]
#[error("cannot open log file {path}: {source}")]
pub struct OpenError {
    /// The file.
    pub path: Box<Path>,
    /// What the system said.
    pub source: io::Error,
}

/// Why the writer thread could not be started.
#[derive(Debug, Error)]
#[error("cannot start the log writer thread: {0}")]
pub struct StartError(#[from] io::Error);

/// The writer thread, owned by whoever started it.
#[derive(Debug)]
pub struct LogWriter {
    queue: Queue,
    ended: Receiver<()>,
}

impl LogWriter {
    /// Starts the thread `name`, which counts in `log` and `files` (no other thread may).
    ///
    /// At most `queue_batches` may wait for it, and as many empty buffers are kept.
    pub fn start(
        name: &str,
        queue_batches: usize,
        log: Arc<AccessLogStats>,
        files: Arc<FilesystemStats>,
    ) -> Result<LogWriter, StartError> {
        // None at all would make every hand-over a meeting with the writer.
        let queue_batches = queue_batches.max(1);
        let (sender, receiver) = bounded(queue_batches);
        let (end, ended) = bounded(0);
        let shared = Arc::new(Shared {
            sinks: Mutex::default(),
            reopen: AtomicBool::new(false),
            spare: ArrayQueue::new(queue_batches),
        });
        let writer = Writer { receiver, shared: Arc::clone(&shared), log, files };
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            background::give_way(Share::Equal);
            writer.run();
            // Dropped here, it tells `shutdown` that the thread is done, even after a panic.
            drop(end);
        })?;
        Ok(LogWriter { queue: Queue { sender, shared }, ended })
    }

    /// A handle for those who write or open logs.
    pub fn queue(&self) -> Queue {
        self.queue.clone()
    }

    /// Writes what is queued and ends the thread; `false` when that took longer than `patience`,
    /// and the thread is left to end with the process.
    ///
    /// Batches sent by others after this call are lost.
    pub fn shutdown(self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        if self.queue.sender.send_deadline(Message::Stop, deadline).is_err() {
            return false;
        }
        // Nothing is ever sent: the answer is that the other end is gone.
        let ended = self.ended.recv_deadline(deadline);
        ended == Err(crossbeam_channel::RecvTimeoutError::Disconnected)
    }
}

/// The way to the writer thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Queue {
    sender: Sender<Message>,
    shared: Arc<Shared>,
}

impl Queue {
    /// The log at `target`, opened now unless it is open already: one open file however many
    /// configurations name it. It is closed when the last [`Sink`] to it is dropped.
    ///
    /// Opening may block; only the control thread calls it. A pipe without a reader is an error.
    pub fn open(&self, target: &Target) -> Result<Sink, OpenError> {
        let mut sinks = lock(&self.shared.sinks);
        if let Some(sink) = sinks.get(target).and_then(Weak::upgrade) {
            return Ok(Sink(sink));
        }
        let output = match target {
            Target::File(path) => Output::File(open_file(path)?),
            Target::Stdout => Output::Standard(libc::STDOUT_FILENO),
            Target::Stderr => Output::Standard(libc::STDERR_FILENO),
        };
        let state = Mutex::new(State::new(output));
        let sink = Arc::new(OpenSink { target: target.clone(), state });
        sinks.retain(|_, sink| sink.strong_count() > 0);
        sinks.insert(target.clone(), Arc::downgrade(&sink));
        Ok(Sink(sink))
    }

    /// Has every file opened again by its path, soon: after it was moved away.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        // Only to wake the thread: with a full queue it is awake and looks at the flag itself.
        let _ = self.sender.try_send(Message::Reopen);
    }

    /// Hands a batch of whole lines over, or gives it back when too many wait already.
    pub fn send(&self, batch: Batch) -> Result<(), Batch> {
        match self.sender.try_send(Message::Batch(batch)).map_err(TrySendError::into_inner) {
            Err(Message::Batch(batch)) => Err(batch),
            Ok(()) | Err(Message::Reopen | Message::Stop) => Ok(()),
        }
    }

    /// An empty buffer that has been used before, if there is one.
    pub fn spare(&self) -> Option<Vec<u8>> {
        self.shared.spare.pop()
    }
}

#[cfg(test)]
impl Queue {
    /// Empty buffers waiting to be used again.
    pub(super) fn spare_count(&self) -> usize {
        self.shared.spare.len()
    }
}

/// An open log.
#[derive(Clone, Debug)]
pub struct Sink(Arc<OpenSink>);

impl Sink {
    /// Whether both are the same open log.
    pub fn is(&self, other: &Sink) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

#[cfg(test)]
impl Sink {
    /// As if a write had just failed inside a line.
    pub(super) fn pretend_mid_line(&self) {
        lock(&self.0.state).mid_line = true;
    }
}

/// Whole lines for one log.
#[derive(Debug)]
pub struct Batch {
    /// Where they go.
    pub sink: Sink,
    /// The lines.
    pub bytes: Vec<u8>,
    /// How many they are.
    pub lines: u64,
    /// Sent because the flush interval was over, not because it was full.
    pub by_timer: bool,
}

/// A buffer that one huge line made larger than this is freed instead of used again.
const SPARE_BYTES_MAX: usize = 128 * 1024;

#[derive(Debug)]
enum Message {
    Batch(Batch),
    Reopen,
    Stop,
}

#[derive(Debug)]
struct Shared {
    sinks: Mutex<HashMap<Target, Weak<OpenSink>>>,
    reopen: AtomicBool,
    spare: ArrayQueue<Vec<u8>>,
}

#[derive(Debug)]
struct OpenSink {
    target: Target,
    /// Locked by the writer thread only.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    output: Output,
    /// A failed write left half a line.
    mid_line: bool,
    /// The last write failed.
    failing: bool,
}

#[derive(Debug)]
enum Output {
    File(File),
    /// Standard output or error, which is never closed.
    Standard(libc::c_int),
}

/// What the thread owns.
struct Writer {
    receiver: Receiver<Message>,
    shared: Arc<Shared>,
    log: Arc<AccessLogStats>,
    files: Arc<FilesystemStats>,
}

impl Writer {
    fn run(&self) {
        while let Ok(message) = self.receiver.recv() {
            if self.shared.reopen.swap(false, Ordering::AcqRel) {
                self.reopen();
            }
            match message {
                Message::Batch(batch) => self.write(batch),
                Message::Reopen => {}
                Message::Stop => return,
            }
        }
    }

    fn write(&self, batch: Batch) {
        let Batch { sink, mut bytes, lines, by_timer } = batch;
        if by_timer {
            self.files.flushed_by_timer.inc();
        }
        let mut state = lock(&sink.0.state);
        match state.write(&bytes) {
            Ok(()) => {
                self.files.write_completed.inc();
                state.failing = false;
            }
            Err(Partial { written, error }) => {
                let kept = memchr::memchr_iter(b'\n', &bytes[..written]).count() as u64;
                self.files.write_failed.inc();
                self.log.dropped.add(lines.saturating_sub(kept));
                // Said once per outage: a full disk may fail thousands of times a second.
                if !state.failing {
                    log::warn!(target: "access_log", "cannot write {:?}: {error}", sink.0.target);
                }
                state.failing = true;
            }
        }
        drop(state);
        if bytes.capacity() <= SPARE_BYTES_MAX {
            bytes.clear();
            // With enough spare buffers this one is freed.
            drop(self.shared.spare.push(bytes));
        }
    }

    fn reopen(&self) {
        let sinks: Vec<_> = lock(&self.shared.sinks).values().filter_map(Weak::upgrade).collect();
        for sink in sinks {
            let Target::File(path) = &sink.target else { continue };
            match open_file(path) {
                Ok(file) => {
                    *lock(&sink.state) = State::new(Output::File(file));
                    self.log.reopened.inc();
                }
                // The old file is better than none.
                Err(error) => {
                    self.files.reopen_failed.inc();
                    log::warn!(target: "access_log", "{error}");
                }
            }
        }
    }
}

struct Partial {
    written: usize,
    error: io::Error,
}

impl State {
    fn new(output: Output) -> State {
        State { output, mid_line: false, failing: false }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Partial> {
        if self.mid_line {
            self.write_some(b"\n")
                .map_err(|Partial { error, .. }| Partial { written: 0, error })?;
            self.mid_line = false;
        }
        let result = self.write_some(bytes);
        if let Err(Partial { written, .. }) = &result {
            self.mid_line = *written > 0 && bytes[written - 1] != b'\n';
        }
        result
    }

    fn write_some(&mut self, bytes: &[u8]) -> Result<(), Partial> {
        let mut written = 0;
        while written < bytes.len() {
            match self.output.write(&bytes[written..]) {
                Ok(0) => return Err(Partial { written, error: io::ErrorKind::WriteZero.into() }),
                Ok(n) => written += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Partial { written, error }),
            }
        }
        Ok(())
    }
}

impl Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Output::File(file) => file.write(bytes),
            Output::Standard(fd) => {
                // SAFETY: the descriptor is 1 or 2, open for the life of the process; ManuallyDrop
                // keeps this File, which does not own it, from closing it.
                let file = ManuallyDrop::new(unsafe { File::from_raw_fd(*fd) });
                (&*file).write(bytes)
            }
        }
    }
}

fn open_file(path: &Path) -> Result<File, OpenError> {
    let open = || {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            // A pipe nobody reads must not hold the caller up; for files it means nothing.
            .custom_flags(libc::O_NONBLOCK)
            .mode(FILE_MODE)
            .open(path)?;
        set_blocking(&file)?;
        Ok(file)
    };
    open().map_err(|source| OpenError { path: path.into(), source })
}

/// Once open, a pipe is written with blocking calls: waiting is what the writer thread is for.
fn set_blocking(file: &File) -> io::Result<()> {
    let fd = file.as_raw_fd();
    // SAFETY: fcntl with F_GETFL and F_SETFL takes no pointer, and the descriptor is open.
    let done = unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        flags != -1 && libc::fcntl(fd, libc::F_SETFL, flags & !libc::O_NONBLOCK) != -1
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// As Envoy creates log files; the process's umask applies.
const FILE_MODE: u32 = 0o644;

/// What these mutexes guard is whole after every statement, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
