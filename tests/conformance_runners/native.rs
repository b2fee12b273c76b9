//! The engine alone, in memory: the script answers, and the clock moves only when everything waits for it.

use futures_util::future::LocalBoxFuture;
use managed_identity_conformance::answer::{Answer, Description, FailureAnswer, TokenAnswer};
use managed_identity_conformance::case::{self, Action, Fault, File, Node, Request, Runner, Scheme};
use managed_identity_conformance::matching::Clock;
use managed_identity_conformance::placeholder::Values;
use managed_identity_conformance::run::{Client, Ended, NotStarted, Session, Setting};
use managed_identity_conformance::script::Script;
use managed_identity_conformance::wire::Arrived;
use managed_identity_provider::engine::Engine;
use managed_identity_provider::environment::Environment;
use managed_identity_provider::error::Error;
use managed_identity_provider::platform::{
    CredentialFile, FileFault, HttpReply, HttpRequest, Method, Platform, TransportFault,
};
use managed_identity_provider::request::{Identity, TokenRequest};
use managed_identity_provider::source::{self, AuthorityCertificate, Needs, Trust};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use zeroize::Zeroizing;

/// The engine, on a platform where spawned work goes on between calls or does not.
pub(crate) struct Native<const BACKGROUND: bool>;

impl<const BACKGROUND: bool> Client for Native<BACKGROUND> {
    const RUNNER: Runner = Runner::Native;
    const IN_MEMORY: bool = true;
    type Session = Instance<BACKGROUND>;

    async fn start(&self, setting: &Setting) -> Result<Self::Session, NotStarted> {
        let world = World(Rc::new(State::new(setting)));
        let engine = Engine::new(world.clone());
        Ok(Instance { engine, world })
    }
}

pub(crate) struct Instance<const BACKGROUND: bool> {
    engine: Engine<World<BACKGROUND>>,
    world: World<BACKGROUND>,
}

impl<const BACKGROUND: bool> Session for Instance<BACKGROUND> {
    fn lay_out(&mut self, files: &[File]) -> io::Result<()> {
        self.world
            .0
            .files
            .borrow_mut()
            .extend(files.iter().map(|file| (file.path.clone(), file.node())));
        Ok(())
    }

    fn pass(&mut self, time: Duration) -> bool {
        let elapsed = &self.world.0.elapsed;
        elapsed.set(elapsed.get() + time);
        true
    }

    async fn ask(&mut self, request: &Request) -> Answer {
        let identity = match request.identity.clone() {
            case::Identity::PlatformDefault => Identity::PlatformDefault,
            case::Identity::SystemAssigned => Identity::SystemAssigned,
            case::Identity::ClientId(id) => Identity::ClientId(id),
            case::Identity::ObjectId(id) => Identity::ObjectId(id),
            case::Identity::ResourceId(id) => Identity::ResourceId(id),
        };
        let checked = TokenRequest::checked(
            &request.audience,
            identity,
            request.claims.as_deref(),
            request.rejected_token.clone(),
            request.timeout_ms,
        );
        match checked.and_then(|request| self.world.run(self.engine.get_token(request))) {
            Ok(issued) => Answer::Token(TokenAnswer {
                access_token: issued.token.secret.expose().to_owned(),
                expires_on: Some(issued.token.expires_on),
                refresh_on: Some(issued.token.refresh_on),
                client_id: Some(issued.token.client_id.clone()),
                source: Some(issued.token.source.to_owned()),
                stale: Some(issued.stale),
            }),
            Err(error) => Answer::Failure(failure(&error)),
        }
    }

    async fn describe(&mut self) -> Result<Option<Description>, String> {
        let description = self.engine.describe_source();
        Ok(Some(Description {
            source: description.source,
            endpoint: description.endpoint,
            reasons: description.reasons,
        }))
    }

