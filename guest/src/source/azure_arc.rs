//! Azure Arc-enabled servers, protocol version 2020-06-01.
//!
//! Protocol, from Microsoft's "Authenticate against Azure resources with Azure Arc-enabled servers":
//! 1. The agent of Azure Arc answers at `IDENTITY_ENDPOINT`; `IMDS_ENDPOINT` is set beside it. Programs that the agent did
//!    not start see neither, and find it at its well-known address on loopback.
//! 2. `GET $IDENTITY_ENDPOINT?api-version=2020-06-01&resource=…` with the header `Metadata: true`.
//! 3. The agent answers 401 with `WWW-Authenticate: Basic realm=<path>`: the path of a file that it has just written, and
//!    that only administrators and members of its group may read.
//! 4. The same request once more, with `Authorization: Basic <contents of the file>`.
//!
//! The path comes over plain HTTP from whoever answers, so it decides nothing (CVE-2024-35255): the file has to be in the
//! agent's one directory, have the extension `key` and at most 4,096 bytes, and be no link. What the host grants is that
//! directory and no more.
//!
//! Agents before version 1.67 ignore `client_id`, `object_id` and `msi_res_id`, and every agent ignores the spelling
//! `mi_res_id`: they answer with the token of the machine's own identity. So a token for another identity is believed
//! only if the reply names that identity.

use super::{Ask, Detection, Selectors, Source};
use crate::endpoint::Endpoint;
use crate::environment::{ARC_DIRECTORY, ARC_DIRECTORY_WINDOWS, Environment};
use crate::error::{Cause, Error};
use crate::failure_body::path_snippet;
use crate::platform::{CredentialFile, HttpReply, HttpRequest};
use crate::retry::{AZURE_ARC, RetryPolicy};
use crate::secret::Secret;

const API_VERSION: &str = "2020-06-01";
const NAME: &str = "azure-arc";

/// Where the agent listens when no variable says so.
const WELL_KNOWN: &str = "http://127.0.0.1:40342/metadata/identity/oauth2/token";

/// The largest key, in bytes. The agent's have some hundred.
const KEY_LIMIT: usize = 4096;

const EXTENSION: &str = ".key";

/// The metadata service's, which the agent took over.
const SELECTORS: Selectors = Selectors {
    client_id: "client_id",
    object_id: "object_id",
    resource_id: "msi_res_id",
};

struct AzureArc {
    endpoint: Endpoint,
    directory: String,
}

/// The agent, when variables announce it.
pub(super) fn announced(environment: &Environment) -> Detection {
    let (Some(endpoint), true) = (environment.get("IDENTITY_ENDPOINT"), environment.has("IMDS_ENDPOINT")) else {
        return Detection::No("Azure Arc: no, it would need both IDENTITY_ENDPOINT and IMDS_ENDPOINT.".to_owned());
    };
    Detection::announced(
        Endpoint::parse("IDENTITY_ENDPOINT", endpoint).map(|endpoint| source(endpoint, environment)),
        NAME,
        "IDENTITY_ENDPOINT and IMDS_ENDPOINT announce Azure Arc.",
    )
}

/// The agent at its well-known address, when it is installed.
pub(super) fn installed(environment: &Environment) -> Detection {
    if !environment.has_arc_agent() {
        return Detection::No("Azure Arc: its agent is not installed here.".to_owned());
    }
    Detection::announced(
        Endpoint::parse("", WELL_KNOWN).map(|endpoint| source(endpoint, environment)),
        NAME,
        "No variable announces a source, and the agent of Azure Arc is installed here.",
    )
}

fn source(endpoint: Endpoint, environment: &Environment) -> Box<dyn Source> {
    // Other systems may have the variable too, with a path of their own.
    let on_windows = |data: &&str| data.as_bytes().get(1) == Some(&b':');
    let directory = match environment.get("ProgramData").filter(on_windows) {
        Some(data) => format!("{}{ARC_DIRECTORY_WINDOWS}", data.trim_end_matches('\\')),
        None => ARC_DIRECTORY.to_owned(),
    };
    Box::new(AzureArc { endpoint, directory })
}

