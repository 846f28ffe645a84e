# SPDX-License-Identifier: Apache-2.0
"""Several nodes with one state: they join by token over mutual TLS, every write works through any of them, any one may die."""

import json
import os
import signal
import socket
import ssl
import subprocess
import threading

import pytest

import harness
import http1
import netlab
from cluster_lab import PORT, Cluster

pytestmark = netlab.needed


@pytest.fixture(scope="module")
def three():
    """Three managers; each test leaves them whole."""
    with Cluster("a", "b", "c") as cluster:
        yield cluster.form()


@pytest.fixture(autouse=True)
def whole(request):
    yield
    if "three" in request.fixturenames:
        cluster = request.getfixturevalue("three")
        for node in cluster.nodes.values():
            if node.process.poll() is not None:
                node.start()
        assert cluster.wait_until_whole(), cluster.report()


def test_all_show_the_same_nodes(three):
    shown = [{name: (row["id"], row["role"], row["mesh"], row["replica"]) for name, row in node.nodes().items()}
             for node in three.alive()]
    assert shown[0] == shown[1] == shown[2]
    assert [shown[0][name][0] for name in "abc"] == [1, 2, 3]
    assert three.wait_for_leader() is not None
    leads = [node.status()["cluster"]["leader"] if "cluster" in node.status() else None for node in three.alive()]
    assert len(set(leads)) == 1


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_setting_of_any_node_is_on_all(three, name):
    value = f"{11 + ord(name)}s"
    three[name].set("http.idle_timeout", value)
    assert three[name].setting("http.idle_timeout") == value  # what was answered is applied there
    three.wait_for_setting("http.idle_timeout", value)


def test_a_push_to_any_node_is_known_to_all(three):
    def at(node, call):
        return netlab.in_namespace(node.host.netns, lambda: call(harness.Repository(http1.Client(("127.0.0.1", 5000)), "demo/app")))

    for node in three.alive():
        digest = at(node, lambda repository: repository.push_image(f"of-{node.name}", node.name.encode() * 1000))
        assert digest
        for other in three.alive():
            tags = at(other, lambda repository: json.loads(repository.tags().body)["tags"])
            assert f"of-{node.name}" in tags, (node.name, other.name)


def test_what_is_refused_says_why_on_every_node(three):
    for node in three.alive():
        done = node.set("http.idle_timeout", "nonsense", check=False)
        assert done.returncode != 0 and "nonsense" in done.stderr


class Writer:
    """Sets a setting again and again through one node, and notes what was acknowledged."""

    def __init__(self, node, key):
        self.node, self.key, self.acknowledged, self.stopped = node, key, [], False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        value = 1000
        while not self.stopped:
            value += 1
            if self.node.set(self.key, f"{value}ms", check=False).returncode == 0:
                self.acknowledged.append(value)

    def stop(self):
        self.stopped = True
        self.thread.join()


def milliseconds(text):
    number = int(text.rstrip("ms"))
    return number if text.endswith("ms") else number * 1000


def test_the_leader_is_killed(three):
    leader = three.wait_for_leader()
    others = [node for node in three.alive() if node is not leader]
    writer = Writer(others[0], "http.send_timeout")
    try:
        assert http1.wait_until(lambda: len(writer.acknowledged) > 3, 60)
        leader.kill()
        before = len(writer.acknowledged)
        assert http1.wait_until(lambda: len(writer.acknowledged) > before + 3, 60), three.report()
    finally:
        writer.stop()
    others[1].set("http.idle_timeout", "44s")
    leader.start()  # it comes back and catches up
    three.wait_for_setting("http.idle_timeout", "44s", [leader])
    assert http1.wait_until(
        lambda: milliseconds(leader.setting("http.send_timeout")) >= writer.acknowledged[-1], 60), three.report()


def test_a_leader_without_its_link(three):
    """The others elect another one; what it is asked meanwhile it does not acknowledge; then it follows."""
    leader = three.wait_for_leader()
    others = [node for node in three.alive() if node is not leader]
    leader.host.silence()
    try:
        assert http1.wait_until(lambda: any(n.name != leader.name and n is not leader and n.nodes().get(n.name, {}).get("leader")
                                            for n in others), 60), three.report()
        others[0].set("http.idle_timeout", "45s")
        refused = leader.set("http.idle_timeout", "46s", check=False)
        assert refused.returncode != 0 and "lead" in refused.stderr
    finally:
        leader.host.unsilence()
    three.wait_for_setting("http.idle_timeout", "45s")


