//! Makes connections to permitted origins, and to none of their addresses that is not permitted.
//!
//! The policy has already looked at the request. It is asked again here with the addresses in hand, because a name says
//! nothing about where it leads: whoever answers for it may answer otherwise a second later. The address that is
//! checked is the one that is dialled. On `https`, the connection is handed over once its server has proved to be the
//! right one.

use super::address::Reach;
use super::metered::Metered;
use super::origin::{Origin, Scheme};
use super::policy::Destinations;
use super::stream::Stream;
use super::tls::{Handshake, Tls, TlsFault};
use futures_util::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tower_service::Service;
use url::Host;

/// How many addresses of one name are tried. Endpoints have one or two.
const ADDRESS_LIMIT: usize = 8;

/// Finds the addresses of a name.
pub(super) trait Resolve: Send + Sync + 'static {
    /// All addresses of `name`, each with `port`, in the order in which they are to be tried.
    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// How many names one client looks up at once. A look-up takes a thread of the runtime's, and goes on when nobody waits for it
/// any more.
const LOOK_UPS: usize = 32;

/// The resolver of the operating system: the hosts file, then whatever it is set up to ask.
pub(super) struct SystemResolver {
    places: Arc<Semaphore>,
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(LOOK_UPS)),
        }
    }
}

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            // The semaphore is never closed.
            let place = Arc::clone(&self.places).acquire_owned().await.ok();
            let name = name.to_owned();
            let look_up = tokio::task::spawn_blocking(move || {
                let addresses = (name.as_str(), port).to_socket_addrs().map(Iterator::collect);
                drop(place);
                addresses
            });
            look_up.await.map_err(io::Error::other)?
        })
    }
}

/// What makes the pool's connections.
#[derive(Clone)]
pub(super) struct Connector {
    policy: Arc<dyn Destinations>,
    resolver: Arc<dyn Resolve>,
    tls: Arc<Tls>,
    /// Of local endpoints, and of those that may be public.
    timeouts: (Duration, Duration),
    reply_limit: usize,
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ConnectFault {
    /// The origin is none of the policy's, so the policy was not asked.
    #[error("no endpoint has this origin")]
    NotPermitted,
    /// None of the addresses is permitted.
    #[error("no address of the host is permitted")]
    Addresses(Vec<IpAddr>),
    /// The name has no address, or none that could be found.
    #[error("the host name does not resolve: {0}")]
    Name(String),
    /// The last address that was tried, and what came of it.
    #[error("no connection to {0}: {1}")]
    Connect(SocketAddr, io::ErrorKind),
    /// The server is not the right one, or shows nothing by which it could be known.
    #[error("no TLS: {0}")]
    Tls(#[from] TlsFault),
    /// Resolving, connecting and shaking hands together took longer than permitted.
    #[error("no connection within {0:?}")]
    Timeout(Duration),
}

impl Connector {
    /// Connections over which no reply is longer than `reply_limit` bytes, all that HTTP puts around it included.
    pub(super) fn new(
        policy: Arc<dyn Destinations>,
        resolver: Arc<dyn Resolve>,
        timeouts: (Duration, Duration),
        reply_limit: usize,
    ) -> Self {
        let tls = Arc::new(Tls::new(policy.root_certificates().clone()));
        Self {
            policy,
            resolver,
            tls,
            timeouts,
            reply_limit,
        }
    }

    /// A connection to one of the policy's origins, whose server is known to be the right one.
    pub(super) async fn connect(self, origin: &Origin) -> Result<Stream, ConnectFault> {
        let reach = self.policy.reach(origin).ok_or(ConnectFault::NotPermitted)?;
        let timeout = match reach {
            Reach::Local => self.timeouts.0,
            Reach::Any => self.timeouts.1,
        };
        // An unrepresentable deadline is none.
        let deadline = Instant::now().checked_add(timeout);
        let attempt = async {
            let addresses = permitted(&*self.policy, origin, self.addresses(origin).await?)?;
            let handshake = self.handshake(origin).await?;
            let stream = dial(&addresses, deadline, connect_to).await?;
            Ok(match handshake {
                Some(handshake) => Stream::Tls(Box::new(handshake.shake(stream).await?)),
                None => Stream::Plain(stream),
            })
        };
        match deadline {
            Some(deadline) => timeout_at(deadline, attempt)
                .await
                .unwrap_or(Err(ConnectFault::Timeout(timeout))),
            None => attempt.await,
        }
    }

    /// The pool hands over what [`super::policy::Target`] was made into: a canonical scheme and authority.
    fn origin(&self, uri: &Uri) -> Option<Origin> {
        let scheme = Scheme::parse(uri.scheme_str()?)?;
        Origin::parse(scheme, uri.authority()?.as_str()).ok()
    }

    /// What a server has to prove, on `https`.
    ///
    /// The pool keeps connections by scheme and authority, and what a server is known by belongs to both. So a connection
    /// serves only requests for which its server is known well enough.
    async fn handshake(&self, origin: &Origin) -> Result<Option<Handshake>, ConnectFault> {
        match origin.scheme() {
            Scheme::Http => Ok(None),
            Scheme::Https => {
                let trust = self.policy.trust(origin).ok_or(ConnectFault::NotPermitted)?;
                Ok(Some(self.tls.handshake(origin, trust).await?))
            }
        }
    }

    async fn addresses(&self, origin: &Origin) -> Result<Vec<SocketAddr>, ConnectFault> {
        let found = match origin.host() {
            Host::Ipv4(address) => vec![SocketAddr::new((*address).into(), origin.port())],
            Host::Ipv6(address) => vec![SocketAddr::new((*address).into(), origin.port())],
            Host::Domain(name) => self
                .resolver
                .resolve(name, origin.port())
                .await
                .map_err(|error| ConnectFault::Name(error.to_string()))?,
        };
        if found.is_empty() {
            return Err(ConnectFault::Name("it has no address".to_owned()));
        }
        Ok(found)
    }
}

impl Service<Uri> for Connector {
    type Response = Metered<TokioIo<Stream>>;
    type Error = ConnectFault;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        let limit = self.reply_limit;
        Box::pin(async move {
            let origin = connector.origin(&uri).ok_or(ConnectFault::NotPermitted)?;
            Ok(Metered::new(TokioIo::new(connector.connect(&origin).await?), limit))
        })
    }
}

/// Those of `found` that may be dialled, in the form in which they were checked.
fn permitted(
    policy: &dyn Destinations,
    origin: &Origin,
    found: Vec<SocketAddr>,
) -> Result<Vec<SocketAddr>, ConnectFault> {
    let permitted: Vec<_> = found
        .iter()
        .filter(|address| policy.permits(origin, **address))
        .map(unmapped)
        .take(ADDRESS_LIMIT)
        .collect();
    if permitted.is_empty() {
        return Err(ConnectFault::Addresses(found.iter().map(SocketAddr::ip).collect()));
    }
    Ok(permitted)
}

/// The same address as IPv4 where IPv6 only wraps it. A scope id stays as the resolver gave it.
fn unmapped(address: &SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
        IpAddr::V6(_) => *address,
    }
}

