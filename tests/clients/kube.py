# SPDX-License-Identifier: Apache-2.0
"""As much of a Kubernetes API server as kubectl needs to list, watch, follow logs and exec, faithful in what is on the wire:
chunked JSON that goes on for as long as the client likes, text streams, WebSocket (v5.channel.k8s.io), and SPDY/3.1 as an
upgrade to bytes that come back. It is no API server in any other way."""

import base64
import hashlib
import http.server
import json
import struct
import threading
import time

WEBSOCKET_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
STDIN, STDOUT, ERROR, CLOSE = 0, 1, 3, 255
RESOURCES = [{"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "shortNames": ["po"],
              "verbs": ["get", "list", "watch", "create", "delete"]},
             *({"name": f"pods/{name}", "singularName": "", "namespaced": True, "kind": "Pod", "verbs": ["get", "create"]}
               for name in ("log", "exec", "portforward"))]


def pod(name, phase="Running", version=1):
    return {"kind": "Pod", "apiVersion": "v1",
            "metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": str(version),
                         "creationTimestamp": "2024-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "main", "image": "box"}]},
            "status": {"phase": phase, "conditions": [],
                       "containerStatuses": [{"name": "main", "ready": True, "restartCount": 0, "image": "box",
                                              "imageID": "box", "state": {"running": {"startedAt": "2024-01-01T00:00:00Z"}}}]}}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def json(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, content_type):
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def do_GET(self):
        path, _, query = self.path.partition("?")
        self.server.asked.append((self.command, self.path, self.headers.get("Upgrade", "")))
        fixed = {
            "/version": {"major": "1", "minor": "32", "gitVersion": "v1.32.0"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
            "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": RESOURCES},
            "/api/v1/namespaces/default/pods/web": pod("web"),
        }
        if path in fixed:
            self.json(fixed[path])
        elif path == "/api/v1/namespaces/default/pods":
            if "watch=true" in query or "watch=1" in query:
                self.watch()
            else:
                self.json({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": [pod("web")]})
        elif path.endswith("/log"):
            self.follow()
        elif path.endswith("/exec"):
            self.exec()
        else:
            self.json({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}, 404)

    def do_POST(self):
        self.server.asked.append((self.command, self.path, self.headers.get("Upgrade", "")))
        if self.headers.get("Upgrade") == "SPDY/3.1":
            self.spdy()
        else:
            self.json({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 405}, 405)

    def watch(self):
        """An event now, one after a silence, then silence until the client has enough."""
        self.stream("application/json")
        for version, phase in ((2, "Pending"), (3, "Succeeded")):
            self.chunk(json.dumps({"type": "MODIFIED", "object": pod("web", phase, version)}).encode() + b"\n")
            time.sleep(1)
        self.server.stopped.wait(30)
        self.close_connection = True

    def follow(self):
        self.stream("text/plain")
        for number in range(5):
            self.chunk(b"line %d\n" % number)
            time.sleep(0.2)
        self.server.go.wait(30)
        self.chunk(b"the last one\n")
        self.wfile.write(b"0\r\n\r\n")

    def spdy(self):
        """What comes is sent back; its end is answered by an end."""
        self.send_response(101)
        self.send_header("Upgrade", "SPDY/3.1")
        self.send_header("Connection", "Upgrade")
        self.send_header("X-Stream-Protocol-Version", "v4.channel.k8s.io")
        self.end_headers()
        while data := self.rfile.read1(65536):
            self.wfile.write(data)
        self.wfile.write(b"end")
        self.close_connection = True

    def exec(self):
        """exec over WebSocket: standard input comes back as standard output, then the exit status."""
        if self.headers.get("Upgrade", "").lower() != "websocket":
            self.json({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 400}, 400)
            return
        key = self.headers["Sec-WebSocket-Key"] + WEBSOCKET_GUID
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.send_header("Sec-WebSocket-Protocol", "v5.channel.k8s.io")
        self.end_headers()
        if "stdin=true" not in self.path:
            self.frame(bytes([STDOUT]) + b"from the pod\n")
        while "stdin=true" in self.path:
            opcode, data = self.read_frame()
            if opcode == 8 or data[:2] == bytes([CLOSE, STDIN]):
                break
            if opcode == 2 and data[0] == STDIN and len(data) > 1:
                self.frame(bytes([STDOUT]) + data[1:])
        self.frame(bytes([ERROR]) + b'{"metadata":{},"status":"Success"}')
        self.frame(struct.pack(">H", 1000), 8)
        self.close_connection = True

    def read_frame(self):
        first, second = self.rfile.read(2)
        length = second & 0x7f
        if length >= 126:
            length = int.from_bytes(self.rfile.read(2 if length == 126 else 8), "big")
        mask = self.rfile.read(4)
        return first & 0xf, bytes(byte ^ mask[i % 4] for i, byte in enumerate(self.rfile.read(length)))

    def frame(self, data, opcode=2):
        length = bytes([len(data)]) if len(data) < 126 else struct.pack(">BH", 126, len(data))
        if len(data) > 65535:
            length = struct.pack(">BQ", 127, len(data))
        self.wfile.write(bytes([0x80 | opcode]) + length + data)
        self.wfile.flush()


class ApiServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []
        self.stopped, self.go = threading.Event(), threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def host(self):
        return "127.0.0.1:%d" % self.server_address[1]

    def close(self):
        self.stopped.set()
        self.go.set()
        self.shutdown()
        self.server_close()
