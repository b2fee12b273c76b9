//! Requests to the identity endpoint through a cluster of Envoy.
//!
//! Envoy makes them on its main thread, in the name of a filter's configuration, and drops them with it. So they wait in a
//! queue of this process; the newest configuration that lives is told that there are some, and has Envoy make them. Those
//! that were under way when a configuration went are made again in the name of another.

use crate::abi::{Level, log};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use managed_identity_host::outbound::{Carrying, Transport, TransportError};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How much is told of what Envoy says of its failure, in bytes.
const REASON_LIMIT: usize = 300;

/// What Envoy adds to replies of an upstream, and not to its own.
const UPSTREAM_TIME: &str = "x-envoy-upstream-service-time";

/// Which configuration, as long as it lives.
pub(crate) type ConfigId = usize;

/// Tells a configuration, on the main thread, that there is something to do.
pub(crate) trait Wake: Send {
    fn wake(&self);
}

/// Has Envoy make a request, on the main thread. Gives its number.
pub(crate) trait CallOut {
    fn call_out(&self, cluster: &str, fields: &[(&[u8], &[u8])], body: &[u8], time: Duration)
    -> Result<u64, NotCalled>;
}

/// Why Envoy makes no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotCalled {
    NoCluster,
    NoHost,
    Other,
}

/// How a request of Envoy's ended.
pub(crate) enum Called {
    /// With these fields, the status among them, and this body. They may be Envoy's own.
    Reply(Vec<(Vec<u8>, Vec<u8>)>, Bytes),
    Reset,
    TooLarge,
}

type Answer = Result<Response<Bytes>, TransportError>;

/// A cluster of Envoy, through which requests go.
pub(crate) struct Cluster {
    name: String,
    /// How long each may take at most, if that is less than the host's own time.
    timeout: Option<Duration>,
}

impl Cluster {
    pub(crate) fn new(name: &str, timeout: Option<Duration>) -> Self {
        let name = name.to_owned();
        Self { name, timeout }
    }
}

impl Transport for Cluster {
    fn carry(&self, request: Request<Bytes>, time: Duration) -> Carrying<'_> {
        let time = self.timeout.map_or(time, |timeout| timeout.min(time));
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            CALLOUTS.ask(Callout {
                cluster: self.name.clone(),
                request,
                time,
                over: Instant::now() + time,
                reply,
            });
            answer.await.unwrap_or(Err(TransportError::BrokenOff))
        })
    }
}

/// A request, and who waits for its reply.
struct Callout {
    cluster: String,
    request: Request<Bytes>,
    time: Duration,
    over: Instant,
    reply: oneshot::Sender<Answer>,
}

impl Callout {
    fn answer(self, answer: Answer) {
        // Whoever asked may have stopped waiting.
        let _ = self.reply.send(answer);
    }

    fn call(&self, envoy: &impl CallOut, time: Duration) -> Result<u64, NotCalled> {
        let (method, uri) = (self.request.method(), self.request.uri());
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut fields: Vec<(&[u8], &[u8])> = vec![
            (b":method", method.as_str().as_bytes()),
            (b":scheme", uri.scheme_str().unwrap_or("http").as_bytes()),
            (b":path", path.as_bytes()),
        ];
        // `host` among them, by which Envoy knows `:authority`.
        let others = self.request.headers().iter();
        fields.extend(others.map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())));
        envoy.call_out(&self.cluster, &fields, self.request.body(), time)
    }
}

/// All requests of this process.
pub(crate) static CALLOUTS: Callouts = Callouts::new();

pub(crate) struct Callouts(Mutex<State>);

struct State {
    waiting: VecDeque<Callout>,
    under_way: Vec<(ConfigId, u64, Callout)>,
    /// The configurations that live, the newest last: it will live longest.
    configs: Vec<(ConfigId, Box<dyn Wake>)>,
}

