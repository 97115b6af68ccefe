"""The stores: each is installed below a folder, started on loopback, and ends with its processes.

A starter raises where its store cannot be had: the run says so and fails.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from s3 import Store

DEBIAN_SWIFT = ["swift", "swift-proxy", "swift-account", "swift-container", "swift-object"]


class Running:
    """A started store, and the settings a location needs for it."""

    def __init__(self, name, version, store, settings, processes):
        self.name, self.version, self.store, self.settings, self.processes = name, version, store, settings, processes

    def stop(self):
        for process in self.processes:
            try:
                os.killpg(process.pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def run(*command, **options):
    subprocess.run([str(word) for word in command], check=True, **options)


def start(command, log, **options):
    with open(log, "ab") as output:
        return subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                start_new_session=True, **options)


def claim(port):
    """Something else that listens there would be taken for the store."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise RuntimeError(f"port {port} is taken")


def wait_for(url, process, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"{url} did not answer within {seconds} s")


def python_of(least):
    """An interpreter of at least this version: this one, one of the PATH, or one of pyenv's."""
    if sys.version_info >= least:
        return sys.executable
    shims = sorted(Path.home().glob(".pyenv/versions/3.*/bin/python3"), reverse=True)
    names = [shutil.which(f"python3.{minor}") for minor in range(20, least[1] - 1, -1)]
    for python in [*filter(None, names), *shims]:
        check = subprocess.run([python, "-c", f"import sys; sys.exit(sys.version_info < {least})"], check=False, capture_output=True)
        if check.returncode == 0:
            return python
    raise RuntimeError(f"it needs Python {least[0]}.{least[1]}, and there is none")


def venv(folder, *packages, python=sys.executable):
    """A virtual environment with these packages, made once."""
    ready = folder / "ready"
    wanted = "\n".join(packages)
    if not ready.exists() or ready.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        run(python, "-m", "venv", folder)
        run(folder / "bin/pip", "install", "--quiet", "--disable-pip-version-check", *packages)
        ready.write_text(wanted)
    return folder / "bin"


def moto(tools, work, port):
    bin_ = venv(tools / "moto-5.2.5", "moto[server,s3]==5.2.5")
    process = start([bin_ / "moto_server", "-H", "127.0.0.1", "-p", port], work / "moto.log")
    url = f"http://127.0.0.1:{port}"
    wait_for(url + "/moto-api/", process)
    return Running("moto", "5.2.5", Store(url, "AKIAIOSFODNN7EXAMPLE", "secret"), {"checksum": "crc32c"}, [process])


def fauxqs(tools, work, port):
    folder = tools / "fauxqs-1.9.2"
    if not (folder / "node_modules/fauxqs/package.json").exists():
        run("npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", folder, "fauxqs@1.9.2")
    environment = {**os.environ, "FAUXQS_PORT": str(port), "FAUXQS_LOGGER": "false"}
    process = start([folder / "node_modules/.bin/fauxqs"], work / "fauxqs.log", env=environment, cwd=work)
    url = f"http://127.0.0.1:{port}"
    wait_for(url, process)
    return Running("fauxqs", "1.9.2", Store(url, "test", "test"), {"checksum": "none"}, [process])


def s3rver(tools, work, port):
    folder = tools / "s3rver-3.7.1"
    if not (folder / "node_modules/s3rver/package.json").exists():
        run("npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", folder, "s3rver@3.7.1")
    (work / "data").mkdir()
    process = start([folder / "node_modules/.bin/s3rver", "-d", work / "data", "-a", "127.0.0.1", "-p", port], work / "s3rver.log")
    url = f"http://127.0.0.1:{port}"
    wait_for(url, process)
    return Running("s3rver", "3.7.1", Store(url, "S3RVER", "S3RVER"), {"checksum": "none"}, [process])


def localstack(tools, work, port):
    # It imports a module that cbor2 6 has not, and calls a method that pyOpenSSL 26 has not.
    packages = ["localstack-core[runtime]==2026.3.0", "cbor2<6", "pyopenssl<26", "cryptography<47", "service_identity<26"]
    bin_ = venv(tools / "localstack-core-2026.3.0", *packages, python=python_of((3, 13)))
    environment = {**os.environ, "GATEWAY_LISTEN": f"127.0.0.1:{port}", "SERVICES": "s3", "EAGER_SERVICE_LOADING": "0",
                   "DISABLE_EVENTS": "1", "SKIP_SSL_CERT_DOWNLOAD": "1", "DNS_ADDRESS": "0", "LOCALSTACK_VOLUME_DIR": str(work / "volume"),
                   "FILESYSTEM_ROOT": str(work / "fs"), "TMPDIR": str(work)}
    process = start([bin_ / "python", "-m", "localstack.runtime.main"], work / "localstack.log", env=environment, cwd=work)
    url = f"http://127.0.0.1:{port}"
    wait_for(url + "/_localstack/health", process, 120)
    return Running("LocalStack", "2026.3.0", Store(url, "test", "test"), {}, [process])


