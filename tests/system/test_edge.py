# SPDX-License-Identifier: Apache-2.0
"""The edge between hosts: a client, a balancer with nothing but the programs (edge_lab), three servers, one segment.

The service's address is on no device of the balancer; the client's route to it is the balancer. With NAT the servers'
route to the client is the balancer too; with full NAT they need none; with direct return they have the service's address
on their loopback and answer the client themselves.
"""

import contextlib
import itertools
import json
import pathlib
import subprocess
import sys

import pytest

import http1
import netlab
from harness import BUILD

pytestmark = netlab.needed

TRAFFIC = pathlib.Path(__file__).with_name("edge_traffic.py")
MODES = {"nat": 1, "full-nat": 2, "direct": 3}
ADDRESS = {4: "10.98.0.80", 6: "fd00:98::80"}
PORT, SERVER_PORT, SERVICE = 80, 8080, 1
ACTIVE, DRAIN, GONE = 1, 2, 0
UP, DOWN = 1, 3
SERVERS = ("b1", "b2", "b3")
BULK_BYTES = 32 << 20
SHORT_CONNECTIONS = 600
# Of the two families one for each mode: test_edge_node.py has all of them, with less in each.
QUICK = {("nat", 4), ("full-nat", 6), ("direct", 6)}


def sysctl(host, **values):
    host.run("sysctl", "-qw", *(f"{name.replace('__', '.')}={value}" for name, value in values.items()))


class Talk:
    """A program that answers each line by one."""

    def __init__(self, host, *args):
        self.process = host.start(*args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self):
        line = self.process.stdout.readline()
        assert line, f"it ended: {self.process.wait(10)}"
        return line.strip()

    def ask(self, words=""):
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()
        return self.line()

    def end(self):
        """Its last words."""
        self.process.stdin.close()
        rest = self.process.stdout.read()
        assert self.process.wait(30) == 0
        return rest


