//! `grpc-message`.

use crate::http::Put;

/// Writes a message as the value of `grpc-message`: what is not printable ASCII, and `%`, as `%XX`.
pub fn percent_encode<P: Put>(message: &[u8], out: &mut P) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in message {
        match byte {
            b' '..=b'$' | b'&'..=b'~' => out.put(&[byte]),
            _ => out.put(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_printable() {
        let mut out = Vec::new();
        percent_encode("a b%~\r\n\u{e9}\0".as_bytes(), &mut out);
        assert_eq!(out, b"a b%25~%0D%0A%C3%A9%00");
    }
}
