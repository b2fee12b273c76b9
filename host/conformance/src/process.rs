//! Any program as a client: requests on its standard input, answers on its standard output.
//!
//! The program is started once for each case, in exactly the environment of the case. For each line on its standard input,
//! one JSON object with a request, it prints one line with its answer; at the end of the input it ends. The README beside
//! the cases describes both lines.

use crate::answer::{Answer, abbreviated};
use crate::case::{File, Identity, Request, Runner, Scenario};
use crate::run::{Client, Ended, NotStarted, Session, Setting};
use crate::scratch::{lay_out, moved};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{env, io};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long after its time is over a client may take to say so.
const GRACE: Duration = Duration::from_secs(10);

/// How much of a client's standard error is kept, in bytes.
const LONGEST_STDERR: usize = 1024 * 1024;

/// How long a line of its answers may be, in bytes: a token has 64 KiB at most.
const LONGEST_LINE: u64 = 1024 * 1024;

/// The part of the file system that a case may want to itself.
const SHARED: &str = "/var/opt";

/// A program, known by the command line that starts it.
#[derive(Debug)]
pub struct Process {
    command: String,
    /// How a part of the file system is hidden from everybody else, or why that is impossible here.
    unshare: OnceCell<Result<&'static [&'static str], String>>,
}

impl Process {
    /// The program that `sh -c` starts by this command line.
    #[must_use]
    pub fn new(command: impl Into<String>) -> Self {
        Self {
            command: command.into(),
            unshare: OnceCell::new(),
        }
    }

    /// The command, without an environment, and with the files of the case where it will look for them.
    async fn command(&self, setting: &Setting, places: &Places) -> Result<Command, NotStarted> {
        let Scenario { files, steps, .. } = &setting.scenario;
        let all = || files.iter().chain(steps.iter().flat_map(|step| &step.files));
        if let Some(file) = all().find(|file| places.of(&file.path).is_none()) {
            return Err(NotStarted::Unfit(format!(
                "no program can be given the file {} of its own",
                file.path
            )));
        }
        let failed = |error: io::Error| NotStarted::Failed(format!("The files cannot be laid out: {error}"));
        places.lay_out(files).map_err(failed)?;
        if !all().any(|file| Path::new(&file.path).starts_with(SHARED)) {
            let mut command = Command::new("sh");
            command.args(["-c", &self.command]);
            return Ok(command);
        }
        std::fs::create_dir_all(&places.shared).map_err(failed)?;
        let arguments = match self.unshare.get_or_init(unshare).await {
            Ok(arguments) => arguments,
            Err(reason) => return Err(NotStarted::Unfit(reason.clone())),
        };
        let mut command = Command::new("unshare");
        command.args(*arguments);
        command.args(["sh", "-c", "mount --bind \"$1\" /var/opt && exec sh -c \"$2\"", "sh"]);
        command.arg(&places.shared).arg(&self.command);
        Ok(command)
    }
}

/// Where the files of a case really are.
#[derive(Debug)]
struct Places {
    /// The directory of the case, which is where the case says.
    own: String,
    /// What is at [`SHARED`] for the client.
    shared: PathBuf,
}

impl Places {
    fn of(&self, path: &str) -> Option<PathBuf> {
        let own = Path::new(path).starts_with(&self.own).then(|| PathBuf::from(path));
        own.or_else(|| moved(path, SHARED, &self.shared))
    }

    /// Links lead where the case says: the client sees the files where the case has them.
    fn lay_out(&self, files: &[File]) -> io::Result<()> {
        lay_out(files, |path| self.of(path), |target| PathBuf::from(target))
    }
}

