# SPDX-License-Identifier: Apache-2.0
"""HTTP/2: the registry by prior knowledge, frames that a client should not send, backends that speak it."""

import hashlib
import json
import re
import shutil
import struct
import subprocess
import sys
import threading
import time

import pytest

import harness
import http1
import http2
from harness import KIND
from http2 import (ACK, CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, GOAWAY,
                   HEADERS, NO_ERROR, PING, PRIORITY, PROTOCOL_ERROR, REFUSED_STREAM, RST_STREAM, SETTINGS, WINDOW_UPDATE,
                   Session, frame)

pytestmark = pytest.mark.skipif(KIND != "fairlead", reason="the peer speaks HTTP/2 over TLS alone")
MIB = 1 << 20


@pytest.fixture
def session(registry):
    with Session(registry.address) as opened:
        yield opened


def closed(registry, reason):
    """How many connections were closed for that reason so far."""
    body = http1.Client(("127.0.0.1", registry.admin_port)).exchange("GET", "/metrics").body.decode()
    return int(re.search(r'closed_total\{reason="%s"\} (\d+)' % reason, body)[1])


def content(size, seed=1):
    return hashlib.shake_128(b"%d" % seed).digest(size)


def push(session, name, data):
    begun = session.exchange("POST", f"/v2/{name}/blobs/uploads/")
    assert begun.status == 202, begun
    digest = harness.digest_of(data)
    done = session.exchange("PUT", f"{begun.fields['location']}?digest={digest}", body=data)
    assert done.status == 201, done
    return digest


# --- what it is for ------------------------------------------------------------------------------------------------


def test_ping_and_registry(session):
    answer = session.exchange("GET", "/v2/")
    assert (answer.status, answer.body, answer.ended) == (200, b"{}\n", True)
    assert "connection" not in answer.fields and "transfer-encoding" not in answer.fields
    session.send(frame(PING, payload=b"12345678"))
    pong = session.until(PING)
    assert pong.flags & ACK and pong.payload == b"12345678"


def test_settings(session):
    settings = session.until(SETTINGS).payload
    pairs = dict(struct.unpack(">HI", settings[i:i + 6]) for i in range(0, len(settings), 6))
    assert pairs[3] == 128 and pairs[4] == 256 << 10 and pairs[6] == 16384 and pairs[9] == 1


def test_push_and_pull(session):
    data = content(3 * MIB + 17)
    digest = push(session, "h2/large", data)
    pulled = session.exchange("GET", f"/v2/h2/large/blobs/{digest}")
    assert pulled.status == 200 and pulled.body == data
    assert pulled.fields["content-length"] == str(len(data))
    head = session.exchange("HEAD", f"/v2/h2/large/blobs/{digest}")
    assert head.status == 200 and head.body == b"" and head.fields["content-length"] == str(len(data))
    part = session.exchange("GET", f"/v2/h2/large/blobs/{digest}", more=[("range", "bytes=5-9")])
    assert part.status == 206 and part.body == data[5:10]


def test_missing(session):
    answer = session.exchange("GET", "/v2/h2/none/manifests/x")
    assert answer.status == 404 and json.loads(answer.body)["errors"]


def test_body_without_length(session):
    """DATA frames of any size, and padding."""
    data = content(100000, 2)
    begun = session.exchange("POST", "/v2/h2/pieces/blobs/uploads/")
    stream = session.request("PUT", f"{begun.fields['location']}?digest={harness.digest_of(data)}", end=False)
    at = 0
    for i, size in enumerate((1, 2, 1000, 16384, 16383, 16384, 16384, 16384, 16384)):
        part = data[at:at + size]
        at += len(part)
        if i % 2:
            session.send(frame(DATA, http2.PADDED, stream, b"\x05" + part[:16000] + b"\0" * 5))
            session.data(stream, part[16000:]) if part[16000:] else None
        else:
            session.data(stream, part)
    session.data(stream, data[at:], end=True)
    assert session.answer(stream).status == 201


def test_continue(session):
    begun = session.exchange("POST", "/v2/h2/continue/blobs/uploads/")
    stream = session.request("PUT", f"{begun.fields['location']}?digest={harness.digest_of(b'abc')}", end=False,
                             more=[("expect", "100-continue"), ("content-length", "3")])
    assert session.until(HEADERS).stream == stream
    assert session.answers[stream].heads[0] == [(":status", "100")]
    session.data(stream, b"abc", end=True)
    assert session.answer(stream).status == 201


