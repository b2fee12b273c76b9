//! The token reply, the body of an HTTP 200 of any identity endpoint.
//!
//! Its core is that of OAuth 2.0 (RFC 6749, section 5.1); around it, endpoints differ in which fields they send and
//! whether numbers are numbers or strings. Only the token and its expiry are indispensable. What is there must be
//! unambiguous, though: a field given twice, or a token that would break an HTTP header, makes the reply worthless.
//!
//! The metadata service echoes the identity it answered for (`client_id`, `object_id`, `msi_res_id`), under names that
//! vary. NMI, the pod identity of AKS, may answer with an array of replies, of which the first is meant.

use crate::expiry::{ExpiryError, expiry, instant, seconds};
use crate::json::Json;
use crate::secret::Secret;
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// The longest body that is looked at. A reply is some kilobytes of token and little else.
pub const MAX_REPLY_BYTES: usize = 256 * 1024;

/// The longest token that is passed on. Few servers take a header line of even half that length.
pub const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// By how many seconds the clock here may lag behind that of the issuer: the tolerance customary for `nbf`.
pub const NOT_BEFORE_SKEW: u64 = 5 * 60;

/// What a reply says. Times are seconds since 1970, unless they are durations.
#[derive(Clone, Debug)]
pub struct TokenReply {
    /// The token, made of visible ASCII characters only.
    pub token: Secret,
    /// Always `Bearer`, however the endpoint spelled it.
    pub token_type: String,
    /// When the token expires; later than now.
    pub expires_on: u64,
    /// In how many seconds the endpoint wants to be asked again; from 1 to what is left of the token's life.
    pub refresh_in: Option<u64>,
    /// From when on the token is valid.
    pub not_before: Option<u64>,
    /// For which resource it was issued.
    pub resource: Option<String>,
    /// The client id of the identity it was issued to.
    pub client_id: Option<String>,
    /// The object id of that identity (`object_id`, `oid` or `principal_id`).
    pub object_id: Option<String>,
    /// The resource id of that identity (`msi_res_id` or `mi_res_id`).
    pub resource_id: Option<String>,
}

/// Why a body is not a usable token reply. Holds nothing of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyFault {
    /// Longer than [`MAX_REPLY_BYTES`].
    TooLong,
    /// Nothing but white space.
    Empty,
    /// Some other text. Where it is HTML, something else has answered in the endpoint's place.
    NotJson {
        /// Whether it begins like HTML.
        html: bool,
    },
    /// Not text at all.
    NotUtf8,
    /// JSON that ends too early.
    CutShort,
    /// JSON with a syntax error, or nested too deeply.
    BrokenJson,
    /// JSON, but neither an object nor an array that begins with one.
    NotAnObject,
    /// An array of no replies.
    NoReplies,
    /// A field is there twice.
    Duplicate(&'static str),
    /// Two spellings of a field are there, with different values.
    Contradiction(&'static str),
    /// A field is of another type than text.
    NotText(&'static str),
    /// No token, or an empty one.
    NoToken,
    /// A token longer than [`MAX_TOKEN_BYTES`].
    TokenTooLong,
    /// A token with white space, control characters or non-ASCII characters in it.
    TokenNotVisibleAscii,
    /// A token that is not a bearer token.
    NotBearer,
    /// No readable expiry.
    NoExpiry,
    /// A token whose time is over.
    Expired,
    /// A token whose time has not come, by more than [`NOT_BEFORE_SKEW`].
    NotYetValid,
}

impl fmt::Display for ReplyFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::TooLong => "the reply is longer than 256 KiB",
            Self::Empty => "the reply is empty",
            Self::NotJson { html: true } => "the reply is an HTML page, not JSON",
            Self::NotJson { html: false } => "the reply is not JSON",
            Self::NotUtf8 => "the reply is not UTF-8 text",
            Self::CutShort => "the reply ends in the middle of its JSON",
            Self::BrokenJson => "the reply is not well-formed JSON",
            Self::NotAnObject => "the reply is JSON, but not an object",
            Self::NoReplies => "the reply is an empty array",
            Self::Duplicate(field) => return write!(formatter, "the reply has {field} twice"),
            Self::Contradiction(field) => {
                return write!(
                    formatter,
                    "the reply has {field} in two spellings that contradict each other"
                );
            }
            Self::NotText(field) => return write!(formatter, "{field} in the reply is not a string"),
            Self::NoToken => "the reply has no access_token",
            Self::TokenTooLong => "the access_token in the reply is longer than 64 KiB",
            Self::TokenNotVisibleAscii => "the access_token in the reply has characters that no token can have",
            Self::NotBearer => "the token_type in the reply is not Bearer, the only one that can be used here",
            Self::NoExpiry => "neither expires_in nor expires_on in the reply says when the token expires",
            Self::Expired => "the token in the reply has already expired",
            Self::NotYetValid => {
                "the token in the reply is valid only from a time in the future; compare the clocks of both sides"
            }
        };
        formatter.write_str(text)
    }
}

