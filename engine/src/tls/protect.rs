//! Seals and opens records (RFC 8446 section 5.2, RFC 5288, RFC 7905).
//!
//! One [`Protection`] is one direction's key with its sequence number. It knows nothing of what is
//! inside a record but its type. Invariant: no sequence number is used twice with a key, and a key
//! is not used beyond what its cipher allows.

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use rustls::{CipherSuite, ConnectionTrafficSecrets};
use zeroize::Zeroizing;

use super::record::{self, ContentType, HEADER_BYTES, PLAINTEXT_BYTES_MAX, RecordError};

/// The key of one direction.
pub(super) struct Protection {
    key: LessSafeKey,
    iv: [u8; aead::NONCE_LEN],
    /// Of the next record.
    sequence: u64,
    form: Form,
    /// Cipher blocks that may still be sealed with this key.
    blocks_left: u64,
}

/// How nonce, additional data and type are put into a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// The type is sealed with the content.
    Tls13,
    /// Part of the nonce is sent (RFC 5288 section 3).
    Tls12ExplicitNonce,
    /// The nonce is made as in TLS 1.3 (RFC 7905 section 2).
    Tls12ImplicitNonce,
}

/// What was in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) kind: u8,
    /// Where the content begins in the record.
    pub(super) start: usize,
    pub(super) len: usize,
}

