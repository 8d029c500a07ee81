//! A handshake on a socket of the ring, made by rustls.
//!
//! Bytes are given to rustls one record at a time, so that it never sees one behind the handshake:
//! those stay in the chunk they came in, for the record layer here to open in place. Invariant: what
//! comes out is an established connection whose keys, sequence numbers and left-over bytes fit
//! together, or an error of which the peer was told.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use outrigger_codecs::tls::{HelloInspector, Inspected};
use outrigger_xds::snapshot::TlsVersion;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::crypto::SupportedKxGroup;
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{CommonState, ExtractedSecrets, HandshakeKind, ProtocolVersion};
use rustls_pki_types::{CertificateDer, ServerName};

use crate::buffers::{Chunk, RecordBuffers};
use crate::ring::{Received, Socket};
use crate::transport::Transport;

use super::certificate::Identity;
use super::client::ClientContext;
use super::error::{CertificateFault, HandshakeError};
use super::inbound::{Inbound, Side};
use super::keylog::{self, Secrets};
use super::outbound::Outbound;
use super::protect::{Protection, TrafficSecret};
use super::record::{self, HEADER_BYTES, RecordError};
use super::server::ServerContext;
use super::session::{PeerCertificate, StapleUse, TlsSession};
use super::stream::{TlsStream, send_last};
use super::verify;

/// A handshake under way. Dropping it closes the connection.
pub struct Handshake {
    // Boxed, because it is passed by value at each look at it.
    state: Box<State>,
}

/// A connection whose handshake is done.
pub struct Established {
    /// The connection.
    pub transport: Transport,
    /// What was agreed.
    pub session: Rc<TlsSession>,
}

struct State {
    socket: Socket,
    buffers: Rc<RecordBuffers>,
    machine: Machine,
    /// Records for rustls: what it has not finished with, and the beginning of the next.
    records: Vec<u8>,
    /// Where the record that is still to be completed begins; rustls is given what is before.
    open_at: usize,
    /// What came with the last record, and is not looked at yet.
    rest: Option<Chunk>,
    secrets: Secrets,
    /// The handshake failed, and the client was told.
    parting: Option<Parting>,
}

/// The end of a handshake that failed.
struct Parting {
    error: HandshakeError,
    /// Bytes that the client may still send.
    left: usize,
}

enum Machine {
    /// A server before the ClientHello.
    Awaiting {
        context: Arc<ServerContext>,
        inspector: Box<HelloInspector>,
    },
    Server {
        connection: Box<UnbufferedServerConnection>,
        info: ServerInfo,
    },
    Client {
        connection: Box<UnbufferedClientConnection>,
        info: ClientInfo,
    },
    /// It can't even begin.
    Failed(HandshakeError),
}

struct ServerInfo {
    context: Arc<ServerContext>,
    identity: Option<Arc<Identity>>,
    server_name: Option<Box<str>>,
    staple: StapleUse,
}

struct ClientInfo {
    context: Arc<ClientContext>,
    name: Option<ServerName<'static>>,
}

/// What to do after a step of rustls.
enum Step {
    /// Another one.
    Again,
    /// It needs another record.
    Starved,
    /// The handshake is done.
    Done,
}

impl Handshake {
    /// Waits for a client on `socket`.
    pub fn server(
        socket: Socket,
        buffers: &Rc<RecordBuffers>,
        context: &Arc<ServerContext>,
    ) -> Self {
        let machine = Machine::Awaiting {
            context: Arc::clone(context),
            inspector: Box::new(HelloInspector::new(HELLO_BYTES_MAX)),
        };
        Self::new(socket, buffers, machine)
    }

