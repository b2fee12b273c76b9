//! What embedders hold: tokens, from a provider that runs on a thread of its own.

use crate::outbound::{
    Endpoint, EndpointError, EndpointPolicy, Outbound, OutboundConfig, RequestLimits, RootCertificates, TrustError,
};
use crate::provider::{
    self, Ask, Call, Compiled, EMBEDDED_0_2, EMBEDDED_0_3, ProviderError, Surroundings, WasiVersion,
};
use crate::provision::{Provision, has_arc_agent};
use crate::token::{AccessToken, Identity, SourceDescription, TokenRequest};
use managed_identity_provider::environment::{ARC_AGENT, Environment, VARIABLES};
use managed_identity_provider::error::{Cause, Error};
use managed_identity_provider::request::check_sizes;
use managed_identity_provider::secret::Secret;
use managed_identity_provider::source;
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// How much memory a provider may use: room for a thousand different requests at once, and a full cache.
const DEFAULT_MEMORY_LIMIT: usize = 64 * 1024 * 1024;

/// The source whose directory may be elsewhere on this machine.
const AZURE_ARC: &str = "azure-arc";

/// Hands out tokens. Cheap to clone; all clones share one provider, which ends with the last of them.
///
/// Usable from any async runtime: the provider runs on a thread of its own. A caller may stop waiting at any time, by
/// dropping the future, without harm to others.
///
/// ```no_run
/// use managed_identity_host::{Broker, TokenRequest};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = Broker::from_environment()?;
/// let token = broker.token(&TokenRequest::new("https://vault.azure.net")).await?;
/// println!("valid until {}", token.expires_on);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Broker(Arc<Inner>);

struct Inner {
    calls: mpsc::UnboundedSender<Call>,
    outbound: Outbound,
    /// Why nothing can be asked, when the environment names an endpoint that cannot be reached safely.
    misconfigured: Option<Error>,
}

impl Broker {
    /// A broker for the identity source that the process environment selects.
    ///
    /// # Errors
    /// When the provider cannot be started. An environment without an identity source is not an error here: each
    /// request then fails with its own.
    pub fn from_environment() -> Result<Self, ProviderError> {
        Self::builder().build()
    }

    /// A broker with other settings.
    #[must_use]
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder {
            environment: None,
            provider: Cow::Borrowed(EMBEDDED_0_3),
            granted: Vec::new(),
            root_certificates: RootCertificates::default(),
            arc_agent: None,
            arc_directory: None,
            outbound: OutboundConfig::default(),
            request_limits: None,
            compilation_cache: default_compilation_cache(),
            memory_limit: DEFAULT_MEMORY_LIMIT,
        }
    }

    /// A token that is valid now.
    ///
    /// # Errors
    /// One cause of the closed list, by the request's time-out.
    pub async fn token(&self, request: &TokenRequest) -> Result<Arc<AccessToken>, Error> {
        self.configured()?;
        let identifier = match &request.identity {
            Identity::PlatformDefault | Identity::SystemAssigned => None,
            Identity::ClientId(id) | Identity::ObjectId(id) | Identity::ResourceId(id) => Some(id.as_str()),
        };
        let rejected = request.rejected_token.as_ref().map(Secret::expose);
        check_sizes(&request.audience, identifier, request.claims.as_deref(), rejected)?;
        let (reply, answer) = oneshot::channel();
        let result = self.ask(Ask::Token(Box::new(request.clone()), reply), answer).await;
        result.map_err(|error| self.explain(error))
    }

    /// Drops cached tokens, of one audience or all.
    ///
    /// # Errors
    /// When the provider does not answer.
    pub async fn forget(&self, audience: Option<&str>) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.ask(Ask::Forget(audience.map(str::to_owned), reply), answer).await
    }

    /// Where tokens come from, and why. Asks the provider and not the platform.
    ///
    /// # Errors
    /// When the provider does not answer.
    pub async fn describe_source(&self) -> Result<SourceDescription, Error> {
        let (reply, answer) = oneshot::channel();
        let mut description = self.ask(Ask::Describe(reply), answer).await?;
        if let Some(error) = &self.0.misconfigured {
            description.last_failure = Some(error.clone());
        }
        Ok(description)
    }

    fn configured(&self) -> Result<(), Error> {
        self.0.misconfigured.clone().map_or(Ok(()), Err)
    }

    async fn ask<T>(&self, ask: Ask, answer: oneshot::Receiver<Result<T, Error>>) -> Result<T, Error> {
        let gone = || Error::new(Cause::Internal, "The provider's thread has ended. Build a new broker.");
        self.0.calls.send(Call::new(ask)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Adds what the component cannot know: which rule of the host denied a request, or what is wrong with a certificate.
    fn explain(&self, mut error: Error) -> Error {
        let outbound = &self.0.outbound;
        let reason = match error.cause {
            Cause::Denied => outbound.last_denial().map(|denial| denial.to_string()),
            Cause::EndpointIntercepted | Cause::EndpointUnreachable | Cause::NotConfigured
                if error.http_status.is_none() =>
            {
                outbound.last_tls_failure()
            }
            _ => None,
        };
        if let Some(reason) = reason {
            error.message = format!("{} {reason}", error.message);
        }
        error
    }
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Broker").finish_non_exhaustive()
    }
}

