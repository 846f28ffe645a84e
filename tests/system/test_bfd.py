# SPDX-License-Identifier: Apache-2.0
"""Heartbeats between real kernels: with FRR's bfdd as the peer, and with another of ours.

On our side nothing runs in user space: the programs are loaded, attached and pinned by a tool that has ended.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

import pytest

import peers
from peers import DOWN, UP, within

pytestmark = pytest.mark.skipif(peers.missing() is not None, reason=str(peers.missing()))

FRR = pathlib.Path("/usr/lib/frr")
OURS = {4: "10.91.0.1", 6: "fd91::1"}
THEIRS = {4: "10.91.0.2", 6: "fd91::2"}
SECONDS_UP = 10
SLACK_MS = 150  # of a machine that does other things, too


@pytest.fixture
def lab():
    made = peers.Lab()
    yield made
    made.close()


class Bfdd:
    """FRR's daemon in a namespace."""

    def __init__(self, host, lines):
        self.host = host
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="fairlead-bfdd-"))
        (self.folder / "zebra.conf").write_text("hostname peer\n")
        (self.folder / "bfdd.conf").write_text("\n".join(lines) + "\n")
        for path in (self.folder, *self.folder.iterdir()):
            shutil.chown(path, "frr", "frr")
        self.processes = {}
        self.start("zebra")
        self.start("bfdd", "--bfdctl", self.folder / "bfdd.sock")

    def start(self, program, *more):
        command = ["nsenter", f"--net=/run/netns/{self.host.netns}", FRR / program, "-f",
                   self.folder / f"{program}.conf", "-i", self.folder / f"{program}.pid", "-z",
                   self.folder / "zserv.api", "--vty_socket", self.folder, "-P", "0", "--log",
                   f"file:{self.folder}/{program}.log", "-u", "frr", "-g", "frr", *more]
        self.processes[program] = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL,
                                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        within(10, lambda: (self.folder / f"{program}.vty").exists(), f"{program} runs")
        if program == "bfdd":  # nothing else on the machine may make it look silent
            subprocess.run(["chrt", "-f", "-p", "20", str(self.processes[program].pid)], check=False)

    def ask(self, *commands):
        words = ["vtysh", "--vty_socket", str(self.folder)]
        for command in commands:
            words += ["-c", command]
        return subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, check=False).stdout

    def peers(self):
        text = self.ask("show bfd peers json")
        return {entry["peer"]: entry for entry in json.loads(text)} if text.strip().startswith("[") else {}

    def status(self, address):
        return self.peers().get(address, {}).get("status")

    def signal(self, number, program="bfdd"):
        self.processes[program].send_signal(number)

    def kill(self, program="bfdd"):
        self.processes[program].kill()
        self.processes[program].wait()
        (self.folder / f"{program}.vty").unlink(missing_ok=True)
        (self.folder / f"{program}.pid").unlink(missing_ok=True)

    def restart(self):
        (self.folder / "bfdd.sock").unlink(missing_ok=True)
        self.start("bfdd", "--bfdctl", self.folder / "bfdd.sock")

    def close(self):
        for process in self.processes.values():
            process.kill()
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def bfdd_lines(version, transmit=50, receive=50, multiplier=3, multihop=False):
    way = f"multihop local-address {THEIRS[version]}" if multihop else f"local-address {THEIRS[version]} interface eth0"
    return ["bfd", f" peer {OURS[version]} {way}", f"  transmit-interval {transmit}", f"  receive-interval {receive}",
            f"  detect-multiplier {multiplier}", "  no shutdown", " !", "!"]


