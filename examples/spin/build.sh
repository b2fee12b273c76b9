#!/bin/sh
# Builds what spin.toml and spin-cache.toml name, into target/spin, and prints where it is: `build.sh [PART...]`, where a part is
# rust, javascript, provider or provider-with-cache; without one, all of them.
set -eu
HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
ROOT=$(CDPATH='' cd -- "$HERE/../.." && pwd)
# shellcheck source=examples/guests/tools.sh
. "$ROOT/examples/guests/tools.sh"
OUT=$TARGET/spin

# is_fresh PART SOURCE...: whether it is there and of these sources (files and folders). If not, it is gone, and `made PART` is to
# follow.
is_fresh() {
    part=$OUT/$1
    shift
    SOURCES=$(find "$@" "$HERE/build.sh" -path "$HERE/rust/target" -prune -o -type f -print |
        LC_ALL=C sort | tr '\n' '\0' | xargs -0 sha256sum) || die "cannot read the sources of $part"
    [ -e "$part.wasm" ] && [ "$SOURCES" = "$(cat "$part.sources" 2>/dev/null)" ] && return
    rm -f "$part.wasm" "$part.sources"
    return 1
}

# made PART: takes PART.new.wasm as what `is_fresh` has asked for. Last, so that what was broken off is made anew.
made() {
    printf '%s\n' "$SOURCES" >"$OUT/$1.sources"
    mv "$OUT/$1.new.wasm" "$OUT/$1.wasm"
}

# As for any app in Rust: Spin's own templates build for this target.
rust() {
    is_fresh rust "$HERE/rust" "$ROOT/wit/0.2" && return
    target=wasm32-wasip2
    [ -d "$(rustc --print target-libdir --target $target)" ] || rustup target add $target >&2 ||
        die "this wants Rust's target $target: run \`rustup target add $target\`, then this again"
    cargo build --quiet --locked --release --target $target --manifest-path "$HERE/rust/Cargo.toml" --target-dir "$OUT/rust" >&2
    cp "$OUT/rust/$target/release/example_spin_rust.wasm" "$OUT/rust.new.wasm"
    made rust
}

javascript() {
    tools=$ROOT/examples/guests/javascript
    is_fresh javascript "$HERE/javascript" "$ROOT/wit/0.2" "$tools/package-lock.json" && return
    node_tools "$TOOLS/javascript" "$tools"
    rm -rf "$OUT/wit"
    mkdir -p "$OUT/wit/deps/identity"
    cp "$HERE/javascript/handler.wit" "$OUT/wit/"
    cp "$ROOT/wit/0.2/identity.wit" "$OUT/wit/deps/identity/"
    # What the engine names of WASI is the same in both releases.
    for file in "$ROOT/wit/0.2/deps/"*.wit; do
        sed 's/0\.2\.12/0.2.10/g' "$file" >"$OUT/wit/deps/${file##*/}"
    done
    (cd "$HERE/javascript" && "$TOOLS/javascript/node_modules/.bin/componentize-js" handler.js \
        --wit "$OUT/wit" --world-name handler --out "$OUT/javascript.new.wasm" >&2)
    made javascript
}

# ours FOLDER PACKAGE FEATURE FILE: one of our own components.
ours() {
    (cd "$ROOT" && cargo run --quiet --locked --bin managed-identity-guest-build -- "$1" "$2" "$TARGET/guest" "$4" "$3" >&2)
}

provider() {
    is_fresh provider "$ROOT/guest/src" "$ROOT/guest/Cargo.toml" "$ROOT/guest/build" "$ROOT/wit/0.2" "$ROOT/Cargo.toml" "$ROOT/Cargo.lock" && return
    ours guest managed-identity-provider wasi-0-2 "$OUT/provider.new.wasm"
    made provider
}

# A dependency of Spin is one component, so the two are plugged together before.
provider_with_cache() {
    provider
    is_fresh provider-with-cache "$ROOT/guest/cache" "$ROOT/guest/build" "$ROOT/wit/0.2" "$ROOT/Cargo.toml" "$ROOT/Cargo.lock" "$OUT/provider.wasm" && return
    ours guest/cache managed-identity-cache keyvalue-draft2 "$OUT/cache.wasm"
    wac=$(cargo_tool wac 0.12.0 --no-default-features --features wit)
    "$wac" plug "$OUT/cache.wasm" --plug "$OUT/provider.wasm" --output "$OUT/provider-with-cache.new.wasm" >&2
    made provider-with-cache
}

mkdir -p "$OUT"
if command -v flock >/dev/null; then
    exec 9>"$OUT/lock"
    flock 9
fi
[ $# -gt 0 ] || set -- rust javascript provider provider-with-cache
for name in "$@"; do
    case $name in
    rust | javascript | provider) "$name" ;;
    provider-with-cache) provider_with_cache ;;
    *) die "no such part: $name; there are rust, javascript, provider and provider-with-cache" ;;
    esac
    echo "$OUT/$name.wasm"
done
