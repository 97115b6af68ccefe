"""Inside run_docs.sh's world: makes the site that the pages talk of, then executes one page's shell blocks in one shell."""

import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.request

from common import ROOT, TOOLS
from markdown import all_blocks, blocks

AWS = ROOT / ".tools" / "drill" / "venv" / "bin"
SITE = pathlib.Path("/tmp/site")
VOLUMES = pathlib.Path("/var/lib/kubelet/pods")
BUCKET = "acme-cluster-backups"
TREE = ROOT / "tests" / "demo" / "tree.py"

CONFIGURATION = """
cluster = "prod-eu-1"
node = "node-1"

[limits]
memory = "64MiB"

[locations.primary]
provider = "aws"
bucket = "acme-cluster-backups"
region = "eu-west-1"
prefix = "fleet"
s3_url = "{url}"
sts_url = "{url}"
ec2_url = "{url}"
force_path_style = true
certificate = "/tmp/site/tls/ca.pem"
certificate_mode = "only"

[locations.primary.upload]
part_size = "5MiB"
object_size = "5MiB"

[[locations.primary.assume_role]]
# The stand-in keeps accounts apart: the one in which the volume is.
role_arn = "arn:aws:iam::123456789012:role/BackupWriter"

# The same bucket and role, encrypted.
[locations.encrypted]
provider = "aws"
bucket = "acme-cluster-backups"
region = "eu-west-1"
prefix = "fleet"
s3_url = "{url}"
sts_url = "{url}"
ec2_url = "{url}"
force_path_style = true
certificate = "/tmp/site/tls/ca.pem"
certificate_mode = "only"

[locations.encrypted.client_encryption]
recipients = ["{recipient}"]

[locations.encrypted.upload]
part_size = "5MiB"
object_size = "5MiB"

[[locations.encrypted.assume_role]]
role_arn = "arn:aws:iam::123456789012:role/BackupWriter"

[jobs.vault]
location = "encrypted"
[[jobs.vault.sources]]
type = "tree"
name = "pods"
path = "/var/lib/kubelet/pods/0a1b/volumes/kubernetes.io~csi/*/mount"

[jobs.volumes]
location = "primary"
[[jobs.volumes.sources]]
type = "tree"
name = "pods"
path = "/var/lib/kubelet/pods/*/volumes/kubernetes.io~csi/*/mount"

[jobs.etcd]
location = "primary"
retention = {{ keep_last = 24 }}
before = [["etcdctl", "snapshot", "save", "/var/lib/penstock/etcd.db"]]
[[jobs.etcd.sources]]
type = "file"
name = "snapshot"
path = "/var/lib/penstock/etcd.db"
[[jobs.etcd.sources]]
type = "tree"
name = "kubernetes"
path = "/etc/kubernetes"

[jobs.disks]
location = "primary"
[[jobs.disks.sources]]
type = "ebs"
name = "data"
volumes = ["{volume}"]
"""


