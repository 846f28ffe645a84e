# SPDX-License-Identifier: Apache-2.0
"""Several services at one address, chosen by the name that clients say in TLS: passed through to servers that have
their own certificates, and terminated here."""

import contextlib
import json
import re
import signal
import socket
import ssl
import subprocess

import pytest

import harness
import http1
from harness import free_port
from test_proxy_listen import hello
from tls_files import Authority

pytestmark = pytest.mark.skipif(harness.KIND != "fairlead", reason="tests Fairlead's own proxy")

CLI = str(harness.BUILD / "fairlead")
WILD = "passes.test,*.wild.test"


class Nginx:
    """A server with a certificate of its own; says which it is, and the name that the client said."""

    def __init__(self, folder, certificate):
        self.port = free_port()
        folder.mkdir()
        (folder / "nginx.conf").write_text(f"""
daemon off; master_process off; pid {folder}/pid; error_log stderr;
events {{ }}
http {{
  access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{
    listen 127.0.0.1:{self.port} ssl http2;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_certificate {certificate['cert']}; ssl_certificate_key {certificate['key']};
    location / {{ default_type text/plain; return 200 "{folder.name} $ssl_server_name"; }}
  }}
}}
""")
        self.process = subprocess.Popen(["nginx", "-e", "stderr", "-c", str(folder / "nginx.conf"), "-p", str(folder)])
        assert http1.wait_until(self.answers, 30)

    def answers(self):
        assert self.process.poll() is None
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        return False

    def close(self):
        self.process.kill()
        self.process.wait()


class NamesNode(harness.FairleadRegistry):
    """through (nginx one), deep (nginx two), ends and other (terminated) at one address; nobody is for the rest."""

    def __init__(self, folder, ca, backends):
        super().__init__(folder=folder, settings={"http.header_timeout": "3s", "kernel.enabled": False})
        self.ca, self.backends, self.shared_port = ca, backends, free_port()
        self.address_of_all = f"127.0.0.1:{self.shared_port}"
        self.names = {"through": WILD, "deep": "deep.wild.test", "ends": "ends.test,*.ends.test", "other": "other.test"}

    def config(self):
        made = self.ca.folder
        rows = [{"name": name, "address": self.address_of_all, "path": "proxy", "check": {"kind": "none"},
                 **({"kind": "tcp", "tls": {"mode": "passthrough", "names": names.split(",")}}
                    if name in ("through", "deep") else
                    {"kind": "http", "tls": {"mode": "terminate", "certificates": [name], "names": names.split(",")}}),
                 "backends": [{"address": f"127.0.0.1:{self.backends[name]}"}]}
                for name, names in self.names.items()]
        return {**super().config(), "services": rows,
                "certificates": {n: {"cert": str(made / f"{n}.pem"), "key": str(made / f"{n}.key")}
                                 for n in ("ends", "other", "rest")}}

    def is_ready(self):
        if super().is_ready():
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.shared_port), 1).close()
                return True
        return False

    def run(self, *arguments):
        done = subprocess.run([CLI, "--socket", str(self.socket_path), *arguments], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, universal_newlines=True, timeout=60, check=False)
        return done.returncode, done.stdout

    def closed(self, reason):
        text = http1.Client(("127.0.0.1", self.admin_port)).exchange("GET", "/metrics").body.decode()
        found = re.findall(r'^fairlead_\w*clos\w*\{[^}]*reason="%s"[^}]*\} (\S+)$' % reason, text, re.M)
        return sum(map(float, found))

    def connect(self, name, alpn=None):
        context = ssl.create_default_context(cafile=str(self.ca.cert))
        context.check_hostname = name is not None
        if alpn:
            context.set_alpn_protocols(alpn)
        raw = socket.create_connection(("127.0.0.1", self.shared_port), timeout=20)
        return context.wrap_socket(raw, server_hostname=name)

    def curl(self, host, *more):
        done = subprocess.run(["curl", "-sS", "--max-time", "30", "--cacert", str(self.ca.cert), "--connect-to",
                               f"::127.0.0.1:{self.shared_port}", *more, f"https://{host}/"], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, universal_newlines=True, timeout=60, check=False)
        return done.stdout

    def s_client(self, *arguments):
        done = subprocess.run(["openssl", "s_client", "-connect", self.address_of_all, "-CAfile", str(self.ca.cert),
                               *arguments], input="", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60,
                              universal_newlines=True, check=False)
        return done.stdout


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls-names")
    ca = Authority(folder / "tls")
    one = ca.issue("one", "passes.test", "*.wild.test")
    two = ca.issue("two", "deep.wild.test")
    ca.issue("ends", "ends.test", "*.ends.test", "other.test")  # a client may use its connections for other.test, too
    ca.issue("other", "other.test")
    ca.issue("rest", "rest.test", "127.0.0.1")
    with contextlib.ExitStack() as stack:
        backends = {}
        for name, certificate in (("through", one), ("deep", two)):
            server = Nginx(folder / name, certificate)
            stack.callback(server.close)
            backends[name] = server.port
        for name in ("ends", "other", "rest"):
            backends[name] = stack.enter_context(hello(name)).server_address[1]
        node = NamesNode(folder / "node", ca, backends)
        stack.callback(node.close)
        yield node.start()