impl std::error::Error for ReplyFault {}

/// Reads the body of a successful reply that came in at `now`.
///
/// # Errors
///
/// See [`ReplyFault`].
pub fn parse(body: &[u8], now: u64) -> Result<TokenReply, ReplyFault> {
    if body.len() > MAX_REPLY_BYTES {
        return Err(ReplyFault::TooLong);
    }
    let mut fields = read(body)?;

    let token = fields
        .token
        .take()
        .filter(|token| !token.is_empty())
        .ok_or(ReplyFault::NoToken)?;
    if token.expose().len() > MAX_TOKEN_BYTES {
        return Err(ReplyFault::TokenTooLong);
    }
    if !token.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ReplyFault::TokenNotVisibleAscii);
    }
    if fields
        .text(&["token_type"])?
        .is_some_and(|kind| !kind.eq_ignore_ascii_case("Bearer"))
    {
        return Err(ReplyFault::NotBearer);
    }
    let expires_on =
        expiry(fields.value("expires_in"), fields.value("expires_on"), now).map_err(|error| match error {
            ExpiryError::Unreadable => ReplyFault::NoExpiry,
            ExpiryError::AlreadyExpired => ReplyFault::Expired,
        })?;
    let not_before = fields.value("not_before").and_then(instant);
    if not_before.is_some_and(|moment| moment > now.saturating_add(NOT_BEFORE_SKEW)) {
        return Err(ReplyFault::NotYetValid);
    }
    // Both times are hints: what makes no sense is as good as absent.
    let refresh_in = fields
        .value("refresh_in")
        .and_then(seconds)
        .filter(|&duration| duration > 0 && duration <= expires_on - now);

    Ok(TokenReply {
        token,
        token_type: "Bearer".to_owned(),
        expires_on,
        refresh_in,
        not_before,
        resource: fields.text(&["resource"])?,
        client_id: fields.text(&["client_id"])?,
        object_id: fields.text(&["object_id", "oid", "principal_id"])?,
        resource_id: fields.text(&["msi_res_id", "mi_res_id"])?,
    })
}

fn read(body: &[u8]) -> Result<Fields, ReplyFault> {
    let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body).trim_ascii();
    let Some(&first) = body.first() else {
        return Err(ReplyFault::Empty);
    };
    if first == b'<' {
        return Err(ReplyFault::NotJson { html: true });
    }
    let text = str::from_utf8(body).map_err(|_| ReplyFault::NotUtf8)?;

    let mut json = serde_json::Deserializer::from_str(text);
    let fields = Reply { may_be_array: true }.deserialize(&mut json);
    let fault = match fields.and_then(|fields| json.end().map(|()| fields)) {
        Ok(Fields { fault: Some(fault), .. }) => fault,
        Ok(fields) => return Ok(fields),
        // The error itself stays here: it may quote the body.
        Err(error) if error.is_data() => ReplyFault::NotAnObject,
        Err(_) if !matches!(first, b'{' | b'[') => ReplyFault::NotJson { html: false },
        Err(error) if error.is_eof() => ReplyFault::CutShort,
        Err(_) => ReplyFault::BrokenJson,
    };
    Err(fault)
}

const TOKEN_FIELD: &str = "access_token";

/// The fields that are kept, apart from the token.
const FIELDS: [&str; 12] = [
    "token_type",
    "expires_in",
    "expires_on",
    "refresh_in",
    "not_before",
    "resource",
    "client_id",
    "object_id",
    "oid",
    "principal_id",
    "msi_res_id",
    "mi_res_id",
];

