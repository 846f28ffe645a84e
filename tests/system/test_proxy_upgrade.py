# SPDX-License-Identifier: Apache-2.0
"""Connections that stop being HTTP: docker exec and attach, BuildKit's sessions, WebSocket, SPDY; and those that do not."""

import socket
import threading
import time

import pytest

from proxy_rig import Backend, Client, Ring, field, pattern, read_head, reset

EXEC = b'{"Detach":false,"Tty":false}'


@pytest.fixture(params=["splice", "copy"])
def technique(request):
    return request.param


def hijack(answer, talk):
    """A behaviour: reads the body, says `answer`, then talks on the raw connection until its end."""
    def serve(backend, sock, file, first, fields, rest):
        body = file.read(int(field(fields, "Content-Length") or 0))
        backend.requests.append((first, fields, body))
        sock.sendall(answer)
        talk(sock, file)
        return False
    return serve


def shout(sock, file):
    """Echoes lines in capitals until the other end has ended, then says goodbye."""
    while line := file.readline():
        sock.sendall(line.upper())
    sock.sendall(b"bye")


def docker(answer, talk):
    return {"exec": hijack(answer, talk), "containers": hijack(answer, talk), "v1.43": hijack(answer, talk),
            "session": hijack(answer, talk), "ws": hijack(answer, talk)}


UPGRADED = b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"


def ask_exec(client, behind=b"", upgrade="tcp", path="/exec/1/start"):
    fields = ["Connection: Upgrade", f"Upgrade: {upgrade}"] if upgrade else []
    client.ask(path, method="POST", fields=fields + [f"Content-Length: {len(EXEC)}"], body=EXEC + behind)


@pytest.mark.parametrize("when", ["at once", "later"])
def test_exec(technique, when):
    """The body goes first, whole; what follows it at once is kept; the client's half-close reaches the other end, and
    what that says then comes back."""
    with Backend(**docker(UPGRADED, shout)) as backend:
        with Ring(backend.address, kind="docker", technique=technique) as ring, Client(ring) as client:
            ask_exec(client, b"one\n" if when == "at once" else b"", path="/v1.43/exec/1/start")
            status, fields = client.head()
            assert status == 101 and field(fields, "Upgrade") == "tcp" and field(fields, "Connection") == "Upgrade"
            if when == "later":
                client.send(b"one\n")
            assert client.file.readline() == b"ONE\n"
            client.send(b"two\n")
            assert client.file.readline() == b"TWO\n"
            client.sock.shutdown(socket.SHUT_WR)
            assert client.file.read() == b"bye"
            request, tunnel = ring.wait_lines(2)
            assert (request["status"], request["technique"], request["close"]) == (101, "tunnel", "tunnel_begun")
            assert (tunnel["bytes_in"] >= 8, tunnel["technique"], tunnel["close"]) == (True, technique, "tunnel_end")
            assert request["id"] == tunnel["id"] and request["client"] == tunnel["client"]
            ring.wait_counter("upstream_connections_open", 0)
            counters = ring.counters()
            assert counters["proxy_tunnels_total"] == 1 and counters["closed_tunnel_end"] == 1
            assert counters["connections_open"] == 0 and counters["streams_open"] == 0 and counters["tunnels_open"] == 0
        assert backend.requests[0][2] == EXEC
        sent = backend.requests[0][1]
        assert field(sent, "Connection") == "Upgrade" and field(sent, "Upgrade") == "tcp"


def test_early_words_of_the_backend(technique):
    with Backend(**docker(UPGRADED + pattern(3000), shout)) as backend:
        with Ring(backend.address, kind="docker", technique=technique) as ring, Client(ring) as client:
            ask_exec(client)
            assert client.head()[0] == 101
            assert client.file.read(3000) == pattern(3000)
            client.sock.shutdown(socket.SHUT_WR)
            assert client.file.read() == b"bye"


def test_backend_ends_first(technique):
    def leave(sock, file):
        sock.sendall(b"last words")
        sock.shutdown(socket.SHUT_WR)
        assert file.read() == b"after\n"

    with Backend(**docker(UPGRADED, leave)) as backend:
        with Ring(backend.address, kind="docker", technique=technique) as ring, Client(ring) as client:
            ask_exec(client)
            assert client.head()[0] == 101 and client.file.read() == b"last words"
            client.send(b"after\n")
            client.sock.shutdown(socket.SHUT_WR)
            ring.wait_counter("tunnels_open", 0)


