//! The misuse of WASI 0.3.

use crate::order::{Order, Outcome, PAUSE, PAUSE_EVERY, Tried, conversions, exports, huge, names, refused, spin, work};
use std::future::{Future, pending};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use wasip3::cli::{environment, exit, stdin, terminal_stderr, terminal_stdin, terminal_stdout};
use wasip3::clocks::monotonic_clock;
use wasip3::filesystem::preopens;
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, Scheme};
use wasip3::random::random;
use wasip3::wit_future;

#[path = "../../sockets/wasi_0_3.rs"]
mod sockets;

#[expect(unsafe_code, reason = "generated code, which speaks the canonical ABI")]
mod bindings {
    use super::Component;

    wit_bindgen::generate!({
        path: "../../../wit/0.3",
        inline: "
            package managed-identity:hostile;
            world guest {
                export cloud:identity/types@0.3.0;
                export cloud:identity/managed-identity@0.3.0;
            }
        ",
        world: "managed-identity:hostile/guest",
    });

    export!(Component);
}

use bindings::exports::cloud::identity::{managed_identity, types};

exports!(types, managed_identity, obey, async await);
conversions!();

async fn obey(order: &Order<'_>) -> Outcome {
    if let Some(outcome) = order.alone() {
        return outcome;
    }
    if order.verb == "fetch" {
        return order.fetched(send(order, 0).await);
    }
    let tried = match order.verb {
        "send" => send(order, 0).await,
        "flood" => flood(order).await,
        "tcp" => sockets::connect(order.address(0))
            .await
            .map(str::to_owned)
            .map_err(Outcome::Report),
        "listen" => sockets::listen(order.address(0))
            .map(str::to_owned)
            .map_err(Outcome::Report),
        "udp" => sockets::datagram(order.address(0))
            .await
            .map(str::to_owned)
            .map_err(Outcome::Report),
        "resolve" => sockets::resolve(order.word(0))
            .await
            .map(str::to_owned)
            .map_err(Outcome::Report),
        "random" => Ok(random::get_random_bytes(order.number(0) as u64).len().to_string()),
        "spin-calling" => loop {
            drop(environment::get_environment());
        },
        "spin-yielding" => loop {
            work(1_000_000);
            wit_bindgen::yield_async().await;
        },
        "spin-politely" => loop {
            work(10_000_000);
            monotonic_clock::wait_for(PAUSE).await;
        },
        "spin-later" => {
            drop(wit_bindgen::spawn_local(async {
                monotonic_clock::wait_for(PAUSE).await;
                spin()
            }));
            return Outcome::Token("token".to_owned());
        }
        "exit" => {
            exit::exit(Ok(()));
            Ok("went on".to_owned())
        }
        "sleep" => {
            monotonic_clock::wait_for(order.number(0) as u64 * 1_000_000_000).await;
            Ok("woke".to_owned())
        }
        "never" => pending().await,
        "hoard" => hoard(order.word(0), order.number(1)).await,
        "huge" => hand_over(order.word(0), order.number(1)),
        "input" => Ok(input().await),
        belonging => Ok(belongings(belonging)),
    };
    tried.map_or_else(|outcome| outcome, Outcome::Report)
}

/// Sends the request whose parts begin at a word of the order.
async fn send(order: &Order<'_>, first: usize) -> Tried {
    let fields = Fields::new();
    for (name, value) in order.fields(first + 4) {
        fields.append(&name, &value).map_err(refused("field"))?;
    }
    let request = request(fields);
    if let Some(text) = order.part(first) {
        request.set_method(&method(text)).map_err(refused("method"))?;
    }
    let scheme = order.part(first + 1).map(scheme);
    request.set_scheme(scheme.as_ref()).map_err(refused("scheme"))?;
    request
        .set_authority(order.part(first + 2))
        .map_err(refused("authority"))?;
    request
        .set_path_with_query(order.part(first + 3))
        .map_err(refused("path"))?;
    let response = client::send(request).await.map_err(outcome)?;
    Ok(format!("status {}", response.get_status_code()))
}

