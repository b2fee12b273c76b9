//! Keeps the module in memory once it is loaded.

fn main() {
    // Envoy unloads a module with the last configuration that uses it. Threads of this one would go on in code that is gone.
    // Only linkers of ELF know the flag; elsewhere `do_not_close` of Envoy's configuration does it.
    let unix = std::env::var_os("CARGO_CFG_UNIX").is_some();
    let apple = std::env::var("CARGO_CFG_TARGET_VENDOR").is_ok_and(|vendor| vendor == "apple");
    if unix && !apple {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
