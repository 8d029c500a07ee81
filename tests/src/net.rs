//! Addresses and byte streams of both kinds, TCP and Unix, and TLS on top.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use rustls::{CipherSuite, CommonState, Connection, HandshakeKind, ProtocolVersion};
use serde_json::{Value, json};
use socket2::{Domain, SockRef, Socket, Type};

/// Where something listens.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Address {
    /// TCP over IP.
    Tcp(SocketAddr),
    /// A socket file.
    Unix(PathBuf),
}

impl Address {
    /// TCP on the loopback interface, with a port that the kernel chooses on binding.
    #[must_use]
    pub fn any() -> Address {
        Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Of loopback TCP.
    #[must_use]
    pub fn port(port: u16) -> Address {
        Address::Tcp(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    /// As an `envoy.config.core.v3.Address`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Address::Tcp(address) => json!({"socket_address": {
                "address": address.ip().to_string(),
                "port_value": address.port(),
            }}),
            Address::Unix(path) => json!({"pipe": {"path": path}}),
        }
    }

    /// From an `envoy.config.core.v3.Address`.
    #[must_use]
    pub fn from_json(json: &Value) -> Option<Address> {
        if let Some(path) = json["pipe"]["path"].as_str() {
            return Some(Address::Unix(path.into()));
        }
        let socket = &json["socket_address"];
        let ip = socket["address"].as_str()?.parse().ok()?;
        let port = socket["port_value"].as_u64()?;
        Some(Address::Tcp(SocketAddr::new(ip, u16::try_from(port).ok()?)))
    }

    /// The IP address and port.
    ///
    /// # Panics
    /// For a Unix socket.
    #[must_use]
    pub fn tcp(&self) -> SocketAddr {
        match self {
            Address::Tcp(address) => *address,
            Address::Unix(path) => panic!("{} is no TCP address", path.display()),
        }
    }

    /// Connects, with `timeout` for that and for every later read and write.
    ///
    /// # Errors
    /// What `connect(2)` says.
    pub fn connect(&self, timeout: Duration) -> io::Result<Stream> {
        let stream = match self {
            Address::Tcp(address) => Stream::Tcp(TcpStream::connect_timeout(address, timeout)?),
            Address::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
        };
        stream.prepare(timeout)?;
        Ok(stream)
    }
}

impl Address {
    /// The same, from that local address, TCP only.
    ///
    /// # Errors
    /// What `bind(2)` and `connect(2)` say.
    pub fn connect_from(&self, from: SocketAddr, timeout: Duration) -> io::Result<Stream> {
        let socket = Socket::new(Domain::for_address(from), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
        socket.connect_timeout(&self.tcp().into(), timeout)?;
        let stream = Stream::Tcp(socket.into());
        stream.prepare(timeout)?;
        Ok(stream)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A listening socket of either kind.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// Unix, with its path.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Binds and listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn bind(address: &Address) -> io::Result<Listener> {
        Ok(match address {
            Address::Tcp(address) => Listener::Tcp(TcpListener::bind(address)?),
            Address::Unix(path) => Listener::Unix(UnixListener::bind(path)?, path.clone()),
        })
    }

    /// With the port that the kernel chose.
    ///
    /// # Errors
    /// What `getsockname(2)` says.
    pub fn address(&self) -> io::Result<Address> {
        Ok(match self {
            Listener::Tcp(listener) => Address::Tcp(listener.local_addr()?),
            Listener::Unix(_, path) => Address::Unix(path.clone()),
        })
    }

    /// Waits for a connection, whose reads and writes then have `timeout`.
    ///
    /// # Errors
    /// What `accept(2)` says.
    pub fn accept(&self, timeout: Duration) -> io::Result<Stream> {
        let stream = match self {
            Listener::Tcp(listener) => Stream::Tcp(listener.accept()?.0),
            Listener::Unix(listener, _) => Stream::Unix(listener.accept()?.0),
        };
        stream.prepare(timeout)?;
        Ok(stream)
    }

    /// Ends the wait for a connection, and every later one.
    pub fn stop(&self) {
        let socket = match self {
            Listener::Tcp(listener) => SockRef::from(listener),
            Listener::Unix(listener, _) => SockRef::from(listener),
        };
        // Nothing is to be done about a socket that is gone.
        let _ = socket.shutdown(Shutdown::Both);
    }
}

/// A connection of any kind.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
    /// TLS over TCP.
    Tls(Box<Secure>),
}

/// A TLS connection and what it runs over.
#[derive(Debug)]
pub struct Secure {
    connection: Connection,
    socket: TcpStream,
}

/// What a TLS handshake has agreed on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Agreed {
    /// 1.2 or 1.3.
    pub version: ProtocolVersion,
    /// The suite.
    pub suite: CipherSuite,
    /// The protocol by ALPN.
    pub alpn: Option<String>,
    /// Whether a session was resumed.
    pub resumed: bool,
    /// The other side's certificate, DER.
    pub certificate: Option<Vec<u8>>,
    /// The server name that a client asked for, on the server's side.
    pub server_name: Option<String>,
}

