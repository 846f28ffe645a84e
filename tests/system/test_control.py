# SPDX-License-Identifier: Apache-2.0
"""Control alone, with tests/tools/fake_dataplane.c in the place of the data plane: what it does when its data plane
crashes, hangs or lies, when its clients do, and what an operator sees."""

import grp
import json
import os
import pathlib
import pwd
import signal
import socket
import subprocess
import threading
import time

import pytest

import harness
import http1

pytestmark = pytest.mark.skipif(harness.KIND != "fairlead", reason="tests Fairlead's own control")

FAIRLEADD = str(harness.BUILD / "fairleadd")
FAIRLEAD = str(harness.BUILD / "fairlead")
FAKE = str(harness.BUILD / "tools" / "fake_dataplane")
IDLE_TIMEOUT_ID = 6  # place of http.idle_timeout in settings.def
OUTSIDER = "daemon"
SANITIZED = any(name in pathlib.Path(FAIRLEADD).read_bytes() for name in (b"__asan_init", b"__tsan_init")) \
    if os.path.exists(FAIRLEADD) else False


class Node(harness.FairleadRegistry):
    """A daemon with the fake data plane."""

    changes = None

    def config(self):
        config = super().config()
        config["dataplane"] = {"binary": FAKE}
        config["log"] = {"access": str(self.folder / "access.log")}
        for key, value in (self.changes or {}).items():
            config[key] = value
        return config

    def get(self, path, timeout_s=5):
        """Body of an answer of the fake data plane."""
        with socket.create_connection(self.address, timeout=timeout_s) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
            data = b""
            while chunk := sock.recv(4096):
                data += chunk
        return data.partition(b"\r\n\r\n")[2].decode().strip()

    def poke(self, path):
        """A request that is not expected to be answered."""
        try:
            self.get(path)
        except OSError:
            pass

    def serving_pid(self):
        return int(self.get("/").split()[2])

    def connect(self):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(10)
        sock.connect(str(self.socket_path))
        return sock

    def call(self, method, **params):
        with self.connect() as sock:
            return call(sock, method, **params)

    def cli(self, *words, check=True):
        done = subprocess.run([FAIRLEAD, "--socket", str(self.socket_path), *words], capture_output=True, text=True,
                              timeout=30)
        assert not check or done.returncode == 0, done.stderr
        return done

    def wait_log(self, text, timeout_s=10):
        assert http1.wait_until(lambda: text in self.log(), timeout_s), self.report(f"no '{text}' in the log")


def read_line(sock):
    data = b""
    while not data.endswith(b"\n"):
        chunk = sock.recv(1 << 20, socket.MSG_PEEK)
        chunk = sock.recv(chunk.find(b"\n") + 1 or len(chunk) or 1)
        if not chunk:
            raise ConnectionError(f"closed after {data[:200]!r}")
        data += chunk
    return json.loads(data)


def call(sock, method, **params):
    sock.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n")
    return read_line(sock)


@pytest.fixture
def node():
    instance = Node()
    instance.folder.chmod(0o755)
    try:
        yield instance
    finally:
        instance.close()


@pytest.fixture
def running(node):
    return node.start()


def refuse(node, *words):
    """Starts a daemon that must refuse. Returns its exit code and what it said."""
    done = subprocess.run([FAIRLEADD, *words], capture_output=True, text=True, timeout=30)
    return done.returncode, done.stderr


# Configuration.


