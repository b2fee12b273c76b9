//! Each test is of instances that live for one call, as many as it takes, on one store that outlives them.

mod rejected;

use super::*;
use crate::settings::NAMESPACE;
use crate::surroundings::Origin;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

const VAULT: &str = "https://vault.azure.net";
const STORAGE: &str = "https://storage.azure.com";
const CLIENT_ID: &str = "6f70b3b5-a6bc-4f5a-9c5e-0a1b2c3d4e5f";
const START: u64 = 1_700_000_000;

/// Two keys as `openssl rand -base64 32` prints them.
const FIRST: &str = "kAcsmbWcVhCdwSkoAq3MgwDOVeMwpoeQtFm6TRAR9Rg=";
const SECOND: &str = "8NtYzWvzFHUIvzgRRqnuw2wo3wuWqTRB0ftFVAM8R9s=";

/// What all instances see. What is called of it is counted.
struct World {
    values: RefCell<BTreeMap<String, Vec<u8>>>,
    fault: Cell<Faulty>,
    writes: Cell<usize>,
    /// The store takes so long for each call, in milliseconds.
    delay: Cell<u64>,
    clock: Cell<Duration>,
    unix_time: Cell<u64>,
    drawn: Cell<u64>,
    environment: RefCell<Vec<(String, String)>>,
    origin: RefCell<Option<Origin>>,
    /// What the platform does when it is asked next; after that it has no more to give.
    platform: RefCell<VecDeque<Answer>>,
    asked: RefCell<Vec<Asked>>,
    forgotten: RefCell<Vec<Option<String>>>,
}

/// What a store can fail at.
#[derive(Clone, Copy, Default, PartialEq)]
enum Faulty {
    #[default]
    Nothing,
    Open(StoreFault),
    Get,
    Set,
    Delete,
    /// `Set` and `Delete`.
    Change,
    List,
    Everything,
}

enum Answer {
    Token(AccessToken),
    Failure(&'static str, Option<Duration>),
    /// As the one before, after so many seconds.
    Late(u64, Box<Answer>),
    /// As the one before, after what other instances do meanwhile.
    Meanwhile(Box<dyn FnOnce(&Rc<World>)>, Box<Answer>),
}

/// What the provider was asked.
#[derive(Clone, Debug, PartialEq, Default)]
struct Asked {
    audience: String,
    claims: Option<String>,
    rejected: Option<String>,
    timeout_ms: Option<u32>,
}

#[derive(Debug, PartialEq)]
enum TestError {
    NotConfigured(String),
    TokenRejected(String),
    Platform(&'static str, Option<Duration>),
}

impl Failure for TestError {
    fn not_configured(message: String) -> Self {
        Self::NotConfigured(message)
    }

    fn token_rejected(message: String) -> Self {
        Self::TokenRejected(message)
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Platform(_, wait) => *wait,
            _ => None,
        }
    }
}

impl World {
    fn new() -> Rc<Self> {
        let world = Self {
            values: RefCell::default(),
            fault: Cell::default(),
            writes: Cell::default(),
            delay: Cell::default(),
            clock: Cell::new(Duration::from_secs(5)),
            unix_time: Cell::new(START),
            drawn: Cell::default(),
            environment: RefCell::default(),
            origin: RefCell::new(Some(Origin {
                source: "imds".to_owned(),
                endpoint: "http://169.254.169.254/metadata/identity/oauth2/token".to_owned(),
            })),
            platform: RefCell::default(),
            asked: RefCell::default(),
            forgotten: RefCell::default(),
        };
        world.variable(KEY, FIRST);
        Rc::new(world)
    }

    /// In which the token "one", of an hour, is in the store.
    fn with_token() -> Rc<Self> {
        let world = Self::new();
        world.will(hour("one"));
        assert_eq!(world.token(), ok("one"));
        world
    }

    fn variable(&self, name: &str, value: &str) {
        let mut environment = self.environment.borrow_mut();
        environment.retain(|(known, _)| known != name);
        environment.push((name.to_owned(), value.to_owned()));
    }

    /// What a new instance answers.
    fn ask(self: &Rc<Self>, request: TokenRequest) -> Result<AccessToken, TestError> {
        self.instance().get_token(request)
    }

    /// What a new instance answers to a plain request for the vault.
    fn token(self: &Rc<Self>) -> Result<(String, bool), TestError> {
        self.ask(request(VAULT))
            .map(|token| (token.secret.expose().to_owned(), token.stale))
    }

