//! A client that sends what it is told, byte by byte, and reads strictly.

use std::io::{self, Write};
use std::net::Shutdown;
use std::sync::Arc;

use rustls::ClientConfig;

use crate::PATIENCE;
use crate::http::{Fault, Response, Wire};
use crate::net::{Address, Stream};
use crate::tls;

/// A connection to the proxy.
#[derive(Debug)]
pub struct Client {
    wire: Wire,
}

impl Client {
    /// Connects.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    #[track_caller]
    pub fn connect(address: &Address) -> Client {
        match Client::try_connect(address) {
            Ok(client) => client,
            Err(error) => panic!("cannot connect to {address}: {error}"),
        }
    }

    /// Connects, or says why not.
    ///
    /// # Errors
    /// What `connect(2)` says.
    pub fn try_connect(address: &Address) -> io::Result<Client> {
        Ok(Client::over(address.connect(PATIENCE)?))
    }

    /// Connects with TLS, asking for that server name.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    #[track_caller]
    pub fn secure(address: &Address, config: &Arc<ClientConfig>, server_name: &str) -> Client {
        match Client::try_secure(address, config, server_name) {
            Ok(client) => client,
            Err(error) => panic!("no TLS with {address}: {error}"),
        }
    }

    /// Connects with TLS, or says why not. A server may find fault with a client after this has
    /// returned (TLS 1.3): then the first read says so.
    ///
    /// # Errors
    /// What `connect(2)` says, or what is wrong with the handshake.
    pub fn try_secure(
        address: &Address,
        config: &Arc<ClientConfig>,
        server_name: &str,
    ) -> io::Result<Client> {
        Client::over_tls(&address.connect(PATIENCE)?, config, server_name)
    }

    /// On a connection that there is.
    #[must_use]
    pub fn over(stream: Stream) -> Client {
        Client { wire: Wire::new(stream) }
    }

    /// With TLS on a connection that there is.
    ///
    /// # Errors
    /// What is wrong with the handshake.
    pub fn over_tls(
        stream: &Stream,
        config: &Arc<ClientConfig>,
        server_name: &str,
    ) -> io::Result<Client> {
        let connection = tls::client_connection(config, server_name);
        Ok(Client::over(stream.secure(connection.into())?))
    }

    /// Sends bytes.
    ///
    /// # Panics
    /// If the proxy does not take them.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Client {
        if let Err(error) = self.try_send(bytes) {
            panic!("cannot send: {error}");
        }
        self
    }

    /// Sends bytes, or says why not.
    ///
    /// # Errors
    /// What `send(2)` says.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.stream().write_all(bytes.as_ref())
    }

    /// Sends bytes one at a time, each in a segment of its own.
    #[track_caller]
    pub fn send_bytewise(&mut self, bytes: impl AsRef<[u8]>) -> &mut Client {
        for byte in bytes.as_ref() {
            self.send([*byte]);
        }
        self
    }

    /// GET with a Host and nothing else, and its response.
    #[track_caller]
    pub fn get(&mut self, target: &str) -> Response {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")).response()
    }

    /// POST with Content-Length, and its response.
    #[track_caller]
    pub fn post(&mut self, target: &str, body: impl AsRef<[u8]>) -> Response {
        let body = body.as_ref();
        let length = body.len();
        self.send(format!(
            "POST {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n"
        ));
        self.send(body).response()
    }

    /// The next response, to anything but HEAD and CONNECT.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.response_to("GET")
    }

    /// The next response, to a request of that method.
    ///
    /// # Panics
    /// If there is none that is well-formed.
    #[track_caller]
    pub fn response_to(&mut self, method: &str) -> Response {
        match self.wire.response(method) {
            Ok(response) => response,
            Err(fault) => panic!("no response to {method}: {fault:?}"),
        }
    }

    /// The next response, to anything but HEAD and CONNECT, or why there is none.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn try_response(&mut self) -> Result<Response, Fault> {
        self.wire.response("GET")
    }

    /// The next response's head.
    #[track_caller]
    pub fn response_head(&mut self) -> Response {
        match self.wire.response_head() {
            Ok(response) => response,
            Err(fault) => panic!("no response head: {fault:?}"),
        }
    }

    /// Asserts that the proxy closes in good order and sends nothing more.
    #[track_caller]
    pub fn expect_close(&mut self) {
        match self.wire.until_close() {
            Ok(rest) => assert!(rest.is_empty(), "before the close: {}", rest.escape_ascii()),
            Err(fault) => panic!("no close: {fault:?}"),
        }
    }

    /// Closes the sending side only.
    #[track_caller]
    pub fn finish(&mut self) -> &mut Client {
        self.wire.stream().close_notify().unwrap();
        self.wire.stream().shutdown(Shutdown::Write).unwrap();
        self
    }

    /// Resets the connection.
    #[track_caller]
    pub fn reset(mut self) {
        self.wire.stream().reset_on_close().unwrap();
    }

    /// The reading side.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// The reading side, and nothing else.
    #[must_use]
    pub fn into_wire(self) -> Wire {
        self.wire
    }

    /// The connection.
    pub fn stream(&mut self) -> &mut Stream {
        self.wire.stream()
    }
}
