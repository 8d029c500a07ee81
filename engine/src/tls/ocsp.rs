//! Reads just enough of an OCSP response to know whether stapling it makes sense (RFC 6960).
//!
//! Its signature is the client's to verify. Invariant: a response that is stapled names the
//! certificate it is stapled to.

use std::time::Duration;

use rustls_pki_types::UnixTime;
use x509_parser::asn1_rs::{Any, FromDer, GeneralizedTime, Tag};

use super::x509;

/// Checks that `response` is about the certificate `leaf`, and returns when it is over; nothing when
/// it never is.
///
/// # Errors
/// Says what is wrong with it, as an end of the sentence "the OCSP staple ...".
pub(super) fn check(response: &[u8], leaf: &[u8]) -> Result<Option<UnixTime>, &'static str> {
    let leaf = x509::parse(leaf).ok_or("is for a certificate that can't be read")?;
    let single = single_response(response)?;
    if single.serial != leaf.raw_serial() {
        return Err("is for another certificate");
    }
    Ok(single.next_update)
}

struct SingleResponse<'a> {
    serial: &'a [u8],
    next_update: Option<UnixTime>,
}

/// Walks down to the first of the responses.
fn single_response(response: &[u8]) -> Result<SingleResponse<'_>, &'static str> {
    const MALFORMED: &str = "is no OCSP response";
    let mut response = Fields::of(response, Tag::Sequence).ok_or(MALFORMED)?;
    let status = response.next().filter(|field| field.tag() == Tag::Enumerated);
    if status.ok_or(MALFORMED)?.data != [STATUS_SUCCESSFUL] {
        return Err("says that the responder failed");
    }
    let basic = || {
        let mut bytes = Fields::of(response.next()?.data, Tag::Sequence)?;
        let _kind = bytes.next().filter(|field| field.tag() == Tag::Oid)?;
        let basic = bytes.next().filter(|field| field.tag() == Tag::OctetString)?;
        let mut data =
            Fields::of(Fields::of(basic.data, Tag::Sequence)?.next_raw()?, Tag::Sequence)?;
        // [0] version is optional; then the responder's id, and when this was made.
        let mut field = data.next()?;
        if field.tag() == Tag(0) {
            field = data.next()?;
        }
        let _responder = field;
        let _produced_at = data.next().filter(|field| field.tag() == Tag::GeneralizedTime)?;
        let responses = data.next().filter(|field| field.tag() == Tag::Sequence)?;
        Fields(responses.data).next().filter(|field| field.tag() == Tag::Sequence)
    };
    let mut basic = basic;
    let first = basic().ok_or(MALFORMED)?;
    let mut fields = Fields(first.data);
    let read = || {
        let id = fields.next().filter(|field| field.tag() == Tag::Sequence)?;
        let serial = Fields(id.data).nth(3).filter(|field| field.tag() == Tag::Integer)?.data;
        let _status = fields.next()?;
        let _this_update = fields.next().filter(|field| field.tag() == Tag::GeneralizedTime)?;
        let next_update = match fields.next() {
            // [0] EXPLICIT.
            Some(field) if field.tag() == Tag(0) => {
                let (_, time) = GeneralizedTime::from_der(field.data).ok()?;
                let seconds = time.utc_datetime().ok()?.unix_timestamp();
                let since = Duration::from_secs(u64::try_from(seconds).ok()?);
                Some(UnixTime::since_unix_epoch(since))
            }
            _ => None,
        };
        Some(SingleResponse { serial, next_update })
    };
    let mut read = read;
    read().ok_or(MALFORMED)
}

/// The elements inside an element of DER, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// What is inside the one element that `bytes` are.
    fn of(bytes: &'a [u8], tag: Tag) -> Option<Self> {
        match Any::from_der(bytes) {
            Ok(([], any)) if any.tag() == tag => Some(Self(any.data)),
            _ => None,
        }
    }

    /// The next element with its header.
    fn next_raw(&mut self) -> Option<&'a [u8]> {
        let before = self.0;
        self.next()?;
        before.get(..before.len() - self.0.len())
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Any<'a>;

    fn next(&mut self) -> Option<Any<'a>> {
        let (rest, any) = Any::from_der(self.0).ok()?;
        self.0 = rest;
        Some(any)
    }
}

const STATUS_SUCCESSFUL: u8 = 0;
