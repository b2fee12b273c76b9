//! Managed identity inside Envoy: a dynamic module with an HTTP filter.
//!
//! The filter puts a token of the platform into requests on their way to the upstream. A token that is at hand is put in on
//! the worker's own thread; otherwise the request is held, a thread of the module asks the broker, and the worker goes on
//! when the answer is there. No worker ever waits.
//!
//! | module | what it is |
//! |---|---|
//! | `abi` | what crosses the boundary between Envoy and the module, and all the unsafe code there is |
//! | `config` | the filter's configuration |
//! | `rule` | which request gets which token |
//! | `brokers` | the brokers of this process, usually one |
//! | `callouts` | requests to the identity endpoint through a cluster of Envoy |
//! | `doubts` | tokens that the upstream has refused |
//! | `filter` | what happens to a request |
//!
//! It is loaded by Envoy, and has no interface for Rust.

mod abi;
mod brokers;
mod callouts;
mod config;
mod doubts;
mod filter;
mod rule;
