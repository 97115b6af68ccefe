"""P9: what a fleet's backups cost to list: nodes x backups in a bucket that answers after 30 ms."""

import contextlib
import glob
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys

from .common import ROOT, environment
from .measuring import Client, take_turns
from .report import figure, spread
from .servers import port_or_free, wait_for


class Fleet:
    """So many nodes, with so many backups each, behind a server that waits so many ms."""

    def __init__(self, server, port, penstock, name):
        self.server, self.penstock = server, penstock
        self.config = penstock.config(name, f"http://127.0.0.1:{port}", 'type = "command"\nname = "files"\nargv = ["true"]', memory="256MiB")
        self.state, self.forgotten = os.path.join(penstock.directory, f"state-{name}"), 0
        self.remove()

    def forget(self):
        """Moves aside what is there: see P5's `fresh`."""
        self.forgotten += 1
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.state, f"{self.state}.{self.forgotten}")
        os.makedirs(self.state)

    def remove(self):
        for directory in glob.glob(f"{glob.escape(self.state)}*"):
            shutil.rmtree(directory)

    def requests(self, client):
        self.server.send_signal(signal.SIGUSR1)
        client.requests = json.loads(self.server.stdout.readline())

    def client(self, what, *arguments, before=None):
        return Client(f"penstock, {what}", self.penstock.command(self.config, *arguments), before=before, after=self.requests, peer=False)

    def verify(self):
        """Its objects are not there: it asks for all of them, and says so."""
        command = f"{shlex.join(self.penstock.command(self.config, 'verify'))} || test $? = 66"
        return Client("penstock, verify", command, before=self.forget, after=self.requests, peer=False)


@contextlib.contextmanager
def fleet(penstock, name, nodes, backups, wait):
    port = port_or_free(18099)
    script = os.path.join(ROOT, "benches", "peers", "fleet_server.py")
    server = subprocess.Popen([sys.executable, script, str(port), f"{penstock.prefix(name)}/bench", str(nodes), str(backups), str(wait)],
                              env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        wait_for(port)
        one = Fleet(server, port, penstock, name)
        yield one
        one.remove()
    finally:
        server.terminate()
        server.wait()


def measure(report, title, clients, rounds):
    for one in clients:
        # In this order: each finds what the one before left.
        take_turns("P9", [one], rounds)
    lines = [f"### P9: {title}", "", "| work | wall s | CPU s | RSS MiB | requests |", "|---|---|---|---|---|"]
    for one in clients:
        report.commands.append(f"P9 {one.name}: `{one.shown()}`")
        if one.failure:
            lines.append(f"| {one.name} | failed: {one.failure.replace('|', '/')} | | | |")
            report.broken = True
            continue
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(one.requests.items()))
        lines.append(f"| {one.name} | {spread(one, 'wall')} | {spread(one, 'cpu')} | {one.median('rss'):.0f} | {kinds} |")
    report.sections.append("\n".join(lines))
    return not any(one.failure for one in clients)


def row_fleet(options, report, penstock):
    nodes, backups, wait = options.fleet
    with fleet(penstock, "p9", nodes, backups, wait) as of:
        first, again = of.client("list, first", "list", before=of.forget), of.client("list, again", "list")
        others = [of.client("stats, again", "stats"), of.client("list --node", "list", "--node", "node-0007"),
                  of.client("show of one node", "show", "files/node-0007@latest")]
        title = f"{nodes} nodes x {backups} backups, {wait} ms a request, a budget of 256 MiB"
        if measure(report, title, [first, again, *others], options.fleet_rounds):
            # Before manifests were kept: a GET each, 16 at a time.
            total, before = nodes * backups, nodes * backups * wait / 1000 / 16
            report.target("P9 list again, requests", sum(again.requests.values()), total / 50)
            report.target("P9 list again, wall s", figure(again, "wall"), before / 10)
            report.target("P9 stats again, wall s", figure(others[0], "wall"), before / 10)
            report.target("P9 list first, wall s", figure(first, "wall"), before / 4)
            report.target("P9 RSS MiB", [max(both) for both in zip(figure(first, "rss"), figure(again, "rss"))], 64.0)
    with fleet(penstock, "p9-chains", options.chains, 1, wait) as of:
        verify = of.verify()
        if measure(report, f"{options.chains} chains of one backup, {wait} ms a request", [verify], options.fleet_rounds):
            # One backup after the other: its manifest, its object, its index.
            report.target("P9 verify, wall s", figure(verify, "wall"), options.chains * 3 * wait / 1000 / 3)