    /// Greets the server on `socket`: asks for the server name `sni`, if there is one, and offers
    /// `alpn`, or else what the context says.
    ///
    /// A name that is no host name is reported by [`Handshake::ready`].
    pub fn client(
        socket: Socket,
        buffers: &Rc<RecordBuffers>,
        context: &Arc<ClientContext>,
        sni: Option<&str>,
        alpn: Option<&[Arc<[u8]>]>,
    ) -> Self {
        let machine = match greet(context, sni, alpn.unwrap_or(context.alpn())) {
            Ok(machine) => machine,
            Err(error) => Machine::Failed(error),
        };
        let mut handshake = Self::new(socket, buffers, machine);
        // The greeting goes out at once. What goes wrong is told by the first look.
        if let Err(error) = handshake.state.advance() {
            handshake.state.machine = Machine::Failed(error);
        }
        handshake
    }

    fn new(socket: Socket, buffers: &Rc<RecordBuffers>, machine: Machine) -> Self {
        socket.start();
        let state = State {
            socket,
            buffers: Rc::clone(buffers),
            machine,
            records: Vec::new(),
            open_at: 0,
            rest: None,
            secrets: Secrets::default(),
            parting: None,
        };
        Self { state: Box::new(state) }
    }

    /// Whom to wake when there is something to do.
    pub fn register(&self, waker: &Waker) {
        self.state.socket.register(waker);
    }

    /// Does what can be done: the connection, or this again while the handshake is under way.
    ///
    /// A server that refused a client goes on until the client has closed, or said too much: data
    /// that a client sends without waiting would otherwise meet a closed socket, and the reset that
    /// answers it would overtake the alert. Whoever is tired of waiting asks for the
    /// [`Handshake::failure`].
    ///
    /// # Errors
    /// Why the handshake failed; the peer was told, as far as it listens.
    pub fn ready(mut self) -> Result<Result<Established, Self>, HandshakeError> {
        if self.state.parting.is_none() {
            match self.state.advance() {
                Ok(true) => return self.state.establish().map(Ok),
                Ok(false) => return Ok(Err(self)),
                Err(error) if self.state.should_linger(&error) => self.state.part(error),
                Err(error) => return Err(error),
            }
        }
        match self.state.parting.take() {
            Some(parting) => match self.state.linger(parting) {
                Some(error) => Err(error),
                None => Ok(Err(self)),
            },
            None => Ok(Err(self)),
        }
    }

    /// Why the handshake failed, while the client has still to close.
    pub fn failure(&self) -> Option<&HandshakeError> {
        self.state.parting.as_ref().map(|parting| &parting.error)
    }
}

/// Prepares a client's greeting.
fn greet(
    context: &Arc<ClientContext>,
    sni: Option<&str>,
    alpn: &[Arc<[u8]>],
) -> Result<Machine, HandshakeError> {
    let name = sni.map(|sni| ServerName::try_from(sni.to_owned())).transpose();
    let name = name.map_err(|_| HandshakeError::ServerName)?;
    // Sessions are kept by name, so those of a context that asks for none share one.
    let known_as = match &name {
        Some(name) => name.clone(),
        None => ServerName::try_from(NO_NAME).map_err(|_| HandshakeError::ServerName)?,
    };
    let config = Arc::clone(context.config(name.is_some()));
    let alpn = alpn.iter().map(|name| name.to_vec()).collect();
    let connection = UnbufferedClientConnection::new_with_alpn(config, known_as, alpn)
        .map_err(HandshakeError::Internal)?;
    let info = ClientInfo { context: Arc::clone(context), name };
    Ok(Machine::Client { connection: Box::new(connection), info })
}

impl State {
    /// Goes on as far as the received bytes lead. True when the handshake is done.
    fn advance(&mut self) -> Result<bool, HandshakeError> {
        loop {
            match self.step() {
                Ok(Step::Again) => {}
                Ok(Step::Done) => return Ok(true),
                Ok(Step::Starved) => {
                    if !self.next_record()? {
                        return Ok(false);
                    }
                }
                Err(error) => return Err(self.fail(error)),
            }
        }
    }