def test_raw_stream_without_upgrade(technique):
    """Docker's older way: 200 without a length, and then raw."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n"
    with Backend(**docker(answer, shout)) as backend:
        with Ring(backend.address, kind="docker", technique=technique) as ring, Client(ring) as client:
            client.ask("/containers/x/attach?stream=1", method="POST")
            status, fields = client.head()
            assert status == 200 and field(fields, "Transfer-Encoding") is None
            client.send(b"one\n")
            assert client.file.readline() == b"ONE\n"
            client.sock.shutdown(socket.SHUT_WR)
            assert client.file.read() == b"bye"


@pytest.mark.parametrize("path, upgrade, kind, passed", [
    ("/session", "h2c", "docker", "h2c"),
    ("/session", "h2c", "http", None),
    ("/ws", "websocket", "http", "websocket"),
    ("/ws", "SPDY/3.1", "kubernetes", "SPDY/3.1"),
    ("/ws", "h2c, websocket", "kubernetes", "websocket"),
])
def test_what_is_passed_on(path, upgrade, kind, passed):
    answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
    plain = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    with Backend(**docker(answer if passed else plain, shout)) as backend:
        with Ring(backend.address, kind=kind) as ring, Client(ring) as client:
            client.ask(path, method="POST", fields=["Connection: Upgrade, HTTP2-Settings", f"Upgrade: {upgrade}",
                                                    "HTTP2-Settings: AAM", "Content-Length: 0"])
            status, _ = client.head()
            assert status == (101 if passed else 200)
            assert field(backend.requests[0][1], "Upgrade") == passed
            assert field(backend.requests[0][1], "HTTP2-Settings") == ("AAM" if passed == "h2c" else None)
            if passed:
                client.send(b"x\n")
                assert client.file.readline() == b"X\n"


@pytest.mark.parametrize("answer", [b"HTTP/1.1 409 Conflict\r\nContent-Length: 4\r\n\r\nbusy",
                                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbusy\r\n0\r\n\r\n"])
def test_refused_upgrade_is_an_answer(technique, answer):
    """The client tries something else on the same connection (kubectl: WebSocket, then SPDY)."""
    def refuse(backend, sock, file, first, fields, rest):
        file.read(int(field(fields, "Content-Length") or 0))
        sock.sendall(answer)
        return True

    with Backend(exec=refuse) as backend, Ring(backend.address, kind="docker", technique=technique) as ring:
        with Client(ring) as client:
            for _ in range(3):
                ask_exec(client)
                assert client.answer()[2] == b"busy"
            assert client.get("/length/3")[2] == pattern(3)
        assert backend.connections == 1
        assert ring.counters()["proxy_tunnels_total"] == 0


def test_upgrade_where_backends_get_http2():
    """Nothing can be upgraded in HTTP/2: what asks for it is sent in HTTP/1.1, by connections of its own, also kept ones."""
    def once_refused(backend, sock, file, first, fields, rest):
        if len(backend.requests) == 0:
            file.read(int(field(fields, "Content-Length")))
            backend.requests.append((first, fields, None))
            sock.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nbusy")
            return True
        return hijack(UPGRADED, shout)(backend, sock, file, first, fields, rest)

    with Backend(exec=once_refused) as backend, Ring(backend.address, kind="docker", backend_http=2) as ring:
        with Client(ring) as client:
            ask_exec(client)
            assert client.answer()[2] == b"busy"
            ask_exec(client)
            assert client.head()[0] == 101
            client.send(b"one\n")
            assert client.file.readline() == b"ONE\n"
        assert backend.connections == 1


def test_tunnels_have_a_limit_where_backends_get_http2():
    """As many connections for them as may carry HTTP/2; nobody waits for the end of one, and other requests go on."""
    with Backend(**docker(UPGRADED, shout)) as backend, Ring(backend.address, kind="docker") as behind:
        with Ring(behind.address, kind="docker", backend_http=2, connections_max=2) as ring:
            clients = [Client(ring) for _ in range(2)]
            for client in clients:
                ask_exec(client)
                assert client.head()[0] == 101
            with Client(ring) as other:
                ask_exec(other)
                assert other.head()[0] == 503
            with Client(ring) as other:
                assert other.get("/length/3")[2] == pattern(3)
            clients.pop().close()
            ring.wait_counter("upstream_connections_open", 2)
            with Client(ring) as other:
                ask_exec(other)
                assert other.head()[0] == 101
            clients.pop().close()


def test_unasked_upgrade_is_a_bad_answer():
    with Backend(ws=hijack(UPGRADED, shout)) as backend, Ring(backend.address) as ring, Client(ring) as client:
        status, _, content, _ = client.get("/ws")
        assert status == 502 and b"nobody asked" in content


def test_client_that_vanishes_ends_the_tunnel(technique):
    ended = threading.Event()

    def wait(sock, file):
        try:
            file.read()
        except OSError:
            pass
        ended.set()

    with Backend(**docker(UPGRADED, wait)) as backend:
        with Ring(backend.address, kind="docker", technique=technique) as ring:
            client = Client(ring)
            ask_exec(client)
            assert client.head()[0] == 101
            client.close()
            assert ended.wait(10)
            ring.wait_counter("tunnels_open", 0)
            ring.wait_counter("upstream_connections_open", 0)


def test_large_tunnel(technique):
    """Both ways at the same time, more than all buffers."""
    content = pattern(30 << 20)

    def echo(sock, file):
        while part := file.read1(1 << 20):
            sock.sendall(part)

    with Backend(**docker(UPGRADED, echo)) as backend:
        with Ring(backend.address, kind="docker", technique=technique) as ring, Client(ring) as client:
            ask_exec(client)
            assert client.head()[0] == 101
            sender = threading.Thread(target=lambda: (client.send(content), client.sock.shutdown(socket.SHUT_WR)))
            sender.start()
            assert client.file.read() == content
            sender.join()


def test_wait_is_flushed_at_once(technique):
    """The head of docker wait comes at once, its body when the container has ended, whatever the time limits say."""
    def wait(backend, sock, file, first, fields, rest):
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        time.sleep(1.5)
        sock.sendall(b"2\r\n{}\r\n0\r\n\r\n")
        return True

    def slow(backend, sock, file, first, fields, rest):
        time.sleep(1.5)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        return True

    with Backend(containers=wait, events=slow, images=slow) as backend:
        with Ring(backend.address, kind="docker", technique=technique, response_timeout_ms=500, retries=0,
                  http__send_timeout=300) as ring, Client(ring) as client:
            client.ask("/containers/x/wait", method="POST")
            assert client.head()[0] == 200
            assert client.file.read(12) == b"2\r\n{}\r\n0\r\n\r\n"
            assert client.get("/events")[0] == 200
            assert client.get("/images/json")[0] == 504


def test_tunnel_that_lives_on(technique):
    """Nothing of what goes through it is lost, and a backend that does not take the client's first words yet does get
    them, when nothing is left of the request any more."""
    slow = threading.Event()

    def late(sock, file):
        assert slow.wait(20)
        while part := file.read1(1 << 20):
            sock.sendall(part)

    with Backend(**docker(UPGRADED + pattern(2000), late)) as backend:
        with Ring(backend.address, kind="docker", technique=technique) as ring, Client(ring) as client:
            ask_exec(client, pattern(3000, seed=5))
            assert client.head()[0] == 101 and client.file.read(2000) == pattern(2000)
            time.sleep(1.5)
            slow.set()
            assert client.file.read(3000) == pattern(3000, seed=5)
            client.send(pattern(100000))
            assert client.file.read(100000) == pattern(100000)
            client.sock.shutdown(socket.SHUT_WR)
            assert client.file.read() == b""


def test_tunnels_are_no_requests():
    """More of them than there may be requests at work, while others are answered; and at their own limit the client is
    told, and finds a place when one has ended."""
    def hold(sock, file):
        while line := file.readline():
            sock.sendall(line.upper())

    def hello(backend, sock, file, first, fields, rest):
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        return True

    with Backend(hello=hello, **docker(UPGRADED, hold)) as backend:
        with Ring(backend.address, kind="docker", http__streams_max=16, proxy__tunnels_max=40) as ring:
            clients = [Client(ring) for _ in range(40)]
            for n, client in enumerate(clients):
                ask_exec(client)
                assert client.head()[0] == 101, n
            ring.wait_counter("tunnels_open", 40)
            with Client(ring) as other:
                assert other.get("/hello")[0] == 200
                ask_exec(other)
                assert other.head()[0] == 503
            for n, client in enumerate(clients):
                client.send(b"still here %d\n" % n)
                assert client.file.readline() == b"STILL HERE %d\n" % n
            clients.pop().close()
            ring.wait_counter("tunnels_open", 39)
            with Client(ring) as other:
                ask_exec(other)
                assert other.head()[0] == 101
            for client in clients:
                client.close()
            ring.wait_counter("tunnels_open", 0)
            ring.wait_counter("upstream_connections_open", lambda n: n <= 1)


@pytest.mark.parametrize("by", ["client", "backend"])
def test_reset_of_a_tunnel_reaches_the_other_end(technique, by):
    """Not as an end that looks good."""
    met, go = [], threading.Event()

    def talk(sock, file):
        if by == "backend":
            assert file.readline() == b"now\n"
            reset(sock)
            sock.close()
            return
        try:
            met.append(file.read())
        except OSError as err:
            met.append(err)
        go.set()

    with Backend(**docker(UPGRADED, talk)) as backend:
        with Ring(backend.address, kind="docker", technique=technique) as ring:
            client = Client(ring)
            ask_exec(client)
            assert client.head()[0] == 101
            if by == "client":
                reset(client.sock)
                client.close()
                assert go.wait(20) and isinstance(met[0], ConnectionError), met
            else:
                client.send(b"now\n")
                with pytest.raises(ConnectionError):
                    client.file.read()
                client.close()
            ring.wait_counter("tunnels_open", 0)
            ring.wait_counter("upstream_connections_open", 0)
