//! Session tickets: sealed by keys that all shards share, opened only by the context they are for.
//!
//! A ticket holds what rustls remembers of a session. Invariant: a ticket is worth nothing after its
//! lifetime, whatever the keys do, nor in a context that would ask other things of the client.
//!
//! | part | bytes |
//! |---|---|
//! | name of the key | 16 |
//! | nonce, random | 12 |
//! | sealed: when it was made, and the session | 8 + n |
//! | tag | 16 |

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::{hkdf, rand};
use outrigger_upgrade::state::TicketsState;
use rustls::server::ProducesTickets;
use rustls_pki_types::UnixTime;
use zeroize::Zeroizing;

use super::error::TlsConfigProblem;

/// One key.
struct TicketKey {
    name: [u8; NAME_BYTES],
    key: LessSafeKey,
    /// What it was made from; nothing where a successor has it from its own configuration.
    secret: Zeroizing<Vec<u8>>,
}

impl TicketKey {
    /// A key from `name` and a secret of any length.
    fn new(name: &[u8], secret: &[u8]) -> Result<Self, Unspecified> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        hkdf::Salt::new(hkdf::HKDF_SHA256, b"outrigger session tickets")
            .extract(secret)
            .expand(&[b"aes-256-gcm-siv"], hkdf::HKDF_SHA256)?
            .fill(&mut key[..])?;
        let name = name.try_into().map_err(|_| Unspecified)?;
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, &key[..])?);
        Ok(Self { name, key, secret: Zeroizing::default() })
    }

    /// One that can be handed on.
    fn heritable(name: &[u8], secret: &[u8]) -> Result<Self, Unspecified> {
        Ok(Self { secret: Zeroizing::new(secret.to_vec()), ..Self::new(name, secret)? })
    }

    fn random() -> Result<Self, Unspecified> {
        let mut bytes = Zeroizing::new([0; NAME_BYTES + KEY_BYTES]);
        rand::fill(&mut bytes[..])?;
        let (name, secret) = bytes.split_at(NAME_BYTES);
        Self::heritable(name, secret)
    }

    /// Name and secret.
    fn bequest(&self) -> Vec<u8> {
        [&self.name[..], &self.secret].concat()
    }

    fn inherit(bequest: &[u8]) -> Result<Self, Unspecified> {
        if bequest.len() != NAME_BYTES + KEY_BYTES {
            return Err(Unspecified);
        }
        let (name, secret) = bequest.split_at(NAME_BYTES);
        Self::heritable(name, secret)
    }
}

/// Keys of our own, which change in time. One per process.
pub struct TicketKeyring {
    keys: ArcSwap<Generations>,
    rotation: Mutex<()>,
}

struct Generations {
    current: Arc<TicketKey>,
    /// The one before, for tickets that are still good.
    previous: Option<Arc<TicketKey>>,
    made_at: u64,
}

impl TicketKeyring {
    /// A keyring with a fresh key.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn new() -> Result<Arc<Self>, Unspecified> {
        let current = Arc::new(TicketKey::random()?);
        let keys = Generations { current, previous: None, made_at: now() };
        Ok(Arc::new(Self { keys: ArcSwap::from_pointee(keys), rotation: Mutex::new(()) }))
    }

    /// The keys, for a successor.
    pub fn bequest(&self) -> TicketsState {
        let keys = self.keys.load();
        TicketsState {
            current: keys.current.bequest(),
            previous: keys.previous.as_ref().map(|key| key.bequest()).unwrap_or_default(),
            made_at: keys.made_at,
        }
    }

    /// Goes on with a predecessor's keys: its tickets are still good.
    ///
    /// # Errors
    /// When they are none; then the own ones stay.
    pub fn inherit(&self, bequest: &TicketsState) -> Result<(), Unspecified> {
        let current = Arc::new(TicketKey::inherit(&bequest.current)?);
        let previous = match &bequest.previous[..] {
            [] => None,
            previous => Some(Arc::new(TicketKey::inherit(previous)?)),
        };
        self.keys.store(Arc::new(Generations { current, previous, made_at: bequest.made_at }));
        Ok(())
    }

    /// Replaces the key when it is time to.
    fn rotate_if_due(&self, now: u64) {
        let is_due = |keys: &Generations| now.saturating_sub(keys.made_at) >= ROTATION_S;
        if !is_due(&self.keys.load()) {
            return;
        }
        let _rotating = self.rotation.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = self.keys.load_full();
        if !is_due(&keys) {
            return;
        }
        // Without random numbers the old key goes on; handshakes would fail anyway.
        if let Ok(fresh) = TicketKey::random() {
            // A key that rested for two periods opens nothing that is still good.
            let rested = now.saturating_sub(keys.made_at) >= 2 * ROTATION_S;
            let previous = (!rested).then(|| Arc::clone(&keys.current));
            let current = Arc::new(fresh);
            self.keys.store(Arc::new(Generations { current, previous, made_at: now }));
        }
    }
}

