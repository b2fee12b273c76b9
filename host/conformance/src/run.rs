//! Playing a case against a client.

use crate::answer::{Answer, Description};
use crate::case::{Case, File, Request, Runner, Scenario, Scheme};
use crate::matching::{self, Clock};
use crate::placeholder::{CertificateValues, Values};
use crate::scratch::Scratch;
use crate::script::Script;
use crate::secrets::Secrets;
use crate::server::Server;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use std::future::Future;
use std::time::{Duration, Instant, SystemTime};
use std::{fs, io};

/// How long a step's last requests may take after its answer: a client may renew a token while it hands out the old one.
const AFTERMATH: Duration = Duration::from_secs(3);

/// Something that can be started in the setting of a case.
pub trait Client {
    /// Which of the runners of the format it is.
    const RUNNER: Runner;

    /// How long it may take for a request that does not say, in milliseconds.
    const TIMEOUT_MS: u32 = 10_000;

    /// Whether it plays the script itself, in memory and virtual time. Otherwise a server does, on loopback.
    const IN_MEMORY: bool = false;

    /// What is started.
    type Session: Session;

    /// Starts one instance.
    fn start(&self, setting: &Setting) -> impl Future<Output = Result<Self::Session, NotStarted>>;
}

/// One instance of a client, for one case.
pub trait Session {
    /// Puts files where the client finds them, in the place of what is there. Those of the case itself were there when it
    /// started.
    ///
    /// # Errors
    /// When the system does not let it.
    fn lay_out(&mut self, files: &[File]) -> io::Result<()>;

    /// Lets time pass while nobody asks. False when this client's clock cannot be moved.
    fn pass(&mut self, _time: Duration) -> bool {
        false
    }

    /// Asks for a token.
    fn ask(&mut self, request: &Request) -> impl Future<Output = Answer>;

    /// Asks where tokens come from. Nothing means that this client is never able to say.
    ///
    /// # Errors
    /// When it should be able to, and fails.
    fn describe(&mut self) -> impl Future<Output = Result<Option<Description>, String>> {
        async { Ok(None) }
    }

    /// Waits for what the client still does after an answer, as far as the script expects it.
    fn settle(&mut self, script: &Script) -> impl Future<Output = ()> {
        async {
            let _ = tokio::time::timeout(AFTERMATH, script.completed()).await;
        }
    }

    /// How much time has passed for the client since `began`, and how exactly it is known.
    fn clock(&self, began: u64) -> Clock {
        Clock::real_time(began, unix_time().saturating_sub(began))
    }

    /// Ends the instance.
    fn stop(self) -> impl Future<Output = Ended>;
}

/// What is left of an instance.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    /// What was wrong with its end.
    pub faults: Vec<String>,
    /// What it has shown besides its answers.
    pub shown: String,
}

/// Why a client did not start.
#[derive(Clone, Debug)]
pub enum NotStarted {
    /// The case cannot be played with this client, or on this machine.
    Unfit(String),
    /// It should have started.
    Failed(String),
}

/// Where a case is played.
#[derive(Debug)]
pub struct Setting {
    /// The case, with its placeholders replaced.
    pub scenario: Scenario,
    /// What the placeholders stand for.
    pub values: Values,
    /// What is expected and answered: for clients in memory to play, and for others to look at.
    pub script: Script,
    /// The directory of the case; in memory there is none. `${dir}` is in it.
    pub scratch: Option<Scratch>,
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The client did what the case says.
    Passed,
    /// It did not, in these ways.
    Failed(Vec<String>),
    /// The case was not played, for this reason.
    NotRun(String),
}

/// What came of a case.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The name of the case.
    pub name: String,
    /// What a right client does, and why.
    pub description: String,
    /// How it went.
    pub verdict: Verdict,
    /// How long it took.
    pub took: Duration,
}

/// Plays cases, so many at a time. `done` hears of each as it ends; the result has them in the order of the cases.
pub async fn replay_all<C: Client>(
    client: &C,
    cases: &[Case],
    jobs: usize,
    mut done: impl FnMut(&Outcome),
) -> Vec<Outcome> {
    let mut waiting = cases.iter().enumerate();
    let play = |(number, case)| async move { (number, replay(client, case).await) };
    let mut playing: FuturesUnordered<_> = waiting.by_ref().take(jobs.max(1)).map(play).collect();
    let mut outcomes = Vec::with_capacity(cases.len());
    while let Some((number, outcome)) = playing.next().await {
        done(&outcome);
        outcomes.push((number, outcome));
        playing.extend(waiting.next().map(play));
    }
    outcomes.sort_by_key(|(number, _)| *number);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Plays one case.
pub async fn replay<C: Client>(client: &C, case: &Case) -> Outcome {
    let started = Instant::now();
    let verdict = match case.not_in(C::RUNNER) {
        Some(reason) => Verdict::NotRun(reason.to_owned()),
        None => play(client, case).await,
    };
    Outcome {
        name: case.name().to_owned(),
        description: case.description().to_owned(),
        verdict,
        took: started.elapsed(),
    }
}

async fn play<C: Client>(client: &C, case: &Case) -> Verdict {
    let script = Script::default();
    let prepared = if C::IN_MEMORY {
        Ok((in_memory(case), None, None))
    } else {
        on_loopback(case, &script).await
    };
    // The server is kept until the case is over.
    let (values, scratch, _server) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Verdict::Failed(vec![format!("The scripted server cannot be set up: {error}")]),
    };
    let scenario = match case.expand(&values) {
        Ok(scenario) => scenario,
        Err(error) => return Verdict::Failed(vec![error.to_string()]),
    };
    let setting = Setting {
        scenario,
        values,
        script,
        scratch,
    };
    let mut session = match client.start(&setting).await {
        Ok(session) => session,
        Err(NotStarted::Unfit(reason)) => return Verdict::NotRun(reason),
        Err(NotStarted::Failed(reason)) => return Verdict::Failed(vec![reason]),
    };
    let secrets = Secrets::of(&setting.scenario);
    let mut faults = steps::<C>(&setting, &mut session, &secrets).await;
    if faults.is_empty() {
        faults.extend(source(&setting, &mut session, &secrets).await);
    }
    let was_right = faults.is_empty();
    let ended = session.stop().await;
    if was_right {
        faults.extend(ended.faults);
        faults.extend(setting.script.end());
    }
    faults.extend(secrets.shown("What the client printed", &ended.shown));
    if faults.is_empty() {
        Verdict::Passed
    } else {
        Verdict::Failed(faults)
    }
}

