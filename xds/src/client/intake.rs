//! What of a response is news, for whom, and what is wrong with it, before anyone has read a resource.
//!
//! Nothing here changes anything: a response takes effect when it is judged (`type_state`).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use thiserror::Error;

use super::incoming::{Incoming, Item};
use super::subscription::WILDCARD;
use super::type_state::{Candidate, TypeState};
use super::verdict::Rejection;
use super::{Limits, Options, ResourceType};
use crate::snapshot::Variant;

/// A resource to be read by whoever serves it.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// By which it is known: in the delta variant what the server calls it, otherwise the name in its
    /// body or its wrapper.
    pub name: Arc<str>,
    /// Its own version, or that of the response.
    pub version: Arc<str>,
    /// Other names by which it was asked for (D-13).
    pub aliases: Box<[Arc<str>]>,
    /// The encoded message. It shares memory with the whole response: what keeps it for long should
    /// keep a copy.
    pub body: Bytes,
}

/// A response, sorted.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// For the store, and the same without bodies.
    pub(super) resources: Vec<Resource>,
    pub(super) candidates: Vec<Candidate>,
    pub(super) heartbeats: Vec<Candidate>,
    /// What is gone, or does not exist.
    pub(super) removed: Vec<Arc<str>>,
    pub(super) rejections: Vec<Rejection>,
    pub(super) unsolicited: Vec<Arc<str>>,
    /// Names that have been answered by it.
    pub(super) answered: Vec<Arc<str>>,
}

impl Sorted {
    /// T-03: nothing but signs of life.
    pub(super) fn is_alive_only(&self) -> bool {
        !self.heartbeats.is_empty()
            && self.candidates.is_empty()
            && self.removed.is_empty()
            && self.rejections.is_empty()
    }
}

/// Sorts a response of the right type.
pub(super) fn sort(
    incoming: Incoming,
    state: &TypeState,
    variant: Variant,
    options: &Options,
    now: Instant,
) -> Sorted {
    let Incoming { items, removed, version, .. } = incoming;
    let mut intake = Intake {
        state,
        variant,
        limits: &options.limits,
        honour_ttl: options.honour_ttl,
        now,
        response_version: version.into(),
        counts: HashMap::with_capacity(items.len()),
        removed: removed.iter().map(|name| &**name).collect(),
        versions: None,
        room: state.room(options.limits.resources),
        sorted: Sorted::default(),
    };
    let items = intake.named(items);
    let all_named = intake.sorted.rejections.is_empty();
    for (name, item) in items {
        intake.item(name, item);
    }
    match variant {
        Variant::Delta if all_named && intake.is_bare(&removed) => intake.nothing_at_all(),
        Variant::Delta => intake.removed(&removed),
        // What cannot be read may be something that is held (V-03).
        Variant::StateOfTheWorld if all_named => intake.absent(),
        Variant::StateOfTheWorld => {}
    }
    intake.sorted
}

struct Intake<'a> {
    state: &'a TypeState,
    variant: Variant,
    limits: &'a Limits,
    honour_ttl: bool,
    now: Instant,
    response_version: Arc<str>,
    /// How often each name is there; 0 once that was complained about.
    counts: HashMap<Arc<str>, u32>,
    /// Names in `removed_resources`.
    removed: HashSet<&'a str>,
    /// Versions before this response, if others are pending; made when one is needed.
    versions: Option<HashMap<&'a str, &'a Arc<str>>>,
    /// For resources that are new.
    room: usize,
    sorted: Sorted,
}

impl<'a> Intake<'a> {
    /// Names and counts what has a name, and rejects the rest.
    fn named(&mut self, items: Vec<Item>) -> Vec<(Arc<str>, Item)> {
        let mut named = Vec::with_capacity(items.len());
        for (at, item) in items.into_iter().enumerate() {
            let name = item.name.as_deref().map_err(|reason| (*reason).to_owned());
            match name.and_then(|name| self.checked(name).map_err(|found| format!("name: {found}")))
            {
                Ok(name) => {
                    *self.counts.entry(Arc::clone(&name)).or_default() += 1;
                    named.push((name, item));
                }
                Err(reason) => self.reject(format!("resources[{at}]"), reason),
            }
        }
        named
    }

    fn item(&mut self, name: Arc<str>, item: Item) {
        let Some(aliases) = self.aliases(&item) else {
            return self.reject(name, "aliases: are too many, or not names");
        };
        if !self.state.subscription.covers(&name, &aliases) {
            // C-07.
            self.sorted.unsolicited.push(name);
            return;
        }
        for name in aliases.iter().chain([&name]) {
            self.answer(name);
        }
        let count = self.counts.get_mut(&name).map_or(0, std::mem::take);
        if count != 1 {
            // C-09: none of them is taken, and the first speaks for all.
            if count != 0 {
                self.reject(name, "is there more than once");
            }
            return;
        }
        if self.removed.contains(&*name) {
            // D-14.
            return self.reject(name, "is both among resources and among removed_resources");
        }
        if item.version.len() > self.limits.version_bytes {
            return self.reject(name, "version: is too long");
        }
        let Ok(ttl) = item.ttl else { return self.reject(name, "ttl: is not a length of time") };
        let ttl = ttl.filter(|_| self.honour_ttl);
        let expires_at = ttl.and_then(|ttl| self.now.checked_add(ttl));
        let candidate = Candidate { name, version: item.version.into(), aliases, expires_at };
        match item.body {
            Some((_, body)) => self.with_body(candidate, body),
            None => self.without_body(candidate),
        }
    }