/// The tickets of one context.
pub(super) struct Tickets {
    keys: Keys,
    /// What a client had to prove to this context; tickets of others don't open.
    context: [u8; 32],
    lifetime: Duration,
}

enum Keys {
    /// The first seals, all open.
    Configured(Vec<TicketKey>),
    Own(Arc<TicketKeyring>),
}

impl Tickets {
    /// Tickets with configured keys of 80 bytes; empty for keys of our own.
    ///
    /// # Errors
    /// When a key has another length.
    pub(super) fn new(
        configured: &[Zeroizing<Vec<u8>>],
        own: &Arc<TicketKeyring>,
        context: [u8; 32],
        lifetime: Duration,
    ) -> Result<Self, TlsConfigProblem> {
        if configured.is_empty() {
            // A key may be gone after one period.
            let lifetime = lifetime.min(Duration::from_secs(ROTATION_S));
            return Ok(Self { keys: Keys::Own(Arc::clone(own)), context, lifetime });
        }
        let keys = configured.iter().map(|bytes| {
            if bytes.len() != CONFIGURED_KEY_BYTES {
                return Err(TlsConfigProblem::TicketKeyLength(bytes.len()));
            }
            let (name, secret) = bytes.split_at(NAME_BYTES);
            TicketKey::new(name, secret).map_err(|_| {
                TlsConfigProblem::Refused(rustls::Error::General("ticket key".to_owned()))
            })
        });
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        Ok(Self { keys: Keys::Configured(keys), context, lifetime })
    }

    fn seal(&self, key: &TicketKey, session: &[u8], now: u64) -> Result<Vec<u8>, Unspecified> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce)?;
        let mut ticket = Vec::with_capacity(OVERHEAD_BYTES + session.len());
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(&now.to_be_bytes());
        ticket.extend_from_slice(session);
        let sealed = &mut ticket[NAME_BYTES + NONCE_LEN..];
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key.key.seal_in_place_separate_tag(nonce, Aad::from(self.context), sealed)?;
        ticket.extend_from_slice(tag.as_ref());
        Ok(ticket)
    }

    fn open(&self, ticket: &[u8], now: u64) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let open = |key: &TicketKey| {
            let mut bytes = sealed.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let plain = key.key.open_in_place(nonce, Aad::from(self.context), &mut bytes).ok()?;
            let (made_at, session) = plain.split_first_chunk()?;
            let age = now.saturating_sub(u64::from_be_bytes(*made_at));
            (age <= self.lifetime.as_secs()).then(|| session.to_vec())
        };
        match &self.keys {
            Keys::Configured(keys) => keys.iter().find(|key| key.name == *name).and_then(open),
            Keys::Own(ring) => {
                let keys = ring.keys.load();
                let mut known = std::iter::once(&keys.current).chain(&keys.previous);
                known.find(|key| key.name == *name).and_then(|key| open(key))
            }
        }
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.lifetime.as_secs()).unwrap_or(u32::MAX).min(LIFETIME_S_MAX)
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        let now = now();
        match &self.keys {
            Keys::Configured(keys) => self.seal(keys.first()?, session, now).ok(),
            Keys::Own(ring) => {
                ring.rotate_if_due(now);
                let keys = ring.keys.load();
                self.seal(&keys.current, session, now).ok()
            }
        }
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, now())
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