/// Settings of a [`Broker`].
pub struct BrokerBuilder {
    environment: Option<Vec<(String, String)>>,
    provider: Cow<'static, [u8]>,
    granted: Vec<Endpoint>,
    root_certificates: RootCertificates,
    arc_agent: Option<bool>,
    arc_directory: Option<PathBuf>,
    outbound: OutboundConfig,
    request_limits: Option<RequestLimits>,
    compilation_cache: Option<PathBuf>,
    memory_limit: usize,
}

impl BrokerBuilder {
    /// Uses these variables instead of the process environment. Those that no identity source reads are left out.
    #[must_use]
    pub fn environment<N: Into<String>, V: Into<String>>(
        mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        self.environment = Some(
            variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        );
        self
    }

    /// Uses the built-in provider for this version of WASI. The default is 0.3, where calls run side by side.
    #[must_use]
    pub fn wasi(mut self, version: WasiVersion) -> Self {
        self.provider = Cow::Borrowed(match version {
            WasiVersion::V0_2 => EMBEDDED_0_2,
            WasiVersion::V0_3 => EMBEDDED_0_3,
        });
        self
    }

    /// Uses another provider: any component that exports `cloud:identity/managed-identity`.
    #[must_use]
    pub fn provider(mut self, component: impl Into<Vec<u8>>) -> Self {
        self.provider = Cow::Owned(component.into());
        self
    }

    /// Lets the provider reach this URL and all paths below it, wherever it is. Without it, the provider reaches the
    /// endpoint that the environment names, as long as that is on this machine or in a private network, or the public one
    /// of the cloud itself.
    ///
    /// # Errors
    /// When the URL is not one.
    pub fn allow_endpoint(mut self, url: &str) -> Result<Self, EndpointError> {
        self.granted.push(Endpoint::granted(url)?);
        Ok(self)
    }

    /// Trusts these certificates of authorities too, in PEM, at endpoints that are known by an authority of the system:
    /// public ones, or what [`allow_endpoint`](Self::allow_endpoint) adds on `https`. Endpoints that the environment gives
    /// an authority or a thumbprint of their own are known by that alone.
    ///
    /// # Errors
    /// When there is no certificate in the text, or one that cannot be used.
    pub fn root_certificates(mut self, pem: &str) -> Result<Self, TrustError> {
        self.root_certificates = self.root_certificates.and(&RootCertificates::from_pem(pem)?);
        Ok(self)
    }

    /// Says whether the agent of Azure Arc is installed, which decides where no variable announces a source. Without it,
    /// the agent's program is looked for; not so where [`environment`](Self::environment) is set, because that may be
    /// another machine's.
    #[must_use]
    pub fn arc_agent(mut self, installed: bool) -> Self {
        self.arc_agent = Some(installed);
        self
    }

