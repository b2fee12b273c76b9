#!/bin/sh
# Builds the component, and prints where it is.
set -eu
HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
ROOT=$(CDPATH='' cd -- "$HERE/../../.." && pwd)
# shellcheck source=examples/guests/tools.sh
. "$HERE/../tools.sh"

component javascript "$HERE"
node_tools "$TOOLS/javascript" "$HERE"
wit "$OUT/wit"
cd "$HERE"
"$TOOLS/javascript/node_modules/.bin/componentize-js" fetch-secret.js \
    --wit "$OUT/wit" --world-name fetch-secret --out "$OUT/new.wasm" >&2
built "$OUT/new.wasm"
