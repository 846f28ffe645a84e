# SPDX-License-Identifier: Apache-2.0
"""Hosts as network namespaces, each with the kernel half that its peers see and nothing in user space.

A host has devices of its own, a clock (an ARP neighbour that nobody has, in a namespace beside it) and the pair that
the clock's packets take. tools/peer_node loads the programs and ends; all that a test sees after that is the kernel.
"""

import ipaddress
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import time

import harness

TOOL = harness.BUILD / "tools" / "peer_node"
OBJECTS = harness.BUILD / "bpf"
BPFFS = pathlib.Path("/sys/fs/bpf")
TICK_MS = 20
UP, DOWN = 3, 1
PEER_USED = 1
NODE_DRAINING = 2

_numbers = itertools.count(1)


def missing():
    """Why these tests cannot run here, or None."""
    if os.geteuid() != 0:
        return "it needs root"
    if not TOOL.exists() or not (OBJECTS / "heartbeat.bpf.o").exists():
        return f"{TOOL} is not built"
    return None


def run(*words, check=True):
    done = subprocess.run([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, words))}: {done.stdout.strip()}")
    return done.stdout


def now_ns():
    return time.monotonic_ns()


def within(seconds, condition, what):
    """Waits for the condition; returns what it says."""
    until = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(0.005)


class Lab:
    """All that a test makes, so that all of it goes away."""

    def __init__(self):
        self.prefix = f"fp{os.getpid()}-{next(_numbers)}"
        self.namespaces = []
        self.folders = []
        self.processes = []
        if not os.path.ismount(BPFFS):
            run("mount", "-t", "bpf", "bpf", BPFFS)

    def namespace(self, name):
        full = f"{self.prefix}-{name}"
        run("ip", "netns", "add", full)
        self.namespaces.append(full)
        run("ip", "-n", full, "link", "set", "lo", "up")
        return full

    def folder(self, name):
        path = BPFFS / f"{self.prefix}-{name}"
        path.mkdir()
        self.folders.append(path)
        return path

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()
        for name in self.namespaces:
            run("ip", "netns", "del", name, check=False)
        for path in self.folders:
            shutil.rmtree(path, ignore_errors=True)


class Host:
    """A namespace."""

    def __init__(self, lab, name):
        self.lab = lab
        self.name = name
        self.netns = lab.namespace(name)

    def ip(self, *words):
        return run("ip", "-n", self.netns, *words)

    def inside(self, *words, check=True):
        return run("nsenter", f"--net=/run/netns/{self.netns}", *words, check=check)

    def sysctl(self, key, value):
        run("ip", "netns", "exec", self.netns, "sysctl", "-qw", f"{key}={value}")

    def join(self, device, other, peer, *addresses):
        """A cable to another host."""
        self.ip("link", "add", device, "type", "veth", "peer", "name", peer, "netns", other.netns)
        for address in addresses:
            self.ip("addr", "add", address, "dev", device, *(["nodad"] if ":" in address else []))
        self.ip("link", "set", device, "up")
        other.ip("link", "set", peer, "up")

    def mac(self, device):
        return json.loads(run("ip", "-n", self.netns, "-j", "link", "show", device))[0]["address"]


class Node(Host):
    """A host with the kernel half. Its devices come first, then start()."""

    def start(self, *devices):
        self.set = self.lab.folder(self.name)
        self.clock = Host(self.lab, f"{self.name}-t")
        self.ip("link", "add", "ftick", "type", "veth", "peer", "name", "nk0", "netns", self.clock.netns)
        self.ip("link", "add", "fout", "type", "veth", "peer", "name", "ffan")
        for device in "ftick", "fout":
            self.sysctl(f"net.ipv6.conf.{device}.disable_ipv6", 1)
        for family in "ipv4", "ipv6":
            self.sysctl(f"net.{family}.conf.ffan.forwarding", 1)
        for device in "ftick", "fout", "ffan":
            self.ip("link", "set", device, "up")
        self.tool("load", self.set, *devices, "ftick", "fout", "ffan", before=OBJECTS)
        self.clock.sysctl("net.ipv6.conf.nk0.disable_ipv6", 1)
        self.clock.ip("addr", "add", "169.254.77.1/30", "dev", "nk0")
        self.clock.ip("link", "set", "nk0", "up")
        self.clock.sysctl("net.ipv4.neigh.nk0.mcast_solicit", 1000000000)
        self.clock.sysctl("net.ipv4.neigh.nk0.retrans_time_ms", TICK_MS)
        self.start_clock()

    def start_clock(self):
        self.clock.ip("neigh", "replace", "169.254.77.2", "dev", "nk0", "managed")

    def stop_clock(self):
        self.clock.ip("neigh", "flush", "all")

    def tool(self, command, *words, before=None):
        return self.inside(TOOL, command, *([before] if before else []), *words)

    def peer(self, index, **fields):
        if "addr" in fields:
            fields = {"flags": PEER_USED, "multiplier": 3, "tx_us": 20000, "rx_us": 20000, "generation": 1,
                      "discriminator": 0x5a5a0000 | index + 1, "source_port": 0xc1c1 + (index << 8), **fields}
        self.tool("peer", self.set, index, *(f"{key}={value}" for key, value in fields.items()))

    def show(self):
        return json.loads(self.tool("show", self.set))

    def session(self, index=0):
        return self.show()["peers"][str(index)]

    def address(self, address):
        text = str(address)
        if "." in text:
            text = f"::ffff:{text}"
        found = self.show()["addresses"]
        return next((value for key, value in found.items()
                     if ipaddress.ip_address(key) == ipaddress.ip_address(text)), None)