    fn instance(self: &Rc<Self>) -> Cache<Rc<Self>, Script> {
        Cache::new(Rc::clone(self), Script(Rc::clone(self)))
    }

    /// The platform's next answer.
    fn will(&self, answer: Answer) {
        self.platform.borrow_mut().push_back(answer);
    }

    /// How often the platform was asked.
    fn requests(&self) -> usize {
        self.asked.borrow().len()
    }

    fn pass(&self, time: Duration) {
        self.clock.set(self.clock.get() + time);
        self.unix_time.set(self.unix_time.get() + time.as_secs());
    }

    fn pass_seconds(&self, seconds: u64) {
        self.pass(Duration::from_secs(seconds));
    }

    fn works(&self, at: Faulty) -> Result<(), StoreFault> {
        self.pass(Duration::from_millis(self.delay.get()));
        match self.fault.get() {
            fault if fault == at || fault == Faulty::Everything => Err(StoreFault::Failed),
            Faulty::Change if at == Faulty::Set || at == Faulty::Delete => Err(StoreFault::Failed),
            _ => Ok(()),
        }
    }

    /// Changes what is stored for a plain request for the vault, as an instance does.
    fn edit(self: &Rc<Self>, change: impl Fn(&mut Entry)) {
        let environment = self.environment();
        let settings = Settings::read(&environment).expect("a good key");
        let instance = self.instance();
        let place = instance
            .place(&settings, &environment, &request(VAULT))
            .expect("a store");
        let mut entry = place.read().expect("a store that works");
        change(&mut entry);
        place.write(&entry, self);
    }

    fn tamper(&self, change: impl Fn(&mut Vec<u8>)) {
        let mut values = self.values.borrow_mut();
        assert!(!values.is_empty(), "there is nothing to tamper with");
        values.values_mut().for_each(change);
    }
}

impl Surroundings for Rc<World> {
    type Store = Self;

    fn open(&self, name: &str) -> Result<Self, StoreFault> {
        match self.fault.get() {
            Faulty::Open(fault) => Err(fault),
            Faulty::Everything => Err(StoreFault::Failed),
            // The name is part of the names of entries, so that two stores have nothing in common.
            _ if name == "default" || name.is_empty() => Ok(Rc::clone(self)),
            _ => Err(StoreFault::NoSuchStore),
        }
    }

    fn environment(&self) -> Vec<(String, String)> {
        self.environment.borrow().clone()
    }

    fn unix_time(&self) -> u64 {
        self.unix_time.get()
    }

    fn monotonic(&self) -> Duration {
        self.clock.get()
    }

    /// Never the same bytes again.
    fn random(&self, length: usize) -> Vec<u8> {
        self.drawn.set(self.drawn.get() + 1);
        let drawn = self.drawn.get().to_be_bytes();
        drawn.iter().copied().cycle().take(length).collect()
    }
}

impl Store for Rc<World> {
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreFault> {
        self.works(Faulty::Get)?;
        Ok(self.values.borrow().get(name).cloned())
    }

