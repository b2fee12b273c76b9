//! Language-neutral conformance cases for managed-identity clients, and what replays them.

pub mod table;
