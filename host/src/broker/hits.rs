//! Tokens that the provider has given, to be given again without asking it.
//!
//! The cache proper is the provider's, and so is every decision about it. This is a copy of its latest answers, read
//! without a lock on the thread of whoever asks. A copy is given in three cases: as long as the provider itself would give
//! the same token without a thought ([`Hits::fresh`]), as long as the token is valid while the provider fails
//! ([`Hits::held`]), and as long as it is valid for a while yet to whoever cannot wait ([`Hits::valid`]).
//!
//! A token that somebody rejects, challenges or has forgotten must not be given again. Those questions are
//! [`Invalidation`]s: from before they are asked until they are answered, nothing that they concern is kept, and neither is
//! the answer to any question that was put to the provider before they ended.

use crate::telemetry::Telemetry;
use crate::token::{AccessToken, Identity, TokenRequest, unix_time};
use arc_swap::ArcSwap;
use managed_identity_provider::secret::Secret;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many tokens are kept: as many as the provider keeps.
const CAPACITY: usize = 1024;

/// How many tokens are remembered that must not be kept again.
const REFUSED_CAPACITY: usize = 64;

/// How many seconds a token must be valid yet to be given to whoever would not wait for its successor: time to reach the
/// upstream, and to be checked there by a clock that is a little fast.
const SHORTEST_REST: u64 = 60;

/// What a scope adds to the resource that it stands for.
const SCOPE_SUFFIX: &str = "/.default";

/// Copies of the provider's latest answers, by what was asked.
#[derive(Default)]
pub(crate) struct Hits {
    /// Replaced as a whole, so that readers need no lock.
    held: ArcSwap<Held>,
    /// Locked by whoever writes.
    ledger: Mutex<Ledger>,
    telemetry: Telemetry,
}

#[derive(Clone, Default)]
struct Held {
    by_audience: HashMap<Arc<str>, Arc<[Entry]>>,
    count: usize,
}

/// A token of one audience, and as whom it was asked for.
#[derive(Clone)]
struct Entry {
    identity: Identity,
    token: Arc<AccessToken>,
    renewal: Arc<Renewal>,
}

/// Whether somebody asks for the successor of a token in the background: [`UNDER_WAY`], or else the second in which the last
/// one ended who did.
#[derive(Default)]
struct Renewal(AtomicU64);

const UNDER_WAY: u64 = u64::MAX;

/// The task of asking for a token's successor. Nobody else has it until it is dropped, nor in that second.
pub(crate) struct Renewing(Arc<Renewal>);

#[derive(Default)]
struct Ledger {
    /// Counts the beginnings and ends of invalidations.
    generation: Generation,
    pending: Vec<(u64, Scope)>,
    last: u64,
    /// Tokens that were rejected or challenged.
    refused: VecDeque<Secret>,
    closed: bool,
}

/// A moment between two invalidations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Generation(u64);

/// What an invalidation concerns.
enum Scope {
    /// Whatever there is.
    All,
    /// One resource, whoever asks for it, and one token wherever it is.
    Resource(String, Option<Secret>),
}

/// A question after which older tokens must not be given. Ends when it is dropped.
pub(crate) struct Invalidation {
    hits: Arc<Hits>,
    number: u64,
}

impl Hits {
    /// The token that answers a request without the provider: its successor is not due, and nobody doubts it.
    pub(crate) fn fresh(&self, request: &TokenRequest, now: u64) -> Option<Arc<AccessToken>> {
        if !is_plain(request) {
            return None;
        }
        let held = self.held.load();
        let token = held.get(request)?;
        (!token.stale && now < token.refresh_on && now < token.expires_on).then(|| Arc::clone(token))
    }