impl Protection {
    /// A key that the handshake agreed on, whose next record is number `sequence`.
    ///
    /// # Errors
    /// When the key does not fit its cipher, or the cipher is unknown.
    pub(super) fn new(
        tls13: bool,
        sequence: u64,
        secrets: &ConnectionTrafficSecrets,
    ) -> Result<Self, RecordError> {
        let (algorithm, key, iv, explicit) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv, true),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv, true),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                (&aead::CHACHA20_POLY1305, key, iv, false)
            }
            _ => return Err(RecordError::Internal),
        };
        let form = match (tls13, explicit) {
            (true, _) => Form::Tls13,
            (false, true) => Form::Tls12ExplicitNonce,
            (false, false) => Form::Tls12ImplicitNonce,
        };
        let iv = iv.as_ref().try_into().map_err(|_| RecordError::Internal)?;
        Self::with_key(algorithm, key.as_ref(), iv, form, sequence)
    }

    fn with_key(
        algorithm: &'static aead::Algorithm,
        key: &[u8],
        iv: [u8; aead::NONCE_LEN],
        form: Form,
        sequence: u64,
    ) -> Result<Self, RecordError> {
        let key = UnboundKey::new(algorithm, key).map_err(|_| RecordError::Internal)?;
        let blocks_left =
            if algorithm == &aead::CHACHA20_POLY1305 { u64::MAX } else { GCM_BLOCKS_MAX };
        Ok(Self { key: LessSafeKey::new(key), iv, sequence, form, blocks_left })
    }

    /// True when the key should be replaced, or the connection ended, before more is sealed.
    pub(super) fn is_worn(&self) -> bool {
        self.blocks_left < BLOCKS_RESERVED
    }

    /// Length of a record with `len` bytes of content.
    pub(super) fn sealed_len(&self, len: usize) -> usize {
        HEADER_BYTES + self.explicit_nonce_bytes() + len + self.type_bytes() + TAG_BYTES
    }

    /// Seals the content of `parts`, `len` bytes in all, into `out` of [`Protection::sealed_len`].
    ///
    /// # Errors
    /// When the key is used up: the record must not be sent.
    pub(super) fn seal<'p>(
        &mut self,
        kind: ContentType,
        mut parts: impl Iterator<Item = &'p [u8]>,
        len: usize,
        out: &mut [u8],
    ) -> Result<(), RecordError> {
        self.spend(len)?;
        let nonce = self.nonce();
        let (header, rest) = out.split_at_mut(HEADER_BYTES);
        let outer = if self.form == Form::Tls13 { ContentType::ApplicationData } else { kind };
        header.copy_from_slice(&record::header(outer, rest.len()));
        let (explicit, rest) = rest.split_at_mut(self.explicit_nonce_bytes());
        explicit.copy_from_slice(&nonce[aead::NONCE_LEN - explicit.len()..]);
        let (content, type_and_tag) = rest.split_at_mut(len);
        let aad = self.additional_data(header, len);
        let aad = Aad::from(&aad[..self.additional_data_bytes()]);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let kind = [kind as u8];
        let extra = &kind[..self.type_bytes()];
        let sealed = match parts.next() {
            // The usual case: one piece, which is encrypted on its way into the record.
            Some(whole) if whole.len() == len => {
                self.key.seal_out_of_place_scatter(nonce, aad, whole, content, extra, type_and_tag)
            }
            first => {
                let mut filled = 0;
                for part in first.into_iter().chain(parts) {
                    content[filled..filled + part.len()].copy_from_slice(part);
                    filled += part.len();
                }
                self.key.seal_in_place_scatter(nonce, aad, content, extra, type_and_tag)
            }
        };
        sealed.map_err(|_| RecordError::Internal)?;
        self.sequence += 1;
        Ok(())
    }

    /// Opens a whole record in place, its header included.
    ///
    /// # Errors
    /// When it is not what the peer sealed, or is too long: nothing of it may be used.
    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<Opened, RecordError> {
        let (header, body) =
            record.split_at_mut_checked(HEADER_BYTES).ok_or(RecordError::Decode)?;
        // In TLS 1.3 every record looks like data from the outside.
        if self.form == Form::Tls13 && header[0] != ContentType::ApplicationData as u8 {
            return Err(RecordError::UnexpectedMessage);
        }
        let overhead = self.explicit_nonce_bytes() + self.type_bytes() + TAG_BYTES;
        let Some(plain_len) = body.len().checked_sub(overhead) else {
            return Err(RecordError::BadMac);
        };
        let mut nonce = self.nonce();
        let (explicit, sealed) = body.split_at_mut(self.explicit_nonce_bytes());
        nonce[aead::NONCE_LEN - explicit.len()..].copy_from_slice(explicit);
        let aad = self.additional_data(header, plain_len);
        let aad = Aad::from(&aad[..self.additional_data_bytes()]);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let plain = self.key.open_in_place(nonce, aad, sealed).map_err(|_| RecordError::BadMac)?;
        self.sequence = self.sequence.checked_add(1).ok_or(RecordError::Exhausted)?;
        let (kind, len) = match self.form {
            Form::Tls13 => inner_type(plain).ok_or(RecordError::UnexpectedMessage)?,
            Form::Tls12ExplicitNonce | Form::Tls12ImplicitNonce => (header[0], plain.len()),
        };
        // Padding counts (RFC 8446 section 5.4).
        if plain.len() > PLAINTEXT_BYTES_MAX + self.type_bytes() {
            return Err(RecordError::Overflow);
        }
        Ok(Opened { kind, start: HEADER_BYTES + self.explicit_nonce_bytes(), len })
    }

    /// The longest body that a record may have.
    pub(super) fn body_bytes_max(&self) -> usize {
        match self.form {
            Form::Tls13 => PLAINTEXT_BYTES_MAX + 256,
            Form::Tls12ExplicitNonce | Form::Tls12ImplicitNonce => PLAINTEXT_BYTES_MAX + 2048,
        }
    }

    /// Counts a record against the key's life.
    fn spend(&mut self, len: usize) -> Result<(), RecordError> {
        // The content, the type, and what authentication costs.
        let blocks = (len as u64).div_ceil(BLOCK_BYTES) + 2;
        self.blocks_left = self.blocks_left.checked_sub(blocks).ok_or(RecordError::Exhausted)?;
        if self.sequence == u64::MAX { Err(RecordError::Exhausted) } else { Ok(()) }
    }

    /// The nonce of the next record (RFC 8446 section 5.3). With an explicit nonce any that is not
    /// used twice will do, so the same one is made.
    fn nonce(&self) -> [u8; aead::NONCE_LEN] {
        let mut nonce = self.iv;
        for (byte, sequence) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= sequence;
        }
        nonce
    }

    fn additional_data(&self, header: &[u8], len: usize) -> [u8; TLS12_AAD_BYTES] {
        let mut aad = [0; TLS12_AAD_BYTES];
        if self.form == Form::Tls13 {
            aad[..HEADER_BYTES].copy_from_slice(header);
        } else {
            aad[..8].copy_from_slice(&self.sequence.to_be_bytes());
            aad[8..11].copy_from_slice(&header[..3]);
            aad[11..].copy_from_slice(&(len as u16).to_be_bytes());
        }
        aad
    }

    fn additional_data_bytes(&self) -> usize {
        if self.form == Form::Tls13 { HEADER_BYTES } else { TLS12_AAD_BYTES }
    }

    fn explicit_nonce_bytes(&self) -> usize {
        if self.form == Form::Tls12ExplicitNonce { 8 } else { 0 }
    }

    fn type_bytes(&self) -> usize {
        usize::from(self.form == Form::Tls13)
    }
}

