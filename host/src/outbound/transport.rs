//! Another way for permitted requests than the host's own connections.
//!
//! Programs that have an HTTP client of their own, with its own connections, time-outs, TLS and statistics, let requests to
//! the identity endpoint go through that ([`BrokerBuilder::transport`](crate::BrokerBuilder::transport)). What may be asked,
//! how often, how long it may take and how much may come back is decided as ever; where the request goes is the transport's
//! decision, and by what the server is known is, too.

use super::trust::Trust;
use bytes::Bytes;
use http::{Request, Response};
use std::pin::Pin;
use std::time::Duration;

/// A reply on its way.
pub type Carrying<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, TransportError>> + Send + 'a>>;

/// Carries requests to the identity endpoint, and replies back.
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use managed_identity_host::Broker;
/// use managed_identity_host::outbound::{Carrying, Transport, TransportError};
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// struct Unplugged;
///
/// impl Transport for Unplugged {
///     fn carry(&self, _request: Request<Bytes>, _time: Duration) -> Carrying<'_> {
///         Box::pin(async { Err(TransportError::Unreachable("it is unplugged".to_owned())) })
///     }
/// }
///
/// let broker = Broker::builder().transport(Arc::new(Unplugged));
/// ```
pub trait Transport: Send + Sync {
    /// Sends `request`, and waits for the whole reply, for `time` and no longer.
    ///
    /// The request has passed the policy. It has an absolute URI, the `Host` that belongs to it, the `Content-Length` of its
    /// body, if it has one, and no field about connections. None may be added that says for whom it is forwarded: identity
    /// endpoints refuse what a proxy could have been tricked into asking. Its fields may be secret, as is the reply.
    ///
    /// A reply of any status is a reply; redirects are not followed. The future is dropped when nobody waits any more.
    fn carry(&self, request: Request<Bytes>, time: Duration) -> Carrying<'_>;
}

/// Why there is no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// Nobody was asked, or nobody is there. Reads as the end of a sentence, without a full stop.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// There was no whole reply within this time.
    #[error("no reply within {0:?}")]
    TooSlow(Duration),
    /// The reply has more bytes than the transport takes.
    #[error("the reply is too large")]
    TooLarge,
    /// The exchange ended before the reply was complete.
    #[error("the exchange was broken off")]
    BrokenOff,
}

