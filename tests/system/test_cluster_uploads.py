# SPDX-License-Identifier: Apache-2.0
"""A push through any mix of replicas: each request of it comes to another one, as behind a load balancer."""

import hashlib
import json
import os
import pathlib
import shutil
import signal
import tempfile

import pytest

import http1
import netlab
import proxy_rig
from cluster_lab import Cluster
from harness import CONFIG_TYPE, IMAGE_TYPE, LAYER_TYPE, Repository, descriptor, digest_of, image_manifest

pytestmark = netlab.needed

MIB = 1 << 20
LISTEN = "listen:\n  - address: '0.0.0.0:5000'\n    service: registry\n    allow_all: true\n"
FRONT, OTHERS = 5001, (5101, 5102, 5103)


@pytest.fixture(scope="module")
def cluster():
    with Cluster("a", "b", "c", more=LISTEN) as cluster:
        yield cluster.form()


class Node:
    """The registry of one node, asked over the network."""

    def __init__(self, cluster, name):
        self.netns, self.address = cluster["a"].host.netns, (cluster[name].host.v4, 5000)

    def connect(self):
        return netlab.in_namespace(self.netns, lambda: http1.Connection(self.address, timeout_s=120))

    def exchange(self, *arguments):
        with self.connect() as connection:
            return connection.exchange(*arguments)

    def repository(self, name="team/app"):
        return Repository(self, name)


def nodes(cluster):
    return [Node(cluster, name) for name in "abc"]


def session(node, repo="team/app"):
    begun = node.repository(repo).start_upload()
    assert begun.status == 202, begun
    location = begun.header("Location")
    assert location.startswith(f"/v2/{repo}/blobs/uploads/")  # so the client stays where it is
    return location


def counter(cluster, name, what):
    """A counter of one node's, as its own host sees it."""
    def ask():
        return http1.Client(("127.0.0.1", 5080)).exchange("GET", "/metrics").body.decode()
    text = netlab.in_namespace(cluster[name].host.netns, ask)
    return sum(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"fairlead_{what} "))


def test_each_request_at_another_replica(cluster):
    a, b, c = nodes(cluster)
    data = [hashlib.sha256(b"%d" % i).digest() * 40_000 for i in range(4)]  # 1.2 MiB each
    whole = b"".join(data)
    before = [counter(cluster, "a", "peer_uploads_total"), *(counter(cluster, n, "uploads_relayed_total") for n in "abc")]
    location = session(a)
    first = b.exchange("PATCH", location, iter([data[0][:100_000], data[0][100_000:]]))  # in chunks
    assert first.status == 202 and first.header("Range") == f"0-{len(data[0]) - 1}", first
    assert first.header("Location") == location
    at = len(data[0])
    ranged = c.exchange("PATCH", location, data[1], {"Content-Range": f"{at}-{at + len(data[1]) - 1}"})
    assert ranged.status == 202, ranged
    wrong = b.exchange("PATCH", location, b"x", {"Content-Range": "7-7"})
    assert wrong.status == 416 and wrong.header("Range") == f"0-{2 * at - 1}", wrong
    assert wrong.header("Docker-Upload-UUID") == location.rpartition("/")[2]
    with c.connect() as connection:
        connection.send(connection.head("PATCH", location, {"Content-Length": at, "Expect": "100-continue"}))
        assert connection.read_some().startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.buffer = b""
        connection.send(data[2])
        assert connection.response("PATCH").status == 202
        connection.request("GET", location)  # the connection is good for more
        assert connection.response("GET").header("Range") == f"0-{3 * at - 1}"
    status = a.exchange("GET", location)
    assert status.status == 204 and status.header("Range") == f"0-{3 * at - 1}"
    done = c.exchange("PUT", http1.with_query(location, ("digest", digest_of(whole))), data[3])
    assert done.status == 201 and done.header("Docker-Content-Digest") == digest_of(whole), done
    # What was acknowledged by one is there at all, at once.
    config = b.repository().push_blob(b"{}")
    manifest = image_manifest(config, 2, [(digest_of(whole), len(whole))])
    b.repository().push_manifest("mixed", manifest)
    for node in (a, b, c):
        assert node.repository().manifest("mixed").body == manifest
        assert node.repository().blob(digest_of(whole)).body == whole
        mounted = node.repository("other/app").start_upload(("mount", digest_of(whole)), ("from", "team/app"))
        assert mounted.status == 201, mounted
    after = [counter(cluster, "a", "peer_uploads_total"), *(counter(cluster, n, "uploads_relayed_total") for n in "abc")]
    assert [now - then for now, then in zip(after, before)] == [6, 0, 2, 4]
    assert b.exchange("GET", location).status == 404


