//! Hessian 2.0, as far as a router needs it: skip values, read strings, write strings.
//!
//! The final grammar, as Dubbo writes it (reference: dubbo.md section 5.1); the early draft that SOFA
//! and HSF use has other tags. Values are never built: a [`Reader`] walks over them and keeps only
//! what later values can point to, which is counts and the number of fields of each class.
//!
//! Invariants: the time a walk takes is linear in its bytes, its stack does not grow with nesting,
//! and nothing is allocated for a length that the bytes merely claim.

mod error;
mod reader;
mod text;
mod write;

pub use self::error::{Fault, Malformed};
pub use self::reader::{Reader, Tables, Text};
pub use self::write::put_string;

/// Values in values, the outermost one included.
pub const DEPTH_MAX: usize = 64;

/// Fields of one class.
pub const FIELDS_MAX: usize = 1024;

/// Class definitions in one stream.
pub const CLASSES_MAX: usize = 4096;
