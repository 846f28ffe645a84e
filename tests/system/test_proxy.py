# SPDX-License-Identifier: Apache-2.0
"""The proxied exchange: bodies of every framing, both ways, over each technique; connections kept; what is passed on."""

import os
import socket
import threading
import time

import pytest

from http1 import wait_until
from proxy_rig import Backend, Client, Ring, chunked, field, pattern, read_body, read_head, reset

SIZES = [0, 1, 1000, 4000, 70000, 3 << 20]


@pytest.fixture(params=["splice", "copy"])
def technique(request):
    return request.param


@pytest.fixture
def rig(technique):
    with Backend() as backend, Ring(backend.address, technique=technique) as ring:
        yield ring, backend


# ---------------------------------------------------------------- bodies


@pytest.mark.parametrize("size", SIZES)
def test_length(rig, size):
    ring, backend = rig
    with Client(ring) as client:
        for _ in range(3):
            status, fields, content, _ = client.get(f"/length/{size}")
            assert (status, content) == (200, pattern(size))
            assert field(fields, "X-Backend") == "1" and field(fields, "Content-Length") == str(size)
    assert backend.connections == 1


@pytest.mark.parametrize("chunk", [1, 100, 5000, 300000])
@pytest.mark.parametrize("size", [0, 1, 4000, 1 << 20])
def test_chunked(rig, size, chunk):
    if size // chunk > 20000:
        pytest.skip("slow in Python alone")
    ring, backend = rig
    with Client(ring) as client:
        for _ in range(2):
            status, fields, content, trailers = client.get(f"/chunked/{size}/{chunk}")
            assert (status, content, trailers) == (200, pattern(size), [("X-Sum", str(size))])
            assert field(fields, "Content-Length") is None
    assert backend.connections == 1


@pytest.mark.parametrize("word", ["close", "old"])
@pytest.mark.parametrize("size", SIZES)
def test_until_close_becomes_chunked(rig, word, size):
    ring, backend = rig
    with Client(ring) as client:
        for _ in range(2):
            status, fields, content, _ = client.get(f"/{word}/{size}")
            assert (status, content) == (200, pattern(size))
            assert field(fields, "Transfer-Encoding") == "chunked" and field(fields, "Connection") is None
    assert backend.connections == 2


@pytest.mark.parametrize("path", ["/length/70000", "/chunked/70000/5000", "/old/70000"])
def test_old_client(rig, path):
    """HTTP/1.0 knows no chunks: the end of the connection is the end of the body."""
    ring, _ = rig
    with Client(ring) as client:
        client.send(f"GET {path} HTTP/1.0\r\n\r\n")
        status, fields, content, _ = client.answer()
        assert (status, content) == (200, pattern(70000))
        assert field(fields, "Transfer-Encoding") is None
        assert client.ended() == "fin"


@pytest.mark.parametrize("size", SIZES)
def test_request_of_length(rig, size):
    ring, backend = rig
    content = pattern(size, seed=3)
    with Client(ring) as client:
        for method in ("POST", "PUT"):
            got = client.get("/echo", method=method, fields=[f"Content-Length: {size}"], body=content)
            assert (got[0], got[2]) == (200, content)
    assert backend.connections == 1


@pytest.mark.parametrize("size", SIZES)
def test_request_in_chunks(rig, size):
    ring, backend = rig
    content = pattern(size, seed=3)
    body = chunked(content, 60000)[:-2] + b"X-T: 1\r\n\r\n"
    with Client(ring) as client:
        for _ in range(2):
            client.ask("/echo-chunked", method="POST", fields=["Transfer-Encoding: chunked", "Trailer: X-T"], body=body)
            status, _, got, trailers = client.answer()
            assert (status, got, trailers) == (200, content, [("X-T", "1")])
    assert backend.connections == 1


def test_body_in_pieces(rig):
    """The body comes in any pieces, some of them with the head."""
    ring, _ = rig
    content = pattern(20000)
    for first in (0, 1, 3000, 9000, 19999):
        with Client(ring) as client:
            client.ask("/echo", method="POST", fields=["Content-Length: 20000"], body=content[:first])
            time.sleep(0.02)
            client.send(content[first:])
            assert client.answer()[2] == content


