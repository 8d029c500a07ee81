//! One stream of a management server: what its requests ask for, and what they are answered with.
//!
//! State of the world and delta, over the resources of a [`World`]. No I/O and no clock. It does what
//! servers in the field do where the protocol leaves room: a request with a nonce other than the
//! last one is an answer and nothing else, and a subscription that is repeated as it was has
//! everything sent again. The invariant: a response is made for what is subscribed only.

use bytes::{BufMut, Bytes, BytesMut};
use clap::ValueEnum;
use prost::{DecodeError, Message};

use super::{
    message::{
        Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
        Resource, Status, TYPE_URL_PREFIX,
    },
    world::{Kind, World},
};

/// The two forms of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum Variant {
    /// State of the world.
    Sotw,
    /// Incremental.
    Delta,
}

impl Variant {
    /// Name in options and results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sotw => "sotw",
            Self::Delta => "delta",
        }
    }

    /// Name in `ApiConfigSource.api_type`.
    pub(super) fn api_type(self) -> &'static str {
        match self {
            Self::Sotw => "GRPC",
            Self::Delta => "DELTA_GRPC",
        }
    }

    /// The variant of a method of the aggregated service.
    pub(super) fn of(path: &str) -> Option<Self> {
        match path.strip_prefix("/envoy.service.discovery.v3.AggregatedDiscoveryService/")? {
            "StreamAggregatedResources" => Some(Self::Sotw),
            "DeltaAggregatedResources" => Some(Self::Delta),
            _ => None,
        }
    }
}

/// Something to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) kind: Kind,
    pub(super) version: String,
    /// Resources in it.
    pub(super) resources: usize,
    /// The message as gRPC frames it.
    pub(super) bytes: Bytes,
}

/// What a request said about an earlier response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) nonce: u64,
    /// Why it was refused.
    pub(super) rejected: Option<String>,
}

/// What a request comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) answer: Option<Answer>,
    pub(super) response: Option<Response>,
}

/// The state of one stream.
#[derive(Debug)]
pub(super) struct Session {
    variant: Variant,
    /// By the kind's number.
    subscriptions: [Subscription; Kind::ALL.len()],
}

#[derive(Debug, Default)]
struct Subscription {
    /// There was a request.
    begun: bool,
    wildcard: bool,
    /// Those named, by their places.
    named: Vec<bool>,
    /// Of the last response; 0 before there is one.
    nonce: u64,
    /// That has been answered.
    answered: bool,
}

impl Session {
    pub(super) fn new(variant: Variant) -> Self {
        Self { variant, subscriptions: Default::default() }
    }

    /// Takes a request. A response, if there is one, has the nonce `next`.
    pub(super) fn take(
        &mut self,
        message: Bytes,
        world: &World,
        next: u64,
    ) -> Result<Turn, DecodeError> {
        match self.variant {
            Variant::Sotw => {
                DiscoveryRequest::decode(message).map(|request| self.sotw(&request, world, next))
            }
            Variant::Delta => DeltaDiscoveryRequest::decode(message)
                .map(|request| self.delta(&request, world, next)),
        }
    }

    /// The endpoints of a cluster, if they are subscribed.
    pub(super) fn push(&mut self, cluster: usize, world: &World, next: u64) -> Option<Response> {
        let kind = Kind::Endpoints;
        let named = &self.subscriptions[kind as usize].named;
        if !named.get(cluster).is_some_and(|named| *named) {
            return None;
        }
        self.respond(kind, &[cluster], Vec::new(), world, next)
    }

    fn sotw(&mut self, request: &DiscoveryRequest, world: &World, next: u64) -> Turn {
        let Some(kind) = Kind::of(&request.type_url) else { return Turn::default() };
        let answer = answer(&request.response_nonce, request.error_detail.as_ref());
        let subscription = &mut self.subscriptions[kind as usize];
        let current = answer.as_ref().is_none_or(|answer| answer.nonce == subscription.nonce);
        if !current {
            return Turn { answer, response: None };
        }
        let first = !subscription.begun;
        subscription.begun = true;
        subscription.wildcard |= first && kind.has_wildcard() && request.resource_names.is_empty();
        let repeated = answer.is_some() && subscription.answered;
        subscription.answered |= answer.is_some();
        let mut named = vec![false; world.count(kind)];
        for name in &request.resource_names {
            if let Some(place) = world.find(kind, name) {
                named[place] = true;
            }
        }
        let before = std::mem::replace(&mut subscription.named, named);
        let named = &subscription.named;
        let held = |place: usize| before.get(place).is_some_and(|held| *held);
        let all = || (0..named.len()).filter(|place| subscription.wildcard || named[*place]);
        let added: Vec<usize> =
            (0..named.len()).filter(|place| named[*place] && !held(*place)).collect();
        let whole = first || (repeated && before == *named);
        let places = match kind {
            _ if whole => all().collect(),
            // What is absent from a response of these is gone.
            Kind::Cluster | Kind::Listener if !added.is_empty() => all().collect(),
            _ => added,
        };
        if places.is_empty() {
            return Turn { answer, response: None };
        }
        Turn { answer, response: self.respond(kind, &places, Vec::new(), world, next) }
    }

