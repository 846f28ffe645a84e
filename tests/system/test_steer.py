# SPDX-License-Identifier: Apache-2.0
"""Connections to services between hosts: where they go, what ends them when a backend is gone, and what canaries make of servers."""

import collections
import json
import os
import subprocess
import sys
import time

import pytest

import http1
import netlab
from netlab import BPFFS, Lab, command

pytestmark = netlab.needed

VIP, VIP6, PORT = "10.96.0.1", "fd00:96::1", 80
BACKENDS = ("b1", "b2", "b3")

# Holds COUNT connections to ADDRESS PORT. Each line of input is an order: `send` sends a byte on each; `wait` reads from each
# until it ends. The answer is a line with what happened to each.
HOLDER = """
import errno, socket, sys
address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
held = [socket.create_connection((address, port), 5) for _ in range(count)]
print("ready", *{s.getpeername()[0] for s in held}, flush=True)
for order in sys.stdin:
    said = []
    for s in held:
        s.settimeout(15)
        try:
            said.append(str(s.send(b"x") if order == "send\\n" else len(s.recv(100))))
        except OSError as e:
            said.append(errno.errorcode.get(e.errno, "timeout"))
    print(*said, flush=True)
"""

# Takes connections at ADDRESS PORT and says nothing; closes each after IDLE seconds.
IDLE_SERVER = """
import selectors, socket, sys, time
server = socket.create_server((sys.argv[1], int(sys.argv[2])), reuse_port=False)
server.settimeout(0.05)
held = []
print("ready", flush=True)
while True:
    try:
        held.append((time.monotonic(), server.accept()[0]))
    except TimeoutError:
        pass
    for since, s in [h for h in held if time.monotonic() - h[0] > float(sys.argv[3])]:
        s.close()
    held = [h for h in held if h[1].fileno() >= 0]
"""


class Holder:
    def __init__(self, host, address, count):
        self.process = host.start(sys.executable, "-c", HOLDER, address, PORT, count, stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True)
        word, *self.peers = self.process.stdout.readline().split()
        assert word == "ready"

    def order(self, what):
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()

    def answer(self):
        return self.process.stdout.readline().split()


def service(lab, name, address, backends, *more):
    lines = [f"  - name: {name}", f"    address: '{address}:{PORT}'", "    kind: tcp", "    steer: true", *more, "    check:",
             "      kind: tcp", "      interval: 20ms", "    backends:"]
    for backend in backends:
        host = lab[backend]
        where = f"[{host.v6}]" if name.endswith("6") else host.v4
        lines += [f"      - name: {backend}", f"        address: '{where}:{PORT}'"]
    return lines


def config(lab, backends, *more):
    return "\n".join(["services:", *service(lab, "web", VIP, backends, *more),
                      *service(lab, "web6", f"[{VIP6}]", backends, *more)]) + "\n"


def lines_of(node, *args):
    return [json.loads(line) for line in node.cli(*args, "--json").stdout.splitlines()]


def states(node):
    return {(b["service"], b["name"]): b["state"] for b in lines_of(node, "backend", "ls")}


def wait_up(node, count):
    def all_up():
        now = states(node)
        return len(now) == count and set(now.values()) == {"up"}
    assert http1.wait_until(all_up, 20), f"{states(node)}\n{node.log()}"


def events(node, kind):
    return [e for e in lines_of(node, "events", "--limit", "1000") if e["kind"] == kind]


def dump(node, name):
    """A map of numbers or structs as bpftool tells it: [(key, value)]."""
    path = BPFFS / f"fairlead-{node.instance}/v3/{name}"
    return json.loads(command("bpftool", "-j", "map", "dump", "pinned", path).stdout)


def stats(node, field):
    """Sum of a field of backend_stats."""
    values = [e["formatted"]["value"][field] for e in dump(node, "backend_stats")]
    if field == "active":  # ABI_ACTIVE_COUNT
        values = [max((value & 0xffffffff) - 0x40000000, 0) for value in values]
    return sum(values)


@pytest.fixture
def lab():
    with Lab("client", *BACKENDS) as instance:
        yield instance


def site(lab, *more, backends=BACKENDS):
    for name in backends:
        lab[name].pong(PORT)
    node = lab.node("client", config=config(lab, backends, *more))
    wait_up(node, 2 * len(backends))
    return node


def test_connections_are_spread_and_end_even(lab):
    node = site(lab)
    clients = [lab["client"].reach(address, PORT, interval_us=1000) for address in (VIP, VIP6)]
    time.sleep(1.5)
    for attempts in [client.stop() for client in clients]:
        names = collections.Counter(name for _, _, name in attempts)
        assert set(names) == set(BACKENDS), names
        assert min(names.values()) > len(attempts) / 6, names
    assert http1.wait_until(lambda: stats(node, "active") == 0, 5), stats(node, "active")
    assert stats(node, "connects") == stats(node, "established") > 1000


