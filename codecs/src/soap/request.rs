//! What the header of a request says of SOAP.

use std::borrow::Cow;

/// A version of SOAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoapVersion {
    /// SOAP 1.1: `text/xml` and a SOAPAction.
    V11,
    /// SOAP 1.2: `application/soap+xml`.
    V12,
}

impl SoapVersion {
    /// What a message of ours has as its Content-Type.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            SoapVersion::V11 => "text/xml; charset=utf-8",
            SoapVersion::V12 => "application/soap+xml; charset=utf-8",
        }
    }
}

/// A request of SOAP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SoapRequest<'a> {
    /// In which version an answer is expected.
    pub version: SoapVersion,
    /// The intent of the request, without quotes. `None` when nothing, or more than one thing, is said.
    pub action: Option<Cow<'a, [u8]>>,
    /// The body is written in characters that contain ASCII, as far as the header says. In others no
    /// operation can be found.
    pub readable: bool,
}

impl<'a> SoapRequest<'a> {
    /// Reads the value of Content-Type and those of SOAPAction. `None` when the request is not SOAP:
    /// XML without SOAPAction is just XML (SOAP 1.1 section 6.1.1).
    #[must_use]
    pub fn of(
        content_type: &'a [u8],
        mut soap_actions: impl Iterator<Item = &'a [u8]>,
    ) -> Option<Self> {
        let (media, mut parameters) = split_at_byte(content_type, b';');
        let media = media.trim_ascii();
        let version = if media.eq_ignore_ascii_case(b"application/soap+xml") {
            SoapVersion::V12
        } else if media.eq_ignore_ascii_case(b"text/xml") {
            SoapVersion::V11
        } else {
            return None;
        };
        let mut action = Said::Nothing;
        let mut readable = true;
        while !parameters.is_empty() {
            let Parameter { name, value, rest } = Parameter::first(parameters);
            parameters = rest;
            if name.eq_ignore_ascii_case(b"charset") {
                readable &= value.is_some_and(|value| contains_ascii(&value));
            } else if name.eq_ignore_ascii_case(b"action") && version == SoapVersion::V12 {
                action.add(value);
            }
        }
        if version == SoapVersion::V11 {
            action.add(soap_action(soap_actions.next()?));
            soap_actions.for_each(|value| action.add(soap_action(value)));
        }
        let action = match action {
            Said::Once(action) if !action.is_empty() => Some(action),
            _ => None,
        };
        Some(Self { version, action, readable })
    }
}

/// What was said of something that may be said once.
enum Said<'a> {
    Nothing,
    Once(Cow<'a, [u8]>),
    /// Different things, or nothing that can be read.
    Unclear,
}

impl<'a> Said<'a> {
    fn add(&mut self, value: Option<Cow<'a, [u8]>>) {
        match (&self, value) {
            (Said::Nothing, Some(value)) => *self = Said::Once(value),
            (Said::Once(known), Some(value)) if *known == value => {}
            _ => *self = Said::Unclear,
        }
    }
}

/// The value of SOAPAction: a URI in quotes, which some leave away.
fn soap_action(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    let value = value.trim_ascii();
    let unquoted = match value.strip_prefix(b"\"") {
        Some(rest) => rest.strip_suffix(b"\"")?,
        None => value,
    };
    (!unquoted.contains(&b'"')).then_some(Cow::Borrowed(unquoted))
}

/// A parameter of a media type (RFC 9110 section 5.6.6).
struct Parameter<'a> {
    name: &'a [u8],
    /// Nothing when it can't be read.
    value: Option<Cow<'a, [u8]>>,
    /// The parameters behind it.
    rest: &'a [u8],
}

impl<'a> Parameter<'a> {
    fn first(text: &'a [u8]) -> Self {
        let end = text.iter().position(|byte| matches!(byte, b'=' | b';')).unwrap_or(text.len());
        let (name, text) = text.split_at(end);
        let name = name.trim_ascii();
        let Some(text) = text.strip_prefix(b"=") else {
            return Self { name, value: None, rest: split_at_byte(text, b';').1 };
        };
        let Some(quoted) = text.trim_ascii_start().strip_prefix(b"\"") else {
            let (value, rest) = split_at_byte(text, b';');
            let value = Some(value.trim_ascii()).filter(|value| !value.contains(&b'"'));
            return Self { name, value: value.map(Cow::Borrowed), rest };
        };
        let (value, text) = quoted_string(quoted);
        let (between, rest) = split_at_byte(text, b';');
        Self { name, value: value.filter(|_| between.trim_ascii().is_empty()), rest }
    }
}

/// The text of a quoted string whose first quote was taken, and what follows its last.
fn quoted_string(text: &[u8]) -> (Option<Cow<'_, [u8]>>, &[u8]) {
    let special = |byte: &u8| matches!(byte, b'"' | b'\\');
    let mut owned = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.iter().position(special) {
        let (plain, tail) = rest.split_at(at);
        match tail {
            [b'"', after @ ..] if owned.is_empty() => return (Some(Cow::Borrowed(plain)), after),
            [b'"', after @ ..] => {
                owned.extend_from_slice(plain);
                return (Some(Cow::Owned(owned)), after);
            }
            [_, escaped, after @ ..] => {
                owned.extend_from_slice(plain);
                owned.push(*escaped);
                rest = after;
            }
            _ => break,
        }
    }
    (None, &[])
}

