# SPDX-License-Identifier: Apache-2.0
"""Replicas that fetch from each other: what the names of one link and its store lacks comes from the others, which show
and ask for certificates of one CA. Each node has names of its own here, in which the same was pushed."""

import concurrent.futures
import contextlib
import ssl

import pytest

import harness
import http1
from test_fetch import Mirror, quiet_port
from tls_files import Authority

pytestmark = pytest.mark.skipif(harness.KIND != "fairlead", reason="tests Fairlead's own fetching")


class Replica(Mirror):
    def __init__(self, ca, number, ports, **options):
        self.peer_port, self.ca = ports[number], ca
        super().__init__([port for port in ports if port != self.peer_port],
                         sources=[{"peers": True, "service": "hub"}],
                         **{"kind": "http", "backend.tls": True, "backend.ca": "cluster", "backend.certificate": "node"},
                         **options)
        self.made = ca.issue(f"node{number}", "127.0.0.1")

    def config(self):
        config = super().config()
        fields = config["services"][0]
        for key in [key for key in fields if "." in key]:
            group, _, leaf = key.partition(".")
            fields.setdefault(group, {})[leaf] = fields.pop(key)
        config["listen"].append({
            "address": f"127.0.0.1:{self.peer_port}", "service": "peer",
            "tls": {"certificates": ["node"], "client_auth": "required", "client_ca": "cluster"}})
        config["certificates"] = {"node": self.made, "cluster": {"ca": str(self.ca.cert)}}
        return config

    def loses(self, *digests):
        """From its store; the names keep them."""
        self.stop()
        for digest in digests:
            self.file(digest.partition(":")[2]).unlink()
        self.start()


@contextlib.contextmanager
def replicas(folder, count=2, **options):
    ca = Authority(folder)
    ports = [quiet_port() for _ in range(count)]
    with contextlib.ExitStack() as stack:
        nodes = [Replica(ca, number, ports, **options) for number in range(count)]
        for node in nodes:
            stack.callback(node.close)
            node.start()
        yield nodes


def push(nodes, *layers, repo="team/app"):
    for node in nodes:
        digest, body = node.repository(repo).push_image("1", *layers)
    return digest, body


def test_what_a_replica_lacks(tmp_path):
    """Manifest and layers, each of any size, streamed from the other one and kept; then it is served without it."""
    layers = [b"a" * 5_000_000, b"b" * 100]
    with replicas(tmp_path) as nodes:
        digest, body = push(nodes, *layers)
        names = [harness.digest_of(layer) for layer in layers]
        repo = nodes[0].repository("team/app")
        nodes[0].loses(digest, *names)
        assert repo.blob(names[0], "HEAD").header("Content-Length") == str(len(layers[0]))
        assert repo.manifest("1", "HEAD").header("Docker-Content-Digest") == digest
        assert repo.blob(names[0], headers={"Range": "bytes=10-19"}).body == b"a" * 10
        assert repo.manifest("1").body == body
        assert [repo.blob(name).body for name in names] == layers
        assert all(nodes[0].keeps(name.partition(":")[2]) for name in (digest, *names))
        nodes[1].stop()
        assert repo.manifest(digest).body == body
        assert [repo.blob(name).body for name in names] == layers
        assert not nodes[0].uploads()


def test_the_one_that_has_it(tmp_path):
    """Of three replicas one alone has it; the others say 404, and are passed over."""
    with replicas(tmp_path, 3) as nodes:
        digest, _ = push(nodes, b"x" * 200_000)
        name = harness.digest_of(b"x" * 200_000)
        for node in nodes[:2]:
            node.loses(name)
        for node in nodes[:2]:
            assert node.repository("team/app").blob(name).body == b"x" * 200_000
            assert node.keeps(name.partition(":")[2])


def test_nobody_has_it(tmp_path):
    """All have lost it: 503, at once, since it is known; two that ask each other do not ask for ever."""
    with replicas(tmp_path) as nodes:
        digest, _ = push(nodes, b"x")
        name = harness.digest_of(b"x")
        for node in nodes:
            node.loses(name)
        answer = nodes[0].repository("team/app").blob(name)
        assert (answer.status, answer.codes()) == (503, ["UNAVAILABLE"]) and answer.header("Retry-After")
        nodes[1].stop()
        assert nodes[0].repository("team/app").blob(name).status == 502
        assert nodes[0].repository("other").blob(name).status == 404  # where it is not linked


