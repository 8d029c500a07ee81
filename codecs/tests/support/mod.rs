//! What the codec's test programs share.

pub(crate) mod mutate;
