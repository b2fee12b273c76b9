//! A configuration as a TOML document.

use super::Config;

/// Why a configuration cannot be used. Says where, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConfigError {
    message: String,
}

impl Config {
    /// Reads a configuration from a document.
    ///
    /// # Errors
    /// When the document is none. The message begins with the line.
    pub fn from_toml(_text: &str) -> Result<Self, ConfigError> {
        Err(ConfigError {
            message: "no documents yet".to_owned(),
        })
    }

    /// Whether a server can safely do this.
    ///
    /// # Errors
    /// When somebody could get tokens whom nobody meant: says who, and what to change.
    pub fn check(&self) -> Result<(), ConfigError> {
        Ok(())
    }
}
