# SPDX-License-Identifier: Apache-2.0
"""Bodies that come to a halt and that no other backend can go on with: they are broken off when the kernel calls the backend
down, or after proxy.body_timeout, and never end as if they were whole."""

import contextlib
import socket

import pytest

from proxy_rig import Backend, Client, Ring, read_body

BEGINS = {"length": b"Content-Length: 1000\r\n\r\nhello", "chunked": b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
          "close": b"Connection: close\r\n\r\nhello"}


def halting(backend, sock, file, first, fields, rest):
    """The beginning of a body; its end when the test says so. In the path: the framing, the Content-Type."""
    framing, _, media = rest.partition("/")
    framing, media = (framing, media) if framing in BEGINS else ("chunked", "text/plain")
    read_body(file, fields)
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n" % media.encode() + BEGINS[framing])
    backend.standing[first.split()[1]] = sock
    sock.settimeout(60)
    with contextlib.suppress(OSError):
        return bool(sock.recv(1, socket.MSG_PEEK))


@pytest.fixture
def backend():
    with Backend(x=halting, containers=halting) as backend:
        backend.standing = {}
        yield backend


def begun(client, path, **more):
    """A request whose answer's first bytes are here."""
    client.ask(path, **more)
    status, fields = client.head()
    assert status == 200
    first = client.file.readline() if ("transfer-encoding", "chunked") in [(n.lower(), v) for n, v in fields] else b""
    assert client.file.read(5) == b"hello", first


def assert_broken(client):
    """Neither the last chunk comes nor as many bytes as were promised."""
    more = b""
    with contextlib.suppress(ConnectionResetError):
        more = client.file.read()
    assert b"0\r\n\r\n" not in more and len(more) < 995, more


def test_a_backend_that_goes_down_while_its_body_stands_still(backend):
    with contextlib.ExitStack() as stack:
        ring = stack.enter_context(Ring(backend.address, kind="docker", proxy__body_timeout=0, resumes_max=3))
        clients = []
        for method in ("GET", "POST"):
            for path in [f"/x/{framing}" for framing in BEGINS] + ["/containers/a/logs?follow=1"]:
                client = stack.enter_context(Client(ring))
                begun(client, path, method=method, body=b"a" * 9000 if method == "POST" else b"",
                      fields=["Content-Length: 9000"] if method == "POST" else [])
                clients.append(client)
        assert ring.counters()["streams_open"] == len(clients)
        ring.verdict(backend.address, "down")
        for client in clients:
            assert_broken(client)
        ring.wait_counter("closed_backend_down", len(clients))
        assert ring.counters()["proxy_cut_total"] == len(clients)


def test_a_body_in_which_nothing_comes_for_too_long(backend):
    long_lived = ["/containers/a/logs?follow=1", "/x/chunked/text/event-stream"]
    with contextlib.ExitStack() as stack:
        ring = stack.enter_context(Ring(backend.address, kind="docker", proxy__body_timeout=500))
        kept = [stack.enter_context(Client(ring)) for _ in long_lived]
        for client, path in zip(kept, long_lived):
            begun(client, path)
        for framing in BEGINS:
            client = stack.enter_context(Client(ring))
            begun(client, f"/x/{framing}/text/plain")
            assert_broken(client)
        ring.wait_counter("closed_backend_silent", len(BEGINS))
        for client, path in zip(kept, long_lived):
            backend.standing[path].sendall(b"5\r\nhello\r\n" + b"0\r\n\r\n")
            assert client.file.readline() == b"\r\n" and client.file.read(15) == b"5\r\nhello\r\n0\r\n\r\n"
        ring.wait_counter("streams_open", 0)
