//! The file with the last good configuration: written when there is a newer one, read when no
//! management server answers at the start.
//!
//! Invariant: writing never holds the control thread up, and there is one write at a time, of all that has
//! changed since the one before. Who may write, of two processes with one file, is not known here.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use outrigger_xds::cache::{self, CacheError, CacheNode};
use outrigger_xds::engine_config::ConfigCache;
use outrigger_xds::store::{Kept, Store};
use thiserror::Error;

use crate::control::replace_file;

use super::{Event, Events};

/// Why a file was not read or written.
#[derive(Debug, Error)]
pub enum CacheFault {
    /// The system.
    #[error("{0}")]
    System(#[from] io::Error),
    /// What is in it.
    #[error("{0}")]
    Content(#[from] CacheError),
    /// There is too much of it.
    #[error("longer than {BYTES_MAX} bytes")]
    TooLong,
}

pub(super) struct Cache {
    path: Arc<Path>,
    node: CacheNode,
    /// When the servers have had their time.
    use_at: Instant,
    was_used: bool,
    is_changed: bool,
    is_writing: bool,
    next_write: Instant,
    events: Events,
}

impl Cache {
    pub(super) fn new(config: &ConfigCache, node: CacheNode, events: Events) -> Self {
        let now = Instant::now();
        Self {
            path: config.path.as_path().into(),
            node,
            use_at: now + Duration::from_millis(config.wait_ms.into()),
            was_used: false,
            is_changed: false,
            is_writing: false,
            next_write: now,
            events,
        }
    }

    /// Whether it is time to start from the file.
    pub(super) fn is_due(&self, is_lost: bool) -> bool {
        !self.was_used && (is_lost || Instant::now() >= self.use_at)
    }

    /// When that will be, at the latest.
    pub(super) fn due_at(&self) -> Option<Instant> {
        (!self.was_used).then_some(self.use_at)
    }

    /// The resources in the file, which are used once at most.
    pub(super) fn take(&mut self) -> Option<Vec<Kept>> {
        self.was_used = true;
        match self.read() {
            Ok((kept, written)) => {
                let age = SystemTime::now().duration_since(written).unwrap_or_default();
                log::warn!(
                    target: "config",
                    "no management server answers: {} resources are served from {}, as they were {} s \
                     ago",
                    kept.len(), self.path.display(), age.as_secs()
                );
                Some(kept)
            }
            Err(CacheFault::System(error)) if error.kind() == io::ErrorKind::NotFound => {
                log::info!(
                    target: "config",
                    "no management server answers, and there is no {}", self.path.display()
                );
                None
            }
            Err(error) => {
                log::error!(
                    target: "config",
                    "no management server answers, and {} is of no use: {error}", self.path.display()
                );
                None
            }
        }
    }

    fn read(&self) -> Result<(Vec<Kept>, SystemTime), CacheFault> {
        let file = File::open(&self.path)?;
        let written = file.metadata()?.modified()?;
        let mut content = Vec::new();
        file.take(BYTES_MAX + 1).read_to_end(&mut content)?;
        if content.len() as u64 > BYTES_MAX {
            return Err(CacheFault::TooLong);
        }
        Ok((cache::decode(&self.node, &content.into())?, written))
    }

    /// There is something new to be written.
    pub(super) fn changed(&mut self) {
        self.is_changed = true;
    }

    /// Whether a write is under way.
    pub(super) fn is_writing(&self) -> bool {
        self.is_writing
    }

    /// Writes what is new, if that is due; when to come back if it is not.
    pub(super) fn write(&mut self, store: &Store) -> Option<Instant> {
        if self.has_news() && Instant::now() < self.next_write {
            return Some(self.next_write);
        }
        self.write_now(store);
        None
    }

    /// Whether there is something to write, and no write under way.
    fn has_news(&self) -> bool {
        self.is_changed && !self.is_writing
    }

    /// Writes what is new, if no write is under way.
    pub(super) fn write_now(&mut self, store: &Store) {
        if !self.has_news() {
            return;
        }
        self.is_changed = false;
        self.is_writing = true;
        self.next_write = Instant::now() + WRITE_INTERVAL;
        let kept = store.keep();
        let (path, node, events) = (Arc::clone(&self.path), self.node.clone(), self.events.clone());
        tokio::task::spawn_blocking(move || {
            let content = cache::encode(&node, &kept);
            let written = match content.len() as u64 {
                ..=BYTES_MAX => replace_file::replace(&path, &content).map_err(CacheFault::from),
                _ => Err(CacheFault::TooLong),
            };
            // At the end of the process nobody wants to know.
            let _ended = events.send(Event::Cached(written.map(|()| content.len())));
        });
    }

    /// A write has ended.
    pub(super) fn written(&mut self, outcome: &Result<usize, CacheFault>) {
        self.is_writing = false;
        if let Err(error) = outcome {
            self.is_changed = true;
            log::error!(
                target: "config",
                "{}: {error}; a start without management servers will not have what is new",
                self.path.display()
            );
        }
    }
}

/// A change in each second must not wear a disk out; what is lost with a crash is sent again.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);

/// Ten times what ten thousand clusters and routes take.
const BYTES_MAX: u64 = 256 << 20;
