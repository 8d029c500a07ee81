//! Live connections that move between two processes, at the boundaries of their messages.
//!
//! | module | what it is |
//! |---|---|
//! | `leaving` | a connection's way out, as its own task goes it |
//! | `departures` | a shard's connections that are on that way, and what becomes of each |
//! | `adoptions` | the other end of it: connections that a shard goes on with |
//! | `resting` | upstream connections that rest in their pools |
//! | `warm` | the other end of that: the pools that they come to |
//! | `outline` | what is said of a connection: its facts, and back |
//!
//! A connection is held (no operation of ours is with the kernel), offered with all that we know of it, and
//! then either given, and never touched again, or gone on with here. Invariant: at each moment exactly one
//! process reads from it and writes to it.

mod adoptions;
mod departures;
mod leaving;
mod outline;
mod resting;
mod warm;

pub use self::adoptions::{Adoption, Adoptions, Relayed};
pub use self::departures::{Answer, Departure, Departures};
pub use self::leaving::{LastCall, Leave, Leaving};
pub use self::outline::{proxied, resting, stream, tag_of, upstream};
