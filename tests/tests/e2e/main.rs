//! End-to-end tests: the real binary between real sockets.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::needless_pass_by_value, reason = "JSON is written where it is passed")]

mod access_log;
mod admin;
mod attacks;
mod balancing;
mod basics;
mod capture;
mod command_line;
mod curl;
mod differential;
mod downstream_faults;
mod dubbo;
mod filter_chains;
mod grpc;
mod hand_over;
mod headers;
mod http2;
mod http2_attacks;
mod http_filters;
mod interop;
mod istio;
mod lifecycle;
mod load;
mod moving;
mod proxy_protocol;
mod retries;
mod rpc;
mod services;
mod smuggling;
mod soap;
mod streaming;
mod tls;
mod tunnels;
mod upstream_choice;
mod upstream_faults;
mod versions;
mod xds;
