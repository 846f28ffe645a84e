# SPDX-License-Identifier: Apache-2.0
"""kill -9 at any moment, of the data plane, of control, of all, under concurrent pushes. What was acknowledged is there
afterwards; what was not is there whole or not at all; and a client that comes back can go on."""

import inspect
import json
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest

import http1
from harness import BUILD, IMAGE_TYPE, KIND, Repository, digest_of, free_port, process_alive, randomness
from ledger import Ledger, Pusher

MIB = 1 << 20
CLIENTS = 4
ADOPT = 11  # LINK_ADOPT of msg.h
needs_two_processes = pytest.mark.skipif(KIND != "fairlead", reason="the peer is one process")


def push_until(done, registry, ledger, number, pushed):
    """Pushes images, blobs in chunks and moving tags until told to stop; failures are the point of the test."""
    rng = randomness("kill", number)
    pusher = Pusher(registry.repository(f"kill/{number}"), ledger, lenient=True)
    i = 0
    while not done.is_set():
        data = rng.randbytes(rng.choice((10, 5000, 400000, 2 * MIB))) + bytes([number]) + i.to_bytes(4, "big")
        if not pusher.image("latest", data, chunks=rng.choice((1, 4)), i=i):
            time.sleep(0.02)
        if i % 5 == 4:
            pusher.delete("manifest", "latest") if KIND == "fairlead" else None
        i += 1
    pushed.append(pusher)


