//! WASI 0.3.

use crate::order::{CHALLENGE, Order, Tried, huge, identity, names, refused};
use std::task::{Context, Poll, Waker};
use wasip3::cli::{environment, exit, stdin, stdout};
use wasip3::clocks::monotonic_clock;
use wasip3::filesystem::preopens;
use wasip3::filesystem::types::{DescriptorFlags, OpenFlags, PathFlags};
use wasip3::http::client;
use wasip3::http::types::{Fields, Request, Scheme};
use wasip3::{wit_future, wit_stream};

/// How many tokens a flood asks for at a time.
const AT_A_TIME: u32 = 64;

#[path = "../../sockets/wasi_0_3.rs"]
mod sockets;

mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit/0.3",
        inline: "
            package managed-identity:plugin;
            world guest {
                import cloud:identity/managed-identity@0.3.0;
                import cloud:identity/token-claims@0.3.0;
            }
        ",
        world: "managed-identity:plugin/guest",
        generate_all,
    });
}

mod command {
    use super::Component;

    wasip3::cli::command::export!(Component);
}

use bindings::cloud::identity::managed_identity::{
    AccessToken, Error, TokenRequest, describe_source, forget, get_token,
};
use bindings::cloud::identity::token_claims as claims_0_3;
use bindings::cloud::identity::types::{Cause, Identity};

/// The same form as in 0.2, where a text is borrowed.
mod token_claims {
    pub(super) use super::claims_0_3::Claims;

    pub(super) fn decode(token: &str) -> Result<Claims, super::Error> {
        super::claims_0_3::decode(token)
    }
}

identity!();

struct Component;

impl wasip3::exports::cli::run::Guest for Component {
    async fn run() -> Result<(), ()> {
        let order = Order::new(environment::get_arguments());
        if order.verb() == "fail" {
            return Err(());
        }
        order.alone();
        let line = obey(&order).await.unwrap_or_else(|line| line);
        print(format!("{line}\n").into_bytes()).await;
        Ok(())
    }
}

async fn print(bytes: Vec<u8>) {
    let (mut writer, reader) = wit_stream::new();
    let written = stdout::write_via_stream(reader);
    let rest = writer.write_all(bytes).await;
    drop(writer);
    assert!(rest.is_empty(), "standard output is open");
    written.await.expect("standard output is open");
}

async fn obey(order: &Order) -> Tried {
    match order.verb() {
        "token" => get_token(ordered(order)).await.map_err(failed).and_then(got),
        "tokens" => tokens(order.number(0), order.number(1), order.text(2)).await,
        "hits" => hits(order.number(0), &order.text(1)).await,
        "together" => together(order.number(0), &order.text(1), true).await,
        "forget" => {
            forget(order.word(0));
            Ok("ok".to_owned())
        }
        "describe" => {
            let description = describe_source().map_err(failed)?;
            Ok(format!("ok {}", description.source.unwrap_or_default()))
        }
        "decode" => token_claims::decode(&order.text(0))
            .map_err(failed)
            .map(|claims| format!("ok {}", claims.json)),
        "tcp" => sockets::connect(order.address(0))
            .await
            .map(|done| format!("ok {done}")),
        "listen" => sockets::listen(order.address(0)).map(|done| format!("ok {done}")),
        "udp" => sockets::datagram(order.address(0))
            .await
            .map(|done| format!("ok {done}")),
        "resolve" => sockets::resolve(&order.text(0)).await.map(|done| format!("ok {done}")),
        "send" => send(order).await,
        "environment" => names(
            environment::get_environment()
                .into_iter()
                .map(|(name, value)| format!("{name}={value}")),
        ),
        "arguments" => names(environment::get_arguments()),
        "directory" => names(environment::get_initial_cwd()),
        "files" => names(preopens::get_directories().into_iter().map(|(_, name)| name)),
        "read" => read(order.text(0)).await,
        "write" => write(order.text(0), order.number(1)).await,
        "echo" => echo().await,
        "exit" => {
            exit::exit_with_code(order.number(0) as u8);
            Ok("went on".to_owned())
        }
        "spin-calling" => loop {
            drop(environment::get_environment());
        },
        "sleep" => {
            monotonic_clock::wait_for(u64::MAX).await;
            Ok("woke".to_owned())
        }
        "flood" => loop {
            let _ = together(AT_A_TIME, &order.text(0), false).await;
        },
        "huge" => hand_over(&order.text(0), order.number(1)).await,
        "print" => loop {
            print(b"It prints and prints.\n".to_vec()).await;
        },
        "hoard" => {
            let mut timers = Vec::new();
            let mut context = Context::from_waker(Waker::noop());
            loop {
                let mut timer = Box::pin(monotonic_clock::wait_for(u64::MAX));
                // It is the first poll that makes the timer.
                let _ = timer.as_mut().poll(&mut context);
                timers.push(timer);
            }
        }
        unknown => Err(format!("no such order: {unknown}")),
    }
}