def test_without_a_majority(three):
    """Reads go on, writes fail at once once it is known; both come back."""
    three.wait_for_leader()
    left, *gone = three.alive()
    for node in gone:
        node.kill()
    assert http1.wait_until(lambda: left.set("http.idle_timeout", "47s", check=False).returncode != 0, 60)
    refused = left.set("http.idle_timeout", "47s", check=False)
    assert "lead" in refused.stderr, refused.stderr
    assert left.setting("http.idle_timeout") is not None
    assert left.host.run("curl", "-sS", "http://127.0.0.1:5000/v2/").returncode == 0
    for node in gone:
        node.start()
    assert http1.wait_until(lambda: left.set("http.idle_timeout", "48s", check=False).returncode == 0, 60), three.report()
    three.wait_for_setting("http.idle_timeout", "48s")


def test_an_orderly_stop_hands_leadership_over(three):
    leader = three.wait_for_leader()
    others = [node for node in three.alive() if node is not leader]
    leader.stop()
    others[0].set("http.idle_timeout", "49s")
    leader.start()
    three.wait_for_setting("http.idle_timeout", "49s")


def test_a_lost_state_is_not_begun_anew(three):
    """Certificates alone make no node: it could vote a second time."""
    victim = three["c"]
    victim.kill()
    state = victim.folder / "state"
    kept = [path for path in (state / "raft", state / "names.mdb", state / "private.mdb")]
    for path in kept:
        path.rename(path.with_suffix(".kept"))
    done = victim.host.run(netlab.BUILD / "fairleadd", "--config", victim.config_path, check=False)
    assert done.returncode == 1 and "not its state" in done.stderr, done.stderr
    for path in kept:
        path.with_suffix(".kept").rename(path)
    victim.start()


# ------------------------------------------------------------------ who is let in


def refused(node, manager, token, *words):
    done = node.join(manager, token, check=False)
    assert done.returncode != 0
    for word in words:
        assert word in done.stderr, done.stderr
    assert node.nodes().keys() == {node.name}  # a cluster of one, as before


def test_who_is_not_let_in(three):
    a = three["a"]
    with Cluster("x") as elsewhere:
        stranger = elsewhere.start("x")
        token = stranger.token()
    good = a.token()
    ca, secret = good.rsplit("-", 1)
    wrong_secret = f"{ca}-{secret[:-2]}{'B' if secret[-2] != 'B' else 'C'}{secret[-1]}"
    expired = a.token("manager", "--expires", "1s")
    with Guest(three, "d") as guest:
        refused(guest, a, token, "another cluster")
        refused(guest, a, wrong_secret, "token is none of this cluster")
        assert http1.wait_until(lambda: '"expired":true' in a.cli("node", "token-ls", "--json").stdout.replace(" ", ""), 60)
        refused(guest, a, expired, "expired")
        refused(guest, a, "FLJ1-NONSENSE", "no token")
        netlab.in_namespace(guest.host.netns, lambda: harness.Repository(
            http1.Client(("127.0.0.1", 5000)), "mine/app").push_image("1", b"a layer"))
        refused(guest, a, good, "repositories", "mine/app")
    assert set(a.nodes()) == {"a", "b", "c"}


class Guest:
    """A host more on the cluster's network, for one test."""

    def __init__(self, cluster, name, **options):
        self.cluster, self.name, self.options = cluster, name, options

    def __enter__(self):
        lab = self.cluster.lab
        host = lab.hosts[self.name] = netlab.Host(lab, self.name, len(lab.hosts) + 1)
        host.create()
        return self.cluster.start(self.name, **self.options)

    def __exit__(self, *_):
        node = self.cluster.nodes.pop(self.name)
        node.remove()
        self.cluster.lab.hosts.pop(self.name).remove()


def test_a_node_without_a_certificate_gets_nothing(three):
    a = three["a"]
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def talk(send, tls=True):
        plain = socket.create_connection((a.host.v4, PORT), timeout=30)
        with (context.wrap_socket(plain) if tls else plain) as connection:
            connection.sendall(send)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
            return answer

    def frame(kind, body=b""):
        return len(body).to_bytes(4, "little") + kind.to_bytes(2, "little") + b"\1\0" + bytes(8) + body

    def inside(call):
        return netlab.in_namespace(three.lab["b"].netns, call)

    for kind in (1, 3, 7, 9, 16, 33, 48):
        answer = inside(lambda kind=kind: talk(frame(kind, bytes(20))))
        assert b"no certificate" in answer and len(answer) < 100
    assert b"makes no sense" in inside(lambda: talk(frame(5, b"\1\0" + b"?" * 30)))  # a JOIN that is none
    assert inside(lambda: talk(frame(5, bytes(9000)))) == b""  # and one that is too large
    assert inside(lambda: talk(b"GET / HTTP/1.1\r\n\r\n", tls=False)).find(b"HTTP") < 0
    with pytest.raises(ssl.SSLError):
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        inside(lambda: talk(frame(1)))
    assert three.wait_until_whole()


