//! Length-prefixed messages: `flags(1) length(4, big-endian) message(length)`.

/// Walks over a body and tells where its messages begin and end. Nothing is checked but the lengths,
/// because a proxy has no business with flags that it doesn't know.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct MessageWalk {
    /// Bytes of the prefix that were seen.
    prefix: u8,
    /// The length as far as it was read; behind the prefix, what is left of the message.
    length: u32,
}

/// How far one step of a walk went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MessageStep {
    /// Bytes it went over; all of them belong to one message.
    pub consumed: usize,
    /// The first of them is the first of its message.
    pub begins: bool,
    /// The last of them is the last of its message.
    pub ends: bool,
}

impl MessageWalk {
    /// Goes on to the end of the message, or of `bytes`.
    pub fn step(&mut self, bytes: &[u8]) -> MessageStep {
        let begins = self.prefix == 0 && !bytes.is_empty();
        let mut at = 0;
        while self.prefix < PREFIX_BYTES {
            let Some(&byte) = bytes.get(at) else {
                return MessageStep { consumed: at, begins, ends: false };
            };
            if self.prefix > 0 {
                self.length = self.length << 8 | u32::from(byte);
            }
            self.prefix += 1;
            at += 1;
        }
        let rest = u32::try_from(bytes.len() - at).unwrap_or(u32::MAX);
        let taken = rest.min(self.length);
        self.length -= taken;
        let ends = self.length == 0;
        if ends {
            self.prefix = 0;
        }
        MessageStep { consumed: at + taken as usize, begins, ends }
    }

    /// Goes over all of `bytes` and counts the messages that begin in them.
    pub fn count(&mut self, mut bytes: &[u8]) -> u64 {
        let mut begun = 0;
        while !bytes.is_empty() {
            let step = self.step(bytes);
            begun += u64::from(step.begins);
            bytes = &bytes[step.consumed..];
        }
        begun
    }
}

/// One byte of flags, four of length.
const PREFIX_BYTES: u8 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_one_by_one() {
        let mut walk = MessageWalk::default();
        let body = b"\0\0\0\0\x02hi\x01\0\0\0\0\0\0\0\x01\0";
        let step = |consumed, begins, ends| MessageStep { consumed, begins, ends };
        assert_eq!(walk.step(body), step(7, true, true));
        assert_eq!(walk.step(&body[7..]), step(5, true, true));
        assert_eq!(walk.step(&body[12..]), step(5, true, false));
        assert_eq!(walk.step(&[]), step(0, false, false));
        assert_eq!(walk.step(&[b'x'; 300]), step(256, false, true));
        assert_eq!(walk, MessageWalk::default());
    }

    #[test]
    fn a_message_counts_at_its_first_byte() {
        let mut walk = MessageWalk::default();
        assert_eq!(walk.count(b"\0"), 1);
        assert_eq!(walk.count(b"\0\0\0\x01"), 0);
        assert_eq!(walk.count(b"x\0\0\0\0\0\0"), 2);
        assert_eq!(walk.count(b""), 0);
    }

    #[test]
    fn the_longest_message_has_its_length() {
        let mut walk = MessageWalk::default();
        assert_eq!(walk.count(b"\0\xff\xff\xff\xff"), 1);
        assert_eq!(walk.length, u32::MAX);
        assert!(!walk.step(b"x").ends);
        assert_eq!(walk.length, u32::MAX - 1);
    }
}
