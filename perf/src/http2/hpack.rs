//! HPACK (RFC 7541): a complete decoder, and an encoder for the few fields that a load repeats.
//!
//! The encoder does as usual clients and servers do: what repeats goes into the dynamic table and is
//! one byte from then on, what differs from request to request (`:path`, `content-length`) does not.
//! It never evicts, because all that it ever inserts fits; it does not use the Huffman code, whose
//! decoding would be the same small cost for every proxy.

use std::collections::VecDeque;

use super::{Malformed, huffman};

/// Table size in force until SETTINGS say otherwise (RFC 9113 section 6.5.2). Ours don't.
pub const TABLE_BYTES: usize = 4096;
/// What an entry counts besides its text (RFC 7541 section 4.1).
const ENTRY_OVERHEAD: usize = 32;
/// Longest name or value after decoding: far beyond what a measurement meets.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// The static table (RFC 7541 appendix A); its first entry has index 1.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// The fields of one header block, in one buffer that is used again.
#[derive(Debug, Default)]
pub struct Fields {
    text: Vec<u8>,
    /// Ends of name and value.
    ends: Vec<(usize, usize)>,
}

impl Fields {
    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut start = 0;
        self.ends.iter().map(move |&(name, value)| {
            let field = (&self.text[start..name], &self.text[name..value]);
            start = value;
            field
        })
    }

    fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }
}

/// One direction's decoding state.
#[derive(Debug)]
pub struct Decoder {
    /// Newest first.
    table: VecDeque<Entry>,
    table_bytes: usize,
    table_bytes_max: usize,
}

#[derive(Debug)]
struct Entry {
    text: Box<[u8]>,
    name_bytes: usize,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.text.len() + ENTRY_OVERHEAD
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self { table: VecDeque::new(), table_bytes: 0, table_bytes_max: TABLE_BYTES }
    }
}

impl Decoder {
    /// Decodes a whole header block into `fields`, in place of what was there.
    ///
    /// # Errors
    ///
    /// [`Malformed`]; then the connection's state is lost.
    pub fn decode(&mut self, mut block: &[u8], fields: &mut Fields) -> Result<(), Malformed> {
        fields.clear();
        while let Some(&first) = block.first() {
            match first {
                // Indexed field.
                0x80.. => {
                    let index = integer(&mut block, 7)?;
                    self.push_name(index, fields)?;
                    let name = fields.text.len();
                    self.push_value(index, fields)?;
                    fields.ends.push((name, fields.text.len()));
                }
                // Literal with incremental indexing.
                0x40.. => {
                    let start = fields.text.len();
                    let name = self.literal(&mut block, 6, fields)?;
                    let text: Box<[u8]> = fields.text[start..].into();
                    self.insert(Entry { text, name_bytes: name - start });
                }
                // Size update.
                0x20.. => {
                    let size = integer(&mut block, 5)?;
                    if size > TABLE_BYTES {
                        return Err(Malformed);
                    }
                    self.table_bytes_max = size;
                    self.evict(0);
                }
                // Literal without indexing, or never indexed.
                _ => {
                    self.literal(&mut block, 4, fields)?;
                }
            }
        }
        Ok(())
    }

    /// Reads name and value, appends both, and returns the end of the name.
    fn literal(
        &self,
        block: &mut &[u8],
        prefix: u32,
        fields: &mut Fields,
    ) -> Result<usize, Malformed> {
        match integer(block, prefix)? {
            0 => text(block, &mut fields.text)?,
            index => self.push_name(index, fields)?,
        }
        let name = fields.text.len();
        text(block, &mut fields.text)?;
        fields.ends.push((name, fields.text.len()));
        Ok(name)
    }

    fn push_name(&self, index: usize, fields: &mut Fields) -> Result<(), Malformed> {
        match (index.checked_sub(1), index.checked_sub(STATIC.len() + 1)) {
            (_, Some(place)) => {
                let entry = self.table.get(place).ok_or(Malformed)?;
                fields.text.extend_from_slice(&entry.text[..entry.name_bytes]);
            }
            (Some(place), None) => fields.text.extend_from_slice(STATIC[place].0.as_bytes()),
            (None, None) => return Err(Malformed),
        }
        Ok(())
    }

