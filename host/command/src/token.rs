//! `managed-identity token`

use crate::arguments::{TokenArguments, TokenOutput};
use crate::{report, requests};
use managed_identity_host::{AccessToken, TokenRequest};
use serde_json::{Value, json};
use std::process::ExitCode;

pub(crate) async fn run(arguments: TokenArguments) -> anyhow::Result<ExitCode> {
    if arguments.audience.requests {
        return requests::run(&arguments.provider.builder()?.build()?).await;
    }
    let mut request = TokenRequest::new(arguments.audience.audience())
        .with_identity(arguments.identity.identity())
        .with_timeout(arguments.timeout);
    request.claims = arguments.claims;
    let broker = arguments.provider.builder()?.build()?;
    let token = broker.token(&request).await?;
    match arguments.output {
        TokenOutput::Text => report::line(token.token.expose())?,
        TokenOutput::Header => report::line(format_args!(
            "Authorization: {} {}",
            token.token_type,
            token.token.expose()
        ))?,
        TokenOutput::Json => report::line(json(&token))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A token with all that is known of it.
pub(crate) fn json(token: &AccessToken) -> Value {
    json!({
        "access_token": token.token.expose(),
        "token_type": token.token_type,
        "expires_on": token.expires_on,
        "refresh_on": token.refresh_on,
        "resource": token.audience,
        "client_id": token.client_id,
        "source": token.source,
        "stale": token.stale,
    })
}
