#!/usr/bin/env python3
"""Reads Penstock's backups without Penstock: writes one item of any backup, full or incremental, to standard output.

    penstock-cat.py WHERE                           lists the backups
    penstock-cat.py WHERE/CLUSTER/JOB/NODE/ID       lists the items of one
    penstock-cat.py WHERE/CLUSTER/JOB/NODE/ID ITEM  writes the item: a tar archive (pipe it into `tar x`), or a file's bytes

WHERE is s3://BUCKET[/PREFIX], read with the AWS CLI (`aws`), or a folder with a copy of it (`aws s3 sync`).

Needs Python 3.8 and the program `zstd` (not with Python 3.14 or newer); for encrypted backups the program `age`.
Checks everything: sizes, the SHA-256 of the index, of each chunk, and of all of them together. Keeps one decrypted object at a time, in TMPDIR.
Exit code: 0 if all that was written is right and whole; 65 if something is damaged or missing (what was written before it is right);
2 if the command is wrong; 1 for any other failure. docs/format.md describes the format; this follows it in its order.
"""
import argparse
import collections
import contextlib
import hashlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

RUN = 64 << 20  # the most bytes of an object that are read at a time
GAP = 1 << 20  # unneeded bytes between two chunks that are read rather than asking twice
MANIFEST, RECORD, CHUNK = 64 << 20, 196_608, 4 << 20  # the longest that there are: what is stored is not to be trusted
ID, FILE = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}"), re.compile(r"[a-z0-9._-]+")
SCRATCH = tempfile.TemporaryDirectory(prefix="penstock-cat-")

# Each is an exit code: what is stored is not what the manifest says; the command names something that there is not; anything else.
Damaged, Usage, Failed = (type(name, (Exception,), {"code": code}) for name, code in (("Damaged", 65), ("Usage", 2), ("Failed", 1)))


