# SPDX-License-Identifier: Apache-2.0
"""Images on this host's disks are imported where they lie, and exported: byte for byte, and without a second copy of what can be shared."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

import harness
from harness import CONFIG_TYPE, IMAGE_TYPE, INDEX_TYPE, LAYER_TYPE, descriptor, digest_of

pytestmark = pytest.mark.skipif(harness.KIND != "fairlead", reason="tests Fairlead's own import and export")

FAIRLEAD = str(harness.BUILD / "fairlead")
SIGNATURE_TYPE = "application/vnd.example.signature"


def cli(node, *words, code=0):
    done = subprocess.run([FAIRLEAD, "--socket", str(node.socket_path), *map(str, words)], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=120)
    assert done.returncode == code, (words, done.stdout, done.stderr)
    return json.loads(done.stdout) if code == 0 and "--json" in words else done.stdout + done.stderr


@pytest.fixture(scope="module")
def node():
    instance = harness.new_registry()
    instance.folder.chmod(0o755)
    instance.start()
    yield instance
    instance.close()


@pytest.fixture
def disk(node):
    """A folder on the store's file system."""
    folder = pathlib.Path(tempfile.mkdtemp(dir=node.folder))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


class Content:
    """An index over an image with a signature that refers to it, all of it new."""

    def __init__(self, *more_layers):
        self.blobs = {}
        self.layers = [os.urandom(300_000), os.urandom(10), *more_layers]
        config = self.add(json.dumps({"nonce": os.urandom(8).hex()}).encode())
        image = json.dumps({"schemaVersion": 2, "mediaType": IMAGE_TYPE,
                            "config": descriptor(CONFIG_TYPE, config, len(self.blobs[config])),
                            "layers": [descriptor(LAYER_TYPE, self.add(layer), len(layer)) for layer in self.layers]}).encode()
        self.image = self.add(image)
        # It names a platform that is not here: as in what was mirrored in part.
        self.index = self.add(json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE,
                                          "manifests": [descriptor(IMAGE_TYPE, self.image, len(image))]}).encode())
        empty = self.add(b"{}")
        self.signature = self.add(json.dumps({
            "schemaVersion": 2, "mediaType": IMAGE_TYPE, "artifactType": SIGNATURE_TYPE,
            "config": descriptor("application/vnd.oci.empty.v1+json", empty, 2),
            "layers": [descriptor("text/plain", self.add(os.urandom(40)), 40)],
            "subject": descriptor(INDEX_TYPE, self.index, len(self.blobs[self.index]))}).encode())

    def add(self, data):
        self.blobs[digest_of(data)] = data
        return digest_of(data)

    def write_layout(self, folder, tag):
        for digest, data in self.blobs.items():
            write(folder / "blobs" / digest.replace(":", "/"), data)
        write(folder / "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        entry = lambda kind, digest: descriptor(kind, digest, len(self.blobs[digest]))
        write(folder / "index.json", json.dumps({"schemaVersion": 2, "manifests": [
            entry(INDEX_TYPE, self.index) | {"annotations": {"org.opencontainers.image.ref.name": tag}},
            entry(IMAGE_TYPE, self.signature)]}).encode())

    def write_tree(self, folder, repo, tag):
        """As docker-registry has it on its disk."""
        for digest, data in self.blobs.items():
            hexes = digest.removeprefix("sha256:")
            write(folder / f"blobs/sha256/{hexes[:2]}/{hexes}/data", data)
        manifests = folder / "repositories" / repo / "_manifests"
        for digest in (self.image, self.index, self.signature):
            write(manifests / "revisions" / digest.replace(":", "/") / "link", digest.encode())
        write(manifests / "tags" / tag / "current/link", self.index.encode())

    def check(self, node, repo, tag):
        repository = node.repository(repo)
        assert repository.manifest(tag).body == self.blobs[self.index]
        assert repository.manifest(self.image).body == self.blobs[self.image]
        for layer in self.layers:
            assert repository.blob(digest_of(layer)).body == layer
        referrers = json.loads(repository.exchange("GET", f"referrers/{self.index}").body)
        assert [row["digest"] for row in referrers["manifests"]] == [self.signature]


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o644)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and path.name not in ("index.json", "oci-layout")}


def stored(node, digest):
    hexes = digest.removeprefix("sha256:")
    return node.state / "store/blobs/sha256" / hexes[:2] / hexes