    /// One step of rustls on the records that are there.
    fn step(&mut self) -> Result<Step, rustls::Error> {
        let whole = &mut self.records[..self.open_at];
        let (discard, step) = self.buffers.with_scratch(|out| {
            let taken = match &mut self.machine {
                Machine::Awaiting { .. } => (0, Ok(Step::Starved)),
                Machine::Failed(_) => (0, Ok(Step::Starved)),
                Machine::Server { connection, .. } => {
                    handle(connection.process_tls_records(whole), out)
                }
                Machine::Client { connection, .. } => {
                    handle(connection.process_tls_records(whole), out)
                }
            };
            if !out.is_empty() {
                self.socket.send(self.buffers.write(|chunk| {
                    chunk.extend(out.len()).copy_from_slice(out);
                }));
            }
            taken
        });
        self.secrets.add(keylog::take());
        self.records.drain(..discard);
        self.open_at -= discard;
        let step = step?;
        let established = match &self.machine {
            Machine::Server { connection, .. } => !connection.is_handshaking(),
            Machine::Client { connection, .. } => !connection.is_handshaking(),
            Machine::Awaiting { .. } | Machine::Failed(_) => false,
        };
        match step {
            // A side may send before the other has proved itself; nobody here does.
            Step::Done if !established => Ok(Step::Starved),
            step => Ok(step),
        }
    }

    /// Brings the next whole record to rustls. False when it has not come yet.
    fn next_record(&mut self) -> Result<bool, HandshakeError> {
        if let Machine::Failed(error) = &self.machine {
            return Err(error.clone());
        }
        loop {
            let chunk = match self.rest.take() {
                Some(chunk) => chunk,
                None => match self.socket.receive() {
                    Received::Chunk(chunk) => chunk,
                    Received::None => return Ok(false),
                    Received::End => return Err(HandshakeError::Closed),
                    Received::Failed(code) => return Err(HandshakeError::Transport(code)),
                },
            };
            if self.take_record(chunk) {
                let begin = self.open_at;
                self.open_at = self.records.len();
                self.inspect(begin)?;
                return Ok(true);
            }
            if self.records.len() > RECORDS_BYTES_MAX {
                let too_long = rustls::InvalidMessage::HandshakePayloadTooLarge;
                return Err(HandshakeError::Protocol(too_long.into()));
            }
        }
    }

    /// Appends the record in front of `chunk`, or as much of it as there is, and keeps the rest.
    /// True when it is whole.
    fn take_record(&mut self, mut chunk: Chunk) -> bool {
        loop {
            let missing = self.missing();
            if missing == 0 {
                self.rest = (!chunk.is_empty()).then_some(chunk);
                return true;
            }
            if chunk.is_empty() {
                return false;
            }
            let count = missing.min(chunk.len());
            self.records.extend_from_slice(&chunk[..count]);
            chunk.advance(count);
        }
    }

    /// Bytes that the open record still needs, as far as its length is known.
    fn missing(&self) -> usize {
        let open = &self.records[self.open_at..];
        let wanted = match open.first_chunk() {
            None => HEADER_BYTES,
            // What begins no record is given to rustls as it is, which says what is wrong with it.
            Some(header) => record::body_len(header, RECORD_BODY_BYTES_MAX)
                .map_or(HEADER_BYTES, |len| HEADER_BYTES + len),
        };
        wanted - open.len()
    }

