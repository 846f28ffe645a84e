# SPDX-License-Identifier: Apache-2.0
"""What a cluster promises when something dies, on the hosts of one cluster: three managers with replicas, a worker with one,
a spare host, and a client whose front door knows the managers' registries.

| event | what is to hold | shown by |
|---|---|---|
| one manager of three lost | another one leads by itself, no pull fails, the rest say who is lost and why | a_manager_is_lost, test_cluster: the_leader_is_killed, a_leader_without_its_link |
| two of five lost | likewise | test_cluster: test_five |
| half or more of the managers lost | nothing can be changed, which is said at once; what is there is served, also by workers; it ends with their return | the_majority_is_lost, test_cluster: without_a_majority |
| they are lost for good | one survivor goes on alone | test_cluster: one_survivor_goes_on_alone |
| a worker lost | nobody waits for it; it comes back with everything | a_worker_is_lost, test_workers |
| a worker's manager lost | it follows another one | test_workers: a_worker_follows_another_one |
| one replica lost | pushes go on; it is removed, then another one joins, in this order; nothing old is served unmarked when it comes back | a_lost_replica_is_replaced, test_cluster_copies |
| all but one replica lost | pulls go on | test_cluster_blobs: pushed_here_pulled_there |
| all replicas lost | a backup becomes a cluster, which others join | all_are_lost, test_backup |
| the work of the one that died | what was under way is done or said to be unknown; an upload begins anew or goes on | test_cluster: the_leader_is_killed, test_cluster_uploads: owner_away_then_back |
| a node in transition | its state has a name and a reason | a_manager_is_lost, a_lost_replica_is_replaced, tests/unit/test_node_state.c |
| anything of this at random | what was seen is linearizable, what was acknowledged is there | tests/chaos |
| how long it takes | | make bench Q=cluster |
"""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import pytest

import http1
import netlab
from cluster_lab import Cluster
from harness import Repository, digest_of

pytestmark = [netlab.needed, pytest.mark.slow, pytest.mark.timeout(600)]

ADDRESS, PORT = "10.96.0.1", 5000
MANAGERS = ("a", "b", "c")
LISTEN = "listen:\n  - address: '0.0.0.0:5000'\n    service: registry\n    allow_all: true\n"
LAYERS = (b"first layer" * 90_000, b"second layer" * 7)
PULLER = pathlib.Path(__file__).resolve().parents[1] / "demo/puller.py"
WAIT_S = 90


class Door(netlab.Node):
    """A client's host: a service address whose backends are the managers' registries."""

    def write_config(self):
        backends = "".join(f"      - name: {name}\n        address: {self.host.lab[name].v4}:5000\n" for name in MANAGERS)
        self.config_path.write_text(
            f"state: {self.folder}/state\nrun: {self.folder}/run\ncontrol:\n  socket: {self.socket}\nlog:\n  access: none\n"
            f"kernel:\n  instance: {self.instance}\n  cgroup: {self.host.cgroup}\n"
            f"services:\n  - name: registry\n    address: {ADDRESS}:{PORT}\n    kind: registry\n    path: proxy\n"
            f"    check:\n      kind: http\n      path: /v2/\n      interval: 100ms\n      http_timeout: 5s\n    backends:\n{backends}")


class Inside:
    """Calls from a host to an address."""

    def __init__(self, host, address=("127.0.0.1", 5000)):
        self.host, self.address = host, address

    def exchange(self, *arguments):
        return netlab.in_namespace(self.host.netns, lambda: http1.Client(self.address, timeout_s=60).exchange(*arguments))


def repository(node):
    return Repository(Inside(node.host), "demo/app")


def attempt(call):
    """What it returns, or None where the other side does not answer, or not as it should yet."""
    with contextlib.suppress(OSError, http1.ConnectionEnded, AssertionError):
        return call()
    return None


def state_of(node, name):
    """As that node sees it; None while it cannot be asked."""
    return node.nodes().get(name, {}).get("state")


def pulled(node, body):
    """Whether the image is there, byte for byte."""
    repo = repository(node)
    manifest = attempt(lambda: repo.manifest("1"))
    return (manifest is not None and manifest.body == body
            and all((at := attempt(lambda layer=layer: repo.blob(digest_of(layer)))) is not None and at.body == layer for layer in LAYERS))


