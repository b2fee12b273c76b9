//! The guests of `examples/guests`: one program in many languages, which does the same in all of them, to the byte.
//!
//! Each is built by its own `build.sh`, and run as anybody would run it.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod by_hand;
mod guest;
mod hosts;
mod matrix;
mod scenarios;
mod scene;
#[path = "../support/mod.rs"]
mod support;
