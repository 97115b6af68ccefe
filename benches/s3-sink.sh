#!/usr/bin/env bash
# The ceiling for upload benchmarks: nginx that takes PutObject, UploadPart, Create, Complete and Abort, reads each body and drops it.
# It verifies nothing, answers a fixed ETag and an empty listing, and costs about 0.8 s of CPU for a GiB.
#
# usage: s3-sink.sh start DIR PORT [CERT KEY]     the sink
#        s3-sink.sh proxy DIR PORT UPSTREAM       passes everything on to http://UPSTREAM, for counting
#        s3-sink.sh stop DIR
# Every request is a line of DIR/requests.log if COUNT=1. Needs nginx (apt-get install nginx-light), or NGINX_BIN=path (NGINX is a variable of nginx itself).
set -euo pipefail
cmd=$1
mkdir -p "$2"
D=$(cd "$2" && pwd)
if [[ $cmd == stop ]]; then
  if [[ -f $D/pid ]]; then kill "$(cat "$D/pid")"; fi
  exit 0
fi
port=$3 tls= ssl= log=off
if [[ ${COUNT:-} == 1 ]]; then log="$D/requests.log count"; fi
if [[ $cmd == start && $# -ge 5 ]]; then
  tls="ssl_certificate $(realpath "$4"); ssl_certificate_key $(realpath "$5"); ssl_protocols TLSv1.3;"
  ssl=ssl
fi
{
  cat <<C
daemon on; worker_processes 2; pid $D/pid; error_log $D/err.log warn;
events { worker_connections 1024; }
http {
  log_format count '\$request_method \$request_uri';
  access_log $log; client_max_body_size 0; client_body_buffer_size 128k; client_body_temp_path ${BODY:-/dev/shm}/penstock-sink-$port;
  proxy_temp_path $D/p; fastcgi_temp_path $D/f; uwsgi_temp_path $D/u; scgi_temp_path $D/s;
  keepalive_requests 1000000; keepalive_timeout 300s; large_client_header_buffers 8 64k; $tls
C
  if [[ $cmd == proxy ]]; then
    cat <<C
  upstream store { server $4; keepalive 64; }
  server { listen 127.0.0.1:$port;
    location / { proxy_pass http://store; proxy_http_version 1.1; proxy_set_header Connection ''; proxy_set_header Host \$http_host;
      proxy_request_buffering off; proxy_buffering off; } }
}
C
  else
    rm -f "$D/back.sock"
    cat <<C
  upstream back { server unix:$D/back.sock; keepalive 64; }
  map "\$request_method:\$args" \$xml {
    default '';
    '~^POST:.*uploadId=' '<?xml version="1.0" encoding="UTF-8"?><CompleteMultipartUploadResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Location>http://x/b/o</Location><Bucket>b</Bucket><Key>o</Key><ETag>"d41d8cd98f00b204e9800998ecf8427e-1"</ETag></CompleteMultipartUploadResult>';
    '~^POST:.*uploads' '<?xml version="1.0" encoding="UTF-8"?><InitiateMultipartUploadResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Bucket>b</Bucket><Key>o</Key><UploadId>U1</UploadId></InitiateMultipartUploadResult>';
    '~^GET:.*(list-type|prefix)=' '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><Prefix></Prefix><KeyCount>0</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated></ListBucketResult>';
  }
  server { listen unix:$D/back.sock; access_log off; default_type application/xml; add_header ETag '"d41d8cd98f00b204e9800998ecf8427e"' always;
    location / { if (\$request_method = DELETE) { return 204; } return 200 \$xml; } }
  server { listen 127.0.0.1:$port $ssl;
    location / { proxy_pass http://back; proxy_http_version 1.1; proxy_set_header Connection ''; proxy_pass_request_body off;
      proxy_set_header Content-Length ''; proxy_set_header Expect ''; proxy_request_buffering on; } }
}
C
  fi
} >"$D/nginx.conf"
if [[ $(id -u) == 0 ]]; then sed -i '1i user root;' "$D/nginx.conf"; fi
"${NGINX_BIN:-nginx}" -c "$D/nginx.conf" >/dev/null 2>"$D/start.log" || { cat "$D/start.log" >&2; exit 1; }
echo "$cmd: 127.0.0.1:$port"
