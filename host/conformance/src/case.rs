//! The cases, and where they are loaded from.
//!
//! The format is described for people in `tests/conformance/README.md` and for editors in `case.schema.json` beside it.

mod scenario;

pub use scenario::{
    Accepted, Action, Exchange, Expectation, ExpectedRequest, ExpectedSource, Fault, File, Identity, Moment, Node,
    Reply, Request, Runner, Scenario, Scheme, Step,
};

use crate::placeholder::{CertificateValues, Values};
pub(crate) use scenario::present;
use scenario::unfit_null;
use serde_json::Value;
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

#[cfg(test)]
mod tests;
