//! Sessions that are remembered: by a server for clients of TLS 1.2 without tickets, by a client for
//! the servers it talks to.
//!
//! Both are shared by the shards, and taken for an instant once per handshake. Invariant: neither
//! outgrows its limit, and what is too old is never given out.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::server::StoresServerSessions;
use rustls_pki_types::{ServerName, UnixTime};

/// The sessions of a server.
pub(super) struct ServerSessions {
    lifetime: Duration,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    sessions: HashMap<Vec<u8>, (u64, Vec<u8>)>,
    /// Keys by age, the oldest first; some may be gone.
    order: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl ServerSessions {
    pub(super) fn new(lifetime: Duration) -> Self {
        Self { lifetime, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_fresh(&self, made_at: u64, now: u64) -> bool {
        now.saturating_sub(made_at) <= self.lifetime.as_secs()
    }

    fn put_at(&self, key: Vec<u8>, value: Vec<u8>, now: u64) -> bool {
        let weight = weight(&key, &value);
        if weight > SESSIONS_BYTES_MAX {
            return false;
        }
        let mut kept = self.kept();
        kept.remove(&key);
        while kept.bytes + weight > SESSIONS_BYTES_MAX {
            let Some(oldest) = kept.order.pop_front() else { break };
            kept.remove(&oldest);
        }
        kept.bytes += weight;
        kept.order.push_back(key.clone());
        kept.sessions.insert(key, (now, value));
        true
    }

    fn get_at(&self, key: &[u8], now: u64) -> Option<Vec<u8>> {
        let kept = self.kept();
        let (made_at, value) = kept.sessions.get(key)?;
        self.is_fresh(*made_at, now).then(|| value.clone())
    }

    fn take_at(&self, key: &[u8], now: u64) -> Option<Vec<u8>> {
        let (made_at, value) = self.kept().remove(key)?;
        self.is_fresh(made_at, now).then_some(value)
    }
}

impl Kept {
    fn remove(&mut self, key: &[u8]) -> Option<(u64, Vec<u8>)> {
        let (made_at, value) = self.sessions.remove(key)?;
        self.bytes -= weight(key, &value);
        // Keys that are gone leave the list here, so that it does not grow without end.
        if self.order.len() > 2 * self.sessions.len() + ORDER_SLACK {
            let sessions = &self.sessions;
            self.order.retain(|key| sessions.contains_key(key));
        }
        Some((made_at, value))
    }
}

fn weight(key: &[u8], value: &[u8]) -> usize {
    2 * key.len() + value.len() + ENTRY_BYTES
}

impl StoresServerSessions for ServerSessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.put_at(key, value, UnixTime::now().as_secs())
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.get_at(key, UnixTime::now().as_secs())
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.take_at(key, UnixTime::now().as_secs())
    }

    fn can_cache(&self) -> bool {
        true
    }
}

impl fmt::Debug for ServerSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerSessions").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

/// The sessions of a client, `sessions_max` at the most.
pub(super) struct ClientSessions {
    sessions_max: usize,
    kept: Mutex<ClientKept>,
}

#[derive(Default)]
struct ClientKept {
    /// The oldest first.
    sessions: VecDeque<(ServerName<'static>, Session)>,
    groups: VecDeque<(ServerName<'static>, NamedGroup)>,
}

enum Session {
    Tls12(Tls12ClientSessionValue),
    Tls13(Tls13ClientSessionValue),
}

impl ClientSessions {
    pub(super) fn new(sessions_max: u32) -> Self {
        Self { sessions_max: sessions_max as usize, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, ClientKept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, kept: &mut ClientKept, name: ServerName<'static>, session: Session) {
        while kept.sessions.len() >= self.sessions_max {
            if kept.sessions.pop_front().is_none() {
                return;
            }
        }
        kept.sessions.push_back((name, session));
    }
}

impl ClientSessionStore for ClientSessions {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        let mut kept = self.kept();
        kept.groups.retain(|(known, _)| *known != name);
        if kept.groups.len() >= GROUPS_MAX {
            kept.groups.pop_front();
        }
        kept.groups.push_back((name, group));
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        let kept = self.kept();
        kept.groups.iter().find(|(known, _)| known == name).map(|(_, group)| *group)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        let mut kept = self.kept();
        kept.sessions
            .retain(|(known, session)| *known != name || !matches!(session, Session::Tls12(_)));
        self.push(&mut kept, name, Session::Tls12(value));
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        let kept = self.kept();
        kept.sessions.iter().rev().find_map(|(known, session)| match session {
            Session::Tls12(value) if known == name => Some(value.clone()),
            _ => None,
        })
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.kept()
            .sessions
            .retain(|(known, session)| known != name || !matches!(session, Session::Tls12(_)));
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut kept = self.kept();
        self.push(&mut kept, name, Session::Tls13(value));
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let mut kept = self.kept();
        let newest = kept
            .sessions
            .iter()
            .rposition(|(known, session)| known == name && matches!(session, Session::Tls13(_)))?;
        match kept.sessions.remove(newest)? {
            (_, Session::Tls13(value)) => Some(value),
            (_, Session::Tls12(_)) => None,
        }
    }
}

impl fmt::Debug for ClientSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSessions")
            .field("sessions_max", &self.sessions_max)
            .finish_non_exhaustive()
    }
}

/// Of one context: twenty thousand sessions without client certificates, and fewer with.
const SESSIONS_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What a session costs besides its bytes.
const ENTRY_BYTES: usize = 128;

const ORDER_SLACK: usize = 64;

/// Servers whose key exchange is remembered, so that the first attempt at it is the right one.
const GROUPS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_given_out_while_they_are_fresh() {
        let sessions = ServerSessions::new(Duration::from_secs(10));
        assert!(sessions.put_at(vec![1], vec![9], 100));
        assert_eq!(sessions.get_at(&[1], 110), Some(vec![9]));
        assert_eq!(sessions.get_at(&[1], 111), None);
        assert_eq!(sessions.take_at(&[1], 105), Some(vec![9]));
        assert_eq!(sessions.take_at(&[1], 105), None);
        assert_eq!(sessions.kept().bytes, 0);
    }

    #[test]
    fn the_oldest_make_room() {
        let sessions = ServerSessions::new(Duration::from_secs(10));
        let value = vec![0; SESSIONS_BYTES_MAX / 4];
        for key in 0..8u8 {
            assert!(sessions.put_at(vec![key], value.clone(), 0));
            assert!(sessions.kept().bytes <= SESSIONS_BYTES_MAX);
        }
        assert_eq!(sessions.get_at(&[4], 0), None);
        assert!(sessions.get_at(&[5], 0).is_some());
        assert!(!sessions.put_at(vec![9], vec![0; SESSIONS_BYTES_MAX], 0));
    }

    #[test]
    fn the_list_of_keys_does_not_grow_without_end() {
        let sessions = ServerSessions::new(Duration::from_secs(10));
        for round in 0..10_000u32 {
            let key = round.to_be_bytes().to_vec();
            sessions.put_at(key.clone(), vec![0; 10], 0);
            sessions.take_at(&key, 0);
        }
        assert!(sessions.kept().order.len() <= ORDER_SLACK + 2);
    }
}
