# SPDX-License-Identifier: Apache-2.0
"""The edge as a node runs it: a client that knows nothing of Fairlead, a node, three backends, one segment.

One node serves all ways of forwarding in both families at once. A service's address is on no device of the node; the
client's route to it is the node. With NAT the backends' route to the client is the node too; with direct return they have
the address on their loopback and answer the client themselves.
"""

import json
import re
import sys

import pytest

import http1
import netlab
from test_edge import SERVERS, TRAFFIC, Talk, broken, sysctl, traffic

pytestmark = netlab.needed

MODES = ("nat", "full-nat", "dsr")
CASES = [(mode, family) for mode in MODES for family in (4, 6)]
PORT, SERVER_PORT = 80, 8080
BULK_BYTES = 16 << 20
CONNECTIONS = 150
ANSWERS = 100  # table of routes: the answers of the NATs go by the node
EDGE_PORTS = "40960-57343"
OTHERS_PORTS = "8080,9000-9009,41000-41009,61100"  # some among those that the node reserves


def address_of(mode, family):
    number = 80 + MODES.index(mode)
    return f"10.98.0.{number}" if family == 4 else f"fd00:98::{number}"


def own_address(host, family):
    return host.v4 if family == 4 else host.v6


def in_url(address, port):
    return f"'[{address}]:{port}'" if ":" in address else f"'{address}:{port}'"


def config(lab, cases=tuple(CASES)):
    lines = ["services:"]
    for mode, family in cases:
        lines += [f"  - name: {mode}-{family}", f"    address: {in_url(address_of(mode, family), PORT)}", "    kind: tcp",
                  "    steer: false", f"    edge: {mode}", "    policy: random", "    check:", "      interval: 20ms",
                  "    backends:"]
        for name in SERVERS:
            port = PORT if mode == "dsr" else SERVER_PORT
            lines += [f"      - name: {name}", f"        address: {in_url(own_address(lab[name], family), port)}"]
    return "\n".join(lines) + "\n"


def settings_of(host):
    """What the edge changes: forwarding of the device, reserved ports."""
    paths = [*(f"/proc/sys/net/ipv{family}/conf/eth0/forwarding" for family in (4, 6)),
             "/proc/sys/net/ipv4/ip_local_reserved_ports"]
    return host.run("sh", "-c", f"for f in {' '.join(paths)}; do echo $(cat $f); done").stdout.split("\n")[:3]


def states(node):
    return {(b["service"], b["name"]): b["state"] for b in node.json("backend", "ls")}


def wait_states(node, **wanted):
    def reached():
        return all(state == wanted.get(name, "up") for (_, name), state in states(node).items())
    assert http1.wait_until(reached, 60), f"{states(node)}\n{node.log()}"


def prepare(lab, name):
    """A backend's addresses, and the way of its answers."""
    host, client = lab[name], lab["client"]
    sysctl(host, net__ipv4__conf__all__arp_ignore=1)
    for family, bits in ((4, 32), (6, 128)):
        host.ip("addr", "add", f"{address_of('dsr', family)}/{bits}", "dev", "lo", *([] if family == 4 else ["nodad"]))
        host.ip("route", "add", f"{own_address(client, family)}/{bits}", "via", own_address(lab["lb"], family), "table", ANSWERS)
        host.ip(f"-{family}", "rule", "add", "from", own_address(host, family), "to", own_address(client, family), "lookup",
                ANSWERS)


def serve(lab, name):
    """Servers for the NATs; for direct return one where its checks go, one where its traffic goes."""
    host = lab[name]
    places = [(own_address(host, family), port) for family in (4, 6) for port in (SERVER_PORT, PORT)]
    places += [(address_of("dsr", family), PORT) for family in (4, 6)]
    servers = [Talk(host, sys.executable, TRAFFIC, "serve", *place, name) for place in places]
    for server in servers:
        assert json.loads(server.line()) == {"ready": name}
    return [server.process for server in servers]


class Site:
    def __init__(self, lab):
        self.lab, self.client = lab, lab["client"]
        for name in SERVERS:
            prepare(lab, name)
        self.servers = {name: serve(lab, name) for name in SERVERS}
        for mode, family in CASES:
            self.client.ip("route", "add", address_of(mode, family), "via", own_address(lab["lb"], family))
        sysctl(lab["lb"], net__ipv4__ip_local_reserved_ports=OTHERS_PORTS)
        self.before = settings_of(lab["lb"])
        self.node = lab.node("lb", config=config(lab))
        wait_states(self.node)

    def connect(self, mode, family, count=CONNECTIONS):
        return traffic(self.client, "connect", address_of(mode, family), PORT, count, timeout=20)

    def hold(self, mode, family, count=20):
        holder = Talk(self.client, sys.executable, TRAFFIC, "hold", address_of(mode, family), PORT, count)
        assert json.loads(holder.line()) == {"open": count}
        assert http1.wait_until(lambda: all(r["rounds"] for r in json.loads(holder.ask())["results"]), 10)
        return holder

    def kill(self, name):
        for server in self.servers.pop(name):
            server.kill()

    def start(self, name):
        self.servers[name] = serve(self.lab, name)


@pytest.fixture(scope="module", name="site")
def site_fixture():
    with netlab.Lab("client", "lb", *SERVERS) as lab:
        yield Site(lab)


