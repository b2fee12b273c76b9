//! Orders, and those that need nothing of WASI to be carried out.

use std::fmt::Debug;
use std::hint::black_box;
use std::net::SocketAddr;

/// Between the words of an order.
const SEPARATOR: char = '\u{1f}';

/// A part of a request that is left unset.
const UNSET: &str = "-";

/// How long a guest gives way so that it does not count as computing without end, in nanoseconds.
pub(crate) const PAUSE: u64 = 1_000_000;

/// How many things a guest makes between two pauses.
pub(crate) const PAUSE_EVERY: u64 = 64;

/// What came of an order.
pub(crate) enum Outcome {
    /// A token.
    Token(String),
    /// A token whose successor is due.
    Due(String),
    /// The host denied a request.
    Denied,
    /// Anything else, in words.
    Report(String),
}

/// What an order that did not fail has to tell, or how it failed.
pub(crate) type Tried = Result<String, Outcome>;

/// A call that the host did not carry out, in the words of its error.
pub(crate) fn refused<E: Debug>(step: &'static str) -> impl FnOnce(E) -> Outcome {
    move |error| Outcome::Report(format!("refused {step}: {error:?}"))
}

/// An order: a verb and its arguments.
pub(crate) struct Order<'a> {
    pub(crate) verb: &'a str,
    words: Vec<&'a str>,
}

impl<'a> Order<'a> {
    pub(crate) fn parse(audience: &'a str) -> Self {
        let mut words = audience.split(SEPARATOR);
        Self {
            verb: words.next().unwrap_or_default(),
            words: words.collect(),
        }
    }

    /// An argument, or nothing if there are fewer.
    pub(crate) fn word(&self, index: usize) -> &'a str {
        self.words.get(index).copied().unwrap_or_default()
    }

    /// A part of a request, which may be unset.
    pub(crate) fn part(&self, index: usize) -> Option<&'a str> {
        Some(self.word(index)).filter(|word| *word != UNSET)
    }

    /// All arguments from `index` on, as names and values.
    pub(crate) fn fields(&self, index: usize) -> Vec<(String, Vec<u8>)> {
        self.words
            .iter()
            .skip(index)
            .filter_map(|word| word.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
            .collect()
    }

    pub(crate) fn number(&self, index: usize) -> usize {
        self.word(index).parse().unwrap_or(0)
    }

    pub(crate) fn address(&self, index: usize) -> SocketAddr {
        self.word(index).parse().expect("the order has an address")
    }

    /// What comes of a fetch, which [`Tried`] tells by its status. The token is the path.
    pub(crate) fn fetched(&self, tried: Tried) -> Outcome {
        match tried {
            Ok(status) if status == "status 200" => Outcome::Token(self.word(3).to_owned()),
            Ok(status) if status == "status 201" => Outcome::Due(self.word(3).to_owned()),
            Ok(status) if status == "status 418" => std::process::abort(),
            Ok(other) => Outcome::Report(other),
            Err(outcome) => outcome,
        }
    }

    /// Carries out an order that needs nothing of WASI; `None` for others.
    pub(crate) fn alone(&self) -> Option<Outcome> {
        Some(match self.verb {
            "ok" => Outcome::Token("token".to_owned()),
            "spin" => spin(),
            "grow" => grow(),
            "recurse" => Outcome::Report(recurse(0).to_string()),
            "trap" => std::process::abort(),
            "huge" => match self.word(0) {
                "token" => Outcome::Token(huge(self.number(1))),
                "message" => Outcome::Report(huge(self.number(1))),
                _ => return None,
            },
            _ => return None,
        })
    }
}

/// Defines the exports. `$types` is the generated module, `$obey` is what carries out an order, and the rest is `async` or
/// nothing.
macro_rules! exports {
    ($types:ident, $interface:ident, $obey:ident $(, $asynchronous:tt $wait:tt)?) => {
        struct Component;

        impl $interface::Guest for Component {
            $($asynchronous)? fn get_token(request: $types::TokenRequest) -> Result<$types::AccessToken, $types::Error> {
                let outcome = $obey(&Order::parse(&request.audience))$(.$wait)?;
                let refresh_on = if matches!(outcome, Outcome::Due(_)) { 0 } else { u64::MAX };
                let (cause, message) = match outcome {
                    Outcome::Token(token) | Outcome::Due(token) => {
                        return Ok($types::AccessToken {
                            token,
                            token_type: "Bearer".to_owned(),
                            audience: "hostile".to_owned(),
                            expires_on: u64::MAX,
                            refresh_on,
                            client_id: None,
                            source: "hostile".to_owned(),
                            stale: false,
                        });
                    }
                    Outcome::Denied => ($types::Cause::Denied, "denied".to_owned()),
                    Outcome::Report(report) => ($types::Cause::Unsupported, report),
                };
                Err($types::Error {
                    cause,
                    message,
                    source: None,
                    http_status: None,
                    retry_after_ms: None,
                    correlation_id: None,
                })
            }

            fn forget(_: Option<String>) {}

            fn describe_source() -> Result<$types::SourceDescription, $types::Error> {
                Ok($types::SourceDescription {
                    source: None,
                    endpoint: None,
                    reasons: Vec::new(),
                    last_failure: None,
                })
            }
        }
    };
}
pub(crate) use exports;

/// Defines what differs between the two versions of WASI in the names of types alone: `method`, `scheme` and `outcome`, over
/// types that are in scope.
macro_rules! conversions {
    () => {
        fn method(text: &str) -> Method {
            match text {
                "GET" => Method::Get,
                "HEAD" => Method::Head,
                "POST" => Method::Post,
                "PUT" => Method::Put,
                "DELETE" => Method::Delete,
                "CONNECT" => Method::Connect,
                "OPTIONS" => Method::Options,
                "TRACE" => Method::Trace,
                "PATCH" => Method::Patch,
                other => Method::Other(other.to_owned()),
            }
        }

        fn scheme(text: &str) -> Scheme {
            match text {
                "http" => Scheme::Http,
                "https" => Scheme::Https,
                other => Scheme::Other(other.to_owned()),
            }
        }

        fn outcome(code: ErrorCode) -> Outcome {
            match code {
                ErrorCode::HttpRequestDenied => Outcome::Denied,
                other => Outcome::Report(format!("failed: {other:?}")),
            }
        }
    };
}
pub(crate) use conversions;

/// The names of a list, in order.
pub(crate) fn names(list: impl IntoIterator<Item = String>) -> String {
    let mut names: Vec<_> = list.into_iter().collect();
    names.sort();
    names.join(" ")
}

/// A string of that many bytes.
pub(crate) fn huge(size: usize) -> String {
    "x".repeat(size)
}

/// Computes without end and without a call.
pub(crate) fn spin() -> ! {
    let mut count = 0_u64;
    loop {
        count = black_box(count.wrapping_add(1));
    }
}

/// Computes for about as long as `count` says.
pub(crate) fn work(count: u32) {
    for turn in 0..count {
        black_box(turn);
    }
}

fn grow() -> ! {
    let mut kept = Vec::new();
    loop {
        kept.push(black_box(vec![1_u8; 1024 * 1024]));
    }
}

#[expect(unconditional_recursion, reason = "it is to run out of stack")]
fn recurse(depth: u64) -> u64 {
    black_box(recurse(black_box(depth) + 1)) + 1
}
