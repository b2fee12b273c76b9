//! Keeps a token out of the reply to the request that it was sent with.
//!
//! A server that is granted gets the token and may do with it what it likes; the grant says that it is trusted. What it
//! must not do is to tell the plugin by accident, in a page for debugging or the like. So replies are searched, and one
//! that has a part of the token in it is not passed on.
//!
//! What is looked for:
//! - of a JSON Web Token, each aligned piece of [`PIECE`] characters of its signature, and its claims as a whole. The
//!   signature is what makes the token worth something, and is another for each token. The claims by themselves open
//!   nothing, and parts of them are the same in many tokens, so that a piece of them would also be found where no token of
//!   this request is; but all of them together, of which some are unique, come before the signature in any echo, and
//!   stop it there;
//! - of any other token, each aligned piece of the whole.
//!
//! A piece has 144 bits, so that no reply has it by chance. Of what is not found, less than two pieces stand together: too
//! little by far to complete a signature. A token has no character that JSON, HTML or a URL writes in another way.
//!
//! The cost: an automaton of the token's length for each authorized request, and one step in it for each byte of the reply.
//! Of the reply's body, what may be the beginning of something that is looked for is held back until it turns out not to
//! be, at most as many bytes as the token has.

use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::nfa::contiguous::NFA;
use aho_corasick::{Anchored, BuildError, MatchError};
use bytes::{Bytes, BytesMut};
use managed_identity_provider::secret::Secret;
use std::collections::HashMap;
use std::sync::Arc;

/// How long a piece is, in characters of base64url, of which each has six bits.
const PIECE: usize = 24;

/// Something of a token is in a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Echo;

/// What is looked for.
pub(super) struct Search {
    automaton: NFA,
    start: StateID,
    /// How much of a pattern has been found in each state that is reached by a part of one.
    depths: HashMap<StateID, usize>,
}

/// Why nothing can be looked for: the token is too large.
#[derive(Debug, thiserror::Error)]
#[error("no automaton for the token")]
pub(super) struct NoSearch;

impl From<BuildError> for NoSearch {
    fn from(_: BuildError) -> Self {
        Self
    }
}

impl From<MatchError> for NoSearch {
    fn from(_: MatchError) -> Self {
        Self
    }
}

impl Search {
    /// Looks for these tokens.
    pub(super) fn new(tokens: &[&Secret]) -> Result<Arc<Self>, NoSearch> {
        let patterns: Vec<&[u8]> = tokens.iter().flat_map(|token| patterns(token.expose())).collect();
        let automaton = NFA::new(&patterns)?;
        let start = automaton.start_state(Anchored::No)?;
        let mut depths = HashMap::new();
        for pattern in patterns {
            let mut state = start;
            for (index, byte) in pattern.iter().enumerate() {
                state = automaton.next_state(Anchored::No, state, *byte);
                depths.insert(state, index + 1);
            }
        }
        Ok(Arc::new(Self {
            automaton,
            start,
            depths,
        }))
    }

    /// Whether `text` has something of a token in it.
    pub(super) fn finds(&self, text: &[u8]) -> bool {
        self.run(self.start, text).is_err()
    }

    fn run(&self, from: StateID, text: &[u8]) -> Result<StateID, Echo> {
        let mut state = from;
        for byte in text {
            state = self.automaton.next_state(Anchored::No, state, *byte);
            if self.automaton.is_match(state) {
                return Err(Echo);
            }
        }
        Ok(state)
    }
}

/// A body that is searched as it comes.
pub(super) struct Searched {
    search: Arc<Search>,
    state: StateID,
    /// What may be the beginning of something that is looked for.
    held: BytesMut,
}

impl Searched {
    pub(super) fn new(search: Arc<Search>) -> Self {
        Self {
            state: search.start,
            search,
            held: BytesMut::new(),
        }
    }

    /// Takes the next bytes of the body, and gives those that may be passed on, which can be none.
    pub(super) fn push(&mut self, mut bytes: Bytes) -> Result<Bytes, Echo> {
        self.state = self.search.run(self.state, &bytes)?;
        let depth = self.search.depths.get(&self.state).copied().unwrap_or_default();
        // The usual case, where nothing has to be copied: what is held back has come just now.
        if self.held.is_empty() && depth <= bytes.len() {
            self.held.extend_from_slice(&bytes.split_off(bytes.len() - depth));
            return Ok(bytes);
        }
        self.held.extend_from_slice(&bytes);
        Ok(self.held.split_to(self.held.len().saturating_sub(depth)).freeze())
    }

    /// What is left at the end of the body: the beginning of something that did not come.
    pub(super) fn finish(&mut self) -> Bytes {
        self.held.split().freeze()
    }
}

/// What is looked for of a token.
fn patterns(token: &str) -> Vec<&[u8]> {
    let mut parts = token.splitn(3, '.');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(claims), Some(signature)) if signature.len() >= PIECE => {
            let mut patterns = pieces(signature);
            patterns.extend((claims.len() >= PIECE).then_some(claims.as_bytes()));
            patterns
        }
        _ => pieces(token),
    }
}

