//! Both ends of HTTP/2 by an implementation that is not ours (the h2 crate), with the same requests,
//! responses and logs as HTTP/1.1 has here.
//!
//! The client's calls block, each for [`PATIENCE`] at most. An origin's scripts are asynchronous, one
//! for each request, since several share a connection; a connection has a thread of its own.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::TcpStream;
use std::sync::{Arc, LazyLock, Mutex};
use std::task::Poll;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{self, Runtime};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::PATIENCE;
use crate::frames::code;
use crate::http::{Fault, Headers, Request, Response};
use crate::net::{Address, Stream};
use crate::origin::{Notes, Origin, Peer};

/// What one end of a connection tells the other in its SETTINGS, and does beside that.
#[derive(Clone, Debug)]
pub struct Http2 {
    /// Bytes of a stream that may be under way to here.
    pub window: u32,
    /// Bytes of all streams that may be under way to here.
    pub connection_window: u32,
    /// Streams at once that the other side may open.
    pub max_concurrent_streams: Option<u32>,
    /// Whether a server accepts extended CONNECT (RFC 8441).
    pub connect_protocol: bool,
    /// TLS of a server.
    pub tls: Option<Arc<ServerConfig>>,
}

impl Default for Http2 {
    fn default() -> Http2 {
        Http2 {
            window: 65_535,
            connection_window: 1 << 20,
            max_concurrent_streams: None,
            connect_protocol: false,
            tls: None,
        }
    }
}

/// A connection to the proxy.
pub struct Http2Client {
    send: SendRequest<Bytes>,
    ended: Arc<Mutex<Option<Result<(), Fault>>>>,
}

impl Http2Client {
    /// Connects with prior knowledge.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    #[track_caller]
    pub fn connect(address: &Address) -> Http2Client {
        Http2Client::connect_as(address, &Http2::default())
    }

    /// The same, with other settings.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    #[track_caller]
    pub fn connect_as(address: &Address, settings: &Http2) -> Http2Client {
        let stream = tcp(address);
        block_on(async { Http2Client::handshake(into_tokio(stream)?, settings).await }).unwrap()
    }

    /// Connects with TLS, where `config` must offer `h2`.
    ///
    /// # Panics
    /// If that fails, or the proxy does not choose `h2`.
    #[must_use]
    #[track_caller]
    pub fn secure(address: &Address, config: &Arc<ClientConfig>, server_name: &str) -> Http2Client {
        let stream = tcp(address);
        let name = rustls::pki_types::ServerName::try_from(server_name.to_owned()).unwrap();
        let connected = block_on(async {
            let connector = TlsConnector::from(Arc::clone(config));
            let secure = connector.connect(name, into_tokio(stream)?).await?;
            assert_eq!(secure.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            Http2Client::handshake(secure, &Http2::default()).await
        });
        connected.unwrap()
    }

    async fn handshake<T>(stream: T, settings: &Http2) -> Result<Http2Client, Fault>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(settings.window)
            .initial_connection_window_size(settings.connection_window)
            .max_header_list_size(1 << 20)
            .enable_push(false);
        let (send, connection) = builder.handshake(stream).await?;
        let ended = Arc::new(Mutex::new(None));
        let end = Arc::clone(&ended);
        tokio::spawn(async move {
            let result = connection.await.map_err(Fault::from);
            *end.lock().unwrap() = Some(result);
        });
        Ok(Http2Client { send, ended })
    }

