//! The cases: their model, and where they are loaded from.
//!
//! The format is described for people in `tests/conformance/README.md` and for editors in `case.schema.json` beside it.

use crate::placeholder::{CertificateValues, Values, offset};
use crate::secrets;
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
        if let Some(place) = unfit_null(&document, "") {
            return Err(fault(format!("`{place}` is null, which means nothing there")));
        }
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

    /// What it tells, as it is written: with its placeholders.
    #[must_use]
    pub fn outline(&self) -> &Scenario {
        &self.outline
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
const CAUSES: [&str; 19] = [
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

    fn check(&self) -> Result<(), String> {
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
fn unfit_null<'a>(value: &'a Value, name: &'a str) -> Option<&'a str> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeSet;

    const MINIMAL: &str = r#"{"description":"A client does as it should.","environment":{},
        "steps":[{"request":{"audience":"a"},"exchanges":[],"expect":{"token":"t","expires_on":7}}]}"#;

    #[test]
    fn the_embedded_cases_are_well_formed() {
        if let Err(error) = embedded() {
            panic!("{error}");
        }
    }

    #[test]
    fn a_case_that_departs_from_the_format_is_refused_with_its_place() {
        assert!(Case::parse("imds/minimal", MINIMAL).is_ok());
        let case = |rest: &str| {
            format!(r#"{{"description":"A client does as it should.","environment":{{}},"steps":[],{rest}}}"#)
        };
        let played = |step: &str| case(step).replace("\"steps\":[],", "");
        let step = |exchanges: &str, expect: &str| {
            let request = r#""request":{"audience":"a"}"#;
            played(&format!(
                r#""steps":[{{{request},"exchanges":[{exchanges}],"expect":{{{expect}}}}}]"#
            ))
        };
        let token = r#""token":"t","expires_on":7"#;
        let expect = |expect: &str| step("", expect);
        let exchange = |rest: &str| step(&format!(r#"{{"request":{{"path":"/"}}{rest}}}"#), token);
        let request = |request: &str| step(&format!(r#"{{"request":{{{request}}},"fault":"reset"}}"#), token);
        let file = |file: &str| case(&format!(r#""source":{{"name":null}},"files":[{{"path":"/p",{file}}}]"#));
        for good in [
            expect(token),
            exchange(r#","reply":{"body":null}"#),
            request(r#""method":"POST","path":"/","form":{"a":null}"#),
            file(r#""text":"""#),
        ] {
            assert!(Case::parse("imds/x", &good).is_ok(), "{good}");
        }
        for (text, expected) in [
            ("{\n\"descriptio\":\"d\"}".to_owned(), "unknown field `descriptio`"),
            ("{\n\"descriptio\":\"d\"}".to_owned(), "line 2"),
            (MINIMAL.replace("does as it should", ""), "`description` is no sentence"),
            (
                MINIMAL.replace("\"environment\":{},", ""),
                "missing field `environment`",
            ),
            (MINIMAL.replace("\"exchanges\":[],", ""), "missing field `exchanges`"),
            (
                MINIMAL.replace("\"audience\":\"a\"", "\"audience\":\"a\",\"timeout_ms\":0"),
                "steps[0].request: `timeout_ms`",
            ),
            (
                MINIMAL.replace("\"audience\":\"a\"", "\"audience\":\"a\",\"claims\":null"),
                "`claims` is null",
            ),
            (case(r#""secrets":[]"#), "neither `steps` nor `source`"),
            (case(r#""source":{}"#), "missing field `name`"),
            (case(r#""source":{"name":null},"arc_agent":false"#), "left out"),
            (case(r#""source":{"name":null,"endpoint":null}"#), "`endpoint` is null"),
            (
                case(r#""source":{"name":null},"secrets":["short"]"#),
                "the secret `short`",
            ),
            (
                case(r#""source":{"name":null},"not_in":{"nobody":"x"}"#),
                "unknown variant `nobody`",
            ),
            (played(r#""source":{"name":null}"#), "missing field `steps`"),
            (expect(""), "steps[0].expect: exactly one of `token` and `error`"),
            (expect(r#""token":"t""#), "`token` needs `expires_on`"),
            (
                expect(&format!(r#"{token},"http_status":400"#)),
                "`http_status` does not go with `token`",
            ),
            (
                expect(r#""error":"denied","stale":false"#),
                "`stale` does not go with `error`",
            ),
            (
                expect(r#""error":"denied","source":"imds""#),
                "`source` does not go with `error`",
            ),
            (
                expect(r#""error":"denied","http_status":null"#),
                "`http_status` is null",
            ),
            (expect(r#""error":"denied","http_status":99"#), "`http_status`: 99"),
            (expect(r#""error":["denied","refused"]"#), "no cause `refused`"),
            (expect(r#""token":"t","expires_on":"soon""#), "soon"),
            (
                expect(r#""token":"${nothing}","expires_on":7"#),
                "no placeholder `${nothing}`",
            ),
            (
                expect(r#""token":"${thumbprint}","expires_on":7"#),
                "needs `\"server\": \"https\"`",
            ),
            (step(r#"{"fault":"reset"}"#, token), "missing field `request`"),
            (
                exchange(""),
                "steps[0].exchanges[0]: exactly one of `reply` and `fault`",
            ),
            (
                exchange(r#","reply":{},"fault":"reset""#),
                "exactly one of `reply` and `fault`",
            ),
            (
                exchange(r#","reply":{"body":null,"text":""}"#),
                "reply: exactly one of `body`",
            ),
            (exchange(r#","reply":{"base64":"%"}"#), "`base64`"),
            (exchange(r#","reply":{"status":100}"#), "`status`: 100"),
            (exchange(r#","reply":{"status":600}"#), "`status`: 600"),
            (exchange(r#","reply":{"status":null}"#), "`status` is null"),
            (exchange(r#","reply":{"repeat":{"text":"x","times":1}}"#), "`repeat`"),
            (exchange(r#","fault":"boredom""#), "unknown variant `boredom`"),
            (
                step(
                    r#"{"request":{"path":"/"},"fault":"reset","repeated":true},{"request":{"path":"/"},"fault":"reset"}"#,
                    token,
                ),
                "only the last exchange",
            ),
            (request(""), "missing field `path`"),
            (request(r#""path":"/a?b""#), "`path`: `/a?b`"),
            (request(r#""path":"/","method":"PUT""#), "`PUT`"),
            (request(r#""path":"/","form":{}"#), "`form` goes with"),
            (request(r#""path":"/","more_form":true"#), "`more_form` needs"),
            (request(r#""path":"/","headers":{"Metadata":"true"}"#), "lower case"),
            (
                request(r#""path":"/","headers":{"metadata":null}"#),
                "invalid type: null",
            ),
            (file(r#""link":null"#), "`link` is null"),
            (file(r#""times":2"#), "files[0]: exactly one of `text`"),
            (file(r#""repeat":"x","times":0"#), "files[0]: `times`"),
            (file(r#""text":"key-a""#), "the secret `key-a`"),
        ] {
            let error = Case::parse("imds/x", &text).expect_err(&text).to_string();
            assert!(
                error.starts_with("imds/x.json: ") && error.contains(expected),
                "{error}: no {expected}"
            );
        }
    }

    /// The names that a type knows, from what it says of one that it does not.
    fn known<T: serde::de::DeserializeOwned>(document: Value) -> BTreeSet<String> {
        let error = serde_json::from_value::<T>(document).err().expect("an unknown name");
        let message = error.to_string();
        let (_, known) = message
            .split_once("expected ")
            .expect("the message names what is known");
        known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    fn fields<T: serde::de::DeserializeOwned>() -> BTreeSet<String> {
        known::<T>(json!({ "?": 0 }))
    }

    #[test]
    fn the_schema_and_the_parser_know_the_same_names() {
        let schema: Value =
            serde_json::from_str(include_str!("../../../tests/conformance/case.schema.json")).expect("JSON");
        let at = |place: &str| {
            schema
                .pointer(place)
                .unwrap_or_else(|| panic!("no {place} in the schema"))
        };
        let properties = |place: &str| -> BTreeSet<String> {
            let properties = at(&format!("{place}/properties")).as_object().expect("an object");
            properties.keys().cloned().collect()
        };
        let names = |place: &str| -> BTreeSet<String> {
            let names = at(place).as_array().expect("a list").iter();
            names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
        };
        let both = |one: BTreeSet<String>, other: BTreeSet<String>| -> BTreeSet<String> {
            one.union(&other).cloned().collect()
        };
        let identities = (1..=3).map(|kind| properties(&format!("/$defs/request/properties/identity/oneOf/{kind}")));
        for (what, schema, parser) in [
            ("a case", properties(""), fields::<Scenario>()),
            ("source", properties("/properties/source"), fields::<ExpectedSource>()),
            (
                "not_in",
                properties("/properties/not_in"),
                known::<BTreeMap<Runner, String>>(json!({ "?": "" })),
            ),
            ("a file", properties("/$defs/file"), fields::<File>()),
            ("a step", properties("/$defs/step"), fields::<Step>()),
            ("request", properties("/$defs/request"), fields::<Request>()),
            ("an exchange", properties("/$defs/exchange"), fields::<Exchange>()),
            (
                "its request",
                properties("/$defs/expected"),
                fields::<ExpectedRequest>(),
            ),
            ("reply", properties("/$defs/reply"), fields::<Reply>()),
            (
                "repeat",
                properties("/$defs/reply/properties/repeat"),
                fields::<Repeat>(),
            ),
            (
                "expect",
                both(properties("/$defs/token"), properties("/$defs/failure")),
                fields::<Expectation>(),
            ),
            ("server", names("/properties/server/enum"), known::<Scheme>(json!("?"))),
            (
                "identity",
                identities.fold(names("/$defs/request/properties/identity/oneOf/0/enum"), both),
                known::<Identity>(json!("?")),
            ),
            (
                "fault",
                names("/$defs/exchange/properties/fault/enum"),
                known::<Fault>(json!("?")),
            ),
            (
                "a cause",
                names("/$defs/cause/enum"),
                CAUSES.iter().map(|&cause| cause.to_owned()).collect(),
            ),
        ] {
            assert!(!parser.is_empty(), "{what}");
            assert_eq!(schema, parser, "{what}");
        }
        // Each of its other lists of properties would be one that was not looked at.
        let lists = schema.to_string().matches("\"properties\":{").count();
        assert_eq!(lists, 17, "properties are listed in other places than before");
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