def test_the_service_is_what_the_application_sees(lab):
    site(lab)
    assert Holder(lab["client"], VIP, 3).peers == [VIP]
    assert Holder(lab["client"], VIP6, 3).peers == [VIP6]


def test_other_cgroups_do_not_see_the_service(lab):
    site(lab)
    probe = ["nsenter", f"--net=/run/netns/{lab['client'].netns}", sys.executable, "-c",
             f"import socket; socket.create_connection(('{VIP}', {PORT}), 2)"]
    done = subprocess.run(probe, capture_output=True, text=True)
    assert done.returncode != 0 and "unreachable" in done.stderr


def test_a_killed_process_is_left_at_once(lab):
    node = site(lab)
    client = lab["client"].reach(VIP, PORT, interval_us=1000)
    time.sleep(0.5)
    server = lab["b1"].processes[0]
    killed = time.monotonic_ns()
    server.kill()
    server.wait()
    time.sleep(1.0)
    failed = [a for a in client.stop() if a[2].startswith("-")]
    # Those that were under way, and a few of the same millisecond.
    assert len([a for a in failed if a[0] > killed + 100e6]) == 0, failed
    assert states(node)["web", "b1"] == "down"
    assert events(node, "backend.suspect"), "nothing was noticed before the probe"


def test_drain_takes_no_new_connections_and_keeps_the_old(lab):
    node = site(lab, backends=("b1", "b2"))
    node.cli("backend", "drain", "web", "b1")
    client = lab["client"].reach(VIP, PORT, interval_us=2000)
    time.sleep(0.5)
    assert {name for _, _, name in client.stop()} == {"b2"}


@pytest.mark.parametrize("all_down", ["refuse", "open"])
def test_all_down(lab, all_down):
    node = site(lab, f"    all_down: {all_down}", backends=("b1", "b2"))
    for name in ("b1", "b2"):
        lab[name].processes[0].kill()
    assert http1.wait_until(lambda: set(states(node).values()) == {"down"}, 5), states(node)
    before = stats(node, "connects")
    client = lab["client"].reach(VIP, PORT, interval_us=5000)
    time.sleep(0.3)
    results = {name for _, _, name in client.stop()}
    assert len(results) == 1 and results.pop().startswith("-")
    assert (stats(node, "connects") > before) == (all_down == "open")


@pytest.mark.parametrize("address", [VIP, VIP6])
def test_connections_to_a_silent_host_end(lab, address):
    """Those that send are reset by the kernel, those that wait are ended by control."""
    node = site(lab, "    cut: true", backends=("b1",))
    sending, waiting = Holder(lab["client"], address, 5), Holder(lab["client"], address, 5)
    assert http1.wait_until(lambda: stats(node, "active") == 10, 5)
    waiting.order("wait")
    os.kill(node.process.pid, 19)  # the kernel alone
    lab["b1"].silence()
    time.sleep(0.5)
    sending.order("send")
    assert sending.answer() == ["1"] * 5
    started = time.monotonic()
    sending.order("wait")
    assert sending.answer() == ["ECONNRESET"] * 5
    assert time.monotonic() - started < 2
    assert stats(node, "cuts") >= 5
    os.kill(node.process.pid, 18)
    started = time.monotonic()
    assert waiting.answer() == ["ECONNABORTED"] * 5
    assert time.monotonic() - started < 5
    assert http1.wait_until(lambda: stats(node, "active") == 0, 5)


def test_without_cut_connections_stay(lab):
    site(lab, "    cut: false", backends=("b1",))
    holder = Holder(lab["client"], VIP, 3)
    node = lab.nodes[0]
    lab["b1"].silence()
    assert http1.wait_until(lambda: set(states(node).values()) == {"down"}, 5), states(node)
    holder.order("send")
    assert holder.answer() == ["1"] * 3
    time.sleep(1)
    assert stats(node, "cuts") == 0
    lab["b1"].unsilence()
    holder.order("wait")
    answered = holder.answer()
    assert "ECONNRESET" not in answered and "ECONNABORTED" not in answered, answered


def test_a_server_that_closes_idle_connections_does_not_flap(lab):
    lab["b1"].start(sys.executable, "-c", IDLE_SERVER, lab["b1"].v4, PORT, 3, stdout=subprocess.PIPE)
    node = lab.node("client", config="\n".join(["services:", *service(lab, "web", VIP, ("b1",))]) + "\n")
    wait_up(node, 1)
    time.sleep(16)  # learnt: two of its ends, and what lies between
    learnt = len(events(node, "backend.suspect"))
    assert 1 <= learnt <= 4
    time.sleep(10)
    assert len(events(node, "backend.suspect")) == learnt
    assert events(node, "backend.down") == []
    assert states(node)["web", "b1"] == "up"