def test_cancelled_and_unknown_anywhere(cluster):
    a, b, c = nodes(cluster)
    location = session(b)
    assert c.exchange("GET", location.replace("team/app", "team/other")).codes() == ["BLOB_UPLOAD_UNKNOWN"]
    assert a.exchange("DELETE", location).status == 204
    for node in (a, b, c):
        for method in ("GET", "PATCH", "DELETE"):
            gone = node.exchange(method, location, b"x" if method == "PATCH" else None)
            assert gone.status == 404 and gone.codes() == ["BLOB_UPLOAD_UNKNOWN"], gone
    # Of a node that never was, and of none.
    head, _, upload = location.rpartition("/")
    for other in (upload[:32] + "00000000000000ff", upload[:32], "nonsense"):
        assert a.exchange("GET", f"{head}/{other}").codes() == ["BLOB_UPLOAD_UNKNOWN"]


def test_wrong_digest_at_another_replica(cluster):
    a, b, c = nodes(cluster)
    location = session(c)
    assert a.exchange("PATCH", location, b"right").status == 202
    wrong = b.exchange("PUT", http1.with_query(location, ("digest", digest_of(b"wrong"))))
    assert wrong.status == 400 and wrong.codes() == ["DIGEST_INVALID"]
    assert a.exchange("GET", location).status == 404


def test_quota_at_another_replica(cluster):
    """A body without a length is held against the quota where it arrives."""
    a, b, _ = nodes(cluster)
    cluster["a"].cli("policy", "set", "full", "quota.bytes=1MiB")
    part = bytes(1 << 20)

    def over():  # the policy may be a moment away
        location = session(a, "full/app")
        answer = b.exchange("PATCH", location, iter([part, part]))
        return answer.status != 202 and answer
    answer = http1.wait_until(over, 60)
    assert answer.status == 403 and answer.codes() == ["DENIED"], answer


def test_client_that_goes_away_in_the_middle(cluster):
    """What the owner has got stays, and the client goes on behind it by whichever replica."""
    a, b, c = nodes(cluster)
    location, data = session(a), bytes(range(256)) * 8192
    before = counter(cluster, "a", "peer_uploads_total")
    with b.connect() as connection:
        connection.send(connection.head("PATCH", location, {"Content-Length": len(data)}) + data[:1_500_000])
        assert http1.wait_until(lambda: counter(cluster, "a", "peer_uploads_total") > before, 60)

    def free():
        status = c.exchange("GET", location)
        return status if status.status == 204 else None  # 409: still at work on what has come
    status = http1.wait_until(free, 60)
    at = int(status.header("Range").partition("-")[2]) + 1 if status.header("Range") != "0-0" else 0
    assert at <= 1_500_000
    assert c.exchange("PATCH", location, data[at:], {"Content-Range": f"{at}-{len(data) - 1}"}).status == 202
    assert b.exchange("PUT", http1.with_query(location, ("digest", digest_of(data)))).status == 201
    assert c.repository().blob(digest_of(data)).body == data


# ---------------------------------------------------------------- real clients