/// Type and length of what is in a record of TLS 1.3, without its padding of zeros; nothing when it
/// is all padding.
fn inner_type(plain: &[u8]) -> Option<(u8, usize)> {
    let at = plain.iter().rposition(|byte| *byte != 0)?;
    Some((plain[at], at))
}

/// The secret that a direction's keys come from in TLS 1.3, for when they are replaced.
pub(super) struct TrafficSecret {
    secret: Zeroizing<[u8; SECRET_BYTES_MAX]>,
    hash: hkdf::Algorithm,
    aead: &'static aead::Algorithm,
}

impl TrafficSecret {
    /// The secret of a connection with `suite`, as long as the suite's hash.
    ///
    /// # Errors
    /// When suite and length do not fit.
    pub(super) fn new(suite: CipherSuite, secret: &[u8]) -> Result<Self, RecordError> {
        let (hash, aead) = match suite {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => (hkdf::HKDF_SHA256, &aead::AES_128_GCM),
            CipherSuite::TLS13_AES_256_GCM_SHA384 => (hkdf::HKDF_SHA384, &aead::AES_256_GCM),
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => {
                (hkdf::HKDF_SHA256, &aead::CHACHA20_POLY1305)
            }
            _ => return Err(RecordError::Internal),
        };
        if secret.len() != hash_bytes(hash) {
            return Err(RecordError::Internal);
        }
        let mut own = Zeroizing::new([0; SECRET_BYTES_MAX]);
        own[..secret.len()].copy_from_slice(secret);
        Ok(Self { secret: own, hash, aead })
    }

    /// Goes on to the next secret, and returns its key (RFC 8446 section 7.2).
    ///
    /// # Errors
    /// Only for a fault of the crypto library.
    pub(super) fn update(&mut self) -> Result<Protection, RecordError> {
        let mut next = Zeroizing::new([0; SECRET_BYTES_MAX]);
        self.expand(b"traffic upd", &mut next[..hash_bytes(self.hash)])?;
        self.secret = next;
        self.protection()
    }

    /// The key of the present secret, for its first record.
    fn protection(&self) -> Result<Protection, RecordError> {
        let mut key = Zeroizing::new([0; KEY_BYTES_MAX]);
        let key = &mut key[..self.aead.key_len()];
        let mut iv = [0; aead::NONCE_LEN];
        self.expand(b"key", key)?;
        self.expand(b"iv", &mut iv)?;
        Protection::with_key(self.aead, key, iv, Form::Tls13, 0)
    }

