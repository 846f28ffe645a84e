# SPDX-License-Identifier: Apache-2.0
"""The life of the kernel half: it is loaded, outlives its daemon, moves to other maps, and leaves nothing behind."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

import http1
import netlab
from harness import BUILD
from netlab import BPFFS, Lab, command

pytestmark = netlab.needed

VIP, PORT = "10.97.0.1", 80
OBJECTS = {"cut", "edge", "edge_xdp", "heartbeat", "probe", "steer", "takeover", "watch"}
# What a steered service needs of them, and what is then on an ordinary device, as (program, hook).
NEEDED = {"cut", "probe", "steer", "watch"}
ON_DEVICE = {("rx", "ingress"), ("cut_egress", "egress")}
OF_EDGE = {("edge", "ingress"), ("edge_out", "egress")}
OF_PEERS = {("bfd_rx", "ingress")}
OF_TAKEOVER = {("takeover", "ingress")}
IN_CGROUP = {"steer_connect4", "steer_connect6", "steer_getpeername4", "steer_getpeername6", "watch_sockets"}


def service(lab, backends=("server",)):
    lines = ["services:", "  - name: web", f"    address: {VIP}:{PORT}", "    kind: tcp", "    steer: true", "    check:",
             "      kind: tcp", "      interval: 20ms", "    backends:"]
    for name in backends:
        lines += [f"      - name: {name}", f"        address: {lab[name].v4}:{PORT}"]
    return "\n".join(lines) + "\n"


def ask(node, *words):
    return json.loads(node.cli(*words, "--json").stdout)


def kernel(node):
    return ask(node, "kernel")


def is_on(node):
    return node.cli("kernel", check=False).stdout.startswith("kernel half: on")


def wait_on(node):
    assert http1.wait_until(lambda: is_on(node), 60), node.log()
    return kernel(node)


def wait_failed(node):
    assert http1.wait_until(lambda: kernel(node)["state"] == "failed", 60), node.log()
    return kernel(node)


def places(status, where):
    return {(p["program"], p["hook"]) for p in status["attached"] if p["where"] == where and p["id"]}


def verdict(node, backend=0):
    """(state, reason, generation, sequence), from the kernel itself."""
    out = command("bpftool", "-j", "map", "lookup", "pinned", BPFFS / f"fairlead-{node.instance}/v3/verdicts", "key", "hex",
                  *backend.to_bytes(4, "little").hex(" ").split()).stdout
    raw = int.from_bytes(bytes(int(b, 16) for b in json.loads(out)["value"]), "little")
    return raw & 0xff, raw >> 8 & 0xff, raw >> 16 & 0xffff, raw >> 32


UP = 1


def wait_up(node, backend=0):
    assert http1.wait_until(lambda: verdict(node, backend)[0] == UP, 20), (verdict(node, backend), node.log())


def map_id(node, name):
    return next(m["id"] for m in kernel(node)["maps"] if m["name"] == name)


def link_id(node, program):
    path = BPFFS / f"fairlead-{node.instance}/v3/links/{program}"
    return json.loads(command("bpftool", "-j", "link", "show", "pinned", path).stdout)["id"]


def told(node):
    """The kinds of events about backends."""
    lines = node.cli("events", "--limit", "100", "--json").stdout.splitlines()
    return [kind for kind in (json.loads(line)["kind"] for line in lines) if kind.startswith("backend.")]


def failures(results):
    return [r for r in results if r[2].startswith("-")]


@pytest.fixture
def lab():
    with Lab("client", "server") as instance:
        yield instance


@pytest.fixture
def node(lab):
    """A client with a service of one backend, which is up."""
    lab["server"].pong(PORT)
    instance = lab.node("client", config=service(lab))
    wait_on(instance)
    wait_up(instance)
    return instance


def restarted(node, how):
    getattr(node, how)()
    node.start()
    return wait_on(node)


# ---------------------------------------------------------------- loading

def test_everything_is_loaded_attached_and_shown(lab, node):
    status = kernel(node)
    assert status["state"] == "on" and status["instance"] == node.instance
    assert {o["name"] for o in status["objects"]} == OBJECTS
    assert {o["name"] for o in status["objects"] if o["needed"]} == NEEDED
    assert [o for o in status["objects"] if o["loaded"] != o["needed"]] == []
    assert status["degraded"] == []
    assert [s for s in status["support"] if not s["supported"]] == []
    assert places(status, "eth0") == ON_DEVICE
    assert {program for program, _ in places(status, str(node.host.cgroup))} == IN_CGROUP
    assert {"tick", "fan"} <= {p["program"] for p in status["attached"]}
    sizes = {m["name"]: m for m in status["maps"]}
    assert sizes["verdicts"]["entries"] == sizes["backends"]["entries"] == 8192
    assert 0 < sizes["verdicts"]["bytes"] < status["maps_bytes"]
    ticks = status["clock"]["ticks"]
    assert status["clock"]["period_us"] == 20000
    assert http1.wait_until(lambda: kernel(node)["clock"]["ticks"] > ticks + 10, 5)
    text = node.cli("kernel").stdout
    assert "kernel half: on" in text and "steer_connect4" in text and "lacks" not in text
    assert "not needed, so not loaded: edge, edge_xdp, heartbeat, takeover" in text


def test_devices_come_and_go(lab, node):
    host = node.host
    host.ip("link", "add", "extra0", "type", "veth", "peer", "name", "extra1")
    assert http1.wait_until(lambda: places(kernel(node), "extra0") == ON_DEVICE, 5)
    host.ip("link", "del", "extra0")
    assert http1.wait_until(lambda: not [p for p in kernel(node)["attached"] if p["where"] == "extra0"], 5)


def test_excluded_devices_and_ports_of_a_bridge_are_left_alone(lab):
    host = lab["client"]
    for name in ("left0", "port0"):
        host.ip("link", "add", name, "type", "veth", "peer", "name", name + "p")
    host.ip("link", "add", "br7", "type", "bridge")
    host.ip("link", "set", "port0", "master", "br7")
    node = netlab.Node(host)
    lab.nodes.append(node)
    write = node.write_config

    def with_exclude():
        write()
        text = node.config_path.read_text().replace("kernel:\n", "kernel:\n  exclude: ['left*']\n")
        node.config_path.write_text(text)
    node.write_config = with_exclude
    node.start()
    status = wait_on(node)
    assert places(status, "left0") == places(status, "port0") == set()
    assert places(status, "br7") == {("rx", "ingress")}
    for name in ("left0", "port0"):
        assert "clsact" not in host.run("tc", "qdisc", "show", "dev", name).stdout


# ---------------------------------------------------------------- on demand

def loaded(node):
    return {o["name"] for o in kernel(node)["objects"] if o["loaded"]}


def pinned(node, name):
    return (BPFFS / f"fairlead-{node.instance}/v3/{name}").exists()


def on_eth0(node):
    return node.host.run("tc", "filter", "show", "dev", "eth0", "ingress").stdout


def wait_for(node, check, seconds=20):
    assert http1.wait_until(check, seconds), (kernel(node), node.log())


def test_nothing_but_the_probe_without_services(lab):
    node = lab.node("client")
    assert places(wait_on(node), "eth0") == {("rx", "ingress")}
    assert loaded(node) == {"probe"}
    assert not pinned(node, "flows")


def test_what_is_needed_later_is_loaded_then(lab, node):
    """Without a gap for what is there; the daemon answers meanwhile."""
    reach = lab["client"].reach(VIP, PORT, interval_us=2000)
    was, link = verdict(node), link_id(node, "steer_connect4")
    node.cli("service", "create", "way", "10.97.0.2:80", "edge=nat")
    wait_for(node, lambda: places(kernel(node), "eth0") == ON_DEVICE | OF_EDGE)
    assert loaded(node) == NEEDED | {"edge", "edge_xdp"}
    assert node.host.run("tc", "filter", "show", "dev", "eth0", "egress").stdout.count("0xfa1") == 2
    with open(node.config_path, "a") as config:
        config.write(f"peers: [{{name: server, address: {lab['server'].v4}}}]\ntakeover: [self]\n")
    node.process.send_signal(signal.SIGHUP)
    wait_for(node, lambda: places(kernel(node), "eth0") == ON_DEVICE | OF_EDGE | OF_PEERS)
    assert "bfd_tick" in {p["program"] for p in kernel(node)["attached"]}
    node.cli("service", "set", "way", "address=10.99.0.222:80", "takeover=yes")
    wait_for(node, lambda: places(kernel(node), "eth0") == ON_DEVICE | OF_EDGE | OF_PEERS | OF_TAKEOVER)
    assert loaded(node) == OBJECTS
    assert failures(reach.stop()) == []
    assert verdict(node) == was and link_id(node, "steer_connect4") == link
    assert kernel(node)["degraded"] == []


def test_what_nothing_needs_any_more_goes_after_the_next_start(lab, node):
    """It stays until then; what is still needed stays anyway. Needed again, it is put in place again."""
    node.cli("service", "create", "way", "10.97.0.2:80", "edge=nat")
    wait_for(node, lambda: places(kernel(node), "eth0") == ON_DEVICE | OF_EDGE)
    flows = map_id(node, "flows")
    restarted(node, "kill")
    assert places(kernel(node), "eth0") == ON_DEVICE | OF_EDGE and map_id(node, "flows") == flows
    node.cli("service", "rm", "way", "--yes")
    time.sleep(1)
    assert places(kernel(node), "eth0") == ON_DEVICE | OF_EDGE
    was = verdict(node)
    restarted(node, "stop")
    assert loaded(node) == NEEDED and pinned(node, "flows")
    wait_for(node, lambda: not pinned(node, "flows"))
    assert "pref 64019 " not in on_eth0(node) and "pref 64016 " in on_eth0(node)  # ABI_TC_EDGE, ABI_TC_RX
    assert verdict(node) == was
    assert http1.wait_until(lambda: gone({("map", flows)}), 10)
    node.cli("service", "create", "way", "10.97.0.2:80", "edge=nat")
    wait_for(node, lambda: places(kernel(node), "eth0") == ON_DEVICE | OF_EDGE)
    assert "pref 64019 " in on_eth0(node)


def test_a_cgroup_program_that_is_not_needed_any_more(lab, node):
    node.stop()
    node.config = ""
    node.start()
    wait_for(node, lambda: not node.json("service", "ls"))
    restarted(node, "stop")
    links = BPFFS / f"fairlead-{node.instance}/v3/links"
    wait_for(node, lambda: not list(links.iterdir()))
    assert "steer" not in command("bpftool", "cgroup", "show", node.host.cgroup).stdout
    assert loaded(node) == {"probe"}


# ---------------------------------------------------------------- without and between daemons

@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_restart_loses_no_connection_and_no_verdict(lab, node, how):
    before = kernel(node)
    was = verdict(node)
    ids = {name: map_id(node, name) for name in ("verdicts", "history", "backends", "peer_state")}
    links = {program: link_id(node, program) for program in IN_CGROUP}
    reach = lab["client"].reach(VIP, PORT, interval_us=2000)
    time.sleep(0.3)
    getattr(node, how)()
    time.sleep(0.5)
    assert link_id(node, "steer_connect4") == links["steer_connect4"]
    node.start()
    wait_on(node)
    time.sleep(0.3)
    results = reach.stop()
    assert len(results) > 200 and failures(results) == []
    assert verdict(node) == was
    assert {name: map_id(node, name) for name in ids} == ids
    assert {program: link_id(node, program) for program in IN_CGROUP} == links
    assert kernel(node)["clock"]["ticks"] > before["clock"]["ticks"]
    assert "with the maps and verdicts that were there" in node.log()


def test_the_kernel_decides_while_no_daemon_runs(lab, node):
    node.kill()
    server = lab["server"].processes[0]
    server.kill()
    server.wait()
    assert http1.wait_until(lambda: verdict(node)[0] == 3, 30), verdict(node)
    lab["server"].pong(PORT)
    assert http1.wait_until(lambda: verdict(node)[0] == UP, 30), verdict(node)
    node.start()
    wait_on(node)
    # What happened in between is told, once.
    kinds = told(node)
    assert kinds.count("backend.down") == 1 and kinds[-1] == "backend.up", kinds
    restarted(node, "stop")
    assert told(node) == kinds


def test_other_sizes_take_the_verdicts_along(lab, node):
    was = verdict(node)
    ids = {name: map_id(node, name) for name in ("verdicts", "backends", "peer_state", "history")}
    node.cli("set", "kernel.backends_max", "4096")
    reach = lab["client"].reach(VIP, PORT, interval_us=2000)
    restarted(node, "stop")
    time.sleep(0.3)
    assert failures(reach.stop()) == []
    assert verdict(node) == was
    now = {name: map_id(node, name) for name in ids}
    assert now["verdicts"] != ids["verdicts"] and now["backends"] != ids["backends"]
    assert now["peer_state"] == ids["peer_state"] and now["history"] == ids["history"]
    assert next(m["entries"] for m in kernel(node)["maps"] if m["name"] == "verdicts") == 4096
    assert sorted(p.name for p in (BPFFS / f"fairlead-{node.instance}").iterdir() if p.is_dir()) == ["v3"]


@pytest.mark.parametrize("older", [1, 2])
def test_another_version_of_the_maps_is_replaced(lab, node, older):
    """An older set under another version's name: its verdicts are taken, its links change hands without a gap. From
    version 2 on, what BPF wrote goes on."""
    was, root = verdict(node), BPFFS / f"fairlead-{node.instance}"
    link = link_id(node, "steer_connect4")
    names = ("verdicts", "history", "peer_state", "backends")
    ids = {name: map_id(node, name) for name in names}
    reach = lab["client"].reach(VIP, PORT, interval_us=2000)
    node.stop()
    (root / "v3").rename(root / f"v{older}")
    node.start()
    wait_on(node)
    time.sleep(0.3)
    assert failures(reach.stop()) == []
    assert verdict(node) == was
    assert link_id(node, "steer_connect4") == link
    assert [name for name in names if map_id(node, name) == ids[name]] == ([] if older == 1 else list(names[:3]))
    assert sorted(p.name for p in root.iterdir() if p.is_dir()) == ["v3"]
    assert f"with new maps and {1 if older == 1 else 0} verdicts of older ones" in node.log()


def test_an_upgrade_that_was_cut_off_is_finished(lab, node):
    was, root = verdict(node), BPFFS / f"fairlead-{node.instance}"
    node.stop()
    (root / "v3-new").mkdir()
    (root / "v3-new/links").mkdir()
    node.start()
    wait_on(node)
    assert not (root / "v3-new").exists() and verdict(node) == was
    node.stop()
    (root / "v3").rename(root / "v3-new")
    node.start()
    wait_on(node)
    assert (root / "v3").exists() and not (root / "v3-new").exists() and verdict(node) == was


# ---------------------------------------------------------------- nothing stays

def traces(host, instance):
    """Everything that the kernel half may leave in a host."""
    devices = sorted(d["ifname"] for d in json.loads(host.run("ip", "-j", "link").stdout))
    filters = "".join(host.run("tc", "filter", "show", "dev", d, side).stdout for d in devices
                      for side in ("ingress", "egress"))
    return {
        "devices": devices,
        "qdiscs": sorted(host.run("tc", "qdisc", "show").stdout.splitlines()),
        "filters": filters,
        "addresses": sorted(a["local"] for d in json.loads(host.run("ip", "-j", "addr").stdout) for a in d["addr_info"]
                            if a["scope"] != "link"),
        "cgroup": command("bpftool", "cgroup", "show", host.cgroup).stdout,
        "ports": host.run("cat", "/proc/sys/net/ipv4/ip_local_reserved_ports").stdout,
        "namespaces": [n for n in os.listdir("/run/netns") if instance in n and n != host.netns],
        "pins": [p.name for p in BPFFS.iterdir() if instance in p.name],
    }


def kernel_ids(status):
    return ({("prog", p["id"]) for p in status["attached"] if p["id"]} | {("map", m["id"]) for m in status["maps"]})


def gone(ids):
    return not [i for i in ids if subprocess.run(["bpftool", i[0], "show", "id", str(i[1])], capture_output=True).returncode == 0]


@pytest.mark.parametrize("way", ["command", "setting", "offline"])
def test_detach_leaves_nothing(lab, way):
    host = lab["client"]
    lab["server"].pong(PORT)
    host.run("tc", "qdisc", "add", "dev", "eth0", "clsact")  # somebody else's
    host.ip("link", "add", "extra0", "type", "veth", "peer", "name", "extra1")
    before = traces(host, f"{host.netns}")
    node = lab.node("client", config=service(lab))
    status = wait_on(node)
    wait_up(node)
    ids = kernel_ids(status)
    assert traces(host, host.netns) != before and not gone(ids)
    if way == "command":
        node.cli("kernel", "detach", "--yes")
        assert kernel(node)["state"] == "detached"
    elif way == "setting":
        node.cli("set", "kernel.enabled", "false")
        assert http1.wait_until(lambda: kernel(node)["state"] == "off", 5)
    else:
        node.kill()
        command(*host.inside([BUILD / "fairleadd", "--detach", node.instance]))
    assert traces(host, host.netns) == before
    assert http1.wait_until(lambda: gone(ids), 10)
    if way == "setting":
        node.cli("set", "kernel.enabled", "true")
        wait_on(node)
        wait_up(node)


def test_detach_spares_the_filter_of_another_program(lab, node):
    """It is on a clsact that Fairlead made; both stay until the other program goes."""
    host = node.host
    pin = BPFFS / f"fairlead-{node.instance}-theirs"
    rx = next(p["id"] for p in kernel(node)["attached"] if p["program"] == "cut_egress")
    command("bpftool", "prog", "pin", "id", rx, pin)
    try:
        host.run("tc", "filter", "add", "dev", "eth0", "ingress", "pref", "7", "bpf", "da", "pinned", pin)
        node.cli("kernel", "detach", "--yes")
        left = host.run("tc", "filter", "show", "dev", "eth0", "ingress").stdout
        assert "pref 7 " in left and "0xfa1" not in left
        assert "clsact" in host.run("tc", "qdisc", "show", "dev", "eth0").stdout
    finally:
        pin.unlink()


def second_node(lab, node, instance):
    """Another fairleadd on the host of `node`."""
    other = netlab.Node.__new__(netlab.Node)
    other.__dict__.update(vars(node))
    other.instance, other.folder, other.process = instance, lab.folder / "other", None
    other.folder.mkdir()
    other.folder.chmod(0o755)
    other.config_path, other.socket = other.folder / "fairlead.yaml", other.folder / "control.sock"
    other.log_path, other.config = other.folder / "log", "admin: {address: '127.0.0.1:5081'}\n"
    write = other.write_config
    other.write_config = lambda: (write(), other.config_path.write_text(
        other.config_path.read_text().replace("127.0.0.1:5000", "127.0.0.1:5001")))
    lab.nodes.append(other)
    return other.start()


def test_detach_spares_another_instance(lab, node):
    """A second instance on the same host finds the devices taken, says so, and its end changes nothing."""
    host = node.host
    before = kernel(node)
    other = second_node(lab, node, f"{node.instance}-b")
    status = wait_on(other)
    assert places(status, "eth0") == set()
    assert any("another instance of Fairlead" in d for d in status["degraded"])
    other.cli("kernel", "detach", "--yes")
    other.stop()
    after = kernel(node)
    assert places(after, "eth0") == places(before, "eth0") == ON_DEVICE
    filters = host.run("tc", "filter", "show", "dev", "eth0", "ingress").stdout
    assert len(re.findall(r"handle 0xfa1", filters)) == 1


def test_an_instance_has_one_daemon(lab, node):
    """A second daemon of the same name neither changes nor removes what the first one has."""
    was, places_before = verdict(node), places(kernel(node), "eth0")
    other = second_node(lab, node, node.instance)
    status = wait_failed(other)
    assert "another fairleadd has the instance" in status["why"]
    other.cli("set", "kernel.enabled", "false")
    other.stop()
    done = subprocess.run(node.host.inside([BUILD / "fairleadd", "--detach", node.instance]), capture_output=True, text=True)
    assert done.returncode == 1 and "a fairleadd has the instance" in done.stderr
    assert verdict(node) == was and places(kernel(node), "eth0") == places_before


def test_groups_of_addresses_that_are_taken_over(lab):
    """The device takes in solicitations for them, and the host is a member of their group, as the switch knows, until they or
    the kernel half go. It asks for its neighbours in its own name, and follows the link address of the other candidate."""
    config = ("services:\n  - {name: six, address: '[fd00:99::a1:b2c3]:80', kind: tcp, edge: nat, takeover: true}\n"
              "  - {name: four, address: '10.99.0.80:80', kind: tcp, edge: nat, takeover: true}\n"
              "peers: [{name: server, address: 10.99.0.2}]\ntakeover: [self, server]\n")
    host, server = lab["client"], lab["server"]
    before = traces(host, host.netns)
    node = lab.node("client", config=config)
    wait_on(node)

    def announces():
        return host.run("cat", "/proc/sys/net/ipv4/conf/eth0/arp_announce").stdout.strip()

    def joined():
        return {group for group in ("33:33:ff:a1:b2:c3", "ff02::1:ffa1:b2c3")
                if group in host.run("ip", "maddr", "show", "dev", "eth0").stdout}

    def switched():
        shown = command("bridge", "-n", lab.switch, "mdb", "show", "dev", "br0").stdout
        return [line for line in shown.splitlines() if "ff02::1:ffa1:b2c3" in line and f"port {host.port}" in line]

    def candidate():
        """What it has for the server's link address. It hears from the server meanwhile, as from a host that came up."""
        server.run(sys.executable, "-c", f"import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('{host.v4}', 9))")
        return {bytes(a["mac"][1][:6]).hex(":") for a in node.kernel_map("addresses")}
    assert http1.wait_until(lambda: len(joined()) == 2 and switched() and announces() == "2", 10), node.log()
    assert server.v4 == "10.99.0.2" and http1.wait_until(lambda: len(candidate() - {"00:00:00:00:00:00"}) == 1, 10)
    server.ip("link", "set", "eth0", "address", "02:fa:17:00:00:09")
    assert http1.wait_until(lambda: candidate() == {"02:fa:17:00:00:09"}, 30), candidate()
    node.kill()
    assert joined() == {"33:33:ff:a1:b2:c3"} and announces() == "2"
    node.start()
    wait_on(node)
    assert http1.wait_until(lambda: len(joined()) == 2, 10)
    host.run("sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/eth0/keep_addr_on_down")
    for state in ("down", "up"):
        host.ip("link", "set", "eth0", state)
    assert http1.wait_until(lambda: len(joined()) == 2, 10)
    assert "ff02::" not in host.run("ip", "address", "show", "dev", "eth0").stdout  # never what the host speaks as
    node.cli("kernel", "detach", "--yes")
    assert not joined() and announces() == "0"
    assert traces(host, host.netns) == before


