//! A shard's side of the access log: lines are rendered straight into a batch, and full batches go
//! to the writer thread.
//!
//! The request path never waits and never grows memory without end: when the queue is full, a batch
//! stays with its shard until it has [`BATCH_BYTES`], and further lines are dropped and counted in
//! `access_log.dropped`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use outrigger_xds::snapshot::access_log::AccessLog;

use super::capture::{Capture, CaptureSet, Captured};
use super::filter::Filter;
use super::program::Program;
use super::record::Record;
use super::render::Renderer;
use super::writer::{Batch, OpenError, Queue, Sink};
use crate::stats::{AccessLogStats, FilesystemStats, Registry};

/// The access logs of one listener or connection manager: open, and ready for every shard.
#[derive(Debug)]
pub struct AccessLogs {
    captures: CaptureSet,
    logs: Vec<OpenLog>,
    /// Tells these programs apart from all others, past ones included.
    identity: u64,
}

#[derive(Debug)]
struct OpenLog {
    filter: Option<Filter>,
    sink: Sink,
    program: Program,
}

impl AccessLogs {
    /// Opens what `configured` names. For the control thread.
    pub fn open(queue: &Queue, configured: &[Arc<AccessLog>]) -> Result<AccessLogs, OpenError> {
        let filters = configured.iter().filter_map(|log| log.filter.as_ref());
        let captures = CaptureSet::of(configured.iter().map(|log| &log.format), filters);
        let open = |log: &Arc<AccessLog>| {
            let filter = log.filter.as_ref().map(Filter::new);
            let sink = queue.open(&log.sink)?;
            Ok(OpenLog { filter, sink, program: Program::new(&log.format, &captures) })
        };
        let logs = configured.iter().map(open).collect::<Result<_, OpenError>>()?;
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let identity = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(AccessLogs { captures, logs, identity })
    }

    /// The headers that must be kept in a [`Capture`] while a request runs.
    pub fn captures(&self) -> &CaptureSet {
        &self.captures
    }

    /// Whether nothing is logged.
    pub fn is_empty(&self) -> bool {
        self.logs.is_empty()
    }
}

/// One shard's logger. Not shared, not sent: each shard has its own.
#[derive(Debug)]
pub struct ShardLogger {
    queue: Queue,
    renderer: Renderer,
    /// Whose programs the renderer last worked with.
    programs: u64,
    /// Batches with lines in them; one for each log written to since it was last flushed.
    pending: Vec<Pending>,
    flush_interval_ns: u64,
    /// A batch of so many bytes goes to the writer.
    batch_bytes: usize,
    log: Arc<AccessLogStats>,
    files: Arc<FilesystemStats>,
}

impl ShardLogger {
    /// A logger for shard `shard` that keeps a line for at most `flush_interval_ns`.
    pub fn new(
        queue: Queue,
        registry: &Registry,
        shard: usize,
        flush_interval_ns: u64,
    ) -> ShardLogger {
        ShardLogger {
            queue,
            renderer: Renderer::new(),
            programs: 0,
            pending: Vec::new(),
            flush_interval_ns,
            batch_bytes: BATCH_BYTES,
            log: registry.access_log(shard),
            files: registry.filesystem(shard),
        }
    }

    /// As it is, but with batches of at most so many bytes.
    #[must_use]
    pub fn with_batches_of(mut self, bytes: usize) -> ShardLogger {
        self.batch_bytes = bytes.clamp(1, BATCH_BYTES);
        self
    }

    /// The renderer, for values that are written elsewhere (header edits).
    pub fn renderer(&mut self) -> &mut Renderer {
        &mut self.renderer
    }

