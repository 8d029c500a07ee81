//! All TLS contexts of a configuration, kept up with the files and the secrets they are made of.
//!
//! Contexts are built on the control thread and taken by shards at each handshake, without a lock.
//! Invariant: a context that is handed out is whole. Until servers have sent all of its secrets there
//! is none; what can't be built from new files or secrets leaves the old one in place, with a message
//! and a count.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use outrigger_xds::bootstrap::LoadError;
use outrigger_xds::secrets::{
    ServedSecret, UnfitSecret, complete_downstream, complete_upstream, reread_downstream,
    reread_upstream,
};
use outrigger_xds::snapshot::{
    Cluster, DataSource, DownstreamTls, Listener, Member, SecretFile, Snapshot, TlsParameters,
    UpstreamTls,
};

use super::certificate::Certificate;
use super::client::ClientContext;
use super::error::{TlsConfigError, TlsConfigProblem};
use super::server::ServerContext;
use super::source::{Reader, read_certificates};
use super::tickets::TicketKeyring;
use super::verify::Verifier;
use super::x509::CertificateFacts;

/// How often files are looked at. A change is seen by what a path leads to, so that it does not
/// matter how it was made: written over, renamed, or by turning a link around, as Kubernetes does.
pub const FILES_INTERVAL: Duration = Duration::from_secs(1);

/// A server's context, and the next one when files change.
pub type ServerSlot = Slot<DownstreamTls, ServerContext>;

/// A client's context, and the next one when files change.
pub type ClientSlot = Slot<UpstreamTls, ClientContext>;

/// The secrets that servers have sent, by their [key](outrigger_xds::snapshot::Sds::key).
pub type Secrets = HashMap<Box<str>, Arc<ServedSecret>>;

/// One context that is replaced when its files or its secrets change.
pub struct Slot<K, C> {
    config: Arc<K>,
    at: Box<str>,
    /// Nothing while secrets are still to come.
    current: ArcSwapOption<C>,
    build: Build<K, C>,
    watch: Mutex<Watch<K>>,
}

type Build<K, C> = fn(&K, &str, &Arc<TicketKeyring>, &mut Reader) -> Result<Arc<C>, TlsConfigError>;

/// A configuration of which parts may be in files or sent by servers.
pub trait Config: Sized {
    /// What both sides have.
    fn common(&self) -> &TlsParameters;

    /// The file of secrets of what is not in `common`.
    fn own_file(&self) -> Option<&Arc<SecretFile>>;

    /// With all that is in files of secrets read again.
    ///
    /// # Errors
    /// When one can't be read.
    fn reread(&self) -> Result<Self, LoadError>;

    /// With all secrets of servers; nothing while one is missing.
    ///
    /// # Errors
    /// When one does not fit.
    fn complete(&self, secrets: &Secrets) -> Result<Option<Self>, UnfitSecret>;
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

