//! Arguments, and what needs nothing of WASI.

use std::fmt::Debug;
use std::hint::black_box;
use std::net::SocketAddr;

/// A challenge that is always good, so that a token is asked for anew.
pub(crate) const CHALLENGE: &str = r#"{"access_token":{"nbf":{"essential":true}}}"#;

/// What came of an order, or why nothing did; a line each.
pub(crate) type Tried = Result<String, String>;

/// A call that the host did not carry out, in the words of its error.
pub(crate) fn refused<E: Debug>(step: &'static str) -> impl FnOnce(E) -> String {
    move |error| format!("refused {step}: {error:?}")
}

/// An order: a verb and its arguments.
pub(crate) struct Order(Vec<String>);

impl Order {
    /// The arguments of the command, of which the first is its name.
    pub(crate) fn new(arguments: Vec<String>) -> Self {
        Self(arguments)
    }

    pub(crate) fn verb(&self) -> &str {
        self.0.get(1).map_or("", String::as_str)
    }

    pub(crate) fn word(&self, index: usize) -> Option<&str> {
        self.0.get(index + 2).map(String::as_str)
    }

    pub(crate) fn text(&self, index: usize) -> String {
        self.word(index).unwrap_or_default().to_owned()
    }

    pub(crate) fn number(&self, index: usize) -> u32 {
        self.word(index).and_then(|word| word.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn address(&self, index: usize) -> SocketAddr {
        self.text(index).parse().expect("the order has an address")
    }

    /// Carries out an order that needs nothing of WASI and ends badly; others are left alone.
    pub(crate) fn alone(&self) {
        match self.verb() {
            "spin" => spin(),
            "grow" => grow(),
            "recurse" => drop(recurse(0)),
            "trap" => std::process::abort(),
            _ => {}
        }
    }
}

/// Defines what differs between the versions of `cloud:identity` in the names of types alone: `asked`, `cause`, `named` and
/// `described`, over types that are in scope.
macro_rules! identity {
    () => {
        fn asked(audience: String) -> TokenRequest {
            TokenRequest {
                audience,
                identity: Identity::PlatformDefault,
                claims: None,
                rejected_token: None,
                timeout_ms: None,
            }
        }

        fn named(identity: &str) -> Identity {
            match identity.split_once(':') {
                Some(("client", id)) => Identity::ClientId(id.to_owned()),
                Some(("object", id)) => Identity::ObjectId(id.to_owned()),
                Some(("resource", id)) => Identity::ResourceId(id.to_owned()),
                _ if identity == "system" => Identity::SystemAssigned,
                _ => Identity::PlatformDefault,
            }
        }

        /// The order of `token`.
        fn ordered(order: &Order) -> TokenRequest {
            let mut request = asked(order.text(0));
            request.identity = named(order.word(1).unwrap_or_default());
            request.claims = order.word(2).map(str::to_owned);
            request
        }

        fn failed(error: Error) -> String {
            // As WIT has it: `denied`, `invalid-request`.
            let mut cause = String::new();
            for letter in format!("{:?}", error.cause).trim_start_matches("Cause::").chars() {
                if letter.is_uppercase() && !cause.is_empty() {
                    cause.push('-');
                }
                cause.extend(letter.to_lowercase());
            }
            format!("{cause} {}", error.message)
        }

        /// Who got the token, and for what: never the token.
        fn got(token: AccessToken) -> Tried {
            let claims = token_claims::decode(&token.token).map_err(failed)?;
            Ok(format!(
                "ok {} for {} from {}",
                claims.application_id.unwrap_or_default(),
                claims.audiences.join(" "),
                token.source
            ))
        }
    };
}
pub(crate) use identity;

/// The names of a list, in order.
pub(crate) fn names(list: impl IntoIterator<Item = String>) -> Tried {
    let mut names: Vec<_> = list.into_iter().collect();
    names.sort();
    Ok(format!("ok {}", names.join(" ")).trim_end().to_owned())
}

/// A string of that many bytes.
pub(crate) fn huge(size: u32) -> String {
    "x".repeat(size as usize)
}

fn spin() -> ! {
    let mut count = 0_u64;
    loop {
        count = black_box(count.wrapping_add(1));
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
