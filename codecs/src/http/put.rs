//! Where codecs write: any sink for bytes, and numbers as text.

/// Where rendered bytes go: a vector, a shard's arena, a counter.
pub trait Put {
    /// Appends `bytes`.
    fn put(&mut self, bytes: &[u8]);
}

impl Put for Vec<u8> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl<P: Put + ?Sized> Put for &mut P {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        (**self).put(bytes);
    }
}

/// The decimal digits of `number`, written to the end of `buffer`.
pub fn decimal(number: u64, buffer: &mut [u8; DECIMAL_LEN_MAX]) -> &[u8] {
    let mut at = buffer.len();
    let mut rest = number;
    loop {
        at -= 1;
        buffer[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            return &buffer[at..];
        }
    }
}

/// The decimal digits of 2^64-1.
pub(crate) const DECIMAL_LEN_MAX: usize = 20;