    fn complete(&self, secrets: &Secrets) -> Result<Option<Self>, UnfitSecret> {
        complete_downstream(self, &|key| secrets.get(key).cloned())
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

    fn complete(&self, secrets: &Secrets) -> Result<Option<Self>, UnfitSecret> {
        complete_upstream(self, &|key| secrets.get(key).cloned())
    }
}

/// What the last attempt to build a context was made of.
struct Watch<K> {
    /// The configuration with the secrets of servers in it.
    whole: Option<K>,
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

/// Keys are not shown.
impl fmt::Debug for TlsContexts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsContexts").finish_non_exhaustive()
    }
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
        let none = Secrets::new();
        for listener in snapshot.listeners.iter() {
            contexts.add_listener(listener, &none)?;
        }
        for Member { cluster, .. } in snapshot.clusters.iter() {
            contexts.add_cluster(cluster, &none)?;
        }
        Ok(contexts)
    }

    /// The keys of tickets where none are configured.
    pub fn ticket_keyring(&self) -> &Arc<TicketKeyring> {
        &self.keyring
    }

    /// Adds the contexts of a listener. Those whose configuration is known are kept.
    ///
    /// # Errors
    /// When one can't be built, with the path of what is wrong; then none is added.
    pub fn add_listener(
        &mut self,
        listener: &Listener,
        secrets: &Secrets,
    ) -> Result<(), TlsConfigError> {
        let mut slots = Vec::new();
        for chain in listener.filter_chains.iter() {
            let Some(config) = &chain.tls else { continue };
            if self.server(config).is_none() {
                let at = format!("listener {}: {}", listener.name, chain.name);
                let slot = Slot::new(config, &at, build_server, &self.keyring, secrets)?;
                slots.push((place(config), slot));
            }
        }
        self.servers.extend(slots);
        Ok(())
    }

    /// Adds the contexts of a cluster, as [`TlsContexts::add_listener`].
    ///
    /// # Errors
    /// See there.
    pub fn add_cluster(
        &mut self,
        cluster: &Cluster,
        secrets: &Secrets,
    ) -> Result<(), TlsConfigError> {
        let mut slots = Vec::new();
        for config in cluster.tls_configs() {
            if self.client(config).is_none() {
                let at = format!("cluster {}", cluster.name);
                let slot = Slot::new(config, &at, build_client, &self.keyring, secrets)?;
                slots.push((place(config), slot));
            }
        }
        self.clients.extend(slots);
        Ok(())
    }

    /// Makes what has come of the secret `key`, which is among `secrets`, the content of all contexts
    /// that name it. Handshakes from now on are made by it; connections stay as they are (W-11).
    ///
    /// # Errors
    /// When it is of no use to one of them; then none is changed.
    pub fn replace_secret(&self, key: &str, secrets: &Secrets) -> Result<(), TlsConfigError> {
        if let Some(secret) = secrets.get(key) {
            check(secret)?;
        }
        let servers = remake(&self.servers, key, &self.keyring, secrets)?;
        let clients = remake(&self.clients, key, &self.keyring, secrets)?;
        servers.into_iter().for_each(|(slot, made)| slot.put(made));
        clients.into_iter().for_each(|(slot, made)| slot.put(made));
        Ok(())
    }

    /// Whether a context names the secret of a server.
    pub fn names(&self, key: &str) -> bool {
        self.servers.values().any(|slot| slot.names(key))
            || self.clients.values().any(|slot| slot.names(key))
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

    /// The certificates of all contexts that are whole, as they are in the configuration, in files and
    /// in secrets now. Those that can't be read are left out.
    pub fn certificates(&self) -> Vec<LoadedContext> {
        let servers = self.servers.values().filter_map(|slot| slot.certificates());
        servers.chain(self.clients.values().filter_map(|slot| slot.certificates())).collect()
    }

    /// Whether any context is made of files.
    pub fn has_files(&self) -> bool {
        self.servers.values().any(|slot| slot.has_files())
            || self.clients.values().any(|slot| slot.has_files())
    }
}

/// The certificates of one context.
#[derive(Debug, Default)]
pub struct LoadedContext {
    /// Those that others' certificates are to be signed by.
    pub trusted: Vec<LoadedCertificate>,
    /// Its own, each without the rest of its chain.
    pub own: Vec<LoadedCertificate>,
}

/// A certificate and where it comes from.
#[derive(Debug)]
pub struct LoadedCertificate {
    /// A file, or `<inline>`.
    pub path: Box<str>,
    /// What it says.
    pub facts: CertificateFacts,
}

impl LoadedContext {
    fn of<K: Config>(config: &K, at: &str) -> Self {
        let mut files = Reader::default();
        let fresh = fresh(config, at, &mut files).ok().flatten();
        let common = fresh.as_ref().unwrap_or(config).common();
        let mut read = |source: &DataSource| -> Vec<LoadedCertificate> {
            let path = match source {
                DataSource::Inline(_) => "<inline>".into(),
                DataSource::File(path) => path.to_string_lossy(),
            };
            let certificates = read_certificates(source, &mut files).unwrap_or_default();
            let facts = certificates.iter().filter_map(|der| CertificateFacts::read(der));
            facts.map(|facts| LoadedCertificate { path: (&*path).into(), facts }).collect()
        };
        let own = common.certificates.iter();
        let own = own.filter_map(|source| read(&source.chain).into_iter().next()).collect();
        let validation = common.validation.as_ref();
        let trusted = validation.and_then(|validation| validation.trusted_ca.as_ref());
        let trusted = trusted.map(read).unwrap_or_default();
        Self { trusted, own }
    }
}

