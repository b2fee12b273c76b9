//! A host that runs plugins side by side and gives each what a policy grants it.
//!
//! What a host of your own needs is in `run_all`: one broker, one policy, one engine, and for each plugin a caller by the name
//! that the host knows it by. The rest is a command line, and a stand-in for Azure.

mod decisions;

use anyhow::Context as _;
use clap::Parser;
use decisions::Decisions;
use futures_util::future::join_all;
use managed_identity_emulator::{Emulator, EmulatorConfig, KeyVault, Source};
use managed_identity_host::Broker;
use managed_identity_host::authorized_http::AuthorizedHttp;
use managed_identity_host::grants::{Caller, Gate, Policy};
use managed_identity_host::outbound::RootCertificates;
use managed_identity_host::plugin::{PluginEngine, PluginOutcome, needs_async};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tracing_subscriber::layer::SubscriberExt as _;
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;

/// How much of what a plugin prints is kept, in bytes.
const OUTPUT: usize = 64 * 1024;

/// The vault that the shipped plugins are about.
const VAULT: &str = "my-vault.vault.azure.net";

/// Run plugins side by side, each under its grant
#[derive(Parser)]
#[command(
    name = "plugin-host",
    max_term_width = 110,
    after_help = "\
Examples:
  plugin-host --emulate
  plugin-host --plugins ./plugins --grants grants.toml

A plugin is a file NAME.wasm, a command for WASI 0.2 or 0.3 or a component of the world `client` of cloud:identity. NAME.args, \
if there is one, has an argument on each line.

Exit codes: 0 each plugin succeeded or was refused something, 1 one could not be run, 2 usage."
)]
struct Arguments {
    /// Folder with the plugins; the ones that ship with this program when absent
    #[arg(long, value_name = "FOLDER")]
    plugins: Option<PathBuf>,

    /// What each plugin is granted, by its name; the shipped policy when absent
    #[arg(long, value_name = "FILE.toml")]
    grants: Option<PathBuf>,

    /// Start an emulated platform and a stand-in for the vault, and use them
    #[arg(long)]
    emulate: bool,

    /// How long a plugin may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    deadline: u64,
}

/// What a plugin is, before it is compiled.
struct Found {
    name: String,
    component: Vec<u8>,
    arguments: Vec<String>,
}

