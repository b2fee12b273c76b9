//! The token endpoint of the Azure Instance Metadata Service.

use super::{Reply, Service, not_found};
use crate::connection::User;
use http::request::Parts;

pub(super) async fn answer(_request: &Parts, user: User, service: &Service) -> Reply {
    let _asker = service.asker(user);
    not_found()
}

pub(super) fn is_path(path: &str) -> bool {
    // Some clients write it with a slash at its end.
    path.strip_suffix('/').unwrap_or(path) == "/metadata/identity/oauth2/token"
}
