//! The server that the clients ask: what it is told, and what it tells them.

use crate::support::emulated::Emulated;
use crate::support::served::Served;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use managed_identity_emulator::Source;
use managed_identity_serve::SecretHash;
use serde_json::Value;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// What the clients send in `X-IDENTITY-HEADER`.
pub(crate) const SECRET: &str = "the-secret-of-the-clients-in-the-tests";

/// A protocol that all clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    AppService,
    Imds,
}

impl Protocol {
    pub(crate) const BOTH: [Self; 2] = [Self::AppService, Self::Imds];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AppService => "app-service",
            Self::Imds => "imds",
        }
    }

    /// What leads a client here: the only thing that it is told.
    pub(crate) fn environment(self, address: SocketAddr, secret: &str) -> Vec<(String, String)> {
        let variables = match self {
            Self::AppService => vec![
                ("IDENTITY_ENDPOINT", format!("http://{address}/msi/token")),
                ("IDENTITY_HEADER", secret.to_owned()),
            ],
            Self::Imds => vec![("AZURE_POD_IDENTITY_AUTHORITY_HOST", format!("http://{address}"))],
        };
        variables
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }
}

/// A configuration in a file of its own, which is removed when this is dropped.
pub(crate) struct Configuration(PathBuf);

impl Configuration {
    /// Both protocols for one caller, which is granted this: audiences and identities, as TOML.
    pub(crate) fn granting(addresses: [SocketAddr; 2], audiences: &str, identities: &str) -> Self {
        let [app_service, imds] = addresses;
        let hash = SecretHash::of(SECRET.as_bytes());
        Self::new(&format!(
            "[listener.app]\n\
             address = \"{app_service}\"\n\
             protocols = [\"app-service\"]\n\
             [listener.vm]\n\
             address = \"{imds}\"\n\
             protocols = [\"imds\"]\n\
             caller = \"clients\"\n\
             [listener.operations]\n\
             address = \"127.0.0.1:0\"\n\
             protocols = [\"metrics\", \"health\"]\n\
             [caller.clients]\n\
             secrets = [\"{hash}\"]\n\
             [[caller.clients.token]]\n\
             audiences = {audiences}\n\
             identities = {identities}\n"
        ))
    }

    fn new(text: &str) -> Self {
        static LAST: AtomicUsize = AtomicUsize::new(0);
        let name = format!(
            "serve-{}-{}.toml",
            std::process::id(),
            LAST.fetch_add(1, Ordering::Relaxed)
        );
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&file, text).unwrap();
        Self(file)
    }

    pub(crate) fn serve(&self, platform: &Emulated) -> Served {
        let arguments = ["--config", self.0.to_str().unwrap()];
        Served::start(
            platform,
            Source::Imds,
            &arguments,
            &["app-service", "imds", "metrics", "health"],
        )
    }
}

impl Drop for Configuration {
    fn drop(&mut self) {
        // It is in the folder of temporary files anyway.
        let _ = fs::remove_file(&self.0);
    }
}

/// Free ports, one for each protocol.
pub(crate) const ANY: [SocketAddr; 2] = [any(), any()];

const fn any() -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0)
}

/// Addresses at which a server can listen, end, and listen again.
pub(crate) fn free_addresses() -> [SocketAddr; 2] {
    // Both are held until both are known.
    let listeners = [0, 1].map(|_| TcpListener::bind(any()).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}

/// What a token says.
pub(crate) fn claims(token: &Value) -> Value {
    let token = token["access_token"]
        .as_str()
        .unwrap_or_else(|| panic!("no token: {token}"));
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}