def test_check_accepts_and_refuses(node):
    node.write_config()
    path = node.folder / "config.yaml"
    done = subprocess.run([FAIRLEADD, "--config", str(path), "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{path}: configuration OK\n")
    path.write_text("stat: /x\nlisten:\n- {service: registry, address: 0.0.0.0:5000}\nsettings: {log.rate: 0}\n")
    code, said = refuse(node, "--config", str(path), "--check")
    lines = said.splitlines()
    assert code == 2 and len(lines) == 3
    assert lines[0].startswith(f"{path}:1:1: unknown key 'stat'")
    assert lines[1].startswith(f"{path}:3:32: 0.0.0.0:5000 can be reached from other machines")
    assert "allow_all: true" in lines[1]
    assert lines[2].startswith(f"{path}:4:22: log.rate: '0' is out of range; write a value from 1 to 1000000")
    assert refuse(node, "--config", str(path))[0] == 2


def test_shipped_configuration_is_good():
    path = harness.SOURCE / "packaging" / "fairlead.yaml"
    assert subprocess.run([FAIRLEADD, "--config", str(path), "--check"]).returncode == 0


def test_manual_has_the_settings_as_they_are():
    settings = subprocess.run([FAIRLEADD, "--print-settings-man"], capture_output=True, text=True, check=True).stdout
    manual = (harness.SOURCE / "docs" / "man" / "fairlead.yaml.5").read_text()
    assert settings in manual, "put what `fairleadd --print-settings-man` says into docs/man/fairlead.yaml.5"


def test_usage_errors():
    for words in (["--nope"], ["--config"], ["extra"], ["--check"], ["--config", "/nonexistent", "--check"]):
        code, said = refuse(None, *words)
        assert code == 2 and said, words


# Start and stop.


def test_stop_leaves_nothing(running):
    data_plane = running.serving_pid()
    assert running.socket_path.exists()
    running.stop()
    assert not harness.process_alive(data_plane)
    assert not running.socket_path.exists()
    assert not (running.state / "dataplane.pid").exists()
    with pytest.raises(ConnectionRefusedError):
        running.get("/")


def test_folders_have_their_modes(running):
    def mode(path):
        return (running.state / path).stat().st_mode & 0o777
    assert mode("raft") == 0o700
    for path in ("store", "store/blobs", "store/uploads", "store/blobs/sha256/00", "store/blobs/sha512/ff"):
        assert mode(path) == 0o750, path
    assert len(list((running.state / "store/blobs/sha256").iterdir())) == 256


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_data_plane_has_no_privileges(running):
    pid = running.serving_pid()
    status = dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
                  if ":\t" in line)
    assert status["Uid"].split()[0] not in ("0",) and len(set(status["Uid"].split())) == 1
    assert status["NoNewPrivs"] == "1"
    assert status["Groups"].split() == []
    for caps in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[caps], 16) == 0, caps
    targets = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    assert not [t for t in targets if t.endswith(("/raft", "private.mdb", "control.sock"))]
    owner = (running.state / "store/blobs").stat().st_uid
    assert owner == int(status["Uid"].split()[0])


def test_state_is_for_one_daemon(running):
    code, said = refuse(running, "--config", str(running.folder / "config.yaml"))
    assert code == 1
    assert f"is in use by another fairleadd (pid {running.process.pid})" in said
    assert running.get("/").startswith("ok")


def test_addresses_and_socket_are_not_shared(running, make_node):
    other = make_node()
    other.port = running.port
    other.write_config()
    code, said = refuse(other, "--config", str(other.folder / "config.yaml"))
    assert code == 1 and f"cannot listen on 127.0.0.1:{running.port}" in said and "another process listens there" in said
    other.port = harness.free_port()
    other.socket_path = running.socket_path
    other.write_config()
    code, said = refuse(other, "--config", str(other.folder / "config.yaml"))
    assert code == 1 and "another fairleadd answers at" in said
    assert running.call("version")["result"]["version"]


@pytest.fixture
def make_node():
    made = []

    def make():
        made.append(Node())
        return made[-1]
    yield make
    for each in made:
        each.close()


def test_socket_of_a_killed_daemon_is_taken_over(running):
    running.kill()
    assert running.socket_path.exists()
    running.start()
    assert running.call("version")["result"]["version"]


def test_second_signal_stops_at_once(running):
    stuck = running.serving_pid()
    harness.stand_still(stuck)
    started = time.monotonic()
    running.process.send_signal(signal.SIGTERM)
    running.wait_log("stopping")
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(10) == 0
    assert time.monotonic() - started < 10
    assert http1.wait_until(lambda: not harness.process_alive(stuck), 5)
    running.process = None


# Supervision.


