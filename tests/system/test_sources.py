# SPDX-License-Identifier: Apache-2.0
"""Sources as state: one that is put behind a prefix on one node is pulled through on every node of the cluster; each says
what it lacks for that."""

import base64
import hashlib
import http.server
import json
import signal
import threading

import pytest

import harness
import http1
import netlab
from cluster_lab import Cluster
from harness import Repository
from test_cluster_blobs import Inside
from tls_files import Authority

pytestmark = netlab.needed

WAIT_S = 120
PORT = 5600


class Upstream:
    """A registry for reading, on a host of the lab, that lets in who shows robot's password."""

    def __init__(self, host):
        self.content, self.asked = {}, []
        self.url = f"{host.v4}:{PORT}"
        shown = "Basic " + base64.b64encode(b"robot:secret").decode()
        upstream = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                upstream.asked.append((self.command, self.path))
                kind, body = upstream.content.get(self.path, ("application/json", b"{}"))
                found = self.path in upstream.content or self.path == "/v2/"
                known = self.headers.get("Authorization") == shown
                self.send_response(401 if not known else 200 if found else 404)
                if not known:
                    self.send_header("WWW-Authenticate", 'Basic realm="tests"')
                elif found:
                    self.send_header("Docker-Content-Digest", harness.digest_of(body))
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass
        self.server = netlab.in_namespace(
            host.netns, lambda: http.server.ThreadingHTTPServer((host.v4, PORT), Handler))
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def put(self, repo, tag, layer):
        """An image of one layer; what its manifest is."""
        config = b"{}"
        manifest = harness.image_manifest(harness.digest_of(config), len(config), [(harness.digest_of(layer), len(layer))])
        body = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
        for data in (config, layer):
            self.content[f"/v2/{repo}/blobs/{harness.digest_of(data)}"] = ("application/octet-stream", data)
        for reference in (tag, harness.digest_of(body)):
            self.content[f"/v2/{repo}/manifests/{reference}"] = (harness.IMAGE_TYPE, body)
        return body

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def configure(node, credentials, **more):
    """Its file says whose password a name means, if it does."""
    secret = node.folder / "robot.password"
    secret.write_text("secret\n")
    secret.chmod(0o600)
    sections = dict(more)
    if credentials:
        sections["credentials"] = {"robot": {"user": "robot", "password_file": str(secret)}}
    node.more = "".join(f"{name}: {json.dumps(value)}\n" for name, value in sections.items())


def reload(node, credentials, **more):
    configure(node, credentials, **more)
    node.write_config()
    node.process.send_signal(signal.SIGHUP)


def sources(node):
    done = node.cli("source", "ls", "--json", check=False)
    rows = json.loads(done.stdout)["sources"] if done.returncode == 0 else []
    return {row["prefix"]: row for row in rows}


def events(node, kind):
    """Of this node itself, as it has them."""
    lines = node.cli("events", "--limit", "200", "--json").stdout.splitlines()
    rows = [event for line in lines for event in (lambda said: said.get("events", [said]))(json.loads(line))]
    return [event for event in rows if event["kind"] == kind]


def pull(node, name, tag, body, layer):
    repo = Repository(Inside(node), name)
    answer = repo.manifest(tag)
    return (answer.status, answer.body) == (200, body) and repo.blob(harness.digest_of(layer)).body == layer


@pytest.fixture(scope="module", name="lab")
def the_lab():
    with Cluster("a", "b", "c") as cluster:
        for name in "abc":
            cluster.prepare(name)
        first = cluster["a"]
        for name in "abc":
            node = cluster[name]
            node.folder.mkdir(exist_ok=True)
            configure(node, credentials=name != "c")
            node.start()
            if name != "a":
                node.join(first, first.token())
        assert cluster.wait_until_whole(), cluster.report()
        assert http1.wait_until(lambda: json.loads(first.cli("cluster", "show", "--json").stdout)["cluster"]["version"] >= 4,
                                WAIT_S), cluster.report()
        upstream = Upstream(cluster.lab["a"])
        try:
            yield cluster, upstream
        finally:
            upstream.close()


