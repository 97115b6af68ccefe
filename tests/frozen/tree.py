#!/usr/bin/env python3
"""Makes the tree that a frozen bucket holds: every kind of member. Needs root. Standard library only.

usage: tree.py first DIR     as the full backup sees it
       tree.py second DIR    changes it into what the incremental backup sees
"""

import os
import random
import stat
import struct
import sys

NONE = 0xFFFFFFFF


def acl(*entries):
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def write(path, content, mode=0o644):
    with open(path, "wb") as out:
        out.write(content)
    os.chmod(path, mode)


def first():
    dice = random.Random(18)
    write("empty", b"")
    write("noise", dice.randbytes(8_000))
    # Three chunks that compress to nothing.
    write("big", b"".join(b"line %09d of a file\n" % (number % 700) for number in range(120_000)))
    write("changes", b"as it was\n" * 1000)
    write("goes", b"only in the first backup\n")
    write("moves", b"under another name in the second backup\n" * 100)
    os.link("noise", "a hard link")
    os.mkdir("folder")
    os.link("noise", "folder/one more hard link")
    os.symlink("noise", "symlink")
    os.symlink("/nowhere/at/all", "dangling")
    os.symlink("t" * 3000, "long target")
    os.link("symlink", "hard link of a symlink")
    os.mkfifo("fifo", 0o640)
    os.mknod("character device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod("block device", stat.S_IFBLK | 0o660, os.makedev(259, 70_000))
    with open("sparse", "wb") as out:
        out.truncate((16 << 20) + 77)
        for at in (0, 5 << 20, 16 << 20):
            out.seek(at)
            out.write(b"data")
    with open("all hole", "wb") as out:
        out.truncate(4 << 20)
    write(b"not \xff\xfe utf-8", b"x")
    write("new\nline\ttab\\back", b"x")
    write("häufig ☃", b"x")
    write("n" * 255, b"x")
    os.makedirs("/".join(["deep" + "p" * 60] * 6))
    write("/".join(["deep" + "p" * 60] * 6) + "/bottom", b"a path of 390 bytes")
    os.mkdir("empty folder")
    os.mkdir("many")
    for number in range(120):
        write(f"many/{number:03}", b"%d\n" % number)
    write("owned", b"x")
    os.chown("owned", 3_000_000_000, 4_000_000_000)
    os.chmod("owned", 0o6755)
    os.chown("dangling", 12, 2_097_152, follow_symlinks=False)
    os.chmod("empty folder", 0o3777)
    write("unreadable", b"mode 0", 0)
    attributes()


def attributes():
    os.setxattr("noise", "user.binary", b"\0nul\nline=equals\xff\n")
    os.setxattr("noise", "user.empty", b"")
    os.setxattr("noise", "trusted.thing", b"\7" * 300)
    os.setxattr("folder", "user.folder", b"f")
    os.setxattr("dangling", "trusted.link", b"l", follow_symlinks=False)
    os.setxattr("owned", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    access = acl((1, 6, NONE), (2, 4, 54_321), (4, 4, NONE), (0x10, 6, NONE), (0x20, 0, NONE))
    os.setxattr("changes", "system.posix_acl_access", access)
    os.setxattr("empty folder", "system.posix_acl_default", acl((1, 7, NONE), (4, 5, NONE), (0x20, 1, NONE)))


def second():
    with open("changes", "r+b") as out:
        out.seek(5000)
        out.write(b"as it is")
    with open("big", "r+b") as out:
        out.seek(1_000_000)
        out.write(b"something else")
    os.unlink("goes")
    os.rename("moves", "moved")
    write("comes", b"only in the second backup\n")
    os.chmod("empty folder", 0o700)
    os.link("noise", "many/a later hard link")
    os.setxattr("folder", "user.folder", b"second")


def times():
    """Gives every member a fixed time; some with nanoseconds, some before 1970."""
    known = {"empty": -1_500_000_000, "noise": 1_600_000_000_123_456_789, "owned": -1_000_000_001_000_000_001, "fifo": 0}
    for directory, folders, files in os.walk(".", topdown=False):
        for name in [*files, *folders]:
            path = os.path.join(directory, name)
            wanted = known.get(os.path.relpath(path, "."), 1_700_000_000_000_000_000)
            os.utime(path, ns=(wanted, wanted), follow_symlinks=False)
    os.utime(".", ns=(1_234_567_890_987_654_321,) * 2)


def main():
    which, folder = sys.argv[1:]
    os.umask(0o022)
    os.makedirs(folder, exist_ok=True)
    os.chdir(folder)
    if which == "first":
        first()
        times()
    else:
        # What has not changed keeps its time, so that it is taken from the parent unread.
        kept = {os.path.join(at, name): os.lstat(os.path.join(at, name)).st_mtime_ns for at, folders, files in os.walk(".")
                for name in [*files, *folders]}
        second()
        for path in ("./changes", "./big"):
            kept[path] = 1_700_000_060_000_000_000
        for path, time in kept.items():
            if os.path.lexists(path):
                os.utime(path, ns=(time, time), follow_symlinks=False)
        for path in ("moved", "comes"):
            os.utime(path, ns=(1_700_000_060_000_000_000,) * 2)
        os.utime(".", ns=(1_234_567_890_987_654_321,) * 2)


main()
