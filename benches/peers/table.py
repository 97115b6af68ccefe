"""Writes the result as Markdown: to the terminal, and between the markers of docs/benchmarks.md."""

import datetime
import os
import shlex
import sys

from .common import ROOT, SECRET
from .tools import machine, versions

def write(options, report, builds, name="bench-peers", programs=None):
    """`name` is the make target's, and that of the section; `programs` those whose versions count, in place of the peers."""
    if options.base:
        report.comparison()
    module = os.path.basename(os.path.dirname(sys.argv[0]))
    lines = [f"Measured {datetime.date.today()} with `python3 -m {module} {shlex.join(sys.argv[1:])}`, medians of {options.rounds}, "
             "clients taking turns.", "", f"Machine: {machine()}.", "", "Versions: " + "; ".join(versions(builds, programs)) + ".", ""]
    lines += ["RSS is that of the largest process; 20 MiB is the least that the harness can see. Penstock's payload is signed only where the"
              " row says so (docs/decisions/0004).", ""]
    lines += ["\n\n".join(report.sections), "", "### Targets", ""] + [f"- {line}" for line in report.targets]
    lines += ["", "### Not run", ""] + ([f"- {line}" for line in report.not_run] or ["- everything was run"])
    lines += ["", "<details><summary>Commands</summary>", ""] + [f"- {line}" for line in report.commands] + ["", "</details>"]
    text = "\n".join(lines).replace(ROOT + "/", "").replace(SECRET, "…")
    print("\n" + text)
    if options.write:
        into_document(name, text)


def into_document(name, text):
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    path = os.path.join(ROOT, "docs", "benchmarks.md")
    with open(path) as file:
        document = file.read()
    if document.count(begin) != 1 or document.count(end) != 1:
        sys.exit(f"{path} has not one pair of the markers {begin} {end}")
    head, rest = document.split(begin)
    with open(path, "w") as file:
        file.write(f"{head}{begin}\n{text}\n{end}{rest.split(end)[1]}")
    print(f"\nwritten to {path}")