def test_set_here_pulled_through_there(lab):
    """And where the name of the credentials means nothing, that is said, until it does."""
    cluster, upstream = lab
    a, b, c = (cluster[name] for name in "abc")
    images = {tag: upstream.put("library/app", tag, hashlib.sha256(tag.encode()).digest() * 1000) for tag in "123456"}
    layer = lambda tag: hashlib.sha256(tag.encode()).digest() * 1000  # noqa: E731
    a.cli("source", "set", "hub/", f"backends={upstream.url}", "upstream=library/", "credentials=robot")
    assert http1.wait_until(lambda: all("hub/" in sources(node) for node in (a, b, c)), WAIT_S), cluster.report()
    for node, tag in ((a, "1"), (b, "2")):
        assert sources(node)["hub/"]["problem"] == "" and sources(node)["hub/"]["origin"] == "api"
        assert http1.wait_until(lambda n=node, t=tag: pull(n, "hub/app", t, images[t], layer(t)), WAIT_S), node.log()
    # The third one lacks the credentials.
    assert "has no credentials 'robot'" in sources(c)["hub/"]["problem"]
    assert http1.wait_until(lambda: events(c, "source.problem"), WAIT_S), c.log()
    assert "hub/: this node's configuration has no credentials 'robot'" in events(c, "source.problem")[0]["text"]
    assert not events(a, "source.problem")
    answer = Repository(Inside(c), "hub/app").manifest("3")
    assert answer.status == 502 and b"credentials" in answer.body, answer
    done = c.cli("source", "test", "hub/app:3", check=False)
    assert done.returncode == 1 and "has no credentials 'robot'" in done.stderr, done
    reload(c, credentials=True)
    assert http1.wait_until(lambda: sources(c)["hub/"]["state"] == "ok" and events(c, "source.recovered"), WAIT_S), c.log()
    assert http1.wait_until(lambda: pull(c, "hub/app", "3", images["3"], layer("3")), WAIT_S), c.log()
    done = c.cli("source", "test", "hub/app:4")
    assert f"library/app 4: {harness.digest_of(images['4'])}" in done.stdout and "as robot" in done.stdout, done.stdout
    assert "is a registry, and lets this node in as robot" in b.cli("source", "test", "hub/").stdout
    done = b.cli("source", "test", "hub/none:1", check=False)
    assert done.returncode == 1 and "has no library/none 1" in done.stderr
    (event,) = events(b, "source.set")
    assert (event["actor"], event["source"], event["node"], event["repo"]) == ("root", "control-socket", "a", "hub/")


