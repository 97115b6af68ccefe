"""P5: the restore of what P3 left in the store."""

import contextlib
import itertools
import os
import shutil

from .common import BENCH, BUCKET, Unavailable
from .measuring import Client, take_turns
from .others import aws_classic, rustic, rustic_options
from .report import by_name, figure


def restores(row, options, report, builds, s3, backups, target, fresh):
    """The clients that restore `backups` below `target`; `fresh(name)` makes what is called before each run."""
    commands = {one.name: one.command(os.path.join(one.directory, "p3.toml"), "restore", "bench@latest", "--to",
                                      os.path.join(target, one.name)) for one in builds}
    for one in [] if options.base_only else builds[:1]:
        name, config = f"{one.name}, encrypted", os.path.join(one.directory, "p3-encrypted.toml")
        commands[name] = one.command(config, "restore", "bench@latest", "--identity", one.identity(), "--to", os.path.join(target, name))
    commands |= {
        "restic": ["restic", "-r", f"s3:{s3.url}/{BUCKET}/restic", "-q", "restore", "latest", "--target", os.path.join(target, "restic")],
        "tar": f"mkdir -p {target}/tar && {aws_classic()} --endpoint-url {s3.url} s3 cp --only-show-errors "
               f"s3://{BUCKET}/tar/tree.tar.zst - | zstd -dcq | tar -xpf - -C {target}/tar",
    }
    with contextlib.suppress(Unavailable):
        commands["rustic"] = [rustic(), *rustic_options(s3), "restore", "latest", os.path.join(target, "rustic")]
    clients = []
    for backup in backups:
        name = backup.name if backup.name in commands else backup.name.split(",")[0]
        if backup.failure:
            report.skip(row, f"{name}: its backup failed")
            report.broken |= not backup.peer
            continue
        title = "aws s3 cp -, zstd -d, tar" if name == "tar" else name
        clients.append(Client(title, commands[name], before=fresh(name), peer=backup.peer))
    return clients


def row_restore(options, report, builds, s3, backups, size):
    target = os.path.join(BENCH, "restored")
    for directory in (target, target + ".old"):
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory)
    moved = itertools.count()

    def fresh(name):
        """Moves aside what is there, and removes nothing until the row is done: an ext4 without a journal (here) passes over
        each inode that was deleted within the last minutes one by one whenever a file is created, 40 s for this tree."""
        def move():
            with contextlib.suppress(FileNotFoundError):
                os.rename(os.path.join(target, name), os.path.join(target + ".old", f"{name}-{next(moved)}"))
        return move
    clients = restores("P5", options, report, builds, s3, backups, target, fresh)
    room, needed = shutil.disk_usage(target).free, int(1.2 * size * len(clients) * options.rounds)
    if room < needed:
        raise Unavailable(f"{options.rounds} rounds of {len(clients)} restores need {needed >> 30} GiB, and {room >> 30} are free: fewer --rounds, or another disk")
    take_turns("P5", clients, options.rounds)
    for directory in (target, target + ".old"):
        shutil.rmtree(directory)
    report.table("P5: restore of P3", clients, size)
    own, restic_ = by_name(clients, "penstock"), by_name(clients, "restic")
    targets("P5", report, clients)
    report.target("P5 RSS MiB", figure(own, "rss"), 160.0)
    sealed = by_name(clients, "penstock, encrypted")
    report.target("P5 with encryption, wall s, against restic's", figure(sealed, "wall"), figure(restic_, "wall"))
    report.target("P5 with encryption, RSS MiB", figure(sealed, "rss"), 160.0)


def targets(row, report, clients):
    """Those of every restore of P3."""
    own, restic_, base = (by_name(clients, name) for name in ("penstock", "restic", "base"))
    report.target(f"{row} wall s, against 1/2 of restic's", figure(own, "wall"), figure(restic_, "wall", 0.5))
    report.target(f"{row} wall s, against 0.8 x the base's", figure(own, "wall"), figure(base, "wall", 0.8))
    report.target(f"{row} CPU s, against 0.7 x the base's", figure(own, "cpu"), figure(base, "cpu", 0.7))