    /// Looks for the ClientHello, and chooses the answer to it.
    /// The record at `begin` is new.
    fn inspect(&mut self, begin: usize) -> Result<(), HandshakeError> {
        let Machine::Awaiting { context, inspector } = &mut self.machine else { return Ok(()) };
        let (config, info) = match inspector.push(&self.records[begin..]) {
            Inspected::NeedMore => return Ok(()),
            Inspected::Hello(hello) => {
                let answer = context.answer(&hello).inspect_err(|_| {
                    // internal_error, as for a certificate that can't be used.
                    send_last(&self.socket, plain_alert(&self.buffers, 80));
                })?;
                let info = ServerInfo {
                    context: Arc::clone(context),
                    identity: Some(answer.identity),
                    server_name: hello.server_name().map(|name| name.to_ascii_lowercase().into()),
                    staple: answer.staple,
                };
                (answer.config, info)
            }
            Inspected::NotTls | Inspected::Malformed(_) => {
                let info = ServerInfo {
                    context: Arc::clone(context),
                    identity: None,
                    server_name: None,
                    staple: StapleUse::default(),
                };
                (context.any_config(), info)
            }
        };
        let connection =
            UnbufferedServerConnection::new(config).map_err(HandshakeError::Internal)?;
        self.machine = Machine::Server { connection: Box::new(connection), info };
        Ok(())
    }

    /// Tells the peer about an error of rustls, and says whose fault it was.
    fn fail(&mut self, error: rustls::Error) -> HandshakeError {
        self.buffers.with_scratch(|out| {
            let whole = &mut self.records[..self.open_at];
            // An alert is one record; the state behind it is the error again.
            let _ = match &mut self.machine {
                Machine::Server { connection, .. } => {
                    handle(connection.process_tls_records(whole), out).0
                }
                Machine::Client { connection, .. } => {
                    handle(connection.process_tls_records(whole), out).0
                }
                Machine::Awaiting { .. } | Machine::Failed(_) => 0,
            };
            if !out.is_empty() {
                let alert = self.buffers.write(|chunk| {
                    chunk.extend(out.len()).copy_from_slice(out);
                });
                send_last(&self.socket, alert);
            }
        });
        classify(error)
    }

    /// Whether a client was told of `error` and may still be talking.
    fn should_linger(&self, error: &HandshakeError) -> bool {
        let is_server = matches!(self.machine, Machine::Awaiting { .. } | Machine::Server { .. });
        let is_over = matches!(
            error,
            HandshakeError::Closed | HandshakeError::Transport(_) | HandshakeError::Alert(_)
        );
        is_server && !is_over
    }

    /// Says nothing more.
    fn part(&mut self, error: HandshakeError) {
        self.socket.finish();
        self.rest = None;
        self.records = Vec::new();
        self.parting = Some(Parting { error, left: PARTING_BYTES_MAX });
    }

    /// Drops what the client still sends. Gives the error out when the client is done.
    fn linger(&mut self, mut parting: Parting) -> Option<HandshakeError> {
        loop {
            match self.socket.receive() {
                Received::Chunk(chunk) => match parting.left.checked_sub(chunk.len()) {
                    Some(left) => parting.left = left,
                    None => return Some(parting.error),
                },
                Received::None => {
                    self.parting = Some(parting);
                    return None;
                }
                Received::End | Received::Failed(_) => return Some(parting.error),
            }
        }
    }