def test_changed_by_a_file(lab):
    """Shown as a difference first; what a configuration file says is the file's."""
    cluster, upstream = lab
    a, b, c = (cluster[name] for name in "abc")
    reload(c, credentials=True)
    body = upstream.put("other/app", "1", b"other layer")
    a.cli("source", "set", "hub/", f"backends={upstream.url}", "upstream=library/", "credentials=robot")
    assert http1.wait_until(lambda: "hub/" in sources(b), WAIT_S)
    wanted = {"prefix": "hub/", "backends": [upstream.url], "upstream": "other/", "credentials": "robot"}
    path = b.folder / "changes.yaml"
    path.write_text(json.dumps({"sources": [wanted, {"prefix": "more/", "service": "later"}]}))
    shown = b.cli("apply", "-f", path, "--dry-run").stdout
    assert "~ source hub/" in shown and "upstream: library/ -> other/" in shown and "+ source more/" in shown, shown
    assert sources(b)["hub/"]["upstream"] == "library/" and "more/" not in sources(b)
    b.cli("apply", "-f", path)
    assert http1.wait_until(lambda: pull(c, "hub/app", "1", body, b"other layer"), WAIT_S), c.log()
    assert "no service 'later'" in sources(c)["more/"]["problem"]
    assert http1.wait_until(lambda: "nothing to do" in a.cli("apply", "-f", path, "--dry-run").stdout, WAIT_S), a.log()
    path.write_text(json.dumps({"sources": [wanted]}))
    b.cli("apply", "-f", path, "--prune")
    assert http1.wait_until(lambda: "more/" not in sources(a), WAIT_S)
    reload(a, True, sources=[{"prefix": "mine/", "backends": upstream.url, "upstream": "other/", "credentials": "robot"}])
    assert http1.wait_until(lambda: pull(c, "mine/app", "1", body, b"other layer"), WAIT_S), c.log()
    assert sources(c)["mine/"]["origin"] == "file"
    # Unless somebody insists: the node may be gone. The node itself is told to look into its file.
    for node, options in ((c, []), (a, ["--force"])):
        done = node.cli("source", "rm", "mine/", "--yes", *options, check=False)
        assert done.returncode == 1 and "the source of 'mine/' is set in the configuration file" in done.stderr
    c.cli("source", "rm", "mine/", "--yes", "--force")
    assert http1.wait_until(lambda: all("mine/" not in sources(node) for node in (b, c)), WAIT_S), cluster.report()
    reload(a, True)
    assert http1.wait_until(lambda: all("mine/" not in sources(node) for node in (a, b, c)), WAIT_S), cluster.report()


def test_a_ca_of_a_reload(lab):
    """Known from then on to the sources of this node, and until the next reload takes it away."""
    cluster, upstream = lab
    a, b = cluster["a"], cluster["b"]
    lacks = lambda node: "has no CA 'late'" in sources(node)["safe/"]["problem"]  # noqa: E731
    a.cli("source", "set", "safe/", f"backends={upstream.url}", "tls=true", "ca=late")
    assert http1.wait_until(lambda: "safe/" in sources(b), WAIT_S), cluster.report()
    assert lacks(a) and lacks(b)
    reload(a, True, certificates={"late": {"ca": str(Authority(a.folder).cert)}})
    assert http1.wait_until(lambda: sources(a)["safe/"]["problem"] == "", WAIT_S), a.log()
    assert lacks(b)
    reload(a, True)
    assert http1.wait_until(lambda: lacks(a), WAIT_S), a.log()
    a.cli("source", "rm", "safe/", "--yes")


def test_kept_and_removed(lab):
    """Over a snapshot and a restart; what came from there stays when it is removed."""
    cluster, upstream = lab
    a, b, c = (cluster[name] for name in "abc")
    reload(c, credentials=True)
    body = upstream.put("library/kept", "1", b"kept layer")
    upstream.put("library/kept", "2", b"never asked for")
    a.cli("source", "set", "kept/", f"backends={upstream.url}", "upstream=library/", "credentials=robot")
    assert http1.wait_until(lambda: pull(b, "kept/kept", "1", body, b"kept layer"), WAIT_S), b.log()
    assert http1.wait_until(lambda: sources(c).get("kept/", {}).get("state") == "ok", WAIT_S), c.log()
    before = sources(c)["kept/"]
    c.kill()
    c.start()
    assert http1.wait_until(lambda: sources(c).get("kept/") == before, WAIT_S), c.log()
    assert http1.wait_until(lambda: pull(c, "kept/kept", "1", body, b"kept layer"), WAIT_S), c.log()
    asked = len(upstream.asked)
    done = c.cli("source", "rm", "kept/", "--yes")
    assert "what came from there stays, and is served: " in done.stdout and "(tags: 1)" in done.stdout, done.stdout
    assert http1.wait_until(lambda: all("kept/" not in sources(node) for node in (a, b, c)), WAIT_S)
    assert pull(b, "kept/kept", "1", body, b"kept layer") and pull(c, "kept/kept", "1", body, b"kept layer")
    assert Repository(Inside(b), "kept/kept").manifest("2").status == 404
    assert len(upstream.asked) == asked
