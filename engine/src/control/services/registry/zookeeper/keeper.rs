//! What is to be in ZooKeeper and what is known from it: requests out, replies in, no sockets.
//!
//! Nodes of ours are made in every session and made again in the next; directories are read with a
//! watch on every connection and read again after every event. Reading again is what keeps watches:
//! nothing that happened in between can be missed, so `setWatches` is not needed.
//!
//! Requests are answered in their order, so that a directory can be made and used in one go.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use outrigger_xds::services_config::ServiceProtocol;
use thiserror::Error;
use tokio::time::Instant;

use super::super::super::name::ServiceName;
use super::super::super::provider::{Provider, ProviderError};
use super::super::Wanted;
use super::layout;
use super::wire::{self, Acl, Request, WireError};
use crate::stats::ServiceRegistryStats;

/// Why a connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Lost {
    /// The server sent something that it may not.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It answered something that it was not asked.
    #[error("an answer to no question")]
    Answer,
    /// The session is no more.
    #[error("the session expired")]
    Expired,
    /// We are not who we say.
    #[error("authentication failed")]
    AuthFailed,
    /// The session was ended as we wanted.
    #[error("closed")]
    Closed,
}

/// What is to be, and what is.
#[derive(Debug)]
pub struct Keeper {
    root: String,
    acl: Acl,
    source: Arc<str>,
    stats: Arc<ServiceRegistryStats>,
    session: i64,
    next_xid: i32,
    /// Nodes of ours that are to be, with their data.
    nodes: BTreeMap<String, &'static [u8]>,
    /// Nodes that are there in this session, those that are being made, those of the first that are
    /// being removed, and those that could not be made.
    made: HashSet<String>,
    making: HashSet<String>,
    removing: HashSet<String>,
    failed: HashSet<String>,
    /// Directories that are known to be there.
    parents: HashSet<String>,
    directories: BTreeMap<String, Directory>,
    /// To be sent.
    queue: VecDeque<(Request, Step)>,
    /// Sent, in order, with their ids.
    asked: VecDeque<(i32, Step)>,
    reports: Vec<(Arc<ServiceName>, Vec<Provider>)>,
    /// When the first directory is to be read again.
    read_at: Option<Instant>,
    /// When what failed is tried again.
    retry_at: Option<Instant>,
    /// Entries of all directories.
    entries: usize,
}

/// A directory of providers.
#[derive(Debug, Default)]
struct Directory {
    lookups: BTreeSet<Arc<ServiceName>>,
    reading: Reading,
    /// How many entries it had when it was last read.
    entries: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Reading {
    /// To be read.
    #[default]
    Due,
    /// Something happened; to be read a little later, with what else happens meanwhile.
    At(Instant),
    /// Asked.
    Asked,
    /// Read and watched.
    Watched,
    /// It can't be read; tried again with everything else that failed.
    Failed,
}

/// What an answer is for.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// A directory was to be made.
    Parent(String),
    /// A node of ours was to be made.
    Node(String),
    /// It was there: whose is it?
    Owner(String),
    /// Somebody else's, removed and made again.
    Replaced(String),
    /// A node is not wanted any more: is it ours?
    Leftover(String),
    /// It was, and is removed.
    Removed(String),
    /// A directory is read.
    Children(String),
    /// The session is ended.
    Close,
}

impl Keeper {
    /// Nothing yet. `root` begins with a slash and does not end with one.
    pub fn new(
        root: String,
        acl: Acl,
        source: Arc<str>,
        stats: Arc<ServiceRegistryStats>,
    ) -> Keeper {
        Keeper {
            root,
            acl,
            source,
            stats,
            session: 0,
            next_xid: 1,
            nodes: BTreeMap::new(),
            made: HashSet::new(),
            making: HashSet::new(),
            removing: HashSet::new(),
            failed: HashSet::new(),
            parents: HashSet::new(),
            directories: BTreeMap::new(),
            queue: VecDeque::new(),
            asked: VecDeque::new(),
            reports: Vec::new(),
            read_at: None,
            retry_at: None,
            entries: 0,
        }
    }

