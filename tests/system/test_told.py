# SPDX-License-Identifier: Apache-2.0
"""Who probes, and who takes addresses over, in a cluster: two managers and a worker, all with the kernel half, and two
hosts that serve.

The worker is no replica: it lives on what a manager tells it, probes what it doubts, and everything when it hears nothing.
"""

import signal

import pytest

import http1
import netlab
from cluster_lab import START_S, Cluster, Node

pytestmark = netlab.needed

VIP, PORT = "10.96.0.1", 80
TAKEN, TAKEN_PORT = "10.99.0.200", 81
LONG_S = 120
SERVICES = f"""services:
  - name: web
    address: {VIP}:{PORT}
    kind: http
    steer: true
    check: {{kind: http, path: /, interval: 20ms, http_interval: 100ms, http_timeout: 2s}}
    backends: [{{name: b1, address: "10.99.0.4:{PORT}"}}, {{name: b2, address: "10.99.0.5:{PORT}"}}]
  - name: taken
    address: {TAKEN}:{TAKEN_PORT}
    edge: full-nat
    takeover: true
    backends: [{{name: b1, address: "10.99.0.4:{PORT}"}}, {{name: b2, address: "10.99.0.5:{PORT}"}}]
"""


class KernelNode(Node):
    def remove(self):
        netlab.Node.remove(self)


class KernelCluster(Cluster):
    def prepare(self, name, services=""):
        host = self.lab[name]
        kernel = f"kernel:\n  instance: {host.netns}\n  cgroup: {host.cgroup}\n"
        self.nodes[name] = KernelNode(host, more=kernel + services)
        return self.nodes[name]


@pytest.fixture(scope="module")
def cluster():
    with KernelCluster("m", "n", "w", "b1", "b2") as cluster:
        cluster.servers = {name: cluster.lab[name].pong(PORT) for name in ("b1", "b2")}
        manager = cluster.start("m", services=SERVICES)
        cluster.start("n").join(manager, manager.token())
        cluster.start("w").join(manager, manager.token("worker"))
        yield cluster


def until(condition, cluster, seconds=LONG_S):
    assert http1.wait_until(condition, seconds), cluster.report()


def states(node):
    done = node.cli("backend", "ls", "web", "--json", check=False)
    rows = [netlab.json.loads(line) for line in done.stdout.splitlines()] if done.returncode == 0 else []
    return {row["name"]: row["state"] for row in rows}


def is_told(node):
    return node.json("kernel")[0].get("feed", {}).get("counts", False)


def probes(node, name="b1"):
    shown = [node.json("backend", "show", service, name)[0]["figures"] for service in ("web", "taken")]
    return sum(figures["probes"] + figures["http_probes"] for figures in shown)


def rests(node):
    """It probes nothing from one look to the next; a suspicion in between may make it."""
    before = probes(node)
    return not http1.wait_until(lambda: probes(node) != before, 0.5)


def test_a_worker_lives_on_what_a_manager_tells(cluster):
    worker, manager = cluster["w"], cluster["m"]
    until(lambda: is_told(worker), cluster, START_S)
    until(lambda: states(worker) == {"b1": "up", "b2": "up"}, cluster)
    until(lambda: rests(worker), cluster)
    until(lambda: not rests(manager), cluster)  # hosts that have too much to do leave some ticks out
    assert not is_told(manager)
    assert "verdicts: a manager tells them" in worker.cli("kernel").stdout
    cluster.servers["b1"].kill()
    until(lambda: states(worker) == {"b1": "down", "b2": "up"}, cluster)
    cluster.servers["b1"] = cluster.lab["b1"].pong(PORT)
    until(lambda: states(worker) == {"b1": "up", "b2": "up"}, cluster)


def test_what_is_told_before_it_counts_is_not_lost(cluster):
    """All of it is told once: a worker that is not to live on it yet, or does not know that it is, keeps it."""
    worker = cluster["w"]
    worker.cli("set", "kernel.feed", "false")
    until(lambda: not worker.json("kernel")[0]["feed"]["wanted"], cluster)
    worker.stop()
    worker.start()
    until(lambda: worker.json("kernel")[0].get("feed", {}).get("known", 0) == 4, cluster, START_S)
    assert not is_told(worker)
    worker.cli("set", "kernel.feed", "true")
    until(lambda: is_told(worker) and states(worker) == {"b1": "up", "b2": "up"} and rests(worker), cluster)


@pytest.mark.slow
def test_a_worker_that_hears_nothing_probes(cluster):
    worker = cluster["w"]
    until(lambda: is_told(worker) and rests(worker), cluster)
    for name in "mn":
        cluster[name].signal(signal.SIGSTOP)
    try:
        until(lambda: not is_told(worker), cluster)
        before = probes(worker)
        until(lambda: probes(worker) > before + 10, cluster)
        cluster.servers["b2"].kill()
        until(lambda: states(worker) == {"b1": "up", "b2": "down"}, cluster)
    finally:
        for name in "mn":
            cluster[name].signal(signal.SIGCONT)
    cluster.servers["b2"] = cluster.lab["b2"].pong(PORT)
    until(lambda: is_told(worker) and states(worker) == {"b1": "up", "b2": "up"} and rests(worker), cluster)


def owner(node):
    """Who answers for the address, as this node sees it; None: it has no part in it."""
    done = node.cli("status", "--json", check=False)
    rows = netlab.json.loads(done.stdout).get("addresses", []) if done.returncode == 0 else []
    return next((row["owner"] for row in rows if row["address"] == TAKEN), None)


def test_the_managers_of_a_segment_take_an_address_over(cluster):
    """Nobody has written who they are."""
    m, n, worker = (cluster[name] for name in "mnw")
    until(lambda: {owner(m), owner(n)} in ({"this node", "m"}, {"this node", "n"}), cluster)
    assert owner(worker) is None
    first, second = (m, n) if owner(m) == "this node" else (n, m)
    first.cli("node", "drain", first.name)
    until(lambda: owner(second) == "this node", cluster)
    first.cli("node", "active", first.name)