    fn with_body(&mut self, candidate: Candidate, body: Bytes) {
        if self.known(&candidate.name).is_none() {
            if self.room == 0 {
                return self.reject(candidate.name, "is one resource too many");
            }
            self.room -= 1;
        }
        let own = Some(&candidate.version).filter(|version| !version.is_empty());
        self.sorted.resources.push(Resource {
            name: Arc::clone(&candidate.name),
            version: Arc::clone(own.unwrap_or(&self.response_version)),
            aliases: candidate.aliases.clone(),
            body,
        });
        self.sorted.candidates.push(candidate);
    }

    fn without_body(&mut self, candidate: Candidate) {
        let state = self.state;
        // T-03. Where the wrapper has no version, that of the response stands for it (S-14).
        let unchanged = !candidate.version.is_empty()
            || self.variant == Variant::Delta
            || *state.version_to_be() == self.response_version;
        match self.known(&candidate.name) {
            Some(version) if *version == candidate.version && unchanged => {
                self.sorted.heartbeats.push(candidate);
            }
            // VHDS: nothing answers to the names that were asked for (D-17).
            _ if state.kind == ResourceType::VirtualHost => {
                let names = candidate.aliases.iter().chain([&candidate.name]);
                let asked = names.filter(|name| state.subscription.names_any(name, &[]));
                self.sorted.removed.extend(asked.map(Arc::clone).collect::<BTreeSet<_>>());
            }
            _ => {
                let reason = format!("resource: is required: {:?} is not held", candidate.version);
                self.reject(candidate.name, reason);
            }
        }
    }

    /// Whether a response is one without any resource, and of virtual hosts.
    fn is_bare(&self, removed: &[String]) -> bool {
        let has_items = !self.counts.is_empty() || !self.sorted.heartbeats.is_empty();
        self.state.kind == ResourceType::VirtualHost && !has_items && removed.is_empty()
    }

    /// D-15: there are no virtual hosts for those who wait for some. Of one host that was asked for by its
    /// own name beside the whole, it says nothing (D-17).
    fn nothing_at_all(&mut self) {
        let subscription = &self.state.subscription;
        let waiting = subscription.waiting().filter(|name| subscription.whole(name).is_none());
        self.sorted.answered.extend(waiting.map(Arc::clone));
    }

    fn answer(&mut self, name: &Arc<str>) {
        let whole = self.state.subscription.whole(name);
        self.sorted.answered.extend(whole.into_iter().chain([name]).map(Arc::clone));
    }

    /// D-08: what is neither held nor asked for by name is no news.
    fn removed(&mut self, names: &'a [String]) {
        let mut seen = HashSet::with_capacity(names.len());
        for name in names.iter().filter(|name| seen.insert(&***name)) {
            let asked = self.state.subscription.names_any(name, &[]);
            if !self.counts.contains_key(&**name) && (asked || self.known(name).is_some()) {
                let name = self.state.intern(name);
                self.answer(&name);
                self.sorted.removed.push(name);
            }
        }
    }

    /// S-08, S-12: in a full set, what is absent is gone, or does not exist.
    fn absent(&mut self) {
        let alive_only = self.sorted.is_alive_only() && self.sorted.unsolicited.is_empty();
        if !self.state.kind.comes_in_full_sets() || alive_only {
            return;
        }
        let held = self.state.names_to_be();
        let gone: BTreeSet<_> = held
            .into_iter()
            .chain(self.state.subscription.waiting())
            .filter(|name| !self.counts.contains_key(*name))
            .map(Arc::clone)
            .collect();
        self.sorted.answered.extend(gone.iter().map(Arc::clone));
        self.sorted.removed.extend(gone);
    }

    /// The version of a resource that is held, or will be.
    fn known(&mut self, name: &str) -> Option<&'a Arc<str>> {
        let state = self.state;
        if !state.is_pending() {
            return state.held_version(name);
        }
        self.versions.get_or_insert_with(|| state.versions_to_be()).get(name).copied()
    }

    fn aliases(&self, item: &Item) -> Option<Box<[Arc<str>]>> {
        if item.aliases.len() > self.limits.aliases {
            return None;
        }
        item.aliases.iter().map(|alias| self.checked(alias).ok()).collect()
    }

    fn checked(&self, name: &str) -> Result<Arc<str>, NameError> {
        check_name(name, self.limits)?;
        Ok(self.state.intern(name))
    }

    fn reject(&mut self, name: impl Into<Arc<str>>, reason: impl Into<String>) {
        self.sorted.rejections.push(Rejection::new(name, reason));
    }
}

/// What no resource can be called.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum NameError {
    /// Nothing.
    #[error("is required")]
    Empty,
    /// More than [`Limits::name_bytes`].
    #[error("is too long")]
    TooLong,
    /// The wildcard.
    #[error("must not be {WILDCARD:?}")]
    Wildcard,
    /// C-15: a name that says where to ask.
    #[error("xdstp:// names are not supported")]
    Locator,
}

/// Whether a resource may be called so.
pub(super) fn check_name(name: &str, limits: &Limits) -> Result<(), NameError> {
    match name {
        "" => Err(NameError::Empty),
        WILDCARD => Err(NameError::Wildcard),
        _ if name.len() > limits.name_bytes => Err(NameError::TooLong),
        _ if name.starts_with("xdstp://") => Err(NameError::Locator),
        _ => Ok(()),
    }
}
