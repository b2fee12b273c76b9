//! A server that remembers who came.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What the witness itself sends, to know that all who came before it have been noted.
const ROLL_CALL: &str = "roll call\r\n\r\n";

/// How long a visitor may say nothing. None does; it keeps a broken test from hanging.
const LONGEST_SILENCE: Duration = Duration::from_secs(5);

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";

/// A server that answers every request alike, one after the other, and keeps their heads.
pub(crate) struct Witness {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Witness {
    /// A server on a free port.
    pub(crate) fn start() -> Self {
        Self::at(([127, 0, 0, 1], 0).into()).unwrap()
    }

    /// A server at an address that not every machine has.
    pub(crate) fn at(address: SocketAddr) -> io::Result<Self> {
        Self::answering(address, OK.to_owned())
    }

    /// A server that sends everybody somewhere else.
    pub(crate) fn redirecting(location: &str) -> Self {
        let reply =
            format!("HTTP/1.1 307 Elsewhere\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        Self::answering(([127, 0, 0, 1], 0).into(), reply).unwrap()
    }

    fn answering(address: SocketAddr, reply: String) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let heads = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&heads);
        thread::spawn(move || {
            for visitor in listener.incoming().flatten() {
                // Whoever has gone again has come nevertheless.
                let head = exchange(visitor, &reply).unwrap_or_default();
                if head != ROLL_CALL {
                    noted.lock().unwrap().push(head);
                }
            }
        });
        Ok(Self { address, heads })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The heads of all requests since the start; an empty one for a connection without.
    pub(crate) fn heads(&self) -> Vec<String> {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(ROLL_CALL.as_bytes()).unwrap();
        // Connections are accepted in the order in which they were made, so all earlier ones have been answered before.
        stream.read_to_end(&mut Vec::new()).unwrap();
        self.heads.lock().unwrap().clone()
    }
}

fn exchange(mut visitor: TcpStream, reply: &str) -> io::Result<String> {
    visitor.set_read_timeout(Some(LONGEST_SILENCE))?;
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.ends_with(b"\r\n\r\n") {
        match visitor.read(&mut buffer)? {
            0 => break,
            read => head.extend_from_slice(&buffer[..read]),
        }
    }
    visitor.write_all(reply.as_bytes())?;
    Ok(String::from_utf8_lossy(&head).into_owned())
}
