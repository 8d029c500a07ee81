//! Looks at the shards from outside, sees one that stopped turning, counts it, says so, wakes it.
//!
//! The runtime can park while tasks are runnable when its thread loses the CPU at the wrong
//! instant. A waker called from another thread turns it again; so does the mailbox's bell. The
//! watchdog is an ordinary thread, because a timer inside the shard would be stuck with it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::stats::ShardStats;

use super::pulse::{PulseState, Pulses};

/// What the watchdog needs of one shard.
pub struct Watched {
    /// Its name in logs.
    pub index: usize,
    /// Wakes the driver task, once there is one.
    pub driver: Arc<Mutex<Option<Waker>>>,
    /// Rings the mailbox's bell.
    pub bell: Box<dyn Fn() + Send>,
    /// Where stalls are counted.
    pub stats: Arc<ShardStats>,
}

/// The running watchdog; ends when dropped.
pub struct Watchdog {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watchdog {
    /// Watches `shards`. A shard that is not parked and has not turned for `limit` is stalled.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn start(
        shards: Vec<Watched>,
        pulses: Pulses,
        epoch: Instant,
        limit: Duration,
    ) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || watch(&shards, &pulses, epoch, limit, &stopped))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic of the watchdog has been reported by the panic hook; nothing is left to do.
            drop(thread.join());
        }
    }
}

fn watch(
    shards: &[Watched],
    pulses: &Pulses,
    epoch: Instant,
    limit: Duration,
    stopped: &AtomicBool,
) {
    let mut stalled = vec![false; shards.len()];
    while !stopped.load(Ordering::Relaxed) {
        std::thread::park_timeout(limit / 2);
        let now = epoch.elapsed();
        for (shard, was_stalled) in shards.iter().zip(&mut stalled) {
            let (state, turned_at) = pulses[shard.index].read();
            let silent = now.saturating_sub(Duration::from_nanos(turned_at));
            let is_stalled = state == PulseState::Turning && silent > limit;
            if is_stalled {
                wake(shard);
            }
            if is_stalled && !*was_stalled {
                shard.stats.stalls.inc();
                log::warn!(
                    target: "shard",
                    "shard {} made no turn for {} ms (limit {} ms): waking it. A CPU quota, an \
                     overcommitted host or a stopped process does this; see engine.stall_ms",
                    shard.index, silent.as_millis(), limit.as_millis(),
                );
            }
            *was_stalled = is_stalled;
        }
    }
}

fn wake(shard: &Watched) {
    (shard.bell)();
    // Poisoned only if storing a waker panicked; the waker in it is still good.
    let driver = shard.driver.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(waker) = &*driver {
        waker.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::super::pulse::pulses;
    use super::*;

    #[test]
    fn a_silent_shard_is_counted_once_and_rung_until_it_turns() {
        let pulses = pulses(2);
        let epoch = Instant::now();
        pulses[0].turn(0);
        pulses[1].rest(PulseState::Parked);
        let rings = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
        let stats = [Arc::new(ShardStats::default()), Arc::new(ShardStats::default())];
        let watched = (0..2)
            .map(|index| {
                let rings = Arc::clone(&rings);
                Watched {
                    index,
                    driver: Arc::default(),
                    bell: Box::new(move || {
                        rings[index].fetch_add(1, Ordering::Relaxed);
                    }),
                    stats: Arc::clone(&stats[index]),
                }
            })
            .collect();
        let watchdog =
            Watchdog::start(watched, Arc::clone(&pulses), epoch, Duration::from_millis(10))
                .unwrap();
        while rings[0].load(Ordering::Relaxed) < 3 {
            assert!(epoch.elapsed() < Duration::from_secs(5));
            std::thread::yield_now();
        }
        drop(watchdog);
        assert_eq!(stats[0].stalls.value(), 1);
        assert_eq!(stats[1].stalls.value(), 0);
        assert_eq!(rings[1].load(Ordering::Relaxed), 0);
    }
}