/// Whether a transport can be left to know a server that has to be known by `trust`: whom the system does not trust, or not
/// under this name, only the host's own client recognises.
pub(super) fn carries(trust: Option<&Trust>) -> bool {
    trust.is_none_or(|trust| *trust == Trust::SystemRoots)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the endpoints are literals")]

    use super::super::{Authority, Endpoint, EndpointPolicy, Outbound, OutboundConfig, OutboundError};
    use super::*;
    use http::Method;
    use http_body_util::{BodyExt, Full};
    use std::sync::{Arc, Mutex};
    use tokio::time::{Instant, sleep};
    use wasmtime_wasi_http::RequestOptions;

    const URL: &str = "https://identity.example/token?a=b";

    /// Keeps what it is given, and answers after a while.
    struct Fake {
        given: Mutex<Vec<(Request<Bytes>, Duration)>>,
        answer: Result<Response<Bytes>, TransportError>,
        after: Duration,
    }

    impl Fake {
        fn new(answer: Result<Response<Bytes>, TransportError>) -> Arc<Self> {
            Self::slow(answer, Duration::ZERO)
        }

        fn slow(answer: Result<Response<Bytes>, TransportError>, after: Duration) -> Arc<Self> {
            Arc::new(Self {
                given: Mutex::default(),
                answer,
                after,
            })
        }

        /// A client for one endpoint, whose server is known by `trust`.
        fn client(self: &Arc<Self>, trust: Trust, config: OutboundConfig) -> Outbound {
            let endpoint = Endpoint::granted("https://identity.example/token").unwrap();
            let endpoint = endpoint
                .with_methods([Method::GET, Method::POST])
                .with_trust(trust)
                .unwrap();
            Outbound::with_transport(EndpointPolicy::from_iter([endpoint]), config, self.clone())
        }
    }

    impl Transport for Fake {
        fn carry(&self, request: Request<Bytes>, time: Duration) -> Carrying<'_> {
            self.given.lock().unwrap().push((request, time));
            Box::pin(async {
                sleep(self.after).await;
                self.answer.clone()
            })
        }
    }

    fn reply(body: &'static str) -> Result<Response<Bytes>, TransportError> {
        Ok(Response::new(Bytes::from_static(body.as_bytes())))
    }

    async fn send(client: &Outbound, method: Method, url: &str, body: &'static str) -> Result<Bytes, OutboundError> {
        let request = Request::builder().method(method).uri(url).header("metadata", "true");
        let request = request.body(Full::from(body)).unwrap();
        let response = client.send(request, RequestOptions::default()).await?;
        Ok(response.into_body().collect().await?.to_bytes())
    }

    #[tokio::test]
    async fn a_permitted_request_is_carried_as_it_would_be_sent() {
        let fake = Fake::new(reply("an answer"));
        let client = fake.client(Trust::SystemRoots, OutboundConfig::default());
        assert_eq!(send(&client, Method::GET, URL, "").await.unwrap(), "an answer");
        assert_eq!(send(&client, Method::POST, URL, "question").await.unwrap(), "an answer");
        let given = fake.given.lock().unwrap();
        let seen = |index: usize| {
            let (request, time) = &given[index];
            assert_eq!(request.uri(), URL);
            // Both the connection's time and the reply's: which of them passes is not seen here.
            assert_eq!(*time, Duration::from_secs(70));
            let field = |name| request.headers().get(name).map(|value| value.to_str().unwrap());
            (
                request.body().clone(),
                field("host"),
                field("metadata"),
                field("content-length"),
            )
        };
        assert_eq!(seen(0), (Bytes::new(), Some("identity.example"), Some("true"), None));
        assert_eq!(
            seen(1),
            (
                Bytes::from("question"),
                Some("identity.example"),
                Some("true"),
                Some("8")
            )
        );
    }

    #[tokio::test]
    async fn what_is_not_permitted_is_not_carried() {
        let fake = Fake::new(reply(""));
        let client = fake.client(Trust::SystemRoots, OutboundConfig::default());
        for url in ["https://identity.example/other", "https://elsewhere.example/token"] {
            let error = send(&client, Method::GET, url, "").await.unwrap_err();
            assert!(matches!(error, OutboundError::Denied(_)), "{error}");
        }
        assert!(fake.given.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_server_that_only_the_host_knows_is_not_asked() {
        let fake = Fake::new(reply("an answer"));
        for (trust, is_asked) in [
            (Trust::SystemRoots, true),
            (Trust::Thumbprint([7; 20]), false),
            (Trust::Authority(Authority::from_file("authority.pem")), false),
            (
                Trust::Authority(Authority::system().with_server_name("other.example").unwrap()),
                false,
            ),
        ] {
            let client = fake.client(trust, OutboundConfig::default());
            let sent = send(&client, Method::GET, URL, "").await;
            let origin = client.policy().endpoints()[0].origin().clone();
            let probed = client.connect(&origin).await;
            assert_eq!((sent.is_ok(), probed.is_ok()), (is_asked, is_asked));
            for error in sent.err().into_iter().chain(probed.err()) {
                assert!(matches!(error, OutboundError::NotForTransport { .. }), "{error}");
                assert!(error.to_string().contains(r#""outbound": "host""#), "{error}");
            }
            assert_eq!(client.last_tls_failure().is_none(), is_asked);
        }
        assert_eq!(fake.given.lock().unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_transport_that_forgets_the_time_is_reminded() {
        for (exchange, after, expected) in [(100, 70, "no reply within 70s"), (50, 50, "within 50s")] {
            let fake = Fake::slow(reply(""), Duration::from_secs(3600));
            let config = OutboundConfig {
                exchange_timeout: Duration::from_secs(exchange),
                ..OutboundConfig::default()
            };
            let start = Instant::now();
            let error = send(&fake.client(Trust::SystemRoots, config), Method::GET, URL, "").await;
            assert_eq!(start.elapsed().as_secs(), after);
            let error = error.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn what_a_transport_says_is_told() {
        let many = (0..65).fold(Response::builder(), |reply, index| {
            reply.header(format!("x-{index}"), "x")
        });
        let switching = Response::builder().status(101).body(Bytes::new()).unwrap();
        for (answer, expected) in [
            (
                Err(TransportError::Unreachable("the line is cut".to_owned())),
                "the line is cut",
            ),
            (
                Err(TransportError::TooSlow(Duration::from_secs(3))),
                "no reply within 3s",
            ),
            (Err(TransportError::TooLarge), "more than 8 bytes"),
            (Err(TransportError::BrokenOff), "before its reply was complete"),
            (reply("too long for it"), "more than 8 bytes"),
            (
                Ok(many.body(Bytes::new()).unwrap()),
                "more than 65536 bytes or 64 fields",
            ),
            (Ok(switching), "switches protocols"),
        ] {
            let config = OutboundConfig {
                response_body_limit: 8,
                ..OutboundConfig::default()
            };
            let client = Fake::new(answer).client(Trust::SystemRoots, config);
            let error = send(&client, Method::GET, URL, "").await.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
