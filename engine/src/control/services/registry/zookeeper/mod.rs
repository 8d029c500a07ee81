//! ZooKeeper: one connection at a time to one member of the ensemble, and one session over them all.
//!
//! The session is taken up again on the next connection as long as the server remembers it; a new one
//! makes everything anew. [`keeper`] knows what that is, [`wire`] and [`layout`] how it is written; here
//! are the sockets and the time.

pub mod keeper;
pub mod layout;
pub mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use outrigger_xds::services_config::{HostPort, ServiceProtocol, ZooKeeperRegistry};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use self::keeper::{Keeper, Lost};
use self::wire::{Acl, LENGTH_BYTES, Request, Session, WireError};
use super::{Backoff, Registry, Reports, Wants};

/// A ZooKeeper, not yet in use.
#[derive(Debug)]
pub struct ZooKeeper {
    config: ZooKeeperRegistry,
    root: String,
}

impl ZooKeeper {
    /// With the layout of `protocols`.
    pub fn new(config: ZooKeeperRegistry, protocols: &[ServiceProtocol]) -> ZooKeeper {
        let protocol = protocols.first().copied().unwrap_or(ServiceProtocol::Dubbo);
        let root = config.root.as_deref().unwrap_or(layout::default_root(protocol)).to_owned();
        ZooKeeper { config, root }
    }
}

impl Registry for ZooKeeper {
    async fn run(self, wanted: Wants, reports: Reports) {
        let acl = if self.config.username.is_some() { Acl::Creator } else { Acl::Open };
        let (source, stats) = (Arc::clone(&reports.source), Arc::clone(&reports.stats));
        let keeper = Keeper::new(self.root, acl, source, stats);
        let (config, session) = (self.config, Session::default());
        Client { config, keeper, session, wanted, reports, is_lost: None }.run().await;
    }
}

/// Why there is no connection, or no more.
#[derive(Debug, Error)]
enum Fault {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("{0}")]
    Lost(#[from] Lost),
    #[error("no answer in time")]
    Timeout,
    #[error("the session expired")]
    Expired,
}

struct Client {
    config: ZooKeeperRegistry,
    keeper: Keeper,
    session: Session,
    wanted: Wants,
    reports: Reports,
    /// What was last told; nothing before anything was.
    is_lost: Option<bool>,
}

