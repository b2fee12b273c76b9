//! What it costs as callers, audiences, identities and plugins become many. Each point is measured in a process of its own,
//! which is this program again: `scaling AXIS COUNT`.

use super::boundary::PLUGIN_0_2;
use super::upstream::Upstream;
use crate::load::{Outcome, kept, size_of};
use futures_util::{FutureExt as _, future::join_all};
use managed_identity_host::grants::{AudiencePattern, Caller, Gate, Grant, Policy, TokenRule};
use managed_identity_host::plugin::{PluginEngine, PluginOutcome};
use managed_identity_host::{Broker, Identity, TokenRequest};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::hint::black_box;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const AUDIENCE: &str = "https://vault.azure.net";

/// How many first tokens are asked for at once where there are many.
const AT_ONCE: usize = 32;

/// How many calls are timed together.
const CALLS: usize = 200_000;

/// How long the platform takes where its answer is waited for by many callers.
const DELAY: u64 = 100;

/// What grows.
#[derive(Clone, Copy)]
enum Axis {
    Callers,
    Audiences,
    Identities,
    Plugins,
}

impl Axis {
    const ALL: [Self; 4] = [Self::Callers, Self::Audiences, Self::Identities, Self::Plugins];

    fn name(self) -> &'static str {
        match self {
            Self::Callers => "callers",
            Self::Audiences => "audiences",
            Self::Identities => "identities",
            Self::Plugins => "plugins",
        }
    }

    fn counts(self) -> &'static [usize] {
        match self {
            Self::Callers => &[1, 10, 100, 1_000, 10_000, 100_000],
            Self::Audiences | Self::Identities => &[1, 10, 100, 1_000, 1_100, 10_000, 100_000],
            Self::Plugins => &[1, 10, 100, 1_000, 10_000],
        }
    }

    /// What is above its column, and where the figure is in what a point prints.
    fn columns(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Callers => &[
                ("requests for the first token", "requests"),
                ("until all have it, ms", "first_ms"),
                ("a call afterwards, ns", "call_ns"),
                ("memory per waiting caller, bytes", "bytes"),
            ],
            Self::Audiences | Self::Identities => &[
                ("a first token, µs", "first_us"),
                ("a second call for each in turn, ns", "call_ns"),
                ("of those asked for at the platform, %", "asked"),
                ("memory per token, bytes", "bytes"),
            ],
            Self::Plugins => &[
                ("one after the other, with a token each: µs", "run_us"),
                ("as many at once as there is room for", "together"),
                ("the start of one of those, µs", "start_us"),
                ("memory per plugin, KiB", "kibibytes"),
            ],
        }
    }
}

/// A table for each axis.
pub(crate) fn tables(upstream: &Upstream) -> Outcome<String> {
    let mut text = String::new();
    for axis in Axis::ALL {
        write!(text, "| {} |", axis.name())?;
        for (title, _) in axis.columns() {
            write!(text, " {title} |")?;
        }
        writeln!(text, "\n|--:|{}", "--:|".repeat(axis.columns().len()))?;
        for &count in axis.counts() {
            upstream.after(if matches!(axis, Axis::Callers) { DELAY } else { 0 });
            let point = in_a_process(upstream, axis, count)?;
            let mut row = format!("| {} |", grouped(count as f64));
            for (_, figure) in axis.columns() {
                let figure = point[*figure].as_f64().map_or_else(|| "-".to_owned(), grouped);
                write!(row, " {figure} |")?;
            }
            println!("{}: {row}", axis.name());
            writeln!(text, "{row}")?;
        }
        text.push('\n');
    }
    Ok(text)
}

fn in_a_process(upstream: &Upstream, axis: Axis, count: usize) -> Outcome<Value> {
    let output = Command::new(std::env::current_exe()?)
        .args(["scaling", axis.name(), &count.to_string()])
        .envs(upstream.environment())
        .env("XDG_CACHE_HOME", kept()?)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("scaling {} {count}: {}", axis.name(), output.status).into());
    }
    let mut point: Value = serde_json::from_slice(&output.stdout)?;
    if matches!(axis, Axis::Callers) {
        point["requests"] = upstream.requests().into();
    } else if let (Some(first), Some(again)) = (point["first_requests"].as_u64(), point["again"].as_f64()) {
        point["asked"] = (upstream.requests().saturating_sub(first) as f64 / again * 100.0).into();
    }
    Ok(point)
}

/// Measures one point and prints it.
pub(crate) fn point(axis: &str, count: usize) -> Outcome<()> {
    let axis = Axis::ALL
        .into_iter()
        .find(|known| known.name() == axis)
        .ok_or("no such axis")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let point = runtime.block_on(async {
        match axis {
            Axis::Callers => callers(count).await,
            Axis::Audiences => {
                tokens(count, |number| {
                    TokenRequest::new(format!("https://audience-{number}.example"))
                })
                .await
            }
            Axis::Identities => {
                tokens(count, |number| {
                    let identity = format!("00000000-0000-4000-8000-{number:012}");
                    TokenRequest::new(AUDIENCE).with_identity(Identity::ClientId(identity))
                })
                .await
            }
            Axis::Plugins => plugins(count).await,
        }
    })?;
    println!("{point}");
    Ok(())
}

