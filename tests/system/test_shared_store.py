# SPDX-License-Identifier: Apache-2.0
"""Three replicas of which two have one store (store.shared): a folder that is mounted on both. They are one holder of what
is in it, and one of them removes from it."""

import hashlib
import os
import subprocess
import threading

import pytest

import harness
import http1
import netlab
from cluster_lab import Cluster
from test_cluster_blobs import file, repository
from test_cluster_copies import shown

pytestmark = netlab.needed

SHARED = "store:\n  shared: true\n"
# Collections are what is asked for; pushes wait for their copies, however loaded the machine is.
SETTINGS = {"gc.grace": "0ms", "gc.interval": "0ms", "registry.copies_timeout": "60s"}
# So long a file that nothing links stays.
PUSHES, NO_PUSHES = {"registry.commit_timeout": "60s"}, {"registry.copies_timeout": "100ms", "registry.commit_timeout": "100ms"}
PATIENCE_S = 60


class Shared(Cluster):
    """a and b have one folder as their store, c has its own."""

    def __enter__(self):
        super().__enter__()
        self.mounts = []
        self.folder = self.lab.folder / "shared"
        self.folder.mkdir()
        return self

    def __exit__(self, *_):
        for node in self.nodes.values():
            node.remove()
        for mount in self.mounts:
            subprocess.run(["umount", "-l", mount], check=False)
        super().__exit__()

    def mount(self, name, more=SHARED):
        node = self.prepare(name, more=more)
        store = node.folder / "state/store"
        store.mkdir(parents=True)
        netlab.command("mount", "--bind", self.folder, store)
        self.mounts.append(store)
        return node


def store_of(node):
    return node.status()["store"]


def settled(cluster):
    """Everybody knows who has which store."""
    return http1.wait_until(lambda: all(store_of(node)["stores"] == 2 for node in cluster.alive()), PATIENCE_S)


def set_all(cluster, settings):
    for key, value in settings.items():
        cluster["a"].set(key, value)
    for key in settings:
        cluster.wait_for_setting(key, cluster["a"].setting(key))


@pytest.fixture(scope="module")
def cluster():
    with Shared("a", "b", "c") as made:
        first = made.mount("a").start()
        made.mount("b").start().join(first, first.token())
        made.start("c").join(first, first.token())
        assert made.wait_until_whole(), made.report()
        assert settled(made), made.report()
        set_all(made, {**SETTINGS, **PUSHES})
        first.cli("cluster", "set", "--copies", 3, "--copies-min", 3)
        yield made


def warnings(node):
    return " ".join(node.status()["warnings"])


def test_one_holder(cluster):
    """Pushed at a it is there at b at once; c gets the one copy that there is to be; nothing is copied within the store."""
    a, b, c = (cluster[name] for name in "abc")
    assert store_of(a)["id"] == store_of(b)["id"] != store_of(c)["id"]
    assert [store_of(node)["shared"] for node in (a, b, c)] == [True, True, False]
    assert [store_of(node)["cleaner"] for node in (a, b, c)] == ["a", "a", "c"]
    assert store_of(a)["with"] == ["b"] and "copies_min is 3" in warnings(a)
    layers = [os.urandom(3_000_000), os.urandom(100)]
    for pusher, tag in ((a, "1"), (c, "2")):
        digest, body = repository(pusher).push_image(tag, *layers, tag.encode())
        for node in (a, b, c):
            repo = repository(node)
            assert http1.wait_until(lambda: repo.manifest(tag).status == 200, PATIENCE_S)
            assert repo.manifest(tag).body == body
            assert [repo.blob(harness.digest_of(layer)).body for layer in layers] == layers
            assert file(node, digest).exists()
    assert http1.wait_until(lambda: not shown(a)["endangered"], PATIENCE_S), shown(a)
    assert shown(a)["lost"] == 0
    assert http1.wait_until(lambda: [node.status()["repair"]["state"] == "elsewhere" for node in (a, b, c)] == [False, True, False],
                            PATIENCE_S)
    assert all(node.status()["repair"]["copied"] == node.status()["repair"]["surplus"] == 0 for node in (a, b, c))