def test_head_and_bodyless(rig):
    ring, backend = rig
    with Client(ring) as client:
        status, fields, _, _ = client.get("/length/5000", method="HEAD")
        assert (status, field(fields, "Content-Length")) == (200, "5000")
        status, fields, _, _ = client.get("/chunked/5000/100", method="HEAD")
        assert status == 200 and field(fields, "Content-Length") is None
        for code in (204, 304, 200):
            status, fields, content, _ = client.get(f"/status/{code}")
            assert (status, content) == (code, b"")
            assert field(fields, "Content-Length") == ("0" if code == 200 else None)
        assert client.get("/length/10")[2] == pattern(10)
    assert backend.connections == 1


def test_pipelined(rig):
    ring, backend = rig
    one = "GET /length/%d HTTP/1.1\r\nHost: a\r\n\r\n"
    with Client(ring) as client:
        client.send("".join(one % n for n in range(100, 130)))
        for n in range(100, 130):
            assert client.answer()[2] == pattern(n)
        body = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"x" * 9000, 4096)
        client.send(body * 3 + (one % 7).encode())
        for _ in range(3):
            assert client.answer()[2] == b"x" * 9000
        assert client.answer()[2] == pattern(7)
    assert backend.connections == 1


# ---------------------------------------------------------------- what is passed on


def test_what_the_backend_sees(rig):
    ring, backend = rig
    with Client(ring) as client:
        client.get("/length/1", fields=["X-A: 1", "Connection: x-hop, close", "X-Hop: 1", "X-A: 2", "TE: trailers",
                                        "X-Forwarded-For: 6.6.6.6", "Upgrade: tcp", "Keep-Alive: 1"])
        assert client.ended() == "fin"
    first, fields, _ = backend.requests[0]
    assert first == "GET /length/1 HTTP/1.1"
    assert field(fields, "Host") == "front.example:8080"
    assert [v for n, v in fields if n == "X-A"] == ["1", "2"]
    assert field(fields, "X-Forwarded-For") == "127.0.0.1" and field(fields, "X-Forwarded-Proto") == "http"
    assert field(fields, "X-Forwarded-Port") == str(ring.port)
    assert [v for n, v in fields if n == "Connection"] == ["TE"]
    for gone in ("X-Hop", "Upgrade", "Keep-Alive"):
        assert field(fields, gone) is None
    line = ring.lines()[0]
    assert field(fields, "X-Request-Id") == line["id"] and line["upstream"] == "127.0.0.1:%d" % backend.address[1]


def test_location_is_the_clients(technique):
    def redirect(backend, sock, file, first, fields, rest):
        address = "127.0.0.1:%d" % backend.address[1]
        sock.sendall((f"HTTP/1.1 301 Moved\r\nLocation: http://{address}/x\r\nContent-Length: 0\r\n"
                      f"WWW-Authenticate: Bearer realm=\"http://{address}/token\"\r\n\r\n").encode())
        return True

    with Backend(go=redirect) as backend, Ring(backend.address, technique=technique) as ring, Client(ring) as client:
        _, fields, _, _ = client.get("/go")
        assert field(fields, "Location") == "http://front.example:8080/x"
        assert field(fields, "WWW-Authenticate") == 'Bearer realm="http://front.example:8080/token"'


def test_location_outside_a_trusted_balancer():
    """One that ends TLS before us: its clients are at https, and may know the service by another name."""
    def redirect(backend, sock, file, first, fields, rest):
        sock.sendall(b"HTTP/1.1 202 Accepted\r\nLocation: https://front.example:8080/upload\r\nContent-Length: 0\r\n\r\n")
        return True

    for trust, said, seen in ((1, {"X-Forwarded-Proto": "https"}, "https://front.example:8080/upload"),
                              (1, {"X-Forwarded-Proto": "https, http", "X-Forwarded-Host": "hub.example"}, "https://hub.example/upload"),
                              (1, {"X-Forwarded-Proto": "javascript"}, "http://front.example:8080/upload"),
                              (0, {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "hub.example"}, "http://front.example:8080/upload")):
        with Backend(go=redirect) as backend, Ring(backend.address, trust_forwarded=trust) as ring, Client(ring) as client:
            _, fields, _, _ = client.get("/go", fields=[f"{name}: {value}" for name, value in said.items()])
            assert field(fields, "Location") == seen


