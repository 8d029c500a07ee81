//! The control thread: everything of the process that is not the request path.
//!
//! One OS thread named `control`, not pinned, with one single-threaded tokio runtime. It serves the
//! admin interface, follows signals, resolves names, and keeps the directory of services with its
//! registries. It never touches a shard: it reads their
//! statistics with relaxed loads, and asks the server loop for what must be done through a bounded
//! channel of [`Command`]s.
//!
//! Idle, it sleeps: nothing here ticks unless DNS clusters, registries, or certificates in files, are
//! configured.

pub mod admin;
pub mod configuration;
pub mod dns;
pub mod hand_over;
mod replace_file;
pub mod services;
pub mod signals;
pub mod state;

use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use outrigger_xds::bootstrap::Admin;
use outrigger_xds::services_config::ServicesConfig;
use outrigger_xds::snapshot::Address;
use thiserror::Error;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot, watch};

pub use admin::AdminError;
pub use configuration::{Beginning, Configuration, Event, Events, Updates};
pub use dns::Publish;
use hand_over::{Begun, Estate, Lent, Tenure};
pub use hand_over::{HandOver, HandOverError, Inherited};
use services::inheritance::Legacy;
pub use services::{PublishServices, ServicesError, ServicesOptions};
pub use state::{BoundListener, Command, ControlState, Lifecycle, NotTaken};

use crate::background::{self, Share};
use crate::demo;

/// What the control thread is to do.
pub struct ControlOptions {
    /// The admin interface, if there is to be one.
    pub admin: Option<Admin>,
    /// Whether to answer to signals. Block them first: [`signals::block`].
    pub signals: bool,
    /// What is served.
    pub configuration: Configuration,
    /// The way to it.
    pub events: Events,
    /// Services that come at run time.
    pub services: ServicesConfig,
    /// A listening socket for the demonstration's origin.
    pub demo_origin: Option<TcpListener>,
    /// Whom this process takes over from, and how others do from it.
    pub hand_over: Option<HandOver>,
    /// A predecessor's listening sockets.
    pub inherited: Arc<Inherited>,
}

#[cfg(test)]
impl ControlOptions {
    /// A control thread with nothing to do.
    fn idle(state: &Arc<ControlState>) -> ControlOptions {
        use outrigger_xds::bootstrap::{LoadOptions, Source, load};
        use outrigger_xds::source::Format;

        use crate::access_log::LogWriter;
        use crate::tls::TlsContexts;

        let source = Source::text("test", "{}", Format::Yaml);
        let loaded = load(&source, &LoadOptions::default()).expect("an empty file is valid");
        let writer = LogWriter::start("test", 1, Arc::default(), Arc::default()).expect("a thread");
        let beginning = Beginning {
            tls: Arc::new(TlsContexts::build(&loaded.snapshot).expect("no contexts")),
            snapshot: Arc::new(loaded.snapshot),
            ground: loaded.ground,
            service_template: loaded.service_template,
            log_queue: writer.queue(),
            ignore_unknown_fields: false,
            cache: None,
            inherited: Arc::default(),
            demands: tokio::sync::mpsc::channel(1).1,
        };
        let configuration = Configuration::new(state, beginning, Updates::default());
        let (configuration, events) = configuration.expect("nothing to prepare");
        ControlOptions {
            admin: None,
            signals: false,
            configuration,
            events,
            services: ServicesConfig::default(),
            demo_origin: None,
            hand_over: None,
            inherited: Arc::default(),
        }
    }
}

/// Why the control thread could not be started.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The admin interface.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The file for the admin interface's address.
    #[error("cannot write the admin address to {path}: {source}")]
    AdminAddressPath {
        /// The file.
        path: Box<Path>,
        /// What the system said.
        source: io::Error,
    },
    /// The demonstration's origin.
    #[error("cannot serve the demonstration's origin: {0}")]
    DemoOrigin(io::Error),
    /// An interface for applications.
    #[error(transparent)]
    Services(#[from] ServicesError),
    /// Signal handlers.
    #[error("cannot handle signals: {0}")]
    Signals(io::Error),
    /// The thread or its runtime.
    #[error("cannot start the control thread: {0}")]
    Start(io::Error),
}

/// The running control thread.
#[derive(Debug)]
pub struct Control {
    thread: JoinHandle<()>,
    stop: oneshot::Sender<()>,
    admin_address: Option<Address>,
}