/// What comes before `byte` and what comes behind it.
fn split_at_byte(text: &[u8], byte: u8) -> (&[u8], &[u8]) {
    match text.iter().position(|known| *known == byte) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &[]),
    }
}

/// Whether bytes below 0x80 that XML is made of mean themselves wherever they stand.
pub(super) fn contains_ascii(charset: &[u8]) -> bool {
    let charset = charset.trim_ascii();
    let starts_with = |prefix: &&[u8]| {
        charset.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    ASCII_SETS.iter().any(|name| charset.eq_ignore_ascii_case(name))
        || ASCII_FAMILIES.iter().any(starts_with)
}

const ASCII_SETS: &[&[u8]] = &[
    b"utf-8",
    b"utf8",
    b"us-ascii",
    b"ascii",
    b"gb2312",
    b"gbk",
    b"gb18030",
    b"big5",
    b"shift_jis",
];
const ASCII_FAMILIES: &[&[u8]] = &[b"iso-8859-", b"windows-125", b"latin", b"euc-", b"koi8-"];

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content_type: &str, actions: &[&str]) -> Option<(SoapVersion, Option<String>, bool)> {
        let actions = actions.iter().map(|action| action.as_bytes());
        SoapRequest::of(content_type.as_bytes(), actions).map(|request| {
            let action = request.action.map(|it| String::from_utf8(it.to_vec()).unwrap());
            (request.version, action, request.readable)
        })
    }

    fn v11(action: Option<&str>) -> Option<(SoapVersion, Option<String>, bool)> {
        Some((SoapVersion::V11, action.map(str::to_owned), true))
    }

    fn v12(action: Option<&str>) -> Option<(SoapVersion, Option<String>, bool)> {
        Some((SoapVersion::V12, action.map(str::to_owned), true))
    }

    #[test]
    fn version_1_1_is_xml_with_an_action() {
        assert_eq!(read("text/xml", &[]), None);
        assert_eq!(read("application/xml", &["\"a\""]), None);
        assert_eq!(read("", &["\"a\""]), None);
        for content_type in ["text/xml", "Text/XML; charset=utf-8", " text/xml ;charset=\"UTF-8\" "]
        {
            assert_eq!(read(content_type, &["\"urn:a#b\""]), v11(Some("urn:a#b")));
            assert_eq!(read(content_type, &[" urn:a#b "]), v11(Some("urn:a#b")));
            assert_eq!(read(content_type, &[""]), v11(None));
            assert_eq!(read(content_type, &["\"\""]), v11(None));
        }
        // The parameter is that of 1.2.
        assert_eq!(read("text/xml; action=x", &["\"a\""]), v11(Some("a")));
    }

    #[test]
    fn version_1_2_has_its_action_in_a_parameter() {
        let media = "application/soap+xml";
        assert_eq!(read(media, &["\"a\""]), v12(None));
        for (parameters, action) in [
            ("; action=\"urn:a\"", Some("urn:a")),
            (";action=urn:a", Some("urn:a")),
            ("; ACTION = \"urn:a\" ; charset=utf-8", Some("urn:a")),
            ("; charset=utf-8;action=\"a;b=\\\"c\\\"\"", Some("a;b=\"c\"")),
            ("; startinfo=\"x; action=no\"; action=\"yes\"", Some("yes")),
            ("; action=\"\"", None),
            ("; action", None),
            ("; action=\"a", None),
            ("; action=\"a\\", None),
            ("; action=\"a\"b", None),
            ("; action=a\"b", None),
            (";;; action=a;", Some("a")),
            ("; action=a; action=a", Some("a")),
            ("; action=a; action=b", None),
            ("; action=a; action", None),
        ] {
            assert_eq!(read(&format!("{media}{parameters}"), &[]), v12(action), "{parameters}");
        }
    }

    #[test]
    fn what_is_said_in_two_ways_is_not_said() {
        assert_eq!(read("text/xml", &["\"a\"", "a"]), v11(Some("a")));
        assert_eq!(read("text/xml", &["\"a\"", "\"b\""]), v11(None));
        assert_eq!(read("text/xml", &["\"a"]), v11(None));
        assert_eq!(read("text/xml", &["a\"b"]), v11(None));
        assert_eq!(read("text/xml", &["\""]), v11(None));
    }

    #[test]
    fn the_charset_tells_whether_the_body_can_be_read() {
        for (charset, readable) in [
            ("utf-8", true),
            ("ISO-8859-1", true),
            ("GBK", true),
            ("utf-16", false),
            ("utf-16le", false),
            ("iso-2022-jp", false),
            ("", false),
        ] {
            let read = read(&format!("application/soap+xml; charset={charset}"), &[]).unwrap();
            assert_eq!(read.2, readable, "{charset}");
        }
    }
}