def test_a_hundred_at_a_time(session):
    digest = push(session, "h2/many", content(40000, 3))
    streams = [session.request("GET", f"/v2/h2/many/blobs/{digest}") for _ in range(100)]
    for stream in streams:
        assert session.answer(stream).body == content(40000, 3)


def test_more_streams_than_the_limit(session):
    """A client that knows the limit and does not keep it is not spoken to any more."""
    digest = push(session, "h2/limit", content(MIB, 4))
    session.grow = False
    for _ in range(128):
        session.request("GET", f"/v2/h2/limit/blobs/{digest}")
    session.send(frame(PING, payload=b"12345678"))
    session.until(PING)
    session.request("GET", "/v2/")
    assert session.drain() == PROTOCOL_ERROR


def test_a_slow_stream_beside_a_fast_one(session):
    data = content(2 * MIB, 5)
    digest = push(session, "h2/slow", data)
    session.grow = False
    slow = session.request("GET", f"/v2/h2/slow/blobs/{digest}")
    while len(session.answers.get(slow, http2.Answer()).body) < http2.WINDOW:
        session.next()
    session.grow = True
    session.window(0, http2.WINDOW)
    fast = session.request("GET", f"/v2/h2/slow/blobs/{digest}")
    assert session.answer(fast).body == data
    assert len(session.answers[slow].body) == http2.WINDOW
    session.window(slow, len(data))
    assert session.answer(slow).body == data


def test_a_slow_upload_beside_fast_ones(session):
    begun = session.exchange("POST", "/v2/h2/slowly/blobs/uploads/")
    slow = session.request("PUT", f"{begun.fields['location']}?digest={harness.digest_of(b'slow')}", end=False)
    session.data(slow, b"sl")
    for i in range(5):
        push(session, "h2/slowly", content(300000, i))
    session.data(slow, b"ow", end=True)
    assert session.answer(slow).status == 201


def test_smallest_window(registry):
    """A client whose windows are one byte still gets everything."""
    data = content(300, 6)
    with Session(registry.address) as first:
        digest = push(first, "h2/tiny", data)
    with Session(registry.address, settings=[(4, 1)]) as session:
        assert session.exchange("GET", f"/v2/h2/tiny/blobs/{digest}").body == data


def test_client_gives_up(session, registry):
    """A stream that is reset ends on our side, too; the session goes on."""
    digest = push(session, "h2/reset", content(4 * MIB, 7))
    session.grow = False
    for _ in range(20):
        stream = session.request("GET", f"/v2/h2/reset/blobs/{digest}")
        session.reset(stream)
    session.grow = True
    assert session.exchange("GET", "/v2/").status == 200
    assert http1.wait_until(lambda: figure(registry, "fairlead_streams_open") <= 1, 20)


def figure(registry, name):
    body = http1.Client(("127.0.0.1", registry.admin_port)).exchange("GET", "/metrics").body.decode()
    return sum(int(n) for n in re.findall(r"^%s(?:\{[^}]*\})? (\d+)$" % name, body, re.M))


def test_early_answer_stops_the_upload(session):
    """The answer is complete; RST_STREAM with NO_ERROR says that the rest is not wanted."""
    stream = session.request("PUT", "/v2/h2/none/manifests/x", end=False, more=[("content-length", str(64 * MIB))])
    answer = session.answer(stream)
    assert answer.status == 413 and answer.ended
    if answer.reset is None:
        session.until(RST_STREAM)
    assert answer.reset == NO_ERROR
    assert session.exchange("GET", "/v2/").status == 200


def test_goaway_at_drain(make_registry):
    registry = make_registry()
    with Session(registry.address) as session:
        assert session.exchange("GET", "/v2/").status == 200
        assert http1.wait_until(lambda: "serves with" in registry.log(), 30)  # who is not that far is not drained
        stopper = threading.Thread(target=registry.stop)
        stopper.start()
        assert session.drain() == NO_ERROR
        goaways = [struct.unpack(">I", f.payload[:4])[0] for f in session.frames if f.kind == GOAWAY]
        assert goaways[0] == 2**31 - 1 and goaways[-1] == 1
        stopper.join()


