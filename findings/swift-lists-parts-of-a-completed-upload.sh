#!/usr/bin/env bash
# OpenStack Swift 2.38.0 (PyPI; 2.30.1 of Debian 12 does the same), s3api and tempauth, Python 3.11, Debian 12, 2026-11-29.
# ListParts of a multipart upload that was completed is answered 200 with its parts, while AbortMultipartUpload of the same upload is
# answered 404 NoSuchKey: a client that aborts until ListParts says NoSuchUpload (as AWS documents) never ends. AWS: 404 NoSuchUpload for both.
# Output seen:
#   complete: 200
#   abort after complete: 404 NoSuchKey
#   list parts after complete: 200 1 part
# Needs python3 with venv, a file system with extended attributes, pip's index. Listens on 127.0.0.1:15700-15703.
set -euo pipefail
W=$(mktemp -d "${TMPDIR:-/var/tmp}/finding.XXXXXX"); pids=(); trap 'kill "${pids[@]}" 2>/dev/null || true; rm -rf "$W"' EXIT
python3 -m venv "$W/v"; "$W/v/bin/pip" install -q --disable-pip-version-check swift==2.38.0 'setuptools<81'
mkdir -p "$W/devices/d1"
printf '[swift-hash]\nswift_hash_path_suffix = s\nswift_hash_path_prefix = p\n[storage-policy:0]\nname = p\ndefault = yes\n' > "$W/swift.conf"
cat > "$W/rings.py" <<'PY'
import sys
from swift.common.ring import RingBuilder
for kind, port in (("account", 15701), ("container", 15702), ("object", 15703)):
    b = RingBuilder(4, 1, 1)
    b.add_dev({"id": 0, "region": 1, "zone": 1, "ip": "127.0.0.1", "port": port, "device": "d1", "weight": 1.0, "meta": ""})
    b.rebalance(); b.get_ring().save(f"{sys.argv[1]}/{kind}.ring.gz")
PY
cat > "$W/serve.py" <<'PY'
import sys, swift.common.utils as utils
utils.SWIFT_CONF_FILE = sys.argv[1]; getattr(utils, "config", utils).SWIFT_CONF_FILE = sys.argv[1]
from swift.common.wsgi import run_wsgi
sys.exit(run_wsgi(sys.argv[3], sys.argv[2] + "-server", default_port=0))
PY
common="[DEFAULT]
swift_dir = $W
user = $(id -un)
bind_ip = 127.0.0.1
workers = 0
log_level = WARNING
log_address = /nonexistent"
"$W/v/bin/python" -W ignore "$W/rings.py" "$W"; port=15701
for kind in account container object; do
  printf '%s\nbind_port = %s\ndevices = %s/devices\nmount_check = false\n[pipeline:main]\npipeline = %s-server\n[app:%s-server]\nuse = egg:swift#%s\n' "$common" $port "$W" $kind $kind $kind > "$W/$kind.conf"
  "$W/v/bin/python" "$W/serve.py" "$W/swift.conf" $kind "$W/$kind.conf" > "$W/$kind.log" 2>&1 & pids+=($!); port=$((port + 1))
done
{ printf '%s\nbind_port = 15700\n[pipeline:main]\npipeline = catch_errors gatekeeper healthcheck cache listing_formats bulk s3api tempauth slo proxy-server\n' "$common"
  printf '[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n[filter:tempauth]\nuse = egg:swift#tempauth\nuser_test_tester = testing .admin\n'
  printf '[filter:s3api]\nuse = egg:swift#s3api\nlocation = us-east-1\n[filter:cache]\nuse = egg:swift#memcache\nmemcache_servers = 127.0.0.1:1\n'
  for f in catch_errors gatekeeper healthcheck listing_formats bulk slo; do printf '[filter:%s]\nuse = egg:swift#%s\n' $f $f; done; } > "$W/proxy.conf"
"$W/v/bin/python" "$W/serve.py" "$W/swift.conf" proxy "$W/proxy.conf" > "$W/proxy.log" 2>&1 & pids+=($!)
for _ in $(seq 100); do curl -s -o /dev/null http://127.0.0.1:15700/healthcheck && break; sleep 0.3; done
# curl splits --user at the first colon, and the access key of tempauth has one: the requests are signed here.
cat > "$W/ask.py" <<'PY'
import sys, re, hmac, hashlib, datetime, http.client
from urllib.parse import quote, urlsplit, parse_qsl
def ask(method, path, body=b""):
    u = urlsplit(path); t = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ"); d = hashlib.sha256(body).hexdigest()
    h = {"host": "127.0.0.1:15700", "x-amz-content-sha256": d, "x-amz-date": t}
    q = "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in sorted(parse_qsl(u.query, keep_blank_values=True)))
    c = "\n".join([method, u.path, q, "".join(f"{k}:{h[k]}\n" for k in sorted(h)), ";".join(sorted(h)), d]); s = f"{t[:8]}/us-east-1/s3/aws4_request"
    k = b"AWS4testing"
    for p in s.split("/"): k = hmac.new(k, p.encode(), hashlib.sha256).digest()
    g = hmac.new(k, f"AWS4-HMAC-SHA256\n{t}\n{s}\n{hashlib.sha256(c.encode()).hexdigest()}".encode(), hashlib.sha256).hexdigest()
    h["authorization"] = f"AWS4-HMAC-SHA256 Credential=test:tester/{s}, SignedHeaders={';'.join(sorted(h))}, Signature={g}"
    x = http.client.HTTPConnection("127.0.0.1:15700"); x.request(method, path, body, h); r = x.getresponse(); return r.status, r.read().decode(), r.getheader("etag")
assert ask("PUT", "/bucket")[0] == 200
id = re.search("<UploadId>(.*?)<", ask("POST", "/bucket/key?uploads=")[1])[1]
tag = ask("PUT", f"/bucket/key?partNumber=1&uploadId={id}", b"x" * 100)[2]
xml = f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{tag}</ETag></Part></CompleteMultipartUpload>"
print("complete:", ask("POST", f"/bucket/key?uploadId={id}", xml.encode())[0])
status, text, _ = ask("DELETE", f"/bucket/key?uploadId={id}"); print("abort after complete:", status, re.search("<Code>(.*?)<", text)[1])
status, text, _ = ask("GET", f"/bucket/key?uploadId={id}"); print("list parts after complete:", status, text.count("<PartNumber>"), "part")
PY
out=$(python3 "$W/ask.py"); echo "$out"
[ "$out" = "complete: 200
abort after complete: 404 NoSuchKey
list parts after complete: 200 1 part" ] || { echo "CHANGED"; exit 1; }
