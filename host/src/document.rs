//! Documents in TOML, read strictly: a key that is unknown, a value of another type, a list that is empty are errors, which
//! name the line and say what to write instead. [`Policy::from_toml`](crate::grants::Policy::from_toml) reads its documents
//! in this way; so can programs whose documents hold more than a policy.
//!
//! A reader goes through the entries of a table in the order of the document, takes those that it knows, and refuses all
//! others:
//!
//! ```
//! use managed_identity_host::document::{Document, DocumentError};
//!
//! fn names(text: &str) -> Result<Vec<String>, DocumentError> {
//!     let mut names = Vec::new();
//!     for entry in Document::parse(text)?.root().entries() {
//!         match entry.key() {
//!             "name" => names.push(entry.text("the document", |name| Ok::<_, String>(name.to_owned()))?),
//!             _ => return Err(entry.unknown("the document", &["name"])),
//!         }
//!     }
//!     Ok(names)
//! }
//!
//! assert_eq!(names("name = 'a'")?, ["a"]);
//! let error = names("\nnames = 'a'").unwrap_err().to_string();
//! assert_eq!(error, "line 2: `names` is no key of the document; write `name`");
//! # Ok::<(), DocumentError>(())
//! ```

use crate::audit;
use std::borrow::Cow;
use std::fmt::{self, Display};
use std::ops::{Range, RangeInclusive};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

/// The longest text of a document in a message, in bytes.
const LONGEST_TEXT: usize = 256;

/// Why a document is none. Names the line and says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct DocumentError {
    line: usize,
    message: String,
}

impl DocumentError {
    /// The line of the document, counted from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }

    /// The message, without the line.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// A document.
pub struct Document<'t> {
    text: &'t str,
    root: Spanned<DeTable<'t>>,
}

impl<'t> Document<'t> {
    /// Reads a document.
    ///
    /// # Errors
    /// When it is no TOML.
    pub fn parse(text: &'t str) -> Result<Self, DocumentError> {
        match DeTable::parse(text) {
            Ok(root) => Ok(Self { text, root }),
            Err(error) => Err(syntax(text, &error)),
        }
    }

    /// All that it holds.
    #[must_use]
    pub fn root(&self) -> Table<'_> {
        Table {
            text: self.text,
            table: self.root.get_ref(),
            start: 0,
        }
    }
}

/// Documents may hold secrets in the wrong place, so nothing of them is shown.
impl fmt::Debug for Document<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Document").finish_non_exhaustive()
    }
}

/// A table of a document.
#[derive(Clone, Copy)]
pub struct Table<'d> {
    text: &'d str,
    table: &'d DeTable<'d>,
    start: usize,
}

impl<'d> Table<'d> {
    /// What it holds, in the order in which it stands in the document.
    #[must_use]
    pub fn entries(self) -> Vec<Entry<'d>> {
        let mut entries: Vec<_> = self.table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        entries
            .into_iter()
            .map(|(key, value)| Entry {
                key,
                value: Value { text: self.text, value },
            })
            .collect()
    }

    /// The line on which it begins, counted from 1.
    #[must_use]
    pub fn line(self) -> usize {
        line(self.text, self.start)
    }

    /// It lacks a key. `place` is what it is written as, such as `[caller.NAME]`; `example` is a line that would do, and
    /// begins with the key.
    #[must_use]
    pub fn missing(self, place: &str, example: &str) -> DocumentError {
        let key = example.split(' ').next().unwrap_or_default();
        DocumentError {
            line: self.line(),
            message: format!("this `{place}` has no `{key}`; add it, as in `{example}`"),
        }
    }
}

impl fmt::Debug for Table<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Table").finish_non_exhaustive()
    }
}

/// A key of a table, and what it is set to.
#[derive(Clone, Copy)]
pub struct Entry<'d> {
    key: &'d Spanned<DeString<'d>>,
    value: Value<'d>,
}

