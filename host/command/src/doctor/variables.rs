//! Variables that are set and say nothing, or say two things.
//!
//! Which of several sources is used, each SDK decides in an order of its own. What is contradictory here may work with one
//! client and fail with the next.

use super::line::{Check, Line};
use managed_identity_host::VARIABLES;
use std::collections::BTreeMap;

/// The variables by which `DefaultAzureCredential` is a service principal, besides `AZURE_CLIENT_ID` and `AZURE_TENANT_ID`.
const OF_SERVICE_PRINCIPALS: [&str; 2] = ["AZURE_CLIENT_SECRET", "AZURE_CLIENT_CERTIFICATE_PATH"];

/// Part of the settings of identity bindings.
const OF_TOKEN_PROXY: [&str; 3] = [
    "AZURE_KUBERNETES_CA_DATA",
    "AZURE_KUBERNETES_CA_FILE",
    "AZURE_KUBERNETES_SNI_NAME",
];

/// Variables by name. The value of one that is no text is absent.
#[derive(Default)]
pub(super) struct Variables(BTreeMap<String, Option<String>>);

impl Variables {
    /// Those of this process.
    pub(super) fn of_process() -> Self {
        let named = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Self(named.map(|(name, value)| (name, value.into_string().ok())).collect())
    }

    /// The value of a variable that is set and not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.text(name).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_deref()
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn has_all(&self, names: &[&str]) -> bool {
        names.iter().all(|name| self.has(name))
    }
}

impl FromIterator<(String, String)> for Variables {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(variables: T) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name, Some(value))).collect())
    }
}

/// What is wrong with the variables; one line that passes when nothing is.
pub(super) fn check(variables: &Variables) -> Vec<Line> {
    let mut lines: Vec<Line> = VARIABLES
        .iter()
        .filter_map(|name| value(variables, name))
        .chain(contradictions(variables))
        .collect();
    if lines.is_empty() {
        lines.push(Line::pass(
            Check::Variables,
            "No variable is empty, and none contradicts another.",
            "Other clients select the same source.",
        ));
    }
    lines
}

/// A value that was not meant.
fn value(variables: &Variables, name: &str) -> Option<Line> {
    let value = variables.text(name)?;
    if value.is_empty() {
        return Some(Line::warn(
            Check::Variables,
            format!("{name} is set, and is empty."),
            "Here and in most clients it counts as unset. Some take it for set, and select another source: azure_identity \
             for Rust, MSAL for Python and Node.js.",
            format!("Unset {name}, or set it to what the platform gave."),
        ));
    }
    let is_quote = |character: char| matches!(character, '"' | '\'' | '`');
    let framed = value.trim() != value || value.starts_with(is_quote) || value.ends_with(is_quote);
    // A certificate in PEM ends with a line end.
    (framed && name != "AZURE_KUBERNETES_CA_DATA").then(|| {
        Line::warn(
            Check::Variables,
            format!("The value of {name} begins or ends with white space or a quotation mark."),
            "It counts as part of the value. A file of variables for a container keeps quotation marks, and one written on \
             Windows a line end.",
            format!("Set {name} to the bare value."),
        )
    })
}

/// A set of variables of which some have no effect, or another one elsewhere.
struct Contradiction {
    applies: fn(&Variables) -> bool,
    found: &'static str,
    meaning: &'static str,
    advice: &'static str,
}

