//! Which records of an access log are written (contract section 15). Decided when one would be.

use std::sync::Arc;

use super::matcher::HeaderMatcher;
use super::runtime::RuntimeFraction;

/// A condition on a record.
#[derive(Debug, Clone)]
pub enum LogFilter {
    /// The status that was sent.
    Status(Comparison),
    /// The whole time, in milliseconds.
    DurationMs(Comparison),
    /// No health check; nothing here answers any.
    NotHealthCheck,
    /// The request is traced.
    Traceable,
    /// The request is in a share of them.
    Share {
        /// Which.
        share: RuntimeFraction,
        /// Drawn for each record, rather than from the request's identifier.
        is_independent: bool,
    },
    /// Every one of these.
    All(Box<[LogFilter]>),
    /// One of these at least.
    Any(Box<[LogFilter]>),
    /// A request header.
    Header(Arc<HeaderMatcher>),
    /// One of these response flags, by their short names; any, if there are none here.
    Flags(Box<[Box<str>]>),
    /// How a gRPC call ended; what is no call has the status that its HTTP status means.
    GrpcStatus {
        /// Numbers of statuses.
        statuses: Box<[u32]>,
        /// Rather any other.
        excludes: bool,
    },
    /// What kind of record it is.
    Type {
        /// Kinds.
        types: Box<[LogTypeName]>,
        /// Rather any other.
        excludes: bool,
    },
    /// Known beforehand.
    Always(bool),
}

/// A kind of record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTypeName {
    /// Of a connection that no filter owned.
    NotSet,
    /// The end of a TCP connection.
    TcpConnectionEnd,
    /// The end of a request.
    DownstreamEnd,
}

/// A condition on a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `EQ`.
    Equal(u32),
    /// `GE`.
    AtLeast(u32),
    /// `LE`.
    AtMost(u32),
    /// `NE`.
    Different(u32),
}

impl Comparison {
    /// Whether `value` satisfies it.
    #[must_use]
    pub fn holds(self, value: u64) -> bool {
        match self {
            Comparison::Equal(other) => value == u64::from(other),
            Comparison::AtLeast(other) => value >= other.into(),
            Comparison::AtMost(other) => value <= other.into(),
            Comparison::Different(other) => value != u64::from(other),
        }
    }
}

impl LogFilter {
    /// Request headers (lower case, pseudo headers included) that must be kept for it.
    #[must_use]
    pub fn request_headers(&self) -> Vec<&str> {
        match self {
            LogFilter::Header(header) => match header.name.as_str() {
                "host" => vec![":authority"],
                name => vec![name],
            },
            LogFilter::All(filters) | LogFilter::Any(filters) => {
                filters.iter().flat_map(LogFilter::request_headers).collect()
            }
            _ => Vec::new(),
        }
    }
}
