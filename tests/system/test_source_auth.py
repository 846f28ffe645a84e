# SPDX-License-Identifier: Apache-2.0
"""Sources that want to know who asks: Debian's docker-registry with htpasswd, and with tokens of a small token server of
the tests' own."""

import base64
import concurrent.futures
import contextlib
import datetime
import http.server
import json
import os
import pathlib
import shutil
import subprocess
import threading
import time
import urllib.parse

import pytest

import harness
import http1
from test_fetch import Mirror, quiet_port
from test_pull_through import Upstream

pytestmark = [pytest.mark.skipif(harness.KIND != "fairlead", reason="tests Fairlead's own fetching"),
              pytest.mark.skipif(not shutil.which("docker-registry"), reason="docker-registry is not installed")]

USER, PASSWORD = "robot", "not-for-any-log"
HASH = "$2b$04$etIFqBTwa1phW1jyd7vomemwvJnID34CtXiqEyecGSIuYZEEX1aAC"  # bcrypt


def coded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class TokenServer:
    """Gives whoever shows the right password, or asks for what is everybody's, what is asked for. `seen` has what it was
    asked for, `fail` is a status that it answers with instead."""

    def __init__(self, folder):
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import rsa
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tokens")])
        now = datetime.datetime.utcnow()
        cert = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(
            1).not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(
            now + datetime.timedelta(days=1)).sign(key, hashes.SHA256())
        self.key, self.der = key, cert.public_bytes(serialization.Encoding.DER)
        self.bundle = folder / "tokens.pem"
        self.bundle.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        self.seen, self.fail = [], None
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                owner.answer(self)

            def log_message(self, *_):
                pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    @property
    def realm(self):
        return f"http://127.0.0.1:{self.server.server_port}/token"

    def token(self, service, scopes):
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding
        now = int(time.time())
        access = [dict(zip(("type", "name"), scope.split(":")), actions=scope.rpartition(":")[2].split(","))
                  for scope in scopes]
        head = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(self.der).decode()]}
        body = {"iss": "tests", "sub": "", "aud": service, "exp": now + 300, "nbf": now - 10, "iat": now, "jti": "1",
                "access": access}
        text = ".".join(coded(json.dumps(part).encode()) for part in (head, body))
        return f"{text}.{coded(self.key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    def answer(self, request):
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(request.path).query)
        shown = request.headers.get("Authorization", "")
        scopes = query.get("scope", [])
        self.seen.append((shown, scopes))
        right = shown == "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        everybodys = not shown and all(scope.startswith("repository:public/") for scope in scopes)
        status = self.fail or (200 if right or everybodys else 401)
        body = json.dumps({"token": self.token(query["service"][0], scopes), "expires_in": 300}).encode() \
            if status == 200 else b"{}"
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Guarded(Upstream):
    """Open to be filled, then guarded."""

    auth = None

    def guard(self, **auth):
        self.auth = auth
        self.restart()

    def write_config(self):
        super().write_config()
        path = self.folder / "config.yaml"
        config = json.loads(path.read_text())
        if self.auth:
            path.write_text(json.dumps(config | {"auth": self.auth}))

    def is_ready(self):
        assert self.process.poll() is None, self.report(f"ended with {self.process.returncode} at start")
        try:
            return http1.Client(self.address, timeout_s=5).exchange("GET", "/v2/").status == (401 if self.auth else 200)
        except (OSError, http1.ConnectionEnded):
            return False


class Node(Mirror):
    """basic/ and token/ with the right credentials, wrong/ and badtoken/ with others, nobody/ and anybody/ with none."""

    def __init__(self, basic, token):
        super().__init__([basic.port])
        self.others = [{**self.service, "name": "token", "address": f"127.0.0.1:{quiet_port()}",
                        "backends": [{"name": "b", "address": f"127.0.0.1:{token.port}"}]}]
        self.sources = [{"prefix": f"{prefix}/", "service": service, **more} for prefix, service, more in (
            ("basic", "hub", {"credentials": "right"}), ("wrong", "hub", {"credentials": "wrong"}), ("nobody", "hub", {}),
            ("open", "hub", {"credentials": "open"}),
            ("token", "token", {"credentials": "right"}), ("badtoken", "token", {"credentials": "wrong"}),
            ("anybody", "token", {}), ("elsewhere", "token", {"credentials": "right",
                                                             "token_server": "http://127.0.0.1:1/"}))]
        self.secret = self.password("right", PASSWORD)
        self.password("wrong", "another")
        self.password("open", PASSWORD).chmod(0o644)

    def password(self, name, text):
        path = pathlib.Path(self.folder) / name
        path.write_text(text + "\n")
        path.chmod(0o600)
        return path

    def config(self):
        config = super().config()
        return config | {"services": [self.service, *self.others], "credentials": {
            name: {"user": USER, "password_file": str(pathlib.Path(self.folder) / name)} for name in ("right", "wrong", "open")}}


