# SPDX-License-Identifier: Apache-2.0
"""TLS of proxied services: in, out, through; PROXY headers before it."""

import contextlib
import http.server
import json
import os
import re
import socket
import ssl
import struct
import threading

import pytest

import harness
import http1
from harness import digest_of, free_port, randomness
from tls_files import Authority

pytestmark = pytest.mark.skipif(harness.KIND != "fairlead", reason="tests Fairlead's own proxy")

MIB = 1 << 20
DATA = randomness("tls proxy").randbytes(5 * MIB + 77)


class Backend:
    """An HTTP/1.1 server that says what it saw; over TLS if it has a context."""

    def __init__(self, context=None, protocol="HTTP/1.1"):
        backend = self
        self.seen, self.resumed, self.lock = [], [], threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = protocol

            def do_GET(self):
                with backend.lock:
                    backend.seen.append(dict(self.headers.items()))
                    if context:
                        backend.resumed.append(self.connection.session_reused)
                body = DATA if self.path == "/data" else json.dumps(dict(self.headers.items())).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                if self.path == "/close":
                    self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = digest_of(body).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass

            def finish_request(self, request, address):
                if context:
                    request.settimeout(20)
                    request = context.wrap_socket(request, server_side=True)
                super().finish_request(request, address)

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class ProxyRegistry(harness.FairleadRegistry):
    """A node with proxied services; `services`: name -> (fields, backend port)."""

    def __init__(self, services, folder, ca):
        super().__init__(folder=folder, settings={"http.header_timeout": "3s", "kernel.enabled": False})
        self.services, self.ca = services, ca
        self.ports = {name: free_port() for name in services}
        self.own_port = free_port()
        self.services["h2"] = ({"backend.tls": True, "backend.ca": "ca", "backend.http": 2}, self.own_port)
        self.ports["h2"] = free_port()

    def config(self):
        rows = []
        for name, (fields, port) in self.services.items():
            row = {"name": name, "address": f"127.0.0.1:{self.ports[name]}", "path": "proxy", "kind": "http",
                   "check": {"kind": "none"}}
            for key, value in fields.items():
                group, _, leaf = key.partition(".")
                if leaf:
                    row.setdefault(group, {})[leaf] = value
                else:
                    row[key] = value
            row["backends"] = [{"address": f"127.0.0.1:{port}"}]
            rows.append(row)
        made = self.ca.folder
        config = super().config()
        config["listen"].append({"address": f"127.0.0.1:{self.own_port}", "service": "registry",
                                 "tls": {"certificates": ["front"]}})
        return {**config, "services": rows,
                "certificates": {"front": {"cert": str(made / "front.pem"), "key": str(made / "front.key")},
                                 "own": {"cert": str(made / "own.pem"), "key": str(made / "own.key")},
                                 "ca": {"ca": str(self.ca.cert)}}}

    def is_ready(self):
        if not super().is_ready():
            return False
        with contextlib.suppress(OSError):
            for port in self.ports.values():
                socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        return False

    def connect(self, name, tls=True, first=b"", client=None):
        raw = socket.create_connection(("127.0.0.1", self.ports[name]), timeout=20)
        raw.sendall(first)
        if not tls:
            return raw
        context = ssl.create_default_context(cafile=str(self.ca.cert))
        if client:
            context.load_cert_chain(self.ca.folder / f"{client}.pem", self.ca.folder / f"{client}.key")
        return context.wrap_socket(raw, server_hostname="front.test")


def ask(sock, target="/", method="GET", body=b"", more=""):
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    sock.sendall(f"{method} {target} HTTP/1.1\r\nHost: front.test\r\n{length}{more}\r\n".encode() + body)
    head = b""
    while b"\r\n\r\n" not in head:
        piece = sock.recv(65536)
        assert piece, head
        head += piece
    head, _, rest = head.partition(b"\r\n\r\n")
    body, length = bytearray(rest), int(re.search(rb"content-length: (\d+)", head, re.I)[1])
    while len(body) < length:
        piece = sock.recv(1 << 20)
        assert piece, f"{len(body)} of {length} bytes"
        body += piece
    return int(head.split()[1]), bytes(body)


