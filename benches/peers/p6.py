"""P6: what grows: one stream up to 64 GiB, a tree of a million files."""

import json
import os

from .common import BUCKET, GIB, MIB
from .data import random_file, small_files
from .measuring import Client, take_turns
from .report import figure, spread
from .servers import nginx


def row_scale(options, report, penstock):
    """P6, short: one stream of n GiB out of a command, `cat`, whose CPU counts too and is the same for each GiB."""
    unit = min(options.scale_mib, 1024)
    file = random_file(unit * MIB)
    flat, clients = [], []
    with nginx("start", 80) as (port, _):
        for factor in options.factors:
            copies = factor * options.scale_mib // unit
            argv = json.dumps(["cat"] + [file] * copies)
            config = penstock.config(f"p6-{factor}", f"http://127.0.0.1:{port}", f'type = "command"\nname = "stream"\nargv = {argv}',
                                     "none")
            clients.append(penstock.backup(f", {factor * options.scale_mib} MiB", config))
        take_turns("P6", clients, options.scale_rounds)
    lines = ["### P6: one stream, growing (payload unsigned, HTTP sink)", "", "| stream | wall s | CPU s/GiB | RSS MiB |", "|---|---|---|---|"]
    for factor, client in zip(options.factors, clients):
        if client.failure:
            report.broken = True
            lines.append(f"| {client.name} | failed: {client.failure.replace('|', '/')} | | |")
            continue
        amount = factor * options.scale_mib * MIB / GIB
        for run in client.runs:
            run["per_gib"] = run["cpu"] / amount
        flat.append(client)
        lines.append(f"| {client.name} | {spread(client, 'wall')} | {spread(client, 'per_gib')} | {client.median('rss'):.0f} |")
    report.sections.append("\n".join(lines))
    report.commands.append(f"P6: `{clients[0].shown()}`, the job's command being `cat` of a random file, repeated")
    if len(flat) > 1:
        for field, name in (("per_gib", "CPU a GiB"), ("rss", "RSS MiB")):
            flat.sort(key=lambda client: client.median(field))
            report.target(f"P6 {name}, largest against 1.05 x smallest", figure(flat[-1], field), figure(flat[0], field, 1.05))
    if max(options.factors) * options.scale_mib * MIB < 64 * GIB:
        report.skip("P6", "64 GiB: --factors 1,4,16,64")


def row_small_files(options, report, penstock, s3):
    """P6's other half: very many small files; full, unchanged, and every hundredth file changed (the worst spread of 1 %)."""
    count = options.small_files
    if not count:
        report.skip("P6", "1,000,000 files of 4 KiB: --small-files 1000000")
        return
    tree = small_files(count)
    config = penstock.config("p6-files", s3.url, f'type = "tree"\nname = "tree"\npath = "{tree}"', incremental=True)

    def change():
        for number in range(0, count, 100):
            path = os.path.join(tree, f"{number // 20_000:03}", f"{number // 200 % 100:02}", f"file-{number:07}")
            with open(path, "r+b") as out:
                out.write(os.urandom(2048))

    def keep_index_size(client):
        client.index = int(s3.run("du", f"s3://{BUCKET}/{penstock.prefix('p6-files')}/*.index.zst").split()[0])

    backup = penstock.command(config, "backup", "bench")
    verify = penstock.command(config, "verify", "bench@latest", "--data")
    clients = [Client("penstock, full", backup, after=keep_index_size, peer=False), Client("penstock, unchanged", backup, peer=False),
               Client("penstock, 1 % changed", backup, before=change, peer=False), Client("penstock, verify --data", verify, peer=False)]
    s3.clear(penstock.prefix("p6-files"))
    take_turns("P6", clients, 1)
    report.table(f"P6: a tree of {count} files of 4 KiB, to radosgw, a budget of 64 MiB; one round", clients, count * 4096)
    if not any(client.failure for client in clients):
        report.target("P6 small files, RSS MiB", max(client.median("rss") for client in clients), 300.0)
        report.target("P6 small files, index, % of the plain bytes", 100 * clients[0].index / (count * 4096), 5.0)
    s3.clear(penstock.prefix("p6-files"))
