# SPDX-License-Identifier: Apache-2.0
"""Proxied services of a whole node: TLS on both sides, HTTP/2 to clients, registries with real clients."""

import contextlib
import json
import shutil
import socket
import ssl
import subprocess

import pytest

import harness
import http1
import test_http2
from proxy_rig import Backend, Client, chunked, field, pattern
from tls_files import Authority

pytestmark = pytest.mark.skipif(harness.KIND != "fairlead", reason="tests Fairlead's own proxy")


class Node(harness.FairleadRegistry):
    """fields: of its one proxied service, "front"."""

    def __init__(self, backends, certificates=None, **fields):
        super().__init__(settings={"kernel.enabled": False})
        self.front_port = harness.free_port()
        self.backends, self.fields, self.certificates = backends, fields, certificates

    def config(self):
        entry = {"name": "front", "address": f"127.0.0.1:{self.front_port}", "path": "proxy", "steer": False,
                 **self.fields, "backends": [{"address": address} for address in self.backends]}
        config = {**super().config(), "services": [entry]}
        return {**config, "certificates": self.certificates} if self.certificates else config

    def is_ready(self):
        if not super().is_ready():
            return False
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.front_port), 1).close()
            return True
        return False

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.front_port), 30)

    def front_lines(self):
        text = (self.folder / "access.log").read_text().rpartition("\n")[0]  # the last line may be half written
        lines = map(json.loads, text.splitlines())
        return [line for line in lines if "upstream" in line]


@contextlib.contextmanager
def running(registry):
    """Started, and closed behind the block."""
    try:
        yield registry.start()
    finally:
        registry.close()


class TlsBackend(Backend):
    def __init__(self, context, **behaviours):
        self.context = context
        super().__init__(**behaviours)

    def _serve(self, sock):
        with contextlib.suppress(OSError):
            super()._serve(self.context.wrap_socket(sock, server_side=True))


class TlsClient(Client):
    def __init__(self, node, context):
        self.sock = context.wrap_socket(node.connect(), server_hostname="127.0.0.1")
        self.file = self.sock.makefile("rb")


class Round(Node):
    """Two services, each the other's only backend."""

    def config(self):
        config = super().config()
        there, back = config["services"][0], {**config["services"][0], "name": "back"}
        back["address"] = f"127.0.0.1:{self.own_port}"
        there["backends"], back["backends"] = [{"address": back["address"]}], [{"address": there["address"]}]
        return {**config, "services": [there, back]}


@pytest.mark.parametrize("fields", [{"kind": "http"}, {"kind": "docker"}, {"kind": "http", "http2": True, "backend.http": 2}])
def test_services_that_lead_to_each_other(fields):
    """A request goes round once, and its client is told why; nothing is left of it."""
    ring = Round([], **fields)
    ring.own_port = harness.free_port()
    with running(ring) as node:
        for method, body in (("GET", b""), ("POST", b"x" * 100_000)):
            answer = http1.Client(("127.0.0.1", node.front_port)).exchange(method, "/events", body=body or None)
            assert answer.status == 508 and b"service front: the request goes round" in answer.body, answer.body
        assert http1.wait_until(lambda: test_http2.figure(node, "fairlead_streams_open") == 1, 20)  # its own


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "ca")


def address_of(backend):
    return "127.0.0.1:%d" % backend.address[1]


