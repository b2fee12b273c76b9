//! The model: nodes with a metadata service and pods each, in front of one issuer.
//!
//! - All nodes are deployed within [`DEPLOYMENT`]; a node's pods start within [`POD_START`] of each other. All want a token of
//!   one audience, and each makes a call every [`CALLS_EVERY`].
//! - A metadata service answers [`REQUESTS_PER_SECOND`] requests in one second and 429 to the others, as Azure documents. Either
//!   it passes each request on to the issuer, or it hands out one token until near the token's end (see [`Scenario`]).
//! - The issuer answers everything at once, except in the outage, in which it answers nothing but 503. It never gives way under
//!   load, so a stampede costs nothing here but the requests that are counted.
//! - Replies take no time, and a pod makes one call at a time. Single flight therefore makes no difference here.
//!
//! As the issuer does not give way, nodes do not influence each other, and are simulated one after another, each with its own
//! queue of events. The engine itself would be too slow for half a million pods; [`crate::policy`] says what is taken from it.

use crate::policy::Policy;
use crate::random::Random;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::ops::Range;

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
pub(crate) const HOUR: u64 = 60 * MINUTE;

/// In which all nodes are deployed, all times in milliseconds: an upgrade of the whole fleet, the worst case.
const DEPLOYMENT: u64 = MINUTE;
/// In which the pods of one node start.
const POD_START: u64 = 10 * SECOND;
/// Between two calls of a pod.
const CALLS_EVERY: u64 = 10 * SECOND;
/// Of a metadata service, for tokens.
const REQUESTS_PER_SECOND: u32 = 20;
/// Of what is counted.
pub(crate) const BIN: u64 = 10 * SECOND;
/// A day, and two hours to see how an outage at its end ends.
const DURATION: u64 = 26 * HOUR;
/// After this nothing of the deployment is left.
const SETTLED: u64 = 20 * MINUTE;
pub(crate) const BINS: usize = (DURATION / BIN) as usize;
/// Half an hour in which tokens of the first minute end, and those that were renewed at half-life are due again.
const DAYS_END: Range<u64> = 24 * HOUR - 15 * MINUTE..24 * HOUR + 15 * MINUTE;

/// What the fleet is placed in.
#[derive(Debug)]
pub(crate) struct Scenario {
    /// In tables, and in the file of numbers.
    pub(crate) title: &'static str,
    pub(crate) name: &'static str,
    /// Of a new token, in seconds.
    pub(crate) lifetime: u64,
    /// A metadata service that keeps tokens asks for another when less than these seconds of one are left. Until it has
    /// that, it goes on to hand out the old one. What the seconds are is not documented; clients' authors write that it is
    /// the same token until near its end.
    pub(crate) kept_until: Option<u64>,
    /// When the issuer answers nothing but 503.
    pub(crate) outage: Range<u64>,
}

pub(crate) const SCENARIOS: [Scenario; 3] = [
    Scenario {
        title: "24 h tokens, passed on",
        name: "day",
        lifetime: 24 * 3600,
        kept_until: None,
        outage: DAYS_END,
    },
    Scenario {
        title: "24 h tokens, kept by the node",
        name: "day-kept",
        lifetime: 24 * 3600,
        kept_until: Some(10 * 60),
        outage: DAYS_END,
    },
    Scenario {
        title: "1 h tokens, passed on",
        name: "hour",
        lifetime: 3600,
        kept_until: None,
        // Most tokens of this fleet were due once before, so that refreshes have begun to drift apart.
        outage: HOUR + 35 * MINUTE..2 * HOUR + 5 * MINUTE,
    },
];

