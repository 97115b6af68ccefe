#!/usr/bin/env python3
"""AWS for a test: moto over HTTPS with several accounts, and authentication and policies on from the first request.

usage: standin.py SITE.json CERT KEY

SITE.json: {"region", "buckets": {NAME: ACCOUNT}, "accounts": {ID: {"users": [{"name", "policy"}],
            "roles": [{"name", "path", "trust", "policy"}]}}, "sessions": [ROLE_ARN], "volumes": [ACCOUNT]}

Prints one line of JSON when it listens: {"url", "users": {"ACCOUNT/NAME": [ID, SECRET]}, "sessions": {ROLE_ARN: {…}},
"volumes": {ACCOUNT: ID}}. Ends when its standard input does. Of `sessions` it hands out credentials as the metadata service of a
node in that role would.

Where moto is not AWS it is put right: see moto_as_aws.py.
"""

import json
import os
import sys
import threading

os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")

from moto import settings
from moto.ec2.models import ec2_backends
from moto.iam.models import iam_backends
from moto.s3.models import s3_backends
from moto.server import create_backend_app
from moto.sts.models import sts_backends
from moto_as_aws import PARTITION, Aws
from werkzeug.serving import make_server


def iam(account):
    return iam_backends[account][PARTITION]


def populate(site):
    made = {"users": {}, "sessions": {}, "volumes": {}}
    region = site["region"]
    for account, members in site["accounts"].items():
        for user in members.get("users", []):
            iam(account).create_user(region, user["name"])
            iam(account).put_user_policy(user["name"], "given", json.dumps(user["policy"]))
            key = iam(account).create_access_key(user["name"])
            made["users"][f"{account}/{user['name']}"] = [key.access_key_id, key.secret_access_key]
        for role in members.get("roles", []):
            trust = json.dumps(role["trust"])
            iam(account).create_role(role["name"], trust, role.get("path", "/"), None, "", [], "3600")
            iam(account).put_role_policy(role["name"], "given", json.dumps(role["policy"]))
    for bucket, account in site.get("buckets", {}).items():
        s3_backends[account][PARTITION].create_bucket(bucket, region)
    for arn in site.get("sessions", []):
        session = sts_backends[arn.split(":")[4]][PARTITION].assume_role(
            region_name=region, role_session_name="node", role_arn=arn, policy="", duration=3600, external_id=""
        )
        made["sessions"][arn] = {
            "AccessKeyId": session.access_key_id,
            "SecretAccessKey": session.secret_access_key,
            "Token": session.session_token,
            "Expiration": session.expiration.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    for account in site.get("volumes", []):
        made["volumes"][account] = ec2_backends[account][region].create_volume(size=1, zone_name=f"{region}a").id
    return made


def main():
    with open(sys.argv[1]) as file:
        site = json.load(file)
    made = populate(site)
    settings.INITIAL_NO_AUTH_ACTION_COUNT = 0.0
    server = make_server("127.0.0.1", 0, Aws(create_backend_app), threaded=True, ssl_context=(sys.argv[2], sys.argv[3]))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"url": f"https://127.0.0.1:{server.server_port}", **made}), flush=True)
    sys.stdin.buffer.read()


main()
