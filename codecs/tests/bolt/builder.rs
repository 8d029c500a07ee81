//! Frames built from their parts, and what edits make of a list of headers: both in the plainest way and
//! apart from the codec.

use outrigger_codecs::rpc::HeaderEdit;

/// A key and a value; `None` is null.
pub(crate) type Header = (Option<Vec<u8>>, Option<Vec<u8>>);

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// `Some((ver1, switch))` of version 2.
    pub(crate) v2: Option<(u8, u8)>,
    /// 0 response, 1 request, 2 one-way.
    pub(crate) kind: u8,
    pub(crate) command: u16,
    pub(crate) ver2: u8,
    pub(crate) id: u32,
    pub(crate) codec: u8,
    /// Of requests.
    pub(crate) timeout: i32,
    /// Of responses.
    pub(crate) status: u16,
    pub(crate) class: Vec<u8>,
    pub(crate) headers: Vec<Header>,
    pub(crate) content: Vec<u8>,
}

impl Message {
    /// The frame, with a checksum where Java would put one, or where the switch alone says so.
    pub(crate) fn bytes(&self, by_switch_only: bool) -> Vec<u8> {
        let mut out = match self.v2 {
            None => vec![1],
            Some((ver1, _)) => vec![2, ver1],
        };
        out.push(self.kind);
        out.extend(self.command.to_be_bytes());
        out.push(self.ver2);
        out.extend(self.id.to_be_bytes());
        out.push(self.codec);
        out.extend(self.v2.map(|(_, switch)| switch));
        match self.kind {
            0 => out.extend(self.status.to_be_bytes()),
            _ => out.extend(self.timeout.to_be_bytes()),
        }
        let block = block(&self.headers);
        out.extend((self.class.len() as u16).to_be_bytes());
        out.extend((block.len() as u16).to_be_bytes());
        out.extend((self.content.len() as u32).to_be_bytes());
        out.extend(&self.class);
        out.extend(block);
        out.extend(&self.content);
        if let Some((ver1, switch)) = self.v2
            && switch & 1 == 1
            && (ver1 == 2 || by_switch_only)
        {
            let sum = plain_crc(&out);
            out.extend(sum.to_be_bytes());
        }
        out
    }
}

/// The header block.
pub(crate) fn block(headers: &[Header]) -> Vec<u8> {
    let mut out = Vec::new();
    for string in headers.iter().flat_map(|(key, value)| [key, value]) {
        match string {
            None => out.extend((-1_i32).to_be_bytes()),
            Some(string) => {
                out.extend((string.len() as i32).to_be_bytes());
                out.extend(string);
            }
        }
    }
    out
}

/// The headers of a block; `None` if it is not made of whole pairs.
pub(crate) fn read_block(mut block: &[u8]) -> Option<Vec<Header>> {
    let mut strings = Vec::new();
    while !block.is_empty() {
        let len = i32::from_be_bytes(block.get(..4)?.try_into().ok()?);
        block = &block[4..];
        if len == -1 {
            strings.push(None);
            continue;
        }
        let len = usize::try_from(len).ok()?;
        strings.push(Some(block.get(..len)?.to_vec()));
        block = &block[len..];
    }
    let pairs = strings.chunks(2).map(|pair| Some((pair[0].clone(), pair.get(1)?.clone())));
    pairs.collect()
}

/// Makes one edit after the other. A header with a null value counts as not there, but goes with the
/// others of its key.
pub(crate) fn edited(mut headers: Vec<Header>, edits: &[HeaderEdit<'_>]) -> Vec<Header> {
    for edit in edits {
        let (HeaderEdit::Remove(key)
        | HeaderEdit::Set(key, _)
        | HeaderEdit::SetIfAbsent(key, _)
        | HeaderEdit::Replace(key, _)) = *edit;
        let is_named = |header: &Header| header.0.as_deref() == Some(key);
        let is_present = headers.iter().any(|header| is_named(header) && header.1.is_some());
        match *edit {
            HeaderEdit::Remove(_) => headers.retain(|header| !is_named(header)),
            HeaderEdit::Set(_, value) => {
                headers.retain(|header| !is_named(header));
                headers.push((Some(key.to_vec()), Some(value.to_vec())));
            }
            HeaderEdit::SetIfAbsent(_, value) if !is_present => {
                headers.push((Some(key.to_vec()), Some(value.to_vec())));
            }
            HeaderEdit::SetIfAbsent(..) => {}
            HeaderEdit::Replace(_, value) => {
                for header in &mut headers {
                    if is_named(header) && header.1.is_some() {
                        header.1 = Some(value.to_vec());
                    }
                }
            }
        }
    }
    headers
}

/// CRC-32/ISO-HDLC, bit by bit.
pub(crate) fn plain_crc(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for &byte in bytes {
        sum ^= u32::from(byte);
        for _ in 0..8 {
            sum = sum >> 1 ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 };
        }
    }
    !sum
}