/// What was counted. Requests are those that arrive, whatever is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) metadata: Vec<u64>,
    pub(crate) issuer: Vec<u64>,
    /// Replies of metadata services by what was in them.
    pub(crate) issued: u64,
    pub(crate) kept: u64,
    pub(crate) throttled: u64,
    pub(crate) unavailable: u64,
    /// Pods that had a token, asked for one later, and got an error.
    pub(crate) pods_without: u64,
    /// For how long, in milliseconds, added up.
    pub(crate) time_without: u64,
    /// Pods that have no valid token when the time is over.
    pub(crate) pods_without_at_end: u64,
    /// From the end of the outage to when the last of those who had seen it fail had a new token.
    pub(crate) last_back: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            metadata: vec![0; BINS],
            issuer: vec![0; BINS],
            issued: 0,
            kept: 0,
            throttled: 0,
            unavailable: 0,
            pods_without: 0,
            time_without: 0,
            pods_without_at_end: 0,
            last_back: 0,
        }
    }
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        for (mine, theirs) in [(&mut self.metadata, &other.metadata), (&mut self.issuer, &other.issuer)] {
            mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine += theirs);
        }
        self.issued += other.issued;
        self.kept += other.kept;
        self.throttled += other.throttled;
        self.unavailable += other.unavailable;
        self.pods_without += other.pods_without;
        self.time_without += other.time_without;
        self.pods_without_at_end += other.pods_without_at_end;
        self.last_back = self.last_back.max(other.last_back);
    }
}

/// The highest number of requests per second in ten seconds, before the outage (the deployment left out) and from it on.
pub(crate) fn peaks(bins: &[u64], scenario: &Scenario) -> [f64; 2] {
    let outage = (scenario.outage.start / BIN) as usize;
    let peak = |bins: &[u64]| {
        bins.iter()
            .max()
            .map_or(0.0, |most| *most as f64 / (BIN / SECOND) as f64)
    };
    [peak(&bins[(SETTLED / BIN) as usize..outage]), peak(&bins[outage..])]
}

enum Reply {
    Token { expires_on: u64 },
    Failure,
}

struct MetadataService {
    kept: u64,
    second: u64,
    in_second: u32,
}

impl MetadataService {
    fn reply(&mut self, now: u64, scenario: &Scenario, counts: &mut Counts) -> Reply {
        counts.metadata[(now / BIN) as usize] += 1;
        let second = now / SECOND;
        if self.second != second {
            (self.second, self.in_second) = (second, 0);
        }
        self.in_second += 1;
        if self.in_second > REQUESTS_PER_SECOND {
            counts.throttled += 1;
            return Reply::Failure;
        }
        let expires_on = self.kept;
        if scenario.kept_until.is_some_and(|left| expires_on > second + left) {
            counts.kept += 1;
            return Reply::Token { expires_on };
        }
        counts.issuer[(now / BIN) as usize] += 1;
        if !scenario.outage.contains(&now) {
            counts.issued += 1;
            self.kept = second + scenario.lifetime;
            Reply::Token { expires_on: self.kept }
        } else if scenario.kept_until.is_some() && expires_on > second {
            counts.kept += 1;
            Reply::Token { expires_on }
        } else {
            counts.unavailable += 1;
            Reply::Failure
        }
    }
}

/// A client library in one process. Times in milliseconds.
struct Client {
    started: u64,
    calls_every: u64,
    pods: u64,
    /// Of its token; zero before the first.
    expires: u64,
    /// Tries of the request that is under way, and when it began.
    tries: u32,
    asked: u64,
    /// Requests given up in a row.
    failures: u32,
    /// Since when its callers get errors.
    without_since: Option<u64>,
    had_been_without: bool,
    saw_outage: bool,
}

impl Client {
    fn new(started: u64, pods: u64) -> Self {
        Self {
            started,
            calls_every: CALLS_EVERY / pods,
            pods,
            expires: 0,
            tries: 0,
            asked: 0,
            failures: 0,
            without_since: None,
            had_been_without: false,
            saw_outage: false,
        }
    }

    /// Its first call at or after `time`.
    fn call_at(&self, time: u64) -> u64 {
        self.started + time.saturating_sub(self.started).div_ceil(self.calls_every) * self.calls_every
    }

