//! Runs plugins: components that are no part of the host, and that nobody need trust.
//!
//! A [`PluginEngine`] compiles and runs them, apart from the provider: in another engine, with the instances of its own pool.
//! A [`Plugin`] is a command (`wasi:cli/command` of WASI 0.2 or 0.3), or has the world `client` of `cloud:identity`. Each
//! [run](Plugin::command) is in the name of a caller. It has the tokens and the HTTP that the caller is granted, and besides
//! only what the run is given: arguments, variables, streams, directories. There are no sockets and no names to look up.
//!
//! ```no_run
//! use managed_identity_host::Broker;
//! use managed_identity_host::grants::{Caller, Gate, Policy};
//! use managed_identity_host::plugin::{PluginEngine, PluginOutcome};
//! use std::time::Duration;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // This policy grants nothing to anybody.
//!     let gate = Gate::new(Broker::from_environment()?, Policy::default());
//!     let engine = PluginEngine::builder().build()?;
//!     let plugin = engine.load(&std::fs::read("backup.wasm")?)?;
//!     let outcome = plugin
//!         .command(gate.caller(Caller::new("backup")))
//!         .args(["backup", "--dry-run"])
//!         .inherit_output()
//!         .deadline(Duration::from_secs(60))
//!         .run()
//!         .await?;
//!     match outcome {
//!         PluginOutcome::Exited(code) => println!("exit code {code}"),
//!         PluginOutcome::Finished(text) => println!("{text}"),
//!         PluginOutcome::Failed(text) => println!("it failed: {text}"),
//!         _ => {}
//!     }
//!     Ok(())
//! }
//! ```
//!
//! A plugin that computes gives way every ten milliseconds, so that many share a thread. What it takes is bounded by
//! [`PluginLimits`]; at the first bound it ends, and what it held is freed. No other plugin notices.

mod command;
mod component;
mod engine;
mod limits;
mod output;
mod time;

pub use command::{PluginCommand, PluginOutcome};
pub use component::{Plugin, needs_async};
pub use engine::{PluginEngine, PluginEngineBuilder};
pub(crate) use limits::Quota;
pub use limits::{PluginBound, PluginLimits};

use std::path::PathBuf;
use std::time::Duration;

/// Why a plugin cannot be run, or did not end by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PluginError {
    /// The WebAssembly engine cannot be set up on this machine.
    #[error("the WebAssembly engine for plugins cannot be set up: {0:#}")]
    Engine(wasmtime::Error),
    /// The thread that keeps the time of plugins cannot be started.
    #[error("the thread that keeps the time of plugins cannot be started: {0}")]
    Thread(std::io::Error),
    /// The bytes are not a component that this engine can compile.
    #[error("the plugin is not a WebAssembly component that can be compiled: {0:#}")]
    NotAComponent(wasmtime::Error),
    /// There is nothing in the component that can be run.
    #[error(
        "the component exports neither `wasi:cli/run` in version 0.2 or 0.3 nor a function `run` of the world `client` of \
         `cloud:identity`; build it as a command, or for that world"
    )]
    NotAPlugin,
    /// The component is for WASI 0.3, and the engine is not.
    #[error("the plugin is for WASI 0.3; load it into an engine that is built `with_async(true)`")]
    NeedsAsync,
    /// The component imports what no plugin is given.
    #[error("the plugin imports what no plugin is given: {}", .0.join(", "))]
    Imports(Vec<String>),
    /// The component imports what plugins are given, in another form.
    #[error("the plugin was built against another form of what it imports: {0:#}")]
    Mismatch(wasmtime::Error),
    /// A directory for the plugin cannot be opened.
    #[error("the directory {} cannot be opened for the plugin: {reason}", path.display())]
    Directory {
        /// Where it is on this machine.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// As many plugins run as the engine has room for.
    #[error(
        "as many plugins run as there is room for; try again when one has ended, or build the engine with more room"
    )]
    Full,
    /// The deadline has come.
    #[error("the plugin was stopped at its deadline, after {0:?}")]
    OutOfTime(Duration),
    /// The plugin went beyond a bound.
    #[error("the plugin was stopped: {0}")]
    Limit(PluginBound),
    /// The plugin failed in a way that WebAssembly does not survive.
    #[error("the plugin failed: {0}")]
    Trap(String),
}
