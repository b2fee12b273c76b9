//! What a provider is granted: what the selected source needs, and nothing else.

use crate::outbound::{Authority, Endpoint, EndpointError, Reach, RequestLimits, RootCertificates, Trust, TrustError};
use http::Method;
use managed_identity_provider::platform;
use managed_identity_provider::source::{self, AuthorityCertificate, Needs};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use url::Host;

/// Everything that a provider gets of this machine, besides clocks, random numbers and its variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Provision {
    /// Where its requests may go to, in what way, and what the server there is known by.
    pub(crate) endpoint: Endpoint,
    /// The directory that it may read.
    pub(crate) directory: Option<Directory>,
}

/// A directory that a provider may read, and change nothing in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directory {
    /// Where it is.
    pub(crate) place: PathBuf,
    /// What the provider knows it as.
    pub(crate) name: String,
}

/// Why a source does not get what it needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProvisionError {
    /// Its URL, or what that comes with.
    #[error("The identity endpoint {0} {1}. Correct the variable that names it.")]
    Endpoint(String, EndpointError),
    /// What its server would be known by.
    #[error("The certificate that vouches for the identity endpoint {0} {1}. Correct the variable that gives it.")]
    Trust(String, TrustError),
    /// A whole file system is more than any source needs, and where a relative path leads is chance.
    #[error(
        "The credential in the directory {0:?} is out of reach: a provider may read one directory, by its absolute path, \
         and no whole file system. Move the credential, and correct the variable that names it."
    )]
    Directory(String),
}

/// Where the instance metadata service is, in every cloud. Whatever else speaks its protocol has limits of its own.
const METADATA_SERVICE: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

impl Provision {
    /// What `needs` comes to on this machine.
    pub(crate) fn of(needs: &Needs) -> Result<Self, ProvisionError> {
        let in_endpoint = |error| ProvisionError::Endpoint(needs.url.clone(), error);
        let method = match needs.method {
            platform::Method::Get => Method::GET,
            platform::Method::Post => Method::POST,
        };
        let reach = if needs.public { Reach::Any } else { Reach::Local };
        let mut endpoint = Endpoint::from_environment(&needs.url)
            .map_err(in_endpoint)?
            .with_methods([method])
            .with_reach(reach);
        if matches!(endpoint.origin().host(), Host::Ipv4(METADATA_SERVICE)) {
            endpoint = endpoint.with_limits(RequestLimits::METADATA_SERVICE);
        }
        if let Some(trust) = trust(&needs.trust).map_err(|error| ProvisionError::Trust(needs.url.clone(), error))? {
            endpoint = endpoint.with_trust(trust).map_err(in_endpoint)?;
        }
        let directory = needs.directory.as_deref().map(Directory::named).transpose()?;
        Ok(Self { endpoint, directory })
    }

    /// The same grant, with its directory at another place. The provider knows it by the same name.
    pub(crate) fn with_directory_at(mut self, place: &Path) -> Self {
        if let Some(directory) = &mut self.directory {
            place.clone_into(&mut directory.place);
        }
        self
    }
}

impl Directory {
    fn named(name: &str) -> Result<Self, ProvisionError> {
        let place = PathBuf::from(name);
        if !place.is_absolute() || place.parent().is_none() {
            return Err(ProvisionError::Directory(name.to_owned()));
        }
        Ok(Self {
            place,
            name: name.to_owned(),
        })
    }
}

/// What a server is known by; `None` leaves it at what its scheme comes with.
fn trust(trust: &source::Trust) -> Result<Option<Trust>, TrustError> {
    Ok(Some(match trust {
        source::Trust::Address => return Ok(None),
        source::Trust::SystemRoots => Trust::SystemRoots,
        source::Trust::Thumbprint(thumbprint) => Trust::Thumbprint(*thumbprint),
        source::Trust::Authority {
            certificate,
            server_name,
        } => {
            let authority = match certificate {
                AuthorityCertificate::System => Authority::system(),
                AuthorityCertificate::File(path) => Authority::from_file(path),
                AuthorityCertificate::Data(pem) => Authority::from_certificates(RootCertificates::from_pem(pem)?),
            };
            Trust::Authority(match server_name {
                Some(name) => authority.with_server_name(name)?,
                None => authority,
            })
        }
    }))
}

