"""The API server, started for one run in .bench/kubernetes, and what the harness asks it."""

import contextlib
import http.client
import os
import re
import ssl
import subprocess

from peers.common import BENCH, ROOT
from peers.servers import port_or_free

BUILT = os.path.join(ROOT, ".tools", "kubernetes", "bin")
DIRECTORY = os.path.join(BENCH, "kubernetes")


@contextlib.contextmanager
def api_server():
    script = os.path.join(ROOT, "tests", "kube-apiserver.sh")
    os.makedirs(DIRECTORY, exist_ok=True)
    link = os.path.join(DIRECTORY, "bin")
    if not os.path.islink(link):
        os.symlink(BUILT, link)
    port = port_or_free(int(os.environ.get("API_PORT", "16543")))
    env = dict(os.environ, CM="0", API_PORT=str(port), ETCD_PORT=os.environ.get("ETCD_PORT", "23899"), WIPE="1")
    # What a run that was killed has left.
    subprocess.run([script, "stop", DIRECTORY], env=env, check=True)
    try:
        subprocess.run([script, "start", DIRECTORY], env=env, check=True)
        yield Server(port)
    finally:
        subprocess.run([script, "stop", DIRECTORY], env=env, check=False)


class Server:
    def __init__(self, port):
        self.port, self.kubeconfig = port, os.path.join(DIRECTORY, "admin.kubeconfig")
        run = os.path.join(DIRECTORY, "run")
        self.tls = ssl.create_default_context(cafile=os.path.join(run, "ca.crt"))
        self.tls.load_cert_chain(os.path.join(run, "admin.crt"), os.path.join(run, "admin.key"))

    def connection(self):
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=self.tls, timeout=120)

    def lists(self):
        """How many lists of ConfigMaps the server has answered."""
        one = self.connection()
        one.request("GET", "/metrics")
        text = one.getresponse().read().decode()
        counted = re.findall(r'^apiserver_request_total\{[^}]*resource="configmaps"[^}]*verb="LIST"[^}]*\} (\S+)$', text, re.M)
        return int(sum(map(float, counted)))
