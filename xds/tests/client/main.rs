//! The xDS client against the rules of xds.md, each by its id, against a model of a server, and against
//! bytes that are no xDS.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod both;
mod delta;
mod failure;
mod fuzz;
mod limits;
mod model;
mod nack;
mod sotw;
mod ttl;

use std::time::{Duration, Instant};

use bytes::Bytes;
use outrigger_xds::client::message::{
    Any, ControlPlane, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource, Span,
};
use outrigger_xds::client::{
    Client, Expired, Options, Received, Refusal, Rejection, Request, ResourceType, Response,
    Update, Variant, Why,
};
use prost::Message;

pub(crate) use ResourceType::{
    Cluster, ClusterLoadAssignment as Endpoints, Listener, RouteConfiguration as Routes, Secret,
    VirtualHost,
};
pub(crate) use Variant::{Delta, StateOfTheWorld as Sotw};

pub(crate) const BOTH: [Variant; 2] = [Sotw, Delta];
pub(crate) const FETCH: Duration = Duration::from_secs(15);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// Node { id: "sidecar" }.
pub(crate) const NODE: &[u8] = b"\x0a\x07sidecar";

/// A client and its time.
pub(crate) struct Driven {
    pub(crate) client: Client,
    pub(crate) now: Instant,
}

/// A request of either variant.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Said {
    pub(crate) kind: ResourceType,
    pub(crate) node: Bytes,
    /// All names, or those to subscribe to.
    pub(crate) names: Vec<String>,
    pub(crate) unsubscribe: Vec<String>,
    /// Of the type.
    pub(crate) version: String,
    /// Of resources.
    pub(crate) held: Vec<(String, String)>,
    pub(crate) nonce: String,
    pub(crate) error: Option<String>,
}

impl Driven {
    pub(crate) fn new(variant: Variant) -> Driven {
        Driven::with(variant, Options::default())
    }

    pub(crate) fn with(variant: Variant, options: Options) -> Driven {
        let client = Client::new(variant, Bytes::from_static(NODE), options);
        Driven { client, now: Instant::now() }
    }

    /// With a stream on which `kind` has been asked for: everything, if there are no names.
    pub(crate) fn asking(variant: Variant, kind: ResourceType, names: &[&str]) -> Driven {
        let mut driven = Driven::new(variant);
        driven.client.connected();
        driven.ask(kind, names);
        assert_eq!(driven.requests().len(), 1);
        driven
    }

    pub(crate) fn ask(&mut self, kind: ResourceType, names: &[&str]) {
        if names.is_empty() {
            self.client.subscribe_all(kind, Some(FETCH), self.now);
        }
        for name in names {
            self.client.subscribe(kind, name, Some(FETCH), self.now).unwrap();
        }
    }

    pub(crate) fn reconnect(&mut self) {
        self.client.disconnected(0);
        self.client.connected();
    }

    pub(crate) fn requests(&mut self) -> Vec<Said> {
        let now = self.now;
        std::iter::from_fn(|| self.client.next_request(now)).map(Said::from).collect()
    }

