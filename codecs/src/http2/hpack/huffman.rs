//! The static Huffman code (RFC 7541 section 5.2 and appendix B).
//!
//! The code is canonical: symbols ordered by the length of their code, and by number within a
//! length, have consecutive codes. So all tables are made from [`LENGTHS`] when the crate is
//! compiled.
//!
//! Decoding looks up [`SHORT_BITS`] bits at a time, which is two symbols of ordinary header text or
//! one of any but the rarest; those are found by the length of their code.

use super::HpackError;

/// Appends what `coded` stands for.
///
/// # Errors
///
/// [`HpackError::HuffmanEos`] and [`HpackError::HuffmanPadding`]; what is appended then means
/// nothing.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), HpackError> {
    let start = out.len();
    // Every lookup writes two symbols, though it may count one.
    out.resize(start + coded.len() * u8::BITS as usize / CODE_BITS_MIN as usize + 2, 0);
    let mut window = Window { bits: 0, held: 0 };
    let mut at = start;
    let (words, tail) = coded.as_chunks();
    for word in words {
        window.push_word(*word);
        // The next word fits when at most half of the window is held.
        while window.held > u32::BITS {
            let first = window.lookup();
            if first.count == 0 {
                let (symbol, length) = long_symbol(window.bits)?;
                out[at] = symbol;
                at += 1;
                window.drop_bits(length);
                continue;
            }
            at += first.write(out, at);
            window.drop_bits(first.length.into());
            // Nothing happens here if the code is a long one.
            let second = window.lookup();
            at += second.write(out, at);
            window.drop_bits(second.length.into());
        }
    }
    for &byte in tail {
        window.push_byte(byte);
    }
    loop {
        let pair = window.lookup();
        if pair.count > 0 && u32::from(pair.length) <= window.held {
            at += pair.write(out, at);
            window.drop_bits(pair.length.into());
            continue;
        }
        let (symbol, length) = match pair.count {
            0 => long_symbol(window.bits)?,
            _ => (pair.symbols[0], LENGTHS[usize::from(pair.symbols[0])].into()),
        };
        if length > window.held {
            break;
        }
        out[at] = symbol;
        at += 1;
        window.drop_bits(length);
    }
    out.truncate(at);
    if window.is_padding() { Ok(()) } else { Err(HpackError::HuffmanPadding) }
}

/// How many octets `text` takes when coded.
pub(super) fn coded_len(text: impl Iterator<Item = u8>) -> usize {
    let bits: usize = text.map(|byte| usize::from(CODES[usize::from(byte)].1)).sum();
    bits.div_ceil(u8::BITS as usize)
}

/// Appends the code of `text`.
pub(super) fn encode(text: impl Iterator<Item = u8>, out: &mut Vec<u8>) {
    let mut bits = 0_u64;
    let mut held = 0_u32;
    for byte in text {
        let (code, length) = CODES[usize::from(byte)];
        bits = bits << length | u64::from(code);
        held += u32::from(length);
        if held >= u32::BITS {
            held -= u32::BITS;
            out.extend_from_slice(&((bits >> held) as u32).to_be_bytes());
        }
    }
    let bytes = held.div_ceil(u8::BITS);
    let padding = bytes * u8::BITS - held;
    let last = bits << padding | ((1 << padding) - 1);
    let aligned = (last << (u32::BITS - bytes * u8::BITS)) as u32;
    out.extend_from_slice(&aligned.to_be_bytes()[..bytes as usize]);
}

/// The bits not decoded yet.
struct Window {
    /// The next bit is topmost; below the last one are zeros.
    bits: u64,
    /// How many there are.
    held: u32,
}

impl Window {
    /// Adds four octets behind what is held, half of the window at most.
    #[inline]
    fn push_word(&mut self, word: [u8; 4]) {
        self.bits |= u64::from(u32::from_be_bytes(word)) << (u32::BITS - self.held);
        self.held += u32::BITS;
    }

    #[inline]
    fn push_byte(&mut self, byte: u8) {
        self.bits |= u64::from(byte) << (u64::BITS - u8::BITS - self.held);
        self.held += u8::BITS;
    }

    /// What the next bits stand for, zeros included if fewer are held.
    #[inline]
    fn lookup(&self) -> Pair {
        SHORT[(self.bits >> (u64::BITS - SHORT_BITS)) as usize]
    }

    #[inline]
    fn drop_bits(&mut self, count: u32) {
        self.bits <<= count;
        self.held -= count;
    }

    /// Whether what is left is the start of EOS and less than an octet.
    fn is_padding(&self) -> bool {
        self.held < u8::BITS && self.bits == !(u64::MAX >> self.held)
    }
}

/// One or two symbols that a lookup finds; none if the code is longer than the lookup.
#[derive(Clone, Copy)]
struct Pair {
    symbols: [u8; 2],
    count: u8,
    /// The bits of the codes together.
    length: u8,
}

