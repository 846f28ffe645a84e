# SPDX-License-Identifier: Apache-2.0
"""The backends that fail as told do as they are told: what a client sees of each fault without a proxy in between."""

import itertools

import pytest

from faulty import Faulty, make_certificate, pull, trusting
from http1 import wait_until

SIZE = 300_001
MIDDLE = SIZE // 2
seeds = itertools.count(1)

pytestmark = pytest.mark.kernel_only  # no process of the product is in it


@pytest.fixture(scope="module", params=["clear", "tls"])
def server(request, tmp_path_factory):
    certificate = make_certificate(tmp_path_factory.mktemp("faulty"))
    faulty = Faulty("tcp:127.0.0.1:0", "tls:127.0.0.1:0", certificate=certificate).start()
    faulty.tls = trusting() if request.param == "tls" else None
    faulty.address = ("127.0.0.1", faulty.ports[request.param == "tls"])
    yield faulty
    faulty.kill()


def seen_by_client(server, digest, **options):
    return pull(server.address, f"/v2/x/blobs/sha256:{digest}", digest, server.tls, **options)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("fault", ["reset", "fin", "cut", "garbage"])
@pytest.mark.parametrize("at", [1, MIDDLE, SIZE - 1])
def test_a_body_that_ends_too_early_ends_so(server, fault, at, chunked):
    digest = server.blob(next(seeds), SIZE, chunked)
    server.rule(digest, "any", 1, fault, at)
    if fault == "garbage" and chunked:
        with pytest.raises(Exception, match="chunk|zz"):
            seen_by_client(server, digest)
    else:
        assert seen_by_client(server, digest) == "aborted"
    server.command("clear", digest)
    assert seen_by_client(server, digest) == "right"


def test_wrong_bytes_look_right(server):
    digest = server.blob(70001, SIZE)
    server.rule(digest, "any", 1, "corrupt", MIDDLE)
    assert seen_by_client(server, digest) == "wrong"
    assert seen_by_client(server, digest) == "right"


def test_a_hold_ends_with_go(server):
    digest = server.blob(70002, SIZE)
    server.rule(digest, "plain", 1, "hold", MIDDLE)
    assert seen_by_client(server, digest, timeout_s=2) == "stalled"
    assert wait_until(lambda: server.held() == 1, 20)
    server.command("go")
    assert seen_by_client(server, digest) == "right"


def test_statuses_lengths_and_an_end_of_the_process(server):
    digest = server.blob(70003, SIZE)
    server.rule(digest, "any", 1, "status", 0, 500)
    server.rule(digest, "any", 1, "size", 0, -100)
    server.rule(digest, "any", 1, "exit", MIDDLE)
    assert [seen_by_client(server, digest) for _ in range(3)] == ["500", "wrong", "aborted"]
    assert server.process.wait(5) == -9
    server.restart()
    server.address = ("127.0.0.1", server.ports[server.tls is not None])
    assert server.blob(70003, SIZE) == digest
    assert seen_by_client(server, digest) == "right"
