//! What the kernel lets us do, found out before the first shard starts.
//!
//! Invariant: a start either gets every feature the engine can't do without, or fails with the
//! name of what is missing and what to change.

use std::io;

use io_uring::{IoUring, Probe, opcode, squeue};

/// The oldest kernel that has all we need: provided-buffer rings came with 5.19.
pub const KERNEL_MIN: &str = "5.19";

/// Features that have a fallback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// One accept or receive entry serves many completions (6.0). Otherwise each is armed again.
    pub multishot: bool,
    /// Completions are processed only when the shard asks (6.1). Otherwise the kernel may
    /// interrupt the shard for them.
    pub defer_taskrun: bool,
}

/// Why a shard's ring can't be made here.
#[derive(Debug, thiserror::Error)]
pub enum Unsupported {
    /// io_uring is not in this kernel.
    #[error(
        "io_uring is not available (kernel {kernel}): Outrigger needs Linux {KERNEL_MIN} or newer"
    )]
    Missing {
        /// Release of the running kernel.
        kernel: String,
    },
    /// io_uring is switched off or filtered.
    #[error(
        "io_uring is forbidden to this process ({reason}): \
         set the sysctl kernel.io_uring_disabled to 0, or run the container with a seccomp \
         profile that allows io_uring_setup, io_uring_enter and io_uring_register"
    )]
    Forbidden {
        /// Which of the two it looks like.
        reason: String,
    },
    /// The locked-memory limit is too small.
    #[error(
        "the locked-memory limit is too small for the shard's rings ({have} KiB, {want} KiB \
         wanted): raise it with `ulimit -l`, LimitMEMLOCK= or --ulimit memlock="
    )]
    Memlock {
        /// The limit in force, in KiB.
        have: u64,
        /// What is wanted, in KiB.
        want: u64,
    },
    /// An operation the engine can't do without is missing.
    #[error("the kernel ({kernel}) lacks {what}: Outrigger needs Linux {KERNEL_MIN} or newer")]
    Lacks {
        /// Release of the running kernel.
        kernel: String,
        /// The missing operation.
        what: &'static str,
    },
    /// Anything else.
    #[error("io_uring can't be set up: {0}")]
    Other(#[from] io::Error),
}

/// Finds out what the kernel can do, with a throw-away ring.
///
/// # Errors
/// See [`Unsupported`].
pub fn probe() -> Result<Features, Unsupported> {
    raise_memlock()?;
    let ring = IoUring::new(8).map_err(explain)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    for (what, code) in NEEDED {
        if !probe.is_supported(code) {
            return Err(Unsupported::Lacks { kernel: kernel_release(), what });
        }
    }
    // Buffer rings have no operation of their own; an operation of the same release stands for
    // them, and the ring itself says so again when it registers its buffers.
    Ok(Features {
        multishot: probe.is_supported(opcode::SendZc::CODE),
        defer_taskrun: IoUring::<squeue::Entry>::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(8)
            .is_ok(),
    })
}

/// Operations without which nothing works.
const NEEDED: [(&str, u8); 8] = [
    ("accept on a ring", opcode::Accept::CODE),
    ("connect on a ring", opcode::Connect::CODE),
    ("receive on a ring", opcode::Recv::CODE),
    ("send on a ring", opcode::Send::CODE),
    ("vectored send on a ring", opcode::SendMsg::CODE),
    ("cancel on a ring", opcode::AsyncCancel::CODE),
    ("close on a ring", opcode::Close::CODE),
    ("sockets made on a ring, and with them buffer rings", opcode::Socket::CODE),
];

/// The runtime refuses to start below this soft limit, whatever the kernel charges.
const MEMLOCK_WANTED_BYTES: u64 = 512 * 1024;

fn raise_memlock() -> Result<(), Unsupported> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes the structure it is given.
    if unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error().into());
    }
    if limit.rlim_cur >= MEMLOCK_WANTED_BYTES {
        return Ok(());
    }
    let wanted = libc::rlimit {
        rlim_cur: MEMLOCK_WANTED_BYTES,
        rlim_max: limit.rlim_max.max(MEMLOCK_WANTED_BYTES),
    };
    // SAFETY: setrlimit reads the structure it is given.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const wanted) } == 0 {
        return Ok(());
    }
    Err(Unsupported::Memlock { have: limit.rlim_max / 1024, want: MEMLOCK_WANTED_BYTES / 1024 })
}

fn explain(error: io::Error) -> Unsupported {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => Unsupported::Missing { kernel: kernel_release() },
        Some(libc::EPERM | libc::EACCES) => Unsupported::Forbidden { reason: forbidden_by() },
        Some(libc::ENOMEM) => {
            Unsupported::Memlock { have: memlock_kib(), want: MEMLOCK_WANTED_BYTES / 1024 }
        }
        _ => Unsupported::Other(error),
    }
}

fn forbidden_by() -> String {
    match std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled") {
        Ok(value) if value.trim() != "0" => {
            format!("kernel.io_uring_disabled is {}", value.trim())
        }
        _ => "probably by a seccomp profile".to_owned(),
    }
}

fn memlock_kib() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes the structure it is given; on failure it stays zero.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    limit.rlim_cur / 1024
}

fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "of unknown version".to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_is_good_enough() {
        assert!(probe().is_ok());
    }

    #[test]
    fn refusals_name_the_cure() {
        let forbidden = explain(io::Error::from_raw_os_error(libc::EPERM)).to_string();
        assert!(forbidden.contains("kernel.io_uring_disabled") && forbidden.contains("seccomp"));
        let missing = explain(io::Error::from_raw_os_error(libc::ENOSYS)).to_string();
        assert!(missing.contains(KERNEL_MIN));
        let memlock = explain(io::Error::from_raw_os_error(libc::ENOMEM)).to_string();
        assert!(memlock.contains("ulimit -l"));
    }
}
