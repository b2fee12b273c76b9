//! What an access token says of itself. Nothing is verified.
//!
//! A token for an Azure service is normally a JSON Web Token (RFC 7519) in the compact form of a JSON Web Signature
//! (RFC 7515, section 7.1): header, payload and signature, each in base64url, joined by dots. To the client it is
//! opaque by contract and may be encrypted or no JWT at all, so its claims serve for display and diagnosis only.
//!
//! A claim of another type than the standard gives it counts as absent. Where a name occurs twice the last one counts
//! (RFC 7519, section 4).

use crate::error::{Cause, Error};
use crate::expiry::seconds;
use crate::json::{Json, Object, field};
use crate::reply::MAX_TOKEN_BYTES;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

/// The claims that Microsoft Entra ID puts into access tokens, and the payload they were read from.
/// Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// `iss`: who issued the token.
    pub issuer: Option<String>,
    /// `aud`: for whom it was issued.
    pub audiences: Vec<String>,
    /// `sub`: about whom it speaks.
    pub subject: Option<String>,
    /// `tid`: the directory (tenant) of the identity.
    pub tenant_id: Option<String>,
    /// `oid`: the object id of the identity's service principal.
    pub object_id: Option<String>,
    /// `appid` (tokens of version 1.0), else `azp` (2.0): the client (application) id of the identity.
    pub application_id: Option<String>,
    /// `xms_mirid`: the resource id of a managed identity.
    pub resource_id: Option<String>,
    /// `idtyp`: `app` where the token is not a person's.
    pub identity_type: Option<String>,
    /// `roles`: the application roles that were granted.
    pub roles: Vec<String>,
    /// `iat`: when it was issued.
    pub issued_at: Option<u64>,
    /// `nbf`: from when on it is valid.
    pub not_before: Option<u64>,
    /// `exp`: from when on it is worthless.
    pub expires_on: Option<u64>,
    /// The whole payload, as it is in the token.
    pub json: String,
}

/// Reads the claims of a token. White space around it is ignored.
///
/// # Errors
///
/// `invalid-request` when `token` is not a JSON Web Token whose payload can be read. The message shows nothing of it.
pub fn decode(token: &str) -> Result<Claims, Error> {
    let (object, json) = read_part(parts(token)?[1], "payload")?;
    let text = |name: &str| field(&object, name).and_then(Json::as_text).map(str::to_owned);
    let time = |name: &str| field(&object, name).and_then(seconds);
    Ok(Claims {
        issuer: text("iss"),
        audiences: list(field(&object, "aud")),
        subject: text("sub"),
        tenant_id: text("tid"),
        object_id: text("oid"),
        application_id: text("appid").or_else(|| text("azp")),
        resource_id: text("xms_mirid"),
        identity_type: text("idtyp"),
        roles: list(field(&object, "roles")),
        issued_at: time("iat"),
        not_before: time("nbf"),
        expires_on: time("exp"),
        json,
    })
}

/// Reads the header of a token, as JSON text.
///
/// # Errors
///
/// As [`decode`], for the header.
pub fn decode_header(token: &str) -> Result<String, Error> {
    read_part(parts(token)?[0], "header").map(|(_, json)| json)
}

/// Header, payload and signature.
fn parts(token: &str) -> Result<[&str; 3], Error> {
    let token = token.trim_ascii();
    if token.is_empty() {
        return Err(refusal("there is no token to decode"));
    }
    if token.len() > MAX_TOKEN_BYTES {
        return Err(refusal(
            "what was given to decode is longer than 64 KiB, which no token is",
        ));
    }
    if token.contains(|c: char| c.is_ascii_whitespace()) {
        return Err(refusal(
            "what was given to decode has white space in it; give the token alone, without \"Bearer\"",
        ));
    }
    match token.split('.').count() {
        3 => {}
        5 => return Err(refusal("the token is encrypted (JWE); only its audience can read it")),
        1 => {
            return Err(refusal(
                "the token is opaque: it is not a JSON Web Token and has no claims to read",
            ));
        }
        _ => {
            return Err(refusal(
                "the token is not a JSON Web Token, which has three parts with dots between; is it whole?",
            ));
        }
    }
    let mut parts = token.split('.');
    Ok(std::array::from_fn(|_| parts.next().unwrap_or_default()))
}

