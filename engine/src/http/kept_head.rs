//! The head of a request that waits, in the form in which it came, to be read once more.

use outrigger_codecs::http::{FieldBlock, FieldStorage, RequestHead};
use outrigger_codecs::http1::HeadLimits;
use outrigger_codecs::http2::request_head;

/// A head.
#[derive(Default)]
pub(super) struct KeptHead {
    is_http2: bool,
    /// The request has no body.
    ends: bool,
    text: Vec<u8>,
    block: FieldBlock,
}

/// Where a head can be read once more.
#[derive(Clone, Copy)]
pub(super) enum HeadSource<'a> {
    /// The bytes of an HTTP/1 head.
    Text(&'a [u8]),
    /// A decoded header block of HTTP/2.
    Block(&'a FieldBlock),
}

impl KeptHead {
    /// Keeps `head`, which was read there.
    pub(super) fn keep(&mut self, head: &RequestHead<'_, '_>, source: HeadSource<'_>) {
        self.ends = head.framing.is_empty();
        match source {
            HeadSource::Text(text) => {
                self.is_http2 = false;
                self.text.clear();
                self.text.extend_from_slice(text);
            }
            HeadSource::Block(block) => {
                self.is_http2 = true;
                self.block.clear();
                for field in block.iter() {
                    self.block.push_as(field.name, field.value, field.kind, field.never_indexed);
                }
            }
        }
    }

    /// Where it is kept.
    pub(super) fn source(&self) -> HeadSource<'_> {
        if self.is_http2 { HeadSource::Block(&self.block) } else { HeadSource::Text(&self.text) }
    }

    /// The head once more.
    pub(super) fn read<'s, 'b>(
        &'b self,
        limits: &HeadLimits,
        storage: &'s mut FieldStorage<'b>,
    ) -> Option<RequestHead<'s, 'b>> {
        if self.is_http2 {
            return request_head(&self.block, self.ends, storage).ok();
        }
        RequestHead::parse(&self.text, storage, limits).ok().flatten()
    }

    /// Forgets everything but some memory.
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.text.shrink_to(KEPT_BYTES);
        self.block.clear();
        self.block.shrink_to(KEPT_BYTES);
    }
}

/// Room that is kept for the next head.
const KEPT_BYTES: usize = 2048;