async fn steps<C: Client>(setting: &Setting, session: &mut C::Session, secrets: &Secrets) -> Vec<String> {
    let Setting {
        scenario,
        values,
        script,
        ..
    } = setting;
    let mut faults = Vec::new();
    for (number, step) in scenario.steps.iter().enumerate() {
        if let Err(error) = session.lay_out(&step.files) {
            return vec![format!("The files cannot be laid out: {error}")];
        }
        if step.later_s > 0 && !session.pass(Duration::from_secs(step.later_s)) {
            return vec!["Hours cannot be made to pass for this client; the case has to say so in `not_in`".to_owned()];
        }
        script.begin(step.exchanges.clone());
        let mut request = step.request.clone();
        request.timeout_ms.get_or_insert(C::TIMEOUT_MS);
        let answer = tokio::select! {
            biased;
            answer = session.ask(&request) => Some(answer),
            // Its answer to a reply that no platform would send is of no interest.
            () = script.failed() => None,
        };
        if answer.is_some() {
            tokio::select! {
                biased;
                () = script.failed() => {}
                () = session.settle(script) => {}
            }
        }
        let clock = session.clock(values.now);
        faults.extend(script.end());
        if let Some(answer) = answer {
            faults.extend(matching::answer(&step.expect, &answer, clock));
            if let Answer::Failure(failure) = &answer {
                faults.extend(secrets.shown("The error", &failure.shown));
            }
        }
        if !faults.is_empty() {
            if scenario.steps.len() > 1 {
                faults
                    .iter_mut()
                    .for_each(|fault| *fault = format!("Step {}: {fault}", number + 1));
            }
            break;
        }
    }
    faults
}

async fn source<S: Session>(setting: &Setting, session: &mut S, secrets: &Secrets) -> Vec<String> {
    let Some(expected) = &setting.scenario.source else {
        return Vec::new();
    };
    if setting.scenario.steps.is_empty() {
        setting.script.begin(Vec::new());
    }
    let description = match session.describe().await {
        Ok(Some(description)) => description,
        Ok(None) => return Vec::new(),
        Err(fault) => return vec![fault],
    };
    let mut faults = matching::description(expected, &description);
    faults.extend(secrets.shown("The description of the source", &description.reasons.join(" ")));
    faults
}

fn in_memory(case: &Case) -> Values {
    let scheme = match case.server() {
        Scheme::Http => "http://127.0.0.1",
        Scheme::Https => "https://localhost",
    };
    Values {
        endpoint: format!("{scheme}:41741"),
        closed: format!("{scheme}:41742"),
        now: 1_800_000_000,
        directory: "/case".to_owned(),
        certificate: (case.server() == Scheme::Https).then(|| CertificateValues {
            thumbprint: "5C12D1A5E0B3F7294E86AD03B91F6C7728D4EB5A".to_owned(),
            ca_file: "/authority.pem".to_owned(),
            ca_data: "-----BEGIN CERTIFICATE-----\nc2NyaXB0ZWQ=\n-----END CERTIFICATE-----\n".to_owned(),
        }),
    }
}

async fn on_loopback(case: &Case, script: &Script) -> io::Result<(Values, Option<Scratch>, Option<Server>)> {
    let scratch = Scratch::new()?;
    let server = Server::start(case.server(), script.clone()).await?;
    let certificate = match server.certificate() {
        None => None,
        Some(certificate) => {
            let ca_file = scratch.path().join("authority.pem");
            fs::write(&ca_file, certificate.authority_pem())?;
            Some(CertificateValues {
                thumbprint: certificate.thumbprint(),
                ca_file: ca_file.display().to_string(),
                ca_data: certificate.authority_pem().to_owned(),
            })
        }
    };
    let values = Values {
        endpoint: server.endpoint().to_owned(),
        closed: server.closed().to_owned(),
        now: unix_time(),
        directory: scratch.directory("directory")?.display().to_string(),
        certificate,
    };
    Ok((values, Some(scratch), Some(server)))
}

/// Seconds since 1970-01-01T00:00:00Z.
fn unix_time() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
