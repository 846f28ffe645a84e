# SPDX-License-Identifier: Apache-2.0
"""Policies of repositories: what a client is told, and that nothing of what was refused is there."""

import json
import signal
import socket
import subprocess

import pytest

import harness
import http1

pytestmark = pytest.mark.skipif(harness.KIND != "fairlead", reason="tests Fairlead's own policies")

MIB = 1 << 20


@pytest.fixture(scope="module")
def node():
    instance = harness.new_registry()
    try:
        instance.start()
        assert http1.wait_until(lambda: version(instance) >= 3, 60)
        yield instance
    finally:
        instance.close()


def cli(node, *words, code=0):
    done = subprocess.run([str(harness.BUILD / "fairlead"), "--socket", str(node.socket_path), *words],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, (words, done.stdout, done.stderr)
    return done.stdout if code == 0 else done.stderr


def version(node):
    return json.loads(cli(node, "cluster", "show", "--json"))["cluster"]["version"]


def policy(node, prefix, *fields):
    cli(node, "policy", "set", prefix, *fields)


def error(answer):
    (row,) = answer.json()["errors"]
    return answer.status, row["code"], row["message"]


def push_tag(repo, tag, layer):
    """The manifest's digest and the answer to its PUT."""
    config = json.dumps({"layer": layer.decode()}).encode()
    names = [repo.push_blob(data) for data in (config, layer)]
    body = harness.image_manifest(names[0], len(config), [(names[1], len(layer))])
    return harness.digest_of(body), repo.put_manifest(tag, body, harness.IMAGE_TYPE)


def test_immutable_tag_keeps_its_manifest(node):
    repo = node.repository("im/app")
    digest, answer = push_tag(repo, "v1", b"one")
    assert answer.status == 201
    policy(node, "im", "immutable=v*,!v0")
    other, answer = push_tag(repo, "v1", b"two")
    status, code, message = error(answer)
    assert (status, code) == (403, "DENIED") and "'v1'" in message and "'im/app'" in message, message
    assert repo.manifest("v1").header("Docker-Content-Digest") == digest != other
    assert push_tag(repo, "v1", b"one")[1].status == 201
    for tag in ("v0", "v0", "latest", "v2"):
        assert push_tag(repo, tag, tag.encode() + b"x")[1].status == 201
    assert error(repo.exchange("DELETE", "manifests/v1"))[:2] == (403, "DENIED")
    assert error(repo.manifest(digest, "DELETE"))[:2] == (403, "DENIED")
    assert "immutable" in cli(node, "repo", "rm", "im/app:v1", "--yes", code=1)
    policy(node, "im/app", "immutable=none")
    assert repo.exchange("DELETE", "manifests/v1").status == 202
    rows = {row["key"]: (row["value"], row["policy"])
            for row in json.loads(cli(node, "policy", "show", "im/app", "--json"))["fields"]}
    assert rows == {"immutable": ("none", "im/app")}


def test_read_only(node):
    repo, beside = node.repository("ro/app"), node.repository("roo/app")
    digest, _ = push_tag(repo, "v1", b"before")
    policy(node, "ro", "read_only=true")
    for method, tail in (("POST", "blobs/uploads/"), ("PUT", "manifests/v2"), ("DELETE", "manifests/v1")):
        assert error(repo.exchange(method, tail, b"x" if method == "PUT" else None))[:2] == (403, "DENIED")
    assert repo.manifest("v1").header("Docker-Content-Digest") == digest
    assert push_tag(beside, "v1", b"here")[1].status == 201
    assert "read-only" in cli(node, "repo", "rm", "ro/app", "--yes", code=1)
    cli(node, "policy", "rm", "ro", "--yes")
    assert push_tag(repo, "v2", b"after")[1].status == 201


def test_only_repositories_that_are_there(node):
    policy(node, "made", "create=existing")
    repo = node.repository("made/app")
    assert error(repo.start_upload())[:2] == (404, "NAME_UNKNOWN")
    cli(node, "repo", "create", "made/app")
    assert push_tag(repo, "v1", b"layer")[1].status == 201


def test_a_full_quota_is_told_before_the_bytes_are_sent(node):
    """By the length that is announced; by the bytes that came, where none is; and exactly, when it is committed."""
    policy(node, "full", "quota.bytes=1MiB", "quota.tags=2")
    repo = node.repository("full/app")
    big = bytes(2 * MIB)
    location = http1.target_of(repo.start_upload().header("Location"))
    with socket.create_connection(node.address, timeout=30) as s:
        s.sendall((f"PUT {location}?digest={harness.digest_of(big)} HTTP/1.1\r\nHost: x\r\n"
                   f"Content-Length: {10 << 30}\r\n\r\n").encode())
        assert s.recv(16) == b"HTTP/1.1 403 For"
    answer = repo.at(location, "PATCH", iter([big[:MIB], big[MIB:]]))
    assert error(answer)[:2] == (403, "DENIED") and "quota" in error(answer)[2]
    half = b"h" * (MIB // 2)
    assert repo.push_blob(half)
    two = [repo.at(http1.target_of(repo.start_upload().header("Location")), "PUT", data, query=[("digest", harness.digest_of(data))])
           for data in (b"i" * (MIB // 4), b"j" * (MIB // 2))]
    assert [answer.status for answer in two] == [201, 403]
    for tag in ("a", "b", "a"):
        assert push_tag(repo, tag, b"small")[1].status == 201
    status, code, message = error(push_tag(repo, "c", b"small")[1])
    assert (status, code) == (403, "DENIED") and "2 tags" in message


def test_totals_are_counted_over_repositories_and_restarts(node):
    assert push_tag(node.repository("sum/a"), "v1", b"x" * 1000)[1].status == 201
    policy(node, "sum", "total.tags=2")
    assert push_tag(node.repository("sum/b/c"), "v1", b"y" * 1000)[1].status == 201
    assert error(push_tag(node.repository("sum/d"), "v1", b"z")[1])[:2] == (403, "DENIED")

    def used():
        (row,) = [row for row in json.loads(cli(node, "policy", "ls", "--json"))["policies"] if row["prefix"] == "sum"]
        return row["used"]

    sizes = {row["name"]: row for row in map(json.loads, cli(node, "repo", "ls", "--json").splitlines())
             if row.get("name", "").startswith("sum/")}
    assert used() == {"bytes": sum(row["bytes"] for row in sizes.values()), "tags": 2}
    before = used()
    node.restart("kill")
    assert used() == before


def test_what_cannot_be_is_said(node):
    assert "no prefix" in cli(node, "policy", "set", "Upper", "read_only=true", code=1)
    assert "did you mean 'quota.tags'" in cli(node, "policy", "set", "x", "quota.tag=1", code=1)
    assert "write true or false" in cli(node, "policy", "set", "x", "read_only=2", code=1)
    assert "no policy of 'x'" in cli(node, "policy", "rm", "x", "--yes", code=1)


def test_policies_in_a_file_of_changes(node):
    path = node.folder / "changes.yaml"

    def apply(policies, *options):
        path.write_text(json.dumps({"policies": policies, "settings": {"log.rate": 77}}))
        return cli(node, "apply", "-f", str(path), *options)

    wanted = [{"prefix": "by/file", "immutable": ["v*", "!v0"], "quota": {"bytes": "1GiB"}, "read_only": False}]
    shown = apply(wanted, "--dry-run")
    assert "+ policy by/file" in shown
    assert "no policy of 'by/file'" in cli(node, "policy", "rm", "by/file", "--yes", code=1)
    assert "+ setting log.rate 77" in apply(wanted)
    (row,) = [row for row in json.loads(cli(node, "policy", "ls", "--json"))["policies"] if row["prefix"] == "by/file"]
    assert (row["immutable"], row["quota"], row["read_only"]) == ("v*,!v0", {"bytes": "1GiB"}, "false")
    assert "nothing to do" in apply(wanted)
    wanted[0]["immutable"] = "none"
    assert "v*,!v0 -> none" in apply(wanted)
    path.write_text(json.dumps({"policies": [{"prefix": "by", "imutable": "x"}]}))
    assert "unknown key 'imutable'" in cli(node, "apply", "-f", str(path), code=1)
    cli(node, "policy", "rm", "by/file", "--yes")


def declare(node, policies):
    node.config = lambda: {**type(node).config(node), "policies": policies}
    node.write_config()
    node.process.send_signal(signal.SIGHUP)

    def declared():
        return {row["prefix"] for row in json.loads(cli(node, "policy", "ls", "--json"))["policies"] if row["origin"] == "file"}
    assert http1.wait_until(lambda: declared() == {row["prefix"] for row in policies}, 60), (declared(), policies)


def test_policies_of_the_configuration_are_the_configurations(node):
    policy(node, "by/hand", "create=existing")
    repo = node.repository("declared/app")
    assert push_tag(repo, "v1", b"one")[1].status == 201
    declare(node, [{"prefix": "declared", "immutable": ["v*"], "quota": {"tags": 3}}])
    assert error(push_tag(repo, "v1", b"two")[1])[:2] == (403, "DENIED")
    refused = cli(node, "policy", "set", "declared", "immutable=none", code=1)
    assert "is set in the configuration file" in refused and "config.yaml" in refused
    assert "is set in the configuration file" in cli(node, "policy", "rm", "declared", "--yes", code=1)
    changes = node.folder / "changes.yaml"
    changes.write_text(json.dumps({"policies": [{"prefix": "declared", "read_only": True}]}))
    for options in (("--dry-run",), ()):
        assert "is set in the configuration file" in cli(node, "apply", "-f", str(changes), *options, code=1)
    changes.write_text(json.dumps({"policies": [{"prefix": "by/hand", "create": "existing"}]}))
    assert "declared" not in cli(node, "apply", "-f", str(changes), "--prune")  # it goes with the file alone
    node.restart("stop")
    assert error(push_tag(repo, "v1", b"two")[1])[:2] == (403, "DENIED")
    declare(node, [])
    assert push_tag(repo, "v1", b"two")[1].status == 201
    cli(node, "policy", "rm", "by/hand", "--yes")