class Site:
    def __init__(self, cluster):
        self.cluster = cluster
        self.door = Door(cluster.lab["client"])

    def __getitem__(self, name):
        return self.cluster[name]

    def restore(self, managers):
        """All of them, and the worker, run and are ready."""
        for name in (*managers, "w"):
            if self[name].process.poll() is not None:
                self[name].start()
        looking = [self[name] for name in managers]
        assert self.cluster.wait_until_whole(managers, looking), self.cluster.report()
        assert http1.wait_until(lambda: all(state_of(node, "w") == "ready" for node in looking), WAIT_S), self.cluster.report()

    def through_door(self):
        return Repository(Inside(self.door.host, (ADDRESS, PORT)), "demo/app")


@pytest.fixture(scope="module")
def site():
    with Cluster(*MANAGERS, "w", "d", "client", more=LISTEN) as cluster:
        cluster.names = MANAGERS
        cluster.form()
        cluster.start("w").join(cluster["a"], cluster["a"].token("worker", "--replica", "yes"))
        site = Site(cluster)
        try:
            site.restore(MANAGERS)
            site.door.start()
            _, site.image = repository(cluster["a"]).push_image("1", *LAYERS)
            for name in (*MANAGERS, "w"):  # each fetches what it lacks, and keeps it
                assert http1.wait_until(lambda name=name: pulled(cluster[name], site.image), WAIT_S), cluster.report()
            assert http1.wait_until(lambda: getattr(attempt(lambda: site.through_door().manifest("1")), "status", 0) == 200, WAIT_S), \
                site.door.log()
            yield site
        finally:
            site.door.remove()


@contextlib.contextmanager
def pulling(site):
    """Clients that pull the image through the address all the time; gives what they say as of now."""
    process = site.door.host.start(sys.executable, PULLER, ADDRESS, PORT, stdout=subprocess.PIPE, text=True)
    said, news = {"at": 0}, threading.Condition()

    def read():
        for line in process.stdout:
            with news:
                said.update(json.loads(line))
                news.notify_all()

    def look():
        asked = time.monotonic()
        with news:
            assert news.wait_for(lambda: said["at"] > asked, WAIT_S), said
            return dict(said)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield look
    finally:
        process.kill()
        process.wait()
        reader.join()


def test_a_manager_is_lost(site):
    """The one that leads: nobody who pulls notices, a push goes through in a moment, the others say what they see."""
    leader = site.cluster.wait_for_leader()
    left = [site[name] for name in MANAGERS if name != leader.name]
    with pulling(site) as look:
        assert http1.wait_until(lambda: look()["pulls"] >= 5, WAIT_S)
        leader.kill()
        assert http1.wait_until(lambda: attempt(lambda: site.through_door().push_image("2", b"pushed meanwhile")), WAIT_S), site.cluster.report()
        row = http1.wait_until(lambda: (row := left[0].nodes().get(leader.name, {})).get("state") in ("down", "unreachable") and row, WAIT_S)
        assert row and row["reason"] and not row.get("leader"), row
        pulls = look()["pulls"]
        assert http1.wait_until(lambda: look()["pulls"] >= pulls + 5, WAIT_S)
        leader.start()
        assert http1.wait_until(lambda: attempt(lambda: repository(leader).manifest("2").status) == 200, WAIT_S), site.cluster.report()
        said = look()
        assert said["failed"] == 0, said
    site.restore(MANAGERS)


def test_a_worker_is_lost(site):
    """Nobody waits for it longer than its lease was; what has a copy there is endangered, or was not counted."""
    worker = site["w"]
    worker.kill()
    site["b"].set("http.idle_timeout", "31s")
    assert repository(site["c"]).push_image("3", b"pushed without the worker")
    assert http1.wait_until(lambda: state_of(site["a"], "w") == "down", WAIT_S), site["a"].nodes()
    worker.start()
    site.cluster.wait_for_setting("http.idle_timeout", "31s", [worker])
    assert http1.wait_until(lambda: attempt(lambda: repository(worker).manifest("3").status) == 200, WAIT_S), worker.log()
    site.restore(MANAGERS)


