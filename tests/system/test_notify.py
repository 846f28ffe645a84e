# SPDX-License-Identifier: Apache-2.0
"""Webhooks: a real receiver that is down, slow, or answers errors is told of every push and deletion at least once, in
order. And retention, whose deletions it is told of."""

import http.server
import json
import signal
import ssl
import threading
import uuid

import pytest

import harness
import http1
from test_policy import cli, policy, push_tag, version
from tls_files import Authority

pytestmark = pytest.mark.skipif(harness.KIND != "fairlead", reason="tests Fairlead's own webhooks")

SECRET = "Bearer this-is-a-secret"
WAIT_S = 90


class Receiver:
    """What it was told, in order; `answers` are the next statuses (then 200), `slow` holds an answer back."""

    def __init__(self, port=0, certificate=None):
        self.events, self.requests, self.answers, self.slow = [], [], [], threading.Event()
        self.slow.set()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                receiver.requests.append(dict(self.headers.items()))
                receiver.slow.wait(WAIT_S)
                status = receiver.answers.pop(0) if receiver.answers else 200
                if status == 200:
                    receiver.events += body["events"]
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate["cert"], certificate["key"])
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()

    def close(self):
        self.slow.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def of(self, repo):
        return [(event["action"], event["target"].get("tag")) for event in self.events
                if event["target"]["repository"] == repo]

    def wait_for(self, repo, wanted):
        assert http1.wait_until(lambda: self.of(repo) == wanted, WAIT_S), (self.of(repo), wanted)


@pytest.fixture(scope="module")
def node():
    instance = harness.new_registry(settings={"registry.retention_interval": "1s"})
    try:
        instance.start()
        assert http1.wait_until(lambda: version(instance) >= 3, 60)
        yield instance
    finally:
        instance.close()


@pytest.fixture
def receiver():
    instance = Receiver()
    yield instance
    instance.close()


def hook(node, name, receiver, *fields):
    cli(node, "notify", "set", name, f"url=http://127.0.0.1:{receiver.port}/hook?key=hidden", *fields)


def listed(node, name):
    (row,) = [row for row in json.loads(cli(node, "notify", "ls", "--json"))["endpoints"] if row["name"] == name]
    return row


def waiting(node):
    return json.loads(cli(node, "notify", "ls", "--json"))["waiting"]


def test_the_envelope_and_the_filters(node, receiver):
    token = node.folder / "token"
    token.write_text(SECRET + "\n")
    hook(node, "all", receiver, "prefix=one", f"header.Authorization=@{token}")
    hook(node, "manifests", receiver, "prefix=two", "actions=push", "media_types=*manifest*")
    assert "answered 200" in cli(node, "notify", "test", "all")
    repo = node.repository("one/app")
    digest, _ = push_tag(repo, "v1", b"layer")
    push_tag(node.repository("ones/app"), "v1", b"layer")
    push_tag(node.repository("two/app"), "v1", b"layer")
    assert repo.exchange("DELETE", "manifests/v1").status == 202
    receiver.wait_for("one/app", [("push", None), ("push", None), ("push", "v1"), ("delete", "v1")])
    receiver.wait_for("two/app", [("push", "v1")])
    assert not receiver.of("ones/app")
    (event,) = [event for event in receiver.events if event["target"].get("digest") == digest
                and event["target"]["repository"] == "one/app"]
    assert event["target"]["mediaType"] == harness.IMAGE_TYPE and event["target"]["size"] > 0
    assert event["request"]["method"] == "PUT" and event["request"]["addr"].startswith("127.0.0.1")
    assert event["actor"] == {"name": "anonymous"} and uuid.UUID(event["id"]) and len(event["source"]["instanceID"]) == 32
    ids = [event["id"] for event in receiver.events]
    assert len(set(ids)) == len(ids)
    heads = [head for head in receiver.requests if head.get("Authorization") == SECRET]
    assert heads and heads[0]["Content-Type"] == "application/vnd.docker.distribution.events.v2+json"
    shown = [cli(node, "notify", "ls"), cli(node, "notify", "ls", "--json"), cli(node, "events", "--limit", "100"),
             node.log()]
    assert not any(secret in text for text in shown for secret in ("this-is-a-secret", "hidden", "/hook"))
    assert listed(node, "all")["url"] == f"http://127.0.0.1:{receiver.port}/..."
    assert listed(node, "all")["headers"] == ["Authorization"]
    assert http1.wait_until(lambda: waiting(node) == 0, WAIT_S)
    for name in ("all", "manifests"):
        cli(node, "notify", "rm", name, "--yes")