    /// The token that answers a request of whoever cannot wait, although its successor may be due. Then with the task of
    /// asking for that, unless somebody has it.
    pub(crate) fn valid(&self, request: &TokenRequest, now: u64) -> Option<(Arc<AccessToken>, Option<Renewing>)> {
        if !is_plain(request) {
            return None;
        }
        let held = self.held.load();
        let Entry { token, renewal, .. } = held.entry(request)?;
        let is_due = token.stale || token.refresh_on <= now;
        let rest = if is_due { SHORTEST_REST } else { 0 };
        if token.expires_on <= now.saturating_add(rest) {
            return None;
        }
        let renewing = if is_due { renewal.begin(now) } else { None };
        Some((Arc::clone(token), renewing))
    }

    /// The token that answers a request when the provider does not: it is valid, and marked as stale.
    pub(crate) fn held(&self, request: &TokenRequest, now: u64) -> Option<Arc<AccessToken>> {
        if !is_plain(request) {
            return None;
        }
        let held = self.held.load();
        let token = held.get(request).filter(|token| now < token.expires_on)?;
        Some(if token.stale {
            Arc::clone(token)
        } else {
            let mut stale = AccessToken::clone(token);
            stale.stale = true;
            Arc::new(stale)
        })
    }

    /// The moment at which a question is put to the provider.
    pub(crate) fn generation(&self) -> Generation {
        self.ledger().generation
    }

    /// Keeps the answer to a question that was put to the provider at `asked`, unless something was invalidated since.
    pub(crate) fn keep(&self, request: &TokenRequest, token: &Arc<AccessToken>, asked: Generation, now: u64) {
        if !is_plain(request) || token.expires_on <= now {
            return;
        }
        let ledger = self.ledger();
        let is_refused = || ledger.refused.iter().any(|refused| is(refused, token));
        let is_concerned = |(_, scope): &(u64, Scope)| scope.concerns(&request.audience, token);
        if ledger.closed || ledger.generation != asked || is_refused() || ledger.pending.iter().any(is_concerned) {
            return;
        }
        let current = self.held.load();
        let is_same = |known: &Arc<AccessToken>| {
            is(&known.token, token) && (known.refresh_on, known.stale) == (token.refresh_on, token.stale)
        };
        if current.get(request).is_some_and(is_same) {
            return;
        }
        if current.get(request).is_some_and(|known| !is(&known.token, token)) {
            self.telemetry.refreshed();
        }
        let mut held = Held::clone(&current);
        held.insert(request, token, now);
        self.store(held);
    }

    /// Begins what a request with claims or a rejected token invalidates; `None` for other requests.
    pub(crate) fn challenged(self: &Arc<Self>, request: &TokenRequest) -> Option<Invalidation> {
        (!is_plain(request)).then(|| {
            let resource = resource(&request.audience).to_owned();
            // Who brings claims and names no token has had the one rejected that is held. Who names one may be late, and
            // the one that is held its successor.
            let refuse = request.rejected_token.is_none();
            self.begin(Scope::Resource(resource, request.rejected_token.clone()), refuse)
        })
    }

    /// Begins to forget the tokens of one audience, or all.
    pub(crate) fn forgotten(self: &Arc<Self>, audience: Option<&str>) -> Invalidation {
        let scope = audience.map_or(Scope::All, |audience| {
            Scope::Resource(resource(audience).to_owned(), None)
        });
        self.begin(scope, false)
    }

    /// `refuse` when what is removed must not be kept again, even if the provider should give it.
    fn begin(self: &Arc<Self>, scope: Scope, refuse: bool) -> Invalidation {
        let mut ledger = self.ledger();
        ledger.generation.0 += 1;
        ledger.last += 1;
        let number = ledger.last;
        if let Scope::Resource(_, Some(rejected)) = &scope {
            ledger.refuse(rejected);
        }
        let mut held = Held::clone(&self.held.load());
        let mut removed = held.remove(|audience, token| scope.concerns(audience, token));
        // Another name of the same identity or audience.
        let same = removed.clone();
        removed.extend(held.remove(|_, token| same.iter().any(|removed| is(&removed.token, token))));
        if refuse {
            removed.iter().for_each(|removed| ledger.refuse(&removed.token));
        }
        if !removed.is_empty() {
            self.store(held);
        }
        ledger.pending.push((number, scope));
        Invalidation {
            hits: Arc::clone(self),
            number,
        }
    }

