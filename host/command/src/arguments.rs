//! The command line.

mod doctor;

pub(crate) use doctor::DoctorArguments;

use crate::telemetry::Wanted;
use crate::{compile, log};
use anyhow::Context as _;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use managed_identity_emulator::Source;
use managed_identity_host::grants::{AudiencePattern, HostPattern};
use managed_identity_host::outbound::{Endpoint, Scheme};
use managed_identity_host::{Broker, BrokerBuilder, EMBEDDED_0_2, EMBEDDED_0_3, Identity, WasiVersion};
use managed_identity_serve::config::Address;
use std::borrow::Cow;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

/// All that a 32-bit memory can have, in bytes.
const MOST_MEMORY: usize = u32::MAX as usize + 1;

/// Tokens of the platform's own identity, from a sandboxed WebAssembly component.
///
/// The component speaks the managed-identity protocols of Azure, and can reach the identity endpoint and nothing else.
/// Which endpoint that is, the environment decides, by the same variables that the Azure SDKs read.
#[derive(Parser)]
#[command(name = "managed-identity", version, max_term_width = 110)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    Token(TokenArguments),
    Source(SourceArguments),
    Doctor(DoctorArguments),
    Inspect(InspectArguments),
    Compile(CompileArguments),
    Emulate(EmulateArguments),
    Demo(DemoArguments),
    Run(RunArguments),
    Serve(ServeArguments),
    Secret(SecretArguments),
    Conformance(ConformanceArguments),
}

impl Command {
    pub(crate) fn output_is_json(&self) -> bool {
        match self {
            Self::Token(arguments) => arguments.output == TokenOutput::Json || arguments.audience.requests,
            Self::Source(arguments) => arguments.output == Output::Json,
            Self::Doctor(arguments) => arguments.output == Output::Json,
            Self::Inspect(arguments) => arguments.output == Output::Json,
            Self::Compile(arguments) => arguments.json,
            Self::Emulate(arguments) => arguments.output == Output::Json,
            Self::Demo(_) | Self::Run(_) => false,
            Self::Serve(arguments) => arguments.output == Output::Json || arguments.log_format == log::Format::Json,
            Self::Secret(arguments) => arguments.output == Output::Json,
            Self::Conformance(arguments) => arguments.output == Output::Json,
        }
    }
}

impl Command {
    /// What it tells others than its caller.
    pub(crate) fn telemetry(&self) -> Wanted<'_> {
        match self {
            Self::Run(arguments) => Wanted {
                trail: arguments.audit.as_deref(),
                ..Wanted::default()
            },
            Self::Serve(arguments) => Wanted {
                trail: arguments.audit.as_deref(),
                log: Some(log::Settings {
                    format: arguments.log_format,
                    threshold: arguments.log_level,
                }),
                metrics: true,
            },
            _ => Wanted::default(),
        }
    }
}

/// Get a token
#[derive(Args)]
#[command(after_help = "\
Examples:
  managed-identity token --resource https://vault.azure.net
  managed-identity token --scope https://storage.azure.com/.default --output json
  curl -H \"$(managed-identity token --resource https://management.azure.com --output header)\" …
  echo '{\"audience\":\"https://vault.azure.net\"}' | managed-identity token --requests

With `--output json`, a failure is one JSON object on standard error.

Exit codes: 0 token, 1 failure, 2 usage.")]
pub(crate) struct TokenArguments {
    #[command(flatten)]
    pub(crate) audience: AudienceArguments,

    #[command(flatten)]
    pub(crate) identity: IdentityArguments,

    /// Claims challenge of a rejected request, base64 or JSON; bypasses the cache
    #[arg(long, value_name = "CHALLENGE")]
    pub(crate) claims: Option<String>,