impl Pair {
    /// Writes both symbols and returns how many of them count.
    #[inline]
    fn write(self, out: &mut [u8], at: usize) -> usize {
        out[at..at + 2].copy_from_slice(&self.symbols);
        usize::from(self.count)
    }
}

/// The first symbol in `bits` if its code is longer than [`SHORT_BITS`].
#[cold]
fn long_symbol(bits: u64) -> Result<(u8, u32), HpackError> {
    let aligned = (bits >> (u64::BITS - CODE_BITS_MAX)) as u32;
    for length in SHORT_BITS + 1..=CODE_BITS_MAX {
        let group = &BY_LENGTH[length as usize];
        let code = aligned >> (CODE_BITS_MAX - length);
        if code < group.end {
            let place = u32::from(group.first_place) + code - group.first;
            return Ok((ORDER[place as usize] as u8, length));
        }
    }
    Err(HpackError::HuffmanEos)
}

/// The symbols whose codes have one length.
#[derive(Clone, Copy)]
struct Group {
    /// The first of their consecutive codes.
    first: u32,
    /// The code behind the last of them.
    end: u32,
    /// Where the symbol of the first code is in [`ORDER`].
    first_place: u16,
}

/// The lengths of the codes, by symbol; the last one is EOS (RFC 7541 appendix B).
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
     6, 10, 10, 12, 13,  6,  8, 11, 10, 10,  8, 11,  8,  6,  6,  6,
     5,  5,  5,  6,  6,  6,  6,  6,  6,  6,  7,  8, 15,  6, 12, 10,
    13,  6,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,
     7,  7,  7,  7,  7,  7,  7,  7,  8,  7,  8, 13, 19, 13, 14,  6,
    15,  5,  6,  5,  6,  5,  6,  6,  6,  5,  7,  7,  6,  6,  6,  5,
     6,  7,  6,  5,  5,  6,  7,  7,  7,  7,  7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// 256 octets and EOS.
const SYMBOLS: usize = 257;
const EOS: usize = 256;
const CODE_BITS_MIN: u32 = 5;
const CODE_BITS_MAX: u32 = 30;
/// Two codes of the most frequent symbols. The table takes 16 KiB, of which text meets a small
/// part.
const SHORT_BITS: u32 = 12;

