//! The shapes of replies, and what has to come of each.

use super::{CLIENT, SECRET, TOKEN};
use crate::support::server::{Act, reply, token_reply};
use managed_identity_host::Cause;
use std::time::Duration;

/// For as long as somebody reads.
const FOR_EVER: u64 = u64::MAX;

const MEGABYTE: u64 = 1024 * 1024;

/// Between two bytes of a drip: fast enough for no limit on standing still, and slow enough to take for ever.
const DRIP: Duration = Duration::from_millis(50);

/// What comes of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The token, [`TOKEN`].
    Token,
    /// No token, for this cause.
    No(Cause),
    /// Either: it depends on which limit is reached first.
    Either(Cause, Cause),
}

use Outcome::{Either, No, Token};

const BROKEN: Outcome = No(Cause::MalformedReply);
const FOREIGN: Outcome = No(Cause::EndpointIntercepted);
const LATE: Outcome = No(Cause::DeadlineExceeded);
/// Foreign, as WASI 0.3 tells it. What is wrong with the body of a reply, wasmtime does not tell a component for WASI 0.2:
/// the code of the error gets lost on its way through `wasi:io/error`.
const FOREIGN_BODY: Outcome = Either(Cause::EndpointIntercepted, Cause::MalformedReply);

fn bytes(text: impl Into<Vec<u8>>) -> Vec<u8> {
    text.into()
}

