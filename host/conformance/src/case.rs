//! The cases: their model, and where they are loaded from.
//!
//! The format is described for people in `tests/conformance/README.md` and for editors in `case.schema.json` beside it.

use crate::placeholder::{CertificateValues, Values, offset};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::{fmt, fs};

/// A case that cannot be read, or says what makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {reason}")]
pub struct CaseError {
    /// The file, or the name of an embedded case.
    file: String,
    reason: String,
}

/// One case: its name, and what it says with its placeholders.
#[derive(Clone, Debug)]
pub struct Case {
    name: String,
    document: Value,
    outline: Scenario,
}

impl Case {
    /// Reads and checks a case, known by its folder and file: `imds/client-id-selects-an-identity`.
    ///
    /// # Errors
    /// When it departs from the format. The message names the line or the field.
    pub fn parse(name: &str, text: &str) -> Result<Self, CaseError> {
        let fault = |reason: String| CaseError {
            file: format!("{name}.json"),
            reason,
        };
        // Read as what it is first, because only so an error knows its line.
        let outline: Scenario = serde_json::from_str(text).map_err(|error| fault(error.to_string()))?;
        let document = serde_json::from_str(text).map_err(|error| fault(error.to_string()))?;
        let case = Self {
            name: name.to_owned(),
            document,
            outline,
        };
        let sample = Values {
            endpoint: "http://127.0.0.1:1".to_owned(),
            closed: "http://127.0.0.1:2".to_owned(),
            now: 1_800_000_000,
            directory: "/directory".to_owned(),
            certificate: (case.server() == Scheme::Https).then(|| CertificateValues {
                thumbprint: "A".repeat(40),
                ca_file: "/authority.pem".to_owned(),
                ca_data: "authority".to_owned(),
            }),
        };
        case.expand(&sample)?.check().map_err(fault)?;
        Ok(case)
    }

    /// Its folder and file, without `.json`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a right client does, and why.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.outline.description
    }

    /// How the scripted server is spoken to.
    #[must_use]
    pub fn server(&self) -> Scheme {
        self.outline.server
    }

    /// Why the case cannot be played by a runner, when it cannot.
    #[must_use]
    pub fn not_in(&self, runner: Runner) -> Option<&str> {
        self.outline.not_in.get(&runner).map(String::as_str)
    }

    /// Whether the name has `pattern` in it; a `*` stands for anything, and the whole name has to match then.
    #[must_use]
    pub fn is_named_like(&self, pattern: &str) -> bool {
        match pattern.split_once('*') {
            None => self.name.contains(pattern),
            Some((start, rest)) => self
                .name
                .strip_prefix(start)
                .is_some_and(|name| matches_rest(name, rest)),
        }
    }

    /// The case as it is played, with its placeholders replaced.
    ///
    /// # Errors
    /// When a placeholder does not exist, or what it stands for does not fit.
    pub fn expand(&self, values: &Values) -> Result<Scenario, CaseError> {
        let fault = |reason| CaseError {
            file: format!("{}.json", self.name),
            reason,
        };
        let mut document = self.document.clone();
        values.expand_document(&mut document).map_err(fault)?;
        serde_json::from_value(document).map_err(|error| fault(error.to_string()))
    }
}

/// Whether `name` ends as `pattern`, which followed a `*`, wants it.
fn matches_rest(name: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        None => name.ends_with(pattern),
        Some((part, rest)) => name
            .find(part)
            .is_some_and(|at| matches_rest(&name[at + part.len()..], rest)),
    }
}

/// The cases that were there when this crate was built, by name.
///
/// # Errors
/// When one departs from the format.
pub fn embedded() -> Result<Vec<Case>, CaseError> {
    const CASES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/cases.rs"));
    CASES.iter().map(|(name, text)| Case::parse(name, text)).collect()
}