    /// Drops what has expired, and goes on saying how long the rest lasts, by the clock `now`, for as long as it is polled.
    pub(crate) async fn age(&self, now: impl Fn() -> u64) {
        let now = || {
            let now = now();
            self.drop_expired(now);
            now
        };
        self.telemetry.age(now).await;
    }

    /// What nobody asks for any more would be kept for ever otherwise, and be the first to expire.
    fn drop_expired(&self, now: u64) {
        let _ledger = self.ledger();
        let mut held = Held::clone(&self.held.load());
        if !held.remove(|_, token| token.expires_on <= now).is_empty() {
            self.store(held);
        }
    }

    /// Drops everything, and keeps nothing from now on.
    pub(crate) fn close(&self) {
        let mut ledger = self.ledger();
        ledger.closed = true;
        ledger.refused.clear();
        self.store(Held::default());
    }

    /// What counts hits, and all else of this broker.
    pub(crate) fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    fn store(&self, held: Held) {
        self.telemetry.holds(held.count, held.earliest_expiry(), unix_time());
        self.held.store(Arc::new(held));
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Nothing in here is left half done by a panic.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    fn refuse(&mut self, token: &Secret) {
        if !self.refused.iter().any(|refused| refused.matches(token.expose())) {
            if self.refused.len() >= REFUSED_CAPACITY {
                self.refused.pop_front();
            }
            self.refused.push_back(token.clone());
        }
    }
}

impl Held {
    fn entry(&self, request: &TokenRequest) -> Option<&Entry> {
        let entries = self.by_audience.get(request.audience.as_str())?;
        entries.iter().find(|entry| entry.identity == request.identity)
    }

    fn get(&self, request: &TokenRequest) -> Option<&Arc<AccessToken>> {
        Some(&self.entry(request)?.token)
    }

    fn insert(&mut self, request: &TokenRequest, token: &Arc<AccessToken>, now: u64) {
        let audience = request.audience.as_str();
        let others = |entries: &Arc<[Entry]>| -> Vec<Entry> {
            let others = entries.iter().filter(|entry| entry.identity != request.identity);
            others.cloned().collect()
        };
        let renewal = match self.entry(request) {
            Some(known) => Arc::clone(&known.renewal),
            None => {
                self.make_room(now);
                self.count += 1;
                Arc::default()
            }
        };
        let mut entries = self.by_audience.get(audience).map(others).unwrap_or_default();
        entries.push(Entry {
            identity: request.identity.clone(),
            token: Arc::clone(token),
            renewal,
        });
        self.by_audience.insert(audience.into(), entries.into());
    }

    fn earliest_expiry(&self) -> Option<u64> {
        let entries = self.by_audience.values().flat_map(|entries| entries.iter());
        entries.map(|entry| entry.token.expires_on).min()
    }

    /// Drops what has expired when there is no room, or else what expires first.
    fn make_room(&mut self, now: u64) {
        if self.count < CAPACITY {
            return;
        }
        self.remove(|_, token| token.expires_on <= now);
        if self.count < CAPACITY {
            return;
        }
        let entries = self.by_audience.values().flat_map(|entries| entries.iter());
        if let Some(first) = entries
            .min_by_key(|entry| entry.token.expires_on)
            .map(|entry| Arc::clone(&entry.token))
        {
            self.remove(|_, token| Arc::ptr_eq(token, &first));
        }
    }

    /// Removes tokens, and returns them.
    fn remove(&mut self, is_removed: impl Fn(&str, &Arc<AccessToken>) -> bool) -> Vec<Arc<AccessToken>> {
        let mut removed = Vec::new();
        self.by_audience.retain(|audience, entries| {
            let before = removed.len();
            let (gone, kept): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| is_removed(audience, &entry.token));
            removed.extend(gone.iter().map(|entry| Arc::clone(&entry.token)));
            if removed.len() > before {
                *entries = kept.into_iter().cloned().collect();
            }
            !entries.is_empty()
        });
        self.count -= removed.len();
        removed
    }
}

