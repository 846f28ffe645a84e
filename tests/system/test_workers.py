# SPDX-License-Identifier: Apache-2.0
"""Workers follow the log of a manager: three managers, two workers."""

import json

import pytest

import harness
import http1
import netlab
from cluster_lab import START_S, Cluster

pytestmark = netlab.needed


@pytest.fixture(scope="module")
def cluster():
    with Cluster("a", "b", "c", "w", "x") as cluster:
        cluster.start("a")
        for name in "bc":
            cluster.start(name).join(cluster["a"], cluster["a"].token())
        token = cluster["a"].token("worker", "--replica", "yes")
        for name, manager in (("w", "a"), ("x", "b")):
            cluster.start(name).join(cluster[manager], token)
        assert cluster.wait_until_whole("abc"), cluster.report()
        yield cluster


def wait_for_rows(cluster, nodes, **wanted):
    """Each of the nodes shows itself so."""
    def shown():
        return all(all(node.nodes().get(node.name, {}).get(key) == value for key, value in wanted.items()) for node in nodes)
    assert http1.wait_until(shown, START_S), f"{[node.nodes().get(node.name) for node in nodes]}\n{cluster.report()}"


def workers(cluster):
    return [cluster["w"], cluster["x"]]


def at(node, call):
    return netlab.in_namespace(node.host.netns, lambda: call(harness.Repository(http1.Client(("127.0.0.1", 5000)), "demo/app")))


def test_settings_come_to_workers_and_go_through_them(cluster):
    wait_for_rows(cluster, workers(cluster), role="worker", state="ready")
    cluster["b"].set("http.idle_timeout", "41s")
    cluster.wait_for_setting("http.idle_timeout", "41s")
    cluster["w"].set("http.idle_timeout", "42s")
    assert cluster["w"].setting("http.idle_timeout") == "42s"  # what was answered is applied there
    cluster.wait_for_setting("http.idle_timeout", "42s")


def test_a_push_through_a_worker_is_known_to_all(cluster):
    assert at(cluster["x"], lambda repository: repository.push_image("through", b"x" * 5000))
    for node in cluster.alive():
        tags = at(node, lambda repository: json.loads(repository.tags().body)["tags"])
        assert "through" in tags, node.name
