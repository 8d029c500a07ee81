//! Secrets that clusters and listeners name: SDS.
//!
//! Whoever names a secret waits for it. A later version goes straight to the host, which swaps it under
//! those who use it: nothing is drained for a new key (W-11). One that can't be had leaves what is
//! there.

use std::sync::Arc;

use crate::client::ResourceType;
use crate::compile::{Notes, secret};
use crate::fingerprint::Fingerprint;
use crate::secrets::ServedSecret;
use crate::snapshot::{ConfigPlace, Sds};
use crate::view::View;

use super::decode;
use super::named::Named;
use super::{Host, Incoming, Outcome, Shown, Store, Watched};

/// A secret that something refers to.
pub(super) struct SecretEntry {
    named: Named<User>,
    is_answered: bool,
}

/// Who names a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum User {
    Cluster(Box<str>),
    Listener(Box<str>),
}

impl Store {
    /// Asks for the secrets that a user names `now`, and no longer for those among `before` that it does
    /// not.
    pub(super) fn relink_secrets(&mut self, user: &User, before: &[Arc<Sds>], now: &[Arc<Sds>]) {
        for sds in now {
            self.use_secret(sds, user);
        }
        for sds in before.iter().filter(|sds| now.iter().all(|kept| kept.key != sds.key)) {
            self.leave_secret(sds, user);
        }
    }

    fn use_secret(&mut self, sds: &Sds, user: &User) {
        let known = self.secrets.entry(sds.key.clone()).or_insert_with(|| {
            let (named, interest) = Named::new(ResourceType::Secret, &sds.name, &sds.source);
            self.interests.push(interest);
            self.outcomes.push((Watched::Secret(sds.name.clone()), Outcome::Asked));
            SecretEntry { named, is_answered: false }
        });
        known.named.join(user.clone());
    }

    fn leave_secret(&mut self, sds: &Sds, user: &User) {
        let Some(known) = self.secrets.get_mut(&sds.key) else { return };
        if let Some(interest) = known.named.leave(user) {
            self.secrets.remove(&sds.key);
            self.interests.push(interest);
        }
    }

    pub(super) fn note_secret(&mut self, key: &str, outcome: Outcome) {
        let Some(known) = self.secrets.get(key) else { return };
        self.outcomes.push((Watched::Secret(known.named.name.clone()), outcome));
    }

    pub(super) fn put_secret(
        &mut self,
        place: &ConfigPlace,
        incoming: &Incoming,
        host: &mut dyn Host,
    ) -> Result<(), String> {
        let key = place.key(&incoming.name);
        let outcome = self.judge_secret(&key, incoming, host);
        if let (Some(known), Err(text)) = (self.secrets.get_mut(&key), &outcome) {
            known.named.refuse(incoming, text);
        }
        let noted = if outcome.is_ok() { Outcome::Accepted } else { Outcome::Refused };
        self.note_secret(&key, noted);
        outcome
    }

    fn judge_secret(
        &mut self,
        key: &str,
        incoming: &Incoming,
        host: &mut dyn Host,
    ) -> Result<(), String> {
        let Some(known) = self.secrets.get_mut(key) else { return Ok(()) };
        if known.named.repeats(incoming) {
            return Ok(());
        }
        let message = self.decode(ResourceType::Secret, incoming)?;
        let fingerprint = Fingerprint::of(&message, &[]);
        let secret = secret::compile(&View::new(&message, &self.schema), &Notes::default())
            .map_err(|found| decode::text(&found))?;
        host.prepare_secret(key, &Arc::new(ServedSecret(secret)))?;
        let Some(known) = self.secrets.get_mut(key) else { return Ok(()) };
        known.named.accept(incoming, fingerprint);
        self.secret_answered(key);
        Ok(())
    }

    /// There is no secret of this name, or not yet: who waits for it goes on without, and those who
    /// have it keep it.
    pub(super) fn no_secret(&mut self, key: &str) {
        self.secret_answered(key);
    }

    fn secret_answered(&mut self, key: &str) {
        let Some(known) = self.secrets.get_mut(key) else { return };
        if std::mem::replace(&mut known.is_answered, true) {
            return;
        }
        for user in known.named.users.clone() {
            match user {
                User::Cluster(name) => self.promote_cluster(&name),
                User::Listener(name) => self.promote_listener(&name),
            }
        }
    }

    /// Those among `secrets` that are waited for.
    pub(super) fn missing<'a>(
        &self,
        secrets: impl Iterator<Item = &'a Arc<Sds>>,
    ) -> impl Iterator<Item = &'a Arc<Sds>> {
        secrets.filter(|sds| self.secrets.get(&sds.key).is_none_or(|known| !known.is_answered))
    }

    /// The secrets that were asked for.
    pub fn secrets(&self) -> impl Iterator<Item = (&ConfigPlace, Shown)> {
        self.secrets.values().map(|known| known.named.shown(known.is_answered))
    }
}