/// A request without a body.
fn request(fields: Fields) -> Request {
    let (writer, trailers) = wit_future::new(|| Ok(None));
    drop(writer);
    Request::new(fields, None, trailers, None).0
}

async fn flood(order: &Order<'_>) -> Tried {
    let mut sent: Vec<_> = (0..order.number(0)).map(|_| Box::pin(send(order, 1))).collect();
    // All begin before any is waited for.
    let mut context = Context::from_waker(Waker::noop());
    let mut answered = 0;
    sent.retain_mut(|send| match send.as_mut().poll(&mut context) {
        Poll::Ready(result) => {
            answered += usize::from(result.is_ok());
            false
        }
        Poll::Pending => true,
    });
    for send in sent {
        answered += usize::from(send.await.is_ok());
    }
    Ok(format!("answered {answered}"))
}

async fn input() -> String {
    let (stream, _result) = stdin::read_via_stream();
    let bytes = stream.collect().await;
    if bytes.is_empty() {
        String::new()
    } else {
        format!("{} bytes", bytes.len())
    }
}

/// What the host has given, by name; empty if nothing.
fn belongings(what: &str) -> String {
    match what {
        "environment" => names(environment::get_environment().into_iter().map(|(name, _)| name)),
        "arguments" => names(environment::get_arguments()),
        "directory" => names(environment::get_initial_cwd()),
        "files" => names(preopens::get_directories().into_iter().map(|(_, name)| name)),
        "terminal" => names(
            [
                terminal_stdin::get_terminal_stdin().map(|_| "input"),
                terminal_stdout::get_terminal_stdout().map(|_| "output"),
                terminal_stderr::get_terminal_stderr().map(|_| "error"),
            ]
            .into_iter()
            .flatten()
            .map(str::to_owned),
        ),
        unknown => format!("no such order: {unknown}"),
    }
}

/// Makes host resources without end, each as large as told and as the host takes it.
async fn hoard(what: &str, size: usize) -> Tried {
    let text = huge(size);
    let mut context = Context::from_waker(Waker::noop());
    let mut fields = Vec::new();
    let mut requests = Vec::new();
    let mut timers: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
    for turn in 0_u64.. {
        if turn % PAUSE_EVERY == 0 {
            monotonic_clock::wait_for(PAUSE).await;
        }
        match what {
            "fields" => {
                let kept = Fields::new();
                kept.append("x", text.as_bytes()).map_err(refused("field"))?;
                fields.push(kept);
            }
            "requests" => {
                let kept = request(Fields::new());
                kept.set_authority(Some(&text)).map_err(refused("authority"))?;
                kept.set_method(&Method::Other(text.clone()))
                    .map_err(refused("method"))?;
                requests.push(kept);
            }
            "timers" => {
                let mut kept = Box::pin(monotonic_clock::wait_for(u64::MAX));
                // It is the first poll that makes the timer.
                let _ = kept.as_mut().poll(&mut context);
                timers.push(kept);
            }
            unknown => return Ok(format!("no such thing: {unknown}")),
        }
    }
    Ok("had enough".to_owned())
}

fn hand_over(place: &str, size: usize) -> Tried {
    let text = huge(size);
    let request = request(Fields::new());
    match place {
        "name" => Fields::new().append(&text, b"x").map_err(refused("name"))?,
        "value" => Fields::new().append("x", text.as_bytes()).map_err(refused("value"))?,
        "authority" => request.set_authority(Some(&text)).map_err(refused("authority"))?,
        "path" => request
            .set_path_with_query(Some(&format!("/{text}")))
            .map_err(refused("path"))?,
        "method" => request.set_method(&Method::Other(text)).map_err(refused("method"))?,
        unknown => return Ok(format!("no such place: {unknown}")),
    }
    Ok("taken".to_owned())
}