    /// Takes the reply to a try, and says when the next one is.
    fn take(&mut self, reply: &Reply, now: u64, fleet: &Fleet, random: &mut Random, counts: &mut Counts) -> u64 {
        if self.tries == 0 {
            self.asked = now;
        }
        self.tries += 1;
        let policy = fleet.policy;
        if let Reply::Token { expires_on } = *reply {
            // The same token again is not what those wait for who saw the outage.
            if self.saw_outage && expires_on * SECOND > self.expires {
                counts.last_back = counts.last_back.max(now.saturating_sub(fleet.scenario.outage.end));
                self.saw_outage = false;
            }
            self.end_without(now, counts);
            (self.expires, self.tries, self.failures) = (expires_on * SECOND, 0, 0);
            let refresh = policy.refresh_on(now / SECOND, expires_on, random) * SECOND;
            return self.call_at(refresh.max(now + 1));
        }
        self.saw_outage |= fleet.scenario.outage.contains(&now);
        if let Some(delay) = policy.delay(self.tries, now - self.asked, self.expires > self.asked, random) {
            return now + delay;
        }
        if self.expires > 0 && (self.expires <= now || !policy.keeps_valid_token()) && self.without_since.is_none() {
            let since = if policy.keeps_valid_token() {
                self.expires.max(self.asked)
            } else {
                self.asked
            };
            self.without_since = Some(since);
            counts.pods_without += if self.had_been_without { 0 } else { self.pods };
            self.had_been_without = true;
        }
        let next = policy.next_call_after(now, self.failures, self.expires, random);
        self.tries = 0;
        self.failures += 1;
        if policy.queues_calls() {
            next
        } else {
            self.call_at(next.max(now + 1))
        }
    }

    fn end_without(&mut self, now: u64, counts: &mut Counts) {
        if let Some(since) = self.without_since.take() {
            counts.time_without += (now - since) * self.pods;
        }
    }
}

/// How many, in what, with which client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fleet {
    pub(crate) nodes: u64,
    pub(crate) pods: u64,
    pub(crate) scenario: &'static Scenario,
    pub(crate) policy: Policy,
    pub(crate) seed: u64,
}

impl Fleet {
    /// What all nodes do, on as many threads as the machine runs at once. The result does not depend on how many these are.
    pub(crate) fn run(&self) -> Counts {
        let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
        let mut total = Counts::default();
        std::thread::scope(|scope| {
            let share = |thread| {
                let mut counts = Counts::default();
                for node in (thread..self.nodes).step_by(threads as usize) {
                    self.run_node(node, &mut counts);
                }
                counts
            };
            let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || share(thread))).collect();
            for thread in running {
                match thread.join() {
                    Ok(counts) => total.add(&counts),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
        total
    }

    fn run_node(&self, node: u64, counts: &mut Counts) {
        let mut random = Random::new(self.seed, node);
        let deployed = random.below(DEPLOYMENT);
        let starts = (0..self.pods).map(|_| deployed + random.below(POD_START));
        let mut starts: Vec<u64> = starts.collect();
        let mut clients: Vec<Client> = if self.policy.is_shared() {
            starts.sort_unstable();
            vec![Client::new(starts[0], self.pods)]
        } else {
            starts.iter().map(|start| Client::new(*start, 1)).collect()
        };
        let mut service = MetadataService {
            kept: 0,
            second: u64::MAX,
            in_second: 0,
        };
        let mut events: BinaryHeap<_> = clients
            .iter()
            .enumerate()
            .map(|(number, client)| Reverse((client.started, number)))
            .collect();
        while let Some(mut event) = events.peek_mut() {
            let Reverse((now, number)) = *event;
            if now >= DURATION {
                PeekMut::pop(event);
                continue;
            }
            let reply = service.reply(now, self.scenario, counts);
            event.0.0 = clients[number].take(&reply, now, self, &mut random, counts);
        }
        for client in &mut clients {
            client.end_without(DURATION, counts);
            counts.pods_without_at_end += if client.expires <= DURATION { client.pods } else { 0 };
        }
    }
}
