//! Where a guest runs: a machine with an identity, a vault, and what the guest is granted.

use crate::guest::{GUESTS, Language, compiled};
use crate::support::emulated::Emulated;
use crate::support::program::{Outcome, run};
use managed_identity_emulator::{KeyVault, Source};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The name of the vault's secret.
pub(crate) const NAME: &str = "greeting";

/// What nobody is to see.
const VALUE: &str = "correct-horse-battery-staple";

/// How every token of the emulated platform begins.
const TOKEN: &str = "eyJ";

/// The vault in the grants.
const VAULT: &str = "my-vault.vault.azure.net";

/// How long a token may be valid: the platform's is for a day, and up to a third more.
const LONGEST_LIFE: u64 = 2 * 24 * 3600;

pub(crate) struct Scene {
    language: Language,
    pub(crate) platform: Emulated,
    pub(crate) vault: KeyVault,
    /// What the host finds in its environment.
    pub(crate) environment: Vec<(String, String)>,
    /// What the guest is granted, but for the vault's address.
    pub(crate) grants: String,
    /// What is granted instead of that.
    pub(crate) host: String,
    /// For the files of this scene alone.
    folder: PathBuf,
}

impl Scene {
    /// In which all is well. `name` is that of the test.
    pub(crate) fn new(language: Language, name: &str) -> Self {
        let platform = Emulated::start();
        let vault = platform.vault(NAME, VALUE);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join("polyglot")
            .join(language.folder())
            .join(name);
        fs::create_dir_all(&folder).unwrap();
        let authority = folder.join("ca.pem");
        fs::write(&authority, vault.certificate().authority_pem()).unwrap();
        let mut environment: Vec<_> = platform.environment_for(Source::Imds).into_iter().collect();
        environment.push(("SSL_CERT_FILE".to_owned(), authority.display().to_string()));
        let grants = fs::read_to_string(Path::new(GUESTS).join("grants.toml")).unwrap();
        assert_eq!(grants.matches(VAULT).count(), 1);
        Self {
            language,
            platform,
            host: vault.base_url().to_owned(),
            vault,
            environment,
            grants,
            folder,
        }
    }

    /// Runs the guest with these arguments, as anybody would.
    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        let grants = self.folder.join("grants.toml");
        fs::write(&grants, self.grants.replace(VAULT, &self.host)).unwrap();
        let component = compiled(self.language);
        let command = ["run", "--grants", grants.to_str().unwrap(), component.to_str().unwrap()];
        let outcome = run(self.environment.iter().cloned(), &[&command[..], arguments].concat());
        outcome.must_not_show(&[VALUE, TOKEN]);
        outcome
    }

    /// Asks the vault for a secret.
    pub(crate) fn fetch(&self, name: &str) -> Outcome {
        self.run(&[self.vault.base_url(), name])
    }

    /// Checks that it was the secret of this name, got as the platform's default identity.
    #[track_caller]
    pub(crate) fn succeeds(&self, outcome: &Outcome, name: &str) {
        let identities = self.platform.identities();
        let identity = identities.system_assigned.as_ref().unwrap();
        let expected = format!(
            "secret: {name}\nfrom: imds\naudience: https://vault.azure.net\ntenant: {}\nobject: {}\napplication: {}\n",
            identities.tenant_id, identity.object_id, identity.client_id,
        );
        succeeds(outcome, &expected);
    }
}

/// Checks what a success printed: this, and then until when the token is valid.
#[track_caller]
pub(crate) fn succeeds(outcome: &Outcome, expected: &str) {
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{outcome:?}");
    let (before, expires) = outcome.stdout.split_once("expires: ").unwrap();
    assert_eq!(before, expected);
    let expires = expires.strip_suffix('\n').unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let number: u64 = expires.parse().unwrap();
    assert!((now..now + LONGEST_LIFE).contains(&number), "{expires}");
    assert_eq!(expires, number.to_string());
}

/// Checks that it failed, and with exactly this.
#[track_caller]
pub(crate) fn fails(outcome: &Outcome, expected: &str) {
    assert_eq!(
        (outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()),
        (Some(1), "", format!("error: {expected}\n").as_str()),
    );
}

/// Checks that the vault did not answer, for a reason that each language tells in its way.
#[track_caller]
pub(crate) fn no_answer(outcome: &Outcome) {
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{outcome:?}");
    let reason = outcome.stderr.strip_prefix("error: vault: no answer: ");
    let reason = reason.and_then(|reason| reason.strip_suffix('\n'));
    assert!(
        reason.is_some_and(|reason| !reason.trim().is_empty() && !reason.contains('\n')),
        "{outcome:?}"
    );
}
