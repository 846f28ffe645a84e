# SPDX-License-Identifier: Apache-2.0
"""Blobs that are not in this node's store come from a source: at once, hashed on the way, kept; whatever the source or
the client does, nothing wrong is ever served to its end or kept. The kernel's half is off, everything is on loopback."""

import concurrent.futures
import contextlib
import hashlib
import random
import re
import socket
import urllib.request

import pytest

import harness
import http1
from faulty import TOOL, Faulty, pull

pytestmark = [pytest.mark.skipif(harness.KIND != "fairlead", reason="tests Fairlead's own fetching"),
              pytest.mark.skipif(not TOOL.exists(), reason="tests/tools is not built")]

SIZE = 3_000_000
SMALL = 20_000  # all of it is held back until its digest is known


def quiet_port():
    """One that no outgoing connection gets until it is used."""
    while True:
        port = random.randrange(12000, 30000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


class Mirror(harness.FairleadRegistry):
    """A registry whose repositories hub/... are copies of what the backends have."""

    def __init__(self, backends, sources=None, settings=(), rings=2, **fields):
        super().__init__(settings={"kernel.enabled": False, **dict(settings)})
        self.rings = rings
        self.sources = sources or [{"prefix": "hub/", "service": "hub"}]
        self.service = {"name": "hub", "address": f"127.0.0.1:{quiet_port()}", "kind": "registry",
                        "path": "proxy", "steer": False, "check": {"kind": "none"},
                        "resume": {"stall_time": "5m"}, **fields,
                        "backends": [{"name": f"b{number}", "address": f"127.0.0.1:{port}"}
                                     for number, port in enumerate(backends)]}

    def config(self):
        return super().config() | {"services": [self.service], "sources": self.sources,
                                   "dataplane": {"rings": self.rings}}

    def is_ready(self):
        if not super().is_ready():
            return False
        address = ("127.0.0.1", int(self.service["address"].rpartition(":")[2]))
        try:  # each ring takes connections of the service once it has it in its plan
            for _ in range(16):
                http1.Client(address, timeout_s=5).exchange("GET", "/")
        except (OSError, http1.ConnectionEnded):
            return False
        return True

    def pull(self, digest, repo="hub/x"):
        return pull(self.address, f"/v2/{repo}/blobs/sha256:{digest}", digest)

    def get(self, digest, headers=(), method="GET", repo="hub/x"):
        with http1.Connection(self.address, timeout_s=30) as connection:
            return connection.exchange(method, f"/v2/{repo}/blobs/sha256:{digest}", headers=headers)

    def figures(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=20) as answer:
            text = answer.read().decode()
        return {name: int(value) for name, value in re.findall(r"^fairlead_(fetch\w+) (\d+)$", text, re.M)}

    def upstream(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=20) as answer:
            text = answer.read().decode()
        return {name: int(value) for name, value in re.findall(r"^fairlead_(upstream\w+) (\d+)$", text, re.M)}

    def file(self, digest):
        return self.state / "store" / "blobs" / "sha256" / digest[:2] / digest

    def has(self, digest):
        """In its store, and right."""
        path = self.file(digest)
        return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == digest

    def keeps(self, digest):
        return http1.wait_until(lambda: self.has(digest), 60)

    def uploads(self):
        return list((self.state / "store" / "uploads").iterdir())

    def nothing_left(self):
        return http1.wait_until(lambda: not self.uploads(), 60)

    def quiet(self):
        """No fetch is under way, nor remembered."""
        return http1.wait_until(lambda: self.figures()["fetches_now"] == 0, 20)


@contextlib.contextmanager
def mirror(count=1, **options):
    with contextlib.ExitStack() as stack:
        backends = [Faulty("tcp:127.0.0.1:0").start() for _ in range(count)]
        for backend in backends:
            stack.callback(backend.kill)
        node = Mirror([backend.ports[0] for backend in backends], **options)
        stack.callback(node.close)
        yield node.start(), backends


def blob(backends, seed, *rules, size=SIZE, chunked=False):
    for backend in backends:
        digest = backend.blob(seed, size, chunked)
        for rule in rules:
            backend.rule(digest, *rule)
    return digest


def go(backend):
    """The one that is held goes on: `go` is for those who stand there already."""
    assert http1.wait_until(lambda: backend.held() == 1, 60)
    backend.command("go")


@pytest.mark.parametrize("size", [0, 1, SMALL, 65536, 65537, SIZE])
def test_fetched_and_kept(size):
    """The second client, and one after the source has died, get it from here."""
    with mirror() as (node, backends):
        digest = blob(backends, 1, size=size)
        answer = node.get(digest)
        assert answer.status == 200 and hashlib.sha256(answer.body).hexdigest() == digest
        assert answer.header("Content-Length") == str(size) and answer.header("ETag") == f'"sha256:{digest}"'
        assert answer.header("Docker-Content-Digest") == f"sha256:{digest}"
        assert node.keeps(digest) and node.quiet()
        assert node.pull(digest) == "right"
        assert backends[0].seen(digest) == (1, 0)
        backends[0].kill()
        assert node.pull(digest) == "right"
        assert node.get(digest, method="HEAD").header("Content-Length") == str(size)
        assert node.figures()["fetch_kept_total"] == 1 and not node.uploads()


@pytest.mark.parametrize("fault", ["reset", "fin", "hold"])
def test_the_source_stops(fault):
    """Another one goes on with the rest; the first part is not fetched again. Nothing comes from one that holds."""
    with mirror(2, resume={"stall_time": "500ms"}) as (node, backends):
        digest = blob(backends, 1, ("plain", 1, fault, 1_000_000, 0))
        assert node.pull(digest) == "right" and node.keeps(digest)
        assert sorted(backend.seen(digest) for backend in backends) == [(0, 1), (1, 0)]
        assert node.figures()["fetch_resumes_total"] == 1
        for backend in backends:
            backend.command("go")


def test_the_only_source_stops():
    """No end that looks like one; nothing is kept, and the next client may have more luck."""
    with mirror() as (node, backends):
        digest = blob(backends, 1, ("any", 0, "reset", 1_000_000, 0))
        assert node.pull(digest) == "aborted"
        assert node.nothing_left() and not node.file(digest).exists()
        backends[0].command("clear", digest)
        assert node.pull(digest) == "right" and node.keeps(digest)


@pytest.mark.parametrize("size", [SMALL, SIZE])
def test_wrong_bytes(size):
    """Never served to their end, never kept. Of a small blob nobody has seen a byte: that is an error with a status."""
    with mirror() as (node, backends):
        digest = blob(backends, 1, ("any", 0, "corrupt", size // 2, 0), size=size)
        assert node.pull(digest) == ("502" if size == SMALL else "aborted")
        assert node.nothing_left() and not node.file(digest).exists()
        assert node.figures()["fetch_wrong_digest_total"] >= 1 and node.figures()["fetch_kept_total"] == 0
        backends[0].command("clear", digest)
        assert node.pull(digest) == "right" and node.keeps(digest)


def test_wrong_bytes_of_one_source():
    """Another source has the right ones: the client of a small blob does not notice."""
    with mirror(2) as (node, backends):
        digests = []
        for seed in range(8):
            digests.append(blob(backends, seed, size=SMALL))
            backends[0].rule(digests[-1], "any", 0, "corrupt", 100, 0)
        assert [node.pull(digest) for digest in digests] == ["right"] * 8
        assert all(node.keeps(digest) for digest in digests)


@pytest.mark.parametrize("value", [-1, 1, 100_000])
def test_wrong_length(value):
    """The names know how long it is, from the first time."""
    with mirror() as (node, backends):
        digest = blob(backends, 1)
        assert node.pull(digest) == "right" and node.keeps(digest) and node.quiet()
        node.stop()
        node.file(digest).unlink()
        node.start()
        backends[0].rule(digest, "any", 0, "size", 0, value)
        assert node.pull(digest) == "502"
        assert node.nothing_left() and not node.file(digest).exists()


@pytest.mark.parametrize("chunked", [False, True])
def test_linked_but_gone(chunked):
    """The names have it, the store has lost it: fetched again, whatever its framing. HEAD needs no source."""
    with mirror() as (node, backends):
        digest = blob(backends, 1)
        assert node.pull(digest) == "right" and node.keeps(digest) and node.quiet()
        node.stop()
        node.file(digest).unlink()
        node.start()
        answer = node.get(digest, method="HEAD")
        assert (answer.status, answer.header("Content-Length")) == (200, str(SIZE))
        assert backends[0].seen(digest) == (1, 0)
        if chunked:
            backends[0].restart()
            assert backends[0].blob(1, SIZE, chunked=True) == digest
        assert node.pull(digest) == "right" and node.keeps(digest)


def test_many_clients_one_fetch():
    """Fifty clients, on all rings, some of them slow to begin: the source is asked once."""
    with mirror() as (node, backends):
        digest = blob(backends, 1, ("plain", 1, "hold", 1_000_000, 0))
        with concurrent.futures.ThreadPoolExecutor(50) as pool:
            pulls = [pool.submit(node.pull, digest) for _ in range(50)]
            assert http1.wait_until(lambda: node.figures()["fetch_joined_total"] == 49, 60)
            go(backends[0])
            assert [each.result() for each in pulls] == ["right"] * 50
        assert backends[0].seen(digest) == (1, 0)
        assert node.keeps(digest) and node.figures()["fetch_kept_total"] == 1


def test_a_slow_client_slows_nobody():
    with mirror() as (node, backends):
        digest = blob(backends, 1, size=20_000_000)
        with http1.Connection(node.address, timeout_s=30, receive_buffer_bytes=4096) as slow:
            slow.request("GET", f"/v2/hub/x/blobs/sha256:{digest}")
            assert node.pull(digest) == "right" and node.keeps(digest)
            answer = slow.response()
            assert hashlib.sha256(answer.body).hexdigest() == digest
        assert backends[0].seen(digest) == (1, 0)


@pytest.mark.parametrize("at, kept", [(2_000_000, False), (24_000_000, True)])
def test_the_client_goes_away(at, kept):
    """The fetch goes on if more than half is here; else it is given up, and leaves nothing."""
    with mirror() as (node, backends):
        digest = blob(backends, 1, ("plain", 1, "hold", at, 0), size=40_000_000)
        with http1.Connection(node.address, timeout_s=30) as client:
            client.request("GET", f"/v2/hub/x/blobs/sha256:{digest}")
            assert http1.wait_until(lambda: node.figures()["fetch_bytes_total"] == at, 30)
            client.reset()
        if kept:
            go(backends[0])
            assert node.keeps(digest)
        else:
            assert http1.wait_until(lambda: node.figures()["fetch_given_up_total"] == 1, 30)
            assert node.nothing_left() and not node.file(digest).exists()
            backends[0].command("go")
        assert node.quiet()


def test_parts():
    """A part comes from the source by Range and is not kept; where a fetch is about to reach it, from that."""
    with mirror() as (node, backends):
        digest = blob(backends, 1)
        assert node.pull(digest) == "right" and node.keeps(digest) and node.quiet()
        whole = node.file(digest).read_bytes()
        node.stop()
        node.file(digest).unlink()
        node.start()
        for first, last in ((0, 0), (1_000_000, 2_000_000), (SIZE - 10, SIZE - 1)):
            answer = node.get(digest, {"Range": f"bytes={first}-{last}"})
            assert (answer.status, answer.body) == (206, whole[first:last + 1])
            assert answer.header("Content-Range") == f"bytes {first}-{last}/{SIZE}"
        assert backends[0].seen(digest) == (1, 3) and not node.file(digest).exists()
        backends[0].rule(digest, "range", 1, "whole", 0, 0)  # a source that takes no notice of Range
        assert node.get(digest, {"Range": "bytes=5-9"}).body == whole[5:10]
        backends[0].rule(digest, "range", 1, "reset", 1_500_000, 0)  # one that breaks off, and is asked for the rest
        assert node.get(digest, {"Range": "bytes=1000000-2000000"}).status == 206
        backends[0].rule(digest, "plain", 1, "hold", 1_000_000, 0)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            pulled = pool.submit(node.pull, digest)
            assert http1.wait_until(lambda: node.figures()["fetch_bytes_total"] == 1_000_000, 30)
            seen = backends[0].seen(digest)
            part = pool.submit(node.get, digest, {"Range": "bytes=1500000-1600000"})
            assert http1.wait_until(lambda: node.figures()["fetch_joined_total"] == 1, 30)
            go(backends[0])
            assert part.result().body == whole[1_500_000:1_600_001] and pulled.result() == "right"
        assert backends[0].seen(digest) == seen and node.keeps(digest)


def test_killed_in_the_middle():
    """kill -9 of the data plane: what was there of the blob is gone after the next start; nothing else is."""
    with mirror() as (node, backends):
        kept = blob(backends, 2)
        assert node.pull(kept) == "right" and node.keeps(kept)
        digest = blob(backends, 1, ("plain", 1, "hold", 1_000_000, 0))
        with http1.Connection(node.address, timeout_s=30) as client:
            client.request("GET", f"/v2/hub/x/blobs/sha256:{digest}")
            assert http1.wait_until(lambda: node.figures()["fetch_bytes_total"] == SIZE + 1_000_000, 30)
            assert len(node.uploads()) == 1
            node.kill()
        backends[0].command("go")
        assert len(node.uploads()) == 1
        node.start()
        assert not node.uploads() and not node.file(digest).exists() and node.has(kept)
        assert node.pull(digest) == "right" and node.keeps(digest)


def test_no_room():
    """Below store.reserve nothing is kept; whoever asks gets it all the same, and wrong bytes as little as ever."""
    with mirror(2, settings={"store.reserve": 1 << 40}) as (node, backends):
        digest = blob(backends, 1, ("plain", 1, "reset", 1_000_000, 0))
        assert node.pull(digest) == "right"
        assert not node.file(digest).exists() and not node.uploads()
        figures = node.figures()
        assert figures["fetch_not_kept_total"] == 1 and figures["fetch_alone_total"] == 1
        wrong = blob(backends, 2, ("any", 0, "corrupt", 1_000_000, 0))
        assert node.pull(wrong) == "aborted"


@pytest.mark.parametrize("tampered", [False, True])
def test_what_was_served_before_it_was_given_up(tampered):
    """The store takes no more in the middle: the client has a part from it, which nobody hashed, and gets the rest from
    other answers. Its last bytes come only if what it had before is the same there."""
    with mirror(settings={"registry.blob_bytes_max": 2_000_000}) as (node, backends):
        digest = blob(backends, 1, ("plain", 1, "hold", 1_500_000, 0), ("plain", 1, "reset", 2_500_000, 0))
        target = f"/v2/hub/x/blobs/sha256:{digest}"
        with http1.Connection(node.address, timeout_s=60) as first, http1.Connection(node.address, timeout_s=60) as client:
            first.request("GET", target)
            assert http1.wait_until(lambda: [path for path in node.uploads() if path.stat().st_size > 1_400_000], 60)
            if tampered:
                with open(node.uploads()[0], "r+b") as file:
                    file.seek(1000)
                    byte = file.read(1)[0]
                    file.seek(1000)
                    file.write(bytes([byte ^ 1]))
            client.request("GET", target, headers={"Connection": "close"})
            got = b""
            while len(got) < 1_200_000:
                got += client.read_some()
            go(backends[0])
            with contextlib.suppress(OSError):
                while piece := client.read_some():
                    got += piece
        body = got.partition(b"\r\n\r\n")[2]
        if tampered:
            assert 1_000_000 < len(body) < SIZE
        else:
            assert hashlib.sha256(body).hexdigest() == digest
            assert backends[0].seen(digest)[0] >= 3
        assert node.nothing_left() and not node.file(digest).exists()


def test_connections_are_kept():
    """Questions go over the ones that earlier answers came on; what was closed meanwhile fails none."""
    with mirror(rings=1) as (node, backends):
        before = node.upstream()
        for seed in range(8):
            digest = blob(backends, seed, size=SMALL)
            assert node.pull(digest) == "right" and node.keeps(digest) and node.quiet()
        after = node.upstream()
        assert after["upstream_reused_total"] - before["upstream_reused_total"] >= 7
        assert after["upstream_connects_total"] - before["upstream_connects_total"] <= 1
        backends[0].kill()
        assert node.pull(digest) == "right"


def test_the_source_is_away():
    with mirror() as (node, backends):
        digest, kept = blob(backends, 1), blob(backends, 2)
        assert node.pull(kept) == "right" and node.keeps(kept)
        unknown = hashlib.sha256(b"nobody has this").hexdigest()
        answer = node.get(unknown)
        assert (answer.status, answer.codes()) == (404, ["BLOB_UNKNOWN"])
        backends[0].kill()
        for method in ("GET", "HEAD"):
            assert node.get(digest, method=method).status == 502
        assert node.pull(kept) == "right" and node.get(kept, method="HEAD").status == 200
        assert node.get(digest, repo="other/x").status == 404  # behind which there is no source


def test_pushes_are_refused():
    """To what is a copy of another registry; not beside it."""
    with mirror() as (node, _):
        answer = node.repository("hub/x").start_upload()
        assert (answer.status, answer.codes()) == (405, ["DENIED"])
        assert node.repository("hub/x").put_manifest("latest", b"{}", harness.IMAGE_TYPE).status == 405
        assert node.repository("hub").start_upload().status == 202
        assert node.repository("other/x").start_upload().status == 202
