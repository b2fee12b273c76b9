//! `managed-identity-host`, in the shape of the peers that it is compared with.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

#[expect(unreachable_pub, reason = "a library for others")]
#[path = "../../../tests/peers/bench-rust/src/lib.rs"]
mod measured;

use managed_identity_host::{Broker, TokenRequest};
use measured::{Client, Failure, run};

struct ManagedIdentity(Broker);

impl Client for ManagedIdentity {
    type Credential = TokenRequest;

    fn new() -> Result<Self, Failure> {
        Ok(Self(Broker::from_environment()?))
    }

    fn credential(&self, audience: &str) -> Result<TokenRequest, Failure> {
        Ok(TokenRequest::new(audience))
    }

    async fn token(&self, request: &TokenRequest) -> Result<usize, Failure> {
        let token = self.0.token(request).await?;
        Ok(token.token.expose().len())
    }
}

fn main() -> Result<(), Failure> {
    run::<ManagedIdentity>()
}
