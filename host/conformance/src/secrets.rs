//! What must not be shown.

use crate::case::{Node, Scenario};
use serde_json::Value;

/// Shorter texts are in many words by chance.
const SHORTEST: usize = 6;

/// So are words that stand together in many sentences, unless there are more of them.
const SHORTEST_WITH_SPACES: usize = 16;

/// Of a longer text, its beginning tells enough.
const LONGEST: usize = 48;

/// The secrets of one case.
#[derive(Debug)]
pub(crate) struct Secrets(Vec<String>);

impl Secrets {
    /// What the case calls secret, and what is one in every case: the secrets in the environment, what lies in files of
    /// keys and assertions, every token that is served or was rejected.
    pub(crate) fn of(scenario: &Scenario) -> Self {
        let mut secrets = declared(scenario);
        for reply in scenario
            .steps
            .iter()
            .flat_map(|step| &step.exchanges)
            .filter_map(|exchange| exchange.reply())
        {
            if let Ok(body) = serde_json::from_slice(&reply.body()) {
                tokens(&body, &mut secrets);
            }
        }
        secrets.retain_mut(|secret| {
            if let Some((end, _)) = secret.char_indices().nth(LONGEST) {
                secret.truncate(end);
            }
            // Of the declared ones none is short; the tokens of broken replies may be anything.
            !is_short(secret)
        });
        secrets.sort();
        secrets.dedup();
        Self(secrets)
    }

    /// Names the secrets that are shown in `text`.
    pub(crate) fn shown(&self, place: &str, text: &str) -> Vec<String> {
        let shown = self.0.iter().filter(|secret| text.contains(secret.as_str()));
        shown
            .map(|secret| format!("{place} shows the secret `{secret}`"))
            .collect()
    }
}

/// Refuses a case with a secret so short that it would be in other texts by chance, and so could not be looked for.
pub(crate) fn check(scenario: &Scenario) -> Result<(), String> {
    match declared(scenario).iter().find(|secret| is_short(secret)) {
        Some(secret) => Err(format!(
            "the secret `{secret}` is too short to be missed: give it {SHORTEST} characters at least, or \
             {SHORTEST_WITH_SPACES} where there are spaces in it"
        )),
        None => Ok(()),
    }
}

/// The secrets that the case itself gives the client: all but those that come in replies.
fn declared(scenario: &Scenario) -> Vec<String> {
    let mut secrets = scenario.secrets.clone();
    for name in ["IDENTITY_HEADER", "MSI_SECRET"] {
        secrets.extend(scenario.environment.get(name).cloned());
    }
    for file in scenario.all_files() {
        if let Node::Text(text) = file.node()
            && !text.contains("-----BEGIN CERTIFICATE-----")
        {
            secrets.push(text.trim().to_owned());
        }
    }
    secrets.extend(
        scenario
            .steps
            .iter()
            .filter_map(|step| step.request.rejected_token.clone()),
    );
    // An empty file or variable gives nothing away.
    secrets.retain(|secret| !secret.is_empty());
    secrets
}

fn is_short(secret: &str) -> bool {
    let shortest = if secret.contains(' ') {
        SHORTEST_WITH_SPACES
    } else {
        SHORTEST
    };
    secret.len() < shortest
}

fn tokens(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| tokens(item, found)),
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(token) if name == "access_token" => found.push(token.clone()),
                    other => tokens(other, found),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_are_found_wherever_a_case_has_them() {
        let scenario: Scenario = serde_json::from_str(
            r#"{
                "description": "d",
                "environment": { "MSI_SECRET": "from-environment", "AZURE_CLIENT_ID": "no-secret" },
                "files": [
                    { "path": "/a.key", "text": " from-file\n" },
                    { "path": "/b.key", "repeat": "k", "times": 4097 },
                    { "path": "/ca.pem", "text": "-----BEGIN CERTIFICATE-----" }
                ],
                "secrets": ["from-list"],
                "steps": [{
                    "files": [{ "path": "/c.key", "text": "from-step" }],
                    "request": { "audience": "a", "rejected_token": "from-request" },
                    "exchanges": [{
                        "request": { "path": "/" },
                        "reply": { "text": "[{\"access_token\":\"from-reply\"},{\"access_token\":\"short\"}]" }
                    }],
                    "expect": { "error": "internal" }
                }]
            }"#,
        )
        .expect("well-formed");
        let secrets = Secrets::of(&scenario);
        for name in [
            "from-environment",
            "from-file",
            "from-list",
            "from-step",
            "from-request",
            "from-reply",
            &"k".repeat(100),
        ] {
            assert_eq!(secrets.shown("The error", &format!("a {name} b")).len(), 1, "{name}");
        }
        assert_eq!(
            secrets.shown("The error", "no-secret -----BEGIN CERTIFICATE----- short kkkk"),
            [""; 0]
        );
        assert_eq!(check(&scenario), Ok(()));
    }

    #[test]
    fn a_secret_that_could_not_be_looked_for_is_refused() {
        let scenario: Scenario =
            serde_json::from_str(r#"{ "description": "d", "environment": {}, "steps": [] }"#).expect("well-formed");
        let file = |text: &str| serde_json::from_value(json!({ "path": "/a.key", "text": text })).expect("well-formed");
        let with = |change: &dyn Fn(&mut Scenario)| {
            let mut changed = scenario.clone();
            change(&mut changed);
            check(&changed)
        };
        for short in ["key-a", "a few words"] {
            for refused in [
                with(&|scenario| scenario.secrets.push(short.to_owned())),
                with(&|scenario| scenario.files.push(file(short))),
                with(&|scenario| {
                    scenario.environment.insert("MSI_SECRET".to_owned(), short.to_owned());
                }),
            ] {
                assert!(refused.is_err_and(|reason| reason.contains(short)), "{short}");
            }
        }
        for fit in ["", " \n", "key-of-a", "a few words that are enough"] {
            assert_eq!(with(&|scenario| scenario.files.push(file(fit))), Ok(()), "{fit}");
        }
    }
}
