//! The client against a model of a server, under delays, duplicates and closes at any point: whatever
//! happens on the way, in the end the store has what the server has, and every response was answered
//! once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use outrigger_xds::client::Token;
use proptest::prelude::{ProptestConfig, prop, proptest};

use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_converges_to_the_server_and_every_response_is_answered_once(
        delta: bool,
        steps in prop::collection::vec(prop::num::u32::ANY, 0..400),
    ) {
        let mut run = Run::new(if delta { Delta } else { Sotw });
        for step in steps {
            run.step(step);
        }
        run.settle();
    }
}

fn cases() -> u32 {
    std::env::var("OUTRIGGER_FUZZ_ITERATIONS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(CASES)
}

const CASES: u32 = 1500;

/// What there is: versions by name.
type World = BTreeMap<ResourceType, BTreeMap<String, u32>>;

const KINDS: [ResourceType; 3] = [Cluster, Endpoints, Listener];
const NAMES: [&str; 3] = ["a", "b", "c"];

struct Run {
    driven: Driven,
    world: World,
    next_version: u32,
    server: Option<Server>,
    /// On their way.
    requests: VecDeque<Said>,
    responses: VecDeque<Response>,
    /// The store.
    stored: World,
    unanswered: Vec<Verdict>,
    named: BTreeSet<(ResourceType, String)>,
}

/// What the store will say of an update, and do with it.
struct Verdict {
    kind: ResourceType,
    token: Token,
    taken: BTreeMap<String, u32>,
    rejections: Vec<Rejection>,
    gone: Vec<String>,
}

/// One stream, seen from the server.
struct Server {
    variant: Variant,
    next_nonce: u32,
    types: BTreeMap<ResourceType, Watched>,
    last: BTreeMap<ResourceType, Response>,
    /// Responses that were sent and not answered, in order.
    open: BTreeMap<ResourceType, VecDeque<String>>,
}

#[derive(Default)]
struct Watched {
    wildcard: bool,
    named: bool,
    names: BTreeSet<String>,
    /// What the server thinks that the client has.
    known: BTreeMap<String, u32>,
    /// To be sent, changed or not.
    forced: BTreeSet<String>,
    nonce: String,
}

impl Run {
    fn new(variant: Variant) -> Run {
        let mut driven = Driven::new(variant);
        for kind in [Cluster, Listener] {
            driven.client.subscribe_all(kind, None, driven.now);
        }
        Run {
            driven,
            world: World::new(),
            next_version: 1,
            server: None,
            requests: VecDeque::new(),
            responses: VecDeque::new(),
            stored: World::new(),
            unanswered: Vec::new(),
            named: BTreeSet::new(),
        }
        .connected()
    }

    fn connected(mut self) -> Run {
        self.connect();
        self
    }

    fn step(&mut self, step: u32) {
        let (kind, name) = (KINDS[(step >> 8) as usize % 3], NAMES[(step >> 16) as usize % 3]);
        // Names come and go mostly where there is no wildcard.
        let named = if step >> 30 == 0 { kind } else { Endpoints };
        match step % 20 {
            0..=2 => self.change(kind, name),
            3 => {
                self.world.entry(kind).or_default().remove(name);
            }
            4 | 5 => self.subscribe(named, name),
            6 | 7 if step >> 28 != 0 => self.unsubscribe(named, name),
            6 | 7 => self.driven.client.resubscribe(named, name, None, self.driven.now),
            8 | 9 => self.say(),
            10 | 11 => self.hear(),
            12 | 13 => self.push(kind),
            14 | 15 => self.deliver(),
            16 => self.answer((step >> 8) as usize),
            17 => match (step >> 8) % 4 {
                0 => self.close(),
                1 => self.repeat(kind),
                2 => self.stray(),
                _ => self.wait(u64::from(step >> 10) % 20_000),
            },
            18 => self.connect(),
            _ => self.say(),
        }
        self.say_some(step);
    }

    /// Lets everything come to rest, and looks whether it is right.
    fn settle(&mut self) {
        for kind in KINDS {
            // Nothing comes of what is bad (V-05).
            let world = self.world.entry(kind).or_default().clone();
            for (name, _) in world.into_iter().filter(|(_, version)| is_bad(*version)) {
                self.change(kind, &name);
                if is_bad(self.world[&kind][&name]) {
                    self.change(kind, &name);
                }
            }
        }
        self.connect();
        let mut idle = 0;
        while idle < 3 {
            let before = self.activity();
            self.say();
            while !self.requests.is_empty() {
                self.hear();
            }
            for kind in KINDS {
                self.push(kind);
            }
            while !self.responses.is_empty() && self.driven.client.can_receive() {
                self.deliver();
            }
            while !self.unanswered.is_empty() {
                self.answer(0);
            }
            let quiet = self.activity() == before;
            idle = if quiet { idle + 1 } else { 0 };
            // Time goes on when nothing else does.
            if let Some(deadline) = self.driven.client.next_deadline().filter(|_| quiet) {
                self.driven.now = self.driven.now.max(deadline);
                self.driven.client.expire(self.driven.now);
            }
        }
        let server = self.server.as_ref().unwrap();
        for (kind, open) in &server.open {
            assert!(open.is_empty(), "{kind}: {open:?} have no answer");
        }
        for kind in KINDS {
            let world = &self.world[&kind];
            let stored = self.stored.entry(kind).or_default();
            let wild = kind != Endpoints;
            let wanted = |name: &String| wild || self.named.contains(&(kind, name.clone()));
            for (name, version) in world.iter().filter(|(name, _)| wanted(name)) {
                assert_eq!(stored.get(name), Some(version), "{kind} {name}");
            }
            // The other variant cannot say that endpoints are gone (S-09).
            if wild || self.driven.client.variant() == Delta {
                let all: Vec<_> = stored.keys().filter(|name| !world.contains_key(*name)).collect();
                assert!(all.is_empty(), "{kind}: {all:?} are gone");
            }
            let held = self.driven.held_names(kind);
            assert_eq!(held, stored.keys().cloned().collect::<Vec<_>>(), "{kind}");
            let known = server.types.get(&kind).map(|watched| watched.names.clone());
            let named = self.named.iter().filter(|(of, _)| *of == kind).map(|(_, name)| name);
            assert_eq!(known.unwrap_or_default(), named.cloned().collect(), "{kind}");
        }
    }

    fn activity(&self) -> (u32, usize, usize, usize) {
        let nonces = self.server.as_ref().map_or(0, |server| server.next_nonce);
        (nonces, self.requests.len(), self.responses.len(), self.unanswered.len())
    }

    fn change(&mut self, kind: ResourceType, name: &str) {
        self.world.entry(kind).or_default().insert(name.to_owned(), self.next_version);
        self.next_version += 1;
    }

    fn subscribe(&mut self, kind: ResourceType, name: &str) {
        let timeout = Some(FETCH);
        self.driven.client.subscribe(kind, name, timeout, self.driven.now).unwrap();
        self.named.insert((kind, name.to_owned()));
    }

    fn unsubscribe(&mut self, kind: ResourceType, name: &str) {
        self.driven.client.unsubscribe(kind, name);
        if self.named.remove(&(kind, name.to_owned())) && kind == Endpoints {
            self.stored.entry(kind).or_default().remove(name);
        }
    }

    fn connect(&mut self) {
        if self.server.is_none() {
            self.driven.client.connected();
            let types = BTreeMap::new();
            let variant = self.driven.client.variant();
            let (last, open) = (BTreeMap::new(), BTreeMap::new());
            self.server = Some(Server { variant, next_nonce: 0, types, last, open });
        }
    }

    fn close(&mut self) {
        if self.server.take().is_some() {
            self.driven.client.disconnected(7);
            self.requests.clear();
            self.responses.clear();
        }
    }

    fn wait(&mut self, millis: u64) {
        self.driven.now += Duration::from_millis(millis);
        self.driven.client.expire(self.driven.now);
    }

    /// The client writes one message, sometimes.
    fn say_some(&mut self, step: u32) {
        if step >> 29 == 0
            && let Some(request) = self.driven.client.next_request(self.driven.now)
        {
            self.requests.push_back(Said::from(request));
        }
    }

    /// The client writes all it has.
    fn say(&mut self) {
        self.requests.extend(self.driven.requests());
    }

    /// The server reads a message.
    fn hear(&mut self) {
        if let (Some(server), Some(said)) = (&mut self.server, self.requests.pop_front()) {
            server.hear(said);
        }
    }

    fn push(&mut self, kind: ResourceType) {
        if let Some(response) = self.server.as_mut().and_then(|s| s.push(kind, &self.world)) {
            self.responses.push_back(response);
        }
    }

    /// The last response of a type once more; by the same nonce where it can be told whether both were
    /// answered: a change of names in the other variant has it, too.
    fn repeat(&mut self, kind: ResourceType) {
        let Some(server) = &mut self.server else { return };
        let Some(mut response) = server.last.get(&kind).cloned() else { return };
        let nonce = match &mut response {
            Response::Delta(response) => response.nonce.clone(),
            Response::Sotw(response) => {
                response.nonce.push('+');
                response.nonce.clone()
            }
        };
        server.types.get_mut(&kind).unwrap().nonce.clone_from(&nonce);
        server.last.insert(kind, response.clone());
        server.open.entry(kind).or_default().push_back(nonce);
        self.responses.push_back(response);
    }

    /// A type that nobody asked for.
    fn stray(&mut self) {
        if self.server.is_some() {
            let variant = self.driven.client.variant();
            self.responses.push_back(response(variant, Routes, "1", &["r"]));
        }
    }

    /// The client reads a message.
    fn deliver(&mut self) {
        if !self.driven.client.can_receive() {
            return;
        }
        let Some(response) = self.responses.pop_front() else { return };
        match self.driven.receive(response) {
            Received::Update(update) => {
                let (gone, kind) = (removed(&update), update.kind);
                let (mut taken, mut rejections) = (BTreeMap::new(), Vec::new());
                for resource in &update.resources {
                    let version = version_of(&resource.body);
                    if is_bad(version) {
                        rejections.push(Rejection::new(&*resource.name, "x: is bad"));
                    } else {
                        taken.insert(resource.name.to_string(), version);
                    }
                }
                let token = update.token;
                self.unanswered.push(Verdict { kind, token, taken, rejections, gone });
            }
            Received::Ignored { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    /// The store judges an update: of each type in order, as it must, but types in any order.
    fn answer(&mut self, random: usize) {
        let Some(chosen) = self.unanswered.get(random % self.unanswered.len().max(1)) else {
            return;
        };
        let kind = chosen.kind;
        let first = self.unanswered.iter().position(|verdict| verdict.kind == kind);
        let Verdict { token, taken, rejections, gone, .. } = self.unanswered.remove(first.unwrap());
        let stored = self.stored.entry(kind).or_default();
        stored.retain(|name, _| !gone.contains(name));
        let named = &self.named;
        stored.extend(
            taken
                .into_iter()
                .filter(|(name, _)| kind != Endpoints || named.contains(&(kind, name.clone()))),
        );
        self.driven.client.answer(token, rejections, self.driven.now);
    }
}

impl Server {
    fn hear(&mut self, said: Said) {
        let kind = said.kind;
        let first = !self.types.contains_key(&kind);
        let watched = self.types.entry(kind).or_default();
        assert!(!first || said.nonce.is_empty(), "C-03");
        let open = self.open.entry(kind).or_default();
        let answers = open.front().is_some_and(|nonce| *nonce == said.nonce);
        if self.variant == Delta {
            if !said.nonce.is_empty() {
                assert!(answers, "C-04: {} is answered, open are {open:?}", said.nonce);
                open.pop_front();
                assert!(said.names.is_empty() && said.unsubscribe.is_empty(), "D-05");
                return;
            }
            assert!(first || !said.names.is_empty() || !said.unsubscribe.is_empty(), "I-02");
            assert!(first || said.held.is_empty(), "D-01");
            if first {
                watched.wildcard = said.names.is_empty();
                watched.known = said
                    .held
                    .iter()
                    .map(|(name, version)| (name.clone(), version.parse().unwrap()))
                    .collect();
            }
            for name in said.names {
                if name == "*" {
                    watched.wildcard = true;
                } else if watched.names.insert(name.clone()) && first {
                    // Held or not is in the versions.
                    if !watched.known.contains_key(&name) {
                        watched.forced.insert(name);
                    }
                } else {
                    watched.forced.insert(name);
                }
            }
            for name in said.unsubscribe {
                assert!(watched.names.remove(&name), "only what was asked for is taken back");
                if watched.wildcard {
                    watched.forced.insert(name);
                } else {
                    watched.known.remove(&name);
                    watched.forced.remove(&name);
                }
            }
            return;
        }
        if answers {
            open.pop_front();
        } else {
            // A change of names, or one that was asked for again.
            assert!(said.error.is_none() && (said.nonce == watched.nonce || !open.is_empty()));
        }
        if said.nonce != watched.nonce {
            return; // Stale: dropped with everything in it.
        }
        watched.named |= !said.names.is_empty();
        watched.wildcard =
            (said.names.is_empty() && !watched.named) || said.names.contains(&"*".to_owned());
        watched.names = said.names.iter().filter(|name| *name != "*").cloned().collect();
        if !watched.wildcard {
            watched.known.retain(|name, _| watched.names.contains(name));
        }
    }

    /// What is to be sent of a type, if there is something.
    fn push(&mut self, kind: ResourceType, world: &World) -> Option<Response> {
        let watched = self.types.get_mut(&kind)?;
        let empty = BTreeMap::new();
        let world = world.get(&kind).unwrap_or(&empty);
        let wanted = |name: &String| watched.wildcard || watched.names.contains(name);
        let mut send: Vec<_> = world
            .iter()
            .filter(|(name, version)| {
                wanted(name)
                    && (watched.forced.contains(*name) || watched.known.get(*name) != Some(version))
            })
            .map(|(name, version)| (name.clone(), *version))
            .collect();
        let mut removed: BTreeSet<String> =
            watched.known.keys().filter(|name| !world.contains_key(*name)).cloned().collect();
        removed.extend(watched.forced.iter().filter(|name| !world.contains_key(*name)).cloned());
        let first = watched.nonce.is_empty();
        let nothing = send.is_empty() && removed.is_empty();
        if nothing && !first {
            return None;
        }
        watched.forced.clear();
        for name in &removed {
            watched.known.remove(name);
        }
        watched.known.extend(send.iter().cloned());
        self.next_nonce += 1;
        let nonce = format!("{kind}-{}", self.next_nonce);
        watched.nonce.clone_from(&nonce);
        let response: Response = if self.variant == Delta {
            let resources = send.iter().map(|(name, version)| Resource {
                resource: Some(versioned(kind, name, *version)),
                ..resource(kind, name, &version.to_string())
            });
            DeltaDiscoveryResponse {
                nonce: nonce.clone(),
                removed_resources: removed.into_iter().collect(),
                ..delta_of(kind, "s", resources.collect())
            }
            .into()
        } else {
            if kind != Endpoints {
                send =
                    watched.known.iter().map(|(name, version)| (name.clone(), *version)).collect();
            }
            let resources = send.iter().map(|(name, version)| versioned(kind, name, *version));
            DiscoveryResponse {
                nonce: nonce.clone(),
                ..sotw_of(kind, &self.next_nonce.to_string(), resources.collect())
            }
            .into()
        };
        self.last.insert(kind, response.clone());
        self.open.entry(kind).or_default().push_back(nonce);
        Some(response)
    }
}

/// A resource with a version in its body, as field 2.
fn versioned(kind: ResourceType, name: &str, version: u32) -> Any {
    let mut any = any(kind, name);
    let mut body = any.value.to_vec();
    body.push(0x15);
    body.extend(version.to_le_bytes());
    any.value = body.into();
    any
}

fn is_bad(version: u32) -> bool {
    version.is_multiple_of(5)
}

fn version_of(body: &[u8]) -> u32 {
    u32::from_le_bytes(body[body.len() - 4..].try_into().unwrap())
}
