//! The one type that holds a token, key, header secret or assertion.

use sha2::{Digest, Sha256};
use std::fmt::{self, Write as _};
use zeroize::Zeroize;

/// Text that must not be seen: overwritten when dropped, printed as `[redacted]`.
///
/// There is deliberately no `Display`, `Serialize` or `PartialEq`: whoever needs the text says so with [`Secret::expose`].
#[derive(Clone, Default)]
pub struct Secret(String);

impl Secret {
    /// Takes over `text`. The caller keeps no copy.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether the text is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The SHA-256 digest of the text, in lower-case hexadecimal.
    #[must_use]
    pub fn sha256(&self) -> String {
        let mut text = String::with_capacity(64);
        for byte in Sha256::digest(self.0.as_bytes()) {
            // Writing to a `String` cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// Whether both hold the same text, in a time that depends on the lengths alone.
    #[must_use]
    pub fn matches(&self, other: &str) -> bool {
        let (ours, theirs) = (self.0.as_bytes(), other.as_bytes());
        ours.len() == theirs.len()
            && ours
                .iter()
                .zip(theirs)
                .fold(0, |differences, (a, b)| differences | (a ^ b))
                == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[redacted]")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debug_print_shows_nothing_of_the_text() {
        assert_eq!(format!("{:?}", Secret::from("s3cr3t")), "[redacted]");
    }

    /// The vector of MSAL.NET's document on token revocation.
    #[test]
    fn the_digest_is_that_of_the_published_vector() {
        let digest = "cc0af97287543b65da2c7e1476426021826cab166f1e063ed012b855ff819656";
        assert_eq!(Secret::from("test_token").sha256(), digest);
    }

    #[test]
    fn equal_texts_match_and_others_do_not() {
        let secret = Secret::from("abc");
        assert!(secret.matches("abc"));
        assert!(!secret.matches("abd") && !secret.matches("ab") && !secret.matches(""));
    }
}
