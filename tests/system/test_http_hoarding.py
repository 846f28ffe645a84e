# SPDX-License-Identifier: Apache-2.0
"""Clients that keep what others need: buffers, turns. The data plane has one ring here, so whoever is held up by them is
seen; time limits are so long that only the rules about memory help."""

import contextlib
import json
import socket
import ssl

import pytest

import harness
import http1
import http2
from harness import KIND, free_port, randomness
from tls_files import Authority

MIB = 1 << 20
BODY_BUFFERS = 128  # of one ring, 256 KiB each
RECEIVE_BUFFERS = 512  # of one ring
pytestmark = pytest.mark.skipif(KIND != "fairlead", reason="about this server's memory")

PATIENT = {name: 600000 for name in ("http.header_timeout", "http.body_timeout", "http.send_timeout",
                                     "http.body_rate_grace")}


class OneRing(harness.FairleadRegistry):
    def config(self):
        return super().config() | {"dataplane": {"rings": 1}}


@pytest.fixture
def registry():
    instance = OneRing(settings=PATIENT)
    try:
        yield instance.start()
    finally:
        instance.close()


def check_others_are_served(registry, blob):
    client = http1.Client(registry.address, timeout_s=20)
    assert client.exchange("GET", "/v2/").status == 200
    repo = harness.Repository(client, "hoarding/others")
    repo.push_blob(randomness("others").randbytes(MIB))
    assert len(registry.repository("hoarding/x").blob(blob).body) == 8 * MIB


