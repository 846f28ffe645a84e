# SPDX-License-Identifier: Apache-2.0
"""Failing and full disks. Every call that a push makes on the disk is failed once, the n-th for n = 1, 2, ... until the
push makes fewer; and for a while. The answer is an error of the specification's form, reads go on, nothing half-written
is ever seen, and when the disk is well again pushes work without a restart."""

import pathlib
import shutil
import subprocess
import tempfile
import time

import pytest

import faultfs
import harness
import http1
from harness import IMAGE_TYPE, KIND, Repository, digest_of, image_manifest, randomness

pytestmark = faultfs.needed
MIB = 1 << 20
CALLS_MAX = 80
STORE = "state/store/*" if KIND == "fairlead" else "state/*"


@pytest.fixture
def node():
    """(registry, its faultfs)"""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="fairlead-disk-"))
    try:
        with faultfs.FaultFs(folder / "fs", journal=False) as fs:
            fs.make_durable_folder("state")
            registry = harness.new_registry(folder=folder / "node", state=fs.path / "state")
            try:
                yield registry.start(), fs
            finally:
                fs.clear()
                registry.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Attempt:
    """One push of an image, in steps; stops at the first answer that is no success."""

    def __init__(self, repo, *seed):
        self.repo = repo
        self.layer = randomness(*seed).randbytes(300000)
        self.small = b"%r" % (seed,)
        self.body = image_manifest(digest_of(self.small), len(self.small), [(digest_of(self.layer), len(self.layer))])
        self.failed = None

    def run(self):
        """True if all was acknowledged; else `failed` is the answer, checked for its form."""
        for step in (self.push_layer, self.push_small, self.push_manifest):
            answer = step()
            if answer.status not in (201, 202):
                self.failed = answer
                return False
        return True

    def push_layer(self):
        answer = self.repo.start_upload()
        for i in range(2):
            if answer.status == 202:
                part = self.layer[i * 150000:(i + 1) * 150000]
                answer = self.repo.at(answer.header("Location"), "PATCH", part)
        if answer.status == 202:
            query = [("digest", digest_of(self.layer))]
            answer = self.repo.at(answer.header("Location"), "PUT", query=query)
        return answer

    def push_small(self):
        answer = self.repo.start_upload(("digest", digest_of(self.small)), body=self.small)
        if answer.status == 202:
            query = [("digest", digest_of(self.small))]
            answer = self.repo.at(answer.header("Location"), "PUT", self.small, query=query)
        return answer

    def push_manifest(self):
        return self.repo.put_manifest("tag", self.body, IMAGE_TYPE)

    def check_nothing_wrong(self, acknowledged):
        """Each thing is whole or absent; with `acknowledged`, it is there."""
        contents = [("blobs", digest_of(self.layer), self.layer), ("blobs", digest_of(self.small), self.small),
                    ("manifests", "tag", self.body), ("manifests", digest_of(self.body), self.body)]
        for kind, reference, content in contents:
            answer = self.repo.exchange("GET", f"{kind}/{reference}", headers={"Accept": IMAGE_TYPE})
            assert answer.status == 200 or (answer.status == 404 and not acknowledged), (kind, answer)
            assert answer.status == 404 or answer.body == content, (kind, "wrong bytes")


def check_error(answer, action):
    statuses = (507,) if action == "ENOSPC" else (500, 503, 507)
    assert answer.status in statuses, answer
    assert answer.codes()


def check_reads(repo, layer):
    assert repo.manifest("tag").status == 200
    assert repo.blob(digest_of(layer)).body == layer
    assert repo.blob(digest_of(layer), headers={"Range": "bytes=100-199"}).body == layer[100:200]
    assert repo.tags().json()["tags"] == ["tag"]


GONE_WITH = harness.gap("answers 500 without saying why, or serves what failed", strict=False)


