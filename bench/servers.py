# SPDX-License-Identifier: Apache-2.0
"""The servers that are compared, each on a loopback port of its own, with its files in a folder of its own. All have as
many threads or workers as there are processors, and write no access log."""

import hashlib
import http.client
import json
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse

from measure import BenchError, cpu_seconds, pss_bytes, tree

WORKERS = os.cpu_count()
CONNECTIONS_MAX = 8192  # of one worker or ring, the same for all
START_SECONDS = 30
REPOSITORY = "bench/image"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Server:
    name = ""

    def __init__(self, folder, **options):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True)
        self.options = options
        self.port = free_port()
        self.process = None

    def launch(self):
        env = {k: v for k, v in os.environ.items() if not k.startswith("REGISTRY_")}
        with open(self.folder / "log", "ab") as log:  # a session each: the kernel shares processors among those (sched(7))
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env,
                                            start_new_session=True)

    def __enter__(self):
        self.prepare()
        self.launch()
        deadline = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                log = (self.folder / "log").read_text(errors="replace")
                self.__exit__(None, None, None)
                raise BenchError(f"{self.name} does not start:\n{log[-2000:]}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_):
        pids = tree(self.process.pid)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def is_ready(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1):
                return True
        except OSError:
            return False

    def pids(self):
        return tree(self.process.pid)

    def cpu_seconds(self):
        return cpu_seconds(self.pids())

    def pss_bytes(self):
        return pss_bytes(self.pids())

    def prepare(self):
        """Writes what the server needs to start."""

    def command(self):
        raise NotImplementedError


class Registry(Server):
    """A server of the OCI distribution API."""

    def is_ready(self):
        try:
            return self.exchange("GET", "/v2/")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def exchange(self, method, target, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, target, body, headers or {})
            response = connection.getresponse()
            response.read()
            return response.status, response.getheader("Location")
        finally:
            connection.close()

    def add_blob(self, path, digest):
        """Pushes a file; returns the path to pull it from."""
        status, location = self.exchange("POST", f"/v2/{REPOSITORY}/blobs/uploads/", b"")
        if status != 202:
            raise BenchError(f"{self.name}: POST of an upload: {status}")
        url = urllib.parse.urlsplit(location)
        target = url.path + "?" + (url.query + "&" if url.query else "") + "digest=" + digest
        with open(path, "rb") as body:
            status, _ = self.exchange("PUT", target, body, {"Content-Type": "application/octet-stream",
                                                            "Content-Length": str(os.path.getsize(path))})
        if status != 201:
            raise BenchError(f"{self.name}: PUT of a blob: {status}")
        return f"/v2/{REPOSITORY}/blobs/{digest}"

    def add_manifest(self, path, tag):
        status, _ = self.exchange("PUT", f"/v2/{REPOSITORY}/manifests/{tag}", pathlib.Path(path).read_bytes(),
                                  {"Content-Type": MANIFEST_TYPE})
        if status != 201:
            raise BenchError(f"{self.name}: PUT of a manifest: {status}")
        return f"/v2/{REPOSITORY}/manifests/{tag}"

    def file_of(self, digest):
        """Where the server keeps a blob."""
        hexadecimal = digest.split(":")[1]
        for path in self.folder.rglob(hexadecimal + "*"):
            path = path / "data" if path.is_dir() else path
            if path.is_file() and path.stat().st_size:
                return path
        raise BenchError(f"{self.name}: no file of {digest}")


class Fairlead(Registry):
    name = "fairlead"
    build = pathlib.Path("build")

    def prepare(self):
        # The data plane's user must be able to reach its folder.
        self.folder.chmod(0o755)
        settings = {"log.access": False, "http.connections_max": CONNECTIONS_MAX, "http.idle_timeout": "1h"}
        settings.update(self.options)
        (self.folder / "config.yaml").write_text(json.dumps({
            "state": str(self.folder / "state"),
            "listen": [{"address": f"127.0.0.1:{self.port}", "service": "registry"}],
            "admin": {"address": f"127.0.0.1:{free_port()}"},
            "control": {"socket": str(self.folder / "control.sock")},
            "dataplane": {"rings": WORKERS},
            "settings": settings,
        }))

    def command(self):
        return [str(self.build / "fairleadd"), "--config", str(self.folder / "config.yaml")]


class DockerRegistry(Registry):
    name = "docker-registry"

    def prepare(self):
        (self.folder / "config.yaml").write_text(json.dumps({
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "data")}, "cache": {"blobdescriptor": "inmemory"}},
            "http": {"addr": f"127.0.0.1:{self.port}", "relativeurls": True},
        }))

    def command(self):
        return ["docker-registry", "serve", str(self.folder / "config.yaml")]


class Static(Server):
    """A server of the files in its folder `root`."""

    def prepare(self):
        (self.folder / "root").mkdir()

    def add_blob(self, path, digest):
        name = digest.replace(":", "-")
        shutil.copyfile(path, self.folder / "root" / name)
        return "/" + name

    def add_manifest(self, path, tag):
        return self.add_blob(path, tag)

    def file_of(self, digest):
        return self.folder / "root" / digest.replace(":", "-")


class Nginx(Static):
    name = "nginx"

    def prepare(self):
        super().prepare()
        user = f"user {pwd.getpwuid(os.getuid()).pw_name};" if os.getuid() == 0 else ""
        (self.folder / "nginx.conf").write_text(f"""
{user}
daemon off;
worker_processes {WORKERS};
worker_rlimit_nofile 20000;
pid {self.folder}/pid;
error_log stderr error;
events {{ worker_connections {CONNECTIONS_MAX}; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    {"aio threads;" if self.options.get("aio") else ""}
    keepalive_timeout 1h;
    keepalive_requests 1000000000;
    open_file_cache max=10000 inactive=1h;
    open_file_cache_valid 1h;
    default_type application/octet-stream;
    client_body_temp_path {self.folder}/t1; proxy_temp_path {self.folder}/t2; fastcgi_temp_path {self.folder}/t3;
    uwsgi_temp_path {self.folder}/t4; scgi_temp_path {self.folder}/t5;
    server {{ listen 127.0.0.1:{self.port} reuseport backlog=4096; root {self.folder}/root; }}
}}
""")

    def command(self):
        return ["nginx", "-e", "stderr", "-c", str(self.folder / "nginx.conf"), "-p", str(self.folder)]


class Bare(Static):
    """The bare sendfile loop; it knows one file."""

    name = "bare sendfile loop"
    build = pathlib.Path("build")

    def command(self):
        return [str(self.build / "bench/bare"), "serve", str(self.port), str(WORKERS), str(self.options["file"])]


def make_file(path, size, seed):
    """A file of pseudo-random bytes; returns its digest."""
    block = hashlib.shake_256(str(seed).encode()).digest(min(size, 1 << 20))
    digest = hashlib.sha256()
    with open(path, "wb") as out:
        left = size
        number = 0
        while left:
            # Each block begins with its number, so that no two blocks are the same.
            piece = (number.to_bytes(8, "little") + block[8:])[:left]
            out.write(piece)
            digest.update(piece)
            left -= len(piece)
            number += 1
    return "sha256:" + digest.hexdigest()
