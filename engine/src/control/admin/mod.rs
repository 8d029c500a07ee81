//! The admin interface: HTTP/1.1 on the control thread, with Envoy's paths and shapes.
//!
//! It reads and never disturbs: statistics by relaxed loads, configuration by cloning a pointer.
//! What changes something needs POST. The interface is not authenticated, as Envoy's is not: bind
//! it to loopback or to a Unix socket.
//!
//! Bounds: [`CONNECTIONS_MAX`] connections (more wait in the kernel's backlog), [`HEAD_BYTES_MAX`]
//! of request head, [`HEAD_TIMEOUT`] for it to come, and bodies are never kept.

mod certificates;
mod clusters;
mod config;
mod journal;
mod page;
mod pages;
mod stats;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net as unix;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, SERVER, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use outrigger_xds::bootstrap::Admin as AdminConfig;
use outrigger_xds::snapshot::{Address, StringMatcher};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};

use super::hand_over::{ADMIN, Inherited};
use super::state::ControlState;
use crate::access_log::OpenError;
use journal::{Journal, Outcome};
use page::{Answer, Ask};

/// The admin interface could not be started.
#[derive(Debug, Error)]
pub enum AdminError {
    /// Its socket.
    #[error("cannot bind the admin interface to {address}: {source}")]
    Bind {
        /// Where it was to listen.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// Its access log.
    #[error("access log of the admin interface: {0}")]
    Log(OpenError),
}

/// The admin interface, bound and not yet served.
pub(super) struct Server {
    listener: Listener,
    address: Address,
    admin: Arc<Admin>,
}

impl Server {
    /// Binds. Needs a tokio runtime.
    pub(super) fn bind(
        config: AdminConfig,
        state: Arc<ControlState>,
        inherited: &Inherited,
    ) -> Result<Server, AdminError> {
        let AdminConfig { address, access_log, allow_paths } = config;
        let journal = Journal::open(&access_log, &state).map_err(AdminError::Log)?;
        let bound = Listener::bind(&address, inherited).and_then(|listener| {
            let address = listener.address(&address)?;
            Ok((listener, address))
        });
        match bound {
            Ok((listener, address)) => {
                log::info!(target: "admin", "admin address: {address}");
                let admin = Arc::new(Admin { state, journal, allow_paths });
                Ok(Server { listener, address, admin })
            }
            Err(source) => Err(AdminError::Bind { address, source }),
        }
    }

    /// Where it listens, with its real port.
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// The socket, for a successor to share.
    pub(super) fn socket(&self) -> io::Result<OwnedFd> {
        match &self.listener {
            Listener::Tcp(listener) => listener.as_fd().try_clone_to_owned(),
            Listener::Unix(listener) => listener.as_fd().try_clone_to_owned(),
        }
    }

    /// Serves for ever, whenever the interface is this process's.
    pub(super) async fn run(self, mut is_ours: watch::Receiver<bool>) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            if is_ours.wait_for(|is_ours| *is_ours).await.is_err() {
                return;
            }
            // The semaphore is never closed.
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Ok(()) = async { is_ours.wait_for(|is_ours| !*is_ours).await.map(drop) } => continue,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let admin = Arc::clone(&self.admin);
                    tokio::spawn(async move {
                        admin.serve(stream, peer).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    log::warn!(target: "admin", "cannot accept: {error}");
                    // Out of file descriptors, most likely: it takes someone else to close one.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// What every connection shares.
struct Admin {
    state: Arc<ControlState>,
    journal: Journal,
    /// Empty: every path.
    allow_paths: Box<[StringMatcher]>,
}

impl Admin {
    async fn serve(&self, stream: Box<dyn Stream>, peer: Option<SocketAddr>) {
        let service = service_fn(|request: Request<Incoming>| {
            std::future::ready(Ok::<_, Infallible>(self.respond(&request, peer)))
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            log::debug!(target: "admin", "connection ended: {error}");
        }
    }

    fn respond(
        &self,
        request: &Request<Incoming>,
        peer: Option<SocketAddr>,
    ) -> Response<Full<Bytes>> {
        let began = Instant::now();
        let uri = request.uri();
        log::debug!(target: "admin", "request complete: path: {uri}");
        let path_and_query = uri.path_and_query().map_or("/", |path| path.as_str());
        let answer = if self.allows(path_and_query) {
            self.answer(request.method(), uri.path(), uri.query().unwrap_or_default())
        } else {
            let body = format!("request to path {} not allowed", uri.path());
            Answer::text(StatusCode::FORBIDDEN, body)
        };
        let sent = answer.body.len() as u64;
        self.journal.write(
            &self.state,
            request,
            &Outcome { status: answer.status, sent, peer, began },
        );
        let Answer { status, content_type, body } = answer;
        if body.len() > BODY_KEPT_MAX {
            self.state.reclaim().due();
        }
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, max-age=0"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(SERVER, HeaderValue::from_static("outrigger"));
        response
    }

    fn allows(&self, path_and_query: &str) -> bool {
        let mut allowed = self.allow_paths.iter();
        self.allow_paths.is_empty()
            || allowed.any(|matcher| matcher.matches(path_and_query.as_bytes()))
    }

    fn answer(&self, method: &Method, path: &str, query: &str) -> Answer {
        let ask = Ask::new(&self.state, method, query);
        match pages::PAGES.iter().find(|page| page.path == path) {
            None => {
                let body = format!("invalid path. {}", pages::help_text());
                Answer::text(StatusCode::NOT_FOUND, body)
            }
            Some(page) => page.answer(&ask),
        }
    }
}

/// A byte stream of either kind.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// On the predecessor's socket, if there is one.
    fn bind(address: &Address, inherited: &Inherited) -> io::Result<Listener> {
        let shared = inherited.take(ADMIN, address).pop();
        let listener = match address {
            Address::Ip(_) if let Some(shared) = shared => {
                return Ok(Listener::Tcp(TcpListener::from_std(shared.into())?));
            }
            _ if let Some(shared) = shared => unix::UnixListener::from(shared),
            Address::Ip(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                return Ok(Listener::Tcp(TcpListener::from_std(listener)?));
            }
            Address::Unix(path) => {
                remove_stale_socket(path)?;
                unix::UnixListener::bind(path)?
            }
            Address::UnixAbstract(name) => {
                unix::UnixListener::bind_addr(&unix::SocketAddr::from_abstract_name(name)?)?
            }
        };
        listener.set_nonblocking(true)?;
        Ok(Listener::Unix(UnixListener::from_std(listener)?))
    }

    async fn accept(&self) -> io::Result<(Box<dyn Stream>, Option<SocketAddr>)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Box::new(stream), Some(peer)))
            }
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Box::new(stream), None))
            }
        }
    }

    fn address(&self, asked: &Address) -> io::Result<Address> {
        match self {
            Listener::Tcp(listener) => Ok(Address::Ip(listener.local_addr()?)),
            Listener::Unix(_) => Ok(asked.clone()),
        }
    }
}

/// A socket file that a dead process left would be in the way. A live one's is left alone.
fn remove_stale_socket(path: &Path) -> io::Result<()> {
    match unix::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        // No file, a file of another kind, a live socket: `bind` says what is wrong, if anything.
        _ => Ok(()),
    }
}

/// Connections served at once. Scrapers and people need a few; the rest waits.
pub const CONNECTIONS_MAX: usize = 64;

/// The longest request head: there is nothing long to ask for.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Time for a request head to come, idle time between requests included.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Bodies of up to as many bytes leave no garbage worth collecting.
const BODY_KEPT_MAX: usize = 256 * 1024;

/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
