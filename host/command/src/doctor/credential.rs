//! What the platform leaves for the source in a file: whether it is there, can be read, and is fresh.

use super::bounded::bounded;
use super::cause;
use super::line::{Check, Line, documentation, shown};
use super::network::time_of;
use super::variables::Variables;
use crate::report;
use managed_identity_host::claims::{self, Claims};
use managed_identity_host::{Broker, Cause, Secret, TokenError};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio::time::timeout;

/// What the cluster asks a service account's token to be for. The clouds of governments have longer names.
const EXCHANGE_AUDIENCE: &str = "api://AzureADTokenExchange";

/// More than any token of a service account has, and a bound on what is read.
const LARGEST: u64 = 64 * 1024;

/// A token with less than this before its end should have been replaced: Kubernetes does so when a fifth of its life is left,
/// which is twelve minutes of the shortest one.
const SHORTEST_REST: u64 = 5 * 60;

/// Looks at what the source leaves, and says whether a token can be asked for at all.
pub(super) async fn check(broker: &Broker, source: &str, variables: &Variables, time: Duration) -> (Vec<Line>, bool) {
    let Some(place) = broker.credential().map(Path::to_owned) else {
        let found = format!("{source} leaves no credential in a file{}.", secret(source));
        return (vec![Line::skipped(Check::Credential, found)], true);
    };
    let shown_place = place.display().to_string();
    let probed = timeout(time, broker.probe_credential()).await.unwrap_or_else(|_| {
        let message = format!(
            "The credential at {shown_place} cannot be read within {}.",
            time_of(time)
        );
        Err(TokenError::new(Cause::CredentialUnreadable, message).with_source(source))
    });
    if let Err(error) = probed {
        if source == "azure-arc" {
            let line = Line::warn(
                Check::Credential,
                format!("The agent's directory of keys, {shown_place}, cannot be read."),
                "Most agents of Azure Arc ask for the contents of a file in it before they give a token; newer ones may not.",
                "Run as administrator, or as a member of the group himds, and mount the directory into containers.",
            );
            return (vec![line.see(documentation::ARC)], true);
        }
        return (vec![cause::line(Check::Credential, &error)], false);
    }
    if source == "azure-arc" {
        let found = format!("The agent's directory of keys, {shown_place}, can be read.");
        let line = Line::pass(Check::Credential, found, "A key appears in it when the agent is asked.");
        return (vec![line.see(documentation::ARC)], true);
    }
    let read = bounded(time, move || read(&place)).await;
    let mut lines = vec![match read {
        Some(Ok(token)) => federated(&shown_place, &token, SystemTime::now()),
        Some(Err(error)) => unreadable(&shown_place, &error.to_string()),
        None => unreadable(&shown_place, "it does not end in time"),
    }];
    if variables.get("MANAGED_IDENTITY_USE_TOKEN_PROXY") == Some("true")
        && let Some(file) = variables.get("AZURE_KUBERNETES_CA_FILE")
    {
        lines.push(authority(PathBuf::from(file), time).await);
    }
    (lines, true)
}

/// Where the secret of a source is that leaves none in a file.
fn secret(source: &str) -> &'static str {
    match source {
        "app-service" | "service-fabric" => "; its secret is in IDENTITY_HEADER",
        "app-service-2017" | "azure-ml" => "; its secret is in MSI_SECRET",
        _ => " and needs none",
    }
}

fn read(place: &Path) -> io::Result<Secret> {
    // What is no file might never end.
    if !place.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut text = String::new();
    File::open(place)?.take(LARGEST).read_to_string(&mut text)?;
    Ok(Secret::new(text))
}

fn unreadable(place: &str, why: &str) -> Line {
    Line::fail(
        Check::Credential,
        format!("{place} cannot be read: {why}."),
        "The service account's token cannot be presented, and without it the authority gives none of its own.",
        "Check the volume that it is mounted from.",
    )
    .of(Cause::CredentialUnreadable)
}

