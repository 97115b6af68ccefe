#!/usr/bin/env python3
"""Reads Penstock's backups without Penstock: writes one item of any backup, full or incremental, to standard output.

    penstock-cat.py WHERE                           lists the backups
    penstock-cat.py WHERE/CLUSTER/JOB/NODE/ID       lists the items of one
    penstock-cat.py WHERE/CLUSTER/JOB/NODE/ID ITEM  writes the item: a tar archive (pipe it into `tar x`), or a file's bytes

WHERE is s3://BUCKET[/PREFIX], read with the AWS CLI (`aws`), or a folder with a copy of it (`aws s3 sync`).

Needs Python 3.8 and the program `zstd` (not with Python 3.14 or newer); for encrypted backups the program `age`.
Checks everything: sizes, the SHA-256 of the index, of each chunk, and of all of them together.
Exit code: 0 if all that was written is right and whole; 65 if something is damaged or missing (what was written before it is right);
2 if the command is wrong; 1 for any other failure. docs/format.md describes the format; this follows it in its order.
"""
import argparse
import hashlib
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

RUN = 64 << 20  # the most bytes of an object that are read at a time
GAP = 1 << 20  # unneeded bytes between two chunks that are read rather than asking twice


Damaged = type("Damaged", (Exception,), {"__doc__": "What is stored is not what the manifest says."})
Failed = type("Failed", (Exception,), {"__doc__": "Anything else."})


def run(*argv, data=None):
    """What a program writes when it is given `data`."""
    if not shutil.which(argv[0]):
        raise Failed(f"the program `{argv[0]}` is needed and is not in PATH: install it")
    done = subprocess.run(argv, input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, argv[0], stderr=done.stderr)
    return done.stdout


# ---- Where the objects are. A key here begins with the cluster. ----

class Folder:
    def __init__(self, where):
        self.root = pathlib.Path(where)

    def manifests(self):
        return [path.relative_to(self.root).as_posix() for path in self.root.rglob("manifest.json")]

    def read(self, key, start=0, end=None):
        """The bytes from start to before end of an object."""
        try:
            with open(self.root / key, "rb") as file:
                file.seek(start)
                return file.read() if end is None else file.read(end - start)
        except FileNotFoundError:
            raise Damaged(f"{self.root / key} does not exist: the copy is not complete, or the object was deleted") from None


class S3:
    def __init__(self, where):
        self.bucket, _, prefix = where[len("s3://"):].partition("/")
        self.prefix = prefix.rstrip("/") + "/" if prefix else ""
        self.scratch = tempfile.TemporaryDirectory(prefix="penstock-cat-")

    def aws(self, command, *options):
        try:
            return run("aws", "s3api", command, "--bucket", self.bucket, "--output", "json", *options)
        except subprocess.CalledProcessError as error:
            message = error.stderr.decode(errors="replace").strip()
            raise (Damaged if "(NoSuchKey)" in message else Failed)(f"{' '.join(options[:2])}: {message}") from None

    def manifests(self):
        found = self.aws("list-objects-v2", "--prefix", self.prefix, "--query", "Contents[?ends_with(Key, '/manifest.json')].Key")
        return [key[len(self.prefix):] for key in json.loads(found or "null") or []]

    def read(self, key, start=0, end=None):
        target = os.path.join(self.scratch.name, "object")
        within = ["--range", f"bytes={start}-{end - 1}"] if end is not None else []
        self.aws("get-object", "--key", self.prefix + key, *within, target)
        with open(target, "rb") as file:
            return file.read()


class Decrypted:
    """A store in which an object whose key ends in `.age` has the bytes that are encrypted in it."""

    def __init__(self, store, identity):
        self.store, self.identity = store, identity
        self.scratch = tempfile.TemporaryDirectory(prefix="penstock-cat-")

    def read(self, key, start=0, end=None):
        if not key.endswith(".age"):
            return self.store.read(key, start, end)
        if not self.identity:
            raise Failed(f"{key} is encrypted: name the file with the age identity (--identity FILE)")
        plain = os.path.join(self.scratch.name, hashlib.sha256(key.encode()).hexdigest())
        if not os.path.exists(plain):
            try:
                run("age", "--decrypt", "--identity", self.identity, "--output", plain, data=self.store.read(key))
            except subprocess.CalledProcessError as error:
                raise Failed(f"could not decrypt {key}: {error.stderr.decode(errors='replace').strip()}") from None
            open(plain, "ab").close()  # `age` makes no file for no bytes
        return Folder(self.scratch.name).read(os.path.basename(plain), start, end)


# ---- zstd: an index is some frames, a stored chunk is one ----

def decompress(what, frame):
    try:
        try:
            from compression import zstd
            return zstd.decompress(frame)
        except ImportError:
            return run("zstd", "-dcq", data=frame)
    except Failed:
        raise
    except Exception as error:  # the module and the program have exceptions of their own
        raise Damaged(f"{what}: not a zstd frame: {error}") from None


# ---- The index: "PSTKIDX1", then records: a length (4 bytes, the lowest first), and that many bytes of postcard ----

def number(record):
    """Takes a number: seven bits a byte, the lowest first; the top bit is set in all but the last."""
    value = shift = 0
    while (byte := record.read(1)) >= b"\x80":
        value |= (byte[0] & 0x7F) << shift
        shift += 7
    return value | int.from_bytes(byte, "little") << shift


