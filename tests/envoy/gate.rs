//! A way to a server that can be held up.

use crate::support::emulated::Emulated;
use managed_identity_emulator::Source;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// When to give up waiting for somebody to come.
const DEADLINE: Duration = Duration::from_secs(20);

/// Takes connections, and leads them to a server as long as it is open. It begins shut: those who come wait.
pub(crate) struct Gate {
    address: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    /// From which of them on they are led; none as long as it is shut.
    open_from: Option<usize>,
    came: usize,
}

impl Gate {
    pub(crate) fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<(Mutex<State>, Condvar)>::default();
        let shared = Arc::clone(&state);
        // Both kinds of threads end with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, shared) = (stream.unwrap(), Arc::clone(&shared));
                thread::spawn(move || {
                    let (state, changed) = &*shared;
                    let mut state = state.lock().unwrap();
                    state.came += 1;
                    let number = state.came;
                    changed.notify_all();
                    let state = changed.wait_while(state, |state| state.open_from.is_none()).unwrap();
                    let is_led = state.open_from.is_some_and(|first| first <= number);
                    drop(state);
                    if is_led {
                        lead(&stream, server);
                    }
                });
            }
        });
        Self { address, state }
    }

    /// The way to a platform, and the environment that leads there.
    pub(crate) fn before(platform: &Emulated) -> (Self, Vec<(String, String)>) {
        let gate = Self::to(platform.listening());
        let (server, gates) = (platform.listening().to_string(), gate.address.to_string());
        let environment = platform.environment_for(Source::AppService).into_iter();
        let environment = environment.map(|(name, value)| (name, value.replace(&server, &gates)));
        (gate, environment.collect())
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many have come.
    pub(crate) fn came(&self) -> usize {
        self.state.0.lock().unwrap().came
    }

    /// Returns when so many have come.
    #[track_caller]
    pub(crate) fn wait_for(&self, number: usize) {
        let (state, changed) = &*self.state;
        let state = state.lock().unwrap();
        let (state, waited) = changed
            .wait_timeout_while(state, DEADLINE, |state| state.came < number)
            .unwrap();
        assert!(!waited.timed_out(), "{} of {number} have come", state.came);
    }

    pub(crate) fn open(&self) {
        self.open_from(1);
    }

    /// Leads who came as this one and later. Those before have left, and what they brought is not passed on.
    pub(crate) fn open_from(&self, number: usize) {
        self.state.0.lock().unwrap().open_from = Some(number);
        self.state.1.notify_all();
    }
}

fn lead(client: &TcpStream, server: SocketAddr) {
    let Ok(server) = TcpStream::connect(server) else { return };
    let carry = |mut from: &TcpStream, mut to: &TcpStream| {
        // Either side may leave at any time.
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    };
    thread::scope(|scope| {
        scope.spawn(|| carry(client, &server));
        carry(&server, client);
    });
}
