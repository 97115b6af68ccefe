#!/usr/bin/env bash
# s3rver 3.7.1 (npm), Node 20, Debian 12, 2026-11-29.
# UploadPart to an upload that was completed is answered 200, and AbortMultipartUpload and ListParts are 405: what a late part leaves can
# neither be seen nor removed through the API. `If-None-Match: *` is ignored on PUT. AWS: 404 NoSuchUpload; 204; 412.
# Output seen:
#   complete 200, late part 200, list parts 405, abort 405, conditional PUT of a taken key 200
# Needs node, npm and its registry, curl 7.86 or newer. Listens on 127.0.0.1:15710.
set -euo pipefail
W=$(mktemp -d); trap 'kill "$pid" 2>/dev/null || true; rm -rf "$W"' EXIT; pid=
npm install --silent --no-fund --no-audit --prefix "$W" s3rver@3.7.1 > /dev/null; mkdir "$W/data"
"$W/node_modules/.bin/s3rver" -d "$W/data" -a 127.0.0.1 -p 15710 > "$W/log" 2>&1 & pid=$!
for _ in $(seq 50); do curl -s -o /dev/null http://127.0.0.1:15710/ && break; sleep 0.2; done
U=http://127.0.0.1:15710/bucket
s3() { curl -s --aws-sigv4 aws:amz:us-east-1:s3 --user S3RVER:S3RVER -H "x-amz-content-sha256: UNSIGNED-PAYLOAD" "$@"; }
code() { s3 -o /dev/null -w '%{http_code}' "$@"; }
code -X PUT "$U" > /dev/null
id=$(s3 -X POST "$U/key?uploads=" | sed -n 's:.*<UploadId>\(.*\)</UploadId>.*:\1:p')
tag=$(s3 -X PUT --data-binary xxxx -D - -o /dev/null "$U/key?partNumber=1&uploadId=$id" | tr -d '\r' | sed -n 's/^ETag: //Ip')
done=$(code -X POST --data-binary "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>$tag</ETag></Part></CompleteMultipartUpload>" "$U/key?uploadId=$id")
late=$(code -X PUT --data-binary yyyy "$U/key?partNumber=2&uploadId=$id"); list=$(code "$U/key?uploadId=$id"); abort=$(code -X DELETE "$U/key?uploadId=$id")
taken=$(code -X PUT --data-binary z -H 'If-None-Match: *' "$U/key")
out="complete $done, late part $late, list parts $list, abort $abort, conditional PUT of a taken key $taken"; echo "$out"
[ "$out" = "complete 200, late part 200, list parts 405, abort 405, conditional PUT of a taken key 200" ] || { echo "CHANGED"; exit 1; }