def test_a_head_that_does_not_fit():
    """What a trusted balancer calls the host is no longer than a host; a head that outgrows its room all the same is an
    answer of ours, and nothing of the request is left."""
    url = b"http://front.example:8080/"

    def links(backend, sock, file, first, fields, rest):
        listed = b",".join([b"<%s>" % url] * int(rest))
        sock.sendall(b"HTTP/1.1 200 OK\r\nLocation: " + url + b"\r\nLink: " + listed + b"\r\n"
                     b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"content", 7))
        return True

    with Backend(links=links) as backend, Ring(backend.address, trust_forwarded=1) as ring:
        for length, count, status, seen in ((5000, 1, 200, url.decode()), (250, 1, 200, f"http://{'h' * 250}/"), (250, 400, 503, None)):
            with Client(ring) as client:
                got, fields, content, _ = client.get(f"/links/{count}", fields=["X-Forwarded-Host: " + "h" * length])
                assert (got, field(fields, "Location")) == (status, seen)
                assert status != 200 or content == b"content"
        ring.wait_counter("streams_open", 0)
        ring.wait_counter("connections_open", 0)


def test_host_of_the_backend():
    with Backend() as backend, Ring(backend.address, host_of_backend=1) as ring, Client(ring) as client:
        client.get("/length/1")
        assert field(backend.requests[0][1], "Host") == "127.0.0.1:%d" % backend.address[1]


def test_unix_socket(tmp_path, technique):
    with Backend(path=str(tmp_path / "s")) as backend, Ring(backend.address, technique=technique) as ring:
        with Client(ring) as client:
            assert client.get("/length/200000")[2] == pattern(200000)
            content = pattern(100000)
            assert client.get("/echo", method="POST", fields=["Content-Length: 100000"], body=content)[2] == content


@pytest.mark.parametrize("version", [1, 2])
def test_proxy_header(version):
    seen = []

    def serve(listener):
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock, sock.makefile("rb") as file:
                seen.append(file.readline() if version == 1 else file.read(28))
                while read_head(file):
                    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    with listener, Ring(listener.getsockname(), proxy_protocol=version) as ring, Client(ring) as client:
        mine = client.sock.getsockname()[1]
        for _ in range(2):
            assert client.get("/")[0] == 200
        if version == 1:
            assert seen == [b"PROXY TCP4 127.0.0.1 127.0.0.1 %d %d\r\n" % (mine, ring.port)] * 2
        else:
            assert [s[16:] for s in seen] == [socket.inet_aton("127.0.0.1") * 2 + mine.to_bytes(2, "big") +
                                              ring.port.to_bytes(2, "big")] * 2
        listener.shutdown(socket.SHUT_RDWR)


