//! Where is listened: TCP, sockets in the file system, and what systemd has opened for us.

#[cfg(unix)]
mod inherited;
#[cfg(all(test, unix))]
mod tests;
#[cfg(unix)]
mod unix;

use crate::config::Address;
use crate::connection::User;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

#[cfg(unix)]
pub(crate) use inherited::Inherited;
#[cfg(unix)]
use tokio::net::UnixStream;
#[cfg(unix)]
use unix::UnixSocketFile;

/// How many may have connected and not been accepted: as many as a herd of workers that all begin at once. The system may
/// have a lower limit of its own (`net.core.somaxconn`).
const BACKLOG: u32 = 4_096;

/// What is wrong with a place to listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Somebody listens there already.
    #[error("{address} is in use; find out by whom with `ss -ltnp`, or listen elsewhere")]
    InUse {
        /// Where.
        address: SocketAddr,
    },
    /// This machine has no such address.
    #[error("{address} is no address of this machine; `ip address` shows those that are")]
    NoAddress {
        /// Where.
        address: SocketAddr,
    },
    /// The port is one of those that need a privilege.
    #[error(
        "{address} may not be listened to; ports below 1024 need CAP_NET_BIND_SERVICE, or a socket that systemd opens \
         (`systemd:NAME`)"
    )]
    PortForbidden {
        /// Where.
        address: SocketAddr,
    },
    /// Another server listens at the socket.
    #[error("another server listens at {path}; end it first, or choose another path (`ss -lxp` shows who it is)")]
    SocketInUse {
        /// The socket.
        path: String,
    },
    /// Something is there that no server has made, and that is not replaced.
    #[error("{path} exists and is no socket; it is left alone, so remove it or choose another path")]
    NoSocket {
        /// What is there.
        path: String,
    },
    /// The folder of the socket is missing.
    #[error("there is no folder for {path}; make it first (a systemd unit does so with RuntimeDirectory=)")]
    NoFolder {
        /// The socket.
        path: String,
    },
    /// The socket may not be made there.
    #[error("{path} may not be made or replaced by this user; choose a folder that this user may write to")]
    SocketForbidden {
        /// The socket.
        path: String,
    },
    /// systemd has not passed the socket.
    #[error(
        "systemd has passed no socket with the name {name}: {passed}; it comes from FileDescriptorName= in a socket unit"
    )]
    NotPassed {
        /// The name.
        name: String,
        /// What it has passed.
        passed: String,
    },
    /// What was passed by that name cannot be listened on.
    #[error("the socket {name} that systemd has passed cannot be used: {reason}")]
    Unsuited {
        /// The name.
        name: String,
        /// Why not.
        reason: String,
    },
    /// There are no such sockets on this system.
    #[error("there are no such sockets on this system; listen on an address and port")]
    Unsupported,
    /// Something else.
    #[error("{place}: {error}")]
    Io {
        /// Where.
        place: String,
        /// What the system says.
        error: io::Error,
    },
}

/// A socket that is listened on.
pub(crate) enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixSocketFile),
}

impl Listener {
    #[cfg(unix)]
    pub(crate) fn bind(address: &Address, inherited: &mut Inherited) -> Result<Self, ListenError> {
        match address {
            Address::Tcp(address) => tcp(*address),
            Address::Unix(path, mode) => UnixSocketFile::bind(path, *mode).map(Self::Unix),
            Address::Systemd(name) => inherited.take(name),
        }
    }

    #[cfg(not(unix))]
    pub(crate) fn bind(address: &Address) -> Result<Self, ListenError> {
        match address {
            Address::Tcp(address) => tcp(*address),
            Address::Unix(..) | Address::Systemd(_) => Err(ListenError::Unsupported),
        }
    }

    /// The address, for TCP.
    pub(crate) fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            #[cfg(unix)]
            Self::Unix(_) => None,
        }
    }

    /// The path of a socket in the file system, and who may connect to it. Where that cannot be known, everybody may: to an
    /// abstract socket, which has no path.
    #[cfg(unix)]
    pub(crate) fn unix_address(&self) -> Option<(std::path::PathBuf, u32)> {
        use std::os::unix::fs::PermissionsExt as _;
        const EVERYBODY: u32 = 0o666;
        let Self::Unix(listener) = self else { return None };
        let path = listener.path().unwrap_or_else(|| Path::new("/"));
        let mode = listener.path().and_then(|path| path.metadata().ok());
        let mode = mode.map_or(EVERYBODY, |found| found.permissions().mode() & 0o777);
        Some((path.to_owned(), mode))
    }

    /// The address as it is announced.
    pub(crate) fn address(&self) -> String {
        let path = match self {
            Self::Tcp(listener) => {
                return listener
                    .local_addr()
                    .map_or_else(|_| String::new(), |it| it.to_string());
            }
            #[cfg(unix)]
            Self::Unix(listener) => listener.path(),
        };
        format!("unix:{}", path.unwrap_or_else(|| Path::new("")).display())
    }

    /// The next connection, and whose it is, where that can be known.
    pub(crate) async fn accept(&self) -> io::Result<(Socket, User)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // It fails for a client that has gone already.
                let _ = stream.set_nodelay(true);
                Ok((Socket::Tcp(stream), None))
            }
            #[cfg(unix)]
            Self::Unix(listener) => {
                let stream = listener.accept().await?;
                let user = stream.peer_cred()?.uid();
                Ok((Socket::Unix(stream), Some(user)))
            }
        }
    }
}

/// A server that was killed leaves connections behind, for which the port is held for a minute (TIME_WAIT). Its successor
/// may have it all the same.
fn tcp(address: SocketAddr) -> Result<Listener, ListenError> {
    let bind = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // Elsewhere than on Unix, this would let two servers have one port.
        #[cfg(unix)]
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().map(Listener::Tcp).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse { address },
        io::ErrorKind::AddrNotAvailable => ListenError::NoAddress { address },
        io::ErrorKind::PermissionDenied => ListenError::PortForbidden { address },
        _ => ListenError::Io {
            place: address.to_string(),
            error,
        },
    })
}

/// A connection, of whichever kind.
pub(crate) enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

/// Does the same with either kind.
macro_rules! either {
    ($socket:expr, $stream:ident => $result:expr) => {
        match $socket {
            Socket::Tcp($stream) => $result,
            #[cfg(unix)]
            Socket::Unix($stream) => $result,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(context, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        either!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(context))
    }
}
