#!/usr/bin/env bash
# make demo: the real binary against a stand-in for AWS (moto) on loopback, over HTTPS with a CA of this run.
#
# usage: run.sh [--keep]    --keep: leave the server up at the end, until Ctrl-C
# KUBECONFIG=path: the API objects of that cluster are saved too (nothing is changed in it, its Secrets are then below .demo/).
# PENSTOCK=path takes that binary instead of building one; DEMO_MIB (300; 30 or more) is how many MiB of real files are copied.
# Everything is made below .demo/ of the project; any difference or unexpected exit code ends it with a non-zero exit.
set -euo pipefail
cd "$(dirname "$0")/../.."
demo=$PWD/.demo run=$PWD/.demo/run venv=$PWD/.demo/venv
mib=${DEMO_MIB:-300} region=eu-west-1 bucket=penstock-demo account=123456789012
step=0

say() { printf '%s\n' "$*"; }
step() { step=$((step + 1)); printf '\n== %d. %s\n' "$step" "$*"; }
show() { printf '$ %s\n' "${*//$PWD\//}"; }
run() { show "$@"; "$@"; }
fail() { printf '\ndemo: FAILED: %s\n' "$*" >&2; exit 1; }
penstock() { show "penstock --config .demo/run/penstock.toml $*"; "$binary" --config "$run/penstock.toml" "$@"; }
# expect CODE COMMAND…: the command must end with that exit code.
expect() {
  local want=$1 got=0
  shift
  "$@" || got=$?
  [[ $got == "$want" ]] || fail "exit code $got instead of $want: $*"
  say "  (exit code $got, as it should be)"
}

server=
cleanup() {
  local code=$?
  if [[ -n $server ]]; then
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
  fi
  [[ $code == 0 ]] || say "demo: exit code $code; logs are in .demo/run/log/" >&2
}
trap cleanup EXIT
trap 'exit 130' INT TERM

step "install what the demo needs into .demo/venv, and build the binary"
packages=("moto[server,s3,ec2,sts,iam,kms]==5.2.5" awscli zstandard cryptography pyrage==1.4.0)
if [[ $(cat "$venv/.packages" 2>/dev/null) != "${packages[*]}" ]]; then
  rm -rf "$venv"
  run python3 -m venv "$venv"
  run "$venv/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}"
  echo "${packages[*]}" >"$venv/.packages"
else
  say "  .demo/venv is there: ${packages[*]}"
fi
if [[ -n ${PENSTOCK:-} ]]; then
  binary=$(realpath "$PENSTOCK")
