# SPDX-License-Identifier: Apache-2.0
"""A blob whose bytes are not its digest's any more is served to nobody: it is found by whoever reads it, by `fairlead blob
verify` and by scrubs, put aside, and comes again by a push, or from another replica."""

import json
import os
import subprocess

import pytest

import harness
import http1
import netlab
from cluster_lab import Cluster
from test_cluster_blobs import file, keeps, repository

pytestmark = pytest.mark.skipif(harness.KIND != "fairlead", reason="tests Fairlead's own store")

FAIRLEAD = str(harness.BUILD / "fairlead")


def cli(node, *words, code=0):
    done = subprocess.run([FAIRLEAD, "--socket", str(node.socket_path), *words], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=120)
    assert done.returncode == code, (words, done.stdout, done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def node():
    instance = harness.new_registry()
    instance.folder.chmod(0o755)
    instance.start()
    yield instance
    instance.close()


def store(node):
    return node.state / "store"


def blob_path(node, digest):
    hexes = digest.partition(":")[2]
    return store(node) / "blobs/sha256" / hexes[:2] / hexes


def flip(path, at):
    with open(path, "r+b") as out:
        out.seek(at)
        byte = out.read(1)
        out.seek(at)
        out.write(bytes([byte[0] ^ 1]))


def quarantined(node, digest):
    return (store(node) / "damaged" / digest.replace(":", "-")).exists() and not blob_path(node, digest).exists()


def kinds(node, digest):
    lines = cli(node, "events", "--json", "--limit", "1000").splitlines()
    events = [event for line in lines for event in (json.loads(line) if line.startswith("[") else [json.loads(line)])]
    return [event["kind"] for event in events if event.get("digest") == digest]


def status(node):
    return json.loads(cli(node, "status", "--json"))["blobs"]


def heals_by_a_push(node, repo, data, digest):
    assert http1.wait_until(lambda: "blob.damaged" in kinds(node, digest), 60)
    assert repo.blob(digest).status == 404
    assert repo.push_blob(data) == digest
    assert repo.blob(digest).body == data
    assert http1.wait_until(lambda: "blob.healed" in kinds(node, digest), 60)
    assert http1.wait_until(lambda: status(node)["damaged_count"] == 0, 60)
    assert not list((store(node) / "damaged").iterdir())


def test_verified_by_name(node):
    repo = node.repository("whole/one")
    data = os.urandom(700_000)
    digest = repo.push_blob(data)
    assert json.loads(cli(node, "blob", "verify", digest, "--json"))["result"] == "ok"
    assert repo.blob(digest).body == data  # its descriptor is kept open from now on
    flip(blob_path(node, digest), 350_000)
    assert json.loads(cli(node, "blob", "verify", digest, "--json", code=1))["result"] == "damaged"
    assert quarantined(node, digest)
    assert [row["digest"] for row in status(node)["damaged"]] == [digest]
    heals_by_a_push(node, repo, data, digest)


def test_found_by_a_reader(node):
    """A small one is hashed when it is read; of a large one the size is looked at."""
    repo = node.repository("whole/two")
    small, large = os.urandom(5000), os.urandom(300_000)
    for data, harm in ((small, lambda path: flip(path, 17)), (large, lambda path: os.truncate(path, 299_999))):
        digest = repo.push_blob(data)
        harm(blob_path(node, digest))
        assert repo.blob(digest).status == 404
        assert http1.wait_until(lambda: quarantined(node, digest), 60)
        heals_by_a_push(node, repo, data, digest)


def test_found_by_a_scrub(node):
    """All of them; what is being healed outlives a restart."""
    repo = node.repository("whole/three")
    datas = [os.urandom(1000 * (1 + i)) for i in range(40)]
    digests = [repo.push_blob(data) for data in datas]
    flip(blob_path(node, digests[7]), 3)
    result = json.loads(cli(node, "blob", "verify", "--all", "--json", code=1))
    assert result["damaged"] == 1 and result["blobs"] >= 39 and not result["running"]
    assert quarantined(node, digests[7])
    node.restart()
    assert [row["digest"] for row in status(node)["damaged"]] == [digests[7]]
    assert status(node)["scrub"]["damaged"] == 1
    assert repo.push_blob(datas[7]) == digests[7]
    assert http1.wait_until(lambda: status(node)["damaged_count"] == 0, 60)
    assert json.loads(cli(node, "blob", "verify", "--all", "--json"))["damaged"] == 0
    assert all(repo.blob(digest).body == data for digest, data in zip(digests, datas))


@netlab.needed
def test_healed_by_a_replica():
    """Who reads one a moment later gets the right bytes all the same; both come again from the other node."""
    with Cluster("a", "b") as cluster:
        cluster.form()
        datas = [os.urandom(900_000), os.urandom(3000)]
        digests = [harness.digest_of(data) for data in datas]
        repository(cluster["a"]).push_image("1", *datas)
        repo = repository(cluster["b"])
        assert http1.wait_until(lambda: repo.manifest("1").status == 200, 60), cluster.report()
        assert [repo.blob(digest).body for digest in digests] == datas
        assert all(keeps(cluster["b"], digest) for digest in digests)
        node = cluster["b"]
        flip(file(node, digests[0]), 500_000)
        flip(file(node, digests[1]), 5)
        for digest in digests:
            assert node.cli("blob", "verify", digest, check=False).returncode == 1
        assert [repo.blob(digest).body for digest in digests] == datas
        assert all(keeps(node, digest) for digest in digests), cluster.report()
        assert http1.wait_until(lambda: node.status()["blobs"]["damaged_count"] == 0, 60), cluster.report()
        # One that is gone comes again, too.
        file(cluster["a"], digests[0]).unlink()
        assert cluster["a"].cli("blob", "verify", digests[0], check=False).returncode == 1
        assert http1.wait_until(lambda: keeps(cluster["a"], digests[0]), 60), cluster.report()