/// Seconds since the epoch.
fn now() -> u64 {
    UnixTime::now().as_secs()
}

const NAME_BYTES: usize = 16;
const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const TIME_BYTES: usize = 8;
const OVERHEAD_BYTES: usize = NAME_BYTES + NONCE_LEN + TIME_BYTES + TAG_BYTES;

/// Name, and what Envoy uses as two keys.
const CONFIGURED_KEY_BYTES: usize = 80;

/// How long a key of our own seals; whoever takes it may read that much of the past.
const ROTATION_S: u64 = 12 * 3600;

/// RFC 8446 section 4.6.1.
const LIFETIME_S_MAX: u32 = 7 * 24 * 3600;

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(ring: &Arc<TicketKeyring>, context: u8) -> Tickets {
        Tickets::new(&[], ring, [context; 32], Duration::from_secs(100)).unwrap()
    }

    #[test]
    fn tickets_open_where_they_are_for_and_for_as_long_as_they_live() {
        let ring = TicketKeyring::new().unwrap();
        let (one, same, other) = (tickets(&ring, 1), tickets(&ring, 1), tickets(&ring, 2));
        let key = Arc::clone(&ring.keys.load().current);
        let ticket = one.seal(&key, b"session", 1000).unwrap();
        assert_eq!(same.open(&ticket, 1100).unwrap(), b"session");
        assert_eq!(same.open(&ticket, 1101), None, "too old");
        assert_eq!(other.open(&ticket, 1000), None, "another context");
        let elsewhere = tickets(&TicketKeyring::new().unwrap(), 1);
        assert_eq!(elsewhere.open(&ticket, 1000), None, "another process");
        for at in 0..ticket.len() {
            let mut touched = ticket.clone();
            touched[at] ^= 1;
            assert_eq!(one.open(&touched, 1000), None, "byte {at}");
            assert_eq!(one.open(&ticket[..at], 1000), None, "cut at {at}");
        }
    }

    #[test]
    fn keys_of_our_own_change_and_the_last_one_still_opens() {
        let ring = TicketKeyring::new().unwrap();
        let tickets = tickets(&ring, 1);
        let ticket = tickets.encrypt(b"session").unwrap();
        let start = ring.keys.load().made_at;
        ring.rotate_if_due(start + ROTATION_S - 1);
        assert_eq!(ring.keys.load().made_at, start);
        ring.rotate_if_due(start + ROTATION_S);
        assert_eq!(ring.keys.load().made_at, start + ROTATION_S);
        assert!(tickets.decrypt(&ticket).is_some());
        ring.rotate_if_due(start + 2 * ROTATION_S);
        assert!(tickets.decrypt(&ticket).is_none());
        ring.rotate_if_due(start + 9 * ROTATION_S);
        assert!(ring.keys.load().previous.is_none());
    }

    #[test]
    fn the_first_configured_key_seals_and_all_open() {
        let key = |value: u8| Zeroizing::new(vec![value; CONFIGURED_KEY_BYTES]);
        let ring = TicketKeyring::new().unwrap();
        let make = |keys: &[Zeroizing<Vec<u8>>]| {
            Tickets::new(keys, &ring, [1; 32], Duration::from_secs(100))
        };
        let (old, new) = (make(&[key(1)]).unwrap(), make(&[key(2), key(1)]).unwrap());
        let ticket = old.encrypt(b"session").unwrap();
        assert_eq!(new.decrypt(&ticket).unwrap(), b"session");
        assert_eq!(old.decrypt(&new.encrypt(b"session").unwrap()), None);
        let short = make(&[Zeroizing::new(vec![0; 79])]).err();
        assert!(matches!(short, Some(TlsConfigProblem::TicketKeyLength(79))));
    }
}
