#!/bin/sh
# Builds the component, and prints where it is.
set -eu
HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
ROOT=$(CDPATH='' cd -- "$HERE/../../.." && pwd)
# shellcheck source=examples/guests/tools.sh
. "$HERE/../tools.sh"

# Debian's, which has all that it takes to compile for WASI.
has_clang() { echo 'int main(void) { return 0; }' | clang-19 --target=wasm32-wasi -x c - -o "$OUT/empty.wasm" 2>/dev/null; }

component c "$HERE"
packages='clang-19 lld-19 libclang-rt-19-dev-wasm32 wasi-libc'
# shellcheck disable=SC2086 # names without blanks
has_clang || install_debian $packages ||
    die "clang 19 for WASI is missing: on Debian, \`apt-get install $packages\`, then run this again"
wit_bindgen=$(wit_bindgen)
wasm_tools=$(wasm_tools)
adapter=$(adapter command)
wit "$OUT/wit"
cd "$HERE"
"$wit_bindgen" c --world fetch-secret-main --rename-world wit --rename wasi:http/types@0.2.12=http \
    --out-dir "$OUT/bindings" "$OUT/wit" >&2
clang-19 --target=wasm32-wasi -Os -s -Wall -Wextra -Werror -I "$OUT/bindings" -o "$OUT/module.wasm" \
    ./*.c "$OUT/bindings/wit.c" "$OUT/bindings/wit_component_type.o" >&2
"$wasm_tools" component new "$OUT/module.wasm" --adapt "$adapter" -o "$OUT/new.wasm" >&2
built "$OUT/new.wasm"
