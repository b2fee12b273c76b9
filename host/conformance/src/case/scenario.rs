//! What a case says: its model, as `case.schema.json` has it, and what makes sense in it.

use crate::placeholder::offset;
use crate::secrets;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// What is told of a case: by whom it can be played, where, and how it goes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Scenario {
    #[serde(rename = "$schema")]
    _schema: Option<String>,
    /// What a right client does, and why.
    pub description: String,
    /// The environment variables of the client.
    pub environment: BTreeMap<String, String>,
    /// How the scripted server is spoken to.
    #[serde(default)]
    pub server: Scheme,
    /// What lies in the file system.
    #[serde(default)]
    pub files: Vec<File>,
    /// Whether the agent of Azure Arc is installed, though no variable announces it.
    #[serde(default, deserialize_with = "only_true")]
    pub arc_agent: bool,
    /// What the client is asked, in order.
    pub steps: Vec<Step>,
    /// What the client says of where its tokens come from.
    pub source: Option<ExpectedSource>,
    /// What must not be shown.
    #[serde(default)]
    pub secrets: Vec<String>,
    #[serde(default)]
    pub(super) not_in: BTreeMap<Runner, String>,
}

/// How the scripted server is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Without encryption.
    #[default]
    Http,
    /// With TLS, and a certificate that is made at start.
    Https,
}

/// What plays cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runner {
    /// The engine, in memory and virtual time.
    Native,
    /// The built components, over loopback.
    Components,
    /// Any program, over loopback and standard input.
    BlackBox,
}

/// A file, a symbolic link or a directory.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Where it is, as an absolute path.
    pub path: String,
    text: Option<String>,
    repeat: Option<String>,
    times: Option<usize>,
    link: Option<String>,
    #[serde(default, deserialize_with = "only_true")]
    directory: bool,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A file with this text.
    Text(String),
    /// A symbolic link to this path, absolute or relative.
    Link(String),
    /// An empty directory.
    Directory,
}

impl File {
    /// What is at the path.
    #[must_use]
    pub fn node(&self) -> Node {
        match (&self.text, &self.repeat, &self.link) {
            (Some(text), ..) => Node::Text(text.clone()),
            (_, Some(repeat), _) => Node::Text(repeat.repeat(self.times.unwrap_or(1))),
            (_, _, Some(link)) => Node::Link(link.clone()),
            _ => Node::Directory,
        }
    }

    fn check(&self) -> Result<(), String> {
        let kinds = [
            self.text.is_some(),
            self.repeat.is_some(),
            self.link.is_some(),
            self.directory,
        ];
        exactly_one(&kinds, "`text`, `repeat`, `link` and `directory`")?;
        if self.repeat.is_some() != self.times.is_some() {
            return Err("`repeat` and `times` belong together".to_owned());
        }
        if self.times == Some(0) {
            return Err("`times`: nothing repeated 0 times is a `text`".to_owned());
        }
        Ok(())
    }
}

/// One request to the client, and what comes of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// How many seconds pass before the step, while nobody asks. Only a clock that can be moved makes them pass.
    #[serde(default)]
    pub later_s: u64,
    /// What is put into the file system before the step, in the place of what is there.
    #[serde(default)]
    pub files: Vec<File>,
    /// What the client is asked.
    pub request: Request,
    /// What the client sends meanwhile, in order, and gets.
    pub exchanges: Vec<Exchange>,
    /// What the client answers.
    pub expect: Expectation,
}

/// What a client is asked.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The resource, or one scope that ends in `/.default`.
    pub audience: String,
    /// Whose token.
    #[serde(default)]
    pub identity: Identity,
    /// The claims challenge of a rejected request.
    pub claims: Option<String>,
    /// A token that was rejected.
    pub rejected_token: Option<String>,
    /// How long the client may take.
    pub timeout_ms: Option<u32>,
}

/// Which identity is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Identity {
    /// The one that the platform's configuration names, else the system-assigned one.
    #[default]
    #[serde(rename = "platform-default")]
    PlatformDefault,
    /// The one that lives and dies with its machine.
    #[serde(rename = "system-assigned")]
    SystemAssigned,
    /// By client id.
    #[serde(rename = "client_id")]
    ClientId(String),
    /// By the object id of its service principal.
    #[serde(rename = "object_id")]
    ObjectId(String),
    /// By Azure resource id.
    #[serde(rename = "resource_id")]
    ResourceId(String),
}

