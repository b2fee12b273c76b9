//! A command (`wasi:cli/run`) that does what its arguments say, harm included. It may import all of WASI, and tries to.
//!
//! | arguments | what it does |
//! |---|---|
//! | `token AUDIENCE [IDENTITY [CLAIMS]]` | asks for a token; IDENTITY is `default`, `system`, or the kind and the id: `client:…`, `object:…`, `resource:…` |
//! | `tokens COUNT MILLISECONDS AUDIENCE` | asks so often, each time once for what is cached and once anew, with this time-out |
//! | `hits COUNT AUDIENCE` | asks so often for what is cached, and says how many nanoseconds that took |
//! | `together COUNT AUDIENCE` | asks for so many audiences that begin so at once (0.3 only) |
//! | `forget [AUDIENCE]`, `describe`, `decode TOKEN` | the rest of `cloud:identity` |
//! | `tcp ADDRESS`, `udp ADDRESS`, `listen ADDRESS`, `resolve NAME` | uses `wasi:sockets` |
//! | `send SCHEME AUTHORITY PATH` | sends a GET request |
//! | `environment`, `arguments`, `directory`, `files` | says what it is given |
//! | `read NAME` | reads a file in the first directory |
//! | `write NAME SIZE` | writes that many bytes to a file in the first directory, as many at a time as the host takes |
//! | `echo` | reads standard input to its end |
//! | `exit CODE`, `fail` | ends with this code, or with failure |
//! | `spin`, `spin-calling`, `grow`, `recurse`, `trap`, `sleep` | computes, takes memory, takes stack, fails, waits for ever |
//! | `flood AUDIENCE` | asks for tokens without end, in 0.3 many at a time |
//! | `huge audience\|claims\|decode\|header\|output SIZE` | hands the host that many bytes |
//! | `print` | prints without end |
//! | `hoard` | makes host resources without end, and keeps them |
//!
//! What came of it is one line on standard output: `ok` and what there is to tell, or a cause of `cloud:identity` and its
//! message, or `refused` and the error of WASI.

#[cfg(all(target_arch = "wasm32", any(feature = "wasi-0-2", feature = "wasi-0-3")))]
mod order;
#[cfg(all(target_arch = "wasm32", feature = "wasi-0-2"))]
mod wasi_0_2;
#[cfg(all(target_arch = "wasm32", feature = "wasi-0-3"))]
mod wasi_0_3;
