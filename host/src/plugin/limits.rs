//! What a plugin may take.

use std::fmt;
use std::time::Duration;
use wasmtime::ResourceLimiter;

/// How many memories a plugin may have: one for each language runtime in it, and one for an adapter.
pub(super) const MEMORIES: usize = 8;

/// How many tables a plugin may have. Linkers of components make small ones, for indirect calls between modules.
pub(super) const TABLES: usize = 64;

/// The bounds of a plugin. The defaults are wide enough for a Python or JavaScript interpreter in a component.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PluginLimits {
    /// Bytes of all its memories together; 256 MiB.
    pub memory: usize,
    /// Elements of all its tables together; 100,000. Interpreters have some ten thousand functions there.
    pub table_elements: usize,
    /// Bytes of WebAssembly's stack; 1 MiB.
    pub stack: usize,
    /// Core instances of which the component is made; 100.
    pub instances: usize,
    /// How long it may compute without waiting for anything; ten seconds. It gives way to others all along.
    pub computing: Duration,
    /// How long it may compute in all; no bound of its own when absent, as by default.
    pub total_computing: Option<Duration>,
    /// How long it may run; no bound of its own when absent, as by default. [`PluginCommand::deadline`] sets it for one run.
    ///
    /// [`PluginCommand::deadline`]: super::PluginCommand::deadline
    pub deadline: Option<Duration>,
    /// Bytes that it may hand to the host in one call; 192 KiB, where most is retained of what it hands over. The largest
    /// request for a token has 84 KiB, and streams are written in pieces of at most 64 KiB. With a directory to which it may
    /// write, the engine's pieces are larger, and it is never less than 1,088 KiB.
    pub call_bytes: usize,
    /// Handles of the component model, calls under way included; 4,096.
    pub handles: usize,
    /// Things of WASI that it may hold: streams, requests, timers; 1,024. The `fetch` of StarlingMonkey, JavaScript's engine,
    /// holds one for each piece of a body until all of it is there: 8 MiB of them are as many.
    pub resources: usize,
    /// Bytes that it may write to its standard output and error together; 16 MiB. No bound when absent.
    pub output: Option<u64>,
}

impl Default for PluginLimits {
    fn default() -> Self {
        Self {
            memory: 256 * 1024 * 1024,
            table_elements: 100_000,
            stack: 1024 * 1024,
            instances: 100,
            computing: Duration::from_secs(10),
            total_computing: None,
            deadline: None,
            call_bytes: 192 * 1024,
            handles: 4096,
            resources: 1024,
            output: Some(16 * 1024 * 1024),
        }
    }
}

/// A bound that a plugin met. Displayed as what the plugin did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PluginBound {
    /// [`PluginLimits::memory`]
    Memory(usize),
    /// [`PluginLimits::table_elements`]
    TableElements(usize),
    /// [`PluginLimits::stack`]
    Stack(usize),
    /// [`PluginLimits::computing`]
    Computing(Duration),
    /// [`PluginLimits::total_computing`]
    TotalComputing(Duration),
    /// [`PluginLimits::output`]
    Output(u64),
}

impl fmt::Display for PluginBound {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(bytes) => write!(
                formatter,
                "it needs more memory than the {bytes} bytes that it may have"
            ),
            Self::TableElements(count) => write!(formatter, "its tables need more than {count} elements"),
            Self::Stack(bytes) => write!(
                formatter,
                "its calls are nested deeper than {bytes} bytes of stack hold"
            ),
            Self::Computing(time) => write!(formatter, "it computed for {time:?} without waiting for anything"),
            Self::TotalComputing(time) => write!(formatter, "it computed for {time:?} in all"),
            Self::Output(bytes) => write!(formatter, "it printed more than {bytes} bytes"),
        }
    }
}

/// Carries a bound through the engine, out of a plugin that is stopped at it.
impl std::error::Error for PluginBound {}

/// Counts what the memories and tables of one plugin take together.
pub(crate) struct Quota {
    limits: PluginLimits,
    memory: usize,
    elements: usize,
    /// What was refused last. A program that is refused memory may get along without; if it fails, that is why.
    refused: Option<PluginBound>,
}

impl Quota {
    pub(crate) fn new(limits: PluginLimits) -> Self {
        Self {
            limits,
            memory: 0,
            elements: 0,
            refused: None,
        }
    }

    pub(crate) fn refused(&self) -> Option<PluginBound> {
        self.refused
    }
}

impl ResourceLimiter for Quota {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let grown = self.memory.saturating_add(desired.saturating_sub(current));
        let granted = grown <= self.limits.memory;
        if granted {
            self.memory = grown;
        } else {
            self.refused = Some(PluginBound::Memory(self.limits.memory));
        }
        Ok(granted)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let grown = self.elements.saturating_add(desired.saturating_sub(current));
        let granted = grown <= self.limits.table_elements;
        if granted {
            self.elements = grown;
        } else {
            self.refused = Some(PluginBound::TableElements(self.limits.table_elements));
        }
        Ok(granted)
    }

    fn instances(&self) -> usize {
        self.limits.instances
    }

    fn tables(&self) -> usize {
        TABLES
    }

    fn memories(&self) -> usize {
        MEMORIES
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a quota never fails")]

    use super::*;

    #[test]
    fn memories_and_tables_are_counted_together() {
        let mut limits = PluginLimits::default();
        (limits.memory, limits.table_elements) = (100, 10);
        let mut quota = Quota::new(limits);
        for (current, desired, granted) in [
            (0, 60, true),
            (0, 30, true),
            (60, 71, false),
            (60, 70, true),
            (0, 1, false),
        ] {
            assert_eq!(
                quota.memory_growing(current, desired, None).unwrap(),
                granted,
                "{current} to {desired}"
            );
        }
        assert_eq!(quota.refused(), Some(PluginBound::Memory(100)));
        for (current, desired, granted) in [(0, 10, true), (0, 1, false), (10, usize::MAX, false)] {
            assert_eq!(
                quota.table_growing(current, desired, None).unwrap(),
                granted,
                "{current} to {desired}"
            );
        }
        assert_eq!(quota.refused(), Some(PluginBound::TableElements(10)));
    }
}
