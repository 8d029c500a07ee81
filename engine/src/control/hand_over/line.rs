//! The channel to the other process, awaited.
//!
//! Invariant: the other process is silent only for as long as this one listens. Who stood still (a stopped
//! process, a machine that was paused) finds what came meanwhile, and waits anew where both stood still.

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
    silence: Silence,
    said_at: Instant,
}

/// How long nothing came while this process listened.
struct Silence {
    /// Since when, had it always listened.
    since: Instant,
    /// When it last did.
    listened_at: Instant,
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
        Ok(Self { channel, is_behind: false, silence: Silence::new(now), said_at: now })
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
        let Some(patience) = patience else { return self.next_until(None).await };
        loop {
            let now = Instant::now();
            let until = self.silence.listen(now) + patience;
            let happening = self.next_until(Some(until.min(now + GLANCE))).await;
            if until <= now || !matches!(happening, Happening::Silence) {
                return happening;
            }
        }
    }

    /// When something last was sent.
    pub(super) fn said_at(&self) -> Instant {
        self.said_at
    }

    /// What happens next, and [`Happening::Silence`] at the instant `until`.
    pub(super) async fn next_until(&mut self, until: Option<Instant>) -> Happening {
        let silence = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => pending().await,
            }
        };
        tokio::select! {
            // What has come counts, however late it is read.
            biased;
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
            if let Some(happening) = self.receive() {
                return happening;
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

    /// What has come already.
    fn receive(&mut self) -> Option<Happening> {
        let happening = match self.channel.get_mut().receive() {
            Ok(Incoming::Message(message, descriptors)) => Happening::Message(message, descriptors),
            Ok(Incoming::End) => Happening::End,
            Ok(Incoming::Nothing) => return None,
            Err(ChannelError::Io(error)) => {
                log::warn!(target: "upgrade", "the socket to the other process: {error}");
                Happening::End
            }
            Err(error) => Happening::Violation(error.to_string()),
        };
        self.silence = Silence::new(Instant::now());
        Some(happening)
    }

    /// A reader that is gone is noticed by reading.
    fn flush(&mut self) {
        self.is_behind = self.channel.get_mut().flush().is_ok_and(|is_done| !is_done);
    }
}

impl Silence {
    fn new(now: Instant) -> Self {
        Self { since: now, listened_at: now }
    }

    /// Since when there is silence, for one that listens now.
    fn listen(&mut self, now: Instant) -> Instant {
        let absent = now - std::mem::replace(&mut self.listened_at, now);
        if absent >= ABSENCE_MIN {
            self.since = now.min(self.since + absent);
        }
        self.since
    }
}

/// How often a process that waits for words sees that it listens.
const GLANCE: Duration = Duration::from_millis(250);

/// Who has not listened for so long stood still: more than two glances take on a busy machine.
const ABSENCE_MIN: Duration = Duration::from_millis(600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_lasts_for_as_long_as_it_is_listened_to() {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let mut silence = Silence::new(begun);
        for millis in [0, 250, 250, 800] {
            assert_eq!(silence.listen(at(millis)), at(0));
        }
        // Nobody listened for three seconds.
        assert_eq!(silence.listen(at(3_800)), at(3_000));
        assert_eq!(silence.listen(at(4_050)), at(3_000));
        // One who does not wait for words does not listen, and that is not more than there was.
        let mut silence = Silence { since: at(5_000), listened_at: at(0) };
        assert_eq!(silence.listen(at(6_000)), at(6_000));
    }
}
