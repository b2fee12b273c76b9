//! The key files of Azure Arc: a file that only the machine's administrators can read, whose contents prove to the
//! agent that a request comes from one of them.

use std::collections::VecDeque;
use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use crate::unique::Unique;

/// Keys that wait for their request. The oldest goes when there is one more.
const LIVE: usize = 64;

/// The keys that were written and not used yet. Their files are removed with them.
pub(crate) struct ArcKeys {
    directory: PathBuf,
    live: Mutex<VecDeque<Key>>,
}

struct Key {
    file: PathBuf,
    digest: [u8; 32],
}

impl ArcKeys {
    /// Keys in this directory, which must exist.
    pub(crate) fn new(directory: PathBuf) -> io::Result<Self> {
        if !fs::metadata(&directory).is_ok_and(|metadata| metadata.is_dir()) {
            let message = format!("the directory for key files, {}, does not exist", directory.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(Self {
            directory,
            live: Mutex::default(),
        })
    }

    /// Writes a new key and says the name of its file.
    pub(crate) fn write(&self, unique: &Unique) -> io::Result<String> {
        let name = format!("{}.key", unique.guid());
        let secret = format!("{}{}", unique.short_id(), unique.short_id());
        let file = self.directory.join(&name);
        write_private(&file, secret.as_bytes())?;
        let key = Key {
            file,
            digest: Sha256::digest(&secret).into(),
        };
        let mut live = self.live();
        if live.len() >= LIVE {
            live.pop_front();
        }
        live.push_back(key);
        Ok(name)
    }

    /// Whether these are the contents of a key file. If so, they are no longer.
    pub(crate) fn redeem(&self, contents: &[u8]) -> bool {
        // Hashes are compared, so that the time this takes tells nothing about the key.
        let digest: [u8; 32] = Sha256::digest(contents).into();
        let mut live = self.live();
        match live.iter().position(|key| key.digest == digest) {
            Some(at) => live.remove(at).is_some(),
            None => false,
        }
    }

    /// Removes all keys.
    pub(crate) fn clear(&self) {
        self.live().clear();
    }

    fn live(&self) -> MutexGuard<'_, VecDeque<Key>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // Somebody else may have removed it, and nobody could be told.
        let _ = fs::remove_file(&self.file);
    }
}

impl fmt::Debug for ArcKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArcKeys")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

/// Writes a new file that only its owner can read.
pub(crate) fn write_private(file: &Path, contents: &[u8]) -> io::Result<()> {
    let mut options = fs::File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(file)?.write_all(contents)
}
