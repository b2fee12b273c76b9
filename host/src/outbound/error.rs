//! Why a request got no reply, and what the component is told of it.

use super::connector::ConnectFault;
use super::denial::Denial;
use super::metered::TOO_MUCH;
use super::origin::Origin;
use super::tls::{CertificateFault, TlsFault, tls_error};
use super::transport::TransportError;
use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Any error, of a body that somebody else has made.
pub(super) type BoxError = Box<dyn StdError + Send + Sync>;

/// A request that was not sent, or a reply that did not come whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutboundError {
    /// The policy does not permit it. Nothing was sent.
    #[error(transparent)]
    Denied(#[from] Denial),
    /// The host name has no address.
    #[error("The host of {origin} has no address: {reason}. Check its name and the resolver's settings.")]
    NameNotFound {
        /// The endpoint.
        origin: Origin,
        /// What the resolver says.
        reason: String,
    },
    /// No connection could be made.
    #[error(
        "No connection to {origin} at {address}: {kind}. Check that something listens there, and routes and firewalls."
    )]
    NotConnected {
        /// The endpoint.
        origin: Origin,
        /// The last of its addresses that was tried.
        address: SocketAddr,
        /// What came of it.
        kind: io::ErrorKind,
    },
    /// No connection was made in time.
    #[error("No connection to {origin} within {after:?}. Check routes and firewalls on the way to it.")]
    ConnectTimeout {
        /// The endpoint.
        origin: Origin,
        /// How long it was waited for.
        after: Duration,
    },
    /// The server at the endpoint is not known to be the right one by its certificate. Nothing was sent to it.
    #[error(
        "The server at {origin} is not the right one: its certificate {fault}. Nothing was sent to it. Check what answers \
         there, and what it has to be known by."
    )]
    Certificate {
        /// The endpoint.
        origin: Origin,
        /// What is wrong with the certificate.
        fault: CertificateFault,
    },
    /// What the server would be known by cannot be read. Nothing was sent to it.
    #[error("It is not known what server at {origin} to trust: {reason}.")]
    Authority {
        /// The endpoint.
        origin: Origin,
        /// What cannot be read, and why.
        reason: String,
    },
    /// What the server has to be known by, only the host's own client looks at. Nothing was sent to it.
    #[error(
        "The server at {origin} is known by a certificate or a name of its own, which only the host's own client checks. \
         Leave out the transport for this source; in Envoy, write `\"outbound\": \"host\"`."
    )]
    NotForTransport {
        /// The endpoint.
        origin: Origin,
    },
    /// The [transport](super::Transport) does not reach the endpoint.
    #[error("{origin} is not reached by the transport that is configured: {reason}.")]
    NotCarried {
        /// The endpoint.
        origin: Origin,
        /// What the transport says.
        reason: String,
    },
    /// The server breaks off because of something in the handshake.
    #[error("The server at {origin} refuses TLS with this client: alert {code} ({name}).")]
    TlsAlert {
        /// The endpoint.
        origin: Origin,
        /// The number of the alert (RFC 8446 section 6).
        code: u8,
        /// What it is called.
        name: String,
    },
    /// The server does not speak TLS, or none that is safe.
    #[error("{origin} does not speak TLS: {reason}. Check that it is the endpoint that is meant, and not one of http.")]
    NotTls {
        /// The endpoint.
        origin: Origin,
        /// What is wrong with what it sends.
        reason: String,
    },
    /// A connection was made, and the head of the reply did not come in time.
    #[error("{origin} takes a connection and sends no reply within {after:?}.")]
    NoReply {
        /// The endpoint.
        origin: Origin,
        /// How long it was waited for.
        after: Duration,
    },
    /// The reply began, and then nothing more came for too long.
    #[error("{origin} stopped in the middle of its reply for {after:?}.")]
    Stalled {
        /// The endpoint.
        origin: Origin,
        /// How long it was waited for.
        after: Duration,
    },
    /// The reply comes too slowly to wait for its end.
    #[error("{origin} has not finished its reply within {after:?}.")]
    TooSlow {
        /// The endpoint.
        origin: Origin,
        /// How long the whole exchange may take.
        after: Duration,
    },
    /// The head of the reply has too many bytes or fields.
    #[error("{origin} sends a reply with a header of more than {bytes} bytes or {fields} fields.")]
    HeadTooLarge {
        /// The endpoint.
        origin: Origin,
        /// How many bytes it may have.
        bytes: usize,
        /// How many fields it may have.
        fields: usize,
    },
    /// The body of the reply has, or declares, too many bytes.
    #[error("{origin} sends a reply of more than {limit} bytes.")]
    BodyTooLarge {
        /// The endpoint.
        origin: Origin,
        /// How many bytes it may have.
        limit: u64,
    },
    /// Bytes come without end, and no reply is complete: interim replies, chunk sizes, trailers.
    #[error("{origin} sends more bytes than any reply has.")]
    Flood {
        /// The endpoint.
        origin: Origin,
    },
    /// The connection was closed before the reply was complete.
    #[error("{origin} closed the connection before its reply was complete.")]
    BrokenOff {
        /// The endpoint.
        origin: Origin,
    },
    /// The connection failed.
    #[error("The connection to {origin} failed in the middle of the exchange: {kind}.")]
    ConnectionLost {
        /// The endpoint.
        origin: Origin,
        /// How.
        kind: io::ErrorKind,
    },
    /// What came is no reply in HTTP/1.
    #[error("{origin} does not answer in HTTP/1.1: {reason}. Check that it is the identity endpoint.")]
    NotHttp {
        /// The endpoint.
        origin: Origin,
        /// What is wrong with it.
        reason: String,
    },
    /// The request's body is too large, or the method has none.
    #[error("The request has a body of more than {limit} bytes.")]
    RequestTooLarge {
        /// How many bytes it may have.
        limit: u64,
    },
    /// The request's body could not be read from whoever makes it. Nothing was sent.
    #[error("The body of the request could not be read.")]
    RequestBody(#[source] BoxError),
}

