//! A provider as compiled code, made ahead of time.
//!
//! An artefact is the engine's own form of compiled code behind a header: what it is, which version of this library made
//! it, and the SHA-256 digest of the code. The digest finds damage. It proves nothing about who made the file.

use super::component::{CodeOrigin, Compiled, ProviderError, engine};
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use wasmtime::Engine;
use wasmtime::component::Component;

/// What an artefact begins with.
const MAGIC: &[u8] = b"managed-identity compiled provider ";

/// Ends the version.
const END_OF_VERSION: u8 = b'\n';

/// Compiles a provider ahead of time, for this version of the library and machines like this one.
///
/// What comes out is native code in a header. Starting a provider from it takes neither a compiler's time nor a cache on
/// disk: see [`BrokerBuilder::precompiled_provider`](crate::BrokerBuilder::precompiled_provider).
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use managed_identity_host::{Broker, EMBEDDED_0_3, is_precompiled, precompile};
///
/// let artefact = precompile(EMBEDDED_0_3)?;
/// assert!(is_precompiled(&artefact) && !is_precompiled(EMBEDDED_0_3));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When the bytes are not a component that can be compiled, not a provider, or one that asks for more than it is given.
pub fn precompile(component: &[u8]) -> Result<Vec<u8>, ProviderError> {
    let component = Component::new(&engine()?, component).map_err(ProviderError::NotAComponent)?;
    let compiled = Compiled::new(&component, CodeOrigin::Compiled)?;
    let code = compiled
        .instance
        .component()
        .serialize()
        .map_err(ProviderError::Engine)?;
    let mut artefact = header(env!("CARGO_PKG_VERSION"), &code);
    artefact.extend(code);
    Ok(artefact)
}

/// Whether a file holds compiled code and not a component.
#[must_use]
pub fn is_precompiled(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC) || Engine::detect_precompiled(bytes).is_some()
}

fn header(version: &str, code: &[u8]) -> Vec<u8> {
    let mut header = MAGIC.to_vec();
    header.extend(version.bytes());
    header.push(END_OF_VERSION);
    header.extend(digest(&SHA256, code).as_ref());
    header
}

/// The code of an artefact, if it was made by this version and is as it was then.
fn code(artefact: &[u8]) -> Result<&[u8], String> {
    let rest = artefact
        .strip_prefix(MAGIC)
        .ok_or("it was not made by `precompile` or `managed-identity compile`")?;
    let ours = env!("CARGO_PKG_VERSION");
    let end = rest.iter().take(64).position(|byte| *byte == END_OF_VERSION);
    let (version, rest) = rest.split_at(end.ok_or("it is damaged")?);
    if version != ours.as_bytes() {
        let version = String::from_utf8_lossy(version).escape_debug().to_string();
        return Err(format!("it was made by version {version}, and this is {ours}"));
    }
    let (expected, code) = rest[1..].split_at_checked(SHA256_OUTPUT_LEN).ok_or("it is damaged")?;
    if digest(&SHA256, code).as_ref() != expected {
        return Err("it is damaged".to_owned());
    }
    Ok(code)
}

/// An artefact for which somebody answers.
pub(crate) struct Trusted(Vec<u8>);

impl Trusted {
    /// # Safety
    /// The artefact is native code, which will run in this process with all its rights. It must come unchanged from
    /// [`precompile`] of this version.
    #[expect(unsafe_code, reason = "whoever calls it answers for the code")]
    pub(crate) unsafe fn new(artefact: Vec<u8>) -> Self {
        Self(artefact)
    }

    /// Loads the code. What was made by another version, for another kind of machine, or is damaged is refused.
    pub(super) fn load(&self, engine: &Engine) -> Result<Component, ProviderError> {
        let code = code(&self.0).map_err(ProviderError::Artefact)?;
        // SAFETY: whoever made this value has promised that the code comes from `precompile`, which has it from
        // `Component::serialize`. The digest shows that it has not been damaged since. The engine itself refuses what
        // was compiled by another version of it, with other settings, or for a processor that can do more than this one.
        #[expect(unsafe_code, reason = "native code cannot be checked, only trusted")]
        let component = unsafe { Component::deserialize(engine, code) };
        component.map_err(|error| ProviderError::Artefact(format!("{error:#}")))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

    use super::super::component::EMBEDDED_0_2;
    use super::*;

    /// Why an artefact is refused; nothing if it is not.
    fn refusal(artefact: Vec<u8>) -> Option<String> {
        // SAFETY: what is loaded here is unchanged, or is found to be changed before it is loaded.
        #[expect(unsafe_code, reason = "the tests' own code")]
        let trusted = unsafe { Trusted::new(artefact) };
        let result = trusted.load(&engine().unwrap());
        result.err().map(|error| error.to_string())
    }

    #[test]
    fn what_is_damaged_or_of_another_version_is_refused_with_its_reason() {
        let good = precompile(EMBEDDED_0_2).unwrap();
        assert_eq!(refusal(good.clone()), None);
        let flipped = |index: usize| {
            let mut artefact = good.clone();
            artefact[index] ^= 1;
            artefact
        };
        let start = MAGIC.len() + env!("CARGO_PKG_VERSION").len() + 1;
        let other = [header("0.0.1", b"code"), b"code".to_vec()].concat();
        for (what, artefact, reason) in [
            ("the digest", flipped(start), "it is damaged"),
            (
                "the first byte of the code",
                flipped(start + SHA256_OUTPUT_LEN),
                "it is damaged",
            ),
            ("the last byte", flipped(good.len() - 1), "it is damaged"),
            ("the end", good[..good.len() - 1].to_vec(), "it is damaged"),
            ("all code", good[..start + 5].to_vec(), "it is damaged"),
            ("the version's end", good[..start - 1].to_vec(), "it is damaged"),
            ("the version", other, "it was made by version 0.0.1, and this is"),
            (
                "the header",
                good[start + SHA256_OUTPUT_LEN..].to_vec(),
                "it was not made by",
            ),
            ("compilation", EMBEDDED_0_2.to_vec(), "it was not made by"),
            ("everything", Vec::new(), "it was not made by"),
        ] {
            let refusal = refusal(artefact).unwrap();
            assert!(refusal.contains(reason), "{what}: {refusal}");
        }
    }

    #[test]
    fn compiled_code_is_known_by_its_beginning() {
        let good = precompile(EMBEDDED_0_2).unwrap();
        assert!(is_precompiled(&good) && is_precompiled(code(&good).unwrap()));
        for other in [EMBEDDED_0_2, b"", b"\0asm", &MAGIC[1..]] {
            assert!(!is_precompiled(other));
        }
    }

    #[test]
    fn what_is_no_provider_is_not_compiled() {
        assert!(matches!(
            precompile(b"\0asm\x0d\0\x01\0"),
            Err(ProviderError::NotAProvider)
        ));
        assert!(matches!(precompile(b"not wasm"), Err(ProviderError::NotAComponent(_))));
    }
}
