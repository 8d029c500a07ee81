//! Flow-control windows (RFC 9113 sections 5.2 and 6.9).
//!
//! The invariants: what the peer may send, what it has sent and is not consumed, and what is consumed
//! but not announced add up to the size of the window, so no sequence of calls lets the peer send
//! more than the size ahead; and what we may send never exceeds 2^31-1, and may be negative after the
//! peer has lowered its initial window.

/// The largest window there is.
pub(super) const WINDOW_MAX: u32 = 0x7fff_ffff;

/// The window of a connection, and of a stream without SETTINGS, when it starts.
pub(super) const WINDOW_INITIAL: u32 = 65_535;

/// What the peer may send to us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ReceiveWindow {
    /// Bytes that the peer may still send.
    pub available: u32,
    /// Bytes that were consumed and not announced yet.
    pub consumed: u32,
}

impl ReceiveWindow {
    pub(super) fn new(size: u32) -> Self {
        Self { available: size, consumed: 0 }
    }

    /// Takes `len` received bytes out of the window; false says that they overrun it.
    #[must_use]
    pub(super) fn take(&mut self, len: u32) -> bool {
        match self.available.checked_sub(len) {
            Some(left) => {
                self.available = left;
                true
            }
            None => false,
        }
    }

    /// Notes that `len` bytes were consumed. Once half of the window is, so that the peer can go on
    /// before it is shut, the answer is the increment to announce.
    pub(super) fn release(&mut self, len: usize, size: u32) -> Option<u32> {
        // Bytes that nobody received can't be released.
        let outstanding = size.saturating_sub(self.available + self.consumed);
        let len = u32::try_from(len).unwrap_or(u32::MAX).min(outstanding);
        self.consumed += len;
        if self.consumed == 0 || self.consumed < size / 2 {
            return None;
        }
        let increment = std::mem::take(&mut self.consumed);
        self.available += increment;
        Some(increment)
    }
}

/// What we may send: the sum of a base that many windows share and a balance of its own.
///
/// The base of a stream is the peer's SETTINGS_INITIAL_WINDOW_SIZE, so a change of it costs no pass
/// over the streams but the one that looks for overflows. The base of the connection is fixed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SendWindow {
    /// Increments received minus bytes sent.
    pub balance: i32,
}

impl SendWindow {
    /// Bytes that may be sent now; zero and below: none.
    pub(super) fn available(self, base: u32) -> i64 {
        i64::from(base) + i64::from(self.balance)
    }

    /// Adds an increment of WINDOW_UPDATE; false says that the window would grow past 2^31-1.
    #[must_use]
    pub(super) fn grow(&mut self, increment: u32, base: u32) -> bool {
        if self.available(base) + i64::from(increment) > i64::from(WINDOW_MAX) {
            return false;
        }
        // At most WINDOW_MAX above a base that is not negative, so it fits.
        self.balance = (i64::from(self.balance) + i64::from(increment)) as i32;
        true
    }

    /// Takes `len` bytes that are sent, which must be available.
    pub(super) fn spend(&mut self, len: u32, base: u32) {
        debug_assert!(i64::from(len) <= self.available(base).max(0), "more sent than allowed");
        self.balance = self.balance.saturating_sub_unsigned(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_are_due_at_half_of_the_window() {
        let mut window = ReceiveWindow::new(100);
        assert!(window.take(60));
        assert_eq!(window.release(49, 100), None);
        assert_eq!(window.release(1, 100), Some(50));
        assert_eq!(window, ReceiveWindow { available: 90, consumed: 0 });
        assert!(!window.take(91) && window.take(90));
        assert_eq!(window.release(usize::MAX, 100), Some(100));
        assert_eq!(window, ReceiveWindow::new(100));
        assert_eq!(window.release(1, 100), None, "nothing is outstanding");
    }

    #[test]
    fn the_largest_windows_neither_overflow_nor_wrap() {
        let mut window = ReceiveWindow::new(WINDOW_MAX);
        assert!(window.take(WINDOW_MAX) && !window.take(1));
        assert_eq!(window.release(WINDOW_MAX as usize, WINDOW_MAX), Some(WINDOW_MAX));

        let mut window = SendWindow::default();
        assert!(window.grow(WINDOW_MAX, 0) && !window.grow(1, 0));
        window.spend(WINDOW_MAX, 0);
        assert_eq!(window.available(0), 0);
        window.spend(WINDOW_MAX, WINDOW_MAX);
        assert_eq!(window.available(0), -i64::from(WINDOW_MAX), "the base was lowered to nothing");
        assert!(window.grow(WINDOW_MAX, WINDOW_MAX) && !window.grow(1, WINDOW_MAX));
    }
}
