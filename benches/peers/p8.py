"""P8: an idle daemon."""

import contextlib
import os
import re
import socket
import statistics
import subprocess
import sys
import time

from .common import BENCH, Unavailable, environment
from .servers import port_or_free, wait_for


def cpu(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss(pid):
    with open(f"/proc/{pid}/status") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1]) / 1024


def asked(port, path):
    with socket.create_connection(("127.0.0.1", port), 10) as one:
        one.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        reply = b""
        while piece := one.recv(1 << 16):
            reply += piece
    return reply


@contextlib.contextmanager
def idle_daemon(penstock, url):
    """A daemon with 200 jobs, none of which is due, ten seconds after it was ready: its process id and its port."""
    config = penstock.config("p8", url, 'type = "command"\nname = "stream"\nargv = ["true"]')
    port = port_or_free(9632)
    with open(config) as file:
        text = file.read().replace("[admin]", f'[admin]\nlisten = "127.0.0.1:{port}"')
    text = re.sub(r"\[jobs.bench\].*", "", text, flags=re.S)
    for number in range(200):
        text += (f'[jobs.job-{number}]\nlocation = "bench"\nschedule = "0 0 1 1 *"\n'
                 f'sources = [{{ type = "command", name = "stream", argv = ["true"] }}]\n')
    with open(config, "w") as file:
        file.write(text)
    with open(os.path.join(BENCH, "log", "p8.log"), "wb") as log:
        daemon = subprocess.Popen(penstock.command(config, "run"), env=environment(), stdout=log, stderr=log)
    try:
        wait_for(port)
        for _ in range(100):
            if asked(port, "/readyz").startswith(b"HTTP/1.1 200"):
                break
            time.sleep(0.1)
        else:
            raise Unavailable("the daemon did not become ready (.bench/log/p8.log)")
        time.sleep(10)
        yield daemon.pid, port
    finally:
        daemon.terminate()
        daemon.wait()


def row_idle(options, report, penstock, s3):
    with idle_daemon(penstock, s3.url) as (pid, port):
        before, start = cpu(pid), time.monotonic()
        time.sleep(options.idle_seconds)
        share = 100 * (cpu(pid) - before) / (time.monotonic() - start)
        report.idle_rss = rss(pid)

        def latencies():
            times = []
            for _ in range(100):
                start = time.monotonic()
                asked(port, "/metrics")
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
    report.sections.append("\n".join([
        "### P8: an idle daemon, 200 jobs", "",
        f"RSS {report.idle_rss:.1f} MiB; CPU {share:.3f} % of one core over {options.idle_seconds} s; `/metrics`, on a new connection each time, median "
        f"{quiet[0]:.2f} ms (99th percentile {quiet[1]:.2f}), with every core busy {busy[0]:.2f} ms ({busy[1]:.2f})."]))
    report.target("P8 RSS MiB", report.idle_rss, 25.0)
    report.target("P8 CPU %", share, 0.1)
    report.target("P8 /metrics ms", quiet[0], 5.0)
    report.target("P8 /metrics ms, every core busy", busy[0], 5.0)
