//! The identity sources that the emulator plays, one file each.
//!
//! A source is an [`Endpoint`]: a path, the environment that leads a client there, and a function from request to
//! reply. To add one, write its file and add its line to [`ENDPOINTS`] and its name to [`Source`].

mod app_service;
mod app_service_2017;
mod azure_arc;
mod cloud_shell;
mod imds;
mod nmi;
mod service_fabric;
mod source;
mod workload_identity;
mod workload_identity_proxy;

use std::io;
use std::path::Path;

use http::{HeaderMap, Method, StatusCode};
use serde::Serialize;

pub use self::source::Source;
pub(crate) use self::workload_identity::SERVER_NAME as TOKEN_PROXY_SERVER_NAME;
use crate::arc_keys::ArcKeys;
use crate::arrival::Arrival;
use crate::assertion::Federation;
use crate::identities::{Identities, Identity};
use crate::query::Query;
use crate::reply::Reply;
use crate::secure::Secure;
use crate::settings::Settings;
use crate::token::{Issued, Issuer, Wanted};
use crate::token_store::TokenStore;
use crate::unique::{HeaderSecret, Unique};

/// How the emulator plays one source.
pub(crate) struct Endpoint {
    pub source: Source,
    pub place: Place,
    /// Whether it is served over TLS and refused without. All others are served on both ports.
    pub tls_only: bool,
    /// Whether the throttle of [`Settings::rate_limit`] applies.
    pub rate_limited: bool,
    /// The variables that lead a client here; none where the emulator lacks what they would have to name.
    pub environment: fn(&Addresses<'_>) -> Option<Variables>,
    pub answer: fn(&TokenRequest<'_>, &Platform<'_>) -> Reply,
}

/// Variables of an environment.
pub(crate) type Variables = Vec<(&'static str, String)>;

/// The path of an endpoint.
pub(crate) enum Place {
    /// This path.
    At(&'static str),
    /// `/{tenant}/oauth2/v2.0/token` below this path, as Entra has it.
    OfTenant(&'static str),
}

/// Every source.
pub(crate) static ENDPOINTS: &[Endpoint] = &[
    imds::ENDPOINT,
    app_service::ENDPOINT,
    app_service_2017::APP_SERVICE,
    app_service_2017::AZURE_ML,
    azure_arc::ENDPOINT,
    service_fabric::ENDPOINT,
    cloud_shell::ENDPOINT,
    workload_identity::ENTRA,
    workload_identity::TOKEN_PROXY,
    workload_identity_proxy::ENDPOINT,
    nmi::ENDPOINT,
];

/// What a client's environment is made of.
pub(crate) struct Addresses<'a> {
    pub base_url: &'a str,
    pub secure: Option<&'a Secure>,
    pub header_secret: &'a HeaderSecret,
    pub identities: &'a Identities,
    pub federated_token_file: Option<&'a Path>,
}

/// A request to a token endpoint.
pub(crate) struct TokenRequest<'a> {
    pub method: &'a Method,
    pub path: &'a str,
    pub headers: &'a HeaderMap,
    pub query: &'a Query,
    /// The body, if it is a form.
    pub form: &'a Query,
    pub arrival: &'a Arrival,
}

/// The machine that a source runs on, at the moment of a request.
pub(crate) struct Platform<'a> {
    pub source: Source,
    pub identities: &'a Identities,
    pub settings: &'a Settings,
    pub issuer: Issuer<'a>,
    pub tokens: &'a TokenStore,
    pub header_secret: &'a HeaderSecret,
    pub arc_keys: Option<&'a ArcKeys>,
    pub federation: &'a Federation,
    pub unique: &'a Unique,
}

impl Place {
    pub(crate) fn is_at(&self, path: &str) -> bool {
        match self {
            Self::At(place) => *place == path,
            Self::OfTenant(_) => self.tenant(path).is_some(),
        }
    }

    /// The tenant that a path names, if the path is here.
    fn tenant<'a>(&self, path: &'a str) -> Option<&'a str> {
        let Self::OfTenant(prefix) = self else { return None };
        let tenant = path
            .strip_prefix(prefix)?
            .strip_prefix('/')?
            .strip_suffix("/oauth2/v2.0/token")?;
        (!tenant.is_empty() && !tenant.contains('/')).then_some(tenant)
    }
}

impl Platform<'_> {
    /// A token for the resource: a new one, or, with [`Settings::repeat_tokens`], the one that was given out before.
    pub(crate) fn issue(&self, identity: &Identity, resource: &str) -> io::Result<Issued> {
        self.issue_wanted(&Wanted::new(identity, resource), None)
    }

    /// As [`issue`](Self::issue), but never the token that has this hash (SHA-256, in hexadecimal).
    pub(crate) fn issue_wanted(&self, wanted: &Wanted<'_>, revoked: Option<&str>) -> io::Result<Issued> {
        if !self.settings.repeat_tokens {
            return self.issue_new(wanted);
        }
        self.tokens
            .give(self.source, wanted, revoked, self.issuer.now, || self.issue_new(wanted))
    }

    /// A new token in any case.
    pub(crate) fn issue_new(&self, wanted: &Wanted<'_>) -> io::Result<Issued> {
        self.issuer.issue(wanted, &self.unique.short_id())
    }
}

impl TokenRequest<'_> {
    /// The value of a parameter that must say something.
    fn required(&self, name: &str) -> Option<&str> {
        self.query.get(name).filter(|value| !value.is_empty())
    }

    /// The value of a member of the form that must say something.
    fn required_in_form(&self, name: &str) -> Option<&str> {
        self.form.get(name).filter(|value| !value.is_empty())
    }

    fn has_metadata_header(&self) -> bool {
        self.headers
            .get("metadata")
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
    }
}

/// The answer to any method but GET (RFC 9110, section 15.5.6).
fn method_not_allowed(body: &impl Serialize) -> Reply {
    Reply::json(StatusCode::METHOD_NOT_ALLOWED, body).with(http::header::ALLOW, "GET")
}

/// The answer to any method but POST.
fn only_post(body: &impl Serialize) -> Reply {
    Reply::json(StatusCode::METHOD_NOT_ALLOWED, body).with(http::header::ALLOW, "POST")
}