def server_context(ca, name, asked=False):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca.folder / f"{name}.pem", ca.folder / f"{name}.key")
    if asked:
        context.load_verify_locations(str(ca.cert))
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls-proxy")
    ca = Authority(folder / "tls")
    ca.issue("front", "front.test", "127.0.0.1")
    ca.issue("back", "back.test", "127.0.0.1")
    ca.issue("own")
    ca.issue("person")
    stranger = Authority(folder / "other", "stranger")
    stranger.issue("back", "back.test", "127.0.0.1")
    with contextlib.ExitStack() as stack:
        backends = {"clear": Backend(), "tls": Backend(server_context(ca, "back")),
                    "asks": Backend(server_context(ca, "back", asked=True)),
                    "stranger": Backend(server_context(stranger, "back"))}
        for backend in backends.values():
            stack.callback(backend.close)
        front = {"tls.mode": "terminate", "tls.certificates": ["front"]}
        out = {"backend.tls": True, "backend.ca": "ca"}
        services = {
            "in": (front, "clear"),
            "asked": ({**front, "tls.client_auth": "optional", "tls.client_ca": "ca"}, "clear"),
            "out": (out, "tls"),
            "both": ({**front, **out}, "tls"),
            "named": ({**out, "backend.name": "back.test"}, "tls"),
            "misnamed": ({**out, "backend.name": "another.test"}, "tls"),
            "shows": ({**out, "backend.certificate": "own"}, "asks"),
            "strange": (out, "stranger"),
            "careless": ({**out, "backend.verify": False}, "stranger"),
            "through": ({"kind": "tcp", "tls.mode": "passthrough"}, "tls"),
            "tunnel": ({**front, "kind": "tcp"}, "clear"),
            "tunnel-out": ({**out, "kind": "tcp"}, "tls"),
            "header": ({"proxy_protocol": True}, "clear"),
            "header-tls": ({**front, "proxy_protocol": True}, "clear"),
        }
        registry = ProxyRegistry({n: (f, backends[b].port) for n, (f, b) in services.items()}, folder / "node", ca)
        registry.backends = backends
        stack.callback(registry.close)
        yield registry.start()


@pytest.mark.parametrize("name,tls", [("in", True), ("out", False), ("both", True), ("named", False), ("careless", False),
                                      ("shows", False), ("tunnel", True), ("tunnel-out", False)])
def test_both_directions(rig, name, tls):
    with rig.connect(name, tls) as sock:
        assert ask(sock, "/data") == (200, DATA)
        assert ask(sock, "/", "POST", DATA) == (200, digest_of(DATA).encode())
        assert ask(sock, "/data") == (200, DATA)


@pytest.mark.parametrize("name", ["misnamed", "strange"])
def test_backends_that_are_not_who_they_should_be(rig, name):
    with rig.connect(name, False) as sock:
        assert ask(sock)[0] in (502, 503)


def test_backend_sessions_are_resumed(rig):
    with rig.connect("out", False) as sock:
        for _ in range(4):
            assert ask(sock, "/close")[0] == 200
    assert True in rig.backends["tls"].resumed


def test_http2_over_tls_to_a_backend(rig):
    """The backend is this node's own registry, which agrees on h2 by ALPN."""
    digest = rig.repository("t/h2").push_blob(DATA)
    with rig.connect("h2", False) as sock:
        for _ in range(3):
            assert ask(sock, f"/v2/t/h2/blobs/{digest}") == (200, DATA)


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_a_client_that_sends_no_more_gets_its_answer(rig, version):
    """close_notify and FIN behind the request."""
    context = ssl.create_default_context(cafile=str(rig.ca.cert))
    context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(into, out, server_hostname="front.test")
    with socket.create_connection(("127.0.0.1", rig.ports["in"]), timeout=20) as sock:
        def step(call, *args):
            while True:
                try:
                    return call(*args)
                except ssl.SSLWantReadError:
                    if sending:
                        sock.sendall(out.read())
                    part = sock.recv(65536)
                    into.write(part) if part else into.write_eof()

        sending = True
        step(tls.do_handshake)
        tls.write(b"GET /data HTTP/1.1\r\nHost: front.test\r\n\r\n")
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.unwrap()
        sock.sendall(out.read())
        sock.shutdown(socket.SHUT_WR)
        sending = False
        got = b""
        with contextlib.suppress(ssl.SSLZeroReturnError):  # ended in order
            while True:
                got += step(tls.read, 65536)
    head, _, body = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ") and body == DATA


