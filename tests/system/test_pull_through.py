# SPDX-License-Identifier: Apache-2.0
"""Repositories that are copies of another registry's, with a real one behind them: Debian's docker-registry, whose
access log tells what it was asked."""

import concurrent.futures
import contextlib
import json
import re
import shutil
import subprocess

import pytest

import harness
import http1
from test_fetch import Mirror

pytestmark = [pytest.mark.skipif(harness.KIND != "fairlead", reason="tests Fairlead's own fetching"),
              pytest.mark.skipif(not shutil.which("docker-registry"), reason="docker-registry is not installed")]


class Upstream(harness.DockerRegistry):
    def write_config(self):
        super().write_config()
        path = self.folder / "config.yaml"
        config = json.loads(path.read_text())
        config["log"] = {"level": "warn"}  # with its access log
        path.write_text(json.dumps(config))

    def asked(self, method, path):
        """How often, since it was started first."""
        return len(re.findall(rf'"{method} {re.escape(path)} HTTP', self.log()))


class Node(Mirror):
    def __init__(self, upstreams, **options):
        super().__init__([each.port for each in upstreams], **options)

    def repo(self, name="hub/team/app"):
        return self.repository(name)


@contextlib.contextmanager
def copy_of(count=1, **options):
    with contextlib.ExitStack() as stack:
        upstreams = []
        for _ in range(count):
            upstreams.append(Upstream())
            stack.callback(upstreams[-1].close)
            upstreams[-1].start()
        node = Node(upstreams, **options)
        stack.callback(node.close)
        yield node.start(), upstreams


def test_an_image_and_what_it_names():
    """By tag, by digest, HEAD and GET; each thing is asked for once; it is served when the other registry is gone."""
    with copy_of() as (node, (upstream,)):
        layers = [b"layer" * 100_000, b"small"]
        digest, body = upstream.repository("team/app").push_image("1", *layers)
        for reference in ("1", digest):
            for method in ("HEAD", "GET"):
                answer = node.repo().manifest(reference, method)
                assert (answer.status, answer.header("Docker-Content-Digest")) == (200, digest)
                assert answer.header("Content-Type") == harness.IMAGE_TYPE and not answer.header("Warning")
        assert node.repo().manifest("1").body == body
        assert upstream.asked("GET", "/v2/team/app/manifests/1") == 1
        assert upstream.asked("GET", f"/v2/team/app/manifests/{digest}") == 0
        for layer in layers:
            name = harness.digest_of(layer)
            head = node.repo().blob(name, "HEAD")
            assert (head.status, head.header("Content-Length")) == (200, str(len(layer)))
            assert node.repo().blob(name).body == layer
            assert node.keeps(name.partition(":")[2])
        assert node.quiet()
        upstream.stop()
        for reference in ("1", digest):
            assert node.repo().manifest(reference).body == body
        for layer in layers:
            assert node.repo().blob(harness.digest_of(layer)).body == layer
            assert node.repo().blob(harness.digest_of(layer), "HEAD").status == 200
        assert node.repo().tags().json()["tags"] == ["1"]


def test_a_tag_moves():
    """It is asked for again when registry.source_ttl is over; without a change, nothing is fetched."""
    with copy_of(settings={"registry.source_ttl": "0ms"}) as (node, (upstream,)):
        repo = upstream.repository("team/app")
        first, body = repo.push_image("latest", b"one")
        for asked in (1, 2, 3):
            assert node.repo().manifest("latest").body == body
            assert upstream.asked("GET", "/v2/team/app/manifests/latest") == asked
        assert upstream.log().count(" 304 ") == 2
        second, body = repo.push_image("latest", b"two")
        answer = node.repo().manifest("latest")
        assert (answer.header("Docker-Content-Digest"), answer.body) == (second, body) and second != first
        upstream.stop()
        answer = node.repo().manifest("latest")
        assert answer.body == body and "110" in answer.header("Warning")
        assert node.repo().manifest(first).status == 200 and not node.repo().manifest(first).header("Warning")
        upstream.start()
        assert not node.repo().manifest("latest").header("Warning")