/// The cases below a directory: each `.json` file in each of its folders, by name.
///
/// # Errors
/// When the directory has none, or one cannot be read or departs from the format.
pub fn load(directory: &Path) -> Result<Vec<Case>, CaseError> {
    let unreadable = |path: &Path, error: &dyn fmt::Display| CaseError {
        file: path.display().to_string(),
        reason: error.to_string(),
    };
    let list = |path: &Path| {
        let entries = fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut paths: Vec<_> = entries
            .map_err(|error| unreadable(path, &error))?
            .iter()
            .map(fs::DirEntry::path)
            .collect();
        paths.sort();
        Ok(paths)
    };
    let mut cases = Vec::new();
    for folder in list(directory)?.iter().filter(|path| path.is_dir()) {
        for file in list(folder)?
            .iter()
            .filter(|path| path.extension().is_some_and(|it| it == "json"))
        {
            let text = fs::read_to_string(file).map_err(|error| unreadable(file, &error))?;
            let part = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            cases.push(Case::parse(&format!("{}/{}", part(folder), part(file)), &text)?);
        }
    }
    if cases.is_empty() {
        return Err(unreadable(
            directory,
            &"there are no cases: none of its folders has a .json file",
        ));
    }
    Ok(cases)
}

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
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// How the scripted server is spoken to.
    #[serde(default)]
    pub server: Scheme,
    /// What lies in the file system.
    #[serde(default)]
    pub files: Vec<File>,
    /// Whether the agent of Azure Arc is installed, though no variable announces it.
    #[serde(default)]
    pub arc_agent: bool,
    /// What the client is asked, in order.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// What the client says of where its tokens come from.
    pub source: Option<ExpectedSource>,
    /// What must not be shown.
    #[serde(default)]
    pub secrets: Vec<String>,
    #[serde(default)]
    not_in: BTreeMap<Runner, String>,
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
    #[serde(default)]
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
        Ok(())
    }
}

/// One request to the client, and what comes of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What is put into the file system before the step, in the place of what is there.
    #[serde(default)]
    pub files: Vec<File>,
    /// What the client is asked.
    pub request: Request,
    /// What the client sends meanwhile, in order, and gets.
    #[serde(default)]
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
    #[serde(default)]
    pub request: ExpectedRequest,
    reply: Option<Reply>,
    fault: Option<Fault>,
    /// How much time has to have passed since the request before it in the step, in milliseconds.
    #[serde(default)]
    pub after_ms: u64,
    /// Whether it may happen any number of times, but once at least.
    #[serde(default)]
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
        let ExpectedRequest {
            headers,
            absent_headers,
            ..
        } = &self.request;
        if let Some(name) = headers
            .keys()
            .chain(absent_headers)
            .find(|name| name.bytes().any(|byte| byte.is_ascii_uppercase()))
        {
            return Err(format!("request: the header name `{name}` has to be in lower case"));
        }
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
    #[serde(default)]
    pub path: String,
    /// The parameters of the query, decoded. One without a value must not be there.
    #[serde(default)]
    pub query: BTreeMap<String, Option<Accepted>>,
    /// Other sets of parameters, one of which has to be there besides: platforms take several names for one thing.
    #[serde(default)]
    pub query_any: Vec<BTreeMap<String, Accepted>>,
    /// Whether the query may have other parameters.
    #[serde(default)]
    pub more_query: bool,
    /// Header fields, by name in lower case.
    #[serde(default)]
    pub headers: BTreeMap<String, Accepted>,
    /// Header fields that must not be there.
    #[serde(default)]
    pub absent_headers: Vec<String>,
    /// The form in the body, decoded. A field without a value must not be there.
    pub form: Option<BTreeMap<String, Option<Accepted>>>,
    /// Whether the form may have other fields.
    #[serde(default)]
    pub more_form: bool,
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
struct Repeat {
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
        if !(200..=999).contains(&self.status()) {
            return Err(format!("`status`: {} is not one of a final reply", self.status()));
        }
        Ok(())
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
    /// The status of the reply that decided; null for none.
    #[serde(deserialize_with = "present")]
    pub http_status: Option<Option<u16>>,
    /// Milliseconds until another try makes sense; null for unknown.
    #[serde(deserialize_with = "present")]
    pub retry_after_ms: Option<Option<u64>>,
    /// The platform's identifier of the failed request; null for none.
    #[serde(deserialize_with = "present")]
    pub correlation_id: Option<Option<String>>,
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
        match wrong.iter().find(|(_, is_there)| *is_there) {
            Some((name, _)) => Err(format!("`{name}` does not go with `{kind}`")),
            None => Ok(()),
        }
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
    #[serde(default, deserialize_with = "present")]
    pub name: Option<Option<String>>,
    /// The address that is asked; null for none.
    #[serde(default, deserialize_with = "present")]
    pub endpoint: Option<Option<String>>,
    /// What the reasons have to say.
    #[serde(default)]
    pub reasons_have: Vec<String>,
    /// What the reasons must not say.
    #[serde(default)]
    pub reasons_lack: Vec<String>,
}

