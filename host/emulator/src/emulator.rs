//! The handle of a running emulator.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::config::EmulatorConfig;
use crate::fault::Fault;
use crate::identities::Identities;
use crate::key_vault::KeyVault;
use crate::loopback::listen;
use crate::protocol::{Addresses, ENDPOINTS, Source, Variables};
use crate::record::{RecordedRequest, Stats};
use crate::secure::Secure;
use crate::server;
use crate::settings::Settings;
use crate::tls::Certificate;
use crate::world::World;

/// A running emulator. It stops, drops its connections and removes its files when it is dropped or
/// [shut down](Self::shutdown).
pub struct Emulator {
    listening: SocketAddr,
    world: Arc<World>,
    server: Server,
}

/// The task that serves, which ends with its handle.
struct Server {
    stop: Option<oneshot::Sender<Infallible>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Emulator {
    /// Starts an emulator on the current Tokio runtime, whose I/O and time must be enabled. It accepts connections as
    /// soon as this returns.
    ///
    /// Makes a key unless it is given one, which takes about a tenth of a second.
    ///
    /// # Errors
    /// `InvalidInput` when the configuration is wrong: an address that is not loopback, a malformed identity, a directory
    /// that is none. Else what the operating system says about the address or the federated token file, or that there is
    /// no runtime.
    ///
    /// # Panics
    /// On a runtime without I/O or time, as everything of Tokio's does.
    pub fn start(config: EmulatorConfig) -> io::Result<Self> {
        config.check()?;
        let runtime = Handle::try_current().map_err(|error| {
            io::Error::other(format!(
                "the emulator runs on a Tokio runtime, and there is none here: {error}"
            ))
        })?;
        let (listener, listening) = listen(config.listen)?;
        let (tls_listener, secure) = if config.tls {
            let (listener, listening) = listen(SocketAddr::new(config.listen.ip(), 0))?;
            (Some(listener), Some(Secure::new(listening)?))
        } else {
            (None, None)
        };
        let world = Arc::new(World::new(format!("http://{listening}"), secure, config)?);
        let (stop, stopped) = oneshot::channel();
        let task = runtime.spawn(server::run(listener, tls_listener, Arc::clone(&world), stopped));
        Ok(Self {
            listening,
            world,
            server: Server { stop: Some(stop), task },
        })
    }

    /// The address and port that accept connections.
    pub fn listening(&self) -> SocketAddr {
        self.listening
    }

    /// `http://` and the address, without a trailing slash.
    pub fn base_url(&self) -> &str {
        &self.world.base_url
    }

    /// The address and port that accept connections with TLS, if there is one.
    pub fn tls_listening(&self) -> Option<SocketAddr> {
        self.world.secure.as_ref().map(|secure| secure.listening)
    }

    /// `https://` and the address, without a trailing slash.
    pub fn tls_base_url(&self) -> Option<&str> {
        self.world.secure.as_ref().map(|secure| secure.base_url.as_str())
    }

    /// The certificate that the port with TLS presents. Clients of workload identity have to trust its
    /// [authority](Certificate::authority_pem); those of Service Fabric know it by its thumbprint, and those of identity
    /// bindings find the authority in their environment.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.world.secure.as_ref().map(|secure| &*secure.certificate)
    }