def test_expect_continue(technique):
    def picky(backend, sock, file, first, fields, rest):
        backend.requests.append((first, fields, None))
        if rest == "no":
            sock.sendall(b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno")
            return False
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = read_body(file, fields)[0]
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        return True

    with Backend(up=picky) as backend, Ring(backend.address, technique=technique) as ring:
        with Client(ring) as client:
            client.ask("/up/yes", method="PUT", fields=["Content-Length: 9000", "Expect: 100-continue"])
            assert client.head()[0] == 100
            client.send(b"y" * 9000)
            assert client.answer()[2] == b"y" * 9000
            assert field(backend.requests[0][1], "Expect") == "100-continue"
            client.ask("/up/no", method="PUT", fields=["Content-Length: 9000", "Expect: 100-continue"])
            assert client.answer()[:1] == (401,)


def test_early_answer(technique):
    """An error that comes before the body has been sent is passed on, and the connection ends behind it."""
    def refuse(backend, sock, file, first, fields, rest):
        sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge")
        time.sleep(0.5)
        return False

    with Backend(up=refuse) as backend, Ring(backend.address, technique=technique) as ring, Client(ring) as client:
        client.ask("/up", method="PUT", fields=["Content-Length: 100000000"], body=b"z" * 100000)
        status, fields, content, _ = client.answer()
        assert (status, content, field(fields, "Connection")) == (413, b"large", "close")
        assert client.ended() in ("fin", "reset")


def test_full_duplex(technique):
    """The answer begins, and goes on, while the request's body is still coming."""
    def both(backend, sock, file, first, fields, rest):
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            size = int(file.readline(), 16)
            part = file.read(size + 2)[:-2]
            sock.sendall(b"%x\r\n%s\r\n" % (size, part))
            if size == 0:
                return True

    with Backend(both=both) as backend, Ring(backend.address, technique=technique) as ring, Client(ring) as client:
        for _ in range(2):
            client.ask("/both", method="POST", fields=["Transfer-Encoding: chunked"])
            assert client.head()[0] == 200
            for n in range(5):
                client.send(b"3\r\nab%d\r\n" % n)
                assert client.file.read(8) == b"3\r\nab%d\r\n" % n
            client.send(b"0\r\n\r\n")
            assert client.file.read(5) == b"0\r\n\r\n"
        assert backend.connections == 1


# ---------------------------------------------------------------- large and slow


def sparse_server(size):
    """Answers every GET with that many zeros, from a file with no blocks."""
    def serve(backend, sock, file, first, fields, rest):
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        fd = os.memfd_create("sparse")
        os.ftruncate(fd, size)
        with open(fd, "rb") as sparse:
            sock.sendfile(sparse)
        return True
    return serve


def test_large_download(technique):
    size = 1 << 30
    with Backend(big=sparse_server(size)) as backend, Ring(backend.address, technique=technique) as ring:
        with Client(ring) as client:
            client.ask("/big")
            status, fields = client.head()
            assert (status, field(fields, "Content-Length")) == (200, str(size))
            left, buffer = size, bytearray(1 << 20)
            while left:
                n = client.file.readinto(memoryview(buffer)[:min(left, len(buffer))])
                assert n and not any(buffer[:n:4096])
                left -= n
            assert client.get("/length/5")[2] == pattern(5)
        assert ring.rss_kb() < 100000
        assert [line["technique"] for line in ring.lines()][0] == technique


def test_large_upload(technique):
    size, block = 1 << 30, bytes(1 << 20)
    got = []

    def sink(backend, sock, file, first, fields, rest):
        left, buffer = int(field(fields, "Content-Length")), bytearray(1 << 20)
        while left:
            n = file.readinto(memoryview(buffer)[:min(left, len(buffer))])
            if not n:
                return False
            left -= n
        got.append(True)
        sock.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
        return True

    with Backend(up=sink) as backend, Ring(backend.address, technique=technique) as ring, Client(ring) as client:
        client.ask("/up", method="PUT", fields=[f"Content-Length: {size}"])
        for _ in range(size >> 20):
            client.send(block)
        assert client.answer()[0] == 201 and got
        assert ring.rss_kb() < 100000


def test_slow_reader_slows_its_writer(technique):
    """A client that does not read costs bounded memory, and nobody else's time."""
    with Backend(big=sparse_server(1 << 30)) as backend, Ring(backend.address, technique=technique) as ring:
        slow = [Client(ring) for _ in range(20)]
        for client in slow:
            client.ask("/big")
        time.sleep(0.5)
        with Client(ring) as quick:
            assert quick.get("/length/1000000")[2] == pattern(1000000)
        assert ring.rss_kb() < 150000
        for client in slow:
            client.close()
        ring.wait_counter("streams_open", 0)
        ring.wait_counter("upstream_connections_open", lambda n: n <= 1)


# ---------------------------------------------------------------- who goes away


def waiting(ended):
    """A behaviour that never ends its answer: what came to an end, and how, is kept."""
    def wait(backend, sock, file, first, fields, rest):
        sock.settimeout(60)
        if rest.startswith("body"):
            sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        try:
            ended.append(sock.recv(1))
        except OSError as err:
            ended.append(err)
        return False

    return wait


@pytest.mark.parametrize("how", ["long-lived", "reset", "reset after its end"])
def test_client_that_leaves_takes_its_request_along(technique, how):
    """While the answer is awaited, and while it comes. Who only sends no more has left what lives long (nobody stays with
    `docker logs -f` in that way), and nothing else."""
    ended = []
    with Backend(containers=waiting(ended)) as backend, Ring(backend.address, kind="docker", technique=technique) as ring:
        for number, rest in enumerate(("head", "body")):
            client = Client(ring)
            client.ask(f"/containers/{rest}/" + ("logs?follow=1" if how == "long-lived" else "json"))
            if rest == "body":
                assert client.head()[0] == 200
            assert wait_until(lambda: len(backend.open) > number, 20)
            if how != "long-lived":
                if how != "reset":
                    client.sock.shutdown(socket.SHUT_WR)
                reset(client.sock)
            client.close()
        ring.wait_counter("streams_open", 0)
        ring.wait_counter("upstream_connections_open", 0)
        assert wait_until(lambda: len(ended) == 2, 20)
        assert ring.counters()["closed_client_abort"] == 2


def delayed(backend, sock, file, first, fields, rest):
    """Answers when it is told to."""
    body = read_body(file, fields)[0]
    backend.requests.append((first, fields, body))
    assert wait_until(lambda: backend.go, 30)
    content = body or pattern(int(rest))
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content))
    sock.sendall(content)
    return True


