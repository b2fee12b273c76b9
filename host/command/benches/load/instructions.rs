//! Where the instructions of a request through Envoy go: `./x envoy-instructions`. Unlike times, counts are the same in each
//! run, so they tell apart what the machine's other work hides: what our module takes, and what any module has to.

use super::{Envoy, Outcome, PATIENCE, Program, Way, configuration, get, platform};
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

/// How many requests are counted, after as many to warm up.
const REQUESTS: usize = 2_000;

/// Whose instructions are counted, and what the table calls it.
const COUNTED: [(Way, &str); 7] = [
    (Way::NoFilter, "no filter"),
    (Way::Empty, "a module in C whose hooks all return at once"),
    (Way::Idle, "our module, no rule"),
    (Way::Constant, "a constant as long as the token, added by the route"),
    (
        Way::Injector,
        "Envoy's credential injector, with a secret that is written into the configuration",
    ),
    (
        Way::Least,
        "a module in C that sets a constant as long, and nothing else",
    ),
    (Way::Module, "our module"),
];

pub(super) fn run() -> Outcome<()> {
    let (_platform, environment) = platform()?;
    let upstream = Program::start(Command::new(std::env::current_exe()?).arg("bare"))?;
    let address = upstream.listening()?;
    let token = super::token_length(&environment)?;
    let folder = std::env::temp_dir().join(format!("mi-instructions-{}", std::process::id()));
    super::modules(&folder, token)?;
    let mut counts = Vec::new();
    for (way, name) in COUNTED {
        println!("counting: {name}");
        counts.push((name, count(way, &folder, address, &environment, token)?));
    }
    let table = table(&counts);
    println!("\n{table}");
    let bench = super::bench_folder()?;
    fs::write(bench.join("envoy-instructions.md"), table)?;
    let _ = fs::remove_dir_all(folder);
    Ok(())
}

/// Instructions of Envoy's process for one request.
fn count(
    way: Way,
    modules: &Path,
    upstream: SocketAddr,
    environment: &[(String, String)],
    token: usize,
) -> Outcome<u64> {
    let folder = modules.join(format!("{way:?}"));
    fs::create_dir_all(&folder)?;
    let written = folder.join("counts");
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--quiet", "--tool=callgrind", "--instr-atstart=no"])
        .arg(format!("--callgrind-out-file={}", written.display()));
    let configuration = configuration(way, upstream, "", token);
    let envoy = Envoy::start(valgrind, modules, &folder, &configuration, environment, 10 * PATIENCE)?;
    let begun = std::time::Instant::now();
    while get(envoy.listening, "/").is_err() {
        if begun.elapsed() > PATIENCE {
            return Err("Envoy does not answer".into());
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let mut client = Client::connect(envoy.listening)?;
    // The first ones also translate the code, and make it part of what is counted.
    control(&envoy, "-i", "on")?;
    client.ask(REQUESTS, way.is_authorized())?;
    control(&envoy, "-z", "")?;
    client.ask(REQUESTS, way.is_authorized())?;
    control(&envoy, "-i", "off")?;
    envoy.terminate()?;
    let text = fs::read_to_string(&written)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals:"));
    let total: u64 = total.ok_or("callgrind has counted nothing")?.trim().parse()?;
    Ok(total / REQUESTS as u64)
}

fn control(envoy: &Envoy, option: &str, value: &str) -> Outcome<()> {
    let mut command = Command::new("callgrind_control");
    command.arg(match value {
        "" => option.to_owned(),
        value => format!("{option}={value}"),
    });
    let output = command
        .arg(envoy.child.id().to_string())
        .stdin(Stdio::null())
        .output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "callgrind_control {option}: {}",
            String::from_utf8_lossy(&output.stderr)
        )
        .into()),
    }
}

/// One connection that stays open.
struct Client(TcpStream);

impl Client {
    fn connect(address: SocketAddr) -> Outcome<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    fn ask(&mut self, requests: usize, is_authorized: bool) -> Outcome<()> {
        let said = match is_authorized {
            true => "x-authorized: yes",
            false => "x-authorized: no",
        };
        for _ in 0..requests {
            self.0.write_all(b"GET / HTTP/1.1\r\nHost: load\r\n\r\n")?;
            let reply = self.reply()?;
            if !reply.starts_with("HTTP/1.1 200 ") || !reply.contains(said) {
                return Err(format!("the upstream does not see what it should: {reply}").into());
            }
        }
        Ok(())
    }

    /// The head of a reply, when all of its body has come.
    fn reply(&mut self) -> Outcome<String> {
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let head = bytes.windows(4).position(|end| end == b"\r\n\r\n");
            if let Some(end) = head {
                let head = String::from_utf8(bytes.get(..end).unwrap_or_default().to_vec())?;
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if bytes.len() >= end + 4 + length.ok_or("a reply without length")?.parse::<usize>()? {
                    return Ok(head);
                }
            }
            match self.0.read(&mut buffer)? {
                0 => return Err("Envoy closes the connection".into()),
                length => bytes.extend_from_slice(buffer.get(..length).unwrap_or_default()),
            }
        }
    }
}

fn table(counts: &[(&str, u64)]) -> String {
    let mut text = "| | instructions | more than no filter |\n|---|--:|--:|\n".to_owned();
    let base = counts.first().map_or(0, |(_, count)| *count);
    for (name, count) in counts {
        let more = match *count == base {
            true => String::new(),
            false => format!("{:.1} %", (*count as f64 / base as f64 - 1.0) * 100.0),
        };
        // A String takes whatever is written.
        let _ = writeln!(text, "| {name} | {count} | {more} |");
    }
    text
}