    /// The variables that lead clients here without further ado: those of App Service, and of IMDS for clients that do
    /// not know App Service. The other sources need to be [chosen](Self::environment_for), because their variables
    /// contradict these.
    ///
    /// The value of `IDENTITY_HEADER` is secret, as on Azure.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let mut environment = self.environment_for(Source::Imds);
        environment.append(&mut self.environment_for(Source::AppService));
        environment
    }

    /// The variables that lead a client to this source and to no other. There are none if the source is not
    /// [offered](Self::offers).
    ///
    /// The values of `IDENTITY_HEADER` and `MSI_SECRET` are secret, as on Azure.
    pub fn environment_for(&self, source: Source) -> BTreeMap<String, String> {
        self.variables(source)
            .unwrap_or_default()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// Whether clients can be led to this source. Service Fabric, workload identity and identity bindings need
    /// [`tls`](EmulatorConfig::tls), the latter two also a
    /// [`federated_token_file`](EmulatorConfig::federated_token_file).
    pub fn offers(&self, source: Source) -> bool {
        self.variables(source).is_some()
    }

    fn variables(&self, source: Source) -> Option<Variables> {
        let endpoint = ENDPOINTS.iter().find(|endpoint| endpoint.source == source)?;
        (endpoint.environment)(&Addresses {
            base_url: &self.world.base_url,
            secure: self.world.secure.as_ref(),
            header_secret: &self.world.header_secret,
            identities: &self.world.identities(),
            federated_token_file: self.world.federation.file.as_deref(),
        })
    }

    /// The identities of the emulated machine.
    pub fn identities(&self) -> Arc<Identities> {
        self.world.identities()
    }

    /// Gives the emulated machine other identities.
    ///
    /// # Errors
    /// `InvalidInput` when one is malformed; then nothing changes.
    pub fn set_identities(&self, identities: Identities) -> io::Result<()> {
        self.world
            .set_identities(identities)
            .map_err(|problem| io::Error::new(io::ErrorKind::InvalidInput, problem))
    }

    /// How the emulator answers at present.
    pub fn settings(&self) -> Settings {
        Settings::clone(&self.world.settings())
    }

    /// Changes how the emulator answers from now on.
    ///
    /// ```no_run
    /// # fn shorten(emulator: &managed_identity_emulator::Emulator) {
    /// emulator.configure(|settings| settings.token_lifetime_seconds = 60);
    /// # }
    /// ```
    pub fn configure(&self, change: impl FnOnce(&mut Settings)) {
        // What may fail is writing the federated token anew, to where it was written at start. If that has become
        // impossible, clients have an old token, as they would on a node in trouble.
        let _ = self.world.change_settings(change);
    }

    /// Replaces the federated token by a new one, as the cluster does from time to time.
    ///
    /// # Errors
    /// What the operating system says about the file.
    pub fn rotate_federated_token(&self) -> io::Result<()> {
        self.world.write_assertion()
    }

    /// Adds a fault behind those in force.
    pub fn add_fault(&self, fault: Fault) {
        self.world.faults.add(fault);
    }

    /// Removes all faults. Requests that one has struck already stay struck.
    pub fn clear_faults(&self) {
        self.world.faults.replace(Vec::new());
    }

    /// The requests recorded so far, oldest first: the latest 4096, without those to the control endpoint.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.world.recorder.requests()
    }

    /// Numbers about the requests so far.
    pub fn stats(&self) -> Stats {
        self.world.recorder.stats()
    }

    /// Forgets the recorded requests and starts counting anew.
    pub fn clear_requests(&self) {
        self.world.recorder.clear();
    }

    /// Waits until so many token requests have arrived since the start, or since the last
    /// [`clear_requests`](Self::clear_requests), so that a test can act while they are in progress.
    pub async fn wait_for_requests(&self, count: u64) {
        self.world.recorder.wait_for(count).await;
    }

    /// Starts a stand-in for a vault of Azure Key Vault that takes the tokens of this emulator and has these secrets, on a
    /// port of its own of the same address. It presents the [certificate](Self::certificate) of the port with TLS, or one of
    /// its own where there is no such port.
    ///
    /// # Errors
    /// What the operating system says about the address.
    pub fn start_key_vault<N: Into<String>, V: Into<String>>(
        &self,
        secrets: impl IntoIterator<Item = (N, V)>,
    ) -> io::Result<KeyVault> {
        let (listener, listening) = listen(SocketAddr::new(self.listening.ip(), 0))?;
        let secure = match &self.world.secure {
            Some(secure) => secure.beside(listening),
            None => Secure::new(listening)?,
        };
        let secrets = secrets.into_iter().map(|(name, value)| (name.into(), value.into()));
        Ok(KeyVault::start(
            listener,
            secure,
            Arc::clone(&self.world),
            secrets.collect(),
        ))
    }

    /// Stops listening, drops all connections, finished or not, and removes the files that were written.
    pub async fn shutdown(mut self) {
        drop(self.server.stop.take());
        // An error means that the task is gone already.
        let _ = (&mut self.server.task).await;
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.world.remove_files();
    }
}

impl fmt::Debug for Emulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emulator")
            .field("listening", &self.listening)
            .finish_non_exhaustive()
    }
}