impl Scope {
    fn concerns(&self, audience: &str, token: &AccessToken) -> bool {
        match self {
            Self::All => true,
            Self::Resource(concerned, rejected) => {
                resource(audience) == concerned
                    || token.audience == *concerned
                    || rejected.as_ref().is_some_and(|rejected| is(rejected, token))
            }
        }
    }
}

impl Renewal {
    fn begin(self: &Arc<Self>, now: u64) -> Option<Renewing> {
        let ended = self.0.load(Ordering::Relaxed);
        // A token whose renewal fails, or whose successor is due at once, is asked for once a second and not for each request.
        if ended == UNDER_WAY || ended == now {
            return None;
        }
        let is_first = self
            .0
            .compare_exchange(ended, UNDER_WAY, Ordering::AcqRel, Ordering::Relaxed);
        is_first.is_ok().then(|| Renewing(Arc::clone(self)))
    }
}

impl Drop for Renewing {
    fn drop(&mut self) {
        self.0.0.store(unix_time(), Ordering::Release);
    }
}

impl Drop for Invalidation {
    fn drop(&mut self) {
        let mut ledger = self.hits.ledger();
        ledger.generation.0 += 1;
        ledger.pending.retain(|(number, _)| *number != self.number);
    }
}

impl fmt::Debug for Hits {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.held.load().count;
        formatter
            .debug_struct("Hits")
            .field("count", &count)
            .finish_non_exhaustive()
    }
}

/// Whether a request asks for nothing but a token that is valid.
pub(crate) fn is_plain(request: &TokenRequest) -> bool {
    request.claims.is_none() && request.rejected_token.is_none()
}

/// The resource that an audience names: several spellings share tokens.
pub(crate) fn resource(audience: &str) -> &str {
    audience.strip_suffix(SCOPE_SUFFIX).unwrap_or(audience)
}

