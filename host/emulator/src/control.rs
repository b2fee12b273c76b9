//! The control endpoint: what a test in another process changes and observes over HTTP, at paths that no protocol uses.
//!
//! | request | effect |
//! |---|---|
//! | `GET /control/faults` | the faults in force, with the number of requests each will still strike |
//! | `POST /control/faults` | adds one fault |
//! | `PUT /control/faults` | replaces all faults by a list |
//! | `DELETE /control/faults` | removes all faults |
//! | `GET /control/config` | the [settings](crate::Settings) |
//! | `PATCH /control/config` | changes some of them |
//! | `GET /control/identities` | the [identities](crate::Identities) |
//! | `PUT /control/identities` | replaces them |
//! | `GET /control/requests` | `{"requests": [...], "max_in_flight": n}`, the requests recorded so far |
//! | `DELETE /control/requests` | forgets them and starts counting anew |
//! | `GET /control/stats` | the [numbers](crate::Stats) |
//!
//! Bodies are JSON and must say so in `Content-Type`, without which a web page could send one across origins. A change
//! answers 204, a mistake 400 with `{"error": "..."}`. What happens here is not recorded.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::request::Parts;
use http::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::fault::{Fault, FaultDocument};
use crate::reply::Reply;
use crate::world::World;

/// The longest body taken: room for a reply of a megabyte in a fault.
pub(crate) const MAX_BODY_BYTES: usize = 2 * 1024 * 1024;

/// Whether the path belongs to the control endpoint.
pub(crate) fn owns(path: &str) -> bool {
    path == "/control" || path.starts_with("/control/")
}

/// The answer to a request whose body has been read.
pub(crate) fn answer(request: &Parts, body: &Bytes, world: &World) -> Reply {
    let subject = request.uri.path().strip_prefix("/control/").unwrap_or_default();
    let Some(allowed) = allowed_methods(subject) else {
        let message = "the control endpoint has /control/faults, config, identities, requests and stats";
        return error(StatusCode::NOT_FOUND, message);
    };
    if !allowed.split(", ").any(|method| method == request.method.as_str()) {
        return error(StatusCode::METHOD_NOT_ALLOWED, &format!("this takes {allowed}")).with(ALLOW, allowed);
    }
    if request.method == Method::GET {
        return show(subject, world);
    }
    match change(subject, request, body, world) {
        Ok(()) => Reply::empty(StatusCode::NO_CONTENT),
        Err(refusal) => refusal,
    }
}

fn allowed_methods(subject: &str) -> Option<&'static str> {
    match subject {
        "faults" => Some("GET, POST, PUT, DELETE"),
        "config" => Some("GET, PATCH"),
        "identities" => Some("GET, PUT"),
        "requests" => Some("GET, DELETE"),
        "stats" => Some("GET"),
        _ => None,
    }
}

fn show(subject: &str, world: &World) -> Reply {
    match subject {
        "faults" => {
            let faults: Vec<_> = world.faults.list().into_iter().map(FaultDocument::from).collect();
            Reply::json(StatusCode::OK, &faults)
        }
        "config" => Reply::json(StatusCode::OK, &*world.settings()),
        "identities" => Reply::json(StatusCode::OK, &*world.identities()),
        "requests" => {
            let requests = world.recorder.requests();
            let max_in_flight = world.recorder.stats().max_in_flight;
            Reply::json(
                StatusCode::OK,
                &json!({"requests": requests, "max_in_flight": max_in_flight}),
            )
        }
        _ => Reply::json(StatusCode::OK, &world.recorder.stats()),
    }
}

fn change(subject: &str, request: &Parts, body: &Bytes, world: &World) -> Result<(), Reply> {
    match (subject, &request.method) {
        ("faults", &Method::POST) => world.faults.add(fault(read(request, body)?)?),
        ("faults", &Method::PUT) => {
            let faults: Vec<FaultDocument> = read(request, body)?;
            world
                .faults
                .replace(faults.into_iter().map(fault).collect::<Result<_, _>>()?);
        }
        ("faults", _) => world.faults.replace(Vec::new()),
        ("config", _) => world.patch_settings(&read(request, body)?).map_err(bad_request)?,
        ("identities", _) => world.set_identities(read(request, body)?).map_err(bad_request)?,
        _ => world.recorder.clear(),
    }
    Ok(())
}

/// The refusal of a body that is too long or broke off.
pub(crate) fn unreadable_body() -> Reply {
    error(
        StatusCode::BAD_REQUEST,
        &format!("the body could not be read, or is longer than {MAX_BODY_BYTES} bytes"),
    )
}

fn read<T: DeserializeOwned>(request: &Parts, body: &Bytes) -> Result<T, Reply> {
    let sent = request
        .headers
        .get(CONTENT_TYPE)
        .map_or(b"".as_slice(), |value| value.as_bytes());
    let media_type = sent.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if !media_type.eq_ignore_ascii_case(b"application/json") {
        let message = "the body is JSON, so send Content-Type: application/json";
        return Err(error(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    serde_json::from_slice(body).map_err(|problem| bad_request(problem.to_string()))
}

fn fault(document: FaultDocument) -> Result<Fault, Reply> {
    document.try_into().map_err(bad_request)
}

fn bad_request(message: String) -> Reply {
    error(StatusCode::BAD_REQUEST, &message)
}

fn error(status: StatusCode, message: &str) -> Reply {
    Reply::json(status, &json!({"error": message}))
}
