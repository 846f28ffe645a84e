# SPDX-License-Identifier: Apache-2.0
"""Hosts as network namespaces on one kernel, joined by a bridge.

    with Lab("a", "b") as lab:
        server = lab["b"].pong(80)
        lab["a"].run("ping", "-c1", lab["b"].v4)

Each host has a device eth0 on the bridge, 10.99.0.N/24 and fd00:99::N/64, and a cgroup of its own, in which its processes
run: what is steered there does not touch the machine. Everything is removed at the end, processes by their pids.
"""

import contextlib
import ctypes
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

import pytest

import http1
from harness import BUILD, process_alive

BPFFS = pathlib.Path("/sys/fs/bpf")
SWITCH = "sw"
BRIDGE_DISABLED, BRIDGE_FORWARDING = 0, 3  # linux/if_bridge.h
RTM_SETLINK, IFLA_PROTINFO = 19, 12
CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def cgroup2():
    """Where cgroup v2 is mounted, or None."""
    for line in pathlib.Path("/proc/mounts").read_text().splitlines():
        _, where, kind = line.split()[:3]
        if kind == "cgroup2":
            return pathlib.Path(where)
    return None


def available():
    """Why hosts cannot be made here; empty if they can."""
    if os.geteuid() != 0:
        return "needs root"
    if not shutil.which("ip") or not shutil.which("nsenter"):
        return "needs ip and nsenter"
    if not cgroup2():
        return "cgroup v2 is not mounted"
    made = subprocess.run(["ip", "netns", "add", "fl-try"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", "fl-try"], capture_output=True)
    return "" if made.returncode == 0 or "exists" in made.stderr.lower() else made.stderr.strip()


needed = pytest.mark.skipif(bool(available()), reason=f"hosts as namespaces: {available()}")


def command(*args, check=True, **options):
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == 0 or not check, f"{args}: {done.stderr or done.stdout}"
    return done


def in_namespace(name, call):
    """What call() returns, run in a network namespace: a socket keeps the one that it was made in."""
    with open("/proc/thread-self/ns/net") as here, open(f"/run/netns/{name}") as there:
        assert libc.setns(there.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            return call()
        finally:
            assert libc.setns(here.fileno(), CLONE_NEWNET) == 0


class Host:
    def __init__(self, lab, name, number):
        self.lab, self.name, self.number = lab, name, number
        self.netns = f"{lab.name}-{name}"
        self.v4, self.v6 = f"10.99.0.{number}", f"fd00:99::{number}"
        self.port = f"{name}0"  # its end on the bridge
        self.processes = []
        self.cgroup = cgroup2() / self.netns

    def create(self):
        switch = self.lab.switch
        command("ip", "netns", "add", self.netns)
        self.cgroup.mkdir(exist_ok=True)
        command("ip", "link", "add", self.port, "netns", switch, "type", "veth", "peer", "name", "eth0", "netns",
                self.netns)
        command("ip", "-n", switch, "link", "set", self.port, "master", "br0", "up")
        self.ip("link", "set", "lo", "up")
        self.ip("link", "set", "eth0", "up")
        self.ip("addr", "add", f"{self.v4}/24", "dev", "eth0")
        self.ip("addr", "add", f"{self.v6}/64", "dev", "eth0", "nodad")

    def ip(self, *args, check=True):
        return command("ip", "-n", self.netns, *args, check=check)

    def inside(self, args):
        """The command line that runs args in this host. A shell enters the cgroup, then becomes the program."""
        enter = f'echo $$ >"{self.cgroup}/cgroup.procs" && exec "$@"'
        return ["nsenter", f"--net=/run/netns/{self.netns}", "sh", "-c", enter, "sh", *(str(a) for a in args)]

    def run(self, *args, check=True, **options):
        return command(*self.inside(args), check=check, **options)

    def start(self, *args, **options):
        options.setdefault("stdin", subprocess.DEVNULL)
        process = subprocess.Popen(self.inside(args), **options)
        self.processes.append(process)
        return process

    def start_words(self, words, **options):
        """start() with the words in a list, as Popen takes them."""
        return self.start(*words, **options)

    def pong(self, port, name=None, address="*"):
        """A server that answers with its name (tests/tools/pong.c)."""
        process = self.start(BUILD / "tools/pong", address, port, name or self.name, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        return process

    def reach(self, address, port, interval_us=1000, timeout_ms=1000):
        return Reach(self, address, port, interval_us, timeout_ms)

    def silence(self):
        """Nothing passes to or from it any more; carrier and addresses stay. Returns when, in ns."""
        return self.lab.port_state(self.port, BRIDGE_DISABLED)

    def unsilence(self):
        return self.lab.port_state(self.port, BRIDGE_FORWARDING)

    def remove(self):
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGKILL)
                process.wait()
        for pid in (self.cgroup / "cgroup.procs").read_text().split() if self.cgroup.exists() else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        command("ip", "netns", "del", self.netns, check=False)
        for _ in range(50):
            with contextlib.suppress(OSError):
                self.cgroup.rmdir()
            if not self.cgroup.exists():
                break
            time.sleep(0.05)


class Reach:
    """A client that starts a connection at every interval and notes how each ends (tests/tools/reach.c)."""

    def __init__(self, host, address, port, interval_us, timeout_ms):
        self.output = tempfile.TemporaryFile("w+")
        self.process = host.start(BUILD / "tools/reach", address, port, interval_us, timeout_ms, stdin=subprocess.PIPE,
                                  stdout=self.output)

    def stop(self):
        """Ends it. Returns [(start_ns, end_ns, name or "-ERROR")], in the order of their ends."""
        self.process.stdin.close()
        assert self.process.wait(10) == 0
        self.output.seek(0)
        lines = [line.split() for line in self.output]
        self.output.close()
        return [(int(start), int(end), name) for start, end, name in lines]


class Lab:
    count = 0

    def __init__(self, *names):
        Lab.count += 1
        self.name = f"fl{os.getpid()}x{Lab.count}"
        self.switch = f"{self.name}-{SWITCH}"
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="fairlead-lab-"))
        self.hosts = {name: Host(self, name, number) for number, name in enumerate(names, 1)}
        self.nodes = []
        self.netlink, self.port_index = None, {}

    def __getitem__(self, name):
        return self.hosts[name]

    def __enter__(self):
        try:
            if not os.path.ismount(BPFFS):
                command("mount", "-t", "bpf", "bpf", BPFFS)
            command("ip", "netns", "add", self.switch)
            command("ip", "-n", self.switch, "link", "add", "br0", "type", "bridge", "forward_delay", "0")
            command("ip", "-n", self.switch, "link", "set", "br0", "up")
            for host in self.hosts.values():
                host.create()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_):
        self.remove()

    def port_state(self, port, state):
        """Sets what the bridge does with a port's packets, in some 50 us. Returns the time after it, CLOCK_MONOTONIC ns."""
        if not self.netlink:
            self.netlink = in_namespace(self.switch, lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))
        index = self.port_index.get(port)
        if index is None:
            shown = command("ip", "-n", self.switch, "-j", "link", "show", port).stdout
            index = self.port_index[port] = json.loads(shown)[0]["ifindex"]
        attribute = struct.pack("=HHB3x", 5, 1, state)  # IFLA_BRPORT_STATE
        nested = struct.pack("=HH", 4 + len(attribute), IFLA_PROTINFO | 0x8000) + attribute
        body = struct.pack("=BxHiII", socket.AF_BRIDGE, 0, index, 0, 0) + nested
        self.netlink.send(struct.pack("=IHHII", 16 + len(body), RTM_SETLINK, 5, 1, 0) + body)
        error = struct.unpack_from("=i", self.netlink.recv(4096), 16)[0]
        done = time.monotonic_ns()
        assert error == 0, os.strerror(-error)
        return done

    def node(self, name, **options):
        """Starts Fairlead on a host."""
        node = Node(self[name], **options)
        self.nodes.append(node)
        return node.start()

    def remove(self):
        for node in self.nodes:
            with contextlib.suppress(Exception):
                node.remove()
        for host in self.hosts.values():
            host.remove()
        if self.netlink:
            self.netlink.close()
        command("ip", "netns", "del", self.switch, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


class Node:
    """Fairlead on a host: `config` is YAML that is added to what every node needs."""

    def __init__(self, host, config="", instance=None):
        self.host = host
        self.instance = instance or host.netns
        self.folder = host.lab.folder / host.name
        self.folder.mkdir()
        self.folder.chmod(0o755)
        self.config = config
        self.kernel = ""  # further lines of the section kernel
        self.config_path = self.folder / "fairlead.yaml"
        self.socket = self.folder / "control.sock"
        self.log_path = self.folder / "log"
        self.process = None
        self.build = BUILD  # whose programs

    def write_config(self):
        self.config_path.write_text(
            f"state: {self.folder}/state\n"
            f"control:\n  socket: {self.socket}\n"
            f"kernel:\n  instance: {self.instance}\n  cgroup: {self.host.cgroup}\n{self.kernel}"
            "listen:\n"
            "  - address: 127.0.0.1:5000\n"
            "    service: registry\n"
            + self.config)

    def start(self):
        self.write_config()
        with open(self.log_path, "ab") as log:
            self.process = self.host.start(self.build / "fairleadd", "--config", self.config_path, stdout=log, stderr=log)
        assert http1.wait_until(self.ready, 30), self.log()
        return self

    def ready(self):
        assert self.process.poll() is None, self.log()
        return self.cli("status", "--json", check=False).returncode == 0

    def cli(self, *args, check=True):
        return self.host.run(self.build / "fairlead", "--socket", self.socket, *args, check=check)

    def json(self, *args):
        """The JSON texts that a command prints, one a line."""
        return [json.loads(line) for line in self.cli(*args, "--json").stdout.splitlines()]

    def kernel_map(self, name):
        """The elements of one of the kernel half's maps, in the order of their keys, as bpftool tells their values."""
        shown = command("bpftool", "-j", "map", "dump", "pinned", self.pin(name)).stdout
        return [element["formatted"]["value"] for element in json.loads(shown)]

    def kernel_element(self, name, index):
        """One element of an array of them."""
        key = [f"0x{byte:02x}" for byte in index.to_bytes(4, sys.byteorder)]
        shown = command("bpftool", "-j", "map", "lookup", "pinned", self.pin(name), "key", *key).stdout
        return json.loads(shown)["formatted"]["value"]

    def pin(self, name):
        return next(BPFFS.glob(f"fairlead-{self.instance}/v*")) / name

    def log(self):
        return self.log_path.read_text()[-4000:]

    def pids(self):
        """The processes of the node: control and its data plane."""
        own = [self.process.pid] if self.process and self.process.poll() is None else []
        pidfile = self.folder / "state/dataplane.pid"
        if pidfile.exists() and (match := re.match(r"\d+", pidfile.read_text())) and process_alive(int(match[0])):
            own.append(int(match[0]))
        return own

    def signal(self, signum):
        for pid in self.pids():
            os.kill(pid, signum)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, self.log()

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.wait()

    def remove(self):
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGCONT)
        if self.process and self.process.poll() is None:
            self.kill()
        self.host.run(self.build / "fairleadd", "--detach", self.instance, check=False)