def test_both_push_the_same(cluster):
    """At once, again and again: every push is acknowledged, and the file is whole."""
    a, b = cluster["a"], cluster["b"]
    for turn in range(5):
        data = os.urandom(700_000)
        found = []

        def push(node):
            found.append(repository(node).push_blob(data))
        threads = [threading.Thread(target=push, args=(node,)) for node in (a, b, a, b)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [harness.digest_of(data)] * 4, turn
        assert hashlib.sha256(file(b, found[0]).read_bytes()).hexdigest() == found[0][7:]


def collected(node, digest):
    node.cli("gc", "--json")
    return not file(node, digest).exists()


def removed(node):
    """Files that its data plane has removed."""
    gc = node.status()["gc"]
    return sum(gc[key]["count"] for key in ("files", "strays", "spares"))


def test_one_cleans(cluster):
    """A collection that b runs removes from the store by a alone, and once; what is pushed meanwhile stays."""
    a, b = cluster["a"], cluster["b"]
    before = removed(a), removed(b)
    kept, gone = os.urandom(20_000), os.urandom(30_000)
    repository(b).push_image("kept", kept)
    digest = repository(b).push_blob(gone)  # nothing names it
    set_all(cluster, NO_PUSHES)
    assert http1.wait_until(lambda: collected(b, digest), PATIENCE_S, step_s=0.3), cluster.report()
    set_all(cluster, {**SETTINGS, **PUSHES})
    assert http1.wait_until(lambda: removed(a) > before[0], PATIENCE_S)
    assert removed(b) == before[1]
    assert repository(a).blob(harness.digest_of(kept)).body == kept
    assert not list((cluster.folder / "damaged").iterdir())
    # And again the same bytes, by the other one.
    assert repository(a).push_blob(gone) == digest
    assert repository(b).blob(digest).body == gone


def test_killed_in_an_upload(cluster):
    """a is killed in the middle of an upload: b goes on, and its start touches nothing of a's; a goes on where it was."""
    a, b, c = (cluster[name] for name in "abc")
    data = os.urandom(400_000)
    begun = repository(a).start_upload()
    location = begun.header("Location")
    assert repository(a).at(location, "PATCH", data[:300_000], {"Content-Type": "application/octet-stream"}).status == 202
    a.kill()
    b.kill()
    b.start()
    cluster.wait_for_leader()
    assert http1.wait_until(lambda: repository(b).start_upload().status == 202, PATIENCE_S)
    own = os.urandom(50_000)
    assert repository(b).blob(repository(b).push_blob(own)).body == own
    assert b.status()["repair"]["copied"] == 0 and c.status()["repair"]["copied"] == 0
    a.start()
    assert cluster.wait_until_whole(), cluster.report()
    repo = repository(a)
    assert http1.wait_until(lambda: repo.at(location, "GET").header("Range") == "0-299999", PATIENCE_S)
    done = repo.at(location, "PATCH", data[300_000:], {"Content-Type": "application/octet-stream"})
    assert done.status == 202, done
    done = repo.at(done.header("Location"), "PUT", query=[("digest", harness.digest_of(data))])
    assert done.status == 201, done
    assert repository(b).blob(harness.digest_of(data)).body == data


def test_who_does_not_share_is_refused(cluster):
    """A node without the setting does not start on a store that others have."""
    b = cluster["b"]
    b.stop()
    b.more = ""
    b.write_config()
    done = b.host.run(b.build / "fairleadd", "--config", b.config_path, check=False)
    assert done.returncode == 1 and "in use by another node" in done.stderr, done
    b.more = SHARED
    b.start()
    assert cluster.wait_until_whole(), cluster.report()
