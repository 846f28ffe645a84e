# SPDX-License-Identifier: Apache-2.0
"""A cluster is upgraded node by node (`make test-upgrade FROM=COMMIT`): its clients do not notice, both versions work together,
and what only the newer one knows is refused until all nodes know it."""

import json
import os
import pathlib
import threading
import time

import pytest

import http1
import netlab
from cluster_lab import Cluster
from harness import Repository, digest_of

OLDER = pathlib.Path(os.environ.get("FAIRLEAD_OLDER", "/nonexistent"))

pytestmark = [netlab.needed, pytest.mark.skipif(not (OLDER / "fairleadd").exists(), reason="make test-upgrade FROM=COMMIT")]


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


class Client(threading.Thread):
    """Pulls and pushes, each time at another node; tries the next one where one does not answer, as behind a front door."""

    def __init__(self, nodes):
        super().__init__(daemon=True)
        self.nodes, self.end, self.failed, self.pushed, self.pulled = nodes, False, [], {}, 0

    def anywhere(self, number, what):
        """What comes back from the first node that answers, within a bound."""
        end, last = time.monotonic() + 30, None
        while time.monotonic() < end:
            for i in range(len(self.nodes)):
                try:
                    return what(repository(self.nodes[(number + i) % len(self.nodes)]))
                except (OSError, http1.ConnectionEnded, AssertionError) as error:
                    last = error
            time.sleep(0.05)
        raise AssertionError(f"nobody answers: {last!r}")

    def once(self, number):
        layer = b"%d " % number * 5000
        digest, body = self.anywhere(number, lambda repo: repo.push_image(f"t{number}", layer))
        self.pushed[f"t{number}"] = digest, body, layer

        def pull(repo):
            manifest = repo.manifest(f"t{number}")
            assert manifest.status == 200, manifest
            blob = repo.blob(digest_of(layer))
            assert blob.status == 200, blob
            return manifest.body, blob.body
        assert self.anywhere(number + 1, pull) == (body, layer), number
        self.pulled += 1

    def run(self):
        number = 0
        while not self.end:
            try:
                self.once(number)
            except AssertionError as error:
                self.failed.append((number, error))
            number += 1
            time.sleep(0.1)

    def stop(self):
        self.end = True
        self.join(120)


def version(node):
    return json.loads(node.cli("cluster", "show", "--json").stdout)["cluster"]["version"]


def test_one_node_after_the_other():
    with Cluster("a", "b", "c") as cluster:
        for name in "abc":
            begin(cluster, name)
        nodes = [cluster[name] for name in "abc"]
        before = version(nodes[0])
        client = Client(nodes)
        client.start()
        try:
            for number, node in enumerate(nodes):
                upgrade(cluster, node)
                for other in nodes:
                    other.set("http.idle_timeout", f"{40 + number}s")
                    cluster.wait_for_setting("http.idle_timeout", f"{40 + number}s")
                if number < 2:
                    assert version(node) == before
            assert http1.wait_until(lambda: {version(node) for node in nodes} in versions_since(before), 60), \
                [version(node) for node in nodes]
            done = client.pulled
            assert http1.wait_until(lambda: client.pulled > done + 3, 60), client.failed
        finally:
            client.stop()
        assert not client.failed and client.pulled > 5, (client.failed[:3], cluster.report())
        for node in nodes:
            assert http1.wait_until(lambda: node.status()["state"]["indexing"] is None, 60), node.status()["state"]
            repo = repository(node)
            for tag, (_, body, layer) in client.pushed.items():
                assert repo.manifest(tag).body == body
                assert repo.blob(digest_of(layer)).body == layer
        tag, (digest, _, _) = next(iter(client.pushed.items()))  # the older version has written it
        assert repository(nodes[1]).exchange("DELETE", f"manifests/{digest}").status == 202
        for node in nodes:
            assert http1.wait_until(lambda: repository(node).manifest(tag).status == 404, 30), node.name
        print(f"cluster version {before} -> {version(nodes[0])}, {client.pulled} images pushed and pulled")


def versions_since(before):
    """All nodes agree on a version that is not lower."""
    return [{number} for number in range(before, before + 100)]


def begin(cluster, name):
    """A node of the older version, alone or joined to those that are there."""
    node = cluster.prepare(name)
    node.build = OLDER
    node.start()
    if name != cluster.names[0]:
        first = cluster[cluster.names[0]]
        node.join(first, first.token())
    assert cluster.wait_until_whole(cluster.nodes), cluster.report()


def upgrade(cluster, node):
    """Stopped in order, started as the newer version."""
    node.stop()
    node.build = netlab.BUILD
    node.start()
    assert cluster.wait_until_whole(), cluster.report()