    /// GET and nothing else, and its response.
    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.ask("GET", path, &[], b"")
    }

    /// POST with a body, and its response.
    #[track_caller]
    pub fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Response {
        self.ask("POST", path, &[], body.as_ref())
    }

    /// A request, and its response.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, fields: &[(&str, &str)], body: &[u8]) -> Response {
        let mut call = self.open(method, path, fields, body.is_empty());
        if !body.is_empty() {
            call.send_whole(body);
        }
        match call.response() {
            Ok(response) => response,
            Err(fault) => panic!("no response to {method} {path}: {fault:?}"),
        }
    }

    /// Sends a request up to its body; `end` if there is none. The authority is `test`, unless there
    /// is a field of that name, with the colon. `:protocol` makes an extended CONNECT.
    ///
    /// # Panics
    /// If the connection takes no more streams.
    #[must_use]
    #[track_caller]
    pub fn open(&self, method: &str, path: &str, fields: &[(&str, &str)], end: bool) -> Call {
        self.try_open(method, path, fields, end).unwrap()
    }

    /// The same, or why not.
    ///
    /// # Errors
    /// Why the connection takes no more streams.
    ///
    /// # Panics
    /// If that is no request.
    pub fn try_open(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        end: bool,
    ) -> Result<Call, Fault> {
        let pseudo =
            |name| fields.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        let authority = pseudo(":authority").unwrap_or("test");
        let scheme = pseudo(":scheme").unwrap_or("http");
        let uri = match (method, pseudo(":protocol")) {
            ("CONNECT", None) => authority.parse().unwrap(),
            _ => http::Uri::builder()
                .scheme(scheme)
                .authority(authority)
                .path_and_query(path)
                .build()
                .unwrap(),
        };
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in fields.iter().filter(|(name, _)| !name.starts_with(':')) {
            request = request.header(*name, *value);
        }
        if let Some(protocol) = pseudo(":protocol") {
            request = request.extension(h2::ext::Protocol::from(protocol));
        }
        let request = request.version(http::Version::HTTP_2).body(()).unwrap();
        block_on(async {
            let mut send = self.send.clone().ready().await?;
            let (future, body) = send.send_request(request, end)?;
            Ok(Call { future, body, receive: None })
        })
    }

    /// Whether the proxy takes extended CONNECT. True only after its SETTINGS have been seen.
    #[must_use]
    pub fn takes_extended_connect(&self) -> bool {
        self.send.is_extended_connect_protocol_enabled()
    }

    /// How many streams at once the proxy takes, as far as is known.
    #[must_use]
    pub fn max_concurrent_streams(&self) -> usize {
        self.send.current_max_send_streams()
    }

    /// Waits until the connection has ended, and says how.
    ///
    /// # Errors
    /// [`Fault::GoAway`] with a code other than `NO_ERROR`, or how else it broke.
    #[track_caller]
    pub fn ended(&self) -> Result<(), Fault> {
        crate::eventually("the connection ends", || self.ended.lock().unwrap().clone())
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.lock().unwrap().is_some()
    }
}

impl fmt::Debug for Http2Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2Client").field("ended", &self.ended).finish_non_exhaustive()
    }
}

/// A request that was sent, in part at least.
pub struct Call {
    future: ResponseFuture,
    body: SendStream<Bytes>,
    receive: Option<RecvStream>,
}

impl Call {
    /// Sends bytes of the body. Returns when all of them are on the way, as flow control allows.
    ///
    /// # Panics
    /// If they are not taken.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        if let Err(fault) = self.try_send(bytes) {
            panic!("cannot send: {fault:?}");
        }
    }

    /// The same, or why not.
    ///
    /// # Errors
    /// [`Fault::Stream`] if the stream is reset, [`Fault::Silent`] if the windows do not open.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Fault> {
        block_on(send_all(&mut self.body, bytes.as_ref(), false))
    }

    /// How many bytes the windows allow right now, if so many were to be sent. Does not wait.
    pub fn allowance(&mut self, wanted: usize) -> usize {
        self.body.reserve_capacity(wanted);
        let body = &mut self.body;
        // One look at what has been assigned by now.
        block_on(poll_fn(|context| {
            let _ = body.poll_capacity(context);
            Poll::Ready(Ok(body.capacity()))
        }))
        .unwrap()
    }

    /// Sends the whole body, whose last frame ends the request, as far as the proxy takes it: it may
    /// have answered before that.
    pub fn send_whole(&mut self, bytes: impl AsRef<[u8]>) {
        let _answered = block_on(send_all(&mut self.body, bytes.as_ref(), true));
    }

    /// Ends the request.
    ///
    /// # Panics
    /// If it has ended.
    #[track_caller]
    pub fn finish(&mut self) {
        self.body.send_data(Bytes::new(), true).unwrap();
    }

    /// Ends the request with trailers.
    ///
    /// # Panics
    /// If it has ended.
    #[track_caller]
    pub fn finish_with(&mut self, trailers: &[(&str, &str)]) {
        self.body.send_trailers(header_map(trailers)).unwrap();
    }

    /// Resets the stream.
    pub fn reset(&mut self, code: u32) {
        self.body.send_reset(Reason::from(code));
    }

    /// Waits until the other side resets the stream, and says with which code.
    ///
    /// # Errors
    /// How else it ended.
    pub fn reset_by_peer(&mut self) -> Result<u32, Fault> {
        let body = &mut self.body;
        block_on(async {
            let reason = poll_fn(|context| body.poll_reset(context)).await?;
            Ok(u32::from(reason))
        })
    }

    /// The next interim response, if one comes before the final one.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn interim(&mut self) -> Result<Option<Response>, Fault> {
        let future = &mut self.future;
        block_on(async {
            match poll_fn(|context| future.poll_informational(context)).await {
                Some(response) => Ok(Some(head(&response?))),
                None => Ok(None),
            }
        })
    }

    /// The response up to its body.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn head(&mut self) -> Result<Response, Fault> {
        let future = &mut self.future;
        let response = block_on(async { Ok(future.await?) })?;
        let head = head(&response);
        self.receive = Some(response.into_body());
        Ok(head)
    }

    /// What comes next of the body, at least one byte; nothing at the end. Only what was taken here
    /// is given back to the windows.
    ///
    /// # Errors
    /// See [`Fault`].
    ///
    /// # Panics
    /// Before [`head`](Call::head).
    pub fn chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        let receive = self.receive.as_mut().unwrap();
        block_on(chunk(receive))
    }

    /// Reads that many bytes of the body.
    ///
    /// # Errors
    /// [`Fault::Truncated`] if it ends before.
    pub fn exactly(&mut self, count: usize) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            bytes.extend_from_slice(&self.chunk()?.ok_or(Fault::Truncated)?);
        }
        assert_eq!(bytes.len(), count, "more than was asked for");
        Ok(bytes)
    }

    /// The rest of the body, and the trailers.
    ///
    /// # Errors
    /// See [`Fault`].
    ///
    /// # Panics
    /// Before [`head`](Call::head).
    pub fn rest(&mut self) -> Result<(Vec<u8>, Headers), Fault> {
        let receive = self.receive.as_mut().unwrap();
        block_on(rest(receive))
    }

    /// The whole response.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn response(&mut self) -> Result<Response, Fault> {
        let mut response = self.head()?;
        (response.body, response.trailers) = self.rest()?;
        Ok(response)
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("stream", &self.body.stream_id()).finish_non_exhaustive()
    }
}

