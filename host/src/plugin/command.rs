//! One run of a plugin: what it is given, and how it ends.

use super::PluginError;
use super::component::{Entry, Plugin};
use super::limits::{PluginBound, PluginLimits, Quota};
use super::output::{Budget, Limited};
use super::time::Meter;
use crate::authorized_http::AuthorizedHttp;
use crate::grants::Granted;
use crate::linker::{self, IdentityCtx};
use crate::sandbox::{Sandbox, add_wasi_0_2, add_wasi_0_3};
use std::path::PathBuf;
use std::time::Duration;
use wasmtime::component::Linker;
use wasmtime::{Engine, PoolConcurrencyLimitError, Store, Trap};
use wasmtime_wasi::cli::{StdinStream, StdoutStream};
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtx, WasiCtxBuilder};

/// How many bytes of random numbers a plugin may ask for at once: more than any key or nonce.
const RANDOM_BYTES: u64 = 64 * 1024;

/// How many bytes the header fields of one request or response may have, in memory.
const FIELDS: usize = 64 * 1024;

/// What a call has to hold where a plugin writes to files: WASI takes a mebibyte of them at once.
const FILE_CALL_BYTES: usize = (1024 + 64) * 1024;

/// All of WASI, over what the store holds, which is little.
pub(super) fn linker(engine: &Engine, is_async: bool) -> wasmtime::Result<Linker<Sandbox>> {
    let mut linker = Linker::new(engine);
    add_wasi_0_2(&mut linker)?;
    linker::add_to_linker_0_2(&mut linker)?;
    if is_async {
        add_wasi_0_3(&mut linker)?;
        linker::add_to_linker_0_3(&mut linker)?;
    }
    Ok(linker)
}

/// How a plugin ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PluginOutcome {
    /// A command ended with this code; 0 is success.
    Exited(i32),
    /// A component of the world `client` succeeded and says so.
    Finished(String),
    /// A component of the world `client` failed and says why.
    Failed(String),
}

/// A run of a plugin in the name of a caller. It is given nothing of the host, unless said otherwise.
#[must_use = "a plugin runs when `run` is awaited"]
pub struct PluginCommand {
    plugin: Plugin,
    granted: Granted,
    http: Option<AuthorizedHttp>,
    wasi: WasiCtxBuilder,
    directories: Vec<(PathBuf, String, FsPerms)>,
    limits: PluginLimits,
    meter: Meter,
    output: Budget,
}

impl Plugin {
    /// A run in the name of the caller of `granted`.
    pub fn command(&self, granted: Granted) -> PluginCommand {
        let limits = self.engine.0.limits.clone();
        let meter = Meter::default();
        PluginCommand {
            plugin: self.clone(),
            granted,
            http: None,
            wasi: WasiCtx::builder(),
            directories: Vec::new(),
            output: Budget::new(limits.output, meter.clone()),
            meter,
            limits,
        }
    }
}

