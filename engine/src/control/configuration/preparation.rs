//! What only the process can make of a resource: listening sockets, open logs, contexts of keys.
//!
//! A listener is prepared when it is accepted and handed out when it is warm. Invariant: a preparation
//! that fails leaves what was there before.

use std::collections::HashMap;
use std::sync::Arc;

use outrigger_xds::secrets::ServedSecret;
use outrigger_xds::snapshot::{Bind, Cluster, FilterChain, ListenAddress, Listener};
use outrigger_xds::store::Host;

use crate::access_log::{AccessLogs, OpenError, Queue};
use crate::connection::{ChainLogs, ListenerLogs};
use crate::control::hand_over::Inherited;
use crate::listen::{self, BoundSockets, ListenError};
use crate::tls::{Refreshed, Secrets, TlsConfigError, TlsContexts};

use super::ListenerUpdate;

/// What can't be made.
#[derive(Debug, thiserror::Error)]
pub enum PreparationError {
    /// Another listener has the address.
    #[error("address: {address} is listener {other:?}'s already")]
    AddressTaken {
        /// The address.
        address: String,
        /// Who has it.
        other: Box<str>,
    },
    /// A socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// An access log.
    #[error("access_log: {0}")]
    Log(#[from] OpenError),
    /// Keys and certificates.
    #[error("TLS: {0}")]
    Tls(#[from] TlsConfigError),
}

pub(super) struct Preparation {
    log_queue: Queue,
    shards: usize,
    tls: Arc<TlsContexts>,
    /// A predecessor's listening sockets.
    inherited: Arc<Inherited>,
    /// Contexts of resources that were accepted since `tls` was made.
    fresh: Option<TlsContexts>,
    /// What servers have sent of the secrets that contexts name.
    secrets: Secrets,
    /// What was prepared last of each listener.
    listeners: HashMap<Box<str>, Prepared>,
}

struct Prepared {
    config: Arc<Listener>,
    logs: Vec<(Arc<FilterChain>, ChainLogs)>,
    /// Made for this version, and not handed out yet.
    sockets: Option<BoundSockets>,
}

impl Preparation {
    pub(super) fn new(
        log_queue: Queue,
        shards: usize,
        tls: Arc<TlsContexts>,
        inherited: Arc<Inherited>,
    ) -> Self {
        Self {
            log_queue,
            shards,
            inherited,
            tls,
            fresh: None,
            secrets: Secrets::new(),
            listeners: HashMap::new(),
        }
    }

    /// Prepares a listener, in place of the one of its name.
    pub(super) fn listener(&mut self, config: &Arc<Listener>) -> Result<(), PreparationError> {
        let before = self.listeners.get(&config.name);
        self.check_addresses(config)?;
        let mut logs = Vec::new();
        for chain in config.filter_chains.iter() {
            let known = before
                .and_then(|before| before.logs.iter().find(|(known, _)| Arc::ptr_eq(known, chain)));
            let logs_of_chain = match known {
                Some((_, logs)) => Arc::clone(logs),
                None => self.open_logs(chain)?,
            };
            logs.push((Arc::clone(chain), logs_of_chain));
        }
        let goes_on = before.is_some_and(|before| is_bound_alike(&before.config, config));
        let mut sockets = match goes_on {
            true => None,
            false => Some(listen::bind(config, self.shards, &self.inherited)?),
        };
        if config.filter_chains.iter().any(|chain| chain.tls.is_some()) {
            let (contexts, secrets) = self.contexts_to_come();
            contexts.add_listener(config, secrets)?;
        }
        if let Some(before) = self.listeners.remove(&config.name)
            && goes_on
        {
            // Perhaps those of a version that never came to be served.
            sockets = before.sockets;
        }
        let prepared = Prepared { config: Arc::clone(config), logs, sockets };
        self.listeners.insert(config.name.clone(), prepared);
        Ok(())
    }

    fn check_addresses(&self, config: &Listener) -> Result<(), PreparationError> {
        let taken = |address: &ListenAddress| {
            let is_fixed = address.address.ip().is_none_or(|address| address.port() != 0);
            let mut others =
                self.listeners.values().filter(|other| other.config.name != config.name);
            let other = others.find(|other| {
                other.config.bind.bind_to_port
                    && other.config.addresses.iter().any(|known| known.address == address.address)
            });
            other.filter(|_| is_fixed)
        };
        if !config.bind.bind_to_port {
            return Ok(());
        }
        for address in &config.addresses {
            if let Some(other) = taken(address) {
                return Err(PreparationError::AddressTaken {
                    address: address.address.to_string(),
                    other: other.config.name.clone(),
                });
            }
        }
        Ok(())
    }

    fn open_logs(&self, chain: &FilterChain) -> Result<ChainLogs, OpenError> {
        let mut logs = Vec::new();
        chain.terminal.visit_owners(&mut |owner| {
            logs.push(AccessLogs::open(&self.log_queue, owner.access_log()).map(Arc::new));
        });
        logs.into_iter().collect()
    }

    /// What is needed to serve a listener that was prepared; nothing if a later version was.
    pub(super) fn take(&mut self, config: &Arc<Listener>) -> Option<ListenerUpdate> {
        let prepared = self.listeners.get_mut(&config.name)?;
        if !Arc::ptr_eq(&prepared.config, config) {
            return None;
        }
        let logs: ListenerLogs = prepared.logs.iter().map(|(_, logs)| Arc::clone(logs)).collect();
        let sockets = prepared.sockets.take();
        Some(ListenerUpdate::Serve { config: Arc::clone(config), logs, sockets })
    }

    pub(super) fn forget(&mut self, listener: &str) {
        self.listeners.remove(listener);
    }

    /// The contexts of what was accepted by now.
    pub(super) fn contexts(&mut self) -> Arc<TlsContexts> {
        if let Some(mut fresh) = self.fresh.take() {
            fresh.retain_used();
            self.tls = Arc::new(fresh);
            self.secrets.retain(|key, _| self.tls.names(key));
        }
        Arc::clone(&self.tls)
    }

    fn contexts_to_come(&mut self) -> (&mut TlsContexts, &Secrets) {
        let tls = &self.tls;
        (self.fresh.get_or_insert_with(|| TlsContexts::clone(tls)), &self.secrets)
    }

    pub(super) fn has_files(&self) -> bool {
        self.tls.has_files()
    }

    pub(super) fn refresh(&self) -> Refreshed {
        self.tls.refresh()
    }
}

impl Host for Preparation {
    fn prepare_listener(&mut self, listener: &Arc<Listener>) -> Result<(), String> {
        self.listener(listener).map_err(|error| error.to_string())
    }

    fn prepare_cluster(&mut self, cluster: &Arc<Cluster>) -> Result<(), String> {
        if cluster.tls_configs().next().is_none() {
            return Ok(());
        }
        let (contexts, secrets) = self.contexts_to_come();
        let added = contexts.add_cluster(cluster, secrets);
        added.map_err(|error| PreparationError::Tls(error).to_string())
    }

    fn prepare_secret(&mut self, key: &str, secret: &Arc<ServedSecret>) -> Result<(), String> {
        let before = self.secrets.insert(key.into(), Arc::clone(secret));
        let contexts = self.fresh.as_ref().unwrap_or(&self.tls);
        contexts.replace_secret(key, &self.secrets).map_err(|error| {
            match before {
                Some(before) => self.secrets.insert(key.into(), before),
                None => self.secrets.remove(key),
            };
            PreparationError::Tls(error).to_string()
        })
    }
}

/// Whether the sockets of one will do for the other.
fn is_bound_alike(one: &Listener, other: &Listener) -> bool {
    // What balances connections is not of the sockets.
    let sockets = |bind: &Bind| Bind { exact_balance: false, ..bind.clone() };
    one.addresses == other.addresses && sockets(&one.bind) == sockets(&other.bind)
}
