"""P12: one file out of a backup with very many, where each request takes 30 ms."""

import os
import shutil
import subprocess

from .common import BENCH, environment
from .data import small_files
from .measuring import Client, take_turns
from .p8 import idle_daemon, rss
from .report import figure
from .servers import file_store

WAIT = 30


def row_one_of_many(options, report, penstock):
    count = options.small_files
    if not count:
        report.skip("P12", "one file of 1,000,000: --small-files 1000000")
        return
    tree, directory, target = small_files(count), os.path.join(BENCH, "p12"), os.path.join(BENCH, "restored-one")
    state = os.path.join(penstock.directory, "state-p12")
    shutil.rmtree(directory, ignore_errors=True)
    number = count * 2 // 3
    path = f"{number // 20_000:03}/{number // 200 % 100:02}/file-{number:07}"

    def config(url):
        return penstock.config("p12", url, f'type = "tree"\nname = "tree"\npath = "{tree}"')

    def fresh():
        shutil.rmtree(target, ignore_errors=True)

    def forget():
        fresh()
        shutil.rmtree(state, ignore_errors=True)

    def same(_):
        subprocess.run(["cmp", os.path.join(tree, path), *(os.path.join(folder, name) for folder, _, names in os.walk(target) for name in names)],
                       check=True, capture_output=True)
    try:
        with file_store(directory) as (url, _):
            subprocess.run(penstock.command(config(url), "backup", "bench"), env=environment(), check=True, capture_output=True)
            if report.idle_rss is None:
                with idle_daemon(penstock, url) as (pid, _):
                    report.idle_rss = rss(pid)
        with file_store(directory, WAIT) as (url, _):
            command = penstock.command(config(url), "restore", "bench@latest", "--include", path, "--to", target)
            clients = [Client("penstock restore --include, first", command, before=forget, after=same, peer=False),
                       Client("penstock restore --include, again", command, before=fresh, after=same, peer=False)]
            take_turns("P12", clients, options.rounds)
    finally:
        for one in (directory, target):
            shutil.rmtree(one, ignore_errors=True)
    report.table(f"P12: one file of {count}, {WAIT} ms a request", clients, count * 4096)
    first = None if clients[0].failure else clients[0]
    report.target("P12 wall s", figure(first, "wall"), 2.0)
    report.target("P12 RSS MiB, against an idle daemon's and 64", figure(first, "rss"), report.idle_rss + 64)
