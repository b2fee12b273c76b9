//! What the engine needs of the world around it, as one trait.
//!
//! The component skins implement it on WASI; tests implement it with scripted replies and a clock that they move by hand.

use crate::secret::Secret;
use futures_util::future::LocalBoxFuture;
use std::fmt;
use std::future::Future;
use std::time::Duration;
use zeroize::Zeroizing;

/// The world around the engine. Single-threaded: nothing here is `Send`.
pub trait Platform: 'static {
    /// Whether spawned work goes on after the call that spawned it has returned.
    ///
    /// True for WASI 0.3, where a task outlives its return value. Where it is false, spawned work moves only while some
    /// call waits, so whoever wants its result has to wait for it.
    const BACKGROUND: bool;

    /// Sends one request and reads the whole reply, at most `limit` bytes of body.
    ///
    /// Dropping the future gives the request up. There is no time limit: the engine races it against [`Platform::sleep`].
    fn send(&self, request: HttpRequest, limit: usize) -> impl Future<Output = Result<HttpReply, TransportFault>>;

    /// Waits.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()>;

    /// Reads a file in which the platform leaves a credential.
    fn read_file(&self, file: &CredentialFile) -> impl Future<Output = Result<Zeroizing<Vec<u8>>, FileFault>>;

    /// The directories that may be read, as absolute paths.
    fn directories(&self) -> Vec<String>;

    /// The wall clock, in whole seconds since 1970-01-01T00:00:00Z. It may jump.
    fn unix_time(&self) -> u64;

    /// A clock that never goes back, from an arbitrary start. Deadlines are kept in it.
    fn monotonic(&self) -> Duration;

    /// A random number, for jitter only.
    fn random(&self) -> u64;

    /// The environment variables, as they were when the component started.
    fn environment(&self) -> Vec<(String, String)>;

    /// Runs `work` beside the present call.
    fn spawn(&self, work: LocalBoxFuture<'static, ()>);
}

/// The request methods that identity endpoints know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`, without a body.
    Get,
    /// `POST`, with a form as body.
    Post,
}

/// One request to an identity endpoint.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    /// The method.
    pub method: Method,
    /// Whether the scheme is `https`; `http` otherwise.
    pub https: bool,
    /// Host and, where it is not the scheme's own, port.
    pub authority: String,
    /// Path and query, percent-encoded.
    pub path_with_query: String,
    /// Header names in lower case, and their values. A value may be a secret, so all are treated as one.
    pub headers: Vec<(&'static str, Secret)>,
    /// The body, for `POST`.
    pub body: Option<Secret>,
}

impl HttpRequest {
    /// What must not come back in an error message, should the platform echo it.
    pub(crate) fn secrets(&self) -> Vec<Secret> {
        let open = ["metadata", "content-type"];
        let secret = |(name, value): &(&str, Secret)| (!open.contains(name)).then(|| value.clone());
        self.headers
            .iter()
            .filter_map(secret)
            .chain(self.body.clone())
            .collect()
    }
}

/// Where the platform leaves a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialFile {
    /// What it is, as the beginning of a sentence.
    pub what: &'static str,
    /// The directory, as an absolute path in the notation of the platform, without a separator at its end.
    pub directory: String,
    /// The name of the file in that directory: one component of a path.
    pub name: String,
    /// The most bytes that it may have.
    pub limit: usize,
    /// Whether it may be a symbolic link to elsewhere in the same directory, as Kubernetes' projected volumes have it.
    pub may_be_link: bool,
}

/// Why a credential file cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFault {
    /// The host gives no access to its directory.
    NotGranted,
    /// It is not there.
    NotFound,
    /// It is a symbolic link, or leads out of its directory.
    Link,
    /// It is a directory, a device or the like.
    NotAFile,
    /// It has more bytes than the limit.
    TooLarge,
    /// The system forbids it.
    Forbidden,
    /// Reading failed in another way.
    Failed,
}

impl FileFault {
    /// What is wrong, as the end of a sentence that begins with the file.
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::NotGranted => "is in a directory that does not exist, or to which the host gives no access",
            Self::NotFound => "does not exist",
            Self::Link => "is a symbolic link, or leads out of its directory",
            Self::NotAFile => "is no regular file",
            Self::TooLarge => "has more bytes than such a credential can have",
            Self::Forbidden => "may not be read by this user",
            Self::Failed => "cannot be read",
        }
    }
}

/// A whole reply.
#[derive(Clone, Default)]
pub struct HttpReply {
    /// The status code.
    pub status: u16,
    /// Header names in lower case, and their values. Values that are not text are left out.
    pub headers: Vec<(String, String)>,
    /// The body, which may hold a token: overwritten when dropped, and not printed.
    pub body: Zeroizing<Vec<u8>>,
}

impl HttpReply {
    /// The first value of a header, by its lower-case name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

impl fmt::Debug for HttpReply {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "HttpReply({}, {} bytes)", self.status, self.body.len())
    }
}

/// Why no reply came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportFault {
    /// The host's policy refuses the request. Trying again changes nothing.
    Denied,
    /// The host name has no address.
    NameNotFound,
    /// No connection: refused, unreachable, or not made in time.
    NotConnected,
    /// A connection was made, and no reply came in time.
    NoReply,
    /// The reply broke off.
    BrokenOff,
    /// The reply is larger than the limit, in its header or body.
    TooLarge,
    /// What came is not HTTP.
    NotHttp,
    /// The server has no TLS certificate that is trusted for this endpoint. Nothing was sent.
    Certificate,
    /// No TLS connection could be agreed upon. Nothing was sent.
    NotTls,
    /// The host is set up for this endpoint in a way that cannot work. Nothing was sent.
    Misconfigured,
    /// The host failed in another way.
    Other,
}

impl TransportFault {
    /// What happened, as the end of a sentence that begins with the endpoint.
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::Denied => "is refused by the policy of the host",
            Self::NameNotFound => "has a host name that does not resolve",
            Self::NotConnected => "takes no connection",
            Self::NoReply => "takes a connection and sends no reply",
            Self::BrokenOff => "broke off in the middle of its reply",
            Self::TooLarge => "sends a reply larger than any token reply",
            Self::NotHttp => "does not speak HTTP",
            Self::Certificate => "presents a TLS certificate that is not trusted for it, so that nothing was sent",
            Self::NotTls => "does not speak TLS as this client does, so that nothing was sent",
            Self::Misconfigured => "cannot be asked in the way that the host is set up for it",
            Self::Other => "cannot be asked",
        }
    }

    /// Whether the same request may succeed when it is sent again.
    #[must_use]
    pub fn is_transient(self) -> bool {
        !matches!(
            self,
            Self::Denied | Self::TooLarge | Self::NotHttp | Self::Certificate | Self::NotTls | Self::Misconfigured
        )
    }
}
