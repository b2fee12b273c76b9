//! How many programs one broker serves: `./x load`. wrk asks `managed-identity serve` for a cached token over kept-alive
//! connections, on the same processors. A bare hyper server with a reply of the same size is measured in the same run.
//!
//! `./x load --minutes 10` watches the memory for as long.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

mod load;

use load::{Load, Outcome, Program, Served, arguments, bare};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

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
    let serve = Served::start()?;
    let bare = Program::start(Command::new(std::env::current_exe()?).arg("bare"))?;
    let theirs = format!("http://{}{}", bare.listening()?, Served::TARGET);
    let ours = serve.url();

    println!(
        "{:<34} {:>12} {:>10} {:>10} {:>10} {:>10}",
        "", "requests/s", "p50", "p99", "errors", "RSS"
    );
    let mut best = (0.0_f64, 0.0_f64);
    for _ in 0..3 {
        best.0 = best.0.max(row("a bare hyper server", &bare, &theirs, 5)?);
        best.1 = best.1.max(row("serve", &serve.program, &ours, 5)?);
    }
    let idle = connect(serve.address, IDLE)?;
    row(
        &format!("serve, {IDLE} idle connections beside"),
        &serve.program,
        &ours,
        5,
    )?;
    println!("{} file descriptors are open in it", serve.program.size()?.1);
    drop(idle);
    println!(
        "best of three: serve has {:.2} of the bare server's requests/s",
        best.1 / best.0
    );
    for minute in 1..=watched.as_secs() / 60 {
        row(&format!("serve, minute {minute}"), &serve.program, &ours, 60)?;
    }
    serve.ask()
}

fn connect(address: SocketAddr, count: usize) -> Outcome<Vec<TcpStream>> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    (0..count).map(|_| Ok(TcpStream::connect(address)?)).collect()
}

/// Measures and prints; returns the requests per second.
fn row(name: &str, program: &Program, url: &str, seconds: u64) -> Outcome<f64> {
    let load = Load::run(url, &[Served::FIELD], seconds)?;
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
