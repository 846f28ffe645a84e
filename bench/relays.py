# SPDX-License-Identifier: Apache-2.0
"""The proxies that are compared, all in front of the same backend (bench/origin.c), with as many threads, rings or workers as
there are processors, the same limits, no access log, connections to the backend kept."""

import hashlib
import json
import os
import pathlib
import pwd
import signal
import subprocess
import time

import servers
from measure import BenchError
from servers import WORKERS, Server, free_port

CLIENTS_MAX = 18000  # of one process, the same for all
IDLE = "1h"


def make_certificate(folder):
    """What every server over TLS shows: ECDSA, P-256. Returns (certificate, key, both in one file)."""
    folder.mkdir(exist_ok=True)
    certificate, key, both = folder / "bench.crt", folder / "bench.key", folder / "bench.pem"
    if not both.exists():
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                        "-keyout", key, "-out", certificate, "-days", "30", "-subj", "/CN=localhost", "-addext",
                        "subjectAltName=DNS:localhost,IP:127.0.0.1"], check=True, capture_output=True, timeout=60)
        both.write_bytes(certificate.read_bytes() + key.read_bytes())
        folder.chmod(0o755)
        for path in (key, both):
            path.chmod(0o600)
    return certificate, key, both


class Origin(Server):
    """The backend itself: what is reached without a proxy."""

    name = "direct"
    build = pathlib.Path("build")

    def command(self):
        return [str(self.build / "bench/origin"), str(self.port), str(WORKERS)]


