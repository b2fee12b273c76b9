//! The clients that are compared, each as a program that is measured from outside or measures itself: `tests/peers`.

use super::upstream::{TOKEN_LENGTH, Upstream};
use crate::load::{Outcome, beside, kept, target};
use serde_json::Value;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A program that speaks as `tests/peers/bench-rust/src/lib.rs` says.
pub(crate) struct Client {
    pub(crate) name: &'static str,
    command: Vec<PathBuf>,
    /// How many callers at once ask for one audience: as many as it can have in one process.
    pub(crate) callers: u32,
    /// Whether it can do more than ask once.
    pub(crate) is_whole: bool,
}

/// What one process needed for one token, started anew.
pub(crate) struct Once {
    /// From the start of the process until the token is there.
    pub(crate) first_token: Duration,
    pub(crate) kibibytes: f64,
}

/// What many first callers needed.
pub(crate) struct Herd {
    pub(crate) time: Duration,
    pub(crate) requests: f64,
}

/// Ours, the one that it is compared with, the rest of Azure's, the fastest of another cloud, and no client at all.
pub(crate) fn clients() -> Outcome<Vec<Client>> {
    let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/peers");
    let installed = target()?.join("peers");
    let rust = |name: &str| vec![installed.join("bench-rust/release").join(name)];
    let python = |name: &str| {
        vec![
            installed.join(name).join("bin/python"),
            peers.join(name).join("bench.py"),
        ]
    };
    let client = |name, command, callers| Client {
        name,
        command,
        callers,
        is_whole: true,
    };
    let mut floor = client("no client", rust("floor"), 0);
    floor.is_whole = false;
    let clients = vec![
        client("ours", vec![beside("bench-client")?], 10_000),
        client("azure_identity, Rust", rust("azure-identity"), 10_000),
        client("google-cloud-auth, Rust", rust("google-cloud-auth"), 10_000),
        client("azure-identity, Python", python("azure-identity-python"), 1_000),
        client("msal, Python", python("msal-python"), 1_000),
        client(
            "@azure/identity, Node.js",
            vec!["node".into(), installed.join("azure-identity-node/bench.mjs")],
            1_000,
        ),
        floor,
    ];
    for client in &clients {
        let program = &client.command[0];
        if program.is_absolute() && !program.exists() {
            return Err(format!("{} is missing, which `./x bench` installs", program.display()).into());
        }
    }
    Ok(clients)
}

impl Client {
    fn program(&self, upstream: &Upstream, arguments: &[&str]) -> Outcome<Command> {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).args(arguments).env_clear();
        // Where programs are, and where ours keeps compiled code: that of a first start is not what is measured.
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("XDG_CACHE_HOME", kept()?);
        command.envs(upstream.environment()).stdin(Stdio::null());
        Ok(command)
    }

    fn measure(&self, upstream: &Upstream, arguments: &[&str]) -> Outcome<Value> {
        let output = self
            .program(upstream, arguments)?
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| format!("{}: {error}", self.name))?;
        if !output.status.success() {
            return Err(format!("{} {arguments:?}: {}", self.name, output.status).into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Starts it, waits for its first token, and for its end.
    pub(crate) fn once(&self, upstream: &Upstream) -> Outcome<Once> {
        upstream.after(0);
        let mut command = self.program(upstream, &["once"])?;
        command.stdout(Stdio::piped());
        let start = Instant::now();
        let mut child = command.spawn()?;
        let mut said = Vec::new();
        let mut output = child.stdout.take().ok_or("no output")?;
        let mut first = [0; 1];
        let begun = output.read(&mut first)?;
        let first_token = start.elapsed();
        said.extend_from_slice(&first[..begun]);
        output.read_to_end(&mut said)?;
        let status = child.wait()?;
        let said: Value = serde_json::from_slice(&said).map_err(|error| format!("{}: {status}: {error}", self.name))?;
        if !status.success() || said["length"] != TOKEN_LENGTH {
            return Err(format!("{}: {status}: {said}", self.name).into());
        }
        Ok(Once {
            first_token,
            kibibytes: number(&said, "kibibytes")?,
        })
    }

    /// Calls per second for a token that is at hand, by all threads together.
    pub(crate) fn hits(&self, upstream: &Upstream, threads: u32, time: Duration) -> Outcome<f64> {
        upstream.after(0);
        let seconds = time.as_secs_f64().to_string();
        let measured = self.measure(upstream, &["hits", &threads.to_string(), &seconds])?;
        match upstream.requests() {
            // Not all keep to one for a token and one for what they want to know beside it.
            0..=3 => number(&measured, "per_second"),
            requests => Err(format!("{}: {requests} requests, so these were no hits", self.name).into()),
        }
    }

    /// First callers, at once, for tokens that come after so many milliseconds.
    pub(crate) fn herd(&self, upstream: &Upstream, callers: u32, audiences: u32, after: u64) -> Outcome<Herd> {
        upstream.after(after);
        let measured = self.measure(upstream, &["herd", &callers.to_string(), &audiences.to_string()])?;
        Ok(Herd {
            time: Duration::from_secs_f64(number(&measured, "milliseconds")? / 1e3),
            requests: upstream.requests() as f64,
        })
    }
}

fn number(measured: &Value, name: &str) -> Outcome<f64> {
    Ok(measured[name]
        .as_f64()
        .ok_or_else(|| format!("no {name} in {measured}"))?)
}
