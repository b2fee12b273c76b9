//! What a plugin gets of a reply.

use super::echo::{Echo, Search, Searched};
use crate::outbound::LimitedBody;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::OwnedSemaphorePermit;
use wasmtime_wasi_http::{DEFAULT_FORBIDDEN_HEADERS, Error, WasiBody};

/// Fields in which a server hands back, or replaces, what a request was authorized by. A cookie may stand for the token from
/// then on.
const CREDENTIALS: [HeaderName; 4] = [
    header::AUTHORIZATION,
    HeaderName::from_static("authentication-info"),
    HeaderName::from_static("proxy-authentication-info"),
    header::SET_COOKIE,
];

/// Makes a reply fit for the plugin. With a `search`, the request had a token, of which nothing is passed on. The `place` is
/// given back when the body is over or dropped.
pub(super) fn pass_on(
    reply: Response<LimitedBody>,
    search: Option<Arc<Search>>,
    place: Option<OwnedSemaphorePermit>,
) -> Result<Response<WasiBody>, Error> {
    let (mut head, body) = reply.into_parts();
    clean(&mut head.headers, search.as_deref())?;
    let body = ReplyBody {
        body: Some(body),
        searched: search.map(Searched::new),
        place,
    };
    Ok(Response::from_parts(head, body.boxed_unsync()))
}

/// Leaves of the fields of a reply what the plugin may have.
fn clean(fields: &mut HeaderMap, search: Option<&Search>) -> Result<(), Error> {
    if let Some(search) = search {
        for name in CREDENTIALS {
            fields.remove(name);
        }
        // All the others, those included of which a plugin learns by an error alone.
        let finds = |(name, value): (&HeaderName, &HeaderValue)| {
            search.finds(name.as_str().as_bytes()) || search.finds(value.as_bytes())
        };
        if fields.iter().any(finds) {
            return Err(withheld());
        }
        readable(fields)?;
    }
    remove_connection_fields(fields);
    Ok(())
}

/// What a plugin is told instead of a reply that has its token in it.
fn withheld() -> Error {
    Error::InternalError(Some(
        "the reply is withheld: it repeats the authorization of the request".to_owned(),
    ))
}

/// Refuses a body that cannot be searched, because it is coded. The request has asked for one that is not.
fn readable(fields: &HeaderMap) -> Result<(), Error> {
    let codings = |name: HeaderName, plain: &'static str| {
        let values = fields.get_all(name).into_iter();
        let mut codings = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        codings
            .find(|coding| {
                !coding.trim_ascii().is_empty() && !coding.trim_ascii().eq_ignore_ascii_case(plain.as_bytes())
            })
            .map(|coding| String::from_utf8_lossy(coding.trim_ascii()).into_owned())
    };
    if let Some(coding) = codings(header::CONTENT_ENCODING, "identity") {
        return Err(Error::HttpResponseContentCoding(Some(coding)));
    }
    match codings(header::TRANSFER_ENCODING, "chunked") {
        Some(coding) => Err(Error::HttpResponseTransferCoding(Some(coding))),
        None => Ok(()),
    }
}

/// Removes what concerns the connection alone (RFC 9110 section 7.6.1), and what `wasi:http` keeps from components.
fn remove_connection_fields(fields: &mut HeaderMap) {
    let named: Vec<HeaderName> = fields
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    let own = [header::TE, header::TRAILER];
    for name in named.into_iter().chain(DEFAULT_FORBIDDEN_HEADERS).chain(own) {
        fields.remove(name);
    }
}

/// The body of a reply, on its way to the plugin.
struct ReplyBody {
    body: Option<LimitedBody>,
    searched: Option<Searched>,
    place: Option<OwnedSemaphorePermit>,
}

