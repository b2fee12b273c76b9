//! Keeps the module in memory once it is loaded.

fn main() {
    // Envoy unloads a module with the last configuration that uses it. Threads of this one would go on in code that is gone.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo::rerun-if-changed=build.rs");
}
