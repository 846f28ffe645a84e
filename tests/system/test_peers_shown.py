# SPDX-License-Identifier: Apache-2.0
"""Heartbeat sessions and addresses that are taken over, as status, metrics and events tell them."""

import signal
import time

import http1
import netlab
from netlab import Lab

pytestmark = netlab.needed

VIP = "10.99.0.200"
INTERVAL_MS, MULTIPLIER = 20, 3


def config(lab, other, order):
    """Each is the other's peer, and may take the address over."""
    return (f"services:\n  - {{name: web, address: '{VIP}:80', kind: tcp, edge: nat, takeover: true}}\n"
            f"peers:\n  - {{name: {other}, address: {lab[other].v4}, node_id: {10 + lab[other].number}, "
            f"interval: {INTERVAL_MS}ms, multiplier: {MULTIPLIER}}}\n"
            f"takeover: [{', '.join(order)}]\n")


def peer(node):
    return node.json("status")[0]["peers"][0]


def address(node):
    return next(a for a in node.json("status")[0]["addresses"] if a["device"] == "eth0")


def has_address(node):
    return any(a["device"] == "eth0" and a["owner"] == "this node" for a in node.json("status")[0]["addresses"])


def kinds(node):
    return [(e["kind"], e.get("text", "")) for e in node.json("events", "--limit", "200")]


def metric(node, name):
    lines = [line for line in node.cli("metrics").stdout.splitlines() if line.startswith(name)]
    assert len(lines) == 1, lines
    return float(lines[0].split()[-1])


def wait(node, check, seconds=90):
    assert http1.wait_until(check, seconds), (node.json("status")[0]["peers"], node.json("status")[0]["addresses"], node.log())


def test_a_session_and_an_address_from_their_begin_to_their_end():
    with Lab("a", "b") as lab:
        a = lab.node("a", config=config(lab, "b", ("self", "b")))
        wait(a, lambda: has_address(a))  # else the one whose programs were loaded first has it
        b = lab.node("b", config=config(lab, "a", ("a", "self")))
        for node, other in ((a, "b"), (b, "a")):
            wait(node, lambda: peer(node)["state"] == "up")
            wait(node, lambda: peer(node)["remote_interval_ms"] < 1000)  # the poll sequence has ended
            shown = peer(node)
            assert shown["name"] == other and shown["address"] == lab[other].v4
            assert shown["remote_multiplier"] == MULTIPLIER and shown["since"].endswith("Z")
            assert shown["detection_ms"] >= MULTIPLIER * INTERVAL_MS
            assert shown["received"] > 0 and shown["sent"] > 0 and shown["downs"] == 0
            wait(node, lambda: any(kind == "peer.up" and f"with {other} " in text for kind, text in kinds(node)), 5)
        wait(a, lambda: address(a)["owner"] == "this node")
        wait(b, lambda: address(b)["owner"] == "a")
        assert address(a)["address"] == VIP and address(a)["since"].endswith("Z")
        text = a.cli("status").stdout
        assert "HEARTBEAT" in text and "ANSWERED BY" in text and "this node" in text
        assert metric(b, 'fairlead_peer_up{peer="a"}') == 1
        assert metric(b, f'fairlead_address_owned{{address="{VIP}",device="eth0"}}') == 0
        taken = address(b)["takeovers"]

        lab["a"].silence()
        wait(b, lambda: peer(b)["state"] == "down" and peer(b)["downs"] == 1)
        wait(b, lambda: address(b)["owner"] == "this node")
        assert address(b)["takeovers"] == taken + 1
        wait(b, lambda: "peer.down" in dict(kinds(b)))
        wait(b, lambda: any(kind == "address.owner" and "answered by this node" in text for kind, text in kinds(b)))
        assert metric(b, 'fairlead_peer_up{peer="a"}') == 0
        assert metric(b, 'fairlead_peer_downs_total{peer="a"}') == 1
        assert metric(b, f'fairlead_address_owned{{address="{VIP}",device="eth0"}}') == 1

        # What was told is not told again by the next daemon.
        before = [kind for kind, _ in kinds(b) if kind.startswith(("peer.", "address."))]
        b.stop()
        b.start()
        wait(b, lambda: b.json("status")[0]["peers"][0]["state"] == "down")
        assert [kind for kind, _ in kinds(b) if kind.startswith(("peer.", "address."))] == before


def test_a_node_that_does_not_probe_lets_go_of_what_a_removed_peer_said():
    """The heartbeats stop, then the peer is taken out of the configuration: its backends are not down for ever."""
    with Lab("a", "b") as lab:
        service = ("services:\n  - name: web\n    address: 10.97.0.1:80\n    kind: tcp\n    steer: true\n    backends:\n"
                   f"      - {{name: one, address: '{lab['b'].v4}:80', node: b}}\n")
        peers = f"peers:\n  - {{name: b, address: {lab['b'].v4}, interval: 20ms, multiplier: 3}}\n"
        a = lab.node("a", config=service + peers)
        a.cli("set", "kernel.probe", "false")
        b = lab.node("b", config=f"peers:\n  - {{name: a, address: {lab['a'].v4}, interval: 20ms, multiplier: 3}}\n")

        def state():
            return a.json("backend", "show", "web", "one")[0]["state"]
        wait(a, lambda: peer(a)["state"] == "up")
        lab["b"].silence()
        wait(a, lambda: state() == "down")
        a.config = service
        a.write_config()
        a.process.send_signal(signal.SIGHUP)
        wait(a, lambda: state() == "unknown")
        lab["b"].unsilence()
        lab["b"].pong(80)
        reach = lab["a"].reach("10.97.0.1", 80, interval_us=20000)
        time.sleep(1)
        results = reach.stop()
        assert results and results[-1][2] == "b", results
        assert b.process.poll() is None