    fn set(&self, name: &str, value: &[u8]) -> Result<(), StoreFault> {
        self.works(Faulty::Set)?;
        self.writes.set(self.writes.get() + 1);
        self.values.borrow_mut().insert(name.to_owned(), value.to_vec());
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<(), StoreFault> {
        self.works(Faulty::Delete)?;
        self.values.borrow_mut().remove(name);
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>, StoreFault> {
        self.works(Faulty::List)?;
        Ok(self.values.borrow().keys().cloned().collect())
    }
}

/// A provider without a memory, as a new instance has it, but which keeps its promise for the token of the request.
struct Script(Rc<World>);

impl Provider for Script {
    type Error = TestError;

    fn get_token(&self, request: &TokenRequest) -> Result<AccessToken, TestError> {
        self.0.asked.borrow_mut().push(Asked {
            audience: request.audience.clone(),
            claims: request.claims.clone(),
            rejected: request.rejected_token.as_ref().map(|token| token.expose().to_owned()),
            timeout_ms: request.timeout_ms,
        });
        let mut answer = self
            .0
            .platform
            .borrow_mut()
            .pop_front()
            .expect("the platform was not to be asked");
        if let Answer::Late(seconds, then) = answer {
            self.0.pass_seconds(seconds);
            answer = *then;
        }
        if let Answer::Meanwhile(others, then) = answer {
            others(&self.0);
            answer = *then;
        }
        match answer {
            Answer::Token(token) => Ok(token),
            Answer::Failure(what, wait) => Err(TestError::Platform(what, wait)),
            Answer::Late(..) | Answer::Meanwhile(..) => unreachable!("one of them is enough"),
        }
    }

    fn forget(&self, audience: Option<&str>) {
        self.0.forgotten.borrow_mut().push(audience.map(str::to_owned));
    }

    fn origin(&self) -> Option<Origin> {
        self.0.origin.borrow().clone()
    }
}

fn request(audience: &str) -> TokenRequest {
    TokenRequest {
        audience: audience.to_owned(),
        identity: Identity::PlatformDefault,
        claims: None,
        rejected_token: None,
        timeout_ms: None,
    }
}

fn rejecting(token: &str) -> TokenRequest {
    TokenRequest {
        rejected_token: Some(Secret::new(token.to_owned())),
        ..request(VAULT)
    }
}

fn with_claims(claims: &str) -> TokenRequest {
    TokenRequest {
        claims: Some(claims.to_owned()),
        ..request(VAULT)
    }
}

/// A token of an hour, to be renewed after half of it.
fn hour(secret: &str) -> Answer {
    Answer::Token(access_token(secret, START + 3600))
}

fn access_token(secret: &str, expires_on: u64) -> AccessToken {
    AccessToken {
        secret: Secret::new(secret.to_owned()),
        token_type: "Bearer".to_owned(),
        audience: VAULT.to_owned(),
        expires_on,
        refresh_on: expires_on - 1800,
        client_id: Some(CLIENT_ID.to_owned()),
        source: "imds".to_owned(),
        stale: false,
    }
}

fn ok(secret: &str) -> Result<(String, bool), TestError> {
    Ok((secret.to_owned(), false))
}

fn stale(secret: &str) -> Result<(String, bool), TestError> {
    Ok((secret.to_owned(), true))
}

const DOWN: Answer = Answer::Failure("down", None);

fn down() -> Result<(String, bool), TestError> {
    Err(TestError::Platform("down", None))
}

#[test]
fn instances_share_one_request_until_the_token_is_to_be_renewed() {
    let world = World::new();
    world.will(hour("one"));
    for _ in 0..10 {
        let token = world.ask(request(VAULT)).unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(
            (
                token.secret.expose(),
                token.token_type.as_str(),
                token.audience.as_str(),
                token.stale
            ),
            ("one", "Bearer", VAULT, false)
        );
        assert_eq!((token.expires_on, token.refresh_on), (START + 3600, START + 1800));
        assert_eq!(
            (token.client_id.as_deref(), token.source.as_str()),
            (Some(CLIENT_ID), "imds")
        );
        world.pass_seconds(179);
    }
    assert_eq!((world.requests(), world.writes.get()), (1, 1));
    world.pass_seconds(10);
    world.will(Answer::Token(access_token("two", START + 5400)));
    assert_eq!((world.token(), world.token()), (ok("two"), ok("two")));
    assert_eq!(world.requests(), 2);
}

#[test]
fn without_a_good_key_there_is_no_token_and_the_error_says_what_to_do() {
    let cases: &[(&str, &str)] = &[
        ("", "MANAGED_IDENTITY_CACHE_KEY is not set"),
        (" ", "MANAGED_IDENTITY_CACHE_KEY is not set"),
        ("c2VjcmV0", "Key 1 in MANAGED_IDENTITY_CACHE_KEY does not have 32 bytes"),
        ("not base64!", "Key 1 in MANAGED_IDENTITY_CACHE_KEY is not base64"),
        (
            &format!("{FIRST},c2VjcmV0"),
            "Key 2 in MANAGED_IDENTITY_CACHE_KEY does not have 32 bytes",
        ),
        (
            &format!("{FIRST},"),
            "Key 2 in MANAGED_IDENTITY_CACHE_KEY does not have 32 bytes",
        ),
        (
            &format!("{FIRST}AA=="),
            "Key 1 in MANAGED_IDENTITY_CACHE_KEY is not base64",
        ),
        (&[FIRST; 9].join(","), "more than 8 keys"),
    ];
    for (key, expected) in cases {
        let world = World::new();
        world.variable(KEY, key);
        let Err(TestError::NotConfigured(message)) = world.token() else {
            panic!("{key:?} was taken for a key");
        };
        assert!(
            message.contains(expected) && message.contains("`openssl rand -base64 32`"),
            "{key:?}: {message}"
        );
        for part in key.split(',').filter(|part| !part.trim().is_empty()) {
            assert!(!message.contains(part), "{message}");
        }
        assert_eq!(world.requests(), 0, "{key:?}");
        assert_eq!(world.instance().reason(), message);
    }
    let world = World::new();
    world.environment.borrow_mut().clear();
    assert!(matches!(world.token(), Err(TestError::NotConfigured(_))));
}

#[test]
fn keys_are_taken_as_people_write_them() {
    for key in [
        format!(" {FIRST}\n"),
        FIRST.trim_end_matches('=').to_owned(),
        format!("{FIRST}, {SECOND}"),
    ] {
        let world = World::new();
        world.will(hour("one"));
        assert_eq!(world.token(), ok("one"));
        world.variable(KEY, &key);
        assert_eq!((world.token(), world.requests()), (ok("one"), 1), "{key:?}");
    }
}

#[test]
fn the_first_key_encrypts_and_all_decrypt() {
    let both = format!("{SECOND},{FIRST}");
    let world = World::with_token();
    // The new key goes in front, and what the old one encrypted is still read.
    world.variable(KEY, &both);
    assert_eq!((world.token(), world.requests()), (ok("one"), 1));
    // Whoever has only the new one does not read it.
    world.variable(KEY, SECOND);
    world.will(DOWN);
    assert_eq!(world.token(), down());
    // With the next token, the entry of the old key goes.
    world.variable(KEY, &both);
    world.pass_seconds(1800);
    world.will(Answer::Token(access_token("two", START + 5400)));
    assert_eq!(world.token(), ok("two"));
    assert_eq!(world.values.borrow().len(), 1);
    world.variable(KEY, SECOND);
    assert_eq!(world.token(), ok("two"));
    world.variable(KEY, FIRST);
    world.will(DOWN);
    assert_eq!(world.token(), down());
}

#[test]
fn only_the_same_selection_finds_the_token() {
    let other_origin = |world: &World, source: &str, endpoint: &str| {
        *world.origin.borrow_mut() = Some(Origin {
            source: source.to_owned(),
            endpoint: endpoint.to_owned(),
        });
    };
    type Change<'a> = (&'a str, &'a dyn Fn(&World));
    let changes: &[Change<'_>] = &[
        ("another key", &|world| world.variable(KEY, SECOND)),
        ("a namespace", &|world| world.variable(NAMESPACE, "blue")),
        ("another source", &|world| {
            other_origin(
                world,
                "azure-arc",
                "http://169.254.169.254/metadata/identity/oauth2/token",
            );
        }),
        ("another endpoint", &|world| {
            other_origin(world, "imds", "http://127.0.0.1:1/token")
        }),
        ("another client", &|world| world.variable("AZURE_CLIENT_ID", CLIENT_ID)),
        ("another tenant", &|world| world.variable("AZURE_TENANT_ID", "contoso")),
        ("another authority", &|world| {
            world.variable("AZURE_AUTHORITY_HOST", "https://login.chinacloudapi.cn")
        }),
        ("another default", &|world| {
            world.variable("DEFAULT_IDENTITY_CLIENT_ID", CLIENT_ID)
        }),
        ("another app", &|world| world.variable("IDENTITY_HEADER", "secret")),
    ];
    for (what, change) in changes {
        let world = World::new();
        world.will(hour("one"));
        assert_eq!(world.token(), ok("one"));
        change(&world);
        world.will(hour("other"));
        assert_eq!(world.token(), ok("other"), "{what}");
        // Neither has taken the place of the other.
        assert_eq!(world.values.borrow().len(), 2, "{what}");
    }
    let world = World::with_token();
    for (identity, audience) in [
        (Identity::SystemAssigned, VAULT),
        (Identity::ClientId(CLIENT_ID.to_owned()), VAULT),
        (Identity::ObjectId(CLIENT_ID.to_owned()), VAULT),
        (Identity::ResourceId(CLIENT_ID.to_owned()), VAULT),
        (Identity::PlatformDefault, STORAGE),
    ] {
        world.will(hour("other"));
        let other = TokenRequest {
            identity,
            ..request(audience)
        };
        assert_eq!(
            world.ask(other).map(|token| token.secret.expose().to_owned()),
            Ok("other".to_owned())
        );
    }
    let scope = world.ask(request("https://vault.azure.net/.default"));
    assert_eq!(
        scope.map(|token| token.secret.expose().to_owned()),
        Ok("one".to_owned())
    );
}

#[test]
fn what_somebody_else_wrote_is_no_entry_and_is_replaced() {
    type Change<'a> = (&'a str, &'a dyn Fn(&mut Vec<u8>));
    let changes: &[Change<'_>] = &[
        ("emptied", &|value| value.clear()),
        ("cut short", &|value| value.truncate(value.len() - 1)),
        ("cut to its nonce", &|value| value.truncate(1 + NONCE)),
        ("lengthened", &|value| value.push(0)),
        ("too long", &|value| value.resize(1 << 20, 0)),
        ("of another form", &|value| value[0] = 2),
        ("with another nonce", &|value| value[1] ^= 1),
        ("with a flipped bit", &|value| value[40] ^= 1),
        ("with another tag", &|value| {
            *value.last_mut().expect("not empty") ^= 0x80
        }),
        ("text", &|value| *value = b"hello".to_vec()),
    ];
    for (what, change) in changes {
        let world = World::new();
        world.will(hour("one"));
        assert_eq!(world.token(), ok("one"));
        world.tamper(change);
        world.will(hour("two"));
        assert_eq!((world.token(), world.token()), (ok("two"), ok("two")), "{what}");
        assert_eq!(world.requests(), 2, "{what}");
    }
}

#[test]
fn an_entry_in_the_place_of_another_is_no_entry() {
    let world = World::new();
    world.will(hour("vault"));
    world.will(hour("storage"));
    assert_eq!(world.token(), ok("vault"));
    assert!(world.ask(request(STORAGE)).is_ok());
    {
        let mut values = world.values.borrow_mut();
        let swapped: Vec<_> = values.values().rev().cloned().collect();
        assert_eq!(swapped.len(), 2);
        values
            .values_mut()
            .zip(swapped)
            .for_each(|(value, other)| *value = other);
    }
    world.will(hour("vault again"));
    assert_eq!(world.token(), ok("vault again"));
}

#[test]
fn nothing_that_can_be_read_stands_in_the_store() {
    let world = World::new();
    world.variable("AZURE_TENANT_ID", "tenant-of-contoso");
    world.variable(NAMESPACE, "namespace-blue");
    world.will(hour("one-very-secret-token"));
    let named = TokenRequest {
        identity: Identity::ClientId(CLIENT_ID.to_owned()),
        ..request(VAULT)
    };
    assert!(world.ask(named).is_ok());
    let values = world.values.borrow();
    let (name, value) = values.first_key_value().expect("one entry");
    let all: Vec<u8> = [name.as_bytes(), value].concat();
    let readable = [
        "one-very-secret-token",
        VAULT,
        CLIENT_ID,
        "tenant-of-contoso",
        "namespace-blue",
        "169.254.169.254",
        "Bearer",
        "imds",
        FIRST,
    ];
    for text in readable {
        let found = |needle: &[u8]| all.windows(needle.len()).any(|part| part == needle);
        assert!(!found(text.as_bytes()), "{text} stands there");
        for shift in 0..3 {
            // In base64, a text looks different by where it begins, and its ends depend on what is beside it.
            let encoded = STANDARD.encode([&vec![0; shift], text.as_bytes()].concat());
            let middle = encoded.get(4..encoded.len() - 4).filter(|middle| middle.len() >= 8);
            assert!(
                !middle.is_some_and(|middle| found(middle.as_bytes())),
                "{text} stands there in base64"
            );
        }
    }
    assert!(
        !value.windows(32).any(|part| STANDARD.encode(part) == FIRST),
        "the key stands there"
    );
}

#[test]
fn a_second_instance_encrypts_with_another_nonce() {
    let world = World::new();
    let mut nonces = Vec::new();
    for number in 0..5 {
        world.will(Answer::Token(access_token("same", START + 3600 + number * 1800)));
        assert_eq!(world.token(), ok("same"));
        nonces.push(world.values.borrow().values().next().expect("an entry")[1..1 + NONCE].to_vec());
        world.pass_seconds(1800);
    }
    let number = nonces.len();
    nonces.sort();
    nonces.dedup();
    assert_eq!(nonces.len(), number);
}

#[test]
fn a_token_is_not_handed_out_when_it_may_be_expired() {
    for (passed, expected) in [(3589, stale("one")), (3590, down()), (3600, down()), (90_000, down())] {
        let world = World::new();
        world.will(hour("one"));
        assert_eq!(world.token(), ok("one"));
        world.pass_seconds(passed);
        world.will(DOWN);
        assert_eq!(world.token(), expected, "after {passed} s");
        // What is of no use does not stay.
        assert_eq!(world.values.borrow().is_empty(), expected == down(), "after {passed} s");
    }
    // One that has expired while its successor was asked for.
    let world = World::with_token();
    world.pass_seconds(3589);
    world.will(Answer::Late(2, Box::new(DOWN)));
    assert_eq!(world.token(), down());
}

#[test]
fn a_valid_token_is_not_withheld_because_its_renewal_failed_and_nobody_asks_for_a_while() {
    let world = World::new();
    world.will(Answer::Token(access_token("one", START + 90_000)));
    assert_eq!(world.token(), ok("one"));
    world.pass_seconds(90_000 - 1800);
    let mut longest = 0;
    for (failures, (shortest, ever)) in [(30, 45), (60, 90), (120, 180), (240, 360), (480, 720)]
        .into_iter()
        .enumerate()
    {
        world.will(DOWN);
        assert_eq!(world.token(), stale("one"));
        let mut waited = 0;
        while world.platform.borrow().is_empty() && waited < 2000 {
            assert_eq!(world.requests(), failures + 2, "asked after {waited} s");
            world.pass_seconds(1);
            waited += 1;
            if waited < shortest {
                assert_eq!(world.token(), stale("one"));
            } else if waited == ever {
                break;
            }
        }
        longest = waited;
    }
    assert_eq!(longest, 720);
    // When it succeeds, all is as before.
    world.will(Answer::Token(access_token("two", START + 180_000)));
    assert_eq!((world.token(), world.token()), (ok("two"), ok("two")));
}

#[test]
fn nobody_asks_before_the_platform_wants_to_be_asked() {
    for (hint, asked_after) in [(100, 101), (300, 301), (86_400, 720)] {
        let world = World::new();
        world.will(hour("one"));
        assert_eq!(world.token(), ok("one"));
        world.pass_seconds(1800);
        world.will(Answer::Failure("throttled", Some(Duration::from_secs(hint))));
        assert_eq!(world.token(), stale("one"));
        world.pass_seconds(asked_after - 1);
        assert_eq!((world.token(), world.requests()), (stale("one"), 2), "{hint}");
        world.pass_seconds(1);
        world.will(hour("two"));
        assert_eq!(world.token(), ok("two"), "{hint}");
    }
}

#[test]
fn while_one_instance_asks_for_the_successor_others_use_the_token() {
    let world = World::with_token();
    world.pass_seconds(1800);
    // One that was cut off in the middle of it.
    world.edit(|entry| entry.lease(START + 1800));
    for _ in 0..10 {
        assert_eq!((world.token(), world.requests()), (ok("one"), 1));
        world.pass_seconds(1);
    }
    world.will(hour("two"));
    assert_eq!(world.token(), ok("two"));
}

#[test]
fn the_lease_is_in_the_store_while_the_provider_is_asked() {
    let world = World::with_token();
    world.pass_seconds(1800);
    let others = |world: &Rc<World>| {
        let requests = world.requests();
        assert_eq!(world.token(), ok("one"));
        assert_eq!(world.requests(), requests, "it waits for whoever asks");
    };
    world.will(Answer::Meanwhile(Box::new(others), Box::new(hour("two"))));
    assert_eq!((world.token(), world.requests()), (ok("two"), 2));
}

#[test]
fn an_instance_that_cannot_read_sees_no_token_and_writes_none() {
    let world = World::with_token();
    let before = world.values.borrow().clone();
    world.pass_seconds(1800);
    world.fault.set(Faulty::Get);
    world.will(DOWN);
    assert_eq!(world.token(), down());
    assert_eq!(*world.values.borrow(), before);
}

#[test]
fn a_clock_that_went_wrong_keeps_nobody_from_asking_for_long() {
    let world = World::with_token();
    world.pass_seconds(1800);
    // Another machine has failed by a clock that is a day ahead.
    world.edit(|entry| entry.fail(START + 86_400, 0, None));
    world.will(hour("two"));
    assert_eq!(world.token(), ok("two"));
}

#[test]
fn claims_go_to_the_provider_and_their_token_is_kept() {
    let world = World::with_token();
    world.will(hour("two"));
    let answered = world
        .ask(with_claims("{}"))
        .map(|token| token.secret.expose().to_owned());
    assert_eq!(answered, Ok("two".to_owned()));
    let asked = world.asked.borrow().last().cloned().unwrap_or_default();
    assert_eq!(asked.claims.as_deref(), Some("{}"));
    // Who brings claims has had the stored token rejected, and the provider has not seen it.
    assert_eq!(asked.rejected.as_deref(), Some("one"));
    assert_eq!((world.token(), world.requests()), (ok("two"), 2));
    // A challenge that cannot be met is an error, and leaves the token to those who bring none.
    world.will(DOWN);
    assert_eq!(
        world.ask(with_claims("{}")).map(drop),
        Err(TestError::Platform("down", None))
    );
    assert_eq!((world.token(), world.requests()), (ok("two"), 3));
}

#[test]
fn a_renewal_that_fails_gives_what_another_instance_got_meanwhile() {
    let world = World::with_token();
    world.pass_seconds(1800);
    let renew = |world: &Rc<World>| world.edit(|entry| entry.keep(access_token("two", START + 7200)));
    world.will(Answer::Meanwhile(Box::new(renew), Box::new(DOWN)));
    assert_eq!(world.token(), ok("two"));
    assert_eq!((world.token(), world.requests()), (ok("two"), 2));
}

#[test]
fn forgetting_takes_one_audience_or_all_of_this_deployment() {
    let world = World::new();
    let fill = |world: &Rc<World>| {
        for audience in [VAULT, STORAGE] {
            for identity in [Identity::SystemAssigned, Identity::ClientId(CLIENT_ID.to_owned())] {
                world.will(hour("one"));
                let filling = TokenRequest {
                    identity,
                    ..request(audience)
                };
                assert!(world.ask(filling).is_ok());
            }
        }
    };
    fill(&world);
    world.variable(NAMESPACE, "theirs");
    fill(&world);
    world
        .values
        .borrow_mut()
        .insert("of somebody else".to_owned(), b"x".to_vec());
    world.variable(NAMESPACE, "");
    assert_eq!(world.values.borrow().len(), 9);
    let cases = [
        (Some("https://no.such.audience"), 9),
        (Some("https://vault.azure.net/.default"), 7),
        (Some(VAULT), 7),
        (None, 5),
    ];
    for (audience, left) in cases {
        world.instance().forget(audience);
        assert_eq!(world.values.borrow().len(), left, "{audience:?}");
        assert_eq!(world.forgotten.borrow().last(), Some(&audience.map(str::to_owned)));
    }
    assert!(world.values.borrow().contains_key("of somebody else"));
}

#[test]
fn forgetting_reaches_what_older_keys_encrypted_and_keeps_what_was_rejected() {
    let world = World::with_token();
    world.variable(KEY, &format!("{SECOND},{FIRST}"));
    world.instance().forget(None);
    assert!(world.values.borrow().is_empty());
    world.will(hour("two"));
    assert!(world.ask(rejecting("one")).is_ok());
    world.instance().forget(Some(VAULT));
    world.will(hour("one"));
    world.will(hour("three"));
    assert_eq!(world.token(), ok("three"));
}

#[test]
fn a_store_that_cannot_list_forgets_the_identities_without_a_name() {
    let world = World::new();
    for identity in [
        Identity::PlatformDefault,
        Identity::SystemAssigned,
        Identity::ClientId(CLIENT_ID.to_owned()),
    ] {
        world.will(hour("one"));
        let filling = TokenRequest {
            identity,
            ..request(VAULT)
        };
        assert!(world.ask(filling).is_ok());
    }
    world.fault.set(Faulty::List);
    world.instance().forget(None);
    assert_eq!(world.values.borrow().len(), 3);
    world.instance().forget(Some(VAULT));
    assert_eq!(world.values.borrow().len(), 1);
}

#[test]
fn a_store_that_fails_costs_no_token() {
    for (what, fault) in [
        ("no store", Faulty::Open(StoreFault::NoSuchStore)),
        ("denied", Faulty::Open(StoreFault::AccessDenied)),
        ("closed", Faulty::Open(StoreFault::Failed)),
        ("get", Faulty::Get),
        ("set", Faulty::Set),
        ("delete", Faulty::Delete),
        ("everything", Faulty::Everything),
    ] {
        let world = World::new();
        world.fault.set(fault);
        world.will(hour("one"));
        assert_eq!(world.token(), ok("one"), "{what}");
        // One who is told of a rejection passes it on.
        world.will(hour("two"));
        assert!(world.ask(rejecting("one")).is_ok(), "{what}");
        assert_eq!(
            world
                .asked
                .borrow()
                .last()
                .and_then(|asked| asked.rejected.clone())
                .as_deref(),
            Some("one")
        );
        world.will(DOWN);
        world.instance().forget(None);
        if fault != Faulty::Delete {
            assert_eq!(world.token(), down(), "{what}");
        }
    }
}

#[test]
fn what_cannot_be_kept_or_is_no_news_is_not_kept() {
    let long = "x".repeat(80 * 1024);
    let unfresh = AccessToken {
        stale: true,
        ..access_token("one", START + 3600)
    };
    for (what, answer, is_stale) in [
        ("too long", hour(&long), false),
        ("stale", Answer::Token(unfresh), true),
    ] {
        let world = World::new();
        world.will(answer);
        assert_eq!(world.token().map(|(_, stale)| stale), Ok(is_stale), "{what}");
        assert!(world.values.borrow().is_empty(), "{what}");
    }
}

#[test]
fn the_store_is_not_asked_for_what_no_provider_grants() {
    let world = World::new();
    let long = "x".repeat(3000);
    for unusual in [
        request(&long),
        TokenRequest {
            identity: Identity::ResourceId(long.clone()),
            ..request(VAULT)
        },
    ] {
        world.will(hour("one"));
        assert!(world.ask(unusual).is_ok());
    }
    // Nor where there is no source, whose error is the provider's to give.
    *world.origin.borrow_mut() = None;
    world.will(DOWN);
    assert_eq!(world.token(), down());
    assert!(world.values.borrow().is_empty());
}

#[test]
fn the_time_of_the_client_is_handed_on_less_what_the_store_took() {
    // What the client says, how long the store takes for each call, and what the provider is told: without a token, and
    // with one that is due.
    for (timeout_ms, delay, without, with) in [
        (None, 0, None, Some(2000)),
        (Some(10_000), 0, Some(10_000), Some(2000)),
        (Some(1500), 0, Some(1500), Some(1500)),
        (Some(0), 0, Some(0), Some(0)),
        (Some(u32::MAX), 0, Some(u32::MAX), Some(2000)),
        (Some(10_000), 1000, Some(9000), Some(2000)),
        // Read, looked up whether it was rejected, and the lease written.
        (Some(4000), 1000, Some(3000), Some(1000)),
        (Some(500), 1000, Some(0), Some(0)),
        (None, 1000, None, Some(2000)),
    ] {
        let world = World::new();
        world.delay.set(delay);
        let timed = || TokenRequest {
            timeout_ms,
            ..request(VAULT)
        };
        world.will(hour("one"));
        assert!(world.ask(timed()).is_ok());
        world.unix_time.set(START + 1800);
        world.will(hour("two"));
        assert!(world.ask(timed()).is_ok());
        let asked: Vec<_> = world.asked.borrow().iter().map(|asked| asked.timeout_ms).collect();
        assert_eq!(asked, [without, with], "{timeout_ms:?}, {delay} ms");
    }
}

#[test]
fn the_second_question_gets_what_the_first_has_left_of_the_time() {
    let world = World::new();
    world.will(DOWN);
    assert!(world.ask(rejecting("one")).is_err());
    world.will(Answer::Late(3, Box::new(hour("one"))));
    world.will(hour("two"));
    let timed = TokenRequest {
        timeout_ms: Some(10_000),
        ..request(VAULT)
    };
    assert!(world.ask(timed).is_ok());
    let asked: Vec<_> = world
        .asked
        .borrow()
        .iter()
        .skip(1)
        .map(|asked| asked.timeout_ms)
        .collect();
    assert_eq!(asked, [Some(10_000), Some(7000)]);
}

#[test]
fn the_reason_says_whether_tokens_are_kept_and_names_no_value() {
    for (fault, part) in [
        (Faulty::Nothing, "Tokens are kept"),
        (Faulty::Open(StoreFault::NoSuchStore), "MANAGED_IDENTITY_CACHE_STORE"),
        (Faulty::Open(StoreFault::AccessDenied), "`key_value_stores`"),
        (Faulty::Open(StoreFault::Failed), "cannot be opened"),
    ] {
        let world = World::new();
        world.fault.set(fault);
        let reason = world.instance().reason();
        assert!(reason.contains(part) && !reason.contains(FIRST), "{reason}");
    }
    let world = World::new();
    world.variable(STORE, "unheard-of");
    let reason = world.instance().reason();
    assert!(
        reason.starts_with("Tokens are not kept") && !reason.contains("unheard-of"),
        "{reason}"
    );
}
