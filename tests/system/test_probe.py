# SPDX-License-Identifier: Apache-2.0
"""Probes between hosts: a node with nothing but the programs (probe_node: it has ended when anything happens), servers
that die, freeze, fall silent, say 503 and come back; the clock stopped and started again by traffic."""

import json
import os
import signal
import subprocess
import time

import pytest

import netlab
from harness import BUILD

pytestmark = netlab.needed

PERIOD_MS, FALL, TIMEOUT_MS, HTTP_INTERVAL_MS, HTTP_TIMEOUT_MS = 20, 3, 15, 200, 150
STALE_MS = 200
TCP, HTTP, HTTP6, LOCAL, LOCAL6 = range(5)  # ids of backends
REMOTE = (TCP, HTTP, HTTP6)


class ProbeNode:
    """The probing half of a node. Each command is a process that ends before this goes on."""

    def __init__(self, host, peer, period_ms=PERIOD_MS, environment=None):
        self.host, self.instance = host, f"p{os.getpid()}{host.name}"
        self.environment = environment
        try:
            self.call("load", BUILD / "bpf/probe.bpf.o", period_ms * 1000, "eth0")
            self.check(1, "tcp", period_ms)
            self.check(2, "http", period_ms)
            self.backend(TCP, 1, peer.v4, 80, host.v4)
            self.backend(HTTP, 2, peer.v4, 80, host.v4)
            self.backend(HTTP6, 2, peer.v6, 80, host.v6)
        except BaseException:
            self.remove()
            raise

    def call(self, verb, *args):
        line = [BUILD / "tools/probe_node", verb, self.instance, *args]
        if self.environment:
            line = ["env", self.environment, *line]
        return self.host.run(*line).stdout

    def check(self, service, kind, period_ms, rise=1):
        self.call("check", service, kind, rise, FALL, period_ms * 1000, TIMEOUT_MS * 1000, HTTP_INTERVAL_MS * 1000,
                  HTTP_TIMEOUT_MS * 1000)

    def backend(self, number, service, address, port, source):
        self.call("backend", number, service, address, port, source)

    def show(self):
        return json.loads(self.call("show"))

    def backends(self):
        return self.show()["backends"]

    def changes(self, since_ns=0):
        """{backend: [(ms after, state, reason), ...]}"""
        found = {}
        for change in json.loads(self.call("changes")):
            if change["time_ns"] >= since_ns:
                found.setdefault(change["backend"], []).append(
                    ((change["time_ns"] - since_ns) / 1e6, change["state"], change["reason"]))
        return found

    def downs(self, since_ns, number):
        """[(ms after, state, reason), ...]: on a loaded machine there are suspicions now and then."""
        return [change for change in self.changes(since_ns).get(number, []) if change[1] == "down"]

    def wait(self, state, *numbers, seconds=5.0):
        deadline = time.monotonic() + seconds
        while True:
            shown = self.backends()
            if all(shown[n]["state"] == state for n in numbers):
                return shown
            assert time.monotonic() < deadline, self.show()
            time.sleep(0.02)

    def remove(self):
        self.call("remove")


@pytest.fixture
def pair():
    with netlab.Lab("n", "b") as lab:
        server = lab["b"].pong(80)
        node = ProbeNode(lab["n"], lab["b"])
        try:
            node.wait("up", *REMOTE)
            yield lab, node, server
        finally:
            node.remove()


def kill(process):
    """Returns when, CLOCK_MONOTONIC in nanoseconds."""
    now = time.monotonic_ns()
    process.send_signal(signal.SIGKILL)
    process.wait()
    return now


def test_a_killed_server_is_down_by_the_reset(pair):
    lab, node, server = pair
    since = kill(server)
    node.wait("down", *REMOTE)
    for number in REMOTE:
        (_, state, reason), = node.changes(since)[number]
        assert (state, reason) == ("down", "probe-refused")
    again = time.monotonic_ns()
    lab["b"].pong(80)
    node.wait("up", *REMOTE)
    for number in REMOTE:
        assert [(state, reason) for _, state, reason in node.changes(again)[number]] == [("up", "probe-ok")]


