//! The relay's io_uring: operations in, completions out, and the buffers it receives into.
//!
//! One buffer ring serves every receive. Its memory lives as long as the process, because the kernel
//! may write to it until the ring is torn down. Invariant: a buffer is either the kernel's (in the
//! ring) or the relay's (named by a completion and not yet given back), never both.

use std::{
    io,
    os::fd::RawFd,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use socket2::SockAddr;

/// Entries of the submission queue; a fuller turn is submitted in parts.
const ENTRIES: u32 = 1024;
/// Entries of the completion queue: several completions per connection and turn.
const COMPLETIONS: u32 = 8192;
/// Bytes of one receive buffer.
pub(super) const BUFFER_BYTES: usize = 32 * 1024;
/// Receive buffers; a power of two.
pub(super) const BUFFERS: u16 = 512;
/// Distance of buffers in memory. More than their size, or the first lines of all of them, which is
/// all that small messages touch, would fall on the same few sets of the cache.
const STRIDE: usize = BUFFER_BYTES + 5 * 64;
const GROUP: u16 = 0;
/// Interval of the tick.
const TICK_NS: u32 = 20_000_000;

/// One completion.
#[derive(Debug, Clone, Copy)]
pub(super) struct Completion {
    pub(super) user_data: u64,
    pub(super) result: i32,
    flags: u32,
}

impl Completion {
    /// The operation goes on and will complete again.
    pub(super) fn more(self) -> bool {
        cqueue::more(self.flags)
    }

    /// The buffer that the kernel handed over.
    pub(super) fn buffer(self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}

/// A ring made for one thread, with its buffers.
pub(super) struct Ring {
    ring: IoUring,
    entries: &'static mut [types::BufRingEntry],
    memory: &'static mut [u8],
    tail: u16,
    published: u16,
    /// Address of the ring tail that the kernel reads, inside `entries`.
    shared_tail: *const AtomicU16,
    free: u16,
    tick: &'static types::Timespec,
}

impl Ring {
    /// Makes the ring and gives it all buffers.
    ///
    /// # Errors
    ///
    /// What the kernel says; ENOSYS and EPERM mean that io_uring is not to be had here.
    pub(super) fn new() -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_cqsize(COMPLETIONS)
            .build(ENTRIES)?;
        // Spares a look-up of the ring's descriptor in every call; kernels without it do without.
        let _ = ring.submitter().register_ring_fd();
        let (entries, memory) = lasting_memory()?;
        // SAFETY: the address is that of BUFFERS entries which live until the process ends and which
        // nobody but this type writes.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                entries.as_ptr() as u64,
                BUFFERS,
                GROUP,
                0,
            )?;
        }
        // SAFETY: the first entry is live; the tail overlays its reserved field.
        let shared_tail =
            unsafe { types::BufRingEntry::tail(entries.as_ptr()) }.cast::<AtomicU16>();
        let tick = Box::leak(Box::new(types::Timespec::new().nsec(TICK_NS)));
        let mut ring =
            Self { ring, entries, memory, tail: 0, published: 0, shared_tail, free: 0, tick };
        for buffer in 0..BUFFERS {
            ring.give_back(buffer);
        }
        ring.publish();
        Ok(ring)
    }

    /// Bytes of a buffer that the relay holds.
    pub(super) fn bytes(&self, buffer: u16, from: usize, length: usize) -> &[u8] {
        let start = usize::from(buffer) * STRIDE + from;
        &self.memory[start..start + length]
    }

    /// Returns a buffer; the kernel sees it after [`Ring::publish`].
    pub(super) fn give_back(&mut self, buffer: u16) {
        let address = self.memory[usize::from(buffer) * STRIDE..].as_ptr() as u64;
        let entry = &mut self.entries[usize::from(self.tail & (BUFFERS - 1))];
        entry.set_addr(address);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        self.free += 1;
    }

    /// Notes that a completion brought a buffer.
    pub(super) fn took_buffer(&mut self) {
        self.free -= 1;
    }

    /// Buffers that the kernel has, or has after the next [`Ring::publish`].
    pub(super) fn free_buffers(&self) -> u16 {
        self.free
    }

    /// Shows returned buffers to the kernel.
    pub(super) fn publish(&mut self) {
        if self.published != self.tail {
            self.published = self.tail;
            // SAFETY: the pointer is into `entries`, aligned, alive for the process, and accessed by
            // this thread and the kernel only, both atomically.
            unsafe { (*self.shared_tail).store(self.tail, Ordering::Release) };
        }
    }

    /// Submits everything and waits until `want` completions are there; moves all that are into
    /// `out`.
    pub(super) fn turn(&mut self, want: usize, out: &mut Vec<Completion>) -> io::Result<()> {
        match self.ring.submit_and_wait(want) {
            Err(error)
                if !matches!(
                    error.raw_os_error(),
                    Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)
                ) =>
            {
                return Err(error);
            }
            _ => {}
        }
        out.extend(self.ring.completion().map(|entry| Completion {
            user_data: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        }));
        Ok(())
    }

    /// A completion every [`TICK_NS`], as long as the process lives.
    pub(super) fn tick(&mut self, user_data: u64) -> io::Result<()> {
        let entry = opcode::Timeout::new(self.tick)
            .flags(types::TimeoutFlags::MULTISHOT)
            .build()
            .user_data(user_data);
        // SAFETY: the timespec was leaked.
        unsafe { self.push(&entry) }
    }

    /// Accepts connections one after the other.
    pub(super) fn accept(&mut self, listener: RawFd, user_data: u64) -> io::Result<()> {
        let entry = opcode::AcceptMulti::new(types::Fd(listener))
            .flags(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK)
            .build()
            .user_data(user_data);
        // SAFETY: no pointers.
        unsafe { self.push(&entry) }
    }

    /// Receives again and again, into buffers of the ring.
    pub(super) fn receive(&mut self, socket: RawFd, user_data: u64) -> io::Result<()> {
        let entry = opcode::RecvMulti::new(types::Fd(socket), GROUP).build().user_data(user_data);
        // SAFETY: the buffers live as long as the process.
        unsafe { self.push(&entry) }
    }

    /// Connects.
    ///
    /// # Safety
    ///
    /// `address` must not move or end before the completion.
    pub(super) unsafe fn connect(
        &mut self,
        socket: RawFd,
        address: &SockAddr,
        user_data: u64,
    ) -> io::Result<()> {
        let entry = opcode::Connect::new(types::Fd(socket), address.as_ptr().cast(), address.len())
            .build()
            .user_data(user_data);
        // SAFETY: the caller's promise.
        unsafe { self.push(&entry) }
    }

    /// Sends all of `bytes`; when `at_once`, what goes without waiting, and then it completes within
    /// the submitting call.
    ///
    /// # Safety
    ///
    /// The bytes must not move, change or end before the completion.
    pub(super) unsafe fn send(
        &mut self,
        socket: RawFd,
        bytes: *const [u8],
        at_once: bool,
        user_data: u64,
    ) -> io::Result<()> {
        let wait = if at_once { libc::MSG_DONTWAIT } else { libc::MSG_WAITALL };
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let entry = opcode::Send::new(types::Fd(socket), bytes.cast(), length)
            .flags(libc::MSG_NOSIGNAL | wait)
            .build()
            .user_data(user_data);
        // SAFETY: the caller's promise.
        unsafe { self.push(&entry) }
    }

    /// Sends all of a vector.
    ///
    /// # Safety
    ///
    /// Neither the message header nor what it points to may move, change or end before the
    /// completion.
    pub(super) unsafe fn send_vectored(
        &mut self,
        socket: RawFd,
        message: *const libc::msghdr,
        user_data: u64,
    ) -> io::Result<()> {
        let flags = (libc::MSG_NOSIGNAL | libc::MSG_WAITALL).cast_unsigned();
        let entry = opcode::SendMsg::new(types::Fd(socket), message)
            .flags(flags)
            .build()
            .user_data(user_data);
        // SAFETY: the caller's promise.
        unsafe { self.push(&entry) }
    }

    /// # Safety
    ///
    /// As for each operation above.
    unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: passed on to the caller.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.ring.submit()?;
        }
        Ok(())
    }
}

/// Buffer ring and buffers, page-aligned and never freed.
fn lasting_memory() -> io::Result<(&'static mut [types::BufRingEntry], &'static mut [u8])> {
    let ring_bytes = usize::from(BUFFERS) * std::mem::size_of::<types::BufRingEntry>();
    let buffer_bytes = usize::from(BUFFERS) * STRIDE;
    // SAFETY: a fresh anonymous mapping; the result is checked.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            ring_bytes + buffer_bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is page-aligned, zeroed (which is a valid entry), large enough for both
    // parts, never unmapped, and these are the only references into it.
    unsafe {
        let entries = std::slice::from_raw_parts_mut(address.cast(), usize::from(BUFFERS));
        let memory =
            std::slice::from_raw_parts_mut(address.cast::<u8>().add(ring_bytes), buffer_bytes);
        Ok((entries, memory))
    }
}
