//! Faults: what a SOAP client is told when a request fails here.

use crate::http::Put;

use super::SoapVersion;

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultSide {
    /// The message is at fault; it is not to be sent again as it is (1.1: `Client`, 1.2: `Sender`).
    Sender,
    /// What became of it later is (1.1: `Server`, 1.2: `Receiver`).
    Receiver,
}

/// Writes a fault document. `reason` is text for people in UTF-8; what is not UTF-8, or may not stand
/// in XML, is replaced.
pub fn put_fault<P: Put + ?Sized>(
    version: SoapVersion,
    side: FaultSide,
    reason: &[u8],
    out: &mut P,
) {
    let (before, code, middle, after) = match (version, side) {
        (SoapVersion::V11, FaultSide::Sender) => (V11_BEFORE, "Client", V11_MIDDLE, V11_AFTER),
        (SoapVersion::V11, FaultSide::Receiver) => (V11_BEFORE, "Server", V11_MIDDLE, V11_AFTER),
        (SoapVersion::V12, FaultSide::Sender) => (V12_BEFORE, "Sender", V12_MIDDLE, V12_AFTER),
        (SoapVersion::V12, FaultSide::Receiver) => (V12_BEFORE, "Receiver", V12_MIDDLE, V12_AFTER),
    };
    out.put(XML);
    out.put(before);
    out.put(code.as_bytes());
    out.put(middle);
    put_text(reason, out);
    out.put(after);
}

/// Writes text as the content of an element.
fn put_text<P: Put + ?Sized>(text: &[u8], out: &mut P) {
    for chunk in text.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some(at) = rest.find(is_special) {
            let (plain, tail) = rest.split_at(at);
            out.put(plain.as_bytes());
            let mut chars = tail.chars();
            out.put(match chars.next() {
                Some('&') => b"&amp;",
                Some('<') => b"&lt;",
                // Only behind two brackets does it need that, but always it may have it.
                Some('>') => b"&gt;",
                Some('\r') => b"&#13;",
                _ => REPLACEMENT,
            });
            rest = chars.as_str();
        }
        out.put(rest.as_bytes());
        if !chunk.invalid().is_empty() {
            out.put(REPLACEMENT);
        }
    }
}

/// What can't stand for itself: markup, and what XML 1.0 section 2.2 has no place for.
fn is_special(c: char) -> bool {
    match c {
        '&' | '<' | '>' | '\r' | '\u{fffe}' | '\u{ffff}' => true,
        '\t' | '\n' => false,
        c => c < ' ',
    }
}

/// U+FFFD.
const REPLACEMENT: &[u8] = b"\xef\xbf\xbd";

const XML: &[u8] = b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

const V11_BEFORE: &[u8] = b"<soap:Envelope \
    xmlns:soap=\"http://schemas.xmlsoap.org/soap/envelope/\"><soap:Body><soap:Fault>\
    <faultcode>soap:";
const V11_MIDDLE: &[u8] = b"</faultcode><faultstring>";
const V11_AFTER: &[u8] = b"</faultstring></soap:Fault></soap:Body></soap:Envelope>\n";

const V12_BEFORE: &[u8] = b"<soap:Envelope \
    xmlns:soap=\"http://www.w3.org/2003/05/soap-envelope\"><soap:Body><soap:Fault>\
    <soap:Code><soap:Value>soap:";
const V12_MIDDLE: &[u8] = b"</soap:Value></soap:Code><soap:Reason><soap:Text xml:lang=\"en\">";
const V12_AFTER: &[u8] = b"</soap:Text></soap:Reason></soap:Fault></soap:Body></soap:Envelope>\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(version: SoapVersion, side: FaultSide, reason: &[u8]) -> String {
        let mut out = Vec::new();
        put_fault(version, side, reason, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn faults_are_those_of_their_version() {
        assert_eq!(
            fault(SoapVersion::V11, FaultSide::Receiver, b"no healthy upstream"),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <soap:Envelope xmlns:soap=\"http://schemas.xmlsoap.org/soap/envelope/\"><soap:Body>\
             <soap:Fault><faultcode>soap:Server</faultcode>\
             <faultstring>no healthy upstream</faultstring></soap:Fault></soap:Body>\
             </soap:Envelope>\n"
        );
        assert_eq!(
            fault(SoapVersion::V12, FaultSide::Sender, b"x"),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <soap:Envelope xmlns:soap=\"http://www.w3.org/2003/05/soap-envelope\"><soap:Body>\
             <soap:Fault><soap:Code><soap:Value>soap:Sender</soap:Value></soap:Code>\
             <soap:Reason><soap:Text xml:lang=\"en\">x</soap:Text></soap:Reason></soap:Fault>\
             </soap:Body></soap:Envelope>\n"
        );
    }

    #[test]
    fn text_is_escaped() {
        let document = fault(SoapVersion::V11, FaultSide::Sender, b"<a&\"'>\0\t\r\xff\xc3\xa4]]>");
        let text = "<faultstring>&lt;a&amp;\"'&gt;\u{fffd}\t&#13;\u{fffd}ä]]&gt;</faultstring>";
        assert!(document.contains(text), "{document}");
    }
}
