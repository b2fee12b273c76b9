//! Language-neutral conformance cases for managed-identity clients, and what replays them.
//!
//! A [`case`] is data: an environment, files, the requests that a right client sends and the replies it gets, and what it
//! then tells its caller. [`run::replay`] plays one against anything that implements [`run::Client`], over a scripted
//! [`server`] on loopback or in memory, and says in words where the client departs from the case. [`process::Process`] is
//! such a client for any program, in any language, that reads requests from standard input.
//!
//! ```no_run
//! use managed_identity_conformance::{case, process::Process, run};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let cases = case::embedded()?;
//! let client = Process::new("my-client --json");
//! for outcome in run::replay_all(&client, &cases, 8, |_| {}).await {
//!     println!("{}: {:?}", outcome.name, outcome.verdict);
//! }
//! # Ok(())
//! # }
//! ```

pub mod answer;
pub mod case;
pub mod matching;
pub mod placeholder;
pub mod process;
pub mod run;
pub mod scratch;
pub mod script;
mod secrets;
pub mod server;
pub mod table;
pub mod wire;
