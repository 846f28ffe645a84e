# SPDX-License-Identifier: Apache-2.0
"""Backends that refuse, close, stall or talk nonsense before they answer: who is asked again, and what the client is told."""

import itertools
import json
import resource
import select
import socket
import struct
import threading
import time

import pytest

import faulty_h2
import http2
from http1 import wait_until
from proxy_rig import Backend, Client, Ring, field, pattern, read_body, read_head, reset

REPEATABLE = ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"]
ONCE = ["POST", "PATCH"]


def closed_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()


def end_without_answer(how):
    """A behaviour: takes the request and closes."""
    def serve(backend, sock, file, first, fields, rest):
        backend.requests.append((first, fields, read_body(file, fields)))
        if how == "reset":
            reset(sock)
        return False
    return serve


@pytest.mark.parametrize("method", REPEATABLE + ONCE)
def test_refused_connection_is_no_failure_of_the_request(method):
    """Nothing was sent: any request may go to another backend, with its body."""
    dead = closed_port()
    with Backend() as good, Ring(dead, good.address, retries=1, retry_budget=1000) as ring:
        for size in (0, 100, 100000):
            for _ in range(10):  # which one is asked first is chance
                with Client(ring) as client:
                    client.ask("/echo", method=method, fields=[f"Content-Length: {size}"], body=pattern(size))
                    status, _, content, _ = client.answer(head_only=method == "HEAD")
                    assert status == 200 and (method == "HEAD" or content == pattern(size))
        assert ring.counters()["proxy_retries_total"] > 0
        assert any(line["attempts"] == 2 for line in ring.lines())


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("method", REPEATABLE + ONCE)
def test_closed_without_an_answer(method, how):
    """The backend may have acted: only what may happen twice is sent again."""
    with Backend(x=end_without_answer(how)) as bad, Backend() as good:
        with Ring(bad.address, good.address, retries=1, retry_budget=1000) as ring:
            for _ in range(16):  # which one is asked first is chance
                with Client(ring) as client:
                    client.ask("/x", method=method, fields=["Content-Length: 3"], body=b"abc")
                    status, _, _, _ = client.answer(head_only=method == "HEAD")
                    assert status == 404 if method in REPEATABLE else status in (404, 502)
            counters = ring.counters()
            assert (counters["proxy_retries_total"] > 0) == (method in REPEATABLE)
            assert (counters["proxy_unanswered_total"] > 0) == (method in ONCE)
        assert len(bad.requests) + len(good.requests) == (16 if method in ONCE else 16 + len(bad.requests))


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_kept_connection_that_was_closed(method):
    """Closed while idle: noticed, and not used. Closed when the next request comes: sent again on a new one, if that may
    be; it says nothing about the backend."""
    served = []

    def serve(backend, sock, file, first, fields, rest):
        read_body(file, fields)
        if sock in served:
            return False
        served.append(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        return rest == "once"

    with Backend(x=serve) as backend, Ring(backend.address, retries=0, eject_failures=1) as ring:
        for rest in ("idle", "idle", "idle"):
            with Client(ring) as client:
                client.ask(f"/x/{rest}", method=method, fields=["Content-Length: 3"], body=b"abc")
                assert client.answer()[2] == b"ok"
            ring.wait_counter("upstream_connections_open", 0)
        assert ring.counters()["upstream_stale_total"] == 0
        statuses = []
        for _ in range(4):
            with Client(ring) as client:
                client.ask("/x/once", method=method, fields=["Content-Length: 3"], body=b"abc")
                statuses.append(client.answer()[0])
        counters = ring.counters()
        if method == "POST":
            assert statuses == [200, 502, 200, 502]
        else:
            assert statuses == [200] * 4 and counters["upstream_stale_total"] == 3


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_head_that_was_cut_off(method):
    """The client has seen nothing of it: what may happen twice is asked of another backend."""
    def cut(backend, sock, file, first, fields, rest):
        backend.requests.append((first, fields, None))
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Le")
        return False

    with Backend(x=cut) as one, Backend(x=cut) as two, Ring(one.address, two.address, retries=1) as ring:
        with Client(ring) as client:
            assert client.get("/x", method=method, fields=["Content-Length: 0"])[0] == 502
        assert len(one.requests) + len(two.requests) == (2 if method == "GET" else 1)


BAD = {
    b"nonsense\r\n\r\n": "version-syntax",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na": "more than one Content-Length",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": "together",
    b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n": "malformed Content-Length",
    b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n": "folded",
    b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n": "CR without LF",
    b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n": "control character",
    b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 20000 + b"\r\n\r\n": "over the limit",
    b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n": "more header lines",
    b"HTTP/1.1 100 Go\r\n\r\n" * 40 + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n": "too many interim",
}


@pytest.mark.parametrize("answer", BAD, ids=lambda a: repr(a[:60]))
def test_answers_that_break_the_rules(answer):
    def serve(backend, sock, file, first, fields, rest):
        backend.requests.append(first)
        sock.sendall(answer)
        time.sleep(0.2)
        return True

    with Backend(x=serve) as backend, Ring(backend.address, retries=2) as ring:
        with Client(ring) as client:
            status, fields, content, _ = client.get("/x")
            assert status == 502 and (BAD[answer].encode() in content or BAD[answer] == "version-syntax")
            assert client.get("/length/4")[2] == pattern(4)
        assert ring.counters()["proxy_bad_answers_total"] == 1
        assert len(backend.requests) == 2 and backend.connections == 2


def test_interim_answers_and_large_heads_pass():
    long = "x" * 12000

    def serve(backend, sock, file, first, fields, rest):
        backend.requests.append((first, fields, None))
        sock.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 3 +
                     b"HTTP/1.1 200 OK\r\nX-Long: " + long.encode() + b"\r\nContent-Length: 2\r\n\r\nok")
        return True

    with Backend(x=serve) as backend, Ring(backend.address) as ring, Client(ring) as client:
        for _ in range(3):
            client.ask("/x", fields=[f"X-Mine: {long}"])
            hints = [client.head() for _ in range(3)]
            assert [(code, field(fields, "Link")) for code, fields in hints] == [(103, "</a>")] * 3
            status, fields, content, _ = client.answer()
            assert (status, content, field(fields, "X-Long")) == (200, b"ok", long)
            assert field(backend.requests[-1][1], "X-Mine") == long


