//! The HTTP variant of Envoy's external authorization.

use super::{Reply, Service, not_found};
use crate::connection::User;
use http::request::Parts;

pub(super) async fn answer(_request: &Parts, user: User, service: &Service) -> Reply {
    let _asker = service.asker(user);
    not_found()
}