@pytest.mark.slow
def test_idle(make_registry):
    registry = make_registry(settings={"http.idle_timeout": 300})
    with Session(registry.address) as session:
        assert session.exchange("GET", "/v2/").status == 200
        assert session.drain() == NO_ERROR
    assert closed(registry, "idle_timeout") == 1


def test_requests_max(make_registry):
    registry = make_registry(settings={"http.requests_max": 3})
    with Session(registry.address) as session:
        for _ in range(3):
            assert session.exchange("GET", "/v2/").status == 200
        assert session.drain() == NO_ERROR


def test_curl(registry):
    """A client of the world's, over the same port as HTTP/1.1."""
    for how in ("--http2-prior-knowledge", "--http1.1"):
        done = subprocess.run(["curl", "-sf", how, "-w", "%{http_version}", f"http://{registry.host}/v2/"],
                              stdout=subprocess.PIPE, check=True, timeout=30)
        assert done.stdout.split()[-1] == (b"2" if "2" in how else b"1.1")


@pytest.mark.skipif(not shutil.which("h2load"), reason="no h2load")
def test_h2load(registry):
    done = subprocess.run(["h2load", "-n", "2000", "-c", "4", "-m", "50", f"http://{registry.host}/v2/"],
                          stdout=subprocess.PIPE, check=True, timeout=60, text=True)
    assert "2000 succeeded, 0 failed" in done.stdout


# --- requests that are refused -------------------------------------------------------------------------------------

G = [(":method", "GET"), (":scheme", "http"), (":path", "/v2/"), (":authority", "x")]
MALFORMED = {
    "upper case": G + [("Accept", "x")],
    "connection": G + [("connection", "close")],
    "keep-alive": G + [("keep-alive", "x")],
    "upgrade": G + [("upgrade", "websocket")],
    "transfer-encoding": G + [("transfer-encoding", "chunked")],
    "te": G + [("te", "gzip")],
    "no path": G[:2] + G[3:],
    "no method": G[1:],
    "no scheme": G[:1] + G[2:],
    "empty path": G[:2] + [(":path", "")] + G[3:],
    "relative path": G[:2] + [(":path", "v2/")] + G[3:],
    "scheme": G[:1] + [(":scheme", "ftp")] + G[2:],
    "pseudo twice": G + [(":path", "/")],
    "pseudo late": G[:3] + [("a", "b")] + G[3:],
    "unknown pseudo": G + [(":x", "y")],
    "status": G + [(":status", "200")],
    "LF": G + [("a", "b\nc")],
    "CR": G + [("a", "b\rc")],
    "NUL": G + [("a", "b\0c")],
    "blank before": G + [("a", " b")],
    "blank behind": G + [("a", "b ")],
    "line in path": G[:2] + [(":path", "/v2/ HTTP/1.1\r\nx: y")] + G[3:],
    "line in method": [(":method", "GET / HTTP/1.1\r\nx: y\r\n\r\nGET")] + G[1:],
    "line in name": G + [("a: b\r\nc", "d")],
    "another host": G + [("host", "y")],
    "no host": G[:3],
    "length twice": G + [("content-length", "0"), ("content-length", "0")],
    "length with content to come": G + [("content-length", "5")],
    "bad length": G + [("content-length", "x")],
}


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED)
def test_malformed(session, fields):
    assert session.answer(session.request(fields=fields)).reset == PROTOCOL_ERROR
    assert session.exchange("GET", "/v2/").status == 200


def open_upload(session, length):
    """A request whose content is read, of that length, which has still to come."""
    begun = session.exchange("POST", "/v2/h2/open/blobs/uploads/")
    return session.request("PUT", f"{begun.fields['location']}?digest={harness.digest_of(b'')}", end=False,
                           more=[("content-length", str(length))])


def test_content_of_another_length(session):
    for parts in ([b"1234"], [b"123456"], [b"123", b"456"]):
        stream = open_upload(session, 5)
        for i, part in enumerate(parts):
            session.data(stream, part, end=i == len(parts) - 1)
        assert session.answer(stream).reset == PROTOCOL_ERROR
    assert session.exchange("GET", "/v2/").status == 200


def test_limits_of_heads(session):
    assert session.exchange("GET", "/v2/", more=[("a", "b" * 20000)]).status == 431
    assert session.exchange("GET", "/v2/", more=[("a", "b")] * 120).status == 431
    assert session.exchange("GET", "/v2/?" + "b" * 9000).status == 414
    assert session.exchange("GET", "/v2/").status == 200


