//! What the load tests share: programs to be measured, and wrk, which makes the load.
#![allow(dead_code, reason = "each benchmark takes the parts that it needs")]

use http::{HeaderValue, Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::error::Error;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

/// What the bare server answers: about what a token reply has.
const BARE_REPLY: usize = 1_600;
/// How many connections wrk keeps open.
pub(crate) const CONNECTIONS: u32 = 64;

/// The server that is measured beside ours: it reads a request and answers the same to all.
pub(crate) fn bare() -> Outcome<()> {
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
                let answer = service_fn(|request: Request<Incoming>| {
                    let mut response = Response::new(Full::new(reply.clone()));
                    let is_authorized = request.headers().contains_key(header::AUTHORIZATION);
                    let said = HeaderValue::from_static(if is_authorized { "yes" } else { "no" });
                    response.headers_mut().insert("x-authorized", said);
                    async move { Ok::<_, Infallible>(response) }
                });
                let http = hyper::server::conn::http1::Builder::new();
                // The load ends whenever it likes.
                let _ = http.serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    })
}

/// A program that says where it listens on its first line. It is killed when dropped.
pub(crate) struct Program {
    child: Child,
    pub(crate) line: serde_json::Value,
}

impl Program {
    pub(crate) fn start(command: &mut Command) -> Outcome<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let line = serde_json::from_str(&line)?;
        Ok(Self { child, line })
    }

    pub(crate) fn listening(&self) -> Outcome<SocketAddr> {
        Ok(self.line["listening"]
            .as_str()
            .ok_or("it does not say where it listens")?
            .parse()?)
    }

    /// Resident memory, in KiB, and open file descriptors.
    pub(crate) fn size(&self) -> Outcome<(u64, usize)> {
        size_of(self.child.id())
    }
}

/// Resident memory of a process, in KiB, and its open file descriptors.
pub(crate) fn size_of(id: u32) -> Outcome<(u64, usize)> {
    let process = PathBuf::from(format!("/proc/{id}"));
    let status = std::fs::read_to_string(process.join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = line.and_then(|line| line.split_whitespace().next()).ok_or("no VmRSS")?;
    Ok((resident.parse()?, std::fs::read_dir(process.join("fd"))?.count()))
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn managed_identity(arguments: &[&str]) -> Outcome<Command> {
    let mut command = Command::new(beside("managed-identity")?);
    command.args(arguments);
    Ok(command)
}

/// A program that was built together with this one.
pub(crate) fn beside(name: &str) -> Outcome<PathBuf> {
    let program = built()?.join(name);
    match program.exists() {
        true => Ok(program),
        false => Err(format!("{} is missing, which `./x` builds", program.display()).into()),
    }
}

/// Cargo's target folder.
pub(crate) fn target() -> Outcome<PathBuf> {
    let built = built()?;
    Ok(built.parent().ok_or("no target folder")?.to_owned())
}

/// Where our programs keep compiled code from one start to the next.
pub(crate) fn kept() -> Outcome<PathBuf> {
    Ok(target()?.join("tmp/kept"))
}

/// The folder of the programs of this profile. Benchmarks are in one below it.
fn built() -> Outcome<PathBuf> {
    let ours = std::env::current_exe()?;
    let folder = ours.parent().ok_or("no folder of programs")?;
    Ok(match folder.ends_with("deps") {
        true => folder.with_file_name(""),
        false => folder.to_owned(),
    })
}

/// What the benchmark was called with, without what cargo adds.
pub(crate) fn arguments() -> Vec<String> {
    let arguments = std::env::args().skip(1);
    arguments.filter(|argument| argument != "--bench").collect()
}

/// An emulated App Service, and the environment of programs that run on it.
pub(crate) fn platform() -> Outcome<(Program, Vec<(String, String)>)> {
    let arguments = ["emulate", "--source", "app-service", "--output", "json"];
    let emulator = Program::start(&mut managed_identity(&arguments)?)?;
    let environment = emulator.line["environment"].as_object().ok_or("no environment")?;
    let text = |(name, value): (&String, &serde_json::Value)| Some((name.clone(), value.as_str()?.to_owned()));
    let environment = environment.iter().filter_map(text).collect();
    Ok((emulator, environment))
}

/// `managed-identity serve` with a token at hand, for whoever knows its secret.
pub(crate) struct Served {
    pub(crate) program: Program,
    pub(crate) address: SocketAddr,
    _platform: Program,
}

impl Served {
    const AUDIENCE: &str = "https://vault.azure.net";
    pub(crate) const TARGET: &str = "/msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fvault.azure.net";
    /// Its secret is only for this run, on a port that nobody else knows.
    pub(crate) const FIELD: &str = "X-IDENTITY-HEADER: a-secret-that-is-no-secret-0123456789";

    pub(crate) fn start() -> Outcome<Self> {
        let (platform, environment) = platform()?;
        let folder = target()?.join("tmp");
        std::fs::create_dir_all(&folder)?;
        let secret = folder.join("load-secret");
        let (_, value) = Self::FIELD.split_once(": ").ok_or("no secret")?;
        std::fs::write(&secret, value)?;
        let secret = secret.to_string_lossy().into_owned();
        let mut serve = managed_identity(&["serve", "--app-service", "127.0.0.1:0", "--allow", Self::AUDIENCE])?;
        serve.args(["--header-secret-file", &secret]);
        serve.envs(environment);
        let program = Program::start(&mut serve)?;
        let served = Self {
            address: program.listening()?,
            program,
            _platform: platform,
        };
        served.ask()?;
        Ok(served)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}{}", self.address, Self::TARGET)
    }

    /// One request, which has to be answered with a token.
    pub(crate) fn ask(&self) -> Outcome<()> {
        let mut stream = TcpStream::connect(self.address)?;
        write!(
            stream,
            "GET {} HTTP/1.1\r\nHost: {}\r\n{}\r\nConnection: close\r\n\r\n",
            Self::TARGET,
            self.address,
            Self::FIELD
        )?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        match reply.starts_with("HTTP/1.1 200 ") && reply.contains("\"access_token\"") {
            true => Ok(()),
            false => Err(format!("no token: {reply}").into()),
        }
    }
}

/// What wrk measured.
pub(crate) struct Load {
    /// Requests per second.
    pub(crate) requests: f64,
    pub(crate) p50: String,
    pub(crate) p99: String,
    pub(crate) errors: String,
}

impl Load {
    pub(crate) fn run(url: &str, fields: &[&str], seconds: u64) -> Outcome<Self> {
        let output = Command::new("wrk")
            .args(["--threads", "1", "--latency", "--connections", &CONNECTIONS.to_string()])
            .args(["--duration", &format!("{seconds}s")])
            .args(fields.iter().flat_map(|field| ["--header", field]))
            .arg(url)
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