def image_layout(folder, number, layers):
    """An OCI layout with one image of incompressible layers."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data):
        (blobs / hashlib.sha256(data).hexdigest()).write_bytes(data)
        return digest_of(data), len(data)
    stored = [put(hashlib.shake_128(b"%d %d" % (number, i)).digest(1_000_000 + i)) for i in range(layers)]
    config = put(json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "number": number,
                             "rootfs": {"type": "layers", "diff_ids": [digest for digest, _ in stored]}}).encode())
    manifest = json.dumps({"schemaVersion": 2, "mediaType": IMAGE_TYPE, "config": descriptor(CONFIG_TYPE, *config),
                           "layers": [descriptor(LAYER_TYPE.removesuffix("+gzip"), *each) for each in stored]}).encode()
    entry = descriptor(IMAGE_TYPE, *put(manifest), annotations={"org.opencontainers.image.ref.name": "one"})
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


@pytest.fixture(scope="module")
def folder():
    path = pathlib.Path(tempfile.mkdtemp(prefix="fairlead-uploads-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def images(folder):
    for number in range(3):
        image_layout(folder / f"image{number}", number, 4)
    return [folder / f"image{number}" for number in range(3)]


def round_robin(host, folder, port, backends):
    """HAProxy, which gives each request to the next one."""
    path = folder / f"haproxy-{port}.cfg"
    servers = "".join(f"  server b{i} {backend}\n" for i, backend in enumerate(backends))
    path.write_text("defaults\n  mode http\n  timeout connect 5s\n  timeout client 120s\n  timeout server 120s\n"
                    f"listen front\n  bind 127.0.0.1:{port}\n  balance roundrobin\n{servers}")
    host.start("haproxy", "-db", "-f", path)


def answers(host, port):
    def ask():
        try:
            return http1.Client(("127.0.0.1", port)).exchange("GET", "/v2/").status == 200
        except (OSError, http1.ConnectionEnded):
            return False
    return http1.wait_until(lambda: netlab.in_namespace(host.netns, ask), 60)


def push(host, image, port, name):
    return host.run("skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", f"oci:{image}:one",
                    f"docker://127.0.0.1:{port}/{name}", check=False)


@pytest.mark.skipif(not shutil.which("haproxy") or not shutil.which("skopeo"), reason="haproxy or skopeo is missing")
def test_images_through_a_round_robin(cluster, folder, images):
    host = cluster["a"].host
    round_robin(host, folder, FRONT, [f"{cluster[name].host.v4}:5000" for name in "abc"])
    assert answers(host, FRONT)
    before = counter(cluster, "b", "uploads_relayed_total")
    for number, image in enumerate(images):
        done = push(host, image, FRONT, f"round/robin:{number}")
        assert done.returncode == 0, done.stderr
    assert counter(cluster, "b", "uploads_relayed_total") > before
    for number, node in enumerate(nodes(cluster)):
        layers = json.loads(node.repository("round/robin").manifest(str(number)).body)["layers"]
        for layer in layers:
            assert digest_of(node.repository("round/robin").blob(layer["digest"]).body) == layer["digest"]


@pytest.mark.skipif(not all(map(shutil.which, ("haproxy", "skopeo", "docker-registry"))),
                    reason="haproxy, skopeo or docker-registry is missing")
def test_what_registries_do_otherwise(cluster, folder, images):
    """Three of another kind with a store each: an upload that comes to the next one is unknown there."""
    host = cluster["a"].host
    for port in OTHERS:
        config = folder / f"registry-{port}.yaml"
        config.write_text(json.dumps({
            "version": 0.1, "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(folder / f"store-{port}")}},
            "http": {"addr": f"127.0.0.1:{port}", "relativeurls": True, "secret": "for all of them"}}))
        host.start("docker-registry", "serve", config)
    for port in OTHERS:
        assert answers(host, port)
    round_robin(host, folder, FRONT + 1, [f"127.0.0.1:{port}" for port in OTHERS])
    assert answers(host, FRONT + 1)
    assert push(host, images[0], FRONT + 1, "round/robin:0").returncode != 0


# ---------------------------------------------------------------- the owner dies

def test_owner_away_then_back(cluster):
    """Sessions of which nobody has a copy are unknown meanwhile, so that clients begin anew; they are there again with it."""
    a, b, c = nodes(cluster)
    location = session(c)
    assert a.exchange("PATCH", location, b"12345").status == 202
    before = counter(cluster, "b", "uploads_unreached_total")
    cluster["c"].kill()
    for node in (a, b):
        # A connection that was kept may break only now: 503, try again.
        gone = http1.wait_until(lambda: (at := node.exchange("PATCH", location, b"67890")).status != 503 and at, 60)
        assert gone.status == 404 and gone.codes() == ["BLOB_UPLOAD_UNKNOWN"], gone
    assert counter(cluster, "b", "uploads_unreached_total") > before
    digest = http1.wait_until(lambda: pushed(a, b, b"anew"), 60)
    assert b.repository().blob(digest).body == b"anew"
    cluster["c"].start()
    status = http1.wait_until(lambda: (at := b.exchange("GET", location)).status == 204 and at, 60)
    assert status.header("Range") == "0-4", status
    assert b.exchange("PATCH", location, b"67890", {"Content-Range": "5-9"}).status == 202
    done = a.exchange("PUT", http1.with_query(location, ("digest", digest_of(b"1234567890"))))
    assert done.status == 201, done


def pushed(one, other, data):
    """Its digest, once a push that begins at one and ends at another one is taken."""
    location = session(one)
    done = other.exchange("PUT", http1.with_query(location, ("digest", digest_of(data))), data)
    return digest_of(data) if done.status == 201 else None


# ---------------------------------------------------------------- and another replica goes on from a copy

def end_of(answer):
    """How many bytes the session has, by its Range."""
    text = answer.header("Range")
    return 0 if text == "0-0" else int(text.partition("-")[2]) + 1


def content_range(first, data):
    return {"Content-Range": f"{first}-{first + len(data) - 1}"}


def files(cluster, location, mark):
    """Sizes of what nodes have of an upload, by their names. mark: "-" for copies, "." for sessions."""
    random = location.rpartition("/")[2][:32]
    pattern = f"*-{random}.*" if mark == "-" else f"{random}*.*"
    found = {}
    for name in "abc":
        for path in (cluster[name].folder / "state/store/uploads").glob(pattern):
            try:
                found[name] = path.stat().st_size
            except FileNotFoundError:  # a blob meanwhile
                pass
    return found


def copied(cluster, location, size):
    return any(has >= size for has in files(cluster, location, "-").values())


def started(cluster, node, data):
    """A session of that node's, with as many pieces as it takes until another one has some of them."""
    location, at = session(node), 0

    def more():
        nonlocal at
        piece = data[at:at + 2 * MIB]
        assert piece and node.exchange("PATCH", location, piece, content_range(at, piece)).status == 202
        at += len(piece)
        return copied(cluster, location, 2 * MIB)
    assert http1.wait_until(more, 60)
    return location, at