async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // Requests are small and answered one by one: waiting for more to send would only delay them.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects to the first address that answers. Each gets an equal share of the time that is left, so that one that
/// swallows packets does not use up the time of the next.
async fn dial<T, F>(
    addresses: &[SocketAddr],
    deadline: Option<Instant>,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<T, ConnectFault>
where
    F: Future<Output = io::Result<T>>,
{
    let mut fault = ConnectFault::Name("it has no address".to_owned());
    for (index, address) in addresses.iter().enumerate() {
        let attempts_left = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        let connected = match deadline {
            Some(deadline) => {
                let now = Instant::now();
                let share = deadline.saturating_duration_since(now) / attempts_left;
                timeout_at(now + share, connect(*address))
                    .await
                    .unwrap_or(Err(io::ErrorKind::TimedOut.into()))
            }
            None => connect(*address).await,
        };
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => fault = ConnectFault::Connect(*address, error.kind()),
        }
    }
    Err(fault)
}

#[cfg(test)]
pub(super) mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "the endpoints are literals and the listeners are the test's own"
    )]

    use super::*;
    use crate::outbound::{Endpoint, EndpointPolicy};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::net::TcpListener;

    /// Answers every name with the same addresses, and counts the questions.
    pub(in crate::outbound) struct Scripted {
        addresses: Mutex<Vec<IpAddr>>,
        pub(in crate::outbound) asked: AtomicUsize,
    }

    impl Scripted {
        pub(in crate::outbound) fn new(addresses: &[&str]) -> Arc<Self> {
            let scripted = Arc::new(Self {
                addresses: Mutex::default(),
                asked: AtomicUsize::new(0),
            });
            scripted.answer(addresses);
            scripted
        }

        pub(in crate::outbound) fn answer(&self, addresses: &[&str]) {
            *self.addresses.lock().unwrap() = parsed(addresses);
        }
    }

    impl Resolve for Scripted {
        fn resolve<'a>(&'a self, _: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let addresses = self.addresses.lock().unwrap().clone();
            Box::pin(async move {
                Ok(addresses
                    .into_iter()
                    .map(|address| SocketAddr::new(address, port))
                    .collect())
            })
        }
    }

    fn parsed(addresses: &[&str]) -> Vec<IpAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    struct Failing;

    impl Resolve for Failing {
        fn resolve<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
            Box::pin(async { Err(io::Error::other("no such name")) })
        }
    }

    /// Never answers.
    pub(in crate::outbound) struct Silent;

    impl Resolve for Silent {
        fn resolve<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
            Box::pin(std::future::pending())
        }
    }

    fn connector(endpoint: Endpoint, resolver: Arc<dyn Resolve>) -> Connector {
        Connector::new(
            Arc::new(EndpointPolicy::from_iter([endpoint])),
            resolver,
            (Duration::from_secs(2), Duration::from_secs(2)),
            1024,
        )
    }

    async fn connect(connector: &Connector, uri: &str) -> Result<SocketAddr, ConnectFault> {
        let stream = connector.clone().call(uri.parse().unwrap()).await?;
        Ok(stream.stream().inner().tcp().peer_addr().unwrap())
    }

    #[tokio::test]
    async fn a_name_that_leads_to_refused_addresses_is_refused_and_not_dialled() {
        for (addresses, granted) in [
            (["8.8.8.8"].as_slice(), false),
            (&["2001:4860:4860::8888"], false),
            (&["::ffff:8.8.8.8"], false),
            (&["168.63.129.16", "8.8.8.8"], false),
            (&["0.0.0.0"], false),
            (&["0.0.0.0"], true),
            (&["::"], true),
            (&["::ffff:0.0.0.0"], true),
            (&["255.255.255.255", "224.0.0.1", "ff02::1"], true),
        ] {
            let url = "http://localhost.example";
            let endpoint = if granted {
                Endpoint::granted(url)
            } else {
                Endpoint::from_environment(url)
            };
            let resolver = Scripted::new(addresses);
            let found = connect(&connector(endpoint.unwrap(), resolver), url).await;
            assert_eq!(found, Err(ConnectFault::Addresses(parsed(addresses))), "{addresses:?}");
        }
    }

    #[tokio::test]
    async fn only_the_permitted_ones_of_several_addresses_are_dialled() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let url = format!("http://mixed.example:{}", address.port());
        for addresses in [
            ["8.8.8.8", "127.0.0.1"].as_slice(),
            &["::ffff:8.8.8.8", "0.0.0.0", "::ffff:127.0.0.1"],
        ] {
            let connector = connector(Endpoint::from_environment(&url).unwrap(), Scripted::new(addresses));
            assert_eq!(connect(&connector, &url).await, Ok(address), "{addresses:?}");
        }
        let local = EndpointPolicy::from_iter([Endpoint::from_environment("http://mixed.example").unwrap()]);
        let origin = local.endpoints()[0].origin();
        assert_eq!(
            permitted(
                &local,
                origin,
                vec!["8.8.8.8:1".parse().unwrap(), "[::ffff:10.0.0.1]:1".parse().unwrap()]
            ),
            Ok(vec!["10.0.0.1:1".parse().unwrap()])
        );
    }

    #[tokio::test]
    async fn the_next_address_is_tried_when_one_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let url = format!("http://two.example:{}", address.port());
        // Nothing listens on this port of the other loopback addresses.
        let connector = connector(
            Endpoint::from_environment(&url).unwrap(),
            Scripted::new(&["127.0.0.2", "127.0.0.1"]),
        );
        assert_eq!(connect(&connector, &url).await, Ok(address));
    }

    #[tokio::test]
    async fn an_address_is_not_resolved() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let url = format!("http://{address}");
        let resolver = Scripted::new(&["8.8.8.8"]);
        let connector = connector(Endpoint::from_environment(&url).unwrap(), resolver.clone());
        assert_eq!(connect(&connector, &url).await, Ok(address));
        assert_eq!(resolver.asked.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn an_origin_that_is_not_permitted_gets_no_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let endpoint = Endpoint::from_environment("http://127.0.0.1:1").unwrap();
        let resolver = Scripted::new(&["127.0.0.1"]);
        let connector = connector(endpoint, resolver.clone());
        for url in [
            format!("http://{address}"),
            format!("http://localhost:{}", address.port()),
            "https://127.0.0.1:1".into(),
        ] {
            assert_eq!(
                connect(&connector, &url).await,
                Err(ConnectFault::NotPermitted),
                "{url}"
            );
        }
        assert_eq!(resolver.asked.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn names_that_do_not_resolve_say_so() {
        let url = "http://gone.example";
        let endpoint = Endpoint::from_environment(url).unwrap();
        let found = connect(&connector(endpoint.clone(), Arc::new(Failing)), url).await;
        assert_eq!(found, Err(ConnectFault::Name("no such name".to_owned())));
        let found = connect(&connector(endpoint, Scripted::new(&[])), url).await;
        assert_eq!(found, Err(ConnectFault::Name("it has no address".to_owned())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_resolver_counts_against_the_time_to_connect() {
        let url = "http://slow.example";
        let connector = connector(Endpoint::from_environment(url).unwrap(), Arc::new(Silent));
        let start = Instant::now();
        assert_eq!(
            connect(&connector, url).await,
            Err(ConnectFault::Timeout(Duration::from_secs(2)))
        );
        assert_eq!(start.elapsed(), Duration::from_secs(2));
    }
    #[tokio::test(start_paused = true)]
    async fn an_address_that_swallows_packets_leaves_time_for_the_next() {
        let addresses: Vec<SocketAddr> = ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1", "10.0.0.4:1"]
            .map(|address| address.parse().unwrap())
            .into();
        let start = Instant::now();
        let deadline = Some(start + Duration::from_secs(2));
        let found = dial(&addresses, deadline, |address| async move {
            if address.ip() != IpAddr::from([10, 0, 0, 4]) {
                std::future::pending::<()>().await;
            }
            Ok(address)
        });
        assert_eq!(found.await, Ok(addresses[3]));
        assert_eq!(start.elapsed(), Duration::from_millis(1500));
    }
}
