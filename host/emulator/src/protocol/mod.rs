//! The identity sources that the emulator plays, one file each.
//!
//! A source is an [`Endpoint`]: a path, the environment that leads a client there, and a function from request to
//! reply. To add one, write its file and add its line to [`ENDPOINTS`] and its name to [`Source`].

mod app_service;
mod imds;

use std::io;

use http::{HeaderMap, Method, StatusCode};
use serde::{Deserialize, Serialize};

use crate::identities::{Identities, Identity};
use crate::query::Query;
use crate::reply::Reply;
use crate::settings::Settings;
use crate::token::{Issued, Issuer};
use crate::unique::{HeaderSecret, Unique};

/// An identity source: the protocol that a client speaks to get a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The instance metadata service of virtual machines.
    Imds,
    /// App Service, Functions and Container Apps, version 2019-08-01.
    AppService,
}

/// How the emulator plays one source.
pub(crate) struct Endpoint {
    pub source: Source,
    pub path: &'static str,
    /// Whether the throttle of [`Settings::rate_limit`] applies.
    pub rate_limited: bool,
    /// The variables that lead a client here.
    pub environment: fn(&Addresses<'_>) -> Vec<(&'static str, String)>,
    pub answer: fn(&TokenRequest<'_>, &Platform<'_>) -> Reply,
}

/// Every source.
pub(crate) static ENDPOINTS: &[Endpoint] = &[imds::ENDPOINT, app_service::ENDPOINT];

/// What a client's environment is made of.
pub(crate) struct Addresses<'a> {
    pub base_url: &'a str,
    pub header_secret: &'a HeaderSecret,
}

/// A request to a token endpoint.
pub(crate) struct TokenRequest<'a> {
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
    pub query: &'a Query,
}

/// The machine that a source runs on, at the moment of a request.
pub(crate) struct Platform<'a> {
    pub identities: &'a Identities,
    pub settings: &'a Settings,
    pub issuer: Issuer<'a>,
    pub header_secret: &'a HeaderSecret,
    pub unique: &'a Unique,
}

impl Platform<'_> {
    pub(crate) fn issue(&self, identity: &Identity, resource: &str) -> io::Result<Issued> {
        self.issuer.issue(identity, resource, &self.unique.short_id())
    }
}

impl TokenRequest<'_> {
    /// The value of a parameter that must say something.
    fn required(&self, name: &str) -> Option<&str> {
        self.query.get(name).filter(|value| !value.is_empty())
    }
}

/// The answer to any method but GET (RFC 9110, section 15.5.6).
fn method_not_allowed(body: &impl Serialize) -> Reply {
    Reply::json(StatusCode::METHOD_NOT_ALLOWED, body).with(http::header::ALLOW, "GET")
}
