"""P13: what each thread takes of one stream, P6's."""

import collections
import json
import os
import statistics
import time

from .common import GIB, MIB
from .data import random_file
from .measuring import take_turns
from .servers import nginx

TICKS = os.sysconf("SC_CLK_TCK")
EVERY = 0.02


def threads_of(pid, kept):
    """Keeps the name and CPU seconds of each thread, as they are now."""
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/stat") as file:
                head, _, rest = file.read().rpartition(")")
        except OSError:  # it has ended
            continue
        fields = rest.split()
        if fields[0] not in "ZX":
            kept[task] = head.partition("(")[2], (int(fields[11]) + int(fields[12])) / TICKS


def row_threads(options, report, penstock):
    unit = min(options.stream_mib, 1024)
    file, amount = random_file(unit * MIB), options.stream_mib // unit * unit * MIB / GIB
    rounds = []

    def watch(pid):
        """Until it has ended; a thread's last 20 ms may be missed. Threads of one name are told apart by what they took."""
        kept = {}
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            threads_of(pid, kept)
            time.sleep(EVERY)
        numbers, found = collections.Counter(), {}
        for name, cpu in sorted(kept.values(), key=lambda one: -one[1]):
            numbers[name] += 1
            found[f"{name} {numbers[name]}"] = cpu / amount
        rounds.append(found)
    with nginx("start", 80) as (port, _):
        argv = json.dumps(["cat"] + [file] * (options.stream_mib // unit))
        config = penstock.config("p13", f"http://127.0.0.1:{port}", f'type = "command"\nname = "stream"\nargv = {argv}', "none")
        client = penstock.backup("", config, watch=watch)
        take_turns("P13", [client], options.rounds)
    title = f"P13: one stream of {options.stream_mib} MiB out of `cat`, by thread (payload unsigned, HTTP sink)"
    report.table(title, [client], amount * GIB)
    if client.failure:
        return
    of = {name: [found.get(name, 0.0) for found in rounds] for name in {name for found in rounds for name in found}}
    of = dict(sorted(of.items(), key=lambda one: -statistics.median(one[1])))
    lines = ["| thread | CPU s/GiB |", "|---|---|"]
    lines += [f"| {name} | {statistics.median(cpu):.2f} ({min(cpu):.2f}–{max(cpu):.2f}) |" for name, cpu in of.items() if max(cpu) >= 0.005]
    # Of the whole process tree: `cat`, and what no sample saw.
    rest = [run["cpu"] / amount - sum(found.values()) for run, found in zip(client.runs, rounds)]
    lines.append(f"| `cat`, and what was missed | {statistics.median(rest):.2f} ({min(rest):.2f}–{max(rest):.2f}) |")
    report.sections.append("\n".join(lines))
    report.target("P13 busiest thread, CPU s a GiB", [max(found.values()) for found in rounds], 0.35)
