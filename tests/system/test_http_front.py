# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 as it arrives on the wire, end to end: framing, pipelining, limits, time-outs, dead and hostile clients.
Timers: test_http_timeouts.py."""

import email.utils
import os
import resource
import select
import socket
import statistics
import struct
import time

import pytest

import harness
import http1
from harness import IMAGE_TYPE, KIND, digest_of, gap, randomness

MIB = 1 << 20
fairlead_only = pytest.mark.skipif(KIND != "fairlead", reason="the peer has no such setting")


@pytest.fixture
def connection(registry):
    with registry.client.connect(timeout_s=15) as opened:
        yield opened


def ping(connection, method="GET", headers=()):
    return connection.head(method, "/v2/", headers)


def patch_head(connection, repo, **headers):
    """The head of a PATCH to a new session, and the session's target."""
    target = http1.target_of(repo.start_upload().header("Location"))
    pairs = [("Content-Type", "application/octet-stream")]
    pairs += [(name.replace("_", "-"), value) for name, value in headers.items()]
    return connection.head("PATCH", target, pairs), target


# --- connections ---------------------------------------------------------------------------------------------------


def test_keep_alive(connection):
    for _ in range(50):
        answer = connection.exchange("GET", "/v2/")
        assert answer.status == 200 and not answer.closes()


def test_connection_close(connection):
    connection.send(ping(connection, headers={"Connection": "close"}))
    answer = connection.response()
    assert answer.status == 200 and answer.closes()
    assert connection.closed_by_server()


@fairlead_only
def test_last_answer_and_the_end_are_one_segment(connection):
    """A client that asked for it is told both at once."""
    waits = select.poll()
    waits.register(connection.sock, select.POLLIN | select.POLLRDHUP)
    connection.send(ping(connection, headers={"Connection": "close"}))
    [(_, events)] = waits.poll(15_000)
    assert events & select.POLLIN and events & select.POLLRDHUP
    assert connection.response().status == 200


def test_bytes_behind_the_last_request(connection):
    """They are not read, and do not cost the answer."""
    connection.send(ping(connection, headers={"Connection": "close"}) + b"GET /v2/ HTTP/1.1\r\n" * 500)
    assert connection.response().status == 200


@gap("answers in HTTP/1.0")
def test_http_1_0(connection):
    connection.send(b"GET /v2/ HTTP/1.0\r\n\r\n")
    answer = connection.response()
    assert answer.status == 200 and "Transfer-Encoding" not in answer.headers
    assert connection.closed_by_server()


def test_date(connection):
    sent = email.utils.parsedate_to_datetime(connection.exchange("GET", "/v2/").header("Date"))
    assert abs(sent.timestamp() - time.time()) < 5


def test_pipelining(connection, repo):
    """Three requests in one segment are answered in order."""
    digest = repo.push_blob(b"pipelined")
    requests = [("GET", f"/v2/{repo.name}/blobs/{digest}"), ("HEAD", "/v2/"), ("GET", "/v2/")]
    connection.send(b"".join(connection.head(*each) for each in requests))
    assert connection.response().body == b"pipelined"
    assert connection.response("HEAD").body == b""
    assert connection.response().status == 200


def test_broken_body_that_nobody_reads(registry):
    """A body whose framing is wrong, behind a request that has no use for one: answered, closed, and nothing else."""
    pids = registry.dataplane_pids() if KIND == "fairlead" else None
    for _ in range(20):
        with registry.client.connect(timeout_s=15) as connection:
            connection.send(ping(connection, headers={"Transfer-Encoding": "chunked"}) + b"ZZ\r\n")
            assert connection.response().status in (200, 400)
            assert connection.closed_by_server()
    assert pids is None or registry.dataplane_pids() == pids


def test_pipelining_many(connection):
    connection.send(ping(connection) * 200)
    assert [connection.response().status for _ in range(200)] == [200] * 200