@pytest.mark.parametrize("behind", [10, 900, 1500, 3000], ids=lambda n: f"{n} bytes behind")
def test_pipelined_requests_of_clients_that_do_not_read(registry, behind):
    """What came behind a request waits in memory that every connection has, not in the receive buffers of all."""
    repo = registry.repository("hoarding/x")
    blob = repo.push_blob(bytes(8 * MIB))
    get = f"GET {repo.target('blobs/' + blob)} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    more = (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Long: " + b"y" * 3000)[:behind]
    with contextlib.ExitStack() as stack:
        stalled = []
        for _ in range(RECEIVE_BUFFERS + 100):
            connection = stack.enter_context(registry.client.connect(receive_buffer_bytes=4096))
            connection.send(get + more)
            stalled.append(connection)
        for connection in stalled:
            assert connection.sock.recv(1, socket.MSG_PEEK)  # its request is at work
        check_others_are_served(registry, blob)
        # Nothing of what waited is lost: the rest of the second request comes, and both are answered.
        stalled[0].send(b"\r\n\r\n" if behind > 40 else b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n"[behind:])
        assert len(stalled[0].response().body) == 8 * MIB
        assert stalled[0].response().status == 200


def test_bodies_that_stop_at_the_end_of_a_buffer(registry):
    """The buffer that such a client would fill next is not kept for it, and who waits in line is not called slow."""
    repo = registry.repository("hoarding/x")
    blob = repo.push_blob(bytes(8 * MIB))
    with contextlib.ExitStack() as stack:
        stalled = []
        for _ in range(BODY_BUFFERS + 12):
            location = http1.target_of(repo.start_upload().header("Location"))
            connection = stack.enter_context(registry.client.connect())
            connection.send(connection.head("PATCH", location, {"Content-Length": str(MIB)}) + bytes(MIB // 4))
            stalled.append((connection, location))
        for _, location in stalled:
            # The session is at work on what it got: the last of them has come so far.
            assert repo.client.exchange("GET", location).status == 409
        check_others_are_served(registry, blob)
        stalled[0][0].send(bytes(MIB - MIB // 4))
        assert stalled[0][0].response().status == 202


class OneRingTls(OneRing):
    """With an address that speaks TLS in user space: blobs go through the ring's buffers."""

    def __init__(self, **options):
        super().__init__(**options)
        self.tls_port = free_port()
        self.certificate = Authority(self.folder / "tls").issue("one", "one.test", "127.0.0.1")

    def config(self):
        config = super().config()
        config["listen"].append({"address": f"127.0.0.1:{self.tls_port}", "service": "registry",
                                 "tls": {"certificates": ["one"]}})
        return config | {"certificates": {"one": self.certificate}}

    def tls_connection(self, receive_buffer_bytes=None):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        raw = socket.socket()
        if receive_buffer_bytes:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        raw.settimeout(60)
        raw.connect(("127.0.0.1", self.tls_port))
        return context.wrap_socket(raw)


def test_pulls_by_tls_of_clients_that_do_not_read():
    """Their pieces are read again when there is room in the socket: the buffers are for who makes progress."""
    registry = OneRingTls(settings=PATIENT | {"http.idle_timeout": 600000})
    try:
        registry.start()
        data = randomness("tls").randbytes(8 * MIB)
        blob = registry.repository("hoarding/x").push_blob(data)
        request = f"GET /v2/hoarding/x/blobs/{blob} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        with contextlib.ExitStack() as stack:
            stalled = [stack.enter_context(registry.tls_connection(4096)) for _ in range(BODY_BUFFERS + 22)]
            for connection in stalled:
                connection.sendall(request)
            for connection in stalled:
                assert connection.recv(1) == b"H"
            check_others_are_served(registry, blob)
            with registry.tls_connection() as connection:
                connection.sendall(request)
                assert received(connection, len(data)) == data
            assert received(stalled[-1], MIB // 2) == data[:MIB // 2], "what was let go of comes again"
    finally:
        registry.close()


def received(connection, size):
    """The first bytes of an answer's body."""
    got = bytearray()
    while b"\r\n\r\n" not in got or len(got) < got.find(b"\r\n\r\n") + 4 + size:
        part = connection.recv(1 << 20)
        assert part, len(got)
        got += part
    return bytes(got.partition(b"\r\n\r\n")[2][:size])


def test_streams_without_window(registry):
    """HTTP/2 clients that let no byte of their answers come: two sessions hold as many streams as a ring has buffers."""
    repo = registry.repository("hoarding/x")
    blob = repo.push_blob(bytes(8 * MIB))
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            session = stack.enter_context(http2.Session(registry.address, settings=[(4, 0)]))  # INITIAL_WINDOW_SIZE
            streams = [session.request("GET", repo.target(f"blobs/{blob}")) for _ in range(100)]
            assert session.exchange("HEAD", "/v2/").status == 200, "the others were asked for before"
            assert len(streams) == 100
        check_others_are_served(registry, blob)


def test_last_request_of_a_connection_is_answered_before_it_closes(registry):
    """Requests beyond http.requests_max, sent already, do not destroy the answers to those before."""
    registry.close()
    registry = OneRing(settings={"http.requests_max": 3})
    try:
        registry.start()
        with registry.client.connect() as connection:
            ping = connection.head("GET", "/v2/")
            connection.send(ping * 3 + ping * 200)
            answers = [connection.response() for _ in range(3)]
            assert [answer.status for answer in answers] == [200] * 3
            assert [answer.closes() for answer in answers] == [False, False, True]
            assert connection.read_to_end() == b""  # and no reset
    finally:
        registry.close()


def test_access_log_of_texts_that_grow(registry):
    """What a client sends is escaped; however much that makes of it, a line is one JSON object."""
    with registry.client.connect() as connection:
        target = "/v2/" + "!$&'()*+,;=:@-._~" * 60
        connection.send(b"GET " + target.encode() + b" HTTP/1.1\r\nHost: x\r\nUser-Agent: " + b"\xff\"\\" * 300
                        + b"\r\n\r\n")
        assert connection.response().status == 404
    log = registry.folder / "access.log"
    assert http1.wait_until(lambda: '"target":"/v2/!' in log.read_text())
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert any(line["target"].startswith("/v2/!$&") and "\xff" in line["user_agent"] for line in lines)
