# SPDX-License-Identifier: Apache-2.0
"""Mirroring between a node and docker-registry: what is there is copied with all that belongs to it, once, and not again;
through a peer that stops, lies, or wants to know who asks."""

import base64
import http.server
import json
import os
import signal
import socket
import subprocess
import threading
import urllib.parse

import pytest

import harness
import http1
import netlab
from cluster_lab import Cluster
from test_cluster_blobs import Inside
from test_policy import version

pytestmark = pytest.mark.skipif(harness.KIND != "fairlead", reason="tests Fairlead's own mirroring")

WAIT_S = 120
SIG_TYPE = "application/vnd.dev.example.signature.v1+json"


class Middle:
    """Stands before a registry: counts what passes, wants a token if told, cuts blobs, holds them back, and lies."""

    def __init__(self, upstream):
        self.upstream, self.requests, self.sent = upstream, [], {}
        self.password, self.cut, self.hold, self.lie, self.down = None, {}, {}, set(), False
        self.released = threading.Event()
        self.lock = threading.Lock()
        middle = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self):
                if middle.down:
                    self.close_connection = True
                    return
                super().handle_one_request()

            def answer(self, status, headers, body=b""):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def token(self):
                said = self.headers.get("Authorization", "")
                if said != "Basic " + base64.b64encode(middle.password.encode()).decode():
                    return self.answer(401, {"Content-Length": "0"})
                scope = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)["scope"][0]
                body = json.dumps({"token": base64.b64encode(scope.encode()).decode(), "expires_in": 300}).encode()
                return self.answer(200, {"Content-Length": str(len(body)), "Content-Type": "application/json"}, body)

            def may(self):
                """The token is the scope that was asked for."""
                said = self.headers.get("Authorization", "").removeprefix("Bearer ")
                repo = self.path.partition("/v2/")[2].partition("/blobs")[0].partition("/manifests")[0].partition(
                    "/tags")[0].partition("/referrers")[0]
                scope = f"repository:{repo}:pull"
                if base64.b64decode(said or "").decode().startswith(scope):
                    return True
                self.answer(401, {"Content-Length": "0", "WWW-Authenticate":
                                  f'Bearer realm="http://127.0.0.1:{middle.port}/token",service="s",scope="{scope}"'})
                return False

            def go(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with middle.lock:
                    middle.requests.append((self.command, self.path))
                if self.path.startswith("/token"):
                    return self.token()
                if middle.password and not self.may():
                    return None
                headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection", "authorization")}
                got = http1.Client(middle.upstream, timeout_s=WAIT_S).exchange(self.command, self.path, body or None, headers)
                out = {k: v for k, v in got.headers.pairs if k.lower() not in ("connection", "transfer-encoding", "date")}
                return self.pass_on(got, out)

            def pass_on(self, got, out):
                digest = self.path.rpartition("/")[2]
                data = got.body
                if self.command == "GET" and "/blobs/sha256:" in self.path:
                    if digest in middle.lie and data:
                        data = bytes([data[0] ^ 1]) + data[1:]
                    limit = middle.cut.get(digest)
                    if limit is not None and len(data) > limit:
                        middle.cut[digest] = None
                        data = data[:limit]
                        self.close_connection = True
                    with middle.lock:
                        middle.sent[digest] = middle.sent.get(digest, 0) + len(data)
                    if digest in middle.hold:
                        self.answer(got.status, out, data[:middle.hold.pop(digest)])
                        middle.released.wait(WAIT_S)
                        self.close_connection = True
                        return None
                return self.answer(got.status, out, b"" if self.command == "HEAD" else data)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = go

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()

    def close(self):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture(scope="module")
def node():
    instance = harness.new_registry()
    try:
        instance.start()
        assert http1.wait_until(lambda: version(instance) >= 3, 60)
        yield instance
    finally:
        instance.close()


@pytest.fixture(scope="module")
def peer():
    instance = harness.DockerRegistry()
    try:
        yield instance.start()
    finally:
        instance.close()


@pytest.fixture
def middle(peer):
    instance = Middle(peer.address)
    yield instance
    instance.close()


def tool(node, *words):
    return subprocess.run([str(harness.BUILD / "fairlead"), "--socket", str(node.socket_path), *map(str, words)],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=WAIT_S,
                          check=False)


def cli(node, *words):
    done = tool(node, *words)
    assert done.returncode == 0, done.stdout
    return done.stdout


def status(node, name):
    return json.loads(tool(node, "mirror", "status", name, "--json").stdout)


def run(node, name, *words):
    """One run; what it did."""
    done = tool(node, "mirror", "run", name, "--json", *words)
    return json.loads(done.stdout)["run"]


def push_set(repo, seed):
    """Two tags, an index with two images, and what signs them, by subject and by cosign's tag."""
    random = harness.randomness("mirror", seed)
    layer = random.randbytes(100_000)
    first, _ = repo.push_image("v1", layer)
    second, body = repo.push_image("v2", layer, random.randbytes(1000))
    config = repo.push_blob(b"{}")
    index = {"schemaVersion": 2, "mediaType": harness.INDEX_TYPE, "manifests": [
        {"mediaType": harness.IMAGE_TYPE, "digest": digest, "size": len(body),
         "platform": {"architecture": arch, "os": "linux"}} for digest, arch in ((first, "amd64"), (second, "arm64"))]}
    whole = repo.push_manifest("multi", index)
    sig = {"schemaVersion": 2, "mediaType": harness.IMAGE_TYPE, "artifactType": SIG_TYPE,
           "config": {"mediaType": harness.EMPTY_TYPE, "digest": config, "size": 2}, "layers": [],
           "subject": {"mediaType": harness.IMAGE_TYPE, "digest": first, "size": len(body)}}
    signature = repo.push_manifest(harness.digest_of(json.dumps(sig).encode()), sig)
    cosign, _ = repo.push_image(whole.replace(":", "-") + ".sig", b"cosign")
    repo.push_image("other", b"what nobody wants")
    return {"v1": first, "v2": second, "multi": whole, whole.replace(":", "-") + ".sig": cosign}, first, signature


def tags_of(repo):
    answer = repo.tags()
    return sorted(json.loads(answer.body)["tags"] or []) if answer.status == 200 else []


def has(repo, wanted):
    return all(harness.digest_of(repo.manifest(tag).body) == digest for tag, digest in wanted.items())


def test_pull(node, peer, middle):
    """From a registry that wants tokens, with a fall-back tag of referrers; the second run moves nothing."""
    source = peer.repository("team/app")
    wanted, first, signature = push_set(source, "pull")
    source.push_manifest(first.replace(":", "-"), {
        "schemaVersion": 2, "mediaType": harness.INDEX_TYPE,
        "manifests": [{"mediaType": harness.IMAGE_TYPE, "digest": signature, "artifactType": SIG_TYPE,
                       "size": len(source.manifest(signature).body)}]})
    middle.password = "robot:secret"
    secret = node.folder / "credentials"
    secret.write_text("robot:wrong\n")
    cli(node, "mirror", "set", "in", f"url={middle.url}", "repos=team/app", "tags=v*,multi", "prefix=copies",
        f"credentials={secret}")
    secret.chmod(0o640)
    assert "others may read" in run(node, "in")["error"]
    secret.chmod(0o600)
    assert "401" in run(node, "in")["error"]
    secret.write_text("robot:secret\n")
    dry = run(node, "in", "--dry-run")
    assert sorted(tag["tag"] for tag in dry["tags"]) == sorted(wanted) and not dry["error"]
    copy = node.repository("copies/team/app")
    assert tags_of(copy) == []
    done = run(node, "in")
    assert not done["error"] and done["counts"]["copied"] == len(wanted), done
    assert tags_of(copy) == sorted(wanted) and has(copy, wanted)
    listed = json.loads(copy.referrers(first).body)["manifests"]
    assert [(row["digest"], row["artifactType"]) for row in listed] == [(signature, SIG_TYPE)]
    seen = len(middle.requests)
    again = run(node, "in")
    assert again["counts"]["copied"] == again["counts"]["bytes"] == 0 and not again["error"]
    assert not [path for method, path in middle.requests[seen:] if "/blobs/" in path]
    assert 'fairlead_mirror_failures_total{mirror="in"} 2' in cli(node, "metrics")
    shown = cli(node, "mirror", "ls") + cli(node, "events", "--limit", "200") + node.log()
    assert "secret" not in shown and "mirror.copied" in shown
    cli(node, "mirror", "rm", "in", "--yes")


def test_what_refers_to_the_images_of_an_index(node, peer):
    """Of an index that has not changed: a list of referrers and a tag of cosign that an image of it has got since."""
    source, copy = peer.repository("below/app"), node.repository("copies/below/app")
    _, first, signature = push_set(source, "below")
    cli(node, "mirror", "set", "below", f"url=http://{peer.host}", "repos=below/app", "tags=multi", "prefix=copies")
    assert not run(node, "below")["error"]
    assert json.loads(copy.referrers(first).body)["manifests"] == []
    source.push_manifest(first.replace(":", "-"), {
        "schemaVersion": 2, "mediaType": harness.INDEX_TYPE,
        "manifests": [{"mediaType": harness.IMAGE_TYPE, "digest": signature, "artifactType": SIG_TYPE,
                       "size": len(source.manifest(signature).body)}]})
    signed = first.replace(":", "-") + ".sig"
    cosign, _ = source.push_image(signed, b"cosign of an image")
    done = run(node, "below")
    assert not done["error"] and done["counts"]["copied"] == 2, done
    assert [row["digest"] for row in json.loads(copy.referrers(first).body)["manifests"]] == [signature]
    assert has(copy, {signed: cosign})
    assert run(node, "below")["counts"]["copied"] == 0
    cli(node, "mirror", "rm", "below", "--yes")


def test_push_by_schedule_and_event(node, peer, middle):
    """To a registry without lists of referrers: it gets the fall-back tag. It is down for a while; then each push follows."""
    source = node.repository("out/app")
    wanted, first, signature = push_set(source, "push")
    middle.down = True
    cli(node, "mirror", "set", "out", "direction=push", f"url={middle.url}", "repos=out/*", "strip=out", "prefix=from/here",
        "tags=~^(v[0-9]+|multi)$", "every=5s", "on_event=true")
    assert http1.wait_until(lambda: status(node, "out")["state"] == "failing", WAIT_S)
    middle.down = False
    copy = peer.repository("from/here/app")
    tool(node, "mirror", "run", "out")  # or it goes on by itself before that
    assert http1.wait_until(lambda: status(node, "out")["state"] == "ok", WAIT_S)
    assert tags_of(copy) == sorted([*wanted, first.replace(":", "-")]) and has(copy, wanted)
    listed = json.loads(copy.manifest(first.replace(":", "-")).body)["manifests"]
    assert [row["digest"] for row in listed] == [signature]
    cli(node, "mirror", "set", "out", "every=")
    assert http1.wait_until(lambda: status(node, "out")["state"] == "ok", WAIT_S)
    digest, _ = source.push_image("v3", b"new")
    assert http1.wait_until(lambda: copy.manifest("v3").status == 200 and
                            harness.digest_of(copy.manifest("v3").body) == digest, WAIT_S)
    assert status(node, "out")["run"]["whole"] is False
    cli(node, "mirror", "rm", "out", "--yes")


def test_a_source_that_stops_and_lies(node, peer, middle):
    """What has come is not fetched again; what is not the blob is not taken."""
    source = peer.repository("broken/app")
    random = harness.randomness("mirror", "broken")
    large, small = random.randbytes(9 << 20), random.randbytes(5000)
    digest, bad = harness.digest_of(large), harness.digest_of(small)
    good, _ = source.push_image("good", large)
    source.push_image("bad", small)
    middle.cut[digest] = 6 << 20
    middle.lie.add(bad)
    cli(node, "mirror", "set", "broken", f"url={middle.url}", "repos=broken/app")
    done = run(node, "broken")
    copy = node.repository("broken/app")
    assert "are not that blob" in done["error"] and done["counts"]["failed"] == 1, done
    assert tags_of(copy) == ["good"] and has(copy, {"good": good})
    assert len(large) <= middle.sent[digest] < len(large) + (5 << 20)
    assert copy.blob(bad).status == 404
    middle.lie.clear()
    assert not run(node, "broken")["error"]
    assert tags_of(copy) == ["bad", "good"]
    cli(node, "mirror", "rm", "broken", "--yes")


def worker_of(node):
    found = []
    for pid in harness.children_of(node.process.pid):
        try:
            if os.readlink(f"/proc/{pid}/exe").endswith("/fairlead-mirror"):
                found.append(pid)
        except OSError:  # it has ended
            pass
    return found


def test_killed_in_the_middle(node, peer, middle):
    """The process that copies is killed: the next run copies what is not there, the blob that broke off from its beginning."""
    source, copy = peer.repository("killed/app"), node.repository("killed/app")
    large, small = (harness.randomness("mirror", size).randbytes(size) for size in (13 << 20, 70_000))
    digest = harness.digest_of(large)
    wanted = {"one": source.push_image("one", small)[0], "two": source.push_image("two", small, large)[0]}
    middle.hold[digest] = 9 << 20
    cli(node, "mirror", "set", "killed", f"url={middle.url}", "repos=killed/app")
    runner = threading.Thread(target=run, args=(node, "killed"))
    runner.start()
    uploads = node.state / "store" / "uploads"
    others = [harness.digest_of(data) for data in (small, b"{}")]
    assert http1.wait_until(lambda: all(copy.blob(other, "HEAD").status == 200 for other in others) and
                            max((path.stat().st_size for path in uploads.iterdir()), default=0) >= 7 << 20, WAIT_S)
    (worker,) = worker_of(node)
    os.kill(worker, signal.SIGKILL)
    runner.join()
    middle.released.set()
    assert "signal 9" in status(node, "killed")["run"]["error"]
    assert copy.blob(digest).status == 404
    before = dict(middle.sent)
    done = run(node, "killed")
    assert not done["error"] and done["counts"]["bytes"] == len(large), done
    assert {key: sent - before.get(key, 0) for key, sent in middle.sent.items() if sent != before.get(key)} == {digest: len(large)}
    assert has(copy, wanted) and not worker_of(node)
    cli(node, "mirror", "rm", "killed", "--yes")


class Wire:
    """A connection's bytes, both ways. After so many to the registry it is killed, and started again before anybody reaches it."""

    def __init__(self, registry):
        self.registry, self.sent, self.limit, self.kills = registry, 0, None, 0
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self.listener.getsockname()[1]
        self.threads = []
        self.begin(self.accept)

    def begin(self, target, *args):
        thread = threading.Thread(target=target, args=args, daemon=True)
        thread.start()
        self.threads.append(thread)

    def accept(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            with self.lock:  # not while it starts
                registry = socket.create_connection(self.registry.address)
            self.begin(self.pump, client, registry, True)
            self.begin(self.pump, registry, client, False)

    def pump(self, source, target, counts):
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
                if counts:
                    self.count(len(data))
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def count(self, size):
        with self.lock:
            self.sent += size
            if self.limit and self.sent >= self.limit:
                self.limit = None
                self.kills += 1
                self.registry.restart("kill")

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def test_a_large_blob_and_a_destination_that_is_killed(node):
    """In one request; where that breaks off, in another one from the beginning on."""
    large = harness.randomness("mirror", "large").randbytes(40 << 20)
    digest, _ = node.repository("large/app").push_image("v1", large)
    target = harness.DockerRegistry()
    try:
        wire = Wire(target.start())
        wire.limit = 20 << 20
        cli(node, "mirror", "set", "large", "direction=push", f"url={wire.url}", "repos=large/app")
        done = run(node, "large")
        copy = target.repository("large/app")
        assert not done["error"] and wire.kills == 1, done
        assert has(copy, {"v1": digest}) and copy.blob(harness.digest_of(large)).body == large
        assert len(large) + (20 << 20) <= wire.sent < 2 * len(large) + (1 << 20)
        cli(node, "mirror", "set", "large", "prefix=again")
        before = wire.sent
        done = run(node, "large")
        assert not done["error"] and done["counts"]["copied"] == 1, done
        assert wire.sent - before < len(large) + (1 << 20)
        wire.close()
    finally:
        target.close()
    cli(node, "mirror", "rm", "large", "--yes")


def test_a_blob_is_put_once(node, middle):
    """Not in pieces, whatever its size."""
    source = node.repository("once/app")
    digest, _ = source.push_image("v1", harness.randomness("mirror", "once").randbytes(9 << 20))
    cli(node, "mirror", "set", "once", "direction=push", f"url={middle.url}", "repos=once/app")
    assert not run(node, "once")["error"]
    assert sorted(method for method, path in middle.requests if "/blobs/" in path and method != "HEAD") == \
        ["POST", "POST", "PUT", "PUT"], middle.requests
    assert harness.digest_of(http1.Client(middle.upstream).exchange(
        "GET", "/v2/once/app/manifests/v1", None, {"Accept": harness.IMAGE_TYPE}).body) == digest
    cli(node, "mirror", "rm", "once", "--yes")


def test_apply(node):
    path = node.folder / "mirrors.yaml"
    rule = {"name": "filed", "url": "http://127.0.0.1:1", "repos": ["a/*", "b"], "paused": "true"}
    path.write_text(json.dumps({"mirrors": [rule]}))
    assert json.loads(cli(node, "apply", "-f", path, "--dry-run", "--json"))["changes"][0]["action"] == "add"
    cli(node, "apply", "-f", path)
    shown = status(node, "filed")
    assert shown["repos"] == "a/*,b" and shown["state"] == "paused"
    assert json.loads(cli(node, "apply", "-f", path, "--json"))["changes"] == []
    path.write_text(json.dumps({"mirrors": [{**rule, "tags": "~("}]}))
    assert "expression" in tool(node, "apply", "-f", path).stdout
    path.write_text(json.dumps({"mirrors": []}))
    cli(node, "apply", "-f", path, "--prune")
    assert json.loads(cli(node, "mirror", "ls", "--json"))["mirrors"] == []


def test_the_configuration_file(node):
    """As policies: declared at the start and at SIGHUP; what it does not name any more goes, nobody else changes it."""
    def names():
        return {row["name"]: row["origin"] for row in json.loads(cli(node, "mirror", "ls", "--json"))["mirrors"]}

    def configure(*rules):
        path = node.folder / "config.yaml"
        path.write_text(json.dumps({**node.config(), "mirrors": rules}))
        node.process.send_signal(signal.SIGHUP)

    rule = {"name": "filed", "url": "http://127.0.0.1:1", "repos": ["a/*"], "paused": True}
    cli(node, "mirror", "set", "mine", "url=http://127.0.0.1:1", "repos=b", "paused=true")
    configure(rule)
    assert http1.wait_until(lambda: names() == {"filed": "file", "mine": "api"}, WAIT_S), names()
    assert "configuration file" in tool(node, "mirror", "set", "filed", "rate=1MiB").stdout
    for options in ((), ("--force",)):  # which is for what the file of another node has left
        assert "configuration file" in tool(node, "mirror", "rm", "filed", "--yes", *options).stdout
    configure()
    assert http1.wait_until(lambda: names() == {"mine": "api"}, WAIT_S), names()
    cli(node, "mirror", "rm", "mine", "--yes")


def test_what_is_refused(node):
    assert "url:" in tool(node, "mirror", "set", "x", "repos=a").stdout
    assert "expression" in tool(node, "mirror", "set", "x", "url=http://127.0.0.1:1", "repos=a", "tags=~(").stdout
    assert "no field" in tool(node, "mirror", "set", "x", "url=http://127.0.0.1:1", "repos=a", "colour=red").stdout
    assert "no rule" in tool(node, "mirror", "run", "x").stdout


def pushed(node, tag):
    """Also while those that are left come to agree that they are enough."""
    try:
        return harness.Repository(Inside(node), "team/app").push_image(tag, b"two")
    except AssertionError:
        return None


@netlab.needed
@pytest.mark.slow
def test_another_leader_goes_on():
    """Each leader mirrors what its own registry, which is the cluster's, has; the first one dies."""
    with Cluster("a", "b", "c") as cluster:
        cluster.form()
        a = cluster["a"]
        shown = lambda: json.loads(a.cli("cluster", "show", "--json").stdout)["cluster"]["version"]  # noqa: E731
        assert http1.wait_until(lambda: shown() >= 3, 60), cluster.report()
        harness.Repository(Inside(a), "team/app").push_image("v1", b"one")
        cluster["b"].cli("mirror", "set", "self", "url=http://127.0.0.1:5000", "repos=team/*", "prefix=copies", "every=5s")
        copy = lambda node, tag: harness.Repository(Inside(node), "copies/team/app").manifest(tag, "HEAD").status  # noqa: E731
        assert http1.wait_until(lambda: copy(cluster["c"], "v1") == 200, WAIT_S), cluster.report()
        cluster.wait_for_leader().kill()
        cluster.wait_for_leader()
        left = cluster.alive()
        assert http1.wait_until(lambda: pushed(left[0], "v2"), WAIT_S), cluster.report()
        assert http1.wait_until(lambda: all(copy(node, "v2") == 200 for node in left), WAIT_S), cluster.report()
        states = lambda: [json.loads(node.cli("mirror", "ls", "--json").stdout)["mirrors"][0]["state"] for node in left]  # noqa: E731
        assert http1.wait_until(lambda: states().count("elsewhere") == 1, WAIT_S), states()