/// Whether the agent of Azure Arc is installed on this machine: the SDKs of Azure look for the same program.
pub(crate) fn has_arc_agent() -> bool {
    let program = if cfg!(windows) {
        std::env::var_os("ProgramFiles").map(|folder| {
            PathBuf::from(folder)
                .join("AzureConnectedMachineAgent")
                .join("himds.exe")
        })
    } else {
        Some(PathBuf::from("/opt/azcmagent/bin/himds"))
    };
    program.is_some_and(|program| program.exists())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the needs are literals")]

    use super::*;
    use crate::outbound::PathRule;

    fn needs(url: &str, trust: source::Trust) -> Needs {
        Needs {
            url: url.to_owned(),
            method: platform::Method::Get,
            trust,
            public: false,
            directory: None,
        }
    }

    fn authority(certificate: AuthorityCertificate, server_name: Option<&str>) -> source::Trust {
        source::Trust::Authority {
            certificate,
            server_name: server_name.map(str::to_owned),
        }
    }

    #[test]
    fn the_metadata_service_is_asked_no_oftener_than_it_takes() {
        for (url, limits) in [
            (
                "http://169.254.169.254/metadata/identity/oauth2/token",
                Some(RequestLimits::METADATA_SERVICE),
            ),
            ("http://127.0.0.1:8000/metadata/identity/oauth2/token", None),
        ] {
            let grant = Provision::of(&needs(url, source::Trust::Address)).unwrap();
            assert_eq!(grant.endpoint.limits(), limits, "{url}");
        }
    }

    #[test]
    fn one_path_one_method_and_one_reach_are_granted() {
        for (method, public, granted) in [
            (platform::Method::Get, false, (Method::GET, Reach::Local)),
            (platform::Method::Post, false, (Method::POST, Reach::Local)),
            (platform::Method::Post, true, (Method::POST, Reach::Any)),
        ] {
            let needs = Needs {
                method,
                public,
                ..needs("http://127.0.0.1:1/token", source::Trust::Address)
            };
            let grant = Provision::of(&needs).unwrap();
            assert_eq!(grant.endpoint.path(), &PathRule::Exact("/token".to_owned()));
            assert_eq!(
                (grant.endpoint.methods(), grant.endpoint.reach()),
                ([granted.0].as_slice(), granted.1)
            );
            assert_eq!((grant.endpoint.trust(), grant.directory), (None, None));
        }
    }

    #[test]
    fn a_server_is_known_by_what_its_source_says() {
        let file = AuthorityCertificate::File("/ca.pem".to_owned());
        let named = |authority: Authority| authority.with_server_name("proxy.example").unwrap();
        for (needed, granted) in [
            (source::Trust::Address, Trust::SystemRoots),
            (source::Trust::SystemRoots, Trust::SystemRoots),
            (source::Trust::Thumbprint([5; 20]), Trust::Thumbprint([5; 20])),
            (
                authority(file.clone(), None),
                Trust::Authority(Authority::from_file("/ca.pem")),
            ),
            (
                authority(file, Some("proxy.example")),
                Trust::Authority(named(Authority::from_file("/ca.pem"))),
            ),
            (
                authority(AuthorityCertificate::System, Some("proxy.example")),
                Trust::Authority(named(Authority::system())),
            ),
        ] {
            let grant = Provision::of(&needs("https://127.0.0.1:1/token", needed.clone())).unwrap();
            assert_eq!(grant.endpoint.trust(), Some(&granted), "{needed:?}");
        }
    }

    #[test]
    fn what_cannot_be_granted_says_so() {
        let data = |pem: &str| authority(AuthorityCertificate::Data(pem.to_owned()), None);
        for (url, trust, words) in [
            ("http://127.0.0.1/x?y", source::Trust::Address, "has a query"),
            (
                "http://127.0.0.1/x",
                source::Trust::Thumbprint([0; 20]),
                "has the scheme http",
            ),
            ("http://127.0.0.1/x", source::Trust::SystemRoots, "has the scheme http"),
            ("https://127.0.0.1/x", data(""), "is missing"),
            (
                "https://127.0.0.1/x",
                data("-----BEGIN CERTIFICATE-----\nTUlJ"),
                "broken off",
            ),
            (
                "https://127.0.0.1/x",
                data("-----BEGIN CERTIFICATE-----\nTUlJ\n-----END CERTIFICATE-----\n"),
                "certificate 1",
            ),
            (
                "https://127.0.0.1/x",
                authority(AuthorityCertificate::System, Some("not a name")),
                "server name",
            ),
        ] {
            let error = Provision::of(&needs(url, trust)).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains(url), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn one_directory_is_granted_and_never_all_of_them() {
        let of = |directory: &str| {
            Provision::of(&Needs {
                directory: Some(directory.to_owned()),
                ..needs("http://127.0.0.1/x", source::Trust::Address)
            })
        };
        let directory = |place: &str, name: &str| {
            Some(Directory {
                place: place.into(),
                name: name.to_owned(),
            })
        };
        let grant = of("/var/keys").unwrap();
        assert_eq!(grant.directory, directory("/var/keys", "/var/keys"));
        let elsewhere = grant.with_directory_at(Path::new("/mnt/keys"));
        assert_eq!(elsewhere.directory, directory("/mnt/keys", "/var/keys"));
        for refused in ["", "/", "keys", "./keys"] {
            assert_eq!(
                of(refused),
                Err(ProvisionError::Directory(refused.to_owned())),
                "{refused:?}"
            );
        }
    }
}