def origin_digest(size):
    """SHA-256 of what the backend sends for a large body; whole blocks."""
    block = bytes((i * 131 >> 3) & 0xff for i in range(65536))
    digest = hashlib.sha256()
    for _ in range(size // len(block)):
        digest.update(block)
    return digest.hexdigest()


class BareRelay(Server):
    """The least code that relays: options backend."""

    name = "bare splice loop"
    build = pathlib.Path("build")

    def command(self):
        return [str(self.build / "bench/bare_relay"), str(self.port), str(self.options["backend"]), str(WORKERS)]


class Fairlead(Server):
    """Options: backend (a port), tls, and of the service: kind, technique, verify."""

    name = "fairlead"
    build = pathlib.Path("build")

    def prepare(self):
        self.folder.chmod(0o755)
        service = {
            "name": "bench", "address": f"127.0.0.1:{self.port}", "kind": self.options.get("kind", "http"),
            "path": "proxy", "steer": False, "check": {"kind": "none"}, "technique": self.options.get("technique", "auto"),
            "backend": {"connections_max": CLIENTS_MAX}, "idle_timeout": "0ms",
            "resume": {"verify": self.options.get("verify", "resumed")},
            "backends": [{"name": "origin", "address": f"127.0.0.1:{self.options['backend']}"}],
        }
        config = {
            "state": str(self.folder / "state"),
            "listen": [{"address": f"127.0.0.1:{free_port()}", "service": "registry"}],
            "admin": {"address": f"127.0.0.1:{free_port()}"},
            "control": {"socket": str(self.folder / "control.sock")},
            "dataplane": {"rings": WORKERS},
            "services": [service],
            "settings": {"log.access": False, "kernel.enabled": False, "http.connections_max": CLIENTS_MAX // WORKERS,
                         "http.idle_timeout": IDLE, **self.options.get("settings", {})},
        }
        if self.options.get("tls"):
            certificate, key, _ = make_certificate(self.folder.parent / "tls")
            service["tls"] = {"mode": "terminate", "certificates": ["bench"]}
            config["certificates"] = {"bench": {"cert": str(certificate), "key": str(key)}}
        (self.folder / "config.yaml").write_text(json.dumps(config))

    def command(self):
        return [str(self.build / "fairleadd"), "--config", str(self.folder / "config.yaml")]

    def technique(self, ask):
        """How the bytes of what ask() fetches move, as the trace of its request says."""
        trace = subprocess.Popen([str(self.build / "fairlead"), "--socket", str(self.folder / "control.sock"), "--json",
                                  "trace"], stdout=subprocess.PIPE, text=True)
        try:
            time.sleep(0.3)
            ask()
            return json.loads(trace.stdout.readline()).get("technique", "unknown")
        finally:
            trace.terminate()
            trace.wait()


class Haproxy(Server):
    """HAProxy with splicing on. Options: backend, tls."""

    name = "HAProxy"

    def prepare(self):
        tls = ""
        if self.options.get("tls"):
            tls = f" ssl crt {make_certificate(self.folder.parent / 'tls')[2]} ssl-min-ver TLSv1.2"
        (self.folder / "haproxy.cfg").write_text(f"""
global
  nbthread {WORKERS}
  no strict-limits
  maxconn {CLIENTS_MAX}
defaults
  mode http
  maxconn {CLIENTS_MAX}
  timeout connect 5s
  timeout client {IDLE}
  timeout server {IDLE}
  timeout tunnel {IDLE}
  timeout http-keep-alive {IDLE}
  option splice-auto
  http-reuse always
listen bench
  bind 127.0.0.1:{self.port}{tls}
  server origin 127.0.0.1:{self.options['backend']} maxconn {CLIENTS_MAX} pool-max-conn -1
""")

    def command(self):
        return ["haproxy", "-db", "-f", str(self.folder / "haproxy.cfg")]


class HaproxyAsSubject(Haproxy):
    """In Fairlead's place, to try out the benchmark itself."""

    name = "haproxy again"

    def technique(self, ask):
        ask()
        return "unknown"


class NginxProxy(Server):
    """Options: backend, tls."""

    name = "nginx"

    def prepare(self):
        user = f"user {pwd.getpwuid(os.getuid()).pw_name};" if os.getuid() == 0 else ""
        listen, tls = f"127.0.0.1:{self.port} reuseport backlog=4096", ""
        if self.options.get("tls"):
            certificate, key, _ = make_certificate(self.folder.parent / "tls")
            listen += " ssl"
            tls = (f"ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;"
                   "ssl_session_cache shared:bench:10m; ssl_session_tickets on;")
        (self.folder / "nginx.conf").write_text(f"""
{user}
daemon off;
worker_processes {WORKERS};
worker_rlimit_nofile 20000;
pid {self.folder}/pid;
error_log stderr error;
events {{ worker_connections {CLIENTS_MAX}; }}
http {{
    access_log off;
    tcp_nopush on;
    keepalive_timeout {IDLE};
    keepalive_requests 1000000000;
    proxy_read_timeout {IDLE}; proxy_send_timeout {IDLE};
    proxy_max_temp_file_size 0;
    client_body_temp_path {self.folder}/t1; proxy_temp_path {self.folder}/t2; fastcgi_temp_path {self.folder}/t3;
    uwsgi_temp_path {self.folder}/t4; scgi_temp_path {self.folder}/t5;
    map $http_upgrade $connection_out {{ default upgrade; '' ''; }}
    upstream origin {{ server 127.0.0.1:{self.options['backend']}; keepalive 256; keepalive_requests 1000000000; }}
    server {{
        listen {listen};
        {tls}
        location / {{
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_out;
        }}
    }}
}}
""")

    def command(self):
        return ["nginx", "-e", "stderr", "-c", str(self.folder / "nginx.conf"), "-p", str(self.folder)]


class FairleadFiles(servers.Fairlead):
    """The registry over TLS."""

    def prepare(self):
        super().prepare()
        certificate, key, _ = make_certificate(self.folder.parent / "tls")
        path = self.folder / "config.yaml"
        config = json.loads(path.read_text())
        self.push_port = free_port()
        config["listen"] = [
            {"address": f"127.0.0.1:{self.port}", "service": "registry", "tls": {"certificates": ["bench"]}},
            {"address": f"127.0.0.1:{self.push_port}", "service": "registry"}]
        config["certificates"] = {"bench": {"cert": str(certificate), "key": str(key)}}
        path.write_text(json.dumps(config))

    def exchange(self, *args, **options):
        """Pushes go in clear."""
        port, self.port = self.port, self.push_port
        try:
            return super().exchange(*args, **options)
        finally:
            self.port = port


class NginxFiles(servers.Nginx):
    """Files over TLS."""

    def prepare(self):
        super().prepare()
        certificate, key, _ = make_certificate(self.folder.parent / "tls")
        path = self.folder / "nginx.conf"
        text = path.read_text().replace("reuseport backlog=4096;", "reuseport backlog=4096 ssl;"
                                        f" ssl_certificate {certificate}; ssl_certificate_key {key};"
                                        " ssl_protocols TLSv1.2 TLSv1.3; ssl_conf_command Options KTLS;")
        path.write_text(text)


def syscalls(pids, table, act):
    """How many system calls processes make while act() runs; returns (calls, what act returned). strace writes into table."""
    command = ["strace", "-f", "-c", "-U", "calls,name", "-o", str(table)]
    command += [word for pid in pids for word in ("-p", str(pid))]
    tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(1)  # until it is attached
        result = act()
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(30)
    for line in table.read_text().splitlines():
        words = line.split()
        if len(words) == 2 and words[1] == "total":
            return int(words[0]), result
    raise BenchError(f"strace: {table.read_text()[-300:]}")
