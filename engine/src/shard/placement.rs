//! Which CPUs shards are pinned to.
//!
//! Invariant: only CPUs that this process is allowed to run on are ever used. The runtime would
//! offer what exists on the host, which in a container is more.

use std::io;

use crate::shard::ShardError;

/// The CPUs to use, one a shard: those asked for, or the first `shards` allowed ones.
///
/// Without a number asked for there is one shard per allowed CPU, but no more than the container's
/// CPU quota lets run: a throttled shard stops for whole periods.
///
/// # Errors
/// When a CPU is asked for that is not allowed, or more shards than CPUs.
pub fn place(shards: u32, cores: &[u32]) -> Result<Vec<usize>, ShardError> {
    let allowed = allowed_cpus().map_err(ShardError::Affinity)?;
    if !cores.is_empty() {
        if let Some(refused) = cores.iter().find(|core| !allowed.contains(&(**core as usize))) {
            return Err(ShardError::CoreNotAllowed { core: *refused as usize, allowed });
        }
        let count = if shards == 0 { cores.len() } else { shards as usize };
        return take(cores.iter().map(|core| *core as usize).collect(), count);
    }
    let count = if shards == 0 {
        allowed.len().min(cpu_quota().unwrap_or(usize::MAX))
    } else {
        shards as usize
    };
    take(allowed, count)
}

fn take(mut cpus: Vec<usize>, count: usize) -> Result<Vec<usize>, ShardError> {
    if count > cpus.len() {
        return Err(ShardError::TooManyShards { shards: count, allowed: cpus });
    }
    cpus.truncate(count);
    Ok(cpus)
}

/// The CPUs of this thread's affinity mask, which already is within the cgroup's cpuset.
fn allowed_cpus() -> io::Result<Vec<usize>> {
    // SAFETY: all-zero is a valid empty set, which the call fills in.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the size is that of the set.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: CPU_ISSET reads the set; the index is below its size.
    Ok((0..libc::CPU_SETSIZE as usize)
        .filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) })
        .collect())
}

/// CPUs' worth of the cgroup's quota, rounded up; nothing when there is none.
fn cpu_quota() -> Option<usize> {
    let text = std::fs::read_to_string("/sys/fs/cgroup/cpu.max").ok()?;
    parse_quota(&text)
}

/// Reads cgroup v2's `cpu.max`: quota and period in microseconds, or `max`.
fn parse_quota(text: &str) -> Option<usize> {
    let mut parts = text.split_whitespace();
    let quota: u64 = parts.next()?.parse().ok()?;
    let period: u64 = parts.next()?.parse().ok()?;
    (period > 0).then(|| quota.div_ceil(period).max(1) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_rounded_up() {
        assert_eq!(parse_quota("max 100000\n"), None);
        assert_eq!(parse_quota("150000 100000\n"), Some(2));
        assert_eq!(parse_quota("1000 100000\n"), Some(1));
        assert_eq!(parse_quota(""), None);
    }

    #[test]
    fn only_allowed_cpus_are_used() {
        let allowed = allowed_cpus().unwrap();
        assert_eq!(place(1, &[]).unwrap(), allowed[..1]);
        assert!(matches!(place(0, &[1023]), Err(ShardError::CoreNotAllowed { core: 1023, .. })));
        assert!(matches!(place(1024, &[]), Err(ShardError::TooManyShards { shards: 1024, .. })));
    }
}