    fn push_value(&self, index: usize, fields: &mut Fields) -> Result<(), Malformed> {
        match (index.checked_sub(1), index.checked_sub(STATIC.len() + 1)) {
            (_, Some(place)) => {
                let entry = self.table.get(place).ok_or(Malformed)?;
                fields.text.extend_from_slice(&entry.text[entry.name_bytes..]);
            }
            (Some(place), None) => fields.text.extend_from_slice(STATIC[place].1.as_bytes()),
            (None, None) => return Err(Malformed),
        }
        Ok(())
    }

    fn insert(&mut self, entry: Entry) {
        let bytes = entry.bytes();
        self.evict(bytes);
        if bytes <= self.table_bytes_max {
            self.table_bytes += bytes;
            self.table.push_front(entry);
        }
    }

    /// Makes room for so many bytes, or empties the table.
    fn evict(&mut self, bytes: usize) {
        while self.table_bytes + bytes > self.table_bytes_max {
            let Some(entry) = self.table.pop_back() else { return };
            self.table_bytes -= entry.bytes();
        }
    }
}

/// Reads an integer whose first octet has so many bits of it (RFC 7541 section 5.1).
fn integer(block: &mut &[u8], prefix: u32) -> Result<usize, Malformed> {
    /// Octets of any number that fits where numbers are used.
    const OCTETS_MAX: u32 = 4;
    let (first, mut rest) = block.split_first().ok_or(Malformed)?;
    let mask = (1_usize << prefix) - 1;
    let mut value = usize::from(*first) & mask;
    if value == mask {
        for octet in 0.. {
            let (next, after) = rest.split_first().ok_or(Malformed)?;
            rest = after;
            if octet == OCTETS_MAX {
                return Err(Malformed);
            }
            value += usize::from(next & 0x7f) << (7 * octet);
            if next & 0x80 == 0 {
                break;
            }
        }
    }
    *block = rest;
    Ok(value)
}

/// Reads a string and appends it.
fn text(block: &mut &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let coded = block.first().ok_or(Malformed)? & 0x80 != 0;
    let length = integer(block, 7)?;
    if length > TEXT_BYTES_MAX {
        return Err(Malformed);
    }
    let (text, rest) = block.split_at_checked(length).ok_or(Malformed)?;
    *block = rest;
    if coded {
        huffman::decode(text, out)
    } else {
        out.extend_from_slice(text);
        Ok(())
    }
}

/// One direction's encoding state.
#[derive(Debug, Default)]
pub struct Encoder {
    /// Oldest first.
    inserted: Vec<(String, String)>,
    inserted_bytes: usize,
    /// The peer keeps no table of the usual size: nothing is inserted any more.
    off: bool,
    /// The next block must say so.
    announce: bool,
}

impl Encoder {
    /// What the peer's SETTINGS_HEADER_TABLE_SIZE means to us: with less than the usual size we do
    /// without a table.
    pub fn limit_table(&mut self, bytes: u32) {
        if (bytes as usize) < TABLE_BYTES && !self.off {
            self.off = true;
            self.announce = true;
            self.inserted.clear();
        }
    }

    /// Begins a block.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if self.announce {
            self.announce = false;
            put_integer(out, 0x20, 5, 0);
        }
    }

    /// Appends a field that will come again, and returns whether the encoding will be the same then.
    pub fn repeated(&mut self, name: &str, value: &str, out: &mut Vec<u8>) -> bool {
        if let Some(place) = STATIC.iter().position(|entry| *entry == (name, value)) {
            put_integer(out, 0x80, 7, place + 1);
            return true;
        }
        if let Some(place) = self.inserted.iter().position(|(n, v)| n == name && v == value) {
            put_integer(out, 0x80, 7, STATIC.len() + self.inserted.len() - place);
            return true;
        }
        let bytes = name.len() + value.len() + ENTRY_OVERHEAD;
        if self.off || self.inserted_bytes + bytes > TABLE_BYTES {
            self.once(name, value, out);
            return true;
        }
        put_literal(out, 0x40, 6, name, value);
        self.inserted.push((name.to_owned(), value.to_owned()));
        self.inserted_bytes += bytes;
        false
    }

    /// Appends a field without indexing it.
    pub fn once(&self, name: &str, value: &str, out: &mut Vec<u8>) {
        match STATIC.iter().position(|entry| *entry == (name, value)) {
            Some(place) => put_integer(out, 0x80, 7, place + 1),
            None => put_literal(out, 0x00, 4, name, value),
        }
    }
}

