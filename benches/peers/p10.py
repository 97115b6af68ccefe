"""P10: P5 on an ext4 where very many inodes were deleted just before, with a journal and without."""

import contextlib
import os
import subprocess

from .common import BENCH, GIB, Unavailable
from .measuring import take_turns
from .p5 import restores, targets

FULL, IMAGE, MOUNT = (os.path.join(BENCH, name) for name in ("ext4-full.img", "ext4.img", "ext4"))


def mount(image):
    os.makedirs(MOUNT, exist_ok=True)
    done = subprocess.run(["mount", "-o", "loop", image, MOUNT], check=False, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"no loop mount: {done.stderr.strip()}")


def unmount():
    if os.path.ismount(MOUNT):
        subprocess.run(["umount", MOUNT], check=True)


@contextlib.contextmanager
def full_image(count):
    """An image with `count` empty files, which is copied for each run."""
    try:
        unmount()
        with open(FULL, "wb") as image:
            image.truncate(32 * GIB)
        # Everything is laid out at once: nothing writes tables behind the client's back.
        subprocess.run(["mkfs.ext4", "-q", "-F", "-O", "has_journal", "-E", "lazy_itable_init=0,lazy_journal_init=0", FULL], check=True)
        mount(FULL)
        for number in range(count):
            if number % 1000 == 0:
                directory = os.path.join(MOUNT, "deleted", f"{number // 1000:04}")
                os.makedirs(directory)
            os.mknod(os.path.join(directory, f"{number:07}"))
        unmount()
        yield
    finally:
        unmount()
        for image in (FULL, IMAGE):
            if os.path.exists(image):
                os.remove(image)


def delete_all(journal):
    """The same for each client and round. Without a journal, ext4 gives out no inode that was deleted within the last minutes, and
    looks at each of them whenever a file is created."""
    unmount()
    # A new file: a loop device may hold the old one for a while.
    subprocess.run(["cp", "--remove-destination", "--sparse=always", FULL, IMAGE], check=True)
    if not journal:
        done = subprocess.run(["tune2fs", "-O", "^has_journal", IMAGE], check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"tune2fs: {done.stderr.strip()}")
    mount(IMAGE)
    subprocess.run(["rm", "-rf", os.path.join(MOUNT, "deleted")], check=True)


def row_after_deletions(options, report, builds, s3, backups, size):
    count = options.deleted_inodes
    if not count:
        report.skip("P10", "restore of P3 after 1,000,000 inodes were deleted: --deleted-inodes 1000000, half a minute before each run")
        return
    if os.geteuid() != 0:
        report.skip("P10", "its loop mount needs root")
        return
    # Penstock, the base and restic alone: what comes before each run takes longer than the run.
    backups = [client for client in backups if client.name in ("penstock", "base", "restic")]
    with full_image(count):
        for journal, name in ((True, "with a journal"), (False, "without a journal")):
            clients = restores("P10", options, report, builds, s3, backups, MOUNT, lambda _, journal=journal: lambda: delete_all(journal))
            take_turns(f"P10 {name}", clients, options.rounds)
            report.table(f"P10 {name}: restore of P3 on an ext4 where {count} inodes were deleted just before", clients, size)
            targets(f"P10 {name},", report, clients)
