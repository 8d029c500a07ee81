//! Takes the traffic secrets out of a handshake.
//!
//! rustls hands over keys when a handshake is done, but not the secrets that the next keys come
//! from; those it would keep, in a state that nobody can move to another process. It does tell them
//! to a key log. This one remembers them for the handshake that is being worked on: rustls logs on
//! the thread that processes records, while it does. Invariant: secrets leave this module only by
//! [`take`], and are wiped when dropped.

use std::cell::Cell;

use rustls::KeyLog;
use zeroize::Zeroizing;

/// A secret of TLS 1.3, as long as the suite's hash.
pub(super) struct Secret {
    bytes: Zeroizing<[u8; SECRET_BYTES_MAX]>,
    len: usize,
}

impl Secret {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The secrets of both directions, as far as they are known.
#[derive(Default)]
pub(super) struct Secrets {
    pub(super) client: Option<Secret>,
    pub(super) server: Option<Secret>,
}

impl Secrets {
    /// Adds what became known in the last step of the handshake.
    pub(super) fn add(&mut self, newer: Secrets) {
        self.client = newer.client.or(self.client.take());
        self.server = newer.server.or(self.server.take());
    }
}

/// What became known on this thread since the last call.
pub(super) fn take() -> Secrets {
    SECRETS.take()
}

/// The key log of every context.
#[derive(Debug)]
pub(super) struct Capture;

impl KeyLog for Capture {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        let mut bytes = Zeroizing::new([0; SECRET_BYTES_MAX]);
        let Some(room) = bytes.get_mut(..secret.len()) else { return };
        room.copy_from_slice(secret);
        let secret = Some(Secret { bytes, len: secret.len() });
        let mut known = SECRETS.take();
        match label {
            CLIENT_LABEL => known.client = secret,
            SERVER_LABEL => known.server = secret,
            _ => {}
        }
        SECRETS.set(known);
    }

    fn will_log(&self, label: &str) -> bool {
        label == CLIENT_LABEL || label == SERVER_LABEL
    }
}

thread_local! {
    static SECRETS: Cell<Secrets> = Cell::default();
}

const CLIENT_LABEL: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER_LABEL: &str = "SERVER_TRAFFIC_SECRET_0";
const SECRET_BYTES_MAX: usize = 48;
