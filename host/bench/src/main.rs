//! Ours beside the clients of others, in one run on one machine: `./x bench`. Rounds are interleaved, figures are medians, and
//! what counts are ratios. Then how ours grows, on its own. Writes `report.md`, `samples.csv`, `report.svg` and `scaling.md` into
//! `target/bench`; `./x bench` puts them into README.md and host/SCALING.md.
//!
//! `--rounds N` makes more or fewer rounds than 9; `scaling` measures only that, and `boundary` only what it
//! costs to cross the boundary of a component.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

mod boundary;
mod clients;
#[path = "../../command/benches/load/mod.rs"]
mod load;
mod report;
mod scaling;
mod upstream;

use boundary::Boundary;
use clients::clients;
use load::{Load, Outcome, Program, Served, arguments, bare};
use managed_identity_host::{EMBEDDED_0_2, EMBEDDED_0_3};
use report::{CONSTANT, OURS, Samples, measured, write};
use std::process::Command;
use std::time::Duration;
use upstream::Upstream;

/// How long one measurement of hits lasts.
const HITS: Duration = Duration::from_millis(300);

/// How many milliseconds the platform takes where that is what is waited for.
const DELAY: u64 = 100;

fn main() -> Outcome<()> {
    match arguments().iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["bare"] => bare(),
        ["scaling", axis, count] => scaling::point(axis, count.parse()?),
        [] => run(9),
        ["--rounds", rounds] => run(rounds.parse()?),
        ["boundary"] => boundary(&Upstream::start()?, &mut Samples::default(), 9),
        ["scaling"] => scaling(&Upstream::start()?),
        _ => Err("usage: ./x bench [--rounds N | boundary | scaling]".into()),
    }
}

fn run(rounds: usize) -> Outcome<()> {
    let upstream = Upstream::start()?;
    let mut clients = clients()?;
    let mut samples = Samples::default();
    // Once without counting: what they compile and cache is there from then on.
    for client in &clients {
        client.once(&upstream)?;
    }
    for round in 1..=rounds {
        println!("round {round} of {rounds}: starts and cached tokens");
        // Whoever is first in one round is last in the next.
        clients.rotate_left(1);
        for client in &clients {
            let once = client.once(&upstream)?;
            samples.add("first token, ms", client.name, once.first_token.as_secs_f64() * 1e3);
            samples.add("peak memory, MiB", client.name, once.kibibytes / 1024.0);
            if client.is_whole {
                for threads in [1, 2] {
                    let rate = client.hits(&upstream, threads, HITS)?;
                    samples.add(&format!("cached, calls/s, {threads} threads"), client.name, rate);
                }
            }
        }
    }
    for round in 1..=rounds.min(3) {
        println!("round {round} of {}: many first callers", rounds.min(3));
        clients.rotate_left(1);
        for client in clients.iter().filter(|client| client.is_whole) {
            for (callers, audiences) in [(client.callers, 1), (1_000, 100)] {
                let herd = client.herd(&upstream, callers, audiences, DELAY)?;
                let of = format!("{audiences} audiences");
                samples.add(&format!("herd, callers, {of}"), client.name, f64::from(callers));
                samples.add(&format!("herd, ms, {of}"), client.name, herd.time.as_secs_f64() * 1e3);
                samples.add(&format!("herd, requests, {of}"), client.name, herd.requests);
            }
        }
    }
    boundary(&upstream, &mut samples, rounds)?;
    served(&upstream, &mut samples)?;
    for (version, component) in [("0.2", EMBEDDED_0_2), ("0.3", EMBEDDED_0_3)] {
        samples.add(
            &format!("size of the provider {version}, KB"),
            "ours",
            component.len() as f64 / 1e3,
        );
    }
    samples.write(rounds)?;
    scaling(&upstream)
}

fn scaling(upstream: &Upstream) -> Outcome<()> {
    let tables = scaling::tables(upstream)?;
    println!("\n{tables}");
    write("scaling.md", &format!("{}\n\n{tables}", measured()?.trim_end()))
}

fn boundary(upstream: &Upstream, samples: &mut Samples, rounds: usize) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    upstream.after(0);
    let boundary = runtime.block_on(async { Boundary::new(upstream) })?;
    for round in 1..=rounds {
        println!("round {round} of {rounds}: across the boundary of a component");
        let get_token_0_2 = boundary.get_token_0_2()?;
        let constant_0_2 = boundary.constant_0_2()?;
        runtime.block_on(async {
            for (measurement, component, time) in [
                ("get-token 0.2, ns", OURS, get_token_0_2),
                ("get-token 0.2, ns", CONSTANT, constant_0_2),
                ("get-token 0.3, ns", OURS, boundary.get_token_0_3().await?),
                ("get-token 0.3, ns", CONSTANT, boundary.constant_0_3().await?),
                ("plugin's get-token, ns", OURS, boundary.plugin().await?),
                ("instance 0.2, ns", OURS, boundary.instantiate_0_2().await?),
                ("instance 0.3, ns", OURS, boundary.instantiate_0_3().await?),
            ] {
                println!("{measurement}, {component}: {time:.0}");
                samples.add(measurement, component, time);
            }
            Ok::<_, Box<dyn std::error::Error>>(())
        })?;
    }
    Ok(())
}

/// `managed-identity serve` beside a server that does nothing else than answer; and the platform of the other measurements, which
/// must not be what limits them.
fn served(upstream: &Upstream, samples: &mut Samples) -> Outcome<()> {
    let served = Served::start()?;
    let bare = Program::start(Command::new(std::env::current_exe()?).arg("bare"))?;
    for round in 1..=3 {
        println!("round {round} of 3: servers");
        let bare = Load::run(&format!("http://{}/", bare.listening()?), &[], 2)?;
        let ours = Load::run(&served.url(), &[Served::FIELD], 2)?;
        let platform = Load::run(&format!("http://{}/", upstream.address), &[], 2)?;
        samples.add("served, requests/s", "a bare hyper server", bare.requests);
        samples.add("served, requests/s", "ours", ours.requests);
        samples.add(
            "served, requests/s",
            "the platform of this benchmark",
            platform.requests,
        );
    }
    Ok(())
}
