//! Accepts connections, and has each of them served.

use crate::connection::{self, Connections, Place, User, closed, http2};
use crate::grpc;
use crate::listener::{Listener, Socket};
use crate::protocol::{self, Service};
use crate::telemetry::LOG_TARGET;
use crate::tls::Certificate;
use http::request::Parts;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// How long nothing is accepted after the system has refused to: doubled each time that it does so again, up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// A listener, and what is served there.
pub(super) struct Accepting {
    pub(super) listener: Listener,
    pub(super) service: Arc<Service>,
    pub(super) certificate: Option<Certificate>,
}

impl Accepting {
    /// Accepts until it is dropped.
    pub(super) async fn run(self, name: String, connections: Arc<Connections>) {
        let mut refusals = Refusals::default();
        loop {
            match self.listener.accept().await {
                Ok((socket, user)) => {
                    refusals = Refusals::default();
                    let place = connections.place().await;
                    self.serve(socket, user, place, &connections);
                }
                Err(error) => {
                    if let Some(pause) = refusals.pause(&error) {
                        tracing::warn!(
                            target: LOG_TARGET,
                            listener = name,
                            %error,
                            "nothing can be accepted for now; when there are too many open files, raise LimitNOFILE= or `ulimit -n`"
                        );
                        sleep(pause).await;
                    }
                }
            }
        }
    }

    fn serve(&self, socket: Socket, user: User, place: Place, connections: &Connections) {
        let id = place.id();
        let service = Arc::clone(&self.service);
        let task = match &self.certificate {
            None => tokio::spawn(serve(socket, user, place, service)),
            Some(certificate) => {
                let handshake = TlsAcceptor::from(certificate.current()).accept(socket);
                tokio::spawn(async move {
                    // It is idle until then, so that whoever only connects stands in nobody's way.
                    match timeout(service.shared.limits.request_timeout, handshake).await {
                        Ok(Ok(stream)) => serve(stream, user, place, service).await,
                        Ok(Err(_)) | Err(_) => closed("tls"),
                    }
                })
            }
        };
        connections.serving(id, task.abort_handle());
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, user: User, place: Place, service: Arc<Service>) {
    if !service.protocols.iter().any(|protocol| protocol.has_grpc()) {
        return serve_http1(stream, user, place, service).await;
    }
    let limits = &service.shared.limits;
    let Some((stream, is_http2)) = http2::tell_apart(stream, &place, limits).await else {
        return;
    };
    if !is_http2 {
        return serve_http1(stream, user, place, service).await;
    }
    let answer = |request| grpc::answer(request, user, Arc::clone(&service));
    http2::serve(stream, place, limits, answer).await;
}

async fn serve_http1<S: AsyncRead + AsyncWrite + Unpin>(stream: S, user: User, place: Place, service: Arc<Service>) {
    // One more count, which is this connection's alone: each request takes part in it, and the service's own is touched by
    // all processors.
    let asked = Arc::new(service);
    let answer = |request: Parts| {
        let service = Arc::clone(&asked);
        async move { protocol::answer(&request, user, &service).await }
    };
    connection::serve(stream, place, &asked.shared.limits, answer).await;
}

/// How often in a row the system has refused to accept.
#[derive(Debug, Default)]
struct Refusals(u32);

impl Refusals {
    /// How long to wait before trying again; not at all, when only one client has gone before it was accepted.
    fn pause(&mut self, error: &io::Error) -> Option<Duration> {
        if matches!(
            error.kind(),
            io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::NotConnected
                | io::ErrorKind::Interrupted
        ) {
            return None;
        }
        let (first, longest) = PAUSES;
        let pause = first
            .saturating_mul(1_u32.checked_shl(self.0).unwrap_or(u32::MAX))
            .min(longest);
        self.0 = self.0.saturating_add(1);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::{PAUSES, Refusals};
    use std::io;
    use std::time::Duration;

    #[test]
    fn a_client_that_has_gone_holds_up_nobody_and_too_many_files_only_for_a_while() {
        let mut refusals = Refusals::default();
        let gone = io::Error::from(io::ErrorKind::ConnectionAborted);
        assert_eq!(refusals.pause(&gone), None);
        // EMFILE, which has no kind of its own.
        let full = io::Error::from_raw_os_error(24);
        let pauses: Vec<Duration> = (0..40).filter_map(|_| refusals.pause(&full)).collect();
        assert_eq!(pauses.len(), 40);
        assert_eq!(pauses.first(), Some(&PAUSES.0));
        assert!(pauses.is_sorted());
        assert_eq!(pauses.last(), Some(&PAUSES.1));
        assert_eq!(refusals.pause(&gone), None);
    }
}