impl Origin {
    /// An origin that speaks HTTP/2 and runs `script` for each request.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn http2<Script, Done>(settings: Http2, script: Script) -> Origin
    where
        Script: Fn(Exchange) -> Done + Send + Sync + 'static,
        Done: Future<Output = Result<(), Fault>> + Send + 'static,
    {
        Origin::start(move |peer| serve(peer, &settings, &script))
    }

    /// Answers each request over HTTP/2 with 200 and `ok`.
    #[must_use]
    pub fn http2_ok() -> Origin {
        Origin::http2(Http2::default(), |mut exchange| async move {
            exchange.request().await?;
            exchange.answer(200, &[], b"ok").await
        })
    }

    /// Answers each request over HTTP/2 with 200 and what came with it, trailers included, as it
    /// comes.
    #[must_use]
    pub fn http2_echo() -> Origin {
        Origin::http2(Http2::default(), Exchange::echo)
    }
}

/// Serves one connection until it ends.
fn serve<Script, Done>(peer: &mut Peer, settings: &Http2, script: &Script) -> Result<(), Fault>
where
    Script: Fn(Exchange) -> Done,
    Done: Future<Output = Result<(), Fault>> + Send + 'static,
{
    let notes = peer.notes();
    let Stream::Tcp(stream) = peer.wire().stream().try_clone()? else {
        return Err(Fault::Malformed("HTTP/2 over no TCP".to_owned()));
    };
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stream = into_tokio(stream)?;
        match &settings.tls {
            Some(config) => {
                let secure = TlsAcceptor::from(Arc::clone(config)).accept(stream).await?;
                serve_on(secure, settings, script, &notes).await
            }
            None => serve_on(stream, settings, script, &notes).await,
        }
    })
}

async fn serve_on<T, Script, Done>(
    stream: T,
    settings: &Http2,
    script: &Script,
    notes: &Notes,
) -> Result<(), Fault>
where
    T: AsyncRead + AsyncWrite + Unpin,
    Script: Fn(Exchange) -> Done,
    Done: Future<Output = Result<(), Fault>> + Send + 'static,
{
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(settings.window)
        .initial_connection_window_size(settings.connection_window)
        .max_header_list_size(1 << 20);
    if let Some(streams) = settings.max_concurrent_streams {
        builder.max_concurrent_streams(streams);
    }
    if settings.connect_protocol {
        builder.enable_connect_protocol();
    }
    let mut connection = builder.handshake::<T, Bytes>(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        let (parts, receive) = request.into_parts();
        let exchange = Exchange {
            head: request_of(&parts),
            receive,
            respond,
            send: None,
            notes: notes.clone(),
        };
        // However it ends: tests judge by what the client saw and by the log.
        tokio::spawn(script(exchange));
    }
    Ok(())
}