/// Finds out how `unshare` of util-linux can be used here: it needs a right, or a kernel that gives it to everybody.
async fn unshare() -> Result<&'static [&'static str], String> {
    const WAYS: [&[&str]; 2] = [&["--mount"], &["--mount", "--map-root-user"]];
    let mut reason = String::new();
    for way in WAYS {
        let mut command = Command::new("unshare");
        command
            .args(way)
            .args(["mount", "--bind", "/", SHARED])
            .stdin(Stdio::null());
        match command.output().await {
            Ok(output) if output.status.success() => return Ok(way),
            Ok(output) => reason = String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => reason = error.to_string(),
        }
    }
    Err(format!(
        "a file below {SHARED} needs a mount namespace, which cannot be made here: {}",
        abbreviated(&reason)
    ))
}

impl Client for Process {
    const RUNNER: Runner = Runner::BlackBox;
    // Others start more slowly than ours.
    const TIMEOUT_MS: u32 = 20_000;
    type Session = Running;

    async fn start(&self, setting: &Setting) -> Result<Running, NotStarted> {
        let failed = |error: io::Error| NotStarted::Failed(format!("The client cannot be started: {error}"));
        if setting.scenario.arc_agent {
            return Err(NotStarted::Unfit(
                "no program can be made to believe that the agent of Azure Arc is installed".to_owned(),
            ));
        }
        if setting.scenario.steps.is_empty() {
            return Err(NotStarted::Unfit(
                "it asks for no token, and where tokens come from cannot be asked here".to_owned(),
            ));
        }
        let Some(scratch) = &setting.scratch else {
            return Err(NotStarted::Failed("A program cannot be played in memory".to_owned()));
        };
        let places = Places {
            own: setting.values.directory.clone(),
            shared: scratch.path().join("shared"),
        };
        let mut command = self.command(setting, &places).await?;
        command
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("HOME", scratch.directory("home").map_err(failed)?)
            .env("TMPDIR", scratch.directory("tmp").map_err(failed)?)
            .env("LANG", "C.UTF-8");
        if let Some(certificate) = &setting.values.certificate {
            for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"] {
                command.env(name, &certificate.ca_file);
            }
        }
        command
            .envs(&setting.scenario.environment)
            .current_dir(scratch.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // A group of its own, so that what the shell starts ends with it.
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn().map_err(failed)?;
        let (Some(input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(NotStarted::Failed("The client has no standard streams".to_owned()));
        };
        let shown = Arc::new(Mutex::new(Vec::new()));
        let reader = tokio::spawn(keep(errors, Arc::clone(&shown)));
        Ok(Running {
            child,
            places,
            input: Some(input),
            output: BufReader::new(output),
            shown,
            reader: Some(reader),
        })
    }
}

/// Keeps what comes, up to a limit, and reads the rest all the same: nobody should wait for us.
async fn keep(mut stream: tokio::process::ChildStderr, kept: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let room = LONGEST_STDERR.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..length.min(room)]);
    }
}

/// A program that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    places: Places,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    shown: Arc<Mutex<Vec<u8>>>,
    /// Reads standard error; nothing, once it has come to an end or was waited for long enough.
    reader: Option<JoinHandle<()>>,
}

