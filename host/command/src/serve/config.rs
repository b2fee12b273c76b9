//! What the command line asks to be served.

mod flags;
mod show;

use crate::arguments::ServeArguments;
use anyhow::Context as _;
use managed_identity_serve::Config;
use std::path::Path;

pub(super) use show::show;

/// Read again at each reload.
pub(super) fn config(arguments: &ServeArguments) -> anyhow::Result<Config> {
    match &arguments.config {
        Some(file) => read(file),
        None => flags::config(arguments),
    }
}

/// Says what is as it was asked for, and may not be what was meant.
pub(super) fn warn(arguments: &ServeArguments) {
    if arguments.config.is_none() {
        flags::warn(arguments);
    }
}

fn read(file: &Path) -> anyhow::Result<Config> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("The configuration {} cannot be read", file.display()))?;
    Config::from_toml(&text).with_context(|| format!("The configuration {} cannot be used", file.display()))
}