class Lab:
    def __init__(self, stack):
        self.basic, self.token = (self.upstream(stack) for _ in range(2))
        self.tokens = TokenServer(self.token.folder)
        stack.callback(self.tokens.close)
        self.layers = [b"a" * 3_000_000, b"b"]
        self.images = {}
        for name in ("team/app", "team/other", "team/third", "public/app"):
            self.images[name] = self.basic.repository(name).push_image("1", *self.layers, name.encode())
            assert self.images[name] == self.token.repository(name).push_image("1", *self.layers, name.encode())
        htpasswd = self.basic.folder / "htpasswd"
        htpasswd.write_text(f"{USER}:{HASH}\n")
        self.basic.guard(htpasswd={"realm": "tests", "path": str(htpasswd)})
        self.guard("one")
        self.node = Node(self.basic, self.token)
        stack.callback(self.node.close)
        self.node.start()

    @staticmethod
    def upstream(stack):
        upstream = Guarded()
        stack.callback(upstream.close)
        return upstream.start()

    def guard(self, service):
        self.token.guard(token={"realm": self.tokens.realm, "service": service, "issuer": "tests",
                                "rootcertbundle": str(self.tokens.bundle)})

    def tool(self, *words, code=0):
        done = subprocess.run([harness.BUILD / "fairlead", "--socket", self.node.folder / "control.sock", *words],
                              capture_output=True, text=True, timeout=60)
        assert code is None or done.returncode == code, done
        return done

    def pull(self, prefix, name="team/app"):
        """All of it, by tag; True, or the first answer that is none."""
        repo = self.node.repository(f"{prefix}/{name}")
        answer = repo.manifest("1")
        if answer.status != 200:
            return answer
        assert answer.body == self.images[name][1]
        for layer in (*self.layers, name.encode()):
            assert repo.blob(harness.digest_of(layer)).body == layer
        return True


@pytest.fixture(scope="module", name="lab")
def the_lab():
    with contextlib.ExitStack() as stack:
        yield Lab(stack)


def refused(answer):
    return (answer.status, answer.codes()) == (502, ["UNAVAILABLE"]) and b"credentials" in answer.body


def test_name_and_password(lab):
    """The right ones open it; wrong ones, and none, do not; those that others may read are not shown."""
    assert lab.pull("basic") is True
    for prefix in ("wrong", "nobody", "open"):
        assert refused(lab.pull(prefix)), prefix
    assert lab.basic.log().count(f'"GET /v2/team/app/blobs/{harness.digest_of(lab.layers[0])} HTTP/1.1" 200') == 1
    log = lab.node.log()
    for text in ("wrong/: it does not take the credentials", "nobody/: it wants a name and a password",
                 "open/: " + str(lab.node.folder / "open") + ": others may read"):
        assert text in log, lab.node.report(text)


def test_tokens(lab):
    """One token does for all who want the same; it is for pulling and for nothing else."""
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        assert list(pool.map(lab.pull, ["token"] * 20)) == [True] * 20
    shown = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    assert lab.tokens.seen == [(shown, ["repository:team/app:pull"])]
    assert refused(lab.pull("badtoken"))
    seen = len(lab.tokens.seen)
    assert refused(lab.pull("badtoken")) and len(lab.tokens.seen) == seen  # an account is not tried again at once
    assert refused(lab.pull("elsewhere")) and len(lab.tokens.seen) == seen
    assert "another token server than token_server" in lab.node.log()


def test_a_token_for_anybody(lab):
    assert lab.pull("anybody", "public/app") is True
    assert lab.tokens.seen[-1] == ("", ["repository:public/app:pull"])
    assert refused(lab.pull("anybody", "team/app"))


def test_a_token_that_is_not_taken_any_more(lab):
    """It is renewed once; where that helps, nobody notices."""
    assert lab.pull("token", "team/other") is True
    lab.guard("two")
    seen = len(lab.tokens.seen)
    unknown = lab.node.repository("token/team/other").manifest("2")
    assert unknown.status == 404 and len(lab.tokens.seen) == seen + 1


def test_no_token_server(lab):
    """What is here is served; what is not is an error that passes."""
    lab.tokens.fail = 500
    try:
        answer = lab.pull("token", "team/third")
        assert (answer.status, answer.codes()) == (502, ["UNAVAILABLE"])
        assert lab.pull("token", "team/app") is True
    finally:
        lab.tokens.fail = None
    assert http1.wait_until(lambda: lab.pull("token", "team/third") is True, 60)


def test_asked_by_hand(lab):
    """With what clients are let in by; a host can be a name."""
    assert "is a registry, and lets this node in as robot" in lab.tool("source", "test", "basic/").stdout
    done = lab.tool("source", "test", "wrong/", code=1)
    assert "does not let this node in: it does not take the credentials" in done.stderr
    done = lab.tool("source", "test", "token/team/app:1")
    assert f"has team/app 1: {lab.images['team/app'][0]} (let in as robot)" in done.stdout
    assert "token server" in lab.tool("source", "test", "badtoken/team/app", code=1).stderr
    assert "has no team/app 2" in lab.tool("source", "test", "token/team/app:2", code=1).stderr
    lab.tool("source", "set", "name/", f"backends=localhost:{lab.token.port}", "credentials=right")
    assert http1.wait_until(lambda: "is a registry" in lab.tool("source", "test", "name/", code=None).stdout, 60)
    assert lab.pull("name") is True
    row = json.loads(lab.tool("source", "ls", "--json").stdout)["sources"]
    (hosts,) = [source["hosts"] for source in row if source["prefix"] == "name/"]
    assert hosts[0]["host"] == "localhost" and "127.0.0.1" in hosts[0]["addresses"]


def test_the_password_stays_where_it_is(lab):
    """In no log and in no file but its own; a new one counts from a reload on."""
    lab.node.stop()
    for path in lab.node.folder.rglob("*"):
        if path.is_file() and path not in (lab.node.secret, lab.node.folder / "open"):
            data = path.read_bytes()
            assert PASSWORD.encode() not in data, path
            assert base64.b64encode(f"{USER}:{PASSWORD}".encode()) not in data, path
    lab.node.start()