    fn delta(&mut self, request: &DeltaDiscoveryRequest, world: &World, next: u64) -> Turn {
        const WILDCARD: &[u8] = b"*";
        let Some(kind) = Kind::of(&request.type_url) else { return Turn::default() };
        let answer = answer(&request.response_nonce, request.error_detail.as_ref());
        let subscription = &mut self.subscriptions[kind as usize];
        let first = !subscription.begun;
        subscription.begun = true;
        subscription.named.resize(world.count(kind), false);
        let mut places = Vec::new();
        let mut removed = Vec::new();
        let wildcard = kind.has_wildcard()
            && (request.resource_names_subscribe.iter().any(|name| name == WILDCARD)
                || (first && request.resource_names_subscribe.is_empty()));
        if wildcard {
            subscription.wildcard = true;
            places.extend(0..world.count(kind));
        }
        for name in request.resource_names_subscribe.iter().filter(|name| *name != WILDCARD) {
            match world.find(kind, name) {
                Some(place) => {
                    subscription.named[place] = true;
                    places.push(place);
                }
                None => removed.push(name.clone()),
            }
        }
        for name in &request.resource_names_unsubscribe {
            if name == WILDCARD {
                subscription.wildcard = false;
            } else if let Some(place) = world.find(kind, name) {
                subscription.named[place] = false;
            }
        }
        let mut held = vec![None; world.count(kind)];
        for one in &request.initial_resource_versions {
            if let Some(place) = world.find(kind, &one.name) {
                held[place] = Some(&*one.version);
            }
        }
        places.retain(|place| {
            held[*place].is_none_or(|version| world.resource_version(kind, *place) != version)
        });
        if places.is_empty() && removed.is_empty() {
            return Turn { answer, response: None };
        }
        Turn { answer, response: self.respond(kind, &places, removed, world, next) }
    }

    fn respond(
        &mut self,
        kind: Kind,
        places: &[usize],
        removed: Vec<Bytes>,
        world: &World,
        next: u64,
    ) -> Option<Response> {
        let subscription = &mut self.subscriptions[kind as usize];
        (subscription.nonce, subscription.answered) = (next, false);
        let type_url = format!("{TYPE_URL_PREFIX}{}", kind.type_name());
        let version = world.version(kind);
        let nonce = next.to_string();
        let any = |place: usize| {
            Some(Any { type_url: type_url.clone(), value: world.body(kind, place)? })
        };
        let bytes = match self.variant {
            Variant::Sotw => framed(&DiscoveryResponse {
                version_info: version.clone(),
                resources: places.iter().map(|place| any(*place)).collect::<Option<_>>()?,
                type_url: type_url.clone(),
                nonce,
            }),
            Variant::Delta => {
                let resource = |place: &usize| {
                    Some(Resource {
                        version: world.resource_version(kind, *place),
                        resource: Some(any(*place)?),
                        name: kind.name(*place),
                    })
                };
                framed(&DeltaDiscoveryResponse {
                    system_version_info: version.clone(),
                    resources: places.iter().map(resource).collect::<Option<_>>()?,
                    type_url: type_url.clone(),
                    nonce,
                    removed_resources: removed,
                })
            }
        };
        Some(Response { kind, version, resources: places.len(), bytes })
    }
}

/// What a request answers; nothing if it has no nonce of ours.
fn answer(nonce: &str, error: Option<&Status>) -> Option<Answer> {
    let nonce = nonce.parse().ok()?;
    Some(Answer { nonce, rejected: error.map(|error| error.message.clone()) })
}

/// Bytes before each message of gRPC: whether it is compressed, and its length.
pub(super) const PREFIX_BYTES: usize = 5;

fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // Grows as needed, so there is always room.
    let _ = message.encode(&mut bytes);
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::{
        message::Held,
        world::{Extent, Size},
    };

    fn world() -> World {
        let size = Size { clusters: 5, endpoints: 2, virtual_hosts: 5, listeners: 1 };
        World::new(size, &["127.0.0.1:1".parse().unwrap()], [1000, 2000])
    }

    fn names(list: &[&str]) -> Vec<Bytes> {
        list.iter().map(|name| Bytes::copy_from_slice(name.as_bytes())).collect()
    }

    fn url(kind: Kind) -> String {
        format!("{TYPE_URL_PREFIX}{}", kind.type_name())
    }

    /// A stream in the state of the world, and the nonce of the next response.
    struct Sotw {
        session: Session,
        world: World,
        next: u64,
    }

    impl Sotw {
        fn new() -> Self {
            Self { session: Session::new(Variant::Sotw), world: world(), next: 1 }
        }

        /// The clusters or other places of the response.
        fn ask(&mut self, kind: Kind, named: &[&str], nonce: &str) -> Vec<usize> {
            let request = DiscoveryRequest {
                resource_names: names(named),
                type_url: url(kind),
                response_nonce: nonce.to_owned(),
                ..DiscoveryRequest::default()
            };
            let message = request.encode_to_vec().into();
            let turn = self.session.take(message, &self.world, self.next).unwrap();
            assert_eq!(turn.answer.map(|answer| answer.nonce), nonce.parse().ok());
            turn.response.map_or_else(Vec::new, |response| self.read(kind, &response))
        }

        fn read(&mut self, kind: Kind, response: &Response) -> Vec<usize> {
            assert_eq!(response.bytes[0], 0);
            let length = response.bytes[1..PREFIX_BYTES].to_vec();
            assert_eq!(length, ((response.bytes.len() - PREFIX_BYTES) as u32).to_be_bytes());
            let message = DiscoveryResponse::decode(&response.bytes[PREFIX_BYTES..]).unwrap();
            assert_eq!((message.type_url, message.nonce), (url(kind), self.next.to_string()));
            assert_eq!(message.version_info, self.world.version(kind));
            assert_eq!(message.resources.len(), response.resources);
            self.next += 1;
            let place = |any: &Any| {
                assert_eq!(any.type_url, url(kind));
                let all = 0..self.world.count(kind);
                all.into_iter().find(|at| self.world.body(kind, *at).as_ref() == Some(&any.value))
            };
            message.resources.iter().map(|any| place(any).unwrap()).collect()
        }
    }

    #[test]
    fn sotw_sends_what_is_newly_named() {
        let mut stream = Sotw::new();
        assert_eq!(stream.ask(Kind::Cluster, &[], ""), [0, 1, 2, 3, 4]);
        assert_eq!(stream.ask(Kind::Cluster, &[], "1"), [0; 0]);
        let both = ["service-1", "service-3"];
        assert_eq!(stream.ask(Kind::Endpoints, &both, ""), [1, 3]);
        assert_eq!(stream.ask(Kind::Endpoints, &both, "2"), [0; 0]);
        // The same again is how a client asks for it again.
        assert_eq!(stream.ask(Kind::Endpoints, &both, "2"), [1, 3]);
        assert_eq!(stream.ask(Kind::Endpoints, &both, "3"), [0; 0]);
        let three = ["service-1", "service-3", "service-4"];
        assert_eq!(stream.ask(Kind::Endpoints, &three, "3"), [4]);
        // An answer to an older response says nothing about names.
        assert_eq!(stream.ask(Kind::Endpoints, &["service-0"], "3"), [0; 0]);
        assert_eq!(stream.ask(Kind::Endpoints, &three, "4"), [0; 0]);
        // Fewer names: nothing to send.
        assert_eq!(stream.ask(Kind::Endpoints, &["service-4"], "4"), [0; 0]);
        // No names are no wildcard here, and nothing is there by that name.
        assert_eq!(stream.ask(Kind::Routes, &[], ""), [0; 0]);
        assert_eq!(stream.ask(Kind::Routes, &["other"], ""), [0; 0]);
        assert_eq!(stream.ask(Kind::Routes, &["routes-0"], ""), [0]);
    }

    #[test]
    fn sotw_pushes_what_is_named() {
        let mut stream = Sotw::new();
        stream.ask(Kind::Endpoints, &["service-1"], "");
        stream.world.change(1, Extent::All);
        assert_eq!(stream.session.push(2, &stream.world, 2), None);
        let response = stream.session.push(1, &stream.world, 2).unwrap();
        assert_eq!(stream.read(Kind::Endpoints, &response), [1]);
        assert_eq!(response.version, "1");
    }

    #[test]
    fn refusals_are_told() {
        let status = Status { code: 3, message: "no good".to_owned() };
        let request = DeltaDiscoveryRequest {
            type_url: url(Kind::Cluster),
            response_nonce: "7".to_owned(),
            error_detail: Some(status),
            ..DeltaDiscoveryRequest::default()
        };
        let message: Bytes = request.encode_to_vec().into();
        let turn = Session::new(Variant::Delta).take(message, &world(), 8).unwrap();
        let answer = Answer { nonce: 7, rejected: Some("no good".to_owned()) };
        assert_eq!(turn.answer, Some(answer));
        let other = DiscoveryRequest { type_url: "x".to_owned(), ..DiscoveryRequest::default() };
        let message = other.encode_to_vec().into();
        let turn = Session::new(Variant::Sotw).take(message, &world(), 1).unwrap();
        assert_eq!(turn, Turn::default());
        let cut = Bytes::from_static(&[0x0a, 9, b'x']);
        assert!(Session::new(Variant::Sotw).take(cut, &world(), 1).is_err());
    }

    /// A delta request, as bytes.
    fn delta(kind: Kind, more: &[&str], less: &[&str], held: &[(&str, &str)]) -> Bytes {
        let held = held.iter().map(|(name, version)| Held {
            name: Bytes::copy_from_slice(name.as_bytes()),
            version: (*version).to_owned(),
        });
        let request = DeltaDiscoveryRequest {
            type_url: url(kind),
            resource_names_subscribe: names(more),
            resource_names_unsubscribe: names(less),
            initial_resource_versions: held.collect(),
            ..DeltaDiscoveryRequest::default()
        };
        request.encode_to_vec().into()
    }

    /// Names with versions, and names of what is not there.
    fn read(response: Option<Response>) -> (Vec<String>, Vec<Bytes>) {
        let Some(response) = response else { return (Vec::new(), Vec::new()) };
        let message = DeltaDiscoveryResponse::decode(&response.bytes[PREFIX_BYTES..]).unwrap();
        let resource = |one: &Resource| format!("{} {}", one.name, one.version);
        (message.resources.iter().map(resource).collect(), message.removed_resources)
    }

    #[test]
    fn delta_sends_what_is_subscribed_and_not_held() {
        let mut world = world();
        world.change(1, Extent::All);
        let mut session = Session::new(Variant::Delta);
        let mut ask = |message| read(session.take(message, &world, 1).unwrap().response);
        // The first request without names is the wildcard; what is held is not sent again.
        let held = [("service-0", "1"), ("service-2", "old"), ("gone", "1")];
        let (sent, _) = ask(delta(Kind::Cluster, &[], &[], &held));
        assert_eq!(sent, ["service-1 1", "service-2 1", "service-3 1", "service-4 1"]);
        assert_eq!(ask(delta(Kind::Cluster, &[], &[], &[])).0, [""; 0]);
        let (sent, removed) = ask(delta(Kind::Endpoints, &["service-1", "other"], &[], &[]));
        assert_eq!((sent, removed), (vec!["service-1 1".to_owned()], names(&["other"])));
        // Asked for again it comes again.
        assert_eq!(ask(delta(Kind::Endpoints, &["service-1"], &[], &[])).0, ["service-1 1"]);
        assert_eq!(ask(delta(Kind::Endpoints, &[], &["service-1"], &[])).0, [""; 0]);
        assert_eq!(session.push(1, &world, 1), None);
        session.take(delta(Kind::Endpoints, &["service-1"], &[], &[]), &world, 1).unwrap();
        assert_eq!(read(session.push(1, &world, 1)).0, ["service-1 1"]);
    }

    #[test]
    fn delta_wildcard_by_name() {
        let world = world();
        let mut session = Session::new(Variant::Delta);
        let mut ask = |message| read(session.take(message, &world, 1).unwrap().response);
        assert_eq!(ask(delta(Kind::Listener, &["listener-7"], &[], &[])).1, names(&["listener-7"]));
        assert_eq!(ask(delta(Kind::Listener, &["*"], &[], &[])).0, ["listener-0 1"]);
        // It is one of clusters and listeners alone.
        assert_eq!(ask(delta(Kind::Endpoints, &[], &[], &[])).0, [""; 0]);
    }
}