@pytest.mark.parametrize("how, reason", [
    ("/crash", "ended by signal 6"),
    ("/exit", "ended by exit status 3"),
    ("/breach", "a frame that makes no sense"),
    ("/forbidden", "a command of a type that is not the data plane's"),
    ("/closed", "it closed its link or a channel"),
    ("/still", "a ring stood still"),
])
def test_data_plane_is_restarted(running, how, reason):
    first = running.serving_pid()
    running.poke(how)
    assert http1.wait_until(lambda: not harness.process_alive(first), 12)
    assert http1.wait_until(lambda: running.serving_pid() != first, 10)
    running.wait_log(reason)
    assert running.call("status")["result"]["dataplane"]["restarts"] == 1


def test_no_connect_is_refused_while_the_data_plane_restarts(running):
    refused, answered, done = [], [], threading.Event()

    def connect():
        while not done.is_set():
            try:
                answered.append(running.get("/", timeout_s=20) or "ok 0 0")
            except ConnectionRefusedError as error:
                refused.append(error)
            except OSError:
                pass  # accepted by a data plane that was killed with it in its hands
    threads = [threading.Thread(target=connect) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(8):
        pid = running.serving_pid()
        os.kill(pid, signal.SIGKILL)
        assert http1.wait_until(lambda: not harness.process_alive(pid), 5)
        time.sleep(0.2)
    time.sleep(1)
    done.set()
    for thread in threads:
        thread.join(30)
    assert not refused and len(answered) > 100
    assert len({answer.split()[2] for answer in answered}) >= 8


@pytest.mark.slow
def test_data_plane_that_never_starts_is_given_up(node):
    node.changes = {"dataplane": {"binary": "/bin/false"}}
    node.spawn()
    assert node.process.wait(30) == 1
    node.process = None
    assert "could not be started in" in node.log()


def test_missing_data_plane_is_told(node):
    node.changes = {"dataplane": {"binary": "/nonexistent/dataplane"}}
    node.spawn()
    assert node.process.wait(30) == 1
    node.process = None
    assert "install it there or set dataplane.binary" in node.log()


@pytest.mark.parametrize("how, reason", [
    (None, "its socket cannot be reached"),
    ("VERSION", "it is of another version"),
    ("LIAR", "it did not answer as one does"),
    ("NONSENSE", "it did not answer as one does"),
    ("SILENT", "it did not answer as one does"),
])
def test_data_plane_that_cannot_be_taken_over_is_replaced(running, how, reason):
    """The next control lets it finish and starts its own; one of another version still hands over its listening
    sockets, so that no connect is refused."""
    orphan = running.serving_pid()
    running.children.add(orphan)
    if how:
        assert running.get(f"/meet/{how}").split()[2] == str(orphan)
    running.kill_control()
    assert running.get("/").split()[2] == str(orphan)
    refused, done = [], threading.Event()

    def connect():
        while not done.is_set():
            try:
                running.get("/", timeout_s=20)
            except ConnectionRefusedError as error:
                refused.append(error)
            except OSError:
                pass  # accepted by the old one when it ended
    threads = [threading.Thread(target=connect) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        running.start()
        assert http1.wait_until(lambda: not harness.process_alive(orphan), 15)
        assert http1.wait_until(lambda: running.serving_pid() != orphan, 10)
    finally:
        done.set()
        for thread in threads:
            thread.join(30)
    running.wait_log(reason)
    assert running.call("status")["result"]["dataplane"]["adopted"] is False
    assert how != "VERSION" or not refused


def test_greeting_can_be_typed_in_another_folder(node):
    """What it says to try works as it stands, from anywhere; also when it was started from the build tree."""
    node.changes = {"control": {"socket": "control.sock"}, "state": "state"}
    node.write_config()
    with subprocess.Popen([os.path.relpath(FAIRLEADD, node.folder), "--config", "config.yaml", "--greet"], cwd=node.folder,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as daemon:
        try:
            said = []
            while "Ctrl-C" not in (said[-1] if said else ""):
                said.append(daemon.stdout.readline())
                assert said[-1], said
            command = next(line.split() for line in said if " status " in line)
            done = subprocess.run([*command[:-1], "--json"], cwd="/", capture_output=True, text=True, check=False)
            assert done.returncode == 0 and json.loads(done.stdout)["ready"], (command, done)
            assert f"state     {node.state}" in "".join(said).replace("\n", "  ")
        finally:
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(20) == 0


# Settings.


def test_setting_is_changed_at_run_time(running):
    assert running.get(f"/setting/{IDLE_TIMEOUT_ID}") == "75000"
    changed = running.call("settings.set", key="http.idle_timeout", value="90s")["result"]
    assert (changed["previous"], changed["value"], changed["source"], changed["applied"]) == ("75s", "90s", "set", True)
    assert running.get(f"/setting/{IDLE_TIMEOUT_ID}") == "90000"
    back = running.call("settings.unset", key="http.idle_timeout")["result"]
    assert (back["value"], back["source"]) == ("75s", "default")
    assert running.get(f"/setting/{IDLE_TIMEOUT_ID}") == "75000"


def test_setting_outlives_restarts_and_wins_over_the_file(node):
    node.settings = {"http.idle_timeout": "20s", "log.rate": 7}
    node.start()
    assert node.call("settings.get", key="http.idle_timeout")["result"]["source"] == "file"
    node.call("settings.set", key="http.idle_timeout", value="30s")
    node.restart("kill")
    row = node.call("settings.get", key="http.idle_timeout")["result"]
    assert (row["value"], row["source"]) == ("30s", "set")
    assert node.get(f"/setting/{IDLE_TIMEOUT_ID}") == "30000"
    assert node.call("settings.get", key="log.rate")["result"]["value"] == "7"
    node.call("settings.unset", key="http.idle_timeout")
    assert node.call("settings.get", key="http.idle_timeout")["result"]["value"] == "20s"


def test_wrong_settings_change_nothing(running):
    for key, value in (("http.idle_timeout", "5"), ("http.idle_timeout", "9d"), ("store.sync", "maybe"), ("no", "1")):
        error = running.call("settings.set", key=key, value=value)["error"]
        assert error["data"]["hint"] and error["code"] in (-32602, -32002)
    assert all(row["source"] == "default" for row in running.call("settings.list")["result"]["settings"])


def test_setting_while_the_data_plane_is_away_is_committed(running):
    pid = running.serving_pid()
    harness.stand_still(pid)
    try:
        changed = running.call("settings.set", key="http.idle_timeout", value="40s")["result"]
    finally:
        os.kill(pid, signal.SIGCONT)
    assert changed["value"] == "40s" and changed["applied"] is False
    assert http1.wait_until(lambda: running.get(f"/setting/{IDLE_TIMEOUT_ID}") == "40000", 10)


def test_proposals_of_the_data_plane_are_committed(running):
    first = running.get("/propose/some/repository")
    assert first.startswith("status 0 index ")
    again = running.get("/propose/some/repository")
    assert int(again.split()[3]) > int(first.split()[3])
    assert running.get("/propose/Not!A!Repository").startswith("status 5 ")
    repos = running.call("repo.list")["result"]["repos"]
    assert [(repo["name"], repo["blobs"], repo["bytes"]) for repo in repos] == [("some/repository", 1, 123)]


# Reload and logs.


def test_reload_adds_an_address_and_keeps_the_rest(running):
    more = harness.free_port()
    first = running.serving_pid()
    running.more_addresses = (f"127.0.0.1:{more}", )
    running.write_config()
    running.process.send_signal(signal.SIGHUP)
    running.wait_log("the configuration was read again")
    with socket.create_connection(("127.0.0.1", more), timeout=5) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert b"200 OK" in sock.recv(4096)
    assert running.serving_pid() == first
    (running.folder / "config.yaml").write_text("nonsense: true\n")
    running.process.send_signal(signal.SIGHUP)
    running.wait_log("the configuration was not changed")
    assert running.serving_pid() == first


def test_logs_go_where_they_belong_and_are_reopened(running):
    access = running.folder / "access.log"
    running.get("/log")
    assert http1.wait_until(lambda: access.exists() and access.read_text(), 5)
    assert access.read_text() == '{"access":"line with a line end"}\n'
    running.wait_log('{"error":"line"}')
    access.rename(running.folder / "access.log.1")
    running.process.send_signal(signal.SIGHUP)
    assert http1.wait_until(access.exists, 5)
    running.get("/log")
    assert http1.wait_until(lambda: access.read_text().count("\n") == 1, 5)
    assert (running.folder / "access.log.1").read_text().count("\n") == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_full_log_disk_does_not_stop_the_node(node):
    node.changes = {"log": {"access": "/dev/full"}}
    node.start()
    for _ in range(5):
        node.get("/log")
    node.wait_log("bytes of logs could not be written")
    assert node.get("/").startswith("ok")


# The control socket.


def test_many_requests_in_one_piece(running):
    with running.connect() as sock:
        sock.sendall(b"".join(json.dumps({"jsonrpc": "2.0", "id": i, "method": "version"}).encode() + b"\n"
                              for i in range(500)))
        sock.shutdown(socket.SHUT_WR)
        data = b""
        while chunk := sock.recv(1 << 16):
            data += chunk
    assert [json.loads(line)["id"] for line in data.splitlines()] == list(range(500))


@pytest.mark.parametrize("junk, code", [
    (b"x" * (4 << 20), -32600),
    (b"\0" * (4 << 20), -32600),
    (bytes(byte for byte in range(256) if byte != 10) + b"\n", -32700),
    (b"{" * 60000 + b"\n", -32700),
    (b'{"jsonrpc":"2.0","id":1,"method":"settings.set","params":{"key":"\\u0000","value":""}}\n', -32700),
], ids=["endless line", "zeros", "every byte", "deep nesting", "NUL in a string"])
def test_junk_is_answered_and_harms_nobody(running, junk, code):
    with running.connect() as sock:
        try:
            sock.sendall(junk)
        except OSError:
            pass  # it was refused before its end
        assert read_line(sock)["error"]["code"] == code
    assert running.call("version")["result"]["version"]


def test_clients_are_limited(running):
    clients = [running.connect() for _ in range(64)]
    time.sleep(0.5)
    with running.connect() as extra:
        assert read_line(extra)["error"]["code"] == -32004
        assert extra.recv(1) == b""
    for client in clients:
        client.close()
    assert http1.wait_until(lambda: "result" in running.call("version"), 5)


def resident_kib(node):
    status = pathlib.Path(f"/proc/{node.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def test_reader_that_does_not_read_is_bounded(running):
    before = resident_kib(running)
    with running.connect() as slow:
        slow.setblocking(False)
        request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "settings.list"}).encode() + b"\n"
        sent, until = 0, time.monotonic() + 3
        while time.monotonic() < until:
            try:
                sent += slow.send(request * 100)
            except BlockingIOError:
                time.sleep(0.05)
        assert sent < 8 << 20
        assert SANITIZED or resident_kib(running) - before < 16 << 10
        assert running.call("version")["result"]["version"]


def test_clients_that_vanish_in_the_middle(running):
    for size in (1, 10, 40):
        for _ in range(30):
            sock = running.connect()
            sock.sendall(b'{"jsonrpc":"2.0","id":1,"method":"settings.list"}\n' * size + b'{"jsonrpc"')
            sock.close()
    assert http1.wait_until(lambda: running.call("status").get("result", {}).get("clients") == 1, 5)


def test_events_are_followed_and_kept(running):
    with running.connect() as follower:
        call(follower, "events.follow", filter="setting")
        running.call("settings.set", key="log.rate", value="50")
        event = read_line(follower)
    assert event["method"] == "event"
    record = event["params"]
    assert (record["kind"], record["key"], record["value"]) == ("setting.set", "log.rate", "50")
    assert (record["actor"], record["source"], record["result"]) == (pwd.getpwuid(os.geteuid()).pw_name,
                                                                     "control-socket", "ok")
    before = running.call("events.list")["result"]["events"]
    running.restart()
    after = running.call("events.list")["result"]["events"]
    assert after[:len(before)] == before
    assert [event["seq"] for event in after] == list(range(1, len(after) + 1))
    assert sum(event["kind"] == "setting.set" for event in after) == 1


def test_events_of_another_state_do_not_hide_new_ones(running):
    running.stop()
    with open(running.state / "events.log", "a") as log:
        log.write(json.dumps({"seq": 500, "kind": "blob.push", "index": 10 ** 6}) + "\n" + '{"seq": 501, "cut')
    running.start()
    running.call("settings.set", key="log.rate", value="51")
    events = running.call("events.list")["result"]["events"]
    assert [event["seq"] for event in events if event["seq"] >= 500][0] == 500
    assert [event["value"] for event in events if event["kind"] == "setting.set"] == ["51"]


def test_trace_is_on_only_while_somebody_listens(running):
    with running.connect() as listener:
        call(listener, "trace", filter="trace")
        running.get("/log")
        assert read_line(listener)["params"] == {"trace": "line"}


# Who may do what.


def as_user(groups, script):
    """Runs python as an outsider with these groups."""
    ids = ["--reuid", OUTSIDER, "--regid", str(pwd.getpwnam(OUTSIDER).pw_gid)]
    ids += ["--groups", ",".join(str(grp.getgrnam(group).gr_gid) for group in groups)] if groups else ["--clear-groups"]
    return subprocess.run(["setpriv", *ids, "/usr/bin/python3", "-c", script], capture_output=True, text=True,
                          timeout=30)


ASK = """
import json, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect({path!r})
sock.sendall(json.dumps({{"jsonrpc": "2.0", "id": 1, "method": {method!r}, "params": {params!r}}}).encode() + b"\\n")
print(sock.makefile().readline())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_roles_by_peer_credentials(node):
    node.changes = {"control": {"socket": str(node.socket_path), "group": "games"}}
    node.start()
    assert node.socket_path.stat().st_mode & 0o777 == 0o660
    assert node.socket_path.stat().st_gid == grp.getgrnam("games").gr_gid

    def ask(groups, method, **params):
        return as_user(groups, ASK.format(path=str(node.socket_path), method=method, params=params))
    assert "PermissionError" in ask([], "status").stderr
    assert "PermissionError" in ask(["users"], "status").stderr
    done = ask(["games"], "status")
    assert done.returncode == 0, done.stderr
    assert "result" in json.loads(done.stdout)
    assert "result" in json.loads(ask(["users", "games"], "settings.set", key="log.rate", value="9").stdout)
    denied = json.loads(ask(["games"], "shutdown").stdout)["error"]
    assert denied["code"] == -32001 and "needs the role admin" in denied["message"]
    record = node.call("events.list", limit=1)["result"]["events"][0]
    assert (record["kind"], record["actor"]) == ("setting.set", OUTSIDER)
    # Where the file lets somebody in who is in neither group, the daemon still does not.
    node.socket_path.chmod(0o666)
    answer = json.loads(ask([], "status").stdout)
    assert answer["error"]["code"] == -32001 and "neither root nor a member of group games" in answer["error"]["message"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_user_of_the_data_plane_has_no_role(node):
    """By its group it would be an operator; what takes a data plane over must not come to control that way."""
    node.changes = {"dataplane": {"binary": FAKE, "user": OUTSIDER}, "control": {
        "socket": str(node.socket_path), "group": grp.getgrgid(pwd.getpwnam(OUTSIDER).pw_gid).gr_name}}
    node.start()
    ask = ASK.format(path=str(node.socket_path), method="settings.set", params={"key": "log.rate", "value": "9"})
    answer = json.loads(as_user([], ask).stdout)
    assert answer["error"]["code"] == -32001 and "the data plane's user" in answer["error"]["message"]
    assert node.call("settings.get", key="log.rate")["result"]["source"] == "default"


# The command line.


def test_cli_tables_json_and_exit_codes(running):
    status = running.cli("status").stdout
    assert f"127.0.0.1:{running.port}" in status and "ready" in status and "\033[" not in status
    assert json.loads(running.cli("status", "--json").stdout)["ready"] is True
    rows = running.cli("get", "--all").stdout.splitlines()
    assert rows[0].split() == ["KEY", "VALUE", "SOURCE", "DEFAULT", "MIN", "MAX"]
    assert len(rows) == 1 + len(json.loads(running.cli("get", "--all", "--json").stdout))
    assert running.cli("set", "http.idle_timeout", "15s").stdout == "http.idle_timeout: 75s -> 15s (set)\n"
    assert running.cli("get", "http.idle_timeout").stdout == "15s\n"
    for words, code in ((["get", "nope"], 1), (["get"], 2), (["nope"], 2), (["set", "a"], 2), (["get", "--nope"], 2),
                        (["set", "http.idle_timeout", "x"], 1), (["status", "--follow"], 2), (["--help"], 0),
                        (["events", "--limit", "0"], 2), (["repo", "tags", "no/such"], 1)):
        done = running.cli(*words, check=False)
        assert done.returncode == code, (words, done.stderr)
        assert code == 0 or len(done.stderr.splitlines()) == 1, (words, done.stderr)


def test_cli_without_a_daemon_says_what_to_do():
    done = subprocess.run([FAIRLEAD, "--socket", "/nonexistent/socket", "status"], capture_output=True, text=True)
    assert done.returncode == 1 and "start it" in done.stderr and len(done.stderr.splitlines()) == 1


def test_cli_repositories(running):
    for i in range(25):
        running.get(f"/propose/r/{i:03}")
    rows = running.cli("repo", "ls").stdout.splitlines()
    assert [row.split()[0] for row in rows[1:-1]] == [f"r/{i:03}" for i in range(25)]
    assert "each counted once" in rows[-1]
    assert len(running.cli("repo", "ls", "--limit", "7").stdout.splitlines()) == 9
    assert running.cli("repo", "rm", "r/003").stdout == "deleted r/003\n"
    assert "r/003" not in running.cli("repo", "ls").stdout
    assert running.cli("repo", "rm", "r/003", check=False).returncode == 1
    pages = running.call("repo.list", limit=10)["result"]
    assert len(pages["repos"]) == 10 and pages["more"] is True
    assert running.call("repo.list", after="r/020", limit=10)["result"]["more"] is False


def test_metrics_are_well_formed(running):
    running.get("/")
    text = running.cli("metrics").stdout
    assert subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True).returncode == 0
    assert "fairlead_requests_total " in text


def test_installed_completion_is_the_generated_one():
    script = subprocess.run([FAIRLEAD, "completion", "bash"], capture_output=True, text=True, check=True).stdout
    installed = (harness.SOURCE / "packaging" / "completion" / "fairlead").read_text()
    assert installed == script, "write what `fairlead completion bash` says to packaging/completion/fairlead"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell):
    script = subprocess.run([FAIRLEAD, "completion", shell], capture_output=True, text=True, check=True).stdout
    assert "settings" not in script or "fairlead get --all" in script
    if shell != "fish":
        assert subprocess.run(["bash", "-n"], input=script.split("bashcompinit\n")[-1], text=True).returncode == 0
    if shell == "bash":
        done = subprocess.run(["bash", "-c", script + "\nCOMP_WORDS=(fairlead repo ''); COMP_CWORD=2; _fairlead; "
                               "echo ${COMPREPLY[@]}"], capture_output=True, text=True)
        assert done.stdout.split() == ["ls", "tags", "create", "rm"]
        keys = subprocess.run(["bash", "-c", script + "\nfairlead() { [[ $1 == service ]] && printf 'NAME A\\nweb a\\n'; }\n"
                               "compopt() { :; }\nCOMP_WORDS=(fairlead backend set web one 'we'); COMP_CWORD=5; _fairlead; "
                               "echo ${COMPREPLY[@]}"], capture_output=True, text=True)
        assert keys.stdout.split() == ["weight="], keys.stderr


def test_completion_knows_the_fields_of_a_service(running):
    """Asked from the daemon: as many as there are."""
    script = subprocess.run([FAIRLEAD, "completion", "bash"], capture_output=True, text=True, check=True).stdout
    running.cli("service", "create", "words", "10.99.3.1:80", "kind=http")
    try:
        wrapped = f"fairlead() {{ {FAIRLEAD} --socket {running.socket_path} \"$@\"; }}\ncompopt() {{ :; }}\n"
        done = subprocess.run(["bash", "-c", script + wrapped + "COMP_WORDS=(fairlead service set words 'check.'); COMP_CWORD=4; "
                               "_fairlead; echo ${COMPREPLY[@]}"], capture_output=True, text=True)
        assert {"check.path=", "check.interval=", "check.statuses="} <= set(done.stdout.split()), (done.stdout, done.stderr)
    finally:
        running.cli("service", "rm", "words", "--yes")
