# SPDX-License-Identifier: Apache-2.0
"""Starts and stops the registry under test, and speaks to it.

FAIRLEAD_TEST_REGISTRY  fairlead (default), or docker-registry: Debian's CNCF distribution, against which the suite
                        itself is proven.
FAIRLEAD_BUILD          the build directory with fairleadd in it, default build, relative to the source tree.
FAIRLEAD_TEST_SEED      the seed of every random choice; printed at the start of each run.
"""

import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import pytest

import http1

SOURCE = pathlib.Path(__file__).resolve().parents[2]
KIND = os.environ.get("FAIRLEAD_TEST_REGISTRY", "fairlead")
BUILD = (SOURCE / os.environ.get("FAIRLEAD_BUILD", "build")).resolve()
SEED = int(os.environ.get("FAIRLEAD_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
os.environ["FAIRLEAD_TEST_SEED"] = str(SEED)  # the same in all of pytest's workers
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
ALARMS = re.compile(
    r"ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error:|LeakSanitizer|CHECK failed|IMPOSSIBLE"
)


def gap(reason, kind="docker-registry", strict=True):
    """Marks what a peer is known not to do. Strict: should the peer pass, the mark is wrong and the test fails."""
    return pytest.mark.xfail(KIND == kind, reason=f"{kind}: {reason}", strict=strict)


def randomness(*names):
    """A generator that depends on the seed of the run and on the names alone."""
    return random.Random(f"{SEED} {names}")


def digest_of(data, algorithm="sha256"):
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def _ports():
    """Below those that the kernel gives to connections (32768 and up), another part for each worker: nobody else takes one
    between here and its use."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw") or 0) % 4
    first, count = 12000 + 5000 * worker, 5000
    at = random.SystemRandom().randrange(count)
    while True:
        at = (at + 1) % count
        yield first + at


_port = _ports()


def free_port():
    for port in _port:
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _sanitized():
    daemon = BUILD / "fairleadd"
    return daemon.exists() and any(name in daemon.read_bytes() for name in (b"__asan_init", b"__tsan_init"))


# Several times as slow.
SANITIZED = _sanitized()


def stand_still(pid):
    """SIGSTOP, and waits until none of its threads runs any more: it is no more than asked for when kill() returns."""
    def stands():
        return all(stat.read_text().rpartition(")")[2].split()[0] in "Tt"
                   for stat in pathlib.Path(f"/proc/{pid}/task").glob("*/stat"))
    os.kill(pid, signal.SIGSTOP)
    assert http1.wait_until(stands, step_s=0.001)


def process_alive(pid):
    """False for a zombie too: it runs no more code."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def children_of(pid):
    """Pids of all descendants."""
    found = []
    try:  # it may end meanwhile
        for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(child) for child in path.read_text().split()]
    except OSError:
        pass
    return found + [below for child in found for below in children_of(child)]


class Registry:
    """A registry process on a loopback port with a folder of its own. Subclasses say how it is configured."""

    kind = ""
    clean_exits = (0,)

    def __init__(self, folder=None, settings=None, state=None):
        self.folder = pathlib.Path(folder or tempfile.mkdtemp(prefix="fairlead-test-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.state = pathlib.Path(state or self.folder / "state")
        self.state.mkdir(parents=True, exist_ok=True)
        self.settings = dict(settings or {})
        self.port = free_port()
        self.admin_port = free_port()
        self.log_path = self.folder / "log"
        self.process = None
        self.children = set()

    # What differs from kind to kind.
    def command(self):
        raise NotImplementedError

    def write_config(self):
        raise NotImplementedError

    @property
    def address(self):
        return ("127.0.0.1", self.port)

    @property
    def host(self):
        return "127.0.0.1:%d" % self.port

    @property
    def client(self):
        return http1.Client(self.address)

    def repository(self, name):
        return Repository(self.client, name)

    def environment(self):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("REGISTRY_")}
        environment.setdefault("ASAN_OPTIONS", "abort_on_error=1:detect_leaks=1")
        environment.setdefault("UBSAN_OPTIONS", "print_stacktrace=1:halt_on_error=1")
        return environment

    def spawn(self):
        """Starts the process without waiting for it to be ready."""
        assert self.process is None, "already started"
        self.write_config()
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.environment(),
                start_new_session=True,
            )

    def start(self):
        self.spawn()
        assert http1.wait_until(self.is_ready, START_TIMEOUT_S), self.report("not ready")
        return self

    def is_ready(self):
        assert self.process.poll() is None, self.report(f"ended with {self.process.returncode} at start")
        try:
            ready = http1.Client(self.address, timeout_s=5).exchange("GET", "/v2/").status == 200
        except (OSError, http1.ConnectionEnded):
            return False
        self.children |= set(children_of(self.process.pid))
        return ready

    def stop(self):
        """SIGTERM, a clean exit of all its processes, and nothing alarming in the log."""
        if self.process is None:
            return
        started = time.monotonic()
        pids = self.pids()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(self.report(f"did not stop within {STOP_TIMEOUT_S} s")) from None
        self.process = None
        left = http1.wait_until(lambda: not [pid for pid in pids if process_alive(pid)], 5)
        self._kill_pids(pids)
        assert code in self.clean_exits, self.report(f"exit code {code}")
        assert left, self.report("left processes behind")
        assert not self.alarms(), self.report("alarm in the log")
        return time.monotonic() - started

    def kill(self):
        """kill -9 of every process of it at once."""
        pids = self.pids()
        self._kill_pids(pids)
        if self.process is not None:
            self.process.wait()
            self.process = None
        assert http1.wait_until(lambda: not [pid for pid in pids if process_alive(pid)], 5)

    def restart(self, how="stop"):
        getattr(self, how)()
        return self.start()

    def pids(self):
        """The process and its descendants that are alive; those whose parent died are remembered."""
        own = []
        if self.process is not None:
            own = [self.process.pid]
            self.children |= set(children_of(self.process.pid))
        self.children = {pid for pid in self.children if process_alive(pid)}
        return own + list(self.children)

    @staticmethod
    def _kill_pids(pids):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def descriptors(self, kind=""):
        """Open descriptors over all processes, or those of a kind, as `socket:`."""
        count = 0
        for pid in self.pids():
            for path in pathlib.Path(f"/proc/{pid}/fd").iterdir():
                try:
                    count += os.readlink(path).startswith(kind)
                except OSError:
                    pass
        return count

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def alarms(self):
        return [line for line in self.log().splitlines() if ALARMS.search(line)]

    def report(self, what):
        return f"{self.kind} in {self.folder}: {what}\n--- end of its log ---\n{self.log()[-6000:]}"

    def close(self):
        """Stops and removes everything. Alarms still count."""
        try:
            self.stop()
        finally:
            self.kill()
            shutil.rmtree(self.folder, ignore_errors=True)


class FairleadRegistry(Registry):
    kind = "fairlead"

    def __init__(self, *args, more_addresses=(), **options):
        super().__init__(*args, **options)
        self.socket_path = self.folder / "control.sock"
        self.more_addresses = more_addresses

    def config(self):
        """The configuration file as a structure; JSON is YAML."""
        return {
            "state": str(self.state),
            "run": str(self.folder / "run"),
            "listen": [{"address": each, "service": "registry", "allow_all": not each.startswith(("127.", "[::1]"))}
                       for each in (self.host, *self.more_addresses)],
            "admin": {"address": "127.0.0.1:%d" % self.admin_port},
            "control": {"socket": str(self.socket_path)},
            "log": {"access": str(self.folder / "access.log")},
            "settings": {key: self.with_unit(key, value) for key, value in self.settings.items()},
        }

    @staticmethod
    def with_unit(key, value):
        """Durations are given in milliseconds here; in a configuration they have a unit."""
        duration = key.endswith(("_timeout", "_grace", "_expiry")) and isinstance(value, int)
        return f"{value}ms" if duration else value

    def write_config(self):
        (self.folder / "config.yaml").write_text(json.dumps(self.config(), indent=1) + "\n")

    def command(self):
        return [str(BUILD / "fairleadd"), "--config", str(self.folder / "config.yaml")]

    def dataplane_pids(self):
        """Pids of the data plane's process (normally one)."""
        found = []
        for pid in self.pids():
            try:
                name = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
            except OSError:
                continue
            if name.startswith("fairlead-dataplane"):
                found.append(pid)
        return found

    def kill_control(self):
        """kill -9 of control alone; the data plane goes on. start() makes a new control."""
        self.pids()
        self.process.kill()
        self.process.wait()
        self.process = None

    def kill_dataplane(self):
        """kill -9 of the data plane alone; control is to start it again."""
        pids = self.dataplane_pids()
        assert pids, self.report("no data plane found")
        self._kill_pids(pids)
        return pids


class DockerRegistry(Registry):
    kind = "docker-registry"
    clean_exits = (0, 2, -signal.SIGTERM)

    def write_config(self):
        (self.folder / "config.yaml").write_text(json.dumps({
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self.state)}, "delete": {"enabled": True}},
            "http": {"addr": self.host, "relativeurls": True, "secret": "for the tests"},
            "validation": {"manifests": {"urls": {"allow": [".*"]}}},
        }, indent=1) + "\n")

    def command(self):
        return ["docker-registry", "serve", str(self.folder / "config.yaml")]


