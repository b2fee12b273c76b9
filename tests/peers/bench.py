"""What is measured of a client, the same for all that are written in Python, and the same as in bench-rust/src/lib.rs:
`once`, `hits THREADS SECONDS`, `herd CALLERS AUDIENCES`. Each prints one line of JSON."""

import json
import sys
import threading
import time

AUDIENCE = "https://vault.azure.net"
BATCH = 100


def once(make):
    length = make().token(AUDIENCE)
    with open("/proc/self/status", encoding="ascii") as status:
        peak = next(line.split()[1] for line in status if line.startswith("VmHWM:"))
    return {"length": length, "kibibytes": int(peak)}


def hits(make, threads, seconds):
    client = make()
    client.token(AUDIENCE)

    def call():
        calls = 0
        start = time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            for _ in range(BATCH):
                client.token(AUDIENCE)
            calls += BATCH
        return calls / elapsed

    return {"per_second": round(sum(together(call, threads)[1]))}


def herd(make, callers, audiences):
    client = make()
    numbers = iter(range(callers))
    elapsed, _ = together(lambda: client.token(f"https://audience-{next(numbers) % audiences}.example"), callers)
    return {"milliseconds": round(elapsed * 1000, 1)}


def together(call, threads):
    results, failures = [], []
    barrier = threading.Barrier(threads + 1)

    def run():
        barrier.wait()
        try:
            results.append(call())
        except Exception as failure:
            failures.append(failure)

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    barrier.wait()
    start = time.perf_counter()
    for thread in running:
        thread.join()
    if failures:
        raise failures[0]
    return time.perf_counter() - start, results


def run(make):
    match sys.argv[1:]:
        case ["once"]:
            result = once(make)
        case ["hits", threads, seconds]:
            result = hits(make, int(threads), float(seconds))
        case ["herd", callers, audiences]:
            result = herd(make, int(callers), int(audiences))
        case _:
            sys.exit("usage: bench.py once | hits THREADS SECONDS | herd CALLERS AUDIENCES")
    print(json.dumps(result), flush=True)