/// One request at an origin, and its response.
pub struct Exchange {
    head: Request,
    receive: RecvStream,
    respond: SendResponse<Bytes>,
    send: Option<SendStream<Bytes>>,
    notes: Notes,
}

impl Exchange {
    /// The request without its body, which is then noted in the log.
    pub fn request_head(&mut self) -> Request {
        self.notes.note(&self.head);
        self.head.clone()
    }

    /// The request with its body and trailers, which is then noted in the log.
    ///
    /// # Errors
    /// If it does not arrive whole.
    pub async fn request(&mut self) -> Result<Request, Fault> {
        let mut request = self.head.clone();
        (request.body, request.trailers) = rest(&mut self.receive).await?;
        self.notes.note(&request);
        Ok(request)
    }

    /// What comes next of the body; nothing at its end.
    ///
    /// # Errors
    /// See [`Fault`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        chunk(&mut self.receive).await
    }

    /// The rest of the body, and the trailers.
    ///
    /// # Errors
    /// See [`Fault`].
    pub async fn rest(&mut self) -> Result<(Vec<u8>, Headers), Fault> {
        rest(&mut self.receive).await
    }

    /// Sends an interim response.
    ///
    /// # Errors
    /// If the stream has ended.
    pub fn interim(&mut self, status: u16, fields: &[(&str, &str)]) -> Result<(), Fault> {
        Ok(self.respond.send_informational(response_of(status, fields))?)
    }

    /// Sends the response up to its body.
    ///
    /// # Errors
    /// If the stream has ended.
    pub fn head(&mut self, status: u16, fields: &[(&str, &str)], end: bool) -> Result<(), Fault> {
        self.send = Some(self.respond.send_response(response_of(status, fields), end)?);
        Ok(())
    }

    /// Sends bytes of the body. Returns when all of them are on the way, as flow control allows.
    ///
    /// # Errors
    /// If the stream has ended.
    ///
    /// # Panics
    /// Before [`head`](Exchange::head).
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        send_all(self.send.as_mut().unwrap(), bytes, false).await
    }

    /// Ends the response.
    ///
    /// # Errors
    /// If the stream has ended.
    ///
    /// # Panics
    /// Before [`head`](Exchange::head).
    pub fn finish(&mut self) -> Result<(), Fault> {
        Ok(self.send.as_mut().unwrap().send_data(Bytes::new(), true)?)
    }

    /// Ends the response with trailers.
    ///
    /// # Errors
    /// If the stream has ended.
    ///
    /// # Panics
    /// Before [`head`](Exchange::head).
    pub fn finish_with(&mut self, trailers: &[(&str, &str)]) -> Result<(), Fault> {
        Ok(self.send.as_mut().unwrap().send_trailers(header_map(trailers))?)
    }

    /// The whole response.
    ///
    /// # Errors
    /// If the stream has ended.
    pub async fn answer(
        &mut self,
        status: u16,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Result<(), Fault> {
        self.head(status, fields, body.is_empty())?;
        if !body.is_empty() {
            self.send(body).await?;
            self.finish()?;
        }
        Ok(())
    }

    /// Resets the stream.
    pub fn reset(&mut self, code: u32) {
        match &mut self.send {
            Some(send) => send.send_reset(Reason::from(code)),
            None => self.respond.send_reset(Reason::from(code)),
        }
    }

    /// Waits until the proxy resets the stream, and says with which code.
    ///
    /// # Errors
    /// How else it ended.
    pub async fn reset_by_peer(&mut self) -> Result<u32, Fault> {
        let reason = match &mut self.send {
            Some(send) => poll_fn(|context| send.poll_reset(context)).await?,
            None => poll_fn(|context| self.respond.poll_reset(context)).await?,
        };
        Ok(u32::from(reason))
    }

    /// Answers with 200 and what comes, as it comes, trailers included.
    ///
    /// # Errors
    /// If the stream ends before its time.
    pub async fn echo(mut self) -> Result<(), Fault> {
        self.request_head();
        self.head(200, &[], false)?;
        while let Some(bytes) = self.chunk().await? {
            self.send(&bytes).await?;
        }
        let (_, trailers) = self.rest().await?;
        let trailers: Vec<(&str, &str)> = trailers.iter().collect();
        if trailers.is_empty() { self.finish() } else { self.finish_with(&trailers) }
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("head", &self.head).finish_non_exhaustive()
    }
}

