//! The broker for programs without an async runtime.

use super::Broker;
use crate::token::{AccessToken, SourceDescription, TokenRequest};
use managed_identity_provider::error::Error;
use std::sync::Arc;
use tokio::task::unconstrained;

/// A [`Broker`] whose calls block the thread that makes them. Made by [`Broker::blocking`]; as cheap to clone.
///
/// ```
/// use managed_identity_host::{Broker, TokenRequest};
/// use std::time::Duration;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Or `Broker::from_environment()`.
/// let builder = Broker::builder().environment([("IDENTITY_ENDPOINT", "http://127.0.0.1:1/"), ("IDENTITY_HEADER", "")]);
/// let broker = builder.build()?.blocking();
/// let request = TokenRequest::new("https://vault.azure.net").with_timeout(Duration::from_secs(10));
/// match broker.token(&request) {
///     Ok(token) => println!("valid until {}", token.expires_on),
///     Err(error) => println!("{}: {error}", error.cause),
/// }
/// broker.shutdown();
/// # Ok(())
/// # }
/// ```
///
/// It can be used inside an async runtime too, without a panic and without a deadlock, because the provider has a thread of
/// its own. But everything else on the runtime's thread stands still for as long as the call takes: up to the request's
/// time-out. Use the [`Broker`] itself there, or a thread for blocking work.
#[derive(Clone, Debug)]
pub struct BlockingBroker(Broker);

impl BlockingBroker {
    pub(super) fn new(broker: Broker) -> Self {
        Self(broker)
    }

    /// A token that is valid now.
    ///
    /// # Errors
    /// As for [`Broker::token`].
    pub fn token(&self, request: &TokenRequest) -> Result<Arc<AccessToken>, Error> {
        block_on(self.0.token(request))
    }

    /// Drops cached tokens, of one audience or all.
    ///
    /// # Errors
    /// As for [`Broker::forget`].
    pub fn forget(&self, audience: Option<&str>) -> Result<(), Error> {
        block_on(self.0.forget(audience))
    }

    /// Where tokens come from, and why. Asks the provider and not the platform.
    ///
    /// # Errors
    /// As for [`Broker::describe_source`].
    pub fn describe_source(&self) -> Result<SourceDescription, Error> {
        block_on(self.0.describe_source())
    }

    /// Ends the provider, as [`Broker::shutdown`] does.
    pub fn shutdown(&self) {
        block_on(self.0.shutdown());
    }
}

/// On a thread of tokio, what a task may do before it must give way is measured. A task that is blocked cannot give way, so
/// that from the end of its measure on it would wait for ever.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    pollster::block_on(unconstrained(work))
}
