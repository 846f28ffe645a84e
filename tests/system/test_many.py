# SPDX-License-Identifier: Apache-2.0
"""Thousands of idle client connections, and of tunnels, in one process: it takes them, serves others beside them, and has
given everything back when they are gone. More of them than one process may have descriptors are those of several nodes on one
host. What they cost in memory is a question of bench (relay, many)."""

import contextlib
import pathlib
import subprocess

import pytest

import harness
import http1

pytestmark = pytest.mark.skipif(harness.KIND != "fairlead" or not (harness.BUILD / "bench/origin").exists(),
                                reason="is about Fairlead's proxy, with tools of bench")

SMALL = 100
CONNECTIONS_MAX, STREAMS_MAX = 9000, 256  # of each of two rings; a tunnel is no stream
OTHERS = 512  # descriptors that come and go: idle connections to the backend are kept


class Proxy(harness.FairleadRegistry):
    """Fairlead with one proxied service of one backend."""

    def __init__(self, backend):
        super().__init__(settings={"kernel.enabled": False, "http.connections_max": CONNECTIONS_MAX, "http.streams_max": STREAMS_MAX,
                                   "http.idle_timeout": "1h", "log.access": False})
        self.backend = backend
        self.service_port = harness.free_port()

    def config(self):
        service = {"name": "many", "address": f"127.0.0.1:{self.service_port}", "kind": "docker", "path": "proxy",
                   "steer": False, "check": {"kind": "none"}, "backend": {"connections_max": CONNECTIONS_MAX},
                   "backends": [{"name": "origin", "address": f"127.0.0.1:{self.backend}"}]}
        return {**super().config(), "dataplane": {"rings": 2}, "services": [service]}

    def get(self):
        return http1.Client(("127.0.0.1", self.service_port), 10).exchange("GET", f"/{SMALL}")

    def serves(self):
        try:
            return self.get().status == 200
        except (OSError, http1.ConnectionEnded):
            return False

    def sockets(self):
        pid = self.dataplane_pids()[0]
        found = 0
        for path in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            try:
                found += str(path.readlink()).startswith("socket:")
            except OSError:
                pass
        return found


@pytest.fixture(scope="module")
def backend():
    port = harness.free_port()
    origin = subprocess.Popen([harness.BUILD / "bench/origin", str(port), "1"])
    yield port
    origin.kill()
    origin.wait()


@contextlib.contextmanager
def started(backend):
    instance = Proxy(backend)
    try:
        instance.start()
        assert http1.wait_until(instance.serves, 20), instance.report("does not serve")
        yield instance
    finally:
        instance.close()


@pytest.fixture(scope="module")
def proxy(backend):
    with started(backend) as instance:
        yield instance


@contextlib.contextmanager
def client_of(proxy, command, count, each):
    """A client that says "ready" and keeps what it has open, of which each needs so many sockets."""
    before = proxy.sockets()
    client = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert client.stdout.readline() == "ready\n", proxy.report("the connections did not open")
        held = proxy.sockets() - before
        assert held >= count * each - OTHERS
        yield
        for _ in range(20):
            assert proxy.get().status == 200
        assert client.poll() is None
    finally:
        client.communicate(timeout=60)
    assert http1.wait_until(lambda: proxy.sockets() <= before + OTHERS, 60), (before, proxy.sockets())
    assert proxy.serves()


def hold(proxy, command, count, each):
    with client_of(proxy, command, count, each):
        pass


def idle(proxy, count):
    return [harness.BUILD / "bench/load", "idle", proxy.service_port, count, "-l", SMALL, f"/{SMALL}"]


@pytest.mark.parametrize("count", [1000, pytest.param(15_000, marks=pytest.mark.slow)])
def test_idle_connections(proxy, count):
    hold(proxy, idle(proxy, count), count, 1)


def test_nodes_side_by_side(proxy, backend):
    """Each with its own state, sockets and ports: both keep what they have, and the end of one is nothing to the other."""
    with started(backend) as second:
        with client_of(proxy, idle(proxy, 1000), 1000, 1):
            with client_of(second, idle(second, 1000), 1000, 1):
                assert set(second.dataplane_pids()).isdisjoint(proxy.dataplane_pids())
            second.kill()
            assert not second.serves()
            second.start()
            assert http1.wait_until(second.serves, 20), second.report("does not serve again")


@pytest.mark.parametrize("count", [1000, pytest.param(7000, marks=pytest.mark.slow)])
def test_tunnels(proxy, count):
    if harness.SANITIZED and count > 1000:
        pytest.skip("memory of that many with a sanitizer's beside it")
    target = "/v1.41/exec/0123/start"
    hold(proxy, [harness.BUILD / "bench/visit", "tunnels", proxy.service_port, count, 0, 0, target], count, 2)