impl<'d> Entry<'d> {
    /// The key.
    #[must_use]
    pub fn key(self) -> &'d str {
        self.key.get_ref()
    }

    /// What it is set to.
    #[must_use]
    pub fn value(self) -> Value<'d> {
        self.value
    }

    /// The line of the key, counted from 1.
    #[must_use]
    pub fn line(self) -> usize {
        line(self.value.text, self.key.span().start)
    }

    /// The key is no good, or stands where it must not.
    #[must_use]
    pub fn key_error(self, message: impl Into<String>) -> DocumentError {
        DocumentError {
            line: self.line(),
            message: message.into(),
        }
    }

    /// The key is none of those that `place` has. `place` is what the table is called in a sentence.
    #[must_use]
    pub fn unknown(self, place: &str, known: &[&str]) -> DocumentError {
        let name = shown(self.key());
        let instead = match (nearest(&name, known), known) {
            (Some(near), _) => format!("write `{near}`"),
            (None, [only]) => format!("its only key is `{only}`"),
            (None, _) => format!("its keys are `{}`", known.join("`, `")),
        };
        self.key_error(format!("`{name}` is no key of {place}; {instead}"))
    }

    /// A table. `what` is what it is called in a sentence, `write` its heading, such as `[caller.NAME]`.
    ///
    /// # Errors
    /// When it is something else.
    pub fn table(self, what: &str, write: &str) -> Result<Table<'d>, DocumentError> {
        self.value.table().ok_or_else(|| {
            let kind = self.value.kind();
            self.value
                .error(format!("{what} is {kind}; write it as a table, `{write}`"))
        })
    }

    /// The tables of an array of at least one. `place` is their heading, such as `[[caller.NAME.token]]`.
    ///
    /// # Errors
    /// When it is something else.
    pub fn tables(self, place: &str) -> Result<Vec<Table<'d>>, DocumentError> {
        let refuse = |value: Value<'_>, kind: &str| {
            value.error(format!(
                "what should be `{place}` is {kind}; write `{place}`, once for each rule"
            ))
        };
        let items = self
            .value
            .items()
            .ok_or_else(|| refuse(self.value, self.value.kind()))?;
        if items.is_empty() {
            return Err(refuse(self.value, "an empty list"));
        }
        let table = |item: Value<'d>| {
            item.table()
                .ok_or_else(|| refuse(item, &format!("a list with {} in it", item.kind())))
        };
        items.into_iter().map(table).collect()
    }

    /// One text, read by `parse`, whose error reads as the end of a sentence that begins with the text. `place` is the
    /// heading of the table.
    ///
    /// # Errors
    /// When it is something else, or `parse` refuses it.
    pub fn text<T, E: Display>(
        self,
        place: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, DocumentError> {
        let Some(text) = self.value.text() else {
            let (key, kind) = (self.key(), self.value.kind());
            let message = format!("`{key}` of `{place}` is {kind}; write one text, as in `{key} = \"…\"`");
            return Err(self.value.error(message));
        };
        self.parsed(place, text, parse)
    }

    /// The same, for texts of which `example` is one.
    ///
    /// # Errors
    /// When it is something else, or `parse` refuses it.
    pub fn text_like<T, E: Display>(
        self,
        place: &str,
        example: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, DocumentError> {
        let Some(text) = self.value.text() else {
            let (key, kind) = (self.key(), self.value.kind());
            let message = format!("`{key}` of `{place}` is {kind}; write it like `{key} = \"{example}\"`");
            return Err(self.value.error(message));
        };
        self.parsed(place, text, parse)
    }

    fn parsed<T, E: Display>(
        self,
        place: &str,
        text: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, DocumentError> {
        parse(text).map_err(|error| {
            let (key, text) = (self.key(), shown(text));
            self.value
                .error(format!("\"{text}\", which is `{key}` of `{place}`, {error}"))
        })
    }

    /// A list of at least one text, each read by `parse` as in [`text`](Self::text). `if_empty` says of an empty list why it
    /// is refused and what to do instead: it follows "is an empty list, ".
    ///
    /// # Errors
    /// When it is something else, or `parse` refuses one of the texts.
    pub fn texts<T, E: Display>(
        self,
        place: &str,
        if_empty: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Vec<T>, DocumentError> {
        let key = self.key();
        let write = format!("a list of texts, as in `{key} = [\"…\"]`");
        self.list(place, &write, if_empty, |item| {
            item.text().map(|text| {
                parse(text).map_err(|error| {
                    let text = shown(text);
                    item.error(format!("\"{text}\" in `{key}` of `{place}` {error}"))
                })
            })
        })
    }

    /// A list of at least one value, each read by `parse`, which answers nothing to values of a type that it does not take.
    /// `write` says what such a list is.
    ///
    /// # Errors
    /// When it is something else, or `parse` refuses one of the values.
    pub fn list<T>(
        self,
        place: &str,
        write: &str,
        if_empty: &str,
        parse: impl Fn(Value<'d>) -> Option<Result<T, DocumentError>>,
    ) -> Result<Vec<T>, DocumentError> {
        let key = self.key();
        let refuse = |value: Value<'_>, what: &str| value.error(format!("`{key}` of `{place}` {what}; write {write}"));
        let items = self
            .value
            .items()
            .ok_or_else(|| refuse(self.value, &format!("is {}", self.value.kind())))?;
        if items.is_empty() {
            let message = format!("`{key}` of `{place}` is an empty list, {if_empty}");
            return Err(self.value.error(message));
        }
        let read = |item: Value<'d>| {
            parse(item).unwrap_or_else(|| Err(refuse(item, &format!("has {} in its list", item.kind()))))
        };
        items.into_iter().map(read).collect()
    }

    /// A whole number of this range.
    ///
    /// # Errors
    /// When it is something else.
    pub fn number(self, place: &str, range: RangeInclusive<u64>, example: u64) -> Result<u64, DocumentError> {
        self.value
            .number()
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                let (key, least, most) = (self.key(), range.start(), range.end());
                self.value.error(format!(
                    "`{key}` of `{place}` is no number from {least} to {most}; write it like `{key} = {example}`"
                ))
            })
    }
}

impl fmt::Debug for Entry<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Entry").finish_non_exhaustive()
    }
}

