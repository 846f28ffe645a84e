# SPDX-License-Identifier: Apache-2.0
"""Every phase of an exchange has a time limit of its own. Short limits are set here; each test also checks that a
client which is merely slow, within the limit, is served."""

import contextlib
import pathlib
import re
import resource
import socket
import statistics
import time

import pytest

import harness
import http1
from harness import KIND, randomness

MIB = 1 << 20
pytestmark = pytest.mark.skipif(KIND != "fairlead", reason="the peer has no such settings")

SETTINGS = {
    "http.header_timeout": 700, "http.idle_timeout": 1200, "http.body_timeout": 700, "http.send_timeout": 1000,
    "http.body_rate_min": 20000, "http.body_rate_grace": 1500, "http.linger_timeout": 300,
}


@pytest.fixture(scope="module")
def impatient():
    instance = harness.new_registry(settings=SETTINGS)
    try:
        yield instance.start()
    finally:
        instance.close()


@pytest.fixture
def connection(impatient):
    with impatient.client.connect(timeout_s=10) as opened:
        yield opened


def upload(connection, repo, length):
    target = http1.target_of(repo.start_upload().header("Location"))
    connection.send(connection.head("PATCH", target, {"Content-Length": str(length)}))
    return target


def elapsed_to_close(connection):
    started = time.monotonic()
    assert connection.closed_by_server(10)
    return time.monotonic() - started


