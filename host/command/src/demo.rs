//! `managed-identity demo`: a token from nothing, and a request that is refused.

use crate::arguments::DemoArguments;
use crate::{inspect, report, source};
use anyhow::{Context as _, ensure};
use managed_identity_emulator::{Emulator, EmulatorConfig, Source};
use managed_identity_host::{Cause, TokenRequest, claims};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

const AUDIENCE: &str = "https://vault.azure.net";

/// An address that belongs to nobody (RFC 5737), in the place of an attacker's.
const ELSEWHERE: &str = "http://203.0.113.7/metadata/identity/oauth2/token";

pub(crate) async fn run(arguments: DemoArguments) -> anyhow::Result<ExitCode> {
    step(
        1,
        "An emulator stands in for the platform: it speaks the protocol of every source, and signs tokens.",
    )?;
    let emulator = Emulator::start(EmulatorConfig::default()).context("The emulator cannot start")?;
    report::line(format_args!("listening on {}", emulator.base_url()))?;

    step(
        2,
        "A WebAssembly component reads the environment and decides whom to ask.",
    )?;
    let started = Instant::now();
    let builder = arguments.provider.builder()?;
    let broker = builder
        .environment(emulator.environment_for(Source::AppService))
        .build()?;
    report::line(source::text(&broker.describe_source().await?))?;
    report::line(format_args!(
        "(compiled, or read from the cache, and started in {:.1?})",
        started.elapsed()
    ))?;

    step(
        3,
        "It asks for a token. The host lets it reach that one endpoint and nothing else.",
    )?;
    let request = TokenRequest::new(AUDIENCE).with_timeout(Duration::from_secs(10));
    let started = Instant::now();
    let token = broker.token(&request).await?;
    report::line(format_args!(
        "a token for {} from {} in {:.1?}",
        token.audience,
        token.source,
        started.elapsed()
    ))?;
    let decoded = claims::decode(token.token.expose())?;
    let header = serde_json::from_str(&claims::decode_header(token.token.expose())?)?;
    let payload = serde_json::from_str(&decoded.json)?;
    report::line(inspect::text(&header, &payload, &decoded, SystemTime::now())?)?;

    step(4, "It asks again. The component answers from its cache.")?;
    let started = Instant::now();
    let again = broker.token(&request).await?;
    let elapsed = started.elapsed();
    ensure!(
        again.token.matches(token.token.expose()),
        "The second call returned another token"
    );
    let requests = emulator.stats().requests;
    ensure!(requests == 1, "The platform was asked {requests} times");
    report::line(format_args!(
        "the same token in {elapsed:.1?}; the platform was asked {requests} time"
    ))?;

    step(
        5,
        "Somebody points the component elsewhere. The host refuses, before anything is sent.",
    )?;
    let environment = [
        ("IDENTITY_ENDPOINT", ELSEWHERE),
        ("IDENTITY_HEADER", "a secret that must not travel"),
    ];
    let misled = managed_identity_host::Broker::builder()
        .environment(environment)
        .build()?;
    match misled.token(&request).await {
        Err(error) if error.cause == Cause::Denied => report::line(error)?,
        Err(error) => return Err(error.into()),
        Ok(_) => anyhow::bail!("The component reached {ELSEWHERE}"),
    }
    emulator.shutdown().await;

    report::line("\nNext: `managed-identity emulate` in one shell, `managed-identity token --resource …` in another.")?;
    Ok(ExitCode::SUCCESS)
}

fn step(number: u8, title: &str) -> anyhow::Result<()> {
    let before = if number == 1 { "" } else { "\n" };
    report::line(format_args!("{before}{number}. {title}"))
}