/// What a key is set to, or what is in a list.
#[derive(Clone, Copy)]
pub struct Value<'d> {
    text: &'d str,
    value: &'d Spanned<DeValue<'d>>,
}

impl<'d> Value<'d> {
    /// The text that it is, if it is one.
    #[must_use]
    pub fn text(self) -> Option<&'d str> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number that it is, if it is one and not below zero.
    #[must_use]
    pub fn number(self) -> Option<u64> {
        match self.value.get_ref() {
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        }
    }

    /// What it is, for a message: `a text`, `a number`.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self.value.get_ref() {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) | DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        }
    }

    /// It is wrong.
    #[must_use]
    pub fn error(self, message: impl Into<String>) -> DocumentError {
        DocumentError {
            line: line(self.text, self.value.span().start),
            message: message.into(),
        }
    }

    fn table(self) -> Option<Table<'d>> {
        match self.value.get_ref() {
            DeValue::Table(table) => Some(Table {
                text: self.text,
                table,
                start: self.value.span().start,
            }),
            _ => None,
        }
    }

    fn items(self) -> Option<Vec<Self>> {
        let DeValue::Array(items) = self.value.get_ref() else {
            return None;
        };
        let text = self.text;
        Some(items.iter().map(|value| Self { text, value }).collect())
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Value").finish_non_exhaustive()
    }
}

/// A text of a document as it can stand in a message: cut when it is long, and escaped where it is not plain.
#[must_use]
pub fn shown(text: &str) -> Cow<'_, str> {
    audit::shown(text, LONGEST_TEXT)
}

/// The known name that was most likely meant, if one is near.
#[must_use]
pub fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let name = name.to_ascii_lowercase().replace('_', "-");
    known
        .iter()
        .map(|known| (distance(&name, known), *known))
        .filter(|(distance, known)| distance * 3 <= known.len())
        .min()
        .map(|(_, known)| known)
}

