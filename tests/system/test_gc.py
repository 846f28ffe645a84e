# SPDX-License-Identifier: Apache-2.0
"""The garbage collection of a node that serves meanwhile: space comes back, and nothing that is used is lost."""

import hashlib
import json
import os
import random
import socket
import subprocess
import threading
import time

import pytest

import harness
import http1
import netlab
from cluster_lab import Cluster
from harness import digest_of, image_manifest
from test_cluster_blobs import repository

pytestmark = pytest.mark.skipif(harness.KIND != "fairlead", reason="Fairlead's own command")

SETTINGS = {"gc.interval": "0ms", "gc.grace": "0ms"}
PATIENCE_S = 120  # on a machine under load, under a sanitizer
# Whoever takes longer than that between a blob and its manifest pushes for nothing.
LOAD = {**SETTINGS, "gc.grace": "5000ms" if harness.SANITIZED else "1500ms"}


def command(registry, *words):
    return [str(harness.BUILD / "fairlead"), "--socket", str(registry.socket_path), *words]


def cli(registry, *words):
    done = subprocess.run(command(registry, *words), capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def run_gc(registry, *words):
    """A run from its beginning to its end."""
    return json.loads(cli(registry, "gc", "--json", *words))


def repo_ls(registry):
    rows = [json.loads(line) for line in cli(registry, "repo", "ls", "--json").splitlines()]
    return {row["name"]: row for row in rows if "name" in row}, next(row["totals"] for row in rows if "totals" in row)


def blob_file(registry, digest):
    hexes = digest.partition(":")[2]
    return registry.state / "store/blobs/sha256" / hexes[:2] / hexes


def collected(registry, *digests):
    """Runs until these files are gone: a file is not removed in the first second of its life."""
    return http1.wait_until(lambda: run_gc(registry) and not any(blob_file(registry, d).exists() for d in digests), PATIENCE_S)


def test_space_comes_back(make_registry):
    registry = make_registry(settings=SETTINGS)
    one, two = registry.repository("team/one"), registry.repository("team/two")
    shared, own = os.urandom(300_000), os.urandom(2_000_000)
    kept, body = one.push_image("kept", shared)
    gone, _ = one.push_image("gone", shared, own)
    two.push_image("2", shared)
    rows, totals = repo_ls(registry)
    sizes = len(shared) + len(own) + 2
    assert rows["team/one"]["bytes"] == sizes + len(body) + len(one.manifest("gone").body) and rows["team/one"]["blobs"] == 3
    # The configuration and the shared layer once, and two's manifest is the kept one.
    assert totals["bytes"] == rows["team/one"]["bytes"] and totals["unlinked_blobs"] == 0

    assert one.exchange("DELETE", f"manifests/{gone}").status == 202
    assert run_gc(registry, "--dry-run")["garbage"] == {"count": 1, "bytes": len(own)}
    assert blob_file(registry, digest_of(own)).exists() and one.blob(digest_of(own), "HEAD").status == 200
    assert collected(registry, digest_of(own), gone), registry.report("it is still there")
    assert one.blob(digest_of(own), "HEAD").status == 404 and one.blob(digest_of(own)).status == 404
    assert one.manifest("kept").body == body and one.blob(digest_of(shared)).body == shared
    rows, totals = repo_ls(registry)
    assert totals == {"blobs": 3, "bytes": len(shared) + 2 + len(body), "unlinked_blobs": 0, "unlinked_bytes": 0}
    assert rows["team/one"]["bytes"] == rows["team/two"]["bytes"] == totals["bytes"]

    # The same again: as if it had never been there.
    assert one.push_image("gone", shared, own)[0] == gone
    assert one.blob(digest_of(own)).body == own
    registry.restart()
    assert one.blob(digest_of(own)).body == own and repo_ls(registry)[1]["bytes"] > totals["bytes"]


def test_descriptors_are_given_back(make_registry):
    """What was pulled is open, or in memory, until it is removed: then the disk has its space again."""
    registry = make_registry(settings=SETTINGS)
    repo = registry.repository("team/pulled")
    layer = os.urandom(1_000_000)
    digest = repo.push_blob(layer)
    assert repo.blob(digest).body == layer
    assert collected(registry, digest)
    assert http1.wait_until(lambda: not any("deleted" in path and digest[7:] in path for path in open_files(registry)), PATIENCE_S)


def open_files(registry):
    found = []
    for pid in registry.dataplane_pids():
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
            except OSError:
                pass
    return found


def test_grace_and_second_thoughts(make_registry):
    """What is found waits: HEAD says no, so that who pushes brings it; a manifest may still name it, and takes it back."""
    registry = make_registry(settings={**SETTINGS, "gc.grace": "1500ms"})
    repo = registry.repository("team/late")
    layer = os.urandom(50_000)
    digest, config = repo.push_blob(layer), repo.push_blob(b"{}")
    assert http1.wait_until(lambda: run_gc(registry) and {repo.blob(d, "HEAD").status for d in (digest, config)} == {404},
                            PATIENCE_S)
    assert repo.blob(digest).body == layer
    repo.push_manifest("late", image_manifest(config, 2, [(digest, len(layer))]))
    assert repo.blob(digest, "HEAD").status == 200
    time.sleep(1.6)  # the grace period is what is tested: nothing to wait for
    run_gc(registry)
    run_gc(registry)
    assert repo.blob(digest).body == layer and repo.blob(config, "HEAD").status == 200


def test_files_without_a_row(make_registry):
    registry = make_registry(settings=SETTINGS)
    registry.repository("team/kept").push_image("1", b"layer")  # a state that knows of no blob removes no file
    data = os.urandom(10_000)
    path = blob_file(registry, digest_of(data))
    other = path.parent / "not-a-blob"
    path.write_bytes(data)
    other.write_bytes(b"?")
    assert collected(registry, digest_of(data)) and other.exists()
    path.write_bytes(data)
    owner = registry.state / "store/blobs/.cluster"
    owner.write_text("0" * 32)
    time.sleep(1.1)  # by then it would go
    assert run_gc(registry)["foreign"] and path.exists()
    assert "another cluster" in cli(registry, "status")


def control(registry, method, **params):
    with socket.socket(socket.AF_UNIX) as sock, sock.makefile("r") as answers:
        sock.connect(str(registry.socket_path))
        sock.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n")
        return json.loads(answers.readline())


def test_used_while_its_file_goes(make_registry):
    """By then its row says so. A push, and an import, say that it stays, and bring what they need."""
    registry = make_registry(settings=SETTINGS)
    repo = registry.repository("team/again")
    pushed, imported = os.urandom(70_000), os.urandom(80_000)
    source = registry.folder / "source"
    source.write_bytes(imported)
    for data in (pushed, imported):
        repo.push_blob(data)
    assert "result" in control(registry, "gc.run")
    # The files are younger than a second, so the next stage takes some time; and if not, the same has to hold.
    assert http1.wait_until(lambda: control(registry, "gc.status")["result"]["stage"] != "names", PATIENCE_S)
    assert repo.push_blob(pushed) == digest_of(pushed)
    # It is refused for the moment in which the file is being removed.
    assert http1.wait_until(lambda: "result" in control(registry, "blob.import", repo="team/again", digest=digest_of(imported),
                                                        path=str(source)), PATIENCE_S)
    cli(registry, "set", "gc.grace", "1h")  # nothing names them: they would be garbage again
    assert http1.wait_until(lambda: control(registry, "gc.status")["result"]["stage"] == "none", 2 * PATIENCE_S)
    assert control(registry, "gc.status")["result"]["failed"] is None
    run_gc(registry)
    for data in (pushed, imported):
        assert repo.blob(digest_of(data)).body == data and blob_file(registry, digest_of(data)).exists()
    kinds = {event["kind"] for event in control(registry, "events.list")["result"]["events"]}
    assert {"gc.run", "gc.ended"} <= kinds


class Pushers:
    """Clients that push images of few layers, look whether they are whole, and delete them."""

    def __init__(self, registry, seed):
        self.registry, self.seed = registry, seed
        self.layers = [hashlib.sha256(b"%d" % i).digest() * (100 + 900 * i) for i in range(6)]
        self.stop, self.pushed, self.refused, self.wrong = threading.Event(), 0, 0, []
        self.threads = [threading.Thread(target=self.run, args=(n,)) for n in range(4)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def run(self, number):
        rng = random.Random(f"{self.seed}/{number}")
        while not self.stop.is_set():
            try:
                self.turn(number, rng)
            except (OSError, http1.ConnectionEnded, http1.ProtocolError):
                time.sleep(0.05)  # it is being killed and started
            except AssertionError as error:
                self.wrong.append(repr(error))

    def have(self, repo, data):
        """As docker does: asks first. None: it could not be pushed just now."""
        digest = digest_of(data)
        if repo.blob(digest, "HEAD").status == 200:
            return digest
        begun = repo.start_upload()
        if begun.status != 202:
            return None
        done = repo.at(begun.header("Location"), "PUT", data, {"Content-Type": "application/octet-stream"}, [("digest", digest)])
        return digest if done.status == 201 else None

    def pull(self, repo, name):
        """What the registry says when it is not being killed and started."""
        def answer():
            try:
                got = repo.blob(name)
            except (OSError, http1.ConnectionEnded, http1.ProtocolError):
                return None
            return got if got.status < 500 else None
        return http1.wait_until(answer, PATIENCE_S)

    def turn(self, number, rng):
        repo = self.registry.repository(f"load/{rng.randrange(2)}")
        layers = [*rng.sample(self.layers, 2), rng.randbytes(5000)]  # what others use is garbage for moments only
        config = f'{{"{number}":{rng.randrange(3)}}}'.encode()
        names = [self.have(repo, data) for data in (config, *layers)]
        if None in names:
            self.refused += 1
            return
        body = image_manifest(names[0], len(config), [(n, len(x)) for n, x in zip(names[1:], layers)])
        done = repo.put_manifest(f"t{number}", body, harness.IMAGE_TYPE)
        if done.status != 201:
            self.refused += 1
            return
        self.pushed += 1
        for name, data in zip(names, (config, *layers)):
            answer = self.pull(repo, name)
            assert answer and answer.status == 200 and answer.body == data, (name, answer, "of an image that was acknowledged")
        if rng.random() < 0.8:
            repo.exchange("DELETE", f"manifests/{digest_of(body)}")


def check_load(registry, pushers):
    assert not pushers.wrong, pushers.wrong[:3]
    check_images(registry)


def check_images(registry):
    for name in ("load/0", "load/1"):
        repo = registry.repository(name)
        answer = repo.tags()
        for tag in json.loads(answer.body).get("tags") or [] if answer.status == 200 else []:
            manifest = json.loads(repo.manifest(tag).body)
            for item in (manifest["config"], *manifest["layers"]):
                assert digest_of(repo.blob(item["digest"]).body) == item["digest"], (name, tag, item)


@pytest.mark.slow
def test_pushes_of_the_same_blobs_while_it_runs(make_registry):
    registry = make_registry(settings=LOAD)
    with Pushers(registry, harness.SEED) as pushers:
        dropped = 0
        end = time.monotonic() + 2 * PATIENCE_S
        while (dropped < 10 or pushers.pushed < 20) and time.monotonic() < end and not pushers.wrong:
            dropped += run_gc(registry)["dropped"]["count"]
    assert dropped >= 10 and pushers.pushed >= 20, (dropped, pushers.pushed, pushers.refused)
    check_load(registry, pushers)


@pytest.mark.slow
def test_ends_of_processes_while_it_runs(make_registry):
    registry = make_registry(settings=LOAD)
    with Pushers(registry, harness.SEED) as pushers:
        for turn in range(4):
            before = pushers.pushed
            assert http1.wait_until(lambda: pushers.pushed > before + 3 or pushers.wrong, PATIENCE_S), registry.report("no pushes")
            with subprocess.Popen(command(registry, "gc"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
                assert http1.wait_until(lambda: pushers.pushed > before + 4 or pushers.wrong or run.poll() is not None, PATIENCE_S)
                if turn % 2:
                    registry.kill_dataplane()
                    assert http1.wait_until(registry.is_ready, PATIENCE_S)
                else:
                    registry.kill()
                    registry.start()
                run.wait(PATIENCE_S)
    check_load(registry, pushers)


def spare_copies_go(cluster, data, has):
    """What a pull leaves on a replica that is not one of the two that hold it; and comes again with the next one."""
    def pulled():
        return all(repository(node).blob(digest_of(data)).body == data for node in cluster.nodes.values())

    def holders():
        return [node for node in cluster.nodes.values() if has(node)]

    cluster["a"].set("gc.spare", "0ms")
    assert http1.wait_until(lambda: pulled() and len(holders()) == 3, PATIENCE_S), cluster.report()
    cluster["a"].set("gc.spare", "1s")
    assert http1.wait_until(lambda: len(holders()) == 2, PATIENCE_S), cluster.report()
    kept = holders()
    assert pulled()
    assert all(has(node) for node in kept), cluster.report()
    cluster["a"].set("gc.spare", "0ms")


@pytest.mark.slow
@netlab.needed
def test_every_replica_removes_its_files():
    """Also one that was away while it was decided."""
    def file(node, digest):
        hexes = digest.partition(":")[2]
        return node.folder / "state/store/blobs/sha256" / hexes[:2] / hexes

    with Cluster("a", "b", "c") as cluster:
        cluster.form()
        cluster["a"].set("gc.grace", "1s")
        cluster["a"].set("gc.interval", "3s")  # its own; also for files without a row
        layer, shared = os.urandom(400_000), os.urandom(200_000)
        repository(cluster["a"]).push_image("kept", shared)
        spare_copies_go(cluster, shared, lambda node: file(node, digest_of(shared)).exists())
        digest, _ = repository(cluster["a"]).push_image("1", layer)
        name = digest_of(layer)
        for node in cluster.nodes.values():
            assert http1.wait_until(lambda: repository(node).blob(name).body == layer, PATIENCE_S), cluster.report()
        assert http1.wait_until(lambda: all(file(node, name).exists() for node in cluster.nodes.values()), PATIENCE_S)
        cluster["c"].kill()
        assert http1.wait_until(lambda: repository(cluster["a"]).exchange("DELETE", f"manifests/{digest}").status in (202, 404),
                                PATIENCE_S)
        assert http1.wait_until(lambda: not any(file(cluster[n], name).exists() for n in "ab"), PATIENCE_S), cluster.report()
        assert file(cluster["c"], name).exists()
        cluster["c"].start()
        assert http1.wait_until(lambda: not file(cluster["c"], name).exists(), PATIENCE_S), cluster.report()
        assert repository(cluster["b"]).blob(name, "HEAD").status == 404
