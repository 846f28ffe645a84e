# SPDX-License-Identifier: Apache-2.0
"""What stands between clients and backends in the tests of the proxy: Fairlead, or, to test the tests, HAProxy
(FAIRLEAD_TEST_PROXY=haproxy), which passes on what it gets and continues nothing."""

import json
import os
import socket
import subprocess

import http1
from harness import BUILD

KIND = os.environ.get("FAIRLEAD_TEST_PROXY", "fairlead")


def nested(fields):
    """{"a.b": c} as {"a": {"b": c}}: how the configuration writes what the socket writes with a dot."""
    out = {}
    for key, value in fields.items():
        *groups, last = key.split(".")
        place = out
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return out


def yaml_of(fields):
    """An entry of a list in the configuration; JSON is YAML."""
    return "  - " + json.dumps(nested(fields))


class Service:
    """A proxied service: `backends` are (name, address), `fields` those of `fairlead service`, with dots."""

    def __init__(self, name, port, backends, tls=False, client_tls=False, **fields):
        self.name, self.port, self.backends, self.tls, self.client_tls = name, port, backends, tls, client_tls
        self.fields = fields


class FairleadFront:
    """Fairlead on a host of a lab."""

    survives = True

    def __init__(self, lab, host, services, certificate, settings=()):
        self.lab, self.host, self.services, self.certificate = lab, lab[host], services, certificate
        self.settings = dict(settings)
        self.node = None

    def entry(self, service):
        entry = {"name": service.name, "address": f"{self.host.v4}:{service.port}", "kind": "registry", "path": "proxy",
                 "steer": False, **service.fields,
                 "backends": [{"name": name, "address": address} for name, address in service.backends]}
        if service.tls:
            entry |= {"backend.tls": True, "backend.verify": False}
        if service.client_tls:
            entry |= {"tls.mode": "terminate", "tls.certificates": "front"}
        return entry

    def config(self):
        lines = ["certificates: " + json.dumps({
            "front": {"cert": str(self.certificate[0]), "key": str(self.certificate[1])}})]
        lines = lines if any(service.client_tls for service in self.services) else []
        lines += ["services:", *(yaml_of(self.entry(service)) for service in self.services)]
        if self.settings:
            lines += ["settings: " + json.dumps(self.settings)]
        return "\n".join(lines) + "\n"

    def start(self):
        self.node = self.lab.node(self.host.name, config=self.config())
        for service in self.services:
            assert http1.wait_until(lambda: self.listens(service), 20), self.node.log()
        return self

    def listens(self, service):
        from netlab import in_namespace
        try:
            in_namespace(self.host.netns, lambda: socket.create_connection((self.host.v4, service.port), 1)).close()
        except OSError:
            return False
        return True

    def drain(self, service, names, drain=True):
        """Takes no new requests to some backends, or does so again."""
        self.call("backend.admin", service=service.name, names=names, admin="drain" if drain else "active")

    def down(self, services):
        """Backends of these that the kernel does not call up."""
        return [f"{backend['service']}/{backend['name']} {backend['state']}" for backend in self.node.json("backend", "ls")
                if backend["service"] in services and backend["state"] in ("down", "suspect")]

    def create(self, service):
        """A further service, while it runs."""
        entry = self.entry(service)
        backends, name, address = entry.pop("backends"), entry.pop("name"), entry.pop("address")
        text = lambda value: str(value).lower() if isinstance(value, bool) else str(value)
        self.node.cli("service", "create", name, address, *(f"{key}={text(value)}" for key, value in entry.items()))
        for backend in backends:
            self.node.cli("backend", "add", name, backend["address"], f"name={backend['name']}")
        assert http1.wait_until(lambda: self.listens(service), 20), self.node.log()

    def call(self, method, **params):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(str(self.node.socket))
            sock.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n")
            with sock.makefile("rb") as lines:
                answer = json.loads(lines.readline())
        assert "result" in answer, answer
        return answer["result"]

    def log(self):
        return self.node.log()

    def alive(self):
        return self.node.process.poll() is None


class HaproxyFront:
    """HAProxy on a host of a lab."""

    survives = False

    def __init__(self, lab, host, services, certificate, settings=()):
        self.lab, self.host, self.services, self.certificate = lab, lab[host], services, certificate
        self.folder = lab.folder / "haproxy"

    def start(self):
        self.folder.mkdir()
        pem = self.folder / "front.pem"
        pem.write_bytes(self.certificate[0].read_bytes() + self.certificate[1].read_bytes())
        lines = ["global", "  maxconn 4000", f"  stats socket {self.folder}/sock level admin", "defaults", "  mode http",
                 "  timeout connect 2s", "  timeout client 10s", "  timeout server 2s", "  retries 2",
                 "  option splice-auto"]
        for service in self.services:
            bind = f"{self.host.v4}:{service.port}" + (f" ssl crt {pem}" if service.client_tls else "")
            lines += [f"listen {service.name}", f"  bind {bind}", "  balance roundrobin"]
            ssl = " ssl verify none" if service.tls else ""
            lines += [f"  server {name} {address}{ssl}" for name, address in service.backends]
        config = self.folder / "haproxy.cfg"
        config.write_text("\n".join(lines) + "\n")
        with open(self.folder / "log", "wb") as log:
            self.process = self.host.start("haproxy", "-db", "-f", config, stdout=log, stderr=log)
        assert http1.wait_until((self.folder / "sock").exists, 10), self.log()
        return self

    def drain(self, service, names, drain=True):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.folder / "sock"))
            state = "drain" if drain else "ready"
            sock.sendall(("; ".join(f"set server {service.name}/{name} state {state}" for name in names) + "\n").encode())
            while sock.recv(4096):
                pass

    def down(self, services):
        """It checks nothing."""
        return []

    def log(self):
        return (self.folder / "log").read_text()[-4000:]

    def alive(self):
        return self.process.poll() is None


FRONTS = {"fairlead": FairleadFront, "haproxy": HaproxyFront}


def new_front(*args, **options):
    return FRONTS[KIND](*args, **options)


def missing():
    """Why the front is not there, or empty."""
    if KIND == "haproxy" and subprocess.run(["which", "haproxy"], capture_output=True).returncode:
        return "haproxy is not installed"
    if KIND == "fairlead" and not (BUILD / "fairleadd").exists():
        return "fairleadd is not built"
    return ""
