//! The secrets by which callers are known: what the App Service protocol sends as `X-IDENTITY-HEADER`.

use std::fmt;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// How many random bytes are in a secret.
const BYTES: usize = 32;

/// What can be guessed is no secret: 16 random bytes are what no one ever guesses, in whatever letters.
const SHORTEST: usize = 16;

/// More than any secret needs, and less than a server takes of header fields.
const LONGEST: usize = 1_024;

/// A caller's secret, which is told to nobody but the caller.
pub struct HeaderSecret(Zeroizing<String>);

impl HeaderSecret {
    /// A new secret, of 256 random bits, in the letters of URLs.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate() -> Result<Self, NoRandomness> {
        use base64::Engine as _;
        use base64::engine::general_purpose::URL_SAFE_NO_PAD;
        use ring::rand::SecureRandom as _;
        let mut bytes = Zeroizing::new([0; BYTES]);
        ring::rand::SystemRandom::new()
            .fill(&mut *bytes)
            .map_err(|_| NoRandomness)?;
        Ok(Self(Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes.as_slice()))))
    }

    /// A secret that somebody else has made.
    ///
    /// # Errors
    /// When it is short, or cannot be sent in a header field.
    pub fn parse(text: &str) -> Result<Self, NoSecret> {
        if text.len() < SHORTEST {
            return Err(NoSecret::Short);
        }
        if text.len() > LONGEST {
            return Err(NoSecret::Long);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(NoSecret::Letters);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// The secret itself, for the caller.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(self.0.as_bytes())
    }
}

impl fmt::Debug for HeaderSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[redacted]")
    }
}

/// Why a text is no secret; never shows it. Reads as the end of a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoSecret {
    /// It could be guessed.
    #[error("has less than {SHORTEST} bytes, and could be guessed; take what `managed-identity secret new` prints")]
    Short,
    /// No server takes it.
    #[error("has more than {LONGEST} bytes; take what `managed-identity secret new` prints")]
    Long,
    /// It cannot be sent.
    #[error(
        "has blanks, control characters or letters beyond ASCII, which no header field has; take what `managed-identity \
         secret new` prints"
    )]
    Letters,
}

/// The secrets of one caller, as a file has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SecretFile {
    /// What is kept of them, in the order of the file.
    pub hashes: Vec<SecretHash>,
    /// Whether the file has a secret itself, and not only hashes, so that nobody else may read it.
    pub has_secrets: bool,
}

impl SecretFile {
    /// Reads one secret a line, or its hash. Any of them is taken, so that one can follow another.
    ///
    /// # Errors
    /// When there is none, or a line has something else.
    pub fn parse(text: &str) -> Result<Self, SecretFileError> {
        let mut file = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let number = index + 1;
            file.hashes.push(if line.starts_with(SecretHash::PREFIX) {
                SecretHash::parse(line).map_err(|error| SecretFileError::Hash(number, error))?
            } else {
                let secret = HeaderSecret::parse(line).map_err(|error| SecretFileError::Secret(number, error))?;
                file.has_secrets = true;
                secret.hash()
            });
        }
        if file.hashes.is_empty() {
            return Err(SecretFileError::Empty);
        }
        Ok(file)
    }
}

/// Why a file has no secrets; never shows what it has instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretFileError {
    /// There is nothing in it.
    #[error("it is empty; put a secret there, which `managed-identity secret new --file FILE` makes")]
    Empty,
    /// A line begins as a hash does and is none.
    #[error("line {0}: what stands there {1}")]
    Hash(usize, NoHash),
    /// A line is no secret.
    #[error("line {0}: what stands there {1}")]
    Secret(usize, NoSecret),
}

/// The system has no randomness to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system has no randomness to give")]
pub struct NoRandomness;

/// What is kept of a secret: its SHA-256. That suffices, because a secret is as random as the hash.
#[derive(Clone, Copy)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    const PREFIX: &str = "sha256:";

    /// The hash of a secret.
    #[must_use]
    pub fn of(secret: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, secret);
        let mut bytes = [0; 32];
        for (byte, digest) in bytes.iter_mut().zip(digest.as_ref()) {
            *byte = *digest;
        }
        Self(bytes)
    }

    /// Reads `sha256:` and 64 hexadecimal digits.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(text: &str) -> Result<Self, NoHash> {
        let digits = text.strip_prefix(Self::PREFIX).ok_or(NoHash)?;
        let mut bytes = [0; 32];
        if digits.len() != 2 * bytes.len() || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(NoHash);
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| NoHash)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NoHash)?;
        }
        Ok(Self(bytes))
    }
}