/// How many letters have to be added, taken away or replaced to make the one text the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut last = i + 1;
        for (cell, right) in row.iter_mut().skip(1).zip(b.bytes()) {
            let next = (diagonal + usize::from(left != right)).min(last + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, next);
            last = next;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

fn syntax(text: &str, error: &toml::de::Error) -> DocumentError {
    let span = error.span().unwrap_or(0..0);
    let line = line(text, span.start);
    let what = error.message().lines().collect::<Vec<_>>().join(", ");
    let message = if what == "duplicate key" {
        let name = shown(text.get(span).unwrap_or_default());
        format!("`{name}` stands here for the second time; write it once, with all that belongs to it")
    } else if let Some(key) = set_without_quotes(text, &span) {
        format!("what `{key}` is set to is no number, and a text needs quotes; write it like `{key} = \"…\"`")
    } else {
        format!("this is not TOML (https://toml.io): {}", shown(&what))
    };
    DocumentError { line, message }
}

/// The key of a line such as `rate = 5/minute`, where this line is what the error is about. What it is set to is not for
/// messages: it may be a secret.
fn set_without_quotes<'t>(text: &'t str, span: &Range<usize>) -> Option<&'t str> {
    let before = text.get(..span.start)?;
    let start = before.rfind('\n').map_or(0, |end| end + 1);
    let (key, value) = text.get(start..)?.lines().next()?.split_once('=')?;
    let value = value.split('#').next().unwrap_or_default();
    let (key, value) = (key.trim(), value.trim());
    let is_key = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:*@+%".contains(&byte);
    let is_meant = !key.is_empty()
        && key.len() <= LONGEST_TEXT
        && key.bytes().all(is_key)
        && !value.is_empty()
        && value.bytes().all(is_word);
    is_meant.then_some(key)
}

fn line(text: &str, start: usize) -> usize {
    let before = text.as_bytes().get(..start).unwrap_or(text.as_bytes());
    1 + before.iter().filter(|&&byte| byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the documents are literals")]

    use super::*;

    #[test]
    fn a_text_without_quotes_is_told_as_such_and_not_shown() {
        for (text, message) in [
            (
                "\nrate = 5/minute",
                "line 2: what `rate` is set to is no number, and a text needs quotes; write it like `rate = \"…\"`",
            ),
            ("rate=5/minute # of all", "`rate = \"…\"`"),
            ("request-timeout = 10s\n", "`request-timeout = \"…\"`"),
            ("address = 127.0.0.1:4141\n", "`address = \"…\"`"),
            ("mode = 0660", "`mode = \"…\"`"),
            ("token-file = /var/run/token", "`token-file = \"…\"`"),
            ("x = 1 2", "this is not TOML"),
            ("x = 'a", "this is not TOML"),
            ("x =", "this is not TOML"),
            ("= a", "this is not TOML"),
            ("a b = c", "this is not TOML"),
            ("x = [a]", "this is not TOML"),
        ] {
            let error = Document::parse(text).unwrap_err().to_string();
            assert!(error.contains(message), "{text:?}\n  {error}\n  {message}");
        }
        let error = Document::parse("secret = correct-horse").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("correct-horse"), "{error}");
    }

    #[test]
    fn the_only_key_is_called_so() {
        let document = Document::parse("x = 1").unwrap();
        let entry = document.root().entries()[0];
        assert_eq!(
            (
                entry.unknown("it", &["caller"]).message(),
                entry.unknown("it", &["caller", "other"]).message()
            ),
            (
                "`x` is no key of it; its only key is `caller`",
                "`x` is no key of it; its keys are `caller`, `other`"
            )
        );
    }

    #[test]
    fn numbers_are_whole_and_within_their_range() {
        for (text, expected) in [
            ("x = 1", Some(1)),
            ("x = 0x10", Some(16)),
            ("x = 1_0", Some(10)),
            ("x = 17", None),
            ("x = 0", None),
            ("x = -1", None),
            ("x = 1.0", None),
            ("x = '1'", None),
            ("x = 99999999999999999999999", None),
        ] {
            let document = Document::parse(text).unwrap();
            let number = document.root().entries()[0].number("[a]", 1..=16, 8);
            match expected {
                Some(expected) => assert_eq!(number, Ok(expected), "{text}"),
                None => assert_eq!(
                    number.unwrap_err().to_string(),
                    "line 1: `x` of `[a]` is no number from 1 to 16; write it like `x = 8`"
                ),
            }
        }
    }

    #[test]
    fn a_key_with_a_slip_is_recognised() {
        const KNOWN: &[&str] = &["rate", "refresh-rate", "concurrency"];
        for (name, near) in [
            ("rates", Some("rate")),
            ("Refresh_Rate", Some("refresh-rate")),
            ("concurency", Some("concurrency")),
            ("connections", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, KNOWN), near, "{name}");
        }
    }
}
