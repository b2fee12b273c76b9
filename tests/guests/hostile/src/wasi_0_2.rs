//! The misuse of WASI 0.2.

use crate::order::{Order, Outcome, PAUSE, PAUSE_EVERY, Tried, conversions, exports, huge, names, refused, work};
use wasip2::cli::{environment, exit, stdin, terminal_stderr, terminal_stdin, terminal_stdout};
use wasip2::clocks::monotonic_clock;
use wasip2::filesystem::preopens;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{ErrorCode, Fields, FutureIncomingResponse, Method, OutgoingBody, OutgoingRequest, Scheme};
use wasip2::random::random;

#[path = "../../sockets/wasi_0_2.rs"]
mod sockets;

#[expect(unsafe_code, reason = "generated code, which speaks the canonical ABI")]
mod bindings {
    use super::Component;

    wit_bindgen::generate!({
        path: "../../../wit/0.2",
        inline: "
            package managed-identity:hostile;
            world guest {
                export cloud:identity/types@0.2.0;
                export cloud:identity/managed-identity@0.2.0;
            }
        ",
        world: "managed-identity:hostile/guest",
    });

    export!(Component);
}

use bindings::exports::cloud::identity::{managed_identity, types};

exports!(types, managed_identity, obey);
conversions!();

fn obey(order: &Order) -> Outcome {
    if let Some(outcome) = order.alone() {
        return outcome;
    }
    if order.verb == "fetch" {
        return order.fetched(send(order));
    }
    let tried = match order.verb {
        "send" => send(order),
        "flood" => flood(order),
        "tcp" => sockets::connect(order.address(0))
            .map(str::to_owned)
            .map_err(Outcome::Report),
        "listen" => sockets::listen(order.address(0))
            .map(str::to_owned)
            .map_err(Outcome::Report),
        "udp" => sockets::datagram(order.address(0))
            .map(str::to_owned)
            .map_err(Outcome::Report),
        "resolve" => sockets::resolve(order.word(0))
            .map(str::to_owned)
            .map_err(Outcome::Report),
        "random" => Ok(random::get_random_bytes(order.number(0) as u64).len().to_string()),
        "spin-calling" => loop {
            drop(environment::get_environment());
        },
        "spin-yielding" => loop {
            work(1_000_000);
            wait(0);
        },
        "spin-politely" => loop {
            work(10_000_000);
            wait(PAUSE);
        },
        "exit" => {
            exit::exit(Ok(()));
            Ok("went on".to_owned())
        }
        "sleep" => {
            wait(order.number(0) as u64 * 1_000_000_000);
            Ok("woke".to_owned())
        }
        "never" => {
            wait(u64::MAX);
            Ok("woke".to_owned())
        }
        "hoard" => hoard(order.word(0), order.number(1)),
        "huge" => hand_over(order.word(0), order.number(1)),
        belonging => Ok(belongings(belonging)),
    };
    tried.map_or_else(|outcome| outcome, Outcome::Report)
}

fn wait(nanoseconds: u64) {
    monotonic_clock::subscribe_duration(nanoseconds).block();
}

fn send(order: &Order) -> Tried {
    let pending = start(order, 0)?;
    pending.subscribe().block();
    let response = pending
        .get()
        .ok_or("nothing")
        .and_then(|result| result.map_err(|()| "gone"))
        .map_err(refused("response"))?
        .map_err(outcome)?;
    Ok(format!("status {}", response.status()))
}

/// Starts the request whose parts begin at a word of the order.
fn start(order: &Order, first: usize) -> Result<FutureIncomingResponse, Outcome> {
    let fields = Fields::new();
    for (name, value) in order.fields(first + 4) {
        fields.append(&name, &value).map_err(refused("field"))?;
    }
    let request = OutgoingRequest::new(fields);
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
    let body = request.body().map_err(refused("body"))?;
    let pending = outgoing_handler::handle(request, None).map_err(outcome)?;
    OutgoingBody::finish(body, None).map_err(outcome)?;
    Ok(pending)
}

fn flood(order: &Order) -> Tried {
    let started: Vec<_> = (0..order.number(0)).map(|_| start(order, 1)).collect();
    let mut answered = 0;
    for pending in started.iter().flatten() {
        pending.subscribe().block();
        answered += usize::from(matches!(pending.get(), Some(Ok(Ok(_)))));
    }
    Ok(format!("answered {answered}"))
}

/// What the host has given, by name; empty if nothing.
fn belongings(what: &str) -> String {
    match what {
        "environment" => names(environment::get_environment().into_iter().map(|(name, _)| name)),
        "arguments" => names(environment::get_arguments()),
        "directory" => names(environment::initial_cwd()),
        "files" => names(preopens::get_directories().into_iter().map(|(_, name)| name)),
        "input" => stdin::get_stdin()
            .blocking_read(1024)
            .map_or_else(|_| String::new(), |bytes| format!("{} bytes", bytes.len())),
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
fn hoard(what: &str, size: usize) -> Tried {
    let text = huge(size);
    let mut fields = Vec::new();
    let mut requests = Vec::new();
    let mut timers = Vec::new();
    for turn in 0_u64.. {
        if turn % PAUSE_EVERY == 0 {
            wait(PAUSE);
        }
        match what {
            "fields" => {
                let kept = Fields::new();
                kept.append("x", text.as_bytes()).map_err(refused("field"))?;
                fields.push(kept);
            }
            "requests" => {
                let kept = OutgoingRequest::new(Fields::new());
                kept.set_authority(Some(&text)).map_err(refused("authority"))?;
                kept.set_method(&Method::Other(text.clone()))
                    .map_err(refused("method"))?;
                requests.push(kept);
            }
            "timers" => timers.push(monotonic_clock::subscribe_duration(u64::MAX)),
            unknown => return Ok(format!("no such thing: {unknown}")),
        }
    }
    Ok("had enough".to_owned())
}

fn hand_over(place: &str, size: usize) -> Tried {
    let text = huge(size);
    let request = OutgoingRequest::new(Fields::new());
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
