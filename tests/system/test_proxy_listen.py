# SPDX-License-Identifier: Apache-2.0
"""The addresses of proxied services: they come and go with their services, outlive both processes' deaths, need no
interface, and are answered for on the LAN by whoever is to and nobody else."""

import contextlib
import http.server
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

import harness
import http1
import netlab
from harness import free_port
from netlab import Lab

pytestmark = pytest.mark.skipif(harness.KIND != "fairlead", reason="tests Fairlead's own proxy")

FAIRLEAD = str(harness.BUILD / "fairlead")
ASK = str(pathlib.Path(__file__).parent / "ask_address.py")


class Hello(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = self.server.name.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class UnixServer(http.server.ThreadingHTTPServer):
    address_family = socket.AF_UNIX

    def server_bind(self):
        self.socket.bind(self.server_address)

    def get_request(self):
        return self.socket.accept()[0], ("unix", 0)


@contextlib.contextmanager
def hello(name, address=("127.0.0.1", 0), kind=http.server.ThreadingHTTPServer):
    with kind(address, Hello) as server:
        server.name, server.daemon_threads = name, True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def cli(registry, *words, code=0):
    done = subprocess.run([FAIRLEAD, "--socket", str(registry.socket_path), *words], capture_output=True, text=True,
                          timeout=30)
    assert done.returncode == code, (words, done.stdout, done.stderr)
    return done.stdout + done.stderr


def warnings(registry):
    return json.loads(cli(registry, "status", "--json"))["warnings"]


def said(address):
    """What a GET brings, None where nobody listens, or goes meanwhile."""
    try:
        return http1.Client(address).exchange("GET", "/").body.decode()
    except (ConnectionError, http1.ConnectionEnded):
        return None


def says(address, text):
    return http1.wait_until(lambda: said(address) == text, 20)


@pytest.fixture
def node(make_registry):
    return make_registry(settings={"kernel.enabled": False})


def create(node, name, address, backend, *fields):
    cli(node, "service", "create", name, "%s:%d" % address, "kind=http", "path=proxy", "check.kind=none", *fields)
    cli(node, "backend", "add", name, backend)


def test_service_comes_and_goes(node):
    address, again = ("127.0.0.1", free_port()), ("127.0.0.1", free_port())
    assert said(address) is None
    with hello("one") as one, hello("two") as two:
        create(node, "web", address, "127.0.0.1:%d" % one.server_address[1])
        assert says(address, "one")
        assert [s["service"] for s in json.loads(cli(node, "status", "--json"))["services"]][2:] == ["web"]
        assert {"name": "web", "kind": "http", "backends": 1} in json.loads(cli(node, "plan", "--json"))["services"]
        assert "service web, kind http, is proxied to 1 backends" in cli(node, "plan")
        cli(node, "service", "set", "web", "address=%s:%d" % again)
        assert says(again, "one")
        assert http1.wait_until(lambda: said(address) is None, 20)
        cli(node, "service", "rm", "web", "--yes")
        assert http1.wait_until(lambda: said(again) is None, 20)
        # A service that is made anew at the same place and address is another one.
        create(node, "web", again, "127.0.0.1:%d" % two.server_address[1])
        assert says(again, "two")
    assert node.dataplane_pids()


def test_kept_connections_do_not_reach_another_service(node):
    """A client that stays connected is not answered by the service that gets the place of its own."""
    address = ("127.0.0.1", free_port())
    with hello("one") as one, hello("two") as two:
        create(node, "web", address, "127.0.0.1:%d" % one.server_address[1])
        assert says(address, "one")
        with http1.Connection(address) as kept:
            assert kept.exchange("GET", "/").body == b"one"
            cli(node, "service", "rm", "web", "--yes")
            create(node, "other", address, "127.0.0.1:%d" % two.server_address[1])
            assert says(address, "two")
            with pytest.raises((ConnectionError, http1.ConnectionEnded)):
                kept.exchange("GET", "/")


def test_both_processes_die(node):
    address = ("127.0.0.1", free_port())
    with hello("one") as one:
        create(node, "web", address, "127.0.0.1:%d" % one.server_address[1])
        assert says(address, "one")
        pids = node.dataplane_pids()
        node.kill_control()
        assert said(address) == "one"
        node.start()
        assert node.dataplane_pids() == pids and said(address) == "one"
        node.kill_dataplane()
        assert says(address, "one")
        node.restart("kill")
        assert says(address, "one")
        # What was removed while nobody looked is not served.
        cli(node, "service", "rm", "web", "--yes")
        node.restart("kill")
        assert http1.wait_until(lambda: said(address) is None, 20)


def test_addresses_that_are_taken(node):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = "127.0.0.1:%d" % other.getsockname()[1]
        words = ("service", "create", "web")
        assert "ss -ltnp" in cli(node, *words, taken, "path=proxy", code=1)
        assert "this node itself" in cli(node, *words, node.host, "path=proxy", code=1)
        assert json.loads("[%s]" % cli(node, "service", "ls", "--json")) == []
        # Whoever comes later is told about, and gets it when it is free.
        cli(node, *words, "127.0.0.1:%d" % free_port(), "path=proxy", "kind=http", "check.kind=none")
    address = ("127.0.0.1", free_port())
    with hello("one") as one, contextlib.ExitStack() as stack:
        cli(node, "backend", "add", "web", "127.0.0.1:%d" % one.server_address[1])
        cli(node, "service", "set", "web", "address=%s:%d" % address)
        assert says(address, "one")
        node.stop()
        stack.enter_context(socket.create_server(address))
        node.start()
        assert any("service 'web': cannot listen" in w for w in warnings(node))
        stack.close()
        assert says(address, "one")
        assert not any("cannot listen" in w for w in warnings(node))


def test_file_says_them(make_registry):
    """Of the configuration file, and refused there when the node itself has the address."""
    address = ("127.0.0.1", free_port())
    registry = make_registry(settings={"kernel.enabled": False})
    with hello("one") as one:
        service = {"name": "web", "address": "%s:%d" % address, "kind": "http", "path": "proxy", "tls": {"mode": "off"},
                   "queue": {"max": 7}, "check": {"kind": "none"},
                   "backends": [{"address": "127.0.0.1:%d" % one.server_address[1]}]}
        config = registry.config()
        registry.config = lambda: {**config, "services": [service]}
        registry.write_config()
        registry.process.send_signal(signal.SIGHUP)
        assert says(address, "one")
        assert "queue.max              7" in cli(registry, "service", "show", "web")
        service["address"] = registry.host
        registry.write_config()
        done = subprocess.run([str(harness.BUILD / "fairleadd"), "--check", *registry.command()[1:]], capture_output=True,
                              text=True)
        assert done.returncode == 2 and "which this node itself listens on" in done.stderr


def test_unix_socket(node):
    path = node.folder / "backend.sock"
    address = ("127.0.0.1", free_port())
    node.folder.chmod(0o755)
    with hello("unix", str(path), UnixServer):
        path.chmod(0o777)
        create(node, "web", address, f"unix:{path}")
        assert says(address, "unix")
    shown = json.loads(cli(node, "backend", "ls", "web", "--json"))
    assert shown["address"] == f"unix:{path}" and shown["name"].endswith("backend.sock")


# ---------------------------------------------------------------- hosts

VIP, VIP6 = "10.99.0.77", "fd00:99::77"
ROUTES = ("route", "show", "table", "local", "proto", "102")


@pytest.fixture
def lab():
    with Lab("front", "client") as instance:
        yield instance


def config(takeover=False):
    lines = ["services:"]
    for name, address in (("web", f"{VIP}:80"), ("web6", f'"[{VIP6}]:80"')):
        lines += [f"  - name: {name}", f"    address: {address}", "    kind: tcp", "    path: proxy",
                  f"    takeover: {str(takeover).lower()}", "    backends:", "      - address: 10.99.0.1:9000"]
    return "\n".join(lines) + "\n"


def is_on(node):
    return node.cli("kernel", check=False).stdout.startswith("kernel half: on")


def reached(host, address):
    """The backend's name, read over a new connection; "" if there is none."""
    script = ("import socket, sys\n"
              "s = socket.create_connection((sys.argv[1], 80), 2)\n"
              "s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')\n"
              "print(s.makefile().read().split()[-1])")
    return host.run(sys.executable, "-c", script, address, check=False).stdout.strip()


def mapped(node):
    """How the data plane has the kernel's maps: permissions, sorted."""
    pid = re.match(r"\d+", (node.folder / "state/dataplane.pid").read_text())[0]
    lines = pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines()
    return sorted(line.split()[1] for line in lines if "bpf-map" in line)


def asked(lab, address):
    """Link addresses that answer an ARP request of the client."""
    words = ["nsenter", f"--net=/run/netns/{lab['client'].netns}", sys.executable, ASK, "eth0", address, "1", "300"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True)
    return json.loads(done.stdout)[0]["answers"]


@netlab.needed
def test_address_that_no_interface_has(lab):
    lab["front"].pong(9000, "backend")
    node = lab.node("front", config=config())
    front = lab["front"]
    for address in (VIP, VIP6):
        assert http1.wait_until(lambda a=address: reached(front, a) == "backend", 20), node.log()
    assert http1.wait_until(lambda: is_on(node), 30), node.log()
    assert VIP in front.ip(*ROUTES).stdout and VIP6 in front.ip("-6", *ROUTES).stdout
    # The kernel's verdicts are read, its slots for evidence are filled, and nothing else of it is there.
    assert http1.wait_until(lambda: mapped(node) == ["r--s", "rw-s"], 20)
    # Without takeover nobody answers for it on the LAN; the host's own addresses are.
    assert http1.wait_until(lambda: asked(lab, VIP) == [], 20)
    assert asked(lab, front.v4) != []
    # A restart of control changes nothing of that.
    os.kill(node.process.pid, signal.SIGKILL)
    node.process.wait()
    assert reached(front, VIP) == "backend"
    node.start()
    assert http1.wait_until(lambda: is_on(node), 30), node.log()
    assert http1.wait_until(lambda: mapped(node) == ["r--s", "rw-s"], 20)
    assert asked(lab, VIP) == [] and reached(front, VIP6) == "backend"
    # Off is off, and on again is on again.
    node.cli("set", "kernel.enabled", "false")
    assert http1.wait_until(lambda: mapped(node) == [] and VIP not in front.ip(*ROUTES).stdout, 20), node.log()
    node.cli("set", "kernel.enabled", "true")
    assert http1.wait_until(lambda: len(mapped(node)) == 2 and VIP in front.ip(*ROUTES).stdout, 30), node.log()


@netlab.needed
def test_address_that_is_taken_over(lab):
    lab["front"].pong(9000, "backend")
    node = lab.node("front", config=config(takeover=True))
    front, client = lab["front"], lab["client"]
    for address in (VIP, VIP6):
        assert http1.wait_until(lambda a=address: reached(client, a) == "backend", 30), node.log()
    assert len(asked(lab, VIP)) == 1
    node.stop()
    front.run(netlab.BUILD / "fairleadd", "--detach", node.instance)
    assert front.ip(*ROUTES).stdout == "" and front.ip("-6", *ROUTES).stdout == ""


@netlab.needed
def test_connections_outlive_their_service(lab):
    """What is under way needs the address: its route goes when the last connection has."""
    front = lab["front"]
    echo = ("import socket, threading\n"
            "l = socket.create_server(('10.99.0.1', 9000))\n"
            "def serve(s):\n"
            "    while d := s.recv(100): s.sendall(d)\n"
            "while True: threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()")
    front.start(sys.executable, "-c", echo)
    node = lab.node("front")
    node.cli("service", "create", "web", f"{VIP}:80", "kind=tcp", "path=proxy")
    node.cli("backend", "add", "web", "10.99.0.1:9000")
    assert http1.wait_until(lambda: VIP in front.ip(*ROUTES).stdout, 20), node.log()

    def connected():
        with contextlib.suppress(OSError):
            sock = netlab.in_namespace(front.netns, lambda: socket.create_connection((VIP, 80), 2))
            sock.settimeout(20)
            sock.sendall(b"a")
            if sock.recv(10) == b"a":
                return sock
            sock.close()
        return None

    sock = None
    for _ in range(50):
        sock = connected()
        if sock or http1.wait_until(lambda: False, 0.2):
            break
    assert sock, node.log()
    with sock:
        node.cli("service", "rm", "web", "--yes")
        assert http1.wait_until(lambda: "is not listened on any more" in node.log(), 20), node.log()
        for _ in range(3):
            sock.sendall(b"b")
            assert sock.recv(10) == b"b"
        assert VIP in front.ip(*ROUTES).stdout
    assert http1.wait_until(lambda: VIP not in front.ip(*ROUTES).stdout, 20), node.log()
