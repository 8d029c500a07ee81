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
            Variant::Delta => {
                DeltaDiscoveryRequest::decode(message).map(|request| self.delta(&request, world, next))
            }
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
        subscription.wildcard |=
            first && kind.has_wildcard() && request.resource_names.is_empty();
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
        let any = |place: usize| Some(Any { type_url: type_url.clone(), value: world.body(kind, place)? });
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
