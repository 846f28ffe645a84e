# SPDX-License-Identifier: Apache-2.0
"""Every phase of an exchange has a time limit of its own. Short limits are set here; each test also checks that a
client which is merely slow, within the limit, is served."""

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
