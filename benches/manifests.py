"""Keeps the manifests for s3-sink.sh, which drops everything else: Penstock reads each back before it says "committed".

usage: manifests.py SOCKET    PUT and HEAD on a Unix socket, until it is killed
"""

import http.server
import socketserver
import sys

kept = {}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def address_string(self):
        return "unix"

    def answer(self, status, length):
        self.send_response_only(status)
        self.send_header("ETag", '"d41d8cd98f00b204e9800998ecf8427e"')
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def do_PUT(self):
        kept[self.path.split("?")[0]] = len(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(200, 0)

    def do_HEAD(self):
        size = kept.get(self.path.split("?")[0])
        self.answer(404 if size is None else 200, size or 0)

    def do_DELETE(self):
        kept.pop(self.path.split("?")[0], None)
        self.answer(204, 0)


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


Server(sys.argv[1], Handler).serve_forever()