@pytest.mark.parametrize("sent", [b"G", b"GET /v2/ HTTP/1.1\r\n", b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: y\r\n"])
def test_slow_head(connection, sent):
    started = time.monotonic()
    connection.send(sent)
    answer = connection.response()
    assert 0.4 < time.monotonic() - started < 3
    assert answer.status == 408 and answer.closes()
    assert connection.closed_by_server()


def test_head_byte_by_byte_is_no_excuse(connection):
    """The limit is on the whole head: a byte now and then does not extend it."""
    started = time.monotonic()
    try:
        for byte in b"GET /v2/ HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 100:
            connection.send(bytes([byte]))
            time.sleep(0.05)
    except (BrokenPipeError, ConnectionResetError):
        pass
    assert time.monotonic() - started < 4


def test_slow_second_head(connection):
    assert connection.exchange("GET", "/v2/").status == 200
    connection.send(b"GET /v2/")
    assert connection.response().status == 408


def test_idle(connection):
    """Nobody waits for an answer: closed without a word."""
    assert connection.exchange("GET", "/v2/").status == 200
    assert 0.8 < elapsed_to_close(connection) < 4


def test_idle_from_the_start(connection):
    assert 0.4 < elapsed_to_close(connection) < 4


def test_used_connection_stays(connection):
    for _ in range(6):
        assert connection.exchange("GET", "/v2/").status == 200
        time.sleep(0.4)


def test_body_that_pauses(impatient, connection):
    repo = impatient.repository("timeouts/pause")
    upload(connection, repo, 100000)
    connection.send(b"x" * 1000)
    started = time.monotonic()
    answer = connection.response()
    assert 0.4 < time.monotonic() - started < 4
    assert answer.status == 408 and answer.closes()
    assert connection.closed_by_server()


def test_body_that_trickles(impatient, connection):
    """Each pause is short, but the rate is below the floor."""
    repo = impatient.repository("timeouts/trickle")
    upload(connection, repo, 10 * MIB)
    started = time.monotonic()
    try:
        while time.monotonic() - started < 10:
            connection.send(b"x" * 500)
            time.sleep(0.1)
    except (BrokenPipeError, ConnectionResetError):
        pass
    assert 1.0 < time.monotonic() - started < 6


def test_body_above_the_floor(impatient, connection):
    """Slow, but fast enough: served for as long as it takes."""
    repo = impatient.repository("timeouts/steady")
    upload(connection, repo, 40 * 4000)
    for _ in range(40):
        connection.send(b"x" * 4000)
        time.sleep(0.09)
    assert connection.response().status == 202


def test_what_was_received_before_a_timeout_is_kept(impatient, connection):
    repo = impatient.repository("timeouts/kept")
    target = upload(connection, repo, 10 * MIB)
    connection.send(b"x" * (2 * MIB))
    assert connection.response().status == 408
    answer = repo.at(target, "GET")
    assert answer.status == 204
    held = int(answer.header("Range").split("-")[1]) + 1
    assert 0 < held <= 2 * MIB


def test_client_that_does_not_read(impatient):
    repo = impatient.repository("timeouts/reader")
    digest = repo.push_blob(randomness("reader").randbytes(32 * MIB))
    before = impatient.descriptors()
    stuck = []
    for _ in range(10):
        connection = impatient.client.connect(receive_buffer_bytes=4096)
        connection.send(connection.head("GET", repo.target(f"blobs/{digest}")))
        stuck.append(connection)
    time.sleep(0.3)
    assert impatient.descriptors() > before
    assert http1.wait_until(lambda: impatient.descriptors() <= before + 2, 10)
    for connection in stuck:
        connection.close()


def test_client_that_reads_slowly(impatient):
    """It takes bytes within each limit: it gets them all, in more time than any limit."""
    repo = impatient.repository("timeouts/slow-reader")
    data = randomness("slow reader").randbytes(8 * MIB)
    digest = repo.push_blob(data)
    with impatient.client.connect(receive_buffer_bytes=131072) as connection:
        connection.send(connection.head("GET", repo.target(f"blobs/{digest}")))
        pieces = []

        def slowly(piece):
            pieces.append(piece)
            time.sleep(0.0005 * (len(piece) / 1024) if connection.received < 6 * MIB else 0)

        assert connection.response(sink=slowly).status == 200
    assert b"".join(pieces) == data


# --- ten thousand that stall ------------------------------------------------------------------------------------------

PATIENT = {
    "http.header_timeout": 600000, "http.idle_timeout": 600000, "http.body_timeout": 600000, "http.send_timeout": 600000,
    "http.body_rate_grace": 600000,
}
STALLED = {"nothing": 4000, "half a head": 4000, "half a body": 1500, "reads nothing": 500}
SANITIZED = any(name in (harness.BUILD / "fairlead-dataplane").read_bytes() for name in (b"__asan_init", b"__tsan_init")) \
    if (harness.BUILD / "fairlead-dataplane").exists() else False


def stall(kind, registry, repo, blob):
    """A connection that has come so far and goes no further."""
    sock = socket.socket()
    if kind == "reads nothing":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(60)
    sock.connect(registry.address)
    head = f"GET {repo.target('blobs/' + blob)} HTTP/1.1\r\nHost: {registry.host}\r\n"
    if kind == "half a head":
        sock.sendall(head.encode())
    elif kind == "reads nothing":
        sock.sendall(head.encode() + b"\r\n")
    elif kind == "half a body":
        target = http1.target_of(repo.start_upload().header("Location"))
        sock.sendall(f"PATCH {target} HTTP/1.1\r\nHost: {registry.host}\r\nContent-Length: 100000\r\n\r\n".encode()
                     + b"x" * 1000)
    return sock


def resident_bytes(registry):
    """Of the data plane, without the pages of files."""
    rows = [pathlib.Path(f"/proc/{pid}/status").read_text() for pid in registry.dataplane_pids()]
    return sum(1024 * int(re.search(r"^RssAnon:\s+(\d+)", row, re.M)[1]) for row in rows)


def seconds_of_work(registry, repo, blob, size):
    """What the others want: small answers one after the other, new connections, a large blob, a push."""
    started = time.monotonic()
    with registry.client.connect() as connection:
        for _ in range(200):
            assert connection.exchange("GET", "/v2/").status == 200
        for _ in range(10):
            answer = connection.exchange("GET", repo.target(f"blobs/{blob}"))
            assert answer.status == 200 and len(answer.body) == size
    for i in range(20):
        assert registry.client.exchange("GET", "/v2/").status == 200
    repo.push_blob(str(started).encode() * 10000)
    return time.monotonic() - started


@pytest.mark.slow
def test_ten_thousand_stalled_clients(make_registry):
    """They cost memory that is bounded, and nobody else's time. The bound on the time is generous: the test's own client
    shares the machine with the server."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    registry = make_registry(settings=PATIENT)
    repo = registry.repository("timeouts/ten-thousand")
    blob = repo.push_blob(randomness("ten thousand").randbytes(4 * MIB))

    def work():
        return statistics.median(seconds_of_work(registry, repo, blob, 4 * MIB) for _ in range(5))
    before_s, before_bytes = work(), resident_bytes(registry)
    with contextlib.ExitStack() as stack:
        stalled = {kind: [stack.enter_context(stall(kind, registry, repo, blob)) for _ in range(count)]
                   for kind, count in STALLED.items()}
        assert sum(map(len, stalled.values())) == 10000
        admin = http1.Client(("127.0.0.1", registry.admin_port))

        def open_connections():
            text = admin.exchange("GET", "/metrics").body.decode()
            return sum(map(int, re.findall(r"^fairlead_connections_open(?:{.*})? (\d+)", text, re.M)))
        assert http1.wait_until(lambda: open_connections() >= 10000, 20), open_connections()
        during_s, during_bytes = work(), resident_bytes(registry)
        assert open_connections() >= 10000, "they were closed, not served beside"
        for kind in ("nothing", "half a head", "half a body"):
            for sock in stalled[kind][::100]:
                sock.setblocking(False)
                with pytest.raises(BlockingIOError):
                    sock.recv(1)  # neither answered nor closed
    assert during_s < 4 * before_s + 0.2, (before_s, during_s)
    # 2 KiB for each connection, 48 KiB for each request at work, and the buffers of bodies.
    bound = 10000 * 2048 + 2000 * 48 * 1024 + 64 * MIB
    assert SANITIZED or during_bytes - before_bytes < bound, (before_bytes, during_bytes)
    assert http1.wait_until(lambda: open_connections() < 100, 20), "they are gone"
    assert work() < 4 * before_s + 0.2