# ---------------------------------------------------------------- what is missing is named

def test_a_cgroup_that_is_not_there(lab):
    lab["server"].pong(PORT)
    node = netlab.Node(lab["client"], config=service(lab))
    lab.nodes.append(node)
    write, later = node.write_config, pathlib.Path(node.host.cgroup, "later")
    node.write_config = lambda: (write(), node.config_path.write_text(
        node.config_path.read_text().replace(f"cgroup: {node.host.cgroup}", f"cgroup: {later}")))
    node.start()
    status = wait_on(node)
    assert any("steer_connect4" in d and "the cgroup cannot be opened: No such file" in d for d in status["degraded"])
    assert places(status, "eth0") == ON_DEVICE
    wait_up(node)  # what needs no cgroup goes on
    later.mkdir()
    try:
        assert http1.wait_until(lambda: not kernel(node)["degraded"], 30), kernel(node)
        assert "connects of" in node.log()
        inode = later.stat().st_ino
        later.rmdir()
        assert http1.wait_until(lambda: "is gone" in node.log(), 30), node.log()
        later.mkdir()  # made anew, as another one
        assert later.stat().st_ino != inode
        assert http1.wait_until(lambda: node.log().count("are looked at from now on") == 2, 30), node.log()
    finally:
        later.rmdir()


