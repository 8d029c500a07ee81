//! The task that owns a shard's turn: submit and reap, wake, let every runnable task run, repeat.
//!
//! With nothing left to do it polls for `spin_us`, then blocks in the ring for `linger_us`, then
//! truly parks the executor on the ring's eventfd. Invariant: before a park the eventfd is read,
//! then the ring is flushed, and only an empty ring is slept on; a completion after the flush
//! signals again, so no wake-up is lost.

use std::fs::File;
use std::future::poll_fn;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use glommio::io::PollableFd;

use crate::ring::Wait;
use crate::timer::Nanos;

use super::mailbox::Mailbox;
use super::pulse::PulseState;
use super::{Message, Shard};

/// Turns the shard until it is told to stop.
///
/// # Errors
/// When the ring or the eventfd fails, which ends the shard and so the process.
pub(super) async fn drive(
    shard: &Shard,
    mailbox: &Mailbox<Message>,
    bell: OwnedFd,
    own_waker: &Mutex<Option<Waker>>,
    handle: impl Fn(Message),
) -> io::Result<()> {
    publish_waker(own_waker).await;
    let parking = Parking::new(shard)?;
    shard.ring.listen_to(bell);
    let mut idle = Idle::new(shard);
    let mut runnable = true;
    while !shard.is_stopped() {
        let wait = if runnable { Some(Wait::No) } else { idle.wait(shard) };
        let any = match wait {
            Some(wait) => {
                shard.stats.lingers.add(u64::from(wait != Wait::No));
                shard.ring.turn(wait)?
            }
            None => parking.park(shard, &mut idle).await?,
        };
        shard.clock.tick();
        shard.pulse().turn(shard.clock.now());
        shard.stats.turns.inc();
        if shard.stats.turns.value().is_multiple_of(TURNS_PER_PUBLICATION) {
            shard.publish_counters();
        }
        let fired = shard.timers.advance(shard.clock.now());
        shard.ring.recheck(shard.clock.now());
        shard.flush_logs();
        let called = shard.ring.take_rung();
        if called {
            while let Some(message) = mailbox.take() {
                handle(message);
            }
        }
        // Everything woken so far runs during the yield; what those tasks wake runs in the next.
        shard.ring.take_woken();
        yield_to_tasks().await;
        runnable = shard.ring.take_woken();
        if any || fired || called || runnable {
            idle.restart(shard.clock.now());
        }
    }
    // Connection tasks outlive the driver unpolled, and with them the shard: nothing is dropped.
    shard.logger.borrow_mut().flush_all();
    shard.pulse().rest(PulseState::Off);
    Ok(())
}

/// Since when there has been nothing to do, and what to do about it.
struct Idle {
    since: Nanos,
    spin: Nanos,
    linger: Nanos,
    /// When the ring's timeout ends a wait, if it is armed. It stands in for a time limit on each
    /// wait, which the kernel would have to set up and take down every time.
    tick_at: Option<Nanos>,
}

impl Idle {
    fn new(shard: &Shard) -> Self {
        Self {
            since: shard.clock.now(),
            spin: u64::from(shard.config.spin_us) * 1000,
            linger: u64::from(shard.config.linger_us) * 1000,
            tick_at: None,
        }
    }

    fn restart(&mut self, now: Nanos) {
        self.since = now;
    }

    /// How to wait in the ring; nothing when it is time to park.
    fn wait(&mut self, shard: &Shard) -> Option<Wait> {
        let now = shard.clock.now();
        let idle = now - self.since;
        if idle < self.spin {
            return Some(Wait::No);
        }
        let left = (self.spin + self.linger).checked_sub(idle).filter(|left| *left > 0)?;
        self.tick(shard, Some(now + left));
        Some(Wait::ForOne)
    }

    /// Makes sure that the ring completes something by `at`, or by the next deadline.
    fn tick(&mut self, shard: &Shard, at: Option<Nanos>) {
        let now = shard.clock.now();
        // What is past has completed, and tells of nothing that is still to come.
        self.tick_at = self.tick_at.filter(|armed| *armed > now);
        let deadline = shard.next_deadline().map(|next| now + next.as_nanos() as u64);
        let Some(at) = at.into_iter().chain(deadline).min() else { return };
        if self.tick_at.is_none_or(|armed| armed > at) {
            shard.ring.wake_after(Duration::from_nanos(at.saturating_sub(now)));
            self.tick_at = Some(at);
        }
    }
}

/// The eventfd that the ring signals while the shard is parked.
struct Parking {
    signal: PollableFd<File>,
}

impl Parking {
    fn new(shard: &Shard) -> io::Result<Self> {
        // SAFETY: a plain system call; the result is checked before it is owned.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor just made for us.
        let signal = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        shard.ring.register_eventfd(signal.as_raw_fd())?;
        shard.ring.signal_completions(false);
        let signal = PollableFd::new(signal).map_err(io::Error::other)?;
        Ok(Self { signal })
    }

    /// Sleeps until the ring completes something. True when it had already.
    async fn park(&self, shard: &Shard, idle: &mut Idle) -> io::Result<bool> {
        shard.publish_counters();
        idle.tick(shard, None);
        shard.ring.signal_completions(true);
        self.clear()?;
        let mut any = shard.ring.turn(Wait::No)?;
        // When the timeout is all that completed, a deadline is due, and nothing would wake us for it.
        let is_due = idle.tick_at.is_some() && !shard.ring.is_timeout_armed();
        if shard.ring.is_behind() {
            // A timeout is done after all that is put off now, and ends the wait for it.
            idle.tick(shard, Some(shard.clock.now()));
            any |= shard.ring.turn(Wait::ForOne)?;
        } else if !any && !is_due {
            shard.stats.parks.inc();
            shard.pulse().rest(PulseState::Parked);
            self.signal.readable().await.map_err(io::Error::other)?;
        }
        shard.ring.signal_completions(false);
        Ok(any)
    }

    fn clear(&self) -> io::Result<()> {
        let mut value = [0; 8];
        match self.signal.get_ref().read(&mut value) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }
}

/// Goes to the back of the task queue once.
async fn yield_to_tasks() {
    let mut yielded = false;
    let yielding = poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    });
    pin!(yielding).await;
}

async fn publish_waker(own_waker: &Mutex<Option<Waker>>) {
    poll_fn(|context| {
        let mut place = own_waker.lock().unwrap_or_else(PoisonError::into_inner);
        *place = Some(context.waker().clone());
        Poll::Ready(())
    })
    .await;
}

/// Often enough for a reader, too rare to cost anything.
const TURNS_PER_PUBLICATION: u64 = 256;

/// Where the watchdog finds a shard's driver.
pub(super) type DriverWaker = Arc<Mutex<Option<Waker>>>;
