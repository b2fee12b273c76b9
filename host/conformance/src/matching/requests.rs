//! How a request differs from the one that a case expects.

use crate::answer::abbreviated;
use crate::case::{Accepted, ExpectedRequest};
use crate::wire::Arrived;
use serde_json::Value;
use std::collections::BTreeMap;

/// The media type of a form.
const FORM: &str = "application/x-www-form-urlencoded";

/// How a request differs from the one that is expected.
#[must_use]
pub fn request(expected: &ExpectedRequest, arrived: &Arrived) -> Vec<String> {
    let mut faults = Vec::new();
    let method = expected.method.as_deref().unwrap_or("GET");
    if arrived.method != method {
        faults.push(format!("method: expected `{method}`, got `{}`", arrived.method));
    }
    if arrived.path != expected.path {
        faults.push(format!("path: expected `{}`, got `{}`", expected.path, arrived.path));
    }
    faults.extend(query(expected, arrived));
    for (name, accepted) in &expected.headers {
        let values: Vec<_> = arrived
            .headers
            .iter()
            .filter(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
            .collect();
        match values[..] {
            [] => faults.push(format!("header `{name}`: expected `{accepted}`, it is missing")),
            [value] if value == accepted => {}
            [value] => faults.push(format!("header `{name}`: expected `{accepted}`, got `{value}`")),
            _ => faults.push(format!(
                "header `{name}`: expected `{accepted}` once, it is there {} times",
                values.len()
            )),
        }
    }
    for name in &expected.absent_headers {
        if let Some(value) = arrived.header(name) {
            faults.push(format!("header `{name}`: must not be there, got `{value}`"));
        }
    }
    if let Some(form) = &expected.form {
        let kind = arrived.header("content-type").unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case(FORM) {
            faults.push(format!("header `content-type`: expected `{FORM}`, got `{kind}`"));
        }
        pairs("form field", form, expected.more_form, &arrived.form(), &mut faults);
    }
    faults
}

/// What Azure's own clients say about themselves in each request. It is theirs to say and means nothing to the platform.
fn is_telemetry(name: &str) -> bool {
    matches!(name, "client-request-id" | "client_info") || name.starts_with("x-client-")
}

/// How a query differs, from the nearest of those that are accepted.
fn query(expected: &ExpectedRequest, arrived: &Arrived) -> Vec<String> {
    let differences = |query: &BTreeMap<_, _>| {
        let mut faults = Vec::new();
        pairs(
            "query parameter",
            query,
            expected.more_query,
            &arrived.query,
            &mut faults,
        );
        faults
    };
    let alternatives = expected
        .query_any
        .iter()
        .map(|more| differences(&expected.query.clone().into_iter().chain(more.clone()).collect()));
    alternatives
        .min_by_key(Vec::len)
        .unwrap_or_else(|| differences(&expected.query))
}

fn pairs(
    kind: &str,
    expected: &BTreeMap<String, Option<Accepted>>,
    others: bool,
    arrived: &[(String, String)],
    faults: &mut Vec<String>,
) {
    for (name, accepted) in expected {
        let values: Vec<_> = arrived
            .iter()
            .filter(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
            .collect();
        match (accepted, &values[..]) {
            (None, []) => {}
            (None, [value, ..]) => faults.push(format!(
                "{kind} `{name}`: must not be there, got `{}`",
                abbreviated(value)
            )),
            (Some(accepted), []) => faults.push(format!("{kind} `{name}`: expected {accepted}, it is missing")),
            (Some(accepted), [value]) if accepted.all().iter().any(|accepted| is_same(accepted, value)) => {}
            (Some(accepted), [value]) => {
                faults.push(format!(
                    "{kind} `{name}`: expected {accepted}, got `{}`",
                    abbreviated(value)
                ));
            }
            (Some(accepted), values) => {
                faults.push(format!(
                    "{kind} `{name}`: expected {accepted} once, it is there {} times",
                    values.len()
                ));
            }
        }
    }
    for (name, value) in arrived
        .iter()
        .filter(|(name, _)| !others && !expected.contains_key(name) && !is_telemetry(name))
    {
        faults.push(format!("{kind} `{name}`: not expected, got `{}`", abbreviated(value)));
    }
}

/// Whether two texts are equal, or the same JSON object, whose fields have no order.
fn is_same(expected: &str, actual: &str) -> bool {
    let object = |text: &str| serde_json::from_str::<Value>(text).ok().filter(Value::is_object);
    expected == actual || object(expected).is_some_and(|expected| object(actual).as_ref() == Some(&expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "853b9a84-5bfa-4b22-a3f3-0b9a43d9ad8a";

    fn expected() -> ExpectedRequest {
        serde_json::from_str(
            r#"{
                "path": "/msi/token",
                "query": { "api-version": ["2019-08-01", "2020-01-01"], "resource": "https://vault.azure.net", "client_id": null },
                "headers": { "x-identity-header": "853b9a84-5bfa-4b22-a3f3-0b9a43d9ad8a" },
                "absent_headers": ["metadata"]
            }"#,
        )
        .expect("well-formed")
    }

    fn arrived(method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Arrived {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        Arrived::new(method, target, headers, body.as_bytes().to_vec())
    }

    #[test]
    fn every_departure_of_a_request_is_named() {
        let good = "/msi/token?resource=https%3A%2F%2Fvault.azure.net&api-version=2019-08-01";
        let header = ("x-identity-header", SECRET);
        for (method, target, headers, difference) in [
            ("GET", good, &[header, ("accept", "*/*")][..], None),
            ("GET", &good.replace("2019-08-01", "2020-01-01"), &[header], None),
            ("POST", good, &[header], Some("method: expected `GET`, got `POST`")),
            (
                "GET",
                &good.replace("/msi", "/MSI"),
                &[header],
                Some("path: expected `/msi/token`, got `/MSI/token`"),
            ),
            (
                "GET",
                &good.replace("2019", "2017"),
                &[header],
                Some("`2019-08-01` or `2020-01-01`, got `2017-08-01`"),
            ),
            (
                "GET",
                &good.replace("vault", "graph"),
                &[header],
                Some("query parameter `resource`: expected"),
            ),
            (
                "GET",
                "/msi/token?api-version=2019-08-01",
                &[header],
                Some("`resource`: expected `https://vault.azure.net`, it is missing"),
            ),
            (
                "GET",
                &format!("{good}&client_id=x"),
                &[header],
                Some("`client_id`: must not be there, got `x`"),
            ),
            (
                "GET",
                &format!("{good}&more=y"),
                &[header],
                Some("query parameter `more`: not expected, got `y`"),
            ),
            (
                "GET",
                &format!("{good}&api-version=2019-08-01"),
                &[header],
                Some("it is there 2 times"),
            ),
            ("GET", good, &[], Some("header `x-identity-header`: expected")),
            ("GET", good, &[("x-identity-header", "other")], Some("got `other`")),
            ("GET", good, &[header, header], Some("it is there 2 times")),
            (
                "GET",
                good,
                &[header, ("metadata", "true")],
                Some("header `metadata`: must not be there, got `true`"),
            ),
        ] {
            let faults = request(&expected(), &arrived(method, target, headers, ""));
            match difference {
                None => assert_eq!(faults, [""; 0], "{method} {target}"),
                Some(difference) => {
                    assert!(
                        faults.len() == 1 && faults[0].contains(difference),
                        "{faults:?}: no {difference}"
                    );
                }
            }
        }
        let more = ExpectedRequest {
            more_query: true,
            ..expected()
        };
        assert_eq!(
            request(&more, &arrived("GET", &format!("{good}&more=y"), &[header], "")),
            [""; 0]
        );
    }

    #[test]
    fn one_of_several_queries_is_enough() {
        let expected: ExpectedRequest = serde_json::from_str(
            r#"{ "path": "/", "query": { "v": "1" }, "query_any": [{ "principal_id": "p" }, { "object_id": "p" }] }"#,
        )
        .expect("well-formed");
        for (target, faults) in [
            ("/?v=1&principal_id=p", 0),
            ("/?object_id=p&v=1", 0),
            ("/?v=1", 1),
            ("/?v=1&object_id=q", 1),
            ("/?v=1&object_id=p&principal_id=p", 1),
        ] {
            assert_eq!(
                request(&expected, &arrived("GET", target, &[], "")).len(),
                faults,
                "{target}"
            );
        }
    }

    #[test]
    fn every_departure_of_a_form_is_named() {
        let expected: ExpectedRequest = serde_json::from_str(
            r#"{ "method": "POST", "path": "/", "form": { "a": "1 2", "c": null, "j": "{\"x\":1,\"y\":2}" } }"#,
        )
        .expect("well-formed");
        for (body, difference) in [
            ("a=1+2&j=%7B%22y%22%3A2,%22x%22%3A1%7D", None),
            ("a=1+2&j=%7B%22x%22%3A1%7D", Some("form field `j`: expected")),
            ("a=1+2&j=[]", Some("form field `j`: expected")),
            (
                "a=1&j=%7B%22y%22%3A2,%22x%22%3A1%7D",
                Some("form field `a`: expected `1 2`, got `1`"),
            ),
            (
                "a=1+2&c=&j=%7B%22y%22%3A2,%22x%22%3A1%7D",
                Some("form field `c`: must not be there"),
            ),
            (
                "a=1+2&d=4&j=%7B%22y%22%3A2,%22x%22%3A1%7D",
                Some("form field `d`: not expected, got `4`"),
            ),
        ] {
            let faults = request(&expected, &arrived("POST", "/", &[("content-type", FORM)], body));
            match difference {
                None => assert_eq!(faults, [""; 0], "{body}"),
                Some(difference) => {
                    assert!(
                        faults.len() == 1 && faults[0].contains(difference),
                        "{faults:?}: no {difference}"
                    );
                }
            }
        }
    }
}
