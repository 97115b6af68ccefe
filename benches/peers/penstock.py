"""Penstock as a client: a configuration file for each, a state directory and a prefix in the bucket for each binary."""

import os
import subprocess

from .common import BENCH, BUCKET, KEY, SECRET
from .measuring import Client


class Penstock:
    def __init__(self, binary, name="penstock"):
        self.binary, self.name = binary, name
        self.directory = os.path.join(BENCH, name)
        os.makedirs(self.directory, exist_ok=True)
        for name, text in (("id", KEY), ("key", SECRET)):
            with open(os.open(os.path.join(self.directory, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
                out.write(text)

    def identity(self):
        """The file of the key that the rows with encryption are encrypted to."""
        path = os.path.join(self.directory, "identity")
        if not os.path.exists(path):
            subprocess.run([self.binary, "key", "generate", path], check=True, capture_output=True)
        return path

    def recipient(self):
        with open(self.identity()) as file:
            return next(line.rsplit(" ", 1)[1].strip() for line in file if line.startswith("# public key:"))

    def config(self, name, url, source, compression="zstd", ca=None, sign="never", memory="64MiB", incremental=False, encrypted=False,
               concurrency=8):
        """A configuration file of its own for each client, and a prefix; `source` is the TOML of the job's one source."""
        state = os.path.join(self.directory, f"state-{name}")
        to = f'[locations.bench.client_encryption]\nrecipients = ["{self.recipient()}"]' if encrypted else ""
        certificate = f'certificate = "{ca}"\ncertificate_mode = "only"' if ca else ""
        text = f'''cluster = "bench"
node = "bench"
state_dir = "{state}"
[admin]
socket = "{self.directory}/{name}.sock"
[limits]
memory = "{memory}"
[locations.bench]
provider = "aws"
bucket = "{BUCKET}"
region = "default"
prefix = "{self.prefix(name)}"
s3_url = "{url}"
force_path_style = true
{certificate}
[locations.bench.credentials]
source = "static"
access_key_id_file = "{self.directory}/id"
secret_access_key_file = "{self.directory}/key"
{to}
[locations.bench.upload]
part_size = "16MiB"
concurrency = {concurrency}
sign_payload = "{sign}"
[jobs.bench]
location = "bench"
incremental = {str(incremental).lower()}
compression = "{compression}"
[[jobs.bench.sources]]
{source}
'''
        path = os.path.join(self.directory, f"{name}.toml")
        with open(path, "w") as out:
            out.write(text)
        return path

    def prefix(self, name):
        return f"{self.name}-{name}"

    def command(self, config, *arguments):
        return [self.binary, "--config", config, *arguments]

    def backup(self, what, config, **more):
        """`what` follows the binary's name in the table: a row's clients of two binaries differ in that name alone."""
        return Client(self.name + what, self.command(config, "backup", "bench"), peer=False, **more)
