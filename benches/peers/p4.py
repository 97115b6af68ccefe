"""P4: the tree of P3 again, unchanged, and with 1 % of its bytes changed."""

import contextlib
import os
import shutil
import subprocess
import time

from .common import BENCH, BUCKET, MIB, Unavailable, environment
from .data import changed, source_tree, tree_facts
from .measuring import Client, take_turns
from .others import rustic, rustic_options
from .report import by_name, figure
from .servers import count_requests, nginx


def row_incremental(options, report, builds, s3):
    """P4: the same tree again, unchanged, and with 1 % of its bytes changed before each round."""
    origin = source_tree(options.tree_mib * MIB, options.tree_files)
    tree = os.path.join(BENCH, "data", "tree-that-changes")
    shutil.rmtree(tree, ignore_errors=True)
    subprocess.run(["cp", "-a", origin, tree], check=True)
    _, size = tree_facts(tree)
    source = f'type = "tree"\nname = "tree"\npath = "{tree}"'
    setting = {"memory": "128MiB", "incremental": True}
    firsts = [(one.name, one.prefix("p4"), [], one.command(one.config("p4", s3.url, source, **setting), "backup", "bench")) for one in builds]
    firsts += [] if options.base_only else [
        (f"{one.name}, encrypted", one.prefix("p4-encrypted"), [],
         one.command(one.config("p4-encrypted", s3.url, source, encrypted=True, **setting), "backup", "bench")) for one in builds[:1]]
    ours = len(firsts)
    if shutil.which("restic") and not options.base_only:
        base = ["restic", "-r", f"s3:{s3.url}/{BUCKET}/restic4", "-q"]
        firsts.append(("restic", "restic4", [*base, "init"], [*base, "backup", tree]))
    with contextlib.suppress(Unavailable):
        if options.base_only:
            raise Unavailable("the base is compared, no other program")
        base = [rustic(), *rustic_options(s3, root="rustic4")]
        firsts.append(("rustic", "rustic4", [*base, "init"], [*base, "backup", tree]))

    def series(row):
        clients = []
        for number, (name, prefix, _, command) in enumerate(firsts):
            sizes = []
            before = lambda prefix=prefix, sizes=sizes: sizes.append(s3.size(prefix))  # noqa: E731
            after = lambda client, prefix=prefix, sizes=sizes: client.stored.append(s3.size(prefix) - sizes[-1])  # noqa: E731
            clients.append(Client(name, command, before=before, after=after, peer=number >= ours))
        return row, clients

    for _, prefix, init, command in firsts:
        s3.clear(prefix)
        for argv in filter(None, (init, command)):
            subprocess.run(argv, env=environment(), check=True, capture_output=True)
    for row, clients in (series("P4 unchanged"), series("P4 1 % changed")):
        for number in range(options.rounds):
            if row != "P4 unchanged":
                changed(tree, number)
            take_turns(row, clients, 1, number)
        title = f"{row}: the tree of P3 again, to radosgw; stored is what came in addition"
        report.table(title, clients, size, stored=True)
        own = by_name(clients, "penstock")
        for peer in ("restic", "rustic"):
            for field in ("wall", "cpu"):
                limit = figure(by_name(clients, peer), field, 1 / 3)
                report.target(f"{row}, {field} s, against 1/3 of {peer}'s", figure(own, field), limit)
    with nginx("proxy", 18080, s3.url.removeprefix("http://"), count=True) as (port, log):
        # Its own state directory and prefix: the first run of it is not what is counted.
        for what, name, more in (("", "p4-counted", {}), (" with encryption", "p4-counted-encrypted", {"encrypted": True})):
            if more and options.base_only:
                continue
            config = builds[0].config(name, f"http://127.0.0.1:{port}", source, **setting, **more)
            argv = builds[0].command(config, "backup", "bench")
            subprocess.run(argv, env=environment(), check=True, capture_output=True)
            time.sleep(0.2)
            first = sum(count_requests(log).values())
            subprocess.run(argv, env=environment(), check=True, capture_output=True)
            time.sleep(0.2)
            report.target(f"P4 unchanged{what}, requests", sum(count_requests(log).values()) - first, 12)
    counted = [builds[0].prefix(name) for name in ("p4-counted", "p4-counted-encrypted")]
    for prefix in [prefix for _, prefix, _, _ in firsts] + counted:
        s3.clear(prefix)