/// One request that the client sends, and what it gets.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// What has to arrive.
    pub request: ExpectedRequest,
    reply: Option<Reply>,
    fault: Option<Fault>,
    /// How much time has to have passed since the request before it in the step, in milliseconds.
    #[serde(default)]
    pub after_ms: u64,
    /// Whether it may happen any number of times, but once at least.
    #[serde(default, deserialize_with = "only_true")]
    pub repeated: bool,
}

/// What a client gets for a request.
#[derive(Clone, Debug)]
pub enum Action {
    /// A whole reply.
    Reply(Reply),
    /// Something else.
    Fault(Fault),
}

impl Exchange {
    /// What the client gets.
    #[must_use]
    pub fn action(&self) -> Action {
        match (&self.reply, self.fault) {
            (_, Some(fault)) => Action::Fault(fault),
            (reply, None) => Action::Reply(reply.clone().unwrap_or_default()),
        }
    }

    /// The reply, when it is one.
    #[must_use]
    pub fn reply(&self) -> Option<&Reply> {
        self.reply.as_ref()
    }

    fn check(&self) -> Result<(), String> {
        exactly_one(&[self.reply.is_some(), self.fault.is_some()], "`reply` and `fault`")?;
        self.request.check().map_err(|reason| format!("request: {reason}"))?;
        self.reply.as_ref().map_or(Ok(()), |reply| {
            reply.check().map_err(|reason| format!("reply: {reason}"))
        })
    }
}

/// What a request has to be.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedRequest {
    /// The method; `GET` when absent.
    pub method: Option<String>,
    /// The path, as it is sent.
    pub path: String,
    /// The parameters of the query, decoded. One without a value must not be there.
    #[serde(default)]
    pub query: BTreeMap<String, Option<Accepted>>,
    /// Other sets of parameters, one of which has to be there besides: platforms take several names for one thing.
    #[serde(default)]
    pub query_any: Vec<BTreeMap<String, Option<Accepted>>>,
    /// Whether the query may have other parameters.
    #[serde(default, deserialize_with = "only_true")]
    pub more_query: bool,
    /// Header fields, by name in lower case.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Header fields that must not be there.
    #[serde(default)]
    pub absent_headers: Vec<String>,
    /// The form in the body, decoded. A field without a value must not be there.
    pub form: Option<BTreeMap<String, Option<Accepted>>>,
    /// Whether the form may have other fields.
    #[serde(default, deserialize_with = "only_true")]
    pub more_form: bool,
}

impl ExpectedRequest {
    fn check(&self) -> Result<(), String> {
        let mut names = self.headers.keys().chain(&self.absent_headers);
        if let Some(name) = names.find(|name| name.bytes().any(|byte| byte.is_ascii_uppercase())) {
            return Err(format!("the header name `{name}` has to be in lower case"));
        }
        if !self.path.starts_with('/') || self.path.contains(['?', '#']) {
            return Err(format!("`path`: `{}` is not a path alone", self.path));
        }
        match self.method.as_deref() {
            None | Some("GET") if self.form.is_some() => Err("`form` goes with the method POST alone".to_owned()),
            None | Some("GET" | "POST") if self.more_form && self.form.is_none() => {
                Err("`more_form` needs `form`".to_owned())
            }
            None | Some("GET" | "POST") => Ok(()),
            Some(method) => Err(format!("`method`: no platform takes `{method}`")),
        }
    }
}

/// One text, or several.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "a text or a list of texts")]
pub enum Accepted {
    /// This one.
    One(String),
    /// Any of these, or all of them where they are sent.
    Many(Vec<String>),
}

impl Accepted {
    /// The texts.
    #[must_use]
    pub fn all(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

impl fmt::Display for Accepted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted: Vec<_> = self.all().iter().map(|text| format!("`{text}`")).collect();
        formatter.write_str(&quoted.join(" or "))
    }
}

/// What the scripted server answers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reply {
    status: Option<u16>,
    #[serde(default)]
    headers: BTreeMap<String, Accepted>,
    #[serde(default, deserialize_with = "present")]
    body: Option<Value>,
    text: Option<String>,
    base64: Option<String>,
    repeat: Option<Repeat>,
    /// How long it waits before it answers.
    #[serde(default)]
    pub delay_ms: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Repeat {
    text: String,
    times: usize,
}

impl Reply {
    /// A successful reply with this body.
    #[must_use]
    pub fn json(body: &Value) -> Self {
        Self {
            body: Some(body.clone()),
            ..Self::default()
        }
    }

