//! The management servers: what is asked of which, and what becomes of their answers.
//!
//! One client for the aggregated stream, and one for each further source and type; for secrets one for
//! each name, since a server may fail the stream of a name that it can't produce (IS-09). Responses are put
//! into the store a bounded number of resources at a time, so that one large push keeps nobody else
//! waiting (V-06, W-13). Invariant: a response is answered when all of it was judged, never before.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use outrigger_xds::client::{
    Client, Expired, Options, Received, Rejection, ResourceType, Response, Saved, SavedResource,
    Stats, Update, Why, aggregated_method,
};
use outrigger_xds::snapshot::{ApiConfigSource, ConfigPlace, ConfigSource, Snapshot};
use outrigger_xds::store::{Host, Incoming, Interest, Kept, Store};
use tokio::sync::oneshot;

use crate::stats::Registry;
use crate::tls::TlsContexts;

use super::Events;
use super::dial::Dial;
use super::files::Files;
use super::meter::Counters;
use super::stream::{Stream, StreamEnd, StreamEvent};

pub(super) struct Sources {
    /// Encoded, as every server is told.
    node: Bytes,
    ads: Option<Arc<ApiConfigSource>>,
    all: Vec<Source>,
    files: Files,
    events: Events,
    registry: Arc<Registry>,
    streams: u64,
    /// What was counted by clients that are no longer needed.
    retired: BTreeMap<ResourceType, Stats>,
    /// What an earlier process held, without the content: clients say so to their servers.
    kept: Vec<Kept>,
}

/// One client and its stream.
pub(super) struct Source {
    pub(super) place: ConfigPlace,
    /// The one type that is asked for here; `None` is any.
    kind: Option<ResourceType>,
    /// The one resource that is asked for here; `None` is any.
    only: Option<Arc<str>>,
    api: Arc<ApiConfigSource>,
    pub(super) client: Client,
    stream: Option<Stream>,
    /// A stream ended, or could not be had.
    was_lost: bool,
    /// When to try again to have a stream.
    next_try: Option<Instant>,
    /// Which of the servers is next (F-03).
    server: usize,
    jobs: VecDeque<Job>,
    /// Reads on when there is room for another response.
    reading: Option<oneshot::Sender<()>>,
}

/// What was counted of one type.
#[derive(Clone, Default)]
pub(super) struct Counted {
    pub(super) stats: Stats,
    /// A hash of the last version that was taken whole.
    pub(super) version: u64,
    /// That version.
    pub(super) version_text: String,
}

/// A response that is being put into the store.
struct Job {
    update: Update,
    next: usize,
    rejected: Vec<Rejection>,
}

impl Sources {
    pub(super) fn new(
        node: Bytes,
        ads: Option<Arc<ApiConfigSource>>,
        events: Events,
        registry: Arc<Registry>,
    ) -> Self {
        let files = Files::default();
        let retired = BTreeMap::new();
        Self {
            node,
            ads,
            all: Vec::new(),
            files,
            events,
            registry,
            streams: 0,
            retired,
            kept: Vec::new(),
        }
    }

    /// What was counted of each type that is asked for, or may be: of all its sources.
    pub(super) fn stats(&self) -> impl Iterator<Item = (ResourceType, Counted)> {
        let files = self.files.counted();
        ResourceType::ALL.into_iter().filter_map(move |kind| {
            let asked = |source: &&Source| source.kind.is_none_or(|only| only == kind);
            let mut sources = self.all.iter().filter(asked).peekable();
            let always = WHOLE.contains(&kind);
            let file = files.get(&kind);
            let retired = self.retired.get(&kind);
            if sources.peek().is_none() && file.is_none() && retired.is_none() && !always {
                return None;
            }
            let mut counted = file.map(|counted| Counted::clone(counted)).unwrap_or_default();
            if let Some(retired) = retired {
                counted.stats.add(retired);
            }
            for source in sources {
                let status = source.client.status(kind);
                counted.stats.add(status.stats);
                counted.version = status.version_hash();
                counted.version_text = status.version.to_owned();
            }
            Some((kind, counted))
        })
    }