def asked(node, location):
    """Where the session is by now, and how far."""
    def there():
        try:
            answer = node.exchange("GET", location)
        except (OSError, http1.ConnectionEnded):
            return None
        return answer if answer.status == 204 else None
    answer = http1.wait_until(there, 60)
    assert answer, (location, node.exchange("GET", location))
    return answer.header("Location"), end_of(answer)


def finish(node, other, location, data, at):
    sent = node.exchange("PATCH", location, data[at:], content_range(at, data[at:]))
    assert sent.status == 202, sent
    done = http1.wait_until(  # the dead one may have led the cluster
        lambda: (at := other.exchange("PUT", http1.with_query(location, ("digest", digest_of(data))))).status != 503 and at, 60)
    assert done.status == 201, done


def everywhere(cluster, data):
    """Byte for byte, once the dead one is back."""
    for name in "abc":
        if cluster[name].process.poll() is not None:
            cluster[name].start()
    assert cluster.wait_until_whole(), cluster.report()
    for node in nodes(cluster):
        blob = http1.wait_until(lambda: (at := node.repository().blob(digest_of(data))).status == 200 and at, 60)
        assert blob.body == data


@pytest.fixture
def data():
    return os.urandom(20 * MIB)


def test_owner_killed_between_pieces(cluster, data):
    a, b, c = nodes(cluster)
    location, at = started(cluster, c, data)
    cluster["c"].kill()
    here, end = asked(a, location)
    assert here != location and here.rpartition("/")[2][:32] == location.rpartition("/")[2][:32]
    assert 2 * MIB <= end <= at
    assert counter(cluster, "a", "uploads_adopted_total") + counter(cluster, "b", "uploads_adopted_total") == 1
    for headers in (content_range(end + 1, b"x"), {}):  # too far; or who knows where
        wrong = b.exchange("PATCH", location, b"x", headers)
        assert (wrong.status, end_of(wrong), wrong.header("Location")) == (416, end, here), wrong
    piece = data[end:end + MIB]
    right = b.exchange("PATCH", here, piece, content_range(end, piece))
    assert right.status == 202 and right.header("Location") == here, right
    # Whoever has gone on is killed, too, and is back at once; then the first one is.
    name = next(iter(files(cluster, location, ".").keys() - "c"))
    os.kill(cluster[name].pids()[1], signal.SIGKILL)
    assert asked({"a": a, "b": b}[name], here) == (here, end + MIB)
    cluster["c"].start()
    assert asked(c, location) == (location, at)  # its own is as it was
    finish(a, c, here, data, end + MIB)
    everywhere(cluster, data)
    assert c.exchange("DELETE", location).status == 204


