#!/usr/bin/env python3
"""AWS for a test: moto over HTTPS with several accounts, and authentication and policies on from the first request.

usage: standin.py SITE.json CERT KEY

SITE.json: {"region", "buckets": {NAME: ACCOUNT}, "accounts": {ID: {"users": [{"name", "policy"}],
            "roles": [{"name", "path", "trust", "policy"}]}}, "sessions": [ROLE_ARN], "volumes": [ACCOUNT]}

Prints one line of JSON when it listens: {"url", "users": {"ACCOUNT/NAME": [ID, SECRET]}, "sessions": {ROLE_ARN: {…}},
"volumes": {ACCOUNT: ID}}. Ends when its standard input does. Of `sessions` it hands out credentials as the metadata service of a
node in that role would.

moto looks at a role's trust policy only where caller and role share an account, takes a missing external ID for a right
one, and knows a principal only by its exact ARN. AWS does none of that, and neither does this: see `trusts`. Two smaller
things are put right as well: HeadBucket needs s3:ListBucket, and the answer to ListParts is a ListPartsResult.
"""

import json
import os
import re
import sys
import threading

os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")

from list_parts import with_list_parts_result
from moto import settings
from moto.ec2.models import ec2_backends
from moto.iam import access_control
from moto.iam.models import iam_backends
from moto.s3.models import s3_backends
from moto.server import DomainDispatcherApplication, create_backend_app
from moto.sts.models import sts_backends
from werkzeug.serving import make_server

PARTITION = "aws"


def iam(account):
    return iam_backends[account][PARTITION]


def listed(value):
    return value if isinstance(value, list) else [value]


def trusts(statement, caller, external_id):
    """Whether a statement of a trust policy takes this caller, as AWS documents it."""
    account = caller.split(":")[4]
    session = re.fullmatch(r"arn:aws:sts::\d+:assumed-role/([^/]+)/.*", caller)
    for principal in listed(statement["Principal"]["AWS"]):
        role = session and re.fullmatch(rf"arn:aws:iam::{account}:role/(.*/)?{re.escape(session[1])}", principal)
        if principal in (f"arn:aws:iam::{account}:root", account, caller) or role:
            break
    else:
        return False
    wanted = statement.get("Condition", {}).get("StringEquals", {}).get("sts:ExternalId")
    return statement["Effect"] == "Allow" and (wanted is None or external_id in listed(wanted))


def check_action_permitted(self, resource):
    """In place of moto's: the identity's policies first, then, for AssumeRole, the role's own trust policy."""
    if self._action == "sts:GetCallerIdentity":
        return
    if self._action == "s3:HeadBucket":
        self._action = "s3:ListBucket"
    results = [
        access_control.IAMPolicy(policy).is_action_permitted(self._action, resource)
        for policy in self._access_key.collect_policies()
    ]
    permitted = access_control.PermissionResult.PERMITTED in results
    if access_control.PermissionResult.DENIED in results or not permitted:
        self._raise_access_denied()
    if self._action != "sts:AssumeRole":
        return
    roles = iam(resource.split(":")[4]).roles.values()
    role = next((role for role in roles if role.arn == resource), None)
    external_id = self._data.get("ExternalId")
    external_id = external_id[0] if isinstance(external_id, list) else external_id
    document = json.loads(role.assume_role_policy_document) if role else {"Statement": []}
    if not any(trusts(one, self._access_key.arn, external_id) for one in document["Statement"]):
        self._raise_access_denied()


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
    access_control.IAMRequestBase.check_action_permitted = check_action_permitted
    made = populate(site)
    settings.INITIAL_NO_AUTH_ACTION_COUNT = 0.0
    app = with_list_parts_result(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, ssl_context=(sys.argv[2], sys.argv[3]))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"url": f"https://127.0.0.1:{server.server_port}", **made}), flush=True)
    sys.stdin.buffer.read()


main()
