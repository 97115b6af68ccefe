"""P3: a full backup of a tree of real files to radosgw; P5 restores what it leaves there."""

import os
import shlex
import shutil
import subprocess

from .common import BENCH, BUCKET, GIB, MIB, Unavailable, environment
from .data import source_tree, tree_facts
from .measuring import Client, take_turns
from .others import aws_classic, rustic, rustic_options
from .p5 import row_restore
from .p10 import row_after_deletions
from .report import by_name, figure


def tree_clients(options, report, builds, s3, tree):
    """Full-backup clients; each run starts from nothing, in a prefix of its own that is cleared before."""
    def stored(prefix):
        return lambda client: client.stored.append(s3.size(prefix))

    clients = []
    for one in builds:
        prefix, source = one.prefix("p3"), f'type = "tree"\nname = "tree"\npath = "{tree}"'
        clients.append(one.backup("", one.config("p3", s3.url, source, memory="128MiB"), before=lambda prefix=prefix: s3.clear(prefix),
                                  after=stored(prefix)))
    if options.base_only:
        return clients
    for one in builds[:1]:
        prefix = one.prefix("p3-encrypted")
        config = one.config("p3-encrypted", s3.url, source, memory="128MiB", encrypted=True)
        clients.append(one.backup(", encrypted", config, before=lambda prefix=prefix: s3.clear(prefix), after=stored(prefix)))
    if shutil.which("restic"):
        repository = f"s3:{s3.url}/{BUCKET}/restic"

        def restic_before():
            s3.clear("restic")
            shutil.rmtree(os.path.join(BENCH, "restic-cache"), ignore_errors=True)
            subprocess.run(["restic", "-r", repository, "init"], env=environment(), check=True, capture_output=True)
        clients.append(Client("restic", ["restic", "-r", repository, "-q", "backup", tree], before=restic_before,
                              after=stored("restic")))
    else:
        report.skip("P3, P5", "restic: not installed (apt: restic)")
    try:
        command = [rustic(), *rustic_options(s3)]

        def rustic_before():
            s3.clear("rustic")
            subprocess.run([*command, "init"], env=environment(), check=True, capture_output=True)
        clients.append(Client("rustic", [*command, "backup", tree], before=rustic_before, after=stored("rustic")))
    except Unavailable as why:
        report.skip("P3, P5", f"rustic: {why}")
    pipeline = (f"tar -C {shlex.quote(tree)} -cf - . | zstd -q -1 -T0 | {aws_classic()} --endpoint-url {s3.url} s3 cp "
                f"--only-show-errors --expected-size {2 * GIB} - s3://{BUCKET}/tar/tree.tar.zst")
    clients.append(Client("tar, zstd -1 -T0, aws s3 cp -", pipeline, before=lambda: s3.clear("tar"), after=stored("tar")))
    return clients


def row_trees(options, report, builds, s3):
    """P3, then P5 on what P3's last round left in the store."""
    tree = source_tree(options.tree_mib * MIB, options.tree_files)
    files, size = tree_facts(tree)
    clients = tree_clients(options, report, builds, s3, tree)
    # From the page cache, for the first one too.
    subprocess.run(["sh", "-c", 'tar -C "$0" -cf - . | cat >/dev/null', tree], check=True)
    take_turns("P3", clients, options.rounds)
    title = f"P3: a tree of {files} files, {size / MIB:.0f} MiB, full backup to radosgw (plain HTTP)"
    report.table(title, clients, size, stored=True)
    own, restic_, rustic_, tar = (by_name(clients, name) for name in ("penstock", "restic", "rustic", "tar"))
    report.target("P3 CPU s, against 1/3 of rustic's", figure(own, "cpu"), figure(rustic_, "cpu", 1 / 3))
    report.target("P3 CPU s, against 1/5 of restic's", figure(own, "cpu"), figure(restic_, "cpu", 1 / 5))
    report.target("P3 wall s, against 1/3 of restic's", figure(own, "wall"), figure(restic_, "wall", 1 / 3))
    report.target("P3 wall s, against 1.15 x tar and zstd", figure(own, "wall"), figure(tar, "wall", 1.15))
    sealed = by_name(clients, "penstock, encrypted")
    for name, peer in (("rustic", rustic_), ("restic", restic_)):
        report.target(f"P3 with encryption, CPU s, against 1/3 of {name}'s", figure(sealed, "cpu"), figure(peer, "cpu", 1 / 3))
    report.target("P3 with encryption, wall s, against 1/4 of restic's", figure(sealed, "wall"), figure(restic_, "wall", 1 / 4))
    stored = [[size / MIB * factor for size in client.stored] if client and client.stored else None for client, factor in ((own, 1), (rustic_, 1.1))]
    report.target("P3 stored MiB, against 1.1 x rustic's", *stored)
    if "P5" in options.only:
        row_restore(options, report, builds, s3, clients, size)
    if "P10" in options.only:
        row_after_deletions(options, report, builds, s3, clients, size)