@pytest.mark.parametrize("method", ["GET", "PUT", "chunked"])
@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_client_that_sends_no_more_gets_its_answer(technique, method, size):
    """RFC 9112, 9.6: its last one, then the connection ends."""
    body = b"" if method == "GET" else pattern(size, 3)
    fields = ["Transfer-Encoding: chunked"] if method == "chunked" else [f"Content-Length: {len(body)}"]
    with Backend(slow=delayed) as backend, Ring(backend.address, technique=technique) as ring, Client(ring) as client:
        backend.go = False
        client.ask(f"/slow/{size}", method="GET" if method == "GET" else "PUT", fields=fields,
                   body=chunked(body, 70000) if method == "chunked" else body)
        client.sock.shutdown(socket.SHUT_WR)
        assert wait_until(lambda: len(backend.requests) == 1, 20)
        time.sleep(0.2)  # for a proxy that takes it for gone
        backend.go = True
        status, fields, content, _ = client.answer()
        assert (status, content) == (200, body or pattern(size))
        assert client.ended() == "fin"
        assert ring.wait_counter("closed_client_eof", 1) and ring.counters()["closed_client_abort"] == 0


def test_several_requests_and_then_the_end():
    with Backend(slow=delayed) as backend, Ring(backend.address) as ring, Client(ring) as client:
        backend.go = True
        client.send("".join(f"GET /slow/{n} HTTP/1.1\r\nHost: x\r\n\r\n" for n in (1, 100_000, 3)))
        client.sock.shutdown(socket.SHUT_WR)
        assert [client.answer()[2] for _ in range(3)] == [pattern(n) for n in (1, 100_000, 3)]
        assert client.ended() == "fin"


def test_a_client_that_sent_no_more_and_is_gone_is_noticed_when_bytes_come():
    """Its socket answers what comes with a reset."""
    def drip(backend, sock, file, first, fields, rest):
        assert wait_until(lambda: backend.go, 30)
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            sock.sendall(b"1\r\na\r\n")
            time.sleep(0.05)

    with Backend(drip=drip) as backend, Ring(backend.address) as ring:
        backend.go = False
        client = Client(ring)
        client.ask("/drip")
        assert wait_until(lambda: backend.open, 20)
        client.close()
        time.sleep(0.2)
        assert ring.counters()["streams_open"] == 1
        backend.go = True
        ring.wait_counter("streams_open", 0)
        ring.wait_counter("upstream_connections_open", 0)


@pytest.mark.parametrize("how", ["length", "chunked", "old"])
@pytest.mark.parametrize("end", ["fin", "reset"])
@pytest.mark.parametrize("sent", [0, 1, 50000])
def test_backend_that_stops_is_no_clean_end(rig, how, end, sent):
    """Nobody takes a part for the whole. Without a length, FIN is the end; a reset is not."""
    ring, _ = rig
    with Client(ring) as client:
        client.ask(f"/cut/{how}/100000/{sent}/{end}")
        try:
            status, _, content, _ = client.answer()
        except ConnectionResetError:
            status, content = 200, None
        assert status == 200
        if how == "old" and end == "fin":
            assert content == pattern(sent)
        else:
            assert content is None and client.ended() in ("fin", "reset")
            assert ring.counters()["proxy_cut_total"] == 1