    /// Turns the finished handshake into a connection.
    fn establish(self) -> Result<Established, HandshakeError> {
        // Nothing may be left of the records that rustls was given: what it has decrypted could
        // not be decrypted again.
        if self.open_at != 0 {
            return Err(HandshakeError::Protocol(rustls::Error::General(
                "messages behind the end of the handshake".to_owned(),
            )));
        }
        let (session, secrets, side, peer_secret, own_secret) = match self.machine {
            Machine::Server { connection, info } => {
                let facts = Facts::of(&connection)?;
                let (secrets, _connection): (_, KernelConnection<ServerConnectionData>) =
                    connection
                        .dangerous_into_kernel_connection()
                        .map_err(HandshakeError::Internal)?;
                let verified = info.context.is_verified(&facts.chain);
                let mut session = facts.session(verified, info.server_name, info.identity);
                session.staple = info.staple;
                (session, secrets, Side::Server, self.secrets.client, self.secrets.server)
            }
            Machine::Client { connection, info } => {
                let facts = Facts::of(&connection)?;
                let (secrets, connection): (_, KernelConnection<ClientConnectionData>) = connection
                    .dangerous_into_kernel_connection()
                    .map_err(HandshakeError::Internal)?;
                let verified = info.context.is_verified(&facts.chain, info.name.as_ref());
                let name = info.name.map(|name| name.to_str().into());
                let identity = info.context.identity().cloned();
                let session = facts.session(verified, name, identity);
                let tickets = match session.version {
                    TlsVersion::Tls13 => info.context.tickets_max(),
                    TlsVersion::Tls12 => 0,
                };
                let side = Side::client(connection, tickets);
                (session, secrets, side, self.secrets.server, self.secrets.client)
            }
            Machine::Awaiting { .. } | Machine::Failed(_) => {
                return Err(HandshakeError::Internal(rustls::Error::HandshakeNotComplete));
            }
        };
        let session = Rc::new(session);
        let halves = halves(&session, &secrets, side, peer_secret, own_secret);
        let (mut inbound, outbound) = halves
            .map_err(|error| HandshakeError::Internal(rustls::Error::General(error.to_string())))?;
        // The beginning of a record, and the chunk that goes on with it.
        if !self.records.is_empty() {
            let begun = self.buffers.write(|chunk| {
                chunk.extend(self.records.len()).copy_from_slice(&self.records);
            });
            inbound.push(begun, &self.buffers);
        }
        if let Some(rest) = self.rest {
            inbound.push(rest, &self.buffers);
        }
        let stream =
            TlsStream::new(self.socket, self.buffers, Rc::clone(&session), inbound, outbound);
        Ok(Established { transport: Transport::Tls(Box::new(stream)), session })
    }
}

/// What a connection that is not a shard's has agreed on.
///
/// # Errors
/// When its handshake is not done.
pub fn agreed(connection: &CommonState) -> Result<TlsSession, HandshakeError> {
    Ok(Facts::of(connection)?.session(true, None, None))
}

impl HandshakeError {
    /// Why the handshake of a connection that is not a shard's failed, which says it as an error of the
    /// connection.
    pub fn of(error: &io::Error) -> Self {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        match (cause, error.raw_os_error()) {
            (Some(cause), _) => classify(cause.clone()),
            (None, Some(code)) => HandshakeError::Transport(code),
            (None, None) => HandshakeError::Closed,
        }
    }
}

/// What is agreed, as rustls knows it.
struct Facts {
    version: TlsVersion,
    suite: rustls::CipherSuite,
    group: Option<rustls::NamedGroup>,
    alpn: Option<Box<[u8]>>,
    resumed: bool,
    chain: Vec<CertificateDer<'static>>,
}

impl Facts {
    fn of(connection: &CommonState) -> Result<Self, HandshakeError> {
        let unknown = || HandshakeError::Internal(rustls::Error::HandshakeNotComplete);
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => TlsVersion::Tls12,
            Some(ProtocolVersion::TLSv1_3) => TlsVersion::Tls13,
            _ => return Err(unknown()),
        };
        Ok(Self {
            version,
            suite: connection.negotiated_cipher_suite().ok_or_else(unknown)?.suite(),
            group: connection.negotiated_key_exchange_group().map(SupportedKxGroup::name),
            alpn: connection.alpn_protocol().map(Box::from),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            chain: connection.peer_certificates().unwrap_or_default().to_vec(),
        })
    }

    fn session(
        self,
        verified: bool,
        server_name: Option<Box<str>>,
        local: Option<Arc<Identity>>,
    ) -> TlsSession {
        TlsSession {
            version: self.version,
            cipher: self.suite,
            group: self.group,
            alpn: self.alpn,
            server_name,
            resumed: self.resumed,
            peer: PeerCertificate::new(&self.chain, verified),
            local,
            staple: StapleUse::default(),
        }
    }
}

