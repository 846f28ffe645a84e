# SPDX-License-Identifier: Apache-2.0
"""Addresses that come and go at SIGHUP: nobody who was let in is cut off, nobody who is not wanted is let in."""

import contextlib
import os
import signal
import socket
import threading
import time

import pytest

import harness
import http1
from harness import digest_of, free_port, randomness

pytestmark = pytest.mark.skipif(harness.KIND != "fairlead", reason="tests Fairlead's own reload")

MIB = 1 << 20
GONE = "is not listened on any more"
READ = "the configuration was read again"


def listen(registry, *addresses):
    """Reloads with these addresses besides the first one; returns when the file was read."""
    before = registry.log().count(READ)
    registry.more_addresses = tuple(("[%s]:%d" if ":" in host else "%s:%d") % (host, port) for host, port in addresses)
    registry.write_config()
    registry.process.send_signal(signal.SIGHUP)
    assert http1.wait_until(lambda: registry.log().count(READ) > before), registry.report("no reload")


def wait_gone(registry, times=1):
    assert http1.wait_until(lambda: registry.log().count(GONE) >= times, 15), registry.report("it did not go")


def answers(address):
    return http1.Client(address).exchange("GET", "/v2/").status == 200


def refused(address):
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=10).close()
    return True


def serves(address):
    """Whether it does, for who waits until it does; a connect is refused before."""
    try:
        return answers(address)
    except ConnectionRefusedError:
        return False


