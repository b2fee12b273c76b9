//! Requests as they arrive, taken apart.

use url::form_urlencoded;

/// A request that has arrived.
#[derive(Clone, Debug, Default)]
pub struct Arrived {
    /// The method.
    pub method: String,
    /// The path, as it was sent.
    pub path: String,
    /// The parameters of the query, decoded.
    pub query: Vec<(String, String)>,
    /// Names in lower case, and values without the white space around them.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Arrived {
    /// A request for this path and query, percent-encoded.
    #[must_use]
    pub fn new(method: &str, target: &str, headers: Vec<(String, String)>, body: Vec<u8>) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            query: decode(query.as_bytes()),
            headers,
            body,
        }
    }

    /// Takes the head of a request apart: everything up to the empty line. The body is not there yet.
    #[must_use]
    pub fn parse_head(head: &str) -> Option<Self> {
        let mut lines = head.split("\r\n");
        let [method, target, version] = lines.next()?.split(' ').collect::<Vec<_>>().try_into().ok()?;
        let headers = lines
            .filter(|line| !line.is_empty())
            .map(|line| {
                let (name, value) = line.split_once(':')?;
                Some((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()))
            })
            .collect::<Option<Vec<_>>>()?;
        let is_http = version.starts_with("HTTP/1.") && !method.is_empty() && !target.is_empty();
        is_http.then(|| Self::new(method, target, headers, Vec::new()))
    }

    /// The first value of a header field, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The fields of the form in the body, decoded.
    #[must_use]
    pub fn form(&self) -> Vec<(String, String)> {
        decode(&self.body)
    }
}

fn decode(text: &[u8]) -> Vec<(String, String)> {
    form_urlencoded::parse(text)
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_taken_apart() {
        let head = "GET /a%20b?x=1%2B2+3&y= HTTP/1.1\r\nHost: h\r\nX-Identity-Header:  s \r\n\r\n";
        let arrived = Arrived::parse_head(head).expect("a good head");
        assert_eq!((arrived.method.as_str(), arrived.path.as_str()), ("GET", "/a%20b"));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(arrived.query, [pair("x", "1+2 3"), pair("y", "")]);
        assert_eq!(
            (arrived.header("x-identity-header"), arrived.header("metadata")),
            (Some("s"), None)
        );
        for bad in ["", "GET /", "GET / SSH-2.0", "GET / HTTP/1.1\r\nno colon"] {
            assert!(Arrived::parse_head(bad).is_none(), "{bad}");
        }
    }
}
