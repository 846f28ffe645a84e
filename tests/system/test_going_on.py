# SPDX-License-Identifier: Apache-2.0
"""Bodies that go on from another backend, as the figures tell; requests that are asked twice. The faults' matrix is in
test_fault_matrix.py; here the kernel's half is off and everything is on loopback."""

import concurrent.futures
import contextlib
import hashlib
import os
import re
import socket
import urllib.request

import pytest

import harness
import http1
from faulty import TOOL, Faulty, pull

pytestmark = [pytest.mark.skipif(harness.KIND != "fairlead", reason="tests Fairlead's own proxy"),
              pytest.mark.skipif(not TOOL.exists(), reason="tests/tools is not built")]

SIZE = 3_000_000
COPIED = 2 * (128 << 10)  # what came in one piece with a head; there are two


class Front(harness.FairleadRegistry):
    """A node with one proxied service."""

    def __init__(self, backends, **fields):
        super().__init__(settings={"kernel.enabled": False})
        self.service_port = harness.free_port()
        self.service = {"name": "web", "address": f"127.0.0.1:{self.service_port}", "kind": "registry", "path": "proxy",
                        "steer": False, "check": {"kind": "none"}, **fields,
                        "backends": [{"name": f"b{number}", "address": f"127.0.0.1:{backend.ports[0]}"}
                                     for number, backend in enumerate(backends)]}

    def config(self):
        return super().config() | {"services": [self.service]}

    def pull(self, digest):
        return pull(("127.0.0.1", self.service_port), f"/v2/x/blobs/sha256:{digest}", digest)

    def get(self, digest, fields):
        with http1.Connection(("127.0.0.1", self.service_port), timeout_s=20) as connection:
            return connection.exchange("GET", f"/v2/x/blobs/sha256:{digest}", headers=fields)

    def figures(self):
        """Those of the proxy and of what it relays, summed over rings."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=20) as answer:
            text = answer.read().decode()
        return {name: int(value) for name, value in re.findall(r"^fairlead_((?:proxy|relay|pipes)_\w+) (\d+)$", text, re.M)}


@contextlib.contextmanager
def farm(count=2, **fields):
    with contextlib.ExitStack() as stack:
        backends = [Faulty("tcp:127.0.0.1:0").start() for _ in range(count)]
        for backend in backends:
            stack.callback(backend.kill)
        front = Front(backends, **fields)
        stack.callback(front.close)
        front.start()
        assert http1.wait_until(lambda: reachable(front.service_port), 20), front.log()
        yield front, backends


def reachable(port):
    try:
        http1.Connection(("127.0.0.1", port), timeout_s=5).__exit__()
    except OSError:
        return False
    return True


def blob(backends, seed, *rules, size=SIZE, chunked=False):
    for backend in backends:
        digest = backend.blob(seed, size, chunked)
        for rule in rules:
            backend.rule(digest, *rule)
    return digest


@pytest.mark.parametrize("verify", ["never", "resumed", "always"])
def test_what_is_asked_for(verify):
    """never: the rest alone, spliced as what was before; else all of it, of which what is looked at is copied. Each time
    another backend goes on."""
    with farm(resume={"verify": verify}, technique="splice") as (front, backends):
        digest = blob(backends, 1, ("plain", 1, "reset", 1_000_000, 0))
        assert front.pull(digest) == "right"
        seen = [backend.seen(digest) for backend in backends]
        assert sorted(seen) == [(0, 1), (1, 0)], seen
        # What went on is counted when the exchange has ended, behind its last byte.
        assert http1.wait_until(lambda: front.figures()["proxy_resumed_bytes_total"] == SIZE - 1_000_000, 20), front.figures()
        figures = front.figures()
        assert figures["proxy_resumes_total"] == 1 and figures["proxy_resumes_failed_total"] == 0
        spliced = figures["relay_spliced_bytes_total"]
        least, most = {"never": (SIZE - COPIED, SIZE), "resumed": (1_000_000 - COPIED, 1_000_000), "always": (0, 0)}[verify]
        if figures["pipes_exhausted_total"]:  # other nodes of this machine have the pipes of this user
            least = 0
        assert least <= spliced <= most, figures
        assert front.pull(blob(backends, 2)) == "right"
        assert front.figures()["proxy_resumes_total"] == 1


def test_several_times():
    with farm(3, resume={"max": 5}) as (front, backends):
        digest = blob(backends, 1, ("plain", 0, "reset", 500_000, 0), ("range", 1, "fin", 1_500_000, 0))
        assert front.pull(digest) == "right"
        assert front.figures()["proxy_resumes_total"] in (2, 3, 4)


def test_not_too_often():
    with farm(3, resume={"max": 1}) as (front, backends):
        digest = blob(backends, 1, ("any", 0, "reset", 500_000, 0))
        assert front.pull(digest) == "aborted"
        assert front.figures()["proxy_resumes_total"] == 1


@pytest.mark.parametrize("chunked", [False, True])
def test_the_clients_own_range(chunked):
    """A part is joined by Range; its offsets are the whole's."""
    with farm(resume={"verify": "resumed"}) as (front, backends):
        digest = blob(backends, 1, ("range", 1, "reset", 1_500_000, 0), chunked=chunked)
        whole = front.get(digest, []).body
        assert hashlib.sha256(whole).hexdigest() == digest
        answer = front.get(digest, [("Range", "bytes=1000000-2000000")])
        assert (answer.status, answer.body) == (206, whole[1_000_000:2_000_001])
        assert front.figures()["proxy_resumes_total"] == 2  # the first to go on broke off, too


