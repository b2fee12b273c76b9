//! How many programs one broker serves: `./x load`. wrk asks `managed-identity serve` for a cached token over kept-alive
//! connections, on the same processors. A bare hyper server with a reply of the same size is measured in the same run.
//!
//! `./x load --minutes 10` watches the memory for as long.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::error::Error;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const AUDIENCE: &str = "https://vault.azure.net";
const TARGET: &str = "/msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fvault.azure.net";
/// Only for this run, on a port that nobody else knows.
const SECRET: &str = "a-secret-that-is-no-secret-0123456789";
/// What the bare server answers: about what a token reply has.
const BARE_REPLY: usize = 1_600;
const CONNECTIONS: u32 = 64;
const IDLE: usize = 10_000;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["bare"] => bare(),
        [] => run(Duration::ZERO),
        ["--minutes", minutes] => run(Duration::from_secs(60 * minutes.parse::<u64>()?)),
        _ => Err("usage: ./x load [--minutes N]".into()),
    }
}

/// The server that is measured beside ours: it reads a request and answers the same to all.
fn bare() -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{{\"listening\":\"{}\"}}", listener.local_addr()?);
        let reply = bytes::Bytes::from(vec![b'x'; BARE_REPLY]);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let reply = reply.clone();
            tokio::spawn(async move {
                let answer = service_fn(|_| {
                    let reply = Full::new(reply.clone());
                    async move { Ok::<_, Infallible>(http::Response::new(reply)) }
                });
                let http = hyper::server::conn::http1::Builder::new();
                // The load ends whenever it likes.
                let _ = http.serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    })
}

/// A program that says where it listens on its first line. It is killed when dropped.
struct Program {
    child: Child,
    line: serde_json::Value,
}

impl Program {
    fn start(command: &mut Command) -> Outcome<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let line = serde_json::from_str(&line)?;
        Ok(Self { child, line })
    }

    fn listening(&self) -> Outcome<SocketAddr> {
        Ok(self.line["listening"]
            .as_str()
            .ok_or("it does not say where it listens")?
            .parse()?)
    }

    /// Resident memory, in KiB, and open file descriptors.
    fn size(&self) -> Outcome<(u64, usize)> {
        let process = PathBuf::from(format!("/proc/{}", self.child.id()));
        let status = std::fs::read_to_string(process.join("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = line.and_then(|line| line.split_whitespace().next()).ok_or("no VmRSS")?;
        Ok((resident.parse()?, std::fs::read_dir(process.join("fd"))?.count()))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn managed_identity(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_managed-identity"));
    command.args(arguments);
    command
}

fn run(watched: Duration) -> Outcome<()> {
    let emulator = Program::start(&mut managed_identity(&[
        "emulate",
        "--source",
        "app-service",
        "--output",
        "json",
    ]))?;
    let secret = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("load-secret");
    std::fs::write(&secret, SECRET)?;
    let secret = secret.to_string_lossy().into_owned();
    let mut serve = managed_identity(&["serve", "--app-service", "127.0.0.1:0", "--allow", AUDIENCE]);
    serve.args(["--header-secret-file", &secret]);
    let environment = emulator.line["environment"].as_object().ok_or("no environment")?;
    for (name, value) in environment {
        serve.env(name, value.as_str().unwrap_or_default());
    }
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
    let load = Load::run(address, seconds)?;
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

/// What wrk measured.
struct Load {
    requests: f64,
    p50: String,
    p99: String,
    errors: String,
}

impl Load {
    fn run(address: SocketAddr, seconds: u64) -> Outcome<Self> {
        let output = Command::new("wrk")
            .args(["--threads", "1", "--latency", "--connections", &CONNECTIONS.to_string()])
            .args(["--duration", &format!("{seconds}s")])
            .args(["--header", &format!("X-IDENTITY-HEADER: {SECRET}")])
            .arg(format!("http://{address}{TARGET}"))
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| format!("wrk cannot be run ({error}); on Debian: apt-get install wrk"))?;
        let text = String::from_utf8(output.stdout)?;
        let after = |label: &str| {
            text.lines()
                .find_map(|line| line.trim().strip_prefix(label))
                .map(|rest| rest.trim().to_owned())
        };
        let missing = || -> Box<dyn Error> { format!("wrk said: {text}").into() };
        // wrk has these lines only where there is something to tell.
        let errors = [after("Non-2xx or 3xx responses:"), after("Socket errors:")];
        let errors: Vec<String> = errors.into_iter().flatten().collect();
        Ok(Self {
            requests: after("Requests/sec:").ok_or_else(missing)?.parse()?,
            p50: after("50%").ok_or_else(missing)?,
            p99: after("99%").ok_or_else(missing)?,
            errors: if errors.is_empty() {
                "none".to_owned()
            } else {
                errors.join("; ")
            },
        })
    }
}
