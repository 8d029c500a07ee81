//! Configuration: Envoy v3 resources in, one validated, immutable [`snapshot::Snapshot`] out.
//!
//! Protobuf ends here: what a shard gets is plain Rust data. Nothing that a file sets is dropped
//! silently: a field we do not implement is refused with its full path, unless it is listed as safe to
//! ignore, and then it is reported. [`bootstrap::load`] is the way in.
//!
//! A load is four steps: text to JSON values (`source`), values to messages (`mapping`), every field of
//! every message looked up (`support`), and messages to the snapshot (`compile`).

pub mod bootstrap;
pub mod cache;
pub mod client;
pub mod engine_config;
pub mod environment;
pub mod fault;
pub mod secrets;
pub mod services_config;
pub mod snapshot;
pub mod source;
pub mod store;

mod compile;
mod dump;
mod fingerprint;
mod mapping;
mod support;
mod view;