    /// How long to wait, such as `30s`, `500ms` or `1m30s`; at most an hour
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) timeout: Duration,

    #[command(flatten)]
    pub(crate) provider: ProviderArguments,

    /// What to print: the token alone, all that is known of it, or an `Authorization` header
    #[arg(long, value_enum, default_value_t = TokenOutput::Text)]
    pub(crate) output: TokenOutput,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct AudienceArguments {
    /// Resource that the token is for, such as https://vault.azure.net
    #[arg(long, value_name = "RESOURCE")]
    resource: Option<String>,

    /// The same as a scope, which ends in /.default
    #[arg(long, value_name = "SCOPE", value_parser = scope)]
    scope: Option<String>,

    /// Answer many requests: one JSON object per line of standard input, one per line of output
    ///
    /// A request has `audience` and may have `identity` (an object with `kind`, and `id` where the kind has one), `claims`,
    /// `rejected_token` and `timeout_ms`. An answer is what `--output json` prints, or an object with `error`.
    #[arg(long, conflicts_with_all = ["IdentityArguments", "claims", "timeout", "output"])]
    pub(crate) requests: bool,
}

impl AudienceArguments {
    pub(crate) fn audience(self) -> String {
        // The group makes sure that one of the two is there.
        self.resource.or(self.scope).unwrap_or_default()
    }
}

#[derive(Args)]
#[group(multiple = false)]
pub(crate) struct IdentityArguments {
    /// User-assigned identity, by client (application) id
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,

    /// User-assigned identity, by the object id of its service principal
    #[arg(long, value_name = "ID")]
    object_id: Option<String>,

    /// User-assigned identity, by Azure resource id
    #[arg(long, value_name = "ID")]
    resource_id: Option<String>,

    /// System-assigned identity, even where AZURE_CLIENT_ID names another
    #[arg(long)]
    system_assigned: bool,
}

impl IdentityArguments {
    pub(crate) fn identity(self) -> Identity {
        let client = self.client_id.map(Identity::ClientId);
        let object = self.object_id.map(Identity::ObjectId);
        let resource = self.resource_id.map(Identity::ResourceId);
        let system = self.system_assigned.then_some(Identity::SystemAssigned);
        client.or(object).or(resource).or(system).unwrap_or_default()
    }
}

#[derive(Clone, Args)]
pub(crate) struct ProviderArguments {
    /// Version of WASI that the built-in provider runs on
    #[arg(long, value_enum, default_value_t = Wasi::V0_3, conflicts_with = "provider")]
    wasi: Wasi,

    /// Another provider: a component that exports cloud:identity/managed-identity
    #[arg(long, value_name = "FILE.wasm")]
    provider: Option<PathBuf>,

    /// Run a provider that `managed-identity compile` has made: native code, outside of the sandbox
    ///
    /// Whoever could have written the file can do what you can. Give this only for files that you have made yourself.
    #[arg(long, requires = "provider")]
    trust_compiled_code: bool,

    /// Also let the provider reach this URL and what is below it; may be given more than once
    ///
    /// The endpoint that the environment names is allowed by itself as long as it is on this machine, link-local or in a
    /// private network.
    #[arg(long = "allow-endpoint", value_name = "URL", value_parser = endpoint)]
    allow_endpoints: Vec<String>,
}

impl ProviderArguments {
    /// What it is, for a person, and its size in bytes where that can be told.
    pub(crate) fn describe(&self) -> (String, Option<u64>) {
        match &self.provider {
            Some(file) => (
                format!("the provider {}", file.display()),
                file.metadata().ok().map(|file| file.len()),
            ),
            None => {
                let component = match self.wasi {
                    Wasi::V0_2 => EMBEDDED_0_2,
                    Wasi::V0_3 => EMBEDDED_0_3,
                };
                let name = format!("the built-in provider {}", env!("CARGO_PKG_VERSION"));
                (name, u64::try_from(component.len()).ok())
            }
        }
    }

