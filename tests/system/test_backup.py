# SPDX-License-Identifier: Apache-2.0
"""Backups: made while pushes go on, put back into another folder, and what was acknowledged before is pulled from there;
and everything that is wrong with a file, a passphrase or a folder is said, and changes nothing."""

import json
import os
import subprocess
import threading

import pytest

import harness
import http1

pytestmark = pytest.mark.skipif(harness.KIND != "fairlead", reason="tests Fairlead's own backups")

FAIRLEAD = str(harness.BUILD / "fairlead")
SECRET = "a passphrase of several words"


def cli(node, *words, code=0):
    done = subprocess.run([FAIRLEAD, "--socket", str(node.socket_path), *words], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=120)
    assert done.returncode == code, (words, done.stdout, done.stderr)
    return done.stdout if code == 0 else done.stderr


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    return str(path)


@pytest.fixture
def node():
    instance = harness.new_registry()
    instance.folder.chmod(0o755)
    instance.start()
    yield instance
    instance.close()


def restore(path, secret, state, *options, code=0):
    done = subprocess.run([FAIRLEAD, "backup", "restore", str(path), "--state", str(state), "--passphrase-file", secret,
                           *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout if code == 0 else done.stderr


def start_other(state, folder):
    other = harness.new_registry(folder=folder, state=state)
    other.folder.chmod(0o755)
    return other.start()


def test_backup_while_pushing_restored_elsewhere(node, secret, tmp_path):
    """What was acknowledged before the backup began is all there; what is pushed meanwhile is whole or not there."""
    before = {f"t{i}": node.repository("before").push_image(f"t{i}", os.urandom(3000 + i)) for i in range(12)}
    cli(node, "set", "http.idle_timeout", "41s")
    cli(node, "source", "set", "hub/", "backends=127.0.0.1:9", "credentials=robot")
    name = json.loads(cli(node, "node", "ls", "--json"))["nodes"][0]["name"]
    stop, during = threading.Event(), {}

    def push():
        i = 0
        while not stop.is_set():
            during[f"d{i}"] = node.repository("during").push_image(f"d{i}", os.urandom(2000))
            i += 1
    pusher = threading.Thread(target=push)
    pusher.start()
    path = tmp_path / "backup"
    try:
        assert http1.wait_until(lambda: len(during) >= 2, 60)
        said = cli(node, "backup", "create", str(path), "--passphrase-file", secret, "--blobs")
        assert "files" in said and path.stat().st_mode & 0o777 == 0o600
        count = len(during)
        assert http1.wait_until(lambda: len(during) > count, 60)
    finally:
        stop.set()
        pusher.join()
    assert b"before" not in path.read_bytes() and not list(tmp_path.glob("*.new"))
    events = [event["kind"] for event in json.loads("[" + ",".join(cli(node, "events", "--json", "--limit", "1000")
                                                                   .splitlines()) + "]")]
    assert "backup.create" in events
    state = tmp_path / "elsewhere"
    assert "all whole" in restore(path, secret, state, "--verify") and not state.exists()
    assert "a new cluster of one" in restore(path, secret, state)
    other = start_other(state, tmp_path / "other")
    try:
        for tag, (digest, body) in before.items():
            got = other.repository("before").manifest(tag)
            assert got.status == 200 and got.body == body
            for layer in json.loads(body)["layers"]:
                blob = other.repository("before").blob(layer["digest"])
                assert blob.status == 200 and harness.digest_of(blob.body) == layer["digest"]
        for tag, (digest, body) in during.items():
            got = other.repository("during").manifest(tag)
            if got.status == 200:
                for layer in json.loads(body)["layers"]:
                    assert harness.digest_of(other.repository("during").blob(layer["digest"]).body) == layer["digest"]
            else:
                assert got.status == 404
        assert cli(other, "get", "http.idle_timeout").strip() == "41s"
        (source,) = json.loads(cli(other, "source", "ls", "--json"))["sources"]
        assert (source["prefix"], source["backends"], source["credentials"]) == ("hub/", "127.0.0.1:9", "robot")
        (row,) = json.loads(cli(other, "node", "ls", "--json"))["nodes"]
        assert (row["id"], row["name"], row["role"], row["state"]) == (1, name, "manager", "ready")
        ids = [json.loads(cli(each, "cluster", "show", "--json"))["cluster"]["id"] for each in (node, other)]
        assert ids[0] != ids[1]
        # It goes on from there, over restarts.
        pushed = other.repository("after").push_image("new", b"x" * 500)
        other.restart("kill")
        assert other.repository("after").manifest("new").body == pushed[1]
        assert other.repository("before").manifest("t3").status == 200
    finally:
        other.close()


def test_state_alone_has_names_and_no_blobs(node, secret, tmp_path):
    digest, body = node.repository("r").push_image("one", b"layer" * 100)
    cli(node, "backup", "create", str(tmp_path / "b"), "--passphrase-file", secret)
    assert "2 files (0 blobs)" in restore(tmp_path / "b", secret, tmp_path / "s")
    other = start_other(tmp_path / "s", tmp_path / "other")
    try:
        assert other.repository("r").tags().status == 200
        assert json.loads(other.repository("r").tags().body)["tags"] == ["one"]
    finally:
        other.close()


def test_what_is_wrong_is_said_and_changes_nothing(node, secret, tmp_path):
    node.repository("r").push_image("one", b"layer" * 100)
    path, state = tmp_path / "b", tmp_path / "s"
    cli(node, "backup", "create", str(path), "--passphrase-file", secret, "--blobs")
    good = path.read_bytes()
    wrong = tmp_path / "wrong"
    wrong.write_text("another passphrase\n")
    assert "passphrase" in restore(path, str(wrong), state, code=1)
    for at in (5, 40, 100, 200, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1:])
        assert "nothing was changed" in restore(path, secret, state, code=1)
    for cut in (0, 7, 127, 128, 5000, len(good) - 1):
        path.write_bytes(good[:cut])
        assert "nothing was changed" in restore(path, secret, state, code=1)
    path.write_bytes(good + b"x")
    assert "damaged" in restore(path, secret, state, code=1)
    path.write_bytes(good)
    assert not state.exists() and not list(tmp_path.glob("*.restoring"))
    state.mkdir()
    (state / "something").write_text("kept")
    assert "not empty" in restore(path, secret, state, code=1)
    assert (state / "something").read_text() == "kept"
    assert "not empty" in restore(path, secret, node.state, code=1)
    # Nor is a file in the way overwritten, or half a one left.
    assert "File exists" in cli(node, "backup", "create", str(path), "--passphrase-file", secret, code=1)
    assert path.read_bytes() == good
    assert "No such file" in cli(node, "backup", "create", str(tmp_path / "no" / "b"), "--passphrase-file", secret, code=1)
    short = tmp_path / "short"
    short.write_text("short\n")
    assert "too short" in cli(node, "backup", "create", str(tmp_path / "c"), "--passphrase-file", str(short), code=1)
    assert "--passphrase-file" in cli(node, "backup", "create", str(tmp_path / "c"), code=1)
    assert not list(tmp_path.glob("*.new"))
