#!/bin/sh
# Builds the component, and prints where it is.
set -eu
HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
ROOT=$(CDPATH='' cd -- "$HERE/../../.." && pwd)
# shellcheck source=examples/guests/tools.sh
. "$HERE/../tools.sh"

component python "$HERE"
python_tools "$TOOLS/python" "$HERE/requirements.txt"
wit "$OUT/wit"
# Python leaves `__pycache__` beside what it imports.
cp "$HERE/app.py" "$OUT/"
cd "$OUT"
"$TOOLS/python/bin/componentize-py" --quiet -d wit -w fetch-secret componentize app -o new.wasm >&2
built new.wasm
