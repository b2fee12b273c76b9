//! No client: what a program costs that asks for one token over a socket and looks for it in what comes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::{env, error::Error, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let endpoint = env::var("IDENTITY_ENDPOINT")?;
    let (authority, path) = endpoint
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
        .ok_or("the endpoint is no URL")?;
    let mut stream = TcpStream::connect(authority)?;
    write!(
        stream,
        "GET /{path}?api-version=2019-08-01&resource=https%3A%2F%2Fvault.azure.net HTTP/1.1\r\nHost: {authority}\r\n\
         X-IDENTITY-HEADER: {}\r\nConnection: close\r\n\r\n",
        env::var("IDENTITY_HEADER")?
    )?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    let (_, rest) = reply.split_once(r#""access_token":""#).ok_or("no token")?;
    let length = rest.find('"').ok_or("no end of the token")?;
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|rest| rest.split_whitespace().next()).ok_or("no VmHWM")?;
    println!(r#"{{"length":{length},"kibibytes":{peak}}}"#);
    Ok(())
}