def test_evidence_leads_to_a_probe_at_once(pair):
    """The probes' interval is long: only the end of a real connection can have told."""
    lab, node, server = pair
    node.check(1, "tcp", 4000)
    node.check(2, "http", 4000)
    node.backend(TCP, 1, lab["b"].v4, 80, lab["n"].v4)  # writes the plan anew: all ids up to this one
    node.backend(HTTP, 2, lab["b"].v4, 80, lab["n"].v4)
    node.backend(HTTP6, 2, lab["b"].v6, 80, lab["n"].v6)
    client = lab["n"].start("python3", "-c", "import socket,sys;s=socket.create_connection(('%s',80));print('ok',flush=True);"
                            "sys.stdin.read()" % lab["b"].v4, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert client.stdout.readline() == "ok\n"
    node.wait("up", *REMOTE, seconds=10)
    since = kill(server)
    time.sleep(0.2)
    assert client.poll() is None
    (_, state, reason), = node.changes(since)[TCP]
    assert (state, reason) == ("down", "probe-refused")


def test_a_frozen_server_is_down_by_its_http_check(pair):
    lab, node, server = pair
    since = time.monotonic_ns()
    server.send_signal(signal.SIGSTOP)
    node.wait("down", HTTP, HTTP6)
    for number in (HTTP, HTTP6):
        changes = [change[1:] for change in node.changes(since)[number]]
        assert ("suspect", "http-timeout") in changes[:-1], "with the first check that fails"
        assert changes[-1] == ("down", "http-timeout") and len(node.downs(since, number)) == 1
    time.sleep(3 * PERIOD_MS / 1000)  # its kernel goes on answering SYNs
    shown = node.backends()
    assert shown[TCP]["state"] == "up" and shown[HTTP]["state"] == "down"
    server.send_signal(signal.SIGCONT)
    node.wait("up", HTTP, HTTP6)


def test_another_status_is_down_and_the_expected_one_is_up(pair):
    lab, node, server = pair
    since = time.monotonic_ns()
    server.send_signal(signal.SIGUSR1)
    shown = node.wait("down", HTTP, HTTP6)
    assert shown[HTTP]["reason"] == "http-status" and shown[HTTP]["status"] == 503 and shown[TCP]["state"] == "up"
    changes = [change[1:] for change in node.changes(since)[HTTP]]
    assert ("suspect", "http-status") in changes[:-1] and changes[-1] == ("down", "http-status")
    server.send_signal(signal.SIGUSR2)
    assert node.wait("up", HTTP, HTTP6)[HTTP]["status"] == 200


def test_a_silent_host_is_down_after_its_misses(pair):
    lab, node, server = pair
    since = time.monotonic_ns()
    lab["b"].silence()
    node.wait("down", *REMOTE)
    for number in REMOTE:
        (after_ms, _, reason), = node.downs(since, number)
        assert reason == "probe-timeout"
        assert after_ms > (FALL - 1) * PERIOD_MS, "one lost probe is not enough"
    lab["b"].unsilence()
    node.wait("up", *REMOTE)


def test_addresses_of_this_host(pair):
    lab, node, server = pair
    own = lab["n"].pong(81)
    node.backend(LOCAL, 2, lab["n"].v4, 81, "local")
    node.backend(LOCAL6, 2, lab["n"].v6, 81, "local")
    node.wait("up", LOCAL, LOCAL6)
    kill(own)
    assert node.wait("down", LOCAL, LOCAL6)[LOCAL]["reason"] == "probe-refused"
    node.wait("up", *REMOTE)


def test_normal_ends_of_connections_change_nothing(pair):
    """The server closes each connection, and some clients reset theirs."""
    lab, node, server = pair
    since = time.monotonic_ns()
    lab["n"].run("python3", "-c", f"""
import socket, struct
for i in range(300):
    s = socket.create_connection(({lab['b'].v4!r}, 80))
    s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')
    if i % 3:
        while s.recv(4096): pass
    else:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    s.close()
""")
    assert node.changes(since) == {}
    assert node.backends()[TCP]["timeouts"] == 0


def test_a_long_answer(pair, tmp_path):
    """It comes in segments larger than any packet, and the server has not sent all of it when it is reset."""
    lab, node, server = pair
    (tmp_path / "healthz").write_bytes(bytes(8 << 20))
    lab["b"].start("python3", "-m", "http.server", "82", "--bind", "::", "--directory", tmp_path,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    node.backend(LOCAL, 2, lab["b"].v4, 82, lab["n"].v4)
    node.backend(LOCAL6, 2, lab["b"].v6, 82, lab["n"].v6)
    shown = node.wait("up", LOCAL, LOCAL6, seconds=20)
    since = time.monotonic_ns()
    time.sleep(5 * HTTP_INTERVAL_MS / 1000)
    assert node.changes(since) == {}
    assert node.backends()[LOCAL]["http_answers"] > shown[LOCAL]["http_answers"]


def test_a_busy_machine_makes_nobody_down(pair):
    lab, node, server = pair
    since = time.monotonic_ns()
    hogs = [lab["b"].start("sh", "-c", "while :; do :; done") for _ in range(4)]
    time.sleep(3)
    for hog in hogs:
        kill(hog)
    assert [c for changes in node.changes(since).values() for c in changes if c[1] == "down"] == []


def test_probes_leave_nothing_behind(pair):
    """No half-open or waiting socket on either side, no segment with a wrong checksum."""
    lab, node, server = pair
    time.sleep(0.5)
    for host in (lab["n"], lab["b"]):
        sockets = host.run("ss", "-tanH", "sport", "!=", ":1").stdout
        left = [line for line in sockets.splitlines() if "LISTEN" not in line]
        assert len(left) <= 4, sockets  # what is under way just now
        counters = host.run("nstat", "-asz", "TcpInErrs", "TcpExtTCPAbortOnData", "TcpInCsumErrors").stdout
        assert "TcpInCsumErrors                 0" in counters, counters


def clock_link(node, state):
    node.host.ip("link", "set", f"flt-{node.instance}", state)


def test_a_clock_that_stands_still_freezes_verdicts(pair):
    lab, node, server = pair
    clock_link(node, "down")
    time.sleep(0.05)
    stopped, since = node.show()["ticks"], time.monotonic_ns()
    kill(server)
    lab["b"].silence()
    time.sleep(3 * STALE_MS / 1000)
    shown = node.show()
    assert shown["ticks"] == stopped and node.changes(since) == {}
    lab["b"].unsilence()
    lab["b"].pong(80)
    clock_link(node, "up")
    # The neighbour is gone with the carrier. Nobody of ours is there to make it anew; the next packet does.
    lab["b"].run("ping", "-c", "1", "-w", "5", lab["n"].v4, check=False)
    lab["b"].run("python3", "-c", f"import socket;s=socket.socket();s.settimeout(1);s.connect_ex(({lab['n'].v4!r},9))")
    time.sleep(0.5)
    shown = node.show()
    assert shown["ticks"] > stopped + 10 and shown["stale"] >= 1 and shown["restarts"] >= 1, shown
    assert all(node.downs(since, n) == [] for n in REMOTE), "what happened while it stood still is not known"
    node.wait("up", *REMOTE)


def test_a_lost_token_is_made_anew(pair):
    lab, node, server = pair
    if not node.show()["token"]:
        pytest.skip("this kernel has no token bucket")
    device = f"flt-{node.instance}"
    before = node.show()
    lab["n"].run("tc", "qdisc", "replace", "dev", device, "root", "pfifo", "limit", "1")  # drops it, then never waits
    time.sleep(1)
    after = node.show()
    ticks = after["ticks"] - before["ticks"]
    assert 10 <= ticks <= 1.5 * 1000 / PERIOD_MS, "neither stopped nor in a storm"
    assert after["storms"] > before["storms"]
    node.wait("up", *REMOTE)


def test_the_fan_is_down_and_nobody_else(pair):
    """Probes that do not leave this host say nothing about others."""
    lab, node, server = pair
    since = time.monotonic_ns()
    lab["n"].ip("link", "set", f"flf-{node.instance}", "down")
    time.sleep(0.5)
    assert node.changes(since) == {}
    lab["n"].ip("link", "set", f"flf-{node.instance}", "up")
    time.sleep(0.2)
    assert node.changes(since) == {}
    kill(server)
    node.wait("down", *REMOTE)


@pytest.mark.parametrize("period_ms,environment", [(10, None), (20, "NO_TOKEN=1")], ids=["10ms", "neighbour"])
def test_other_clocks(period_ms, environment):
    with netlab.Lab("n", "b") as lab:
        server = lab["b"].pong(80)
        node = ProbeNode(lab["n"], lab["b"], period_ms, environment)
        try:
            node.wait("up", *REMOTE)
            before = node.show()
            time.sleep(2)
            ticks = node.show()["ticks"] - before["ticks"]
            slowest_ms = period_ms if not environment else 2 * period_ms + 8  # it only guards where there are tokens
            assert 2000 / slowest_ms * 0.8 <= ticks <= 2000 / period_ms * 1.3
            kill(server)
            node.wait("down", *REMOTE)
        finally:
            node.remove()


def test_nothing_is_left(pair):
    lab, node, server = pair
    node.remove()
    links = lab["n"].ip("-br", "link").stdout
    assert "fl" not in " ".join(line.split("@")[0].split()[0] for line in links.splitlines()), links
    assert not os.path.exists(f"/run/netns/fairlead-{node.instance}-tick")
    assert lab["n"].run("cat", "/proc/sys/net/ipv4/ip_local_reserved_ports").stdout.strip() == ""
