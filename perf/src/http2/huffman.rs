//! HPACK's Huffman code (RFC 7541 section 5.2 and appendix B), decoding only.
//!
//! The code is canonical: codes of one length are consecutive in the order of their symbols, and
//! shorter codes come before longer ones. So the lengths alone define it, and the decoding tables
//! are computed from them when this is compiled.

use super::Malformed;

/// Symbols: the 256 octets and the end of the string.
const SYMBOLS: usize = 257;
/// The symbol that ends a string and must not appear in one.
const END: u16 = 256;
const SHORTEST: usize = 5;
const LONGEST: usize = 30;

/// Bits of each symbol's code.
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

struct Code {
    /// Symbols in the order of their codes.
    symbols: [u16; SYMBOLS],
    /// By length: the first code above those of this length, as the upper bits of a word.
    above: [u32; LONGEST + 1],
    /// By length: place in `symbols` of its first code, minus that code.
    base: [i64; LONGEST + 1],
}

const CODE: Code = code();

const fn code() -> Code {
    let mut made = Code { symbols: [0; SYMBOLS], above: [0; LONGEST + 1], base: [0; LONGEST + 1] };
    let (mut length, mut next, mut place) = (1, 0_u64, 0);
    while length <= LONGEST {
        made.base[length] = place as i64 - next as i64;
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == length {
                made.symbols[place] = symbol as u16;
                place += 1;
                next += 1;
            }
            symbol += 1;
        }
        // The last code of all is all ones, so only its bound does not fit.
        let above = next << (32 - length);
        made.above[length] = if above > u32::MAX as u64 { u32::MAX } else { above as u32 };
        next <<= 1;
        length += 1;
    }
    made
}

/// Appends what `input` stands for.
///
/// # Errors
///
/// [`Malformed`] when it holds the end symbol, or ends in anything but up to seven ones.
pub(super) fn decode(input: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let (mut bits, mut count) = (0_u64, 0_usize);
    let mut rest = input.iter();
    loop {
        while count <= 32 {
            let Some(byte) = rest.next() else { break };
            bits = bits << 8 | u64::from(*byte);
            count += 8;
        }
        if count == 0 {
            return Ok(());
        }
        // What is missing at the end reads as ones, which is how padding looks.
        let missing = 32_usize.saturating_sub(count);
        let word = if missing > 0 {
            (bits << missing | ((1 << missing) - 1)) as u32
        } else {
            (bits >> (count - 32)) as u32
        };
        let length =
            (SHORTEST..LONGEST).find(|&length| word < CODE.above[length]).unwrap_or(LONGEST);
        if length > count {
            let padding = (1_u64 << count) - 1;
            return if count < 8 && bits & padding == padding { Ok(()) } else { Err(Malformed) };
        }
        let place = i64::from(word >> (32 - length)) + CODE.base[length];
        let symbol = CODE.symbols[usize::try_from(place).map_err(|_| Malformed)?];
        if symbol == END {
            return Err(Malformed);
        }
        out.push(symbol as u8);
        count -= length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(input: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut out = Vec::new();
        decode(input, &mut out).map(|()| out)
    }

    #[test]
    fn the_code_is_complete() {
        let kraft: u64 = LENGTHS.iter().map(|length| 1 << (LONGEST - usize::from(*length))).sum();
        assert_eq!(kraft, 1 << LONGEST);
    }

    #[test]
    fn examples_of_the_standard() {
        // RFC 7541 appendix C.4 and C.6.
        for (input, text) in [
            (&b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"[..], "www.example.com"),
            (b"\xa8\xeb\x10\x64\x9c\xbf", "no-cache"),
            (b"\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf", "custom-value"),
            (b"\x64\x02", "302"),
            (b"", ""),
        ] {
            assert_eq!(decoded(input).as_deref(), Ok(text.as_bytes()));
        }
    }

    #[test]
    fn every_code_is_as_others_have_it() {
        for symbol in 0..=u8::MAX {
            let place = CODE.symbols.iter().position(|&one| one == u16::from(symbol)).unwrap();
            let length = usize::from(LENGTHS[usize::from(symbol)]);
            let code = u64::try_from(place as i64 - CODE.base[length]).unwrap();
            // Eight of them are whole octets.
            let bits = (0..8 * length)
                .map(|bit| code >> (length - 1 - bit % length) & 1)
                .collect::<Vec<_>>();
            let coded: Vec<u8> = bits
                .chunks(8)
                .map(|octet| octet.iter().fold(0, |octet, bit| octet << 1 | *bit as u8))
                .collect();
            assert_eq!(decoded(&coded), Ok(vec![symbol; 8]));
            let block = [&[0x00, 1, b'n', 0x80 | coded.len() as u8][..], &coded].concat();
            let theirs = fluke_hpack::Decoder::new().decode(&block).unwrap();
            assert_eq!(theirs, [(b"n".to_vec(), vec![symbol; 8])]);
        }
    }

    #[test]
    fn refuses_bad_padding_and_the_end_symbol() {
        // '0' and three zeros; eight ones; the end symbol and two ones.
        for input in [&b"\x00"[..], b"\xff", b"\x07\xff", b"\xff\xff\xff\xff"] {
            assert_eq!(decoded(input), Err(Malformed), "{input:x?}");
        }
        assert_eq!(decoded(b"\x07").as_deref(), Ok(&b"0"[..]));
    }
}
