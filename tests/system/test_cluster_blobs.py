# SPDX-License-Identifier: Apache-2.0
"""What is pushed to one replica of a cluster is pulled from every other one, which fetches what it lacks and keeps it."""

import hashlib

import harness
import http1
import netlab
from cluster_lab import Cluster
from harness import Repository

pytestmark = netlab.needed


class Inside:
    """A client on the node's own host: the registry is on loopback."""

    def __init__(self, node):
        self.node = node

    def exchange(self, *arguments):
        def talk():
            return http1.Client(("127.0.0.1", 5000), timeout_s=60).exchange(*arguments)
        return netlab.in_namespace(self.node.host.netns, talk)


def repository(node):
    return Repository(Inside(node), "team/app")


def file(node, digest):
    hexes = digest.partition(":")[2]
    return node.folder / "state/store/blobs/sha256" / hexes[:2] / hexes


def keeps(node, digest):
    def right():
        path = file(node, digest)
        return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == digest.partition(":")[2]
    return http1.wait_until(right, 60)


def test_pushed_here_pulled_there():
    """From a, by b and c, which have it when both others are dead: pulls need no majority."""
    with Cluster("a", "b", "c") as cluster:
        cluster.form()
        cluster["a"].set("repair.rate", "0")  # else it may come to where it belongs before anybody asks for it
        cluster.wait_for_setting("repair.rate", cluster["a"].setting("repair.rate"))
        cluster["a"].cli("cluster", "set", "--copies", 1)  # else a copy is there already
        layers = [b"layer" * 400_000, b"small"]
        digest, body = repository(cluster["a"]).push_image("1", *layers)
        names = [harness.digest_of(layer) for layer in layers]
        for node in (cluster["b"], cluster["c"]):
            repo = repository(node)
            assert http1.wait_until(lambda: repo.manifest("1", "HEAD").status == 200, 60)
            assert not any(file(node, name).exists() for name in names)
            assert http1.wait_until(lambda: repo.manifest("1").body == body, 60), cluster.report()
            assert repo.blob(names[0], "HEAD").header("Content-Length") == str(len(layers[0]))
            assert [repo.blob(name).body for name in names] == layers
            assert all(keeps(node, name) for name in (digest, *names))
        cluster["a"].kill()
        cluster["b"].kill()
        repo = repository(cluster["c"])
        assert repo.manifest("1").body == body
        assert [repo.blob(name).body for name in names] == layers
