# SPDX-License-Identifier: Apache-2.0
"""kill -9 at any moment, of the data plane, of control, of all, under concurrent pushes. What was acknowledged is there
afterwards; what was not is there whole or not at all; and a client that comes back can go on."""

import socket
import threading
import time

import pytest

import http1
from harness import KIND, Repository, digest_of, randomness
from ledger import Ledger, Pusher

MIB = 1 << 20
CLIENTS = 4
needs_two_processes = pytest.mark.skipif(KIND != "fairlead", reason="the peer is one process")


def push_until(done, registry, ledger, number, pushed):
    """Pushes images, blobs in chunks and moving tags until told to stop; failures are the point of the test."""
    rng = randomness("kill", number)
    pusher = Pusher(registry.repository(f"kill/{number}"), ledger, lenient=True)
    i = 0
    while not done.is_set():
        data = rng.randbytes(rng.choice((10, 5000, 400000, 2 * MIB))) + bytes([number]) + i.to_bytes(4, "big")
        if not pusher.image("latest", data, chunks=rng.choice((1, 4)), i=i):
            time.sleep(0.02)
        if i % 5 == 4:
            pusher.delete("manifest", "latest") if KIND == "fairlead" else None
        i += 1
    pushed.append(pusher)


def with_clients(registry, disturb):
    """Runs `disturb` while clients push; returns the ledger and what failed."""
    clock = iter(range(1 << 60))
    ledger = Ledger(lambda: next(clock))
    done, pushed = threading.Event(), []
    threads = [threading.Thread(target=push_until, args=(done, registry, ledger, number, pushed))
               for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        disturb()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert len(pushed) == CLIENTS, "a client met an answer that it must not get"
    return ledger, [failure for pusher in pushed for failure in pusher.failures]


def check(registry, ledger, least):
    assert ledger.acknowledged_count() > least, "too little was pushed for the test to mean anything"
    ledger.check(registry.client, Repository)
    digest, body = registry.repository("kill/after").push_image("tag", b"pushed afterwards")
    assert registry.repository("kill/after").manifest(digest).body == body


def test_kill_everything(make_registry):
    registry = make_registry()
    rng = randomness("kill everything")

    def disturb():
        for _ in range(8):
            time.sleep(rng.uniform(0.1, 0.7))
            registry.restart("kill")
        time.sleep(0.5)

    ledger, failures = with_clients(registry, disturb)
    assert failures
    check(registry, ledger, 50)
    registry.restart("stop")
    check(registry, ledger, 50)


def test_kill_during_start(make_registry):
    """Killed again before it is ready, several times."""
    registry = make_registry()
    rng = randomness("kill during start")
    digest, body = registry.repository("kill/start").push_image("tag", b"layer" * 100000)
    for _ in range(10):
        registry.kill()
        registry.spawn()
        time.sleep(rng.uniform(0.0, 0.15))
    registry.restart("kill")
    assert registry.repository("kill/start").manifest("tag").body == body
    assert registry.repository("kill/start").blob(digest_of(b"layer" * 100000)).body == b"layer" * 100000
    assert digest


@needs_two_processes
def test_kill_the_data_plane(make_registry):
    """Control starts it again; meanwhile connects wait in the listening sockets and are never refused."""
    registry = make_registry()
    rng = randomness("kill data plane")
    first = registry.process.pid

    def disturb():
        for _ in range(8):
            time.sleep(rng.uniform(0.2, 0.6))
            old = registry.kill_dataplane()
            for _ in range(20):
                with socket.create_connection(registry.address, timeout=5):
                    pass
            started = http1.wait_until(lambda: set(registry.dataplane_pids()) - set(old), 20)
            assert started, registry.report("no new data plane")
        assert http1.wait_until(registry.is_ready, 20)
        time.sleep(0.5)

    ledger, failures = with_clients(registry, disturb)
    assert registry.process.pid == first and registry.process.poll() is None
    refused = [failure for failure in failures if isinstance(failure, ConnectionRefusedError)]
    assert not refused, f"{len(refused)} connects were refused"
    check(registry, ledger, 50)


@needs_two_processes
def test_data_plane_outlives_control(make_registry):
    """Pulls go on without control, pushes fail with an error that says so; the next control takes everything over."""
    registry = make_registry(settings={"registry.commit_timeout": 1000})
    repo = registry.repository("kill/control")
    layer = randomness("control").randbytes(MIB)
    digest, body = repo.push_image("tag", layer)
    with registry.client.connect() as kept:
        assert kept.exchange("GET", "/v2/").status == 200
        registry.kill_control()
        for _ in range(20):
            assert kept.exchange("GET", repo.target("manifests/tag")).body == body
            assert repo.blob(digest_of(layer)).body == layer
            time.sleep(0.05)
        answer = repo.put_manifest("other", body, "application/vnd.oci.image.manifest.v1+json")
        assert answer.status == 503 and answer.codes(), answer
        assert answer.header("Retry-After")
    old = registry.pids()
    assert old
    registry.start()
    # Until the new control has told it to finish, the old data plane answers.
    assert http1.wait_until(lambda: not set(old) & set(registry.dataplane_pids()), 20)
    assert http1.wait_until(registry.is_ready, 20)
    assert repo.manifest(digest).body == body and repo.manifest("other").status in (404, 200)
    repo.push_image("new", b"after")


@needs_two_processes
def test_control_and_data_plane_in_turn(make_registry):
    registry = make_registry()
    rng = randomness("in turn")

    def disturb():
        for _ in range(4):
            time.sleep(rng.uniform(0.1, 0.5))
            registry.kill_control()
            time.sleep(rng.uniform(0.0, 0.3))
            registry.start()
            time.sleep(rng.uniform(0.1, 0.3))
            assert http1.wait_until(registry.dataplane_pids, 20), "between the old data plane and the new one"
            old = registry.kill_dataplane()
            assert http1.wait_until(lambda: set(registry.dataplane_pids()) - set(old), 20)
        assert http1.wait_until(registry.is_ready, 20)

    ledger, _ = with_clients(registry, disturb)
    check(registry, ledger, 20)
