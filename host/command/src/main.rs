//! The `managed-identity` command: a thin shell over `managed-identity-host` and the emulator.
//!
//! Standard output carries results, standard error everything else. Exit codes: 0 success, 1 failure, 2 usage, 3 a warning of
//! `doctor`.

mod arguments;
mod audit;
mod compile;
mod conformance;
mod demo;
mod doctor;
mod emulate;
mod inspect;
mod log;
mod report;
mod requests;
mod run;
mod secret;
mod serve;
mod source;
mod telemetry;
mod token;

use arguments::{Arguments, Command};
use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut runtime = match &arguments.command {
        Command::Serve(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report::failure(arguments.command.output_is_json(), &error.into()),
    };
    let json = arguments.command.output_is_json();
    let telemetry = match telemetry::Telemetry::start(arguments.command.telemetry()) {
        Ok(telemetry) => telemetry,
        Err(error) => return report::failure(json, &error),
    };
    let result = runtime.block_on(async {
        match arguments.command {
            Command::Token(arguments) => token::run(arguments).await,
            Command::Source(arguments) => source::run(arguments).await,
            Command::Doctor(arguments) => doctor::run(arguments).await,
            Command::Inspect(arguments) => inspect::run(&arguments),
            Command::Compile(arguments) => compile::run(&arguments),
            Command::Emulate(arguments) => emulate::run(arguments).await,
            Command::Demo(arguments) => demo::run(arguments).await,
            Command::Run(arguments) => run::run(arguments).await,
            Command::Serve(arguments) => serve::run(arguments, telemetry.served()).await,
            Command::Secret(arguments) => secret::run(&arguments),
            Command::Conformance(arguments) => conformance::run(arguments).await,
        }
    });
    telemetry.finish();
    match result {
        Ok(code) => code,
        Err(error) => report::failure(json, &error),
    }
}
