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

#[cfg(test)]
pub(super) mod samples {
    fn der(tag: u8, content: &[&[u8]]) -> Vec<u8> {
        let content = content.concat();
        let mut out = vec![tag, 0x82];
        out.extend((content.len() as u16).to_be_bytes());
        // Lengths of DER are as short as they can be.
        match content.len() {
            len @ ..128 => drop(out.splice(1.., [len as u8])),
            len @ ..256 => drop(out.splice(1.., [0x81, len as u8])),
            _ => {}
        }
        out.extend(content);
        out
    }

    /// A response about the certificate with this serial number, which nobody signed.
    pub(in crate::tls) fn response(serial: &[u8], next_update: Option<&str>) -> Vec<u8> {
        let time = |text: &str| der(0x18, &[text.as_bytes()]);
        let algorithm = der(0x30, &[&der(0x06, &[&[0x2b, 0x0e, 0x03, 0x02, 0x1a]])]);
        let hash = der(0x04, &[&[7; 20]]);
        let id = der(0x30, &[&algorithm, &hash, &hash, &der(0x02, &[serial])]);
        let next = next_update.map(|at| der(0xa0, &[&time(at)])).unwrap_or_default();
        let good = der(0x80, &[]);
        let single = der(0x30, &[&id, &good, &time("20240101000000Z"), &next]);
        let responder = der(0xa2, &[&hash]);
        let made_at = time("20240101000000Z");
        let data = der(0x30, &[&responder, &made_at, &der(0x30, &[&single])]);
        let signature = der(0x03, &[&[0, 1, 2]]);
        let basic = der(0x30, &[&data, &algorithm, &signature]);
        let kind = der(0x06, &[&[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1]]);
        let bytes = der(0xa0, &[&der(0x30, &[&kind, &der(0x04, &[&basic])])]);
        der(0x30, &[&der(0x0a, &[&[0]]), &bytes])
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SerialNumber};

    use super::*;

    #[test]
    fn a_response_is_for_one_certificate_and_a_time() {
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from(0x1234_u64));
        let leaf = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let leaf = leaf.der();
        let good = samples::response(&[0x12, 0x34], Some("20300101000000Z"));
        let over = UnixTime::since_unix_epoch(Duration::from_secs(1_893_456_000));
        assert_eq!(check(&good, leaf), Ok(Some(over)));
        assert_eq!(check(&samples::response(&[0x12, 0x34], None), leaf), Ok(None));
        let other = samples::response(&[0x12, 0x35], None);
        assert_eq!(check(&other, leaf), Err("is for another certificate"));
        assert_eq!(check(&[0x30, 3, 0x0a, 1, 6], leaf), Err("says that the responder failed"));
        for len in 0..good.len() {
            assert_eq!(check(&good[..len], leaf), Err("is no OCSP response"));
        }
    }
}
