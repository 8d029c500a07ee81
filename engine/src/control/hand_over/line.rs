//! The channel to the other process, awaited.

use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use outrigger_upgrade::message::Message;
use outrigger_upgrade::{Channel, ChannelError, Incoming};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

/// One end of the channel.
pub(super) struct Line {
    channel: AsyncFd<Channel>,
    /// Something waits for room.
    is_behind: bool,
}

/// What happened.
pub(super) enum Happening {
    /// A message came, with descriptors.
    Message(Message, Vec<OwnedFd>),
    /// What came was no message, or not the next one.
    Violation(String),
    /// The other process is gone.
    End,
    /// Nothing, for too long.
    Silence,
}

impl Line {
    pub(super) fn new(channel: Channel) -> io::Result<Self> {
        // SAFETY: a channel owns its descriptor, and always shows the same.
        let channel = unsafe { AsyncFd::register(channel) };
        let channel = channel.map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Self { channel, is_behind: false })
    }

    /// The channel, for another runtime to await.
    pub(super) fn into_channel(self) -> Channel {
        self.channel.into_inner()
    }

    /// Sends as soon as there is room.
    pub(super) fn send(&mut self, message: Message, descriptors: Vec<OwnedFd>) {
        if let Err(error) = self.channel.get_mut().send(message, descriptors) {
            // Only records of connections can be as long, and they are measured before.
            log::error!(target: "upgrade", "{error}");
        }
        self.flush();
    }

    /// What happens next, and [`Happening::Silence`] after `patience`.
    pub(super) async fn next(&mut self, patience: Option<Duration>) -> Happening {
        let silence = async {
            match patience {
                Some(patience) => sleep(patience).await,
                None => pending().await,
            }
        };
        tokio::select! {
            happening = self.read() => happening,
            () = silence => Happening::Silence,
        }
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
            self.flush();
        }
    }

    /// A reader that is gone is noticed by reading.
    fn flush(&mut self) {
        self.is_behind = self.channel.get_mut().flush().is_ok_and(|is_done| !is_done);
    }
}