    /// Takes what is wanted from now on. `host` is how others know this host.
    pub fn want(&mut self, wanted: &Wanted, host: &str) {
        self.nodes.clear();
        for offer in &wanted.offers {
            let data: &'static [u8] = match offer.name.protocol() {
                // SOFARPC's "online".
                ServiceProtocol::Bolt => &[1],
                ServiceProtocol::Dubbo => &[],
            };
            self.nodes.insert(layout::offer(&self.root, offer), data);
        }
        for lookup in &wanted.lookups {
            let path = layout::consumer(&self.root, lookup, &wanted.subscriber, host);
            self.nodes.insert(path, &[]);
        }
        let mut directories: BTreeMap<String, BTreeSet<Arc<ServiceName>>> = BTreeMap::new();
        for lookup in &wanted.lookups {
            let path = layout::providers(&self.root, lookup.interface());
            directories.entry(path).or_default().insert(Arc::clone(lookup));
        }
        self.directories.retain(|path, _| directories.contains_key(path));
        self.entries = self.directories.values().map(|directory| directory.entries).sum();
        for (path, lookups) in directories {
            let directory = self.directories.entry(path).or_default();
            // A new one is told what is there by reading it again.
            let is_more = !lookups.is_subset(&directory.lookups);
            if is_more && matches!(directory.reading, Reading::Watched | Reading::At(_)) {
                directory.reading = Reading::Due;
            }
            directory.lookups = lookups;
        }
        self.stats.providers.set(self.entries as u64);
        self.stats.published.set(wanted.offers.len() as u64);
        self.stats.subscribed.set(wanted.lookups.len() as u64);
        self.reconcile();
    }

    /// A connection is there, in this session; nothing is asked on it yet.
    pub fn connected(&mut self, session: i64) {
        self.queue.clear();
        self.asked.clear();
        self.making.clear();
        self.removing.clear();
        self.failed.clear();
        if self.session != session {
            self.session = session;
            self.made.clear();
            self.stats.session.inc();
        }
        // Others may have removed them.
        self.parents.clear();
        for directory in self.directories.values_mut() {
            directory.reading = Reading::Due;
        }
        self.reconcile();
    }

    /// Whether everything wanted has been read on this connection.
    pub fn is_up_to_date(&self) -> bool {
        let read = |reading| matches!(reading, Reading::Watched | Reading::At(_));
        self.directories.values().all(|directory| read(directory.reading))
    }

    /// Whether every node of ours is there, or could not be made.
    pub fn is_registered(&self) -> bool {
        self.session != 0 && self.making.is_empty()
    }

    /// When [`Keeper::tick`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.read_at.into_iter().chain(self.retry_at).min()
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) {
        let retries = self.retry_at.is_some_and(|at| at <= now);
        if retries {
            self.retry_at = None;
            self.failed.clear();
        }
        let reads = self.read_at.is_some_and(|at| at <= now);
        if !retries && !reads {
            return;
        }
        self.read_at = None;
        for directory in self.directories.values_mut() {
            match directory.reading {
                Reading::At(at) if at > now => {
                    self.read_at = Some(self.read_at.map_or(at, |first| first.min(at)));
                }
                Reading::At(_) => directory.reading = Reading::Due,
                Reading::Failed if retries => directory.reading = Reading::Due,
                _ => {}
            }
        }
        self.reconcile();
    }

    /// Takes a message from the server, without its length. Events of watches come here too.
    ///
    /// # Errors
    /// When the connection is to be closed.
    pub fn take(&mut self, message: &[u8], now: Instant) -> Result<Option<i64>, Lost> {
        let (head, body) = wire::read_head(message)?;
        match head.xid {
            wire::XID_PING => {}
            wire::XID_AUTH if head.error != 0 => return Err(Lost::AuthFailed),
            wire::XID_AUTH => {}
            wire::XID_EVENT => {
                let event = wire::read_event(body)?;
                if event.state == wire::SESSION_EXPIRED {
                    return Err(Lost::Expired);
                }
                if let Some(directory) = self.directories.get_mut(&event.path)
                    && directory.reading == Reading::Watched
                {
                    directory.reading = Reading::At(now + SETTLE);
                    self.read_at.get_or_insert(now + SETTLE);
                }
                return Ok(None);
            }
            xid => {
                let Some((expected, step)) = self.asked.pop_front() else {
                    return Err(Lost::Answer);
                };
                if expected != xid {
                    return Err(Lost::Answer);
                }
                match head.error {
                    wire::SESSION_EXPIRED => return Err(Lost::Expired),
                    wire::AUTH_FAILED => return Err(Lost::AuthFailed),
                    error => self.answered(step, error, body, now)?,
                }
            }
        }
        Ok(Some(head.zxid).filter(|zxid| *zxid > 0))
    }

    /// Moves requests to `out`, as many as may be under way.
    pub fn put_requests(&mut self, out: &mut Vec<u8>) {
        while self.asked.len() < UNDER_WAY_MAX {
            let Some((request, step)) = self.queue.pop_front() else { return };
            let xid = self.next_xid;
            self.next_xid = xid.checked_add(1).unwrap_or(1);
            wire::put_request(xid, &request, out);
            self.asked.push_back((xid, step));
        }
    }

    /// All providers for each lookup of which there is news.
    pub fn take_reports(&mut self) -> Vec<(Arc<ServiceName>, Vec<Provider>)> {
        std::mem::take(&mut self.reports)
    }

    /// Ends the session once everything before it is done.
    pub fn close(&mut self) {
        self.queue.clear();
        self.queue.push_back((Request::Close, Step::Close));
    }

    /// Asks for everything that is wanted and not there, and not asked for already.
    fn reconcile(&mut self) {
        if self.session == 0 {
            return;
        }
        let missing = |path: &&String| {
            ![&self.made, &self.making, &self.failed].iter().any(|known| known.contains(*path))
        };
        let missing: Vec<String> = self.nodes.keys().filter(missing).cloned().collect();
        for path in missing {
            self.make(path);
        }
        let leftover =
            |path: &&String| !self.nodes.contains_key(*path) && !self.removing.contains(*path);
        let leftover: Vec<String> = self.made.iter().filter(leftover).cloned().collect();
        for path in leftover {
            self.removing.insert(path.clone());
            self.queue.push_back((Request::Exists { path: path.clone() }, Step::Leftover(path)));
        }
        let due = self.directories.iter().filter(|(_, one)| one.reading == Reading::Due);
        let due: Vec<String> = due.map(|(path, _)| path.clone()).collect();
        for path in due {
            self.read(path);
        }
    }

    fn replace(&self, path: String) -> Request {
        let data = self.nodes.get(&path).copied().unwrap_or_default();
        Request::Replace { path, acl: self.acl, data }
    }

    fn make(&mut self, path: String) {
        self.make_parents(&path);
        self.making.insert(path.clone());
        let data = self.nodes.get(&path).copied().unwrap_or_default();
        let create = Request::Create { path: path.clone(), ephemeral: true, acl: self.acl, data };
        self.queue.push_back((create, Step::Node(path)));
    }

    fn read(&mut self, path: String) {
        // Dubbo makes the directories that it watches, since a watch needs something to watch.
        self.make_parents(&format!("{path}/"));
        if let Some(directory) = self.directories.get_mut(&path) {
            directory.reading = Reading::Asked;
        }
        self.queue.push_back((Request::Children { path: path.clone() }, Step::Children(path)));
    }

    fn make_parents(&mut self, path: &str) {
        for parent in layout::parents(path) {
            if self.parents.insert(parent.to_owned()) {
                let path = parent.to_owned();
                let create = Request::Create {
                    path: path.clone(),
                    ephemeral: false,
                    acl: self.acl,
                    data: &[],
                };
                self.queue.push_back((create, Step::Parent(path)));
            }
        }
    }

    fn answered(&mut self, step: Step, error: i32, body: &[u8], now: Instant) -> Result<(), Lost> {
        match (step, error) {
            (Step::Parent(_), 0 | wire::NODE_EXISTS) => {}
            // It may be there although we may not make it. If not, what needs it fails and says so.
            (Step::Parent(path), error) => {
                log::debug!("registry {}: can't make {path}: {}", self.source, describe(error));
            }
            (Step::Node(path), 0) => self.is_made(path),
            (Step::Node(path), wire::NODE_EXISTS) => {
                self.queue.push_back((Request::Exists { path: path.clone() }, Step::Owner(path)));
            }
            (Step::Owner(path), 0) if wire::read_owner(body)? == self.session => self.is_made(path),
            (Step::Owner(path), wire::NO_NODE) => {
                self.making.remove(&path);
                if self.nodes.contains_key(&path) {
                    self.make(path);
                }
            }
            (Step::Owner(path), 0) => {
                self.making.remove(&path);
                if self.nodes.contains_key(&path) {
                    // A session of ours before a restart, or a predecessor's, which will end sometime. In
                    // one go, so that nobody ever finds the service gone.
                    self.making.insert(path.clone());
                    self.queue.push_back((self.replace(path.clone()), Step::Replaced(path)));
                }
            }
            (Step::Replaced(path), 0) if wire::read_is_done(body)? => self.is_made(path),
            (Step::Replaced(path), _) => {
                // It went away meanwhile, or is another's that we may not touch.
                self.making.remove(&path);
                self.stats.register_fail.inc();
                let shown = layout::decode(&path);
                log::warn!("registry {}: can't replace {shown}", self.source);
                self.retry_later(&path, now);
                self.failed.insert(path);
            }
            (Step::Leftover(path), 0)
                if wire::read_owner(body)? == self.session && !self.nodes.contains_key(&path) =>
            {
                self.queue.push_back((Request::Delete { path: path.clone() }, Step::Removed(path)));
            }
            (Step::Leftover(path), 0) if self.nodes.contains_key(&path) => {
                // Wanted again meanwhile.
                self.removing.remove(&path);
            }
            (Step::Leftover(path) | Step::Removed(path), _) => {
                self.stats.unregister.inc();
                self.removing.remove(&path);
                self.made.remove(&path);
                if self.nodes.contains_key(&path) {
                    self.make(path);
                }
            }
            (Step::Children(path), 0) => self.is_read(&path, &wire::read_children(body)?),
            (Step::Close, _) => return Err(Lost::Closed),
            (Step::Node(path) | Step::Owner(path), error) => {
                self.making.remove(&path);
                self.stats.register_fail.inc();
                let shown = layout::decode(&path);
                log::error!("registry {}: can't make {shown}: {}", self.source, describe(error));
                self.retry_later(&path, now);
                self.failed.insert(path);
            }
            (Step::Children(path), error) => {
                if let Some(directory) = self.directories.get_mut(&path) {
                    directory.reading = Reading::Failed;
                }
                self.stats.update_fail.inc();
                log::error!("registry {}: can't read {path}: {}", self.source, describe(error));
                self.retry_later(&path, now);
            }
        }
        Ok(())
    }

    fn retry_later(&mut self, path: &str, now: Instant) {
        for parent in layout::parents(&format!("{path}/")) {
            self.parents.remove(parent);
        }
        self.retry_at.get_or_insert(now + RETRY_PAUSE);
    }

    fn is_made(&mut self, path: String) {
        self.making.remove(&path);
        self.stats.register.inc();
        self.made.insert(path);
    }

    fn is_read(&mut self, path: &str, children: &[String]) {
        let Some(directory) = self.directories.get_mut(path) else { return };
        if directory.reading == Reading::Asked {
            directory.reading = Reading::Watched;
        }
        let lookups: Vec<_> = directory.lookups.iter().cloned().collect();
        let read = Providers::read(children, &lookups);
        self.entries = self.entries - directory.entries + children.len();
        directory.entries = children.len();
        self.stats.providers.set(self.entries as u64);
        read.note(&self.source, &self.stats);
        self.reports.extend(read.by_lookup);
    }
}