/// The token of a service account, as far as it says of itself whether it will be taken. Who made it, for whom and about whom
/// is not secret: it is what the identity's federated credential has to repeat.
fn federated(place: &str, token: &Secret, now: SystemTime) -> Line {
    let claims = match claims::decode(token.expose()) {
        Ok(claims) => claims,
        Err(error) => {
            return Line::fail(
                Check::Credential,
                format!(
                    "{place} does not hold the token of a service account: {}.",
                    error.message
                ),
                "Whatever it holds, the authority takes a signed token (JWT) only.",
                "Check what AZURE_FEDERATED_TOKEN_FILE names, and what else writes there.",
            );
        }
    };
    let seconds = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |now| now.as_secs());
    let moment = |seconds| report::moment(seconds, now);
    let about = about(&claims);
    match claims.expires_on {
        Some(end) if end <= seconds => Line::fail(
            Check::Credential,
            format!("The token in {place} has expired: {}. {about}", moment(end)),
            "The authority does not take it any more (AADSTS700024). The cluster replaces such a token long before its end.",
            "Check that the file is the mounted one and no copy of it, that the kubelet of the node is well, and the clock.",
        )
        .see(format!("{}: AADSTS700024", documentation::CODES)),
        _ if claims.not_before.is_some_and(|begin| begin > seconds + SHORTEST_REST) => Line::fail(
            Check::Credential,
            format!(
                "The token in {place} is not valid yet: from {}. {about}",
                moment(claims.not_before.unwrap_or_default())
            ),
            "The authority does not take it, or this machine's clock is behind.",
            "Set the clock, and compare it with that of the cluster.",
        ),
        Some(end) if end - seconds < SHORTEST_REST => Line::warn(
            Check::Credential,
            format!("The token in {place} is about to expire: {}. {about}", moment(end)),
            "The cluster should have replaced it by now.",
            "Check that the file is the mounted one and no copy of it, and that the kubelet of the node is well.",
        ),
        _ if !claims.audiences.iter().any(|one| one.starts_with(EXCHANGE_AUDIENCE)) => Line::warn(
            Check::Credential,
            format!("The token in {place} is not for {EXCHANGE_AUDIENCE}. {about}"),
            "The authority takes it only if the identity's federated credential names the same audience.",
            "Use the token that the webhook mounts, or correct the audience of the projected volume.",
        ),
        Some(end) => Line::pass(
            Check::Credential,
            format!("The token in {place} is valid until {}. {about}", moment(end)),
            "The authority takes it if the identity's federated credential has the same issuer, subject and audience.",
        ),
        None => Line::warn(
            Check::Credential,
            format!("The token in {place} does not say when it expires. {about}"),
            "It is none that a cluster makes.",
            "Check what AZURE_FEDERATED_TOKEN_FILE names.",
        ),
    }
}

fn about(claims: &Claims) -> String {
    let or_none = |claim: &Option<String>| shown(claim.as_deref().unwrap_or("none"));
    format!(
        "Issuer: {}; subject: {}; audience: {}.",
        or_none(&claims.issuer),
        or_none(&claims.subject),
        shown(&claims.audiences.join(", "))
    )
}

/// The certificate authority of identity bindings.
async fn authority(file: PathBuf, time: Duration) -> Line {
    let place = file.display().to_string();
    let why = match bounded(time, move || read(&file)).await {
        Some(Ok(pem)) if pem.expose().contains("-----BEGIN CERTIFICATE-----") => {
            let found = format!("{place} (AZURE_KUBERNETES_CA_FILE) has a certificate.");
            return Line::pass(Check::Credential, found, "The cluster's token proxy is known by it.");
        }
        Some(Ok(_)) => "has no certificate in PEM".to_owned(),
        Some(Err(error)) => format!("cannot be read: {error}"),
        None => "cannot be read in time".to_owned(),
    };
    Line::fail(
        Check::Credential,
        format!("{place} (AZURE_KUBERNETES_CA_FILE) {why}."),
        "The cluster's token proxy cannot be told from an impostor, so nothing is sent to it.",
        "Check the volume that the file is mounted from.",
    )
    .of(Cause::NotConfigured)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::line::Status;

    const NOW: u64 = 1_700_000_000;

    /// Of these claims, in base64url, by hand: the command has no encoder.
    fn token(payload: &str) -> Secret {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut encoded = String::new();
        for chunk in payload.as_bytes().chunks(3) {
            let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
            for digit in 0..=chunk.len() {
                encoded.push(char::from(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63]));
            }
        }
        Secret::new(format!("e30.{encoded}.s1gn4tur3"))
    }

    #[test]
    fn a_token_is_looked_at_for_its_times_and_its_audience() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
        let ours = "api://AzureADTokenExchange";
        for (payload, status, words) in [
            (
                format!(r#"{{"aud":["{ours}"],"exp":{},"sub":"s"}}"#, NOW + 3600),
                Status::Pass,
                "subject: s",
            ),
            (
                format!(r#"{{"aud":["{ours}"],"exp":{}}}"#, NOW + 60),
                Status::Warn,
                "about to expire",
            ),
            (
                format!(r#"{{"aud":["{ours}"],"exp":{NOW}}}"#),
                Status::Fail,
                "has expired",
            ),
            (
                format!(r#"{{"aud":["{ours}"],"exp":{},"nbf":{}}}"#, NOW + 9000, NOW + 600),
                Status::Fail,
                "not valid yet",
            ),
            (
                format!(r#"{{"aud":"https://x","exp":{}}}"#, NOW + 3600),
                Status::Warn,
                "is not for",
            ),
            (format!(r#"{{"aud":["{ours}"]}}"#), Status::Warn, "does not say when"),
        ] {
            let line = federated("/token", &token(&payload), now);
            assert_eq!(line.status, status, "{payload}: {line:?}");
            assert!(line.found.contains(words), "{words} in {line:?}");
            assert!(!line.json().to_string().contains("s1gn4tur3"));
        }
        let line = federated("/token", &Secret::from("s1gn4tur3"), now);
        assert_eq!(line.status, Status::Fail);
        assert!(!line.json().to_string().contains("s1gn4tur3"), "{line:?}");
    }
}