def test_a_layout_comes_in_and_goes_out(node, disk):
    content = Content()
    content.write_layout(disk / "in", "1.0")
    said = cli(node, "import", disk / "in", "team/layout", "--json")
    assert said == said | {"failed": 0, "tags": 1, "manifests": 3, "copied": 0}
    content.check(node, "team/layout", "1.0")
    out = disk / "out"
    assert cli(node, "export", "team/layout", out, "--json")["tags"] == 1
    assert files(out) == files(disk / "in")
    entries = json.loads((out / "index.json").read_text())["manifests"]
    assert {(row["digest"], row.get("annotations", {}).get("org.opencontainers.image.ref.name")) for row in entries} == {
        (content.index, "1.0"), (content.signature, None)}
    # What is there is not fetched again, what is not is.
    (out / "blobs" / digest_of(content.layers[0]).replace(":", "/")).unlink()
    again = cli(node, "export", "team/layout:1.0", out, "--json")
    assert again["blobs"] == 1 and again["there"] > 1
    assert files(out) == files(disk / "in")
    assert len(json.loads((out / "index.json").read_text())["manifests"]) == 2
    # An index that cannot be read is not taken for none: it alone says what is in the folder.
    (out / "index.json").write_bytes(b'{"manifests":[{')
    (out / "oci-layout").unlink()
    assert "no index of images" in cli(node, "export", "team/layout", out, code=1)
    assert (out / "index.json").read_bytes() == b'{"manifests":[{' and not (out / "oci-layout").exists()


def test_blobs_are_shared_with_the_source(node, disk):
    content = Content()
    content.write_tree(disk, "app", "x")
    assert cli(node, "import", disk, "shared", "--json")["copied"] == 0
    content.check(node, "shared/app", "x")
    digest = digest_of(content.layers[0])
    hexes = digest.removeprefix("sha256:")
    source = disk / f"blobs/sha256/{hexes[:2]}/{hexes}/data"
    linked = source.stat().st_ino == stored(node, digest).stat().st_ino
    assert linked or extents(source) == extents(stored(node, digest))
    shutil.rmtree(disk / "blobs")
    content.check(node, "shared/app", "x")


def extents(path):
    """Where its bytes lie on the disk."""
    return subprocess.run(["filefrag", "-v", path], capture_output=True, text=True, check=True).stdout.splitlines()[3:-1]


def test_a_tree_with_many_repositories(node, disk):
    contents = {name: Content() for name in ("one", "deep/er/two", "deep")}
    for name, content in contents.items():
        content.write_tree(disk / "docker/registry/v2", name, "latest")
    said = cli(node, "import", disk, "--json")
    assert said == said | {"failed": 0, "tags": 3, "manifests": 9}
    for name, content in contents.items():
        content.check(node, name, "latest")
    again = cli(node, "import", disk, "--json")
    assert again["failed"] == 0 and again["copied"] == 0


def test_a_damaged_blob_is_not_taken_and_the_rest_is(node, disk):
    good, bad = Content(), Content()
    good.write_tree(disk, "good", "1")
    bad.write_tree(disk, "bad", "1")
    hexes = digest_of(bad.layers[0]).removeprefix("sha256:")
    path = disk / f"blobs/sha256/{hexes[:2]}/{hexes}/data"
    path.write_bytes(b"x" + path.read_bytes()[1:])
    said = cli(node, "import", disk, "partly", code=1)
    assert "is damaged" in said
    good.check(node, "partly/good", "1")
    assert node.repository("partly/bad").manifest("1").status == 404
    assert not stored(node, digest_of(bad.layers[0])).exists()
    assert not [name for name in os.listdir(node.state / "store/uploads") if name.startswith("import")]


def test_a_torn_blob_in_the_store_is_replaced(node, disk):
    content = Content()
    torn = stored(node, digest_of(content.layers[0]))
    torn.write_bytes(content.layers[0][:100])
    content.write_tree(disk, "app", "1")
    assert cli(node, "import", disk, "torn", "--json")["failed"] == 0
    content.check(node, "torn/app", "1")


def test_what_others_may_write_is_copied(node, disk):
    content = Content()
    content.write_tree(disk, "app", "1")
    for path in disk.rglob("data"):
        path.chmod(0o666)
    cli(node, "import", disk, "copied", "--json")
    content.check(node, "copied/app", "1")
    hexes = digest_of(content.layers[0]).removeprefix("sha256:")
    source = disk / f"blobs/sha256/{hexes[:2]}/{hexes}/data"
    assert source.stat().st_ino != stored(node, digest_of(content.layers[0])).stat().st_ino
    source.write_bytes(b"other bytes")
    content.check(node, "copied/app", "1")


@pytest.mark.parametrize("words, text", [
    (("import", "/nonexistent"), "neither an OCI layout"),
    (("export", "no/such", "OUT"), "no such repository"),
    (("export", "no/such:1", "OUT"), "MANIFEST_UNKNOWN"),
])
def test_what_cannot_be(node, disk, words, text):
    assert text in cli(node, *[disk / word if word == "OUT" else word for word in words], code=1)


def test_a_layout_needs_a_name(node, disk):
    Content().write_layout(disk, "1")
    assert "has no name" in cli(node, "import", disk, code=1)