else
  say "  the first build compiles everything, with optimisation: about eight minutes on two cores. PENSTOCK=path takes a binary that is there"
  run cargo build --locked --release
  binary=$(cargo metadata --locked --no-deps --format-version 1 |
    "$venv/bin/python" -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')/release/penstock
fi
[[ -x $binary ]] || fail "there is no binary $binary"
sources=("$HOME/.cargo/registry/src" /usr/share)
if sysroot=$(rustc --print sysroot 2>/dev/null); then sources=("$sysroot/lib" "${sources[@]}"); fi

# From here on nothing of the caller's: no CA bundle, no credentials, no AWS configuration, no proxy.
unset AWS_CA_BUNDLE SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE
unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_PROFILE AWS_REGION AWS_ENDPOINT_URL
unset HTTP_PROXY HTTPS_PROXY ALL_PROXY http_proxy https_proxy all_proxy
export AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null AWS_EC2_METADATA_DISABLED=true
export AWS_DEFAULT_REGION=$region AWS_PAGER=

rm -rf "$run"
mkdir -p "$run"/{log,secrets,tls,state}
chmod 700 "$run/secrets" "$run/tls"
secret() { (umask 077 && printf '%s\n' "$2" >"$run/secrets/$1"); }

step "start the AWS stand-in on 127.0.0.1, with a certificate of a CA made just now"
run "$venv/bin/python" tests/demo/ca.py "$run/tls"
port=$("$venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
url=https://127.0.0.1:$port
stand_in=("$venv/bin/python" tests/tools/moto_as_aws.py)
show "${stand_in[@]}" -H 127.0.0.1 -p "$port" -s -c "$run/tls/server.pem" -k "$run/tls/server.key"
"${stand_in[@]}" -H 127.0.0.1 -p "$port" -s -c "$run/tls/server.pem" -k "$run/tls/server.key" \
  >"$run/log/moto.log" 2>&1 </dev/null &
server=$!
# moto PATH [BODY]: GET, or POST of BODY.
moto() {
  "$venv/bin/python" - "$run/tls/ca.pem" "$url$1" "${@:2}" <<'PY'
import ssl, sys, urllib.request
ca, url, *body = sys.argv[1:]
request = urllib.request.Request(url, data=body[0].encode() if body else None, headers={"Content-Type": "text/plain"})
urllib.request.urlopen(request, context=ssl.create_default_context(cafile=ca), timeout=10).read()
PY
}
for attempt in $(seq 60); do
  if moto /moto-api/ 2>/dev/null; then break; fi
  kill -0 "$server" 2>/dev/null || fail "the server ended: $(tail -3 "$run/log/moto.log")"
  [[ $attempt != 60 ]] || fail "the server does not answer"
  sleep 0.5
done
say "  $url answers"

# aws_as KEYS ARGS…: the AWS CLI with one pair of keys; it trusts the demo's CA by its own environment only.
aws_as() {
  local who=$1
  shift
  env AWS_CA_BUNDLE="$run/tls/ca.pem" AWS_ACCESS_KEY_ID="$(cat "$run/secrets/$who.id")" \
    AWS_SECRET_ACCESS_KEY="$(cat "$run/secrets/$who.key")" \
    "$venv/bin/aws" --endpoint-url "$url" "$@"
}
aws_setup() { show aws "$@"; aws_as setup "$@" >>"$run/log/setup.log"; }
aws_operator() { show aws "$@"; aws_as operator "$@"; }

step "write the configuration and check it"
external_id=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
secret external-id "$external_id"
role=arn:aws:iam::$account:role/BackupWriter
cat >"$run/penstock.toml" <<T
cluster   = "demo"
node      = "demo-node"
state_dir = "$run/state"

[admin]
socket = "$run/control.sock"

[limits]
memory = "128MiB"

[locations.demo]
provider         = "aws"
bucket           = "$bucket"
region           = "$region"
prefix           = "fleet"
s3_url           = "$url"
sts_url          = "$url"
ec2_url          = "$url"
force_path_style = true
certificate      = "$run/tls/ca.pem"
certificate_mode = "only"               # this CA and no other

[locations.demo.credentials]
source                 = "static"
access_key_id_file     = "$run/secrets/user.id"
secret_access_key_file = "$run/secrets/user.key"

[[locations.demo.assume_role]]
role_arn         = "$role"
external_id_file = "$run/secrets/external-id"
session_name     = "penstock-demo"

[locations.demo.upload]
part_size   = "5MiB"
concurrency = 4
object_size = "$((mib / 5))MiB"                   # small, so that the stream goes on in a second object

[jobs.files]
location = "demo"
[[jobs.files.sources]]
type = "tree"
name = "tree"
path = "$run/tree"
T
run cat "$run/penstock.toml"
penstock config check

step "create the bucket, the role, and a user who may only assume it, with the policies that Penstock prints"
secret setup.id setup; secret setup.key setup # authentication is still off
# policy FILE [ARGS…]: what Penstock prints, into a file.
policy() {
  show "penstock --config .demo/run/penstock.toml policy${2:+ ${*:2}} >.demo/run/$1" | sed "s/$external_id/…/"
  (umask 077 && "$binary" --config "$run/penstock.toml" policy "${@:2}" >"$run/$1")
}
policy role-policy.json
run cat "$run/role-policy.json"
policy trust.json --trust --account $account --user user --external-id "$external_id"
policy user-policy.json --caller
cat >"$run/operator-policy.json" <<J
{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["s3:*", "ec2:*"], "Resource": "*"}]}
J
aws_setup s3api create-bucket --bucket "$bucket" --create-bucket-configuration "LocationConstraint=$region"
aws_setup iam create-role --role-name BackupWriter --assume-role-policy-document "file://$run/trust.json"
aws_setup iam put-role-policy --role-name BackupWriter --policy-name backup --policy-document "file://$run/role-policy.json"
for user in user operator; do
  aws_setup iam create-user --user-name "$user"
  aws_setup iam put-user-policy --user-name "$user" --policy-name "$user" --policy-document "file://$run/$user-policy.json"
  show aws iam create-access-key --user-name "$user"
  keys=$(aws_as setup iam create-access-key --user-name "$user" --output text \
    --query 'AccessKey.[AccessKeyId,SecretAccessKey]')
  secret "$user.id" "${keys%%$'\t'*}"; secret "$user.key" "${keys##*$'\t'}"
