//! A blocking client of one connection: for first requests and for connections that then idle.

use std::{
    io::{self, Read},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use crate::{
    channel::Channel,
    protocol::{AnySession, Ended, Protocol, Session},
    sys,
    variant::{Negotiated, Request, Sides, Traffic},
};

/// One connection.
#[derive(Debug)]
pub struct Client {
    channel: Channel,
    session: AnySession,
    received: Vec<u8>,
    plain: Vec<u8>,
    ended: Vec<Ended>,
}

/// Bytes taken by one read.
const READ_BYTES: usize = 16 * 1024;
/// Longest wait of a [`probe`].
const PATIENCE: Duration = Duration::from_secs(1);

/// Sends one request and says what it found in use.
///
/// # Errors
///
/// Whatever keeps it from a good answer in the right versions.
pub fn probe(target: SocketAddr, sides: Sides) -> io::Result<Negotiated> {
    let request = Request { body_bytes: 1, post_bytes: None, streams: 1 };
    let traffic = sides.traffic(&target.to_string(), request).map_err(io::Error::other)?;
    let mut client = Client::connect(target, None, &traffic, PATIENCE)?;
    client.open()?;
    client.send()?;
    client.finish()?;
    Ok(sides.negotiated(client.tls()))
}

impl Client {
    /// Connects to `target`, from `source` if given. Nothing waits longer than `patience`.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn connect(
        target: SocketAddr,
        source: Option<IpAddr>,
        traffic: &Traffic,
        patience: Duration,
    ) -> io::Result<Self> {
        let socket = sys::client_socket(target, source)?;
        socket.set_read_timeout(Some(patience))?;
        socket.set_write_timeout(Some(patience))?;
        socket.connect_timeout(&target.into(), patience)?;
        let mut channel = Channel::new(socket.into(), traffic.tls.as_ref())?;
        let mut session = traffic.protocol.session();
        session.open(&mut channel.out);
        let (received, plain, ended) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { channel, session, received, plain, ended })
    }

    /// Completes what comes before a first request: the TLS handshake and the exchange of settings.
    ///
    /// # Errors
    ///
    /// What the kernel says, or that the peer's answer is wrong.
    pub fn open(&mut self) -> io::Result<()> {
        self.channel.flush()?;
        while !(self.channel.is_open() && self.session.is_open()) {
            self.receive()?;
            self.channel.flush()?;
        }
        Ok(())
    }

    /// Sends a request.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn send(&mut self) -> io::Result<()> {
        self.session.request(0, &mut self.channel.out);
        self.channel.flush()
    }

    /// Waits for its answer.
    ///
    /// # Errors
    ///
    /// What the kernel says, or that the answer is wrong.
    pub fn finish(&mut self) -> io::Result<()> {
        loop {
            match self.ended.pop().map(|ended| ended.outcome) {
                Some(Ok(_)) => return Ok(()),
                Some(Err(fault)) => {
                    return Err(io::Error::other(format!("answer: {}", fault.name())));
                }
                None => {
                    self.receive()?;
                    self.channel.flush()?;
                }
            }
        }
    }

    /// What was agreed on by TLS.
    #[must_use]
    pub fn tls(&self) -> Option<String> {
        self.channel.description()
    }

    /// The socket alone, to keep an idle connection open.
    #[must_use]
    pub fn into_socket(self) -> TcpStream {
        self.channel.into_socket()
    }

    fn receive(&mut self) -> io::Result<()> {
        self.received.resize(READ_BYTES, 0);
        let count = self.channel.socket().read(&mut self.received)?;
        let progress = if count == 0 {
            let finished = self.session.finish(&mut self.ended);
            if finished.is_ok() && self.ended.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            finished
        } else {
            let Self { channel, session, received, plain, ended } = self;
            channel
                .open(&received[..count], plain)
                .and_then(|input| session.feed(input, &mut channel.out, ended))
        };
        progress.map_err(|fault| io::Error::other(format!("connection: {}", fault.name())))
    }
}
