# SPDX-License-Identifier: Apache-2.0
"""fairlead apply: a file of services, backends and settings as one transaction, shown before and done as a whole or not at
all. The programs in the kernel are off, and the data plane is a fake one."""

import json

import pytest

import harness
import http1
from test_services import Node

pytestmark = pytest.mark.skipif(harness.KIND != "fairlead", reason="tests Fairlead's own control")

WEB = {"name": "web", "address": "10.9.0.1:80", "backends": [{"name": "a", "address": "10.9.1.1:80"},
                                                             {"name": "b", "address": "10.9.1.2:80"}]}
API = {"name": "api", "address": "10.9.0.2:80", "backends": [{"name": "a", "address": "10.9.1.3:80"}]}


@pytest.fixture
def running():
    instance = Node()
    instance.folder.chmod(0o755)
    instance.start()
    assert http1.wait_until(instance.has_said_itself, 30)
    yield instance
    instance.close()


def write(node, **content):
    path = node.folder / "changes.yaml"
    path.write_text(json.dumps(content))
    return str(path)


def apply(node, *options, code=0, **content):
    return node.cli("apply", "-f", write(node, **content), *options, code=code)


def changes(node, *options, **content):
    (answer,) = [json.loads(line) for line in apply(node, "--json", *options, **content).splitlines()]
    return answer["changes"]


def index(node):
    """Of the newest change of the state."""
    return max(event.get("index", 0) for event in node.call("events.list", limit=1024)["events"])


def test_services_backends_and_settings_in_one_entry(running):
    done = apply(running, services=[WEB, API], settings={"http.idle_timeout": "33s"})
    assert "+ service web 10.9.0.1:80" in done and "+ backend web/b 10.9.1.2:80" in done
    assert "+ setting http.idle_timeout 33s" in done and "6 changes made" in done
    assert set(running.services()) == {"web", "api"} and len(running.backends()) == 3
    assert running.cli("get", "http.idle_timeout").strip() == "33s"
    (event,) = [event for event in running.call("events.list", limit=100)["events"] if event["kind"] == "transaction"]
    assert event["actor"] == "root" and event["parts_count"] == len(event["parts"]) == 5
    assert event["parts"][0] == {"kind": "service.set", "service": "api"}
    assert {"kind": "setting.set", "key": "http.idle_timeout", "value": "33s"} in event["parts"]
    before = index(running)
    assert "nothing to do" in apply(running, services=[WEB, API], settings={"http.idle_timeout": "33s"})
    assert index(running) == before
    running.restart("kill")
    assert set(running.services()) == {"web", "api"} and running.cli("get", "http.idle_timeout").strip() == "33s"


def test_a_change_is_shown_field_by_field(running):
    apply(running, services=[WEB])
    after = {**WEB, "policy": "maglev", "backends": [{"name": "a", "address": "10.9.1.1:80", "weight": 7}]}
    before = index(running)
    wanted = changes(running, "--dry-run", services=[after], settings={"log.rate": 5})
    assert index(running) == before and running.services()["web"]["policy"] == "least"
    assert {(row["action"], row["kind"], row["name"]): row["fields"] for row in wanted} == {
        ("change", "service", "web"): [{"key": "policy", "old": "least", "new": "maglev"}],
        ("change", "backend", "a"): [{"key": "weight", "old": "1", "new": "7"}],
        ("add", "setting", "log.rate"): [{"key": "value", "old": None, "new": "5"}]}
    text = apply(running, "--dry-run", services=[after])
    assert "~ service web\n    policy: least -> maglev\n" in text and "2 changes would be made" in text
    assert changes(running, services=[after], settings={"log.rate": 5}) == wanted
    # What the file does not name stayed.
    assert set(running.backends()) == {("web", "a"), ("web", "b")}
    assert running.backends()["web", "a"]["weight"] == 7


def test_prune_removes_what_the_sections_do_not_name(running):
    apply(running, services=[WEB, API], settings={"log.rate": 5})
    wanted = changes(running, "--dry-run", "--prune", services=[{**WEB, "backends": WEB["backends"][:1]}])
    assert {(row["action"], row["kind"], row["name"]) for row in wanted} == {("remove", "service", "api"),
                                                                            ("remove", "backend", "b")}
    apply(running, "--prune", services=[{**WEB, "backends": WEB["backends"][:1]}])
    assert set(running.backends()) == {("web", "a")}
    assert running.call("settings.get", key="log.rate")["source"] == "set"
    apply(running, "--prune", settings={"http.idle_timeout": "20s"})
    assert running.call("settings.get", key="log.rate")["source"] == "default" and set(running.services()) == {"web"}


def test_all_or_nothing(running):
    """The last part is refused; nothing of it stays, and the text says which one."""
    running.cli("service", "create", "other", "10.9.0.9:80")
    before = index(running)
    for options in ((), ("--dry-run",)):
        said = apply(running, *options, services=[WEB, {**API, "name": "zz", "address": "10.9.0.9:80"}],
                     settings={"log.rate": 5}, code=1)
        assert "10.9.0.9:80 is the address of the service 'other'" in said and "part 3 of" in said
    assert index(running) == before
    assert set(running.services()) == {"other"} and running.call("settings.get", key="log.rate")["source"] == "default"


def test_addresses_of_backends_change_places(running):
    apply(running, services=[WEB])
    apply(running, services=[{**WEB, "backends": [{"name": "a", "address": "10.9.1.2:80"},
                                                  {"name": "b", "address": "10.9.1.1:80"}]}])
    assert running.backends()["web", "a"]["address"] == "10.9.1.2:80"
    assert running.backends()["web", "b"]["address"] == "10.9.1.1:80"


def test_what_the_configuration_says_is_the_configurations(running):
    running.reload_until(lambda: "web" in running.services(), services=[WEB])
    assert "set in the configuration file" in apply(running, services=[{**WEB, "policy": "maglev"}], code=1)
    # Nor is it pruned.
    assert "nothing to do" in apply(running, "--prune", services=[])
    assert set(running.services()) == {"web"}


def test_files_that_are_no_changes(running):
    before = index(running)
    assert "changes.yaml:1:" in apply(running, code=1, listen=["127.0.0.1:1"])
    assert "unknown setting" in apply(running, code=1, settings={"no.such": 1})
    assert "services" in apply(running, code=1, services={"web": {}})
    assert "cannot read /nonexistent" in running.cli("apply", "-f", "/nonexistent", code=1)
    assert "-f FILE" in running.cli("apply", code=2)
    assert running.call("apply", text=7)["code"] == -32602
    assert running.call("apply", text="x: [")["code"] == -32602
    assert running.call("apply", text="")["changes"] == []
    assert index(running) == before


def test_a_file_of_hundreds_of_services(running):
    many = [{"name": f"s{i}", "address": f"10.9.{2 + i // 200}.{i % 200}:80", "check": {"interval": "100ms"},
             "backends": [{"name": f"b{k}", "address": f"10.8.{i // 200}.{i % 200}:{8000 + k}"} for k in range(4)]}
            for i in range(300)]
    assert "1500 changes made" in apply(running, services=many)
    assert len(running.services()) == 300 and len(running.backends()) == 1200
    assert "nothing to do" in apply(running, services=many)
    assert "300 changes made" in apply(running, "--prune", services=[])
    assert running.services() == {}