    /// HKDF-Expand-Label with an empty context (RFC 8446 section 7.1).
    fn expand(&self, label: &[u8], out: &mut [u8]) -> Result<(), RecordError> {
        let len = (out.len() as u16).to_be_bytes();
        let label_len = [(LABEL_PREFIX.len() + label.len()) as u8];
        let info = [&len[..], &label_len, LABEL_PREFIX, label, &[0]];
        let secret = hkdf::Prk::new_less_safe(self.hash, &self.secret[..hash_bytes(self.hash)]);
        secret
            .expand(&info, Bytes(out.len()))
            .and_then(|expanded| expanded.fill(out))
            .map_err(|_| RecordError::Internal)
    }
}

/// A length of expanded key material.
struct Bytes(usize);

impl hkdf::KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

fn hash_bytes(hash: hkdf::Algorithm) -> usize {
    hkdf::KeyType::len(&hash)
}

const LABEL_PREFIX: &[u8] = b"tls13 ";
const SECRET_BYTES_MAX: usize = 48;
const KEY_BYTES_MAX: usize = 32;
const TAG_BYTES: usize = 16;
const TLS12_AAD_BYTES: usize = 13;
const BLOCK_BYTES: u64 = 16;

/// RFC 8446 section 5.5 allows 2^24.5 records of full size with AES-GCM, which is 2^34.5 blocks of
/// cipher; it is blocks that the bound stands on, so small records wear a key less.
const GCM_BLOCKS_MAX: u64 = 1 << 34;

/// What is kept back for a KeyUpdate, an alert, or a record that is being sealed.
const BLOCKS_RESERVED: u64 = 1 << 12;

#[cfg(test)]
pub(super) mod samples {
    use super::*;

    /// A key of each kind, for both ends of a connection.
    pub(in crate::tls) fn pairs() -> Vec<(Protection, Protection)> {
        let forms = [
            (&aead::AES_128_GCM, Form::Tls13),
            (&aead::AES_256_GCM, Form::Tls13),
            (&aead::CHACHA20_POLY1305, Form::Tls13),
            (&aead::AES_128_GCM, Form::Tls12ExplicitNonce),
            (&aead::AES_256_GCM, Form::Tls12ExplicitNonce),
            (&aead::CHACHA20_POLY1305, Form::Tls12ImplicitNonce),
        ];
        forms.map(|(aead, form)| (with(aead, form), with(aead, form))).into()
    }

    fn with(algorithm: &'static aead::Algorithm, form: Form) -> Protection {
        let key = vec![9; algorithm.key_len()];
        Protection::with_key(algorithm, &key, [5; 12], form, 0).unwrap()
    }

