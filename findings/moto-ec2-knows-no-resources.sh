#!/usr/bin/env bash
# moto 5.2.5, boto3 1.43.62 (Python 3.11), a stand-in for AWS that can judge requests by IAM policies.
# It judges a request to EC2 as one about the resource `*`. A statement for `arn:aws:ec2:*:*:volume/*` and `.../snapshot/*`, which for AWS allows
# the action on every volume and snapshot, allows nothing here: a policy of least privilege that works on AWS is refused. The refusal is an AccessDenied;
# EC2's own is an UnauthorizedOperation, so that a program that tells the two apart tests the wrong one.
# Output seen:
#   every resource: allowed
#   every volume and every snapshot: AccessDenied
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check 'moto[ec2,iam,sts]==5.2.5' boto3==1.43.62
cat >"$dir/ask.py" <<'P'
import json

import boto3
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.core import set_initial_no_auth_action_count

KEYS = {"aws_access_key_id": "setup", "aws_secret_access_key": "setup", "region_name": "eu-west-1"}
TAGS = [{"ResourceType": "snapshot", "Tags": [{"Key": "team", "Value": "a"}]}]


def statement(resource):
    return {"Effect": "Allow", "Action": ["ec2:CreateSnapshot", "ec2:CreateTags"], "Resource": resource}


CASES = {
    "every resource": [statement("*")],
    "every volume and every snapshot": [statement(["arn:aws:ec2:*:*:volume/*", "arn:aws:ec2:*:*:snapshot/*"])],
}


@set_initial_no_auth_action_count(0)
def answer(key, volume):
    ec2 = boto3.client("ec2", "eu-west-1", aws_access_key_id=key["AccessKeyId"], aws_secret_access_key=key["SecretAccessKey"])
    try:
        ec2.create_snapshot(VolumeId=volume, TagSpecifications=TAGS)
    except ClientError as error:
        return error.response["Error"]["Code"]
    return "allowed"


with mock_aws():
    iam, ec2 = boto3.client("iam", **KEYS), boto3.client("ec2", **KEYS)
    volume = ec2.create_volume(AvailabilityZone="eu-west-1a", Size=1)["VolumeId"]
    for number, (name, statements) in enumerate(CASES.items()):
        user = f"user-{number}"
        iam.create_user(UserName=user)
        document = json.dumps({"Version": "2012-10-17", "Statement": statements})
        iam.put_user_policy(UserName=user, PolicyName="given", PolicyDocument=document)
        print(f"{name}: {answer(iam.create_access_key(UserName=user)['AccessKey'], volume)}")
P
"$dir/venv/bin/python" "$dir/ask.py" | diff <(sed -n 's/^#   //p' "$0") -
echo seen
