//! An emulator for tests that wait for child processes: it runs on threads of its own.

use managed_identity_emulator::{Emulator, EmulatorConfig, KeyVault};
use std::ops::Deref;
use tokio::runtime::{Builder, Runtime};

/// A running emulator.
pub(crate) struct Emulated {
    emulator: Emulator,
    /// Dropped after the emulator, which runs on it.
    runtime: Runtime,
}

impl Emulated {
    pub(crate) fn start() -> Self {
        Self::start_with(EmulatorConfig::default())
    }

    pub(crate) fn start_with(config: EmulatorConfig) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let emulator = runtime.block_on(async { Emulator::start(config) }).unwrap();
        Self { emulator, runtime }
    }

    /// A vault with one secret, of which only a good token tells.
    pub(crate) fn vault(&self, name: &str, secret: &str) -> KeyVault {
        let _entered = self.runtime.enter();
        self.emulator.start_key_vault([(name, secret)]).unwrap()
    }

    /// Serves a vault without TLS too, and returns where.
    pub(crate) fn serve_plain(&self, vault: &mut KeyVault) -> String {
        let _entered = self.runtime.enter();
        vault.serve_plain().unwrap()
    }
}

impl Deref for Emulated {
    type Target = Emulator;

    fn deref(&self) -> &Emulator {
        &self.emulator
    }
}