def test_old_client_is_not_told_a_clean_end(rig):
    ring, _ = rig
    with Client(ring) as client:
        client.send("GET /cut/chunked/100000/50000/fin HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            client.answer()
            client.file.read()


def test_body_that_is_cut_off_is_refused(rig):
    ring, backend = rig
    with Client(ring) as client:
        client.ask("/echo", method="POST", fields=["Content-Length: 50000"], body=b"x" * 20000)
        client.sock.shutdown(socket.SHUT_WR)
        assert client.answer()[0] == 400
        assert client.ended() == "fin"
    with Client(ring) as client:
        client.ask("/echo", method="POST", fields=["Transfer-Encoding: chunked"], body=b"5\r\nhello\r\nzz\r\n")
        assert client.answer()[0] == 400
    assert all(body is None for _, _, body in backend.requests)
    ring.wait_counter("upstream_connections_open", 0)


def test_slow_body_times_out(technique):
    with Backend() as backend, Ring(backend.address, technique=technique, http__body_timeout=500) as ring:
        with Client(ring) as client:
            client.ask("/echo", method="POST", fields=["Content-Length: 50000"], body=b"x" * 20000)
            assert client.answer()[0] == 408
            assert client.ended() == "fin"
        ring.wait_counter("upstream_connections_open", 0)


# ---------------------------------------------------------------- what belongs together


def uploads(name):
    """A registry of which no other knows the sessions."""
    def serve(backend, sock, file, first, fields, rest):
        method, path, _ = first.split()
        body = read_body(file, fields)[0]
        backend.requests.append((first, fields, body))
        if method == "POST":
            place = f"/v2/{rest.rstrip('/')}/{name}-{len(backend.requests)}?_state=x"
            sock.sendall(f"HTTP/1.1 202 Accepted\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n".encode())
        else:
            known = path.split("?")[0].rpartition("/")[2].startswith(name)
            sock.sendall((f"HTTP/1.1 {'202 Accepted' if known else '404 Not Found'}\r\nLocation: {path}\r\n"
                          "Content-Length: 0\r\n\r\n").encode())
        return True
    return serve


def test_upload_stays_with_its_backend():
    with Backend(v2=uploads("one")) as one, Backend(v2=uploads("two")) as two, Backend(v2=uploads("three")) as three:
        with Ring(one.address, two.address, three.address, kind="registry") as ring:
            for _ in range(20):
                with Client(ring) as client:
                    status, fields, _, _ = client.get("/v2/a/blobs/uploads/", method="POST",
                                                      fields=["Content-Length: 0"])
                    assert status == 202
                place = field(fields, "Location")
                for size in (0, 100, 100000):
                    with Client(ring) as client:
                        status, fields, _, _ = client.get(place, method="PATCH", fields=[f"Content-Length: {size}"],
                                                          body=bytes(size))
                        assert status == 202
        assert all(len(backend.requests) > 4 for backend in (one, two, three))


def test_build_goes_where_its_session_is():
    def session(backend, sock, file, first, fields, rest):
        backend.requests.append((field(fields, "X-Docker-Expose-Session-Uuid"), None, None))  # before the build can come
        sock.sendall(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        file.read()
        return False

    with Backend(session=session) as one, Backend(session=session) as two:
        with Ring(one.address, two.address, kind="docker") as ring:
            for n in range(10):
                with Client(ring) as client, Client(ring) as builder:
                    client.ask("/session", method="POST",
                               fields=["Connection: Upgrade", "Upgrade: h2c", f"X-Docker-Expose-Session-Uuid: u{n}"])
                    assert client.head()[0] == 101
                    builder.get(f"/build?session=u{n}&version=2", method="POST", fields=["Content-Length: 0"])
                    owner = one if any(r[0] == f"u{n}" for r in one.requests) else two
                    assert owner.requests[-1][0].startswith(f"POST /build?session=u{n}")
