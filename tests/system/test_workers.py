# SPDX-License-Identifier: Apache-2.0
"""Workers follow the log of a manager: three managers, two workers that are replicas."""

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
        wait_until_all(cluster)
        yield cluster


def managers(cluster):
    return [cluster[name] for name in "abc"]


def workers(cluster):
    return [cluster["w"], cluster["x"]]


def wait_for_rows(cluster, names, seen_by, **wanted):
    """Those who look see the nodes so."""
    def shown():
        for node in seen_by:
            rows = node.nodes()
            if not all(rows.get(name, {}).get(key) == value for name in names for key, value in wanted.items()):
                return False
        return True
    assert http1.wait_until(shown, START_S), f"{[node.nodes() for node in seen_by]}\n{cluster.report()}"


def wait_until_all(cluster):
    """Every manager sees all of them ready, each worker itself."""
    wait_for_rows(cluster, "abc", managers(cluster), role="manager", state="ready")
    wait_for_rows(cluster, "wx", managers(cluster), role="worker", state="ready")
    for node in workers(cluster):
        wait_for_rows(cluster, [node.name], [node], role="worker", state="ready")


def at(node, call):
    return netlab.in_namespace(node.host.netns, lambda: call(harness.Repository(http1.Client(("127.0.0.1", 5000)), "demo/app")))


def tags(node):
    return at(node, lambda repository: repository.tags())


def source_of(cluster, worker):
    """The manager that it follows."""
    by_id = {row["id"]: name for name, row in worker.nodes().items()}
    followed = worker.nodes()[worker.name]["follows"]
    return cluster.nodes.get(by_id.get(followed))


def test_settings_come_to_workers_and_go_through_them(cluster):
    cluster["b"].set("http.idle_timeout", "41s")
    cluster.wait_for_setting("http.idle_timeout", "41s")
    cluster["w"].set("http.idle_timeout", "42s")
    assert cluster["w"].setting("http.idle_timeout") == "42s"  # what was answered is applied there
    cluster.wait_for_setting("http.idle_timeout", "42s")


def test_a_worker_changes_no_nodes(cluster):
    done = cluster["w"].cli("node", "promote", "x", check=False)
    assert done.returncode != 0 and "managers" in done.stderr


def test_a_push_is_known_to_workers_when_it_is_answered(cluster):
    """They hold leases: nothing is answered before it is applied there, and what they show is not marked as old."""
    for name in "axb":
        assert at(cluster[name], lambda repository: repository.push_image(f"of-{name}", name.encode() * 5000))
        for node in cluster.alive():
            answer = tags(node)
            assert f"of-{name}" in json.loads(answer.body)["tags"], node.name
            if node in workers(cluster):
                assert http1.wait_until(lambda: "Warning" not in tags(node).headers, 20), node.log()


def test_a_worker_follows_another_one_when_its_manager_dies(cluster):
    worker = cluster["w"]
    manager = source_of(cluster, worker)
    assert manager in managers(cluster)
    manager.kill()
    others = [node for node in managers(cluster) if node is not manager]
    assert http1.wait_until(lambda: others[0].set("http.idle_timeout", "43s", check=False).returncode == 0, 60)
    cluster.wait_for_setting("http.idle_timeout", "43s", [worker])
    assert source_of(cluster, worker) is not manager
    manager.start()
    wait_until_all(cluster)


def test_a_worker_that_was_away_catches_up(cluster):
    worker = cluster["x"]
    worker.kill()
    for n in range(30):
        cluster["c"].set("http.idle_timeout", f"{50 + n}s")
    worker.start()
    cluster.wait_for_setting("http.idle_timeout", "79s", [worker])
    assert "came from another node" not in worker.full_log()


def test_a_worker_becomes_a_manager_and_a_worker_again(cluster):
    worker = cluster["w"]
    for n, (word, role) in enumerate((("promote", "manager"), ("demote", "worker")) * 2):
        cluster["a"].cli("node", word, "w")
        wait_for_rows(cluster, "w", managers(cluster), role=role, state="ready")
        worker.set("http.idle_timeout", f"{81 + n}s")
        cluster.wait_for_setting("http.idle_timeout", f"{81 + n}s")
    assert "came from another node" not in worker.full_log()  # it went on with what it had
    wait_until_all(cluster)


def test_a_manager_becomes_a_worker_while_it_is_away(cluster):
    """It does not hear of it, and is told by the ones that know."""
    cluster["a"].cli("node", "promote", "w")
    wait_for_rows(cluster, "w", managers(cluster), role="manager", state="ready")
    worker = cluster["w"]
    worker.kill()
    cluster["a"].cli("node", "demote", "w", "--force")
    cluster["b"].set("http.idle_timeout", "91s")
    worker.start()
    cluster.wait_for_setting("http.idle_timeout", "91s", [worker])
    wait_until_all(cluster)
