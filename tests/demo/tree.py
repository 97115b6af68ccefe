#!/usr/bin/env python3
"""Makes, or compares, the demo's tree. Standard library only.

usage: tree.py make DIR MIB SOURCE...   copies real files out of SOURCE... up to MIB, then adds everything a tree can hold
       tree.py change TREE               a file more, one less, one renamed, a few bytes in the middle of one, and a mode
       tree.py compare A B              what `diff -r` does not look at: modes, owners, times to the nanosecond, links, hard
                                        links, holes, extended attributes, fifos; exit 1 and one line for each difference
"""

import errno
import os
import shutil
import stat
import sys


def copy_real_files(target, budget, sources):
    """Every source gets its share of the budget, and what an earlier one left; the bytes copied."""
    copied = 0
    for position, source in enumerate(sources):
        share = (budget - copied) // (len(sources) - position)
        base = os.path.join(target, "real", str(position))
        copied += copy_one(source, base, share)
    return copied


def copy_one(source, base, share):
    left = share
    for directory, folders, files in os.walk(source):
        folders.sort()
        for file in sorted(files):
            path = os.path.join(directory, file)
            try:
                info = os.lstat(path)
                if not stat.S_ISREG(info.st_mode) or info.st_size > left:
                    continue
                copy = os.path.join(base, os.path.relpath(path, source))
                os.makedirs(os.path.dirname(copy), exist_ok=True)
                shutil.copy2(path, copy)
            except PermissionError:
                continue
            left -= info.st_size
            if left < 1 << 16:
                return share - left
    return share - left


def add_specials(target):
    special = os.path.join(target, "special")
    os.makedirs(special)
    at = lambda *names: os.path.join(special, *names)  # noqa: E731
    with open(at("first name"), "wb") as out:
        out.write(os.urandom(100_000))
    os.link(at("first name"), at("second name of the same file"))
    os.symlink("first name", at("link"))
    os.symlink("/nowhere/at/all", at("link to nothing"))
    os.mkfifo(at("pipe.fifo"), 0o640)
    with open(at("sparse"), "wb") as out:
        out.truncate(1 << 30)
        for offset in (0, 300 << 20, (1 << 30) - 4096):
            out.seek(offset)
            out.write(b"data between the holes\n" * 100)
        out.truncate(1 << 30)
    open(at("empty"), "wb").close()
    os.mkdir(at("empty folder"), 0o750)
    with open(at("Ümläut, \U0001f4a7 and \n a line feed"), "w") as out:
        out.write("names are bytes\n")
    with open(os.path.join(os.fsencode(special), b"not \xff utf-8"), "w") as out:
        out.write("names are bytes\n")
    deep = at(*["a folder with a long name, to pass a hundred and fifty-five bytes"] * 5)
    os.makedirs(deep)
    with open(os.path.join(deep, "n" * 200), "w") as out:
        out.write("deep\n")
    os.chmod(at("empty"), 0o600)
    with open(at("set-user-id"), "w") as out:
        out.write("#!/bin/true\n")
    os.chmod(at("set-user-id"), 0o4755)
    try:
        os.setxattr(at("first name"), "user.penstock.demo", b"value \x00 with a zero byte")
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        print("  (this file system has no extended attributes: the tree has none)")
    for name, when in [("empty", 1_234_567_890_123_456_789), ("first name", 999_999_999), ("empty folder", 7)]:
        os.utime(at(name), ns=(when, when))


def change(target):
    special = os.path.join(target, "special")
    at = lambda name: os.path.join(special, name)  # noqa: E731
    with open(at("first name"), "r+b") as out:
        out.seek(50_000)
        out.write(b"a few bytes in the middle")
    with open(at("new"), "wb") as out:
        out.write(os.urandom(300_000))
    os.remove(at("empty"))
    os.rename(at("sparse"), at("sparse, renamed"))
    os.chmod(at("set-user-id"), 0o755)


def describe(path, info):
    kind = stat.S_IFMT(info.st_mode)
    facts = {
        "kind": kind,
        "mode": oct(stat.S_IMODE(info.st_mode)),
        "owner": (info.st_uid, info.st_gid),
        "mtime": info.st_mtime_ns,
    }
    if stat.S_ISLNK(info.st_mode):
        facts["target"] = os.readlink(path)
        return facts
    if stat.S_ISREG(info.st_mode):
        facts["size"] = info.st_size
        # Holes are kept if a file that had them still takes much less room than its size.
        if info.st_size >= 1 << 20:
            facts["has holes"] = info.st_blocks * 512 < info.st_size // 2
    if not stat.S_ISFIFO(info.st_mode):
        try:
            facts["xattrs"] = {key: os.getxattr(path, key) for key in sorted(os.listxattr(path))}
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
    return facts


def scan(root):
    facts, inodes = {}, {}
    root = os.fsencode(root)
    paths = [root]
    for directory, folders, files in os.walk(root):
        paths += [os.path.join(directory, name) for name in folders + files]
    for path in sorted(paths):
        info = os.lstat(path)
        relative = os.path.relpath(path, root)
        facts[relative] = describe(path, info)
        if not stat.S_ISDIR(info.st_mode):
            # The first name, in sorted order, of the file that this is a name of.
            first = inodes.setdefault((info.st_dev, info.st_ino), relative)
            facts[relative]["same file as"] = first
    return facts


def compare(a, b):
    left, right = scan(a), scan(b)
    differences = 0
    for path in sorted(left.keys() | right.keys()):
        one, two = left.get(path), right.get(path)
        if one == two:
            continue
        differences += 1
        if one is None or two is None:
            print(f"{path!r}: only in {b if one is None else a}")
            continue
        for fact in sorted(one.keys() | two.keys()):
            if one.get(fact) != two.get(fact):
                print(f"{path!r}: {fact}: {one.get(fact)!r} and {two.get(fact)!r}")
    print(f"  {len(left)} entries compared, {differences} differ")
    return differences


def main():
    command = sys.argv[1]
    if command == "make":
        target, mib, sources = sys.argv[2], int(sys.argv[3]), sys.argv[4:]
        os.makedirs(target)
        copied = copy_real_files(target, mib << 20, sources)
        if copied < (mib << 20) // 4:
            sys.exit(f"tree.py: only {copied >> 20} MiB of real files under {sources}")
        add_specials(target)
    elif command == "change":
        change(sys.argv[2])
    elif command == "compare":
        sys.exit(1 if compare(sys.argv[2], sys.argv[3]) else 0)
    else:
        sys.exit(__doc__)


main()
