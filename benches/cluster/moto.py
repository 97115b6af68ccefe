"""A store that gives back what it took: moto, as the demo has it."""

import contextlib
import os
import re
import subprocess
import sys
import urllib.request

from peers.common import BENCH, BUCKET
from peers.servers import port_or_free, wait_for

PACKAGE = "moto[server,s3]==5.2.5"


@contextlib.contextmanager
def moto():
    venv = os.path.join(BENCH, "moto")
    program = os.path.join(venv, "bin", "moto_server")
    if not os.path.exists(program):
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([os.path.join(venv, "bin", "pip"), "install", "-q", "--disable-pip-version-check", PACKAGE], check=True)
    port = port_or_free(18081)
    with open(os.path.join(BENCH, "log", "moto.log"), "wb") as log:
        server = subprocess.Popen([program, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
    try:
        wait_for(port)
        urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT"), timeout=30).read()
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def stored(url):
    """Bytes in the bucket: manifests and indexes too."""
    with urllib.request.urlopen(f"{url}/{BUCKET}?list-type=2", timeout=30) as answer:
        return sum(map(int, re.findall(r"<Size>(\d+)</Size>", answer.read().decode())))
