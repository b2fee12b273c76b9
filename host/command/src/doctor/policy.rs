//! What a document of grants would say to a caller who asks for the same token.

use super::bounded::bounded;
use super::line::{Check, Line};
use anyhow::Context as _;
use managed_identity_host::grants::{Caller, Gate, Policy};
use managed_identity_host::{Broker, Cause, Identity, TokenRequest};
use managed_identity_serve::Config;
use managed_identity_serve::config::Upstream;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// A document, and what it says.
pub(super) struct Document {
    file: PathBuf,
    read: anyhow::Result<Contents>,
}

#[derive(Default)]
struct Contents {
    policy: Policy,
    /// As whom those ask that name no identity.
    identities: BTreeMap<Caller, Identity>,
    /// The variables that take the place of the process's own.
    environment: Option<Vec<(String, String)>>,
}

impl Document {
    /// What is in the file of `--grants` or of `--config`, if one is given.
    pub(super) async fn read(grants: Option<PathBuf>, config: Option<PathBuf>, time: Duration) -> Option<Self> {
        let (file, is_config) = match (grants, config) {
            (Some(file), _) => (file, false),
            (None, Some(file)) => (file, true),
            (None, None) => return None,
        };
        let path = file.clone();
        let read = bounded(time, move || {
            let text = std::fs::read_to_string(&path).context("it cannot be read")?;
            if is_config {
                Ok(Contents::of_config(Config::from_toml(&text)?))
            } else {
                let policy = Policy::from_toml(&text)?;
                Ok(Contents {
                    policy,
                    ..Contents::default()
                })
            }
        });
        let read = read
            .await
            .unwrap_or_else(|| Err(anyhow::anyhow!("it cannot be read in time")));
        Some(Self { file, read })
    }

    /// The variables of the source that the document names, if it names one.
    pub(super) fn environment(&self) -> Option<Vec<(String, String)>> {
        self.read.as_ref().ok()?.environment.clone()
    }
}

impl Contents {
    fn of_config(config: Config) -> Self {
        Self {
            environment: match &config.upstream {
                Upstream::Environment => None,
                Upstream::Federated(federated) => Some(federated.environment()),
            },
            identities: config
                .callers
                .iter()
                .map(|(caller, how)| (caller.clone(), how.default_identity.clone()))
                .collect(),
            policy: config.policy,
        }
    }
}

/// Whether `caller` would get the token.
pub(super) async fn check(
    document: Option<Document>,
    caller: Option<String>,
    broker: Option<&Broker>,
    resource: &str,
    identity: &Identity,
) -> Line {
    let Some(Document { file, read }) = document else {
        let reason = "No policy was given; --grants FILE or --config FILE, with --caller NAME, has one looked at.";
        return Line::skipped(Check::Policy, reason);
    };
    let file = file.display();
    let Contents { policy, identities, .. } = match read {
        Ok(contents) => contents,
        Err(error) => {
            return Line::fail(
                Check::Policy,
                format!("{file} cannot be used: {error:#}."),
                "A host that is given this document does not start, or goes on with the one before.",
                "Correct the document; what is wrong is said above.",
            );
        }
    };
    let known: Vec<&str> = policy.callers().map(Caller::name).collect();
    let known = if known.is_empty() {
        "nobody".to_owned()
    } else {
        known.join(", ")
    };
    let Some(name) = caller else {
        let found = format!("{file} can be used; it grants something to {known}.");
        return Line::pass(
            Check::Policy,
            found,
            "What it grants to one of them, --caller NAME tells.",
        );
    };
    let caller = Caller::new(&name);
    let Some(grant) = policy.grant(&caller).cloned() else {
        return Line::fail(
            Check::Policy,
            format!("{file} grants nothing to {name:?}; it grants something to {known}."),
            "Whatever this caller asks for, it is refused before the platform is asked.",
            format!("Add a `[caller.{name}]` with what it needs, or correct the name."),
        )
        .of(Cause::Denied);
    };
    let Some(broker) = broker else {
        return Line::skipped(Check::Policy, "The provider does not run, so nobody gets anything.");
    };
    let identity = match identity {
        Identity::PlatformDefault => identities.get(&caller).unwrap_or(identity),
        named => named,
    };
    let granted = Gate::new(broker.clone(), policy).caller(caller);
    if granted.is_granted(resource, identity) {
        let found = format!("{file} grants the token to {name:?}.");
        return Line::pass(Check::Policy, found, "The host's policy is not what is in the way.");
    }
    if grant.authorize_only.iter().any(|rule| rule.audience == resource) {
        let found = format!("{file} grants requests with this token to {name:?}, and not the token itself.");
        return Line::pass(
            Check::Policy,
            found,
            "The host adds the token to requests of this caller, which never sees it.",
        );
    }
    // It is refused without the platform being asked.
    let request = TokenRequest::new(resource).with_identity(identity.clone());
    let refusal = match granted.token(&request).await {
        Ok(_) => String::new(),
        Err(error) => error.message,
    };
    Line::fail(
        Check::Policy,
        format!("{file} refuses the token. {refusal}"),
        "The host refuses it before the platform is asked, whatever the identity may do there.",
        "Add what is named to the document, if this caller is to have it.",
    )
    .of(Cause::Denied)
}
