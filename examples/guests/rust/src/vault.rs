//! The vault, over `wasi:http` ("Get Secret", Azure Key Vault REST API).

use crate::error::Error;
use serde_json::Value;
use std::io::Read as _;
use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{ErrorCode, Fields, IncomingResponse, OutgoingRequest, Scheme};

pub(crate) struct Vault {
    scheme: Scheme,
    authority: String,
}

/// What the vault answers.
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// What a new token has to prove, in base64, where the vault says that.
    pub(crate) claims_challenge: Option<String>,
    /// Empty but for status 200.
    body: Vec<u8>,
}

impl Vault {
    /// None where this is not a scheme and an authority.
    pub(crate) fn at(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let scheme = match scheme {
            "https" => Scheme::Https,
            "http" => Scheme::Http,
            _ => return None,
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        // A host and a port. A user before them would make it look like another one.
        let is_out_of_place = |letter: char| !letter.is_ascii_alphanumeric() && !"._-:[]".contains(letter);
        let is_authority = !authority.is_empty() && !authority.contains(is_out_of_place);
        is_authority.then(|| Self {
            scheme,
            authority: authority.into(),
        })
    }

    pub(crate) fn get(&self, secret: &str, authorization: &str) -> Result<Reply, Error> {
        let headers = Fields::new();
        let fields = [("authorization", authorization), ("accept", "application/json")];
        for (name, value) in fields {
            headers
                .append(name, value.as_bytes())
                .map_err(|error| Error::NoAnswer(error.to_string()))?;
        }
        let request = OutgoingRequest::new(headers);
        let path = format!("/secrets/{}?api-version=7.4", encoded(secret));
        request
            .set_scheme(Some(&self.scheme))
            .and_then(|()| request.set_authority(Some(&self.authority)))
            .and_then(|()| request.set_path_with_query(Some(&path)))
            .map_err(|()| no_answer(ErrorCode::HttpRequestUriInvalid))?;
        let pending = handle(request, None).map_err(no_answer)?;
        pending.subscribe().block();
        match pending.get() {
            Some(Ok(response)) => Reply::read(response.map_err(no_answer)?),
            // It is there, and nobody else has taken it.
            Some(Err(())) | None => Err(no_answer(ErrorCode::InternalError(None))),
        }
    }
}

impl Reply {
    fn read(response: IncomingResponse) -> Result<Self, Error> {
        let status = response.status();
        let mut body = Vec::new();
        if status == 200 {
            // The body is there until it is taken.
            let incoming = response.consume().map_err(|()| Error::NotASecret)?;
            let mut stream = incoming.stream().map_err(|()| Error::NotASecret)?;
            stream
                .read_to_end(&mut body)
                .map_err(|error| Error::NoAnswer(error.to_string()))?;
        }
        let challenges = response.headers().get("www-authenticate");
        Ok(Self {
            status,
            claims_challenge: challenges.iter().find_map(|challenge| claims(challenge)),
            body,
        })
    }

    /// The name of the secret that it is. Its value is nobody's business here.
    pub(crate) fn secret_name(&self) -> Result<String, Error> {
        if self.status != 200 {
            return Err(Error::Status(self.status));
        }
        let body: Value = serde_json::from_slice(&self.body).map_err(|_| Error::NotASecret)?;
        let (_, name) = body["id"]
            .as_str()
            .and_then(|id| id.split_once("/secrets/"))
            .ok_or(Error::NotASecret)?;
        Ok(name.split('/').take(1).collect())
    }
}

/// As a part of a path, where it cannot be more than one.
fn encoded(name: &str) -> String {
    let mut encoded = String::new();
    for byte in name.bytes() {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// What is in `claims="…"` of a challenge. The name has no case (RFC 9110, section 11.2), and may be
/// the end of another one.
fn claims(challenge: &[u8]) -> Option<String> {
    const NAME: &str = "claims=\"";
    let challenge = String::from_utf8_lossy(challenge);
    let in_lower_case = challenge.to_ascii_lowercase();
    let goes_on = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let mut places = in_lower_case.match_indices(NAME).map(|(place, _)| place);
    let place = places.find(|place| !in_lower_case[..*place].ends_with(goes_on))?;
    let (claims, _) = challenge[place + NAME.len()..].split_once('"')?;
    Some(claims.into())
}

fn no_answer(code: ErrorCode) -> Error {
    Error::NoAnswer(code.to_string())
}