def test_what_is_not_there():
    with copy_of() as (node, (upstream,)):
        upstream.repository("team/app").push_image("1", b"x")
        unknown = harness.digest_of(b"unknown")
        for method in ("GET", "HEAD"):
            assert node.repo().manifest("2", method).status == 404
            assert node.repo().manifest(unknown, method).status == 404
            assert node.repo().blob(unknown, method).status == 404
            assert node.repo("hub/nobody/knows").manifest("1", method).status == 404
        assert node.repo().manifest("2").codes() == ["MANIFEST_UNKNOWN"]
        upstream.stop()
        answer = node.repo().manifest("3")
        assert (answer.status, answer.codes()) == (502, ["UNAVAILABLE"])
        assert node.repo().manifest(unknown).status == 502
        assert node.repo("hub").manifest("1").status == 404  # the prefix itself is a name of ours


def test_fifty_clients():
    """A whole image each, all at once: the other registry is asked once for each part of it."""
    with copy_of() as (node, (upstream,)):
        layers = [bytes([n]) * 1_000_000 for n in range(3)]
        digest, body = upstream.repository("team/app").push_image("1", *layers)

        def image(_):
            repo = node.repo()
            assert repo.manifest("1").body == body
            return [harness.digest_of(repo.blob(harness.digest_of(layer)).body) for layer in layers]

        with concurrent.futures.ThreadPoolExecutor(50) as pool:
            assert list(pool.map(image, range(50))) == [[harness.digest_of(layer) for layer in layers]] * 50
        assert upstream.asked("GET", "/v2/team/app/manifests/1") == 1
        for layer in layers:
            assert upstream.asked("GET", f"/v2/team/app/blobs/{harness.digest_of(layer)}") == 1


def test_another_repository_is_no_way_in():
    """A blob that is here for one repository is not served in a copy, unless its source has it there, too."""
    with copy_of() as (node, (upstream,)):
        secret = node.repo("own/secret").push_blob(b"secret")
        assert node.repo().blob(secret).status == 404
        upstream.repository("team/app").push_image("1", b"secret")
        assert node.repo().blob(secret).body == b"secret"
        assert upstream.asked("HEAD", f"/v2/team/app/blobs/{secret}") >= 1
        assert upstream.asked("GET", f"/v2/team/app/blobs/{secret}") == 0  # its bytes were here


def test_names_there():
    """The prefix is taken off, and another one put in its place."""
    sources = [{"prefix": "hub/", "service": "hub"}, {"prefix": "hub/lib/", "service": "hub", "upstream": "library/"}]
    with copy_of(sources=sources) as (node, (upstream,)):
        upstream.repository("library/base").push_image("1", b"library")
        upstream.repository("lib/base").push_image("2", b"lib")
        assert node.repo("hub/lib/base").manifest("1").status == 200
        assert node.repo("hub/lib/base").manifest("2").status == 404
        assert node.repo("hub/library/base").manifest("1").status == 200


def test_the_manifest_was_lost():
    """The names have it, the store has not."""
    with copy_of() as (node, (upstream,)):
        digest, body = upstream.repository("team/app").push_image("1", b"x")
        assert node.repo().manifest("1").body == body
        node.stop()
        node.file(digest.partition(":")[2]).unlink()
        node.start()
        assert node.repo().manifest(digest, "HEAD").status == 200
        assert node.repo().manifest(digest).body == body
        assert node.keeps(digest.partition(":")[2])


@pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed")
def test_skopeo(tmp_path):
    with copy_of() as (node, (upstream,)):
        repo = upstream.repository("team/app")
        repo.push_image("1", b"a" * 3_000_000, b"b")
        for target in ("one", "two"):
            subprocess.run(["skopeo", "copy", "--src-tls-verify=false", f"docker://{node.host}/hub/team/app:1",
                            f"oci:{tmp_path}/{target}:1"], check=True, capture_output=True, timeout=120)
        assert upstream.asked("GET", f"/v2/team/app/blobs/{harness.digest_of(b'a' * 3_000_000)}") == 1
