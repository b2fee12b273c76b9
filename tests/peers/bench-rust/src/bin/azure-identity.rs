//! `azure_identity`, as its documentation shows it.

use azure_core::credentials::TokenCredential;
use azure_identity::ManagedIdentityCredential;
use peer_bench_rust::{Client, Failure, run};
use std::sync::Arc;

struct AzureIdentity(Arc<ManagedIdentityCredential>);

impl Client for AzureIdentity {
    type Credential = String;

    fn new() -> Result<Self, Failure> {
        Ok(Self(ManagedIdentityCredential::new(None)?))
    }

    fn credential(&self, audience: &str) -> Result<String, Failure> {
        Ok(format!("{audience}/.default"))
    }

    async fn token(&self, scope: &String) -> Result<usize, Failure> {
        let token = self.0.get_token(&[scope], None).await?;
        Ok(token.token.secret().len())
    }
}

fn main() -> Result<(), Failure> {
    run::<AzureIdentity>()
}
