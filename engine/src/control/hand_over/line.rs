//! The channel to the other process, awaited.

use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use outrigger_upgrade::message::Message;
use outrigger_upgrade::{Channel, ChannelError, Incoming};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

/// One end of the channel.
pub(super) struct Line {
    channel: AsyncFd<Channel>,
    /// Something waits for room.
    is_behind: bool,
    /// When something last came, or the silence was last noticed.
    heard_at: Instant,
    said_at: Instant,
}

/// What happened.
pub(super) enum Happening {
    /// A message came, with descriptors.
    Message(Message, Vec<OwnedFd>),
    /// What came was no message, or not the next one.
    Violation(String),
    /// The other process is gone.
    End,
    /// Something that had to wait was sent.
    Sent,
    /// Nothing, for too long.
    Silence,
}

impl Line {
    pub(super) fn new(channel: Channel) -> io::Result<Self> {
        // SAFETY: a channel owns its descriptor, and always shows the same.
        let channel = unsafe { AsyncFd::register(channel) };
        let channel = channel.map_err(|error| io::Error::other(error.to_string()))?;
        let now = Instant::now();
        Ok(Self { channel, is_behind: false, heard_at: now, said_at: now })
    }

    /// The channel, for another runtime to await.
    pub(super) fn into_channel(self) -> Channel {
        self.channel.into_inner()
    }

    /// Sends as soon as there is room. Returns the message's number.
    pub(super) fn send(&mut self, message: Message, descriptors: Vec<OwnedFd>) -> Option<u64> {
        let sent = self.channel.get_mut().send(message, descriptors);
        // Whatever may be as long goes along in a file.
        let number = sent.inspect_err(|error| log::error!(target: "upgrade", "{error}")).ok();
        self.said_at = Instant::now();
        self.flush();
        number
    }

    /// True when the message of this number was sent.
    pub(super) fn has_left(&self, number: u64) -> bool {
        self.channel.get_ref().has_left(number)
    }

    /// Forgets what was not sent yet.
    pub(super) fn take_back(&mut self) {
        self.channel.get_mut().take_back();
    }

    /// What happens next, and [`Happening::Silence`] when it is `patience` that nothing came.
    pub(super) async fn next(&mut self, patience: Option<Duration>) -> Happening {
        let until = patience.map(|patience| self.heard_at + patience);
        self.next_until(until).await
    }

    /// When something last was sent.
    pub(super) fn said_at(&self) -> Instant {
        self.said_at
    }

    /// When something last came.
    pub(super) fn heard_at(&self) -> Instant {
        self.heard_at
    }

    /// What happens next, and [`Happening::Silence`] at the instant `until`.
    pub(super) async fn next_until(&mut self, until: Option<Instant>) -> Happening {
        let silence = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => pending().await,
            }
        };
        let happening = tokio::select! {
            happening = self.read() => happening,
            () = silence => Happening::Silence,
        };
        if !matches!(happening, Happening::Sent) {
            self.heard_at = Instant::now();
        }
        happening
    }

    /// Sends what waits, however long that takes: an end without the last word means death.
    pub(super) async fn finish(mut self) {
        while self.is_behind {
            let Ok(mut ready) = self.channel.writable_mut().await else { return };
            ready.clear_ready();
            self.flush();
        }
    }

    async fn read(&mut self) -> Happening {
        loop {
            match self.channel.get_mut().receive() {
                Ok(Incoming::Message(message, descriptors)) => {
                    return Happening::Message(message, descriptors);
                }
                Ok(Incoming::End) => return Happening::End,
                Ok(Incoming::Nothing) => {}
                Err(ChannelError::Io(error)) => {
                    log::warn!(target: "upgrade", "the socket to the other process: {error}");
                    return Happening::End;
                }
                Err(error) => return Happening::Violation(error.to_string()),
            }
            let interest = if self.is_behind {
                Interest::READABLE | Interest::WRITABLE
            } else {
                Interest::READABLE
            };
            match self.channel.ready_mut(interest).await {
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => return Happening::End,
            }
            if self.is_behind {
                self.flush();
                return Happening::Sent;
            }
        }
    }

    /// A reader that is gone is noticed by reading.
    fn flush(&mut self) {
        self.is_behind = self.channel.get_mut().flush().is_ok_and(|is_done| !is_done);
    }
}
