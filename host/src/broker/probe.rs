//! Whether there is somebody to get tokens from, found out without asking for one.

use super::Broker;
use crate::outbound::{Endpoint, Origin, Outbound, OutboundError, SeenReply};
use managed_identity_provider::error::{Cause, Error};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a probe may take. The endpoint is on this machine or in its network, or a public one that is tried for 10 s at
/// most where a token is wanted.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the platform leaves for the source on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Credential {
    /// One file, which has to be there.
    File(PathBuf),
    /// The directory in which a file appears when the platform is asked.
    Directory(PathBuf),
}

impl Credential {
    fn place(&self) -> &Path {
        match self {
            Self::File(place) | Self::Directory(place) => place,
        }
    }

    /// Whether it can be read. Reads nothing of it.
    fn check(&self) -> io::Result<()> {
        match self {
            // What is no file might never be opened.
            Self::File(place) if !place.metadata()?.is_file() => Err(io::Error::other("it is no file")),
            Self::File(place) => File::open(place).map(drop),
            Self::Directory(place) => place.read_dir().map(drop),
        }
    }
}

impl Broker {
    /// Whether tokens can be expected: the environment selects a source, what the platform leaves for it in a file can be
    /// read, and its endpoint takes a connection, over which its server proves to be the right one where it is of `https`.
    ///
    /// Nothing is sent, and nothing is tried again; it takes 5 seconds at most. Whether the platform gives a token is known
    /// when one is asked for.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = managed_identity_host::Broker::from_environment()?;
    /// if let Err(error) = broker.probe().await {
    ///     println!("{}: {error}", error.cause);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Why not: `not-configured`, `credential-unreadable`, `endpoint-unreachable`, `endpoint-intercepted` or `denied`, and
    /// `internal` when the provider does not answer.
    pub async fn probe(&self) -> Result<(), Error> {
        self.probing(unconnected, |credential, outbound, endpoint| async move {
            check(credential).await?;
            connect(&outbound, endpoint.as_deref()).await
        })
        .await
    }

    /// The first half of [`probe`](Self::probe): whether what the platform leaves in a file can be read. It reads nothing of it.
    ///
    /// # Errors
    /// As for [`probe`](Self::probe), without those of the endpoint.
    pub async fn probe_credential(&self) -> Result<(), Error> {
        let late = || {
            let message = format!("The credential cannot be read within {PROBE_TIMEOUT:?}.");
            Error::new(Cause::CredentialUnreadable, message)
        };
        self.probing(late, |credential, _, _| check(credential)).await
    }

    /// The second half of [`probe`](Self::probe): whether the endpoint takes a connection, and is the right one where it is of
    /// `https`.
    ///
    /// # Errors
    /// As for [`probe`](Self::probe), without those of the credential.
    pub async fn probe_endpoint(&self) -> Result<(), Error> {
        let probe = |_, outbound: Outbound, endpoint: Option<String>| async move {
            connect(&outbound, endpoint.as_deref()).await
        };
        self.probing(unconnected, probe).await
    }

    /// Where the platform leaves a credential for the source that the environment selects: a file, or the directory in which
    /// one appears when the platform is asked. `None` where requests need none of a file.
    #[must_use]
    pub fn credential(&self) -> Option<&Path> {
        self.0.credential.as_ref().map(Credential::place)
    }

    /// The latest reply of the endpoint to the provider, if there was one.
    #[must_use]
    pub fn last_reply(&self) -> Option<SeenReply> {
        self.outbound().last_reply()
    }

    async fn probing<F>(
        &self,
        late: impl FnOnce() -> Error,
        probe: impl FnOnce(Option<Credential>, Outbound, Option<String>) -> F,
    ) -> Result<(), Error>
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        if let Some(error) = &self.0.misconfigured {
            return Err(error.clone());
        }
        let description = self.describe_source().await?;
        let Some(source) = description.source else {
            let nothing = || Error::new(Cause::NotConfigured, "The environment selects no identity source.");
            return Err(description.last_failure.unwrap_or_else(nothing));
        };
        let probe = probe(self.0.credential.clone(), self.outbound().clone(), description.endpoint);
        // On the provider's thread, because the caller may be on any runtime.
        let probe = self
            .0
            .runtime
            .spawn(async move { tokio::time::timeout(PROBE_TIMEOUT, probe).await });
        let probed = probe.await.map_err(|_| self.gone())?;
        probed
            .unwrap_or_else(|_| Err(late()))
            .map_err(|error| error.with_source(&source))
    }
}

fn unconnected() -> Error {
    let message = format!("The identity endpoint takes no connection within {PROBE_TIMEOUT:?}.");
    Error::new(Cause::EndpointUnreachable, message)
}

async fn check(credential: Option<Credential>) -> Result<(), Error> {
    let Some(credential) = credential else { return Ok(()) };
    let place = credential.place().display().to_string();
    let checked = tokio::task::spawn_blocking(move || credential.check()).await;
    checked.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|error| {
        let message = format!(
            "The credential at {place} cannot be read: {error}. Check that the platform has put it there, and who may \
             read it."
        );
        Error::new(Cause::CredentialUnreadable, message)
    })
}

async fn connect(outbound: &Outbound, endpoint: Option<&str>) -> Result<(), Error> {
    match endpoint.and_then(origin) {
        Some(origin) => outbound.connect(&origin).await.map_err(|error| failed(&error)),
        // A provider of somebody else's may need nobody.
        None => Ok(()),
    }
}

fn origin(endpoint: &str) -> Option<Origin> {
    let endpoint = Endpoint::granted(endpoint).ok()?;
    Some(endpoint.origin().clone())
}

fn failed(error: &OutboundError) -> Error {
    let cause = match error {
        OutboundError::Denied(_) => Cause::Denied,
        OutboundError::Authority { .. } | OutboundError::NotForTransport { .. } => Cause::NotConfigured,
        OutboundError::Certificate { .. } | OutboundError::TlsAlert { .. } | OutboundError::NotTls { .. } => {
            Cause::EndpointIntercepted
        }
        _ => Cause::EndpointUnreachable,
    };
    Error::new(cause, error.to_string())
}