    async fn settle(&mut self, script: &Script) {
        // Where nothing moves between calls, there is nothing to wait for.
        if BACKGROUND {
            self.world.run(poll_fn(|_| {
                match script.is_complete() || self.world.0.spawned.borrow().is_empty() {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            }));
        }
    }

    fn clock(&self, began: u64) -> Clock {
        Clock::virtual_time(began, self.world.0.elapsed.get().as_secs())
    }

    async fn stop(self) -> Ended {
        Ended::default()
    }
}

/// A failure as a client reports it, with all that is shown of it anywhere.
pub(crate) fn failure(error: &Error) -> FailureAnswer {
    FailureAnswer {
        cause: Some(error.cause.name().to_owned()),
        message: error.message.clone(),
        http_status: Some(error.http_status),
        retry_after_ms: Some(error.retry_after_ms.map(u64::from)),
        correlation_id: Some(error.correlation_id.clone()),
        shown: format!("{error} {error:?}"),
    }
}

/// Cheap to clone; all clones are one world.
struct World<const BACKGROUND: bool>(Rc<State>);

impl<const BACKGROUND: bool> Clone for World<BACKGROUND> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

struct State {
    environment: Vec<(String, String)>,
    https: bool,
    values: Values,
    /// What the selected source says that it needs. It gets that and no more.
    needs: Option<Needs>,
    files: RefCell<BTreeMap<String, Node>>,
    script: Script,
    elapsed: Cell<Duration>,
    timers: RefCell<Vec<Duration>>,
    spawned: RefCell<Vec<LocalBoxFuture<'static, ()>>>,
    random: Cell<u64>,
}

impl State {
    fn new(setting: &Setting) -> Self {
        let scenario = &setting.scenario;
        let environment: Vec<_> = scenario.environment.clone().into_iter().collect();
        let selected = source::select(&Environment::new(environment.clone()).with_arc_agent(scenario.arc_agent));
        Self {
            environment,
            https: scenario.server == Scheme::Https,
            values: setting.values.clone(),
            needs: selected.source.ok().map(|source| source.needs()),
            files: RefCell::new(
                scenario
                    .files
                    .iter()
                    .map(|file| (file.path.clone(), file.node()))
                    .collect(),
            ),
            script: setting.script.clone(),
            elapsed: Cell::default(),
            timers: RefCell::default(),
            spawned: RefCell::default(),
            random: Cell::new(1),
        }
    }

    /// Whether a connection comes about, and the request may be sent over it.
    fn connect(&self, request: &HttpRequest) -> Result<(), TransportFault> {
        let closed = self.values.closed.split("://").nth(1).unwrap_or_default();
        let host = request
            .authority
            .rsplit_once(':')
            .map_or(request.authority.as_str(), |(host, _)| host);
        if request.authority == closed {
            return Err(TransportFault::NotConnected);
        }
        // A name that never exists (RFC 6761).
        if host.ends_with(".invalid") {
            return Err(TransportFault::NameNotFound);
        }
        if request.authority != self.values.host() || request.https != self.https {
            let scheme = if request.https { "https" } else { "http" };
            self.script.refuse(format!(
                "The engine asks {scheme}://{}, which is not the endpoint",
                request.authority
            ));
            return Err(TransportFault::Denied);
        }
        let scheme = self.values.endpoint.split("://").next().unwrap_or_default();
        let path = request.path_with_query.split('?').next().unwrap_or_default();
        let url = format!("{scheme}://{}{path}", request.authority);
        let needs = self
            .needs
            .as_ref()
            .filter(|needs| needs.url == url && needs.method == request.method);
        match needs.map(|needs| self.trusts(&needs.trust)) {
            Some(true) => Ok(()),
            Some(false) => Err(TransportFault::Certificate),
            None => {
                let asked = self.needs.as_ref().map(|needs| (&needs.url, needs.method));
                self.script.refuse(format!(
                    "The engine sends {:?} {url} and says that it needs {asked:?}",
                    request.method
                ));
                Err(TransportFault::Denied)
            }
        }
    }

    /// Whether the scripted server is the right one, as far as that can be told without TLS.
    fn trusts(&self, trust: &Trust) -> bool {
        let Some(server) = &self.values.certificate else {
            return *trust == Trust::Address;
        };
        let is_its_authority = |pem: &str| pem.contains(server.ca_data.trim());
        match trust {
            Trust::Address => false,
            Trust::SystemRoots => true,
            Trust::Thumbprint(digest) => {
                let digest: String = digest.iter().map(|byte| format!("{byte:02X}")).collect();
                digest == server.thumbprint
            }
            Trust::Authority {
                certificate,
                server_name,
            } => {
                let is_named = server_name
                    .as_deref()
                    .is_none_or(|name| ["localhost", "127.0.0.1"].contains(&name));
                is_named
                    && match certificate {
                        AuthorityCertificate::System => true,
                        AuthorityCertificate::Data(pem) => is_its_authority(pem),
                        AuthorityCertificate::File(path) if *path == server.ca_file => true,
                        AuthorityCertificate::File(path) => match self.files.borrow().get(path) {
                            Some(Node::Text(pem)) => is_its_authority(pem),
                            _ => false,
                        },
                    }
            }
        }
    }