@pytest.mark.parametrize("verified", ["good", "other authority", "wrong name", "not checked"])
def test_tls_to_backends(authority, tmp_path, verified):
    issuer = Authority(tmp_path / "other") if verified == "other authority" else authority
    issued = issuer.issue("backend", "elsewhere.test" if verified == "wrong name" else "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued["cert"], issued["key"])
    with TlsBackend(context) as backend, running(Node(
            [address_of(backend)], {"us": {"ca": str(authority.cert)}}, kind="http", **{
                "backend.tls": True, "backend.ca": "us", "backend.verify": verified != "not checked"})) as node:
        with Client(node) as client:
            for n in range(3):
                status, _, content, _ = client.get(f"/length/{300000 * n}")
                if verified in ("good", "not checked"):
                    assert (status, content) == (200, pattern(300000 * n))
                else:
                    assert status == 502 and b"certificate" in content
            if verified == "good":
                body = pattern(200000)
                assert client.get("/echo", method="POST", fields=["Content-Length: 200000"], body=body)[2] == body
                client.ask("/echo-chunked", method="POST", fields=["Transfer-Encoding: chunked"],
                           body=chunked(body, 9000))
                assert client.answer()[2] == body
        assert backend.connections == 1 or verified in ("other authority", "wrong name")


def test_tls_to_clients(authority):
    """What the backend and the client are told of the scheme."""
    def redirect(backend, sock, file, first, fields, rest):
        backend.requests.append((first, fields, None))
        host = field(fields, "Host")
        sock.sendall(f"HTTP/1.1 301 x\r\nLocation: http://{host}/y\r\nContent-Length: 0\r\n\r\n".encode())
        return True

    certificates = {"front": authority.issue("front", "127.0.0.1")}
    with Backend(go=redirect) as backend, running(Node([address_of(backend)], certificates, kind="http", tls="terminate",
                                                       **{"tls.certificates": ["front"]})) as node:
        context = ssl.create_default_context(cafile=str(authority.cert))
        with TlsClient(node, context) as client:
            for size in (0, 1000, 3 << 20):
                assert client.get(f"/length/{size}")[2] == pattern(size)
            assert client.get("/chunked/100000/3000")[2] == pattern(100000)
            body = pattern(300000)
            assert client.get("/echo", method="PUT", fields=["Content-Length: 300000"], body=body)[2] == body
            assert field(client.get("/go")[1], "Location") == "https://front.example:8080/y"
            assert field(backend.requests[-1][1], "X-Forwarded-Proto") == "https"
        with TlsClient(node, context) as client:
            client.ask("/cut/chunked/100000/50000/fin")
            with pytest.raises((ssl.SSLError, ConnectionError, AssertionError, ValueError)):
                assert client.answer()[2] is not None


def curl(*words, body=None):
    got = subprocess.run(["curl", "-sS", "-m", "60", *words], input=body, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, check=False)
    assert got.returncode == 0, got.stderr
    return got.stdout


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl")
@pytest.mark.parametrize("how", ["h2", "h2c"])
def test_http2_to_clients(authority, how):
    """The same exchanges by HTTP/2: over TLS, and in clear by prior knowledge."""
    certificates = {"front": authority.issue("front", "127.0.0.1")}
    secure = {"tls": "terminate", "tls.certificates": ["front"]} if how == "h2" else {}
    with Backend() as backend, running(
            Node([address_of(backend)], certificates, kind="http", http2=True, **secure)) as node:
        base = f"{'https' if secure else 'http'}://127.0.0.1:{node.front_port}"
        words = ["--http2", "--cacert", str(authority.cert)] if secure else ["--http2-prior-knowledge"]
        version = curl(*words, "-o", "/dev/null", "-w", "%{http_version}", f"{base}/length/1")
        assert version == b"2"
        for path, content in (("/length/0", b""), ("/length/3000000", pattern(3000000)),
                              ("/chunked/500000/7000", pattern(500000)), ("/old/70000", pattern(70000))):
            assert curl(*words, base + path) == content
        body = pattern(2000000)
        assert curl(*words, "--data-binary", "@-", f"{base}/echo", body=body) == body
        assert curl(*words, "-H", "Content-Length:", "-T", "-", f"{base}/echo-chunked", body=body) == body
        assert b"200" in curl(*words, "-I", f"{base}/length/5")
        if how == "h2c":
            return  # curl 7.88 does this with no server by prior knowledge
        many = curl(*words, "--parallel", "--parallel-max", "20", *[f"{base}/length/{n}" for n in range(100, 160)])
        assert len(many) == sum(range(100, 160))


@pytest.mark.skipif(not shutil.which("skopeo"), reason="no skopeo")
@pytest.mark.parametrize("behind", ["docker-registry", "fairlead"])
@pytest.mark.parametrize("technique", ["splice", "copy"])
def test_registry_with_a_real_client(tmp_path, behind, technique):
    """An image in and out, byte for byte, by the front's address."""
    if not shutil.which("docker-registry"):
        pytest.skip("no docker-registry")
    image = make_image(tmp_path / "image")
    with running(harness.KINDS[behind]()) as registry, running(
            Node([registry.host], kind="registry", technique=technique)) as node:
        there = f"docker://127.0.0.1:{node.front_port}/a/b:1"
        skopeo("copy", "--preserve-digests", "--dest-tls-verify=false", f"oci:{image}:1", there)
        skopeo("copy", "--preserve-digests", "--src-tls-verify=false", there, f"oci:{tmp_path / 'back'}:1")
        for blob in sorted((image / "blobs" / "sha256").iterdir()):
            assert (tmp_path / "back" / "blobs" / "sha256" / blob.name).read_bytes() == blob.read_bytes()
        assert {line["upstream"] for line in node.front_lines()} == {registry.host}


def skopeo(*words):
    got = subprocess.run(["skopeo", "--insecure-policy", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         check=False)
    assert got.returncode == 0, got.stdout.decode()


def make_image(folder):
    """An OCI layout with three layers, one of them large."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data, media_type):
        digest = harness.digest_of(data)
        (blobs / digest.partition(":")[2]).write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    random = harness.randomness("image")
    layers = [put(random.randbytes(size), "application/vnd.oci.image.layer.v1.tar") for size in (10, 5000, 20 << 20)]
    config = put(json.dumps({"architecture": "amd64", "os": "linux", "config": {},
                             "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}}).encode(),
                 "application/vnd.oci.image.config.v1+json")
    manifest = put(json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                               "config": config, "layers": layers}).encode(),
                   "application/vnd.oci.image.manifest.v1+json")
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "1"}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return folder