def test_a_receiver_that_is_down_misses_nothing(node):
    """Down, then killed node, then errors, then slow: everything comes, in order, and little of it twice."""
    gone = Receiver()
    port = gone.port
    hook(node, "ci", gone, "prefix=down", "actions=push,delete", "media_types=*manifest*")
    gone.close()
    repo = node.repository("down/app")
    tags = [f"t{i}" for i in range(5)]
    for tag in tags:
        push_tag(repo, tag, tag.encode())
    assert http1.wait_until(lambda: listed(node, "ci").get("state") == "failing", WAIT_S)
    assert "notify.failing" in cli(node, "events", "--limit", "100")
    node.restart("kill")
    assert http1.wait_until(lambda: waiting(node) == len(tags), WAIT_S)
    back = Receiver(port)
    try:
        back.answers = [500, 503]
        back.wait_for("down/app", [("push", tag) for tag in tags])
        assert http1.wait_until(lambda: listed(node, "ci")["state"] == "ok" and waiting(node) == 0, WAIT_S)
        back.slow.clear()
        more = [f"s{i}" for i in range(3)]
        for tag in more:
            push_tag(repo, tag, tag.encode())
        assert http1.wait_until(lambda: len(back.requests) >= 4, WAIT_S)
        assert json.loads(cli(node, "status", "--json"))
        back.slow.set()
        back.wait_for("down/app", [("push", tag) for tag in tags + more])
    finally:
        cli(node, "notify", "rm", "ci", "--yes")
        back.close()


def pulls_of(receiver, repo):
    return [(event["request"]["method"], event["target"]["mediaType"], event["target"].get("tag"))
            for event in receiver.events if event["action"] == "pull" and event["target"]["repository"] == repo]


def test_pulls_are_told_to_who_asks_for_them(node, receiver):
    """Of the pulls, those that each endpoint wants; a receiver that was down gets what was pulled before a kill -9."""
    assert http1.wait_until(lambda: version(node) >= 4, 60)
    hook(node, "all", receiver, "prefix=pulled", "actions=pull")
    hook(node, "some", receiver, "prefix=counted", "actions=pull", "ignore=head,blob")
    hook(node, "old", receiver, "prefix=pulled")
    blob, octets = b"a layer that is pulled", "application/octet-stream"
    repo, counted = node.repository("pulled/app"), node.repository("counted/app")
    digest, _ = push_tag(repo, "v1", blob)
    push_tag(counted, "v1", blob)
    receiver.wait_for("pulled/app", [("push", None), ("push", None), ("push", "v1")])
    for one in (repo, counted):
        one.manifest("v1", method="HEAD")
        assert one.manifest(digest).status == 200
        assert one.blob(harness.digest_of(blob)).body == blob
        assert one.blob(harness.digest_of(blob), headers={"Range": "bytes=1-2", "User-Agent": "lazy/1"}).status == 206
        assert one.manifest("v2").status == 404
    image = harness.IMAGE_TYPE
    wanted = sorted([("HEAD", image, "v1"), ("GET", image, None), ("GET", octets, None), ("GET", octets, None)], key=str)
    assert http1.wait_until(lambda: sorted(pulls_of(receiver, "pulled/app"), key=str) == wanted, WAIT_S), receiver.events
    assert http1.wait_until(lambda: pulls_of(receiver, "counted/app") == [("GET", image, None)], WAIT_S), receiver.events
    (lazy,) = [event for event in receiver.events if event["request"].get("useragent") == "lazy/1"
               and event["target"]["repository"] == "pulled/app"]
    assert lazy["target"]["size"] == len(blob) and lazy["target"]["digest"] == harness.digest_of(blob)
    assert lazy["request"]["addr"].startswith("127.0.0.1") and lazy["request"]["host"] == node.host
    assert lazy["target"]["url"] == f"http://{node.host}/v2/pulled/app/blobs/{harness.digest_of(blob)}"
    assert uuid.UUID(lazy["id"]) and lazy["actor"] == {"name": "anonymous"}
    port = receiver.port
    receiver.close()
    assert repo.manifest("v1").status == 200
    assert http1.wait_until(lambda: listed(node, "all")["pulls"]["waiting"] == 1, WAIT_S), listed(node, "all")
    node.restart("kill")
    back = Receiver(port)
    try:
        assert http1.wait_until(lambda: pulls_of(back, "pulled/app") == [("GET", image, "v1")], WAIT_S), back.events
        assert http1.wait_until(lambda: listed(node, "all")["pulls"]["waiting"] == 0, WAIT_S)
        assert "pulls" not in listed(node, "old") and listed(node, "some")["ignore"] == ["head", "blob"]
    finally:
        back.close()
        for name in ("all", "some", "old"):
            cli(node, "notify", "rm", name, "--yes")
    assert http1.wait_until(lambda: not list((node.folder / "state" / "notify").iterdir()), WAIT_S)


