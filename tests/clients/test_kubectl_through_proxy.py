# SPDX-License-Identifier: Apache-2.0
"""kubectl, and the bytes of its older protocol, through the proxy, against the wire of an API server (kube.py)."""

import os
import shutil
import socket
import subprocess

import pytest

import engines
import http1
from kube import ApiServer

KUBECTL = shutil.which("kubectl")
kubectl_needed = pytest.mark.skipif(not KUBECTL, reason="kubectl is not installed")
pytestmark = pytest.mark.skipif(engines.PROXY == "none", reason="is about what stands in between")


class Site:
    def __init__(self, folder):
        self.folder = folder
        self.servers = [ApiServer(), ApiServer()]
        self.front = engines.new_front({"kube": ("kubernetes", [server.host for server in self.servers], {})}).start()

    @property
    def port(self):
        return self.front.ports["kube"]

    def command(self, *words):
        return [KUBECTL, f"--server=http://127.0.0.1:{self.port}", f"--cache-dir={self.folder}/cache", *words]

    def environment(self):
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder), "KUBECONFIG": str(self.folder / "none")}

    def kubectl(self, *words, input=None):
        done = subprocess.run(self.command(*words), env=self.environment(), input=input, capture_output=True, timeout=60,
                              check=False)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout.decode()

    def asked(self):
        return [each for server in self.servers for each in server.asked]

    def close(self):
        self.front.close()
        for server in self.servers:
            server.close()


@pytest.fixture(scope="module")
def site(folder):
    made = Site(folder)
    yield made
    made.close()


@kubectl_needed
def test_get(site):
    assert "web" in site.kubectl("get", "pods")
    assert '"phase": "Running"' in site.kubectl("get", "pod", "web", "-o", "json")


@kubectl_needed
def test_get_watch(site):
    """Events come as they happen; between them is silence, at their end the client's patience."""
    with subprocess.Popen(site.command("get", "pods", "-w", "-o", 'jsonpath={.status.phase}{"\\n"}'), env=site.environment(),
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as watch:
        assert [watch.stdout.readline() for _ in range(3)] == [b"Running\n", b"Pending\n", b"Succeeded\n"]
        assert watch.poll() is None
        watch.kill()


@kubectl_needed
def test_logs_follow(site):
    with subprocess.Popen(site.command("logs", "-f", "web"), env=site.environment(), stdout=subprocess.PIPE) as logs:
        assert [logs.stdout.readline().decode() for _ in range(5)] == [f"line {i}\n" for i in range(5)]
        assert logs.poll() is None
        for server in site.servers:
            server.go.set()
        assert logs.stdout.read().decode() == "the last one\n"
        assert logs.wait(20) == 0


def speaks_websocket():
    """kubectl from 1.31 on asks by WebSocket first."""
    if not KUBECTL:
        return False
    shown = subprocess.run([KUBECTL, "version", "--client", "-o", "json"], capture_output=True, text=True, check=False).stdout
    minor = shown.partition('"minor": "')[2].partition('"')[0].rstrip("+")
    return minor.isdigit() and int(minor) >= 31


@pytest.mark.skipif(not speaks_websocket(), reason="this kubectl does not speak WebSocket")
def test_exec(site):
    assert site.kubectl("exec", "web", "--", "say") == "from the pod\n"
    assert ("GET", "websocket") in [(method, upgrade.lower()) for method, _, upgrade in site.asked()]


@pytest.mark.skipif(not speaks_websocket(), reason="this kubectl does not speak WebSocket")
def test_exec_with_input(site):
    data = b"some text\n" * 20000
    assert site.kubectl("exec", "-i", "web", "--", "cat", input=data).encode() == data


@pytest.mark.parametrize("target", ["exec?command=cat&stdin=true&stdout=true", "portforward?ports=80"])
def test_spdy_upgrade(site, target):
    """The bytes after the upgrade pass as they are, both ways, and each way ends for itself."""
    data = os.urandom(200_000)
    with http1.Connection(("127.0.0.1", site.port)) as connection:
        connection.request("POST", f"/api/v1/namespaces/default/pods/web/{target}", None, {
            "Connection": "Upgrade", "Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": "v4.channel.k8s.io",
            "Content-Length": "0"})
        answer = connection.response("POST")
        assert answer.status == 101
        assert answer.header("Upgrade") == "SPDY/3.1"
        assert answer.header("X-Stream-Protocol-Version") == "v4.channel.k8s.io"
        connection.send(data[:100])
        back = connection.read_some()
        connection.send(data[100:])
        connection.sock.shutdown(socket.SHUT_WR)
        assert back + connection.read_to_end() == data + b"end"