impl OutboundError {
    /// The error that `error`, or one that it was caused by, stands for, once a connection was asked for.
    pub(super) fn in_reply(origin: &Origin, error: &(dyn StdError + 'static), bytes: usize, fields: usize) -> Self {
        let origin = origin.clone();
        if let Some(error) = cause::<hyper::Error>(error) {
            if error.is_parse_too_large() {
                return Self::HeadTooLarge { origin, bytes, fields };
            }
            if error.is_incomplete_message() {
                return Self::BrokenOff { origin };
            }
            if error.is_canceled() || error.is_closed() {
                return Self::ConnectionLost {
                    origin,
                    kind: io::ErrorKind::NotConnected,
                };
            }
        }
        let io = cause::<io::Error>(error);
        if let Some(error) = io.and_then(tls_error) {
            let fault = TlsFault::of(error, origin.host());
            return Self::in_tls(origin, &fault);
        }
        match io.map(io::Error::kind) {
            // How hyper says that a body ended before its declared length or last chunk.
            Some(io::ErrorKind::UnexpectedEof) => Self::BrokenOff { origin },
            Some(TOO_MUCH) => Self::Flood { origin },
            // How it says that chunks are malformed, or that their extensions or trailers are too large.
            None | Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other) => {
                let reason = cause::<hyper::Error>(error).map_or_else(|| error.to_string(), ToString::to_string);
                Self::NotHttp { origin, reason }
            }
            Some(kind) => Self::ConnectionLost { origin, kind },
        }
    }

    /// What the connector's error stands for; `None` if that is a denial, which needs the request to be told.
    pub(super) fn in_connecting(origin: &Origin, fault: &ConnectFault) -> Option<Self> {
        let origin = origin.clone();
        Some(match fault {
            ConnectFault::NotPermitted | ConnectFault::Addresses(_) => return None,
            ConnectFault::Name(reason) => Self::NameNotFound {
                origin,
                reason: reason.clone(),
            },
            ConnectFault::Connect(address, kind) => Self::NotConnected {
                origin,
                address: *address,
                kind: *kind,
            },
            ConnectFault::Tls(fault) => Self::in_tls(origin, fault),
            ConnectFault::Timeout(after) => Self::ConnectTimeout { origin, after: *after },
        })
    }

