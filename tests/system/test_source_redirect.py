# SPDX-License-Identifier: Apache-2.0
"""Sources that send their clients elsewhere for blobs, as registries with an object store do: nginx in front of Debian's
docker-registry, once asking for a password and sending away, once being where to."""

import contextlib
import pathlib
import shutil
import subprocess

import pytest

import harness
import http1
from test_fetch import Mirror, quiet_port
from test_pull_through import Upstream
from tls_files import Authority

pytestmark = [pytest.mark.skipif(harness.KIND != "fairlead", reason="tests Fairlead's own fetching"),
              pytest.mark.skipif(not shutil.which("docker-registry"), reason="docker-registry is not installed"),
              pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed")]

SIGNED = "X-Signature=" + "0123456789abcdef" * 80  # as long as those of object stores

# Each front end has a port in clear and one over TLS; what differs is where blobs of each repository are sent to.
CONFIG = """
user root; daemon off; worker_processes 1; error_log stderr warn; pid {folder}/pid;
events {{ worker_connections 512; }}
http {{
  log_format all '$server_port $request_method $uri "$http_authorization" "$http_host" $status';
  access_log {folder}/access.log all; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  ssl_certificate {folder}/front.pem; ssl_certificate_key {folder}/front.key;
  large_client_header_buffers 4 16k;
  server {{
    listen 127.0.0.1:{front}; listen 127.0.0.1:{front_tls} ssl;
    auth_basic "tests"; auth_basic_user_file {folder}/users;
    location ~ ^/v2/(near|shut)/.*/blobs/ {{ return 307 http://127.0.0.1:{store}$uri?{signed}; }}
    location ~ ^/v2/named/.*/blobs/ {{ return 302 http://localhost:{store}$uri?{signed}; }}
    location ~ ^/v2/other/.*/blobs/ {{ return 307 http://127.0.0.9:{store}$uri; }}
    location ~ ^/v2/loop/.*/blobs/ {{ return 307 $uri?again; }}
    location ~ ^/v2/tls/.*/blobs/ {{ return 307 https://localhost:{store_tls}$uri?{signed}; }}
    location ~ ^/v2/odd/.*/blobs/ {{ return 307 https://user@localhost:{store_tls}$uri; }}
    location / {{ proxy_pass http://127.0.0.1:{registry}; proxy_set_header Authorization ""; }}
  }}
  server {{
    listen 127.0.0.1:{store}; listen 127.0.0.1:{store_tls} ssl;
    location ~ ^/v2/shut/ {{ auth_basic "another"; auth_basic_user_file {folder}/users; proxy_pass http://127.0.0.1:{registry}; }}
    location / {{ proxy_pass http://127.0.0.1:{registry}; proxy_set_header Authorization ""; }}
  }}
}}
"""


class Front:
    def __init__(self, registry):
        self.folder = pathlib.Path(registry.folder) / "nginx"
        self.folder.mkdir()
        self.ca = Authority(self.folder)
        self.ca.issue("front", "127.0.0.1", "localhost")
        (self.folder / "users").write_text("robot:{PLAIN}secret\n")
        self.ports = {name: harness.free_port() for name in ("front", "front_tls", "store", "store_tls")}
        (self.folder / "nginx.conf").write_text(CONFIG.format(folder=self.folder, registry=registry.port, signed=SIGNED,
                                                              **self.ports))
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(["nginx", "-e", "stderr", "-c", self.folder / "nginx.conf", "-p", self.folder],
                                            stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        assert http1.wait_until(self.is_ready, 60), (self.folder / "log").read_text()

    def is_ready(self):
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            return http1.Client(("127.0.0.1", self.ports["front"]), timeout_s=5).exchange("GET", "/v2/").status == 401
        except (OSError, http1.ConnectionEnded):
            return False

    def seen(self, port, text="", count=0):
        """Lines of the log; a request's may come a moment after its answer, so that many are waited for."""
        def lines():
            log = (self.folder / "access.log").read_text().splitlines()
            return [line for line in log if line.startswith(f"{self.ports[port]} ") and text in line]
        http1.wait_until(lambda: len(lines()) >= count, 60)
        return lines()

    def close(self):
        self.process.terminate()
        self.process.wait(30)


class Node(Mirror):
    """plain/ and named/ are asked in clear, safe/ over TLS."""

    def __init__(self, front):
        super().__init__([front.ports["front"]])
        self.front = front
        self.tls = {**self.service, "name": "tls", "address": f"127.0.0.1:{quiet_port()}", "backend.tls": True,
                    "backend.ca": "tests", "backend.name": "localhost",
                    "backends": [{"name": "b", "address": f"127.0.0.1:{front.ports['front_tls']}"}]}
        self.sources = [{"prefix": "plain/", "service": "hub", "credentials": "robot"},
                        {"prefix": "named/", "service": "hub", "credentials": "robot",
                         "redirect_hosts": ["elsewhere.example", "localhost"]},
                        {"prefix": "safe/", "service": "tls", "credentials": "robot"}]

    def config(self):
        secret = pathlib.Path(self.folder) / "secret"
        secret.write_text("secret\n")
        secret.chmod(0o600)
        return super().config() | {
            "services": [self.service, self.tls], "certificates": {"tests": {"ca": str(self.front.ca.cert)}},
            "credentials": {"robot": {"user": "robot", "password_file": str(secret)}}}


class Lab:
    NAMES = ("near/app", "named/app", "other/app", "loop/app", "tls/app", "odd/app", "shut/app", "near/parts")

    def __init__(self, stack):
        self.registry = Upstream()
        stack.callback(self.registry.close)
        self.registry.start()
        self.layers = {name: name.encode() * 300_000 for name in self.NAMES}
        for name, layer in self.layers.items():
            self.registry.repository(name).push_image("1", layer)
        self.front = Front(self.registry)
        stack.callback(self.front.close)
        self.node = Node(self.front)
        stack.callback(self.node.close)
        self.node.start()

    def pull(self, prefix, name):
        repo = self.node.repository(f"{prefix}/{name}/app")
        assert repo.manifest("1").status == 200  # manifests are not sent elsewhere
        return repo.blob(harness.digest_of(self.layers[f"{name}/app"]))

    def pull_whole(self, name, digest):
        repo = self.node.repository(name)
        assert repo.manifest("1").status == 200
        return repo.blob(digest).body

    def is_right(self, prefix, name):
        return self.pull(prefix, name).body == self.layers[f"{name}/app"]


@pytest.fixture(scope="module", name="lab")
def the_lab():
    with contextlib.ExitStack() as stack:
        yield Lab(stack)


def is_refused(answer, status=502):
    return (answer.status, answer.codes()) == (status, ["UNAVAILABLE"])


def test_another_server(lab):
    """It is followed and kept; the other server sees no password."""
    layer = lab.layers["near/app"]
    assert lab.is_right("plain", "near")
    assert lab.node.keeps(harness.digest_of(layer).partition(":")[2])
    assert lab.front.seen("front", '"Basic ', 1)
    store = lab.front.seen("store", "/near/", 1)
    assert len(store) == 1 and all(f'"-" "127.0.0.1:{lab.front.ports["store"]}"' in line for line in store), store
    assert lab.is_right("plain", "near") and len(lab.front.seen("store", "/near/")) == 1


def test_a_part_of_it(lab):
    """Of a blob that is known and not here the range goes along to where it is sent."""
    layer = lab.layers["near/parts"]
    digest = harness.digest_of(layer)
    hexes = digest.partition(":")[2]
    assert lab.pull_whole("plain/near/parts", digest) == layer and lab.node.keeps(hexes) and lab.node.quiet()
    lab.node.stop()
    lab.node.file(hexes).unlink()
    lab.node.start()
    repo = lab.node.repository("plain/near/parts")
    for wanted, part in (("bytes=1000000-1000999", layer[1000000:1001000]), ("bytes=-7", layer[-7:])):
        answer = repo.blob(digest, headers={"Range": wanted})
        assert (answer.status, answer.body) == (206, part), (wanted, answer)
    store = lab.front.seen("store", "/parts/", 3)
    assert [line.split()[-1] for line in store] == ["200", "206", "206"] and all('"-" "127' in line for line in store), store


def test_the_other_server_wants_credentials(lab):
    """Those of the source are not for it."""
    answer = lab.pull("plain", "shut")
    assert is_refused(answer) and b"credentials are for the source alone" in answer.body, answer
    assert not lab.front.seen("store", '"Basic ')


def test_over_tls(lab):
    """A name is looked up, and has to be proved; what is asked over TLS leads nowhere in clear."""
    assert lab.is_right("safe", "tls")
    assert all('"-" "localhost:' in line for line in lab.front.seen("store_tls", "/tls/"))
    assert is_refused(lab.pull("safe", "near"))
    assert "safe/: it sends its clients to 127.0.0.1: that is asked in clear, though" in lab.node.log()
    assert is_refused(lab.pull("safe", "odd"))


def test_hosts_that_are_named(lab):
    assert is_refused(lab.pull("plain", "named"))
    assert "plain/: it sends its clients to localhost: that is asked in clear and is none of its" in lab.node.log()
    assert is_refused(lab.pull("plain", "other"))
    assert is_refused(lab.pull("named", "near"))
    assert "named/: it sends its clients to 127.0.0.1: that is none of its redirect_hosts" in lab.node.log()
    assert lab.is_right("named", "named")


def test_what_leads_nowhere(lab):
    """Round and round."""
    before = len(lab.front.seen("front", "/loop/"))
    assert is_refused(lab.pull("plain", "loop"))
    assert len(lab.front.seen("front", "/loop/")) - before < 20


def test_control_begins_anew(lab):
    """The data plane goes on; the hosts are found again."""
    lab.node.kill_control()
    lab.node.start()
    repo = lab.node.repository("named/named/app")
    digest = harness.digest_of(b"another" * 1000)
    lab.registry.repository("named/app").push_blob(b"another" * 1000)
    assert http1.wait_until(lambda: repo.blob(digest).body == b"another" * 1000, 60)
