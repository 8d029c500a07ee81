//! The outside of records (RFC 8446 section 5.1), and what can be wrong with them.

/// What a record carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum ContentType {
    Alert = 21,
    Handshake = 22,
    ApplicationData = 23,
}

/// Why a connection that was established failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Bytes that are no record, or a message that can't be read.
    #[error("a record could not be read")]
    Decode,
    /// A record is not what the peer sealed.
    #[error("a record failed its authentication")]
    BadMac,
    /// A record, or what is in it, is too long.
    #[error("a record is too long")]
    Overflow,
    /// A message that must not come here.
    #[error("an unexpected message came")]
    UnexpectedMessage,
    /// A parameter out of its range.
    #[error("a message has an illegal parameter")]
    IllegalParameter,
    /// The peer wanted to renegotiate.
    #[error("the peer asked for a renegotiation, which is refused")]
    Renegotiation,
    /// Key updates, empty records or warnings without end.
    #[error("the peer sends too many messages without content")]
    Flood,
    /// The peer gave up.
    #[error("the peer sent the alert {}", alert_name(*.0))]
    Alert(u8),
    /// A key of TLS 1.2 was used as much as it may be.
    #[error("the key is used up")]
    Exhausted,
    /// A fault of our own.
    #[error("a fault in our own record layer")]
    Internal,
}

impl RecordError {
    /// The alert that tells the peer; nothing when it would not listen.
    pub(super) fn alert(self) -> Option<u8> {
        match self {
            RecordError::Decode => Some(50),
            RecordError::BadMac => Some(20),
            RecordError::Overflow => Some(22),
            RecordError::UnexpectedMessage | RecordError::Flood => Some(10),
            RecordError::IllegalParameter => Some(47),
            RecordError::Renegotiation => Some(100),
            RecordError::Internal => Some(80),
            RecordError::Alert(_) | RecordError::Exhausted => None,
        }
    }
}

/// The name of an alert (RFC 8446 section 6).
pub(super) fn alert_name(code: u8) -> &'static str {
    match code {
        0 => "close_notify",
        10 => "unexpected_message",
        20 => "bad_record_mac",
        22 => "record_overflow",
        40 => "handshake_failure",
        42 => "bad_certificate",
        43 => "unsupported_certificate",
        44 => "certificate_revoked",
        45 => "certificate_expired",
        46 => "certificate_unknown",
        47 => "illegal_parameter",
        48 => "unknown_ca",
        49 => "access_denied",
        50 => "decode_error",
        51 => "decrypt_error",
        70 => "protocol_version",
        71 => "insufficient_security",
        80 => "internal_error",
        86 => "inappropriate_fallback",
        90 => "user_canceled",
        100 => "no_renegotiation",
        109 => "missing_extension",
        110 => "unsupported_extension",
        112 => "unrecognized_name",
        113 => "bad_certificate_status_response",
        115 => "unknown_psk_identity",
        116 => "certificate_required",
        120 => "no_application_protocol",
        _ => "unknown",
    }
}

/// The header of a record with a body of `len` bytes, at most 2^14 + 2048.
pub(super) fn header(kind: ContentType, len: usize) -> [u8; HEADER_BYTES] {
    let [high, low] = (len as u16).to_be_bytes();
    [kind as u8, VERSION_MAJOR, 3, high, low]
}

/// The length of the body behind `header`.
///
/// # Errors
/// When these bytes begin no record, or one with a longer body than `body_bytes_max`.
pub(super) fn body_len(
    header: &[u8; HEADER_BYTES],
    body_bytes_max: usize,
) -> Result<usize, RecordError> {
    let [kind, major, _, high, low] = *header;
    if !(CONTENT_TYPE_MIN..=CONTENT_TYPE_MAX).contains(&kind) || major != VERSION_MAJOR {
        return Err(RecordError::Decode);
    }
    let len = usize::from(u16::from_be_bytes([high, low]));
    if len > body_bytes_max { Err(RecordError::Overflow) } else { Ok(len) }
}

/// Bytes in front of a record's body.
pub(super) const HEADER_BYTES: usize = 5;

/// Content of one record at the most.
pub(super) const PLAINTEXT_BYTES_MAX: usize = 1 << 14;

const VERSION_MAJOR: u8 = 3;
/// change_cipher_spec to application_data.
const CONTENT_TYPE_MIN: u8 = 20;
const CONTENT_TYPE_MAX: u8 = 23;
