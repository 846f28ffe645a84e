# SPDX-License-Identifier: Apache-2.0
"""Real clients against the registry: what one pushes the others pull, byte for byte."""

import json
import os
import subprocess

import pytest

import http1
from harness import DOCKER_IMAGE_TYPE, DOCKER_LIST_TYPE, IMAGE_TYPE, INDEX_TYPE, KIND, digest_of
from tools import TOOLS

MANIFEST_TYPE = {"v2s2": DOCKER_IMAGE_TYPE, "oci": IMAGE_TYPE}
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the clients need root")


@pytest.fixture(scope="module")
def pushed(registry, tool, context):
    """Builds with a client and pushes, once a client and format; gives (reference, digest of the manifest)."""
    done = {}

    def push(name, form):
        client = tool(name)
        if (name, form) not in done:
            reference = f"{registry.host}/clients/{name}-{form}:latest"
            client.build(context, form)
            client.push(form, reference, form)
            answer = registry.repository(f"clients/{name}-{form}").manifest("latest")
            assert answer.status == 200 and answer.header("Content-Type") == MANIFEST_TYPE[form], answer
            done[name, form] = reference, digest_of(answer.body)
        return done[name, form]

    return push


def check_content(repo, reference):
    """Fetches a manifest and all below it and compares every digest and size; gives the manifest."""
    answer = repo.manifest(reference)
    assert answer.status == 200, answer
    assert answer.header("Docker-Content-Digest") == digest_of(answer.body)
    manifest = json.loads(answer.body)
    for child in manifest.get("manifests", []):
        below = check_content(repo, child["digest"])
        assert child["mediaType"] == below["mediaType"]
    for blob in [manifest["config"], *manifest["layers"]] if "config" in manifest else []:
        got = repo.blob(blob["digest"])
        assert got.status == 200 and len(got.body) == blob["size"] and digest_of(got.body) == blob["digest"]
    return manifest


PUSHES = [(name, form) for name, tool_class in TOOLS.items() for form in tool_class.formats]


@pytest.mark.parametrize("name,form", PUSHES)
def test_push(registry, pushed, name, form):
    reference, _ = pushed(name, form)
    manifest = check_content(registry.repository(f"clients/{name}-{form}"), "latest")
    assert len(manifest["layers"]) == 4
    assert max(layer["size"] for layer in manifest["layers"]) > 64 << 20


@pytest.mark.parametrize("name,form", PUSHES)
@pytest.mark.parametrize("puller", TOOLS)
def test_pull(pushed, tool, expected, name, form, puller):
    reference, digest = pushed(name, form)
    client = tool(puller)
    client.wipe()
    assert client.pull(reference) == digest
    found = client.files(reference)
    assert {path: found.get(path) for path in expected} == expected


def test_push_again_sends_nothing_twice(registry, pushed, tool):
    """The second push of the same image leaves the same manifest, whoever pushes it."""
    reference, digest = pushed("skopeo", "oci")
    client = tool("skopeo")
    client.push("oci", reference, "oci")
    assert digest_of(registry.repository("clients/skopeo-oci").manifest("latest").body) == digest


def mounts(registry):
    text = http1.Client(("127.0.0.1", registry.admin_port)).exchange("GET", "/metrics").body.decode()
    return sum(float(line.split()[-1]) for line in text.splitlines()
               if line.startswith("fairlead_registry_mounts_total"))


def test_copy_between_repositories_mounts(registry, pushed, tool):
    """skopeo asks for mounts; no layer is uploaded again."""
    reference, digest = pushed("skopeo", "v2s2")
    before = mounts(registry) if KIND == "fairlead" else 0
    tool("skopeo").copy(f"docker://{reference}", f"docker://{registry.host}/clients/copied:2")
    repo = registry.repository("clients/copied")
    check_content(repo, "2")
    assert digest_of(repo.manifest("2").body) == digest
    if KIND == "fairlead":
        assert mounts(registry) - before >= 4


def test_docker_push_mounts_from_another_repository(registry, pushed, tool):
    reference, digest = pushed("docker", "v2s2")
    docker = tool("docker")
    docker.wipe()
    docker.pull(reference)
    other = f"{registry.host}/clients/docker-copied:1"
    docker.docker("tag", reference, other)
    assert "Mounted from" in docker.docker("push", other).stdout
    check_content(registry.repository("clients/docker-copied"), "1")
    assert digest_of(registry.repository("clients/docker-copied").manifest("1").body) == digest


