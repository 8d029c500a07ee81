//! All TLS contexts of a configuration, kept up with the files they are made of.
//!
//! Contexts are built on the control thread and taken by shards at each handshake, without a lock.
//! Invariant: a context that is handed out is whole. What can't be built from new files leaves the
//! old context in place, with a message and a count.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use outrigger_xds::bootstrap::LoadError;
use outrigger_xds::secrets::{reread_downstream, reread_upstream};
use outrigger_xds::snapshot::{
    Cluster, DownstreamTls, Listener, Member, SecretFile, Snapshot, TlsParameters, UpstreamTls,
};

use super::client::ClientContext;
use super::error::{TlsConfigError, TlsConfigProblem};
use super::server::ServerContext;
use super::source::Reader;
use super::tickets::TicketKeyring;

/// How often files are looked at. A change is seen by what a path leads to, so that it does not
/// matter how it was made: written over, renamed, or by turning a link around, as Kubernetes does.
pub const FILES_INTERVAL: Duration = Duration::from_secs(1);

/// A server's context, and the next one when files change.
pub type ServerSlot = Slot<DownstreamTls, ServerContext>;

/// A client's context, and the next one when files change.
pub type ClientSlot = Slot<UpstreamTls, ClientContext>;

/// One context that is replaced when its files change.
pub struct Slot<K, C> {
    config: Arc<K>,
    at: Box<str>,
    current: ArcSwap<C>,
    build: Build<K, C>,
    watch: Mutex<Watch>,
}

type Build<K, C> = fn(&K, &str, &Arc<TicketKeyring>, &mut Reader) -> Result<Arc<C>, TlsConfigError>;

/// A configuration of which parts may be in files of secrets.
trait Config: Sized {
    fn common(&self) -> &TlsParameters;

    /// The file of secrets of what is not in `common`.
    fn own_file(&self) -> Option<&Arc<SecretFile>>;

    fn reread(&self) -> Result<Self, LoadError>;
}

impl Config for DownstreamTls {
    fn common(&self) -> &TlsParameters {
        &self.common
    }

    fn own_file(&self) -> Option<&Arc<SecretFile>> {
        self.session_ticket_keys_file.as_ref()
    }

    fn reread(&self) -> Result<Self, LoadError> {
        reread_downstream(self)
    }
}

impl Config for UpstreamTls {
    fn common(&self) -> &TlsParameters {
        &self.common
    }

    fn own_file(&self) -> Option<&Arc<SecretFile>> {
        None
    }

    fn reread(&self) -> Result<Self, LoadError> {
        reread_upstream(self)
    }
}

/// What the last attempt to build a context looked at.
struct Watch {
    files: Reader,
    /// A key that does not fit its certificate: one of the two files is perhaps still to come.
    awaits_pair: bool,
}

/// What [`TlsContexts::refresh`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refreshed {
    /// Contexts replaced.
    pub replaced: u32,
    /// Contexts that could not be built, and stay as they were.
    pub failed: u32,
}

/// The contexts of a configuration.
#[derive(Clone)]
pub struct TlsContexts {
    /// By where their configuration is, which the slots keep there.
    servers: HashMap<usize, Arc<ServerSlot>>,
    clients: HashMap<usize, Arc<ClientSlot>>,
    keyring: Arc<TicketKeyring>,
}

impl TlsContexts {
    /// Builds the contexts of `snapshot`. Files are read.
    ///
    /// # Errors
    /// When one can't be built, with the path of what is wrong.
    pub fn build(snapshot: &Snapshot) -> Result<Self, TlsConfigError> {
        let keyring = TicketKeyring::new().map_err(|_| {
            TlsConfigProblem::Refused(rustls::Error::FailedToGetRandomBytes).at("tls")
        })?;
        let mut contexts = Self { servers: HashMap::new(), clients: HashMap::new(), keyring };
        for listener in snapshot.listeners.iter() {
            contexts.add_listener(listener)?;
        }
        for Member { cluster, .. } in snapshot.clusters.iter() {
            contexts.add_cluster(cluster)?;
        }
        Ok(contexts)
    }

    /// Adds the contexts of a listener. Those whose configuration is known are kept.
    ///
    /// # Errors
    /// When one can't be built, with the path of what is wrong; then none is added.
    pub fn add_listener(&mut self, listener: &Listener) -> Result<(), TlsConfigError> {
        let mut slots = Vec::new();
        for chain in listener.filter_chains.iter() {
            let Some(config) = &chain.tls else { continue };
            if self.server(config).is_none() {
                let at = format!("listener {}: {}", listener.name, chain.name);
                slots.push((place(config), Slot::new(config, &at, build_server, &self.keyring)?));
            }
        }
        self.servers.extend(slots);
        Ok(())
    }

    /// Adds the contexts of a cluster, as [`TlsContexts::add_listener`].
    ///
    /// # Errors
    /// See there.
    pub fn add_cluster(&mut self, cluster: &Cluster) -> Result<(), TlsConfigError> {
        let mut slots = Vec::new();
        for config in cluster.tls_configs() {
            if self.client(config).is_none() {
                let at = format!("cluster {}", cluster.name);
                slots.push((place(config), Slot::new(config, &at, build_client, &self.keyring)?));
            }
        }
        self.clients.extend(slots);
        Ok(())
    }

