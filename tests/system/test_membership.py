# SPDX-License-Identifier: Apache-2.0
"""Who is a node, by its certificate: the cluster's CA is exchanged under clients, and a node that was removed is shut out."""

import contextlib
import itertools
import json
import re
import socket
import ssl
import threading

import pytest

import harness
import http1
import netlab
from cluster_lab import PORT, Cluster
from test_cluster import Guest

pytestmark = netlab.needed
PEERS = PORT + 1  # where replicas ask each other
WAIT_S = 90


@pytest.fixture(scope="module")
def three():
    with Cluster("a", "b", "c") as cluster:
        yield cluster.form()


def repository(node, name="team/app"):
    class Inside:
        def exchange(self, *arguments):
            return netlab.in_namespace(node.host.netns, lambda: http1.Client(("127.0.0.1", 5000), timeout_s=60).exchange(*arguments))
    return harness.Repository(Inside(), name)


def pki(node, name):
    return (node.folder / "state/pki" / name).read_text()


def shown(node):
    """The CA as it says it is; {} while it cannot be asked."""
    done = node.cli("cluster", "show", "--json", check=False)
    return json.loads(done.stdout)["ca"] if done.returncode == 0 else {}


def rotated(cluster, times, nodes=None, wait_s=WAIT_S):
    """All of them are through with it."""
    def done():
        seen = [shown(node) for node in nodes or cluster.alive()]
        return all(ca.get("rotations") == times and not ca.get("rotation") for ca in seen)
    assert http1.wait_until(done, wait_s), f"{[shown(node) for node in cluster.alive()]}\n{cluster.report()}"


@contextlib.contextmanager
def clients(cluster):
    """They push to one node and pull from the others; whatever fails is raised at the end."""
    stop, failures, done = threading.Event(), [], []

    def retried(call):
        """What a busy node says is worth another try is tried again, as clients do."""
        def tried():
            try:
                call()
            except AssertionError as error:
                if "503" not in str(error):
                    raise
                return False
            return True
        assert http1.wait_until(tried, WAIT_S, 0.2)

    def pull(node, layer):
        answer = repository(node).blob(harness.digest_of(layer))
        assert answer.status == 200, answer.status
        assert answer.body == layer

    def run(number, node, others):
        try:
            for turn in itertools.count():
                if stop.is_set():
                    return
                layer = f"{number}.{turn}.".encode() * 20_000
                retried(lambda: repository(node).push_image(f"t{number}.{turn}", layer))
                for other in others:
                    retried(lambda other=other: pull(other, layer))
                done.append(number)
        except Exception as error:  # pylint: disable=broad-except
            failures.append(f"{node.name}: {error!r}")

    nodes = cluster.alive()
    threads = [threading.Thread(target=run, args=(i, node, [n for n in nodes if n is not node])) for i, node in enumerate(nodes)]
    for thread in threads:
        thread.start()
    try:
        assert http1.wait_until(lambda: failures or set(done) == set(range(len(nodes))), WAIT_S)
        yield
        seen = len(done)
        assert http1.wait_until(lambda: failures or len(done) > seen + len(nodes), WAIT_S)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures, "\n".join(failures + [cluster.report()])