impl Stream {
    fn prepare(&self, timeout: Duration) -> io::Result<()> {
        if let Stream::Tcp(stream) = self {
            // Pieces leave as they are written.
            stream.set_nodelay(true)?;
        }
        self.set_timeout(timeout)
    }

    /// Bounds every later read and write.
    ///
    /// # Errors
    /// What `setsockopt(2)` says.
    pub fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        let socket = self.socket();
        socket.set_read_timeout(Some(timeout))?;
        socket.set_write_timeout(Some(timeout))
    }

    /// A second handle of the same connection; of TLS, of the TCP connection below it.
    ///
    /// # Errors
    /// What `dup(2)` says.
    pub fn try_clone(&self) -> io::Result<Stream> {
        Ok(match self {
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone()?),
            Stream::Unix(stream) => Stream::Unix(stream.try_clone()?),
            Stream::Tls(stream) => Stream::Tcp(stream.socket.try_clone()?),
        })
    }

    /// TLS over a second handle of this connection, which must be TCP. The handshake is over when
    /// this returns.
    ///
    /// # Errors
    /// What the other side or rustls does not like, as [`io::ErrorKind::InvalidData`] with the
    /// [`rustls::Error`] in it, or what the system says.
    ///
    /// # Panics
    /// If this is no TCP connection.
    pub fn secure(&self, connection: Connection) -> io::Result<Stream> {
        let Stream::Tcp(stream) = self else { panic!("TLS over {self:?}") };
        let mut secure = Secure { connection, socket: stream.try_clone()? };
        while secure.connection.is_handshaking() {
            secure.connection.complete_io(&mut secure.socket)?;
        }
        // The last message of the handshake, and tickets.
        secure.flush()?;
        Ok(Stream::Tls(Box::new(secure)))
    }

    /// What the TLS handshake has agreed on.
    ///
    /// # Panics
    /// If this is not TLS.
    #[must_use]
    pub fn agreed(&self) -> Agreed {
        let Stream::Tls(stream) = self else { panic!("no TLS: {self:?}") };
        let server_name = match &stream.connection {
            Connection::Server(server) => server.server_name().map(str::to_owned),
            Connection::Client(_) => None,
        };
        let state: &CommonState = &stream.connection;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Agreed {
            version: state.protocol_version().unwrap(),
            suite: state.negotiated_cipher_suite().unwrap().suite(),
            alpn: state.alpn_protocol().map(text),
            resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
            certificate: state.peer_certificates().map(|chain| chain[0].to_vec()),
            server_name,
        }
    }

    /// Says that nothing more will be sent, in TLS only (close_notify).
    ///
    /// # Errors
    /// What `send(2)` says.
    pub fn close_notify(&mut self) -> io::Result<()> {
        if let Stream::Tls(stream) = self {
            stream.connection.send_close_notify();
            stream.flush()?;
        }
        Ok(())
    }

    /// Shuts a direction down, or both, without a word of TLS.
    ///
    /// # Errors
    /// What `shutdown(2)` says.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.shutdown(how),
            Stream::Unix(stream) => stream.shutdown(how),
            Stream::Tls(stream) => stream.socket.shutdown(how),
        }
    }

    /// Makes the close of the last handle a reset (RST), whatever is unread or unsent.
    ///
    /// # Errors
    /// What `setsockopt(2)` says.
    pub fn reset_on_close(&self) -> io::Result<()> {
        self.socket().set_linger(Some(Duration::ZERO))
    }

    /// The socket, for its options.
    #[must_use]
    pub fn socket(&self) -> SockRef<'_> {
        match self {
            Stream::Tcp(stream) => SockRef::from(stream),
            Stream::Unix(stream) => SockRef::from(stream),
            Stream::Tls(stream) => SockRef::from(&stream.socket),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buf),
            Stream::Unix(stream) => stream.read(buf),
            Stream::Tls(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(buf),
            Stream::Unix(stream) => stream.write(buf),
            Stream::Tls(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Secure {
    fn flush(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.socket)?;
        }
        Ok(())
    }

    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            if self.connection.read_tls(&mut self.socket)? == 0 {
                // The reader tells a close from a cut.
                return self.connection.reader().read(buf);
            }
            let processed = self.connection.process_new_packets();
            // An alert, or the answer to a key update.
            let flushed = self.flush();
            processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            flushed?;
        }
    }

    /// Takes all of it, or what was taken but not sent would wait for the next write.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        for piece in buf.chunks(RECORDS_BYTES) {
            self.connection.writer().write_all(piece)?;
            self.flush()?;
        }
        Ok(buf.len())
    }
}

/// What is encrypted at once: below the library's own limit of what may wait.
const RECORDS_BYTES: usize = 32 * 1024;