impl Source for AzureArc {
    fn name(&self) -> &'static str {
        NAME
    }

    fn endpoint(&self) -> String {
        self.endpoint.to_string()
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn needs(&self) -> super::Needs {
        super::Needs {
            directory: Some(self.directory.clone()),
            ..super::Needs::of(self.endpoint())
        }
    }

    fn request(&self, ask: Ask<'_>, credential: Option<&Secret>) -> HttpRequest {
        let mut query = vec![("api-version", API_VERSION), ("resource", ask.audience.resource())];
        query.extend(SELECTORS.parameter(ask.identity));
        let mut headers = vec![("metadata", Secret::from("true"))];
        if let Some(key) = credential {
            // At its full length at once, so that no outgrown copy stays behind.
            let mut value = String::with_capacity("Basic ".len() + key.expose().len());
            value.push_str("Basic ");
            value.push_str(key.expose());
            headers.push(("authorization", Secret::new(value)));
        }
        self.endpoint.get(&query, headers)
    }

    fn challenge(&self, reply: &HttpReply) -> Option<Result<CredentialFile, Error>> {
        (reply.status == 401).then(|| self.key_file(reply))
    }

    fn retry_policy(&self) -> &'static RetryPolicy {
        &AZURE_ARC
    }

    fn has_credential(&self) -> bool {
        false
    }

    fn must_name_identity(&self) -> bool {
        true
    }

    fn failure(&self, reply: &HttpReply, answered: bool) -> Option<Error> {
        if !answered {
            return None;
        }
        let endpoint = &self.endpoint;
        match reply.status {
            300..=399 => Some(Error::new(
                Cause::EndpointIntercepted,
                format!(
                    "{endpoint} redirects the request that carries the agent's key (HTTP {}), which the agent never does. \
                     The key was not sent on. Look for whatever else answers at this address.",
                    reply.status
                ),
            )),
            401 => Some(Error::new(
                Cause::CredentialRejected,
                format!(
                    "{endpoint} rejects the key that it asked for (HTTP 401). Restart the agent of Azure Arc, and look \
                     for whatever else answers at this address."
                ),
            )),
            _ => None,
        }
    }

    fn advice(&self, cause: Cause, _: bool) -> Option<&'static str> {
        match cause {
            Cause::CredentialUnreadable => Some(
                "Run as administrator, or as a member of the group himds (Windows: Hybrid agent extension applications), \
                 and let the host give the provider read access to the agent's directory of keys.",
            ),
            Cause::EndpointUnreachable => {
                Some("Check that the agent of Azure Arc runs: `azcmagent show` and `systemctl status himdsd` say so.")
            }
            Cause::IdentityMismatch => Some(
                "Agents before version 1.67 know no user-assigned identities and answer for the machine's own: update the \
                 agent, or ask for the system-assigned identity.",
            ),
            _ => None,
        }
    }
}

impl AzureArc {
    /// The file that a 401 names, if it is one that the agent may have written.
    fn key_file(&self, reply: &HttpReply) -> Result<CredentialFile, Error> {
        let endpoint = &self.endpoint;
        let malformed = |what: &str| {
            let text = format!("{endpoint} answers 401 {what}. Look for whatever else answers at this address.");
            Err(Error::new(Cause::MalformedReply, text).with_status(401))
        };
        let mut challenges = reply
            .headers
            .iter()
            .filter(|(name, _)| name == "www-authenticate")
            .map(|(_, challenge)| challenge.trim().split_once(' ').unwrap_or((challenge.trim(), "")))
            .peekable();
        if challenges.peek().is_none() {
            return malformed("without a challenge (WWW-Authenticate)");
        }
        let Some((_, parameters)) = challenges.find(|(scheme, _)| scheme.eq_ignore_ascii_case("Basic")) else {
            return malformed("with a challenge of another scheme than Basic");
        };
        match realm(parameters) {
            Some(realm) => self.file_in_directory(realm).map_err(|why| {
                let text = format!(
                    "{endpoint} asks for the contents of {}, which {why}. It was not read. Look for whatever else answers \
                     at this address.",
                    path_snippet(realm)
                );
                Error::new(Cause::CredentialUnreadable, text).with_status(401)
            }),
            None => malformed("with a challenge that names no file (realm)"),
        }
    }

    /// The realm's file, by its name in the agent's directory. The error is the end of a sentence.
    fn file_in_directory(&self, realm: &str) -> Result<CredentialFile, &'static str> {
        let separator = if self.directory.starts_with('/') { '/' } else { '\\' };
        // Windows does not tell upper from lower case, and takes a slash for a backslash.
        let windows = separator == '\\';
        let realm = if windows {
            realm.replace('/', "\\")
        } else {
            realm.to_owned()
        };
        if realm.split(separator).any(|part| part == ".." || part == ".") {
            return Err("leads through a parent directory");
        }
        let Some((directory, name)) = realm.rsplit_once(separator) else {
            return Err("is no absolute path");
        };
        let same = match windows {
            true => directory.eq_ignore_ascii_case(&self.directory),
            false => directory == self.directory,
        };
        if !same {
            return Err("is not in the agent's own directory");
        }
        // Also refuses what other systems would take for a separator, and alternate streams of Windows' files.
        if !name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        {
            return Err("has a name that the agent does not give");
        }
        match name.strip_suffix(EXTENSION) {
            None => Err("has another extension than .key"),
            Some("") => Err("has no name before its extension"),
            Some(_) => Ok(CredentialFile {
                what: "The key file of Azure Arc",
                directory: self.directory.clone(),
                name: name.to_owned(),
                limit: KEY_LIMIT,
                may_be_link: false,
            }),
        }
    }
}

