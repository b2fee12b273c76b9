//! Replies, written into one buffer each.

use super::Reply;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use std::io::Write as _;

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// A reply with a JSON object in it. It is not to be stored by anybody: it is a secret, or says what is so now.
pub(super) fn json(status: StatusCode, body: Object) -> Reply {
    let mut reply = Response::new(Full::new(body.end()));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(CACHE_CONTROL, NO_STORE);
    reply
}

/// A reply for a person to read.
pub(super) fn text(status: StatusCode, body: &str) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, NO_STORE);
    reply
}

/// A reply with nothing in it.
pub(super) fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::new()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    reply
}

/// A JSON object that is being written, member by member. Its values are what the protocols have: nearly all are strings.
#[derive(Debug)]
pub(super) struct Object(Vec<u8>);

impl Object {
    /// An empty one, with room for strings of so many bytes in all.
    pub(super) fn with_room_for(bytes: usize) -> Self {
        /// For names and marks.
        const OVERHEAD: usize = 256;
        Self(Vec::with_capacity(bytes + OVERHEAD))
    }

    /// With a string.
    pub(super) fn text(mut self, name: &'static str, value: &str) -> Self {
        self.name(name);
        if needs_no_escape(value) {
            self.0.push(b'"');
            self.0.extend_from_slice(value.as_bytes());
            self.0.push(b'"');
        } else {
            // A buffer takes everything.
            let _ = serde_json::to_writer(&mut self.0, value);
        }
        self
    }

    /// With a number in a string, as the metadata service writes them.
    pub(super) fn number_as_text(mut self, name: &'static str, value: u64) -> Self {
        self.name(name);
        let _ = write!(self.0, "\"{value}\"");
        self
    }

    /// With a number.
    pub(super) fn number(mut self, name: &'static str, value: u16) -> Self {
        self.name(name);
        let _ = write!(self.0, "{value}");
        self
    }

    fn name(&mut self, name: &'static str) {
        self.0.push(if self.0.is_empty() { b'{' } else { b',' });
        self.0.push(b'"');
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    fn end(mut self) -> Bytes {
        if self.0.is_empty() {
            self.0.push(b'{');
        }
        self.0.push(b'}');
        Bytes::from(self.0)
    }
}

/// Without a branch for each byte, because tokens are long.
fn needs_no_escape(text: &str) -> bool {
    text.bytes().fold(true, |plain, byte| {
        plain & (byte >= b' ') & (byte != b'"') & (byte != b'\\')
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails where something is not as expected")]

    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn an_object_is_json_whatever_is_in_it() {
        let written = |object: Object| serde_json::from_slice::<Value>(&object.end()).unwrap();
        assert_eq!(written(Object::with_room_for(0)), json!({}));
        for text in [
            "",
            "plain",
            "\"",
            "\\",
            "\u{0}\u{1f}\r\n",
            "\u{e9}\u{1f600}",
            "</script>",
        ] {
            let object = Object::with_room_for(0)
                .text("a", text)
                .number_as_text("b", u64::MAX)
                .number("c", 403);
            assert_eq!(written(object), json!({"a": text, "b": u64::MAX.to_string(), "c": 403}));
        }
    }
}