def test_fifty_clients(tmp_path):
    data = b"y" * 10_000_000
    with replicas(tmp_path) as nodes:
        push(nodes, data)
        name = harness.digest_of(data)
        nodes[0].loses(name)
        repo = nodes[0].repository("team/app")
        with concurrent.futures.ThreadPoolExecutor(50) as pool:
            found = list(pool.map(lambda _: harness.digest_of(repo.blob(name).body), range(50)))
        assert found == [name] * 50
        assert nodes[0].figures()["fetches_total"] == 1 and nodes[0].keeps(name.partition(":")[2])


def ask(node, context, target, method="GET"):
    with http1.Connection(("127.0.0.1", node.peer_port), timeout_s=20) as connection:
        connection.sock = context.wrap_socket(connection.sock, server_hostname="127.0.0.1")
        return connection.exchange(method, target)


def test_who_may_ask(tmp_path):
    """A certificate of the CA opens it, whoever's name is in it; none, or another CA's, does not. It knows blobs by their
    digest and nothing else."""
    with replicas(tmp_path / "ours") as nodes:
        digest, body = push(nodes, b"x")
        target = "/blobs/sha256/" + digest.partition(":")[2]
        contexts = {}
        for which, folder in (("ours", tmp_path / "ours"), ("theirs", tmp_path / "theirs")):
            ca = nodes[0].ca if which == "ours" else Authority(folder)
            made = ca.issue("asker", "127.0.0.1")
            contexts[which] = ssl.create_default_context(cafile=nodes[0].ca.cert)
            contexts[which].load_cert_chain(made["cert"], made["key"])
        contexts["nobody"] = ssl.create_default_context(cafile=nodes[0].ca.cert)
        assert ask(nodes[0], contexts["ours"], target).body == body
        head = ask(nodes[0], contexts["ours"], target, "HEAD")
        assert (head.status, head.header("Content-Length")) == (200, str(len(body)))
        for which in ("theirs", "nobody"):
            with pytest.raises((OSError, http1.ConnectionEnded)):
                ask(nodes[0], contexts[which], target)
        for method, path in (("GET", "/v2/"), ("PUT", target[:-1]), ("GET", target[:-1]), ("GET", "/blobs/sha256:00"),
                             ("GET", "/blobs/sha256/../../lock"), ("GET", target.replace("256/", "256:", 1)),
                             ("DELETE", target)):
            assert ask(nodes[0], contexts["ours"], path, method).status == 404, path
        # What it is asked to keep has to be what its name says, and for a node that it knows.
        assert ask(nodes[0], contexts["ours"], target, "PUT").status == 400
        for query, status in (("", 400), ("?node=1&of=../x&to=1", 400), ("?node=x&of=-&to=1", 400), ("?node=9&of=-&to=1", 409)):
            assert ask(nodes[0], contexts["ours"], "/copies" + query, "POST").status == status, query
        for path in ("/copies/-?from=0&to=1", "/copies/" + "0" * 48 + "." + "0" * 16 + "?from=0&to=1"):
            assert ask(nodes[0], contexts["ours"], path).status == 404, path


@pytest.mark.parametrize("tls", [None, {"certificates": ["node"]},
                                 {"certificates": ["node"], "client_auth": "optional", "client_ca": "cluster"}])
def test_an_open_door_is_refused(tmp_path, tls):
    """The configuration does not have an address for peers that asks nobody."""
    node = Replica(Authority(tmp_path), 0, [quiet_port()])
    config = node.config()
    config["listen"][-1] |= {"tls": tls, "allow_all": True}
    if tls is None:
        del config["listen"][-1]["tls"]
    node.config = lambda: config
    node.spawn()
    assert node.process.wait(30) != 0
    node.process = None
    assert "which show certificates" in node.log()
    node.close()
