"""Arguments in, rows run, result written."""

import argparse
import json
import os
import signal
import subprocess
import sys

from . import __doc__ as about
from .common import ROOT, Unavailable
from .p1_p2 import row_uploads
from .p3 import row_trees
from .p4 import row_incremental
from .p6 import row_scale, row_small_files
from .p7 import row_requests
from .p8 import row_idle
from .p9 import row_fleet
from .p11 import row_one_object
from .p12 import row_one_of_many
from .p13 import row_threads
from .p14 import row_shaped
from .penstock import Penstock
from .report import Report
from .servers import read_back_store
from .table import write
from .tools import install

ROWS = {f"P{number}" for number in range(1, 15)}
# The rows that --base compares, and those that are run when --only names none.
COMPARED, COMPARED_BY_DEFAULT = {"P1", "P2", "P3", "P4", "P5", "P10"}, ["P1", "P3", "P4"]


def arguments():
    parser = argparse.ArgumentParser(prog="peers", description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(part) for part in text.split(",")]  # noqa: E731
    parser.add_argument("--install", action="store_true", help="install the apt packages, system-wide")
    parser.add_argument("--penstock", help="this binary (default: cargo build --release)")
    parser.add_argument("--base", help="compare with this older Penstock, and with no other program")
    parser.add_argument("--with-peers", action="store_true", help="with --base: all rows and programs, the base as one more in P1 to P5 and P10")
    parser.add_argument("--rounds", type=int, help="default: 5; 11 with --base alone")
    parser.add_argument("--only", type=lambda text: text.upper().split(","), help="rows; default: all; P1,P3,P4 with --base alone")
    parser.add_argument("--mib", type=int, default=2048, help="P1, P2, P7, P11, P14")
    parser.add_argument("--tree-mib", type=int, default=1536, help="P3, P4, P5, P10")
    parser.add_argument("--tree-files", type=int, default=60_000, help="P3, P4, P5, P10")
    parser.add_argument("--scale-mib", type=int, default=1024, help="P6: one unit of its streams")
    parser.add_argument("--factors", type=numbers, default=[1, 4, 16], help="P6: lengths in units")
    parser.add_argument("--scale-rounds", type=int, default=5, help="P6")
    parser.add_argument("--small-files", type=int, default=0, help="P6, P12: so many files of 4 KiB; 1000000 takes ten minutes and 5 GiB")
    parser.add_argument("--deleted-inodes", type=int, default=0, help="P10: so many; 1000000 takes half a minute more for each run")
    parser.add_argument("--stream-mib", type=int, default=4096, help="P13")
    parser.add_argument("--shape", type=numbers, default=[60, 60], help="P14: ms before each answer, MB/s of each connection")
    parser.add_argument("--in-flight", type=numbers, default=[4, 8, 16, 32], help="P14: parts")
    parser.add_argument("--fleet", type=numbers, default=[100, 300, 30], help="P9: nodes, backups of each, ms before each answer")
    parser.add_argument("--chains", type=int, default=1000, help="P9: of the backups that are verified")
    parser.add_argument("--fleet-rounds", type=int, default=5, help="P9")
    parser.add_argument("--idle-seconds", type=int, default=60, help="P8")
    parser.add_argument("--no-write", dest="write", action="store_false", help="leave docs/benchmarks.md alone")
    options = parser.parse_args()
    options.base_only = bool(options.base) and not options.with_peers
    options.only = options.only or (COMPARED_BY_DEFAULT if options.base_only else sorted(ROWS))
    options.rounds = options.rounds or (11 if options.base_only else 5)
    possible = COMPARED if options.base_only else ROWS
    if unknown := set(options.only) - possible:
        parser.error(f"no such row{' with --base alone' if options.base_only else ''}: {', '.join(sorted(unknown))}")
    if options.base and not os.access(options.base, os.X_OK):
        parser.error(f"--base: {options.base} is not a program")
    options.write &= not options.base_only
    return options


def binary(options):
    if options.penstock:
        return os.path.abspath(options.penstock)
    subprocess.run(["cargo", "build", "--locked", "--release"], cwd=ROOT, check=True)
    metadata = subprocess.run(["cargo", "metadata", "--locked", "--no-deps", "--format-version", "1"], cwd=ROOT, check=True,
                              capture_output=True).stdout
    return os.path.join(json.loads(metadata)["target_directory"], "release", "penstock")


def run(options, report, builds):
    only = set(options.only)

    def attempt(row, function, *args):
        try:
            function(options, report, *args)
        except Unavailable as why:
            report.skip(row, str(why))

    if only & {"P1", "P2"}:
        attempt("P1, P2", row_uploads, builds)
    if "P6" in only:
        attempt("P6", row_scale, builds[0])
    if "P9" in only:
        attempt("P9", row_fleet, builds[0])
    if "P11" in only:
        attempt("P11", row_one_object, builds[0])
    if "P13" in only:
        attempt("P13", row_threads, builds[0])
    if "P14" in only:
        attempt("P14", row_shaped, builds[0])
    rows_of_store(options, report, builds, attempt)
    # It holds its memory against P8's.
    if "P12" in only:
        attempt("P12", row_one_of_many, builds[0])


def rows_of_store(options, report, builds, attempt):
    """Those that radosgw is needed for, which takes a while to start."""
    only = set(options.only)
    if not only & {"P3", "P4", "P5", "P6", "P7", "P8", "P10"}:
        return
    try:
        with read_back_store() as s3:
            if only & {"P3", "P5", "P10"}:
                attempt("P3, P5, P10", row_trees, builds, s3)
            if "P4" in only:
                attempt("P4", row_incremental, builds, s3)
            if "P6" in only:
                attempt("P6", row_small_files, builds[0], s3)
            if "P7" in only:
                attempt("P7", row_requests, builds[0], s3, "")
            if "P8" in only:
                attempt("P8", row_idle, builds[0], s3)
    except Unavailable as why:
        for row in sorted(only & {"P3", "P4", "P5", "P6", "P8", "P10"}):
            report.skip(row, str(why))
        if "P7" in only:
            attempt("P7", row_requests, builds[0], None, str(why))


def main():
    options = arguments()
    report = Report(base_only=options.base_only)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    install(options)
    builds = [Penstock(binary(options))]
    if options.base:
        builds.append(Penstock(os.path.abspath(options.base), "base"))
    run(options, report, builds)
    write(options, report, builds)
    if report.broken:
        sys.exit("bench-peers: Penstock failed in a row above")


if __name__ == "__main__":
    main()
