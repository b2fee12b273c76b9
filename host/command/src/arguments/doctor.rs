//! The command line of `doctor`.

use super::{IdentityArguments, Output, ProviderArguments, duration};
use clap::{ArgGroup, Args};
use std::path::PathBuf;
use std::time::Duration;

/// What every identity can ask a token for, whatever its roles.
const DEFAULT_RESOURCE: &str = "https://management.azure.com/";

/// Find out why there is no token, or why it is not the right one
#[derive(Args)]
#[command(
    group = ArgGroup::new("policy").args(["grants", "config"]),
    after_help = "\
Examples:
  managed-identity doctor
  managed-identity doctor --resource https://vault.azure.net --output json
  managed-identity doctor --resource https://vault.azure.net --grants grants.toml --caller nightly
  managed-identity doctor --config broker.toml --caller payroll

Looks, in this order, at the source that the environment selects, at variables that contradict each other, at credential \
files, at proxies, at the way to the endpoint, at its answer, at both clocks, at the identity, at the token and its claims, \
at the policy and at the provider. Each line says what was found; where that is not as it should be, also what it means, \
what to do, and where Microsoft's documentation writes of it. What could be a secret is described and never shown.

It asks the platform for one token, as `token` does, and nothing else. No check outlasts --timeout.

Exit codes by the worst line: 0 all passed or were skipped, 3 a warning, 1 a failure; 2 usage."
)]
pub(crate) struct DoctorArguments {
    /// Resource that a token is tried for
    #[arg(long, value_name = "RESOURCE", default_value = DEFAULT_RESOURCE)]
    pub(crate) resource: String,

    #[command(flatten)]
    pub(crate) identity: IdentityArguments,

    /// Look also at what this document grants, as `run --grants` would
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) grants: Option<PathBuf>,

    /// Look also at what this document grants, and get the token from where it says, as `serve --config` would
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) config: Option<PathBuf>,

    /// Who would ask, by its name in the document
    #[arg(long, value_name = "NAME", requires = "policy")]
    pub(crate) caller: Option<String>,

    /// How long all of it may take, such as `30s`, `500ms` or `1m30s`; at most an hour
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) timeout: Duration,

    #[command(flatten)]
    pub(crate) provider: ProviderArguments,

    /// What to print: a line for each check as it ends, or one JSON object in the end
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}
