//! A response of either variant in one form.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::ResourceType;
use super::message::{
    Any, DeltaDiscoveryResponse, DiscoveryResponse, Resource, ResourceName, Response, Span,
};
use super::wire;

/// What a response says, unchecked but for its form.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) type_url: String,
    pub(super) version: String,
    pub(super) nonce: String,
    pub(super) control_plane: Option<String>,
    pub(super) items: Vec<Item>,
    pub(super) removed: Vec<String>,
}

/// One resource of it.
#[derive(Debug)]
pub(super) struct Item {
    /// `Err`: it cannot be read, and why.
    pub(super) name: Result<String, &'static str>,
    /// Its own; empty for what is not wrapped.
    pub(super) version: String,
    pub(super) aliases: Vec<String>,
    /// `Err`: what should be a time is none.
    pub(super) ttl: Result<Option<Duration>, ()>,
    /// Type and content; absent in heartbeats.
    pub(super) body: Option<(String, Bytes)>,
}

impl Incoming {
    pub(super) fn read(response: Response) -> Incoming {
        match response {
            Response::Sotw(response) => sotw(response),
            Response::Delta(response) => delta(response),
        }
    }

    /// Whether it is about `kind` (C-08): the place and type of the first resource that is not.
    pub(super) fn stray(&self, kind: ResourceType) -> Option<(usize, &str)> {
        let bodies = self.items.iter().enumerate();
        let mut types = bodies.filter_map(|(at, item)| Some((at, &*item.body.as_ref()?.0)));
        types.find(|(_, type_url)| !kind.is_named_by(type_url))
    }
}

fn sotw(response: DiscoveryResponse) -> Incoming {
    let DiscoveryResponse { version_info, resources, type_url, nonce, control_plane } = response;
    Incoming {
        type_url,
        version: version_info,
        nonce,
        control_plane: control_plane.map(|control_plane| control_plane.identifier),
        items: resources.into_iter().map(bare).collect(),
        removed: Vec::new(),
    }
}

fn delta(response: DeltaDiscoveryResponse) -> Incoming {
    let mut removed = response.removed_resources;
    removed.extend(response.removed_resource_names.into_iter().map(|name| name.name));
    Incoming {
        type_url: response.type_url,
        version: response.system_version_info,
        nonce: response.nonce,
        control_plane: response.control_plane.map(|control_plane| control_plane.identifier),
        items: response.resources.into_iter().map(wrapped).collect(),
        removed,
    }
}

/// S-13: a resource as it is, or in a wrapper.
fn bare(any: Any) -> Item {
    if any.type_url.rsplit('/').next() == Some(WRAPPER) {
        return match Resource::decode(any.value) {
            Ok(resource) => wrapped(resource),
            Err(_) => Item::unreadable("is a malformed Resource"),
        };
    }
    match wire::name(&any.value) {
        Ok(name) => Item {
            name: Ok(name.to_owned()),
            version: String::new(),
            aliases: Vec::new(),
            ttl: Ok(None),
            body: Some((any.type_url, any.value)),
        },
        // The type is kept, because a wrong type explains a strange content.
        Err(_) => Item {
            body: Some((any.type_url, Bytes::new())),
            ..Item::unreadable("is a malformed message")
        },
    }
}

fn wrapped(resource: Resource) -> Item {
    let Resource { version, resource, mut name, aliases, ttl, resource_name } = resource;
    if let (true, Some(ResourceName { name: other })) = (name.is_empty(), resource_name) {
        name = other;
    }
    let body = resource.map(|any| (any.type_url, any.value));
    let name = match &body {
        Some((_, body)) if name.is_empty() => {
            wire::name(body).map(str::to_owned).map_err(|_| "is a malformed message")
        }
        _ => Ok(name),
    };
    let ttl = ttl.map(Span::length).map_or(Ok(None), |length| length.map(Some).ok_or(()));
    Item { name, version, aliases, ttl, body }
}

impl Item {
    fn unreadable(reason: &'static str) -> Item {
        Item {
            name: Err(reason),
            version: String::new(),
            aliases: Vec::new(),
            ttl: Ok(None),
            body: None,
        }
    }
}

const WRAPPER: &str = "envoy.service.discovery.v3.Resource";
