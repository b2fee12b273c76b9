//! WASI 0.2.

use crate::order::{CHALLENGE, Order, Tried, huge, identity, names, refused};
use wasip2::cli::{environment, exit, stdin, stdout};
use wasip2::clocks::monotonic_clock;
use wasip2::filesystem::preopens;
use wasip2::filesystem::types::{DescriptorFlags, OpenFlags, PathFlags};
use wasip2::http::outgoing_handler;
use wasip2::http::types::{Fields, OutgoingBody, OutgoingRequest, Scheme};

#[path = "../../sockets/wasi_0_2.rs"]
mod sockets;

mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit/0.2",
        inline: "
            package managed-identity:plugin;
            world guest {
                import cloud:identity/managed-identity@0.2.0;
                import cloud:identity/token-claims@0.2.0;
            }
        ",
        world: "managed-identity:plugin/guest",
        generate_all,
    });
}

mod command {
    use super::Component;

    wasip2::cli::command::export!(Component);
}

use bindings::cloud::identity::managed_identity::{
    AccessToken, Error, TokenRequest, describe_source, forget, get_token,
};
use bindings::cloud::identity::token_claims;
use bindings::cloud::identity::types::Identity;

identity!();

struct Component;

impl wasip2::exports::cli::run::Guest for Component {
    fn run() -> Result<(), ()> {
        let order = Order::new(environment::get_arguments());
        if order.verb() == "fail" {
            return Err(());
        }
        order.alone();
        let line = obey(&order).unwrap_or_else(|line| line);
        print(format!("{line}\n").as_bytes());
        Ok(())
    }
}

/// Prints in the pieces that the interface takes.
fn print(bytes: &[u8]) {
    let output = stdout::get_stdout();
    for piece in bytes.chunks(4096) {
        output.blocking_write_and_flush(piece).expect("standard output is open");
    }
}

fn obey(order: &Order) -> Tried {
    match order.verb() {
        "token" => get_token(&ordered(order)).map_err(failed).and_then(got),
        "tokens" => tokens(order.number(0), order.number(1), order.text(2)),
        "hits" => hits(order.number(0), asked(order.text(1))),
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
        "tcp" => sockets::connect(order.address(0)).map(|done| format!("ok {done}")),
        "listen" => sockets::listen(order.address(0)).map(|done| format!("ok {done}")),
        "udp" => sockets::datagram(order.address(0)).map(|done| format!("ok {done}")),
        "resolve" => sockets::resolve(&order.text(0)).map(|done| format!("ok {done}")),
        "send" => send(order),
        "environment" => names(
            environment::get_environment()
                .into_iter()
                .map(|(name, value)| format!("{name}={value}")),
        ),
        "arguments" => names(environment::get_arguments()),
        "directory" => names(environment::initial_cwd()),
        "files" => names(preopens::get_directories().into_iter().map(|(_, name)| name)),
        "read" => read(&order.text(0)),
        "write" => write(&order.text(0), order.number(1)),
        "echo" => echo(),
        "exit" => {
            exit::exit_with_code(order.number(0) as u8);
            Ok("went on".to_owned())
        }
        "spin-calling" => loop {
            drop(environment::get_environment());
        },
        "sleep" => {
            monotonic_clock::subscribe_duration(u64::MAX).block();
            Ok("woke".to_owned())
        }
        "flood" => loop {
            let _ = get_token(&asked(order.text(0)));
        },
        "huge" => hand_over(&order.text(0), order.number(1)),
        "print" => loop {
            print(b"It prints and prints.\n");
        },
        "hoard" => {
            let mut timers = Vec::new();
            loop {
                timers.push(monotonic_clock::subscribe_duration(u64::MAX));
            }
        }
        unknown => Err(format!("no such order: {unknown}")),
    }
}

fn tokens(count: u32, timeout: u32, audience: String) -> Tried {
    let mut request = asked(audience);
    request.timeout_ms = Some(timeout);
    for _ in 0..count {
        request.claims = None;
        get_token(&request).map_err(failed)?;
        request.claims = Some(CHALLENGE.to_owned());
        get_token(&request).map_err(failed)?;
    }
    Ok(format!("ok {count} times"))
}

fn hits(count: u32, request: TokenRequest) -> Tried {
    get_token(&request).map_err(failed)?;
    let start = monotonic_clock::now();
    for _ in 0..count {
        get_token(&request).map_err(failed)?;
    }
    Ok(format!("ok {}", monotonic_clock::now() - start))
}

fn send(order: &Order) -> Tried {
    let request = OutgoingRequest::new(Fields::new());
    let scheme = match order.word(0) {
        Some("http") => Scheme::Http,
        _ => Scheme::Https,
    };
    request.set_scheme(Some(&scheme)).map_err(refused("scheme"))?;
    request.set_authority(order.word(1)).map_err(refused("authority"))?;
    request.set_path_with_query(order.word(2)).map_err(refused("path"))?;
    let body = request.body().map_err(refused("body"))?;
    let pending = outgoing_handler::handle(request, None).map_err(refused("send"))?;
    OutgoingBody::finish(body, None).map_err(refused("finish"))?;
    pending.subscribe().block();
    match pending.get() {
        Some(Ok(Ok(response))) => Ok(format!("ok status {}", response.status())),
        Some(Ok(Err(code))) => Err(refused("send")(code)),
        _ => Err("no response".to_owned()),
    }
}

fn echo() -> Tried {
    let input = stdin::get_stdin();
    let mut bytes = Vec::new();
    while let Ok(more) = input.blocking_read(4096) {
        bytes.extend(more);
    }
    Ok(format!("ok {}", String::from_utf8_lossy(&bytes)))
}

fn read(name: &str) -> Tried {
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
        .map_err(refused("open"))?;
    let (bytes, _) = file.read(1024, 0).map_err(refused("read"))?;
    Ok(format!("ok {}", String::from_utf8_lossy(&bytes)))
}

fn write(name: &str, size: u32) -> Tried {
    let Some((directory, _)) = preopens::get_directories().into_iter().next() else {
        return Err("refused write: no directory".to_owned());
    };
    let file = directory
        .open_at(PathFlags::empty(), name, OpenFlags::CREATE, DescriptorFlags::WRITE)
        .map_err(refused("open"))?;
    let stream = file.write_via_stream(0).map_err(refused("write"))?;
    let (text, mut written) = (huge(size), 0);
    while written < text.len() {
        let permitted = stream.check_write().map_err(refused("write"))? as usize;
        let piece = &text.as_bytes()[written..text.len().min(written + permitted)];
        stream.write(piece).map_err(refused("write"))?;
        written += piece.len();
        stream.blocking_flush().map_err(refused("flush"))?;
    }
    Ok(format!("ok {written}"))
}

fn hand_over(place: &str, size: u32) -> Tried {
    let text = huge(size);
    match place {
        "audience" => get_token(&asked(text)).map_err(failed).and_then(got),
        "claims" => {
            let mut request = asked("https://vault.azure.net".to_owned());
            request.claims = Some(text);
            get_token(&request).map_err(failed).and_then(got)
        }
        "decode" => token_claims::decode(&text).map_err(failed).map(|_| "ok".to_owned()),
        "header" => {
            Fields::new().append("x", text.as_bytes()).map_err(refused("header"))?;
            Ok("ok taken".to_owned())
        }
        "output" => {
            stdout::get_stdout().write(text.as_bytes()).map_err(refused("write"))?;
            Ok("ok taken".to_owned())
        }
        unknown => Err(format!("no such place: {unknown}")),
    }
}