    fn in_tls(origin: Origin, fault: &TlsFault) -> Self {
        match fault.clone() {
            TlsFault::Roots(reason) => Self::Authority { origin, reason },
            TlsFault::Certificate(fault) => Self::Certificate { origin, fault },
            TlsFault::Alert(code, name) => Self::TlsAlert { origin, code, name },
            TlsFault::Protocol(reason) => Self::NotTls { origin, reason },
            TlsFault::Lost(kind) => Self::ConnectionLost { origin, kind },
        }
    }

    /// What a transport's error stands for. `limit` is what the body of a reply may have.
    pub(super) fn in_transport(origin: &Origin, error: TransportError, limit: u64) -> Self {
        let origin = origin.clone();
        match error {
            TransportError::Unreachable(reason) => Self::NotCarried { origin, reason },
            TransportError::TooSlow(after) => Self::NoReply { origin, after },
            TransportError::TooLarge => Self::BodyTooLarge { origin, limit },
            TransportError::BrokenOff => Self::BrokenOff { origin },
        }
    }

    /// Whether it is of TLS or of a transport: these the component can only be told in part.
    pub(super) fn is_told_in_part(&self) -> bool {
        matches!(
            self,
            Self::Certificate { .. }
                | Self::Authority { .. }
                | Self::NotForTransport { .. }
                | Self::NotCarried { .. }
                | Self::TlsAlert { .. }
                | Self::NotTls { .. }
        )
    }
}

/// The first error of a type on the way from `error` to its root.
pub(super) fn cause<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// What the component is told: a code of `wasi:http`, the same in 0.2 and 0.3.
///
/// Only variants that both versions pass on as they are. `Error::Hyper` and `Error::Connect` are not among them: their
/// codes are guessed from an error's text.
impl From<OutboundError> for wasmtime_wasi_http::Error {
    fn from(error: OutboundError) -> Self {
        match error {
            OutboundError::Denied(_) => Self::HttpRequestDenied,
            OutboundError::NameNotFound { .. } => Self::DnsError {
                rcode: None,
                info_code: None,
            },
            OutboundError::NotConnected { kind, .. } => match kind {
                io::ErrorKind::ConnectionRefused => Self::ConnectionRefused,
                io::ErrorKind::TimedOut => Self::ConnectionTimeout,
                _ => Self::DestinationUnavailable,
            },
            OutboundError::ConnectTimeout { .. } => Self::ConnectionTimeout,
            OutboundError::Certificate { .. } => Self::TlsCertificateError,
            OutboundError::Authority { .. } | OutboundError::NotForTransport { .. } => Self::ConfigurationError,
            OutboundError::NotCarried { .. } => Self::DestinationUnavailable,
            OutboundError::TlsAlert { code, name, .. } => Self::TlsAlertReceived {
                alert_id: Some(code),
                alert_message: Some(name),
            },
            OutboundError::NotTls { .. } => Self::TlsProtocolError,
            OutboundError::NoReply { .. } | OutboundError::TooSlow { .. } => Self::HttpResponseTimeout,
            OutboundError::Stalled { .. } => Self::ConnectionReadTimeout,
            OutboundError::HeadTooLarge { bytes, .. } => Self::HttpResponseHeaderSectionSize(u32::try_from(bytes).ok()),
            OutboundError::Flood { .. } => Self::HttpResponseBodySize(None),
            OutboundError::BodyTooLarge { limit, .. } => Self::HttpResponseBodySize(Some(limit)),
            OutboundError::BrokenOff { .. } => Self::HttpResponseIncomplete,
            OutboundError::ConnectionLost { .. } => Self::ConnectionTerminated,
            OutboundError::NotHttp { .. } => Self::HttpProtocolError,
            OutboundError::RequestTooLarge { limit } => Self::HttpRequestBodySize(Some(limit)),
            OutboundError::RequestBody(source) => match source.downcast::<Self>() {
                Ok(own) => *own,
                Err(_) => Self::InternalError(Some("the request's body could not be read".to_owned())),
            },
        }
    }
}
