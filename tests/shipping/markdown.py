"""Code blocks of the documentation.

A block that is fenced with ```sh is executed by run_docs.py, block after block of a page in one shell; unless a line before it
says `<!-- not run: REASON -->`.
"""

import dataclasses
import re

from common import ROOT

NOT_RUN = re.compile(r"^<!-- not run: (.+) -->$")
# Other names would hide a shell block from what runs them.
LANGUAGES = {"sh", "text", "toml", "yaml", "json", "promql"}


@dataclasses.dataclass
class Block:
    page: str
    line: int
    language: str
    text: str
    not_run: str | None

    @property
    def runs(self):
        return self.language == "sh" and self.not_run is None


def pages():
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(path):
    lines = path.read_text().splitlines()
    fence = None
    for number, line in enumerate(lines, 1):
        if fence is None and (start := re.match(r"^ {0,3}(```+)(.*)$", line)):
            fence, language, first = start[1], start[2].strip(), number
        elif fence is not None and line.strip() == fence:
            before = next((text for text in reversed(lines[: first - 1]) if text.strip()), "")
            reason = NOT_RUN.match(before)
            text = "\n".join(lines[first : number - 1]) + "\n"
            yield Block(str(path.relative_to(ROOT)), first, language, text, reason[1] if reason else None)
            fence = None
    assert fence is None, f"{path}: a code block is not closed"


def all_blocks():
    return [block for path in pages() for block in blocks(path)]


def indented(path):
    """Lines of code blocks that are only indented: they have no language, so nothing could tell whether to run them."""
    lines, fence, previous = path.read_text().splitlines(), False, ""
    for number, line in enumerate(lines, 1):
        fence ^= line.lstrip().startswith("```")
        if not fence and line.startswith("    ") and (previous.strip() == "" or previous.startswith("    ")):
            yield number, line
        previous = line
