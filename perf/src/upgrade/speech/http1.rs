//! HTTP/1.1 with pipelining. Requests say what they ask for in their path; those with a content say it
//! there too, and both must agree. All lengths are by Content-Length.

use std::collections::VecDeque;

use super::{Asked, Heard, Held, InOrder, carried, check_length};
use crate::upgrade::content::Ask;

/// Largest head taken.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const FIELDS_MAX: usize = 64;

#[derive(Debug, Default)]
pub(in crate::upgrade) struct Client {
    held: Held,
    waiting: VecDeque<u64>,
    /// The last answer said so.
    is_over: bool,
}

impl Client {
    pub(super) fn request(&mut self, ask: Ask, bytes: usize, out: &mut Vec<u8>) {
        let head = ask.head();
        if bytes == 0 {
            out.extend_from_slice(
                format!("GET /{head} HTTP/1.1\r\nhost: upgrade\r\n\r\n").as_bytes(),
            );
        } else {
            let content = ask.content(bytes);
            let length = content.len();
            out.extend_from_slice(
                format!(
                    "POST /{head} HTTP/1.1\r\nhost: upgrade\r\ncontent-length: {length}\r\n\r\n"
                )
                .as_bytes(),
            );
            out.extend_from_slice(&content);
        }
        self.waiting.push_back(ask.id);
    }

    pub(super) fn feed(&mut self, input: &[u8], heard: &mut Vec<Heard>) -> Result<(), String> {
        self.held.push(input);
        while let Some(rest) = self.held.rest() {
            if self.is_over {
                // A server that goes on all the same says nothing that counts (RFC 9112 9.6).
                return Ok(());
            }
            let Some(message) = Message::of_response(rest)? else { break };
            let Some(content) = rest.get(message.head_bytes..message.bytes) else {
                self.held.want(message.bytes);
                break;
            };
            let content = match message.status {
                200 => carried(content),
                status => Err(format!("status {status}")),
            };
            heard.push(Heard::Answer { to: self.waiting.pop_front(), content });
            self.held.take(message.bytes);
            if message.is_last {
                self.is_over = true;
                heard.push(Heard::AskedToGo);
                heard.extend(self.waiting.drain(..).map(Heard::Refused));
            }
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
pub(in crate::upgrade) struct Server {
    held: Held,
    order: InOrder,
}

impl Server {
    pub(super) fn feed(&mut self, input: &[u8], asked: &mut Vec<Asked>) -> Result<(), String> {
        self.held.push(input);
        while let Some(rest) = self.held.rest() {
            let Some(message) = Message::of_request(rest)? else { break };
            let Some(content) = rest.get(message.head_bytes..message.bytes) else {
                self.held.want(message.bytes);
                break;
            };
            let is_whole = content.is_empty() || Ask::read(content) == message.ask;
            let ask = message.ask.filter(|_| is_whole);
            asked.push(Asked { ticket: self.order.ticket(), ask });
            self.held.take(message.bytes);
        }
        Ok(())
    }

    pub(super) fn answer(&mut self, ticket: u64, ask: Ask, out: &mut Vec<u8>) {
        self.order.ready(ticket, ask);
        while let Some(ask) = self.order.next() {
            let content = ask.content(ask.reply_bytes as usize);
            let length = content.len();
            out.extend_from_slice(
                format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").as_bytes(),
            );
            out.extend_from_slice(&content);
        }
    }
}

/// A message by its head.
struct Message {
    head_bytes: usize,
    /// All of it.
    bytes: usize,
    /// Of a response.
    status: u16,
    /// Of a request.
    ask: Option<Ask>,
    /// No other follows.
    is_last: bool,
}

impl Message {
    fn of_response(bytes: &[u8]) -> Result<Option<Self>, String> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut response = httparse::Response::new(&mut fields);
        let parsed = response.parse(bytes).map_err(|error| error.to_string())?;
        let httparse::Status::Complete(head_bytes) = parsed else { return partial(bytes) };
        let status = response.code.unwrap_or(0);
        let version = response.version;
        let message = Self::new(head_bytes, response.headers, version)?;
        Ok(Some(Self { status, ..message }))
    }

    fn of_request(bytes: &[u8]) -> Result<Option<Self>, String> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        let parsed = request.parse(bytes).map_err(|error| error.to_string())?;
        let httparse::Status::Complete(head_bytes) = parsed else { return partial(bytes) };
        let path = request.path.unwrap_or("").trim_start_matches('/');
        let ask = Ask::parse(path.as_bytes());
        let version = request.version;
        let message = Self::new(head_bytes, request.headers, version)?;
        Ok(Some(Self { ask, ..message }))
    }

    fn new(
        head_bytes: usize,
        fields: &[httparse::Header<'_>],
        version: Option<u8>,
    ) -> Result<Self, String> {
        let value = |name: &str| {
            let field = fields.iter().find(|field| field.name.eq_ignore_ascii_case(name));
            field.map(|field| String::from_utf8_lossy(field.value).trim().to_ascii_lowercase())
        };
        if value("transfer-encoding").is_some() {
            return Err("a transfer coding".to_owned());
        }
        let length = match value("content-length") {
            None => 0,
            Some(length) => length.parse().map_err(|_| "content-length".to_owned())?,
        };
        let connection = value("connection");
        let is_last = match connection.as_deref() {
            Some("close") => true,
            Some("keep-alive") => false,
            _ => version != Some(1),
        };
        let bytes = head_bytes + check_length(length)?;
        Ok(Self { head_bytes, bytes, status: 0, ask: None, is_last })
    }
}

fn partial<T>(bytes: &[u8]) -> Result<Option<T>, String> {
    if bytes.len() > HEAD_BYTES_MAX { Err("a head without an end".to_owned()) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_the_last_answer_is_refused() {
        let mut client = Client::default();
        let mut out = Vec::new();
        for id in [1, 2, 3] {
            client.request(Ask { id, delay_ms: 0, reply_bytes: 32 }, 0, &mut out);
        }
        let content = Ask { id: 1, delay_ms: 0, reply_bytes: 32 }.content(32);
        let head = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 32\r\n\r\n";
        let mut heard = Vec::new();
        client.feed(&[&head[..], &content].concat(), &mut heard).unwrap();
        let expected = [
            Heard::Answer { to: Some(1), content: Ok(1) },
            Heard::AskedToGo,
            Heard::Refused(2),
            Heard::Refused(3),
        ];
        assert_eq!(heard, expected);
    }

    #[test]
    fn errors_are_answers_too() {
        let mut client = Client::default();
        client.request(Ask { id: 1, delay_ms: 0, reply_bytes: 32 }, 0, &mut Vec::new());
        let mut heard = Vec::new();
        let response = b"HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno";
        client.feed(response, &mut heard).unwrap();
        let content = Err("status 503".to_owned());
        assert_eq!(heard, [Heard::Answer { to: Some(1), content }]);
    }
}