KINDS = {cls.kind: cls for cls in (FairleadRegistry, DockerRegistry)}


def new_registry(**options):
    return KINDS[KIND](**options)


class Repository:
    """The distribution API of one repository, a method a call; nothing is checked but where `push` says so."""

    def __init__(self, client, name):
        self.client = client
        self.name = name

    def target(self, tail):
        return f"/v2/{self.name}/{tail}"

    def exchange(self, method, tail, body=None, headers=(), sink=None):
        return self.client.exchange(method, self.target(tail), body, headers, sink)

    def blob(self, digest, method="GET", headers=(), sink=None):
        return self.exchange(method, f"blobs/{digest}", headers=headers, sink=sink)

    def manifest(self, reference, method="GET", headers=None):
        headers = {"Accept": ", ".join(MANIFEST_TYPES)} if headers is None else headers
        return self.exchange(method, f"manifests/{reference}", headers=headers)

    def put_manifest(self, reference, body, media_type, query=()):
        tail = f"manifests/{reference}"
        tail = http1.with_query(tail, *query) if query else tail
        return self.exchange("PUT", tail, body, {"Content-Type": media_type})

    def tags(self, *query):
        return self.exchange("GET", http1.with_query("tags/list", *query) if query else "tags/list")

    def referrers(self, digest, *query):
        tail = f"referrers/{digest}"
        return self.exchange("GET", http1.with_query(tail, *query) if query else tail)

    def start_upload(self, *query, body=None, headers=()):
        tail = http1.with_query("blobs/uploads/", *query) if query else "blobs/uploads/"
        return self.exchange("POST", tail, body, headers)

    def at(self, location, method, body=None, headers=(), query=()):
        """A call at a Location that the server gave."""
        target = http1.target_of(location)
        return self.client.exchange(method, http1.with_query(target, *query) if query else target, body, headers)

    def push_blob(self, data, algorithm="sha256"):
        """POST and PUT; returns the digest."""
        digest = digest_of(data, algorithm)
        begun = self.start_upload()
        assert begun.status == 202, begun
        done = self.at(begun.header("Location"), "PUT", data,
                       {"Content-Type": "application/octet-stream"}, [("digest", digest)])
        assert done.status == 201, done
        return digest

    def push_manifest(self, reference, manifest, media_type=None):
        """A manifest given as a structure or as bytes; returns its digest."""
        body = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
        media_type = media_type or json.loads(body)["mediaType"]
        done = self.put_manifest(reference, body, media_type)
        assert done.status == 201, done
        return digest_of(body)

    def push_image(self, tag, *layers):
        """A small image with these layers' bytes; returns (digest, bytes) of its manifest."""
        body = image_manifest(self.push_blob(b"{}"), 2, [(self.push_blob(x), len(x)) for x in layers])
        return self.push_manifest(tag, body), body


IMAGE_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
DOCKER_IMAGE_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST_TYPE = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFEST_TYPES = (IMAGE_TYPE, INDEX_TYPE, DOCKER_IMAGE_TYPE, DOCKER_LIST_TYPE)


def descriptor(media_type, digest, size_bytes, **more):
    return {"mediaType": media_type, "digest": digest, "size": size_bytes, **more}


def image_manifest(config_digest, config_size_bytes, layers, **more):
    """Bytes of an image manifest; layers are (digest, size) pairs."""
    return json.dumps({
        "schemaVersion": 2,
        "mediaType": IMAGE_TYPE,
        "config": descriptor(CONFIG_TYPE, config_digest, config_size_bytes),
        "layers": [descriptor(LAYER_TYPE, digest, size) for digest, size in layers],
        **more,
    }).encode()
