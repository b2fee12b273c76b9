//! Sockets that systemd has opened (`LISTEN_FDS`, see `sd_listen_fds(3)`), so that a port needs no privilege, and no client is
//! refused while the server starts again.

use super::unix::UnixSocketFile;
use super::{ListenError, Listener};
use listenfd::ListenFd;
use std::io;
use std::os::fd::AsFd;
use tokio::net::TcpListener;

/// What was passed and is not taken yet.
pub(crate) struct Inherited {
    sockets: ListenFd,
    names: Vec<String>,
}

impl Inherited {
    /// Those of this process, when there is a listener for one. They can be had once.
    pub(crate) fn of_process(is_wanted: bool) -> Self {
        if !is_wanted {
            return Self {
                sockets: ListenFd::empty(),
                names: Vec::new(),
            };
        }
        // Before the rest is read, which is taken away by that.
        let names = std::env::var("LISTEN_FDNAMES");
        let sockets = ListenFd::from_env();
        let mut names: Vec<String> =
            names.map_or_else(|_| Vec::new(), |names| names.split(':').map(str::to_owned).collect());
        // What systemd says of sockets that have no name.
        names.resize_with(sockets.len(), || "unknown".to_owned());
        Self { sockets, names }
    }

    pub(super) fn take(&mut self, name: &str) -> Result<Listener, ListenError> {
        let unsuited = |reason: &str| ListenError::Unsuited {
            name: name.to_owned(),
            reason: reason.to_owned(),
        };
        let mut found = (0..).zip(&self.names).filter(|(_, known)| *known == name);
        let Some((index, _)) = found.next() else {
            return Err(self.not_passed(name));
        };
        if found.next().is_some() {
            return Err(unsuited(
                "there are several of that name; give each a socket unit of its own, with a FileDescriptorName= of its own",
            ));
        }
        let failed = |error: io::Error| unsuited(&error.to_string());
        if let Ok(Some(listener)) = self.sockets.take_tcp_listener(index) {
            must_listen(&listener).map_err(unsuited)?;
            listener.set_nonblocking(true).map_err(failed)?;
            return TcpListener::from_std(listener).map(Listener::Tcp).map_err(failed);
        }
        match self.sockets.take_unix_listener(index) {
            Ok(Some(listener)) => {
                must_listen(&listener).map_err(unsuited)?;
                UnixSocketFile::inherited(listener).map(Listener::Unix).map_err(failed)
            }
            Ok(None) => Err(unsuited("another listener has it already")),
            Err(_) => Err(unsuited("it is neither a TCP nor a Unix stream socket (ListenStream=)")),
        }
    }

    fn not_passed(&self, name: &str) -> ListenError {
        let passed = match self.names.as_slice() {
            [] => "it has passed none at all".to_owned(),
            names => format!("it has passed {}", names.join(", ")),
        };
        ListenError::NotPassed {
            name: name.to_owned(),
            passed,
        }
    }
}

/// With `Accept=yes`, systemd passes connections instead.
fn must_listen(socket: &impl AsFd) -> Result<(), &'static str> {
    match rustix::net::sockopt::socket_acceptconn(socket) {
        Ok(false) => Err("it does not listen; the socket unit must not have Accept=yes"),
        // Where the system cannot tell, accepting will.
        Ok(true) | Err(_) => Ok(()),
    }
}