/// A reply in which the rest of an object follows a good token.
fn with(rest: &str) -> Act {
    Act::ok(&format!(r#"{{"access_token":"{TOKEN}",{rest}}}"#))
}

/// A reply with this JSON text as its token.
fn with_token(json: &str) -> Act {
    Act::ok(&format!(
        r#"{{"access_token":{json},"expires_in":3600,"token_type":"Bearer"}}"#
    ))
}

/// The head of a successful reply, which these header lines end or leave open.
fn head(rest: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\n{rest}").into_bytes()
}

/// A value deeper than any stack, were it read by recursion.
fn nested(open: &str, close: &str) -> String {
    format!("{}1{}", open.repeat(20_000), close.repeat(20_000))
}

fn silences() -> Vec<(&'static str, Act, Outcome)> {
    vec![
        ("silence", Act::Hold(Vec::new()), LATE),
        ("silence in the status line", Act::Hold(bytes("HTTP/1.1 2")), LATE),
        ("silence in the header", Act::Hold(head("Content-Ty")), LATE),
        (
            "silence before the body",
            Act::Hold(head("Content-Length: 90\r\n\r\n")),
            LATE,
        ),
        (
            "silence in the body",
            Act::Hold(head("Content-Length: 90\r\n\r\n{\"access_")),
            LATE,
        ),
        (
            "silence in a chunk",
            Act::Hold(head("Transfer-Encoding: chunked\r\n\r\n50\r\n{\"access_")),
            LATE,
        ),
        (
            "silence in the trailers",
            Act::Hold(head("Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nA: b\r\n")),
            LATE,
        ),
        (
            "a drip of header",
            Act::Drip(Vec::new(), head("A: b\r\nA: b"), DRIP),
            LATE,
        ),
        (
            "a drip of one header line",
            Act::Drip(head("A: "), bytes("x"), DRIP),
            LATE,
        ),
        (
            "a drip of body",
            Act::Drip(head("Content-Length: 9000\r\n\r\n"), bytes(token_reply(TOKEN)), DRIP),
            LATE,
        ),
        (
            "a drip of a body without length",
            Act::Drip(head("\r\n"), bytes(" "), DRIP),
            LATE,
        ),
        (
            "a drip of chunks",
            Act::Drip(head("Transfer-Encoding: chunked\r\n\r\n"), bytes("1\r\n \r\n"), DRIP),
            LATE,
        ),
    ]
}

/// What is sent for as long as somebody reads, or promised to be.
pub(crate) fn floods() -> Vec<(&'static str, Act, Outcome)> {
    let spaces = vec![b' '; 64 * 1024];
    let chunk = [b"10000\r\n".as_slice(), &spaces, b"\r\n"].concat();
    let lines = "X-Header: value\r\n".repeat(1000);
    vec![
        (
            "header lines without end",
            Act::Flood(head(""), bytes(lines.clone()), FOR_EVER),
            BROKEN,
        ),
        (
            "a header line without end",
            Act::Flood(head("A: "), vec![b'a'; 4096], FOR_EVER),
            BROKEN,
        ),
        (
            "a status line without end",
            Act::Flood(bytes("HTTP/1.1 200 "), vec![b'a'; 4096], FOR_EVER),
            BROKEN,
        ),
        (
            "sixty-five header fields",
            Act::Reply(head(&format!("{}Content-Length: 0\r\n\r\n", "A: b\r\n".repeat(65)))),
            BROKEN,
        ),
        (
            "a body of 50 MB",
            Act::Flood(head("Content-Length: 52428800\r\n\r\n"), spaces.clone(), 50 * MEGABYTE),
            BROKEN,
        ),
        (
            "a body without end",
            Act::Flood(head("\r\n"), spaces.clone(), FOR_EVER),
            BROKEN,
        ),
        (
            "chunks without end",
            Act::Flood(head("Transfer-Encoding: chunked\r\n\r\n"), chunk, FOR_EVER),
            BROKEN,
        ),
        (
            "small chunks without end",
            Act::Flood(
                head("Transfer-Encoding: chunked\r\n\r\n"),
                bytes("1\r\n \r\n".repeat(1000)),
                FOR_EVER,
            ),
            // A component takes its time for a million bodies of one byte.
            Either(Cause::MalformedReply, Cause::DeadlineExceeded),
        ),
        (
            "a chunk extension without end",
            Act::Flood(
                head("Transfer-Encoding: chunked\r\n\r\n1;a="),
                vec![b'a'; 4096],
                FOR_EVER,
            ),
            FOREIGN_BODY,
        ),
        (
            "a chunk size of zeros without end",
            Act::Flood(head("Transfer-Encoding: chunked\r\n\r\n"), vec![b'0'; 4096], FOR_EVER),
            // In 0.2 the component is not told what is wrong, and tries again.
            Either(Cause::MalformedReply, Cause::DeadlineExceeded),
        ),
        (
            "trailers without end",
            Act::Flood(
                head("Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"),
                bytes(lines),
                FOR_EVER,
            ),
            FOREIGN_BODY,
        ),
        (
            "interim replies without end",
            Act::Flood(Vec::new(), bytes("HTTP/1.1 100 Continue\r\n\r\n".repeat(100)), FOR_EVER),
            BROKEN,
        ),
        (
            "a chunk of 2^64 - 1 bytes",
            Act::Flood(
                head("Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"),
                spaces.clone(),
                FOR_EVER,
            ),
            BROKEN,
        ),
        (
            "a chunk of 2^64 bytes",
            Act::Flood(
                head("Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n"),
                spaces.clone(),
                FOR_EVER,
            ),
            FOREIGN_BODY,
        ),
        (
            "a length of a terabyte",
            Act::Hold(head("Content-Length: 1099511627776\r\n\r\n{")),
            BROKEN,
        ),
        (
            "a length of 2^64 - 3",
            Act::Hold(head("Content-Length: 18446744073709551613\r\n\r\n{")),
            BROKEN,
        ),
        (
            "a length of 2^64",
            Act::Hold(head("Content-Length: 18446744073709551616\r\n\r\n{")),
            FOREIGN,
        ),
        (
            "a reply of 300 KiB",
            Act::ok(&format!("{}{}", token_reply(TOKEN), " ".repeat(300 * 1024))),
            BROKEN,
        ),
        (
            "a token of 65 KiB",
            with_token(&format!("\"{}\"", "a".repeat(65 * 1024))),
            BROKEN,
        ),
    ]
}

fn breaks() -> Vec<(&'static str, Act, Outcome)> {
    let good = token_reply(TOKEN);
    let length = good.len();
    vec![
        (
            "a body cut short",
            Act::Close(head(&format!("Content-Length: {}\r\n\r\n{good}", length + 1))),
            BROKEN,
        ),
        (
            "a chunked body cut short",
            Act::Close(head(&format!(
                "Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{good}\r\n"
            ))),
            BROKEN,
        ),
        ("a header cut short", Act::Close(head("Content-Type: appl")), BROKEN),
        ("no reply", Act::Close(Vec::new()), BROKEN),
        ("a reset", Act::Reset, BROKEN),
        ("JSON cut short", Act::ok(&good[..length - 9]), BROKEN),
        (
            "garbage",
            Act::Close(bytes([0, 1, 2, 0xff, 0xfe, b'\n', 0x80].repeat(100))),
            FOREIGN,
        ),
        ("a reply without a head", Act::Close(bytes(good.clone())), FOREIGN),
        (
            "another protocol",
            Act::Close(bytes("SSH-2.0-OpenSSH_9.2\r\n")),
            FOREIGN,
        ),
        (
            "the preface of HTTP/2",
            Act::Close(bytes("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
            FOREIGN,
        ),
        (
            "settings of HTTP/2",
            Act::Close(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])),
            FOREIGN,
        ),
        ("a TLS alert", Act::Close(bytes([0x15, 3, 3, 0, 2, 2, 0x46])), FOREIGN),
        (
            "another version of HTTP",
            Act::Close(bytes("HTTP/3.0 200 OK\r\n\r\n{}")),
            FOREIGN,
        ),
        (
            "a status of two digits",
            Act::Close(bytes("HTTP/1.1 20 OK\r\n\r\n{}")),
            FOREIGN,
        ),
        ("a header with a NUL", Act::Close(head("A: \0\r\n\r\n{}")), FOREIGN),
        (
            "two lengths",
            Act::Close(head("Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}")),
            FOREIGN,
        ),
        (
            "a length of -1",
            Act::Close(head("Content-Length: -1\r\n\r\n{}")),
            FOREIGN,
        ),
        (
            "a chunk size of letters",
            Act::Close(head("Transfer-Encoding: chunked\r\n\r\nxyz\r\n{}")),
            FOREIGN_BODY,
        ),
        (
            "another protocol from now on",
            Act::Hold(bytes(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
            )),
            FOREIGN,
        ),
    ]
}

fn statuses() -> Vec<(&'static str, Act, Outcome)> {
    let page = "<!DOCTYPE html><html><title>Sign in</title></html>";
    let elsewhere = reply(302, &[("Location", "http://127.0.0.1:9/")], "");
    vec![
        ("a login page", Act::ok(page), FOREIGN),
        (
            "a login page behind a byte order mark",
            Act::ok(&format!("\u{feff}\r\n {page}")),
            FOREIGN,
        ),
        ("a redirect", Act::Reply(elsewhere), FOREIGN),
        (
            "a redirect that carries a token",
            Act::status(307, &token_reply(TOKEN)),
            FOREIGN,
        ),
        ("a proxy's demand", Act::status(407, page), FOREIGN),
        (
            "400 that carries a token",
            Act::status(400, &token_reply(TOKEN)),
            No(Cause::InvalidRequest),
        ),
        (
            "401 that carries a token",
            Act::status(401, &token_reply(TOKEN)),
            No(Cause::CredentialRejected),
        ),
        (
            "403 that carries the secret",
            Act::status(403, SECRET),
            No(Cause::CredentialRejected),
        ),
        (
            "404 that carries a token",
            Act::status(404, &token_reply(TOKEN)),
            No(Cause::EndpointUnreachable),
        ),
        (
            "201 that carries a token",
            Act::status(201, &token_reply(TOKEN)),
            BROKEN,
        ),
        ("204", Act::Reply(bytes("HTTP/1.1 204 No Content\r\n\r\n")), BROKEN),
        (
            "206 that carries a token",
            Act::status(206, &token_reply(TOKEN)),
            BROKEN,
        ),
        ("304", Act::Reply(bytes("HTTP/1.1 304 Not Modified\r\n\r\n")), FOREIGN),
        (
            "500 that carries a token",
            Act::status(500, &token_reply(TOKEN)),
            No(Cause::PlatformFailure),
        ),
        ("999", Act::status(999, page), No(Cause::PlatformFailure)),
        (
            "a wait of a thousand years",
            Act::Reply(reply(429, &[("Retry-After", "31557600000")], "")),
            No(Cause::Throttled),
        ),
        (
            "a wait of no time, again and again",
            Act::Reply(reply(503, &[("Retry-After", "0"), ("retry-after-ms", "0")], "")),
            No(Cause::PlatformFailure),
        ),
    ]
}

fn contents() -> Vec<(&'static str, Act, Outcome)> {
    let gzip = [
        head("Content-Encoding: gzip\r\nContent-Length: 12\r\n\r\n"),
        bytes([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xab, 0x56]),
    ]
    .concat();
    let latin1 = [head("Content-Length: 5\r\n\r\n"), bytes(b"{\"\xe9\"}".as_slice())].concat();
    vec![
        ("compression that nobody asked for", Act::Reply(gzip), BROKEN),
        ("text in Latin-1", Act::Reply(latin1), BROKEN),
        ("nothing", Act::ok(""), BROKEN),
        ("white space", Act::ok(" \r\n\t"), BROKEN),
        ("words", Act::ok("OK"), BROKEN),
        ("null", Act::ok("null"), BROKEN),
        ("an array of nothing", Act::ok("[]"), BROKEN),
        ("an array in an array", Act::ok("[[{}]]"), BROKEN),
        ("a string", Act::ok("\"token\""), BROKEN),
        ("two objects", Act::ok(&token_reply(TOKEN).repeat(2)), BROKEN),
        (
            "no token",
            Act::ok(r#"{"expires_in":3600,"token_type":"Bearer"}"#),
            BROKEN,
        ),
        ("an empty token", with_token(r#""""#), BROKEN),
        ("a null token", with_token("null"), BROKEN),
        ("a number as token", with_token("5"), BROKEN),
        ("an object as token", with_token(r#"{"a":"b"}"#), BROKEN),
        ("a token with a NUL", with_token(r#""a\u0000b""#), BROKEN),
        ("a token with a bare NUL", with_token("\"a\0b\""), BROKEN),
        (
            "a token with a line break",
            with_token(r#""a\r\nX-Admin: yes""#),
            BROKEN,
        ),
        ("a token with a space", with_token(r#""a b""#), BROKEN),
        ("a token with an accent", with_token("\"caf\u{e9}\""), BROKEN),
        ("half a surrogate pair", with_token(r#""\ud800""#), BROKEN),
        ("arrays 20,000 deep", Act::ok(&"[".repeat(20_000)), BROKEN),
        ("objects 20,000 deep", Act::ok(&"{\"a\":".repeat(20_000)), BROKEN),
        ("a token 20,000 deep", with_token(&nested("[", "]")), BROKEN),
        (
            "a time 20,000 deep",
            with(&format!(r#""expires_in":{}"#, nested("{\"a\":", "}"))),
            BROKEN,
        ),
        (
            "two tokens",
            with(r#""access_token":"other","expires_in":3600"#),
            BROKEN,
        ),
        ("two times", with(r#""expires_in":3600,"expires_in":7200"#), BROKEN),
        ("no time", with(r#""token_type":"Bearer""#), BROKEN),
        (
            "a number without end",
            with(&format!(r#""expires_in":1{}"#, "0".repeat(10_000))),
            BROKEN,
        ),
        ("a number of 1e400", with(r#""expires_in":1e400"#), BROKEN),
        ("a number of -1", with(r#""expires_in":-1"#), BROKEN),
        (
            "a time that is over",
            with(r#""expires_on":1500000000"#),
            No(Cause::TokenRejected),
        ),
        ("no time left", with(r#""expires_in":"0""#), No(Cause::TokenRejected)),
        (
            "a token of tomorrow",
            with(r#""expires_in":360000,"not_before":"4102444800""#),
            BROKEN,
        ),
        (
            "proof of possession",
            with(r#""expires_in":3600,"token_type":"pop""#),
            BROKEN,
        ),
        (
            "a token of another client",
            with(r#""expires_in":3600,"client_id":"other""#),
            No(Cause::IdentityMismatch),
        ),
        (
            "a token for another audience",
            with(r#""expires_in":3600,"resource":"https://other.example""#),
            BROKEN,
        ),
        (
            "a list of clients",
            with(r#""expires_in":3600,"client_id":["a"]"#),
            BROKEN,
        ),
    ]
}

/// Odd, and good all the same: the rows above fail for what they say, and not for everything that is unusual.
fn oddities() -> Vec<(&'static str, Act, Outcome)> {
    let good = token_reply(TOKEN);
    let chunks: String = good.chars().map(|letter| format!("1;x=y\r\n{letter}\r\n")).collect();
    vec![
        ("nothing odd", Act::ok(&good), Token),
        (
            "a body that ends with the connection",
            Act::Close(head(&format!("\r\n{good}"))),
            Token,
        ),
        (
            "chunks of a byte",
            Act::Reply(head(&format!(
                "transfer-encoding: Chunked\r\n\r\n{chunks}0\r\nA: b\r\n\r\n"
            ))),
            Token,
        ),
        (
            "HTTP/1.0",
            Act::Close(bytes(format!("HTTP/1.0 200 OK\r\n\r\n{good}"))),
            Token,
        ),
        (
            "no reason phrase",
            Act::Close(bytes(format!("HTTP/1.1 200\r\n\r\n{good}"))),
            Token,
        ),
        (
            "an interim reply",
            Act::Reply(bytes(format!(
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{good}",
                good.len()
            ))),
            Token,
        ),
        (
            "more than the reply",
            Act::Close(bytes(
                [reply(200, &[], &good), bytes("HTTP/1.1 500 No\r\n\r\n")].concat(),
            )),
            Token,
        ),
        (
            "a byte order mark and white space",
            Act::ok(&format!("\u{feff}\r\n {good}\r\n")),
            Token,
        ),
        (
            "an array that begins with a reply",
            Act::ok(&format!("[{good},{{}}]")),
            Token,
        ),
        (
            "twice what nobody reads",
            with(r#""x":1,"x":{"y":[]},"expires_in":"3600""#),
            Token,
        ),
        (
            "a time of 1e300 beside a good one",
            with(r#""expires_in":1e300,"expires_on":"4102444800""#),
            Token,
        ),
        (
            "depths that nobody reads",
            with(&format!(r#""a":{},"expires_in":3600"#, nested("[", "]"))),
            Token,
        ),
        (
            "another case",
            with(&format!(
                r#""expires_in":3600,"token_type":"bEARER","client_id":"{}""#,
                CLIENT.to_uppercase()
            )),
            Token,
        ),
    ]
}

/// Everything, each with a name and what has to come of it.
pub(crate) fn all() -> Vec<(&'static str, Act, Outcome)> {
    [silences(), floods(), breaks(), statuses(), contents(), oddities()].concat()
}
