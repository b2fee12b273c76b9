//! How many programs one broker serves: `./x load`. wrk asks `managed-identity serve` for a cached token over kept-alive
//! connections, on the same processors. A bare hyper server with a reply of the same size is measured in the same run.
//!
//! `./x load --minutes 10` watches the memory for as long.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

mod load;

use load::{Load, Outcome, Program, arguments, bare, managed_identity, platform};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const AUDIENCE: &str = "https://vault.azure.net";
const TARGET: &str = "/msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fvault.azure.net";
/// Only for this run, on a port that nobody else knows.
const SECRET: &str = "a-secret-that-is-no-secret-0123456789";
const IDLE: usize = 10_000;

fn main() -> Outcome<()> {
    match arguments().iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["bare"] => bare(),
        [] => run(Duration::ZERO),
        ["--minutes", minutes] => run(Duration::from_secs(60 * minutes.parse::<u64>()?)),
        _ => Err("usage: ./x load [--minutes N]".into()),
    }
}

fn run(watched: Duration) -> Outcome<()> {
    let (_platform, environment) = platform()?;
    let secret = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("load-secret");
    std::fs::write(&secret, SECRET)?;
    let secret = secret.to_string_lossy().into_owned();
    let mut serve = managed_identity(&["serve", "--app-service", "127.0.0.1:0", "--allow", AUDIENCE]);
    serve.args(["--header-secret-file", &secret]);
    serve.envs(environment);
    let serve = Program::start(&mut serve)?;
    let bare = Program::start(Command::new(std::env::current_exe()?).arg("bare"))?;
    let (ours, theirs) = (serve.listening()?, bare.listening()?);
    ask(ours)?;

    println!(
        "{:<34} {:>12} {:>10} {:>10} {:>10} {:>10}",
        "", "requests/s", "p50", "p99", "errors", "RSS"
    );
    let mut best = (0.0_f64, 0.0_f64);
    for _ in 0..3 {
        best.0 = best.0.max(row("a bare hyper server", &bare, theirs, 5)?);
        best.1 = best.1.max(row("serve", &serve, ours, 5)?);
    }
    let idle = connect(ours, IDLE)?;
    row(&format!("serve, {IDLE} idle connections beside"), &serve, ours, 5)?;
    println!("{} file descriptors are open in it", serve.size()?.1);
    drop(idle);
    println!(
        "best of three: serve has {:.2} of the bare server's requests/s",
        best.1 / best.0
    );
    for minute in 1..=watched.as_secs() / 60 {
        row(&format!("serve, minute {minute}"), &serve, ours, 60)?;
    }
    ask(ours)
}

/// One request, which has to be answered with a token.
fn ask(address: SocketAddr) -> Outcome<()> {
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "GET {TARGET} HTTP/1.1\r\nHost: {address}\r\nX-IDENTITY-HEADER: {SECRET}\r\nConnection: close\r\n\r\n"
    )?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    match reply.starts_with("HTTP/1.1 200 ") && reply.contains("\"access_token\"") {
        true => Ok(()),
        false => Err(format!("no token: {reply}").into()),
    }
}

fn connect(address: SocketAddr, count: usize) -> Outcome<Vec<TcpStream>> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    (0..count).map(|_| Ok(TcpStream::connect(address)?)).collect()
}

/// Measures and prints; returns the requests per second.
fn row(name: &str, program: &Program, address: SocketAddr, seconds: u64) -> Outcome<f64> {
    let load = Load::run(
        &format!("http://{address}{TARGET}"),
        &[&format!("X-IDENTITY-HEADER: {SECRET}")],
        seconds,
    )?;
    println!(
        "{name:<34} {:>12.0} {:>10} {:>10} {:>10} {:>6.1} MiB",
        load.requests,
        load.p50,
        load.p99,
        load.errors,
        program.size()?.0 as f64 / 1024.0
    );
    Ok(load.requests)
}