    /// Envoy's statistic `version` of the last response of a type that was taken whole; 0 before the first.
    pub(super) fn version(&self, kind: ResourceType) -> u64 {
        let asked = |source: &&Source| source.kind.is_none_or(|only| only == kind);
        let versions = self.all.iter().filter(asked).map(|source| source.client.status(kind));
        versions.max_by_key(|status| status.updated_at).map_or(0, |status| status.version_hash())
    }

    /// Streams with a connection.
    pub(super) fn connected(&self) -> usize {
        self.all.iter().filter(|source| source.client.is_connected()).count()
    }

    /// Who the aggregated stream, or else the first one, was last answered by.
    pub(super) fn control_plane(&self) -> &str {
        self.all.first().map_or("", |source| source.client.control_plane())
    }

    /// Responses of types that nobody asked for.
    pub(super) fn ignored(&self) -> u64 {
        self.all.iter().map(|source| source.client.ignored()).sum()
    }

    /// Asks for what the store wants. What can't be asked for does not exist.
    pub(super) fn ask(&mut self, interest: Interest, store: &mut Store) {
        if self.files.ask(&interest) {
            return;
        }
        let now = Instant::now();
        match interest {
            Interest::All(kind, ConfigSource { place, initial_fetch_timeout }) => {
                match self.source(&place, kind, None) {
                    Some(source) => {
                        source.client.subscribe_all(kind, initial_fetch_timeout, now);
                    }
                    None => store.answered(kind, &place),
                }
            }
            Interest::One(kind, ConfigSource { place, initial_fetch_timeout }, name) => {
                let asked = match self.source(&place, kind, Some(&name)) {
                    Some(source) => source
                        .client
                        .subscribe(kind, &name, initial_fetch_timeout, now)
                        .map_err(|error| error.to_string()),
                    None => Err("there is no such source".to_owned()),
                };
                if let Err(error) = asked {
                    log::warn!(target: "config", "{} {name}: {error}", kind.word());
                    store.absent(kind, &place, &name);
                }
            }
            Interest::Again(kind, place, name) => {
                if let Some(source) = self.source(&place, kind, Some(&name)) {
                    source.client.resubscribe(kind, &name, None, now);
                }
            }
            Interest::None(kind, place, name) => {
                if let Some(source) = self.source(&place, kind, Some(&name)) {
                    source.client.unsubscribe(kind, &name);
                }
                self.retire(&place, kind, &name);
            }
        }
    }

    /// The client of a place and type, made when it is first needed. `name` is the one resource that it
    /// is for, which counts where each has a client of its own.
    fn source(
        &mut self,
        place: &ConfigPlace,
        kind: ResourceType,
        name: Option<&Arc<str>>,
    ) -> Option<&mut Source> {
        let only = name.filter(|_| kind == ResourceType::Secret);
        let (api, kind, only) = match place {
            ConfigPlace::Ads => (self.ads.clone()?, None, None),
            ConfigPlace::Api(api) => (Arc::clone(api), Some(kind), only),
            ConfigPlace::Path(_) => return None,
        };
        let known = |source: &Source| {
            source.place == *place && source.kind == kind && source.only.as_ref() == only
        };
        let at = self.all.iter().position(known).unwrap_or_else(|| {
            let options = Options::of(&api, true);
            let mut source = Source {
                place: place.clone(),
                kind,
                only: only.cloned(),
                client: Client::new(api.variant, self.node.clone(), options),
                api,
                stream: None,
                was_lost: false,
                next_try: Some(Instant::now()),
                server: 0,
                jobs: VecDeque::new(),
                reading: None,
            };
            source.restore(&self.kept);
            self.all.push(source);
            self.all.len() - 1
        });
        self.all.get_mut(at)
    }