impl Client {
    /// Goes from member to member until nothing is wanted any more.
    async fn run(mut self) {
        let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_LONGEST);
        let addresses = self.config.addresses.clone();
        // Proxies that start together do not all go to one member.
        let mut turn = super::random() as usize % addresses.len().max(1);
        loop {
            let Some(address) = addresses.get(turn % addresses.len().max(1)) else { return };
            turn += 1;
            let ended = self.visit(address, &mut backoff).await;
            self.reports.stats.connected.set(0);
            let fault = match ended {
                Ok(()) => return,
                Err(fault) => fault,
            };
            let source = &self.reports.source;
            log::warn!("registry {source}: {address}: {fault}");
            if matches!(fault, Fault::Expired | Fault::Lost(Lost::Expired)) {
                self.session = Session::default();
            }
            if self.is_lost != Some(true) {
                self.is_lost = Some(true);
                self.reports.lost().await;
            }
            let mut pause = backoff.pause();
            if matches!(fault, Fault::Lost(Lost::AuthFailed)) {
                // It takes someone to change a password.
                pause = BACKOFF_LONGEST;
            }
            let ends = async { while self.wanted.changed().await.is_ok() {} };
            if timeout(pause, ends).await.is_ok() {
                return;
            }
        }
    }

    /// One connection from its begin to its end, which is good only when nothing is wanted any more.
    async fn visit(&mut self, address: &HostPort, backoff: &mut Backoff) -> Result<(), Fault> {
        self.reports.stats.connect.inc();
        let timeout_ms = self.config.session_timeout_ms;
        let patience = (Duration::from_millis(timeout_ms.into()) / 3).min(CONNECT_PATIENCE);
        let connected = timeout(patience, self.connect(address)).await;
        let connected = connected.unwrap_or(Err(Fault::Timeout));
        let (stream, pace) = connected.inspect_err(|_| self.reports.stats.connect_fail.inc())?;
        backoff.reset();
        self.reports.stats.connected.set(1);
        let (source, id) = (&self.reports.source, self.session.id);
        log::info!("registry {source}: connected to {address}, session {id:#x}");
        let local = stream.local_addr()?;
        let talked = self.talk(stream, local, pace).await;
        self.reports.stats.disconnect.inc();
        talked
    }

    /// Connects, and begins a session or takes one up again.
    async fn connect(&mut self, address: &HostPort) -> Result<(TcpStream, Pace), Fault> {
        let mut stream = TcpStream::connect((&*address.host, address.port)).await?;
        stream.set_nodelay(true)?;
        let asked_ms = i32::try_from(self.config.session_timeout_ms).unwrap_or(i32::MAX);
        let mut hello = Vec::new();
        wire::put_connect(&self.session, asked_ms, &mut hello);
        if let (Some(user), Some(password)) = (&self.config.username, &self.config.password) {
            let digest = format!("{user}:{}", password.reveal());
            wire::put_request(wire::XID_AUTH, &Request::Auth { digest }, &mut hello);
        }
        stream.write_all(&hello).await?;
        let mut length = [0; LENGTH_BYTES];
        stream.read_exact(&mut length).await?;
        let length = wire::message_length(length)?;
        if length > HELLO_BYTES_MAX {
            return Err(WireError::Length.into());
        }
        let mut reply = vec![0; length];
        stream.read_exact(&mut reply).await?;
        let reply = wire::read_connected(&reply)?;
        let agreed_ms = u64::try_from(reply.timeout_ms).unwrap_or(0);
        if agreed_ms == 0 || reply.session_id == 0 {
            return Err(Fault::Expired);
        }
        self.session.id = reply.session_id;
        self.session.password = reply.password;
        Ok((stream, Pace::new(Duration::from_millis(agreed_ms))))
    }

    /// Asks and is told, until the connection fails or nothing is wanted any more.
    async fn talk(
        &mut self,
        mut stream: TcpStream,
        local: SocketAddr,
        mut pace: Pace,
    ) -> Result<(), Fault> {
        let (mut reader, mut writer) = stream.split();
        let (mut incoming, mut outgoing) = (BytesMut::new(), Vec::new());
        let local_host = local.ip().to_string();
        // What is wanted may not have been looked at yet, or with another address of ours.
        self.wanted.mark_changed();
        self.keeper.connected(self.session.id);
        // When the end is no longer waited for, once it has begun.
        let mut closing: Option<Instant> = None;
        loop {
            self.keeper.put_requests(&mut outgoing);
            for (lookup, providers) in self.keeper.take_reports() {
                self.reports.providers(&lookup, providers).await;
            }
            if self.is_lost != Some(false) && self.wanted_is_seen() && self.keeper.is_up_to_date() {
                self.is_lost = Some(false);
                self.reports.back().await;
            }
            if closing.is_none() && self.wanted_is_seen() && self.keeper.is_registered() {
                let wanted = Arc::clone(&self.wanted.borrow());
                if !Arc::ptr_eq(&wanted, &self.reports.done().borrow()) {
                    self.reports.registered(&wanted);
                }
            }
            let due = self.keeper.deadline().into_iter().chain(closing);
            let due = due.fold(pace.deadline(), Instant::min);
            tokio::select! {
                read = reader.read_buf(&mut incoming) => {
                    if read? == 0 {
                        let closed = io::Error::from(io::ErrorKind::UnexpectedEof);
                        return if closing.is_some() { Ok(()) } else { Err(closed.into()) };
                    }
                    pace.received();
                    match self.take_messages(&mut incoming) {
                        Err(Fault::Lost(Lost::Closed)) if closing.is_some() => return Ok(()),
                        other => other?,
                    }
                }
                written = writer.write(&outgoing), if !outgoing.is_empty() => {
                    let count = written?;
                    if count == 0 {
                        return Err(io::Error::from(io::ErrorKind::WriteZero).into());
                    }
                    outgoing.drain(..count);
                    pace.sent();
                }
                changed = self.wanted.changed(), if closing.is_none() => match changed {
                    Ok(()) => {
                        let wanted = Arc::clone(&self.wanted.borrow_and_update());
                        let host = wanted.subscriber.host.as_deref().unwrap_or(&local_host);
                        self.keeper.want(&wanted, host);
                    }
                    Err(_) => {
                        closing = Some(Instant::now() + CLOSE_PATIENCE);
                        self.keeper.close();
                    }
                },
                () = tokio::time::sleep_until(due) => {
                    let now = Instant::now();
                    if closing.is_some_and(|at| at <= now) {
                        return Ok(());
                    }
                    if pace.is_dead(now) {
                        return Err(Fault::Timeout);
                    }
                    if pace.is_silent(now) {
                        // What is on its way already shows that we are there.
                        if outgoing.is_empty() {
                            wire::put_request(wire::XID_PING, &Request::Ping, &mut outgoing);
                        }
                        pace.sent();
                    }
                    self.keeper.tick(now);
                }
            }
        }
    }

    fn wanted_is_seen(&self) -> bool {
        self.wanted.has_changed().is_ok_and(|changed| !changed)
    }

    fn take_messages(&mut self, incoming: &mut BytesMut) -> Result<(), Fault> {
        let now = Instant::now();
        while let Some(length) = incoming.first_chunk() {
            let length = wire::message_length(*length)?;
            let Some(message) = incoming.get(LENGTH_BYTES..LENGTH_BYTES + length) else {
                incoming.reserve(LENGTH_BYTES + length - incoming.len());
                return Ok(());
            };
            if let Some(zxid) = self.keeper.take(message, now)? {
                self.session.last_zxid = self.session.last_zxid.max(zxid);
            }
            incoming.advance(LENGTH_BYTES + length);
        }
        Ok(())
    }
}

/// When to show that we are there, and when to take the server for dead (registries.md section 10).
struct Pace {
    timeout: Duration,
    sent_at: Instant,
    received_at: Instant,
}

impl Pace {
    fn new(timeout: Duration) -> Pace {
        let now = Instant::now();
        Pace { timeout, sent_at: now, received_at: now }
    }

    fn sent(&mut self) {
        self.sent_at = Instant::now();
    }

    fn received(&mut self) {
        self.received_at = Instant::now();
    }

    fn is_silent(&self, now: Instant) -> bool {
        now >= self.sent_at + self.timeout / 3
    }

    fn is_dead(&self, now: Instant) -> bool {
        now >= self.received_at + self.timeout * 2 / 3
    }

    fn deadline(&self) -> Instant {
        (self.sent_at + self.timeout / 3).min(self.received_at + self.timeout * 2 / 3)
    }
}

/// Pauses between attempts to connect.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LONGEST: Duration = Duration::from_secs(10);

/// A member that takes longer is passed by.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// A session that is not ended in time ends by itself.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// The answer to the begin of a session is 41 bytes.
const HELLO_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests;
