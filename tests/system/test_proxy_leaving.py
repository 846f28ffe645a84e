# SPDX-License-Identifier: Apache-2.0
"""A backend that takes no more of a request's body and then fails: the connection is given up while the pump still has
bytes on their way to it, and nobody but this one client notices."""

import contextlib
import select
import socket
import ssl
import time

import hpack
import pytest

import harness
import http2
from proxy_rig import Client, Ring
from tls_files import Authority

BODY = 64 << 20
STUCK_LEAST = 2 << 20  # by then all between client and backend is full, or will be in a moment
KINDS = {"clear": {}, "tls": {"backend_tls": 1, "tls__kernel": 0}, "h2": {"backend_http": 2},
         "h2-tls": {"backend_http": 2, "backend_tls": 1, "tls__kernel": 0}}
H1_FAULTS = {"bad head": b"nonsense\r\n\r\n", "bad length": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
             "unasked 101": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
             "flood": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 33}
H2_FAULTS = {"bad head": ["nonsense"], "unasked 101": ["101"], "flood": ["103"] * 33}


class Sink:
    """Reads a request's head and nothing else; fail() says what comes then."""

    def __init__(self, h2, context):
        self.h2, self.context = h2, context
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(16)
        self.listener.settimeout(30)
        self.address = self.listener.getsockname()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()

    def accept(self):
        self.sock, _ = self.listener.accept()
        self.sock.settimeout(30)
        if self.context:
            self.sock = self.context.wrap_socket(self.sock, server_side=True)
        if self.h2:
            self.sock.sendall(http2.frame(http2.SETTINGS))
        self.sock.recv(100)

    def fail(self, fault):
        if fault != "end":
            statuses = H2_FAULTS.get(fault)
            encoder = hpack.Encoder()
            self.sock.sendall(H1_FAULTS[fault] if not self.h2 else b"".join(
                http2.frame(http2.HEADERS, http2.END_HEADERS, 1, encoder.encode([(":status", status)])) for status in statuses))
            return
        if self.context:
            self.sock.setblocking(False)
            with contextlib.suppress(OSError):
                self.sock.unwrap()  # close_notify; that of the other side is not waited for
        socket.socket.shutdown(self.sock, socket.SHUT_WR)


def send_until_stuck(sock):
    """All that the connection takes: more than its own buffers, and then no more for a while."""
    piece, sent, end = bytes(1 << 16), 0, time.monotonic() + 60
    sock.setblocking(False)
    while select.select([], [sock], [], 1 if harness.SANITIZED else 0.15)[1] or sent < STUCK_LEAST:
        assert time.monotonic() < end, sent
        with contextlib.suppress(BlockingIOError):
            sent += sock.send(piece)
    sock.setblocking(True)
    sock.settimeout(30)


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    ca = Authority(tmp_path_factory.mktemp("leaving"))
    ca.issue("back", "127.0.0.1")
    made = {}
    for protocol in ("http/1.1", "h2"):
        context = made[protocol] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(ca.folder / "back.pem", ca.folder / "back.key")
        context.set_alpn_protocols([protocol])
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_a_backend_that_fails_while_it_is_sent_a_body(contexts, kind):
    h2 = kind.startswith("h2")
    context = contexts["h2" if h2 else "http/1.1"] if "tls" in kind else None
    with Sink(h2, context) as sink, Ring(sink.address, retries=0, **KINDS[kind]) as ring:
        for count, fault in enumerate(["down", "end", *(H2_FAULTS if h2 else H1_FAULTS)], 1):
            with Client(ring) as client:
                client.ask("/x", method="POST", fields=[f"Content-Length: {BODY}"])
                sink.accept()
                send_until_stuck(client.sock)
                if fault == "down":
                    ring.verdict(sink.address, "down")
                else:
                    sink.fail(fault)
                status = 103
                while status == 103:
                    status = client.head()[0]
                assert status == 502, fault
                ring.wait_counter("proxy_unanswered_total", count)
            ring.wait_counter("streams_open", 0)
            ring.wait_counter("upstream_connections_open", 0 if not h2 or fault == "end" else lambda n: n <= 1)
            ring.verdict(sink.address, "up")
            sink.sock.close()
            ring.wait_counter("upstream_connections_open", 0)
