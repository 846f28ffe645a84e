# SPDX-License-Identifier: Apache-2.0
"""A policy that is set on one node of a cluster holds on every other one, also behind it."""

import json

import harness
import http1
import netlab
from cluster_lab import Cluster
from harness import Repository
from test_cluster_blobs import Inside

pytestmark = netlab.needed


def test_set_here_enforced_there():
    with Cluster("a", "b", "c") as cluster:
        cluster.form()
        a, b, c = (cluster[name] for name in "abc")
        shown = lambda: json.loads(a.cli("cluster", "show", "--json").stdout)["cluster"]["version"]  # noqa: E731
        assert http1.wait_until(lambda: shown() >= 3, 60), cluster.report()
        digest, body = Repository(Inside(b), "team/app").push_image("v1", b"one")
        assert a.cli("policy", "set", "team", "immutable=v*", "quota.tags=1").returncode == 0
        for node in (b, c):
            repo = Repository(Inside(node), "team/app")
            assert http1.wait_until(lambda r=repo: r.manifest("v1", "HEAD").status == 200, 60)
            for tag, layer in (("v1", b"two"), ("v2", b"one")):
                other = harness.image_manifest(repo.push_blob(b"{}"), 2, [(repo.push_blob(layer), len(layer))])
                answer = repo.put_manifest(tag, other, harness.IMAGE_TYPE)
                assert answer.status == 403 and answer.codes() == ["DENIED"], (node.name, tag, answer)
            assert repo.put_manifest("v1", body, harness.IMAGE_TYPE).status == 201
            assert repo.manifest("v1", "HEAD").header("Docker-Content-Digest") == digest
