"""Runs a command, whose environment are the variables that are named:

    python run.py [--env NAME]... FILE.wasm [ARGUMENT]...
"""

import os
import sys
from argparse import REMAINDER, ArgumentParser

from wasmtime import Config, Engine, ExitTrap, Store, WasiConfig
from wasmtime.component import Component, Linker


def run(file: str, arguments: list[str], environment: dict[str, str]) -> bool:
    config = Config()
    # Compiled code is kept, in the user's folder of caches.
    config.cache = True
    engine = Engine(config)
    component = Component.from_file(engine, file)

    linker = Linker(engine)
    linker.add_wasip2()
    linker.add_wasi_http()

    wasi = WasiConfig()
    wasi.argv = [file, *arguments]
    wasi.env = environment.items()
    wasi.inherit_stdout()
    wasi.inherit_stderr()
    store = Store(engine)
    store.set_wasi(wasi)
    store.set_wasi_http()

    instance = linker.instantiate(store, component)
    # Components differ in the patch version of WASI that they were built with.
    exports = component.type.exports(engine)
    command = next(name for name in exports if name.startswith("wasi:cli/run@"))
    interface = instance.get_export_index(store, command)
    function = instance.get_func(store, instance.get_export_index(store, "run", interface))
    return function(store).tag == "ok"


def main() -> None:
    parser = ArgumentParser()
    parser.add_argument("--env", metavar="NAME", action="append", default=[])
    parser.add_argument("file", metavar="FILE.wasm")
    parser.add_argument("arguments", metavar="ARGUMENT", nargs=REMAINDER)
    options = parser.parse_args()
    environment = {name: os.environ[name] for name in options.env}
    try:
        succeeded = run(options.file, options.arguments, environment)
    except ExitTrap as exited:
        # Some languages leave by `wasi:cli/exit`, with an error or without.
        sys.exit(exited.code)
    sys.exit(0 if succeeded else 1)


if __name__ == "__main__":
    main()
