# SPDX-License-Identifier: Apache-2.0
"""What a cluster acknowledges is on as many replicas as it says: also when the one that took it in loses its disk in that
moment, and a replica that is dead or stands still holds no push up for longer than it may."""

import hashlib
import json
import os
import shutil
import signal
import time

import pytest

import harness
import http1
import netlab
from cluster_lab import Cluster
from test_cluster_blobs import file, repository

pytestmark = netlab.needed

NAMES = ("a", "b", "c")


def shown(node):
    return json.loads(node.cli("cluster", "show", "--json").stdout)["cluster"]


def holders(cluster, digest):
    """Whose store has it."""
    hexes = digest.partition(":")[2]
    return {node.name for node in cluster.nodes.values()
            if file(node, digest).exists() and hashlib.sha256(file(node, digest).read_bytes()).hexdigest() == hexes}


@pytest.fixture(scope="module")
def cluster():
    with Cluster(*NAMES) as made:
        made.form()
        # A cluster's version is raised when all its nodes have said what they know.
        assert http1.wait_until(lambda: all(shown(node)["version"] >= 3 for node in made.alive()), 60), made.report()
        # What is looked at here is what pushes do by themselves.
        made["a"].set("repair.rate", "0")
        made.wait_for_setting("repair.rate", made["a"].setting("repair.rate"))
        yield made


def set_copies(cluster, copies, least=1):
    cluster["a"].cli("cluster", "set", "--copies", copies, "--copies-min", least)
    assert http1.wait_until(
        lambda: all((shown(node)["copies"], shown(node)["copies_min"]) == (copies, least) for node in cluster.alive()), 60)


def push(node, data):
    """As Docker does it: nobody knows the digest before the end."""
    repo, digest = repository(node), harness.digest_of(data)
    begun = repo.start_upload()
    done = repo.at(begun.header("Location"), "PATCH", data, {"Content-Type": "application/octet-stream"})
    assert done.status == 202, done
    done = repo.at(done.header("Location"), "PUT", query=[("digest", digest)])
    assert done.status == 201, done
    return digest


def dataplane(node):
    return node.pids()[1]


def test_as_many_as_are_wanted(cluster):
    """At the moment of the answer they are on the disks of so many; each setting counts from the next push on."""
    for copies, least in ((1, 1), (2, 1), (3, 1), (2, 2)):
        set_copies(cluster, copies, least)
        for size in (0, 10, 5_000, 40_000, 3_000_001):
            data = os.urandom(size) if size else b""
            digest = push(cluster["b"], data)
            if size:
                assert len(holders(cluster, digest)) == copies, (copies, size)
            assert "b" in holders(cluster, digest)
        digest, _ = repository(cluster["c"]).push_image(f"of{copies}", os.urandom(100))
        assert len(holders(cluster, digest)) >= copies
    figures = shown(cluster["a"])
    assert figures["blobs"] >= 20 and figures["lost"] == 0


def test_the_pusher_loses_its_disk(cluster):
    """Killed, and its store wiped, right behind the 201: every other node has all of it, byte for byte."""
    set_copies(cluster, 2)
    layers = [os.urandom(9_000_000), os.urandom(300)]
    pusher = cluster["c"]
    digest, body = repository(pusher).push_image("lost", *layers)
    pusher.kill()
    shutil.rmtree(pusher.folder / "state/store/blobs")
    for name in ("a", "b"):
        repo = repository(cluster[name])
        assert http1.wait_until(lambda: repo.manifest("lost").body == body, 60), cluster.report()
        assert [repo.blob(harness.digest_of(layer)).body for layer in layers] == layers
        assert repo.manifest(digest).body == body
    cluster.wait_for_leader()
    # With it dead a push goes on, and it is said that it has fewer copies than three.
    set_copies(cluster, 3)
    begin = time.monotonic()
    push(cluster["a"], os.urandom(2_000_000))
    assert time.monotonic() - begin < 30
    assert http1.wait_until(lambda: shown(cluster["a"])["endangered"] > 0, 30)
    set_copies(cluster, 2)
    pusher.start()
    assert cluster.wait_until_whole(), cluster.report()
    # It does not take the empty folder for its store before it is told to; its data plane is exchanged then.
    before = pusher.status()["dataplane"]["pid"]
    assert http1.wait_until(lambda: pusher.cli("store", "accept", "--yes", check=False).returncode == 0, 60), cluster.report()
    serves = lambda it: it["store"]["state"] == "ok" and it["dataplane"]["state"] == "running" and it["dataplane"]["pid"] != before
    assert http1.wait_until(lambda: serves(pusher.status()), 60), cluster.report()


def test_one_that_stands_still(cluster):
    """A data plane that is stopped takes no copies: the push waits for as long as it may, and with a third replica there
    are two copies all the same once it is known."""
    set_copies(cluster, 3)
    cluster["a"].set("registry.copies_timeout", "500ms")
    cluster.wait_for_setting("registry.copies_timeout", cluster["a"].setting("registry.copies_timeout"))
    stopped = dataplane(cluster["c"])
    os.kill(stopped, signal.SIGSTOP)
    try:
        digest = push(cluster["a"], os.urandom(500_000))
        assert holders(cluster, digest) == {"a", "b"}
    finally:
        os.kill(stopped, signal.SIGCONT)
        cluster["a"].cli("unset", "registry.copies_timeout")
    set_copies(cluster, 2)


def test_given_up(cluster):
    """Nothing is left of an upload that its client ends: neither here nor where it was being copied to."""

    def sessions():
        return {file for node in cluster.nodes.values() for file in (node.folder / "state/store/uploads").glob("[!w]*")}

    set_copies(cluster, 2)
    before, repo = sessions(), repository(cluster["a"])
    where = repo.start_upload().header("Location")

    def is_copied():
        """Not where all of it came before anybody had looked."""
        nonlocal where
        done = repo.at(where, "PATCH", bytes(24_000_000), {"Content-Type": "application/octet-stream"})
        assert done.status == 202, done
        where = done.header("Location")
        return len(sessions() - before) == 2

    assert http1.wait_until(is_copied, 60), cluster.report()
    assert repo.at(where, "DELETE").status == 204
    assert http1.wait_until(lambda: not sessions() - before, 60), sessions() - before


def test_pushed_again_it_is_there_again(cluster):
    """Nobody has the bytes any more: who asks before it pushes is told so, pushes, and all is well."""
    set_copies(cluster, 2)
    data = os.urandom(100_000)
    digest = push(cluster["a"], data)
    for node in cluster.nodes.values():
        if file(node, digest).exists():
            file(node, digest).unlink()
    repo = repository(cluster["b"])
    for node in cluster.nodes.values():  # it may have it open still
        os.kill(dataplane(node), signal.SIGKILL)
    assert http1.wait_until(lambda: all(node.ready() for node in cluster.nodes.values()), 60)
    assert http1.wait_until(lambda: repo.blob(digest, "HEAD").status == 404, 60)
    assert repo.blob(digest).status in (502, 503)
    push(cluster["b"], data)
    for node in cluster.nodes.values():
        repo = repository(node)
        assert http1.wait_until(lambda: repo.blob(digest).body == data, 60)