/// Sends bytes as flow control allows; `end` ends the stream with the last of them, or, where there are
/// none, with an empty frame.
async fn send_all(send: &mut SendStream<Bytes>, bytes: &[u8], end: bool) -> Result<(), Fault> {
    let mut rest = Bytes::copy_from_slice(bytes);
    if rest.is_empty() && end {
        send.send_data(Bytes::new(), true)?;
    }
    while !rest.is_empty() {
        send.reserve_capacity(rest.len());
        let allowed = match send.capacity() {
            // Only a change is told.
            0 => {
                let allowed = poll_fn(|context| send.poll_capacity(context)).await;
                allowed.ok_or(Fault::Stream(code::CANCEL))??
            }
            allowed => allowed,
        };
        let part = rest.split_to(allowed.min(rest.len()));
        send.send_data(part, end && rest.is_empty())?;
    }
    Ok(())
}

async fn chunk(receive: &mut RecvStream) -> Result<Option<Bytes>, Fault> {
    loop {
        let Some(bytes) = receive.data().await else { return Ok(None) };
        let bytes = bytes?;
        receive.flow_control().release_capacity(bytes.len())?;
        if !bytes.is_empty() {
            return Ok(Some(bytes));
        }
    }
}

async fn rest(receive: &mut RecvStream) -> Result<(Vec<u8>, Headers), Fault> {
    let mut body = Vec::new();
    while let Some(bytes) = chunk(receive).await? {
        body.extend_from_slice(&bytes);
    }
    let trailers = receive.trailers().await?;
    Ok((body, trailers.as_ref().map(headers).unwrap_or_default()))
}

fn request_of(parts: &http::request::Parts) -> Request {
    let mut fields: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut pseudo = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            fields.push((name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        }
    };
    pseudo(":method", Some(parts.method.as_str()));
    pseudo(":scheme", parts.uri.scheme_str());
    pseudo(":authority", parts.uri.authority().map(http::uri::Authority::as_str));
    pseudo(":path", parts.uri.path_and_query().map(http::uri::PathAndQuery::as_str));
    let protocol = parts.extensions.get::<h2::ext::Protocol>();
    pseudo(":protocol", protocol.map(h2::ext::Protocol::as_str));
    fields.extend(pairs(&parts.headers));
    crate::frames::request(&Headers::from_bytes(fields))
}

fn head<T>(response: &http::Response<T>) -> Response {
    Response {
        version: "HTTP/2".to_owned(),
        status: response.status().as_u16(),
        reason: String::new(),
        headers: headers(response.headers()),
        body: Vec::new(),
        trailers: Headers::default(),
    }
}

fn headers(map: &HeaderMap) -> Headers {
    Headers::from_bytes(pairs(map).collect())
}

fn pairs(map: &HeaderMap) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    map.iter().map(|(name, value)| (name.as_str().as_bytes().to_vec(), value.as_bytes().to_vec()))
}

fn header_map(fields: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        let name: http::HeaderName = name.parse().unwrap();
        map.append(name, value.parse().unwrap());
    }
    map
}

fn response_of(status: u16, fields: &[(&str, &str)]) -> http::Response<()> {
    let mut response = http::Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
    *response.headers_mut() = header_map(fields);
    response
}

impl From<h2::Error> for Fault {
    fn from(error: h2::Error) -> Fault {
        match error.reason().map(u32::from) {
            Some(code) if error.is_go_away() => Fault::GoAway(code),
            Some(code) => Fault::Stream(code),
            None if error.is_io() => match error.into_io() {
                Some(error) => Fault::from(error),
                None => Fault::Closed,
            },
            None => Fault::Malformed(error.to_string()),
        }
    }
}

#[track_caller]
fn tcp(address: &Address) -> TcpStream {
    match address.connect(PATIENCE) {
        Ok(Stream::Tcp(stream)) => stream,
        other => panic!("cannot connect to {address}: {other:?}"),
    }
}

fn into_tokio(stream: TcpStream) -> io::Result<tokio::net::TcpStream> {
    stream.set_nonblocking(true)?;
    tokio::net::TcpStream::from_std(stream)
}

/// Runs one step of a client to its end, on the runtime that all clients share.
fn block_on<T>(step: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    });
    RUNTIME.block_on(async { timeout(PATIENCE, step).await.unwrap_or(Err(Fault::Silent)) })
}
