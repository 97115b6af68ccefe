"""P9: what a fleet's backups cost to list: nodes x backups in a bucket that answers after 30 ms."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys

from .common import BENCH, ROOT, environment
from .measuring import Client, take_turns
from .report import figure, spread
from .servers import port_or_free, wait_for


def row_fleet(options, report, penstock):
    nodes, backups, wait = options.fleet
    port = port_or_free(18099)
    script = os.path.join(ROOT, "benches", "peers", "fleet_server.py")
    prefix = penstock.prefix("p9")
    server = subprocess.Popen([sys.executable, script, str(port), f"{prefix}/bench", str(nodes), str(backups), str(wait)],
                              env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        wait_for(port)
        config = penstock.config("p9", f"http://127.0.0.1:{port}", 'type = "command"\nname = "files"\nargv = ["true"]',
                                 memory="256MiB")
        state = os.path.join(penstock.directory, "state-p9")

        def forget():
            shutil.rmtree(state, ignore_errors=True)
            os.makedirs(state)

        def requests(client):
            server.send_signal(signal.SIGUSR1)
            client.requests = json.loads(server.stdout.readline())

        def client(what, *arguments, before=None):
            return Client(f"penstock, {what}", penstock.command(config, *arguments), before=before, after=requests, peer=False)

        clients = [client("list, first", "list", before=forget), client("list, again", "list"), client("stats, again", "stats"),
                   client("list --node", "list", "--node", "node-007"), client("show of one node", "show", "files/node-007@latest"),
                   # Its objects are not there: it asks for all of them, and says so.
                   Client("penstock, verify, 1 backup a chain", f"{shlex.join(penstock.command(config, 'verify'))} || test $? = 66",
                          before=forget, after=requests, peer=False)]
        for one in clients:
            # In this order: each finds what the one before left.
            take_turns("P9", [one], options.fleet_rounds)
        lines = [f"### P9: {nodes} nodes x {backups} backups, {wait} ms a request, a budget of 256 MiB", "",
                 "| work | wall s | CPU s | RSS MiB | requests |", "|---|---|---|---|---|"]
        for one in clients:
            report.commands.append(f"P9 {one.name}: `{one.shown()}`")
            if one.failure:
                lines.append(f"| {one.name} | failed: {one.failure.replace('|', '/')} | | | |")
                report.broken = True
                continue
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(one.requests.items()))
            lines.append(f"| {one.name} | {spread(one, 'wall')} | {spread(one, 'cpu')} | {one.median('rss'):.0f} | {kinds} |")
        report.sections.append("\n".join(lines))
        first, again, *_ = clients
        # Before manifests were kept: a GET each, 16 at a time.
        total, before = nodes * backups, nodes * backups * wait / 1000 / 16
        if not first.failure and not again.failure:
            report.target("P9 list again, requests", sum(again.requests.values()), total / 50)
            report.target("P9 list again, wall s", figure(again, "wall"), before / 10)
            report.target("P9 list first, wall s", figure(first, "wall"), before / 4)
            report.target("P9 RSS MiB", [max(both) for both in zip(figure(first, "rss"), figure(again, "rss"))], 64.0)
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(os.path.join(BENCH, penstock.name, "state-p9"), ignore_errors=True)
