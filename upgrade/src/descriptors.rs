//! Descriptors with a message, over a Unix socket (`SCM_RIGHTS`, unix(7)).
//!
//! The kernel attaches descriptors to the bytes they were sent with; so a message always has at
//! least one byte, and whoever reads that byte gets them.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// The most descriptors in one message. The kernel's own limit is 253 (`SCM_MAX_FD`); a round
/// number below leaves room for it to shrink.
pub const DESCRIPTORS_MAX: usize = 128;

/// What one call of [`receive`] got.
#[derive(Debug)]
pub(crate) struct Received {
    /// Bytes written to the buffer; 0 when the other end closed.
    pub(crate) len: usize,
    /// The descriptors that came with them.
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// Why nothing usable was received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// More descriptors were sent than [`DESCRIPTORS_MAX`]; those that arrived are closed.
    #[error("a message with more than {DESCRIPTORS_MAX} descriptors")]
    TooManyDescriptors,
    /// The socket.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Sends `bytes` with `descriptors`. Returns how many bytes were taken; the descriptors go with
/// the first of them.
///
/// # Errors
/// `InvalidInput` for no bytes or more than [`DESCRIPTORS_MAX`] descriptors, else what the socket
/// says.
pub(crate) fn send(
    socket: &impl AsRawFd,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    if bytes.is_empty() || descriptors.len() > DESCRIPTORS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut control = Control::new();
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let header = control.header(&mut part, descriptors.len());
    if !descriptors.is_empty() {
        // SAFETY: the header's control area holds DESCRIPTORS_MAX descriptors, so the first
        // control message and its data lie inside it.
        unsafe {
            let message = libc::CMSG_FIRSTHDR(&raw const header);
            (*message).cmsg_level = libc::SOL_SOCKET;
            (*message).cmsg_type = libc::SCM_RIGHTS;
            (*message).cmsg_len = libc::CMSG_LEN(data_len(descriptors.len())) as _;
            let data = libc::CMSG_DATA(message).cast::<RawFd>();
            for (index, descriptor) in descriptors.iter().enumerate() {
                data.add(index).write_unaligned(descriptor.as_raw_fd());
            }
        }
    }
    // SAFETY: the header points to `part` and `control`, both live over the call.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Receives bytes, and the descriptors that came with them.
///
/// # Errors
/// See [`ReceiveError`].
pub(crate) fn receive(socket: &impl AsRawFd, buffer: &mut [u8]) -> Result<Received, ReceiveError> {
    let mut control = Control::new();
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut header = control.header(&mut part, DESCRIPTORS_MAX);
    // SAFETY: the header points to `part`, which covers `buffer`, and to `control`.
    let received =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
    let len = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    let descriptors = take_descriptors(&header);
    if header.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(ReceiveError::TooManyDescriptors);
    }
    Ok(Received { len, descriptors })
}

fn take_descriptors(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut descriptors = Vec::new();
    // SAFETY: the kernel filled the control area and set its length; the macros stay inside it.
    // Each descriptor was made for us by this call and is owned exactly once.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            if (*message).cmsg_level == libc::SOL_SOCKET && (*message).cmsg_type == libc::SCM_RIGHTS
            {
                let bytes = (*message).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(message).cast::<RawFd>();
                for index in 0..bytes / size_of::<RawFd>() {
                    descriptors.push(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
                }
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    descriptors
}

/// Room for one control message with [`DESCRIPTORS_MAX`] descriptors, aligned as it must be.
#[repr(C)]
union Control {
    _align: libc::cmsghdr,
    bytes: [MaybeUninit<u8>; CONTROL_BYTES],
}

impl Control {
    fn new() -> Self {
        Self { bytes: [MaybeUninit::zeroed(); CONTROL_BYTES] }
    }

    /// A header with `part` as its only data and room for `descriptors`.
    fn header(&mut self, part: &mut libc::iovec, descriptors: usize) -> libc::msghdr {
        // SAFETY: all-zero is a valid msghdr: no name, no parts, no control data.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = part;
        header.msg_iovlen = 1;
        if descriptors > 0 {
            header.msg_control = (&raw mut *self).cast();
            // SAFETY: CMSG_SPACE only computes.
            header.msg_controllen = unsafe { libc::CMSG_SPACE(data_len(descriptors)) } as _;
        }
        header
    }
}

const fn data_len(descriptors: usize) -> u32 {
    (descriptors * size_of::<RawFd>()) as u32
}

// SAFETY: CMSG_SPACE only computes.
const CONTROL_BYTES: usize = unsafe { libc::CMSG_SPACE(data_len(DESCRIPTORS_MAX)) } as usize;

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_descriptor_arrives_open_and_close_on_exec() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        assert_eq!(send(&here, b"x", &[writer.as_fd()]).unwrap(), 1);
        drop(writer);
        let mut buffer = [0; 8];
        let received = receive(&there, &mut buffer).unwrap();
        assert_eq!((received.len, received.descriptors.len()), (1, 1));
        let descriptor = received.descriptors.into_iter().next().unwrap();
        // SAFETY: F_GETFD on a descriptor that is open.
        let flags = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GETFD) };
        assert_ne!(flags & libc::FD_CLOEXEC, 0);
        File::from(descriptor).write_all(b"through the pipe").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through the pipe");
    }

    #[test]
    fn the_limit_can_be_sent_and_one_past_it_is_refused() {
        let (here, there) = UnixStream::pair().unwrap();
        let file = File::open("/dev/null").unwrap();
        let many = vec![file.as_fd(); DESCRIPTORS_MAX + 1];
        assert_eq!(send(&here, b"x", &many[1..]).unwrap(), 1);
        let received = receive(&there, &mut [0; 1]).unwrap();
        assert_eq!(received.descriptors.len(), DESCRIPTORS_MAX);
        let error = send(&here, b"x", &many).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(send(&here, b"", &[]).is_err());
    }

    #[test]
    fn bytes_go_without_descriptors_and_the_end_is_seen() {
        let (here, there) = UnixStream::pair().unwrap();
        send(&here, b"plain", &[]).unwrap();
        drop(here);
        let mut buffer = [0; 8];
        let received = receive(&there, &mut buffer).unwrap();
        assert_eq!((&buffer[..received.len], received.descriptors.len()), (&b"plain"[..], 0));
        assert_eq!(receive(&there, &mut buffer).unwrap().len, 0);
    }
}