impl State {
    /// Has somebody look at what waits.
    fn wake(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        match self.configs.last() {
            Some((_, config)) => config.wake(),
            None => {
                for callout in self.waiting.drain(..) {
                    callout.answer(Err(TransportError::Unreachable(
                        "the last filter of Envoy that could ask has gone".to_owned(),
                    )));
                }
            }
        }
    }
}

impl Callouts {
    const fn new() -> Self {
        Self(Mutex::new(State {
            waiting: VecDeque::new(),
            under_way: Vec::new(),
            configs: Vec::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, callout: Callout) {
        let mut state = self.state();
        state.waiting.push_back(callout);
        // Under the lock, so that the configuration's end waits for it.
        state.wake();
    }

    /// A configuration lives, and can be told.
    pub(crate) fn begin(&self, config: ConfigId, wake: impl Wake + 'static) {
        self.state().configs.push((config, Box::new(wake)));
    }

    /// A configuration is told, on the main thread.
    pub(crate) fn scheduled(&self, config: ConfigId, envoy: &impl CallOut) {
        let waiting = std::mem::take(&mut self.state().waiting);
        for callout in waiting {
            if callout.reply.is_closed() {
                continue;
            }
            let left = callout.over.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let time = callout.time;
                callout.answer(Err(TransportError::TooSlow(time)));
                continue;
            }
            // Not under the lock: Envoy may call the module from within this. It tells of an end later, on this thread.
            match callout.call(envoy, left) {
                Ok(number) => self.state().under_way.push((config, number, callout)),
                Err(fault) => {
                    let error = refused(fault, &callout.cluster);
                    log(Level::Warn, &format!("the identity endpoint is not asked: {error}"));
                    callout.answer(Err(error));
                }
            }
        }
    }

    /// A request that was made in the name of a configuration has ended.
    pub(crate) fn done(&self, config: ConfigId, number: u64, called: Called) {
        let found = {
            let mut state = self.state();
            let mut under_way = state.under_way.iter();
            let index = under_way.position(|(by, as_number, _)| (*by, *as_number) == (config, number));
            index.map(|index| state.under_way.swap_remove(index))
        };
        if let Some((_, _, callout)) = found {
            let answer = match called {
                Called::Reply(fields, body) => reply(fields, body, callout.time),
                Called::Reset => Err(TransportError::BrokenOff),
                Called::TooLarge => Err(TransportError::TooLarge),
            };
            callout.answer(answer);
        }
    }

    /// A configuration ends. It is not told anything from now on.
    pub(crate) fn end(&self, config: ConfigId) {
        let mut state = self.state();
        state.configs.retain(|(id, _)| *id != config);
        let under_way = std::mem::take(&mut state.under_way);
        let (ended, others) = under_way.into_iter().partition(|(by, _, _)| *by == config);
        state.under_way = others;
        let ended: Vec<_> = ended;
        state.waiting.extend(ended.into_iter().map(|(_, _, callout)| callout));
        // It may have been told of what waits, and will not look at it.
        state.wake();
    }
}

fn refused(fault: NotCalled, cluster: &str) -> TransportError {
    TransportError::Unreachable(match fault {
        NotCalled::NoCluster => {
            format!("Envoy has no cluster `{cluster}`; add it, or correct `outbound` in the filter's configuration")
        }
        NotCalled::NoHost => format!("Envoy's cluster `{cluster}` has no host that it takes requests for"),
        NotCalled::Other => format!("Envoy does not take the request for its cluster `{cluster}`"),
    })
}

/// What Envoy's reply stands for. Envoy makes one itself when nobody answers.
fn reply(fields: Vec<(Vec<u8>, Vec<u8>)>, body: Bytes, time: Duration) -> Answer {
    let mut status = None;
    let mut is_of_upstream = false;
    let mut reply = Response::new(body);
    for (name, value) in fields {
        if name == b":status" {
            status = StatusCode::from_bytes(&value).ok();
            continue;
        }
        is_of_upstream |= name == UPSTREAM_TIME.as_bytes();
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&name), HeaderValue::from_bytes(&value)) else {
            continue;
        };
        // What is about the connection, or Envoy's own, is not part of the endpoint's reply.
        if name == header::CONNECTION || name == header::TRANSFER_ENCODING || name.as_str().starts_with("x-envoy-") {
            continue;
        }
        reply.headers_mut().append(name, value);
    }
    let status = status.ok_or(TransportError::BrokenOff)?;
    if status.is_server_error() && !is_of_upstream {
        return Err(match status {
            StatusCode::GATEWAY_TIMEOUT => TransportError::TooSlow(time),
            _ => TransportError::Unreachable(format!("Envoy answers {}: {}", status.as_u16(), reason(reply.body()))),
        });
    }
    *reply.status_mut() = status;
    Ok(reply)
}

