# SPDX-License-Identifier: Apache-2.0
"""Blobs that are not in this node's store come from a source: at once, hashed on the way, kept; whatever the source or
the client does, nothing wrong is ever served to its end or kept. The kernel's half is off, everything is on loopback."""

import concurrent.futures
import contextlib
import hashlib
import os
import pathlib
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


class Mirror(harness.FairleadRegistry):
    """A registry whose repositories hub/... are copies of what the backends have."""

    def __init__(self, backends, sources=None, settings=(), rings=2, **fields):
        super().__init__(settings={"kernel.enabled": False, **dict(settings)})
        self.rings = rings
        self.sources = sources or [{"prefix": "hub/", "service": "hub"}]
        self.service = {"name": "hub", "address": f"127.0.0.1:{harness.free_port()}", "kind": "registry",
                        "path": "proxy", "steer": False, "check": {"kind": "none"}, **fields,
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

    def file(self, digest):
        return self.state / "store" / "blobs" / "sha256" / digest[:2] / digest

    def has(self, digest):
        """In its store, and right."""
        path = self.file(digest)
        return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == digest

    def keeps(self, digest):
        return http1.wait_until(lambda: self.has(digest), 20)

    def uploads(self):
        return list((self.state / "store" / "uploads").iterdir())

    def nothing_left(self):
        return http1.wait_until(lambda: not self.uploads(), 20)

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
