"""As much of S3 as Penstock and s5cmd need to write and read back, on files: it costs less than radosgw, and can be made slow.

usage: file_store.py PORT DIR WAIT_MS [RATE]    until it is killed
It waits WAIT_MS before each answer. With RATE (bytes a second and connection) it is a sink: parts are read at that rate and dropped, which costs
no copy (MSG_TRUNC). GET is sendfile. A thread for each connection: all but the heads of requests is the kernel's.
"""

import http.server
import os
import socket
import socketserver
import sys
import time
import urllib.parse
import uuid
from xml.etree import ElementTree
from xml.sax.saxutils import escape

PORT, DIRECTORY, WAIT = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]) / 1000
RATE = float(sys.argv[4]) if len(sys.argv) > 4 else None
SLICE = 256 << 10
DATE = "2026-11-30T00:00:00.000Z"


def path_of(key):
    return os.path.join(DIRECTORY, urllib.parse.quote(key, safe=""))


def etag_of(key):
    return uuid.uuid5(uuid.NAMESPACE_URL, key).hex


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def parse_request(self):
        if not super().parse_request():
            return False
        path, _, query = self.path.partition("?")
        self.key = urllib.parse.unquote(path).lstrip("/").partition("/")[2]
        self.query = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        return True

    def pieces(self):
        """The body; what is sent in chunks of `aws-chunked` is refused, as nobody here sends it."""
        left, buffer = int(self.headers.get("Content-Length", 0)), memoryview(bytearray(SLICE))
        while left:
            count = self.rfile.readinto1(buffer[:min(left, SLICE)])
            if not count:
                raise ConnectionError("the body ends early")
            left -= count
            yield buffer[:count]

    def drop(self):
        left, start, taken = int(self.headers["Content-Length"]), time.monotonic(), 0
        buffer = bytearray(SLICE)
        # What came with the head.
        taken += len(self.rfile.read1(min(left, len(self.rfile.peek(1)))))
        while taken < left:
            count = self.connection.recv_into(buffer, min(left - taken, SLICE), socket.MSG_TRUNC)
            if not count:
                raise ConnectionError("the body ends early")
            taken += count
            time.sleep(max(0.0, start + taken / RATE - time.monotonic()))

    def answer(self, status=200, body=b"", etag=None, length=None, more=()):
        time.sleep(WAIT)
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("Last-Modified", "Mon, 30 Nov 2026 00:00:00 GMT")
        if etag:
            self.send_header("ETag", f'"{etag}"')
        for name, value in more:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def xml(self, name, inner):
        body = f'<?xml version="1.0" encoding="UTF-8"?><{name} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{inner}</{name}>'
        self.answer(body=body.encode(), more=[("Content-Type", "application/xml")])

    def do_PUT(self):
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            self.answer(501)
        elif RATE and "uploadId" in self.query:
            self.drop()
            self.answer(etag=self.query["partNumber"])
        else:
            part = f".{self.query.get('uploadId')}.{self.query.get('partNumber')}"
            path = os.path.join(DIRECTORY, part) if "uploadId" in self.query else path_of(self.key)
            new = os.path.join(DIRECTORY, f".{uuid.uuid4().hex}")
            with open(new, "wb") as out:
                for piece in self.pieces():
                    out.write(piece)
            os.rename(new, path)
            self.answer(etag=etag_of(self.key))

    def do_POST(self):
        body = b"".join(bytes(piece) for piece in self.pieces())
        if "uploads" in self.query:
            self.xml("InitiateMultipartUploadResult", f"<Bucket>bench</Bucket><Key>{escape(self.key)}</Key><UploadId>{uuid.uuid4().hex}</UploadId>")
            return
        upload, new = self.query["uploadId"], os.path.join(DIRECTORY, f".{uuid.uuid4().hex}")
        with open(new, "wb") as out:
            for element in [] if RATE else ElementTree.fromstring(body).findall(".//{*}PartNumber"):
                part = os.path.join(DIRECTORY, f".{upload}.{element.text}")
                with open(part, "rb") as data:
                    while os.sendfile(out.fileno(), data.fileno(), None, 1 << 30):
                        pass
                os.remove(part)
        os.rename(new, path_of(self.key))
        self.xml("CompleteMultipartUploadResult", f'<Bucket>bench</Bucket><Key>{escape(self.key)}</Key><ETag>"{etag_of(self.key)}"</ETag>')

    def do_DELETE(self):
        if self.key and "uploadId" not in self.query and os.path.exists(path_of(self.key)):
            os.remove(path_of(self.key))
        self.answer(204)

    def do_HEAD(self):
        try:
            self.answer(length=os.stat(path_of(self.key)).st_size, etag=etag_of(self.key))
        except OSError:
            self.answer(404)

    def do_GET(self):
        if not self.key:
            self.listing()
            return
        try:
            data = open(path_of(self.key), "rb")
        except OSError:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        with data:
            size = os.fstat(data.fileno()).st_size
            first, last, status, more = 0, size - 1, 200, []
            if asked := self.headers.get("Range"):
                low, _, high = asked.removeprefix("bytes=").partition("-")
                first, last = (int(low), min(int(high or last), last)) if low else (max(0, size - int(high)), last)
                status, more = 206, [("Content-Range", f"bytes {first}-{last}/{size}")]
            self.answer(status, length=last + 1 - first, etag=etag_of(self.key), more=more)
            while first <= last:
                first += os.sendfile(self.connection.fileno(), data.fileno(), first, last + 1 - first)

    def listing(self):
        if "uploads" in self.query:
            self.xml("ListMultipartUploadsResult", "<Bucket>bench</Bucket><IsTruncated>false</IsTruncated>")
            return
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter")
        contents, folders = [], {}
        keys = sorted(urllib.parse.unquote(name) for name in os.listdir(DIRECTORY) if not name.startswith("."))
        for key in keys:
            if not key.startswith(prefix) or key <= self.query.get("start-after", ""):
                continue
            rest = key[len(prefix):]
            if delimiter and delimiter in rest:
                folders[prefix + rest.split(delimiter)[0] + delimiter] = None
                continue
            contents.append(f"<Contents><Key>{escape(key)}</Key><LastModified>{DATE}</LastModified><ETag>&quot;{etag_of(key)}&quot;</ETag>"
                            f"<Size>{os.stat(path_of(key)).st_size}</Size></Contents>")
        common = "".join(f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>" for folder in folders)
        self.xml("ListBucketResult", f"<Name>bench</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(contents) + len(folders)}</KeyCount>"
                 f"<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{''.join(contents)}{common}")


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads, allow_reuse_address, request_queue_size = True, True, 256

    def handle_error(self, *_):
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*_)


Server(("127.0.0.1", PORT), Handler).serve_forever()
