"""Debian's kubectl, unpacked into .bench/: other packages have a /usr/bin/kubectl too, of other versions."""

import glob
import os
import subprocess

from peers.common import BENCH, Unavailable


def debians():
    directory = os.path.join(BENCH, "kubectl")
    binary = os.path.join(directory, "usr", "bin", "kubectl")
    if os.path.exists(binary):
        return binary
    os.makedirs(directory, exist_ok=True)
    try:
        subprocess.run(["apt-get", "download", "-q", "kubernetes-client"], cwd=directory, check=True)
        [package] = glob.glob(os.path.join(directory, "kubernetes-client_*.deb"))
        subprocess.run(["dpkg", "-x", package, directory], check=True)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"there is no kubectl of Debian (apt: kubernetes-client): {error}") from error
    return binary
