"""Prints how many microseconds a call of `run` of a component takes, once it has what it asks for at hand."""

import os
import statistics
import sys
import time

from wasmtime import Config, Engine, Store, WasiConfig
from wasmtime.component import Component, Linker

CALLS = 1000
ROUNDS = 9

config = Config()
config.cache = True
engine = Engine(config)
linker = Linker(engine)
linker.add_wasip2()
linker.add_wasi_http()
wasi = WasiConfig()
wasi.env = os.environ.items()
store = Store(engine)
store.set_wasi(wasi)
store.set_wasi_http()
instance = linker.instantiate(store, Component.from_file(engine, sys.argv[1]))
run = instance.get_func(store, "run")


def per_call() -> float:
    start = time.perf_counter()
    for _ in range(CALLS):
        result = run(store)
        assert result.tag == "ok", result
    return (time.perf_counter() - start) / CALLS


per_call()
print(statistics.median(per_call() for _ in range(ROUNDS)) * 1e6)