/// The beginning of a text of Envoy's.
fn reason(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(REASON_LIMIT)]);
    let printable = text.chars().map(|character| match character.is_control() {
        true => ' ',
        false => character,
    });
    printable.collect::<String>().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the requests are literals")]

    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// How often a configuration was told.
    #[derive(Clone, Default)]
    struct Told(Arc<AtomicUsize>);

    impl Told {
        fn times(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    impl Wake for Told {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Makes requests, if it does, and keeps their first lines.
    struct Envoy {
        fault: Option<NotCalled>,
        made: Mutex<Vec<String>>,
    }

    impl Envoy {
        fn new(fault: Option<NotCalled>) -> Self {
            let made = Mutex::default();
            Self { fault, made }
        }

        fn made(&self) -> Vec<String> {
            self.made.lock().unwrap().clone()
        }
    }

    impl CallOut for Envoy {
        fn call_out(
            &self,
            cluster: &str,
            fields: &[(&[u8], &[u8])],
            body: &[u8],
            _time: Duration,
        ) -> Result<u64, NotCalled> {
            if let Some(fault) = self.fault {
                return Err(fault);
            }
            let mut text = cluster.to_owned();
            for (name, value) in fields {
                text += &format!(" {}={}", str::from_utf8(name).unwrap(), str::from_utf8(value).unwrap());
            }
            let mut made = self.made.lock().unwrap();
            made.push(format!("{text} {}", str::from_utf8(body).unwrap()));
            Ok(u64::try_from(made.len()).unwrap())
        }
    }

    fn ask(callouts: &Callouts, time: Duration) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        let request = Request::post("http://127.0.0.1:1/token?a=b").header("host", "127.0.0.1:1");
        callouts.ask(Callout {
            cluster: "identity".to_owned(),
            request: request.header("metadata", "true").body(Bytes::from("body")).unwrap(),
            time,
            over: Instant::now() + time,
            reply,
        });
        answer
    }

    const MINUTE: Duration = Duration::from_secs(60);

    fn good() -> Called {
        let fields = [(":status", "200"), (UPSTREAM_TIME, "1"), ("x-a", "b")];
        let fields = fields.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        Called::Reply(fields.to_vec(), Bytes::from("a token"))
    }

    #[test]
    fn a_request_is_made_on_the_main_thread_and_answered() {
        let (callouts, told, envoy) = (Callouts::new(), Told::default(), Envoy::new(None));
        callouts.begin(1, told.clone());
        let mut answer = ask(&callouts, MINUTE);
        assert_eq!((told.times(), envoy.made().len()), (1, 0));
        callouts.scheduled(1, &envoy);
        let made = "identity :method=POST :scheme=http :path=/token?a=b host=127.0.0.1:1 metadata=true body";
        assert_eq!(envoy.made(), [made]);
        // Others' ends are not its own.
        callouts.done(1, 7, good());
        callouts.done(2, 1, good());
        assert!(answer.try_recv().is_err());
        callouts.done(1, 1, good());
        let reply = answer.try_recv().unwrap().unwrap();
        assert_eq!((reply.status(), &reply.body()[..]), (StatusCode::OK, &b"a token"[..]));
        assert_eq!(reply.headers().len(), 1);
    }

    #[test]
    fn what_a_configuration_leaves_another_one_takes_over() {
        let (callouts, envoy) = (Callouts::new(), Envoy::new(None));
        let (old, new) = (Told::default(), Told::default());
        callouts.begin(1, old.clone());
        let mut under_way = ask(&callouts, MINUTE);
        callouts.scheduled(1, &envoy);
        // This one the old configuration is told of, and never looks at.
        let mut waiting = ask(&callouts, MINUTE);
        assert_eq!(old.times(), 2);
        callouts.begin(2, new.clone());
        callouts.end(1);
        assert_eq!((old.times(), new.times()), (2, 1));
        callouts.done(1, 1, good());
        callouts.scheduled(2, &envoy);
        assert_eq!(envoy.made().len(), 3);
        callouts.done(2, 2, good());
        callouts.done(2, 3, good());
        assert!(under_way.try_recv().unwrap().is_ok());
        assert!(waiting.try_recv().unwrap().is_ok());
    }

    #[test]
    fn what_nobody_can_take_over_fails() {
        let (callouts, told, envoy) = (Callouts::new(), Told::default(), Envoy::new(None));
        callouts.begin(1, told.clone());
        let mut under_way = ask(&callouts, MINUTE);
        callouts.scheduled(1, &envoy);
        let mut waiting = ask(&callouts, MINUTE);
        callouts.end(1);
        let mut late = ask(&callouts, MINUTE);
        for answer in [&mut under_way, &mut waiting, &mut late] {
            let error = answer.try_recv().unwrap().unwrap_err();
            assert!(error.to_string().contains("has gone"), "{error}");
        }
        assert_eq!(told.times(), 2);
    }

    #[test]
    fn nothing_is_made_in_vain() {
        let (callouts, envoy) = (Callouts::new(), Envoy::new(None));
        callouts.begin(1, Told::default());
        drop(ask(&callouts, MINUTE));
        let mut late = ask(&callouts, Duration::ZERO);
        callouts.scheduled(1, &envoy);
        assert!(envoy.made().is_empty());
        assert_eq!(
            late.try_recv().unwrap().unwrap_err(),
            TransportError::TooSlow(Duration::ZERO)
        );
    }

    #[test]
    fn envoy_says_why_it_makes_no_request() {
        for (fault, expected) in [
            (NotCalled::NoCluster, "Envoy has no cluster `identity`"),
            (NotCalled::NoHost, "has no host"),
            (NotCalled::Other, "does not take the request"),
        ] {
            let callouts = Callouts::new();
            callouts.begin(1, Told::default());
            let mut answer = ask(&callouts, MINUTE);
            callouts.scheduled(1, &Envoy::new(Some(fault)));
            let error = answer.try_recv().unwrap().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn envoys_own_replies_are_told_from_the_endpoints() {
        let made = |status: &str, others: &[(&str, &str)]| {
            let fields = [(":status", status)].into_iter().chain(others.iter().copied());
            let fields = fields.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
            reply(fields.collect(), Bytes::from("upstream connect error\n"), MINUTE)
        };
        let unreachable = TransportError::Unreachable("Envoy answers 503: upstream connect error ".to_owned());
        assert_eq!(made("503", &[]).unwrap_err(), unreachable);
        assert_eq!(made("504", &[]).unwrap_err(), TransportError::TooSlow(MINUTE));
        assert_eq!(made("x", &[]).unwrap_err(), TransportError::BrokenOff);
        for status in ["503", "504", "200", "429"] {
            let connection = [
                (UPSTREAM_TIME, "3"),
                ("transfer-encoding", "chunked"),
                ("retry-after", "1"),
            ];
            let reply = made(status, &connection).unwrap();
            assert_eq!(reply.status().as_str(), status);
            let names: Vec<_> = reply.headers().keys().collect();
            assert_eq!(names, ["retry-after"]);
        }
    }
}