    pub(crate) fn builder(self) -> anyhow::Result<BrokerBuilder> {
        let mut builder = Broker::builder();
        builder = match &self.provider {
            None => builder.wasi(self.wasi.into()),
            Some(file) => compile::load(builder, file, self.trust_compiled_code)?,
        };
        for url in &self.allow_endpoints {
            builder = builder
                .allow_endpoint(url)
                .with_context(|| format!("--allow-endpoint {url}"))?;
        }
        Ok(builder)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wasi {
    #[value(name = "0.2")]
    V0_2,
    #[value(name = "0.3")]
    V0_3,
}

impl From<Wasi> for WasiVersion {
    fn from(wasi: Wasi) -> Self {
        match wasi {
            Wasi::V0_2 => Self::V0_2,
            Wasi::V0_3 => Self::V0_3,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TokenOutput {
    Text,
    Json,
    Header,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Text,
    Json,
}

/// Compile a provider ahead of time, so that it starts without a compiler and without a cache
#[derive(Args)]
#[command(after_help = "\
Examples:
  managed-identity compile --output provider.cwasm
  managed-identity compile --provider mine.wasm --output mine.cwasm
  managed-identity source --provider provider.cwasm --trust-compiled-code

The result is native code for this version of the command and for machines like this one. It runs outside of the \
sandbox, so only what you have made yourself should be run: files that other users can write to are refused.

Exit codes: 0 compiled, 1 failure, 2 usage.")]
pub(crate) struct CompileArguments {
    /// Version of WASI that the built-in provider runs on
    #[arg(long, value_enum, default_value_t = Wasi::V0_3, conflicts_with = "provider")]
    wasi: Wasi,

    /// Another provider: a component that exports cloud:identity/managed-identity
    #[arg(long, value_name = "FILE.wasm")]
    provider: Option<PathBuf>,

    /// Where the compiled code goes; what is there is replaced
    #[arg(long, value_name = "FILE.cwasm")]
    pub(crate) output: PathBuf,

    /// Print what was made as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

impl CompileArguments {
    /// The component that is to be compiled.
    pub(crate) fn component(&self) -> anyhow::Result<Cow<'static, [u8]>> {
        Ok(match (&self.provider, self.wasi) {
            (Some(file), _) => Cow::Owned(compile::read(file)?.0),
            (None, Wasi::V0_2) => Cow::Borrowed(EMBEDDED_0_2),
            (None, Wasi::V0_3) => Cow::Borrowed(EMBEDDED_0_3),
        })
    }
}

/// Show which identity source is used, and why
#[derive(Args)]
#[command(after_help = "\
Examples:
  managed-identity source
  managed-identity source --output json

Names the environment variables that decided, never their values. Asks nobody.

Exit codes: 0 a source is configured, 1 none can be used, 2 usage.")]
pub(crate) struct SourceArguments {
    #[command(flatten)]
    pub(crate) provider: ProviderArguments,

    /// What to print
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

/// Show what a token says of itself; nothing is verified
#[derive(Args)]
#[command(after_help = "\
Examples:
  managed-identity token --resource https://vault.azure.net | managed-identity inspect
  managed-identity inspect --output json eyJ0eXAi…

The signature is not printed. Exit codes: 0 decoded, 1 not a JSON Web Token, 2 usage.")]
pub(crate) struct InspectArguments {
    /// The token, or `-` to read it from standard input
    ///
    /// What is given here can be seen by other users of this machine while the command runs; standard input cannot.
    #[arg(default_value = "-", hide_default_value = true)]
    pub(crate) token: String,

    /// What to print
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

/// Serve the platform's identity endpoints on this machine, without Azure
#[derive(Args)]
#[command(after_help = "\
Examples:
  managed-identity emulate
  managed-identity emulate --listen 127.0.0.1:0 --output json
  managed-identity emulate --source workload-identity --federated-token-file token --ca-file ca.pem
  managed-identity emulate --vault greeting=hello --ca-file ca.pem

Prints the environment variables that lead clients here, then serves until interrupted. The tokens are signed with a \
key made at start; OpenID Connect discovery and the key set are served too. The endpoints below /control take delays \
and faults. Without --source, the variables are those of App Service and IMDS, and those of the other sources follow in \
comments (in JSON: in `environments`).

With --vault there is also a stand-in for a vault of Azure Key Vault, which takes these tokens: at VAULT_URL, with a \
certificate of the authority in --ca-file, and at VAULT_URL_PLAIN without TLS. The latter is only for hosts of components \
that cannot be made to trust an authority of one's own: whoever sees such a request has the token.")]
pub(crate) struct EmulateArguments {
    /// Loopback address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,

    /// Print the variables of one source only
    #[arg(long, value_name = "SOURCE", value_parser = emulated_source())]
    pub(crate) source: Option<Source>,

    /// How long tokens are valid, such as `24h`
    #[arg(long, value_name = "TIME", value_parser = token_lifetime)]
    pub(crate) token_lifetime: Option<i64>,

    /// Where the agent of Azure Arc puts its key files; without it, it does not challenge
    ///
    /// Its replies name the files in /var/opt/azcmagent/tokens, where clients expect them, so mount or link the directory
    /// to there.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) arc_directory: Option<PathBuf>,

    /// Where to keep the federated token that workload identity needs
    #[arg(long, value_name = "FILE")]
    pub(crate) federated_token_file: Option<PathBuf>,

    /// Put this secret into a vault that takes the tokens; may be given more than once
    ///
    /// What is given here can be seen by other users of this machine while the command runs: it is no place for a real
    /// secret.
    #[arg(long = "vault", value_name = "NAME=VALUE", value_parser = secret)]
    pub(crate) secrets: Vec<(String, String)>,

    /// Write the authority of the certificate of all ports with TLS, in PEM, for instance for SSL_CERT_FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,

    /// `export` lines for a shell, or one line of JSON
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

/// Watch a token being asked for, without Azure
#[derive(Args)]
#[command(after_help = "\
Examples:
  managed-identity demo
  managed-identity demo --wasi 0.2

Exit codes: 0 all went as described, 1 something did not, 2 usage.")]
pub(crate) struct DemoArguments {
    #[command(flatten)]
    pub(crate) provider: ProviderArguments,
}

/// Run a WebAssembly component that gets tokens and never sees the identity endpoint
#[derive(Args)]
#[command(after_help = "\
Examples:
  managed-identity run --allow https://vault.azure.net backup.wasm --dry-run
  managed-identity run --authorize '*.vault.azure.net=https://vault.azure.net' backup.wasm
  managed-identity run --grants grants.toml --caller nightly --timeout 10m backup.wasm

The component is a command (wasi:cli/run), or exports the world `client` of cloud:identity. It is granted nothing unless \
said so here: no token, no HTTP, no environment variable; files and sockets it never has. Its standard streams are ours.

Options may also follow the component. From its first argument on, all is its own, also what begins with `-`; where that is \
the name of an option of ours, write `--` before it.

What is refused is told with the section of a file of grants that would permit it. Without such a file, --allow, --authorize \
and --allow-http do the same.

Exit codes: the component's own; 1 it failed or cannot be run, 2 usage.")]
pub(crate) struct RunArguments {
    /// Component to run; a core module is none
    #[arg(value_name = "PLUGIN.wasm")]
    pub(crate) plugin: PathBuf,

    /// Arguments of the component
    #[arg(value_name = "ARGS", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<String>,

    /// What each caller is granted; instead of --allow, --authorize and --allow-http
    #[arg(long, value_name = "FILE.toml", conflicts_with_all = ["audiences", "authorize", "http"])]
    pub(crate) grants: Option<PathBuf>,

    /// The caller that the component is; its file's name without `.wasm` when absent
    #[arg(long, value_name = "NAME")]
    pub(crate) caller: Option<String>,

    /// Give it tokens for this audience, as the platform's default identity; may be given more than once
    #[arg(long = "allow", value_name = "AUDIENCE", value_parser = audience)]
    pub(crate) audiences: Vec<AudiencePattern>,

    /// Send its requests to this host with a token for this audience, which it does not see; may be given more than once
    #[arg(long, value_name = "HOST=AUDIENCE", value_parser = authorized)]
    pub(crate) authorize: Vec<(HostPattern, String)>,

    /// Send its requests to this host as they are; may be given more than once
    #[arg(long = "allow-http", value_name = "HOST", value_parser = host)]
    pub(crate) http: Vec<HostPattern>,

    /// Give it this environment variable; may be given more than once
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) variables: Vec<(String, String)>,

    /// Write what it asks for, and what is decided, to this file as JSON lines; `-` for standard error
    #[arg(long, value_name = "FILE")]
    pub(crate) audit: Option<PathBuf>,

    /// Stop it after this time, such as `30s` or `10m`; without it, it may run for ever
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,

    /// How much memory it may have, in bytes or as in `512M`
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = size)]
    pub(crate) memory: usize,

    #[command(flatten)]
    pub(crate) provider: ProviderArguments,
}

/// Serve tokens to programs on this machine, by the protocols that Azure SDKs speak
#[derive(Args)]
#[command(
    group = ArgGroup::new("listeners").args(["config", "app_service", "imds", "ext_authz", "metrics"]).required(true).multiple(true),
    group = ArgGroup::new("token listeners").args(["app_service", "imds", "ext_authz"]).multiple(true),
    after_help = "\
Examples:
  managed-identity secret new --file secret
  managed-identity serve --app-service 127.0.0.1:4141 --header-secret-file secret --allow https://vault.azure.net
  managed-identity serve --config broker.toml --check
  managed-identity serve --config broker.toml

An ADDRESS is `127.0.0.1:4141`, `[::1]:4141`, or `unix:` and an absolute path, for a socket to which only you may connect. \
Port 0 takes a free one. With flags, all who ask are one caller, who gets what --allow says. Several callers, TLS, other \
machines and all else need a document.

SIGHUP reads the configuration again, or the secret of the command line, and opens the audit file again; what cannot be used \
changes nothing. SIGTERM and SIGINT let requests that are under way end; a second one does not.

Prints one JSON line for each protocol when it listens. All else is on standard error.

Exit codes: 0 ended as asked, 1 failure (a document that cannot be used, an address that is taken), 2 usage (an address \
that other machines could reach)."
)]
pub(crate) struct ServeArguments {
    /// What to do, in a document; instead of the flags below
    #[arg(long, value_name = "FILE.toml", conflicts_with_all = ["app_service", "imds", "ext_authz", "metrics", "header_secret_file", "audiences"])]
    pub(crate) config: Option<PathBuf>,

    /// Where to speak the protocol of App Service: programs find it by IDENTITY_ENDPOINT
    #[arg(long, value_name = "ADDRESS", value_parser = local_address)]
    pub(crate) app_service: Option<Address>,

    /// Where to speak the protocol of the Instance Metadata Service
    #[arg(long, value_name = "ADDRESS", value_parser = local_address)]
    pub(crate) imds: Option<Address>,

    /// Where to answer Envoy's external authorization (HTTP and gRPC)
    #[arg(long, value_name = "ADDRESS", value_parser = local_address)]
    pub(crate) ext_authz: Option<Address>,

    /// Where to tell metrics and health
    #[arg(long, value_name = "ADDRESS", value_parser = local_address)]
    pub(crate) metrics: Option<Address>,

    /// File with the secrets that programs may send as X-IDENTITY-HEADER, one a line, or their hashes
    ///
    /// Any of them is taken, so that one can follow another. Without it, any program that can connect is served.
    #[arg(long, value_name = "FILE", requires = "app_service")]
    pub(crate) header_secret_file: Option<PathBuf>,

    /// Give tokens for this audience, as the platform's default identity; may be given more than once
    #[arg(long = "allow", value_name = "AUDIENCE", value_parser = audience, requires = "token listeners")]
    pub(crate) audiences: Vec<AudiencePattern>,

    /// Say what would be served, and serve nothing
    #[arg(long)]
    pub(crate) check: bool,

    /// What --check prints
    #[arg(long, value_enum, default_value_t = Output::Text, requires = "check")]
    pub(crate) output: Output,

    /// Write who asks for what, and what is decided, to this file as JSON lines; `-` for standard error
    #[arg(long, value_name = "FILE")]
    pub(crate) audit: Option<PathBuf>,

    /// How the log on standard error looks
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: log::Format,

    /// What is logged
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub(crate) log_level: log::Threshold,

    #[command(flatten)]
    pub(crate) provider: ProviderArguments,
}

/// Make the secrets by which `serve` knows its callers
#[derive(Args)]
#[command(after_help = "\
Examples:
  managed-identity secret new
  managed-identity secret new --file /etc/managed-identity/report.secret
  managed-identity secret hash < report.secret

A program sends its secret as X-IDENTITY-HEADER, which Azure SDKs take from IDENTITY_HEADER. The server keeps the hash: \
`secrets = [\"sha256:…\"]` of the program's `[caller.NAME]`. To replace a secret, write both hashes, give the program the \
new secret, and take the old hash away.

Exit codes: 0 done, 1 failure, 2 usage.")]
pub(crate) struct SecretArguments {
    #[command(subcommand)]
    pub(crate) command: SecretCommand,

    /// What to print
    #[arg(long, value_enum, default_value_t = Output::Text, global = true)]
    pub(crate) output: Output,
}

#[derive(Subcommand)]
pub(crate) enum SecretCommand {
    /// Make a secret, and print it with its hash
    New {
        /// Write the secret to this file, which only you can read, and print the hash alone; no file is ever replaced
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Print the hash of the secret on standard input
    Hash,
}

/// Hold any managed-identity client against the conformance cases
#[derive(Args)]
#[command(after_help = "\
Examples:
  managed-identity conformance --command 'managed-identity token --requests'
  managed-identity conformance --command 'python3 my_client.py' --case app-service/ --jobs 16
  managed-identity conformance --list

The command is started by `sh -c`, once for each case, in the case's environment alone. It reads one JSON request per
line from standard input and prints one JSON answer per line, as `token --requests` does.

Exit codes: 0 all cases passed, 1 some did not, 2 usage.")]
pub(crate) struct ConformanceArguments {
    /// Command line of the client
    #[arg(long, value_name = "COMMAND", required_unless_present_any = ["list", "tables"])]
    pub(crate) command: Option<String>,

    /// Take the cases below this directory instead of the built-in ones
    #[arg(long, value_name = "DIR")]
    pub(crate) cases: Option<PathBuf>,

    /// Play only cases with this in their name; `*` stands for anything, and the whole name has to match then
    #[arg(long, value_name = "PATTERN")]
    pub(crate) case: Option<String>,

    /// How many cases are played at a time; twice the number of processors when absent
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<NonZeroUsize>,

    /// Name the cases and play none
    #[arg(long, conflicts_with_all = ["command", "jobs"])]
    pub(crate) list: bool,

    /// Make a table of results that `--output json` has printed into files; a column each, may be given more than once
    #[arg(
        long = "table",
        value_name = "TITLE=FILE",
        value_parser = table,
        conflicts_with_all = ["command", "cases", "case", "jobs", "list", "output"]
    )]
    pub(crate) tables: Vec<(String, PathBuf)>,

    /// What to print
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it like `30s`, `500ms` or `1m30s`"))
}

fn emulated_source() -> impl TypedValueParser<Value = Source> {
    PossibleValuesParser::new(Source::ALL.iter().map(|source| source.name())).try_map(|name| name.parse::<Source>())
}

/// Seconds for which a token is valid.
fn token_lifetime(text: &str) -> Result<i64, String> {
    const CENTURY: u64 = 100 * 365 * 24 * 60 * 60;
    let seconds = duration(text)?.as_secs();
    i64::try_from(seconds)
        .ok()
        .filter(|_| seconds <= CENTURY)
        .ok_or_else(|| "no token is valid for more than 100 years; those of managed identities are for 24h".to_owned())
}

fn endpoint(text: &str) -> Result<String, String> {
    match Endpoint::granted(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("it {error}")),
    }
}

fn audience(text: &str) -> Result<AudiencePattern, String> {
    AudiencePattern::parse(text).map_err(|error| format!("it {error}"))
}

/// Where other machines cannot reach it: what they may ask, flags cannot say.
fn local_address(text: &str) -> Result<Address, String> {
    let address = Address::parse(text).map_err(|error| format!("it {error}"))?;
    if address.is_local() {
        return Ok(address);
    }
    Err(
        "it is no loopback address, and other machines could get tokens there; write one such as `127.0.0.1:4141`, or give \
         --config, where a listener can have TLS and callers with secrets"
            .to_owned(),
    )
}

fn host(text: &str) -> Result<HostPattern, String> {
    HostPattern::parse(text).map_err(|error| format!("it {error}"))
}

fn authorized(text: &str) -> Result<(HostPattern, String), String> {
    let (pattern, audience) = text
        .split_once('=')
        .filter(|(_, audience)| !audience.is_empty())
        .ok_or(
            "write a host, `=` and the audience of the token, such as `*.vault.azure.net=https://vault.azure.net`",
        )?;
    let pattern = host(pattern)?;
    if pattern.scheme() != Scheme::Https {
        return Err("a token is sent over https alone; leave `http://` out".to_owned());
    }
    Ok((pattern, audience.to_owned()))
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or("write a name, `=` and a value, such as `LANG=C`")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A secret of a vault, by a name that Key Vault takes.
fn secret(text: &str) -> Result<(String, String), String> {
    let is_name = |name: &str| {
        (1..=127).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let (name, value) = text
        .split_once('=')
        .filter(|(name, _)| is_name(name))
        .ok_or("write a name of at most 127 letters, digits and `-`, then `=` and a value, such as `greeting=hello`")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Bytes; K, M and G are powers of 1,024.
fn size(text: &str) -> Result<usize, String> {
    let (number, unit) = match text.char_indices().next_back() {
        Some((last, 'K')) => (&text[..last], 1 << 10),
        Some((last, 'M')) => (&text[..last], 1 << 20),
        Some((last, 'G')) => (&text[..last], 1 << 30),
        _ => (text, 1),
    };
    let bytes = number.parse::<usize>().ok().and_then(|number| number.checked_mul(unit));
    bytes
        .filter(|bytes| *bytes <= MOST_MEMORY)
        .ok_or_else(|| "write it like `67108864`, `512M` or `2G`; there is no more than 4G".to_owned())
}

fn table(text: &str) -> Result<(String, PathBuf), String> {
    // A title may say what it likes; names of files are ours.
    let (title, file) = text
        .rsplit_once('=')
        .ok_or("a column is a title, `=`, and a file of results")?;
    Ok((title.to_owned(), PathBuf::from(file)))
}

fn scope(text: &str) -> Result<String, String> {
    if text.ends_with("/.default") && !text.contains(char::is_whitespace) {
        Ok(text.to_owned())
    } else {
        Err("a scope is a resource followed by `/.default`, and only one can be asked for; use --resource for a resource".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn sizes_variables_and_hosts_are_checked() {
        assert_eq!(
            (size("4096"), size("64K"), size("4G")),
            (Ok(4096), Ok(65_536), Ok(MOST_MEMORY))
        );
        for absurd in ["", "M", "-1", "5G", "1.5G", "1T", "99999999999999999999G"] {
            assert!(size(absurd).is_err(), "{absurd}");
        }
        assert_eq!(variable("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert!(variable("A").is_err() && variable("=b").is_err());
        assert!(authorized("*.vault.azure.net=https://vault.azure.net").is_ok());
        for wrong in [
            "vault.azure.net",
            "vault.azure.net=",
            "http://vault.example=https://vault.example",
        ] {
            assert!(authorized(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_and_scopes_are_checked() {
        assert_eq!(token_lifetime("36500d"), Ok(3_153_600_000));
        for absurd in ["36501d", "101y", "18446744073709551615"] {
            assert!(
                token_lifetime(absurd).expect_err("absurd").contains("100 years"),
                "{absurd}"
            );
        }
        assert_eq!(duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert!(duration("soon").is_err() && duration("-1s").is_err() && duration("").is_err());
        assert!(scope("https://vault.azure.net/.default").is_ok());
        assert!(scope("https://vault.azure.net").is_err() && scope("a/.default b/.default").is_err());
    }
}
