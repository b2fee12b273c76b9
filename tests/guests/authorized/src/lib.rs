//! A plugin that sends what it is told to, and shows all of its memory.
//!
//! It keeps no secret and needs none: what is in its memory after a run is what a hostile plugin could have looked at.
#![cfg(all(target_arch = "wasm32", any(feature = "wasi-0-2", feature = "wasi-0-3")))]

#[cfg(feature = "wasi-0-2")]
mod wasi_0_2;
#[cfg(feature = "wasi-0-3")]
mod wasi_0_3;

/// Calls `look` as generated code does, but with any place in memory: also the first one, which no slice of Rust may begin at.
#[expect(unsafe_code, reason = "the import is called with places in memory")]
fn look_at_everything() {
    const PAGE: usize = 64 * 1024;

    #[link(wasm_import_module = "$root")]
    unsafe extern "C" {
        #[link_name = "look"]
        fn look(from: usize, length: usize);
    }

    // SAFETY: the host reads what is there, and all of it is.
    unsafe { look(0, core::arch::wasm32::memory_size::<0>() * PAGE) }
}

/// Keeps a token for ever, that is, as long as the instance.
fn keep(token: String) {
    let _: &str = Box::leak(token.into_boxed_str());
}

/// What both versions of `wasi:http` call alike.
macro_rules! conversions {
    () => {
        fn named(code: ErrorCode) -> String {
            format!("{code:?}")
        }

        fn method(name: &str) -> Method {
            match name {
                "GET" => Method::Get,
                "HEAD" => Method::Head,
                "POST" => Method::Post,
                "PUT" => Method::Put,
                "DELETE" => Method::Delete,
                "CONNECT" => Method::Connect,
                "OPTIONS" => Method::Options,
                "TRACE" => Method::Trace,
                "PATCH" => Method::Patch,
                other => Method::Other(other.to_owned()),
            }
        }

        fn scheme(name: &str) -> Scheme {
            match name {
                "http" => Scheme::Http,
                "https" => Scheme::Https,
                other => Scheme::Other(other.to_owned()),
            }
        }
    };
}
use conversions;