    /// The status; 200 when the case does not say.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status.unwrap_or(200)
    }

    /// The header fields as the case has them. A JSON body says that it is one, unless the case says otherwise.
    #[must_use]
    pub fn headers(&self) -> Vec<(String, String)> {
        let is_typed = self
            .headers
            .keys()
            .any(|name| name.eq_ignore_ascii_case("content-type"));
        let json = (self.body.is_some() && !is_typed)
            .then(|| ("Content-Type".to_owned(), "application/json; charset=utf-8".to_owned()));
        let fields = self
            .headers
            .iter()
            .flat_map(|(name, values)| values.all().iter().map(|value| (name.clone(), value.clone())));
        fields.chain(json).collect()
    }

    /// The bytes of the body.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        match (&self.body, &self.text, &self.base64, &self.repeat) {
            (Some(body), ..) => body.to_string().into_bytes(),
            (_, Some(text), ..) => text.clone().into_bytes(),
            // It was checked when the case was read.
            (_, _, Some(base64), _) => STANDARD.decode(base64).unwrap_or_default(),
            (.., Some(repeat)) => repeat.text.repeat(repeat.times).into_bytes(),
            _ => Vec::new(),
        }
    }

    fn check(&self) -> Result<(), String> {
        let bodies = [
            self.body.is_some(),
            self.text.is_some(),
            self.base64.is_some(),
            self.repeat.is_some(),
        ];
        if bodies.contains(&true) {
            exactly_one(&bodies, "`body`, `text`, `base64` and `repeat`")?;
        }
        if let Some(base64) = &self.base64 {
            STANDARD.decode(base64).map_err(|error| format!("`base64`: {error}"))?;
        }
        if self.repeat.as_ref().is_some_and(|repeat| repeat.times < 2) {
            return Err("`repeat`: what is there once is a `text`".to_owned());
        }
        is_final("status", self.status())
    }
}

/// What happens instead of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The connection is reset.
    Reset,
    /// The connection is closed.
    Close,
    /// Nothing comes.
    Silence,
    /// Something comes that is not HTTP.
    NotHttp,
    /// The reply breaks off.
    CutShort,
}

/// The closed list of causes, as `wit/0.2/identity.wit` explains them.
pub(super) const CAUSES: [&str; 19] = [
    "invalid-request",
    "unsupported",
    "not-configured",
    "denied",
    "identity-not-found",
    "identity-ambiguous",
    "identity-mismatch",
    "audience-not-found",
    "endpoint-unreachable",
    "endpoint-intercepted",
    "credential-unreadable",
    "credential-rejected",
    "throttled",
    "platform-updating",
    "platform-failure",
    "malformed-reply",
    "token-rejected",
    "deadline-exceeded",
    "internal",
];

/// What a client answers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Expectation {
    /// The token.
    pub token: Option<String>,
    /// From when on it is worthless.
    pub expires_on: Option<Moment>,
    /// From when on the client looks for a successor.
    pub refresh_on: Option<Moment>,
    /// The client id of the identity; null for none.
    #[serde(deserialize_with = "present")]
    pub client_id: Option<Option<String>>,
    /// The name of the source.
    pub source: Option<String>,
    /// Whether the successor is overdue.
    pub stale: Option<bool>,
    /// The cause, or the causes that are right.
    pub error: Option<Accepted>,
    /// The status of the reply that decided.
    pub http_status: Option<u16>,
    /// Milliseconds until another try makes sense.
    pub retry_after_ms: Option<u64>,
    /// The platform's identifier of the failed request.
    pub correlation_id: Option<String>,
    /// What the message has to say.
    pub message_has: Vec<String>,
    /// What the message must not say.
    pub message_lacks: Vec<String>,
}

impl Expectation {
    fn check(&self) -> Result<(), String> {
        exactly_one(&[self.token.is_some(), self.error.is_some()], "`token` and `error`")?;
        let of_tokens = [
            ("expires_on", self.expires_on.is_some()),
            ("refresh_on", self.refresh_on.is_some()),
            ("client_id", self.client_id.is_some()),
            ("source", self.source.is_some()),
            ("stale", self.stale.is_some()),
        ];
        let of_errors = [
            ("http_status", self.http_status.is_some()),
            ("retry_after_ms", self.retry_after_ms.is_some()),
            ("correlation_id", self.correlation_id.is_some()),
            ("message_has", !self.message_has.is_empty()),
            ("message_lacks", !self.message_lacks.is_empty()),
        ];
        let (wrong, kind) = if self.token.is_some() {
            (&of_errors[..], "token")
        } else {
            (&of_tokens[..], "error")
        };
        if let Some((name, _)) = wrong.iter().find(|(_, is_there)| *is_there) {
            return Err(format!("`{name}` does not go with `{kind}`"));
        }
        if self.token.is_some() && self.expires_on.is_none() {
            return Err("`token` needs `expires_on`".to_owned());
        }
        let causes = self.error.as_ref().map_or(&[][..], Accepted::all);
        if let Some(cause) = causes.iter().find(|cause| !CAUSES.contains(&cause.as_str())) {
            return Err(format!("`error`: there is no cause `{cause}`"));
        }
        self.http_status
            .map_or(Ok(()), |status| is_final("http_status", status))
    }
}