@GONE_WITH
@pytest.mark.parametrize("action", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("op", ["write", "fsync", "rename", "create", "fsyncdir"])
def test_nth_call_on_the_store_fails(node, op, action):
    """One failing call in the blob store, at each place of a push."""
    registry, fs = node
    base = registry.repository(f"disk/{op}-{action.lower()}")
    before = Attempt(Repository(base.client, base.name + "/before"), op, action)
    assert before.run()
    met = 0
    for n in range(1, CALLS_MAX):
        attempt = Attempt(Repository(base.client, f"{base.name}/{n}"), op, action, n)
        fs.clear()
        fs.fault(op, action, glob=STORE, first=n)
        done = attempt.run()
        fired = fs.fired()
        check_reads(before.repo, before.layer)
        fs.clear()
        if not done:
            check_error(attempt.failed, action)
        attempt.check_nothing_wrong(acknowledged=done)
        assert attempt.run() or attempt.failed is None, f"after the fault ({op} {n}): {attempt.failed}"
        attempt.check_nothing_wrong(acknowledged=True)
        met += fired
        if not fired:
            break
    assert met or op in ("fsyncdir", "create", "rename"), "the fault was never met"
    assert n < CALLS_MAX - 1


@GONE_WITH
@pytest.mark.parametrize("action", ["ENOSPC", "EIO"])
def test_store_fails_for_a_while(node, action):
    """Every write fails until it is over; reads and lists go on all the time."""
    registry, fs = node
    repo = registry.repository(f"while/{action.lower()}")
    before = Attempt(Repository(repo.client, repo.name + "/before"), "while", action)
    assert before.run()
    for op in ("write", "fsync", "create", "rename"):
        fs.clear()
        fs.fault(op, action, glob=STORE, count=0)
        for n in range(5):
            attempt = Attempt(Repository(repo.client, f"{repo.name}/{op}-{n}"), op, n)
            if not attempt.run():
                check_error(attempt.failed, action)
            attempt.check_nothing_wrong(acknowledged=False)
            check_reads(before.repo, before.layer)
        fs.clear()
        assert attempt.run(), attempt.failed
        attempt.check_nothing_wrong(acknowledged=True)


@pytest.mark.skipif(KIND != "fairlead", reason="about this server's sessions")
@pytest.mark.parametrize("action", ["ENOSPC", "EIO"])
def test_write_fails_when_its_client_has_gone(node, action):
    """The session is free again as soon as the disk has said no, and the connection is over."""
    registry, fs = node
    repo = registry.repository("disk/gone")
    location = http1.target_of(repo.start_upload().header("Location"))
    fs.fault("write", "delay:1500", STORE, count=0)
    fs.fault("write", action, STORE, count=0)
    with registry.client.connect() as connection:
        connection.send(connection.head("PATCH", location, {"Content-Length": str(4 * MIB)}) + bytes(100000))
        assert http1.wait_until(lambda: repo.client.exchange("GET", location).status == 409)
        connection.reset()
    assert http1.wait_until(lambda: repo.client.exchange("GET", location).status == 204, 20)
    fs.clear()
    assert repo.at(location, "PATCH", b"x" * 1000).status == 202


@pytest.mark.parametrize("glob", [STORE, "state/raft/*"] if KIND == "fairlead" else [STORE])
def test_short_writes(node, glob):
    """A write that is taken in part, as when the disk fills up in the middle of it, is finished, not lost."""
    registry, fs = node
    for n in range(1, 30):
        repo = registry.repository(f"short/{n}")
        attempt = Attempt(repo, "short", glob, n)
        fs.clear()
        fs.fault("write", "short", glob=glob, first=n, count=2)
        assert attempt.run(), attempt.failed
        fs.clear()
        attempt.check_nothing_wrong(acknowledged=True)


@pytest.mark.skipif(KIND != "fairlead", reason="the peer keeps no state of its own")
@pytest.mark.slow
def test_state_has_no_space(node):
    """No room for the log of names: the push is refused, pulls go on, and later pushes work without a restart."""
    registry, fs = node
    pid = registry.process.pid
    repo = registry.repository("state/full")
    before = Attempt(Repository(repo.client, repo.name + "/before"), "state")
    assert before.run()
    for n in range(1, 9):
        attempt = Attempt(Repository(repo.client, f"{repo.name}/{n}"), "state", n)
        fs.clear()
        fs.fault("write", "ENOSPC", glob="state/raft/*", first=n, count=0 if n % 2 else 1)
        done = attempt.run()
        check_reads(before.repo, before.layer)
        fs.clear()
        if not done:
            assert attempt.failed.status in (503, 507), attempt.failed
            assert attempt.failed.codes()
        attempt.check_nothing_wrong(acknowledged=done)
        assert http1.wait_until(attempt.run, 20, 0.2), f"still failing after the fault ({n}): {attempt.failed}"
        attempt.check_nothing_wrong(acknowledged=True)
    assert registry.process.pid == pid and registry.process.poll() is None


@pytest.mark.skipif(KIND != "fairlead", reason="the peer keeps no state of its own")
@pytest.mark.parametrize("op,action", [("write", "EIO"), ("fsync", "EIO"), ("fsync", "ENOSPC"), ("write", "short")])
@pytest.mark.parametrize("where", ["state/raft/*", "state/*.mdb"])
def test_state_disk_is_broken(tmp_path, op, action, where):
    """Errors under the log or the names after which nobody can know what is on the disk: nothing unsafe is
    acknowledged. Control may give up, with a reason; a start on the repaired disk has everything that was
    acknowledged."""
    with faultfs.FaultFs(tmp_path / "fs", journal=False) as fs:
        fs.make_durable_folder("state")
        registry = harness.new_registry(folder=tmp_path / "node", state=fs.path / "state",
                                        settings={"registry.commit_timeout": 1500})
        try:
            registry.start()
            good = Attempt(registry.repository("eio/good"), "eio", op)
            assert good.run()
            acknowledged = [good]
            for n in range(1, 4):
                attempt = Attempt(registry.repository(f"eio/{n}"), "eio", op, n)
                fs.clear()
                fs.fault(op, action, glob=where, first=n)
                try:
                    if attempt.run():
                        acknowledged.append(attempt)
                    else:
                        assert attempt.failed.status in (500, 503, 507), attempt.failed
                except (OSError, http1.ConnectionEnded):
                    pass
                fs.clear()
                if registry.process.poll() is not None:
                    assert registry.log().strip(), "it ended without a word"
                registry.restart("kill")
                for each in acknowledged:
                    each.check_nothing_wrong(acknowledged=True)
                attempt.check_nothing_wrong(acknowledged=False)
                again = Attempt(registry.repository(f"eio/again-{n}"), "again", op, n)
                assert again.run(), again.failed
                acknowledged.append(again)
        finally:
            registry.kill()


@pytest.mark.skipif(KIND != "fairlead", reason="the peer keeps no state of its own")
@pytest.mark.parametrize("action", ["ENOSPC", "EIO", "short"])
@pytest.mark.parametrize("file", ["names.mdb", "private.mdb"])
@pytest.mark.slow
def test_state_file_refuses_writes(node, file, action):
    """The n-th write to a file of the state fails, once and for a while, its root included: writes are refused, reads
    go on, and everything works again without a restart."""
    registry, fs = node
    pids = sorted(registry.pids())
    cli = [harness.BUILD / "fairlead", "--socket", registry.socket_path]
    subprocess.run([*cli, "set", "registry.commit_timeout", "300ms"], check=True, stdout=subprocess.DEVNULL)
    before = Attempt(registry.repository("refuses/before"), file, action)
    assert before.run()

    def change(n):
        """One change of the file: (it worked, what was said)."""
        if file == "names.mdb":
            attempt = Attempt(registry.repository(f"refuses/{n}"), file, action, n)
            return attempt.run(), attempt.failed
        try:
            done = subprocess.run([*cli, "set", "log.rate", str(n)], capture_output=True, text=True, timeout=2, check=False)
        except subprocess.TimeoutExpired as slow:
            return False, slow  # agreed upon: it is answered when it is written
        return done.returncode == 0, done.stderr

    met = 0
    for n in range(1, 9):
        for count in (1, 0) if n < 4 else (1, ):
            fs.clear()
            fs.fault("write", action, glob=f"state/{file}", first=n, count=count)
            done, failed = change(10 * n + count)
            met += fs.fired()
            check_reads(before.repo, before.layer)
            assert done or file == "private.mdb" or (failed.status in (503, 507) and failed.codes()), failed
            if not done and count == 0:
                time.sleep(0.6)  # it is tried in vain
                check_reads(before.repo, before.layer)
            fs.clear()
            assert http1.wait_until(lambda i=10 * n + count: change(i)[0], 20, 0.1), f"write {n}, {count}: {failed}"
    assert met > 4, "the fault was hardly met"
    assert sorted(registry.pids()) == pids, registry.report("it was restarted")
    registry.restart("kill")
    check_reads(before.repo, before.layer)
    if file == "private.mdb":
        value = subprocess.run([*cli, "get", "log.rate"], capture_output=True, text=True, check=True).stdout
        assert value == "81\n", value


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 160 MiB with nothing on it."""
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m,mode=755", "small", str(path)], check=True)
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_really_full_disk(small_disk, tmp_path):
    """Blobs until nothing fits; pulls go on; room is made; pushes go on, without a restart."""
    settings = {"store.reserve": 4 * MIB} if KIND == "fairlead" else {}
    registry = harness.new_registry(folder=tmp_path / "node", state=small_disk / "state", settings=settings)
    ballast = small_disk / "ballast"
    try:
        ballast.write_bytes(bytes(40 * MIB))
        registry.start()
        repo = registry.repository("full/disk")
        digest, body = repo.push_image("tag", b"first")
        stored, refused = [], None
        for i in range(80):
            data = randomness("full", i).randbytes(2 * MIB)
            answer = repo.start_upload()
            if answer.status == 202:
                answer = repo.at(answer.header("Location"), "PUT", data, query=[("digest", digest_of(data))])
            if answer.status != 201:
                refused = answer
                break
            stored.append(data)
        assert refused is not None and stored
        if KIND == "fairlead":
            assert refused.status == 507 and refused.codes(), refused
        assert repo.blob(digest_of(data)).status == 404
        assert all(repo.blob(digest_of(each)).body == each for each in stored)
        assert repo.manifest("tag").body == body and repo.manifest(digest).body == body
        ballast.unlink()
        assert http1.wait_until(lambda: push_works(repo, data), 10, 0.2)
        assert repo.blob(digest_of(data)).body == data
        repo.push_image("again", b"second")
        assert all(repo.blob(digest_of(each)).body == each for each in stored)
    finally:
        registry.close()


def push_works(repo, data):
    answer = repo.start_upload()
    if answer.status == 202:
        answer = repo.at(answer.header("Location"), "PUT", data, query=[("digest", digest_of(data))])
    return answer.status == 201