def adoptions(cluster):
    """What the nodes say of uploads that have gone on with them."""
    lines = [line for name in "abc" if cluster[name].process.poll() is None
             for line in cluster[name].cli("events", "--limit", "200", "--json").stdout.splitlines()]
    rows = [event for line in lines for event in (lambda said: said.get("events", [said]))(json.loads(line))]
    return [event for event in rows if event["kind"] == "upload.adopted"]


def test_owner_killed_within_a_piece(cluster, data):
    """The client, at another replica, is told where to go on; the owner is back while it does, and drops its session."""
    a, b, c = nodes(cluster)
    before = adoptions(cluster)
    location, at = started(cluster, Node(cluster, "c"), data)
    with a.connect() as connection:
        rest = data[at:]
        connection.send(connection.head("PATCH", location, {"Content-Length": len(rest), **content_range(at, rest)}))
        connection.send(rest[:4 * MIB])
        assert http1.wait_until(lambda: copied(cluster, location, at + MIB), 60)
        cluster["c"].kill()
        told = connection.response("PATCH")
    assert told.status == 416, told
    here, end = told.header("Location"), end_of(told)
    assert here != location and at + MIB <= end <= at + 4 * MIB
    assert asked(b, here) == (here, end)
    told = http1.wait_until(lambda: [event for event in adoptions(cluster) if event not in before], 60)
    assert len(told) == 1 and told[0]["text"] == f"it goes on here, with {end} bytes, as c is away", told
    cluster["c"].start()
    finish(b, a, here, data, end)
    everywhere(cluster, data)
    assert http1.wait_until(lambda: c.exchange("GET", location).status == 404, 60)
    assert "c" not in files(cluster, location, ".")


def test_owner_killed_behind_a_proxy(cluster, data):
    """All replicas are the backends of a service of kind registry: a request passes on to another one, which knows."""
    host = cluster["a"].host
    backends = [(cluster[name].host.v4, 5000) for name in "abc"]
    with netlab.in_namespace(host.netns, lambda: proxy_rig.Ring(*backends, kind="registry", retries=2)) as ring:
        front = Node(cluster, "a")
        front.address = ring.address
        location, at = started(cluster, front, data)
        owner = next(iter(files(cluster, location, ".")))
        with front.connect() as connection:
            rest = data[at:]
            connection.send(connection.head("PATCH", location, {"Content-Length": len(rest), **content_range(at, rest)}))
            connection.send(rest[:4 * MIB])
            assert http1.wait_until(lambda: copied(cluster, location, at + MIB), 60)
            cluster[owner].kill()
            told = connection.response("PATCH")
        assert told.status in (416, 503), told  # try again, in any case
        here, end = asked(front, location)
        assert here != location and at + MIB <= end <= at + 4 * MIB
        finish(front, front, here, data, end)
        assert front.repository().blob(digest_of(data)).body == data
    everywhere(cluster, data)


@pytest.mark.slow
def test_owner_out_of_reach(cluster, data):
    """It lives, and nobody can tell: another one goes on. When it is back its session is as it was, until the client has gone on
    with the other one."""
    a, b, c = nodes(cluster)
    location, at = started(cluster, c, data)
    assert asked(a, location) == (location, at)  # by a connection that will be silent
    cluster["c"].host.silence()
    try:
        here, end = asked(a, location)
    finally:
        cluster["c"].host.unsilence()
    assert here != location and 2 * MIB <= end <= at
    assert asked(c, location) == (location, at)
    assert cluster.wait_until_whole(), cluster.report()
    finish(b, a, here, data, end)
    assert http1.wait_until(lambda: c.exchange("GET", location).status == 404, 60)
    everywhere(cluster, data)