def test_a_drained_node_tells_the_kernel(lab):
    """There it gives its addresses away and says so to its peers."""
    lab["server"].pong(PORT)
    node = netlab.Node(lab["client"], config=service(lab)).start()
    lab.nodes.append(node)
    wait_on(node)
    draining = lambda: node.kernel_element("node", 0)["flags"] >> 1 & 1
    assert not draining()
    name = "1"  # its id
    node.cli("node", "drain", name)
    assert http1.wait_until(draining, 30)
    node.cli("node", "active", name)
    assert http1.wait_until(lambda: not draining(), 30)


class Lesser(netlab.Node):
    """A node whose daemon is started by way of another command."""
    through = ()

    def start(self):
        self.write_config()
        with open(self.log_path, "ab") as log:
            self.process = self.host.start(*self.through, BUILD / "fairleadd", "--config", self.config_path, stdout=log,
                                           stderr=log)
        assert http1.wait_until(self.ready, 30), self.log()
        return self


def test_an_ordinary_user_has_a_node_without_the_kernel_half(lab):
    node = Lesser(lab["client"], config=service(lab))
    node.through = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    lab.nodes.append(node)
    lab.folder.chmod(0o711)
    shutil.chown(node.folder, 65534, 65534)
    node.start()
    status = wait_failed(node)
    assert "CAP_BPF" in status["why"] and status["attached"] == []
    unknown = {s["feature"] for s in status["support"] if s["supported"] is None}
    assert "traffic control programs" in unknown and not [s for s in status["support"] if s["supported"] is False]
    text = node.cli("kernel").stdout
    assert "not known" in text and "lacks" not in text
    lines = [line for line in node.log().splitlines() if '"kernel"' in line]
    assert len(lines) == 1 and "the kernel half is off" in lines[0], lines
    assert not (BPFFS / f"fairlead-{node.instance}").exists()
    assert ask(node, "status")["ready"] is True


def test_no_bpf_file_system_and_no_right_to_mount_it(lab):
    """A mount namespace of its own, without the file system, and a process that may not mount."""
    node = Lesser(lab["client"], config=service(lab))
    node.through = ("unshare", "--mount", "sh", "-c", 'umount -l /sys/fs/bpf && exec "$@"', "sh", "setpriv",
                    "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    lab.nodes.append(node)
    node.start()
    status = wait_failed(node)
    assert "the BPF file system is not mounted" in status["why"] and "mount -t bpf" in status["why"]
    assert ask(node, "status")["ready"] is True


def test_names_of_instances(tmp_path):
    for name, good in (("a", True), ("node-7", True), ("x" * 23, True), ("x" * 24, False), ("../x", False), ("A", False)):
        config = pathlib.Path(tmp_path / "c.yaml")
        config.write_text(f"kernel: {{instance: '{name}'}}\n")
        done = subprocess.run([BUILD / "fairleadd", "--check", "--config", config], capture_output=True, text=True)
        assert (done.returncode == 0) == good, done.stderr
        if not good:
            assert "cannot name an instance" in done.stderr
            assert subprocess.run([BUILD / "fairleadd", "--detach", name], capture_output=True).returncode == 2