impl Running {
    fn shown(&self) -> String {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&shown).into_owned()
    }

    /// The next line that is not empty; nothing at the end.
    async fn next_line(&mut self) -> io::Result<Option<String>> {
        loop {
            let mut line = Vec::new();
            let read = (&mut self.output)
                .take(LONGEST_LINE)
                .read_until(b'\n', &mut line)
                .await?;
            if read == 0 {
                return Ok(None);
            }
            if read as u64 == LONGEST_LINE {
                return Err(io::Error::other(format!(
                    "it prints a line of more than {LONGEST_LINE} bytes"
                )));
            }
            let line = String::from_utf8_lossy(&line);
            if !line.trim().is_empty() {
                return Ok(Some(line.trim_end().to_owned()));
            }
        }
    }

    fn kill(&mut self) {
        #[cfg(unix)]
        if let Some(group) = self
            .child
            .id()
            .and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()))
        {
            // It may have ended in this moment.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.start_kill();
    }

    /// Waits a little for the end of its standard error, which what it has left behind may hold open.
    async fn finish_reading(&mut self) {
        if let Some(reader) = self.reader.take() {
            let _ = timeout(Duration::from_secs(1), reader).await;
        }
    }

    /// What it said last, for a message.
    async fn last_words(&mut self) -> String {
        let status = timeout(Duration::from_secs(1), self.child.wait()).await;
        self.finish_reading().await;
        let status = match status {
            Ok(Ok(status)) => format!(" ({status})"),
            _ => String::new(),
        };
        let shown = self.shown();
        match shown.trim() {
            "" => format!("{status}."),
            shown => {
                let from = shown.char_indices().rev().nth(600).map_or(0, |(at, _)| at);
                format!("{status}. Its standard error ends:\n{}", &shown[from..])
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Session for Running {
    fn lay_out(&mut self, files: &[File]) -> io::Result<()> {
        self.places.lay_out(files)
    }

    async fn ask(&mut self, request: &Request) -> Answer {
        let limit = Duration::from_millis(request.timeout_ms.unwrap_or(Process::TIMEOUT_MS).into()) + GRACE;
        let line = format!("{}\n", request_line(request));
        let exchange = async {
            if let Some(input) = &mut self.input {
                // A program that is gone takes nothing; what it printed before says more than that.
                let _ = input.write_all(line.as_bytes()).await;
                let _ = input.flush().await;
            }
            self.next_line().await
        };
        match timeout(limit, exchange).await {
            Ok(Ok(Some(line))) => Answer::parse(&line),
            Ok(Ok(None)) => Answer::Broken(format!("The client ended without an answer{}", self.last_words().await)),
            Ok(Err(error)) => Answer::Broken(format!(
                "The client cannot be asked: {error}{}",
                self.last_words().await
            )),
            Err(_) => {
                self.kill();
                Answer::Broken(format!(
                    "The client did not answer within {limit:?}{}",
                    self.last_words().await
                ))
            }
        }
    }

    async fn stop(mut self) -> Ended {
        let mut faults = Vec::new();
        drop(self.input.take());
        let rest = async {
            let mut more = None;
            while let Ok(Some(line)) = self.next_line().await {
                more.get_or_insert(line);
            }
            (more, self.child.wait().await)
        };
        match timeout(GRACE, rest).await {
            Ok((more, status)) => {
                if let Some(line) = more {
                    faults.push(format!(
                        "The client printed more than it was asked for: {}",
                        abbreviated(&line)
                    ));
                }
                match status {
                    Ok(status) if status.success() => {}
                    Ok(status) => faults.push(format!("The client did not end well ({status})")),
                    Err(error) => faults.push(format!("The client's end is unknown: {error}")),
                }
            }
            Err(_) => {
                self.kill();
                faults.push(format!(
                    "The client did not end within {GRACE:?} after the end of its input"
                ));
            }
        }
        self.finish_reading().await;
        Ended {
            faults,
            shown: self.shown(),
        }
    }
}

/// A request as programs read it.
fn request_line(request: &Request) -> Value {
    let (kind, id) = match &request.identity {
        Identity::PlatformDefault => ("platform-default", None),
        Identity::SystemAssigned => ("system-assigned", None),
        Identity::ClientId(id) => ("client-id", Some(id)),
        Identity::ObjectId(id) => ("object-id", Some(id)),
        Identity::ResourceId(id) => ("resource-id", Some(id)),
    };
    let mut identity = json!({ "kind": kind });
    if let Some(id) = id {
        identity["id"] = json!(id);
    }
    let mut line = json!({ "audience": request.audience, "identity": identity, "timeout_ms": request.timeout_ms });
    for (name, value) in [("claims", &request.claims), ("rejected_token", &request.rejected_token)] {
        if let Some(value) = value {
            line[name] = json!(value);
        }
    }
    line
}