impl Control {
    /// Starts the thread, and returns when the admin interface is bound.
    pub fn start(
        state: Arc<ControlState>,
        options: ControlOptions,
    ) -> Result<Control, ControlError> {
        let (stop, stopped) = oneshot::channel();
        let (farewell, ends) = watch::channel(false);
        let (ready, bound) = crossbeam_channel::bounded(1);
        let thread = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                background::give_way(Share::Tenth);
                let runtime = match Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(ready.send(Err(ControlError::Start(error)))),
                };
                runtime.block_on(async {
                    match serve(&state, options, ends) {
                        Ok(Serving { admin_address, services, hand_over, configuration }) => {
                            // The receiver waits for exactly this message.
                            let _ = ready.send(Ok(admin_address));
                            // Ends when told to, and when nobody is left who could tell.
                            let _ = stopped.await;
                            let _nobody = farewell.send(true);
                            if let Some(hand_over) = hand_over {
                                // A panic in it was told.
                                let _panicked = hand_over.await;
                            }
                            if let Some(services) = services {
                                services.close().await;
                            }
                            let _panicked = configuration.await;
                        }
                        Err(error) => drop(ready.send(Err(error))),
                    }
                });
                // Dropping the runtime drops its tasks; a lookup in progress is not waited for.
                runtime.shutdown_background();
            })
            .map_err(ControlError::Start)?;
        let gone = || ControlError::Start(io::ErrorKind::BrokenPipe.into());
        let admin_address = bound.recv().unwrap_or_else(|_| Err(gone()))?;
        Ok(Control { thread, stop, admin_address })
    }

    /// Where the admin interface is, with its real port.
    pub fn admin_address(&self) -> Option<&Address> {
        self.admin_address.as_ref()
    }

    /// Ends the thread; `false` when it did not end within `patience`.
    pub fn stop(self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        // An error means that the thread has ended already.
        let _ = self.stop.send(());
        while !self.thread.is_finished() {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(JOIN_POLL);
        }
        self.thread.join().is_ok()
    }
}

/// What runs.
struct Serving {
    admin_address: Option<Address>,
    services: Option<services::Running>,
    hand_over: Option<tokio::task::JoinHandle<()>>,
    configuration: tokio::task::JoinHandle<()>,
}

/// Binds and spawns everything; runs inside the runtime.
fn serve(
    state: &Arc<ControlState>,
    mut options: ControlOptions,
    ends: watch::Receiver<bool>,
) -> Result<Serving, ControlError> {
    let mut admin_address = None;
    let (admin_is_ours, is_ours) = watch::channel(options.hand_over.is_none());
    let alone = if options.hand_over.is_none() { Tenure::Ours } else { Tenure::Theirs };
    let (tenure, tenures) = watch::channel(alone);
    let mut sockets = Vec::new();
    if let Some(admin) = options.admin {
        let server = admin::Server::bind(admin, Arc::clone(state), &options.inherited)?;
        let lent = |socket| Lent { listener: hand_over::ADMIN.into(), socket };
        sockets.extend(server.socket().ok().map(lent));
        let address = server.address().clone();
        if let Some(path) = &state.process().admin_address_path {
            std::fs::write(path, address.to_string()).map_err(|source| {
                ControlError::AdminAddressPath { path: path.as_path().into(), source }
            })?;
        }
        admin_address = Some(address);
        tokio::spawn(server.run(is_ours));
    }
    if let Some(listener) = options.demo_origin {
        let origin = demo::Origin::new(listener).map_err(ControlError::DemoOrigin)?;
        tokio::spawn(origin.run());
    }
    let (hang_up, hang_ups) = mpsc::channel(1);
    if options.signals {
        let signals = signals::Signals::new(Arc::clone(state)).map_err(ControlError::Signals)?;
        tokio::spawn(signals.run(hang_up));
    }
    let publish_services: PublishServices = {
        let events = options.events.clone();
        Arc::new(move |services| {
            let (tell, told) = oneshot::channel();
            // Nobody takes events at the end of the process; then nobody is told either.
            let _ended = events.send(Event::Services(services, tell));
            told
        })
    };
    let inherited_services = match &mut options.hand_over {
        Some(HandOver { begun: Begun::Successor(take_over), .. }) => take_over.services.take(),
        _ => None,
    };
    let services_options = ServicesOptions {
        config: options.services,
        publish: publish_services,
        legacy: Legacy { sockets: options.inherited, state: inherited_services },
        tenure: tenures.clone(),
    };
    let mut services = services::start(state, services_options)?;
    if let Some(services) = &mut services {
        sockets.append(&mut services.take_sockets());
    }
    let hand_over = options.hand_over.map(|hand_over| {
        let (is_ours, farewell) = (admin_is_ours, ends.clone());
        let services = services.as_ref().map(services::Running::services);
        let estate = Estate { sockets, is_ours, tenure, services, hang_ups, farewell };
        tokio::spawn(hand_over.run(Arc::clone(state), estate))
    });
    // Nobody is to be accepted before services of an earlier run are there.
    let mut configuration = options.configuration;
    configuration.take_in_early();
    let publish: Publish = {
        let events = options.events;
        Arc::new(move |cluster: &str, endpoints| {
            let _ended = events.send(Event::Resolved(cluster.into(), endpoints));
        })
    };
    tokio::spawn(dns::run(Arc::clone(state), configuration.names(), publish));
    let configuration = tokio::spawn(configuration.run(tenures, ends));
    let state = Arc::clone(state);
    tokio::spawn(async move { state.reclaim().run().await });
    Ok(Serving { admin_address, services, hand_over, configuration })
}

/// Milliseconds since the epoch.
fn now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since_epoch.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// How often [`Control::stop`] looks whether the thread has ended.
const JOIN_POLL: Duration = Duration::from_millis(2);