def test_connect(session):
    assert session.exchange(fields=[(":method", "CONNECT"), (":authority", "x:1")]).status == 501
    extended = session.request(fields=[(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"),
                                       (":path", "/"), (":authority", "x")])
    assert session.answer(extended).reset == PROTOCOL_ERROR
    assert session.exchange("GET", "/v2/").status == 200


def test_cookies_become_one(session):
    crumbs = [("cookie", "a=1"), ("cookie", "b=2")]
    assert session.exchange("GET", "/v2/", more=crumbs).status == 200


def test_admin_speaks_http1_alone(registry):
    with Session(("127.0.0.1", registry.admin_port)) as session:
        assert session.receive(12) == b"HTTP/1.1 400"


# --- sessions that are ended ---------------------------------------------------------------------------------------


def flood(registry, reason, send, code=ENHANCE_YOUR_CALM, settings=()):
    """send(session, i) again and again ends the session, for that reason; others do not notice."""
    before = closed(registry, reason)
    with Session(registry.address, settings=settings) as session:
        session.sock.settimeout(30)
        assert session.exchange("GET", "/v2/").status == 200
        reader = threading.Thread(target=session.drain)
        reader.start()
        for i in range(200000):
            if session.goaway is not None or session.closed or send(session, i) is False:
                break
        else:
            pytest.fail("the session goes on")
        reader.join(30)
        assert not reader.is_alive()
        assert session.goaway == code
    assert http1.wait_until(lambda: closed(registry, reason) == before + 1, 10)
    with Session(registry.address) as other:
        assert other.exchange("GET", "/v2/").status == 200


def test_rapid_reset(registry):
    def send(session, _):
        stream = session.request("GET", "/v2/")
        session.reset(stream)
    flood(registry, "h2_resets", send)


def test_provoked_resets(registry):
    """The resets are ours, for requests that are malformed."""
    before = closed(registry, "h2_resets")
    with Session(registry.address) as session:
        for _ in range(2000):
            if session.answer(session.request(fields=G + [("connection", "x")])).reset != PROTOCOL_ERROR:
                break
        assert session.drain() == ENHANCE_YOUR_CALM
    assert http1.wait_until(lambda: closed(registry, "h2_resets") == before + 1, 10)


def test_ping_flood(registry):
    flood(registry, "h2_control", lambda session, _: session.send(frame(PING, payload=b"8" * 8) * 20))


def test_ping_flood_unread(registry):
    """The answers are not even read."""
    before = closed(registry, "h2_control")
    with Session(registry.address) as session:
        for _ in range(20000):
            if not session.send(frame(PING, payload=b"8" * 8) * 20):
                break
        assert session.drain() in (ENHANCE_YOUR_CALM, None)
    assert http1.wait_until(lambda: closed(registry, "h2_control") == before + 1, 10)


def test_settings_flood(registry):
    flood(registry, "h2_control", lambda session, _: session.send(frame(SETTINGS) * 10))


def test_priority_flood(registry):
    flood(registry, "h2_control",
          lambda session, i: session.send(frame(PRIORITY, 0, 2 * i + 1, struct.pack(">IB", 0, 1))))


def test_unknown_frames_flood(registry):
    flood(registry, "h2_control", lambda session, _: session.send(frame(0x55, 0, 0, b"x") * 10))


def test_window_update_flood(registry):
    flood(registry, "h2_control", lambda session, _: session.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)) * 10))


def test_windows_that_we_open_are_not_tiny(registry):
    """However small the frames are that use them up."""
    with Session(registry.address) as session:
        upload = http1.target_of(session.exchange("POST", "/v2/h2/small/blobs/uploads/").fields["location"])
        stream = session.request("PATCH", upload, end=False, more=[("content-length", "3000000")])
        data, at = content(3_000_000, 22), 0
        while at < len(data):
            n = min(1000, session.room[0], session.room.setdefault(stream, session.first_room), len(data) - at)
            if n <= 0:
                assert session.next()
                continue
            session.data(stream, data[at:at + n], at + n == len(data))
            session.room[0], session.room[stream] = session.room[0] - n, session.room[stream] - n
            at += n
        assert session.answer(stream).status == 202
        opened = [got.code for got in session.frames if got.kind == WINDOW_UPDATE]
        assert opened and min(opened) >= 30_000, sorted(opened)[:5]


