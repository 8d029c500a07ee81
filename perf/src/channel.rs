//! A client's connection to the target: bytes to and from a socket, through TLS or not.
//!
//! What is to be sent is appended to [`Channel::out`] and leaves with [`Channel::flush`], as far as
//! the socket takes it; what was read from the socket is passed through [`Channel::open`]. The TLS
//! handshake has no state of its own here: bytes appended before its end leave with its last flight.

use std::{
    io::{self, ErrorKind, Write},
    net::TcpStream,
};

use rustls::ClientConnection;

use crate::{
    protocol::Fault,
    tls::{self, TlsClient},
};

/// One connection.
#[derive(Debug)]
pub struct Channel {
    socket: TcpStream,
    tls: Option<Box<Tls>>,
    /// What is to be sent, before encryption.
    pub out: Vec<u8>,
    /// Bytes of `out` that have left; without TLS only.
    sent: usize,
}

#[derive(Debug)]
struct Tls {
    client: TlsClient,
    session: ClientConnection,
}

impl Channel {
    /// Puts a connection on a socket, which may still be connecting.
    ///
    /// # Errors
    ///
    /// When TLS can't be begun.
    pub fn new(socket: TcpStream, client: Option<&TlsClient>) -> io::Result<Self> {
        let tls = match client {
            None => None,
            Some(client) => {
                let session = client.connect().map_err(io::Error::other)?;
                Some(Box::new(Tls { client: client.clone(), session }))
            }
        };
        Ok(Self { socket, tls, out: Vec::new(), sent: 0 })
    }

    /// The socket, for reading.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// The socket alone.
    #[must_use]
    pub fn into_socket(self) -> TcpStream {
        self.socket
    }

    /// Whether bytes arrive as they were sent.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    /// Whether the handshake is over, which it always is without TLS.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| !tls.session.is_handshaking())
    }

    /// What the handshake agreed on.
    #[must_use]
    pub fn description(&self) -> Option<String> {
        self.tls.as_ref().map(|tls| tls::describe(&tls.session))
    }

    /// Whether something waits for the socket.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.out.len() > self.sent || self.tls.as_ref().is_some_and(|tls| tls.session.wants_write())
    }

    /// Sends what the socket takes.
    ///
    /// # Errors
    ///
    /// What the socket says, except that it is full.
    pub fn flush(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            if !self.out.is_empty() {
                tls.session.writer().write_all(&self.out)?;
                self.out.clear();
            }
            return tls::send(&mut tls.session, &mut self.socket);
        }
        if write_from(&mut self.socket, &self.out, &mut self.sent)? {
            self.out.clear();
            self.sent = 0;
        }
        Ok(())
    }

    /// Turns bytes from the socket into those that the peer sent: themselves without TLS, else what
    /// they decrypt to, in `plain`. May leave something to be flushed.
    ///
    /// # Errors
    ///
    /// [`Fault::Tls`].
    pub fn open<'a>(
        &mut self,
        received: &'a [u8],
        plain: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], Fault> {
        let Some(tls) = &mut self.tls else { return Ok(received) };
        let handshaking = tls.session.is_handshaking();
        tls::receive(&mut tls.session, received, plain).map_err(|_| Fault::Tls)?;
        let finished = handshaking && !tls.session.is_handshaking();
        if finished && !tls.client.accepts(&tls.session) { Err(Fault::Tls) } else { Ok(plain) }
    }
}

/// Writes what the socket takes of `bytes`, of which `sent` were written before. True when that was the rest.
///
/// # Errors
///
/// What the socket says, except that it is full.
pub(crate) fn write_from(
    socket: &mut impl Write,
    bytes: &[u8],
    sent: &mut usize,
) -> io::Result<bool> {
    while *sent < bytes.len() {
        match socket.write(&bytes[*sent..]) {
            Ok(count) => *sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}
