//! Making an upstream connection: TCP, then TLS where the cluster has it.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use outrigger_xds::snapshot::UpstreamSni;

use crate::ring::Connecting;
use crate::shard::Shard;
use crate::stats::TlsStats;
use crate::tls::{ClientContext, Handshake, HandshakeError};
use crate::transport::Transport;

use super::{ClusterRuntime, Host, Wanted};

/// A connection that is being made.
pub struct Connector {
    shard: Rc<Shard>,
    stage: Stage,
    tls: Option<TlsPlan>,
    tls_stats: Arc<TlsStats>,
}

enum Stage {
    Connecting(Connecting),
    Handshaking(Handshake),
}

struct TlsPlan {
    context: Arc<ClientContext>,
    server_name: Option<Box<str>>,
    /// In place of the context's own list.
    alpn: Option<Box<[Arc<[u8]>]>>,
}

/// Why it could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No socket could be made here.
    #[error("no socket: {0}")]
    Local(std::io::Error),
    /// The endpoint did not accept.
    #[error("{0}")]
    Refused(std::io::Error),
    /// The TLS handshake failed.
    #[error("TLS: {0}")]
    Tls(HandshakeError),
    /// The cluster's TLS context is not usable.
    #[error("the keys and certificates of the cluster's TLS context can't be used")]
    NoContext,
}

impl Connector {
    /// Starts to connect to `host`, with what the request wants where the configuration leaves it to
    /// the request; `alpn` is what is offered otherwise.
    ///
    /// # Errors
    /// When no socket can be made, or the cluster's certificates could not be read.
    pub fn start(
        shard: &Rc<Shard>,
        cluster: &ClusterRuntime,
        host: &Host,
        wanted: Wanted<'_>,
        alpn: &[&[u8]],
    ) -> Result<Self, ConnectError> {
        let tls = match &host.tls {
            None => None,
            Some(config) => {
                let slot = shard.tls().client(config);
                let Some(context) = slot.and_then(|slot| slot.load()) else {
                    cluster.tls_stats.no_context.inc();
                    return Err(ConnectError::NoContext);
                };
                let own = |list: &[Box<[u8]>]| list.iter().map(|it| Arc::from(&**it)).collect();
                let alpn = match wanted.alpn.and_then(|overrides| overrides.instead_of(alpn)) {
                    Some(list) => Some(own(list)),
                    // The context's own list is the configuration's word.
                    None if !context.alpn().is_empty() => None,
                    None => Some(alpn.iter().map(|protocol| Arc::from(*protocol)).collect()),
                };
                let hostname = Some(&*host.endpoint.hostname).filter(|name| !name.is_empty());
                let server_name = match &config.sni {
                    UpstreamSni::None => None,
                    UpstreamSni::Literal(name) => Some(&**name),
                    UpstreamSni::EndpointHostname(otherwise) => hostname.or(otherwise.as_deref()),
                    UpstreamSni::RequestAuthority => wanted.server_name,
                };
                Some(TlsPlan { context, server_name: server_name.map(Box::from), alpn })
            }
        };
        let connecting =
            host.connect(shard, cluster, wanted.source).map_err(ConnectError::Local)?;
        Ok(Self {
            shard: Rc::clone(shard),
            stage: Stage::Connecting(connecting),
            tls,
            tls_stats: Arc::clone(&cluster.tls_stats),
        })
    }

    /// Whom to wake when it goes on.
    pub fn register(&self, waker: &Waker) {
        match &self.stage {
            Stage::Connecting(connecting) => connecting.register(waker),
            Stage::Handshaking(handshake) => handshake.register(waker),
        }
    }

    /// The connection, or this again while it is being made.
    ///
    /// # Errors
    /// Why it could not be made.
    pub fn ready(mut self, waker: &Waker) -> Result<Result<Transport, Self>, ConnectError> {
        loop {
            match self.stage {
                Stage::Connecting(connecting) => {
                    let refused =
                        |code| ConnectError::Refused(std::io::Error::from_raw_os_error(code));
                    let socket = match connecting.ready().map_err(refused)? {
                        Ok(socket) => socket,
                        Err(connecting) => {
                            self.stage = Stage::Connecting(connecting);
                            return Ok(Err(self));
                        }
                    };
                    let Some(plan) = self.tls.take() else {
                        socket.register(waker);
                        return Ok(Ok(Transport::Plain(socket)));
                    };
                    let handshake = Handshake::client(
                        socket,
                        &self.shard.records,
                        &plan.context,
                        plan.server_name.as_deref(),
                        plan.alpn.as_deref(),
                    );
                    handshake.register(waker);
                    self.stage = Stage::Handshaking(handshake);
                }
                Stage::Handshaking(handshake) => {
                    let progress = handshake.ready().inspect_err(|error| {
                        self.tls_stats.failed(error);
                    });
                    return match progress.map_err(ConnectError::Tls)? {
                        Ok(established) => {
                            self.tls_stats.handshake(&established.session);
                            established.transport.register(waker);
                            Ok(Ok(established.transport))
                        }
                        Err(handshake) => {
                            self.stage = Stage::Handshaking(handshake);
                            Ok(Err(self))
                        }
                    };
                }
            }
        }
    }
}
