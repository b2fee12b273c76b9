//! Plugins in the engine of plugins: what they are refused, what they are given, and that none of them harms another.
//!
//! The orders that a plugin takes are listed in its crate, `tests/guests/plugin`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "../support/mod.rs"]
mod support;

mod calls;
mod command;
mod given;
mod hostile;
mod refused;

use managed_identity_emulator::{Emulator, EmulatorConfig, Source};
use managed_identity_host::grants::{AudiencePattern, Caller, Gate, Grant, IdentityPattern, Policy, TokenRule};
use managed_identity_host::plugin::{
    Plugin, PluginCommand, PluginEngine, PluginEngineBuilder, PluginError, PluginLimits, PluginOutcome,
};
use managed_identity_test_guests::{PLUGIN_0_2, PLUGIN_0_3};
use std::path::PathBuf;
use support::brokers;
use support::emulated::Emulated;
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;

/// The plugin for both versions of WASI.
const PLUGINS: [(&str, &[u8]); 2] = [("0.2", PLUGIN_0_2), ("0.3", PLUGIN_0_3)];

const VAULT: &str = "https://vault.azure.net";

/// The client id of the emulator's system-assigned identity.
const SYSTEM: &str = "50000000-0000-4000-8000-0000000000c1";

/// More than any plugin prints that is to be read.
const OUTPUT: usize = 64 * 1024;

/// An engine for a plugin of this version. Compiled plugins are shared by all tests.
fn engine(wasi: &str) -> PluginEngineBuilder {
    PluginEngine::builder()
        .with_async(wasi == "0.3")
        .compilation_cache(Some(PathBuf::from(concat!(
            env!("CARGO_TARGET_TMPDIR"),
            "/home/.cache/managed-identity"
        ))))
}

fn limits(change: impl FnOnce(&mut PluginLimits)) -> PluginLimits {
    let mut limits = PluginLimits::default();
    change(&mut limits);
    limits
}

/// An emulated platform on the runtime of the test.
fn emulator() -> Emulator {
    Emulator::start(EmulatorConfig::default()).unwrap()
}

/// A broker of the emulated platform behind this policy.
fn gate(emulated: &Emulator, policy: Policy) -> Gate {
    let environment = emulated.environment_for(Source::AppService);
    Gate::new(brokers::broker(brokers::WASI[1], environment), policy)
}

/// Tokens for these audiences, as any identity.
fn tokens<A: AsRef<str>>(audiences: impl IntoIterator<Item = A>) -> Grant {
    let audiences = audiences
        .into_iter()
        .map(|audience| AudiencePattern::parse(audience.as_ref()).unwrap());
    Grant::default().with_token(TokenRule::new(audiences).with_identities([IdentityPattern::Any]))
}

/// Gives an order to a plugin that is `caller`.
fn order(plugin: &Plugin, gate: &Gate, caller: &str, words: &[&str]) -> PluginCommand {
    let words = std::iter::once("plugin").chain(words.iter().copied());
    plugin.command(gate.caller(Caller::new(caller))).args(words)
}

/// Runs it to its end. Returns the line that it printed.
async fn line(command: PluginCommand) -> Result<String, PluginError> {
    let output = MemoryOutputPipe::new(OUTPUT);
    let outcome = command.stdout(output.clone()).run().await?;
    assert_eq!(outcome, PluginOutcome::Exited(0));
    let text = String::from_utf8(output.contents().to_vec()).unwrap();
    Ok(text.strip_suffix('\n').unwrap().to_owned())
}
