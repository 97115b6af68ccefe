"""docs/commands.md, from what the binary itself says: `make docs` writes it, a test compares."""

import re
import sys

from common import PENSTOCK, ROOT, output

HEAD = """# Commands

What `--help` says, for each command. This file is made by `make docs`; a test compares it with the binary.
"""


def help_of(*command):
    # A width of its own, so that it does not depend on the terminal.
    text = output(PENSTOCK, *command, "--help", env={"COLUMNS": "120", "NO_COLOR": "1"})
    return "\n".join(line.rstrip() for line in text.splitlines())


def subcommands(text):
    section = re.search(r"^Commands:\n((?:  .*\n?|\n(?=  ))+)", text, re.M)
    names = re.findall(r"^  ([a-z][a-z-]*)(?:  |$)", section[1], re.M) if section else []
    return [name for name in names if name != "help"]


def every(*command):
    """Each command with its help, depth first."""
    text = help_of(*command)
    yield command, text
    for name in subcommands(text):
        yield from every(*command, name)


def page():
    return HEAD + "".join(
        f"\n## {' '.join(('penstock', *command))}\n```text\n{text}\n```\n" for command, text in every()
    )


if __name__ == "__main__":
    path = ROOT / "docs" / "commands.md"
    path.write_text(page())
    print(f"{path}: {path.read_text().count('## ')} commands", file=sys.stderr)