    /// Ends the client that was there for this resource alone.
    fn retire(&mut self, place: &ConfigPlace, kind: ResourceType, name: &Arc<str>) {
        let alone = |source: &Source| source.place == *place && source.only.as_ref() == Some(name);
        let Some(at) = self.all.iter().position(alone) else { return };
        let source = self.all.remove(at);
        self.retired.entry(kind).or_default().add(source.client.status(kind).stats);
    }

    /// Goes on from what an earlier process held: servers send what is different.
    pub(super) fn restore(&mut self, mut kept: Vec<Kept>) {
        kept.iter_mut().for_each(|kept| kept.content = Bytes::new());
        for source in &mut self.all {
            source.restore(&kept);
        }
        self.kept = kept;
    }

    /// Whether servers of clusters or listeners can't be reached.
    pub(super) fn is_lost(&self) -> bool {
        self.all.iter().any(|source| source.was_lost && source.gives_all())
    }

    /// Whether all servers of clusters and listeners have answered.
    pub(super) fn is_confirmed(&self) -> bool {
        let answered = |source: &Source| {
            WHOLE.into_iter().all(|kind| {
                let status = source.client.status(kind);
                !status.wildcard || status.updated_at.is_some()
            })
        };
        self.all.iter().all(answered)
    }

    /// Whether files are to be looked at from time to time.
    pub(super) fn has_files(&self) -> bool {
        !self.files.is_empty()
    }

    /// Reads files that were replaced, or of which something new is wanted.
    pub(super) fn look_at_files(&mut self, store: &mut Store, host: &mut dyn Host) {
        self.files.look(store, host);
    }

    /// Takes in what happened on a stream.
    pub(super) fn take_in(&mut self, number: u64, event: StreamEvent) {
        let has = |source: &&mut Source| {
            source.stream.as_ref().is_some_and(|stream| stream.number == number)
        };
        // Nobody has a stream that was given up.
        let Some(source) = self.all.iter_mut().find(has) else { return };
        match event {
            StreamEvent::Connected => source.client.connected(),
            StreamEvent::Message(bytes, next) => {
                source.reading = Some(next);
                if let Err(end) = source.receive(bytes) {
                    source.ended(&end);
                }
            }
            StreamEvent::Ended(end) => source.ended(&end),
        }
    }

    /// Puts some more resources into the store. True when there is nothing left to put.
    pub(super) fn work(&mut self, store: &mut Store, host: &mut dyn Host) -> bool {
        let mut budget = RESOURCES_PER_TURN;
        for source in &mut self.all {
            source.work(store, host, &mut budget);
        }
        self.all.iter().all(|source| source.jobs.is_empty())
    }

    /// Opens streams, writes what can be written, and sees what has expired. Returns when to come back.
    pub(super) fn turn(&mut self, store: &mut Store, tls: &TlsContexts) -> Option<Instant> {
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        for source in &mut self.all {
            for expired in source.client.expire(now) {
                source.expired(&expired, store);
            }
            if source.stream.is_none() && source.next_try.is_some_and(|at| at <= now) {
                self.streams += 1;
                source.open(self.streams, store.snapshot(), tls, &self.events, &self.registry);
            }
            let again = source.write(now);
            if source.client.can_receive()
                && let Some(reading) = source.reading.take()
            {
                // The stream may have ended meanwhile.
                let _gone = reading.send(());
            }
            let tries = source.next_try.filter(|_| source.stream.is_none());
            next = [next, again, source.client.next_deadline(), tries].into_iter().flatten().min();
        }
        next
    }
}

impl Source {
    /// Whether it is one of those that a start waits for.
    fn gives_all(&self) -> bool {
        self.kind.is_none_or(|kind| WHOLE.contains(&kind))
    }