/// A moment that is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Exactly this one, in seconds since 1970-01-01T00:00:00Z.
    At(u64),
    /// So many seconds after the beginning of the case.
    FromNow(i64),
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let from_text = |text: &str| {
            let placeholder = text
                .strip_prefix('#')
                .unwrap_or(text)
                .strip_prefix("${")?
                .strip_suffix('}')?;
            offset(placeholder).map(Self::FromNow)
        };
        value
            .as_u64()
            .map(Self::At)
            .or_else(|| value.as_str().and_then(from_text))
            .ok_or_else(|| serde::de::Error::custom(format!("{value} is neither a number of seconds nor `${{now+N}}`")))
    }
}

/// What a client says of where its tokens come from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedSource {
    /// The name of the source; null for none.
    // Named, so that it has to be there.
    #[serde(deserialize_with = "Option::deserialize")]
    pub name: Option<String>,
    /// The address that is asked.
    pub endpoint: Option<String>,
    /// What the reasons have to say.
    #[serde(default)]
    pub reasons_have: Vec<String>,
    /// What the reasons must not say.
    #[serde(default)]
    pub reasons_lack: Vec<String>,
}

impl Scenario {
    /// The files of the case and of its steps.
    pub fn all_files(&self) -> impl Iterator<Item = &File> {
        self.files.iter().chain(self.steps.iter().flat_map(|step| &step.files))
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.description.len() < 20 || !self.description.ends_with('.') {
            return Err("`description` is no sentence of 20 characters or more".to_owned());
        }
        if self.steps.is_empty() && self.source.is_none() {
            return Err("there are neither `steps` nor `source`, so nothing would be checked".to_owned());
        }
        for (number, file) in self.files.iter().enumerate() {
            file.check().map_err(|reason| format!("files[{number}]: {reason}"))?;
        }
        for (number, step) in self.steps.iter().enumerate() {
            for (index, file) in step.files.iter().enumerate() {
                file.check()
                    .map_err(|reason| format!("steps[{number}].files[{index}]: {reason}"))?;
            }
            if !step
                .request
                .timeout_ms
                .is_none_or(|limit| (1..=60_000).contains(&limit))
            {
                return Err(format!("steps[{number}].request: `timeout_ms` is not from 1 to 60000"));
            }
            step.expect
                .check()
                .map_err(|reason| format!("steps[{number}].expect: {reason}"))?;
            for (index, exchange) in step.exchanges.iter().enumerate() {
                let place = format!("steps[{number}].exchanges[{index}]");
                exchange.check().map_err(|reason| format!("{place}: {reason}"))?;
                if exchange.repeated && index + 1 < step.exchanges.len() {
                    return Err(format!("{place}: only the last exchange of a step can be `repeated`"));
                }
            }
        }
        secrets::check(self)
    }
}

fn exactly_one(present: &[bool], names: &str) -> Result<(), String> {
    match present.iter().filter(|is_there| **is_there).count() {
        1 => Ok(()),
        count => Err(format!("exactly one of {names} has to be there, not {count}")),
    }
}

/// Refuses a status that is not that of a whole reply.
fn is_final(name: &str, status: u16) -> Result<(), String> {
    match status {
        200..=599 => Ok(()),
        _ => Err(format!("`{name}`: {status} is not the status of a final reply")),
    }
}

/// Finds a null where the format has none, so that none is taken for an absent field: it may be the body of a reply or in
/// it, say that a parameter is absent, and say that a client id or a source is.
pub(super) fn unfit_null<'a>(value: &'a Value, name: &'a str) -> Option<&'a str> {
    match value {
        Value::Null => Some(name),
        Value::Array(items) => items.iter().find_map(|item| unfit_null(item, name)),
        Value::Object(fields) => fields.iter().find_map(|(field, value)| match (name, field.as_str()) {
            ("reply", "body") => None,
            ("query" | "query_any" | "form", _) | ("expect", "client_id") | ("source", "name") if value.is_null() => {
                None
            }
            _ => unfit_null(value, field),
        }),
        _ => None,
    }
}

/// A switch, which is on or absent.
fn only_true<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match bool::deserialize(deserializer)? {
        true => Ok(true),
        false => Err(serde::de::Error::custom("what is not so is left out, not `false`")),
    }
}

/// Tells a field that is null from one that is absent.
pub(crate) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}