class Chunk:
    def __init__(self, record):
        self.sha256 = record.read(32)  # of the plain bytes
        self.plain_len = number(record)
        self.is_zstd = number(record) == 1  # 0: the plain bytes themselves
        self.object = number(record)  # position in the manifest's `objects`
        self.offset = number(record)
        self.end = self.offset + number(record)


def chunks_of(index, stream):
    """The chunks of a stream in order, once the index agrees with the manifest."""
    if index[:8] != b"PSTKIDX1":
        raise Damaged("the index does not start with PSTKIDX1: it is damaged, or of a newer version")
    at, chunks, files = 8, [], 0
    while at < len(index):
        start = at + 4
        at = start + int.from_bytes(index[at:start], "little")
        record = io.BytesIO(index[start:at])
        kind = number(record)
        if kind == 0:
            chunks.append(Chunk(record))
        elif kind == 1:
            files += 1  # its fields say where a file's bytes are in the stream; the whole stream does not need them
        elif kind == 2:
            counts = [number(record), number(record), number(record)]
            found = [len(chunks), files, sum(chunk.plain_len for chunk in chunks)]
            digest = hashlib.sha256(b"".join(chunk.sha256 for chunk in chunks)).hexdigest()
            if [*counts, digest] != [*found, stream.get("digest", digest)] or found != [stream[name] for name in ("chunks", "files", "plain_bytes")]:
                raise Damaged("the index does not have the chunks, files, bytes and digest that the manifest names")
            return chunks
    raise Damaged("the index has no last record: it was cut")


# ---- A backup ----

def beside(folder, key):
    """The key, below WHERE, of an object that a manifest in `folder` names: its last parts are a backup's ID and a file."""
    return "/".join([*folder.split("/")[:3], *key.split("/")[-2:]])


def runs(chunks):
    """Groups of chunks that lie close together in one object: each is read at once."""
    group = []
    for chunk in chunks:
        if group and not (chunk.object == group[0].object and 0 <= chunk.offset - group[-1].end <= GAP and chunk.end - group[0].offset <= RUN):
            yield group
            group = []
        group.append(chunk)
    yield from [group] if group else []


def cat(store, reader, folder, item, out):
    """Writes the plain stream of an item. `store` has the stored bytes, `reader` what is encrypted in them."""
    stream = item.get("stream")
    if not stream:
        reason = (item.get("error") or {}).get("message") or f"it is {(item.get('snapshot') or {}).get('snapshot_id', 'not saved')}"
        raise Failed(f"the item {item['name']} has no stream: {reason}")
    key = beside(folder, stream["index"]["key"])
    stored = store.read(key)
    if [len(stored), hashlib.sha256(stored).hexdigest()] != [stream["index"]["size"], stream["index"]["sha256"]]:
        raise Damaged(f"{key} has not the size and SHA-256 that the manifest names")
    done = 0
    for group in runs(chunks_of(decompress(key, reader.read(key)), stream)):
        start = group[0].offset
        key = beside(folder, stream["objects"][group[0].object]["key"])
        data = reader.read(key, start, group[-1].end)
        for chunk in group:
            what = f"{key}, bytes {chunk.offset} to {chunk.end} (after {done} right bytes of the stream)"
            plain = data[chunk.offset - start:chunk.end - start]
            plain = decompress(what, plain) if chunk.is_zstd else plain
            if len(plain) != chunk.plain_len or hashlib.sha256(plain).digest() != chunk.sha256:
                raise Damaged(f"{what}: not the chunk that the index names")
            out.write(plain)
            done += len(plain)
    out.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS)
    parser.add_argument("where")
    parser.add_argument("item", nargs="?")
    parser.add_argument("--identity", metavar="FILE", help="the age identity that an encrypted backup is read with")
    arguments = parser.parse_args()
    where, parts = arguments.where.rstrip("/"), arguments.where.rstrip("/").split("/")
    backup = "/".join(parts[-4:]) if len(parts[-1]) == 23 and parts[-1][15:17] == "Z-" else None
    where = where[:-len(backup) - 1] or "/" if backup and backup != where else "." if backup else where
    store = S3(where) if where.startswith("s3://") else Folder(where)
    if not backup:
        for key in sorted(store.manifests(), key=lambda key: key.split("/")[-2:]):
            print(key[:-len("/manifest.json")])
        return
    manifest = json.loads(store.read(backup + "/manifest.json"))
    if manifest["version"] != 1 or set(manifest.get("features", [])) - {"kubernetes", "age"}:
        raise Failed("the manifest has a version or a feature that is not known here: take a newer penstock-cat.py")
    if manifest["outcome"] != "success":
        print(f"penstock-cat: this backup is {manifest['outcome']}: not everything was saved; its manifest.json says what", file=sys.stderr)
    for item in manifest["items"]:
        if not arguments.item:
            print(item["name"], item["outcome"], (item.get("stream") or {}).get("plain_bytes", "-"), json.dumps(item["source"]), sep="\t")
        elif item["name"] == arguments.item:
            return cat(store, Decrypted(store, arguments.identity), backup, item, sys.stdout.buffer)
    if arguments.item:
        raise Failed(f"no item {arguments.item}; the backup has {', '.join(item['name'] for item in manifest['items'])}")


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        main()
    except (Damaged, Failed, OSError, ValueError, KeyError) as error:
        print(f"penstock-cat: {type(error).__name__.lower()}: {error}", file=sys.stderr)
        sys.exit(65 if isinstance(error, Damaged) else 1)