async fn callers(count: usize) -> Outcome<Value> {
    let broker = Broker::from_environment()?;
    let before = resident()?;
    let start = Instant::now();
    let calls: Vec<_> = (0..count)
        .map(|_| {
            let broker = broker.clone();
            tokio::spawn(async move { broker.token(&TokenRequest::new(AUDIENCE)).await.map(|_| ()) })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(DELAY / 2)).await;
    let waiting = resident()?.saturating_sub(before);
    for call in calls {
        call.await??;
    }
    let first = start.elapsed();
    let each = (CALLS / count).max(1);
    let start = Instant::now();
    let calls = (0..count).map(|_| {
        let broker = broker.clone();
        tokio::spawn(async move {
            let request = TokenRequest::new(AUDIENCE);
            for _ in 0..each {
                black_box(broker.token(&request).await?);
            }
            Ok::<_, managed_identity_host::TokenError>(())
        })
    });
    for call in join_all(calls).await {
        call??;
    }
    Ok(json!({
        "first_ms": first.as_secs_f64() * 1e3,
        "call_ns": start.elapsed().as_nanos() as f64 / (each * count) as f64,
        "bytes": waiting / count as u64,
    }))
}

async fn tokens(count: usize, request: impl Fn(usize) -> TokenRequest) -> Outcome<Value> {
    let broker = Broker::from_environment()?;
    let requests: Vec<_> = (0..count).map(request).collect();
    // One that is not counted starts the provider.
    broker.token(&TokenRequest::new("https://first.example")).await?;
    let before = resident()?;
    let start = Instant::now();
    for some in requests.chunks(AT_ONCE) {
        for result in join_all(some.iter().map(|request| broker.token(request))).await {
            result?;
        }
    }
    let first = start.elapsed();
    let grown = resident()?.saturating_sub(before);
    // Where not all are kept, each call is a request, and some thousand of them say as much as all.
    let again = if count > 1_000 {
        count.min(2_000)
    } else {
        CALLS / count * count
    };
    let start = Instant::now();
    for request in requests.iter().cycle().take(again) {
        black_box(broker.token(request).await?);
    }
    Ok(json!({
        "first_us": first.as_micros() as f64 / count as f64,
        "call_ns": start.elapsed().as_nanos() as f64 / again as f64,
        "first_requests": count + 1,
        "again": again,
        "bytes": grown / count as u64,
    }))
}

async fn plugins(count: usize) -> Outcome<Value> {
    let rule = TokenRule::new([AudiencePattern::parse(AUDIENCE)?]);
    let caller = Caller::new("plugin");
    let gate = Gate::new(
        Broker::from_environment()?,
        Policy::default().with(caller.clone(), Grant::default().with_token(rule)),
    );
    let engine = PluginEngine::builder()
        .plugins_at_once(u32::try_from(count)?.saturating_add(1))
        .build()?;
    let plugin = engine.load(PLUGIN_0_2)?;
    let command = |arguments: [&str; 3]| {
        let arguments = ["plugin"]
            .into_iter()
            .chain(arguments.into_iter().filter(|it| !it.is_empty()));
        plugin.command(gate.caller(caller.clone())).args(arguments)
    };
    command(["token", AUDIENCE, ""]).run().await?;
    let start = Instant::now();
    let runs = count.min(2_000);
    for _ in 0..runs {
        match command(["token", AUDIENCE, ""]).run().await? {
            PluginOutcome::Exited(0) => {}
            outcome => return Err(format!("a plugin ended with {outcome:?}").into()),
        }
    }
    let run = start.elapsed();
    let before = resident()?;
    let start = Instant::now();
    let mut waiting = Vec::with_capacity(count);
    for _ in 0..count {
        let mut running = Box::pin(command(["sleep", "", ""]).run());
        // Once brings it to its sleep.
        match running.as_mut().now_or_never() {
            None => waiting.push(running),
            // The system has no more memory or mappings to give.
            Some(Err(_)) if waiting.len() >= 1_000 => break,
            Some(ended) => return Err(format!("a plugin does not sleep: {ended:?}").into()),
        }
    }
    let together = waiting.len() as f64;
    let started = start.elapsed();
    let grown = resident()?.saturating_sub(before);
    Ok(json!({
        "run_us": run.as_micros() as f64 / runs as f64,
        "together": together,
        "start_us": started.as_micros() as f64 / together,
        "kibibytes": grown as f64 / 1024.0 / together,
    }))
}

/// Resident memory, in bytes.
fn resident() -> Outcome<u64> {
    Ok(size_of(std::process::id())?.0 * 1024)
}

/// With commas between thousands, and with decimals where they say something.
fn grouped(number: f64) -> String {
    if number < 100.0 && number.fract() != 0.0 {
        return format!("{number:.1}");
    }
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