def test_empty_data_flood(registry):
    def send(session, i):
        if i == 0:
            session.request("POST", "/v2/h2/x/blobs/uploads/", end=False)
        return session.send(frame(DATA, 0, 3) * 5)
    flood(registry, "h2_empty", send)


def test_continuation_flood(registry):
    def send(session, i):
        if i == 0:
            return session.send(frame(HEADERS, 0, 3, session.encoder.encode(session.fields())))
        return session.send(frame(CONTINUATION, 0, 3, b"\x00\x01a\x01b"))
    flood(registry, "h2_headers", send)


def test_hpack_bomb(registry):
    """One large field in the table, then one byte for each time it is meant again."""
    def send(session, i):
        if i == 0:
            block = session.encoder.encode(session.fields()) + b"\x40\x01a\x7f\xa1\x1e" + b"b" * 4000
            return session.send(frame(HEADERS, END_HEADERS, 3, block))
        return session.send(frame(HEADERS, END_HEADERS | END_STREAM, 2 * i + 3, b"\xbe" * 16000))
    flood(registry, "h2_headers", send)


def test_requests_without_end_that_nobody_reads(make_registry):
    """What a session may keep is bounded, and goes with it."""
    registry = make_registry(settings={"http2.streams_max": 1024, "http.streams_max": 1024, "http.send_timeout": 500})
    with Session(registry.address) as session:
        for _ in range(3000):
            session.request("GET", "/v2/?" + "x" * 2000)
    assert http1.wait_until(lambda: registry.client.exchange("GET", "/v2/").status == 200, 20)
    assert http1.wait_until(lambda: figure(registry, "fairlead_http2_sessions_open") == 0, 20)


def broken(registry, data, codes, reason="h2_error"):
    before = closed(registry, reason)
    with Session(registry.address) as session:
        session.exchange("GET", "/v2/")
        session.send(data(session) if callable(data) else data)
        assert session.drain() in codes
    assert http1.wait_until(lambda: closed(registry, reason) == before + 1, 10)


BREACHES = {
    "window of zero": (frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 0)), (PROTOCOL_ERROR,)),
    "window too large": (frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1)), (FLOW_CONTROL_ERROR,)),
    "frame too large": (frame(DATA, 0, 1, b"x" * 16385), (6,)),
    "data without a stream": (frame(DATA, 0, 0, b"x"), (PROTOCOL_ERROR,)),
    "headers on an even stream": (frame(HEADERS, END_HEADERS, 2, b"\x82"), (PROTOCOL_ERROR,)),
    "continuation alone": (frame(CONTINUATION, END_HEADERS, 1, b"\x82"), (PROTOCOL_ERROR,)),
    "bad compression": (frame(HEADERS, END_HEADERS, 101, b"\xff\xff\xff\xff\xff\xff\xff"), (9,)),
    "short ping": (frame(PING, payload=b"1"), (6,)),
    "settings with a remainder": (frame(SETTINGS, payload=b"12345"), (6,)),
    "push from a client": (frame(SETTINGS, payload=struct.pack(">HI", 2, 2)), (PROTOCOL_ERROR,)),
    "reset of an idle stream": (frame(RST_STREAM, 0, 99, struct.pack(">I", 8)), (PROTOCOL_ERROR,)),
    "interleaved blocks": (frame(HEADERS, 0, 3, b"\x82") + frame(PING, payload=b"12345678"), (PROTOCOL_ERROR,)),
}


@pytest.mark.parametrize("data,codes", BREACHES.values(), ids=BREACHES)
def test_breach(registry, data, codes):
    broken(registry, data, codes)


def test_window_of_a_stream_overflows(session):
    """A stream error: the session goes on."""
    stream = open_upload(session, 5)
    session.window(stream, 2**31 - 1)
    assert session.answer(stream).reset == FLOW_CONTROL_ERROR
    assert session.exchange("GET", "/v2/").status == 200


def test_slow_head(make_registry):
    registry = make_registry(settings={"http.header_timeout": 300})
    with Session(registry.address) as session:
        assert session.exchange("GET", "/v2/").status == 200
        session.send(frame(HEADERS, 0, 3, session.encoder.encode(session.fields())))
        assert session.drain() == NO_ERROR
    assert closed(registry, "header_timeout") == 1


