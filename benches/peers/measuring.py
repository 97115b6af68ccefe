"""Runs clients in turn and keeps what each run cost."""

import os
import re
import shlex
import statistics
import subprocess
import time

from .common import BENCH, environment


class Client:
    """One program in one row. `command` is an argv list or, for a pipeline, a bash text; `before` and `after` are not measured.
    `watch` is called with the process's id while it runs, and returns when it has ended."""

    def __init__(self, name, command, env=None, before=None, after=None, watch=None, peer=True):
        self.name, self.command, self.env = name, command, env or environment()
        self.before, self.after, self.watch, self.peer = before, after, watch, peer
        self.runs, self.failure, self.stored = [], None, []

    def shown(self):
        return self.command if isinstance(self.command, str) else shlex.join(self.command)

    def median(self, field):
        return statistics.median(run[field] for run in self.runs) if self.runs else None


def measure(client, log):
    """Runs it once: wall and CPU seconds, RSS in MiB. Raises RuntimeError when it fails."""
    argv = ["bash", "-o", "pipefail", "-c", client.command] if isinstance(client.command, str) else client.command
    with open(log, "wb") as out:
        start = time.monotonic()
        process = subprocess.Popen(argv, env=client.env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        if client.watch:
            client.watch(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        with open(log, "rb") as text:
            tail = text.read()[-400:].decode(errors="replace").strip().replace("\n", " / ")
        raise RuntimeError(f"exit code {process.returncode}: {tail}")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "rss": usage.ru_maxrss / 1024}


def take_turns(row, clients, rounds, first=0):
    """Every second round goes backwards, so that no client always has the same one before it."""
    for number in range(first, first + rounds):
        for client in clients if number % 2 == 0 else clients[::-1]:
            if client.failure:
                continue
            log = os.path.join(BENCH, "log", re.sub(r"[^a-z0-9]+", "-", f"{row}-{client.name}".lower()) + ".log")
            try:
                if client.before:
                    client.before()
                # What the one before has left to be written is not this one's.
                os.sync()
                run = measure(client, log)
                client.runs.append(run)
                print(f"  {row} {number + 1} {client.name}: {run['wall']:.2f} s, CPU {run['cpu']:.2f} s, "
                      f"{run['rss']:.0f} MiB", flush=True)
                if client.after:
                    client.after(client)
            except (RuntimeError, subprocess.CalledProcessError, OSError) as error:
                client.failure = str(error)[:300]
                print(f"  {row} {client.name} FAILED: {client.failure}", flush=True)