    /// The one request there is.
    #[track_caller]
    pub(crate) fn request(&mut self) -> Said {
        let mut all = self.requests();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    pub(crate) fn receive(&mut self, response: impl Into<Response>) -> Received {
        self.client.receive(response.into(), self.now).unwrap()
    }

    #[track_caller]
    pub(crate) fn update(&mut self, response: impl Into<Response>) -> Update {
        match self.receive(response) {
            Received::Update(update) => update,
            other => panic!("{other:?}"),
        }
    }

    /// Takes a response whole; returns the names of what was new in it.
    #[track_caller]
    pub(crate) fn accept(&mut self, response: impl Into<Response>) -> Vec<String> {
        let update = self.update(response);
        let names = update.resources.iter().map(|resource| resource.name.to_string()).collect();
        assert_eq!(self.client.answer(update.token, Vec::new(), self.now), None);
        names
    }

    /// Takes a response but for some resources.
    #[track_caller]
    pub(crate) fn reject(&mut self, response: impl Into<Response>, names: &[&str]) -> Refusal {
        let update = self.update(response);
        let rejections = names.iter().map(|name| Rejection::new(*name, "field: is bad")).collect();
        self.client.answer(update.token, rejections, self.now).unwrap()
    }

    #[track_caller]
    pub(crate) fn refused(&mut self, response: impl Into<Response>) -> Refusal {
        match self.receive(response) {
            Received::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }

    /// Names and versions that are held.
    pub(crate) fn held(&self, kind: ResourceType) -> Vec<(String, String)> {
        let resources = self.client.saved(kind).resources;
        let pair = |name: &str, version: &str| (name.to_owned(), version.to_owned());
        resources.iter().map(|resource| pair(&resource.name, &resource.version)).collect()
    }

    pub(crate) fn held_names(&self, kind: ResourceType) -> Vec<String> {
        self.held(kind).into_iter().map(|(name, _)| name).collect()
    }

    /// What is over after `time`.
    pub(crate) fn after(&mut self, time: Duration) -> Vec<Expired> {
        self.now += time;
        self.client.expire(self.now)
    }
}

impl Said {
    pub(crate) fn is_ack(&self, nonce: &str) -> bool {
        self.nonce == nonce && self.error.is_none()
    }

    pub(crate) fn is_nack(&self, nonce: &str) -> bool {
        self.nonce == nonce && self.error.is_some()
    }
}

impl From<Request> for Said {
    fn from(request: Request) -> Said {
        let kind = ResourceType::of_url(request.type_url()).unwrap();
        // What is written is what is read.
        let bytes = request.encode();
        match request {
            Request::Sotw(said, names) => {
                let names: Vec<_> = names.iter().map(str::to_owned).collect();
                let whole = DiscoveryRequest { resource_names: names.clone(), ..said.clone() };
                assert_eq!(Message::decode(bytes), Ok(whole));
                Said {
                    kind,
                    node: said.node,
                    names,
                    unsubscribe: Vec::new(),
                    version: said.version_info,
                    held: Vec::new(),
                    nonce: said.response_nonce,
                    error: said.error_detail.map(|status| {
                        assert_eq!(status.code, 3, "INVALID_ARGUMENT");
                        status.message
                    }),
                }
            }
            Request::Delta(said) => {
                assert_eq!(Message::decode(bytes), Ok(said.clone()));
                Said {
                    kind,
                    node: said.node,
                    names: said.resource_names_subscribe,
                    unsubscribe: said.resource_names_unsubscribe,
                    version: String::new(),
                    held: said.initial_resource_versions.into_iter().collect(),
                    nonce: said.response_nonce,
                    error: said.error_detail.map(|status| {
                        assert_eq!(status.code, 3, "INVALID_ARGUMENT");
                        status.message
                    }),
                }
            }
        }
    }
}

/// A resource of any type: its name, and something else.
pub(crate) fn any(kind: ResourceType, name: &str) -> Any {
    let mut body = vec![0x0a];
    prost::encode_length_delimiter(name.len(), &mut body).unwrap();
    body.extend(name.bytes());
    body.extend(b"\xfa\x01\x04more");
    Any { type_url: kind.type_url().to_owned(), value: body.into() }
}

pub(crate) fn resource(kind: ResourceType, name: &str, version: &str) -> Resource {
    Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: Some(any(kind, name)),
        ..Resource::default()
    }
}

/// A wrapper as a state-of-the-world response has it.
pub(crate) fn wrap(resource: &Resource) -> Any {
    Any {
        type_url: "type.googleapis.com/envoy.service.discovery.v3.Resource".to_owned(),
        value: resource.encode_to_vec().into(),
    }
}

pub(crate) fn span(length: Duration) -> Option<Span> {
    Some(Span { seconds: length.as_secs() as i64, nanos: length.subsec_nanos() as i32 })
}

/// A response in which everything is new, as version `version`, with that as its nonce.
pub(crate) fn response(
    variant: Variant,
    kind: ResourceType,
    version: &str,
    names: &[&str],
) -> Response {
    match variant {
        Sotw => sotw_of(kind, version, names.iter().map(|name| any(kind, name)).collect()).into(),
        Delta => delta_of(
            kind,
            version,
            names.iter().map(|name| resource(kind, name, version)).collect(),
        )
        .into(),
    }
}

pub(crate) fn sotw_of(kind: ResourceType, version: &str, resources: Vec<Any>) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: version.to_owned(),
        resources,
        type_url: kind.type_url().to_owned(),
        nonce: format!("n{version}"),
        control_plane: Some(ControlPlane { identifier: "model".to_owned() }),
    }
}

pub(crate) fn delta_of(
    kind: ResourceType,
    version: &str,
    resources: Vec<Resource>,
) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        system_version_info: version.to_owned(),
        resources,
        type_url: kind.type_url().to_owned(),
        nonce: format!("n{version}"),
        control_plane: Some(ControlPlane { identifier: "model".to_owned() }),
        ..DeltaDiscoveryResponse::default()
    }
}

/// A response that says what is gone.
pub(crate) fn gone(kind: ResourceType, version: &str, names: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        removed_resources: names.iter().map(|name| (*name).to_owned()).collect(),
        ..delta_of(kind, version, Vec::new())
    }
}

pub(crate) fn expired(kind: ResourceType, name: &str, why: Why) -> Expired {
    Expired { kind, name: Some(name.into()), why }
}

pub(crate) fn texts(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

pub(crate) fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect()
}

pub(crate) fn removed(update: &Update) -> Vec<String> {
    update.removed.iter().map(ToString::to_string).collect()
}
