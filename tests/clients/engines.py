# SPDX-License-Identifier: Apache-2.0
"""Docker engines, each in a network namespace of its own, and what stands in front of them: Fairlead, or, to test the tests,
HAProxy (FAIRLEAD_TEST_PROXY=haproxy; it has no half-closes and no sessions that stay together) or nothing (none)."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess

import harness
import http1

PROXY = os.environ.get("FAIRLEAD_TEST_PROXY", "fairlead")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def missing(*commands):
    """Which of them are not installed."""
    return [command for command in commands if not shutil.which(command, path=PATH)]


class Engine:
    """A dockerd; its socket is `socket`. It has a network of its own: nothing of the machine's is touched."""

    def __init__(self, folder, name):
        self.folder = pathlib.Path(folder) / name
        self.folder.mkdir(parents=True)
        self.socket = self.folder / "sock"
        self.netns = f"fl{os.getpid()}-{name}"
        self.address = "10.98.0.1"
        subprocess.run(["ip", "netns", "add", self.netns], check=True)
        for words in (["link", "set", "lo", "up"], ["link", "add", "eth0", "type", "veth", "peer", "name", "eth1"],
                      ["link", "set", "eth0", "up"], ["link", "set", "eth1", "up"],
                      ["addr", "add", f"{self.address}/24", "dev", "eth0"]):
            subprocess.run(["ip", "-n", self.netns, *words], check=True)
        (self.folder / "daemon.json").write_text("{}")
        command = ["nsenter", f"--net=/run/netns/{self.netns}", "dockerd", f"--config-file={self.folder}/daemon.json",
                   f"--data-root={self.folder}/data", f"--exec-root={self.folder}/exec", f"--pidfile={self.folder}/pid",
                   f"--host=unix://{self.socket}", "--storage-driver=overlay2", "--bridge=none", "--iptables=false",
                   "--ip6tables=false", "--exec-opt", "native.cgroupdriver=cgroupfs"]
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(command, env={"PATH": PATH, "HOME": str(self.folder)}, stdout=log, stderr=log,
                                            stdin=subprocess.DEVNULL, start_new_session=True)
        assert http1.wait_until(self.is_ready, 30, 0.2), self.log()
        self.socket.chmod(0o666)  # the data plane is not root

    def is_ready(self):
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(str(self.socket))
                sock.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b"200" in sock.recv(100)
            except OSError:
                return False

    def log(self):
        return (self.folder / "log").read_text()[-4000:]

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for mount in pathlib.Path("/proc/mounts").read_text().splitlines():
            if str(self.folder) in mount:
                subprocess.run(["umount", "-l", mount.split()[1]], check=False)
        subprocess.run(["ip", "netns", "del", self.netns], check=False)


class FairleadFront(harness.FairleadRegistry):
    """Fairlead with proxied services on loopback: {name: (kind, [backend addresses], fields)}. `ports` has their ports. The
    registry of the node itself is there too."""

    def __init__(self, services, **options):
        super().__init__(**options)
        self.settings["kernel.enabled"] = False
        self.services = services
        self.ports = {name: harness.free_port() for name in services}

    def config(self):
        entries = []
        for name, (kind, backends, fields) in self.services.items():
            entries.append({
                "name": name, "address": f"127.0.0.1:{self.ports[name]}", "kind": kind, "path": "proxy", "steer": False,
                "check": {"kind": "none"}, **fields,
                "backends": [{"name": f"b{i}", "address": address} for i, address in enumerate(backends)]})
        return {**super().config(), "services": entries}

    def docker_host(self, service):
        return f"tcp://127.0.0.1:{self.ports[service]}"

    def is_ready(self):
        return super().is_ready() and all(self.listens(port) for port in self.ports.values())

    @staticmethod
    def listens(port):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True


class HaproxyFront(harness.Registry):
    """HAProxy with the same services."""

    kind = "haproxy"
    clean_exits = (0, -signal.SIGTERM, 143)

    def __init__(self, services, **options):
        super().__init__(**options)
        self.services = services
        self.ports = {name: harness.free_port() for name in services}

    docker_host = FairleadFront.docker_host

    def write_config(self):
        lines = ["global", "  maxconn 2000", "defaults", "  mode http", "  timeout connect 5s", "  timeout client 1h",
                 "  timeout server 1h", "  timeout tunnel 1h", "  retries 3", "  option redispatch",
                 "  option http-no-delay", "  retry-on conn-failure empty-response response-timeout"]
        for name, (_, backends, _) in self.services.items():
            lines += [f"listen {name}", f"  bind 127.0.0.1:{self.ports[name]}", "  balance roundrobin"]
            lines += [f"  server b{i} {address.replace('unix:', 'unix@')}" for i, address in enumerate(backends)]
        (self.folder / "haproxy.cfg").write_text("\n".join(lines) + "\n")

    def command(self):
        return ["haproxy", "-db", "-f", str(self.folder / "haproxy.cfg")]

    def is_ready(self):
        assert self.process.poll() is None, self.report("ended")
        return all(FairleadFront.listens(port) for port in self.ports.values())


class NoFront:
    """The first backend of each service itself."""

    def __init__(self, services):
        self.hosts = {name: backends[0].replace("unix:", "unix://") for name, (_, backends, _) in services.items()}

    def start(self):
        return self

    def docker_host(self, service):
        return self.hosts[service]

    def close(self):
        pass


def new_front(services):
    return {"none": NoFront, "fairlead": FairleadFront, "haproxy": HaproxyFront}[PROXY](services)