/// All of `text` in pieces. The last one overlaps the one before it, rather than to be shorter.
fn pieces(text: &str) -> Vec<&[u8]> {
    let text = text.as_bytes();
    let last = text.len().saturating_sub(PIECE);
    let mut pieces: Vec<_> = text.chunks_exact(PIECE).collect();
    if !text.len().is_multiple_of(PIECE) {
        pieces.push(&text[last..]);
    }
    pieces
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the tokens are the test's own")]

    use super::*;

    /// A token of the usual shape, in which no two pieces are the same.
    fn token() -> String {
        let part = |seed: u32, length: usize| -> String {
            let mut state = seed;
            std::iter::repeat_with(|| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
                char::from(alphabet[(state >> 26) as usize])
            })
            .take(length)
            .collect()
        };
        format!("{}.{}.{}", part(1, 70), part(2, 900), part(3, 342))
    }

    fn search(token: &str) -> Arc<Search> {
        Search::new(&[&Secret::from(token)]).unwrap()
    }

    /// What is passed on of a body that comes in chunks of this size, and whether all of it is.
    fn passed(search: &Arc<Search>, body: &str, chunk: usize) -> (String, bool) {
        let mut searched = Searched::new(Arc::clone(search));
        let mut passed = Vec::new();
        for chunk in body.as_bytes().chunks(chunk) {
            match searched.push(Bytes::copy_from_slice(chunk)) {
                Ok(bytes) => passed.extend_from_slice(&bytes),
                Err(Echo) => return (String::from_utf8(passed).unwrap(), false),
            }
        }
        passed.extend_from_slice(&searched.finish());
        (String::from_utf8(passed).unwrap(), true)
    }

    #[test]
    fn a_body_without_a_token_is_passed_on_whole_in_chunks_of_any_size() {
        let token = token();
        let (head, signature) = token.rsplit_once('.').unwrap();
        let claims = head.split_once('.').unwrap().1;
        let search = search(&token);
        for body in [
            String::new(),
            "hello".to_owned(),
            // Beginnings of what is looked for, of which the rest does not come.
            signature[..23].to_owned(),
            format!("{}{}{}", &signature[..23], &signature[..23], &signature[24..47]),
            format!("{} and {}", &claims[..899], &claims[..899]),
            format!("a{}", claims[..400].repeat(5)),
            token.to_lowercase(),
            "x".repeat(5000),
        ] {
            for chunk in [1, 2, 7, 24, 100, 10_000] {
                assert_eq!(passed(&search, &body, chunk), (body.clone(), true), "{chunk}");
            }
        }
    }

    #[test]
    fn a_token_and_its_parts_are_found_in_chunks_of_any_size() {
        let token = token();
        let parts: Vec<&str> = token.split('.').collect();
        let search = search(&token);
        for echo in [
            token.clone(),
            format!("{{\"authorization\":\"Bearer {token}\"}}"),
            format!("{} {}", parts[1], "and no signature"),
            parts[2].to_owned(),
            parts[2][..24].to_owned(),
            parts[2][318..].to_owned(),
            parts[2][100..147].to_owned(),
        ] {
            let body = format!("before {echo} after");
            assert!(search.finds(body.as_bytes()), "{echo}");
            for chunk in [1, 2, 7, 24, 100, 10_000] {
                let (passed, whole) = passed(&search, &body, chunk);
                assert!(!whole, "{echo}");
                // Nothing of what would open a door is passed on before it is known what it is: not as much as a piece of the
                // signature, and nothing of the claims.
                let leaked = |part: &str, length: usize| {
                    (0..=part.len() - length).any(|at| passed.contains(&part[at..at + length]))
                };
                assert!(
                    !leaked(parts[2], PIECE) && !leaked(parts[1], 8),
                    "{chunk} {echo}: {passed}"
                );
            }
        }
    }

    #[test]
    fn other_tokens_are_looked_for_in_pieces() {
        for (token, found, other) in [
            ("short", "a short one", "shor"),
            (
                "0123456789abcdefghijklmnopqrstuvwxyz",
                "0123456789abcdefghijklmn",
                "0123456789abcdefghijklm",
            ),
            (
                "0123456789abcdefghijklmnopqrstuvwxyz",
                "cdefghijklmnopqrstuvwxyz",
                "defghijklmnopqrstuvwxyz",
            ),
            // Shaped as a web token, and signed by nothing.
            (
                "e30.0123456789abcdefghijklmnopqrstuvwxyz.",
                "e30.0123456789abcdefghij",
                "e30",
            ),
        ] {
            let search = search(token);
            assert!(
                search.finds(found.as_bytes()) && search.finds(token.as_bytes()),
                "{token}"
            );
            assert!(!search.finds(other.as_bytes()), "{token}");
        }
        let none = search("");
        assert!(!none.finds(b"anything"));
    }

    #[test]
    fn both_tokens_of_a_repeated_request_are_looked_for() {
        let (old, new) = (Secret::from("the-token-that-was-rejected"), Secret::from(&*token()));
        let search = Search::new(&[&old, &new]).unwrap();
        assert!(search.finds(old.expose().as_bytes()) && search.finds(new.expose().as_bytes()));
    }
}
