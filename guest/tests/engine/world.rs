//! A platform in which nothing happens by itself: replies are scripted, and the clock moves only when all else waits.

use futures_util::future::LocalBoxFuture;
use managed_identity_provider::platform::{
    CredentialFile, FileFault, HttpReply, HttpRequest, Platform, TransportFault,
};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use zeroize::Zeroizing;

/// The value of `IDENTITY_HEADER` in these tests.
pub(crate) const HEADER_SECRET: &str = "853b9a84-5bfa-4b22-a3f3-0b9a43d9ad8a";

/// When the tests begin, in seconds since 1970-01-01T00:00:00Z.
const BEGINNING: u64 = 1_800_000_000;

/// What was asked, for the script and for assertions.
#[derive(Clone)]
pub(crate) struct Seen {
    /// Counts from 1.
    pub(crate) number: u64,
    /// When it was asked, since the beginning.
    pub(crate) at: Duration,
    /// How many requests for the same audience were under way then, this one included.
    pub(crate) abreast: usize,
    query: Vec<(String, String)>,
}

impl Seen {
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// What the script answers.
pub(crate) struct Reply {
    delay: Option<Duration>,
    result: Result<HttpReply, TransportFault>,
}

impl Reply {
    pub(crate) fn status(status: u16, body: &str) -> Self {
        let body = Zeroizing::new(body.as_bytes().to_vec());
        Self {
            delay: Some(Duration::ZERO),
            result: Ok(HttpReply {
                status,
                headers: Vec::new(),
                body,
            }),
        }
    }

    pub(crate) fn token(token: &str, lifetime: u64) -> Self {
        Self::status(
            200,
            &format!(r#"{{"access_token":"{token}","expires_in":"{lifetime}","token_type":"Bearer"}}"#),
        )
    }

    pub(crate) fn fault(fault: TransportFault) -> Self {
        Self {
            delay: Some(Duration::ZERO),
            result: Err(fault),
        }
    }

    pub(crate) fn silence() -> Self {
        Self {
            delay: None,
            ..Self::fault(TransportFault::NoReply)
        }
    }

    pub(crate) fn after(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        if let Ok(reply) = &mut self.result {
            reply.headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }
}

type Script = Rc<dyn Fn(&Seen) -> Reply>;

/// Cheap to clone; all clones are one world.
#[derive(Clone)]
pub(crate) struct World(Rc<State>);

struct State {
    environment: Vec<(String, String)>,
    script: RefCell<Script>,
    requests: RefCell<Vec<Seen>>,
    under_way: RefCell<Vec<String>>,
    elapsed: Cell<Duration>,
    timers: RefCell<Vec<Duration>>,
    spawned: RefCell<Vec<LocalBoxFuture<'static, ()>>>,
    random: Cell<u64>,
}

impl World {
    pub(crate) fn new(environment: &[(&str, &str)]) -> Self {
        Self(Rc::new(State {
            environment: environment
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect(),
            script: RefCell::new(Rc::new(|seen| Reply::token(&format!("token-{}", seen.number), 3600))),
            requests: RefCell::default(),
            under_way: RefCell::default(),
            elapsed: Cell::default(),
            timers: RefCell::default(),
            spawned: RefCell::default(),
            random: Cell::new(1),
        }))
    }

    pub(crate) fn imds() -> Self {
        Self::new(&[])
    }

    pub(crate) fn app_service() -> Self {
        Self::new(&[
            ("IDENTITY_ENDPOINT", "http://127.0.0.1:41741/msi/token"),
            ("IDENTITY_HEADER", HEADER_SECRET),
        ])
    }

    pub(crate) fn answering(self, script: impl Fn(&Seen) -> Reply + 'static) -> Self {
        self.answer(script);
        self
    }

    pub(crate) fn answer(&self, script: impl Fn(&Seen) -> Reply + 'static) {
        *self.0.script.borrow_mut() = Rc::new(script);
    }

    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.0.requests.borrow().clone()
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed.get()
    }

    pub(crate) fn wall(&self) -> u64 {
        BEGINNING + self.elapsed().as_secs()
    }

    /// Moves the clock on while nobody calls.
    pub(crate) fn pass(&self, duration: Duration) {
        self.0.elapsed.set(self.elapsed() + duration);
    }

    /// Lets background work run to its end.
    pub(crate) fn settle(&self) {
        self.run(poll_fn(|_| match self.0.spawned.borrow().is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }));
    }

