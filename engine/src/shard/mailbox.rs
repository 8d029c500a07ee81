//! How other threads reach a shard: a bounded queue, and a bell that the shard's ring listens to.
//!
//! The bell is a socket pair, not an eventfd. A parked shard sleeps on an eventfd that the kernel
//! signals for its ring; the kernel puts off signalling one eventfd from within the write to
//! another, and on Linux 6.18 a shard was seen to sleep through the second message it got that way.
//!
//! Invariant: a message that was accepted is seen. The bell is rung after the message is queued,
//! and the shard silences it before it empties the queue.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_queue::ArrayQueue;

/// The sending side; any thread may hold one.
pub(super) struct Sender<M> {
    shared: Arc<Shared<M>>,
}

/// The shard's side.
pub(super) struct Mailbox<M> {
    shared: Arc<Shared<M>>,
}

struct Shared<M> {
    queue: ArrayQueue<M>,
    bell: UnixStream,
    rung: AtomicBool,
}

/// A mailbox for `capacity` messages, and the end of the bell for the ring to listen to.
///
/// # Errors
/// When no socket pair can be made.
pub(super) fn mailbox<M>(capacity: usize) -> io::Result<(Sender<M>, Mailbox<M>, OwnedFd)> {
    let (bell, heard) = UnixStream::pair()?;
    bell.set_nonblocking(true)?;
    let queue = ArrayQueue::new(capacity);
    let shared = Arc::new(Shared { queue, bell, rung: AtomicBool::new(false) });
    Ok((Sender { shared: Arc::clone(&shared) }, Mailbox { shared }, heard.into()))
}

impl<M> Sender<M> {
    /// Queues a message and wakes the shard.
    ///
    /// # Errors
    /// Gives the message back when the mailbox is full.
    pub(super) fn send(&self, message: M) -> Result<(), M> {
        self.shared.queue.push(message)?;
        self.ring();
        Ok(())
    }

    /// Wakes the shard without a message.
    pub(super) fn ring(&self) {
        if !self.shared.rung.swap(true, Ordering::AcqRel) {
            // It can't be full: one byte at most is written between two silences. An error means
            // that the shard has ended.
            let _gone = (&self.shared.bell).write(&[1]);
        }
    }
}

impl<M> Clone for Sender<M> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<M> Mailbox<M> {
    /// Takes the next message. After `None` the bell will be rung for the next one.
    pub(super) fn take(&self) -> Option<M> {
        if let Some(message) = self.shared.queue.pop() {
            return Some(message);
        }
        // Silence first, look again: a message queued in between rings a bell that is silent.
        self.shared.rung.store(false, Ordering::Release);
        std::sync::atomic::fence(Ordering::SeqCst);
        self.shared.queue.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_mailbox_gives_the_message_back() {
        let (sender, mailbox, _heard) = mailbox(1).unwrap();
        assert_eq!(sender.send(1), Ok(()));
        assert_eq!(sender.send(2), Err(2));
        assert_eq!(mailbox.take(), Some(1));
        assert_eq!(mailbox.take(), None);
    }

    #[test]
    fn every_message_of_many_threads_arrives() {
        let (sender, mailbox, _heard) = mailbox(16).unwrap();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    for number in 0..1000 {
                        let mut message = number;
                        while let Err(back) = sender.send(message) {
                            message = back;
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut sum = 0;
        let mut count = 0;
        while count < 4000 {
            match mailbox.take() {
                Some(number) => {
                    sum += number;
                    count += 1;
                }
                None => std::thread::yield_now(),
            }
        }
        assert_eq!(sum, 4 * (999 * 1000 / 2));
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
