"""ConfigMaps and Secrets, made by several connections at once."""

import base64
import concurrent.futures
import json
import random

CONNECTIONS = 8


def namespace(server, name):
    one = server.connection()
    post(one, "/api/v1/namespaces", {"metadata": {"name": name}}, also=409)


def config_maps(server, namespace_name, count, size):
    objects(server, namespace_name, "configmaps", count, size)


def objects(server, namespace_name, kind, count, size):
    """`count` of them, whose value is so many bytes of text that hardly compresses to less than half of it."""
    namespace(server, namespace_name)
    path = f"/api/v1/namespaces/{namespace_name}/{kind}"

    def some(first):
        one = server.connection()
        for number in range(first, count, CONNECTIONS):
            text = random.Random(number).randbytes(size // 2).hex()
            if kind == "secrets":
                text = base64.b64encode(text.encode()).decode()
            post(one, path, {"metadata": {"name": f"m-{number:06}"}, "data": {"text": text}})

    with concurrent.futures.ThreadPoolExecutor(CONNECTIONS) as threads:
        list(threads.map(some, range(CONNECTIONS)))
    print(f"  made {count} {kind} of {size} bytes in the namespace {namespace_name}", flush=True)


def empty(server, namespace_name, kind):
    """Deletes all objects of the kind; the server ends the request after a minute, and has then deleted some thousands."""
    for _ in range(30):
        one = server.connection()
        one.request("DELETE", f"/api/v1/namespaces/{namespace_name}/{kind}")
        answer = one.getresponse()
        answer.read()
        if answer.status == 200:
            return
        if answer.status != 504:
            raise RuntimeError(f"DELETE {kind}: {answer.status}")
    raise RuntimeError(f"DELETE {kind}: not ended")


def post(connection, path, document, also=201):
    connection.request("POST", path, json.dumps(document), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    body = answer.read()
    if answer.status not in (201, also):
        raise RuntimeError(f"POST {path}: {answer.status} {body[:200]!r}")