@pytest.mark.parametrize("name,expected", [
    ("passes.test", "through passes.test"), ("PASSES.test", "through passes.test"), ("a.wild.test", "through a.wild.test"),
    ("deep.wild.test", "deep deep.wild.test"), ("ends.test", "ends"), ("x.ends.test", "ends"), ("other.test", "other")])
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_name_chooses_the_service(node, name, expected, version):
    """curl checks the certificate: the right server's, or the right one of ours."""
    assert node.curl(name, version).lower() == expected


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("name,subject", [("passes.test", "CN = one"), ("deep.wild.test", "CN = two"), ("ends.test", "CN = ends"),
                                          ("other.test", "CN = other")])
def test_certificate_is_the_services(node, version, name, subject):
    text = node.s_client(version, "-servername", name)
    assert "Verify return code: 0 (ok)" in text and subject in text


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("arguments", [["-servername", "nobody.test"], ["-servername", "a.b.wild.test"],
                                       ["-servername", "wild.test"], ["-noservername"]])
def test_unknown_name_is_refused_with_its_alert(node, version, arguments):
    before = node.closed("tls_name")
    assert "unrecognized name" in node.s_client(version, *arguments)
    assert http1.wait_until(lambda: node.closed("tls_name") == before + 1)


def test_clear_text_is_told(node):
    before = node.closed("tls_clear")
    with socket.create_connection(("127.0.0.1", node.shared_port), timeout=20) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: ends.test\r\n\r\n")
        assert b"400 Bad Request" in sock.recv(4096)
    assert http1.wait_until(lambda: node.closed("tls_clear") == before + 1)


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x00\x05\x02\0\0\x01\0", b"\0" * 300, b"\x80\x2e\x01\x03\x01"])
def test_garbage(node, garbage):
    before = node.closed("client_hello")
    with socket.create_connection(("127.0.0.1", node.shared_port), timeout=20) as sock:
        sock.sendall(garbage)
        with contextlib.suppress(ConnectionError):
            assert sock.recv(100) == b""
    assert http1.wait_until(lambda: node.closed("client_hello") == before + 1)


@pytest.mark.parametrize("name", ["passes.test", "ends.test"])
def test_hello_in_pieces(node, name):
    """It comes byte by byte, and nothing of it is lost to whoever answers it."""
    context = ssl.create_default_context(cafile=str(node.ca.cert))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with socket.create_connection(("127.0.0.1", node.shared_port), timeout=20) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        done = False
        while not done:
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
                done = True
            for byte in outgoing.read():
                sock.send(bytes([byte]))
            if not done:
                piece = sock.recv(65536)
                assert piece
                incoming.write(piece)
    assert tls.version()


def test_hello_that_does_not_come_is_ended(node):
    before = node.closed("handshake_timeout")
    with socket.create_connection(("127.0.0.1", node.shared_port), timeout=60) as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        with contextlib.suppress(ConnectionError):
            assert sock.recv(100) == b""
    assert http1.wait_until(lambda: node.closed("handshake_timeout") == before + 1)