class Identity:
    """Certificate and key of a node as they are now, for who comes by later with them."""

    def __init__(self, node, folder):
        folder.mkdir()
        self.files = [folder / "cert", folder / "key"]
        for path, name in zip(self.files, ("node.pem", "node.key")):
            path.write_text(pki(node, name))

    def connect(self, node, port=PEERS):
        """From the node's own host; the other side's certificate does not matter here."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(*self.files)
        plain = netlab.in_namespace(node.host.netns, lambda: socket.create_connection((node.host.v4, port), timeout=60))
        return context.wrap_socket(plain)

    def refused(self, node, port=PEERS):
        """Of TLS 1.3, a client learns that with the first bytes that it reads."""
        try:
            with self.connect(node, port) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
                return connection.recv(1) == b""
        except ssl.SSLError as error:
            return "alert" in str(error).lower()
        except ConnectionError:
            return True


def mesh_says(identity, node):
    """What is read of a connection to the address for nodes, until it ends."""
    with identity.connect(node, PORT) as connection:
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


def ask(connection):
    """The status of an answer about a blob that is nowhere, on a connection that stays."""
    connection.sendall(b"GET /blobs/sha256/" + b"0" * 64 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = connection.recv(65536)
        if not piece:
            return None
        answer += piece
    length = int(re.search(rb"(?i)content-length: *(\d+)", answer)[1])
    while len(answer.partition(b"\r\n\r\n")[2]) < length:
        answer += connection.recv(65536)
    return int(answer.split()[1])


def test_the_ca_is_exchanged_under_clients(three, tmp_path):
    a = three["a"]
    before = {node.name: (pki(node, "ca.pem"), pki(node, "node.pem")) for node in three.alive()}
    old = Identity(three["b"], tmp_path / "old")
    token = a.token()
    assert not old.refused(a)
    with clients(three):
        three["c"].cli("cluster", "rotate-ca")
        rotated(three, 1)
    bundles = {pki(node, "ca.pem") for node in three.alive()}
    assert len(bundles) == 1 and bundles.pop().count("BEGIN CERTIFICATE") == 1
    for node in three.alive():
        assert pki(node, "ca.pem") != before[node.name][0] and pki(node, "node.pem") != before[node.name][1]
        assert {row["ca"] for row in node.nodes().values()} == {shown(node)["fingerprint"]}
        assert not (node.folder / "state/pki/ca-next.key").exists()
        assert pki(node, "ca.key") == pki(a, "ca.key")
        assert "PRIVATE KEY" not in node.full_log()
    assert http1.wait_until(lambda: old.refused(a), WAIT_S)
    assert b"not of this cluster's CA" in mesh_says(old, a)
    assert not Identity(three["b"], tmp_path / "new").refused(a)
    assert json.loads(a.cli("node", "token-ls", "--json").stdout)["tokens"] == [] and a.token() != token
    assert three.wait_until_whole()


def test_a_removed_node_is_shut_out(three, tmp_path):
    """Its certificate is as good as before: what counts is who is a node."""
    a, c = three["a"], three["c"]
    a.set("http.idle_timeout", "600s")  # the connection stands idle while c becomes a worker
    three.wait_for_setting("http.idle_timeout", a.setting("http.idle_timeout"))
    if not shown(a)["rotations"]:  # alone: who has the CA's key is known since then
        a.cli("cluster", "rotate-ca")
        rotated(three, 1)
    left = Identity(c, tmp_path / "c")
    with left.connect(a) as open_before:
        assert ask(open_before) == 404
        c.cli("node", "demote", "c")
        assert http1.wait_until(lambda: (row := a.nodes().get("c", {})).get("role") == "worker" and row["state"] == "ready", WAIT_S)
        assert ask(open_before) == 404
        assert http1.wait_until(lambda: not {"ca.key", "ca-next.key"} & {path.name for path in (c.folder / "state/pki").iterdir()}, WAIT_S)
        a.cli("node", "rm", "c", "--yes")
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            assert open_before.recv(1) == b""
    for node in (a, three["b"]):
        def says(node=node):
            with contextlib.suppress(OSError), left.connect(node) as connection:
                return ask(connection)
            return None
        assert http1.wait_until(lambda says=says: says() == 403, WAIT_S)


def test_a_leader_without_a_key_says_so():
    with Cluster("a") as cluster:
        a = cluster.form()["a"]
        a.kill()
        key = a.folder / "state/pki/ca.key"
        text = key.read_text()
        key.unlink()
        a.start()
        cluster.wait_for_leader().cli("cluster", "rotate-ca")
        assert http1.wait_until(lambda: "no key of the CA" in a.cli("cluster", "show").stdout, WAIT_S), cluster.report()
        assert a.full_log().count("cannot be exchanged yet") == 1
        a.kill()
        key.touch(0o600)
        key.write_text(text)
        a.start()
        rotated(cluster, 1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_is_away_and_leaders_go(tmp_path):
    """The rotation waits for it; it goes on over restarts, and without the node where that is wanted."""
    with Cluster("a", "b", "c") as cluster:
        cluster.form()
        a, c = cluster["a"], cluster["c"]
        token, old = a.token(), pki(a, "ca.pem")
        c.kill()
        cluster.wait_for_leader().cli("cluster", "rotate-ca")
        waits = [{"node": "c", "lacks": "trust", "away": True}]
        def waiting():
            return all((shown(node).get("rotation") or {}).get("waits_for") == waits for node in cluster.alive())
        assert http1.wait_until(waiting, WAIT_S), cluster.report()
        assert "exchanged already" in a.cli("cluster", "rotate-ca", check=False).stderr
        assert re.search(r"ca rotation +trust: 2 of 3 nodes; waits for c \(trust, away\)", a.cli("cluster", "show").stdout)
        for name in "ab":
            cluster[name].kill()
            cluster[name].start()
        cluster.wait_for_leader()
        assert http1.wait_until(waiting, WAIT_S), cluster.report()
        c.start()
        rotated(cluster, 1)
        assert cluster.wait_until_whole(), cluster.report()
        with Guest(cluster, "d") as guest:
            done = guest.join(a, token, check=False)
            assert done.returncode != 0 and "CA was exchanged" in done.stderr, done.stderr
            guest.join(a, a.token())
            assert cluster.wait_until_whole("abcd"), cluster.report()
            assert old not in pki(guest, "ca.pem")
            a.cli("node", "demote", "d")
            a.cli("node", "rm", "d", "--yes")
        # By force: who was away comes back with a certificate that is good for nothing.
        c.kill()
        assert "nothing waits" in a.cli("cluster", "rotate-ca", "--force", check=False).stderr
        cluster.wait_for_leader().cli("cluster", "rotate-ca")
        assert http1.wait_until(waiting, WAIT_S), cluster.report()
        done = a.cli("cluster", "rotate-ca", "--force")
        assert "c is away" in done.stderr
        rotated(cluster, 2, [a, cluster["b"]], 2 * WAIT_S)  # the leader waits a minute for it
        c.start()
        assert http1.wait_until(lambda: "not of this cluster's CA" in a.full_log() or "not of this cluster's CA" in c.full_log(), WAIT_S)
        assert "left behind" in a.cli("cluster", "show").stderr
        assert http1.wait_until(lambda: a.nodes().get("c", {}).get("state", "ready") != "ready", WAIT_S)