/// The symbols in the order of their codes.
const ORDER: [u16; SYMBOLS] = {
    let mut order = [0; SYMBOLS];
    let mut place = 0;
    let mut length = CODE_BITS_MIN;
    while length <= CODE_BITS_MAX {
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as u32 == length {
                order[place] = symbol as u16;
                place += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    order
};

/// Code and length, by symbol.
static CODES: [(u32, u8); SYMBOLS] = codes();

/// What the next [`SHORT_BITS`] bits stand for.
static SHORT: [Pair; 1 << SHORT_BITS] = {
    let single = single_symbols();
    let mut table = single;
    let mut bits = 0;
    while bits < table.len() {
        let first = single[bits];
        let second = single[(bits << first.length) & (table.len() - 1)];
        if first.count > 0 && second.count > 0 && first.length + second.length <= SHORT_BITS as u8 {
            table[bits].symbols[1] = second.symbols[0];
            table[bits].count = 2;
            table[bits].length += second.length;
        }
        bits += 1;
    }
    table
};

/// The same with one symbol at most.
const fn single_symbols() -> [Pair; 1 << SHORT_BITS] {
    let codes = codes();
    let mut table = [Pair { symbols: [0; 2], count: 0, length: 0 }; 1 << SHORT_BITS];
    let mut symbol = 0;
    while symbol < SYMBOLS {
        let (code, length) = codes[symbol];
        if length as u32 <= SHORT_BITS {
            let free_bits = SHORT_BITS - length as u32;
            let mut tail = 0;
            while tail < 1 << free_bits {
                table[(code << free_bits | tail) as usize] =
                    Pair { symbols: [symbol as u8, 0], count: 1, length };
                tail += 1;
            }
        }
        symbol += 1;
    }
    table
}

/// The groups of codes, by length. EOS is in none.
static BY_LENGTH: [Group; CODE_BITS_MAX as usize + 1] = {
    let codes = codes();
    let mut groups = [Group { first: 0, end: 0, first_place: 0 }; CODE_BITS_MAX as usize + 1];
    let mut place = 0;
    while place < SYMBOLS {
        let symbol = ORDER[place] as usize;
        let (code, length) = codes[symbol];
        let group = &mut groups[length as usize];
        if group.end == 0 {
            group.first = code;
            group.first_place = place as u16;
        }
        if symbol != EOS {
            group.end = code + 1;
        }
        place += 1;
    }
    groups
};

const fn codes() -> [(u32, u8); SYMBOLS] {
    let mut codes = [(0, 0); SYMBOLS];
    let mut code = 0;
    let mut place = 0;
    while place < SYMBOLS {
        let symbol = ORDER[place] as usize;
        let length = LENGTHS[symbol];
        codes[symbol] = (code, length);
        place += 1;
        if place < SYMBOLS {
            code = (code + 1) << (LENGTHS[ORDER[place] as usize] - length);
        }
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coded(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(text.iter().copied(), &mut out);
        assert_eq!(out.len(), coded_len(text.iter().copied()));
        out
    }

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, HpackError> {
        let mut out = Vec::new();
        decode(coded, &mut out).map(|()| out)
    }

    /// Some rows of RFC 7541 appendix B, of every length of code.
    #[test]
    fn the_table_of_the_rfc() {
        for (symbol, code, length) in [
            (48, 0x0, 5),
            (116, 0x9, 5),
            (32, 0x14, 6),
            (117, 0x2d, 6),
            (58, 0x5c, 7),
            (122, 0x7b, 7),
            (38, 0xf8, 8),
            (90, 0xfd, 8),
            (33, 0x3f8, 10),
            (63, 0x3fc, 10),
            (39, 0x7fa, 11),
            (124, 0x7fc, 11),
            (35, 0xffa, 12),
            (0, 0x1ff8, 13),
            (126, 0x1ffd, 13),
            (94, 0x3ffc, 14),
            (60, 0x7ffc, 15),
            (123, 0x7ffe, 15),
            (92, 0x7fff0, 19),
            (208, 0x7fff2, 19),
            (128, 0xfffe6, 20),
            (230, 0x1fffe8, 21),
            (129, 0x3fffd2, 22),
            (1, 0x7fffd8, 23),
            (9, 0xffffea, 24),
            (235, 0x1ffffef, 25),
            (192, 0x3ffffe0, 26),
            (255, 0x3ffffee, 26),
            (254, 0x7fffff0, 27),
            (2, 0xfffffe2, 28),
            (249, 0xffffffe, 28),
            (10, 0x3ffffffc, 30),
            (22, 0x3ffffffe, 30),
            (EOS, 0x3fffffff, 30),
        ] {
            assert_eq!(CODES[symbol], (code, length), "symbol {symbol}");
        }
    }

    /// RFC 7541 appendices C.4 and C.6.
    #[test]
    fn the_examples_of_the_rfc() {
        for (text, code) in [
            ("www.example.com", &b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"[..]),
            ("no-cache", b"\xa8\xeb\x10\x64\x9c\xbf"),
            ("302", b"\x64\x02"),
            ("private", b"\xae\xc3\x77\x1a\x4b"),
            ("", b""),
        ] {
            assert_eq!(coded(text.as_bytes()), code);
            assert_eq!(decoded(code), Ok(text.as_bytes().to_vec()));
        }
    }

    #[test]
    fn every_octet_comes_back_after_every_other() {
        for first in 0..=255 {
            for second in 0..=255 {
                let text = [first, second, first, b'0'];
                assert_eq!(decoded(&coded(&text)), Ok(text.to_vec()));
            }
        }
        let all: Vec<u8> = (0..=255).cycle().take(1000).collect();
        assert_eq!(decoded(&coded(&all)), Ok(all));
    }

    #[test]
    fn padding_is_less_than_an_octet_of_ones() {
        for bad in [
            &b"\xff"[..],
            b"\xff\xff",
            b"\xff\xff\xff",
            b"\xff\xff\xff\xfa",
            b"\x00",
            b"\x06",
            b"\x1e",
            b"\xae\xc3\x77\x1a\x4b\xff",
            b"\xfe",
            b"\xf8\xfe",
        ] {
            assert_eq!(decoded(bad), Err(HpackError::HuffmanPadding), "{bad:x?}");
        }
        assert_eq!(decoded(b"\x07"), Ok(b"0".to_vec()));
        assert_eq!(decoded(b"\xf8"), Ok(b"&".to_vec()));
    }

    #[test]
    fn eos_is_refused_wherever_it_stands() {
        for bad in [
            &b"\xff\xff\xff\xff"[..],
            b"\xff\xff\xff\xfc",
            b"\x07\xff\xff\xff\xff\xff",
            b"\xf8\xff\xff\xff\xff\xf8\xf8",
        ] {
            assert_eq!(decoded(bad), Err(HpackError::HuffmanEos), "{bad:x?}");
        }
    }

    #[test]
    fn whatever_decodes_is_the_one_code_of_its_text() {
        // All strings of two octets, and of three with a few endings.
        for pair in 0..=u16::MAX {
            let [a, b] = pair.to_be_bytes();
            for code in [&[a, b][..], &[a, b, 0xff], &[a, b, 0x1f], &[a, b, b]] {
                if let Ok(text) = decoded(code) {
                    assert_eq!(coded(&text), code);
                }
            }
        }
    }
}
