# SPDX-License-Identifier: Apache-2.0
"""Failover while all of user space stands still: the kernel alone finds out who died, and where connections go."""

import collections
import contextlib
import os
import signal
import subprocess
import time

import pytest

import netlab
from netlab import Lab

pytestmark = netlab.needed

VIP, VIP6, PORT = "10.96.0.1", "fd00:96::1", 80
BACKENDS = ("b1", "b2", "b3")
# Far above the detection times (a few ms; 60 ms), far below the time-outs of TCP: the tests run on loaded machines, and with
# sanitizers.
DETECTED_S = 0.5
SETTLED_S = 3.0


def config(lab):
    lines = ["services:"]
    for name, address, family in (("web", VIP, "v4"), ("web6", f"[{VIP6}]", "v6")):
        lines += [f"  - name: {name}", f"    address: '{address}:{PORT}'", "    kind: http", "    steer: true",
                  "    check:", "      kind: http", "      path: /", "      interval: 20ms",
                  "      http_interval: 40ms", "      http_timeout: 200ms", "    backends:"]
        for backend in BACKENDS:
            host = lab[backend]
            where = f"[{host.v6}]" if family == "v6" else host.v4
            lines += [f"      - name: {backend}", f"        address: '{where}:{PORT}'", f"        node: {backend}"]
    lines += ["peers:"]
    for backend in BACKENDS:
        lines += [f"  - name: {backend}", f"    address: {lab[backend].v4}", "    interval: 20ms", "    multiplier: 3"]
    return "\n".join(lines) + "\n"


def peer_config(lab):
    """What the hosts of the backends run: the other end of the heartbeat."""
    return "\n".join(
        ["peers:", "  - name: client", f"    address: {lab['client'].v4}", "    interval: 20ms", "    multiplier: 3", ""])


def states(node):
    return {(b["service"], b["name"]): b["state"] for b in node.json("backend", "ls")}


def wait_up(node, seconds=60):
    end = time.monotonic() + seconds
    while True:
        now = states(node)
        if len(now) == 6 and set(now.values()) == {"up"}:
            return
        assert time.monotonic() < end, f"{now}\n{node.log()}"
        time.sleep(0.1)


class Site:
    """A client's host and three hosts with a server each, all with Fairlead."""

    def __init__(self, lab):
        self.lab = lab
        self.servers = {name: lab[name].pong(PORT) for name in BACKENDS}
        self.nodes = [lab.node(name, config=peer_config(lab)) for name in BACKENDS]
        self.client = lab.node("client", config=config(lab))
        self.nodes.append(self.client)
        wait_up(self.client)


@pytest.fixture
def site():
    with Lab("client", *BACKENDS) as lab:
        yield Site(lab)


def served(attempts, since_ns, until_ns):
    return collections.Counter(name for start, _, name in attempts if since_ns < start < until_ns and name[0] != "-")


class Silence:
    """Nothing passes; the carrier stays."""
    begin = staticmethod(lambda host: host.silence())
    end = staticmethod(lambda host: host.unsilence())


class LinkDown:
    """The host's own device is down: its addresses of IPv6 go with it, as on any host, and are given back."""
    @staticmethod
    def begin(host):
        host.ip("link", "set", "eth0", "down")
        return time.monotonic_ns()

    @staticmethod
    def end(host):
        host.ip("link", "set", "eth0", "up")
        host.ip("addr", "replace", f"{host.v6}/64", "dev", "eth0", "nodad")


def story(site, disturb, loss):
    """A process dies, a host is lost, both come back, all of it within disturb(). Returns what the clients saw, and when
    what happened."""
    lab = site.lab
    clients = [lab["client"].reach(address, PORT, interval_us=2000, timeout_ms=2000) for address in (VIP, VIP6)]
    time.sleep(0.5)
    with disturb(site, [client.process.pid for client in clients]):
        marks = events(site, loss)
    return [client.stop() for client in clients], marks


def events(site, loss):
    lab, marks = site.lab, {}
    time.sleep(0.5)
    marks["killed"] = time.monotonic_ns()
    site.servers["b1"].kill()
    site.servers["b1"].wait()
    time.sleep(1.5)
    marks["losing"] = time.monotonic_ns()  # a starved kernel takes its time to take a device down
    marks["silent"] = loss.begin(lab["b2"])
    time.sleep(2.0)
    marks["leaves"] = time.monotonic_ns()
    site.servers["b1"] = lab["b1"].pong(PORT)
    loss.end(lab["b2"])
    marks["back"] = time.monotonic_ns()
    time.sleep(SETTLED_S + 2)
    marks["end"] = time.monotonic_ns()
    return marks


def check(attempts, marks, changes=()):
    settled = marks["back"] + SETTLED_S * 1e9
    before = served(attempts, 0, marks["killed"])
    assert set(before) == set(BACKENDS), before
    dead_one = served(attempts, marks["killed"] + DETECTED_S * 1e9, marks["losing"])
    assert set(dead_one) == {"b2", "b3"}, dead_one
    dead_two = served(attempts, marks["silent"] + DETECTED_S * 1e9, marks["leaves"])
    assert set(dead_two) == {"b3"}, dead_two
    after = served(attempts, settled, marks["end"])
    assert set(after) == set(BACKENDS), after
    windows = [(marks[begin], marks[end] + DETECTED_S * 1e9) for begin, end in (("killed", "killed"), ("losing", "silent"))]
    lost = [a for a in attempts if a[2][0] == "-" and not any(low <= a[1] and a[0] <= high for low, high in windows)]
    assert not lost, "\n".join(map(str, (marks, *lost[:5], *changes)))


@contextlib.contextmanager
def frozen(site, _clients):
    """Control and data plane of every host are stopped."""
    for node in site.nodes:
        node.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for node in site.nodes:
            node.signal(signal.SIGCONT)


@contextlib.contextmanager
def starved(site, clients):
    """Hogs of a real-time priority take every processor; what the test itself needs is above them."""
    own = [os.getpid(), *clients, *(server.pid for server in site.servers.values())]
    for pid in own:
        subprocess.run(["chrt", "-f", "-p", "60", str(pid)], check=True)
    hogs = [subprocess.Popen(["chrt", "-f", "50", "sh", "-c", "while :; do :; done"]) for _ in range(os.cpu_count())]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
        subprocess.run(["chrt", "-o", "-p", "0", str(os.getpid())], check=True)


@pytest.mark.parametrize("disturb,loss", [
    (frozen, Silence), (starved, Silence),
    pytest.param(frozen, LinkDown, marks=pytest.mark.slow), pytest.param(starved, LinkDown, marks=pytest.mark.slow)])
def test_the_kernel_fails_over_without_user_space(site, disturb, loss):
    seen, marks = story(site, disturb, loss)
    changes = [change for name in BACKENDS for change in site.client.json("backend", "show", "web", name)[0]["history"]]
    for attempts in seen:
        check(attempts, marks, changes)
    wait_up(site.client)
    shown = site.client.json("backend", "show", "web", "b2")[0]
    reasons = {change["reason"] for change in shown["history"]}
    assert reasons & {"heartbeat", "probe-timeout"}, reasons