fn is(secret: &Secret, token: &AccessToken) -> bool {
    secret.matches(token.token.expose())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

    use super::*;

    const NOW: u64 = 1_000;

    fn request(audience: &str) -> TokenRequest {
        TokenRequest::new(audience)
    }

    fn token(text: &str, audience: &str) -> Arc<AccessToken> {
        Arc::new(AccessToken {
            token: Secret::from(text),
            token_type: "Bearer".to_owned(),
            audience: audience.to_owned(),
            expires_on: NOW + 100,
            refresh_on: NOW + 50,
            client_id: None,
            source: "imds".to_owned(),
            stale: false,
        })
    }

    fn keep(hits: &Hits, request: &TokenRequest, token: &Arc<AccessToken>) {
        hits.keep(request, token, hits.generation(), NOW);
    }

    /// The text of the token that is given at a time, and whether the provider need not be asked.
    fn given(hits: &Hits, request: &TokenRequest, now: u64) -> Option<(String, bool)> {
        let (fresh, held) = (hits.fresh(request, now), hits.held(request, now));
        let text = held.as_ref().map(|token| token.token.expose().to_owned());
        assert!(held.is_none_or(|token| token.stale), "what is not asked for is stale");
        if let Some(fresh) = &fresh {
            assert_eq!(Some(fresh.token.expose()), text.as_deref(), "what is fresh is held too");
            assert!(!fresh.stale);
        }
        text.map(|text| (text, fresh.is_some()))
    }

    fn holds(hits: &Hits, request: &TokenRequest) -> bool {
        given(hits, request, NOW).is_some()
    }

    #[test]
    fn a_token_is_given_until_its_successor_is_due_and_held_until_it_expires() {
        let hits = Hits::default();
        keep(&hits, &request("a"), &token("t", "a"));
        for (now, expected) in [
            (NOW, Some(true)),
            (NOW + 49, Some(true)),
            (NOW + 50, Some(false)),
            (NOW + 99, Some(false)),
            (NOW + 100, None),
            (u64::MAX, None),
        ] {
            let given = given(&hits, &request("a"), now).map(|(_, fresh)| fresh);
            assert_eq!(given, expected, "at {now}");
        }
    }

    #[test]
    fn whoever_cannot_wait_is_given_a_token_whose_successor_is_due_until_shortly_before_its_end() {
        let hits = Hits::default();
        let long = |expires_on| {
            let mut long = AccessToken::clone(&token("t", "a"));
            long.expires_on = expires_on;
            Arc::new(long)
        };
        keep(&hits, &request("a"), &long(NOW + 200));
        for (now, expected) in [
            (NOW, Some(false)),
            (NOW + 49, Some(false)),
            (NOW + 50, Some(true)),
            (NOW + 139, Some(true)),
            (NOW + 140, None),
            (NOW + 200, None),
        ] {
            let renewed = hits.valid(&request("a"), now).map(|(_, renewing)| renewing.is_some());
            assert_eq!(renewed, expected, "at {now}");
        }
        assert!(hits.valid(&request("a").with_claims("{}"), NOW).is_none());
        // Not due yet, and soon to end.
        keep(&hits, &request("b"), &long(NOW + 55));
        assert!(hits.valid(&request("b"), NOW + 49).is_some());
        assert!(hits.valid(&request("b"), NOW + 50).is_none());
    }

    #[test]
    fn one_at_a_time_renews_a_token_and_not_twice_in_a_second() {
        let hits = Hits::default();
        let now = unix_time();
        let due = |text| {
            let mut due = AccessToken::clone(&token(text, "a"));
            (due.refresh_on, due.expires_on) = (now, now + 10_000);
            Arc::new(due)
        };
        let keep = |token| hits.keep(&request("a"), &token, hits.generation(), now);
        let begins = |now| hits.valid(&request("a"), now).unwrap().1;
        keep(due("first"));
        let first = begins(now);
        assert!(first.is_some());
        assert!(begins(now + 5).is_none(), "one is under way");
        // What the provider answered is due as well.
        keep(due("second"));
        assert!(begins(now + 5).is_none(), "it has not ended");
        drop(first);
        let ended = unix_time();
        assert!(begins(ended).is_none(), "it has ended in this second");
        assert!(begins(ended + 1).is_some());
    }

    #[test]
    fn no_other_request_is_answered_with_it() {
        let hits = Hits::default();
        keep(&hits, &request("a"), &token("t", "a"));
        for other in [
            request("b"),
            request("a/.default"),
            request("a").with_identity(Identity::SystemAssigned),
            request("a").with_identity(Identity::ClientId("i".to_owned())),
            request("a").with_claims("{}"),
            request("a").with_claims(""),
            request("a").with_rejected_token(Secret::from("u")),
        ] {
            assert_eq!(given(&hits, &other, NOW), None, "{other:?}");
        }
        assert!(holds(&hits, &request("a").with_timeout(std::time::Duration::ZERO)));
    }

    #[test]
    fn stale_and_contradictory_tokens_are_not_given_without_asking() {
        let hits = Hits::default();
        let mut stale = AccessToken::clone(&token("t", "a"));
        stale.stale = true;
        keep(&hits, &request("a"), &Arc::new(stale));
        assert_eq!(given(&hits, &request("a"), NOW), Some(("t".to_owned(), false)));
        let mut contradictory = AccessToken::clone(&token("u", "b"));
        contradictory.refresh_on = u64::MAX;
        keep(&hits, &request("b"), &Arc::new(contradictory));
        assert_eq!(given(&hits, &request("b"), NOW + 100), None);
    }

    #[test]
    fn answers_to_claims_and_rejections_are_not_kept() {
        let hits = Hits::default();
        keep(&hits, &request("a").with_claims("{}"), &token("t", "a"));
        keep(
            &hits,
            &request("a").with_rejected_token(Secret::from("s")),
            &token("t", "a"),
        );
        assert!(!holds(&hits, &request("a")));
    }

    #[test]
    fn an_invalidation_removes_every_spelling_of_what_it_concerns_and_nothing_else() {
        let named = |identity: &str| Identity::ClientId(identity.to_owned());
        let all = [
            (request("https://x"), "t"),
            (request("https://x/.default"), "t"),
            (request("https://x").with_identity(named("i")), "t"),
            (request("https://x").with_identity(named("j")), "u"),
            // Another provider's idea of a spelling.
            (request("X"), "t"),
            (request("https://y"), "v"),
        ];
        type Begin = fn(&Arc<Hits>) -> Invalidation;
        let cases: [(&str, Begin, &[usize]); 6] = [
            (
                "claims",
                |hits| {
                    hits.challenged(&request("https://x/.default").with_claims("{}"))
                        .unwrap()
                },
                &[5],
            ),
            (
                "the token, elsewhere",
                |hits| {
                    let rejecting = request("https://z").with_rejected_token(Secret::from("t"));
                    hits.challenged(&rejecting).unwrap()
                },
                &[3, 5],
            ),
            (
                "another token",
                |hits| {
                    let rejecting = request("https://y").with_rejected_token(Secret::from("old"));
                    hits.challenged(&rejecting).unwrap()
                },
                &[0, 1, 2, 3, 4],
            ),
            ("forget", |hits| hits.forgotten(Some("https://x")), &[5]),
            ("forget all", |hits| hits.forgotten(None), &[]),
            (
                "forget a stranger",
                |hits| hits.forgotten(Some("https://z")),
                &[0, 1, 2, 3, 4, 5],
            ),
        ];
        for (what, begin, left) in cases {
            let hits = Arc::new(Hits::default());
            for (request, text) in &all {
                let resource = resource(&request.audience).to_ascii_lowercase();
                keep(
                    &hits,
                    request,
                    &token(text, if resource == "x" { "https://x" } else { &resource }),
                );
            }
            assert_eq!(hits.held.load().count, all.len());
            let _pending = begin(&hits);
            let found: Vec<usize> = (0..all.len()).filter(|index| holds(&hits, &all[*index].0)).collect();
            assert_eq!(found, left, "{what}");
            assert_eq!(hits.held.load().count, left.len(), "{what}");
        }
    }

    #[test]
    fn a_plain_request_invalidates_nothing() {
        let hits = Arc::new(Hits::default());
        assert!(hits.challenged(&request("a")).is_none());
    }

    /// Every order of the two: what is asked before the end of an invalidation is not kept, whenever it is answered.
    #[test]
    fn an_answer_to_an_earlier_question_is_not_kept_after_an_invalidation() {
        let forget = |hits: &Arc<Hits>| hits.forgotten(Some("a"));
        let challenge = |hits: &Arc<Hits>| hits.challenged(&request("a").with_claims("{}")).unwrap();
        let begins: [fn(&Arc<Hits>) -> Invalidation; 2] = [forget, challenge];
        // The steps are: asked, answered, begun, ended.
        for (steps, kept) in [
            ("asked begun answered ended", false),
            ("asked begun ended answered", false),
            ("begun asked answered ended", false),
            ("begun asked ended answered", false),
            ("asked answered begun ended", false),
            ("begun ended asked answered", true),
        ] {
            for begin in begins {
                let hits = Arc::new(Hits::default());
                let (mut asked, mut pending) = (None, None);
                for step in steps.split(' ') {
                    match step {
                        "asked" => asked = Some(hits.generation()),
                        "answered" => hits.keep(&request("a"), &token("t", "a"), asked.unwrap(), NOW),
                        "begun" => pending = Some(begin(&hits)),
                        _ => drop(pending.take()),
                    }
                }
                assert_eq!(holds(&hits, &request("a")), kept, "{steps}");
            }
        }
    }

    #[test]
    fn what_is_pending_for_one_audience_does_not_keep_others_from_being_kept() {
        let hits = Arc::new(Hits::default());
        let _pending = hits.challenged(&request("a").with_claims("{}"));
        keep(&hits, &request("b"), &token("t", "b"));
        keep(&hits, &request("a/.default"), &token("u", "a"));
        keep(&hits, &request("A"), &token("u", "a"));
        assert!(holds(&hits, &request("b")) && !holds(&hits, &request("a/.default")) && !holds(&hits, &request("A")));
    }

    #[test]
    fn a_token_that_was_rejected_or_challenged_is_not_kept_again_and_a_forgotten_one_is() {
        let hits = Arc::new(Hits::default());
        keep(&hits, &request("a"), &token("challenged", "a"));
        drop(hits.challenged(&request("a").with_claims("{}")));
        drop(hits.challenged(&request("a").with_rejected_token(Secret::from("rejected"))));
        for refused in ["challenged", "rejected"] {
            keep(&hits, &request("a"), &token(refused, "a"));
            assert!(!holds(&hits, &request("a")), "{refused}");
        }
        for _ in 0..2 {
            keep(&hits, &request("a"), &token("forgotten", "a"));
            assert!(holds(&hits, &request("a")));
            drop(hits.forgotten(None));
        }
    }

    #[test]
    fn a_late_rejection_does_not_keep_the_successor_from_being_kept() {
        let hits = Arc::new(Hits::default());
        keep(&hits, &request("a"), &token("new", "a"));
        drop(hits.challenged(&request("a").with_rejected_token(Secret::from("old"))));
        assert!(!holds(&hits, &request("a")));
        keep(&hits, &request("a"), &token("new", "a"));
        assert!(holds(&hits, &request("a")));
    }

    #[test]
    fn a_full_cache_drops_what_has_expired_and_then_what_expires_first() {
        let hits = Hits::default();
        let expiring = |number: u64| {
            let mut token = AccessToken::clone(&token(&number.to_string(), "a"));
            token.expires_on = NOW + 1 + number;
            Arc::new(token)
        };
        let audience =
            |number: u64| request(&format!("a{}", number / 2)).with_identity(Identity::ClientId(number.to_string()));
        let full = CAPACITY as u64;
        for number in 0..full {
            keep(&hits, &audience(number), &expiring(number));
        }
        // Ten have expired by then, and go.
        hits.keep(&audience(full), &expiring(full), hits.generation(), NOW + 10);
        assert_eq!(hits.held.load().count, CAPACITY - 9);
        assert!(!holds(&hits, &audience(9)) && holds(&hits, &audience(10)));
        for number in full + 1..full + 11 {
            keep(&hits, &audience(number), &expiring(number));
        }
        assert_eq!(hits.held.load().count, CAPACITY);
        assert!(!holds(&hits, &audience(10)) && holds(&hits, &audience(11)));
        // A successor takes no room.
        keep(&hits, &audience(11), &expiring(5_000));
        assert!(holds(&hits, &audience(12)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_expired_is_dropped_without_being_asked_for() {
        let hits = Hits::default();
        let [soon, later] = ["soon", "later"].map(|text| {
            let mut token = AccessToken::clone(&token(text, text));
            token.expires_on = NOW + if text == "soon" { 20 } else { 1_000 };
            Arc::new(token)
        });
        keep(&hits, &request("soon"), &soon);
        keep(&hits, &request("later"), &later);
        let began = tokio::time::Instant::now();
        let now = || NOW + began.elapsed().as_secs();
        let aged = tokio::time::timeout(std::time::Duration::from_secs(61), hits.age(now)).await;
        assert!(aged.is_err());
        assert_eq!((Arc::strong_count(&soon), Arc::strong_count(&later)), (1, 2));
        assert_eq!(hits.held.load().count, 1);
    }

    #[test]
    fn a_closed_one_holds_nothing() {
        let hits = Hits::default();
        keep(&hits, &request("a"), &token("t", "a"));
        hits.close();
        assert!(!holds(&hits, &request("a")));
        keep(&hits, &request("a"), &token("t", "a"));
        assert!(!holds(&hits, &request("a")));
    }

    #[test]
    fn a_debug_print_shows_no_token() {
        let hits = Hits::default();
        keep(&hits, &request("a"), &token("s3cr3t", "a"));
        assert_eq!(format!("{hits:?}"), "Hits { count: 1, .. }");
    }
}