    /// Writes `record` to each of `logs` that takes it. Takes `record.times.end` for the present.
    pub fn log(&mut self, logs: &AccessLogs, record: &Record<'_>, values: &Capture) {
        let headers = Captured { set: &logs.captures, values };
        if self.programs != logs.identity {
            self.renderer.forget();
            self.programs = logs.identity;
        }
        for OpenLog { filter, sink, program } in &logs.logs {
            if filter.as_ref().is_some_and(|filter| !filter.takes(record, headers)) {
                continue;
            }
            let Some(index) = self.batch_with_room(sink, record.times.end) else {
                self.log.dropped.inc();
                continue;
            };
            let pending = &mut self.pending[index];
            let before = pending.bytes.len();
            self.renderer.line(program, record, headers, &mut pending.bytes);
            pending.lines += 1;
            let written = (pending.bytes.len() - before) as u64;
            self.log.lines.inc();
            self.log.bytes.add(written);
            self.files.write_buffered.inc();
            self.files.write_total_buffered.add(written);
            if self.pending[index].bytes.len() >= self.batch_bytes {
                self.send(index, false);
            }
        }
    }

    /// When [`ShardLogger::flush`] has something to do next, on the clock of `Times`.
    pub fn flush_at(&self) -> Option<u64> {
        let oldest = self.pending.iter().map(|pending| pending.since).min()?;
        Some(oldest.saturating_add(self.flush_interval_ns))
    }

    /// Sends what is older than the flush interval at `now_ns`.
    pub fn flush(&mut self, now_ns: u64) {
        for index in (0..self.pending.len()).rev() {
            let due = self.pending[index].since.saturating_add(self.flush_interval_ns) <= now_ns;
            if due && !self.send(index, true) {
                // The writer is behind; the interval begins anew.
                self.pending[index].since = now_ns;
            }
        }
    }

    /// Sends everything, for the end of the shard. What the queue does not take is lost, counted.
    pub fn flush_all(&mut self) {
        for index in (0..self.pending.len()).rev() {
            if !self.send(index, true) {
                let lost = self.pending.swap_remove(index);
                self.log.dropped.add(lost.lines);
                self.files.write_total_buffered.sub(lost.bytes.len() as u64);
            }
        }
    }

    /// The index of the batch for `sink`, or `None` when it is full and stays so.
    fn batch_with_room(&mut self, sink: &Sink, now_ns: u64) -> Option<usize> {
        if let Some(index) = self.pending.iter().position(|pending| pending.sink.is(sink)) {
            if self.pending[index].bytes.len() < BATCH_BYTES {
                return Some(index);
            }
            if !self.send(index, false) {
                return None;
            }
        }
        let bytes = self.queue.spare().unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES));
        self.pending.push(Pending { sink: sink.clone(), bytes, lines: 0, since: now_ns });
        Some(self.pending.len() - 1)
    }

    /// Hands one batch over; `false` when the queue is full, and the batch stays.
    fn send(&mut self, index: usize, by_timer: bool) -> bool {
        let Pending { sink, bytes, lines, since } = self.pending.swap_remove(index);
        let len = bytes.len() as u64;
        match self.queue.send(Batch { sink, bytes, lines, by_timer }) {
            Ok(()) => {
                self.files.write_total_buffered.sub(len);
                true
            }
            Err(Batch { sink, bytes, lines, .. }) => {
                self.pending.push(Pending { sink, bytes, lines, since });
                let last = self.pending.len() - 1;
                self.pending.swap(index, last);
                false
            }
        }
    }
}

impl Drop for ShardLogger {
    fn drop(&mut self) {
        self.flush_all();
    }
}

/// How many batches make up `bytes` of waiting lines: for [`LogWriter::start`].
///
/// [`LogWriter::start`]: super::LogWriter::start
pub fn batches_in(bytes: usize) -> usize {
    bytes / BATCH_BYTES
}

/// A batch goes to the writer when it has this many bytes: Envoy's buffer size.
pub const BATCH_BYTES: usize = 64 * 1024;

/// Room for the line that fills a batch, so that an ordinary one does not make the buffer grow.
const BUFFER_BYTES: usize = BATCH_BYTES + 4 * 1024;

#[derive(Debug)]
struct Pending {
    sink: Sink,
    bytes: Vec<u8>,
    lines: u64,
    /// When its first line came.
    since: u64,
}
