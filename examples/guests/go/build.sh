#!/bin/sh
# Builds the component, and prints where it is.
set -eu
HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
ROOT=$(CDPATH='' cd -- "$HERE/../../.." && pwd)
# shellcheck source=examples/guests/tools.sh
. "$HERE/../tools.sh"

component go "$HERE"
python_tools "$TOOLS/go" "$HERE/requirements.txt"
wit_bindgen=$(wit_bindgen)
wasm_tools=$(wasm_tools)
adapter=$(adapter reactor)
generator=$(crate_sources wit-bindgen-go 0.63.0)
wit "$OUT/wit"
rm -rf "$OUT/module" "$OUT/runtime"
mkdir "$OUT/module"
cp "$HERE/"*.go "$HERE/go.mod" "$OUT/module/"
# The module that generated code needs is part of its generator. Who reaches a module proxy gets it from there.
cp -R "$generator/src/pkg" "$OUT/runtime"
cd "$OUT/module"
PATH=$TOOLS/go/bin:$PATH
# Only what is here, and wherever that is: the component is the same to the byte.
export GOFLAGS='-trimpath -buildvcs=false' GOTOOLCHAIN=local GOPROXY=off GOWORK=off
export GOCACHE="$TOOLS/go-cache" GOPATH="$TOOLS/go-path"
"$wit_bindgen" go --world fetch-secret-main --pkg-name example.com/fetch-secret/bindings \
    --out-dir bindings "$OUT/wit" >&2
go mod edit -replace go.bytecodealliance.org/pkg=../runtime
GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -ldflags='-checklinkname=0 -s -w' -o "$OUT/module.wasm" . >&2
"$wasm_tools" component embed --world fetch-secret "$OUT/wit" "$OUT/module.wasm" -o "$OUT/module.wasm" >&2
"$wasm_tools" component new "$OUT/module.wasm" --adapt "$adapter" -o "$OUT/new.wasm" >&2
built "$OUT/new.wasm"
