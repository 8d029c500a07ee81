//! Faults to inject (contract section 19): `envoy.filters.http.fault`, of a listener or of a route.

use std::time::Duration;

use super::matcher::HeaderMatcher;
use super::runtime::RuntimeFraction;

/// What a fault filter does. Without delay and abort it does nothing.
#[derive(Debug, Clone, Default)]
pub struct Fault {
    /// Holds requests back.
    pub delay: Option<FaultDelay>,
    /// Answers in place of upstream.
    pub abort: Option<FaultAbort>,
    /// Only requests to this cluster.
    pub upstream_cluster: Option<Box<str>>,
    /// Only requests that satisfy all of these.
    pub headers: Box<[HeaderMatcher]>,
    /// Only requests from these nodes (`x-envoy-downstream-service-node`); empty: from any.
    pub downstream_nodes: Box<[Box<str>]>,
    /// Requests under way that may be delayed or aborted at once; `None` unlimited.
    pub max_active: Option<u32>,
}

/// A delay.
#[derive(Debug, Clone)]
pub struct FaultDelay {
    /// How long.
    pub by: FaultDelayBy,
    /// Of which requests. A request that brings its own delay may bring a lower share too.
    pub fraction: RuntimeFraction,
}

/// How long a request is delayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultDelayBy {
    /// So long; above zero.
    Fixed(Duration),
    /// As `x-envoy-fault-delay-request` says, in milliseconds.
    Header,
}

/// An abort.
#[derive(Debug, Clone)]
pub struct FaultAbort {
    /// With what.
    pub with: FaultAbortWith,
    /// Which requests. A request that brings its own status may bring a lower share too.
    pub fraction: RuntimeFraction,
}

/// What an aborted request is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultAbortWith {
    /// A status of HTTP, 200..=599.
    Http(u16),
    /// A status of gRPC.
    Grpc(u32),
    /// As `x-envoy-fault-abort-request` or `x-envoy-fault-abort-grpc-request` say.
    Header,
}