/// Asks for many tokens before it waits for any, says when it has, how many came, and what became of the others.
async fn together(count: u32, audience: &str, tells: bool) -> Tried {
    let mut context = Context::from_waker(Waker::noop());
    let mut results = Vec::new();
    let mut calls: Vec<_> = (0..count)
        .map(|number| Box::pin(get_token(asked(format!("{audience}/{number}")))))
        .collect();
    calls.retain_mut(|call| match call.as_mut().poll(&mut context) {
        Poll::Pending => true,
        Poll::Ready(result) => {
            results.push(result);
            false
        }
    });
    if tells {
        print(b"asked\n".to_vec()).await;
    }
    for call in calls {
        results.push(call.await);
    }
    let throttled = |error: &&Error| error.cause == Cause::Throttled;
    let failed = results.iter().filter_map(|result| result.as_ref().err());
    Ok(format!(
        "ok {} tokens, {} throttled",
        results.iter().flatten().count(),
        failed.filter(throttled).count()
    ))
}

async fn tokens(count: u32, timeout: u32, audience: String) -> Tried {
    let request = |claims: Option<&str>| {
        let mut request = asked(audience.clone());
        request.timeout_ms = Some(timeout);
        request.claims = claims.map(str::to_owned);
        request
    };
    for _ in 0..count {
        get_token(request(None)).await.map_err(failed)?;
        get_token(request(Some(CHALLENGE))).await.map_err(failed)?;
    }
    Ok(format!("ok {count} times"))
}

async fn hits(count: u32, audience: &str) -> Tried {
    get_token(asked(audience.to_owned())).await.map_err(failed)?;
    let start = monotonic_clock::now();
    for _ in 0..count {
        get_token(asked(audience.to_owned())).await.map_err(failed)?;
    }
    Ok(format!("ok {}", monotonic_clock::now() - start))
}

async fn send(order: &Order) -> Tried {
    let (writer, trailers) = wit_future::new(|| Ok(None));
    drop(writer);
    let request = Request::new(Fields::new(), None, trailers, None).0;
    let scheme = match order.word(0) {
        Some("http") => Scheme::Http,
        _ => Scheme::Https,
    };
    request.set_scheme(Some(&scheme)).map_err(refused("scheme"))?;
    request.set_authority(order.word(1)).map_err(refused("authority"))?;
    request.set_path_with_query(order.word(2)).map_err(refused("path"))?;
    let response = client::send(request).await.map_err(refused("send"))?;
    Ok(format!("ok status {}", response.get_status_code()))
}

async fn echo() -> Tried {
    let (stream, _result) = stdin::read_via_stream();
    let bytes = stream.collect().await;
    Ok(format!("ok {}", String::from_utf8_lossy(&bytes)))
}

async fn read(name: String) -> Tried {
    let Some((directory, _)) = preopens::get_directories().into_iter().next() else {
        return Err("refused read: no directory".to_owned());
    };
    let file = directory
        .open_at(
            PathFlags::SYMLINK_FOLLOW,
            name,
            OpenFlags::empty(),
            DescriptorFlags::READ,
        )
        .await
        .map_err(refused("open"))?;
    let (stream, read) = file.read_via_stream(0);
    let bytes = stream.collect().await;
    read.await.map_err(refused("read"))?;
    Ok(format!("ok {}", String::from_utf8_lossy(&bytes)))
}

async fn write(name: String, size: u32) -> Tried {
    let Some((directory, _)) = preopens::get_directories().into_iter().next() else {
        return Err("refused write: no directory".to_owned());
    };
    let file = directory
        .open_at(PathFlags::empty(), name, OpenFlags::CREATE, DescriptorFlags::WRITE)
        .await
        .map_err(refused("open"))?;
    let (mut writer, reader) = wit_stream::new();
    let written = file.write_via_stream(reader, 0);
    let rest = writer.write_all(huge(size).into_bytes()).await;
    drop(writer);
    written.await.map_err(refused("write"))?;
    Ok(format!("ok {}", size as usize - rest.len()))
}

async fn hand_over(place: &str, size: u32) -> Tried {
    let text = huge(size);
    match place {
        "audience" => get_token(asked(text)).await.map_err(failed).and_then(got),
        "claims" => {
            let mut request = asked("https://vault.azure.net".to_owned());
            request.claims = Some(text);
            get_token(request).await.map_err(failed).and_then(got)
        }
        "decode" => token_claims::decode(&text).map_err(failed).map(|_| "ok".to_owned()),
        "header" => {
            Fields::new().append("x", text.as_bytes()).map_err(refused("header"))?;
            Ok("ok taken".to_owned())
        }
        "output" => {
            print(text.into_bytes()).await;
            Ok("ok taken".to_owned())
        }
        unknown => Err(format!("no such place: {unknown}")),
    }
}