@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_multi_arch_index(registry, tool, context, form):
    """podman makes and pushes an index of two platforms; skopeo copies all of it to another repository."""
    podman = tool("podman")
    podman.wipe()
    small = context.parent / f"small-{form}"
    (small / "etc").mkdir(parents=True)
    podman.podman("manifest", "create", "localhost/multi")
    for arch in ("amd64", "arm64"):
        (small / "etc" / "arch").write_text(arch)
        (small / "Dockerfile").write_text("FROM scratch\nCOPY etc /etc\n")
        podman.podman("build", "--quiet", "--format", {"v2s2": "docker"}.get(form, form), "--arch", arch,
                      "-t", f"localhost/small-{arch}", small)
        podman.podman("manifest", "add", "localhost/multi", f"containers-storage:localhost/small-{arch}")
    reference = f"{registry.host}/clients/multi-{form}:1"
    podman.podman("manifest", "push", "--all", "--tls-verify=false", "--format", form, "localhost/multi",
                  f"docker://{reference}")
    repo = registry.repository(f"clients/multi-{form}")
    index = check_content(repo, "1")
    assert index["mediaType"] == {"oci": INDEX_TYPE, "v2s2": DOCKER_LIST_TYPE}[form]
    assert sorted(each["platform"]["architecture"] for each in index["manifests"]) == ["amd64", "arm64"]
    skopeo = tool("skopeo")
    skopeo.copy("--all", f"docker://{reference}", f"docker://{registry.host}/clients/multi-{form}-copied:1")
    copied = registry.repository(f"clients/multi-{form}-copied")
    assert check_content(copied, "1") == index
    assert copied.manifest("1").body == repo.manifest("1").body
    skopeo.copy("--override-arch", "arm64", f"docker://{reference}", f"dir:{skopeo.folder}/one-arch-{form}")


def test_list_tags_inspect_delete(registry, pushed, tool):
    """With skopeo: every tag is listed, inspected by tag and digest, deleted with its manifest."""
    reference, digest = pushed("skopeo", "oci")
    skopeo = tool("skopeo")
    name = f"{registry.host}/clients/tags"
    for tag in ("b", "a", "c.1"):
        skopeo.copy(f"docker://{reference}", f"docker://{name}:{tag}")
    listed = json.loads(skopeo.run("skopeo", "list-tags", "--tls-verify=false", f"docker://{name}").stdout)
    assert sorted(listed["Tags"]) == ["a", "b", "c.1"]
    inspected = json.loads(skopeo.run("skopeo", "inspect", "--tls-verify=false", f"docker://{name}:a").stdout)
    assert inspected["Digest"] == digest and sorted(inspected["RepoTags"]) == ["a", "b", "c.1"]
    raw = skopeo.run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}@{digest}").stdout
    assert digest_of(raw.encode()) == digest
    skopeo.run("skopeo", "delete", "--tls-verify=false", f"docker://{name}:a")
    gone = skopeo.run("skopeo", "inspect", "--tls-verify=false", f"docker://{name}:a", check=False)
    assert gone.returncode != 0 and "unknown" in gone.stderr
    assert registry.repository("clients/skopeo-oci").manifest("latest").status == 200


def test_podman_search_lists_tags(registry, pushed, tool):
    pushed("podman", "oci")
    found = tool("podman").podman("search", "--list-tags", "--tls-verify=false", f"{registry.host}/clients/podman-oci")
    assert "latest" in found.stdout


def stored_bytes(registry):
    total = 0
    for path in registry.state.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            pass
    return total


@pytest.mark.parametrize("name,form", [("docker", "v2s2"), ("podman", "oci"), ("skopeo", "v2s2")])
def test_push_through_kill_9(make_registry, tool, context, expected, name, form):
    """The server is killed in the middle of the big layer, and starts again; the push, tried again, succeeds."""
    registry = make_registry()
    client = tool(name)
    client.wipe()
    client.build(context, "killed")
    reference = f"{registry.host}/killed/{name}:1"
    empty = stored_bytes(registry)
    if name == "docker":
        client.docker("tag", "built/killed", reference)
        command = ["docker", "push", reference]
    elif name == "podman":
        command = ["podman", "--root", client.folder / "root", "--runroot", client.folder / "run",
                   "--storage-driver", "overlay", "push", "--tls-verify=false", "localhost/killed",
                   f"docker://{reference}"]
    else:
        command = ["skopeo", "copy", "--dest-tls-verify=false", "--format", form,
                   f"oci:{client.folder}/built:killed", f"docker://{reference}"]
    with subprocess.Popen([str(word) for word in command], env=client.environment, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as push:
        assert http1.wait_until(lambda: stored_bytes(registry) > empty + (8 << 20) or push.poll() is not None, 60)
        killed_in_time = push.poll() is None
        registry.restart("kill")
        push.wait(150)
    assert killed_in_time, "the push was over before the server could be killed"
    client.push("killed", reference, form)
    repo = registry.repository(f"killed/{name}")
    check_content(repo, "1")
    client.wipe()
    assert client.pull(reference) == digest_of(repo.manifest("1").body)
    found = client.files(reference)
    assert {path: found.get(path) for path in expected} == expected
