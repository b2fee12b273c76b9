//! The audit trail as JSON lines: one object for each event of [`managed_identity_host::audit`].

use anyhow::Context as _;
use managed_identity_host::audit::TARGET;
use serde_json::{Map, Value};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// The audit trail of this process, in a file, or on standard error where its destination is `-`. Clones are the same trail.
#[derive(Clone)]
pub(crate) struct Trail {
    destination: Arc<Path>,
    writer: Arc<Mutex<Writer>>,
}

impl Trail {
    /// The file is made if need be, for its owner alone to read, and what is in it stays. Each event is one write, so that
    /// several processes may share a file, and nothing is lost when this one is killed.
    pub(crate) fn open(destination: &Path) -> anyhow::Result<Self> {
        let writer = Writer {
            output: Output::open(destination)?,
            is_broken: false,
        };
        Ok(Self {
            destination: destination.into(),
            writer: Arc::new(Mutex::new(writer)),
        })
    }

    /// Opens the file again, in case that it was moved away to be kept. What it was goes on when that fails.
    pub(crate) fn reopen(&self) -> anyhow::Result<()> {
        let output = Output::open(&self.destination)?;
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).output = output;
        Ok(())
    }

    /// What writes it.
    pub(crate) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let lines = Lines(Arc::clone(&self.writer));
        lines.with_filter(filter_fn(|metadata| metadata.target() == TARGET))
    }
}

enum Output {
    File(File),
    StandardError,
}

impl Output {
    fn open(destination: &Path) -> anyhow::Result<Self> {
        if destination == Path::new("-") {
            return Ok(Self::StandardError);
        }
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options
            .open(destination)
            .with_context(|| format!("The audit file {} cannot be opened", destination.display()))?;
        Ok(Self::File(file))
    }
}

struct Writer {
    output: Output,
    /// The latest line could not be written.
    is_broken: bool,
}

struct Lines(Arc<Mutex<Writer>>);

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let mut fields = Fields(Map::from_iter([("time".to_owned(), Value::String(time))]));
        event.record(&mut fields);
        let mut line = Value::Object(fields.0).to_string();
        line.push('\n');
        let mut writer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        writer.write(&line);
    }
}

impl Writer {
    fn write(&mut self, line: &str) {
        let result = match &mut self.output {
            Output::File(file) => file.write_all(line.as_bytes()),
            Output::StandardError => io::stderr().lock().write_all(line.as_bytes()),
        };
        match result {
            Ok(()) => self.is_broken = false,
            Err(error) => {
                if !self.is_broken {
                    // There is nowhere left to report that standard error is closed.
                    let _ = writeln!(io::stderr().lock(), "error: the audit trail cannot be written: {error}");
                }
                self.is_broken = true;
            }
        }
    }
}

/// The fields of an event, in the order in which it has them.
struct Fields(Map<String, Value>);

impl Fields {
    fn insert(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.insert(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

    use super::*;
    use managed_identity_host::grants::{Caller, Gate, Policy};
    use managed_identity_host::{Broker, TokenRequest};
    use std::path::PathBuf;
    use tracing_subscriber::layer::SubscriberExt as _;

    /// A directory of this test's own, which goes with it.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("managed-identity-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[tokio::test]
    async fn each_audit_event_is_appended_as_one_line_of_json() {
        let scratch = Scratch::new("audit");
        let file = scratch.0.join("audit.jsonl");
        let broker = Broker::builder()
            .environment([("", ""); 0])
            .compilation_cache(None)
            .build()
            .unwrap();
        let before = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        for caller in ["report", "quote\"\nline"] {
            let subscriber = tracing_subscriber::registry().with(Trail::open(&file).unwrap().layer());
            let _listening = tracing::subscriber::set_default(subscriber);
            tracing::info!(target: "another", "is not written");
            let granted = Gate::new(broker.clone(), Policy::default()).caller(Caller::new(caller));
            granted
                .token(&TokenRequest::new("https://a.example"))
                .await
                .unwrap_err();
        }
        tracing::info!(target: TARGET, stale = true, expires_on = 7_u64, fingerprint = "01234567", "nobody listens");
        let text = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        for (line, caller) in lines.iter().zip(["report", "quote\"\nline"]) {
            let mut line = line.as_object().unwrap().clone();
            let time = line.remove("time").unwrap();
            let time = time.as_str().unwrap();
            assert!(time.ends_with('Z') && *time >= *before, "{before} {time}");
            assert_eq!(
                Value::Object(line),
                serde_json::json!({
                    "caller": caller,
                    "kind": "token",
                    "decision": "denied",
                    "audience": "https://a.example",
                    "identity": "platform-default",
                    "cause": "denied",
                })
            );
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn numbers_and_truths_stay_what_they_are() {
        let scratch = Scratch::new("audit-fields");
        let file = scratch.0.join("audit.jsonl");
        let subscriber = tracing_subscriber::registry().with(Trail::open(&file).unwrap().layer());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: TARGET, stale = true, expires_on = 7_u64, caller = "a", cause = None::<&str>);
        });
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(
            text.ends_with("\"stale\":true,\"expires_on\":7,\"caller\":\"a\"}\n"),
            "{text}"
        );
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let scratch = Scratch::new("audit-directory");
        let Err(error) = Trail::open(&scratch.0) else {
            panic!("a directory is no file");
        };
        let message = format!("{error:#}");
        assert!(message.contains(&scratch.0.display().to_string()), "{message}");
    }

    #[test]
    fn a_file_that_was_moved_away_is_followed_by_another_when_it_is_opened_again() {
        let scratch = Scratch::new("audit-rotated");
        let (file, kept) = (scratch.0.join("audit.jsonl"), scratch.0.join("audit.jsonl.1"));
        let trail = Trail::open(&file).unwrap();
        let subscriber = tracing_subscriber::registry().with(trail.layer());
        tracing::subscriber::with_default(subscriber, || {
            let tell = |caller| tracing::info!(target: TARGET, caller);
            tell("first");
            std::fs::rename(&file, &kept).unwrap();
            tell("second");
            trail.reopen().unwrap();
            tell("third");
        });
        let callers = |file| {
            let text = std::fs::read_to_string(file).unwrap();
            let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            lines
                .map(|line| line["caller"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(callers(&kept), ["first", "second"]);
        assert_eq!(callers(&file), ["third"]);
    }
}
