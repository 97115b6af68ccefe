#!/usr/bin/env python3
"""moto_server, with that put right in which moto is not AWS and Penstock would notice:

- The signature of a form is checked over its raw bytes. moto encodes the form anew, and spells a space `+` where a client sent `%20`.
- A role's trust policy counts from every account, a missing external ID is not a right one, and a principal may be an account, or a
  role whose session calls: see `trusts`. moto looks at the policy only where caller and role share an account, takes a missing
  external ID for a right one, and knows a principal only by its exact ARN.
- HeadBucket needs s3:ListBucket.
- Actions of EC2 are judged by resources and by conditions on tags, and whoever tags what he creates needs ec2:CreateTags. moto asks about
  the resource `*`, and knows no conditions.
- The root element of the answer to ListParts is a ListPartsResult. moto's is a ListPartsResponse, which no SDK takes.

Signatures and policies are checked only where moto is told to (INITIAL_NO_AUTH_ACTION_COUNT, /moto-api/reset-auth).
"""

import io
import json
import re

from moto import server
from moto.core.authorization import ActionAuthenticatorMixin
from moto.ec2.models import ec2_backends
from moto.iam import access_control
from moto.iam.models import iam_backends

PARTITION = "aws"
RAW_FORM = "penstock.raw_form"

authenticate_and_authorize = ActionAuthenticatorMixin._authenticate_and_authorize_action


def over_the_raw_form(self, *arguments):
    """In place of moto's authentication, which has the body of everything but a form."""
    self.raw_body = self.normalized_request.environ.get(RAW_FORM, self.raw_body)
    authenticate_and_authorize(self, *arguments)


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


def asked_of_ec2(request):
    """Each action of a request to EC2 with the resource and the condition keys that AWS judges it by (Service Authorization Reference)."""
    def given(name):
        value = request._data.get(name)
        return value[0] if isinstance(value, list) else value

    def tags_of(snapshot):
        found = ec2_backends[request.account_id][request._region].snapshots.get(snapshot)
        return {f"ec2:ResourceTag/{tag['key']}": tag["value"] for tag in found.get_tags()} if found else {}
    action, new = request._action.partition(":")[2], {}
    for name in request._data:
        if re.fullmatch(r"TagSpecification\.1\.Tag\.\d+\.Key", name):
            new[f"aws:RequestTag/{given(name)}"] = given(name[:-3] + "Value")
    volume = f"arn:aws:ec2:{request._region}:{request.account_id}:volume/"
    snapshot = f"arn:aws:ec2:{request._region}::snapshot/"
    asked, made = {
        "CreateSnapshot": lambda: ([(volume + given("VolumeId"), {}), (snapshot + "new", new)], snapshot),
        "CreateVolume": lambda: ([(volume + "new", new), (snapshot + given("SnapshotId"), tags_of(given("SnapshotId")))]
                                 if given("SnapshotId") else [(volume + "new", new)], volume),
        "DeleteSnapshot": lambda: ([(snapshot + given("SnapshotId"), tags_of(given("SnapshotId")))], None),
    }.get(action, lambda: ([("*", {})], None))()
    asked = [(f"ec2:{action}", *one) for one in asked]
    if made and new:
        asked.append(("ec2:CreateTags", made + "new", {**new, "ec2:CreateAction": action}))
    return asked


def concerns(statement, action, resource, context):
    """Whether a statement speaks of this; conditions by other operators than these two, moto_as_aws does not know."""
    def matches(pattern, text):
        return re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), text)
    conditions = [(operator, key, wanted) for operator, keys in statement.get("Condition", {}).items() for key, wanted in keys.items()]
    judged = {"StringEquals": lambda key, wanted: context.get(key) in listed(wanted),
              "Null": lambda key, wanted: (key not in context) == (wanted == "true")}
    return (any(matches(one, action) for one in listed(statement["Action"]))
            and any(matches(one, resource) for one in listed(statement["Resource"]))
            and all(judged[operator](key, wanted) for operator, key, wanted in conditions))


def check_action_permitted(self, resource):
    """In place of moto's: the identity's policies first, then, for AssumeRole, the role's own trust policy."""
    if self._action == "sts:GetCallerIdentity":
        return
    if self._action == "s3:HeadBucket":
        self._action = "s3:ListBucket"
    if self._service == "ec2":
        documents = [access_control.IAMPolicy(policy)._policy_json for policy in self._access_key.collect_policies()]
        statements = [statement for document in documents for statement in listed(document["Statement"])]
        for self._action, *asked in asked_of_ec2(self):
            effects = {statement["Effect"] for statement in statements if concerns(statement, self._action, *asked)}
            if effects != {"Allow"}:
                self._raise_access_denied()
        return
    policies = [access_control.IAMPolicy(policy) for policy in self._access_key.collect_policies()]
    results = [policy.is_action_permitted(self._action, resource) for policy in policies]
    permitted = access_control.PermissionResult.PERMITTED in results
    if access_control.PermissionResult.DENIED in results or not permitted:
        self._raise_access_denied()
    if self._action != "sts:AssumeRole":
        return
    roles = iam_backends[resource.split(":")[4]][PARTITION].roles.values()
    role = next((role for role in roles if role.arn == resource), None)
    external_id = self._data.get("ExternalId")
    external_id = external_id[0] if isinstance(external_id, list) else external_id
    document = json.loads(role.assume_role_policy_document) if role else {"Statement": []}
    if not any(trusts(one, self._access_key.arn, external_id) for one in document["Statement"]):
        self._raise_access_denied()


class Aws(server.DomainDispatcherApplication):
    """All of moto's services, behind one port."""

    def __call__(self, environ, start_response):
        if environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded"):
            environ[RAW_FORM] = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            environ["wsgi.input"] = io.BytesIO(environ[RAW_FORM])
        if "uploadId=" not in environ.get("QUERY_STRING", "") or environ["REQUEST_METHOD"] != "GET":
            return super().__call__(environ, start_response)
        started = []
        body = b"".join(super().__call__(environ, lambda *arguments: started.extend(arguments)))
        body = body.replace(b"ListPartsResponse", b"ListPartsResult")
        headers = [(name, value) for name, value in started[1] if name.lower() != "content-length"]
        start_response(started[0], [*headers, ("Content-Length", str(len(body)))])
        return [body]


ActionAuthenticatorMixin._authenticate_and_authorize_action = over_the_raw_form
access_control.IAMRequestBase.check_action_permitted = check_action_permitted

if __name__ == "__main__":
    server.DomainDispatcherApplication = Aws
    server.main()
