//! Header values kept for the log until the request has ended.
//!
//! A [`CaptureSet`] is compiled with the configuration and says which headers any of a listener's
//! log formats reads; a [`Capture`] is the per-connection memory those values are copied into. A
//! request whose listener logs nothing copies nothing.

use outrigger_xds::snapshot::access_log::Format;
use outrigger_xds::snapshot::log_filter::LogFilter;

use super::render::Headers;

/// The headers that a set of formats reads, each with a slot in a [`Capture`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CaptureSet {
    /// Request headers, then response headers, then response trailers; slots are indexes.
    names: Box<[Box<str>]>,
    request_end: usize,
    response_end: usize,
}

impl CaptureSet {
    /// Everything that `formats` and `filters` read.
    pub fn of<'a>(
        formats: impl IntoIterator<Item = &'a Format>,
        filters: impl IntoIterator<Item = &'a LogFilter>,
    ) -> CaptureSet {
        let (mut request, mut response, mut trailers) = (Vec::new(), Vec::new(), Vec::new());
        for format in formats {
            extend_distinct(&mut request, format.request_headers());
            extend_distinct(&mut response, format.response_headers());
            extend_distinct(&mut trailers, format.response_trailers());
        }
        for filter in filters {
            extend_distinct(&mut request, filter.request_headers());
        }
        let request_end = request.len();
        let response_end = request_end + response.len();
        let names = request.into_iter().chain(response).chain(trailers).map(Box::from).collect();
        CaptureSet { names, request_end, response_end }
    }

    /// Request headers to keep: slot and name (lower case; `:method` and the like included).
    pub fn request_headers(&self) -> impl Iterator<Item = (u16, &str)> {
        self.slots(0, self.request_end)
    }

    /// Response headers to keep.
    pub fn response_headers(&self) -> impl Iterator<Item = (u16, &str)> {
        self.slots(self.request_end, self.response_end)
    }

    /// Response trailers to keep.
    pub fn response_trailers(&self) -> impl Iterator<Item = (u16, &str)> {
        self.slots(self.response_end, self.names.len())
    }

    /// Whether any response trailer is read.
    pub fn reads_trailers(&self) -> bool {
        self.response_end < self.names.len()
    }

    fn slots(&self, start: usize, end: usize) -> impl Iterator<Item = (u16, &str)> {
        (start as u16..).zip(self.names[start..end].iter().map(|name| &**name))
    }

    /// The slot of a request header.
    pub(super) fn request_slot(&self, name: &str) -> Option<u16> {
        self.find(0, self.request_end, name)
    }

    /// The slot of a response header.
    pub(super) fn response_slot(&self, name: &str) -> Option<u16> {
        self.find(self.request_end, self.response_end, name)
    }

    /// The slot of a response trailer.
    pub(super) fn trailer_slot(&self, name: &str) -> Option<u16> {
        self.find(self.response_end, self.names.len(), name)
    }

    fn find(&self, start: usize, end: usize, name: &str) -> Option<u16> {
        let at = self.names[start..end].iter().position(|known| **known == *name)?;
        Some((start + at) as u16)
    }
}

/// Header values of one request: one flat buffer and one span per slot.
///
/// The buffer keeps its memory over [`Capture::clear`], up to [`KEPT_BYTES_MAX`], so a connection
/// in its steady state does not allocate.
#[derive(Clone, Debug, Default)]
pub struct Capture {
    bytes: Vec<u8>,
    /// By slot.
    values: Vec<Span>,
}

impl Capture {
    /// Forgets all values, for the next request.
    pub fn clear(&mut self) {
        self.values.clear();
        self.bytes.clear();
        if self.bytes.capacity() > KEPT_BYTES_MAX {
            self.bytes.shrink_to(KEPT_BYTES_MAX);
        }
    }

    /// Keeps `value` for `slot`; the first value of a repeated header counts, as for Envoy.
    pub fn put(&mut self, slot: u16, value: &[u8]) {
        let index = usize::from(slot);
        if self.values.len() <= index {
            self.values.resize(index + 1, Span::NONE);
        }
        let (start, end) = (self.bytes.len(), self.bytes.len() + value.len());
        let (Ok(start), Ok(end)) = (u32::try_from(start), u32::try_from(end)) else { return };
        if self.values[index] == Span::NONE {
            self.bytes.extend_from_slice(value);
            self.values[index] = Span { start, end };
        }
    }

    /// The value kept for `slot`.
    pub fn get(&self, slot: u16) -> Option<&[u8]> {
        let span = *self.values.get(usize::from(slot))?;
        // The absent span is no range, so it has no bytes.
        self.bytes.get(span.start as usize..span.end as usize)
    }
}

/// A capture read by header name.
#[derive(Clone, Copy, Debug)]
pub struct Captured<'a> {
    /// Which slot is which header.
    pub set: &'a CaptureSet,
    /// The values.
    pub values: &'a Capture,
}

impl Headers for Captured<'_> {
    fn request(&self, name: &str) -> Option<&[u8]> {
        self.values.get(self.set.request_slot(name)?)
    }

    fn response(&self, name: &str) -> Option<&[u8]> {
        self.values.get(self.set.response_slot(name)?)
    }

    fn trailer(&self, name: &str) -> Option<&[u8]> {
        self.values.get(self.set.trailer_slot(name)?)
    }
}

/// Buffer memory a [`Capture`] keeps between requests; a rare huge header is given back.
pub const KEPT_BYTES_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// No value.
    const NONE: Span = Span { start: u32::MAX, end: 0 };
}

fn extend_distinct<'a>(names: &mut Vec<&'a str>, more: Vec<&'a str>) {
    for name in more {
        if !names.contains(&name) {
            names.push(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_of_a_slot_stays() {
        let mut capture = Capture::default();
        capture.put(3, b"one");
        capture.put(1, b"");
        capture.put(3, b"two");
        assert_eq!(capture.get(3), Some(&b"one"[..]));
        assert_eq!(capture.get(1), Some(&b""[..]));
        assert_eq!(capture.get(0), None);
    }

    #[test]
    fn clearing_keeps_small_memory_and_returns_large() {
        let mut capture = Capture::default();
        capture.put(0, &[b'x'; 100]);
        let small = capture.bytes.capacity();
        capture.clear();
        assert_eq!(capture.get(0), None);
        assert_eq!(capture.bytes.capacity(), small);
        capture.put(0, &[b'x'; KEPT_BYTES_MAX * 4]);
        capture.clear();
        assert!(capture.bytes.capacity() <= KEPT_BYTES_MAX);
    }
}
