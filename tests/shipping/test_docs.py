"""The documentation agrees with the binary and with itself. (Its shell blocks are executed by run_docs.py, in `make package`.)"""

import math
import re
import shlex
import tempfile
import unittest

import commands
import yaml
from common import KUBERNETES, PENSTOCK, ROOT, agent_of, kustomize, pod_of, run, validate
from markdown import LANGUAGES, all_blocks, indented, pages

BASE = """
cluster = "x"
[locations.primary]
provider = "aws"
bucket = "acme-cluster-backups"
region = "eu-west-1"
"""


def whole_location(text):
    """A page may show a table of a location only, or some of its keys: with the location's own keys that it leaves out."""
    if not re.search(r"^\[+locations\.primary\b", text, re.M):
        return text
    head = "[locations.primary]\n"
    own = re.search(r"^\[locations\.primary\]\n((?!\[).*\n)*", text, re.M)
    wanted = BASE.partition(head)[2].splitlines(keepends=True)
    lines = "".join(line for line in wanted if own is None or not re.search(rf"^{line.split()[0]}\s*=", own[0], re.M))
    return text.replace(head, head + lines, 1) if own else head + lines + text


class Help(unittest.TestCase):
    maxDiff = None

    def test_the_page_is_what_the_binary_says(self):
        self.assertEqual((ROOT / "docs" / "commands.md").read_text(), commands.page(), "run `make docs`")

    def test_every_command_of_every_block_exists(self):
        known = {command: text for command, text in commands.every()}
        for block in all_blocks():
            if block.language != "sh":
                continue
            text = block.text.replace("\\\n", " ")
            for line in re.findall(r"(?:^|[|&;(]|-- )\s*(penstock\s[^|&;)\n]*)", text, re.M):
                words = shlex.split(line, comments=True)[1:]
                where = f"{block.page}:{block.line}: {line}"
                command = ()
                for word in words:
                    if (*command, word) in known:
                        command = (*command, word)
                plain = [word for word in words if not word.startswith("-")]
                if words and words[0] not in ("--version", "--help"):
                    self.assertTrue(command, f"{where}: no such command")
                    self.assertTrue(command[0] in plain[:3], where)
                for flag in (word.split("=")[0] for word in words[: words.index("--") if "--" in words else None]):
                    if flag.startswith("--"):
                        self.assertIn(flag, known[command] + "--version", f"{where}: no such option")


class Blocks(unittest.TestCase):
    def test_each_has_a_language_and_a_shell_block_runs_or_says_why_not(self):
        for block in all_blocks():
            with self.subTest(page=block.page, line=block.line):
                self.assertIn(block.language, LANGUAGES)
                if block.not_run is not None:
                    self.assertEqual(block.language, "sh", "only shell blocks are run")
                    self.assertGreater(len(block.not_run), 10, "say why")

    def test_none_is_only_indented_with_commands(self):
        command = re.compile(r"^\s+(\$ |make |cargo |kubectl |helm |penstock |aws |apt|dnf|systemctl |docker )")
        for path in pages():
            for number, line in indented(path):
                self.assertNotRegex(line, command, f"{path.name}:{number}: fence it, with a language")

    def test_some_run(self):
        self.assertGreater(sum(block.runs for block in all_blocks()), 10)

    def test_toml_is_a_configuration(self):
        for block in all_blocks():
            if block.language != "toml":
                continue
            text = whole_location(block.text)
            if not re.search(r"^\[locations\.", text, re.M):
                text = BASE + ("" if re.search(r"^\[jobs\.[a-z-]+\]", text, re.M) else '[jobs.volumes]\nlocation = "primary"\n') + text
            # A page may show a few lines of a job only.
            if "location" not in text.partition("[jobs.")[2]:
                text = re.sub(r"^\[jobs\.[a-z-]+\]$", '\\g<0>\nlocation = "primary"', text, count=1, flags=re.M)
            if "sources]]" not in text and (job := re.search(r"^\[(jobs\.[a-z-]+)\]", text, re.M)):
                text += f'[[{job[1]}.sources]]\ntype = "tree"\nname = "x"\npath = "/x"\n'
            if not re.search(r"^cluster", text, re.M):
                text = 'cluster = "x"\n' + text
            with self.subTest(page=block.page, line=block.line), tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
                file.write(text)
                file.flush()
                done = run(PENSTOCK, "--config", file.name, "config", "check", env={})
                self.assertEqual(done.returncode, 0, done.stderr)

    def test_the_patch_for_rke2_patches(self):
        [block] = [block for block in all_blocks() if block.page == "docs/etcd.md" and block.language == "yaml"]
        with tempfile.TemporaryDirectory(dir=KUBERNETES / "overlays") as folder:
            patched = {"resources": ["../control-plane"], **yaml.safe_load(block.text)}
            (ROOT / folder / "kustomization.yaml").write_text(yaml.safe_dump(patched))
            objects = kustomize(folder)
        validate(objects)
        mounts = {mount["mountPath"] for mount in agent_of(objects)["volumeMounts"]}
        self.assertIn("/var/lib/rancher/rke2/server", mounts)
        self.assertNotIn("/etc/kubernetes", mounts)
        affinity = pod_of(objects)["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        [term] = affinity["nodeSelectorTerms"]
        self.assertEqual([each["key"] for each in term["matchExpressions"]], ["node-role.kubernetes.io/etcd"])


class Text(unittest.TestCase):
    def test_links_lead_somewhere(self):
        for path in pages():
            fences = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
            for target in re.findall(r"\]\(([^)\s]+)\)", fences):
                if re.match(r"[a-z]+:", target):
                    continue
                name, _, anchor = target.partition("#")
                there = (path.parent / name).resolve() if name else path
                with self.subTest(page=str(path.relative_to(ROOT)), target=target):
                    self.assertTrue(there.exists())
                    if anchor:
                        heads = re.findall(r"^#+ (.+)$", there.read_text(), re.M)
                        slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
                        self.assertIn(anchor, slugs)

    def test_every_page_is_in_the_index(self):
        index = (ROOT / "docs" / "README.md").read_text()
        for path in (ROOT / "docs").glob("*.md"):
            if path.name != "README.md":
                self.assertIn(f"({path.name})", index)

    def test_the_table_of_a_terabyte_adds_up(self):
        terabyte, object_size = 10**12, 64 << 30
        rows = re.findall(r"^\| (\d+) MiB.*? \| ([\d,]+) \| (\d+) \| ([\d,]+) \| \$([\d.]+) \|$", (ROOT / "docs/sizing.md").read_text(), re.M)
        self.assertEqual(len(rows), 4)
        for part, parts, other, requests, dollars in rows:
            size = int(part) << 20
            full, rest = divmod(terabyte, object_size)
            expected = full * (object_size // size) + math.ceil(rest / size)
            others = 2 * (full + 1) + 2
            self.assertEqual(int(parts.replace(",", "")), expected)
            self.assertEqual(int(other), others)
            self.assertEqual(int(requests.replace(",", "")), expected + others)
            self.assertEqual(f"{(expected + others) * 0.005 / 1000:.2f}", dollars)


if __name__ == "__main__":
    unittest.main()
