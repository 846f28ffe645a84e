# SPDX-License-Identifier: Apache-2.0
"""Services of kind tcp: what goes in on one side comes out on the other, both ways, half-closes included; what breaks on
one side is broken on the other."""

import collections
import concurrent.futures
import contextlib
import json
import os
import random
import select
import socket
import socketserver
import struct
import tempfile
import threading

import pytest

import harness
import http1

pytestmark = pytest.mark.skipif(harness.KIND != "fairlead", reason="tests Fairlead's own proxy")

TECHNIQUES = ("auto", "splice", "copy")
TUNNELS = 500
FILE, HUGE = 16 << 20, (4 << 30) + 12345


class Backend(socketserver.ThreadingTCPServer):
    """What it does with a connection is the first byte's choice:
    e: sends everything back, ends when the client has ended
    s: says what it counted, once the client has ended (the half-close is kept)
    f: sends 3 MB and closes
    r: reads a byte, sends 1000 bytes and resets
    h: sends a file again and again, HUGE bytes in all, and a mark behind them
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 2000

    def __init__(self, name):
        super().__init__(("127.0.0.1", 0), Handler)
        self.name = name
        self.port = self.server_address[1]
        self.seen = 0
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()

    def close(self):
        self.shutdown()
        self.server_close()


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        self.server.seen += 1
        with contextlib.suppress(OSError):
            what = self.request.recv(1)
            {b"e": self.echo, b"s": self.count, b"f": self.fill, b"r": self.reset, b"h": self.huge}.get(what, lambda: None)()

    def echo(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)

    def count(self):
        total = 0
        while data := self.request.recv(65536):
            total += len(data)
        self.request.sendall(b"%s got %d" % (self.server.name.encode(), total))

    def fill(self):
        self.request.sendall(pattern(3_000_000))

    def huge(self):
        with tempfile.TemporaryFile() as file:
            file.truncate(FILE)
            at = 0
            while at < HUGE:
                part = min(FILE - at % FILE, HUGE - at)
                at += os.sendfile(self.request.fileno(), file.fileno(), at % FILE, part)
        self.request.sendall(b"mark")

    def reset(self):
        self.request.recv(1)
        self.request.sendall(pattern(1000))
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.request.close()


def pattern(size, seed=1):
    return random.Random(seed).randbytes(size)


class Node(harness.FairleadRegistry):
    def __init__(self, backends, **fields):
        super().__init__(settings={"kernel.enabled": False})
        self.front_port = harness.free_port()
        self.backends, self.fields = backends, fields

    def config(self):
        entry = {"name": "t", "address": f"127.0.0.1:{self.front_port}", "kind": "tcp", "path": "proxy", "steer": False,
                 **self.fields,
                 "backends": [{"name": name, "address": address} for name, address in self.backends]}
        return {**super().config(), "services": [entry]}

    def is_ready(self):
        if not super().is_ready():
            return False
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.front_port), 1).close()
            return True
        return False

    def connect(self):
        sock = socket.create_connection(("127.0.0.1", self.front_port), 30)
        sock.settimeout(30)
        return sock

    def lines(self):
        """What the access log says of tunnels."""
        text = (self.folder / "access.log").read_text().rpartition("\n")[0].splitlines()  # the last one may be half written
        return [line for line in map(json.loads, text) if line.get("service") == "t" and line["bytes_in"]]

    def tunnels_open(self):
        answer = http1.Client(("127.0.0.1", self.admin_port)).exchange("GET", "/metrics")
        assert answer.status == 200
        rows = (line.rsplit(b" ", 1) for line in answer.body.splitlines() if line.startswith(b"fairlead_tunnels_open"))
        return sum(float(value) for _, value in rows)


def received(sock):
    parts = []
    while data := sock.recv(65536):
        parts.append(data)
    return b"".join(parts)


@pytest.fixture(params=TECHNIQUES)
def node(request):
    with contextlib.ExitStack() as stack:
        backend = Backend("one")
        stack.callback(backend.close)
        instance = Node([("one", f"127.0.0.1:{backend.port}")], technique=request.param)
        stack.callback(instance.close)
        instance.technique = request.param
        yield instance.start()


@contextlib.contextmanager
def one_backend(settings=None, **fields):
    with contextlib.ExitStack() as stack:
        backend = Backend("one")
        stack.callback(backend.close)
        node = Node([("one", f"127.0.0.1:{backend.port}")], **fields)
        node.settings.update(settings or {})
        stack.callback(node.close)
        yield node.start()


def test_half_close_of_the_client(node):
    with node.connect() as sock:
        sock.sendall(b"s" + pattern(2_000_000))
        sock.shutdown(socket.SHUT_WR)
        assert received(sock) == b"one got 2000000"


def test_echo_and_log(node):
    data = pattern(3_000_000)
    with node.connect() as sock, concurrent.futures.ThreadPoolExecutor() as pool:
        answer = pool.submit(received, sock)
        sock.sendall(b"e" + data)
        sock.shutdown(socket.SHUT_WR)
        assert answer.result(60) == data
    assert http1.wait_until(node.lines, 20)
    line = node.lines()[0]
    assert line["bytes_in"] == 3_000_001 and line["bytes_out"] == 3_000_000
    assert (line["close"], line["backend"], line["attempts"]) == ("tunnel_end", "one", 1)
    assert line["technique"] in {"auto": ("mixed", "splice"), "splice": ("splice",), "copy": ("copy",)}[node.technique]


def test_server_ends_first(node):
    with node.connect() as sock:
        sock.sendall(b"f")
        assert received(sock) == pattern(3_000_000)


def test_reset_of_the_backend(node):
    with node.connect() as sock:
        sock.sendall(b"rx")
        with pytest.raises(ConnectionResetError):
            received(sock)
            pytest.fail("an end was made of a reset")
    assert http1.wait_until(node.lines, 20)
    assert node.lines()[0]["close"] == "backend_lost"


@pytest.mark.slow
def test_more_than_4_gib():
    """Counts are wide enough, and no single step is asked for more than it can do."""
    with one_backend(technique="splice") as node, node.connect() as sock:
        sock.sendall(b"h")
        drop, total = bytearray(1 << 20), 0
        while total < HUGE:  # the kernel drops what it is asked to truncate
            n = sock.recv_into(drop, min(len(drop), HUGE - total), socket.MSG_TRUNC)
            assert n > 0
            total += n
        assert received(sock) == b"mark"
        sock.close()
        assert http1.wait_until(node.lines, 20)
        assert node.lines()[0]["bytes_out"] == HUGE + 4


def test_many(node):
    """All open at the same time, each with bytes of its own; nothing of theirs is left behind."""
    def talk(sock, i, size):
        data = pattern(size, i)
        sock.sendall(data)
        got = b""
        while len(got) < size:
            part = sock.recv(65536)
            assert part, "ended early"
            got += part
        assert got == data

    with contextlib.ExitStack() as stack, concurrent.futures.ThreadPoolExecutor(16) as pool:
        socks = [stack.enter_context(node.connect()) for _ in range(TUNNELS)]
        for sock in socks:
            sock.sendall(b"e")
        for size in (1, 100, 20000, 3):
            list(pool.map(talk, socks, range(TUNNELS), [size] * TUNNELS))
        assert node.tunnels_open() == TUNNELS
    assert http1.wait_until(lambda: node.tunnels_open() == 0, 30)


def test_a_slow_reader_holds_up_nobody(node):
    with node.connect() as slow:
        slow.sendall(b"f")
        for _ in range(3):
            with node.connect() as quick:
                quick.sendall(b"s" + pattern(500_000))
                quick.shutdown(socket.SHUT_WR)
                assert received(quick) == b"one got 500000"
        assert received(slow) == pattern(3_000_000)


def test_another_backend_where_one_refuses():
    with contextlib.ExitStack() as stack:
        good = Backend("good")
        stack.callback(good.close)
        node = Node([("dead", f"127.0.0.1:{harness.free_port()}"), ("good", f"127.0.0.1:{good.port}")])
        stack.callback(node.close)
        node.start()
        for _ in range(20):
            with node.connect() as sock:
                sock.sendall(b"s123")
                sock.shutdown(socket.SHUT_WR)
                assert received(sock) == b"good got 3"
        assert http1.wait_until(lambda: len(node.lines()) == 20, 20)
        assert max(line["attempts"] for line in node.lines()) == 2


def test_nobody_there():
    """Refused, and not ended as if there had been an answer."""
    with contextlib.closing(Node([("dead", f"127.0.0.1:{harness.free_port()}")])) as node:
        node.start()
        with pytest.raises(ConnectionResetError), node.connect() as sock:
            received(sock)
            pytest.fail("an end without an answer")


def test_idle_timeout():
    with one_backend(idle_timeout="1s") as node:
        with node.connect() as sock:
            sock.sendall(b"e1")
            assert sock.recv(1) == b"1"
            with pytest.raises(ConnectionResetError):
                received(sock)
        assert http1.wait_until(node.lines, 20)
        assert node.lines()[0]["close"] == "tunnel_idle"


def test_tunnels_max():
    """One more than there may be is closed; the others go on."""
    per_ring = 16
    with one_backend({"proxy.tunnels_max": per_ring}) as node, contextlib.ExitStack() as stack:
        open_ones, refused = [], 0
        for _ in range(per_ring * 64):
            try:
                sock = stack.enter_context(node.connect())
                sock.sendall(b"e1")
                if sock.recv(1) == b"1":
                    open_ones.append(sock)
                else:
                    refused += 1
            except ConnectionResetError:
                refused += 1
            if refused >= 5:
                break
        assert refused
        for sock in open_ones[:8]:
            sock.sendall(b"2")
            assert sock.recv(1) == b"2"


def test_queue():
    """With one tunnel a ring at a time, the others wait for their turn, and all have it."""
    with one_backend(backend={"requests_max": 1}, queue={"max": 1000, "timeout": "1m"}) as node, \
            contextlib.ExitStack() as stack:
        waiting = {stack.enter_context(node.connect()) for _ in range(4 * os.cpu_count())}
        for sock in waiting:
            sock.sendall(b"e1")
        while waiting:
            ready, _, _ = select.select(waiting, (), (), 30)
            assert ready, f"{len(waiting)} wait in vain"
            for sock in ready:
                assert sock.recv(1) == b"1"
                sock.close()
            waiting -= set(ready)


def test_no_queue():
    with one_backend(backend={"requests_max": 1}, queue={"max": 0}) as node, contextlib.ExitStack() as stack:
        answers = collections.Counter()
        for _ in range(4 * os.cpu_count()):
            try:
                sock = stack.enter_context(node.connect())
                sock.sendall(b"e1")
                answers[sock.recv(1)] += 1
            except ConnectionResetError:
                answers["reset"] += 1
        assert set(answers) == {b"1", "reset"} and answers[b"1"] <= os.cpu_count()


def test_stop_waits_and_then_breaks():
    with one_backend({"http.drain_timeout": 1500}) as node, node.connect() as ends, node.connect() as stays:
        for sock in (ends, stays):
            sock.sendall(b"e1")
            assert sock.recv(1) == b"1"
        with concurrent.futures.ThreadPoolExecutor() as pool:
            stopped = pool.submit(node.stop)
            ends.sendall(b"2")
            assert ends.recv(1) == b"2"
            ends.shutdown(socket.SHUT_WR)
            assert ends.recv(1) == b""
            with pytest.raises(ConnectionResetError):
                received(stays)
            stopped.result(60)


@pytest.mark.parametrize("version", ("1", "2"))
def test_proxy_header_in_and_out(version):
    """Whose connection it is comes in with a header, and goes on with another one."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(30)
        node = Node([("one", "127.0.0.1:%d" % listener.getsockname()[1])], proxy_protocol=True,
                    **{"backend": {"proxy_protocol": version}})
        stack.callback(node.close)
        node.start()
        sock = stack.enter_context(node.connect())
        sock.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.8 1234 80\r\nhello")
        sock.shutdown(socket.SHUT_WR)
        got = received(listener.accept()[0])
        if version == "1":
            assert got.startswith(b"PROXY TCP4 192.0.2.7 127.0.0.1 1234 ") and got.endswith(b"\r\nhello")
        else:
            assert got[:16] == b"\r\n\r\n\0\r\nQUIT\n" + bytes((0x21, 0x11, 0, 12))
            assert got[16:20] == socket.inet_aton("192.0.2.7") and got[28:] == b"hello"