# ------------------------------------------------------------------ joining, cut off


def test_joining_is_tried_again(three):
    """Killed after it was taken and before it could know: asking again with the same key is asking the same thing."""
    a = three["a"]
    token = a.token()
    with Guest(three, "e") as guest:
        join = guest.host.start(*guest_command(guest, a, token), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert http1.wait_until(lambda: "e" in a.nodes(), 60), three.report()
        guest.kill()
        join.wait(60)
        guest.start()
        if set(guest.nodes()) == {"e"} and guest.nodes()["e"]["id"] == 1:  # it was not decided on this host yet
            guest.join(a, token)
        assert three.wait_until_whole(["a", "b", "c", "e"]), three.report()
        assert len(a.nodes()) == 4
        a.cli("node", "demote", "e")
        a.cli("node", "rm", "e", "--yes")
        assert http1.wait_until(lambda: set(a.nodes()) == {"a", "b", "c"}, 60)


def test_a_node_begins_to_listen(three):
    """A cluster of one without an address for others gets one by a reload: the same process can be joined, and joins."""
    a = three["a"]
    with Guest(three, "f", listen=False) as guest:
        done = guest.join(a, a.token(), check=False)
        assert done.returncode != 0 and "cluster.listen" in done.stderr
        assert "cluster.listen" in guest.cli("node", "join-token", "--role", "worker", check=False).stderr
        guest.set("http.idle_timeout", "31s")
        guest.listen = True
        guest.write_config()
        guest.process.send_signal(signal.SIGHUP)
        assert http1.wait_until(lambda: guest.cli("node", "join-token", "--role", "worker", check=False).returncode == 0, 60), guest.log()
        assert http1.wait_until(lambda: guest.nodes().get("f", {}).get("mesh") == guest.address, 60), guest.log()
        guest.set("http.idle_timeout", "32s")
        guest.join(a, a.token())
        assert three.wait_until_whole(["a", "b", "c", "f"]), three.report()
        a.cli("node", "demote", "f")
        a.cli("node", "rm", "f", "--yes")
        assert http1.wait_until(lambda: set(a.nodes()) == {"a", "b", "c"}, 60)


def guest_command(node, manager, token):
    return [netlab.BUILD / "fairlead", "--socket", node.socket, "node", "join", manager.address, "--token", token]


def test_one_survivor_goes_on_alone():
    """Two of three are lost for good: what was acknowledged and is in the survivor's log stays, and others may join again."""
    with Cluster("a", "b", "c") as cluster:
        cluster.form()
        a = cluster["a"]
        a.set("http.idle_timeout", "71s")
        cluster.wait_for_setting("http.idle_timeout", "71s")
        force = [netlab.BUILD / "fairleadd", "--force-new", "--config", a.config_path]
        running = a.host.run(*force, "--yes", check=False)
        assert running.returncode == 1 and "in use" in running.stderr
        for node in cluster.nodes.values():
            node.kill()
        for pid in a.pids():  # a data plane that outlived it
            os.kill(pid, signal.SIGKILL)
        unsure = a.host.run(*force, stdin=subprocess.DEVNULL, check=False)
        assert unsure.returncode == 1 and "--yes" in unsure.stderr
        assert "never run again" in a.host.run(*force, "--yes").stdout
        a.start()
        assert http1.wait_until(lambda: a.set("http.idle_timeout", "72s", check=False).returncode == 0, 60), a.log()
        for name in ("b", "c"):  # once they are known not to answer
            assert http1.wait_until(lambda name=name: a.cli("node", "rm", name, "--force", "--yes", check=False).returncode == 0, 60)
        assert set(a.nodes()) == {"a"}
        assert a.setting("http.idle_timeout") == "72s"


@pytest.mark.slow
def test_five():
    with Cluster("a", "b", "c", "d", "e") as five:
        five.form()
        for victim in range(2):
            leader = five.wait_for_leader()
            leader.kill()
            survivor = five.alive()[0]
            value = f"{51 + victim}s"
            assert http1.wait_until(lambda: survivor.set("http.idle_timeout", value, check=False).returncode == 0, 60), \
                five.report()
            five.wait_for_setting("http.idle_timeout", value)
        for node in five.nodes.values():
            if node.process.poll() is not None:
                node.start()
        five.wait_for_setting("http.idle_timeout", "52s")
        assert five.wait_until_whole(), five.report()
