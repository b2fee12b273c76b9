//! What the end-to-end tests share: an emulated platform, a server that misbehaves, the command, brokers.
#![allow(dead_code, reason = "each test takes the parts that it needs")]

pub(crate) mod brokers;
pub(crate) mod closed;
pub(crate) mod emulate;
pub(crate) mod emulated;
pub(crate) mod plug;
pub(crate) mod program;
pub(crate) mod served;
pub(crate) mod server;