def test_the_majority_is_lost(site):
    """Where the old system answered every pull with an error: pulls go on from a manager and a worker, which say that names
    may be old; a push is refused at once with when to come back; all of it ends when one of the two returns."""
    left, worker = site["a"], site["w"]
    for name in ("b", "c"):
        site[name].kill()
    assert http1.wait_until(lambda: "lead" in left.set("http.idle_timeout", "32s", check=False).stderr, WAIT_S)
    for node in (left, worker):
        assert http1.wait_until(lambda node=node: pulled(node, site.image), WAIT_S), node.log()
        assert http1.wait_until(lambda node=node: "Warning" in repository(node).manifest("1").headers, WAIT_S), node.log()
        assert Inside(node.host).exchange("GET", "/v2/").status == 200
    assert http1.wait_until(lambda: state_of(left, "a") == "no-leader", WAIT_S), left.nodes()
    repo = repository(left)
    begun = repo.start_upload()
    assert begun.status == 202, begun
    refused = repo.at(begun.header("Location"), "PUT", b"not now", query=[("digest", digest_of(b"not now"))])
    assert refused.status == 503 and refused.header("Retry-After"), refused
    site["b"].start()
    assert http1.wait_until(lambda: left.set("http.idle_timeout", "33s", check=False).returncode == 0, WAIT_S), site.cluster.report()
    assert http1.wait_until(lambda: attempt(lambda: repo.push_blob(b"now")), WAIT_S), site.cluster.report()
    site.restore(MANAGERS)
    assert http1.wait_until(lambda: "Warning" not in repository(worker).manifest("1").headers, WAIT_S), worker.log()


def test_a_lost_replica_is_replaced(site):
    """Remove, then join: the other order is refused, since two of four are no majority. The new one has everything; the old
    one, if it ever comes back, cannot change anything, says that what it has may be old, and of nothing that it is not there."""
    a, lost, spare = site["a"], site["c"], site.cluster.start("d")
    lost.kill()
    assert http1.wait_until(lambda: state_of(a, "c") == "down", WAIT_S)
    refused = spare.join(a, a.token(), check=False)
    assert refused.returncode != 0 and "remove it first" in refused.stderr, refused.stderr
    a.cli("node", "rm", "c", "--force", "--yes")
    spare.join(a, a.token())
    managers = ("a", "b", "d")
    assert site.cluster.wait_until_whole(managers, [site[name] for name in managers]), site.cluster.report()
    assert http1.wait_until(lambda: pulled(spare, site.image), WAIT_S), spare.log()
    _, body = repository(spare).push_image("4", b"pushed to the new one")
    lost.start()
    assert http1.wait_until(lambda: "Warning" in repository(lost).manifest("1").headers, WAIT_S), lost.log()
    assert lost.set("http.idle_timeout", "34s", check=False).returncode != 0
    assert repository(lost).manifest("4").status == 503  # it cannot know
    lost.kill()
    # The three that are left can lose one again.
    site["b"].kill()
    assert http1.wait_until(lambda: attempt(lambda: repository(spare).push_image("5", b"with b away")), WAIT_S), site.cluster.report()
    assert repository(a).manifest("4").body == body
    site.restore(managers)


def test_all_are_lost(site):
    """What a backup has becomes a cluster of one on an empty host, which another host joins."""
    a, d = site["a"], site["d"]
    folder = site.cluster.lab.folder
    secret, backup = folder / "secret", folder / "backup"
    secret.write_text("a passphrase of several words\n")
    a.cli("backup", "create", backup, "--passphrase-file", secret, "--blobs")
    for node in site.cluster.nodes.values():
        if node.process.poll() is None:
            node.kill()
        for pid in node.pids():  # a data plane that outlived it
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
    for node in (a, d):
        shutil.rmtree(node.folder / "state")
    a.cli("backup", "restore", backup, "--state", a.folder / "state", "--passphrase-file", secret)
    a.start()
    assert http1.wait_until(lambda: pulled(a, site.image), WAIT_S), a.log()
    d.start()
    d.join(a, a.token())
    assert site.cluster.wait_until_whole(("a", "d"), [a, d]), site.cluster.report()
    assert http1.wait_until(lambda: pulled(d, site.image), WAIT_S), d.log()
    assert repository(d).push_image("6", b"it goes on")
    assert http1.wait_until(lambda: repository(a).manifest("6").status == 200, WAIT_S)
