//! What an entry's user data says: which operation on which slot.

/// The kinds of operation that a completion can be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Op {
    Accept = 1,
    /// Cancel, close, and timeout removal: nothing waits for them.
    Aside = 2,
    Connect = 3,
    Bell = 4,
    Receive = 5,
    /// A first attempt that the kernel completes while it takes the entry.
    Send = 6,
    Timeout = 7,
}

/// Packs an operation and a slot.
pub(super) fn pack(op: Op, slot: u32) -> u64 {
    u64::from(op as u8) << 32 | u64::from(slot)
}

/// The reverse of [`pack`]. Nothing for a value we never made.
pub(super) fn unpack(token: u64) -> Option<(Op, u32)> {
    let op = match (token >> 32) as u8 {
        1 => Op::Accept,
        2 => Op::Aside,
        3 => Op::Connect,
        4 => Op::Bell,
        5 => Op::Receive,
        6 => Op::Send,
        7 => Op::Timeout,
        _ => return None,
    };
    Some((op, token as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip() {
        for op in [Op::Accept, Op::Aside, Op::Connect, Op::Bell, Op::Receive, Op::Send, Op::Timeout]
        {
            assert_eq!(unpack(pack(op, u32::MAX)), Some((op, u32::MAX)));
        }
        assert_eq!(unpack(0), None);
    }
}
