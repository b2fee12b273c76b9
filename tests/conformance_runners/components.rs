//! Both built components, in the broker that embedders use, over loopback and with real files.

use crate::CACHES;
use crate::native::failure;
use managed_identity_conformance::answer::{Answer, Description, TokenAnswer};
use managed_identity_conformance::case::{self, File, Request, Runner};
use managed_identity_conformance::run::{Client, Ended, NotStarted, Session, Setting};
use managed_identity_conformance::scratch::{lay_out, moved};
use managed_identity_host::outbound::TrustError;
use managed_identity_host::{Broker, BrokerBuilder, Identity, Secret, TokenRequest, WasiVersion};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the agent of Azure Arc has its files.
const AGENT: &str = "/var/opt/azcmagent";

/// The built-in component for a version of WASI.
pub(crate) struct Components(pub(crate) WasiVersion);

/// What of the world a case sets for a broker, besides its environment: the one place that knows how.
fn surroundings(builder: BrokerBuilder, setting: &Setting, agent: &Path) -> Result<BrokerBuilder, TrustError> {
    let builder = builder
        .arc_agent(setting.scenario.arc_agent)
        .arc_directory(agent.join("tokens"));
    match &setting.values.certificate {
        None => Ok(builder),
        Some(certificate) => builder.root_certificates(&certificate.ca_data),
    }
}

impl Client for Components {
    const RUNNER: Runner = Runner::Components;
    type Session = Running;

    async fn start(&self, setting: &Setting) -> Result<Running, NotStarted> {
        let failed = |error: &dyn std::fmt::Display| NotStarted::Failed(format!("The broker cannot be built: {error}"));
        let places = Places {
            own: setting.values.directory.clone(),
            agent: setting
                .scratch
                .as_ref()
                .map(|scratch| scratch.path().join("azcmagent"))
                .unwrap_or_default(),
        };
        places
            .lay_out(&setting.scenario.files)
            .map_err(|error| failed(&error))?;
        if setting.scenario.arc_agent {
            // The agent makes it when it is installed.
            std::fs::create_dir_all(places.agent.join("tokens")).map_err(|error| failed(&error))?;
        }
        let builder = Broker::builder()
            .wasi(self.0)
            .environment(setting.scenario.environment.clone())
            .compilation_cache(Some(Path::new(CACHES).join("managed-identity")));
        let builder = surroundings(builder, setting, &places.agent).map_err(|error| failed(&error))?;
        let broker = builder.build().map_err(|error| failed(&error))?;
        Ok(Running { broker, places })
    }
}

/// Where the files of a case really are.
struct Places {
    own: String,
    agent: PathBuf,
}

impl Places {
    fn lay_out(&self, files: &[File]) -> io::Result<()> {
        let moved = |path: &str| moved(path, AGENT, &self.agent);
        let own = |path: &str| Path::new(path).starts_with(&self.own).then(|| PathBuf::from(path));
        lay_out(
            files,
            |path| own(path).or_else(|| moved(path)),
            |target| moved(target).unwrap_or_else(|| target.into()),
        )
    }
}

pub(crate) struct Running {
    broker: Broker,
    places: Places,
}

impl Session for Running {
    fn lay_out(&mut self, files: &[File]) -> io::Result<()> {
        self.places.lay_out(files)
    }

    async fn ask(&mut self, request: &Request) -> Answer {
        let mut asked = TokenRequest::new(&request.audience).with_identity(match request.identity.clone() {
            case::Identity::PlatformDefault => Identity::PlatformDefault,
            case::Identity::SystemAssigned => Identity::SystemAssigned,
            case::Identity::ClientId(id) => Identity::ClientId(id),
            case::Identity::ObjectId(id) => Identity::ObjectId(id),
            case::Identity::ResourceId(id) => Identity::ResourceId(id),
        });
        asked.claims = request.claims.clone();
        asked.rejected_token = request.rejected_token.clone().map(Secret::new);
        asked.timeout = request
            .timeout_ms
            .map(|milliseconds| Duration::from_millis(milliseconds.into()));
        match self.broker.token(&asked).await {
            Ok(token) => Answer::Token(TokenAnswer {
                access_token: token.token.expose().to_owned(),
                expires_on: Some(token.expires_on),
                refresh_on: Some(token.refresh_on),
                client_id: Some(token.client_id.clone()),
                source: Some(token.source.clone()),
                stale: Some(token.stale),
            }),
            Err(error) => Answer::Failure(failure(&error)),
        }
    }

    async fn describe(&mut self) -> Result<Option<Description>, String> {
        let described = self.broker.describe_source().await;
        let description = described.map_err(|error| format!("The broker does not say its source: {error}"))?;
        Ok(Some(Description {
            source: description.source,
            endpoint: description.endpoint,
            reasons: description.reasons,
        }))
    }

    async fn stop(self) -> Ended {
        Ended::default()
    }
}
