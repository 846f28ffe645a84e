# SPDX-License-Identifier: Apache-2.0
"""A crowd at one registry: pulls of pieces, of whole blobs, and pushes, hundreds at the same time. All of them come to their end
at about the same pace, the data plane's memory does not grow with them, and past a limit each is told so: 429 with
Retry-After, and nobody is cut off."""

import hashlib
import json
import os
import selectors
import socket
import subprocess
import time

import pytest

import harness
import http1

LOAD = harness.BUILD / "bench/load"
pytestmark = pytest.mark.skipif(harness.KIND != "fairlead" or not LOAD.exists(), reason="is about Fairlead, with a tool of bench")

MIB = 1 << 20
SLOW = pytest.mark.slow
CROWD = 24 * os.cpu_count()  # there is a ring for each
MEMORY_MAX = 96 * MIB  # more than all buffers of two rings that a crowd can fill, and less than what it asks for


class Exchange:
    """One connection of the crowd and its requests, one after the other. Nothing is read before it is told to."""

    def __init__(self, address, requests):
        self.requests, self.answers, self.data = list(requests), [], bytearray()
        self.socket = socket.create_connection(address, 60)
        self.socket.setblocking(False)
        self.send_next()

    def send_next(self):
        if self.requests:
            self.socket.sendall(self.requests.pop(0))

    def step(self):
        """Reads what has come. True when all is answered."""
        try:
            got = self.socket.recv(1 << 18)
        except BlockingIOError:
            return False
        assert got, ("the connection ended early", bytes(self.data[:200]))
        self.data += got
        while (end := self.data.find(b"\r\n\r\n")) >= 0:
            lines = self.data[:end].decode().split("\r\n")
            fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            length = int(fields["content-length"])
            if len(self.data) < end + 4 + length:
                return False
            self.answers.append((int(lines[0].split()[1]), fields, bytes(self.data[end + 4:end + 4 + length])))
            del self.data[:end + 4 + length]
            if not self.requests:
                return True
            self.send_next()
        return False


def run(crowd, bound_s=120):
    """Until everybody has all answers."""
    selector = selectors.DefaultSelector()
    left, end = len(crowd), time.monotonic() + bound_s
    for one in crowd:
        selector.register(one.socket, selectors.EVENT_READ, one)
    while left:
        assert time.monotonic() < end, f"{left} of {len(crowd)} are not answered"
        for key, _ in selector.select(1):
            if key.data.step():
                selector.unregister(key.fileobj)
                left -= 1
    selector.close()
    for one in crowd:
        one.socket.close()


def get(target, *fields):
    return ("\r\n".join([f"GET {target} HTTP/1.1", "Host: crowd", *fields]) + "\r\n\r\n").encode()


@pytest.fixture(scope="module")
def node():
    instance = harness.new_registry(settings={"log.access": False})
    instance.start()
    yield instance
    instance.close()


@pytest.fixture(scope="module")
def blob(node):
    data = hashlib.shake_128(b"crowd").digest(8 * MIB)
    return node.repository("crowd/app").push_blob(data), data


def memory(node):
    total = 0
    for pid in node.dataplane_pids():
        for line in open(f"/proc/{pid}/smaps_rollup", encoding="ascii"):
            if line.startswith("Pss_Anon:"):
                total += int(line.split()[1]) * 1024
    return total


@pytest.mark.parametrize("connections, pieces", [(64, 40), pytest.param(256, 200, marks=SLOW)])
def test_small_pieces_of_one_blob(node, blob, connections, pieces):
    digest, data = blob
    size, target = 4096, f"/v2/crowd/app/blobs/{digest}"
    starts = [[(number * 7919 + piece * 104729) % (len(data) - size) for piece in range(pieces)] for number in range(connections)]
    before = memory(node)
    crowd = [Exchange(node.address, [get(target, f"Range: bytes={start}-{start + size - 1}") for start in mine]) for mine in starts]
    run(crowd)
    assert memory(node) < before + MEMORY_MAX or harness.SANITIZED
    for one, mine in zip(crowd, starts):
        assert [status for status, _, _ in one.answers] == [206] * pieces
        assert all(body == data[start:start + size] for (_, _, body), start in zip(one.answers, mine))


@pytest.mark.parametrize("connections", [300, pytest.param(1200, marks=SLOW)])
def test_parallel_pulls(node, blob, connections):
    digest, data = blob
    before = memory(node)
    crowd = [Exchange(node.address, [get(f"/v2/crowd/app/blobs/{digest}", f"Range: bytes={number}-{number + MIB // 4 - 1}")])
             for number in range(connections)]
    run(crowd)
    assert memory(node) < before + MEMORY_MAX or harness.SANITIZED
    assert all(one.answers[0][0] == 206 and one.answers[0][2] == data[number:number + MIB // 4] for number, one in enumerate(crowd))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("pushes", [100, pytest.param(500, marks=SLOW)])
def test_parallel_pushes(node, pushes):
    folder, named = node.folder / f"pushes-{pushes}", []
    folder.mkdir()
    for number in range(pushes):
        data = os.urandom(16 << 10)
        (folder / str(number)).write_bytes(data)
        named.append(f"{folder / str(number)}:{harness.digest_of(data)}")
    before = memory(node)
    done = subprocess.run([str(LOAD), "push", str(node.port), str(pushes), "-r", "crowd/pushed", *named], capture_output=True, text=True,
                          timeout=170)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["requests"] == pushes
    assert memory(node) < before + MEMORY_MAX or harness.SANITIZED
    repo = node.repository("crowd/pushed")
    assert all(repo.blob("sha256:" + name.rpartition(":")[2], "HEAD").status == 200 for name in named[:20])


def test_past_the_limit(make_registry):
    """More requests at work than there may be: who is too many is told when to come back, and the others get all they asked for."""
    registry = make_registry(settings={"http.streams_max": 16, "log.access": False})
    data = hashlib.shake_128(b"limit").digest(6 * MIB)  # more than sockets take without a reader
    digest = registry.repository("crowd/app").push_blob(data)
    request = get(f"/v2/crowd/app/blobs/{digest}")
    waiting, refused, done = CROWD, 0, 0
    for _ in range(100):
        crowd = [Exchange(registry.address, [request]) for _ in range(waiting)]
        run(crowd)
        statuses = [one.answers[0][0] for one in crowd]
        assert set(statuses) <= {200, 429}
        for one in crowd:
            status, fields, body = one.answers[0]
            assert body == data if status == 200 else int(fields["retry-after"]) > 0
        refused += statuses.count(429)
        done += statuses.count(200)
        waiting = statuses.count(429)
        if not waiting:
            break
    assert done == CROWD and refused > 0
    assert http1.wait_until(registry.is_ready)