class Connects:
    """Connects all the time, from several threads: each is answered or, if that is expected, refused."""

    def __init__(self, address, threads=4):
        self.address, self.done = address, threading.Event()
        self.answered = self.refused = 0
        self.failures = []
        self.threads = [threading.Thread(target=self.repeat) for _ in range(threads)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        for thread in self.threads:
            thread.join(30)

    def repeat(self):
        while not self.done.is_set():
            try:
                connection = http1.Connection(self.address, timeout_s=20)
            except ConnectionRefusedError:
                self.refused += 1
                self.done.wait(0.05)
                continue
            except Exception as failure:  # told by the main thread
                self.failures.append(failure)
                return
            try:
                with connection:
                    assert connection.exchange("GET", "/v2/").status == 200
                self.answered += 1
            except Exception as failure:
                self.failures.append(failure)
                return


class Download(threading.Thread):
    """A slow one; what it got is in `body`."""

    def __init__(self, address, target, seconds, size_bytes):
        super().__init__()
        self.connection = http1.Connection(address, timeout_s=30, receive_buffer_bytes=131072)
        self.connection.send(self.connection.head("GET", target))
        self.pace, self.body, self.failure = seconds / size_bytes, b"", None
        self.start()

    def run(self):
        pieces = []

        def slowly(piece):
            pieces.append(piece)
            time.sleep(self.pace * len(piece))
        try:
            with self.connection:
                assert self.connection.response(sink=slowly).status == 200
            self.body = b"".join(pieces)
        except Exception as failure:  # told by the main thread
            self.failure = failure


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_removed_address_lets_everybody_finish(make_registry, host):
    """Downloads, an upload and an idle connection go on to their end, connects are answered or refused, and the other
    address does not notice."""
    registry = make_registry()
    leaving = (host, free_port())
    listen(registry, leaving)
    assert http1.wait_until(lambda: serves(leaving))
    pids = registry.dataplane_pids()
    data = randomness("removed", host).randbytes(24 * MIB)
    repo = registry.repository("listen/removed")
    target = repo.target("blobs/" + repo.push_blob(data))
    away = harness.Repository(http1.Client(leaving), "listen/removed")
    upload = http1.target_of(away.start_upload().header("Location"))
    with Connects(leaving) as connects, Connects(registry.address) as others, \
            http1.Connection(leaving, timeout_s=30) as idle, http1.Connection(leaving, timeout_s=30) as sender:
        assert idle.exchange("GET", "/v2/").status == 200
        downloads = [Download(leaving, target, 3, len(data)) for _ in range(6)]
        sender.send(sender.head("PATCH", upload, {"Content-Length": str(4 * MIB)}))
        sender.send(data[:MIB])
        assert http1.wait_until(lambda: connects.answered > 50)
        listen(registry)
        wait_gone(registry)
        assert refused(leaving) and answers(registry.address)
        sender.send(data[MIB:4 * MIB])
        assert sender.response().status == 202
        assert idle.exchange("GET", "/v2/").status == 200
        for download in downloads:
            assert download.is_alive() or download.failure is None
            download.join(30)
        assert http1.wait_until(lambda: connects.refused > 4)
    assert [download.failure for download in downloads] == [None] * 6
    assert all(download.body == data for download in downloads)
    assert not connects.failures and not others.failures and others.refused == 0 and others.answered > 100
    digest = digest_of(data[:4 * MIB])
    assert repo.at(upload, "PUT", query=[("digest", digest)]).status == 201
    assert repo.blob(digest).body == data[:4 * MIB]
    assert registry.dataplane_pids() == pids


@contextlib.contextmanager
def standing_still(pids):
    for pid in pids:
        harness.stand_still(pid)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_connections_that_wait_in_a_removed_address_are_accepted(make_registry):
    """The data plane stands still while the address is removed: who was in the queue is answered afterwards, and who
    comes later is refused and never reset."""
    registry = make_registry()
    leaving = ("127.0.0.1", free_port())
    listen(registry, leaving)
    assert http1.wait_until(lambda: serves(leaving))
    pids = registry.dataplane_pids()
    late = Connects(leaving, threads=8)
    with contextlib.ExitStack() as stack:
        with standing_still(pids):
            waiting = [stack.enter_context(http1.Connection(leaving, timeout_s=20)) for _ in range(40)]
            listen(registry)
            stack.enter_context(late)
            time.sleep(2)
            assert late.refused == 0 and GONE not in registry.log()
        for connection in waiting:
            assert connection.exchange("GET", "/v2/").status == 200
        wait_gone(registry)
        assert http1.wait_until(lambda: late.refused >= 8)
    assert refused(leaving) and not late.failures and late.answered == 0
    assert registry.dataplane_pids() == pids


def test_address_that_comes_back_while_it_leaves_stays(make_registry):
    """Nobody is refused, and a connect that began meanwhile is answered."""
    registry = make_registry()
    leaving = ("127.0.0.1", free_port())
    listen(registry, leaving)
    assert http1.wait_until(lambda: serves(leaving))
    with Connects(leaving) as connects:
        for _ in range(3):
            listen(registry)
            time.sleep(0.2)
            listen(registry, leaving)
            answered = connects.answered
            assert http1.wait_until(lambda before=answered: connects.answered > before + 50)
        time.sleep(1.5)
        assert answers(leaving)
    assert not connects.failures and connects.refused == 0 and GONE not in registry.log()


def descriptors(registry):
    """Of both processes. Descriptors that are opened for a moment and kept for a while are not sockets."""
    counts = {}
    for pid in (registry.process.pid, *registry.dataplane_pids()):
        links = []
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                links.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        counts[pid] = len(links)
    return counts


@pytest.mark.slow
def test_twenty_times_in_and_out_leaves_nothing_behind(make_registry):
    registry = make_registry()
    address = ("127.0.0.1", free_port())
    assert answers(registry.address)
    before = descriptors(registry)
    for i in range(20):
        listen(registry, address)
        assert http1.wait_until(lambda: serves(address)), i
        assert descriptors(registry) != before
        with http1.Connection(address) as connection:
            assert connection.exchange("GET", "/v2/").status == 200
            listen(registry)
            wait_gone(registry, i + 1)
            assert refused(address)
            assert connection.exchange("GET", "/v2/").status == 200
    # `before` may count a connection whose end the server had not seen yet.
    assert http1.wait_until(lambda: all(n <= before[pid] for pid, n in descriptors(registry).items())), \
        (before, descriptors(registry))
    assert answers(registry.address)


@pytest.mark.parametrize("first, second", [("127.0.0.1", "0.0.0.0"), ("0.0.0.0", "127.0.0.1")])
def test_wildcard_takes_the_place_of_an_address(make_registry, first, second):
    """And the other way round: the same port is served all the time, with nobody refused."""
    registry = make_registry()
    port = free_port()
    listen(registry, (first, port))
    assert http1.wait_until(lambda: serves(("127.0.0.1", port)))
    with Connects(("127.0.0.1", port)) as connects:
        assert http1.wait_until(lambda: connects.answered > 50)
        listen(registry, (second, port))
        wait_gone(registry)
        answered = connects.answered
        assert http1.wait_until(lambda: connects.answered > answered + 50)
    assert not connects.failures and connects.refused == 0
    if second == "0.0.0.0":
        assert answers(("127.0.0.2", port))
    else:
        assert refused(("127.0.0.2", port))


def test_addresses_take_each_others_places(make_registry):
    """Sockets of new addresses are in the slots of those that have gone, also when several go at once."""
    registry = make_registry()
    addresses = [("127.0.0.1", free_port()) for _ in range(6)]
    pids = registry.dataplane_pids()
    for gone, (first, second) in enumerate(zip(addresses, addresses[1:])):
        listen(registry, first, second)
        assert http1.wait_until(lambda pair=(first, second): all(serves(each) for each in pair))
        if gone:
            wait_gone(registry, gone)
            assert refused(addresses[gone - 1])
    listen(registry, *addresses[:3])
    wait_gone(registry, 6)
    assert all(serves(each) for each in addresses[:3]) and all(refused(each) for each in addresses[3:])
    assert answers(registry.address) and registry.dataplane_pids() == pids


def test_data_plane_dies_while_an_address_leaves(make_registry):
    registry = make_registry()
    leaving = ("127.0.0.1", free_port())
    listen(registry, leaving)
    assert http1.wait_until(lambda: serves(leaving))
    listen(registry)
    registry.kill_dataplane()
    wait_gone(registry)
    assert http1.wait_until(lambda: serves(registry.address)) and refused(leaving)
    listen(registry, leaving)
    assert http1.wait_until(lambda: serves(leaving))


@pytest.mark.parametrize("wanted", [False, True])
def test_control_dies_while_an_address_leaves(make_registry, wanted):
    """The next one, which takes over the data plane, goes on with it, or has the address again if its file says so."""
    registry = make_registry()
    leaving = ("127.0.0.1", free_port())
    listen(registry, leaving)
    assert http1.wait_until(lambda: serves(leaving))
    pids = registry.dataplane_pids()
    with http1.Connection(leaving, timeout_s=20) as idle:
        assert idle.exchange("GET", "/v2/").status == 200
        listen(registry)
        registry.kill_control()
        registry.more_addresses = ("%s:%d" % leaving, ) if wanted else ()
        registry.start()
        if wanted:
            assert http1.wait_until(lambda: serves(leaving))
        else:
            wait_gone(registry)
            assert refused(leaving)
        assert idle.exchange("GET", "/v2/").status == 200
    assert registry.dataplane_pids() == pids and answers(registry.address)
