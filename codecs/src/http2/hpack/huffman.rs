//! The static Huffman code (RFC 7541 section 5.2 and appendix B).
//!
//! The code is canonical: symbols ordered by the length of their code, and by number within a length,
//! have consecutive codes. So all tables are made from [`LENGTHS`] when the crate is compiled.
//!
//! Decoding looks up [`SHORT_BITS`] bits at a time, enough for every symbol that header text is made
//! of but a few; the rest is found by the length of its code.

use super::HpackError;

/// Appends what `coded` stands for.
///
/// # Errors
///
/// [`HpackError::HuffmanEos`] and [`HpackError::HuffmanPadding`]; what precedes the fault has been
/// appended then.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), HpackError> {
    out.reserve(coded.len() * u8::BITS as usize / CODE_BITS_MIN as usize);
    let mut rest = coded;
    // The bits not decoded yet, the next one topmost, and zeros below them.
    let mut bits = 0_u64;
    let mut held = 0_u32;
    loop {
        if held < CODE_BITS_MAX {
            if let Some((word, after)) = rest.split_first_chunk() {
                bits |= u64::from(u32::from_be_bytes(*word)) << (u32::BITS - held);
                held += u32::BITS;
                rest = after;
            } else {
                for &byte in std::mem::take(&mut rest) {
                    bits |= u64::from(byte) << (u64::BITS - u8::BITS - held);
                    held += u8::BITS;
                }
            }
        }
        let (symbol, length) = match SHORT[(bits >> (u64::BITS - SHORT_BITS)) as usize] {
            (_, 0) => long_symbol(bits)?,
            (symbol, length) => (symbol, u32::from(length)),
        };
        if length > held {
            // Not a whole symbol is left. What is left must be padding: the start of EOS.
            let padding = !(u64::MAX.checked_shr(held).unwrap_or(0));
            let valid = held < u8::BITS && bits == padding;
            return if valid { Ok(()) } else { Err(HpackError::HuffmanPadding) };
        }
        out.push(symbol);
        bits <<= length;
        held -= length;
    }
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
/// Codes up to this length are decoded with one lookup. The table takes 2 KiB: it stays in the
/// nearest cache, and all symbols of URLs, tokens and dates are in it.
const SHORT_BITS: u32 = 10;

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

/// Symbol and length, by the first [`SHORT_BITS`] bits; length 0 says that the code is longer.
static SHORT: [(u8, u8); 1 << SHORT_BITS] = {
    let codes = codes();
    let mut table = [(0, 0); 1 << SHORT_BITS];
    let mut symbol = 0;
    while symbol < SYMBOLS {
        let (code, length) = codes[symbol];
        if length as u32 <= SHORT_BITS {
            let free_bits = SHORT_BITS - length as u32;
            let mut tail = 0;
            while tail < 1 << free_bits {
                table[(code << free_bits | tail) as usize] = (symbol as u8, length);
                tail += 1;
            }
        }
        symbol += 1;
    }
    table
};

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
