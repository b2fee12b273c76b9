//! What is measured of a client, the same for all that are written in Rust: `PROGRAM once`, `hits THREADS SECONDS`,
//! `herd CALLERS AUDIENCES`. Each prints one line of JSON. `calls COUNT` is to be measured from outside.

use futures_util::future::join_all;
use std::env;
use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

/// What can go wrong, in words.
pub type Failure = Box<dyn Error + Send + Sync>;

/// The audience of the measurements that have one.
const AUDIENCE: &str = "https://vault.azure.net";

/// How many calls are made before the clock is looked at.
const BATCH: u32 = 1_000;

/// A client with its cache.
pub trait Client: Send + Sync + 'static {
    /// What a token of one audience is asked for with. A program makes it once.
    type Credential: Send + Sync + 'static;

    /// As a program makes its client when it starts.
    ///
    /// # Errors
    /// When the environment has no platform that it knows.
    fn new() -> Result<Self, Failure>
    where
        Self: Sized;

    /// As a program makes what it asks with, for each audience.
    ///
    /// # Errors
    /// When the client refuses.
    fn credential(&self, audience: &str) -> Result<Self::Credential, Failure>;

    /// Asks for a token, and returns how long it is.
    fn token(&self, credential: &Self::Credential) -> impl Future<Output = Result<usize, Failure>> + Send;
}

/// Does what the arguments say.
///
/// # Errors
/// When they say something else, or there is no token.
pub fn run<C: Client>() -> Result<(), Failure> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["once"] => once::<C>(),
        ["hits", threads, seconds] => hits::<C>(threads.parse()?, Duration::from_secs_f64(seconds.parse()?)),
        ["herd", callers, audiences] => herd::<C>(callers.parse()?, audiences.parse()?),
        ["calls", count] => calls::<C>(count.parse()?),
        _ => Err("usage: PROGRAM once | hits THREADS SECONDS | herd CALLERS AUDIENCES | calls COUNT".into()),
    }
}

/// One token, and the most memory that was resident until then.
fn once<C: Client>() -> Result<(), Failure> {
    let length = on_this_thread()?.block_on(async {
        let client = C::new()?;
        client.token(&client.credential(AUDIENCE)?).await
    })?;
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|rest| rest.split_whitespace().next()).ok_or("no VmHWM")?;
    println!(r#"{{"length":{length},"kibibytes":{peak}}}"#);
    Ok(())
}

/// Calls for a token that is at hand, from several threads, for a time.
fn hits<C: Client>(threads: usize, time: Duration) -> Result<(), Failure> {
    let first = on_this_thread()?;
    let (client, credential) = first.block_on(async {
        let client = C::new()?;
        let credential = client.credential(AUDIENCE)?;
        client.token(&credential).await?;
        Ok::<_, Failure>((Arc::new(client), Arc::new(credential)))
    })?;
    let together = Arc::new(Barrier::new(threads));
    let running: Vec<_> = (0..threads)
        .map(|_| {
            let (client, credential, together) = (client.clone(), credential.clone(), together.clone());
            std::thread::spawn(move || {
                let runtime = on_this_thread()?;
                together.wait();
                let start = Instant::now();
                let mut calls = 0_u64;
                runtime.block_on(async {
                    while start.elapsed() < time {
                        for _ in 0..BATCH {
                            black_box(client.token(black_box(&credential)).await?);
                        }
                        calls += u64::from(BATCH);
                    }
                    Ok::<_, Failure>(())
                })?;
                Ok::<_, Failure>((calls, start.elapsed()))
            })
        })
        .collect();
    let mut rate = 0.0;
    for thread in running {
        let (calls, time) = thread.join().map_err(|_| "a thread panicked")??;
        rate += calls as f64 / time.as_secs_f64();
    }
    println!(r#"{{"per_second":{rate:.0}}}"#);
    Ok(())
}

/// So many calls for a token that is at hand, after the first one.
fn calls<C: Client>(count: u64) -> Result<(), Failure> {
    on_this_thread()?.block_on(async {
        let client = C::new()?;
        let credential = client.credential(AUDIENCE)?;
        let length = client.token(&credential).await?;
        for _ in 0..count {
            black_box(client.token(black_box(&credential)).await?);
        }
        println!(r#"{{"length":{length}}}"#);
        Ok(())
    })
}

/// First calls of many at once, who want the tokens of so many audiences.
fn herd<C: Client>(callers: usize, audiences: usize) -> Result<(), Failure> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let time = runtime.block_on(async {
        let client = Arc::new(C::new()?);
        let credentials: Result<Vec<_>, _> = (0..audiences)
            .map(|number| {
                client
                    .credential(&format!("https://audience-{number}.example"))
                    .map(Arc::new)
            })
            .collect();
        let credentials = credentials?;
        let start = Instant::now();
        let calls = (0..callers).map(|number| {
            let (client, credential) = (client.clone(), credentials[number % audiences].clone());
            tokio::spawn(async move { client.token(&credential).await })
        });
        for result in join_all(calls).await {
            result??;
        }
        Ok::<_, Failure>(start.elapsed())
    })?;
    println!(r#"{{"milliseconds":{:.1}}}"#, time.as_secs_f64() * 1e3);
    Ok(())
}

fn on_this_thread() -> Result<Runtime, Failure> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}
