//! What an emulator is started with.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use crate::identities::Identities;
use crate::keys::SigningKey;
use crate::loopback;
use crate::settings::Settings;

/// What an [`Emulator`](crate::Emulator) is started with. The default listens on a free port of 127.0.0.1, with the
/// default [`Identities`] and [`Settings`] and a new key.
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
}

impl Default for EmulatorConfig {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            identities: Identities::default(),
            settings: Settings::default(),
            signing_key: None,
        }
    }
}

impl EmulatorConfig {
    pub(crate) fn check(&self) -> io::Result<()> {
        loopback::check_listen_address(self.listen)?;
        self.identities
            .check()
            .map_err(|problem| io::Error::new(io::ErrorKind::InvalidInput, problem))
    }
}