fn read_part(part: &str, name: &str) -> Result<(Object, String), Error> {
    let refuse = |what| refusal(&format!("the {name} of the token is not {what}; is the token whole?"));
    // RFC 7515 forbids the padding, some issuers of test tokens add it.
    let bytes = BASE64_URL_SAFE_NO_PAD
        .decode(part.trim_end_matches('='))
        .map_err(|_| refuse("base64url"))?;
    let json = String::from_utf8(bytes).map_err(|_| refuse("UTF-8 text"))?;
    match serde_json::from_str(&json) {
        Ok(Json::Object(object)) => Ok((object, json)),
        Ok(_) => Err(refuse("a JSON object")),
        Err(_) => Err(refuse("JSON")),
    }
}

/// A claim that is a string or an array of strings.
fn list(claim: Option<&Json>) -> Vec<String> {
    let items = match claim {
        Some(Json::List(items)) => items.as_slice(),
        Some(item) => std::slice::from_ref(item),
        None => &[],
    };
    items.iter().filter_map(Json::as_text).map(str::to_owned).collect()
}

fn refusal(message: &str) -> Error {
    Error::new(Cause::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{failure_body, reply};

    const HEADER: &str = r#"{"typ":"JWT","alg":"RS256","kid":"k1"}"#;

    fn token(payload: &[u8]) -> String {
        let encode = |part: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(part);
        format!("{}.{}.c2lnbmF0dXJl", encode(HEADER.as_bytes()), encode(payload))
    }

    fn claims(payload: &str) -> Claims {
        decode(&token(payload.as_bytes())).unwrap_or_else(|error| panic!("{payload}: {error}"))
    }

    #[test]
    fn the_claims_of_a_managed_identity_are_read() {
        let payload = r#"{"aud":"https://vault.azure.net","iss":"https://sts.windows.net/t/","iat":1700000000,
            "nbf":1700000001,"exp":1700086400,"appid":"a","idtyp":"app","oid":"o","roles":["Reader","Writer"],
            "sub":"s","tid":"t","xms_mirid":"/subscriptions/x","extra":{"deep":[1]}}"#;
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            claims(payload),
            Claims {
                issuer: some("https://sts.windows.net/t/"),
                audiences: vec!["https://vault.azure.net".to_owned()],
                subject: some("s"),
                tenant_id: some("t"),
                object_id: some("o"),
                application_id: some("a"),
                resource_id: some("/subscriptions/x"),
                identity_type: some("app"),
                roles: vec!["Reader".to_owned(), "Writer".to_owned()],
                issued_at: Some(1_700_000_000),
                not_before: Some(1_700_000_001),
                expires_on: Some(1_700_086_400),
                json: payload.to_owned(),
            }
        );
    }

    #[test]
    fn a_payload_without_claims_has_none() {
        let claims = claims("{}");
        assert_eq!(
            (&claims.issuer, &claims.application_id, claims.expires_on),
            (&None, &None, None)
        );
        assert!(claims.audiences.is_empty() && claims.roles.is_empty());
        assert_eq!(claims.json, "{}");
    }

    #[test]
    fn lists_may_be_single_strings_and_lose_what_is_no_string() {
        for (claim, expected) in [
            (r#""a""#, &["a"] as &[_]),
            (r#"["a","b"]"#, &["a", "b"]),
            (r#"["a",1,null,["c"],{"d":"e"},"b"]"#, &["a", "b"]),
            ("[]", &[]),
            ("null", &[]),
            ("7", &[]),
            (r#"{"a":"b"}"#, &[]),
        ] {
            let claims = claims(&format!(r#"{{"aud":{claim},"roles":{claim}}}"#));
            assert_eq!(claims.audiences, expected, "{claim}");
            assert_eq!(claims.roles, expected, "{claim}");
        }
    }

    #[test]
    fn times_may_be_whole_fractional_or_text() {
        for (time, expected) in [
            ("1700000000", Some(1_700_000_000)),
            ("1700000000.75", Some(1_700_000_000)),
            ("1.7e9", Some(1_700_000_000)),
            (r#""1700000000""#, Some(1_700_000_000)),
            ("0", Some(0)),
            ("-1", None),
            ("1e300", None),
            ("18446744073709551615", None),
            (r#""tomorrow""#, None),
            ("null", None),
            ("[1700000000]", None),
        ] {
            let claims = claims(&format!(r#"{{"iat":{time},"nbf":{time},"exp":{time}}}"#));
            let times = [claims.issued_at, claims.not_before, claims.expires_on];
            assert_eq!(times, [expected; 3], "{time}");
        }
    }

    #[test]
    fn claims_of_the_wrong_type_count_as_absent() {
        for wrong in ["1", "true", "null", r#"["x"]"#, r#"{"x":"y"}"#] {
            let names = ["iss", "sub", "tid", "oid", "appid", "xms_mirid", "idtyp"];
            let fields = names.map(|name| format!("\"{name}\":{wrong}")).join(",");
            let claims = claims(&format!(r#"{{{fields},"azp":"z"}}"#));
            let others = [
                claims.issuer,
                claims.subject,
                claims.tenant_id,
                claims.object_id,
                claims.resource_id,
                claims.identity_type,
            ];
            assert!(others.iter().all(Option::is_none), "{wrong}: {others:?}");
            assert_eq!(claims.application_id.as_deref(), Some("z"), "{wrong}");
        }
    }

    #[test]
    fn appid_goes_before_azp_and_the_last_of_equal_names_counts() {
        assert_eq!(
            claims(r#"{"azp":"z","appid":"a"}"#).application_id.as_deref(),
            Some("a")
        );
        assert_eq!(
            claims(r#"{"oid":"first","oid":"last"}"#).object_id.as_deref(),
            Some("last")
        );
    }

    #[test]
    fn the_form_of_a_token_is_read_leniently_where_that_is_harmless() {
        let good = token(br#"{"oid":"o"}"#);
        let [header, payload, _] = parts(&good).expect("three parts");
        for form in [
            good.clone(),
            format!(" \t{good}\r\n"),
            format!("{header}==.{payload}=.c2ln"),
            format!("{header}.{payload}."), // unsigned
            format!("?.{payload}.?"),       // only the payload matters
        ] {
            let claims = decode(&form).unwrap_or_else(|error| panic!("{form}: {error}"));
            assert_eq!(claims.object_id.as_deref(), Some("o"), "{form}");
        }
    }

    #[test]
    fn the_header_is_read_as_json_text() {
        assert_eq!(decode_header(&token(b"{}")).as_deref(), Ok(HEADER));
        assert_eq!(decode_header(&token(b"not read")).as_deref(), Ok(HEADER));
        let error = decode_header("bm8.e30.").expect_err("no JSON");
        assert_eq!(
            error.message,
            "the header of the token is not JSON; is the token whole?"
        );
    }

    #[test]
    fn what_is_no_readable_token_is_refused_with_the_reason() {
        let good = token(b"{}");
        let long = format!("{good}{}", "A".repeat(MAX_TOKEN_BYTES));
        let encoded = |payload: &[u8]| token(payload);
        for (input, reason) in [
            ("", "no token"),
            (" \n", "no token"),
            (long.as_str(), "longer than 64 KiB"),
            (&format!("Bearer {good}"), "without \"Bearer\""),
            (&format!("{good}\n{good}"), "white space"),
            ("SECRET-opaque-text", "opaque"),
            ("SECRET.SECRET", "three parts"),
            ("a.b.c.d", "three parts"),
            ("a.b.c.d.e", "encrypted"),
            ("a.b.c.d.e.f", "three parts"),
            ("e30..c2ln", "payload of the token is not JSON"),
            ("e30.SE*CRET.c2ln", "payload of the token is not base64url"),
            ("e30.SE+/.c2ln", "payload of the token is not base64url"),
            ("e30.A.c2ln", "payload of the token is not base64url"),
            ("e30.=e30.c2ln", "payload of the token is not base64url"),
            ("e30.é.c2ln", "payload of the token is not base64url"),
            (&encoded(b"\xFF{}"), "payload of the token is not UTF-8"),
            (&encoded(b"SECRET"), "payload of the token is not JSON"),
            (&encoded(b"{\"SECRET\":"), "payload of the token is not JSON"),
            (&encoded(b"[\"SECRET\"]"), "payload of the token is not a JSON object"),
            (&encoded(b"\"SECRET\""), "payload of the token is not a JSON object"),
            (
                &encoded("[".repeat(40_000).as_bytes()),
                "payload of the token is not JSON",
            ),
        ] {
            let error = decode(input).expect_err(reason);
            assert_eq!(error.cause, Cause::InvalidRequest, "{input:.40}");
            assert!(error.message.contains(reason), "{input:.40}: {}", error.message);
            assert!(!error.message.contains("SECRET"), "{}", error.message);
        }
    }

    /// Changes a few places of `seed`: single bytes, cuts, repetitions, and pieces that mean something to a parser.
    fn mangle(seed: &[u8], random: &mut impl FnMut(usize) -> usize) -> Vec<u8> {
        const PIECES: [&[u8]; 16] = [
            b"\"",
            b"{",
            b"}",
            b"[",
            b"]",
            b",",
            b":",
            b"\\u00",
            b"\\",
            b".",
            b"=",
            b"\xFF",
            b"\xE2\x80",
            b"-1",
            b"1e999",
            b"null",
        ];
        let mut bytes = seed.to_vec();
        for _ in 0..=random(4) {
            let at = random(bytes.len() + 1);
            match random(5) {
                0 if at < bytes.len() => bytes[at] = u8::try_from(random(256)).unwrap_or_default(),
                1 => bytes.truncate(at),
                2 => drop(bytes.drain(at..(at + random(20)).min(bytes.len()))),
                3 => {
                    let tail = bytes[at..].to_vec();
                    bytes.extend(tail);
                }
                _ => drop(bytes.splice(at..at, PIECES[random(PIECES.len())].iter().copied())),
            }
        }
        bytes
    }

    #[test]
    fn no_mangled_input_panics_and_no_failure_shows_the_token() {
        const SECRET: &str = "eyJzZWNyZXQiOiJ0b2tlbiJ9";
        let token = token(br#"{"aud":["a"],"exp":1700003600,"roles":["r"],"oid":"o","n":-1.5}"#);
        let body = format!(
            r#"[{{"access_token":"{SECRET}","expires_in":"3600","expires_on":"1/16/2030 5:24:12 AM +00:00",
                "not_before":"2023-11-14T22:13:20.000Z","token_type":"Bearer","client_id":"c","oid":"o"}}]"#
        );
        let failure = format!(
            r#"{{"error":{{"code":"c","message":"AADSTS700213: {SECRET} at https://example.com/","innererror":{{"trace":"t"}}}}}}"#
        );
        let page = format!("<html><title>Sign in</title> AADSTS1 {SECRET}");

        // A linear congruential generator (constants of Knuth's MMIX): the same inputs on every run.
        let mut state = 2_024_u64;
        let mut random = |bound: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % bound
        };
        let (mut good, mut bad) = ([0; 2], [0; 2]);
        let mut count = |which: usize, ok: bool| if ok { good[which] += 1 } else { bad[which] += 1 };

        for _ in 0..5_000 {
            let bytes = mangle(token.as_bytes(), &mut random);
            let text = String::from_utf8_lossy(&bytes);
            count(0, decode(&text).is_ok());
            let _ = decode_header(&text);

            let bytes = mangle(body.as_bytes(), &mut random);
            let parsed = reply::parse(&bytes, 1_700_000_000);
            count(1, parsed.is_ok());
            if let Err(fault) = parsed {
                assert!(!format!("{fault} {fault:?}").contains("eyJ"), "{fault}");
            }

            for seed in [&failure, &page, &body] {
                let read = failure_body::read(&mangle(seed.as_bytes(), &mut random), &[]);
                let message = read.message.as_deref().unwrap_or_default();
                assert!(message.chars().count() <= failure_body::SNIPPET_CHARS, "{message}");
                assert!(!message.contains(SECRET), "{message}");
                let _ = read.entra_code();
            }

            // The same below the base64 layer.
            let payload = mangle(
                br#"{"aud":["a","b"],"exp":17e8,"roles":"r","appid":null,"azp":"z"}"#,
                &mut random,
            );
            let _ = decode(&format!("e30.{}.", BASE64_URL_SAFE_NO_PAD.encode(payload)));
        }
        assert!(
            good.iter().chain(&bad).all(|&outcomes| outcomes > 100),
            "{good:?} {bad:?}"
        );
    }
}