done
say "  from here on the stand-in checks signatures, actions and resources:"
show curl -X POST -d 0 "$url/moto-api/reset-auth"
moto /moto-api/reset-auth 0
if aws_as user s3 ls "s3://$bucket" >>"$run/log/setup.log" 2>&1; then fail "the user may list the bucket without the role"; fi
say "  the user alone may not list the bucket: good"

step "prove that the role may do all that Penstock needs"
penstock validate

step "make a tree: $mib MiB of real files, and everything else a tree can hold"
run "$venv/bin/python" tests/demo/tree.py make "$run/tree" "$mib" "${sources[@]}"
run du -sh "$run/tree"
run ls -la "$run/tree/special"

step "back it up"
penstock backup files

step "look at it"
penstock list
penstock show files@latest

step "verify: what the manifest and the index say is there; then read and hash every chunk"
penstock verify files@latest
penstock verify files@latest --data

step "restore, and compare"
penstock restore files@latest --to "$run/restored"
say "  (diff calls two fifos different, so it skips them; tree.py compares them)"
run diff -r --no-dereference --exclude='*.fifo' "$run/tree" "$run/restored" || fail "diff found differences"
run "$venv/bin/python" tests/demo/tree.py compare "$run/tree" "$run/restored" || fail "the trees differ"

