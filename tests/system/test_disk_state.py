# SPDX-License-Identifier: Apache-2.0
"""How a node's disks are is in its status, its metrics, its events and /readyz; pulls go on where they can, and what is over is noticed
without a restart. The store is a disk of its own here: full, mounted to be read only, failing, missing or another one."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

import faultfs
import harness
import http1
import netlab
from cluster_lab import Cluster
from harness import digest_of
from test_cluster_blobs import file, keeps, repository

pytestmark = [faultfs.needed, pytest.mark.skipif(harness.KIND != "fairlead", reason="Fairlead's own status")]
FAIRLEAD = str(harness.BUILD / "fairlead")
MIB = 1 << 20
PATIENCE_S = 60


def mount(path, *options, source="tmpfs"):
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(("size=64m,mode=755", *options)), source, str(path)], check=True)


def unmount(path):
    subprocess.run(["umount", "-l", str(path)], check=False)


def cli(node, *words, code=0):
    done = subprocess.run([FAIRLEAD, "--socket", str(node.socket_path), *words], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode == code, (words, done.stdout, done.stderr)
    return done.stdout


def status(node):
    return json.loads(cli(node, "status", "--json"))


def disk(node, which="store"):
    return status(node)["store"] if which == "store" else status(node)["state"]["disk"]


def becomes(node, state, which="store"):
    return http1.wait_until(lambda: disk(node, which)["state"] == state, PATIENCE_S)


def kinds(node):
    return [json.loads(line)["kind"] for line in cli(node, "events", "--json", "--limit", "1000").splitlines()]


def admin(node, page):
    return http1.Client(("127.0.0.1", node.admin_port)).exchange("GET", page)


def metric(node, name):
    lines = admin(node, "/metrics").body.decode().splitlines()
    return int(next(line for line in lines if line.startswith(f"fairlead_{name} ")).split()[1])


def push(repo, data):
    answer = repo.start_upload()
    if answer.status == 202:
        answer = repo.at(answer.header("Location"), "PUT", data, query=[("digest", digest_of(data))])
    return answer


class Disk:
    """A node whose store is a file system of its own, in a folder of RAM."""

    def __init__(self, folder):
        self.folder = folder
        self.path = folder / "state" / "store"
        self.node = harness.new_registry(folder=folder / "node", state=folder / "state", settings={"store.reserve": 4 * MIB})

    def __enter__(self):
        mount(self.path)
        self.node.start()
        self.repo = self.node.repository("disk/one")
        self.layer = os.urandom(300_000)
        self.digest, self.body = self.repo.push_image("tag", self.layer)
        return self

    def __exit__(self, *_):
        try:
            self.node.close()
        finally:
            unmount(self.path)
            unmount(self.path)

    def serves(self):
        assert self.repo.manifest("tag").body == self.body
        assert self.repo.blob(digest_of(self.layer)).body == self.layer

    def shows(self, state, *words):
        """Everything that tells of a disk tells the same."""
        assert becomes(self.node, state), self.node.report(disk(self.node))
        shown = disk(self.node)
        assert shown["path"] == str(self.path) and all(word in shown["text"] for word in words), shown
        assert state in cli(self.node, "status").partition("store disk")[2].splitlines()[0]
        assert any(state in warning for warning in status(self.node)["warnings"])
        assert f"store.{state}" in kinds(self.node)
        numbers = ("ok", "full", "read-only", "failing", "missing", "other")
        assert http1.wait_until(lambda: metric(self.node, "store_disk") == numbers.index(state), PATIENCE_S)
        ready = admin(self.node, "/readyz")
        assert ready.status == 200 and b"ready; the store" in ready.body, ready

    def is_well(self):
        assert becomes(self.node, "ok"), self.node.report(disk(self.node))
        assert http1.wait_until(lambda: metric(self.node, "store_disk") == 0, PATIENCE_S)
        assert admin(self.node, "/readyz").body == b"ready\n"
        assert "store disk" not in cli(self.node, "status")
        data = os.urandom(5000)
        assert http1.wait_until(lambda: push(self.repo, data).status == 201, PATIENCE_S)
        assert self.repo.blob(digest_of(data)).body == data
        self.serves()


@pytest.fixture
def own_disk():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="fairlead-disk-"))
    folder.chmod(0o755)
    with Disk(folder) as it:
        yield it
    shutil.rmtree(folder, ignore_errors=True)


def test_full_and_read_only(own_disk):
    pids = sorted(own_disk.node.pids())
    ballast = own_disk.path / "ballast"
    ballast.write_bytes(bytes(62 * MIB))
    own_disk.shows("full", "uploads are refused")
    own_disk.serves()
    ballast.unlink()
    own_disk.is_well()
    subprocess.run(["mount", "-o", "remount,ro", str(own_disk.path)], check=True)
    own_disk.shows("read-only", "pulls go on")
    assert disk(own_disk.node)["error"] == "EROFS"
    assert push(own_disk.repo, os.urandom(5000)).status in (500, 503, 507)
    own_disk.serves()
    subprocess.run(["mount", "-o", "remount,rw", str(own_disk.path)], check=True)
    own_disk.is_well()
    assert sorted(own_disk.node.pids()) == pids, own_disk.node.report("it was restarted")


def test_missing_and_other(own_disk):
    """At a start the disk is not mounted, then another one is; then the right one comes while the node runs."""
    node = own_disk.node
    node.stop()
    kept = own_disk.folder / "kept"
    kept.mkdir()
    subprocess.run(["mount", "--move", str(own_disk.path), str(kept)], check=False)
    if os.path.ismount(own_disk.path):  # a shared mount cannot be moved
        subprocess.run(["mount", "--bind", str(own_disk.path), str(kept)], check=True)
        unmount(own_disk.path)
    try:
        node.start()
        own_disk.shows("missing", "is its disk mounted?")
        assert push(own_disk.repo, os.urandom(5000)).status == 503
        assert own_disk.repo.blob(digest_of(own_disk.layer)).status in (404, 503)
        node.stop()
        assert not [path for path in own_disk.path.rglob("*") if path.is_file() and not path.name.startswith(".")]
        mount(own_disk.path)
        (own_disk.path / "blobs").mkdir()
        shutil.chown(own_disk.path / "blobs", *os.stat(kept / "blobs")[4:6])
        (own_disk.path / "blobs" / ".store").write_text("0123456789abcdef" * 2 + "\n")
        subprocess.run(["cp", "-a", str(kept / "blobs" / "sha256"), str(own_disk.path / "blobs")], check=True)
        node.start()
        own_disk.shows("other", "another store")
        control = node.process.pid
        unmount(own_disk.path)
        subprocess.run(["mount", "--bind", str(kept), str(own_disk.path)], check=True)
        own_disk.is_well()
        assert node.process.pid == control and node.process.poll() is None
    finally:
        unmount(own_disk.path)
        unmount(kept)


@pytest.mark.parametrize("action,which,state", [("EIO", "store", "failing"),
                                                pytest.param("ENOSPC", "state", "full", marks=pytest.mark.slow)])
def test_failing(tmp_path, action, which, state):
    """Errors where blobs are written, and where the state is; pulls go on."""
    with faultfs.FaultFs(tmp_path / "fs", journal=False) as fs:
        fs.make_durable_folder("state")
        node = harness.new_registry(folder=tmp_path / "node", state=fs.path / "state", settings={"registry.commit_timeout": 500})
        try:
            node.start()
            pids = sorted(node.pids())
            repo = node.repository("disk/failing")
            layer = os.urandom(100_000)
            _, body = repo.push_image("tag", layer)
            fs.fault("write", action, "state/store/*" if which == "store" else "state/raft/*", count=0)
            assert push(repo, os.urandom(70_000)).status in (500, 503, 507)
            shown = lambda: disk(node, which)
            assert http1.wait_until(lambda: [shown()[key] for key in ("state", "error")] == [state, action], PATIENCE_S), shown()
            assert f"{which}.{state}" in kinds(node)
            assert http1.wait_until(lambda: metric(node, f"{which}_disk") > 0, PATIENCE_S)
            assert repo.manifest("tag").body == body and repo.blob(digest_of(layer)).body == layer
            fs.clear()
            assert becomes(node, "ok", which), node.report(disk(node, which))
            assert http1.wait_until(lambda: push(repo, os.urandom(70_000)).status == 201, PATIENCE_S)
            assert sorted(node.pids()) == pids, node.report("it was restarted")
        finally:
            fs.clear()
            node.close()


def reason(node, name):
    """What it says of that node."""
    rows = json.loads(node.cli("node", "ls", "--json").stdout)["nodes"]
    return next(row["reason"] for row in rows if row["name"] == name)


@netlab.needed
@pytest.mark.slow
@pytest.mark.timeout(600)  # under a sanitizer; else some seconds
def test_missing_in_a_cluster():
    """The others serve what the lost disk had, and copy it once more when it stays away; a new disk is taken when it is said to be."""
    with Cluster("a", "b", "c") as cluster:
        cluster.form()
        cluster["a"].set("repair.grace", "1s")
        node = cluster["b"]
        datas = [os.urandom(100_000 + i) for i in range(8)]
        repository(cluster["a"]).push_image("1", *datas)
        digests = [digest_of(data) for data in datas]
        had = [digest for digest in digests if file(node, digest).exists()]
        node.stop()
        state = pathlib.Path(node.folder) / "state"
        (state / "store").rename(state / "taken-out")
        node.start()
        assert http1.wait_until(lambda: node.status()["store"]["state"] == "missing", PATIENCE_S), cluster.report()
        repo = repository(node)
        assert http1.wait_until(lambda: repo.manifest("1").status == 200, PATIENCE_S), cluster.report()
        assert [repo.blob(digest).body for digest in digests] == datas
        others = [cluster["a"], cluster["c"]]
        # Nothing is the turn of the lost disk's node: a minute is only waited for one of which nobody knows that it does nothing.
        assert http1.wait_until(lambda: all(keeps(other, digest) for other in others for digest in had), 2 * PATIENCE_S), cluster.report()
        assert http1.wait_until(lambda: "its store is missing" in reason(cluster["a"], "b"), PATIENCE_S), cluster.report()
        assert not any(file(node, digest).exists() for digest in digests)
        node.cli("store", "accept", "--yes")
        assert http1.wait_until(lambda: node.status()["store"]["state"] == "ok", PATIENCE_S), cluster.report()
        assert http1.wait_until(lambda: "store" not in reason(cluster["a"], "b"), PATIENCE_S), cluster.report()
        assert [repo.blob(digest).body for digest in digests] == datas
