//! How soon a shard has its CPU when others use that, too.
//!
//! A shard works for some microseconds at a time and then waits, and what wakes it is a request. Linux 6.12
//! and later let a thread that asks for shorter slices than the one that runs take its place at once; else
//! a shard may wait for a millisecond behind the control thread, or whatever else is on its CPU. Its share
//! of the CPU is the same. Invariant: policy and niceness stay as whoever started the process set them.

use std::io;
use std::time::Duration;

/// Asks for short slices for the calling thread. Older kernels take no notice.
///
/// # Errors
/// When the process is not allowed to, or the kernel does not know how.
pub(super) fn ask_for_short_slices() -> io::Result<()> {
    let mut attributes = attributes()?;
    if attributes.sched_policy != libc::SCHED_OTHER.cast_unsigned() {
        return Ok(());
    }
    attributes.sched_runtime = SLICE.as_nanos() as u64;
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

/// Less than what threads get that ask for nothing (0.7 ms and more), and no less than a turn under load
/// takes, which so is not cut in two.
const SLICE: Duration = Duration::from_micros(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_and_niceness_stay() {
        let before = attributes().unwrap();
        ask_for_short_slices().unwrap();
        let after = attributes().unwrap();
        assert_eq!(
            (after.sched_policy, after.sched_nice, after.sched_priority),
            (before.sched_policy, before.sched_nice, before.sched_priority)
        );
        // Kernels before 6.12 have nothing to say of it.
        assert!([0, SLICE.as_nanos() as u64].contains(&after.sched_runtime));
    }
}
