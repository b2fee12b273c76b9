//! A running Envoy.

use crate::installed;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// When to give up waiting for what can only be asked for again and again.
const DEADLINE: Duration = Duration::from_secs(20);

/// How long between two questions.
const PAUSE: Duration = Duration::from_millis(20);

/// A folder with a short path, because those of sockets have to be; gone when dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mi-envoy-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// Puts a text into a file, and says where that is.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An example as it is, but for these texts of it, of which each has to be there.
pub(crate) fn configured(example: &str, replaced: &[(&str, &str)]) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/envoy");
    let mut text = fs::read_to_string(folder.join(example)).unwrap();
    for (from, to) in replaced {
        assert!(text.contains(from), "{example} has no {from:?}");
        text = text.replace(from, to);
    }
    text
}

/// An Envoy that listens. It is killed when dropped.
pub(crate) struct Envoy {
    child: Child,
    admin: SocketAddr,
    log: PathBuf,
}

impl Envoy {
    /// Returns when it says that it is ready.
    pub(crate) fn start(folder: &Folder, yaml: &str, environment: &[(String, String)]) -> Self {
        // What an old configuration has to end in.
        Self::start_with(folder, yaml, environment, &["--drain-time-s", "1"])
    }

    pub(crate) fn start_with(
        folder: &Folder,
        yaml: &str,
        environment: &[(String, String)],
        arguments: &[&str],
    ) -> Self {
        let log = PathBuf::from(folder.path("envoy.log"));
        let admin = folder.path("admin");
        // Envoy takes no argument twice.
        let workers: &[&str] = match arguments.contains(&"--concurrency") {
            true => &[],
            false => &["--concurrency", "2"],
        };
        let child = Command::new(installed::envoy())
            .args(["--config-path", &folder.write("envoy.yaml", yaml)])
            .args(["--admin-address-path", &admin])
            .args(["--disable-hot-restart", "--log-level", "warning"])
            .args(arguments)
            .args(workers)
            .envs(environment.iter().cloned())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut envoy = Self {
            child,
            admin: SocketAddr::from(([127, 0, 0, 1], 0)),
            log,
        };
        envoy.admin = envoy.wait_for("it tells where its administration is", |_| {
            fs::read_to_string(&admin).ok()?.trim().parse().ok()
        });
        envoy.wait_for("it is ready", |envoy| {
            let (status, _) = request(envoy.admin, "/ready", &[])?;
            (status == 200).then_some(())
        });
        envoy
    }

    /// Where a listener listens.
    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        self.wait_for("it listens", |envoy| {
            let (_, reply) = request(envoy.admin, "/listeners", &[])?;
            let line = format!("{listener}::");
            reply
                .lines()
                .find_map(|found| found.strip_prefix(&line)?.trim().parse().ok())
        })
    }

    /// What it counts by this name. What has never happened is not always counted.
    pub(crate) fn counted(&self, name: &str) -> u64 {
        let (status, reply) = request(self.admin, "/stats", &[]).unwrap();
        assert_eq!(status, 200);
        let line = format!("{name}: ");
        let number = reply.lines().find_map(|found| found.strip_prefix(&line));
        number.map_or(0, |number| number.trim().parse().unwrap())
    }

    /// Asks again and again for what is there at last.
    pub(crate) fn wait_for<T>(&self, what: &str, ask: impl Fn(&Self) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(answer) = ask(self) {
                return answer;
            }
            assert!(begun.elapsed() < DEADLINE, "Envoy: not {what}: {}", self.log());
            std::thread::sleep(PAUSE);
        }
    }

    /// Tells its administration to do something.
    pub(crate) fn tell(&self, target: &str) {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        write!(
            stream,
            "POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        assert!(reply.starts_with("HTTP/1.1 200 "), "{target}: {reply}");
    }

    /// The value of a counter or gauge, once it is there.
    pub(crate) fn stat(&self, name: &str) -> Option<u64> {
        let (_, reply) = request(self.admin, "/stats", &[])?;
        let line = format!("{name}: ");
        reply
            .lines()
            .find_map(|found| found.strip_prefix(&line)?.trim().parse().ok())
    }

    /// Resident memory, in KiB.
    pub(crate) fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        let killed = Command::new("kill").args(["-s", "TERM", &id]).status().unwrap();
        assert!(killed.success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What Envoy says of a configuration that it refuses.
pub(crate) fn refusal(folder: &Folder, yaml: &str, environment: &[(String, String)]) -> String {
    let output = Command::new(installed::envoy())
        .args([
            "--mode",
            "validate",
            "--config-path",
            &folder.write("refused.yaml", yaml),
        ])
        .envs(environment.iter().cloned())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "it is taken: {said}");
    said
}

/// The status and the whole reply, unless nobody answers.
pub(crate) fn request(address: SocketAddr, target: &str, fields: &[&str]) -> Option<(u16, String)> {
    request_of(address, "localhost", target, fields)
}

/// The same of another host.
pub(crate) fn request_of(address: SocketAddr, host: &str, target: &str, fields: &[&str]) -> Option<(u16, String)> {
    let stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    exchange(stream, host, target, fields)
}

/// The same over a connection that is there.
pub(crate) fn exchange(
    mut stream: impl Read + Write,
    host: &str,
    target: &str,
    fields: &[&str],
) -> Option<(u16, String)> {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    // In one piece: the second of two would wait for the other side's word on the first.
    let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut reply = Vec::new();
    // Envoy leaves a connection open for a second after a reply of its own, though it has announced its end.
    while !is_whole(&reply) {
        let mut piece = [0; 16 * 1024];
        match stream.read(&mut piece).ok()? {
            0 => break,
            length => reply.extend_from_slice(&piece[..length]),
        }
    }
    let reply = String::from_utf8(reply).ok()?.to_ascii_lowercase();
    let status = reply.split(' ').nth(1)?.parse().ok()?;
    Some((status, reply))
}

/// Whether a reply of known length is there.
fn is_whole(reply: &[u8]) -> bool {
    const END: &[u8] = b"\r\n\r\n";
    let Some(head) = reply.windows(END.len()).position(|window| window == END) else {
        return false;
    };
    let fields = String::from_utf8_lossy(&reply[..head]).to_ascii_lowercase();
    let length = fields.lines().find_map(|line| line.strip_prefix("content-length: "));
    length.is_some_and(|length| reply.len() >= head + END.len() + length.parse::<usize>().unwrap())
}
