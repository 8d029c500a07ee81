//! Threads beside the shards: for control, for logs, and the server loop.
//!
//! They work in bursts of some hundred microseconds, and a request that comes meanwhile to a shard on the
//! same CPU must not wait for the end of one. Linux 6.12 and later let a thread that wakes take the
//! place of one that asked for longer slices, but not before that one has had its part for the waker's
//! own last turn. The nicer it is, the smaller that part; nicer without longer slices gains nothing.
//! Invariant: whoever starts the process chooses policy and niceness of the shards, and of those of a
//! successor ([`Launch`](crate::control::hand_over::Launch)).

use std::io;
use std::time::Duration;

/// What a thread gets of a CPU that a shard wants all the time, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// As much: what it is late with may be lost.
    Equal,
    /// A tenth of that: it can be late.
    Tenth,
}

/// Lets shards go before the calling thread and those that it starts. There is no way back. Kernels before
/// 6.12 take notice of the share alone.
pub fn give_way(share: Share) {
    if let Err(error) = set(share) {
        log::debug!(target: "main", "a background thread gives no way to shards: {error}");
    }
}

/// Longer than what threads get that ask for nothing (some milliseconds), and no more than those who wait
/// for a background thread on a busy machine can spare. The kernel's limit is 100 ms.
const SLICE: Duration = Duration::from_millis(20);
/// Each step of niceness takes a fifth of a thread's weight, and ten of them nine tenths.
const NICER: i32 = 10;
/// The kernel's limit of niceness.
const NICEST: i32 = 19;

fn set(share: Share) -> io::Result<()> {
    let mut attributes = attributes()?;
    // Policies other than this have no slices, or runtimes in their place.
    if attributes.sched_policy != libc::SCHED_OTHER.cast_unsigned() {
        return Ok(());
    }
    attributes.sched_runtime = SLICE.as_nanos() as u64;
    if share == Share::Tenth {
        attributes.sched_nice = (attributes.sched_nice + NICER).min(NICEST);
    }
    // SAFETY: the structure says its own size, and lives through the call.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Those of the calling thread.
fn attributes() -> io::Result<libc::sched_attr> {
    let size = size_of::<libc::sched_attr>() as u32;
    let mut attributes = libc::sched_attr {
        size,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel writes at most `size` bytes, which is what there is.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    // Kernels that know more say so; what is sent back is what this one knows.
    attributes.size = size;
    if result == 0 { Ok(attributes) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_a_thread(share: Share) -> (libc::sched_attr, libc::sched_attr) {
        let both = move || {
            let before = attributes().unwrap();
            give_way(share);
            (before, attributes().unwrap())
        };
        std::thread::spawn(both).join().unwrap()
    }

    #[test]
    fn an_equal_share_keeps_policy_and_niceness() {
        let (before, after) = in_a_thread(Share::Equal);
        assert_eq!(
            (after.sched_policy, after.sched_nice),
            (before.sched_policy, before.sched_nice)
        );
        // Kernels before 6.12 have slices of their own choice alone.
        assert!([before.sched_runtime, SLICE.as_nanos() as u64].contains(&after.sched_runtime));
    }

    #[test]
    fn a_tenth_is_nicer() {
        let (before, after) = in_a_thread(Share::Tenth);
        assert_eq!(after.sched_policy, before.sched_policy);
        assert_eq!(after.sched_nice, (before.sched_nice + NICER).min(NICEST));
    }
}
