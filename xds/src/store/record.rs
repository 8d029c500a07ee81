//! What is remembered of a resource beside what it compiled to: for admin, and to see that a server
//! says the same again.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::fingerprint::Fingerprint;

/// A resource as it was last accepted.
#[derive(Debug, Clone)]
pub struct Record {
    /// The server's name for this content; under state of the world that of the whole response.
    pub version: Arc<str>,
    /// The encoded message.
    pub content: Bytes,
    /// When it was accepted.
    pub updated: SystemTime,
    pub(super) fingerprint: Fingerprint,
}

/// A version that was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorState {
    /// Its name.
    pub version: Arc<str>,
    /// What is wrong with it.
    pub text: Arc<str>,
    /// When it came.
    pub at: SystemTime,
}

/// How far a resource has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is served.
    Active,
    /// It waits for others; what it replaces is served meanwhile.
    Warming,
    /// No version of it was ever accepted.
    Refused,
}

/// A resource as admin shows it.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Its name.
    pub name: Box<str>,
    /// How far the last accepted version has come.
    pub stage: Stage,
    /// The last accepted version.
    pub record: Option<Record>,
    /// A later version that was refused.
    pub error: Option<ErrorState>,
}