impl Scenario {
    fn check(&self) -> Result<(), String> {
        if self.description.trim().is_empty() {
            return Err("`description` is empty".to_owned());
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
        Ok(())
    }
}

fn exactly_one(present: &[bool], names: &str) -> Result<(), String> {
    match present.iter().filter(|is_there| **is_there).count() {
        1 => Ok(()),
        count => Err(format!("exactly one of {names} has to be there, not {count}")),
    }
}

/// Tells a field that is null from one that is absent.
pub(crate) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"{"description":"d","steps":[{"request":{"audience":"a"},"expect":{"token":"t"}}]}"#;

    #[test]
    fn the_embedded_cases_are_well_formed() {
        if let Err(error) = embedded() {
            panic!("{error}");
        }
    }

    #[test]
    fn a_case_that_departs_from_the_format_is_refused_with_its_place() {
        assert!(Case::parse("imds/minimal", MINIMAL).is_ok());
        let request = r#""request":{"audience":"a"}"#;
        let step = |rest: &str| format!(r#"{{"description":"d","steps":[{{{request},{rest}}}]}}"#);
        let exchange = |exchange: &str| step(&format!(r#""exchanges":[{exchange}],"expect":{{"token":"t"}}"#));
        for (text, expected) in [
            ("{\n\"descriptio\":\"d\"}".to_owned(), "unknown field `descriptio`"),
            ("{\n\"descriptio\":\"d\"}".to_owned(), "line 2"),
            (r#"{"description":" "}"#.to_owned(), "`description` is empty"),
            (r#"{"description":"d"}"#.to_owned(), "neither `steps` nor `source`"),
            (
                step(r#""expect":{}"#),
                "steps[0].expect: exactly one of `token` and `error`",
            ),
            (
                step(r#""expect":{"token":"t","http_status":400}"#),
                "`http_status` does not go with `token`",
            ),
            (
                step(r#""expect":{"error":"denied","stale":false}"#),
                "`stale` does not go with `error`",
            ),
            (step(r#""expect":{"token":"t","expires_on":"soon"}"#), "soon"),
            (
                step(r#""expect":{"token":"${nothing}"}"#),
                "no placeholder `${nothing}`",
            ),
            (
                step(r#""expect":{"token":"${thumbprint}"}"#),
                "needs `\"server\": \"https\"`",
            ),
            (
                exchange("{}"),
                "steps[0].exchanges[0]: exactly one of `reply` and `fault`",
            ),
            (
                exchange(r#"{"reply":{},"fault":"reset"}"#),
                "exactly one of `reply` and `fault`",
            ),
            (
                exchange(r#"{"reply":{"body":null,"text":""}}"#),
                "reply: exactly one of `body`",
            ),
            (exchange(r#"{"reply":{"base64":"%"}}"#), "`base64`"),
            (exchange(r#"{"reply":{"status":100}}"#), "`status`"),
            (exchange(r#"{"fault":"boredom"}"#), "unknown variant `boredom`"),
            (
                exchange(r#"{"request":{"headers":{"Metadata":"true"}},"fault":"reset"}"#),
                "lower case",
            ),
            (
                exchange(r#"{"fault":"reset","repeated":true},{"fault":"reset"}"#),
                "only the last exchange",
            ),
            (
                r#"{"description":"d","source":{},"files":[{"path":"/p"}]}"#.to_owned(),
                "files[0]: exactly one of `text`",
            ),
            (
                r#"{"description":"d","source":{},"not_in":{"nobody":"x"}}"#.to_owned(),
                "unknown variant `nobody`",
            ),
        ] {
            let error = Case::parse("imds/x", &text).expect_err(&text).to_string();
            assert!(
                error.starts_with("imds/x.json: ") && error.contains(expected),
                "{error}: no {expected}"
            );
        }
    }

    #[test]
    fn null_is_told_from_absence() {
        let expectation: Expectation = serde_json::from_str(r#"{"client_id":null,"token":"t"}"#).expect("well-formed");
        assert_eq!((expectation.client_id, expectation.http_status), (Some(None), None));
        let reply: Reply = serde_json::from_str(r#"{"body":null}"#).expect("well-formed");
        assert_eq!((reply.body(), Reply::default().body()), (b"null".to_vec(), Vec::new()));
    }

    #[test]
    fn a_pattern_is_a_part_of_the_name_or_all_of_it_with_asterisks() {
        let case = Case::parse("imds/client-id-selects", MINIMAL).expect("well-formed");
        for (pattern, expected) in [
            ("", true),
            ("imds/", true),
            ("client-id", true),
            ("imds/*", true),
            ("*selects", true),
            ("imds/*-id-*", true),
            ("*", true),
            ("client*", false),
            ("*client", false),
            ("object", false),
        ] {
            assert_eq!(case.is_named_like(pattern), expected, "{pattern}");
        }
    }
}