    /// Reads as the hosts' preopened directories do: links count only where they may, and never lead out.
    fn read(&self, file: &CredentialFile) -> Result<Vec<u8>, FileFault> {
        if self.needs.as_ref().and_then(|needs| needs.directory.as_deref()) != Some(file.directory.as_str()) {
            return Err(FileFault::NotGranted);
        }
        let files = self.files.borrow();
        let separator = if file.directory.contains('\\') { '\\' } else { '/' };
        let absolute = |path: &[String]| format!("{}{separator}{}", file.directory, path.join(&separator.to_string()));
        let mut waiting = vec![file.name.clone()];
        let mut path: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(component) = waiting.pop() {
            match component.as_str() {
                "" | "." => continue,
                ".." => match path.pop() {
                    Some(_) => continue,
                    None => return Err(FileFault::Link),
                },
                _ => path.push(component),
            }
            if let Some(Node::Link(target)) = files.get(&absolute(&path)) {
                links += 1;
                if !file.may_be_link || target.starts_with(separator) || links > 16 {
                    return Err(FileFault::Link);
                }
                path.pop();
                waiting.extend(target.rsplit(separator).map(str::to_owned));
            }
        }
        match files.get(&absolute(&path)) {
            Some(Node::Text(text)) if text.len() > file.limit => Err(FileFault::TooLarge),
            Some(Node::Text(text)) => Ok(text.clone().into_bytes()),
            Some(_) => Err(FileFault::NotAFile),
            None if files
                .keys()
                .any(|known| known.starts_with(&format!("{}{separator}", absolute(&path)))) =>
            {
                Err(FileFault::NotAFile)
            }
            None => Err(FileFault::NotFound),
        }
    }
}

impl<const BACKGROUND: bool> World<BACKGROUND> {
    /// Runs `work` to its end, moving the clock to the next timer whenever everything waits.
    fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let woken = Arc::new(Woken(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        let mut work = pin!(work);
        loop {
            self.0.timers.borrow_mut().clear();
            woken.0.store(false, Ordering::Relaxed);
            let (mut before, mut changed) = (self.poll_spawned(&mut context), false);
            if let Poll::Ready(result) = work.as_mut().poll(&mut context) {
                return result;
            }
            // What `work` has spawned has timers of its own.
            while self.0.spawned.borrow().len() > before {
                before = self.poll_spawned(&mut context);
                changed = true;
            }
            if changed || woken.0.load(Ordering::Relaxed) {
                continue;
            }
            let next = self.0.timers.borrow().iter().min().copied();
            self.0.elapsed.set(next.expect("something waits for a timer"));
        }
    }

    /// Polls all that was spawned; says how much of it goes on.
    fn poll_spawned(&self, context: &mut Context<'_>) -> usize {
        let mut running = self.0.spawned.take();
        running.retain_mut(|task| task.as_mut().poll(context).is_pending());
        let goes_on = running.len();
        self.0.spawned.borrow_mut().extend(running);
        goes_on
    }
}

impl<const BACKGROUND: bool> Platform for World<BACKGROUND> {
    const BACKGROUND: bool = BACKGROUND;

    async fn send(&self, request: HttpRequest, limit: usize) -> Result<HttpReply, TransportFault> {
        self.0.connect(&request)?;
        let method = match request.method {
            Method::Get => "GET",
            Method::Post => "POST",
        };
        let headers = request
            .headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.expose().to_owned()));
        let body = request
            .body
            .as_ref()
            .map(|body| body.expose().as_bytes().to_vec())
            .unwrap_or_default();
        let arrived = Arrived::new(method, &request.path_with_query, headers.collect(), body);
        let reply = match self.0.script.arrived(&arrived, self.monotonic()) {
            None => {
                return Ok(HttpReply {
                    status: 500,
                    ..HttpReply::default()
                });
            }
            Some(Action::Reply(reply)) => reply,
            Some(Action::Fault(Fault::Silence)) => std::future::pending().await,
            Some(Action::Fault(Fault::NotHttp)) => return Err(TransportFault::NotHttp),
            Some(Action::Fault(Fault::Reset | Fault::Close | Fault::CutShort)) => {
                return Err(TransportFault::BrokenOff);
            }
        };
        self.sleep(Duration::from_millis(reply.delay_ms)).await;
        let body = reply.body();
        if body.len() > limit {
            return Err(TransportFault::TooLarge);
        }
        let headers = reply
            .headers()
            .into_iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .collect();
        Ok(HttpReply {
            status: reply.status(),
            headers,
            body: Zeroizing::new(body),
        })
    }

    async fn read_file(&self, file: &CredentialFile) -> Result<Zeroizing<Vec<u8>>, FileFault> {
        self.0.read(file).map(Zeroizing::new)
    }

    fn directories(&self) -> Vec<String> {
        self.0
            .needs
            .iter()
            .filter_map(|needs| needs.directory.clone())
            .collect()
    }

    async fn sleep(&self, duration: Duration) {
        let deadline = self.monotonic() + duration;
        poll_fn(|_| {
            if self.monotonic() >= deadline {
                return Poll::Ready(());
            }
            self.0.timers.borrow_mut().push(deadline);
            Poll::Pending
        })
        .await;
    }

    fn unix_time(&self) -> u64 {
        self.0.values.now + self.monotonic().as_secs()
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed.get()
    }

    /// A generator by Marsaglia ("Xorshift RNGs", 2003), so that a failure repeats.
    fn random(&self) -> u64 {
        let mut random = self.0.random.get();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        self.0.random.set(random);
        random
    }

    fn environment(&self) -> Vec<(String, String)> {
        self.0.environment.clone()
    }

    fn spawn(&self, work: LocalBoxFuture<'static, ()>) {
        self.0.spawned.borrow_mut().push(work);
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}
