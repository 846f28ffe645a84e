# SPDX-License-Identifier: Apache-2.0
"""Nodes, tokens and the cluster as operators see them, on a cluster of one: command line, control socket, events, restarts.
The programs in the kernel are off, and the data plane is a fake one."""

import json
import re
import subprocess

import pytest

import harness
import http1
from test_services import Node

pytestmark = pytest.mark.skipif(harness.KIND != "fairlead", reason="tests Fairlead's own control")


@pytest.fixture
def node():
    instance = Node()
    instance.folder.chmod(0o755)
    yield instance
    instance.close()


@pytest.fixture
def running(node):
    node.start()
    assert http1.wait_until(node.has_said_itself, 30), node.report("made no row of itself")
    return node


def nodes(node):
    return {row["name"]: row for row in node.call("node.list")["nodes"]}


def own(node):
    (row,) = nodes(node).values()
    return row


def give_ca(node):
    """What tokens pin; made by openssl, so that nothing of the mesh is needed."""
    (node.state / "pki").mkdir(exist_ok=True)
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
                    "/dev/null", "-out", str(node.state / "pki" / "ca.pem"), "-subj", "/CN=ca", "-days", "10"], check=True,
                   capture_output=True)


def test_a_node_makes_a_cluster_of_itself_once(running):
    row = own(running)
    assert (row["id"], row["role"], row["replica"], row["availability"], row["state"]) == (1, "manager", True, "active", "ready")
    assert row["self"] and row["leader"] and row["lag"] == 0
    cluster = running.call("cluster.show")
    assert cluster["leader"] == cluster["self"] == row["name"]
    assert cluster["cluster"]["version"] == 4 and cluster["cluster"]["managers"] == 1 and cluster["warnings"] == []
    assert len(cluster["cluster"]["id"]) == 32
    running.restart()
    assert own(running)["revision"] == row["revision"]
    kinds = [event["kind"] for event in running.call("events.list", limit=100)["events"]]
    assert kinds.count("cluster.init") == 1


def test_a_state_from_before_becomes_a_cluster(node):
    """Everything else of the state stays."""
    node.start()
    assert http1.wait_until(lambda: nodes(node), 20)
    node.cli("set", "http.idle_timeout", "33s")
    node.restart("kill")
    assert node.cli("get", "http.idle_timeout").strip() == "33s"
    assert own(node)["id"] == 1


def test_commands_and_what_they_refuse(running):
    name = own(running)["name"]
    table = running.cli("node", "ls")
    assert table.splitlines()[0].split()[:3] == ["ID", "NAME", "ROLE"] and f"{name} *" in table and "leader" in table
    assert "last manager" in running.cli("node", "demote", name, code=1)
    assert "last manager" in running.cli("node", "rm", name, "--yes", "--force", code=1)
    assert "last replica" in running.cli("node", "set", name, "--replica", "no", code=1)
    assert "there is no node 'nobody'" in running.cli("node", "drain", "nobody", code=1)
    assert running.cli("node", "drain", name).startswith(f"{name}: drained")
    assert own(running)["availability"] == "drain" and "drained" in own(running)["reason"]
    running.cli("node", "active", "1")
    assert own(running)["availability"] == "active"
    running.cli("node", "set", name, "--name", "front-1")
    assert own(running)["name"] == "front-1"
    assert "cannot be a node's name" in running.cli("node", "set", "front-1", "--name", "-x", code=1)
    assert "neither yes nor no" in running.cli("node", "set", "front-1", "--replica", "perhaps", code=2)
    assert "nothing is to change" in running.cli("node", "set", "front-1", code=1)
    assert running.json("node", "ls")[0]["nodes"][0]["name"] == "front-1"
    running.cli("cluster", "set", "--name", "harbour", "--copies", "3", "--copies-min", "2")
    shown = running.cli("cluster", "show")
    assert re.search(r"name +harbour", shown) and re.search(r"copies_min +2", shown)
    assert "at most copies" in running.cli("cluster", "set", "--copies", "1", code=1)


def test_events_say_who_changed_what(running):
    name = own(running)["name"]
    running.cli("node", "drain", name)
    running.cli("cluster", "set", "--copies", "2")
    events = {event["kind"]: event for event in running.call("events.list", limit=100)["events"]}
    assert events["node.set"]["availability"] == "drain" and events["node.set"]["node_id"] == 1
    assert events["node.set"]["actor"] == "root" and events["node.set"]["source"] == "control-socket"
    assert events["node.set"]["node"] == name and events["node.set"]["by_node"] == 1
    assert events["cluster.set"]["copies"] == 2
    assert re.search(r"node\.set +root from control-socket on \S+ drain", running.cli("events"))


def test_a_stale_revision_is_refused(running):
    row = own(running)
    assert "node" in running.call("node.set", node="1", availability="drain", revision=row["revision"])
    answer = running.call("node.set", node="1", availability="active", revision=row["revision"])
    assert answer["code"] == -32602 and "changed meanwhile" in answer["message"]


def test_tokens(running):
    assert "cluster.listen" in running.cli("node", "join-token", "--role", "worker", code=1)
    give_ca(running)
    token = running.cli("node", "join-token", "--role", "worker").strip()
    assert re.fullmatch(r"FLJ1-[A-Z2-7]{52}-[A-Z2-7]{26}", token)
    (row,) = running.call("token.list")["tokens"]
    assert (row["role"], row["replica"], row["expired"]) == ("worker", False, False)
    assert token.split("-")[2] not in json.dumps(running.call("events.list", limit=100))
    made = running.call("token.create", role="worker", expires="7d", replica=True, rotate=True)
    assert made["command"].startswith("fairlead node join ") and made["token"] in made["command"]
    (row,) = running.call("token.list")["tokens"]
    assert row["id"] == made["id"] and row["replica"]
    # On a busy machine it may have expired before it is committed, which is refused.
    assert http1.wait_until(lambda: "token" in running.call("token.create", role="manager", expires="2s"), 60)
    assert http1.wait_until(lambda: any(row["expired"] for row in running.call("token.list")["tokens"]), 60)
    assert "expired" in running.cli("node", "token-ls")
    running.cli("node", "token-rm", made["id"][:8])
    assert "there is no token" in running.cli("node", "token-rm", made["id"][:8], code=1)
    assert {row["role"] for row in running.call("token.list")["tokens"]} == {"manager"}
    for expires in ("0s", "1", "1w", "-1h", "400d", "99999999999999999999h"):
        assert running.call("token.create", role="manager", expires=expires)["code"] == -32602, expires
    assert "say what" in running.cli("node", "join-token", code=2)
    assert running.call("token.create", role="boss")["code"] == -32602
