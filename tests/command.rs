//! The `managed-identity` command as its users meet it: what it prints, what it sends, and how it ends.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod support;

#[path = "command/compile.rs"]
mod compile;
#[path = "command/doctor.rs"]
mod doctor;
#[path = "command/emulate.rs"]
mod emulate;
#[path = "command/failure.rs"]
mod failure;
#[path = "command/inspect.rs"]
mod inspect;
#[path = "command/shell.rs"]
mod shell;
#[path = "command/source.rs"]
mod source;
#[path = "command/token.rs"]
mod token;
#[path = "command/wire.rs"]
mod wire;

const VAULT: &str = "https://vault.azure.net";

/// The value of `IDENTITY_HEADER` wherever a test chooses it.
const SECRET: &str = "853b9a84-5bfa-4b22-a3f3-0b9a43d9ad8a";

/// Both built-in providers: everything that involves one is tested with each.
const WASI: [&str; 2] = ["0.2", "0.3"];

/// The arguments of `token` for a provider and [`VAULT`], with JSON output.
fn token_arguments<'a>(wasi: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [
        &[
            "token",
            "--resource",
            VAULT,
            "--output",
            "json",
            "--wasi",
            wasi,
            "--timeout",
            "5s",
        ][..],
        more,
    ]
    .concat()
}
