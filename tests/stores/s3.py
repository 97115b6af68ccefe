"""S3 requests signed with SigV4, with nothing but the standard library: what a test asks of a store behind Penstock's back."""

import datetime
import hashlib
import hmac
import http.client
from urllib.parse import parse_qsl, quote, urlsplit


class Store:
    def __init__(self, url, access_key, secret_key, region="us-east-1"):
        self.url, self.access_key, self.secret_key, self.region = url, access_key, secret_key, region

    def request(self, method, path, body=b"", headers=None):
        """Status, headers (names in lower case) and body."""
        parts = urlsplit(path)
        now = datetime.datetime.now(datetime.timezone.utc)
        stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        digest = hashlib.sha256(body).hexdigest()
        signed = {"host": urlsplit(self.url).netloc, "x-amz-content-sha256": digest, "x-amz-date": stamp}
        signed |= {name.lower(): value for name, value in (headers or {}).items()}
        names = ";".join(sorted(signed))
        query = "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in sorted(parse_qsl(parts.query, keep_blank_values=True)))
        lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
        canonical = "\n".join([method, quote(parts.path), query, lines, names, digest])
        scope = f"{day}/{self.region}/s3/aws4_request"
        text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key = ("AWS4" + self.secret_key).encode()
        for piece in (day, self.region, "s3", "aws4_request"):
            key = hmac.new(key, piece.encode(), hashlib.sha256).digest()
        signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        authorization = f"AWS4-HMAC-SHA256 Credential={self.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        try:
            connection.request(method, path, body=body, headers={**signed, "authorization": authorization})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()
