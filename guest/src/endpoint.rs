//! The address of an identity endpoint, read from an environment variable.

use crate::error::{Cause, Error};
use crate::platform::{HttpRequest, Method};
use crate::secret::Secret;
use std::fmt::{self, Write as _};

/// An absolute `http` or `https` URL without user, query or fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    https: bool,
    authority: String,
    path: String,
}

impl Endpoint {
    /// Reads the value of an environment variable.
    ///
    /// This is the first check, and says which variable is wrong. What may be reached is decided by the host, which
    /// reads the same URL with stricter rules and compares every request with it.
    ///
    /// # Errors
    /// [`Cause::NotConfigured`], with a message that names the variable and not its value.
    pub fn parse(variable: &str, value: &str) -> Result<Self, Error> {
        let refuse = |why: &str| {
            let example = match variable {
                "AZURE_AUTHORITY_HOST" => "https://login.microsoftonline.com",
                "AZURE_KUBERNETES_TOKEN_PROXY" => "https://10.0.0.1:8443",
                _ => "http://127.0.0.1:41741/msi/token",
            };
            Error::new(
                Cause::NotConfigured,
                format!("The environment variable {variable} {why}. It has to be a URL such as {example}."),
            )
        };
        if !value.bytes().all(|byte| byte.is_ascii_graphic()) || value.contains('\\') {
            return Err(refuse("contains characters that no URL has"));
        }
        let (scheme, rest) = value
            .split_once("://")
            .ok_or_else(|| refuse("is not an absolute URL"))?;
        let https = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(refuse("has another scheme than http or https")),
        };
        if rest.contains(['?', '#']) {
            return Err(refuse("has a query or a fragment"));
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.is_empty() || authority.starts_with(':') {
            return Err(refuse("names no host"));
        }
        if authority.contains('@') {
            return Err(refuse("has a user name or password"));
        }
        Ok(Self {
            https,
            authority: authority.to_ascii_lowercase(),
            path: if path.is_empty() { "/" } else { path }.to_owned(),
        })
    }

    /// The same endpoint with `path` below its own.
    #[must_use]
    pub(crate) fn join(mut self, path: &str) -> Self {
        self.path.truncate(self.path.trim_end_matches('/').len());
        self.path.push_str(path);
        self
    }

    /// Whether the scheme is `https`.
    #[must_use]
    pub(crate) fn is_https(&self) -> bool {
        self.https
    }

    /// The host, without the port.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn host(&self) -> &str {
        match self.authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => &self.authority,
        }
    }

    /// A `POST` request with a form (`application/x-www-form-urlencoded`).
    pub(crate) fn post(&self, form: &[(&str, &str)], mut headers: Vec<(&'static str, Secret)>) -> HttpRequest {
        let mut body = String::new();
        // Grown to its full length at once, so that no outgrown copy of a secret stays behind.
        body.reserve(form.iter().map(|(name, value)| name.len() + 3 * value.len() + 2).sum());
        append_pairs(form, &mut body);
        headers.push(("content-type", Secret::from("application/x-www-form-urlencoded")));
        HttpRequest {
            method: Method::Post,
            https: self.https,
            authority: self.authority.clone(),
            path_with_query: self.path.clone(),
            headers,
            body: Some(Secret::new(body)),
        }
    }

    /// A `GET` request with a query.
    pub(crate) fn get(&self, query: &[(&str, &str)], headers: Vec<(&'static str, Secret)>) -> HttpRequest {
        let mut path_with_query = format!("{}?", self.path);
        append_pairs(query, &mut path_with_query);
        HttpRequest {
            method: Method::Get,
            https: self.https,
            authority: self.authority.clone(),
            path_with_query,
            headers,
            body: None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(formatter, "{scheme}://{}{}", self.authority, self.path)
    }
}

/// Appends `name=value&name=value`. The names need no encoding.
fn append_pairs(pairs: &[(&str, &str)], into: &mut String) {
    for (index, (name, value)) in pairs.iter().enumerate() {
        if index > 0 {
            into.push('&');
        }
        into.push_str(name);
        into.push('=');
        percent_encode(value, into);
    }
}

/// Appends `text` with everything but the unreserved characters of RFC 3986 section 2.3 encoded.
pub(crate) fn percent_encode(text: &str, into: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            into.push(char::from(byte));
        } else {
            // Writing to a `String` cannot fail.
            let _ = write!(into, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_endpoints_are_read() {
        for (text, printed) in [
            ("http://127.0.0.1:41741/msi/token", "http://127.0.0.1:41741/msi/token"),
            ("HTTP://LocalHost:42356/MSI/token/", "http://localhost:42356/MSI/token/"),
            ("http://169.254.169.254", "http://169.254.169.254/"),
            ("https://[fe80::1]:2377/x", "https://[fe80::1]:2377/x"),
        ] {
            assert_eq!(
                Endpoint::parse("V", text).map(|endpoint| endpoint.to_string()),
                Ok(printed.to_owned())
            );
        }
    }

    #[test]
    fn a_bad_endpoint_names_the_variable_and_not_its_value() {
        for text in [
            "",
            "localhost",
            "//localhost/x",
            "ftp://localhost/x",
            "http://",
            "http:///x",
            "http://:80/x",
            "http://user:hunter2@localhost/x",
            "http://localhost/x?y=hunter2",
            "http://localhost/x#y",
            "http://local host/x",
            "http://localhost\\@hunter2/x",
            "http://localhost/\r\nhunter2: x",
            "http://h\u{e9}/",
        ] {
            let error = Endpoint::parse("IDENTITY_ENDPOINT", text).expect_err(text);
            assert_eq!(error.cause, Cause::NotConfigured);
            assert!(
                error.message.contains("IDENTITY_ENDPOINT") && !error.message.contains("hunter2"),
                "{error}"
            );
        }
    }

    #[test]
    fn query_values_are_percent_encoded() {
        let endpoint = Endpoint::parse("V", "http://localhost/a/")
            .expect("a good URL")
            .join("/b");
        let request = endpoint.get(
            &[("api-version", "2019-08-01"), ("resource", "https://a b&c=d/~")],
            Vec::new(),
        );
        assert_eq!(
            request.path_with_query,
            "/a/b?api-version=2019-08-01&resource=https%3A%2F%2Fa%20b%26c%3Dd%2F~"
        );
    }
}