/// In constant time.
impl PartialEq for SecretHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretHash {}

impl fmt::Display for SecretHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(Self::PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("sha256:…")
    }
}

/// It is no hash of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no hash of a secret; write what `managed-identity secret new` prints, `sha256:` and 64 hexadecimal digits")]
pub struct NoHash;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the secrets are literals")]

    use super::*;

    const SECRET: &str = "correct-horse-battery-staple";

    #[test]
    fn secrets_are_long_differ_and_can_be_sent() {
        let (one, other) = (HeaderSecret::generate().unwrap(), HeaderSecret::generate().unwrap());
        assert_ne!(one.reveal(), other.reveal());
        assert_ne!(one.hash(), other.hash());
        // 32 bytes, six bits a letter.
        assert_eq!(one.reveal().len(), 43);
        let read = HeaderSecret::parse(one.reveal()).unwrap();
        assert_eq!(read.hash(), one.hash());
    }

    #[test]
    fn a_hash_is_the_one_that_other_tools_make() {
        // printf abc | sha256sum
        let printed = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let hash = SecretHash::of(b"abc");
        assert_eq!(hash.to_string(), printed);
        assert_eq!(SecretHash::parse(printed), Ok(hash));
        let (prefix, digits) = printed.split_at("sha256:".len());
        assert_eq!(
            SecretHash::parse(&format!("{prefix}{}", digits.to_uppercase())),
            Ok(hash)
        );
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        let digits = "0".repeat(64);
        for text in [
            String::new(),
            "sha256:".to_owned(),
            digits.clone(),
            format!("SHA256:{digits}"),
            format!("sha256:{digits}0"),
            format!("sha256:{}", digits.replacen('0', "g", 1)),
            format!("sha256:{}", digits.replacen('0', "+", 1)),
            format!("sha256: {digits}"),
            format!("sha256:{}", digits.replacen("00", "\u{fc}", 1)),
        ] {
            assert_eq!(SecretHash::parse(&text), Err(NoHash), "{text:?}");
        }
    }

    #[test]
    fn what_could_be_guessed_or_not_be_sent_is_no_secret() {
        let long = "a".repeat(1_025);
        for (text, expected) in [
            ("", NoSecret::Short),
            ("fifteen-letters", NoSecret::Short),
            (&long, NoSecret::Long),
            ("correct horse battery staple", NoSecret::Letters),
            ("correct-horse\tbattery-staple", NoSecret::Letters),
            ("k\u{f6}rrect-horse-battery-staple", NoSecret::Letters),
        ] {
            assert_eq!(HeaderSecret::parse(text).unwrap_err(), expected, "{text:?}");
        }
        assert!(HeaderSecret::parse("sixteen-letters!").is_ok());
    }

    #[test]
    fn a_file_has_secrets_and_hashes_one_a_line() {
        let hash = SecretHash::of(SECRET.as_bytes());
        for (text, count, has_secrets) in [
            (SECRET.to_owned(), 1, true),
            (format!("{SECRET}\r\n"), 1, true),
            (hash.to_string(), 1, false),
            (format!("\n{hash}\n\n  {SECRET}\n"), 2, true),
        ] {
            let file = SecretFile::parse(&text).unwrap();
            assert_eq!(
                (file.hashes, file.has_secrets),
                (vec![hash; count], has_secrets),
                "{text:?}"
            );
        }
        for (text, message) in [
            ("", "it is empty"),
            (" \n\n", "it is empty"),
            (
                &format!("{SECRET}\n\nshort"),
                "line 3: what stands there has less than 16 bytes",
            ),
            ("sha256:00", "line 1: what stands there is no hash"),
            ("two words of a secret", "line 1: what stands there has blanks"),
        ] {
            let error = SecretFile::parse(text).unwrap_err();
            assert!(error.to_string().contains(message), "{text:?} {error}");
        }
    }

    #[test]
    fn nothing_shows_a_secret() {
        let secret = HeaderSecret::parse(SECRET).unwrap();
        let file = SecretFile::parse(&format!("{SECRET}\n")).unwrap();
        let short = SecretFile::parse("hunter2").unwrap_err();
        let shown = format!("{secret:?} {:?} {file:?} {short} {short:?}", secret.hash());
        for hidden in [SECRET, "hunter2", &secret.hash().to_string()] {
            assert!(!shown.contains(hidden), "{shown}");
        }
    }
}
