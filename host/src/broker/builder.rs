//! What a broker is made from.

use super::Broker;
use super::hits::Hits;
use super::probe::Credential;
use crate::outbound::{
    Endpoint, EndpointError, EndpointPolicy, Outbound, OutboundConfig, RequestLimits, RootCertificates, Transport,
    TrustError,
};
use crate::provider::{self, Provider, ProviderError, Surroundings, Trusted, WasiVersion};
use crate::provision::{Provision, has_arc_agent};
use managed_identity_provider::environment::{ARC_AGENT, Environment, VARIABLES};
use managed_identity_provider::error::{Cause, Error};
use managed_identity_provider::source;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How much memory a provider may use: room for a thousand different requests at once, and a full cache.
const DEFAULT_MEMORY_LIMIT: usize = 64 * 1024 * 1024;

/// The source whose directory may be elsewhere on this machine.
const AZURE_ARC: &str = "azure-arc";

/// Settings of a [`Broker`].
pub struct BrokerBuilder {
    environment: Option<Vec<(String, String)>>,
    provider: Provider,
    granted: Vec<Endpoint>,
    root_certificates: RootCertificates,
    arc_agent: Option<bool>,
    arc_directory: Option<PathBuf>,
    outbound: OutboundConfig,
    transport: Option<Arc<dyn Transport>>,
    request_limits: Option<RequestLimits>,
    compilation_cache: Option<PathBuf>,
    memory_limit: usize,
}

impl BrokerBuilder {
    pub(super) fn new() -> Self {
        Self {
            environment: None,
            provider: Provider::Embedded(WasiVersion::default()),
            granted: Vec::new(),
            root_certificates: RootCertificates::default(),
            arc_agent: None,
            arc_directory: None,
            outbound: OutboundConfig::default(),
            transport: None,
            request_limits: None,
            compilation_cache: default_compilation_cache(),
            memory_limit: DEFAULT_MEMORY_LIMIT,
        }
    }

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
        self.provider = Provider::Embedded(version);
        self
    }

    /// Uses another provider: any component that exports `cloud:identity/managed-identity`.
    #[must_use]
    pub fn provider(mut self, component: impl Into<Vec<u8>>) -> Self {
        self.provider = Provider::Component(component.into());
        self
    }

    /// Uses a provider that was compiled ahead of time by [`precompile`](crate::precompile) or `managed-identity compile`.
    /// It starts in about a millisecond, without the compilation cache.
    ///
    /// [`build`](Self::build) refuses what was made by another version, for another kind of machine, or is damaged. It
    /// cannot see what was made with intent.
    ///
    /// # Safety
    /// The artefact is native code, which runs in this process with all its rights, outside of any sandbox. It must come
    /// unchanged from `precompile` of this version of the library. Take it from nowhere that others can write to.
    #[must_use]
    #[expect(unsafe_code, reason = "whoever calls it answers for the code")]
    pub unsafe fn precompiled_provider(mut self, artefact: impl Into<Vec<u8>>) -> Self {
        // SAFETY: this function asks the same of its caller.
        self.provider = Provider::Precompiled(unsafe { Trusted::new(artefact.into()) });
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

    /// Sends the provider's requests by this transport instead of connections of the host's own. The limits that
    /// [`outbound`](Self::outbound) sets hold all the same, as far as they are not about connections; by what a server is
    /// known is the transport's affair, [`root_certificates`](Self::root_certificates) included.
    ///
    /// Sources whose endpoint has a certificate, an authority or a server name of its own (Service Fabric, identity bindings
    /// of Kubernetes) cannot be asked in this way: their requests fail as `not-configured`.
    #[must_use]
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = Some(transport);
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
            Err(_) if !self.provider.is_embedded() => (None, None),
            Err(error) => (None, Some(error)),
        };
        let (endpoint, directory) = grant.map_or((None, None), |grant| (Some(grant.endpoint), grant.directory));
        let credential = directory
            .as_ref()
            .map(|directory| credential(&environment, &directory.place));
        let endpoint = endpoint.map(|endpoint| match self.request_limits {
            Some(limits) => endpoint.with_limits(limits),
            None => endpoint,
        });
        let policy = EndpointPolicy::from_iter(endpoint.into_iter().chain(self.granted))
            .with_root_certificates(self.root_certificates);
        let outbound = match self.transport {
            Some(transport) => Outbound::with_transport(policy, self.outbound, transport),
            None => Outbound::new(policy, self.outbound),
        };
        let compiled = provider::compile(&self.provider, self.compilation_cache.as_deref())?;
        let hits = Arc::new(Hits::default());
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
            telemetry: hits.telemetry().clone(),
        };
        let described = compiled.describe();
        let running = provider::start(compiled, surroundings, Arc::clone(&hits))?;
        Ok(Broker::new(
            hits,
            running,
            described,
            outbound,
            misconfigured,
            credential,
        ))
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

/// What a source that is granted a directory finds there. The variable is the one that granted it if it names a file in it.
fn credential(environment: &Environment, directory: &Path) -> Credential {
    let file = environment.get("AZURE_FEDERATED_TOKEN_FILE").map(Path::new);
    match file.filter(|file| file.parent() == Some(directory)) {
        Some(file) => Credential::File(file.to_owned()),
        None => Credential::Directory(directory.to_owned()),
    }
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