def run(what, damage, *argv, stdin=subprocess.DEVNULL):
    """What a program writes. If it fails, what it says tells whether that is for damage."""
    done = subprocess.run(argv, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip()
        raise (Damaged if re.search(damage, message) else Failed)(f"{what}: {message}")
    return done.stdout


# ---- Where the objects are. A key here begins with the cluster. `open` gives a file that begins at `start`. ----
class Folder:
    def __init__(self, where):
        self.root = pathlib.Path(where)
        if not self.root.is_dir():
            raise Usage(f"there is no folder {where}")

    def manifests(self):
        return [path.relative_to(self.root).as_posix() for path in self.root.rglob("manifest.json")]

    def open(self, key, start=0, end=None):
        try:
            file = open(self.root / key, "rb")
        except FileNotFoundError:
            raise Damaged(f"{self.root / key} does not exist: the copy is not complete, or the object was deleted") from None
        file.seek(start)
        return file


class S3:
    def __init__(self, where):
        self.bucket, slash, prefix = where[len("s3://"):].partition("/")
        self.prefix = prefix + slash

    def aws(self, command, *options):
        return run(options[1], "NoSuchKey", "aws", "s3api", command, "--bucket", self.bucket, "--output", "json", *options)

    def manifests(self):
        found = self.aws("list-objects-v2", "--prefix", self.prefix, "--query", "Contents[?ends_with(Key, '/manifest.json')].Key")
        return [key[len(self.prefix):] for key in json.loads(found or "null") or []]

    def open(self, key, start=0, end=None):
        target = os.path.join(SCRATCH.name, "object")
        self.aws("get-object", "--key", self.prefix + key, *(["--range", f"bytes={start}-{end - 1}"] if end else []), target)
        return open(target, "rb")


class Decrypted:  # an object whose key ends in `.age` has the bytes here that are encrypted in it
    def __init__(self, store, identity):
        self.store, self.identity, self.key = store, identity, None

    def open(self, key, start=0, end=None):
        if not key.endswith(".age"):
            return self.store.open(key, start, end)
        if not self.identity:
            raise Failed(f"{key} is encrypted: name the file with the age identity (--identity FILE)")
        if self.key != key:
            self.key, plain = key, os.path.join(SCRATCH.name, "plain")
            open(plain, "wb").close()  # `age` makes no file for no bytes
            with self.store.open(key) as stored:
                run(key, "authenticate|header|EOF", "age", "--decrypt", "--identity", self.identity, "--output", plain, stdin=stored)
        return Folder(SCRATCH.name).open("plain", start)


# ---- zstd: an index is some frames, a stored chunk is one ----
@contextlib.contextmanager
def decompressed(data):
    """What is compressed in `data`, as a file: no more is decompressed than is read. It may end early where it is damaged."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        try:
            from compression import zstd
        except ImportError:
            with subprocess.Popen(["zstd", "-dcq"], stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
                yield child.stdout  # is closed then, which ends `zstd`
        else:
            with zstd.open(file) as plain:
                yield plain


# ---- The index: "PSTKIDX1", then records: a length (4 bytes, the lowest first), and that many bytes of postcard ----
# `sha256` is of the plain bytes; `is_zstd` is 0 for the plain bytes themselves; `object` is a position in the manifest's `objects`.
Chunk = collections.namedtuple("Chunk", "sha256 plain_len is_zstd object offset end")


def number(record):
    """Takes a number: seven bits a byte, the lowest first; the top bit is set in all but the last."""
    value = shift = 0
    while (byte := record.read(1)) >= b"\x80":
        value |= (byte[0] & 0x7F) << shift
        shift += 7
    return value | int.from_bytes(byte, "little") << shift


def chunks_of(index, stream):
    """The chunks of a stream in order, once the index agrees with the manifest."""
    if index.read(8) != b"PSTKIDX1":
        raise Damaged("the index does not start with PSTKIDX1: it is damaged, or of a newer version")
    chunks, files = [], 0
    while len(head := index.read(4)) == 4:
        record = io.BytesIO(index.read(min(int.from_bytes(head, "little"), RECORD)))
        kind = number(record)
        if kind == 0:
            sha256, plain_len, is_zstd, position, offset, stored = record.read(32), *(number(record) for _ in range(5))
            if not (0 < plain_len <= CHUNK and 0 < stored <= CHUNK + GAP):
                raise Damaged("the index has a chunk that is longer than any")
            chunks.append(Chunk(sha256, plain_len, is_zstd == 1, position, offset, offset + stored))
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
    """The key, below WHERE, of an object that a manifest in `folder` names: PREFIX/CLUSTER/JOB/NODE/ID/FILE, of the same chain."""
    chain, parts = folder.split("/")[:3], key.split("/")
    if parts[-5:-2] != chain or not ID.fullmatch(parts[-2]) or not FILE.fullmatch(parts[-1]):
        raise Damaged(f"the manifest names {key!r}, which is not an object of {'/'.join(chain)}")
    return "/".join(parts[-5:])


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
    with store.open(key) as file:
        stored = file.read(stream["index"]["size"] + 1)
    if [len(stored), hashlib.sha256(stored).hexdigest()] != [stream["index"]["size"], stream["index"]["sha256"]]:
        raise Damaged(f"{key} has not the size and SHA-256 that the manifest names")
    with reader.open(key) as file, decompressed(file.read()) as index:
        chunks = chunks_of(index, stream)
    done = 0
    for group in runs(chunks):
        start = group[0].offset
        key = beside(folder, stream["objects"][group[0].object]["key"])
        with reader.open(key, start, group[-1].end) as file:
            data = file.read(group[-1].end - start)
        for chunk in group:
            plain = data[chunk.offset - start:chunk.end - start]
            if chunk.is_zstd:
                with decompressed(plain) as frame:
                    plain = frame.read(chunk.plain_len + 1)
            if len(plain) != chunk.plain_len or hashlib.sha256(plain).digest() != chunk.sha256:
                raise Damaged(f"{key}, bytes {chunk.offset} to {chunk.end} (after {done} right bytes of the stream): not the chunk that the index names")
            out.write(plain)
            done += len(plain)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS)
    parser.add_argument("where")
    parser.add_argument("item", nargs="?")
    parser.add_argument("--identity", metavar="FILE", help="the age identity that an encrypted backup is read with")
    arguments = parser.parse_args()
    where = arguments.where.rstrip("/") if arguments.where.startswith("s3://") else os.path.abspath(arguments.where)
    parts = where.split("/")
    backup = "/".join(parts[-4:]) if ID.fullmatch(parts[-1]) else None
    where = where[:-len(backup) - 1] or "/" if backup else where
    store = S3(where) if where.startswith("s3://") else Folder(where)
    if not backup:
        for key in sorted(store.manifests(), key=lambda key: key.split("/")[-2:]):
            print(key[:-len("/manifest.json")])
        return
    with store.open(backup + "/manifest.json") as file:
        manifest = json.loads(file.read(MANIFEST))
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
        raise Usage(f"no item {arguments.item}; the backup has {', '.join(item['name'] for item in manifest['items'])}")


if __name__ == "__main__":
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has had enough: what is left to write goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except (Damaged, Usage, Failed, OSError) as error:  # an OSError: also a program that is not installed
        print(f"penstock-cat: {type(error).__name__.lower()}: {error}", file=sys.stderr)
        sys.exit(getattr(error, "code", 1))
    except Exception as error:  # of what was read
        print(f"penstock-cat: damaged: what is stored makes no sense: {error!r}", file=sys.stderr)
        sys.exit(65)