def test_client_that_reads_nothing(make_registry):
    registry = make_registry(settings={"http.send_timeout": 500})
    with Session(registry.address, settings=[(4, 2**31 - 1)]) as session:
        digest = push(session, "h2/unread", content(30 * MIB, 8))
        session.window(0, 2**30)
        session.request("GET", f"/v2/h2/unread/blobs/{digest}")
        assert http1.wait_until(lambda: closed(registry, "send_timeout") >= 1, 30)


def test_client_that_opens_no_window(make_registry):
    """The session moves, one stream of it does not: that stream ends."""
    registry = make_registry(settings={"http.send_timeout": 500})
    with Session(registry.address, settings=[(4, 0)]) as session:
        session.until(SETTINGS)
        stream = session.request("GET", "/v2/")
        assert session.answer(stream).reset is not None
        assert closed(registry, "send_timeout") == 1
        session.send(frame(PING, payload=b"12345678"))
        assert session.until(PING).flags & ACK


# --- through the proxy ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grpc_port():
    pytest.importorskip("grpc")
    server = subprocess.Popen([sys.executable, harness.SOURCE / "tests" / "system" / "grpc_echo.py"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    yield int(server.stdout.readline())
    server.stdin.close()
    assert server.wait(20) == 0


@pytest.fixture
def grpc_channel(grpc_port):
    import grpc
    import proxy_rig
    with proxy_rig.Ring(("127.0.0.1", grpc_port), backend_http=2) as ring:
        with grpc.insecure_channel("127.0.0.1:%d" % ring.port) as channel:
            yield channel


def test_grpc_unary(grpc_channel):
    import grpc
    unary = grpc_channel.unary_unary("/test.Echo/Unary")
    answer, call = unary.with_call(b"hello", timeout=20)
    assert answer == b"hello" and call.code() == grpc.StatusCode.OK
    assert dict(call.trailing_metadata())["x-length"] == "5"
    assert unary(b"x" * 3000000, timeout=30) == b"x" * 3000000
    for _ in range(100):
        assert unary(b"again", timeout=20) == b"again"


def test_grpc_errors(grpc_channel):
    import grpc
    with pytest.raises(grpc.RpcError) as failed:
        grpc_channel.unary_unary("/test.Echo/Unary")(b"fail", timeout=20)
    assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.NOT_FOUND, "no such thing")
    with pytest.raises(grpc.RpcError) as failed:
        grpc_channel.unary_unary("/test.Echo/Other")(b"", timeout=20)
    assert failed.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_grpc_both_ways(grpc_channel):
    """Each message is answered before the next one is sent."""
    import queue
    asked = queue.Queue()
    told = grpc_channel.stream_stream("/test.Echo/Both")(iter(asked.get, None), timeout=30)
    for i in range(50):
        asked.put(b"message %d" % i)
        assert next(told) == b"message %d" % i
    asked.put(None)
    assert list(told) == []
    assert dict(told.trailing_metadata())["x-count"] == "50"


def test_grpc_many_at_a_time(grpc_channel):
    unary = grpc_channel.unary_unary("/test.Echo/Unary")
    calls = [unary.future(b"%d" % i * 1000, timeout=30) for i in range(100)]
    assert [call.result() for call in calls] == [b"%d" % i * 1000 for i in range(100)]


def test_backend_by_http2(registry):
    """HTTP/1.1 and HTTP/2 clients, one HTTP/2 backend, a few connections to it."""
    import proxy_rig
    data = content(5 * MIB, 9)
    with proxy_rig.Ring(registry.address, backend_http=2) as ring:
        with Session(ring.address) as session:
            digest = push(session, "h2/proxied", data)
            assert session.exchange("GET", f"/v2/h2/proxied/blobs/{digest}").body == data
        client = http1.Client(ring.address)
        assert client.exchange("GET", f"/v2/h2/proxied/blobs/{digest}").body == data
        assert client.exchange("HEAD", f"/v2/h2/proxied/blobs/{digest}").header("Content-Length") == str(len(data))
        for _ in range(20):
            assert client.exchange("GET", "/v2/").status == 200
        assert ring.counters()["upstream_connects_total"] <= 3


def test_backend_dies(make_registry):
    """A session to a backend that is gone is not used again."""
    import proxy_rig
    registry = make_registry()
    with proxy_rig.Ring(registry.address, backend_http=2) as ring:
        client = http1.Client(ring.address)
        assert client.exchange("GET", "/v2/").status == 200
        registry.kill()
        assert client.exchange("GET", "/v2/").status in (502, 503)
        registry.start()
        assert http1.wait_until(lambda: client.exchange("GET", "/v2/").status == 200, 20)


# --- over TLS ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secure():
    import test_tls
    registry = test_tls.TlsRegistry()
    try:
        yield registry.start()
    finally:
        registry.close()


def secure_session(secure):
    context = secure.context()
    context.set_alpn_protocols(["h2"])
    sock = secure.connect(context=context)
    assert sock.selected_alpn_protocol() == "h2"
    return Session(("127.0.0.1", secure.ports["open"]), sock=sock)


def test_over_tls(secure):
    data = content(2 * MIB + 5, 10)
    with secure_session(secure) as session:
        digest = push(session, "h2/tls", data)
        streams = [session.request("GET", f"/v2/h2/tls/blobs/{digest}") for _ in range(10)]
        assert all(session.answer(stream).body == data for stream in streams)
        session.send(frame(GOAWAY, payload=b"\0" * 8))
        session.drain()
    before = secure.closed("h2_control")
    with secure_session(secure) as session:
        while session.send(frame(PING, payload=b"12345678") * 20) and session.goaway is None:
            session.next()
    assert http1.wait_until(lambda: secure.closed("h2_control") == before + 1, 10)


@pytest.mark.skipif(not shutil.which("h2load"), reason="no h2load")
def test_h2load_over_tls(secure):
    done = subprocess.run(["h2load", "-n", "2000", "-c", "4", "-m", "50", f"https://127.0.0.1:{secure.ports['open']}/v2/"],
                          stdout=subprocess.PIPE, check=True, timeout=60, text=True)
    assert "2000 succeeded, 0 failed" in done.stdout and "Application protocol: h2" in done.stdout


@pytest.mark.parametrize("speaks", ["h2", "http/1.1"])
def test_backend_over_tls(secure, speaks):
    """ALPN has to agree on HTTP/2: a backend that does not speak it is not spoken to in something else."""
    import test_proxy_node
    import test_tls_proxy
    data = content(MIB, 11)
    certificates = {"us": {"ca": str(secure.ca.cert)}}
    fields = {"backend.tls": True, "backend.http": 2, "backend.ca": "us"}
    other = test_tls_proxy.Backend(test_tls_proxy.server_context(secure.ca, "one")) if speaks != "h2" else None
    address = "127.0.0.1:%d" % (other.port if other else secure.ports["open"])
    with test_proxy_node.running(test_proxy_node.Node([address], certificates, kind="http", **fields)) as node:
        client = http1.Client(("127.0.0.1", node.front_port))
        # What asks for an upgrade goes by HTTP/1.1, and TLS agrees on that for it.
        assert client.exchange("GET", "/v2/", headers={"Connection": "Upgrade", "Upgrade": "x"}).status == 200
        if other:
            assert client.exchange("GET", "/v2/").status == 502
            other.close()
            return
        repo = harness.Repository(client, "h2/behind")
        digest = repo.push_blob(data)
        assert repo.blob(digest).body == data


def test_a_body_goes_on_from_another_backend(make_registry):
    """Both sides speak HTTP/2; the registry that sends is killed in the middle."""
    import proxy_rig
    data = content(40 * MIB, 12)
    registries = [make_registry(), make_registry()]
    digest = [registry.repository("h2/resumed").push_blob(data) for registry in registries][0]
    with proxy_rig.Ring(*[r.address for r in registries], kind="registry", backend_http=2, resumes_max=8) as ring:
        with Session(ring.address) as session:
            stream = session.request("GET", f"/v2/h2/resumed/blobs/{digest}")
            while len(session.answers.setdefault(stream, http2.Answer()).body) < MIB:
                session.next()
            sender = next(r for r in registries if figure(r, "fairlead_http2_sessions_open"))
            sender.kill()
            answer = session.answer(stream)
            assert answer.status == 200 and answer.body == data
        assert ring.counters()["proxy_resumes_total"] == 1
