//! The HTTP/2 connection, driven by frames written by hand and by another connection.

mod fate;
mod frames;
mod life;
mod limits;
mod messages;
mod pairs;
mod rules;
