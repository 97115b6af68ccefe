#!/usr/bin/env python3
"""`make stores`: the real binary against stores that people run. docs/stores.md has what was seen.

usage: PENSTOCK=path run.py TOOLS [STORE...]

Each store is installed below TOOLS, started on loopback, and asked for a whole life: validate, a full and an incremental backup,
verify --data, a restore that is compared, a backup that is killed and swept, prune. One that cannot be started, and a step that fails
where nothing says that it may, make the exit code 1.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import servers

STEPS = ["validate", "full", "incremental", "verify", "restore", "kill+sweep", "prune"]

# What a store is known not to do: the step, and a word of what Penstock must say about it.
KNOWN = {
    ("s3rver", "validate"): "MethodNotAllowed",
    ("s3rver", "kill+sweep"): "--give-up",
    ("fauxqs", "validate"): "cannot list an upload",
    ("moto", "validate"): "ListPartsResponse",
}

CONFIG = """cluster = "c1"
node = "n1"
state_dir = "{work}/state"
[admin]
socket = "{work}/p.sock"
[limits]
memory = "64MiB"
bandwidth = "{bandwidth}"
[locations.primary]
provider = "aws"
bucket = "penstock-stores"
region = "us-east-1"
s3_url = "{url}"
force_path_style = true
{settings}
[locations.primary.credentials]
source = "static"
access_key_id = "{access_key}"
secret_access_key = "{secret_key}"
[locations.primary.upload]
part_size = "5MiB"
[jobs.j]
location = "primary"
compression = "none"
retention = {{ keep_last = 1, grace = "0s" }}
[[jobs.j.sources]]
type = "tree"
name = "t"
path = "{work}/src"
"""


class Failed(Exception):
    pass


class Life:
    """One store and one configuration."""

    def __init__(self, penstock, running, work):
        self.penstock, self.running, self.work = penstock, running, work
        source = work / "src"
        (source / "deep").mkdir(parents=True)
        (source / "small").write_text("small\n")
        (source / "deep" / "large").write_bytes(os.urandom(18 << 20))
        self.configure("0")
        status, _, body = running.store.request("PUT", "/penstock-stores")
        if status not in (200, 204):
            raise Failed(f"the bucket cannot be made: {status} {body[:200]}")

    def configure(self, bandwidth):
        store = self.running.store
        settings = "".join(f"{name} = {json.dumps(value)}\n" for name, value in self.running.settings.items())
        text = CONFIG.format(work=self.work, url=store.url, access_key=store.access_key, secret_key=store.secret_key,
                             settings=settings, bandwidth=bandwidth)
        (self.work / "p.toml").write_text(text)

    def command(self, *arguments):
        return [str(self.penstock), "--config", str(self.work / "p.toml"), *map(str, arguments)]

    def ask(self, *arguments, codes=(0,)):
        environment = {"PATH": os.environ["PATH"], "AWS_EC2_METADATA_DISABLED": "true"}
        done = subprocess.run(self.command(*arguments), env=environment, capture_output=True, text=True, timeout=300)
        with open(self.work / "penstock.log", "a") as log:
            log.write(f"$ {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}\n")
        if done.returncode not in codes:
            raise Failed(f"exit {done.returncode}: {(done.stdout + done.stderr).strip()}")
        return done.stdout

    def backups(self):
        return json.loads(self.ask("--output", "json", "list"))

    def validate(self):
        text = self.ask("validate", "--skip", "ec2")
        return "; ".join(re.sub(" +", " ", line).strip() for line in text.splitlines() if " warning " in line and "TLS" not in line)

    def full(self):
        self.ask("backup", "j")
        return ""

    def incremental(self):
        (self.work / "src/added").write_text("added\n")
        self.ask("backup", "j")
        return ""

    def verify(self):
        self.ask("verify", "--latest", "--data")
        return ""

    def restore(self):
        target = self.work / "restored"
        self.ask("restore", "j@latest", "--to", target)
        compared = subprocess.run(["diff", "-r", self.work / "src", target / "t"], capture_output=True, text=True)
        if compared.returncode != 0:
            compared = subprocess.run(["diff", "-r", self.work / "src", target], capture_output=True, text=True)
        if compared.returncode != 0:
            raise Failed(f"what was restored differs: {compared.stdout}{compared.stderr}")
        return ""

    def kill_sweep(self):
        (self.work / "src/deep/large").write_bytes(os.urandom(18 << 20))
        self.configure("4MiB")
        with open(self.work / "penstock.log", "a") as log:
            backup = subprocess.Popen(self.command("backup", "j"), stdout=log, stderr=log, env={"AWS_EC2_METADATA_DISABLED": "true"})
        end = time.monotonic() + 60
        while not any(b'{"part"' in file.read_bytes() for file in (self.work / "state/uploads").glob("*.upload")):
            if time.monotonic() > end or backup.poll() is not None:
                raise Failed("no part was sent before the backup ended")
            time.sleep(0.05)
        backup.send_signal(signal.SIGKILL)
        backup.wait()
        self.configure("0")
        try:
            self.ask("sweep")
        finally:
            self.ask("sweep", "--give-up")
        left = list((self.work / "state/uploads").glob("*.upload"))
        if left:
            raise Failed(f"{len(left)} records are left")
        return ""

    def prune(self):
        self.ask("prune", "--grace", "0s")
        self.ask("verify", "--latest", "--data")
        return ""


def live(penstock, starter, tools, work, port):
    """The table's row: the store, and each step's word."""
    servers.claim(port)
    running = servers.STARTERS[starter](tools, work, port)
    words = []
    try:
        life = Life(penstock, running, work)
        for step in STEPS:
            try:
                note = getattr(life, step.replace("+", "_"))()
                words.append(("ok", note))
            except (Failed, subprocess.TimeoutExpired) as error:
                known = KNOWN.get((running.name, step))
                words.append(("known" if known and known in str(error) else "FAILS", str(error)))
    finally:
        running.stop()
    return f"{running.name} {running.version}", words


def main():
    penstock = Path(os.environ["PENSTOCK"]).resolve()
    tools, chosen = Path(sys.argv[1]).resolve(), sys.argv[2:] or list(servers.STARTERS)
    tools.mkdir(parents=True, exist_ok=True)
    port, bad, rows = int(os.environ.get("STORES_PORT", "15310")), False, []
    for number, starter in enumerate(chosen):
        # On a file system of this machine's disk: Swift keeps extended attributes.
        work = Path(tempfile.mkdtemp(prefix=f"{starter}.", dir=tools))
        try:
            name, words = live(penstock, starter, tools, work, port + 10 * number)
        except Exception as error:  # whatever kept it from starting is to be said, and the others tried
            name, words = starter, [("FAILS", f"cannot be started: {error} (see {work})")]
        rows.append((name, words))
        failed = any(word == "FAILS" for word, _ in words)
        bad |= failed
        if not failed:
            shutil.rmtree(work)
    print(f"{'store':<34}" + "".join(f"{step:<13}" for step in STEPS))
    for name, words in rows:
        print(f"{name:<34}" + "".join(f"{word:<13}" for word, _ in words))
    for name, words in rows:
        for step, (word, note) in zip(STEPS, words):
            if note:
                print(f"\n{name}, {step}: {word}\n  " + note.replace("\n", "\n  "))
    sys.exit(bad)


main()
