//! Who a workload is, as Istio's proxies tell each other: a protobuf Struct of a few well-known names
//! (xds.md B9), in base64 where it is a header.
//!
//! Only what is known by name is read, and nothing nested but the labels, so that reading takes one pass
//! whatever was sent. Invariant: what a peer says of itself is text of bounded length.

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use thiserror::Error;

/// A workload. Parts that are not known are empty.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Workload {
    /// The instance: a pod, for one.
    pub instance: String,
    /// Where it runs.
    pub namespace: String,
    /// The workload.
    pub name: String,
    /// The cluster of machines.
    pub cluster: String,
    /// The service that it is part of.
    pub canonical_name: String,
    /// Which revision of it.
    pub canonical_revision: String,
    /// Label `app`.
    pub app: String,
    /// Label `version`.
    pub version: String,
    /// What made it.
    pub owner: String,
    /// Other labels, those that were asked for, by name.
    pub labels: Vec<(String, String)>,
}

/// What a peer sent can't be read.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum WorkloadError {
    /// It is no base64.
    #[error("not base64")]
    Base64,
    /// It is no protobuf message.
    #[error("not a protobuf message")]
    Malformed,
    /// A text is no UTF-8.
    #[error("not UTF-8")]
    Encoding,
    /// A text is longer than [`TEXT_BYTES_MAX`].
    #[error("a text is longer than {TEXT_BYTES_MAX} bytes")]
    TooLong,
}

impl Workload {
    /// Reads a header's value; `labels` are kept beside those that have a field.
    ///
    /// # Errors
    /// See [`WorkloadError`].
    pub fn from_header<L: AsRef<str>>(
        header: &[u8],
        labels: &[L],
    ) -> Result<Workload, WorkloadError> {
        let bytes = BASE64.decode(header).map_err(|_| WorkloadError::Base64)?;
        Workload::from_struct(&bytes, labels)
    }

    /// Reads an encoded `google.protobuf.Struct`.
    ///
    /// # Errors
    /// See [`WorkloadError`].
    pub fn from_struct<L: AsRef<str>>(
        bytes: &[u8],
        labels: &[L],
    ) -> Result<Workload, WorkloadError> {
        let mut workload = Workload::default();
        for member in members(bytes) {
            let (key, value) = member?;
            match (key, value) {
                (b"LABELS", Value::Struct(bytes)) => workload.read_labels(bytes, labels)?,
                (b"NAME", Value::Text(text)) => workload.instance = owned(text)?,
                (b"NAMESPACE", Value::Text(text)) => workload.namespace = owned(text)?,
                (b"WORKLOAD_NAME", Value::Text(text)) => workload.name = owned(text)?,
                (b"CLUSTER_ID", Value::Text(text)) => workload.cluster = owned(text)?,
                (b"OWNER", Value::Text(text)) => workload.owner = owned(text)?,
                _ => {}
            }
        }
        Ok(workload)
    }

    /// Reads what an endpoint's metadata says: `name;namespace;service;revision;cluster`.
    #[must_use]
    pub fn from_endpoint(text: &str) -> Option<Workload> {
        let mut parts = text.split(';');
        let mut next = || Some(parts.next()?.to_owned());
        Some(Workload {
            name: next()?,
            namespace: next()?,
            canonical_name: next()?,
            canonical_revision: next()?,
            cluster: next()?,
            ..Workload::default()
        })
    }

