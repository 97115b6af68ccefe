"""The bytes that are backed up, made once and kept in .bench/data."""

import contextlib
import os
import random
import shutil

from .common import BENCH, MIB


def random_file(size):
    path = os.path.join(BENCH, "data", f"random-{size}")
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path + ".new", "wb") as out:
            left = size
            while left:
                left -= out.write(os.urandom(min(MIB, left)))
        os.rename(path + ".new", path)
    warm(path)
    return path


def warm(path):
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(MIB)
        while file.readinto(buffer):
            pass


def source_tree(wanted_bytes, wanted_files):
    """Real files (crate sources, /usr) copied until both are reached: text and binaries, mostly compressible."""
    root = os.path.join(BENCH, "data", f"tree-{wanted_bytes}-{wanted_files}")
    if os.path.exists(root):
        return root
    shutil.rmtree(root + ".new", ignore_errors=True)
    places = [os.path.expanduser("~/.cargo/registry/src"), "/usr/share", "/usr/include", "/usr/lib", "/usr/bin"]
    copied = files = 0
    for place in places:
        for directory, _, names in os.walk(place):
            for name in names:
                path = os.path.join(directory, name)
                # Once one of the two is reached, only what serves the other is taken: small files, or large ones.
                if copied >= wanted_bytes and files >= wanted_files:
                    break
                with contextlib.suppress(OSError):
                    size = os.lstat(path).st_size
                    if not os.path.isfile(path) or os.path.islink(path):
                        continue
                    if (copied >= wanted_bytes and size > 16384) or (files >= wanted_files and size < 65536):
                        continue
                    target = root + ".new" + path
                    os.makedirs(os.path.dirname(target), exist_ok=True)
                    shutil.copy2(path, target)
                    copied, files = copied + size, files + 1
    os.rename(root + ".new", root)
    return root


def tree_facts(root):
    files = size = 0
    for directory, _, names in os.walk(root):
        for name in names:
            files, size = files + 1, size + os.lstat(os.path.join(directory, name)).st_size
            warm(os.path.join(directory, name))
    return files, size


def changed(tree, seed):
    """Other bytes, at random, in files at random that hold 1 % of the tree's; sizes stay."""
    dice = random.Random(seed)
    paths = sorted(os.path.join(directory, name) for directory, _, names in os.walk(tree) for name in names)
    dice.shuffle(paths)
    left = sum(os.lstat(path).st_size for path in paths) // 100
    for path in paths:
        size = os.lstat(path).st_size
        if 0 < size <= left:
            with open(path, "r+b") as out:
                out.write(dice.randbytes(size))
            left -= size
        if left < 4096:
            return


def small_files(count):
    """A tree of that many files of 4 KiB, half text, half without a pattern, two hundred in each folder."""
    root = os.path.join(BENCH, "data", f"small-{count}")
    if os.path.exists(root):
        return root
    shutil.rmtree(root + ".new", ignore_errors=True)
    dice = random.Random(1)
    for number in range(count):
        if number % 200 == 0:
            directory = os.path.join(root + ".new", f"{number // 20_000:03}", f"{number // 200 % 100:02}")
            os.makedirs(directory)
        half = f"entry {number} of a table with {count} rows\n".encode() * 64
        with open(os.path.join(directory, f"file-{number:07}"), "wb") as out:
            out.write(half[:2048] + dice.randbytes(2048))
    os.rename(root + ".new", root)
    return root
