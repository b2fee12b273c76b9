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
        let mut secrets = scenario.secrets.clone();
        for name in ["IDENTITY_HEADER", "MSI_SECRET"] {
            secrets.extend(scenario.environment.get(name).cloned());
        }
        for file in &scenario.files {
            if let Node::Text(text) = file.node()
                && !text.contains("-----BEGIN CERTIFICATE-----")
            {
                secrets.push(text.trim().to_owned());
            }
        }
        for step in &scenario.steps {
            secrets.extend(step.request.rejected_token.clone());
            for reply in step.exchanges.iter().filter_map(|exchange| exchange.reply()) {
                if let Ok(body) = serde_json::from_slice(&reply.body()) {
                    tokens(&body, &mut secrets);
                }
            }
        }
        secrets.retain_mut(|secret| {
            if let Some((end, _)) = secret.char_indices().nth(LONGEST) {
                secret.truncate(end);
            }
            let shortest = if secret.contains(' ') {
                SHORTEST_WITH_SPACES
            } else {
                SHORTEST
            };
            secret.len() >= shortest
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
                "secrets": ["from-list", "short", "token a"],
                "steps": [{
                    "request": { "audience": "a", "rejected_token": "from-request" },
                    "exchanges": [{ "reply": { "text": "[{\"access_token\":\"from-reply\"}]" } }],
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
            "from-request",
            "from-reply",
            &"k".repeat(100),
        ] {
            assert_eq!(secrets.shown("The error", &format!("a {name} b")).len(), 1, "{name}");
        }
        assert_eq!(
            secrets.shown("The error", "no-secret -----BEGIN CERTIFICATE----- short kkkk token a"),
            [""; 0]
        );
    }
}