    /// Wears a key out.
    pub(in crate::tls) fn wear(protection: &mut Protection) {
        protection.blocks_left = BLOCKS_RESERVED - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(protection: &mut Protection, kind: ContentType, parts: &[&[u8]]) -> Vec<u8> {
        let len = parts.iter().map(|part| part.len()).sum();
        let mut out = vec![0; protection.sealed_len(len)];
        protection.seal(kind, parts.iter().copied(), len, &mut out).unwrap();
        out
    }

    #[test]
    fn what_is_sealed_is_opened_again() {
        for (mut ours, mut theirs) in samples::pairs() {
            for parts in [&[&b"one piece"[..]][..], &[b"two ", b"", b"pieces"], &[b""]] {
                let mut record = seal(&mut ours, ContentType::ApplicationData, parts);
                let opened = theirs.open(&mut record).unwrap();
                assert_eq!(opened.kind, ContentType::ApplicationData as u8);
                let content = &record[opened.start..opened.start + opened.len];
                assert_eq!(content, parts.concat());
            }
            let mut alert = seal(&mut ours, ContentType::Alert, &[&[1, 0]]);
            assert_eq!(theirs.open(&mut alert).unwrap().kind, ContentType::Alert as u8);
            assert_eq!((ours.sequence, theirs.sequence), (4, 4));
        }
    }

    #[test]
    fn a_record_that_was_touched_is_refused() {
        for (mut ours, mut theirs) in samples::pairs() {
            let record = seal(&mut ours, ContentType::ApplicationData, &[b"content"]);
            // The header's length is checked by whoever cut the record out.
            for at in (0..record.len()).filter(|at| !(3..5).contains(at)) {
                let mut touched = record.clone();
                touched[at] ^= 1;
                let error = theirs.open(&mut touched).unwrap_err();
                assert!(
                    matches!(error, RecordError::BadMac | RecordError::UnexpectedMessage),
                    "byte {at}: {error:?}"
                );
            }
            for len in 0..record.len() {
                assert!(theirs.open(&mut record[..len].to_vec()).is_err());
            }
            assert!(theirs.open(&mut record.clone()).is_ok());
            assert_eq!(theirs.open(&mut record.clone()), Err(RecordError::BadMac), "a replay");
        }
    }

    #[test]
    fn padding_is_dropped_and_counts() {
        let (mut ours, mut theirs) = samples::pairs().swap_remove(0);
        // The padding is sealed as if it were content, with a type of zero at the very end.
        let padded = |ours: &mut Protection, content: &[u8]| {
            let mut out = vec![0; ours.sealed_len(content.len())];
            let len = content.len();
            ours.spend(len).unwrap();
            let nonce = Nonce::assume_unique_for_key(ours.nonce());
            let (header, rest) = out.split_at_mut(HEADER_BYTES);
            header.copy_from_slice(&record::header(ContentType::ApplicationData, rest.len()));
            let (sealed, extra) = rest.split_at_mut(len);
            sealed.copy_from_slice(content);
            let aad = Aad::from(&*header);
            ours.key.seal_in_place_scatter(nonce, aad, sealed, &[0], extra).unwrap();
            ours.sequence += 1;
            out
        };
        let mut record = padded(&mut ours, b"hello\x17\0\0\0");
        let opened = theirs.open(&mut record).unwrap();
        assert_eq!((opened.kind, opened.len), (23, 5));
        let mut all_padding = padded(&mut ours, &[0; 20]);
        assert_eq!(theirs.open(&mut all_padding), Err(RecordError::UnexpectedMessage));
        let mut content = vec![0; PLAINTEXT_BYTES_MAX];
        content[0] = 23;
        assert!(theirs.open(&mut padded(&mut ours, &content)).is_ok());
        content.push(0);
        assert_eq!(theirs.open(&mut padded(&mut ours, &content)), Err(RecordError::Overflow));
    }

    #[test]
    fn a_worn_key_stops() {
        for (mut ours, _) in samples::pairs() {
            assert!(!ours.is_worn());
            samples::wear(&mut ours);
            assert!(ours.is_worn());
            seal(&mut ours, ContentType::Alert, &[&[1, 0]]);
            ours.blocks_left = 2;
            let mut out = vec![0; ours.sealed_len(1)];
            let kind = ContentType::ApplicationData;
            let sealed = ours.seal(kind, std::iter::once(&b"x"[..]), 1, &mut out);
            assert_eq!(sealed, Err(RecordError::Exhausted));
        }
    }

    #[test]
    fn keys_are_replaced_as_the_peer_replaces_them() {
        for (suite, len) in [
            (CipherSuite::TLS13_AES_128_GCM_SHA256, 32),
            (CipherSuite::TLS13_AES_256_GCM_SHA384, 48),
            (CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, 32),
        ] {
            let secret = vec![3; len];
            let mut ours = TrafficSecret::new(suite, &secret).unwrap();
            let mut theirs = TrafficSecret::new(suite, &secret).unwrap();
            let (mut sealer, mut opener) = (ours.update().unwrap(), theirs.update().unwrap());
            let mut record = seal(&mut sealer, ContentType::ApplicationData, &[b"x"]);
            assert!(opener.open(&mut record).is_ok());
            let mut next = ours.update().unwrap();
            let mut record = seal(&mut next, ContentType::ApplicationData, &[b"x"]);
            assert_eq!(opener.open(&mut record), Err(RecordError::BadMac));
            assert!(TrafficSecret::new(suite, &secret[1..]).is_err());
        }
    }
}
