//! Directories of a case's own.

use crate::case::{File, Node};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{env, fs, io, process};

/// A fresh directory, which goes with what is in it when this is dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes one in the system's place for temporary files.
    ///
    /// # Errors
    /// When the system does not let it.
    pub fn new() -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let base = env::temp_dir().canonicalize()?;
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = base.join(format!("managed-identity-conformance-{}-{number}", process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self(path)),
                // Left behind by an earlier process of the same number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Where it is, as an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes a directory in it, unless it is there, and says where.
    ///
    /// # Errors
    /// When the system does not let it.
    pub fn directory(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.0.join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A directory that stays is a nuisance and no failure.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Lays out files of a case, in the place of what is there: `place` says where a path of the case really is, `target` what a link really leads to.
///
/// # Errors
/// When a file has no place, or the system does not let it.
pub fn lay_out(
    files: &[File],
    place: impl Fn(&str) -> Option<PathBuf>,
    target: impl Fn(&str) -> PathBuf,
) -> io::Result<()> {
    for file in files {
        let path = place(&file.path)
            .ok_or_else(|| io::Error::other(format!("there is no place for the file {} here", file.path)))?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        // Written through, a link would change what it leads to.
        if path.is_symlink() || path.is_file() {
            fs::remove_file(&path)?;
        }
        match file.node() {
            Node::Text(text) => fs::write(&path, text)?,
            Node::Directory => fs::create_dir_all(&path)?,
            Node::Link(to) => link(&target(&to), &path)?,
        }
    }
    Ok(())
}

#[cfg(unix)]
fn link(target: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(not(unix))]
fn link(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::Error::other(
        "symbolic links need rights that few users have on this system",
    ))
}

/// The same path below another directory, when it is below `from`.
#[must_use]
pub fn moved(path: &str, from: &str, to: &Path) -> Option<PathBuf> {
    Path::new(path).strip_prefix(from).ok().map(|rest| to.join(rest))
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

    use super::*;

    #[test]
    fn files_are_laid_out_and_go_with_their_directory() {
        let scratch = Scratch::new().unwrap();
        let files: Vec<File> = serde_json::from_str(
            r#"[{"path":"/var/opt/a/b.key","text":"x"},{"path":"/var/opt/a/c.key","repeat":"ab","times":3},
                {"path":"/var/opt/a/l.key","link":"b.key"},{"path":"/var/opt/a/d.key","directory":true}]"#,
        )
        .unwrap();
        let place = |path: &str| moved(path, "/var/opt", scratch.path());
        lay_out(&files, place, |target| PathBuf::from(target)).unwrap();
        let at = |name: &str| scratch.path().join("a").join(name);
        assert_eq!(fs::read(at("b.key")).unwrap(), b"x");
        assert_eq!(fs::read(at("c.key")).unwrap(), b"ababab");
        assert_eq!(fs::read_link(at("l.key")).unwrap(), Path::new("b.key"));
        assert!(at("d.key").is_dir());
        assert!(lay_out(&files, |_| None, |target| PathBuf::from(target)).is_err());
        let path = scratch.path().to_owned();
        let changed: Vec<File> = serde_json::from_str(
            r#"[{"path":"/var/opt/a/l.key","text":"y"},{"path":"/var/opt/a/b.key","link":"c.key"}]"#,
        )
        .unwrap();
        lay_out(&changed, place, |target| PathBuf::from(target)).unwrap();
        assert_eq!(
            (fs::read(at("l.key")).unwrap(), fs::read(at("b.key")).unwrap()),
            (b"y".to_vec(), b"ababab".to_vec())
        );
        drop(scratch);
        assert!(!path.exists());
    }
}