    fn restore(&mut self, kept: &[Kept]) {
        for kind in ResourceType::ALL {
            if self.kind.is_some_and(|only| only != kind) {
                continue;
            }
            let is_mine =
                |kept: &&Kept| kept.kind == kind && self.place.key(&kept.name) == kept.key;
            let resources = kept.iter().filter(is_mine).map(|kept| SavedResource {
                name: Arc::clone(&kept.name),
                version: Arc::clone(&kept.version),
                aliases: Box::default(),
            });
            let resources: Vec<_> = resources.collect();
            if resources.is_empty() {
                continue;
            }
            // Of the whole no version is said, so that a server of the state of the world sends it.
            let saved = Saved { version: "".into(), resources };
            self.client.restore(kind, saved);
        }
    }

    fn open(
        &mut self,
        number: u64,
        snapshot: &Snapshot,
        tls: &TlsContexts,
        events: &Events,
        registry: &Registry,
    ) {
        self.next_try = None;
        let Some(service) = self.api.services.get(self.server % self.api.services.len().max(1))
        else {
            return;
        };
        let method = match self.kind {
            None => Some(aggregated_method(self.api.variant)),
            Some(kind) => kind.method(self.api.variant),
        };
        let Some(method) = method else {
            return self.ended(&StreamEnd::Protocol("there is no such method".to_owned()));
        };
        match dial(&service.cluster, snapshot, tls, number, registry) {
            Ok(dial) => {
                self.stream = Some(Stream::open(number, dial, service, method, events.clone()));
            }
            Err(lack) => {
                let text = format!("cluster {} {lack}", service.cluster);
                self.ended(&StreamEnd::Connect(text));
            }
        }
    }

    fn receive(&mut self, bytes: Bytes) -> Result<(), StreamEnd> {
        let protocol = |error: &dyn std::fmt::Display| StreamEnd::Protocol(error.to_string());
        let response = Response::decode(self.client.variant(), bytes).map_err(|e| protocol(&e))?;
        let received =
            self.client.receive(response, Instant::now()).map_err(|error| protocol(&error))?;
        match received {
            Received::Update(update) => {
                self.jobs.push_back(Job { update, next: 0, rejected: Vec::new() });
            }
            Received::Refused(refusal) => log_refusal(&refusal, self.client.control_plane()),
            Received::Ignored { type_url } => {
                log::warn!(target: "config", "ignored: resources of {type_url:?}, which nobody asked for");
            }
            Received::Heartbeat(_) => {}
        }
        Ok(())
    }

    fn ended(&mut self, end: &StreamEnd) {
        let server = self.api.services.get(self.server % self.api.services.len().max(1));
        let name = server.map_or("", |server| &*server.cluster);
        let wait = self.client.disconnected(random());
        let what = self.kind.map_or("ADS", ResourceType::service);
        let level = match end {
            StreamEnd::Closed => log::Level::Info,
            _ => log::Level::Warn,
        };
        log::log!(
            target: "config", level,
            "{what} stream to {name}: {end}; what was accepted is served on, next try in {} ms",
            wait.as_millis()
        );
        self.stream = None;
        self.was_lost = true;
        self.reading = None;
        self.server = self.server.wrapping_add(1);
        self.next_try = Some(Instant::now() + wait);
        // Responses of the lost stream can't be answered, but what they said holds.
    }

    fn expired(&self, expired: &Expired, store: &mut Store) {
        let Expired { kind, name, why } = expired;
        match (name, why) {
            (None, _) => store.answered(*kind, &self.place),
            (Some(name), Why::NeverCame | Why::Unreachable) => {
                store.never_came(*kind, &self.place, name);
            }
            (Some(name), Why::Ttl) => store.remove(*kind, &self.place, name),
        }
    }