class Balancer:
    def __init__(self, lab, mode, family):
        self.lab, self.mode, self.family = lab, mode, family
        self.states = {}
        host = lab["lb"]
        sysctl(host, net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
        self.tool = Talk(host, BUILD / "tools/edge_lab")
        assert self.tool.line() == "ok loaded"
        self.order("attach eth0")
        for number, name in enumerate(SERVERS):
            self.backend(number)
        self.service(0, 1, 2)

    def order(self, words):
        answer = self.tool.ask(words)
        assert answer.startswith("ok"), f"{words}: {answer}"
        return dict((key, int(value)) for key, value in (word.split("=") for word in answer.split()[1:]))

    def host_address(self, name):
        return self.lab[name].v4 if self.family == 4 else self.lab[name].v6

    def backend(self, number, admin=ACTIVE, state=UP):
        self.order(f"backend {number} {self.host_address(SERVERS[number])} {self.server_port()} {admin} {state} 1 remote")

    def server_port(self):
        return PORT if self.mode == "direct" else SERVER_PORT

    def service(self, *numbers, all_down="refuse"):
        source = self.host_address("lb") if self.mode == "full-nat" else "-"
        self.order(f"service {SERVICE} {ADDRESS[self.family]} {PORT} {MODES[self.mode]} {all_down} {source} "
                   + " ".join(str(n) for n in numbers))

    def stats(self):
        return self.order(f"stats {SERVICE}")


@contextlib.contextmanager
def balanced(mode, family):
    address = ADDRESS[family]
    bits = 32 if family == 4 else 128
    with netlab.Lab("client", "lb", *SERVERS) as lab:
        balancer = Balancer(lab, mode, family)
        client = lab["client"]
        client.ip("route", "add", f"{address}/{bits}", "via", balancer.host_address("lb"))
        for name in SERVERS:
            host = lab[name]
            if mode == "nat":
                host.ip("route", "add", f"{balancer.host_address('client')}/{bits}", "via", balancer.host_address("lb"))
            if mode == "direct":
                sysctl(host, net__ipv4__conf__all__arp_ignore=1)
                host.ip("addr", "add", f"{address}/{bits}", "dev", "lo", *([] if family == 4 else ["nodad"]))
            server = Talk(host, sys.executable, TRAFFIC, "serve",
                          address if mode == "direct" else balancer.host_address(name), balancer.server_port(), name)
            assert json.loads(server.line()) == {"ready": name}
            host.server = server.process
        yield lab, balancer


def traffic(host, *args, timeout=120):
    return json.loads(subprocess.run(
        host.inside([sys.executable, TRAFFIC, *args]), capture_output=True, text=True, timeout=timeout,
        check=True).stdout)


def traffic_of(balancer, number):
    return balancer.order(f"traffic {number}")


def connect(lab, balancer, count):
    return traffic(lab["client"], "connect", ADDRESS[balancer.family], PORT, count)


def modes_and_families():
    for both in itertools.product(MODES, (4, 6)):
        yield pytest.param(both, id=f"{both[0]}-v{both[1]}", marks=[] if both in QUICK else pytest.mark.slow)


@pytest.fixture(scope="module", params=modes_and_families())
def site(request):
    with balanced(*request.param) as made:
        yield made


@pytest.fixture
def pair(site):
    """Hosts are the same for all tests of a mode and family; each begins with three backends that are up."""
    lab, balancer = site
    yield site
    for number, name in enumerate(SERVERS):
        lab[name].unsilence()
        balancer.backend(number)
    balancer.service(0, 1, 2)


def test_short_connections(pair):
    lab, balancer = pair
    flows = [traffic_of(balancer, number)["flows"] for number in range(3)]
    before = balancer.stats()
    result = connect(lab, balancer, SHORT_CONNECTIONS)
    assert result["errors"] == {}
    assert sum(result["names"].values()) == SHORT_CONNECTIONS
    assert set(result["names"]) == set(SERVERS)
    assert min(result["names"].values()) > SHORT_CONNECTIONS / 5
    assert result["sources"] == [balancer.host_address("lb" if balancer.mode == "full-nat" else "client")]
    stats = {name: value - before[name] for name, value in balancer.stats().items()}
    assert stats.pop("flows") == SHORT_CONNECTIONS
    # A port that comes again after its flow's end is a new connection; nothing else out of the ordinary was counted.
    stats.pop("moved")
    assert not any(stats.values()), stats
    packets = [traffic_of(balancer, number) for number in range(3)]
    assert sum(p["flows"] for p in packets) == sum(flows) + SHORT_CONNECTIONS
    assert all((p["back_packets"] > 0) == (balancer.mode != "direct") for p in packets)


@pytest.mark.parametrize("offload", ["on", pytest.param("off", marks=pytest.mark.slow)])
def test_bulk(pair, offload):
    """The client's offload off: it sends complete checksums and no segments to be cut later."""
    lab, balancer = pair
    subprocess.run(lab["client"].inside([sys.executable, TRAFFIC, "offload", "eth0", offload]), check=True)
    result = traffic(lab["client"], "bulk", ADDRESS[balancer.family], PORT, BULK_BYTES)
    assert result["right"]
    for host in lab.hosts.values():
        counted = host.run("cat", "/proc/net/snmp").stdout.splitlines()
        names, values = [line.split() for line in counted if line.startswith("Tcp:")]
        assert values[names.index("InCsumErrors")] == "0"


def offload(host, state):
    subprocess.run(host.inside([sys.executable, TRAFFIC, "offload", "eth0", state]), check=True)


def lower_mtu(balancer, host, bytes_):
    address, bits = balancer.host_address(host.name), 32 if balancer.family == 4 else 128
    balancer.lab["lb"].ip("route", "replace", f"{address}/{bits}", "dev", "eth0", "mtu", "lock", bytes_)


def test_narrow_ways(pair):
    """Behind the balancer the way is narrower than its devices: whoever sends too much is told, both ways, and heeds it.
    The segments come with checksums to be filled in, which the balancer's device does not do: it is done in what it says."""
    lab, balancer = pair
    narrow = [lab[name] for name in ("client", *SERVERS)]
    offload(lab["lb"], "off")
    before = balancer.stats()
    lowered = []
    try:
        for host in narrow:
            lower_mtu(balancer, host, 1300)
            lowered.append(host)
        result = traffic(lab["client"], "bulk", ADDRESS[balancer.family], PORT, 4 << 20)
        assert result["right"]
        stats = balancer.stats()
        told = stats["told"] - before["told"]
        assert 0 < told <= stats["too_big"] - before["too_big"]
        learnt = lab["client"].ip(f"-{balancer.family}", "route", "get", ADDRESS[balancer.family]).stdout
        assert "mtu 1300" in learnt, learnt
    finally:
        for host in lowered:
            host.ip(f"-{balancer.family}", "route", "flush", "cache")
            address, bits = balancer.host_address(host.name), 32 if balancer.family == 4 else 128
            lab["lb"].ip("route", "del", f"{address}/{bits}", "dev", "eth0")
        offload(lab["lb"], "on")


def broken(results):
    return [r for r in results if r["error"]]


def test_flows_stay(pair):
    """Backends are added, drained and removed under load: no established connection breaks."""
    lab, balancer = pair
    resets = balancer.stats()["resets"]
    holder = Talk(lab["client"], sys.executable, TRAFFIC, "hold", ADDRESS[balancer.family], PORT, 60)
    assert json.loads(holder.line()) == {"open": 60}
    for members, drained in (((0, 1), None), ((1, 2), None), ((2,), None), ((0, 1, 2), 0), ((0, 1, 2), 1), ((0,), 2),
                             ((0, 1, 2), None)):
        for number in range(3):
            gone = number not in members
            balancer.backend(number, GONE if gone else DRAIN if number == drained else ACTIVE)
        balancer.service(*members)
        result = connect(lab, balancer, 30)
        assert result["errors"] == {}
        assert set(result["names"]) <= {SERVERS[n] for n in members if n != drained}
        now = json.loads(holder.ask())["results"]
        assert broken(now) == []
    results = json.loads(holder.end().splitlines()[-1])["results"]
    assert broken(results) == []
    assert len({r["name"] for r in results}) == 3
    assert all(r["rounds"] > 10 for r in results)
    assert balancer.stats()["resets"] == resets


def test_backends_die(pair):
    """One server dies, then another, then the last: connections on it end, new ones go to who is left."""
    lab, balancer = pair
    holder = Talk(lab["client"], sys.executable, TRAFFIC, "hold", ADDRESS[balancer.family], PORT, 60)
    holder.line()
    # A client whose first request was acknowledged, and not answered, has nothing to send that could be reset.
    assert http1.wait_until(lambda: all(r["rounds"] for r in json.loads(holder.ask())["results"]), 10)
    for number in (1, 0):
        # It is silent, as if its host had gone: only the balancer's resets can end its connections soon.
        lab[SERVERS[number]].silence()
        balancer.backend(number, ACTIVE, DOWN)
        result = connect(lab, balancer, 100)
        assert result["errors"] == {} and SERVERS[number] not in result["names"]
        assert result["slowest_s"] < 1

    def ended():
        now = json.loads(holder.ask())["results"]
        dead = [r for r in now if r["name"] != SERVERS[2]]
        return now if dead and all("ConnectionResetError" in (r["error"] or "") for r in dead) else None

    # With the next segment: at the latest one that is sent again after a timeout.
    results = http1.wait_until(ended, 8)
    assert results, holder.ask()
    assert not any(r["error"] for r in results if r["name"] == SERVERS[2])
    balancer.backend(2, ACTIVE, DOWN)
    assert connect(lab, balancer, 20)["errors"] == {"ConnectionRefusedError": 20}
    balancer.service(0, 1, 2, all_down="open")
    for name in SERVERS:
        lab[name].unsilence()
    assert sum(connect(lab, balancer, 20)["names"].values()) > 0
    holder.end()
