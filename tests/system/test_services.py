# SPDX-License-Identifier: Apache-2.0
"""Services and backends as operators see them: command line, control socket, configuration file, restarts. The programs
in the kernel are off: what they do is tested elsewhere."""

import json
import re
import signal
import socket
import subprocess

import pytest

import harness
import http1

pytestmark = pytest.mark.skipif(harness.KIND != "fairlead", reason="tests Fairlead's own control")

FAIRLEADD = str(harness.BUILD / "fairleadd")
FAIRLEAD = str(harness.BUILD / "fairlead")


class Node(harness.FairleadRegistry):
    """A daemon with the fake data plane and without the kernel half."""

    def __init__(self, **options):
        super().__init__(**options)
        self.more = {}
        self.settings["kernel.enabled"] = False

    def config(self):
        config = super().config()
        config["dataplane"] = {"binary": str(harness.BUILD / "tools" / "fake_dataplane")}
        return {**config, **self.more}

    def is_ready(self):
        assert self.process.poll() is None, self.report(f"ended with {self.process.returncode} at start")
        try:
            self.call("version")
        except OSError:
            return False
        self.children |= set(harness.children_of(self.process.pid))
        return True

    def has_said_itself(self):
        """The first start makes a cluster of one, and then says which store it has: no more entries come by themselves."""
        kinds = [event["kind"] for event in self.call("events.list", limit=1024)["events"]]
        return "cluster.init" in kinds and "node.set" in kinds

    def call(self, method, **params):
        """The result, or the error."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(str(self.socket_path))
            sock.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n")
            with sock.makefile("rb") as lines:
                answer = json.loads(lines.readline())
        return answer.get("result", answer.get("error"))

    def cli(self, *words, code=0):
        done = subprocess.run([FAIRLEAD, "--socket", str(self.socket_path), *words], capture_output=True, text=True,
                              timeout=30)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return done.stdout if code == 0 else done.stderr

    def json(self, *words):
        return [json.loads(line) for line in self.cli("--json", *words).splitlines()]

    def services(self):
        return {row["name"]: row for row in self.json("service", "ls")}

    def backends(self, *service):
        return {(row["service"], row["name"]): row for row in self.json("backend", "ls", *service)}

    def reload(self, **more):
        self.more.update(more)
        self.write_config()
        self.process.send_signal(signal.SIGHUP)

    def reload_until(self, condition, **more):
        self.reload(**more)
        assert http1.wait_until(condition, 10), self.report("the file did not count")

    def check(self, **more):
        """What --check says of a configuration with more in it."""
        self.more = more
        self.write_config()
        done = subprocess.run([FAIRLEADD, "--config", str(self.folder / "config.yaml"), "--check"],
                              capture_output=True, text=True, timeout=30)
        return done.returncode, done.stderr


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


WEB = {"name": "web", "address": "10.99.0.1:80", "policy": "maglev",
       "backends": [{"name": "a", "address": "10.99.1.1:80", "weight": 2}, {"address": "10.99.1.2:80"}]}


def test_a_service_comes_and_goes(running):
    assert running.cli("service", "create", "web", "10.99.0.1:80", "kind=http", "check.path=/ok",
                       "check.statuses=200-299,401") == "created web\n"
    row = running.services()["web"]
    assert row["address"] == "10.99.0.1:80" and row["kind"] == "http" and row["origin"] == "api"
    assert row["check"] == {"kind": "http", "interval": "20ms", "http_interval": "1s", "timeout": "20ms",
                            "http_timeout": "500ms", "rise": 2, "fall": 3, "path": "/ok", "host": "",
                            "statuses": "200-299,401"}
    assert row["steer"] is True and row["policy"] == "least" and row["all_down"] == "refuse"
    running.cli("service", "set", "web", "policy=random", "check.interval=10ms", "steer=no", "edge=full-nat")
    changed = running.services()["web"]
    assert (changed["policy"], changed["check"]["interval"], changed["steer"], changed["edge"]) == (
        "random", "10ms", False, "full-nat")
    assert changed["id"] == row["id"] and changed["revision"] > row["revision"]
    assert changed["check"]["path"] == "/ok"
    assert "web" in running.cli("service", "ls") and "10.99.0.1:80" in running.cli("service", "show", "web")
    assert running.cli("service", "rm", "web") == "deleted web\n"
    assert running.services() == {}
    assert "there is no service 'web'" in running.cli("service", "rm", "web", code=1)


def test_fields_that_nobody_reads_are_told(running):
    def told(*words):
        return subprocess.run([FAIRLEAD, "--socket", str(running.socket_path), *words], capture_output=True, text=True,
                              timeout=30, check=True).stderr

    assert told("service", "create", "web", "10.99.0.1:80", "kind=http") == ""
    usual = running.services()["web"]["retries"]
    assert "nobody reads retries" in told("service", "set", "web", "retries=9")
    assert "nobody reads retries" in running.cli("status")
    assert told("service", "set", "web", f"retries={usual}") == "" and "nobody reads" not in running.cli("status")
    entry = {"name": "file", "address": "10.99.0.2:80", "kind": "http", "resume": {"max": 3}}
    assert "'file' has path: direct, with which nobody reads resume.max" in running.check(services=[entry])[1]


def test_another_kind_brings_its_defaults(running):
    running.cli("service", "create", "api", "10.99.0.1:80", "kind=http", "check.interval=40ms")
    before = running.services()["api"]
    running.cli("service", "set", "api", "kind=docker")
    after = running.services()["api"]
    assert (before["check"]["path"], after["check"]["path"]) == ("/", "/_ping")
    assert before["check"]["interval"] == after["check"]["interval"] == "40ms"
    running.cli("service", "set", "api", "kind=registry", "check.path=/mine")
    assert running.services()["api"]["check"]["path"] == "/mine"


def test_backends_come_drain_and_go(running):
    running.cli("service", "create", "web", "[fd00:99::1]:80")
    running.cli("backend", "add", "web", "[fd00:99::11]:8080", "name=one", "weight=7")
    running.cli("backend", "add", "web", "[fd00:99::12]:8080")
    rows = running.backends("web")
    assert rows["web", "one"]["weight"] == 7 and rows["web", "one"]["state"] == "unknown"
    assert rows["web", "[fd00:99::12]:8080"]["address"] == "[fd00:99::12]:8080"
    running.cli("backend", "drain", "web", "one", "[fd00:99::12]:8080")
    assert {row["state"] for row in running.backends().values()} == {"drain"}
    running.cli("backend", "undrain", "web", "one")
    running.cli("backend", "set", "web", "one", "weight=9", "node=n2")
    row = running.json("backend", "show", "web", "one")[0]
    assert (row["weight"], row["node"], row["admin"], row["generation"]) == (9, "n2", "active", 2)
    assert row["history"] == [] and row["figures"]["probes"] == 0
    running.cli("backend", "set", "web", "one", "address=[fd00:99::13]:8080")
    moved = running.backends()["web", "one"]
    assert moved["id"] == row["id"] and moved["generation"] == 3
    running.cli("backend", "rm", "web", "one")
    assert list(running.backends()) == [("web", "[fd00:99::12]:8080")]
    assert running.services()["web"]["states"] == {"drain": 1}


WRONG = [
    (("service", "create", "w b", "10.99.0.1:80"), 1, "cannot be the name"),
    (("service", "create", "web", "10.99.0.1"), 1, "write an IP address and a port"),
    (("service", "create", "web", "224.0.0.1:80"), 1, "address of a host"),
    (("service", "create", "web", "10.99.0.1:80", "policy"), 2, "is not KEY=VALUE"),
    (("service", "create", "web", "10.99.0.1:80", "polcy=maglev"), 1, "did you mean 'policy'?"),
    (("service", "create", "web", "10.99.0.1:80", "policy=best"), 1, "write random, maglev, least or digest"),
    (("service", "create", "web", "10.99.0.1:80", "tls=terminate"), 1, "set path: proxy"),
    (("service", "create", "web", "10.99.0.1:80", "steer=no"), 1, "neither steer nor edge"),
    (("service", "create", "web", "10.99.0.1:80", "takeover=yes"), 1, "set edge"),
    (("service", "create", "web", "127.0.0.1:80", "edge=nat"), 1, "loopback"),
    (("service", "create", "web", "10.99.0.1:80", "check.interval=0ms"), 1, "from 1ms to 1h"),
    (("service", "create", "web", "10.99.0.1:80", "check.statuses=20"), 1, "200-299,401"),
    (("service", "create", "web", "10.99.0.1:80", "check.path=health"), 1, "from / on"),
    (("service", "create", "web", "10.99.0.1:80", "check.path=/a b"), 1, "without blanks"),
    (("service", "create", "there", "10.99.0.3:80"), 1, "exists already"),
    (("service", "create", "other", "10.99.0.2:80"), 1, "10.99.0.2:80 is the address of the service 'there'"),
    (("service", "set", "none", "policy=maglev"), 1, "there is no service 'none'"),
    (("backend", "add", "there", "127.0.0.1:80"), 1, "a client in a container would reach its own loopback"),
    (("backend", "add", "there", "[fd00::1]:80"), 1, "address family"),
    (("backend", "add", "there", "10.99.0.2:80"), 1, "service's own address"),
    (("backend", "add", "there", "10.99.1.1:80"), 1, "exists already"),
    (("backend", "add", "there", "10.99.1.1:80", "name=twin"), 1, "address of another backend"),
    (("backend", "add", "there", "10.99.1.9:80", "weight=257"), 1, "from 1 to 256"),
    (("backend", "add", "none", "10.99.1.1:80"), 1, "there is no service 'none'"),
    (("backend", "drain", "there", "none"), 1, "has no backend 'none'"),
    (("backend", "rm", "there", "10.99.1.1:80", "10.99.1.1:80"), 1, "named twice"),
    (("backend", "drain", "there"), 2, "too few arguments"),
]


def test_what_is_wrong_is_said_and_changes_nothing(running):
    running.cli("service", "create", "there", "10.99.0.2:80")
    running.cli("backend", "add", "there", "10.99.1.1:80")
    before = running.services(), running.backends()
    for words, code, text in WRONG:
        said = running.cli(*words, code=code)
        assert text in said and len(said.splitlines()) == 1, (words, said)
    assert (running.services(), running.backends()) == before


def test_socket_takes_numbers_truths_and_objects(running):
    made = running.call("service.set", name="api", create=True,
                        set={"address": "10.99.0.9:443", "kind": "kubernetes", "cut": False,
                             "check": {"fall": 5, "interval": "1s"}})
    assert made["check"]["fall"] == 5 and made["cut"] is False and made["check"]["kind"] == "tcp"
    for wrong in ({"check": {"fall": 0}}, {"check": {"fall": 1.5}}, {"check": []}, {"cut": None}, {"id": 3},
                  {"nmae": "x"}):
        assert running.call("service.set", name="api", set=wrong)["code"] == -32602, wrong
    many = [{"name": f"b{i:03}", "address": f"10.95.{i // 200}.{i % 200 + 1}:443"} for i in range(500)]
    names = running.call("backend.set", service="api", create=True, backends=many)["names"]
    assert len(names) == 500 and names == sorted(names)
    page = running.call("backend.list", service="api", limit=200)
    assert len(page["backends"]) == 200 and page["more"] is True
    last = page["backends"][-1]["name"]
    page = running.call("backend.list", service="api", after_service="api", after=last, limit=400)
    assert len(page["backends"]) == 300 and page["more"] is False
    twice = running.call("backend.set", service="api", create=True,
                         backends=[{"name": "new", "address": "10.98.0.1:1"}, many[7]])
    assert "exists already" in twice["message"] and running.call("service.show", name="api")["backends_count"] == 500
    for wrong in ([], {}, [1], [{"address": 5}], [{"name": "x"}]):
        assert running.call("backend.set", service="api", create=True, backends=wrong)["code"] == -32602, wrong
    assert running.call("backend.admin", service="api", names=["b001"], admin="gone")["code"] == -32602


def test_budgets(running):
    running.cli("set", "kernel.probes_per_s", "200")
    running.cli("service", "create", "web", "10.99.0.1:80")
    for i in range(4):
        running.cli("backend", "add", "web", f"10.99.1.{i + 1}:80")
    said = running.cli("backend", "add", "web", "10.99.1.9:80", code=1)
    assert "250 probes a second" in said and "check.interval" in said
    assert "400 probes a second" in running.cli("service", "set", "web", "check.interval=10ms", code=1)
    running.cli("service", "set", "web", "check.interval=1s")
    running.cli("backend", "add", "web", "10.99.1.9:80")
    running.cli("set", "kernel.backends_max", "64")
    many = [{"address": f"10.99.2.{i + 1}:80"} for i in range(60)]
    assert "kernel.backends_max" in running.call("backend.set", service="web", create=True, backends=many)["message"]


def test_restart_keeps_everything(running):
    running.cli("service", "create", "web", "10.99.0.1:80", "policy=maglev")
    running.cli("backend", "add", "web", "10.99.1.1:80", "name=a")
    running.cli("backend", "add", "web", "10.99.1.2:80", "name=b")
    running.cli("backend", "rm", "web", "a")
    running.cli("backend", "add", "web", "10.99.1.3:80", "name=c")
    running.cli("backend", "drain", "web", "b")
    before = running.services(), running.backends()
    assert before[1]["web", "c"]["id"] == 0 and before[1]["web", "c"]["generation"] == 2
    running.restart("kill")
    assert (running.services(), running.backends()) == before
    running.restart()
    assert (running.services(), running.backends()) == before


def test_the_file_declares(node):
    node.more = {"services": [WEB]}
    node.start()
    assert http1.wait_until(lambda: len(node.backends()) == 2, 10)
    assert node.services()["web"]["origin"] == "file" and node.services()["web"]["policy"] == "maglev"
    path = str(node.folder / "config.yaml")
    for words in (("service", "set", "web", "policy=random"), ("service", "rm", "web"), ("backend", "rm", "web", "a"),
                  ("backend", "set", "web", "a", "weight=1")):
        said = node.cli(*words, code=1)
        assert "is set in the configuration file" in said and f"change it in {path}" in said, said
    node.cli("backend", "drain", "web", "a")
    node.cli("backend", "add", "web", "10.99.1.7:80", "name=mine")
    node.cli("service", "create", "other", "10.99.0.2:80")
    # One moves, one goes, one comes; what is drained stays drained where it is.
    ids = {key: row["id"] for key, row in node.backends().items()}
    changed = {**WEB, "policy": "least", "backends": [WEB["backends"][0], {"name": "n", "address": "10.99.1.4:80"}]}
    node.reload_until(lambda: ("web", "n") in node.backends(), services=[changed])
    rows = node.backends()
    assert set(rows) == {("web", "a"), ("web", "n"), ("web", "mine")}
    assert rows["web", "a"]["admin"] == "drain" and rows["web", "a"]["id"] == ids["web", "a"]
    assert rows["web", "mine"]["origin"] == "api" and node.services()["web"]["policy"] == "least"
    # Two change places.
    swapped = {**changed, "backends": [{"name": "a", "address": "10.99.1.4:80"}, {"name": "n", "address": "10.99.1.1:80"}]}
    node.reload_until(lambda: node.backends().get(("web", "n"), {}).get("address") == "10.99.1.1:80", services=[swapped])
    assert node.backends()["web", "a"]["address"] == "10.99.1.4:80"
    # A file with an error changes nothing.
    node.reload(services=[{**WEB, "policy": "best"}])
    assert http1.wait_until(lambda: "write random, maglev, least or digest" in node.log(), 10)
    assert node.services()["web"]["policy"] == "least"
    # What the file does not name any more goes; what others made stays.
    node.reload_until(lambda: set(node.services()) == {"other"}, services=[])
    node.restart()
    assert set(node.services()) == {"other"}


def test_the_file_takes_over_what_was_made_by_hand(node):
    node.start()
    node.cli("service", "create", "web", "10.99.0.1:80")
    node.cli("backend", "add", "web", "10.99.1.1:80", "name=a")
    before = node.backends()["web", "a"]
    node.reload_until(lambda: len(node.backends()) == 2, services=[WEB])
    assert node.services()["web"]["origin"] == "file"
    after = node.backends()["web", "a"]
    assert (after["id"], after["generation"], after["origin"], after["weight"]) == (before["id"], 1, "file", 2)


def test_the_file_says_where_it_is_wrong(node):
    node.more = {}
    text = "state: /tmp/x\nservices:\n- name: web\n  adress: 10.0.0.1:80\n- name: b\n  address: 10.0.0.1:80\n  check:\n" \
           "    kind: icmp\n  backends:\n  - address: 127.0.0.1:80\n  - {address: 10.0.0.2:80, wait: 1}\n" \
           "peers:\n- name: self\n  address: 10.0.0.2\n- {name: n2, address: 10.0.0.2:80}\ntakeover: [n3]\n"
    path = node.folder / "wrong.yaml"
    path.write_text(text)
    done = subprocess.run([FAIRLEADD, "--config", str(path), "--check"], capture_output=True, text=True)
    said = [line.removeprefix(f"{path}:") for line in done.stderr.splitlines()]
    assert done.returncode == 2
    for place, what in (("4:3", "did you mean 'address'?"), ("8:11", "write none, tcp, http or tls"),
                        ("10:5", "loopback"), ("11:28", "unknown key 'wait'"), ("13:9", "'self' is this node"),
                        ("15:23", "without a port"), ("16:12", "'n3' is no peer"), ("16:11", "this node is not in the list")):
        assert any(line.startswith(place + ": ") and what in line for line in said), (place, what, said)
    for more, what in (({"services": [WEB, WEB]}, "two services 'web'"),
                       ({"services": [WEB, {**WEB, "name": "v"}]}, "10.99.0.1:80 is the address of the service"),
                       ({"services": [{**WEB, "backends": [{"address": "10.1.1.1:1"}] * 2}]}, "two backends"),
                       ({"services": {}}, "services must be a list"), ({"peers": 1}, "peers must be a list"),
                       ({"takeover": ["self", "self"]}, "listed twice"),
                       ({"services": [{**WEB, "path": "proxy", "tls": "terminate"}]}, "tls.certificates")):
        code, said = node.check(**more)
        assert code == 2 and what in said, (more, said)


def test_events_status_and_metrics(running):
    running.cli("service", "create", "web", "10.99.0.1:80")
    running.cli("backend", "add", "web", "10.99.1.1:80", "name=a")
    running.cli("backend", "drain", "web", "a")
    events = {row["kind"]: row for row in running.call("events.list", limit=100)["events"]}
    assert events["service.set"]["service"] == "web" and events["service.set"]["source"] == "control-socket"
    assert events["backend.set"]["backends"] == ["a"] and events["backend.admin"]["admin"] == "drain"
    assert re.search(r"backend\.admin +\S+ from control-socket on \S+ web drain a", running.cli("events"))
    status = running.call("status")["balancing"]
    assert status["services_count"] == 1 and status["backends"][0]["state"] == "drain" and status["probes_per_s"] == 50
    assert "web" in running.cli("status")
    text = running.cli("metrics")
    assert 'fairlead_backend_up{service="web",backend="a"} 0' in text
    assert 'fairlead_backend_drain{service="web",backend="a"} 1' in text and "fairlead_services 1" in text
    assert subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True).returncode == 0


def test_many_services_of_a_file(node):
    services = [{"name": f"s{i}", "address": f"10.98.{i // 250}.{i % 250 + 1}:80",
                 "backends": [{"address": f"10.97.{i // 250}.{i % 250 + 1}:80"},
                              {"address": f"10.96.{i // 250}.{i % 250 + 1}:80"}]} for i in range(1000)]
    node.more = {"services": services}
    node.start()
    assert http1.wait_until(lambda: len(node.backends()) == 2000, 60)
    ids = {key: row["id"] for key, row in node.backends().items()}
    assert sorted(ids.values()) == list(range(2000))
    node.reload_until(lambda: len(node.services()) == 999, services=services[1:])
    ids.pop(("s0", "10.97.0.1:80"))
    ids.pop(("s0", "10.96.0.1:80"))
    assert {key: row["id"] for key, row in node.backends().items()} == ids