class Pair:
    """A node of ours and a host with bfdd, joined by a cable."""

    def __init__(self, lab, version, multihop=False, **intervals):
        self.version = version
        self.node = peers.Node(lab, "a")
        self.other = peers.Host(lab, "b")
        self.node.join("eth0", self.other, "eth0", "10.91.0.1/24", "fd91::1/64")
        for address in "10.91.0.2/24", "fd91::2/64":
            self.other.ip("addr", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
        self.node.start("eth0")
        self.bfdd = Bfdd(self.other, bfdd_lines(version, multihop=multihop, **intervals))
        self.node.peer(0, addr=THEIRS[version], source=OURS[version], flags=1 | (2 if multihop else 0), members_first=0,
                       members_count=2)
        for backend in 0, 1:
            self.node.tool("backend", self.node.set, backend, 1)
        self.node.tool("backend", self.node.set, 2, 0)  # of no peer

    def wait_up(self):
        within(SECONDS_UP, lambda: self.node.session()["state"] == UP, "our session is up")
        within(SECONDS_UP, lambda: self.bfdd.status(OURS[self.version]) == "up", "bfdd's session is up")

    def wait_fast(self):
        """The poll sequences after coming up have ended."""
        within(5, lambda: self.node.session()["remote_min_tx_us"] == 50000 and not self.node.session()["poll"],
               "the intervals are negotiated")

    def verdicts(self):
        return [state for state, reason in self.node.show()["verdicts"][:3]]


@pytest.fixture
def pair(lab):
    if not (FRR / "bfdd").exists():
        pytest.skip("FRR is not installed")
    made = []

    def make(*words, **options):
        made.append(Pair(lab, *words, **options))
        return made[0]

    yield make
    for one in made:
        one.bfdd.close()


@pytest.mark.parametrize("version", [4, 6])
def test_up_both_ways(pair, version):
    one = pair(version)
    one.wait_up()
    one.wait_fast()
    session, theirs = one.node.session(), one.bfdd.peers()[OURS[version]]
    assert session["remote_discriminator"] == theirs["id"]
    assert theirs["remote-id"] == 0x5a5a0001
    # 20 ms are asked for, but the clock is slower: what is announced is what can be kept.
    assert session["desired_tx_us"] == 25000 == session["sending_us"]
    assert theirs["remote-transmit-interval"] == 25
    assert theirs["remote-receive-interval"] == 20
    assert theirs["remote-detect-multiplier"] == 3
    assert session["detect_ns"] == 3 * 50 * 1000000
    before, started = one.node.session(), time.monotonic()
    time.sleep(2)
    after, passed = one.node.session(), time.monotonic() - started
    assert after["downs"] == 0 and after["state"] == UP
    assert one.bfdd.status(OURS[version]) == "up"
    # 50 ms are negotiated, 75 to 100 % of that pass between packets, in whole ticks.
    sent = after["sent"] - before["sent"]
    assert passed / 0.050 <= sent <= passed / 0.023 + 2
    assert after["received"] - before["received"] >= passed / 0.050 - 2
    assert one.verdicts() == ["up"] * 3


def test_several_hops(pair):
    one = pair(4, multihop=True)
    one.wait_up()
    assert one.node.session()["dropped"] == 0


@pytest.mark.parametrize("version", [4, 6])
def test_silence_is_detected_on_both_sides(pair, version):
    one = pair(version)
    one.wait_up()
    one.wait_fast()
    one.other.ip("link", "set", "eth0", "down")
    cut_ns = peers.now_ns()
    session = within(2, lambda: one.node.session()["state"] == DOWN and one.node.session(), "our session ends")
    assert session["diagnostic"] == 1
    took_ms = (session["changed_ns"] - session["received_ns"]) / 1e6
    print(f"silent for {took_ms:.1f} ms, {(session['changed_ns'] - cut_ns) / 1e6:.1f} ms after the cut")
    # A timer, from the last packet on: not earlier, and a busy machine's whim later.
    assert 150 <= took_ms < 150 + SLACK_MS
    assert (session["changed_ns"] - cut_ns) / 1e6 < 200 + SLACK_MS
    assert one.node.show()["verdicts"][:3] == [["down", "heartbeat"]] * 2 + [["up", "unchecked"]]
    within(2, lambda: one.bfdd.status(OURS[version]) == "down", "bfdd's session ends")
    one.other.ip("link", "set", "eth0", "up")
    if version == 6:
        one.other.ip("addr", "replace", "fd91::2/64", "dev", "eth0", "nodad")
    one.wait_up()
    within(2, lambda: one.verdicts() == ["up"] * 3, "the backends come back")


def test_our_silence_is_detected_by_bfdd(pair):
    one = pair(4)
    one.wait_up()
    one.wait_fast()
    one.node.inside("tc", "filter", "del", "dev", "ffan", "ingress")
    within(1, lambda: one.bfdd.status(OURS[4]) == "down", "bfdd's session ends")
    session = within(1, lambda: one.node.session()["state"] != UP and one.node.session(), "ours is told")
    assert session["diagnostic"] == 3
    # The other host lives: probes are to decide.
    assert one.verdicts() == ["suspect", "suspect", "up"]


def test_stopped_and_killed_bfdd(pair):
    one = pair(4)
    one.wait_up()
    one.wait_fast()
    one.bfdd.signal(signal.SIGSTOP)
    within(1, lambda: one.node.session()["diagnostic"] == 1, "a stopped daemon is silent")
    one.bfdd.signal(signal.SIGCONT)
    one.wait_up()
    one.wait_fast()
    one.bfdd.kill()
    within(1, lambda: one.node.session()["state"] == DOWN, "a killed daemon is silent")
    assert one.verdicts() == ["down", "down", "up"]
    first = one.node.session()["remote_discriminator"]
    assert first == 0
    one.bfdd.restart()
    one.wait_up()
    within(2, lambda: one.verdicts() == ["up"] * 3, "the backends come back")


def test_intervals_change_by_poll_sequences(pair):
    one = pair(4)
    one.wait_up()
    one.wait_fast()
    one.node.peer(0, tx_us=200000, rx_us=100000)
    within(2, lambda: one.bfdd.peers()[OURS[4]].get("remote-transmit-interval") == 200, "bfdd knows the new interval")
    session = within(2, lambda: not one.node.session()["poll"] and one.node.session(), "the sequence ends")
    assert session["sending_us"] == 200000
    assert session["listening_us"] == 100000
    assert session["detect_ns"] == 300 * 1000000
    one.bfdd.ask("configure terminal", "bfd", f"peer {OURS[4]} local-address {THEIRS[4]} interface eth0",
                 "transmit-interval 300", "receive-interval 300")
    session = within(3, lambda: one.node.session()["remote_min_tx_us"] == 300000 and one.node.session(),
                     "our side follows theirs")
    assert session["remote_min_rx_us"] == 300000
    assert session["detect_ns"] == 900 * 1000000
    time.sleep(1.5)
    assert one.node.session()["downs"] == 0
    assert one.bfdd.status(OURS[4]) == "up"


def test_administrative_ends_are_no_failures(pair):
    one = pair(4)
    one.wait_up()
    one.wait_fast()
    where = ["configure terminal", "bfd", f"peer {OURS[4]} local-address {THEIRS[4]} interface eth0"]
    one.bfdd.ask(*where, "shutdown")
    within(2, lambda: one.node.session()["state"] != UP, "it is told")
    time.sleep(0.5)
    assert one.verdicts() == ["up"] * 3
    one.bfdd.ask(*where, "no shutdown")
    one.wait_up()
    one.wait_fast()
    one.node.peer(0, draining=1)
    within(2, lambda: one.bfdd.status(OURS[4]) == "down", "bfdd is told")
    assert one.bfdd.peers()[OURS[4]]["diagnostic"] == "neighbor signaled session down"
    assert one.verdicts() == ["up"] * 3
    one.node.peer(0, draining=0)
    one.wait_up()


class Two:
    """Two nodes of ours."""

    def __init__(self, lab, version):
        self.nodes = [peers.Node(lab, "a"), peers.Node(lab, "b")]
        self.nodes[0].join("eth0", self.nodes[1], "eth0", "10.91.0.1/24", "fd91::1/64")
        for address in "10.91.0.2/24", "fd91::2/64":
            self.nodes[1].ip("addr", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
        addresses = OURS[version], THEIRS[version]
        for i, node in enumerate(self.nodes):
            node.start("eth0")
            node.peer(7, addr=addresses[1 - i], source=addresses[i], members_count=1)
            node.tool("backend", node.set, 0, 8)

    def wait_up(self):
        for node in self.nodes:
            within(SECONDS_UP, lambda: node.session(7)["state"] == UP and not node.session(7)["poll"], "up")


@pytest.mark.parametrize("version", [4, 6])
def test_two_of_ours(lab, version):
    two = Two(lab, version)
    two.wait_up()
    a, b = two.nodes
    # 3 x 25 ms: the peer's clock is as slow as ours.
    assert a.session(7)["detect_ns"] == 75 * 1000000
    time.sleep(2)
    assert [node.session(7)["downs"] for node in two.nodes] == [0, 0]
    b.ip("link", "set", "eth0", "down")
    for node in two.nodes:
        session = within(1, lambda: node.session(7)["state"] == DOWN and node.session(7), "silence is seen")
        took_ms = (session["changed_ns"] - session["received_ns"]) / 1e6
        assert 75 <= took_ms < 75 + SLACK_MS
        assert node.show()["verdicts"][0] == ["down", "heartbeat"]


def test_a_clock_that_stood_still_is_started_by_heartbeats(lab):
    two = Two(lab, 4)
    two.wait_up()
    a, b = two.nodes
    a.stop_clock()
    within(2, lambda: b.session(7)["state"] != UP, "its peer misses it")
    before = a.session(7)["sent"]
    # The peer's packets go on, once a second; each makes a tick.
    within(5, lambda: a.session(7)["sent"] > before + 1, "packets of the peer make it send")
    assert a.show()["restarts"] > 0
    a.start_clock()
    two.wait_up()


@pytest.mark.slow
def test_user_space_starved_by_real_time_processes(lab):
    two = Two(lab, 4)
    two.wait_up()
    before = [node.session(7)["received"] for node in two.nodes]
    # One on each processor, until it has used three seconds of it.
    hogs = [subprocess.Popen(["taskset", "-c", str(cpu), "chrt", "-f", "50", "sh", "-c", "ulimit -t 3; while :; do :; done"])
            for cpu in os.sched_getaffinity(0)]
    for hog in hogs:
        lab.processes.append(hog)
    for hog in hogs:
        hog.wait()
    assert [node.session(7)["downs"] for node in two.nodes] == [0, 0]
    for node, count in zip(two.nodes, before):
        assert node.session(7)["received"] >= count + 3 / 0.030


def test_a_peer_that_never_was_up_says_nothing(lab):
    node, other = peers.Node(lab, "a"), peers.Host(lab, "b")
    node.join("eth0", other, "eth0", "10.91.0.1/24")
    other.ip("addr", "add", "10.91.0.2/24", "dev", "eth0")
    node.start("eth0")
    node.peer(0, addr="10.91.0.2", source="10.91.0.1", members_count=1)
    node.tool("backend", node.set, 0, 1)
    within(5, lambda: node.session()["sent"] >= 2, "it is called")
    assert node.session()["state"] == DOWN
    assert node.show()["verdicts"][0][0] == "up"