def test_passed_through(rig):
    raw = socket.create_connection(("127.0.0.1", rig.ports["through"]), timeout=20)
    with ssl.create_default_context(cafile=str(rig.ca.cert)).wrap_socket(raw, server_hostname="back.test") as tls:
        names = [value for kind, value in tls.getpeercert()["subjectAltName"] if kind == "DNS"]
        assert names == ["back.test"]
        assert ask(tls, "/data") == (200, DATA)


def test_hello_in_pieces_is_passed_through(rig):
    context = ssl.create_default_context(cafile=str(rig.ca.cert))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="back.test")
    with socket.create_connection(("127.0.0.1", rig.ports["through"]), timeout=20) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        hello = outgoing.read()
        for at in range(0, len(hello), 50):
            sock.sendall(hello[at:at + 50])
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                piece = sock.recv(65536)
                assert piece
                incoming.write(piece)


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x00", b"\x16\x03\x01\x02\x00\x01"])
def test_no_hello_reaches_no_backend(rig, garbage):
    with socket.create_connection(("127.0.0.1", rig.ports["through"]), timeout=20) as sock:
        with contextlib.suppress(OSError):
            sock.sendall(garbage)
            sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            assert sock.recv(100) == b""


V2 = b"\r\n\r\n\0\r\nQUIT\n"
HEADERS = {
    "v1": (b"PROXY TCP4 192.0.2.7 192.0.2.8 1111 443\r\n", "192.0.2.7"),
    "v1 six": (b"PROXY TCP6 2001:db8::7 2001:db8::8 1111 443\r\n", "2001:db8::7"),
    "unknown": (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    "v2": (V2 + b"\x21\x11" + struct.pack(">H", 12) + bytes([192, 0, 2, 7, 192, 0, 2, 8]) + struct.pack(">HH", 1111, 443),
           "192.0.2.7"),
    "v2 six": (V2 + b"\x21\x21" + struct.pack(">H", 36 + 5) + socket.inet_pton(socket.AF_INET6, "2001:db8::7") * 2 +
               struct.pack(">HH", 1111, 443) + b"\x04\0\2ab", "2001:db8::7"),
    "local": (V2 + b"\x20\0\0\0", "127.0.0.1"),
}


@pytest.mark.parametrize("kind", HEADERS)
@pytest.mark.parametrize("name,tls", [("header", False), ("header-tls", True)])
def test_proxy_header(rig, kind, name, tls):
    header, expected = HEADERS[kind]
    with rig.connect(name, tls, first=header) as sock:
        status, body = ask(sock)
        assert status == 200
        fields = {key.lower(): value for key, value in json.loads(body).items()}
        assert expected in fields["x-forwarded-for"], fields


def test_proxy_header_in_pieces(rig):
    header, expected = HEADERS["v1"]
    with socket.create_connection(("127.0.0.1", rig.ports["header"]), timeout=20) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(header)):
            sock.sendall(header[at:at + 1])
        assert expected.encode() in ask(sock)[1]


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", V2 + b"\x31\0\0\0",
                                   b"PROXY " + b"x" * 200])
def test_without_a_good_proxy_header(rig, first):
    with rig.connect("header", False, first=first) as sock, contextlib.suppress(ConnectionError):
        assert sock.recv(100) == b""


def test_clients_certificate_is_passed_on(rig):
    spoofed = "Client-Cert: :AAAA:\r\nX-Client-Cert-Subject: CN=root\r\n"
    with rig.connect("asked", client="person") as sock:
        fields = {key.lower(): value for key, value in json.loads(ask(sock, more=spoofed)[1]).items()}
    der = ssl.PEM_cert_to_DER_cert((rig.ca.folder / "person.pem").read_text())
    import base64
    assert fields["client-cert"] == ":" + base64.b64encode(der).decode() + ":"
    assert "root" not in json.dumps(fields)
    with rig.connect("asked") as sock:
        fields = {key.lower(): value for key, value in json.loads(ask(sock, more=spoofed)[1]).items()}
    assert "client-cert" not in fields and "root" not in json.dumps(fields)