impl PluginCommand {
    /// Gives arguments, of which the first is the plugin's own name by custom.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        for argument in args {
            self.wasi.arg(argument);
        }
        self
    }

    /// Gives an environment variable.
    pub fn env(mut self, name: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        self.wasi.env(name, value);
        self
    }

    /// Gives a standard input. Without it, there is nothing to read.
    pub fn stdin(mut self, stream: impl StdinStream + 'static) -> Self {
        self.wasi.stdin(stream);
        self
    }

    /// Gives a standard output. Without it, what is written is lost.
    pub fn stdout(mut self, stream: impl StdoutStream + 'static) -> Self {
        self.wasi.stdout(Limited::new(stream, self.output.clone()));
        self
    }

    /// Gives a standard error. Without it, what is written is lost.
    pub fn stderr(mut self, stream: impl StdoutStream + 'static) -> Self {
        self.wasi.stderr(Limited::new(stream, self.output.clone()));
        self
    }

    /// Lets it read this process's standard input.
    pub fn inherit_input(self) -> Self {
        self.stdin(std::io::stdin())
    }

    /// Lets it write to this process's standard output and error. A write takes its thread for as long as whoever reads makes
    /// it wait, so a host that runs many plugins on a thread gives each a stream of its own.
    pub fn inherit_output(self) -> Self {
        self.stdout(std::io::stdout()).stderr(std::io::stderr())
    }

    /// Gives a directory and all in it, by the name that it has for the plugin.
    pub fn directory(mut self, path: impl Into<PathBuf>, name: impl Into<String>, access: FsPerms) -> Self {
        self.directories.push((path.into(), name.into(), access));
        self
    }

    /// Stops it after this time, instead of [`PluginLimits::deadline`].
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.limits.deadline = Some(deadline);
        self
    }

    /// Sends its HTTP through this client of the same gate, in the name of this run's caller. Without it, each run has
    /// connections of its own, and trusts the authorities of the system.
    pub fn http(mut self, http: &AuthorizedHttp) -> Self {
        self.http = Some(http.for_caller(self.granted.caller().clone()));
        self
    }

    /// Runs it to its end, on a tokio runtime with I/O and time. Dropping the future ends it at once.
    ///
    /// # Errors
    /// When it cannot be started, and when it is stopped or fails in a way that WebAssembly does not survive.
    pub async fn run(mut self) -> Result<PluginOutcome, PluginError> {
        let deadline = self.limits.deadline;
        let mut store = self.store()?;
        let plugin = &self.plugin;
        let running = self.meter.measure(&plugin.engine.0.ticker, call(plugin, &mut store));
        let ended = match deadline {
            Some(deadline) => tokio::time::timeout(deadline, running)
                .await
                .map_err(|_| PluginError::OutOfTime(deadline))?,
            None => running.await,
        };
        ended.or_else(|error| self.failure(&error, store.data().refused()))
    }

    fn store(&mut self) -> Result<Store<Sandbox>, PluginError> {
        let wasi = &mut self.wasi;
        wasi.allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .max_random_size(RANDOM_BYTES);
        for (path, name, access) in &self.directories {
            wasi.preopened_dir(path, name, *access)
                .map_err(|error| PluginError::Directory {
                    path: path.clone(),
                    reason: error.root_cause().to_string(),
                })?;
            if !access.write_not_permitted() {
                self.limits.call_bytes = self.limits.call_bytes.max(FILE_CALL_BYTES);
            }
        }
        let hooks = match self.http.take() {
            Some(http) => http,
            None => AuthorizedHttp::new(self.granted.clone()),
        };
        let identity = IdentityCtx::new(self.granted.clone());
        let sandbox = Sandbox::plugin(wasi.build(), hooks, Quota::new(self.limits.clone()), identity)
            .with_limits(FIELDS, self.limits.resources);
        let mut store = sandbox.into_store(&self.plugin.engine.0.engine);
        store.set_hostcall_fuel(self.limits.call_bytes);
        store.set_max_component_handles(self.limits.handles);
        self.meter.watch(&mut store, &self.limits);
        Ok(store)
    }
}

impl PluginCommand {
    /// How the plugin ended, which did not return.
    fn failure(&self, error: &wasmtime::Error, refused: Option<PluginBound>) -> Result<PluginOutcome, PluginError> {
        if let Some(I32Exit(code)) = error.downcast_ref() {
            return Ok(PluginOutcome::Exited(*code));
        }
        if error.is::<PoolConcurrencyLimitError>() {
            return Err(PluginError::Full);
        }
        let bound = match (error.downcast_ref::<PluginBound>(), error.downcast_ref::<Trap>()) {
            (Some(bound), _) => Some(*bound),
            (None, Some(Trap::StackOverflow)) => Some(PluginBound::Stack(self.limits.stack)),
            _ => self.meter.stopped().or(refused),
        };
        Err(match bound {
            Some(bound) => PluginError::Limit(bound),
            // The root cause alone: a backtrace of the component's insides says nothing to whoever runs it.
            None => PluginError::Trap(error.root_cause().to_string()),
        })
    }
}

impl std::fmt::Debug for PluginCommand {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Arguments and variables may hold secrets.
        formatter
            .debug_struct("PluginCommand")
            .field("caller", self.granted.caller())
            .finish_non_exhaustive()
    }
}

async fn call(plugin: &Plugin, store: &mut Store<Sandbox>) -> wasmtime::Result<PluginOutcome> {
    let instance = plugin.instance.instantiate_async(&mut *store).await?;
    match plugin.entry {
        Entry::Command(run) => {
            let run = instance.get_typed_func::<(), (Result<(), ()>,)>(&mut *store, run)?;
            let (result,) = run.call_async(store, ()).await?;
            Ok(PluginOutcome::Exited(i32::from(result.is_err())))
        }
        Entry::Client(run) => {
            let run = instance.get_typed_func::<(), (Result<String, String>,)>(&mut *store, run)?;
            let (result,) = run.call_async(store, ()).await?;
            Ok(match result {
                Ok(text) => PluginOutcome::Finished(text),
                Err(text) => PluginOutcome::Failed(text),
            })
        }
    }
}
