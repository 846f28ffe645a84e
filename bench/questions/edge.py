# SPDX-License-Identifier: Apache-2.0
"""How many packets a second does the edge forward?

By BPF_PROG_RUN on one processor, without what making the packets costs (bench/edge_rate.c): 1,000 services of 100
backends, 2^20 flows in no order, so that each packet's flow is fetched from memory; and 2^10 flows, which stay in the
caches. Rows: packets of known flows from clients (hit) and from backends (back), first packets of flows that are not
known (miss), and SYNs (flood); afterwards each of the known flows must still be known.

End to end between network namespaces: a client, a balancer, a server; against plain routing by the balancer, and against
DNAT by nftables.
"""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import measure

ROOT = pathlib.Path(__file__).resolve().parents[2]
TITLE = "The edge: packets a second and processor, and end to end"
AIM_M = 5.0
RUNS = int(os.environ.get("BENCH_EDGE_RUNS", "3"))
SERVICES, BACKENDS, FLOWS_LOG2, FEW_LOG2 = 1000, 100, 20, 10
CASES = (("4", "nat"), ("6", "nat"), ("4", "full-nat"), ("4", "direct"))
BULK_BYTES, CONNECTIONS = 1 << 30, 2000
ADDRESS, PORT = "10.98.0.80", 80
TRAFFIC = ROOT / "tests/system/edge_traffic.py"


def build_of(bench):
    return bench.load_tool.parents[1]


# ---------------------------------------------------------------- by BPF_PROG_RUN

def rate(bench, family, mode, services, flows_log2):
    """Millions of packets a second, by row."""
    command = [str(build_of(bench) / "bench/edge_rate"), family, mode, str(services), str(BACKENDS), str(flows_log2)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise measure.BenchError(done.stderr.strip()[:500])
    found = json.loads(done.stdout)
    for name in ("established", "kept"):
        if found[name] != found["flows"]:
            raise measure.BenchError(f"{name}: {found[name]} of {found['flows']} flows")
    return {name: 1e3 / found[name] for name in ("hit", "back", "miss", "flood") if name in found}


def rate_rows(bench):
    rows = []
    aim = [dict.fromkeys(("hit", "back", "miss", "flood"), AIM_M)] * RUNS
    for family, mode in CASES:
        for services, flows_log2 in ((SERVICES, FLOWS_LOG2), (1, FLOWS_LOG2), (SERVICES, FEW_LOG2)):
            results = {"edge": [rate(bench, family, mode, services, flows_log2) for _ in range(RUNS)], "aim": aim}
            few = flows_log2 == FEW_LOG2
            for name in ("hit",) if services == 1 or few else sorted(results["edge"][0]):
                rows.append(measure.row(
                    f"{name}, IPv{family} {mode}, {services} x {BACKENDS}, 2^{flows_log2} flows", "M packets/s", name,
                    results, "edge", "aim", at_least=1.0 if name == "hit" and services > 1 else None))
    return rows


# ---------------------------------------------------------------- end to end

def sysctl(host, *values):
    host.run("sysctl", "-qw", *values)


class Way:
    """A lab with one way from the client to the server."""

    target = ADDRESS

    def __init__(self, netlab, build):
        self.build = build
        self.lab = netlab.Lab("client", "lb", "b1")

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            lab = stack.enter_context(self.lab)
            for name in ("client", "lb", "b1"):
                sysctl(lab[name], "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.eth0.send_redirects=0",
                       "net.ipv4.conf.all.accept_redirects=0", "net.ipv4.conf.eth0.accept_redirects=0")
            sysctl(lab["lb"], "net.ipv4.ip_forward=1")
            lab["b1"].ip("route", "add", f"{lab['client'].v4}/32", "via", lab["lb"].v4)
            server = lab["b1"].start(sys.executable, TRAFFIC, "serve", lab["b1"].v4, PORT, "b1", stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, text=True)
            if not server.stdout.readline():
                raise measure.BenchError("the server did not start")
            self.deploy()
            lab["client"].ip("route", "add", f"{self.address()}/32", "via", lab["lb"].v4)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self.stack.close()

    def address(self):
        return self.target

    def client(self, *args):
        done = subprocess.run(self.lab["client"].inside([sys.executable, TRAFFIC, *args]), stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise measure.BenchError(f"{self.name}: {done.stderr.strip()[-300:]}")
        return json.loads(done.stdout)

    def trial(self):
        pulled = self.client("pull", self.address(), PORT, BULK_BYTES)
        connected = self.client("connect", self.address(), PORT, CONNECTIONS)
        if connected["errors"]:
            raise measure.BenchError(f"{self.name}: {connected['errors']}")
        return {"gb_per_s": BULK_BYTES / 1e9 / pulled["seconds"], "connects_per_s": CONNECTIONS / connected["seconds"]}


class Routing(Way):
    name = "plain routing"

    def address(self):
        return self.lab["b1"].v4

    def deploy(self):
        pass


class Edge(Way):
    name = "edge, NAT"

    def deploy(self):
        tool = self.lab["lb"].start(self.build / "tools/edge_lab", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        orders = ("attach eth0", f"backend 0 {self.lab['b1'].v4} {PORT} 1 1 1 remote",
                  f"service 1 {ADDRESS} {PORT} 1 refuse - 0")
        tool.stdin.write("\n".join(orders) + "\n")
        tool.stdin.flush()
        if any(not tool.stdout.readline().startswith("ok") for _ in range(1 + len(orders))):
            raise measure.BenchError("the edge did not load")


class Nftables(Way):
    name = "nftables DNAT"

    def deploy(self):
        self.lab["lb"].run("nft", "add table ip lb; add chain ip lb pre { type nat hook prerouting priority dstnat; }; "
                                  f"add rule ip lb pre ip daddr {ADDRESS} tcp dport {PORT} dnat to {self.lab['b1'].v4}:{PORT}")


def works(netlab, build):
    """Why nftables cannot be compared; empty if it can."""
    if not shutil.which("nft"):
        return "nft is not installed"
    try:
        with Nftables(netlab, build):
            return ""
    except AssertionError as error:
        return str(error)[-200:]


def end_to_end_rows(bench):
    os.environ["FAIRLEAD_BUILD"] = str(build_of(bench))
    sys.path.insert(0, str(ROOT / "tests/system"))
    import netlab  # after its environment is set
    if reason := netlab.available():
        raise measure.BenchError(reason)
    ways = [Edge, Routing]
    if reason := works(netlab, build_of(bench)):
        print(f"  nftables is not compared: {reason}", file=sys.stderr)
    else:
        ways.append(Nftables)
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(way(netlab, build_of(bench))) for way in ways]
        results = measure.interleave({way.name: way.trial for way in made})
    rows = []
    for peer in made[1:]:
        rows.append(measure.row("one connection, 1 GiB", "GB/s", "gb_per_s", results, Edge.name, peer.name))
        rows.append(measure.row("short connections, one at a time", "1/s", "connects_per_s", results, Edge.name, peer.name))
    return rows


def run(bench):
    return rate_rows(bench) + end_to_end_rows(bench)