fn halves(
    session: &TlsSession,
    secrets: &ExtractedSecrets,
    side: Side,
    peer_secret: Option<keylog::Secret>,
    own_secret: Option<keylog::Secret>,
) -> Result<(Inbound, Outbound), RecordError> {
    let tls13 = session.version == TlsVersion::Tls13;
    let secret = |secret: Option<keylog::Secret>| -> Result<_, RecordError> {
        if !tls13 {
            return Ok(None);
        }
        let secret = secret.ok_or(RecordError::Internal)?;
        TrafficSecret::new(session.cipher, secret.bytes()).map(Some)
    };
    let opener = Protection::new(tls13, secrets.rx.0, &secrets.rx.1)?;
    let sealer = Protection::new(tls13, secrets.tx.0, &secrets.tx.1)?;
    let inbound = Inbound::new(opener, secret(peer_secret)?, side);
    Ok((inbound, Outbound::new(sealer, secret(own_secret)?)))
}

/// Carries one step of rustls out: bytes that it wants to send are appended to `out`. Returns how
/// many bytes of the records it has finished with.
fn handle<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    out: &mut Vec<u8>,
) -> (usize, Result<Step, rustls::Error>) {
    let discard = status.discard;
    let step = status.state.and_then(|state| match state {
        ConnectionState::EncodeTlsData(mut data) => {
            let start = out.len();
            out.resize(start + ENCODED_BYTES_GUESS, 0);
            let mut encoded = data.encode(&mut out[start..]);
            if let Err(EncodeError::InsufficientSize(needed)) = &encoded {
                out.resize(start + needed.required_size, 0);
                encoded = data.encode(&mut out[start..]);
            }
            let len = encoded.map_err(|_| rustls::Error::EncryptError)?;
            out.truncate(start + len);
            Ok(Step::Again)
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(Step::Again)
        }
        ConnectionState::BlockedHandshake => Ok(Step::Starved),
        ConnectionState::WriteTraffic(_) => Ok(Step::Done),
        // close_notify instead of a handshake; and what can't come, as no data is given to rustls.
        _ => Err(rustls::Error::HandshakeNotComplete),
    });
    (discard, step)
}

/// An alert before there are keys.
fn plain_alert(buffers: &RecordBuffers, code: u8) -> Chunk {
    const FATAL: u8 = 2;
    buffers.write(|out| {
        let header = record::header(record::ContentType::Alert, 2);
        out.extend(HEADER_BYTES).copy_from_slice(&header);
        out.extend(2).copy_from_slice(&[FATAL, code]);
    })
}

fn classify(error: rustls::Error) -> HandshakeError {
    use rustls::Error;
    match error {
        Error::AlertReceived(alert) => HandshakeError::Alert(alert.into()),
        Error::NoCertificatesPresented => HandshakeError::Certificate(CertificateFault::Missing),
        Error::InvalidCertificate(error) => HandshakeError::Certificate(verify::fault(&error)),
        Error::HandshakeNotComplete => HandshakeError::Closed,
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => {
            HandshakeError::Incompatible(error)
        }
        Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::InvalidMessage(_)
        | Error::DecryptError
        | Error::PeerMisbehaved(_)
        | Error::PeerSentOversizedRecord => HandshakeError::Protocol(error),
        error => HandshakeError::Internal(error),
    }
}

/// As much as rustls takes for a handshake message.
const HELLO_BYTES_MAX: usize = 4 + 0xffff;

/// Records that wait for the end of a message: the longest message in records of a sensible size.
const RECORDS_BYTES_MAX: usize = 128 * 1024;

/// The longest body of a record in any version.
const RECORD_BODY_BYTES_MAX: usize = (1 << 14) + 2048;

/// What a client may have sent before it knows that it was refused.
const PARTING_BYTES_MAX: usize = 256 * 1024;

/// Fits nearly every flight.
const ENCODED_BYTES_GUESS: usize = 4096;

/// A name nobody has, for sessions with servers that were not asked for one.
const NO_NAME: &str = "nameless.invalid";