def with_clients(registry, disturb):
    """Runs `disturb` while clients push; returns the ledger and what failed."""
    clock = iter(range(1 << 60))
    ledger = Ledger(lambda: next(clock))
    done, pushed = threading.Event(), []
    threads = [threading.Thread(target=push_until, args=(done, registry, ledger, number, pushed))
               for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        disturb()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert len(pushed) == CLIENTS, "a client met an answer that it must not get"
    return ledger, [failure for pusher in pushed for failure in pusher.failures]


def check(registry, ledger, least):
    assert ledger.acknowledged_count() > least, "too little was pushed for the test to mean anything"
    ledger.check(registry.client, Repository)
    digest, body = registry.repository("kill/after").push_image("tag", b"pushed afterwards")
    assert registry.repository("kill/after").manifest(digest).body == body


def test_kill_everything(make_registry):
    registry = make_registry()
    rng = randomness("kill everything")

    def disturb():
        for _ in range(8):
            time.sleep(rng.uniform(0.1, 0.7))
            registry.restart("kill")
        time.sleep(0.5)

    ledger, failures = with_clients(registry, disturb)
    assert failures
    check(registry, ledger, 50)
    registry.restart("stop")
    check(registry, ledger, 50)


def test_kill_during_start(make_registry):
    """Killed again before it is ready, several times."""
    registry = make_registry()
    rng = randomness("kill during start")
    digest, body = registry.repository("kill/start").push_image("tag", b"layer" * 100000)
    for _ in range(10):
        registry.kill()
        registry.spawn()
        time.sleep(rng.uniform(0.0, 0.15))
    registry.restart("kill")
    assert registry.repository("kill/start").manifest("tag").body == body
    assert registry.repository("kill/start").blob(digest_of(b"layer" * 100000)).body == b"layer" * 100000
    assert digest


@needs_two_processes
def test_kill_the_data_plane(make_registry):
    """Control starts it again; meanwhile connects wait in the listening sockets and are never refused."""
    registry = make_registry()
    rng = randomness("kill data plane")
    first = registry.process.pid

    def disturb():
        for _ in range(8):
            time.sleep(rng.uniform(0.2, 0.6))
            old = registry.kill_dataplane()
            for _ in range(20):
                with socket.create_connection(registry.address, timeout=5):
                    pass
            started = http1.wait_until(lambda: set(registry.dataplane_pids()) - set(old), 20)
            assert started, registry.report("no new data plane")
        assert http1.wait_until(registry.is_ready, 20)
        time.sleep(0.5)

    ledger, failures = with_clients(registry, disturb)
    assert registry.process.pid == first and registry.process.poll() is None
    refused = [failure for failure in failures if isinstance(failure, ConnectionRefusedError)]
    assert not refused, f"{len(refused)} connects were refused"
    check(registry, ledger, 50)


@needs_two_processes
def test_data_plane_outlives_control(make_registry):
    """Pulls go on without control, pushes fail with an error that says so; the next control takes everything over."""
    registry = make_registry(settings={"registry.commit_timeout": 1000})
    repo = registry.repository("kill/control")
    layer = randomness("control").randbytes(MIB)
    digest, body = repo.push_image("tag", layer)
    admin = http1.Client(("127.0.0.1", registry.admin_port))
    assert http1.wait_until(lambda: admin.exchange("GET", "/readyz").status == 200, 10)
    with registry.client.connect() as kept:
        assert kept.exchange("GET", "/v2/").status == 200
        registry.kill_control()
        assert http1.wait_until(lambda: b"\nfairlead_ready 0\n" in admin.exchange("GET", "/metrics").body, 5)
        answer = admin.exchange("GET", "/readyz")
        assert answer.status == 503 and b"pulls work, writes do not" in answer.body
        assert admin.exchange("GET", "/healthz").status == 200
        for _ in range(20):
            assert kept.exchange("GET", repo.target("manifests/tag")).body == body
            assert repo.blob(digest_of(layer)).body == layer
            time.sleep(0.05)
        answer = repo.put_manifest("other", body, "application/vnd.oci.image.manifest.v1+json")
        assert answer.status == 503 and answer.codes(), answer
        assert answer.header("Retry-After")
    old = registry.dataplane_pids()
    assert old
    registry.start()
    assert http1.wait_until(lambda: adopted(registry), 20), registry.report("it was not taken over")
    assert registry.dataplane_pids() == old
    assert http1.wait_until(lambda: admin.exchange("GET", "/readyz").status == 200, 10)
    assert repo.manifest(digest).body == body and repo.manifest("other").status in (404, 200)
    repo.push_image("new", b"after")


def status(registry):
    done = subprocess.run([BUILD / "fairlead", "--socket", registry.socket_path, "status", "--json"],
                          capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else {}


def adopted(registry):
    """Control has the data plane of the one before, and takes writes."""
    told = status(registry)
    return told and told["ready"] and told["dataplane"]["state"] == "running" and told["dataplane"]["adopted"]


class Traffic:
    """A slow download, a slow upload and connects, for as long as the block runs; checked at its end."""

    def __init__(self, registry):
        self.registry, self.done, self.failures = registry, threading.Event(), []
        self.data = randomness("traffic").randbytes(24 * MIB)
        self.repo = registry.repository("kill/traffic")
        self.digest = self.repo.push_blob(self.data)
        self.counts = dict.fromkeys((self.download, self.upload, self.connect), 0)

    def __enter__(self):
        self.threads = [threading.Thread(target=self.repeat, args=(each, )) for each in self.counts]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, kind, *_):
        self.done.set()
        for thread in self.threads:
            thread.join(60)
        assert kind or not self.failures, self.failures[:3]
        assert kind or all(self.counts.values()), self.counts

    def repeat(self, each):
        try:
            while not self.done.is_set():
                each()
                self.counts[each] += 1
        except Exception as failure:  # told by the main thread
            self.failures.append((each.__name__, failure))

    def pause(self, seconds):
        self.done.wait(seconds)

    def download(self):
        """Two seconds, if nobody is in a hurry."""
        pieces = []

        def slowly(piece):
            pieces.append(piece)
            self.pause(2 * len(piece) / len(self.data))
        with self.registry.client.connect(receive_buffer_bytes=131072) as connection:
            connection.send(connection.head("GET", self.repo.target(f"blobs/{self.digest}")))
            assert connection.response(sink=slowly).status == 200
        assert b"".join(pieces) == self.data

    def upload(self):
        """The body of one PATCH, over a second; its end needs control and may have to be asked for again."""
        data = self.data[:4 * MIB] + str(self.counts[self.upload]).encode()
        target = http1.target_of(self.repo.start_upload().header("Location"))
        with self.registry.client.connect() as connection:
            connection.send(connection.head("PATCH", target, {"Content-Length": str(len(data))}))
            for at in range(0, len(data), MIB // 2):
                connection.send(data[at:at + MIB // 2])
                self.pause(0.12)
            answer = connection.response()
            assert answer.status == 202, answer
        digest = digest_of(data)
        if self.again(lambda: self.repo.at(answer.header("Location"), "PUT", query=[("digest", digest)]), 201, 404) != 201:
            return  # control was killed between the end of the upload and its commit: to be done anew
        assert self.repo.blob(digest).body == data

    @staticmethod
    def again(call, wanted, after_503=None):
        """Asks again while control is away; returns the status."""
        deadline, asked = time.monotonic() + 20, 0
        while True:
            answer = call()
            if answer.status == wanted or (asked and answer.status == after_503):
                return answer.status
            asked += 1
            assert answer.status == 503 and time.monotonic() < deadline, answer
            time.sleep(0.05)

    def connect(self):
        assert self.registry.client.exchange("GET", "/v2/").status == 200
        self.pause(0.01)


@needs_two_processes
def test_control_is_replaced_under_transfers(make_registry):
    """Ten times in a row, the same data plane goes on: no transfer is cut, no connect refused, and pushes work soon."""
    registry = make_registry()
    old = registry.dataplane_pids()
    repo = registry.repository("kill/replaced")
    _, body = repo.push_image("tag", b"layer")
    with Traffic(registry):
        for i in range(10):
            time.sleep(0.3)
            registry.kill_control()
            time.sleep(0.1)
            registry.start()
            started = time.monotonic()
            Traffic.again(lambda: repo.put_manifest(f"tag{i}", body, IMAGE_TYPE), 201)
            assert time.monotonic() - started < 5
            assert registry.dataplane_pids() == old
    assert http1.wait_until(lambda: adopted(registry), 10) and status(registry)["dataplane"]["restarts"] == 0
    registry.stop()
    assert not [pid for pid in old if process_alive(pid)]


@needs_two_processes
def test_control_leaves_and_comes_back(make_registry):
    """SIGUSR2 stops control alone: an upgrade without a pause."""
    registry = make_registry()
    old = registry.dataplane_pids()
    with Traffic(registry):
        for _ in range(3):
            time.sleep(0.3)
            registry.process.send_signal(signal.SIGUSR2)
            assert registry.process.wait(20) == 0
            registry.process = None
            assert not registry.socket_path.exists() and registry.client.exchange("GET", "/v2/").status == 200
            registry.start()
            assert http1.wait_until(lambda: adopted(registry), 20), registry.report("it was not taken over")
    assert registry.dataplane_pids() == old


@needs_two_processes
def test_control_is_killed_while_it_takes_over(make_registry):
    registry = make_registry()
    rng = randomness("while it takes over")
    old = registry.dataplane_pids()
    with Traffic(registry):
        registry.kill_control()
        for _ in range(25):
            registry.spawn()
            time.sleep(rng.uniform(0.0, 0.12))
            registry.kill_control()
        registry.start()
        assert http1.wait_until(lambda: adopted(registry), 20), registry.report("it was not taken over")
    assert registry.dataplane_pids() == old
    registry.repository("kill/taken").push_image("tag", b"after")


@needs_two_processes
def test_data_plane_is_killed_while_it_is_taken_over(make_registry):
    registry = make_registry()
    rng = randomness("killed while taken over")

    def disturb():
        for _ in range(8):
            time.sleep(rng.uniform(0.1, 0.4))
            registry.kill_control()
            old = registry.dataplane_pids()
            registry.spawn()
            time.sleep(rng.uniform(0.0, 0.1))
            registry._kill_pids(old)
            assert http1.wait_until(registry.is_ready, 20)
            assert not set(old) & set(registry.dataplane_pids())
        time.sleep(0.5)

    ledger, _ = with_clients(registry, disturb)
    check(registry, ledger, 20)


@needs_two_processes
def test_changed_number_of_rings_replaces_the_data_plane(make_registry):
    """What cannot be taken over finishes what it runs; its listening sockets go on, so no connect is refused."""
    registry = make_registry()
    old = registry.dataplane_pids()
    data = randomness("rings").randbytes(8 * MIB)
    repo = registry.repository("kill/rings")
    digest = repo.push_blob(data)
    rings = status(registry)["dataplane"]["rings"]
    config = registry.config
    registry.config = lambda: config() | {"dataplane": {"rings": rings + 1}}
    refused, done, pieces = [], threading.Event(), []

    def connects():
        while not done.is_set():
            try:
                registry.client.exchange("GET", "/v2/")
            except ConnectionRefusedError as error:
                refused.append(error)
            except (OSError, http1.ConnectionEnded):
                pass

    def download():
        with registry.client.connect(receive_buffer_bytes=131072) as connection:
            connection.send(connection.head("GET", repo.target(f"blobs/{digest}")))
            connection.response(sink=lambda piece: (pieces.append(piece), time.sleep(1.5 * len(piece) / len(data))))
    threads = [threading.Thread(target=connects), threading.Thread(target=download)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    registry.kill_control()
    registry.start()
    assert http1.wait_until(lambda: registry.is_ready() and registry.dataplane_pids() != old, 20)
    done.set()
    for thread in threads:
        thread.join(30)
    assert not refused and b"".join(pieces) == data
    assert status(registry)["dataplane"]["rings"] == rings + 1
    assert "it has another number of rings" in registry.log()


@needs_two_processes
def test_addresses_changed_while_control_was_away(make_registry):
    """The data plane that is taken over serves a new one, and after a moment no longer a removed one."""
    registry = make_registry()
    old = registry.dataplane_pids()
    more = ("127.0.0.1", free_port())
    registry.kill_control()
    registry.more_addresses = ("%s:%d" % more, )
    registry.start()
    assert http1.wait_until(lambda: adopted(registry), 20), registry.report("it was not taken over")
    assert registry.dataplane_pids() == old
    assert http1.Client(more).exchange("GET", "/v2/").status == 200
    assert http1.Client(("127.0.0.1", registry.admin_port)).exchange("GET", "/healthz").status == 200
    registry.kill_control()
    registry.more_addresses = ()
    registry.start()
    assert http1.wait_until(lambda: "is not listened on any more" in registry.log(), 20), registry.report("not removed")
    with pytest.raises(ConnectionRefusedError):
        http1.Client(more).exchange("GET", "/v2/")
    assert http1.wait_until(lambda: adopted(registry), 10) and registry.dataplane_pids() == old


def answers(address):
    try:
        return http1.Client(address).exchange("GET", "/v2/").status == 200
    except (ConnectionRefusedError, http1.ConnectionEnded):
        return False


@needs_two_processes
def test_all_addresses_changed_while_control_was_away(make_registry):
    """There is no room to let that many leave one by one: the data plane is replaced."""
    registry = make_registry(settings={"kernel.enabled": False})
    old, port, config = registry.dataplane_pids(), free_port(), registry.config
    before, after = ([("127.0.%d.%d" % (net, host), port) for host in range(1, count + 1)]
                     for net, count in ((1, 240), (2, 40)))
    services = [{"name": f"s{i}", "address": "%s:%d" % each, "kind": "http", "path": "proxy",
                 "backends": [{"address": registry.host}]} for i, each in enumerate(before)]
    for addresses, more, declared in ((before, [], services), (after, after, [])):
        registry.kill_control()
        registry.more_addresses = tuple("%s:%d" % each for each in more)
        registry.config = lambda declared=declared: config() | {"services": declared}
        registry.start()
        assert http1.wait_until(lambda: status(registry).get("ready"), 20)
        for address in (addresses[0], addresses[-1], registry.address):
            assert http1.wait_until(lambda address=address: answers(address), 20), (address, registry.log()[-2000:])
    assert "too many addresses that are not configured any more" in registry.log()
    assert registry.dataplane_pids() != old
    assert http1.wait_until(lambda: not answers(before[0]), 20)


@needs_two_processes
def test_the_way_in_is_for_control_alone(make_registry):
    registry = make_registry()
    old = registry.dataplane_pids()
    path = registry.state / "dataplane.sock"
    assert path.stat().st_mode & 0o777 == 0o600

    def knock(wait_s):
        """What the data plane answers to a correct first message."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(wait_s)
            sock.connect(str(path))
            try:
                sock.send(struct.pack("<II", ADOPT, 0) + bytes(32))
                return sock.recv(4096)
            except ConnectionError:
                return b""
    assert knock(5) == b"", "while control is there nobody else is let in"
    registry.kill_control()
    if os.geteuid() == 0:
        for each in (path, registry.state, registry.folder):
            each.chmod(0o777)
        script = inspect.getsource(knock).replace("\n    ", "\n").strip()
        script = f"import socket, struct\nADOPT = {ADOPT}\npath = {str(path)!r}\n{script}\nprint(len(knock(5)))"
        outsider = ["setpriv", "--reuid", "daemon", "--regid", "daemon", "--clear-groups"]
        done = subprocess.run([*outsider, "/usr/bin/python3", "-c", script], capture_output=True, text=True, check=False)
        assert done.stdout == "0\n", done
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent, \
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as nonsense:
        silent.connect(str(path))  # says nothing, and keeps no other out for long
        nonsense.settimeout(10)
        nonsense.connect(str(path))
        nonsense.send(b"\xff" * 40)
        assert nonsense.recv(4096) == b""
        assert registry.client.exchange("GET", "/v2/").status == 200
        registry.start()
        assert http1.wait_until(lambda: adopted(registry), 20), registry.report("it was not taken over")
    assert registry.dataplane_pids() == old


@needs_two_processes
def test_logs_and_figures_go_on(make_registry):
    registry = make_registry()
    lines = registry.folder / "access.log"

    def requests():
        return int(re.search(r"^fairlead_requests_total(?:{.*})? (\d+)", http1.Client(
            ("127.0.0.1", registry.admin_port)).exchange("GET", "/metrics").body.decode(), re.M)[1])
    assert registry.client.exchange("GET", "/v2/before").status == 404
    before = requests()
    registry.kill_control()
    assert registry.client.exchange("GET", "/v2/meanwhile").status == 404
    registry.start()
    assert http1.wait_until(lambda: adopted(registry), 20)
    assert registry.client.exchange("GET", "/v2/after").status == 404
    assert requests() >= before + 2
    assert http1.wait_until(lambda: "/v2/after" in lines.read_text(), 10)
    text = lines.read_text()
    assert [text.count(f"/v2/{word}") for word in ("before", "meanwhile", "after")] == [1, 1, 1]


@needs_two_processes
def test_control_and_data_plane_in_turn(make_registry):
    registry = make_registry()
    rng = randomness("in turn")

    def disturb():
        for _ in range(4):
            time.sleep(rng.uniform(0.1, 0.5))
            registry.kill_control()
            time.sleep(rng.uniform(0.0, 0.3))
            registry.start()
            time.sleep(rng.uniform(0.1, 0.3))
            assert http1.wait_until(registry.dataplane_pids, 20), "between the old data plane and the new one"
            old = registry.kill_dataplane()
            assert http1.wait_until(lambda: set(registry.dataplane_pids()) - set(old), 20)
        assert http1.wait_until(registry.is_ready, 20)

    ledger, _ = with_clients(registry, disturb)
    check(registry, ledger, 20)
