//! What a token costs: `./x bench`. Times are of this machine; compare ratios, and runs on one machine.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

use managed_identity_emulator::{Emulator, EmulatorConfig, Source};
use managed_identity_host::{Broker, TokenRequest, WasiVersion};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const AUDIENCE: &str = "https://vault.azure.net";
const ROUNDS: usize = 9;
const CALLS: u32 = 2_000;
const HITS: u32 = 200_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(run())
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let emulator = Emulator::start(EmulatorConfig::default())?;
    let cache = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("compiled");
    println!(
        "{:<8} {:>14} {:>14} {:>14} {:>18}",
        "provider", "start", "first token", "hit", "asked, one call"
    );
    for (name, version) in [("0.2", WasiVersion::V0_2), ("0.3", WasiVersion::V0_3)] {
        let build = || {
            Broker::builder()
                .environment(emulator.environment_for(Source::AppService))
                .wasi(version)
                .compilation_cache(Some(cache.clone()))
                .build()
        };
        // Fills the compilation cache, so that what follows is a second start.
        build()?.token(&TokenRequest::new(AUDIENCE)).await?;
        let (mut starts, mut firsts, mut hits, mut asked) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let broker = build()?;
            starts.push(begun.elapsed());
            let request = TokenRequest::new(AUDIENCE);
            let begun = Instant::now();
            broker.token(&request).await?;
            firsts.push(begun.elapsed());
            let begun = Instant::now();
            for _ in 0..HITS {
                broker.token(&request).await?;
            }
            hits.push(begun.elapsed() / HITS);
            // A question that never leaves the provider, but takes the way of those that do.
            let begun = Instant::now();
            for _ in 0..CALLS {
                broker.describe_source().await?;
            }
            asked.push(begun.elapsed() / CALLS);
        }
        println!(
            "{name:<8} {:>14.1?} {:>14.1?} {:>14.1?} {:>18.1?}",
            median(starts),
            median(firsts),
            median(hits),
            median(asked)
        );
    }
    println!(
        "medians of {ROUNDS} rounds; the platform is an emulator on loopback; a hit stays on the caller's thread, an asked call crosses two"
    );
    println!(
        "\n{:>8} {:>10} {:>10} {:>12}",
        "callers", "audiences", "requests", "all answered"
    );
    let platform = Slow::start().await?;
    for (callers, audiences) in [(1, 1), (1_000, 1), (2_000, 1), (4_000, 1), (10_000, 1), (1_000, 100)] {
        platform.requests.store(0, Ordering::Relaxed);
        let broker = Broker::builder()
            .environment([
                ("IDENTITY_ENDPOINT", platform.url.as_str()),
                ("IDENTITY_HEADER", "secret"),
            ])
            .compilation_cache(Some(cache.clone()))
            .build()?;
        let requests: Vec<_> = (0..audiences)
            .map(|number| TokenRequest::new(format!("https://audience-{number}.example")))
            .collect();
        let begun = Instant::now();
        let calls = (0..callers).map(|number| broker.token(&requests[number % audiences]));
        for result in futures_util::future::join_all(calls).await {
            if let Err(error) = result {
                println!("{error}");
                break;
            }
        }
        println!(
            "{callers:>8} {audiences:>10} {:>10} {:>12.1?}",
            platform.requests.load(Ordering::Relaxed),
            begun.elapsed()
        );
    }
    emulator.shutdown().await;
    Ok(())
}

/// A platform that answers each request after 100 ms. The emulator would also sign a token for each, which takes longer than
/// what is measured here.
struct Slow {
    url: String,
    requests: Arc<AtomicUsize>,
}

impl Slow {
    async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/msi/token", listener.local_addr()?);
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&counted)));
            }
        });
        Ok(Self { url, requests })
    }
}

async fn answer(mut stream: TcpStream, requests: Arc<AtomicUsize>) -> std::io::Result<()> {
    const BODY: &str = r#"{"access_token":"token","expires_in":"3600","token_type":"Bearer"}"#;
    let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{BODY}", BODY.len());
    let mut received = Vec::new();
    while stream.read_buf(&mut received).await? > 0 {
        if received.ends_with(b"\r\n\r\n") {
            received.clear();
            requests.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(100)).await;
            stream.write_all(reply.as_bytes()).await?;
        }
    }
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
