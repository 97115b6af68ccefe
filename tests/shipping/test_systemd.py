"""The units: systemd's own checks, on the version that is here; started for real by package.sh."""

import re
import shutil
import tempfile
import tomllib
import unittest
from pathlib import Path

from common import PENSTOCK, ROOT, mebibytes, output, run

UNITS = ROOT / "systemd"
SERVICE = (UNITS / "penstock.service").read_text()
# What systemd before 253 says of the second Type= line, and may.
OLD = re.compile(r"Failed to parse service type, ignoring: notify-reload$")


def setting(name):
    return re.findall(rf"^{name}=(.*)$", SERVICE, re.M)


class Units(unittest.TestCase):
    def test_verify(self):
        version = int(re.match(r"systemd (\d+)", output("systemctl", "--version"))[1])
        with tempfile.TemporaryDirectory() as folder:
            for name in ("penstock.service", "penstock.socket"):
                # The program is there only once the package is.
                text = (UNITS / name).read_text().replace("/usr/bin/penstock", str(PENSTOCK))
                (Path(folder) / name).write_text(text)
            drop_ins = Path(folder) / "penstock.service.d"
            drop_ins.mkdir()
            for path in (UNITS / "examples" / "etcd.conf", UNITS / "before-253.conf"):
                (drop_ins / path.name).write_text(path.read_text().replace("/usr/bin/penstock", str(PENSTOCK)))
            done = run("systemd-analyze", "verify", "--man=no", Path(folder) / "penstock.service", Path(folder) / "penstock.socket")
        said = [line for line in done.stderr.splitlines() if not (version < 253 and OLD.search(line))]
        self.assertEqual(said, [])
        self.assertEqual(done.returncode, 0)

    def security(self, threshold):
        argv = ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={threshold}"]
        return run(*argv, UNITS / "penstock.service")

    def test_exposure_is_two_at_most(self):
        done = self.security(20)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertNotEqual(self.security(5).returncode, 0, "a threshold that nothing fails checks nothing")

    def test_each_point_that_is_left_is_explained(self):
        left = re.findall(r"^✗ (\S+?)=", self.security(20).stdout, re.M)
        self.assertGreater(len(left), 5)
        explained = SERVICE.split("What `systemd-analyze security` still counts")[1]
        for name in left:
            name = {"RestrictAddressFamilies": "AF_UNIX", "RootDirectory": "RootDirectory"}.get(name, name)
            self.assertIn(name, explained)

    def test_configuration_errors_are_not_tried_again(self):
        [codes] = setting("RestartPreventExitStatus")
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write("clutser = 1\n")
            file.flush()
            wrong_file = run(PENSTOCK, "--config", file.name, "run").returncode
        wrong_usage = run(PENSTOCK, "run", "--no-such-option").returncode
        self.assertEqual((wrong_file, wrong_usage), (78, 2))
        self.assertLessEqual({str(wrong_file), str(wrong_usage)}, set(codes.split()))

    def test_the_limit_fits_the_budget(self):
        [limit] = setting("MemoryMax")
        budget = tomllib.loads((ROOT / "config" / "penstock.example.toml").read_text())["limits"]["memory"]
        self.assertGreaterEqual(mebibytes(limit.replace("M", "Mi")), mebibytes(budget) + 128)

    def test_the_socket_is_where_the_configuration_says(self):
        listen = tomllib.loads((ROOT / "config" / "penstock.example.toml").read_text())["admin"]["listen"]
        self.assertIn(f"\nListenStream={listen}\n", (UNITS / "penstock.socket").read_text())

    def test_folders_are_the_configuration_s(self):
        example = tomllib.loads((ROOT / "config" / "penstock.example.toml").read_text())
        self.assertEqual(example["state_dir"], f"/var/lib/{setting('StateDirectory')[0]}")
        self.assertTrue(example["admin"]["socket"].startswith(f"/run/{setting('RuntimeDirectory')[0]}/"))

    def test_old_systemd_learns_how_to_reload(self):
        self.assertEqual(setting("Type"), ["notify", "notify-reload"])
        self.assertEqual(setting("ExecReload"), [])
        self.assertIn("\nExecReload=", (UNITS / "before-253.conf").read_text())

    def test_users_and_folders(self):
        with tempfile.TemporaryDirectory() as root:
            for kind in ("sysusers", "tmpfiles"):
                there = Path(root) / "usr" / "lib" / f"{kind}.d"
                there.mkdir(parents=True)
                shutil.copy(UNITS / f"penstock.{kind}", there / "penstock.conf")
            (Path(root) / "etc").mkdir()
            output("systemd-sysusers", f"--root={root}", "penstock.conf")
            output("systemd-tmpfiles", f"--root={root}", "--create", "penstock.conf")
            self.assertIn("\npenstock:", "\n" + (Path(root) / "etc" / "passwd").read_text())
            self.assertEqual((Path(root) / "var/lib/penstock").stat().st_mode & 0o777, 0o700)


class Dockerfile(unittest.TestCase):
    def test_lint(self):
        from common import TOOLS

        done = run(TOOLS / "venv" / "bin" / "hadolint", ROOT / "Dockerfile")
        self.assertEqual((done.returncode, done.stdout), (0, ""))

    def test_it_copies_what_the_build_reads(self):
        ignored = (ROOT / ".dockerignore").read_text().splitlines()
        included = re.findall(r'include_(?:str|bytes)!\("((?:\.\./)+[^"]+)"\)', "".join(p.read_text() for p in (ROOT / "src").rglob("*.rs")))
        copied = re.findall(r"^COPY (?!--)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.M)
        copied = " ".join(copied).split()
        for path in included:
            path = path.lstrip("./")
            self.assertTrue(any(path.startswith(each) for each in copied), f"{path} is not copied")
            self.assertTrue(any(path.startswith(line[1:]) for line in ignored if line.startswith("!")), f"{path} is ignored")

    def test_rust_is_the_one_of_the_package(self):
        version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["rust-version"]
        self.assertIn(f"library/rust:{version}-", (ROOT / "Dockerfile").read_text())


if __name__ == "__main__":
    unittest.main()
