//! The handle of a running emulator.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::config::EmulatorConfig;
use crate::fault::Fault;
use crate::identities::Identities;
use crate::keys::SigningKey;
use crate::protocol::{Addresses, ENDPOINTS, Source};
use crate::record::{RecordedRequest, Stats};
use crate::server;
use crate::settings::Settings;
use crate::world::World;

/// A running emulator. It stops, and drops its connections, when it is dropped or [shut down](Self::shutdown).
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
    /// `InvalidInput` when the configuration is wrong: an address that is not loopback, a malformed identity. Else what
    /// the operating system says about the address, or that there is no runtime.
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
        let listener = std::net::TcpListener::bind(config.listen).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("the emulator cannot listen on {}: {error}", config.listen),
            )
        })?;
        listener.set_nonblocking(true)?;
        let listening = listener.local_addr()?;
        let listener = TcpListener::from_std(listener)?;
        let key = config.signing_key.map_or_else(SigningKey::generate, Ok)?;
        let world = World::new(format!("http://{listening}"), key, config.identities, config.settings)?;
        let world = Arc::new(world);
        let (stop, stopped) = oneshot::channel();
        let task = runtime.spawn(server::run(listener, Arc::clone(&world), stopped));
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

    /// The variables that lead clients to every source. Which one a client takes when several are offered is up to its
    /// order of detection; of IMDS and App Service the usual one prefers App Service.
    ///
    /// The value of `IDENTITY_HEADER` is secret, as on Azure.
    pub fn environment(&self) -> BTreeMap<String, String> {
        self.variables(|_| true)
    }

    /// The variables that lead a client to this source and to no other.
    pub fn environment_for(&self, source: Source) -> BTreeMap<String, String> {
        self.variables(|offered| offered == source)
    }

    fn variables(&self, wanted: impl Fn(Source) -> bool) -> BTreeMap<String, String> {
        let addresses = Addresses {
            base_url: &self.world.base_url,
            header_secret: &self.world.header_secret,
        };
        ENDPOINTS
            .iter()
            .filter(|endpoint| wanted(endpoint.source))
            .flat_map(|endpoint| (endpoint.environment)(&addresses))
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
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
        self.world.change_settings(change);
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

    /// Stops listening and drops all connections, finished or not.
    pub async fn shutdown(mut self) {
        drop(self.server.stop.take());
        // An error means that the task is gone already.
        let _ = (&mut self.server.task).await;
    }
}

impl fmt::Debug for Emulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emulator")
            .field("listening", &self.listening)
            .finish_non_exhaustive()
    }
}
