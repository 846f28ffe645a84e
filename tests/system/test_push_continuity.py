# SPDX-License-Identifier: Apache-2.0
"""A push through the proxy to two registries that share nothing, of which one dies in the middle: the client is told what the
specification has for it, and starts again at the other."""

import json
import time

import pytest

import harness
import http1
import proxy_rig
from harness import digest_of, randomness

pytestmark = pytest.mark.skipif(harness.KIND != "fairlead", reason="tests Fairlead's own proxy")

MIB = 1 << 20
REPO = "continuity/app"


@pytest.fixture(scope="module")
def content():
    return randomness("continuity").randbytes(6 * MIB)


@pytest.fixture
def pair(make_registry):
    registries = [make_registry(), make_registry()]
    with proxy_rig.Ring(*[r.address for r in registries], kind="registry", retries=2) as ring:
        yield registries, ring


def start(client):
    answer = client.exchange("POST", f"/v2/{REPO}/blobs/uploads/")
    assert answer.status == 202
    return http1.target_of(answer.header("Location"))


def holder(registries, session):
    """Who has the session."""
    found = [r for r in registries if r.process.poll() is None and
             http1.Client(r.address).exchange("GET", session).status == 204]
    assert len(found) == 1
    return found[0]


def push(client, content):
    """As clients do it when they try again: from the beginning."""
    session = start(client)
    assert client.exchange("PATCH", session, body=content).status == 202
    digest = digest_of(content)
    separator = "&" if "?" in session else "?"
    return client.exchange("PUT", f"{session}{separator}digest={digest}").status, digest


def interrupted(ring, registries, content, session):
    """Half of the content was sent when the one that has the session is killed; what the client sees: a status, or an end."""
    victim = holder(registries, session)
    with http1.Connection(ring.address, timeout_s=30) as connection:
        connection.send(connection.head("PATCH", session, {"Content-Length": str(len(content))}))
        connection.send(content[:len(content) // 2])
        assert http1.wait_until(lambda: ring.counters()["received_bytes_total"] > len(content) // 4, 20)
        victim.kill()
        try:
            connection.send(content[len(content) // 2:])
            return victim, connection.response().status
        except (OSError, http1.ConnectionEnded):
            return victim, None


def test_a_push_starts_again_where_a_registry_is_left(pair, content):
    registries, ring = pair
    client = http1.Client(ring.address)
    session = start(client)
    victim, seen = interrupted(ring, registries, content, session)
    assert seen in (503, None)  # try again; never a word that it was taken
    for method, target, body in (("GET", session, None), ("PATCH", session, b"x"),
                                 ("PUT", f"{session}?digest={digest_of(content)}", None)):
        answer = client.exchange(method, target, body=body)
        assert answer.status == 404, (method, answer.status, answer.body)
        assert json.loads(answer.body)["errors"][0]["code"] == "BLOB_UPLOAD_UNKNOWN"
    status, digest = push(client, content)
    assert status == 201
    assert client.exchange("GET", f"/v2/{REPO}/blobs/{digest}").body == content


def test_a_session_goes_on_when_its_registry_is_back(pair, content):
    """What was received is kept; the client asks how much that is, as the specification says."""
    registries, ring = pair
    client = http1.Client(ring.address)
    session = start(client)
    first = content[:MIB]
    assert client.exchange("PATCH", session, body=first).status == 202
    victim, _ = interrupted(ring, registries, content[MIB:], session)
    assert client.exchange("GET", session).status == 404
    victim.start()

    def offset():
        answer = client.exchange("GET", session)
        return answer.status == 204 and int(answer.header("Range").partition("-")[2]) + 1

    assert http1.wait_until(offset, 30)
    at = offset()
    assert MIB <= at < len(content)
    wrong = client.exchange("PATCH", session, content[:MIB], {"Content-Range": f"0-{MIB - 1}"})
    assert wrong.status == 416
    rest = client.exchange("PATCH", session, content[at:], {"Content-Range": f"{at}-{len(content) - 1}"})
    assert rest.status == 202
    digest = digest_of(content)
    assert client.exchange("PUT", f"{session}?digest={digest}").status == 201


def test_no_session_is_sent_to_a_registry_that_is_gone(pair, content):
    """However often: it was forgotten, or is passed over."""
    registries, ring = pair
    client = http1.Client(ring.address)
    sessions = [start(client) for _ in range(8)]
    victim = holder(registries, sessions[0])
    lost = [s for s in sessions if http1.Client(victim.address).exchange("GET", s).status == 204]
    victim.kill()
    started = time.monotonic()
    for session in sessions:
        assert client.exchange("GET", session).status == (404 if session in lost else 204)
    assert all(push(client, content[:1000 + n])[0] == 201 for n in range(8))
    assert time.monotonic() - started < 20
