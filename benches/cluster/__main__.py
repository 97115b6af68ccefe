"""Arguments in, rows run, result written."""

import argparse
import os
import signal
import sys

from peers.__main__ import binary
from peers.common import BENCH, Unavailable
from peers.penstock import Penstock
from peers.report import Report
from peers.table import write
from peers.tools import install_apt

from . import __doc__ as about
from .kubectl import debians
from .restores import row_rates, row_secrets
from .rows import row_against_kubectl, row_memory, row_unchanged
from .server import api_server

ROWS = ("K1", "K2", "K3", "K4", "K5")


def arguments():
    parser = argparse.ArgumentParser(prog="cluster", description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="install the apt packages, system-wide")
    parser.add_argument("--penstock", help="this binary (default: cargo build --release)")
    parser.add_argument("--rounds", type=int, default=5, help="K1, K4")
    parser.add_argument("--only", type=lambda text: text.upper().split(","), default=list(ROWS), help="rows; default: all")
    parser.add_argument("--objects", type=int, default=5000, help="K1, K2, K4")
    parser.add_argument("--secrets", type=int, default=30_000, help="K5")
    parser.add_argument("--many-objects", type=int, default=60_000, help="K3")
    parser.add_argument("--large-mib", type=int, default=1024, help="K3: bytes of the one long list")
    parser.add_argument("--no-write", dest="write", action="store_false", help="leave docs/benchmarks.md alone")
    options = parser.parse_args()
    if unknown := set(options.only) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    options.base = None
    return options


def main():
    options = arguments()
    report = Report()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.makedirs(os.path.join(BENCH, "log"), exist_ok=True)
    if options.install:
        install_apt(["nginx-light", "etcd-server", "curl", "openssl"])
    penstock, kubectl = Penstock(binary(options)), debians()
    with api_server() as server:
        for row, function in (("K1", row_against_kubectl), ("K2", row_unchanged), ("K3", row_memory),
                              ("K4", row_rates), ("K5", row_secrets)):
            if row not in options.only:
                report.skip(row, "not asked for: `--only`")
                continue
            try:
                function(options, report, penstock, server, kubectl)
            except Unavailable as why:
                report.skip(row, str(why))
    write(options, report, [penstock], "bench-kubernetes", [[kubectl, "version", "--client", "--short"], ["etcd", "--version"]])
    if report.broken:
        sys.exit("bench-kubernetes: Penstock failed in a row above")


if __name__ == "__main__":
    main()
