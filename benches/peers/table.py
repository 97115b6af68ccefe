"""Writes the result as Markdown: to the terminal, and between the markers of docs/benchmarks.md."""

import datetime
import os
import shlex
import sys

from .common import ROOT, SECRET
from .tools import machine, versions

BEGIN, END = "<!-- bench-peers:begin -->", "<!-- bench-peers:end -->"


def write(options, report, builds):
    if options.base:
        report.comparison()
    lines = [f"Measured {datetime.date.today()} with `python3 -m peers {shlex.join(sys.argv[1:])}`, medians of {options.rounds}, "
             "clients taking turns.", "", f"Machine: {machine()}.", "", "Versions: " + "; ".join(versions(builds)) + ".", ""]
    lines += ["RSS is that of the largest process; 20 MiB is the least that the harness can see. Penstock's payload is signed only where the"
              " row says so (docs/decisions/0004).", ""]
    lines += ["\n\n".join(report.sections), "", "### Targets", ""] + [f"- {line}" for line in report.targets]
    lines += ["", "### Not run", ""] + ([f"- {line}" for line in report.not_run] or ["- everything was run"])
    lines += ["", "<details><summary>Commands</summary>", ""] + [f"- {line}" for line in report.commands] + ["", "</details>"]
    text = "\n".join(lines).replace(ROOT + "/", "").replace(SECRET, "…")
    print("\n" + text)
    if options.write:
        path = os.path.join(ROOT, "docs", "benchmarks.md")
        with open(path) as file:
            document = file.read()
        if document.count(BEGIN) != 1 or document.count(END) != 1:
            sys.exit(f"{path} has not one pair of the markers {BEGIN} {END}")
        head, rest = document.split(BEGIN)
        with open(path, "w") as file:
            file.write(f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")
        print(f"\nwritten to {path}")
