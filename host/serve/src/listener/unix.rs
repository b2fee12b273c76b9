//! Sockets in the file system.

use super::{BACKLOG, ListenError};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixSocket, UnixStream};

/// A socket that is listened on, and its file, which is removed at the end if it is ours.
pub(crate) struct UnixSocketFile {
    listener: UnixListener,
    path: Option<PathBuf>,
    /// The device and inode of the file, when we have made it.
    made: Option<(u64, u64)>,
}

impl UnixSocketFile {
    /// Makes the file, for those to connect to whom the mode allows it. What a server has left behind that is gone is
    /// replaced.
    pub(super) fn bind(path: &Path, mode: u32) -> Result<Self, ListenError> {
        let shown = || path.display().to_string();
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => ListenError::NoFolder { path: shown() },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                ListenError::SocketForbidden { path: shown() }
            }
            // Somebody else has begun at the same time.
            io::ErrorKind::AddrInUse => ListenError::SocketInUse { path: shown() },
            _ => ListenError::Io { place: shown(), error },
        };
        match std::fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => return Err(ListenError::NoSocket { path: shown() }),
            Ok(_) => match is_live(path) {
                Ok(false) => std::fs::remove_file(path).map_err(failed)?,
                Ok(true) => return Err(ListenError::SocketInUse { path: shown() }),
                Err(error) => return Err(failed(error)),
            },
            // What else is wrong shows when it is made.
            Err(_) => {}
        }
        let socket = UnixSocket::new_stream().map_err(failed)?;
        socket.bind(path).map_err(failed)?;
        // Nobody can connect before it listens, so nobody can who may not.
        std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed)?;
        let made = std::fs::symlink_metadata(path).map_err(failed)?;
        let listener = socket.listen(BACKLOG).map_err(failed)?;
        Ok(Self {
            listener,
            path: Some(path.to_owned()),
            made: Some((made.dev(), made.ino())),
        })
    }

    /// One that somebody else has made, and will remove.
    pub(super) fn inherited(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let path = listener.local_addr()?.as_pathname().map(Path::to_owned);
        Ok(Self {
            listener: UnixListener::from_std(listener)?,
            path,
            made: None,
        })
    }

    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for UnixSocketFile {
    fn drop(&mut self) {
        let (Some(path), Some(made)) = (&self.path, self.made) else {
            return;
        };
        // Another server may have replaced it.
        if std::fs::symlink_metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == made) {
            // Whoever comes next finds that nobody listens, and replaces it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Whether a server listens at this socket. Does not wait for one that is too busy to accept.
fn is_live(path: &Path) -> io::Result<bool> {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) | Err(Errno::AGAIN | Errno::INPROGRESS) => Ok(true),
        Err(Errno::CONNREFUSED) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