/// What came of a plugin.
struct Ended {
    name: String,
    printed: String,
    /// A sentence, and whether the plugin ran to its end.
    result: Result<String, String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            // There is nowhere left to report that standard error is closed.
            let _ = writeln!(io::stderr().lock(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let decisions = Decisions::default();
    // Nobody has set a subscriber before the first line of a program.
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(decisions.clone()))?;

    let folder = arguments.plugins.as_deref().unwrap_or(Path::new(env!("PLUGINS")));
    let mut plugins = find(folder)?;
    let mut policy = match &arguments.grants {
        None => include_str!("../grants.toml").to_owned(),
        Some(file) => fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?,
    };
    let stand_in = arguments.emulate.then(StandIn::start).transpose()?;
    if let Some(stand_in) = &stand_in {
        // The same plugins and the same policy, but the vault is elsewhere.
        policy = policy.replace(VAULT, &stand_in.vault_host());
        for argument in plugins.iter_mut().flat_map(|plugin| &mut plugin.arguments) {
            *argument = argument.replace(VAULT, &stand_in.vault_host());
        }
    }
    let policy = Policy::from_toml(&policy).context("The policy cannot be used")?;
    let deadline = Duration::from_secs(arguments.deadline);
    let ended = run_all(plugins, policy, stand_in.as_ref(), deadline).await?;

    let mut code = ExitCode::SUCCESS;
    for Ended { name, printed, result } in ended {
        let mut output = io::stdout().lock();
        writeln!(output, "{name}")?;
        for line in printed.lines() {
            writeln!(output, "  | {line}")?;
        }
        for decision in decisions.of(&name) {
            writeln!(output, "  {}: {}", decision.decision, decision.matter)?;
        }
        match result {
            Ok(sentence) => writeln!(output, "  {sentence}")?,
            Err(reason) => {
                code = ExitCode::FAILURE;
                writeln!(output, "  could not be run to its end: {reason}")?;
            }
        }
    }
    Ok(code)
}

/// Runs all plugins at once and waits for the last of them.
async fn run_all(
    plugins: Vec<Found>,
    policy: Policy,
    stand_in: Option<&StandIn>,
    deadline: Duration,
) -> anyhow::Result<Vec<Ended>> {
    // One broker: plugins that ask for the same token share it.
    let mut broker = Broker::builder();
    if let Some(stand_in) = stand_in {
        broker = broker.environment(stand_in.emulator.environment_for(Source::AppService));
    }
    let gate = Gate::new(broker.build()?, policy);

    // One client for all their HTTP: what each may reach, and with which token, the policy says.
    let mut http = AuthorizedHttp::new(gate.caller(Caller::new("")));
    if let Some(stand_in) = stand_in {
        http = http.with_root_certificates(stand_in.authority()?);
    }

    // One engine. What plugins for WASI 0.3 need of it is off unless there is one.
    let mut is_async = false;
    for plugin in &plugins {
        // What is no component is named when it is loaded.
        is_async |= needs_async(&plugin.component).unwrap_or(false);
    }
    let engine = PluginEngine::builder().with_async(is_async).build()?;

    let runs = plugins.into_iter().map(|plugin| {
        let (engine, gate, http) = (engine.clone(), gate.clone(), http.clone());
        // A task for each, so that they run on all processors.
        tokio::spawn(async move {
            // The name is the host's choice. Nothing that the plugin does can change it.
            let caller = Caller::new(&plugin.name);
            let output = MemoryOutputPipe::new(OUTPUT);
            let run = async {
                engine
                    .load(&plugin.component)?
                    .command(gate.caller(caller))
                    .http(&http)
                    .args([&plugin.name])
                    .args(&plugin.arguments)
                    .stdout(output.clone())
                    .deadline(deadline)
                    .run()
                    .await
            };
            let result = match run.await {
                Ok(PluginOutcome::Exited(0)) => Ok("done".to_owned()),
                Ok(PluginOutcome::Exited(code)) => Ok(format!("done, with exit code {code}")),
                Ok(PluginOutcome::Finished(text)) => Ok(format!("done: {text}")),
                Ok(PluginOutcome::Failed(text)) => Ok(format!("failed: {text}")),
                Ok(_) => Ok("done, in a way that this program does not know".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            Ended {
                name: plugin.name,
                printed: String::from_utf8_lossy(&output.contents()).into_owned(),
                result,
            }
        })
    });
    let ended = join_all(runs).await.into_iter().collect::<Result<_, _>>()?;
    gate.broker().shutdown().await;
    Ok(ended)
}

/// The plugins of a folder, by name.
fn find(folder: &Path) -> anyhow::Result<Vec<Found>> {
    let unreadable = || format!("{} cannot be read", folder.display());
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .with_context(unreadable)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .with_context(unreadable)?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "wasm"));
    files.sort();
    anyhow::ensure!(!files.is_empty(), "{} has no file NAME.wasm", folder.display());
    files.into_iter().map(|file| read(&file)).collect()
}

fn read(file: &Path) -> anyhow::Result<Found> {
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let arguments = match fs::read_to_string(file.with_extension("args")) {
        Ok(text) => text.lines().map(str::to_owned).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).with_context(|| format!("the arguments of {name} cannot be read")),
    };
    Ok(Found {
        component: fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?,
        name,
        arguments,
    })
}

/// What stands in for Azure: a platform that gives tokens, and a vault that verifies them.
struct StandIn {
    emulator: Emulator,
    vault: KeyVault,
}

impl StandIn {
    fn start() -> anyhow::Result<Self> {
        let emulator = Emulator::start(EmulatorConfig::default()).context("The emulator cannot start")?;
        let vault = emulator
            .start_key_vault([("database-password", "correct horse battery staple")])
            .context("The stand-in for the vault cannot start")?;
        Ok(Self { emulator, vault })
    }

    fn vault_host(&self) -> String {
        self.vault.listening().to_string()
    }

    /// By whom the vault is known.
    fn authority(&self) -> anyhow::Result<RootCertificates> {
        Ok(RootCertificates::from_pem(self.vault.certificate().authority_pem())?)
    }
}