step "the same without Penstock: the AWS CLI, zstd and GNU tar"
unzstd() {
  if command -v zstd >/dev/null; then
    zstd -dcq
  else # a new machine may have no zstd: the Python package decompresses the same frames
    "$venv/bin/python" -c 'import shutil, sys, zstandard
shutil.copyfileobj(zstandard.ZstdDecompressor().stream_reader(sys.stdin.buffer, read_across_frames=True), sys.stdout.buffer, 1 << 20)'
  fi
}
aws_operator s3 ls --recursive "s3://$bucket" | tee "$run/objects.txt"
mapfile -t objects < <(awk '{ print $4 }' "$run/objects.txt" | grep -E '/tree\.[0-9]{4}\.tar\.zst$' | sort)
((${#objects[@]} >= 2)) || fail "${#objects[@]} data objects; at least two were to be seen"
stream() { # every data object, in order
  local object
  for object in "${objects[@]}"; do aws_as operator s3 cp --only-show-errors "s3://$bucket/$object" - || return 1; done
}
mkdir "$run/by-hand"
show "for object in ${objects[*]##*/}; do aws s3 cp s3://$bucket/…/\$object -; done | zstd -d | tar --xattrs --xattrs-include='*' -xpC .demo/run/by-hand"
stream | unzstd | tar --xattrs --xattrs-include='*' -xpf - -C "$run/by-hand" || fail "tar could not unpack the stream"
run diff -r --no-dereference --exclude='*.fifo' "$run/tree" "$run/by-hand" || fail "diff found differences"
run "$venv/bin/python" tests/demo/tree.py compare "$run/tree" "$run/by-hand" || fail "the trees differ"
show "… | zstd -d | tar --compare -C .demo/run/tree"
stream | unzstd | tar --compare -f - -C "$run/tree" || fail "tar found differences"
say "  tar found no difference"

step "nothing is left behind"
left=$(aws_operator s3api list-multipart-uploads --bucket "$bucket" --query 'length(Uploads || `[]`)' --output text | tail -1)
[[ $left == 0 ]] || fail "$left multipart uploads were left in progress"
say "  no multipart upload is in progress"

step "what a failure says: a wrong external ID, and a server that the CA does not vouch for"
sed "s|$run/secrets/external-id|$run/secrets/wrong-external-id|" "$run/penstock.toml" >"$run/wrong-id.toml"
secret wrong-external-id not-the-external-id
expect 77 run "$binary" --config "$run/wrong-id.toml" list
mkdir -p "$run/other-tls"
"$venv/bin/python" tests/demo/ca.py "$run/other-tls"
sed "s|$run/tls/ca.pem|$run/other-tls/ca.pem|" "$run/penstock.toml" >"$run/wrong-ca.toml"
expect 78 run "$binary" --config "$run/wrong-ca.toml" list

step "change a little of it, and back it up again: only what is new moves"
new_bytes() { "$binary" --config "$run/penstock.toml" --output json list --job "$1" |
  "$venv/bin/python" -c 'import json, sys; b = json.load(sys.stdin)["backups"][0]; print(b["new_bytes"], b["plain_bytes"])'; }
run "$venv/bin/python" tests/demo/tree.py change "$run/tree"
penstock backup files
read -r new plain < <(new_bytes files)
say "  $((new / 1024)) KiB were new, of $((plain / 1024 / 1024)) MiB"
((new < plain / 20)) || fail "the second backup stored $new new bytes"
penstock list
penstock verify files@latest --data
penstock restore files@latest --to "$run/restored-second"
run diff -r --no-dereference --exclude='*.fifo' "$run/tree" "$run/restored-second" || fail "diff found differences"
run "$venv/bin/python" tests/demo/tree.py compare "$run/tree" "$run/restored-second" || fail "the trees differ"
penstock stats

step "encrypt it to a public key: this node writes, and cannot read what it wrote"
penstock key generate "$run/secrets/operator.txt"
recipient=$("$binary" key show "$run/secrets/operator.txt" | awk '{ print $1 }')
cat >>"$run/penstock.toml" <<T

[locations.vault]                       # the same bucket
provider         = "aws"
bucket           = "$bucket"
region           = "$region"
prefix           = "fleet"
s3_url           = "$url"
sts_url          = "$url"
ec2_url          = "$url"
force_path_style = true
certificate      = "$run/tls/ca.pem"
certificate_mode = "only"
[locations.vault.credentials]
source                 = "static"
access_key_id_file     = "$run/secrets/user.id"
secret_access_key_file = "$run/secrets/user.key"
[[locations.vault.assume_role]]
role_arn         = "$role"
external_id_file = "$run/secrets/external-id"
[locations.vault.client_encryption]
recipients = ["$recipient"]
[locations.vault.upload]
part_size   = "5MiB"
object_size = "$((mib / 5))MiB"

[jobs.secret]
location = "vault"
[[jobs.secret.sources]]
type = "tree"
name = "tree"
path = "$run/tree"
T
penstock config check
penstock validate vault --skip ec2
penstock backup secret
penstock show secret@latest
say "  without the private key:"
expect 77 penstock restore secret@latest --to "$run/restored-without-key"
penstock verify secret@latest
say "  with it:"
penstock verify secret@latest --data --identity "$run/secrets/operator.txt"
penstock restore secret@latest --to "$run/restored-secret" --identity "$run/secrets/operator.txt"
run "$venv/bin/python" tests/demo/tree.py compare "$run/tree" "$run/restored-secret" || fail "the trees differ"
say "  and without Penstock:"
unage() {
  if command -v age >/dev/null; then
    age --decrypt --identity "$run/secrets/operator.txt"
  else # another implementation of the same format
    "$venv/bin/python" -c 'import sys, pyrage
keys = [line for line in open(sys.argv[1]).read().split("\n") if line.startswith("AGE-SECRET-KEY-1")]
sys.stdout.buffer.write(pyrage.decrypt(sys.stdin.buffer.read(), [pyrage.x25519.Identity.from_str(key) for key in keys]))' "$run/secrets/operator.txt"
  fi
}
mapfile -t sealed < <(aws_as operator s3 ls --recursive "s3://$bucket" | awk '{ print $4 }' | grep -E '/secret/.*/tree\.[0-9]{4}\.tar\.zst\.age$' | sort)
((${#sealed[@]} >= 2)) || fail "${#sealed[@]} encrypted data objects; at least two were to be seen"
mkdir "$run/by-hand-secret"
show "for object in ${sealed[*]##*/}; do aws s3 cp s3://$bucket/…/\$object - | age -d -i operator.txt; done | zstd -d | tar --xattrs --xattrs-include='*' -xpC .demo/run/by-hand-secret"
for object in "${sealed[@]}"; do aws_as operator s3 cp --only-show-errors "s3://$bucket/$object" - | unage || exit 1; done |
  unzstd | tar --xattrs --xattrs-include='*' -xpf - -C "$run/by-hand-secret" || fail "tar could not unpack the stream"
run "$venv/bin/python" tests/demo/tree.py compare "$run/tree" "$run/by-hand-secret" || fail "the trees differ"

step "an EBS volume: a snapshot of it, and a new volume from the snapshot"
volume=$(aws_as operator ec2 create-volume --size 8 --volume-type gp3 --availability-zone ${region}a --query VolumeId --output text \
  --tag-specifications 'ResourceType=volume,Tags=[{Key=role,Value=data},{Key=kubernetes.io/created-for/pvc/name,Value=db}]')
say "  $volume is there, tagged role=data"
cat >>"$run/penstock.toml" <<T

[jobs.disks]
location = "demo"
[[jobs.disks.sources]]
type = "ebs"
name = "data"
select_tags = { role = "data" }
T
penstock backup disks
penstock show disks@latest
penstock verify disks@latest
penstock snapshot restore disks@latest --volume "$volume" --availability-zone ${region}b
aws_operator ec2 describe-volumes --query 'Volumes[].[VolumeId,SnapshotId,AvailabilityZone,VolumeType,State]' --output text
copies=$(aws_as operator ec2 describe-volumes --filters Name=availability-zone,Values=${region}b --query 'length(Volumes)' --output text)
[[ $copies == 1 ]] || fail "$copies volumes were made of the snapshot"

step "the API objects of a cluster"
if [[ -z ${KUBECONFIG:-} ]]; then
  say "  no cluster is here; with KUBECONFIG set its API objects are saved into the stand-in too, and given back as files"
else
  cat >>"$run/penstock.toml" <<T

[jobs.cluster]
location = "demo"
[[jobs.cluster.sources]]
type = "kubernetes"
name = "objects"
T
  policy cluster-role.yaml --kubernetes
  run cat "$run/cluster-role.yaml"
  # Exit code 1: an API of the cluster is down, or this kubeconfig may not read everything; `show` says what.
  penstock backup cluster || [[ $? == 1 ]] || fail "the cluster's objects were not saved"
  penstock show cluster@latest
  # Exit code 1: what has changed since; a cluster does not stand still.
  penstock kubernetes diff cluster@latest || [[ $? == 1 ]] || fail "the backup was not compared with the cluster"
  (umask 077 && penstock restore cluster@latest --item objects --to "$run/objects")
  [[ -d $run/objects/resources/namespaces/cluster ]] || fail "no namespace was saved"
  run ls "$run/objects/resources"
fi

step "keep a copy of the bucket to look at"
mkdir -m 700 "$run/bucket" # a cluster's Secrets may be in it
aws_operator s3 sync --only-show-errors "s3://$bucket" "$run/bucket"

cat <<S

== What happened
  A tree of $(du -sh "$run/tree" | cut -f1) ($(find "$run/tree" | wc -l) entries) was backed up into ${#objects[@]} data objects, verified down to every chunk,
  restored by Penstock and by aws + zstd + tar, and both copies are the tree: content, modes, owners, times to the
  nanosecond, links, hard links, holes, extended attributes. A second backup moved $((new / 1024)) KiB, and restores as well. An EBS volume was
  snapshotted, and a new one made of it. An encrypted backup was read with its private key, and by aws + age + zstd + tar, and by nobody without. The server checked every signature,
  and let the role do what \`penstock policy\` prints and nothing else.

  .demo/run/penstock.toml   the configuration        .demo/run/tree       the tree
  .demo/run/role-policy.json  all that the role may  .demo/run/restored   restored by Penstock
  .demo/run/log/            the server's log         .demo/run/by-hand    restored by aws, zstd and tar
                                                     .demo/run/bucket     what was in the bucket
== How to look
  less .demo/run/bucket/${objects[0]%/*}/manifest.json
  cat .demo/run/bucket/${objects[0]%/*}/tree.*.tar.zst | zstd -d | tar -tv | less
  tests/demo/run.sh --keep      # the same, and the server stays up for commands of your own
== What comes next
  README.md, "Quick start"      the same against a bucket of yours: a role, a configuration, the first backup
  docs/install-hosts.md, docs/install-eks.md, docs/install-kubernetes.md
                                the daemon, on machines and in clusters
  docs/restore-drill.md         the restore, before you need it
== How to remove it
  rm -rf .demo                  # everything that the demo made or installed; nothing is left running
  cargo clean                   # what was compiled
S
if [[ ${1:-} == --keep ]]; then
  say "
== The server is up at $url until Ctrl-C. In another terminal:
  unset AWS_CA_BUNDLE SSL_CERT_FILE SSL_CERT_DIR
  ${binary#"$PWD"/} --config .demo/run/penstock.toml list"
  wait "$server"
fi
