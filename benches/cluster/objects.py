"""ConfigMaps, made by several connections at once."""

import concurrent.futures
import json
import random

CONNECTIONS = 8


def namespace(server, name):
    one = server.connection()
    post(one, "/api/v1/namespaces", {"metadata": {"name": name}})


def config_maps(server, namespace_name, count, size):
    """`count` of them, whose value is so many bytes of text that hardly compresses to less than half of it."""
    namespace(server, namespace_name)
    path = f"/api/v1/namespaces/{namespace_name}/configmaps"

    def some(first):
        one = server.connection()
        for number in range(first, count, CONNECTIONS):
            text = random.Random(number).randbytes(size // 2).hex()
            post(one, path, {"metadata": {"name": f"m-{number:06}"}, "data": {"text": text}})

    with concurrent.futures.ThreadPoolExecutor(CONNECTIONS) as threads:
        list(threads.map(some, range(CONNECTIONS)))
    print(f"  made {count} ConfigMaps of {size} bytes in the namespace {namespace_name}", flush=True)


def post(connection, path, document):
    connection.request("POST", path, json.dumps(document), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 201:
        raise RuntimeError(f"POST {path}: {answer.status} {body[:200]!r}")