def hinting(hint, count, rest=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"):
    def serve(backend, sock, file, first, fields, rest_of_path):
        backend.requests.append((first, fields, None))
        sock.sendall(hint * count)
        if rest_of_path == "later":
            wait_until(lambda: backend.go, 20)
        sock.sendall(rest)
        return True

    return serve


def test_an_interim_answer_comes_at_once_and_is_made_right():
    """It is not kept until the answer, loses what is about the connection, and names us, not the backend."""
    hint = b"HTTP/1.1 103 Early Hints\r\nConnection: x-hop\r\nX-Hop: 1\r\nLink: <http://%s/a>; rel=preload\r\n\r\n"
    with Backend() as backend:
        backend.go = False
        backend.behaviours["x"] = hinting(hint % ("%s:%d" % backend.address).encode(), 1)
        with Ring(backend.address, host_of_backend=1) as ring, Client(ring) as client:
            client.ask("/x/later")
            status, fields = client.head()
            assert status == 103 and field(fields, "Link") == "<http://front.example:8080/a>; rel=preload"
            assert field(fields, "X-Hop") is None and field(fields, "Content-Length") is None
            backend.go = True
            assert client.answer()[::2] == (200, b"ok")


def test_interim_answers_to_http_1_0_and_too_many_bytes_of_them_are_left_out():
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </" + b"a" * 1500 + b">\r\n\r\n"
    with Backend(x=hinting(hint, 10)) as backend, Ring(backend.address) as ring:
        with Client(ring) as client:
            client.send("GET /x HTTP/1.0\r\nHost: front.example\r\n\r\n")
            assert client.head()[0] == 200
        assert ring.counters()["proxy_interim_dropped_total"] == 10
        with Client(ring) as client:
            client.ask("/x")
            seen = [client.head()[0] for _ in range(3)]
            assert seen == [103, 103, 200]
        assert ring.counters()["proxy_interim_dropped_total"] == 18


@pytest.mark.parametrize("backend_http", [1, 2])
def test_interim_answers_over_http2(backend_http):
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    with Backend(x=hinting(hint, 2)) as backend, Ring(backend.address) as behind:
        with Ring(behind.address if backend_http == 2 else backend.address, backend_http=backend_http) as ring:
            with http2.Session(ring.address) as session:
                answer = session.exchange("GET", "/x")
                assert [dict(head)[":status"] for head in answer.heads] == ["103", "103", "200"], answer
                assert dict(answer.heads[0])["link"] == "</a>" and answer.body == b"ok"
            with Client(ring) as client:
                client.ask("/x")
                assert [client.head()[0] for _ in range(3)] == [103, 103, 200]


def test_a_client_that_takes_no_interim_answers_holds_nothing_for_ever():
    """Its socket is full of an earlier answer when they come."""
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </" + b"a" * 1500 + b">\r\n\r\n"
    with Backend(x=hinting(hint, 2)) as backend, Ring(backend.address, http__send_timeout=600) as ring:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(ring.address)
        head = "\r\nHost: front.example\r\n\r\n"
        sock.sendall((f"GET /length/6000000 HTTP/1.1{head}" + f"GET /x HTTP/1.1{head}" * 3).encode())
        ring.wait_counter("streams_open", 0)
        sock.close()


@pytest.mark.parametrize("kind, check", [
    ("http", lambda text, status: text.startswith(b"service test: ")),
    ("registry", lambda text, status: json.loads(text)["errors"][0]["code"] == "UNAVAILABLE"),
    ("docker", lambda text, status: json.loads(text)["message"].startswith("service test: ")),
    ("kubernetes", lambda text, status: json.loads(text)["code"] == status and json.loads(text)["kind"] == "Status"),
])
def test_what_the_client_is_told(kind, check):
    with Ring(closed_port(), kind=kind) as ring, Client(ring) as client:
        status, fields, content, _ = client.get("/v2/")
        assert status == 502 and check(content, 502), content
    with Ring(kind=kind) as ring, Client(ring) as client:
        status, fields, content, _ = client.get("/v2/")
        assert status == 503 and check(content, 503) and field(fields, "Retry-After") == "1"
        assert b"no backend" in content
        # The connection goes on.
        assert client.get("/v2/")[0] == 503


def test_no_answer_in_time():
    def sleep(backend, sock, file, first, fields, rest):
        read_body(file, fields)
        sock.settimeout(20)
        sock.recv(1)
        return False

    with Backend(x=sleep) as backend, Ring(backend.address, response_timeout_ms=400, retries=0) as ring:
        with Client(ring) as client:
            for method in ("GET", "POST"):
                status, _, content, _ = client.get("/x", method=method, fields=["Content-Length: 1"], body=b"a")
                assert status == 504 and b"in time" in content
        ring.wait_counter("upstream_connections_open", 0)


def test_body_that_is_not_taken_in_time():
    """A backend that takes no more of an upload is a backend that does not answer."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, Ring(listener.getsockname(), response_timeout_ms=500, retries=0) as ring, Client(ring) as client:
        client.ask("/x", method="PUT", fields=["Content-Length: 100000000"])
        stop = threading.Event()

        def send():
            try:
                while not stop.is_set():
                    client.send(bytes(1 << 16))
            except OSError:
                pass

        sender = threading.Thread(target=send)
        sender.start()
        assert client.answer()[0] == 504
        stop.set()
        client.sock.close()
        sender.join()


def test_slow_upload_is_not_late():
    """The answer is due when the body is there, not before."""
    with Backend() as backend, Ring(backend.address, response_timeout_ms=400) as ring, Client(ring) as client:
        client.ask("/echo", method="PUT", fields=["Content-Length: 20000"])
        for i in range(10):
            time.sleep(0.15)
            client.send(pattern(20000)[i * 2000:(i + 1) * 2000])
        assert client.answer()[2] == pattern(20000)


def hold(event):
    def serve(backend, sock, file, first, fields, rest):
        event.wait(20)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        return True
    return serve


def test_queue():
    go = threading.Event()
    with Backend(x=hold(go)) as backend:
        with Ring(backend.address, requests_max=1, queue_max=2, queue_timeout_ms=20000) as ring:
            clients = [Client(ring) for _ in range(3)]
            for n, client in enumerate(clients):
                client.ask("/x")
                ring.wait_counter("streams_open", n + 1)
            with Client(ring) as fourth:
                status, fields, content, _ = fourth.get("/x")
                assert status == 503 and b"wait" in content and field(fields, "Retry-After")
            go.set()
            for client in clients:
                assert client.answer()[2] == b"ok"
                client.close()
        assert backend.connections == 1


def test_queue_over_http2():
    """As many requests as a connection carries, and the next one waits; no backend is blamed for it."""
    go = threading.Event()
    with Backend(x=hold(go)) as backend, Ring(backend.address) as behind:
        with Ring(behind.address, backend_http=2, connections_max=1, http2__streams_max=2, queue_max=2,
                  queue_timeout_ms=60000) as ring:
            clients = [Client(ring) for _ in range(4)]
            for n, client in enumerate(clients):
                client.ask("/x")
                ring.wait_counter("streams_open", n + 1)
            with Client(ring) as fifth:
                status, _, content, _ = fifth.get("/x")
                assert status == 503 and b"wait" in content
            go.set()
            for client in clients:
                assert client.answer()[2] == b"ok"
                client.close()
            counters = ring.counters()
            assert counters["proxy_retries_total"] == 0 and counters["upstream_connects_total"] == 1


class Leaver(faulty_h2.Connection):
    """Answers "ok"; to /last only when it is told to, and says before that it takes nothing more."""

    def __init__(self, sock, said, go):
        super().__init__(sock)
        self.said, self.go = said, go

    def respond(self, stream, fields):
        if fields[":path"] == "/last":
            self.send(http2.frame(http2.GOAWAY, 0, 0, struct.pack(">II", stream, 0)))
            self.said.set()
            self.go.wait(60)
        self.head(stream, [(":status", "200"), ("content-length", "2")])
        self.send(http2.frame(http2.DATA, http2.END_STREAM, stream, b"ok"))


def test_a_session_that_takes_nothing_more_is_replaced_at_once():
    """It lasts as long as what is on it, and does not count as the one connection that there may be."""
    said, go, connections = threading.Event(), threading.Event(), []

    def accept():
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            connections.append(sock)
            threading.Thread(target=Leaver(sock, said, go).run, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        with Ring(listener.getsockname(), backend_http=2, connections_max=1, queue_timeout_ms=60000) as ring:
            with Client(ring) as first, Client(ring) as second:
                first.ask("/last")
                assert said.wait(20)
                for _ in range(3):
                    assert second.get("/next")[2] == b"ok"
                assert len(connections) == 2
                go.set()
                assert first.answer()[2] == b"ok"
        listener.shutdown(socket.SHUT_RDWR)


def test_own_shortage_is_no_backends_fault():
    """No descriptor is left for a connection to either of two backends, of which one failure would rule one out."""
    with Backend() as one, Backend() as two:
        with Ring(one.address, two.address, eject_failures=1, eject_ms=60000) as ring, Client(ring) as client:
            assert client.get("/close/9")[0] == 200
            ring.wait_counter("upstream_connections_open", 0)
            before = resource.prlimit(ring.process.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(ring.process.pid, resource.RLIMIT_NOFILE, (3, before[1]))
            for _ in range(4):
                status, fields, _, _ = client.get("/length/9")
                assert status == 503 and field(fields, "Retry-After")
            resource.prlimit(ring.process.pid, resource.RLIMIT_NOFILE, before)
            for _ in range(4):
                assert client.get("/length/9")[0] == 200
            counters = ring.counters()
            assert counters["upstream_shortages_total"] == 4 and counters["proxy_ejections_total"] == 0


def test_a_hedge_that_finds_nothing_does_not_win():
    """The second backend says 404 at once, while the first one is about to answer."""
    go, calls = threading.Event(), itertools.count()

    def serve(backend, sock, file, first, fields, rest):
        if next(calls) == 0:
            go.wait(60)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        else:
            sock.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            file.read(1)  # nobody wants more of it
            go.set()
        return False

    with Backend(x=serve) as one, Backend(x=serve) as two:
        with Ring(one.address, two.address, hedge_ms=20) as ring, Client(ring) as client:
            status, _, content, _ = client.get("/x")
            assert (status, content) == (200, b"ok")
            assert ring.counters()["proxy_hedges_total"] == 1 and ring.counters()["proxy_hedges_won_total"] == 0


def test_queue_time_and_who_leaves_it():
    go = threading.Event()
    with Backend(x=hold(go)) as backend, Ring(backend.address, requests_max=1, queue_timeout_ms=400) as ring:
        with Client(ring) as first, Client(ring) as second:
            first.ask("/x")
            ring.wait_counter("streams_open", 1)
            status, _, content, _ = second.get("/x")
            assert status == 503 and b"too long" in content
            third = Client(ring)
            third.ask("/x")
            ring.wait_counter("streams_open", 2)
            third.close()
            ring.wait_counter("streams_open", 1)
            go.set()
            assert first.answer()[2] == b"ok"


def test_idle_connections_are_bounded_and_end():
    go = threading.Event()
    with Backend(x=hold(go)) as backend:
        with Ring(backend.address, proxy__idle_connections=3, proxy__idle_timeout=1500) as ring:
            clients = [Client(ring) for _ in range(8)]
            for client in clients:
                client.ask("/x")
            ring.wait_counter("upstream_connections_open", 8)
            go.set()
            for client in clients:
                assert client.answer()[0] == 200
                client.close()
            ring.wait_counter("upstream_connections_open", 3)
            assert ring.counters()["upstream_connections_idle"] == 3
            ring.wait_counter("upstream_connections_open", 0)


def test_words_that_nobody_asked_for():
    """A backend that says more than its answer is not asked on that connection again."""
    def chatty(backend, sock, file, first, fields, rest):
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        return True

    with Backend(x=chatty) as backend, Ring(backend.address) as ring, Client(ring) as client:
        for _ in range(5):
            assert client.get("/x")[2] == b"ok"
        assert backend.connections == 5


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_backend_that_goes_down_while_its_answer_is_awaited(method):
    """It will not come: nobody waits for it until the time is up, or, for what lives long, for ever."""
    go = threading.Event()

    def never(backend, sock, file, first, fields, rest):
        backend.requests.append((first, fields, None))
        go.wait(20)
        return False

    with Backend(events=never) as bad, Backend() as good:
        with Ring(bad.address, good.address, kind="docker", retries=1) as ring:
            ring.verdict(good.address, "down")
            with Client(ring) as client:
                client.ask("/events", method=method, fields=["Content-Length: 0"])
                ring.wait_counter("streams_open", 1)
                ring.verdict(good.address, "up")
                ring.verdict(bad.address, "down")
                assert client.answer()[0] == (404 if method == "GET" else 502)
            ring.wait_counter("upstream_connections_open", lambda n: n <= 1)
        go.set()


def test_idle_connections_to_a_backend_that_is_down_are_closed():
    with Backend() as backend, Ring(backend.address) as ring, Client(ring) as client:
        assert client.get("/length/1")[0] == 200
        ring.wait_counter("upstream_connections_idle", 1)
        ring.verdict(backend.address, "down")
        ring.wait_counter("upstream_connections_open", 0)
        assert client.get("/length/1")[0] == 503
        ring.verdict(backend.address, "up")
        assert client.get("/length/1")[0] == 200


SLOW = {"http__body_timeout": 30000, "http__body_rate_min": 5000, "http__body_rate_grace": 600}


def trickle(client, seconds, until=lambda: False):
    """A byte now and then, as long as anybody takes it."""
    end = time.monotonic() + seconds
    sent = 0
    while time.monotonic() < end and not until():
        try:
            client.send(b"1\r\nz\r\n")
        except OSError:
            break
        sent += 1
        time.sleep(0.02)
    return sent


def test_a_body_that_trickles_is_ended():
    """No pause is long; a byte every 20 ms is below the floor."""
    with Backend() as backend, Ring(backend.address, **SLOW) as ring:
        with Client(ring) as client:
            client.ask("/echo_chunked", method="POST", fields=["Transfer-Encoding: chunked"])
            trickle(client, 60, lambda: bool(select.select([client.sock], [], [], 0)[0]))
            assert client.head()[0] == 408
        assert ring.wait_counter("closed_body_timeout", 1)


def test_a_slow_backend_is_not_the_clients_fault():
    """Its body stands still because nobody takes it."""
    def late(backend, sock, file, first, fields, rest):
        assert wait_until(lambda: backend.go, 30)
        return answer_length(sock, read_body(file, fields)[0])

    size = 30_000_000
    with Backend(late=late) as backend, Ring(backend.address, **SLOW) as ring, Client(ring) as client:
        backend.go = False
        sender = threading.Thread(target=client.ask, args=("/late",), daemon=True,
                                  kwargs={"method": "PUT", "fields": [f"Content-Length: {size}"], "body": b"x" * size})
        sender.start()
        time.sleep(3)  # several times what the floor would allow
        backend.go = True
        assert client.answer()[::2] == (200, b"%d" % size)
        sender.join(20)


def test_what_lives_long_may_trickle():
    with Backend(build=lambda backend, sock, file, first, fields, rest: answer_length(sock, read_body(file, fields)[0])) as backend, \
            Ring(backend.address, kind="docker", **SLOW) as ring, Client(ring) as client:
        client.ask("/build", method="POST", fields=["Transfer-Encoding: chunked"])
        sent = trickle(client, 4)
        client.send(b"0\r\n\r\n")
        assert client.answer()[::2] == (200, b"%d" % sent)


def answer_length(sock, body):
    text = b"%d" % len(body)
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
    return True
