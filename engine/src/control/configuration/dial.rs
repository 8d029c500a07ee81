//! Connections to management servers: a static cluster's endpoint, over TCP, TLS or a Unix socket.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use outrigger_xds::snapshot::{Address, Cluster, TcpKeepalive, UpstreamSni};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower_service::Service;

use crate::tls::{self, ClientContext, HandshakeError};

use super::meter::{Counted, Counters};

/// Where to connect, and how.
#[derive(Clone)]
pub(super) struct Dial {
    pub(super) cluster: Arc<Cluster>,
    pub(super) address: Address,
    /// And which server name to ask for.
    pub(super) tls: Option<(Arc<ClientContext>, UpstreamSni)>,
    /// Where it is counted.
    pub(super) counters: Counters,
}

/// A byte stream of any kind.
pub(super) trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

impl Dial {
    /// One connection, which is gone when the channel is.
    pub(super) async fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        // Whatever stands there is replaced by what the call says.
        let endpoint = Endpoint::from_static("http://xds");
        let http2 = &self.cluster.http.http2;
        let endpoint = match &http2.keepalive {
            Some(keepalive) => endpoint
                .http2_keep_alive_interval(keepalive.interval.unwrap_or(KEEPALIVE_INTERVAL))
                .keep_alive_timeout(keepalive.timeout)
                .keep_alive_while_idle(true),
            None => endpoint,
        };
        let endpoint = endpoint
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        endpoint.connect_with_connector(Connector(self.clone())).await
    }

    async fn connect(&self) -> io::Result<Counted> {
        let connecting = self.counters.connect();
        let limit = self.cluster.connect_timeout;
        let outcome = tokio::time::timeout(limit, self.secured()).await.unwrap_or_else(|_| {
            let text = format!("not within {} ms", limit.as_millis());
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        });
        match outcome {
            Ok(bytes) => Ok(connecting.connected(bytes)),
            Err(error) => {
                connecting.failed(&error);
                Err(error)
            }
        }
    }

    async fn secured(&self) -> io::Result<Box<dyn Bytes>> {
        let Some((context, sni)) = &self.tls else { return self.plain().await };
        let literal = match sni {
            UpstreamSni::Literal(name) => Some(name.to_string()),
            _ => None,
        };
        let asks_name = literal.is_some();
        let name = match (literal, &self.address) {
            (Some(name), _) => ServerName::try_from(name).map_err(io::Error::other)?,
            (None, Address::Ip(address)) => ServerName::from(address.ip()),
            (None, _) => ServerName::try_from("localhost").map_err(io::Error::other)?,
        };
        let connector = TlsConnector::from(context.for_http2(asks_name));
        let stream = connector.connect(name, self.plain().await?).await.inspect_err(|error| {
            self.counters.shook_hands(Err(&HandshakeError::of(error)));
        })?;
        let agreed = tls::agreed(stream.get_ref().1);
        self.counters.shook_hands(agreed.as_ref());
        Ok(Box::new(stream))
    }

    async fn plain(&self) -> io::Result<Box<dyn Bytes>> {
        match &self.address {
            Address::Ip(address) => {
                let socket = match address.is_ipv4() {
                    true => TcpSocket::new_v4()?,
                    false => TcpSocket::new_v6()?,
                };
                if let Some(config) = &self.cluster.bind {
                    let socket = socket2::SockRef::from(&socket);
                    crate::cluster::bind(&socket, address.ip(), Some(config), None)?;
                }
                let stream: TcpStream = socket.connect(*address).await?;
                stream.set_nodelay(true)?;
                let keepalive = self.cluster.tcp_keepalive.unwrap_or(KEEPALIVE);
                crate::cluster::set_keepalive(&socket2::SockRef::from(&stream), keepalive)?;
                Ok(Box::new(stream))
            }
            Address::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
            Address::UnixAbstract(name) => {
                let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
                let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
                stream.set_nonblocking(true)?;
                Ok(Box::new(UnixStream::from_std(stream)?))
            }
        }
    }
}

/// As the transport wants it.
struct Connector(Dial);

impl Service<Uri> for Connector {
    type Response = TokioIo<Counted>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), io::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let dial = self.0.clone();
        Box::pin(async move { dial.connect().await.map(TokioIo::new) })
    }
}

/// Large pushes come in few round trips.
const WINDOW_BYTES: u32 = 8 << 20;

/// Where a cluster asks for keep-alive and does not say how often.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// F-04: a half-open connection is noticed in a few minutes at the latest.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive { probes: Some(3), time_s: Some(60), interval_s: Some(20) };