def ask(tls, host):
    tls.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        piece = tls.recv(65536)
        assert piece, head
        head += piece
    return int(head.split()[1])


@pytest.mark.parametrize("host,status", [
    ("ends.test", 200), ("X.Ends.Test:443", 200), ("ends.test.", 200), ("other.test", 421), ("passes.test", 421),
    ("nobody.test", 421), ("127.0.0.1", 421), ("[::1]:443", 421), pytest.param("a" * 300, 421, id="long")])
def test_host_of_another_service_is_misdirected(node, host, status):
    with node.connect("ends.test") as tls:
        assert ask(tls, host) == status


def test_http2_connection_goes_on_after_a_misdirected_request(node):
    """As a browser does it that has a connection whose certificate is good for the other host as well."""
    each = ["-sS", "--http2", "--max-time", "30", "--cacert", str(node.ca.cert), "--connect-to", f"::127.0.0.1:{node.shared_port}",
            "-o", "/dev/null", "-w", "%{http_code} %{num_connects}\n", "https://ends.test/"]
    text = subprocess.run(["curl", *each, "--next", "-H", "Host: other.test", *each, "--next", *each], stdout=subprocess.PIPE,
                          universal_newlines=True, timeout=60, check=True).stdout
    assert text.split() == ["200", "1", "421", "0", "200", "0"]


def test_names_come_and_go_without_a_cut(node):
    """By the command line: a service for everybody else, a name that moves, and connections that stay."""
    held = node.connect("ends.test")
    assert ask(held, "ends.test") == 200
    waiting = socket.create_connection(("127.0.0.1", node.shared_port), timeout=20)  # has said nothing yet
    code, text = node.run("service", "create", "rest", node.address_of_all, "kind=http", "path=proxy", "tls=terminate",
                          "tls.certificates=rest", "check.kind=none")
    assert code == 0, text
    code, text = node.run("backend", "add", "rest", f"127.0.0.1:{node.backends['rest']}")
    assert code == 0, text
    assert http1.wait_until(lambda: node.curl("rest.test") == "rest")
    assert node.curl("127.0.0.1") == "rest"  # no name is said for an address
    context = ssl.create_default_context(cafile=str(node.ca.cert))
    with context.wrap_socket(waiting, server_hostname="ends.test") as tls:
        assert ask(tls, "ends.test") == 200
    for fields, complaint in ((["tls.names=other.test"], "'other.test' at"), (["tls=off", "tls.certificates="], "is the address of")):
        code, text = node.run("service", "set", "rest", *fields)
        assert code != 0 and complaint in text, text
    code, text = node.run("service", "create", "second", node.address_of_all, "kind=http", "path=proxy", "tls=terminate",
                          "tls.certificates=rest")
    assert code != 0 and "is the address of the service" in text, text
    code, text = node.run("service", "set", "rest", "tls.names=rest.test")
    assert code == 0, text
    shown = json.loads(node.run("service", "show", "rest", "--json")[1])
    assert "rest.test" in json.dumps(shown)
    assert http1.wait_until(lambda: "unrecognized name" in node.s_client("-noservername"))
    code, text = node.run("service", "rm", "rest")
    assert code == 0, text
    assert http1.wait_until(lambda: "unrecognized name" in node.s_client("-servername", "rest.test"))
    assert ask(held, "ends.test") == 200
    held.close()


def test_names_of_the_file_move(node):
    """Reloaded: one name goes from one service to another."""
    names = node.names
    try:
        node.names = {**names, "ends": "ends.test", "other": "other.test,*.ends.test"}
        node.write_config()
        node.process.send_signal(signal.SIGHUP)
        assert http1.wait_until(lambda: node.curl("x.ends.test", "--insecure") == "other", 30)
        assert node.curl("ends.test") == "ends"
    finally:
        node.names = names
        node.write_config()
        node.process.send_signal(signal.SIGHUP)
    assert http1.wait_until(lambda: node.curl("x.ends.test") == "ends", 30)


def test_names_outlive_both_processes(node):
    node.restart("kill")
    assert node.curl("deep.wild.test").startswith("deep")
    assert node.curl("other.test") == "other"
