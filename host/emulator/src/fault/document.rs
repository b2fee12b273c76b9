//! The JSON form of a fault, which the documentation of [`fault`](super) shows.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Delivery, Fault};
use crate::protocol::Source;

/// The JSON form of a fault.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FaultDocument {
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<Source>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    times: Option<u64>,
    #[serde(skip_serializing_if = "is_default")]
    delay_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Value>,
    #[serde(skip_serializing_if = "is_default")]
    hang: bool,
    #[serde(skip_serializing_if = "is_default")]
    close: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    drip: Option<Drip>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endless_body_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    truncate: Option<Truncate>,
    #[serde(skip_serializing_if = "is_default")]
    reset: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endless_header_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interim_replies: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Drip {
    interval_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Truncate {
    after_bytes: usize,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl TryFrom<FaultDocument> for Fault {
    type Error = String;

    fn try_from(document: FaultDocument) -> Result<Self, String> {
        let mut deliveries = [
            document.hang.then_some(Delivery::Hang),
            document.close.then_some(Delivery::Close),
            document.drip.map(|drip| Delivery::Drip {
                interval: Duration::from_millis(drip.interval_ms),
            }),
            document.endless_body_bytes.map(|bytes| Delivery::Endless { bytes }),
            document.truncate.map(|truncate| Delivery::Truncated {
                after_bytes: truncate.after_bytes,
            }),
            document.reset.then_some(Delivery::Reset),
            document.raw.map(|text| Delivery::Raw(text.into())),
            document
                .endless_header_bytes
                .map(|bytes| Delivery::EndlessHeader { bytes }),
            document.interim_replies.map(|count| Delivery::InterimReplies { count }),
        ]
        .into_iter()
        .flatten();
        let mut fault = Self::delivered(deliveries.next().unwrap_or_default());
        if deliveries.next().is_some() {
            let ways = "hang, close, drip, endless_body_bytes, truncate, reset, raw, endless_header_bytes and \
                        interim_replies";
            return Err(format!("a fault has at most one of {ways}"));
        }
        if document.status.is_some() || document.body.is_some() {
            let body = match document.body {
                None => String::new(),
                Some(Value::String(text)) => text,
                Some(json) => json.to_string(),
            };
            fault.instead = Some((final_status(document.status.unwrap_or(200))?, body.into()));
        }
        for (name, value) in document.headers {
            let name = HeaderName::try_from(&name).map_err(|_| format!("{name:?} is not a header name"))?;
            let value =
                HeaderValue::try_from(value).map_err(|_| format!("the header {name} cannot have this value"))?;
            fault.headers.push((name, value));
        }
        fault.source = document.protocol;
        fault.resource = document.resource;
        fault.times = document.times;
        fault.delay = Duration::from_millis(document.delay_ms);
        Ok(fault)
    }
}

impl From<Fault> for FaultDocument {
    fn from(fault: Fault) -> Self {
        let (status, body) = fault.instead.unzip();
        let mut document = Self {
            protocol: fault.source,
            resource: fault.resource,
            times: fault.times,
            delay_ms: milliseconds(fault.delay),
            status: status.map(|status| status.as_u16()),
            headers: fault
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
                .collect(),
            body: body
                .filter(|body| !body.is_empty())
                .map(|body| String::from_utf8_lossy(&body).into()),
            ..Self::default()
        };
        match fault.delivery {
            Delivery::Whole => {}
            Delivery::Hang => document.hang = true,
            Delivery::Close => document.close = true,
            Delivery::Drip { interval } => {
                document.drip = Some(Drip {
                    interval_ms: milliseconds(interval),
                })
            }
            Delivery::Endless { bytes } => document.endless_body_bytes = Some(bytes),
            Delivery::Truncated { after_bytes } => document.truncate = Some(Truncate { after_bytes }),
            Delivery::Reset => document.reset = true,
            Delivery::Raw(bytes) => document.raw = Some(String::from_utf8_lossy(&bytes).into_owned()),
            Delivery::EndlessHeader { bytes } => document.endless_header_bytes = Some(bytes),
            Delivery::InterimReplies { count } => document.interim_replies = Some(count),
        }
        document
    }
}

/// HTTP's final status codes; an informational one (1xx) would leave the client waiting for another.
fn final_status(code: u16) -> Result<StatusCode, String> {
    StatusCode::from_u16(code)
        .ok()
        .filter(|_| (200..600).contains(&code))
        .ok_or_else(|| format!("status {code} is not a final HTTP status; use one from 200 to 599"))
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the test set up what it unwraps")]

    use super::*;
    use crate::reply::Reply;
    use serde_json::json;

    fn parsed(document: Value) -> Result<Fault, String> {
        let document: FaultDocument = serde_json::from_value(document).map_err(|error| error.to_string())?;
        document.try_into()
    }

    #[test]
    fn json_is_read_and_listed_alike() {
        for document in [
            json!({}),
            json!({"protocol": "imds", "resource": "https://vault.azure.net", "times": 2, "delay_ms": 250}),
            json!({"status": 429, "headers": {"retry-after": "1"}, "body": "slow down"}),
            json!({"hang": true}),
            json!({"close": true, "protocol": "app-service"}),
            json!({"drip": {"interval_ms": 100}}),
            json!({"endless_body_bytes": 50_000_000}),
            json!({"truncate": {"after_bytes": 20}}),
            json!({"reset": true, "protocol": "app-service-2017"}),
            json!({"raw": "SSH-2.0-emulator\r\n"}),
            json!({"endless_header_bytes": 50_000_000}),
            json!({"interim_replies": 1000, "protocol": "workload-identity"}),
        ] {
            let listed = FaultDocument::from(parsed(document.clone()).unwrap());
            assert_eq!(serde_json::to_value(&listed).unwrap(), document);
        }
    }

    #[test]
    fn status_and_body_replace_the_documented_reply_and_headers_are_added() {
        let documented = || Reply::json(StatusCode::OK, &json!({"access_token": "t"}));
        for (fault, status, body) in [
            (json!({"status": 503}), 503, ""),
            (json!({"body": "<html>"}), 200, "<html>"),
            (json!({"status": 400, "body": {"error": "x"}}), 400, r#"{"error":"x"}"#),
            (json!({"headers": {"x-added": "1"}}), 200, r#"{"access_token":"t"}"#),
        ] {
            let reply = parsed(fault).unwrap().altered(documented);
            assert_eq!((reply.status.as_u16(), &*reply.body), (status, body.as_bytes()));
        }
    }

    #[test]
    fn a_malformed_fault_is_refused_with_a_reason() {
        for (document, reason) in [
            (json!({"hang": true, "close": true}), "at most one of"),
            (json!({"raw": "", "reset": true}), "at most one of"),
            (json!({"status": 102}), "200 to 599"),
            (json!({"status": 1000}), "200 to 599"),
            (json!({"headers": {"no spaces": "x"}}), "not a header name"),
            (json!({"headers": {"x": "a\r\nb: c"}}), "cannot have this value"),
            (json!({"protocol": "smtp"}), "smtp"),
            (json!({"explode": true}), "explode"),
        ] {
            let message = parsed(document.clone()).unwrap_err();
            assert!(message.contains(reason), "{document}: {message}");
        }
    }
}