const CONTRADICTIONS: &[Contradiction] = &[
    Contradiction {
        applies: |variables| match (variables.get("IDENTITY_ENDPOINT"), variables.get("MSI_ENDPOINT")) {
            // App Service sets both, to the same place.
            (Some(new), Some(old)) => authority(new) != authority(old),
            _ => false,
        },
        found: "IDENTITY_ENDPOINT and MSI_ENDPOINT are both set, and name different servers.",
        meaning: "They announce different sources. IDENTITY_ENDPOINT decides here; older clients know MSI_ENDPOINT only.",
        advice: "Unset the one that is not this platform's.",
    },
    Contradiction {
        applies: |variables| variables.has_all(&["IDENTITY_ENDPOINT", "IDENTITY_HEADER", "IMDS_ENDPOINT"]),
        found: "IDENTITY_HEADER (App Service) and IMDS_ENDPOINT (Azure Arc) are both set beside IDENTITY_ENDPOINT.",
        meaning: "App Service goes first, here and in Azure's clients, and its protocol is not that of the agent of Azure Arc.",
        advice: "Unset IDENTITY_HEADER on an Arc-enabled server, and IMDS_ENDPOINT elsewhere.",
    },
    Contradiction {
        applies: |variables| {
            variables.has("AZURE_FEDERATED_TOKEN_FILE")
                && (variables.has("IDENTITY_ENDPOINT") || variables.has("MSI_ENDPOINT"))
        },
        found: "AZURE_FEDERATED_TOKEN_FILE (workload identity) is set beside the endpoint of another source.",
        meaning: "The endpoint decides here, and in clients for managed identities; DefaultAzureCredential asks workload \
                  identity first, and acts as another identity.",
        advice: "Unset the variables of the source that is not meant.",
    },
    Contradiction {
        applies: |variables| {
            let others = ["IDENTITY_ENDPOINT", "MSI_ENDPOINT", "AZURE_FEDERATED_TOKEN_FILE"];
            variables.has("AZURE_POD_IDENTITY_AUTHORITY_HOST") && others.iter().any(|name| variables.has(name))
        },
        found: "AZURE_POD_IDENTITY_AUTHORITY_HOST is set, and another source is announced.",
        meaning: "It names the metadata service, which is not asked then.",
        advice: "Unset it, or unset the variables of the other source if the metadata service is meant.",
    },
    Contradiction {
        applies: |variables| {
            variables.has("IDENTITY_HEADER")
                && !variables.has("IDENTITY_ENDPOINT")
                // Azure Container Instances set these two, and mean the metadata service.
                && !variables.has("IDENTITY_SERVER_THUMBPRINT")
        },
        found: "IDENTITY_HEADER is set, and IDENTITY_ENDPOINT is not.",
        meaning: "It announces no source by itself. Some clients send it to the metadata service, which is none of its \
                  business: azure_identity for Rust, object_store.",
        advice: "Set IDENTITY_ENDPOINT too, as App Service does, or unset IDENTITY_HEADER.",
    },
    Contradiction {
        applies: |variables| variables.has("MSI_SECRET") && !variables.has("MSI_ENDPOINT"),
        found: "MSI_SECRET is set, and MSI_ENDPOINT is not.",
        meaning: "It announces no source by itself.",
        advice: "Set MSI_ENDPOINT too, as Azure Machine Learning does, or unset MSI_SECRET.",
    },
    Contradiction {
        applies: |variables| {
            OF_TOKEN_PROXY.iter().any(|name| variables.has(name)) && !variables.has("AZURE_KUBERNETES_TOKEN_PROXY")
        },
        found: "Settings of identity bindings (AZURE_KUBERNETES_…) are set, and AZURE_KUBERNETES_TOKEN_PROXY is not.",
        meaning: "They have no effect here, and are an error for Azure's own clients.",
        advice: "Set AZURE_KUBERNETES_TOKEN_PROXY too, as the cluster's webhook does, or unset them.",
    },
    Contradiction {
        applies: |variables| {
            variables.has("AZURE_KUBERNETES_TOKEN_PROXY")
                && variables.get("MANAGED_IDENTITY_USE_TOKEN_PROXY") != Some("true")
        },
        found: "AZURE_KUBERNETES_TOKEN_PROXY is set and not used.",
        meaning: "Identity bindings are for workloads that ask for them; without, the authority itself is asked.",
        advice: "Set MANAGED_IDENTITY_USE_TOKEN_PROXY=true if the identity is bound to the cluster.",
    },
    Contradiction {
        applies: |variables| {
            variables.has_all(&["AZURE_CLIENT_ID", "AZURE_TENANT_ID"])
                && OF_SERVICE_PRINCIPALS.iter().any(|name| variables.has(name))
        },
        found: "A secret or certificate of a service principal is set beside AZURE_CLIENT_ID and AZURE_TENANT_ID.",
        meaning: "DefaultAzureCredential acts as that service principal (EnvironmentCredential) and never asks for the \
                  managed identity. Here, AZURE_CLIENT_ID is taken for the client id of a managed identity.",
        advice: "Unset AZURE_CLIENT_SECRET and AZURE_CLIENT_CERTIFICATE_PATH where the managed identity is meant.",
    },
];