@pytest.mark.parametrize("mode,family", CASES)
def test_traffic(site, mode, family):
    result = site.connect(mode, family)
    assert result["errors"] == {} and set(result["names"]) == set(SERVERS)
    seen = site.lab["lb"] if mode == "full-nat" else site.client
    assert result["sources"] == [own_address(seen, family)]
    assert traffic(site.client, "bulk", address_of(mode, family), PORT, BULK_BYTES)["right"]


def test_settings_while_it_runs(site):
    v4, v6, ports = settings_of(site.lab["lb"])
    assert (v4, v6, ports) == ("1", "1", f"8080,9000-9009,{EDGE_PORTS},61000-62023")


def test_what_the_edge_counts_is_shown(site):
    """Flows add what they counted when they end: a moment after the connections."""
    def sums():
        found = {}
        for line in site.node.cli("metrics").stdout.splitlines():
            if match := re.match(r'fairlead_(\w+_edge_\w+)\{service="nat-4".*\} (\d+)$', line):
                found[match[1]] = found.get(match[1], 0) + int(match[2])
        return found
    before = sums()
    site.connect("nat", 4)

    def counted():
        now = {name: value - before[name] for name, value in sums().items()}
        return now["service_edge_flows_total"] >= CONNECTIONS and now["backend_edge_flows_total"] >= CONNECTIONS and \
            now["backend_edge_packets_total"] >= 3 * CONNECTIONS and now["backend_edge_back_bytes_total"] > 100 * CONNECTIONS
    assert http1.wait_until(counted, 30), (before, sums())
    text = site.node.cli("metrics").stdout
    for name in sums():
        assert f"# HELP fairlead_{name} " in text and f"# TYPE fairlead_{name} counter" in text
    row = next(row for row in site.node.json("kernel")[0]["edge"] if row["service"] == "nat-4")
    assert row["established"] >= CONNECTIONS and row["no_port"] == 0
    figures = site.node.json("backend", "show", "nat-4", "b1")[0]["figures"]
    assert figures["edge_flows"] > 0 and figures["edge_packets"] > 0
    assert "nat-4" in site.node.cli("kernel").stdout


def test_a_backend_dies(site):
    """Its connections end; those of others go on, and new ones go to others."""
    holders = {case: site.hold(*case) for case in CASES}
    site.kill("b2")
    wait_states(site.node, b2="down")
    for case, holder in holders.items():
        result = site.connect(*case, 30)
        assert result["errors"] == {} and set(result["names"]) == {"b1", "b3"}, case
        results = json.loads(holder.end().splitlines()[-1])["results"]
        assert {r["name"] for r in broken(results)} <= {"b2"}, (case, results)
        assert {r["name"] for r in results if not r["error"]} == {"b1", "b3"}, case
    site.start("b2")
    wait_states(site.node)


def test_the_node_is_killed(site):
    """Control and data plane are gone: connections stay, new ones are made, a backend that dies is avoided."""
    holders = {case: site.hold(*case) for case in CASES}
    site.node.kill()
    for case in CASES:
        assert site.connect(*case, 30)["errors"] == {}, case
    site.kill("b3")
    for case, holder in holders.items():
        assert http1.wait_until(lambda case=case: set(site.connect(*case, 20)["names"]) == {"b1", "b2"}, 5), case
        results = json.loads(holder.end().splitlines()[-1])["results"]
        assert {r["name"] for r in broken(results)} <= {"b3"}, (case, results)
    site.start("b3")
    site.node.start()
    wait_states(site.node)


def restart(site, cases, kernel):
    site.node.config, site.node.kernel = config(site.lab, cases), kernel
    site.node.kill()
    site.node.start()
    wait_states(site.node)


def xdp(site):
    """Where the node says it has the XDP program, and whether the device says so too."""
    told = [p["where"] for p in site.node.json("kernel")[0]["attached"] if p["program"] == "edge_xdp" and p["id"]]
    return told, "prog/xdp" in site.lab["lb"].ip("-d", "link", "show", "eth0").stdout


def test_only_what_is_asked_for(site):
    """A family without services forwards no more, ports go back with the last full NAT; after restarts too. XDP is where the
    configuration has it; no traffic meanwhile: what comes over a veth from the same machine has no checksums yet."""
    host = site.lab["lb"]
    assert xdp(site) == ([], False)
    restart(site, [("nat", 4)], "  xdp: [eth0, nothing*]\n")
    assert xdp(site) == (["eth0"], True)
    links = json.loads(netlab.command("bpftool", "-j", "map", "dump", "pinned",
                                      netlab.BPFFS / f"fairlead-{site.node.instance}/v3/edge_links").stdout)
    mac = json.loads(host.ip("-j", "link", "show", "eth0").stdout)[0]["address"]
    assert [bytes(link["formatted"]["value"]["mac"]).hex(":") for link in links] == [mac]
    assert http1.wait_until(lambda: settings_of(host) == ["1", "0", "8080,9000-9009,41000-41009,61000-62023"], 20), settings_of(host)
    restart(site, CASES, "")
    assert xdp(site) == ([], False)
    assert settings_of(host)[:2] == ["1", "1"]
    assert site.connect("nat", 6, 30)["errors"] == {}
    # Somebody else changes a setting: it is changed back.
    sysctl(host, net__ipv6__conf__eth0__forwarding=0)
    assert http1.wait_until(lambda: settings_of(host)[1] == "1", 5)


def test_detach_leaves_it_as_it_was(site):
    site.node.cli("kernel", "detach", "--yes")
    assert settings_of(site.lab["lb"]) == site.before
    assert site.lab["lb"].run("tc", "filter", "show", "dev", "eth0", "ingress").stdout == ""
