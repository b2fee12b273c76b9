#!/bin/sh
# Builds fetch-secret for WASI 0.2 and prints where it is. The README has the commands for a project of your own; this also
# builds where rustup has no target for components, and Debian's compiler has to do it.
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/../../.." && pwd)
# shellcheck source=examples/guests/tools.sh
. "$ROOT/examples/guests/tools.sh"

component rust "$ROOT/examples/guests/rust" "$ROOT/guest/build" "$ROOT/Cargo.toml" "$ROOT/Cargo.lock"
cd "$ROOT"
cargo run --quiet --locked --bin managed-identity-guest-build -- \
    examples/guests/rust example-guest-rust "$TARGET/guest" "$OUT/new.wasm" >&2
built "$OUT/new.wasm"
