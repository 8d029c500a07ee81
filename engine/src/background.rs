//! Threads beside the shards: for control, for logs, and the server loop.
//!
//! They work in bursts of some hundred microseconds, and a request that comes meanwhile to a shard on the
//! same CPU must not wait for the end of one. Linux 6.12 and later let a thread that wakes take the
//! place of one that asked for longer slices; so these do. Invariant: their share of a busy CPU stays
//! as it is, and so do the policy and niceness that whoever started the process chose.

use std::io;
use std::time::Duration;

/// Lets shards go before the calling thread and those that it starts. Older kernels take no notice.
pub fn give_way() {
    if let Err(error) = ask_for_slices(SLICE) {
        log::debug!(target: "main", "background threads give no way to shards: {error}");
    }
}

/// Starts something that is to compete as this process did when it began: another process has shards.
pub fn start_as_equal<T>(start: impl FnOnce() -> T) -> T {
    if let Err(error) = ask_for_slices(USUAL) {
        log::debug!(target: "main", "what is started now gives way like background threads: {error}");
    }
    let started = start();
    give_way();
    started
}

/// Longer than what threads get that ask for nothing (some milliseconds), and no more than those who wait
/// for a background thread on a busy machine can spare. The kernel's limit is 100 ms.
const SLICE: Duration = Duration::from_millis(20);
/// Asks for what the kernel gives to those that ask for nothing.
const USUAL: Duration = Duration::ZERO;

fn ask_for_slices(slice: Duration) -> io::Result<()> {
    let mut attributes = attributes()?;
    // Policies other than this have no slices, or runtimes in their place.
    if attributes.sched_policy != libc::SCHED_OTHER.cast_unsigned() {
        return Ok(());
    }
    attributes.sched_runtime = slice.as_nanos() as u64;
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

    #[test]
    fn policy_and_niceness_stay() {
        let before = attributes().unwrap();
        give_way();
        let after = attributes().unwrap();
        assert_eq!(
            (after.sched_policy, after.sched_nice, after.sched_priority),
            (before.sched_policy, before.sched_nice, before.sched_priority)
        );
    }

    #[test]
    fn what_is_started_as_an_equal_does_not_give_way() {
        let slice = || attributes().unwrap().sched_runtime;
        let usual = slice();
        give_way();
        let long = slice();
        // Kernels before 6.12 have slices of their own choice alone.
        assert!([usual, SLICE.as_nanos() as u64].contains(&long));
        let inherited = std::thread::spawn(slice).join().unwrap();
        assert_eq!(inherited, long);
        let equal = start_as_equal(|| std::thread::spawn(slice)).join().unwrap();
        assert_eq!((equal, slice()), (usual, long));
    }
}
