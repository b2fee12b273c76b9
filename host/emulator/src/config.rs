//! What an emulator is started with.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::identities::Identities;
use crate::keys::SigningKey;
use crate::loopback;
use crate::settings::Settings;

/// What an [`Emulator`](crate::Emulator) is started with. The default listens on a free port of 127.0.0.1, with the
/// default [`Identities`] and [`Settings`], a new key, a second port for TLS, and writes no files.
#[derive(Clone, Debug)]
pub struct EmulatorConfig {
    /// Where to listen: a loopback address. Port 0 takes any free port.
    pub listen: SocketAddr,
    /// The identities of the emulated machine.
    pub identities: Identities,
    /// How the emulator answers at first.
    pub settings: Settings,
    /// The key that signs tokens; a new one is made if there is none.
    pub signing_key: Option<SigningKey>,
    /// Whether to listen on a second port, with TLS and a certificate made at start. Service Fabric, workload identity
    /// and identity bindings need it.
    pub tls: bool,
    /// The directory in which the agent of Azure Arc puts its key files; without one it answers without a challenge, as
    /// newer agents may. Replies name the files in `/var/opt/azcmagent/tokens` whatever the directory is, because
    /// clients take them from nowhere else; it is there for them to be mounted or linked to.
    pub arc_directory: Option<PathBuf>,
    /// Where to keep the federated token of workload identity, which needs it. The file is replaced if it exists, and
    /// removed when the emulator stops.
    pub federated_token_file: Option<PathBuf>,
}

impl Default for EmulatorConfig {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            identities: Identities::default(),
            settings: Settings::default(),
            signing_key: None,
            tls: true,
            arc_directory: None,
            federated_token_file: None,
        }
    }
}

impl EmulatorConfig {
    pub(crate) fn check(&self) -> io::Result<()> {
        loopback::check_listen_address(self.listen)?;
        self.identities
            .check()
            .map_err(|problem| io::Error::new(io::ErrorKind::InvalidInput, problem))?;
        match &self.federated_token_file {
            // Environments are text.
            Some(file) if file.to_str().is_none() => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "the federated token file {} has a name that is not UTF-8",
                    file.display()
                ),
            )),
            _ => Ok(()),
        }
    }
}
