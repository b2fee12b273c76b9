"""Many processes that all ask at once, each call with a new credential, which has nothing in its cache.

usage: herd.py PROCESSES CALLS RESOURCE...

Each process asks CALLS times for each RESOURCE. Prints one JSON object: how many calls ended in a token, how many tokens
there were for each resource, and the errors, by their class and text.
"""

import collections
import json
import multiprocessing
import sys

from azure.identity import ManagedIdentityCredential


def work(start, results, calls, resources):
    tokens = collections.defaultdict(set)
    errors = collections.Counter()
    succeeded = 0
    start.wait()
    for _ in range(calls):
        for resource in resources:
            try:
                with ManagedIdentityCredential() as credential:
                    tokens[resource].add(credential.get_token(resource + "/.default").token)
                succeeded += 1
            except Exception as error:  # Any is one too many, and is reported.
                errors[f"{type(error).__name__}: {error}"] += 1
    results.put((succeeded, dict(tokens), dict(errors)))


def main():
    processes, calls, resources = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    # The packages are imported once.
    context = multiprocessing.get_context("fork")
    start = context.Barrier(processes)
    results = context.Queue()
    workers = [context.Process(target=work, args=(start, results, calls, resources)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    succeeded, tokens, errors = 0, collections.defaultdict(set), collections.Counter()
    for _ in workers:
        count, by_resource, failed = results.get()
        succeeded += count
        errors.update(failed)
        for resource, texts in by_resource.items():
            tokens[resource] |= texts
    for worker in workers:
        worker.join()
    tokens = {resource: sorted(texts) for resource, texts in tokens.items()}
    print(json.dumps({"succeeded": succeeded, "tokens": tokens, "errors": errors}))


main()