/// A context and what it was made of.
struct Made<K, C> {
    /// Nothing while secrets are still to come.
    whole: Option<(K, Arc<C>)>,
    files: Reader,
}

impl<K: Config, C> Slot<K, C> {
    fn new(
        config: &Arc<K>,
        at: &str,
        build: Build<K, C>,
        keyring: &Arc<TicketKeyring>,
        secrets: &Secrets,
    ) -> Result<Arc<Self>, TlsConfigError> {
        let nothing = Watch { whole: None, files: Reader::default(), awaits_pair: false };
        let slot = Self {
            config: Arc::clone(config),
            at: at.into(),
            current: ArcSwapOption::empty(),
            build,
            watch: Mutex::new(nothing),
        };
        slot.put(slot.made(keyring, secrets)?);
        Ok(Arc::new(slot))
    }

    /// What the context is with these secrets.
    fn made(
        &self,
        keyring: &Arc<TicketKeyring>,
        secrets: &Secrets,
    ) -> Result<Made<K, C>, TlsConfigError> {
        let unfit = |error| TlsConfigProblem::UnfitSecret(error).at(&self.at);
        let Some(whole) = self.config.complete(secrets).map_err(unfit)? else {
            return Ok(Made { whole: None, files: Reader::default() });
        };
        let (files, context) = build_whole(&whole, &self.at, self.build, keyring);
        Ok(Made { whole: Some((whole, context?)), files })
    }

    fn put(&self, made: Made<K, C>) {
        let Some((whole, context)) = made.whole else { return };
        let watch = Watch { whole: Some(whole), files: made.files, awaits_pair: false };
        *self.watch() = watch;
        self.current.store(Some(context));
    }

    /// Whether the secret of a server is part of it.
    fn names(&self, key: &str) -> bool {
        self.config.common().served.iter().any(|sds| *sds.key == *key)
    }

    /// Builds the context anew if its files changed; says what came of it.
    fn refresh(&self, keyring: &Arc<TicketKeyring>) -> Option<Result<&str, TlsConfigError>> {
        let mut watch = self.watch();
        let changed = watch.files.has_changed();
        if !changed && !watch.awaits_pair {
            return None;
        }
        let (files, context) = build_whole(watch.whole.as_ref()?, &self.at, self.build, keyring);
        let awaited = std::mem::take(&mut watch.awaits_pair);
        watch.files = files;
        match context {
            Ok(context) => {
                self.current.store(Some(context));
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

    fn certificates(&self) -> Option<LoadedContext> {
        Some(LoadedContext::of(self.watch().whole.as_ref()?, &self.at))
    }

    fn has_files(&self) -> bool {
        self.watch().files.has_files()
    }

    fn watch(&self) -> MutexGuard<'_, Watch<K>> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, C> Slot<K, C> {
    /// The context to use for the next handshake; nothing while secrets of servers are missing.
    pub fn load(&self) -> Option<Arc<C>> {
        self.current.load_full()
    }
}

/// A context, and what it is made of anew.
type Remade<'a, K, C> = (&'a Slot<K, C>, Made<K, C>);

/// What the contexts that name the secret `key` are with these secrets.
fn remake<'a, K: Config, C>(
    slots: &'a HashMap<usize, Arc<Slot<K, C>>>,
    key: &str,
    keyring: &Arc<TicketKeyring>,
    secrets: &Secrets,
) -> Result<Vec<Remade<'a, K, C>>, TlsConfigError> {
    let slots = slots.values().filter(|slot| slot.names(key));
    slots.map(|slot| Ok((&**slot, slot.made(keyring, secrets)?))).collect()
}

/// Whether a secret can be used at all, whatever else a context is made of.
fn check(secret: &ServedSecret) -> Result<(), TlsConfigError> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut files = Reader::default();
    if let Some(certificate) = secret.certificate() {
        Certificate::load(certificate, &provider, None, &mut files)?;
    }
    if let Some(validation) = secret.validation() {
        let algorithms = provider.signature_verification_algorithms;
        Verifier::new(Some(&Arc::new(validation.clone())), algorithms, None, &mut files)?;
    }
    Ok(())
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
