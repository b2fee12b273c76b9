//! What a fleet's requests for tokens do to metadata services and to the issuer, by the rules of several clients.
//!
//! A model, whose assumptions `model.rs` lists: it compares rules, and measures no client and no service.
//!
//! ```sh
//! cargo run --release -p managed-identity-simulation -- --out tests/simulation/results
//! ```
#![expect(clippy::print_stdout, reason = "a program that prints a table")]

mod model;
mod plot;
mod policy;
mod random;
#[cfg(test)]
mod tests;

use anyhow::{Context as _, bail};
use model::{BIN, Counts, Fleet, HOUR, SCENARIOS, peaks};
use policy::Policy;
use std::fmt::Write as _;
use std::path::PathBuf;

struct Arguments {
    out: PathBuf,
    nodes: u64,
    pods: u64,
    seed: u64,
}

impl Arguments {
    fn read(mut words: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut read = Self {
            out: PathBuf::from("."),
            nodes: 10_000,
            pods: 50,
            seed: 1,
        };
        while let Some(name) = words.next() {
            let value = words.next().with_context(|| format!("{name} needs a value"))?;
            let number = || {
                value
                    .parse::<u64>()
                    .with_context(|| format!("{name} {value}: not a number"))
            };
            match name.as_str() {
                "--out" => read.out = PathBuf::from(value),
                "--nodes" => read.nodes = number()?.max(1),
                "--pods" => read.pods = number()?.clamp(1, 1000),
                "--seed" => read.seed = number()?,
                _ => bail!("{name} is not known; there are --out DIR, --nodes N, --pods N and --seed N"),
            }
        }
        Ok(read)
    }
}

fn main() -> anyhow::Result<()> {
    let Arguments { out, nodes, pods, seed } = Arguments::read(std::env::args().skip(1))?;
    let mut csv = "scenario,policy,second,requests_at_metadata_services,requests_at_issuer\n".to_owned();
    for (number, scenario) in SCENARIOS.iter().enumerate() {
        println!("\n{}: {nodes} nodes x {pods} pods, seed {seed}\n", scenario.title);
        println!(
            "| client | requests at the issuer, millions | peak before the outage, per s: nodes | issuer | peak from the outage on, per s: nodes | issuer | pods with an error | for, on average | last one back after |"
        );
        println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|");
        let mut all = Vec::new();
        for policy in Policy::ALL {
            let counts = Fleet {
                nodes,
                pods,
                scenario,
                policy,
                seed,
            }
            .run();
            print_row(policy, scenario, &counts);
            for (bin, (metadata, issuer)) in counts.metadata.iter().zip(&counts.issuer).enumerate() {
                if metadata + issuer > 0 {
                    let second = bin as u64 * BIN / 1000;
                    writeln!(csv, "{},{},{second},{metadata},{issuer}", scenario.name, policy.name())?;
                }
            }
            all.push((policy, counts));
        }
        if number == 0 {
            let file = out.join("requests.svg");
            plot::draw(&file, scenario, &all).with_context(|| format!("{} cannot be written", file.display()))?;
        }
    }
    let file = out.join("requests.csv");
    std::fs::write(&file, csv).with_context(|| format!("{} cannot be written", file.display()))
}

fn print_row(policy: Policy, scenario: &model::Scenario, counts: &Counts) {
    let [metadata_before, metadata_from] = peaks(&counts.metadata, scenario);
    let [issuer_before, issuer_from] = peaks(&counts.issuer, scenario);
    let without = match counts.pods_without {
        0 => "-".to_owned(),
        pods => minutes(counts.time_without / pods),
    };
    println!(
        "| {} | {:.1} | {metadata_before:.0} | {issuer_before:.0} | {metadata_from:.0} | {issuer_from:.0} | {} | {without} | {} |",
        policy.name(),
        counts.issuer.iter().sum::<u64>() as f64 / 1e6,
        counts.pods_without,
        minutes(counts.last_back),
    );
    if counts.pods_without_at_end > 0 {
        println!(
            "({} pods of it have no token after {} h)",
            counts.pods_without_at_end,
            model::BINS as u64 * BIN / HOUR
        );
    }
}

fn minutes(milliseconds: u64) -> String {
    format!("{}:{:02} min", milliseconds / 60_000, milliseconds / 1000 % 60)
}
