//! A safe, thin epoll for the generator and the origin: edge-triggered, nanosecond timeouts.
//!
//! Descriptors are registered once for both directions, so a request costs no `epoll_ctl`. The
//! invariant callers must keep is the edge-triggered one: after an event, read until a short read or
//! `WouldBlock`, write until `WouldBlock`.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

/// What happened on one registered descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// The token given to [`Epoll::add`].
    pub token: u64,
    /// Bytes, an end of stream or an error wait to be read.
    pub readable: bool,
    /// The socket takes bytes again, or its connect ended.
    pub writable: bool,
    /// The peer closed its side or the connection broke: read on to the end, no further event comes.
    pub closing: bool,
}

/// One epoll instance with a fixed room for events.
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
    count: usize,
}

/// Events taken from the kernel in one wait. More wait for the next turn.
const EVENTS_PER_WAIT: usize = 512;

impl Epoll {
    /// Makes an instance.
    ///
    /// # Errors
    ///
    /// What `epoll_create1(2)` says, in practice only descriptor exhaustion.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers; the result is checked before it becomes an owned descriptor.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just returned to us and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            fd,
            events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_PER_WAIT],
            count: 0,
        })
    }

    /// Registers a stream for both directions, edge-triggered. Closing the descriptor removes it.
    ///
    /// # Errors
    ///
    /// What `epoll_ctl(2)` says.
    pub fn add(&self, stream: &impl AsFd, token: u64) -> io::Result<()> {
        let interest = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        self.register(stream, token, interest)
    }

    /// Registers a listening socket, level-triggered.
    ///
    /// # Errors
    ///
    /// What `epoll_ctl(2)` says.
    pub fn add_listener(&self, listener: &impl AsFd, token: u64) -> io::Result<()> {
        self.register(listener, token, libc::EPOLLIN)
    }

    fn register(&self, fd: &impl AsFd, token: u64, interest: i32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest.cast_unsigned(), u64: token };
        let fd = fd.as_fd().as_raw_fd();
        // SAFETY: both descriptors are open for the whole call and `event` outlives it.
        let done = unsafe {
            libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event)
        };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits for events, at most `timeout`; a signal ends the wait early with none.
    ///
    /// # Errors
    ///
    /// What `epoll_pwait2(2)` says (Linux 5.11).
    pub fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: the event array is writable for `len` entries, the timeout lives until the call
        // returns, and a null signal mask means "leave the mask alone".
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.fd.as_raw_fd(),
                self.events.as_mut_ptr(),
                EVENTS_PER_WAIT,
                &raw const timeout,
                std::ptr::null::<libc::sigset_t>(),
                0_usize,
            )
        };
        self.count = 0;
        if count < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        self.count = usize::try_from(count).unwrap_or(0);
        Ok(())
    }

    /// Number of events of the last wait.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The event at `index`, below [`Epoll::count`].
    #[must_use]
    pub fn ready(&self, index: usize) -> Ready {
        let event = self.events[index];
        let bits = event.events.cast_signed();
        let broken = bits & (libc::EPOLLERR | libc::EPOLLHUP) != 0;
        let closing = broken || bits & libc::EPOLLRDHUP != 0;
        Ready {
            token: event.u64,
            readable: closing || bits & libc::EPOLLIN != 0,
            writable: broken || bits & libc::EPOLLOUT != 0,
            closing,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::net::UnixStream};

    use super::*;

    #[test]
    fn reports_bytes_and_timeouts() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut epoll = Epoll::new().unwrap();
        epoll.wait(Duration::ZERO).unwrap();
        assert_eq!(epoll.count(), 0);
        epoll.add(&far, 7).unwrap();
        near.write_all(b"x").unwrap();
        epoll.wait(Duration::from_secs(5)).unwrap();
        assert_eq!(epoll.count(), 1);
        assert_eq!(
            epoll.ready(0),
            Ready { token: 7, readable: true, writable: true, closing: false }
        );
        drop(near);
        epoll.wait(Duration::from_secs(5)).unwrap();
        assert!(epoll.ready(0).closing);
    }
}