def test_wrong_bytes_are_counted():
    with farm(resume={"verify": "always"}) as (front, backends):
        digest = blob(backends, 1, ("any", 0, "corrupt", 2_000_000, 0))
        assert front.pull(digest) == "aborted"
        small = blob(backends, 2, ("any", 0, "corrupt", 5, 0), size=10)
        assert front.pull(small) == "aborted"
        assert front.figures()["proxy_digest_mismatches_total"] == 2
        assert front.pull(blob(backends, 3, size=10)) == "right"
        assert front.pull(blob(backends, 4)) == "right"


def test_a_hedged_request():
    """One backend says nothing until it is told to: nobody waits for it."""
    with farm(hedge="50ms") as (front, backends):
        slow, good = backends
        digests = [blob(backends, seed, size=5000 * seed) for seed in range(1, 9)]
        for digest in digests:
            slow.rule(digest, "any", 0, "hold", -1, 0)
        for digest in digests:
            assert front.pull(digest) == "right"
        figures = front.figures()
        assert 0 < figures["proxy_hedges_won_total"] <= figures["proxy_hedges_total"]
        assert good.seen(digests[0])[0] > 0
        slow.command("go")


def test_a_hedged_request_that_fails():
    """Both are slow, then both break off: the client gets an answer of ours."""
    with farm(hedge="50ms", retries=0) as (front, backends):
        digest = blob(backends, 1, ("any", 0, "reset", -1, 0))
        assert front.pull(digest) == "502"


def pulls(front, digest, count):
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: front.pull(digest), range(count)))


def test_clients_share_a_body():
    """As many upstream bodies as there are rings, at most; each client gets all of it."""
    with farm(coalesce=True) as (front, backends):
        digest = blob(backends, 1, ("any", 0, "rate", 0, SIZE // 2))
        assert pulls(front, digest, 20) == ["right"] * 20
        figures = front.figures()
        bodies = sum(sum(backend.seen(digest)) for backend in backends)
        assert bodies + figures["proxy_coalesced_total"] == 20
        assert bodies <= os.cpu_count()
        small = blob(backends, 2, size=100)
        assert pulls(front, small, 20) == ["right"] * 20


def test_a_body_is_shared_with_nobody_else():
    """Whom a trusted client names as its user is part of the question."""
    with farm(coalesce=True, **{"forwarded.trust": True}) as (front, backends):
        digest = blob(backends, 1, ("any", 0, "rate", 0, SIZE))
        users = [[("X-Remote-User", f"u{n}")] for n in range(6)]
        with concurrent.futures.ThreadPoolExecutor(len(users)) as pool:
            assert [answer.status for answer in pool.map(lambda user: front.get(digest, user), users)] == [200] * len(users)
        assert sum(sum(backend.seen(digest)) for backend in backends) == len(users)
        assert front.figures()["proxy_coalesced_total"] == 0


def test_a_shared_body_that_stops():
    """Where somebody can go on with it, all of them get it; where nobody can, nobody gets an end that looks right."""
    with farm(coalesce=True) as (front, backends):
        digest = blob(backends, 1, ("plain", 1, "reset", 1_000_000, 0), ("any", 0, "rate", 0, SIZE // 2))
        assert pulls(front, digest, 10) == ["right"] * 10
        wrong = blob(backends, 2, ("plain", 0, "reset", 1_000_000, 0), ("range", 0, "corrupt", 2_000_000, 0))
        assert pulls(front, wrong, 10) == ["aborted"] * 10


def test_the_one_who_leads_goes_away():
    with farm(coalesce=True) as (front, backends):
        digest = blob(backends, 1, ("any", 0, "rate", 0, SIZE // 2))
        leaders = []
        for _ in range(4):
            leader = socket.create_connection(("127.0.0.1", front.service_port))
            leader.sendall(f"GET /v2/x/blobs/sha256:{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            leaders.append(leader)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            following = [pool.submit(front.pull, digest) for _ in range(8)]
            for leader in leaders:
                assert leader.recv(1000)
            for leader in leaders:
                leader.close()
            assert [each.result() for each in following] == ["right"] * 8


def test_each_blob_has_its_backend():
    """policy digest: who has a blob in its page cache is asked for it again; others only when that one is gone."""
    with farm(3, policy="digest") as (front, backends):
        digests = [blob(backends, seed, size=20_000) for seed in range(1, 25)]
        for _ in range(3):
            assert [front.pull(digest) for digest in digests] == ["right"] * len(digests)
        owners = {digest: [backend for backend in backends if backend.seen(digest) != (0, 0)] for digest in digests}
        assert all(len(each) == 1 for each in owners.values())
        assert all(any(owner == [backend] for owner in owners.values()) for backend in backends)
        backends[0].kill()
        assert [front.pull(digest) for digest in digests] == ["right"] * len(digests)