def swift_debian(tools, work, port):
    if shutil.which("swift-proxy-server", path="/usr/bin") is None:
        run("apt-get", "update", "-q", stdout=subprocess.DEVNULL)
        run("apt-get", "install", "-q", "-y", "--no-install-recommends", *DEBIAN_SWIFT,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, stdout=subprocess.DEVNULL)
    query = ["dpkg-query", "-W", "-f", "${Version}", "swift"]
    version = subprocess.run(query, check=True, capture_output=True, text=True).stdout
    return swift(f"{version} (Debian)", "/usr/bin/python3", work, port, {"checksum": "none"})


def swift_pypi(tools, work, port):
    bin_ = venv(tools / "swift-2.38.0", "swift==2.38.0", "setuptools<81")
    return swift("2.38.0 (PyPI)", bin_ / "python", work, port, {})


# Swift reads its hash prefix from /etc/swift/swift.conf; another place is set before any of it is used.
LAUNCH = """
import sys
import swift.common.utils as utils
conf, kind, config = sys.argv[1:]
utils.SWIFT_CONF_FILE = conf
getattr(utils, "config", utils).SWIFT_CONF_FILE = conf
from swift.common.wsgi import run_wsgi
sys.exit(run_wsgi(config, kind + "-server", default_port=0))
"""

RINGS = """
import sys
from swift.common.ring import RingBuilder
folder = sys.argv[1]
for kind, port in (part.split("=") for part in sys.argv[2:]):
    builder = RingBuilder(4, 1, 1)
    builder.add_dev({"id": 0, "region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "d1", "weight": 1.0, "meta": ""})
    builder.rebalance()
    builder.get_ring().save(f"{folder}/{kind}.ring.gz")
"""

PROXY = """
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats bulk s3api tempauth copy container-quotas account-quotas slo dlo versioned_writes symlink proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
max_upload_part_num = 10000
[filter:slo]
use = egg:swift#slo
max_manifest_segments = 10000
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
""" + "".join(f"[filter:{name}]\nuse = egg:swift#{egg}\n" for name, egg in [
    ("catch_errors", "catch_errors"), ("gatekeeper", "gatekeeper"), ("healthcheck", "healthcheck"), ("listing_formats", "listing_formats"),
    ("bulk", "bulk"), ("copy", "copy"), ("container-quotas", "container_quotas"), ("account-quotas", "account_quotas"), ("dlo", "dlo"),
    ("versioned_writes", "versioned_writes\nallow_object_versioning = true"), ("symlink", "symlink")])


def swift(version, python, work, port, settings):
    """One replica of everything, with the s3api and tempauth middlewares."""
    kinds = {"account": port + 1, "container": port + 2, "object": port + 3}
    (work / "devices/d1").mkdir(parents=True)
    conf = work / "swift.conf"
    conf.write_text("[swift-hash]\nswift_hash_path_suffix = s\nswift_hash_path_prefix = p\n[storage-policy:0]\nname = p\ndefault = yes\n")
    run(python, "-W", "ignore", "-c", RINGS, work, *(f"{kind}={number}" for kind, number in kinds.items()))
    common = f"[DEFAULT]\nswift_dir = {work}\nuser = root\nbind_ip = 127.0.0.1\nworkers = 0\nlog_level = WARNING\nlog_address = /nonexistent\n"
    processes = []
    try:
        for kind, number in kinds.items():
            file = work / f"{kind}.conf"
            file.write_text(f"{common}bind_port = {number}\ndevices = {work}/devices\nmount_check = false\n[pipeline:main]\n"
                            f"pipeline = {kind}-server\n[app:{kind}-server]\nuse = egg:swift#{kind}\nallow_versions = on\n")
            processes.append(start([python, "-c", LAUNCH, conf, kind, file], work / f"{kind}.log"))
        file = work / "proxy.conf"
        file.write_text(f"{common}bind_port = {port}\n{PROXY}")
        processes.append(start([python, "-c", LAUNCH, conf, "proxy", file], work / "proxy.log"))
        url = f"http://127.0.0.1:{port}"
        wait_for(url + "/healthcheck", processes[-1])
    except BaseException:
        Running("", "", None, {}, processes).stop()
        raise
    return Running("Swift", version, Store(url, "test:tester", "testing"), settings, processes)


STARTERS = {"moto": moto, "s3rver": s3rver, "fauxqs": fauxqs, "localstack": localstack, "swift-debian": swift_debian, "swift-pypi": swift_pypi}