    fn work(&mut self, store: &mut Store, host: &mut dyn Host, budget: &mut usize) {
        while let Some(job) = self.jobs.front_mut() {
            let kind = job.update.kind;
            if job.next == 0 {
                // A listener may take over the address of one that goes, a scope the key, a virtual host
                // the domains; a cluster goes when what refers to it has moved (W-01).
                if REMOVED_FIRST.contains(&kind) {
                    for name in job.update.removed.drain(..) {
                        store.remove(kind, &self.place, &name);
                    }
                }
                let names = job.update.resources.iter().map(|resource| &*resource.name);
                store.expect(kind, &self.place, names);
            }
            while let Some(resource) = job.update.resources.get(job.next) {
                if *budget == 0 {
                    return;
                }
                *budget -= 1;
                job.next += 1;
                let incoming = Incoming {
                    name: Arc::clone(&resource.name),
                    version: Arc::clone(&resource.version),
                    aliases: resource.aliases.clone(),
                    content: resource.body.clone(),
                };
                if let Err(reason) = store.put(kind, &self.place, &incoming, host) {
                    job.rejected.push(Rejection::new(Arc::clone(&resource.name), reason));
                }
            }
            let Some(Job { update, mut rejected, .. }) = self.jobs.pop_front() else { return };
            for (name, reason) in store.judge_together(kind, &self.place) {
                rejected.push(Rejection::new(&*name, reason));
            }
            for name in &update.removed {
                store.remove(kind, &self.place, name);
            }
            store.answered(kind, &self.place);
            let refusal = self.client.answer(update.token, rejected, Instant::now());
            if let Some(refusal) = refusal.filter(|refusal| !refusal.repeated) {
                log_refusal(&refusal, self.client.control_plane());
            }
        }
    }

    /// Writes what can be written; when to come back if there is more.
    fn write(&mut self, now: Instant) -> Option<Instant> {
        let stream = self.stream.as_ref().filter(|_| self.client.is_connected())?;
        while stream.has_room() {
            let request = self.client.next_request(now)?;
            stream.send(request.encode());
        }
        Some(now + ROOM_RETRY)
    }
}

/// An endpoint of a static cluster, or why there is none.
fn dial(
    cluster: &str,
    snapshot: &Snapshot,
    tls: &TlsContexts,
    random: u64,
    registry: &Registry,
) -> Result<Dial, &'static str> {
    let id = snapshot.clusters.id(cluster);
    let member = id.and_then(|id| snapshot.clusters.member(id)).ok_or("is not there")?;
    let endpoints = member.endpoints.all();
    let endpoint = endpoints.get(random as usize % endpoints.len().max(1));
    let config = endpoint.and_then(|endpoint| member.cluster.transport_of(endpoint));
    let counters = Counters::new(registry, &member.cluster.stat_name, config.is_some());
    let endpoint = endpoint.ok_or("has no endpoint").inspect_err(|_| counters.has_no_endpoint())?;
    let tls = match config {
        Some(config) => {
            let context = tls.client(config).and_then(|slot| slot.load());
            let context = context.ok_or("has no keys and certificates");
            let context = context.inspect_err(|_| counters.has_no_context())?;
            Some((context, config.sni.clone()))
        }
        None => None,
    };
    let (cluster, address) = (Arc::clone(&member.cluster), endpoint.address.clone());
    Ok(Dial { cluster, address, tls, counters })
}

fn log_refusal(refusal: &outrigger_xds::client::Refusal, control_plane: &str) {
    log::warn!(
        target: "config",
        "{} version {:?} of {control_plane:?} is refused in part: {}",
        refusal.kind.service(), refusal.version, refusal.text
    );
}

/// Every RandomState of the standard library has keys of its own.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

/// The types of which everything is asked for.
const WHOLE: [ResourceType; 2] = [ResourceType::Cluster, ResourceType::Listener];

/// The types of which what is gone goes before others come.
const REMOVED_FIRST: [ResourceType; 3] =
    [ResourceType::Listener, ResourceType::ScopedRouteConfiguration, ResourceType::VirtualHost];

/// A fraction of a millisecond's work, so that requests and other events come in between.
const RESOURCES_PER_TURN: usize = 32;

/// When a server does not read what is sent.
const ROOM_RETRY: std::time::Duration = std::time::Duration::from_millis(10);
