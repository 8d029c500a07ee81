//! Reads what TLS contexts are made of, from the configuration or from files.
//!
//! Invariant: what is read together belongs together. [`Reader`] remembers what each file was when
//! it was read, so that whoever builds a context can see that one changed meanwhile.

use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use outrigger_xds::snapshot::DataSource;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use webpki::{CertRevocationList, OwnedCertRevocationList};
use zeroize::Zeroizing;

use super::error::TlsConfigProblem;

/// Reads sources, and notes which files they were.
#[derive(Debug, Default)]
pub(super) struct Reader {
    files: Vec<(Arc<Path>, Option<Stamp>)>,
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn new(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            bytes: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }

    /// What a file is now, at the end of all symbolic links; nothing when it is not there.
    fn of(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|file| Self::new(&file))
    }
}

impl Reader {
    /// The bytes of a source.
    ///
    /// # Errors
    /// When a file can't be read or is longer than [`FILE_BYTES_MAX`].
    pub(super) fn read(
        &mut self,
        source: &DataSource,
    ) -> Result<Zeroizing<Vec<u8>>, TlsConfigProblem> {
        let path = match source {
            DataSource::Inline(bytes) => return Ok(Zeroizing::new(bytes.to_vec())),
            DataSource::File(path) => path,
        };
        // Noted before it is read, and even when that fails: a file that comes is a change too.
        self.note(path);
        let failed = |error| TlsConfigProblem::File { path: path.to_string_lossy().into(), error };
        let mut bytes = Zeroizing::new(Vec::new());
        let file = File::open(path).map_err(failed)?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(TlsConfigProblem::FileTooLong {
                path: path.to_string_lossy().into(),
                limit_bytes: FILE_BYTES_MAX,
            });
        }
        Ok(bytes)
    }

    /// Notes a file that somebody else is about to read.
    pub(super) fn note(&mut self, path: &Arc<Path>) {
        self.files.push((Arc::clone(path), Stamp::of(path)));
    }

    /// True when a file that was read is another one now.
    pub(super) fn has_changed(&self) -> bool {
        self.files.iter().any(|(path, stamp)| Stamp::of(path) != *stamp)
    }

    /// Whether any file was read.
    pub(super) fn has_files(&self) -> bool {
        !self.files.is_empty()
    }
}

/// The certificates of a source: PEM, in order, or one in DER.
///
/// # Errors
/// When there is none, or the PEM is broken.
pub(super) fn read_certificates(
    source: &DataSource,
    files: &mut Reader,
) -> Result<Vec<CertificateDer<'static>>, TlsConfigProblem> {
    let bytes = files.read(source)?;
    certificates(&bytes)
}

fn certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsConfigProblem> {
    if is_der(bytes) {
        return Ok(vec![CertificateDer::from(bytes.to_vec())]);
    }
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let all = all.map_err(pem_problem)?;
    if all.is_empty() { Err(TlsConfigProblem::NoCertificate) } else { Ok(all) }
}

/// The private key of a source: the first one in PEM, or one in DER.
///
/// # Errors
/// When there is none.
pub(super) fn read_key(
    source: &DataSource,
    files: &mut Reader,
) -> Result<PrivateKeyDer<'static>, TlsConfigProblem> {
    let bytes = files.read(source)?;
    if is_der(&bytes) {
        return PrivateKeyDer::try_from(&bytes[..])
            .map(|key| key.clone_key())
            .map_err(|_| TlsConfigProblem::NoKey);
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsConfigProblem::NoKey,
        error => pem_problem(error),
    })
}

/// Revocation lists in PEM, or one in DER.
///
/// # Errors
/// When there is none, or one can't be read.
pub(super) fn revocation_lists(
    bytes: &[u8],
) -> Result<Vec<CertRevocationList<'static>>, TlsConfigProblem> {
    let lists = if is_der(bytes) {
        vec![CertificateRevocationListDer::from(bytes.to_vec())]
    } else {
        let all: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(bytes).collect();
        all.map_err(pem_problem)?
    };
    if lists.is_empty() {
        return Err(TlsConfigProblem::NoCrl);
    }
    let lists = lists.iter().enumerate().map(|(index, list)| {
        OwnedCertRevocationList::from_der(list)
            .map(CertRevocationList::from)
            .map_err(|reason| TlsConfigProblem::BadCrl { index, reason })
    });
    lists.collect()
}

/// The certificates that the system trusts.
///
/// # Errors
/// When there is no bundle where systems have them.
pub(super) fn system_roots() -> Result<Vec<CertificateDer<'static>>, TlsConfigProblem> {
    for path in SYSTEM_BUNDLES {
        if let Ok(bytes) = std::fs::read(path) {
            return certificates(&bytes);
        }
    }
    Err(TlsConfigProblem::NoSystemRoots)
}

fn is_der(bytes: &[u8]) -> bool {
    bytes.first() == Some(&DER_SEQUENCE)
}

fn pem_problem(error: pem::Error) -> TlsConfigProblem {
    match error {
        // Never the text of the file: it may be a key.
        pem::Error::Base64Decode(_) => TlsConfigProblem::Pem("bad base64".to_owned()),
        pem::Error::IllegalSectionStart { .. } => TlsConfigProblem::Pem("bad section".to_owned()),
        pem::Error::MissingSectionEnd { .. } => {
            TlsConfigProblem::Pem("a section has no end".to_owned())
        }
        error => TlsConfigProblem::Pem(error.to_string()),
    }
}

/// Far above the largest bundle of authorities.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

const DER_SEQUENCE: u8 = 0x30;

/// Where distributions keep them: Debian, Red Hat, SUSE, Alpine.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