    /// Forgets the contexts of configurations that nobody has any more.
    pub fn retain_used(&mut self) {
        // Its own is the last reference to a configuration.
        self.servers.retain(|_, slot| Arc::strong_count(&slot.config) > 1);
        self.clients.retain(|_, slot| Arc::strong_count(&slot.config) > 1);
    }

    /// The context of a server's configuration, which must be of this snapshot.
    pub fn server(&self, config: &Arc<DownstreamTls>) -> Option<Arc<ServerSlot>> {
        self.servers.get(&place(config)).cloned()
    }

    /// The context of a client's configuration, which must be of this snapshot.
    pub fn client(&self, config: &Arc<UpstreamTls>) -> Option<Arc<ClientSlot>> {
        self.clients.get(&place(config)).cloned()
    }

    /// Looks at the files, and builds anew what depends on those that changed. Called by the control
    /// thread every [`FILES_INTERVAL`]; it costs a look at each file, and reading those that changed.
    pub fn refresh(&self) -> Refreshed {
        let mut done = Refreshed::default();
        let servers = self.servers.values().map(|slot| slot.refresh(&self.keyring));
        let clients = self.clients.values().map(|slot| slot.refresh(&self.keyring));
        for outcome in servers.chain(clients).flatten() {
            match outcome {
                Ok(at) => {
                    done.replaced += 1;
                    log::info!(target: "tls", "{at}: files were read again");
                }
                Err(error) => {
                    done.failed += 1;
                    log::error!(target: "tls", "files changed, but the old ones stay: {error}");
                }
            }
        }
        done
    }

    /// Whether any context is made of files.
    pub fn has_files(&self) -> bool {
        self.servers.values().any(|slot| slot.has_files())
            || self.clients.values().any(|slot| slot.has_files())
    }
}

impl<K, C> Slot<K, C> {
    fn new(
        config: &Arc<K>,
        at: &str,
        build: Build<K, C>,
        keyring: &Arc<TicketKeyring>,
    ) -> Result<Arc<Self>, TlsConfigError> {
        let (files, context) = build_whole(&**config, at, build, keyring);
        Ok(Arc::new(Self {
            config: Arc::clone(config),
            at: at.into(),
            current: ArcSwap::new(context?),
            build,
            watch: Mutex::new(Watch { files, awaits_pair: false }),
        }))
    }

    /// Builds the context anew if its files changed; says what came of it.
    fn refresh(&self, keyring: &Arc<TicketKeyring>) -> Option<Result<&str, TlsConfigError>> {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = watch.files.has_changed();
        if !changed && !watch.awaits_pair {
            return None;
        }
        let (files, context) = build_whole(&*self.config, &self.at, self.build, keyring);
        let awaited = std::mem::take(&mut watch.awaits_pair);
        watch.files = files;
        match context {
            Ok(context) => {
                self.current.store(context);
                Some(Ok(&self.at))
            }
            // Told only when the other file has not come until the next look.
            Err(error) if matches!(error.problem, TlsConfigProblem::KeyMismatch) && !awaited => {
                watch.awaits_pair = true;
                None
            }
            Err(error) => Some(Err(error)),
        }
    }

    fn has_files(&self) -> bool {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner).files.has_files()
    }
}

impl<K, C> Slot<K, C> {
    /// The context to use for the next handshake.
    pub fn load(&self) -> Arc<C> {
        self.current.load_full()
    }
}

/// Which of the configurations that are alive this is.
fn place<K>(config: &Arc<K>) -> usize {
    Arc::as_ptr(config).addr()
}

/// Builds a context of files that did not change meanwhile, so that those belong together that were
/// replaced together.
fn build_whole<K, C>(
    config: &K,
    at: &str,
    build: Build<K, C>,
    keyring: &Arc<TicketKeyring>,
) -> (Reader, Result<Arc<C>, TlsConfigError>) {
    let mut attempts = 0;
    loop {
        let mut files = Reader::default();
        let context = build(config, at, keyring, &mut files);
        attempts += 1;
        if attempts == ATTEMPTS_MAX || !files.has_changed() {
            return (files, context);
        }
    }
}

fn build_server(
    config: &DownstreamTls,
    at: &str,
    keyring: &Arc<TicketKeyring>,
    files: &mut Reader,
) -> Result<Arc<ServerContext>, TlsConfigError> {
    let fresh = fresh(config, at, files)?;
    ServerContext::build_from(fresh.as_ref().unwrap_or(config), at, keyring, files)
}

fn build_client(
    config: &UpstreamTls,
    at: &str,
    _: &Arc<TicketKeyring>,
    files: &mut Reader,
) -> Result<Arc<ClientContext>, TlsConfigError> {
    let fresh = fresh(config, at, files)?;
    ClientContext::build_from(fresh.as_ref().unwrap_or(config), at, files)
}

/// A configuration with what is in its files of secrets now; nothing when it has no such files.
fn fresh<K: Config>(config: &K, at: &str, files: &mut Reader) -> Result<Option<K>, TlsConfigError> {
    let common = config.common();
    let certificates = common.certificates.iter().filter_map(|source| source.file.as_ref());
    let validation = common.validation.as_ref().and_then(|validation| validation.file.as_ref());
    let mut any = false;
    for file in certificates.chain(validation).chain(config.own_file()) {
        files.note(&file.path);
        any = true;
    }
    if !any {
        return Ok(None);
    }
    config.reread().map(Some).map_err(|error| TlsConfigProblem::Secrets(error).at(at))
}

/// Files that change faster than they are read are read again at the next look.
const ATTEMPTS_MAX: u32 = 3;
