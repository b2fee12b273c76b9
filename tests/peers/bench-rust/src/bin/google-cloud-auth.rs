//! `google-cloud-auth` with the metadata service of its own platform: the fastest client of any cloud that we know.

use google_cloud_auth::credentials::{AccessTokenCredentials, mds};
use peer_bench_rust::{Client, Failure, run};

struct GoogleCloudAuth;

impl Client for GoogleCloudAuth {
    /// It has no audiences; one object has one token.
    type Credential = AccessTokenCredentials;

    fn new() -> Result<Self, Failure> {
        Ok(Self)
    }

    fn credential(&self, _: &str) -> Result<AccessTokenCredentials, Failure> {
        Ok(mds::Builder::default().build_access_token_credentials()?)
    }

    async fn token(&self, credential: &AccessTokenCredentials) -> Result<usize, Failure> {
        Ok(credential.access_token().await?.token.len())
    }
}

fn main() -> Result<(), Failure> {
    run::<GoogleCloudAuth>()
}
