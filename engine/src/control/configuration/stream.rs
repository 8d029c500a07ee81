//! One stream to a management server: a task that connects, writes what it is given, and hands on what
//! comes, a message at a time.
//!
//! Invariant: no more than one message that was not yet looked at is in memory. The next is read when
//! the client says so, and HTTP/2's flow control holds the server back until then.

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use outrigger_xds::snapshot::GrpcService;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{MetadataKey, MetadataValue};
use tonic::{Request, Status};

use super::dial::Dial;
use super::meter::{Answering, Call};
use super::{Event, Events};

/// What happens on a stream.
pub enum StreamEvent {
    /// There is a connection: what is sent now is on its way.
    Connected,
    /// A message, and the way to ask for the next.
    Message(Bytes, oneshot::Sender<()>),
    /// It is over, or was never there.
    Ended(StreamEnd),
}

/// Why a stream is over.
#[derive(Debug, Error)]
pub enum StreamEnd {
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// In time.
    #[error("no stream in time")]
    Timeout,
    /// The server ended it in good order (F-05).
    #[error("closed by the server")]
    Closed,
    /// In bad order.
    #[error("{}: {}", .0.code(), .0.message())]
    Failed(#[from] Status),
    /// What came can't be gone on with.
    #[error("{0}")]
    Protocol(String),
}

/// A stream, which ends when this is dropped.
pub(super) struct Stream {
    /// Counts streams, so that a late event of an earlier one is told from one of this.
    pub(super) number: u64,
    requests: mpsc::Sender<Bytes>,
    task: AbortHandle,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stream {
    /// Starts to open a stream.
    pub(super) fn open(
        number: u64,
        dial: Dial,
        service: &GrpcService,
        method: &'static str,
        events: Events,
    ) -> Stream {
        let (requests, outgoing) = mpsc::channel(REQUESTS_WAITING);
        let service = service.clone();
        let task = tokio::spawn(async move {
            let end = match run(&dial, &service, method, outgoing, number, &events).await {
                Ok(()) => StreamEnd::Closed,
                Err(end) => end,
            };
            // At the end of the process nobody wants to know.
            let _ended = events.send(Event::Stream(number, StreamEvent::Ended(end)));
        });
        Stream { number, requests, task: task.abort_handle() }
    }

    /// Whether another request can be given now.
    pub(super) fn has_room(&self) -> bool {
        self.requests.capacity() > 0
    }

    /// Gives a request to be sent. One that finds no room, or no stream, is of no use to the next.
    pub(super) fn send(&self, request: Bytes) {
        let _lost = self.requests.try_send(request);
    }
}

async fn run(
    dial: &Dial,
    service: &GrpcService,
    method: &'static str,
    outgoing: mpsc::Receiver<Bytes>,
    number: u64,
    events: &Events,
) -> Result<(), StreamEnd> {
    let connect = |error: tonic::transport::Error| StreamEnd::Connect(causes(&error));
    let waiting = dial.counters.call();
    let channel = dial.channel().await.map_err(connect)?;
    let channel = Answering { channel, counters: dial.counters.clone() };
    let mut request = Request::new(ReceiverStream::new(outgoing));
    for (name, value) in &service.initial_metadata {
        if let (Ok(name), Ok(value)) =
            (MetadataKey::from_bytes(name.as_bytes()), MetadataValue::try_from(&**value))
        {
            request.metadata_mut().insert(name, value);
        }
    }
    let authority = http::Uri::builder()
        .scheme("http")
        .authority(&*service.authority)
        .path_and_query("/")
        .build()
        .map_err(|error| StreamEnd::Protocol(format!("authority: {error}")))?;
    let mut grpc = Grpc::with_origin(channel, authority)
        .max_decoding_message_size(service.message_bytes_max as usize);
    grpc.ready().await.map_err(connect)?;
    if events.send(Event::Stream(number, StreamEvent::Connected)).is_err() {
        return Ok(());
    }
    let call = waiting.begin();
    let opening = grpc.streaming(request, PathAndQuery::from_static(method), Raw);
    let opened = match service.timeout {
        Some(limit) => timeout(limit, opening).await.map_err(|_| {
            call.timed_out();
            StreamEnd::Timeout
        })?,
        None => opening.await,
    };
    let mut messages = match opened {
        Ok(response) => response.into_inner(),
        Err(status) => return Err(ended(call, status)),
    };
    loop {
        match messages.message().await {
            Ok(Some(message)) => {
                let (next, may_read) = oneshot::channel();
                let event = StreamEvent::Message(message, next);
                if events.send(Event::Stream(number, event)).is_err() || may_read.await.is_err() {
                    return Ok(());
                }
            }
            Ok(None) => {
                call.ended(false);
                return Ok(());
            }
            Err(status) => return Err(ended(call, status)),
        }
    }
}

/// The call was ended with this status: by the server's word, or for want of it.
fn ended(call: Call, status: Status) -> StreamEnd {
    // What the server says has no cause here.
    call.ended(std::error::Error::source(&status).is_some());
    StreamEnd::Failed(status)
}

/// An error with what caused it, which says more.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Messages as bytes: the client reads them itself.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Requests that may wait for the server to read; the client holds further ones back.
const REQUESTS_WAITING: usize = 16;
