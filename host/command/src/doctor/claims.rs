//! What the token says of itself: for what, of whom, with which roles, from when until when.

use super::line::{Check, Line, shown};
use crate::report;
use managed_identity_host::claims::{self, Claims};
use managed_identity_host::{AccessToken, Cause};
use std::time::SystemTime;

/// How many seconds a verifier's clock may be behind the issuer's.
const TOLERANCE: u64 = 5 * 60;

/// How many roles are shown.
const MOST_ROLES: usize = 20;

/// Looks at the claims of a token for `resource`. Nothing is verified.
pub(super) fn check(token: &AccessToken, resource: &str, now: SystemTime) -> Vec<Line> {
    match claims::decode(token.token.expose()) {
        Ok(claims) => read(&claims, resource, now),
        Err(error) => vec![Line::warn(
            Check::Claims,
            format!("The claims cannot be read: {}.", error.message),
            "The token is for its audience alone to read, or it is none that Entra makes.",
            "Look at how the resource answers to it.",
        )],
    }
}

fn read(claims: &Claims, resource: &str, now: SystemTime) -> Vec<Line> {
    let seconds = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |now| now.as_secs());
    let mut lines = Vec::new();
    match claims.expires_on {
        Some(end) if end <= seconds => lines.push(
            Line::fail(
                Check::Claims,
                format!("The token has expired: {}.", report::moment(end, now)),
                "The reply says otherwise, and the resource believes the token.",
                "Set the clocks, and restart the service that hands out old tokens.",
            )
            .of(Cause::TokenRejected),
        ),
        Some(end) if end - seconds < TOLERANCE => lines.push(Line::warn(
            Check::Claims,
            format!("The token is about to expire: {}.", report::moment(end, now)),
            "The platform hands out a token from its cache that the next one should have replaced, or a clock is wrong.",
            "Ask again in some minutes.",
        )),
        _ => {}
    }
    match claims.not_before {
        Some(begin) if begin > seconds + TOLERANCE => lines.push(Line::fail(
            Check::Claims,
            format!("The token is not valid yet: from {}.", report::moment(begin, now)),
            "Resources refuse it, or this machine's clock is behind.",
            "Set the clock: `timedatectl status` says whether this one is kept right.",
        )),
        Some(begin) if begin > seconds => lines.push(Line::warn(
            Check::Claims,
            format!(
                "The token is not valid yet by this machine's clock: from {}.",
                report::moment(begin, now)
            ),
            "Resources put up with five minutes, so it works; Entra dates tokens back, so this clock is behind.",
            "Set the clock: `timedatectl status` says whether this one is kept right.",
        )),
        _ => {}
    }
    if !is_for(claims, resource) {
        lines.push(Line::warn(
            Check::Claims,
            format!(
                "The token is not for {resource}, but for {}.",
                shown(&claims.audiences.join(", "))
            ),
            "Some resources have several names; any other one refuses the token (HTTP 401).",
            "Ask for the resource by the name that its documentation has.",
        ));
    }
    let description = description(claims, now);
    match lines.first_mut() {
        Some(first) => first.found.push_str(&format!(" {description}")),
        None => lines.push(Line::pass(
            Check::Claims,
            description,
            "Roles here are those of applications. What Azure's role assignments permit is not in a token, and a token keeps the \
             roles that it was made with until its end.",
        )),
    }
    lines
}

/// Whether a token is for a resource, whose name may end with a slash or be the id of its application.
fn is_for(claims: &Claims, resource: &str) -> bool {
    let bare = |name: &str| {
        name.trim_end_matches("/.default")
            .trim_end_matches('/')
            .to_ascii_lowercase()
    };
    let is_id = |name: &str| name.len() == 36 && name.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    claims
        .audiences
        .iter()
        .any(|one| is_id(one) || bare(one) == bare(resource))
}

fn description(claims: &Claims, now: SystemTime) -> String {
    let or_none = |claim: &Option<String>| shown(claim.as_deref().unwrap_or("none"));
    let roles = match &claims.roles[..] {
        [] => "none".to_owned(),
        roles if roles.len() > MOST_ROLES => format!("{}, …", shown(&roles[..MOST_ROLES].join(", "))),
        roles => shown(&roles.join(", ")),
    };
    let moment =
        |moment: Option<u64>| moment.map_or_else(|| "unknown".to_owned(), |moment| report::moment(moment, now));
    format!(
        "Audience: {}; tenant: {}; object id: {}; client id: {}; roles: {roles}; from {} until {}.",
        shown(&claims.audiences.join(", ")),
        or_none(&claims.tenant_id),
        or_none(&claims.object_id),
        or_none(&claims.application_id),
        moment(claims.not_before),
        moment(claims.expires_on),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::line::Status;
    use std::time::Duration;

    const NOW: u64 = 1_700_000_000;

    fn claims(audience: &str, not_before: u64, expires_on: u64) -> Claims {
        let mut claims = claims::decode("e30.e30.").unwrap_or_else(|error| panic!("{error}"));
        claims.audiences = vec![audience.to_owned()];
        claims.not_before = Some(not_before);
        claims.expires_on = Some(expires_on);
        claims
    }

    #[test]
    fn times_and_audience_decide() {
        let vault = "https://vault.azure.net";
        let id = "cfa8b339-82a2-471a-a3c9-0fc0be7a4093";
        for (audience, begin, end, expected) in [
            (vault, NOW - 300, NOW + 86_400, &[(Status::Pass, "Audience")][..]),
            (
                "https://VAULT.azure.net/",
                NOW,
                NOW + 86_400,
                &[(Status::Pass, "Audience")],
            ),
            (id, NOW, NOW + 86_400, &[(Status::Pass, "Audience")]),
            (vault, NOW - 300, NOW, &[(Status::Fail, "has expired")]),
            (vault, NOW - 300, NOW + 60, &[(Status::Warn, "about to expire")]),
            (vault, NOW + 60, NOW + 86_400, &[(Status::Warn, "not valid yet by")]),
            (vault, NOW + 600, NOW + 86_400, &[(Status::Fail, "not valid yet: from")]),
            (
                "https://other.example",
                NOW + 600,
                NOW + 86_400,
                &[(Status::Fail, "not valid yet"), (Status::Warn, "is not for")],
            ),
        ] {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
            let lines = read(&claims(audience, begin, end), vault, now);
            assert_eq!(lines.len(), expected.len(), "{lines:?}");
            for (line, (status, words)) in lines.iter().zip(expected) {
                assert_eq!(line.status, *status, "{line:?}");
                assert!(line.found.contains(words), "{words} in {line:?}");
            }
            assert!(lines[0].found.contains("object id: none"), "{lines:?}");
        }
    }
}
