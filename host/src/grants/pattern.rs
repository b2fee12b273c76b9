//! What a rule compares with: audiences, identities, hosts.
//!
//! A pattern is read once, strictly, and compared often, without allocating. `*` stands for one label of a host name, as in
//! the certificates of RFC 6125 section 6.4.3, or alone for any audience. Nowhere else is it a pattern: text that has it
//! elsewhere is refused and not taken by the letter, because whoever wrote it meant more than it would allow.

mod audience;
mod host;
mod identity;

pub use audience::AudiencePattern;
pub use host::HostPattern;
pub use identity::IdentityPattern;
pub(crate) use identity::named;

use crate::outbound::{Origin, OriginFault, Scheme};
use url::Host;

/// Why a pattern is none. Reads as the end of a sentence that begins with the pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(String);

impl PatternError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl From<OriginFault> for PatternError {
    fn from(fault: OriginFault) -> Self {
        Self(fault.to_string())
    }
}

/// Reads what follows `*.`: a name of at least two labels, so that no pattern holds a whole top-level domain.
fn wildcard_domain(scheme: Scheme, authority: &str) -> Result<(String, u16), PatternError> {
    if authority.contains('*') {
        return Err(PatternError::new(
            "has more than one `*`; one, as the first label, stands for one label of the name",
        ));
    }
    let origin = Origin::parse(scheme, authority)?;
    match origin.host() {
        Host::Domain(name) if name.contains('.') => Ok((name.clone(), origin.port())),
        Host::Domain(_) => Err(PatternError::new(
            "has less than two labels after `*.`; write more of the name, such as `*.vault.azure.net`",
        )),
        Host::Ipv4(_) | Host::Ipv6(_) => Err(PatternError::new(
            "has an address after `*.`; only names have wildcards",
        )),
    }
}