def test_credentials_stay_on_the_node(node, receiver):
    """The log has their name alone; the node that sends has the file."""
    secret = node.folder / "password"
    secret.write_text("s3cret-of-a-file\n")
    secret.chmod(0o600)
    hook(node, "named", receiver, "credentials=ci", "actions=delete", "header.Authorization=Bearer {password}")
    assert "no credentials 'ci'" in cli(node, "notify", "test", "named", code=1)
    (node.folder / "config.yaml").write_text(json.dumps({
        **node.config(), "credentials": {"ci": {"user": "robot", "password_file": str(secret)}}}))
    node.process.send_signal(signal.SIGHUP)
    assert http1.wait_until(lambda: "was read again" in node.log(), WAIT_S)
    assert "answered 200" in cli(node, "notify", "test", "named")
    assert receiver.requests[-1]["Authorization"] == "Bearer s3cret-of-a-file"
    log = b"".join(path.read_bytes() for path in (node.state / "raft").iterdir() if path.is_file())
    assert b"Bearer {password}" in log and b"s3cret-of-a-file" not in log
    assert listed(node, "named")["credentials"] == "ci"
    cli(node, "notify", "rm", "named", "--yes")


def test_what_cannot_be_is_said(node):
    assert "url:" in cli(node, "notify", "set", "x", "url=ftp://a/", code=1)
    assert "actions:" in cli(node, "notify", "set", "x", "url=http://a/", "actions=shout", code=1)
    assert "headers:" in cli(node, "notify", "set", "x", "url=http://a/", "header.Host=b", code=1)
    assert "no endpoint 'x'" in cli(node, "notify", "test", "x", code=1)
    port = harness.free_port()
    cli(node, "notify", "set", "x", f"url=http://127.0.0.1:{port}/")
    assert cli(node, "notify", "test", "x", code=1)
    cli(node, "notify", "rm", "x", "--yes")


def test_a_receiver_with_an_authority_of_its_own(node):
    theirs, others = (Authority(node.folder / name) for name in ("theirs", "others"))
    receiver = Receiver(certificate=theirs.issue("hook", "127.0.0.1"))
    try:
        cli(node, "notify", "set", "tls", f"url=https://127.0.0.1:{receiver.port}/", "prefix=tls", "actions=push",
            "media_types=*manifest*")
        assert listed(node, "tls")["ca"] == "system"
        assert "certificate" in cli(node, "notify", "test", "tls", code=1)
        cli(node, "notify", "set", "tls", f"ca=@{others.cert}")
        assert "certificate" in cli(node, "notify", "test", "tls", code=1)
        cli(node, "notify", "set", "tls", f"ca=@{theirs.cert}")
        assert "answered 200" in cli(node, "notify", "test", "tls")
        assert listed(node, "tls")["ca"] == "own"
        cli(node, "notify", "set", "tls", "actions=push,delete")  # what is not said stays
        node.restart("kill")
        push_tag(node.repository("tls/app"), "v1", b"layer")
        receiver.wait_for("tls/app", [("push", "v1")])
        cli(node, "notify", "set", "tls", "ca=")
        assert "certificate" in cli(node, "notify", "test", "tls", code=1)
        assert "ca:" in cli(node, "notify", "set", "tls", f"ca=@{theirs.key}", code=1)
        assert "ca=@" in cli(node, "notify", "set", "tls", f"ca={theirs.cert}", code=2)
    finally:
        cli(node, "notify", "rm", "tls", "--yes")
        receiver.close()


def test_retention_lets_old_tags_go_and_tells(node, receiver):
    repo = node.repository("old/app")
    hook(node, "r", receiver, "prefix=old", "actions=delete")
    for tag in ("keep1", "v1", "a", "b", "c", "d"):
        push_tag(repo, tag, tag.encode())
    fields = ("retention.keep_last=2", "immutable=keep*")
    policy(node, "old", "read_only=true", *fields)
    assert not json.loads(cli(node, "policy", "retention", "--json"))["tags"]
    policy(node, "old", "read_only=false")
    assert http1.wait_until(lambda: repo.tags().json()["tags"] == ["c", "d", "keep1"], WAIT_S), repo.tags().json()
    receiver.wait_for("old/app", [("delete", tag) for tag in ("a", "b", "v1")])
    assert "tags.expire" in cli(node, "events", "--limit", "100")
    cli(node, "set", "registry.retention_interval", "7d")
    push_tag(repo, "e", b"e")
    rows = json.loads(cli(node, "policy", "retention", "--dry-run", "--json"))
    assert [(row["repo"], row["tag"]) for row in rows["tags"]] == [("old/app", "c")] and not rows["more"]
    assert "c" in repo.tags().json()["tags"]
    cli(node, "notify", "rm", "r", "--yes")
