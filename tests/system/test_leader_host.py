# SPDX-License-Identifier: Apache-2.0
"""Managers between which the kernel exchanges heartbeats: what it says of the leader's host is a reason to elect another one."""

import pytest

import cluster_lab
import http1
import netlab

pytestmark = [netlab.needed, pytest.mark.slow, pytest.mark.timeout(600)]

VIP = "10.99.0.200"  # on the managers' segment: whoever answers for it is settled by heartbeats
BFD_UP = 3
ROUNDS = 10
WAIT_S = 90


class Node(cluster_lab.Node):
    """One with programs for the kernel."""

    def write_config(self):
        self.more = f"kernel:\n  instance: {self.instance}\n  cgroup: {self.host.cgroup}\n"
        super().write_config()

    def remove(self):
        netlab.Node.remove(self)

    def sessions(self):
        """Of heartbeats, that are up."""
        return sum(state["state"] == BFD_UP for state in self.kernel_map("peer_state"))

    def elections(self, cause):
        lines = [line for line in self.cli("metrics").stdout.splitlines()
                 if line.startswith(f'fairlead_raft_elections_total{{cause="{cause}"}} ')]
        return int(lines[0].split()[-1])


class Cluster(cluster_lab.Cluster):
    def prepare(self, name, **options):
        self.nodes[name] = Node(self.lab[name], **options)
        return self.nodes[name]


def whole(cluster):
    """Everybody is there, and hears everybody's heartbeats."""
    assert cluster.wait_until_whole(), cluster.report()
    assert http1.wait_until(lambda: all(node.sessions() == 2 for node in cluster.alive()), WAIT_S), cluster.report()


def told(node, before, text):
    return text in node.full_log()[before:]


def lose(cluster):
    """The leader's link goes down and comes back: how many stood because of what the kernel said."""
    leader = cluster.wait_for_leader()
    others = [node for node in cluster.alive() if node is not leader]
    number = leader.nodes()[leader.name]["id"]
    before = {node.name: len(node.full_log()) for node in others}
    stood = sum(node.elections("host") for node in others)
    leader.host.silence()
    try:
        assert http1.wait_until(lambda: any(node.nodes().get(node.name, {}).get("leader") for node in others), WAIT_S), cluster.report()
        others[0].set("http.idle_timeout", "45s")
        for node in others:
            assert http1.wait_until(lambda node=node: told(node, before[node.name], f"the host of node {number} sends no heartbeats any more"),
                                    WAIT_S), node.log()
    finally:
        leader.host.unsilence()
    for node in others:
        assert http1.wait_until(lambda node=node: told(node, before[node.name], f"the host of node {number} is heard again"), WAIT_S), node.log()
    whole(cluster)
    return sum(node.elections("host") for node in others) - stood


def test_the_leaders_host_is_silent():
    with Cluster("a", "b", "c") as cluster:
        cluster.form()
        cluster["a"].cli("service", "create", "web", f"{VIP}:80", "kind=tcp", "check.kind=none", "edge=nat", "takeover=true")
        whole(cluster)
        # On a machine with much else to do, silence alone may be a reason before the kernel's word has come.
        assert any(lose(cluster) for _ in range(ROUNDS)), cluster.report()
