# SPDX-License-Identifier: Apache-2.0
"""What a replica held that is gone is copied again, without anybody's action: then any other one may go, too."""

import json
import os
import shutil

import pytest

import harness
import http1
import netlab
from cluster_lab import Cluster
from test_cluster_blobs import file, keeps, repository

pytestmark = netlab.needed

NAMES = ("a", "b", "c")
WORKER = "w"  # a host that becomes one, in the last test
LAYERS = (4_000_000, 50_000, 300)


def shown(node, check=True):
    """What it says of the cluster; without check, None while it cannot be asked."""
    done = node.cli("cluster", "show", "--json", check=check)
    return json.loads(done.stdout) if done.returncode == 0 else None


def kinds(node):
    lines = node.cli("events", "--json", "--limit", "1000").stdout.splitlines()
    events = [event for line in lines for event in (json.loads(line) if line.startswith("[") else [json.loads(line)])]
    return [event["kind"] for event in events]


def at_rest(cluster, replicas):
    """All of the living ones say so, of as many replicas."""
    def rests():
        answers = [shown(node, check=False) for node in cluster.alive()]
        return all(answer and answer["cluster"]["replicas"] == replicas and answer["repair"]["endangered"] == 0
                   and answer["repair"]["surplus"] == 0 and answer["repair"]["state"] != "paused" for answer in answers)
    return http1.wait_until(rests, 90)


@pytest.fixture(scope="module")
def cluster():
    with Cluster(*NAMES, WORKER) as made:
        first = made.start("a")
        for name in NAMES[1:]:
            made.start(name).join(first, first.token())
            assert made.wait_until_whole(made.nodes), made.report()
        # A cluster's version is raised when all its nodes have said what they know.
        assert http1.wait_until(lambda: all(shown(node)["cluster"]["version"] >= 3 for node in made.alive()), 60), made.report()
        made["a"].set("repair.grace", "1s")
        made.wait_for_setting("repair.grace", made["a"].setting("repair.grace"))
        yield made


def push(node):
    """An image. Returns its manifest's digest and its blobs by digest."""
    layers = [os.urandom(size) for size in LAYERS]
    digest, _ = repository(node).push_image("1", *layers)
    return digest, {harness.digest_of(blob): blob for blob in (b"{}", *layers)}


def test_a_replica_is_lost_for_good(cluster):
    """Away for longer than the grace: the third one comes to hold all of it, and serves it with both others dead."""
    digest, blobs = push(cluster["c"])
    cluster["c"].kill()
    for name in ("a", "b"):
        assert all(keeps(cluster[name], each) for each in (digest, *blobs)), cluster.report()
    assert at_rest(cluster, 3), cluster.report()
    # Who was faster may have had nothing left for the other one to do.
    assert http1.wait_until(lambda: any({"repair.begun", "repair.ended"} <= set(kinds(node)) for node in cluster.alive()), 60)
    assert sum(shown(node)["repair"]["copied"] for node in cluster.alive()) >= len(blobs) + 1
    cluster["a"].kill()
    repo = repository(cluster["b"])
    assert harness.digest_of(repo.manifest("1").body) == digest
    assert all(repo.blob(each).body == data for each, data in blobs.items())
    # They come back with what they had: what is too much is let go, and nothing is endangered.
    cluster["a"].start()
    cluster["c"].start()
    assert cluster.wait_until_whole(NAMES), cluster.report()
    assert at_rest(cluster, 3), cluster.report()


def test_a_drained_node_gives_away_what_it_holds(cluster):
    """It is there, and serves; what it holds does not count, so both others come to hold it, and may do without it."""
    digest, blobs = push(cluster["c"])
    cluster["a"].cli("node", "drain", "c")
    for name in ("a", "b"):
        assert all(keeps(cluster[name], each) for each in (digest, *blobs)), cluster.report()
    assert at_rest(cluster, 3), cluster.report()
    assert harness.digest_of(repository(cluster["c"]).manifest("1").body) == digest
    cluster["c"].kill()
    for name in ("a", "b"):
        assert all(repository(cluster[name]).blob(each).body == data for each, data in blobs.items())
    cluster["c"].start()
    assert cluster.wait_until_whole(NAMES), cluster.report()
    cluster["a"].cli("node", "active", "c")
    assert at_rest(cluster, 3), cluster.report()


@pytest.mark.slow
def test_a_replica_is_removed(cluster):
    """It does not count from then on, whatever the grace is; one that comes in its place takes its share."""
    cluster["a"].set("repair.grace", "1h")
    cluster.wait_for_setting("repair.grace", cluster["a"].setting("repair.grace"))
    digest, blobs = push(cluster["c"])
    cluster["c"].kill()
    assert http1.wait_until(
        lambda: cluster["a"].cli("node", "rm", "c", "--force", "--yes", check=False).returncode == 0, 60), cluster.report()
    assert at_rest(cluster, 2), cluster.report()
    for name in ("a", "b"):
        assert all(keeps(cluster[name], each) for each in (digest, *blobs)), cluster.report()
    for _ in range(4):  # of so many blobs a third node is ranked better for some
        push(cluster["a"])
    shutil.rmtree(cluster["c"].folder / "state")
    cluster["c"].start().join(cluster["a"], cluster["a"].token())
    assert cluster.wait_until_whole(NAMES), cluster.report()
    assert http1.wait_until(lambda: shown(cluster["c"])["repair"]["copied"] > 0, 90), [shown(node) for node in cluster.alive()]
    assert at_rest(cluster, 3), cluster.report()


def holds_all(node, digests):
    return all(keeps(node, each) for each in digests)


def set_copies(cluster, copies):
    cluster["a"].cli("cluster", "set", "--copies", copies)
    assert http1.wait_until(lambda: all(shown(node)["cluster"]["copies"] == copies for node in cluster.alive()), 60)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_holds_and_heals(cluster):
    """It has no vote and sees nobody but its manager; its copies count all the same."""
    cluster["a"].set("repair.grace", "1s")
    worker = cluster.start(WORKER)
    worker.join(cluster["a"], cluster["a"].token("worker", "--replica", "yes"))
    assert at_rest(cluster, 4), cluster.report()
    set_copies(cluster, 3)
    digest, blobs = push(cluster["c"])
    cluster["c"].kill()
    assert holds_all(worker, (digest, *blobs)), cluster.report()  # of four replicas three are left
    assert at_rest(cluster, 4), cluster.report()

    large = harness.digest_of(max(blobs.values(), key=len))
    for harm in (lambda path: os.truncate(path, 1000), os.unlink):
        harm(file(worker, large))
        assert worker.cli("blob", "verify", large, check=False).returncode == 1
        assert keeps(worker, large), cluster.report()
    assert http1.wait_until(lambda: worker.status()["blobs"]["damaged_count"] == 0, 90), cluster.report()

    cluster["c"].start()
    assert cluster.wait_until_whole(NAMES, [cluster[name] for name in NAMES]), cluster.report()
    digest, blobs = push(worker)
    cluster["b"].cli("node", "drain", WORKER)
    for name in NAMES:
        assert holds_all(cluster[name], (digest, *blobs)), cluster.report()
    assert at_rest(cluster, 4), cluster.report()
    worker.kill()
    for name in NAMES:
        repo = repository(cluster[name])
        assert all(repo.blob(each).body == data for each, data in blobs.items())
