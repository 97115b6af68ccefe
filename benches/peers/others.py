"""The other programs as clients."""

import os
import shutil
import subprocess

from .common import BENCH, BIN, BUCKET, KEY, ROOT, SECRET, Unavailable, environment
from .measuring import Client


def aws_classic():
    return os.path.join(BIN, "aws")


def aws_crt():
    """The AWS CLI of version 2 or later, whose CRT client is asked for in .bench/aws-config."""
    for path in ("/usr/bin/aws", "/usr/local/bin/aws"):
        if os.path.exists(path):
            version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, env=environment()).stdout
            if version.startswith("aws-cli/2"):
                return path
    raise Unavailable("AWS CLI 2 with CRT is not installed (apt: awscli)")


def uploaders(url, file, ca=None, crt_reaches=True):
    """The multipart peers, and curl as the floor; with the names of those that are missing."""
    # s5cmd takes its roots from SSL_CERT_FILE, as every Go program.
    env = environment(ca)
    clients = [
        Client("curl, one PUT, unsigned (floor)", ["curl", "-sSf", "-o", "/dev/null", "-T", file, f"{url}/{BUCKET}/curl"]
               + (["--cacert", ca] if ca else []), env, peer=False),
        Client("s5cmd -c 8 -p 16", [os.path.join(BIN, "s5cmd"), "--endpoint-url", url, "cp", "-c", "8", "-p", "16", file,
                                    f"s3://{BUCKET}/s5cmd"], env),
        Client("AWS CLI classic", [aws_classic(), "--endpoint-url", url, "s3", "cp", "--only-show-errors", file,
                                   f"s3://{BUCKET}/aws"], env),
    ]
    missing = []
    try:
        if not crt_reaches:
            raise Unavailable("its CRT client reaches only the standard ports, which are taken here")
        clients.append(Client("AWS CLI 2, CRT", [aws_crt(), "--endpoint-url", url, "s3", "cp", "--only-show-errors", file,
                                                 f"s3://{BUCKET}/crt"], dict(env, AWS_CONFIG_FILE=os.path.join(BENCH, "aws-crt"))))
    except Unavailable as why:
        missing.append(f"AWS CLI 2, CRT: {why}")
    if shutil.which("rclone"):
        remote = (f":s3,provider=Other,access_key_id={KEY},secret_access_key={SECRET},"
                  f"endpoint='{url}',upload_concurrency=8,chunk_size=16Mi:{BUCKET}/rclone")
        # It refuses an AWS_CA_BUNDLE beside its own --ca-cert.
        clients.append(Client("rclone 8 x 16 MiB", ["rclone", "--config", "/dev/null", "--s3-no-check-bucket", "--s3-no-head",
                                                     *(["--ca-cert", ca] if ca else []), "copyto", file, remote],
                              {key: value for key, value in env.items() if key != "AWS_CA_BUNDLE"}))
    else:
        missing.append("rclone: not installed (apt: rclone)")
    return clients, missing


def rustic():
    for path in (os.path.join(ROOT, ".tools", "bin", "rustic"), shutil.which("rustic")):
        if path and os.path.exists(path):
            return path
    raise Unavailable("not installed (optional: cargo install rustic-rs --locked --root .tools, eleven minutes)")


def rustic_options(s3, url=None, root="rustic"):
    """rustic takes a store's settings only from a profile, which is a file."""
    profile = os.path.join(BENCH, f"{root}{'-counted' if url else ''}")
    with open(profile + ".toml", "w") as out:
        out.write(f'''[repository]
repository = "opendal:s3"
[repository.options]
endpoint = "{url or s3.url}"
bucket = "{BUCKET}"
root = "/{root}"
region = "default"
access_key_id = "{KEY}"
secret_access_key = "{SECRET}"
''')
    return ["--no-progress", "-P", profile]