/// The value of `realm`, the first or only parameter. The agent writes it without the quotes that RFC 7617 asks for.
fn realm(parameters: &str) -> Option<&str> {
    let (name, value) = parameters.trim().split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("realm") {
        return None;
    }
    let value = match value.trim().strip_prefix('"') {
        Some(quoted) => quoted.split_once('"')?.0,
        None => value.split(',').next()?.trim(),
    };
    (!value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arc(directory: &str) -> AzureArc {
        AzureArc {
            endpoint: Endpoint::parse("", WELL_KNOWN).expect("a URL"),
            directory: directory.to_owned(),
        }
    }

    fn challenged(directory: &str, challenge: Option<&str>) -> Result<String, (Cause, String)> {
        let reply = HttpReply {
            status: 401,
            headers: challenge
                .map(|challenge| ("www-authenticate".to_owned(), challenge.to_owned()))
                .into_iter()
                .collect(),
            ..HttpReply::default()
        };
        let file = arc(directory).challenge(&reply).expect("401 is a challenge");
        file.map(|file| file.name).map_err(|error| (error.cause, error.message))
    }

    #[test]
    fn the_key_is_found_by_its_name_in_the_directory() {
        for challenge in [
            "Basic realm=/var/opt/azcmagent/tokens/a-1.key",
            "basic  realm=\"/var/opt/azcmagent/tokens/a-1.key\"",
            "BASIC Realm = /var/opt/azcmagent/tokens/a-1.key ",
            "Basic realm=\"/var/opt/azcmagent/tokens/a-1.key\", charset=\"UTF-8\"",
            "Basic realm=/var/opt/azcmagent/tokens/a-1.key, charset=utf-8",
        ] {
            assert_eq!(
                challenged(ARC_DIRECTORY, Some(challenge)).as_deref(),
                Ok("a-1.key"),
                "{challenge}"
            );
        }
        let windows = r"C:\ProgramData\AzureConnectedMachineAgent\Tokens";
        for realm in [
            r"C:\ProgramData\AzureConnectedMachineAgent\Tokens\a.key",
            r"c:\programdata\azureconnectedmachineagent\tokens\a.key",
            "C:/ProgramData/AzureConnectedMachineAgent/Tokens/a.key",
        ] {
            assert_eq!(
                challenged(windows, Some(&format!("Basic realm={realm}"))).as_deref(),
                Ok("a.key"),
                "{realm}"
            );
        }
    }

    #[test]
    fn each_unfit_challenge_is_refused_with_a_message_of_its_own() {
        let unreadable = Cause::CredentialUnreadable;
        let mut messages = Vec::new();
        for (challenge, cause) in [
            (None, Cause::MalformedReply),
            (
                Some("Bearer realm=/var/opt/azcmagent/tokens/a.key"),
                Cause::MalformedReply,
            ),
            (Some("Basic"), Cause::MalformedReply),
            (
                Some("Basic realm=/var/opt/azcmagent/tokens/../../../../etc/a.key"),
                unreadable,
            ),
            (Some("Basic realm=a.key"), unreadable),
            (Some("Basic realm=/etc/a.key"), unreadable),
            (Some("Basic realm=/var/opt/azcmagent/tokens/a.txt"), unreadable),
            (Some("Basic realm=/var/opt/azcmagent/tokens/.key"), unreadable),
            (Some("Basic realm=/var/opt/azcmagent/tokens/a\\..\\b.key"), unreadable),
        ] {
            let (found, message) = challenged(ARC_DIRECTORY, challenge).expect_err("unfit");
            assert_eq!(found, cause, "{challenge:?}");
            assert!(!messages.contains(&message), "{message}");
            messages.push(message);
        }
        for same in [
            "Basic charset=utf-8",
            "Basic realm=",
            "Basic realm=\"\"",
            "Basic realm=\"/var/opt/azcmagent/tokens/a.key",
            "Basic /var/opt/azcmagent/tokens/a.key",
        ] {
            let (found, message) = challenged(ARC_DIRECTORY, Some(same)).expect_err("no realm");
            assert_eq!((found, &message), (Cause::MalformedReply, &messages[2]), "{same}");
        }
        for outside in [
            "/var/opt/azcmagent/tokens/sub/a.key",
            "/var/opt/azcmagent/tokens2/a.key",
            "/VAR/opt/azcmagent/tokens/a.key",
            "//var/opt/azcmagent/tokens/a.key",
        ] {
            let (found, _) = challenged(ARC_DIRECTORY, Some(&format!("Basic realm={outside}"))).expect_err("outside");
            assert_eq!(found, unreadable, "{outside}");
        }
    }
}
