#!/bin/sh
# Builds fetch-secret for WASI 0.3 and prints where it is. The README has the commands for a project of your own; this also
# builds where rustup has no target for components, and Debian's compiler has to do it.
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/../../.." && pwd)
# shellcheck source=examples/guests/tools.sh
. "$ROOT/examples/guests/tools.sh"

component rust-async "$ROOT/examples/guests/rust-async" "$ROOT/guest/build" "$ROOT/Cargo.toml" "$ROOT/Cargo.lock"
cd "$ROOT"
cargo run --quiet --locked --bin managed-identity-guest-build -- \
    examples/guests/rust-async example-guest-rust-async "$TARGET/guest" "$OUT/new.wasm" >&2
built "$OUT/new.wasm"
