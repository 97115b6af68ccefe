"""A bucket of a fleet's backups, made up as it is asked for: manifests with one item each, a wait before each answer, requests counted.

usage: fleet_server.py PORT CLUSTER NODES BACKUPS WAIT_MS    until it is killed; prints its counts, one line of JSON, on SIGUSR1
"""

import asyncio
import bisect
import collections
import hashlib
import json
import signal
import sys
import urllib.parse

PORT, CLUSTER, NODES, BACKUPS, WAIT = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]) / 1000
DAYS = 28
counts = collections.Counter()


def backup_id(number):
    month, day = divmod(number // 24, DAYS)
    return f"2026{month + 1:02}{day + 1:02}T{number % 24:02}0000Z-00{number:04x}"


def started(name):
    return f"{name[:4]}-{name[4:6]}-{name[6:8]}T{name[9:11]}:{name[11:13]}:{name[13:15]}Z"


def manifest(key):
    home = key.rpartition("/")[0]
    cluster, job, node, name = home.split("/")[-4:]
    digest = hashlib.sha256(home.encode()).hexdigest()
    item = {"name": "files", "source": {"type": "tree", "path": "/var/lib"}, "outcome": "success", "kind": "stream", "stream": {
        "plain_bytes": 1 << 30, "stored_bytes": 400 << 20, "new_bytes": 400 << 20, "chunks": 1024, "files": 10_000, "digest": digest,
        "index": {"key": f"{home}/files.index.zst", "size": 1000, "sha256": digest},
        "objects": [{"key": f"{home}/files.0001.tar.zst", "size": 400 << 20, "crc64nvme": digest[:16], "live_bytes": 400 << 20}]}}
    return json.dumps({"version": 1, "id": name, "job": job, "cluster": cluster, "node": node, "agent": "0.1.0", "started": started(name),
                       "finished": started(name), "parent": None, "labels": {}, "outcome": "success", "items": [item],
                       "warnings": {"count": 0, "list": []}}).encode()


def keys():
    for node in range(NODES):
        for number in range(BACKUPS):
            home = f"{CLUSTER}/files/node-{node:04}/{backup_id(number)}"
            yield f"{home}/files.0001.tar.zst", 400 << 20
            yield f"{home}/files.index.zst", 1000
            yield f"{home}/manifest.json", None


KEYS = sorted((key, len(manifest(key)) if size is None else size) for key, size in keys())


def listing(query):
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
    start = int(query.get("continuation-token", 0))
    folders, contents, at = [], [], max(start, bisect.bisect_left(KEYS, (prefix, 0)))
    while at < len(KEYS) and len(contents) + len(folders) < 1000:
        key, size = KEYS[at]
        if not key.startswith(prefix):
            break
        at += 1
        if delimiter and delimiter in key[len(prefix):]:
            folder = prefix + key[len(prefix):].split(delimiter)[0] + delimiter
            folders.append(folder)
            at = bisect.bisect_left(KEYS, (folder[:-1] + "0", 0))
            continue
        etag = hashlib.md5(key.encode()).hexdigest()
        contents.append(f"<Contents><Key>{key}</Key><LastModified>{started(key.split('/')[-2])}</LastModified><ETag>&quot;{etag}&quot;</ETag>"
                        f"<Size>{size}</Size></Contents>")
    more = any(key.startswith(prefix) for key, _ in KEYS[at:at + 1])
    token = f"<NextContinuationToken>{at}</NextContinuationToken>" if more else ""
    prefixes = "".join(f"<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>" for folder in folders)
    return (f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bench</Name>'
            f"<Prefix>{prefix}</Prefix><KeyCount>{len(contents) + len(folders)}</KeyCount><MaxKeys>1000</MaxKeys>"
            f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated>{token}{''.join(contents)}{prefixes}</ListBucketResult>").encode()


async def serve(reader, writer):
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            path, _, query = target.partition("?")
            query = {key: values[0] for key, values in urllib.parse.parse_qs(query, keep_blank_values=True).items()}
            key = path.lstrip("/").partition("/")[2]
            listed = method == "GET" and not key
            counts["LIST" if listed else method] += 1
            await asyncio.sleep(WAIT)
            if listed:
                status, body, etag = "200 OK", listing(query), ""
            elif key.endswith("/manifest.json"):
                status, body, etag = "200 OK", manifest(key), f'ETag: "{hashlib.md5(key.encode()).hexdigest()}"\r\n'
            else:
                status, body, etag = "404 Not Found", b"<Error><Code>NoSuchKey</Code></Error>", ""
            headers = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nContent-Type: application/xml\r\n{etag}" \
                      "Last-Modified: Mon, 30 Nov 2026 00:00:00 GMT\r\n\r\n"
            writer.write(headers.encode() + (b"" if method == "HEAD" else body))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def told():
    print(json.dumps(counts), flush=True)
    counts.clear()


async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, told)
    server = await asyncio.start_server(serve, "127.0.0.1", PORT, limit=1 << 20, backlog=512)
    async with server:
        await server.serve_forever()


asyncio.run(main())