    /// Where the directory is in which the agent of Azure Arc leaves its keys, when it is not in its usual place
    /// (`/var/opt/azcmagent/tokens`): in a container, wherever it is mounted. The provider can read it when Azure Arc is
    /// the source, and knows it by its usual name.
    #[must_use]
    pub fn arc_directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.arc_directory = Some(path.into());
        self
    }

    /// Sets time-outs and sizes of the provider's HTTP.
    #[must_use]
    pub fn outbound(mut self, config: OutboundConfig) -> Self {
        self.outbound = config;
        self
    }

    /// Asks the endpoint that the environment names so often and no oftener, all brokers of this process together. Without
    /// it, the metadata service at its well-known address is asked as often as it documents, and others without limit.
    #[must_use]
    pub fn request_limits(mut self, limits: RequestLimits) -> Self {
        self.request_limits = Some(limits);
        self
    }

    /// Keeps compiled code in this folder, or nowhere. Whoever can write there can run code in this process; the default
    /// is `managed-identity` in the user's cache folder.
    #[must_use]
    pub fn compilation_cache(mut self, folder: Option<PathBuf>) -> Self {
        self.compilation_cache = folder;
        self
    }

    /// Limits the provider's memory, in bytes. The default is 64 MiB.
    #[must_use]
    pub fn memory_limit(mut self, bytes: usize) -> Self {
        self.memory_limit = bytes;
        self
    }

    /// Compiles the provider and starts its thread.
    ///
    /// The first compilation takes some 60 ms on a small machine; later ones are read from the compilation cache.
    ///
    /// # Errors
    /// When the provider cannot be compiled, is none, asks for more than it is given, or cannot be started.
    pub fn build(self) -> Result<Broker, ProviderError> {
        let arc_agent = self
            .arc_agent
            .unwrap_or_else(|| self.environment.is_none() && has_arc_agent());
        let (variables, unreadable) = match self.environment {
            Some(variables) => (variables, None),
            None => process_environment(),
        };
        let environment = Environment::new(variables).with_arc_agent(arc_agent);
        let grant = || selected(&environment, self.arc_directory.as_deref());
        let (grant, misconfigured) = match unreadable.map_or_else(grant, Err) {
            Ok(grant) => (Some(grant), None),
            // Another provider may read the environment in another way. It is granted nothing by it then.
            Err(_) if matches!(self.provider, Cow::Owned(_)) => (None, None),
            Err(error) => (None, Some(error)),
        };
        let (endpoint, directory) = grant.map_or((None, None), |grant| (Some(grant.endpoint), grant.directory));
        let endpoint = endpoint.map(|endpoint| match self.request_limits {
            Some(limits) => endpoint.with_limits(limits),
            None => endpoint,
        });
        let policy = EndpointPolicy::from_iter(endpoint.into_iter().chain(self.granted))
            .with_root_certificates(self.root_certificates);
        let outbound = Outbound::new(policy, self.outbound);
        let compiled = provider::compile(&self.provider, self.compilation_cache.as_deref())?;
        let surroundings = Surroundings {
            environment: environment
                .iter()
                .filter(|(name, _)| *name != ARC_AGENT)
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .chain(
                    environment
                        .has_arc_agent()
                        .then(|| (ARC_AGENT.to_owned(), "true".to_owned())),
                )
                .collect(),
            outbound: outbound.clone(),
            directory,
            memory_limit: self.memory_limit,
        };
        Ok(Broker(Arc::new(Inner {
            calls: start(compiled, surroundings)?,
            outbound,
            misconfigured,
        })))
    }
}

/// The process environment, and what is wrong with it. A variable that decides and is not text must not count as unset:
/// another identity would be used than the one that it names.
fn process_environment() -> (Vec<(String, String)>, Option<Error>) {
    let mut variables = Vec::new();
    let mut unreadable = None;
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else { continue };
        match value.into_string() {
            Ok(value) => variables.push((name, value)),
            Err(_) if VARIABLES.contains(&name.as_str()) => {
                let message =
                    format!("The environment variable {name} is not UTF-8 text. Set it to what the platform gave.");
                unreadable = Some(Error::new(Cause::NotConfigured, message));
            }
            Err(_) => {}
        }
    }
    (variables, unreadable)
}

/// What the source gets that the environment selects. `arc_directory` is where the keys of Azure Arc are, if elsewhere.
fn selected(environment: &Environment, arc_directory: Option<&Path>) -> Result<Provision, Error> {
    let source = source::select(environment).source?;
    let grant = Provision::of(&source.needs())
        .map_err(|error| Error::new(Cause::NotConfigured, error.to_string()).with_source(source.name()))?;
    Ok(match arc_directory {
        Some(place) if source.name() == AZURE_ARC => grant.with_directory_at(place),
        _ => grant,
    })
}

fn start(compiled: Compiled, surroundings: Surroundings) -> Result<mpsc::UnboundedSender<Call>, ProviderError> {
    let (calls, receiver) = mpsc::unbounded_channel();
    std::thread::Builder::new()
        .name("managed-identity".to_owned())
        .spawn(move || {
            if let Err(error) = provider::run(&compiled, &surroundings, receiver) {
                tracing::error!(target: "managed_identity::provider", "the provider's thread cannot run: {error}");
            }
        })
        .map_err(ProviderError::Thread)?;
    Ok(calls)
}

/// `managed-identity` in the user's cache folder (XDG Base Directory Specification), where there is one.
pub(crate) fn default_compilation_cache() -> Option<PathBuf> {
    let folder = |variable: &str| {
        std::env::var_os(variable)
            .map(PathBuf::from)
            .filter(|folder| folder.is_absolute())
    };
    let caches = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))?;
    Some(caches.join("managed-identity"))
}
