//! An emulator for tests that wait for child processes: it runs on threads of its own.

use managed_identity_emulator::{Emulator, EmulatorConfig};
use std::ops::Deref;
use tokio::runtime::{Builder, Runtime};

/// A running emulator.
pub(crate) struct Emulated {
    emulator: Emulator,
    /// Dropped after the emulator, which runs on it.
    _runtime: Runtime,
}

impl Emulated {
    pub(crate) fn start() -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let emulator = runtime
            .block_on(async { Emulator::start(EmulatorConfig::default()) })
            .unwrap();
        Self {
            emulator,
            _runtime: runtime,
        }
    }
}

impl Deref for Emulated {
    type Target = Emulator;

    fn deref(&self) -> &Emulator {
        &self.emulator
    }
}