    /// Runs `work` to its end, moving the clock to the next timer whenever everything waits.
    pub(crate) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let woken = Arc::new(Woken(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        let mut work = pin!(work);
        loop {
            self.0.timers.borrow_mut().clear();
            woken.0.store(false, Ordering::Relaxed);
            let mut running = self.0.spawned.take();
            running.retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
            self.0.spawned.borrow_mut().extend(running);
            if let Poll::Ready(result) = work.as_mut().poll(&mut context) {
                return result;
            }
            let before = self.0.spawned.borrow().len();
            if woken.0.load(Ordering::Relaxed) || self.poll_new(&mut context, before) {
                continue;
            }
            let next = self.0.timers.borrow().iter().min().copied();
            self.0.elapsed.set(next.expect("something waits for a timer"));
        }
    }

    /// Polls what `work` has spawned, so that its timers are known. True when it came to something.
    fn poll_new(&self, context: &mut Context<'_>, known: usize) -> bool {
        let mut tasks = self.0.spawned.take();
        let mut ended = false;
        tasks.retain_mut(|task| {
            let pending = task.as_mut().poll(context).is_pending();
            ended |= !pending;
            pending
        });
        let grown = self.0.spawned.borrow().len() + tasks.len() > known;
        self.0.spawned.borrow_mut().extend(tasks);
        ended || grown
    }
}

/// A request that waits for its reply, until it is dropped.
struct UnderWay<'a>(&'a World, &'a str);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let under_way = &mut self.0.0.under_way.borrow_mut();
        if let Some(index) = under_way.iter().position(|audience| audience == self.1) {
            under_way.swap_remove(index);
        }
    }
}

impl Platform for World {
    const BACKGROUND: bool = true;

    async fn send(&self, request: HttpRequest, _limit: usize) -> Result<HttpReply, TransportFault> {
        let base = format!("http://{}{}", request.authority, request.path_with_query);
        let query = url::Url::parse(&base).expect("the engine makes URLs");
        let query = query
            .query_pairs()
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        let number = self.0.requests.borrow().len() as u64 + 1;
        let mut seen = Seen {
            number,
            at: self.elapsed(),
            abreast: 0,
            query,
        };
        let audience = seen.query("resource").unwrap_or_default().to_owned();
        self.0.under_way.borrow_mut().push(audience.clone());
        let _under_way = UnderWay(self, &audience);
        seen.abreast = self
            .0
            .under_way
            .borrow()
            .iter()
            .filter(|other| **other == audience)
            .count();
        self.0.requests.borrow_mut().push(seen.clone());
        let script = Rc::clone(&self.0.script.borrow());
        let reply = script(&seen);
        match reply.delay {
            Some(delay) => self.sleep(delay).await,
            None => std::future::pending().await,
        }
        reply.result
    }

    async fn read_file(&self, _: &CredentialFile) -> Result<Zeroizing<Vec<u8>>, FileFault> {
        Err(FileFault::NotGranted)
    }

    fn directories(&self) -> Vec<String> {
        Vec::new()
    }

    async fn sleep(&self, duration: Duration) {
        let deadline = self.elapsed() + duration;
        poll_fn(|_| {
            if self.elapsed() >= deadline {
                return Poll::Ready(());
            }
            self.0.timers.borrow_mut().push(deadline);
            Poll::Pending
        })
        .await;
    }

    fn unix_time(&self) -> u64 {
        self.wall()
    }

    fn monotonic(&self) -> Duration {
        self.elapsed()
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

/// The same world, for a platform on which nothing moves between calls, as in WASI 0.2.
pub(crate) struct Inline(pub(crate) World);

impl Platform for Inline {
    const BACKGROUND: bool = false;

    async fn send(&self, request: HttpRequest, limit: usize) -> Result<HttpReply, TransportFault> {
        self.0.send(request, limit).await
    }

    async fn read_file(&self, file: &CredentialFile) -> Result<Zeroizing<Vec<u8>>, FileFault> {
        self.0.read_file(file).await
    }

    fn directories(&self) -> Vec<String> {
        self.0.directories()
    }

    async fn sleep(&self, duration: Duration) {
        self.0.sleep(duration).await;
    }

    fn unix_time(&self) -> u64 {
        self.0.unix_time()
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn random(&self) -> u64 {
        self.0.random()
    }

    fn environment(&self) -> Vec<(String, String)> {
        self.0.environment()
    }

    fn spawn(&self, work: LocalBoxFuture<'static, ()>) {
        self.0.spawn(work);
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}
