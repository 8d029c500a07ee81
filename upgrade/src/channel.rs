//! The channel between two processes: messages with their descriptors, in order, over one socket
//! (`SOCK_SEQPACKET`, unix(7)), which keeps packets whole.
//!
//! It never blocks: what the other side has no room for waits here. Invariant: descriptors leave with the
//! packet that they belong to, and what was received is numbered one by one.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::descriptors::{self, ReceiveError};
use crate::message::{DecodeError, Message, PACKET_MAX, TooLong};

/// One end of the channel.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    /// What could not be sent yet, in order.
    waiting: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    sent: u64,
    received: u64,
    buffer: Box<[u8]>,
}

/// What came.
#[derive(Debug)]
pub enum Incoming {
    /// A message, and the descriptors that came with it.
    Message(Message, Vec<OwnedFd>),
    /// Nothing yet.
    Nothing,
    /// The other process closed its end.
    End,
}

/// Why no message was received. All but [`ChannelError::Io`] are the other process's fault.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// What came was no message.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// What came with it.
    #[error(transparent)]
    Receive(ReceiveError),
    /// One is missing, or came twice.
    #[error("message {came} came where {expected} was due")]
    Number {
        /// The number that it has.
        came: u64,
        /// The number that was due.
        expected: u64,
    },
    /// The socket.
    #[error("the control socket failed: {0}")]
    Io(io::Error),
}

impl Channel {
    /// Over a connected socket.
    ///
    /// # Errors
    /// When it can't be made non-blocking.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        socket2::SockRef::from(&socket).set_nonblocking(true)?;
        Ok(Self {
            socket,
            waiting: VecDeque::new(),
            sent: 0,
            received: 0,
            buffer: vec![0; PACKET_MAX].into(),
        })
    }

    /// Sends a message with descriptors, now or as soon as there is room. Returns its number, by which
    /// [`Channel::has_left`] tells whether it was sent.
    ///
    /// # Errors
    /// When the message is too long, of which nothing is sent.
    pub fn send(&mut self, message: Message, descriptors: Vec<OwnedFd>) -> Result<u64, TooLong> {
        let number = self.sent;
        let packet = message.into_packet(number)?;
        self.sent += 1;
        self.waiting.push_back((packet, descriptors));
        Ok(number)
    }

    /// True when the message of this number is with the kernel, or the other side.
    #[must_use]
    pub fn has_left(&self, number: u64) -> bool {
        number + (self.waiting.len() as u64) < self.sent
    }

    /// Forgets what was not sent yet; what is sent next has the number that the other side expects.
    pub fn take_back(&mut self) {
        self.sent -= self.waiting.len() as u64;
        self.waiting.clear();
    }

    /// Sends what waits, as far as there is room. True when nothing waits any more.
    ///
    /// # Errors
    /// When the other process is gone.
    pub fn flush(&mut self) -> io::Result<bool> {
        while let Some((packet, descriptors)) = self.waiting.front() {
            let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            match descriptors::send(&self.socket, packet, &borrowed) {
                Ok(_) => drop(self.waiting.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// The next message.
    ///
    /// # Errors
    /// See [`ChannelError`].
    pub fn receive(&mut self) -> Result<Incoming, ChannelError> {
        let received = loop {
            match descriptors::receive(&self.socket, &mut self.buffer) {
                Ok(received) => break received,
                Err(ReceiveError::Io(error)) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => return Ok(Incoming::Nothing),
                    // It died with something of ours unread.
                    io::ErrorKind::ConnectionReset => return Ok(Incoming::End),
                    _ => return Err(ChannelError::Io(error)),
                },
                Err(error) => return Err(ChannelError::Receive(error)),
            }
        };
        if received.len == 0 {
            return Ok(Incoming::End);
        }
        let (came, message) = Message::from_packet(&self.buffer[..received.len])?;
        let expected = self.received;
        if came != expected {
            return Err(ChannelError::Number { came, expected });
        }
        self.received += 1;
        Ok(Incoming::Message(message, received.descriptors))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use socket2::{Domain, Socket, Type};

    use super::*;
    use crate::message::{ListenerRecord, Listeners, Relay};

    fn pair() -> (Channel, Channel) {
        let (one, other) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        (Channel::new(one.into()).unwrap(), Channel::new(other.into()).unwrap())
    }

    #[test]
    fn messages_come_in_order_with_their_own_descriptors() {
        let (mut here, mut there) = pair();
        let file = || OwnedFd::from(File::open("/dev/null").unwrap());
        let records = vec![ListenerRecord::default(); 2];
        here.send(Message::ListenersTaken(1), Vec::new()).unwrap();
        here.send(Message::Listeners(Listeners { records }), vec![file(), file()]).unwrap();
        here.send(Message::ListenersTaken(2), Vec::new()).unwrap();
        assert!(here.flush().unwrap());
        drop(here);
        for descriptors in [0, 2, 0] {
            let Incoming::Message(_, received) = there.receive().unwrap() else { panic!() };
            assert_eq!(received.len(), descriptors);
        }
        assert!(matches!(there.receive().unwrap(), Incoming::End));
    }

    #[test]
    fn what_finds_no_room_waits_and_comes_later() {
        let (mut here, mut there) = pair();
        let relay =
            |connection| Message::Relay(Relay { connection, bytes: vec![7; 60_000], spilled: 0 });
        for connection in 0..100 {
            assert_eq!(here.send(relay(connection), Vec::new()).unwrap(), connection);
        }
        assert!(!here.flush().unwrap());
        assert!(here.has_left(0) && !here.has_left(99));
        let mut next = 0;
        while next < 100 {
            match there.receive().unwrap() {
                Incoming::Message(message, _) => assert_eq!(message, relay(next)),
                Incoming::Nothing => {
                    here.flush().unwrap();
                    continue;
                }
                Incoming::End => panic!("the other end is here"),
            }
            next += 1;
        }
        assert!(matches!(there.receive().unwrap(), Incoming::Nothing));
        assert!(here.has_left(99));
    }

    #[test]
    fn what_was_not_sent_can_be_taken_back() {
        let (mut here, mut there) = pair();
        let long = Message::Relay(Relay { connection: 1, bytes: vec![7; 60_000], spilled: 0 });
        let mut last = 0;
        while here.flush().unwrap() {
            last = here.send(long.clone(), Vec::new()).unwrap();
        }
        here.take_back();
        assert_eq!(here.send(Message::RelayEnd(1), Vec::new()).unwrap(), last);
        for _ in 0..last {
            assert!(matches!(there.receive().unwrap(), Incoming::Message(Message::Relay(_), _)));
        }
        here.flush().unwrap();
        assert!(matches!(there.receive().unwrap(), Incoming::Message(Message::RelayEnd(1), _)));
    }

    #[test]
    fn a_message_out_of_turn_is_noticed() {
        let (mut here, mut there) = pair();
        let packet = Message::ListenersTaken(1).into_packet(1).unwrap();
        here.waiting.push_back((packet, Vec::new()));
        here.flush().unwrap();
        let error = there.receive().unwrap_err();
        assert!(matches!(error, ChannelError::Number { came: 1, expected: 0 }), "{error}");
    }

    #[test]
    fn a_dead_reader_is_told_from_one_that_has_no_time() {
        let (mut here, there) = pair();
        drop(there);
        here.send(Message::ListenersTaken(1), Vec::new()).unwrap();
        assert_eq!(here.flush().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