    fn read_labels<L: AsRef<str>>(
        &mut self,
        bytes: &[u8],
        wanted: &[L],
    ) -> Result<(), WorkloadError> {
        for member in members(bytes) {
            let (key, Value::Text(text)) = member? else { continue };
            match key {
                CANONICAL_NAME => self.canonical_name = owned(text)?,
                CANONICAL_REVISION => self.canonical_revision = owned(text)?,
                b"app" => self.app = owned(text)?,
                b"version" => self.version = owned(text)?,
                key if wanted.iter().any(|wanted| wanted.as_ref().as_bytes() == key) => {
                    self.labels.push((owned(key)?, owned(text)?));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The header's value.
    #[must_use]
    pub fn to_header(&self) -> String {
        BASE64.encode(self.to_struct())
    }

    /// The encoded `google.protobuf.Struct`, members in the order of their names.
    #[must_use]
    pub fn to_struct(&self) -> Vec<u8> {
        let text = |name: &str| name.as_bytes().to_vec();
        let mut labels: Vec<(Vec<u8>, Vec<u8>)> = vec![
            (CANONICAL_NAME.to_vec(), text(&self.canonical_name)),
            (CANONICAL_REVISION.to_vec(), text(&self.canonical_revision)),
            (text("app"), text(&self.app)),
            (text("version"), text(&self.version)),
        ];
        labels.extend(self.labels.iter().map(|(name, value)| (text(name), text(value))));
        labels.sort();
        let mut of_labels = Vec::new();
        for (name, value) in labels.iter().filter(|(_, value)| !value.is_empty()) {
            put_member(&mut of_labels, name, STRING_VALUE, value);
        }
        let mut out = Vec::new();
        let put = |out: &mut Vec<u8>, name: &str, value: &str| {
            if !value.is_empty() {
                put_member(out, name.as_bytes(), STRING_VALUE, value.as_bytes());
            }
        };
        put(&mut out, "CLUSTER_ID", &self.cluster);
        put_member(&mut out, b"LABELS", STRUCT_VALUE, &of_labels);
        put(&mut out, "NAME", &self.instance);
        put(&mut out, "NAMESPACE", &self.namespace);
        put(&mut out, "OWNER", &self.owner);
        put(&mut out, "WORKLOAD_NAME", &self.name);
        out
    }
}

fn owned(text: &[u8]) -> Result<String, WorkloadError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(WorkloadError::TooLong);
    }
    std::str::from_utf8(text).map(str::to_owned).map_err(|_| WorkloadError::Encoding)
}

// ---- the wire --------------------------------------------------------------------------------------

/// A value, as far as values are looked at.
#[derive(Clone, Copy)]
enum Value<'b> {
    Text(&'b [u8]),
    Struct(&'b [u8]),
    Other,
}

/// The members of an encoded Struct: its field 1, each a message of a key and a Value.
fn members(bytes: &[u8]) -> impl Iterator<Item = Result<(&[u8], Value<'_>), WorkloadError>> {
    Fields(bytes).filter_map(|field| match field {
        Ok((1, Some(entry))) => Some(member(entry)),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    })
}

fn member(entry: &[u8]) -> Result<(&[u8], Value<'_>), WorkloadError> {
    let (mut key, mut value) = (&entry[..0], Value::Other);
    for field in Fields(entry) {
        match field? {
            (1, Some(name)) => key = name,
            (2, Some(message)) => {
                for field in Fields(message) {
                    match field? {
                        (STRING_VALUE, Some(text)) => value = Value::Text(text),
                        (STRUCT_VALUE, Some(members)) => value = Value::Struct(members),
                        (1..=6, _) => value = Value::Other,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok((key, value))
}

/// The fields of an encoded message: their numbers, and the content of those that have a length.
struct Fields<'b>(&'b [u8]);

impl<'b> Fields<'b> {
    fn read(&mut self) -> Option<(u64, Option<&'b [u8]>)> {
        let tag = self.varint()?;
        let content = match tag & 7 {
            0 => self.varint().map(|_| None)?,
            1 => self.take(8).map(|_| None)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Some(self.take(length)?)
            }
            5 => self.take(4).map(|_| None)?,
            _ => return None,
        };
        Some((tag >> 3, content))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

impl<'b> Iterator for Fields<'b> {
    type Item = Result<(u64, Option<&'b [u8]>), WorkloadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_none() {
            // Nothing more can be read.
            self.0 = &[];
        }
        Some(field.ok_or(WorkloadError::Malformed))
    }
}

/// A member of a Struct whose value is field `kind` of a Value.
fn put_member(out: &mut Vec<u8>, name: &[u8], kind: u64, content: &[u8]) {
    let mut value = Vec::new();
    put_field(&mut value, kind, content);
    let mut entry = Vec::new();
    put_field(&mut entry, 1, name);
    put_field(&mut entry, 2, &value);
    put_field(out, 1, &entry);
}

fn put_field(out: &mut Vec<u8>, number: u64, content: &[u8]) {
    put_varint(out, number << 3 | 2);
    put_varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The longest text that is taken: several times what a name in Kubernetes may have.
pub const TEXT_BYTES_MAX: usize = 1024;

const CANONICAL_NAME: &[u8] = b"service.istio.io/canonical-name";
const CANONICAL_REVISION: &[u8] = b"service.istio.io/canonical-revision";

// Fields of google.protobuf.Value.
const STRING_VALUE: u64 = 3;
const STRUCT_VALUE: u64 = 5;

/// Written with padding, read with or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn web() -> Workload {
        let text = str::to_owned;
        Workload {
            instance: text("web-1"),
            namespace: text("shop"),
            name: text("web"),
            cluster: text("Kubernetes"),
            canonical_name: text("web"),
            canonical_revision: text("v1"),
            app: text("web"),
            version: text("v1"),
            owner: text("kubernetes://apis/apps/v1/namespaces/shop/deployments/web"),
            labels: vec![(text("role"), text("front"))],
        }
    }

    const NO_LABELS: &[&str] = &[];

    #[test]
    fn b_9_a_workload_survives_the_way_through_a_header() {
        let header = web().to_header();
        assert_eq!(Workload::from_header(header.as_bytes(), &["role"]), Ok(web()));
        let unpadded = header.trim_end_matches('=');
        assert_eq!(Workload::from_header(unpadded.as_bytes(), &["role"]), Ok(web()));
        let without = Workload { labels: Vec::new(), ..web() };
        assert_eq!(Workload::from_header(header.as_bytes(), NO_LABELS), Ok(without));
        let nobody = Workload::default();
        assert_eq!(Workload::from_header(nobody.to_header().as_bytes(), NO_LABELS), Ok(nobody));
    }

    #[test]
    fn b_9_the_encoding_is_protobufs() {
        let workload = Workload { name: "w".to_owned(), ..Workload::default() };
        let expected: &[u8] =
            b"\x0a\x0c\x0a\x06LABELS\x12\x02\x2a\x00\x0a\x14\x0a\x0dWORKLOAD_NAME\x12\x03\x1a\x01w";
        assert_eq!(workload.to_struct(), expected);
    }

    #[test]
    fn b_9_values_of_other_kinds_say_nothing() {
        // NAME is a number, WORKLOAD_NAME a boolean and then text: the last of a oneof counts.
        let bytes: &[u8] = b"\x0a\x11\x0a\x04NAME\x12\x09\x11\0\0\0\0\0\0\xf0\x3f\
            \x0a\x16\x0a\x0dWORKLOAD_NAME\x12\x05\x20\x01\x1a\x01w";
        let workload = Workload::from_struct(bytes, NO_LABELS).unwrap();
        assert_eq!((&*workload.instance, &*workload.name), ("", "w"));
    }

    #[test]
    fn b_9_what_cannot_be_read_is_refused() {
        let long = Workload { name: "x".repeat(TEXT_BYTES_MAX + 1), ..Workload::default() };
        for (header, error) in [
            (&b"not base64!"[..], WorkloadError::Base64),
            (b"Cg==", WorkloadError::Malformed),
            (b"CgD/////////////", WorkloadError::Malformed),
            (long.to_header().as_bytes(), WorkloadError::TooLong),
        ] {
            assert_eq!(Workload::from_header(header, NO_LABELS), Err(error));
        }
        let bytes = b"\x0a\x0b\x0a\x04NAME\x12\x03\x1a\x01\xff";
        assert_eq!(Workload::from_struct(bytes, NO_LABELS), Err(WorkloadError::Encoding));
    }

    #[test]
    fn b_11_endpoints_say_who_they_are_in_short() {
        let found = Workload::from_endpoint("reviews-v1;shop;reviews;v1;Kubernetes").unwrap();
        assert_eq!((&*found.name, &*found.namespace), ("reviews-v1", "shop"));
        assert_eq!((&*found.canonical_name, &*found.canonical_revision), ("reviews", "v1"));
        assert_eq!(found.cluster, "Kubernetes");
        assert_eq!(Workload::from_endpoint("a;b;c;d"), None);
    }

    proptest! {
        #[test]
        fn anything_may_come(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Workload::from_struct(&bytes, &["a"]);
            let _ = Workload::from_header(&bytes, &["a"]);
        }

        #[test]
        fn cut_messages_never_panic(cut in 0usize..400) {
            let bytes = web().to_struct();
            let _ = Workload::from_struct(&bytes[..cut.min(bytes.len())], &["role"]);
        }
    }
}