fn contradictions(variables: &Variables) -> impl Iterator<Item = Line> {
    let those = CONTRADICTIONS.iter().filter(|one| (one.applies)(variables));
    those.map(|one| Line::warn(Check::Variables, one.found, one.meaning, one.advice))
}

/// Host and port of a URL, for comparison.
fn authority(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In every value.
    const MARKER: &str = "v4lu3";

    fn found(variables: &[(&str, &str)]) -> Vec<String> {
        let variables = variables
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        let lines = check(&variables);
        for line in &lines {
            assert!(!line.json().to_string().contains(MARKER), "{line:?}");
        }
        lines.into_iter().map(|line| line.found).collect()
    }

    #[test]
    fn each_contradiction_is_found_where_it_is_and_nowhere_else() {
        let endpoint = ("IDENTITY_ENDPOINT", "http://v4lu3.example/msi");
        let header = ("IDENTITY_HEADER", "v4lu3");
        let file = ("AZURE_FEDERATED_TOKEN_FILE", "/v4lu3");
        for (variables, words) in [
            (&[][..], "No variable"),
            (&[endpoint, header], "No variable"),
            (
                &[
                    endpoint,
                    header,
                    ("MSI_ENDPOINT", "http://V4lu3.example/msi/token/"),
                    ("MSI_SECRET", "v4lu3"),
                ],
                "No variable",
            ),
            (
                &[
                    endpoint,
                    header,
                    ("MSI_ENDPOINT", "http://other-v4lu3.example/"),
                    ("MSI_SECRET", "v4lu3"),
                ],
                "name different servers",
            ),
            (
                &[endpoint, header, ("IMDS_ENDPOINT", "http://v4lu3.example")],
                "(Azure Arc) are both set",
            ),
            (
                &[endpoint, header, file, ("AZURE_TENANT_ID", "v4lu3")],
                "(workload identity) is set beside",
            ),
            (
                &[
                    endpoint,
                    header,
                    ("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://v4lu3.example"),
                ],
                "AZURE_POD_IDENTITY_AUTHORITY_HOST is set, and another",
            ),
            (&[header], "IDENTITY_HEADER is set, and IDENTITY_ENDPOINT is not"),
            (&[header, ("IDENTITY_SERVER_THUMBPRINT", "v4lu3")], "No variable"),
            (&[("MSI_SECRET", "v4lu3")], "MSI_SECRET is set, and MSI_ENDPOINT is not"),
            (
                &[("AZURE_KUBERNETES_CA_DATA", "v4lu3\n")],
                "Settings of identity bindings",
            ),
            (
                &[("AZURE_KUBERNETES_TOKEN_PROXY", "https://v4lu3.example")],
                "is set and not used",
            ),
            (
                &[
                    ("AZURE_CLIENT_ID", "v4lu3"),
                    ("AZURE_TENANT_ID", "v4lu3"),
                    ("AZURE_CLIENT_SECRET", "v4lu3"),
                ],
                "of a service principal",
            ),
            (&[("IDENTITY_ENDPOINT", "")], "IDENTITY_ENDPOINT is set, and is empty"),
            (
                &[("AZURE_CLIENT_ID", "\"v4lu3\"")],
                "AZURE_CLIENT_ID begins or ends with",
            ),
            (&[("AZURE_CLIENT_ID", "v4lu3\r")], "AZURE_CLIENT_ID begins or ends with"),
        ] {
            let found = found(variables);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains(words), "{words} in {found:?}");
        }
    }

    #[test]
    fn each_finding_has_a_line() {
        let found = found(&[
            ("IDENTITY_ENDPOINT", ""),
            ("IDENTITY_HEADER", "v4lu3"),
            ("MSI_SECRET", "v4lu3"),
        ]);
        assert_eq!(found.len(), 3, "{found:?}");
    }
}
