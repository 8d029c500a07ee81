//! The state file: what survives a restart of the proxy.
//!
//! It is replaced whole, so that it is always either the old or the new one. Nothing here is fatal: a file that can't be read is set aside and reported, a
//! write that fails is reported and tried again with the next change.
//!
//! The format is JSON with a version, `{"version": 1, …}`. It may hold credentials of registries, and
//! is readable for its owner only.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::control::replace_file::beside;

use super::directory::Saved;

/// Why a state file was not read or written.
#[derive(Debug, Error)]
pub enum StateError {
    /// The system.
    #[error("{0}")]
    System(#[from] io::Error),
    /// It is not as it should be.
    #[error("{0}")]
    Corrupt(#[from] serde_json::Error),
    /// It is of a later version.
    #[error("version {0}, where {VERSION} is the newest that is known")]
    Version(u32),
    /// There is too much of it.
    #[error("larger than {STATE_BYTES_MAX} bytes")]
    TooLarge,
}

/// Reads it; nothing when there is none.
///
/// # Errors
/// See [`StateError`].
pub fn read(path: &Path) -> Result<Option<Saved>, StateError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut text = Vec::new();
    file.take(STATE_BYTES_MAX as u64 + 1).read_to_end(&mut text)?;
    decode(&text).map(Some)
}

/// Reads the bytes of one.
///
/// # Errors
/// See [`StateError`].
pub fn decode(text: &[u8]) -> Result<Saved, StateError> {
    if text.len() > STATE_BYTES_MAX {
        return Err(StateError::TooLarge);
    }
    // The version first: what a later one means is not for us to guess.
    let Versioned { version } = serde_json::from_slice(text)?;
    if version != VERSION {
        return Err(StateError::Version(version));
    }
    let document: Document<Saved> = serde_json::from_slice(text)?;
    Ok(document.state)
}

/// Puts a file that can't be read out of the way of the next write, and says where it is then.
///
/// # Errors
/// What the system says.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = beside(path, ".unreadable");
    fs::rename(path, &aside)?;
    Ok(aside)
}

/// The bytes of a state file.
///
/// # Errors
/// When there would be too many.
pub fn encode(saved: &Saved) -> Result<Vec<u8>, StateError> {
    let text = serde_json::to_vec(&Document { version: VERSION, state: saved })?;
    if text.len() > STATE_BYTES_MAX { Err(StateError::TooLarge) } else { Ok(text) }
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct Document<T> {
    version: u32,
    #[serde(flatten)]
    state: T,
}

/// The format's.
const VERSION: u32 = 1;

/// Ten thousand services with ten providers each are half of it.
pub const STATE_BYTES_MAX: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::control::replace_file::replace;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let name = format!("outrigger-state-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let scratch = Scratch::new("whole");
        let path = scratch.0.join("state.json");
        assert!(read(&path).unwrap().is_none());
        let text = r#"{"version": 1, "application": {"name": "a"}, "unknown": 1,
            "published": [[{"protocol": "bolt", "interface": "I"}, {"since_ms": 7}]]}"#;
        replace(&path, text.as_bytes()).unwrap();
        let saved = read(&path).unwrap().unwrap();
        replace(&path, &encode(&saved).unwrap()).unwrap();
        let again = read(&path).unwrap().unwrap();
        assert_eq!(encode(&again).unwrap(), encode(&saved).unwrap());
        assert!(String::from_utf8(encode(&again).unwrap()).unwrap().contains("\"since_ms\":7"));
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_read_is_set_aside() {
        let scratch = Scratch::new("bad");
        let path = scratch.0.join("state.json");
        for text in ["", "{", "[]", "{\"version\": 2}", "{\"version\": 1, \"published\": 1}"] {
            fs::write(&path, text).unwrap();
            assert!(read(&path).is_err(), "{text}");
            // Half a name is no name.
        }
        let aside = set_aside(&path).unwrap();
        assert!(aside.exists() && !path.exists());
        assert!(read(&path).unwrap().is_none());
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let scratch = Scratch::new("full");
        let path = scratch.0.join("state.json");
        fs::write(&path, "{\"version\": 1}").unwrap();
        // A directory where the new file is to be: as good as a full disk, for root as well.
        fs::create_dir(scratch.0.join("state.json.new")).unwrap();
        assert!(replace(&path, b"{}").is_err());
        assert!(read(&path).unwrap().is_some());
    }
}
