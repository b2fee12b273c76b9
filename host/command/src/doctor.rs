//! `managed-identity doctor`: what a support engineer would look at, in that order.
//!
//! Each check is one file here. All of them together ask the platform for one token, and learn from how that goes: nothing is
//! sent that a program would not send.

mod bounded;
mod cause;
mod claims;
mod credential;
mod identity;
mod line;
mod network;
mod policy;
mod provider;
mod proxies;
mod screen;
mod source;
mod token;
mod variables;

use crate::arguments::DoctorArguments;
use bounded::Budget;
use line::{Check, Line, Status, worst};
use managed_identity_host::{Broker, Identity, TokenError};
use policy::Document;
use provider::Started;
use screen::Screen;
use serde_json::json;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use token::{Asked, Outcome};
use tokio::time::timeout;
use variables::Variables;

/// How long one check may take that asks this machine alone.
const LOCAL: Duration = Duration::from_secs(5);

/// How long a connection may take, to the authorities of Azure's clouds too.
const PUBLIC: Duration = Duration::from_secs(10);

/// How long after its deadline the provider may take to say that it is over.
const GRACE: Duration = Duration::from_secs(1);

/// How much of the time is kept for the checks after the request for a token.
const RESERVE: Duration = Duration::from_millis(100);

pub(crate) async fn run(arguments: DoctorArguments) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let budget = Budget::new(arguments.timeout);
    let mut findings = Findings {
        screen: Screen::new(arguments.output),
        lines: Vec::new(),
    };
    let (resource, identity) = (arguments.resource, arguments.identity.identity());
    let document = Document::read(arguments.grants, arguments.config, budget.at_most(LOCAL)).await;
    let environment = document.as_ref().and_then(Document::environment);
    let variables: Variables = match &environment {
        Some(environment) => environment.iter().cloned().collect(),
        None => Variables::of_process(),
    };
    let start = provider::start(arguments.provider, environment, budget);
    let provider = findings.screen.during(Check::Provider, start).await;

    let examined = examine(
        &mut findings,
        provider.as_ref(),
        &variables,
        &resource,
        &identity,
        budget,
    )
    .await?;

    let broker = provider.as_ref().ok().map(|started| &started.broker);
    let check = policy::check(document, arguments.caller, broker, &resource, &identity);
    let line = findings.screen.during(Check::Policy, check).await;
    findings.add([line])?;
    let failure = examined.as_ref().and_then(Outcome::provider_failure);
    findings.add([match (&provider, failure) {
        (Err(error), _) | (_, Some(error)) => provider::failed(error),
        (Ok(started), None) => provider::health(started),
    }])?;

    let description = provider.as_ref().ok().map(|started| &started.description);
    let members = json!({
        "status": null,
        "resource": resource,
        "source": description.and_then(|description| description.source.as_deref()),
        "endpoint": description.and_then(|description| description.endpoint.as_deref()),
        "elapsed_ms": u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    });
    findings.screen.end(&findings.lines, members)?;
    Ok(worst(&findings.lines).exit_code())
}

/// What was found so far.
struct Findings {
    screen: Screen,
    lines: Vec<Line>,
}

impl Findings {
    fn add(&mut self, lines: impl IntoIterator<Item = Line>) -> anyhow::Result<()> {
        let known = self.lines.len();
        self.lines.extend(lines);
        self.screen.show(&self.lines[known..])
    }
}

/// From the source to the claims. What depends on something that has failed is skipped.
async fn examine(
    findings: &mut Findings,
    provider: Result<&Started, &TokenError>,
    variables: &Variables,
    resource: &str,
    identity: &Identity,
    budget: Budget,
) -> anyhow::Result<Option<Outcome>> {
    const NO_PROVIDER: &str = "The provider does not run; the last line says why.";
    const NO_SOURCE: &str = "The environment selects no source that can be used; the line of the source says why.";
    let Ok(Started {
        broker, description, ..
    }) = provider
    else {
        findings.add([Line::skipped(Check::Source, NO_PROVIDER)])?;
        findings.add(variables::check(variables))?;
        findings.add([Line::skipped(Check::Credential, NO_PROVIDER)])?;
        findings.add(proxies::check(variables, None))?;
        findings.add([Check::Route, Check::Connection].map(|check| Line::skipped(check, NO_PROVIDER)))?;
        findings.add(token::not_asked(NO_PROVIDER))?;
        return Ok(None);
    };
    let (line, is_usable) = source::check(description, identity);
    findings.add([line])?;
    findings.add(variables::check(variables))?;
    let endpoint = description.endpoint.as_deref();
    if !is_usable {
        findings.add([Line::skipped(Check::Credential, NO_SOURCE)])?;
        findings.add(proxies::check(variables, endpoint))?;
        findings.add([Check::Route, Check::Connection].map(|check| Line::skipped(check, NO_SOURCE)))?;
        findings.add(token::not_asked(NO_SOURCE))?;
        return Ok(None);
    }

    // A provider of somebody else's may not tell.
    let source = description.source.as_deref().unwrap_or("the provider");
    let check = credential::check(broker, source, variables, budget.at_most(LOCAL));
    let (lines, has_credential) = findings.screen.during(Check::Credential, check).await;
    findings.add(lines)?;
    findings.add(proxies::check(variables, endpoint))?;
    let is_connected = way(findings, broker, source, endpoint, budget).await?;

    let reason = match (is_connected, has_credential) {
        (false, _) => Some("The endpoint is not asked, because it cannot be connected to."),
        (true, false) => Some("The endpoint is not asked, because the credential cannot be read."),
        (true, true) => None,
    };
    if let Some(reason) = reason {
        findings.add(token::not_asked(reason))?;
        return Ok(None);
    }
    let time = budget.left().saturating_sub(RESERVE);
    let ask = timeout(time + GRACE, token::ask(broker, resource, identity, time));
    let outcome = findings.screen.during(Check::Answer, ask).await;
    let outcome = outcome.unwrap_or_else(|_| token::late(time));
    let asked = Asked::new(identity, source, variables);
    findings.add(token::lines(&outcome, resource, source, &asked))?;
    Ok(Some(outcome))
}

/// The way to the endpoint; false when there is none.
async fn way(
    findings: &mut Findings,
    broker: &Broker,
    source: &str,
    endpoint: Option<&str>,
    budget: Budget,
) -> anyhow::Result<bool> {
    let Some(endpoint) = endpoint else {
        const UNKNOWN: &str = "The provider does not say whom it asks.";
        findings.add([Check::Route, Check::Connection].map(|check| Line::skipped(check, UNKNOWN)))?;
        return Ok(true);
    };
    let check = network::route(endpoint, budget.at_most(LOCAL));
    let line = findings.screen.during(Check::Route, check).await;
    let has_route = line.status == Status::Pass;
    findings.add([line])?;
    let line = if has_route {
        let check = network::connection(broker, endpoint, source, budget.at_most(PUBLIC));
        findings.screen.during(Check::Connection, check).await
    } else {
        Line::skipped(Check::Connection, "There is no way to the endpoint.")
    };
    let is_connected = line.status == Status::Pass;
    findings.add([line])?;
    Ok(is_connected)
}
