//! A provider that does whatever harm it is told to.
//!
//! It exports what the real provider exports, so a broker runs it in the same way. The audience of a request is an order:
//! a verb and its arguments, separated by U+001F. It may import all of WASI, and tries to.
//!
//! | order | what it does |
//! |---|---|
//! | `ok` | gives a token |
//! | `send METHOD SCHEME AUTHORITY PATH NAME=VALUE…` | sends this request; `-` leaves a part unset |
//! | `fetch METHOD SCHEME AUTHORITY PATH` | sends this request, and gives a token when the status is 200, one whose successor is due when it is 201, and traps when it is 418 |
//! | `flood COUNT METHOD SCHEME AUTHORITY PATH` | starts that many requests at once and waits for all |
//! | `tcp ADDRESS`, `udp ADDRESS`, `listen ADDRESS`, `resolve NAME` | uses `wasi:sockets` |
//! | `environment`, `arguments`, `directory`, `files`, `input`, `terminal` | says what it is given |
//! | `random COUNT` | draws that many bytes at once |
//! | `spin`, `spin-calling` | computes for ever, without and with calls of the host |
//! | `spin-yielding`, `spin-politely` | computes for ever, and gives way now and then, for no time and for a time |
//! | `spin-later` | gives a token, and computes for ever after that (0.3 only) |
//! | `grow`, `recurse`, `trap`, `exit` | takes memory, takes stack, fails, ends the program |
//! | `sleep SECONDS`, `never` | waits |
//! | `hoard WHAT SIZE` | makes host resources of that many bytes without end, and keeps them: `fields`, `requests`, `timers` |
//! | `huge WHERE SIZE` | hands the host that many bytes: `token`, `message`, `name`, `value`, `authority`, `path`, `method` |
//!
//! What comes of an order is told in an error: its cause is `denied` if the host denied a request, and `unsupported`
//! otherwise, which the host itself never says.

#[cfg(all(target_arch = "wasm32", any(feature = "wasi-0-2", feature = "wasi-0-3")))]
mod order;
#[cfg(all(target_arch = "wasm32", feature = "wasi-0-2"))]
mod wasi_0_2;
#[cfg(all(target_arch = "wasm32", feature = "wasi-0-3"))]
mod wasi_0_3;
