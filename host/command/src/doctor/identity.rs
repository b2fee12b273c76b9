//! Whose token came: the identity that was named, or the one that the platform chose.

use super::line::{Check, Line, documentation, shown};
use super::token::Asked;
use managed_identity_host::claims::{self, Claims};
use managed_identity_host::{AccessToken, Cause, Identity};

/// Part of the resource id of each user-assigned identity, in lower case.
const USER_ASSIGNED: &str = "/microsoft.managedidentity/userassignedidentities/";

/// Sources that choose by themselves when nobody names an identity.
const CHOOSING: [&str; 4] = ["imds", "app-service", "app-service-2017", "azure-arc"];

/// Compares whose token was asked for with what the token, and the reply that it came with, say.
pub(super) fn check(token: &AccessToken, asked: &Asked, source: &str) -> Line {
    let claims = claims::decode(token.token.expose()).ok();
    let claims = claims.as_ref();
    let whose = whose(token, claims);
    let Some(by) = asked.by else {
        let is_user_assigned = claims
            .and_then(|claims| claims.resource_id.as_deref())
            .is_some_and(is_user_assigned);
        if is_user_assigned && CHOOSING.contains(&source) {
            return Line::warn(
                Check::Identity,
                format!("Nobody named an identity, and the platform chose a user-assigned one: {whose}."),
                "It is the only one that is assigned. As soon as somebody assigns a second one, or turns the system-assigned \
                 one on, the same request fails or acts as another identity.",
                "Name it: set AZURE_CLIENT_ID to its client id.",
            )
            .see(format!("{}: which identity IMDS defaults to", documentation::FAQ));
        }
        let found = format!("Nobody named an identity; the platform's own choice is {whose}.");
        return Line::pass(
            Check::Identity,
            found,
            "Another one is named by AZURE_CLIENT_ID or an option.",
        );
    };
    match claims.map(|claims| is_of(claims, &asked.identity)) {
        Some(false) => Line::fail(
            Check::Identity,
            format!("The token is not for the identity that {by} names, but for {whose}."),
            "The platform answered for another identity and did not say so.",
            "Compare the identifier with the identities that are assigned; agents of Azure Arc before version 1.67 know no \
             user-assigned ones.",
        )
        .of(Cause::IdentityMismatch),
        Some(true) => {
            let found = format!("It is the identity that {by} names: {whose}.");
            Line::pass(Check::Identity, found, "The platform knows it, and it is assigned here.")
        }
        None => {
            let found = format!("The token cannot be read, and the platform says that it is for {whose}.");
            Line::pass(Check::Identity, found, "The platform knows the identity, and it is assigned here.")
        }
    }
}

/// Whether a token is that of `identity`; what a token does not say cannot be another's.
fn is_of(claims: &Claims, identity: &Identity) -> bool {
    let same = |claim: &Option<String>, id: &str| claim.as_deref().is_none_or(|claim| claim.eq_ignore_ascii_case(id));
    match identity {
        Identity::PlatformDefault => true,
        Identity::SystemAssigned => !claims.resource_id.as_deref().is_some_and(is_user_assigned),
        Identity::ClientId(id) => same(&claims.application_id, id),
        Identity::ObjectId(id) => same(&claims.object_id, id),
        Identity::ResourceId(id) => {
            let named = claims.resource_id.as_deref().filter(|claim| is_user_assigned(claim));
            named.is_none_or(|claim| claim.eq_ignore_ascii_case(id))
        }
    }
}

fn is_user_assigned(resource_id: &str) -> bool {
    resource_id.to_ascii_lowercase().contains(USER_ASSIGNED)
}

fn whose(token: &AccessToken, claims: Option<&Claims>) -> String {
    let client_id = claims
        .and_then(|claims| claims.application_id.as_deref())
        .or(token.client_id.as_deref());
    let resource_id = claims.and_then(|claims| claims.resource_id.as_deref());
    let kind = match resource_id {
        Some(id) if is_user_assigned(id) => "user-assigned, ",
        Some(_) => "system-assigned, of ",
        None => "",
    };
    let client_id = shown(client_id.unwrap_or("one that it does not name"));
    match resource_id {
        Some(id) => format!("client id {client_id} ({kind}{})", shown(id)),
        None => format!("client id {client_id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str = "/subscriptions/s/resourcegroups/g/providers/Microsoft.Compute/virtualMachines/m";
    const ASSIGNED: &str =
        "/subscriptions/s/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/a";

    fn claims(resource_id: Option<&str>) -> Claims {
        let mut claims = claims::decode("e30.e30.").unwrap_or_else(|error| panic!("{error}"));
        claims.application_id = Some("C".to_owned());
        claims.object_id = Some("O".to_owned());
        claims.resource_id = resource_id.map(str::to_owned);
        claims
    }

    #[test]
    fn a_token_is_of_the_identity_that_its_claims_do_not_contradict() {
        let id = |id: &str| id.to_owned();
        for (identity, resource_id, expected) in [
            (Identity::SystemAssigned, Some(MACHINE), true),
            (Identity::SystemAssigned, None, true),
            (Identity::SystemAssigned, Some(ASSIGNED), false),
            (Identity::ClientId(id("c")), Some(ASSIGNED), true),
            (Identity::ClientId(id("d")), Some(ASSIGNED), false),
            (Identity::ObjectId(id("o")), None, true),
            (Identity::ObjectId(id("p")), None, false),
            (Identity::ResourceId(ASSIGNED.to_uppercase()), Some(ASSIGNED), true),
            (Identity::ResourceId(format!("{ASSIGNED}b")), Some(ASSIGNED), false),
            (Identity::ResourceId(id(ASSIGNED)), Some(MACHINE), true),
        ] {
            assert_eq!(
                is_of(&claims(resource_id), &identity),
                expected,
                "{identity:?} {resource_id:?}"
            );
        }
    }
}