def test_pipelining_behind_bodies(connection, repo):
    """Bodies of both framings end where they end; what follows is the next request."""
    head, target = patch_head(connection, repo, Content_Length="5")
    chunked, other = patch_head(connection, repo, Transfer_Encoding="chunked")
    connection.send(head + b"12345" + chunked + b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n" + ping(connection))
    first, second, third = (connection.response() for _ in range(3))
    assert (first.status, first.header("Range")) == (202, "0-4")
    assert (second.status, second.header("Range")) == (202, "0-12")
    assert third.status == 200
    assert target != other


def test_byte_by_byte(connection, repo):
    """A request may be split anywhere."""
    head, _ = patch_head(connection, repo, Transfer_Encoding="chunked")
    for byte in head + b"3;ext=\"a;b\"\r\nabc\r\n000\r\nTrailer: x\r\n\r\n" + ping(connection):
        connection.send(bytes([byte]))
    answer = connection.response()
    assert (answer.status, answer.header("Range")) == (202, "0-2")
    assert connection.response().status == 200


def test_half_close(connection):
    """A client that has sent all it has to say is still answered; then the connection ends."""
    connection.send(ping(connection) * 3)
    connection.half_close()
    assert [connection.response().status for _ in range(3)] == [200] * 3
    assert connection.closed_by_server()


def test_half_close_of_a_long_pull(connection, repo):
    data = randomness("half").randbytes(8 * MIB)
    digest = repo.push_blob(data)
    connection.send(connection.head("GET", repo.target(f"blobs/{digest}")))
    connection.half_close()
    assert connection.response().body == data


@pytest.mark.parametrize("request_line", [
    "GET http://{host}/v2/ HTTP/1.1", "GET HTTP://{host}/v2/ HTTP/1.1", "GET http://other.example/v2/ HTTP/1.1",
    "GET http://other.example:80/v2/?x=http://y HTTP/1.1",
])
def test_absolute_form(connection, request_line):
    connection.send(f"{request_line}\r\nHost: {{host}}\r\n\r\n".format(host=connection.host).encode())
    assert connection.response().status == 200


def test_options_asterisk(connection):
    connection.send(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n" + ping(connection))
    assert connection.response().status in (200, 204, 404, 405)
    assert connection.response().status == 200


@pytest.mark.parametrize("extra", [
    b"Host: x\r\nX:\r\n", b"host:   x   \r\nX: \xc3\xa9\xff\r\n", b"HOST:x\r\nAccept: a, b\r\nAccept: c\r\n",
    b"Host: [::1]:5000\r\n", b"Host: x\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n", b"Host: x\r\nConnection: keep-alive, x\r\nX: 1\r\n",
    b"Host: x\r\nContent-Length: 000\r\n", b"Host: x\r\nRange: bytes=0-1\r\n",
])
def test_unusual_but_right_heads(connection, extra):
    connection.send(b"GET /v2/ HTTP/1.1\r\n" + extra + b"\r\n" + ping(connection))
    assert connection.response().status == 200
    assert connection.response().status == 200


@gap("refuses it")
def test_empty_line_before_a_request(connection):
    """RFC 9112 2.2: at least one is to be ignored."""
    connection.send(b"\r\n" + ping(connection))
    assert connection.response().status == 200


@pytest.mark.parametrize("framing,body", [
    ("Content-Length: 010", b"0123456789"),
    ("Content-Length: 10, 10", b"0123456789"),
    ("Transfer-Encoding: CHUNKED", b"5\r\n01234\r\n05\r\n56789\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked",
     b"00000000000000A;a;b=c;d=\"e\\\"f\"\r\n0123456789\r\n0;last\r\nA: b\r\nC: d\r\n\r\n"),
])
def test_framings(connection, repo, framing, body):
    """Equal lengths in a list may be taken as one (RFC 9112 6.3) or refused."""
    name, value = framing.split(": ")
    head, _ = patch_head(connection, repo, **{name: value})
    connection.send(head + body + ping(connection))
    answer = connection.response()
    if value == "10, 10" and answer.status == 400:
        assert connection.closed_by_server()
        return
    assert (answer.status, answer.header("Range")) == (202, "0-9")
    assert connection.response().status == 200


@fairlead_only
def test_several_addresses(make_registry):
    """One registry on IPv4 and IPv6 at once; the port of each is its own."""
    ports = [harness.free_port(), harness.free_port()]
    registry = make_registry(more_addresses=[f"[::1]:{ports[0]}", f"127.0.0.1:{ports[1]}"])
    digest = registry.repository("many/addresses").push_blob(b"pushed over one")
    for address in (("::1", ports[0]), ("127.0.0.1", ports[1])):
        repo = harness.Repository(http1.Client(address), "many/addresses")
        assert repo.blob(digest).body == b"pushed over one"
        repo.push_image("tag", b"over the other")


# --- Expect --------------------------------------------------------------------------------------------------------


def test_expect_continue(connection, repo):
    head, _ = patch_head(connection, repo, Content_Length="4", Expect="100-continue")
    connection.send(head)
    while b"\r\n\r\n" not in connection.buffer:
        connection.buffer += connection.sock.recv(1000)
    assert connection.buffer.startswith(b"HTTP/1.1 100 "), connection.buffer
    connection.send(b"body")
    answer = connection.response()
    assert answer.status == 202 and [status for status, _ in answer.interim] == [100]


def test_expect_continue_with_the_body_at_once(connection, repo):
    """A client need not wait; the connection stays in step."""
    head, _ = patch_head(connection, repo, Content_Length="4", Expect="100-continue")
    connection.send(head + b"body" + ping(connection))
    answer = connection.response()
    assert answer.status == 202 and answer.header("Range") == "0-3"
    assert connection.response().status == 200


def test_expect_continue_refused_early(connection, repo):
    """No 100 for what is refused by its head; the body is never sent."""
    repo.push_blob(b"exists")
    connection.send(connection.head("PATCH", repo.target("blobs/uploads/" + "0" * 32),
                                    {"Content-Length": str(1 << 40), "Expect": "100-continue"}))
    answer = connection.response()
    assert answer.status == 404 and answer.interim == []


def test_expect_other(connection, repo):
    head, _ = patch_head(connection, repo, Content_Length="4", Expect="200-ok")
    connection.send(head)
    assert connection.response().status == 417


# --- refusals ------------------------------------------------------------------------------------------------------

H = b"Host: x\r\n"
GET = b"GET /v2/ HTTP/1.1\r\n" + H
HEAD_REFUSALS = {
    "no host": (b"GET /v2/ HTTP/1.1\r\n\r\n", 400),
    "two hosts": (GET + b"Host: y\r\n\r\n", 400),
    "bad host": (b"GET /v2/ HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "space before colon": (GET + b"X : y\r\n\r\n", 400),
    "tab before colon": (GET + b"X\t: y\r\n\r\n", 400),
    "empty name": (GET + b": y\r\n\r\n", 400),
    "no colon": (GET + b"X\r\n\r\n", 400),
    "obs-fold": (GET + b"X: y\r\n z\r\n\r\n", 400),
    "fold of first line": (b"GET /v2/ HTTP/1.1\r\n Host: x\r\n\r\n", 400),
    "nul in value": (GET + b"X: a\0b\r\n\r\n", 400),
    "bare cr in value": (GET + b"X: a\rb\r\n\r\n", 400),
    "control in value": (GET + b"X: a\x01b\r\n\r\n", 400),
    "bare lf": (b"GET /v2/ HTTP/1.1\nHost: x\n\n", 400),
    "bare lf in a field line": (GET + b"X: y\nZ: 1\r\n\r\n", 400),
    "invalid name": (GET + b"X(y): z\r\n\r\n", 400),
    "two spaces": (b"GET  /v2/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    "tab in request line": (b"GET\t/v2/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    "space in target": (b"GET /v2/ x HTTP/1.1\r\n" + H + b"\r\n", 400),
    "leading space": (b" GET /v2/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    "no target": (b"GET HTTP/1.1\r\n" + H + b"\r\n", 400),
    "relative target": (b"GET v2/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    "invalid method": (b"G(T /v2/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    "version 1.32": (b"GET /v2/ HTTP/1.32\r\n" + H + b"\r\n", 400),
    "version 01.1": (b"GET /v2/ HTTP/01.1\r\n" + H + b"\r\n", 400),
    "version  1.1": (b"GET /v2/ HTTP/ 1.1\r\n" + H + b"\r\n", 400),
    "version 1.": (b"GET /v2/ HTTP/1.\r\n" + H + b"\r\n", 400),
    "version huge": (b"GET /v2/ HTTP/4294967295.255\r\n" + H + b"\r\n", 400),
    "version lower case": (b"GET /v2/ http/1.1\r\n" + H + b"\r\n", 400),
    "version 2.0": (b"GET /v2/ HTTP/2.0\r\n" + H + b"\r\n", 505),
    "version 3.1": (b"GET /v2/ HTTP/3.1\r\n" + H + b"\r\n", 505),
    "http/0.9": (b"GET /v2/\r\n", 400),
    "http/2 preface, nearly": (b"PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n", (400, 505)),
    "tls hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"r" * 200 + b"\r\n\r\n", 400),
    "length and chunked": (GET + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked and length": (GET + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", 400),
    "chunked twice": (GET + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked, chunked": (GET + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    "unknown coding": (GET + b"Transfer-Encoding: pigeons\r\n\r\n", 501),
    "gzip, chunked": (GET + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "chunked not last": (GET + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", (400, 501)),
    "chunked in 1.0": (b"GET /v2/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (GET + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\n12345", 400),
    "two lengths in a list": (GET + b"Content-Length: 4, 5\r\n\r\n12345", 400),
    "length over 2^63": (GET + b"Content-Length: 9223372036854775808\r\n\r\n", 400),
    "length over 2^64": (GET + b"Content-Length: 18446744073709551621\r\n\r\n12345", 400),
    "empty length": (GET + b"Content-Length:\r\n\r\n", 400),
    "fragment": (b"GET /v2/#x HTTP/1.1\r\n" + H + b"\r\n", 400),
    "target not ascii": (b"GET /v2/\xc3\xa9 HTTP/1.1\r\n" + H + b"\r\n", 400),
    **{f"length {value}": (GET + b"Content-Length: %s\r\n\r\n12345" % value.encode(), 400)
       for value in ("+5", "-5", "0x5", "5_0", "1Z", "5 5", "1e3", "5,")},
}
# What Go's server takes, or refuses in a way of its own.
PEER_TOLERANT = {
    "bare lf", "bare lf in a field line", "obs-fold", "chunked and length", "length and chunked",
    "http/2 preface, nearly", "fragment", "target not ascii", "chunked in 1.0", "empty name", "chunked, chunked", "empty length",
    "chunked twice",
}


def check_refused(connection, repo, request, statuses):
    """The status, the close, and nothing executed of what is pipelined behind."""
    repo.push_image("still-here", b"layer")
    target = repo.target("manifests/still-here")
    connection.send(request + f"DELETE {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    answer = connection.response()
    assert answer.status in (statuses if isinstance(statuses, tuple) else (statuses,)), answer
    assert answer.closes()
    assert connection.closed_by_server(), "more came, or the connection stayed open"
    assert repo.manifest("still-here").status == 200, "a request behind a refused one was executed"


def refusals(table):
    for name, (request, statuses) in table.items():
        marks = [gap("is tolerant")] if name in PEER_TOLERANT else []
        yield pytest.param(request, statuses, id=name, marks=marks)


@pytest.mark.parametrize("request_bytes,statuses", refusals(HEAD_REFUSALS))
def test_refused_heads(connection, repo, request_bytes, statuses):
    check_refused(connection, repo, request_bytes, statuses)


CHUNK_REFUSALS = {
    **{f"chunk size {size.decode()!r}": (size + b"\r\n12345\r\n0\r\n\r\n", 400)
       for size in (b"0x5", b"+5", b"-0", b"5_0", b" 5", b"5 ", b"5g", b"", b"5\t;x", b"10000000000000005")},
    "lf after size": (b"5\n12345\r\n0\r\n\r\n", 400),
    "lf in the end": (b"5\r\n12345\r\n0\n\r\n", 400),
    "lf in extension": (b"5;a\n12345\r\n0\r\n\r\n", 400),
    "no crlf after data": (b"5\r\n123456\r\n0\r\n\r\n", 400),
    "data too short": (b"5\r\n1234\r\n0\r\n\r\n", 400),
    "bad trailer": (b"5\r\n12345\r\n0\r\nX : y\r\n\r\n", 400),
    "endless extension": (b"5;" + b"a" * 100000 + b"\r\n12345\r\n0\r\n\r\n", (400, 431, 413)),
    "endless trailers": (b"5\r\n12345\r\n0\r\n" + b"X: y\r\n" * 20000 + b"\r\n", (400, 431)),
}


@pytest.mark.parametrize("body,statuses", [
    pytest.param(body, statuses, id=name, marks=gap("answers and closes in its own way", strict=False))
    for name, (body, statuses) in CHUNK_REFUSALS.items()])
def test_refused_chunks(connection, repo, body, statuses):
    head, _ = patch_head(connection, repo, Transfer_Encoding="chunked")
    try:
        check_refused(connection, repo, head + body, statuses)
    except (BrokenPipeError, ConnectionResetError):
        pass  # refused while a long line was still being sent


def test_bad_second_request(connection):
    connection.send(ping(connection) + b"GET /v2/ HTTP/1.1\r\nHost : x\r\n\r\n" + ping(connection))
    assert connection.response().status == 200
    answer = connection.response()
    assert answer.status == 400 and answer.closes()
    assert connection.closed_by_server()


def test_body_cut_short(registry, repo):
    """EOF before the announced length: never a finished upload."""
    data = b"x" * 1000
    for framing in ({"Content_Length": "1000"}, {"Transfer_Encoding": "chunked"}):
        location = repo.start_upload().header("Location")
        target = http1.with_query(http1.target_of(location), ("digest", digest_of(data)))
        with registry.client.connect(timeout_s=10) as connection:
            pairs = [(name.replace("_", "-"), value) for name, value in framing.items()]
            cut = data[:999] if "Content_Length" in framing else b"3e8\r\n" + data + b"\r\n"
            connection.send(connection.head("PUT", target, pairs) + cut)
            connection.half_close()
            answer = connection.read_to_end()
            assert answer == b"" or b" 4" in answer.split(b"\r\n")[0]
        assert repo.blob(digest_of(data)).status == 404


# --- limits --------------------------------------------------------------------------------------------------------


@gap("has other limits")
def test_target_too_long(connection):
    connection.send(connection.head("GET", "/v2/" + "a" * 10000))
    answer = connection.response()
    assert answer.status == 414 and answer.closes()
    assert connection.closed_by_server()


@gap("has other limits")
@pytest.mark.parametrize("headers", [{"X": "y" * 20000}, [("X", "y")] * 101, {"x" * 20000: "y"}])
def test_head_too_large(connection, headers):
    connection.send(ping(connection, headers=headers))
    answer = connection.response()
    assert answer.status == 431 and answer.closes()
    assert connection.closed_by_server()


def test_head_without_end(connection):
    """A head that never ends is cut off at the limit: refused, and the connection closed soon after."""
    connection.send(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n")
    started = time.monotonic()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        while time.monotonic() - started < 20:
            connection.send(b"X: " + b"y" * 1000 + b"\r\n")


@fairlead_only
def test_blob_too_large(make_registry):
    """413 by the announced length before any byte is read, or when the stream passes the limit."""
    registry = make_registry(settings={"registry.blob_bytes_max": MIB})
    repo = registry.repository("limits/blob")
    repo.push_blob(b"x" * MIB)
    with registry.client.connect() as connection:
        head, _ = patch_head(connection, repo, Content_Length=str(MIB + 1), Expect="100-continue")
        connection.send(head)
        answer = connection.response()
        assert answer.status == 413 and not answer.interim
    location = repo.start_upload().header("Location")
    answer = repo.at(location, "PATCH", [b"x" * 65536] * 40)
    assert answer.status == 413 and answer.codes(), answer
    location = repo.start_upload().header("Location")
    location = repo.at(location, "PATCH", b"x" * (MIB // 2)).header("Location")
    assert repo.at(location, "PATCH", b"x" * (MIB // 2 + 1)).status == 413


@fairlead_only
def test_connections_max(make_registry):
    """The connection too many gets an answer; when others leave there is room again."""
    registry = make_registry(settings={"http.connections_max": 16})
    opened = [registry.client.connect(timeout_s=60) for _ in range(max(200, 32 * os.cpu_count()))]
    answers = [connection.exchange("GET", "/v2/") for connection in opened]
    refused = [answer for answer in answers if answer.status != 200]
    assert len(answers) - len(refused) >= 16 and {answer.status for answer in refused} == {429}
    assert all(answer.header("Retry-After") and answer.closes() for answer in refused)
    for connection in opened:
        connection.close()
    assert http1.wait_until(registry.is_ready)


# --- clients that stall or go away ---------------------------------------------------------------------------------


def latencies(client, target, count=40):
    spent = []
    for _ in range(count):
        started = time.monotonic()
        assert client.exchange("GET", target).status == 200
        spent.append(time.monotonic() - started)
    return statistics.median(spent)


def test_stalled_clients_do_not_slow_others(registry, repo):
    """1,000 clients stuck in every phase: no byte, half a head, half a body, an unread answer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    digest = repo.push_blob(randomness("stall").randbytes(2 * MIB))
    target = repo.target(f"blobs/{repo.push_blob(b'small')}")
    alone = latencies(registry.client, target)
    stalled = []
    try:
        for i in range(1000):
            connection = registry.client.connect(receive_buffer_bytes=4096)
            stalled.append(connection)
            if i % 4 == 1:
                connection.send(ping(connection)[:20])
            elif i % 40 == 2:
                connection.send(patch_head(connection, repo, Content_Length="100000")[0] + b"x" * 1000)
            elif i % 4 == 3:
                connection.send(connection.head("GET", repo.target(f"blobs/{digest}")))
        crowded = latencies(registry.client, target)
    finally:
        for connection in stalled:
            connection.close()
    assert crowded < max(20 * alone, 0.1), (alone, crowded)


def test_aborted_pulls_leave_nothing_behind(registry, repo):
    """Clients that reset in the middle of a download: descriptors come back to where they were."""
    digest = repo.push_blob(randomness("abort").randbytes(8 * MIB))
    target = repo.target(f"blobs/{digest}")

    def abort(count):
        for i in range(count):
            connection = registry.client.connect(receive_buffer_bytes=65536)
            connection.send(connection.head("GET", target))
            connection.sock.recv(1000)
            connection.reset() if i % 2 else connection.close()

    abort(20)
    time.sleep(0.5)
    before = registry.descriptors()
    abort(200)
    assert http1.wait_until(lambda: registry.descriptors() <= before + 8, 10), (before, registry.descriptors())
    assert len(repo.blob(digest).body) == 8 * MIB


def test_aborted_pushes_leave_nothing_behind(registry, repo):
    """Their sessions stay, for clients that come back; connections do not."""

    def abort(count):
        for i in range(count):
            connection = registry.client.connect()
            connection.send(patch_head(connection, repo, Content_Length=str(MIB))[0] + b"x" * 100000)
            connection.reset() if i % 2 else connection.close()

    abort(10)
    time.sleep(0.5)
    sockets = lambda: registry.descriptors("socket:")
    before = sockets()
    abort(100)
    assert http1.wait_until(lambda: sockets() <= before + 2, 10), (before, sockets())
    repo.push_blob(b"as before")


def test_garbage(registry):
    """Random bytes, cut and mutated requests: an answer or a close, and the server lives."""
    rng = randomness("garbage")
    seeds = [GET + b"\r\n", b"PATCH /v2/a/blobs/uploads/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
             b"5\r\n12345\r\n0\r\n\r\n", rng.randbytes(300)]
    for i in range(300):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with registry.client.connect(timeout_s=10) as connection:
            connection.send(bytes(data[:rng.randint(1, len(data))]))
            connection.half_close()
            try:
                answer = connection.read_to_end()
            except ConnectionResetError:
                continue
            assert answer == b"" or answer.startswith(b"HTTP/1."), (i, bytes(data), answer)
    assert registry.is_ready()


def test_connect_and_reset(registry):
    """Connections that are gone before they are accepted."""
    for _ in range(300):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.connect(registry.address)
        sock.close()
    assert registry.is_ready()


def test_refused_push_answers_a_sending_client(registry, repo):
    """A client in the middle of sending a large body reads the error, not a reset."""
    repo.push_blob(b"exists")
    for _ in range(5):
        with registry.client.connect(timeout_s=20) as connection:
            answer = connection.exchange("PATCH", repo.target("blobs/uploads/" + "0" * 32), [b"x" * MIB] * 8)
            assert answer.status == 404


# --- stopping ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(KIND != "fairlead", reason="the peer does not drain")
def test_drain(make_registry):
    """SIGTERM: what runs is finished, what is idle is closed, then a clean exit."""
    registry = make_registry()
    repo = registry.repository("drain/x")
    data = randomness("drain").randbytes(32 * MIB)
    digest = repo.push_blob(data)
    idle = registry.client.connect()
    assert idle.exchange("GET", "/v2/").status == 200
    pull = registry.client.connect(receive_buffer_bytes=65536)
    pull.send(pull.head("GET", repo.target(f"blobs/{digest}")))
    push = registry.client.connect()
    push.send(patch_head(push, repo, Content_Length="1000")[0] + b"x" * 500)
    time.sleep(0.2)
    registry.process.terminate()
    time.sleep(0.3)
    assert idle.closed_by_server(5)
    push.send(b"x" * 500)
    answer = push.response()
    assert answer.status == 202 and answer.closes()
    answer = pull.response()
    assert answer.body == data
    assert pull.closed_by_server(5)
    assert registry.stop() < 5


@fairlead_only
def test_drain_timeout(make_registry):
    """A client that never ends does not hold up the stop for longer than the setting."""
    registry = make_registry(settings={"http.drain_timeout": 1000})
    repo = registry.repository("drain/y")
    digest = repo.push_blob(bytes(32 * MIB))
    with registry.client.connect(receive_buffer_bytes=65536) as connection:
        connection.send(connection.head("GET", repo.target(f"blobs/{digest}"), {"Accept": IMAGE_TYPE}))
        connection.sock.recv(100)
        assert registry.stop() < 6
