# SPDX-License-Identifier: Apache-2.0
"""A policy that is set on one node of a cluster holds on every other one, also behind it."""

import json
import signal

import harness
import http1
import netlab
from cluster_lab import Cluster
from harness import Repository
from test_cluster_blobs import Inside

pytestmark = netlab.needed


def declare(node, policies):
    """In its configuration file, which is read again."""
    node.more = f"policies: {json.dumps(policies)}\n" if policies else ""
    node.write_config()
    node.process.send_signal(signal.SIGHUP)


def declared(node):
    done = node.cli("policy", "ls", "--json", check=False)
    rows = json.loads(done.stdout)["policies"] if done.returncode == 0 else []
    return {row["prefix"] for row in rows if row["origin"] == "file"}


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
        # A file's last policy goes with the file that had it, and with no other.
        declare(a, [{"prefix": "declared", "read_only": True}])
        assert http1.wait_until(lambda: all(declared(node) == {"declared"} for node in (a, b, c)), 60), cluster.report()
        declare(b, [])
        assert http1.wait_until(lambda: "configuration was read again" in b.full_log(), 60)
        assert declared(a) == {"declared"}
        # Unless somebody insists: the node may be gone. The node itself is told to look into its file.
        for node, options in ((a, ["--force"]), (b, [])):
            refused = node.cli("policy", "rm", "declared", "--yes", *options, check=False)
            assert refused.returncode == 1 and "is set in the configuration file" in refused.stderr, refused
        assert b.cli("policy", "rm", "declared", "--yes", "--force").returncode == 0
        assert http1.wait_until(lambda: all(declared(node) == set() for node in (a, b, c)), 60), cluster.report()
        declare(a, [])
        assert http1.wait_until(lambda: all(declared(node) == set() for node in (a, b, c)), 60), cluster.report()
        assert "immutable" in a.cli("policy", "ls", "--json").stdout