def call(*argv, **options):
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise SystemExit(f"run_docs: {argv}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def up(check, what):
    for _ in range(120):
        try:
            return check()
        except (OSError, SystemExit):
            time.sleep(0.5)
    raise SystemExit(f"run_docs: {what} does not come up")


def start(name, *argv):
    log = (SITE / f"{name}.log").open("w")
    return subprocess.Popen([str(word) for word in argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def aws():
    """moto on loopback; the environment that both the AWS CLI and Penstock take their credentials from."""
    moto = pathlib.Path(os.environ["MOTO"])
    call(moto.parent / "python", ROOT / "tests/demo/ca.py", SITE / "tls")
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        port = any_port.getsockname()[1]
    url = f"https://127.0.0.1:{port}"
    tls = ["-s", "-c", SITE / "tls/server.pem", "-k", SITE / "tls/server.key"]
    start("moto", moto.parent / "python", ROOT / "tests/tools/moto_as_aws.py", "-H", "127.0.0.1", "-p", port, *tls)
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_EC2_METADATA_DISABLED": "true", "AWS_PAGER": "", "AWS_ENDPOINT_URL": url, "AWS_CA_BUNDLE": str(SITE / "tls/ca.pem"),
    }  # fmt: skip
    wrapper = pathlib.Path("/usr/local/bin/aws")
    wrapper.write_text(f'#!/bin/sh\nexec {AWS}/python {AWS}/aws "$@"\n')
    wrapper.chmod(0o755)
    import ssl

    context = ssl.create_default_context(cafile=SITE / "tls/ca.pem")
    up(lambda: urllib.request.urlopen(f"{url}/moto-api/", context=context, timeout=5).read(), "moto")
    call("aws", "s3api", "create-bucket", "--bucket", BUCKET, "--create-bucket-configuration", "LocationConstraint=eu-west-1")
    tags = "{Key=kubernetes.io/created-for/pvc/namespace,Value=shop},{Key=kubernetes.io/created-for/pvc/name,Value=db}"
    create = ["ec2", "create-volume", "--availability-zone", "eu-west-1a", "--size", "8", "--query", "VolumeId", "--output", "text"]
    return url, call("aws", *create, "--tag-specifications", f"ResourceType=volume,Tags=[{tags}]").strip()


def etcd():
    """A real one, with a key in it."""
    os.environ["ETCDCTL_API"] = "3"
    urls = ["--listen-peer-urls", "http://127.0.0.1:23800", "--initial-advertise-peer-urls", "http://127.0.0.1:23800"]
    client = ["--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379"]
    start("etcd", "etcd", "--data-dir", SITE / "etcd", *urls, *client, "--initial-cluster", "default=http://127.0.0.1:23800")
    up(lambda: call("etcdctl", "put", "/registry/secrets/x", "kept"), "etcd")


def cluster():
    """Two pods' volumes, a control plane's files, a backup of each."""
    for number, pod in enumerate(("0a1b", "2c3d")):
        mount = VOLUMES / pod / "volumes/kubernetes.io~csi" / f"pvc-{number}" / "mount"
        call(sys.executable, TREE, "make", mount, "12", "/usr/share/doc")
        (mount / "notes").mkdir()
        (mount / "notes/app.conf").write_text(f"volume {number}\n")
        (mount / "notes/read.txt").write_text("read me\n")
    pki = pathlib.Path("/etc/kubernetes/pki")
    pki.mkdir(parents=True)
    (pki / "ca.key").write_text("a key\n")
    (pki / "ca.key").chmod(0o600)
    # Twice: the newest has a parent, as at every site but on its first day.
    for _ in range(2):
        call("penstock", "backup", "volumes", "etcd", "disks", "vault", "--rescue")
        (next(VOLUMES.glob("0a1b/**/notes")) / "new.txt").write_text("since the first backup\n")


def site():
    SITE.mkdir()
    (SITE / "tls").mkdir()
    for name in ("kubectl", "helm"):
        pathlib.Path("/usr/local/bin", name).unlink(missing_ok=True)
        pathlib.Path("/usr/local/bin", name).symlink_to(TOOLS / "bin" / name)
    for folder in ("/etc/penstock", "/var/lib/penstock", "/run/penstock"):
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    # In this world `lo` is the machine's own, so the servers of two pages have ports of their own; etcd does not.
    url, volume = aws()
    # The private key is where the drill says.
    made = call("penstock", "key", "generate", "/root/operator.txt")
    recipient = made.removeprefix("Public key: ").strip()
    pathlib.Path("/etc/penstock/penstock.toml").write_text(CONFIGURATION.format(url=url, volume=volume, recipient=recipient))
    etcd()
    cluster()


def same(left, right):
    call(sys.executable, TREE, "compare", left, right)
    call("diff", "-r", "--no-dereference", "--exclude=*.fifo", "--exclude=new.txt", left, right)


def after_the_drill():
    """What the reader should see is there, bit for bit."""
    originals = sorted(VOLUMES.glob("*/volumes/kubernetes.io~csi/*/mount"))
    restored = sorted(path for path in pathlib.Path("/restore/volumes").iterdir())
    assert len(originals) == len(restored) == 2, restored
    for left, right in zip(originals, restored):
        (left / "notes/new.txt").unlink(missing_ok=True)
        (right / "notes/new.txt").unlink(missing_ok=True)
        os.utime(left / "notes", (0, 0))
        os.utime(right / "notes", (0, 0))
        same(left, right)
    some = {path.name for path in pathlib.Path("/restore/some").rglob("*") if path.is_file()}
    assert "read.txt" in some and "app.conf" not in some, some
    by_hand = pathlib.Path("/restore/by-hand")
    assert any((by_hand / "notes/app.conf").read_text() == (path / "notes/app.conf").read_text() for path in originals)
    [encrypted] = VOLUMES.glob("0a1b/volumes/kubernetes.io~csi/*/mount")
    os.utime("/restore/by-hand-encrypted/notes", (0, 0))
    same(encrypted, "/restore/by-hand-encrypted")
    # The script has read an incremental backup: with what came after the full one.
    by_script = pathlib.Path("/restore/by-script")
    assert (by_script / "notes/new.txt").read_text() == "since the first backup\n"
    (by_script / "notes/new.txt").unlink()
    os.utime(by_script / "notes", (0, 0))
    same(originals[0], by_script)
    volumes = call("aws", "ec2", "describe-volumes", "--query", "Volumes[].State", "--output", "text").split()
    assert volumes == ["available", "available"], volumes
    # The data folder that etcd restored is one that etcd starts from, and the key is in it.
    peers = "http://127.0.0.1:23810"
    flags = ["--data-dir", "/restore/etcd-data", "--listen-peer-urls", peers, "--listen-client-urls", "http://127.0.0.1:23790"]
    restored = start("restored", "etcd", "--name", "node-1", *flags, "--advertise-client-urls", "http://127.0.0.1:23790",
                     "--force-new-cluster", "--initial-advertise-peer-urls", peers, "--initial-cluster", f"node-1={peers}")  # fmt: skip
    def value():
        answer = call("etcdctl", "--endpoints", "http://127.0.0.1:23790", "get", "/registry/secrets/x", "--print-value-only")
        if answer != "kept\n":
            raise OSError(answer)
    up(value, "the restored etcd with its key")
    restored.terminate()


def run(page):
    mine = [block for block in blocks(ROOT / page) if block.runs]
    site()
    script = "".join(f"printf '%s\\n' '-- {page}:{block.line}'\n{block.text}" for block in mine)
    shell = ["bash", "-euxc" if "-x" in sys.argv else "-euc", script]
    done = subprocess.run(shell, cwd=ROOT, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise SystemExit(f"run_docs: {page}: exit code {done.returncode} in the block named last")
    if page.endswith("restore-drill.md"):
        after_the_drill()
    print(f"{page}: {len(mine)} blocks ran")


if __name__ == "__main__":
    if sys.argv[1] == "pages":
        print("\n".join(dict.fromkeys(block.page for block in all_blocks() if block.runs)))
    else:
        run(sys.argv[2])