fn put_literal(out: &mut Vec<u8>, pattern: u8, prefix: u32, name: &str, value: &str) {
    match STATIC.iter().position(|entry| entry.0 == name) {
        Some(place) => put_integer(out, pattern, prefix, place + 1),
        None => {
            out.push(pattern);
            put_text(out, name);
        }
    }
    put_text(out, value);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_integer(out, 0x00, 7, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn put_integer(out: &mut Vec<u8>, pattern: u8, prefix: u32, value: usize) {
    let mask = (1_usize << prefix) - 1;
    if value < mask {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | mask as u8);
    let mut left = value - mask;
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Owned = Vec<(Vec<u8>, Vec<u8>)>;

    fn decoded(decoder: &mut Decoder, block: &[u8]) -> Result<Owned, Malformed> {
        let mut fields = Fields::default();
        decoder.decode(block, &mut fields)?;
        Ok(fields.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    fn owned(fields: &[(&str, &str)]) -> Owned {
        fields
            .iter()
            .map(|(name, value)| (name.as_bytes().into(), value.as_bytes().into()))
            .collect()
    }

    #[test]
    fn requests_of_the_standard() {
        // RFC 7541 appendix C.4: three requests on one connection, Huffman-coded.
        let mut decoder = Decoder::default();
        let common = [(":method", "GET"), (":scheme", "http"), (":path", "/")];
        let first = decoded(
            &mut decoder,
            b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff",
        );
        assert_eq!(first, Ok(owned(&[&common[..], &[(":authority", "www.example.com")]].concat())));
        let second = decoded(&mut decoder, b"\x82\x86\x84\xbe\x58\x86\xa8\xeb\x10\x64\x9c\xbf");
        let fields =
            [&common[..], &[(":authority", "www.example.com"), ("cache-control", "no-cache")]];
        assert_eq!(second, Ok(owned(&fields.concat())));
        let third = decoded(
            &mut decoder,
            b"\x82\x87\x85\xbf\x40\x88\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f\x89\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf",
        );
        assert_eq!(third.unwrap().last(), owned(&[("custom-key", "custom-value")]).last());
        assert_eq!(decoder.table_bytes, 164);
    }

    #[test]
    fn refuses_what_has_no_meaning() {
        for block in [
            &b"\x80"[..],                    // index 0
            b"\xbe",                         // beyond the table
            b"\x3f\xe2\x1f",                 // a table above the limit
            b"\x00\x05abc",                  // a string that is not all there
            b"\xff\xff\xff\xff\xff\xff\x0f", // a number without end
            b"\x40",
        ] {
            assert_eq!(decoded(&mut Decoder::default(), block), Err(Malformed), "{block:x?}");
        }
    }

    #[test]
    fn repeated_fields_become_one_byte() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let mut block = |encoder: &mut Encoder| {
            let mut out = Vec::new();
            encoder.begin(&mut out);
            let mut same = encoder.repeated(":method", "GET", &mut out);
            same &= encoder.repeated("te", "trailers", &mut out);
            encoder.once(":path", "/b/1", &mut out);
            same &= encoder.repeated("user-agent", "it", &mut out);
            let expected =
                [(":method", "GET"), ("te", "trailers"), (":path", "/b/1"), ("user-agent", "it")];
            assert_eq!(decoded(&mut decoder, &out), Ok(owned(&expected)));
            (same, out.len())
        };
        assert!(!block(&mut encoder).0);
        assert_eq!(block(&mut encoder), (true, 9));
        assert_eq!(block(&mut encoder), (true, 9));
        encoder.limit_table(0);
        let (same, bytes) = block(&mut encoder);
        assert!(same && bytes > 9);
        assert_eq!(block(&mut encoder), (true, bytes - 1));
    }

    proptest! {
        #[test]
        fn agrees_with_another_encoder(blocks in proptest::collection::vec(
            proptest::collection::vec(("[a-z]{1,9}", "[ -~]{0,200}"), 0..12), 1..8,
        )) {
            let (mut encoder, mut decoder) = (fluke_hpack::Encoder::new(), Decoder::default());
            for block in blocks {
                let fields: Owned = block.into_iter()
                    .map(|(name, value)| (name.into_bytes(), value.into_bytes())).collect();
                let coded = encoder.encode(fields.iter().map(|(n, v)| (&n[..], &v[..])));
                prop_assert_eq!(decoded(&mut decoder, &coded), Ok(fields));
            }
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(block in proptest::collection::vec(any::<u8>(), 0..200)) {
            // What it means is not asked: the other decoder panics on some.
            let mut decoder = Decoder::default();
            let _ = decoded(&mut decoder, &block);
            prop_assert!(decoder.table_bytes <= TABLE_BYTES);
        }
    }
}
