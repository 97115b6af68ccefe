"""What every module needs: places, sizes, credentials, the environment of a client."""

import os

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BENCH = os.path.join(ROOT, ".bench")
BIN = os.path.join(BENCH, "venv", "bin")
MIB, GIB = 1 << 20, 1 << 30
KEY, SECRET, BUCKET, PASSWORD = "RGWAK", "RGWSK", "bench", "bench"
TRAPS = ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY",
         "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION")


class Unavailable(Exception):
    """Why a row, or a client in it, cannot be run here."""


def environment(ca=None, **more):
    env = {key: value for key, value in os.environ.items() if key not in TRAPS}
    env.update(AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=SECRET, AWS_DEFAULT_REGION="default", AWS_PAGER="",
               AWS_EC2_METADATA_DISABLED="true", AWS_CONFIG_FILE=os.path.join(BENCH, "aws-config"),
               AWS_SHARED_CREDENTIALS_FILE="/dev/null", RESTIC_PASSWORD=PASSWORD, RUSTIC_PASSWORD=PASSWORD,
               RESTIC_CACHE_DIR=os.path.join(BENCH, "restic-cache"), LC_ALL="C.UTF-8")
    if ca:
        env.update(AWS_CA_BUNDLE=ca, SSL_CERT_FILE=ca)
    env.update(more)
    return env
