# SPDX-License-Identifier: Apache-2.0
"""Backends that speak TLS and stand still, without traffic: their hosts take connections for them as ever, so that only
a handshake tells."""

import contextlib
import json
import os
import signal
import ssl
import threading

import pytest

import http1
import netlab
from netlab import Lab
from tls_files import Authority

pytestmark = netlab.needed

FAST = "settings:\n  kernel.tls_interval: 500ms\n  kernel.tls_timeout: 1s\n"


def nginx(host, folder, certificate, more=""):
    """A TLS server of one process; its port is 443."""
    folder.mkdir(parents=True)
    (folder / "nginx.conf").write_text(f"""
daemon off; master_process off; pid {folder}/pid; error_log stderr; user root;
events {{ }}
http {{
  access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{
    listen 443 ssl; listen [::]:443 ssl; ssl_protocols TLSv1.2 TLSv1.3; {more}
    ssl_certificate {certificate['cert']}; ssl_certificate_key {certificate['key']};
    location / {{ return 200 "{host.name}"; }}
  }}
}}
""")
    process = host.start("nginx", "-e", "stderr", "-c", folder / "nginx.conf", "-p", folder)
    assert http1.wait_until(lambda: host.run("curl", "-sko/dev/null", f"https://{host.v4}/", check=False).returncode in (0, 35), 30)  # 35: refused
    return process


def service(name, address, hosts, fields):
    rows = "".join(f"      - {{name: {h.name}, address: '{address_of(h)}'}}\n" for h in hosts for address_of in [lambda h: f"{h.v4}:443"])
    return f"  - name: {name}\n    address: {address}\n" + "".join(f"    {f}\n" for f in fields) + f"    backends:\n{rows}"


def shown(node, service_name, backend):
    return json.loads(node.cli("backend", "show", service_name, backend, "--json").stdout)


def state(node, service_name, backend):
    done = node.cli("backend", "show", service_name, backend, "--json", check=False)
    row = json.loads(done.stdout) if done.returncode == 0 else {}  # the file's services come a moment after the start
    return row.get("state"), row.get("reason")


def wait_state(node, service_name, backend, *wanted, seconds=60):
    """Until its state and reason are one of those."""
    assert http1.wait_until(lambda: state(node, service_name, backend) in wanted, seconds, 0.1), (
        state(node, service_name, backend), node.log())


@contextlib.contextmanager
def lab_of(ca, fields, more_of_one="", certificate_of_one=None, hosts=("fl", "one", "two")):
    with Lab(*hosts) as lab:
        lab.folder.chmod(0o755)
        certificates = {name: ca.issue(name, lab[name].v4, f"{name}.test") for name in ("one", "two")}
        lab.servers = {name: nginx(lab[name], lab.folder / f"nginx-{name}",
                                   (certificate_of_one if name == "one" else None) or certificates[name],
                                   more_of_one if name == "one" else "") for name in ("one", "two")}
        lab.node("fl", config=FAST + f"certificates:\n  ca: {{ca: {ca.cert}}}\nservices:\n" +
                 service("s", "10.99.1.1:443", [lab["one"], lab["two"]], fields))
        yield lab, lab.nodes[0]


WAYS = {
    "direct": ["kind: tcp", "check: {kind: tls}"],
    "passthrough": ["kind: tcp", "path: proxy", "tls: passthrough"],
    "backend.tls": ["kind: http", "path: proxy", "check: {kind: tls}", "backend: {tls: true, ca: ca}"],
}
UP = ("up", "probe-ok")