/// What the children of a directory are to lookups.
struct Providers {
    by_lookup: Vec<(Arc<ServiceName>, Vec<Provider>)>,
    ignored: Vec<(String, ProviderError)>,
}

impl Providers {
    fn read(children: &[String], lookups: &[Arc<ServiceName>]) -> Providers {
        let protocols: BTreeSet<_> = lookups.iter().map(|lookup| lookup.protocol()).collect();
        let interface = lookups.first().map_or("", |lookup| lookup.interface());
        let (mut providers, mut ignored) = (Vec::new(), Vec::new());
        for child in children {
            let url = layout::decode(child);
            for protocol in &protocols {
                match Provider::from_url(&url, *protocol, interface) {
                    Ok(provider) => providers.push(provider),
                    // Every interface may have providers of several protocols.
                    Err(ProviderError::NotOurs(_)) => {}
                    Err(error) => ignored.push((url.clone(), error)),
                }
            }
        }
        let matching = |lookup: &Arc<ServiceName>| {
            let all = providers.iter().filter(|provider| lookup.takes(&provider.name));
            (Arc::clone(lookup), all.cloned().collect())
        };
        Providers { by_lookup: lookups.iter().map(matching).collect(), ignored }
    }

    fn note(&self, source: &str, stats: &ServiceRegistryStats) {
        stats.provider_ignored.add(self.ignored.len() as u64);
        for (url, error) in self.ignored.iter().take(IGNORED_SHOWN_MAX) {
            let url: String = url.chars().filter(|c| !c.is_control()).take(200).collect();
            log::warn!("registry {source}: {url} is left out: {error}");
        }
    }
}

fn describe(error: i32) -> String {
    match error {
        wire::NO_NODE => "no such node".to_owned(),
        wire::NO_AUTH => "not allowed".to_owned(),
        other => format!("error {other}"),
    }
}

/// Changes of a directory that come together are read together.
const SETTLE: Duration = Duration::from_millis(100);

/// What failed for a reason that will not go by itself is tried again so much later.
const RETRY_PAUSE: Duration = Duration::from_secs(15);

/// Requests under way: enough to hide the way to the server, few enough for it not to push back.
const UNDER_WAY_MAX: usize = 128;

/// Entries of one list that are told of when they can't be used.
const IGNORED_SHOWN_MAX: usize = 5;

#[cfg(test)]
mod tests;
