//! Bytes that are too many for a packet: they go along in a file in memory (memfd_create(2)), as the last of
//! the packet's descriptors.
//!
//! Invariant: a file is as long as its message says, or refused.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// As many bytes go in a packet itself.
pub const INLINE_MAX: usize = 64 * 1024;

/// More than any connection may hold.
pub const PAYLOAD_MAX: u64 = 1 << 30;

/// Takes bytes out of `inline` when they are too many: a file with them, and their count.
///
/// # Errors
/// When the system is out of memory or descriptors.
pub fn spill(inline: &mut Vec<u8>) -> io::Result<Option<(OwnedFd, u64)>> {
    if inline.len() <= INLINE_MAX {
        return Ok(None);
    }
    let mut file = File::from(new_file()?);
    file.write_all(inline)?;
    let count = inline.len() as u64;
    *inline = Vec::new();
    Ok(Some((file.into(), count)))
}

/// Puts back what was spilled.
///
/// # Errors
/// When the file is shorter, or longer than allowed.
pub fn unspill(file: OwnedFd, count: u64) -> io::Result<Vec<u8>> {
    let file = File::from(file);
    let len = file.metadata()?.len();
    if len != count || count > PAYLOAD_MAX {
        let text = format!("{len} bytes where {count} were said to be");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut bytes = vec![0; count as usize];
    // Its position is shared with whoever wrote it.
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn new_file() -> io::Result<OwnedFd> {
    // SAFETY: the name is a string that ends with a zero.
    let fd = unsafe { libc::memfd_create(c"outrigger-payload".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_bytes_go_by_file_and_few_do_not() {
        let all: Vec<u8> = (0..INLINE_MAX + 1).map(|at| at as u8).collect();
        let mut bytes = all.clone();
        let (file, count) = spill(&mut bytes).unwrap().unwrap();
        assert!(bytes.is_empty());
        assert_eq!(unspill(file, count).unwrap(), all);
        let mut few = all[..INLINE_MAX].to_vec();
        assert!(spill(&mut few).unwrap().is_none());
        assert_eq!(few.len(), INLINE_MAX);
    }

    #[test]
    fn a_file_of_another_length_is_refused() {
        for said in [0, INLINE_MAX as u64, u64::MAX] {
            let (file, _) = spill(&mut vec![1; INLINE_MAX + 1]).unwrap().unwrap();
            assert!(unspill(file, said).is_err());
        }
    }
}