@pytest.mark.parametrize("way", WAYS)
def test_frozen_backend_is_found_without_traffic(tmp_path, way):
    with lab_of(Authority(tmp_path / "ca"), WAYS[way]) as (lab, node):
        for name in ("one", "two"):
            wait_state(node, "s", name, UP)
        assert http1.wait_until(lambda: shown(node, "s", "one")["figures"]["tls_handshakes"] >= 3, 60)
        assert shown(node, "s", "one")["tls"] == "answered"
        os.kill(lab.servers["one"].pid, signal.SIGSTOP)
        wait_state(node, "s", "one", ("suspect", "tls-timeout"), ("down", "tls-timeout"))
        wait_state(node, "s", "one", ("down", "tls-timeout"))
        assert "ClientHello" in shown(node, "s", "one")["tls"]
        assert state(node, "s", "two") == UP  # and was never anything else:
        assert [row for row in shown(node, "s", "two")["history"] if row["reason"].startswith("tls")] == []
        os.kill(lab.servers["one"].pid, signal.SIGCONT)
        wait_state(node, "s", "one", UP)
        assert shown(node, "s", "one")["figures"]["tls_failures"] >= 3


def test_pause_of_control_accuses_nobody(tmp_path):
    """It was stopped in the middle of handshakes: what it sees then, too late, says nothing of the backends."""
    with lab_of(Authority(tmp_path / "ca"), WAYS["direct"]) as (_, node):
        for name in ("one", "two"):
            wait_state(node, "s", name, UP)
        for _ in range(3):
            before = shown(node, "s", "one")["figures"]["tls_handshakes"]
            node.process.send_signal(signal.SIGSTOP)
            threading.Event().wait(2.5)  # more than the time-out of a handshake
            node.process.send_signal(signal.SIGCONT)
            assert http1.wait_until(lambda: shown(node, "s", "one")["figures"]["tls_handshakes"] > before, 60)
        for name in ("one", "two"):
            assert [row for row in shown(node, "s", name)["history"] if row["reason"].startswith("tls")] == []
            assert shown(node, "s", name)["figures"]["tls_failures"] == 0


def test_certificate_that_the_service_does_not_take(tmp_path):
    """A backend whose certificate has become wrong gets no requests; whoever does not look at certificates takes it."""
    stranger = Authority(tmp_path / "stranger", "stranger").issue("one", "one.test")
    ca = Authority(tmp_path / "ca")
    with lab_of(ca, WAYS["backend.tls"], certificate_of_one=stranger) as (lab, node):
        wait_state(node, "s", "two", UP)
        wait_state(node, "s", "one", ("down", "tls-certificate"))
        assert "certificate" in shown(node, "s", "one")["tls"]
        node.cli("service", "create", "loose", "10.99.1.2:443", "path=proxy", "kind=http", "check.kind=tls", "backend.tls=true",
                 "backend.verify=false")
        node.cli("backend", "add", "loose", f"{lab['one'].v4}:443", "name=one", check=False)
        name = node.json("backend", "ls", "loose")[0]
        name = name["backends"][0]["name"] if "backends" in name else name["name"]
        assert http1.wait_until(lambda: shown(node, "loose", name)["figures"]["tls_handshakes"] >= 2, 60)
        assert shown(node, "loose", name)["tls"] == "answered"


@pytest.mark.parametrize("more", ["ssl_reject_handshake on;", "ssl_verify_client optional_no_ca;"])
def test_refusal_of_the_handshake_is_an_answer(tmp_path, more):
    """What passes through is not ours to speak: the server may want another name, or a certificate."""
    with lab_of(Authority(tmp_path / "ca"), WAYS["passthrough"], more_of_one=more) as (_, node):
        wait_state(node, "s", "one", UP)
        assert http1.wait_until(lambda: shown(node, "s", "one")["figures"]["tls_handshakes"] >= 3, 60)
        assert shown(node, "s", "one")["figures"]["tls_failures"] == 0


def test_clear_text_backend_is_no_tls_backend(tmp_path):
    with Lab("fl", "one") as lab:
        lab.folder.chmod(0o755)
        lab["one"].pong(443)
        node = lab.node("fl", config=FAST + "services:\n" + service("s", "10.99.1.1:443", [lab["one"]], WAYS["direct"]))
        wait_state(node, "s", "one", ("down", "tls-failed"), ("down", "tls-timeout"))
        node.config = node.config.replace("kind: tls", "kind: tcp")
        node.write_config()
        node.process.send_signal(signal.SIGHUP)
        wait_state(node, "s", "one", UP)