impl ReplyBody {
    fn end(&mut self) {
        self.body = None;
        self.place = None;
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        loop {
            let Some(body) = &mut this.body else {
                return Poll::Ready(None);
            };
            let data = match ready!(Pin::new(body).poll_frame(context)) {
                // Trailers were not asked for: `TE` is not the plugin's to send. They are not passed on.
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(error)) => {
                    this.end();
                    return Poll::Ready(Some(Err(error.into())));
                }
                None => {
                    this.end();
                    let left = this.searched.as_mut().map(Searched::finish).unwrap_or_default();
                    return Poll::Ready((!left.is_empty()).then(|| Ok(Frame::data(left))));
                }
            };
            let data = match &mut this.searched {
                None => data,
                Some(searched) => match searched.push(data) {
                    Ok(data) => data,
                    Err(Echo) => {
                        this.end();
                        return Poll::Ready(Some(Err(withheld())));
                    }
                },
            };
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_none()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the fields are literals")]

    use super::*;
    use managed_identity_provider::secret::Secret;

    const TOKEN: &str = "0123456789abcdefghijklmnopqrstuvwxyz";

    /// What is left of a reply's fields, or the plugin's error.
    fn left(fields: &[(&str, &str)], authorized: bool) -> Result<Vec<String>, String> {
        let search = Search::new(&[&Secret::from(TOKEN)]).unwrap();
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        clean(&mut map, authorized.then_some(&*search)).map_err(|error| format!("{error:?}"))?;
        Ok(map.keys().map(ToString::to_string).collect())
    }

    #[test]
    fn a_plugin_gets_the_fields_that_are_for_it() {
        for (fields, plain, authorized) in [
            (
                [
                    ("content-type", "a/b"),
                    ("location", "https://elsewhere.example/"),
                    ("etag", "x"),
                ]
                .as_slice(),
                ["content-type", "location", "etag"].as_slice(),
                ["content-type", "location", "etag"].as_slice(),
            ),
            (
                &[
                    ("connection", "close, X-Hop"),
                    ("x-hop", "1"),
                    ("keep-alive", "5"),
                    ("x-end", "2"),
                ],
                &["x-end"],
                &["x-end"],
            ),
            (
                &[
                    ("upgrade", "h2c"),
                    ("te", "trailers"),
                    ("trailer", "x"),
                    ("proxy-authenticate", "Basic"),
                ],
                &[],
                &[],
            ),
            (
                &[
                    ("set-cookie", "a=b"),
                    ("authorization", "x"),
                    ("authentication-info", "y"),
                    ("x-end", "2"),
                ],
                &["set-cookie", "authorization", "authentication-info", "x-end"],
                &["x-end"],
            ),
            (
                &[("content-encoding", "identity"), ("transfer-encoding", "chunked")],
                &["content-encoding"],
                &["content-encoding"],
            ),
        ] {
            assert_eq!(left(fields, false).unwrap(), plain, "{fields:?}");
            assert_eq!(left(fields, true).unwrap(), authorized, "{fields:?}");
        }
    }

    #[test]
    fn what_cannot_be_searched_or_has_the_token_in_it_is_withheld() {
        let query = format!("https://elsewhere.example/?token={TOKEN}");
        let coding = format!("{TOKEN}, chunked");
        for (name, value, error) in [
            ("content-encoding", "gzip", "HttpResponseContentCoding(Some(\"gzip\"))"),
            (
                "content-encoding",
                "identity, br",
                "HttpResponseContentCoding(Some(\"br\"))",
            ),
            (
                "transfer-encoding",
                "gzip, chunked",
                "HttpResponseTransferCoding(Some(\"gzip\"))",
            ),
            ("location", query.as_str(), "the reply is withheld"),
            ("x-debug", &TOKEN[..24], "the reply is withheld"),
            // The error for a coding says which it is.
            ("content-encoding", TOKEN, "the reply is withheld"),
            ("transfer-encoding", &coding, "the reply is withheld"),
            ("keep-alive", TOKEN, "the reply is withheld"),
            (TOKEN, "x", "the reply is withheld"),
        ] {
            let found = left(&[(name, value)], true).unwrap_err();
            assert!(found.contains(error), "{name}: {found}");
            assert!(!found.contains(&TOKEN[..24]), "{found}");
            assert!(left(&[(name, value)], false).is_ok(), "{name}");
        }
    }
}