/// The fields of a reply, as they came.
#[derive(Default)]
struct Fields {
    token: Option<Secret>,
    values: [Option<Json>; FIELDS.len()],
    /// What is wrong though the JSON is well formed; the reading goes on to the end all the same.
    fault: Option<ReplyFault>,
}

impl Fields {
    fn value(&self, name: &str) -> Option<&Json> {
        let index = FIELDS.iter().position(|field| *field == name)?;
        self.values[index].as_ref()
    }

    /// The text of a field that goes by any of these names. Null and the empty string count as absent.
    fn text(&self, names: &[&'static str]) -> Result<Option<String>, ReplyFault> {
        let mut found: Option<&String> = None;
        for &name in names {
            match (self.value(name), found) {
                (None | Some(Json::Null), _) => {}
                (Some(Json::Text(text)), _) if text.is_empty() => {}
                (Some(Json::Text(text)), None) => found = Some(text),
                (Some(Json::Text(text)), Some(other)) if text.eq_ignore_ascii_case(other) => {}
                (Some(Json::Text(_)), Some(_)) => return Err(ReplyFault::Contradiction(name)),
                (Some(_), _) => return Err(ReplyFault::NotText(name)),
            }
        }
        Ok(found.cloned())
    }

    /// Keeps a field. A token goes into its [`Secret`] without being copied.
    fn keep(&mut self, name: &'static str, value: Json) {
        let twice = if let Some(index) = FIELDS.iter().position(|field| *field == name) {
            self.values[index].replace(value).is_some()
        } else {
            let token = match value {
                Json::Text(text) => Secret::new(text),
                Json::Null => Secret::default(),
                _ => {
                    self.fault.get_or_insert(ReplyFault::NotText(name));
                    Secret::default()
                }
            };
            self.token.replace(token).is_some()
        };
        if twice {
            self.fault.get_or_insert(ReplyFault::Duplicate(name));
        }
    }
}

/// Reads a reply, or an array that begins with one.
///
/// The token is copied once, out of the body and into its [`Secret`]. (If it is written with escapes, which no endpoint
/// is known to do, the JSON parser unescapes it in a buffer of its own.) Fields that are not kept are not copied.
struct Reply {
    may_be_array: bool,
}

impl<'de> DeserializeSeed<'de> for Reply {
    type Value = Fields;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Fields, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// Refuses what is not an object. The default methods would do so too, but they print what they refuse, and the code
/// that prints floating-point numbers makes the component 30 KB larger.
macro_rules! refuse {
    ($($visit:ident($($argument:ty)?)),*) => {$(
        fn $visit<E: de::Error>(self $(, _: $argument)?) -> Result<Fields, E> {
            Err(E::custom("not an object"))
        }
    )*};
}

impl<'de> Visitor<'de> for Reply {
    type Value = Fields;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a token reply")
    }

    refuse!(
        visit_unit(),
        visit_bool(bool),
        visit_u64(u64),
        visit_i64(i64),
        visit_f64(f64),
        visit_str(&str)
    );

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::default();
        while let Some(Name(name)) = map.next_key()? {
            match name {
                Some(name) => fields.keep(name, map.next_value::<Scalar>()?.0),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(fields)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Fields, A::Error> {
        if !self.may_be_array {
            return Err(A::Error::custom("an array in an array"));
        }
        let Some(first) = items.next_element_seed(Self { may_be_array: false })? else {
            return Ok(Fields {
                fault: Some(ReplyFault::NoReplies),
                ..Fields::default()
            });
        };
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(first)
    }
}

/// The name of a field, `None` when it is one that is not kept.
struct Name(Option<&'static str>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;

        impl Visitor<'_> for NameVisitor {
            type Value = Name;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a field name")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Name, E> {
                let mut known = FIELDS.into_iter().chain([TOKEN_FIELD]);
                Ok(Name(known.find(|field| *field == name)))
            }
        }

        deserializer.deserialize_str(NameVisitor)
    }
}

/// A JSON value of which only null, numbers and strings matter. Any other is stepped over and stands as a Boolean, so
/// that no nesting or number of small items costs memory.
struct Scalar(Json);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScalarVisitor;

        impl<'de> Visitor<'de> for ScalarVisitor {
            type Value = Scalar;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("any value")
            }

            fn visit_unit<E>(self) -> Result<Scalar, E> {
                Ok(Scalar(Json::Null))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Scalar, E> {
                Ok(Scalar(Json::Bool))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
                Ok(Scalar(Json::Whole(number)))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar(Json::Number(number as f64)))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Scalar, E> {
                Ok(Scalar(Json::Number(number)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar(Json::Text(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Scalar, A::Error> {
                IgnoredAny.visit_seq(items).map(|_| Scalar(Json::Bool))
            }

            fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Scalar, A::Error> {
                IgnoredAny.visit_map(entries).map(|_| Scalar(Json::Bool))
            }
        }

        deserializer.deserialize_any(ScalarVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;
    const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl";

    /// A reply with this token's field and `more` fields.
    fn reply(more: &str) -> Result<TokenReply, ReplyFault> {
        parse(
            format!(r#"{{"access_token":"{TOKEN}","expires_in":3600{more}}}"#).as_bytes(),
            NOW,
        )
    }

    fn fault(body: &str) -> Option<ReplyFault> {
        parse(body.as_bytes(), NOW).err()
    }

    #[test]
    fn the_reply_of_the_metadata_service_is_read() {
        let body = format!(
            r#"{{"access_token":"{TOKEN}","client_id":"11111111-2222-3333-4444-555555555555","expires_in":"86399",
                "expires_on":"1700086399","ext_expires_in":"86399","not_before":"1699999700","refresh_token":"",
                "resource":"https://vault.azure.net","token_type":"Bearer"}}"#
        );
        let reply = parse(body.as_bytes(), NOW).expect("a good reply");
        assert_eq!(reply.token.expose(), TOKEN);
        assert_eq!(reply.token_type, "Bearer");
        assert_eq!(reply.expires_on, NOW + 86_399);
        assert_eq!(reply.refresh_in, None);
        assert_eq!(reply.not_before, Some(NOW - 300));
        assert_eq!(reply.resource.as_deref(), Some("https://vault.azure.net"));
        assert_eq!(reply.client_id.as_deref(), Some("11111111-2222-3333-4444-555555555555"));
        assert_eq!((reply.object_id, reply.resource_id), (None, None));
    }

    #[test]
    fn token_and_expiry_are_enough() {
        let reply = reply("").expect("a good reply");
        assert_eq!((reply.token_type.as_str(), reply.expires_on), ("Bearer", NOW + 3600));
        assert_eq!((reply.refresh_in, reply.not_before), (None, None));
        assert_eq!((reply.resource, reply.client_id), (None, None));
    }

    #[test]
    fn a_printed_reply_does_not_show_the_token() {
        let reply = reply("").expect("a good reply");
        assert!(!format!("{reply:?}").contains(TOKEN));
    }

    #[test]
    fn fields_of_no_interest_may_be_anything_and_occur_twice() {
        for more in [
            r#","scope":"a","scope":"b""#,
            r#","id_token":null,"extra":{"access_token":"other","a":[1,2,{"b":-1.5e3}]}"#,
            r#","Access_Token":"other","EXPIRES_IN":0,"Token_Type":"pop""#,
            r#","":"","\u0000":1e400"#,
        ] {
            let reply = reply(more).unwrap_or_else(|fault| panic!("{more}: {fault}"));
            assert_eq!(reply.token.expose(), TOKEN, "{more}");
        }
    }

    #[test]
    fn a_body_that_is_no_token_reply_is_told_apart() {
        let long = " ".repeat(MAX_REPLY_BYTES + 1);
        for (body, expected) in [
            ("", ReplyFault::Empty),
            ("\u{feff} \r\n", ReplyFault::Empty),
            (long.as_str(), ReplyFault::TooLong),
            (
                "<!DOCTYPE html><html><title>Sign in</title>",
                ReplyFault::NotJson { html: true },
            ),
            ("\u{feff}\n <html>", ReplyFault::NotJson { html: true }),
            ("Bad gateway", ReplyFault::NotJson { html: false }),
            ("access_token=abc&expires_in=3600", ReplyFault::NotJson { html: false }),
            ("not", ReplyFault::NotJson { html: false }),
            ("\"abc", ReplyFault::NotJson { html: false }),
            ("\"eyJhbGciOiJSUzI1NiJ9\"", ReplyFault::NotAnObject),
            ("3600", ReplyFault::NotAnObject),
            ("-1.5", ReplyFault::NotAnObject),
            ("null", ReplyFault::NotAnObject),
            ("true", ReplyFault::NotAnObject),
            ("{", ReplyFault::CutShort),
            (r#"{"access_token":"abc"#, ReplyFault::CutShort),
            (r#"{"access_token":"abc","expires_in":3600"#, ReplyFault::CutShort),
            (r#"[{"access_token":"abc","expires_in":3600}"#, ReplyFault::CutShort),
            (r#"{"access_token":"abc","expires_in":3600,}"#, ReplyFault::BrokenJson),
            (r#"{"access_token":"abc","expires_in":3600} x"#, ReplyFault::BrokenJson),
            (r#"{"access_token":"abc","expires_in":3600}{}"#, ReplyFault::BrokenJson),
            (
                "{\"access_token\":\"a\nb\",\"expires_in\":3600}",
                ReplyFault::BrokenJson,
            ),
            (r#"{access_token:"abc"}"#, ReplyFault::BrokenJson),
            ("{}", ReplyFault::NoToken),
            (r#"{"error":"invalid_request"}"#, ReplyFault::NoToken),
        ] {
            assert_eq!(fault(body), Some(expected), "{body:.60}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_refused_wherever_they_are() {
        let good = format!(r#"{{"access_token":"{TOKEN}","expires_in":3600,"other":"?"}}"#);
        assert!(parse(good.as_bytes(), NOW).is_ok());
        for position in [2, 20, good.len() - 3] {
            let mut body = good.clone().into_bytes();
            body[position] = 0xFF;
            assert_eq!(parse(&body, NOW).err(), Some(ReplyFault::NotUtf8), "at {position}");
        }
        assert_eq!(
            parse(b"<html>\xFF", NOW).err(),
            Some(ReplyFault::NotJson { html: true })
        );
    }

    #[test]
    fn a_byte_order_mark_and_white_space_do_no_harm() {
        let body = format!("\u{feff}\r\n {{\"access_token\":\"{TOKEN}\",\"expires_in\":3600}}\n");
        assert!(parse(body.as_bytes(), NOW).is_ok());
    }

    #[test]
    fn the_first_reply_of_an_array_counts() {
        let item = |token| format!(r#"{{"access_token":"{token}","expires_in":3600}}"#);
        for body in [
            format!("[{}]", item("first")),
            format!("[{},{},null,[]]", item("first"), item("second")),
        ] {
            let reply = parse(body.as_bytes(), NOW).expect("a good reply");
            assert_eq!(reply.token.expose(), "first");
        }
        for (body, expected) in [
            ("[]", ReplyFault::NoReplies),
            ("[null]", ReplyFault::NotAnObject),
            ("[5]", ReplyFault::NotAnObject),
            (
                r#"["abc",{"access_token":"abc","expires_in":3600}]"#,
                ReplyFault::NotAnObject,
            ),
            (
                r#"[[{"access_token":"abc","expires_in":3600}]]"#,
                ReplyFault::NotAnObject,
            ),
            ("[{}]", ReplyFault::NoToken),
        ] {
            assert_eq!(fault(body), Some(expected), "{body}");
        }
    }

    #[test]
    fn a_field_given_twice_makes_the_reply_ambiguous() {
        for field in FIELDS {
            let twice = format!(r#","{field}":null,"{field}":null"#);
            let twice = match field {
                "expires_in" => r#","expires_in":3600"#.to_owned(),
                _ => twice,
            };
            assert_eq!(reply(&twice).err(), Some(ReplyFault::Duplicate(field)));
        }
        let again = format!(r#","access_token":"{TOKEN}""#);
        assert_eq!(reply(&again).err(), Some(ReplyFault::Duplicate("access_token")));
        let escaped = r#","\u0061ccess_token":null"#;
        assert_eq!(reply(escaped).err(), Some(ReplyFault::Duplicate("access_token")));
    }

    #[test]
    fn only_a_token_that_fits_a_header_is_accepted() {
        let body = |token: &str| format!(r#"{{"access_token":{token},"expires_in":3600}}"#);
        let longest = format!("\"{}\"", "a".repeat(MAX_TOKEN_BYTES));
        let too_long = format!("\"{}\"", "a".repeat(MAX_TOKEN_BYTES + 1));
        for (token, expected) in [
            (r#""x""#, None),
            (r#""!#$%&'()*+,-./:;<=>?@[]^_`{|}~""#, None),
            (r#""a\/b\u0063""#, None),
            (longest.as_str(), None),
            (too_long.as_str(), Some(ReplyFault::TokenTooLong)),
            (r#""""#, Some(ReplyFault::NoToken)),
            ("null", Some(ReplyFault::NoToken)),
            ("5", Some(ReplyFault::NotText("access_token"))),
            ("true", Some(ReplyFault::NotText("access_token"))),
            (r#"["abc"]"#, Some(ReplyFault::NotText("access_token"))),
            (r#"{"value":"abc"}"#, Some(ReplyFault::NotText("access_token"))),
            (r#"" ""#, Some(ReplyFault::TokenNotVisibleAscii)),
            (r#""abc ""#, Some(ReplyFault::TokenNotVisibleAscii)),
            (r#""a b""#, Some(ReplyFault::TokenNotVisibleAscii)),
            (r#""abc\r\nX-Injected: 1""#, Some(ReplyFault::TokenNotVisibleAscii)),
            (r#""abc\u0000""#, Some(ReplyFault::TokenNotVisibleAscii)),
            (r#""abc\u007f""#, Some(ReplyFault::TokenNotVisibleAscii)),
            (r#""abç""#, Some(ReplyFault::TokenNotVisibleAscii)),
        ] {
            assert_eq!(fault(&body(token)), expected, "{token:.40}");
        }
    }

    #[test]
    fn only_bearer_tokens_are_accepted() {
        for (token_type, expected) in [
            (r#""Bearer""#, None),
            (r#""bearer""#, None),
            (r#""BEARER""#, None),
            (r#""""#, None),
            ("null", None),
            (r#""mtls_pop""#, Some(ReplyFault::NotBearer)),
            (r#""pop""#, Some(ReplyFault::NotBearer)),
            (r#""Bearer ""#, Some(ReplyFault::NotBearer)),
            (r#""Bearer, pop""#, Some(ReplyFault::NotBearer)),
            ("1", Some(ReplyFault::NotText("token_type"))),
        ] {
            let got = reply(&format!(r#","token_type":{token_type}"#));
            assert_eq!(got.as_ref().err().copied(), expected, "{token_type}");
            assert!(got.is_err() || got.is_ok_and(|reply| reply.token_type == "Bearer"));
        }
    }

    #[test]
    fn a_reply_without_a_usable_expiry_is_refused() {
        for (fields, expected) in [
            ("", ReplyFault::NoExpiry),
            (r#","expires_in":null,"expires_on":"""#, ReplyFault::NoExpiry),
            (
                r#","expires_in":[3600],"expires_on":{"seconds":1}"#,
                ReplyFault::NoExpiry,
            ),
            (r#","expires_on":"15609740s28""#, ReplyFault::NoExpiry),
            (r#","expires_in":-1"#, ReplyFault::NoExpiry),
            (r#","expires_in":0"#, ReplyFault::Expired),
            (r#","expires_in":"0","expires_on":"1800000000""#, ReplyFault::Expired),
            (r#","expires_on":1700000000"#, ReplyFault::Expired),
            (r#","expires_on":"06/20/2019 02:57:58 +00:00""#, ReplyFault::Expired),
        ] {
            assert_eq!(
                fault(&format!(r#"{{"access_token":"abc"{fields}}}"#)),
                Some(expected),
                "{fields}"
            );
        }
    }

    #[test]
    fn a_refresh_hint_within_the_life_of_the_token_is_kept() {
        for (hint, expected) in [
            ("1", Some(1)),
            (r#""1800""#, Some(1800)),
            ("1800.9", Some(1800)),
            ("3600", Some(3600)),
            ("3601", None),
            ("0", None),
            ("-1", None),
            ("18446744073709551615", None),
            (r#""soon""#, None),
            ("null", None),
            ("[]", None),
        ] {
            let reply = reply(&format!(r#","refresh_in":{hint}"#)).expect("a hint does no harm");
            assert_eq!(reply.refresh_in, expected, "{hint}");
        }
    }

    #[test]
    fn a_token_of_the_future_is_refused_beyond_the_skew_of_clocks() {
        for (not_before, expected) in [
            ("0", Ok(Some(0))),
            ("1700000000", Ok(Some(NOW))),
            (r#""1700000300""#, Ok(Some(NOW + NOT_BEFORE_SKEW))),
            ("1700000301", Err(ReplyFault::NotYetValid)),
            (r#""2023-11-14T22:13:20Z""#, Ok(Some(NOW))),
            (r#""3333-11-22T04:05:06.000Z""#, Err(ReplyFault::NotYetValid)),
            (r#""unknown""#, Ok(None)),
            ("-5", Ok(None)),
            ("null", Ok(None)),
        ] {
            let got = reply(&format!(r#","not_before":{not_before}"#));
            assert_eq!(got.map(|reply| reply.not_before), expected, "{not_before}");
        }
    }

    #[test]
    fn the_identity_is_read_under_each_of_its_names() {
        let ids = |more: &str| reply(more).map(|reply| (reply.client_id, reply.object_id, reply.resource_id));
        let some = |text: &str| Some(text.to_owned());
        for (more, expected) in [
            (
                r#","client_id":"c","object_id":"o","msi_res_id":"r""#,
                (some("c"), some("o"), some("r")),
            ),
            (r#","oid":"o","mi_res_id":"r""#, (None, some("o"), some("r"))),
            (r#","principal_id":"o""#, (None, some("o"), None)),
            (
                r#","object_id":"","oid":null,"principal_id":"o""#,
                (None, some("o"), None),
            ),
            (r#","object_id":"ab","oid":"AB""#, (None, some("ab"), None)),
            (r#","client_id":"","object_id":"","msi_res_id":"""#, (None, None, None)),
            (r#","client_id":null"#, (None, None, None)),
            (r#","clientId":"c","Object_Id":"o","mi_res_ID":"r""#, (None, None, None)),
        ] {
            assert_eq!(ids(more), Ok(expected), "{more}");
        }
        for (more, expected) in [
            (r#","object_id":"a","oid":"b""#, ReplyFault::Contradiction("oid")),
            (
                r#","oid":"a","principal_id":"b""#,
                ReplyFault::Contradiction("principal_id"),
            ),
            (
                r#","msi_res_id":"a","mi_res_id":"b""#,
                ReplyFault::Contradiction("mi_res_id"),
            ),
            (r#","client_id":7"#, ReplyFault::NotText("client_id")),
            (
                r#","resource":["https://vault.azure.net"]"#,
                ReplyFault::NotText("resource"),
            ),
        ] {
            assert_eq!(ids(more), Err(expected), "{more}");
        }
    }

    #[test]
    fn deep_nesting_does_not_exhaust_the_stack() {
        const DEPTH: usize = 100_000;
        let deep = format!("{}{}", "[".repeat(DEPTH), "]".repeat(DEPTH));
        assert_eq!(fault(&deep), Some(ReplyFault::NotAnObject));
        assert!(
            reply(&format!(r#","other":{deep}"#)).is_ok(),
            "ignored without recursion"
        );
        assert!(fault(&"[".repeat(MAX_REPLY_BYTES)).is_some());
        assert!(fault(&r#"{"a":"#.repeat(MAX_REPLY_BYTES / 5)).is_some());
        for field in ["access_token", "expires_on", "client_id"] {
            let body = format!(r#"{{"{field}":{deep}}}"#);
            assert!(fault(&body).is_some(), "{field}");
        }
    }

    #[test]
    fn the_sentences_state_the_limits_as_they_are() {
        let kib = |bytes: usize| format!("longer than {} KiB", bytes / 1024);
        assert!(ReplyFault::TooLong.to_string().ends_with(&kib(MAX_REPLY_BYTES)));
        assert!(ReplyFault::TokenTooLong.to_string().ends_with(&kib(MAX_TOKEN_BYTES)));
        assert_eq!(ReplyFault::Duplicate("oid").to_string(), "the reply has oid twice");
    }
}
